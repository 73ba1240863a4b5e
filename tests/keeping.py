"""Stores with a past, and damage to them, for the tests of scrub, mend, backup and restore."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import lmdb

from lookupd.client import LookupClient
from lookupd.model import TN
from lookupd.store.schema import BLOCK_KEY
from lookupd.units import parse_time
from tests.conftest import Workbench

BLOCKS = (886912345, 886912346, 886923456, 886934000)
UNTOUCHED = 886988001
"""A block that only the snapshot fills."""

NOTIFIED = "2026-11-22T10:00:00+08:00"
FIRST_PORTED = "2026-03-01T09:00:00+08:00"

Known = tuple[str, str | None, str | None, int | None, int]
"""Network, routing number of its own, donor, ported_at, sequence."""


@dataclass
class Past:
    """A store, the files it was made from, and what it must hold: the model, made by plain assignment."""

    workbench: Workbench
    chance: random.Random
    model: dict[int, Known] = field(default_factory=dict)
    sequence: int = 0

    def snapshot(self) -> Path:
        """Numbers that are still the same keep the sequence they were last set by."""
        self.sequence += 1
        lines = ["tn,network_code,routing_number,donor,ported_at"]
        rows: dict[int, Known] = {}
        for block in (*BLOCKS, UNTOUCHED):
            for tn in range(block * 1000 + block % 3, block * 1000 + 1000, 7):
                code, own, donor = self.draw()
                known = self.model.get(tn)
                if known is not None and self.chance.random() < 0.7:
                    code, own, donor = known[:3]
                at = FIRST_PORTED if known is None or known[3] is not None else ""
                lines.append(f"{tn},{code},{own or ''},{donor or ''},{at}")
                row = (code, own, donor, int(parse_time(at)) if at else None)
                rows[tn] = (*row, known[4] if known is not None and known[:4] == row else self.sequence)
        self.model = rows
        text = "\n".join(lines) + "\n"
        self.workbench.snapshot(text, self.sequence)
        return self.workbench.folder / f"snapshot-main-{self.sequence}.csv"

    def deltas(self, count: int, notices: int = 30) -> list[Path]:
        """The paths of the deltas, which are applied."""
        return [self.delta(notices) for _ in range(count)]

    def delta(self, notices: int = 30) -> Path:
        self.sequence += 1
        made = [self.notice() for _ in range(notices)]
        self.workbench.delta(*made, sequence=self.sequence)
        return self.workbench.folder / f"delta-main-{self.sequence}.ndjson"

    def draw(self) -> tuple[str, str | None, str | None]:
        pick = self.chance.choice
        return pick(["1401", "1402", "1403"]), pick([None, None, "D9999", "D8888"]), pick([None, "1401", "1402"])

    def notice(self) -> dict[str, object]:
        kind = self.chance.choice(["port", "port", "return", "correct"])
        first = self.chance.choice(BLOCKS) * 1000 + self.chance.randrange(1000)
        last = min(first + self.chance.choice([0, 0, 0, 5, 120]), first // 1000 * 1000 + 999)
        code, own, donor = self.draw()
        for tn in range(first, last + 1):
            known = self.model.get(tn)
            if kind == "return":
                self.model.pop(tn, None)
            elif kind == "port":
                self.model[tn] = (code, own, donor, int(parse_time(NOTIFIED)), self.sequence)
            else:
                kept = donor or (known[2] if known else None)
                self.model[tn] = (code, own, kept, known[3] if known else None, self.sequence)
        told: dict[str, object] = {"kind": kind, "tn": str(first), "notified_at": NOTIFIED}
        if last > first:
            told["tn_to"] = str(last)
        if kind != "return":
            told |= {"recipient": code} | ({"routing_number": own} if own else {}) | ({"donor": donor} if donor else {})
        return told

    def check(self) -> None:
        """Every number of the blocks is what the model says."""
        with self.workbench.reader() as reader:
            for block in (*BLOCKS, UNTOUCHED):
                for tn in range(block * 1000, block * 1000 + 1000):
                    found = reader.ported(TN(tn))
                    known = found and (
                        found.network_code,
                        found.routing_number,
                        found.donor,
                        found.ported_at,
                        found.sequence,
                    )
                    assert known == self.model.get(tn), tn
            assert reader.state.ported == len(self.model)


def make_past(workbench: Workbench, seed: int, deltas: int = 3) -> Past:
    """Tables, a snapshot, deltas after it."""
    past = Past(workbench, random.Random(seed))
    workbench.load_tables()
    past.snapshot()
    past.deltas(deltas)
    return past


def flip(store: Path, database: str, block: int, at: int, mask: int = 0x01) -> None:
    """Turn a bit of a value past our own code, as a bad disk would."""
    environment = lmdb.open(str(store), map_size=1 << 30, max_dbs=16, lib_version=0)
    try:
        handle = environment.open_db(database.encode())
        with environment.begin(write=True, db=handle) as transaction:
            value = bytearray(transaction.get(BLOCK_KEY.pack(block)) or b"")
            value[at % len(value)] ^= mask
            assert transaction.put(BLOCK_KEY.pack(block), bytes(value))
    finally:
        environment.close()


def twin(workbench: Workbench, name: str) -> Workbench:
    """A copy of a store that nobody has open, in a folder of its own."""
    other = Workbench(workbench.folder / name)
    shutil.copytree(workbench.store, other.store)
    return other


@dataclass
class Asker:
    """Asks one number after another, all the time; every answer that is not from data is a trouble."""

    port: int
    numbers: tuple[str, ...]
    answers: int = 0
    serials: set[int] = field(default_factory=set)
    troubles: list[str] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        asyncio.run(self._ask())

    async def _ask(self) -> None:
        async with LookupClient([f"udp://127.0.0.1:{self.port}"], timeout=2) as client:
            while not self.stopping.is_set():
                try:
                    for answer in await client.query_many(self.numbers):
                        self.serials.add(answer.serial)
                        if answer.outcome not in {"ported", "not_ported", "not_allocated"}:
                            self.troubles.append(json.dumps([answer.number, answer.outcome]))
                    self.answers += 1
                except Exception as error:  # whatever it is, the test must fail with it
                    self.troubles.append(repr(error))
                await asyncio.sleep(0.002)


@contextmanager
def asked(port: int, numbers: tuple[str, ...]) -> Iterator[Asker]:
    """A daemon that is asked as long as the block runs, and never fails to answer."""
    asker = Asker(port, numbers)
    thread = threading.Thread(target=asker.run)
    thread.start()
    try:
        yield asker
    finally:
        asker.stopping.set()
        thread.join(30)
    assert asker.troubles == []
    assert asker.answers
