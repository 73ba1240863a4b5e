"""Looks at the peer: asks its HTTP listener for its state, has `pair` conclude, and tells metrics, log and daemon.

One small request every two seconds over a connection that is kept, off the path of any answer. The peer's answer is
bounded in time and size and checked: it may be slow, wrong or somebody else's, and then it is as if there were none.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

import aiohttp
import msgspec

from lookupd.errors import LookupdError
from lookupd.limits import (
    PEER_NAME_CHARS_MAX,
    PEER_POLL_SECONDS,
    PEER_POLL_TIMEOUT_SECONDS,
    PEER_POLL_WITHDRAWN_SECONDS,
    PEER_STATE_BYTES_MAX,
    WORDS_CHARS_MAX,
)
from lookupd.observe.log import log
from lookupd.pair import Pair, PairState, Verdict, View
from lookupd.peer_keys import NO_KEYS, PeerKeys, tls_trouble
from lookupd.settings import FEED_NAME
from lookupd.store.portable import StoreState

POLL_RESULTS = ("ok", "unreachable", "timeout", "refused", "wrong")
"""What becomes of a look; the closed set of a metric's label. unreachable: no connection, or one that ends. refused:
another HTTP status than 200. wrong: bytes that are not a replica's state."""

_HINTS = {
    401: ": it takes neither our token nor our certificate: replica.peer_token_file, or peer_certificate",
    403: ": is this machine on its [[client]] list, as a peer?",
    421: ": name the host of replica.peer in its http.hosts",
}
"""What to look at, by HTTP status."""

_DIGEST = re.compile(r"[0-9a-f]{16}")
_READ_BYTES = 16_384
_INTEGER_MAX = (1 << 63) - 1


class PeerUnusable(LookupdError):
    """The peer's answer is of no use. result: of POLL_RESULTS."""

    def __init__(self, result: str, reason: str) -> None:
        super().__init__(reason)
        self.result = result


