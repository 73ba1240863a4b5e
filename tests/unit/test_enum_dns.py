"""ENUM against the protocol sheet's own bytes, row by row, and against dnspython, which reads every reply here."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

import dns.edns
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdatatype
import pytest

from lookupd.access import SECOND_NS, Client
from lookupd.config import ClientSettings
from lookupd.engine import Engine
from lookupd.fastpath.enum import EnumResponder
from lookupd.limits import AMPLIFICATION_MAX, DNS_ADDITIONAL_MAX, DNS_ANSWER_BYTES_MAX, NAPTR_TEXT_BYTES_MAX
from lookupd.model import Outcome, UnixSeconds
from lookupd.observe.counters import DROP, OVER_RATE, RATE, UNSENT, QueryCounters
from lookupd.profiles import EnumSettings, check_enum
from lookupd.protocols import enum_dns
from lookupd.store.schema import BLOCK_KEY
from tests.conftest import PLAN, Workbench
from tests.unit.test_damage import damage, flipped

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


@pytest.fixture
def engine(workbench: Workbench) -> Iterator[Engine]:
    """The sample data, serial 3, 42 seconds old."""
    workbench.load_tables()
    workbench.snapshot(now=CONFIRMED_AT)
    engine = Engine(PLAN)
    with workbench.reader() as reader:
        engine.reader = reader
        engine.begin(UnixSeconds(CONFIRMED_AT + AGE_SECONDS))
        yield engine


SHEET_SNAPSHOT = "tn,network_code,routing_number,donor,ported_at\n886912345678,1402,88693500,,\n"


@pytest.fixture
def sheet_engine(workbench: Workbench) -> Iterator[Engine]:
    """The sheet's data: one number, and a serial made of a date."""
    workbench.load_tables(ranges="prefix,network_code\n")
    workbench.snapshot(SHEET_SNAPSHOT, now=CONFIRMED_AT)
    engine = Engine(PLAN)
    with workbench.reader() as reader:
        engine.reader = reader
        engine.begin(UnixSeconds(CONFIRMED_AT))
        engine.serial = 2_026_112_201
        yield engine


def soa(apex: str = "np.example.", ttl: int = 60, minimum: int = 60, serial: int = 3, owner: str | None = None) -> str:
    return f"{owner or apex} {ttl} SOA ns.{apex} hostmaster.{apex} {serial} 3600 600 604800 {minimum}"


def naptr(uri: str, service: str = "tel", preference: int = 10, ttl: int = 60) -> str:
    return f'@ {ttl} NAPTR 100 {preference} "u" "E2U+pstn:{service}" "!^(.*)$!{service}:\\\\1{uri}!" .'


# -- section 7: the worked examples ----------------------------------------------------------------------

QUESTION = bytes.fromhex("01 38 01 37 01 36 01 35 01 34 01 33 01 32 01 31 01 39 01 36 01 38 01 38") + APEX
QUERY = bytes.fromhex("1a 2b 01 00 00 01 00 00 00 00 00 01") + QUESTION + bytes.fromhex("00 23 00 01") + OPT


def test_example_of_a_ported_number_is_answered_with_the_reusable_expression(sheet_engine: Engine) -> None:
    """The sheet's answer with its second form of REGEXP: 33 bytes, the same for every number of the route."""
    assert Bench(sheet_engine, ttl=300).ask(QUERY) == (
        bytes.fromhex("1a 2b 85 00 00 01 00 01 00 00 00 01")
        + QUESTION
        + bytes.fromhex("00 23 00 01")
        + bytes.fromhex("c0 0c 00 23 00 01 00 00 01 2c 00 36 00 64 00 0a 01 75")
        + bytes.fromhex("0c 45 32 55 2b 70 73 74 6e 3a 74 65 6c")
        + b"\x21!^(.*)$!tel:\\1;npdi;rn=+88693500!\0"
        + OPT
    )


def test_example_of_nxdomain_is_answered_byte_for_byte(sheet_engine: Engine) -> None:
    asked = b"\x01\x39" + QUESTION[2:] + bytes.fromhex("00 23 00 01")
    assert Bench(sheet_engine).ask(bytes.fromhex("1a 2c 01 00 00 01 00 00 00 00 00 00") + asked) == (
        bytes.fromhex("1a 2c 85 03 00 01 00 00 00 01 00 00")
        + asked
        + bytes.fromhex("c0 24 00 06 00 01 00 00 00 3c 00 26 02 6e 73 c0 24")
        + bytes.fromhex("0a 68 6f 73 74 6d 61 73 74 65 72 c0 24")
        + bytes.fromhex("78 c4 04 c9 00 00 0e 10 00 00 02 58 00 09 3a 80 00 00 00 3c")
    )


def test_example_of_badvers_is_answered_byte_for_byte(sheet_engine: Engine) -> None:
    asked = QUERY.replace(OPT, bytes.fromhex("00 00 29 04 d0 00 01 00 00 00 00"))
    assert Bench(sheet_engine).ask(asked) == (
        bytes.fromhex("1a 2b 81 00 00 01 00 00 00 00 00 01")
        + QUESTION
        + bytes.fromhex("00 23 00 01 00 00 29 04 d0 01 00 00 00 00 00")
    )


def test_example_of_formerr_is_answered_byte_for_byte(sheet_engine: Engine) -> None:
    garbage = bytes.fromhex("ab cd 00 00 00 01 00 00 00 00 00 00 ff ff ff")
    assert Bench(sheet_engine).ask(garbage) == bytes.fromhex("ab cd 80 01 00 00 00 00 00 00 00 00")


# -- section 4: the table, and what is asked of each name ------------------------------------------------

