"""ENUM against any bytes: silence or a reply that dnspython reads, within its bounds, and every message counted."""

from __future__ import annotations

import struct
from typing import Any

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdatatype
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lookupd.access import SECOND_NS, Client
from lookupd.engine import Engine
from lookupd.errors import ProtocolError
from lookupd.fastpath.enum import EnumResponder
from lookupd.limits import (
    AMPLIFICATION_MAX,
    DNS_ADDITIONAL_MAX,
    DNS_ANSWER_BYTES_MAX,
    DNS_MESSAGE_BYTES_MAX,
    DNS_QUERY_BYTES_MAX,
    E164_DIGITS_MAX,
)
from lookupd.model import DROP_REASONS, Outcome
from lookupd.observe.counters import QueryCounters
from lookupd.profiles import EnumSettings, check_enum
from lookupd.protocols import enum_dns
from lookupd.protocols.dns import decode_query
from lookupd.settings import ClientSettings
from tests.enum_bench import OPT, PEER, labels, name_of, query
from tests.property.test_protocols import evenly, mutations

often = settings(max_examples=500, deadline=None, print_blob=True)

PROFILES = [
    EnumSettings(apex="np.example"),
    EnumSettings(apex=("np.example", "example", "sip.np.example"), tell="edns", cic_context="+886", unported="rn"),
    EnumSettings(
        apex="np.example",
        service=("E2U+pstn:sip", "E2U+pstn:tel"),
        domain="d" * 60,
        rn_context="r" * 62,
        unported="unknown",
        tell="txt",
        unmapped_routing_number="DFFF",
    ),
    EnumSettings(
        apex="np.example",
        nameservers={f"{'n' * 60}{at}.np.example": ("192.0.2.1", "2001:db8::1") * 4 for at in range(7)} | {"a.net": ()},
        tell="edns",
    ),
]
NUMBERS = ["886912345678", "886923456789", "886223450000", "886911000000", "886931000000", "88691", "8", "442071234567"]
KINDS = [35, 35, 35, 255, 6, 2, 1, 16, 28, 41, 251, 252]

# -- messages --------------------------------------------------------------------------------------------

apexes = st.sampled_from(["np.example", "NP.eXample", "example", "sip.np.example", "e164.arpa"])
names = st.one_of(
    st.builds(name_of, st.sampled_from(NUMBERS), apexes),
    st.builds(name_of, st.text("0123456789", max_size=18), apexes),
    st.builds(lambda head, apex: f"{head}.{apex}", st.sampled_from(["ns", "x.8", "88", "hostmaster", "*"]), apexes),
    apexes,
).map(lambda name: labels(name) + b"\0")
odd_names = st.one_of(
    st.lists(st.binary(max_size=63), max_size=6).map(
        lambda found: b"".join(bytes([len(label)]) + label for label in found if label) + b"\0"
    ),
    st.binary(max_size=300),
    names.filter(lambda name: len(name) < 60).map(lambda name: bytes([len(name) + 1]) + b"\x018" + name),
    names.map(lambda name: name[:-1] + b"\xc0\x0c"),
)
options = st.lists(st.tuples(st.integers(0, 65_535), st.binary(max_size=40)), max_size=4).map(
    lambda found: b"".join(struct.pack(">HH", code, len(data)) + data for code, data in found)
)
opts = st.builds(
    lambda size, version, flags, data: b"\0" + struct.pack(">HHBBHH", 41, size, 0, version, flags, len(data)) + data,
    st.sampled_from([0, 512, 700, 1232, 4096, 65_535]),
    st.sampled_from([0, 0, 0, 0, 0, 1, 255]),
    st.sampled_from([0, 0x8000, 0xFFFF]),
    st.one_of(options, st.binary(max_size=20)),
)
records = st.builds(
    lambda name, kind, data: name + struct.pack(">HHIH", kind, 1, 0, len(data)) + data,
    names,
    st.sampled_from([1, 6, 41, 250]),
    st.binary(max_size=20),
)
kinds = st.one_of(st.sampled_from(KINDS), st.integers(0, 65_535))
classes = st.one_of(st.just(1), st.just(1), st.just(1), st.sampled_from([3, 255, 0]))
query_flags = st.one_of(st.just(0x0100), st.just(0x0100), st.integers(0, 0x7FFF), st.integers(0, 0xFFFF))
plain = st.builds(
    lambda name, kind, rest, query_id: query(name, kind, query_id=query_id, rest=rest),
    names,
    kinds,
    st.one_of(st.just(b""), st.just(OPT), opts),
    st.integers(0, 65_535),
)


