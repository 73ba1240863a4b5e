"""The monthly exchange file: what an operator writes, and what another one finds in it."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from loader.cli import cli
from lookupd.periods import parse_month
from lookupd.settlement import find_zone
from tests.conftest import RANGES, SNAPSHOT, Workbench
from tests.exchange import at, notice, number_return

HOUR, DAY = 3600, 86_400
MARCH = parse_month("2026-03", find_zone("UTC")).first * HOUR
BEFORE = MARCH - 30 * DAY
APRIL = MARCH + 31 * DAY


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(cli, [str(part) for part in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def store(folder: Path) -> Workbench:
    """The tables and a snapshot, a month before."""
    folder.mkdir()
    bench = Workbench(folder)
    bench.load_tables(now=BEFORE)
    bench.snapshot(now=BEFORE)
    return bench


@pytest.fixture
def ours(tmp_path: Path) -> Workbench:
    return store(tmp_path / "ours")


@pytest.fixture
def theirs(tmp_path: Path) -> Workbench:
    return store(tmp_path / "theirs")


def written(bench: Workbench, *more: object) -> tuple[dict[str, Any], list[list[str]], Path]:
    out = bench.folder / "exchange"
    result = run("report", "month", "--month", "2026-03", "--store", bench.store, "--out", out, "--json", *more)
    assert result.exit_code == 0, result.output
    manifest = json.loads(result.stdout)
    path = out / manifest["file"]
    assert json.loads((out / (path.stem + ".json")).read_text()) == manifest
    assert (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size) == (
        manifest["sha256"],
        manifest["bytes"],
    )
    assert path.stat().st_mode & 0o777 == 0o600
    header, *rows = csv.reader(path.read_text().splitlines())
    assert header == ["tn", "network_code", "routing_number", "donor", "ported_at"]
    assert len(rows) == manifest["rows"]
    return manifest, rows, path


def compared(bench: Workbench, path: Path, *more: object, code: int = 0) -> dict[str, Any]:
    result = run("reconcile", path, "--month", "2026-03", "--store", bench.store, "--json", *more)
    assert result.exit_code == code, result.output
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found


def counts(found: dict[str, Any]) -> tuple[int, int, int, int]:
    return found["missing"], found["extra"], found["route"], found["details"]


def march(bench: Workbench, *notices: dict[str, Any], sequence: int = 2, day: int = 3) -> None:
    bench.delta(*notices, sequence=sequence, now=MARCH + day * DAY)


SAID = at(MARCH + DAY)


def test_what_came_in_the_month_and_is_there_at_its_end_is_written(ours: Workbench) -> None:
    march(
        ours,
        notice("886912345678", "1403", notified_at=SAID),
        notice("886911000001", "1402", 886911000003, notified_at=SAID, routing_number="D7"),
        notice("886912345679", "1403", donor="1402", notified_at=SAID),
    )
    march(ours, number_return("886911000002", notified_at=SAID), sequence=3, day=4)
    ours.delta(notice("886911000003", "1401", notified_at=at(APRIL)), sequence=4, now=APRIL)
    manifest, rows, _ = written(ours)
    assert rows == [
        ["886911000001", "1402", "D7", "1401", SAID],
        ["886911000003", "1402", "D7", "1401", SAID],
        ["886912345678", "1403", "", "1402", SAID],
        ["886912345679", "1403", "", "1402", SAID],
    ]
    assert (manifest["ported_in"], manifest["left_again"], manifest["complete"]) == (5, 1, True)
    manifest, rows, path = written(ours, "--network", "1403")
    assert ([row[0] for row in rows], path.name) == (
        ["886912345678", "886912345679"],
        "ported-in-2026-03-1403.csv",
    )


def test_a_month_in_which_nobody_came_is_an_empty_file_that_compares_equal(ours: Workbench) -> None:
    ours.delta(notice("886912345678", "1403", notified_at=at(APRIL)), sequence=2, now=APRIL)
    manifest, rows, path = written(ours)
    assert (rows, manifest["ported_in"]) == ([], 0)
    assert counts(compared(ours, path)) == (0, 0, 0, 0)


def test_two_operators_who_were_told_the_same_are_equal(ours: Workbench, theirs: Workbench) -> None:
    for bench in (ours, theirs):
        march(bench, notice("886912345678", "1403", notified_at=SAID), notice("886911000001", "1402", notified_at=SAID))
    theirs.delta(notice("886912345678", "1401", notified_at=at(APRIL)), sequence=3, now=APRIL)
    _, _, path = written(ours)
    found = compared(theirs, path)
    assert (found["result"], counts(found), found["in_file"], found["in_store"]) == ("equal", (0, 0, 0, 0), 2, 2)


def test_each_kind_of_difference_is_found(ours: Workbench, theirs: Workbench) -> None:
    march(
        ours,
        notice("886911000001", "1402", notified_at=SAID),
        notice("886911000002", "1402", notified_at=SAID),
        notice("886911000003", "1402", notified_at=SAID),
        notice("886911000004", "1402", notified_at=SAID),
    )
    march(
        theirs,
        notice("886911000002", "1403", notified_at=SAID),
        notice("886911000003", "1402", notified_at=at(MARCH + 2 * DAY)),
        notice("886911000004", "1402", notified_at=SAID),
        notice("886911000005", "1402", notified_at=SAID),
    )
    _, _, path = written(ours)
    report = theirs.folder / "differences.csv"
    found = compared(theirs, path, "--report", report, code=6)
    assert counts(found) == (1, 1, 1, 1)
    rows = {row["tn"]: row["kind"] for row in csv.DictReader(report.read_text().splitlines())}
    assert rows == {
        "886911000001": "missing",
        "886911000002": "route",
        "886911000003": "details",
        "886911000005": "extra",
    }
    of_network = {row["network_code"]: row for row in found["by_network"]}
    assert (of_network["1402"]["in_store"], of_network["1402"]["in_file"]) == (3, 4)
    assert (of_network["1403"]["from_here"], of_network["1402"]["to_here"]) == (1, 1)


def test_a_number_that_came_to_them_in_another_month_is_compared_by_its_state(
    ours: Workbench, theirs: Workbench
) -> None:
    march(ours, notice("886911000001", "1402", notified_at=SAID))
    theirs.delta(notice("886911000009", "1402", notified_at=SAID), sequence=2, now=BEFORE + DAY)
    _, _, path = written(ours)
    path.write_text(path.read_text() + "886911000009,1402,,1401," + SAID + "\n")
    found = compared(theirs, path, code=6)
    assert counts(found) == (1, 0, 0, 1)  # what they have from before equals but for the donor, which nobody told them


def test_a_repair_takes_the_file_over_but_nothing_away_and_nothing_newer(ours: Workbench, theirs: Workbench) -> None:
    march(
        ours,
        notice("886911000001", "1402", notified_at=SAID),
        notice("886911000002", "1402", notified_at=SAID),
        notice("886911000003", "1402", notified_at=SAID),
    )
    march(theirs, notice("886911000002", "1403", notified_at=SAID), notice("886911000009", "1402", notified_at=SAID))
    theirs.delta(notice("886911000003", "1403", notified_at=at(APRIL)), sequence=3, now=APRIL + DAY)
    _, _, path = written(ours)
    found = compared(theirs, path, "--repair", "--reason", "Wu Mei: agreed with them", code=6)
    assert counts(found) == (2, 1, 1, 0)
    assert (found["repair"]["added"], found["repair"]["changed"], found["repair"]["removed"]) == (1, 1, 0)
    assert found["repair"]["changed_meanwhile"] == 1
    with theirs.reader() as reader:
        networks = [reader.ported(tn) for tn in range(886911000001, 886911000004)]  # type: ignore[arg-type]
        assert [it and it.network_code for it in networks] == ["1402", "1402", "1403"]
        assert reader.ported(886911000009) is not None  # type: ignore[arg-type]


def test_a_repaired_month_is_equal_afterwards(ours: Workbench, theirs: Workbench) -> None:
    march(ours, notice("886911000001", "1402", notified_at=SAID), notice("886911000002", "1402", notified_at=SAID))
    march(theirs, notice("886911000002", "1403", notified_at=SAID))
    _, _, path = written(ours)
    found = compared(theirs, path, "--repair", "--reason", "Wu Mei: agreed with them")
    assert (found["result"], found["after"]["result"]) == ("different", "equal")


def test_a_file_of_other_networks_is_refused_by_name(ours: Workbench) -> None:
    march(ours, notice("886911000001", "1402", notified_at=SAID), notice("886912345678", "1403", notified_at=SAID))
    _, _, path = written(ours)
    result = run("reconcile", path, "--month", "2026-03", "--network", "1402", "--store", ours.store)
    assert (result.exit_code, "has numbers of 1403 beside --network 1402" in result.output) == (4, True)


@pytest.mark.parametrize("row", ["", "x,1402,,,", "886911000001", "886911000001,1402,,,yesterday"])
def test_a_bad_row_is_refused_with_its_line(ours: Workbench, row: str) -> None:
    path = ours.write("ported-in.csv", f"tn,network_code,routing_number,donor,ported_at\n{row}\n")
    result = run("reconcile", path, "--month", "2026-03", "--store", ours.store)
    assert (result.exit_code, "ported-in.csv:2: " in result.output) == (4, True)


def test_a_month_that_is_not_whole_is_written_only_when_that_was_asked_for(tmp_path: Path) -> None:
    (tmp_path / "late").mkdir()
    bench = Workbench(tmp_path / "late")
    bench.load_tables(now=MARCH + DAY)
    bench.snapshot(now=MARCH + 2 * DAY)
    march(bench, notice("886911000001", "1402", notified_at=SAID))
    bench.snapshot(SNAPSHOT + "886911000001,1402,,,\n886911000002,1402,,,\n", sequence=3, now=MARCH + 9 * DAY)
    refused = run("report", "month", "--month", "2026-03", "--store", bench.store, "--out", bench.folder / "exchange")
    assert (refused.exit_code, "the kept history begins at" in refused.output) == (1, True)
    assert not (bench.folder / "exchange").exists()
    manifest, rows, _ = written(bench, "--partial")
    assert [lack["what"] for lack in manifest["missing"]] == ["journal", "snapshot"]
    assert ([row[0] for row in rows], manifest["complete"]) == (["886911000001"], False)


def test_a_month_before_the_history_is_told(ours: Workbench) -> None:
    result = run(
        "report", "month", "--month", "2025-03", "--store", ours.store, "--out", ours.folder / "out", "--partial"
    )
    assert (result.exit_code, "is before the kept history" in result.output) == (1, True)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--month", "2026-13"], "no period"),
        (["--month", "2026H1"], "is a half-year"),
        (["--month", "2105-01"], "has not begun"),
        (["--month", "2026-03", "--network", "77"], "not in the networks table"),
        (["--month", "2026-03", "--time-zone", "Mars"], "--time-zone"),
    ],
)
def test_what_cannot_be_meant_is_refused(ours: Workbench, more: list[str], words: str) -> None:
    for command in (["report", "month", "--out", ours.folder / "out"], ["reconcile", ours.write("a.csv", SNAPSHOT)]):
        result = run(*command, *more, "--store", ours.store)
        assert (result.exit_code, words in result.output) == (2, True), result.output


def test_options_of_a_month_go_with_one(ours: Workbench) -> None:
    result = run("reconcile", ours.write("a.csv", SNAPSHOT), "--network", "1402", "--store", ours.store)
    assert (result.exit_code, "--month" in result.output) == (2, True)


def test_the_half_year_takes_a_months_comparison_as_evidence(ours: Workbench) -> None:
    march(ours, notice("886911000001", "1402", notified_at=SAID))
    _, _, path = written(ours)
    evidence = ours.write("march.json", json.dumps(compared(ours, path)))
    period = ["--period", "2026H1", "--store", ours.store, "--json"]
    found = json.loads(run("report", "half-year", *period, "--reconciliation", evidence).stdout)
    assert [(row["month"], row["compared"], row["share"]) for row in found["accuracy"]] == [("2026-03", 1, 1.0)]


def test_ranges_that_changed_since_name_the_holder_of_that_time(ours: Workbench) -> None:
    march(ours, notice("886911000001", "1402", notified_at=SAID))
    ours.load_tables(ranges=RANGES.replace("88691,1401", "88691,1403"), now=APRIL)
    assert [row[3] for row in written(ours)[1]] == ["1401"]
