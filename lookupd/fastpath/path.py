"""What `serve` asks of an engine: the seam between the daemon and the two ways to answer."""

from __future__ import annotations

import socket
from pathlib import Path as FilePath
from typing import Protocol

from lookupd.access import Access, Client
from lookupd.fastpath.batch import Peer
from lookupd.settings import ClientSettings, Config, Endpoint
from lookupd.store.reader import Reader
from lookupd.tap import Tap


class Listener(Protocol):
    """One bound address over UDP."""

    @property
    def port(self) -> int:
        """Where it listens."""
        ...

    @property
    def sockets(self) -> list[socket.socket]:
        """What it listens on; they stay its own."""
        ...

    def pause(self) -> None:
        """Read nothing, if what another process does with the sockets could be misread; `resume` ends it."""
        ...

    def resume(self) -> None:
        """Go on after `pause`."""
        ...

    def use_access(self, access: Access) -> None:
        """A new clients list."""
        ...

    def failure(self) -> str | None:
        """Why it cannot serve any more; None as long as it can."""
        ...

    async def close(self) -> None:
        """Answer what has arrived, then close the address."""
        ...


class FrameResponder(Protocol):
    """Message -> reply, of one connection over TCP."""

    def respond(self, message: bytes, client: Client, now_ns: int, peer: Peer) -> bytes | None:
        """See `batch.Responder`."""
        ...

    def settle(self) -> None:
        """See `batch.Responder`."""
        ...


class Path(Protocol):
    """One engine, as the daemon drives it. All calls come from the event loop's thread."""

    @property
    def tap(self) -> Tap:
        """What the query log has of what it answers."""
        ...

    @property
    def name(self) -> str:
        """As settings, logs and metrics say it."""
        ...

    def open_store(self, path: FilePath, map_size: int) -> Reader:
        """A reader of our own on the store; may run in another thread. Raises StoreError."""
        ...

    def make_access(self, clients: tuple[ClientSettings, ...]) -> Access:
        """The clients list, with allowances that all of the engine's listeners share."""
        ...

    def use_terms(self, access: Access) -> None:
        """Plan, limits or store of the daemon's engine have changed, or the clients list has."""
        ...

    def listen(
        self, dialect: str, endpoint: Endpoint, config: Config, access: Access, given: list[socket.socket]
    ) -> Listener:
        """Serve a dialect over UDP from now on. Raises ConfigError when the address cannot be had.

        given: sockets on that address that we came by, the listener's from now on; empty = it binds its own.
        """
        ...

    def frame_responder(self, dialect: str, config: Config) -> FrameResponder:
        """For one connection over TCP."""
        ...

    def begin_batch(self) -> None:
        """Pin the newest state for what frame responders answer next."""
        ...

    def end_batch(self) -> None:
        """They answer nothing more until the next one: hold no state that would keep others from going on."""
        ...
