"""The probe: what it asks real daemons, what it makes of servers that are none, and what its reports say."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import dns.flags
import dns.message
import pytest

from lookupd.config import read_config
from lookupd.errors import ConfigError, LookupdError, StoreError
from lookupd.ledger import HOUR_SECONDS, Ledger, LedgerMissing
from lookupd.limits import PROBE_HELD_UP_SECONDS
from lookupd.periods import parse_period
from lookupd.probe import numbers as probe_numbers
from lookupd.probe.asker import Asker, Sample, Strays
from lookupd.probe.numbers import FromFile, FromStore
from lookupd.probe.report import Report, read_report
from lookupd.probe.sampler import Sampler
from lookupd.probe.servers import parse
from lookupd.probe.tally import COLUMNS, FILE, Tally
from lookupd.protocols import npq, pdb
from lookupd.settlement import find_zone
from tests.conftest import PLAN, Workbench, free_port, halt, run_cli, run_daemon, serve, wait_until

NUMBER = "886912345678"
PROFILES = """
[enum]
apex = "np.example"
unmapped_routing_number = "0"
[sip]
unmapped_routing_number = "0"
"""
PATIENT = 'timeouts = { npq = "8s", pdb = "8s", enum = "8s", sip = "8s", http = "8s" }\ninterval = "300ms"\n'
"""A busy machine is no reason for a time-out."""

FEED_PORTED = {"886912345678", "886912345679", "886923456789", "886223450000"}


class Site:
    """A daemon that listens for all dialects, and the servers that a probe has in it."""

    def __init__(self, bench: Workbench) -> None:
        ports = {dialect: free_port() for dialect in ("npq", "pdb", "enum", "sip", "http")}
        both = {name: f'["udp://127.0.0.1:{port}", "tcp://127.0.0.1:{port}"]' for name, port in ports.items()}
        self.listen = (
            f"npq = {both['npq']}\nenum = {both['enum']}\nsip = {both['sip']}\n"
            f'pdb = ["udp://127.0.0.1:{ports["pdb"]}"]\nhttp = "http://127.0.0.1:{ports["http"]}"\n'
        )
        self.servers = {
            "npq": f"udp://127.0.0.1:{ports['npq']}",
            "npq+tcp": f"tcp://127.0.0.1:{ports['npq']}",
            "pdb": f"pdb://127.0.0.1:{ports['pdb']}",
            "enum": f"enum://127.0.0.1:{ports['enum']}/np.example",
            "enum+tcp": f"enum+tcp://127.0.0.1:{ports['enum']}/np.example",
            "sip": f"sip://127.0.0.1:{ports['sip']}",
            "sip+tcp": f"sip+tcp://127.0.0.1:{ports['sip']}",
            "http": f"http://127.0.0.1:{ports['http']}",
        }
        self.bench = bench
        self.folder = bench.folder / "kept"

    def config(self, probe: str = PATIENT, servers: list[str] | None = None, top: str = "") -> Path:
        named = json.dumps(list(self.servers.values()) if servers is None else servers)
        section = f'[probe]\nservers = {named}\npath = "{self.folder}"\n{probe}'
        return self.bench.config(f"{top}{PROFILES}{section}", self.listen)

    def report(self, *more: Path) -> Report:
        return report([self.folder / FILE, *more])


def report(files: list[Path], now: float | None = None) -> Report:
    """Of this half-year and so far, whatever it is."""
    now = time.time() if now is None else now
    at = time.gmtime(now)
    period = parse_period(f"{at.tm_year}H{1 if at.tm_mon <= 6 else 2}", find_zone("UTC"))
    return read_report(files, period, "UTC", now)


@pytest.fixture(autouse=True)
def busy_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where tests run side by side, each time-out is noticed late."""
    monkeypatch.setattr("lookupd.probe.asker.PROBE_HELD_UP_SECONDS", 60.0)


@pytest.fixture
def site(loaded: Workbench) -> Site:
    return Site(loaded)


async def sample_until(sampler: Sampler, enough: Callable[[], bool], seconds: float = 60) -> None:
    """Let it run until that holds, then end it as SIGTERM does."""
    running = asyncio.create_task(sampler.run())
    until = time.monotonic() + seconds
    while not enough() and not running.done():
        assert time.monotonic() < until, [place.counts[True].results for place in sampler.tally.places]
        await asyncio.sleep(0.02)
    sampler._stopping.set()
    await running


def answered(sampler: Sampler) -> list[int]:
    return [sum(counts.results["answered"] for counts in place.counts.values()) for place in sampler.tally.places]