class PairWatch:
    """The peer of a daemon, looked at until `close`."""

    def __init__(
        self,
        url: str,
        tell: Callable[[], StoreState | None],
        withdraw: Callable[[str | None], None],
        pair: Pair | None = None,
        keys: Callable[[], PeerKeys] = lambda: NO_KEYS,
    ) -> None:
        """url: `replica.peer`. tell: what we say of ourselves. withdraw: stand back for this reason; None = serve.
        keys: what we show, read anew by `renew`. Raises what keys raises."""
        self.pair = pair or Pair()
        self.peer: StoreState | None = None
        self.up = False
        self.polls = dict.fromkeys(POLL_RESULTS, 0)
        self._url = f"{url.rstrip('/')}/v1/store/state"
        self._tell, self._withdraw = tell, withdraw
        self._read_keys, self._keys = keys, keys()
        self._session: aiohttp.ClientSession | None = None
        self._told_down = ""

    @property
    def view(self) -> View:
        """The newest conclusion."""
        return self.pair.view

    async def keep(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await asyncio.sleep(PEER_POLL_SECONDS if self.view.withdraw is None else PEER_POLL_WITHDRAWN_SECONDS)
            await self.look()

    async def look(self) -> None:
        """Once; never longer than PEER_POLL_TIMEOUT_SECONDS."""
        before = self.view
        try:
            theirs = await self._ask()
            ours = self._tell()
            _refuse_ourselves(ours, theirs)
        except PeerUnusable as error:
            self.polls[error.result] += 1
            self._note_down(self.pair.miss(), error)
        else:
            self.polls["ok"] += 1
            self._note_up(theirs)
            if ours is not None:  # without a store there is nothing to compare, and nothing to stand back with
                self.pair.hear(ours, theirs, asyncio.get_running_loop().time())
        self._act(before, self.view)

    async def renew(self) -> None:
        """From now on with the keys that the files hold now. Raises ConfigError; then with those from before."""
        self._keys = self._read_keys()
        await self.close()

    async def close(self) -> None:
        """Close the connection."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def summary(self) -> str:
        """In a line, for `lookupd status`."""
        view = self.view
        if self.peer is None or not self.up:
            return f"no answer: {self._told_down}" if self._told_down else "not asked yet"
        words = {
            PairState.BEHIND: f", we lack {view.lag_files} files",
            PairState.AHEAD: f", it lacks {-view.lag_files} files",
            PairState.DIFFERS: f", {'undecided: ' if view.verdict is Verdict.UNDECIDED else ''}{view.why}",
        }
        name = self.peer.replica
        return f"{view.state}: {name} at serial {self.peer.serial}, digest {self.peer.digest}" + words.get(
            view.state, ""
        )

    async def _ask(self) -> StoreState:
        try:
            async with (
                asyncio.timeout(PEER_POLL_TIMEOUT_SECONDS),
                self._client().get(self._url, allow_redirects=False) as reply,
            ):
                if reply.status != 200:
                    reply.close()
                    raise PeerUnusable("refused", f"HTTP {reply.status}{_HINTS.get(reply.status, '')}")
                return checked(await _bounded(reply))
        except TimeoutError:
            raise PeerUnusable("timeout", f"no whole answer in {PEER_POLL_TIMEOUT_SECONDS:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            words = tls_trouble(error) or f"{type(error).__name__}: {str(error)[:WORDS_CHARS_MAX]}"
            raise PeerUnusable("unreachable", words) from None

    def _client(self) -> aiohttp.ClientSession:
        """One session for all looks. It follows nobody, keeps no cookies and unpacks nothing."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=1, ssl=self._keys.context or True),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"Accept-Encoding": "identity", **self._keys.headers},
                auto_decompress=False,
            )
        return self._session

    def _note_up(self, theirs: StoreState) -> None:
        self.peer = theirs
        if not self.up:
            self.up, self._told_down = True, ""
            log("peer_up", peer=theirs.replica, serial=theirs.serial, digest=theirs.digest)

    def _note_down(self, view: View, error: PeerUnusable) -> None:
        """Once it counts as away, and when the reason is another one then."""
        if view.state is not PairState.ALONE:
            return
        self.up = False
        if self._told_down != error.result:
            self._told_down = error.result
            log("peer_down", url=self._url, result=error.result, reason=error)

    def _act(self, before: View, view: View) -> None:
        if view.state is PairState.DIFFERS and (before.state, before.verdict) != (view.state, view.verdict):
            log("peer_differs", verdict=view.verdict, why=view.why)
        if view.withdraw == before.withdraw:
            return
        if before.withdraw is None:
            log("withdrawn", reason=view.withdraw)
        elif view.withdraw is None:
            log("serving_again", state=view.state, was=before.withdraw)
        self._withdraw(view.withdraw)


def checked(body: bytes) -> StoreState:
    """A replica's state. Raises PeerUnusable for anything else."""
    try:
        found = msgspec.json.decode(body, type=StoreState)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise PeerUnusable("wrong", f"it sent something that cannot be read: {str(error)[:WORDS_CHARS_MAX]}") from None
    numbers = [found.serial, found.ported, found.blocks, found.damaged]
    numbers += [number for at in found.feeds.values() for number in (at.sequence, at.confirmed_at)]
    names_fit = _is_name(found.replica) and all(map(FEED_NAME.fullmatch, found.feeds))
    if not names_fit or not all(0 <= number <= _INTEGER_MAX for number in numbers):
        raise PeerUnusable("wrong", "its name or a number cannot be")
    if not all(map(_DIGEST.fullmatch, [found.digest, *(step.digest for step in found.trail)])):
        raise PeerUnusable("wrong", "a digest is not 16 hex digits")
    return found


def _is_name(text: str) -> bool:
    return 0 < len(text) <= PEER_NAME_CHARS_MAX and text.isascii() and text.isprintable()


def _refuse_ourselves(ours: StoreState | None, theirs: StoreState) -> None:
    if ours is not None and (ours.replica, ours.started_at) == (theirs.replica, theirs.started_at):
        raise PeerUnusable("wrong", "replica.peer is this replica's own listen.http: name the other one's")


async def _bounded(reply: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for piece in reply.content.iter_chunked(_READ_BYTES):
        body += piece
        if len(body) > PEER_STATE_BYTES_MAX:
            reply.close()
            raise PeerUnusable("wrong", f"more than {PEER_STATE_BYTES_MAX} bytes")
    return bytes(body)
