"""Risk checks over HTTP, asked of a real daemon: told, permitted, counted, and audited before they are answered."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from lookupd.audit_reader import prove, read
from lookupd.risk import RiskView
from lookupd.units import format_time
from tests.conftest import Workbench, free_port, run_cli, run_daemon
from tests.unit.test_http_numbers import site

CLIENTS = (
    '[[client]]\nname = "bank"\naccount = "acme"\nsources = ["127.0.0.0/8"]\nmay = ["query", "risk"]\n'
    "queries_per_second = {rate}\n"
)
HISTORY = "/v1/numbers/0912345678/history"
WHY = {"purpose": "payment 4711"}


def folder(bench: Workbench) -> Path:
    return Path(f"{bench.store}-audit")


async def get(session: aiohttp.ClientSession, path: str = HISTORY, **query: str) -> tuple[int, dict[str, Any]]:
    async with session.get(path, params=query) as reply:
        return reply.status, await reply.json()


@pytest.mark.usefixtures("each_engine")
async def test_a_check_is_told_and_audited(loaded: Workbench) -> None:
    async with site(loaded, CLIENTS.format(rate=0)) as (served, session):
        status, told = await get(session, **WHY)
        assert (status, told["number"], told["network_code"], told["window_seconds"]) == (
            200,
            "+886912345678",
            "1402",
            180 * 86_400,
        )
        assert told.keys() == set(RiskView.__struct_fields__)
        assert told["last_ported_at"] == "2026-03-01T01:00:00Z"
        assert served.daemon.audit.records == 1
        (line,) = read(folder(loaded))
    record = line.record
    assert (record.client, record.account, record.source, record.number, record.purpose) == (
        "bank",
        "acme",
        "127.0.0.1",
        "0912345678",
        "payment 4711",
    )
    assert (record.outcome, record.as_of, record.window_seconds) == ("answered", None, 180 * 86_400)
    assert abs(time.time() - os.stat(folder(loaded) / line.file).st_mtime) < 60
    assert (folder(loaded).stat().st_mode & 0o777, (folder(loaded) / line.file).stat().st_mode & 0o777) == (
        0o700,
        0o600,
    )


async def test_it_needs_a_permission_of_its_own(loaded: Workbench) -> None:
    clients = CLIENTS.format(rate=0).replace('"risk"', '"history", "status"')
    async with site(loaded, clients) as (_, session):
        status, told = await get(session, **WHY)
    assert (status, '"risk"' in told["error"]) == (403, True)
    assert not folder(loaded).exists()


async def test_a_daemon_without_a_clients_list_tells_this_machine(loaded: Workbench) -> None:
    async with site(loaded) as (_, session):
        assert (await get(session, **WHY))[0] == 200
    assert len(list(read(folder(loaded)))) == 1


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({}, "purpose"),
        ({"purpose": " "}, "purpose"),
        ({"purpose": "x" * 201}, "purpose"),
        ({"purpose": "a\nb"}, "purpose"),
        ({"purpose": "x", "as_of": "yesterday"}, "as_of"),
        ({"purpose": "x", "as_of": "2100-01-01T00:00:00Z"}, "future"),
        ({"purpose": "x", "window": "0d"}, "window"),
        ({"purpose": "x", "window": "10000d"}, "window"),
        ({"purpose": "x", "window": "a while"}, "window"),
    ],
)
async def test_what_cannot_be_asked_is_refused_with_the_reason(
    loaded: Workbench, query: dict[str, str], words: str
) -> None:
    async with site(loaded) as (_, session):
        status, told = await get(session, **query)
        assert (status, words in told["error"]) == (400, True)
        assert (await get(session, "/v1/numbers/hello/history", **WHY))[0] == 400
    assert not folder(loaded).exists()


async def test_before_the_history_and_without_data_the_question_is_audited_too(
    workbench: Workbench, loaded: Workbench
) -> None:
    async with site(loaded) as (_, session):
        status, told = await get(session, **WHY, as_of="1999-01-01T00:00:00Z")
        assert (status, "before the kept history" in told["error"]) == (404, True)
    assert [line.record.outcome for line in read(folder(loaded))] == ["before_history"]


async def test_without_data_it_is_unavailable(workbench: Workbench) -> None:
    async with site(workbench) as (_, session):
        assert (await get(session, **WHY))[0] == 503
    assert [line.record.outcome for line in read(folder(workbench))] == ["unavailable"]


async def test_it_is_held_to_the_clients_rate_and_counted_as_a_question(loaded: Workbench) -> None:
    async with site(loaded, CLIENTS.format(rate=1)) as (served, session):
        statuses = [(await get(session, **WHY))[0] for _ in range(3)]
        counters = served.daemon.metrics.counters("http", "tcp")
        assert sorted(statuses) == [200, 429, 429]
        assert (counters.received, sum(counters.answered)) == (3, 1)
    assert len(list(read(folder(loaded)))) == 1


async def test_questions_that_come_together_are_each_in_the_chain(loaded: Workbench) -> None:
    async with site(loaded) as (served, session):
        done = await asyncio.gather(*(get(session, purpose=f"check {number}") for number in range(50)))
        assert {status for status, _ in done} == {200}
        assert served.daemon.audit.records == 50
    found = prove(folder(loaded))
    assert (found.records, found.broken, found.cut_off) == (50, (), ())
    assert {line.record.purpose for line in read(folder(loaded))} == {f"check {number}" for number in range(50)}


async def test_what_cannot_be_audited_is_not_told(loaded: Workbench) -> None:
    folder(loaded).write_text("no folder")
    async with site(loaded) as (served, session):
        status, told = await get(session, **WHY)
        assert (status, "audit.path" in told["error"], "network_code" in told) == (503, True, False)
        assert served.daemon.audit.failures == 1
        async with session.get("/v1/numbers/0912345678") as reply:
            assert reply.status == 200  # calls do not depend on it
        folder(loaded).unlink()
        assert (await get(session, **WHY))[0] == 200
        assert served.daemon.audit.records == 1


def test_command_and_daemon_tell_the_same_and_the_audit_shows_it(loaded: Workbench) -> None:
    server = f"http://127.0.0.1:{free_port()}"
    config = loaded.config("", f'http = "{server}"')
    with run_daemon(config):
        moment = str(format_time(int(time.time()) - 1))
        asked = ("history", "+886 912 345 678", "--json")
        ours = run_cli("lookupd.cli", *asked, "--server", server, "--purpose", 'case "7"')
        assert ours.returncode == 0, ours.stderr
        theirs = run_cli("lookupd.cli", *asked, "--config", config)
    told, read_here = json.loads(ours.stdout), json.loads(theirs.stdout)
    changing = ("as_of", "window_from", "age_seconds")
    assert {k: v for k, v in told.items() if k not in changing} == {
        k: v for k, v in read_here.items() if k not in changing
    }
    shown = run_cli("lookupd.cli", "audit", "--config", config, "--since", moment, "--number", "+886912345678")
    assert shown.returncode == 0, shown.stderr
    (line,) = shown.stdout.splitlines()
    assert "client=local" in line
    assert r'purpose="case \"7\""' in line
    assert run_cli("lookupd.cli", "audit", "--config", config, "--client", "nobody").stdout == ""
    proof = run_cli("lookupd.cli", "audit", "--config", config, "--verify", "--json")
    assert (proof.returncode, json.loads(proof.stdout)["records"]) == (0, 1)
    (file,) = folder(loaded).iterdir()
    file.write_bytes(file.read_bytes().replace(b"886", b"887") + b'{"at":"')
    shown = run_cli("lookupd.cli", "audit", "--config", config, "--verify")
    assert "cut off" in shown.stdout