# -- real daemons ------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("each_engine")
async def test_every_dialect_of_a_daemon_answers_and_the_report_is_what_was_sampled(site: Site) -> None:
    config = site.config(PATIENT + "unported_share = 0.5\n")
    sampler = Sampler(read_config(config), chance=random.Random(1))

    def both_kinds() -> bool:
        places = sampler.tally.places
        return all(counts.results["answered"] >= 2 for place in places for counts in place.counts.values())

    with run_daemon(config):
        await sample_until(sampler, both_kinds)
    found = site.report()
    assert {(line.server, line.dialect) for line in found.lines} == {
        (url, way.partition("+")[0]) for way, url in site.servers.items()
    }
    for place in sampler.tally.places:
        assert place.strays.wrong == 0, place.server
        for ported, counts in place.counts.items():
            (line,) = [one for one in found.lines if (one.server, one.ported) == (place.server.url, ported)]
            asked = counts.results["answered"]
            assert (line.asked, line.answered, line.timeout, line.no_data) == (asked, asked, 0, 0)
            assert line.sum_ns == counts.ns["answered"]
            assert line.mean_ns == line.answered_mean_ns
            assert is_mean(line.mean_ns, counts.ns["answered"], asked)
            assert line.p50_ns <= line.p95_ns <= line.p99_ns <= line.worst_ns
    ported = [line for line in found.lines if line.ported]
    assert found.total.asked == sum(line.asked for line in ported)
    assert is_mean(found.total.mean_ns, sum(line.sum_ns for line in ported), found.total.asked)


def is_mean(found: int | None, total: int, count: int) -> bool:
    """To the nearest nanosecond."""
    return found is not None and 2 * abs(found * count - total) <= count


async def test_a_server_that_stalls_costs_its_whole_time_out_and_is_told_of_once(
    site: Site, capfd: pytest.CaptureFixture[str]
) -> None:
    config = site.config('timeouts = { pdb = "400ms" }\ninterval = "100ms"\n', [site.servers["pdb"]])
    sampler = Sampler(read_config(config))
    counts = sampler.tally.places[0].counts[True]
    with run_daemon(config) as process:
        running = asyncio.create_task(sampler.run())
        await until(lambda: counts.results["answered"] >= 2)
        await asyncio.to_thread(halt, process)
        await until(lambda: counts.results["timeout"] >= 5)
        process.send_signal(signal.SIGCONT)
        before = counts.results["answered"]
        await until(lambda: counts.results["answered"] >= before + 2)
        sampler._stopping.set()
        await running
    line = site.report().total
    assert line.timeout == counts.results["timeout"] >= 5
    assert counts.ns["timeout"] == line.timeout * 400_000_000
    assert line.sum_ns == counts.ns["timeout"] + counts.ns["answered"] + counts.ns["no_data"]
    assert line.mean_ns > line.answered_mean_ns
    said = capfd.readouterr().err
    assert said.count("probe_unanswered") == said.count("probe_answered_again") == 1
    assert "no answer within 0.4 s" in said
    # What was stopped is answered when it goes on: to nobody, as those questions are over.
    assert sampler.tally.places[0].strays.wrong == 0


async def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, condition
        await asyncio.sleep(0.01)


