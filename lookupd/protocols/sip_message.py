"""A SIP request's bytes -> what an answer to it needs: method, URI, Via, From, To, Call-ID, CSeq, sizes.

What the URI asks for is `sip_uri`'s business, what is answered `sip`'s. Everything else in a request is skipped
unread, its body too. One pass over at most SIP_LINES_MAX lines.

Source: RFC 3261 sections 7, 18.2, 18.3 and 20; RFC 3581 section 3.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from lookupd.errors import ProtocolError
from lookupd.limits import SIP_LINES_MAX, SIP_MESSAGE_BYTES_MAX, SIP_VIAS_MAX

BLANKS: Final = b" \t"
EMPTY_LINE: Final = re.compile(rb"\n\r?\n")
"""The end of a head, from its last line's end on. A bare LF is taken for a line's end."""

SIP_PORT: Final = 5060

_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f]")
_START_CONTROL = re.compile(rb"[\x00-\x1f]")
_METHOD = re.compile(rb"[A-Za-z0-9.!%*_+`'~-]+")
# Each class excludes what may follow it, so nothing is ever tried twice.
_VIA = re.compile(
    rb"(?i:SIP)[ \t]*/[ \t]*2\.0[ \t]*/[ \t]*[A-Za-z0-9.!%*_+`'~-]+[ \t]+"
    rb"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)[ \t]*(?::[ \t]*(?P<port>[0-9]+)[ \t]*)?"
)
_FIELDS: Final = {
    b"via": b"via", b"v": b"via",
    b"from": b"from", b"f": b"from",
    b"to": b"to", b"t": b"to",
    b"call-id": b"call-id", b"i": b"call-id",
    b"cseq": b"cseq",
    b"max-forwards": b"max-forwards",
    b"content-length": b"content-length", b"l": b"content-length",
}  # fmt: skip
"""Of those that are read: the name, full or compact, in small letters -> the full one."""

_CSEQ_END = 1 << 31
_MAX_FORWARDS_END = 256
_LENGTH_DIGITS_MAX = 10
_QUOTE, _BACKSLASH = 0x22, 0x5C


class Via(msgspec.Struct, frozen=True):
    """The top Via value: whom the answer goes to.

    base: protocol and sent-by, as written. parameters: as written, without the semicolons. rest: of its line, the
    comma and further values. host: of sent-by, in small letters, without brackets. port: of sent-by, 0 = none,
    -1 = one that cannot be. branch: b"" = none. has_rport: whether, with a value or without.
    """

    base: bytes
    parameters: list[bytes]
    rest: bytes
    host: bytes
    port: int
    branch: bytes
    has_rport: bool

    @property
    def reply_port(self) -> int:
        """Where over UDP the answer goes (RFC 3261 section 18.2.2, RFC 3581 section 4); 0 = where it came from."""
        return 0 if self.has_rport or self.port < 0 else self.port or SIP_PORT


class SipRequest(msgspec.Struct, frozen=True):
    """One request, sound or not.

    fault: the status that says what is wrong with it, 0 = nothing; then no field but via is sure to be there, and
    what is absent is b"". vias: further Via lines' values, in order. Values are trimmed and unfolded.
    from_tag, to_tag: b"" = none; None = the field cannot be read, or is not there.
    """

    method: bytes
    uri: bytes
    fault: int
    via: Via
    vias: list[bytes]
    from_field: bytes
    to_field: bytes
    call_id: bytes
    cseq: bytes
    from_tag: bytes | None
    to_tag: bytes | None
    max_forwards: int | None


def is_blank(message: bytes) -> bool:
    """Whether a datagram holds nothing: what keeps the way through a NAT open."""
    return not message.strip(b"\r\n\0")


def read_request(message: bytes, *, stream: bool) -> SipRequest:
    """Read one request.

    message: a datagram, or from a stream (stream=True) what the framing cut off it.
    Raises ProtocolError: `not_a_query` for a response, `malformed` without a Via that an answer could go by.
    """
    if not stream:
        message = message.lstrip(b"\r\n")
    if message[:4].upper() == b"SIP/":
        raise ProtocolError("not_a_query")
    end = EMPTY_LINE.search(message)
    lines, fits = split_head(message[: end.start()] if end else message[: max(message.rfind(b"\n"), 0)])
    fields, vias, sound = _read_fields(lines)
    via = _read_via(vias[0]) if vias else None
    if via is None:
        raise ProtocolError("malformed")
    parts = lines[0].split(b" ")
    method = parts[0]
    sound = sound and fits and len(parts) == 3 and parts[1] != b"" and _START_CONTROL.search(lines[0]) is None
    sound = sound and _METHOD.fullmatch(method) is not None and parts[-1][:4].upper() == b"SIP/"
    from_tag, to_tag = _read_tag(fields.get(b"from", b"")), _read_tag(fields.get(b"to", b""))
    max_forwards = _number(fields.get(b"max-forwards"), _MAX_FORWARDS_END)
    sound = (
        sound
        and from_tag is not None
        and to_tag is not None
        and b"call-id" in fields
        and _is_cseq(fields.get(b"cseq", b""), method)
        and max_forwards != -1
        and via.port >= 0
        and sum(value.count(b",") + 1 for value in vias) <= SIP_VIAS_MAX
    )
    size_fault = _size_fault(fields, message, end.end() if end else None, stream=stream)
    fault = size_fault or (0 if sound else 400)
    if len(parts) == 3 and parts[2][:4].upper() == b"SIP/" and parts[2][4:] != b"2.0":
        fault = 505
    return SipRequest(
        method,
        parts[1] if len(parts) == 3 else b"",
        fault,
        via,
        vias[1:],
        fields.get(b"from", b""),
        fields.get(b"to", b""),
        fields.get(b"call-id", b""),
        fields.get(b"cseq", b""),
        from_tag,
        to_tag,
        max_forwards,
    )


def split_head(head: bytes) -> tuple[list[bytes], bool]:
    """The lines of a head, the start line first, folded ones joined by a blank; and whether all of them fit.

    Source: RFC 3261 section 7.3.1. SIP_LINES_MAX bounds the header lines as they were sent.
    """
    lines: list[bytes] = []
    sent = head.split(b"\n", SIP_LINES_MAX + 1)
    for line in sent[: SIP_LINES_MAX + 1]:
        text = line.removesuffix(b"\r")
        if text[:1] in (b" ", b"\t") and lines:
            lines[-1] = lines[-1].rstrip(BLANKS) + b" " + text.strip(BLANKS)
        else:
            lines.append(text)
    return lines, len(sent) <= SIP_LINES_MAX + 1


def body_bytes(head: bytes) -> int | None:
    """What Content-Length says, None if it cannot be known where the body ends. head: without its empty line."""
    lines, fits = split_head(head)
    found = [value for line in lines[1:] for field, value in [_field(line)] if field == b"content-length"]
    length = _number(found[0], 10**_LENGTH_DIGITS_MAX) if fits and len(found) == 1 else None
    return None if length == -1 else length


def split_unquoted(text: bytes, separator: bytes) -> list[bytes]:
    """Split at a byte, but not inside quoted strings; one that does not end holds all the rest."""
    if b'"' not in text:
        return text.split(separator)
    parts, start, at, quoted = [], 0, 0, False
    while at < len(text):
        byte = text[at]
        if byte == _BACKSLASH and quoted:
            at += 1  # whatever follows is no quote and no separator
        elif byte == _QUOTE:
            quoted = not quoted
        elif byte == separator[0] and not quoted:
            parts.append(text[start:at])
            start = at + 1
        at += 1
    parts.append(text[start:])
    return parts


def parameter_name(parameter: bytes) -> bytes:
    """Of `name=value` or `name`: the name in small letters."""
    return parameter.partition(b"=")[0].strip(BLANKS).lower()


def _field(line: bytes) -> tuple[bytes | None, bytes]:
    """A header line's full name, None if it is not one of _FIELDS, and its value."""
    name, colon, value = line.partition(b":")
    return (_FIELDS.get(name.rstrip(BLANKS).lower()) if colon else None), value.strip(BLANKS)


