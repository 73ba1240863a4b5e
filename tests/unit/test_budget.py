"""The budget of a query: read, held against figures, priced, drawn; and the exit code when it is not kept."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from bench import __main__ as command
from bench import chart
from bench.budget import BUDGET, Budget, BudgetError, Verdict, cost_section, judge, read_budget
from bench.figures import Figure, Ratio, Section
from bench.machine import Machine

TEXT = BUDGET.read_text()


def ratio(median: float, to: str = "echo") -> Ratio:
    return Ratio(median, median * 0.9, median * 1.2, to)


def held(budget: Budget, line: str, median: float, *, is_sound: bool = True) -> Figure:
    return budget.hold(Figure(f"pdb, {line}", 3.0, "us/query", ratio(median)), line, is_sound)


def test_committed_budget_is_that_of_the_issue() -> None:
    assert read_budget().lines() == {
        "query.many_sockets": 1.35,
        "query.one_socket": 0.95,
        "query.segmented": 0.40,
        "growth.segmented": 1.3,
        "meanwhile.lookup_p99": 1.2,
    }


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (("many_sockets", "many_socket"), "many_socket"),
        (("[growth]", "[grown]"), "grown"),
        (("many_sockets = 1.35", "many_sockets = 0"), "query.many_sockets"),
        (("one_socket = 0.95", "one_socket = -1"), "query.one_socket"),
        (("segmented = 0.40", "segmented = '0.40'"), "query.segmented"),
        (("notices_per_second = 10_000", "notices_per_second = 1.5"), "meanwhile.notices_per_second"),
        (("[query]", "[query"), "line"),
        (('currency = "EUR"', 'currency = ""'), "cost.currency"),
    ],
)
def test_bad_budget_is_refused_with_file_and_key(tmp_path: Path, changed: tuple[str, str], says: str) -> None:
    path = tmp_path / "budget.toml"
    assert changed[0] in TEXT
    path.write_text(TEXT.replace(*changed, 1))
    with pytest.raises(BudgetError) as caught:
        read_budget(path)
    assert str(path) in str(caught.value)
    assert says in str(caught.value)


def test_missing_budget_is_named(tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match=r"none\.toml"):
        read_budget(tmp_path / "none.toml")


def test_each_line_is_kept_up_to_its_bound_and_not_beyond() -> None:
    budget = read_budget()
    figures = [
        held(budget, "query.many_sockets", 1.35),
        held(budget, "query.one_socket", 0.9501),
        held(budget, "query.segmented", 0.1),
        held(budget, "meanwhile.lookup_p99", 1.0, is_sound=False),
    ]
    assert [figure.met for figure in figures] == [True, False, True, None]
    verdicts = {verdict.line: verdict for verdict in judge(budget, [Section("t", "n", figures)])}
    assert [verdicts[line].is_kept for line in budget.lines()] == [True, False, True, False, False]
    assert str(verdicts["query.one_socket"]) == "query.one_socket: 0.95, 0.95 allowed: OVER"
    assert str(verdicts["growth.segmented"]) == "growth.segmented: not measured, 1.3 allowed"
    assert verdicts["meanwhile.lookup_p99"].measured is None


def test_cost_is_cpu_at_the_price_of_a_core() -> None:
    budget = read_budget()
    section = cost_section(budget, [Figure("pdb", 3.6, "us/query"), Figure("npq", 0.5, "us/query")])
    price = budget.cost.price_per_core_hour
    assert [figure.name for figure in section.figures] == ["pdb: 3.6 s", "npq: 0.5 s"]
    assert [figure.value for figure in section.figures] == pytest.approx([price / 1000, price / 7200])
    assert {figure.unit for figure in section.figures} == {budget.cost.currency}


def test_chart_has_each_case_with_its_ratio_and_the_budget(tmp_path: Path) -> None:
    budget = read_budget()
    figures = [
        held(budget, "query.many_sockets", 1.1),
        Figure("Python path, pdb", 9.0, "us/query", ratio(2.5)),
        Figure("Knot DNS & co", 7.0, "us/query", ratio(1.6)),
        Figure("at 100 M", 1.0, "us/query", ratio(1.1, "1 M numbers")),
        Figure("bare echo", 4.0, "us/query"),
    ]
    bars = chart.bars_of([Section("t", "n", figures)])
    assert [(bar.name, bar.kind, bar.bound) for bar in bars] == [
        ("pdb, query.many_sockets", "native", 1.35),
        ("Python path, pdb", "python", None),
        ("Knot DNS & co", "other", None),
    ]
    path = tmp_path / "chart.svg"
    chart.draw(bars, "A query's cost", path)
    text = "".join(ElementTree.parse(path).getroot().itertext())
    for wanted in ("pdb, query.many_sockets", "Knot DNS & co", "1.10 x", "2.50 x", "budget", "A query's cost"):
        assert wanted in text, wanted


MACHINE = Machine("abc1234", "a CPU", 2, "Linux", "3.11", "lmdb", "uvloop")


@pytest.mark.parametrize(("median", "arguments", "exit_code"), [(1.0, [], 0), (2.0, [], 1), (2.0, ["--no-judge"], 0)])
def test_run_over_the_budget_ends_with_an_error_that_names_the_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, median: float, arguments: list[str], exit_code: int
) -> None:
    budget = read_budget()
    figures = [held(budget, line, 1.0 if line != "query.segmented" else median / 4) for line in budget.lines()]
    figures[1] = held(budget, "query.one_socket", median * 0.9)
    sections = [Section("Cost of a query", "A note.", figures)]
    result = command.Result("2026-01-01", True, 1000, 7, 8, MACHINE, sections, judge(budget, sections))
    monkeypatch.setattr(command, "measure", lambda *asked: result)
    monkeypatch.setattr(command, "RESULTS", tmp_path)
    done = CliRunner().invoke(command.main, ["--quick", *arguments])
    assert done.exit_code == exit_code, done.output
    assert ("query.one_socket: 1.8, 0.95 allowed: OVER" in done.output) == (median == 2.0)
    written = {path.suffix for path in tmp_path.iterdir()}
    assert written == {".md", ".json", ".svg"}
    assert "## Budget" in next(tmp_path.glob("*.md")).read_text()


def test_verdict_of_what_was_not_measured_is_not_kept() -> None:
    assert not Verdict("query.segmented", 0.4, None).is_kept
