"""Lists of numbers as jobs over HTTP: uploaded to a real daemon, run by real processes."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import io
import json
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
import zstandard
from yarl import URL

from lookupd.config import read_config
from lookupd.errors import ConfigError
from lookupd.jobs import Order, Wishes
from lookupd.jobs_clock import JobsClock
from lookupd.limits import JOBS_CLOCK_SECONDS, JOBS_UPLOADS_MAX
from lookupd.observe.counters import USAGE_RESULTS
from lookupd.second_look import warnings
from lookupd.units import format_time
from tests.conftest import Served, Workbench, serve, wait_until

CSV = {"Content-Type": "text/csv"}
LIST = b"id,tn\nA1,0912345678\nA2,+886 912 345 679\nA3,hello\n"
DAY = 86_400


@asynccontextmanager
async def site(
    bench: Workbench, settings: str = "", clients: str = ""
) -> AsyncIterator[tuple[Served, aiohttp.ClientSession]]:
    """A daemon that serves batches, and runs them."""
    config = bench.config(
        f'[batches]\npath = "{bench.folder}/batches"\nfree_min = "1MiB"\n{settings}\n{clients}',
        'http = "http://127.0.0.1:0"',
    )
    async with serve(config) as served:
        runner = served.daemon.jobs
        assert runner is not None
        keeper = asyncio.create_task(runner.keep())
        try:
            async with aiohttp.ClientSession(f"http://127.0.0.1:{served.port('http', 'http')}") as session:
                yield served, session
        finally:
            keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await keeper


async def upload(
    session: aiohttp.ClientSession, body: Any = LIST, status: int = 201, query: str = "", **headers: str
) -> dict[str, Any]:
    async with session.post(f"/v1/batches{query}", data=body, headers=CSV | headers) as reply:
        told: dict[str, Any] = await reply.json()
        assert reply.status == status, told
        if status == 201:
            assert reply.headers["Location"] == f"/v1/batches/{told['id']}"
        return told


async def get(session: aiohttp.ClientSession, path: str, status: int = 200) -> Any:
    async with session.get(path) as reply:
        assert reply.status == status, await reply.text()
        return await reply.json()


async def post(session: aiohttp.ClientSession, path: str, status: int = 200) -> Any:
    async with session.post(path) as reply:
        assert reply.status == status, await reply.text()
        return await reply.json()


async def ended(session: aiohttp.ClientSession, id_: str, state: str = "done") -> dict[str, Any]:
    """How it ended."""
    async with asyncio.timeout(60):
        while True:
            told: dict[str, Any] = await get(session, f"/v1/batches/{id_}")
            if told["state"] in {"done", "failed", "cancelled"}:
                assert told["state"] == state, told
                return told
            await asyncio.sleep(0.05)


def files(bench: Workbench) -> list[Path]:
    return [path for path in (bench.folder / "batches").rglob("*") if path.name != "lock"]


# -- from an upload to its result ----------------------------------------------------------------------------


async def test_an_upload_becomes_a_job_with_a_result(loaded: Workbench) -> None:
    async with site(loaded) as (_, session):
        job = await upload(session, query="?name=order+7")
        assert (job["name"], job["bytes"], job["percent"], job["result"]) == ("order 7", len(LIST), 0.0, None)
        told = await ended(session, job["id"])
        assert (told["percent"], told["rows"], told["reason"]) == (100.0, 3, None)
        assert told["expires_at"] > told["ended_at"] >= told["created_at"]
        async with session.get(told["result"]) as reply:
            assert (reply.status, reply.content_type) == (200, "text/csv")
            lines = (await reply.text()).splitlines()
        summary = await get(session, f"/v1/batches/{job['id']}/summary")
        assert summary == told["summary"]
        assert [each["id"] for each in (await get(session, "/v1/batches"))["batches"]] == [job["id"]]
    assert len(lines) == 4
    assert lines[1].startswith("A1,0912345678,ported,1402,D0402,Beta Mobile")
    assert lines[3].startswith("A3,hello,")
    assert "bad number" in lines[3]
    assert summary["rows"] == 3


@pytest.mark.parametrize(
    ("kind", "pack"), [("application/gzip", gzip.compress), ("application/zstd", zstandard.compress)]
)
async def test_a_packed_list_is_read(loaded: Workbench, kind: str, pack: Any) -> None:
    async with site(loaded) as (_, session):
        job = await upload(session, pack(LIST), **{"Content-Type": kind})
        assert (await ended(session, job["id"]))["rows"] == 3


async def test_a_packed_list_that_breaks_off_fails(loaded: Workbench) -> None:
    async with site(loaded) as (_, session):
        job = await upload(session, gzip.compress(LIST * 1000)[:-20], **{"Content-Type": "application/gzip"})
        told = await ended(session, job["id"], "failed")
    assert "cannot be unpacked" in told["reason"]
    assert str(loaded.folder) not in told["reason"]


async def test_a_result_is_fetched_in_parts_and_not_twice(loaded: Workbench) -> None:
    async with site(loaded) as (_, session):
        result = (await ended(session, (await upload(session))["id"]))["result"]
        async with session.get(result) as reply:
            whole, tag = await reply.read(), reply.headers["ETag"]
        async with session.get(result, headers={"Range": "bytes=5-"}) as reply:
            assert (reply.status, await reply.read()) == (206, whole[5:])
        async with session.get(result, headers={"Range": "bytes=99999-"}) as reply:
            assert reply.status == 416
        async with session.get(result, headers={"If-None-Match": tag}) as reply:
            assert reply.status == 304
        async with session.head(result) as reply:
            assert int(reply.headers["Content-Length"]) == len(whole)


async def test_a_split_result_has_a_file_for_each_network(loaded: Workbench) -> None:
    async with site(loaded) as (_, session):
        told = await ended(session, (await upload(session, query="?split=true"))["id"])
        here = told["result"]
        assert told["results"] == [f"{here}/{name}.csv" for name in ("1401", "1402", "none")]
        async with session.get(told["results"][1]) as reply:
            text = await reply.text()
            assert (reply.status, "A1" in text, "A2" in text) == (200, True, False)
        await get(session, f"{here}/1403.csv", 404)


async def test_rows_of_a_list_are_its_clients_usage_when_it_is_done(loaded: Workbench) -> None:
    async with site(loaded) as (served, session):
        before = list(served.daemon.access.clients[0].usage["http"])
        job = await upload(session)
        await ended(session, job["id"])
        grown = [now - then for now, then in zip(served.daemon.access.clients[0].usage["http"], before, strict=True)]
    assert {USAGE_RESULTS[at]: count for at, count in enumerate(grown) if count} == {"ported": 2, "dropped": 1}


async def test_columns_are_chosen_by_name_or_number(loaded: Workbench) -> None:
    body = b"0912345678;0912345679\n0223450000;110\n"
    async with site(loaded) as (_, session):
        job = await upload(session, body, query="?column=2&separator=semicolon")
        await ended(session, job["id"])
        async with session.get(f"/v1/batches/{job['id']}/result") as reply:
            lines = (await reply.text()).splitlines()
        assert "886912345679" in lines[-2]
        job = await upload(session, LIST, query="?column=nowhere")
        told = await ended(session, job["id"], "failed")
        assert "nowhere" in told["reason"]


async def test_files_are_ours_alone_and_the_list_goes_with_its_end(loaded: Workbench) -> None:
    async with site(loaded) as (_, session):
        job = await upload(session)
        await ended(session, job["id"])
        wait_until(lambda: not (loaded.folder / "batches" / job["id"] / "input").exists())
        modes = {(path.is_dir(), stat.S_IMODE(path.stat().st_mode)) for path in files(loaded)}
        assert modes == {(True, 0o700), (False, 0o600)}
        assert stat.S_IMODE((loaded.folder / "batches").stat().st_mode) == 0o700


async def test_a_job_is_scheduled(loaded: Workbench) -> None:
    async with site(loaded) as (served, session):
        job = await upload(session, query="?at=2020-01-01T00:00:00Z")
        await ended(session, job["id"])  # a time that is past is at once
        runner = served.daemon.jobs
        assert runner is not None
        now = runner.clock.now()
        later = await upload(session, query="?at=" + _moment(now + DAY))
        await runner.look()
        assert (await get(session, f"/v1/batches/{later['id']}"))["state"] == "scheduled"
        runner.clock._wall = lambda: now + DAY + 1
        await ended(session, later["id"])
        far = await upload(session, status=422, query="?at=" + _moment(now + 40 * DAY))
        assert "31 days" in far["error"]


def _moment(at: float) -> str:
    return str(format_time(int(at)))


# -- whose it is ---------------------------------------------------------------------------------------------

TWO = (
    '[[client]]\nname = "one"\nsources = ["127.0.0.1"]\nmay = ["batch"]\n'
    '[[client]]\nname = "two"\nsources = ["127.0.0.2"]\nmay = ["batch"]\n'
    '[[client]]\nname = "three"\nsources = ["127.0.0.3"]\nmay = ["query", "status", "history"]\n'
)


async def test_a_client_sees_its_own_jobs_only(loaded: Workbench) -> None:
    async with site(loaded, clients=TWO) as (served, session):
        job = await upload(session, query="?split=true")
        await ended(session, job["id"])
        base = f"http://127.0.0.1:{served.port('http', 'http')}"
        async with aiohttp.ClientSession(base, connector=_from("127.0.0.2")) as other:
            assert (await get(other, "/v1/batches"))["batches"] == []
            here = f"/v1/batches/{job['id']}"
            for path in (here, f"{here}/result", f"{here}/result/1402.csv", f"{here}/summary"):
                assert (await get(other, path, 404))["error"] == "no such batch"
            for path in (f"{here}/cancel", f"{here}/delete"):
                assert (await post(other, path, 404))["error"] == "no such batch"
            same = {"Idempotency-Key": "k"}
            mine, theirs = await upload(session, **same), await upload(other, **same)
            assert mine["id"] != theirs["id"]
        async with aiohttp.ClientSession(base, connector=_from("127.0.0.3")) as third:
            assert '"batch"' in (await get(third, "/v1/batches", 403))["error"]
            await upload(third, status=403)


def _from(address: str) -> aiohttp.TCPConnector:
    return aiohttp.TCPConnector(local_addr=(address, 0))


async def test_without_a_folder_batches_are_not_served(loaded: Workbench) -> None:
    async with (
        serve(loaded.config("", 'http = "http://127.0.0.1:0"')) as served,
        aiohttp.ClientSession(f"http://127.0.0.1:{served.port('http', 'http')}") as session,
    ):
        told = await upload(session, status=404)
        assert "batches are not served" in told["error"]
        assert "[batches] path" in told["way_out"]


async def test_jobs_of_one_client_are_bounded(loaded: Workbench) -> None:
    async with site(loaded, "jobs_max = 1", TWO) as (served, session):
        job = await upload(session)
        told = await upload(session, status=429)
        assert "jobs_max" in told["error"]
        base = f"http://127.0.0.1:{served.port('http', 'http')}"
        async with aiohttp.ClientSession(base, connector=_from("127.0.0.2")) as other:
            await upload(other)
        await post(session, f"/v1/batches/{job['id']}/delete")
        await upload(session)


# -- asked again ---------------------------------------------------------------------------------------------


async def test_the_same_key_gives_the_same_job(loaded: Workbench) -> None:
    async with site(loaded) as (_, session):
        job = await upload(session, **{"Idempotency-Key": "order-7"})
        again = await upload(session, status=200, **{"Idempotency-Key": "order-7"})
        assert again["id"] == job["id"]
        other = await upload(session, LIST + b"A4,110\n", 422, **{"Idempotency-Key": "order-7"})
        assert "another list" in other["error"]
        await upload(session, status=422, query="?split=true", **{"Idempotency-Key": "order-7"})
        await upload(session, status=400, **{"Idempotency-Key": "no blanks"})
        assert len((await get(session, "/v1/batches"))["batches"]) == 1
    assert len([path for path in (loaded.folder / "batches").iterdir() if path.is_dir()]) == 1


# -- what is refused -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "word"),
    [
        ("?column=", "column"),
        ("?column=" + "x" * 101, "column"),
        ("?separator=x", "separator"),
        ("?encoding=rot13", "encoding"),
        ("?split=perhaps", "split"),
        ("?at=tomorrow", "at"),
        ("?name=" + "x" * 101, "name"),
        ("?colum=tn", "colum"),
        ("?split=true&split=false", "split"),
    ],
)
async def test_a_parameter_that_cannot_be_meant_is_named(loaded: Workbench, query: str, word: str) -> None:
    async with site(loaded) as (_, session):
        assert (await upload(session, status=400, query=query))["error"].startswith(f"{word}:")
    assert not [path for path in files(loaded) if path.is_dir()]


async def test_a_body_of_another_kind_is_refused(loaded: Workbench) -> None:
    async with site(loaded) as (_, session):
        assert "text/csv" in (await upload(session, status=415, **{"Content-Type": "application/json"}))["way_out"]
        assert "gzip" in (await upload(session, gzip.compress(LIST), 400))["error"]
        assert "csv" in (await upload(session, LIST, 400, **{"Content-Type": "application/gzip"}))["error"]
        assert "empty" in (await upload(session, b"", 400))["error"]
        assert "Content-Encoding" in (await upload(session, LIST, 415, **{"Content-Encoding": "gzip"}))["error"]
    assert not [path for path in files(loaded) if path.is_dir()]


async def test_too_large_an_upload_leaves_nothing(loaded: Workbench) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"0912345678\n" * 1000

    async with site(loaded, 'bytes_max = "1MiB"') as (_, session):
        assert "bytes_max" in (await upload(session, io.BytesIO(bytes(2 << 20)), 413))["error"]
        with contextlib.suppress(aiohttp.ClientError):
            assert "bytes_max" in (await upload(session, endless(), 413))["error"]
        assert (await get(session, "/v1/batches"))["batches"] == []
        wait_until(lambda: not [path for path in files(loaded) if path.is_dir()])


@pytest.mark.parametrize(
    "path",
    [
        "/v1/batches/..%2f..%2fetc",
        "/v1/batches/lock",
        "/v1/batches/" + "0" * 32,
        "/v1/batches/" + "A" * 32,
        "/v1/batches/" + "0" * 31 + "%00",
        "/v1/batches/.upload-" + "0" * 32,
        "/v1/batches/{id}/result/..%2f..%2fjob.csv",
        "/v1/batches/{id}/result/....csv",
        "/v1/batches/{id}/result/job.json",
        "/v1/batches/{id}/result/input",
        "/v1/batches/{id}/result/" + "9" * 200 + ".csv",
    ],
)
async def test_names_lead_nowhere_else(loaded: Workbench, path: str) -> None:
    async with site(loaded) as (_, session):
        job = await upload(session, query="?split=true")
        await ended(session, job["id"])
        async with session.get(URL(path.replace("{id}", job["id"]), encoded=True)) as reply:
            assert reply.status in {400, 404}
            assert "error" in await reply.json()


async def test_uploads_at_once_are_bounded_and_one_key_has_one(loaded: Workbench) -> None:
    gate = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield LIST
        await gate.wait()

    async with site(loaded) as (served, session):
        runner = served.daemon.jobs
        assert runner is not None
        first = asyncio.create_task(upload(session, slow(), **{"Idempotency-Key": "k"}))
        await _until(lambda: len(runner.receiving) == 1)
        assert "under way" in (await upload(session, status=409, **{"Idempotency-Key": "k"}))["error"]
        rest = [asyncio.create_task(upload(session, slow())) for _ in range(JOBS_UPLOADS_MAX - 1)]
        await _until(lambda: len(runner.receiving) == JOBS_UPLOADS_MAX)
        assert "under way" in (await upload(session, status=429))["error"]
        gate.set()
        ids = {job["id"] for job in await asyncio.gather(first, *rest)}
        assert len(ids) == JOBS_UPLOADS_MAX
        for id_ in ids:
            await ended(session, id_)


async def _until(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


async def test_an_upload_that_breaks_off_leaves_nothing(loaded: Workbench) -> None:
    async with site(loaded) as (served, session):
        runner = served.daemon.jobs
        assert runner is not None
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port("http", "http"))
        writer.write(
            b"POST /v1/batches HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/csv\r\nContent-Length: 99\r\n\r\n0912"
        )
        await writer.drain()
        await _until(lambda: len(runner.receiving) == 1)
        writer.transport.abort()
        await _until(lambda: not runner.receiving)
        del reader
        assert (await get(session, "/v1/batches"))["batches"] == []
        await _until(lambda: not [path for path in files(loaded) if path.is_dir()])


async def test_an_upload_that_stops_coming_is_ended(loaded: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lookupd.web.batches.HTTP_STALL_SECONDS", 0.2)

    async def stopping() -> AsyncIterator[bytes]:
        yield LIST
        await asyncio.Event().wait()

    async with site(loaded) as (_, session):
        async with session.post("/v1/batches", data=stopping(), headers=CSV) as reply:
            assert (reply.status, (await reply.json())["error"]) == (408, "nothing came for 0.2 s")
        await _until(lambda: not [path for path in files(loaded) if path.is_dir()])


# -- ends ----------------------------------------------------------------------------------------------------


async def test_a_scheduled_job_is_cancelled_and_deleted(loaded: Workbench, capfd: pytest.CaptureFixture[str]) -> None:
    async with site(loaded) as (served, session):
        runner = served.daemon.jobs
        assert runner is not None
        here = f"/v1/batches/{(await upload(session, query='?at=' + _moment(runner.clock.now() + DAY)))['id']}"
        assert "scheduled" in (await get(session, f"{here}/result", 409))["error"]
        assert (await post(session, f"{here}/cancel"))["state"] == "cancelled"
        assert "cancelled" in (await post(session, f"{here}/cancel", 409))["error"]
        assert "no result" in (await get(session, f"{here}/result", 409))["error"]
        assert (await post(session, f"{here}/delete"))["deleted"]
        await post(session, f"{here}/delete", 404)
        assert runner.ended["cancelled"] == 1
    told = capfd.readouterr().err
    for event in ("batch_accepted client=local", "batch_cancelled client=local", "batch_deleted client=local"):
        assert event in told
    assert not [path for path in files(loaded) if path.is_dir()]


async def test_results_are_deleted_when_they_are_old(loaded: Workbench, capfd: pytest.CaptureFixture[str]) -> None:
    async with site(loaded, 'keep = "1h"') as (served, session):
        runner = served.daemon.jobs
        assert runner is not None
        job = await upload(session)
        await ended(session, job["id"])
        clock, now = runner.clock, runner.clock.now()
        clock.settled = lambda: now + 3500  # type: ignore[method-assign]
        await runner.look()
        await get(session, f"/v1/batches/{job['id']}")
        clock.settled = lambda: now + 3700  # type: ignore[method-assign]
        await runner.look()
        await get(session, f"/v1/batches/{job['id']}", 404)
    assert "why=expired" in capfd.readouterr().err


async def test_a_faulty_list_is_told_to_its_client_and_not_to_the_log(
    loaded: Workbench, capfd: pytest.CaptureFixture[str]
) -> None:
    async with site(loaded) as (served, session):
        job = await upload(session, b"\xff\xfe0912345678 is no list\n" * 3, query="?encoding=utf-8")
        told = await ended(session, job["id"], "failed")
        assert told["reason"]
        runner = served.daemon.jobs
        assert runner is not None
        assert runner.ended["input"] == 1
    log = capfd.readouterr().err
    assert "batch_failed" in log
    assert "0912345678" not in log


async def test_metrics_tell_of_jobs(loaded: Workbench) -> None:
    async with site(loaded) as (served, session):
        await ended(session, (await upload(session))["id"])
        runner = served.daemon.jobs
        assert runner is not None
        await runner.look()
        text = served.daemon.metrics.text().decode()
    assert 'lookupd_batch_jobs{state="done"} 1.0' in text
    assert 'lookupd_batch_jobs_ended_total{result="done"} 1.0' in text
    assert "lookupd_batch_rows_total 3.0" in text
    assert "lookupd_batch_usable 1.0" in text


async def test_without_data_jobs_wait(workbench: Workbench) -> None:
    async with site(workbench) as (served, session):
        job = await upload(session)
        runner = served.daemon.jobs
        assert runner is not None
        await runner.look()
        assert (await get(session, f"/v1/batches/{job['id']}"))["state"] == "waiting"
        workbench.load_tables()
        workbench.snapshot()
        await ended(session, job["id"])


# -- parts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ('path = "here"', "batches.path"),
        ('keep = "1s"', "batches.keep"),
        ("jobs_max = 0", "batches.jobs_max"),
        ("running = 99", "batches.running"),
        ('bytes_max = "0B"', "batches.bytes_max"),
    ],
)
def test_settings_that_cannot_be_are_refused(tmp_path: Path, line: str, word: str) -> None:
    file = tmp_path / "lookupd.toml"
    file.write_text(f"[batches]\n{line}\n")
    with pytest.raises(ConfigError, match=word):
        read_config(file)


def test_a_folder_that_nobody_may_use_is_told(tmp_path: Path) -> None:
    file = tmp_path / "lookupd.toml"
    file.write_text(
        '[batches]\npath = "/var/lib/lookupd/a-batches"\n[[client]]\nname = "one"\nsources = ["127.0.0.1"]\n'
    )
    found = [line for line in warnings(read_config(file)) if line.startswith("batches.path")]
    assert len(found) == 2
    assert "nobody may" in found[0]
    assert "listen.http" in found[1]


def test_a_clock_that_jumps_deletes_nothing_until_it_has_lasted() -> None:
    wall, mono = [1000.0], [0.0]
    clock = JobsClock(300, wall=lambda: wall[0], monotonic=lambda: mono[0])

    def after(seconds: float, jump: float = 0) -> float:
        mono[0] += seconds
        wall[0] += seconds + jump
        return clock.settled()

    assert after(10) == 1010
    assert after(10, 100) == 1120  # small steps are followed
    assert after(10, 1e8) == 1130
    assert after(JOBS_CLOCK_SECONDS - 1) == pytest.approx(1130 + JOBS_CLOCK_SECONDS - 1)
    assert after(10, -1e8) == pytest.approx(1139 + JOBS_CLOCK_SECONDS)
    assert after(10, 1e8) < 1e6
    assert after(JOBS_CLOCK_SECONDS + 1) > 1e8


def test_an_order_is_read_as_it_was_written() -> None:
    order = Order("0" * 32, "local", 1, 2, "ab", wishes=Wishes(column=3))
    assert msgspec.json.decode(msgspec.json.encode(order), type=Order) == order
    assert json.loads(msgspec.json.encode(order))["wishes"]["column"] == 3
