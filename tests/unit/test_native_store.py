"""The native reader beside a py-lmdb writer in another process, and against the Python reader on the same store.

One process must not open a store through both libraries, so each opens it here after the other has closed it,
or in a process of its own.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import random
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import lmdb
import pytest

from lookupd.errors import DamagedBlock, StoreError
from lookupd.model import TN, JournalKind, UnixSeconds
from lookupd.store.reader import Reader
from lookupd.store.schema import (
    BLOCK_KEY,
    META_FORMAT,
    META_STATE,
    ROUTE_KEY,
    U32,
)
from lookupd.store.writer import Writer
from tests.conftest import Workbench
from tests.unit.test_damage import flipped, put, stored

native = pytest.importorskip("lookupd._native")

PORTED, BESIDE = TN(886912345678), TN(886912345000)
MAP = 1 << 30
# One number in each of many blocks: a commit moves all of them, so a state that is not whole shows.
MOVED = [TN(886900000000 + 1000 * block + block) for block in range(12)]

NOBODY = 65_534


# -- the writer, in a process of its own -----------------------------------------------------------------


def write(pipe: Connection, store: Path, map_size: int) -> None:
    """Obey until told to end: run a function of this module on a writer, send what it gives."""
    with Writer(store, map_size=map_size) as writer:
        pipe.send("open")
        while (order := pipe.recv()) is not None:
            name, arguments = order
            pipe.send(globals()[name](writer, *arguments))


def commit_moves(writer: Writer, commits: int) -> int:
    """Move all numbers from route 1 to 2 to 3 and back to 1, one commit each: serial mod 3 tells the route."""
    for _ in range(commits):
        with writer.change(UnixSeconds(1_800_000_000)) as change:
            route_id = (change.serial + 1) % 3 + 1
            for tn in MOVED:
                counts = change.set_numbers(tn, tn, route_id, 0, 0, 1)
            serial = change.record(JournalKind.CORRECT, counts)
    return serial


def commit_filler(writer: Writer, blocks: int, first: int) -> int:
    """Blocks that make the file grow."""
    with writer.change(UnixSeconds(1_800_000_000)) as change:
        for block in range(first, first + blocks):
            counts = change.set_numbers(TN(1000 * block), TN(1000 * block), 1, 0, 0, 1)
        change.flush()
        return change.record(JournalKind.CORRECT, counts)


def check_readers(writer: Writer) -> int:
    return int(writer._environment.reader_check())


def file_pages(writer: Writer) -> int:
    return int(writer._environment.info()["last_pgno"])


class OtherProcess:
    """A function of this module at work in a process of its own; `ask` it by a pipe."""

    def __init__(self, target: Callable[..., None], *arguments: object) -> None:
        spawning = multiprocessing.get_context("spawn")
        self.pipe, theirs = spawning.Pipe()
        self.process = spawning.Process(target=target, args=(theirs, *arguments))
        self.process.start()
        theirs.close()
        assert self.pipe.recv() == "open"

    def ask(self, name: str, *arguments: object) -> Any:
        self.pipe.send((name, arguments))
        return self.pipe.recv()

    def end(self) -> None:
        if self.process.is_alive():
            self.pipe.send(None)
        self.process.join()


@pytest.fixture
def beside(loaded: Workbench) -> Iterator[Callable[[int], OtherProcess]]:
    """Starts writers on the loaded store."""
    begun: list[OtherProcess] = []

    def begin(map_size: int = MAP) -> OtherProcess:
        begun.append(OtherProcess(write, loaded.store, map_size))
        return begun[-1]

    yield begin
    for process in begun:
        process.end()


@pytest.fixture
def in_memory() -> Iterator[Path]:
    """A folder where a commit does not wait for a disk, if this machine has one."""
    folder = Path(f"/dev/shm/lookupd-test-{os.getpid()}")
    if not folder.parent.is_dir():
        pytest.skip("no /dev/shm")
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


# -- beside a writer -------------------------------------------------------------------------------------


def route_of(serial: int) -> int:
    return serial % 3 + 1


def test_ten_thousand_commits_are_seen_in_order_and_each_state_is_whole(in_memory: Path) -> None:
    workbench = Workbench(in_memory)
    workbench.load_tables()
    workbench.snapshot()
    process = OtherProcess(write, workbench.store, MAP)
    environment = native.Environment(str(workbench.store), MAP)
    process.ask("commit_moves", 1)
    worker, other, beside = environment.reader(), Reader(workbench.store, native=True), 0
    first, *_ = worker.state()
    process.pipe.send(("commit_moves", (10_000,)))
    seen, last, python_last = set(), first, 0
    while last < first + 10_000:
        worker.pin()
        serial, *_ = worker.state()
        assert serial >= last
        last = serial
        seen.add(serial)
        expected = route_of(serial) if serial > first else None
        assert {worker.entry(tn) for tn in MOVED} == ({expected} if expected else {worker.entry(MOVED[0])})
        if len(seen) % 50 == 0:  # py-lmdb's shape: pinned for longer, while the workers' goes on
            beside += 1
            other.pin()
            assert other.state.serial >= python_last
            python_last = other.state.serial
            assert len({other.entry(tn) for tn in MOVED}) == 1
    assert process.pipe.recv() == first + 10_000
    assert len(seen) > 100
    assert beside
    process.end()
    other.close()
    environment.close()


def test_pinned_state_stays_while_commits_go_on_and_the_next_pin_moves(
    loaded: Workbench, beside: Callable[[int], OtherProcess]
) -> None:
    process = beside(MAP)
    environment = native.Environment(str(loaded.store), MAP)
    worker = environment.reader()
    held = environment.begin(db=environment.open_db(b"blocks"))
    serial = process.ask("commit_moves", 300)
    before = worker.state()[0]
    assert before < serial
    assert [worker.entry(tn) for tn in MOVED] == [0] * len(MOVED)
    assert held.get(BLOCK_KEY.pack(MOVED[0] // 1000)) is None
    worker.pin()
    assert worker.state()[0] == serial
    assert {worker.entry(tn) for tn in MOVED} == {route_of(serial)}
    assert held.get(BLOCK_KEY.pack(MOVED[0] // 1000)) is None
    worker.release()
    with pytest.raises(StoreError):
        worker.entry(PORTED)
    worker.pin()
    assert worker.entry(PORTED) != 0


def test_writer_reuses_pages_when_a_reader_lets_go(loaded: Workbench, beside: Callable[[int], OtherProcess]) -> None:
    """Were our slots not seen, pages would be reused under a pinned state; were they not given back, the file grows."""
    process = beside(MAP)
    environment = native.Environment(str(loaded.store), MAP)
    worker = environment.reader()
    process.ask("commit_moves", 50)
    worker.pin()
    pinned = worker.state()[0]
    pages = process.ask("file_pages")
    process.ask("commit_moves", 100)
    grown = process.ask("file_pages") - pages
    assert {worker.entry(tn) for tn in MOVED} == {route_of(pinned)}
    worker.release()
    process.ask("commit_moves", 10)
    pages = process.ask("file_pages")
    process.ask("commit_moves", 100)
    assert grown > 500
    assert process.ask("file_pages") - pages < grown / 10


def test_map_that_the_writer_has_made_larger_is_taken_over(
    loaded: Workbench, beside: Callable[[int], OtherProcess]
) -> None:
    environment = native.Environment(str(loaded.store), 1 << 20)
    reader = Reader(loaded.store, native=True)
    workers = [environment.reader(), environment.reader()]
    pinned = environment.begin()  # not within a call: it does not hold the map
    small = environment.info()["map_size"]
    process = beside(MAP)
    process.ask("commit_filler", 2000, 990_000_000)
    assert process.ask("file_pages") * 4096 > small

    with pytest.raises(StoreError, match="map"):
        workers[0].pin()  # the other worker still reads in the old map
    assert workers[1].entry(PORTED) != 0  # what is pinned stays good
    with pytest.raises(StoreError, match="restore the store"):
        workers[0].entry(PORTED)  # nothing is pinned
    with pytest.raises(StoreError, match="map"):
        reader.pin()
    workers[1].pin()  # nobody else: taken over
    workers[0].pin()
    reader.pin()
    assert environment.info()["map_size"] > small
    for worker in workers:
        assert worker.entry(TN(1000 * 990_001_999)) == 1
    assert reader.entry(TN(1000 * 990_001_999)) == 1
    with pytest.raises(lmdb.MapResizedError):
        pinned.get(b"blocks")
    with pytest.raises(lmdb.Error):
        pinned.get(b"blocks")
    reader.close()


def test_python_reader_alone_takes_over_a_larger_map(loaded: Workbench, beside: Callable[[int], OtherProcess]) -> None:
    with Reader(loaded.store, map_size=1 << 20, native=True) as reader:
        process = beside(MAP)
        process.ask("commit_filler", 2000, 990_000_000)
        reader.pin()
        assert reader.entry(TN(1000 * 990_001_999)) == 1
        assert reader.warm() == 0


def test_threads_pin_through_growth_and_commits(loaded: Workbench, beside: Callable[[int], OtherProcess]) -> None:
    environment = native.Environment(str(loaded.store), 1 << 20)
    process = beside(MAP)
    ended, failures = threading.Event(), []

    def work() -> None:
        reader, refused = environment.reader(), 0
        while not ended.is_set():
            try:
                reader.pin()
            except StoreError:
                refused += 1
                continue
            serial = reader.state()[0]
            found = {reader.entry(tn) for tn in MOVED}
            if found not in ({0}, {route_of(serial)}) and reader.entry(PORTED):
                failures.append((serial, found))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for step in range(6):
        process.ask("commit_moves", 20)
        process.ask("commit_filler", 500, 990_000_000 + 500 * step)
        process.ask("commit_moves", 1)
    ended.set()
    for thread in threads:
        thread.join()
    reader = environment.reader()
    assert reader.entry(TN(1000 * 990_002_999)) == 1
    assert environment.info()["map_size"] > 1 << 20
    assert [found for found in failures if len(found[1]) > 1] == []


# -- stale readers ---------------------------------------------------------------------------------------


def hold_native(pipe: Connection, store: Path) -> None:
    environment = native.Environment(str(store), MAP)
    reader, transaction = environment.reader(), environment.begin()
    pipe.send("open")
    pipe.recv()
    del reader, transaction


def hold_python(pipe: Connection, store: Path) -> None:
    with Reader(store):
        pipe.send("open")
        pipe.recv()


@pytest.mark.parametrize("holder", [hold_native, hold_python])
@pytest.mark.parametrize("checker", ["native", "writer"])
def test_slots_of_a_killed_reader_are_given_back(
    loaded: Workbench, beside: Callable[[int], OtherProcess], holder: Callable[..., None], checker: str
) -> None:
    process = beside(MAP)
    environment = native.Environment(str(loaded.store), MAP)
    alive = environment.reader()
    dead = OtherProcess(holder, loaded.store)
    assert dead.process.pid is not None
    os.kill(dead.process.pid, signal.SIGKILL)
    dead.process.join()
    pages = process.ask("file_pages")
    process.ask("commit_moves", 100)
    alive.pin()
    assert process.ask("file_pages") - pages > 500  # what the dead reader had pinned is kept
    freed = environment.reader_check() if checker == "native" else process.ask("check_readers")
    assert freed == (2 if holder is hold_native else 1)
    alive.release()
    process.ask("commit_moves", 10)
    pages = process.ask("file_pages")
    process.ask("commit_moves", 100)
    assert process.ask("file_pages") - pages < 50
    alive.pin()
    assert {alive.entry(tn) for tn in MOVED} == {route_of(alive.state()[0])}


def test_living_reader_keeps_its_slot_when_the_writer_looks_for_dead_ones(
    loaded: Workbench, beside: Callable[[int], OtherProcess]
) -> None:
    """Also after the same store was opened again in this process, and that one closed."""
    process = beside(MAP)
    environment = native.Environment(str(loaded.store), MAP)
    worker = environment.reader()
    with Reader(loaded.store, native=True) as again:
        assert again.entry(PORTED)
    del again
    gc.collect()
    assert process.ask("check_readers") == 0
    process.ask("commit_moves", 100)
    assert [worker.entry(tn) for tn in MOVED] == [0] * len(MOVED)


# -- a store that is not what it should be ---------------------------------------------------------------


def reading_fails(store: Path) -> list[str]:
    """What both readers say; each opens the store after the other has closed it."""
    said = []
    for is_native in (False, True):
        with pytest.raises(StoreError) as told, Reader(store, native=is_native):
            pass
        said.append(str(told.value))
        told = None  # type: ignore[assignment]
    with pytest.raises(StoreError) as by_worker:
        native.Environment(str(store), MAP).reader()
    said.append(str(by_worker.value))
    return said


@pytest.mark.parametrize("version", [U32.pack(0), U32.pack(2), U32.pack(4), b"", b"\x01", None])
def test_other_format_is_refused_in_the_same_words(loaded: Workbench, version: bytes | None) -> None:
    put(loaded.store, "meta", META_FORMAT, version)
    python, shaped, worker = reading_fails(loaded.store)
    assert "this program reads 3" in python
    assert python == shaped == worker


def test_missing_and_truncated_stores_are_refused_in_the_same_words(loaded: Workbench) -> None:
    data = loaded.store / "data.mdb"
    with data.open("r+b") as file:
        file.truncate(data.stat().st_size - 4096)
    python, shaped, worker = reading_fails(loaded.store)
    assert "truncated" in python
    assert python == shaped == worker
    data.unlink()
    python, shaped, worker = reading_fails(loaded.store)
    assert "no store here" in python
    assert python == shaped == worker


def test_folder_that_may_not_be_looked_into_is_refused_in_the_same_words(loaded: Workbench) -> None:
    for folder in (loaded.store, *loaded.store.parents):
        if folder.stat().st_uid == os.geteuid() and folder != loaded.store:
            folder.chmod(folder.stat().st_mode | 0o011)
    loaded.store.chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(NOBODY)  # root may look into every folder
    try:
        python, shaped, worker = reading_fails(loaded.store)
    finally:
        os.seteuid(user)
        loaded.store.chmod(0o700)
    assert "may not look into its folder" in python
    assert python == shaped == worker


def test_environment_that_is_no_store_is_refused(tmp_path: Path) -> None:
    environment = lmdb.open(str(tmp_path / "x"), max_dbs=4, lib_version=0)
    environment.open_db(b"other")
    environment.close()
    python, shaped, worker = reading_fails(tmp_path / "x")
    assert "not a store of ours" in python
    assert python == shaped == worker
    (tmp_path / "x" / "data.mdb").write_bytes(os.urandom(1 << 16))
    python, shaped, worker = reading_fails(tmp_path / "x")
    assert "cannot open the store" in python
    assert shaped == worker
    assert "cannot open the store" in worker


def test_every_flipped_byte_of_the_state_is_said_by_the_worker(loaded: Workbench) -> None:
    value = stored(loaded.store, "meta", META_STATE)
    for at in range(len(value)):
        put(loaded.store, "meta", META_STATE, flipped(value, at))
        python, _, worker = reading_fails(loaded.store)
        assert python == worker
    assert "the store's state or tables are damaged: its checksum does not fit; restore it" in worker


@pytest.mark.parametrize(
    ("database", "key", "value"),
    [
        ("routes", ROUTE_KEY.pack(1), b""),
        ("routes", ROUTE_KEY.pack(1), b"\xc1"),
        ("routes", ROUTE_KEY.pack(1), b"\x95\xa41401\xc0\xa1\xff\xc0\xc3"),
        ("routes", b"\x01", b"\x95\xa41401\xc0\xa1a\xc0\xc3"),
        ("routes", ROUTE_KEY.pack(1), b"\x95\xa41401\xa51\r\nX:\xa1a\xc0\xc3"),
        ("routes", ROUTE_KEY.pack(1), b"\x95\xa41401\xa51402\n\xa1a\xc0\xc3"),
        ("routes", ROUTE_KEY.pack(1), b"\x95\xa41401\xa0\xa1a\xc0\xc3"),
        ("routes", ROUTE_KEY.pack(1), b"\x95\xa41401\xb0" + b"1" * 16 + b"\xa1a\xc0\xc3"),
        ("routes", ROUTE_KEY.pack(1), b"\x95\xa9140100000\xc0\xa1a\xc0\xc3"),
        ("routes", ROUTE_KEY.pack(1), b"\x95\xa414o1\xc0\xa1a\xc0\xc3"),
        ("ranges", b"886912", b"\x01"),
        ("ranges", b"\xff", b"\x01\x00"),
        ("meta", META_STATE, b""),
        ("meta", META_STATE, b"\x93\x01\x02\xa1\xff" * 4),
    ],
)
def test_damaged_tables_and_states_are_said(loaded: Workbench, database: str, key: bytes, value: bytes) -> None:
    put(loaded.store, database, key, value)
    for said in reading_fails(loaded.store):
        assert said.startswith(f"{loaded.store}: the store's state or tables are damaged: ")
        assert said.endswith("; restore it")


def test_state_that_is_lost_while_open_is_unavailable_until_it_is_mended(
    loaded: Workbench, beside: Callable[[int], OtherProcess]
) -> None:
    value = stored(loaded.store, "meta", META_STATE)
    environment = native.Environment(str(loaded.store), MAP)
    worker = environment.reader()
    run(put, loaded.store, "meta", META_STATE, flipped(value, 3))
    with pytest.raises(StoreError, match="checksum does not fit"):
        worker.pin()
    with pytest.raises(StoreError):
        worker.entry(PORTED)
    run(put, loaded.store, "meta", META_STATE, value)
    worker.pin()
    assert worker.entry(PORTED)


def run(target: Callable[..., None], *arguments: object) -> None:
    """In a process of its own."""
    process = multiprocessing.get_context("spawn").Process(target=target, args=arguments)
    process.start()
    process.join()
    assert process.exitcode == 0


@pytest.mark.parametrize("at", [0, 1, 2 * (PORTED % 1000), 1999, 2000, 2007, 2008, 2015])
def test_damaged_block_is_never_answered_from(loaded: Workbench, at: int) -> None:
    key = BLOCK_KEY.pack(PORTED // 1000)
    put(loaded.store, "blocks", key, flipped(stored(loaded.store, "blocks", key), at))
    environment = native.Environment(str(loaded.store), MAP)
    worker = environment.reader()
    assert worker.entry(PORTED) is None
    assert worker.entry(BESIDE) is None
    assert worker.entry(TN(886923456789))
    assert environment.warm() == (3, [PORTED // 1000])
    del worker
    environment.close()
    with Reader(loaded.store, native=True) as reader:
        with pytest.raises(DamagedBlock):
            reader.entry(PORTED)
        assert reader.warm() == 1
        assert reader.damaged == {PORTED // 1000}


@pytest.mark.parametrize("value", [b"", b"\x01", bytes(2015), bytes(2017), bytes(2016), bytes(5000)])
def test_block_of_other_bytes_is_damaged(loaded: Workbench, value: bytes) -> None:
    put(loaded.store, "blocks", BLOCK_KEY.pack(PORTED // 1000), value)
    environment = native.Environment(str(loaded.store), MAP)
    assert environment.reader().entry(PORTED) is None
    assert environment.warm()[1] == [PORTED // 1000]
    environment.close()


def shuffle_pages(store: Path, seed: int) -> None:
    """Damage the headers of LMDB's own pages: flags, bounds, references; never the two meta pages."""
    data, random_ = store / "data.mdb", random.Random(seed)
    content = bytearray(data.read_bytes())
    pages = len(content) // 4096
    for _ in range(max(pages // 3, 3)):
        page = random_.randrange(2, pages) * 4096
        match random_.randrange(3):
            case 0:  # a branch page with one key, or none: LMDB's own assertion
                content[page + 10 : page + 12] = b"\x01\x00"
                content[page + 12 : page + 14] = random_.choice([b"\x10\x00", b"\x12\x00"])
            case 1:
                content[page + 10 : page + 12] = random_.choice([b"\x00\x00", b"\x01\x00", b"\x04\x00"])
            case 2:  # no keys
                content[page + 12 : page + 14] = b"\x10\x00"
    data.write_bytes(content)


def read_all(pipe: Connection, store: Path) -> None:
    """Ask everything; nothing but errors of ours and py-lmdb's may come of it."""
    pipe.send("open")
    said = []
    try:
        environment = native.Environment(str(store), MAP)
        reader = environment.reader()
        for tn in (PORTED, BESIDE, TN(886923456789), TN(1000 * 990_000_999)):
            try:
                reader.entry(tn)
            except StoreError as error:
                said.append(str(error))
        environment.warm()
    except StoreError as error:
        said.append(str(error))
    try:
        with Reader(store, native=True) as shaped:
            list(shaped.journal())
    except StoreError as error:
        said.append(str(error))
    pipe.send(said)


def test_lmdbs_own_assertions_are_errors(loaded: Workbench) -> None:
    with Writer(loaded.store) as writer:
        commit_filler(writer, 300, 990_000_000)
    sound = (loaded.store / "data.mdb").read_bytes()
    told: list[str] = []
    for seed in range(12):
        (loaded.store / "data.mdb").write_bytes(sound)
        shuffle_pages(loaded.store, seed)
        process = OtherProcess(read_all, loaded.store)
        told += process.pipe.recv()
        process.process.join()
        assert process.process.exitcode == 0
    assert any("Assertion" in said for said in told)


# -- a store in another's place --------------------------------------------------------------------------


def test_replaced_store_is_opened_beside_the_old_one(loaded: Workbench, tmp_path: Path) -> None:
    shutil.copytree(loaded.store, tmp_path / "restored")
    old = Reader(loaded.store, native=True)
    old_worker = old.native.reader() if old.native else None
    (loaded.store).rename(tmp_path / "away")
    (tmp_path / "restored").rename(loaded.store)
    assert old.replaced()
    new = Reader(loaded.store, native=True)
    assert not new.replaced()
    assert new.native is not None
    assert old_worker is not None
    assert new.native.reader().entry(PORTED) == old_worker.entry(PORTED) == new.entry(PORTED) == old.entry(PORTED)
    old.close()
    old_worker.pin()  # the workers let go of it when they like
    assert old_worker.entry(PORTED)
    assert new.entry(PORTED)
    del old_worker
    new.pin()
    assert new.entry(PORTED)
    new.close()
