"""A supervisor's end of the notification protocol: what the programs under test tell it."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Self


class NotifySocket:
    """NOTIFY_SOCKET, with everything that came in so far. A context."""

    def __init__(self, path: Path | str) -> None:
        """path: of a file, or an abstract name behind `@`."""
        self.name = str(path)
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.bind("\0" + self.name[1:] if self.name.startswith("@") else self.name)
        self.told: list[dict[str, str]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Nobody listens any more."""
        self._sock.close()

    def environment(self, watchdog_seconds: float = 0) -> dict[str, str]:
        """For the program."""
        watchdog = {"WATCHDOG_USEC": str(int(watchdog_seconds * 1e6))} if watchdog_seconds else {}
        return {"NOTIFY_SOCKET": self.name} | watchdog

    def read(self, seconds: float) -> list[dict[str, str]]:
        """What comes in within this time; it is added to `told`."""
        found = []
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._sock.settimeout(left)
            try:
                message = self._sock.recv(4096).decode()
            except TimeoutError:
                break
            found.append(dict(line.split("=", 1) for line in message.split("\n")))
        self.told += found
        return found

    def wait_for(self, name: str, seconds: float = 30) -> str:
        """The value of the next message that has this line."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for message in self.read(0.05):
                if name in message:
                    return message[name]
        raise AssertionError(f"no {name} within {seconds} s: {self.told}")
