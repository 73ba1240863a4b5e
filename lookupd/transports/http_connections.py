"""Connections of an HTTP listener: who gets a place, TLS, and when one has lasted too long.

Every bound holds before anything is known of a request: for addresses, handshakes, heads, bodies, and readers. What a
request means is aiohttp's and `transports.http`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from typing import cast

from aiohttp import web

from lookupd.limits import (
    DRAIN_SECONDS,
    HTTP_ANSWER_SECONDS,
    HTTP_BACKLOG,
    HTTP_BODY_SECONDS,
    HTTP_CONNECTIONS_MAX,
    HTTP_CONNECTIONS_PER_SOURCE_MAX,
    HTTP_FIRST_SECONDS,
    HTTP_HEAD_SECONDS,
    HTTP_SEND_BUFFER_BYTES,
    HTTP_STRANGERS_MAX,
)
from lookupd.observe.http_counts import HttpCounts
from lookupd.observe.log import log
from lookupd.web.guard import Guard, harden

SWEEP_SECONDS = 1.0

ACCEPT_PAUSE_SECONDS = 1.0
"""When the system has no room for another socket."""


class Connection(web.RequestHandler):
    """What aiohttp does of one connection, and how long each part of it takes."""

    __slots__ = (
        "_asked", "_asked_at", "_heard_at", "_leave", "_made_at", "_stalled_at", "_streams", "_wire", "is_retired",
    )  # fmt: skip

    def __init__(self, server: web.Server, leave: Callable[[Connection], None], **options: object) -> None:
        """leave: told when it has ended. options: aiohttp's."""
        super().__init__(server, loop=asyncio.get_running_loop(), **options)  # type: ignore[arg-type]
        self._leave = leave
        self._wire: asyncio.Transport | None = None
        self._heard_at: float | None = None
        self._stalled_at: float | None = None
        self._asked: web.Request | None = None
        self._asked_at = self._made_at = 0.0
        self._streams = False
        self.is_retired = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._wire = cast(asyncio.Transport, transport)
        self._heard_at = self._made_at = self._loop.time()
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """See asyncio.Protocol."""
        self._wire = None
        self._leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if self._asked is None and self._heard_at is None:
            self._heard_at = self._loop.time()
        super().data_received(data)

    def resume_writing(self) -> None:
        """See asyncio.Protocol: so much was taken that more is welcome."""
        self._stalled_at = None
        super().resume_writing()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """For what is no request, and for faults of ours; nothing of either is told to the peer."""
        response = super().handle_error(request, status, exc, message)
        if isinstance(response, web.Response):
            response.text = "no HTTP request that is understood here\n" if status < 500 else "failed\n"
        harden(response)
        return response

    def begin(self, request: web.Request, *, streams: bool = False) -> None:
        """Its head is there, and it is being answered. streams: its handler says how long the body may take."""
        self._streams = streams
        self._asked, self._asked_at, self._heard_at = request, self._loop.time(), None

    def end(self) -> None:
        """It has an answer."""
        self._asked = self._heard_at = None

    @property
    def is_new(self) -> bool:
        """Whether nothing was asked on it yet, and it may well be soon."""
        return self._wire is not None and not self._asked_at and self._loop.time() - self._made_at < HTTP_FIRST_SECONDS

    def overdue(self, now: float) -> str | None:
        """Why it should end: of HTTP_CLOSURES. None = it may go on."""
        if self._wire is None:
            return None
        if not self._wire.get_write_buffer_size():
            self._stalled_at = None
        elif self._stalled_at is None:
            self._stalled_at = now
        elif now - self._stalled_at > HTTP_ANSWER_SECONDS:
            return "slow_reader"
        if self._asked is not None:
            is_whole = self._streams or self._asked.content.is_eof()
            return None if is_whole or now - self._asked_at <= HTTP_BODY_SECONDS else "slow_request"
        is_late = self._heard_at is not None and now - self._heard_at > HTTP_HEAD_SECONDS
        return "slow_request" if is_late else None

    def retire(self) -> None:
        """End it as soon as nothing is being answered: what it was let in with is not in force any more."""
        self.is_retired = True
        if self._asked is None and self._wire is not None:
            self._wire.close()

    def abort(self) -> None:
        """End it now."""
        if self._wire is not None:
            self._wire.abort()


