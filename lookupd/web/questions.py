"""The body of `POST /v1/numbers`: questions in lines, or in one array, bounded in length and time.

What they are answered is `numbers`' business.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import NamedTuple

import msgspec
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from lookupd.limits import (
    HTTP_ARRAY_BYTES_MAX,
    HTTP_ARRAY_NUMBERS_MAX,
    HTTP_LINE_BYTES_MAX,
    HTTP_LINES_MAX,
    HTTP_LINES_PER_SLICE,
    HTTP_LINES_SECONDS,
    HTTP_STALL_SECONDS,
)
from lookupd.web.errors import Problem

NDJSON = "application/x-ndjson"
NO_QUESTION = 'not a question: a number, "number", or {"number": "..."}'

_Number = str | int | float
"""As JSON has it: 886912345678.0 is a whole number, too."""


class _Named(msgspec.Struct):
    number: _Number


_Asked = _Number | _Named
_decode_line = msgspec.json.Decoder(_Asked).decode
_decode_array = msgspec.json.Decoder(list[_Asked]).decode


class Question(NamedTuple):
    """line: from 1. text: the number as it was written; None for what is no question."""

    line: int
    text: str | None


async def read_array(request: web.Request) -> list[Question]:
    """All of a JSON array; line is the place in it. Raises Problem."""
    body = bytearray()
    try:
        async for piece in _pieces(request):
            body += piece
            if len(body) > HTTP_ARRAY_BYTES_MAX:
                raise Problem(413, f"more than {HTTP_ARRAY_BYTES_MAX:,} bytes", f"send {NDJSON}")
    except ConnectionError:
        raise Problem(400, "body: it broke off") from None
    try:
        asked = _decode_array(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Problem(400, f"body: {error}", 'an array of numbers: ["+886912345678"]') from None
    if len(asked) > HTTP_ARRAY_NUMBERS_MAX:
        raise Problem(413, f"more than {HTTP_ARRAY_NUMBERS_MAX:,} numbers", f"send {NDJSON}")
    found = [Question(at, _text(each)) for at, each in enumerate(asked, 1)]
    for at, text in found:
        if text is None:
            raise Problem(400, f"body: {NO_QUESTION} - at `$[{at - 1}]`")
    return found


async def read_lines(request: web.Request) -> AsyncIterator[list[Question]]:
    """The lines of a body as they come, so many at a time that others do not wait. Empty ones are passed over.

    Raises Problem when there are too many, or the body stops coming, ConnectionError when the client is gone.
    """
    as_text = request.content_type == "text/plain"
    begun, is_long, count = b"", False, 0
    found: list[Question] = []
    async for piece in _pieces(request):
        *whole, begun = (begun + piece).split(b"\n")
        for line in whole:
            count += 1
            if count > HTTP_LINES_MAX:
                raise Problem(413, f"more than {HTTP_LINES_MAX:,} lines", "send the rest in another request")
            if is_long or line.strip():
                found.append(Question(count, None if is_long else _read_line(line, as_text)))
            is_long = False
            if len(found) == HTTP_LINES_PER_SLICE:
                yield found
                found = []
        if len(begun) > HTTP_LINE_BYTES_MAX:  # its end is looked for, and no more of it is kept
            is_long, begun = True, b""
        if found:
            yield found
            found = []
    if is_long or begun.strip():
        yield [Question(count + 1, None if is_long else _read_line(begun, as_text))]


def _read_line(line: bytes, as_text: bool) -> str | None:
    if len(line) > HTTP_LINE_BYTES_MAX:
        return None
    try:
        return line.decode().strip() if as_text else _text(_decode_line(line))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _text(asked: _Asked) -> str | None:
    """None for what no number can be meant by: 0.5, -1."""
    found = asked.number if isinstance(asked, _Named) else asked
    if isinstance(found, str):
        return found
    return str(int(found)) if found >= 0 and found == int(found) else None


async def _pieces(request: web.Request) -> AsyncIterator[bytes]:
    """The body as it comes, at most 128 KiB of it waiting. Raises as `read_lines`."""
    until = time.monotonic() + HTTP_LINES_SECONDS
    while True:
        left = until - time.monotonic()
        try:
            async with asyncio.timeout(min(HTTP_STALL_SECONDS, max(left, 0))):
                piece = await request.content.readany()
        except TimeoutError:
            if left < HTTP_STALL_SECONDS:
                raise Problem(408, f"the body took over {HTTP_LINES_SECONDS:g} s", "send the rest again") from None
            raise Problem(408, f"nothing came for {HTTP_STALL_SECONDS:g} s") from None
        except HttpProcessingError as error:
            raise Problem(400, f"body: {error.message}") from None
        if not piece:
            return
        yield piece
