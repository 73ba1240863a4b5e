"""Stories told in part by a feed and in part by hand: a list of what they leave makes another replica equal, and
lifting all of it leaves the store that there was."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loader.formats.lookupd import parse_notice
from loader.restrict import Forbidden, restrict_by_hand
from loader.restriction_list import place_list, read_list, write_list
from lookupd.imsis import Imsis
from lookupd.model import InForce, JournalKind, Notice, NoticeKind, RestrictionTerms, UnixSeconds
from lookupd.store.restrictions import imsi_key, in_force
from lookupd.store.verify import verify
from lookupd.store.writer import Writer
from tests.conftest import PLAN, Workbench
from tests.property.test_restriction_model import BEGIN, DAY, NUMBERS, Placed, days, follow, line_of, steps, told

WORDS = "Wu Mei: by hand"
IMSIS = ("466011234567890", "466019999999999", "466020000000000")

stories = st.lists(st.tuples(steps, st.booleans(), st.integers(0, 400)), min_size=1, max_size=10)


class Replica:
    """A store, what the rules make of its story, and a clock."""

    def __init__(self, folder: Path) -> None:
        self.bench = Workbench(folder)
        folder.mkdir()
        self.bench.load_tables()
        self.bench.snapshot(now=BEGIN)
        self.placed: Placed = {}
        self.now, self.sequence = BEGIN, 1

    def tell(self, step: dict[str, Any], by_hand: bool, days_on: int) -> None:
        """One step, at its time; what the rules forbid raises by hand, and changes nothing either way."""
        self.now += days_on * DAY
        allowed = "target" not in step or follow(self.placed, step, self.now)
        if by_hand and "target" in step:
            before = self.bench.state()
            if allowed:
                self._by_hand(step)
            else:
                with pytest.raises(Forbidden):
                    self._by_hand(step)
                assert self.bench.state() == before
            return
        self.sequence += 1
        if step["kind"] == "snapshot":
            self.bench.snapshot("tn,network_code\n886912345679,1402\n", self.sequence, self.now)
        else:
            self.bench.delta(line_of(step, self.now), sequence=self.sequence, now=self.now)

    def _by_hand(self, step: dict[str, Any]) -> None:
        notice = parse_notice(msgspec.json.encode(line_of(step, self.now)))
        with Writer(self.bench.store) as writer, writer.change(UnixSeconds(self.now)) as change:
            restrict_by_hand(change, notice, WORDS)

    def lift_all(self) -> None:
        with self.bench.reader() as reader:
            found = list(reader.every_restriction())
        with Writer(self.bench.store) as writer, writer.change(UnixSeconds(self.now)) as change:
            for it in found:
                terms = RestrictionTerms(it.target, it.first, it.last, it.authority, it.case)
                ends = (0, 0) if it.target == "imsi" else (it.first, it.last)
                now = UnixSeconds(self.now)
                lift = Notice(NoticeKind.LIFT, *ends, None, None, None, now, None, None, terms)  # type: ignore[arg-type]
                restrict_by_hand(change, lift, WORDS)


def restrictions_of(bench: Workbench) -> list[Any]:
    with bench.reader() as reader:
        assert verify(reader).problems == []
        return list(reader.every_restriction())


def check(replica: Replica, moment: int) -> None:
    """Numbers and IMSIs are told as the rules have it, at a moment of whichever time."""
    now = UnixSeconds(moment)
    with replica.bench.reader() as reader:
        for number in NUMBERS:
            assert in_force(reader.restrictions(number), now) == told(replica.placed, "number", number, now)  # type: ignore[arg-type]
        imsis = Imsis()
        for imsi in IMSIS:
            found: InForce | None = in_force(imsis._placed(reader, imsi_key(imsi)), now)
            assert found == told(replica.placed, "imsi", imsi_key(imsi), now), imsi
        by_hand = [entry for _, entry, _ in reader.journal() if entry.reason == WORDS]
        assert all(entry.restriction is not None for entry in by_hand)
        assert JournalKind.REFUSED not in {entry.kind for entry in by_hand}


@settings(max_examples=60, deadline=None)
@given(story=stories, moment=days)
def test_list_of_one_replica_makes_another_equal_and_lifting_all_undoes_it(
    story: list[tuple[dict[str, Any], bool, int]], moment: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        here, there = Replica(Path(folder) / "a"), Replica(Path(folder) / "b")
        for step, by_hand, days_on in story:
            here.tell(step, by_hand, days_on)
            if "target" not in step:  # routes come to both by the feed
                there.tell(step, False, days_on)
        check(here, BEGIN + moment * DAY)
        free = there.bench.state()[1]
        path = Path(folder) / "list.csv"
        count = write_list(path, restrictions_of(here.bench))
        listed = read_list(path, PLAN)
        with Writer(there.bench.store) as writer, writer.change(UnixSeconds(there.now)) as change:
            assert place_list(change, path, listed, WORDS).placed == count == len(here.placed)
        assert restrictions_of(there.bench) == restrictions_of(here.bench)
        assert there.bench.state()[1] == here.bench.state()[1]
        for replica in (here, there):
            replica.lift_all()
            assert restrictions_of(replica.bench) == []
            assert replica.bench.state()[1] == free
