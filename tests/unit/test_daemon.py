"""The daemon over real sockets: every dialect and transport, its counters, its signals."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import struct
import time
import urllib.request
from pathlib import Path

import aiohttp
import pytest

from lookupd import limits
from lookupd.model import Outcome
from lookupd.protocols import npq, pdb
from lookupd.protocols.framing import NPQ_FRAMING
from tests.conftest import Served, Workbench, free_port, halt, run_daemon, serve, wait_until

pytestmark = pytest.mark.usefixtures("each_engine")

BUCKET_BOUNDS = {repr(2**at / 1e6) for at in range(22)} | {"+Inf"}


async def ask_udp(port: int, message: bytes, seconds: float = 1.0, host: str = "127.0.0.1") -> bytes | None:
    """One datagram there and one back; None if there is silence."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.connect((host, port))
        await loop.sock_sendall(sock, message)
        try:
            return await asyncio.wait_for(loop.sock_recv(sock, 65_535), seconds)
        except TimeoutError:
            return None


async def scrape(served: Served) -> dict[str, float]:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{served.port('http', 'http')}/metrics") as reply,
    ):
        text = await reply.text()
    return {
        line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line[:1] not in {"", "#"}
    }


def total(metrics: dict[str, float], name: str, **labels: str) -> float:
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    return sum(
        value
        for key, value in metrics.items()
        if key.partition("{")[0] == name and all(label in key for label in wanted)
    )


async def dip(port: int, message: bytes) -> bytes | None:
    """Asked by `pdb` again and again, as switches do: on a busy machine an answer may be late, and is not sent."""
    replies = [await ask_udp(port, message, 0.2)]
    while replies[-1] is None and len(replies) < 20:
        replies.append(await ask_udp(port, message, 0.2))
    return replies[-1]


async def test_pdb_is_answered_over_udp(loaded: Workbench) -> None:
    async with serve(loaded.config()) as served:
        port = served.port("pdb", "udp")
        reply = await dip(port, pdb.encode_query("886912345678", 0x1234))
        assert reply == bytes.fromhex("010101151234") + b"886912345678\0" + (102).to_bytes(2, "big")
        assert await dip(port, pdb.encode_query("886223450000", 7)) == pdb.encode_query("886223450000", 7).replace(
            b"\x01\x00\x00\x13", b"\x01\x01\x01\x15", 1
        ) + (1000).to_bytes(2, "big")  # its network has no carrier id
        assert await dip(port, pdb.encode_query("886931111111", 1)) == bytes.fromhex("010103060001")
        assert await dip(port, b"0912345678\0") == b"0912345678\0" + (102).to_bytes(2, "big")


async def test_pdb_is_silent_without_data(workbench: Workbench) -> None:
    workbench.load_tables()
    async with serve(workbench.config()) as served:
        assert await ask_udp(served.port("pdb", "udp"), pdb.encode_query("886912345678", 1), 0.2) is None
        answer = await ask_udp(served.port("npq", "udp"), npq.encode_query(1, "886912345678"))
        assert answer is not None
        assert npq.decode_answer(answer).results[0] == Outcome.UNAVAILABLE
        metrics = await scrape(served)
    assert total(metrics, "lookupd_queries_dropped_total", dialect="pdb", reason="unavailable") == 1
    assert metrics["lookupd_ready"] == 0


async def test_store_that_appears_later_is_served(workbench: Workbench) -> None:
    async with serve(workbench.config()) as served, aiohttp.ClientSession() as session:
        url = f"http://127.0.0.1:{served.port('http', 'http')}"
        async with session.get(f"{url}/readyz") as reply:
            assert reply.status == 503
            assert "no store here" in await reply.text()
        loaded = await asyncio.to_thread(run_loader, workbench)
        assert loaded == 0
        for _ in range(100):
            async with session.get(f"{url}/readyz") as reply:
                if reply.status == 200:
                    break
            await asyncio.sleep(0.05)
        answer = await ask_udp(served.port("npq", "udp"), npq.encode_query(1, "886912345678"))
        assert answer is not None
        assert npq.decode_answer(answer).results[:2] == [Outcome.PORTED, "1402"]


