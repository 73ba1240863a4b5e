"""Bind sockets and set their options."""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct

import msgspec

from lookupd.errors import ConfigError
from lookupd.limits import UDP_RECEIVE_BUFFER_BYTES
from lookupd.settings import Endpoint

SO_TIMESTAMPNS = 35
"""linux/socket.h: the kernel notes when each datagram arrived. Python's socket module has no name for it.

It begins to do so a moment after the first socket of the machine asked (net_enable_timestamp defers the
switch); until then a datagram seems to have arrived when it is read.
"""

IP_PKTINFO = 8
"""linux/in.h; Python 3.11's socket module has no name for it either."""

IPPROTO_UDP = socket.IPPROTO_UDP
UDP_SEGMENT = 103
"""linux/udp.h: cut what is sent into datagrams of a given size."""

UDP_GRO = 104
"""linux/udp.h: hand over datagrams of one size that arrived back to back as one; that size is told beside them."""

SEGMENT_SIZE = struct.Struct("@H")
JOINED_SIZE = struct.Struct("@i")
TIMESPEC = struct.Struct("@qq")


def bind(endpoint: Endpoint, *, shared: bool = False) -> socket.socket:
    """A bound socket, non-blocking if it is for TCP. Raises ConfigError: the endpoint, the reason and the way out.

    shared: beside other sockets of this process on the same address, which allow it.
    """
    stream = endpoint.transport != "udp"
    family = socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET
    sock = None
    try:
        sock = socket.socket(family, socket.SOCK_STREAM if stream else socket.SOCK_DGRAM)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if stream:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        elif shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        prepare(sock, endpoint)
        sock.bind((endpoint.host, endpoint.port))
    except OSError as error:
        if sock is not None:
            sock.close()
        raise cannot_listen(endpoint, error) from None
    return sock


def prepare(sock: socket.socket, endpoint: Endpoint) -> None:
    """Set what our reading needs, on a socket of ours or on one that was bound before we began. Raises OSError."""
    if endpoint.transport != "udp":
        sock.setblocking(False)
    else:
        # Whether it blocks is left alone: that is of the socket, not of ours, and workers of the process before us may
        # still sleep in it. The Python path asks in each call not to wait; its event loop has the socket not block all
        # the same, which the native engine takes back if it serves on.
        # The kernel tells twice what was asked for. Systemd may have forced more than we are allowed to ask for.
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) < 2 * UDP_RECEIVE_BUFFER_BYTES:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, UDP_RECEIVE_BUFFER_BYTES)
        sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        _tell_destination(sock, endpoint)


def cannot_listen(endpoint: Endpoint, error: OSError) -> ConfigError:
    """Names the endpoint, the reason and the way out."""
    way_out = "free the address, or name another"
    if error.errno in {errno.EMFILE, errno.ENFILE, errno.EAGAIN}:
        way_out = "fewer listeners or engine.threads, or more files and threads (ulimit -n -u, LimitNOFILE)"
    return ConfigError(f"listen: {endpoint}: {error.strerror or error}: {way_out}")


def share(given: list[socket.socket], endpoint: Endpoint, count: int) -> list[socket.socket]:
    """Sockets that were bound before we began, and duplicates of them up to `count`: others bound beside them would
    lose what is queued in them when we go. Raises ConfigError; the given ones are the caller's then."""
    sockets = list(given)
    try:
        for sock in given:
            prepare(sock, endpoint)
        while len(sockets) < count:
            sockets.append(sockets[len(sockets) - len(given)].dup())
    except OSError as error:
        close_all(sockets[len(given) :])
        raise cannot_listen(endpoint, error) from None
    return sockets


def bind_shared(endpoint: Endpoint, count: int) -> list[socket.socket]:
    """As many UDP sockets on one address: the kernel gives each peer's datagrams to one of them. Raises ConfigError.

    The first is bound as the only one, so that an address that another process serves is told; only then does it
    let the others in.
    """
    first = bind(endpoint)
    sockets = [first]
    try:
        if count > 1:
            first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            here = msgspec.structs.replace(endpoint, port=first.getsockname()[1])
            # One by one into the list: those before one that fails are closed too.
            sockets.extend(bind(here, shared=True) for _ in range(count - 1))
    except OSError as error:
        close_all(sockets)
        raise cannot_listen(endpoint, error) from None
    except BaseException:
        close_all(sockets)
        raise
    return sockets


def joins_datagrams(sock: socket.socket) -> bool:
    """Whether the kernel hands over datagrams of one size that arrived back to back as one.

    The native engine has it do so. It stays so when a Python path follows: what is queued is joined already.
    """
    try:
        return sock.getsockopt(IPPROTO_UDP, UDP_GRO) != 0
    except OSError:  # a kernel without it
        return False


def close_all(sockets: list[socket.socket]) -> None:
    """Close each of them."""
    for sock in sockets:
        sock.close()


def _tell_destination(sock: socket.socket, endpoint: Endpoint) -> None:
    """On an address that stands for all, learn which one a datagram came to: the reply leaves from there."""
    address = ipaddress.ip_address(endpoint.host)
    if not address.is_unspecified:
        return
    if address.version == 4:
        sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)


def reply_destination(ancillary: list[tuple[int, int, bytes]]) -> list[tuple[int, int, bytes]]:
    """Ancillary data that makes a reply leave from the address its question came to; empty if not told."""
    for level, kind, data in ancillary:
        if (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
            return [(level, kind, data)]
        if (level, kind) == (socket.IPPROTO_IP, IP_PKTINFO):
            # struct in_pktinfo: interface, local address, destination. The kernel picks the interface.
            return [(level, kind, bytes(4) + data[8:12] + bytes(4))]
    return []
