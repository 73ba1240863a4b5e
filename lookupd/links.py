"""The client library's way to one server: a socket or a connection over which npq messages go, answers matched by id.

Opened when first asked, and again when it broke. Which server is asked when is for `client`. Times are those of
time.monotonic(): uvloop's own clock counts whole milliseconds, and an answer takes less.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

from lookupd.errors import LookupdError, ProtocolError
from lookupd.hedging import Record
from lookupd.limits import NPQ_FRAME_BYTES_MAX
from lookupd.model import Outcome
from lookupd.protocols import npq
from lookupd.settings import Endpoint, parse_endpoint

POOR = frozenset({Outcome.UNAVAILABLE, Outcome.REFUSED})
"""Outcomes that say nothing of the number."""


class ClosedInOrder(OSError):
    """The server closed the connection between two answers: whatever it has not answered may be asked again."""


class Link:
    """One server: questions out, answers matched by id. Opened when first asked, and again when it broke."""

    is_udp = False

    def __init__(self, endpoint: Endpoint, record: Record, timeout: float) -> None:
        self.record = record
        self._endpoint = endpoint
        self._timeout = timeout
        self._waiting: dict[int, asyncio.Future[npq.NpqAnswer]] = {}

    def __str__(self) -> str:
        return str(self._endpoint)

    async def ask(self, query_id: int, message: bytes) -> npq.NpqAnswer:
        """Send a question and wait for its answer. Raises OSError when the server cannot be reached."""
        self.record.asked(query_id, time.monotonic())
        try:
            return await self._ask(query_id, message)
        except OSError:
            self.record.failed(query_id)
            raise

    async def _ask(self, query_id: int, message: bytes) -> npq.NpqAnswer:
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
        if answer.id is None:
            return
        self.record.answered(answer.id, time.monotonic(), _tells_data(answer))
        waiting = self._waiting.get(answer.id)
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

    def __init__(self, endpoint: Endpoint, record: Record, timeout: float) -> None:
        super().__init__(endpoint, record, timeout)
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

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is not None and self._transport.is_closing():
            self._transport = None  # an error that the loop takes for the end: the next question gets another socket
        if exc is not None:
            self._fail(exc)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
            self._transport = None


class _TcpLink(Link):
    def __init__(self, endpoint: Endpoint, record: Record, timeout: float) -> None:
        super().__init__(endpoint, record, timeout)
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._opening: asyncio.Task[asyncio.StreamWriter] | None = None
        self._silent_since: float | None = None

    async def _ask(self, query_id: int, message: bytes) -> npq.NpqAnswer:
        self._give_up_silent()
        try:
            return await super()._ask(query_id, message)
        except ClosedInOrder:
            return await super()._ask(query_id, message)  # once: a server that restarts takes it anew

    async def _send(self, message: bytes) -> None:
        if self._writer is None or self._writer.is_closing():
            if self._opening is None:
                self._opening = asyncio.create_task(self._open())
                self._opening.add_done_callback(_looked_at)
            self._writer = await _opened(self._opening)
        if self._silent_since is None:
            self._silent_since = time.monotonic()
        self._writer.write(npq.FRAME_HEADER.pack(len(message)) + message)

    async def _open(self) -> asyncio.StreamWriter:
        try:
            async with asyncio.timeout(self._timeout):
                reader, writer = await asyncio.open_connection(self._endpoint.host, self._endpoint.port)
        finally:
            self._opening = None
        self._silent_since = None
        self._reading = asyncio.create_task(self._read(reader, writer))
        return writer

    def _give_up_silent(self) -> None:
        """A connection that brought nothing for so long leads nowhere: TCP itself would wait for minutes."""
        since = self._silent_since
        if since is None or self._writer is None or time.monotonic() - since <= self._timeout:
            return
        self._fail(OSError("the server is silent"))
        self.close()

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                (length,) = npq.FRAME_HEADER.unpack(await reader.readexactly(npq.FRAME_HEADER.size))
                if length > NPQ_FRAME_BYTES_MAX:
                    raise OSError("the server sent a frame over the bound")
                self._take(await reader.readexactly(length))
                self._silent_since = None
        except asyncio.IncompleteReadError as error:
            kind = OSError if error.partial else ClosedInOrder
            self._leave(writer, kind("the server closed the connection"))
        except OSError as error:
            self._leave(writer, error)
        finally:
            writer.close()

    def _leave(self, writer: asyncio.StreamWriter, error: OSError) -> None:
        """Before whoever waits goes on: the next question is to open another connection."""
        if self._writer is writer:
            self._writer = None
        self._fail(error)

    def close(self) -> None:
        for task in (self._opening, self._reading):
            if task is not None:
                task.cancel()
        if self._writer is not None:
            self._writer.close()
        self._writer = self._reading = self._silent_since = None


async def _opened(opening: asyncio.Task[asyncio.StreamWriter]) -> asyncio.StreamWriter:
    """Shielded: a question that another server answers meanwhile must not end the attempt. Raises OSError."""
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        if opening.cancelled():
            raise OSError("the connection was given up") from None
        raise


def _looked_at(opening: asyncio.Task[asyncio.StreamWriter]) -> None:
    """So that nobody complains about the error of an attempt that nobody waits for any more."""
    with suppress(asyncio.CancelledError):
        opening.exception()


def _tells_data(answer: npq.NpqAnswer) -> bool:
    """Whether it speaks from data, as far as its first result tells."""
    results = answer.results[:1]
    first = results[0][:1] if results and isinstance(results[0], list) else results
    return answer.kind == npq.ANSWER and bool(first) and isinstance(first[0], int) and first[0] not in POOR


def open_link(server: str, record: Record, timeout: float) -> Link:
    """server: `udp://host:port` or `tcp://host:port`. timeout: seconds for a connection to come up, and to bring
    something. Raises LookupdError when it is not written like that."""
    try:
        endpoint = parse_endpoint(server)
    except ValueError as error:
        raise LookupdError(f"server {error}") from None
    match endpoint.transport:
        case "udp":
            return _UdpLink(endpoint, record, timeout)
        case "tcp":
            return _TcpLink(endpoint, record, timeout)
    raise LookupdError(f"server {server}: udp:// or tcp://")
