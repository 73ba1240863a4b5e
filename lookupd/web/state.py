"""How the replica is, over HTTP: itself and its peer, the feeds with their clocks, the newest notices, the journal.

GET /v1/status      the pair side by side
GET /v1/feeds       positions, clocks, and what the exchange has not applied yet
GET /v1/notices     the newest changes, numbers masked unless the client may see history
GET /v1/journal     entries, newest first: ?number= ?ref= ?since= ?before= ?limit=
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

from aiohttp import web

from lookupd import __version__
from lookupd.errors import StoreError
from lookupd.journal_view import Found, entry_fields, newest_entries, number_entries, receipt_of, states_around
from lookupd.limits import HTTP_ENTRIES_MAX, HTTP_ENTRIES_PER_SLICE, HTTP_ENTRIES_SCANNED_MAX
from lookupd.model import TN, Receipt, UnixMillis, Vitals
from lookupd.numbering import mask_tn
from lookupd.store.history import first_since
from lookupd.store.portable import StoreState
from lookupd.store.reader import Reader
from lookupd.store.schema import format_digest
from lookupd.units import format_millis, format_time, parse_time
from lookupd.web import Route, Site, client_of, json_response
from lookupd.web.errors import Problem
from lookupd.web.exchange import Exchange

NOTICES = 50
RECEIPTS = 10
_SERIAL_MAX = (1 << 63) - 1
_NUMBER_FIELDS = ("tn", "tn_to")


class State:
    """The handlers."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._exchange = Exchange(lambda: site.config().sync.http)

    def routes(self) -> list[Route]:
        """For a listener."""
        return [
            Route("GET", "/v1/status", self._status, "status"),
            Route("GET", "/v1/feeds", self._feeds, "status"),
            Route("GET", "/v1/notices", self._notices, "status"),
            Route("GET", "/v1/journal", self._journal, "history"),
        ]

    # -- status ------------------------------------------------------------------------------------------

    async def _status(self, _: web.Request) -> web.Response:
        now = time.time()
        told = {"now": format_millis(UnixMillis(int(now * 1000))), "replica": self._own(now)}
        return json_response(told | self._peer(now))

    def _own(self, now: float) -> dict[str, Any]:
        site = self._site
        reason = site.readiness()
        reader, engine, metrics = site.engine.reader, site.engine, site.metrics
        state = None if reader is None else reader.state
        return {
            "name": site.config().replica.name,
            "version": __version__,
            "engine": site.engine_name,
            "ready": reason is None,
            "reason": reason,
            "withdrawn": engine.withdrawn,
            "serial": None if state is None else state.serial,
            "digest": None if state is None else format_digest(state.digest),
            "age_seconds": engine.age_seconds,
            "ported": None if state is None else state.ported,
            "blocks": None if state is None else state.blocks,
            "damaged_blocks": len(metrics.damaged_blocks()),
            "started_at": format_millis(UnixMillis(int(metrics.started_at * 1000))),
            "uptime_seconds": int(now - metrics.started_at),
            "vitals": site.vitals.tell(),
        }

    def _peer(self, now: float) -> dict[str, Any]:
        """peer: null without one; its fields are null as long as it was not heard of."""
        watch = self._site.watch
        if watch is None:
            return {"peer": None, "pair": None}
        view = watch.view
        pair = {
            "state": view.state,
            "verdict": view.verdict,
            "why": view.why or None,
            "lag_files": view.lag_files,
            "lag_seconds": view.lag_seconds,
            "summary": watch.summary(),
        }
        return {"peer": _as_replica(watch.peer, watch.up, now), "pair": pair}

    # -- feeds -------------------------------------------------------------------------------------------

    async def _feeds(self, _: web.Request) -> web.Response:
        exchange, why = await self._exchange.ask()
        reader, now = self._reader(), time.time()
        limits = self._site.config().limits
        try:
            newest = reader.newest_receipts(RECEIPTS)
        except StoreError as error:
            raise Problem(503, str(error), retry=1) from None
        feeds = [
            {
                "feed": feed,
                "sequence": position.sequence,
                "type": position.type,
                "created_at": format_time(position.created_at),
                "confirmed_at": format_time(position.confirmed_at),
                "age_seconds": max(int(now) - position.confirmed_at, 0),
                "receipts": [_receipt(serial, each) for serial, each in reversed(newest) if each.feed == feed],
                "exchange": (exchange or {}).get("feeds", {}).get(feed),
            }
            for feed, position in sorted(reader.state.feeds.items())
        ]
        told = {
            "limits": {"port": float(limits.port), "return": float(limits.return_)},
            "feeds": feeds,
            "pending": None if exchange is None else exchange.get("pending"),
            "next_moment": None if exchange is None else exchange.get("next_moment"),
            "exchange_reason": why,
        }
        return json_response(told)

    # -- entries -----------------------------------------------------------------------------------------

    async def _notices(self, request: web.Request) -> web.Response:
        reader = self._reader()
        whole = "history" in client_of(request).may
        try:
            found = [_in_words(reader, entry, None) for entry in islice(newest_entries(reader), NOTICES)]
        except StoreError as error:
            raise Problem(503, str(error), retry=1) from None
        return json_response({"notices": [entry if whole else _masked(entry) for entry in found]})

    async def _journal(self, request: web.Request) -> web.Response:
        """next: `before` of the request that goes on; null at the end."""
        reader, query = self._reader(), request.query
        limit = _whole("limit", query.get("limit", "100"), HTTP_ENTRIES_MAX)
        before = _whole("before", query.get("before", str(reader.state.serial + 1)), _SERIAL_MAX)
        tn = None
        if "number" in query:
            tn = self._site.engine.plan.read_text(query["number"])
            if tn is None:
                raise Problem(400, "number: not a number of 5 to 15 digits")
        try:
            since = first_since(reader, parse_time(query["since"])) if "since" in query else 0
        except ValueError as error:
            raise Problem(400, f"since: {error}") from None
        except StoreError as error:
            raise Problem(503, str(error), retry=1) from None
        told, following = await self._page(reader, _Wanted(tn, query.get("ref"), since, before, limit))
        return json_response({"entries": told, "next": following})

    async def _page(self, reader: Reader, wanted: _Wanted) -> tuple[list[dict[str, Any]], int | None]:
        """Entries in words, and from where to go on. In slices, between which others have their turn."""
        told: list[dict[str, Any]] = []
        scanned, last = 0, wanted.before
        try:
            for entry in wanted.entries(reader):
                if entry[0] < wanted.since:
                    return told, None
                if len(told) == wanted.limit or scanned == HTTP_ENTRIES_SCANNED_MAX:
                    return told, last
                scanned, last = scanned + 1, entry[0]
                if wanted.ref is None or entry[2].ref == wanted.ref:
                    told.append(_in_words(reader, entry, wanted.tn))
                if scanned % HTTP_ENTRIES_PER_SLICE == 0 and not await self._is_still_kept(reader, last - 1):
                    return told, None
        except StoreError as error:
            raise Problem(503, str(error), retry=1) from None
        return told, None

    async def _is_still_kept(self, reader: Reader, serial: int) -> bool:
        """After others had their turn. Raises Problem if another store is read since."""
        await asyncio.sleep(0)
        if self._reader() is not reader:
            raise Problem(503, "the store was opened anew meanwhile", retry=1)
        anchor = reader.anchor()
        return anchor is None or serial > anchor.serial

    def _reader(self) -> Reader:
        """Pinned to the newest state until something else is awaited."""
        self._site.begin_batch()
        reader = self._site.engine.reader
        if reader is None:
            raise Problem(503, self._site.readiness() or "no store is open", retry=1)
        return reader


