"""What the daemon listens with, of whichever kind: telling the kinds apart, and ending one in good order."""

from __future__ import annotations

from typing import TypeGuard

from lookupd.fastpath.path import Listener as UdpListening
from lookupd.limits import DRAIN_SECONDS
from lookupd.transports.http import HttpListener
from lookupd.transports.tcp import TcpListener

Listener = UdpListening | TcpListener | HttpListener


def is_udp(listener: Listener) -> TypeGuard[UdpListening]:
    """Whether the engine's own path serves it."""
    return not isinstance(listener, TcpListener | HttpListener)


async def end(listener: Listener) -> None:
    """Answer what has arrived, then close it."""
    if isinstance(listener, TcpListener):
        await listener.close(DRAIN_SECONDS)
    else:
        await listener.close()
