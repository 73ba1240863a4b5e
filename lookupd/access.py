"""Clients: who may ask, and how often. Nobody else is answered."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Protocol

from lookupd.config import ClientSettings
from lookupd.limits import SOURCES_CACHED_MAX

SECOND_NS = 1_000_000_000


class Bucket(Protocol):
    """One client's allowance."""

    def take(self, queries: int, now_ns: int) -> bool:
        """Whether so many queries are within the allowance; they are taken from it if so."""
        ...


class RateBucket:
    """One second's queries, filled steadily; kept as the moment at which it is full again.

    More queries at once than one second's allowance need a full bucket, and leave it in debt. Whole nanoseconds, so
    that the native engine's bucket allows exactly the same.
    """

    __slots__ = ("_full_at_ns", "_rate")

    def __init__(self, queries_per_second: int) -> None:
        self._rate = queries_per_second
        self._full_at_ns = 0

    def take(self, queries: int, now_ns: int) -> bool:
        """See Bucket. now_ns: of a clock that only grows."""
        missing_ns = max(self._full_at_ns - now_ns, 0)
        if missing_ns + min(queries, self._rate) * SECOND_NS // self._rate > SECOND_NS:
            return False
        self._full_at_ns = now_ns + missing_ns + queries * SECOND_NS // self._rate
        return True


class Client:
    """One entry of the clients list. at: its place there."""

    __slots__ = ("_take", "account", "at", "name", "peer", "queries_per_second")

    def __init__(self, settings: ClientSettings, at: int = 0, bucket: Bucket | None = None) -> None:
        """bucket: its allowance, where that is kept elsewhere."""
        self.name = settings.name
        self.account = settings.account
        self.peer = settings.peer
        self.at = at
        self.queries_per_second = settings.queries_per_second
        if bucket is None and settings.queries_per_second:
            bucket = RateBucket(settings.queries_per_second)
        self._take = bucket.take if bucket is not None and settings.queries_per_second else None

    def take(self, queries: int, now_ns: int) -> bool:
        """Whether so many queries are within the allowance; they are taken from it if so."""
        return self._take is None or self._take(queries, now_ns)


class Access:
    """Finds the client of a source address. The first entry of the list that holds the address wins."""

    def __init__(self, clients: tuple[ClientSettings, ...], buckets: Sequence[Bucket] | None = None) -> None:
        """buckets: the clients' allowances, where they are kept elsewhere."""
        self.clients = [Client(settings, at, buckets[at] if buckets else None) for at, settings in enumerate(clients)]
        self._entries = [
            (ipaddress.ip_network(source), self.clients[at])
            for at, settings in enumerate(clients)
            for source in settings.sources
        ]
        self._found: dict[str, Client | None] = {}

    def find(self, host: str) -> Client | None:
        """The client that asks from this address, None if it is on no list. host: as sockets tell it."""
        try:
            return self._found[host]
        except KeyError:
            return self._remember(host)

    def _remember(self, host: str) -> Client | None:
        if len(self._found) >= SOURCES_CACHED_MAX:
            self._found.clear()
        address = ipaddress.ip_address(host.partition("%")[0])
        client = next((client for network, client in self._entries if address in network), None)
        self._found[host] = client
        return client
