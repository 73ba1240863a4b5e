"""Scrub: finds every damaged byte, raises no false alarm between commits, and proves the digest."""

from __future__ import annotations

import json
import random

import lmdb
import pytest

from lookupd.store.reader import Reader
from lookupd.store.schema import BLOCK_KEY, ENTRIES_BYTES, pack_block
from lookupd.store.scrub import Scrubber, ScrubReport, scrub
from lookupd.store.writer import Writer
from tests.conftest import Workbench, run_cli
from tests.keeping import BLOCKS, UNTOUCHED, flip, make_past, twin

SEED = 20261122


def scrubbed(workbench: Workbench) -> ScrubReport:
    with workbench.reader() as reader:
        return scrub(reader)


def passed(scrubber: Scrubber, reader: Reader, budget: int = 1000) -> ScrubReport:
    """The report of the pass that is under way."""
    for _ in range(1000):
        reader.pin()
        if (report := scrubber.step(reader, budget)) is not None:
            return report
    raise AssertionError("the pass never ends")


def test_whole_store_has_no_problem_and_its_digest_is_proven(workbench: Workbench) -> None:
    past = make_past(workbench, SEED)
    told: list[int] = []
    with workbench.reader() as reader:
        report = scrub(reader, told.append)
        assert report.whole
        assert (report.blocks, report.details, report.digest) == (5, 5, reader.state.digest)
        assert sum(told) == 10
    assert past.model


def test_empty_store_has_no_problem(workbench: Workbench) -> None:
    workbench.load_tables()
    report = scrubbed(workbench)
    assert (report.problems, report.blocks) == ([], 0)


@pytest.mark.parametrize("database", ["blocks", "details"])
def test_every_flipped_byte_is_found(workbench: Workbench, database: str) -> None:
    make_past(workbench, SEED)
    chance = random.Random(SEED)
    positions = [0, 1, 1999, 2000, 2007, 2008, 2015, *(chance.randrange(2016) for _ in range(20))]
    for at in positions:
        block, mask = chance.choice(BLOCKS), 1 << chance.randrange(8)
        flip(workbench.store, database, block, at, mask)
        report = scrubbed(workbench)
        found = report.damaged_blocks if database == "blocks" else report.damaged_details
        assert (found, report.to_mend) == ([block], [block]), (at, mask)
        assert f"block {block}" in report.problems[0]
        flip(workbench.store, database, block, at, mask)
    assert scrubbed(workbench).whole


def test_block_with_a_wrong_content_digest_under_a_right_checksum_is_named(workbench: Workbench) -> None:
    make_past(workbench, SEED)
    put_block(workbench, UNTOUCHED, 12345)
    report = scrubbed(workbench)
    assert report.damaged_blocks == []
    assert "digest is" in report.problems[0]
    assert f"block {UNTOUCHED}: content digest does not match its entries" in report.problems


def put_block(workbench: Workbench, block: int, content: int) -> None:
    environment = lmdb.open(str(workbench.store), map_size=1 << 30, max_dbs=16, lib_version=0)
    try:
        handle = environment.open_db(b"blocks")
        with environment.begin(write=True, db=handle) as transaction:
            entries = bytes(transaction.get(BLOCK_KEY.pack(block)) or b"")[:ENTRIES_BYTES]
            transaction.put(BLOCK_KEY.pack(block), pack_block(block, entries, content))
    finally:
        environment.close()


def test_lost_block_shows_in_the_digest(workbench: Workbench) -> None:
    make_past(workbench, SEED)
    environment = lmdb.open(str(workbench.store), map_size=1 << 30, max_dbs=16, lib_version=0)
    try:
        handle = environment.open_db(b"blocks")
        with environment.begin(write=True, db=handle) as transaction:
            assert transaction.delete(BLOCK_KEY.pack(UNTOUCHED))
    finally:
        environment.close()
    assert "digest is" in scrubbed(workbench).problems[0]


def test_state_that_says_another_digest_is_a_problem(workbench: Workbench) -> None:
    make_past(workbench, SEED)
    with Writer(workbench.store) as writer, writer.change(1) as change:  # type: ignore[arg-type]
        change.digest += 1
    assert "digest is" in scrubbed(workbench).problems[0]


@pytest.mark.parametrize("budget", [1, 2, 3, 5, 9, 10, 11, 1000])
def test_steps_of_any_size_read_everything_once(workbench: Workbench, budget: int) -> None:
    make_past(workbench, SEED)
    flip(workbench.store, "details", UNTOUCHED, 3)
    with workbench.reader() as reader:
        scrubber = Scrubber()
        steps, read = 0, 0
        report = None
        while report is None:
            report = scrubber.step(reader, budget)
            steps += 1
            assert scrubber.checked - read <= budget
            read = scrubber.checked
        assert (report.blocks, report.details, report.damaged_details) == (5, 5, [UNTOUCHED])
        assert steps >= 10 / budget


def test_commits_between_the_steps_raise_no_alarm(workbench: Workbench) -> None:
    past = make_past(workbench, SEED)
    scrubber = Scrubber()
    reports = []
    for _ in range(24):
        with workbench.reader() as reader:
            if (report := scrubber.step(reader, 1)) is not None:
                reports.append(report)
                assert report.digest == reader.state.digest
        past.delta(5)
    assert len(reports) >= 2
    assert [report.problems for report in reports] == [[]] * len(reports)


def test_damage_is_told_before_the_pass_ends_and_forgotten_once_mended(workbench: Workbench) -> None:
    past = make_past(workbench, SEED)
    whole = twin(workbench, "whole")
    flip(workbench.store, "blocks", BLOCKS[0], 7)
    scrubber = Scrubber()
    with workbench.reader() as reader:
        assert scrubber.step(reader, 2) is None
        assert scrubber.found.to_mend == [BLOCKS[0]]
    with whole.reader() as reader:  # as after a mend between two steps
        report = passed(scrubber, reader)
        assert (report.problems, report.damaged_blocks) == ([], [])
        assert scrubber.found.to_mend == []
        assert report.digest == reader.state.digest
    assert past.model


def test_scrubber_says_how_long_ago_the_last_pass_ended(loaded: Workbench) -> None:
    now = [100.0]
    scrubber = Scrubber(lambda: now[0])
    with loaded.reader() as reader:
        assert scrubber.seconds_since_pass is None
        passed(scrubber, reader)
        now[0] += 42
        assert scrubber.seconds_since_pass == 42
        passed(scrubber, reader, budget=1)
        assert scrubber.seconds_since_pass == 0


def test_verify_scrub_names_what_is_damaged_and_ends_with_6(workbench: Workbench) -> None:
    make_past(workbench, SEED)
    done = run_cli("loader.cli", "verify", "--scrub", "--store", workbench.store)
    assert (done.returncode, done.stderr) == (0, "")
    assert "no problems: blocks=5 details=5 restricted=0 digest=" in done.stdout
    flip(workbench.store, "blocks", BLOCKS[1], 100)
    flip(workbench.store, "details", BLOCKS[2], 100)
    done = run_cli("loader.cli", "verify", "--scrub", "--store", workbench.store, "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 6
    assert (report["damaged_blocks"], report["damaged_details"], report["digest"]) == ([BLOCKS[1]], [BLOCKS[2]], None)
