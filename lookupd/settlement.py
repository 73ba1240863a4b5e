"""What queries cost: exact decimals from `[settlement]` and each client's rate. Who asked what is `statement`'s.

Nothing is rounded but the sum of an account, once.
"""

from __future__ import annotations

import re
import zoneinfo
from collections.abc import Iterable, Mapping
from decimal import ROUND_DOWN, ROUND_HALF_EVEN, ROUND_HALF_UP, ROUND_UP, Context, Decimal

from lookupd.errors import ConfigError
from lookupd.limits import USAGE_EVERY_MAX_SECONDS, USAGE_EVERY_MIN_SECONDS, USAGE_KEEP_MIN_SECONDS
from lookupd.observe.counters import ALL_DIALECTS, USAGE_RESULTS
from lookupd.settings import ClientSettings, SettlementSettings, UsageSettings

MINOR_UNITS_MAX = 6

_RATE = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?")
_CURRENCY = re.compile(r"[A-Z]{3}")
_ROUNDING = {"half_even": ROUND_HALF_EVEN, "half_up": ROUND_HALF_UP, "down": ROUND_DOWN, "up": ROUND_UP}

_EXACT = Context(prec=60)
"""A count of 19 digits times a rate of 18, summed: no digit is lost."""


class Prices:
    """The rates of one configuration. Only where `settlement.per_query` is set."""

    def __init__(self, settings: SettlementSettings, clients: Iterable[ClientSettings]) -> None:
        self.currency = settings.currency
        self._settings = settings
        self._common = Decimal(settings.per_query)
        self._of_dialects = {dialect: Decimal(rate) for dialect, rate in settings.dialect.items()}
        self._of_clients = {client.name: Decimal(client.rate) for client in clients if client.rate}

    def rate(self, client: str, dialect: str) -> Decimal:
        """Of one query: the client's, else the dialect's, else that of all."""
        return self._of_clients.get(client, self._of_dialects.get(dialect, self._common))

    def cost(self, client: str, dialect: str, queries: int) -> Decimal:
        """Exactly."""
        return _EXACT.multiply(self.rate(client, dialect), Decimal(queries))

    def rounded(self, exact: Decimal) -> Decimal:
        """The sum of an account."""
        unit = Decimal(1).scaleb(-self._settings.minor_units)
        return exact.quantize(unit, _ROUNDING[self._settings.rounding], _EXACT)


def add(amounts: Iterable[Decimal]) -> Decimal:
    """Exactly."""
    total = Decimal(0)
    for amount in amounts:
        total = _EXACT.add(total, amount)
    return total


def charged(settings: SettlementSettings, results: Mapping[str, int]) -> int:
    """Of queries by result, those that cost something."""
    return sum(results.get(result, 0) for result in settings.charged)


def check_usage(usage: UsageSettings) -> None:
    """Raises ConfigError naming the key, the reason and the way out."""
    if not USAGE_EVERY_MIN_SECONDS <= usage.every <= USAGE_EVERY_MAX_SECONDS:
        raise ConfigError("usage.every: 100ms to 1h: what was asked since the last saving dies with a killed process")
    if usage.keep < USAGE_KEEP_MIN_SECONDS:
        raise ConfigError("usage.keep: less than 62d: last month's statement could not be made until this one ends")


def check_settlement(settings: SettlementSettings, clients: Iterable[ClientSettings]) -> None:
    """Raises ConfigError naming the key, the reason and the way out."""
    rates = {"settlement.per_query": settings.per_query}
    rates |= {f"settlement.dialect.{dialect}": rate for dialect, rate in settings.dialect.items()}
    rates |= {f"client[{at}].rate": client.rate for at, client in enumerate(clients) if client.rate}
    for key, rate in rates.items():
        if not _RATE.fullmatch(rate) and (rate or key != "settlement.per_query"):
            raise ConfigError(f'{key}: {rate!r} is no rate: a decimal in quotes, like "0.0125", of up to 9 decimals')
    if len(rates) > 1 and not settings.per_query:
        others = ", ".join(key for key in rates if key != "settlement.per_query")
        raise ConfigError(f'settlement.per_query: needed for {others}; "0" = whatever else is asked is free')
    for key, named, known in (
        ("dialect", settings.dialect, ALL_DIALECTS),
        ("charged", settings.charged, USAGE_RESULTS),
    ):
        for name in named:
            if name not in known:
                raise ConfigError(f"settlement.{key}: {name!r} is none of {', '.join(known)}")
    if len(set(settings.charged)) < len(settings.charged):
        raise ConfigError("settlement.charged: a result is named twice")
    if not _CURRENCY.fullmatch(settings.currency):
        raise ConfigError(f"settlement.currency: {settings.currency!r}: three capital letters, such as TWD (ISO 4217)")
    if not 0 <= settings.minor_units <= MINOR_UNITS_MAX:
        raise ConfigError(f"settlement.minor_units: 0 to {MINOR_UNITS_MAX} decimals")
    try:
        find_zone(settings.time_zone)
    except ValueError as error:
        raise ConfigError(f"settlement.time_zone: {error}") from None


def find_zone(name: str) -> zoneinfo.ZoneInfo:
    """By its name in the tz database. Raises ValueError with the reason."""
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(
            f"{name!r} is no time zone of this machine: write it like Asia/Taipei (the package tzdata has them)"
        ) from None
