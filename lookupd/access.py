"""Clients: who may ask, and how often. Nobody else is answered."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from lookupd.limits import PREFIX_BITS_V4, PREFIX_BITS_V6, PREFIX_SLOTS, SOURCES_CACHED_MAX
from lookupd.model import Outcome
from lookupd.observe.counters import ALL_DIALECTS, DROPPED, USAGE_RESULTS, Usage
from lookupd.protocols.enum_dns import profile_of
from lookupd.settings import ClientSettings

SECOND_NS: Final = 1_000_000_000
FULL_AT_NS_MAX: Final = 0xFFFF_FFFF_FFFF_FFFF
"""What the native engine's word for it holds: 584 years."""


class Bucket:
    """An allowance of one second's queries that fills steadily.

    All in whole nanoseconds, so that the native engine's, which has the same rule, decides alike.
    """

    __slots__ = ("_full_at_ns", "queries_per_second")

    def __init__(self, queries_per_second: int) -> None:
        """queries_per_second: at least 1."""
        self.queries_per_second = queries_per_second
        # The moment at which the bucket is full again; what it lacks until then is taken or owed.
        self._full_at_ns = 0

    def take(self, queries: int, now_ns: int) -> bool:
        """Whether so many queries are within the allowance; they are taken from it if so.

        now_ns: of a clock that only grows. More queries at once than one second's allowance need a full bucket,
        and leave it in debt.
        """
        rate = self.queries_per_second
        lacking_ns = max(self._full_at_ns - now_ns, 0)
        if lacking_ns + min(queries, rate) * SECOND_NS // rate > SECOND_NS:
            return False
        self._full_at_ns = min(now_ns + lacking_ns + queries * SECOND_NS // rate, FULL_AT_NS_MAX)
        return True


class Prefixes:
    """Allowances of address prefixes, in a table of fixed size: forged sources cannot make it grow.

    Prefixes that fall into one slot share an allowance. The native engine's table has the same rule and slots.
    """

    def __init__(self) -> None:
        self._buckets: dict[int, Bucket] = {}

    def take(self, client: int, host: str, queries_per_second: int, now_ns: int) -> bool:
        """Whether one more query of this client, from the prefix of this address, is within its allowance."""
        at = slot(client, host)
        bucket = self._buckets.get(at)
        if bucket is None:
            bucket = self._buckets[at] = Bucket(queries_per_second)
        bucket.queries_per_second = queries_per_second  # who shares the slot may have another rate
        return bucket.take(1, now_ns)


def slot(client: int, host: str) -> int:
    """Where a client's allowance for the prefix of an address lies. host: as sockets tell it."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if address.version == 4:
        prefix = int(address) >> (32 - PREFIX_BITS_V4) | 1 << 63
    else:
        prefix = int(address) >> (128 - PREFIX_BITS_V6)
    mixed = (prefix + client * _CLIENT_STEP) * _SPREAD & _MASK_64
    return mixed >> 64 - (PREFIX_SLOTS - 1).bit_length()


_MASK_64 = 0xFFFF_FFFF_FFFF_FFFF
_SPREAD, _CLIENT_STEP = 0x9E37_79B9_7F4A_7C15, 0xBF58_476D_1CE4_E5B9
"""Odd numbers of 64 bits without a pattern: a multiplication by them spreads what differs little."""


class TakesQueries(Protocol):
    """A bucket, of here or of the native engine."""

    def take(self, queries: int, now_ns: int) -> bool:
        """See Bucket."""
        ...


class Client:
    """One entry of the clients list, with its allowance. at: its place there. usage: its queries, by dialect."""

    __slots__ = (
        "_bucket", "_prefixes", "account", "at", "enum", "is_limited", "is_tapped", "may", "name", "peer",
        "queries_per_prefix", "queries_per_second", "sip", "usage",
    )  # fmt: skip

    def __init__(
        self,
        settings: ClientSettings,
        bucket: TakesQueries | None = None,
        at: int = 0,
        prefixes: Prefixes | None = None,
    ) -> None:
        """bucket: of queries_per_second, shared with whoever else answers this client; None = one of its own.
        prefixes: shared by the clients of a list."""
        self.name = settings.name
        self.account = settings.account
        self.peer = settings.peer
        self.may = frozenset(settings.may)
        self.at = at
        self.queries_per_second = settings.queries_per_second
        self.queries_per_prefix = settings.queries_per_prefix
        self.is_limited = bool(settings.queries_per_second or settings.queries_per_prefix)
        self.is_tapped = True
        """Whether the query log may have its queries."""
        self.enum = profile_of(settings.enum)
        self.sip = settings.sip
        self.usage: dict[str, Usage] = {dialect: [0] * len(USAGE_RESULTS) for dialect in ALL_DIALECTS}
        self._bucket = Bucket(settings.queries_per_second) if bucket is None else bucket
        self._prefixes = prefixes or Prefixes()

    def take(self, queries: int, now_ns: int, host: str | None = None) -> bool:
        """Whether queries are within the client's allowance; see Bucket. Without a rate everything is within it.

        host: of a message over UDP, whose prefix has an allowance too; over TCP nobody forges an address.
        """
        if host is not None and not self.take_from(host, now_ns):
            return False
        return not self.queries_per_second or self._bucket.take(queries, now_ns)

    def take_from(self, host: str, now_ns: int) -> bool:
        """Whether one more message from the prefix of this address is within its allowance."""
        rate = self.queries_per_prefix
        return not rate or self._prefixes.take(self.at, host, rate, now_ns)


OWN_NAME = "self"
"""Of the client as which the daemon asks itself, in metrics; no other may have it."""


class Access:
    """Finds the client of a source address. The first entry of the list that holds the address wins."""

    def __init__(self, clients: tuple[ClientSettings, ...], buckets: Sequence[TakesQueries] | None = None) -> None:
        """buckets: one for each of the clients; None = their own."""
        given = buckets if buckets is not None else [None] * len(clients)
        prefixes = Prefixes()
        self.clients = [
            Client(settings, bucket, at, prefixes)
            for at, (settings, bucket) in enumerate(zip(clients, given, strict=True))
        ]
        self._entries = [
            (ipaddress.ip_network(source), client)
            for client, settings in zip(self.clients, clients, strict=True)
            for source in settings.sources
        ]
        self._found: dict[str, Client | None] = {}
        self._own: tuple[str, int] | None = None

    def set_own(self, host: str | None, port: int = 0) -> None:
        """The daemon asks itself from this socket, which it holds; None = it does not.

        Such a question is the last client's of the list, whoever's its address is: nobody else can have that address
        and port. So it is answered though no list has it, and counted as nobody's. host: 127.0.0.1 or ::1.
        """
        self._own = None if host is None else (host, port)

    def find_asker(self, host: str, port: int) -> Client | None:
        """The client that asks from this socket; see `find` and `set_own`."""
        return self.clients[-1] if self.is_own(host, port) else self.find(host)

    def is_own(self, host: str, port: int) -> bool:
        """Whether the daemon itself asks from this socket."""
        return self._own is not None and self._own == (host, port)

    def set_tapped(self, tapped: list[bool]) -> None:
        """Whose queries the query log may have: of each client, whether it may."""
        for client, is_tapped in zip(self.clients, tapped, strict=True):
            client.is_tapped = is_tapped

    def usage(self) -> list[list[Usage]]:
        """See `counters.ClientUsage`."""
        return [[client.usage[dialect] for dialect in ALL_DIALECTS] for client in self.clients]

    def count_list(self, name: str, outcomes: Mapping[str, int], bad: int) -> None:
        """Rows of a list of this client, by outcome, are its queries over HTTP; of one that is none any more, nobody's.
        bad: those that were no question."""
        usage = next((client.usage["http"] for client in self.clients if client.name == name), None)
        if usage is None:
            return
        for outcome in Outcome:
            usage[outcome] += outcomes.get(outcome.label, 0)
        usage[DROPPED] += bad

    def retire(self) -> None:
        """Another list is in force: only the counts are still asked for."""
        self._found.clear()

    def find(self, host: str) -> Client | None:
        """The client that asks from this address, None if it is on no list. host: as sockets tell it."""
        try:
            return self._found[host]
        except KeyError:
            return self._remember(host)

    def holders(self, host: str) -> list[Client]:
        """Every client whose sources hold this address, in the order of the list: who asks shows which one it is."""
        address = ipaddress.ip_address(host.partition("%")[0])
        return list(dict.fromkeys(client for network, client in self._entries if address in network))

    def _remember(self, host: str) -> Client | None:
        if len(self._found) >= SOURCES_CACHED_MAX:
            self._found.clear()
        address = ipaddress.ip_address(host.partition("%")[0])
        client = next((client for network, client in self._entries if address in network), None)
        self._found[host] = client
        return client
