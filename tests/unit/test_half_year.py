"""The half-yearly report: figures counted by hand, what is missing, files that are none, the command."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from loader.cli import cli
from loader.corrections import repair
from loader.files import FeedFile
from loader.reconcile import compare, read_file
from loader.regulator.figures import HalfYear, NetworkMonth
from loader.regulator.half_year import Evidence, Wanted, half_year
from loader.regulator.trace import TraceWriter
from lookupd.errors import ConfigError
from lookupd.i18n import REPORT_CONTEXT, context_messages
from lookupd.ledger import Ledger
from lookupd.model import UnixSeconds
from lookupd.periods import parse_period
from lookupd.probe.sampler import Sample
from lookupd.probe.servers import parse as parse_server
from lookupd.probe.tally import COLUMNS, Tally
from lookupd.settings import Limits
from lookupd.settlement import find_zone
from lookupd.store.compare import joined
from lookupd.store.prune import prune
from lookupd.store.writer import Writer
from tests.conftest import PLAN, RANGES, SNAPSHOT, Silent, Workbench
from tests.exchange import Exchange, at, notice, number_return

HOUR, DAY = 3600, 86_400
JANUARY, JULY = (int(datetime(2026, month, 1, tzinfo=UTC).timestamp()) for month in (1, 7))
H1 = parse_period("2026H1", find_zone("UTC"))
BEFORE = JANUARY - 30 * DAY
LATER = JULY + 9 * DAY


def loaded(workbench: Workbench) -> Workbench:
    """The tables and a snapshot, a month before the half-year."""
    workbench.load_tables(now=BEFORE)
    workbench.snapshot(now=BEFORE)
    return workbench


def report(
    workbench: Workbench,
    *,
    now: int = LATER,
    network: str | None = None,
    zone: str = "UTC",
    trace: TraceWriter | None = None,
    **evidence: Any,
) -> HalfYear:
    period = parse_period("2026H1", find_zone(zone))
    wanted = Wanted(period, find_zone(zone), zone, Limits(), network, "a")
    with workbench.reader() as reader:
        found = half_year(
            reader,
            wanted,
            Evidence(**evidence),
            trace or TraceWriter(None, masked=False),
            None if trace is None else "trace.csv",
            UnixSeconds(now),
            lambda _: None,
        )
    in_chinese = context_messages("zh_TW", REPORT_CONTEXT)
    assert [gap.reason for gap in found.missing if gap.text not in in_chinese] == []
    return found


def moved(found: HalfYear) -> dict[tuple[str, str], tuple[int, int, int]]:
    """Month and network: came, left, returned; without those of nothing."""
    rows = {(row.month, row.network_code): (row.ported_in, row.ported_out, row.returned) for row in found.networks}
    return {place: counts for place, counts in rows.items() if any(counts)}


def kinds(found: HalfYear) -> dict[tuple[str, str], tuple[int, int, int, int, int | None]]:
    rows = {
        (row.month, row.kind): (row.visible, row.numbers, row.breached, row.superseded, row.rejected)
        for row in found.notices
    }
    return {place: counts for place, counts in rows.items() if any(counts)}


def lacks(found: HalfYear, *what: str) -> list[str]:
    """Reasons of what is missing, of these kinds."""
    return [each.reason for each in found.missing if each.what in what]


def traced(workbench: Workbench, **how: Any) -> tuple[HalfYear, list[dict[str, str]]]:
    file = io.StringIO()
    found = report(workbench, trace=TraceWriter(file, masked=how.pop("masked", False)), **how)
    text = file.getvalue()
    assert found.trace is not None
    assert found.trace.sha256 == hashlib.sha256(text.encode()).hexdigest()
    rows = list(csv.DictReader(io.StringIO(text)))
    assert found.trace.rows == len(rows)
    return found, rows


# -- who came, who left ----------------------------------------------------------------------------------


def test_numbers_are_counted_where_they_came_to_and_what_they_left(workbench: Workbench) -> None:
    bench = loaded(workbench)
    february, march = JANUARY + 40 * DAY, JANUARY + 70 * DAY
    bench.delta(notice("886912345678", "1403", notified_at=at(february)), sequence=2, now=february + 60)
    # never ported: it leaves the holder of its range, 1401; then a donor that the notice names
    bench.delta(notice("886911000001", "1402", notified_at=at(february)), sequence=3, now=february + 90)
    bench.delta(notice("886911000002", "1402", donor="1403", notified_at=at(march)), sequence=4, now=march + 5)
    bench.delta(number_return("886911000001", notified_at=at(march)), sequence=5, now=march + HOUR)
    assert moved(report(bench)) == {
        ("2026-02", "1402"): (1, 1, 0),
        ("2026-02", "1403"): (1, 0, 0),
        ("2026-02", "1401"): (0, 1, 0),
        ("2026-03", "1402"): (1, 0, 1),
        ("2026-03", "1403"): (0, 1, 0),
    }


def test_a_range_leaves_every_network_that_its_numbers_were_with(workbench: Workbench) -> None:
    bench = loaded(workbench)
    # of these hundred 886912345678 was with 1402 and ...679 with 1401; the others are of 1403's range
    bench.delta(notice("886912345600", "1402", 886912345699, notified_at=at(JANUARY)), sequence=2, now=JANUARY + 1)
    assert moved(report(bench)) == {
        ("2026-01", "1402"): (99, 0, 0),
        ("2026-01", "1401"): (0, 1, 0),
        ("2026-01", "1403"): (0, 98, 0),
    }
    assert kinds(report(bench))["2026-01", "port"][:2] == (1, 100)


def test_numbers_of_several_ranges_leave_their_holders_of_that_time(workbench: Workbench) -> None:
    bench = loaded(workbench)
    bench.delta(notice("886911999990", "1402", 886912000009, notified_at=at(JANUARY)), sequence=2, now=JANUARY)
    told = {("2026-01", "1402"): (20, 0, 0), ("2026-01", "1401"): (0, 10, 0), ("2026-01", "1403"): (0, 10, 0)}
    assert moved(report(bench)) == told
    bench.load_tables(ranges=RANGES.replace("886912,1403", "8869120,1401"), now=JANUARY + DAY)
    assert moved(report(bench)) == told
    bench.delta(
        notice("886912000010", "1403", 886912000011, notified_at=at(JANUARY)), sequence=3, now=JANUARY + 2 * DAY
    )
    assert moved(report(bench)) == told | {("2026-01", "1401"): (0, 12, 0), ("2026-01", "1403"): (2, 10, 0)}


def test_a_number_that_comes_to_where_it_was_did_not_move(workbench: Workbench) -> None:
    bench = loaded(workbench)
    bench.delta(notice("886911000000", "1401", notified_at=at(JANUARY)), sequence=2, now=JANUARY)
    bench.delta(notice("886911000000", "1401", notified_at=at(JANUARY)), sequence=3, now=JANUARY)
    assert moved(report(bench)) == {}
    assert kinds(report(bench))["2026-01", "port"][:2] == (2, 2)


def test_a_routing_number_that_changes_is_no_port(workbench: Workbench) -> None:
    bench = loaded(workbench)
    bench.delta(notice("886912345678", "1402", routing_number="D1", notified_at=at(JANUARY)), sequence=2, now=JANUARY)
    found, rows = traced(bench)
    assert moved(found) == {}
    assert found.notices[0].visible == 1
    assert [row["counted_as"] for row in rows] == ["no_move"]


def test_corrections_are_no_ports_and_are_told(workbench: Workbench) -> None:
    bench = loaded(workbench)
    bench.delta(
        notice("886912345678", "1403", notified_at=at(JANUARY)) | {"kind": "correct"}, sequence=2, now=JANUARY + 9
    )
    found = report(bench)
    assert moved(found) == {}
    assert kinds(found)["2026-01", "correct"][:2] == (1, 1)


def test_correction_that_takes_a_port_away_is_no_return_and_is_told(workbench: Workbench) -> None:
    bench = loaded(workbench)
    rows = [row for row in SNAPSHOT.splitlines(keepends=True) if not row.startswith("886912345678")]
    path = bench.write("list.csv", "".join(rows))
    differences: list[Any] = []
    with bench.reader() as reader:
        file = FeedFile(path, "snapshot", "main", 0, None, None, path.stat().st_size, None)
        read = read_file(file, PLAN, reader, Silent())
        compare(reader, read, Silent(), differences.append)
    with Writer(bench.store) as writer:
        assert repair(writer, read, joined(differences), "Wu Mei: no port", UnixSeconds(JANUARY + 9)).removed == 1
    found = report(bench)
    assert (moved(found), kinds(found)) == ({}, {})
    assert [(each.month, each.entries, each.numbers) for each in found.corrected][:1] == [("2026-01", 1, 1)]


def test_months_begin_in_the_time_zone_that_was_asked_for(workbench: Workbench) -> None:
    bench = loaded(workbench)
    moment = JANUARY + 31 * DAY - HOUR  # 23:00 on 31 January of UTC, 07:00 on 1 February in Taipei
    bench.delta(notice("886912345678", "1403", notified_at=at(moment)), sequence=2, now=moment)
    assert {month for month, _ in moved(report(bench))} == {"2026-01"}
    there = report(bench, zone="Asia/Taipei")
    assert {month for month, _ in moved(there)} == {"2026-02"}
    assert (there.first, there.end) == ("2025-12-31T16:00:00Z", "2026-06-30T16:00:00Z")


def test_only_the_half_year_is_counted(workbench: Workbench) -> None:
    bench = loaded(workbench)
    for sequence, moment in enumerate((JANUARY - 1, JANUARY, JULY - 1, JULY), 2):
        bench.delta(notice(886911000000 + sequence, "1402", notified_at=at(moment)), sequence=sequence, now=moment)
    assert moved(report(bench)) == {
        ("2026-01", "1402"): (1, 0, 0),
        ("2026-01", "1401"): (0, 1, 0),
        ("2026-06", "1402"): (1, 0, 0),
        ("2026-06", "1401"): (0, 1, 0),
    }


def test_of_one_network_only_what_concerns_it_is_counted(workbench: Workbench) -> None:
    bench = loaded(workbench)
    bench.delta(
        notice("886912345678", "1403", notified_at=at(JANUARY)),
        notice("886911000001", "1402", notified_at=at(JANUARY)),
        notice("886912000009", "1401", notified_at=at(JANUARY)),
        sequence=2,
        now=JANUARY + 2 * HOUR,
    )
    found, rows = traced(bench, network="1402")
    assert moved(found) == {("2026-01", "1402"): (1, 1, 0)}
    assert (found.summary.ported_in, found.summary.ported_out) == (1, 1)
    assert (found.notices[0].visible, found.notices[0].breached) == (2, 2)
    assert len(rows) == 2
    assert {row.network_code for row in found.networks} == {"1402"}


def test_numbers_whose_donor_nobody_names_are_told(workbench: Workbench) -> None:
    bench = loaded(workbench)
    bench.delta(notice("886935000000", "1402", notified_at=at(JANUARY)), sequence=2, now=JANUARY)
    found = report(bench)
    assert moved(found) == {("2026-01", "1402"): (1, 0, 0), ("2026-01", ""): (0, 1, 0)}
    assert [reason for reason in lacks(found, "journal") if reason.startswith("1 numbers came from")]


# -- times -----------------------------------------------------------------------------------------------


def test_times_are_from_the_notice_and_from_the_moment_that_was_asked_for(workbench: Workbench) -> None:
    bench = loaded(workbench)
    noon = JANUARY + 12 * HOUR
    bench.delta(
        notice("886911000001", "1402", notified_at=at(noon - 100)),
        notice("886911000002", "1402", notified_at=at(noon - 2 * HOUR)),
        number_return("886912345678", notified_at=at(noon - 5 * HOUR)),
        # its moment was over when it came: nobody could have kept it
        notice("886911000003", "1402", notified_at=at(noon - HOUR), effective_at=at(noon - 60)),
        sequence=2,
        now=noon,
    )
    found = report(bench)
    port, back, _ = found.times
    assert (port.notice_to_visible.count, port.notice_to_visible.mean, port.notice_to_visible.max) == (
        3,
        round((100 + 7200 + 60) / 3, 3),
        7200.0,
    )
    assert port.whole.mean == round((100 + 7200 + 3600) / 3, 3) == found.summary.mean_porting_time
    assert (back.notice_to_visible.p50, back.limit_seconds) == (5 * HOUR, 12 * HOUR)
    assert dict(port.notice_to_visible.buckets)[300.0] == 1
    assert sum(count for _, count in port.notice_to_visible.buckets) == 3
    assert (found.notices[0].breached, found.notices[0].failure_rate) == (1, 1 / 3)


async def test_an_agreed_moment_is_held_against_the_moment(workbench: Workbench) -> None:
    from tests.exchange import Rig

    rig = Rig(workbench)
    rig.machine.wall = float(BEFORE)
    workbench.load_tables(now=BEFORE)
    rig.snapshot()
    async with rig.running_here():
        await rig.round()
        rig.machine.advance(JANUARY - BEFORE)
        rig.delta(2, notice("886911000001", "1402", notified_at=at(JANUARY), effective_at=at(JANUARY + 3 * DAY)))
        rig.delta(
            3, notice("886911000002", "1402", 886911000005, notified_at=at(JANUARY), effective_at=at(JANUARY + DAY))
        )
        await rig.round()
        rig.machine.advance(1000)
        rig.delta(4, notice("886911000003", "1403", notified_at=at(JANUARY)))  # overtakes one of the four
        await rig.round()
        rig.machine.advance(DAY)
        await rig.round()
        rig.machine.advance(2 * DAY)
        await rig.round()
    found, rows = traced(workbench)
    port = found.times[0]
    assert port.requested_to_effective.count == 2  # the range was cut in two, and is one notice
    assert (port.requested_to_effective.mean, port.requested_to_effective.max) == (1000.0, 1000.0)
    assert port.whole.max == 3 * DAY + 1000
    assert found.notices[0].visible == 3
    assert kinds(found)["2026-01", "untold"][3] == 1
    assert sum(int(row["notice"]) for row in rows if row["counted_as"] == "ported") == 3
    assert sum(int(row["numbers"]) for row in rows if row["counted_as"] == "superseded") == 1
    assert not lacks(found, "receipts")


# -- what is refused -------------------------------------------------------------------------------------


def test_a_refused_line_counts_though_the_sender_mended_its_file(workbench: Workbench) -> None:
    workbench.load_tables()
    exchange = Exchange(workbench)
    exchange.snapshot()
    exchange.delta(2, notice("886912345678"), notice("886912345001", "9999"), notice("12", "1403"))
    assert exchange.once().returncode != 0
    assert exchange.once().returncode != 0  # the same word once more is not another refusal
    exchange.withdraw("delta-main-2.ndjson")
    exchange.delta(2, notice("886912345678"), notice("886912345001"))
    assert exchange.once().returncode == 0
    month = datetime.now(UTC).strftime("%Y-%m")
    half = f"{month[:4]}H{1 if int(month[5:]) <= 6 else 2}"
    result = run("--period", half, "--config", exchange.config, "--json")
    found = json.loads(result.stdout)
    row = next(each for each in found["notices"] if each["month"] == month and each["kind"] == "untold")
    assert (row["rejected"], row["failed"]) == (2, 2)
    assert found["summary"]["failure_rate"] is not None


def test_refusals_are_not_known_without_a_configuration(workbench: Workbench) -> None:
    found = report(loaded(workbench))
    assert found.summary.failure_rate is None
    assert lacks(found, "rejected")
    assert {row.rejected for row in found.notices if row.kind == "untold"} == {None}


def test_a_refusal_that_a_crash_cut_off_is_told_and_the_next_one_stands_by_itself(tmp_path: Path) -> None:
    from loader import refusals

    told = refusals.Refusal("2026-02-03T04:05:06.789Z", "main", "delta", 2, "delta-main-2.ndjson", ((1, "why"),))
    refusals.append(tmp_path, told)
    file = tmp_path / refusals.FOLDER / "2026-02.ndjson"
    file.write_bytes(file.read_bytes()[:-20])
    refusals.append(tmp_path, told)
    found = list(refusals.read(tmp_path, UnixSeconds(JANUARY), UnixSeconds(JULY)))
    assert found == [refusals.Damaged(file, 1), told]
    assert list(refusals.read(tmp_path, UnixSeconds(JULY), UnixSeconds(LATER))) == []


def test_a_refusal_that_the_disk_takes_a_part_of_is_an_error_and_the_next_one_stands_by_itself(tmp_path: Path) -> None:
    program = """if True:
        import resource, signal, sys
        from pathlib import Path
        from loader import refusals

        told = refusals.Refusal("2026-02-03T04:05:06.789Z", "main", "delta", 2, "delta-main-2.ndjson", ((1, "why"),))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (40, resource.RLIM_INFINITY))
        try:
            refusals.append(Path(sys.argv[1]), told)
        except OSError as error:
            print(error.strerror)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        refusals.append(Path(sys.argv[1]), told)
    """
    done = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout == "No space left on device\n"
    from loader import refusals

    found = list(refusals.read(tmp_path, UnixSeconds(JANUARY), UnixSeconds(JULY)))
    assert [type(each).__name__ for each in found] == ["Damaged", "Refusal"]


# -- what is missing -------------------------------------------------------------------------------------


def test_a_period_that_history_does_not_cover_is_told(workbench: Workbench) -> None:
    workbench.load_tables(now=JANUARY + 5 * DAY)
    workbench.snapshot(now=JANUARY + 10 * DAY)
    gap = next(each for each in report(workbench).missing if each.what == "journal")
    assert (gap.from_, gap.until) == ("2026-01-01T00:00:00Z", "2026-01-11T00:00:00Z")


def test_a_pruned_history_is_told(workbench: Workbench) -> None:
    bench = loaded(workbench)
    for sequence, month in enumerate(range(1, 6), 2):
        moment = JANUARY + month * 30 * DAY
        bench.delta(notice(886911000000 + sequence, "1402", notified_at=at(moment)), sequence=sequence, now=moment)
    with Writer(bench.store) as writer:
        prune(writer, UnixSeconds(JANUARY + 70 * DAY), UnixSeconds(JULY + 200 * DAY), 184 * DAY, "Lin: done")
    found = report(bench)
    gap = next(each for each in found.missing if each.what == "journal")
    assert gap.until == str(at(JANUARY + 60 * DAY))
    assert {month for month, _ in moved(found)} == {"2026-04", "2026-05"}


def test_a_snapshot_that_changed_numbers_is_told(workbench: Workbench) -> None:
    bench = loaded(workbench)
    bench.snapshot(SNAPSHOT.replace("886912345678,1402", "886912345678,1403"), sequence=7, now=JANUARY + 9)
    assert "changed 1 numbers without notices" in lacks(report(bench), "snapshot")[0]


def test_a_period_that_lasts_is_told(workbench: Workbench) -> None:
    found = report(loaded(workbench), now=JULY - DAY)
    assert (found.complete, found.until) == (False, "2026-06-30T00:00:00Z")
    assert lacks(found, "period")


# -- what others saw -------------------------------------------------------------------------------------


def prometheus(values: Sequence[Sequence[object]]) -> str:
    series = {"metric": {"pair": "taipei"}, "values": values}
    return json.dumps({"status": "success", "data": {"resultType": "matrix", "result": [series]}})


def test_availability_is_by_months_and_hours_that_are_not_known_are_told(workbench: Workbench, tmp_path: Path) -> None:
    file = tmp_path / "availability.json"
    hours = [hour for hour in range(H1.first, H1.end) if hour not in range(H1.first + 5, H1.first + 8)]
    shares = {H1.first: "0.5", H1.first + 31 * 24: "0.25"}
    file.write_text(prometheus([[(hour + 1) * HOUR, shares.get(hour, "1")] for hour in hours]))
    found = report(loaded(workbench), availability=file)
    january, february, *others = found.availability
    assert (january.out_of_service_seconds, january.hours, january.hours_known) == (1800.0, 744, 741)
    assert january.share == pytest.approx(1 - 0.5 / 741)
    assert february.out_of_service_seconds == 2700.0
    assert [each.share for each in others] == [1.0] * 4
    gaps = [(each.from_, each.until) for each in found.missing if each.what == "availability"]
    assert gaps == [("2026-01-01T05:00:00Z", "2026-01-01T08:00:00Z")]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b'{"status":"error","error":"x"}',
        b'{"status":"success","data":{"resultType":"vector","result":[]}}',
        b'{"status":"success","data":{"resultType":"matrix","result":[]}}',
        prometheus([[1, "1"]]).encode(),
        prometheus([[3600, "2"]]).encode(),
        prometheus([[3600, "NaN"]]).encode(),
        prometheus([[3600, "x"]]).encode(),
        prometheus([["3600", "1"]]).encode(),
        b'{"status":"success","data":{"resultType":"matrix","result":[{"metric":{},"values":[[1e999,"1"]]}]}}',
    ],
)
def test_what_is_no_answer_of_prometheus_is_refused_with_the_reason(
    workbench: Workbench, tmp_path: Path, content: bytes
) -> None:
    file = tmp_path / "availability.json"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"--availability .*availability\.json: "):
        report(loaded(workbench), availability=file)


def reconciled(bench: Workbench, text: str) -> dict[str, Any]:
    """What a real comparison prints."""
    file = bench.write("monthly.csv", text)
    result = CliRunner().invoke(cli, ["reconcile", str(file), "--store", str(bench.store), "--json"])
    assert result.exit_code in {0, 6}
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_accuracy_is_of_reconciliations_that_the_journal_vouches_for(workbench: Workbench, tmp_path: Path) -> None:
    bench = loaded(workbench)
    bench.delta(notice("886912345678", "1403", notified_at=at(JANUARY)), sequence=2, now=JANUARY + DAY)
    file = tmp_path / "january.json"
    file.write_text(json.dumps(reconciled(bench, SNAPSHOT)))
    found = report(bench, reconciliations=[file])
    assert [(row.month, row.compared, row.differs, row.share, row.serial) for row in found.accuracy] == [
        ("2026-01", 4, 1, 0.75, found.serial)
    ]
    assert not lacks(found, "accuracy")
    told = json.loads(file.read_text())
    file.write_text(json.dumps(told | {"digest": "0" * 16}))
    with pytest.raises(ConfigError, match="result of another store"):
        report(bench, reconciliations=[file])
    file.write_text(json.dumps(told | {"serial": told["serial"] + 1}))
    with pytest.raises(ConfigError, match="result of another store"):
        report(bench, reconciliations=[file])


@pytest.mark.parametrize("changed", [{"missing": 5}, {"extra": -1}, {"serial": 0}, {"in_file": "4"}, {"file": None}])
def test_a_result_whose_counts_do_not_fit_is_refused(
    workbench: Workbench, tmp_path: Path, changed: dict[str, object]
) -> None:
    bench = loaded(workbench)
    file = tmp_path / "january.json"
    file.write_text(json.dumps(reconciled(bench, SNAPSHOT) | changed))
    with pytest.raises(ConfigError, match=r"--reconciliation .*january\.json: "):
        report(bench, reconciliations=[file])


def test_a_reconciliation_of_another_time_is_told_and_not_counted(workbench: Workbench, tmp_path: Path) -> None:
    bench = loaded(workbench)
    file = tmp_path / "december.json"
    file.write_text(json.dumps(reconciled(bench, SNAPSHOT)))
    found = report(bench, reconciliations=[file])
    assert found.accuracy == ()
    assert "not in the period" in lacks(found, "accuracy")[0]


def write_ledger(file: Path, *samples: tuple[int, bool, Sample]) -> Path:
    """samples: hour of the half-year, whether about a ported number, and what came."""
    now = 0.0
    ledger = Ledger(file, COLUMNS)
    tally = Tally([parse_server("udp://192.0.2.1:4700")], ledger, lambda: now)
    for hour, ported, sample in samples:
        now = (H1.first + hour) * HOUR + 1.0
        tally.note(tally.places[0], ported, sample)
    ledger.save()
    return file


def test_the_probe_tells_the_set_up_time_and_how_often_it_was_answered(workbench: Workbench, tmp_path: Path) -> None:
    ms = 1_000_000
    samples = [(hour, True, Sample("answered", 2 * ms)) for hour in range(H1.end - H1.first)]
    samples += [(0, True, Sample("timeout", 50 * ms)), (1, False, Sample("answered", ms))]
    ledger = write_ledger(tmp_path / "probe.sqlite", *samples)
    found = report(loaded(workbench), ledgers=[ledger])
    asked = len(samples) - 1
    assert found.setup_time is not None
    assert (found.setup_time.questions, found.setup_time.timeouts) == (asked, 1)
    assert found.setup_time.mean == pytest.approx((2 * (asked - 1) + 50) / asked / 1000, rel=1e-6)
    assert found.setup_time.unported_mean == 0.001
    assert found.summary.mean_extra_setup_time == found.setup_time.mean
    assert [(row.source, row.share) for row in found.availability][:2] == [
        ("probe", pytest.approx(745 / 746)),
        ("probe", 1.0),
    ]
    assert not lacks(found, "setup_time")


def test_hours_in_which_the_probe_was_silent_are_told(workbench: Workbench, tmp_path: Path) -> None:
    ledger = write_ledger(tmp_path / "probe.sqlite", (3, True, Sample("answered", 5)))
    gaps = [each for each in report(loaded(workbench), ledgers=[ledger]).missing if each.what == "setup_time"]
    assert [each.from_ for each in gaps] == ["2026-01-01T00:00:00Z", "2026-01-01T04:00:00Z"]


def test_a_half_year_of_which_all_is_known_is_complete(workbench: Workbench, tmp_path: Path) -> None:
    bench = loaded(workbench)
    bench.delta(number_return("886912345678", notified_at=at(JANUARY)), sequence=2, now=JANUARY + DAY)
    bench_result = tmp_path / "january.json"
    bench_result.write_text(json.dumps(reconciled(bench, SNAPSHOT)))
    availability = tmp_path / "availability.json"
    availability.write_text(prometheus([[(hour + 1) * HOUR, "1"] for hour in range(H1.first, H1.end)]))
    samples = [(hour, True, Sample("answered", 5)) for hour in range(H1.end - H1.first)]
    found = report(
        bench,
        ledgers=[write_ledger(tmp_path / "probe.sqlite", *samples)],
        availability=availability,
        reconciliations=[bench_result],
        spools=[tmp_path / "spool"],
    )
    assert [each for each in found.missing if each.what != "receipts"] == []
    assert lacks(found, "receipts")  # the notice was loaded by a test, which no reader was told of


# -- the command -----------------------------------------------------------------------------------------


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(cli, ["report", "half-year", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_the_files_say_what_the_report_says(workbench: Workbench, tmp_path: Path) -> None:
    bench = loaded(workbench)
    bench.delta(notice("886912345678", "1403", notified_at=at(JANUARY)), sequence=2, now=JANUARY + DAY)
    out = tmp_path / "deep" / "report"
    result = run("--period", "2026H1", "--store", bench.store, "--out", out)
    assert result.exit_code == 0, result.output
    found = msgspec.json.decode((out / "half-year-2026H1.json").read_bytes(), type=HalfYear)
    rows = list(csv.DictReader(io.StringIO((out / "half-year-2026H1-networks.csv").read_text())))
    assert [msgspec.convert(row, NetworkMonth, strict=False) for row in rows] == list(found.networks)
    trace = (out / "half-year-2026H1-trace.csv").read_bytes()
    assert found.trace is not None
    assert hashlib.sha256(trace).hexdigest() == found.trace.sha256
    assert sorted(path.name for path in out.iterdir() if path.suffix == ".part") == []
    assert "ported in 1, ported out 1 numbers" in result.output
    assert "missing: rejected" in result.output


def test_the_trace_leads_to_the_journal(workbench: Workbench) -> None:
    bench = loaded(workbench)
    bench.delta(notice("886912345600", "1402", 886912345699, notified_at=at(JANUARY)), sequence=2, now=JANUARY + 1)
    found, rows = traced(bench)
    with bench.reader() as reader:
        entries = {serial: entry for serial, entry, _ in reader.journal()}
    for row in rows:
        entry = entries[int(row["serial"])]
        assert entry.tn is not None
        assert entry.tn_to is not None
        assert entry.tn <= int(row["tn"]) <= int(row["tn_to"]) <= entry.tn_to
    for network in found.networks:
        of_month = [row for row in rows if row["month"] == network.month and row["counted_as"] == "ported"]
        came = sum(int(row["numbers"]) for row in of_month if row["network_to"] == network.network_code)
        left = sum(int(row["numbers"]) for row in of_month if row["network_from"] == network.network_code)
        assert (came, left) == (network.ported_in, network.ported_out)


def test_a_masked_trace_hides_the_numbers(workbench: Workbench) -> None:
    bench = loaded(workbench)
    bench.delta(notice("886912345678", "1403", notified_at=at(JANUARY)), sequence=2, now=JANUARY + DAY)
    _, rows = traced(bench, masked=True)
    assert [row["tn"] for row in rows] == ["+88691234****"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--period", "2026"], 2, "write it like 2026H2"),
        (["--period", "2026-01"], 2, "is a month"),
        (["--period", "2999H1"], 2, "no period"),
        (["--period", "2100H1"], 2, "has not begun"),
        (["--period", "2026H1", "--time-zone", "Mars/Base"], 2, "--time-zone"),
        (["--period", "2026H1", "--network", "9999"], 2, "not in the networks table"),
        (["--period", "2026H1", "--probe", "missing.sqlite"], 3, "missing.sqlite"),
        (["--period", "2026H1", "--availability", "missing.json"], 3, "missing.json"),
        (["--period", "2026H1", "--reconciliation", "missing.json"], 3, "missing.json"),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_reason(
    workbench: Workbench, arguments: list[str], code: int, words: str
) -> None:
    result = run(*arguments, "--store", loaded(workbench).store)
    assert result.exit_code == code, result.output
    assert words in result.output


def test_a_file_in_the_folders_place_is_told(workbench: Workbench, tmp_path: Path) -> None:
    (tmp_path / "report").write_text("")
    result = run("--period", "2026H1", "--store", loaded(workbench).store, "--out", tmp_path / "report")
    assert (result.exit_code, "--out" in result.output) == (1, True)
