"""What the daemon tells its supervisor, in systemd's notification protocol (sd_notify(3)): lines in one datagram.

Who is told what, and when, is for whoever calls; without a supervisor nothing is sent.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

from lookupd.observe.log import log


class Supervisor:
    """The socket that NOTIFY_SOCKET names; nobody, if there is none."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        """environment: of the process; NOTIFY_SOCKET is a path, or an abstract name behind `@`."""
        self.address = environment.get("NOTIFY_SOCKET", "")
        self._told_failure = False

    def tell(self, **lines: object) -> None:
        """Send `NAME=value` lines, such as READY=1. A supervisor that takes nothing is logged once, and no reason to
        end."""
        if not self.address:
            return
        told = {name: str(value).replace("\n", " ") for name, value in lines.items()}  # a line of its own is an order
        message = "\n".join(f"{name}={value}" for name, value in told.items())
        address = "\0" + self.address[1:] if self.address.startswith("@") else self.address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.setblocking(False)
                sock.sendto(message.encode(), address)
        except OSError as error:
            if not self._told_failure:
                self._told_failure = True
                log("supervisor_unreachable", address=self.address, reason=error.strerror)
