"""The yardstick: what uvloop itself costs. Sends back what it got, over UDP and TCP on one port.

Run as `python -m bench.echo PORT`; ends on SIGTERM.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import sys

import uvloop

from lookupd.limits import UDP_RECEIVE_BUFFER_BYTES


class UdpEcho(asyncio.DatagramProtocol):
    """One datagram in, the same one out."""

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        """Keep the way back."""
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Send it back."""
        self._transport.sendto(data, addr)


class TcpEcho(asyncio.Protocol):
    """What was read at once, written at once."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Keep the way back."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Send it back."""
        self._transport.write(data)


async def serve(port: int) -> None:
    """Until SIGTERM."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    udp, _ = await loop.create_datagram_endpoint(UdpEcho, local_addr=("127.0.0.1", port))
    sock = udp.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, UDP_RECEIVE_BUFFER_BYTES)
    server = await loop.create_server(TcpEcho, "127.0.0.1", port)
    await stop.wait()
    udp.close()
    server.close()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
