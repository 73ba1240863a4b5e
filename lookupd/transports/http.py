"""The HTTP listener: its routes, metrics and health. Who may ask is `web.guard`'s, connections `http_connections`'."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from lookupd.access import Access, Bucket
from lookupd.limits import (
    CONNECTION_IDLE_SECONDS,
    DRAIN_SECONDS,
    HTTP_BODY_BYTES_MAX,
    HTTP_HEAD_LINE_BYTES_MAX,
    HTTP_HEADERS_MAX,
    HTTP_LINGER_SECONDS,
    HTTP_SCRAPES_PER_SECOND,
)
from lookupd.observe.http_counts import HttpCounts
from lookupd.observe.log import log
from lookupd.observe.metrics import CONTENT_TYPE
from lookupd.settings import Config, Endpoint, parse_endpoint
from lookupd.transports.http_connections import Acceptor, Connection
from lookupd.transports.sockets import bind
from lookupd.web import CLIENT, Handler, Route
from lookupd.web.errors import refusal, told_as_json
from lookupd.web.guard import Guard, Refused, Secrets, harden, read_secrets


class HttpMetrics(Protocol):
    """What the listener serves as /metrics, and counts into."""

    http: HttpCounts

    def text(self) -> bytes:
        """In the Prometheus text format."""
        ...


class _Troubles(logging.Handler):
    """aiohttp would write a traceback for each request that is no HTTP: those are the peer's fault, and counted."""

    def __init__(self, counts: HttpCounts) -> None:
        super().__init__()
        self._counts = counts

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, HttpProcessingError):
            self._counts.malformed += 1
        elif record.levelno >= logging.WARNING:
            log("http_failed", message=record.getMessage(), error=repr(error))


def _quiet_logger(counts: HttpCounts) -> logging.Logger:
    """One of our own, so that nobody else's settings of logging matter."""
    logger = logging.Logger("lookupd.http")
    logger.addHandler(_Troubles(counts))
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
        *,
        endpoint: Endpoint | None = None,
        secrets: Secrets | None = None,
    ) -> None:
        """sock: bound, non-blocking; owned from now on. readiness: why no query is answered, or None. routes: beside
        those of our own. told: headers of /readyz, for `lookupd status`. endpoint: what it is configured as; None =
        plain http where sock is bound. secrets: of `read_secrets`."""
        self._sock = sock
        self._metrics = metrics
        self._readiness = readiness
        self._told = told
        if endpoint is None:
            endpoint = Endpoint("http", *sock.getsockname()[:2])
        self._guard = Guard(endpoint, access, secrets or Secrets())
        self._scrapes = Scrapes(metrics.text)
        application = web.Application(client_max_size=HTTP_BODY_BYTES_MAX, middlewares=[self._guarded, told_as_json])
        application.on_response_prepare.append(_harden)
        own = [
            Route("GET", "/metrics", self._get_metrics, "status"),
            Route("GET", "/livez", self._get_livez, None),
            Route("GET", "/readyz", self._get_readyz, None),
        ]
        self._routes: dict[object, Route] = {}
        for route in (*own, *routes):
            handler = _its_own(route)
            self._routes[handler] = route
            application.router.add_routes([_DEFINE[route.method](route.path, handler)])
        self._runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=DRAIN_SECONDS)
        self._logger = _quiet_logger(metrics.http)
        self._acceptor = Acceptor(sock, self._guard, metrics.http, self._connect)

    @property
    def access(self) -> Access:
        """The clients list in force."""
        return self._guard.access

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
        self._acceptor.start()

    def use_access(self, access: Access) -> None:
        """A new clients list."""
        self._guard.access = access

    def use_secrets(self, secrets: Secrets) -> None:
        """New tokens and certificates; connections under another certificate or authority end after their answer."""
        before, self._guard.secrets = self._guard.context, secrets
        if self._guard.context is not before:
            self._acceptor.retire()

    async def close(self) -> None:
        """Let answers leave, for a while, then close."""
        await self._acceptor.stop()
        await self._runner.cleanup()
        await self._acceptor.abort()

    def _connect(self, leave: Callable[[Connection], None]) -> Connection:
        assert self._runner.server is not None
        return Connection(
            self._runner.server,
            leave,
            access_log=None,
            auto_decompress=False,
            keepalive_timeout=CONNECTION_IDLE_SECONDS,
            lingering_time=HTTP_LINGER_SECONDS,
            logger=self._logger,
            max_field_size=HTTP_HEAD_LINE_BYTES_MAX,
            max_headers=HTTP_HEADERS_MAX,
            max_line_size=HTTP_HEAD_LINE_BYTES_MAX,
        )

    @web.middleware
    async def _guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        connection = request.protocol
        assert isinstance(connection, Connection)
        route = self._routes.get(request.match_info.handler)
        connection.begin(request, streams=route is not None and route.streams)
        try:
            response = await self._answer(request, handler)
        finally:
            connection.end()
        if connection.is_retired:
            response.force_close()
        return response

    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """What is asked for beside our routes needs a client too: then it is told that there is none."""
        route = self._routes.get(request.match_info.handler)
        needs = None if route is None else route.needs
        try:
            request[CLIENT] = self._guard.admit(request, needs, anonymous=route is not None and needs is None)
        except Refused as refused:
            counts = self._metrics.http
            if refused.reason is None:
                counts.malformed += 1
            else:
                counts.refused[refused.reason] += 1
            return refusal(request, refused)
        return await handler(request)

    async def _get_metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=self._scrapes.text(), headers={"Content-Type": CONTENT_TYPE})

    async def _get_livez(self, _: web.Request) -> web.Response:
        return web.Response(text="alive\n")

    async def _get_readyz(self, _: web.Request) -> web.Response:
        reason = self._readiness()
        if reason is None:
            return web.Response(text="ready\n", headers=self._told())
        return web.Response(status=503, text=f"not ready: {reason}\n", headers=self._told() | {"Retry-After": "1"})


async def listen(
    url: str,
    config: Config,
    metrics: HttpMetrics,
    readiness: Callable[[], str | None] = lambda: None,
    routes: Sequence[Route] = (),
) -> HttpListener:
    """For a program beside the daemon, with the clients of the configuration. Raises ConfigError."""
    endpoint = parse_endpoint(url)
    secrets = read_secrets(config, wanted=endpoint.transport == "https")
    access = Access(config.clients)
    listener = HttpListener(bind(endpoint), access, metrics, readiness, routes, endpoint=endpoint, secrets=secrets)
    await listener.start()
    log("listening", http=Endpoint(endpoint.transport, endpoint.host, listener.port))
    return listener


class Scrapes:
    """The metrics, made anew so often and no oftener, since that takes milliseconds in which nothing else is done."""

    def __init__(self, make: Callable[[], bytes]) -> None:
        self._make = make
        self._bucket = Bucket(HTTP_SCRAPES_PER_SECOND)
        self._text = b""

    def text(self) -> bytes:
        """As they are, or were a moment ago."""
        if self._bucket.take(1, time.monotonic_ns()):
            self._text = self._make()
        return self._text


def _its_own(route: Route) -> Handler:
    """Its handler, as a function that no other route has: by it a request is known to be for this route."""

    async def handler(request: web.Request) -> web.StreamResponse:
        return await route.handler(request)

    return handler


async def _harden(_: web.Request, response: web.StreamResponse) -> None:
    harden(response)


_DEFINE = {"GET": web.get, "POST": web.post}
