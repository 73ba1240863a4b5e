"""A batch that is killed, or meets a full disk: begun again it goes on, and writes what it would have written."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Workbench
from tests.small_disk import fill, small_disk

SEED = 20261123
ROWS = 40_000
KILLS = 10
READ_BYTES = 16 << 10

# As the command does, but in small pieces, with a checkpoint after each, telling how far it is and waiting for a word.
BATCH = """
import sys
from pathlib import Path
import msgspec
from lookupd.batch import run, run_batch, source
from lookupd.batch.model import BatchOptions
from lookupd.batch.resolvers import StoreResolver
from lookupd.errors import LookupdError
from lookupd.numbering import load_plan

source.BATCH_READ_BYTES = int(sys.argv[6])
given, out, split, store = map(Path, sys.argv[1:5])
resolver = StoreResolver(store, 1 << 26, load_plan("886"), native=sys.argv[5] == "native")

def tell(progress):
    print(progress.rows, flush=True)
    sys.stdin.readline()

try:
    summary = run_batch(given, out, resolver, BatchOptions(), tell,
                        out.with_name(out.name + ".checkpoint"), split=split, checkpoint_seconds=0)
except LookupdError as error:
    sys.exit(f"error: {error}")
print(msgspec.json.encode(summary).decode())
"""


def write_list(path: Path) -> None:
    draw = random.Random(SEED)
    kinds = (
        "0912345678",
        "0923456789",
        "+886 912-345-679",
        "0911{:06}",
        "9.12E+11",
        "",
        '"0931{:06}"',
        "02 2345 {:04}",
    )
    rows = (draw.choice(kinds).format(draw.randrange(10_000)) for _ in range(ROWS))
    path.write_text("name,number\n" + "".join(f"n{at},{number}\n" for at, number in enumerate(rows)))


def command(given: Path, out: Path, store: Path, engine: str) -> list[str]:
    files = (given, out, out.with_suffix(".split"), store)
    return [sys.executable, "-c", BATCH, *map(str, files), engine, str(READ_BYTES)]


def run_to_end(asked: list[str]) -> dict[str, Any]:
    done = subprocess.run(asked, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def run_and_kill(asked: list[str], after: int) -> int:
    """Kill it when it has told its progress so often; returns the rows it had then told, 0 if none."""
    process = subprocess.Popen(asked, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    told = ""
    for _ in range(after):
        told = process.stdout.readline() or told
        process.stdin.write("\n")
        process.stdin.flush()
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    process.stdin.close()
    return int(told) if told.strip().isdigit() else 0


def files_of(out: Path) -> dict[str, bytes]:
    """But for the summary, which has its time."""
    split = out.with_suffix(".split")
    assert not list(split.glob("*.part"))
    return {path.name: path.read_bytes() for path in split.glob("*.csv")} | {"": out.read_bytes()}


def counted(told: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in told.items() if name not in {"started", "seconds", "resumed"}}


@pytest.mark.parametrize("engine", ["native", "python"])
def test_batch_killed_again_and_again_ends_with_the_same_bytes(loaded: Workbench, tmp_path: Path, engine: str) -> None:
    given, whole, torn = tmp_path / "in.csv", tmp_path / "whole.csv", tmp_path / "torn.csv"
    write_list(given)
    expected = run_to_end(command(given, whole, loaded.store, engine))
    draw = random.Random(SEED)
    asked = command(given, torn, loaded.store, engine)
    for _ in range(KILLS):
        run_and_kill(asked, draw.randrange(1, 5))
        assert not torn.exists()
    told = run_to_end(asked)
    assert told["resumed"] > 0
    assert counted(told) == counted(expected)
    assert files_of(torn) == files_of(whole)
    assert not torn.with_name("torn.csv.checkpoint").exists()


def test_each_resumption_begins_where_the_last_durable_checkpoint_was(loaded: Workbench, tmp_path: Path) -> None:
    given, out = tmp_path / "in.csv", tmp_path / "out.csv"
    write_list(given)
    asked = command(given, out, loaded.store, "native")
    rows = run_and_kill(asked, 10)
    assert run_to_end(asked)["resumed"] >= rows > 0


def test_store_that_moved_on_meanwhile_is_told_with_the_row(loaded: Workbench, tmp_path: Path) -> None:
    given, out = tmp_path / "in.csv", tmp_path / "out.csv"
    write_list(given)
    asked = command(given, out, loaded.store, "native")
    run_and_kill(asked, 10)
    before = loaded.state()[0]
    loaded.delta({"kind": "port", "tn": "886911000001", "recipient": "1402"}, sequence=2)
    told = run_to_end(asked)
    assert [span["serial"] for span in told["serials"]] == [before, loaded.state()[0]]
    assert told["serials"][1]["row"] == told["resumed"] + 2  # the header is row 1


def test_list_that_was_changed_is_begun_anew(loaded: Workbench, tmp_path: Path) -> None:
    given, out = tmp_path / "in.csv", tmp_path / "out.csv"
    write_list(given)
    asked = command(given, out, loaded.store, "native")
    run_and_kill(asked, 10)
    given.write_text("number\n0912345678\n")
    told = run_to_end(asked)
    assert (told["rows"], told["resumed"]) == (1, 0)
    assert len(out.read_text().splitlines()) == 2
    assert sorted(files_of(out)) == ["", "1402.csv"]


def test_checkpoint_of_another_program_is_not_believed(loaded: Workbench, tmp_path: Path) -> None:
    given, out = tmp_path / "in.csv", tmp_path / "out.csv"
    given.write_text("number\n0912345678\n")
    out.with_name("out.csv.checkpoint").write_bytes(b'{"offset": 10}')
    out.with_name("out.csv.part").write_bytes(b"left over, and longer than what is to come" * 10)
    told = run_to_end(command(given, out, loaded.store, "native"))
    assert (told["rows"], told["resumed"]) == (1, 0)
    assert out.read_text().splitlines()[1] == "0912345678,ported,1402,D0402,Beta Mobile,,886912345678,"


def test_full_disk_ends_the_batch_and_room_lets_it_go_on(loaded: Workbench, tmp_path: Path) -> None:
    given, whole = tmp_path / "in.csv", tmp_path / "whole.csv"
    write_list(given)
    expected = run_to_end(command(given, whole, loaded.store, "native"))
    with small_disk(tmp_path / "disk", 32) as disk:
        filler = fill(disk, 3 << 20)
        asked = command(given, disk / "out.csv", loaded.store, "native")
        done = subprocess.run(asked, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 1
        assert "No space left on device; what is done is kept: make room and run it again" in done.stderr
        assert "Traceback" not in done.stderr
        assert (disk / "out.csv.checkpoint").exists()
        filler.unlink()
        told = run_to_end(asked)
        assert told["resumed"] > 0
        assert counted(told) == counted(expected)
        assert files_of(disk / "out.csv") == files_of(whole)


def test_two_batches_do_not_write_one_output(loaded: Workbench, tmp_path: Path) -> None:
    given, out = tmp_path / "in.csv", tmp_path / "out.csv"
    write_list(given)
    asked = command(given, out, loaded.store, "python")
    first = subprocess.Popen(asked, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None
    first.stdout.readline()
    first.send_signal(signal.SIGSTOP)
    try:
        second = subprocess.run(
            asked, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
        )
        assert (second.returncode, "another batch writes it" in second.stderr) == (1, True)
    finally:
        first.kill()
        first.stdout.close()
        first.wait()