NODATA = Seen("NOERROR", "QR AA RD", [], [soa()], [], [])
NOTHING = NODATA._replace(rcode="NXDOMAIN")
REFUSED = Seen("REFUSED", "QR RD", [], [], [], [])


def found(*answers: str) -> Seen:
    return NODATA._replace(answers=list(answers), authority=[])


TABLE: list[tuple[str, str, int, Seen, str]] = [
    ("known number", name_of("886912345678"), 35, found(naptr(";npdi;rn=+D0402")), "ported"),
    ("ported with an rn of its own", name_of("886923456789"), 35, found(naptr(";npdi;rn=+D9999")), "ported"),
    ("not ported", name_of("886911000000"), 35, found(naptr(";npdi")), "not_ported"),
    ("in no range", name_of("886931000000"), 35, NOTHING, "not_allocated"),
    ("another country's", name_of("442071234567"), 35, NOTHING, "not_portable"),
    ("prefix of a known number", name_of("88691234567"), 35, NODATA, "not_portable"),
    ("prefix of one digit", name_of("8"), 35, NODATA, "not_portable"),
    ("prefix of no number", name_of("7"), 35, NOTHING, "not_portable"),
    ("known number and a digit more", name_of("8869123456780"), 35, NOTHING, "not_portable"),
    ("15 digits", name_of("886912345678000"), 35, NOTHING, "not_portable"),
    ("16 digits", name_of("8869123456780000"), 35, NOTHING, "other"),
    ("a zero first", name_of("0912345678"), 35, NOTHING, "not_portable"),
    *(
        (f"known number, type {kind}", name_of("886912345678"), kind, NODATA, "ported")
        for kind in (1, 2, 5, 6, 12, 16, 28, 33, 41, 43, 48, 64, 65, 250, 65280)
    ),
    ("known number, ANY", name_of("886912345678"), 255, found(naptr(";npdi;rn=+D0402")), "ported"),
    ("unknown number, ANY", name_of("886931000000"), 255, NOTHING, "not_allocated"),
    ("apex, SOA", "np.example", 6, found(soa(ttl=3600, owner="@")), "other"),
    ("apex, NS", "np.example", 2, found("@ 3600 NS ns.np.example."), "other"),
    ("apex, ANY", "np.example", 255, found(soa(ttl=3600, owner="@"), "@ 3600 NS ns.np.example."), "other"),
    *(
        (f"apex, type {kind}", "np.example", kind, NODATA._replace(authority=[soa(owner="@")]), "other")
        for kind in (1, 16, 28, 35, 41)
    ),
    ("the nameserver without addresses", "ns.np.example", 1, NODATA, "other"),
    ("hostmaster is no name", "hostmaster.np.example", 1, NOTHING, "other"),
    ("a label of two digits", "88.np.example", 35, NOTHING, "other"),
    ("a label of two digits among single ones", "12.3.4.np.example", 35, NOTHING, "other"),
    ("a letter", "a.np.example", 35, NOTHING, "other"),
    ("a letter below a number", "x." + name_of("886912345678"), 35, NOTHING, "other"),
    ("a star", "*.np.example", 35, NOTHING, "other"),
    ("outside", "8.8.6.example", 35, REFUSED, "not_a_query"),
    ("parent of the apex", "example", 35, REFUSED, "not_a_query"),
    ("ends like the apex, within a label", "xnp.example", 35, REFUSED, "not_a_query"),
    ("root", "", 2, REFUSED, "not_a_query"),
    ("AXFR", "np.example", 252, REFUSED, "not_a_query"),
    ("IXFR", "np.example", 251, REFUSED, "not_a_query"),
]  # fmt: skip


@pytest.mark.parametrize("udp", [True, False], ids=["udp", "tcp"])
@pytest.mark.parametrize(("name", "kind", "seen", "counted"), [pytest.param(*row[1:], id=row[0]) for row in TABLE])
def test_row_of_the_table(engine: Engine, name: str, kind: int, seen: Seen, counted: str, udp: bool) -> None:
    bench = Bench(engine, udp=udp)
    assert bench.look(name, kind) == seen
    assert bench.told() == {counted: 1}
    assert bench.look(name, kind, rest=b"") == seen._replace(options=None)


@pytest.mark.parametrize("klass", [3, 4, 254, 255, 0, 65535])
def test_other_class_is_refused(engine: Engine, klass: int) -> None:
    bench = Bench(engine)
    for name in ("version.bind", "version.server", "np.example", name_of("886912345678")):
        assert read(bench.ask(query(name, 16, klass, rest=OPT))) == REFUSED
    assert bench.told() == {"not_a_query": 4}


@pytest.mark.parametrize("opcode", range(1, 16))
def test_other_opcode_is_not_implemented(engine: Engine, opcode: int) -> None:
    bench = Bench(engine)
    message = query(name_of("886912345678"), flags=opcode << 11 | 0x0110)
    assert bench.ask(message) == struct.pack(">6H", 7, 0x8104 | opcode << 11, 0, 0, 0, 0)
    assert bench.told() == {"not_a_query": 1}
    assert bench.ask(message[:12]) is not None


@pytest.mark.parametrize("flags", [0x8000, 0x8580, 0xFFFF, 0xA800])
def test_replies_get_silence(engine: Engine, flags: int) -> None:
    bench = Bench(engine)
    assert bench.ask(query(name_of("886912345678"), flags=flags)) is None
    assert bench.told() == {"not_a_query": 1}


@pytest.mark.parametrize("size", range(12))
def test_less_than_a_header_gets_silence(engine: Engine, size: int) -> None:
    bench = Bench(engine)
    assert bench.ask(QUERY[:size]) is None
    assert bench.told() == {"malformed": 1}