def _read_fields(lines: list[bytes]) -> tuple[dict[bytes, bytes], list[bytes], bool]:
    """Fields that stand once, the values of Via lines, and whether all of them may be repeated in an answer."""
    fields: dict[bytes, bytes] = {}
    vias: list[bytes] = []
    sound = True
    for line in lines[1:]:
        field, value = _field(line)
        if field is None:
            continue
        if not value or _CONTROL.search(value) is not None:
            if field == b"via" and not vias:
                raise ProtocolError("malformed")
            sound = False
        elif field == b"via":
            vias.append(value)
        elif field in fields:
            sound = False
        else:
            fields[field] = value
    return fields, vias, sound


def _read_via(line: bytes) -> Via | None:
    """The first value of a Via line; None if no answer can go by it."""
    top = split_unquoted(line, b",")[0]
    base, *parameters = split_unquoted(top.rstrip(BLANKS), b";")
    found = _VIA.fullmatch(base.rstrip(BLANKS))
    if found is None:
        return None
    names = [parameter_name(parameter) for parameter in parameters]
    branch = parameters[names.index(b"branch")].partition(b"=")[2].strip(BLANKS) if b"branch" in names else b""
    port = 0
    if found["port"] is not None:
        port = _number(found["port"], 1 << 16) or -1
    host = found["host"].strip(b"[]").lower()
    return Via(base, parameters, line[len(top) :], host, port, branch, b"rport" in names)


