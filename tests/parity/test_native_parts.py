"""The native engine's parts against the Python ones, which define what is right: any input, the same result."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lookupd.access import Access, Bucket, slot
from lookupd.errors import ConfigError, ProtocolError
from lookupd.model import DROP_REASONS, TN, Answer, NetworkCode, Outcome, Route, RoutingNumber
from lookupd.numbering import Kind, Plan, load_plan
from lookupd.profiles import EnumSettings
from lookupd.protocols import npq, pdb
from lookupd.settings import ClientSettings
from tests.property.test_protocols import (
    answer_lists,
    datagrams,
    evenly,
    ids_32,
    mutations,
    npq_messages,
    npq_queries,
    pdb_datagrams,
    pdb_queries,
)

native = pytest.importorskip("lookupd._native")

often = settings(max_examples=1000, deadline=None)
seldom = settings(max_examples=200, deadline=None)

# -- plan ------------------------------------------------------------------------------------------------


def heads_of(plan: Plan) -> list[tuple[int, str, bool]]:
    return [
        (digits, head, kind.portable)
        for digits, levels in plan._kinds_by_length.items()
        for _, kinds in levels
        for head, kind in kinds.items()
    ]


def both_of(plan: Plan) -> tuple[Plan, Any]:
    return plan, native.Plan(plan.country_code, plan.trunk_prefix, heads_of(plan))


def assert_reads_alike(plans: tuple[Plan, Any], dialled: str) -> None:
    plan, other = plans
    digits = plan.digits(dialled)
    found = other.digits(dialled.encode("utf-8", "surrogatepass"))
    assert found == (None if digits is None else digits.encode())
    if digits is not None:
        kind = plan.kind_of(digits)
        assert other.portable(found) == (None if kind is None else kind.portable)
        assert other.covers(found) == plan.covers(digits)
        assert other.is_incomplete(found) == plan.is_incomplete(digits)


COUNTRIES = [
    both_of(load_plan("886")),
    both_of(load_plan("39")),
    both_of(load_plan("1")),
    both_of(Plan("44", "0", [Kind("mobile", True, ("7",), (10,)), Kind("pager", False, ("76", "70"), (10, 9))])),
    both_of(Plan("7", "8", [Kind("all", True, ("",), (10,))])),
    both_of(Plan("36", "06", [Kind("mobile", True, ("20", "30", "70"), (9,)), Kind("all", False, ("",), (8, 9))])),
]
starts = st.sampled_from(
    ["", "+", "0", "+0", "00", "06", "886", "+886", "09", "8869", "39", "1", "44", "447", "0620", "7"]
)
dialled = st.one_of(
    st.builds(lambda start, rest: start + rest, starts, st.text("0123456789", max_size=17)),
    st.builds(lambda start, rest: start + rest, starts, st.text(max_size=17)),
    st.text("0123456789+ ٨é\0", max_size=20),
)


@pytest.mark.parametrize("plans", COUNTRIES, ids=lambda plans: plans[0].country_code)
@often
@given(text=dialled)
def test_plan_reads_any_text_alike(plans: tuple[Plan, Any], text: str) -> None:
    assert_reads_alike(plans, text)


kinds = st.builds(
    Kind,
    st.just("kind"),
    st.booleans(),
    st.lists(st.text("0123456789", max_size=4), max_size=6).map(tuple),
    st.lists(st.integers(1, 14), max_size=4).map(tuple),
)


@often
@given(
    country_code=st.from_regex(r"[1-9][0-9]{0,2}", fullmatch=True),
    trunk_prefix=st.sampled_from(["", "0", "00", "06", "1", "8"]),
    kinds=st.lists(kinds, max_size=6),
    texts=st.lists(st.text("0123456789", max_size=15), min_size=1, max_size=20),
)
def test_any_plan_reads_alike(country_code: str, trunk_prefix: str, kinds: list[Kind], texts: list[str]) -> None:
    try:
        plans = both_of(Plan(country_code, trunk_prefix, kinds))
    except ConfigError:
        return
    for text in texts:
        for start in ("", "+", country_code, trunk_prefix):
            assert_reads_alike(plans, start + text)


@pytest.mark.parametrize("plans", COUNTRIES, ids=lambda plans: plans[0].country_code)
@often
@given(data=st.data())
def test_plan_says_alike_what_goes_on(plans: tuple[Plan, Any], data: st.DataObject) -> None:
    plan, other = plans
    heads = sorted({head for _, head, _ in heads_of(plan)})
    start = data.draw(st.sampled_from([plan.country_code, *heads]))
    digits = data.draw(
        st.one_of(
            st.integers(1, len(start)).map(lambda end: start[:end]),
            st.text("0123456789", max_size=14).map(lambda rest: (start + rest)[:15]),
            st.text("0123456789", min_size=1, max_size=15),
        )
    )
    assert other.continues(digits.encode()) == plan.continues(digits)


@often
@given(
    country_code=st.from_regex(r"[1-9][0-9]{0,2}", fullmatch=True),
    kinds=st.lists(kinds, max_size=6),
    texts=st.lists(st.text("0123456789", max_size=14), min_size=1, max_size=20),
)
def test_any_plan_says_alike_what_goes_on(country_code: str, kinds: list[Kind], texts: list[str]) -> None:
    try:
        plan, other = both_of(Plan(country_code, "0", kinds))
    except ConfigError:
        return
    for text in (*texts, *(country_code + text for text in texts)):
        if digits := text[:15]:
            assert other.continues(digits.encode()) == plan.continues(digits), digits


# -- clients ---------------------------------------------------------------------------------------------

v4 = st.one_of(
    st.integers(0, 2**32 - 1), st.integers(0, 7).map(lambda low: 0x0A00_0000 + low), st.sampled_from([0, 2**32 - 1])
).map(ipaddress.IPv4Address)
v6 = st.one_of(
    st.integers(0, 2**128 - 1),
    st.integers(0, 7).map(lambda low: (0x2001_0DB8 << 96) + low),
    st.integers(0, 7).map(lambda low: (0xFFFF << 32) + 0x0A00_0000 + low),  # ::ffff:10.0.0.x is no IPv4 address here
    st.sampled_from([0, 2**128 - 1]),
).map(ipaddress.IPv6Address)
addresses = st.one_of(v4, v6)
networks = st.one_of(
    st.builds(lambda address, bits: ipaddress.ip_network((address, bits), strict=False), v4, st.integers(0, 32)),
    st.builds(lambda address, bits: ipaddress.ip_network((address, bits), strict=False), v6, st.integers(0, 128)),
)


def rule(queries_per_second: int, sources: list[str], queries_per_prefix: int = 0) -> Any:
    """One client, its sources as they are."""
    from lookupd.fastpath.native import native_rule

    settings = ClientSettings("any", (), queries_per_second=queries_per_second, queries_per_prefix=queries_per_prefix)
    return native_rule(settings)._replace(sources=sources)


@often
@given(
    lists=st.lists(st.lists(networks.map(str), max_size=4), max_size=6),
    hosts=st.lists(addresses.map(str), min_size=1, max_size=10),
)
def test_client_of_any_address_is_found_alike(lists: list[list[str]], hosts: list[str]) -> None:
    access = Access(tuple(ClientSettings(str(at), tuple(sources)) for at, sources in enumerate(lists)))
    clients = native.Clients([rule(0, sources) for sources in lists])
    assert len(clients) == len(lists)
    inside = [str(ipaddress.ip_network(source)[-1]) for sources in lists for source in sources]
    for host in hosts + inside:
        client = access.find(host)
        assert clients.find(host) == (None if client is None else int(client.name))


def test_what_is_no_address_or_no_network_is_a_value_error() -> None:
    for source in ("", "x", "10.0.0.0/33", "::/129", "10.0.0.0/", "10.0.0.0/-1", "10.0.0/8"):
        if source != "10.0.0.0/":
            with pytest.raises(ValueError, match="is no"):
                native.Clients([rule(0, [source])])
    clients = native.Clients([rule(1, ["fe80::/10"])])
    assert clients.find("fe80::1%eth0") == 0
    with pytest.raises(ValueError, match="is no address"):
        clients.find("localhost")
    with pytest.raises(IndexError):
        clients.take(1, 1, 1)


steps = st.lists(
    st.tuples(
        st.one_of(st.integers(0, 3), st.integers(1, 1000), st.integers(0, 2**64 - 1)),
        st.one_of(st.integers(0, 10**6), st.integers(0, 3 * 10**9), st.integers(-(10**9), 2**62)),
    ),
    max_size=40,
)


@often
@given(
    rate=st.one_of(st.integers(1, 10), st.integers(1, 10**6), st.integers(1, 2**63 - 1)),
    start=st.one_of(st.integers(0, 2**40), st.integers(2**64 - 2**33, 2**64 - 1)),
    steps=steps,
)
@example(rate=1, start=2**64 - 1, steps=[(1000, 0), (1, 0), (2**64 - 1, 0)])
@example(rate=3, start=0, steps=[(1, 0)] * 4 + [(1, 333_333_333), (1, 333_333_332), (1, 1)])
def test_rate_decides_alike(rate: int, start: int, steps: list[tuple[int, int]]) -> None:
    bucket, clients = Bucket(rate), native.Clients([rule(rate, [])])
    now_ns = start
    for queries, passed_ns in steps:
        now_ns = min(max(now_ns + passed_ns, 0), 2**64 - 1)
        assert clients.take(0, queries, now_ns) == bucket.take(queries, now_ns), (queries, now_ns)


def test_no_rate_is_no_limit() -> None:
    clients = native.Clients([rule(0, [])])
    assert all(clients.take(0, 2**64 - 1, 0) for _ in range(10))


@often
@given(client=st.integers(0, 5000), host=addresses.map(str), zone=st.sampled_from(["", "%eth0"]))
def test_prefix_has_the_same_slot(client: int, host: str, zone: str) -> None:
    if ":" in host:
        host += zone
    assert native.slot(client, host) == slot(client, host)


@often
@given(
    rate=st.integers(1, 20),
    per_prefix=st.integers(1, 5),
    asked=st.lists(st.tuples(addresses.map(str), st.integers(0, 10**9)), max_size=60),
)
def test_prefix_decides_alike(rate: int, per_prefix: int, asked: list[tuple[str, int]]) -> None:
    settings = ClientSettings("any", (), queries_per_second=rate, queries_per_prefix=per_prefix)
    access = Access((ClientSettings("first", ()), settings))
    clients = native.Clients([rule(0, []), rule(rate, [], per_prefix)])
    now_ns = 0
    for host, passed_ns in asked:
        now_ns += passed_ns
        assert clients.take(1, 1, now_ns, host) == access.clients[1].take(1, now_ns, host), (host, now_ns)


# -- profiles --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"apexes": ["a..b"]}, "no domain name"),
        ({"apexes": ["a" * 64]}, "no domain name"),
        ({"nameservers": [("ns", ["192.0.2.256"])]}, "no address"),
        ({"services": ["E2U+sip"]}, "not a service"),
        ({"unported": "nothing"}, "unported"),
        ({"tell": "loud"}, "tell"),
    ],
)
def test_enum_profile_that_cannot_be_is_a_value_error(changed: dict[str, Any], message: str) -> None:
    settings: dict[str, Any] = {
        "apexes": ["np.example"], "services": ["E2U+pstn:tel"], "ttl": 60, "negative_ttl": 60, "domain": "",
        "nameservers": [("ns.test", ["192.0.2.1", "fe80::1%eth0"])], "unported": "npdi", "rn_context": "",
        "cic_context": "", "unmapped_routing_number": "", "tell": "no",
    }  # fmt: skip
    native.EnumProfile(**settings)
    with pytest.raises(ValueError, match=message):
        native.EnumProfile(**settings | changed)


def test_clients_with_equal_settings_share_a_profile() -> None:
    from lookupd.fastpath.native import native_rule

    profiles = [
        native_rule(
            ClientSettings(name, (), enum=EnumSettings(ttl=ttl, nameservers={"ns.test": ("::1",)}))
        ).enum_profile
        for name, ttl in (("one", 60), ("two", 60), ("three", 61))
    ]
    assert profiles[0] is profiles[1] is not profiles[2]


def test_clients_that_share_a_slot_keep_their_own_rates() -> None:
    rates = {0: 3, 1: 1}
    first = "10.0.0.1"
    shared = next(
        host for host in (f"10.{at >> 8 & 255}.{at & 255}.1" for at in range(65_536)) if slot(1, host) == slot(0, first)
    )
    access = Access(tuple(ClientSettings(str(at), (), queries_per_prefix=rate) for at, rate in rates.items()))
    clients = native.Clients([rule(0, [], rate) for rate in rates.values()])
    decided = []
    for at, host, now_ns in ((0, first, 0), (1, shared, 0), (0, first, 0), (1, shared, 10**9), (0, first, 10**9)):
        decided.append(access.clients[at].take(1, now_ns, host))
        assert clients.take(at, 1, now_ns, host) == decided[-1]
    # A third of a second twice, then a whole one, which leaves nothing for that second.
    assert decided == [True, False, True, True, False]


# -- npq -------------------------------------------------------------------------------------------------


def npq_found(message: bytes) -> tuple[Any, Any]:
    """As `_native.decode_npq` tells it."""
    try:
        query = npq.decode_query(message)
    except npq.QueryRefused as error:
        return None, (DROP_REASONS.index(error.reason), error.query_id, error.code)
    except ProtocolError as error:
        return None, (DROP_REASONS.index(error.reason), None, None)
    numbers = [number.encode() for number in npq.numbers_of(query)]
    return (query.id, query.detail == npq.DETAIL_NAMES, isinstance(query.numbers, list), numbers), None


@often
@given(message=evenly(npq_queries, npq_messages, mutations(npq_messages), mutations(npq_messages), datagrams))
def test_npq_message_is_read_alike(message: bytes) -> None:
    assert native.decode_npq(message) == npq_found(message)


HEADS = [b"\x94\x01\x00\x05", b"\x95\x01\x00\x05\xa0", b"\x96\x01\x00\x05\xa0\x00", b"\x97\x01\x00\x05\xa0\x01"]
HEADS += [b"\x94\x02\x00\x05", b"\x93\x01\x00", b"\x92\x01\x00", b"\x91\x01", b""]


@pytest.mark.parametrize("start", HEADS, ids=lambda start: start.hex(" "))
def test_value_of_every_first_byte_is_read_alike(start: bytes) -> None:
    for code in range(256):
        for rest in (b"", b"\0", b"\0\0", b"\0\1\2\3", b"\0\0\0\1x", b"\1ab", b"\xff" * 9, b"\x80" + b"\0" * 20):
            for end in range(0, 22):
                message = start + bytes([code]) + rest + b"\0" * end
                assert native.decode_npq(message) == npq_found(message), message.hex(" ")


@pytest.mark.parametrize("start", HEADS, ids=lambda start: start.hex(" "))
@pytest.mark.parametrize("level", [b"\x91", b"\x81\xa1k", b"\x81", b"\x92\x00", b"\xdc\0\1", b"\xdf\0\0\0\1"])
@pytest.mark.parametrize("depth", [10, 900, 1100, 20_000])
def test_deep_nesting_is_read_alike(start: bytes, level: bytes, depth: int) -> None:
    for end in (b"", b"\xc0", b"\xc0" * (depth + 1), b"\xc0" * (depth + 2), b"\xc1"):
        message = start + level * depth + end
        assert native.decode_npq(message) == npq_found(message)


@pytest.mark.parametrize("count", [0, 1, 15, 16, 999, 1000, 1001, 65_535])
def test_numbers_of_a_batch_are_counted_alike(count: int) -> None:
    for number in ("1", 886912345678):
        message = npq._encode((1, 0, 5, [number] * count, 1))
        assert native.decode_npq(message) == npq_found(message)


def row_of(answer: Answer) -> tuple[Any, ...]:
    route = answer.route and (answer.route.network_code, answer.route.routing_number, answer.route.operator)
    restriction = answer.restriction and (int(answer.restriction.measure), answer.restriction.until)
    return answer.tn, int(answer.outcome), route, restriction, answer.serial, answer.age_seconds


@seldom
@given(answers=answer_lists(), query_id=ids_32, detail=st.integers(-1, 2), bytes_max=st.integers(20, 5000))
def test_npq_answer_is_written_alike(answers: list[Answer], query_id: int, detail: int, bytes_max: int) -> None:
    rows = [row_of(answer) for answer in answers]
    for numbers in ("110", ["110"] * len(answers)):
        message = npq.encode_query(query_id, numbers, detail)
        reply = npq.encode_answer(npq.decode_query(message), answers, bytes_max)
        assert native.encode_npq(message, rows, bytes_max) == reply


@pytest.mark.parametrize("characters", [1, 31, 32, 64, 255, 256, 65_535, 65_536])
@pytest.mark.parametrize("tn", [None, 12_345, 65_536, 2**32 - 1, 2**32, 10**15 - 1])
def test_every_width_is_written_alike(characters: int, tn: int | None) -> None:
    route = Route(NetworkCode("1401"), RoutingNumber("D0401"), "x" * characters, None, True)
    for serial, age in ((0, None), (127, 0), (128, 127), (255, 128), (256, 255), (65_535, 65_536), (2**32 - 1, 2**40)):
        answer = Answer("1", None if tn is None else TN(tn), Outcome.PORTED, route, None, serial, age)
        for count in (1, 15, 16, 17):
            message = npq.encode_query(serial, ["1"] * count, 1)
            reply = npq.encode_answer(npq.decode_query(message), [answer] * count, 1 << 21)
            assert native.encode_npq(message, [row_of(answer)] * count, 1 << 21) == reply
            for spare in (-1, 0, 1):
                bound = len(reply[0]) + spare
                short = npq.encode_answer(npq.decode_query(message), [answer] * count, bound)
                assert native.encode_npq(message, [row_of(answer)] * count, bound) == short


@pytest.mark.parametrize("query_id", [None, 0, 127, 128, 255, 256, 65_535, 65_536, 2**32 - 1])
def test_npq_error_is_written_alike(query_id: int | None) -> None:
    for code in npq.ERROR_TEXTS:
        assert native.encode_npq_error(query_id, code) == npq.encode_error(npq.QueryRefused(query_id, code))


# -- pdb -------------------------------------------------------------------------------------------------


def pdb_found(datagram: bytes, legacy: bool) -> tuple[pdb.PdbQuery | None, int | None]:
    try:
        return pdb.decode_query(datagram, legacy=legacy), None
    except ProtocolError as error:
        return None, DROP_REASONS.index(error.reason)


@pytest.mark.parametrize("legacy", [True, False])
@often
@given(
    datagram=evenly(pdb_queries, pdb_datagrams, mutations(pdb_datagrams), datagrams),
    carrier_id=st.none() | st.integers(1, 32_767),
)
@example(datagram=b"8" * 252, carrier_id=1)
@example(datagram=b"8" * 253, carrier_id=1)
def test_pdb_datagram_is_read_and_answered_alike(legacy: bool, datagram: bytes, carrier_id: int | None) -> None:
    query, reason = pdb_found(datagram, legacy)
    if query is None:
        assert native.decode_pdb(datagram, legacy) == (None, reason)
        return
    number = None if query.number is None else query.number.encode()
    assert native.decode_pdb(datagram, legacy) == ((query.id, number, query.odd), None)
    assert native.encode_pdb(datagram, carrier_id) == pdb.encode_answer(query, carrier_id)
