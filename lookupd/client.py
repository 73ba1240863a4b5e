"""The client library: asks one or two servers over npq and takes the first good answer.

    async with LookupClient(["udp://127.0.0.1:4700", "udp://192.0.2.2:4700"]) as client:
        answer = await client.query("886912345678")

A good answer is one from data: `unavailable` and `refused` count only when no server has better. Whom it asks first,
and when it asks the next, follows what each has done lately (`hedging`): a server that is silent, slow or standing back
is asked behind the others, until it answers again.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

from lookupd.errors import LookupdError, ProtocolError
from lookupd.hedging import Plan, Record
from lookupd.limits import (
    CLIENT_HEDGE_SECONDS,
    CLIENT_HEDGE_SECONDS_MIN,
    CLIENT_TIMEOUT_SECONDS,
    NPQ_NUMBERS_MAX,
    NUMBER_CHARS_MAX,
)
from lookupd.links import POOR, Link, open_link
from lookupd.model import AnswerView, Outcome
from lookupd.protocols import npq

TRIES = 3
"""Times each server is asked within the timeout: a datagram may be lost."""

NUMBERS_PER_DATAGRAM = 40
"""Numbers asked at once over UDP; about as many answers as fit one datagram with names."""


class NoAnswer(LookupdError):
    """No server answered in time."""


class LookupClient:
    """A client of one or more servers, usable by many tasks at once."""

    def __init__(
        self,
        servers: Sequence[str],
        *,
        timeout: float = CLIENT_TIMEOUT_SECONDS,
        hedge: float = CLIENT_HEDGE_SECONDS,
        names: bool = True,
    ) -> None:
        """servers: `udp://host:port` or `tcp://host:port`, the preferred one first.

        timeout: seconds for one question, all servers and tries together. hedge: seconds without a good
        answer after which the next server is asked too, at most: less, once it is known how long answers take.
        names: ask for the operator's name as well.
        Raises LookupdError when a server is not written like that.
        """
        if not servers:
            raise LookupdError("name at least one server, such as udp://127.0.0.1:4700")
        self._links = [open_link(server, Record(max(hedge, CLIENT_HEDGE_SECONDS_MIN)), timeout) for server in servers]
        self._plan = Plan([link.record for link in self._links], hedge)
        self._timeout = timeout
        self._detail = npq.DETAIL_NAMES if names else npq.DETAIL_NONE
        self._next_id = random.getrandbits(32)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the sockets; questions under way end with NoAnswer."""
        for link in self._links:
            link.close()

    async def query(self, number: str) -> AnswerView:
        """Ask one number: E.164 digits with or without `+`, or national. Raises NoAnswer, LookupdError."""
        return (await self._ask(number, [number]))[0]

    async def query_many(self, numbers: Sequence[str]) -> list[AnswerView]:
        """Ask many numbers; the answers come in their order. Raises NoAnswer, LookupdError."""
        at_once = NUMBERS_PER_DATAGRAM if any(link.is_udp for link in self._links) else NPQ_NUMBERS_MAX
        answers: list[AnswerView] = []
        while len(answers) < len(numbers):
            asked = list(numbers[len(answers) : len(answers) + at_once])
            answers += await self._ask(asked, asked)  # as many as fitted, at least one
        return answers

    async def _ask(self, question: str | list[str], asked: list[str]) -> list[AnswerView]:
        """Ask one server after another until one has a good answer."""
        _check_lengths(asked)
        # Kept: while this question waits, others move _next_id on.
        query_id = self._next_id = (self._next_id + 1) & 0xFFFF_FFFF
        message = npq.encode_query(query_id, question, self._detail)
        loop = asyncio.get_running_loop()
        started = loop.time()
        schedule = self._schedule()
        next_at: float
        link: Link | None
        next_at, link, again = next(schedule)
        waiting: set[asyncio.Task[npq.NpqAnswer]] = set()
        fallback: list[AnswerView] | None = None
        answered, trouble = False, "no answer"
        try:
            while (passed := loop.time() - started) < self._timeout:
                # Another server is asked at once when nobody is left to wait for; the same one only in its time.
                if link is not None and (passed >= next_at or not (waiting or again)):
                    waiting.add(asyncio.ensure_future(link.ask(query_id, message)))
                    next_at, link, again = next(schedule, (self._timeout, None, True))
                until = max(min(next_at, self._timeout) - passed, 0)
                if not waiting:
                    if answered or link is None:
                        break
                    await asyncio.sleep(until)
                    continue
                done, waiting = await asyncio.wait(waiting, timeout=until, return_when="FIRST_COMPLETED")
                for task in done:
                    try:
                        views = _views(asked, task.result())
                    except (OSError, ProtocolError) as error:
                        trouble = str(error) or type(error).__name__
                        continue
                    except LookupdError as error:
                        answered, trouble = True, str(error)
                        continue
                    if all(Outcome[view.outcome.upper()] not in POOR for view in views):
                        return views
                    answered, fallback = True, views
        finally:
            for task in waiting:
                task.cancel()
        if fallback is not None:
            return fallback
        within = "" if answered else f" within {self._timeout:g} s"
        raise NoAnswer(f"{', '.join(str(link) for link in self._links)}: {trouble}{within}")

    def _schedule(self) -> Iterator[tuple[float, Link, bool]]:
        """When to ask whom, and whether again: each server in turn, then all again as a datagram may be lost."""
        plan = self._plan.next(time.monotonic())
        for attempt in range(TRIES):
            for seconds, place in plan:
                link = self._links[place]
                if attempt == 0 or link.is_udp:
                    yield attempt * self._timeout / TRIES + seconds, link, attempt > 0


def _check_lengths(asked: list[str]) -> None:
    """A number over the bound would make the whole question malformed. Raises LookupdError."""
    for number in asked:
        if len(number) > NUMBER_CHARS_MAX:
            raise LookupdError(f"{number[:NUMBER_CHARS_MAX]!r}...: longer than {NUMBER_CHARS_MAX} characters")


def _views(asked: list[str], answer: npq.NpqAnswer) -> list[AnswerView]:
    if answer.kind == npq.ERROR:
        raise LookupdError(f"the server says: {answer.age}")
    views = npq.view_results(asked, answer)
    if not views:
        raise ProtocolError("malformed")
    return views
