"""`restrictions load` killed at any moment: the store has the whole list, or nothing of it."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
import time
from pathlib import Path

from lookupd.store.verify import verify
from tests.conftest import Workbench, run_cli
from tests.faults.test_kill import SEED, wait_for_lock

ROWS = 4_000
KILLS = 6
WHY = ("--why", "Wu Mei: a new replica")


def write_list(path: Path, case: str) -> Path:
    """Numbers one by one, every tenth row a range that reaches into two blocks, and IMSIs."""
    times = "stop,2026-01-01T00:00:00Z,2028-01-01T00:00:00Z,no"
    lines = ["tn,tn_to,imsi,imsi_to,authority,case,measure,from,until,extended"]
    for at in range(ROWS):
        first = 886912000900 + 997 * at
        if at % 10:
            lines.append(f"{first},{first + (200 if at % 10 == 1 else 0)},,,NPA,{case},{times}")
        else:
            lines.append(f",,{466010000000000 + at},{466010000000000 + at},NPA,{case},{times}")
    path.write_text("\n".join(lines) + "\n")
    return path


def start(bench: Workbench, path: Path) -> subprocess.Popen[bytes]:
    """The command, once it has the store."""
    command = [sys.executable, "-m", "loader.cli", "restrictions", "load", path, *WHY, "--store", bench.store]
    process = subprocess.Popen([*map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for_lock(process, bench.store)
    return process


def timed(bench: Workbench, path: Path) -> float:
    """How long it works when nobody kills it."""
    process, began = start(bench, path), time.monotonic()
    assert process.wait(60) == 0
    return time.monotonic() - began


def rows_of(bench: Workbench) -> int:
    """How many there are, in a store that is whole."""
    with bench.reader() as reader:
        report = verify(reader)
    assert report.problems == []
    return report.restrictions


def test_killed_load_of_a_list_places_all_of_it_or_nothing(loaded: Workbench) -> None:
    chance = random.Random(SEED)
    outcomes = {"before": 0, "after": 0}
    duration = timed(loaded, write_list(loaded.folder / "first.csv", "first"))
    for turn in itertools.count():
        if sum(outcomes.values()) == KILLS:
            break
        assert turn < 4 * KILLS, f"the command ends before it is killed: {outcomes}, {duration:.2f} s"
        path = write_list(loaded.folder / f"{turn}.csv", str(turn))
        before = rows_of(loaded)
        process = start(loaded, path)
        time.sleep(duration * (turn % KILLS + chance.random()) / KILLS)
        process.kill()
        killed = process.wait(30) < 0
        found = rows_of(loaded)
        assert found in {before, before + ROWS}, f"seed {SEED}, turn {turn}"
        if killed:
            outcomes["before" if found == before else "after"] += 1
        again = run_cli("loader.cli", "restrictions", "load", path, *WHY, "--store", loaded.store)
        assert (again.returncode, again.stderr) == (0, "")
        assert rows_of(loaded) == before + ROWS
    assert outcomes["before"] >= 1, outcomes