async def test_a_server_that_is_away_weighs_as_much_as_one_that_answers(site: Site) -> None:
    """Were questions to wait for each other, a silent server would be asked four times less often here."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf:
        deaf.bind(("127.0.0.1", 0))
        silent = f"udp://127.0.0.1:{deaf.getsockname()[1]}"
        config = site.config('timeouts = { npq = "400ms" }\ninterval = "100ms"\n', [site.servers["npq"], silent])
        sampler = Sampler(read_config(config))
        there, away = (place.counts[True].results for place in sampler.tally.places)
        with run_daemon(config):
            await sample_until(sampler, lambda: there["answered"] >= 60)
    assert away["timeout"] > 30


async def test_connection_that_is_refused_counts_as_a_whole_time_out() -> None:
    asker = Asker(parse(f"tcp://127.0.0.1:{free_port()}"), 0.3, Strays())
    sample = await asker.ask(NUMBER)
    assert sample == Sample("timeout", 300_000_000, None, sample.trouble)
    assert "failed" in sample.trouble or "refused" in sample.trouble


async def test_server_without_data_is_told_apart(workbench: Workbench) -> None:
    site = Site(workbench)
    async with serve(site.config()):
        for way in ("npq", "enum", "sip", "http", "sip+tcp"):
            asker = Asker(parse(site.servers[way]), 8, Strays())
            sample = await asker.ask(NUMBER)
            asker.close()
            assert (way, sample.result) == (way, "no_data")
            assert sample.ns > 0


async def test_metrics_have_what_was_measured(site: Site) -> None:
    port = free_port()
    config = site.config(PATIENT + f'http = "http://127.0.0.1:{port}"\n', [site.servers["npq"]])
    sampler = Sampler(read_config(config))
    scraped = ""

    async def scrape() -> None:
        nonlocal scraped
        await until(lambda: sum(answered(sampler)) >= 3)
        with await asyncio.to_thread(urllib.request.urlopen, f"http://127.0.0.1:{port}/metrics") as answer:
            scraped = answer.read().decode()

    with run_daemon(config):
        scraping = asyncio.create_task(scrape())
        await sample_until(sampler, scraping.done)
        await scraping
    labels = f'dialect="npq",ported="yes",server="{site.servers["npq"]}"'
    (count,) = re.findall(rf"^lookupd_probe_seconds_count{{{re.escape(labels)}}} ([0-9.]+)$", scraped, re.MULTILINE)
    assert float(count) >= 1
    assert f"lookupd_probe_timeouts_total{{{labels}}} 0.0" in scraped
    (success,) = re.findall(r"^lookupd_probe_last_success_timestamp_seconds{.*} ([0-9.e+]+)$", scraped, re.MULTILINE)
    assert abs(float(success) - time.time()) < 60
    assert "lookupd_probe_wrong_total" in scraped


# -- servers that are none ---------------------------------------------------------------------------------

Behaviour = Callable[[int, bytes], list[bytes]]
"""What is sent at once, for the how-manieth datagram and its bytes."""


@contextlib.asynccontextmanager
async def datagrams(behaviour: Behaviour, port: int = 0) -> AsyncIterator[tuple[int, Callable[[bytes], None]]]:
    """A server over UDP: its port, and a way to send more to whom it was asked by."""

    class Server(asyncio.DatagramProtocol):
        count = 0
        peer: Any = None

        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, addr: Any) -> None:
            self.peer = addr
            for reply in behaviour(self.count, data):
                self.transport.sendto(reply, addr)
            self.count += 1

    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(Server, local_addr=("127.0.0.1", port))
    try:
        yield (
            transport.get_extra_info("sockname")[1],
            lambda message: transport.sendto(message, server.peer),
        )
    finally:
        transport.close()


def pdb_ok(message: bytes, number: str = NUMBER, more: int = 0) -> bytes:
    query = pdb.decode_query(message)
    return pdb.encode_answer(pdb.PdbQuery((query.id + more) & 0xFFFF, number, False), 7)


async def test_an_answer_that_comes_late_is_not_the_next_questions() -> None:
    asked: list[bytes] = []

    def behave(count: int, message: bytes) -> list[bytes]:
        asked.append(message)
        return [] if count == 0 else [pdb_ok(asked[0]), pdb_ok(message)]

    strays = Strays()
    async with datagrams(behave) as (port, _):
        asker = Asker(parse(f"pdb://127.0.0.1:{port}"), 0.2, strays)
        assert (await asker.ask(NUMBER)).result == "timeout"
        asker._timeout = 8
        assert (await asker.ask(NUMBER)).result == "answered"
        asker.close()
    assert (strays.wrong, strays.late) == (0, 1)


@pytest.mark.parametrize(
    ("wrong", "result"),
    [
        (lambda message: b"\0", "timeout"),
        (lambda message: b"garbage", "timeout"),
        (lambda message: message, "timeout"),
        (lambda message: pdb_ok(message, more=1), "timeout"),
        (lambda message: pdb_ok(message, "886900000000"), "no_data"),
    ],
    ids=["a byte", "garbage", "the question", "another id", "another number"],
)
async def test_a_wrong_answer_is_counted_and_never_taken(wrong: Callable[[bytes], bytes], result: str) -> None:
    strays = Strays()
    async with datagrams(lambda count, message: [wrong(message)]) as (port, _):
        asker = Asker(parse(f"pdb://127.0.0.1:{port}"), 8 if result == "no_data" else 0.3, strays)
        assert (await asker.ask(NUMBER)).result == result
        asker.close()
    assert (strays.wrong, strays.late) == (1, 0)


async def test_a_right_answer_behind_wrong_ones_is_taken() -> None:
    strays = Strays()
    async with datagrams(lambda count, message: [b"\0", pdb_ok(message, more=5), pdb_ok(message)]) as (port, _):
        asker = Asker(parse(f"pdb://127.0.0.1:{port}"), 8, strays)
        assert (await asker.ask(NUMBER)).result == "answered"
        asker.close()
    assert (strays.wrong, strays.late) == (2, 0)


@pytest.mark.parametrize("scheme", ["udp", "pdb", "enum", "sip"])
@pytest.mark.parametrize("seed", range(4))
async def test_whatever_comes_over_udp_ends_a_question_in_order(scheme: str, seed: int) -> None:
    """Bytes by chance, and the question's own with some changed."""
    chance = random.Random(seed)

    def behave(count: int, message: bytes) -> list[bytes]:
        found = [chance.randbytes(chance.randrange(60)) for _ in range(5)]
        for _ in range(20):
            changed = bytearray(message)
            changed[2:3] = b"\x81" if scheme == "enum" else message[2:3]
            for _ in range(chance.randrange(1, 6)):
                changed[chance.randrange(len(changed))] = chance.randrange(256)
            found.append(bytes(changed))
        if scheme == "sip":
            via = re.search(rb"Via: [^\r]*", message)[0]  # type: ignore[index]
            found.append(b"SIP/2.0 " + chance.randbytes(20) + b"\r\n" + via + b"\r\n\r\n")
        return found

    async with datagrams(behave) as (port, _):
        asker = Asker(
            parse(f"{scheme}://127.0.0.1:{port}" + ("/np.example" if scheme == "enum" else "")), 0.2, Strays()
        )
        for _ in range(3):
            assert (await asker.ask(NUMBER)).result in {"timeout", "no_data"}
        asker.close()