def run_loader(workbench: Workbench) -> int:
    """Another process, as the loader is: one process must not open a store twice."""
    from tests.conftest import NETWORKS, RANGES, SNAPSHOT, run_cli

    store = ("--store", workbench.store)
    codes = [
        run_cli("loader.cli", "networks", workbench.write("networks.csv", NETWORKS), *store).returncode,
        run_cli("loader.cli", "ranges", workbench.write("ranges.csv", RANGES), *store).returncode,
        run_cli("loader.cli", "snapshot", workbench.publish("snapshot-main-1.csv", SNAPSHOT, 4), *store).returncode,
    ]
    return sum(codes)


async def test_replaced_store_is_noticed(loaded: Workbench, tmp_path: Path) -> None:
    other = Workbench(tmp_path / "other")
    other.folder.mkdir()
    other.load_tables()
    other.snapshot("tn,network_code\n886955555555,1403\n")
    async with serve(loaded.config()) as served:
        loaded.store.rename(tmp_path / "old")
        other.store.rename(loaded.store)
        until = time.monotonic() + 10
        while time.monotonic() < until:
            answer = await ask_udp(served.port("npq", "udp"), npq.encode_query(1, "886955555555"))
            if answer is not None and npq.decode_answer(answer).results[0] == Outcome.PORTED:
                break
            await asyncio.sleep(0.05)
        else:
            raise AssertionError("the new store was not served")


async def test_unknown_source_gets_nothing_and_is_counted(loaded: Workbench) -> None:
    config = loaded.config('[[client]]\nname = "other"\nsources = ["192.0.2.1/32"]')
    async with serve(config) as served:
        for dialect, message in (("npq", npq.encode_query(1, "1")), ("pdb", pdb.encode_query("1", 1))):
            assert await ask_udp(served.port(dialect, "udp"), message, 0.2) is None
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port("npq", "tcp"))
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await reader.readexactly(1)
        writer.close()
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{served.port('http', 'http')}/metrics") as reply,
        ):
            assert reply.status == 403
        for counters in served.daemon.metrics.all_queries():
            if counters.transport == "udp":
                assert (counters.received, counters.refused[0]) == (1, 1)
        assert served.daemon.metrics.connections("npq").rejected["unknown_client"] == 1


async def test_rate_is_kept(loaded: Workbench) -> None:
    config = loaded.config('[[client]]\nname = "slow"\nsources = ["127.0.0.1/32"]\nqueries_per_second = 3')
    async with serve(config) as served:
        outcomes = []
        for at in range(8):
            answer = await ask_udp(served.port("npq", "udp"), npq.encode_query(at, "886912345678"))
            assert answer is not None
            outcomes.append(npq.decode_answer(answer).results[0])
        assert outcomes[:3] == [Outcome.PORTED] * 3
        assert Outcome.REFUSED in outcomes[3:]
        assert await ask_udp(served.port("pdb", "udp"), pdb.encode_query("886912345678", 1), 0.2) is None
        for counters in served.daemon.metrics.all_queries():
            assert counters.balance() == 0
            assert counters.refused[1] == (outcomes.count(Outcome.REFUSED) if counters.dialect == "npq" else 1) or (
                counters.transport == "tcp"
            )


async def test_errors_are_within_the_rate_too(loaded: Workbench) -> None:
    config = loaded.config('[[client]]\nname = "slow"\nsources = ["127.0.0.1/32"]\nqueries_per_second = 2')
    async with serve(config) as served:
        replies = [await ask_udp(served.port("npq", "udp"), b"\x93\x02\x00\x05", 0.05) for _ in range(6)]
    assert replies[0] is not None
    assert None in replies


