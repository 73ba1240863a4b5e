"""What the exchange beside us knows and the store does not: notices that are not applied yet, and why.

Asked of `sync.http` when somebody asks us, at most once a second. That it is away is no error of ours.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import aiohttp
import msgspec

from lookupd.limits import EXCHANGE_ANSWER_BYTES_MAX, EXCHANGE_ANSWER_SECONDS

KEPT_SECONDS = 1.0


class Exchange:
    """The answer, and when it was had."""

    def __init__(self, url: Callable[[], str | None]) -> None:
        self._url = url
        self._kept: tuple[dict[str, Any] | None, str | None] = (None, None)
        self._kept_at = float("-inf")
        self._asking = asyncio.Lock()

    async def ask(self) -> tuple[dict[str, Any] | None, str | None]:
        """What it says, or None and why there is nothing."""
        async with self._asking:
            if time.monotonic() - self._kept_at > KEPT_SECONDS:
                self._kept = await self._ask()
                self._kept_at = time.monotonic()
        return self._kept

    async def _ask(self) -> tuple[dict[str, Any] | None, str | None]:
        url = self._url()
        if url is None:
            return None, "sync.http is not set: the exchange cannot be asked"
        try:
            async with (
                asyncio.timeout(EXCHANGE_ANSWER_SECONDS),
                aiohttp.ClientSession(auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()) as session,
                session.get(f"{url}/v1/exchange", allow_redirects=False) as reply,
            ):
                if reply.status != 200:
                    return None, f"{url}: HTTP {reply.status}"
                body = bytearray()
                async for piece in reply.content.iter_any():
                    body += piece
                    if len(body) > EXCHANGE_ANSWER_BYTES_MAX:
                        return None, f"{url}: the answer has more than {EXCHANGE_ANSWER_BYTES_MAX} bytes"
            told = msgspec.json.decode(body, type=dict[str, Any])
        except TimeoutError:
            return None, f"{url}: no answer within {EXCHANGE_ANSWER_SECONDS:g} s"
        except (aiohttp.ClientError, OSError, ValueError, RecursionError) as error:
            return None, f"{url}: {type(error).__name__}"
        feeds = told.get("feeds")
        return (told, None) if isinstance(feeds, dict) else (None, f"{url}: something else answers there")
