"""Restrictions by hand, as people place, extend, lift, list and load them; and what the journal and `explain` tell."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from loader.cli import cli as loader_cli
from lookupd.cli import cli
from lookupd.model import UnixSeconds
from lookupd.store.verify import verify
from lookupd.store.writer import Writer
from lookupd.units import format_time
from tests.conftest import Workbench

PORTED = "886912345678"
WHO = ("--authority", "NPA", "--case", "A-1")
WHY = ("--why", "Wu Mei: order by fax")
STOP = (*WHO, *WHY, "--measure", "stop")
DAY, YEAR = 86_400, 365 * 86_400


def run(bench: Workbench, *arguments: str | Path) -> Result:
    result = CliRunner().invoke(loader_cli, [*map(str, arguments), "--store", str(bench.store)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def done(bench: Workbench, *arguments: str | Path) -> dict[str, Any]:
    result = run(bench, *arguments, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def listed(bench: Workbench, *arguments: str) -> list[dict[str, Any]]:
    result = run(bench, "restrictions", *arguments, "--json")
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def asked(bench: Workbench, number: str = PORTED) -> str | None:
    result = CliRunner().invoke(cli, ["query", number, "--store", str(bench.store), "--json"])
    restriction = json.loads(result.stdout)["restriction"]
    return restriction and str(restriction["kind"])


def at(seconds: float) -> str:
    """A moment so far from now."""
    return str(format_time(int(time.time() + seconds)))


def other_store(bench: Workbench, name: str = "other") -> Workbench:
    """A replica that begins from the same snapshot."""
    other = Workbench(bench.folder / name)
    other.folder.mkdir()
    other.load_tables()
    other.snapshot()
    return other


# -- one -------------------------------------------------------------------------------------------------


def test_restriction_of_which_no_measure_is_told_stops(loaded: Workbench) -> None:
    done(loaded, "restrict", PORTED, *WHO, *WHY)
    assert asked(loaded) == "stop"


def test_restriction_by_hand_is_in_force_and_the_journal_says_who_and_why(loaded: Workbench) -> None:
    told = done(loaded, "restrict", "0912-345-678", *STOP)
    assert (told["result"], told["notes"], asked(loaded)) == ("restricted", [], "stop")
    (entry,) = [
        json.loads(line) for line in run(loaded, "journal", PORTED, "--limit", "1", "--json").stdout.split("\n") if line
    ]
    assert (entry["serial"], entry["kind"], entry["reason"]) == (told["serial"], "restrict", WHY[1])
    assert entry["restriction"] == told["restriction"]
    assert told["restriction"]["authority"] == "NPA"


def test_restriction_is_extended_once_and_lifted_by_its_authority(loaded: Workbench) -> None:
    before = loaded.state()[1]
    placed = done(loaded, "restrict", PORTED, *STOP)["restriction"]
    extended = done(loaded, "extend", PORTED, *WHO, *WHY)["restriction"]
    assert (extended["extended"], extended["until"][:4]) == (True, str(int(placed["until"][:4]) + 1))
    again = run(loaded, "extend", PORTED, *WHO, *WHY)
    assert again.exit_code == 1
    assert "once is what is allowed; the store is unchanged" in again.stderr
    stranger = run(loaded, "lift", PORTED, "--authority", "NCC", "--case", "A-1", *WHY)
    assert (stranger.exit_code, asked(loaded)) == (1, "stop")
    done(loaded, "lift", PORTED, *WHO, *WHY)
    assert (asked(loaded), loaded.state()[1]) == (None, before)


def test_imsi_and_ranges_are_restricted(loaded: Workbench) -> None:
    done(loaded, "restrict", "--imsi", "466010000000000", "--to", "466010000000009", *STOP)
    done(loaded, "restrict", "+886 912 345 600", "--to", "0912345699", *STOP)
    assert [(each["tn"], each["tn_to"], each["imsi"], each["imsi_to"]) for each in listed(loaded)] == [
        (None, None, "466010000000000", "466010000000009"),
        ("+886912345600", "+886912345699", None, None),
    ]
    assert asked(loaded) == "stop"


def test_number_of_no_plan_is_taken_with_a_note(loaded: Workbench) -> None:
    result = run(loaded, "restrict", "+886119999999999", *STOP)
    assert (result.exit_code, "note: the plan of +886 has no such number" in result.stdout) == (0, True)
    assert len(listed(loaded)) == 1


def test_of_a_pair_the_command_says_what_is_to_be_done_at_the_other(loaded: Workbench) -> None:
    config = loaded.config('[replica]\npeer = "http://127.0.0.1:1"')
    options = ("--config", str(config), "--json")
    told = json.loads(CliRunner().invoke(loader_cli, ["restrict", PORTED, *STOP, *options]).stdout)
    (note,) = told["notes"]
    assert note.endswith(f"within 20 s, with --from {told['restriction']['from']}")
    other = other_store(loaded)
    done(other, "restrict", PORTED, *STOP, "--from", told["restriction"]["from"])
    assert other.state()[1] == loaded.state()[1]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("restrict", PORTED, *STOP, "--until", "2020-01-01T00:00:00Z"), "in the past"),
        (("restrict", PORTED, *STOP, "--from", "2020-01-01T00:00:00Z"), "would have lapsed at 2022-01-01"),
        (("extend", PORTED, *WHO, *WHY, "--until", "2020-01-01T00:00:00Z"), "in the past"),
        (("restrict", *STOP), "name a NUMBER, or --imsi"),
        (("restrict", PORTED, "--imsi", "466010000000000", *STOP), "name a NUMBER, or --imsi"),
        (("restrict", "hello", *STOP), "no number of 5 to 15 digits"),
        (("restrict", "--imsi", "12345", *STOP), "14 or 15 digits"),
        (("restrict", PORTED, "--to", "886912345000", *STOP), "backwards"),
        (("restrict", "886899999900", "--to", "886900000100", *STOP), "crosses"),
        (("restrict", PORTED, "--authority", "x" * 65, "--case", "1", *WHY, "--measure", "stop"), "authority: 1 to 64"),
        (("restrict", PORTED, *WHO, *WHY, "--measure", "jail"), "--measure"),
        (("restrict", PORTED, *WHO, "--measure", "stop", "--why", "because"), "who: why"),
        (("restrictions", PORTED, "--imsi", "466010000000000"), "not both"),
        (("restrictions", "--imsi", "1"), "14 or 15 digits"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_meant_is_a_usage_error(loaded: Workbench, arguments: tuple[str, ...], why: str) -> None:
    before = loaded.state()
    result = run(loaded, *arguments)
    assert (result.exit_code, why in result.stderr) == (2, True), result.stderr
    assert loaded.state() == before


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("restrict", PORTED, *STOP, "--until", at(4 * YEAR)), "more than 2 years"),
        (("lift", PORTED, *WHO, *WHY), "only who placed one lifts it"),
        (("extend", PORTED, *WHO, *WHY), "no restriction here"),
    ],
    ids=["long", "lift", "extend"],
)
def test_what_the_rules_forbid_changes_nothing(loaded: Workbench, arguments: tuple[str, ...], why: str) -> None:
    before = loaded.state()
    result = run(loaded, *arguments)
    assert (result.exit_code, why in result.stderr) == (1, True), result.stderr
    assert loaded.state() == before


def test_lapsed_one_is_not_extended_by_hand(loaded: Workbench) -> None:
    loaded.delta(
        {"kind": "restrict", "tn": PORTED, "authority": "NPA", "case": "A-1", "measure": "stop", "from": at(-2 * DAY),
         "until": at(-DAY)},
        sequence=2,
    )  # fmt: skip
    result = run(loaded, "extend", PORTED, *WHO, *WHY)
    assert (result.exit_code, "it lapsed at" in result.stderr) == (1, True)
    assert (listed(loaded), [each["state"] for each in listed(loaded, "--lapsed")]) == ([], ["lapsed"])


def test_earlier_from_does_not_make_the_time_longer(loaded: Workbench) -> None:
    done(loaded, "restrict", PORTED, *STOP)
    told = done(loaded, "restrict", PORTED, *STOP, "--from", at(-YEAR))["restriction"]
    assert int(told["until"][:4]) - int(told["from"][:4]) == 2


def test_command_waits_for_whoever_writes(loaded: Workbench) -> None:
    command = [sys.executable, "-m", "loader.cli", "restrict", PORTED, *STOP, "--store", str(loaded.store)]
    with Writer(loaded.store) as writer, writer.change(UnixSeconds(int(time.time()))):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(2)
    assert process.wait(30) == 0
    assert asked(loaded) == "stop"


# -- lists -----------------------------------------------------------------------------------------------


def some(bench: Workbench) -> None:
    """Of each target and state: in force, extended, waiting, lapsed."""
    stop = {"kind": "restrict", "authority": "NPA", "case": 'A, "1"', "measure": "stop"}
    bench.delta(
        {**stop, "tn": PORTED, "from": at(-2 * DAY)},
        {"kind": "extend", "tn": PORTED, "authority": "NPA", "case": 'A, "1"'},
        {**stop, "tn": "886912345000", "tn_to": "886912346999", "from": at(DAY), "authority": "NCC"},
        {**stop, "imsi": "001010000000000", "imsi_to": "001010000000099", "from": at(-2 * DAY), "until": at(-DAY)},
        {**stop, "imsi": "46601123456789", "measure": "no_roaming", "from": at(-DAY)},
        sequence=2,
    )


def test_list_is_by_number_imsi_and_authority(loaded: Workbench) -> None:
    some(loaded)
    states = {each["tn"] or each["imsi"]: each["state"] for each in listed(loaded, "--lapsed")}
    assert states == {
        "46601123456789": "in_force",
        "001010000000000": "lapsed",
        "+886912345000": "waits",
        "+886912345678": "in_force",
    }
    assert len(listed(loaded)) == 3
    assert [each["authority"] for each in listed(loaded, PORTED)] == ["NPA", "NCC"]
    assert [each["authority"] for each in listed(loaded, PORTED, "--authority", "NCC")] == ["NCC"]
    assert [each["kind"] for each in listed(loaded, "--imsi", "46601123456789")] == ["no_roaming"]
    assert [each["state"] for each in listed(loaded, "--imsi", "001010000000050", "--lapsed")] == ["lapsed"]


def test_list_of_another_replica_makes_this_one_equal(loaded: Workbench) -> None:
    some(loaded)
    path = loaded.folder / "list.csv"
    assert done(loaded, "restrictions", "--lapsed", "--csv", path) == {
        "result": "written",
        "file": str(path),
        "rows": 4,
    }
    other = other_store(loaded)
    told = done(other, "restrictions", "load", path, *WHY)
    assert (told["placed"], told["unchanged"]) == (4, 0)
    assert other.state()[1] == loaded.state()[1]
    assert listed(other, "--lapsed") == listed(loaded, "--lapsed")
    entries = [json.loads(line) for line in run(other, "journal", "--kind", "restrict", "--json").stdout.splitlines()]
    assert [(entry["source"], entry["reason"]) for entry in entries] == [("list.csv", WHY[1])] * 4
    serial = other.state()[0]
    assert done(other, "restrictions", "load", path, *WHY)["unchanged"] == 4
    assert other.state()[0] == serial
    with other.reader() as reader:
        assert verify(reader).problems == []


ROW = {
    "tn": PORTED, "tn_to": PORTED, "imsi": "", "imsi_to": "", "authority": "NPA", "case": "1", "measure": "stop",
    "from": "2026-01-01T00:00:00Z", "until": "2028-01-01T00:00:00Z", "extended": "no",
}  # fmt: skip


def write_rows(path: Path, *rows: dict[str, str]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ROW)
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"until": "2028-01-01T00:00:01Z"}, "until is after 2028-01-01T00:00:00Z, the last moment"),
        ({"until": "2029-01-01T00:00:01Z", "extended": "yes"}, "until is after 2029-01-01T00:00:00Z, the last moment"),
        ({"until": "2026-01-01T00:00:00Z"}, "not after from"),
        ({"extended": "true"}, "it is yes or no"),
        ({"measure": "jail"}, "one of stop"),
        ({"from": ""}, "from ''"),
        ({"imsi": "466010000000000"}, "a restriction is on tn"),
        ({"tn": "886899999900", "tn_to": "886900000100"}, "crosses"),
        ({"authority": ""}, "authority: 1 to 64"),
        ({}, "stand twice"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_row_of_a_list_is_told_by_its_line_and_nothing_is_placed(
    loaded: Workbench, changed: dict[str, str], why: str
) -> None:
    before = loaded.state()
    path = write_rows(loaded.folder / "list.csv", ROW, ROW | changed)
    result = run(loaded, "restrictions", "load", path, *WHY)
    assert (result.exit_code, "list.csv:3: " in result.stderr, why in result.stderr) == (4, True, True), result.stderr
    assert loaded.state() == before


def test_list_that_says_otherwise_than_the_store_is_refused(loaded: Workbench) -> None:
    path = write_rows(loaded.folder / "list.csv", ROW | {"case": "2"}, ROW)
    done(loaded, "restrictions", "load", write_rows(loaded.folder / "one.csv", ROW | {"measure": "alert"}), *WHY)
    before = loaded.state()
    result = run(loaded, "restrictions", "load", path, *WHY)
    assert result.exit_code == 4
    assert "list.csv:3: here case 1 of NPA says alert until 2028-01-01T00:00:00Z" in result.stderr
    assert loaded.state() == before


# -- what others tell of it ------------------------------------------------------------------------------


def explained(bench: Workbench, *arguments: str) -> dict[str, Any]:
    result = CliRunner().invoke(cli, ["explain", PORTED, *arguments, "--store", str(bench.store), "--json"])
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_explanation_has_every_restriction_of_the_number(loaded: Workbench) -> None:
    some(loaded)
    steps = explained(loaded)
    assert [(each["authority"], each["state"], each["extended"]) for each in steps["restrictions"]] == [
        ("NCC", "waits", False),
        ("NPA", "in_force", True),
    ]
    assert steps["answer"]["restriction"]["kind"] == "stop"
    result = CliRunner().invoke(cli, ["explain", PORTED, "--store", str(loaded.store)])
    assert "restrictions tn=+886912345000 " in result.stdout
    assert explained(loaded, "--as-of", at(1))["restrictions"] == steps["restrictions"]


def test_explanation_of_the_past_has_what_was_lifted_since(loaded: Workbench) -> None:
    now = int(time.time())
    stop = {"kind": "restrict", "tn": PORTED, "authority": "NPA", "case": "1", "measure": "stop"}
    loaded.delta(stop, sequence=2, now=now + 10)
    loaded.delta({"kind": "lift", "tn": PORTED, "authority": "NPA", "case": "1"}, sequence=3, now=now + 20)
    told = [len(explained(loaded, "--as-of", at(ahead))["restrictions"]) for ahead in (1, 15, 30)]
    assert told == [0, 1, 0]


def test_diff_of_a_delta_tells_what_becomes_of_restrictions_and_counts_no_numbers(loaded: Workbench) -> None:
    npa = {"authority": "NPA", "case": "1", "notified_at": "2026-11-22T10:00:00+08:00"}
    imsi = {"imsi": "466010000000000", "imsi_to": "466010000000009"}
    notices: list[dict[str, str]] = [
        {"kind": "restrict", "tn": PORTED, "measure": "stop", **npa},
        {"kind": "extend", "tn": PORTED, **npa},
        {"kind": "extend", "tn": PORTED, **npa},
        {"kind": "restrict", **imsi, "measure": "alert", **npa},
        {"kind": "port", "tn": PORTED, "recipient": "1401", "notified_at": "2026-11-22T10:00:00+08:00"},
    ]
    path = loaded.publish("delta-main-2.ndjson", "".join(json.dumps(each) + "\n" for each in notices), len(notices))
    report = loaded.folder / "report.csv"
    before = loaded.state()
    result = run(loaded, "diff", path, "--report", report)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert "added=0 removed=0 changed=1 unchanged=0" in lines[0]
    assert lines[0].endswith("restrictions=4")
    assert lines[1].startswith("  line 1: restrict +88691234****: stop authority=NPA case=1 from=2026-11-22T02:00:00Z")
    assert lines[2].endswith("until=2029-11-22T02:00:00Z extended")
    assert "refused: it was extended before" in lines[3]
    assert lines[4].startswith("  line 4: restrict imsi 46601000000**** to 46601000000****: alert")
    rows = list(csv.DictReader(report.read_text().splitlines()))
    assert [(row["tn"], row["imsi"], row["restriction"][:5]) for row in rows] == [
        (PORTED, "", "stop "), (PORTED, "", "stop "), (PORTED, "", "refus"), ("", imsi["imsi"], "alert"),
        (PORTED, "", ""),
    ]  # fmt: skip
    assert loaded.state() == before


def test_journal_tells_of_a_refused_notice_and_of_an_imsi(loaded: Workbench) -> None:
    loaded.delta(
        {"kind": "lift", "tn": PORTED, "authority": "NCC", "case": "9"},
        {"kind": "restrict", "imsi": "466010000000000", "authority": "NCC", "case": "9", "measure": "alert"},
        sequence=2,
    )
    newest, before = run(loaded, "journal").stdout.splitlines()[:2]
    assert " restrict imsi 466010000000000 alert authority=NCC case=9 from=" in newest
    assert " refused +886912345678 " in before
    assert "only who placed one lifts it" in before
