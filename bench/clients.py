"""The asking side: ways to keep a fixed number of questions under way on plain sockets.

Every loop sends each message once and waits a bounded time for replies; it looks at none of them. The same
loops ask the echo and the daemon, so what they cost themselves is the same for both. They wait awake: a
client that sleeps has to be woken, which on one machine is the server's work and more than the server's own.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from lookupd.protocols.npq import FRAME_HEADER

REPLY_SECONDS_MAX = 1.0
IN_FLIGHT = 32
SOCKETS = 16
READ_BYTES = 1 << 16
"""No datagram is longer; of a stream, what comes at once."""

Address = tuple[str, int]


@dataclass(frozen=True)
class Asked:
    """What became of the questions. latency_ns: of each, when they were asked one at a time."""

    lost: int
    latency_ns: list[int] = field(default_factory=list)


Ask = Callable[[Address, list[bytes]], Asked]


def _udp_socket(address: Address) -> socket.socket:
    """Connected, not blocking."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.connect(address)
    return sock


def _receive(sock: socket.socket) -> bytes | None:
    """What comes next, waited for awake; None if nothing comes in time, b"" at the end of a stream."""
    until = time.monotonic() + REPLY_SECONDS_MAX
    while time.monotonic() < until:
        try:
            return sock.recv(READ_BYTES)
        except BlockingIOError:
            continue
    return None


def replies(address: Address, messages: list[bytes]) -> list[bytes]:
    """The reply to each message, asked one at a time; those that got none are left out."""
    found = []
    with _udp_socket(address) as sock:
        for message in messages:
            sock.send(message)
            found.append(_receive(sock))
    return [reply for reply in found if reply is not None]


def one_socket(address: Address, messages: list[bytes]) -> Asked:
    """IN_FLIGHT questions under way on one socket: as many are sent as replies were there to read."""
    total = len(messages)
    sent = done = lost = 0
    with _udp_socket(address) as sock:
        while done < total:
            for message in messages[sent : done + IN_FLIGHT]:
                sock.send(message)
            sent = min(done + IN_FLIGHT, total)
            got = _receive_all(sock, sent - done)
            if not got:  # what is under way is given up
                lost += sent - done
                done = sent
            done += got
    return Asked(lost)


def _receive_all(sock: socket.socket, most: int) -> int:
    """Wait for one reply and take those behind it, `most` in all; returns how many, 0 if none came in time."""
    if _receive(sock) is None:
        return 0
    for got in range(1, most):
        try:
            sock.recv(READ_BYTES)
        except BlockingIOError:
            return got
    return most


def many_sockets(address: Address, messages: list[bytes]) -> Asked:
    """SOCKETS sockets, each with one question under way."""
    with contextlib.ExitStack() as stack:
        by_fd = {sock.fileno(): sock for sock in (stack.enter_context(_udp_socket(address)) for _ in range(SOCKETS))}
        poll = stack.enter_context(select.epoll())
        for fd in by_fd:
            poll.register(fd, select.EPOLLIN)
        return _ask_many(by_fd, poll, messages)


def _ask_many(by_fd: dict[int, socket.socket], poll: select.epoll, messages: list[bytes]) -> Asked:
    total = len(messages)
    sent = done = lost = 0
    free = list(by_fd)
    while done < total:
        for fd in free[: total - sent]:
            by_fd[fd].send(messages[sent])
            sent += 1
        free = _wait(poll)
        for fd in free:
            by_fd[fd].recv(READ_BYTES)
        done += len(free)
        if not free:  # what is under way is given up
            lost += sent - done
            done = sent
            free = list(by_fd)
    return Asked(lost)


def _wait(poll: select.epoll) -> list[int]:
    """Which sockets have a reply, waited for awake; none if none comes in time."""
    until = time.monotonic() + REPLY_SECONDS_MAX
    while time.monotonic() < until:
        if ready := poll.poll(0, SOCKETS):
            return [fd for fd, _ in ready]
    return []


def alone(address: Address, messages: list[bytes]) -> Asked:
    """One question at a time on one socket, each timed."""
    latency_ns = []
    lost = 0
    clock = time.perf_counter_ns
    with _udp_socket(address) as sock:
        for message in messages:
            started = clock()
            sock.send(message)
            if _receive(sock) is None:
                lost += 1
            else:
                latency_ns.append(clock() - started)
    return Asked(lost, latency_ns)


def pipelined(address: Address, messages: list[bytes]) -> Asked:
    """One TCP connection with IN_FLIGHT frames under way; messages are whole frames."""
    return _ask_frames(address, messages, IN_FLIGHT)


def frame_by_frame(address: Address, messages: list[bytes]) -> Asked:
    """One TCP connection with one frame under way; messages are whole frames."""
    return _ask_frames(address, messages, 1)


def _ask_frames(address: Address, messages: list[bytes], in_flight: int) -> Asked:
    """Raises ConnectionError when the server closes or falls silent: nothing is lost on a connection."""
    total = len(messages)
    sent = done = 0
    received = bytearray()
    with socket.create_connection(address, REPLY_SECONDS_MAX) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while done < total:
            sock.settimeout(REPLY_SECONDS_MAX)
            sock.sendall(b"".join(messages[sent : done + in_flight]))
            sock.setblocking(False)
            sent = min(done + in_flight, total)
            before = done
            while done == before:
                piece = _receive(sock)
                if not piece:
                    raise ConnectionError(f"silent or closed after {done} of {total} frames")
                received += piece
                done += _take_frames(received)
    return Asked(0)


def _take_frames(received: bytearray) -> int:
    """How many whole frames were there; they are taken off."""
    at = frames = 0
    while len(received) - at >= FRAME_HEADER.size:
        end = at + FRAME_HEADER.size + FRAME_HEADER.unpack_from(received, at)[0]
        if end > len(received):
            break
        at = end
        frames += 1
    del received[:at]
    return frames
