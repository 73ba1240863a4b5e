"""The Python path of `serve`: one event loop, one reader, py-lmdb. Serves UDP wherever the native engine is missing."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

from lookupd.access import Access
from lookupd.engine import Engine
from lookupd.fastpath.batch import NpqResponder, PdbResponder, Responder
from lookupd.fastpath.enum import EnumResponder
from lookupd.fastpath.sip import SipResponder
from lookupd.limits import NPQ_DATAGRAM_ANSWER_BYTES_MAX, NPQ_FRAME_BYTES_MAX
from lookupd.observe.metrics import Metrics
from lookupd.settings import ClientSettings, Config, Endpoint
from lookupd.store.reader import Reader
from lookupd.store.rights import refuse_without_lock
from lookupd.tap import Tap
from lookupd.transports.sockets import bind, share
from lookupd.transports.udp import UdpListener, UdpListeners


class PythonPath:
    """See `fastpath.path.Path`."""

    name = "python"

    def __init__(self, engine: Engine, metrics: Metrics, begin_batch: Callable[[], None], tag_seed: int) -> None:
        """tag_seed: see `protocols.sip.make_tag`."""
        self.tap = Tap()
        self._engine = engine
        self._metrics = metrics
        self.begin_batch = begin_batch
        self._tag_seed = tag_seed

    def open_store(self, path: Path, map_size: int) -> Reader:
        """See Path."""
        refuse_without_lock(path)
        return Reader(path, map_size=map_size)

    def make_access(self, clients: tuple[ClientSettings, ...]) -> Access:
        """See Path."""
        return Access(clients)

    def use_terms(self, access: Access) -> None:
        """See Path: the engine and the listeners have all of it already."""

    def listen(
        self, dialect: str, endpoint: Endpoint, config: Config, access: Access, given: list[socket.socket]
    ) -> UdpListener | UdpListeners:
        """See Path."""
        sockets = share(given, endpoint, len(given)) if given else [bind(endpoint)]
        listeners = [
            UdpListener(sock, self._responder(dialect, "udp", config), access, self.begin_batch) for sock in sockets
        ]
        return listeners[0] if len(listeners) == 1 else UdpListeners(listeners)

    def frame_responder(self, dialect: str, config: Config) -> Responder:
        """See Path."""
        return self._responder(dialect, "tcp", config)

    def end_batch(self) -> None:
        """See Path: the one reader of the process is pinned anew every second."""

    def _responder(self, dialect: str, transport: str, config: Config) -> Responder:
        responder = self._make_responder(dialect, transport, config)
        responder.tap = self.tap
        return responder

    def _make_responder(
        self, dialect: str, transport: str, config: Config
    ) -> PdbResponder | EnumResponder | SipResponder | NpqResponder:
        counters = self._metrics.counters(dialect, transport)
        if dialect == "pdb":
            settings = config.pdb
            return PdbResponder(
                self._engine, counters, legacy=settings.legacy, unmapped_carrier_id=settings.unmapped_carrier_id
            )
        udp = transport == "udp"
        if dialect == "enum":
            return EnumResponder(self._engine, counters, udp=udp)
        if dialect == "sip":
            return SipResponder(self._engine, counters, udp=udp, tag_seed=self._tag_seed)
        bytes_max = NPQ_DATAGRAM_ANSWER_BYTES_MAX if udp else NPQ_FRAME_BYTES_MAX
        return NpqResponder(self._engine, counters, answer_bytes_max=bytes_max, tells_errors=not udp)
