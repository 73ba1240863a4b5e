"""What look-ups read of a block's restrictions: damage of it and of the rows, and as many as there may be."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from loader import preview
from loader.apply import apply_delta
from loader.files import identify
from loader.restriction_list import COLUMNS, place_list, read_list
from lookupd.engine import Engine
from lookupd.errors import Rejected
from lookupd.limits import RESTRICTIONS_PER_BLOCK_MAX
from lookupd.model import InForce, JournalKind, Measure, Outcome, UnixSeconds
from lookupd.store import restricted, restricting
from lookupd.store.mend import mend_restricted
from lookupd.store.restrictions import KEY, NUMBERS, REACHES
from lookupd.store.schema import BLOCK_KEY
from lookupd.store.scrub import scrub
from lookupd.store.verify import verify
from lookupd.store.writer import Writer
from lookupd.units import format_time, parse_time
from tests.conftest import PLAN, UNGUARDED, Silent, Workbench, run_cli
from tests.unit.test_damage import flipped, put, stored

PORTED, IN_RANGE, BLOCK = "886912345678", "886912345700", 886912345
PLACED = parse_time("2026-11-22T10:00:00+08:00")
TWO_YEARS = parse_time("2028-11-22T10:00:00+08:00")
NPA = {"authority": "NPA", "case": "A-1"}
STOP = {"kind": "restrict", "measure": "stop", **NPA}
HELD = (True, InForce(Measure.STOP, TWO_YEARS))
UNAVAILABLE = (False, None)


def told(bench: Workbench, number: str, now: int = PLACED) -> tuple[bool, InForce | None]:
    """Whether there is an answer, and its restriction."""
    with bench.reader() as reader:
        engine = Engine(PLAN)
        engine.reader = reader
        engine.begin(UnixSeconds(now))
        answer = engine.resolve(number)
        return answer.outcome is not Outcome.UNAVAILABLE, answer.restriction


def problems(bench: Workbench) -> list[str]:
    with bench.reader() as reader:
        return verify(reader).problems


def next_delta(bench: Workbench, *notices: dict[str, str]) -> None:
    bench.delta(*notices, sequence=bench.state()[2]["main"].sequence + 1)  # type: ignore[attr-defined]


@pytest.fixture
def placed(loaded: Workbench) -> Workbench:
    """A number and a range in one block, and the number's neighbours in another."""
    next_delta(
        loaded,
        {**STOP, "tn": PORTED},
        {**STOP, "tn": IN_RANGE, "tn_to": "886912346200"},
    )
    return loaded


def lose(value: bytes) -> None:
    """Nothing is left."""


def harm(value: bytes) -> bytes:
    return bytes(64) + value[64:]


@pytest.mark.parametrize("hurt", [lose, harm, lambda value: value[:100], lambda value: b""])
def test_lost_value_makes_its_numbers_unavailable_until_a_restriction_of_them_is_changed(
    placed: Workbench, hurt: Callable[[bytes], bytes | None]
) -> None:
    key = BLOCK_KEY.pack(BLOCK)
    whole = stored(placed.store, "restricted", key)
    put(placed.store, "restricted", key, hurt(whole))
    assert [told(placed, number) for number in (PORTED, IN_RANGE)] == [UNAVAILABLE] * 2
    assert told(placed, "886912345001") == (True, None)
    assert told(placed, "886912346100") == HELD
    (problem,) = problems(placed)
    assert f"restricted: the value of block {BLOCK} is " in problem
    assert "writes it anew" in problem
    next_delta(placed, {**STOP, "tn": PORTED})
    assert problems(placed) == []
    assert stored(placed.store, "restricted", key) == whole
    assert [told(placed, number) for number in (PORTED, IN_RANGE)] == [HELD] * 2


