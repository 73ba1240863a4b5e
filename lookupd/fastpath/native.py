"""The native path of `serve`: Rust workers serve UDP, and Python asks the same engine for frames over TCP.

The environment is opened once in the process, by the native engine: LMDB in two libraries must not share one.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable
from functools import lru_cache, partial
from ipaddress import ip_network
from pathlib import Path
from typing import NamedTuple

import msgspec

from lookupd import _native
from lookupd.access import Access, Client
from lookupd.engine import Engine
from lookupd.fastpath.batch import Peer
from lookupd.limits import NPQ_FRAME_BYTES_MAX
from lookupd.numbering import Plan
from lookupd.observe.counters import Usage
from lookupd.observe.metrics import Metrics
from lookupd.profiles import EnumSettings, SipSettings
from lookupd.query_record import OUTCOMES
from lookupd.settings import ClientSettings, Config, Endpoint, QueryLogSettings
from lookupd.store.reader import Reader
from lookupd.store.rights import refuse_without_lock
from lookupd.tap import Tap
from lookupd.transports.sockets import bind_shared, cannot_listen, close_all, share


class NativeListener:
    """One address over UDP: a socket and a worker per thread."""

    def __init__(
        self, sockets: list[socket.socket], own: int, server: _native.UdpServer, retire: Callable[[], None]
    ) -> None:
        """sockets: those that the workers read duplicates of; owned from now on. own: how many of them, from the
        first, are not duplicates of each other. retire: nothing more is counted."""
        self.server = server
        self._sockets = sockets
        self._own = own
        self._retire = retire

    @property
    def port(self) -> int:
        """Where it listens."""
        port: int = self._sockets[0].getsockname()[1]
        return port

    @property
    def sockets(self) -> list[socket.socket]:
        """What it listens on, for whoever follows us."""
        return self._sockets[: self._own]

    def pause(self) -> None:
        """Nothing that another process does with the sockets is misread here."""

    def resume(self) -> None:
        """The event loop of a Python path that was to follow has the sockets not block: the workers would spin."""
        for sock in self._sockets:
            os.set_blocking(sock.fileno(), True)

    def use_access(self, access: Access) -> None:
        """The workers take the service's."""

    def failure(self) -> str | None:
        """Why a worker cannot serve any more."""
        return self.server.failure()

    async def close(self) -> None:
        """Answer what has arrived, then close the sockets; a worker may sleep for a tenth of a second first."""
        await asyncio.to_thread(self.server.stop)
        close_all(self._sockets)
        self._retire()


class NativeFrames:
    """Message -> reply for TCP, asked of the native engine."""

    def __init__(self, responder: _native.Responder) -> None:
        self._respond = responder.respond

    def respond(self, message: bytes, client: Client, now_ns: int, peer: Peer) -> bytes | None:
        """See `batch.Responder`."""
        return self._respond(message, client.at, now_ns, peer[0], peer[1])

    def settle(self) -> None:
        """Over TCP every reply leaves."""


class NativePath:
    """See `fastpath.path.Path`."""

    name = "native"

    def __init__(self, engine: Engine, metrics: Metrics, threads: int, tag_seed: int) -> None:
        """threads: workers a listener. tag_seed: of SIP's To tags, 64 random bits."""
        self._engine = engine
        self._metrics = metrics
        self._threads = threads
        self._tag_seed = tag_seed
        nobody = NativeAccess(())
        self._service = _native.Service(None, _plan(engine.plan), engine.stale_after, nobody.native)
        self.tap = NativeTap(self._service)
        self._frames: dict[str, _native.Responder] = {}
        metrics.watch_native(self._service)

    def open_store(self, path: Path, map_size: int) -> Reader:
        """See Path."""
        refuse_without_lock(path)
        return Reader(path, map_size=map_size, native=True)

    def make_access(self, clients: tuple[ClientSettings, ...]) -> Access:
        """See Path."""
        return NativeAccess(clients)

    def use_terms(self, access: Access) -> None:
        """See Path."""
        assert isinstance(access, NativeAccess)
        engine = self._engine
        environment = None if engine.reader is None else engine.reader.native
        self._service.use_terms(
            environment,
            _plan(engine.plan),
            engine.stale_after,
            access.native,
            withdrawn=engine.withdrawn is not None,
        )
        for responder in self._frames.values():
            responder.rest()  # lets go of a store that is no longer served

    def listen(
        self, dialect: str, endpoint: Endpoint, config: Config, access: Access, given: list[socket.socket]
    ) -> NativeListener:
        """See Path."""
        threads = self._threads
        sockets = share(given, endpoint, threads) if given else bind_shared(endpoint, threads)
        try:
            server = _native.UdpServer(
                self._service,
                dialect,
                [sock.fileno() for sock in sockets],
                legacy=config.pdb.legacy,
                unmapped_carrier_id=config.pdb.unmapped_carrier_id,
                tag_seed=self._tag_seed,
            )
        except OSError as error:  # no thread or descriptor left: the workers that were there have ended
            close_all(sockets[len(given) :])
            raise cannot_listen(endpoint, error) from None
        self._metrics.add_native(dialect, "udp", server)
        own = len(given) or len(sockets)
        return NativeListener(sockets, own, server, partial(self._metrics.retire_native, dialect, "udp", server))

    def frame_responder(self, dialect: str, config: Config) -> NativeFrames:
        """See Path. All connections of a dialect share one responder, and so one reader slot."""
        responder = self._frames.get(dialect)
        if responder is None:
            responder = _native.Responder(
                self._service,
                dialect,
                answer_bytes_max=NPQ_FRAME_BYTES_MAX,
                tells_errors=True,
                tag_seed=self._tag_seed,
            )
            self._frames[dialect] = responder
            self._metrics.add_native(dialect, "tcp", responder)
        return NativeFrames(responder)

    def begin_batch(self) -> None:
        """See Path."""
        now = int(time.time())
        for responder in self._frames.values():
            responder.begin(now)

    def end_batch(self) -> None:
        """See Path. A state held until somebody asks again would keep the map from growing, and pages in use."""
        for responder in self._frames.values():
            responder.rest()


