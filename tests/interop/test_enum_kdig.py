"""ENUM as the tools of a DNS operator see it: Debian's kdig and dig, and dnspython.

Each tool parses every byte of an answer with code of its own, and complains in words or by an exception about what
is not as it must be; what it prints is what counts.
"""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.query
import dns.rcode
import dns.rdatatype
import dns.resolver
import dns.rrset
import dns.zone
import pytest

from lookupd.fastpath import native_missing
from tests.conftest import Workbench
from tests.interop.enum_site import (
    APEX,
    HELD,
    HELD_DATA,
    PORTED,
    PORTED_DATA,
    PROFILE,
    UNALLOCATED,
    UNMAPPED,
    EnumServer,
    name_of,
    run_enum,
)

PATIENCE_SECONDS = 5

needs_kdig = pytest.mark.skipif(not shutil.which("kdig"), reason="needs the package knot-dnsutils")
own_daemon = pytest.mark.usefixtures("each_engine")
needs_dig = pytest.mark.skipif(not shutil.which("dig"), reason="needs the package bind9-dnsutils")

NAMESERVERS = """[enum.nameservers]
"ns1.np.example" = ["192.0.2.53", "2001:db8::53"]
"ns2.operator.example" = []
"""
BOTH_SERVICES = PROFILE + 'service = ["E2U+pstn:tel", "E2U+pstn:sip"]\ndomain = "gateway.operator.example:5060"\n'
"""Two records: over four times the length of a question without EDNS."""


@pytest.fixture(scope="module", params=["python", "native"])
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EnumServer]:
    """With the settings of most tests, for all of them."""
    if request.param == "native" and (missing := native_missing()) is not None:
        pytest.skip(missing)
    bench = Workbench(tmp_path_factory.mktemp("running"))
    bench.engine = request.param
    bench.load_tables()
    bench.snapshot()
    with run_enum(bench) as server:
        yield server


@pytest.fixture
def server(running: EnumServer) -> EnumServer:
    """Its counters begin at 0."""
    running.count_anew()
    return running


# -- kdig and dig ----------------------------------------------------------------------------------------


@dataclass
class Heard:
    """One answer as kdig or dig prints it. Records: owner, TTL, type, data."""

    status: str
    flags: set[str]
    answer: list[str]
    authority: list[str]
    additional: list[str]
    edns: str
    transport: str
    text: str


def read_answer(text: str) -> Heard:
    """The output of one query."""
    status = re.search(r"status: (\w+)", text)
    flags = re.search(r"^;; [Ff]lags: ?([a-z ]*);", text, re.MULTILINE)
    assert status, text
    assert flags, text
    edns = re.search(r"EDNS PSEUDOSECTION:\n;; (.*)$|^; EDNS: (.*)$", text, re.MULTILINE)
    over = re.findall(r"^;; (?:From|SERVER:) .*\((UDP|TCP)\)", text, re.MULTILINE)
    sections = [read_section(text, name) for name in ("ANSWER", "AUTHORITY", "ADDITIONAL")]
    return Heard(status[1], set(flags[1].split()), *sections, edns[0] if edns else "", over[-1], text)


def read_section(text: str, name: str) -> list[str]:
    found = re.search(rf"^;; {name} SECTION:\n((?:[^;\n].*\n)*)", text, re.MULTILINE)
    lines = [line.split(None, 4) for line in found[1].splitlines()] if found else []
    return [f"{owner} {ttl} {kind} {data}" for owner, ttl, _, kind, data in lines]


def run_tool(server: EnumServer, tool: str, *arguments: str) -> str:
    """What it prints. It asks once."""
    once = {"kdig": "+retry=0", "dig": "+tries=1"}[tool]
    command = [tool, "@127.0.0.1", "-p", str(server.port), once, f"+timeout={PATIENCE_SECONDS}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert not re.search(r"(?i)malformed|bogus|mismatch|extra bytes|garbage|message has", done.stdout + done.stderr), (
        done.stdout
    )
    return done.stdout + done.stderr


Ask = Callable[..., Heard]


@pytest.fixture(
    params=[pytest.param("kdig", marks=needs_kdig), pytest.param("dig", marks=needs_dig)],
)
def ask(request: pytest.FixtureRequest, server: EnumServer) -> Ask:
    """One question by each tool. kdig sends no EDNS unless told to, dig always does."""
    more = [] if request.param == "kdig" else ["+noedns"]
    return lambda *arguments: read_answer(run_tool(server, request.param, *more, *arguments))


