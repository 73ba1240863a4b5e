"""A store that was damaged: never a wrong answer, never a traceback; verify names it, a snapshot mends what it can."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import lmdb
import msgspec
import pytest
from click.testing import CliRunner

from loader.cli import cli
from lookupd.engine import Engine
from lookupd.errors import DamagedBlock, StoreError
from lookupd.model import TN, Outcome, UnixSeconds
from lookupd.store.schema import (
    BLOCK_BYTES,
    BLOCK_KEY,
    DATABASES,
    DETAIL,
    META_FORMAT,
    META_STATE,
    NUMBERS_PER_BLOCK,
    ROUTE_KEY,
    SERIAL_KEY,
    U16,
    U32,
    RouteRecord,
    State,
    block_is_sound,
    decode_route,
    encode,
    pack_block,
    pack_state,
    unpack_details,
    unpack_state,
)
from lookupd.store.verify import Report, verify
from lookupd.store.writer import Writer
from tests.conftest import PLAN, SNAPSHOT, Workbench, run_cli

PORTED, BESIDE = TN(886912345678), TN(886912345000)  # both in the block that is damaged
BLOCK = PORTED // NUMBERS_PER_BLOCK
KEY = BLOCK_KEY.pack(BLOCK)
ELSEWHERE = {886923456789: "1401", 886223450000: "1403"}

# Offsets in a block's value: an entry that is in use, one that is not, both sums, and each end.
BLOCK_BYTES_HIT = [0, 1, 2 * (PORTED % 1000), 2 * (PORTED % 1000) + 1, 1999, 2000, 2007, 2008, 2015]


def stored(store: Path, database: str, key: bytes) -> bytes:
    environment = lmdb.open(str(store), readonly=True, max_dbs=16, lib_version=0)
    try:
        with environment.begin() as transaction:
            handle = environment.open_db(database.encode(), txn=transaction, create=False)
            value = transaction.get(key, db=handle)
    finally:
        environment.close()
    assert value is not None
    return value


def put(store: Path, database: str, key: bytes, value: bytes | None) -> None:
    """Write past our own code, as a bad disk would; None deletes."""
    environment = lmdb.open(str(store), map_size=1 << 26, max_dbs=16, lib_version=0)
    try:
        handle = environment.open_db(database.encode())
        with environment.begin(write=True, db=handle) as transaction:
            done = transaction.delete(key) if value is None else transaction.put(key, value)
            assert done
    finally:
        environment.close()


def flipped(value: bytes, at: int, mask: int = 0x01) -> bytes:
    changed = bytearray(value)
    changed[at] ^= mask
    return bytes(changed)


def damage(store: Path, database: str, key: bytes, change: Callable[[bytes], bytes | None]) -> None:
    put(store, database, key, change(stored(store, database, key)))


def verified(workbench: Workbench) -> Report:
    with workbench.reader() as reader:
        return verify(reader)


def verify_command(workbench: Workbench) -> tuple[int, list[str]]:
    """Exit code and problems of `lookupd-loader verify`, in this process."""
    result = CliRunner().invoke(cli, ["verify", "--store", str(workbench.store), "--json"])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, json.loads(result.stdout).get("problems", [])


def outcomes(workbench: Workbench, *numbers: int) -> list[tuple[Outcome, str | None]]:
    """Answers of an engine on this store."""
    engine = Engine(PLAN)
    with workbench.reader() as reader:
        engine.reader = reader
        engine.begin(UnixSeconds(2_000_000_000))
        answers = [engine.resolve(str(tn)) for tn in numbers]
    return [(answer.outcome, answer.route.network_code if answer.route else None) for answer in answers]


def mend(workbench: Workbench) -> int:
    """Load the same snapshot, at the same sequence, again; the store must be right in every respect after it."""
    result = workbench.snapshot()
    report = verified(workbench)
    assert report.problems == []
    with workbench.reader() as reader:
        assert reader.state.digest == report.digest == int(result.digest, 16)
        for tn, network in {886912345678: "1402", 886912345679: "1401", **ELSEWHERE}.items():
            ported = reader.ported(TN(tn))
            assert ported is not None
            assert ported.network_code == network
    return result.mended


# -- a block ---------------------------------------------------------------------------------------------


def test_every_flipped_bit_of_a_block_is_seen() -> None:
    chance = random.Random(7)
    value = pack_block(BLOCK, chance.randbytes(2000), chance.getrandbits(64))
    assert block_is_sound(BLOCK, value)
    assert not any(block_is_sound(BLOCK, flipped(value, at, 1 << chance.randrange(8))) for at in range(BLOCK_BYTES))
    assert not block_is_sound(BLOCK + 1, value)


@pytest.mark.parametrize("at", BLOCK_BYTES_HIT)
def test_flipped_byte_of_a_block_is_never_answered_from(loaded: Workbench, at: int) -> None:
    digest = loaded.state()[1]
    damage(loaded.store, "blocks", KEY, lambda value: flipped(value, at))
    with loaded.reader() as reader:
        for tn in (PORTED, BESIDE):
            with pytest.raises(DamagedBlock, match=f"block {BLOCK} .* is damaged: load the last snapshot again"):
                reader.entry(tn)
        with pytest.raises(StoreError):
            reader.ported(PORTED)
        assert reader.damaged == {BLOCK}
        assert reader.warm() == 1
    unavailable = (Outcome.UNAVAILABLE, None)
    expected = [unavailable, unavailable, *((Outcome.PORTED, network) for network in ELSEWHERE.values())]
    assert outcomes(loaded, PORTED, BESIDE, *ELSEWHERE) == expected

    report = verified(loaded)
    assert report.damaged_blocks == [BLOCK]
    code, problems = verify_command(loaded)
    assert (code, problems[0].startswith(f"block {BLOCK} is damaged")) == (6, True)
    assert mend(loaded) == 1
    assert loaded.state()[1] == digest


BLOCK_VALUES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda value: b"",
    "short by a byte": lambda value: value[:-1],
    "an odd half": lambda value: value[:999],
    "long by a byte": lambda value: value + b"\0",
    "zeros": lambda value: bytes(len(value)),
    "of another block": lambda value: pack_block(BLOCK + 1, value[:2000], 0),
}


@pytest.mark.parametrize("change", BLOCK_VALUES.values(), ids=BLOCK_VALUES)
def test_block_of_other_bytes_is_found_and_mended(loaded: Workbench, change: Callable[[bytes], bytes]) -> None:
    digest = loaded.state()[1]
    damage(loaded.store, "blocks", KEY, change)
    assert outcomes(loaded, PORTED, 886923456789) == [(Outcome.UNAVAILABLE, None), (Outcome.PORTED, "1401")]
    code, problems = verify_command(loaded)
    assert (code, problems[0].startswith(f"block {BLOCK} is damaged")) == (6, True)
    assert mend(loaded) == 1
    assert loaded.state()[1] == digest


def test_sound_block_with_a_wrong_content_digest_is_found(loaded: Workbench) -> None:
    damage(loaded.store, "blocks", KEY, lambda value: pack_block(BLOCK, value[:2000], 12345))
    assert "content digest does not match" in verify_command(loaded)[1][0]


def test_lost_block_is_found_and_mended(loaded: Workbench) -> None:
    digest = loaded.state()[1]
    put(loaded.store, "blocks", KEY, None)
    code, problems = verify_command(loaded)
    assert code == 6
    assert any(problem.startswith("count of blocks is 2, the state says 3") for problem in problems)
    mend(loaded)
    assert loaded.state()[1] == digest


def test_block_too_many_is_found_and_mended(loaded: Workbench) -> None:
    digest = loaded.state()[1]
    entries = bytearray(2000)
    U16.pack_into(entries, 0, 1)
    put(loaded.store, "blocks", BLOCK_KEY.pack(886912346), pack_block(886912346, entries, 0))
    assert verify_command(loaded)[0] == 6
    mend(loaded)
    assert loaded.state()[1] == digest
    assert outcomes(loaded, 886912346000) == [(Outcome.NOT_PORTED, "1403")]


def test_damaged_block_of_which_the_snapshot_has_no_number_is_mended_too(loaded: Workbench) -> None:
    damage(loaded.store, "blocks", KEY, lambda value: flipped(value, 0))
    rest = "".join(line + "\n" for line in SNAPSHOT.splitlines() if "8869123456" not in line)
    assert loaded.snapshot(rest).mended == 1
    assert verified(loaded).problems == []
    assert outcomes(loaded, PORTED) == [(Outcome.NOT_PORTED, "1403")]


def test_delta_into_a_damaged_block_is_refused(loaded: Workbench) -> None:
    damage(loaded.store, "blocks", KEY, lambda value: flipped(value, 0))
    state = loaded.state()
    with pytest.raises(StoreError, match=f"block {BLOCK} is damaged: load the last snapshot again"):
        loaded.delta({"kind": "return", "tn": str(PORTED)}, sequence=2)
    assert loaded.state() == state
    assert loaded.delta({"kind": "return", "tn": "886923456789"}, sequence=2).removed == 1  # another block


# -- details ---------------------------------------------------------------------------------------------

DETAILS: dict[str, Callable[[bytes], bytes | None]] = {
    **{f"byte {at}": lambda value, at=at: flipped(value, at) for at in (0, 2, 4, 8, 16, 31, 32, 39)},  # type: ignore[misc]
    "lost": lambda value: None,
    "empty": lambda value: b"",
    "short": lambda value: value[:-1],
    "a record short": lambda value: value[DETAIL.size :],
    "of nothing": lambda value: value[-8:],
}


@pytest.mark.parametrize("change", DETAILS.values(), ids=DETAILS)
def test_damaged_details_are_found_and_mended(loaded: Workbench, change: Callable[[bytes], bytes | None]) -> None:
    digest = loaded.state()[1]
    damage(loaded.store, "details", KEY, change)
    # The answer is in the block, which is sound.
    assert outcomes(loaded, PORTED, BESIDE) == [(Outcome.PORTED, "1402"), (Outcome.NOT_PORTED, "1403")]
    code, problems = verify_command(loaded)
    assert (code, len(problems)) == (6, 1)
    assert f"block {BLOCK}" in problems[0]
    assert mend(loaded) == 1
    assert loaded.state()[1] == digest


def test_damaged_details_are_not_shown_and_not_built_upon(loaded: Workbench) -> None:
    damage(loaded.store, "details", KEY, lambda value: flipped(value, 4))
    with loaded.reader() as reader, pytest.raises(StoreError, match=f"details of block {BLOCK} are damaged"):
        reader.ported(PORTED)
    with pytest.raises(StoreError, match=f"details of block {BLOCK} are damaged"):
        loaded.delta({"kind": "return", "tn": str(PORTED)}, sequence=2)


def test_every_flipped_byte_of_details_is_seen(loaded: Workbench) -> None:
    value = stored(loaded.store, "details", KEY)
    for at in range(len(value)):
        with pytest.raises(StoreError, match="are damaged"):
            unpack_details(BLOCK, flipped(value, at, 0x80))


# -- the journal -----------------------------------------------------------------------------------------


@pytest.fixture
def with_history(loaded: Workbench) -> Workbench:
    """Five journal entries of all shapes."""
    loaded.delta({"kind": "port", "tn": str(PORTED), "recipient": "1403", "ref": "A-1"}, sequence=2)
    loaded.delta({"kind": "return", "tn": str(BESIDE)}, sequence=3)
    return loaded


@pytest.mark.parametrize("serial", [1, 3, 5])  # the oldest, one between, the newest
def test_every_flipped_byte_of_a_journal_entry_is_found(with_history: Workbench, serial: int) -> None:
    store, key = with_history.store, SERIAL_KEY.pack(serial)
    value = stored(store, "journal", key)
    for at in range(len(value)):
        put(store, "journal", key, flipped(value, at, (0x01, 0x80, 0xFF)[at % 3]))
        report = verified(with_history)
        assert report.problem_count > 0, at
        assert "journal entry" in report.problems[0]
    put(store, "journal", key, value)
    assert verified(with_history).problems == []


def test_damaged_journal_is_told_by_the_command_and_answers_go_on(with_history: Workbench) -> None:
    damage(with_history.store, "journal", SERIAL_KEY.pack(4), lambda value: flipped(value, 20))
    code, problems = verify_command(with_history)
    assert (code, "journal entry" in problems[0]) == (6, True)
    assert outcomes(with_history, PORTED) == [(Outcome.PORTED, "1403")]


@pytest.mark.parametrize("serial", [1, 2, 3, 5])
def test_lost_journal_entry_is_found(with_history: Workbench, serial: int) -> None:
    put(with_history.store, "journal", SERIAL_KEY.pack(serial), None)
    code, problems = verify_command(with_history)
    assert (code, "journal" in problems[0]) == (6, True)


def test_nothing_is_written_when_the_newest_journal_entry_is_lost(with_history: Workbench) -> None:
    put(with_history.store, "journal", SERIAL_KEY.pack(5), None)
    state = with_history.state()
    with pytest.raises(StoreError, match="journal entry 5 is missing: restore the store from a backup"):
        with_history.snapshot(sequence=4)
    assert with_history.state() == state


def test_damaged_entry_in_a_numbers_history_is_said(with_history: Workbench) -> None:
    put(with_history.store, "journal", SERIAL_KEY.pack(4), b"\xc1")
    with with_history.reader() as reader, pytest.raises(StoreError, match="journal entry 4 is damaged"):
        reader.history(PORTED)


# -- the state -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [b"", b"\xc1", b"\x01", b"\x90\x90", b"\x93\x01\x02\xa1\xff", b"\xff" * 64])
def test_state_that_is_garbage_is_said_by_reader_and_writer(loaded: Workbench, value: bytes) -> None:
    put(loaded.store, "meta", META_STATE, value)
    with pytest.raises(StoreError, match=r"state.* damaged: .*; restore it"):
        loaded.reader()
    for act in (loaded.snapshot, lambda: loaded.delta({"kind": "return", "tn": str(PORTED)}, sequence=2)):
        with pytest.raises(StoreError, match=r"damaged: .*; restore it"):
            act()
    code, _ = verify_command(loaded)
    assert code == 1


def test_every_flipped_byte_of_the_state_is_said(loaded: Workbench) -> None:
    """A feed position one higher would skip a delta, and nothing else would tell."""
    value = stored(loaded.store, "meta", META_STATE)
    for at in range(len(value)):
        for mask in (0x01, 0x20, 0x80, 0xFF):
            put(loaded.store, "meta", META_STATE, flipped(value, at, mask))
            with pytest.raises(StoreError, match="damaged"):
                verified(loaded)
    put(loaded.store, "meta", META_STATE, value)
    assert verified(loaded).problems == []


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("serial", "journal ends at 3, the state says 2"),
        ("digest", "digest is "),
        ("ported", "count of ported numbers is 4, the state says 3"),
        ("blocks", "count of blocks is 3, the state says 2"),
    ],
)
def test_state_that_says_something_else_is_found(loaded: Workbench, name: str, problem: str) -> None:
    state = unpack_state(stored(loaded.store, "meta", META_STATE))
    changed = msgspec.structs.replace(state, **{name: getattr(state, name) - 1})
    put(loaded.store, "meta", META_STATE, pack_state(changed))
    code, problems = verify_command(loaded)
    assert (code, len(problems)) == (6, 1)
    assert problems[0].startswith(problem)


@pytest.mark.parametrize("name", ["digest", "ported", "blocks"])
def test_wrong_count_or_digest_of_the_state_is_mended_by_a_snapshot(loaded: Workbench, name: str) -> None:
    state = unpack_state(stored(loaded.store, "meta", META_STATE))
    put(
        loaded.store, "meta", META_STATE, pack_state(msgspec.structs.replace(state, **{name: getattr(state, name) + 7}))
    )
    mend(loaded)
    assert loaded.state()[1] == state.digest


def test_lost_state_is_found_and_not_built_upon(loaded: Workbench) -> None:
    put(loaded.store, "meta", META_STATE, None)
    assert verify_command(loaded)[0] == 6
    assert outcomes(loaded, PORTED) == [(Outcome.UNAVAILABLE, None)]
    with pytest.raises(StoreError, match="journal entry 1 exists already"):
        loaded.snapshot()


DAMAGER = """
import sys, lmdb
environment = lmdb.open(sys.argv[1], map_size=1 << 26, max_dbs=16, lib_version=0)
handle = environment.open_db(b"meta")
with environment.begin(write=True) as transaction:
    transaction.put(b"state", bytes.fromhex(sys.argv[2]), db=handle)
