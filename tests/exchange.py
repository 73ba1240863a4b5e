"""The exchange for tests: a real `lookupd-loader sync`, or the same in this process on clocks that a test moves.

Beside them a model that holds nothing but the rule of state: a number's state is what the latest notice by feed
sequence and line says, among those whose moment has come.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loader.feed_sync import FeedSync
from loader.steady import SteadyClock
from loader.sync import Sync, clock_file
from loader.trust import Signer
from lookupd.config import read_config
from lookupd.model import JournalEntry, JournalKind
from lookupd.store.reader import Reader
from lookupd.store.schema import NUMBERS_PER_BLOCK, ROUTE_MASK, U16
from lookupd.store.verify import verify
from lookupd.units import format_time
from tests.conftest import SNAPSHOT, Workbench

NOTIFIED = "2026-11-22T10:00:00+08:00"
T0 = 1_795_312_800
"""The same moment, where simulated clocks begin."""


def at(seconds: float) -> str:
    """A moment as a feed writes it."""
    text = format_time(int(seconds))
    assert text is not None
    return text


def notice(tn: int | str, recipient: str = "1403", tn_to: int | None = None, **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"kind": "port", "tn": str(tn), "recipient": recipient, "notified_at": NOTIFIED}
    return found | ({} if tn_to is None else {"tn_to": str(tn_to)}) | more


def number_return(tn: int | str, **more: Any) -> dict[str, Any]:
    return {"kind": "return", "tn": str(tn), "notified_at": NOTIFIED} | more


def lines(*notices: dict[str, Any]) -> str:
    return "".join(json.dumps(one) + "\n" for one in notices)


class Exchange:
    """A workbench with a source folder and a configuration for sync."""

    def __init__(
        self, bench: Workbench, extra: str = "", feed: str = "", *, gap_wait: str = "1s", source: Path | None = None
    ) -> None:
        """extra: after the keys of [store]; feed: in [feed.main]; source: None = a folder of our own."""
        self.bench = bench
        self.source = source or bench.folder / "source"
        self.source.mkdir(exist_ok=True)
        self.config = bench.write(
            "sync.toml",
            f'[store]\npath = "{bench.store}"\nmap_size = "1GiB"\n{extra}\n'
            f'[feed.main]\nsource = "dir://{self.source}"\npoll = "100ms"\ngap_wait = "{gap_wait}"\n{feed}\n',
        )

    # -- what the sender does ------------------------------------------------------------------------------

    def publish(
        self, name: str, content: str | bytes, rows: int, *, signer: Signer | None = None, **changed: object
    ) -> Path:
        """A whole step, the manifest last. changed: something else in the manifest."""
        path = self.bench.publish(name, content, rows, **changed)
        target = self.source / name
        path.rename(target)
        manifest = path.with_name(name + ".json")
        if signer is not None:
            (self.source / (name + ".json.minisig")).write_text(signer.sign(manifest.read_bytes(), name))
        manifest.rename(self.source / (name + ".json"))
        return target

    def snapshot(self, sequence: int = 1, text: str = SNAPSHOT, **how: Any) -> Path:
        return self.publish(f"snapshot-main-{sequence}.csv", text, text.count("\n") - 1, **how)

    def delta(self, sequence: int, *notices: dict[str, Any], **how: Any) -> Path:
        return self.publish(delta_name(sequence), lines(*notices), len(notices), **how)

    def withdraw(self, name: str) -> None:
        """The sender takes all files of a step back; our acknowledgement stays."""
        for ending in ("", ".json", ".json.minisig"):
            (self.source / (name + ending)).unlink(missing_ok=True)

    # -- what the exchange says ----------------------------------------------------------------------------

    def ack(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.source / (name + ".ack.json")).read_text())
        return found

    def acked(self, name: str) -> str | None:
        """Its result, None while there is no acknowledgement."""
        return str(self.ack(name)["result"]) if (self.source / (name + ".ack.json")).exists() else None

    def once(self) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "loader.cli", "sync", "--once", "--config", str(self.config), "--json"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def start(self) -> subprocess.Popen[str]:
        """A process whose log is in `log`, for a test that ends it by itself."""
        with self.log.open("a") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "loader.cli", "sync", "--config", str(self.config)],
                stdout=log,
                stderr=log,
                text=True,
            )

    @property
    def log(self) -> Path:
        """Of the processes of `start`."""
        return self.bench.folder / "sync.log"

    @contextmanager
    def running(self) -> Iterator[subprocess.Popen[str]]:
        process = subprocess.Popen(
            [sys.executable, "-m", "loader.cli", "sync", "--config", str(self.config)],
            stderr=subprocess.PIPE,
            text=True,
        )
        os.set_blocking(process.stderr.fileno(), False)  # type: ignore[union-attr]
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
            process.stderr.close()  # type: ignore[union-attr]

    def position(self) -> int:
        with self.bench.reader() as reader:
            found = reader.state.feeds.get("main")
            return found.sequence if found else 0


def delta_name(sequence: int) -> str:
    return f"delta-main-{sequence}.ndjson"


# -- in this process -------------------------------------------------------------------------------------


@dataclass
class Machine:
    """The clocks of a machine: the wall clock, which anybody may set, and the time since boot, which nobody can."""

    wall: float = float(T0)
    ticks: float = 1000.0
    boots: int = 1

    def advance(self, seconds: float) -> None:
        self.wall += seconds
        self.ticks += seconds

    def step(self, seconds: float) -> None:
        """Somebody sets the wall clock."""
        self.wall += seconds

    def boot(self, off_seconds: float) -> None:
        self.wall += off_seconds
        self.ticks = 5.0
        self.boots += 1

    def clock(self, file: Path, step_max: float) -> SteadyClock:
        return SteadyClock(
            file,
            step_max,
            wall=lambda: self.wall,
            ticks=lambda: self.ticks,
            boot_id=lambda: f"boot-{self.boots}",
        )


class Rig(Exchange):
    """The whole exchange in this process: the test moves its clocks and says when a round is."""

    def __init__(
        self,
        bench: Workbench,
        extra: str = "",
        feed: str = "",
        *,
        machine: Machine | None = None,
        gap_wait: str = "600s",
        source: Path | None = None,
    ) -> None:
        super().__init__(bench, extra, feed, gap_wait=gap_wait, source=source)
        self.machine = machine or Machine()
        self.sync: Sync

    async def start(self) -> None:
        config = read_config(self.config)
        self.sync = Sync(config, clock=self.machine.clock(clock_file(config), config.limits.clock_step))
        await self.sync.start()

    async def stop(self) -> None:
        await self.sync.close()

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    @asynccontextmanager
    async def running_here(self) -> AsyncIterator[Rig]:
        await self.start()
        try:
            yield self
        finally:
            await self.stop()

    @property
    def main(self) -> FeedSync:
        return self.sync.feeds[0]

    async def fire(self) -> None:
        """What the exchange does when a moment comes."""
        await self.sync._fire()

    async def round(self) -> None:
        """What is due, then one round of the feed. Raises SourceError, StoreError."""
        await self.fire()
        try:
            await self.main.round()
        finally:
            await self.sync._look()

    async def facts(self) -> tuple[int, int]:
        """Position and digest: what must not move when a file is refused."""
        return await self.sync.store.read(  # type: ignore[no-any-return]
            lambda reader: (reader.state.feeds["main"].sequence if reader.state.feeds else 0, reader.state.digest)
        )

    async def numbers(self) -> dict[int, str]:
        """Every ported number and its network."""
        return await self.sync.store.read(numbers_of)  # type: ignore[no-any-return]

    async def problems(self) -> list[str]:
        return await self.sync.store.read(lambda reader: verify(reader).problems)  # type: ignore[no-any-return]

    async def journal(self) -> list[JournalEntry]:
        return await self.sync.store.read(  # type: ignore[no-any-return]
            lambda reader: [entry for _, entry, _ in reader.journal()]
        )

    def metric(self, name: str, **labels: str) -> float:
        """A sample's value at this moment of the rig's clock."""
        found = [
            sample.value
            for family in self.sync.metrics.collect()
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]
        assert len(found) == 1, (name, labels, found)
        return float(found[0])

    def margin(self, kind: str) -> float:
        return self.metric("lookupd_notice_margin_seconds", kind=kind)

    def unapplied(self, kind: str) -> float:
        return self.metric("lookupd_notices_unapplied", kind=kind)

    def breaches(self, kind: str) -> float:
        return self.metric("lookupd_notice_breaches_total", kind=kind)


def numbers_of(reader: Reader) -> dict[int, str]:
    found: dict[int, str] = {}
    for block, value in reader.blocks():
        for offset in range(NUMBERS_PER_BLOCK):
            route_id = U16.unpack_from(value, 2 * offset)[0] & ROUTE_MASK
            if route_id:
                found[block * NUMBERS_PER_BLOCK + offset] = reader.route(route_id).network_code
    return found


# -- the model -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Word:
    """A notice, and where it stands."""

    sequence: int
    line: int
    kind: str
    tn: int
    tn_to: int
    recipient: str | None
    effective_at: int | None = None

    def as_notice(self, notified_at: float = T0) -> dict[str, Any]:
        found: dict[str, Any] = {"kind": self.kind, "tn": str(self.tn), "notified_at": at(notified_at)}
        if self.tn_to != self.tn:
            found["tn_to"] = str(self.tn_to)
        if self.recipient is not None:
            found["recipient"] = self.recipient
        if self.effective_at is not None:
            found["effective_at"] = at(self.effective_at)
        return found


@dataclass
class Model:
    """A snapshot's numbers, and every word since; nothing is ever forgotten, so any state can be asked for."""

    base: Mapping[int, str]
    words: list[Word] = field(default_factory=list)

    def say(self, sequence: int, *words: Word) -> list[dict[str, Any]]:
        """Take a delta's words; returns its notices."""
        placed = [dataclasses.replace(word, sequence=sequence, line=line) for line, word in enumerate(words, 1)]
        self.words += placed
        return [word.as_notice() for word in placed]

    def numbers(self, sequence: int, moment: float) -> dict[int, str]:
        """After all deltas up to this position, at a moment: latest by (sequence, line) whose moment has come."""
        found = dict(self.base)
        for word in sorted(self.words, key=lambda word: (word.sequence, word.line)):
            if word.sequence > sequence or (word.effective_at or 0) > moment:
                continue
            for tn in range(word.tn, word.tn_to + 1):
                if word.kind == "return":
                    found.pop(tn, None)
                else:
                    assert word.recipient is not None
                    found[tn] = word.recipient
        return found


