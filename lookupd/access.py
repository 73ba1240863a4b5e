"""Clients: who may ask, and how often. Nobody else is answered."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Final, Protocol

from lookupd.config import ClientSettings
from lookupd.limits import SOURCES_CACHED_MAX
from lookupd.observe.counters import DIALECTS, USAGE_RESULTS, Usage

SECOND_NS: Final = 1_000_000_000
FULL_AT_NS_MAX: Final = 0xFFFF_FFFF_FFFF_FFFF
"""What the native engine's word for it holds: 584 years."""


class Bucket:
    """An allowance of one second's queries that fills steadily.

    All in whole nanoseconds, so that the native engine's, which has the same rule, decides alike.
    """

    __slots__ = ("_full_at_ns", "_queries_per_second")

    def __init__(self, queries_per_second: int) -> None:
        """queries_per_second: at least 1."""
        self._queries_per_second = queries_per_second
        # The moment at which the bucket is full again; what it lacks until then is taken or owed.
        self._full_at_ns = 0

    def take(self, queries: int, now_ns: int) -> bool:
        """Whether so many queries are within the allowance; they are taken from it if so.

        now_ns: of a clock that only grows. More queries at once than one second's allowance need a full bucket,
        and leave it in debt.
        """
        rate = self._queries_per_second
        lacking_ns = max(self._full_at_ns - now_ns, 0)
        if lacking_ns + min(queries, rate) * SECOND_NS // rate > SECOND_NS:
            return False
        self._full_at_ns = min(now_ns + lacking_ns + queries * SECOND_NS // rate, FULL_AT_NS_MAX)
        return True


class TakesQueries(Protocol):
    """A bucket, of here or of the native engine."""

    def take(self, queries: int, now_ns: int) -> bool:
        """See Bucket."""
        ...


class Client:
    """One entry of the clients list, with its allowance. at: its place there. usage: its queries, by dialect."""

    __slots__ = ("_bucket", "account", "at", "name", "peer", "queries_per_second", "usage")

    def __init__(self, settings: ClientSettings, bucket: TakesQueries | None = None, at: int = 0) -> None:
        """bucket: of queries_per_second, shared with whoever else answers this client; None = one of its own."""
        self.name = settings.name
        self.account = settings.account
        self.peer = settings.peer
        self.at = at
        self.queries_per_second = settings.queries_per_second
        self.usage: dict[str, Usage] = {dialect: [0] * len(USAGE_RESULTS) for dialect in DIALECTS}
        self._bucket = Bucket(settings.queries_per_second) if bucket is None else bucket

    def take(self, queries: int, now_ns: int) -> bool:
        """See Bucket; without a rate everything is within it."""
        return not self.queries_per_second or self._bucket.take(queries, now_ns)


class Access:
    """Finds the client of a source address. The first entry of the list that holds the address wins."""

    def __init__(self, clients: tuple[ClientSettings, ...], buckets: Sequence[TakesQueries] | None = None) -> None:
        """buckets: one for each of the clients; None = their own."""
        given = buckets if buckets is not None else [None] * len(clients)
        self.clients = [
            Client(settings, bucket, at) for at, (settings, bucket) in enumerate(zip(clients, given, strict=True))
        ]
        self._entries = [
            (ipaddress.ip_network(source), client)
            for client, settings in zip(self.clients, clients, strict=True)
            for source in settings.sources
        ]
        self._found: dict[str, Client | None] = {}

    def usage(self) -> list[list[Usage]]:
        """See `counters.ClientUsage`."""
        return [[client.usage[dialect] for dialect in DIALECTS] for client in self.clients]

    def retire(self) -> None:
        """Another list is in force: only the counts are still asked for."""
        self._found.clear()

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
