"""The yardstick of the native engine: what the kernel takes for a datagram in and one out, nothing in between.

Run as `python -m bench.native_echo PORT [--gso]`; ends on SIGTERM. Plain sockets, unless told to join replies and to
take queries joined.
"""

from __future__ import annotations

import socket
import sys

from lookupd import _native
from lookupd.limits import UDP_RECEIVE_BUFFER_BYTES


def serve(port: int, *, gso: bool) -> None:
    """Until the process ends."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, UDP_RECEIVE_BUFFER_BYTES)
        sock.bind(("127.0.0.1", port))
        _native.echo(sock.fileno(), gso, gso)


if __name__ == "__main__":
    serve(int(sys.argv[1]), gso="--gso" in sys.argv)
