"""The half-yearly figures (NPR articles 10 and 18), put together: the journal, and what others saw of the same time.

What is not known is told with them: a figure is None rather than a guess. How they are written is for
`half_year_files`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, tzinfo
from pathlib import Path

import msgspec

from loader import refusals
from loader.regulator import accuracy, availability, probe_figures
from loader.regulator.figures import (
    HalfYear,
    KindTimes,
    Missing,
    NetworkMonth,
    NoticeMonth,
    SetUpTime,
    Summary,
    Trace,
    not_told,
)
from loader.regulator.journal_count import JournalCount
from loader.regulator.trace import TraceWriter
from loader.regulator.words import t_later
from lookupd.errors import LookupdError
from lookupd.ledger import HOUR_SECONDS
from lookupd.model import JournalKind, UnixSeconds
from lookupd.periods import Period, months_of
from lookupd.settings import Limits
from lookupd.store.history import oldest_kept
from lookupd.store.reader import Reader
from lookupd.store.schema import format_digest
from lookupd.units import format_time, parse_millis


class Wanted(msgspec.Struct, frozen=True):
    """What is asked for. zone: in which the period begins, zone_name: its name. network: the operator whose report it
    is; None = all that the store knows. replica: its name in the report."""

    period: Period
    zone: tzinfo
    zone_name: str
    limits: Limits
    network: str | None
    replica: str


class Evidence(msgspec.Struct, frozen=True):
    """What is known beside the store. ledgers: of probes. availability: Prometheus' answer. reconciliations: what
    `reconcile --json` printed. spools: of the feeds, where refusals are; None = not known."""

    ledgers: Sequence[Path] = ()
    availability: Path | None = None
    reconciliations: Sequence[Path] = ()
    spools: Sequence[Path] | None = None


def half_year(
    reader: Reader,
    wanted: Wanted,
    evidence: Evidence,
    trace: TraceWriter,
    trace_name: str | None,
    now: UnixSeconds,
    advance: Callable[[int], None],
) -> HalfYear:
    """Read everything. trace: takes a row for each entry that is counted. trace_name: of its file, if there is one.

    Raises StoreError, ConfigError or LedgerError, naming what cannot be read.
    """
    period, zone = wanted.period, wanted.zone
    months = months_of(period, zone)
    # What others saw is read first: a file that cannot be used is told before the long walk.
    hours = None if evidence.availability is None else availability.read_hours(evidence.availability)
    set_up, of_probe = probe_figures.set_up_time(evidence.ledgers, period, wanted.zone_name, now)
    seen = probe_figures.probe_availability(evidence.ledgers, months, wanted.zone_name, now)
    right, of_accuracy = accuracy.accuracy(reader, evidence.reconciliations, period, zone)
    rejected, of_refusals = _rejected(evidence.spools, period, zone)
    count = JournalCount(months, wanted.limits, wanted.network)
    count.walk(reader, trace.put, advance)
    operators = {str(route.network_code): route.operator for route in reader.routes if route is not None and route.own}
    networks, notices, times = count.networks(operators), count.notices(rejected), count.times()
    missing = [
        *_not_over(period, now),
        *_not_kept(reader, period),
        *count.missing(),
        *of_refusals,
        *of_probe,
        *_unseen(hours, period, now),
        *of_accuracy,
    ]
    return HalfYear(
        report="half-year",
        period=period.name,
        time_zone=wanted.zone_name,
        first=_moment(period.first),
        end=_moment(period.end),
        until=format_time(min(now, period.end * HOUR_SECONDS)) or "",
        complete=not missing,
        missing=tuple(missing),
        network=wanted.network,
        replica=wanted.replica,
        made_at=format_time(now) or "",
        serial=reader.state.serial,
        digest=format_digest(reader.state.digest),
        journal_head=reader.state.journal_head.hex(),
        months=tuple(month.name for month in months),
        summary=_summary(networks, notices, times, set_up, is_rejected_known=rejected is not None),
        networks=tuple(networks),
        notices=tuple(notices),
        times=tuple(times),
        corrected=tuple(count.corrected()),
        setup_time=set_up,
        availability=(*availability.by_months(hours or {}, months, now if hours is not None else 0), *seen),
        accuracy=tuple(right),
        trace=_traced(trace, trace_name),
    )


def _traced(trace: TraceWriter, name: str | None) -> Trace | None:
    return None if name is None else trace.done(name)


def _summary(
    networks: Sequence[NetworkMonth],
    notices: Sequence[NoticeMonth],
    times: Sequence[KindTimes],
    set_up: SetUpTime | None,
    *,
    is_rejected_known: bool,
) -> Summary:
    """The failure rate: of ports, those too late and those refused among all. A refused line does not tell its kind:
    it is taken for a port's, so that the rate is never better than it was."""
    ports = [each for each in notices if each.kind == JournalKind.PORT]
    refused = sum(each.rejected or 0 for each in notices)
    tried = sum(each.visible for each in ports) + refused
    failed = sum(each.breached for each in ports) + refused
    whole = next(each.whole for each in times if each.kind == JournalKind.PORT)
    return Summary(
        ported_in=sum(each.ported_in for each in networks),
        ported_out=sum(each.ported_out for each in networks),
        failure_rate=failed / tried if tried and is_rejected_known else None,
        mean_porting_time=whole.mean,
        mean_extra_setup_time=None if set_up is None else set_up.mean,
    )


