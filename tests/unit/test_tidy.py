"""What leaves the spool, and what stays however old it is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from loader.formats.lookupd_steps import OwnFormat
from loader.tidy import tidy

OLD, NEW, BEFORE = 1_000, 3_000, 2_000
"""Times of files, and the moment before which they may go, in ns."""

STEPS = [f"snapshot-main-{n}.csv" for n in (1, 5, 9)] + [f"delta-main-{n}.ndjson" for n in range(2, 11)]


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    """Three snapshots and the deltas between them, a converted file and an acknowledgement of each; all old."""
    for step in STEPS:
        for path in (tmp_path / step, tmp_path / f"{step}.json", tmp_path / "converted" / step):
            put(path)
        put(tmp_path / "acks" / f"{step}.ack.json")
    return tmp_path


def put(path: Path, at: int = OLD) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("x")
    os.utime(path, ns=(at, at))


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_file() and not path.name.endswith(".json")}


def tidied(spool: Path, position: int, acks_before: int = 0) -> list[str]:
    return tidy(spool, OwnFormat("main", signed=False), position, BEFORE, acks_before)


def test_all_from_the_newest_applied_snapshot_on_stays_however_old(spool: Path) -> None:
    tidied(spool, position=7)
    kept = {"snapshot-main-5.csv", "snapshot-main-9.csv", *(f"delta-main-{n}.ndjson" for n in range(5, 11))}
    assert left(spool) == kept
    assert left(spool / "converted") == kept
    assert len(list((spool / "acks").iterdir())) == len(STEPS)


def test_files_younger_than_the_bound_stay(spool: Path) -> None:
    for path in spool.glob("delta-main-2.ndjson*"):
        os.utime(path, ns=(NEW, NEW))
    tidied(spool, position=7)
    assert "delta-main-2.ndjson" in left(spool)
    assert "delta-main-3.ndjson" not in left(spool)


def test_nothing_goes_before_a_snapshot_was_applied(spool: Path) -> None:
    assert tidied(spool, position=0) == []
    assert left(spool) == set(STEPS)


def test_what_was_begun_and_forgotten_goes(spool: Path) -> None:
    put(spool / "delta-main-11.ndjson.part")
    put(spool / "delta-main-12.ndjson.part", NEW)
    assert tidied(spool, position=0) == ["delta-main-11.ndjson.part"]


def test_acknowledgements_stay_as_long_as_the_history(spool: Path) -> None:
    put(spool / "acks" / "delta-main-99.ndjson.ack.json", NEW)
    tidied(spool, position=0, acks_before=BEFORE)
    assert [path.name for path in (spool / "acks").iterdir()] == ["delta-main-99.ndjson.ack.json"]


def test_spool_that_is_not_there_is_no_trouble(tmp_path: Path) -> None:
    assert tidied(tmp_path / "none", position=7) == []
