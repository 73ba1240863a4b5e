"""The connection to NATS JetStream: servers, TLS, account, and a server that is new enough. One connection, checked.

A connection that ends is not mended: `Link` makes a new one, which is checked like the first, since it may lead to
another server. When to try again is for whoever asks; what lies in the streams, for `streams`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import re
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress

import nats.errors
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.errors import APIError, NoStreamResponseError, ServiceUnavailableError

from loader.fleet.login import Login, read_login
from lookupd.errors import SourceError
from lookupd.fleet import parse_version
from lookupd.limits import (
    ENGINE_ANSWER_SECONDS,
    ENGINE_CLOSE_SECONDS,
    ENGINE_CONNECT_SECONDS,
    ENGINE_PING_SECONDS,
    ENGINE_PINGS_MAX,
)
from lookupd.observe.log import log
from lookupd.settings import JetStreamSettings

_TOKEN = re.compile(r"[^0-9A-Za-z_-]")


class _Quiet(logging.Handler):
    """The library writes tracebacks of what we tell in a line, or try again."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        log("engine_library", message=record.getMessage(), error=repr(error))


def _worth_telling(record: logging.LogRecord) -> bool:
    """asyncio says this of each TLS connection that the other side ends; it means nothing."""
    return "eof_received" not in record.getMessage()


_logger = logging.getLogger("nats")
_logger.propagate = False
if not _logger.handlers:
    _logger.addHandler(_Quiet())
    logging.getLogger("asyncio").addFilter(_worth_telling)


class Engine:
    """One live connection to a server that was checked.

    jetstream: the library's context, its calls bounded in time; wrap them in `telling`. lost: set once the connection
    has ended, for whatever reason.
    """

    def __init__(self, client: Client, server: str) -> None:
        self.client = client
        self.server = server
        self.lost = asyncio.Event()
        self.reason = ""
        self.jetstream: JetStreamContext = client.jetstream(timeout=ENGINE_ANSWER_SECONDS)

    @property
    def version(self) -> str:
        """Of the server."""
        return str(_info(self.client).get("version", ""))

    @property
    def payload_bytes_max(self) -> int:
        """Of a message with its headers."""
        return int(self.client.max_payload)

    @property
    def alive(self) -> bool:
        """Whether it is worth asking."""
        return bool(self.client.is_connected) and not self.lost.is_set()

    async def __aenter__(self) -> Engine:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self, reason: str = "") -> None:
        """Let go of it; whoever waits for an answer gets a SourceError at the latest when its time is over."""
        self.reason = reason or self.reason
        self.lost.set()
        await _close(self.client)


async def connect(settings: JetStreamSettings, who: str) -> Engine:
    """A checked connection to one of the servers, tried in any order. who: names it in the server's lists. Answers come
    to `_INBOX.USER.>`, so that a user may be kept from hearing another one's; without a user, `_INBOX.WHO.>`.

    Raises ConfigError for the settings and their files; SourceError, with the reason and the way out, when no server
    can be used now.
    """
    return await connect_as(read_login(settings), who)


async def connect_as(login: Login, who: str) -> Engine:
    """The same, its files read before. Raises SourceError."""
    reasons: list[str] = []
    for server in random.sample(login.servers, len(login.servers)):
        try:
            return await _connect_to(server, login, who)
        except SourceError as error:
            reasons.append(str(error))
    raise SourceError("; ".join(sorted(reasons)))


async def _connect_to(server: str, login: Login, who: str) -> Engine:
    client = Client()
    engine = Engine(client, server)
    heard: list[Exception] = []
    secure = server.startswith("tls://")

    async def failed(error: Exception) -> None:
        heard.append(error)
        del heard[:-8]
        engine.reason = str(error)

    async def ended() -> None:
        engine.lost.set()
        for answer in list(client._resp_map.values()):  # the library would let whoever asked wait for his time
            if not answer.done():
                answer.set_exception(nats.errors.ConnectionClosedError())

    def credential(value: str) -> str:
        """Asked for by the library once the server has said who it is."""
        if secure and not _info(client).get("tls_required"):
            raise nats.errors.SecureConnWantedError
        return value

    user, password = login.user, login.password
    try:
        async with asyncio.timeout(ENGINE_CONNECT_SECONDS):
            await client.connect(
                server,
                name=f"lookupd {who}",
                error_cb=failed,
                closed_cb=ended,
                allow_reconnect=False,
                connect_timeout=ENGINE_CONNECT_SECONDS,
                reconnect_time_wait=0,
                max_reconnect_attempts=1,
                ping_interval=ENGINE_PING_SECONDS,
                max_outstanding_pings=ENGINE_PINGS_MAX,
                tls=login.tls if secure else None,
                user=None if user is None else lambda: credential(user),
                password=None if password is None else lambda: credential(password),
                inbox_prefix=f"_INBOX.{inbox_token(login.user or who)}",
            )
            _check_server(client, login, secure)
            await _check_account(engine)
    except SourceError as error:
        await _close(client)
        raise SourceError(f"{server}: {error}") from None
    except Exception as error:  # whatever the library makes of what a server says: of an INFO that is a list, say
        await _close(client)
        told = error if not isinstance(error, nats.errors.NoServersError) or not heard else heard[-1]
        raise SourceError(f"{server}: {_denied(engine, told) or _explained(told)}") from None
    except BaseException:
        await _close(client)
        raise
    return engine


