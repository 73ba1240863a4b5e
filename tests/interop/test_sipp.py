"""SIP redirect as SIPp sees it, over UDP and TCP: it parses each answer, matches it to its transaction, and says by
its exit status whether calls went as a scenario has them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import pytest

from tests.conftest import Workbench, free_port, wait_until
from tests.interop.programs import Calls, Server, Sipp, needs_sipp
from tests.interop.sip_site import HELD, NO_RN, PORTED, PORTED_RN, PROFILE, UNALLOCATED, UNKNOWN, run_sip

pytestmark = [pytest.mark.usefixtures("each_engine"), needs_sipp]

TRANSPORTS = {"udp": ["-t", "u1"], "tcp": ["-t", "t1"], "tcp_each": ["-t", "tn", "-max_socket", "50"]}
"""One socket, one connection, a connection for each call (at most 50: lookupd takes 64 of one address)."""

CALLS = 300
HERE = "[local_ip]:[local_port]"
THERE = "[remote_ip]:[remote_port]"


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> list[str]:
    return TRANSPORTS[request.param]


@pytest.fixture
def server(loaded: Workbench) -> Iterator[Server]:
    with run_sip(loaded) as running:
        yield running


# -- scenarios -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Exchange:
    """One request and what must come back for it. status: None = nothing. heard: header to a regular expression that
    it must match. compact: the short names of headers. lost: share of answers, in percent, that SIPp does not hear.
    """

    status: int | None
    uri: str = f"sip:{PORTED}@{THERE};user=phone"
    method: str = "INVITE"
    more: tuple[str, ...] = ()
    body: str = ""
    heard: dict[str, str] = field(default_factory=dict)
    max_forwards: int = 70
    to: str = f"<sip:somebody@{THERE}>"
    branch: str = ""
    compact: bool = False
    lost: int = 0

    def request(self, at: int, method: str = "", to: str = "") -> str:
        """at: of the exchange in its call, which makes CSeq and branch."""
        via, sender, receiver, call, length = (
            ("v", "f", "t", "i", "l") if self.compact else ("Via", "From", "To", "Call-ID", "Content-Length")
        )
        method, blank = method or self.method, " " if self.compact else ""
        lines = [
            f"{method} {self.uri} SIP/2.0",
            f"{via}{blank}: SIP/2.0/[transport] {HERE};rport;branch=z9hG4bK-[pid]-[call_number]-{self.branch or at}",
            f"Max-Forwards: {self.max_forwards}",
            f"{sender}: <sip:+886223456789@{HERE}>;tag=[pid]sipp[call_number]",
            f"{receiver}: {to or self.to}",
            f"{call}: [call_id]",
            f"CSeq: {self.branch or at} {method}",
            f"Contact: <sip:dip@{HERE}>",
            *(() if method == "ACK" else self.more),
            f"{length}: {'[len]' if self.body and method != 'ACK' else 0}",
            "",
            "" if method == "ACK" else self.body,
        ]
        return "\n".join(lines)

    def steps(self, at: int) -> str:
        """As SIPp's XML."""
        retransmitted = "" if self.status is None else ' retrans="100"'
        text = f"<send{retransmitted}><![CDATA[\n{self.request(at)}\n]]></send>\n"
        if self.status is None:
            return text
        text += f'<recv response="{self.status}"{f" lost={quoteattr(str(self.lost))}" if self.lost else ""}><action>\n'
        for number, (header, pattern) in enumerate(self.heard.items()):
            text += f'<ereg regexp={quoteattr(pattern)} search_in="hdr" header={quoteattr(header + ":")} '
            text += f'check_it="true" assign_to="heard{at}x{number}"/>\n'
        text += f"</action></recv>\n{self.references(at)}"
        if self.method == "INVITE":
            text += f"<send><![CDATA[\n{self.request(at, 'ACK', self.to + '[peer_tag_param]')}\n]]></send>\n"
        return text

    def references(self, at: int) -> str:
        """SIPp refuses variables that nothing reads."""
        names = ",".join(f"heard{at}x{number}" for number in range(len(self.heard)))
        return f"<Reference variables={quoteattr(names)}/>\n" if names else ""


def scenario(folder: Path, name: str, *exchanges: Exchange) -> Path:
    """A call of these exchanges, one after the other."""
    path = folder / f"{name}.xml"
    steps = "".join(exchange.steps(at) for at, exchange in enumerate(exchanges, 1))
    path.write_text(
        f'<?xml version="1.0" encoding="ISO-8859-1" ?>\n<scenario name="{escape(name)}">\n{steps}</scenario>'
    )
    return path