def soa(server: EnumServer, ttl: int = 60) -> str:
    return f"{APEX}. {ttl} SOA ns.{APEX}. hostmaster.{APEX}. {server.serial} 3600 600 604800 60"


def test_ported_number_gives_its_record(ask: Ask) -> None:
    name = name_of(PORTED)
    heard = ask("NAPTR", name)
    assert (heard.status, heard.flags, heard.edns) == ("NOERROR", {"qr", "aa", "rd"}, "")
    assert heard.answer == [f"{name}. 60 NAPTR {PORTED_DATA}"]
    assert heard.authority == heard.additional == []
    assert ask("NAPTR", name, "+norecurse").flags == {"qr", "aa"}


@pytest.mark.parametrize(
    ("options", "transport", "edns"),
    [
        (["+tcp"], "TCP", False),
        (["+tcp", "+edns=0"], "TCP", True),
        (["+edns=0"], "UDP", True),
        (["+edns=0", "+bufsize=512"], "UDP", True),
        (["+edns=0", "+bufsize=100"], "UDP", True),
        (["+edns=0", "+bufsize=65535"], "UDP", True),
        (["+nsid"], "UDP", True),
        (["+cookie=0123456789abcdef"], "UDP", True),
        (["+padding=128"], "UDP", True),
        (["+edns=0", "+ednsopt=65001:00"], "UDP", True),
        (["+cdflag", "+adflag"], "UDP", False),
    ],
)
def test_options_of_a_question_change_no_answer(ask: Ask, options: list[str], transport: str, edns: bool) -> None:
    heard = ask("NAPTR", name_of(PORTED), *options)
    assert (heard.status, heard.flags) == ("NOERROR", {"qr", "aa", "rd"})
    assert heard.answer == [f"{name_of(PORTED)}. 60 NAPTR {PORTED_DATA}"]
    assert heard.transport == transport
    assert bool(heard.edns) is edns
    assert re.search(r"(UDP size|udp): 1232", heard.edns) or not edns


def test_answer_says_whether_dnssec_was_asked_for(ask: Ask) -> None:
    heard = ask("NAPTR", name_of(PORTED), "+dnssec")
    assert re.search(r"flags: do; ", heard.edns)
    assert heard.answer == [f"{name_of(PORTED)}. 60 NAPTR {PORTED_DATA}"]  # unsigned


def test_number_not_ported_has_npdi_alone(ask: Ask) -> None:
    assert ask("NAPTR", name_of(HELD)).answer == [f"{name_of(HELD)}. 60 NAPTR {HELD_DATA}"]


@pytest.mark.parametrize(
    ("name", "kind", "status"),
    [
        (name_of(UNALLOCATED), "NAPTR", "NXDOMAIN"),
        (name_of(f"{PORTED}0"), "NAPTR", "NXDOMAIN"),
        (name_of("88693"), "NAPTR", "NXDOMAIN"),
        (name_of("9" * 16), "NAPTR", "NXDOMAIN"),
        (f"sip.{name_of(PORTED)}", "NAPTR", "NXDOMAIN"),
        (f"12.{name_of('886')}", "NAPTR", "NXDOMAIN"),
        (f"_sip._udp.{APEX}", "SRV", "NXDOMAIN"),
        (f"*.{APEX}", "NAPTR", "NXDOMAIN"),
        (name_of(PORTED[:-1]), "NAPTR", "NOERROR"),
        (name_of("8869"), "NAPTR", "NOERROR"),
        (name_of("88691"), "NAPTR", "NOERROR"),
        (name_of("8"), "A", "NOERROR"),
        (name_of(PORTED), "A", "NOERROR"),
        (name_of(PORTED), "TXT", "NOERROR"),
        (name_of(PORTED), "HTTPS", "NOERROR"),
        (name_of(PORTED), "TYPE65280", "NOERROR"),
        (APEX, "NAPTR", "NOERROR"),
        (APEX, "A", "NOERROR"),
    ],
)
def test_what_is_not_there_comes_with_the_soa(server: Workbench, ask: Ask, name: str, kind: str, status: str) -> None:
    heard = ask(kind, name)
    assert (heard.status, heard.flags) == (status, {"qr", "aa", "rd"})
    assert heard.authority == [soa(server)]
    assert heard.answer == heard.additional == []


