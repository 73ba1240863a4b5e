"""ENUM's messages against the protocol sheet's own bytes, row by row, and step by step of how a query is judged."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from lookupd.engine import Engine
from lookupd.limits import AMPLIFICATION_MAX, DNS_ADDITIONAL_MAX, DNS_ANSWER_BYTES_MAX
from lookupd.model import UnixSeconds
from lookupd.observe.counters import OVER_RATE, RATE, UNSENT
from lookupd.store.schema import BLOCK_KEY
from tests.conftest import PLAN, Workbench
from tests.enum_bench import (
    APEX,
    CONFIRMED_AT,
    NODATA,
    NOTHING,
    OPT,
    OPT_DO,
    REFUSED,
    TWO,
    UNAVAILABLE,
    Bench,
    Seen,
    found,
    labels,
    name_of,
    naptr,
    number_query,
    opened,
    opt,
    padded,
    query,
    read,
    soa,
)
from tests.unit.test_damage import damage, flipped


@pytest.fixture
def engine(workbench: Workbench) -> Iterator[Engine]:
    """The sample data, serial 3, 42 seconds old."""
    workbench.load_tables()
    workbench.snapshot(now=CONFIRMED_AT)
    with opened(workbench) as engine:
        yield engine


@pytest.fixture
def sheet_engine(workbench: Workbench) -> Iterator[Engine]:
    """The sheet's data: one number, and a serial made of a date."""
    workbench.load_tables(ranges="prefix,network_code\n")
    workbench.snapshot(
        "tn,network_code,routing_number,donor,ported_at\n886912345678,1402,88693500,,\n", now=CONFIRMED_AT
    )
    with opened(workbench) as engine:
        engine.serial = 2_026_112_201
        yield engine


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

OTHER = labels("key.example") + b"\0" + struct.pack(">HHIH", 250, 255, 0, 3) + b"abc"
"""A record that is passed over."""

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
    (
        "too many additional records",
        query("np.example", counts=(1, 0, 0, DNS_ADDITIONAL_MAX + 1), rest=OPT + OTHER * DNS_ADDITIONAL_MAX),
    ),
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
    """One label that ends with all bytes of the apex, before the root that both have."""
    for inner in (b"x" + APEX[:-1], b"\x018" + APEX[:-1], APEX[:-1]):
        name = bytes([len(inner)]) + inner + b"\0"
        assert name.endswith(APEX)
        assert read(Bench(engine).ask(query(name, rest=OPT))) == REFUSED


def test_label_bytes_that_look_like_digits_are_not(engine: Engine) -> None:
    """A label of three bytes, the middle one 01, as if there were two of one digit."""
    bench = Bench(engine)
    for name in (b"\x038\x018" + APEX, b"\x018\x038\x018" + APEX, b"\x01\x01" + APEX, b"\x01\xb2" + APEX):
        assert read(bench.ask(query(name, rest=OPT))) == NOTHING
    assert bench.told() == {"other": 4}


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
    for before in range(DNS_ADDITIONAL_MAX):
        behind = DNS_ADDITIONAL_MAX - 1 - before
        rest = OTHER * before + OPT + OTHER * behind
        message = query(name_of("886912345678"), counts=(1, 0, 0, DNS_ADDITIONAL_MAX), rest=rest)
        assert read(Bench(engine).ask(message)) == found(naptr(";npdi;rn=+D0402"))
    message = query(name_of("886912345678"), counts=(1, 0, 0, 1), rest=OTHER)
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


# -- data that cannot be answered from -------------------------------------------------------------------


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
    with opened(workbench) as engine:
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
    assert [len(over_tcp.number("886912345678").answers) for _ in range(3)] == [1, 1, 1]


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
