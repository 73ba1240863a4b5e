"""What the probe's ledgers say of the half-year: extra call set-up time, and how often a switch got an answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from loader.regulator.figures import AvailabilityMonth, Missing, SetUpTime, not_told
from loader.regulator.words import t_later
from lookupd.periods import Period
from lookupd.probe.report import Report, read_report

_NS = 1_000_000_000


def set_up_time(
    ledgers: Sequence[Path], period: Period, time_zone: str, now: float
) -> tuple[SetUpTime | None, list[Missing]]:
    """NPR articles 10 and 18: the mean over samples. Raises LedgerError, ConfigError."""
    if not ledgers:
        return None, [not_told("setup_time", t_later("no probe's ledger was named: --probe FILE"))]
    found = read_report(ledgers, period, time_zone, now)
    total, unported = found.total, found.total_unported
    told = SetUpTime(
        questions=total.asked,
        timeouts=total.timeout,
        mean=_seconds(total.mean_ns),
        unported_mean=_seconds(unported.mean_ns),
        p50=_quantile(total.p50_ns),
        p95=_quantile(total.p95_ns),
        p99=_quantile(total.p99_ns),
        hours=found.hours,
        hours_sampled=found.hours_sampled,
    )
    return told, list(_missing(found))


def _missing(found: Report) -> Iterator[Missing]:
    for hole in found.holes:
        why = t_later("the probe asked nothing in {hours} hours")
        yield not_told("setup_time", why, hole.from_, hole.until, hours=hole.hours)
    for path in found.put_aside:
        why = t_later("{file}: a damaged ledger was put aside, its counts are missing")
        yield not_told("setup_time", why, file=str(path))


def probe_availability(
    ledgers: Sequence[Path], months: Sequence[Period], time_zone: str, now: float
) -> list[AvailabilityMonth]:
    """Of a month's questions, the share that was answered from data. Raises LedgerError, ConfigError."""
    if not ledgers:
        return []
    told = []
    for month in months:
        if month.first * 3600 > now:
            break
        found = read_report(ledgers, month, time_zone, now)
        asked = found.total.asked + found.total_unported.asked
        answered = found.total.answered + found.total_unported.answered
        share = answered / asked if asked else None
        told.append(AvailabilityMonth(month.name, "probe", share, None, found.hours, found.hours_sampled))
    return told


def _seconds(ns: int | None) -> float | None:
    return None if ns is None else round(ns / _NS, 9)


def _quantile(ns: int | None) -> float | None:
    """0 stands for more than the last bound, which is known no closer."""
    return _seconds(ns) if ns else None
