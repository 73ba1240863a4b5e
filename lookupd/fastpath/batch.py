"""Message -> reply for each dialect: decode, resolve, encode, count. The definition of correct.

No sockets here: a transport hands in the bytes and the client, and sends what comes back. Every message
handed in is counted as received, and as answered, refused or dropped.
"""

from __future__ import annotations

from typing import Any, Protocol

from lookupd.access import Client
from lookupd.engine import Engine
from lookupd.errors import ProtocolError
from lookupd.limits import DATAGRAM_BYTES_MAX, PDB_DATAGRAM_BYTES_MAX, PDB_LATE_NS
from lookupd.model import Outcome
from lookupd.observe.counters import (
    DROP,
    DROPPED,
    NO_ROOM,
    OTHER,
    OVER_RATE,
    RATE,
    UNSENT,
    QueryCounters,
    Usage,
)
from lookupd.protocols import npq, pdb

_UNAVAILABLE = Outcome.UNAVAILABLE

Peer = tuple[Any, ...]
"""Where a message came from, as sockets tell it: the address, the port, and for IPv6 more."""


class Responder(Protocol):
    """One dialect's side of a listener."""

    counters: QueryCounters
    late_ns: int
    """Answers that would leave later than this after the question arrived are not sent; 0 = any time."""

    message_bytes_max: int
    """Bytes of a datagram that are looked at; whatever lies behind them changes no answer."""

    reply_port: int
    """Where over UDP the last reply goes instead of the port that its question came from; 0 = there."""

    def respond(self, message: bytes, client: Client, now_ns: int, peer: Peer) -> bytes | None:
        """The reply to one message, None for silence. now_ns: of a clock that only grows.

        The engine's batch has begun. Raises nothing: any bytes are answered or counted as dropped.
        """
        ...

    def take_back(self, first: int, count: int) -> None:
        """Some of the replies since `settle`, counted from 0, could not be sent.

        What was counted for them as answered or refused was dropped.
        """
        ...

    def settle(self) -> None:
        """Nothing more will be said about the replies so far."""
        ...


ANSWERED = tuple((outcome,) for outcome in Outcome)
NO_OUTCOMES: tuple[Outcome, ...] = ()


class Tallies:
    """What was counted for each reply, until the transport has said what became of it."""

    reply_port = 0

    def __init__(self, counters: QueryCounters) -> None:
        self.counters = counters
        # A reply's outcomes, one for each number answered, how many numbers it refused, whether it answered something
        # else than numbers (0 or 1), and whose usage they are.
        self.unsettled: list[tuple[tuple[Outcome, ...], int, int, Usage]] = []

    def tell_answer(self, outcome: Outcome, usage: Usage) -> None:
        """A reply with one number's answer."""
        self.counters.answered[outcome] += 1
        usage[outcome] += 1
        self.unsettled.append((ANSWERED[outcome], 0, 0, usage))

    def tell_refusal(self, usage: Usage) -> None:
        """A reply that refuses one query for its client's rate."""
        self.counters.refused[RATE] += 1
        usage[OVER_RATE] += 1
        self.unsettled.append((NO_OUTCOMES, 1, 0, usage))

    def tell_other(self, usage: Usage) -> None:
        """A reply that is not about a number."""
        self.counters.other += 1
        usage[OTHER] += 1
        self.unsettled.append((NO_OUTCOMES, 0, 1, usage))

    def tell_fault(self, reason: str, usage: Usage) -> None:
        """A reply that says what is wrong with a message; the message counts as dropped. reason: of DROP_REASONS."""
        self.drop(reason, usage)
        self.unsettled.append((NO_OUTCOMES, 0, 0, usage))

    def drop(self, reason: str, usage: Usage) -> None:
        """No reply. reason: of DROP_REASONS."""
        self.counters.dropped[DROP[reason]] += 1
        usage[DROPPED] += 1

    def refuse(self, usage: Usage) -> None:
        """No reply, for the client's rate."""
        self.counters.refused[RATE] += 1
        usage[OVER_RATE] += 1

    def absorb(self, usage: Usage) -> None:
        """No reply, since none is due."""
        self.counters.other += 1
        usage[OTHER] += 1

    def settle(self) -> None:
        """See Responder."""
        self.unsettled.clear()

    def take_back(self, first: int, count: int) -> None:
        """See Responder."""
        counters = self.counters
        for outcomes, refused, other, usage in self.unsettled[first : first + count]:
            for outcome in outcomes:
                counters.answered[outcome] -= 1
                usage[outcome] -= 1
            counters.refused[RATE] -= refused
            usage[OVER_RATE] -= refused
            counters.other -= other
            usage[OTHER] -= other
            unsent = refused + other + len(outcomes)
            counters.dropped[UNSENT] += unsent
            usage[DROPPED] += unsent


