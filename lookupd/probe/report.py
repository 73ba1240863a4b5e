"""What the probe's ledgers say of a month or a half-year: the mean extra call set-up time, and how it was spread.

Nothing is changed. Ledgers of several probes are summed. How a report is printed is `report_text`'s; docs/probe.md has
the formula.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from lookupd.clients import Server
from lookupd.errors import ConfigError
from lookupd.ledger import HOUR_SECONDS, LedgerError, put_aside, read
from lookupd.limits import PROBE_LEDGERS_MAX
from lookupd.periods import Period
from lookupd.probe.histogram import quantile, worst
from lookupd.probe.tally import BUCKET, COLUMNS, FILE, MESSAGES, Counts
from lookupd.units import format_time

ASKED = ("answered", "no_data", "timeout")
"""What is in the mean: each of these results cost a call its time."""

_ITEMS = {*ASKED, *(f"{result}_ns" for result in ASKED), "void", *MESSAGES}
_BUCKET = re.compile(rf"{BUCKET}([0-9]{{1,12}})")


class Line(msgspec.Struct, frozen=True):
    """Of one server, or of all: about ported numbers, or about others. Times are in nanoseconds.

    asked = answered + no_data + timeout. sum_ns: of all of them, a time-out with the whole of it. mean_ns =
    sum_ns / asked, to the nearest; answered_mean_ns: of the answers alone. p50_ns ...: so many took no longer, the
    bound of a bucket; worst_ns: that of the longest. 0 in their place: over the last bound; None: nothing was asked.
    void: asked and not counted. hours: in which something was asked.
    """

    server: str
    dialect: str
    ported: bool
    asked: int
    answered: int
    no_data: int
    timeout: int
    void: int
    sum_ns: int
    mean_ns: int | None
    answered_mean_ns: int | None
    p50_ns: int | None
    p95_ns: int | None
    p99_ns: int | None
    worst_ns: int | None
    timeout_share: float | None
    hours: int


class Messages(msgspec.Struct, frozen=True):
    """Of one server, what was no answer to the question under way."""

    server: str
    dialect: str
    wrong: int
    late: int


class Hole(msgspec.Struct, frozen=True, rename={"from_": "from"}):
    """Hours one after the other in which no server was asked about a ported number."""

    from_: str
    until: str
    hours: int


class Report(msgspec.Struct, frozen=True):
    """The whole. total: about ported numbers, each question of each server with the same weight: its mean_ns is the
    figure that is reported. total_unported: the same about others. hours: of the period, as far as it is over;
    hours_sampled: those with a question about a ported number. put_aside: damaged ledgers, whose counts are missing."""

    period: str
    time_zone: str
    first: str
    end: str
    until: str
    complete: bool
    ledgers: list[str]
    lines: list[Line]
    messages: list[Messages]
    total: Line
    total_unported: Line
    hours: int
    hours_sampled: int
    holes: list[Hole]
    put_aside: list[str]


def check_ledgers(files: Sequence[Path]) -> None:
    """Raises ConfigError where one would be counted twice."""
    if len(files) > PROBE_LEDGERS_MAX:
        raise ConfigError(f"{len(files)} ledgers: at most {PROBE_LEDGERS_MAX} make a report")
    seen: dict[Path, Path] = {}
    for file in files:
        if (former := seen.setdefault(file.resolve(), file)) is not file:
            raise ConfigError(f"{file}: is the same ledger as {former}: it would be counted twice")


class _Counted:
    """Sums of one line."""

    def __init__(self) -> None:
        self.items: Counter[str] = Counter()
        self.buckets: Counter[int] = Counter()
        self.hours: set[int] = set()

    def add(self, hour: int, item: str, count: int) -> None:
        """item: of the ledger."""
        if (bucket := _BUCKET.fullmatch(item)) is not None:
            self.buckets[int(bucket[1])] += count
            return
        self.items[item] += count
        if item in ASKED:
            self.hours.add(hour)

    def join(self, more: _Counted) -> None:
        """Another line's, too."""
        self.items += more.items
        self.buckets += more.buckets
        self.hours |= more.hours

    def line(self, server: str, dialect: str, ported: bool) -> Line:
        """As it is reported."""
        items = self.items
        asked = sum(items[result] for result in ASKED)
        sum_ns = sum(items[f"{result}_ns"] for result in ASKED)
        return Line(
            server=server,
            dialect=dialect,
            ported=ported,
            asked=asked,
            answered=items["answered"],
            no_data=items["no_data"],
            timeout=items["timeout"],
            void=items["void"],
            sum_ns=sum_ns,
            mean_ns=_mean(sum_ns, asked),
            answered_mean_ns=_mean(items["answered_ns"], items["answered"]),
            p50_ns=quantile(self.buckets, 0.50),
            p95_ns=quantile(self.buckets, 0.95),
            p99_ns=quantile(self.buckets, 0.99),
            worst_ns=worst(self.buckets),
            timeout_share=items["timeout"] / asked if asked else None,
            hours=len(self.hours),
        )


