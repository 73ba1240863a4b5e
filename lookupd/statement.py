"""A month's usage, read from the ledgers of one service's replicas and summed: who asked what, and what it costs.

Nothing is changed. Each replica counts what it was asked itself, so the sum of their ledgers is what was asked. How a
statement is printed is `statement_text`'s.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from lookupd.errors import ConfigError
from lookupd.ledger import HOUR_SECONDS, LedgerError, put_aside, read
from lookupd.limits import USAGE_GAP_SECONDS, USAGE_NAMES_MAX
from lookupd.observe.counters import ALL_DIALECTS, USAGE_RESULTS
from lookupd.periods import Period
from lookupd.settings import Config
from lookupd.settlement import Prices, add, charged
from lookupd.units import format_time
from lookupd.usage import COUNTED_SECONDS, FILE, ledger_file

By = Literal["client", "account"]


class Source(NamedTuple):
    """A ledger. name: the replica's, or the file's."""

    name: str
    file: Path


class Gap(msgspec.Struct, frozen=True, rename={"from_": "from"}):
    """Hours of a ledger in which nothing was counted for so many seconds; no query of that time is in it."""

    ledger: str
    from_: str
    until: str
    seconds: int


class Row(msgspec.Struct, frozen=True):
    """What one client or account asked in one dialect. client: None by account. hour: its beginning, None = all hours.
    results: without those that are 0. rate: of one query, None by account. amount: exact; None without prices."""

    client: str | None
    account: str
    dialect: str
    hour: str | None
    results: dict[str, int]
    queries: int
    charged: int
    rate: str | None
    amount: str | None


class Sum(msgspec.Struct, frozen=True):
    """Of an account. exact: the amount before it was rounded."""

    account: str
    queries: int
    charged: int
    exact: str | None
    amount: str | None


class Statement(msgspec.Struct, frozen=True):
    """The whole. until: of the month what is over; complete: all of it, and counted without a gap. amount: the sum of
    the accounts' rounded ones. put_aside: damaged ledgers, whose counts are missing here."""

    month: str
    time_zone: str
    first: str
    end: str
    until: str
    complete: bool
    ledgers: list[str]
    dialects: list[str]
    rows: list[Row]
    accounts: list[Sum]
    queries: int
    charged: int
    currency: str | None
    amount: str | None
    not_counted: list[Gap]
    put_aside: list[str]


def sources_of(configs: Sequence[Config], also: Sequence[Path]) -> list[Source]:
    """The ledgers of the configurations, and more of them. Raises ConfigError where one would be counted twice, or two
    configurations have other prices."""
    found = [Source(config.replica.name, ledger_file(config)) for config in configs]
    found += [Source(str(file), file) for file in also]
    if len(found) > USAGE_NAMES_MAX:
        raise ConfigError(f"{len(found)} ledgers: at most {USAGE_NAMES_MAX} make a statement")
    seen: dict[Path, str] = {}
    for name, file in found:
        place = file.resolve()
        if place in seen:
            raise ConfigError(f"{file}: is the ledger of {seen[place]} and of {name}: it would be counted twice")
        seen[place] = name
    _same_prices(configs)
    return found


def _same_prices(configs: Sequence[Config]) -> None:
    rates: dict[str, tuple[str, str]] = {}
    for config in configs:
        if config.settlement != configs[0].settlement:
            names = f"{configs[0].replica.name} and {config.replica.name}"
            raise ConfigError(f"settlement: is not the same for {names}: one statement has one price")
        for client in config.clients:
            rate, replica = rates.setdefault(client.name, (client.rate, config.replica.name))
            if rate != client.rate:
                raise ConfigError(
                    f"client {client.name}: rate is {rate or 'not set'!r} for {replica} and "
                    f"{client.rate or 'not set'!r} for {config.replica.name}: one statement has one price"
                )


class Place(NamedTuple):
    """What is counted together."""

    hour: int | None
    account: str
    client: str | None
    dialect: str


class _Counted:
    """Sums of one place."""

    def __init__(self) -> None:
        self.results: Counter[str] = Counter()
        self.charged = 0
        self.exact = Decimal(0)


