"""A number's past for risk checks, over HTTP: each one is audited before it is answered, since it is personal data.

GET /v1/numbers/{number}/history    ?purpose=WHY, and ?as_of=TIME, ?window=180d

What the past was is `risk`'s, how it is audited is `audit`'s.
"""

from __future__ import annotations

import time

import msgspec
from aiohttp import web

from lookupd.access import Client
from lookupd.audit import AuditFailed, AuditOutcome, AuditRecord
from lookupd.errors import StoreError
from lookupd.limits import (
    AUDIT_PURPOSE_CHARS_MAX,
    NUMBER_CHARS_MAX,
    RISK_WINDOW_SECONDS,
    RISK_WINDOW_SECONDS_MAX,
)
from lookupd.model import Outcome, UnixSeconds
from lookupd.numbering import strip_separators
from lookupd.observe.counters import OVER_RATE, RATE
from lookupd.risk import RiskView, Window, risk
from lookupd.store.history import oldest_kept, serial_at
from lookupd.units import format_millis, format_time, parse_duration, parse_time
from lookupd.web import Route, Site, client_of, json_response
from lookupd.web.errors import Problem

NOT_A_NUMBER = "not a number: write its digits, with + before a country code"
_OUTCOMES = {outcome.label: outcome for outcome in Outcome}


class RiskChecks:
    """The handlers."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._counters = site.metrics.counters("http", "tcp")

    def routes(self) -> list[Route]:
        """For a listener."""
        return [Route("GET", "/v1/numbers/{number}/history", self._get, "risk")]

    async def _get(self, request: web.Request) -> web.Response:
        text, client = request.match_info["number"], client_of(request)
        digits = strip_separators(text).removeprefix("+")
        if len(text) > NUMBER_CHARS_MAX or not (digits.isascii() and digits.isdigit()):
            raise Problem(400, NOT_A_NUMBER)
        purpose = _purpose(request)
        moment, seconds = _moment(request), _window(request)
        self._allow(client)
        outcome: AuditOutcome = "answered"
        told: RiskView | Problem
        try:
            told = self._look(text, moment, seconds)
        except Problem as problem:
            told, outcome = problem, "before_history" if problem.status == 404 else "unavailable"
        record = AuditRecord(
            at=str(format_millis(time.time_ns() // 1_000_000)),
            client=client.name,
            account=client.account,
            source=request.remote or "",
            number=text,
            as_of=format_time(moment),
            window_seconds=seconds,
            purpose=purpose,
            outcome=outcome,
        )
        try:
            await self._site.audit.note(record)
        except AuditFailed as error:
            raise Problem(503, str(error), retry=1) from None
        if isinstance(told, Problem):
            raise told
        self._count(client, _OUTCOMES[told.outcome])
        return json_response(msgspec.structs.asdict(told))

    def _look(self, text: str, moment: UnixSeconds | None, seconds: int) -> RiskView:
        """From the newest state. Raises Problem."""
        site = self._site
        site.begin_batch()
        engine = site.engine
        if engine.reader is None or not engine.usable:
            raise Problem(503, site.readiness() or engine.reason or "no store is open", retry=1)
        now = UnixSeconds(int(time.time()))
        try:
            oldest_kept(engine.reader)
            if moment is not None:
                serial_at(engine.reader, moment)
        except StoreError as error:  # its words name the oldest moment that can be asked
            raise Problem(404, str(error)) from None
        try:
            return risk(engine, text, Window(moment or now, seconds), is_past=moment is not None)
        except StoreError as error:
            raise Problem(503, str(error), retry=1) from None

    def _allow(self, client: Client) -> None:
        """By its rate, as any question about a number. Raises Problem."""
        if not client.is_limited or client.take(1, time.monotonic_ns()):
            return
        self._counters.received += 1
        self._counters.refused[RATE] += 1
        self._site.metrics.http.refused["rate"] += 1
        client.usage["http"][OVER_RATE] += 1
        raise Problem(429, "over this client's queries_per_second", retry=1)

    def _count(self, client: Client, outcome: Outcome) -> None:
        self._counters.received += 1
        self._counters.answered[outcome] += 1
        client.usage["http"][outcome] += 1


def _purpose(request: web.Request) -> str:
    purpose = request.query.get("purpose", "").strip()
    if not 1 <= len(purpose) <= AUDIT_PURPOSE_CHARS_MAX or not purpose.isprintable():
        raise Problem(
            400,
            f"purpose: 1 to {AUDIT_PURPOSE_CHARS_MAX} printable characters that say why it is asked",
            "?purpose=..., such as a case number: it is kept in the audit",
        )
    return purpose


def _moment(request: web.Request) -> UnixSeconds | None:
    text = request.query.get("as_of")
    try:
        moment = None if text is None else parse_time(text)
    except ValueError as error:
        raise Problem(400, f"as_of: {error}") from None
    if moment is not None and moment > time.time():
        raise Problem(400, "as_of: is in the future")
    return moment


def _window(request: web.Request) -> int:
    text = request.query.get("window")
    try:
        seconds = RISK_WINDOW_SECONDS if text is None else int(parse_duration(text))
    except ValueError as error:
        raise Problem(400, f"window: {error}") from None
    if not 1 <= seconds <= RISK_WINDOW_SECONDS_MAX:
        raise Problem(400, f"window: from 1s to {RISK_WINDOW_SECONDS_MAX // 86_400}d")
    return seconds
