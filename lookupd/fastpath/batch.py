"""Message -> reply for each dialect: decode, resolve, encode, count. The definition of correct.

No sockets here: a transport hands in the bytes and the client, and sends what comes back. Every message
handed in is counted as received, and as answered, refused or dropped.
"""

from __future__ import annotations

from typing import Protocol

from lookupd.access import Client
from lookupd.engine import Engine
from lookupd.errors import ProtocolError
from lookupd.limits import PDB_LATE_NS
from lookupd.model import Outcome
from lookupd.observe.counters import DROP, NO_ROOM, RATE, UNAVAILABLE, UNSENT, QueryCounters
from lookupd.protocols import npq, pdb


class Responder(Protocol):
    """One dialect's side of a listener."""

    counters: QueryCounters
    late_ns: int
    """Answers that would leave later than this after the question arrived are not sent; 0 = any time."""

    def respond(self, message: bytes, client: Client, now: float) -> bytes | None:
        """The reply to one message, None for silence. now: seconds of a clock that only grows.

        The engine's batch has begun. Raises nothing: any bytes are answered or counted as dropped.
        """
        ...

    def take_back(self) -> None:
        """The last reply could not be sent: what was counted as answered was dropped."""
        ...


class PdbResponder:
    """The pdb dialect: OK with a carrier id, NOT_FOUND, NOT_NUMBER, or silence rather than a doubtful answer."""

    late_ns = PDB_LATE_NS

    def __init__(self, engine: Engine, counters: QueryCounters, *, legacy: bool, unmapped_carrier_id: int) -> None:
        self._engine = engine
        self.counters = counters
        self._legacy = legacy
        self._unmapped = unmapped_carrier_id
        self._last = Outcome.UNAVAILABLE

    def respond(self, message: bytes, client: Client, now: float) -> bytes | None:
        """See Responder."""
        counters = self.counters
        counters.received += 1
        if client.queries_per_second and not client.take(1, now):
            counters.refused[RATE] += 1
            return None
        try:
            query = pdb.decode_query(message, legacy=self._legacy)
        except ProtocolError as error:
            counters.dropped[DROP[error.reason]] += 1
            return None
        # What is not a number needs no data, but silence is kept all the same until there is some.
        answer = self._engine.resolve(query.number or "")
        if answer.outcome is Outcome.UNAVAILABLE:
            counters.dropped[UNAVAILABLE] += 1
            return None
        route = answer.route
        carrier_id = None if route is None else route.pdb_carrier_id or self._unmapped
        reply = pdb.encode_answer(query, carrier_id)
        if query.odd:
            counters.odd += 1
        self._last = answer.outcome
        counters.answered[answer.outcome] += 1
        return reply

    def take_back(self) -> None:
        """See Responder."""
        self.counters.answered[self._last] -= 1
        self.counters.dropped[UNSENT] += 1


class NpqResponder:
    """The npq dialect: one answer message for one query message."""

    late_ns = 0  # an answer carries its question's id: a late one does no harm

    def __init__(self, engine: Engine, counters: QueryCounters, *, answer_bytes_max: int, tells_errors: bool) -> None:
        """tells_errors: answer a malformed message too; over UDP that would answer forged sources."""
        self._engine = engine
        self.counters = counters
        self._bytes_max = answer_bytes_max
        self._tells_errors = tells_errors
        self._last: list[Outcome] = []
        self._last_refused = 0

    def respond(self, message: bytes, client: Client, now: float) -> bytes | None:
        """See Responder. A query over the client's rate is answered `refused`, number by number."""
        counters = self.counters
        counters.received += 1
        self._last, self._last_refused = [], 0
        try:
            query = npq.decode_query(message)
        except ProtocolError as error:
            counters.dropped[DROP[error.reason]] += 1
            return self._error(error)
        numbers = npq.numbers_of(query)
        counters.received += len(numbers) - 1
        allowed = not client.queries_per_second or client.take(len(numbers), now)
        resolve = self._engine.resolve if allowed else self._engine.refuse
        answers = [resolve(number) for number in numbers]
        reply, held = npq.encode_answer(query, answers, self._bytes_max)
        counters.dropped[NO_ROOM] += len(answers) - held
        if allowed:
            self._last = [answer.outcome for answer in answers[:held]]
            for outcome in self._last:
                counters.answered[outcome] += 1
        else:
            self._last_refused = held
            counters.refused[RATE] += held
        return reply

    def _error(self, error: ProtocolError) -> bytes | None:
        if isinstance(error, npq.QueryRefused):
            return npq.encode_error(error)
        return npq.encode_error(npq.QueryRefused(None, npq.ERROR_MALFORMED)) if self._tells_errors else None

    def take_back(self) -> None:
        """See Responder. An error message was counted as dropped before."""
        for outcome in self._last:
            self.counters.answered[outcome] -= 1
        self.counters.refused[RATE] -= self._last_refused
        self.counters.dropped[UNSENT] += len(self._last) + self._last_refused
