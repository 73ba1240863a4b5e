"""What goes wrong with requests about numbers, and is told or borne: streams that end in the middle, rates, faults."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from lookupd.engine import Engine
from lookupd.model import Answer
from lookupd.web import numbers, questions
from tests.conftest import Served, Workbench
from tests.unit.test_http_numbers import LOCAL, ask_lines, site

LINES = {"Content-Type": "application/x-ndjson"}
HEAD = b"POST /v1/numbers HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/x-ndjson\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


def counted(served: Served) -> Any:
    return served.daemon.metrics.queries("http", "tcp")


@contextlib.asynccontextmanager
async def connected(served: Served) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to the listener, for bytes that no client of ours would send."""
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port("http", "http"))
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def until(condition: Any) -> None:
    """Let the daemon, which is in this process, go on until it holds."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


# -- streams ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("each_engine")
async def test_each_line_is_answered_before_the_next_one_is_written(loaded: Workbench) -> None:
    answered = asyncio.Semaphore(0)

    async def body() -> AsyncIterator[bytes]:
        for number in (b"0912345678", b"886911111111", b"110"):
            yield b'"' + number + b'"\n'
            await asyncio.wait_for(answered.acquire(), 20)

    found = []
    async with (
        site(loaded) as (_, session),
        session.post("/v1/numbers", data=body(), headers=LINES) as reply,
    ):
        for _ in range(3):
            found.append(json.loads(await asyncio.wait_for(reply.content.readline(), 20))["outcome"])
            answered.release()
        assert await reply.content.read() == b""
    assert found == ["ported", "not_ported", "not_portable"]


async def test_line_in_pieces_is_one_line(loaded: Workbench) -> None:
    async def body() -> AsyncIterator[bytes]:
        for byte in b'"0912345678"\r\n\n {"number":"110"} ':
            yield bytes([byte])
            await asyncio.sleep(0)

    async with site(loaded) as (_, session):
        found = await ask_lines(session, body())
    assert [told["outcome"] for told in found] == ["ported", "not_portable"]


@pytest.mark.parametrize("size", [255, 256, 257, 100_000])
async def test_line_over_the_bound_is_one_error_however_long(loaded: Workbench, size: int) -> None:
    line = b'"0912345678"'.ljust(size)
    async with site(loaded) as (_, session):
        found = await ask_lines(session, line + b"\n" + line + b'\n"110"\n' + line)
    expected = "ported" if size <= 256 else "line"
    assert [told.get("outcome", "line") for told in found] == [expected, expected, "not_portable", expected]
    assert [told["line"] for told in found if "error" in told] == ([] if size <= 256 else [1, 2, 4])


async def test_lines_over_the_bound_end_the_stream_with_a_reason(
    loaded: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(questions, "HTTP_LINES_MAX", 300)
    async with site(loaded) as (_, session):
        assert len(await ask_lines(session, b"110\n" * 300)) == 300
        found = await ask_lines(session, b"110\n" * 301)
        assert (found[-1]["error"], "line" in found[-1]) == ("more than 300 lines", False)
        assert await ask_lines(session, b"110") != []


@pytest.mark.parametrize("bound", ["HTTP_STALL_SECONDS", "HTTP_LINES_SECONDS"])
async def test_body_that_stops_coming_ends_the_stream_with_a_reason(
    loaded: Workbench, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    monkeypatch.setattr(questions, bound, 0.3)
    async with site(loaded) as (served, _), connected(served) as (reader, writer):
        writer.write(CHUNKED + b'5\r\n"110"\r\n1\r\n\n\r\n')
        received = await asyncio.wait_for(reader.read(), 20)
        assert b'"outcome":"not_portable"' in received
        last = received.rpartition(b'{"error"')[2]
        assert (b"nothing came" if bound == "HTTP_STALL_SECONDS" else b"the body took over") in last
        assert received.endswith(b"0\r\n\r\n")
        assert counted(served).balance() == 0


@pytest.mark.parametrize("kind", [b"x-ndjson", b"json"])
async def test_client_that_goes_away_is_no_fault(
    loaded: Workbench, capfd: pytest.CaptureFixture[str], kind: bytes
) -> None:
    async with site(loaded) as (served, session):
        async with connected(served) as (_, writer):
            writer.write(CHUNKED.replace(b"x-ndjson", kind) + b'6\r\n"110"\n\r\n')
            await writer.drain()
        async with session.get("/v1/numbers/110") as reply:
            assert reply.status == 200
        assert counted(served).balance() == 0
    assert "http_failed" not in capfd.readouterr().err


async def test_array_that_stops_coming_is_given_up(loaded: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions, "HTTP_STALL_SECONDS", 0.3)
    async with site(loaded) as (served, _), connected(served) as (reader, writer):
        writer.write(HEAD.replace(b"x-ndjson", b"json") + b'Content-Length: 100\r\n\r\n["110"')
        assert (await asyncio.wait_for(reader.readline(), 20)).startswith(b"HTTP/1.1 408 ")


async def test_client_that_takes_no_answers_is_not_read_and_then_cut_off(
    loaded: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numbers, "HTTP_STALL_SECONDS", 1.0)
    asked = 400_000
    async with site(loaded) as (served, _), connected(served) as (reader, writer):
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        body = b'"0912345678"\n' * asked
        writer.write(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        with contextlib.suppress(ConnectionError):  # it is cut off while it writes
            await asyncio.wait_for(writer.drain(), 30)
        assert 0 < counted(served).received < asked


@pytest.mark.parametrize("end", [b"", b'5\r\n"110"', b"zz\r\n", b"5\r\n110\r\n\r\nrest", b"-1\r\n"])
async def test_body_that_breaks_off_harms_nobody(
    loaded: Workbench, capfd: pytest.CaptureFixture[str], end: bytes
) -> None:
    """The bytes end, or are no chunks."""
    async with site(loaded) as (served, session):
        async with connected(served) as (reader, writer):
            writer.write(CHUNKED + b'6\r\n"110"\n\r\n')
            await until(lambda: counted(served).received)
            writer.write(end)
            writer.write_eof()
            with contextlib.suppress(ConnectionError):
                await asyncio.wait_for(reader.read(), 20)
        async with session.get("/v1/numbers/110") as reply:
            assert reply.status == 200
        assert counted(served).balance() == 0
    assert "http_failed" not in capfd.readouterr().err


# -- rates, and faults -----------------------------------------------------------------------------------


async def test_rate_holds_for_whatever_is_asked_of_a_number(loaded: Workbench) -> None:
    paths = ("0912345678", "hello", "110?as_of=2100-01-01T00:00:00Z", "110/explanation")
    async with site(loaded, LOCAL + "queries_per_second = 1\n") as (served, session):
        statuses = {}
        for path in paths:
            for _ in range(3):
                async with session.get(f"/v1/numbers/{path}") as reply:
                    statuses[path] = reply.status
                    if reply.status == 429:
                        assert reply.headers["Retry-After"] == "1"
                        break
        assert statuses == dict.fromkeys(paths, 429)
        assert counted(served).balance() == 0
        assert sum(counted(served).refused) == len(paths)


async def test_questions_about_the_past_are_counted(loaded: Workbench) -> None:
    async with site(loaded, LOCAL) as (served, session):
        for path in ("0912345678?as_of=2100-01-01T00:00:00Z", "0912345678/explanation", "110/explanation"):
            async with session.get(f"/v1/numbers/{path}") as reply:
                assert reply.status == 200
        assert (counted(served).received, counted(served).answered[0], counted(served).balance()) == (3, 2, 0)


async def test_fault_of_the_program_is_told_without_its_insides(
    loaded: Workbench, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(_: Engine, asked: str) -> Answer:
        raise RuntimeError(asked)

    async with site(loaded) as (_, session):
        monkeypatch.setattr(Engine, "resolve", broken)
        async with session.get("/v1/numbers/0912345678", headers={"Accept": "text/html"}) as reply:
            assert (reply.status, reply.content_type) == (500, "application/json")
            assert "fault of the program" in (await reply.json())["error"]
    log = capfd.readouterr().err
    assert "http_failed" in log
    assert "0912345678" not in log


async def test_exchange_that_answers_slowly_in_pieces_is_understood(loaded: Workbench) -> None:
    """Its answer comes in two pieces."""
    told = json.dumps({"feeds": {"main": {"blocked": None}}, "pending": 7, "next_moment": None}).encode()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(told) + told[:10])
        await writer.drain()
        await asyncio.sleep(0.02)
        writer.write(told[10:])
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        settings = f'[sync]\nhttp = "http://127.0.0.1:{port}"\n'
        async with site(loaded, settings) as (_, session), session.get("/v1/feeds") as reply:
            feeds = await reply.json()
    assert (feeds["pending"], feeds["exchange_reason"]) == (7, None)
