"""Damaged blocks mended from the snapshot's file and the journal: byte for byte what was there, or nothing."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from pathlib import Path

import lmdb
import pytest

from loader.files import identify
from loader.mend import Mended, mend_from_snapshot, needed_snapshot
from loader.pending import fire_due
from lookupd.errors import FeedError, LookupdError, Rejected, StoreError
from lookupd.model import JournalKind, UnixMillis, UnixSeconds
from lookupd.store.schema import BLOCK_KEY
from lookupd.store.scrub import scrub
from lookupd.store.verify import verify
from lookupd.store.writer import Writer
from lookupd.units import format_time, parse_time
from tests.conftest import PLAN, Workbench, dump, run_cli
from tests.keeping import BLOCKS, UNTOUCHED, Past, flip, make_past, twin

SEED = 20261122
REASON = "noc: a disk lost bits"
WAITED_FOR = "2100-01-01T12:00:00+08:00"
CHANGED_BY_MENDING = {"journal", "meta"}

Hit = Callable[[Path], None]


def both(store: Path) -> None:
    """Blocks and details, together and apart, one of each beside whole ones."""
    flip(store, "blocks", BLOCKS[0], 345)
    flip(store, "details", BLOCKS[0], 17)
    flip(store, "blocks", BLOCKS[1], 2015, 0x80)
    flip(store, "details", BLOCKS[2], 5, 0x10)
    flip(store, "blocks", UNTOUCHED, 0, 0x02)


HITS: dict[str, Hit] = {
    "an entry": lambda store: flip(store, "blocks", BLOCKS[0], 2 * 345),
    "a content digest": lambda store: flip(store, "blocks", BLOCKS[1], 2003),
    "a checksum": lambda store: flip(store, "blocks", BLOCKS[2], 2010),
    "details": lambda store: flip(store, "details", BLOCKS[0], 30),
    "the checksum of details": lambda store: flip(store, "details", BLOCKS[3], -1),
    "a block that no delta touched": lambda store: flip(store, "blocks", UNTOUCHED, 8),
    "several": both,
}


def mend(workbench: Workbench, file: Path, blocks: tuple[int, ...] = ()) -> Mended:
    with Writer(workbench.store) as writer:
        found = identify(file, "snapshot", "main")
        return mend_from_snapshot(writer, found, PLAN, blocks, UnixSeconds(4_200_000_000), REASON)


def assert_as_never_damaged(past: Past, whole: Workbench) -> None:
    """Every byte of every table but the journal and the state, and there only one more entry."""
    mended, before = dump(past.workbench.store), dump(whole.store)
    for name, rows in before.items():
        if name not in CHANGED_BY_MENDING:
            assert mended[name] == rows, name
    assert len(mended["journal"]) == len(before["journal"]) + 1
    with past.workbench.reader() as reader, whole.reader() as other:
        assert reader.state.digest == other.state.digest
        assert (reader.state.ported, reader.state.blocks) == (other.state.ported, other.state.blocks)
        assert reader.state.feeds == other.state.feeds
        assert verify(reader).problems == []
    past.check()


@pytest.mark.parametrize("hit", HITS.values(), ids=HITS.keys())
def test_mended_store_is_byte_for_byte_the_one_before_the_damage(workbench: Workbench, hit: Hit) -> None:
    past = make_past(workbench, SEED)
    whole = twin(workbench, "whole")
    hit(workbench.store)
    with workbench.reader() as reader:
        report = scrub(reader)
    mended = mend(workbench, workbench.folder / "snapshot-main-1.csv", tuple(report.to_mend))
    assert (list(mended.blocks), list(mended.details)) == (report.damaged_blocks, report.damaged_details)
    assert_as_never_damaged(past, whole)


@pytest.mark.parametrize("seed", range(4))
def test_mended_store_agrees_with_the_model_whatever_its_past(workbench: Workbench, seed: int) -> None:
    past = make_past(workbench, seed, deltas=seed % 3)
    file = past.snapshot()
    past.deltas(4 - seed % 2, notices=60)
    past.check()
    whole = twin(workbench, "whole")
    chance = random.Random(seed)
    for block in BLOCKS:
        flip(workbench.store, "blocks", block, chance.randrange(2016), 1 << chance.randrange(8))
        flip(workbench.store, "details", block, chance.randrange(100), 1 << chance.randrange(8))
    assert mend(workbench, file).blocks == BLOCKS
    assert_as_never_damaged(past, whole)


def test_number_ported_by_a_notice_that_waited_is_mended_too(workbench: Workbench) -> None:
    past = make_past(workbench, SEED, deltas=0)
    tn = BLOCKS[0] * 1000 + 500
    later: dict[str, object] = {"kind": "port", "tn": str(tn), "recipient": "1402", "effective_at": WAITED_FOR}
    workbench.delta(later, sequence=2)
    past.sequence = 2
    with Writer(workbench.store) as writer:
        fired = fire_due(writer, UnixMillis(parse_time(WAITED_FOR) * 1000))
    assert fired is not None
    assert fired.notices == 1
    whole = twin(workbench, "whole")
    flip(workbench.store, "blocks", BLOCKS[0], 1)
    flip(workbench.store, "details", BLOCKS[0], 1)
    mend(workbench, workbench.folder / "snapshot-main-1.csv")
    past.model[tn] = ("1402", None, None, int(parse_time(WAITED_FOR)), 2)
    assert_as_never_damaged(past, whole)


def test_lost_block_is_mended_when_it_is_named(workbench: Workbench) -> None:
    past = make_past(workbench, SEED)
    whole = twin(workbench, "whole")
    environment = lmdb.open(str(workbench.store), map_size=1 << 30, max_dbs=16, lib_version=0)
    try:
        with environment.begin(write=True) as transaction:
            handle = environment.open_db(b"blocks", txn=transaction)
            assert transaction.delete(BLOCK_KEY.pack(BLOCKS[1]), db=handle)
    finally:
        environment.close()
    file = workbench.folder / "snapshot-main-1.csv"
    with pytest.raises(StoreError, match="digest would be"):
        mend(workbench, file)
    assert mend(workbench, file, (BLOCKS[1],)).blocks == (BLOCKS[1],)
    assert_as_never_damaged(past, whole)


def test_repair_is_a_journal_entry_with_source_and_words(workbench: Workbench) -> None:
    make_past(workbench, SEED)
    both(workbench.store)
    mended = mend(workbench, workbench.folder / "snapshot-main-1.csv")
    with workbench.reader() as reader:
        serial, entry, _ = list(reader.journal())[-1]
        assert (serial, entry.kind, entry.reason) == (mended.serial, JournalKind.REPAIRED, REASON)
        assert entry.source == f"snapshot-main-1.csv, blocks {', '.join(map(str, sorted((*BLOCKS[:3], UNTOUCHED))))}"
        assert (entry.added, entry.removed, entry.changed, entry.digest) == (0, 0, 0, reader.state.digest)


def test_sound_store_is_left_as_it_is(workbench: Workbench) -> None:
    make_past(workbench, SEED)
    before = dump(workbench.store)
    mended = mend(workbench, workbench.folder / "snapshot-main-1.csv", BLOCKS)
    assert (mended.blocks, mended.details, mended.numbers) == ((), (), 0)
    assert dump(workbench.store) == before


def refused(workbench: Workbench, file: Path, error: type[LookupdError], match: str) -> None:
    before = dump(workbench.store)
    with pytest.raises(error, match=match):
        mend(workbench, file)
    assert dump(workbench.store) == before


def test_file_older_than_a_snapshot_that_changed_the_block_is_refused_by_name(workbench: Workbench) -> None:
    past = make_past(workbench, SEED)
    newer = past.snapshot()
    past.deltas(1)
    flip(workbench.store, "blocks", BLOCKS[0], 1)
    refused(
        workbench,
        workbench.folder / "snapshot-main-1.csv",
        FeedError,
        rf"snapshot-main-1.csv: {newer.name} at 5 was loaded after it and changed block {BLOCKS[0]}: take that file",
    )
    assert mend(workbench, newer).blocks == (BLOCKS[0],)
    past.check()


def test_file_that_says_something_else_is_refused_by_the_digest(workbench: Workbench) -> None:
    make_past(workbench, SEED)
    flip(workbench.store, "blocks", UNTOUCHED, 1)
    good = (workbench.folder / "snapshot-main-1.csv").read_text()
    first = re.search(rf"^{UNTOUCHED}\d+,(\d+),.*$", good, re.MULTILINE)
    assert first is not None
    other = first[0].replace(f",{first[1]},", f",{'1401' if first[1] != '1401' else '1402'},", 1)
    bad = workbench.publish("snapshot-main-1.csv", good.replace(first[0], other), good.count("\n") - 1)
    refused(workbench, bad, StoreError, "does not mend the store: digest would be")


def test_details_only_damaged_are_not_mended_with_other_numbers(workbench: Workbench) -> None:
    make_past(workbench, SEED)
    flip(workbench.store, "details", UNTOUCHED, 1)
    good = (workbench.folder / "snapshot-main-1.csv").read_text()
    rows = [line for line in good.splitlines() if not line.startswith(f"{UNTOUCHED}00")]
    bad = workbench.publish("snapshot-main-1.csv", "\n".join(rows) + "\n", len(rows) - 1)
    refused(workbench, bad, StoreError, f"block {UNTOUCHED}, whose details are damaged, holds other numbers")


def test_bad_row_of_a_damaged_block_is_told_by_line(workbench: Workbench) -> None:
    make_past(workbench, SEED)
    flip(workbench.store, "blocks", UNTOUCHED, 1)
    lines = (workbench.folder / "snapshot-main-1.csv").read_text().splitlines()
    at = next(at for at, line in enumerate(lines) if line.startswith(str(UNTOUCHED)))
    lines[at] += "x"
    bad = workbench.publish("snapshot-main-1.csv", "\n".join(lines) + "\n", len(lines) - 1)
    refused(workbench, bad, Rejected, rf"snapshot-main-1.csv:{at + 1}: ")


def test_file_newer_than_the_store_is_refused(workbench: Workbench) -> None:
    make_past(workbench, SEED)
    flip(workbench.store, "blocks", UNTOUCHED, 1)
    text = (workbench.folder / "snapshot-main-1.csv").read_text()
    refused(workbench, workbench.publish("snapshot-main-9.csv", text, text.count("\n") - 1), FeedError, "is newer than")


def test_snapshot_that_was_never_loaded_mends_from_its_place_in_the_journal(workbench: Workbench) -> None:
    past = make_past(workbench, SEED)
    text = "tn,network_code,routing_number,donor,ported_at\n" + "".join(
        f"{tn},{code},{own or ''},{donor or ''},{stamp(at)}\n" for tn, (code, own, donor, at, _) in past.model.items()
    )
    past.deltas(2)
    whole = twin(workbench, "whole")
    both(workbench.store)
    file = workbench.publish("snapshot-main-4.csv", text, text.count("\n") - 1)
    mend(workbench, file)
    assert_as_never_damaged(past, whole)


def stamp(at: int | None) -> str:
    return format_time(at) or ""


def test_needed_snapshot_is_the_one_loaded_last(workbench: Workbench) -> None:
    past = make_past(workbench, SEED)
    past.snapshot()
    with workbench.reader() as reader:
        assert needed_snapshot(reader) == ("snapshot-main-5.csv", "main", 5)


# -- the command -----------------------------------------------------------------------------------------


def test_repair_mends_and_says_what_it_mended(workbench: Workbench) -> None:
    past = make_past(workbench, SEED)
    whole = twin(workbench, "whole")
    both(workbench.store)
    options = ("--reason", REASON, "--store", workbench.store)
    missing = run_cli("loader.cli", "repair", *options)
    assert (missing.returncode, missing.stderr.count("\n")) == (1, 1)
    assert "snapshot-main-1.csv of feed 'main' is not there: name it with --from-snapshot" in missing.stderr
    file = workbench.folder / "snapshot-main-1.csv"
    done = run_cli("loader.cli", "repair", "--from-snapshot", file, *options, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert told["blocks"] == [*BLOCKS[:2], UNTOUCHED]
    assert told["details"] == [BLOCKS[0], BLOCKS[2]]
    assert_as_never_damaged(past, whole)
    again = run_cli("loader.cli", "repair", "--from-snapshot", file, *options)
    assert again.stdout.startswith(f"{workbench.store}: nothing is damaged: digest=")


def test_repair_finds_the_snapshot_in_the_spool(workbench: Workbench) -> None:
    past = make_past(workbench, SEED)
    flip(workbench.store, "blocks", BLOCKS[0], 1)
    spool = workbench.store / "spool" / "main"
    spool.mkdir(parents=True)
    for name in ("snapshot-main-1.csv", "snapshot-main-1.csv.json"):
        (workbench.folder / name).rename(spool / name)
    done = run_cli("loader.cli", "repair", "--reason", REASON, "--config", workbench.config())
    assert (done.returncode, done.stderr) == (0, "")
    past.check()


def test_repair_without_words_is_a_wrong_use(workbench: Workbench) -> None:
    make_past(workbench, SEED, deltas=0)
    for words in ((), ("--reason", "because")):
        done = run_cli("loader.cli", "repair", *words, "--store", workbench.store)
        assert done.returncode == 2
        assert "--reason" in done.stderr
