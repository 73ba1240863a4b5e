"""Message -> reply for each dialect: decode, resolve, encode, count. The definition of correct.

No sockets here: a transport hands in the bytes and the client, and sends what comes back. Every message
handed in is counted as received, and as answered, refused or dropped.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Any, NamedTuple, Protocol

from lookupd.access import Client
from lookupd.engine import Engine
from lookupd.errors import ProtocolError
from lookupd.limits import DATAGRAM_BYTES_MAX, PDB_DATAGRAM_BYTES_MAX, PDB_LATE_NS
from lookupd.model import Answer, Outcome, Route
from lookupd.observe.counters import (
    DROP,
    DROPPED,
    LATE,
    NO_ROOM,
    OTHER,
    OVER_RATE,
    RATE,
    UNSENT,
    QueryCounters,
    Usage,
)
from lookupd.protocols import npq, pdb
from lookupd.query_record import DROPPED as DROPPED_LABEL
from lookupd.tap import Tap

_UNAVAILABLE = Outcome.UNAVAILABLE
_ROUTED = (Outcome.PORTED, Outcome.NOT_PORTED)

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

    def drop_late(self, client: Client, peer: Peer) -> None:
        """Count a message that was not read, since its client has given up."""
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


_OFF = Tap()


class Noted(NamedTuple):
    """A number for the query log, whose reply may yet not leave. reply: its place in `Tallies.unsettled`."""

    reply: int
    client: Client
    host: str
    number: str | int | None
    outcome: Outcome
    route: Route | None
    serial: int


class Tallies:
    """What was counted for each reply, until the transport has said what became of it."""

    reply_port = 0

    def __init__(self, engine: Engine, counters: QueryCounters) -> None:
        self.counters = counters
        self.tap = _OFF
        self._engine = engine
        # Of the message that is being answered, and what the query log shall have of the replies so far.
        self._client: Client | None = None
        self._host = ""
        self._noted: list[Noted] = []
        # A reply's outcomes, one for each number answered, how many numbers it refused, whether it answered something
        # else than numbers (0 or 1), and whose usage they are.
        self.unsettled: list[tuple[tuple[Outcome, ...], int, int, Usage]] = []

    def tell_answer(
        self, outcome: Outcome, usage: Usage, number: str | int | None = None, route: Route | None = None
    ) -> None:
        """A reply with one number's answer. number: its digits."""
        self.counters.answered[outcome] += 1
        usage[outcome] += 1
        if self.tap.sample:
            self._note(number, outcome, route)
        self.unsettled.append((ANSWERED[outcome], 0, 0, usage))

    def tell_refusal(self, usage: Usage, number: str | None = None) -> None:
        """A reply that refuses one query for its client's rate. number: its digits."""
        self.counters.refused[RATE] += 1
        usage[OVER_RATE] += 1
        if self.tap.sample:
            self._note(number, Outcome.REFUSED)
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

    def drop(self, reason: str, usage: Usage, number: str | None = None) -> None:
        """No reply. reason: of DROP_REASONS. number: its digits, if it was read so far."""
        self.counters.dropped[DROP[reason]] += 1
        usage[DROPPED] += 1
        if self.tap.sample:
            self._note_silence(number, reason)

    def drop_late(self, client: Client, peer: Peer) -> None:
        """See Responder."""
        self.counters.received += 1
        self.counters.dropped[LATE] += 1
        client.usage[self.counters.dialect][DROPPED] += 1
        if self.tap.sample:
            self._client, self._host = client, peer[0]
            self._note_silence(None, "late")

    def refuse(self, usage: Usage) -> None:
        """No reply, for the client's rate."""
        self.counters.refused[RATE] += 1
        usage[OVER_RATE] += 1
        if self.tap.sample:
            self._note_silence(None, None)

    def absorb(self, usage: Usage) -> None:
        """No reply, since none is due."""
        self.counters.other += 1
        usage[OTHER] += 1

    def settle(self) -> None:
        """See Responder."""
        self.unsettled.clear()
        if self._noted:
            self._hand_on(0, len(self._noted), left=True)

    def take_back(self, first: int, count: int) -> None:
        """See Responder."""
        if self._noted:
            places = [noted.reply for noted in self._noted]  # they grow
            self._hand_on(bisect_left(places, first), bisect_left(places, first + count), left=False)
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

    def _note(self, number: str | int | None, outcome: Outcome, route: Route | None = None) -> None:
        """For the query log: of a reply whose place in `unsettled` is the next one."""
        client = self._client
        assert client is not None
        if self.tap.is_next(client):
            served = route if outcome in _ROUTED else None
            place, serial = len(self.unsettled), self._engine.serial
            self._noted.append(Noted(place, client, self._host, number, outcome, served, serial))

    def _note_silence(self, number: str | int | None, reason: str | None) -> None:
        """For the query log: of a message without a reply. reason: None = over its client's rate."""
        tap, client, counters = self.tap, self._client, self.counters
        assert client is not None
        if tap.is_next(client):
            outcome = DROPPED_LABEL if reason else Outcome.REFUSED.label
            serial = self._engine.serial
            tap.note(client, counters.dialect, counters.transport, self._host, number, outcome, serial, reason=reason)

    def _hand_on(self, first: int, end: int, *, left: bool) -> None:
        """Noted replies to the query log. left: whether they did."""
        tap, counters = self.tap, self.counters
        for _, client, host, number, outcome, route, serial in self._noted[first:end]:
            tap.note(
                client,
                counters.dialect,
                counters.transport,
                host,
                number,
                outcome.label if left else DROPPED_LABEL,
                serial,
                route=route if left else None,
                reason=None if left else "unsent",
            )
        del self._noted[first:end]


