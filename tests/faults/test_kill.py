"""The loader killed at any moment, out of disk, out of map, or not alone: the store is as before, or as after."""

from __future__ import annotations

import itertools
import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import lmdb
import pytest

from lookupd.errors import StoreError
from lookupd.model import TN, NetworkCode, RoutingNumber, UnixSeconds
from lookupd.store.reader import DEFAULT_MAP_SIZE, Reader
from lookupd.store.schema import (
    ROUTE_MASK,
    RouteRecord,
    network_term,
    number_term,
    open_environment,
    range_term,
    route_fingerprint,
)
from lookupd.store.verify import verify
from lookupd.store.writer import Writer
from tests.conftest import SNAPSHOT, Workbench, dump, run_cli
from tests.small_disk import fill, small_disk

TIME = "2026-11-22T10:00:00+08:00"
SEED = 20261122
SNAPSHOT_KILLS = 10
ACCEPTED = ("--accept-change", "test: most of a small store moves")
DELTA_KILLS = 8

NETWORK_ROWS = (
    RouteRecord(NetworkCode("1401"), RoutingNumber("D0401"), "Alpha Telecom", 101, True),
    RouteRecord(NetworkCode("1402"), RoutingNumber("D0402"), "Beta Mobile", 102, True),
    RouteRecord(NetworkCode("1403"), None, "Gamma", None, True),
)
RANGE_ROWS = (("88691", "1401"), ("88692", "1402"), ("886912", "1403"), ("8862", "1401"))

Numbers = dict[int, str]


@dataclass(frozen=True)
class Content:
    """The numbers of a store, and its digest with them."""

    numbers: Numbers
    digest: int


def digest_of(numbers: Mapping[int, str]) -> int:
    """The digest of a store with the tables of conftest and these numbers, from nothing but the definition."""
    fingerprints = {row.network_code: route_fingerprint(row) for row in NETWORK_ROWS}
    digest = sum(network_term(row) for row in NETWORK_ROWS) + sum(range_term(*row) for row in RANGE_ROWS)
    digest += sum(number_term(tn, fingerprints[NetworkCode(code)]) for tn, code in numbers.items())
    return digest % (1 << 64)


def content(numbers: Numbers) -> Content:
    return Content(numbers, digest_of(numbers))


def snapshot_text(numbers: Mapping[int, str]) -> str:
    return "tn,network_code\n" + "".join(f"{tn},{code}\n" for tn, code in numbers.items())


# -- kill -9 ---------------------------------------------------------------------------------------------


@dataclass
class Watch:
    """A thread that asks all the time, each time a batch from one state, and what it saw."""

    environment: lmdb.Environment
    path: Path
    sample: tuple[int, ...]
    allowed: tuple[list[str | None], ...] = ()
    batches: int = 0
    troubles: list[str] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)

    def expect(self, *states: Mapping[int, str]) -> None:
        """From now on each batch must be all from one of these states."""
        self.allowed = tuple([numbers.get(tn) for tn in self.sample] for numbers in states)

    def run(self) -> None:
        with Reader(self.path, environment=self.environment) as reader:
            while not self.stopping.is_set():
                try:
                    allowed = self.allowed
                    reader.pin()
                    found = [self._ask(reader, TN(tn)) for tn in self.sample]
                    # The expectation may have moved on while the batch was read; then it says nothing.
                    if found not in allowed and allowed is self.allowed:
                        self.troubles.append(f"a batch from no state: {found}")
                except Exception as error:  # whatever it is, the test must fail with it
                    self.troubles.append(repr(error))
                self.batches += 1
                time.sleep(0.005)  # the processes that are to be killed need the processor too

    def _ask(self, reader: Reader, tn: TN) -> str | None:
        route_id = reader.entry(tn) & ROUTE_MASK
        return reader.route(route_id).network_code if route_id else None


@contextmanager
def watched(path: Path, sample: tuple[int, ...], numbers: Mapping[int, str]) -> Iterator[Watch]:
    """A reader that is open, and reads, as long as the block runs."""
    environment = open_environment(path, map_size=DEFAULT_MAP_SIZE, readonly=True)
    watch = Watch(environment, path, sample)
    watch.expect(numbers)
    thread = threading.Thread(target=watch.run)
    thread.start()
    try:
        yield watch
    finally:
        watch.stopping.set()
        thread.join(30)
        environment.close()
    assert watch.troubles == []


