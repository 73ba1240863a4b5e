"""A web folder as a source, read-only: listed by its own page, fetched over TLS that is always verified.

What the listing says is read by `listing`. Settings, secrets and the TLS context come checked from `open`.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import re
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote, urljoin, urlsplit

import aiohttp
import yarl

from loader.durable import CHUNK_BYTES, Part
from loader.sources.listing import LISTING_BYTES_MAX, parse_listing
from loader.sources.place import check_name, no_answer, one_line
from lookupd.errors import SourceError

ETAG_CHARS_MAX = 1024
"""Of a tag that we keep and send back; those of common servers have under 100."""

CONNECTIONS_MAX = 2
"""One is used; the second is made while an idle one that the server closed still counts."""

READ_BUFFER_BYTES = 1 << 18
"""aiohttp lets twice as much arrive before it is taken, and drops that when the connection breaks."""

_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19})")


class HttpsSource:
    """Files under one URL."""

    def __init__(
        self, url: str, timeout: float, tls: ssl.SSLContext | None, login: tuple[str, str] | None = None
    ) -> None:
        """url: of the folder, ends with a slash, without user. tls: None for http. login: user and password.

        timeout: seconds for the connection, and for each piece of an answer.
        """
        self._url = url
        self._place = url
        self._timeout = timeout
        self._tls = tls
        self._headers = {"Accept-Encoding": "identity", "User-Agent": "lookupd-loader"}
        if login is not None:
            secret = base64.b64encode(":".join(login).encode()).decode()
            self._headers["Authorization"] = f"Basic {secret}"
        self._session: aiohttp.ClientSession | None = None
        self._listing_etag = ""
        self._listing: frozenset[str] = frozenset()

    async def names(self) -> frozenset[str]:
        """See Source. An unchanged page is not sent again."""
        asked = {"If-None-Match": self._listing_etag} if self._listing_etag else {}
        async with self._get("", asked) as response:
            if response.status == 304 and asked:
                return self._listing
            self._check(response, "its page", {200})
            self._length(response, "its page")
            body = bytearray()
            async for chunk in response.content.iter_chunked(CHUNK_BYTES):
                body += chunk
                if len(body) > LISTING_BYTES_MAX:
                    raise SourceError(
                        f"{self._place}: its page is longer than {LISTING_BYTES_MAX} bytes: have old files moved away"
                    )
            etag = _etag(response)
        self._listing = await asyncio.to_thread(parse_listing, self._place, self._url, bytes(body))
        self._listing_etag = etag
        return self._listing

    async def fetch(self, name: str, to: Path) -> None:
        """See Source. Continued with If-Range and a strong ETag, so that the rest is of the same version."""
        check_name(self._place, name)
        part = await asyncio.to_thread(Part, to)
        try:
            if not await self._download(name, part):
                await asyncio.to_thread(part.begin, "")
                await self._download(name, part)
            await asyncio.to_thread(part.finish)
        finally:
            await asyncio.to_thread(part.close)

    async def publish(self, name: str, content: bytes) -> bool:
        """See Source."""
        return False

    async def close(self) -> None:
        """Close the connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _download(self, name: str, part: Part) -> bool:
        """The rest of a file; False if the server has no such rest, and the file must be fetched from its start."""
        asked = {"Range": f"bytes={part.length}-", "If-Range": part.version} if part.version else {}
        async with self._get(name, asked) as response:
            if response.status == 416 and asked:
                return False
            self._check(response, name, {200, 206} if asked else {200})
            if response.status == 206:
                size = self._continued(response, part)
                if size is None:
                    return False
            else:
                size = self._length(response, name)
                await asyncio.to_thread(part.begin, "")  # from the start, though perhaps of the version we have
            await asyncio.to_thread(part.begin, _strong_etag(response), size)
            async for chunk in response.content.iter_chunked(CHUNK_BYTES):
                await asyncio.to_thread(part.write, chunk)
        if size is not None and part.length != size:
            raise SourceError(
                f"{self._place}: {name}: {part.length} bytes came, {size} were announced: it is fetched again; "
                "if this stays, ask its operator"
            )
        return True

    def _continued(self, response: aiohttp.ClientResponse, part: Part) -> int | None:
        """The whole file's size, if this is the rest of the very version we have the beginning of."""
        found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if not found or int(found[1]) != part.length or int(found[2]) + 1 != int(found[3]):
            return None
        return int(found[3]) if _strong_etag(response) == part.version else None

    def _length(self, response: aiohttp.ClientResponse, what: str) -> int | None:
        """As announced; None for chunks, which tell their end themselves."""
        if response.content_length is None and "chunked" not in response.headers.get("Transfer-Encoding", "").lower():
            raise SourceError(
                f"{self._place}: {what}: the server announces no length, so that a broken transfer would look "
                "whole: have its operator send Content-Length"
            )
        return response.content_length

    def _check(self, response: aiohttp.ClientResponse, what: str, good: set[int]) -> None:
        """Raises SourceError with the way out unless the status is a good one."""
        status = response.status
        if status in good:
            return
        said = f"{self._place}: {what}: the server says {status} {one_line(response.reason or '')}".rstrip()
        match status:
            case 301 | 302 | 303 | 307 | 308:
                target = _without_secrets(self._url, response.headers.get("Location", ""))
                way_out = f"it points to {target}: if its operator confirms that, put it into the feed's `source`"
            case 401 | 403:
                way_out = "see that the feed's `user` and `password_file` are right, and its operator lets us in"
            case 404 | 410:
                way_out = "see that the feed's `source` is right, or that the file still lies there"
            case 429 | 503:
                way_out = "it has too much to do; if this stays, ask its operator or raise the feed's `poll`"
            case _:
                way_out = "ask its operator"
        raise SourceError(f"{said}: {way_out}; it is tried again")

    @contextlib.asynccontextmanager
    async def _get(self, name: str, headers: dict[str, str]) -> AsyncIterator[aiohttp.ClientResponse]:
        """One answer, its status not looked at. Every failure, also of reading the body, becomes a SourceError."""
        if self._session is None:
            self._session = self._open_session()
        url = yarl.URL(self._url + quote(name, safe=""), encoded=True)
        try:
            async with self._session.get(url, headers=headers, allow_redirects=False) as response:
                yield response
        except TimeoutError:
            raise no_answer(self._place, self._timeout) from None
        except (aiohttp.ClientError, OSError) as error:
            raise SourceError(f"{self._place}: {_explain(error)}; it is tried again") from None

    def _open_session(self) -> aiohttp.ClientSession:
        limit = self._timeout
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._tls or True, limit=CONNECTIONS_MAX),
            timeout=aiohttp.ClientTimeout(total=None, connect=limit, sock_connect=limit, sock_read=limit),
            headers=self._headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,  # a file is taken as it lies there, also where .gz is told as an encoding
            read_bufsize=READ_BUFFER_BYTES,
            trust_env=False,
        )