def test_apex_has_soa_and_nameservers(server: EnumServer, ask: Ask) -> None:
    assert ask("SOA", APEX).answer == [soa(server, 3600)]
    assert ask("NS", APEX).answer == [f"{APEX}. 3600 NS ns.{APEX}."]
    assert ask("ANY", APEX, "+tcp").answer == [soa(server, 3600), f"{APEX}. 3600 NS ns.{APEX}."]


def test_any_gives_the_records_of_a_number(ask: Ask) -> None:
    assert ask("ANY", name_of(PORTED)).answer == [f"{name_of(PORTED)}. 60 NAPTR {PORTED_DATA}"]


@pytest.mark.parametrize(
    "question",
    [
        ("NAPTR", name_of(PORTED, "e164.arpa")),
        ("NAPTR", name_of(PORTED, "example")),
        ("SOA", "example"),
        ("NS", "."),
        ("NAPTR", name_of(PORTED, f"x{APEX}")),
        ("-c", "CH", "-t", "TXT", "version.bind"),
        ("-c", "CLASS4", "-t", "NAPTR", name_of(PORTED)),
        ("-c", "ANY", "-t", "NAPTR", name_of(PORTED)),
    ],
)
def test_what_is_not_ours_is_refused(ask: Ask, question: tuple[str, ...]) -> None:
    heard = ask(*question)
    assert (heard.status, heard.flags) == ("REFUSED", {"qr", "rd"})
    assert heard.answer == heard.authority == heard.additional == []


def test_number_whose_network_has_no_routing_number_fails(ask: Ask) -> None:
    heard = ask("NAPTR", name_of(UNMAPPED))
    assert (heard.status, heard.flags) == ("SERVFAIL", {"qr", "rd"})


@needs_dig
def test_case_of_a_name_is_kept_and_ignored(server: EnumServer) -> None:
    # kdig makes names small before it asks.
    name = name_of(PORTED, "nP.eXaMPLe")
    heard = read_answer(run_tool(server, "dig", "NAPTR", name))
    assert f";{name}." in heard.text
    assert heard.answer == [f"{name}. 60 NAPTR {PORTED_DATA}"]
    missing = read_answer(run_tool(server, "dig", "NAPTR", name_of(UNALLOCATED, "Np.ExAmple")))
    assert missing.status == "NXDOMAIN"
    assert missing.authority[0].lower().startswith(f"{APEX}. 60 soa ns.{APEX}. ")


@pytest.mark.parametrize(
    ("tool", "options", "status"),
    [
        pytest.param("kdig", ("+edns=1",), "BADVERS", marks=needs_kdig),
        pytest.param("dig", ("+edns=1", "+noednsnegotiation"), "BADVERS", marks=needs_dig),
        pytest.param("dig", ("+edns=1",), "NOERROR", marks=needs_dig),  # asks again by version 0
        pytest.param("dig", ("+opcode=NOTIFY",), "NOTIMP", marks=needs_dig),
        pytest.param("dig", ("+opcode=UPDATE",), "NOTIMP", marks=needs_dig),
        pytest.param("dig", ("+opcode=STATUS",), "NOTIMP", marks=needs_dig),
        pytest.param("dig", ("+header-only",), "FORMERR", marks=needs_dig),
    ],
)
def test_what_is_not_spoken_gets_its_code(server: EnumServer, tool: str, options: tuple[str, ...], status: str) -> None:
    heard = read_answer(run_tool(server, tool, "NAPTR", name_of(PORTED), *options))
    assert heard.status == status
    assert bool(heard.answer) is (status == "NOERROR")


@pytest.mark.parametrize("kind", ["AXFR", "IXFR=1"])
@pytest.mark.parametrize("tool", [pytest.param("kdig", marks=needs_kdig), pytest.param("dig", marks=needs_dig)])
def test_zone_is_not_given_away(server: EnumServer, tool: str, kind: str) -> None:
    text = run_tool(server, tool, "+tcp", kind, APEX)
    assert re.search(r"REFUSED|Transfer failed", text)
    assert not read_section(text, "ANSWER")
    assert server.received == 1


@needs_kdig
def test_many_questions_on_one_connection(server: EnumServer) -> None:
    names = [name_of(digits) for digits in (PORTED, HELD, UNALLOCATED, UNMAPPED)] * 5
    command = ["+tcp", "+keepopen", *(part for name in names for part in ("NAPTR", name))]
    text = run_tool(server, "kdig", *command)
    assert re.findall(r"status: (\w+)", text) == ["NOERROR", "NOERROR", "NXDOMAIN", "SERVFAIL"] * 5
    assert re.findall(r"\((UDP|TCP)\)", text) == ["TCP"] * 20
    assert server.total("connections_opened") == 1
    assert server.received == 20