@pytest.mark.parametrize(
    "hurt", [harm, *(lambda value, at=at: flipped(value, at) for at in (0, 40, 63, 64, 71, 79, 87, -8, -1))]
)
def test_scrub_finds_a_flipped_byte_and_the_rows_mend_it(placed: Workbench, hurt: Callable[[bytes], bytes]) -> None:
    key = BLOCK_KEY.pack(BLOCK)
    whole = stored(placed.store, "restricted", key)
    for damaged in (hurt(whole), whole[:-1], whole + b"\0" * 24, b""):
        put(placed.store, "restricted", key, damaged)
        with placed.reader() as reader:
            report = scrub(reader)
        assert (report.damaged_restricted, report.to_mend, report.restricted) == ([BLOCK], [BLOCK], 2)
        (problem,) = report.problems
        assert f"restricted: the value of block {BLOCK} is damaged" in problem
    serial = placed.state()[0]
    with Writer(placed.store) as writer, writer.change(UnixSeconds(PLACED)) as change:
        assert mend_restricted(change, [BLOCK], "Wu Mei: found by the scrub") == serial + 1
    assert stored(placed.store, "restricted", key) == whole
    assert problems(placed) == []
    with placed.reader() as reader:
        assert scrub(reader).whole
        (*_, (_, entry, _)) = reader.journal()
    assert (entry.kind, entry.source) == (JournalKind.REPAIRED, f"the restrictions' rows, blocks {BLOCK}")


def test_snapshot_mends_what_look_ups_read_of_restrictions(placed: Workbench) -> None:
    key = BLOCK_KEY.pack(BLOCK)
    whole = stored(placed.store, "restricted", key)
    put(placed.store, "restricted", key, harm(whole))
    snapshot = placed.folder / "snapshot-main-1.csv"
    words = ("--reason", "Wu Mei: disk replaced", "--store", placed.store, "--json")
    mended = run_cli("loader.cli", "repair", "--from-snapshot", snapshot, *words)
    told_of = json.loads(mended.stdout)
    assert (told_of["blocks"], told_of["details"], told_of["restricted"]) == ([], [], [BLOCK])
    assert stored(placed.store, "restricted", key) == whole
    assert problems(placed) == []


def test_scrub_tells_a_key_that_is_none(placed: Workbench) -> None:
    put(placed.store, "restricted", b"odd", b"")
    with placed.reader() as reader:
        (problem,) = scrub(reader).problems
    assert "restricted: the key 6f6464 is damaged" in problem


def test_value_that_no_row_leads_to_is_told(placed: Workbench) -> None:
    value = stored(placed.store, "restricted", BLOCK_KEY.pack(BLOCK))
    put(placed.store, "restricted", BLOCK_KEY.pack(BLOCK + 7), value)
    put(placed.store, "restricted", b"odd", value)
    assert [str(number) in problem for number, problem in zip((BLOCK + 7, "odd"), problems(placed), strict=True)]
    assert len(problems(placed)) == 2


@pytest.mark.parametrize("lost", [False, True], ids=["damaged", "missing"])
def test_damaged_row_of_a_range_makes_its_numbers_unavailable_and_holds_nothing_up(
    placed: Workbench, lost: bool
) -> None:
    with placed.reader() as reader:
        rows = [(key, value) for key, value in reader.stored_from("restrictions") if key[:1] == NUMBERS]
        assert any(key[:1] == REACHES for key, _ in reader.stored_from("restrictions"))
    key, value = rows[1]
    put(placed.store, "restrictions", key, None if lost else value[:-1] + b"\0")
    next_delta(placed, {**STOP, "tn": "886912345001"}, {**STOP, "tn": "886912346001"})
    assert told(placed, "886912345001") == told(placed, PORTED) == HELD
    assert told(placed, "886912346100") == UNAVAILABLE
    assert told(placed, IN_RANGE) == UNAVAILABLE
    assert problems(placed)


@pytest.mark.parametrize("kind", ["restrict", "lift"])
def test_range_whose_way_from_the_next_block_is_lost_is_told_and_can_be_changed(placed: Workbench, kind: str) -> None:
    with placed.reader() as reader:
        (leads, *_) = [
            key for key, _ in reader.stored_from("restrictions") if key.startswith(REACHES + BLOCK_KEY.pack(BLOCK + 1))
        ]
    put(placed.store, "restrictions", leads, None)
    assert [f"block {BLOCK + 1} " in problem for problem in problems(placed)] == [True]
    measure = {"measure": "stop"} if kind == "restrict" else {}
    next_delta(placed, {**NPA, **measure, "kind": kind, "tn": IN_RANGE, "tn_to": "886912346200"})
    assert told(placed, IN_RANGE) == (HELD if kind == "restrict" else (True, None))
    assert bool(problems(placed)) is (kind == "restrict")


