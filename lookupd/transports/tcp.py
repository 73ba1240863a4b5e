"""TCP connections: messages answered in order, bounded buffers, idle and slow peers.

Where a message ends in the stream is the dialect's framing; what it means is the responder's.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

from lookupd.access import Access, Client
from lookupd.fastpath.path import FrameResponder
from lookupd.limits import (
    CONNECTIONS_MAX,
    CONNECTIONS_PER_SOURCE_MAX,
    FRAME_SECONDS,
    WRITE_BUFFER_BYTES_MAX,
)
from lookupd.observe.counters import ConnectionCounters
from lookupd.protocols.framing import Framing

SWEEP_SECONDS = 1.0

FLUSH_BYTES = 65_536
"""Answers joined into one write: a system call costs as much as ten of them."""


class TcpListener:
    """Serves one bound socket until closed, and looks after its connections."""

    def __init__(
        self,
        sock: socket.socket,
        make_responder: Callable[[], FrameResponder],
        make_framing: Callable[[], Framing],
        access: Access,
        begin_batch: Callable[[], None],
        end_batch: Callable[[], None],
        counters: ConnectionCounters,
    ) -> None:
        """sock: bound, non-blocking; owned from now on. make_responder, make_framing: for each connection.

        begin_batch: pins the newest state; end_batch: lets go of it.
        """
        self.access = access
        self.make_responder = make_responder
        self.make_framing = make_framing
        self.begin_batch = begin_batch
        self.end_batch = end_batch
        self.counters = counters
        self.connections: set[Connection] = set()
        self.per_source: Counter[str] = Counter()
        self._sock = sock
        self._server: asyncio.Server | None = None
        self._sweeper: asyncio.TimerHandle | None = None

    @property
    def port(self) -> int:
        """Where it listens."""
        port: int = self._sock.getsockname()[1]
        return port

    @property
    def sockets(self) -> list[socket.socket]:
        """What it listens on, for whoever follows us."""
        return [self._sock]

    async def start(self) -> None:
        """Take connections from now on."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self), sock=self._sock)
        self._sweeper = loop.call_later(SWEEP_SECONDS, self._sweep)

    def _sweep(self) -> None:
        """One timer for all connections: close those that ask nothing or take nothing."""
        loop = asyncio.get_running_loop()
        for connection in list(self.connections):
            connection.check(loop.time())
        self._sweeper = loop.call_later(SWEEP_SECONDS, self._sweep)

    def use_access(self, access: Access) -> None:
        """A new clients list; connections of those no longer on it are closed."""
        self.access = access
        for connection in list(self.connections):
            connection.use_access(access)

    async def adopt(self, sock: socket.socket, received: bytes) -> None:
        """Go on with a connection of the process before this one. received: of a message that has begun."""
        loop = asyncio.get_running_loop()
        sock.setblocking(False)
        await loop.connect_accepted_socket(lambda: Connection(self, received, adopted=True), sock)

    async def hand_over(self, drain_seconds: float) -> AsyncIterator[tuple[socket.socket, bytes]]:
        """Take no more connections; give away each that there is, between two messages, with what of the next one
        has come. Those whose peer takes no answers stay, for `close`."""
        self._stop_accepting()
        until = time.monotonic() + drain_seconds
        while True:
            for connection in list(self.connections):
                given = connection.give_away()
                if given is not None:
                    yield given
            if not self.connections or time.monotonic() > until:
                return
            await asyncio.sleep(0.01)

    def _stop_accepting(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
        if self._server is not None:
            self._server.close()

    async def close(self, drain_seconds: float) -> None:
        """Take no more connections, let answers leave, close the rest."""
        self._stop_accepting()
        for connection in list(self.connections):
            connection.close("drain")
        until = time.monotonic() + drain_seconds
        while self.connections and time.monotonic() < until:
            await asyncio.sleep(0.01)
        for connection in list(self.connections):
            connection.abort("drain")


class Connection(asyncio.Protocol):
    """One peer: frames in, frames out, in order.

    While the peer takes no answers, no more of its questions are read: what waits for it is bounded by
    WRITE_BUFFER_BYTES_MAX and one answer, what it sent by one frame and one read.
    """

    def __init__(self, listener: TcpListener, received: bytes = b"", *, adopted: bool = False) -> None:
        """received: of a message that began in the process before this one. adopted: which had a place for it."""
        self._listener = listener
        self._responder = listener.make_responder()
        self._framing = listener.make_framing()
        self._peer: tuple[Any, ...] = ()
        self._client: Client | None = None
        self._host = ""
        self._transport: asyncio.Transport | None = None
        self._received = bytearray(received)
        self._adopted = adopted
        self._blocked = False
        self._closing = False
        self._lingering = False
        self._at_end = False
        self._reason = "peer"
        self._since = 0.0
        self._deadline = self._framing.idle_seconds

    # -- called by the event loop ------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take it, or end it at once and count why."""
        transport = cast(asyncio.Transport, transport)  # uvloop's own class, which does not derive from it
        listener = self._listener
        peer = transport.get_extra_info("peername")
        self._peer = peer or ("", 0)
        self._host = self._peer[0]
        self._client = listener.access.find_asker(self._host, peer[1]) if peer else None
        rejected = None
        if not peer:
            rejected = "gone"  # reset before it was taken
        elif self._client is None:
            rejected = "unknown_client"
        elif self._adopted or listener.access.is_own(self._host, self._peer[1]):
            pass  # it had a place; whether we answer is asked by ourselves, also when all places are taken
        elif len(listener.connections) >= CONNECTIONS_MAX:
            rejected = "too_many"
        elif listener.per_source[self._host] >= CONNECTIONS_PER_SOURCE_MAX:
            rejected = "too_many_from_source"
        if rejected is not None:
            listener.counters.rejected[rejected] += 1
            self._closing = True
            transport.abort()
            return
        self._transport = transport
        transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES_MAX)
        listener.connections.add(self)
        listener.per_source[self._host] += 1
        listener.counters.opened += 1
        self._wait(self._framing.idle_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        """Count why it ended."""
        if self._transport is None:
            return
        listener = self._listener
        listener.connections.discard(self)
        listener.per_source[self._host] -= 1
        if not listener.per_source[self._host]:
            del listener.per_source[self._host]
        listener.counters.closed[self._reason] += 1
        self._transport = None

    def data_received(self, data: bytes) -> None:
        """Answer every frame that is complete."""
        if self._closing:
            return
        self._received += data
        self._serve_frames()

    def eof_received(self) -> bool:
        """The peer asks no more: what it asked is still answered, then the connection ends."""
        self._at_end = True
        if self._lingering and self._transport is not None:
            self._transport.close()
        elif not self._blocked:
            self.close("peer")
        return True

    def pause_writing(self) -> None:
        """The peer takes no answers."""
        self._blocked = True
        if self._transport is not None:
            self._transport.pause_reading()
            self._wait(FRAME_SECONDS)

    def resume_writing(self) -> None:
        """It takes them again: go on with what it had sent."""
        self._blocked = False
        if self._transport is not None and not self._closing:
            self._transport.resume_reading()
            self._wait(self._framing.idle_seconds)
            self._serve_frames()

    # -- frames ------------------------------------------------------------------------------------------

    def _serve_frames(self) -> None:
        """Answer whole frames in lots of FLUSH_BYTES, so that one write carries many answers."""
        received = self._received
        self._listener.begin_batch()
        now_ns = time.monotonic_ns()
        served = False
        while not self._blocked and not self._closing and (taken := self._serve_lot(now_ns)):
            del received[:taken]
            served = True
        self._listener.end_batch()
        if self._blocked or self._closing:
            return
        if self._at_end:
            self.close("peer")
            return
        # A frame's time starts with its first byte; more bytes of it do not start it again.
        if served or not received or self._deadline != FRAME_SECONDS:
            self._wait(FRAME_SECONDS if received else self._framing.idle_seconds)

    def _serve_lot(self, now_ns: int) -> int:
        """Answer whole frames until FLUSH_BYTES of answers are written; returns the bytes of the frames."""
        assert self._client is not None
        assert self._transport is not None
        received, cut, wrap = self._received, self._framing.cut, self._framing.wrap
        replies: list[bytes] = []
        reply_bytes = at = 0
        unframed = told_why = False
        while reply_bytes < FLUSH_BYTES and not unframed:
            frame = cut(received, at)
            if frame.message is not None:
                reply = self._responder.respond(frame.message, self._client, now_ns, self._peer)
                if reply is not None:
                    replies += wrap(reply)
                    reply_bytes += len(reply)
            unframed = frame.last
            told_why = unframed and frame.message is not None
            if frame.end == at:
                break
            at = frame.end
        if replies:
            self._transport.write(b"".join(replies))
            self._responder.settle()
        if told_why:
            self._linger("unframed")
        elif unframed:
            self.close("frame_too_long")
        return at

    # -- time and end ------------------------------------------------------------------------------------

    def _wait(self, seconds: float) -> None:
        self._since = asyncio.get_running_loop().time()
        self._deadline = seconds

    def check(self, now: float) -> None:
        """End the connection if its time is over."""
        if now - self._since > self._deadline:
            idle = self._deadline == self._framing.idle_seconds
            self.abort("idle" if idle else "slow")

    def use_access(self, access: Access) -> None:
        """Ask under a new clients list, or not at all."""
        self._client = access.find(self._host)
        if self._client is None:
            self.close("drain")

    def give_away(self) -> tuple[socket.socket, bytes] | None:
        """A duplicate of the socket, and what of the next message has come; the connection ends here and goes on
        there. None while answers wait to leave, or when it is at its end."""
        transport = self._transport
        if transport is None or self._closing or self._at_end or self._blocked or transport.get_write_buffer_size():
            return None
        transport.pause_reading()
        duplicate = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
        self._closing = True
        self._reason = "handed_over"
        transport.abort()  # closes our descriptor; the connection stays, since the duplicate is open
        return duplicate, self._framing.begun() + self._received

    def close(self, reason: str) -> None:
        """No more questions; answers on their way still leave."""
        if self._transport is not None and (self._lingering or not self._closing):
            self._closing = True
            self._reason = self._reason if self._lingering else reason
            self._transport.close()

    def _linger(self, reason: str) -> None:
        """Answer no more, but read on for a while: to close over unread bytes resets the connection, and the reset may
        overtake the answer that says why."""
        assert self._transport is not None
        if self._at_end:
            self.close(reason)
            return
        self._closing = self._lingering = True
        self._reason = reason
        self._transport.write_eof()
        self._wait(FRAME_SECONDS)

    def abort(self, reason: str) -> None:
        """At once."""
        if self._transport is not None:
            if not self._closing:
                self._reason = reason
            self._closing = True
            self._transport.abort()
