"""What the exchange does beside deltas: scrub and mend, foreign feeds, its listener, the clocks' report."""

from __future__ import annotations

import csv
import gzip
import io
import json
import shutil
import time
import urllib.request
from pathlib import Path

import pytest
import zstandard

from loader.formats.lookupd_steps import OwnFormat
from loader.report import parse_month
from lookupd.store.schema import BLOCK_KEY
from lookupd.store.verify import verify
from tests.conftest import SNAPSHOT, Workbench, free_port, run_cli, run_daemon, wait_until
from tests.exchange import Exchange, at, notice
from tests.unit.test_damage import damage, flipped

BLOCK = 886912345
VECTORS = Path(__file__).parent.parent / "vectors"


def is_whole(workbench: Workbench) -> bool:
    with workbench.reader() as reader:
        return verify(reader).problem_count == 0


# -- the scrub -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("database", ["blocks", "details"])
def test_damaged_block_is_found_and_mended_from_the_snapshot_and_the_journal(
    workbench: Workbench, database: str
) -> None:
    workbench.load_tables()
    exchange = Exchange(workbench)
    exchange.snapshot()
    exchange.delta(2, notice("886912345678"), notice("886912345001"))
    assert exchange.once().returncode == 0
    _, digest, _ = workbench.state()
    damage(workbench.store, database, BLOCK_KEY.pack(BLOCK), lambda value: flipped(value, 9))
    assert not is_whole(workbench)
    with exchange.running():
        wait_until(lambda: is_whole(workbench))
    with workbench.reader() as reader:
        assert reader.state.digest == digest
        assert reader.ported(886912345678).network_code == "1403"  # type: ignore[union-attr, arg-type]
        assert [entry.kind for _, entry, _ in reader.journal()][-1] == "repaired"


def test_what_look_ups_read_of_restrictions_is_mended_from_the_restrictions(workbench: Workbench) -> None:
    workbench.load_tables()
    exchange = Exchange(workbench)
    exchange.snapshot()
    restriction = {"kind": "restrict", "tn": "886912345678", "authority": "NPA", "case": "A-1", "measure": "stop"}
    exchange.delta(2, {**restriction, "notified_at": at(int(time.time()))})
    assert exchange.once().returncode == 0
    shutil.rmtree(workbench.store / "spool")  # no snapshot can help, and none is needed
    damage(workbench.store, "restricted", BLOCK_KEY.pack(BLOCK), lambda value: flipped(value, 70))
    assert not is_whole(workbench)
    with exchange.running():
        wait_until(lambda: is_whole(workbench))
    with workbench.reader() as reader:
        (*_, (_, entry, _)) = reader.journal()
    assert (entry.kind, entry.source) == ("repaired", f"the restrictions' rows, blocks {BLOCK}")


def test_damage_that_a_delta_meets_is_mended_at_once_and_the_delta_applied(workbench: Workbench) -> None:
    workbench.load_tables()
    exchange = Exchange(workbench, '[sync]\nscrub = "0s"')  # so that nobody else finds it
    exchange.snapshot()
    assert exchange.once().returncode == 0
    damage(workbench.store, "details", BLOCK_KEY.pack(BLOCK), lambda value: flipped(value, 9))
    exchange.delta(2, notice("886912345678"))
    with exchange.running():
        wait_until(lambda: exchange.acked("delta-main-2.ndjson") == "applied")
    assert is_whole(workbench)


def test_moment_that_meets_damage_is_kept_once_it_is_mended(workbench: Workbench) -> None:
    workbench.load_tables()
    exchange = Exchange(workbench, '[sync]\nscrub = "0s"')
    exchange.snapshot()
    moment = int(time.time()) + 4
    exchange.delta(2, notice("886912345678", effective_at=at(moment)))
    assert exchange.once().returncode == 0
    damage(workbench.store, "blocks", BLOCK_KEY.pack(BLOCK), lambda value: flipped(value, 9))
    with exchange.running(), workbench.reader() as reader:
        wait_until(lambda: (reader.pin(), not reader.pending())[1])
        assert reader.ported(886912345678).network_code == "1403"  # type: ignore[union-attr, arg-type]
    assert is_whole(workbench)