def test_own_replies_sent_back_get_silence(engine: Engine) -> None:
    bench = Bench(engine)
    for message in (QUERY, query("example"), QUERY[:12], query("np.example", 6)):
        reply = bench.ask(message)
        assert reply is not None
        assert bench.ask(reply) is None


LONGEST = labels(".".join(["a" * 63] * 3 + ["b" * 61])) + b"\0"

MALFORMED: list[tuple[str, bytes]] = [
    ("no question", query(b"", counts=(0, 0, 0, 0))[:12]),
    ("no question, but its bytes", query("np.example", counts=(0, 0, 0, 0))),
    ("two questions", query("np.example", counts=(2, 0, 0, 0), rest=QUESTION + b"\0\x23\0\1")),
    ("a question is announced, none there", query("np.example")[:12]),
    ("no type and class", query("np.example")[:-4]),
    ("half a class", query("np.example")[:-1]),
    ("a name without an end", query(labels("np.example"))[:-4]),
    ("a label runs over the end", query(b"\x05ab")[:-4]),
    ("a pointer", query(b"\xc0\x0c")),
    ("a pointer behind labels", query(labels("8.8") + b"\xc0\x0c")),
    ("a label of type 01", query(b"\x41a\0")),
    ("a label of type 10", query(b"\x81a\0")),
    ("a label of 64 bytes", query(b"\x40" + b"a" * 64 + b"\0")),
    ("a name of 256 bytes", query(labels(".".join(["a" * 63] * 3 + ["b" * 62])) + b"\0")),
    ("an answer", query("np.example", counts=(1, 1, 0, 0), rest=b"\0\0\1\0\1\0\0\0\0\0\0")),
    ("an authority", query("np.example", counts=(1, 0, 1, 0), rest=b"\0\0\1\0\1\0\0\0\0\0\0")),
    ("an answer is announced, none there", query("np.example", counts=(1, 1, 0, 0))),
    ("too many additional records", query("np.example", counts=(1, 0, 0, DNS_ADDITIONAL_MAX + 1), rest=OPT)),
    ("65,535 additional records", query("np.example", counts=(1, 0, 0, 65_535))),
    ("an additional record is announced, none there", query("np.example", counts=(1, 0, 0, 1))),
    ("two are announced, one is there", query("np.example", counts=(1, 0, 0, 2), rest=OPT)),
    ("two OPTs", query("np.example", counts=(1, 0, 0, 2), rest=OPT + OPT)),
    ("an OPT with a name", query("np.example", rest=b"\1a" + OPT)),
    ("an OPT with a pointer for a name", query("np.example", rest=b"\xc0\x0c" + OPT[1:])),
    ("data of a record over the end", query("np.example", rest=OPT[:-1] + b"\1")),
    ("half an option's header", query("np.example", rest=OPT[:-1] + b"\3\0\x0a\0")),
    ("an option longer than the OPT", query("np.example", rest=OPT[:-1] + b"\4\0\x0a\0\1\0")),
]  # fmt: skip


@pytest.mark.parametrize("message", [pytest.param(row[1], id=row[0]) for row in MALFORMED])
def test_what_cannot_be_read_gets_a_bare_formerr(engine: Engine, message: bytes) -> None:
    bench = Bench(engine)
    assert bench.ask(message) == bytes.fromhex("00 07 81 01 00 00 00 00 00 00 00 00")
    assert bench.told() == {"malformed": 1}


def test_query_cut_anywhere_is_malformed(engine: Engine) -> None:
    for size in range(len(QUERY)):
        bench = Bench(engine)
        reply = bench.ask(QUERY[:size])
        assert (reply is None) == (size < 12)
        assert bench.told() == {"malformed": 1}


@pytest.mark.parametrize("flags", [0x0000, 0x0100, 0x0200, 0x0400, 0x07F0, 0x010F])
def test_other_flags_of_a_query_are_ignored_and_only_rd_comes_back(engine: Engine, flags: int) -> None:
    reply = Bench(engine).ask(query(name_of("886912345678"), flags=flags))
    assert reply is not None
    assert int.from_bytes(reply[2:4], "big") == 0x8400 | flags & 0x0100


def test_bytes_behind_the_last_record_are_ignored(engine: Engine) -> None:
    bench = Bench(engine)
    for rest in (b"", OPT):
        message = number_query("886912345678", rest=rest)
        assert bench.ask(message + b"\xff" * 9) == bench.ask(message)


def test_longest_name_is_read(engine: Engine) -> None:
    assert len(LONGEST) == 255
    assert read(Bench(engine).ask(query(LONGEST, rest=OPT))) == REFUSED


def test_transfer_with_records_in_front_is_refused_without_opt(engine: Engine) -> None:
    """IXFR's client sends the SOA that it has (RFC 1995 section 3)."""
    record = b"\xc0\x0c" + struct.pack(">HHIH", 6, 1, 0, 0)
    reply = Bench(engine).ask(query("np.example", 251, counts=(1, 0, 1, 1), rest=record + OPT))
    assert read(reply) == REFUSED._replace(options=None)


# -- letters' case, and several apexes -------------------------------------------------------------------


def test_case_of_the_question_is_kept_and_does_not_matter(engine: Engine) -> None:
    bench = Bench(engine)
    for spelling in ("nP.exAmplE", "NP.EXAMPLE"):
        for name, kind in ((f"8.7.6.5.4.3.2.1.9.6.8.8.{spelling}", 35), (spelling, 6), (f"x.{spelling}", 1)):
            message = query(name, kind)
            reply = bench.ask(message)
            assert reply is not None
            assert reply[12 : len(message)] == message[12:]
            assert reply[3] & 0xF == (3 if name[0] == "x" else 0)
    assert bench.told() == {"ported": 2, "other": 4}


