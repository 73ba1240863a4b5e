"""Time in service by what Prometheus saw of the pair: the answer of its API, kept in a file, by months.

Asked for hour by hour, `avg_over_time(pair:lookupd_available:bool[59m59s] offset 1s)` with a step of 3600, since a
half-year of minutes is more than Prometheus answers at once. A range has both its ends: `[1h]` would count the first
sample of the next hour too. docs/reports.md has the whole command.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from loader.regulator.evidence import read_bounded
from loader.regulator.figures import AvailabilityMonth, Missing, not_told
from loader.regulator.words import t_later
from lookupd.errors import ConfigError
from lookupd.ledger import HOUR_SECONDS
from lookupd.limits import AVAILABILITY_FILE_BYTES_MAX
from lookupd.periods import Period
from lookupd.units import format_time


class _Series(msgspec.Struct):
    metric: dict[str, str]
    values: list[tuple[float, str]]


class _Matrix(msgspec.Struct, rename="camel"):
    result_type: Literal["matrix"]
    result: list[_Series]


class _Answer(msgspec.Struct):
    status: Literal["success"]
    data: _Matrix


def read_hours(file: Path) -> dict[int, float]:
    """Hour (Unix seconds // 3600) -> the share of it in which the pair was in service. Raises ConfigError."""
    content = read_bounded("--availability", file, AVAILABILITY_FILE_BYTES_MAX)
    try:
        answer = msgspec.json.decode(content, type=_Answer)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise _unusable(file, str(error)) from None
    if len(answer.data.result) != 1:
        raise _unusable(file, f"{len(answer.data.result)} series, and one is wanted: name the pair in the query")
    return dict(_hour(file, moment, text) for moment, text in answer.data.result[0].values)


def _hour(file: Path, moment: float, text: str) -> tuple[int, float]:
    """A value is of the hour before its moment."""
    hour, odd = divmod(moment, HOUR_SECONDS) if math.isfinite(moment) else (0, 1)
    if odd:
        raise _unusable(file, f"{moment} is no full hour: begin at one, with a step of 3600")
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0 <= share <= 1:
        raise _unusable(file, f"{text[:40]!r} is no share of an hour")
    return int(hour) - 1, share


def _unusable(file: Path, why: str) -> ConfigError:
    return ConfigError(f"--availability {file}: {why}: write what Prometheus answers to the query of docs/reports.md")


def by_months(hours: dict[int, float], months: Sequence[Period], now: float) -> list[AvailabilityMonth]:
    """Of each month that has begun; what is not known of it is in neither figure."""
    told = []
    for month in months:
        over = range(month.first, min(month.end, int(now) // HOUR_SECONDS))
        known = [hours[hour] for hour in over if hour in hours]
        share = sum(known) / len(known) if known else None
        out = round(sum(1 - share for share in known) * HOUR_SECONDS, 3) if known else None
        if over:
            told.append(AvailabilityMonth(month.name, "prometheus", share, out, len(over), len(known)))
    return told


def missing_hours(hours: dict[int, float], period: Period, now: float) -> Iterator[Missing]:
    """Times of the period in which Prometheus saw nothing, so far; neighbours are one."""
    begin = None
    end = min(period.end, int(now) // HOUR_SECONDS)
    for hour in range(period.first, end + 1):
        if hour < end and hour not in hours:
            begin = hour if begin is None else begin
        elif begin is not None:
            since, until = (format_time(each * HOUR_SECONDS) for each in (begin, hour))
            why = t_later("Prometheus tells nothing of {hours} hours")
            yield not_told("availability", why, since, until, hours=hour - begin)
            begin = None
