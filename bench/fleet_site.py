"""A fleet on loopback: an engine of real servers, a relay, replicas with stores of their own. Started, killed, wiped.

Every process is ended by its own pid. What is done to them, and what must hold afterwards, is `fleet`'s.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from bench.dataset import CREATED_AT, Dataset, load_tables
from bench.deltas import SIGNER, Sender
from bench.processes import ChildFailed
from loader.files import write_manifest
from lookupd.errors import LookupdError
from lookupd.model import Receipt
from lookupd.store.reader import Reader
from tests.nats_servers import NatsServer, nats_cluster, settings_text

STREAM = "LOOKUPD"
RELAY_POLL, FILES_POLL = "100ms", "5s"
"""The relay's look at the source, which is in every latency; a replica's, for when the engine is away."""

READY_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 20.0
LOOK_SECONDS = 0.1


class Process:
    """A command of ours that may be killed and started again; all it says goes to one log."""

    def __init__(self, name: str, command: list[str], log: Path) -> None:
        self.name, self.log = name, log
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """It may not be ready yet."""
        assert self._process is None, self.name
        with self.log.open("ab") as out:
            self._process = subprocess.Popen(
                self._command, stdout=out, stderr=out, env=os.environ | {"PYTHONUNBUFFERED": "1"}
            )

    def kill(self) -> None:
        """kill -9."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM, and killed when it does not listen."""
        self._end(signal.SIGTERM)

    def check(self) -> None:
        """Raises ChildFailed when it ended by itself."""
        if self._process is not None and self._process.poll() is not None:
            code = self._process.returncode
            raise ChildFailed(f"{self.name}: ended with exit code {code}: {self.log.read_text()[-1000:]}")

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Facts(msgspec.Struct, frozen=True):
    """What a store says at the end. receipts: of its deltas; repeated: notices that the journal has more than once."""

    position: int
    digest: str
    receipts: list[Receipt]
    repeated: int


@dataclass
class Replica:
    """One `lookupd-loader sync` with a store of its own."""

    name: str
    store: Path
    process: Process
    dataset: Dataset
    away: list[tuple[float, float]] = field(default_factory=list)
    """From when to when it did not follow, by the wall clock."""

    def position(self) -> int:
        """Of the feed; 0 while there is no store."""
        with contextlib.suppress(LookupdError), Reader(self.store) as reader:
            found = reader.state.feeds.get("main")
            return 0 if found is None else found.sequence
        return 0

    def wipe(self) -> None:
        """Its store and spool are gone, and it begins anew with the tables that a person loads; it must not run."""
        shutil.rmtree(self.store)
        load_tables(self.dataset, self.store)

    def facts(self) -> Facts:
        """Of its store."""
        with Reader(self.store) as reader:
            places = [
                (entry.sequence, entry.line) for _, entry, _ in reader.journal() if entry.line and entry.feed == "main"
            ]
            receipts = [receipt for _, receipt in reader.receipts() if receipt.type == "delta"]
            state = reader.state
            return Facts(
                state.feeds["main"].sequence,
                f"{state.digest % (1 << 64):016x}",
                receipts,
                len(places) - len(set(places)),
            )


