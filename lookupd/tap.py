"""What the query log has of each number asked, and the records that wait to be written. Told things, never asks.

Files are left to `query_log`. The native engine notes its own records (`native/src/tap.rs`), with the same fields: see
`fastpath.native.NativeTap`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable

import msgspec

from lookupd.access import OWN_NAME, Access, Client
from lookupd.limits import QUERY_LOG_QUEUE_MAX
from lookupd.model import TN, Answer, Route
from lookupd.numbering import format_tn, mask_tn
from lookupd.query_record import OUTCOMES, Record
from lookupd.settings import QueryLogSettings
from lookupd.units import format_millis

Noted = tuple[int, str, str, str, int | None, str, str | None, Route | None, int, str]
"""Milliseconds since 1970, then as in Record: it is made one when it is written, not while somebody waits."""


class Tap:
    """Off until `use`. Noted in the event loop, drained in another thread."""

    def __init__(self) -> None:
        self.sample = 0
        """One of so many queries is noted; 0 = off."""
        self._outcomes = frozenset(OUTCOMES)
        self._full = False
        self._until_next = 0
        self._waiting: deque[Noted] = deque()
        self._lost = 0

    def use(self, settings: QueryLogSettings) -> None:
        """Note from now on what these say; without a path, nothing."""
        self._outcomes = frozenset(settings.outcomes or OUTCOMES)
        self._full = settings.numbers == "full"
        self.sample = settings.sample if settings.path else 0

    def use_clients(self, access: Access, names: Iterable[str]) -> None:
        """Of a clients list, note only these; none = all but the daemon itself."""
        access.set_tapped([_is_tapped(client.name, frozenset(names)) for client in access.clients])

    def is_next(self, client: Client) -> bool:
        """Whether this query is one of the sample. Only while `sample` is not 0."""
        if not client.is_tapped:
            return False
        if self._until_next <= 0:
            self._until_next = self.sample - 1
            return True
        self._until_next = min(self._until_next - 1, self.sample - 1)
        return False

    def note(
        self,
        client: Client,
        dialect: str,
        transport: str,
        host: str,
        number: str | int | None,
        outcome: str,
        serial: int,
        *,
        route: Route | None = None,
        reason: str | None = None,
    ) -> None:
        """A query of the sample. host: as sockets tell it. number: E.164 digits. outcome: of OUTCOMES."""
        if outcome not in self._outcomes:
            return
        if len(self._waiting) >= QUERY_LOG_QUEUE_MAX:
            self._lost += 1
            return
        tn = None if number is None else int(number)
        at_ms = time.time_ns() // 1_000_000
        self._waiting.append((at_ms, client.name, dialect, transport, tn, outcome, reason, route, serial, host))

    def record(self, client: Client, dialect: str, host: str, answer: Answer) -> None:
        """One number answered, or refused, over TCP: for whoever answers without a responder, as HTTP does."""
        if self.sample and self.is_next(client):
            self.note(client, dialect, "tcp", host, answer.tn, answer.outcome.label, answer.serial, route=answer.route)

    def drain(self) -> tuple[bytes, int]:
        """The lines of what was noted since the last time, and how many. Of one thread."""
        waiting, full = self._waiting, self._full
        lines = [_line(waiting.popleft(), full) for _ in range(len(waiting))]
        return b"".join(lines), len(lines)

    def lost(self) -> int:
        """Records that found no room, since the start."""
        return self._lost


def _is_tapped(name: str, names: frozenset[str]) -> bool:
    return name in names if names else name != OWN_NAME


def _line(noted: Noted, full: bool) -> bytes:
    at_ms, client, dialect, transport, tn, outcome, reason, route, serial, host = noted
    number = None if tn is None else (format_tn if full else mask_tn)(TN(tn))
    code, routing_number = (None, None) if route is None else (route.network_code, route.routing_number)
    at = format_millis(at_ms)
    assert at is not None
    record = Record(
        at, client, dialect, transport, number, outcome, reason, code, routing_number, serial, host.partition("%")[0],
        None,
    )  # fmt: skip
    return msgspec.json.encode(record) + b"\n"
