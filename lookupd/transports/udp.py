"""One UDP socket: datagrams in batches, each handed to a responder, its reply sent back at once."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import time
from collections.abc import Callable

from lookupd.access import Access
from lookupd.fastpath.batch import Responder
from lookupd.limits import DATAGRAM_BYTES_MAX, DATAGRAMS_PER_BATCH
from lookupd.observe.counters import LATE, UNKNOWN_CLIENT
from lookupd.transports.sockets import SO_TIMESTAMPNS, TIMESPEC, reply_destination

_ANCILLARY_BYTES = socket.CMSG_SPACE(TIMESPEC.size) + socket.CMSG_SPACE(20)
"""Room for the time of arrival and for one packet-information structure."""


class UdpListener:
    """Serves one bound socket until closed.

    It reads the socket itself, since asyncio's datagram transport tells neither when a datagram arrived
    nor where one batch ends.
    """

    def __init__(
        self, sock: socket.socket, responder: Responder, access: Access, begin_batch: Callable[[], None]
    ) -> None:
        """sock: bound, non-blocking; owned from now on. begin_batch: pins the newest state."""
        self.access = access
        self._sock = sock
        self._responder = responder
        self._begin_batch = begin_batch
        self._wildcard = ipaddress.ip_address(sock.getsockname()[0]).is_unspecified
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(sock, self.read_batch)

    @property
    def port(self) -> int:
        """Where it listens."""
        port: int = self._sock.getsockname()[1]
        return port

    def read_batch(self) -> None:
        """Answer what is there, up to a bound; the loop calls again if more is left."""
        receive, respond = self._sock.recvmsg, self._responder.respond
        counters, find_client = self._responder.counters, self.access.find
        late_ns = self._responder.late_ns
        self._begin_batch()
        now = time.monotonic()
        for _ in range(DATAGRAMS_PER_BATCH):
            try:
                datagram, ancillary, _, peer = receive(DATAGRAM_BYTES_MAX, _ANCILLARY_BYTES)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                continue  # an ICMP error of an earlier reply, told on this socket: the next read goes on
            client = find_client(peer[0])
            if client is None:
                counters.received += 1
                counters.refused[UNKNOWN_CLIENT] += 1
                continue
            if late_ns and time.time_ns() - _arrived_ns(ancillary) > late_ns:
                counters.received += 1
                counters.dropped[LATE] += 1
                continue
            reply = respond(datagram, client, now)
            if reply is not None:
                self._send(reply, peer, ancillary)

    def _send(self, reply: bytes, peer: tuple[str, int], ancillary: list[tuple[int, int, bytes]]) -> None:
        try:
            if self._wildcard:
                self._sock.sendmsg([reply], reply_destination(ancillary), 0, peer)
            else:
                self._sock.sendto(reply, peer)
        except OSError:  # no room in the socket's buffer, or the peer cannot be reached: it will ask again
            self._responder.take_back()

    def close(self) -> None:
        """Answer what has arrived, then close the socket."""
        self.read_batch()
        self._loop.remove_reader(self._sock)
        self._sock.close()


def _arrived_ns(ancillary: list[tuple[int, int, bytes]]) -> int:
    """Kernel's time of arrival in nanoseconds since 1970; 0, long ago, if it was not told."""
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == SO_TIMESTAMPNS:
            seconds, nanoseconds = TIMESPEC.unpack(data[: TIMESPEC.size])
            return int(seconds * 1_000_000_000 + nanoseconds)
    return 0