@needs_dig
def test_dig_keeps_its_connection_as_well(server: EnumServer) -> None:
    names = [name_of(digits) for digits in (PORTED, HELD, UNALLOCATED)]
    text = run_tool(server, "dig", "+tcp", "+keepopen", *(part for name in names for part in ("NAPTR", name)))
    assert re.findall(r"status: (\w+)", text) == ["NOERROR", "NOERROR", "NXDOMAIN"]
    assert server.total("connections_opened") == 1


@own_daemon
@pytest.mark.parametrize(
    ("tool", "options"),
    [pytest.param("kdig", [], marks=needs_kdig), pytest.param("dig", ["+noedns"], marks=needs_dig)],
)
def test_long_answer_is_truncated_and_fetched_over_tcp(loaded: Workbench, tool: str, options: list[str]) -> None:
    with run_enum(loaded, BOTH_SERVICES) as server:
        cut = read_answer(run_tool(server, tool, *options, "+ignore", "NAPTR", name_of(PORTED)))
        assert (cut.status, cut.flags, cut.transport) == ("NOERROR", {"qr", "aa", "tc", "rd"}, "UDP")
        assert cut.answer == cut.authority == []
        whole = read_answer(run_tool(server, tool, *options, "NAPTR", name_of(PORTED)))
        assert (whole.status, whole.transport) == ("NOERROR", "TCP")
        assert len(whole.answer) == 2
        assert server.received == 3
        assert server.count("received", transport="tcp") == server.total("connections_opened") == 1


@own_daemon
@needs_kdig
def test_nameservers_come_with_their_addresses(loaded: Workbench) -> None:
    with run_enum(loaded, PROFILE + NAMESERVERS) as server:
        heard = read_answer(run_tool(server, "kdig", "+edns=0", "NS", APEX))
        assert heard.answer == [f"{APEX}. 3600 NS ns1.{APEX}.", f"{APEX}. 3600 NS ns2.operator.example."]
        assert heard.additional == [f"ns1.{APEX}. 3600 A 192.0.2.53", f"ns1.{APEX}. 3600 AAAA 2001:db8::53"]
        address = read_answer(run_tool(server, "kdig", "AAAA", f"ns1.{APEX}"))
        assert address.answer == [f"ns1.{APEX}. 3600 AAAA 2001:db8::53"]


@own_daemon
@needs_kdig
def test_number_tells_serial_and_age_where_that_is_set(loaded: Workbench) -> None:
    with run_enum(loaded, PROFILE + 'tell = "txt"\n') as server:
        [record] = read_answer(run_tool(server, "kdig", "TXT", name_of(PORTED))).answer
        assert re.fullmatch(rf'{name_of(PORTED)}\. 60 TXT "serial={server.serial} age=(\d+|-)"', record)
    with run_enum(loaded, PROFILE + 'tell = "edns"\n') as server:
        text = run_tool(server, "kdig", "+edns=0", "NAPTR", name_of(PORTED))
        assert re.search(rf"Option \(65001\): {server.serial:08X}[0-9A-F]{{8}}\n", text), text
        assert "65001" not in run_tool(server, "kdig", "NAPTR", name_of(PORTED))


def test_drill_reads_a_record_as_freeswitch_would(server: EnumServer) -> None:
    # drill and FreeSWITCH share a library, ldns, and its text of a record, which FreeSWITCH splits at each blank.
    if not shutil.which("drill"):
        pytest.skip("needs the package ldnsutils")
    command = ["drill", "-p", str(server.port), "-o", "rd", name_of(PORTED), "@127.0.0.1", "NAPTR"]
    wanted = f"60 IN NAPTR {PORTED_DATA}"
    for options in ([], ["-t"]):
        text = subprocess.run([*command, *options], capture_output=True, text=True, timeout=60, check=True).stdout
        [record] = [line for line in text.splitlines() if line.startswith(f"{name_of(PORTED)}.\t")]
        assert record.replace("\t", " ").split(" ") == [f"{name_of(PORTED)}.", *wanted.split()]


# -- dnspython -------------------------------------------------------------------------------------------


Transport = Callable[..., dns.message.Message]
TRANSPORTS = pytest.mark.parametrize("exchange", [dns.query.udp, dns.query.tcp])


