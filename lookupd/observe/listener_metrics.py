"""What the kernel and the engine tell of the listeners' sockets, in Prometheus' text format; read on scrape.

What became of the queries that were read is `metrics`'.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Protocol, runtime_checkable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from lookupd.transports.inherited import Key
from lookupd.transports.listeners import Listener
from lookupd.transports.tcp import TcpListener

SO_MEMINFO = 55
"""linux/socket.h: a socket's memory, as nine numbers; Python's socket module has no name for it."""

_MEMINFO = struct.Struct("@9I")
_QUEUED, _BUFFER, _DROPS = 0, 1, 8
"""SK_MEMINFO_RMEM_ALLOC, SK_MEMINFO_RCVBUF, SK_MEMINFO_DROPS of linux/sock_diag.h."""

_WRAP = 1 << 32
"""The kernel counts drops in 32 bits."""

OFFLOADS = ("gro", "gso")
"""Datagrams joined on receipt, replies joined on sending; the closed set of a metric's label."""

Place = tuple[str, str]
"""Dialect and transport."""


@runtime_checkable
class Offloading(Protocol):
    """A listener of the native engine."""

    def offloads(self) -> tuple[bool, bool]:
        """By OFFLOADS."""
        ...


class ListenerMetrics(Collector):
    """Of all listeners that are open."""

    def __init__(self, listeners: Callable[[], Iterable[tuple[Key, Listener]]]) -> None:
        self._listeners = listeners
        self._drops: dict[Place, int] = {}
        self._seen: dict[int, int] = {}

    def describe(self) -> Iterable[Metric]:
        """Nothing: so that registering collects nothing."""
        return []

    def keep(self, key: Key, listener: Listener) -> None:
        """A listener is about to end: what its sockets dropped by now stays in the sums."""
        place = key[0], key[1].protocol
        for sock in listener.sockets:
            told = _memory(sock)
            if told is not None:
                self._count(place, sock, told[_DROPS])
            self._seen.pop(_cookie(sock), None)

    def collect(self) -> Iterator[Metric]:
        """One scrape."""
        labels = ["dialect", "transport"]
        queued = GaugeMetricFamily(
            "lookupd_listener_queue_bytes", "Memory of datagrams that wait to be read.", labels=labels
        )
        buffer = GaugeMetricFamily(
            "lookupd_listener_buffer_bytes", "Memory that datagrams may take while they wait.", labels=labels
        )
        for place, (waiting, room) in self._look().items():
            if place[1] == "udp":
                queued.add_metric(place, waiting)
                buffer.add_metric(place, room)
        drops = CounterMetricFamily(
            "lookupd_listener_kernel_drops",
            "What the kernel dropped at our sockets: datagrams without room, connections that nobody took.",
            labels=labels,
        )
        for place, count in self._drops.items():
            drops.add_metric(place, count)
        yield from (drops, queued, buffer, *self._collect_states())

    def _look(self) -> dict[Place, tuple[int, int]]:
        """Bytes that wait, and that may, by place."""
        found: dict[Place, tuple[int, int]] = {}
        for (dialect, endpoint), listener in self._listeners():
            place = dialect, endpoint.protocol
            self._drops.setdefault(place, 0)
            for sock in listener.sockets:
                told = _memory(sock)
                if told is None:
                    continue
                self._count(place, sock, told[_DROPS])
                waiting, room = found.get(place, (0, 0))
                found[place] = waiting + told[_QUEUED], room + told[_BUFFER]
        return found

    def _count(self, place: Place, sock: socket.socket, drops: int) -> None:
        cookie = _cookie(sock)
        more = (drops - self._seen.get(cookie, 0)) % _WRAP
        self._seen[cookie] = drops
        self._drops[place] = self._drops.get(place, 0) + more

    def _collect_states(self) -> Iterator[Metric]:
        offload = GaugeMetricFamily(
            "lookupd_listener_offload",
            "1 if the kernel joins datagrams on receipt (gro), replies on sending (gso); of the native engine.",
            labels=["dialect", "offload"],
        )
        connections = GaugeMetricFamily(
            "lookupd_connections_open", "TCP connections that are open.", labels=["dialect"]
        )
        states: dict[str, tuple[bool, ...]] = {}
        counts: dict[str, int] = {}
        for (dialect, _), listener in self._listeners():
            server = getattr(listener, "server", None)
            if isinstance(server, Offloading):
                found = server.offloads()
                states[dialect] = tuple(a and b for a, b in zip(states.get(dialect, found), found, strict=True))
            elif isinstance(listener, TcpListener):
                counts[dialect] = counts.get(dialect, 0) + len(listener.connections)
        for dialect, state in states.items():
            for name, is_on in zip(OFFLOADS, state, strict=True):
                offload.add_metric([dialect, name], float(is_on))
        for dialect, count in counts.items():
            connections.add_metric([dialect], count)
        yield from (offload, connections)


def _memory(sock: socket.socket) -> tuple[int, ...] | None:
    """None if the kernel does not tell, or the socket is closed."""
    with suppress(OSError, struct.error):
        return _MEMINFO.unpack(sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, _MEMINFO.size))
    return None


SO_COOKIE = 57
_COOKIE = struct.Struct("@Q")


def _cookie(sock: socket.socket) -> int:
    """The kernel's name of a socket, the same for its duplicates and never given again; 0 if it is closed."""
    with suppress(OSError, struct.error):
        return int(_COOKIE.unpack(sock.getsockopt(socket.SOL_SOCKET, SO_COOKIE, _COOKIE.size))[0])
    return 0
