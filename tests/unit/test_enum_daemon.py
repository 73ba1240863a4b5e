"""ENUM of a running daemon, over UDP and TCP, asked by dnspython and by bare sockets."""

from __future__ import annotations

import asyncio
import signal
import socket
import struct
from pathlib import Path

import dns.asyncquery
import dns.asyncresolver
import dns.flags
import dns.message
import dns.rcode
import dns.resolver
import pytest

from lookupd.limits import AMPLIFICATION_MAX, DNS_MESSAGE_BYTES_MAX
from tests.conftest import Served, Workbench, free_port, run_daemon, serve, wait_until
from tests.enum_bench import OPT, name_of, number_query, query
from tests.unit.test_daemon import ask_udp, scrape, total

pytestmark = pytest.mark.usefixtures("each_engine")

LISTEN = 'enum = ["udp://127.0.0.1:0", "tcp://127.0.0.1:0"]\nhttp = "http://127.0.0.1:0"'
SETTINGS = """
[enum]
apex = ["np.example", "sip.np.example"]
"""
CLIENTS = """
[[client]]
name = "ordinary"
sources = ["127.0.0.1/32"]

[[client]]
name = "switch"
sources = ["127.0.0.2/32"]
[client.enum]
apex = "carrier.example."
service = ["E2U+pstn:sip", "E2U+pstn:tel"]
domain = "gw.example"
unported = "rn"
rn_context = "np.example"
tell = "txt"

[[client]]
name = "slow"
sources = ["127.0.0.3/32"]
queries_per_second = 1

[[client]]
name = "perhaps forged"
sources = ["127.0.0.4/32"]
queries_per_prefix = 1
"""


def configure(workbench: Workbench, extra: str = "") -> Path:
    return workbench.config(SETTINGS + CLIENTS + extra, LISTEN)


async def ask(
    served: Served, name: str, kind: str = "NAPTR", source: str = "127.0.0.1", *, tcp: bool = False, edns: bool = True
) -> dns.message.Message:
    """dnspython checks id, question and sender; a truncated answer is given back as it is."""
    message = dns.message.make_query(name, kind, use_edns=edns)
    port = served.port("enum", "tcp" if tcp else "udp")
    asking = dns.asyncquery.tcp if tcp else dns.asyncquery.udp
    return await asking(message, "127.0.0.1", timeout=5, port=port, source=source)


def regexps(message: dns.message.Message) -> list[str]:
    return [record.regexp.decode() for rrset in message.answer for record in rrset]


@pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
async def test_number_is_answered(loaded: Workbench, tcp: bool) -> None:
    async with serve(configure(loaded)) as served:
        for apex in ("np.example", "sip.NP.example"):
            answer = await ask(served, name_of("886912345678", apex), tcp=tcp)
            assert answer.rcode() == dns.rcode.NOERROR
            assert answer.flags & dns.flags.AA
            assert regexps(answer) == [r"!^(.*)$!tel:\1;npdi;rn=+D0402!"]
        absent = await ask(served, name_of("886931000000"), tcp=tcp)
        assert (absent.rcode(), len(absent.authority)) == (dns.rcode.NXDOMAIN, 1)
        outside = await ask(served, name_of("886912345678", "e164.arpa"), tcp=tcp)
        assert (outside.rcode(), outside.flags & dns.flags.AA) == (dns.rcode.REFUSED, 0)


@pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
async def test_each_client_has_its_own_profile(loaded: Workbench, tcp: bool) -> None:
    async with serve(configure(loaded)) as served:
        name = name_of("886911000000", "carrier.example")
        assert (await ask(served, name, tcp=tcp)).rcode() == dns.rcode.REFUSED
        assert regexps(await ask(served, name, source="127.0.0.2", tcp=True)) == [
            r"!^(.*)$!sip:\1;npdi;rn=D0401;rn-context=np.example@gw.example;user=phone!",
            r"!^(.*)$!tel:\1;npdi;rn=D0401;rn-context=np.example!",
        ]
        told = await ask(served, name, "TXT", "127.0.0.2", tcp=tcp)
        assert [record.strings[0][:13] for rrset in told.answer for record in rrset] == [b"serial=3 age="]
        assert regexps(await ask(served, name_of("886911000000"), tcp=tcp)) == [r"!^(.*)$!tel:\1;npdi!"]
        assert (await ask(served, name_of("886911000000"), source="127.0.0.2", tcp=tcp)).rcode() == dns.rcode.REFUSED