"""


def test_open_engine_is_unavailable_while_the_state_is_damaged(loaded: Workbench) -> None:
    value = stored(loaded.store, "meta", META_STATE)
    command = [sys.executable, "-c", DAMAGER, str(loaded.store)]
    engine = Engine(PLAN)
    with loaded.reader() as reader:
        engine.reader = reader
        for content, outcome in ((value, Outcome.PORTED), (b"\xc1", Outcome.UNAVAILABLE), (value, Outcome.PORTED)):
            subprocess.run([*command, content.hex()], check=True, timeout=30)
            engine.begin(UnixSeconds(2_000_000_000))
            assert engine.resolve(str(PORTED)).outcome is outcome
            assert ("damaged" in engine.reason) == (outcome is Outcome.UNAVAILABLE)


# -- the tables ------------------------------------------------------------------------------------------


def changed_route(**changed: object) -> Callable[[bytes], bytes]:
    def change(value: bytes) -> bytes:
        record: RouteRecord = msgspec.structs.replace(decode_route(value), **changed)
        return encode(record)

    return change


# Route 4 was made for the number with a routing number of its own.
@pytest.mark.parametrize(
    ("route_id", "change"),
    [
        (1, changed_route(operator="Somebody")),
        (1, changed_route(pdb_carrier_id=7)),
        (1, changed_route(routing_number="D7")),
        (1, changed_route(network_code="1409")),
        (4, changed_route(operator="Somebody")),
        (4, changed_route(pdb_carrier_id=7)),
        (4, changed_route(routing_number="D7")),
        (4, changed_route(network_code="1402")),
        (4, changed_route(network_code="1409")),
    ],
)
def test_changed_route_is_found(loaded: Workbench, route_id: int, change: Callable[[bytes], bytes]) -> None:
    damage(loaded.store, "routes", ROUTE_KEY.pack(route_id), change)
    assert verify_command(loaded)[0] == 6


@pytest.mark.parametrize("value", [b"", b"\xc1", b"\x95\xa41401\xc0\xa1\xff\xc0\xc3"])
def test_route_that_is_garbage_is_said_by_reader_and_writer(loaded: Workbench, value: bytes) -> None:
    put(loaded.store, "routes", ROUTE_KEY.pack(1), value)
    with pytest.raises(StoreError, match="damaged"):
        loaded.reader()
    with pytest.raises(StoreError, match="damaged"):
        loaded.snapshot()


def test_lost_route_is_unavailable_and_found(loaded: Workbench) -> None:
    put(loaded.store, "routes", ROUTE_KEY.pack(4), None)
    assert outcomes(loaded, 886923456789, PORTED) == [(Outcome.UNAVAILABLE, None), (Outcome.PORTED, "1402")]
    code, problems = verify_command(loaded)
    assert code == 6
    assert "number 886923456789: route 4 is missing" in problems
    assert loaded.snapshot().result == "applied"
    assert verified(loaded).problems == []  # the snapshot names the route, so it is made again
    assert outcomes(loaded, 886923456789) == [(Outcome.PORTED, "1401")]


@pytest.mark.parametrize("value", [b"\x09\x00", b"\xff\xff"])
def test_range_to_a_lost_route_is_unavailable_and_found(loaded: Workbench, value: bytes) -> None:
    put(loaded.store, "ranges", b"886912", value)
    assert outcomes(loaded, BESIDE, PORTED) == [(Outcome.UNAVAILABLE, None), (Outcome.PORTED, "1402")]
    code, problems = verify_command(loaded)
    assert (code, f"range 886912: route {U16.unpack(value)[0]} is missing" in problems) == (6, True)
    with pytest.raises(StoreError, match=r"range 886912: route .* is missing"):
        loaded.snapshot()


def test_range_of_another_size_is_said(loaded: Workbench) -> None:
    put(loaded.store, "ranges", b"886912", b"\x01")
    with pytest.raises(StoreError, match="damaged"):
        loaded.reader()


# -- the file --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [U32.pack(0), U32.pack(2), U32.pack(4), b"", b"\x01", None])
def test_other_format_version_is_refused(loaded: Workbench, version: bytes | None) -> None:
    put(loaded.store, "meta", META_FORMAT, version)
    with pytest.raises(StoreError, match=r"store format .*, this program reads 3: load a snapshot into a new store"):
        loaded.reader()
    if version is not None:
        with pytest.raises(StoreError, match=r"store format .*, this program reads 3"):
            Writer(loaded.store)
    assert verify_command(loaded)[0] == 1


def refused_by_every_command(workbench: Workbench, reason: str) -> None:
    """As processes of their own, since a map of a bad file can kill one."""
    snapshot = workbench.folder / "snapshot-main-1.csv"
    for module, *arguments in (
        ("loader.cli", "verify"),
        ("loader.cli", "snapshot", snapshot),
        ("lookupd.cli", "query", "886912345678"),
    ):
        done = run_cli(module, *arguments, "--store", workbench.store)
        assert (done.returncode, done.stdout) == (1, ""), (arguments, done)
        assert done.stderr.startswith(f"error: {workbench.store}"), done.stderr
        assert (reason in done.stderr, done.stderr.count("\n")) == (True, 1), done.stderr


@pytest.mark.parametrize("left", ["nothing", "a byte", "half", "all but a byte"])
def test_truncated_data_file_is_refused_by_every_command(loaded: Workbench, left: str) -> None:
    data = loaded.store / "data.mdb"
    whole = data.stat().st_size
    os.truncate(data, {"nothing": 0, "a byte": 1, "half": whole // 2, "all but a byte": whole - 1}[left])
    refused_by_every_command(loaded, "truncated")


@pytest.mark.parametrize("pages", range(1, 20, 3))
def test_data_file_truncated_at_any_page_is_refused(loaded: Workbench, pages: int) -> None:
    os.truncate(loaded.store / "data.mdb", pages * 4096)
    for act in (loaded.reader, loaded.snapshot):
        with pytest.raises(StoreError, match="truncated"):
            act()


@pytest.mark.parametrize("content", [b"not a store\n" * 20_000, bytes(200_000), random.Random(3).randbytes(200_000)])
def test_other_file_in_place_of_the_data_is_refused(loaded: Workbench, content: bytes) -> None:
    (loaded.store / "data.mdb").write_bytes(content)
    refused_by_every_command(loaded, "File is not an LMDB file")


def test_short_file_in_place_of_the_data_is_refused(workbench: Workbench) -> None:
    workbench.store.mkdir()
    (workbench.store / "data.mdb").write_bytes(b"x")
    workbench.publish("snapshot-main-1.csv", SNAPSHOT, 4)
    refused_by_every_command(workbench, "File is not an LMDB file")


def foreign_store(store: Path, databases: dict[str, dict[bytes, bytes]]) -> None:
    """An LMDB environment of somebody else."""
    shutil.rmtree(store, ignore_errors=True)
    store.mkdir()
    environment = lmdb.open(str(store), map_size=1 << 24, max_dbs=16, lib_version=0)
    for name, content in databases.items():
        handle = environment.open_db(name.encode() if name else None)
        with environment.begin(write=True, db=handle) as transaction:
            for key, value in content.items():
                transaction.put(key, value)
    environment.close()


@pytest.mark.parametrize(
    ("databases", "reason"),
    [
        ({"": {b"key": b"value"}}, "not a store of ours"),
        ({"users": {b"key": b"value"}}, "not a store of ours"),
        ({"meta": {b"format": b"mine"}}, "store format"),
        ({name: {b"key": b"value"} for name in DATABASES}, "store format none"),
        ({name: {b"format": U32.pack(7)} for name in DATABASES}, "store format 7"),
    ],
    ids=["plain", "one database", "a database of our name", "all of our names", "another format"],
)
def test_lmdb_of_other_content_is_refused_by_readers(
    workbench: Workbench, databases: dict[str, dict[bytes, bytes]], reason: str
) -> None:
    foreign_store(workbench.store, databases)
    with pytest.raises(StoreError, match=reason):
        workbench.reader()


def test_format_of_another_kind_is_refused_by_writers(workbench: Workbench) -> None:
    foreign_store(workbench.store, {name: {b"format": b"mine"} for name in DATABASES})
    with pytest.raises(StoreError, match="this program reads 3"):
        Writer(workbench.store)


def root_page(store: Path, database: str) -> int:
    """Number of the page where a database's tree starts: the last of the nine words LMDB keeps of it."""
    environment = lmdb.open(str(store), readonly=True, max_dbs=16, lib_version=0)
    try:
        with environment.begin() as transaction:
            record = dict(transaction.cursor())[database.encode()]
    finally:
        environment.close()
    return int.from_bytes(record[-8:], "little")