def test_only_letters_are_folded(engine: Engine) -> None:
    """`@` is to a backtick what `A` is to `a`, and bytes above 127 have no case here."""
    bench = Bench(engine, apex="e_x.example")
    assert bench.look("E_X.example", 6).rcode == "NOERROR"
    assert read(bench.ask(query(b"\x03e\x7fx\x07example\0", 6))).rcode == "REFUSED"
    assert read(bench.ask(query(b"\x03\xc5_x\x07example\0", 6))).rcode == "REFUSED"


def test_longest_apex_that_fits_is_meant(engine: Engine) -> None:
    bench = Bench(engine, apex=("example", "tel.np.example", "np.example"))
    assert bench.look("x.np.example").authority == [soa()]
    assert bench.look("x.tel.np.example").authority == [soa("tel.np.example.")]
    assert bench.look("x.example").authority == [soa("example.")]
    assert bench.look(name_of("886912345678", "tel.np.example")) == found(naptr(";npdi;rn=+D0402"))
    assert bench.look(name_of("886912345678", "example")) == found(naptr(";npdi;rn=+D0402"))


def test_apex_is_not_found_inside_a_label(engine: Engine) -> None:
    """A label whose last bytes look like the apex: 12 bytes of `np.example` behind `8.`."""
    inner = b"\x0e\x01x" + APEX[:-1] + b"\x01"
    assert read(Bench(engine).ask(query(inner[:15] + b"\0", 35))).rcode == "REFUSED"


def test_label_bytes_that_look_like_digits_are_not(engine: Engine) -> None:
    """Bytes 01 at every second place, but one label: a length of 3 in front."""
    bench = Bench(engine)
    assert read(bench.ask(query(b"\x038\x018" + APEX, 35))).rcode == "NXDOMAIN"
    assert read(bench.ask(query(b"\x01\x018" + APEX[:-1] + b"\0", 35))).rcode in {"REFUSED", "NXDOMAIN", "FORMERR"}
    assert bench.counters.answered == [0] * len(Outcome)


# -- empty non-terminals ---------------------------------------------------------------------------------


@pytest.mark.parametrize("number", ["886912345678", "886911000000", "886223450000"])
def test_no_shorter_name_of_a_number_is_denied(engine: Engine, number: str) -> None:
    """A resolver that minimises names asks them all (RFC 9156) and stops at a denial (RFC 8020)."""
    bench = Bench(engine)
    for end in range(1, len(number)):
        assert bench.number(number[:end]).rcode == "NOERROR", number[:end]


def test_ranges_do_not_count_where_unported_numbers_are_unknown(engine: Engine) -> None:
    bench = Bench(engine, unported="unknown")
    assert bench.number("886911") == NOTHING
    assert bench.number("88691234") == NODATA
    assert Bench(engine).number("886911") == NODATA


def test_numbers_of_several_lengths_are_told_apart(workbench: Workbench) -> None:
    """A short number is answered, the names between it and a longer one that begins with it are not denied."""
    workbench.load_tables(ranges="prefix,network_code\n")
    workbench.snapshot("tn,network_code,routing_number\n88621234567,1401,A1\n886212345678,1402,B2\n", now=CONFIRMED_AT)
    engine = Engine(PLAN)
    with workbench.reader() as reader:
        engine.reader = reader
        engine.begin(UnixSeconds(CONFIRMED_AT))
        bench = Bench(engine)
        assert bench.number("88621234567") == found(naptr(";npdi;rn=+A1"))
        assert bench.number("886212345678") == found(naptr(";npdi;rn=+B2"))
        assert bench.number("8862123456") == NODATA._replace(authority=[soa(serial=engine.serial)])
        assert bench.number("8862123457").rcode == "NXDOMAIN"
        assert bench.number("8862123456789").rcode == "NXDOMAIN"


# -- profiles --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "number", "uri"),
    [
        ({}, "886911000000", ";npdi"),
        ({"unported": "rn"}, "886911000000", ";npdi;rn=+D0401"),
        ({"unported": "rn"}, "886912000000", ";npdi"),
        ({"unported": "rn", "unmapped_routing_number": "D0"}, "886912000000", ";npdi"),
        ({"unported": "rn", "cic_context": "+886"}, "886911000000", ";npdi;rn=+D0401"),
        ({"unported": "unknown"}, "886911000000", None),
        ({"unported": "unknown"}, "886912345678", ";npdi;rn=+D0402"),
        ({"rn_context": "np.example"}, "886912345678", ";npdi;rn=D0402;rn-context=np.example"),
        ({"rn_context": "+886"}, "886923456789", ";npdi;rn=D9999;rn-context=+886"),
        ({"cic_context": "+886"}, "886912345678", ";cic=1402;cic-context=+886;npdi;rn=+D0402"),
        (
            {"cic_context": "a.example", "rn_context": "b.example"},
            "886912345678",
            ";cic=1402;cic-context=a.example;npdi;rn=D0402;rn-context=b.example",
        ),
        ({"cic_context": "+886"}, "886223450000", ";cic=1403;cic-context=+886;npdi"),
        ({"unmapped_routing_number": "DFFFF"}, "886223450000", ";npdi;rn=+DFFFF"),
        ({"unmapped_routing_number": "DFFFF"}, "886912345678", ";npdi;rn=+D0402"),
    ],
)
def test_profile_decides_what_a_number_gets(
    engine: Engine, changed: dict[str, Any], number: str, uri: str | None
) -> None:
    bench = Bench(engine, **changed)
    assert bench.number(number) == (found(naptr(uri)) if uri is not None else NOTHING)


