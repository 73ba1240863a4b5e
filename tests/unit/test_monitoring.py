"""Rules, their tests, the dashboard and the pages fit each other and the metrics that there are."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from tests.metric_names import sample_names
from tests.monitoring import (
    FOLDER,
    INDEX,
    MARK,
    ROOT,
    TESTS,
    Rule,
    anchors,
    dashboard,
    dashboard_queries,
    metrics_in,
    rules,
    table,
)

ALERTS = [rule for rule in rules() if rule.is_alert]


def known() -> set[str]:
    return sample_names() | {rule.name for rule in rules() if not rule.is_alert}


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("promtool")
    assert program, "needs the package prometheus"
    return subprocess.run([program, *arguments], cwd=FOLDER, capture_output=True, text=True, timeout=240, check=False)


def test_promtool_takes_the_rules_and_the_example() -> None:
    checked = promtool("check", "rules", "rules.yml")
    assert checked.returncode == 0, checked.stderr
    assert f"{len(rules())} rules found" in checked.stdout
    checked = promtool("check", "config", "--syntax-only", "prometheus.yml")
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize("file", [path.name for path in TESTS])
def test_every_alert_fires_when_it_should_and_is_silent_just_below(file: str) -> None:
    tested = promtool("test", "rules", file)
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_every_alert_has_such_a_test() -> None:
    text = "\n".join(path.read_text() for path in TESTS)
    blocks = {block.split()[0]: block for block in text.split("  - name: ")[1:]}
    assert not [rule.name for rule in ALERTS if rule.name not in blocks]
    for rule in ALERTS:
        block = blocks[rule.name]
        assert f'alertname="{rule.name}",alertstate="firing"' in block, rule.name
        if rule.name != "LookupdUnwatched":  # silent for the job that is there
            assert '"bad"' in block, rule.name
            assert '"fine"' in block, rule.name


def test_alerts_are_named_once_and_have_a_known_severity() -> None:
    assert max(Counter(rule.name for rule in rules()).values()) == 1
    assert {rule.severity for rule in ALERTS} == {"page", "warning", "info"}


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule.name)
def test_the_page_of_an_alert_is_there(rule: Rule) -> None:
    path, _, anchor = rule.page.partition("#")
    assert (ROOT / path).is_file(), rule.page
    assert anchor in anchors(ROOT / path), rule.page


def test_the_index_has_every_alert() -> None:
    text = INDEX.read_text()
    assert text.partition(MARK)[2].lstrip("\n") == table(), "write it anew: python -m tests.monitoring --write"


@pytest.mark.parametrize("page", sorted((ROOT / "docs/operations").glob("*.md")), ids=lambda page: page.stem)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(((?!https?:)[^)\s]+)\)", page.read_text().replace("\n", " ")):
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(found), f"{page.name}: {target}"


def test_rules_and_dashboard_use_only_metrics_that_there_are() -> None:
    expressions = {rule.name: rule.expr for rule in rules()} | dashboard_queries()
    assert not {name: metrics_in(expr) - known() for name, expr in expressions.items() if metrics_in(expr) - known()}
    assert all(metrics_in(expr) or "up{" in expr or "ALERTS" in expr for expr in expressions.values())


def test_every_metric_of_trouble_is_used() -> None:
    used = set().union(*(metrics_in(rule.expr) for rule in rules()), *map(metrics_in, dashboard_queries().values()))
    unused = {name for name in sample_names() if name.startswith("lookupd_")} - used
    assert not {name for name in unused if any(word in name for word in ("drop", "damaged", "expiry", "blocked"))}


def test_panels_are_named_do_not_overlap_and_say_what_they_show() -> None:
    panels = dashboard()["panels"]
    assert max(Counter(panel["id"] for panel in panels).values()) == 1
    assert max(Counter(panel["title"] for panel in panels).values()) == 1
    for one, other in itertools.combinations([panel["gridPos"] for panel in panels], 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above, (one, other)
    for panel in panels:
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
        if panel["type"] != "row":
            assert panel["description"].endswith("."), panel["title"]
            assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
            assert panel["datasource"]["uid"] == "${datasource}", panel["title"]
            assert panel["targets"], panel["title"]


def test_panels_lead_to_pages_that_there_are() -> None:
    for panel in dashboard()["panels"]:
        for link in panel.get("links", ()):
            path, _, anchor = link["url"].removeprefix("${docs}/").partition("#")
            assert (ROOT / path).is_file(), link
            assert not anchor or anchor in anchors(ROOT / path), link


def test_the_dashboard_has_its_rows_and_variables() -> None:
    found = dashboard()
    rows = [panel["title"] for panel in found["panels"] if panel["type"] == "row"]
    assert rows == [
        "At a glance",
        "Answers",
        "Latency",
        "Notices' clocks",
        "Feeds",
        "Pair",
        "Store",
        "Machine",
        "Fleet",
        "HTTP",
        "Usage",
    ]
    assert [variable["name"] for variable in found["templating"]["list"]] == ["datasource", "pair", "replica", "docs"]
