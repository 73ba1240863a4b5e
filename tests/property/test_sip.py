"""SIP redirect against any bytes: an answer that can be read, or silence, and every message counted; in linear time."""

from __future__ import annotations

import re

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lookupd.access import Client
from lookupd.engine import Engine
from lookupd.fastpath.sip import SipResponder
from lookupd.limits import AMPLIFICATION_MAX, SIP_DATAGRAM_BYTES_MAX, SIP_MESSAGE_BYTES_MAX
from lookupd.observe.counters import QueryCounters
from lookupd.profiles import SipSettings
from lookupd.protocols import sip_message, sip_uri
from lookupd.protocols.sip_framing import SipFraming
from lookupd.settings import ClientSettings
from tests.sip_calls import Reply, read_reply, request

often = settings(max_examples=300, deadline=None, print_blob=True)
seldom = settings(max_examples=60, deadline=None, print_blob=True)

# -- bytes -----------------------------------------------------------------------------------------------

NUMBERS = ["+886912345678", "0912345678", "+886911000000", "+886931000000", "110", "", "+886-912(345)678", "%2B88", "a"]
PARTS = [
    b"\r\n", b"\n", b"\r", b" ", b"\t", b";", b",", b":", b'"', b"\\", b"<", b">", b"=", b"@", b"%", b"\0", b"\xff",
    b"[", b"SIP/2.0", b"Via: ", b"v:", b";rport", b";received=", b";branch=", b";tag=", b";npdi", b";rn=",
    b"Content-Length: 1", b"\r\n\r\n", b"INVITE ", b"ACK ", b"tel:", b"sip:",
    b";phone-context=+886", b"99999999999999999999", b"\r\n ", b"/",
]  # fmt: skip
"""What matters to a reader, to be put where it does not belong."""

few = st.text("+0123456789-.()%2Bab;=", max_size=24)
users = st.one_of(st.sampled_from(NUMBERS), few)
uris = st.builds(
    "{}{}{}{}".format,
    st.sampled_from(["sip:", "sips:", "tel:", "SIP:", "http:", ""]),
    users,
    st.sampled_from(["", ";npdi", ";rn=1", ";phone-context=+886", ";phone-context=x.example", ":pw"]),
    st.sampled_from(["@127.0.0.1:5060;user=phone", "@[::1]", "@gw.example?x=1", "", "@"]),
)
vias = st.builds(
    "SIP/2.0/{} {}{}{}".format,
    st.sampled_from(["UDP", "TCP"]),
    st.sampled_from(["127.0.0.1", "127.0.0.1:4000", "pc33.example", "[::1]:5060", "h:0"]),
    st.sampled_from(["", ";rport", ";rport=1", ";received=1.2.3.4", ";rport;received=1.1.1.1"]),
    st.sampled_from(["", ";branch=z9hG4bK-1", ';x=";,rport"', ",SIP/2.0/UDP next"]),
)
methods = st.sampled_from(["INVITE"] * 6 + ["OPTIONS", "CANCEL", "ACK", "BYE", "x"])
requests = st.builds(
    lambda uri, method, via, more, line_end, body, length: request(
        uri, method, via=via, more=tuple(more), line_end=line_end, body=body, length=length
    ),
    uris,
    methods,
    st.one_of(vias, vias, vias, st.none(), few),
    st.lists(
        st.sampled_from(["Via: SIP/2.0/UDP b", "Max-Forwards: 0", "X: y", "v:", "t: <sip:a>", " folded"]), max_size=3
    ),
    st.sampled_from(["\r\n", "\r\n", "\n"]),
    st.sampled_from(["", "v=0\r\n\r\n"]),
    st.sampled_from(["", "", "", "1", "99999", None]),
)