def port(tn: int, recipient: str = "1403", effective_at: int | None = None, tn_to: int | None = None) -> Word:
    return Word(0, 0, "port", tn, tn_to or tn, recipient, effective_at)


def correct(tn: int, recipient: str = "1403", effective_at: int | None = None, tn_to: int | None = None) -> Word:
    return Word(0, 0, "correct", tn, tn_to or tn, recipient, effective_at)


def back(tn: int, effective_at: int | None = None, tn_to: int | None = None) -> Word:
    return Word(0, 0, "return", tn, tn_to or tn, None, effective_at)


CHANGES = (JournalKind.PORT, JournalKind.RETURN, JournalKind.CORRECT)


def changes_by_place(journal: list[JournalEntry]) -> dict[tuple[int, int], int]:
    """How often the notice of each sequence and line is among the entries that change numbers."""
    found: dict[tuple[int, int], int] = {}
    for entry in journal:
        if entry.kind in CHANGES:
            assert entry.sequence is not None
            assert entry.line is not None
            place = entry.sequence, entry.line
            found[place] = found.get(place, 0) + 1
    return found


def wait_for_ack(exchange: Exchange, name: str, result: str, seconds: float = 20) -> None:
    """Until the sender reads this result; the process's log is told if it does not come."""
    until = time.monotonic() + seconds
    while exchange.acked(name) != result:
        log = exchange.log.read_text() if exchange.log.exists() else ""
        assert time.monotonic() < until, f"{name}: {exchange.acked(name)}, not {result} within {seconds} s\n{log}"
        time.sleep(0.01)