def _read_tag(value: bytes) -> bytes | None:
    """The tag of a From or To; b"" = none, None = not a value of such a field.

    A display name in quotes, an address in angle brackets or without, then parameters (RFC 3261 section 20.10).
    """
    if value[:1] == b'"':
        parts = split_unquoted(value, b"<")
        if len(parts) < 2:
            return None
        value = value[len(parts[0]) :]
    start = value.find(b"<")
    if start >= 0:
        end = value.find(b">", start)
        if end < 0:
            return None
        value = value[end + 1 :]
    first, *parameters = split_unquoted(value, b";")
    if (first.strip(BLANKS) == b"") != (start >= 0):
        return None
    for parameter in parameters:
        if parameter_name(parameter) == b"tag":
            return parameter.partition(b"=")[2].strip(BLANKS) or None
    return b""


def _is_cseq(value: bytes, method: bytes) -> bool:
    """Whether it is a number and the method of the start line (RFC 3261 section 8.1.1.5)."""
    number, _, named = value.replace(b"\t", b" ").partition(b" ")
    return _number(number, _CSEQ_END) not in (None, -1) and named.strip(BLANKS) == method


def _number(text: bytes | None, end: int) -> int | None:
    """Digits as a number below `end`; -1 if they are no such number, None for None."""
    if text is None:
        return None
    number = int(text) if text.isdigit() and len(text) <= _LENGTH_DIGITS_MAX else -1
    return number if number < end else -1


def _size_fault(fields: dict[bytes, bytes], message: bytes, body_at: int | None, *, stream: bool) -> int:
    """0, 400 or 513. body_at: None if the head has no end (RFC 3261 section 18.3)."""
    if body_at is None:
        return 513 if stream and len(message) > SIP_MESSAGE_BYTES_MAX else 400
    length = _number(fields.get(b"content-length"), 10**_LENGTH_DIGITS_MAX)
    if length is None:
        return 400 if stream else 0
    if length < 0:
        return 400
    if stream and body_at + length > SIP_MESSAGE_BYTES_MAX:
        return 513
    return 400 if body_at + length > len(message) else 0