class Reading:
    """Statements from ledgers that were read once."""

    def __init__(self, configs: Sequence[Config], sources: Sequence[Source], month: Period, now: float) -> None:
        """configs: the first one's prices are charged; those of all have the clients' rates. Raises LedgerError."""
        self._settlement = configs[0].settlement
        clients = {client.name: client for config in configs for client in config.clients}
        self._prices = Prices(self._settlement, clients.values()) if self._settlement.per_query else None
        self._month = month
        self._sources = sources
        self._now = now
        self._tolerance = max(config.usage.every for config in configs) + USAGE_GAP_SECONDS
        self._counts: Counter[tuple[int, str, str, str, str]] = Counter()
        self._gaps: list[Gap] = []
        for source in sources:
            self._read(source)

    def _read(self, source: Source) -> None:
        seconds: Counter[int] = Counter()
        for hour, key, count in read(source.file, self._month.first, self._month.end):
            if type(count) is not int or len(key) != len(COUNTED_SECONDS):
                raise LedgerError(f"{source.file}: is no ledger of usage: name the {FILE} of a replica")
            client, account, dialect, result = key
            if key == COUNTED_SECONDS:
                seconds[hour] += count
            elif dialect not in ALL_DIALECTS or result not in USAGE_RESULTS:
                raise LedgerError(f"{source.file}: {dialect} {result}: is not known here: another version kept it")
            else:
                self._counts[hour, client, account, dialect, result] += count
        self._gaps += gaps(source.name, seconds, self._month, self._now, self._tolerance)

    def statement(self, by: By, time_zone: str, dialects: Sequence[str] = (), by_hours: bool = False) -> Statement:
        """dialects: only these; none = all."""
        dialects = [name for name in ALL_DIALECTS if name in dialects or not dialects]
        places, accounts = self._sum(by, dialects, by_hours)
        sums = [self._account_sum(account, accounts[account]) for account in sorted(accounts)]
        is_over = self._now >= self._month.end * HOUR_SECONDS
        amounts = [Decimal(each.amount) for each in sums if each.amount is not None]
        aside = [str(path) for source in self._sources for path in put_aside(source.file)]
        return Statement(
            month=self._month.name,
            time_zone=time_zone,
            first=_time(self._month.first * HOUR_SECONDS),
            end=_time(self._month.end * HOUR_SECONDS),
            until=_time(self._month.end * HOUR_SECONDS if is_over else int(self._now)),
            complete=is_over and not self._gaps,
            ledgers=[str(source.file) for source in self._sources],
            dialects=dialects,
            rows=[self._row(place, places[place]) for place in sorted(places, key=_order)],
            accounts=sums,
            queries=sum(each.queries for each in sums),
            charged=sum(each.charged for each in sums),
            currency=self._prices.currency if self._prices else None,
            amount=f"{self._prices.rounded(add(amounts)):f}" if self._prices else None,
            not_counted=self._gaps,
            put_aside=aside,
        )

    def _sum(
        self, by: By, dialects: Sequence[str], by_hours: bool
    ) -> tuple[dict[Place, _Counted], dict[str, _Counted]]:
        """By place, and by account."""
        places: dict[Place, _Counted] = {}
        accounts: dict[str, _Counted] = {}
        for (hour, client, account, dialect, result), count in self._counts.items():
            if dialect not in dialects:
                continue
            place = Place(hour if by_hours else None, account, client if by == "client" else None, dialect)
            paid = charged(self._settlement, {result: count})
            cost = self._prices.cost(client, dialect, paid) if self._prices else Decimal(0)
            for counted in (places.setdefault(place, _Counted()), accounts.setdefault(account, _Counted())):
                counted.results[result] += count
                counted.charged += paid
                counted.exact = add((counted.exact, cost))
        return places, accounts

    def _row(self, place: Place, counted: _Counted) -> Row:
        prices = self._prices
        return Row(
            client=place.client,
            account=place.account,
            dialect=place.dialect,
            hour=None if place.hour is None else _time(place.hour * HOUR_SECONDS),
            results={name: counted.results[name] for name in USAGE_RESULTS if counted.results[name]},
            queries=counted.results.total(),
            charged=counted.charged,
            rate=None if prices is None or place.client is None else f"{prices.rate(place.client, place.dialect):f}",
            amount=None if prices is None else f"{counted.exact:f}",
        )

    def _account_sum(self, account: str, counted: _Counted) -> Sum:
        prices = self._prices
        return Sum(
            account=account,
            queries=counted.results.total(),
            charged=counted.charged,
            exact=None if prices is None else f"{counted.exact:f}",
            amount=None if prices is None else f"{prices.rounded(counted.exact):f}",
        )


def gaps(ledger: str, seconds: Counter[int], month: Period, now: float, tolerance: float) -> Iterator[Gap]:
    """Of the part of the month that is over, hours that were not counted as a whole; neighbours are one gap.

    seconds: counted, by hour; more than an hour has where two processes ran, one after the other.
    tolerance: what the hour that is not over yet may lack.
    """
    begin, missing, end = 0, 0, 0
    for hour in range(month.first, min(month.end, int(now) // HOUR_SECONDS + 1)):
        wanted = min(HOUR_SECONDS, int(now) - hour * HOUR_SECONDS)
        lacking = wanted - min(seconds[hour], wanted)
        if lacking <= (USAGE_GAP_SECONDS if wanted == HOUR_SECONDS else tolerance):
            continue
        if missing and hour != end:
            yield Gap(ledger, _time(begin * HOUR_SECONDS), _time(end * HOUR_SECONDS), missing)
            missing = 0
        begin = begin if missing else hour
        missing += lacking
        end = hour + 1
    if missing:
        yield Gap(ledger, _time(begin * HOUR_SECONDS), _time(min(end * HOUR_SECONDS, int(now))), missing)


def _order(place: Place) -> tuple[int, str, str, int]:
    return place.hour or 0, place.account, place.client or "", ALL_DIALECTS.index(place.dialect)


def _time(seconds: int) -> str:
    return format_time(seconds) or ""
