"""reconcile and diff: a file against the store, what differs, and corrections that make it equal."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from click.testing import CliRunner, Result

from loader.cli import cli
from loader.corrections import repair
from loader.files import FeedFile
from loader.formats.lookupd_columns import parse_rows
from loader.reconcile import compare, read_file
from lookupd.model import TN, JournalKind, UnixSeconds
from lookupd.store.compare import joined
from lookupd.store.writer import Writer
from tests.conftest import NETWORKS, PLAN, SNAPSHOT, Silent, Workbench, run_cli

REASON = "Wu Mei: list of October, ticket 4711"
HEADER = "tn,network_code,routing_number,donor,ported_at\n"
MONTHLY = """tn,network_code
886912345678,1402
886912345679,1402
886923456789,1401
886955000001,1403
"""
"""Against SNAPSHOT: 886223450000 is extra, 886955000001 missing, 886912345679 has another network."""


def loader(*arguments: str | Path) -> Result:
    """The command in this process: a fifth of the time, and the same code from the first option on."""
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def reconcile(workbench: Workbench, file: Path, *more: str, code: int) -> dict[str, Any]:
    """The command's JSON."""
    ran = loader("reconcile", file, "--store", workbench.store, "--json", *more)
    assert ran.exit_code == code, ran.stdout + ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


def counts(found: dict[str, Any]) -> tuple[int, int, int, int]:
    return found["missing"], found["extra"], found["route"], found["details"]


def test_snapshot_of_the_store_is_equal(loaded: Workbench) -> None:
    found = reconcile(loaded, loaded.write("list.csv", SNAPSHOT), code=0)
    assert found["result"] == "equal"
    assert (found["in_store"], found["in_file"]) == (4, 4)
    assert counts(found) == (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("name", "pack"),
    [("monthly.csv", bytes), ("monthly.csv.gz", gzip.compress), ("monthly.csv.zst", zstandard.compress)],
)
def test_monthly_file_without_manifest_is_compared_in_what_it_has(
    loaded: Workbench, name: str, pack: Callable[[bytes], bytes]
) -> None:
    before = loaded.state()
    found = reconcile(loaded, loaded.write(name, pack(MONTHLY.encode())), code=6)
    assert counts(found) == (1, 1, 1, 0)  # neither routing number nor donor nor time of 886923456789 counts
    assert found["compared"] == ["tn", "network_code"]
    networks = {row["network_code"]: row for row in found["by_network"]}
    assert networks["1403"] == {
        "network_code": "1403", "in_store": 1, "in_file": 1, "missing": 1, "extra": 1, "from_here": 0, "to_here": 0,
    }  # fmt: skip
    assert (networks["1401"]["from_here"], networks["1402"]["to_here"]) == (1, 1)
    assert loaded.state() == before


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("886912345678,1402,,1401", "886912345678,1402,,1403", (0, 0, 0, 1)),
        ("886912345678,1402,,1401,2026-03-01T09:00:00", "886912345678,1402,,1401,2026-03-01T09:00:01", (0, 0, 0, 1)),
        ("886912345678,1402,,1401", "886912345678,1402,D7777,1401", (0, 0, 1, 0)),
        ("886923456789,1401,D9999", "886923456789,1401,", (0, 0, 1, 0)),
        ("886912345678,1402,,1401", "886912345678,1401,,1402", (0, 0, 1, 0)),
        ("886912345678", "886912345677", (1, 1, 0, 0)),
    ],
)
def test_each_kind_of_difference_is_counted_once(
    loaded: Workbench, old: str, new: str, expected: tuple[int, ...]
) -> None:
    assert old in SNAPSHOT
    found = reconcile(loaded, loaded.write("list.csv", SNAPSHOT.replace(old, new)), code=6)
    assert counts(found) == expected


def test_report_has_every_difference_and_the_terminal_masks_numbers(loaded: Workbench) -> None:
    file, report = loaded.write("monthly.csv", MONTHLY), loaded.folder / "october.csv"
    ran = run_cli("loader.cli", "reconcile", file, "--store", loaded.store, "--report", report)
    assert ran.returncode == 6
    assert "+88691234**** route: store 1401" in ran.stdout
    assert "886912345679" not in ran.stdout
    rows = list(csv.DictReader(report.read_text().splitlines()))
    assert [(row["tn"], row["kind"]) for row in rows] == [
        ("886223450000", "extra"), ("886912345679", "route"), ("886955000001", "missing"),
    ]  # fmt: skip
    assert rows[1]["store_network_code"] == "1401"
    assert rows[1]["store_ported_at"] == "2026-03-01T01:00:00Z"
    assert rows[1]["file_network_code"] == "1402"
    assert (rows[0]["store_network_code"], rows[0]["file_network_code"]) == ("1403", "")
    assert report.stat().st_mode & 0o077 == 0
    shown = run_cli("loader.cli", "reconcile", file, "--store", loaded.store, "--show-numbers")
    assert "+886912345679 route" in shown.stdout