async def test_every_query_is_accounted_for(loaded: Workbench) -> None:
    """received = answered by outcome + refused by reason + dropped by reason, seen from outside."""
    async with serve(loaded.config()) as served:
        messages = {
            "pdb": [
                pdb.encode_query("886912345678", 1),
                pdb.encode_query("886931111111", 2),
                pdb.encode_query("letters", 3),
                b"886912345678\0",
                b"",
                b"\x01",
                b"\x01\x01\x01\x06\x00\x01",
                b"\x01\x00\x00\x13\x00\x01no zero",
                bytes(1000),
                b"9" * 500,
            ],
            "npq": [
                npq.encode_query(1, "886912345678"),
                npq.encode_query(2, ["886912345678", "886931111111", "x"]),
                npq.encode_query(3, ["886912345678"] * 1000, npq.DETAIL_NAMES),
                npq.encode_query(4, ["1"] * 1001),
                b"",
                b"\xc1",
                b"\x91" * 60_000,
                bytes(65_507),
            ],
        }
        queries = {"pdb": 10, "npq": 1 + 3 + 1000 + 5}
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for dialect, datagrams in messages.items():
                for datagram in datagrams:
                    sock.sendto(datagram, ("127.0.0.1", served.port(dialect, "udp")))
                    await asyncio.sleep(0)
        await asyncio.sleep(0.3)
        metrics = await scrape(served)
        for dialect, count in queries.items():
            received = total(metrics, "lookupd_queries_received_total", dialect=dialect, transport="udp")
            parts = [
                total(metrics, f"lookupd_queries_{what}_total", dialect=dialect, transport="udp")
                for what in ("answered", "refused", "dropped")
            ]
            assert received == count
            assert sum(parts) == received
        assert total(metrics, "lookupd_queries_dropped_total", dialect="npq", reason="no_room") > 0


async def test_queries_are_counted_by_client_and_reloads_keep_the_counts(loaded: Workbench) -> None:
    clients = '[[client]]\nname = "switches"\nsources = ["127.0.0.2/32"]\n'
    others = '[[client]]\nname = "noc"\nsources = ["127.0.0.1/32"]\nqueries_per_second = 1\n'
    ports = {"npq": free_port(), "pdb": free_port(), "http": free_port()}
    listen = (
        f'npq = ["udp://127.0.0.1:{ports["npq"]}", "tcp://127.0.0.1:{ports["npq"]}"]\n'
        f'pdb = ["udp://127.0.0.1:{ports["pdb"]}"]\nhttp = "http://127.0.0.1:{ports["http"]}"'
    )
    async with serve(loaded.config(clients + others, listen)) as served:

        async def ask() -> None:
            assert await ask_udp(ports["npq"], npq.encode_query(1, ["886912345678", "110", "x"]))
            assert await ask_udp(ports["npq"], npq.encode_query(2, "886912345678"))
            assert await ask_udp(ports["npq"], b"\xc1", 0.2) is None
            reader, writer = await asyncio.open_connection("127.0.0.1", ports["npq"])
            writer.write(frame(npq.encode_query(3, "110")))
            await read_answer(reader)
            writer.close()
            assert await ask_udp(ports["pdb"], pdb.encode_query("886912345678", 1), 0.2) is None
            await asyncio.sleep(0.1)

        await ask()
        first = await scrape(served)
        loaded.config(clients + others.replace("queries_per_second = 1", ""), listen)
        assert await served.daemon.reload()
        await ask_udp(ports["pdb"], pdb.encode_query("886912345678", 2))
        await asyncio.sleep(0.1)
        second = await scrape(served)
    name = "lookupd_client_queries_total"
    assert total(first, name, client="switches") == 0
    assert total(first, name, client="noc", dialect="npq", result="ported") == 1
    assert total(first, name, client="noc", dialect="npq", result="not_portable") == 2
    assert total(first, name, client="noc", dialect="npq", result="over_rate") == 2
    assert total(first, name, client="noc", dialect="npq", result="dropped") == 1
    assert total(first, name, client="noc", dialect="pdb", result="over_rate") == 1
    assert total(second, name, client="noc", dialect="pdb", result="ported") == 1
    assert total(second, name, client="noc") == total(first, name, client="noc") + 1


async def test_wildcard_listener_answers_from_the_address_that_was_asked(loaded: Workbench) -> None:
    config = loaded.config(listen='npq = ["udp://0.0.0.0:0", "udp://[::]:0"]')
    async with serve(config) as served:
        for (_, endpoint), listener in served.daemon.listeners.items():
            host = "::1" if endpoint.host == "::" else "127.0.0.77"
            # The socket is connected: a reply from another address would not reach it.
            answer = await ask_udp(listener.port, npq.encode_query(9, "886912345678"), host=host)
            assert answer is not None
            assert npq.decode_answer(answer).id == 9