class _Wanted(NamedTuple):
    """Of the journal. since, before: serials."""

    tn: TN | None
    ref: str | None
    since: int
    before: int
    limit: int

    def entries(self, reader: Reader) -> Iterator[Found]:
        """Those below `before`, newest first. Each is read when it is its turn; of a number, all at once."""
        if self.tn is None:
            return newest_entries(reader, min(self.before - 1, reader.state.serial))
        return iter([entry for entry in number_entries(reader, self.tn) if entry[0] < self.before])


def _in_words(reader: Reader, found: Found, tn: TN | None) -> dict[str, Any]:
    serial, stored, entry = found
    fields = entry_fields(serial, stored, entry, receipt_of(reader, serial))
    return fields if tn is None else fields | states_around(reader, serial, tn)


def _as_replica(peer: StoreState | None, up: bool, now: float) -> dict[str, Any]:
    """The peer by its own words, in the same shape as we tell of ourselves."""
    if peer is None:
        return {"up": False, "name": None, "ready": None, "vitals": None}
    confirmed = min((position.confirmed_at for position in peer.feeds.values()), default=None)
    return {
        "up": up,
        "name": peer.replica,
        "version": None,
        "engine": None,
        "ready": peer.ready,
        "reason": None if peer.withdrawn is None else f"withdrawn: {peer.withdrawn}",
        "withdrawn": peer.withdrawn,
        "serial": peer.serial,
        "digest": peer.digest,
        "age_seconds": None if confirmed is None else max(int(now) - confirmed, 0),
        "ported": peer.ported,
        "blocks": peer.blocks,
        "damaged_blocks": peer.damaged,
        "started_at": format_millis(UnixMillis(int(peer.started_at * 1000))),
        "uptime_seconds": max(int(now - peer.started_at), 0),
        "vitals": peer.vitals or Vitals(),
    }


def _receipt(serial: int, receipt: Receipt) -> dict[str, Any]:
    """The clocks of a commit; visible_seconds: from its arrival."""
    visible = receipt.visible_at
    return {
        "serial": serial,
        "sequence": receipt.sequence,
        "type": receipt.type,
        "source": receipt.source,
        "received_at": format_millis(receipt.received_at),
        "confirmed_at": format_millis(receipt.confirmed_at),
        "visible_at": None if visible is None else format_millis(visible),
        "visible_seconds": None if visible is None else (visible - receipt.received_at) / 1000,
        "applied": receipt.applied,
        "pending": receipt.pending,
    }


def _masked(fields: dict[str, Any]) -> dict[str, Any]:
    """An entry without the numbers' last digits, nor what would tell them: its hashes, and the states of others;
    of a restriction only its kind: whose case it is, is nobody else's business."""
    hidden = {name: _mask(fields[name]) for name in _NUMBER_FIELDS}
    states = {
        "old": [state | {name: _mask(state[name]) for name in _NUMBER_FIELDS} for state in fields["old"]],
        "new": fields["new"] and fields["new"] | {name: _mask(fields["new"][name]) for name in _NUMBER_FIELDS},
        "restriction": fields["restriction"] and {"kind": fields["restriction"]["kind"]},
        "hash": None,
        "previous": None,
    }
    return fields | hidden | states


def _mask(number: str | None) -> str | None:
    return None if number is None else mask_tn(TN(int(number)))


def _whole(name: str, text: str, high: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 18 and 1 <= int(text) <= high):
        raise Problem(400, f"{name}: a whole number from 1 to {high}")
    return int(text)
