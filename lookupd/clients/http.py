"""Ask numbers over HTTP, many in one request, as a program in a web shop or a ticket system does."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any
from urllib.parse import quote

import aiohttp
import msgspec

from lookupd.client import NoAnswer
from lookupd.clients import Server, WrongAnswer, is_poor
from lookupd.errors import LookupdError
from lookupd.imsis import ImsiView
from lookupd.key_files import load_authorities, read_tokens
from lookupd.limits import HTTP_ANSWER_BYTES_MAX, HTTP_ARRAY_NUMBERS_MAX
from lookupd.model import AnswerView, Outcome
from lookupd.risk import RiskView

_LABELS = frozenset(outcome.label for outcome in Outcome)
_CERTIFICATE = "its certificate is not trusted"
LEAVE_SECONDS = 1.0
"""How long a server may take to end a connection that was told to end."""


class Keys(msgspec.Struct, frozen=True):
    """What https needs beside the URL: files with the client's token, and with the authorities that are believed."""

    token_file: str | None = None
    ca_file: str | None = None


def query(servers: Sequence[Server], numbers: Sequence[str], timeout: float, keys: Keys) -> list[AnswerView]:
    """The answers to numbers as people write them. A server that gives none, or a poor one, is followed by the next.

    timeout: seconds, for each request. Raises NoAnswer, WrongAnswer, LookupdError.
    """
    return asyncio.run(_ask_in_turn(servers, numbers, timeout, keys))


async def _ask_in_turn(
    servers: Sequence[Server], numbers: Sequence[str], timeout: float, keys: Keys
) -> list[AnswerView]:
    found: dict[int, AnswerView] = {}
    trouble: list[str] = []
    for server in servers:
        wanted = [at for at in range(len(numbers)) if at not in found or is_poor(found[at])]
        if not wanted:
            break
        try:
            async with _session(server, timeout, keys) as session:
                for first in range(0, len(wanted), HTTP_ARRAY_NUMBERS_MAX):
                    part = wanted[first : first + HTTP_ARRAY_NUMBERS_MAX]
                    found |= zip(part, await _ask(session, server, [numbers[at] for at in part]), strict=True)
        except NoAnswer as error:
            trouble.append(str(error))
    if len(found) < len(numbers):
        raise NoAnswer("; ".join(trouble))
    return [found[at] for at in range(len(numbers))]


def query_imsis(servers: Sequence[Server], imsis: Sequence[str], timeout: float, keys: Keys) -> list[ImsiView]:
    """What is placed on IMSIs, all of them asked of one server; one that answers not all is followed by the next.

    timeout: seconds, for each request. Raises NoAnswer, WrongAnswer, LookupdError.
    """
    return asyncio.run(_ask_imsis_in_turn(servers, imsis, timeout, keys))


async def _ask_imsis_in_turn(
    servers: Sequence[Server], imsis: Sequence[str], timeout: float, keys: Keys
) -> list[ImsiView]:
    trouble: list[str] = []
    for server in servers:
        try:
            async with _session(server, timeout, keys) as session:
                return [await _ask_imsi(session, server, imsi) for imsi in imsis]
        except NoAnswer as error:
            trouble.append(str(error))
    raise NoAnswer("; ".join(trouble))


async def _ask_imsi(session: aiohttp.ClientSession, server: Server, imsi: str) -> ImsiView:
    """Raises NoAnswer, WrongAnswer."""
    told = await _told(server, session.get(f"{server.url}/v1/imsis/{imsi}", allow_redirects=False))
    try:
        view = msgspec.json.decode(told, type=ImsiView)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise WrongAnswer(f"{server.url}: no answer: does lookupd listen there?") from None
    placed = view.restriction
    if view.imsi != imsi or not (placed is None or _is_restriction(placed)):
        raise WrongAnswer(f"{server.url}: an answer that cannot be one")
    return view


def query_risk(server: Server, number: str, terms: dict[str, str], timeout: float, keys: Keys) -> RiskView:
    """A number's past, of one server, which audits that. terms: purpose, and as_of and window if they are asked for.

    timeout: seconds. Raises NoAnswer, WrongAnswer, LookupdError.
    """
    return asyncio.run(_ask_risk(server, number, terms, timeout, keys))


async def _ask_risk(server: Server, number: str, terms: dict[str, str], timeout: float, keys: Keys) -> RiskView:
    url = f"{server.url}/v1/numbers/{quote(number, safe='')}/history"
    async with _session(server, timeout, keys) as session:
        told = await _told(server, session.get(url, params=terms, allow_redirects=False))
    try:
        view = msgspec.json.decode(told, type=RiskView)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise WrongAnswer(f"{server.url}: no answer: does lookupd listen there?") from None
    texts = [text for text in msgspec.structs.astuple(view) if isinstance(text, str)]
    texts += [text or "" for move in view.moves for text in (move.at, move.kind, move.from_network, move.to_network)]
    is_placed = view.restriction is None or _is_restriction(view.restriction)
    if view.outcome not in _LABELS or not is_placed or not all(text.isprintable() for text in texts):
        raise WrongAnswer(f"{server.url}: an answer that cannot be one")
    return view


