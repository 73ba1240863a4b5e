"""A probe's report for people, and as CSV for spreadsheets. What it says is `report`'s."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from lookupd.probe.histogram import BEYOND, BOUNDS_NS
from lookupd.probe.report import Line, Report

HOLES_TOLD_MAX = 20

_HEAD = (
    "dialect", "server", "ported", "asked", "mean ms", "answered ms", "p50 <=", "p95 <=", "p99 <=", "worst <=",
    "timeouts", "no data", "void", "hours",
)  # fmt: skip


def format_csv(report: Report) -> str:
    """A row for each line, and one for each total, whose dialect is `all`."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    names = Line.__struct_fields__
    writer.writerow(("period", *names))
    for line in _all(report):
        values = [getattr(line, name) for name in names]
        writer.writerow([report.period, *("" if value is None else value for value in values)])
    return out.getvalue()


def _all(report: Report) -> Iterator[Line]:
    yield from report.lines
    for line in (report.total, report.total_unported):
        yield _named(line)


def _named(line: Line) -> Line:
    return msgspec.structs.replace(line, dialect="all", server="all")


def format_report(report: Report) -> Iterator[str]:
    """Lines."""
    yield f"probe, {report.period} ({report.time_zone}): {report.first} to {report.end}"
    if report.until != report.end:
        yield f"not over: what was asked until {report.until}"
    for ledger in report.ledgers:
        yield f"ledger {ledger}"
    yield ""
    yield from format_lines(_all(report))
    yield ""
    for each in report.messages:
        yield f"{each.server}: {each.wrong} wrong, {each.late} late"
    if report.total.mean_ns is None:
        yield "mean extra call set-up time, ported: nothing was asked"
    else:
        yield f"mean extra call set-up time, ported: {_ms(report.total.mean_ns)} ms of {report.total.asked} calls"
    yield f"sampled: {report.hours_sampled} of {report.hours} hours"
    for hole in report.holes[:HOLES_TOLD_MAX]:
        yield f"not sampled: {hole.from_} to {hole.until}: {hole.hours} h"
    if len(report.holes) > HOLES_TOLD_MAX:
        yield f"not sampled: {len(report.holes) - HOLES_TOLD_MAX} times more; --json has all"
    for path in report.put_aside:
        yield f"damaged, and not counted here: {path}"


def format_lines(lines: Iterable[Line], *, with_hours: bool = True) -> list[str]:
    """A table; times in milliseconds."""
    rows = [_HEAD, *map(_row, lines)]
    return _table(rows if with_hours else [row[:-1] for row in rows])


def _row(line: Line) -> tuple[str, ...]:
    share = "" if not line.timeout_share else f" ({100 * line.timeout_share:.3g} %)"
    return (
        line.dialect,
        line.server,
        "yes" if line.ported else "no",
        str(line.asked),
        _ms(line.mean_ns),
        _ms(line.answered_mean_ns),
        *map(_bound, (line.p50_ns, line.p95_ns, line.p99_ns, line.worst_ns)),
        f"{line.timeout}{share}",
        str(line.no_data),
        str(line.void),
        str(line.hours),
    )


def _ms(ns: int | None) -> str:
    return "-" if ns is None else f"{ns / 1e6:.3f}"


def _bound(ns: int | None) -> str:
    """Three digits, as the bounds have."""
    if ns is None:
        return "-"
    return f"> {BOUNDS_NS[-1] / 1e6:g}" if ns == BEYOND else f"{ns / 1e6:g}"


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """The first three columns to the left, figures to the right."""
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if at < 3 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
