"""What a client's `[enum]` settings make of its answers: names, records, nameservers, and what is told of the data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from lookupd.engine import Engine
from lookupd.limits import NAPTR_TEXT_BYTES_MAX
from lookupd.profiles import EnumSettings
from lookupd.protocols import enum_dns
from tests.conftest import Workbench
from tests.enum_bench import (
    CONFIRMED_AT,
    NODATA,
    NOTHING,
    REFUSED,
    TWO,
    Bench,
    Seen,
    found,
    name_of,
    naptr,
    opened,
    query,
    soa,
)


@pytest.fixture
def engine(workbench: Workbench) -> Iterator[Engine]:
    """The sample data, serial 3, 42 seconds old."""
    workbench.load_tables()
    workbench.snapshot(now=CONFIRMED_AT)
    with opened(workbench) as engine:
        yield engine


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
    with opened(workbench) as engine:
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
    with opened(workbench) as engine:
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