def test_report_that_cannot_be_written_is_told(loaded: Workbench) -> None:
    file = loaded.write("monthly.csv", MONTHLY)
    ran = run_cli("loader.cli", "reconcile", file, "--store", loaded.store, "--report", "/nowhere/october.csv")
    assert ran.returncode == 1
    assert "--report /nowhere/october.csv: No such file or directory" in ran.stderr


def test_network_that_the_store_lacks_is_a_difference_and_not_a_rejection(loaded: Workbench) -> None:
    text = SNAPSHOT.replace("886912345679,1401", "886912345679,NEWNET")
    found = reconcile(loaded, loaded.write("list.csv", text), code=6)
    assert counts(found) == (0, 0, 1, 0)
    assert found["unknown_networks"] == ["NEWNET"]
    assert {row["network_code"]: row["to_here"] for row in found["by_network"]}["NEWNET"] == 1


def test_bad_row_is_named(loaded: Workbench) -> None:
    ran = run_cli(
        "loader.cli", "reconcile", loaded.write("list.csv", SNAPSHOT + "x,1402,,,\n"), "--store", loaded.store
    )
    assert ran.returncode == 4
    assert "list.csv:6: tn 'x'" in ran.stderr


def test_manifest_that_does_not_fit_is_refused(loaded: Workbench) -> None:
    file = loaded.publish("snapshot-main-2.csv", SNAPSHOT, 4, sha256="0" * 64)
    ran = run_cli("loader.cli", "reconcile", file, "--store", loaded.store)
    assert ran.returncode == 4
    assert "the manifest says" in ran.stderr


def test_writer_at_work_does_not_stop_a_comparison(loaded: Workbench) -> None:
    file = loaded.write("list.csv", SNAPSHOT)
    with Writer(loaded.store) as writer, writer.change(UnixSeconds(5)) as change:
        change.set_numbers(TN(886912345678), TN(886912345678), 0, 0, 0, 2)
        ran = run_cli("loader.cli", "reconcile", file, "--store", loaded.store)
        assert (ran.returncode, "list.csv: equal" in ran.stdout) == (0, True)
        change.set_numbers(TN(886912345678), TN(886912345678), 1, 0, 0, 2)


# -- repair ----------------------------------------------------------------------------------------------


def test_repair_makes_the_store_equal_and_keeps_what_the_file_does_not_tell(loaded: Workbench) -> None:
    found = reconcile(loaded, loaded.write("monthly-2026-10.csv", MONTHLY), "--repair", "--reason", REASON, code=0)
    assert counts(found) == (1, 1, 1, 0)
    assert found["after"]["result"] == "equal"
    repair = found["repair"]
    assert (repair["added"], repair["removed"], repair["changed"], repair["entries"]) == (1, 1, 1, 3)
    with loaded.reader() as reader:
        assert reader.ported(TN(886223450000)) is None
        mended = reader.ported(TN(886912345679))
        assert mended is not None
        assert (mended.network_code, mended.donor) == ("1402", "1403")
        assert mended.ported_at == 1772326800  # 2026-03-01T01:00:00Z, as before
        untouched = reader.ported(TN(886923456789))
        assert untouched is not None
        assert untouched.routing_number == "D9999"
        entries = [(entry.kind, entry.tn) for _, entry, _ in reader.journal()][-3:]
        assert entries == [
            (JournalKind.RETURN, 886223450000), (JournalKind.CORRECT, 886912345679),
            (JournalKind.CORRECT, 886955000001),
        ]  # fmt: skip
        for _, entry in reader.history(TN(886912345679), 1):
            assert (entry.ref, entry.reason, entry.feed) == ("RECON-monthly-2026-10.csv", REASON, None)
            assert [old.network_code for old in entry.old] == ["1401"]
            assert entry.new is not None
            assert entry.new.network_code == "1402"
    verified = run_cli("loader.cli", "verify", "--store", loaded.store)
    assert verified.returncode == 0, verified.stdout


