"""SIP redirect over real sockets: datagrams, streams cut anywhere, where answers go, and how connections end."""

from __future__ import annotations

import asyncio
import socket

import aiohttp
import pytest

from lookupd.limits import SIP_LINES_MAX, SIP_MESSAGE_BYTES_MAX
from lookupd.model import Outcome
from lookupd.observe.counters import UNKNOWN_CLIENT
from tests.conftest import Served, Workbench, serve
from tests.sip_calls import NUMBER, read_reply, request

pytestmark = pytest.mark.usefixtures("each_engine")

LISTEN = 'sip = ["udp://127.0.0.1:0", "tcp://127.0.0.1:0"]\nhttp = "http://127.0.0.1:0"'
VIA_TCP = "SIP/2.0/TCP 127.0.0.1;branch=z9hG4bK-1"
PING, PONG = b"\r\n\r\n", b"\r\n"


async def ask_udp(port: int, message: bytes, seconds: float = 1.0) -> bytes | None:
    """One datagram there, one back to the same port; None if there is silence."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.connect(("127.0.0.1", port))
        await loop.sock_sendall(sock, message)
        try:
            return await asyncio.wait_for(loop.sock_recv(sock, 65_535), seconds)
        except TimeoutError:
            return None


class Stream:
    """A connection over TCP."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def to(cls, served: Served) -> Stream:
        return cls(*await asyncio.open_connection("127.0.0.1", served.port("sip", "tcp")))

    async def read(self) -> bytes:
        """One answer, or one pong."""
        first = await asyncio.wait_for(self.reader.readuntil(b"\r\n"), 5)
        return first if first == PONG else first + await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 5)

    async def ask(self, message: bytes) -> int:
        """The status that a message gets."""
        self.writer.write(message)
        return read_reply(await self.read()).status

    async def at_end(self) -> bool:
        """Whether the server says no more, and ended its side."""
        return await asyncio.wait_for(self.reader.read(), 5) == b""

    def close(self) -> None:
        self.writer.close()


async def test_call_is_redirected_over_udp_and_tcp(loaded: Workbench) -> None:
    async with serve(loaded.config(listen=LISTEN)) as served:
        over_udp = read_reply(await ask_udp(served.port("sip", "udp"), request()))
        assert over_udp.contact == f"<sip:{NUMBER};npdi;rn=+D0402@127.0.0.1:5060;user=phone>"
        assert over_udp.one("Via").startswith("SIP/2.0/UDP 127.0.0.1:15999;rport=")
        stream = await Stream.to(served)
        stream.writer.write(request(via=VIA_TCP))
        over_tcp = read_reply(await stream.read())
        assert over_tcp.one("Via") == VIA_TCP
        assert over_tcp.contact == over_udp.contact
        stream.close()
        for transport in ("udp", "tcp"):
            counters = served.daemon.metrics.queries("sip", transport)
            assert (counters.received, counters.answered[Outcome.PORTED], counters.balance()) == (1, 1, 0)


async def test_repeated_call_has_the_same_tag_over_either_transport(loaded: Workbench) -> None:
    async with serve(loaded.config(listen=LISTEN)) as served:
        port = served.port("sip", "udp")
        message = request(via=VIA_TCP + ";rport")
        tags = {read_reply(await ask_udp(port, message)).one("To") for _ in range(3)}
        stream = await Stream.to(served)
        stream.writer.write(message)
        tags.add(read_reply(await stream.read()).one("To"))
        stream.close()
        assert len(tags) == 1
    async with serve(loaded.config(listen=LISTEN)) as served:
        assert read_reply(await ask_udp(served.port("sip", "udp"), message)).one("To") not in tags


async def test_without_rport_the_answer_goes_to_the_sent_by_port(loaded: Workbench) -> None:
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as elsewhere:
        elsewhere.setblocking(False)
        elsewhere.bind(("127.0.0.1", 0))
        there = elsewhere.getsockname()[1]
        async with serve(loaded.config(listen=LISTEN)) as served:
            port = served.port("sip", "udp")
            elsewhere.connect(("127.0.0.1", port))  # takes nothing from any other
            message = request(via=f"SIP/2.0/UDP pc33.example:{there};branch=1")
            assert await ask_udp(port, message, 0.2) is None
            reply = read_reply(await asyncio.wait_for(loop.sock_recv(elsewhere, 65_535), 5))
            assert reply.status == 302
            assert reply.one("Via") == f"SIP/2.0/UDP pc33.example:{there};branch=1;received=127.0.0.1"
            # A batch of both kinds: each goes its own way.
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.setblocking(False)
                sock.connect(("127.0.0.1", port))
                for _ in range(3):
                    sock.send(message)
                    sock.send(request())
                for _ in range(3):
                    assert read_reply(await asyncio.wait_for(loop.sock_recv(sock, 65_535), 5)).status == 302
                    assert read_reply(await asyncio.wait_for(loop.sock_recv(elsewhere, 65_535), 5)) == reply