class PdbResponder(Tallies):
    """The pdb dialect: OK with a carrier id, NOT_FOUND, NOT_NUMBER, or silence rather than a doubtful answer."""

    late_ns = PDB_LATE_NS
    message_bytes_max = PDB_DATAGRAM_BYTES_MAX

    def __init__(self, engine: Engine, counters: QueryCounters, *, legacy: bool, unmapped_carrier_id: int) -> None:
        super().__init__(engine, counters)
        self._legacy = legacy
        self._unmapped = unmapped_carrier_id

    def respond(self, message: bytes, client: Client, now_ns: int, peer: Peer) -> bytes | None:
        """See Responder."""
        counters, usage = self.counters, client.usage["pdb"]
        self._client, self._host = client, peer[0]
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
        digits = self._engine.plan.digits(query.number or "")
        outcome, route, _ = self._engine.find(digits)
        if outcome is _UNAVAILABLE:
            self.drop("unavailable", usage, digits)
            return None
        carrier_id = None if route is None else route.pdb_carrier_id or self._unmapped
        if query.odd:
            counters.odd += 1
        self.tell_answer(outcome, usage, digits, route)
        return pdb.encode_answer(query, carrier_id)


class NpqResponder(Tallies):
    """The npq dialect: one answer message for one query message."""

    late_ns = 0  # an answer carries its question's id: a late one does no harm
    message_bytes_max = DATAGRAM_BYTES_MAX

    def __init__(self, engine: Engine, counters: QueryCounters, *, answer_bytes_max: int, tells_errors: bool) -> None:
        """tells_errors: answer a malformed message too; over UDP that would answer forged sources."""
        super().__init__(engine, counters)
        self._bytes_max = answer_bytes_max
        self._tells_errors = tells_errors

    def respond(self, message: bytes, client: Client, now_ns: int, peer: Peer) -> bytes | None:
        """See Responder. A query over the client's rate is answered `refused`, number by number."""
        counters, usage = self.counters, client.usage["npq"]
        self._client, self._host = client, peer[0]
        counters.received += 1
        try:
            query = npq.decode_query(message)
        except ProtocolError as error:
            self.drop(error.reason, usage)
            within_rate = not client.is_limited or client.take(1, now_ns, self._forgeable(peer))
            return self._error(error, usage) if within_rate or self._tells_errors else None
        if isinstance(query.numbers, list):
            return self._respond_many(query, client, now_ns, peer)
        number = query.numbers if isinstance(query.numbers, str) else str(query.numbers)
        if client.is_limited and not client.take(1, now_ns, self._forgeable(peer)):
            self.tell_refusal(usage, self._engine.plan.digits(number) if self.tap.sample else None)
            return npq.encode_one(query, self._engine.refuse(number))
        answer = self._engine.resolve(number)
        self.tell_answer(answer.outcome, usage, answer.tn, answer.route)
        return npq.encode_one(query, answer)

    def _forgeable(self, peer: Peer) -> str | None:
        """As `Client.take` wants it."""
        return None if self._tells_errors else peer[0]

    def _respond_many(self, query: npq.NpqQuery, client: Client, now_ns: int, peer: Peer) -> bytes:
        counters, usage, numbers = self.counters, client.usage["npq"], npq.numbers_of(query)
        counters.received += len(numbers) - 1
        allowed = not client.is_limited or client.take(len(numbers), now_ns, self._forgeable(peer))
        resolve = self._engine.resolve if allowed else self._engine.refuse
        answers = [resolve(number) for number in numbers]
        reply, held = npq.encode_answer(query, answers, self._bytes_max)
        counters.dropped[NO_ROOM] += len(answers) - held
        usage[DROPPED] += len(answers) - held
        if self.tap.sample:
            self._note_many(answers, held)
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

    def _note_many(self, answers: list[Answer], held: int) -> None:
        digits = self._engine.plan.digits
        for at, answer in enumerate(answers):
            number = digits(answer.asked)
            if at < held:
                self._note(number, answer.outcome, answer.route)
            else:
                self._note_silence(number, "no_room")

    def _error(self, error: ProtocolError, usage: Usage) -> bytes | None:
        """The error message, if there is one; its query was counted as dropped already."""
        if isinstance(error, npq.QueryRefused):
            self.unsettled.append((NO_OUTCOMES, 0, 0, usage))
            return npq.encode_error(error)
        if not self._tells_errors:
            return None
        self.unsettled.append((NO_OUTCOMES, 0, 0, usage))
        return npq.encode_error(npq.QueryRefused(None, npq.ERROR_MALFORMED))
