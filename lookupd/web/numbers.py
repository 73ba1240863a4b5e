"""Numbers over HTTP: one by its path, many by lines or an array. What an answer is, is the engine's.

GET  /v1/numbers/{number}               the answer; its past with ?as_of=TIME
GET  /v1/numbers/{number}/explanation   each step to it
POST /v1/numbers                        NDJSON or text: a line comes back for each line, while they arrive;
                                        a JSON array: an array
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import xxhash
from aiohttp import web

from lookupd.access import Client
from lookupd.errors import StoreError
from lookupd.explain import explain, explain_as_of, view
from lookupd.explain_dialects import dialect_answers
from lookupd.limits import (
    HTTP_ARRAY_BYTES_MAX,
    HTTP_ARRAY_NUMBERS_MAX,
    HTTP_LINE_BYTES_MAX,
    HTTP_LINES_PER_SLICE,
    HTTP_STALL_SECONDS,
    NUMBER_CHARS_MAX,
)
from lookupd.model import Answer, Outcome, UnixSeconds
from lookupd.numbering import strip_separators
from lookupd.observe.counters import DROP, DROPPED, OVER_RATE, RATE
from lookupd.store.history import oldest_kept, serial_at
from lookupd.store.schema import format_digest
from lookupd.units import parse_time
from lookupd.web import Route, Site, client_of, json_response
from lookupd.web.errors import Problem, need

NDJSON = "application/x-ndjson"
NOT_A_NUMBER = "not a number: write its digits, with + before a country code"
_STATUS = {Outcome.UNAVAILABLE: 503, Outcome.REFUSED: 429}
_FROM_DATA = frozenset({Outcome.PORTED, Outcome.NOT_PORTED, Outcome.NOT_ALLOCATED, Outcome.NOT_PORTABLE})
_DIALECTS = ("pdb", "enum", "sip")


class Numbers:
    """The handlers."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._counters = site.metrics.counters("http", "tcp")

    def routes(self) -> list[Route]:
        """For a listener."""
        return [
            Route("GET", "/v1/numbers/{number}", self._get, "query"),
            Route("GET", "/v1/numbers/{number}/explanation", self._explain, "history"),
            Route("POST", "/v1/numbers", self._post, "query"),
        ]

    # -- one number --------------------------------------------------------------------------------------

    async def _get(self, request: web.Request) -> web.StreamResponse:
        text = request.match_info["number"]
        moment = _moment(request)
        if moment is not None:
            need(request, "history")
            return json_response(self._past(text, moment)["answer"])
        self._site.begin_batch()
        answer = self._answer(text, client_of(request), time.monotonic_ns())
        told = msgspec.structs.asdict(view(answer))
        if not _is_number(text):
            return json_response(told | {"error": NOT_A_NUMBER}, status=400)
        status = _STATUS.get(answer.outcome, 200)
        if answer.outcome not in _FROM_DATA:
            return json_response(told, status=status, headers={"Retry-After": "1"})
        tag = self._tag()
        headers = {"ETag": f'W/"{tag}"', "Cache-Control": "no-cache"}
        if any(known.value in {tag, "*"} for known in request.if_none_match or ()):
            return web.Response(status=304, headers=headers)
        return json_response(told, headers=headers)

    def _tag(self) -> str:
        """Of the data and the plan that answers come from."""
        engine = self._site.engine
        assert engine.reader is not None
        plan = xxhash.xxh32_hexdigest(msgspec.msgpack.encode((engine.plan.country_code, engine.plan.heads())))
        return f"{engine.serial}-{format_digest(engine.reader.state.digest)}-{plan}"

    async def _explain(self, request: web.Request) -> web.StreamResponse:
        text = request.match_info["number"]
        moment = _moment(request)
        if moment is not None:
            return json_response(self._past(text, moment))
        if not _is_number(text):
            raise Problem(400, NOT_A_NUMBER)
        site = self._site
        site.begin_batch()
        if site.engine.reader is None:
            raise Problem(503, site.readiness() or "no store is open", retry=1)
        try:
            steps = explain(site.engine, text)
            config = site.config()
            served = {dialect for dialect, _ in config.endpoints()}
            asked = steps["number"] or strip_separators(text)
            shown = tuple(dialect for dialect in _DIALECTS if dialect in served)
            steps["dialects"] = dialect_answers(site.engine, config, asked, config.clients, shown)
        except StoreError as error:
            raise Problem(503, str(error), retry=1) from None
        return json_response(steps)

    def _past(self, text: str, moment: UnixSeconds) -> dict[str, Any]:
        site = self._site
        site.begin_batch()
        reader = site.engine.reader
        if reader is None:
            raise Problem(503, site.readiness() or "no store is open", retry=1)
        if not _is_number(text):
            raise Problem(400, NOT_A_NUMBER)
        try:
            oldest_kept(reader)
            serial_at(reader, moment)
        except StoreError as error:  # its words name the oldest moment that can be asked
            raise Problem(404, str(error)) from None
        try:
            return explain_as_of(site.engine.plan, reader, text, moment)
        except StoreError as error:
            raise Problem(503, str(error), retry=1) from None

    # -- many numbers ------------------------------------------------------------------------------------

    async def _post(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Content-Encoding", "identity") != "identity":
            raise Problem(415, "a body that is encoded is not read", "send it as it is")
        match request.content_type:
            case "application/json":
                return await self._answer_array(request)
            case "application/x-ndjson" | "text/plain":
                return await self._answer_lines(request)
        raise Problem(415, f"not {request.content_type}", f"send {NDJSON}, text/plain or application/json")

    async def _answer_array(self, request: web.Request) -> web.Response:
        body = bytearray()
        async for piece in _pieces(request):
            body += piece
            if len(body) > HTTP_ARRAY_BYTES_MAX:
                raise Problem(413, f"more than {HTTP_ARRAY_BYTES_MAX} bytes", f"send {NDJSON}")
        try:
            asked = msgspec.json.decode(body, type=list[_Asked])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise Problem(400, f"body: {error}", 'an array of numbers: ["+886912345678"]') from None
        if len(asked) > HTTP_ARRAY_NUMBERS_MAX:
            raise Problem(413, f"more than {HTTP_ARRAY_NUMBERS_MAX} numbers", f"send {NDJSON}")
        found: list[object] = []
        for first in range(0, len(asked), HTTP_LINES_PER_SLICE):
            found += self._answer_slice([_text(each) for each in asked[first : first + HTTP_LINES_PER_SLICE]], request)
            await asyncio.sleep(0)
        return json_response(found)

    async def _answer_lines(self, request: web.Request) -> web.StreamResponse:
        """In slices, between which others have their turn. While the client takes no answers, none of its lines are
        read."""
        response = web.StreamResponse(headers={"Content-Type": NDJSON, "Cache-Control": "no-store"})
        await response.prepare(request)
        line = 0
        waiting: list[str | None] = []
        async for text in _lines(request):
            line += 1
            waiting.append(text)
            if len(waiting) == HTTP_LINES_PER_SLICE:
                await self._write(response, waiting, line, request)
                waiting.clear()
        if waiting:
            await self._write(response, waiting, line, request)
        await response.write_eof()
        return response

    async def _write(
        self, response: web.StreamResponse, texts: list[str | None], last_line: int, request: web.Request
    ) -> None:
        """Answers of the lines up to last_line."""
        found = self._answer_slice(texts, request)
        first = last_line - len(texts) + 1
        for at, (text, told) in enumerate(zip(texts, found, strict=True)):
            if text is None:
                told["line"] = first + at
        async with asyncio.timeout(HTTP_STALL_SECONDS):
            await response.write(b"\n".join([*map(msgspec.json.encode, found), b""]))
        await asyncio.sleep(0)

    def _answer_slice(self, texts: list[str | None], request: web.Request) -> list[dict[str, Any]]:
        """One object each, from one state. None: what is no question."""
        client, now_ns = client_of(request), time.monotonic_ns()
        self._site.begin_batch()
        found = []
        for text in texts:
            if text is None:
                self._counters.received += 1
                self._counters.dropped[DROP["malformed"]] += 1
                client.usage["http"][DROPPED] += 1
                found.append({"error": 'not a question: a number, "number", or {"number": "..."}'})
                continue
            told = msgspec.structs.asdict(view(self._answer(text, client, now_ns)))
            found.append(told if _is_number(text) else told | {"error": NOT_A_NUMBER})
        return found

    def _answer(self, text: str, client: Client, now_ns: int) -> Answer:
        """Resolved and counted; the batch has begun."""
        counters, usage = self._counters, client.usage["http"]
        counters.received += 1
        asked = strip_separators(text[:NUMBER_CHARS_MAX])
        if client.is_limited and not client.take(1, now_ns):
            counters.refused[RATE] += 1
            usage[OVER_RATE] += 1
            return self._site.engine.refuse(asked)
        answer = self._site.engine.resolve(asked)
        counters.answered[answer.outcome] += 1
        usage[answer.outcome] += 1
        return answer


# -- reading ---------------------------------------------------------------------------------------------


class _Named(msgspec.Struct):
    number: str | int


_Asked = str | int | _Named
_line_decoder = msgspec.json.Decoder(_Asked)


def _text(asked: _Asked) -> str:
    found = asked.number if isinstance(asked, _Named) else asked
    return found if isinstance(found, str) else str(found)


def _is_number(text: str) -> bool:
    """Whether a person could mean a number by it, of whichever length."""
    digits = strip_separators(text).removeprefix("+")
    return len(text) <= NUMBER_CHARS_MAX and digits.isascii() and digits.isdigit()


def _moment(request: web.Request) -> UnixSeconds | None:
    text = request.query.get("as_of")
    try:
        return None if text is None else parse_time(text)
    except ValueError as error:
        raise Problem(400, f"as_of: {error}") from None


async def _pieces(request: web.Request) -> AsyncIterator[bytes]:
    """The body as it comes. Raises Problem when it stops coming."""
    while True:
        try:
            async with asyncio.timeout(HTTP_STALL_SECONDS):
                piece = await request.content.readany()
        except TimeoutError:
            raise Problem(408, f"nothing came for {HTTP_STALL_SECONDS:g} s") from None
        if not piece:
            return
        yield piece


async def _lines(request: web.Request) -> AsyncIterator[str | None]:
    """The questions of a body, line by line; None for a line that is none. Empty lines are passed over."""
    as_text = request.content_type == "text/plain"
    waiting = b""
    is_long = False
    async for piece in _pieces(request):
        *whole, waiting = (waiting + piece).split(b"\n")
        for line in whole:
            if is_long or len(line) > HTTP_LINE_BYTES_MAX:
                is_long = False
                yield None
            elif line.strip():
                yield _read_line(line, as_text)
        if len(waiting) > HTTP_LINE_BYTES_MAX:  # its end is looked for, and no more of it is kept
            is_long, waiting = True, b""
    if is_long:
        yield None
    elif waiting.strip():
        yield _read_line(waiting, as_text)


def _read_line(line: bytes, as_text: bool) -> str | None:
    try:
        return line.decode().strip() if as_text else _text(_line_decoder.decode(line))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
