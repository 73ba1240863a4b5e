"""Backup and restore killed, out of disk, or fed with damaged files: nothing half is ever taken for whole."""

from __future__ import annotations

import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from loader.backup import PART, make_backup, read_manifest
from loader.restore import restore
from lookupd.errors import FeedError, StoreError
from lookupd.model import FeedPosition, JournalKind, UnixSeconds
from lookupd.store.bulk import replace_all
from lookupd.store.columns import Columns
from lookupd.store.copy import open_copy
from lookupd.store.reader import DEFAULT_MAP_SIZE, Reader
from lookupd.store.verify import verify
from lookupd.store.writer import Writer
from tests.conftest import Silent, Workbench, dump, run_cli
from tests.keeping import make_past
from tests.small_disk import fill, small_disk

SEED = 20261122
KILLS = 4
NOW = UnixSeconds(2_000_000_000)


def fill_store(workbench: Workbench, numbers: int) -> None:
    """A store large enough that a copy of it takes a while."""
    workbench.load_tables()
    tn = np.uint64(886912000000) + np.arange(numbers, dtype=np.uint64) * np.uint64(5)
    route = (np.arange(numbers) % 3 + 1).astype(np.uint16)
    columns = Columns(tn, route, route[::-1].copy(), np.full(numbers, 1_700_000_000, np.uint32))
    with Writer(workbench.store) as writer, writer.change(UnixSeconds(2)) as change:
        counts = replace_all(change, columns, 1)
        change.record(JournalKind.SNAPSHOT, counts, feed="main", sequence=1, from_empty=True)
        change.confirm("main", FeedPosition(1, "snapshot", "0" * 64, None, UnixSeconds(2)))


