"""docs/protocols/http.md is true: every command is run against a daemon, every bound and path is ours."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from lookupd import limits
from lookupd.config import read_config
from lookupd.model import Outcome
from lookupd.web.openapi import document
from tests.conftest import Workbench, serve

DOCUMENT = Path(__file__).parents[2] / "docs" / "protocols" / "http.md"
TEXT = DOCUMENT.read_text(encoding="utf-8")
PROSE = " ".join(TEXT.split())
CONFIRMED_AT, RETURNED_AT, RESTRICTED_AT = 1_795_312_810, 1_795_313_100, 1_795_313_200
BASE = "http://127.0.0.1:9474"
VARYING = {
    "age_seconds", "now", "started_at", "uptime_seconds", "version", "engine", "queries_per_second", "by_dialect",
    "outcomes", "over_seconds", "reply_p50_seconds", "reply_p99_seconds",
    "id", "created_at", "ended_at", "expires_at", "result", "results", "started", "seconds",
}  # fmt: skip
"""Fields whose values nobody can know before."""


class Example(NamedTuple):
    """The commands of one block, each with what it prints."""

    title: str
    runs: list[tuple[str, str]]


def read_examples(text: str) -> list[Example]:
    """Every block of commands, by the heading above it."""
    examples = []
    for section in re.split(r"^### ", text, flags=re.M)[1:]:
        title, _, rest = section.partition("\n")
        for block in re.findall(r"^```console\n(.*?)^```$", rest.split("\n## ")[0], re.M | re.S):
            runs: list[tuple[str, str]] = []
            for line in block.splitlines(keepends=True):
                if line.startswith("$ "):
                    runs.append((line[2:].rstrip("\n"), ""))
                else:
                    runs[-1] = (runs[-1][0], runs[-1][1] + line)
            examples.append(Example(title, runs))
    return examples


EXAMPLES = read_examples(TEXT)


async def run(command: str, port: int) -> str:
    """What a command of the page prints, with the listener's real port."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "LC_ALL": "C.UTF-8"}
    process = await asyncio.create_subprocess_exec(
        *("bash", "-c", command.replace(BASE, f"http://127.0.0.1:{port}")),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=environment,
    )
    async with asyncio.timeout(60):
        told, _ = await process.communicate()
    return told.decode().replace("\r\n", "\n")


def prepare(workbench: Workbench, title: str) -> Path:
    """The data of the page, and the configuration of its daemon. title: of the example."""
    workbench.load_tables()
    workbench.snapshot(now=CONFIRMED_AT)
    workbench.delta({"kind": "return", "tn": "886912345679", "ref": "R-7"}, sequence=2, now=RETURNED_AT)
    if "restrict" in title:
        workbench.restrict(886923456789, RESTRICTED_AT)
    batches = f'[batches]\npath = "{workbench.folder}/batches"\nfree_min = "1MiB"\n'
    return workbench.config(batches, 'http = "http://127.0.0.1:0"')


def known(told: str) -> Any:
    """What is printed, without what varies."""
    try:
        return _known(json.loads(told))
    except ValueError:
        pass
    lines = []
    for line in told.splitlines():
        try:
            lines.append(_known(json.loads(line)))
        except ValueError:
            lines.append(re.sub(r"age=[0-9]+s", "age=Ns", line))
    return lines


def _known(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: "varies" if name in VARYING else _known(each) for name, each in value.items()}
    return [_known(each) for each in value] if isinstance(value, list) else value


# -- the page itself -------------------------------------------------------------------------------------


def test_every_block_of_commands_is_run() -> None:
    assert len({example.title for example in EXAMPLES}) == len(EXAMPLES) > 12
    assert TEXT.count("```console") == len(EXAMPLES) + 1  # the one under a heading of the second order
    assert all(told for example in EXAMPLES for _, told in example.runs[:1])


def test_paths_of_the_page_are_those_of_the_openapi_document() -> None:
    table = set(re.findall(r"^\| `(?:GET|POST) (/v1/[^`?]*)`", TEXT, re.M))
    assert table == set(document()["paths"])


def test_outcomes_of_the_page_are_ours() -> None:
    (row,) = re.findall(r"^\| `outcome` \| (.*) \|$", TEXT, re.M)
    assert row.replace("`", "").split(", ") == [outcome.label for outcome in Outcome]


def test_first_configuration_is_accepted(tmp_path: Path) -> None:
    (text,) = re.findall(r"^```toml\n(.*?)^```$", TEXT, re.M | re.S)
    path = tmp_path / "lookupd.toml"
    path.write_text(text)
    assert read_config(path).clients[0].may == tuple(tomllib.loads(text)["client"][0]["may"])


@pytest.mark.parametrize(
    "sentence",
    [
        f"letters, nothing, over {limits.NUMBER_CHARS_MAX} characters",
        f"| a line | {limits.HTTP_LINE_BYTES_MAX} bytes |",
        f"| lines | {limits.HTTP_LINES_MAX:,} |",
        f"| a body, with the answers to it | {limits.HTTP_LINES_SECONDS:.0f} s |",
        f"| no byte comes | {limits.HTTP_STALL_SECONDS:.0f} s |",
        f"| no answer is taken | {limits.HTTP_STALL_SECONDS:.0f} s |",
        f"| an array | {limits.HTTP_ARRAY_NUMBERS_MAX:,} numbers, {limits.HTTP_ARRAY_BYTES_MAX:,} bytes |",
        f"Up to {limits.HTTP_LINES_PER_SLICE} lines are answered from one state",
        f"`limit` is from 1 to {limits.HTTP_ENTRIES_MAX}, 100 if it is left out",
        f"| uploads at a time | {limits.JOBS_UPLOADS_MAX} |",
        f"`batches.bytes_max`, {limits.JOBS_UPLOAD_SECONDS:,.0f} s",
        f"at most {limits.JOBS_AHEAD_SECONDS // 86_400} days ahead",
        f"A request reads at most {limits.HTTP_ENTRIES_SCANNED_MAX:,} entries",
    ],
)
def test_bound_on_the_page_is_the_bound_in_force(sentence: str) -> None:
    assert sentence in PROSE


# -- the examples ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("example", EXAMPLES, ids=[example.title for example in EXAMPLES])
async def test_example_prints_what_the_page_says(workbench: Workbench, example: Example) -> None:
    async with serve(prepare(workbench, example.title)) as served:
        assert served.daemon.jobs is not None
        keeper = asyncio.create_task(served.daemon.jobs.keep())
        for command, expected in example.runs:
            assert known(await run(command, served.port("http", "http"))) == known(expected), command
        keeper.cancel()
