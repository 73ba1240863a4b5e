"""Half-yearly reports made up for tests: full, empty, hostile, and of many networks.

    python -m tests.regulator_sample FOLDER

writes the pages of the full one, and their PDFs, to look at.
"""

from __future__ import annotations

import sys
from pathlib import Path

from loader.regulator.figures import (
    Accuracy,
    AvailabilityMonth,
    Corrected,
    HalfYear,
    KindTimes,
    Missing,
    NetworkMonth,
    NoticeMonth,
    SetUpTime,
    Summary,
    Times,
    Trace,
    not_told,
)
from loader.regulator.half_year_pages import find_browser, write_pages
from loader.regulator.times import Seconds

MONTHS = tuple(f"2026-{month:02}" for month in range(1, 7))
NETWORKS = (("1401", "Alpha Telecom"), ("1402", "Beta 行動"), ("1403", "Gamma & Söhne"))


def spread(*pairs: tuple[float, int]) -> Times:
    """Of so many notices that took so many seconds."""
    found = Seconds()
    for seconds, count in pairs:
        for _ in range(count):
            found.add(seconds)
    return found.times()


def networks(known: tuple[tuple[str, str], ...]) -> tuple[NetworkMonth, ...]:
    return tuple(
        NetworkMonth(month, code, operator, 1200 + 97 * at + 31 * which, 1100 + 53 * which * at, 17 * which)
        for at, month in enumerate(MONTHS)
        for which, (code, operator) in enumerate(known, 1)
    )


def sample(
    known: tuple[tuple[str, str], ...] = NETWORKS, missing: tuple[Missing, ...] = (), network: str | None = None
) -> HalfYear:
    rows = networks(known)
    ported_in, ported_out = sum(row.ported_in for row in rows), sum(row.ported_out for row in rows)
    return HalfYear(
        report="half-year",
        period="2026H1",
        time_zone="Asia/Taipei",
        first="2025-12-31T16:00:00Z",
        end="2026-06-30T16:00:00Z",
        until="2026-06-30T16:00:00Z",
        complete=not missing,
        missing=missing,
        network=network,
        replica="a",
        made_at="2026-07-06T01:02:03Z",
        serial=812_345,
        digest="543c9f9ded65e62d",
        journal_head="0f1e2d3c4b5a69788796a5b4c3d2e1f0",
        months=MONTHS,
        summary=Summary(ported_in, ported_out, 0.000_731, 96.421, 0.000_412_5),
        networks=rows,
        notices=tuple(
            NoticeMonth(month, kind, visible, visible and visible + 13, breached, superseded, rejected, failed, rate)
            for month in MONTHS
            for kind, visible, breached, superseded, rejected, failed, rate in (
                ("port", 3600, 2, 0, 0, 2, 2 / 3600),
                ("return", 240, 0, 0, 0, 0, 0.0),
                ("untold", 0, 0, 3, 1, 1, None),
            )
        ),
        times=(
            KindTimes(
                "port",
                3600.0,
                spread((0.4, 900), (3.0, 12_000), (40.0, 7000), (700.0, 1400), (5000.0, 12)),
                spread((0.08, 400), (0.7, 30)),
                spread((0.4, 900), (3.0, 12_000), (40.0, 7000), (200_000.0, 430)),
            ),
            KindTimes("return", 43_200.0, spread((5.0, 1200), (9000.0, 240)), spread(), spread((5.0, 1440))),
            KindTimes("correct", 3600.0, spread(), spread(), spread()),
        ),
        corrected=(Corrected("2026-03", 2, 41), Corrected("2026-04", 0, 0)),
        setup_time=SetUpTime(1_234_567, 89, 0.000_412_5, 0.000_398, 0.000_316, 0.001_12, 0.003_16, 4344, 4344),
        availability=tuple(
            AvailabilityMonth(month, source, share, out, 730, 729)
            for month in MONTHS
            for source, share, out in (("prometheus", 0.999_987, 34.2), ("probe", 0.998_21, None))
        ),
        accuracy=(
            Accuracy("2026-02", "2026-02-06T03:00:00Z", "january.csv", 1_000_000, 12, 0.999_988, 700_001, "aa" * 8),
            Accuracy("2026-03", "2026-03-06T03:00:00Z", "february.csv", 1_000_000, 9000, 0.991, 720_001, "bb" * 8),
        ),
        trace=Trace("half-year-2026H1-trace.csv", 23_112, "c0ffee" * 10 + "c0ff"),
    )


def partial() -> HalfYear:
    reasons = (
        not_told(
            "availability",
            "Prometheus tells nothing of {hours} hours",
            "2025-12-31T16:00:00Z",
            "2026-01-03T00:00:00Z",
            hours=56,
        ),
        not_told("rejected", "the feeds' spools are not known, where refusals are kept: --config FILE names them"),
    )
    return sample(missing=reasons)


def hostile() -> HalfYear:
    evil = '<script>alert("x")</script>'
    gap = not_told(evil, evil + " {file}", evil, evil, file=evil)
    return sample((("1401", evil), ("1402", "\"'&<b>")), (gap,), evil)


def many() -> HalfYear:
    return sample(tuple((f"N{at:03}", f"Operator {at}") for at in range(60)))


def empty() -> HalfYear:
    none = spread()
    return HalfYear(
        "half-year", "2026H1", "UTC", "2026-01-01T00:00:00Z", "2026-07-01T00:00:00Z", "2026-07-01T00:00:00Z", False,
        (not_told("accuracy", "nothing was named"),), None, "a", "2026-07-02T00:00:00Z", 1, "0" * 16,
        "0" * 32, MONTHS, Summary(0, 0, None, None, None), (), (),
        tuple(KindTimes(kind, 3600.0, none, none, none) for kind in ("port", "return", "correct")), (), None, (), (),
        None,
    )  # fmt: skip


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for path in write_pages(sample(), folder, browser=find_browser()):
        print(path)