def start(*arguments: str | Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "loader.cli", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def wait_for(process: subprocess.Popen[bytes], condition: Callable[[], bool]) -> None:
    """What a command does before is only the start of a Python program."""
    until = time.monotonic() + 30
    while time.monotonic() < until and process.poll() is None and not condition():
        time.sleep(0.001)


def kill_spread(make: Callable[[], subprocess.Popen[bytes]], began: Callable[[], bool]) -> Iterator[bool]:
    """Kill one run after another, later and later in its course; whether it was still running."""
    chance = random.Random(SEED)
    process = make()
    wait_for(process, began)
    started = time.monotonic()
    assert process.wait(60) == 0
    duration = time.monotonic() - started
    yield False
    for turn in range(KILLS):
        process = make()
        wait_for(process, began)
        time.sleep(duration * (turn + chance.random()) / KILLS)
        process.kill()
        yield process.wait(30) == -signal.SIGKILL


# -- kill -9 -----------------------------------------------------------------------------------------------


def test_killed_backup_leaves_nothing_under_its_name_and_the_next_one_clears_up(workbench: Workbench) -> None:
    fill_store(workbench, 400_000)
    out = workbench.folder / "out"
    out.mkdir()
    killed = 0
    for was_killed in kill_spread(
        lambda: start("backup", "--out", out / "nightly", "--store", workbench.store),
        (out / f"nightly{PART}").exists,
    ):
        killed += was_killed
        if (out / "nightly").exists():
            read_manifest(out / "nightly")
            with open_copy(out / "nightly") as copy:
                assert verify(copy).problems == []
            shutil.rmtree(out / "nightly")
        else:
            assert was_killed
    assert killed >= 2
    (out / f"nightly{PART}").mkdir(exist_ok=True)
    (out / f"nightly{PART}" / "data.mdb").write_bytes(b"half")
    done = run_cli("loader.cli", "backup", "--out", out / "nightly", "--store", workbench.store)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"removed: nightly{PART}\n" in done.stdout
    assert [path.name for path in out.iterdir()] == ["nightly"]


def test_killed_restore_leaves_the_old_store_or_the_new_one(workbench: Workbench) -> None:
    fill_store(workbench, 400_000)
    with workbench.reader() as reader:
        made = Path(make_backup(reader, workbench.folder / "made", NOW, Silent()).path)
        digest = reader.state.digest
    killed = 0
    lock = workbench.store / "writer.lock"
    for was_killed in kill_spread(
        lambda: start("restore", made, "--store", workbench.store),
        lambda: lock.exists() and (workbench.store / "restore.part").exists(),
    ):
        killed += was_killed
        # In the millisecond of the exchange the store is closed: nobody opens it until it is restored again.
        closed = int((workbench.store / "data.length").read_text()) > (workbench.store / "data.mdb").stat().st_size
        assert was_killed or not closed
        if not closed:
            with workbench.reader() as reader:
                assert reader.state.digest == digest
                assert verify(reader).problems == []
        for kept in workbench.store.glob("data.mdb.before-restore-*"):
            kept.unlink()
    assert killed >= 2
    done = run_cli("loader.cli", "restore", made, "--store", workbench.store)
    assert (done.returncode, done.stderr) == (0, "")
    assert not (workbench.store / "restore.part").exists()


DIES = """
import os, signal, sys, time
from pathlib import Path
from loader import restore
from lookupd.store.reader import DEFAULT_MAP_SIZE
from tests.conftest import Silent

left = [int(sys.argv[3])]

def dying(do):
    def done(*arguments):
        if arguments[0].parent.name == "restore.part" and arguments[0].name != "data.length.part":
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
        return do(*arguments)
    return done

Path.rename = dying(Path.rename)
backup, store = Path(sys.argv[1]), Path(sys.argv[2])
restore.restore(backup, store, 2_000_000_000, DEFAULT_MAP_SIZE, Silent(), accept_older="test: test")
"""


@pytest.mark.parametrize(
    ("renames", "readable"), [(0, "old"), (1, ""), (2, ""), (3, ""), (4, "new")], ids=["old", "1", "2", "3", "new"]
)
def test_restore_killed_between_two_renames_is_never_opened_half(
    workbench: Workbench, renames: int, readable: str
) -> None:
    past = make_past(workbench, SEED)
    with workbench.reader() as reader:
        made = Path(make_backup(reader, workbench.folder / "made", NOW, Silent()).path)
        new = reader.state.digest
    past.deltas(1)
    old = workbench.state()[1]
    assert old != new
    command = [sys.executable, "-c", DIES, str(made), str(workbench.store), str(renames)]
    assert subprocess.run(command, check=False).returncode == (-signal.SIGKILL if renames < 4 else 0)
    if readable:
        assert workbench.state()[1] == (old if readable == "old" else new)
    else:
        for open_it in (workbench.reader, lambda: Writer(workbench.store)):
            with pytest.raises(StoreError, match=r"truncated, .*: restore it"):
                open_it()
    done = run_cli("loader.cli", "restore", made, "--accept-older", "test: again", "--store", workbench.store)
    assert (done.returncode, done.stderr) == (0, "")
    with workbench.reader() as reader:
        assert reader.state.digest == new
        assert verify(reader).problems == []
    assert int((workbench.store / "data.length").read_text()) == (workbench.store / "data.mdb").stat().st_size


# -- a full disk -------------------------------------------------------------------------------------------


@pytest.fixture(name="small_disk")
def a_small_disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", 16) as disk:
        yield disk


@pytest.mark.parametrize("leave", [0, 200_000, 3_000_000])
def test_backup_on_a_full_disk_leaves_nothing_and_keeps_the_older_ones(
    workbench: Workbench, small_disk: Path, leave: int
) -> None:
    fill_store(workbench, 100_000)
    with workbench.reader() as reader:
        older = Path(make_backup(reader, small_disk / "older", NOW, Silent(), compress=True).path)
    filler = fill(small_disk, leave)
    failed = run_cli("loader.cli", "backup", "--out", small_disk, "--keep", "1", "--store", workbench.store)
    assert (failed.returncode, failed.stdout, failed.stderr.count("\n")) == (1, "", 1)
    assert "the disk is full" in failed.stderr or "No space left on device" in failed.stderr
    assert {path.name for path in small_disk.iterdir()} == {"older", "filler"}
    read_manifest(older)
    filler.unlink()
    done = run_cli("loader.cli", "backup", "--out", small_disk, "--keep", "1", "--store", workbench.store)
    assert (done.returncode, done.stderr) == (0, "")
    assert not older.exists()


def test_restore_on_a_full_disk_leaves_the_store_as_it_was(workbench: Workbench, small_disk: Path) -> None:
    workbench.store = small_disk / "store"
    fill_store(workbench, 100_000)
    with workbench.reader() as reader:
        made = Path(make_backup(reader, workbench.folder / "made", NOW, Silent()).path)
    before = dump(workbench.store)
    filler = fill(small_disk, 1_500_000)
    failed = run_cli("loader.cli", "restore", made, "--store", workbench.store)
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr == f"error: {workbench.store}: nothing was restored: the disk is full: free space on it\n"
    assert dump(workbench.store) == before
    assert not (workbench.store / "restore.part").exists()
    filler.unlink()
    assert run_cli("loader.cli", "restore", made, "--store", workbench.store).returncode == 0


# -- damaged backups ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("compress", [False, True], ids=["plain", "packed"])
def test_every_flipped_bit_and_every_cut_of_a_backup_is_refused(workbench: Workbench, compress: bool) -> None:
    make_past(workbench, SEED)
    chance = random.Random(SEED)
    with workbench.reader() as reader:
        made = Path(make_backup(reader, workbench.folder / "made", NOW, Silent(), compress=compress).path)
    before = dump(workbench.store)

    def refused(what: str) -> None:
        told = ""
        try:
            restore(made, workbench.store, NOW, DEFAULT_MAP_SIZE, Silent())
        except FeedError as error:
            told = str(error)
        assert re.search("damaged|truncated|no backup|format", told), f"{what}: {told or 'taken for whole'}"

    for file in sorted(made.iterdir()):
        whole = file.read_bytes()
        bits = [chance.randrange(8 * len(whole)) for _ in range(50)] + [0, 8 * len(whole) - 1]
        for bit in bits:
            changed = bytearray(whole)
            changed[bit // 8] ^= 1 << bit % 8
            file.write_bytes(changed)
            refused(f"seed {SEED}: {file.name}, bit {bit}")
        for length in (0, 1, len(whole) // 2, len(whole) - 1):
            file.write_bytes(whole[:length])
            if file.name != "manifest.json" or length < len(whole) - 1:  # its last byte is only a line end
                refused(f"{file.name} cut to {length} bytes")
        file.write_bytes(whole + b"\0")
        refused(f"{file.name} with a byte more")
        file.unlink()
        with pytest.raises((FeedError, StoreError)):
            restore(made, workbench.store, NOW, DEFAULT_MAP_SIZE, Silent())
        file.write_bytes(whole)
    assert dump(workbench.store) == before
    assert not (workbench.store / "restore.part").exists()
    restore(made, workbench.store, NOW, DEFAULT_MAP_SIZE, Silent())


def test_data_of_another_backup_is_refused(workbench: Workbench) -> None:
    past = make_past(workbench, SEED)
    paths = []
    for name in ("first", "second"):
        with Reader(workbench.store) as reader:
            paths.append(Path(make_backup(reader, workbench.folder / name, NOW, Silent()).path))
        past.deltas(1)
    shutil.copy(paths[0] / "data.mdb", paths[1] / "data.mdb")
    with pytest.raises(FeedError, match=r"damaged|truncated"):
        restore(paths[1], workbench.store, NOW, DEFAULT_MAP_SIZE, Silent(), accept_older="test: test")