class PdbResponder(Tallies):
    """The pdb dialect: OK with a carrier id, NOT_FOUND, NOT_NUMBER, or silence rather than a doubtful answer."""

    late_ns = PDB_LATE_NS
    message_bytes_max = PDB_DATAGRAM_BYTES_MAX

    def __init__(self, engine: Engine, counters: QueryCounters, *, legacy: bool, unmapped_carrier_id: int) -> None:
        super().__init__(counters)
        self._engine = engine
        self._legacy = legacy
        self._unmapped = unmapped_carrier_id

    def respond(self, message: bytes, client: Client, now_ns: int, peer: Peer) -> bytes | None:
        """See Responder."""
        counters, usage = self.counters, client.usage["pdb"]
        counters.received += 1
        if client.is_limited and not client.take(1, now_ns, peer[0]):
            self.refuse(usage)
            return None
        try:
            query = pdb.decode_query(message, legacy=self._legacy)
        except ProtocolError as error:
            self.drop(error.reason, usage)
            return None
        # What is not a number needs no data, but silence is kept all the same until there is some.
        outcome, route, _ = self._engine.find(self._engine.plan.digits(query.number or ""))
        if outcome is _UNAVAILABLE:
            self.drop("unavailable", usage)
            return None
        carrier_id = None if route is None else route.pdb_carrier_id or self._unmapped
        if query.odd:
            counters.odd += 1
        self.tell_answer(outcome, usage)
        return pdb.encode_answer(query, carrier_id)


class NpqResponder(Tallies):
    """The npq dialect: one answer message for one query message."""

    late_ns = 0  # an answer carries its question's id: a late one does no harm
    message_bytes_max = DATAGRAM_BYTES_MAX

    def __init__(self, engine: Engine, counters: QueryCounters, *, answer_bytes_max: int, tells_errors: bool) -> None:
        """tells_errors: answer a malformed message too; over UDP that would answer forged sources."""
        super().__init__(counters)
        self._engine = engine
        self._bytes_max = answer_bytes_max
        self._tells_errors = tells_errors

    def respond(self, message: bytes, client: Client, now_ns: int, peer: Peer) -> bytes | None:
        """See Responder. A query over the client's rate is answered `refused`, number by number."""
        counters, usage = self.counters, client.usage["npq"]
        counters.received += 1
        try:
            query = npq.decode_query(message)
        except ProtocolError as error:
            self.drop(error.reason, usage)
            within_rate = not client.is_limited or client.take(1, now_ns, self._host(peer))
            return self._error(error, usage) if within_rate or self._tells_errors else None
        if isinstance(query.numbers, list):
            return self._respond_many(query, client, now_ns, peer)
        number = query.numbers if isinstance(query.numbers, str) else str(query.numbers)
        if client.is_limited and not client.take(1, now_ns, self._host(peer)):
            self.tell_refusal(usage)
            return npq.encode_one(query, self._engine.refuse(number))
        answer = self._engine.resolve(number)
        self.tell_answer(answer.outcome, usage)
        return npq.encode_one(query, answer)

    def _host(self, peer: Peer) -> str | None:
        """As `Client.take` wants it."""
        return None if self._tells_errors else peer[0]

    def _respond_many(self, query: npq.NpqQuery, client: Client, now_ns: int, peer: Peer) -> bytes:
        counters, usage, numbers = self.counters, client.usage["npq"], npq.numbers_of(query)
        counters.received += len(numbers) - 1
        allowed = not client.is_limited or client.take(len(numbers), now_ns, self._host(peer))
        resolve = self._engine.resolve if allowed else self._engine.refuse
        answers = [resolve(number) for number in numbers]
        reply, held = npq.encode_answer(query, answers, self._bytes_max)
        counters.dropped[NO_ROOM] += len(answers) - held
        usage[DROPPED] += len(answers) - held
        if allowed:
            outcomes = tuple(answer.outcome for answer in answers[:held])
            for outcome in outcomes:
                counters.answered[outcome] += 1
                usage[outcome] += 1
            self.unsettled.append((outcomes, 0, 0, usage))
        else:
            counters.refused[RATE] += held
            usage[OVER_RATE] += held
            self.unsettled.append((NO_OUTCOMES, held, 0, usage))
        return reply

    def _error(self, error: ProtocolError, usage: Usage) -> bytes | None:
        """The error message, if there is one; its query was counted as dropped already."""
        if isinstance(error, npq.QueryRefused):
            self.unsettled.append((NO_OUTCOMES, 0, 0, usage))
            return npq.encode_error(error)
        if not self._tells_errors:
            return None
        self.unsettled.append((NO_OUTCOMES, 0, 0, usage))
        return npq.encode_error(npq.QueryRefused(None, npq.ERROR_MALFORMED))