def test_repair_by_a_full_file_gives_the_digest_of_a_store_loaded_from_it(loaded: Workbench, tmp_path: Path) -> None:
    rows = (f"88691234{at:04d},1402,D{at % 3:04d},1401,2026-05-0{at % 2 + 1}T00:00:00Z\n" for at in range(500))
    wanted = HEADER + "".join(rows)
    other = Workbench(tmp_path / "other")
    other.folder.mkdir()
    other.load_tables()
    other.snapshot(wanted)
    found = reconcile(loaded, loaded.write("list.csv", wanted), "--repair", "--reason", REASON, code=0)
    assert found["after"]["details"] == 0
    assert loaded.state()[1] == other.state()[1]


def test_consecutive_numbers_are_one_entry(loaded: Workbench) -> None:
    text = SNAPSHOT + "".join(f"88695500{at:04d},1402,,,\n" for at in range(2500))
    found = reconcile(loaded, loaded.write("list.csv", text), "--repair", "--reason", REASON, code=0)
    assert (found["repair"]["added"], found["repair"]["entries"]) == (2500, 1)


def test_repair_leaves_numbers_whose_network_is_not_known(loaded: Workbench) -> None:
    text = SNAPSHOT.replace("886912345679,1401", "886912345679,NEWNET")
    text = text.replace("886923456789,1401,D9999", "886923456789,1403,")
    found = reconcile(loaded, loaded.write("list.csv", text), "--repair", "--reason", REASON, code=6)
    assert (found["repair"]["changed"], found["repair"]["unknown_network"]) == (1, 1)
    assert counts(found["after"]) == (0, 0, 1, 0)


def test_number_that_changed_since_it_was_compared_is_left(loaded: Workbench) -> None:
    text = HEADER + "".join(f"88691234567{at},1402,,,\n" for at in range(8))
    path = loaded.write("list.csv", text)
    file = FeedFile(path, "snapshot", "main", 0, None, None, path.stat().st_size, None)
    found: list[Any] = []
    with loaded.reader() as reader:
        read = read_file(file, PLAN, reader, Silent())
        compare(reader, read, Silent(), found.append)
    loaded.delta({"kind": "port", "tn": "886912345673", "recipient": "1401"}, sequence=2)
    with Writer(loaded.store) as writer:
        done = repair(writer, read, joined(found), REASON, UnixSeconds(1))
    assert done.changed_meanwhile == 1
    with loaded.reader() as reader:
        states = [reader.ported(TN(886912345670 + at)) for at in range(8)]
        assert [state and state.network_code for state in states] == ["1402"] * 3 + ["1401"] + ["1402"] * 4


@pytest.mark.parametrize("words", [(), ("--reason", "yes"), ("--reason", "Wu: ok")])
def test_repair_needs_who_and_why(loaded: Workbench, words: tuple[str, ...]) -> None:
    before = loaded.state()
    ran = loader("reconcile", loaded.write("list.csv", MONTHLY), "--store", loaded.store, "--repair", *words)
    assert ran.exit_code == 2
    assert "who" in ran.stderr
    assert loaded.state() == before


def test_unsigned_file_is_compared_but_does_not_repair_a_signed_feed(loaded: Workbench) -> None:
    key = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3"
    config = loaded.config(f'[feed.main]\nsource = "dir:///tmp"\npublic_key = "{key}"')
    file = loaded.write("monthly.csv", MONTHLY)
    assert run_cli("loader.cli", "reconcile", file, "--config", config).returncode == 6
    ran = run_cli("loader.cli", "reconcile", file, "--config", config, "--repair", "--reason", REASON)
    assert ran.returncode == 4
    assert "only a signed file repairs" in ran.stderr


# -- diff ------------------------------------------------------------------------------------------------


def test_diff_of_a_snapshot_changes_nothing_and_ends_with_0(loaded: Workbench) -> None:
    before = loaded.state()
    file = loaded.publish("snapshot-main-7.csv", MONTHLY, 4)
    ran = loader("diff", file, "--store", loaded.store)
    assert ran.exit_code == 0
    assert "missing=1 extra=1 route=1" in ran.stdout
    assert "the file is of position 7, the store is at 1" in ran.stdout
    assert loaded.state() == before


def delta_file(workbench: Workbench, *notices: dict[str, str], sequence: int = 2) -> Path:
    text = "".join(json.dumps({"notified_at": "2026-11-22T10:00:00Z"} | notice) + "\n" for notice in notices)
    return workbench.publish(f"delta-main-{sequence}.ndjson", text, len(notices))