def test_late_question_is_not_answered_by_pdb(loaded: Workbench) -> None:
    """A daemon that stood still, as under a scheduler that gives it no time, does not answer what came meanwhile."""
    port, http = free_port(), free_port()
    listen = f'pdb = ["udp://127.0.0.1:{port}"]\nhttp = "http://127.0.0.1:{http}"'
    with (
        run_daemon(loaded.config(listen=listen)) as process,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
    ):
        time.sleep(0.2)  # the kernel begins to note times of arrival a moment after it was asked to
        sock.settimeout(0.2)
        sock.connect(("127.0.0.1", port))
        halt(process)
        sock.send(pdb.encode_query("886912345678", 1))
        time.sleep(0.05)
        process.send_signal(signal.SIGCONT)
        with pytest.raises(TimeoutError):
            sock.recv(100)
        sock.send(pdb.encode_query("886912345678", 2))
        assert pdb.decode_answer(sock.recv(100)).id == 2
        with urllib.request.urlopen(f"http://127.0.0.1:{http}/metrics") as reply:
            text = reply.read().decode()
    assert 'lookupd_queries_dropped_total{dialect="pdb",reason="late",transport="udp"} 1.0' in text


async def test_http_tells_liveness_readiness_and_nothing_else(loaded: Workbench) -> None:
    async with serve(loaded.config()) as served, aiohttp.ClientSession() as session:
        url = f"http://127.0.0.1:{served.port('http', 'http')}"
        for path, status in (("/livez", 200), ("/readyz", 200), ("/metrics", 200), ("/nothing", 404), ("/../etc", 404)):
            async with session.get(url + path) as reply:
                assert reply.status == status
        async with session.post(url + "/metrics", data=b"x" * 100) as reply:
            assert reply.status == 405


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\0\1\2\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 50_000 + b"\r\n\r\n",
        bytes(range(128, 256)) * 50,
    ],
)
async def test_what_is_no_http_is_refused_and_counted_without_a_log_line(
    loaded: Workbench, request_bytes: bytes, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    async with serve(loaded.config()) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port("http", "http"))
        capfd.readouterr()
        writer.write(request_bytes)
        assert b" 400 " in await asyncio.wait_for(reader.readline(), 5)
        writer.close()
        assert capfd.readouterr().err == ""
        assert not caplog.records
        assert (await scrape(served))["lookupd_http_malformed_total"] == 1


async def test_metric_labels_are_closed_sets(loaded: Workbench) -> None:
    """What a peer sends can never become a label."""
    async with serve(loaded.config()) as served:
        for at in range(50):
            await ask_udp(served.port("npq", "udp"), npq.encode_query(at, f"x{at}"))
        metrics = await scrape(served)
    for key in metrics:
        for value in re.findall(r'="([^"]*)"', key):
            assert re.fullmatch(r"[a-z_]+|\d+\.\d+\.\d+", value) or value in BUCKET_BOUNDS, key


# -- TCP ---------------------------------------------------------------------------------------------------


def frame(message: bytes) -> bytes:
    return npq.FRAME_HEADER.pack(len(message)) + message


async def read_answer(reader: asyncio.StreamReader) -> npq.NpqAnswer:
    (length,) = npq.FRAME_HEADER.unpack(await asyncio.wait_for(reader.readexactly(4), 5))
    return npq.decode_answer(await reader.readexactly(length))


async def test_tcp_answers_pipelined_frames_in_order(loaded: Workbench) -> None:
    async with serve(loaded.config()) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port("npq", "tcp"))
        writer.write(b"".join(frame(npq.encode_query(at, "886912345678")) for at in range(5000)))
        assert [(await read_answer(reader)).id for _ in range(5000)] == list(range(5000))
        writer.close()


async def test_tcp_peer_that_asks_no_more_still_gets_its_answers(loaded: Workbench) -> None:
    async with serve(loaded.config()) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port("npq", "tcp"), limit=1 << 16)
        query = npq.encode_query(1, ["886912345678"] * 1000, npq.DETAIL_NAMES)
        writer.write(frame(query) * 100)  # many times what the daemon lets wait
        writer.write_eof()
        await asyncio.sleep(0.2)
        for _ in range(100):
            assert len((await read_answer(reader)).results) == 1000
        assert await reader.read() == b""
        writer.close()