class Acceptor:
    """Takes the connections of one listening socket, and looks after them until closed."""

    def __init__(
        self,
        sock: socket.socket,
        guard: Guard,
        counts: HttpCounts,
        make: Callable[[Callable[[Connection], None]], Connection],
    ) -> None:
        """sock: bound, non-blocking. make: a connection, given whom to tell when it ends."""
        self._sock, self._guard, self._counts, self._make = sock, guard, counts, make
        self._places = Places(counts)
        self._connections: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._accepting: asyncio.Task[None] | None = None
        self._sweeper: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Take connections from now on."""
        self._sock.listen(HTTP_BACKLOG)
        loop = asyncio.get_running_loop()
        self._accepting = loop.create_task(self._accept())
        self._accepting.add_done_callback(_raise)
        self._sweeper = loop.call_later(SWEEP_SECONDS, self._sweep)

    async def stop(self) -> None:
        """Take no more; those that were taken a moment ago may still ask what they came for."""
        if self._accepting is None:
            return
        self._accepting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._accepting
        self._sock.close()
        loop = asyncio.get_running_loop()
        until = loop.time() + HTTP_FIRST_SECONDS
        while loop.time() < until and (self._tasks or any(each.is_new for each in self._connections)):
            await asyncio.sleep(0.01)
        for task in self._tasks:
            task.cancel()

    async def abort(self) -> None:
        """End what is left."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        for connection in list(self._connections):
            connection.abort()
        loop = asyncio.get_running_loop()
        until = loop.time() + DRAIN_SECONDS
        while (self._connections or self._tasks) and loop.time() < until:
            await asyncio.sleep(0.01)

    def retire(self) -> None:
        """TLS has changed: connections under the earlier one end."""
        for connection in list(self._connections):
            connection.retire()

    def _sweep(self) -> None:
        """One timer for all connections."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        for connection in list(self._connections):
            if connection.is_retired:
                connection.retire()
            reason = connection.overdue(now)
            if reason is not None:
                self._counts.closed[reason] += 1
                connection.abort()
        self._sweeper = loop.call_later(SWEEP_SECONDS, self._sweep)

    async def _accept(self) -> None:
        """One at a time: after each, whoever else has something to do on this loop does it."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, address = await loop.sock_accept(self._sock)
            except OSError as error:
                if error.errno in {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}:
                    log("http_accept_failed", reason=error.strerror)
                    await asyncio.sleep(ACCEPT_PAUSE_SECONDS)
                    continue  # others are of a connection that ended before we took it
            else:
                self._take(sock, address[0], address[1])
            await asyncio.sleep(0)

    def _take(self, sock: socket.socket, host: str, port: int) -> None:
        guard = self._guard
        is_listed = guard.is_listed(host, port)
        if guard.context is not None and not is_listed:
            self._counts.refused["unknown_client"] += 1
            sock.close()  # a handshake is work
            return
        leave = self._places.take(host, is_listed=is_listed, is_own=guard.is_own(host, port))
        if leave is None:
            self._counts.closed["crowded"] += 1
            sock.close()
            return
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, HTTP_SEND_BUFFER_BYTES)
        task = asyncio.create_task(self._begin(sock, guard.context, leave))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _begin(self, sock: socket.socket, context: ssl.SSLContext | None, leave: Callable[[], None]) -> None:
        """Until TLS is agreed on; then aiohttp goes on by itself. leave: gives its place back."""

        def left(connection: Connection) -> None:
            self._connections.discard(connection)
            leave()

        def make() -> Connection:
            connection = self._make(left)
            self._connections.add(connection)
            return connection

        seconds = None if context is None else HTTP_HEAD_SECONDS
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                make, sock, ssl=context, ssl_handshake_timeout=seconds
            )
        except OSError:  # and so SSLError and TimeoutError
            self._counts.closed["handshake"] += 1
            leave()
        except BaseException:
            leave()
            sock.close()
            raise


class Places:
    """How many connections there are, of whom."""

    def __init__(self, counts: HttpCounts) -> None:
        self._counts = counts
        self._per_source: Counter[str] = Counter()
        self._open = self._strangers = 0

    def take(self, host: str, *, is_listed: bool, is_own: bool) -> Callable[[], None] | None:
        """A place, and how it is given back, once or oftener; None if there is none. The daemon itself always has one,
        since it is how it finds out whether it answers."""
        if not is_own and (
            self._open >= HTTP_CONNECTIONS_MAX
            or self._per_source[host] >= HTTP_CONNECTIONS_PER_SOURCE_MAX
            or (not is_listed and self._strangers >= HTTP_STRANGERS_MAX)
        ):
            return None
        self._move(host, not is_listed, 1)
        is_taken = True

        def leave() -> None:
            nonlocal is_taken
            if is_taken:
                is_taken = False
                self._move(host, not is_listed, -1)

        return leave

    def _move(self, host: str, is_stranger: bool, by: int) -> None:
        self._open += by
        self._strangers += by * is_stranger
        self._counts.connections += by
        self._per_source[host] += by
        if not self._per_source[host]:
            del self._per_source[host]


def _raise(task: asyncio.Task[None]) -> None:
    """What escapes it is our own fault, and told to the loop."""
    if not task.cancelled():
        task.result()
