"""Stores, feeds and daemons for tests: everything in a test's own folder, on loopback, on free ports."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import lmdb
import pytest
import uvloop

from loader.apply import Result, Terms, apply_delta, apply_snapshot
from loader.files import identify
from loader.tables import load_networks, load_ranges, read_networks, read_ranges
from lookupd import native_bulk
from lookupd.config import read_config
from lookupd.daemon import Daemon
from lookupd.fastpath import native_missing
from lookupd.model import TN, JournalKind, Measure, Restriction, Target, UnixSeconds
from lookupd.numbering import load_plan
from lookupd.settings import Config
from lookupd.store import restricting
from lookupd.store.change import Counts
from lookupd.store.reader import Reader
from lookupd.store.schema import DATABASES
from lookupd.store.writer import Writer

os.environ["LC_ALL"] = "C.UTF-8"  # what people read is compared in English, whoever runs the tests

PLAN = load_plan("886")

_configuration: list[pytest.Config] = []


def pytest_configure(config: pytest.Config) -> None:
    _configuration[:] = [config]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """A failure is told when it happens: a run that is ended before its summary still says what failed."""
    config = _configuration[0]
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if "CI" in os.environ and reporter and str(report.outcome) in {"failed", "rerun"}:
        reporter.write_line(f"\n{report.outcome}: {report.nodeid} ({report.when})\n{report.longreprtext}")


UNGUARDED = Terms(moved_free=10**15)
"""Stores of a few numbers are moved as a whole; the guard has tests of its own."""

NETWORKS = """network_code,operator,routing_number,pdb_carrier_id
1401,Alpha Telecom,D0401,101
1402,Beta Mobile,D0402,102
1403,Gamma,,
"""
RANGES = """prefix,network_code
88691,1401
88692,1402
886912,1403
8862,1401
"""
SNAPSHOT = """tn,network_code,routing_number,donor,ported_at
886912345678,1402,,1401,2026-03-01T09:00:00+08:00
886912345679,1401,,1403,2026-03-01T09:00:00+08:00
886923456789,1401,D9999,1402,
886223450000,1403,,,
"""


EXAMPLES_UNTIL = 4_102_444_800
"""2100-01-01T00:00:00Z."""


class Silent:
    """Progress that nobody watches."""

    def stage(self, name: str, total: int | None) -> Callable[[int], None]:
        return lambda count: None


class Workbench:
    """A folder with a feed and a store, and the loader's steps as plain calls."""

    engine = "auto"
    """Which engine the configurations ask for; see `each_engine`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = folder / "store"

    def write(self, name: str, content: str | bytes) -> Path:
        """A file without a manifest."""
        path = self.folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def publish(self, name: str, content: str | bytes, rows: int, **changed: object) -> Path:
        """A data file with its manifest; `changed` puts something else into the manifest."""
        path = self.write(name, content)
        data = path.read_bytes()
        kind, feed, rest = name.split("-", 2)
        manifest = {
            "feed": feed,
            "type": kind,
            "sequence": int(rest.split(".")[0]),
            "created_at": "2026-11-22T10:00:05+08:00",
            "rows": rows,
            "bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
        }
        path.with_name(name + ".json").write_text(json.dumps(manifest | changed))
        return path

    def load_tables(self, networks: str = NETWORKS, ranges: str = RANGES, now: int = 1) -> None:
        at = UnixSeconds(now)
        with Writer(self.store) as writer:
            load_networks(writer, read_networks(self.write("networks.csv", networks)), "networks.csv", at)
            load_ranges(writer, read_ranges(self.write("ranges.csv", ranges)), "ranges.csv", at)

    def snapshot(self, text: str = SNAPSHOT, sequence: int = 1, now: int | None = None) -> Result:
        path = self.publish(f"snapshot-main-{sequence}.csv", text, text.count("\n") - 1)
        with Writer(self.store) as writer:
            return apply_snapshot(writer, identify(path, "snapshot", "main"), PLAN, _now(now), Silent(), UNGUARDED)

    def delta(self, *notices: dict[str, object], sequence: int, now: int | None = None) -> Result:
        text = "".join(json.dumps({"notified_at": "2026-11-22T10:00:00+08:00"} | notice) + "\n" for notice in notices)
        path = self.publish(f"delta-main-{sequence}.ndjson", text, len(notices))
        with Writer(self.store) as writer:
            return apply_delta(writer, identify(path, "delta", "main"), PLAN, _now(now), Silent(), UNGUARDED)

    def restrict(self, tn: int, now: int) -> None:
        """For the pages' examples: stopped until 2100, which no rule allows, so that they stay true."""
        at, end = UnixSeconds(now), UnixSeconds(EXAMPLES_UNTIL)
        stop = Restriction(Target.NUMBER, tn, tn, "NPA", "A-17", Measure.STOP, at, end)
        with Writer(self.store) as writer, writer.change(at) as change:
            restricting.put(change, stop)
            change.record(JournalKind.RESTRICT, Counts(), tn=TN(tn), tn_to=TN(tn), restriction=stop)

    def reader(self) -> Reader:
        return Reader(self.store)

    def state(self) -> tuple[int, int, dict[str, object]]:
        """Serial, digest and feed positions: what must not move when a file is refused."""
        with self.reader() as reader:
            return reader.state.serial, reader.state.digest, dict(reader.state.feeds)

    def config(self, extra: str = "", listen: str | None = None) -> Path:
        if listen is None:
            listen = (
                'npq = ["udp://127.0.0.1:0", "tcp://127.0.0.1:0"]\n'
                'pdb = ["udp://127.0.0.1:0"]\nhttp = "http://127.0.0.1:0"'
            )
        head = f'[engine]\nudp = "{self.engine}"\n[store]\npath = "{self.store}"\n[listen]\n'
        return self.write("lookupd.toml", f"{head}{listen}\n{extra}")


