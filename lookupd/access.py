"""Clients: who may ask, and how often. Nobody else is answered."""

from __future__ import annotations

import ipaddress

from lookupd.config import ClientSettings
from lookupd.limits import SOURCES_CACHED_MAX


class Client:
    """One entry of the clients list, with its allowance.

    The allowance is a bucket of one second's queries that fills steadily.
    """

    __slots__ = ("_filled_at", "_left", "account", "name", "peer", "queries_per_second")

    def __init__(self, settings: ClientSettings) -> None:
        self.name = settings.name
        self.account = settings.account
        self.peer = settings.peer
        self.queries_per_second = settings.queries_per_second
        self._left = float(settings.queries_per_second)
        self._filled_at = 0.0

    def take(self, queries: int, now: float) -> bool:
        """Whether so many queries are within the allowance; they are taken from it if so.

        now: seconds of a clock that only grows. More queries at once than one second's allowance need a
        full bucket, and leave it in debt.
        """
        if not self.queries_per_second:
            return True
        passed = now - self._filled_at
        self._filled_at = now
        self._left = min(self._left + passed * self.queries_per_second, float(self.queries_per_second))
        if self._left < min(queries, self.queries_per_second):
            return False
        self._left -= queries
        return True


class Access:
    """Finds the client of a source address. The first entry of the list that holds the address wins."""

    def __init__(self, clients: tuple[ClientSettings, ...]) -> None:
        self._entries = [
            (ipaddress.ip_network(source), client)
            for client, settings in ((Client(settings), settings) for settings in clients)
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