async def test_tcp_takes_frames_cut_at_every_byte(loaded: Workbench) -> None:
    async with serve(loaded.config()) as served:
        data = frame(npq.encode_query(1, "886912345678")) + frame(npq.encode_query(2, ["110", "886931111111"]))
        for cut in range(1, len(data)):
            reader, writer = await asyncio.open_connection("127.0.0.1", served.port("npq", "tcp"))
            writer.write(data[:cut])
            await writer.drain()
            await asyncio.sleep(0.001)
            writer.write(data[cut:])
            assert (await read_answer(reader)).results[0] == Outcome.PORTED
            assert [result[0] for result in (await read_answer(reader)).results] == [
                Outcome.NOT_PORTABLE,
                Outcome.NOT_ALLOCATED,
            ]
            writer.close()


async def test_tcp_batch_of_a_thousand_is_answered_whole(loaded: Workbench) -> None:
    async with serve(loaded.config()) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port("npq", "tcp"))
        numbers = [f"8869123{at:05d}" for at in range(1000)]
        writer.write(frame(npq.encode_query(1, numbers, npq.DETAIL_NAMES)))
        answer = await read_answer(reader)
        assert len(answer.results) == 1000
        assert answer.results[0][4:] == [886912300000, "Gamma"]
        writer.close()


async def test_tcp_malformed_message_gets_an_error_and_the_connection_lives(loaded: Workbench) -> None:
    async with serve(loaded.config()) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port("npq", "tcp"))
        for message, code in (
            (b"", npq.ERROR_MALFORMED),
            (b"\xc1", npq.ERROR_MALFORMED),
            (npq.encode_query(1, ["1"] * 1001), npq.ERROR_TOO_MANY),
            (b"\x94\x02\x00\x05\x01", npq.ERROR_VERSION),
        ):
            writer.write(frame(message))
            answer = await read_answer(reader)
            assert (answer.kind, answer.serial) == (npq.ERROR, code)
        writer.write(frame(npq.encode_query(7, "110")))
        assert (await read_answer(reader)).id == 7
        writer.close()
        counters = served.daemon.metrics.queries("npq", "tcp")
        assert counters.balance() == 0
        assert sum(counters.dropped) == 4


@pytest.mark.parametrize("length", [limits.NPQ_FRAME_BYTES_MAX + 1, 0xFFFF_FFFF])
async def test_tcp_frame_over_the_bound_ends_the_connection(loaded: Workbench, length: int) -> None:
    async with serve(loaded.config()) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port("npq", "tcp"))
        writer.write(frame(npq.encode_query(1, "110")) + struct.pack(">I", length) + b"x")
        assert (await read_answer(reader)).id == 1  # what came before is still answered
        assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()
        await asyncio.sleep(0.05)
        assert served.daemon.metrics.connections("npq").closed["frame_too_long"] == 1