def test_diff_of_a_delta_tells_each_line_with_old_and_new_state(loaded: Workbench) -> None:
    before = loaded.state()
    file = delta_file(
        loaded,
        {"kind": "port", "tn": "886912345677", "tn_to": "886912345680", "recipient": "1403"},
        {"kind": "correct", "tn": "886912345677", "recipient": "1402"},
        {"kind": "return", "tn": "886223450000"},
        {"kind": "return", "tn": "886223450001"},
        {"kind": "port", "tn": "886912345678", "recipient": "1401", "effective_at": "2099-01-01T00:00:00Z"},
    )
    report = loaded.folder / "changes.csv"
    ran = loader("diff", file, "--store", loaded.store, "--json", "--report", report)
    assert ran.exit_code == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert {name: found[name] for name in ("order", "notices", "added", "removed", "changed", "unchanged")} == {
        "order": "next", "notices": 5, "added": 2, "removed": 1, "changed": 3, "unchanged": 1,
    }  # fmt: skip
    assert (found["waiting_notices"], found["waiting_numbers"]) == (1, 1)
    told = [
        (row["line"], row["tn"], row["tn_to"], row["store_network_code"], row["file_network_code"], row["waits"])
        for row in csv.DictReader(report.read_text().splitlines())
    ]
    assert told == [
        ("1", "886912345677", "886912345677", "", "1403", "False"),
        ("1", "886912345678", "886912345678", "1402", "1403", "False"),
        ("1", "886912345679", "886912345679", "1401", "1403", "False"),
        ("1", "886912345680", "886912345680", "", "1403", "False"),
        ("2", "886912345677", "886912345677", "1403", "1402", "False"),
        ("3", "886223450000", "886223450000", "1403", "", "False"),
        ("4", "886223450001", "886223450001", "", "", "False"),
        ("5", "886912345678", "886912345678", "1403", "1401", "True"),
    ]
    assert loaded.state() == before


def test_diff_of_a_delta_foretells_what_applying_it_does(loaded: Workbench) -> None:
    notices: list[dict[str, Any]] = [
        {"kind": "port", "tn": "886912345600", "tn_to": "886912346100", "recipient": "1403"},
        {"kind": "return", "tn": "886912345678", "tn_to": "886912345700"},
        {"kind": "port", "tn": "886923456789", "recipient": "1402", "donor": "1401"},
    ]
    ran = loader("diff", delta_file(loaded, *notices), "--store", loaded.store, "--json")
    foretold = json.loads(ran.stdout)
    result = loaded.delta(*notices, sequence=2)
    for name in ("added", "removed", "changed", "unchanged"):
        assert foretold[name] == getattr(result, name), name


@pytest.mark.parametrize(("sequence", "order"), [(1, "duplicate"), (2, "next"), (3, "gap")])
def test_diff_tells_where_a_delta_stands(loaded: Workbench, sequence: int, order: str) -> None:
    file = delta_file(loaded, {"kind": "return", "tn": "886223450000"}, sequence=sequence)
    ran = loader("diff", file, "--store", loaded.store, "--json")
    assert (ran.exit_code, json.loads(ran.stdout)["order"]) == (0, order)


def test_fixture_networks_are_those_the_cases_assume() -> None:
    assert [line.split(",")[0] for line in NETWORKS.splitlines()[1:]] == ["1401", "1402", "1403"]


@pytest.mark.parametrize("code", ["14\0", "\x0014", "1\x0004"])
def test_padding_inside_a_code_is_not_taken_for_its_end(code: str) -> None:
    assert parse_rows(f"886912345678,{code}\n".encode(), ("tn", "network_code")) is None


@pytest.mark.parametrize("tn", ["12345", "12345678", "123456789", "999999999999999", "100000000"])
def test_numbers_of_each_length_are_read_wherever_they_stand(tn: str) -> None:
    for text, at in ((f"{tn},1\n", 0), (f"1000000,1\n{tn},1\n", 1)):
        raw = parse_rows(text.encode(), ("tn", "network_code"))
        assert raw is not None
        assert raw.tn[at] == int(tn)


def test_many_codes_that_push_each_other_out_are_told_apart() -> None:
    codes = [f"{at:X}" for at in range(9000)]
    raw = parse_rows("".join(f"886912345678,{code}\n" for code in codes).encode(), ("tn", "network_code"))
    assert raw is not None
    assert [raw.codes[at] for at in raw.network.tolist()] == codes
