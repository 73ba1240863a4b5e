"""`lookupd-loader sync` killed at every step: nothing confirmed is lost, nothing is applied twice, answers go on."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from lookupd.store.reader import Reader
from lookupd.store.verify import verify
from tests.conftest import Workbench, wait_until
from tests.exchange import (
    Exchange,
    Model,
    Word,
    back,
    changes_by_place,
    correct,
    delta_name,
    numbers_of,
    port,
    wait_for_ack,
)
from tests.faults.test_kill import Watch, digest_of, snapshot_text, state_of, watched

SEED = 20261122
BASE = {886912345000 + n: ("1401", "1402", "1403")[n % 3] for n in range(0, 40, 2)}
WATCHED = tuple(range(886912345000, 886912345040))
WAITING = tuple(range(886930000000, 886930000020))
"""Numbers of which only notices with an agreed moment speak: the watching reader does not look at them."""


@dataclass
class Ordeal:
    """An exchange that is killed again and again, and what its sender was told."""

    exchange: Exchange
    watch: Watch
    chance: random.Random
    model: Model
    published: int = 1
    told: dict[str, tuple[str, str]] = field(default_factory=dict)
    """By file: received_at and confirmed_at, from the first acknowledgement that was seen."""
    outcomes: Counter[str] = field(default_factory=Counter)
    moments: set[int] = field(default_factory=set)

    @property
    def spool(self) -> Path:
        return self.exchange.bench.store / "spool" / "main"

    def publish(self, deltas: int) -> None:
        for _ in range(deltas):
            self.published += 1
            words = [self.word() for _ in range(self.chance.randint(1, 4))]
            self.exchange.delta(self.published, *self.model.say(self.published, *words))
        self.expect()

    def word(self) -> Word:
        chance = self.chance
        if chance.random() < 0.15:
            moment = int(time.time()) + chance.randint(1, 4)
            self.moments.add(moment)
            tn = chance.choice(WAITING)
            return back(tn, moment) if chance.random() < 0.3 else port(tn, chance.choice(("1401", "1402")), moment)
        tn = chance.choice(WATCHED)
        code = chance.choice(("1401", "1402", "1403"))
        match chance.randrange(4):
            case 0:
                return back(tn)
            case 1:
                return correct(tn, code)
            case 2:
                return port(tn, code, tn_to=min(tn + chance.randint(1, 12), WATCHED[-1]))
        return port(tn, code)

    def position(self) -> int:
        with Reader(self.watch.path, environment=self.watch.environment) as reader:
            return reader.state.feeds["main"].sequence

    def expect(self) -> None:
        """The watching reader may see any state between what is applied and what is published, no other."""
        self.watch.expect(*(self.model.numbers(at, 0) for at in range(self.position(), self.published + 1)))

    def allowed_digests(self, position: int) -> set[int]:
        return {digest_of(self.model.numbers(position, moment)) for moment in (0, *self.moments)}

    def note_acks(self) -> None:
        """Read every acknowledgement, at the source and in the spool: what was said once is never taken back."""
        for folder in (self.exchange.source, self.spool / "acks"):
            for path in folder.glob("delta-*.ack.json"):
                ack = json.loads(path.read_text())
                assert ack["result"] in {"confirmed", "applied"}, ack
                said = ack["received_at"], ack["confirmed_at"]
                assert self.told.setdefault(ack_of(path), said) == said, f"seed {SEED}: {path}"
                if ack["result"] == "applied":
                    assert said[0] <= said[1] <= ack["visible_at"], f"seed {SEED}: {ack}"

    def check(self) -> None:
        """After a kill: a whole state, with every confirmed delta applied or still in the spool."""
        position = self.position()
        _, digest = state_of(self.watch)
        assert digest in self.allowed_digests(position), f"seed {SEED}, at {position}, {self.outcomes}"
        self.note_acks()
        for name in self.told:
            sequence = int(name.split("-")[2].split(".")[0])
            assert sequence <= position or (self.spool / name).exists(), f"seed {SEED}: {name} is lost"
        assert self.watch.troubles == []

    def stage(self) -> str:
        """How far the newest delta has come."""
        name = delta_name(self.published)
        kept = self.spool / "acks" / (name + ".ack.json")
        said = json.loads(kept.read_text())["result"] if kept.exists() else None
        if self.position() < self.published:
            if said == "confirmed":
                return "confirmed"
            return "fetched" if (self.spool / name).exists() else "before"
        return "acknowledged" if self.exchange.acked(name) == "applied" else "committed"


def ack_of(path: Path) -> str:
    return path.name.removesuffix(".ack.json")


# -- when to kill ----------------------------------------------------------------------------------------

Trigger = Callable[[Ordeal], Callable[[], bool]]


def when_there(place: Callable[[Ordeal, str], Path]) -> Trigger:
    """A file of the newest delta appears, or one of the oldest that lacks it."""

    def prepare(ordeal: Ordeal) -> Callable[[], bool]:
        candidates = [place(ordeal, delta_name(at)) for at in range(ordeal.position() + 1, ordeal.published + 1)]
        missing = [path for path in candidates if not path.exists()]
        return ordeal.chance.choice((missing[0], missing[-1])).exists

    return prepare


def when_committed(ordeal: Ordeal) -> Callable[[], bool]:
    serial = state_of(ordeal.watch)[0]
    return lambda: state_of(ordeal.watch)[0] > serial


def when_says(folder: Callable[[Ordeal], Path], result: str) -> Trigger:
    def prepare(ordeal: Ordeal) -> Callable[[], bool]:
        path = folder(ordeal) / (delta_name(ordeal.published) + ".ack.json")

        def says() -> bool:
            try:
                return result.encode() in path.read_bytes()
            except FileNotFoundError:
                return False

        return says

    return prepare


def after_a_while(ordeal: Ordeal) -> Callable[[], bool]:
    until = time.monotonic() + ordeal.chance.uniform(0.15, 0.9)
    return lambda: time.monotonic() > until


TRIGGERS: dict[str, Trigger] = {
    "data arrives": when_there(lambda ordeal, name: ordeal.spool / name),
    "manifest arrives": when_there(lambda ordeal, name: ordeal.spool / (name + ".json")),
    "confirmed on disk": when_there(lambda ordeal, name: ordeal.spool / "acks" / (name + ".ack.json")),
    "confirmed at the source": when_there(lambda ordeal, name: ordeal.exchange.source / (name + ".ack.json")),
    "committed": when_committed,
    "applied on disk": when_says(lambda ordeal: ordeal.spool / "acks", '"result":"applied"'),
    "applied at the source": when_says(lambda ordeal: ordeal.exchange.source, '"result":"applied"'),
    "any moment": after_a_while,
}
KILLS_EACH = 7


def kill_when(process: subprocess.Popen[str], happened: Callable[[], bool], log: Path) -> bool:
    """Kill -9 the moment it happens; False if it did not in time, so that the kill came anywhere."""
    until = time.monotonic() + 4
    found = False
    while not found and time.monotonic() < until and process.poll() is None:
        found = happened()
        if not found:
            time.sleep(0.0003)
    process.kill()
    assert process.wait(10) == -signal.SIGKILL, log.read_text()
    return found


def test_exchange_killed_at_every_step_loses_nothing_and_applies_nothing_twice(workbench: Workbench) -> None:
    chance = random.Random(SEED)
    workbench.load_tables()
    exchange = Exchange(workbench)
    workbench.snapshot(snapshot_text(BASE))
    turns = [name for name in TRIGGERS for _ in range(KILLS_EACH)]
    chance.shuffle(turns)
    in_time = 0
    with watched(workbench.store, WATCHED, BASE) as watch:
        ordeal = Ordeal(exchange, watch, chance, Model(BASE))
        for turn in turns:
            ordeal.publish(chance.randint(1, 3))
            happened = TRIGGERS[turn](ordeal)
            asked = watch.batches
            in_time += kill_when(exchange.start(), happened, exchange.log)
            ordeal.outcomes[ordeal.stage()] += 1
            ordeal.check()
            assert watch.batches > asked
        assert len(turns) >= 50
        assert in_time >= 0.8 * len(turns), f"seed {SEED}: {in_time} of {len(turns)}, {ordeal.outcomes}"
        for stage in ("fetched", "confirmed", "committed", "acknowledged"):
            assert ordeal.outcomes[stage] >= 2, f"seed {SEED}: {ordeal.outcomes}"
        finish(ordeal)


def finish(ordeal: Ordeal) -> None:
    """Nobody kills it any more: all is applied, all is acknowledged, and the history shows each notice once."""
    exchange = ordeal.exchange
    ordeal.publish(1)
    process = exchange.start()
    try:
        wait_for_ack(exchange, delta_name(ordeal.published), "applied")
        time.sleep(max(0.0, max(ordeal.moments) + 0.3 - time.time()))
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0, exchange.log.read_text()
    ordeal.check()
    names = [delta_name(sequence) for sequence in range(2, ordeal.published + 1)]
    results = {name: exchange.acked(name) for name in names}
    assert set(results.values()) == {"applied"}, f"seed {SEED}: {results}"
    with Reader(ordeal.watch.path, environment=ordeal.watch.environment) as reader:
        expected = ordeal.model.numbers(ordeal.published, time.time())
        assert numbers_of(reader) == expected, f"seed {SEED}"
        assert reader.state.digest == digest_of(expected)
        assert reader.pending() == []
        assert verify(reader).problems == []
        entries = [entry for _, entry, _ in reader.journal()]
        receipts = [receipt for _, receipt in reader.receipts()]
    places = changes_by_place(entries)
    spoken = {(word.sequence, word.line) for word in ordeal.model.words if word.effective_at is None}
    assert places.keys() >= spoken, f"seed {SEED}: {spoken - places.keys()} are lost"
    assert set(places.values()) == {1}, f"seed {SEED}: {[place for place, times in places.items() if times > 1]}"
    taken = [receipt.sequence for receipt in receipts if receipt.type == "delta"]
    assert taken == list(range(2, ordeal.published + 1)), f"seed {SEED}"
    assert all(receipt.visible_at is not None for receipt in receipts)
    assert process.returncode == 0


@pytest.mark.parametrize("turn", range(4))
def test_first_snapshot_killed_on_its_way_is_loaded_by_the_next_start(workbench: Workbench, turn: int) -> None:
    numbers = dict.fromkeys(range(886912000000, 886912100000, 2), "1402")
    workbench.load_tables()
    exchange = Exchange(workbench)
    exchange.snapshot(1, snapshot_text(numbers))
    spool = workbench.store / "spool" / "main"
    triggers: list[Callable[[], Any]] = [
        lambda: list(spool.glob("snapshot*")),
        (spool / "snapshot-main-1.csv.json").exists,
        lambda: exchange.log.exists() and "snapshot_applied" in exchange.log.read_text(),
        (spool / "acks").exists,
    ]
    kill_when(exchange.start(), lambda: bool(triggers[turn]()), exchange.log)
    before = exchange.log.read_text()
    process = exchange.start()
    try:
        wait_until(lambda: "syncing" in exchange.log.read_text()[len(before) :])  # else SIGTERM would be a kill too
        wait_for_ack(exchange, "snapshot-main-1.csv", "applied")
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert workbench.state()[1] == digest_of(numbers)
    with workbench.reader() as reader:
        assert [receipt.type for _, receipt in reader.receipts()] == ["snapshot"]
        assert verify(reader).problems == []
