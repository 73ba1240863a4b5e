"""The exchange on a disk that is full: it says so, goes on answering, and goes on by itself once there is room."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lookupd.model import TN
from lookupd.store.reader import Reader
from lookupd.store.schema import ROUTE_MASK
from lookupd.store.verify import verify
from tests.conftest import Workbench, wait_until
from tests.exchange import Exchange, at, changes_by_place, delta_name, notice, wait_for_ack
from tests.faults.test_kill import Watch, digest_of, fill, snapshot_text, watched
from tests.small_disk import small_disk

BASE = dict.fromkeys(range(886912345000, 886912345100), "1402")
SAMPLE = (886912345000, 886912345050, 886912345099, 886934000000, 886934050000)
BIG = notice(886934000000, tn_to=886934089999)
BIG_NUMBERS = dict.fromkeys(range(886934000000, 886934090000), "1403")
GUARD_OFF = "[limits]\nmoved_free = 1000000\n"


@pytest.fixture
def store_disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "store-disk", 24) as disk:
        yield disk


@pytest.fixture
def spool_disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "spool-disk", 4) as disk:
        yield disk


@contextmanager
def started(exchange: Exchange) -> Iterator[subprocess.Popen[str]]:
    """A real exchange that has taken the snapshot; ended by SIGTERM, whatever was full."""
    process = exchange.start()
    try:
        wait_for_ack(exchange, "snapshot-main-1.csv", "applied")
        yield process
        assert process.poll() is None, exchange.log.read_text()
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0, exchange.log.read_text()


def exchange_at_1(workbench: Workbench, extra: str = GUARD_OFF) -> Exchange:
    workbench.load_tables()
    exchange = Exchange(workbench, extra)
    exchange.snapshot(1, snapshot_text(BASE))
    return exchange


def said(exchange: Exchange, *words: str) -> bool:
    """Whether one line of the log has all these words."""
    return any(all(word in line for word in words) for line in exchange.log.read_text().splitlines())


def check_end(exchange: Exchange, watch: Watch, numbers: dict[int, str], sequence: int) -> None:
    with Reader(exchange.bench.store, environment=watch.environment) as reader:
        assert reader.state.feeds["main"].sequence == sequence
        assert reader.state.digest == digest_of(numbers)
        assert verify(reader).problems == []
        places = changes_by_place([entry for _, entry, _ in reader.journal()])
    assert set(places.values()) <= {1}, places
    assert {place[0] for place in places} == set(range(2, sequence + 1))
    assert watch.troubles == []
    assert watch.batches > 10


def test_full_disk_during_spooling_is_told_and_the_file_is_taken_when_there_is_room(
    workbench: Workbench, spool_disk: Path
) -> None:
    exchange = exchange_at_1(workbench, f'{GUARD_OFF}[sync]\nspool = "{spool_disk}"\n')
    with started(exchange), watched(workbench.store, SAMPLE, BASE) as watch:
        filler = fill(spool_disk, leave=0)
        exchange.delta(2, notice(886912345000))
        exchange.delta(3, notice(886912345050))
        wait_until(lambda: said(exchange, "source_unusable", "spool", "free space"))
        assert exchange.acked(delta_name(2)) is None
        asked = watch.batches
        wait_until(lambda: watch.batches > asked + 10)
        states = [BASE, BASE | {886912345000: "1403"}, BASE | dict.fromkeys((886912345000, 886912345050), "1403")]
        watch.expect(*states)
        filler.unlink()
        wait_for_ack(exchange, delta_name(3), "applied")
        assert exchange.acked(delta_name(2)) == "applied"
        check_end(exchange, watch, states[-1], 3)


def test_delta_before_one_that_does_not_fit_into_the_spool_is_applied(workbench: Workbench, spool_disk: Path) -> None:
    exchange = exchange_at_1(workbench, f'{GUARD_OFF}[sync]\nspool = "{spool_disk}"\n')
    with started(exchange), watched(workbench.store, SAMPLE, BASE) as watch:
        filler = fill(spool_disk, leave=100_000)
        small, big = {886912345000: "1403"}, dict.fromkeys(range(886912400000, 886912402000), "1403")
        watch.expect(BASE, BASE | small, BASE | small | big)
        exchange.delta(3, *(notice(tn) for tn in big))  # over 200 kB
        exchange.delta(2, notice(886912345000))
        wait_until(lambda: said(exchange, "source_unusable", "spool", "free space"))
        wait_for_ack(exchange, delta_name(2), "applied", 5)
        filler.unlink()
        wait_for_ack(exchange, delta_name(3), "applied")
        check_end(exchange, watch, BASE | small | big, 3)


def test_full_disk_during_application_is_told_and_the_delta_is_applied_when_there_is_room(
    workbench: Workbench, store_disk: Path, spool_disk: Path
) -> None:
    workbench.store = store_disk / "store"
    exchange = exchange_at_1(workbench, f'{GUARD_OFF}[sync]\nspool = "{spool_disk}"\n')
    with started(exchange), watched(workbench.store, SAMPLE, BASE) as watch:
        filler = fill(store_disk, leave=300_000)
        exchange.delta(2, BIG)
        wait_until(lambda: said(exchange, "store_unusable", "the disk is full: free space on it"))
        assert exchange.acked(delta_name(2)) == "confirmed"
        confirmed_at = exchange.ack(delta_name(2))["confirmed_at"]
        asked = watch.batches
        wait_until(lambda: watch.batches > asked + 10)
        with Reader(workbench.store, environment=watch.environment) as reader:
            assert reader.state.digest == digest_of(BASE)
            assert verify(reader).problems == []
        watch.expect(BASE, BASE | BIG_NUMBERS)
        filler.unlink()
        wait_for_ack(exchange, delta_name(2), "applied")
        assert exchange.ack(delta_name(2))["confirmed_at"] == confirmed_at
        assert exchange.log.read_text().count("the disk is full") == 1  # told once, not in every round
        check_end(exchange, watch, BASE | BIG_NUMBERS, 2)


def test_full_disk_during_the_journal_loses_no_confirmed_delta(
    workbench: Workbench, store_disk: Path, spool_disk: Path
) -> None:
    """Small deltas until the journal finds no room; then room, and the rest."""
    workbench.store = store_disk / "store"
    exchange = exchange_at_1(workbench, f'{GUARD_OFF}[sync]\nspool = "{spool_disk}"\n')
    refs = {"ref": "x" * 64}
    with started(exchange), watched(workbench.store, SAMPLE, BASE) as watch:
        filler = fill(store_disk, leave=200_000)
        last = 1
        states = [BASE]
        while not said(exchange, "store_unusable", "the disk is full"):
            last += 1
            assert last < 60, "the disk was never full"
            code = ("1401", "1403")[last % 2]
            numbers = range(886912345000, 886912345100)
            states.append(dict.fromkeys(BASE, code))
            watch.expect(*states)
            exchange.delta(last, *(notice(tn, code, **refs) for tn in numbers))
            wait_until(lambda at=last: exchange.acked(delta_name(at)) == "applied" or said(exchange, "store_unusable"))  # type: ignore[misc]
        assert exchange.acked(delta_name(last)) in {"confirmed", "applied"}
        asked = watch.batches
        wait_until(lambda: watch.batches > asked + 10)
        filler.unlink()
        wait_for_ack(exchange, delta_name(last), "applied")
        assert {exchange.acked(delta_name(at)) for at in range(2, last + 1)} == {"applied"}
        check_end(exchange, watch, states[-1], last)


def test_moment_that_comes_on_a_full_disk_fires_when_there_is_room(
    workbench: Workbench, store_disk: Path, spool_disk: Path
) -> None:
    workbench.store = store_disk / "store"
    exchange = exchange_at_1(workbench, f'{GUARD_OFF}[sync]\nspool = "{spool_disk}"\n')
    with started(exchange), watched(workbench.store, SAMPLE, BASE) as watch:
        exchange.delta(2, BIG | {"effective_at": at(time.time() + 3)})
        wait_for_ack(exchange, delta_name(2), "applied")
        filler = fill(store_disk, leave=300_000)
        wait_until(lambda: said(exchange, "fire_failed", "the disk is full"))
        with Reader(workbench.store, environment=watch.environment) as reader:
            assert len(reader.pending()) == 1
            assert reader.state.digest == digest_of(BASE)
        watch.expect(BASE, BASE | BIG_NUMBERS)
        filler.unlink()
        wait_until(lambda: said(exchange, " fired "))
        check_end(exchange, watch, BASE | BIG_NUMBERS, 2)


def test_full_disk_holds_neither_start_nor_answers_back(workbench: Workbench, store_disk: Path) -> None:
    """Store and spool on one full disk: started there, the exchange waits for room and goes on by itself."""
    workbench.store = store_disk / "store"
    exchange = exchange_at_1(workbench)
    with started(exchange):
        pass
    filler = fill(store_disk, leave=0)
    exchange.delta(2, notice(886912345000))
    process = exchange.start()
    try:
        wait_until(lambda: exchange.log.read_text().count("syncing") == 2 and said(exchange, "free space"))
        with workbench.reader() as reader:
            assert reader.entry(TN(886912345000)) & ROUTE_MASK
        filler.unlink()
        wait_for_ack(exchange, delta_name(2), "applied")
        assert process.poll() is None
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0, exchange.log.read_text()
    assert workbench.state()[1] == digest_of(BASE | {886912345000: "1403"})


def test_once_on_a_full_disk_ends_with_code_1_and_the_way_out(workbench: Workbench, store_disk: Path) -> None:
    workbench.store = store_disk / "store"
    exchange = exchange_at_1(workbench)
    assert exchange.once().returncode == 0
    filler = fill(store_disk, leave=300_000)
    exchange.delta(2, BIG)
    done = exchange.once()
    assert done.returncode == 1
    reply = json.loads(done.stdout)
    assert reply["exit_code"] == 1
    assert "the disk is full: free space on it" in reply["error"]
    assert "Traceback" not in done.stderr
    filler.unlink()
    assert exchange.once().returncode == 0
    assert workbench.state()[1] == digest_of(BASE | BIG_NUMBERS)