def query(server: EnumServer, exchange: Transport, message: dns.message.Message) -> dns.message.Message:
    """Nothing may be ignored: a reply that does not fit its question or has more behind it raises."""
    return exchange(message, "127.0.0.1", timeout=PATIENCE_SECONDS, port=server.port)


def question(digits: str, **options: Any) -> dns.message.QueryMessage:
    return dns.message.make_query(name_of(digits), "NAPTR", **options)


@TRANSPORTS
@pytest.mark.parametrize("edns", [False, 0], ids=["plain", "edns"])
def test_dnspython_reads_the_record(server: EnumServer, exchange: Transport, edns: bool | int) -> None:
    reply = query(server, exchange, question(PORTED, use_edns=edns))
    assert reply.flags == dns.flags.QR | dns.flags.AA | dns.flags.RD
    assert reply.edns == (-1 if edns is False else 0)
    [records] = reply.answer
    [record] = records
    assert (record.order, record.preference, record.flags, record.service) == (100, 10, b"u", b"E2U+pstn:tel")
    assert record.regexp == rb"!^(.*)$!tel:\1;npdi;rn=D0402;rn-context=+886!"
    assert record.replacement == dns.name.root


def test_dnspython_resolver_finds_and_misses(server: EnumServer) -> None:
    resolver = dns.resolver.Resolver(configure=False)
    resolver.nameservers, resolver.port, resolver.lifetime = ["127.0.0.1"], server.port, PATIENCE_SECONDS
    found = resolver.resolve(name_of(PORTED), "NAPTR")
    assert [record.to_text() for record in found] == [PORTED_DATA]
    with pytest.raises(dns.resolver.NXDOMAIN):
        resolver.resolve(name_of(UNALLOCATED), "NAPTR")
    with pytest.raises(dns.resolver.NoAnswer):
        resolver.resolve(name_of("8869"), "NAPTR")
    with pytest.raises(dns.resolver.NoNameservers, match="SERVFAIL"):
        resolver.resolve(name_of(UNMAPPED), "NAPTR")
    assert str(dns.resolver.zone_for_name(name_of(PORTED), resolver=resolver)) == f"{APEX}."


def test_zone_made_name_by_name_is_a_whole_one(server: EnumServer) -> None:
    # What a zone file needs can be asked for: SOA and NS at the apex, a record for each number.
    zone = dns.zone.Zone(APEX, relativize=False)
    for name, kind in ((APEX, "SOA"), (APEX, "NS"), *((name_of(n), "NAPTR") for n in (PORTED, HELD))):
        reply = query(server, dns.query.tcp, dns.message.make_query(name, kind))
        [records] = reply.answer
        zone.replace_rdataset(records.name, records.to_rdataset())
    zone.check_origin()
    assert zone.get_soa().serial == server.serial
    assert zone.get_rdataset(f"{name_of(PORTED)}.", "NAPTR").to_text() == f"60 IN NAPTR {PORTED_DATA}"


def test_questions_sent_at_once_are_all_answered(server: EnumServer) -> None:
    # RFC 7766 section 6.2.1.1: several questions wait on one connection.
    messages = [question(digits) for digits in (PORTED, HELD, UNALLOCATED) * 10]
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE_SECONDS) as sock:
        wires = [message.to_wire() for message in messages]
        sock.sendall(b"".join(len(wire).to_bytes(2, "big") + wire for wire in wires))
        replies = [dns.query.receive_tcp(sock, None)[0] for _ in messages]
    by_id = {reply.id: reply for reply in replies}
    assert all(message.is_response(by_id[message.id]) for message in messages)
    assert server.total("connections_opened") == 1


HEADER = bytes.fromhex("1a2b 0100 0001 0000 0000 0000")
NAME = dns.name.from_text(name_of(PORTED)).to_wire() or b""
NAPTR_IN = bytes.fromhex("0023 0001")
OPT = bytes.fromhex("00 0029 04d0 00000000 0000")


def counted(*counts: int) -> bytes:
    """A header with these counts."""
    return HEADER[:4] + b"".join(count.to_bytes(2, "big") for count in counts)