async def test_truncated_answer_is_whole_over_tcp(loaded: Workbench) -> None:
    config = configure(loaded)
    config.write_text(config.read_text().replace('domain = "gw.example"', f'domain = "{"d" * 100}"'))
    async with serve(config) as served:
        name = name_of("886912345678", "carrier.example")
        cut = await ask(served, name, source="127.0.0.2", edns=False)
        assert cut.flags & dns.flags.TC
        assert not cut.answer
        whole = await ask(served, name, source="127.0.0.2", tcp=True, edns=False)
        assert len(regexps(whole)) == 2


async def test_resolver_finds_a_number_and_learns_that_another_is_absent(loaded: Workbench) -> None:
    port = free_port()
    listen = LISTEN.replace(":0", f":{port}", 2)
    async with serve(loaded.config(SETTINGS, listen)):
        resolver = dns.asyncresolver.Resolver(configure=False)
        resolver.nameservers, resolver.port, resolver.lifetime = ["127.0.0.1"], port, 5
        answer = await resolver.resolve(name_of("886923456789") + ".", "NAPTR")
        assert [record.regexp for record in answer] == [rb"!^(.*)$!tel:\1;npdi;rn=+D9999!"]
        with pytest.raises(dns.resolver.NXDOMAIN):
            await resolver.resolve(name_of("886931000000") + ".", "NAPTR")
        with pytest.raises(dns.resolver.NoAnswer):
            await resolver.resolve(name_of("88692") + ".", "NAPTR")
        answer = await resolver.resolve("np.example.", "SOA")
        assert [record.serial for record in answer] == [3]


async def test_without_data_a_resolver_is_told_to_ask_another(workbench: Workbench) -> None:
    workbench.load_tables()
    async with serve(configure(workbench)) as served:
        for tcp in (False, True):
            answer = await ask(served, name_of("886912345678"), tcp=tcp)
            assert (answer.rcode(), answer.flags & dns.flags.AA) == (dns.rcode.SERVFAIL, 0)
        metrics = await scrape(served)
    assert total(metrics, "lookupd_queries_answered_total", dialect="enum", outcome="unavailable") == 2


async def test_every_message_is_accounted_for(loaded: Workbench) -> None:
    async with serve(configure(loaded)) as served:
        port = served.port("enum", "udp")
        for message, comes in (
            (number_query("886912345678", rest=OPT), True),
            (number_query("886911000000"), True),
            (query("np.example", 6), True),
            (query("example.net", 6), True),
            (query("np.example", 6, flags=0x2000), True),
            (b"\0" * 11, False),
            (query("np.example", 6, flags=0x8000), False),
            (query("np.example", 6)[:20], True),
        ):
            reply = await ask_udp(port, message, 5 if comes else 0.2)
            assert (reply is not None) == comes
            assert reply is None or len(reply) <= AMPLIFICATION_MAX * len(message)
        seen = [await ask(served, name_of("886912345678"), source="127.0.0.3") for _ in range(20)]
        refused = [answer.rcode() for answer in seen].count(dns.rcode.REFUSED)
        assert refused > 0
        metrics = await scrape(served)
        assert served.daemon.metrics.queries("enum", "udp").balance() == 0
    assert total(metrics, "lookupd_queries_answered_total", dialect="enum", outcome="not_ported") == 1
    assert total(metrics, "lookupd_queries_answered_total", dialect="enum", outcome="ported") == 1 + len(seen) - refused
    assert total(metrics, "lookupd_queries_refused_total", dialect="enum", reason="rate") == refused
    assert total(metrics, "lookupd_queries_other_total", dialect="enum") == 1
    assert total(metrics, "lookupd_queries_dropped_total", dialect="enum", reason="malformed") == 2
    assert total(metrics, "lookupd_queries_dropped_total", dialect="enum", reason="not_a_query") == 3
    assert total(metrics, "lookupd_queries_received_total", dialect="enum") == 8 + len(seen)


