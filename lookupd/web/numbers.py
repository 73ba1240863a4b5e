"""Numbers over HTTP: one by its path, many by lines or an array. What an answer is, is the engine's.

GET  /v1/numbers/{number}               the answer; its past with ?as_of=TIME
GET  /v1/numbers/{number}/explanation   each step to it
POST /v1/numbers                        NDJSON or text: a line comes back for each line, while they arrive;
                                        a JSON array: an array
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import msgspec
import xxhash
from aiohttp import web

from lookupd.access import Client
from lookupd.errors import StoreError
from lookupd.explain import explain, explain_as_of, view
from lookupd.explain_dialects import dialect_answers
from lookupd.limits import HTTP_LINES_PER_SLICE, HTTP_STALL_SECONDS, NUMBER_CHARS_MAX
from lookupd.model import Answer, Outcome, UnixSeconds
from lookupd.numbering import strip_separators
from lookupd.observe.counters import DROP, DROPPED, OVER_RATE, RATE
from lookupd.store.history import oldest_kept, serial_at
from lookupd.store.schema import format_digest
from lookupd.units import parse_time
from lookupd.web import Route, Site, client_of, json_response
from lookupd.web.errors import Problem, need
from lookupd.web.questions import NDJSON, NO_QUESTION, Question, read_array, read_lines

NOT_A_NUMBER = "not a number: write its digits, with + before a country code"
_OUTCOMES = {outcome.label: outcome for outcome in Outcome}
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
            Route("POST", "/v1/numbers", self._post, "query", streams=True),
        ]

    # -- one number --------------------------------------------------------------------------------------

    async def _get(self, request: web.Request) -> web.StreamResponse:
        text = request.match_info["number"]
        moment = _moment(request)
        if moment is not None:
            need(request, "history")
            return json_response(self._past(text, moment, client_of(request))["answer"])
        self._site.begin_batch()
        answer = self._answer(text, request, time.monotonic_ns())
        told = msgspec.structs.asdict(view(answer))
        if answer.outcome is Outcome.REFUSED:
            return json_response(told, status=429, headers={"Retry-After": "1"})
        if not _is_number(text):
            return json_response(told | {"error": NOT_A_NUMBER}, status=400)
        if answer.outcome is Outcome.UNAVAILABLE:
            return json_response(told, status=503, headers={"Retry-After": "1"})
        tag = self._tag(answer)
        headers = {"ETag": f'W/"{tag}"', "Cache-Control": "no-cache"}
        if any(known.value in {tag, "*"} for known in request.if_none_match or ()):
            return web.Response(status=304, headers=headers)
        return json_response(told, headers=headers)

    def _tag(self, answer: Answer) -> str:
        """Of the data and plan that answers come from, and of the restriction, which begins and lapses by itself."""
        engine = self._site.engine
        assert engine.reader is not None
        plan = xxhash.xxh32_hexdigest(msgspec.msgpack.encode((engine.plan.country_code, engine.plan.heads())))
        held = answer.restriction
        restricted = "" if held is None else f"-{held.measure}-{held.until}"
        return f"{engine.serial}-{format_digest(engine.reader.state.digest)}-{plan}{restricted}"

    async def _explain(self, request: web.Request) -> web.StreamResponse:
        text = request.match_info["number"]
        moment = _moment(request)
        if moment is not None:
            return json_response(self._past(text, moment, client_of(request)))
        if not _is_number(text):
            raise Problem(400, NOT_A_NUMBER)
        self._allow(client_of(request))
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
        self._count(client_of(request), _outcome(steps))
        return json_response(steps)

    def _past(self, text: str, moment: UnixSeconds, client: Client) -> dict[str, Any]:
        if not _is_number(text):
            raise Problem(400, NOT_A_NUMBER)
        self._allow(client)
        site = self._site
        site.begin_batch()
        reader = site.engine.reader
        if reader is None:
            raise Problem(503, site.readiness() or "no store is open", retry=1)
        try:
            oldest_kept(reader)
            serial_at(reader, moment)
        except StoreError as error:  # its words name the oldest moment that can be asked
            raise Problem(404, str(error)) from None
        try:
            steps = explain_as_of(site.engine.plan, reader, text, moment)
        except StoreError as error:
            raise Problem(503, str(error), retry=1) from None
        self._count(client, _outcome(steps))
        return steps

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
        asked, found = await read_array(request), list[object]()
        for first in range(0, len(asked), HTTP_LINES_PER_SLICE):
            found += self._answer_slice(asked[first : first + HTTP_LINES_PER_SLICE], request)
            await asyncio.sleep(0)
        return json_response(found)

    async def _answer_lines(self, request: web.Request) -> web.StreamResponse:
        """In slices, between which others have their turn. While the client takes no answers, none of its lines are
        read; one that takes none for long is cut off."""
        response = web.StreamResponse(headers={"Content-Type": NDJSON, "Cache-Control": "no-store"})
        await response.prepare(request)
        try:
            await self._answer_each(request, response)
        except (TimeoutError, ConnectionError):
            if request.transport is not None:
                request.transport.abort()
        return response

    async def _answer_each(self, request: web.Request, response: web.StreamResponse) -> None:
        try:
            async for asked in read_lines(request):
                await _write(response, self._answer_slice(asked, request))
                await asyncio.sleep(0)
        except Problem as problem:  # the status has been sent: a last line says why there are no more
            if problem.status == 408:
                response.force_close()
            await _write(response, [problem.told()])

    def _answer_slice(self, asked: list[Question], request: web.Request) -> list[dict[str, Any]]:
        """One object each, from one state."""
        client, now_ns = client_of(request), time.monotonic_ns()
        self._site.begin_batch()
        found = []
        for line, text in asked:
            if text is None:
                self._counters.received += 1
                self._counters.dropped[DROP["malformed"]] += 1
                client.usage["http"][DROPPED] += 1
                found.append({"error": NO_QUESTION, "line": line})
                continue
            told = msgspec.structs.asdict(view(self._answer(text, request, now_ns)))
            found.append(told if _is_number(text) else told | {"error": NOT_A_NUMBER, "line": line})
        return found

    # -- counting ----------------------------------------------------------------------------------------

    def _answer(self, text: str, request: web.Request, now_ns: int) -> Answer:
        """Resolved, counted and noted; the batch has begun."""
        client, asked = client_of(request), strip_separators(text[:NUMBER_CHARS_MAX])
        if self._is_allowed(client, now_ns):
            answer = self._site.engine.resolve(asked)
            self._count(client, answer.outcome)
        else:
            answer = self._site.engine.refuse(asked)
        self._site.tap.record(client, "http", request.remote or "", answer)
        return answer

    def _is_allowed(self, client: Client, now_ns: int) -> bool:
        """By its rate; counted if not."""
        if not client.is_limited or client.take(1, now_ns):
            return True
        self._counters.received += 1
        self._counters.refused[RATE] += 1
        self._site.metrics.http.refused["rate"] += 1
        client.usage["http"][OVER_RATE] += 1
        return False

    def _allow(self, client: Client) -> None:
        """The same for steps and the past, which are questions about a number, too. Raises Problem."""
        if not self._is_allowed(client, time.monotonic_ns()):
            raise Problem(429, "over this client's queries_per_second", retry=1)

    def _count(self, client: Client, outcome: Outcome) -> None:
        self._counters.received += 1
        self._counters.answered[outcome] += 1
        client.usage["http"][outcome] += 1


def _is_number(text: str) -> bool:
    """Whether a person could mean a number by it, of whichever length."""
    digits = strip_separators(text).removeprefix("+")
    return len(text) <= NUMBER_CHARS_MAX and digits.isascii() and digits.isdigit()


def _outcome(steps: dict[str, Any]) -> Outcome:
    return _OUTCOMES[steps["answer"]["outcome"]]


def _moment(request: web.Request) -> UnixSeconds | None:
    text = request.query.get("as_of")
    try:
        return None if text is None else parse_time(text)
    except ValueError as error:
        raise Problem(400, f"as_of: {error}") from None


async def _write(response: web.StreamResponse, told: Sequence[object]) -> None:
    """A line each. Raises TimeoutError if the client takes none."""
    async with asyncio.timeout(HTTP_STALL_SECONDS):
        await response.write(b"\n".join([*map(msgspec.json.encode, told), b""]))