def test_code_that_is_not_of_hex_digits_is_no_cic(workbench: Workbench) -> None:
    networks = "network_code,operator,routing_number,pdb_carrier_id\nTWM1,One,,\n00AF,Two,,\n"
    workbench.load_tables(networks, "prefix,network_code\n")
    workbench.snapshot("tn,network_code\n886912345678,TWM1\n886912345679,00AF\n", now=CONFIRMED_AT)
    engine = Engine(PLAN)
    with workbench.reader() as reader:
        engine.reader = reader
        engine.begin(UnixSeconds(CONFIRMED_AT))
        bench = Bench(engine, cic_context="+886")
        assert bench.number("886912345679") == found(naptr(";cic=00AF;cic-context=+886;npdi"))
        assert bench.number("886912345678").rcode == "SERVFAIL"
        assert bench.told() == {"ported": 1, "unavailable": 1}


def test_ported_number_without_anything_to_tell_is_unavailable(engine: Engine) -> None:
    """`npdi` alone would say that it was not ported."""
    bench = Bench(engine)
    for kind in (35, 255, 16, 1):
        assert bench.number("886223450000", kind) == Seen("SERVFAIL", "QR RD", [], [], [], [])
    assert bench.told() == {"unavailable": 4}


def test_each_service_has_a_record_in_the_order_of_preference(engine: Engine) -> None:
    sip = ";npdi;rn=+D0402@gw.example:5060;user=phone"
    tel = ";npdi;rn=+D0402"
    first = Bench(engine, service=("E2U+pstn:sip", "E2U+pstn:tel"), domain="gw.example:5060")
    assert first.number("886912345678") == found(naptr(sip, "sip", 10), naptr(tel, "tel", 20))
    second = Bench(engine, service=("E2U+pstn:tel", "E2U+pstn:sip"), domain="gw.example:5060")
    assert second.number("886912345678") == found(naptr(tel, "tel", 10), naptr(sip, "sip", 20))
    alone = Bench(engine, service="E2U+pstn:sip", domain="[2001:db8::1]:5060", ttl=0)
    assert alone.number("886911000000") == found(naptr(";npdi@[2001:db8::1]:5060;user=phone", "sip", ttl=0))


def test_ttls_are_the_settings(engine: Engine) -> None:
    bench = Bench(engine, ttl=604_800, negative_ttl=0)
    assert bench.number("886912345678") == found(naptr(";npdi;rn=+D0402", ttl=604_800))
    assert bench.number("886931000000").authority == [soa(ttl=0, minimum=0)]
    assert bench.look("np.example", 6).answers == [soa(ttl=3600, minimum=0, owner="@")]


def test_ttl_of_a_negative_answer_is_the_lesser_of_two(engine: Engine) -> None:
    """RFC 2308 section 3: of the SOA's own and its MINIMUM."""
    bench = Bench(engine, negative_ttl=86_400)
    assert bench.number("886931000000").authority == [soa(ttl=3600, minimum=86_400)]


def test_longest_expression_fits_its_length_byte(engine: Engine) -> None:
    settings = {
        "service": "E2U+pstn:sip", "rn_context": "a" * 62, "cic_context": "+8869", "domain": "b" * 99,
        "unmapped_routing_number": "F" * 15,
    }  # fmt: skip
    bench = Bench(engine, udp=False, **settings)
    record = enum_dns.Profile(bench.settings).records("F" * 15, "12345678")
    assert record.endswith(b";user=phone!\0")
    assert bytes([NAPTR_TEXT_BYTES_MAX]) + b"!^(.*)$!sip:" in record


# -- the zone's nameservers ------------------------------------------------------------------------------

SERVERS = {
    "a.ns.np.example": ("192.0.2.1", "2001:db8::1", "192.0.2.2"),
    "B.np.example.": ("192.0.2.3",),
    "c.example.net": ("192.0.2.9",),
}


def test_nameservers_are_told_with_the_addresses_inside_the_zone(engine: Engine) -> None:
    bench = Bench(engine, nameservers=SERVERS)
    seen = bench.look("np.example", 2)
    assert seen.answers == ["@ 3600 NS a.ns.np.example.", "@ 3600 NS B.np.example.", "@ 3600 NS c.example.net."]
    # Left out over UDP: the question is short, and an answer is at most four times as long.
    assert seen.additional == []
    assert Bench(engine, udp=False, nameservers=SERVERS).look("np.example", 2).additional == [
        "a.ns.np.example. 3600 A 192.0.2.1",
        "a.ns.np.example. 3600 A 192.0.2.2",
        "a.ns.np.example. 3600 AAAA 2001:db8::1",
        "B.np.example. 3600 A 192.0.2.3",
    ]


def test_additional_addresses_come_over_udp_where_they_fit(engine: Engine) -> None:
    padding = bytes.fromhex("00 00 29 04 d0 00 00 00 00 00 40 00 0c 00 3c") + bytes(60)
    seen = Bench(engine, nameservers=SERVERS).look("np.example", 2, rest=padding)
    assert len(seen.additional) == 4


def test_names_of_the_zone_point_into_the_question(engine: Engine) -> None:
    message = query("NP.example", 2)
    reply = Bench(engine, udp=False, nameservers={"ns.np.example": ("192.0.2.1",)}).ask(message)
    assert reply == (
        bytes.fromhex("00 07 85 00 00 01 00 01 00 00 00 01")
        + message[12:]
        + bytes.fromhex("c0 0c 00 02 00 01 00 00 0e 10 00 05 02 6e 73 c0 0c")
        + bytes.fromhex("02 6e 73 c0 0c 00 01 00 01 00 00 0e 10 00 04 c0 00 02 01")
    )