FORMERR = {
    "no question": counted(0, 0, 0, 0),
    "two questions": counted(2, 0, 0, 0) + (NAME + NAPTR_IN) * 2,
    "name without an end": counted(1, 0, 0, 0) + NAME[:-1],
    "no type": counted(1, 0, 0, 0) + NAME,
    "pointer in the question": counted(1, 0, 0, 0) + b"\xc0\x0c" + NAPTR_IN,
    "label type 01": counted(1, 0, 0, 0) + b"\x41a\0" + NAPTR_IN,
    "label type 10": counted(1, 0, 0, 0) + b"\x81a\0" + NAPTR_IN,
    "name of 257 bytes": counted(1, 0, 0, 0) + (b"\x3f" + b"a" * 63) * 4 + b"\0" + NAPTR_IN,
    "an answer": counted(1, 1, 0, 0) + NAME + NAPTR_IN,
    "an authority": counted(1, 0, 1, 0) + NAME + NAPTR_IN,
    "two OPTs": counted(1, 0, 0, 2) + NAME + NAPTR_IN + OPT * 2,
    "OPT with a name": counted(1, 0, 0, 1) + NAME + NAPTR_IN + b"\x01a" + OPT,
    "OPT cut": counted(1, 0, 0, 1) + NAME + NAPTR_IN + OPT[:-1],
    "OPT whose option runs over": counted(1, 0, 0, 1) + NAME + NAPTR_IN + OPT[:-1] + b"\x04\0\x0a\0\x09",
    "OPT that is missing": counted(1, 0, 0, 1) + NAME + NAPTR_IN,
}


@pytest.mark.parametrize("wire", FORMERR.values(), ids=FORMERR.keys())
def test_malformed_question_gets_formerr(server: EnumServer, wire: bytes) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(PATIENCE_SECONDS)
        sock.connect(("127.0.0.1", server.port))
        sock.send(wire)
        reply = dns.message.from_wire(sock.recv(4096))
    assert (reply.id, reply.rcode(), reply.opcode()) == (0x1A2B, dns.rcode.FORMERR, dns.opcode.QUERY)
    assert reply.flags & (dns.flags.QR | dns.flags.AA) == dns.flags.QR
    assert [reply.question, reply.answer, reply.authority, reply.options] == [[]] * 3 + [()]
    assert server.count("dropped", reason="malformed") == 1


@pytest.mark.parametrize(
    "wire",
    [b"", HEADER[:11], HEADER[:2] + b"\x81\0" + HEADER[4:] + NAME + NAPTR_IN],
    ids=["nothing", "cut header", "a reply"],
)
def test_what_must_not_be_answered_meets_silence(server: EnumServer, wire: bytes) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(PATIENCE_SECONDS)
        sock.connect(("127.0.0.1", server.port))
        sock.send(wire)
        sock.send(question(PORTED, id=7).to_wire())  # an answer to the first would come before
        assert dns.message.from_wire(sock.recv(4096)).id == 7
    assert server.count("dropped") == 1


@own_daemon
def test_class_and_type_that_nobody_knows(server: EnumServer) -> None:
    reply = query(server, dns.query.udp, dns.message.make_query(name_of(PORTED), 65280))
    assert (reply.rcode(), reply.answer) == (dns.rcode.NOERROR, [])
    reply = query(server, dns.query.udp, dns.message.make_query(name_of(PORTED), "NAPTR", 77))
    assert reply.rcode() == dns.rcode.REFUSED


@own_daemon
def test_option_of_serial_and_age_is_read_by_dnspython(loaded: Workbench) -> None:
    with run_enum(loaded, PROFILE + 'tell = "edns"\n') as server:
        reply = query(server, dns.query.udp, question(PORTED, use_edns=0))
        [option] = reply.options
        assert isinstance(option, dns.edns.GenericOption)
        assert (option.otype, option.data[:4], len(option.data)) == (65001, server.serial.to_bytes(4, "big"), 8)


def test_both_services_are_two_records_in_their_order(loaded: Workbench) -> None:
    with run_enum(loaded, BOTH_SERVICES) as server:
        reply, was_tcp = dns.query.udp_with_fallback(
            question(PORTED), "127.0.0.1", timeout=PATIENCE_SECONDS, port=server.port
        )
        assert was_tcp
        [records] = reply.answer
        ordered = sorted(records, key=lambda record: (record.order, record.preference))
        assert [record.service for record in ordered] == [b"E2U+pstn:tel", b"E2U+pstn:sip"]
        assert ordered[0].to_text() == PORTED_DATA
        assert ordered[1].regexp == (
            rb"!^(.*)$!sip:\1;npdi;rn=D0402;rn-context=+886@gateway.operator.example:5060;user=phone!"
        )