@st.composite
def built(draw: st.DrawFn) -> bytes:
    """A message of sound parts, of which one or two may be odd; its counts may lie."""
    rest = draw(st.lists(st.one_of(opts, records), max_size=3))
    counts = (1, 0, 0, len(rest))
    if draw(st.integers(0, 5)) == 0:
        some = st.one_of(st.integers(0, DNS_ADDITIONAL_MAX + 2), st.integers(0, 65_535))
        counts = (draw(st.integers(0, 2)), draw(some), draw(some), draw(some))
    message = query(
        draw(st.one_of(names, names, odd_names)), draw(kinds), draw(classes),
        flags=draw(query_flags), counts=counts, rest=b"".join(rest),
    )  # fmt: skip
    return message + draw(st.one_of(st.just(b""), st.binary(max_size=20), st.integers(0, 5000).map(bytes)))


messages = evenly(plain, plain, built(), mutations(evenly(plain, built())), st.binary(max_size=600))
SMALL_STEPS = st.lists(st.tuples(messages, st.booleans()), max_size=6)

# -- the codec -------------------------------------------------------------------------------------------


@often
@given(message=messages)
def test_any_bytes_are_a_query_or_a_protocol_error(message: bytes) -> None:
    try:
        found = decode_query(message)
    except ProtocolError as error:
        assert error.reason in DROP_REASONS  # noqa: PT017 - nothing raised is right as well
        return
    asked = dns.message.from_wire(message, question_only=True, ignore_trailing=True)
    (question,) = asked.question
    assert asked.id == found.id
    assert (question.rdtype, question.rdclass) == (found.kind, found.klass)
    assert question.name.to_wire() == found.question[:-4]
    assert dns.name.from_wire(found.name, 0)[0] == question.name
    assert message[12:].startswith(found.question)


@often
@given(
    name=st.lists(st.binary(min_size=1, max_size=63), max_size=3),
    kind=st.integers(1, 65_535),
    query_id=st.integers(0, 65_535),
    edns=st.none() | st.tuples(st.integers(0, 65_535), st.booleans()),
    data=st.lists(st.tuples(st.integers(20, 65_535), st.binary(max_size=40)), max_size=4),
)
def test_query_of_dnspython_is_read_as_it_was_meant(
    name: list[bytes], kind: int, query_id: int, edns: tuple[int, bool] | None, data: list[tuple[int, bytes]]
) -> None:
    owner = dns.name.Name([*name, b""])
    message = dns.message.make_query(owner, dns.rdatatype.RdataType.make(kind), id=query_id)
    if edns is not None:
        size, dnssec = edns
        message.use_edns(
            0, dns.flags.DO if dnssec else 0, size, options=[dns.edns.GenericOption(code, text) for code, text in data]
        )
    if kind in {251, 252}:
        with pytest.raises(ProtocolError):
            decode_query(message.to_wire())
        return
    found = decode_query(message.to_wire())
    assert (found.id, found.kind, found.klass, found.size) == (query_id, kind, 1, len(message.to_wire()))
    assert found.name == owner.canonicalize().to_wire()
    if edns is None:
        assert found.edns is None
    else:
        assert found.edns is not None
        assert (found.edns.bytes_max, found.edns.version, found.edns.wants_dnssec) == (edns[0], 0, edns[1])


@often
@given(digits=st.text("0123456789", max_size=20))
def test_digits_survive_the_way_through_a_name(digits: str) -> None:
    profile = enum_dns.profile_of(PROFILES[0])
    found = profile.find(labels(name_of(digits)) + b"\0")
    assert found is not None
    zone, head = found
    assert len(head) == 2 * len(digits)
    assert enum_dns.digits_of(head) == (digits if 0 < len(digits) <= E164_DIGITS_MAX else None)
    assert zone.apex == labels("np.example") + b"\0"


@often
@given(name=odd_names.filter(lambda name: len(name) < 255))
def test_zone_of_a_name_is_where_dnspython_puts_it(name: bytes) -> None:
    """Whatever bytes its labels hold."""
    try:
        parsed = decode_query(query(name))
    except ProtocolError:
        return
    found = enum_dns.profile_of(PROFILES[1]).find(parsed.name)
    owner, _ = dns.name.from_wire(name, 0)
    apex = next(
        (
            apex
            for apex in ("sip.np.example.", "np.example.", "example.")
            if owner.is_subdomain(dns.name.from_text(apex))
        ),
        None,
    )
    assert (None if found is None else dns.name.from_wire(found[0].apex, 0)[0].to_text()) == apex


# -- the responder on a real store -----------------------------------------------------------------------


def make(engine: Engine, udp: bool, profile: EnumSettings, over: str = "") -> tuple[EnumResponder, Client]:
    check_enum("enum", profile)
    client = Client(
        ClientSettings(
            "any", (), enum=profile, queries_per_second=int(over == "rate"), queries_per_prefix=int(over == "prefix")
        )
    )
    if over:
        client.take(1, SECOND_NS, PEER[0])
    return EnumResponder(engine, QueryCounters("enum", "udp" if udp else "tcp"), udp=udp), client


