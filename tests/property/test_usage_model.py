"""The ledger against a plain dict: adds, savings, failures and reopenings of two writers, in any order."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from lookupd import ledger as ledgers
from lookupd.ledger import Key, Ledger, LedgerDamaged, LedgerError, put_aside, read

COLUMNS = ("client", "result")
WRITERS = st.integers(0, 1)
KEYS = st.tuples(st.sampled_from(["switches", "noc", "=1", "行政院"]), st.sampled_from(["ported", "other"]))


class Failing(sqlite3.Connection):
    """A disk that fails at a word of the conversation: before what it asks for is done, or after."""

    fails_at = ""
    is_after = False

    def execute(self, sql: str, *arguments: object) -> sqlite3.Cursor:  # type: ignore[override]
        self._fail(sql, False)
        found = super().execute(sql, *arguments)  # type: ignore[arg-type]
        self._fail(sql, True)
        return found

    def executemany(self, sql: str, *arguments: object) -> sqlite3.Cursor:  # type: ignore[override]
        self._fail(sql, False)
        found = super().executemany(sql, *arguments)  # type: ignore[arg-type]
        self._fail(sql, True)
        return found

    def __exit__(self, *error: object) -> bool:  # type: ignore[override]
        if error[0] is None:
            self._fail("COMMIT", False)
        result = super().__exit__(*error)  # type: ignore[arg-type]
        if error[0] is None:
            self._fail("COMMIT", True)
        return result

    def _fail(self, sql: str, is_after: bool) -> None:
        if Failing.fails_at and sql.startswith(Failing.fails_at) and Failing.is_after is is_after:
            raise sqlite3.OperationalError("disk I/O error")


class LedgerMachine(RuleBasedStateMachine):
    """What was saved is what was added, less what is told to be unsaved: never twice, never lost."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.file = self.folder / "usage" / "counts.sqlite"
        self.writers = [self.open(), self.open()]
        self.added: Counter[tuple[int, Key]] = Counter()
        self.patch = pytest.MonkeyPatch()
        connect = sqlite3.connect
        self.patch.setattr(ledgers.sqlite3, "connect", lambda *a, **k: connect(*a, factory=Failing, **k))

    def teardown(self) -> None:
        self.patch.undo()
        shutil.rmtree(self.folder)

    def open(self) -> Ledger:
        return Ledger(self.file, COLUMNS)

    @rule(writer=WRITERS, hour=st.integers(0, 3), key=KEYS, count=st.integers(1, 10**12))
    def add(self, writer: int, hour: int, key: Key, count: int) -> None:
        assert self.writers[writer].add(hour, key, count)
        self.added[hour, key] += count

    @rule(writer=WRITERS)
    def save(self, writer: int) -> None:
        self.writers[writer].save()
        assert self.writers[writer].unsaved == 0

    @rule(
        writer=WRITERS,
        at=st.sampled_from(
            ["PRAGMA", "BEGIN", "CREATE", "SELECT", "INSERT INTO counts", "INSERT INTO saves", "COMMIT"]
        ),
        is_after=st.booleans(),
    )
    def fail_to_save(self, writer: int, at: str, is_after: bool) -> None:
        """The commit may be done although it is told to have failed."""
        with failing(at, is_after), contextlib.suppress(LedgerError):
            self.writers[writer].save()

    @rule(writer=WRITERS)
    def reopen(self, writer: int) -> None:
        """A process that ends in good order, and the next one."""
        self.writers[writer].save()
        self.writers[writer] = self.open()

    @rule(writer=WRITERS)
    def die(self, writer: int) -> None:
        """A process that is killed: what it had not saved is gone, and nothing else."""
        ledger = self.writers[writer]
        ledger._saving, saving = Counter(), ledger._saving
        lost = ledger.waiting()
        if saving:  # it may have been saved
            ledger._saving = saving
            ledger._waiting = Counter()
            ledger.save()
        self.added -= lost
        self.writers[writer] = self.open()

    @rule(writer=WRITERS, first_hour=st.integers(0, 2))
    def prune(self, writer: int, first_hour: int) -> None:
        for each in self.writers:
            each.save()  # else the file alone knows what it has of it
        self.writers[writer].prune(first_hour)
        self.added = Counter({(hour, key): count for (hour, key), count in self.added.items() if hour >= first_hour})

    def waiting(self) -> Counter[tuple[int, Key]]:
        return self.writers[0].waiting() + self.writers[1].waiting()

    @invariant()
    def nothing_is_lost_or_counted_twice(self) -> None:
        if any(writer._saving for writer in self.writers):
            return  # whether it is in the file is decided by the next saving
        assert self.saved() + self.waiting() == self.added

    def saved(self) -> Counter[tuple[int, Key]]:
        if not self.file.exists() or not self.file.stat().st_size:
            return Counter()
        return Counter({(hour, key): count for hour, key, count in read(self.file, 0, 10)})


@contextlib.contextmanager
def failing(at: str, is_after: bool) -> Iterator[None]:
    Failing.fails_at, Failing.is_after = at, is_after
    try:
        yield
    finally:
        Failing.fails_at = ""


LedgerMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestLedger = LedgerMachine.TestCase


def test_damaged_file_is_put_aside_by_one_of_two_writers(tmp_path: Path) -> None:
    file = tmp_path / "usage" / "counts.sqlite"
    ours, theirs = Ledger(file, COLUMNS), Ledger(file, COLUMNS)
    for writer in (ours, theirs):
        writer.add(7, ("switches", "ported"), 1)
        writer.save()
        writer.add(7, ("switches", "ported"), 10)
    file.write_bytes(b"garbage " * 1000)
    for writer in (ours, theirs):
        with pytest.raises(LedgerDamaged):
            writer.save()
    assert ours.set_aside(1_790_000_000) == file.with_name("counts.sqlite.damaged-20260921T141320Z")
    assert ours.save()
    assert theirs.set_aside(1_790_000_001) is None
    assert not theirs.save()
    assert list(read(file, 0, 10)) == [(7, ("switches", "ported"), 20)]
    assert len(put_aside(file)) == 1
