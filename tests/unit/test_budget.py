"""The budget's file, what is held to it, its price, and the table and chart of a run. Nothing is measured here."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

import bench.__main__ as command
from bench import asking, chart, enum_zone
from bench.budget import BUDGET, Budget, BudgetError, Price, cost_section, judge, read_budget
from bench.enum_zone import read_dnsperf
from bench.figures import QUERY_UNIT, Figure, Ratio, Section, cells, table
from bench.load import WrongAnswer
from bench.machine import Machine
from bench.processes import ChildFailed, Server
from bench.rounds import Answered, Run, Samples, run_rounds
from lookupd.bench import Latency, Offloads, Report

LINES = ("query.many_sockets", "query.one_socket", "query.segmented", "growth.segmented", "meanwhile.lookup_p99")
MACHINE = Machine("abc1234", "a processor", 2, "a kernel", "3.11", "0.9", "0.2")


@pytest.fixture
def budget() -> Budget:
    return read_budget()


def figure(ratio: float, to: str = "echo", name: str = "pdb, so", value: float = 2.0) -> Figure:
    return Figure(name, value, QUERY_UNIT, Ratio(ratio, 0.9 * ratio, 1.1 * ratio, to))


def whole(budget: Budget, over: str = "", without: str = "") -> list[Section]:
    """A section with every line of the budget just kept, but for one that is over it, and one left out."""
    allowed = budget.lines()
    figures = [
        budget.hold(figure(allowed[line] * (1.01 if line == over else 1.0)), line) for line in LINES if line != without
    ]
    return [Section("Cost of a query", "A note.", figures)]


# -- the file --------------------------------------------------------------------------------------------


def test_budget_of_this_tree_has_every_line(budget: Budget) -> None:
    assert tuple(budget.lines()) == LINES
    assert budget.lines() == pytest.approx(dict(zip(LINES, (1.35, 0.95, 0.40, 1.3, 1.2), strict=True)))


@pytest.mark.parametrize(
    ("was", "becomes", "said"),
    [
        ("[query]", "[query", "line 7"),
        ("one_socket = 0.95", "one_sockets = 0.95", r"`one_sockets`.*query|missing required field `one_socket`.*query"),
        ("one_socket = 0.95", "", r"missing required field `one_socket`.*query"),
        ("one_socket = 0.95", "one_socket = 0.95\nfour_sockets = 1.0", r"unknown field `four_sockets`.*query"),
        ("one_socket = 0.95", 'one_socket = "0.95"', r"Expected `float`, got `str`.*query\.one_socket"),
        ("one_socket = 0.95", "one_socket = 0", r"> 0.*query\.one_socket"),
        ("one_socket = 0.95", "one_socket = -1.0", r"> 0.*query\.one_socket"),
        ("price_per_core_hour = 0.04", "price_per_core_hour = 0.0", r"> 0.*cost\.price_per_core_hour"),
        ('currency = "EUR"', 'currency = ""', r"length >= 1.*cost\.currency"),
        ("[growth]", "[grows]", "growth|grows"),
    ],
)
def test_bad_file_is_refused_by_name_of_file_and_key(tmp_path: Path, was: str, becomes: str, said: str) -> None:
    text = BUDGET.read_text()
    assert was in text
    path = tmp_path / "budget.toml"
    path.write_text(text.replace(was, becomes, 1))
    with pytest.raises(BudgetError, match=said) as caught:
        read_budget(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_missing_file_and_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "budget.toml"
    with pytest.raises(BudgetError, match="No such file"):
        read_budget(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(BudgetError, match="decode"):
        read_budget(path)


# -- judging ---------------------------------------------------------------------------------------------


def test_budget_is_kept_at_its_bounds(budget: Budget) -> None:
    verdicts = judge(budget, whole(budget))
    assert [verdict.line for verdict in verdicts] == list(LINES)
    assert all(verdict.is_kept for verdict in verdicts)


@pytest.mark.parametrize("line", LINES)
def test_one_line_over_is_that_line_and_no_other(budget: Budget, line: str) -> None:
    verdicts = judge(budget, whole(budget, over=line))
    assert [verdict.line for verdict in verdicts if not verdict.is_kept] == [line]
    assert [str(verdict) for verdict in verdicts if "OVER" in str(verdict)] == [
        f"{line}: {1.01 * budget.lines()[line]:.4g}, {budget.lines()[line]:g} allowed: OVER"
    ]


@pytest.mark.parametrize("line", LINES)
def test_a_line_without_a_figure_is_not_kept(budget: Budget, line: str) -> None:
    missing = [verdict for verdict in judge(budget, whole(budget, without=line)) if not verdict.is_kept]
    assert [(verdict.line, verdict.measured) for verdict in missing] == [(line, None)]
    assert "not measured" in str(missing[0])


def test_nothing_measured_keeps_nothing(budget: Budget) -> None:
    assert not any(verdict.is_kept for verdict in judge(budget, []))


def test_figure_that_is_not_sound_is_shown_and_does_not_count(budget: Budget) -> None:
    held = budget.hold(figure(0.5, "idle"), "meanwhile.lookup_p99", is_sound=False)
    assert cells(held)[-2:] == ("<= 1.2 x idle", "not judged")
    (verdict,) = (v for v in judge(budget, [Section("", "", [held])]) if v.line == "meanwhile.lookup_p99")
    assert not verdict.is_kept
    assert str(verdict) == "meanwhile.lookup_p99: 0.5 is not fit to be judged, 1.2 allowed: measure again"


def test_median_is_judged_and_not_the_range(budget: Budget) -> None:
    wide = Figure("pdb, so", 1.0, QUERY_UNIT, Ratio(0.94, 0.5, 3.0, "echo"))
    assert budget.hold(wide, "query.one_socket").met is True


# -- price -----------------------------------------------------------------------------------------------


def test_price_of_cpu() -> None:
    assert Price("EUR", 0.04).money(3600.0) == pytest.approx(0.04)
    assert Price("EUR", 0.04).money(0.0) == 0.0


def test_million_queries_of_2_us_are_2_seconds_and_their_price(budget: Budget) -> None:
    section = cost_section(budget, [figure(1.0), figure(1.0, "1,000,000 numbers"), Figure("latency", 30.0, "us")])
    assert [(f.name, f.unit) for f in section.figures] == [("pdb, so, CPU", "s"), ("pdb, so, money", "EUR")]
    assert [f.value for f in section.figures] == pytest.approx([2.0, 2.0 / 3600 * budget.cost.price_per_core_hour])


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0, "0"), (123.4, "123"), (1.234, "1.23"), (0.000222, "0.000222"), (0.0000222, "0.0000222"), (-0.5, "-0.5")],
)
def test_small_money_is_shown_without_powers_of_ten(value: float, shown: str) -> None:
    assert cells(Figure("money", value, "EUR"))[1] == f"{shown} EUR"


# -- rounds ----------------------------------------------------------------------------------------------


class Clock(Server):
    """A server whose CPU is what the test says."""

    spent = 0

    def cpu_ns(self) -> int:
        return Clock.spent


def test_rounds_alternate_and_leave_the_first_out() -> None:
    asked: list[str] = []

    def ask(name: str, cost: int) -> Answered:
        asked.append(name)
        Clock.spent += cost * 10 * (1000 if len(asked) <= 2 else 1)
        return Answered(10, 1, 0.5)

    server = Clock(0, {}, 0.0)
    found = run_rounds({n: Run(server, lambda n=n, c=c: ask(n, c)) for n, c in (("echo", 100), ("ours", 150))}, 2)
    assert asked == ["ours", "echo", "echo", "ours", "ours", "echo"]
    assert found["ours"].cpu_ns == [150, 150]
    assert found["ours"].to(found["echo"], "echo") == Ratio(1.5, 1.5, 1.5, "echo")
    assert (found["ours"].us, found["ours"].per_second, found["ours"].lost) == (0.15, [20.0, 20.0], 2)


def test_server_that_answers_nothing_is_named() -> None:
    with pytest.raises(ChildFailed, match="knotd: a server answered nothing"):
        run_rounds({"knotd": Run(Clock(0, {}, 0.0), lambda: Answered(0, 5, 1.0))}, 1)
    assert Samples().lost == 0


# -- what the clients say --------------------------------------------------------------------------------


def report(**changes: object) -> Report:
    whole = Report(
        server="udp://127.0.0.1:1", dialect="pdb", transport="udp", loop="closed", sockets=1, window=128, rate=None,
        batch=1, gso=False, threads=1, timeout=1.0, seconds=1.0, sent=2000, received=2000, lost=0, unsent=0, late=0,
        duplicate=0, unknown=0, sent_per_second=2000.0, received_per_second=2000.0, numbers_per_second=2000.0,
        latency_ns=Latency(1, 1, 1, 1, 1, 1, 1, 1), histogram=[], outcomes={"ok": 2000}, offloads=Offloads(True, True),
        behind_ns_max=0, cpu_seconds=1.0, stopped=False,
    )  # fmt: skip
    return msgspec.structs.replace(whole, **changes)


@pytest.mark.parametrize(
    ("changes", "is_echo"),
    [
        ({}, False),
        ({"outcomes": {"ok": 2000, "not_found": 0}}, False),
        ({"outcomes": {"echoed": 2000}}, True),
        ({"dialect": "npq", "outcomes": {"ported": 1000, "not_ported": 1000}}, False),
        ({"dialect": "npq", "outcomes": {"ported": 900, "not_ported": 0}}, False),  # too few to tell
        ({"gso": True}, False),
        ({"gso": True, "transport": "tcp", "offloads": Offloads(False, False)}, False),
    ],
)
def test_right_answers_are_measured(changes: dict[str, object], is_echo: bool) -> None:
    asking.check_report(report(**changes), is_echo)


@pytest.mark.parametrize(
    ("changes", "is_echo", "error"),
    [
        ({"outcomes": {"echoed": 2000}}, False, WrongAnswer),  # a daemon that only echoes is cheap
        ({"outcomes": {"ok": 2000}}, True, WrongAnswer),
        ({"outcomes": {"ok": 1999, "not_found": 1}}, False, WrongAnswer),
        ({"dialect": "npq", "outcomes": {"ported": 1000, "unavailable": 1000}}, False, WrongAnswer),
        ({"dialect": "npq", "outcomes": {"ported": 500, "not_ported": 1500}}, False, WrongAnswer),
        ({"unknown": 1}, False, WrongAnswer),
        ({"gso": True, "offloads": Offloads(False, True)}, False, ChildFailed),
        ({"gso": True, "offloads": Offloads(True, False)}, False, ChildFailed),
    ],
)
def test_wrong_answers_are_no_figure(changes: dict[str, object], is_echo: bool, error: type[Exception]) -> None:
    with pytest.raises(error):
        asking.check_report(report(**changes), is_echo)


DNSPERF = """Statistics:

  Queries sent:         20000
  Queries completed:    19990 (99.95%)
  Queries lost:         10 (0.05%)

  Response codes:       NOERROR 10000 (50.03%), NXDOMAIN 9990 (49.97%)
  Run time (s):         0.250000
  Queries per second:   79960.000000