@pytest.mark.parametrize("last", [0, 886912345677, 1 << 63])
def test_row_under_a_key_that_none_of_ours_has_holds_nothing_up(placed: Workbench, last: int) -> None:
    put(placed.store, "restrictions", KEY.pack(NUMBERS, int(PORTED), last, 1), b"odd")
    next_delta(placed, {**STOP, "tn": "886912345001"})
    assert told(placed, "886912345001") == HELD
    assert told(placed, PORTED) in {HELD, UNAVAILABLE}
    assert problems(placed)


def test_mended_bits_bring_the_value_back(placed: Workbench) -> None:
    key = BLOCK_KEY.pack(BLOCK)
    block = stored(placed.store, "blocks", key)
    put(placed.store, "blocks", key, block[:-1] + bytes([block[-1] ^ 1]))
    put(placed.store, "restricted", key, None)
    placed.snapshot(sequence=3)
    assert problems(placed) == []
    assert told(placed, PORTED) == HELD


def test_lifted_ones_leave_no_value(placed: Workbench) -> None:
    next_delta(
        placed,
        {"kind": "lift", "tn": PORTED, **NPA},
        {"kind": "lift", "tn": IN_RANGE, "tn_to": "886912346200", **NPA},
    )
    with placed.reader() as reader:
        assert list(reader.stored_from("restricted")) == []
    assert problems(placed) == []


def test_lapsed_one_is_not_extended_by_the_feed(placed: Workbench) -> None:
    extend = {"kind": "extend", "tn": PORTED, **NPA}
    next_delta(placed, extend | {"notified_at": format_time(TWO_YEARS)})  # type: ignore[arg-type, dict-item]
    with placed.reader() as reader:
        *_, (_, entry, _) = reader.journal()
    assert entry.kind is JournalKind.REFUSED
    assert entry.reason == "it lapsed at 2028-11-22T02:00:00Z: only one that has not can be extended; place another"
    next_delta(placed, extend | {"notified_at": format_time(UnixSeconds(TWO_YEARS - 1))})  # type: ignore[arg-type, dict-item]
    assert told(placed, PORTED, TWO_YEARS)[1] is not None


# -- as many as there may be -----------------------------------------------------------------------------


def write_full(path: Path, count: int, number: str = PORTED) -> Path:
    """So many of one number, of as many cases, each a second longer."""
    rows = [",".join(COLUMNS)]
    for case in range(count):
        until = format_time(UnixSeconds(TWO_YEARS - count + case))
        rows.append(f"{number},{number},,,NPA,{case},stop,{format_time(PLACED)},{until},no")
    path.write_text("\n".join(rows) + "\n")
    return path


def load(bench: Workbench, path: Path, now: int = PLACED) -> int:
    with Writer(bench.store) as writer, writer.change(UnixSeconds(now)) as change:
        return place_list(change, path, read_list(path, PLAN), "test").placed


