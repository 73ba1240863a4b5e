"""The HTTP listener: connections, metrics, health, the routes it is given. Who may ask is on the list of clients."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Sequence
from typing import Protocol

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from lookupd.access import Access
from lookupd.limits import CONNECTION_IDLE_SECONDS, DRAIN_SECONDS, HTTP_BODY_BYTES_MAX
from lookupd.observe.log import log
from lookupd.observe.metrics import CONTENT_TYPE
from lookupd.web import CLIENT, Handler, Route
from lookupd.web.errors import told_as_json


class HttpMetrics(Protocol):
    """What the listener counts into, and what it serves as /metrics."""

    http_refused: int
    http_malformed: int

    def text(self) -> bytes:
        """In the Prometheus text format."""
        ...


class _Troubles(logging.Handler):
    """aiohttp would write a traceback for each request that is no HTTP: those are the peer's fault, and counted."""

    def __init__(self, metrics: HttpMetrics) -> None:
        super().__init__()
        self._metrics = metrics

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, HttpProcessingError):
            self._metrics.http_malformed += 1
        elif record.levelno >= logging.WARNING:
            log("http_failed", message=record.getMessage(), error=repr(error))


def _quiet_logger(metrics: HttpMetrics) -> logging.Logger:
    """One of our own, so that nobody else's settings of logging matter."""
    logger = logging.Logger("lookupd.http")
    logger.addHandler(_Troubles(metrics))
    return logger


class HttpListener:
    """Serves one bound socket until closed."""

    def __init__(
        self,
        sock: socket.socket,
        access: Access,
        metrics: HttpMetrics,
        readiness: Callable[[], str | None],
        routes: Sequence[Route] = (),
        told: Callable[[], dict[str, str]] = dict,
    ) -> None:
        """sock: bound, non-blocking; owned from now on. readiness: why no query is answered, or None. routes: beside
        those of our own. told: headers of /readyz, for `lookupd status`."""
        self.access = access
        self._sock = sock
        self._metrics = metrics
        self._readiness = readiness
        self._told = told
        application = web.Application(
            client_max_size=HTTP_BODY_BYTES_MAX, middlewares=[told_as_json, self._only_clients]
        )
        own = [
            Route("GET", "/metrics", self._get_metrics, "status"),
            Route("GET", "/livez", self._get_livez, None),
            Route("GET", "/readyz", self._get_readyz, None),
        ]
        for route in (*own, *routes):
            application.router.add_routes([_DEFINE[route.method](route.path, _guarded(route))])
        self._runner = web.AppRunner(
            application,
            access_log=None,
            keepalive_timeout=CONNECTION_IDLE_SECONDS,
            handle_signals=False,
            shutdown_timeout=DRAIN_SECONDS,
            logger=_quiet_logger(metrics),
        )

    @property
    def port(self) -> int:
        """Where it listens."""
        port: int = self._sock.getsockname()[1]
        return port

    @property
    def sockets(self) -> list[socket.socket]:
        """What it listens on, for whoever follows us."""
        return [self._sock]

    async def start(self) -> None:
        """Take requests from now on."""
        await self._runner.setup()
        await web.SockSite(self._runner, self._sock).start()

    def use_access(self, access: Access) -> None:
        """A new clients list."""
        self.access = access

    async def close(self) -> None:
        """Let answers leave, for a while, then close."""
        await self._runner.cleanup()

    @web.middleware
    async def _only_clients(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        peer = None if request.transport is None else request.transport.get_extra_info("peername")
        client = self.access.find_asker(peer[0], peer[1]) if peer else None
        if client is None:
            self._metrics.http_refused += 1
            raise web.HTTPForbidden(text="this address is on no client's list\n")
        request[CLIENT] = client
        try:
            return await handler(request)
        except NotPermitted as error:
            self._metrics.http_refused += 1
            raise web.HTTPForbidden(text=f"{error}\n") from None

    async def _get_metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=self._metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    async def _get_livez(self, _: web.Request) -> web.Response:
        return web.Response(text="alive\n")

    async def _get_readyz(self, _: web.Request) -> web.Response:
        reason = self._readiness()
        if reason is None:
            return web.Response(text="ready\n", headers=self._told())
        return web.Response(status=503, text=f"not ready: {reason}\n", headers=self._told() | {"Retry-After": "1"})


class NotPermitted(Exception):
    """The client may ask, but not for this; the message says what lets it."""


def _guarded(route: Route) -> Handler:
    """Its handler, for clients that may ask for it."""

    async def handler(request: web.Request) -> web.StreamResponse:
        client = request[CLIENT]
        if route.needs == "peer" and not client.peer:
            raise NotPermitted("this client is no peer: [[client]] peer = true lets it read the store")
        if route.needs not in (None, "peer") and route.needs not in client.may:
            raise NotPermitted(f"this client may not: [[client]] may = [..., {route.needs!r}] lets it")
        return await route.handler(request)

    return handler


_DEFINE = {"GET": web.get, "POST": web.post}