async def test_tcp_slow_frame_and_idle_peer_are_cut_off(loaded: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    from lookupd.transports import tcp

    monkeypatch.setattr(tcp, "FRAME_SECONDS", 0.3)
    monkeypatch.setattr(NPQ_FRAMING, "idle_seconds", 0.6)
    monkeypatch.setattr(tcp, "SWEEP_SECONDS", 0.05)
    async with serve(loaded.config()) as served:
        idle, idle_writer = await asyncio.open_connection("127.0.0.1", served.port("npq", "tcp"))
        slow, slow_writer = await asyncio.open_connection("127.0.0.1", served.port("npq", "tcp"))
        started = time.monotonic()
        for byte in frame(npq.encode_query(1, "886912345678")) * 10:  # a byte now and then does not help
            slow_writer.write(bytes([byte]))
            await asyncio.sleep(0.05)
            if slow.at_eof() or slow_writer.is_closing():
                break
        assert time.monotonic() - started < 2
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await asyncio.wait_for(idle.readexactly(1), 5)
        closed = served.daemon.metrics.connections("npq").closed
        assert (closed["slow"], closed["idle"]) == (1, 1)
        idle_writer.close()
        slow_writer.close()


async def test_tcp_peer_that_takes_no_answers_is_bounded_and_cut_off(
    loaded: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lookupd.transports import tcp

    monkeypatch.setattr(tcp, "FRAME_SECONDS", 1.0)
    monkeypatch.setattr(tcp, "SWEEP_SECONDS", 0.1)
    async with serve(loaded.config()) as served:
        loop = asyncio.get_running_loop()
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.setblocking(False)
            await loop.sock_connect(sock, ("127.0.0.1", served.port("npq", "tcp")))
            query = frame(npq.encode_query(1, ["886912345678"] * 1000, npq.DETAIL_NAMES))
            waiting = 0

            async def ask_on() -> None:
                nonlocal waiting
                for _ in range(1000):
                    await asyncio.wait_for(loop.sock_sendall(sock, query), 10)
                    for listener in served.daemon.listeners.values():
                        for one in getattr(listener, "connections", ()):
                            waiting = max(waiting, one._transport.get_write_buffer_size())

            with pytest.raises((ConnectionError, BrokenPipeError)):
                await ask_on()
        assert 0 < waiting <= limits.WRITE_BUFFER_BYTES_MAX + limits.NPQ_FRAME_BYTES_MAX
        assert served.daemon.metrics.connections("npq").closed["slow"] == 1


async def test_tcp_connections_are_bounded_by_source_and_in_all(
    loaded: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lookupd.transports import tcp

    monkeypatch.setattr(tcp, "CONNECTIONS_PER_SOURCE_MAX", 3)
    monkeypatch.setattr(tcp, "CONNECTIONS_MAX", 4)
    async with serve(loaded.config()) as served:
        port = served.port("npq", "tcp")
        pairs = [await asyncio.open_connection("127.0.0.1", port) for _ in range(5)]
        pairs += [await asyncio.open_connection("127.0.0.1", port, local_addr=("127.0.0.2", 0)) for _ in range(2)]
        await asyncio.sleep(0.1)
        connections = served.daemon.metrics.connections("npq")
        assert connections.opened == 4
        assert connections.rejected == {"unknown_client": 0, "gone": 0, "too_many": 1, "too_many_from_source": 2}
        for _, writer in pairs:
            writer.close()
        await asyncio.sleep(0.1)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)  # places come back
        writer.write(frame(npq.encode_query(1, "110")))
        assert (await read_answer(reader)).id == 1
        writer.close()


async def test_connection_that_is_handed_over_needs_no_place(
    loaded: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had one in the process before: to close it for lack of another would lose what its peer asked."""
    from lookupd.transports import tcp

    monkeypatch.setattr(tcp, "CONNECTIONS_PER_SOURCE_MAX", 0)
    async with serve(loaded.config()) as served:
        listener = next(each for each in served.daemon.listeners.values() if isinstance(each, tcp.TcpListener))
        with socket.create_server(("127.0.0.1", 0)) as before:
            reader, writer = await asyncio.open_connection(*before.getsockname())
            await listener.adopt(before.accept()[0], b"")
        writer.write(frame(npq.encode_query(1, "110")))
        assert (await read_answer(reader)).id == 1
        writer.close()


@pytest.mark.parametrize("sent", [b"", b"\0", b"\0\0\0\x09", b"\0\0\0\x09\x95\x01"])
async def test_tcp_early_close_leaves_nothing_behind(loaded: Workbench, sent: bytes) -> None:
    async with serve(loaded.config()) as served:
        for linger in (None, struct.pack("ii", 1, 0)):  # in order, and with a reset
            with socket.create_connection(("127.0.0.1", served.port("npq", "tcp"))) as sock:
                if linger is not None:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                sock.sendall(sent)
        await asyncio.sleep(0.1)
        connections = served.daemon.metrics.connections("npq")
        assert connections.opened == sum(connections.closed.values())
        assert connections.opened + connections.rejected["gone"] == 2
        assert not connections.rejected["unknown_client"]


# -- signals -----------------------------------------------------------------------------------------------


def test_sigterm_ends_in_good_order(loaded: Workbench) -> None:
    port = free_port()
    config = loaded.config(listen=f'npq = ["udp://127.0.0.1:{port}", "tcp://127.0.0.1:{port}"]')
    with run_daemon(config) as process, socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(frame(npq.encode_query(1, "886912345678")))
        assert sock.recv(100)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    log = process.log.read_text()  # type: ignore[attr-defined]
    assert "draining" in log
    assert "stopped" in log
    assert "Traceback" not in log


def test_sighup_takes_over_a_good_file_and_keeps_out_a_bad_one(loaded: Workbench) -> None:
    first, second = free_port(), free_port()
    config = loaded.config(listen=f'npq = ["udp://127.0.0.1:{first}"]')
    good = config.read_text()

    def answers(port: int) -> bool:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(0.2)
            sock.connect(("127.0.0.1", port))
            try:
                sock.send(npq.encode_query(1, "110"))
                return bool(sock.recv(100))
            except OSError:
                return False

    with run_daemon(config) as process:
        log: Path = process.log  # type: ignore[attr-defined]
        assert answers(first)
        for bad, says in (
            (good + "[storr]\n", "did you mean"),
            (good.replace(f"{first}", f"{first}x"), "listen.npq"),
            (good.replace(str(loaded.store), "/elsewhere"), "[store] changed"),
            (good.replace("127.0.0.1", "192.0.2.1"), "192.0.2.1"),
        ):
            config.write_text(bad)
            count = log.read_text().count("config_rejected")
            process.send_signal(signal.SIGHUP)
            wait_until(lambda count=count: log.read_text().count("config_rejected") > count)  # type: ignore[misc]
            assert says in [line for line in log.read_text().splitlines() if "config_rejected" in line][-1]
            assert answers(first)
        config.write_text(good.replace(str(first), str(second)))
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: "config_applied" in log.read_text())
        assert answers(second)
        assert not answers(first)
        config.write_text(config.read_text() + '[[client]]\nname = "x"\nsources = ["192.0.2.1/32"]\n')
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: log.read_text().count("config_applied") == 2)
        assert not answers(second)


def test_address_in_use_is_told_at_start(loaded: Workbench) -> None:
    from tests.conftest import run_cli

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = run_cli("lookupd.cli", "serve", "--config", loaded.config(listen=f'npq = ["tcp://127.0.0.1:{port}"]'))
    assert result.returncode == 3
    assert f"tcp://127.0.0.1:{port}" in result.stderr
    assert "Traceback" not in result.stderr


async def test_stopping_waits_for_a_reload_that_has_begun(loaded: Workbench) -> None:
    first, second = free_port(), free_port()
    clients = '[[client]]\nname = "a"\nsources = ["127.0.0.1/32"]\n'
    async with serve(loaded.config(clients, f'npq = ["udp://127.0.0.1:{first}"]')) as served:
        daemon = served.daemon
        loaded.config(clients, f'npq = ["udp://127.0.0.1:{second}", "tcp://127.0.0.1:{second}"]')
        reloading = asyncio.create_task(daemon.reload())
        await asyncio.sleep(0)  # it has begun
        await daemon.close()
        assert await reloading
        assert not await daemon.reload()  # too late
        assert not daemon.listeners
    for port in (first, second):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("127.0.0.1", port))


async def test_listener_that_cannot_be_had_at_a_reload_changes_nothing(loaded: Workbench) -> None:
    taken, free = free_port(), free_port()
    clients = '[[client]]\nname = "a"\nsources = ["127.0.0.1/32"]\n'
    listen = f'npq = ["udp://127.0.0.1:{free_port()}"]'
    async with serve(loaded.config(clients, listen)) as served:
        before = dict(served.daemon.listeners)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.bind(("127.0.0.1", taken))
            loaded.config(clients, f'npq = ["udp://127.0.0.1:{free}", "udp://127.0.0.1:{taken}"]')
            assert not await served.daemon.reload()
        assert served.daemon.listeners == before
        assert served.daemon.metrics.reloads == {"applied": 0, "rejected": 1}
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("127.0.0.1", free))  # what was opened before is closed again
        answer = await ask_udp(served.port("npq", "udp"), npq.encode_query(1, "886912345678"))
        assert answer is not None