async def test_acks_and_keep_alives_are_silence_and_no_drop(loaded: Workbench) -> None:
    async with serve(loaded.config(listen=LISTEN)) as served:
        port = served.port("sip", "udp")
        for message in (request(method="ACK"), b"\r\n\r\n", b"\0"):
            assert await ask_udp(port, message, 0.1) is None
        counters = served.daemon.metrics.queries("sip", "udp")
        assert (counters.received, counters.other, sum(counters.dropped)) == (3, 3, 0)


async def test_client_on_no_list_gets_nothing(loaded: Workbench) -> None:
    config = loaded.config('[[client]]\nname = "other"\nsources = ["192.0.2.1/32"]', LISTEN)
    async with serve(config) as served:
        assert await ask_udp(served.port("sip", "udp"), request(), 0.2) is None
        assert served.daemon.metrics.queries("sip", "udp").refused[UNKNOWN_CLIENT] == 1
        stream = await Stream.to(served)
        stream.writer.write(request())
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await stream.reader.readexactly(1)
        stream.close()
        assert served.daemon.metrics.connections("sip").rejected["unknown_client"] == 1


async def test_client_has_its_own_profile_and_rate(loaded: Workbench) -> None:
    client = (
        '[[client]]\nname = "a"\nsources = ["127.0.0.1/32"]\nqueries_per_second = 2\n[client.sip]\nform = "replace"'
    )
    async with serve(loaded.config(f'[sip]\nnpdi = "npdi=yes"\n{client}', LISTEN)) as served:
        port = served.port("sip", "udp")
        assert read_reply(await ask_udp(port, request())).contact == "<sip:+D0402;npdi=yes@127.0.0.1:5060;user=phone>"
        statuses = [read_reply(await ask_udp(port, request())).status for _ in range(5)]
        assert 503 in statuses


async def test_without_data_calls_and_probes_are_sent_elsewhere(workbench: Workbench) -> None:
    async with serve(workbench.config(listen=LISTEN)) as served:
        for method in ("INVITE", "OPTIONS"):
            reply = read_reply(await ask_udp(served.port("sip", "udp"), request(method=method)))
            assert (reply.status, reply.one("Retry-After")) == (503, "5")


async def test_stream_is_answered_in_order_however_it_is_cut(loaded: Workbench) -> None:
    body = "v=0\r\n\r\nOPTIONS sip:x SIP/2.0\r\n\r\n"
    parts = [
        request(via=VIA_TCP),
        request(via=VIA_TCP, method="ACK", body=body),
        PING,
        request(via=VIA_TCP, method="OPTIONS", line_end="\n"),
        request("sip:+886931000000@h", via=VIA_TCP, body=body),
        request(via=VIA_TCP, to_field=None),
        PONG,  # a line's end of its own is nothing
        request(via=VIA_TCP, method="BYE"),
    ]
    statuses = [302, None, 200, 404, 400, 405]
    stream_bytes = b"".join(parts)

    async def converse(stream: Stream, pieces: list[bytes]) -> None:
        for piece in pieces:
            stream.writer.write(piece)
            if len(pieces) > 1:
                await asyncio.sleep(0)
        for status in statuses:
            answer = await stream.read()
            assert (None if answer == PONG else read_reply(answer).status) == status

    async with serve(loaded.config(listen=LISTEN)) as served:
        for at in range(0, len(stream_bytes), 7):
            stream = await Stream.to(served)
            stream.writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await converse(stream, [stream_bytes[:at], stream_bytes[at:]])
            stream.close()
        stream = await Stream.to(served)
        stream.writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await converse(stream, [bytes([byte]) for byte in stream_bytes])
        await converse(stream, [stream_bytes])
        stream.writer.write(stream_bytes * 50)
        for _ in range(50):
            await converse(stream, [])
        stream.close()
        counters = served.daemon.metrics.queries("sip", "tcp")
        assert counters.balance() == 0
        assert counters.received % (len(statuses) + 1) == 0


