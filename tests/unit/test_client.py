"""The client library against real daemons, and against servers that are silent, gone or wrong."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from pathlib import Path

import pytest

from lookupd.client import LookupClient, NoAnswer
from lookupd.errors import LookupdError
from lookupd.limits import CLIENT_PROBE_QUESTIONS
from lookupd.model import TN
from lookupd.protocols import npq
from tests.conftest import Served, Workbench, free_port, run_cli, run_daemon, serve


async def counted(served: Served, received: int) -> None:
    """A worker counts a batch right after its answers have left."""
    await asyncio.sleep(0.1)
    assert served.daemon.metrics.queries("npq", "udp").received == received


@pytest.mark.usefixtures("each_engine")
@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_answers_come_in_the_order_asked(loaded: Workbench, transport: str) -> None:
    async with serve(loaded.config()) as served:
        url = f"{transport}://127.0.0.1:{served.port('npq', transport)}"
        async with LookupClient([url]) as client:
            answer = await client.query("0912345678")
            assert (answer.number, answer.outcome, answer.operator) == ("+886912345678", "ported", "Beta Mobile")
            numbers = ["886912345678", "110", "886931111111"] * 500
            answers = await client.query_many(numbers)
            assert [a.outcome for a in answers] == ["ported", "not_portable", "not_allocated"] * 500
            assert [a.number for a in answers[:3]] == ["+886912345678", "110", "+886931111111"]
            many = await asyncio.gather(*(client.query(number) for number in numbers[:300]))
            asked = [(answer.number, answer.outcome) for answer in many]  # the age may tick on between the two
            assert asked == [(answer.number, answer.outcome) for answer in answers[:300]]


async def test_silent_server_is_hedged_by_the_second(loaded: Workbench) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        async with serve(loaded.config()) as served:
            urls = [f"udp://127.0.0.1:{silent.getsockname()[1]}", f"udp://127.0.0.1:{served.port('npq', 'udp')}"]
            async with LookupClient(urls, timeout=2, hedge=0.05) as client:
                started = time.monotonic()
                assert (await client.query("886912345678")).outcome == "ported"
                assert 0.05 <= time.monotonic() - started < 1


@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_dead_server_costs_no_waiting(loaded: Workbench, transport: str) -> None:
    async with serve(loaded.config()) as served:
        dead = f"{transport}://127.0.0.1:{free_port()}"
        async with LookupClient([dead, f"udp://127.0.0.1:{served.port('npq', 'udp')}"], timeout=5, hedge=4) as client:
            started = time.monotonic()
            assert (await client.query("886912345678")).outcome == "ported"
            assert time.monotonic() - started < 3


async def test_poor_answer_of_the_only_server_is_not_asked_for_again_at_once(workbench: Workbench) -> None:
    async with serve(workbench.config()) as served:
        async with LookupClient([f"udp://127.0.0.1:{served.port('npq', 'udp')}"], timeout=3) as client:
            started = time.monotonic()
            assert (await client.query("886912345678")).outcome == "unavailable"
            assert time.monotonic() - started < 1
        await counted(served, 1)


async def test_number_over_the_bound_is_named_and_not_sent(loaded: Workbench) -> None:
    async with serve(loaded.config()) as served:
        async with LookupClient([f"udp://127.0.0.1:{served.port('npq', 'udp')}"]) as client:
            assert (await client.query("9" * 40)).outcome == "not_portable"
            with pytest.raises(LookupdError, match="longer than 40 characters"):
                await client.query_many(["886912345678", "9" * 41])
        await counted(served, 1)


async def test_server_that_comes_back_within_the_timeout_is_asked_again(loaded: Workbench) -> None:
    port = free_port()
    config = loaded.config(listen=f'npq = ["udp://127.0.0.1:{port}"]')
    async with LookupClient([f"udp://127.0.0.1:{port}"], timeout=6) as client:
        asked = asyncio.create_task(client.query("886912345678"))
        await asyncio.sleep(0.3)  # nobody listens: the kernel says so
        async with serve(config):
            assert (await asked).outcome == "ported"


async def test_answer_from_data_is_preferred_to_unavailable(loaded: Workbench, tmp_path: Path) -> None:
    empty = Workbench(tmp_path / "empty")
    empty.folder.mkdir()
    async with serve(loaded.config()) as full, serve(empty.config()) as nothing:
        urls = [f"udp://127.0.0.1:{served.port('npq', 'udp')}" for served in (nothing, full)]
        async with LookupClient(urls, hedge=0.01) as client:
            assert (await client.query("886912345678")).outcome == "ported"
        async with LookupClient(urls[:1], timeout=0.2) as client:
            assert (await client.query("886912345678")).outcome == "unavailable"


async def test_lost_datagram_is_asked_again() -> None:
    loop = asyncio.get_running_loop()

    class Lossy(asyncio.DatagramProtocol):
        seen = 0

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport: asyncio.DatagramTransport = transport  # type: ignore[assignment]

        def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
            self.seen += 1
            if self.seen == 1:
                return
            query = npq.decode_query(data)
            self.transport.sendto(b"junk", addr)
            wrong = npq._encode((1, 1, query.id ^ 1, 1, 1, (0, "9", None, 0)))
            self.transport.sendto(wrong, addr)
            self.transport.sendto(npq._encode((1, 1, query.id, 1, 1, (0, "1402", None, 0))), addr)

    transport, lossy = await loop.create_datagram_endpoint(Lossy, local_addr=("127.0.0.1", 0))
    port = transport.get_extra_info("sockname")[1]
    async with LookupClient([f"udp://127.0.0.1:{port}"], timeout=0.6) as client:
        answer = await client.query("886912345678")
    assert (answer.network_code, lossy.seen) == ("1402", 2)
    transport.close()


async def test_connection_that_broke_is_opened_again(loaded: Workbench) -> None:
    async with (
        serve(loaded.config()) as served,
        LookupClient([f"tcp://127.0.0.1:{served.port('npq', 'tcp')}"]) as client,
    ):
        assert (await client.query("110")).outcome == "not_portable"
        for listener in served.daemon.listeners.values():
            for connection in list(getattr(listener, "connections", ())):
                connection.abort("idle")
        await asyncio.sleep(0.05)
        assert (await client.query("110")).outcome == "not_portable"


async def test_silent_server_is_waited_for_no_more_and_first_again_once_it_answers(loaded: Workbench) -> None:
    port = free_port()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        async with serve(loaded.config()) as served:
            silent.bind(("127.0.0.1", port))
            urls = [f"udp://127.0.0.1:{port}", f"udp://127.0.0.1:{served.port('npq', 'udp')}"]
            async with LookupClient(urls, timeout=5, hedge=0.5) as client:
                for _ in range(3):
                    assert (await client.query("886912345678")).outcome == "ported"
                    client._links[0].record.look(time.monotonic() + 1)
                started = time.monotonic()
                for _ in range(50):
                    assert (await client.query("886912345678")).outcome == "ported"
                assert time.monotonic() - started < 10  # 25 s, if each one waited for the silent server
                silent.close()
                again = Workbench(loaded.folder / "again")
                again.folder.mkdir()
                again.load_tables()
                again.snapshot()
                async with serve(again.config(listen=f'npq = ["udp://127.0.0.1:{port}"]')) as first:
                    received = 0
                    for _ in range(100):
                        before = received
                        for _ in range(2 * CLIENT_PROBE_QUESTIONS):
                            assert (await client.query("886912345678")).outcome == "ported"
                        await asyncio.sleep(0.02)  # a worker counts a batch right after its answers have left
                        received = first.daemon.metrics.queries("npq", "udp").received
                        if received - before == 2 * CLIENT_PROBE_QUESTIONS:
                            break
                    else:
                        pytest.fail("never asked first again")


async def test_server_that_stands_back_is_asked_behind_the_other(loaded: Workbench, tmp_path: Path) -> None:
    empty = Workbench(tmp_path / "empty")
    empty.folder.mkdir()
    async with serve(loaded.config()) as full, serve(empty.config()) as nothing:
        urls = [f"udp://127.0.0.1:{served.port('npq', 'udp')}" for served in (nothing, full)]
        async with LookupClient(urls) as client:
            for _ in range(CLIENT_PROBE_QUESTIONS):
                assert (await client.query("886912345678")).outcome == "ported"
            await asyncio.sleep(0.1)
            assert nothing.daemon.metrics.queries("npq", "udp").received <= 4


class Closing:
    """A server over TCP that reads the first question of a connection and closes, so many times; then it answers."""

    def __init__(self, times: int, part: bytes = b"") -> None:
        self.left, self.part, self.connections = times, part, 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(EOFError):
            while True:
                (length,) = npq.FRAME_HEADER.unpack(await reader.readexactly(4))
                query = npq.decode_query(await reader.readexactly(length))
                if self.left:
                    self.left -= 1
                    writer.write(self.part)
                    break
                answer = npq._encode((1, 1, query.id, 1, 1, (0, "1402", None, 0)))
                writer.write(npq.FRAME_HEADER.pack(len(answer)) + answer)
        writer.close()


@pytest.mark.parametrize(
    ("times", "part", "is_answered"), [(1, b"", True), (2, b"", False), (1, b"\0\0\0", False)], ids=str
)
async def test_question_on_a_connection_closed_in_order_is_asked_once_more(
    times: int, part: bytes, is_answered: bool
) -> None:
    closing = Closing(times, part)
    async with await asyncio.start_server(closing, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with LookupClient([f"tcp://127.0.0.1:{port}"], timeout=0.5) as client:
            if is_answered:
                assert (await client.query("886912345678")).network_code == "1402"
            else:
                with pytest.raises(NoAnswer):
                    await client.query("886912345678")
        assert closing.connections == (2 if not part else 1)


async def test_connection_comes_up_although_the_other_server_answers_sooner(loaded: Workbench) -> None:
    closing = Closing(0)

    async def late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await closing(reader, writer)

    async with serve(loaded.config()) as served, await asyncio.start_server(late, "127.0.0.1", 0) as server:
        urls = [f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}", f"udp://127.0.0.1:{served.port('npq', 'udp')}"]
        async with LookupClient(urls, hedge=0.0) as client:
            for _ in range(10):
                assert (await client.query("886912345678")).outcome == "ported"
                await asyncio.sleep(0.01)
            assert closing.connections == 1


async def test_connection_that_brings_nothing_is_opened_anew() -> None:
    connections: list[asyncio.StreamWriter] = []
    answering = Closing(0)

    async def deaf_at_first(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        if len(connections) > 1:
            await answering(reader, writer)

    async with await asyncio.start_server(deaf_at_first, "127.0.0.1", 0) as server:
        async with LookupClient([f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"], timeout=0.3) as client:
            with pytest.raises(NoAnswer):
                await client.query("886912345678")
            await asyncio.sleep(0.05)
            assert (await client.query("886912345678")).network_code == "1402"
            await asyncio.sleep(0.01)
        for writer in connections:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def test_results_of_another_kind_are_no_answer() -> None:
    loop = asyncio.get_running_loop()

    class Odd(asyncio.DatagramProtocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport: asyncio.DatagramTransport = transport  # type: ignore[assignment]

        def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
            query = npq.decode_query(data)
            for results in ([], {}, [[]], [[[1]]], [[{}]], "x", [None], [[99, None, None, 0]]):
                self.transport.sendto(npq._encode((1, 1, query.id, 1, 1, results)), addr)

    transport, _ = await loop.create_datagram_endpoint(Odd, local_addr=("127.0.0.1", 0))
    async with LookupClient([f"udp://127.0.0.1:{transport.get_extra_info('sockname')[1]}"], timeout=0.3) as client:
        with pytest.raises(NoAnswer):
            await client.query("886912345678")
    transport.close()


async def test_silence_raises_within_the_timeout() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        url = f"udp://127.0.0.1:{silent.getsockname()[1]}"
        async with LookupClient([url], timeout=0.2) as client:
            started = time.monotonic()
            with pytest.raises(NoAnswer, match=r"no answer within 0\.2 s"):
                await client.query("886912345678")
            assert 0.15 < time.monotonic() - started < 1
            await asyncio.sleep(0.01)
            assert all(not link._waiting for link in client._links)


@pytest.mark.parametrize("server", ["", "udp://localhost:1", "http://127.0.0.1:1", "127.0.0.1:1"])
def test_badly_written_server_is_named(server: str) -> None:
    with pytest.raises(LookupdError, match="server"):
        LookupClient([server])


def test_query_command_asks_a_daemon_or_reads_the_store(loaded: Workbench) -> None:
    port = free_port()
    config = loaded.config(listen=f'npq = ["udp://127.0.0.1:{port}"]')
    with run_daemon(config):
        asked = run_cli("lookupd.cli", "query", "0912-345-678", "110", "--server", f"udp://127.0.0.1:{port}", "--json")
    read = run_cli("lookupd.cli", "query", "0912-345-678", "110", "--config", config, "--json")
    assert asked.returncode == read.returncode == 0
    assert '"number": "+886912345678", "outcome": "ported", "network_code": "1402"' in asked.stdout
    ageless = [line.partition('"age_seconds"')[0] for line in asked.stdout.splitlines()]
    assert ageless == [line.partition('"age_seconds"')[0] for line in read.stdout.splitlines()]
    gone = run_cli("lookupd.cli", "query", "110", "--server", f"udp://127.0.0.1:{port}", "--timeout", "0.2")
    assert gone.returncode == 1
    assert gone.stderr.count("\n") == 1
    assert run_cli("lookupd.cli", "query", "110", "--server", "udp://x", "--store", loaded.store).returncode == 2


def test_explain_shows_every_step_and_the_history(loaded: Workbench) -> None:
    import json

    loaded.delta(
        {"kind": "port", "tn": "886912345600", "tn_to": "886912345699", "recipient": "1403", "ref": "A-17"},
        {"kind": "port", "tn": "886912345678", "recipient": "1401", "effective_at": "2099-01-01T00:00:00Z"},
        sequence=2,
    )
    result = run_cli("lookupd.cli", "explain", "0912 345 678", "--store", loaded.store, "--json")
    steps = json.loads(result.stdout)
    assert steps["number"] == "+886912345678"
    assert (steps["kind"], steps["block"], steps["offset"]) == ("mobile", 886912345, 678)
    assert steps["route"]["network_code"] == "1403"
    assert steps["range"] == {"prefix": "886912", "holder": steps["route"]}
    assert steps["ported"]["sequence"] == 2
    assert [entry["kind"] for entry in steps["history"]] == ["scheduled", "port"]
    assert steps["history"][1]["ref"] == "A-17"
    assert steps["history"][1]["old"][0]["network_code"] == "1402"
    assert steps["pending"][0]["effective_at"] == "2099-01-01T00:00:00Z"
    assert steps["answer"]["outcome"] == "ported"
    for asked in ("110", "886931111111", "nonsense", "886911111111"):
        assert run_cli("lookupd.cli", "explain", asked, "--store", loaded.store).returncode == 0


def test_status_tells_what_the_store_holds(loaded: Workbench) -> None:
    import json

    found = json.loads(run_cli("lookupd.cli", "status", "--store", loaded.store, "--json").stdout)
    assert (found["ported"], found["serial"], found["routes"], found["ranges"]) == (4, 3, 4, 4)
    assert found["feeds"][0]["feed"] == "main"
    port = free_port()
    config = loaded.config(listen=f'http = "http://127.0.0.1:{port}"')
    assert "no answer" in run_cli("lookupd.cli", "status", "--config", config).stdout
    with run_daemon(config):
        assert "daemon   ready" in run_cli("lookupd.cli", "status", "--config", config).stdout
    missing = run_cli("lookupd.cli", "status", "--store", loaded.folder / "none")
    assert missing.returncode == 1
    assert "no store here" in missing.stderr


@pytest.mark.parametrize("module", ["lookupd.cli", "loader.cli"])
def test_every_command_has_help_with_an_example(module: str) -> None:
    import importlib

    from click.testing import CliRunner

    cli = importlib.import_module(module).cli
    paths = [[name] for name in cli.commands]
    for path in paths:
        help_text = CliRunner().invoke(cli, [*path, "--help"]).output
        assert "Example" in help_text, path
        below = getattr(cli.commands[path[0]], "commands", {}) if len(path) == 1 else {}
        assert path == ["serve"] or below or "--json" in help_text, path
        paths += [[*path, name] for name in below]


def test_history_of_a_correction_tells_what_was_kept(loaded: Workbench) -> None:
    """A correction mends the route; its journal entry says the donor and the time that the store keeps."""
    loaded.delta({"kind": "correct", "tn": "886912345678", "recipient": "1403"}, sequence=2)
    with loaded.reader() as reader:
        kept = reader.ported(TN(886912345678))
        assert kept is not None
        assert (kept.network_code, kept.donor, kept.ported_at) == ("1403", "1401", 1772326800)
        assert reader.history(TN(886912345678))[0][1].new == kept