# -- what is missing -------------------------------------------------------------------------------------


def _not_over(period: Period, now: UnixSeconds) -> Iterator[Missing]:
    if now < period.end * HOUR_SECONDS:
        why = t_later("the period is not over: make the report again")
        yield not_told("period", why, format_time(now), _moment(period.end))


def _not_kept(reader: Reader, period: Period) -> Iterator[Missing]:
    """What was before the kept history."""
    _, since = oldest_kept(reader)
    if since > period.first * HOUR_SECONDS:
        until = min(since, period.end * HOUR_SECONDS)
        why = t_later(
            "the kept history begins at {begin}: what was before is in no figure of the journal; take it from an "
            "export or the other replica, and keep more with limits.history"
        )
        yield not_told("journal", why, _moment(period.first), format_time(until), begin=format_time(since))


def _unseen(hours: dict[int, float] | None, period: Period, now: UnixSeconds) -> Iterator[Missing]:
    if hours is None:
        yield not_told("availability", t_later("no answer of Prometheus was named: --availability FILE"))
    else:
        yield from availability.missing_hours(hours, period, now)


def _rejected(
    spools: Sequence[Path] | None, period: Period, zone: tzinfo
) -> tuple[dict[str, int] | None, list[Missing]]:
    """Refused notices by month."""
    if spools is None:
        why = t_later("the feeds' spools are not known, where refusals are kept: --config FILE names them")
        return None, [not_told("rejected", why)]
    found: Counter[str] = Counter()
    missing = []
    first, end = (UnixSeconds(hour * HOUR_SECONDS) for hour in (period.first, period.end))
    for spool in spools:
        try:
            for each in refusals.read(spool, first, end):
                if isinstance(each, refusals.Damaged):
                    why = t_later("{file}:{line}: is no refusal, perhaps cut off by a crash: it is not counted")
                    missing.append(not_told("rejected", why, file=str(each.file), line=each.line))
                    continue
                at = datetime.fromtimestamp(parse_millis(each.at) // 1000, UTC).astimezone(zone)
                found[at.strftime("%Y-%m")] += each.lines
                if each.lines >= refusals.LINES_TOLD_MAX:
                    why = t_later("{file}: at least {lines} lines were refused: no more of one file are kept")
                    missing.append(not_told("rejected", why, each.at, each.at, file=each.file, lines=each.lines))
        except OSError as error:
            raise LookupdError(f"{error.filename or spool}: {error.strerror}") from None
    return dict(found), missing


def _moment(hour: int) -> str:
    return format_time(hour * HOUR_SECONDS) or ""