def _is_restriction(placed: dict[str, str]) -> bool:
    return placed.keys() == {"kind", "until"} and all(text.isprintable() for text in placed.values())


@contextlib.asynccontextmanager
async def _session(server: Server, timeout: float, keys: Keys) -> AsyncIterator[aiohttp.ClientSession]:
    """Requests to one server. Raises LookupdError if a file is not what it should be."""
    headers = {"User-Agent": "lookupd"}
    if server.dialect != "https" and keys.token_file is not None:
        raise LookupdError(f"server {server.url}: a token is sent over https:// only, where nobody listens in")
    if keys.token_file is not None:
        headers["Authorization"] = f"Bearer {read_tokens('--token-file', keys.token_file)[-1]}"
    context = _context(keys.ca_file) if server.dialect == "https" else True
    sockets: list[socket.socket] = []

    def make_socket(address: tuple[Any, ...]) -> socket.socket:
        sockets.append(socket.socket(*address[:3]))
        return sockets[-1]

    try:
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=context, socket_factory=make_socket),
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=timeout),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        ) as session:
            yield session
    finally:
        await _until_closed(sockets)


async def _until_closed(sockets: Sequence[socket.socket]) -> None:
    """A connection that the server ends is closed in the background, TLS taking its leave first: the loop must last."""
    loop = asyncio.get_running_loop()
    until = loop.time() + LEAVE_SECONDS
    while any(sock.fileno() != -1 for sock in sockets) and loop.time() < until:
        await asyncio.sleep(0.005)


def _context(ca_file: str | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca_file is None:
        context.load_default_certs()
    else:
        load_authorities(context, "--ca-file", ca_file)
    return context


async def _ask(session: aiohttp.ClientSession, server: Server, numbers: list[str]) -> list[AnswerView]:
    """One request. Raises NoAnswer, WrongAnswer."""
    body = msgspec.json.encode([number.encode("utf-8", "replace").decode() for number in numbers])
    json_body = {"Content-Type": "application/json"}
    url = f"{server.url}/v1/numbers"
    told = await _told(server, session.post(url, data=body, headers=json_body, allow_redirects=False))
    return _views(server, told, len(numbers))


async def _told(server: Server, request: AbstractAsyncContextManager[aiohttp.ClientResponse]) -> bytes:
    """What a request is answered with. Raises NoAnswer, WrongAnswer."""
    try:
        async with request as reply:
            told = await _read(reply, server)
    except TimeoutError:
        raise NoAnswer(f"{server.url}: no answer in time: --timeout has more") from None
    except aiohttp.ClientConnectorCertificateError as error:
        why = getattr(error.certificate_error, "verify_message", None) or type(error.certificate_error).__name__
        raise NoAnswer(f"{server.url}: {_CERTIFICATE}: {why}: --ca-file names its authority") from None
    except aiohttp.ClientConnectorError as error:
        why = errno.errorcode.get(error.os_error.errno or 0, "") and os.strerror(error.os_error.errno or 0)
        raise NoAnswer(f"{server.url}: {why or error.os_error}") from None
    except (aiohttp.ClientError, OSError) as error:
        raise NoAnswer(f"{server.url}: {type(error).__name__}: does HTTP listen there?") from None
    if reply.status != 200:
        raise NoAnswer(f"{server.url}: HTTP {reply.status}{_reason(told)}")
    return told


async def _read(reply: aiohttp.ClientResponse, server: Server) -> bytes:
    body = bytearray()
    async for piece in reply.content.iter_any():
        body += piece
        if len(body) > HTTP_ANSWER_BYTES_MAX:
            raise WrongAnswer(f"{server.url}: an answer of more than {HTTP_ANSWER_BYTES_MAX:,} bytes")
    return bytes(body)


def _views(server: Server, told: bytes, count: int) -> list[AnswerView]:
    try:
        views = msgspec.json.decode(told, type=list[AnswerView])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise WrongAnswer(f"{server.url}: no answers: does lookupd listen there?") from None
    if len(views) != count:
        raise WrongAnswer(f"{server.url}: {len(views)} answers to {count} numbers")
    for view in views:
        texts = (view.network_code, view.routing_number, view.operator)
        is_placed = view.restriction is None or _is_restriction(view.restriction)
        if view.outcome not in _LABELS or not is_placed or not all((text or "").isprintable() for text in texts):
            raise WrongAnswer(f"{server.url}: an answer that cannot be one")
    return views


def _reason(told: bytes) -> str:
    """What an error says, fit to be printed; a guard says it in plain text."""
    try:
        found: Any = msgspec.json.decode(told)
        text = found.get("error", "") if isinstance(found, dict) else ""
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        text = told.decode("utf-8", "replace").partition("\n")[0]
    shown = "".join(each for each in str(text)[:200] if each.isprintable())
    return f": {shown}" if shown else ""
