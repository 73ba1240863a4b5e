"""The portability datagram protocol of SIP proxies (Kamailio's `pdb` module): version 1, and the older form.

A version 1 message is version, type, code, length (of all), id (u16), then digits and a zero byte; an OK
answer ends with the carrier id (i16). The older form is digits, a zero byte and, in answers, the id; a
digit cannot be a version, so the two never collide. All numbers are big-endian.

Source: Kamailio's utils/pdbt/docs/network_protocol.txt, and what its client was seen to do with each
answer (docs/protocols/pdb.md).
"""

from __future__ import annotations

import struct
from typing import Final

import msgspec

from lookupd.errors import ProtocolError
from lookupd.limits import PDB_DIGITS_MAX, PDB_MESSAGE_BYTES_MAX

VERSION: Final = 1
REQUEST: Final = 0
REPLY: Final = 1
OK: Final = 1
NOT_NUMBER: Final = 2
NOT_FOUND: Final = 3

HEADER = struct.Struct(">BBBBH")
_CARRIER = struct.Struct(">h")
_TAIL = struct.Struct(">xh")
"""The number's zero byte, and the carrier id."""

_DIGIT_ZERO, _DIGIT_NINE = 0x30, 0x39


class PdbQuery(msgspec.Struct, frozen=True, gc=False):
    """One request. id: echoed, never interpreted; None in the older form.

    number: what was asked, to be echoed as it is; None if it holds something else than digits.
    odd: the length byte disagreed with the datagram.
    """

    id: int | None
    number: str | None
    odd: bool


class PdbAnswer(msgspec.Struct, frozen=True):
    """One reply, as a client reads it. carrier_id is None unless code is OK."""

    id: int
    code: int
    number: str
    carrier_id: int | None


def decode_query(datagram: bytes, *, legacy: bool = True) -> PdbQuery:
    """Read one request of either form.

    datagram: a UDP payload of any length. Bytes after the number's zero byte are ignored, and so is the
    length byte: the datagram up to the zero byte is what counts.
    Raises ProtocolError: `not_a_query` for a reply (answering one could make a loop) or another form,
    `malformed` if it is cut short or the zero byte is missing, `too_long` if its number has no echo.
    """
    if not datagram:
        raise ProtocolError("malformed")
    if datagram[0] != VERSION:
        if legacy and _DIGIT_ZERO <= datagram[0] <= _DIGIT_NINE:
            return _decode_legacy(datagram)
        raise ProtocolError("not_a_query")
    if len(datagram) <= HEADER.size:
        raise ProtocolError("malformed")
    _, kind, _, length, query_id = HEADER.unpack_from(datagram)
    if kind != REQUEST:
        raise ProtocolError("not_a_query")
    end = datagram.find(0, HEADER.size)
    if end < 0:
        raise ProtocolError("malformed")
    return PdbQuery(query_id, _digits(datagram[HEADER.size : end]), length != len(datagram))


def _digits(payload: bytes) -> str | None:
    """The number, None if it is none; an empty one, or one over the bound, is a number that nobody has."""
    if len(payload) > PDB_DIGITS_MAX:
        return ""
    return payload.decode("ascii") if payload.isdigit() or not payload else None


def _decode_legacy(datagram: bytes) -> PdbQuery:
    """The digits up to the first other byte."""
    head = datagram[:PDB_MESSAGE_BYTES_MAX]
    digits = head[: len(head) - len(head.lstrip(b"0123456789"))]
    if len(digits) > PDB_MESSAGE_BYTES_MAX - 3:
        raise ProtocolError("too_long")
    return PdbQuery(None, digits.decode("ascii"), False)


def encode_answer(query: PdbQuery, carrier_id: int | None) -> bytes:
    """The reply to a request: OK with the carrier id, NOT_FOUND for None, NOT_NUMBER if it was no number.

    carrier_id: 1 to 32767. Length byte = bytes sent, no padding: clients have a buffer to overrun.
    """
    if query.id is None:
        return (query.number or "").encode("ascii") + _TAIL.pack(carrier_id or 0)
    if query.number is None:
        return HEADER.pack(VERSION, REPLY, NOT_NUMBER, HEADER.size, query.id)
    if carrier_id is None:
        return HEADER.pack(VERSION, REPLY, NOT_FOUND, HEADER.size, query.id)
    number = query.number.encode("ascii")
    length = HEADER.size + len(number) + _TAIL.size
    return HEADER.pack(VERSION, REPLY, OK, length, query.id) + number + _TAIL.pack(carrier_id)


def encode_query(number: str, query_id: int) -> bytes:
    """A version 1 request. number: at most 246 digits."""
    payload = number.encode("ascii") + b"\0"
    return HEADER.pack(VERSION, REQUEST, 0, HEADER.size + len(payload), query_id) + payload


def decode_answer(datagram: bytes) -> PdbAnswer:
    """Read one version 1 reply. Raises ProtocolError `malformed`."""
    if len(datagram) < HEADER.size:
        raise ProtocolError("malformed")
    version, kind, code, length, query_id = HEADER.unpack_from(datagram)
    if version != VERSION or kind != REPLY or length != len(datagram):
        raise ProtocolError("malformed")
    if code != OK:
        return PdbAnswer(query_id, code, "", None)
    number, zero, rest = datagram[HEADER.size :].partition(b"\0")
    if not zero or len(rest) != _CARRIER.size or not number.isdigit():
        raise ProtocolError("malformed")
    return PdbAnswer(query_id, code, number.decode("ascii"), _CARRIER.unpack(rest)[0])