def _mean(total: int, count: int) -> int | None:
    """To the nearest whole one: a double would lose digits of a half-year's sum."""
    return (2 * total + count) // (2 * count) if count else None


def line_of(server: Server, ported: bool, counts: Counts) -> Line:
    """Of what a running probe has counted, in whatever hours."""
    counted = _Counted()
    for result, count in counts.results.items():
        counted.items[result] = count
        counted.items[f"{result}_ns"] = counts.ns[result]
    counted.buckets.update(counts.buckets)
    return counted.line(server.url, server.dialect, ported)


def read_report(files: Sequence[Path], period: Period, time_zone: str, now: float) -> Report:
    """time_zone: the name of that in which the period is meant. now: Unix seconds. Raises LedgerError, ConfigError."""
    check_ledgers(files)
    places: dict[tuple[str, str, bool], _Counted] = {}
    messages: dict[tuple[str, str], Counter[str]] = {}
    for file in files:
        for hour, (server, dialect, ported, item), count in _rows(file, period):
            if item in MESSAGES:
                messages.setdefault((dialect, server), Counter())[item] += count
            else:
                places.setdefault((dialect, server, ported == "yes"), _Counted()).add(hour, item, count)
    totals = {True: _Counted(), False: _Counted()}
    for (_, _, is_ported), counted in places.items():
        totals[is_ported].join(counted)
    sampled = totals[True].hours
    over = range(period.first, min(period.end, int(now) // HOUR_SECONDS))
    holes = list(_holes(hour for hour in over if hour not in sampled))
    is_over = now >= period.end * HOUR_SECONDS
    return Report(
        period=period.name,
        time_zone=time_zone,
        first=_time(period.first),
        end=_time(period.end),
        until=_time(period.end) if is_over else format_time(int(now)) or "",
        complete=is_over and not holes,
        ledgers=[str(file) for file in files],
        lines=[
            places[dialect, server, kind].line(server, dialect, kind)
            for dialect, server, kind in sorted(places, key=lambda place: (place[:2], not place[2]))
        ],
        messages=[
            Messages(server, dialect, counted["wrong"], counted["late"])
            for (dialect, server), counted in sorted(messages.items())
        ],
        total=totals[True].line("", "", True),
        total_unported=totals[False].line("", "", False),
        hours=len(over),
        hours_sampled=len(sampled.intersection(over)),
        holes=holes,
        put_aside=[str(path) for file in files for path in put_aside(file)],
    )


def _rows(file: Path, period: Period) -> Iterator[tuple[int, tuple[str, str, str, str], int]]:
    """What we know how to read. Raises LedgerError for anything else."""
    for hour, key, count in read(file, period.first, period.end):
        if type(count) is not int or count < 0 or len(key) != len(COLUMNS):
            raise LedgerError(f"{file}: is no ledger of a probe: name its {FILE}")
        server, dialect, ported, item = key
        if ported not in {"yes", "no", "-"} or not (item in _ITEMS or _BUCKET.fullmatch(item)):
            raise LedgerError(f"{file}: {item}: is not known here: no probe's, or another version's")
        yield hour, (server, dialect, ported, item), count


def _holes(missing: Iterable[int]) -> Iterator[Hole]:
    """Neighbours are one."""
    begin = end = -1
    for hour in missing:
        if hour != end:
            if begin >= 0:
                yield Hole(_time(begin), _time(end), end - begin)
            begin = hour
        end = hour + 1
    if begin >= 0:
        yield Hole(_time(begin), _time(end), end - begin)


def _time(hour: int) -> str:
    return format_time(hour * HOUR_SECONDS) or ""
