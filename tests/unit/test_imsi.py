"""IMSIs, asked of a store and of a running daemon: single ones, ranges, many of them, and what is no question."""

from __future__ import annotations

import asyncio
import json
import random
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lookupd.imsis import Ranges
from lookupd.model import JournalKind, UnixSeconds
from lookupd.store.change import Counts
from lookupd.store.restrictions import imsi_key
from lookupd.store.writer import Writer
from lookupd.units import format_time
from tests.conftest import Workbench, run_cli
from tests.unit.test_http_numbers import LOCAL, site

ONE, IN_RANGE, FREE = "466011234567890", "466015555555555", "466020000000000"
NPA = {"kind": "restrict", "authority": "NPA", "case": "1"}


@pytest.fixture
def restricted(loaded: Workbench) -> Workbench:
    """One IMSI and the range that it is in."""
    loaded.delta(
        {**NPA, "imsi": ONE, "measure": "limit"},
        {**NPA, "imsi": "466010000000000", "imsi_to": "466019999999999", "measure": "no_roaming"},
        sequence=2,
    )
    return loaded


def ask_store(bench: Workbench, *imsis: str) -> list[dict[str, Any]]:
    options = [option for imsi in imsis for option in ("--imsi", imsi)]
    done = run_cli("lookupd.cli", "query", *options, "--store", bench.store, "--json")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def kinds(told: list[dict[str, Any]]) -> list[str | None]:
    return [each["restriction"] and each["restriction"]["kind"] for each in told]


def test_store_tells_the_strictest_of_an_imsi_and_its_ranges(restricted: Workbench) -> None:
    told = ask_store(restricted, ONE, IN_RANGE, FREE, "46601123456789")
    assert kinds(told) == ["limit", "no_roaming", None, None]
    assert told[0] == {
        "imsi": ONE,
        "restriction": {"kind": "limit", "until": "2028-11-22T02:00:00Z"},
        "serial": restricted.state()[0],
        "age_seconds": told[0]["age_seconds"],
    }
    shown = run_cli("lookupd.cli", "query", "--imsi", ONE, "--imsi", FREE, "--store", restricted.store).stdout
    assert f"imsi {ONE} restricted=limit until=2028-11-22T02:00:00Z serial=" in shown
    assert f"imsi {FREE} unrestricted serial=" in shown


@pytest.mark.usefixtures("each_engine")
async def test_daemon_tells_the_same_and_follows_each_change(restricted: Workbench) -> None:
    async with site(restricted) as (served, session):

        async def ask(imsi: str) -> tuple[int, Any]:
            async with session.get(f"/v1/imsis/{imsi}") as reply:
                return reply.status, await reply.json()

        told = [await ask(imsi) for imsi in (ONE, IN_RANGE, FREE)]
        assert [status for status, _ in told] == [200] * 3
        assert kinds([each for _, each in told]) == ["limit", "no_roaming", None]
        port = served.port("http", "http")
        options = ("--imsi", ONE, "--imsi", IN_RANGE, "--server", f"http://127.0.0.1:{port}", "--json")
        done = await asyncio.to_thread(run_cli, "lookupd.cli", "query", *options)
        assert kinds([json.loads(line) for line in done.stdout.splitlines()]) == ["limit", "no_roaming"]
        lift = '{"kind":"lift","imsi":"%s","authority":"NPA","case":"1","notified_at":"2026-11-22T10:00:00+08:00"}\n'
        path = restricted.publish("delta-main-3.ndjson", lift % ONE, 1)
        loaded = await asyncio.to_thread(run_cli, "loader.cli", "delta", path, "--store", restricted.store)
        assert loaded.returncode == 0, loaded.stderr
        assert kinds([(await ask(ONE))[1]]) == ["no_roaming"]


@pytest.mark.parametrize("imsi", ["1", "4660112345678", "4660112345678901", "46601123456789x", "%D9%A1" * 15])
async def test_what_is_no_imsi_is_refused_with_a_reason(restricted: Workbench, imsi: str) -> None:
    async with site(restricted) as (_, session), session.get(f"/v1/imsis/{imsi}") as reply:
        assert (reply.status, await reply.json()) == (400, {"error": "not an IMSI: 14 or 15 digits"})


async def test_client_that_may_not_query_or_is_over_its_rate_is_told(restricted: Workbench) -> None:
    async with (
        site(restricted, LOCAL.replace('"query", ', "")) as (_, session),
        session.get(f"/v1/imsis/{ONE}") as reply,
    ):
        assert reply.status == 403
    async with site(restricted, LOCAL + "queries_per_second = 1\n") as (_, session):
        statuses = []
        for _ in range(5):
            async with session.get(f"/v1/imsis/{ONE}") as reply:
                statuses.append(reply.status)
    assert (statuses[0], 429 in statuses) == (200, True)