def start(command: str, file: Path, store: Path) -> subprocess.Popen[bytes]:
    accepted = ACCEPTED if command in {"snapshot", "delta"} else ()
    return subprocess.Popen(
        [sys.executable, "-m", "loader.cli", command, str(file), "--store", str(store), *accepted],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def wait_for_lock(process: subprocess.Popen[bytes], store: Path) -> None:
    """Until the process holds the store; what it does before that is only the start of a Python program."""
    until = time.monotonic() + 30
    while time.monotonic() < until and process.poll() is None:
        try:
            if (store / "writer.lock").read_text().strip() == str(process.pid):
                return
        except FileNotFoundError:
            pass
        time.sleep(0.001)


def time_under_lock(command: str, file: Path, store: Path) -> float:
    """How long the command works once it holds the store, when nobody kills it."""
    process = start(command, file, store)
    wait_for_lock(process, store)
    began = time.monotonic()
    assert process.wait(60) == 0
    return time.monotonic() - began


def kill_after(delay: float, command: str, file: Path, store: Path) -> bool:
    """Run the command and kill it so long after it has taken the store; False if it ended before."""
    process = start(command, file, store)
    wait_for_lock(process, store)
    time.sleep(delay)
    process.kill()
    return process.wait(30) == -signal.SIGKILL


@dataclass(frozen=True)
class Step:
    """A file, and what is in the store before and after it."""

    file: Path
    before: Content
    after: Content


def kill_again_and_again(
    workbench: Workbench, command: str, steps: Iterator[Step], kills: int, sample: tuple[int, ...]
) -> None:
    """Kill the loading of one file after another; each must be loaded whole by the same command at last."""
    chance = random.Random(SEED)
    first = next(steps)
    with watched(workbench.store, sample, first.before.numbers) as watch:
        watch.expect(first.before.numbers, first.after.numbers)
        duration = time_under_lock(command, first.file, workbench.store)
        outcomes = {"before": 0, "after": 0}
        for turn in itertools.count():
            if sum(outcomes.values()) == kills:
                break
            assert turn < 4 * kills, f"the command ends before it is killed: {outcomes}, {duration:.2f} s"
            step = next(steps)
            before, after = step.before.digest, step.after.digest
            serial = state_of(watch)[0]
            watch.expect(step.before.numbers, step.after.numbers)
            asked = watch.batches
            delay = duration * (turn % kills + chance.random()) / kills
            killed = kill_after(delay, command, step.file, workbench.store)
            _, digest = state_of(watch)
            assert digest in {before, after}, f"seed {SEED}, turn {turn}, killed after {delay:.3f} s"
            if killed:
                outcomes["before" if digest == before else "after"] += 1
            report = check(watch)
            assert report == (digest, []), f"seed {SEED}, turn {turn}, killed after {delay:.3f} s"
            assert watch.batches > asked
            assert watch.troubles == []

            again = run_cli("loader.cli", command, step.file, "--store", workbench.store, *ACCEPTED)
            assert (again.returncode, again.stderr) == (0, "")
            done, digest = state_of(watch)
            assert digest == after
            assert done > serial
            watch.expect(step.after.numbers)
        assert outcomes["before"] >= 1, outcomes
    done_verify = run_cli("loader.cli", "verify", "--store", workbench.store, "--json")
    assert (done_verify.returncode, json.loads(done_verify.stdout)["problem_count"]) == (0, 0)


def state_of(watch: Watch) -> tuple[int, int]:
    with Reader(watch.path, environment=watch.environment) as reader:
        return reader.state.serial, reader.state.digest


def check(watch: Watch) -> tuple[int, list[str]]:
    with Reader(watch.path, environment=watch.environment) as reader:
        report = verify(reader)
        return report.digest, report.problems


def test_killed_snapshot_leaves_the_old_state_or_the_new(workbench: Workbench) -> None:
    numbers = range(886912000000, 886912000000 + 2_000_000, 80)
    one = content(dict.fromkeys(numbers, "1402"))
    other = content({tn: "1403" for tn in numbers if tn % 3})
    workbench.load_tables()
    workbench.snapshot(snapshot_text(one.numbers))

    def steps() -> Iterator[Step]:
        before, after = one, other
        for sequence in itertools.count(2):
            text = snapshot_text(after.numbers)
            yield Step(workbench.publish(f"snapshot-main-{sequence}.csv", text, len(after.numbers)), before, after)
            before, after = after, before

    sample = tuple(numbers[::900])
    kill_again_and_again(workbench, "snapshot", steps(), SNAPSHOT_KILLS, sample)


def test_killed_delta_leaves_the_old_state_or_the_new(workbench: Workbench) -> None:
    always = content(dict.fromkeys(range(886930000000, 886930003000, 3), "1401"))
    ranges = [(first, first + 3999) for first in range(886912000500, 886912000500 + 90_000, 10_000)]
    moved = content(always.numbers | {tn: "1403" for first, last in ranges for tn in range(first, last + 1)})
    workbench.load_tables()
    workbench.snapshot(snapshot_text(always.numbers))

    def steps() -> Iterator[Step]:
        before, after = always, moved
        for sequence in itertools.count(2):
            kind = {"kind": "port", "recipient": "1403"} if after is moved else {"kind": "return"}
            lines = [
                json.dumps(kind | {"tn": str(first), "tn_to": str(last), "notified_at": TIME}) + "\n"
                for first, last in ranges
            ]
            yield Step(workbench.publish(f"delta-main-{sequence}.ndjson", "".join(lines), len(lines)), before, after)
            before, after = after, before

    sample = (886930000000, *(tn for first, last in ranges for tn in (first, first + 1234, last)))
    kill_again_and_again(workbench, "delta", steps(), DELTA_KILLS, sample)


def test_killed_first_load_leaves_nothing_that_hinders_the_next(workbench: Workbench) -> None:
    networks = workbench.write("networks.csv", "network_code,operator,routing_number,pdb_carrier_id\n1401,Alpha,,\n")
    workbench.store = workbench.folder / "measured"
    duration = time_under_lock("networks", networks, workbench.store)
    for turn in range(4):
        workbench.store = workbench.folder / f"store-{turn}"
        kill_after(duration * turn / 4, "networks", networks, workbench.store)
        try:
            serial, digest, _ = workbench.state()
            assert (serial == 1) == (digest != 0)
        except StoreError:
            pass  # not there yet, and said so
        again = run_cli("loader.cli", "networks", networks, "--store", workbench.store)
        assert (again.returncode, again.stderr) == (0, "")
        with workbench.reader() as reader:
            assert verify(reader).problems == []
            assert reader.state.serial == 1


# -- a full disk -----------------------------------------------------------------------------------------

BIG = dict.fromkeys(range(886912000000, 886912000000 + 3000000, 500), "1402")
BIG_RANGE = [{"kind": "port", "tn": "886934000000", "tn_to": "886934089999", "recipient": "1403"}]


@pytest.fixture(name="small_disk")
def a_small_disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", 24) as disk:
        yield disk


def big_delta(workbench: Workbench, sequence: int) -> Path:
    text = "".join(json.dumps(notice | {"notified_at": TIME}) + "\n" for notice in BIG_RANGE)
    return workbench.publish(f"delta-main-{sequence}.ndjson", text, len(BIG_RANGE))


def big_snapshot(workbench: Workbench, sequence: int) -> Path:
    return workbench.publish(f"snapshot-main-{sequence}.csv", snapshot_text(BIG), len(BIG))


@pytest.fixture
def on_small_disk(workbench: Workbench, small_disk: Path) -> Workbench:
    """A loaded store on the small disk; its feed lies elsewhere."""
    workbench.store = small_disk / "store"
    workbench.load_tables()
    workbench.snapshot()
    return workbench


@pytest.mark.parametrize(("command", "publish"), [("snapshot", big_snapshot), ("delta", big_delta)])
def test_full_disk_leaves_the_store_unchanged(
    on_small_disk: Workbench, command: str, publish: Callable[[Workbench, int], Path]
) -> None:
    workbench = on_small_disk
    file = publish(workbench, 2)
    before = dump(workbench.store)
    filler = fill(workbench.store.parent, leave=600_000)
    for _ in range(2):
        failed = run_cli("loader.cli", command, file, "--store", workbench.store, *ACCEPTED)
        assert (failed.returncode, failed.stdout, failed.stderr.count("\n")) == (1, "", 1)
        assert failed.stderr.startswith(f"error: {workbench.store}: the disk is full: free space on it")
        assert "the store is unchanged" in failed.stderr
        assert dump(workbench.store) == before
    with workbench.reader() as reader:
        assert verify(reader).problems == []

    filler.unlink()
    done = run_cli("loader.cli", command, file, "--store", workbench.store, *ACCEPTED)
    assert (done.returncode, done.stderr) == (0, "")
    with workbench.reader() as reader:
        assert verify(reader).problems == []
        assert reader.state.ported == (len(BIG) if command == "snapshot" else 90_004)


def test_new_store_on_a_full_disk_is_refused_not_killed(workbench: Workbench, small_disk: Path) -> None:
    networks = workbench.write("networks.csv", "network_code,operator,routing_number,pdb_carrier_id\n1401,Alpha,,\n")
    filler = fill(small_disk, leave=0)
    store = small_disk / "store"
    failed = run_cli("loader.cli", "networks", networks, "--store", store)
    assert (failed.returncode, failed.stderr.count("\n")) == (1, 1)
    assert "the disk is full: free space on it" in failed.stderr
    filler.unlink()
    assert run_cli("loader.cli", "networks", networks, "--store", store).returncode == 0


def test_reader_answers_from_a_store_on_a_full_disk(on_small_disk: Workbench) -> None:
    fill(on_small_disk.store.parent, leave=0)
    with on_small_disk.reader() as reader:
        assert reader.route(reader.entry(TN(886912345678)) & ROUTE_MASK).network_code == "1402"
        assert verify(reader).problems == []


# -- a full map ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("command", "publish"), [("snapshot", big_snapshot), ("delta", big_delta)])
def test_full_map_leaves_the_store_unchanged(
    loaded: Workbench, command: str, publish: Callable[[Workbench, int], Path]
) -> None:
    file = publish(loaded, 2)
    small = loaded.write("small.toml", f'[store]\npath = "{loaded.store}"\nmap_size = "1MiB"\n')
    large = loaded.write("large.toml", f'[store]\npath = "{loaded.store}"\nmap_size = "64MiB"\n')
    before = dump(loaded.store)
    failed = run_cli("loader.cli", command, file, "--config", small, *ACCEPTED)
    assert (failed.returncode, failed.stdout, failed.stderr.count("\n")) == (1, "", 1)
    assert failed.stderr.startswith("error: ")
    assert "the map is full: raise store.map_size" in failed.stderr
    assert dump(loaded.store) == before
    done = run_cli("loader.cli", command, file, "--config", large, *ACCEPTED)
    assert (done.returncode, done.stderr) == (0, "")


def test_open_reader_follows_when_the_writer_raises_the_map(loaded: Workbench) -> None:
    file = big_snapshot(loaded, 2)
    with Reader(loaded.store, map_size=1 << 20) as reader:
        assert reader.entry(TN(886912345678)) != 0
        assert run_cli("loader.cli", "snapshot", file, "--store", loaded.store, *ACCEPTED).returncode == 0
        reader.pin()
        assert reader.entry(TN(886912345678)) == 0
        assert reader.route(reader.entry(TN(886914999500))).network_code == "1402"
        assert verify(reader).problems == []


# -- two writers -----------------------------------------------------------------------------------------

HOLDER = """
import sys, time
from pathlib import Path
from lookupd.store.writer import Writer
with Writer(Path(sys.argv[1])) as writer, writer.change(1) as change:
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


@contextmanager
def holder(store: Path, seconds: float) -> Iterator[subprocess.Popen[str]]:
    """Another process in the middle of a change."""
    command = [sys.executable, "-c", HOLDER, str(store), str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def test_second_writer_is_told_who_holds_the_store(loaded: Workbench) -> None:
    state = loaded.state()
    with holder(loaded.store, 60) as first:
        with pytest.raises(StoreError, match=f"process {first.pid} is writing: wait for it, or end it") as caught:
            Writer(loaded.store, wait=0.2)
        assert caught.value.exit_code == 1
        with loaded.reader() as reader:
            assert reader.entry(TN(886912345678)) != 0
        first.kill()
        first.wait()
        with Writer(loaded.store, wait=0.2) as writer, writer.reader() as reader:  # a dead holder holds nothing
            assert (reader.state.serial, reader.state.digest) == state[:2]
    assert loaded.state() == state
    assert loaded.snapshot(SNAPSHOT, sequence=2).serial == state[0] + 1


def test_second_writer_waits_for_its_turn(loaded: Workbench) -> None:
    with holder(loaded.store, 0.5), Writer(loaded.store, wait=20) as writer, writer.change(UnixSeconds(1)):
        pass
    assert loaded.delta({"kind": "return", "tn": "886912345678"}, sequence=2).removed == 1
