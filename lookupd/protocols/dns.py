"""DNS messages as an authoritative server meets them: one question in, a reply of ready-made records out.

Knows no zone and no record of ours: see `enum_dns`. Sources: RFC 1035 section 4, RFC 6891 section 6, RFC 9619.
"""

from __future__ import annotations

import struct
from typing import Final

import msgspec

from lookupd.errors import ProtocolError
from lookupd.limits import (
    AMPLIFICATION_MAX,
    DNS_ADDITIONAL_MAX,
    DNS_ANSWER_BYTES_MAX,
    DNS_MESSAGE_BYTES_MAX,
    DNS_NAME_BYTES_MAX,
)

HEADER = struct.Struct(">6H")
_KIND_AND_CLASS = struct.Struct(">HH")
RECORD = struct.Struct(">HHIH")
"""Type, class, TTL and length of the data, behind a record's owner."""

_OPT = struct.Struct(">BHHBBHH")
_OPTION = struct.Struct(">HH")

QR: Final = 0x8000
AA: Final = 0x0400
TC: Final = 0x0200
RD: Final = 0x0100
OPCODE: Final = 0x7800
DO: Final = 0x8000

NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = range(6)
BADVERS: Final = 16

A: Final = 1
NS: Final = 2
SOA: Final = 6
TXT: Final = 16
AAAA: Final = 28
NAPTR: Final = 35
OPT: Final = 41
IXFR: Final = 251
AXFR: Final = 252
ANY: Final = 255
IN: Final = 1

POINTER: Final = 0xC000
QUESTION_AT: Final = HEADER.size
LABEL_BYTES_MAX: Final = 63
UNEXTENDED_BYTES: Final = 512
"""Of an answer over UDP to who sends no OPT (RFC 1035 section 4.2.1)."""


class Edns(msgspec.Struct, frozen=True, gc=False):
    """What a query's OPT says. bytes_max: of an answer over UDP."""

    bytes_max: int
    version: int
    wants_dnssec: bool


class Query(msgspec.Struct, frozen=True, gc=False):
    """One question, in class and type whatever it likes.

    question: as it came, letters' case too. name: its wire form with ASCII letters in lower case. size: of the message.
    """

    id: int
    flags: int
    question: bytes
    name: bytes
    kind: int
    klass: int
    edns: Edns | None
    size: int


class QueryRefused(ProtocolError):
    """A query that gets an error as its reply, in whatever zone it asks."""

    def __init__(self, reason: str, reply: bytes) -> None:
        super().__init__(reason)
        self.reply = reply


class Sections(msgspec.Struct, frozen=True, gc=False):
    """Records of a reply, as bytes and counted. option: for the OPT. extra: additional ones, which may be left out."""

    answers: bytes = b""
    answer_count: int = 0
    authority: bytes = b""
    authority_count: int = 0
    extra: bytes = b""
    extra_count: int = 0
    option: bytes = b""


EMPTY = Sections()


def decode_query(message: bytes) -> Query:
    """Read one query. message: without the length that stands before it over TCP.

    Raises ProtocolError for what gets silence (answering a reply could make a loop), QueryRefused with the reply for
    what cannot be read, is no plain query, or wants a transfer of the zone.
    """
    if len(message) < HEADER.size:
        raise ProtocolError("malformed")
    query_id, flags, questions, answers, authorities, additional = HEADER.unpack_from(message)
    if flags & QR:
        raise ProtocolError("not_a_query")
    if flags & OPCODE:
        raise QueryRefused("not_a_query", _bare(query_id, flags, NOTIMP))
    if questions != 1:
        raise _malformed(query_id, flags)
    name_end = _skip_name(message, QUESTION_AT)
    end = name_end + _KIND_AND_CLASS.size
    if not name_end or end > len(message):
        raise _malformed(query_id, flags)
    kind, klass = _KIND_AND_CLASS.unpack_from(message, name_end)
    edns = None
    transfer = kind in {AXFR, IXFR}
    if answers or authorities:
        if not transfer:  # IXFR has the SOA that its client knows (RFC 1995 section 3)
            raise _malformed(query_id, flags)
    elif additional:
        try:
            edns = _find_edns(message, end, additional)
        except ValueError:
            raise _malformed(query_id, flags) from None
    # A label's length is below every letter, so lower() changes letters only.
    question, name = message[QUESTION_AT:end], message[QUESTION_AT:name_end].lower()
    query = Query(query_id, flags, question, name, kind, klass, edns, len(message))
    if edns is not None and edns.version:
        raise QueryRefused("not_a_query", encode_reply(query, BADVERS))
    if transfer:
        raise QueryRefused("not_a_query", encode_reply(query, REFUSED))
    return query


