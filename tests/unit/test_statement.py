"""A month's statement: sums, money, months and gaps, as the command prints them."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import sqlite3
import tempfile
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from lookupd.config import read_config
from lookupd.errors import ConfigError
from lookupd.ledger import HOUR_SECONDS, Ledger
from lookupd.periods import Period, parse_month
from lookupd.statement import Gap, gaps
from lookupd.usage import COLUMNS, COUNTED_SECONDS, FILE
from tests.as_user import run_as
from tests.conftest import Workbench, run_cli

FIRST = int(datetime(2026, 10, 1, tzinfo=UTC).timestamp()) // HOUR_SECONDS
HOURS = 31 * 24
OCTOBER = Period("2026-10", FIRST, FIRST + HOURS)
PRICED = """
[settlement]
per_query = "0.0125"
dialect = { http = "0.02" }
[[client]]
name = "switches"
account = "alpha"
sources = ["127.0.0.1/32"]
[[client]]
name = "cheap"
account = "alpha"
rate = "0.001"
sources = ["127.0.0.2/32"]
"""

Told = dict[str, Any]


def write(file: Path, *counts: tuple[int, str, str, str, str, int], whole: bool = True) -> Path:
    """A ledger. counts: hour of October 2026, client, account, dialect, result, queries. whole: it ran all the time."""
    ledger = Ledger(file, COLUMNS)
    for hour, client, account, dialect, result, count in counts:
        ledger.add(FIRST + hour, (client, account, dialect, result), count)
    for hour in range(HOURS if whole else 0):
        ledger.add(FIRST + hour, COUNTED_SECONDS, HOUR_SECONDS)
    ledger.save()
    return file


@pytest.fixture
def file(workbench: Workbench) -> Path:
    return workbench.folder / "store-usage" / FILE


def usage(config: Path, *options: str | Path) -> Told:
    done = run_cli("lookupd.cli", "usage", "--config", config, "--month", "2026-10", "--json", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    found: Told = json.loads(done.stdout)
    return found


# -- sums --------------------------------------------------------------------------------------------------


def test_queries_are_summed_by_client_and_dialect(workbench: Workbench, file: Path) -> None:
    write(
        file,
        (-1, "switches", "alpha", "npq", "ported", 1000),  # September
        (0, "switches", "alpha", "npq", "ported", 3),
        (HOURS - 1, "switches", "alpha", "npq", "ported", 4),
        (HOURS, "switches", "alpha", "npq", "ported", 1000),  # November
        (9, "switches", "alpha", "npq", "over_rate", 5),
        (9, "switches", "beta", "sip", "not_ported", 6),  # its account was another one then
        (9, "noc", "", "http", "other", 7),
    )
    told = usage(workbench.config())
    rows = [(row["client"], row["account"], row["dialect"], row["results"]) for row in told["rows"]]
    assert rows == [
        ("noc", "", "http", {"other": 7}),
        ("switches", "alpha", "npq", {"ported": 7, "over_rate": 5}),
        ("switches", "beta", "sip", {"not_ported": 6}),
    ]
    assert [(each["account"], each["queries"]) for each in told["accounts"]] == [("", 7), ("alpha", 12), ("beta", 6)]
    assert (told["queries"], told["charged"]) == (25, 13)
    assert (told["complete"], told["not_counted"]) == (True, [])
    assert (told["currency"], told["amount"], told["rows"][0]["amount"]) == (None, None, None)


def test_by_account_by_hour_and_by_dialect(workbench: Workbench, file: Path) -> None:
    write(
        file,
        (5, "a", "alpha", "npq", "ported", 1),
        (5, "b", "alpha", "npq", "ported", 2),
        (6, "b", "alpha", "npq", "ported", 4),
        (6, "b", "alpha", "sip", "ported", 8),
    )
    config = workbench.config()
    told = usage(config, "--by", "account")
    assert [(row["client"], row["dialect"], row["queries"]) for row in told["rows"]] == [
        (None, "npq", 7),
        (None, "sip", 8),
    ]
    told = usage(config, "--hours", "--dialect", "npq", "--by", "account")
    assert [(row["hour"], row["queries"]) for row in told["rows"]] == [
        ("2026-10-01T05:00:00Z", 3),
        ("2026-10-01T06:00:00Z", 4),
    ]
    assert (told["dialects"], told["queries"]) == (["npq"], 7)


def test_replicas_are_summed(workbench: Workbench, file: Path, tmp_path: Path) -> None:
    write(file, (5, "a", "alpha", "npq", "ported", 1))
    write(tmp_path / "b-usage" / FILE, (5, "a", "alpha", "npq", "ported", 2))
    copy = write(tmp_path / "copy.sqlite", (7, "a", "alpha", "npq", "ported", 4))
    config = workbench.config()
    other = workbench.write("b.toml", f'[replica]\nname = "b"\n[store]\npath = "{tmp_path}/b"\n')
    told = usage(config, "--config", other, "--also", copy)
    assert (told["queries"], len(told["ledgers"])) == (7, 3)


def test_ledger_named_twice_is_refused(workbench: Workbench, file: Path) -> None:
    write(file)
    config = workbench.config()
    link = workbench.folder / "link.sqlite"
    link.symlink_to(file)
    for options in (("--config", config), ("--also", link)):
        done = run_cli("lookupd.cli", "usage", "--config", config, "--month", "2026-10", *options)
        assert (done.returncode, "counted twice" in done.stderr) == (3, True)


# -- money -------------------------------------------------------------------------------------------------


def test_amounts_are_exact_and_rounded_once_for_each_account(workbench: Workbench, file: Path) -> None:
    write(
        file,
        (1, "switches", "alpha", "npq", "ported", 333),
        (1, "switches", "alpha", "npq", "unavailable", 50),
        (1, "switches", "alpha", "npq", "dropped", 50),
        (1, "switches", "alpha", "npq", "refused", 50),
        (1, "switches", "alpha", "http", "not_portable", 7),
        (1, "cheap", "alpha", "sip", "not_allocated", 11),
        (1, "gone", "beta", "sip", "ported", 3),
    )
    told = usage(workbench.config(PRICED))
    amounts = {(row["client"], row["dialect"]): (row["rate"], row["amount"]) for row in told["rows"]}
    assert amounts == {
        ("switches", "npq"): ("0.0125", "4.1625"),
        ("switches", "http"): ("0.02", "0.14"),
        ("cheap", "sip"): ("0.001", "0.011"),
        ("gone", "sip"): ("0.0125", "0.0375"),
    }
    alpha, beta = told["accounts"]
    assert (alpha["exact"], alpha["amount"]) == ("4.3135", "4.31")
    assert (beta["exact"], beta["amount"]) == ("0.0375", "0.04")
    assert (told["currency"], told["amount"]) == ("TWD", "4.35")
    assert usage(workbench.config(PRICED), "--by", "account")["accounts"] == told["accounts"]


@pytest.mark.parametrize(
    ("rounding", "minor_units", "amount"),
    [
        ("half_even", 2, "0.12"),
        ("half_up", 2, "0.13"),
        ("down", 2, "0.12"),
        ("up", 2, "0.13"),
        ("half_even", 0, "0"),
        ("up", 0, "1"),
        ("half_even", 6, "0.125000"),
    ],
)
def test_rounding_is_as_set(workbench: Workbench, file: Path, rounding: str, minor_units: int, amount: str) -> None:
    write(file, (1, "a", "", "npq", "ported", 1))
    settings = f'[settlement]\nper_query = "0.125"\nrounding = "{rounding}"\nminor_units = {minor_units}\n'
    assert usage(workbench.config(settings))["amount"] == amount


def test_large_sums_lose_no_digit(workbench: Workbench, file: Path) -> None:
    write(file, (1, "a", "", "npq", "ported", 10**18 + 1), (2, "a", "", "sip", "ported", 3))
    told = usage(workbench.config('[settlement]\nper_query = "123456789.123456789"\n'))
    whole, part = divmod((10**18 + 4) * 123456789123456789, 10**9)
    assert told["accounts"][0]["exact"] == f"{whole}.{part:09}"


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ('[settlement]\nper_query = "0,0125"', "settlement.per_query: '0,0125' is no rate"),
        ('[settlement]\nper_query = "-1"', "settlement.per_query"),
        ('[settlement]\nper_query = "1e3"', "settlement.per_query"),
        ('[settlement]\nper_query = "٣"', "settlement.per_query"),
        ("[settlement]\nper_query = 0.0125", "settlement.per_query: Expected `str`"),
        ('[settlement]\ndialect = { http = "1" }', "settlement.per_query: needed for settlement.dialect.http"),
        ('[settlement]\nper_query = "1"\ndialect = { htp = "1" }', "settlement.dialect: 'htp' is none of"),
        ('[settlement]\nper_query = "1"\ndialect = { http = "" }', "settlement.dialect.http: '' is no rate"),
        ('[settlement]\ncharged = ["portd"]', "settlement.charged: 'portd' is none of"),
        ('[settlement]\ncharged = ["ported", "ported"]', "settlement.charged: a result is named twice"),
        ('[settlement]\ncurrency = "NT$"', "settlement.currency"),
        ("[settlement]\nminor_units = 7", "settlement.minor_units"),
        ('[settlement]\nrounding = "nearest"', "settlement.rounding"),
        ('[settlement]\ntime_zone = "Asia/Atlantis"', "settlement.time_zone: 'Asia/Atlantis' is no time zone"),
        ('[settlement]\ntime_zone = "../../etc/passwd"', "settlement.time_zone"),
        ('[[client]]\nname = "a"\nsources = ["192.0.2.1"]\nrate = "1"', "needed for client[0].rate"),
        ('[usage]\nevery = "50ms"', "usage.every: 100ms to 1h"),
        ('[usage]\nevery = "2h"', "usage.every: 100ms to 1h"),
        ('[usage]\nkeep = "61d"', "usage.keep: less than 62d"),
    ],
)
def test_bad_setting_is_refused_with_its_place(workbench: Workbench, settings: str, reason: str) -> None:
    with pytest.raises(ConfigError) as told:
        read_config(workbench.config(settings))
    assert reason in str(told.value)


def test_replicas_with_other_prices_make_no_statement(workbench: Workbench, file: Path, tmp_path: Path) -> None:
    write(file)
    config = workbench.config(PRICED)
    head = f'[replica]\nname = "b"\n[store]\npath = "{tmp_path}/b"\n'
    for changed in (PRICED.replace("0.0125", "0.0126"), PRICED.replace("0.001", "0.002")):
        other = workbench.write("b.toml", head + changed)
        done = run_cli("lookupd.cli", "usage", "--config", config, "--config", other, "--month", "2026-10")
        assert (done.returncode, "one statement has one price" in done.stderr) == (3, True)


# -- months and gaps ---------------------------------------------------------------------------------------


def test_month_begins_where_the_time_zone_has_it(workbench: Workbench, file: Path) -> None:
    write(
        file,
        (-8, "a", "", "npq", "ported", 1),  # in Taipei October's first hour
        (-9, "a", "", "npq", "ported", 2),
        (HOURS - 9, "a", "", "npq", "ported", 4),
        (HOURS - 8, "a", "", "npq", "ported", 8),
    )
    config = workbench.config('[settlement]\ntime_zone = "Asia/Taipei"\n')
    told = usage(config)
    assert (told["queries"], told["first"], told["time_zone"]) == (5, "2026-09-30T16:00:00Z", "Asia/Taipei")
    assert usage(config, "--time-zone", "UTC")["queries"] == 12


def test_month_with_a_change_of_clocks_has_its_hours() -> None:
    month = parse_month("2026-10", ZoneInfo("Europe/Berlin"))
    assert month.end - month.first == 31 * 24 + 1
    assert parse_month("2026-12", UTC).end == parse_month("2027-01", UTC).first


def test_month_of_a_zone_between_hours_is_refused() -> None:
    with pytest.raises(ValueError, match="full hour"):
        parse_month("2026-10", ZoneInfo("Asia/Kolkata"))


@pytest.mark.parametrize(
    "text", ["2026-13", "2026-00", "2026-1", "26-10", "october", "", "2026-10-01", "٢٠٢٦-١٠", "1970-01"]
)
def test_what_is_no_month_is_told(workbench: Workbench, text: str) -> None:
    done = run_cli("lookupd.cli", "usage", "--config", workbench.config(), "--month", text)
    assert (done.returncode, "is no month" in done.stderr) == (2, True)


def test_month_to_come_is_told(workbench: Workbench) -> None:
    done = run_cli("lookupd.cli", "usage", "--config", workbench.config(), "--month", "2105-01")
    assert (done.returncode, "2105-01 has not begun" in done.stderr) == (2, True)


def test_month_that_goes_on_says_until_when(workbench: Workbench, file: Path) -> None:
    now = datetime.now(UTC)
    Ledger(file, COLUMNS).save()
    ledger = Ledger(file, COLUMNS)
    ledger.add(int(now.timestamp()) // HOUR_SECONDS, ("a", "", "npq", "ported"), 3)
    ledger.save()
    done = run_cli("lookupd.cli", "usage", "--config", workbench.config())
    assert done.returncode == 0
    assert f"usage of {now:%Y-%m}" in done.stdout
    assert f"not over: what was asked until {now:%Y-%m-%dT}" in done.stdout


def test_month_without_data_is_told_as_not_counted(workbench: Workbench, file: Path) -> None:
    write(file, (HOURS + 5, "a", "", "npq", "ported", 1), whole=False)
    config = workbench.config()
    done = run_cli("lookupd.cli", "usage", "--config", config, "--month", "2026-10")
    assert done.returncode == 0
    assert "not counted: 2026-10-01T00:00:00Z to 2026-11-01T00:00:00Z: 2678400 s of it (a)" in done.stdout
    assert done.stdout.endswith("nothing was counted\n")
    assert usage(config)["complete"] is False
    done = run_cli("lookupd.cli", "usage", "--config", config, "--month", "2026-10", "--csv")
    assert "2026-10 is not complete" in done.stderr


def test_daemon_that_never_ran_is_told(workbench: Workbench) -> None:
    done = run_cli("lookupd.cli", "usage", "--config", workbench.config(), "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["exit_code"]) == (1, 1)
    assert "nothing was saved yet" in told["error"]
    assert not (workbench.folder / "store-usage").exists()


@pytest.mark.parametrize(
    ("seconds", "now", "found"),
    [
        ({}, 2 * 3600, [(0, 7200, 7200)]),
        ({0: 3600, 1: 3600}, 2 * 3600, []),
        ({0: 3540, 1: 7100}, 2 * 3600, []),  # a restart; two processes in a hand-over
        ({0: 3539, 1: 3600}, 2 * 3600, [(0, 3600, 61)]),
        ({0: 3000, 1: 0, 2: 3600, 3: 0}, 4 * 3600, [(0, 7200, 4200), (10800, 14400, 3600)]),
        ({0: 3600, 1: 930}, 3600 + 1000, []),  # what was counted since the last saving
        ({0: 3600, 1: 929}, 3600 + 1000, [(3600, 4600, 71)]),
        ({0: 3600}, 3600, []),
    ],
)
def test_hours_that_were_not_counted_are_told(
    seconds: dict[int, int], now: int, found: list[tuple[int, int, int]]
) -> None:
    counted = Counter({FIRST + hour: count for hour, count in seconds.items()})
    begin = FIRST * HOUR_SECONDS
    told = list(gaps("a", counted, OCTOBER, begin + now, 70.0))
    assert [(at(gap.from_) - begin, at(gap.until) - begin, gap.seconds) for gap in told] == found
    assert all(isinstance(gap, Gap) for gap in told)


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp())


# -- what is printed, and what is read ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ['=HYPERLINK("http://x")', "+1", "-1", "@sum", "＝1", "\tx", "\rx", "a,b", 'a"b', "行政院"]
)
def test_name_is_never_a_formula_in_csv(workbench: Workbench, file: Path, name: str) -> None:
    write(file, (1, name, name, "npq", "ported", 3))
    config = workbench.config(PRICED)
    done = run_cli("lookupd.cli", "usage", "--config", config, "--month", "2026-10", "--csv")
    head, row = csv.reader(io.StringIO(done.stdout, newline=""))
    found = dict(zip(head, row, strict=True))
    for cell in (found["client"], found["account"]):
        assert cell[0] not in "=+-@＝\t\r"
        assert cell.removeprefix("'") == name.replace("\r", "\n")  # as text mode reads it
    assert (found["ported"], found["queries"], found["amount"], found["currency"]) == ("3", "3", "0.0375", "TWD")


def test_name_cannot_write_to_a_terminal(workbench: Workbench, file: Path) -> None:
    write(file, (1, "a\x1b[2Jb\ntotal queries=0", "", "npq", "ported", 3))
    done = run_cli("lookupd.cli", "usage", "--config", workbench.config(), "--month", "2026-10")
    assert "\x1b" not in done.stdout
    assert r"client \"a\u001b[2Jb\ntotal queries=0\"".replace(r"\"", '"') in done.stdout


def test_text_says_what_json_says(workbench: Workbench, file: Path) -> None:
    write(file, (1, "switches", "alpha", "npq", "ported", 333), (1, "switches", "alpha", "http", "other", 2))
    done = run_cli("lookupd.cli", "usage", "--config", workbench.config(PRICED), "--month", "2026-10")
    lines = done.stdout.splitlines()
    assert lines[0] == "usage of 2026-10 (UTC): 2026-10-01T00:00:00Z to 2026-11-01T00:00:00Z"
    assert "client switches account alpha" in lines
    assert "  npq   queries=333  charged=333  amount=4.1625  rate=0.0125  ported=333" in lines
    assert lines[-2:] == [
        "account alpha  queries=335  charged=333  amount=4.16 TWD  exact=4.1625",
        "total queries=335 charged=333 amount=4.16 TWD",
    ]


def test_csv_and_json_together_are_refused(workbench: Workbench) -> None:
    done = run_cli("lookupd.cli", "usage", "--config", workbench.config(), "--csv", "--json")
    assert (done.returncode, "choose one" in done.stderr) == (2, True)


def test_reading_changes_nothing(workbench: Workbench, file: Path) -> None:
    write(file, (1, "a", "", "npq", "ported", 1))

    def seen() -> list[tuple[str, str, int]]:
        found = sorted(file.parent.iterdir())
        return [(str(at), hashlib.sha256(at.read_bytes()).hexdigest(), at.stat().st_mtime_ns) for at in found]

    before = seen()
    for option in ("--json", "--csv", "--hours"):
        assert run_cli("lookupd.cli", "usage", "--config", workbench.config(), option).returncode == 0
    assert seen() == before


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be somebody else")
def test_stranger_may_not_read_and_is_told_so() -> None:
    with tempfile.TemporaryDirectory() as made:
        bench = Workbench(Path(made))
        bench.folder.chmod(0o755)
        file = write(bench.folder / "store-usage" / FILE, (1, "a", "", "npq", "ported", 1))
        asking = ("lookupd.cli", "usage", "--config", bench.config(), "--month", "2026-10", "--json")
        done = run_as(61_003, 61_003, 0o077, *asking)
        assert done.returncode == 1, done.stderr
        assert "whoever reads must be its owner or of its group, or root" in done.stderr
        file.parent.chmod(0o755)
        file.chmod(0o644)  # to read it is enough: nothing is written beside it
        done = run_as(61_003, 61_003, 0o077, *asking)
        assert (done.returncode, json.loads(done.stdout)["queries"]) == (0, 1)


def test_damaged_ledger_that_was_put_aside_is_told(workbench: Workbench, file: Path) -> None:
    write(file, (1, "a", "", "npq", "ported", 1))
    aside = file.with_name(f"{FILE}.damaged-20261002T000000Z")
    aside.write_bytes(b"garbage")
    assert usage(workbench.config())["put_aside"] == [str(aside)]
    done = run_cli("lookupd.cli", "usage", "--config", workbench.config(), "--month", "2026-10")
    assert f"damaged, and not counted here: {aside}" in done.stdout


@pytest.mark.parametrize("content", ["garbage", "other table", "other columns", "other types", "other version"])
def test_what_is_no_ledger_is_told(workbench: Workbench, tmp_path: Path, file: Path, content: str) -> None:
    write(file)
    other = tmp_path / "other.sqlite"
    if content == "garbage":
        other.write_bytes(os.urandom(8192))
    elif content == "other version":
        write(other, (1, "a", "", "carrier-pigeon", "ported", 1))
    else:
        with sqlite3.connect(other) as connection:
            table = {
                "other table": "CREATE TABLE things (hour)",
                "other columns": "CREATE TABLE counts (hour, name, count)",
                "other types": "CREATE TABLE counts (hour, client, account, dialect, result, count)",
            }[content]
            connection.execute(table)
            if content == "other columns":
                connection.execute("INSERT INTO counts VALUES (?, 'a', 1)", (FIRST,))
            elif content == "other types":
                connection.execute("INSERT INTO counts VALUES (?, 1, 2, 'npq', 'ported', 'many')", (FIRST,))
        connection.close()
    done = run_cli(
        "lookupd.cli", "usage", "--config", workbench.config(), "--month", "2026-10", "--also", other, "--json"
    )
    assert done.returncode == 1, done.stdout
    assert str(other) in json.loads(done.stdout)["error"]
    assert "Traceback" not in done.stderr
