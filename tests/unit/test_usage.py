"""Usage: who asked how much, kept for as long as it is owed, and what it costs."""

from __future__ import annotations

import json
import re
import signal
import urllib.request
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest

from lookupd.config import read_config
from lookupd.ledger import HOUR_SECONDS, Ledger, read
from lookupd.observe.counters import ALL_DIALECTS, USAGE_RESULTS, Usage
from lookupd.periods import Period
from lookupd.usage import COLUMNS, COUNTED_SECONDS, FILE, Usages
from tests.callers import Caller, Callers
from tests.conftest import Workbench, free_port, run_cli, run_daemon, wait_until
from tests.handovers import Site

PORTED = "886912345678"
NOVEMBER = Period("2026-11", int(datetime(2026, 11, 1, tzinfo=UTC).timestamp()) // 3600, 0)
OCTOBER_FIRST = int(datetime(2026, 10, 1, tzinfo=UTC).timestamp()) // 3600
OCTOBER_HOURS = 31 * 24

Kept = dict[tuple[str, str, str, str], int]


def kept(file: Path) -> Kept:
    """By client, account, dialect and result; all hours."""
    sums: Counter[tuple[str, str, str, str]] = Counter()
    for _, key, count in read(file, 0, 10**9):
        if key != COUNTED_SECONDS:
            client, account, dialect, result = key
            sums[client, account, dialect, result] += count
    return dict(sums)


def write(file: Path, *counts: tuple[int, str, str, str, str, int], whole: bool = True) -> None:
    """A ledger. counts: hour of October 2026, client, account, dialect, result, queries. whole: it ran all the time."""
    ledger = Ledger(file, COLUMNS)
    for hour, *key, count in counts:
        ledger.add(OCTOBER_FIRST + hour, tuple(map(str, key)), count)
    for hour in range(OCTOBER_HOURS if whole else 0):
        ledger.add(OCTOBER_FIRST + hour, COUNTED_SECONDS, HOUR_SECONDS)
    ledger.save()


def statement(config: Path, *options: str | Path) -> dict[str, object]:
    done = run_cli("lookupd.cli", "usage", "--config", config, "--json", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


# -- in the daemon -----------------------------------------------------------------------------------------


class Clock:
    """Wall and monotonic, set by the test."""

    def __init__(self, wall: float = 1_790_000_000.0) -> None:
        self.wall, self.monotonic = wall, 50.0

    def run(self, seconds: float) -> None:
        self.wall += seconds
        self.monotonic += seconds


class Asked:
    """Counters that a test raises, as `metrics.client_usage` gives them."""

    def __init__(self) -> None:
        self.by_client: dict[str, list[Usage]] = {}

    def add(self, client: str, dialect: str, result: str, count: int = 1) -> None:
        rows = self.by_client.setdefault(client, [[0] * len(USAGE_RESULTS) for _ in ALL_DIALECTS])
        rows[ALL_DIALECTS.index(dialect)][USAGE_RESULTS.index(result)] += count

    def __call__(self) -> dict[str, list[Usage]]:
        return {client: [list(row) for row in rows] for client, rows in self.by_client.items()}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def asked() -> Asked:
    return Asked()


@pytest.fixture
def usages(workbench: Workbench, clock: Clock, asked: Asked) -> Usages:
    config = read_config(workbench.config())
    return Usages(config, asked, wall=lambda: clock.wall, monotonic=lambda: clock.monotonic)


async def test_what_counters_grew_by_is_kept_once(usages: Usages, asked: Asked, clock: Clock) -> None:
    usages.use_accounts({"switches": "alpha"})
    asked.add("switches", "npq", "ported", 3)
    await usages.save()
    await usages.save()
    asked.add("switches", "npq", "ported", 2)
    asked.add("switches", "http", "over_rate")
    asked.add("self", "npq", "ported", 99)
    await usages.close()
    assert kept(usages.ledger.file) == {
        ("switches", "alpha", "npq", "ported"): 5,
        ("switches", "alpha", "http", "over_rate"): 1,
    }
    assert (usages.unsaved, usages.lost, usages.saves) == (0, 0, {"done": 3, "failed": 0})


async def test_account_that_changes_gets_what_comes_later(usages: Usages, asked: Asked) -> None:
    usages.use_accounts({"switches": "alpha", "gone": "beta"})
    asked.add("switches", "sip", "ported", 3)
    usages.use_accounts({"switches": "gamma"})
    asked.add("switches", "sip", "ported", 4)
    asked.add("gone", "sip", "ported", 1)  # a worker that had not taken the new list over
    await usages.close()
    assert kept(usages.ledger.file) == {
        ("switches", "alpha", "sip", "ported"): 3,
        ("switches", "gamma", "sip", "ported"): 4,
        ("gone", "beta", "sip", "ported"): 1,
    }


@pytest.mark.parametrize("step", [3600, -7200, 10**8, -(10**8)], ids=["on", "back", "far on", "far back"])
async def test_clock_that_jumps_loses_and_invents_nothing(
    usages: Usages, asked: Asked, clock: Clock, step: int
) -> None:
    usages.begin()
    first = int(clock.wall) // HOUR_SECONDS
    asked.add("switches", "npq", "ported", 3)
    clock.run(10)
    usages.take()
    clock.wall += step
    asked.add("switches", "npq", "ported", 4)
    clock.run(10)
    await usages.close()
    found = {(hour, key): count for hour, key, count in read(usages.ledger.file, -(10**9), 10**9)}
    key = ("switches", "", "npq", "ported")
    second = int(clock.wall) // HOUR_SECONDS
    if step == 10**8:  # it prunes what is older than usage.keep, and no more than a day of it
        assert found[second, key] == 4
    else:
        assert (found[first, key], found[second, key]) == (3, 4)
        assert sum(count for (_, key), count in found.items() if key == COUNTED_SECONDS) == 20


async def test_seconds_are_kept_in_the_hours_that_they_lie_in(usages: Usages, clock: Clock) -> None:
    clock.wall = 1_790_000_000 // 3600 * 3600 + 3598.5
    usages.begin()
    for _ in range(10):
        clock.run(0.7)
        usages.take()
    clock.run(2 * 3600)  # as when the event loop was held up
    await usages.close()
    hour = 1_790_000_000 // 3600
    found = {at - hour: count for at, key, count in read(usages.ledger.file, 0, 10**9) if key == COUNTED_SECONDS}
    assert sum(found.values()) == 2 * 3600 + 7
    assert found[1] == 3600
    assert found[0] in {1, 2}


async def test_old_hours_are_forgotten_a_day_at_a_time(usages: Usages, asked: Asked, clock: Clock) -> None:
    """So that a clock that is years ahead for a moment does not cost the year's statements."""
    hour = int(clock.wall) // HOUR_SECONDS
    before = Ledger(usages.ledger.file, COLUMNS)
    for ago in range(401 * 24, 398 * 24, -1):
        before.add(hour - ago, ("switches", "", "npq", "ported"), 1)
    before.save()
    clock.wall += 10 * 366 * 86_400
    await usages.save()
    left = [at for at, *_ in read(usages.ledger.file, 0, hour)]
    assert len(left) == 2 * 24
    clock.wall -= 10 * 366 * 86_400
    for _ in range(3):
        clock.run(3600)
        await usages.save()
    assert min(at for at, *_ in read(usages.ledger.file, 0, 10**9)) == int(clock.wall) // 3600 - 400 * 24


async def test_trouble_is_told_once_and_its_end(
    usages: Usages, asked: Asked, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = usages.ledger.file.parent
    folder.write_text("in the way")
    for at in range(3):
        asked.add("switches", "npq", "ported", at)
        await usages.save()
    assert (usages.unsaved, usages.saves["failed"]) == (3, 3)
    folder.unlink()
    await usages.save()
    told = capsys.readouterr().err
    assert [told.count(name) for name in ("usage_unsaved", "usage_saved_again", "usage_begun")] == [1, 1, 1]
    assert "its folder must be writable" in told
    assert (usages.unsaved, kept(usages.ledger.file)) == (0, {("switches", "", "npq", "ported"): 3})


async def test_what_has_no_room_in_memory_is_counted_as_lost(
    usages: Usages, asked: Asked, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("lookupd.ledger.LEDGER_WAITING_MAX", 1)
    asked.add("switches", "npq", "ported", 5)
    asked.add("switches", "npq", "not_ported", 7)
    usages.take()
    assert (usages.unsaved, usages.lost) == (5, 7)
    asked.add("switches", "npq", "ported", 1)
    await usages.close()
    assert kept(usages.ledger.file) == {("switches", "", "npq", "ported"): 6}
    assert capsys.readouterr().err.count("usage_lost queries=7") == 1


async def test_what_cannot_be_saved_at_the_end_is_told_as_lost(
    usages: Usages, asked: Asked, capsys: pytest.CaptureFixture[str]
) -> None:
    usages.ledger.file.parent.write_text("in the way")
    asked.add("switches", "npq", "ported", 5)
    await usages.close()
    assert usages.lost == 5
    assert "usage_lost queries=5" in capsys.readouterr().err


# -- a real daemon -----------------------------------------------------------------------------------------

CLIENTS = """
[[client]]
name = "switches"
account = "alpha"
sources = ["127.0.0.1/32"]
[[client]]
name = "platform"
account = "agency"
sources = ["127.0.0.2/32"]
"""


def test_totals_equal_the_metrics_and_what_was_asked(loaded: Workbench, each_engine: str) -> None:
    ports = {name: free_port() for name in ("npq", "pdb", "enum", "sip", "http")}
    listen = "".join(
        f'{name} = ["udp://127.0.0.1:{ports[name]}", "tcp://127.0.0.1:{ports[name]}"]\n'
        for name in ("npq", "enum", "sip")
    )
    listen += f'pdb = ["udp://127.0.0.1:{ports["pdb"]}"]\nhttp = "http://127.0.0.1:{ports["http"]}"\n'
    config = loaded.config(f'{CLIENTS}[usage]\nevery = "200ms"\n', listen)
    with run_daemon(config, "ready"):
        callers = Callers(
            [Caller(name, "udp", ports[name], PORTED) for name in ("npq", "pdb", "enum", "sip")]
            + [Caller(name, "tcp", ports[name], PORTED) for name in ("npq", "enum", "sip")]
        )
        with callers:
            callers.wait(20)
        for number in ("+886912345679", "0911111111", "110", "0937000000"):
            done = run_cli("lookupd.cli", "query", number, "--server", f"udp://127.0.0.1:{ports['npq']}")
            assert done.returncode == 0, done.stderr
        ask_http(ports["http"], PORTED, "886911111111", "886937000000")
        scraped = scrape(ports["http"])
        wait_until(lambda: statement(config)["queries"] == sum(scraped.values()))
        told = statement(config)
    by_row: Counter[tuple[str, str, str]] = Counter()
    for row in told["rows"]:  # type: ignore[attr-defined]
        by_row |= {(row["client"], row["dialect"], result): count for result, count in row["results"].items()}
    assert by_row == scraped
    for dialect in ("npq", "enum", "sip"):
        asked = sum(caller.asked for caller in callers.all if caller.dialect == dialect)
        assert by_row["switches", dialect, "ported"] == asked + (1 if dialect == "npq" else 0)
    http = {key[2]: count for key, count in by_row.items() if key[1] == "http"}
    assert http == {"ported": 2, "not_ported": 1, "not_allocated": 1}
    assert {key[2] for key in by_row} >= {"ported", "not_ported", "not_portable", "not_allocated"}
    assert {row["account"] for row in told["rows"]} == {"alpha"}  # type: ignore[attr-defined]


def scrape(port: int) -> Counter[tuple[str, str, str]]:
    """`lookupd_client_queries_total` above 0, but for the daemon's own."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as reply:
        text = reply.read().decode()
    found: Counter[tuple[str, str, str]] = Counter()
    for labels, value in re.findall(r"^lookupd_client_queries_total\{(.*)\} (\S+)$", text, re.MULTILINE):
        of = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        if of["client"] != "self" and float(value):
            found[of["client"], of["dialect"], of["result"]] = int(float(value))
    return found


def ask_http(port: int, *numbers: str) -> None:
    """The first by its path, then all of them by lines."""
    url = f"http://127.0.0.1:{port}/v1/numbers"
    with urllib.request.urlopen(f"{url}/{numbers[0]}", timeout=5) as reply:
        assert json.load(reply)["number"] == f"+{numbers[0]}"
    lines = "".join(f"{number}\n" for number in numbers).encode()
    asking = urllib.request.Request(url, lines, {"Content-Type": "application/x-ndjson"})
    with urllib.request.urlopen(asking, timeout=5) as reply:
        assert len(reply.read().splitlines()) == len(numbers)


def test_refusals_for_rate_are_kept_by_account(loaded: Workbench, each_engine: str) -> None:
    port = free_port()
    limited = CLIENTS.replace('sources = ["127.0.0.1/32"]', 'sources = ["127.0.0.1/32"]\nqueries_per_second = 3')
    config = loaded.config(limited, f'npq = ["udp://127.0.0.1:{port}"]')
    with run_daemon(config, "ready"), Callers([Caller("npq", "udp", port, PORTED)]) as callers:
        callers.wait(20)
    found = kept(read_config(config).usage_path / FILE)
    assert found.keys() == {("switches", "alpha", "npq", "ported"), ("switches", "alpha", "npq", "over_rate")}
    assert sum(found.values()) == callers.all[0].asked


def test_stop_loses_nothing(loaded: Workbench, each_engine: str) -> None:
    port = free_port()
    config = loaded.config(f'{CLIENTS}[usage]\nevery = "1h"\n', f'npq = ["udp://127.0.0.1:{port}"]')
    asked = 0
    for _ in range(2):
        with run_daemon(config, "ready"), Callers([Caller("npq", "udp", port, PORTED)]) as callers:
            callers.wait(20)
        asked += callers.all[0].asked
    assert sum(kept(read_config(config).usage_path / FILE).values()) == asked


def test_hand_overs_under_load_count_each_query_once(loaded: Workbench, each_engine: str) -> None:
    """The daemon's questions to itself, from 127.0.0.1, may be answered by the other process, for which they are not
    its own: who asks here has another address."""
    site = Site(loaded)
    site.more = '[usage]\nevery = "200ms"\n' + CLIENTS
    with site.run(), site.callers("127.0.0.2") as callers:
        for _ in range(5):
            site.hand_over()
            callers.wait(5)
        site.more = site.more.replace("200ms", "300ms")  # which a new process is needed for
        site.configure()
        site.hand_over(signal.SIGHUP)
        callers.wait(5)
    assert "usage_unsaved" not in site.log.read_text()
    found = kept(site.store.with_name("store-usage") / FILE)
    for dialect in ("npq", "enum", "sip"):
        asked = sum(caller.asked for caller in callers.all if caller.dialect == dialect)
        assert found["platform", "agency", dialect, "ported"] == asked, (dialect, found)
    (pdb,) = (caller for caller in callers.all if caller.dialect == "pdb")
    counted = sum(count for key, count in found.items() if key[:3] == ("platform", "agency", "pdb"))
    assert pdb.asked - pdb.lost <= counted <= pdb.asked


def test_kept_folder_is_beside_the_store(workbench: Workbench) -> None:
    assert read_config(workbench.config()).usage_path == workbench.folder / "store-usage"
    elsewhere = read_config(workbench.config('[usage]\npath = "/srv/usage"'))
    assert elsewhere.usage_path == Path("/srv/usage")
