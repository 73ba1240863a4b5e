"""The other replica, asked over HTTP for its state, digests, blocks and tables (see web.store).

Every answer is bounded in time and size and checked for its form: a peer may be slow, wrong or somebody else.
What the answers mean is for `compare` and `mend`.
"""

from __future__ import annotations

import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, TypeVar
from urllib.parse import urlencode, urlsplit

import msgspec
import numpy as np

from lookupd.errors import LookupdError
from lookupd.limits import (
    GROUP_BLOCKS,
    PEER_ANSWER_BYTES_MAX,
    PEER_BLOCKS_MAX,
    PEER_BLOCKS_SCANNED_MAX,
    PEER_TIMEOUT_SECONDS,
)
from lookupd.numbering import parse_network_code, parse_routing_number
from lookupd.peer_keys import NO_KEYS, PeerKeys, tls_trouble
from lookupd.store.columns import U64s
from lookupd.store.portable import Row, StoreState, Tables
from lookupd.store.schema import NUMBERS_PER_BLOCK

SERIAL_HEADER = "Lookupd-Serial"
NEXT_HEADER = "Lookupd-Next"
_READ_BYTES = 65_536
_SECONDS_MAX = (1 << 32) - 1

_WAYS_OUT = {
    401: "; see replica.peer_token_file, or peer_certificate, in --config",
    403: "; add this machine to its [[client]] list",
    404: "; is it a lookupd of this version?",
}

Told = TypeVar("Told")


class PeerError(LookupdError):
    """The peer does not answer, or not as a replica of ours does. Nothing was changed."""


class PeerMoved(PeerError):
    """The peer's state has moved on between two answers: begin again."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A replica sends nobody elsewhere."""

    def redirect_request(self, *_: Any) -> None:
        return None