def check_reply(message: bytes, reply: bytes, udp: bool) -> None:
    """What holds for every reply: it is one, to this message, within its bounds."""
    seen = dns.message.from_wire(reply)
    flags = int.from_bytes(reply[2:4], "big")
    assert reply[:2] == message[:2]
    assert flags & ~0xF == 0x8000 | flags & 0x0600 | int.from_bytes(message[2:4], "big") & 0x7900
    if seen.question:
        end = 12 + len(seen.question[0].name.to_wire()) + 4
        assert reply[12:end] == message[12:end]
    else:
        assert len(reply) == 12
        assert seen.rcode() in {dns.rcode.FORMERR, dns.rcode.NOTIMP}
    if flags & dns.flags.TC:
        assert not seen.answer
        assert not seen.authority
        assert not seen.additional
        assert udp
    if seen.rcode() not in {dns.rcode.NOERROR, dns.rcode.NXDOMAIN}:
        assert not flags & dns.flags.AA
        assert not seen.answer
        assert not seen.authority
    if udp:
        assert len(reply) <= min(DNS_ANSWER_BYTES_MAX, AMPLIFICATION_MAX * len(message))
        if seen.edns < 0:
            assert len(reply) <= 512
    else:
        assert len(reply) <= DNS_MESSAGE_BYTES_MAX


@often
@given(
    message=messages,
    profile=st.sampled_from(PROFILES),
    udp=st.booleans(),
    state=st.sampled_from(["full"] * 7 + ["empty"]),
    over=st.sampled_from([""] * 5 + ["rate", "prefix"]),
)
def test_any_bytes_get_silence_or_a_reply_that_dnspython_reads(
    engines: dict[str, Engine], message: bytes, profile: EnumSettings, udp: bool, state: str, over: str
) -> None:
    message = message[: DNS_QUERY_BYTES_MAX if udp else DNS_MESSAGE_BYTES_MAX]
    responder, client = make(engines[state], udp, profile, over)
    reply = responder.respond(message, client, SECOND_NS, PEER)
    assert (responder.counters.received, responder.counters.balance()) == (1, 0)
    assert sum(client.usage["enum"]) == 1
    if reply is None:
        limited = over == "rate" or (over == "prefix" and udp)
        assert len(message) < 12 or message[2] & 0x80 or limited
        assert sum(responder.counters.dropped) == 1
        return
    check_reply(message, reply, udp)
    assert responder.respond(reply, client, SECOND_NS, PEER) is None  # two servers never keep each other busy


@often
@given(profile=st.sampled_from(PROFILES), batches=st.lists(st.tuples(SMALL_STEPS, st.booleans()), max_size=4))
def test_books_are_kept_over_any_batches_sent_or_lost(
    engines: dict[str, Engine], profile: EnumSettings, batches: list[tuple[list[tuple[bytes, bool]], bool]]
) -> None:
    responder, client = make(engines["full"], True, profile)
    _, slow = make(engines["full"], True, profile, "rate")
    counters = responder.counters
    for batch, lost in batches:
        before = [*counters.answered, *counters.refused, counters.other]
        replies = [responder.respond(message, slow if over else client, SECOND_NS, PEER) for message, over in batch]
        assert counters.balance() == 0
        if lost:
            responder.take_back(0, sum(reply is not None for reply in replies))
            assert [*counters.answered, *counters.refused, counters.other] == before
            assert counters.balance() == 0
        responder.settle()


def outcome_of(engine: Engine, digits: str) -> Outcome:
    return engine.resolve("+" + digits).outcome


@often
@given(
    digits=st.one_of(
        st.sampled_from(NUMBERS),
        st.from_regex(r"8869[0-9]{0,11}", fullmatch=True),
        st.text("0123456789", min_size=1, max_size=15),
    )
)
def test_number_exists_exactly_if_the_engine_knows_it(engines: dict[str, Engine], digits: str) -> None:
    """And a name that does not exist is NODATA as long as something lies below it."""
    engine = engines["full"]
    responder, client = make(engine, False, PROFILES[0])
    seen = {
        kind: dns.message.from_wire(_reply(responder, client, query(name_of(digits), kind, rest=OPT)))
        for kind in (35, 255, 1)
    }
    outcome = outcome_of(engine, digits)
    if digits == "886223450000":  # ported to a network without a routing number
        assert {message.rcode() for message in seen.values()} == {dns.rcode.SERVFAIL}
        return
    exists = outcome in {Outcome.PORTED, Outcome.NOT_PORTED}
    below = any(outcome_of(engine, digits + rest) in {Outcome.PORTED, Outcome.NOT_PORTED} for rest in _ENDS)
    codes = {message.rcode() for message in seen.values()}
    if exists or below:
        assert codes == {dns.rcode.NOERROR}
    assert len(codes) == 1
    assert len(seen[35].answer) == len(seen[255].answer) == int(exists)
    assert not seen[1].answer


_ENDS = [number[at:] for number in NUMBERS[:4] for at in range(1, len(number))] + ["0" * size for size in range(1, 12)]


def _reply(responder: EnumResponder, client: Client, message: bytes) -> bytes:
    reply: Any = responder.respond(message, client, SECOND_NS, PEER)
    assert reply is not None
    return bytes(reply)