def _etag(response: aiohttp.ClientResponse) -> str:
    """Empty if there is none that can be kept and sent back."""
    etag = response.headers.get("ETag", "")
    return etag if etag.isascii() and etag.isprintable() and len(etag) <= ETAG_CHARS_MAX else ""


def _strong_etag(response: aiohttp.ClientResponse) -> str:
    """Empty if there is none: a weak one does not say that the bytes are the same (RFC 9110 section 8.8.1)."""
    etag = _etag(response)
    return etag if etag.startswith('"') else ""


def _without_secrets(url: str, location: str) -> str:
    """Where a redirect leads, without user, password and query, which may be a key."""
    try:
        target = urlsplit(urljoin(url, location))
        return one_line(target._replace(netloc=target.netloc.rpartition("@")[2], query="", fragment="").geturl())
    except ValueError:
        return "no valid address"


def _explain(error: aiohttp.ClientError | OSError) -> str:
    """The reason and the way out."""
    match error:
        case aiohttp.ClientConnectorCertificateError():
            cause = error.certificate_error
            reason = getattr(cause, "verify_message", "") or str(cause)
            return (
                f"its certificate is refused: {one_line(reason)}: see whether it expired or was changed, "
                "and that the feed's `ca_file` is of the authority that issued it"
            )
        case aiohttp.ClientConnectorDNSError():
            return f"{error.host}: {error.strerror}: correct the feed's `source`, or see to the DNS"
        case aiohttp.ClientSSLError():
            return f"no TLS with it: {one_line(str(error.os_error))}: it must speak TLS 1.2 or newer"
        case aiohttp.ClientConnectorError(os_error=ConnectionResetError() | ConnectionAbortedError()):
            return "no TLS with it: it broke the connection off: it must speak TLS 1.2 or newer"
        case aiohttp.ClientPayloadError() | aiohttp.ServerDisconnectedError():
            return "the connection broke in the middle of an answer: what came is kept and continued where possible"
        case aiohttp.ClientResponseError():
            return f"its answer is no valid HTTP: {one_line(error.message)}: ask its operator"
        case OSError():
            return f"{error.strerror or one_line(str(error))}: see that it is up and reached from here"
        case _:
            return f"{one_line(str(error))}: ask its operator"