@pytest.mark.parametrize(
    ("name", "kind", "answers"),
    [
        ("a.ns.np.example", 1, ["@ 3600 A 192.0.2.1", "@ 3600 A 192.0.2.2"]),
        ("A.NS.np.example", 28, ["@ 3600 AAAA 2001:db8::1"]),
        ("a.ns.np.example", 255, ["@ 3600 A 192.0.2.1", "@ 3600 A 192.0.2.2", "@ 3600 AAAA 2001:db8::1"]),
        ("a.ns.np.example", 35, []),
        ("b.np.example", 1, ["@ 3600 A 192.0.2.3"]),
        ("b.np.example", 28, []),
        ("ns.np.example", 1, []),
    ],
)
def test_nameserver_is_a_name_of_the_zone(engine: Engine, name: str, kind: int, answers: list[str]) -> None:
    bench = Bench(engine, udp=False, nameservers=SERVERS)
    seen = bench.look(name, kind)
    assert (seen.rcode, seen.flags, seen.answers) == ("NOERROR", "QR AA RD", answers)
    assert [line.split()[2] for line in seen.authority] == ([] if answers else ["SOA"])
    assert bench.told() == {"other": 1}


def test_nothing_else_lies_beside_a_nameserver(engine: Engine) -> None:
    bench = Bench(engine, nameservers=SERVERS)
    for name in ("x.a.ns.np.example", "c.ns.np.example", "c.example.np.example", "ns.b.np.example"):
        assert bench.look(name, 1).rcode == "NXDOMAIN"
    assert bench.look("c.example.net", 1) == REFUSED


def test_first_nameserver_is_the_soa_s(engine: Engine) -> None:
    outside = Bench(engine, udp=False, nameservers={"ns.example.net": (), "ns.np.example": ()})
    assert outside.look("np.example", 6).answers == [
        "@ 3600 SOA ns.example.net. hostmaster.np.example. 3 3600 600 604800 60"
    ]
    inside = Bench(engine, udp=False, nameservers={"Z.np.example": (), "ns.example.net": ()})
    assert inside.look("x.np.example").authority == [
        "np.example. 60 SOA Z.np.example. hostmaster.np.example. 3 3600 600 604800 60"
    ]


# -- EDNS ------------------------------------------------------------------------------------------------


def test_opt_comes_back_only_if_it_was_sent_and_dnssec_is_echoed(engine: Engine) -> None:
    bench = Bench(engine)
    for message in (number_query("886912345678"), number_query("886931000000"), query("example")):
        rest = message[:11] + b"\1" + message[12:]
        plain, with_opt, with_do = bench.ask(message), bench.ask(rest + OPT), bench.ask(rest + OPT_DO)
        assert plain is not None
        assert with_opt == plain[:11] + b"\1" + plain[12:] + OPT
        assert with_do == plain[:11] + b"\1" + plain[12:] + OPT_DO


@pytest.mark.parametrize(
    "option", ["00 0a 00 08 01 02 03 04 05 06 07 08", "00 03 00 00", "00 0c 00 03 00 00 00", "ff ff 00 00 ff fe 00 00"]
)
def test_options_are_ignored(engine: Engine, option: str) -> None:
    data = bytes.fromhex(option)
    rest = OPT[:-2] + struct.pack(">H", len(data)) + data
    assert Bench(engine).look(name_of("886912345678"), rest=rest) == found(naptr(";npdi;rn=+D0402"))


def test_other_additional_records_are_passed_over(engine: Engine) -> None:
    """TSIG, SIG(0), and whatever else: up to the bound, before the OPT or behind it."""
    record = labels("key.example") + b"\0" + struct.pack(">HHIH", 250, 255, 0, 3) + b"abc"
    for before in range(DNS_ADDITIONAL_MAX):
        behind = DNS_ADDITIONAL_MAX - 1 - before
        rest = record * before + OPT + record * behind
        message = query(name_of("886912345678"), counts=(1, 0, 0, DNS_ADDITIONAL_MAX), rest=rest)
        assert read(Bench(engine).ask(message)) == found(naptr(";npdi;rn=+D0402"))
    message = query(name_of("886912345678"), counts=(1, 0, 0, 1), rest=record)
    assert read(Bench(engine).ask(message)).options is None


@pytest.mark.parametrize("version", [1, 2, 255])
def test_later_edns_version_is_badvers_whatever_is_asked(engine: Engine, version: int) -> None:
    bench = Bench(engine)
    rest = OPT[:6] + bytes([version]) + OPT[7:]
    for message in (
        number_query("886912345678", rest=rest),
        query("example", rest=rest),
        query("np.example", 252, rest=rest),
    ):
        reply = read(bench.ask(message))
        assert reply == Seen("BADVERS", "QR RD", [], [], [], [])
    assert bench.told() == {"not_a_query": 3}


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


def test_answer_that_does_not_fit_is_cut_to_nothing_with_tc(engine: Engine) -> None:
    bench, tcp = Bench(engine, **TWO), Bench(engine, udp=False, **TWO)
    whole = tcp.ask(number_query("886912345678", rest=OPT))
    assert whole is not None
    cut = bench.ask(number_query("886912345678", rest=OPT))
    assert cut is not None
    assert read(cut) == Seen("NOERROR", "QR AA TC RD", [], [], [], [])
    assert cut == bytes.fromhex("00 07 87 00 00 01 00 00 00 00 00 01") + QUESTION + b"\0\x23\0\1" + OPT
    assert bench.told() == {"ported": 1}
    assert len(read(whole).answers) == 2