def _skip_name(message: bytes, at: int) -> int:
    """Where the name that begins at `at` ends; 0 if it does not end, is too long, or has a pointer."""
    begin, size = at, len(message)
    while at < size:
        length = message[at]
        at += 1 + length
        if length == 0:
            return at
        if length > LABEL_BYTES_MAX or at - begin >= DNS_NAME_BYTES_MAX:  # the root needs a byte yet
            return 0
    return 0


def _find_edns(message: bytes, at: int, records: int) -> Edns | None:
    """The OPT among the additional records. Raises ValueError when they cannot be walked, or there are two of it."""
    if records > DNS_ADDITIONAL_MAX:
        raise ValueError
    edns = None
    for _ in range(records):
        owner, at = at, _skip_name(message, at)
        data = at + RECORD.size
        if not at or data > len(message):
            raise ValueError
        kind, klass, ttl, size = RECORD.unpack_from(message, at)
        at = data + size
        if at > len(message):
            raise ValueError
        if kind == OPT:
            if edns is not None or message[owner] != 0 or not _options_are_whole(message, data, at):
                raise ValueError
            edns = Edns(klass, ttl >> 16 & 0xFF, ttl & DO != 0)
    return edns


def _options_are_whole(message: bytes, at: int, end: int) -> bool:
    while at < end:
        if at + _OPTION.size > end:
            return False
        at += _OPTION.size + _OPTION.unpack_from(message, at)[1]
    return at == end


def _malformed(query_id: int, flags: int) -> QueryRefused:
    return QueryRefused("malformed", _bare(query_id, flags, FORMERR))


def _bare(query_id: int, flags: int, rcode: int) -> bytes:
    """A header alone, for what has no question that could be sent back."""
    return HEADER.pack(query_id, QR | flags & (OPCODE | RD) | rcode, 0, 0, 0, 0)


def encode_reply(
    query: Query, rcode: int, sections: Sections = EMPTY, *, bytes_max: int = DNS_MESSAGE_BYTES_MAX, flags: int = 0
) -> bytes:
    """The reply. flags: AA and TC, as far as they are to be set. bytes_max: above it additional records are left out,
    then all of them, with TC, so that the client asks again over TCP.
    """
    whole = _encode(query, rcode, sections, flags)
    if len(whole) <= bytes_max:
        return whole
    if sections.extra:
        less = _encode(query, rcode, msgspec.structs.replace(sections, extra=b"", extra_count=0), flags)
        if len(less) <= bytes_max:
            return less
    # A question and an OPT fit every bound: they are no longer than what was asked, but for our options of 24 bytes.
    return _encode(query, rcode, Sections(option=sections.option), flags | TC)


def _encode(query: Query, rcode: int, sections: Sections, flags: int) -> bytes:
    edns = query.edns
    header = HEADER.pack(
        query.id,
        QR | query.flags & RD | flags | rcode & 0xF,
        1,
        sections.answer_count,
        sections.authority_count,
        sections.extra_count + (edns is not None),
    )
    opt = b""
    if edns is not None:
        option = sections.option
        dnssec = DO if edns.wants_dnssec else 0
        opt = _OPT.pack(0, OPT, DNS_ANSWER_BYTES_MAX, rcode >> 4, 0, dnssec, len(option)) + option
    return b"".join((header, query.question, sections.answers, sections.authority, sections.extra, opt))


def datagram_bytes_max(query: Query) -> int:
    """What a reply over UDP may have: what the client and the path take, and no more than some times its question."""
    edns = query.edns
    taken = UNEXTENDED_BYTES if edns is None else min(max(UNEXTENDED_BYTES, edns.bytes_max), DNS_ANSWER_BYTES_MAX)
    return min(taken, AMPLIFICATION_MAX * query.size)


def encode_name(name: str) -> bytes:
    """The wire form of a name of letters, digits, hyphens and underscores; a last dot may be there or not."""
    labels = name.rstrip(".").encode("ascii").split(b".")
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def encode_record(owner: bytes, kind: int, ttl: int, data: bytes) -> bytes:
    """One record of class IN."""
    return owner + RECORD.pack(kind, IN, ttl, len(data)) + data