@pytest.mark.parametrize("scheme", ["tcp", "enum+tcp", "sip+tcp", "http"])
@pytest.mark.parametrize("sent", [b"", b"\xff" * 70_000, b"\r\n" * 40_000, b"HTTP/1.1 200 OK\r\n\r\n", b"\0\0\0\x01x"])
async def test_whatever_comes_over_tcp_ends_a_question_in_order(scheme: str, sent: bytes) -> None:
    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await reader.read(100)
            writer.write(sent)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(behave, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    asker = Asker(parse(f"{scheme}://127.0.0.1:{port}" + ("/np.example" if "enum" in scheme else "")), 2, Strays())
    for _ in range(2):
        sample = await asker.ask(NUMBER)
        assert (sample.result, sample.ns) in {("timeout", 2_000_000_000), ("no_data", sample.ns)}
    asker.close()
    server.close()
    await server.wait_closed()


async def test_an_invite_is_sent_again_and_each_copy_of_its_answer_is_thanked() -> None:
    """As RFC 3261 has it: again after 500 ms, and an ACK for each final answer."""
    heard: list[bytes] = []

    def behave(count: int, message: bytes) -> list[bytes]:
        heard.append(message)
        if count == 0 or not message.startswith(b"INVITE"):
            return []
        lines = [
            line
            for line in message.split(b"\r\n")
            if line.split(b":")[0] in (b"Via", b"From", b"To", b"Call-ID", b"CSeq")
        ]
        head = b"\r\n".join([*lines, b"Contact: <sip:+886912345678;npdi;rn=+D0402@127.0.0.1>", b"", b""])
        return [b"SIP/2.0 100 Trying\r\n" + head, *[b"SIP/2.0 302 Moved\r\n" + head] * 2]

    strays = Strays()
    async with datagrams(behave) as (port, _):
        asker = Asker(parse(f"sip://127.0.0.1:{port}"), 8, strays)
        sample = await asker.ask(NUMBER)
        await until(lambda: len(heard) >= 4)
        asker.close()
    assert sample.result == "answered"
    assert sample.ported is True
    assert sample.ns >= 490_000_000  # the loop counts whole milliseconds
    assert [message.split(b" ")[0] for message in heard] == [b"INVITE", b"INVITE", b"ACK", b"ACK"]
    assert heard[0] == heard[1]
    assert (strays.wrong, strays.late) == (0, 1)


async def test_an_answer_that_does_not_fit_a_datagram_is_asked_again_over_tcp(site: Site) -> None:
    def cut(count: int, message: bytes) -> list[bytes]:
        answer = dns.message.make_response(dns.message.from_wire(message))
        answer.flags |= dns.flags.TC
        return [answer.to_wire()]

    port = free_port()
    site.listen = f'enum = ["tcp://127.0.0.1:{port}"]\n'
    async with serve(site.config()), datagrams(cut, port):
        asker = Asker(parse(f"enum://127.0.0.1:{port}/np.example"), 8, Strays())
        sample = await asker.ask(NUMBER)
        asker.close()
    assert (sample.result, sample.ported) == ("answered", True)


async def test_what_the_probe_itself_was_held_up_by_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lookupd.probe.asker.PROBE_HELD_UP_SECONDS", PROBE_HELD_UP_SECONDS)
    async with datagrams(lambda count, message: [pdb_ok(message)]) as (port, _):
        asker = Asker(parse(f"pdb://127.0.0.1:{port}"), 0.2, Strays())
        asyncio.get_running_loop().call_soon(time.sleep, 0.6)
        assert await asker.ask(NUMBER) == Sample("void", 0)
        asker.close()


async def test_another_socket_asks_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which worker of a server answers follows from the port."""
    monkeypatch.setattr("lookupd.probe.asker.PROBE_QUESTIONS_PER_SOCKET", 2)
    ports: list[int] = []
    async with datagrams(lambda count, message: [pdb_ok(message)]) as (port, _):
        asker = Asker(parse(f"pdb://127.0.0.1:{port}"), 8, Strays())
        for _ in range(4):
            await asker.ask(NUMBER)
            assert asker._sock is not None
            ports.append(asker._sock.getsockname()[1])
        asker.close()
    assert ports[0] == ports[1] != ports[2] == ports[3]


# -- what is kept ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def running_probe(config: Path) -> Iterator[subprocess.Popen[str]]:
    """`lookupd probe` as a process of its own; its log is at .probe."""
    log = config.with_suffix(".probe")
    with log.open("a") as out:
        command = [sys.executable, "-m", "lookupd.cli", "probe", "--config", str(config), "--json"]
        process = subprocess.Popen(command, stdout=out, stderr=out, text=True)
    try:
        wait_until(lambda: "probing" in log.read_text() or process.poll() is not None, 20)
        assert process.poll() is None, log.read_text()
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def kept(site: Site) -> int:
    with contextlib.suppress(LedgerMissing):
        return site.report().total.asked
    return 0


def test_what_was_saved_survives_a_kill_and_is_added_to(site: Site) -> None:
    config = site.config(PATIENT + 'every = "100ms"\n')
    with run_daemon(config):
        with running_probe(config) as process:
            wait_until(lambda: kept(site) >= 10, 60)
            process.kill()
            process.wait()
        before = site.report()
        assert before.total.asked >= 10
        with running_probe(config) as process:
            wait_until(lambda: kept(site) >= before.total.asked + 5, 60)
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
    after = site.report()
    ended = [json.loads(line) for line in config.with_suffix(".probe").read_text().splitlines() if line[:1] == "{"]
    assert after.total.asked == before.total.asked + sum(line["asked"] for line in ended if line["ported"])
    assert after.total.sum_ns == before.total.sum_ns + sum(line["sum_ns"] for line in ended if line["ported"])


async def test_a_ledger_that_cannot_be_written_is_told_of_once_and_saved_later(
    site: Site, capfd: pytest.CaptureFixture[str]
) -> None:
    config = site.config(PATIENT + 'every = "100ms"\n', [site.servers["npq"]])
    site.folder.write_text("not a folder")
    sampler = Sampler(read_config(config))
    with run_daemon(config):
        running = asyncio.create_task(sampler.run())
        await until(lambda: sampler.tally.saves["failed"] >= 3 and sum(answered(sampler)) >= 2)
        site.folder.unlink()
        await until(lambda: sampler.tally.saves["done"] >= 1)
        sampler._stopping.set()
        await running
    said = capfd.readouterr().err
    assert said.count("probe_unsaved") == said.count("probe_saved_again") == 1
    found = site.report()
    assert found.total.asked + found.total_unported.asked == sum(answered(sampler))


async def test_a_damaged_ledger_is_put_aside_and_the_report_says_so(site: Site) -> None:
    config = site.config(PATIENT, [site.servers["npq"]])
    site.folder.mkdir()
    (site.folder / FILE).write_bytes(b"not a database, and longer than a header of SQLite's is" * 100)
    sampler = Sampler(read_config(config))
    with run_daemon(config):
        await sample_until(sampler, lambda: sum(answered(sampler)) >= 2)
    assert len(site.report().put_aside) == 1
    assert site.report().lines


def test_a_step_of_the_clock_moves_the_hour_and_no_time(tmp_path: Path) -> None:
    now = 1_000_000.0
    ledger = Ledger(tmp_path / FILE, COLUMNS)
    tally = Tally([parse("udp://192.0.2.1:4700")], ledger, lambda: now)
    tally.note(tally.places[0], True, Sample("answered", 5))
    now -= 500_000
    tally.note(tally.places[0], True, Sample("answered", 7))
    ledger.save()
    total = read_report([tmp_path / FILE], parse_period("1971H1", find_zone("UTC")), "UTC", 2e9).total
    assert total.asked == 0
    counts = tally.places[0].counts[True]
    assert (counts.results["answered"], counts.ns["answered"]) == (2, 12)


# -- reports -----------------------------------------------------------------------------------------------

FIRST = parse_period("2026-11", find_zone("UTC")).first


def write_ledger(file: Path, *rows: tuple[int, str, bool, Sample]) -> Path:
    """rows: hour of the month, server, whether it is about a ported number, and what came."""
    now = 0.0
    ledger = Ledger(file, COLUMNS)
    servers = sorted({row[1] for row in rows})
    tally = Tally(map(parse, servers), ledger, lambda: now)
    for hour, server, ported, sample in rows:
        now = (FIRST + hour) * HOUR_SECONDS + 1.0
        tally.note(tally.places[servers.index(server)], ported, sample)
    ledger.save()
    return file


A, B = "udp://192.0.2.1:4700", "pdb://192.0.2.1:5574"
MS = 1_000_000
ROWS = (
    (0, A, True, Sample("answered", 1 * MS)),
    (0, A, True, Sample("answered", 2 * MS)),
    (1, A, True, Sample("no_data", 4 * MS)),
    (1, B, True, Sample("timeout", 50 * MS)),
    (4, B, True, Sample("answered", 3 * MS)),
    (4, B, False, Sample("answered", 9 * MS)),
    (4, B, True, Sample("void", 0)),
)


def of_november(*files: Path, now: float = 2e9) -> Report:
    return read_report(list(files), parse_period("2026-11", find_zone("UTC")), "UTC", now)


def test_mean_has_every_question_with_the_time_that_it_cost(tmp_path: Path) -> None:
    found = of_november(write_ledger(tmp_path / "a", *ROWS))
    total = found.total
    assert (total.asked, total.answered, total.no_data, total.timeout, total.void) == (5, 3, 1, 1, 1)
    assert (total.sum_ns, total.mean_ns, total.answered_mean_ns) == (60 * MS, 12 * MS, 2 * MS)
    assert total.timeout_share == 0.2
    assert total.worst_ns == 56_200_000
    assert (found.total_unported.asked, found.total_unported.mean_ns) == (1, 9 * MS)
    assert [(line.server, line.ported, line.asked, line.mean_ns, line.hours) for line in found.lines] == [
        (A, True, 3, round(7 * MS / 3), 2),
        (B, True, 2, round(53 * MS / 2), 2),
        (B, False, 1, 9 * MS, 1),
    ]


def test_hours_without_samples_are_told(tmp_path: Path) -> None:
    file = write_ledger(tmp_path / "a", *ROWS)
    found = of_november(file, now=(FIRST + 6) * HOUR_SECONDS + 1800)
    assert (found.hours, found.hours_sampled, found.complete) == (6, 3, False)
    assert [(hole.from_, hole.until, hole.hours) for hole in found.holes] == [
        ("2026-11-01T02:00:00Z", "2026-11-01T04:00:00Z", 2),
        ("2026-11-01T05:00:00Z", "2026-11-01T06:00:00Z", 1),
    ]
    whole = write_ledger(tmp_path / "b", *((hour, A, True, Sample("answered", MS)) for hour in range(720)))
    assert of_november(file, whole).complete
    assert not of_november(file, whole, now=(FIRST + 719) * HOUR_SECONDS).complete


def test_several_ledgers_are_summed_and_none_twice(tmp_path: Path) -> None:
    one, two = (write_ledger(tmp_path / name, *ROWS) for name in "ab")
    assert of_november(one, two).total.sum_ns == 2 * of_november(one).total.sum_ns
    (tmp_path / "link").symlink_to(one)
    with pytest.raises(ConfigError, match="counted twice"):
        of_november(one, tmp_path / "link")


@pytest.mark.parametrize(
    "row", [("a", "npq", "yes", "le:x"), ("a", "npq", "maybe", "answered"), ("a", "npq", "yes", "x")]
)
def test_a_ledger_of_something_else_is_refused(tmp_path: Path, row: tuple[str, ...]) -> None:
    ledger = Ledger(tmp_path / "a", COLUMNS)
    ledger.add(FIRST, row, 1)
    ledger.save()
    with pytest.raises(LookupdError, match="not known here"):
        of_november(tmp_path / "a")


def test_a_ledger_of_usage_is_refused(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "usage.sqlite", ("client", "account", "dialect", "result"))
    ledger.add(FIRST, ("a", "b", "npq", "ported"), 1)
    ledger.save()
    with pytest.raises(LookupdError, match=r"usage\.sqlite"):
        of_november(tmp_path / "usage.sqlite")


@pytest.mark.parametrize(
    ("text", "zone", "first", "hours"),
    [
        ("2026H1", "UTC", "2026-01-01T00:00:00+00:00", 181 * 24),
        ("2026H2", "Asia/Taipei", "2026-07-01T00:00:00+08:00", 184 * 24),
        ("2024H1", "UTC", "2024-01-01T00:00:00+00:00", 182 * 24),
        ("2026-12", "UTC", "2026-12-01T00:00:00+00:00", 744),
        ("2026H1", "Europe/Berlin", "2026-01-01T00:00:00+01:00", 181 * 24 - 1),
    ],
)
def test_a_period_has_the_hours_of_its_time_zone(text: str, zone: str, first: str, hours: int) -> None:
    from datetime import datetime

    period = parse_period(text, find_zone(zone))
    assert period.first * HOUR_SECONDS == datetime.fromisoformat(first).timestamp()
    assert period.end - period.first == hours


@pytest.mark.parametrize(
    "text", ["2026H3", "2026-13", "2026-00", "2026", "H2", "26H2", "2026h2", "1969H1", "2026H2 ", "٢٠٢٦H1"]
)
def test_what_is_no_period_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"period|month"):
        parse_period(text, find_zone("UTC"))


def test_a_period_of_half_hours_is_refused() -> None:
    with pytest.raises(ValueError, match="full hour"):
        parse_period("2026-11", find_zone("Asia/Kolkata"))


def test_report_is_shown_as_text_json_and_csv(tmp_path: Path) -> None:
    file = write_ledger(tmp_path / FILE, *ROWS)
    command = ("probe", "report", "--ledger", file, "--month", "2026-11")
    shown = {name: run_cli("lookupd.cli", *command, *options) for name, options in
             {"text": (), "json": ("--json",), "csv": ("--csv",)}.items()}  # fmt: skip
    assert {one.returncode for one in shown.values()} == {0}, shown
    assert "mean extra call set-up time, ported: 12.000 ms of 5 calls" in shown["text"].stdout
    told = json.loads(shown["json"].stdout)
    assert (told["total"]["mean_ns"], told["total"]["asked"]) == (12 * MS, 5)
    head, *rows = shown["csv"].stdout.splitlines()
    totals = [dict(zip(head.split(","), row.split(","), strict=True)) for row in rows if ",all,all," in row]
    assert [(row["ported"], row["mean_ns"]) for row in totals] == [("True", str(12 * MS)), ("False", str(9 * MS))]


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        ((), 2, "--config FILE or --ledger FILE"),
        (("--ledger", "x", "--month", "2026H2"), 2, "half-year is for --period"),
        (("--ledger", "x", "--period", "2026-11"), 2, "month for --month"),
        (("--ledger", "x", "--period", "2105H2"), 2, "has not begun"),
        (("--ledger", "x", "--time-zone", "Nowhere/Land"), 2, "no time zone"),
        (("--ledger", "/nowhere/probe.sqlite", "--json"), 1, "/nowhere/probe.sqlite: not there"),
        (("--ledger", "x", "--json", "--csv"), 2, "choose one"),
        (("--ledger", "x", "--period", "2026H1", "--month", "2026-11"), 2, "choose one"),
    ],
)
def test_report_says_what_it_cannot_do(options: tuple[str, ...], code: int, said: str) -> None:
    done = run_cli("lookupd.cli", "probe", "report", *options)
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr
    assert "Traceback" not in done.stderr


# -- numbers and settings ----------------------------------------------------------------------------------


def test_numbers_of_a_file_are_asked_in_their_share(tmp_path: Path) -> None:
    file = tmp_path / "numbers"
    file.write_text("# known\n+886912345678\n886923456789 # ported, too\n\n886911111111\tunported\n")
    drawn = FromFile(file, 0.25).draw()
    assert (drawn.ported, drawn.unported) == (["886912345678", "886923456789"], ["886911111111"])
    chance = random.Random(3)
    asked = [drawn.next(chance) for _ in range(4000)]
    assert 0.2 < sum(not number.ported for number in asked) / len(asked) < 0.3
    assert {number.digits for number in asked} == {*drawn.ported, *drawn.unported}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"0912345678\n", ":1: write it like"),
        (b"886912345678\n88691234567x\n", ":2: write it like"),
        (b"886912345678 ported\n", ":1: write it like"),
        (b"\xff\xfe\n", ":1: write it like"),
        (b"", "no ported number"),
        (b"886911111111 unported\n", "no ported number"),
        (b"#" * (17 << 20), "over 16 MiB"),
    ],
)
def test_a_file_of_numbers_that_cannot_be_used_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    file = tmp_path / "numbers"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=re.escape(str(file))) as refused:
        FromFile(file, 0.1).draw()
    assert reason in str(refused.value)


@pytest.mark.parametrize("listed", [4096, 0])
def test_numbers_drawn_from_a_store_are_what_the_store_says(
    loaded: Workbench, listed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe_numbers, "PROBE_BLOCKS_LISTED", listed)
    drawn = FromStore(loaded.store, 1 << 30, PLAN, 0.1, random.Random(1)).draw()
    if listed:
        assert set(drawn.ported) == FEED_PORTED
    assert drawn.ported
    assert set(drawn.ported) <= FEED_PORTED
    with loaded.reader() as reader:
        assert drawn.unported
        assert not any(reader.entry(int(digits)) for digits in drawn.unported)


def test_a_store_without_ported_numbers_is_told(workbench: Workbench) -> None:
    workbench.load_tables()
    with pytest.raises(StoreError, match="no ported number"):
        FromStore(workbench.store, 1 << 30, PLAN, 0.1, random.Random(1)).draw()


async def test_numbers_of_the_last_hour_are_asked_on_when_none_can_be_drawn(
    site: Site, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("lookupd.probe.sampler.PROBE_REDRAW_SECONDS", 0.05)
    file = site.bench.write("numbers", f"{NUMBER}\n")
    config = site.config(PATIENT + f'numbers = "{file}"\n', [site.servers["npq"]])
    sampler = Sampler(read_config(config))
    with run_daemon(config):
        running = asyncio.create_task(sampler.run())
        await until(lambda: sum(answered(sampler)) >= 1)
        file.unlink()
        before = sum(answered(sampler))
        await until(lambda: sum(answered(sampler)) >= before + 3)
        sampler._stopping.set()
        await running
    assert "probe_numbers_kept" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("section", "reason"),
    [
        ('servers = ["udp://name.example:4700"]', "probe.servers: server udp://name.example:4700"),
        ('servers = ["enum://127.0.0.1"]', "name the apex"),
        (f'servers = ["enum://127.0.0.1/{"a" * 64}"]', "no domain name"),
        ('servers = ["https://127.0.0.1:1"]', "write it like"),
        ('servers = ["pdb://127.0.0.1/x"]', "write it like"),
        ('servers = ["udp://127.0.0.1", "udp://127.0.0.1:4700"]', "named twice"),
        ("unported_share = 1.0", "probe.unported_share"),
        ('interval = "1ms"', "probe.interval"),
        ('interval = "50ms"', "under way"),
        ('timeouts = { enum = "0s" }', "probe.timeouts.enum"),
        ('timeouts = { sip = "11s" }', "probe.timeouts.sip"),
        ('timeouts = { dns = "1s" }', "probe.timeouts.dns: unknown key"),
        ('keep = "30d"', "probe.keep"),
        ('every = "1m"', "probe.every"),
        ('http = "udp://127.0.0.1:1"', "probe.http"),
    ],
)
def test_settings_that_cannot_be_are_refused(workbench: Workbench, section: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(reason)):
        read_config(workbench.config(f"[probe]\n{section}\n"))


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        ((), 2, "name what to ask"),
        (("--server", "udp://127.0.0.1:4700"), 2, "name what to ask"),
        (("--server", "udp://x", "--numbers", "n"), 3, "udp://x"),
        (("--server", "udp://127.0.0.1:4700", "--numbers", "/nowhere/n", "--json"), 3, "/nowhere/n: No such file"),
    ],
)
def test_probe_says_what_it_cannot_do(options: tuple[str, ...], code: int, said: str) -> None:
    done = run_cli("lookupd.cli", "probe", *options)
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr
    assert "Traceback" not in done.stderr


def test_probe_without_a_configuration_shows_what_it_measured(site: Site) -> None:
    numbers = site.bench.write("numbers", f"{NUMBER}\n")
    with run_daemon(site.config()):
        done = run_cli(
            "lookupd.cli", "probe", "--server", site.servers["npq"], "--server", site.servers["http"],
            "--numbers", numbers, "--seconds", "4", "--json",
        )  # fmt: skip
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, done.stderr
    assert {line["server"] for line in lines} == {site.servers["npq"], site.servers["http"]}
    assert all(line["answered"] >= 1 for line in lines)
    assert not site.folder.exists()


def test_npq_error_ends_the_question_without_data() -> None:
    async def ask() -> tuple[Sample, Strays]:
        strays = Strays()

        def behave(count: int, message: bytes) -> list[bytes]:
            query = npq.decode_query(message)
            return [npq.encode_error(npq.QueryRefused(query.id, npq.ERROR_MALFORMED))]

        async with datagrams(behave) as (port, _):
            asker = Asker(parse(f"udp://127.0.0.1:{port}"), 8, strays)
            sample = await asker.ask(NUMBER)
            asker.close()
        return sample, strays

    sample, strays = asyncio.run(ask())
    assert (sample.result, strays.wrong) == ("no_data", 1)
