"""docs/restrictions.md is true: its commands are run in their order, and print what it says; every bound is ours."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from loader.formats.lookupd import parse_notice
from lookupd import limits
from lookupd.model import Measure
from tests.conftest import Workbench

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "restrictions.md").read_text(encoding="utf-8")
YEARS = (2026, 2028, 2029)
PROGRAMS = {"lookupd-loader": "loader.cli", "lookupd": "lookupd.cli"}


def runs() -> list[tuple[str, str]]:
    """Each command of the page, and what it prints."""
    found: list[tuple[str, str]] = []
    for block in re.findall(r"^```console\n(.*?)^```$", TEXT, re.M | re.S):
        for line in block.splitlines(keepends=True):
            if line.startswith("$ "):
                found.append((line[2:].rstrip("\n"), ""))
            else:
                found[-1] = found[-1][0], found[-1][1] + line
    return found


def of_this_year(text: str) -> str:
    """The page's years moved, so that its restrictions began within the last twelve months."""
    now = datetime.now(UTC)
    on = now.year - YEARS[0] - ((now.month, now.day) < (11, 23))
    return re.sub(r"\b(202[689])(?=-11-)", lambda year: str(int(year[1]) + on), text)


def known(told: str) -> str:
    """Without what nobody can know before: the age, and when something was done."""
    told = re.sub(r"age=[0-9]+s", "age=Ns", told)
    return re.sub(r"^([0-9]+) \S+Z |notified_at=\S+", r"\1 T ", told, flags=re.M)


def run(command: str, folder: Path) -> str:
    program, _, arguments = command.partition(" ")
    if program in PROGRAMS:
        command = f"{sys.executable} -m {PROGRAMS[program]} {arguments}"
    return subprocess.run(
        ["bash", "-c", command.replace("/var/lib/lookupd", str(folder))],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=folder,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | {"LC_ALL": "C.UTF-8"},
    ).stdout


def test_commands_print_what_the_page_says(tmp_path: Path) -> None:
    for name in ("a", "b"):
        bench = Workbench(tmp_path / f"files-{name}")
        bench.folder.mkdir()
        bench.store = tmp_path / name
        bench.load_tables()
        bench.snapshot()
    assert len(runs()) > 12
    for command, printed in runs():
        assert known(run(of_this_year(command), tmp_path)) == known(of_this_year(printed)), command


def test_links_of_the_page_lead_somewhere() -> None:
    for path, anchor in re.findall(r"\]\(([a-z/-]+\.md)(?:#([a-z-]+))?\)", TEXT):
        headings = re.findall(r"^#+ (.+)$", (DOCS / path).read_text(encoding="utf-8"), re.M)
        anchors = {re.sub(r"[^a-z0-9 _-]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert not anchor or anchor in anchors, (path, anchor)


def test_measures_of_the_page_are_ours_from_the_strictest_on() -> None:
    table = TEXT.partition("| measure |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `([a-z_]+)` \|", table, re.M) == [measure.label for measure in Measure]


@pytest.mark.parametrize(
    "sentence",
    [f"within {limits.TABLES_SECONDS:.0f} s, with the same `--from`", "at most two years from when it begins"],
)
def test_bound_on_the_page_is_the_bound_in_force(sentence: str) -> None:
    assert limits.RESTRICTION_YEARS == 2
    assert sentence in " ".join(TEXT.split())


def test_notices_of_the_feeds_page_are_read() -> None:
    text = (DOCS / "feeds.md").read_text(encoding="utf-8")
    lines = re.findall(r'^    (\{"kind":"(?:restrict|extend|lift)".*\})$', text, re.M)
    kinds = [parse_notice(line.encode()).kind for line in lines]
    assert kinds == ["restrict", "restrict", "extend", "lift"]
    rows = text.partition("Notices about [restrictions]")[2].partition("\n\n### ")[0]
    assert all(f"`{key}`" in rows for line in lines for key in re.findall(r'"([a-z_]+)":', line))
    assert f"1 to {limits.RESTRICTION_WORDS_CHARS_MAX} printable" in rows
    assert f"at most {limits.RANGE_NUMBERS_MAX:,}, of one kind" in rows


def test_notices_of_the_feeds_page_are_applied(loaded: Workbench) -> None:
    text = (DOCS / "feeds.md").read_text(encoding="utf-8")
    lines = re.findall(r'^    (\{"kind":"(?:restrict|extend|lift)".*\})$', text, re.M)
    path = loaded.publish("delta-main-2.ndjson", "".join(line + "\n" for line in lines), len(lines))
    done = run(f"lookupd-loader delta {path} --store {loaded.store}", loaded.folder)
    assert "result=applied" in done
    with loaded.reader() as reader:
        assert [(it.authority, it.extended) for it in reader.every_restriction()] == [("NPA", True)]
        assert "refused" not in {entry.kind for _, entry, _ in reader.journal()}