class Peer:
    """One replica's HTTP listener. serial: of the state that answers must be of, once `state` was asked. requests: how
    many were made."""

    def __init__(self, url: str, timeout: float = PEER_TIMEOUT_SECONDS, keys: PeerKeys = NO_KEYS) -> None:
        """url: `https://host:port`, or http on this machine. keys: what we show it.

        timeout: seconds of each request, from first to last byte. Raises PeerError.
        """
        try:
            parts = urlsplit(url)
            usable = parts.scheme in {"http", "https"} and parts.hostname and parts.path in {"", "/"}
            _ = parts.port
        except ValueError as error:
            raise PeerError(f"{url}: {error}") from None
        if not usable or parts.query or parts.username is not None:
            raise PeerError(f"{url}: write it like https://192.0.2.7:9474, the peer's listen.http")
        self.url = f"{parts.scheme}://{parts.netloc}"
        self.serial: int | None = None
        self.requests = 0
        self._timeout = timeout
        # No proxy: the settings of an environment that have nothing to do with our replicas.
        tls = [] if keys.context is None else [urllib.request.HTTPSHandler(context=keys.context)]
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirects(), *tls)
        self._opener.addheaders = list(keys.headers.items())

    def state(self) -> StoreState:
        """What it says of itself; later answers must be of this state."""
        self.serial = None
        body, _ = self._get("state", [])
        found = self._decoded(msgspec.json.decode, body, StoreState)
        try:
            int(found.digest, 16)
        except ValueError:
            raise self._wrong("its digest is no hex number") from None
        self.serial = found.serial
        return found

    def digests(self, first: int, behind: int, group: int = 1) -> tuple[U64s, U64s]:
        """Blocks from `first` to before `behind` that it has, or the groups they lie in, and their digests."""
        blocks: list[U64s] = [np.zeros(0, np.uint64)]
        contents: list[U64s] = [np.zeros(0, np.uint64)]
        at: int | None = first - first % group
        while at is not None and at < behind:
            count = min(PEER_BLOCKS_SCANNED_MAX, (behind - at + group - 1) // group)
            body, more = self._get("digests", [("from", at), ("count", count), ("group", group)])
            if len(body) % 16:
                raise self._wrong("digests that are no pairs")
            pairs = np.frombuffer(body, "<u8").astype(np.uint64).reshape(-1, 2)
            block = pairs[:, 0]
            if len(block) and (block[0] < at or (block[1:] <= block[:-1]).any()):
                raise self._wrong("digests that are not in order")
            inside = block < np.uint64(behind)
            blocks.append(block[inside])
            contents.append(pairs[inside, 1])
            if more is not None and (not len(block) or more <= int(block[-1])):
                raise self._wrong("digests that go round in a circle")
            at = more
        return np.concatenate(blocks), np.concatenate(contents)

    def groups(self) -> tuple[U64s, U64s]:
        """First block of each group that has blocks, and the group's digest."""
        return self.digests(0, 10**12, GROUP_BLOCKS)

    def blocks(self, wanted: Sequence[int]) -> dict[int, list[Row] | None]:
        """The numbers of some blocks; None for a block that is damaged there too."""
        found: dict[int, list[Row] | None] = {}
        for at in range(0, len(wanted), PEER_BLOCKS_MAX):
            asked = wanted[at : at + PEER_BLOCKS_MAX]
            body, _ = self._get("blocks", [("block", block) for block in asked])
            told = self._decoded(msgspec.msgpack.decode, body, list[tuple[int, list[Row] | None]])
            if [block for block, _ in told] != list(asked):
                raise self._wrong("other blocks than were asked for")
            for block, rows in told:
                self._check_rows(block, rows or [])
                found[block] = rows
        return found

    def tables(self) -> Tables:
        """Networks and ranges."""
        body, _ = self._get("tables", [])
        return self._decoded(msgspec.msgpack.decode, body, Tables)

    def _check_rows(self, block: int, rows: list[Row]) -> None:
        offsets = [row.offset for row in rows]
        in_order = all(a < b for a, b in pairwise(offsets))
        if not in_order or not all(0 <= offset < NUMBERS_PER_BLOCK for offset in offsets):
            raise self._wrong(f"numbers of block {block} that are not in order")
        routes = {(row.network_code, row.routing_number) for row in rows}
        fits = (
            all(parse_network_code(code) is not None for code, _ in routes)
            and all(number is None or parse_routing_number(number) is not None for _, number in routes)
            and all(code is None or parse_network_code(code) is not None for code in {row.donor for row in rows})
            and all(row.ported_at is None or 0 < row.ported_at <= _SECONDS_MAX for row in rows)
            and all(0 <= row.sequence < 1 << 63 for row in rows)
        )
        if not fits:
            raise self._wrong(f"a number of block {block} whose values cannot be")

    def _decoded(self, decode: Any, body: bytes, form: type[Told]) -> Told:
        try:
            found: Told = decode(body, type=form)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise self._wrong(f"something that cannot be read: {error}") from None
        return found

    def _get(self, name: str, query: list[tuple[str, int]]) -> tuple[bytes, int | None]:
        """The body of an answer of the state we look at, and from where to go on. Raises PeerError, PeerMoved."""
        url = f"{self.url}/v1/store/{name}" + (f"?{urlencode(query)}" if query else "")
        until = time.monotonic() + self._timeout
        self.requests += 1
        try:
            with self._opener.open(url, timeout=self._timeout) as reply:
                body = self._body(reply, until)
                serial, more = (reply.headers.get(header) for header in (SERIAL_HEADER, NEXT_HEADER))
        except urllib.error.HTTPError as error:
            with error:
                reason = error.read(200).decode("utf-8", "replace").strip()
            raise PeerError(f"{self.url}: HTTP {error.code}: {reason}{_WAYS_OUT.get(error.code, '')}") from None
        except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
            words = tls_trouble(error) or getattr(error, "reason", None) or error
            raise PeerError(f"{self.url}: no answer: {words}") from None
        if serial is None or not serial.isascii() or not serial.isdigit() or len(serial) > 20:
            raise self._wrong(f"no {SERIAL_HEADER} header")
        if self.serial is not None and int(serial) != self.serial:
            raise PeerMoved(f"{self.url}: its state moved on from serial {self.serial} to {serial} meanwhile")
        if more is not None and not (more.isascii() and more.isdigit() and len(more) <= 15):
            raise self._wrong(f"a bad {NEXT_HEADER} header")
        return body, None if more is None else int(more)

    def _body(self, reply: Any, until: float) -> bytes:
        """Piece by piece: a peer that sends a byte a second would keep a socket's own timeout at bay."""
        pieces: list[bytes] = []
        length = 0
        while piece := reply.read1(_READ_BYTES):
            pieces.append(piece)
            length += len(piece)
            if length > PEER_ANSWER_BYTES_MAX:
                raise self._wrong(f"more than {PEER_ANSWER_BYTES_MAX} bytes")
            if time.monotonic() > until:
                raise PeerError(f"{self.url}: no answer: not complete after {self._timeout:g} s")
        if reply.length:  # of a body with a known length, so much is missing
            raise PeerError(f"{self.url}: no answer: the connection ended in the middle of it")
        return b"".join(pieces)

    def _wrong(self, what: str) -> PeerError:
        return PeerError(f"{self.url}: sent {what}: is it a lookupd of this version?")


def fetch_block(
    url: str, block: int, keys: PeerKeys = NO_KEYS, timeout: float = PEER_TIMEOUT_SECONDS
) -> list[Row] | None:
    """A block's numbers as the replica at `url` has them; None if it is damaged there too, [] if it has none.

    Raises PeerError.
    """
    return Peer(url, timeout, keys).blocks([block])[block]
