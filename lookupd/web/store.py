"""What a replica tells its peer of the store, over HTTP: state, digests, blocks, tables. Reads only.

Each request pins a state of its own and tells its serial, so that the peer notices when two answers are not
of one state. Long work is done in slices: between two of them, queries have their turn.

    GET /v1/store/state                           JSON: portable.StoreState
    GET /v1/store/digests?from=B&count=N&group=G  pairs of u64, little-endian: block, content digest; with
                                                  group=256, first block of the group and the sum over it.
                                                  `Lookupd-Next` says from where to go on, if there is more.
    GET /v1/store/blocks?block=B&block=B...       MessagePack: [[block, [row, ...] or nil if damaged], ...]
    GET /v1/store/tables                          MessagePack: [networks, ranges, restrictions]
"""

from __future__ import annotations

import asyncio
import sys
import time
from array import array
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

import lmdb
import msgspec
from aiohttp import web

from lookupd.errors import StoreError
from lookupd.limits import GROUP_BLOCKS, PEER_BLOCKS_MAX, PEER_BLOCKS_SCANNED_MAX, PEER_SLICE_BLOCKS
from lookupd.store.portable import Pinned, Standing, StoreState, Tables
from lookupd.store.reader import Reader
from lookupd.store.schema import State
from lookupd.store.trail import Step
from lookupd.web import Route

SERIAL_HEADER = "Lookupd-Serial"
NEXT_HEADER = "Lookupd-Next"
_BINARY = "application/octet-stream"
_MSGPACK = "application/vnd.msgpack"
_BLOCK_END = 10**12  # numbers have at most 15 digits

Item = TypeVar("Item")
Answer = Callable[[Pinned, web.Request], Awaitable[web.Response]]


class StoreForPeers:
    """The handlers, and the states that requests under way have pinned."""

    def __init__(
        self, replica: str, reader: Callable[[], Reader | None], standing: Callable[[], Standing] = Standing
    ) -> None:
        """reader: the daemon's, None while there is no store. standing: what it knows of itself beside that."""
        self._replica = replica
        self._reader = reader
        self._standing = standing
        self._pinned: set[Pinned] = set()
        self._trail: tuple[State | None, tuple[Step, ...]] = (None, ())

    def routes(self) -> list[Route]:
        """The whole store, number by number: personal data (NPR article 34), for other replicas only."""
        answers = {"state": self._state, "digests": self._digests, "blocks": self._blocks, "tables": self._tables}
        return [Route("GET", f"/v1/store/{name}", self._answering(answer), "peer") for name, answer in answers.items()]

    def let_go(self) -> None:
        """Close every pinned state, before the reader is closed; requests under way answer 503."""
        for pinned in self._pinned:
            pinned.close()

    def _answering(self, answer: Answer) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handler(request: web.Request) -> web.Response:
            try:
                with self._pin() as pinned:
                    response = await answer(pinned, request)
                    response.headers[SERIAL_HEADER] = str(pinned.state.serial)
                    return response
            except (StoreError, lmdb.Error) as error:
                return web.Response(status=503, text=f"store unavailable: {error}\n", headers={"Retry-After": "1"})

        return handler

    @contextmanager
    def _pin(self) -> Iterator[Pinned]:
        reader = self._reader()
        if reader is None:
            raise StoreError("not open")
        with Pinned(reader) as pinned:
            self._pinned.add(pinned)
            try:
                yield pinned
            finally:
                self._pinned.discard(pinned)

    def state(self) -> StoreState | None:
        """What a peer is told of the newest state, for who compares the two; None while there is no store."""
        try:
            with self._pin() as pinned:
                return self._tell(pinned)
        except (StoreError, lmdb.Error):
            return None

    def _tell(self, pinned: Pinned) -> StoreState:
        if pinned.state != self._trail[0]:
            self._trail = pinned.state, pinned.trail()
        return pinned.tell(self._replica, self._standing(), self._trail[1], time.time())

    async def _state(self, pinned: Pinned, _: web.Request) -> web.Response:
        return web.Response(body=msgspec.json.encode(self._tell(pinned)), content_type="application/json")

    async def _digests(self, pinned: Pinned, request: web.Request) -> web.Response:
        first = _whole(request, "from", 0, _BLOCK_END)
        count = _whole(request, "count", 1, PEER_BLOCKS_SCANNED_MAX, PEER_BLOCKS_SCANNED_MAX)
        group = _whole(request, "group", 1, GROUP_BLOCKS, 1)
        page = _Page(group, count)
        contents = pinned.contents(first - first % group)
        while not page.is_full and (taken := list(islice(contents, PEER_SLICE_BLOCKS))):
            page.take(taken)
            await asyncio.sleep(0)  # queries have their turn
        contents.close()
        headers = {NEXT_HEADER: str(page.goes_on)} if page.is_full else {}
        return web.Response(body=page.little_endian(), content_type=_BINARY, headers=headers)

    async def _blocks(self, pinned: Pinned, request: web.Request) -> web.Response:
        asked = [_number("block", text, 0, _BLOCK_END) for text in request.query.getall("block", [])]
        if not 1 <= len(asked) <= PEER_BLOCKS_MAX:
            raise web.HTTPBadRequest(text=f"block: name 1 to {PEER_BLOCKS_MAX} of them\n")
        found = []
        for block in asked:
            found.append(msgspec.Raw(msgspec.msgpack.encode((block, pinned.rows(block)))))
            await asyncio.sleep(0)
        return web.Response(body=msgspec.msgpack.encode(found), content_type=_MSGPACK)

    async def _tables(self, pinned: Pinned, _: web.Request) -> web.Response:
        tables = Tables(
            await _listed(pinned.networks()), await _listed(pinned.ranges()), await _listed(pinned.restrictions())
        )
        return web.Response(body=msgspec.msgpack.encode(tables), content_type=_MSGPACK)