async def test_without_data_the_answer_is_that_there_is_none(workbench: Workbench) -> None:
    async with site(workbench) as (_, session), session.get(f"/v1/imsis/{ONE}") as reply:
        assert (reply.status, "Retry-After" in reply.headers) == (503, True)
        assert "error" in await reply.json()


async def test_damaged_row_is_no_answer(restricted: Workbench) -> None:
    with restricted.reader() as reader:
        (row,) = [key for key, _ in reader.stored_from("restrictions", b"j") if key[:1] == b"j"]
    with Writer(restricted.store) as writer, writer.change(UnixSeconds(1)) as change:
        change.transaction.put(row, bytes(40), db=change.handles["restrictions"])
        change.record(JournalKind.EMPTY, Counts())
    done = run_cli("lookupd.cli", "query", "--imsi", IN_RANGE, "--store", restricted.store)
    assert (done.returncode, done.stdout, "is damaged: restore the store" in done.stderr) == (1, "", True)
    async with site(restricted) as (_, session):
        async with session.get(f"/v1/imsis/{IN_RANGE}") as reply:
            assert (reply.status, "is damaged" in (await reply.json())["error"]) == (503, True)
        async with session.get(f"/v1/imsis/{FREE}") as reply:
            assert reply.status == 200


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--imsi", "123"), "14 or 15 digits"),
        (("--imsi", ONE), "asked of --server http"),
        (("--imsi", ONE, "--server", "udp://127.0.0.1:4700"), "asked of --server http"),
        (("0912345678", "--imsi", ONE), "name numbers, or --imsi"),
        ((), "name numbers, or --imsi"),
        (("--imsi", ONE, "--server", "http://127.0.0.1:1", "--token-file", "x"), "https:// servers"),
    ],
    ids=["short", "nobody", "npq", "both", "none", "token"],
)
def test_what_cannot_be_meant_is_a_usage_error(arguments: tuple[str, ...], why: str) -> None:
    done = run_cli("lookupd.cli", "query", *arguments)
    assert (done.returncode, why in done.stderr) == (2, True), done.stderr


def test_restriction_of_an_imsi_begins_and_lapses_by_itself(loaded: Workbench) -> None:
    now = int(time.time())
    loaded.delta(
        {**NPA, "imsi": ONE, "measure": "stop", "from": format_time(now - 7200), "until": format_time(now - 3600)},
        {**NPA, "imsi": FREE, "measure": "stop", "from": format_time(now + 3600)},
        sequence=2,
    )
    assert kinds(ask_store(loaded, ONE, FREE)) == [None, None]


# -- ranges in memory ------------------------------------------------------------------------------------

spans = st.tuples(st.integers(0, 60), st.integers(0, 20)).map(lambda it: (it[0], it[0] + it[1]))


@given(spans=st.lists(spans, max_size=30), asked=st.integers(0, 90))
def test_every_range_that_holds_an_imsi_is_found_and_no_other(spans: list[tuple[int, int]], asked: int) -> None:
    ranges = [(first, last, b"%d" % at) for at, (first, last) in enumerate(spans)]
    found = sorted(Ranges(ranges).holding(asked))
    assert found == sorted(key for first, last, key in ranges if first <= asked <= last)


class Counted(int):
    """Counts how often ends of ranges are compared with it."""

    compared = 0

    def __gt__(self, other: int) -> bool:
        type(self).compared += 1
        return int(self) > other

    def __ge__(self, other: int) -> bool:
        type(self).compared += 1
        return int(self) >= other

    def __le__(self, other: int) -> bool:
        type(self).compared += 1
        return int(self) <= other


@pytest.mark.parametrize("wide", [False, True], ids=["apart", "one-over-all"])
def test_ten_thousand_ranges_are_not_looked_at_one_by_one(wide: bool) -> None:
    begin = imsi_key("466010000000000")
    ranges = [(begin + 1000 * at, begin + 1000 * at + 500, b"%d" % at) for at in range(10_000)]
    ranges += [(begin, begin + 10**8, b"wide")] if wide else []
    found = Ranges(ranges)
    at = random.Random(1).randrange(10_000)
    Counted.compared = 0
    assert set(found.holding(Counted(begin + 1000 * at + 7))) == {b"%d" % at} | ({b"wide"} if wide else set())
    assert 0 < Counted.compared < 200