def test_block_takes_its_bound_and_one_more_is_refused(loaded: Workbench) -> None:
    most = RESTRICTIONS_PER_BLOCK_MAX
    with pytest.raises(Rejected, match=rf"full.csv:{most + 2}: {most} restrictions reach into .886912345000 to"):
        load(loaded, write_full(loaded.folder / "full.csv", most + 1))
    assert told(loaded, PORTED) == (True, None)
    assert load(loaded, write_full(loaded.folder / "full.csv", most)) == most
    digest = loaded.state()[1]
    next_delta(loaded, {**STOP, "tn": "886912345001"}, {**STOP, "tn": "886912344001", "tn_to": "886912345000"})
    assert loaded.state()[1] == digest
    with loaded.reader() as reader:
        reasons = [entry.reason for _, entry, _ in reader.journal() if entry.kind is JournalKind.REFUSED]
        value = reader.stored("restricted", BLOCK_KEY.pack(BLOCK))
        began = time.perf_counter()
        reader.restriction(int(PORTED), PLACED)
    assert [f"{most} restrictions reach into +886912345000" in str(reason) for reason in reasons] == [True, True]
    assert value is not None
    assert len(value) < 1 << 20
    assert time.perf_counter() - began < 1
    assert told(loaded, PORTED) == (True, InForce(Measure.STOP, UnixSeconds(TWO_YEARS - 1)))
    # When the first two have lapsed there is room for one of any number, and for one of a range; the rows stay.
    later = format_time(UnixSeconds(TWO_YEARS - most + 1))
    next_delta(
        loaded,
        {**STOP, "tn": "886912345001", "notified_at": later},  # type: ignore[dict-item]
        {**STOP, "tn": "886912344001", "tn_to": "886912345000", "notified_at": later},  # type: ignore[dict-item]
        {**STOP, "tn": "886912345002", "notified_at": later},  # type: ignore[dict-item]
    )
    with loaded.reader() as reader:
        assert len(list(reader.every_restriction())) == most + 2
        kinds = [entry.kind for _, entry, _ in reader.journal()][-3:]
    assert kinds == [JournalKind.RESTRICT, JournalKind.RESTRICT, JournalKind.REFUSED]
    assert problems(loaded) == []
    assert told(loaded, PORTED) == (True, InForce(Measure.STOP, UnixSeconds(TWO_YEARS - 1)))
    assert told(loaded, PORTED, TWO_YEARS - 1) == (True, None)
    assert told(loaded, "886912345001", parse_time("2028-11-22T02:00:00Z"))[1] is not None


def test_two_lists_of_more_than_the_bound_are_taken_when_most_have_lapsed(loaded: Workbench) -> None:
    """A new replica takes what the other one has, lapsed ones too."""
    most = RESTRICTIONS_PER_BLOCK_MAX
    path = write_full(loaded.folder / "full.csv", most + 10)
    assert load(loaded, path, TWO_YEARS - 10) == most + 10
    assert problems(loaded) == []
    assert told(loaded, PORTED, TWO_YEARS - 2)[1] == InForce(Measure.STOP, UnixSeconds(TWO_YEARS - 1))
    assert told(loaded, PORTED)[1] == InForce(Measure.STOP, UnixSeconds(TWO_YEARS - 1))  # the rows are asked


def test_preview_refuses_what_the_store_will_refuse(placed: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (restricted, restricting, preview):
        monkeypatch.setattr(module, "RESTRICTIONS_PER_BLOCK_MAX", 3)
    other = {"tn": "886912345001", "authority": "NCC"}
    path = placed.publish(
        "delta-main-3.ndjson",
        "".join(
            json.dumps({"notified_at": format_time(PLACED), "case": "A-1"} | line) + "\n"
            for line in (
                {**STOP, **other},  # the third
                {**STOP, "tn": PORTED, "authority": "NCC"},  # one more
                {**STOP, **other, "measure": "limit"},  # said anew
                {"kind": "lift", "tn": PORTED, **NPA},
                {**STOP, "tn": PORTED, "authority": "NCC"},  # in its place
                {"kind": "extend", **other},
                {**STOP, "tn": "886912346001", "tn_to": "886912346002"},
                {**STOP, "tn": "886912344001", "tn_to": "886912345002"},
            )
        ),
        8,
    )
    with placed.reader() as reader:
        notices = preview.read(identify(path, "delta", "main"), PLAN, reader, Silent())
        counted = preview.preview(reader, identify(path, "delta", "main"), notices)
        lines = [change.restriction or "" for change in preview.changes(reader, notices, PLACED, counted)]
    refused = [line.startswith(f"refused: {RESTRICTIONS_PER_BLOCK_MAX} restrictions") for line in lines]
    with Writer(placed.store) as writer:
        apply_delta(writer, identify(path, "delta", "main"), PLAN, PLACED, Silent(), UNGUARDED)
    with placed.reader() as reader:
        kinds = [entry.kind for _, entry, _ in reader.journal()][-8:]
    assert refused == [kind is JournalKind.REFUSED for kind in kinds]
    assert [at for at, is_refused in enumerate(refused) if is_refused] == [1, 7]