@st.composite
def mutations(draw: st.DrawFn) -> bytes:
    """A request, then some of it changed, put in, taken out, cut off or repeated."""
    message = bytearray(draw(requests))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(message)))
        match draw(st.sampled_from(["change", "put in", "part", "take out", "cut", "repeat"])):
            case "change":
                message[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
            case "put in":
                message[at:at] = draw(st.binary(max_size=6))
            case "part":
                message[at:at] = draw(st.sampled_from(PARTS)) * draw(st.integers(1, 3))
            case "take out":
                del message[at : at + draw(st.integers(1, 12))]
            case "cut":
                del message[at:]
            case "repeat":
                message[at:at] = message[:at]
    return bytes(message)


soups = st.lists(st.sampled_from(PARTS), max_size=40).map(b"".join)
messages = st.sampled_from([requests, mutations(), soups, st.binary(max_size=300)]).flatmap(lambda strategy: strategy)
profiles = st.builds(
    lambda **values: msgspec.convert(values, SipSettings),
    status=st.sampled_from([301, 302]),
    form=st.sampled_from(["rn", "replace", "prefix"]),
    npdi=st.sampled_from(["npdi", "npdi=yes"]),
    domain=st.sampled_from(["", "gw.example:5070"]),
    unported=st.sampled_from(["npdi", "rn", "unknown"]),
    rn_context=st.sampled_from(["", "+886"]),
    cic_context=st.sampled_from(["", "+886"]),
    unmapped_routing_number=st.sampled_from(["", "F00"]),
    tell=st.booleans(),
)


# -- the responder on a real store -----------------------------------------------------------------------


PEERS = [("127.0.0.1", 5000), ("::1", 5000, 0, 0), ("fe80::1%eth0", 1, 0, 2)]
CONTACT = re.compile(
    r"<(?:tel:(?P<tel>[^@<>;\s]+(?:;[^@<>\s]+)*)|sips?:(?P<sip>[^@<>;\s]+(?:;[^@<>\s;]+)*)@[^@<>\s;]+;user=phone)>"
)


def check_reply(reply: Reply, message: bytes) -> None:
    """What holds of every answer, whatever was asked."""
    allowed = {
        "Via", "From", "To", "Call-ID", "CSeq", "Contact", "Retry-After", "Allow", "Accept", "X-Lookupd",
        "Content-Length",
    }  # fmt: skip
    assert reply.fields.keys() <= allowed
    assert all(len(values) == 1 for name, values in reply.fields.items() if name != "Via")
    assert reply.fields["Via"]
    if reply.status not in {400, 505, 513}:
        assert {"From", "To", "Call-ID", "CSeq"} <= reply.fields.keys()
        assert re.search(r";\s*tag\s*=", reply.one("To"), re.IGNORECASE)
    assert ("Contact" in reply.fields) == (reply.status in {301, 302})
    if "Contact" in reply.fields:
        found = CONTACT.fullmatch(reply.contact)
        assert found is not None, reply.contact
        user = found["tel"] or found["sip"]
        assert {"npdi", "npdi=yes"} & set(user.split(";")[1:])
        # Never redirected to itself (RFC 3261 section 8.3).
        assert reply.contact[1:-1].encode("latin-1") not in message.split(b"\r\n")[0]


@pytest.mark.parametrize("udp", [True, False])
@often
@given(
    batch=st.lists(messages, min_size=1, max_size=4),
    profile=profiles,
    state=st.sampled_from(["full"] * 5 + ["empty"]),
    peer=st.sampled_from(PEERS),
    rates=st.sampled_from([(0, 0)] * 4 + [(1, 0), (0, 1), (2, 2)]),
    lost=st.booleans(),
)
def test_any_bytes_are_answered_or_counted(
    engines: dict[str, Engine],
    udp: bool,
    batch: list[bytes],
    profile: SipSettings,
    state: str,
    peer: tuple[object, ...],
    rates: tuple[int, int],
    lost: bool,
) -> None:
    counters = QueryCounters("sip", "udp" if udp else "tcp")
    responder = SipResponder(engines[state], counters, udp=udp, tag_seed=1)
    client = Client(
        ClientSettings("any", (), queries_per_second=rates[0], queries_per_prefix=rates[1], sip=profile),
    )
    replies = 0
    for at, message in enumerate(batch):
        reply = responder.respond(message, client, 10**9, peer)
        assert counters.received == at + 1
        assert counters.balance() == 0
        assert sum(client.usage["sip"]) == counters.received
        assert 0 <= responder.reply_port < 1 << 16
        assert udp or not responder.reply_port
        if reply is None:
            assert not responder.reply_port
            continue
        replies += 1
        assert len(responder.unsettled) == replies
        if udp:
            assert len(reply) <= AMPLIFICATION_MAX * len(message)
        if reply != b"\r\n":
            check_reply(read_reply(reply), message)
        else:
            assert not udp
    if lost:
        responder.take_back(0, replies)
        assert counters.balance() == 0
        assert not any(counters.answered)
        assert sum(client.usage["sip"]) == counters.received


@often
@given(message=messages)
def test_repetition_of_a_request_is_answered_alike(engines: dict[str, Engine], message: bytes) -> None:
    responder = SipResponder(engines["full"], QueryCounters("sip", "udp"), udp=True, tag_seed=1)
    client = Client(ClientSettings("any", ()))
    first = responder.respond(message, client, 10**9, PEERS[0])
    assert responder.respond(message, client, 2 * 10**9, PEERS[0]) == first


# -- streams ---------------------------------------------------------------------------------------------


def cut_all(pieces: list[bytes]) -> tuple[list[bytes], bytes, bool]:
    """The messages of a stream that comes in these pieces, what is left, and whether it had to end."""
    framing, received, found = SipFraming(), bytearray(), []
    for piece in pieces:
        received += piece
        while True:
            frame = framing.cut(received, 0)
            assert 0 <= frame.end <= len(received)
            if frame.message is not None:
                assert len(frame.message) <= SIP_MESSAGE_BYTES_MAX + 1
                found.append(frame.message)
            del received[: frame.end]
            if frame.last:
                return found, b"", True
            if frame.end == 0:
                break
    return found, bytes(received), False


@often
@given(parts=st.lists(messages, max_size=5), data=st.data())
def test_stream_means_the_same_however_it_is_cut(parts: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    pieces = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert cut_all(pieces) == cut_all([stream])
    assert cut_all([bytes([byte]) for byte in stream]) == cut_all([stream])


@often
@given(
    parts=st.lists(
        requests.filter(lambda message: b"Content-Length: 0" in message or b"v=0" not in message), max_size=4
    )
)
def test_whole_requests_come_out_of_a_stream_as_they_went_in(parts: list[bytes]) -> None:
    whole = [part for part in parts if sip_message.body_bytes(part.rstrip(b"\r\n")) == 0]
    assert cut_all([b"".join(whole)]) == (whole, b"", False)


# -- time ------------------------------------------------------------------------------------------------


PIECES = [
    *PARTS,
    b'"\\', b'\\"', b'""', b";;", b"a;", b';a="', b", ", b" \t", b"\r\n ", b"a: b\r\n", b"v: SIP/2.0/UDP a\r\n", b"<>",
    b"%2", b"SIP / ", b"[:", b"a", b"0",
]  # fmt: skip
STARTS = [
    b"", b"INVITE ", b"INVITE sip:", b"INVITE sip:a@b SIP/2.0\r\nv:", b"INVITE sip:a@b SIP/2.0\r\nv: SIP/2.0/UDP a;",
    b"INVITE sip:a@b SIP/2.0\r\nv: SIP", b"INVITE sip:a@b SIP/2.0\r\nv: SIP/2.0/UDP ", b"INVITE tel:",
    b"INVITE sip:a@b SIP/2.0\r\nv: SIP/2.0/UDP a\r\nf: ", b'INVITE sip:a@b SIP/2.0\r\nv: SIP/2.0/UDP a\r\nf: "',
    b"INVITE sip:a@b SIP/2.0\r\nv: SIP/2.0/UDP a\r\nt: <a>", b"INVITE sip:a@b SIP/2.0\r\nv: SIP/2.0/UDP a\r\nCSeq: 1",
    b"INVITE sip:a@b SIP/2.0\r\nv: SIP/2.0/UDP a\r\nl: ",
]  # fmt: skip


@pytest.mark.timeout(60)
@pytest.mark.parametrize("start", STARTS)
def test_long_messages_made_to_be_slow_are_not(engines: dict[str, Engine], start: bytes) -> None:
    """Work that grows with the square of the length would need hours here: 64 KiB, dozens of pieces."""
    client = Client(ClientSettings("any", ()))
    for udp, size in ((True, SIP_DATAGRAM_BYTES_MAX), (False, SIP_MESSAGE_BYTES_MAX)):
        responder = SipResponder(engines["full"], QueryCounters("sip", "udp"), udp=udp, tag_seed=1)
        for piece in PIECES:
            message = start + piece * ((size - len(start)) // len(piece) - 2)
            responder.respond(message, client, 10**9, PEERS[0])
            responder.respond(message + b"\r\n\r\n", client, 10**9, PEERS[0])
            assert responder.counters.balance() == 0


def test_drip_fed_head_is_searched_once() -> None:
    """Counted, not timed: what is looked at again is the overlap of two bytes."""
    framing, received, looked_at = SipFraming(), bytearray(), 0
    search = sip_message.EMPTY_LINE.search

    class Watched:
        def search(self, text: bytearray, start: int, end: int) -> re.Match[bytes] | None:
            nonlocal looked_at
            looked_at += min(end, len(text)) - start
            return search(text, start, end)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lookupd.protocols.sip_framing.EMPTY_LINE", Watched())
        for byte in b"INVITE sip:a@b SIP/2.0\r\nX: " + b"y" * 20_000:
            received.append(byte)
            assert framing.cut(received, 0).message is None
    assert looked_at <= 3 * len(received)


# -- numbers and Via -------------------------------------------------------------------------------------


@often
@given(uri=st.one_of(uris, few, st.text(max_size=30)).map(lambda text: text.encode("utf-8", "surrogateescape")))
def test_asked_number_is_digits_or_nothing(uri: bytes) -> None:
    try:
        target = sip_uri.read_target(uri)
    except sip_uri.ProtocolError as error:
        assert error.reason in {"malformed", "not_a_query"}  # noqa: PT017 - nothing raised is right as well
        return
    assert re.fullmatch(r"|\+?[0-9]+", target.asked)
    assert target.asked.endswith(target.digits)
    if target.asked:
        assert re.fullmatch(rb"[0-9A-Fa-f+().%-]+", target.number)


@seldom
@given(text=st.lists(st.sampled_from([b";", b",", b'"', b"\\", b"a", b" "]), max_size=60).map(b"".join))
@pytest.mark.parametrize("separator", [b";", b","])
def test_quoted_strings_are_not_split_and_nothing_is_lost(text: bytes, separator: bytes) -> None:
    parts = sip_message.split_unquoted(text, separator)
    assert separator.join(parts) == text
    # The same told otherwise: quoted strings blanked out, then split.
    blanked = re.sub(rb'"(?:[^"\\]|\\.)*(?:"|\\?\Z)', lambda found: b"q" * len(found[0]), text, flags=re.DOTALL)
    assert [len(part) for part in parts] == [len(part) for part in blanked.split(separator)]
