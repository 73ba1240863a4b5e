"""A number's past for risk checks: told from stories whose end is known, and by the command."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from lookupd.engine import Engine
from lookupd.errors import StoreError
from lookupd.limits import RISK_MOVES_TOLD
from lookupd.model import UnixSeconds
from lookupd.risk import RiskView, Window, risk
from lookupd.store.prune import prune
from lookupd.store.writer import Writer
from tests.conftest import PLAN, SNAPSHOT, Workbench, run_cli
from tests.exchange import at, notice, number_return

DAY = 86_400
T = 1_767_225_600  # 2026-01-01T00:00:00Z
NUMBER = "886912345678"  # in the snapshot: with 1402, from 1401, ported on 2026-03-01


@pytest.fixture
def bench(workbench: Workbench) -> Workbench:
    workbench.load_tables(now=T)
    workbench.snapshot(SNAPSHOT.replace("2026-03-01", "2025-03-01"), now=T)
    return workbench


def look(
    bench: Workbench, number: str = NUMBER, *, day: float | None = None, window: float = 30, now: float = 400
) -> RiskView:
    """day: as of which, counted from T; None = now."""
    engine = Engine(PLAN, 0)
    with bench.reader() as reader:
        engine.reader = reader
        engine.begin(UnixSeconds(int(T + now * DAY)))
        moment = UnixSeconds(int(T + (now if day is None else day) * DAY))
        return risk(engine, number, Window(moment, int(window * DAY)), is_past=day is not None)


def say(bench: Workbench, sequence: int, day: float, *notices: dict[str, Any]) -> None:
    bench.delta(*notices, sequence=sequence, now=int(T + day * DAY))


def ways(found: RiskView) -> list[tuple[str, str | None, str | None]]:
    return [(move.kind, move.from_network, move.to_network) for move in found.moves]


def test_a_number_that_only_a_snapshot_told_of(bench: Workbench) -> None:
    found = look(bench)
    assert (found.number, found.outcome, found.network_code) == ("+" + NUMBER, "ported", "1402")
    assert (found.last_ported_at, found.last_ported_from, found.last_ported_to) == (
        "2025-03-01T01:00:00Z",
        "1401",
        "1402",
    )
    assert (found.ports, found.returns, found.moves, found.window_covered) == (0, 0, (), True)
    assert found.known_since == "2026-01-01T00:00:00Z"
    assert not look(bench, window=500).window_covered


def test_ports_are_counted_in_the_window_and_told_newest_first(bench: Workbench) -> None:
    say(bench, 2, 10, notice(NUMBER, "1403"))
    say(bench, 3, 20, number_return(NUMBER))
    say(bench, 4, 30, notice(NUMBER, "1401", donor="1402"))
    found = look(bench, now=31)
    assert ways(found) == [("port", "1402", "1401"), ("return", "1403", None), ("port", "1402", "1403")]
    assert (found.ports, found.returns) == (2, 1)
    assert (found.last_ported_at, found.last_ported_from, found.last_ported_to) == (at(T + 30 * DAY), "1402", "1401")
    narrow = look(bench, now=31, window=5)
    assert (narrow.ports, narrow.returns, narrow.window_from) == (1, 0, at(T + 26 * DAY))


def test_both_ends_of_the_window_are_in_it(bench: Workbench) -> None:
    say(bench, 2, 10, notice(NUMBER, "1403"))
    assert look(bench, day=20, window=10).ports == 1
    assert look(bench, day=20, window=9.99).ports == 0
    assert look(bench, day=10, window=1).ports == 1
    assert look(bench, day=9.99, window=1).ports == 0


def test_the_past_is_told_as_it_was_known_then(bench: Workbench) -> None:
    say(bench, 2, 10, notice(NUMBER, "1403"))
    say(bench, 3, 20, number_return(NUMBER))
    then = look(bench, day=15)
    assert (then.outcome, then.network_code, then.serial) == ("ported", "1403", 4)
    assert (then.ports, then.returns, then.last_ported_to, then.age_seconds) == (1, 0, "1403", None)
    assert look(bench, day=5).last_ported_to == "1402"
    assert look(bench).outcome == "not_ported"
    with pytest.raises(StoreError, match="before the kept history"):
        look(bench, day=-1)


def test_a_number_that_went_home_was_ported_once(bench: Workbench) -> None:
    say(bench, 2, 10, number_return(NUMBER))
    found = look(bench)
    assert (found.last_ported_at, found.last_ported_to) == ("2025-03-01T01:00:00Z", "1402")


def test_what_is_no_port_is_not_counted(bench: Workbench) -> None:
    say(bench, 2, 10, notice(NUMBER, "1402", routing_number="D1"))
    say(bench, 3, 11, notice(NUMBER, "1403") | {"kind": "correct"})
    say(bench, 4, 12, number_return("886911000000"))
    say(bench, 5, 13, notice("886912345670", "1403"))
    found = look(bench, now=20)
    assert (found.ports, ways(found)) == (0, [("correct", "1402", "1403")])
    assert found.last_ported_to == "1402"
    assert look(bench, "886911000000", now=20).moves == ()


def test_a_correction_that_takes_a_port_away_is_no_return(bench: Workbench) -> None:
    rows = [line for line in SNAPSHOT.splitlines(keepends=True) if not line.startswith(NUMBER)]
    path = bench.publish("snapshot-main-7.csv", "".join(rows), len(rows) - 1)
    run_cli("loader.cli", "reconcile", path, "--repair", "--reason", "Wu Mei: never ported", "--store", bench.store)
    found = look(bench, window=400)
    assert (found.ports, found.returns, ways(found)) == (0, 0, [("correct", "1402", None)])


def test_a_number_is_found_in_ranges_and_leaves_the_holder_of_its_range(bench: Workbench) -> None:
    say(bench, 2, 10, notice("886911000000", "1402", 886911000099))
    found = look(bench, "0911000050", now=11)
    assert ways(found) == [("port", "1401", "1402")]
    assert look(bench, "0911000100", now=11).moves == ()


def test_a_snapshot_that_moves_a_number_counts_with_the_time_that_it_tells(bench: Workbench) -> None:
    text = SNAPSHOT.replace(f"{NUMBER},1402,,1401,2026-03-01T09:00:00+08:00", f"{NUMBER},1403,,1402,{at(T + 5 * DAY)}")
    bench.snapshot(text, sequence=7, now=T + 60 * DAY)
    found = look(bench, now=61, window=59)
    assert [(move.kind, move.at, move.to_network) for move in found.moves] == [("snapshot", at(T + 5 * DAY), "1403")]
    assert (found.ports, look(bench, now=61, window=10).ports) == (1, 0)


def test_a_restriction_in_force_and_one_of_the_window_are_told(bench: Workbench) -> None:
    def order(kind: str, **more: str) -> dict[str, Any]:
        told = {"kind": kind, "tn": NUMBER, "authority": "NPA", "case": "A-1"}
        return told | more

    say(bench, 2, 10, order("restrict", measure="stop", notified_at=at(T + 10 * DAY)))
    say(bench, 3, 20, order("lift", notified_at=at(T + 20 * DAY)))
    assert look(bench, day=9).restricted_in_window is False
    held = look(bench, day=15)
    assert (held.restriction or {})["kind"] == "stop"
    assert held.restricted_in_window
    freed = look(bench, day=40)
    assert (freed.restriction, freed.restricted_in_window) == (None, True)
    assert look(bench, day=40, window=19).restricted_in_window is False


def test_a_pruned_history_says_from_where_on_it_knows(bench: Workbench) -> None:
    say(bench, 2, 10, notice(NUMBER, "1403"))
    say(bench, 3, 100, notice(NUMBER, "1401"))
    with Writer(bench.store) as writer:
        prune(writer, UnixSeconds(T + 50 * DAY), UnixSeconds(T + 400 * DAY), 184 * DAY, "Lin: done")
    found = look(bench, window=500)
    assert (found.window_covered, found.ports, found.known_since) == (False, 1, at(T + 10 * DAY))
    assert found.last_ported_from == "1403"


def test_more_moves_than_are_told_are_counted(bench: Workbench) -> None:
    many = RISK_MOVES_TOLD + 5
    for sequence in range(2, many + 2):
        say(bench, sequence, sequence / 10, notice(NUMBER, ("1401", "1403")[sequence % 2]))
    found = look(bench, now=30)
    assert (len(found.moves), found.ports, found.is_cut, found.window_covered) == (RISK_MOVES_TOLD, many, True, True)


@pytest.mark.parametrize("number", ["110", "0912", "886"])
def test_a_number_that_cannot_be_ported_has_no_past(bench: Workbench, number: str) -> None:
    found = look(bench, number)
    assert (found.outcome, found.moves, found.last_ported_at) == ("not_portable", (), None)


# -- the command -----------------------------------------------------------------------------------------


def test_the_command_tells_it_from_a_store(bench: Workbench) -> None:
    say(bench, 2, 10, notice(NUMBER, "1403"))
    done = run_cli("lookupd.cli", "history", "0912-345-678", "--as-of", at(T + 20 * DAY), "--store", bench.store)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "+886912345678 as of 2026-01-21T00:00:00Z: ported, network 1403 (Gamma)",
        "last ported: 2026-01-11T00:00:00Z, 1402 -> 1403",
        "since 2025-07-25T00:00:00Z: 1 ports, 0 returns at least; the history begins at 2026-01-01T00:00:00Z",
        "restricted: no",
        "  2026-01-11T00:00:00Z port 1402 -> 1403 (serial 4)",
    ]
    done = run_cli("lookupd.cli", "history", NUMBER, "--window", "30d", "--store", bench.store, "--json")
    assert msgspec.json.decode(done.stdout, type=RiskView).last_ported_to == "1403"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["x12", "--store", "{store}"], 2, "not a number"),
        (["110"], 2, "name one"),
        (["110", "--store", "{store}", "--purpose", "x"], 2, "--purpose goes with --server"),
        (["110", "--store", "{store}", "--window", "5"], 2, "--window"),
        (["110", "--store", "{store}", "--window", "9999d"], 2, "--window"),
        (["110", "--store", "{store}", "--as-of", "yesterday"], 2, "--as-of"),
        (["110", "--store", "{store}", "--as-of", "2100-01-01T00:00:00Z"], 2, "in the future"),
        (["110", "--store", "{store}", "--as-of", "2001-01-01T00:00:00Z"], 1, "before the kept history"),
        (["110", "--store", "missing"], 1, "missing"),
        (["110", "--server", "udp://127.0.0.1:1", "--purpose", "x"], 2, "--server"),
        (["110", "--server", "http://127.0.0.1:1", "--purpose", "x", "--json"], 1, "127.0.0.1:1"),
    ],
)
def test_what_cannot_be_asked_is_refused_with_the_reason(
    bench: Workbench, arguments: list[str], code: int, words: str
) -> None:
    done = run_cli("lookupd.cli", "history", *(text.format(store=bench.store) for text in arguments))
    assert (done.returncode, words in done.stderr) == (code, True), done.stderr
    if "--json" in arguments:
        assert json.loads(done.stdout)["exit_code"] == code