"""


def test_dnsperf_is_read() -> None:
    assert read_dnsperf(DNSPERF) == Answered(19990, 10, 0.25)


@pytest.mark.parametrize("left_out", ["Queries completed", "Queries lost", "Run time"])
def test_dnsperf_that_says_something_else_is_told(left_out: str) -> None:
    with pytest.raises(ChildFailed, match="dnsperf"):
        read_dnsperf(DNSPERF.replace(left_out, "Something"))


def test_number_as_a_record_of_the_zone() -> None:
    assert enum_zone._naptr(886912345678, "D0401") == (
        '8.7.6.5.4.3.2.1.9 NAPTR 10 100 "u" "E2U+pstn:tel" "!^.*$!tel:+886912345678;npdi;rn=D0401!" .\n'
    )
    assert enum_zone.origin() == "6.8.8.e164.arpa"


# -- table, chart, command -------------------------------------------------------------------------------


def texts(path: Path) -> list[str]:
    return [text for text in ("".join(each.itertext()).strip() for each in ET.parse(path).iter()) if text]


def test_chart_shows_every_case_ours_first_and_the_budget(budget: Budget, tmp_path: Path) -> None:
    figures = [
        figure(1.2, name="Knot DNS, so"),
        figure(1.9, name="Python path, pdb"),
        budget.hold(figure(0.9), "query.one_socket"),
        figure(1.1, "1,000,000 numbers", name="pdb, at many numbers"),
        Figure("bare echo", 2.0, QUERY_UNIT),
    ]
    bars = chart.bars_of([Section("Cost of a query", "", figures)])
    assert [(bar.name, bar.kind, bar.bound) for bar in bars] == [
        ("pdb, so", "native", 0.95),
        ("Python path, pdb", "python", None),
        ("Knot DNS, so", "other", None),
    ]
    first, again = tmp_path / "first.svg", tmp_path / "again.svg"
    for path in (first, again):
        chart.draw(bars, "A query's cost", path)
    assert first.read_bytes() == again.read_bytes()
    shown = texts(first)
    for text in ("A query's cost", "pdb, so", "Knot DNS, so", "0.90  (2 µs)", "budget", "lookupd, Python path"):
        assert text in shown


def test_chart_without_a_budget_has_no_mark_of_one(tmp_path: Path) -> None:
    chart.draw(chart.bars_of([Section("", "", [figure(1.2)])]), "A query's cost", tmp_path / "chart.svg")
    assert "budget" not in texts(tmp_path / "chart.svg")
    assert "other servers" not in texts(tmp_path / "chart.svg")


def test_table_says_what_is_allowed_and_what_became_of_it(budget: Budget) -> None:
    text = table(whole(budget, over="query.segmented"))
    (row,) = (line for line in text.splitlines() if "<= 0.4 x echo" in line)
    assert re.search(r"0\.404 x echo .* missed +\|$", row)


def result_of(sections: list[Section], budget: Budget) -> command.Result:
    return command.Result("2026-01-01", False, 1000, 7, 8, MACHINE, sections, judge(budget, sections))


@pytest.mark.parametrize(
    ("over", "options", "code"),
    [("", [], 0), ("query.segmented", [], 1), ("query.segmented", ["--no-judge"], 0)],
)
def test_exit_code_is_the_budgets(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, budget: Budget, over: str, options: list[str], code: int
) -> None:
    result = result_of(whole(budget, over=over), budget)
    monkeypatch.setattr(command, "measure", lambda *arguments: result)
    monkeypatch.setattr(command, "RESULTS", tmp_path)
    ran = CliRunner().invoke(command.main, options)
    assert ran.exit_code == code, ran.output
    assert ("the budget is not kept" in ran.output) is (code == 1)
    assert {path.name for path in tmp_path.iterdir()} == {f"2026-01-01-abc1234.{end}" for end in ("md", "json", "svg")}
    assert msgspec.json.decode((tmp_path / "2026-01-01-abc1234.json").read_bytes(), type=command.Result) == result


def test_bad_budget_ends_before_anything_is_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "budget.toml"
    path.write_text("[query]\n")
    monkeypatch.setattr(command, "read_budget", lambda: read_budget(path))
    monkeypatch.setattr(command, "measure", lambda *arguments: pytest.fail("measured"))
    ran = CliRunner().invoke(command.main, [])
    assert ran.exit_code == 1
    assert f"{path}: " in ran.output