def inbox_token(who: str) -> str:
    """The part of a subject that a name becomes."""
    return _TOKEN.sub("_", who) or "_"


def _info(client: Client) -> Mapping[str, object]:
    """What the server said of itself; the library has no name for all of it."""
    info: Mapping[str, object] = client._server_info
    return info


def _check_server(client: Client, login: Login, secure: bool) -> None:
    info = _info(client)
    if secure and not info.get("tls_required"):
        raise SourceError("offers no TLS: turn it on in the server, `tls { ... }`")
    told = str(info.get("version", ""))[:40]
    version = parse_version(told)
    floor = ".".join(map(str, login.version))
    if version is None:
        raise SourceError(f"is of version {told!r}, which is no release: {floor} or later is taken")
    if version < login.version:
        way_out = "upgrade it, or set jetstream.server_version if you know what you lose"
        raise SourceError(f"is of version {told}, and {floor} is the lowest that is taken: {way_out}")
    if not info.get("headers") or not info.get("jetstream"):
        raise SourceError("serves no JetStream: turn it on in the server, `jetstream { store_dir: ... }`")


async def _check_account(engine: Engine) -> None:
    async with telling(engine):
        await engine.jetstream.account_info()


@asynccontextmanager
async def telling(engine: Engine) -> AsyncIterator[None]:
    """The library's errors as SourceError. APIError, the engine's own answer to a request, passes where it means
    something to the caller: all but `JetStream is not there now`.

    A connection on which an answer did not come is not asked again.
    """
    try:
        yield
    except (ServiceUnavailableError, NoStreamResponseError) as error:
        if isinstance(error, ServiceUnavailableError) and error.err_code == _NOT_FOR_ACCOUNT:
            way_out = "`jetstream: enabled` in the account"
            raise SourceError(f"JetStream is not enabled for this account: {way_out}") from None
        raise SourceError(
            "JetStream does not answer: its servers have no leader now, the stream is not there, or the account may "
            "not use it"
        ) from None
    except APIError:
        raise
    except (nats.errors.Error, OSError, TimeoutError) as error:
        told = _denied(engine, error) or _explained(error)
        await engine.close(told)
        raise SourceError(told) from None
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:  # of an answer that is none
        await engine.close("an answer that cannot be read")
        raise SourceError(f"an answer that cannot be read: {error!r}") from None


_NOT_FOR_ACCOUNT = 10039


def _denied(engine: Engine, error: Exception) -> str:
    """Whoever may not ask gets no answer, and is told so beside it."""
    if isinstance(error, TimeoutError) and "permissions violation" in engine.reason.lower():
        return f"the account lacks a right: {engine.reason.removeprefix('nats: ')}"
    return ""


def _explained(error: Exception) -> str:
    text = _reason(error)
    if "authorization violation" in text.lower() or isinstance(error, nats.errors.AuthorizationError):
        return f"does not let us in ({text}): see jetstream.user and password_file, or certificate and key"
    if isinstance(error, nats.errors.SecureConnWantedError):
        return "offers no TLS: turn it on in the server, `tls { ... }`"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {text}: see jetstream.ca_file, and the names in the server's certificate"
    return text


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, ssl.SSLError):
        return error.reason or str(error)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, nats.errors.Error):
        return str(error).removeprefix("nats: ").strip("'")
    return f"is no NATS server that we know ({error!r})"


async def _close(client: Client) -> None:
    with suppress(OSError, nats.errors.Error, TimeoutError, AttributeError):  # it may be half made
        async with asyncio.timeout(ENGINE_CLOSE_SECONDS):
            await client.close()


class Link:
    """Whoever needs the engine again and again asks this for it: the connection there is, or a new one.

    connected, connects and failures are for metrics; a change is logged once.
    """

    def __init__(self, settings: JetStreamSettings, who: str) -> None:
        """Raises ConfigError."""
        self.connects = 0
        self.failures = 0
        self._login = read_login(settings)
        self._who = who
        self._engine: Engine | None = None
        self._told = ""
        self._making = asyncio.Lock()

    @property
    def connected(self) -> bool:
        """Whether there is a connection now."""
        return self._engine is not None and self._engine.alive

    async def engine(self) -> Engine:
        """One that is alive. Raises SourceError when none can be had: wait before asking again."""
        async with self._making:
            if self._engine is None or not self._engine.alive:
                await self._drop()
                self._engine = await self._connect()
            return self._engine

    async def _connect(self) -> Engine:
        try:
            engine = await connect_as(self._login, self._who)
        except SourceError as error:
            self.failures += 1
            if self._told != str(error):
                self._told = str(error)
                log("engine_unreachable", reason=error)
            raise
        self._told = ""
        self.connects += 1
        log("engine_connected", server=engine.server, version=engine.version)
        return engine

    async def _drop(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            log("engine_lost", server=engine.server, reason=engine.reason or "closed")
            await engine.close()

    async def close(self) -> None:
        """For good."""
        engine, self._engine = self._engine, None
        if engine is not None:
            await engine.close()