@pytest.mark.parametrize("size", [0, 100, 511, 512])
def test_client_that_takes_less_than_512_bytes_gets_512_all_the_same(engine: Engine, size: int) -> None:
    bench = Bench(engine, **TWO)
    reply = bench.ask(padded(size, 150))
    assert reply is not None
    assert 400 < len(reply) <= 512


def test_answer_is_as_long_as_the_client_takes_and_no_longer(engine: Engine) -> None:
    settings = TWO | {"cic_context": "c" * 62, "rn_context": "r" * 62, "domain": "d" * 42}
    whole = Bench(engine, udp=False, **settings).ask(padded(4096, 300))
    assert whole is not None
    size = len(whole)
    assert 512 < size < DNS_ANSWER_BYTES_MAX
    bench = Bench(engine, **settings)
    assert bench.ask(padded(size, 300)) == whole
    assert bench.ask(padded(65_535, 300)) == whole
    shorter = bench.ask(padded(size - 1, 300))
    assert shorter is not None
    assert shorter[2] & 0x02
    without = number_query("886912345678")
    assert read(bench.ask(without + bytes(300 - len(without)))).flags == "QR AA TC RD"


def test_answer_over_udp_never_exceeds_1232_bytes(engine: Engine) -> None:
    servers = {f"{'n' * 60}{at}.{'m' * 60}.np.example": ("192.0.2.1",) * 8 for at in range(8)}
    bench = Bench(engine, nameservers=servers)
    message = query("np.example", 2, rest=opt(65_535)) + bytes(4000)
    reply = bench.ask(message)
    assert reply is not None
    assert len(reply) <= DNS_ANSWER_BYTES_MAX
    assert len(read(reply).answers) == 8
    assert read(reply).flags == "QR AA RD"
    assert len(read(Bench(engine, udp=False, nameservers=servers).ask(message)).additional) > 0


def test_answer_over_udp_is_at_most_four_times_its_question(engine: Engine) -> None:
    """Counted with whatever stands behind the question, which costs its sender as much."""
    whole = Bench(engine, udp=False, **TWO).ask(number_query("886912345678"))
    assert whole is not None
    message = number_query("886912345678")
    bench = Bench(engine, **TWO)
    for size in range(len(message), 200):
        reply = bench.ask(message + bytes(size - len(message)))
        assert reply is not None
        assert len(reply) <= AMPLIFICATION_MAX * size
        assert (reply == whole) == (len(whole) <= AMPLIFICATION_MAX * size)


# -- what is told of the data ----------------------------------------------------------------------------


def test_serial_and_age_are_told_as_txt(engine: Engine) -> None:
    bench = Bench(engine, tell="txt", ttl=30)
    for number in ("886912345678", "886911000000"):
        assert bench.number(number, 16) == found('@ 30 TXT "serial=3 age=42"')
        assert bench.number(number, 255).answers == bench.number(number, 35).answers
    assert bench.number("886931000000", 16) == NOTHING
    assert bench.look("np.example", 16).answers == []
    assert Bench(engine, tell="edns").number("886912345678", 16).answers == []


def test_age_that_is_not_known_is_a_hyphen() -> None:
    profile = enum_dns.profile_of(EnumSettings(tell="txt"))
    assert profile.txt(2**32 - 1, None).endswith(b"\x17serial=4294967295 age=-")
    told = enum_dns.profile_of(EnumSettings(tell="edns"))
    assert told.option(1, None) == bytes.fromhex("fd e9 00 08 00 00 00 01 ff ff ff ff")
    assert told.option(1, 2**40) == told.option(1, None)
    assert profile.option(1, 2) == b""


def test_serial_and_age_are_told_in_the_opt(engine: Engine) -> None:
    bench = Bench(engine, tell="edns")
    told = [(65_001, bytes.fromhex("00 00 00 03 00 00 00 2a"))]
    assert bench.number("886912345678") == found(naptr(";npdi;rn=+D0402"))._replace(options=told)
    assert bench.number("886911000000").options == told
    assert bench.number("886931000000") == NOTHING._replace(options=told)
    assert bench.number("88691") == NODATA._replace(options=told)
    assert bench.look("np.example", 6).options == []
    assert bench.look("x.np.example").options == []
    assert bench.number("886223450000").options == []
    assert bench.look(name_of("886912345678"), rest=b"").options is None
    assert Bench(engine, tell="txt").number("886912345678").options == []
    cut = Bench(engine, tell="edns", **TWO).number("886912345678")
    assert (cut.flags, cut.options) == ("QR AA TC RD", told)


# -- data that cannot be answered from -------------------------------------------------------------------

UNAVAILABLE = Seen("SERVFAIL", "QR RD", [], [], [], [])


@pytest.mark.parametrize("name", ["np.example", "ns.np.example", "x.np.example", name_of("886912345678"), name_of("7")])
def test_without_data_every_name_of_a_zone_is_servfail(name: str) -> None:
    engine = Engine(PLAN)
    engine.begin(UnixSeconds(CONFIRMED_AT))
    bench = Bench(engine, tell="edns")
    for kind in (35, 6, 2, 1, 16, 255):
        assert bench.look(name, kind) == UNAVAILABLE
    assert bench.told() == {"unavailable": 6}
    assert bench.look("example") == REFUSED
    assert bench.look(name, 252) == REFUSED
    assert bench.ask(b"\0" * 12) is not None


