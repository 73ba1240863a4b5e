"""ENUM without sockets: queries made by hand, a responder, and its replies as dnspython reads them."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

import dns.flags
import dns.message
import dns.rcode

from lookupd.access import SECOND_NS, Client
from lookupd.engine import Engine
from lookupd.fastpath.enum import EnumResponder
from lookupd.limits import DNS_ANSWER_BYTES_MAX
from lookupd.model import Outcome, UnixSeconds
from lookupd.observe.counters import DROP, RATE, QueryCounters
from lookupd.profiles import EnumSettings, check_enum
from lookupd.settings import ClientSettings
from tests.conftest import PLAN, Workbench

CONFIRMED_AT = 1_790_000_000
AGE_SECONDS = 42
PEER = ("127.0.0.1", 5000)
OPT = bytes.fromhex("00 00 29 04 d0 00 00 00 00 00 00")
OPT_DO = bytes.fromhex("00 00 29 04 d0 00 00 80 00 00 00")
APEX = bytes.fromhex("02 6e 70 07 65 78 61 6d 70 6c 65 00")


def labels(text: str) -> bytes:
    """The wire form of a name, its root left out."""
    return b"".join(bytes([len(label)]) + label.encode() for label in text.split(".") if label)


def name_of(number: str, apex: str = "np.example") -> str:
    return ".".join([*reversed(number), apex])


def query(
    name: str | bytes,
    kind: int = 35,
    klass: int = 1,
    *,
    query_id: int = 7,
    flags: int = 0x0100,
    counts: tuple[int, int, int, int] | None = None,
    rest: bytes = b"",
) -> bytes:
    """A message; one additional record is announced if rest holds something, unless counts say otherwise."""
    wire = name if isinstance(name, bytes) else labels(name) + b"\0"
    found = counts if counts is not None else (1, 0, 0, int(bool(rest)))
    return struct.pack(">6H", query_id, flags, *found) + wire + struct.pack(">HH", kind, klass) + rest


def number_query(number: str, kind: int = 35, rest: bytes = b"") -> bytes:
    return query(name_of(number), kind, rest=rest)


class Seen(NamedTuple):
    """A reply as dnspython reads it; records as text without the owner's name where that is the question's."""

    rcode: str
    flags: str
    answers: list[str]
    authority: list[str]
    additional: list[str]
    options: list[tuple[int, bytes]] | None


def read(reply: bytes | None) -> Seen:
    """dnspython's reading; that the question is there and the OPT the last record is checked."""
    assert reply is not None
    message = dns.message.from_wire(reply)
    asked = message.question[0].name.to_text() if message.question else None
    sections = [
        [
            f"{'@' if rrset.name.to_text() == asked else rrset.name} {rrset.ttl} {rrset.rdtype.name} {rdata}"
            for rrset in section
            for rdata in rrset
        ]
        for section in (message.answer, message.authority, message.additional)
    ]
    options = None
    if message.edns >= 0:
        assert message.payload == DNS_ANSWER_BYTES_MAX
        options = [(option.otype, option.to_wire()) for option in message.options]
    return Seen(dns.rcode.to_text(message.rcode()), dns.flags.to_text(message.flags), *sections, options)


@contextlib.contextmanager
def opened(workbench: Workbench, seconds: int = AGE_SECONDS, stale_after: float = 0) -> Iterator[Engine]:
    """An engine on a workbench's store, so many seconds after its data was confirmed."""
    engine = Engine(PLAN, stale_after)
    with workbench.reader() as reader:
        engine.reader = reader
        engine.begin(UnixSeconds(CONFIRMED_AT + seconds))
        yield engine


class Bench:
    """A responder, and whom it answers; the books are looked at after each message."""

    def __init__(self, engine: Engine, *, udp: bool = True, rate: int = 0, per_prefix: int = 0, **changed: Any) -> None:
        self.engine = engine
        self.counters = QueryCounters("enum", "udp" if udp else "tcp")
        self.responder = EnumResponder(engine, self.counters, udp=udp)
        self.settings = EnumSettings(**{"apex": "np.example", **changed})
        check_enum("enum", self.settings)
        self.client = Client(
            ClientSettings("any", (), queries_per_second=rate, queries_per_prefix=per_prefix, enum=self.settings)
        )
        self.client.take(0, SECOND_NS)

    def ask(self, message: bytes, peer: tuple[Any, ...] = PEER) -> bytes | None:
        received = self.counters.received
        reply = self.responder.respond(message, self.client, SECOND_NS, peer)
        assert self.counters.received == received + 1
        assert self.counters.balance() == 0
        assert sum(self.client.usage["enum"]) == self.counters.received
        return reply

    def look(self, name: str, kind: int = 35, rest: bytes = OPT) -> Seen:
        return read(self.ask(query(name, kind, rest=rest)))

    def number(self, number: str, kind: int = 35) -> Seen:
        return self.look(name_of(number), kind)

    def told(self) -> dict[str, int]:
        """What was counted, without the zeros."""
        counters = self.counters
        found = {outcome.label: counters.answered[outcome] for outcome in Outcome}
        found |= {reason: counters.dropped[at] for reason, at in DROP.items() if reason != "unavailable"}
        found |= {"other": counters.other, "rate": counters.refused[RATE]}
        return {what: count for what, count in found.items() if count}


def soa(apex: str = "np.example.", ttl: int = 60, minimum: int = 60, serial: int = 3, owner: str | None = None) -> str:
    return f"{owner or apex} {ttl} SOA ns.{apex} hostmaster.{apex} {serial} 3600 600 604800 {minimum}"


def naptr(uri: str, service: str = "tel", preference: int = 10, ttl: int = 60) -> str:
    return f'@ {ttl} NAPTR 100 {preference} "u" "E2U+pstn:{service}" "!^(.*)$!{service}:\\\\1{uri}!" .'


NODATA = Seen("NOERROR", "QR AA RD", [], [soa()], [], [])
NOTHING = NODATA._replace(rcode="NXDOMAIN")
REFUSED = Seen("REFUSED", "QR RD", [], [], [], [])


UNAVAILABLE = Seen("SERVFAIL", "QR RD", [], [], [], [])


def found(*answers: str) -> Seen:
    return NODATA._replace(answers=list(answers), authority=[])


def opt(size: int) -> bytes:
    return OPT[:3] + struct.pack(">H", size) + OPT[5:]


TWO = {"service": ("E2U+pstn:tel", "E2U+pstn:sip"), "domain": "d" * 100, "rn_context": "r" * 60}
"""About 350 bytes of records."""


def padded(size: int, message_bytes: int, number: str = "886912345678") -> bytes:
    """A query of so many bytes, with room for so many of an answer."""
    short = number_query(number, rest=opt(size))
    padding = bytes(message_bytes - len(short) - 4)
    rest = opt(size)[:-2] + struct.pack(">HHH", len(padding) + 4, 12, len(padding)) + padding
    return number_query(number, rest=rest)
