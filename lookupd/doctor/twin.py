"""The other replica: it answers, takes us for its peer, and holds the same."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from lookupd.doctor.check import Check, Subject, read_store
from lookupd.doctor.running import ask, one_line
from lookupd.errors import ConfigError, StoreError
from lookupd.peer_keys import PeerKeys, read_peer_keys, tls_trouble
from lookupd.settings import Config
from lookupd.store.portable import StoreState
from lookupd.store.schema import State, format_digest

_SETTLE_SECONDS = 1.0
"""Two replicas apply the same file a moment apart: what differs is looked at twice."""


def look(subject: Subject) -> Iterator[Check]:
    """Whether it can be asked, then what it holds beside our store."""
    config = subject.config
    if not config.peer:
        message = "replica.peer is not set: nobody compares this store with another"
        yield Check("peer", "warn", message, "name the other replica's listen.http")
        return
    url = config.peer.rstrip("/")
    try:
        keys = read_peer_keys(config.replica, url)
    except ConfigError as error:
        yield Check("peer", "fail", str(error), "lookupd check-config --deep")
        return
    twin = _Twin(url, keys)
    try:
        yield _of_readiness(twin)
        told = _state_of(twin)
    except _Trouble as trouble:
        yield trouble.check
        return
    if told.replica == config.replica.name:
        message = f"it is called {told.replica!r} as we are: is it this replica itself?"
        yield Check("peer", "warn", message, "give each replica.name of its own, and name the other in replica.peer")
    if subject.store is not None:
        yield _compared_twice(twin, subject.store.state, told, config)


class _Trouble(Exception):
    """Ends the checks of the peer, and no others."""

    def __init__(self, message: str, way_out: str) -> None:
        super().__init__(message)
        self.check = Check("peer", "fail", message, way_out)


class _Twin(NamedTuple):
    """Where it is asked, and with what."""

    url: str
    keys: PeerKeys


def _asked(twin: _Twin, path: str) -> tuple[int, bytes]:
    try:
        return ask(twin.url + path, twin.keys)
    except OSError as error:
        if words := tls_trouble(error):
            raise _Trouble(f"{twin.url}: {words}", "docs/http-security.md") from None
        reason = getattr(error, "reason", error)
        message = f"no answer at {twin.url}{path}: {reason}"
        raise _Trouble(message, "see that it runs, and that its port is let through") from None


def _of_readiness(twin: _Twin) -> Check:
    url = twin.url
    status, body = _asked(twin, "/readyz")
    if status == 200:
        return Check("peer", "ok", f"{url} is ready")
    if status == 403:
        raise _Trouble(
            f"{url} refuses us: {one_line(body)}", "name this machine in a [[client]] there, with peer = true"
        )
    return Check("peer", "warn", f"{url}: {one_line(body)}", "run lookupd doctor there")


def _state_of(twin: _Twin) -> StoreState:
    url = twin.url
    status, body = _asked(twin, "/v1/store/state")
    if status == 401:
        raise _Trouble(
            f"{url} knows neither our token nor our certificate: {one_line(body)}",
            "replica.peer_token_file, and token_file of the [[client]] there that we are",
        )
    if status == 403:
        raise _Trouble(
            f"{url} does not take us for its peer: {one_line(body)}",
            "there: peer = true in the [[client]] that we are",
        )
    try:
        told = msgspec.json.decode(body, type=StoreState)
        int(told.digest, 16)
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError):
        raise _Trouble(f"{url}: answers {status}: {one_line(body)}", "see what listens there") from None
    return told


def _compared_twice(twin: _Twin, ours: State, theirs: StoreState, config: Config) -> Check:
    found = compared(ours, theirs)
    if found.result == "ok":
        return found
    time.sleep(_SETTLE_SECONDS)
    try:
        return compared(read_store(config).state, _state_of(twin))
    except (StoreError, _Trouble):
        return found


def compared(ours: State, theirs: StoreState) -> Check:
    """By positions first: stores that have applied different files differ by right."""
    here = {name: at.sequence for name, at in ours.feeds.items()}
    there = {name: at.sequence for name, at in theirs.feeds.items()}
    for name in sorted(here.keys() | there.keys()):
        if here.get(name) != there.get(name):
            message = f"feed {name} is at {here.get(name, 'nothing')} here, at {there.get(name, 'nothing')} there"
            return Check(
                "same data", "warn", message, "see the exchange of whichever is behind: docs/operations/gap.md"
            )
    digest = format_digest(ours.digest)
    if digest != theirs.digest:
        message = f"the same files, and yet digest {digest} here, {theirs.digest} there"
        return Check("same data", "fail", message, "docs/operations/divergence.md: `lookupd-loader compare`")
    return Check("same data", "ok", f"digest {digest} on both, by the same files")