@dataclass
class Site:
    """All of it, running."""

    folder: Path
    sender: Sender
    servers: list[NatsServer]
    relay: Process
    replicas: list[Replica]

    def check(self) -> None:
        """Raises ChildFailed when a process ended that nobody ended."""
        for process in (self.relay, *(replica.process for replica in self.replicas)):
            process.check()

    def leader(self) -> str:
        """The server that leads the stream, as any that runs says; empty while there is none."""
        return next((str(each["cluster"].get("leader", "")) for each in self._streams() if "cluster" in each), "")

    def messages(self, wanted: int, seconds: float) -> int:
        """How many the stream holds, once there are so many, or it is too late; -1 when no server says.

        Replicas that followed the files while the engine was away may be ahead of it.
        """
        until = time.monotonic() + seconds
        while True:
            found = next((int(each["state"]["messages"]) for each in self._streams()), -1)
            if found >= wanted or time.monotonic() > until:
                return found
            self.check()
            time.sleep(LOOK_SECONDS)

    def _streams(self) -> Iterator[dict[str, Any]]:
        """The stream as each running server knows it."""
        for server in self.servers:
            if server.process is None:
                continue
            with contextlib.suppress(OSError, ValueError, KeyError):
                url = f"{server.monitor_url}/jsz?streams=true"
                with urllib.request.urlopen(url, timeout=2) as answer:
                    accounts = json.load(answer)["account_details"]
                yield from (each for account in accounts for each in account["stream_detail"] if each["name"] == STREAM)

    def wait_for(self, sequence: int, seconds: float) -> None:
        """Until every replica is there. Raises ChildFailed."""
        until = time.monotonic() + seconds
        while behind := {each.name: at for each in self.replicas if (at := each.position()) < sequence}:
            self.check()
            if time.monotonic() > until:
                raise ChildFailed(f"not within {seconds:g} s at {sequence}: {behind}")
            time.sleep(LOOK_SECONDS)


@contextlib.contextmanager
def site(dataset: Dataset, folder: Path, replicas: int) -> Iterator[Site]:
    """Three servers, a relay and replicas, each at the snapshot. folder: everything lies below it."""
    folder = folder.resolve()
    sender = Sender(folder, SIGNER, compressed=True)
    _publish_snapshot(dataset, sender.source)
    with contextlib.ExitStack() as stack:
        try:
            servers = stack.enter_context(nats_cluster(folder / "engine"))
        except AssertionError as error:
            raise ChildFailed(f"the engine did not come up: {error}") from None
        relay = _relay(folder, sender.source, servers)
        found = [_replica(folder, f"r{at}", dataset, sender.source, servers) for at in range(1, replicas + 1)]
        running = Site(folder, sender, servers, relay, found)
        try:
            relay.start()
            for replica in found:
                load_tables(dataset, replica.store)
                replica.process.start()
            running.wait_for(1, READY_SECONDS_MAX)
            yield running
        finally:
            for process in (relay, *(replica.process for replica in found)):
                process.stop()


def _publish_snapshot(dataset: Dataset, source: Path) -> None:
    """The data set's, signed."""
    path = source / dataset.snapshot(1).name
    shutil.copyfile(dataset.snapshot(1), path)
    write_manifest(path, dataset.numbers, CREATED_AT)
    manifest = path.with_name(path.name + ".json")
    manifest.with_name(manifest.name + ".minisig").write_text(SIGNER.sign(manifest.read_bytes(), path.name))


def _engine(servers: Sequence[NatsServer]) -> str:
    return settings_text(servers, stream=STREAM, max_bytes="1GiB")


def _relay(folder: Path, source: Path, servers: Sequence[NatsServer]) -> Process:
    config = folder / "relay.toml"
    config.write_text(
        f'[sync]\nspool = "{folder / "relay-spool"}"\n{_engine(servers)}'
        f'[feed.main]\nsource = "dir://{source}"\npoll = "{RELAY_POLL}"\n'
        f'public_key = "{SIGNER.public_key_text()}"\nacknowledge = "no"\n'
    )
    command = [sys.executable, "-m", "loader.cli", "relay", "--config", str(config)]
    return Process("relay", command, folder / "relay.log")


def _replica(folder: Path, name: str, dataset: Dataset, source: Path, servers: Sequence[NatsServer]) -> Replica:
    config, store = folder / f"{name}.toml", folder / f"{name}-store"
    config.write_text(
        f'[replica]\nname = "{name}"\n[store]\npath = "{store}"\nmap_size = "2GiB"\n'
        f"[limits]\nmoved_share = 1.0\nmoved_free = {dataset.numbers}\n{_engine(servers)}"
        f'[feed.main]\nsource = "jetstream:"\nfiles = "dir://{source}"\npoll = "{FILES_POLL}"\n'
        f'public_key = "{SIGNER.public_key_text()}"\n'
    )
    command = [sys.executable, "-m", "loader.cli", "sync", "--config", str(config)]
    return Replica(name, store, Process(name, command, folder / f"{name}.log"), dataset)
