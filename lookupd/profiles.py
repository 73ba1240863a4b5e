"""What clients differ on when they ask by ENUM or SIP: the settings of `[enum]` and `[sip]`, and their checks.

A client's own `[client.enum]` or `[client.sip]` replaces single keys of these; `config` joins them.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Literal

import msgspec

from lookupd.errors import ConfigError
from lookupd.limits import (
    DNS_NAME_BYTES_MAX,
    DNS_TTL_MAX,
    E164_DIGITS_MAX,
    ENUM_APEXES_MAX,
    NAMESERVERS_MAX,
    NAPTR_TEXT_BYTES_MAX,
    NETWORK_CODE_CHARS_MAX,
    ROUTING_NUMBER_CHARS_MAX,
    URI_DOMAIN_CHARS_MAX,
)

_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_CONTEXT = re.compile(r"\+[0-9]{1,15}|[A-Za-z0-9](?:[A-Za-z0-9.-]{0,61}[A-Za-z0-9])?")
_HOST_PORT = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(?::(?P<port>[0-9]{1,5}))?")
_ROUTING_NUMBER = re.compile(r"[0-9A-F]{1,15}")

ENUM_SERVICES = ("E2U+pstn:tel", "E2U+pstn:sip")

Unported = Literal["npdi", "rn", "unknown"]
"""What a number gets that is in a served range and was not ported: the number with `npdi` alone, the same with the
range holder's `rn`, or the answer of a number that nobody knows."""


class NumberForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How RFC 4694's parameters are written; the base of both profiles.

    rn_context, cic_context: where such a number is valid, a domain name or `+` and digits; `rn` without a context
    is sent in its global form, with `+`; without cic_context no `cic` is sent. unmapped_routing_number: of a ported
    number whose network has none; empty = such a number cannot be answered.
    """

    unported: Unported = "npdi"
    rn_context: str = ""
    cic_context: str = ""
    unmapped_routing_number: str = ""


class EnumSettings(NumberForm, frozen=True, forbid_unknown_fields=True):
    """`[enum]`. apex: one or several. service: a record for each, in the order of preference. ttl, negative_ttl:
    seconds. domain: behind the `@` of pstn:sip. nameservers: names, each with its addresses, empty where the zone
    need not know them; none = `ns` in the apex. tell: whether serial and age go out, and how.
    """

    apex: str | tuple[str, ...] = "e164.arpa"
    service: str | tuple[str, ...] = "E2U+pstn:tel"
    ttl: int = 60
    negative_ttl: int = 60
    domain: str = ""
    nameservers: dict[str, tuple[str, ...]] = {}
    tell: Literal["no", "txt", "edns"] = "no"

    @property
    def apexes(self) -> tuple[str, ...]:
        """As a tuple, without the last dot."""
        return tuple(name.rstrip(".") for name in ((self.apex,) if isinstance(self.apex, str) else self.apex))

    @property
    def services(self) -> tuple[str, ...]:
        """As a tuple."""
        return (self.service,) if isinstance(self.service, str) else self.service


class SipSettings(NumberForm, frozen=True, forbid_unknown_fields=True):
    """`[sip]`. status: of the redirect. form: `rn` as a parameter of the user part, `replace` the user part by it,
    or `prefix` it to the number. npdi: how the parameter is written. domain: host of the Contact, perhaps with a
    port; empty = the request's own. tell: whether a header says serial and age.
    """

    status: Literal[301, 302] = 302
    form: Literal["rn", "replace", "prefix"] = "rn"
    npdi: Literal["npdi", "npdi=yes"] = "npdi"
    domain: str = ""
    tell: bool = False


def check_enum(where: str, settings: EnumSettings) -> None:
    """What types cannot say. where: the section. Raises ConfigError."""
    _check_form(where, settings)
    if not 1 <= len(settings.apexes) <= ENUM_APEXES_MAX:
        raise ConfigError(f"{where}.apex: 1 to {ENUM_APEXES_MAX} names, such as e164.arpa")
    if len({name.lower() for name in settings.apexes}) < len(settings.apexes):
        raise ConfigError(f"{where}.apex: a name stands twice")
    for name in settings.apexes:
        check_name(f"{where}.apex", name, DNS_NAME_BYTES_MAX - 2 * E164_DIGITS_MAX)
    _check_nameservers(f"{where}.nameservers", settings)
    services = settings.services
    if not services or len(set(services)) < len(services) or not set(services) <= set(ENUM_SERVICES):
        raise ConfigError(f"{where}.service: one or both of {' and '.join(ENUM_SERVICES)}")
    if "E2U+pstn:sip" in services and not settings.domain:
        raise ConfigError(f"{where}.domain: E2U+pstn:sip needs the host behind the @, such as gw.example")
    _check_domain(where, settings.domain)
    excess = _regexp_bytes_max(settings) - NAPTR_TEXT_BYTES_MAX
    if excess > 0:
        raise ConfigError(
            f"{where}: rn_context, cic_context and domain together are {excess} bytes too long for a NAPTR record"
        )
    for key, value in (("ttl", settings.ttl), ("negative_ttl", settings.negative_ttl)):
        if not 0 <= value <= DNS_TTL_MAX:
            raise ConfigError(f"{where}.{key}: seconds, 0 to {DNS_TTL_MAX} (a week)")


def _check_nameservers(where: str, settings: EnumSettings) -> None:
    for name, addresses in settings.nameservers.items():
        check_name(where, name.rstrip("."), DNS_NAME_BYTES_MAX)
        for address in addresses:
            try:
                ipaddress.ip_address(address)
            except ValueError as error:
                raise ConfigError(f"{where}.{name}: {error}") from None
        if len(addresses) > NAMESERVERS_MAX:
            raise ConfigError(f"{where}.{name}: at most {NAMESERVERS_MAX} addresses")
        if _is_in_digits(name, settings.apexes):
            raise ConfigError(f"{where}.{name}: lies where the numbers' names are")
    if len(settings.nameservers) > NAMESERVERS_MAX:
        raise ConfigError(f"{where}: at most {NAMESERVERS_MAX}")
    if len({name.rstrip(".").lower() for name in settings.nameservers}) < len(settings.nameservers):
        raise ConfigError(f"{where}: a name stands twice")


def _is_in_digits(name: str, apexes: tuple[str, ...]) -> bool:
    """Whether a name lies under an apex and a single digit, where a number's name could be it, or above it."""
    name = name.rstrip(".").lower()
    for apex in apexes:
        head, _, rest = name.rpartition("." + apex.lower())
        if head and not rest and len(last := head.rpartition(".")[2]) == 1 and last.isdigit():
            return True
    return False


