"""The native environment in py-lmdb's shape: on a store with everything in it, each says what the other says.

One process must not open a store through both libraries, so each opens it here after the other has closed it.
"""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import lmdb
import pytest

from lookupd.model import TN
from lookupd.store.portable import Pinned
from lookupd.store.reader import Reader
from lookupd.store.schema import BLOCK_KEY, DATABASES, META_STATE, State, pack_state
from lookupd.store.verify import verify
from lookupd.store.writer import Writer
from tests.conftest import NETWORKS, Workbench
from tests.unit.test_damage import put
from tests.unit.test_native_store import BESIDE, MAP, MOVED, PORTED, commit_moves

native = pytest.importorskip("lookupd._native")


@pytest.fixture
def everything(loaded: Workbench) -> Workbench:
    """A store with something in every database that is in use."""
    loaded.load_tables(NETWORKS + "1404,Delta,D0404,104\n")
    loaded.delta({"kind": "port", "tn": "886223451111", "recipient": "1402", "routing_number": "D7"}, sequence=2)
    loaded.delta({"kind": "return", "tn": str(PORTED)}, sequence=3)
    moments = [f"2099-01-0{day}T00:00:00Z" for day in range(1, 6)]
    notices = [
        {"kind": "port", "tn": f"88692345{n}", "recipient": "1401", "effective_at": moments[n % 5]}
        for n in range(6000, 6150)
    ]
    loaded.delta(*notices, sequence=4)
    loaded.snapshot(sequence=5)
    with Writer(loaded.store) as writer:
        commit_moves(writer, 200)
    return loaded


def listed(values: Any) -> list[Any]:
    return [tuple(bytes(part) if isinstance(part, memoryview) else part for part in value) for value in values]