def test_damaged_block_is_mended_from_the_other_replica(workbench: Workbench, tmp_path: Path) -> None:
    workbench.load_tables()
    twin = Workbench(tmp_path / "twin")
    twin.folder.mkdir()
    port = free_port()
    exchange = Exchange(workbench, f'[sync]\npeer = "http://127.0.0.1:{port}"')
    exchange.snapshot()
    assert exchange.once().returncode == 0
    shutil.copytree(workbench.store, twin.store)
    shutil.rmtree(workbench.store / "spool")  # only the twin can help
    for path in exchange.source.iterdir():
        path.unlink()
    damage(workbench.store, "blocks", BLOCK_KEY.pack(BLOCK), lambda value: flipped(value, 1357))
    config = twin.config(listen=f'http = "http://127.0.0.1:{port}"')
    with run_daemon(config), exchange.running():
        wait_until(lambda: is_whole(workbench))
    assert workbench.state()[1] == twin.state()[1]


# -- a foreign feed --------------------------------------------------------------------------------------


def test_bdpn_feed_is_fetched_converted_applied_and_acknowledged(workbench: Workbench) -> None:
    exchange = Exchange(workbench, '[plan]\ncountry_code = "7"', 'format = "bdpn"')
    for vector in (VECTORS / "bdpn").glob("*_*_*.csv"):
        if "Full" not in vector.name and "20002" not in vector.name:
            shutil.copy(vector, exchange.source)
    done = exchange.once()
    assert done.returncode == 0, done.stderr
    with workbench.reader() as reader:
        assert reader.state.feeds["main"].sequence == 20001
        assert reader.state.ported > 0
        assert len(reader.ranges()) > 0
    acknowledged = {path.name for path in exchange.source.glob("*.ack.json")}
    assert {json.loads((exchange.source / name).read_text())["result"] for name in acknowledged} == {"applied"}
    assert len(acknowledged) >= 2
    before = workbench.state()
    assert exchange.once().returncode == 0
    assert workbench.state() == before
    for vector in (VECTORS / "bdpn").glob("*_20002.csv"):  # a csv of a header alone may be cut short
        shutil.copy(vector, exchange.source)
    refused = exchange.once()
    assert refused.returncode == 4
    assert "cut short" in json.loads(refused.stdout)["feeds"][0]["reason"]
    assert workbench.state() == before


# -- the listener ----------------------------------------------------------------------------------------


def get(url: str) -> tuple[int, str]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=5) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_listener_tells_metrics_and_what_stands_in_the_way(workbench: Workbench) -> None:
    workbench.load_tables()
    port = free_port()
    exchange = Exchange(workbench, f'[sync]\nhttp = "http://127.0.0.1:{port}"')
    exchange.snapshot()
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 60))
    with exchange.running():
        wait_until(lambda: exchange.acked("snapshot-main-1.csv") == "applied")
        assert get(f"http://127.0.0.1:{port}/readyz") == (200, "ready\n")
        exchange.delta(3, notice("886912345678", notified_at=now))
        wait_until(lambda: get(f"http://127.0.0.1:{port}/readyz")[0] == 503)
        assert "gap" in get(f"http://127.0.0.1:{port}/readyz")[1]
        text = get(f"http://127.0.0.1:{port}/metrics")[1]
        margin = next(
            line for line in text.splitlines() if line.startswith("lookupd_notice_margin_seconds{") and "port" in line
        )
        assert 3500 < float(margin.split()[-1]) < 3545
        assert 'lookupd_feed_blocked{feed="main",reason="gap"} 1.0' in text
        assert 'lookupd_notices_unapplied{feed="main",kind="port"} 1.0' in text
        exchange.delta(2, notice("886912345001", notified_at=now))
        wait_until(lambda: exchange.acked("delta-main-3.ndjson") == "applied")
        text = get(f"http://127.0.0.1:{port}/metrics")[1]
        assert 'lookupd_notices_unapplied{feed="main",kind="port"} 0.0' in text
        assert 'lookupd_notice_visible_seconds_count{feed="main",kind="port"} 2.0' in text
        assert 'lookupd_notice_breaches_total{feed="main",kind="port"} 0.0' in text


# -- the clocks' report ----------------------------------------------------------------------------------