async def test_forged_looking_prefix_is_sent_to_tcp_and_answered_there(loaded: Workbench) -> None:
    async with serve(configure(loaded)) as served:
        seen = [await ask(served, name_of("886912345678"), source="127.0.0.4") for _ in range(20)]
        assert any(answer.flags & dns.flags.TC for answer in seen)
        assert all(bool(answer.answer) != bool(answer.flags & dns.flags.TC) for answer in seen)
        over_tcp = [await ask(served, name_of("886912345678"), source="127.0.0.4", tcp=True) for _ in range(3)]
        assert all(len(regexps(answer)) == 1 for answer in over_tcp)


# -- the TCP stream --------------------------------------------------------------------------------------


def frame(message: bytes) -> bytes:
    return struct.pack(">H", len(message)) + message


async def stream(served: Served, *pieces: bytes) -> list[bytes]:
    """The replies to a client that sends these pieces one after another, then closes its sending side."""
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port("enum", "tcp"))
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0)
    writer.write_eof()
    received = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    await writer.wait_closed()
    replies = []
    while received:
        (length,) = struct.unpack_from(">H", received)
        replies.append(received[2 : 2 + length])
        assert len(replies[-1]) == length
        received = received[2 + length :]
    return replies


async def test_queries_in_one_stream_are_answered_in_order(loaded: Workbench) -> None:
    """RFC 7766 section 6.2.1.1: a client need not wait for one answer to ask again."""
    messages = [
        query(name_of(("886912345678", "886931000000", "88691")[at % 3]), query_id=at, rest=OPT) for at in range(300)
    ]
    async with serve(configure(loaded)) as served:
        at_once = await stream(served, b"".join(frame(message) for message in messages))
        one_by_one = [await ask_udp(served.port("enum", "udp"), message) for message in messages[:30]]
    assert [int.from_bytes(reply[:2], "big") for reply in at_once] == list(range(300))
    assert at_once[:30] == one_by_one


async def test_stream_cut_anywhere_is_put_together(loaded: Workbench) -> None:
    whole = frame(number_query("886912345678")) + frame(query("np.example", 6))
    async with serve(configure(loaded)) as served:
        expected = await stream(served, whole)
        assert len(expected) == 2
        for at in range(1, len(whole), 7):
            assert await stream(served, whole[:at], whole[at:]) == expected


async def test_frames_that_get_silence_leave_the_connection_open(loaded: Workbench) -> None:
    good = frame(query("np.example", 6))
    async with serve(configure(loaded)) as served:
        replies = await stream(
            served, frame(b""), good, frame(b"\0" * 11), good, frame(query("np.example", flags=0x8000)), good
        )
    assert len(replies) == 3


async def test_longest_frame_is_read(loaded: Workbench) -> None:
    message = number_query("886912345678")
    padded = message + bytes(DNS_MESSAGE_BYTES_MAX - len(message))
    async with serve(configure(loaded)) as served:
        (reply,) = await stream(served, frame(message))
        assert await stream(served, frame(padded), frame(message)) == [reply, reply]


# -- a daemon of its own ---------------------------------------------------------------------------------


def test_changed_profile_is_in_force_after_a_reload(loaded: Workbench) -> None:
    port = free_port()
    config = loaded.config(SETTINGS, f'enum = ["udp://127.0.0.1:{port}", "tcp://127.0.0.1:{port}"]')

    def codes() -> list[int]:
        return [ask_process(port, query(name_of("886912345678", apex))) for apex in ("np.example", "other.example")]

    with run_daemon(config) as process:
        assert codes() == [dns.rcode.NOERROR, dns.rcode.REFUSED]
        config.write_text(config.read_text().replace('"np.example"', '"other.example"'))
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: codes() == [dns.rcode.REFUSED, dns.rcode.NOERROR])


def ask_process(port: int, message: bytes) -> int:
    """The reply's code."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(5)
        sock.connect(("127.0.0.1", port))
        sock.send(message)
        return sock.recv(1232)[3] & 0xF