async def _listed(items: Iterator[Item]) -> list[Item]:
    """All items; after each slice of them, whoever else has something to do on this loop does it."""
    found: list[Item] = []
    while taken := list(islice(items, PEER_SLICE_BLOCKS)):
        found += taken
        await asyncio.sleep(0)
    return found


class _Page:
    """Pairs for one answer: at most `count` of them, made from so many blocks as one request may pass over."""

    def __init__(self, group: int, count: int) -> None:
        self.is_full = False
        self.goes_on = 0
        self._group = group
        self._count = count
        self._scanned = 0
        self._pairs = array("Q")

    def take(self, contents: list[tuple[int, int]]) -> None:
        """The next blocks. What does not go in any more is left for the request that goes on."""
        pairs = self._pairs
        for block, content in contents:
            start = block - block % self._group
            if pairs and pairs[-2] == start:
                pairs[-1] = (pairs[-1] + content) % (1 << 64)
            elif len(pairs) < 2 * self._count and self._scanned < PEER_BLOCKS_SCANNED_MAX:
                pairs.extend((start, content))
            else:
                self.is_full, self.goes_on = True, start
                return
            self._scanned += 1

    def little_endian(self) -> bytes:
        """As it is sent."""
        if sys.byteorder == "big":
            self._pairs.byteswap()
        return self._pairs.tobytes()


def _whole(request: web.Request, name: str, low: int, high: int, default: int = 0) -> int:
    text = request.query.get(name)
    return default if text is None else _number(name, text, low, high)


def _number(name: str, text: str, low: int, high: int) -> int:
    """Raises HTTPBadRequest. int() would take signs, blanks and other scripts' digits too."""
    if not (text.isascii() and text.isdigit() and len(text) <= 15 and low <= int(text) <= high):
        raise web.HTTPBadRequest(text=f"{name}: a whole number from {low} to {high}\n")
    return int(text)