def test_report_tells_every_notice_its_times_and_its_margin(workbench: Workbench) -> None:
    workbench.load_tables()
    exchange = Exchange(workbench)
    exchange.snapshot()
    now = int(time.time())
    recent, old = (time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now - ago)) for ago in (60, 3 * 3600))
    exchange.delta(
        2,
        notice("886912345678", notified_at=recent, ref="A-1"),
        notice("886912345001", notified_at=old),
        {"kind": "return", "tn": "886912345679", "notified_at": old},
    )
    assert exchange.once().returncode == 0
    out = workbench.folder / "proof"
    month = time.strftime("%Y-%m", time.gmtime(now))
    told = run_cli(
        "loader.cli", "report", "clocks", "--config", exchange.config, "--month", month, "--out", out, "--json"
    )
    assert told.returncode == 0, told.stderr
    figures = json.loads(told.stdout)
    assert figures == json.loads((out / f"clocks-{month}.json").read_text())
    port, back = figures["kinds"]["port"], figures["kinds"]["return"]
    assert (port["notices"], port["within_limit"], port["breached"], port["breached_received_after_limit"]) == (
        2,
        1,
        1,
        1,
    )
    assert (back["notices"], back["within_limit"], back["breached"]) == (1, 1, 0)
    assert 60 <= port["notified_to_visible_seconds"]["p50"] <= 3 * 3600 + 60
    rows = list(csv.DictReader(io.StringIO((out / f"clocks-{month}.csv").read_text())))
    assert [(row["kind"], row["tn"], row["ref"], row["within_limit"]) for row in rows] == [
        ("port", "+886912345678", "A-1", "yes"),
        ("port", "+886912345001", "", "no"),
        ("return", "+886912345679", "", "yes"),
    ]
    for row in rows:
        assert row["notified_at"] <= row["received_at"] <= row["confirmed_at"] <= row["visible_at"]
    masked = run_cli(
        "loader.cli", "report", "clocks", "--config", exchange.config, "--month", month, "--out", out, "--masked"
    )
    assert masked.returncode == 0
    assert "345678" not in (out / f"clocks-{month}.csv").read_text()


def test_report_of_another_month_is_empty_and_a_bad_month_is_refused(loaded: Workbench) -> None:
    empty = run_cli("loader.cli", "report", "clocks", "--store", loaded.store, "--month", "2001-01", "--json")
    assert json.loads(empty.stdout)["kinds"]["port"]["notices"] == 0
    for month in ("2026-13", "nov", "", "0001-01", "1970-01", "2106-01", "9999-12"):
        bad = run_cli("loader.cli", "report", "clocks", "--store", loaded.store, f"--month={month or 'x'}")
        assert (bad.returncode, "is no month" in bad.stderr) == (2, True)
    first = ("--month", "0001-01", "--utc-offset", "+14:00")
    assert "Traceback" not in run_cli("loader.cli", "report", "clocks", "--store", loaded.store, *first).stderr


def test_month_begins_at_midnight_of_its_place() -> None:
    month = parse_month("2026-12", "+08:00")
    assert time.strftime("%Y-%m-%dT%H:%M", time.gmtime(month.first)) == "2026-11-30T16:00"
    assert month.end - month.first == 31 * 86_400


# -- a spool that cannot be ------------------------------------------------------------------------------


def test_spool_that_cannot_be_made_is_a_fault_of_the_configuration(workbench: Workbench) -> None:
    workbench.load_tables()
    exchange = Exchange(workbench, '[sync]\nspool = "/proc/nowhere"')
    exchange.snapshot()
    failed = exchange.once()
    assert (failed.returncode, "sync.spool: /proc/nowhere" in failed.stderr) == (3, True)
    assert "Traceback" not in failed.stderr


def test_spool_that_went_away_is_told_and_made_again_at_the_next_start(workbench: Workbench) -> None:
    workbench.load_tables()
    exchange = Exchange(workbench, f'[sync]\nspool = "{workbench.folder}/spool"')
    exchange.snapshot()
    process = exchange.start()
    try:
        wait_until(lambda: exchange.acked("snapshot-main-1.csv") == "applied")
        shutil.rmtree(workbench.folder / "spool" / "main")
        exchange.delta(2, notice("886912345678"))
        wait_until(lambda: "see that the folder is there" in exchange.log.read_text())
        assert process.poll() is None
    finally:
        process.terminate()
        assert process.wait(20) == 0
    assert exchange.once().returncode == 0
    assert exchange.position() == 2


# -- after a restore -------------------------------------------------------------------------------------


