"""One UDP socket: datagrams in batches, each handed to a responder, its reply sent back at once."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
import time
from collections.abc import Callable

from lookupd.access import Access
from lookupd.fastpath.batch import Responder
from lookupd.limits import DATAGRAM_BYTES_MAX, DATAGRAMS_PER_BATCH, REPLIES_JOINED_MAX
from lookupd.observe.counters import UNKNOWN_CLIENT
from lookupd.transports.sockets import (
    IPPROTO_UDP,
    JOINED_SIZE,
    SEGMENT_SIZE,
    SO_TIMESTAMPNS,
    TIMESPEC,
    UDP_GRO,
    UDP_SEGMENT,
    joins_datagrams,
    reply_destination,
)

_ANCILLARY_BYTES = socket.CMSG_SPACE(TIMESPEC.size) + socket.CMSG_SPACE(20)
"""Room for the time of arrival and for one packet-information structure."""

_ANCILLARY_JOINED_BYTES = _ANCILLARY_BYTES + socket.CMSG_SPACE(JOINED_SIZE.size)
"""And for the size of each of the datagrams that came as one."""

Ancillary = list[tuple[int, int, bytes]]
Peer = tuple[str, int] | tuple[str, int, int, int]

MSG_DONTWAIT = socket.MSG_DONTWAIT
"""In each call: a process that shares the socket with us, before or after us, may have made it a blocking one."""

_NO_ANCILLARY: Ancillary = []
_ALWAYS = 1 << 63

_NO_SEGMENTS = frozenset({errno.EIO, errno.EINVAL, errno.ENOPROTOOPT, errno.EOPNOTSUPP})
"""A kernel without UDP_SEGMENT, or a device that cannot checksum the pieces."""


class UdpListener:
    """Serves one bound socket until closed.

    It reads the socket itself, since asyncio's datagram transport tells neither when a datagram arrived
    nor where one batch ends.
    """

    def __init__(
        self, sock: socket.socket, responder: Responder, access: Access, begin_batch: Callable[[], None]
    ) -> None:
        """sock: bound; owned from now on. begin_batch: pins the newest state."""
        self.access = access
        self._sock = sock
        self._responder = responder
        self._begin_batch = begin_batch
        self._wildcard = ipaddress.ip_address(sock.getsockname()[0]).is_unspecified
        # Until this moment of the monotonic clock no datagram can be late and the kernel need not be asked
        # when it arrived, which costs a tenth of a query. See `_socket_is_empty`.
        self._fresh_until = 0 if responder.late_ns or self._wildcard else _ALWAYS
        # Replies of one length to one peer that follow one another leave in one system call; on an address
        # that stands for all, each may have to leave from another one, and goes alone.
        self._run: list[bytes] = []
        self._replied = 0
        self._run_peer: Peer = ("", 0)
        self._run_ancillary = _NO_ANCILLARY
        self._run_max = 1 if self._wildcard else REPLIES_JOINED_MAX
        self._failure: str | None = None
        self._is_joined = joins_datagrams(sock)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(sock, self.read_batch)

    def use_access(self, access: Access) -> None:
        """A new clients list."""
        self.access = access

    def failure(self) -> str | None:
        """Why the socket cannot be read any more; what else goes wrong here ends the event loop."""
        return self._failure

    @property
    def port(self) -> int:
        """Where it listens."""
        port: int = self._sock.getsockname()[1]
        return port

    @property
    def sockets(self) -> list[socket.socket]:
        """What it listens on, for whoever follows us."""
        return [self._sock]

    def pause(self) -> None:
        """Read nothing; what arrives waits in the socket."""
        self._loop.remove_reader(self._sock)

    def resume(self) -> None:
        """Read again, as before `pause`."""
        self._is_joined = joins_datagrams(self._sock)
        self._loop.add_reader(self._sock, self.read_batch)

    def read_batch(self) -> None:
        """Answer what is there, up to a bound; the loop calls again if more is left."""
        receive, receive_with_ancillary = self._sock.recvfrom, self._sock.recvmsg
        responder, serve, clock = self._responder, self._serve, time.monotonic_ns
        bytes_max = responder.message_bytes_max
        self._begin_batch()
        now_ns = clock()
        ancillary, run = _NO_ANCILLARY, self._run
        for _ in range(DATAGRAMS_PER_BATCH):
            try:
                fresh = clock() < self._fresh_until
                if self._is_joined:
                    self._read_joined(now_ns)
                    continue
                if fresh:
                    datagram, peer = receive(bytes_max, MSG_DONTWAIT)
                else:
                    datagram, ancillary, _, peer = receive_with_ancillary(bytes_max, _ANCILLARY_BYTES, MSG_DONTWAIT)
            except (BlockingIOError, InterruptedError):
                self._socket_is_empty()
                break
            except OSError as error:
                # Mostly an ICMP error of an earlier reply, told on this socket: the next read goes on. ECONNABORTED:
                # an operator has destroyed the socket (`ss -K`); it has no address any more.
                if error.errno == errno.ECONNABORTED:
                    self._failure = error.strerror
                continue
            serve(datagram, peer, not fresh and self._is_late(ancillary), ancillary, now_ns)
        if run:
            self._send_run()
        self._replied = 0
        responder.settle()

    def _read_joined(self, now_ns: int) -> None:
        """One datagram, or several of one size that the kernel joined. Raises OSError."""
        joined, ancillary, _, peer = self._sock.recvmsg(DATAGRAM_BYTES_MAX, _ANCILLARY_JOINED_BYTES, MSG_DONTWAIT)
        late = self._is_late(ancillary)
        size = _joined_size(ancillary) or len(joined) or 1
        for at in range(0, len(joined) or 1, size):  # an empty one counts as one
            datagram = joined[at : at + size][: self._responder.message_bytes_max]
            self._serve(datagram, peer, late, ancillary, now_ns)

    def _serve(self, datagram: bytes, peer: Peer, late: bool, ancillary: Ancillary, now_ns: int) -> None:
        responder = self._responder
        client = self.access.find_asker(peer[0], peer[1])
        if client is None:
            responder.counters.received += 1
            responder.counters.refused[UNKNOWN_CLIENT] += 1
        elif late:
            responder.drop_late(client, peer)
        else:
            reply = responder.respond(datagram, client, now_ns, peer)
            if reply is None:
                return
            if responder.reply_port:
                peer = (peer[0], responder.reply_port, *peer[2:])
            self._send_later(reply, peer, ancillary)

    def _send_later(self, reply: bytes, peer: Peer, ancillary: Ancillary) -> None:
        run = self._run
        if run and (peer != self._run_peer or len(reply) != len(run[0]) or len(run) >= self._run_max):
            self._send_run()
        run.append(reply)
        self._run_peer = peer
        self._run_ancillary = ancillary

    def _is_late(self, ancillary: Ancillary) -> bool:
        late_ns = self._responder.late_ns
        return late_ns != 0 and time.time_ns() - _arrived_ns(ancillary) > late_ns

    def _socket_is_empty(self) -> None:
        """What is read from now on arrived after now; half the limit later it is not half the limit old."""
        if self._responder.late_ns and not self._wildcard:
            self._fresh_until = time.monotonic_ns() + self._responder.late_ns // 2

    def _send_run(self) -> None:
        run, peer = self._run, self._run_peer
        try:
            if len(run) > 1:
                self._send_joined(run, peer)
            elif self._wildcard:
                self._sock.sendmsg(run, reply_destination(self._run_ancillary), MSG_DONTWAIT, peer)
            else:
                self._sock.sendto(run[0], MSG_DONTWAIT, peer)
        except OSError:  # no room in the socket's buffer, or the peer cannot be reached: it will ask again
            self._responder.take_back(self._replied, len(run))
        self._replied += len(run)
        run.clear()

    def _send_joined(self, run: list[bytes], peer: Peer) -> None:
        """The kernel cuts the bytes into datagrams again (UDP_SEGMENT); where it cannot, each goes alone."""
        segment = [(IPPROTO_UDP, UDP_SEGMENT, SEGMENT_SIZE.pack(len(run[0])))]
        try:
            self._sock.sendmsg([b"".join(run)], segment, MSG_DONTWAIT, peer)
        except OSError as error:
            if error.errno not in _NO_SEGMENTS:
                raise
            for reply in run:
                self._sock.sendto(reply, MSG_DONTWAIT, peer)
            self._run_max = 1  # only now: a peer that cannot be reached at all says nothing about the kernel

    async def close(self) -> None:
        """Answer what has arrived, then close the socket."""
        self._is_joined = joins_datagrams(self._sock)  # a native engine that follows has them joined by now
        self.read_batch()
        self._loop.remove_reader(self._sock)
        self._sock.close()


def _arrived_ns(ancillary: Ancillary) -> int:
    """Kernel's time of arrival in nanoseconds since 1970; 0, long ago, if it was not told."""
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == SO_TIMESTAMPNS:
            seconds, nanoseconds = TIMESPEC.unpack(data[: TIMESPEC.size])
            return int(seconds * 1_000_000_000 + nanoseconds)
    return 0


