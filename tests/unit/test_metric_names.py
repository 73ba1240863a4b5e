"""The metrics of all programs are those that are written down: people's alerts and dashboards depend on them."""

from __future__ import annotations

import shutil
import subprocess
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import Workbench, free_port, run_daemon
from tests.metric_names import (
    DOCUMENT,
    FROZEN,
    MARK,
    Listing,
    collect_all,
    every_listener,
    read_frozen,
    sample_names,
    tables,
    text_of,
)

WAY_OUT = """
A metric that is gone, renamed, or has lost a label or a value breaks alerts and dashboards that people wrote: bring it
back. If it has to be, say so in CHANGELOG.md, and change monitoring/ with it.
What was added is written down by: python -m tests.metric_names --write
"""


def changes(frozen: Listing, found: Listing) -> list[str]:
    """One line for each name, type, help, label or value that differs."""
    lines = [f"gone: {program} {name}" for program, name in sorted(frozen.keys() - found.keys())]
    lines += [f"new: {program} {name}" for program, name in sorted(found.keys() - frozen.keys())]
    for key in sorted(frozen.keys() & found.keys()):
        before, now = frozen[key].text(key[0]), found[key].text(key[0])
        lines += [f"- {line}" for line in before.splitlines() if line not in now.splitlines()]
        lines += [f"+ {line}" for line in now.splitlines() if line not in before.splitlines()]
    return lines


async def test_names_types_labels_and_values_are_as_written_down(tmp_path: Path) -> None:
    found = await collect_all(tmp_path)
    assert not changes(read_frozen(), found), WAY_OUT + "\n".join(changes(read_frozen(), found))


def test_the_list_is_written_as_it_is_read() -> None:
    assert text_of(read_frozen()) == FROZEN.read_text()


def test_a_removed_value_and_a_renamed_metric_are_told() -> None:
    frozen, found = read_frozen(), read_frozen()
    values = found["daemon", "lookupd_queries_dropped_total"].labels["reason"]
    assert values is not None
    values.discard("late")
    found["daemon", "lookupd_prepared"] = found.pop(("daemon", "lookupd_ready"))
    told = changes(frozen, found)
    assert told[:2] == ["gone: daemon lookupd_ready", "new: daemon lookupd_prepared"]
    assert any("late" in line and line.startswith("-") for line in told)


def test_the_document_has_every_metric() -> None:
    text = DOCUMENT.read_text()
    assert text.partition(MARK)[2].lstrip("\n") == tables(read_frozen()), WAY_OUT


@pytest.mark.usefixtures("each_engine")
def test_what_is_served_over_http_is_in_the_list_and_promtool_can_read_it(loaded: Workbench) -> None:
    port = free_port()
    listen = every_listener().replace("http://127.0.0.1:0", f"http://127.0.0.1:{port}")
    with (
        run_daemon(loaded.config(listen=listen)),
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response,
    ):
        text = response.read().decode()
    samples = {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}
    assert "lookupd_ready" in samples
    assert samples <= sample_names()
    promtool = shutil.which("promtool")
    assert promtool, "needs the package prometheus"
    checked = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