def test_restored_store_is_brought_up_to_date_from_the_spool(workbench: Workbench) -> None:
    workbench.load_tables()
    exchange = Exchange(workbench, f'[sync]\nspool = "{workbench.folder}/spool"')
    exchange.snapshot()
    assert exchange.once().returncode == 0
    backup = workbench.folder / "backup"
    assert run_cli("loader.cli", "backup", "--out", backup, "--store", workbench.store).returncode == 0
    exchange.delta(2, notice("886912345678"))
    exchange.delta(3, notice("886912345001"))
    assert exchange.once().returncode == 0
    acks = [exchange.ack(f"delta-main-{sequence}.ndjson") for sequence in (2, 3)]
    _, digest, _ = workbench.state()
    for path in exchange.source.iterdir():  # the sender has put them away
        path.unlink()
    (workbench.store / "data.mdb").unlink()
    restored = run_cli("loader.cli", "restore", backup, "--store", workbench.store)
    assert restored.returncode == 0, restored.stderr
    assert exchange.position() == 1
    assert exchange.once().returncode == 0
    assert exchange.position() == 3
    assert workbench.state()[1] == digest
    again = [
        json.loads((workbench.folder / f"spool/main/acks/delta-main-{n}.ndjson.ack.json").read_text()) for n in (2, 3)
    ]
    assert [ack["confirmed_at"] for ack in again] == [ack["confirmed_at"] for ack in acks]


# -- the sender's side -----------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
def test_manifest_made_by_the_command_is_taken_by_the_exchange(workbench: Workbench, ending: str) -> None:
    workbench.load_tables()
    exchange = Exchange(workbench)
    text = SNAPSHOT.encode()
    data = {"": text, ".gz": gzip.compress(text), ".zst": zstandard.compress(text)}[ending]
    path = exchange.source / f"snapshot-main-1.csv{ending}"
    path.write_bytes(data)
    made = run_cli("loader.cli", "manifest", path, "--json")
    assert json.loads(made.stdout) == {"file": path.name, "feed": "main", "sequence": 1, "rows": 4}
    assert exchange.once().returncode == 0
    assert exchange.acked(path.name) == "applied"


def test_manifest_of_a_file_with_another_name_is_refused(workbench: Workbench) -> None:
    refused = run_cli("loader.cli", "manifest", workbench.write("numbers.csv", SNAPSHOT))
    assert (refused.returncode, "call it snapshot-FEED" in refused.stderr) == (4, True)


# -- what is begun and not finished ----------------------------------------------------------------------


def test_file_whose_manifest_does_not_come_is_told(workbench: Workbench) -> None:
    workbench.load_tables()
    port = free_port()
    exchange = Exchange(workbench, f'[sync]\nhttp = "http://127.0.0.1:{port}"', gap_wait="300ms")
    exchange.snapshot()
    with exchange.running():
        wait_until(lambda: exchange.acked("snapshot-main-1.csv") == "applied")
        exchange.delta(2, notice("886912345678"))
        wait_until(lambda: exchange.acked("delta-main-2.ndjson") == "applied")
        exchange.delta(3, notice("886912345001"))
        wait_until(lambda: exchange.acked("delta-main-3.ndjson") == "applied")
        (exchange.source / "delta-main-4.ndjson").write_text("{}\n")
        wait_until(lambda: get(f"http://127.0.0.1:{port}/readyz")[0] == 503)
        told = get(f"http://127.0.0.1:{port}/readyz")[1]
        assert "delta-main-4.ndjson is there, delta-main-4.ndjson.json not" in told
        assert 'reason="unfinished"} 1.0' in get(f"http://127.0.0.1:{port}/metrics")[1]
        (exchange.source / "delta-main-4.ndjson").unlink()
        wait_until(lambda: get(f"http://127.0.0.1:{port}/readyz")[0] == 200)
        exchange.delta(4, notice("886912345002"))
        wait_until(lambda: exchange.acked("delta-main-4.ndjson") == "applied")


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ({"delta-main-2.ndjson"}, "is there, delta-main-2.ndjson.json and delta-main-2.ndjson.json.minisig not"),
        ({"delta-main-2.ndjson", "delta-main-2.ndjson.json"}, "delta-main-2.ndjson.json.minisig not"),
        ({"delta-main-1.ndjson", "delta-other-2.ndjson", "notes.txt", "delta-main-2.ndjson.json"}, None),
    ],
)
def test_unfinished_step_of_our_format_is_named(names: set[str], told: str | None) -> None:
    found = OwnFormat("main", signed=True).unfinished(frozenset(names), 1)
    assert found is None if told is None else told in (found or "")