@pytest.mark.parametrize("database", ["blocks", "details", "journal", "routes", "ranges", "meta"])
def test_page_that_lost_its_content_is_told(loaded: Workbench, database: str) -> None:
    with (loaded.store / "data.mdb").open("r+b") as data:
        page = root_page(loaded.store, database)
        data.seek(page * 4096)
        data.write(bytes(4096))
    done = run_cli("loader.cli", "verify", "--store", loaded.store)
    assert done.returncode == (6 if database in {"blocks", "details", "journal"} else 1), done
    assert "Traceback" not in done.stderr
    assert "MDB_CORRUPTED" in done.stdout + done.stderr
    asked = run_cli("lookupd.cli", "query", "886912345678", "--store", loaded.store)
    assert "Traceback" not in asked.stderr
    assert ("1402" in asked.stdout) == (database in {"details", "journal"})


def test_missing_store_is_said(workbench: Workbench) -> None:
    with pytest.raises(StoreError, match="no store here: load a snapshot with lookupd-loader first"):
        workbench.reader()
    assert not workbench.store.exists()


def test_store_that_is_a_file_is_said(workbench: Workbench) -> None:
    workbench.store.write_text("a file")
    for act in (workbench.reader, workbench.snapshot):
        with pytest.raises(StoreError):
            act()


def test_state_is_what_the_tests_take_it_for(loaded: Workbench) -> None:
    """A change of the layout must not leave the tests above without a target."""
    assert len(stored(loaded.store, "blocks", KEY)) == BLOCK_BYTES
    assert len(stored(loaded.store, "details", KEY)) == 2 * DETAIL.size + 8
    serial, digest, _ = loaded.state()
    state: State = unpack_state(stored(loaded.store, "meta", META_STATE))
    assert (state.serial, state.digest) == (serial, digest)
