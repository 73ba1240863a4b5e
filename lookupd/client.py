"""The client library: asks one or two servers over npq and takes the first good answer.

    async with LookupClient(["udp://127.0.0.1:4700", "udp://192.0.2.2:4700"]) as client:
        answer = await client.query("886912345678")

A good answer is one from data: `unavailable` and `refused` count only when no server has better.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

from lookupd.config import Endpoint, parse_endpoint
from lookupd.errors import LookupdError, ProtocolError
from lookupd.limits import (
    CLIENT_HEDGE_SECONDS,
    CLIENT_TIMEOUT_SECONDS,
    NPQ_FRAME_BYTES_MAX,
    NPQ_NUMBERS_MAX,
    NUMBER_CHARS_MAX,
)
from lookupd.model import AnswerView, Outcome
from lookupd.protocols import npq

TRIES = 3
"""Times each server is asked within the timeout: a datagram may be lost."""

NUMBERS_PER_DATAGRAM = 40
"""Numbers asked at once over UDP; about as many answers as fit one datagram with names."""

_POOR = frozenset({Outcome.UNAVAILABLE, Outcome.REFUSED})


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
        answer after which the next server is asked too. names: ask for the operator's name as well.
        Raises LookupdError when a server is not written like that.
        """
        if not servers:
            raise LookupdError("name at least one server, such as udp://127.0.0.1:4700")
        self._links = [_link(server) for server in servers]
        self._timeout = timeout
        self._hedge = hedge
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
                    if all(Outcome[view.outcome.upper()] not in _POOR for view in views):
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
        for attempt in range(TRIES):
            for place, link in enumerate(self._links):
                if attempt == 0 or link.is_udp:
                    yield attempt * self._timeout / TRIES + place * self._hedge, link, attempt > 0


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


class Link:
    """One server: questions out, answers matched by id. Opened when first asked, and again when it broke."""

    is_udp = False

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._waiting: dict[int, asyncio.Future[npq.NpqAnswer]] = {}

    def __str__(self) -> str:
        return str(self._endpoint)

    async def ask(self, query_id: int, message: bytes) -> npq.NpqAnswer:
        """Send a question and wait for its answer. Raises OSError when the server cannot be reached."""
        answer = self._waiting.get(query_id)
        if answer is None:
            answer = self._waiting[query_id] = asyncio.get_running_loop().create_future()
        try:
            await self._send(message)
            return await asyncio.shield(answer)
        finally:
            if answer.done() or self._waiting.get(query_id) is answer:
                self._waiting.pop(query_id, None)

    async def _send(self, message: bytes) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Close the socket."""

    def _take(self, message: bytes) -> None:
        """Give an answer to the question that waits for it; anything else is passed over."""
        try:
            answer = npq.decode_answer(message)
        except ProtocolError:
            return
        waiting = self._waiting.get(answer.id) if answer.id is not None else None
        if waiting is not None and not waiting.done():
            waiting.set_result(answer)

    def _fail(self, error: Exception) -> None:
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(error)
                waiting.exception()  # looked at: whoever waits sees it, nobody need
        self._waiting.clear()


class _UdpLink(Link, asyncio.DatagramProtocol):
    is_udp = True

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(endpoint)
        self._transport: asyncio.DatagramTransport | None = None
        self._opening = asyncio.Lock()

    async def _send(self, message: bytes) -> None:
        async with self._opening:  # questions of several tasks: one socket
            if self._transport is None:
                loop = asyncio.get_running_loop()
                remote = (self._endpoint.host, self._endpoint.port)
                self._transport, _ = await loop.create_datagram_endpoint(lambda: self, remote_addr=remote)
        self._transport.sendto(message)

    def datagram_received(self, data: bytes, addr: object) -> None:
        self._take(data)

    def error_received(self, exc: Exception) -> None:
        self._fail(exc)  # nobody listens there: let the next server be asked at once

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
            self._transport = None


class _TcpLink(Link):
    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(endpoint)
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._opening = asyncio.Lock()

    async def _send(self, message: bytes) -> None:
        async with self._opening:
            if self._writer is None or self._writer.is_closing():
                reader, self._writer = await asyncio.open_connection(self._endpoint.host, self._endpoint.port)
                self._reading = asyncio.create_task(self._read(reader, self._writer))
        self._writer.write(npq.FRAME_HEADER.pack(len(message)) + message)

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                (length,) = npq.FRAME_HEADER.unpack(await reader.readexactly(npq.FRAME_HEADER.size))
                if length > NPQ_FRAME_BYTES_MAX:
                    raise OSError("the server sent a frame over the bound")
                self._take(await reader.readexactly(length))
        except (OSError, EOFError) as error:
            self._fail(error if isinstance(error, OSError) else OSError("the server closed the connection"))
        finally:
            writer.close()

    def close(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _link(server: str) -> Link:
    try:
        endpoint = parse_endpoint(server)
    except ValueError as error:
        raise LookupdError(f"server {error}") from None
    match endpoint.transport:
        case "udp":
            return _UdpLink(endpoint)
        case "tcp":
            return _TcpLink(endpoint)
    raise LookupdError(f"server {server}: udp:// or tcp://")
