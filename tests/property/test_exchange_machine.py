"""The exchange against a plain dict: deltas in any order, gaps, moments, clocks that jump, restarts, and people.

The model is the rule of state alone: of the notices up to the feed's position whose moment has come, the latest by
sequence and line holds for a number.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from loader.apply import apply_delta
from loader.files import identify
from loader.steady import acceptance_file
from loader.sync import clock_file
from lookupd.model import JournalEntry, UnixSeconds
from lookupd.store.reader import Reader
from lookupd.store.verify import verify
from lookupd.store.writer import Writer
from tests.conftest import PLAN, Silent, Workbench
from tests.exchange import CHANGES, T0, Machine, Model, Rig, Word, at, delta_name, numbers_of
from tests.faults.test_kill import digest_of, snapshot_text

BASE = {886912345994 + n: ("1401", "1402", "1403")[n % 3] for n in range(0, 14, 2)}
FIRST = 886912345996
GAP_WAIT = 600
Place = tuple[int, int]

words = st.builds(
    lambda kind, offset, length, code, moment: (kind, FIRST + offset, FIRST + offset + length, code, moment),
    st.sampled_from(["port", "port", "port", "return", "correct"]),
    st.integers(0, 7),  # around the bound of two blocks
    st.sampled_from([0, 0, 1, 4, 12]),
    st.sampled_from(["1401", "1402", "1403"]),
    st.sampled_from([None, None, None, -50, 1, 5, 30, 31, 200, 400, 5000]),
)


class ExchangeMachine(RuleBasedStateMachine):
    """One replica, its sender, and the person at the keyboard."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
        self.runner = asyncio.Runner()
        self.machine = Machine()
        self.model = Model(BASE)
        self.passed = 0
        self.newest = 1
        self.lying: set[int] = set()  # good deltas at the source
        self.held: list[int] = []  # made, and not published, or published with a wrong byte
        self.snapshots = {1}
        self.position = 0
        self.come: set[Place] = set()
        bench = Workbench(Path(self.folder.name))
        bench.load_tables()
        guard = "[limits]\nmoved_share = 1.0\nmoved_free = 100000\n"
        self.rig = Rig(bench, guard, machine=self.machine, gap_wait=f"{GAP_WAIT}s")

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(work)

    @property
    def true_now(self) -> int:
        """What the time really is, whatever somebody set the replica's clock to."""
        return T0 + self.passed

    @initialize()
    def begin(self) -> None:
        self.rig.snapshot(1, snapshot_text(BASE), created_at=at(T0))
        self.run(self.rig.start())
        self.one_round()

    # -- the sender --------------------------------------------------------------------------------------

    @rule(drafts=st.lists(words, min_size=1, max_size=4), then=st.sampled_from(["round", "round", "lies", "late"]))
    def make_delta(self, drafts: list[tuple[str, int, int, str, int | None]], then: str) -> None:
        self.newest += 1
        made = [
            Word(0, 0, kind, tn, tn_to, None if kind == "return" else code, moment and self.true_now + moment)
            for kind, tn, tn_to, code, moment in drafts
        ]
        self.model.say(self.newest, *made)
        if then == "late":
            self.held.append(self.newest)
        else:
            self.publish(self.newest)
        if then == "round":
            self.one_round()

    def publish(self, sequence: int) -> None:
        said = [word.as_notice() for word in self.model.words if word.sequence == sequence]
        self.rig.delta(sequence, *said)
        self.lying.add(sequence)

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 100))
    def publish_late(self, which: int) -> None:
        self.publish(self.held.pop(which % len(self.held)))

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 100), byte=st.integers(0, 200))
    def publish_damaged(self, which: int, byte: int) -> None:
        """It stays among those that are kept back: the good one comes later, in its place."""
        sequence = self.held[which % len(self.held)]
        if sequence <= self.position:
            return
        said = [word.as_notice() for word in self.model.words if word.sequence == sequence]
        path = self.rig.delta(sequence, *said)
        data = bytearray(path.read_bytes())
        data[byte % len(data)] ^= 1
        path.write_bytes(data)

    @precondition(lambda self: not any((word.effective_at or 0) > self.true_now for word in self.model.words))
    @rule()
    def publish_snapshot(self) -> None:
        """Only when nothing waits: a snapshot does not tell what is agreed for later."""
        if self.newest not in self.snapshots:
            text = snapshot_text(self.model.numbers(self.newest, self.true_now))
            if text.count("\n") > 1:
                self.rig.snapshot(self.newest, text, created_at=at(self.true_now))
                self.snapshots.add(self.newest)

    # -- time --------------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([1, 4, 30, 170, 400, 700, 5000]))
    def time_passes(self, seconds: int) -> None:
        self.passed += seconds
        self.machine.advance(seconds)

    @rule(seconds=st.sampled_from([180, -180, 600, -600, 86_400]))
    def somebody_sets_the_clock(self, seconds: int) -> None:
        self.machine.step(seconds)

    @rule()
    def somebody_takes_the_jump_over(self) -> None:
        acceptance_file(clock_file(self.rig.sync.config)).write_text("chen: it is right\n")
        assert self.rig.sync.clock.take_acceptance()
        assert self.rig.sync.clock.refused_seconds == 0

    # -- the exchange ------------------------------------------------------------------------------------

    @rule()
    def one_round(self) -> None:
        self.run(self.rig.round())
        before = self.position
        self.position = self.read(lambda reader: reader.state.feeds["main"].sequence)
        reached = self.reach(before)
        if self.position > reached or before == 0:
            self.check_bridge(reached)
        elif self.rig.main.trouble is None or self.rig.main.trouble.kind == "gap":
            assert self.position == reached
        for sequence in range(before + 1, self.position + 1):
            if self.position == reached and before:
                assert self.rig.acked(delta_name(sequence)) == "applied"
        self.time_has_come(self.rig.sync.clock.now() // 1000)
        self.check()

    def reach(self, start: int) -> int:
        """How far the deltas that lie there lead from a position."""
        end = start
        while end + 1 in self.lying:
            end += 1
        return end

    def check_bridge(self, reached: int) -> None:
        """The feed jumped: by a snapshot that lies there, and on from it."""
        taken = [at for at in self.snapshots if reached < at <= self.position and self.reach(at) >= self.position]
        assert taken, (reached, self.position)
        contained = max(taken)
        self.come |= {(word.sequence, word.line) for word in self.model.words if word.sequence <= contained}

    def time_has_come(self, now: int) -> None:
        self.come |= {
            (word.sequence, word.line)
            for word in self.model.words
            if word.sequence <= self.position and (word.effective_at or 0) <= now
        }

    @rule(off=st.sampled_from([None, None, 20, 3000]))
    def restart(self, off: int | None) -> None:
        """off: the machine too, for so many seconds."""
        self.run(self.rig.stop())
        if off is not None:
            self.passed += off
            self.machine.boot(off)
        self.run(self.rig.start())

    @rule()
    def load_by_hand(self) -> None:
        """A person ends the exchange, loads the next delta by the wall clock's time, and starts it again."""
        sequence = self.position + 1
        if sequence not in self.lying:
            return
        self.run(self.rig.stop())
        now = UnixSeconds(int(self.machine.wall))
        with Writer(self.rig.bench.store) as writer:
            file = identify(self.rig.source / delta_name(sequence), "delta", "main")
            assert apply_delta(writer, file, PLAN, now, Silent()).result == "applied"
        self.position = sequence
        self.come |= {
            (word.sequence, word.line)
            for word in self.model.words
            if word.sequence == sequence and (word.effective_at or 0) <= now
        }
        self.run(self.rig.start())
        self.check()

    # -- what must hold ----------------------------------------------------------------------------------

    def read(self, work: Any) -> Any:
        return self.run(self.rig.sync.store.read(work))

    def expected(self) -> dict[int, str]:
        holds = Model(BASE)
        for word in self.model.words:
            if word.sequence <= self.position and (word.sequence, word.line) in self.come:
                holds.words.append(Word(word.sequence, word.line, word.kind, word.tn, word.tn_to, word.recipient))
        return holds.numbers(self.position, 0)

    def check(self) -> None:
        expected = self.expected()
        digest = digest_of(expected)

        def look(reader: Reader) -> None:
            assert reader.state.feeds["main"].sequence == self.position
            assert numbers_of(reader) == expected
            assert reader.state.digest == digest
            assert verify(reader).problems == []
            waiting = {(waits.sequence, waits.line) for waits in reader.pending()}
            assert waiting == {
                place
                for word in self.model.words
                if (place := (word.sequence, word.line)) not in self.come and word.sequence <= self.position
            }

        self.read(look)

    def teardown(self) -> None:
        try:
            if self.position:
                self.end()
        finally:
            if hasattr(self.rig, "sync"):
                self.run(self.rig.stop())
            self.runner.close()
            self.folder.cleanup()

    def end(self) -> None:
        """The rest comes, and time passes: every notice holds that is the latest of its number."""
        while self.held:
            self.publish(self.held.pop())
        for _ in range(4):
            self.time_passes(5000)
            self.one_round()
        assert self.position == self.newest
        assert self.expected() == self.model.numbers(self.newest, self.true_now + 10**6)
        journal: list[JournalEntry] = self.run(self.rig.journal())
        check_once(journal)
        assert self.rig.main.trouble is None


def check_once(journal: list[JournalEntry]) -> None:
    """No number was changed twice by one notice; one that was partly overtaken stands there in parts."""
    seen: dict[Place, set[int]] = {}
    for entry in journal:
        if entry.kind in CHANGES:
            assert entry.sequence is not None
            assert entry.line is not None
            assert entry.tn is not None
            assert entry.tn_to is not None
            numbers = set(range(entry.tn, entry.tn_to + 1))
            known = seen.setdefault((entry.sequence, entry.line), set())
            assert not known & numbers, (entry.sequence, entry.line)
            known |= numbers


TestExchange = ExchangeMachine.TestCase
TestExchange.settings = settings(
    max_examples=180, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