def test_stale_data_is_servfail(workbench: Workbench) -> None:
    workbench.load_tables()
    workbench.snapshot(now=CONFIRMED_AT)
    engine = Engine(PLAN, stale_after=60)
    with workbench.reader() as reader:
        engine.reader = reader
        bench = Bench(engine)
        engine.begin(UnixSeconds(CONFIRMED_AT + 61))
        assert bench.number("886912345678") == UNAVAILABLE
        engine.begin(UnixSeconds(CONFIRMED_AT + 60))
        assert bench.number("886912345678").answers == [naptr(";npdi;rn=+D0402")]


def test_damaged_block_is_servfail_and_not_denied(workbench: Workbench) -> None:
    """Only numbers of that block; names above it may have something below."""
    workbench.load_tables()
    workbench.snapshot(now=CONFIRMED_AT)
    damage(workbench.store, "blocks", BLOCK_KEY.pack(886_912_345), lambda value: flipped(value, 1200))
    engine = Engine(PLAN)
    with workbench.reader() as reader:
        engine.reader = reader
        engine.begin(UnixSeconds(CONFIRMED_AT))
        bench = Bench(engine)
        for number in ("886912345678", "886912345679", "886912345000"):
            assert bench.number(number) == UNAVAILABLE
        assert bench.number("88691234567").rcode == "NOERROR"
        assert bench.number("886923456789").answers == [naptr(";npdi;rn=+D9999")]
        assert bench.told() == {"unavailable": 3, "not_portable": 1, "ported": 1}


# -- allowances ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("udp", [True, False], ids=["udp", "tcp"])
def test_client_over_its_rate_is_refused(engine: Engine, udp: bool) -> None:
    bench = Bench(engine, udp=udp, rate=2)
    seen = [bench.number("886912345678").rcode for _ in range(4)]
    assert seen == ["NOERROR", "NOERROR", "REFUSED", "REFUSED"]
    assert bench.number("886912345678") == REFUSED
    assert bench.look("np.example", 6) == REFUSED
    assert bench.told() == {"ported": 2, "rate": 4}
    assert bench.client.usage["enum"][OVER_RATE] == 4


def test_prefix_over_its_rate_is_sent_to_tcp(engine: Engine) -> None:
    """Who can open a connection has not forged its address (RFC 7766 section 3)."""
    bench = Bench(engine, per_prefix=1)
    assert bench.number("886912345678").rcode == "NOERROR"
    for name in (name_of("886912345678"), "np.example", "example"):
        message = query(name, rest=OPT_DO)
        assert bench.ask(message) == message[:2] + b"\x83\0" + message[4:-11] + OPT_DO
    assert read(bench.ask(query(name_of("886911000000")))) == Seen("NOERROR", "QR TC RD", [], [], [], None)
    assert bench.told() == {"ported": 1, "rate": 4}
    assert read(bench.ask(number_query("886912345678"), ("198.51.100.1", 5000))).answers
    over_tcp = Bench(engine, udp=False, per_prefix=1)
    assert [over_tcp.number("886912345678").rcode for _ in range(3)] == ["NOERROR"] * 3


def test_query_that_its_prefix_may_not_ask_takes_nothing_from_the_client(engine: Engine) -> None:
    bench = Bench(engine, rate=2, per_prefix=1)
    assert [bench.number("886912345678").flags for _ in range(3)] == ["QR AA RD", "QR TC RD", "QR TC RD"]
    assert read(bench.ask(number_query("886912345678"), ("198.51.100.1", 5000))).answers
    assert read(bench.ask(number_query("886912345678"), ("203.0.113.1", 5000))).rcode == "REFUSED"


@pytest.mark.parametrize("allowance", [{"rate": 1}, {"per_prefix": 1}])
def test_faulty_messages_take_from_the_allowance_and_get_silence_over_it(
    engine: Engine, allowance: dict[str, int]
) -> None:
    notify, garbage, transfer = query("np.example", 6, flags=0x2000), query(b"\xc0\x0c"), query("np.example", 252)
    bench = Bench(engine, **allowance)
    assert [bench.ask(message) is None for message in (notify, garbage, transfer, notify)] == [False, True, True, True]
    assert bench.told() == {"not_a_query": 3, "malformed": 1}
    assert bench.number("886912345678").answers == []
    assert bench.counters.refused[RATE] == 1


def test_messages_without_a_header_take_nothing(engine: Engine) -> None:
    bench = Bench(engine, rate=1, per_prefix=1)
    for _ in range(3):
        assert bench.ask(QUERY[:11]) is None
        assert bench.ask(query("np.example", flags=0x8000)) is None
    assert bench.number("886912345678").answers


def test_class_that_is_refused_takes_from_the_allowance(engine: Engine) -> None:
    bench = Bench(engine, rate=1)
    assert read(bench.ask(query("version.bind", 16, 3))).rcode == "REFUSED"
    assert bench.number("886912345678").rcode == "REFUSED"
    assert bench.told() == {"not_a_query": 1, "rate": 1}


# -- replies that could not be sent ----------------------------------------------------------------------


def test_replies_that_could_not_be_sent_are_taken_back(engine: Engine) -> None:
    bench = Bench(engine, rate=3)
    for message in (
        number_query("886912345678"), query("np.example", 6), query("example"), number_query("886911000000"),
        query("np.example", 6)[:11],
    ):  # fmt: skip
        bench.ask(message)
    assert bench.told() == {"ported": 1, "other": 1, "not_a_query": 1, "rate": 1, "malformed": 1}
    bench.responder.take_back(0, 4)
    assert bench.counters.balance() == 0
    assert bench.counters.dropped[UNSENT] == 3
    assert bench.told() == {"not_a_query": 1, "malformed": 1, "unsent": 3}
