"""SIP redirect without sockets: the sheet's example, every row of its table, and every rule of reading and writing."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest
import xxhash

from lookupd.access import Client
from lookupd.engine import Engine
from lookupd.fastpath.sip import SipResponder
from lookupd.limits import (
    AMPLIFICATION_MAX,
    SIP_DATAGRAM_BYTES_MAX,
    SIP_IDLE_SECONDS,
    SIP_LINES_MAX,
    SIP_MESSAGE_BYTES_MAX,
    SIP_VIAS_MAX,
)
from lookupd.model import Outcome, UnixSeconds
from lookupd.observe.counters import DROP, RATE, QueryCounters
from lookupd.profiles import SipSettings
from lookupd.protocols.sip_framing import SipFraming
from lookupd.settings import ClientSettings
from tests.conftest import NETWORKS, PLAN, RANGES, Workbench
from tests.sip_calls import NUMBER, Reply, read_reply, request

CONFIRMED_AT = 1_790_000_000
AGE_SECONDS = 42
SEED = 0x0123_4567_89AB_CDEF
PEER = ("127.0.0.1", 15999)

SNAPSHOT = """tn,network_code,routing_number,donor,ported_at
886912345678,1402,,1401,
886912345679,1401,,1403,
886923456789,1401,D9999,1402,
886223450000,1403,,,
886912345670,1405,,,
"""
MORE_NETWORKS = NETWORKS + "1405,Delta,88693500,\n"


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Engine]]:
    """One with data, one without any."""
    workbench = Workbench(tmp_path_factory.mktemp("sip"))
    workbench.load_tables(MORE_NETWORKS, RANGES)
    workbench.snapshot(SNAPSHOT, now=CONFIRMED_AT)
    full, empty = Engine(PLAN), Engine(PLAN)
    with workbench.reader() as reader:
        full.reader = reader
        for engine in (full, empty):
            engine.begin(UnixSeconds(CONFIRMED_AT + AGE_SECONDS))
        yield {"full": full, "empty": empty}


class Asked:
    """A responder and a client, and what they have counted."""

    def __init__(self, engine: Engine, *, udp: bool = True) -> None:
        self.engine = engine
        self.counters = QueryCounters("sip", "udp" if udp else "tcp")
        self.responder = SipResponder(engine, self.counters, udp=udp, tag_seed=SEED)
        self.client = Client(ClientSettings("any", ()))

    def use(self, **settings: object) -> Asked:
        """Another profile from now on."""
        self.client.sip = msgspec.convert(settings, SipSettings)
        return self

    def limit(self, **settings: int) -> Asked:
        """Other allowances from now on."""
        self.client = Client(ClientSettings("slow", (), **settings))  # type: ignore[arg-type]
        return self

    def send(self, message: bytes, peer: tuple[object, ...] = PEER, now_ns: int = 10**9) -> bytes | None:
        reply = self.responder.respond(message, self.client, now_ns, peer)
        assert self.counters.balance() == 0
        assert len(self.responder.unsettled) == (reply is not None)
        assert sum(self.client.usage["sip"]) == self.counters.received
        self.responder.settle()
        return reply

    def ask(self, message: bytes, peer: tuple[object, ...] = PEER) -> Reply:
        return read_reply(self.send(message, peer))

    def call(self, uri: str, **settings: object) -> Reply:
        """The answer to an INVITE for this URI."""
        self.use(**settings)
        return self.ask(request(uri))

    def dropped(self, reason: str) -> int:
        return self.counters.dropped[DROP[reason]]


@pytest.fixture
def udp(engines: dict[str, Engine]) -> Asked:
    return Asked(engines["full"])


@pytest.fixture
def tcp(engines: dict[str, Engine]) -> Asked:
    return Asked(engines["full"], udp=False)


@pytest.fixture
def no_data(engines: dict[str, Engine]) -> Asked:
    return Asked(engines["empty"])


# -- the sheet's example, byte for byte ------------------------------------------------------------------

INVITE = b"""INVITE sip:+886912345670@127.0.0.1:15160;user=phone SIP/2.0
Via: SIP/2.0/UDP 127.0.0.1:15999;rport;branch=z9hG4bK-1
Max-Forwards: 70
From: <sip:+886223456789@127.0.0.1:15999;user=phone>;tag=c1
To: <sip:+886912345670@127.0.0.1:15160;user=phone>
Call-ID: 1@127.0.0.1
CSeq: 1 INVITE
Contact: <sip:dip@127.0.0.1:15999>
Content-Length: 0

""".replace(b"\n", b"\r\n")
REDIRECT = b"""SIP/2.0 302 Moved Temporarily
Via: SIP/2.0/UDP 127.0.0.1:15999;rport=15999;received=127.0.0.1;branch=z9hG4bK-1
From: <sip:+886223456789@127.0.0.1:15999;user=phone>;tag=c1
To: <sip:+886912345670@127.0.0.1:15160;user=phone>;tag=TTTTTTTTTTTTTTTT
Call-ID: 1@127.0.0.1
CSeq: 1 INVITE
Contact: <sip:+886912345670;npdi;rn=+88693500@127.0.0.1:15160;user=phone>
Content-Length: 0