def told_by(store: Path, is_native: bool) -> dict[str, Any]:
    """Everything that a reader's methods say of a store."""
    with Reader(store, native=is_native) as reader:
        numbers = [PORTED, BESIDE, *MOVED, TN(886223451111), TN(886923456789), TN(99999)]
        told: dict[str, Any] = {
            "state": reader.state,
            "entries": [reader.entry(tn) for tn in numbers],
            "ported": [reader.ported(tn) for tn in numbers],
            "routes": [route and (route, reader.route(n)) for n, route in enumerate(reader.routes)],
            "holders": [reader.range_holder(str(tn)) for tn in numbers],
            "records": reader.route_records(),
            "ranges": reader.ranges(),
            "pending": reader.pending(),
            "waiting": reader.waiting(),
            "stored": [reader.stored("meta", META_STATE), reader.stored("routes", b"none")],
            "anchor": reader.anchor(),
            "history": [reader.history(tn) for tn in numbers],
            "receipts": list(reader.receipts()),
            "receipts_from": list(reader.receipts(3)),
            "newest": reader.newest_receipts(2),
            "journal": list(reader.journal()),
            "blocks": listed(reader.blocks()),
            "blocks_from": listed(reader.blocks(886_223_450)),
            "details": listed(reader.details()),
            "sizes": {name: size for name, size in reader.sizes().items() if name != "readers"},
            "stat": reader._environment.stat(),
            "version": reader.transaction.id(),
            "warm": (reader.warm(), reader.damaged),
            "verify": verify(reader).problems,
        }
        for name in DATABASES:
            told[name] = list(reader.stored_from(name))
            told[name + " from"] = list(reader.stored_from(name, b"\x00\x00\x00\x01"))
        with Pinned(reader) as pinned:
            told["contents"] = list(pinned.contents())
            told["rows"] = [pinned.rows(tn // 1000) for tn in numbers]
            told["networks"] = list(pinned.networks())
            told["pinned ranges"] = list(pinned.ranges())
        return told


def test_every_method_of_the_reader_says_the_same_on_either_environment(everything: Workbench) -> None:
    python, shaped = told_by(everything.store, False), told_by(everything.store, True)
    assert python.keys() == shaped.keys()
    for name, told in python.items():
        assert shaped[name] == told, name
    assert python["pending"]
    assert python["newest"]
    assert len(python["journal"]) > 200


def test_worker_says_what_the_python_reader_says(everything: Workbench) -> None:
    numbers = [TN(int(f"8869{n:08}")) for n in range(0, 100_000_000, 9_973)] + [PORTED, BESIDE, *MOVED]
    with Reader(everything.store) as reader:
        entries = [reader.entry(tn) for tn in numbers]
        holders = [reader.range_holder(str(tn)) for tn in numbers]
        routes, state = reader.routes, reader.state
    environment = native.Environment(str(everything.store), MAP)
    worker = environment.reader()
    assert [worker.entry(tn) for tn in numbers] == entries
    assert [worker.range_holder(str(tn)) for tn in numbers] == [holder and holder[1] for holder in holders]
    for route_id, route in enumerate(routes):
        assert worker.route(route_id) == (
            route and (route.network_code, route.routing_number, route.operator, route.pdb_carrier_id, route.own)
        )
    assert worker.route(len(routes)) is None
    confirmed = min(position.confirmed_at for position in state.feeds.values())
    assert worker.state() == (state.serial, state.tables, state.digest, confirmed)
    environment.close()


def walk(environment: Any, moves: list[tuple[str, bytes]]) -> list[object]:
    """Where a cursor comes to, step by step."""
    handle = environment.open_db(b"journal", create=False)
    seen: list[object] = []
    with environment.begin(db=handle) as transaction, transaction.cursor() as cursor:
        for move, key in moves:
            moved = cursor.set_range(key) if move == "set_range" else getattr(cursor, move)()
            seen.append((move, moved, bytes(cursor.key()), bytes(cursor.value())))
            other = transaction.cursor()  # py-lmdb's iterators move their cursor, ours do not
            other.set_range(key)
            seen.append([bytes(found) for found in other.iternext(values=False)])
        stat = transaction.stat(handle)
    return [*seen, stat, environment.info()["last_pgno"], environment.info()["max_readers"]]


def test_cursors_walk_as_py_lmdbs_do(everything: Workbench) -> None:
    random_ = random.Random(7)
    keys = [b"", b"\x00", *(BLOCK_KEY.pack(random_.randrange(230)) for _ in range(40)), b"\xff"]
    moves = [(random_.choice(["set_range", "first", "last", "next", "prev"]), random_.choice(keys)) for _ in range(400)]
    # After a step off the end only a new beginning is defined.
    python = lmdb.open(str(everything.store), readonly=True, max_dbs=16, max_readers=1024, lib_version=0)
    kept: list[tuple[str, bytes]] = []
    with python.begin() as transaction:
        cursor = transaction.cursor(python.open_db(b"journal", txn=transaction, create=False))
        on = True
        for move, key in moves:
            if on or move not in ("next", "prev"):
                kept.append((move, key))
                on = cursor.set_range(key) if move == "set_range" else getattr(cursor, move)()
    expected = walk(python, kept)
    python.close()
    environment = native.Environment(str(everything.store), MAP)
    assert walk(environment, kept) == expected
    environment.close()


def test_what_has_ended_raises_lmdbs_error(loaded: Workbench) -> None:
    environment = native.Environment(str(loaded.store), MAP)
    handle = environment.open_db(b"blocks")
    transaction = environment.begin(db=handle)
    cursor = transaction.cursor()
    assert cursor.first()
    records = cursor.iternext()
    next(records)
    key = cursor.key()
    transaction.abort()
    transaction.abort()
    for use in (
        lambda: transaction.get(key),
        transaction.cursor,
        transaction.id,
        lambda: transaction.stat(handle),
        cursor.next,
        cursor.key,
        cursor.value,
        cursor.iternext,
        lambda: next(records),
    ):
        with pytest.raises(lmdb.Error):
            use()
    left = environment.begin()
    environment.close()
    environment.close()
    with pytest.raises(lmdb.Error):
        left.get(b"blocks")
    for use in (environment.begin, environment.info, environment.stat, environment.reader_check, environment.warm):
        with pytest.raises(lmdb.Error):
            use()


def test_native_environment_refuses_to_write(loaded: Workbench) -> None:
    environment = native.Environment(str(loaded.store), MAP)
    with pytest.raises(lmdb.ReadonlyError):
        environment.begin(write=True)
    with pytest.raises(lmdb.ReadonlyError):
        environment.open_db(b"blocks", create=True)
    with pytest.raises(lmdb.NotFoundError):
        environment.open_db(b"others")
    with pytest.raises(lmdb.BadValsizeError):
        environment.begin().get(b"")
    with pytest.raises(lmdb.Error):
        environment.set_mapsize(1 << 20)
    environment.set_mapsize(0)


def test_closed_store_can_be_opened_by_py_lmdb_in_the_same_process(loaded: Workbench) -> None:
    """`close` lets go of the files at once, though the object is still there."""
    with Reader(loaded.store, native=True) as reader:
        entry = reader.entry(PORTED)
    files = [os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.exists()]
    assert [name for name in files if name.startswith(str(loaded.store))] == []
    with Writer(loaded.store) as writer:
        assert commit_moves(writer, 3)
    with Reader(loaded.store, native=True) as reader:
        assert reader.entry(PORTED) == entry
        assert len({reader.entry(tn) for tn in MOVED}) == 1


def test_empty_state_is_read_as_python_reads_it(loaded: Workbench) -> None:
    put(loaded.store, "meta", META_STATE, pack_state(State(tables=7)))
    environment = native.Environment(str(loaded.store), MAP)
    assert environment.reader().state() == (0, 7, 0, None)
    environment.close()