def _now(now: int | None) -> UnixSeconds:
    return UnixSeconds(int(time.time()) if now is None else now)


@pytest.fixture(scope="session")
def event_loop_policy() -> asyncio.AbstractEventLoopPolicy:
    """The loop that `lookupd serve` runs on."""
    policy: asyncio.AbstractEventLoopPolicy = uvloop.EventLoopPolicy()
    return policy


@pytest.fixture(params=["python", "native"])
def each_engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The test runs once with each engine: what one does, the other must do too."""
    name: str = request.param
    if name == "native" and (missing := native_missing()) is not None:
        pytest.skip(missing)
    monkeypatch.setattr(Workbench, "engine", name)
    return name


@pytest.fixture
def python_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """For what is made of Python objects; the native engine's own tests have the same cases."""
    monkeypatch.setattr(Workbench, "engine", "python")


@pytest.fixture(params=["native", "numpy"])
def bulk_path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A test that takes it runs twice: snapshots are loaded by the native module, then without it."""
    path: str = request.param
    if path == "native" and not native_bulk.available():
        pytest.skip("the native module was not built")
    monkeypatch.setattr(native_bulk, "available", lambda: path == "native")
    return path


@pytest.fixture
def workbench(tmp_path: Path) -> Workbench:
    """An empty workbench."""
    return Workbench(tmp_path)


@pytest.fixture
def loaded(workbench: Workbench) -> Workbench:
    """A workbench whose store has the tables and the snapshot above."""
    workbench.load_tables()
    workbench.snapshot()
    return workbench


Dump = dict[str, list[tuple[bytes, bytes]]]


def dump(store: Path) -> Dump:
    """Every key and value of every database."""
    environment = lmdb.open(str(store), readonly=True, max_dbs=16, lib_version=0)
    try:
        with environment.begin() as transaction:
            return {
                name: list(transaction.cursor(db=environment.open_db(name.encode(), txn=transaction, create=False)))
                for name in DATABASES
            }
    finally:
        environment.close()


class Served:
    """A daemon in this process, and where it listens."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon

    def port(self, dialect: str, transport: str) -> int:
        for (name, endpoint), listener in self.daemon.listeners.items():
            if (name, endpoint.transport) == (dialect, transport):
                return listener.port
        raise LookupError((dialect, transport))


@contextlib.asynccontextmanager
async def serve(config_path: Path) -> AsyncIterator[Served]:
    """A running daemon in this process."""
    config: Config = read_config(config_path)
    daemon = Daemon(config, config_path)
    await daemon.start()
    keeper = asyncio.create_task(daemon._keep_store())
    try:
        yield Served(daemon)
    finally:
        keeper.cancel()
        await daemon.close()


def free_port() -> int:
    """Free for UDP and TCP, and not of the range that the kernel gives to outgoing connections."""
    while True:
        port = random.randrange(20_000, 32_000)
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
            socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tcp,
        ):
            udp.bind(("127.0.0.1", port))
            tcp.bind(("127.0.0.1", port))
            return port


@contextlib.contextmanager
def run_daemon(
    config: Path, wait_for: str = "serving", environment: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """`lookupd serve` as a process of its own; ended by SIGTERM, its log is at .log. environment: more of it."""
    log = config.with_suffix(".log")
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "lookupd.cli", "serve", "--config", str(config)],
            stdout=out,
            stderr=out,
            text=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1"} | (environment or {}),
        )
    process.log = log  # type: ignore[attr-defined]
    try:
        wait_until(lambda: wait_for in log.read_text() or process.poll() is not None, 20)
        assert process.poll() is None, log.read_text()
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise


def wait_until(condition: Callable[[], bool], seconds: float = 10) -> None:
    """Poll until it holds; fails the test otherwise."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"not within {seconds} s: {condition}"
        time.sleep(0.02)


def halt(process: subprocess.Popen[str]) -> None:
    """SIGSTOP, and wait until no thread of it goes on: one on another core may still answer for a moment."""
    process.send_signal(signal.SIGSTOP)
    tasks = Path(f"/proc/{process.pid}/task")
    wait_until(lambda: all(_state(task) == "T" for task in tasks.iterdir()))


def _state(task: Path) -> str:
    """Of a thread; its name stands in brackets before it and may hold anything."""
    return (task / "stat").read_text().rpartition(")")[2].split()[0]


def run_cli(module: str, *arguments: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    """`lookupd` (lookupd.cli) or `lookupd-loader` (loader.cli) as a person runs it."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done: subprocess.CompletedProcess[str] = subprocess.run(  # type: ignore[call-overload]
        command, capture_output=True, text=True, timeout=120, check=False, **options
    )
    return done