""".replace(b"\n", b"\r\n")


def test_sheets_example_is_answered_byte_for_byte(udp: Asked) -> None:
    tag = xxhash.xxh3_64_hexdigest(b"z9hG4bK-1\x001@127.0.0.1\x00c1", SEED)
    assert (len(INVITE), len(REDIRECT)) == (344, 381)
    assert udp.send(INVITE) == REDIRECT.replace(b"T" * 16, tag.encode())
    assert udp.counters.answered[Outcome.PORTED] == 1


def test_repeated_request_has_the_same_answer_and_the_tag_hangs_on_branch_call_and_from_tag(udp: Asked) -> None:
    first = udp.send(INVITE)
    assert udp.send(INVITE) == first
    tags = {
        udp.ask(changed).one("To").rpartition("=")[2]
        for changed in (
            INVITE,
            INVITE.replace(b"z9hG4bK-1", b"z9hG4bK-2"),
            INVITE.replace(b"1@127", b"2@127"),
            INVITE.replace(b"tag=c1", b"tag=c2"),
            INVITE.replace(b";branch=z9hG4bK-1", b""),
        )
    }
    assert len(tags) == 5
    other = SipResponder(udp.engine, udp.counters, udp=True, tag_seed=SEED + 1)
    assert other.respond(INVITE, udp.client, 0, PEER) != first


# -- which code when -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "status", "reason", "contact", "outcome"),
    [
        ("+886912345678", 302, "Moved Temporarily", "+886912345678;npdi;rn=+D0402", Outcome.PORTED),
        ("+886923456789", 302, "Moved Temporarily", "+886923456789;npdi;rn=+D9999", Outcome.PORTED),
        ("0912345678", 302, "Moved Temporarily", "0912345678;npdi;rn=+D0402", Outcome.PORTED),
        ("+886911000000", 302, "Moved Temporarily", "+886911000000;npdi", Outcome.NOT_PORTED),
        ("+886931000000", 404, "Not Found", None, Outcome.NOT_ALLOCATED),
        ("+886509123456", 404, "Not Found", None, Outcome.NOT_PORTABLE),
        ("+4930123456", 404, "Not Found", None, Outcome.NOT_PORTABLE),
        ("alice", 404, "Not Found", None, Outcome.NOT_PORTABLE),
        ("*123", 404, "Not Found", None, Outcome.NOT_PORTABLE),
        ("+", 404, "Not Found", None, Outcome.NOT_PORTABLE),
        ("++886912345678", 404, "Not Found", None, Outcome.NOT_PORTABLE),
        ("886912345678+", 404, "Not Found", None, Outcome.NOT_PORTABLE),
        ("", 404, "Not Found", None, Outcome.NOT_PORTABLE),
        ("110", 484, "Address Incomplete", None, Outcome.NOT_PORTABLE),
        ("+8869123", 484, "Address Incomplete", None, Outcome.NOT_PORTABLE),
        ("091-234", 484, "Address Incomplete", None, Outcome.NOT_PORTABLE),
        ("+8862012345", 404, "Not Found", None, Outcome.NOT_PORTABLE),  # a whole premium number, though short
        ("+88691234567890", 404, "Not Found", None, Outcome.NOT_PORTABLE),
        ("+886223450000", 500, "Server Internal Error", None, Outcome.UNAVAILABLE),  # ported, and nobody knows whither
    ],
)
def test_number_is_answered_by_its_outcome(
    udp: Asked, number: str, status: int, reason: str, contact: str | None, outcome: Outcome
) -> None:
    reply = udp.ask(request(f"sip:{number}@gw.example:5070;user=phone"))
    assert (reply.status, reply.reason) == (status, reason)
    assert reply.fields.get("Contact") == ([f"<sip:{contact}@gw.example:5070;user=phone>"] if contact else None)
    assert udp.counters.answered == [int(each is outcome) for each in Outcome]
    assert "Retry-After" not in reply.fields
    assert "X-Lookupd" not in reply.fields


def test_number_without_data_sends_the_caller_elsewhere(no_data: Asked) -> None:
    for uri in (f"sip:{NUMBER}@h", "sip:alice@h", "sip:h"):
        reply = no_data.ask(request(uri))
        assert (reply.status, reply.reason, reply.one("Retry-After")) == (503, "Service Unavailable", "5")
    assert no_data.counters.answered[Outcome.UNAVAILABLE] == 3


def test_uri_without_a_user_part_asks_for_no_number(udp: Asked) -> None:
    assert udp.ask(request("sip:127.0.0.1:5060")).status == 404
    assert udp.ask(request("sip:@127.0.0.1")).status == 404
    assert udp.counters.answered[Outcome.NOT_PORTABLE] == 2


@pytest.mark.parametrize(
    "uri",
    [
        f"sip:{NUMBER};npdi@h",
        f"sip:{NUMBER};NPDI=yes@h",
        f"sip:{NUMBER};npdi=yes;rn=+1@h",
        f"sip:{NUMBER};rn=+88693500@h",
        f"sip:{NUMBER};cic=1;Rn@h",
        f"tel:{NUMBER};npdi",
        f"TEL:{NUMBER};rn=88693500;rn-context=+886",
    ],
)
def test_number_that_was_dipped_is_not_looked_up(udp: Asked, no_data: Asked, uri: str) -> None:
    assert udp.ask(request(uri)).status == 404
    assert no_data.ask(request(uri)).status == 404
    assert (udp.counters.other, udp.counters.answered) == (1, [0] * len(Outcome))


@pytest.mark.parametrize("uri", [f"sip:{NUMBER}@h;npdi", f"sip:{NUMBER}@h?rn=1", f"sip:{NUMBER};rnx=1;npdi-x@h"])
def test_parameters_of_the_uri_itself_or_of_other_names_are_no_dip(udp: Asked, uri: str) -> None:
    assert udp.ask(request(uri)).status == 302


@pytest.mark.parametrize("uri", ["http://127.0.0.1/", "mailto:a@b", "sip", "886912345678", "urn:service:sos", ":"])
def test_other_scheme_is_not_supported(udp: Asked, uri: str) -> None:
    assert udp.ask(request(uri)).status == 416
    assert udp.dropped("not_a_query") == 1


@pytest.mark.parametrize("host", ["", "a_b:", "h:123456", "[::1", "::1", "a,b", "h>", "b@h", "h\xe9", 'h"'])
def test_host_that_is_none_is_a_bad_request(udp: Asked, host: str) -> None:
    assert udp.ask(request(f"sip:{NUMBER}@{host}")).status == 400
    assert udp.dropped("malformed") == 1


@pytest.mark.parametrize("method", ["BYE", "REGISTER", "SUBSCRIBE", "MESSAGE", "PRACK", "invite", "NOBODYKNOWS"])
def test_method_that_is_not_served_is_told_which_are(udp: Asked, method: str) -> None:
    reply = udp.ask(request(method=method))
    assert (reply.status, reply.one("Allow")) == (405, "INVITE, ACK, CANCEL, OPTIONS")
    assert udp.dropped("not_a_query") == 1


def test_cancel_is_answered(udp: Asked) -> None:
    reply = udp.ask(request(method="CANCEL"))
    assert (reply.status, reply.reason, udp.counters.other) == (200, "OK", 1)
    assert reply.one("CSeq") == "1 CANCEL"
    assert "Allow" not in reply.fields


@pytest.mark.parametrize("uri", ["sip:h", "sip:ping@h", "http://x/"])
@pytest.mark.parametrize("max_forwards", ["0", "70"])
def test_options_tell_whether_there_is_data(udp: Asked, no_data: Asked, uri: str, max_forwards: str) -> None:
    message = request(uri, "OPTIONS", more=(f"Max-Forwards: {max_forwards}",))
    reply = udp.ask(message)
    assert (reply.status, reply.one("Accept")) == (200, "application/sdp")
    assert reply.one("Allow") == "INVITE, ACK, CANCEL, OPTIONS"
    assert udp.counters.other == 1
    reply = no_data.ask(message)
    assert (reply.status, reply.one("Retry-After")) == (503, "5")
    assert no_data.counters.answered[Outcome.UNAVAILABLE] == 1


@pytest.mark.parametrize("branch", ["z9hG4bK-1", "other"])
def test_ack_is_never_answered(udp: Asked, branch: str) -> None:
    assert udp.send(request(method="ACK", via=f"SIP/2.0/UDP 127.0.0.1;branch={branch}")) is None
    assert udp.counters.other == 1
    for broken in (
        request(method="ACK", to_field=None),
        request(method="ACK", version="SIP/3.0"),
        request(method="ACK", cseq="1 INVITE"),
        request(method="ACK", length="99"),
        request(method="ACK")[:-2],
        b"ACK\r\nVia: SIP/2.0/UDP 127.0.0.1\r\n\r\n",
    ):
        assert udp.send(broken) is None
    assert udp.dropped("malformed") == 6


@pytest.mark.parametrize("start", ["SIP/2.0 200 OK", "SIP/2.0 404 Not Found", "sip/2.0 200 OK", "SIP/3.0", "SIP/"])
def test_response_is_not_answered(udp: Asked, start: str) -> None:
    assert udp.send(start.encode() + request()[request().index(b"\r\n") :]) is None
    assert udp.dropped("not_a_query") == 1


@pytest.mark.parametrize("method", ["INVITE", "CANCEL", "BYE"])
@pytest.mark.parametrize(("value", "status"), [("0", 483), ("000", 483), ("256", 400), ("x", 400), ("-1", 400)])
def test_max_forwards_is_kept_and_checked(udp: Asked, method: str, value: str, status: int) -> None:
    assert udp.ask(request(method=method, more=(f"Max-Forwards: {value}",))).status == status


@pytest.mark.parametrize("value", ["1", "255"])
def test_max_forwards_above_zero_is_no_hindrance(udp: Asked, value: str) -> None:
    assert udp.ask(request(more=(f"Max-Forwards: {value}",))).status == 302


@pytest.mark.parametrize("version", ["SIP/3.0", "SIP/1.0", "SIP/2.00", "SIP/", "sip/2.1"])
def test_other_version_is_not_supported(udp: Asked, version: str) -> None:
    assert udp.ask(request(version=version)).status == 505
    assert udp.ask(request(version=version, to_field=None)).status == 505
    assert udp.dropped("not_a_query") == 2


def test_version_is_read_in_any_case(udp: Asked) -> None:
    assert udp.ask(request(version="sip/2.0")).status == 302


@pytest.mark.parametrize(
    "changed",
    [
        {"from_field": None}, {"to_field": None}, {"call_id": None}, {"cseq": ""},
        {"from_field": ""}, {"to_field": ""}, {"call_id": ""},
        {"from_field": "<sip:a@b"}, {"to_field": '"A <sip:a@b>'}, {"to_field": "<sip:a@b> x;tag=1"},
        {"to_field": ";tag=1"}, {"to_field": "<sip:a@b>;tag"}, {"to_field": "<sip:a@b>;tag="}, {"to_field": '"A"'},
        {"cseq": "INVITE"}, {"cseq": "1"}, {"cseq": "x INVITE"}, {"cseq": "-1 INVITE"}, {"cseq": "1 BYE"},
        {"cseq": "1 invite"}, {"cseq": "2147483648 INVITE"}, {"cseq": "1 INVITE x"}, {"cseq": "1 "},
        {"more": ("From: <sip:a@b>;tag=2",)}, {"more": ("t: <sip:a@b>",)}, {"more": ("i: x",)},
        {"more": ("CSeq: 1 INVITE",)}, {"more": ("Max-Forwards: 1", "Max-Forwards: 1")}, {"more": ("l: 0",)},
        {"more": ("Max-Forwards:",)}, {"more": ("v: SIP/2.0/UDP a\x01",)}, {"more": ("v:",)},
        {"call_id": "a\0b"}, {"to_field": "<sip:a@b>\x0b"}, {"from_field": "<sip:a@b>\rX: y"},
        {"length": "1"}, {"length": "-1"}, {"length": "x"}, {"length": "1 2"}, {"length": "99999999999999999999"},
        {"uri": "sip:a b@h"}, {"uri": ""}, {"uri": "sip:a\x01@h"}, {"uri": "sip:a\t@h"}, {"method": "IN(VITE"},
        {"version": "HTTP/1.1"}, {"version": ""}, {"version": "SIP/2.0 "}, {"version": "SIP"},
        {"via": "SIP/2.0/UDP 127.0.0.1:0;branch=1"}, {"via": "SIP/2.0/UDP 127.0.0.1:65536;branch=1"},
        {"via": "SIP/2.0/UDP 127.0.0.1:99999999999999999999;branch=1"},
    ],
)  # fmt: skip
def test_broken_request_is_told_so_and_sent_back_to_where_it_came_from(udp: Asked, changed: dict[str, object]) -> None:
    message = request(**changed)  # type: ignore[arg-type]
    reply = udp.ask(message)
    assert (reply.status, reply.reason) == (400, "Bad Request")
    assert udp.dropped("malformed") == 1
    if "via" in changed:
        assert udp.responder.reply_port == 0
        assert reply.one("Via") == f"{changed['via']}"


def test_broken_request_is_answered_with_the_fields_that_it_has(udp: Asked) -> None:
    reply = udp.ask(b"INVITE sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP pc33;rport\r\nCall-ID: x\x01\r\nt: <sip:a>\r\n\r\n")
    assert list(reply.fields) == ["Via", "To", "Content-Length"]
    assert reply.one("Via") == "SIP/2.0/UDP pc33;rport=15999;received=127.0.0.1"
    assert reply.one("To").startswith("<sip:a>;tag=")


@pytest.mark.parametrize(
    "via",
    [
        None, "", "x", "SIP/2.0/UDP", "SIP/2.0 /UDP", "HTTP/2.0/UDP a", "SIP/3.0/UDP a", "SIP/2.0/UDP ;rport",
        "SIP/2.0/ a", "SIP/2.0/UDP a b", "SIP/2.0/UDP a:", "SIP/2.0/UDP a:x", "SIP/2.0/UDP [::1", "SIP/2.0/UDP ::1",
        "SIP/2.0/UDP a\x01b", "SIP/2.0/UDP a\rb", "SIP/2.0/U(P a", ", SIP/2.0/UDP a", ";SIP/2.0/UDP a",
        "SIP/2.0/UDP \xe9",
    ],
)  # fmt: skip
def test_without_a_way_back_there_is_silence(udp: Asked, via: str | None) -> None:
    assert udp.send(request(via=via)) is None
    if via is not None:  # nor is the next one asked
        assert udp.send(request(via=via, more=("Via: SIP/2.0/UDP 127.0.0.1",))) is None
    assert udp.dropped("malformed") == udp.counters.received


@pytest.mark.parametrize("datagram", [b"", b"\0", b"\r\n", b"\r\n\r\n", b"\n", b"\0\0\r\n\0\n", b"\r" * 100])
def test_empty_datagram_is_a_keep_alive(udp: Asked, datagram: bytes) -> None:
    assert udp.send(datagram) is None
    assert udp.counters.other == 1


def test_line_ends_before_a_datagrams_request_are_passed_over(udp: Asked) -> None:
    assert udp.ask(b"\r\n\n\r\n" + request()).status == 302


def test_ping_in_a_stream_is_answered(tcp: Asked) -> None:
    assert tcp.send(b"\r\n\r\n") == b"\r\n"
    assert tcp.counters.other == 1


# -- reading ---------------------------------------------------------------------------------------------


def test_folded_lines_compact_names_and_blanks_are_read(udp: Asked) -> None:
    message = (
        f"INVITE sip:{NUMBER}@h SIP/2.0\r\n"
        "v :SIP / 2.0 / UDP \r\n\tfirst.example : 4000 ;received=1.2.3.4 ; RPORT ;\r\n  Branch = z9hG4bK-7\r\n"
        "ViA:SIP/2.0/TCP second.example;branch=2\r\n"
        "f: \"A; <b>, \\\" c\" <sip:a@b;tag=no>\r\n ;x=1;Tag=c1\r\n"
        "T\t:sip:d@e\r\n"
        "I: \t folded\r\n   \r\n\tid \r\n"
        "cSEQ: 7\t INVITE\r\n"
        "Subject: nothing of ours\r\n that goes on\r\n"
        "a line without a colon\r\n"
        "L: 0\r\n\r\n"
    )  # fmt: skip
    reply = udp.ask(message.encode())
    assert reply.status == 302
    assert reply.fields["Via"] == [
        "SIP / 2.0 / UDP first.example : 4000 ;rport=15999;received=127.0.0.1; Branch = z9hG4bK-7",
        "SIP/2.0/TCP second.example;branch=2",
    ]
    assert reply.one("From") == '"A; <b>, \\" c" <sip:a@b;tag=no> ;x=1;Tag=c1'
    tag = xxhash.xxh3_64_hexdigest(b"z9hG4bK-7\0folded id\0c1", SEED)
    assert reply.one("To") == f"sip:d@e;tag={tag}"
    assert reply.one("Call-ID") == "folded id"
    assert reply.one("CSeq") == "7\t INVITE"


def test_bare_line_feeds_end_lines_too(udp: Asked) -> None:
    assert udp.ask(request(line_end="\n")).status == 302
    mixed = request().replace(b"\r\n", b"\n", 3)
    assert udp.ask(mixed) == udp.ask(request())


def test_bytes_that_are_no_text_are_carried_as_they_are(udp: Asked) -> None:
    reply = udp.ask(request(from_field='"\xff\xc3\xa9" <sip:a@b>;tag=\xfe', call_id="\x80\xff"))
    assert reply.one("From") == '"\xff\xc3\xa9" <sip:a@b>;tag=\xfe'
    assert reply.one("Call-ID") == "\x80\xff"


def test_to_tag_that_is_there_is_kept(udp: Asked) -> None:
    for to_field in ("<sip:a@b>;tag=x", "<sip:a@b>; TAG = x", "sip:a@b;tag=x", '"A ;tag" <sip:a@b>;q="\\";";tag=x'):
        assert udp.ask(request(to_field=to_field)).one("To") == to_field
    assert ";tag=" in udp.ask(request(to_field="<sip:a@b;tag=x>")).one("To").partition(">")[2]


@pytest.mark.parametrize(
    ("via", "peer", "answered", "reply_port"),
    [
        # rport asked for: the port where it stood, the address behind it, and back to the source port.
        ("127.0.0.1:4000;rport;branch=1", PEER, "127.0.0.1:4000;rport=15999;received=127.0.0.1;branch=1", 0),
        ("127.0.0.1:4000;branch=1;rport", PEER, "127.0.0.1:4000;branch=1;rport=15999;received=127.0.0.1", 0),
        ("10.0.0.9;rport=1;branch=1", PEER, "10.0.0.9;rport=15999;received=127.0.0.1;branch=1", 0),
        ("10.0.0.9;rport=;branch=1", PEER, "10.0.0.9;rport=15999;received=127.0.0.1;branch=1", 0),
        ("pc;rport;rport=7;branch=1", PEER, "pc;rport=15999;received=127.0.0.1;branch=1", 0),
        ("pc;received=9.9.9.9;rport", PEER, "pc;rport=15999;received=127.0.0.1", 0),
        # Without it: the sent-by port, and the address only where sent-by says something else.
        ("127.0.0.1:4000;branch=1", PEER, "127.0.0.1:4000;branch=1", 4000),
        ("127.0.0.1;branch=1", PEER, "127.0.0.1;branch=1", 5060),
        ("127.0.0.1", PEER, "127.0.0.1", 5060),
        ("10.0.0.9:4000;branch=1", PEER, "10.0.0.9:4000;branch=1;received=127.0.0.1", 4000),
        ("pc33.example;branch=1", PEER, "pc33.example;branch=1;received=127.0.0.1", 5060),
        ("pc:65535;received=1.1.1.1;branch=1", PEER, "pc:65535;branch=1;received=127.0.0.1", 65535),
        ("127.0.0.1:00005061;received=1.1.1.1", PEER, "127.0.0.1:00005061", 5061),
        # maddr would send the answer to a third party.
        ("127.0.0.1;maddr=9.9.9.9;ttl=1", PEER, "127.0.0.1;maddr=9.9.9.9;ttl=1", 5060),
        # IPv6; a zone is nobody else's business.
        ("[::1]:4000;rport", ("::1", 7, 0, 0), "[::1]:4000;rport=7;received=::1", 0),
        ("[::1]:4000", ("::1", 7, 0, 0), "[::1]:4000", 4000),
        ("[2001:DB8::1]", ("2001:db8::1", 7, 0, 0), "[2001:DB8::1]", 5060),
        ("[2001:db8:0::1]", ("2001:db8::1", 7, 0, 0), "[2001:db8:0::1];received=2001:db8::1", 5060),
        ("[fe80::1]", ("fe80::2%eth0", 7, 0, 2), "[fe80::1];received=fe80::2", 5060),
        # Several values in one line: the first is ours to complete. Commas and semicolons in quotes part nothing.
        ("pc;rport , SIP/2.0/UDP b;rport", PEER, "pc;rport=15999;received=127.0.0.1, SIP/2.0/UDP b;rport", 0),
        ('127.0.0.1;x=",;rport\\"";y,SIP/2.0/UDP b', PEER, '127.0.0.1;x=",;rport\\"";y,SIP/2.0/UDP b', 5060),
    ],
)
def test_top_via_is_completed_and_says_where_the_answer_goes(
    udp: Asked, via: str, peer: tuple[object, ...], answered: str, reply_port: int
) -> None:
    reply = udp.ask(request(via=f"SIP/2.0/UDP {via}", more=("Via: SIP/2.0/UDP last;rport",)), peer)
    assert reply.status == 302
    assert reply.fields["Via"] == [f"SIP/2.0/UDP {answered}", "SIP/2.0/UDP last;rport"]
    assert udp.responder.reply_port == reply_port


def test_silence_and_streams_leave_the_port_alone(udp: Asked, tcp: Asked) -> None:
    via = "SIP/2.0/TCP 127.0.0.1:4000"
    udp.send(request(via=via))
    assert udp.responder.reply_port == 4000
    assert udp.send(b"") is None
    assert udp.responder.reply_port == 0
    assert tcp.ask(request(via=via)).one("Via") == via
    assert tcp.responder.reply_port == 0


def test_header_lines_are_bounded(udp: Asked) -> None:
    lines = request().count(b"\r\n") - 2  # neither the start line nor the empty one
    filler = ("X: y",) * (SIP_LINES_MAX - lines)
    assert udp.ask(request(more=filler)).status == 302
    assert udp.ask(request(more=(*filler, "X: y"))).status == 400
    assert udp.ask(request(more=(*filler, " folded"))).status == 400
    assert udp.ask(request(more=("X: y",) * 1000)).status == 400


def test_vias_are_bounded_by_value(udp: Asked) -> None:
    via = "SIP/2.0/UDP h"
    assert udp.ask(request(via=via, more=(f"Via: {via}",) * (SIP_VIAS_MAX - 1))).status == 302
    assert udp.ask(request(via=via, more=(f"Via: {via}",) * SIP_VIAS_MAX)).status == 400
    assert udp.ask(request(via=",".join([via] * SIP_VIAS_MAX))).status == 302
    assert udp.ask(request(via=",".join([via] * (SIP_VIAS_MAX + 1)))).status == 400


def test_body_is_skipped_and_what_lies_behind_it_too(udp: Asked) -> None:
    body = "v=0\r\n\r\nVia: SIP/2.0/UDP elsewhere\r\n"
    assert udp.ask(request(body=body)).status == 302
    assert udp.send(request(body=body)) == udp.send(request(body=body) + b"more\0") == udp.send(request())
    assert udp.ask(request(body=body, length=None)).status == 302
    assert udp.ask(request(body=body, length=str(len(body) + 1))).status == 400


def test_datagram_cut_by_the_reader_is_a_bad_request(udp: Asked) -> None:
    assert udp.responder.message_bytes_max == SIP_DATAGRAM_BYTES_MAX
    message = request(body="x" * SIP_DATAGRAM_BYTES_MAX)[:SIP_DATAGRAM_BYTES_MAX]
    assert udp.ask(message).status == 400
    head = request(more=("X: " + "y" * SIP_DATAGRAM_BYTES_MAX,))[:SIP_DATAGRAM_BYTES_MAX]
    assert udp.ask(head).status == 400


def test_request_cut_anywhere_is_a_bad_request_once_its_via_is_whole(udp: Asked) -> None:
    message = request()
    via_end = message.index(b"\r\nFrom:") + 2
    for length in range(1, len(message)):
        cut = message[:length]
        if length < via_end:
            assert udp.send(cut) is None
        else:
            reply = udp.ask(cut)
            assert reply.status == 400
            assert ("Call-ID" in reply.fields) == (length >= message.index(b"\r\nCSeq:") + 2)


def test_stream_needs_content_length_and_bounds_it(tcp: Asked) -> None:
    assert tcp.ask(request()).status == 302
    assert tcp.ask(request(length=None)).status == 400
    head = len(request(length="65000"))
    assert tcp.ask(request(body="x" * (SIP_MESSAGE_BYTES_MAX - head))).status == 302
    over = request(length=str(SIP_MESSAGE_BYTES_MAX - head + 1))
    reply = tcp.ask(over)
    assert (reply.status, reply.reason) == (513, "Message Too Large")
    assert tcp.ask(request(length="9" * 10)).status == 513
    assert tcp.ask(request(length="9" * 11)).status == 400
    start = request()[:-2]
    assert tcp.ask(start + b"X: " + b"y" * SIP_MESSAGE_BYTES_MAX).status == 513
    assert tcp.ask(start).status == 400
    assert tcp.dropped("malformed") == 6
    assert tcp.ask(request(version="SIP/3.0", length="9999999999")).status == 505


# -- numbers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("user", "digits"),
    [
        ("+886912345678", "+886912345678"),
        ("886912345678", "886912345678"),
        ("0912345678", "0912345678"),
        ("+886-912.345(678)", "+886-912.345(678)"),
        ("%2B886%20912345678", "%2B886%20912345678"),
        ("%2b%38%38%36912345678", "%2b%38%38%36912345678"),
        ("(0912)345-678", "(0912)345-678"),
        ("+886912345678:secret", "+886912345678"),
        ("+886912345678;isub=1:secret", "+886912345678"),
        ("+886912345678;cpc=ordinary;isub=12", "+886912345678"),
        ("0912345678;phone-context=gw.example", "0912345678;phone-context=gw.example"),
        ("912345678;phone-context=+886", "912345678;phone-context=+886"),
        ("0912345678;phone-context=+886", "0912345678;phone-context=+886"),
        ("912345678;x=1;Phone-Context=+8-8-6;y", "912345678;phone-context=+8-8-6"),
        ("912345678;phone-context=%2B886", "912345678;phone-context=%2B886"),
        ("345678;phone-context=+886912;phone-context=+1", "345678;phone-context=+886912"),
        ("+886912345678;phone-context=+1", "+886912345678;phone-context=+1"),
        ("0912345678;phone-context=a>b", "0912345678"),
        ("0912345678;phone-context=", "0912345678"),
    ],
)
@pytest.mark.parametrize("scheme", ["sip", "sips", "tel", "SIP", "TeL"])
def test_number_is_read_and_sent_back_as_it_was_written(udp: Asked, scheme: str, user: str, digits: str) -> None:
    if scheme.lower() == "tel":
        if ":" in user:
            return  # no password there
        reply = udp.call(f"{scheme}:{user}")
        assert reply.contact == f"<tel:{digits};npdi;rn=+D0402>"
    else:
        reply = udp.call(f"{scheme}:{user}@h:1;transport=udp?x=1")
        assert reply.contact == f"<{scheme.lower()}:{digits};npdi;rn=+D0402@h:1;user=phone>"


@pytest.mark.parametrize(
    "user",
    [
        "+886912345678%", "+886912345678%zz", "+886912345678%2", "+886912345678%00", "+886912345678%ff",
        "+88691234567\xb8",
        "+886912345678/1", "+886912345678*", "+88691234567a", "9" * 121, "-" * 115 + "912345", "(" * 200,
        "0912345678;phone-context=+1", "912345678;phone-context=+", "912345678;phone-context=gw.example",
    ],
)  # fmt: skip
def test_what_is_no_number_is_not_found(udp: Asked, user: str) -> None:
    reply = udp.call(f"sip:{user}@h")
    assert reply.status == 404
    assert udp.counters.answered[Outcome.NOT_PORTABLE] + udp.counters.answered[Outcome.NOT_ALLOCATED] == 1


def test_separators_are_bounded_by_the_number_as_written(udp: Asked) -> None:
    assert udp.call("sip:0912345678" + "-" * 110 + "@h").status == 302
    assert udp.call("sip:0912345678" + "-" * 111 + "@h").status == 404


@pytest.mark.parametrize("host", ["h", "h:0", "h:65535", "10.0.0.1:5060", "[::1]", "[2001:db8::1]:5060", "a_b-c.d"])
def test_host_is_kept_as_it_was_written(udp: Asked, host: str) -> None:
    assert udp.call(f"sip:{NUMBER}@{host}").contact == f"<sip:{NUMBER};npdi;rn=+D0402@{host};user=phone>"


# -- profiles --------------------------------------------------------------------------------------------

PORTED, OWN_RN, NOT_PORTED, NO_RN = "+886912345678", "+886923456789", "+886911000000", "+886223450000"
HELD_NO_RN = "+886912000000"


@pytest.mark.parametrize(
    ("settings", "number", "contact"),
    [
        ({"form": "rn"}, PORTED, f"{PORTED};npdi;rn=+D0402"),
        ({"npdi": "npdi=yes"}, PORTED, f"{PORTED};npdi=yes;rn=+D0402"),
        ({"rn_context": "+886"}, OWN_RN, f"{OWN_RN};npdi;rn=D9999;rn-context=+886"),
        ({"cic_context": "+886"}, PORTED, f"{PORTED};cic=1402;cic-context=+886;npdi;rn=+D0402"),
        ({"cic_context": "+886"}, NO_RN, f"{NO_RN};cic=1403;cic-context=+886;npdi"),
        ({"cic_context": "+886"}, NOT_PORTED, f"{NOT_PORTED};npdi"),
        ({"unmapped_routing_number": "F00"}, NO_RN, f"{NO_RN};npdi;rn=+F00"),
        ({"unmapped_routing_number": "F00"}, PORTED, f"{PORTED};npdi;rn=+D0402"),
        ({"unported": "rn"}, NOT_PORTED, f"{NOT_PORTED};npdi;rn=+D0401"),
        ({"unported": "rn", "unmapped_routing_number": "F00"}, HELD_NO_RN, f"{HELD_NO_RN};npdi"),
        ({"unported": "rn", "cic_context": "+886"}, NOT_PORTED, f"{NOT_PORTED};npdi;rn=+D0401"),
        ({"form": "replace"}, PORTED, "+D0402;npdi"),
        ({"form": "replace", "npdi": "npdi=yes"}, PORTED, "+D0402;npdi=yes"),
        ({"form": "replace", "rn_context": "x.example"}, PORTED, "D0402;npdi"),
        ({"form": "replace"}, NOT_PORTED, f"{NOT_PORTED};npdi"),
        ({"form": "replace", "unported": "rn"}, NOT_PORTED, "+D0401;npdi"),
        ({"form": "replace", "unmapped_routing_number": "F00"}, NO_RN, "+F00;npdi"),
        ({"form": "prefix"}, PORTED, "D0402886912345678;npdi"),
        ({"form": "prefix"}, "(0912)-345-678", "D04020912345678;npdi"),
        ({"form": "prefix"}, NOT_PORTED, f"{NOT_PORTED};npdi"),
        ({"form": "prefix", "unported": "rn", "npdi": "npdi=yes"}, NOT_PORTED, "D0401886911000000;npdi=yes"),
        ({"form": "prefix"}, "912345678;phone-context=+886", "D0402912345678;npdi"),
    ],
)
@pytest.mark.parametrize("scheme", ["sip", "tel"])
def test_contact_has_the_profiles_form(
    udp: Asked, scheme: str, settings: dict[str, object], number: str, contact: str
) -> None:
    if scheme == "tel":
        assert udp.call(f"tel:{number}", **settings).contact == f"<tel:{contact}>"
        assert udp.call(f"tel:{number}", domain="[::1]:9", **settings).contact == f"<sip:{contact}@[::1]:9;user=phone>"
    else:
        assert udp.call(f"sip:{number}@h:1", **settings).contact == f"<sip:{contact}@h:1;user=phone>"
        assert udp.call(f"sips:{number}@h:1", domain="d.example", **settings).contact == (
            f"<sips:{contact}@d.example;user=phone>"
        )


@pytest.mark.parametrize("form", ["replace", "prefix"])
def test_form_that_needs_a_routing_number_is_not_served_by_a_cic(udp: Asked, form: str) -> None:
    assert udp.call(f"sip:{NO_RN}@h", form=form, cic_context="+886").status == 500
    assert udp.call(f"sip:{NO_RN}@h", cic_context="+886").status == 302
    assert udp.counters.answered[Outcome.UNAVAILABLE] == 1


def test_unported_number_may_be_unknown(udp: Asked) -> None:
    assert udp.call(f"sip:{NOT_PORTED}@h", unported="unknown").status == 404
    assert udp.counters.answered[Outcome.NOT_PORTED] == 1
    assert udp.call(f"sip:{PORTED}@h", unported="unknown").status == 302


def test_status_may_be_permanent(udp: Asked) -> None:
    reply = udp.call(f"sip:{PORTED}@h", status=301)
    assert (reply.status, reply.reason) == (301, "Moved Permanently")


def test_answers_about_a_number_may_tell_serial_and_age(udp: Asked, no_data: Asked) -> None:
    told = f"serial={udp.engine.serial}, age={AGE_SECONDS}"
    for number in (PORTED, NOT_PORTED, NO_RN, "+886931000000", "110", "alice"):
        assert udp.call(f"sip:{number}@h", tell=True).one("X-Lookupd") == told
    reply = udp.call(f"sip:{PORTED}@h", tell=True)
    assert list(reply.fields)[-3:] == ["Contact", "X-Lookupd", "Content-Length"]
    for message in (request(method="OPTIONS"), request(f"sip:{PORTED};npdi@h"), request("x:"), request(to_field=None)):
        assert "X-Lookupd" not in udp.ask(message).fields
    reply = no_data.call(f"sip:{PORTED}@h", tell=True)
    assert reply.one("X-Lookupd") == "serial=0, age=-"
    assert list(reply.fields)[-3:] == ["Retry-After", "X-Lookupd", "Content-Length"]


# -- rates and sizes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["INVITE", "OPTIONS"])
def test_new_call_over_the_rate_is_sent_elsewhere(udp: Asked, tcp: Asked, method: str) -> None:
    for asked in (udp, tcp):
        asked.limit(queries_per_second=1)
        assert asked.ask(request(method=method)).status in {200, 302}
        reply = asked.ask(request(method=method))
        assert (reply.status, reply.one("Retry-After")) == (503, "1")
        assert asked.counters.refused[RATE] == 1


def test_everything_else_over_the_rate_is_refused_in_silence(udp: Asked) -> None:
    udp.limit(queries_per_second=1)
    assert udp.ask(request()).status == 302
    silent = [
        request(method="CANCEL"), request(method="BYE"), request(to_field=None), request(version="SIP/3.0"), b"garbage",
        request(method="OPTIONS", cseq="1 INVITE"),
    ]  # fmt: skip
    for message in silent:
        assert udp.send(message) is None
    assert udp.counters.refused[RATE] == len(silent)


def test_messages_without_an_answer_take_nothing_of_the_allowance(udp: Asked) -> None:
    udp.limit(queries_per_second=1, queries_per_prefix=1)
    for message in (b"\r\n\r\n", request(method="ACK"), b"SIP/2.0 200 OK\r\n\r\n"):
        assert udp.send(message) is None
    assert udp.ask(request()).status == 302
    assert udp.counters.refused[RATE] == 0


def test_broken_messages_take_from_the_allowance(udp: Asked) -> None:
    udp.limit(queries_per_second=1)
    assert udp.send(b"garbage") is None
    assert udp.dropped("malformed") == 1
    assert udp.ask(request()).status == 503


def test_prefix_over_its_rate_gets_silence_over_udp_only(udp: Asked, tcp: Asked) -> None:
    for asked in (udp, tcp):
        asked.limit(queries_per_prefix=1)
        assert asked.ask(request()).status == 302
    assert udp.send(request()) is None
    assert udp.counters.refused[RATE] == 1
    assert udp.ask(request(), ("127.0.1.1", 15999)).status == 302
    assert tcp.ask(request()).status == 302


def test_answer_that_would_be_far_longer_than_its_request_is_not_sent(udp: Asked, tcp: Asked) -> None:
    short = b"A\nv:SIP/2.0/UDP a\n\n"
    assert udp.send(short) is None
    assert udp.dropped("no_room") == 1
    assert udp.responder.reply_port == 0
    reply = tcp.send(short)
    assert read_reply(reply).status == 400
    assert reply is not None
    assert len(reply) > AMPLIFICATION_MAX * len(short)
    longer = b"A" * (-(-len(reply) // AMPLIFICATION_MAX) - len(short) + 1) + short[1:]
    assert udp.ask(longer).status == 400


def test_reply_that_could_not_be_sent_is_taken_back(udp: Asked) -> None:
    for message in (request(), request(method="OPTIONS"), request(to_field=None)):
        udp.responder.respond(message, udp.client, 0, PEER)
    udp.responder.take_back(0, 3)
    assert udp.counters.balance() == 0
    assert (udp.dropped("unsent"), udp.dropped("malformed"), udp.counters.other) == (2, 1, 0)


# -- in a stream -----------------------------------------------------------------------------------------


def cut_all(pieces: list[bytes]) -> tuple[list[bytes], bool]:
    """The messages of a stream that comes in these pieces, and whether it had to end."""
    framing, received, messages = SipFraming(), bytearray(), []
    for piece in pieces:
        received += piece
        while True:
            frame = framing.cut(received, 0)
            if frame.message is not None:
                messages.append(frame.message)
            del received[: frame.end]
            if frame.last:
                return messages, True
            if frame.end == 0:
                break
    return messages, False


WITH_BODY = request(body="v=0\r\n\r\nINVITE sip:x SIP/2.0\r\n\r\n")
STREAM = [request(), WITH_BODY, b"\r\n\r\n", request(line_end="\n"), request(method="ACK"), b"\r\n\r\n"]


def test_stream_is_cut_into_its_messages_however_it_comes() -> None:
    stream = b"".join(STREAM)
    assert cut_all([stream]) == (STREAM, False)
    assert cut_all([bytes([byte]) for byte in stream]) == (STREAM, False)
    for at in range(len(stream)):
        assert cut_all([stream[:at], stream[at:]]) == (STREAM, False)


def test_line_ends_between_messages_are_passed_over_and_every_second_one_is_a_ping() -> None:
    one = request()
    assert cut_all([b"\r\n", one, b"\r\n", one, b"\r\n", b"\n", one, b"\n\n"]) == ([one, one, one], False)
    assert cut_all([b"\r\n" * 5, one]) == ([b"\r\n\r\n", b"\r\n\r\n", one], False)
    assert cut_all([b"\r", b"\n", b"\r", b"\n"]) == ([b"\r\n\r\n"], False)
    assert cut_all([b"\r\n", b"\n", b"\r"]) == ([], False)


def test_single_line_end_does_not_start_a_message() -> None:
    framing = SipFraming()
    assert framing.cut(bytearray(b"\r\n"), 0) == (None, 2, False)
    assert framing.idle_seconds == SIP_IDLE_SECONDS
    assert framing.wrap(b"x") == (b"x",)


@pytest.mark.parametrize(
    "head",
    [
        request(length=None),
        request(length="x"),
        request(more=("l: 0",)),
        request(more=("X: y",) * SIP_LINES_MAX),
        request(more=("l: 0", *("X: y",) * SIP_LINES_MAX), length=None),
        request(length=str(SIP_MESSAGE_BYTES_MAX)),
        b"\r\rgarbage\n\n",
        b"SIP/2.0 200 OK\r\n\r\n",
    ],
)
def test_message_without_a_known_end_is_handed_over_and_ends_the_stream(head: bytes) -> None:
    assert cut_all([head + request()]) == ([head], True)
    assert cut_all([bytes([byte]) for byte in head]) == ([head], True)


def test_message_up_to_the_bound_is_taken_and_no_longer_one() -> None:
    head = len(request(length="65000"))
    whole = request(body="x" * (SIP_MESSAGE_BYTES_MAX - head))
    assert len(whole) == SIP_MESSAGE_BYTES_MAX
    assert cut_all([whole]) == ([whole], False)
    endless = b"INVITE " + b"x" * 2 * SIP_MESSAGE_BYTES_MAX
    assert cut_all([endless]) == ([endless[: SIP_MESSAGE_BYTES_MAX + 1]], True)
    assert cut_all([endless[:SIP_MESSAGE_BYTES_MAX]]) == ([], False)
    at_bound = b"x" * (SIP_MESSAGE_BYTES_MAX - 4) + b"\r\n\r\n"
    assert cut_all([at_bound]) == ([at_bound], True)
    assert cut_all([b"x" + at_bound]) == ([b"x" + at_bound], True)
