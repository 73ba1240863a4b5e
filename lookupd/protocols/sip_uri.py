"""The number that a Request-URI asks for, and the URI of the Contact that answers it.

What the number is worth is the engine's business; the rest of a message is `sip_message`'s and `sip`'s.

Source: RFC 3261 section 19.1, RFC 3966 sections 3 and 5.1, RFC 4694 sections 3 to 5.
"""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

import msgspec

from lookupd.errors import ProtocolError
from lookupd.limits import NUMBER_CHARS_MAX
from lookupd.profiles import SipSettings
from lookupd.protocols.tel_parameters import parameters

_SCHEMES = frozenset({b"sip", b"sips", b"tel"})
_HOST_PORT = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?")
_CONTEXT = re.compile(rb"[A-Za-z0-9.+()%-]{1,64}")
"""As it may stand in a Contact again: a domain name, or digits with separators and their escapes."""

_SEPARATORS = b"-.() "
"""RFC 3966 section 3, and the blank, which a URI holds as %20."""

_ESCAPED_MAX = 3 * NUMBER_CHARS_MAX


class Target(msgspec.Struct, frozen=True):
    """What a Request-URI asks for.

    scheme: in small letters. number, host: as written; host with its port, b"" in a tel URI. context: the
    phone-context as written, b"" = none. asked: the number without separators, as `Plan.digits` takes it; "" = not a
    number. digits: of the number alone. context_digits: of the context that completes them, "" = of none. dipped: the
    number has `npdi` or `rn` already (RFC 4694 section 5).
    """

    scheme: bytes
    number: bytes
    context: bytes
    host: bytes
    asked: str
    digits: str
    context_digits: str
    dipped: bool


def read_target(uri: bytes) -> Target:
    """Read a Request-URI. Raises ProtocolError: `not_a_query` for another scheme, `malformed` for a host that is none.

    Whether the host is ours is not asked: proxies keep the one that was dialled.
    """
    scheme, colon, rest = uri.partition(b":")
    scheme = scheme.lower()
    if not colon or scheme not in _SCHEMES:
        raise ProtocolError("not_a_query")
    if scheme == b"tel":
        user, host = rest, b""
    else:
        user, host = _split_sip(rest)
    number, *found = user.split(b";")
    names: dict[bytes, bytes] = {}
    for parameter in found:
        name, _, value = parameter.partition(b"=")
        names.setdefault(name.lower(), value)
    context = names.get(b"phone-context", b"")
    if _CONTEXT.fullmatch(context) is None:
        context = b""
    plus, digits = _read_number(number)
    context_digits = _completing(context) if digits and not plus else ""
    asked = f"+{context_digits}{digits}" if digits and (plus or context_digits) else digits
    return Target(scheme, number, context, host, asked, digits, context_digits, b"npdi" in names or b"rn" in names)


def contact(settings: SipSettings, target: Target, rn: str | None, cic: str | None) -> bytes:
    """The Contact's value, in angle brackets. target: of a number. rn: None = no route beside the number's own.

    A tel URI is answered by one unless the profile has a domain.
    """
    number = target.number + (b";phone-context=" + target.context if target.context else b"")
    if settings.form == "rn" or rn is None:
        user = number + parameters(settings, rn, cic, settings.npdi).encode("ascii")
    elif settings.form == "replace":
        user = f"{'' if settings.rn_context else '+'}{rn};{settings.npdi}".encode("ascii")
    else:
        user = f"{rn}{target.digits};{settings.npdi}".encode("ascii")
    host = settings.domain.encode("ascii") or target.host
    if not host:
        return b"<tel:%b>" % user
    return b"<%b:%b@%b;user=phone>" % (b"sip" if target.scheme == b"tel" else target.scheme, user, host)


def _split_sip(rest: bytes) -> tuple[bytes, bytes]:
    """User part without a password, and host with its port. Raises ProtocolError."""
    user, at, host = rest.partition(b"@")
    if not at:
        user, host = b"", rest
    end = min((found for found in (host.find(b";"), host.find(b"?")) if found >= 0), default=len(host))
    host = host[:end]
    if _HOST_PORT.fullmatch(host) is None:
        raise ProtocolError("malformed")
    return user.partition(b":")[0], host


def _read_number(number: bytes) -> tuple[bool, str]:
    """Whether it is in the global form, and its digits; "" if it holds anything else than digits and separators."""
    if len(number) > _ESCAPED_MAX:
        return False, ""
    text = unquote_to_bytes(number).translate(None, _SEPARATORS)
    plus = text[:1] == b"+"
    digits = text[1:] if plus else text
    return plus, digits.decode("ascii") if digits.isdigit() else ""


def _completing(context: bytes) -> str:
    """The digits that stand before a local number to make a global one of it (RFC 3966 section 5.1.5); "" = none.

    Of a context that is a domain name nothing is known: the plan reads the number's national form.
    """
    is_global, digits = _read_number(context)
    return digits if is_global else ""