def _joined_size(ancillary: Ancillary) -> int:
    """Of each of the datagrams that came as one, the last of which may be shorter; 0 = one came."""
    for level, kind, data in ancillary:
        if (level, kind) == (IPPROTO_UDP, UDP_GRO):
            return int(JOINED_SIZE.unpack(data[: JOINED_SIZE.size])[0])
    return 0


class UdpListeners:
    """Several sockets of one address, as one listener: those of the native engine's workers, handed on to us."""

    def __init__(self, listeners: list[UdpListener]) -> None:
        """listeners: at least one."""
        self._listeners = listeners

    @property
    def port(self) -> int:
        """See UdpListener."""
        return self._listeners[0].port

    @property
    def sockets(self) -> list[socket.socket]:
        """See UdpListener."""
        return [sock for listener in self._listeners for sock in listener.sockets]

    def use_access(self, access: Access) -> None:
        """See UdpListener."""
        for listener in self._listeners:
            listener.use_access(access)

    def failure(self) -> str | None:
        """See UdpListener."""
        return next((failure for listener in self._listeners if (failure := listener.failure())), None)

    def pause(self) -> None:
        """See UdpListener."""
        for listener in self._listeners:
            listener.pause()

    def resume(self) -> None:
        """See UdpListener."""
        for listener in self._listeners:
            listener.resume()

    async def close(self) -> None:
        """See UdpListener."""
        for listener in self._listeners:
            await listener.close()