def _regexp_bytes_max(settings: EnumSettings) -> int:
    """Bytes of the longest regular expression that a record can have, whatever the route."""
    rn, cic = "0" * ROUTING_NUMBER_CHARS_MAX, "0" * NETWORK_CODE_CHARS_MAX
    rn = f";rn={rn};rn-context={settings.rn_context}" if settings.rn_context else f";rn=+{rn}"
    cic = f";cic={cic};cic-context={settings.cic_context}" if settings.cic_context else ""
    uri = f"tel:\\1{cic};npdi{rn}"
    if "E2U+pstn:sip" in settings.services:
        uri += f"@{settings.domain};user=phone"
    return len(f"!^(.*)$!{uri}!")


def check_sip(where: str, settings: SipSettings) -> None:
    """What types cannot say. where: the section. Raises ConfigError."""
    _check_form(where, settings)
    _check_domain(where, settings.domain)


def check_name(where: str, name: str, bytes_max: int) -> None:
    """name: without its last dot; bytes_max: of its wire form. Raises ConfigError."""
    labels = name.split(".")
    if not all(_LABEL.fullmatch(label) for label in labels) or len(name) + 2 > bytes_max:
        raise ConfigError(f"{where}: {name[:80]!r} is no domain name of at most {bytes_max} bytes")


def _check_form(where: str, form: NumberForm) -> None:
    for key, context in (("rn_context", form.rn_context), ("cic_context", form.cic_context)):
        if context and not _CONTEXT.fullmatch(context):
            raise ConfigError(f"{where}.{key}: {context[:80]!r}: a domain name, or + and digits (RFC 4694 section 4)")
    if form.unmapped_routing_number and not _ROUTING_NUMBER.fullmatch(form.unmapped_routing_number):
        raise ConfigError(f"{where}.unmapped_routing_number: 1 to 15 of 0-9 A-F")


def _check_domain(where: str, domain: str) -> None:
    if not domain:
        return
    found = _HOST_PORT.fullmatch(domain) if len(domain) <= URI_DOMAIN_CHARS_MAX else None
    if found is None or (found["port"] is not None and not 0 < int(found["port"]) < 65_536):
        raise ConfigError(
            f"{where}.domain: {domain[:80]!r}: a host, perhaps with a port, such as gw.example:5060; "
            f"at most {URI_DOMAIN_CHARS_MAX} characters"
        )