class NativeAccess(Access):
    """The clients list with its allowances in the native engine, where workers and Python take from the same ones."""

    def __init__(self, clients: tuple[ClientSettings, ...]) -> None:
        self.native = _native.Clients([native_rule(client) for client in clients])
        super().__init__(clients, [_Bucket(self.native, at) for at in range(len(clients))])

    def set_own(self, host: str | None, port: int = 0) -> None:
        """See Access; the workers are told, too."""
        super().set_own(host, port)
        self.native.set_own(host, port)

    def set_tapped(self, tapped: list[bool]) -> None:
        """See Access."""
        super().set_tapped(tapped)
        self.native.set_tapped(tapped)

    def usage(self) -> list[list[Usage]]:
        """See `counters.ClientUsage`."""
        counted = self.native.usage()
        return [[*dialects, client.usage["http"]] for dialects, client in zip(counted, self.clients, strict=True)]


class NativeTap(Tap):
    """See Tap: the workers note by themselves; Python notes what it answers without them."""

    def __init__(self, service: _native.Service) -> None:
        super().__init__()
        self._service = service

    def use(self, settings: QueryLogSettings) -> None:
        """See Tap."""
        super().use(settings)
        wanted = settings.outcomes or OUTCOMES
        mask = sum(1 << at for at, outcome in enumerate(OUTCOMES) if outcome in wanted)
        self._service.use_tap(self.sample, mask, settings.numbers == "full")

    def drain(self) -> tuple[bytes, int]:
        """See Tap. The interpreter runs on while the native lines are written."""
        ours, count = super().drain()
        theirs, more = self._service.drain_tap()
        return ours + theirs, count + more

    def lost(self) -> int:
        """See Tap."""
        return super().lost() + self._service.tap_lost()


class NativeRule(NamedTuple):
    """See `_native.ClientRule`."""

    name: str
    queries_per_second: int
    queries_per_prefix: int
    sources: list[str]
    enum_profile: _native.EnumProfile
    sip_profile: _native.SipProfile


def native_rule(client: ClientSettings) -> NativeRule:
    """A client as the native engine takes it."""
    return NativeRule(
        client.name,
        client.queries_per_second,
        client.queries_per_prefix,
        [str(ip_network(source)) for source in client.sources],
        _enum_profile(msgspec.json.encode(client.enum)),
        _sip_profile(client.sip),
    )


@lru_cache(maxsize=64)
def _sip_profile(settings: SipSettings) -> _native.SipProfile:
    return _native.SipProfile(
        status=settings.status,
        form=settings.form,
        npdi=settings.npdi,
        domain=settings.domain,
        unported=settings.unported,
        rn_context=settings.rn_context,
        cic_context=settings.cic_context,
        unmapped_routing_number=settings.unmapped_routing_number,
        tell=settings.tell,
    )


@lru_cache(maxsize=64)
def _enum_profile(encoded: bytes) -> _native.EnumProfile:
    """The same for clients with equal settings. encoded: their JSON, which can be a key, as they cannot."""
    settings = msgspec.json.decode(encoded, type=EnumSettings)
    return _native.EnumProfile(
        apexes=settings.apexes,
        services=settings.services,
        ttl=settings.ttl,
        negative_ttl=settings.negative_ttl,
        domain=settings.domain,
        nameservers=list(settings.nameservers.items()),
        unported=settings.unported,
        rn_context=settings.rn_context,
        cic_context=settings.cic_context,
        unmapped_routing_number=settings.unmapped_routing_number,
        tell=settings.tell,
    )


class _Bucket:
    """One client's allowance; see `access.Bucket`."""

    __slots__ = ("_at", "_clients")

    def __init__(self, clients: _native.Clients, at: int) -> None:
        self._clients = clients
        self._at = at

    def take(self, queries: int, now_ns: int) -> bool:
        """See `access.Bucket`."""
        return self._clients.take(self._at, queries, now_ns)


def _plan(plan: Plan) -> _native.Plan:
    return _native.Plan(plan.country_code, plan.trunk_prefix, plan.heads())
