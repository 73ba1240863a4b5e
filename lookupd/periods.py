"""Months and half-years that statements and reports are of, as hours: `2026-11`, `2026H2`."""

from __future__ import annotations

import re
from datetime import UTC, datetime, tzinfo
from typing import NamedTuple

from lookupd.ledger import HOUR_SECONDS

_PERIOD = re.compile(r"([0-9]{4})(?:-([0-9]{2})|H([12]))")
_HALF_YEAR = 6


class Period(NamedTuple):
    """first, end: its hours, Unix seconds // 3600; end is not of it."""

    name: str
    first: int
    end: int


def parse_month(text: str, zone: tzinfo) -> Period:
    """`2026-11`, as it begins and ends in this time zone. Raises ValueError with the reason."""
    found = _PERIOD.fullmatch(text)
    if not found or not found[2] or not _is_known(found):
        raise ValueError(f"{text!r} is no month: write it like 2026-11")
    return _period(found, zone)


def parse_period(text: str, zone: tzinfo) -> Period:
    """`2026H2` or `2026-11`, likewise."""
    found = _PERIOD.fullmatch(text)
    if not found or not _is_known(found):
        raise ValueError(f"{text!r} is no period: write it like 2026H2 or 2026-11")
    return _period(found, zone)


def months_of(period: Period, zone: tzinfo) -> list[Period]:
    """Its months, in order."""
    year, half = period.name[:4], period.name[4:]
    if half.startswith("-"):
        return [period]
    first = _HALF_YEAR * (int(half[1]) - 1) + 1
    return [parse_month(f"{year}-{month:02}", zone) for month in range(first, first + _HALF_YEAR)]


def this_month(zone: tzinfo, now: float) -> str:
    """Its name."""
    return datetime.fromtimestamp(now, UTC).astimezone(zone).strftime("%Y-%m")


def _is_known(found: re.Match[str]) -> bool:
    return 1970 < int(found[1]) < 2106 and (not found[2] or 1 <= int(found[2]) <= 12)


def _period(found: re.Match[str], zone: tzinfo) -> Period:
    year = int(found[1])
    month, months = (int(found[2]), 1) if found[2] else (_HALF_YEAR * (int(found[3]) - 1) + 1, _HALF_YEAR)
    after = month - 1 + months
    edges = []
    for at in (datetime(year, month, 1, tzinfo=zone), datetime(year + after // 12, after % 12 + 1, 1, tzinfo=zone)):
        hour, odd = divmod(int(at.timestamp()), HOUR_SECONDS)
        if odd:
            raise ValueError(f"{found[0]} does not begin or end with a full hour of UTC in {zone}, and hours are kept")
        edges.append(hour)
    return Period(found[0], *edges)
