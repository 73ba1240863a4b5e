"""What a store holds and how fresh it is, and whether the daemon beside it answers."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from email.message import Message
from typing import IO

import msgspec

from lookupd import fastpath
from lookupd.errors import ConfigError
from lookupd.i18n import cells
from lookupd.i18n import translate as _
from lookupd.model import UnixSeconds
from lookupd.settings import Config
from lookupd.store.reader import Reader
from lookupd.store.schema import format_digest
from lookupd.units import format_time

DAEMON_TIMEOUT_SECONDS = 2.0

NOT_LOCAL = 'cannot be asked from here without a key: add "http://127.0.0.1:9474" to listen.http'
"""Where listen.http is beyond loopback alone."""

SAID_BYTES_MAX = 400
"""Of why the daemon is not ready: a sentence with a path, or one with the peer's name."""

ENGINE_HEADER = "Lookupd-Engine"
"""In the answer of /readyz: which engine serves UDP."""

PEER_HEADER = "Lookupd-Peer"
"""In the answer of /readyz: how this replica stands to its peer, if it has one."""


class FeedStatus(msgspec.Struct, frozen=True):
    """How far a feed is applied."""

    feed: str
    sequence: int
    type: str
    created_at: str | None
    confirmed_at: str | None
    age_seconds: int


class Status(msgspec.Struct, frozen=True):
    """Of one store. bytes_per_number: of the hot column; None while nothing is ported.

    engine: of the daemon beside it, or the one that a daemon would serve UDP with here. peer: how the daemon stands to
    its peer; None if it has none, or does not answer.
    """

    store: str
    serial: int
    digest: str
    ported: int
    blocks: int
    routes: int
    ranges: int
    pending: int
    bytes: int
    bytes_by_database: dict[str, int]
    bytes_per_number: float | None
    readers: int
    feeds: list[FeedStatus]
    engine: str
    daemon: str | None
    peer: str | None = None


def read_status(reader: Reader, now: UnixSeconds, config: Config | None = None) -> Status:
    """Of the pinned state. With a configuration that has an HTTP listener, its daemon is asked too."""
    state = reader.state
    daemon, engine, peer = _ask_daemon(config) if config is not None else (None, None, None)
    sizes = reader.sizes()
    file_bytes, readers = sizes.pop("file"), sizes.pop("readers")
    return Status(
        store=str(reader.path),
        serial=state.serial,
        digest=format_digest(state.digest),
        ported=state.ported,
        blocks=state.blocks,
        routes=sum(route is not None for route in reader.routes),
        ranges=len(reader.ranges()),
        pending=len(reader.pending()),
        bytes=file_bytes,
        bytes_by_database=sizes,
        bytes_per_number=round(sizes["blocks"] / state.ported, 2) if state.ported else None,
        readers=readers,
        feeds=[
            FeedStatus(
                feed,
                position.sequence,
                position.type,
                format_time(position.created_at),
                format_time(position.confirmed_at),
                max(now - position.confirmed_at, 0),
            )
            for feed, position in sorted(state.feeds.items())
        ],
        engine=engine or _engine_here(config),
        daemon=daemon,
        peer=peer,
    )


def _engine_here(config: Config | None) -> str:
    try:
        return fastpath.choose(config.engine.udp if config is not None else "auto")
    except ConfigError:
        return "none: the native engine is demanded and not installed"


def _ask_daemon(config: Config) -> tuple[str | None, str | None, str | None]:
    """What its /readyz says, its engine, and how it stands to its peer; None where it has no HTTP listener, or does not
    tell."""
    if config.local_http is None:
        return (NOT_LOCAL if config.listen.http_urls else None), None, None
    try:
        directly = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with directly.open(f"{config.local_http}/readyz", timeout=DAEMON_TIMEOUT_SECONDS) as reply:
            return _words(reply, reply.headers)
    except urllib.error.HTTPError as error:
        with error:
            return _words(error, error.headers)
    except OSError as error:
        return f"no answer from {config.local_http}: {getattr(error, 'reason', error)}", None, None


def _words(reply: IO[bytes], headers: Message) -> tuple[str, str | None, str | None]:
    said = reply.read(SAID_BYTES_MAX).decode("utf-8", "replace").strip()
    return said, headers[ENGINE_HEADER], headers[PEER_HEADER]


def format_status(status: Status) -> list[str]:
    """For people, a line each, in their language."""
    numbers = _("{ported} ported in {blocks} blocks, {pending} changes waiting").format(
        ported=status.ported, blocks=status.blocks, pending=status.pending
    )
    size = (
        _("{bytes} bytes, {each} a ported number in the hot column") if status.bytes_per_number else _("{bytes} bytes")
    ).format(bytes=status.bytes, each=status.bytes_per_number)
    lines = [
        (_("store"), status.store),
        (_("serial"), f"{status.serial}   {_('digest')} {status.digest}"),
        (_("numbers"), numbers),
        (_("tables"), _("{routes} routes, {ranges} ranges").format(routes=status.routes, ranges=status.ranges)),
        (_("size"), size),
        (_("readers"), str(status.readers)),
        (_("engine"), status.engine),
    ]
    lines += [
        (
            _("feed"),
            _("{feed} at {sequence} ({type}), confirmed {time}, {age} s ago").format(
                feed=feed.feed,
                sequence=feed.sequence,
                type=feed.type,
                time=feed.confirmed_at,
                age=feed.age_seconds,
            ),
        )
        for feed in status.feeds
    ] or [(_("feed"), _("none applied yet: load a snapshot"))]
    if status.daemon is not None:
        lines.append((_("daemon"), status.daemon))
    if status.peer is not None:
        lines.append((_("peer"), status.peer))
    width = max(cells(label) for label, text in lines)
    return [f"{label}{' ' * (width - cells(label))}  {text}" for label, text in lines]


def unix_now() -> UnixSeconds:
    """The wall clock."""
    return UnixSeconds(int(time.time()))
