"""Numbers over HTTP, asked of a real daemon."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from yarl import URL

from lookupd.limits import HTTP_ARRAY_NUMBERS_MAX, HTTP_LINE_BYTES_MAX
from lookupd.units import format_time
from tests.conftest import Served, Workbench, run_cli, serve

LOCAL = '[[client]]\nname = "local"\nsources = ["127.0.0.0/8"]\nmay = ["query", "status", "history"]\n'


@asynccontextmanager
async def site(bench: Workbench, settings: str = "") -> AsyncIterator[tuple[Served, aiohttp.ClientSession]]:
    config = bench.config(settings, 'http = "http://127.0.0.1:0"')
    async with serve(config) as served:
        base = f"http://127.0.0.1:{served.port('http', 'http')}"
        async with aiohttp.ClientSession(base) as session:
            yield served, session


async def ask_lines(
    session: aiohttp.ClientSession, body: bytes | AsyncIterator[bytes], kind: str = "application/x-ndjson"
) -> list[dict[str, Any]]:
    async with session.post("/v1/numbers", data=body, headers={"Content-Type": kind}) as reply:
        assert reply.status == 200, await reply.text()
        return [json.loads(line) for line in (await reply.read()).splitlines()]


@pytest.mark.usefixtures("each_engine")
@pytest.mark.parametrize(
    ("path", "status", "outcome", "network_code"),
    [
        ("+886912345678", 200, "ported", "1402"),
        ("%2B886%20912-345-678", 200, "ported", "1402"),
        ("0912345678", 200, "ported", "1402"),
        ("110", 200, "not_portable", None),
        ("88691234567", 200, "not_portable", None),
        ("hello", 400, "not_portable", None),
        ("+", 400, "not_portable", None),
        ("%D9%A1%D9%A2%D9%A3%D9%A4%D9%A5", 400, "not_portable", None),
        ("9" * 200, 400, "not_portable", None),
    ],
)
async def test_a_number_is_answered_by_its_path(
    loaded: Workbench, path: str, status: int, outcome: str, network_code: str | None
) -> None:
    async with (
        site(loaded) as (_, session),
        session.get(URL(f"/v1/numbers/{path}", encoded=True)) as reply,
    ):
        told = await reply.json()
    assert (reply.status, told["outcome"], told["network_code"]) == (status, outcome, network_code)
    assert told.keys() - {"error"} == {
        "number", "outcome", "network_code", "routing_number", "operator", "restriction", "serial", "age_seconds",
    }  # fmt: skip
    assert ("error" in told) == (status == 400)


@pytest.mark.usefixtures("each_engine")
async def test_answer_that_is_known_is_not_sent_again_until_the_data_changes(loaded: Workbench) -> None:
    async with site(loaded) as (_, session):
        async with session.get("/v1/numbers/+886912345678") as reply:
            tag = reply.headers["ETag"]
        async with session.get("/v1/numbers/+886912345678", headers={"If-None-Match": tag}) as reply:
            assert (reply.status, await reply.read()) == (304, b"")
        notice = {"kind": "return", "tn": "886912345679", "notified_at": "2026-11-22T10:00:00+08:00"}
        path = loaded.publish("delta-main-2.ndjson", json.dumps(notice) + "\n", 1)
        assert run_cli("loader.cli", "delta", path, "--store", loaded.store).returncode == 0
        async with session.get("/v1/numbers/+886912345678", headers={"If-None-Match": tag}) as reply:
            assert reply.status == 200
            assert reply.headers["ETag"] != tag


@pytest.mark.usefixtures("each_engine")
async def test_restriction_that_lapses_changes_the_answer_and_its_tag(loaded: Workbench) -> None:
    now = int(time.time())
    stop = {"kind": "restrict", "tn": "886912345678", "authority": "NPA", "case": "1", "measure": "stop"}
    until = format_time(now + 2)
    loaded.delta({**stop, "notified_at": format_time(now - 60), "until": until}, sequence=2)
    async with site(loaded) as (_, session):
        async with session.get("/v1/numbers/+886912345678") as reply:
            tag, told = reply.headers["ETag"], (await reply.json())["restriction"]
        assert told == {"kind": "stop", "until": until}
        while told is not None:
            assert time.time() < now + 30
            await asyncio.sleep(0.05)
            async with session.get("/v1/numbers/+886912345678", headers={"If-None-Match": tag}) as reply:
                told = (await reply.json())["restriction"] if reply.status == 200 else told
        assert time.time() >= now + 2


async def test_without_data_the_answer_is_unavailable_and_says_when_to_ask_again(workbench: Workbench) -> None:
    async with site(workbench) as (_, session), session.get("/v1/numbers/+886912345678") as reply:
        assert (reply.status, reply.headers["Retry-After"], (await reply.json())["outcome"]) == (
            503,
            "1",
            "unavailable",
        )
        assert "ETag" not in reply.headers


async def test_client_over_its_rate_is_told_so(loaded: Workbench) -> None:
    settings = LOCAL + "queries_per_second = 2\n"
    async with site(loaded, settings) as (served, session):
        statuses = []
        for _ in range(4):
            async with session.get("/v1/numbers/+886912345678") as reply:
                statuses.append(reply.status)
        assert statuses.count(429) >= 1
        assert statuses[0] == 200
        counters = served.daemon.metrics.queries("http", "tcp")
        assert counters.received == 4
        assert counters.balance() == 0


@pytest.mark.usefixtures("each_engine")
async def test_a_line_comes_back_for_each_line(loaded: Workbench) -> None:
    lines = [
        b'"+886912345678"', b"886912345678", b'{"number": "0912-345-678"}', b"", b"{", b'{"number": null}', b'"x"',
        b"\xff", b'"' + b"1" * HTTP_LINE_BYTES_MAX + b'"', b'"110"', b"[" * 200, b"1.5", b"-5",
    ]  # fmt: skip
    async with site(loaded) as (served, session):
        found = await ask_lines(session, b"\n".join(lines))
        counters = served.daemon.metrics.queries("http", "tcp")
        usage = served.daemon.metrics.client_usage()["local"][4]
    outcomes = [told.get("outcome", told.get("line")) for told in found]
    assert outcomes == ["ported", "ported", "ported", 5, 6, "not_portable", 8, 9, "not_portable", 11, 12, 13]
    assert [told["line"] for told in found if "error" in told] == [5, 6, 7, 8, 9, 11, 12, 13]
    assert counters.received == sum(usage) == len(found)
    assert counters.balance() == 0


async def test_text_is_read_line_by_line(loaded: Workbench) -> None:
    async with site(loaded) as (_, session):
        found = await ask_lines(session, b"0912345678\r\n+886 912 345 678\n\n110", "text/plain")
    assert [told["outcome"] for told in found] == ["ported", "ported", "not_portable"]


async def test_answers_come_while_lines_are_sent(loaded: Workbench) -> None:
    """More than a slice, then nothing: what was asked is answered before the body ends."""
    asked = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b'"0912345678"\n' * 1000
        await asyncio.wait_for(asked.wait(), 20)
        yield b'"110"\n'

    async with (
        site(loaded) as (_, session),
        session.post("/v1/numbers", data=body(), headers={"Content-Type": "application/x-ndjson"}) as reply,
    ):
        first = [await reply.content.readline() for _ in range(1000)]
        asked.set()
        rest = await reply.content.read()
    assert {json.loads(line)["outcome"] for line in first} == {"ported"}
    assert json.loads(rest)["outcome"] == "not_portable"


async def test_array_is_answered_by_an_array(loaded: Workbench) -> None:
    async with site(loaded) as (_, session):
        async with session.post("/v1/numbers", json=["0912345678", 886912345678.0, {"number": "110"}]) as reply:
            assert [told["outcome"] for told in await reply.json()] == ["ported", "ported", "not_portable"]
        async with session.post("/v1/numbers", json=["110"] * (HTTP_ARRAY_NUMBERS_MAX + 1)) as reply:
            assert (reply.status, "ndjson" in (await reply.json())["way_out"]) == (413, True)
        for body in (b"", b"{}", b"[null]", b"[" * 10_000, b"\xff", b"[-1]", b"[0.5]", b"[1e999]"):
            async with session.post("/v1/numbers", data=body, headers={"Content-Type": "application/json"}) as reply:
                assert (reply.status, "body" in (await reply.json())["error"]) == (400, True)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "text/html"}, 415),
        ({"Content-Type": "application/x-ndjson", "Content-Encoding": "gzip"}, 415),
    ],
)
async def test_body_of_another_form_is_refused(loaded: Workbench, headers: dict[str, str], status: int) -> None:
    async with site(loaded) as (_, session), session.post("/v1/numbers", data=b"x", headers=headers) as reply:
        assert reply.status == status
        assert (await reply.json())["error"]


async def test_errors_are_objects(loaded: Workbench) -> None:
    async with site(loaded) as (_, session):
        async with session.get(URL("/v1/numbers/%00%0a", encoded=True)) as reply:
            assert (reply.status, "path" in (await reply.json())["error"]) == (400, True)
        async with session.get("/v1/numbers/110", headers={"Host": "evil.example"}) as reply:
            assert (reply.status, "http.hosts" in (await reply.json())["error"]) == (421, True)
        async with session.get("/v1/nothing") as reply:
            assert (reply.status, "error" in await reply.json()) == (404, True)
        async with session.delete("/v1/numbers/110") as reply:
            assert (reply.status, reply.headers["Allow"], "error" in await reply.json()) == (405, "GET,HEAD", True)


async def test_past_is_for_who_may_see_it(loaded: Workbench) -> None:
    may_not = LOCAL.replace(', "history"', "")
    async with site(loaded, may_not) as (_, session):
        for path in ("/v1/numbers/110?as_of=2026-01-01T00:00:00Z", "/v1/numbers/110/explanation"):
            async with session.get(path) as reply:
                assert (reply.status, "history" in (await reply.json())["error"]) == (403, True)


async def test_past_of_a_number_is_answered(loaded: Workbench) -> None:
    async with site(loaded, LOCAL) as (_, session):
        async with session.get("/v1/numbers/0912345678?as_of=2100-01-01T00:00:00Z") as reply:
            assert (reply.status, (await reply.json())["outcome"]) == (200, "ported")
        async with session.get("/v1/numbers/0912345678?as_of=2001-01-01T00:00:00Z") as reply:
            assert (reply.status, "before the kept history" in (await reply.json())["error"]) == (404, True)
        for moment in ("yesterday", "", "2026-13-01T00:00:00Z"):
            async with session.get("/v1/numbers/0912345678", params={"as_of": moment}) as reply:
                assert (reply.status, "as_of" in (await reply.json())["error"]) == (400, True)
        async with session.get("/v1/numbers/0912345678/explanation") as reply:
            steps = await reply.json()
        assert steps["number"] == "+886912345678"
        assert steps["answer"]["outcome"] == "ported"
        async with session.get("/v1/numbers/0912345678/explanation?as_of=2100-01-01T00:00:00Z") as reply:
            assert (await reply.json())["as_of"]["time"] == "2100-01-01T00:00:00Z"


@pytest.mark.usefixtures("each_engine")
async def test_what_is_asked_is_in_the_query_log(loaded: Workbench) -> None:
    log = loaded.folder / "queries.ndjson"
    async with site(loaded, f'[query_log]\npath = "{log}"\nnumbers = "full"\n') as (_, session):
        async with session.get("/v1/numbers/0912345678"):
            pass
        await ask_lines(session, b'"110"\n')
    records = [json.loads(line) for line in log.read_text().splitlines()]
    told = [(each["dialect"], each["number"], each["outcome"], each["client"], each["source"]) for each in records]
    assert told == [
        ("http", "+886912345678", "ported", "local", "127.0.0.1"),
        ("http", None, "not_portable", "local", "127.0.0.1"),
    ]
