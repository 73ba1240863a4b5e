"""Counts that outlive the process."""

from __future__ import annotations

from pathlib import Path

import pytest

from lookupd.ledger import Ledger, LedgerDamaged, LedgerError, read

COLUMNS = ("client", "result")


def test_two_writers_of_one_file_are_summed(tmp_path: Path) -> None:
    file = tmp_path / "usage" / "counts.sqlite"
    ours, theirs = Ledger(file, COLUMNS), Ledger(file, COLUMNS)
    ours.add(7, ("switches", "ported"), 3)
    theirs.add(7, ("switches", "ported"), 4)
    theirs.add(8, ("noc", "other"), 1)
    ours.save()
    theirs.save()
    ours.save()
    assert sorted(read(file, 7, 9)) == [(7, ("switches", "ported"), 7), (8, ("noc", "other"), 1)]
    assert list(read(file, 8, 8)) == []


def test_what_cannot_be_saved_is_saved_with_what_comes_next(tmp_path: Path) -> None:
    folder = tmp_path / "usage"
    folder.write_text("a file is in the way")
    ledger = Ledger(folder / "counts.sqlite", COLUMNS)
    ledger.add(7, ("switches", "ported"), 3)
    with pytest.raises(LedgerError, match=r"counts\.sqlite"):
        ledger.save()
    assert ledger.unsaved == 3
    folder.unlink()
    ledger.add(7, ("switches", "ported"), 2)
    ledger.save()
    assert ledger.unsaved == 0
    assert list(read(ledger.file, 7, 8)) == [(7, ("switches", "ported"), 5)]


def test_file_is_for_its_owner_and_group(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "usage" / "counts.sqlite", COLUMNS)
    ledger.add(7, ("switches", "ported"), 1)
    ledger.save()
    assert (ledger.file.stat().st_mode & 0o027, ledger.file.parent.stat().st_mode & 0o027) == (0, 0)


def test_file_of_another_kind_is_not_written(tmp_path: Path) -> None:
    file = tmp_path / "counts.sqlite"
    ours, other = Ledger(file, COLUMNS), Ledger(file, ("server", "stage"))
    ours.add(7, ("switches", "ported"), 1)
    ours.save()
    other.add(7, ("a", "sent"), 1)
    with pytest.raises(LedgerDamaged, match="a ledger of something else"):
        other.save()
    assert list(read(file, 0, 8)) == [(7, ("switches", "ported"), 1)]


def test_pruned_hours_are_gone(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "usage" / "counts.sqlite", COLUMNS)
    for hour in range(3):
        ledger.add(hour, ("switches", "ported"), 1)
    ledger.save()
    ledger.prune(2)
    assert [hour for hour, *_ in read(ledger.file, 0, 9)] == [2]