@pytest.mark.parametrize(
    ("message", "status"),
    [
        (request(via=VIA_TCP, length=None), 400),
        (request(via=VIA_TCP, length="x"), 400),
        (request(via=VIA_TCP, more=("l: 0",)), 400),
        (request(via=VIA_TCP, more=("X: y",) * SIP_LINES_MAX), 400),
        (request(via=VIA_TCP, length=str(SIP_MESSAGE_BYTES_MAX)), 513),
        (request(via=VIA_TCP)[:-2] + b"X: " + b"y" * SIP_MESSAGE_BYTES_MAX, 513),
    ],
    ids=["no length", "broken length", "two lengths", "too many lines", "body too long", "head too long"],
)
async def test_message_without_a_known_end_is_answered_and_ends_the_connection(
    loaded: Workbench, message: bytes, status: int
) -> None:
    async with serve(loaded.config(listen=LISTEN)) as served:
        stream = await Stream.to(served)
        stream.writer.write(request(via=VIA_TCP))
        # What follows is never read as a message, and does not keep the answer from arriving.
        stream.writer.write(message + b"\r\n" + request(via=VIA_TCP) * 2000)
        assert read_reply(await stream.read()).status == 302
        assert read_reply(await stream.read()).status == status
        assert await stream.at_end()
        stream.close()
        await stream.writer.wait_closed()
        for _ in range(100):
            if not sum(served.daemon.metrics.connections("sip").closed.values()):
                await asyncio.sleep(0.02)
        assert served.daemon.metrics.connections("sip").closed["unframed"] == 1
        counters = served.daemon.metrics.queries("sip", "tcp")
        assert (counters.received, counters.balance()) == (2, 0)


async def test_response_without_length_ends_the_connection_in_silence(loaded: Workbench) -> None:
    async with serve(loaded.config(listen=LISTEN)) as served:
        stream = await Stream.to(served)
        stream.writer.write(b"SIP/2.0 200 OK\r\n\r\n")
        assert await stream.at_end()
        stream.close()


async def test_connection_that_waits_to_end_does_not_outlast_its_time_or_the_daemon(
    loaded: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lookupd.transports import tcp

    async with serve(loaded.config(listen=LISTEN)) as served:
        left_open = await Stream.to(served)
        assert await left_open.ask(request(length=None)) == 400
        monkeypatch.setattr(tcp, "FRAME_SECONDS", 0.1)
        stream = await Stream.to(served)
        assert await stream.ask(request(length=None)) == 400
        for _ in range(250):
            if not sum(served.daemon.metrics.connections("sip").closed.values()):
                await asyncio.sleep(0.02)
        assert served.daemon.metrics.connections("sip").closed == {
            "peer": 0, "idle": 0, "slow": 0, "frame_too_long": 0, "unframed": 1, "drain": 0, "handed_over": 0,
        }  # fmt: skip
        connections = served.daemon.metrics.connections("sip")
        stream.close()
    assert connections.closed["unframed"] == 2
    left_open.close()


async def test_switch_may_hold_its_connection(loaded: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line's end between messages is not the start of one that must be complete within FRAME_SECONDS."""
    from lookupd.transports import tcp

    monkeypatch.setattr(tcp, "FRAME_SECONDS", 0.1)
    monkeypatch.setattr(tcp, "SWEEP_SECONDS", 0.02)
    async with serve(loaded.config(listen=LISTEN)) as served:
        stream = await Stream.to(served)
        assert await stream.ask(request(via=VIA_TCP) + b"\r\n") == 302
        await asyncio.sleep(0.4)
        stream.writer.write(b"\r\n")
        assert await stream.read() == PONG
        stream.writer.write(b"INVITE")
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await stream.read()
        stream.close()
        assert served.daemon.metrics.connections("sip").closed["slow"] == 1


async def test_metrics_tell_of_sip(loaded: Workbench) -> None:
    async with serve(loaded.config(listen=LISTEN)) as served, aiohttp.ClientSession() as session:
        await ask_udp(served.port("sip", "udp"), request())
        async with session.get(f"http://127.0.0.1:{served.port('http', 'http')}/metrics") as reply:
            text = await reply.text()
        assert 'lookupd_queries_answered_total{dialect="sip",outcome="ported",transport="udp"} 1.0' in text


async def test_profile_is_taken_over_without_a_restart(loaded: Workbench) -> None:
    path = loaded.config(listen=LISTEN)
    async with serve(path) as served:
        port = served.port("sip", "udp")
        stream = await Stream.to(served)
        assert await stream.ask(request(via=VIA_TCP)) == 302
        loaded.config('[sip]\nstatus = 301\n[[client]]\nname = "a"\nsources = ["127.0.0.1/32"]', LISTEN)
        assert await served.daemon.reload()
        assert read_reply(await ask_udp(port, request())).status == 301
        assert await stream.ask(request(via=VIA_TCP)) == 301
        stream.close()
