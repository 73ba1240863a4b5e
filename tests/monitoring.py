"""What `monitoring/` has, read for tests: rules, their tests, the dashboard's queries; and the index of alerts.

    python -m tests.monitoring --write

writes the table of docs/operations/README.md anew. The YAML is read as far as our own files need it.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "monitoring"
RULES = FOLDER / "rules.yml"
TESTS = (FOLDER / "rules-test.yml", FOLDER / "availability-test.yml")
DASHBOARD = FOLDER / "grafana.json"
INDEX = ROOT / "docs/operations/README.md"
MARK = "<!-- The table below is written by `python -m tests.monitoring --write`. -->\n"

_METRIC = re.compile(r"\b(?:lookupd|process)_[a-z0-9_]+|\b[a-z_]+:lookupd_[a-z0-9_]+(?::[a-z0-9_]+)?")
_BY = re.compile(r"\b(?:by|on|ignoring|group_left|without)\s*\([^)]*\)")
_STRING = re.compile(r'"[^"]*"')


@dataclass(frozen=True)
class Rule:
    """A recording rule, or an alert with its annotations."""

    name: str
    expr: str
    is_alert: bool
    severity: str = ""
    summary: str = ""
    page: str = ""


def rules() -> list[Rule]:
    blocks = re.split(r"(?m)^      - (?=record:|alert:)", RULES.read_text())[1:]
    return [_rule(block) for block in blocks]


def _rule(block: str) -> Rule:
    kind, name = re.match(r"(record|alert): (\S+)", block).groups()  # type: ignore[union-attr]
    plain = re.search(r"(?m)^        expr: (?!\|)(.+)$", block)
    long = re.search(r"(?m)^        expr: \|\n((?:          .*\n)+)", block)
    assert (plain is None) != (long is None), block
    expr = plain[1] if plain else long[1]  # type: ignore[index]
    if kind == "record":
        return Rule(name, expr, False)
    found = {key: re.search(rf"(?m)^ +{key}: (.+)$", block) for key in ("labels", "summary", "description", "page")}
    assert all(found.values()), block
    severity = re.search(r"severity: (\w+)", found["labels"][1])  # type: ignore[index]
    return Rule(name, expr, True, severity[1], found["summary"][1].strip('"'), found["page"][1])  # type: ignore[index]


def metrics_in(expr: str) -> set[str]:
    """Names of metrics, ours and recorded ones, in an expression."""
    bare = _BY.sub("", _STRING.sub('""', expr))
    return set(_METRIC.findall(bare))


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return found


def dashboard_queries() -> dict[str, str]:
    """By panel's title and query's letter, with the variables set as for all."""
    found = {}
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            expr = target["expr"].replace("$__rate_interval", "5m")
            found[f"{panel['title']} {target['refId']}"] = re.sub(r"\$(?:pair|replica)\b", ".*", expr)
    return found


def slug(heading: str) -> str:
    """A heading's anchor, as code hosts make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    return {slug(line.lstrip("#").strip()) for line in page.read_text().splitlines() if re.match(r"#+ ", line)}


def table() -> str:
    order = {"page": 0, "warning": 1, "info": 2}
    lines = ["| alert | severity | page |", "|---|---|---|"]
    for rule in sorted((rule for rule in rules() if rule.is_alert), key=lambda rule: (order[rule.severity], rule.name)):
        target = rule.page.removeprefix("docs/operations/")
        lines.append(f"| `{rule.name}` | {rule.severity} | [{target.partition('#')[0]}]({target}) |")
    return "\n".join(lines) + "\n"


def write() -> None:
    before, _, _ = INDEX.read_text().partition(MARK)
    INDEX.write_text(before + MARK + "\n" + table())


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit(__doc__)
    write()