def run(folder: Path, server: Server, transport: list[str], *exchanges: Exchange, calls: int = 1) -> Sipp:
    """All of it must go as the exchanges say."""
    options = [*transport, "-r", "50", "-p", str(free_port()), "-timeout", "30s", "-timeout_error"]
    options += ["-max_invite_retrans", "20", "-max_non_invite_retrans", "20"]
    sipp = Sipp(folder, scenario(folder, "exchanges", *exchanges), server.port, *options, calls=calls)
    assert sipp.wait() == 0, sipp.told() + (sipp.trace.read_text() if sipp.trace.exists() else "")
    return sipp


def contact(user: str, host: str = r"127\.0\.0\.1:[0-9]+", rest: str = ";user=phone") -> dict[str, str]:
    """The whole header. user: as a regular expression, with the parameters."""
    return {"Contact": f"^ *<sip:{user}@{host}{rest}>$"}


WITH_RN = rf";npdi;rn={PORTED_RN};rn-context=\+886"

# -- dips ------------------------------------------------------------------------------------------------


def test_hundreds_of_dips(loaded: Workbench, server: Server, transport: list[str]) -> None:
    kinds = {PORTED: PORTED_RN, HELD: NO_RN, UNALLOCATED: UNKNOWN}
    expected = {f"{number[:-3]}{at:03}": answer for number, answer in kinds.items() for at in range(CALLS // 3)}
    expected |= {f"{PORTED[:-3]}{at:03}": NO_RN for at in range(CALLS // 3)}  # the neighbours were not ported
    expected |= {PORTED: PORTED_RN, "+886923456789": "D9999", "+886912345679": "D0401"}
    assert Calls(loaded.folder, server.port, expected, *transport).answers() == expected
    wait_until(lambda: server.count("other") >= len(expected))  # the last ACK
    assert server.count("answered", outcome="ported") >= 3
    assert server.count("answered", outcome="not_allocated") >= CALLS // 3
    assert server.count("refused") == server.count("dropped") == 0
    if "u1" not in transport:  # nothing is sent twice
        assert server.count("answered") == server.count("other") == len(expected)


@pytest.mark.parametrize(
    ("uri", "answer"),
    [
        (f"sip:0912345678@{THERE}", contact("0912345678" + WITH_RN)),
        (f"sip:886912345678@{THERE};user=phone", contact("886912345678" + WITH_RN)),
        (f"sip:+886-912-345-678@{THERE}", contact(r"\+886-912-345-678" + WITH_RN)),
        (f"sip:912345678;phone-context=+886@{THERE}", contact(r"912345678;phone-context=\+886" + WITH_RN)),
        (f"sip:{PORTED}@another.example", contact(r"\+886912345678" + WITH_RN, "another.example")),
        (f"tel:{PORTED}", {"Contact": rf"^ *<tel:\+886912345678{WITH_RN}>$"}),
    ],
)
def test_number_in_each_form_is_found(
    loaded: Workbench, server: Server, transport: list[str], uri: str, answer: dict[str, str]
) -> None:
    run(loaded.folder, server, transport, Exchange(302, uri, heard=answer))


@pytest.mark.parametrize(
    ("settings", "status", "answer"),
    [
        ("status = 301", 301, contact(rf"\+886912345678{WITH_RN}")),
        ('npdi = "npdi=yes"', 302, contact(r"\+886912345678;npdi=yes;rn=D0402;rn-context=\+886")),
        ('form = "replace"', 302, contact("D0402;npdi")),
        ('form = "prefix"', 302, contact("D0402886912345678;npdi")),
        ('domain = "gw.example:5070"', 302, contact(rf"\+886912345678{WITH_RN}", "gw.example:5070")),
        ("tell = true", 302, {"X-Lookupd": "^ *serial=[0-9]+, age=[0-9]+$"}),
    ],
)
def test_profile_of_a_client(loaded: Workbench, settings: str, status: int, answer: dict[str, str]) -> None:
    with run_sip(loaded, PROFILE + settings) as server:
        run(loaded.folder, server, TRANSPORTS["udp"], Exchange(status, heard=answer))


# -- what is not a dip -----------------------------------------------------------------------------------

SDP = """v=0
o=- 1 1 IN IP4 [local_ip]
s=-
c=IN IP4 [local_ip]
t=0 0
m=audio 6000 RTP/AVP 8 0
a=rtpmap:8 PCMA/8000
"""


def test_one_call_of_all_kinds_of_requests(loaded: Workbench, server: Server, transport: list[str]) -> None:
    number = rf"\+886912345678{WITH_RN}"
    run(
        loaded.folder,
        server,
        transport,
        Exchange(302, heard=contact(number)),
        Exchange(200, method="CANCEL", branch="1"),  # too late, as a redirect server's always is
        Exchange(404, f"sip:{PORTED};npdi@{THERE};user=phone"),
        Exchange(404, f"sip:{PORTED};npdi=yes;rn=D0402@{THERE};user=phone"),
        Exchange(404, f"tel:{PORTED};rn=D0402"),
        Exchange(404, f"sip:operator@{THERE}"),
        Exchange(484, f"sip:+88691@{THERE}"),
        Exchange(416, "http://example.com/"),
        Exchange(483, max_forwards=0),
        Exchange(200, f"sip:{THERE}", "OPTIONS", heard={"Allow": "INVITE, ACK, CANCEL, OPTIONS"}, max_forwards=0),
        Exchange(405, method="MESSAGE", heard={"Allow": "INVITE, ACK, CANCEL, OPTIONS"}),
        Exchange(405, method="FROBNICATE", heard={"Allow": "INVITE, ACK, CANCEL, OPTIONS"}),
        Exchange(None, method="ACK"),  # an answer would break the next exchange
        Exchange(302, more=("Content-Type: application/sdp",), body=SDP, heard=contact(number)),
        Exchange(302, more=("Require: 100rel, frobnication", "k: timer"), compact=True, heard=contact(number)),
        Exchange(302, more=("Subject: a line", "\tthat goes on", " and on"), heard=contact(number)),
        calls=20,
    )
    wait_until(server.is_conserved)
    assert server.count("answered", outcome="ported") >= 20 * 4


def test_transaction_is_that_of_the_request(loaded: Workbench, server: Server, transport: list[str]) -> None:
    tagged = Exchange(
        302,
        to=f"<sip:somebody@{THERE}>;tag=theirs",
        heard={
            "To": "^ *<sip:somebody@[^>]*>;tag=theirs$",
            "From": r"^ *<sip:\+886223456789@[^>]*>;tag=[0-9]+sipp1$",
            "Via": r"rport=[0-9]+;received=127\.0\.0\.1",
            "CSeq": "^ *2 INVITE$",
        },
    )
    run(loaded.folder, server, transport, Exchange(302, heard={"To": ">;tag=[0-9a-f]{16}$"}), tagged)


def test_probe_is_refused_until_there_is_data(workbench: Workbench, transport: list[str]) -> None:
    probe = Exchange(503, method="OPTIONS", heard={"Retry-After": "^ *[0-9]+$"})
    call = Exchange(503, heard={"Retry-After": "^ *[0-9]+$"})
    with run_sip(workbench) as server:
        run(workbench.folder, server, transport, probe, call)
        assert server.count("answered", outcome="unavailable") >= 2
        workbench.load_tables()
        workbench.snapshot()
        wait_until(server.ready)
        run(workbench.folder, server, transport, Exchange(200, method="OPTIONS"), Exchange(302))


# -- what is sent again ----------------------------------------------------------------------------------


def test_lost_answer_comes_again_byte_for_byte(loaded: Workbench, server: Server) -> None:
    # SIPp loses a quarter of the answers. That none of so many, or one of them ever again, is lost: not in a lifetime.
    calls = 60
    sipp = run(loaded.folder, server, TRANSPORTS["udp"], Exchange(302, lost=25), calls=calls)
    heard: dict[str, list[str]] = {}
    for answer in re.findall(r"^SIP/2\.0 302 .*?\n\n", sipp.trace.read_text().replace("\r", ""), re.MULTILINE | re.S):
        call_id = re.search("^Call-ID: (.*)$", answer, re.MULTILINE)
        assert call_id
        heard.setdefault(call_id[1], []).append(answer)
    assert len(heard) == calls < sum(map(len, heard.values()))
    assert all(len(set(answers)) == 1 for answers in heard.values())
    tags = re.findall("^To: .*;tag=(.*)$", "\n".join(answers[0] for answers in heard.values()), re.MULTILINE)
    assert len(set(tags)) == calls


def test_calls_made_while_it_was_halted_are_answered(loaded: Workbench, server: Server) -> None:
    expected = {PORTED: PORTED_RN, HELD: NO_RN, UNALLOCATED: UNKNOWN}
    with server.stopped():
        calls = Calls(loaded.folder, server.port, expected)
        trace = calls.sipp.trace
        wait_until(lambda: trace.exists() and trace.read_text().count("INVITE sip:") >= 2 * len(expected))
    assert calls.answers() == expected
    wait_until(server.is_conserved)
    assert server.count("answered") >= 2 * len(expected)
