"""How the replica is, over HTTP, asked of a real daemon."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from typing import Any

import aiohttp
import pytest

from lookupd.web import state
from lookupd.web.vitals import quantile
from tests.conftest import Workbench, free_port, run_daemon, wait_until
from tests.unit.test_http_numbers import LOCAL, site


async def get(session: aiohttp.ClientSession, path: str, status: int = 200) -> Any:
    async with session.get(path) as reply:
        assert reply.status == status, await reply.text()
        return await reply.json()


def read_json(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=10) as reply:
        return json.load(reply)


@pytest.mark.usefixtures("each_engine")
async def test_status_tells_of_the_replica_and_how_it_does(loaded: Workbench) -> None:
    async with site(loaded, LOCAL) as (served, session):
        served.daemon.vitals.look()
        for _ in range(3):
            await get(session, "/v1/numbers/0912345678")
        served.daemon.vitals.look()
        told = await get(session, "/v1/status")
    own = told["replica"]
    assert (own["name"], own["ready"], own["reason"], own["ported"], own["engine"]) == (
        "a",
        True,
        None,
        4,
        loaded.engine,
    )
    assert own["vitals"]["outcomes"]["ported"] == 3
    assert own["vitals"]["by_dialect"]["http"] > 0
    assert (told["peer"], told["pair"]) == (None, None)


async def test_status_without_data_says_why(workbench: Workbench) -> None:
    async with site(workbench) as (_, session):
        own = (await get(session, "/v1/status"))["replica"]
        assert (own["ready"], own["serial"], own["age_seconds"]) == (False, None, None)
        assert own["reason"]
        for path in ("/v1/feeds", "/v1/notices"):
            assert "error" in await get(session, path, 503)


def test_peer_stands_beside_the_replica(loaded: Workbench) -> None:
    ours, theirs = free_port(), free_port()
    pair = '[replica]\nname = "{}"\npeer = "http://127.0.0.1:{}"\n'
    first = loaded.config(pair.format("a", theirs), f'http = "http://127.0.0.1:{ours}"').rename(
        loaded.folder / "a.toml"
    )
    second = loaded.config(pair.format("b", ours), f'http = "http://127.0.0.1:{theirs}"').rename(
        loaded.folder / "b.toml"
    )
    with run_daemon(first), run_daemon(second):
        found: dict[str, Any] = {}

        def agrees() -> bool:
            found.update(read_json(f"http://127.0.0.1:{ours}/v1/status"))
            return bool(found["pair"]["state"] == "agrees")

        wait_until(agrees)
    peer, own = found["peer"], found["replica"]
    assert (peer["up"], peer["name"], own["name"]) == (True, "b", "a")
    assert peer.keys() - {"up"} == own.keys()
    assert (peer["serial"], peer["digest"], peer["ported"]) == (own["serial"], own["digest"], own["ported"])
    assert peer["vitals"].keys() == own["vitals"].keys()


async def test_feeds_tell_positions_and_why_the_exchange_says_nothing(loaded: Workbench) -> None:
    async with site(loaded) as (_, session):
        told = await get(session, "/v1/feeds")
    (feed,) = told["feeds"]
    assert (feed["feed"], feed["sequence"], feed["type"], feed["exchange"]) == ("main", 1, "snapshot", None)
    assert told["limits"] == {"port": 3600, "return": 43_200}
    assert "sync.http" in told["exchange_reason"]


def test_feeds_tell_what_the_exchange_knows(loaded: Workbench) -> None:
    """Its own process, and a delta behind a gap: what waits is what the daemon cannot see."""
    http, sync_http = free_port(), free_port()
    incoming = loaded.folder / "feed"
    incoming.mkdir()
    config = loaded.config(
        f'[feed.main]\nsource = "dir://{incoming}"\npoll = "100ms"\n[sync]\nhttp = "http://127.0.0.1:{sync_http}"\n',
        f'http = "http://127.0.0.1:{http}"',
    )
    notice = {"kind": "port", "tn": "886912345000", "recipient": "1401", "notified_at": "2026-11-22T10:00:00+08:00"}
    path = loaded.publish("delta-main-9.ndjson", json.dumps(notice) + "\n", 1)
    for name in (path.name, f"{path.name}.json"):
        (loaded.folder / name).rename(incoming / name)
    exchange = subprocess.Popen(
        [sys.executable, "-m", "loader.cli", "sync", "--config", str(config)], stderr=subprocess.DEVNULL
    )
    try:
        with run_daemon(config):
            found: dict[str, Any] = {}

            def knows() -> bool:
                told = read_json(f"http://127.0.0.1:{http}/v1/feeds")
                found.update(told["feeds"][0]["exchange"] or {})
                return bool(found and found["clocks"]["port"]["waiting"])

            wait_until(knows)
    finally:
        os.kill(exchange.pid, signal.SIGTERM)
        exchange.wait(10)
    clock = found["clocks"]["port"]
    assert (clock["waiting"], clock["oldest_at"], clock["limit_seconds"]) == (1, "2026-11-22T02:00:00Z", 3600)
    assert clock["margin_seconds"] < 0
    assert found["blocked"] == "gap"


@pytest.mark.parametrize("may", ["history", "status"])
async def test_numbers_of_notices_are_whole_only_for_who_may_see_history(loaded: Workbench, may: str) -> None:
    loaded.delta({"kind": "return", "tn": "886912345679"}, sequence=2)
    settings = LOCAL if may == "history" else LOCAL.replace(', "history"', "")
    async with site(loaded, settings) as (_, session):
        async with session.get("/v1/notices") as reply:
            text = await reply.text()
        if may == "status":
            assert "912345679" not in text
            assert "+88691234****" in text
            assert "history" in (await get(session, "/v1/journal", 403))["error"]
        else:
            assert "+886912345679" in text
    newest = json.loads(text)["notices"][0]
    assert (newest["kind"], newest["feed"], newest["sequence"], newest["removed"]) == ("return", "main", 2, 1)


async def test_journal_goes_on_where_it_ended(loaded: Workbench) -> None:
    for sequence in range(2, 7):
        tn = f"88691234567{sequence}"
        loaded.delta({"kind": "port", "tn": tn, "recipient": "1403", "ref": f"N-{sequence}"}, sequence=sequence)
    async with site(loaded, LOCAL) as (_, session):
        whole = (await get(session, "/v1/journal"))["entries"]
        assert [entry["serial"] for entry in whole] == list(range(whole[0]["serial"], 0, -1))
        pages, before = [], ""
        while True:
            page = await get(session, f"/v1/journal?limit=2{before}")
            pages += page["entries"]
            if page["next"] is None:
                break
            before = f"&before={page['next']}"
        assert pages == whole
        found = await get(session, "/v1/journal?ref=N-4")
        assert [entry["sequence"] for entry in found["entries"]] == [4]
        found = await get(session, "/v1/journal?number=0912-345-674")
        assert found["entries"][0]["sequence"] == 4
        assert found["entries"][0]["before"] is None
        assert (await get(session, "/v1/journal?since=2100-01-01T00:00:00Z"))["entries"] == []


@pytest.mark.parametrize("asked", ["", "&number=0912345670", "&ref=N-2", "&number=0912345670&ref=N-2"])
async def test_journal_is_whole_whatever_one_request_may_read(
    loaded: Workbench, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    """Requests that read a few entries each, and none that goes on for ever."""
    for sequence in range(2, 9):
        change = {"kind": "port", "tn": "886912345670", "recipient": "1401" if sequence % 2 else "1403"}
        loaded.delta(change | {"ref": f"N-{sequence}"}, sequence=sequence)
    async with site(loaded, LOCAL) as (_, session):
        whole = (await get(session, f"/v1/journal?limit=500{asked}"))["entries"]
        assert len(whole) == (1 if "ref" in asked else 7 if asked else 10)
        monkeypatch.setattr(state, "HTTP_ENTRIES_SCANNED_MAX", 3)
        monkeypatch.setattr(state, "HTTP_ENTRIES_PER_SLICE", 1)
        found, before = [], ""
        for _ in range(8):
            page = await get(session, f"/v1/journal?limit=500{asked}{before}")
            found += page["entries"]
            if page["next"] is None:
                break
            before = f"&before={page['next']}"
        else:
            pytest.fail("it does not end")
    assert found == whole


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=501",
        "limit=-1",
        "limit=%D9%A1",
        "before=99999999999999999999",
        "number=x",
        "since=yesterday",
        "limit=",
    ],
)
async def test_journal_refuses_what_it_cannot_mean(loaded: Workbench, query: str) -> None:
    async with site(loaded, LOCAL) as (_, session):
        assert query.partition("=")[0] in (await get(session, f"/v1/journal?{query}", 400))["error"]


@pytest.mark.parametrize(
    ("buckets", "share", "seconds"),
    [
        ([0, 0, 0, 0], 0.5, None),
        ([4, 0, 0, 0], 0.5, 0.5e-6),
        ([0, 0, 4, 0], 0.5, 3e-6),
        ([0, 0, 4, 4], 0.99, 4e-6),
        ([50, 49, 1, 0], 0.99, 2e-6),
    ],
)
def test_quantiles_lie_where_the_buckets_say(buckets: list[int], share: float, seconds: float | None) -> None:
    found = quantile(buckets, share)
    assert found == (None if seconds is None else pytest.approx(seconds))
