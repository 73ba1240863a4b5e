"""What the clients saw, as figures: a line for each injection and client. Injects and asks nothing."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from bench.faults.askers import FAILED, OK, WRONG, Row
from bench.faults.clients import Client, Run
from bench.faults.injections import Injection
from bench.machine import Machine

STEADY_SECONDS = 0.5
STEADY_SHARE = 0.02
"""Steady again: from then on, for STEADY_SECONDS, no more than this share of the answers is bad."""

SLOW_TIMES, SLOW_SECONDS = 3.0, 0.02
"""A bad answer is none, a wrong one, or one that took this many times the quiet p99, and this long at least."""

MOVED_SECONDS = 1.0
"""From a strike on its holder until a virtual address answers again."""

HEADINGS = ("injected", "times", "client", "asked", "failed", "wrong", "p50 ms", "p99 ms", "worst ms", "quiet p99 ms",
            "steady after", "")  # fmt: skip


class Line(msgspec.Struct, frozen=True):
    """One injection and one client, all runs together. Times in seconds, of answers under fire; None = there were none.

    asked, failed, wrong: from the first strike to the end. steady: the longest time from a strike until steady
    again; None = not before the fault ended. met: None where nothing was aimed at. must: an aim that no busy machine
    excuses.
    """

    injection: str
    told: str
    client: str
    client_told: str
    times: int
    asked: int
    failed: int
    wrong: int
    p50: float | None
    p99: float | None
    worst: float | None
    quiet_p99: float | None
    steady: float | None
    met: bool | None
    must: bool


class Result(msgspec.Struct, frozen=True):
    """One run of everything."""

    date: str
    quick: bool
    machine: Machine
    lines: list[Line]
    more: list[str] = []
    """Tables of other programs, as Markdown."""


def line_of(injection: Injection, client: Client, runs: Sequence[Run]) -> Line:
    """Sum up the runs of one injection for one client."""
    quiet = [row for run in runs for row in run.rows[client.name] if run.settled <= row[0] < run.begun]
    rows = [row for run in runs for row in run.rows[client.name] if row[0] >= run.begun]
    fire = [row for run in runs for row in run.rows[client.name] if run.begun <= row[0] < run.ended]
    quiet_p99 = _quantile(quiet, 0.99)
    slow = max(SLOW_TIMES * (quiet_p99 or 0), SLOW_SECONDS)
    steadies = [steady_after(run.rows[client.name], struck, slow) for run in runs for struck in run.struck]
    failed, wrong = (sum(row[2] == verdict for row in rows) for verdict in (FAILED, WRONG))
    return Line(
        injection=injection.name,
        told=injection.told,
        client=client.name,
        client_told=client.told,
        times=sum(len(run.struck) for run in runs),
        asked=len(rows),
        failed=failed,
        wrong=wrong,
        p50=_quantile(fire, 0.5),
        p99=_quantile(fire, 0.99),
        worst=_quantile(fire, 1.0),
        quiet_p99=quiet_p99,
        steady=None if None in steadies else max((each for each in steadies if each is not None), default=0.0),
        met=failed == 0 and wrong == 0 if client.must else None,
        must=client.must,
    )


def judge_move(line: Line) -> Line:
    """Of a virtual address: that it answered again within MOVED_SECONDS."""
    moved = line.steady is not None and line.steady < MOVED_SECONDS and line.wrong == 0
    return msgspec.structs.replace(line, met=moved)


def steady_after(rows: Sequence[Row], struck: float, slow: float) -> float | None:
    """Seconds from a strike until answers are as before; None if they never are again. slow: seconds."""
    later = [row for row in rows if row[0] >= struck]
    candidates = [struck, *(sent + 1e-9 for sent, seconds, verdict in later if _is_bad(seconds, verdict, slow))]
    for start in candidates:
        window = [row for row in later if start <= row[0] < start + STEADY_SECONDS]
        bad = sum(_is_bad(seconds, verdict, slow) for _, seconds, verdict in window)
        if window and bad <= STEADY_SHARE * len(window):
            return start - struck
    return None


def _is_bad(seconds: float | None, verdict: str, slow: float) -> bool:
    return verdict != OK or seconds is None or seconds > slow


def _quantile(rows: Sequence[Row], share: float) -> float | None:
    found = sorted(seconds for _, seconds, _ in rows if seconds is not None)
    return found[min(int(share * len(found)), len(found) - 1)] if found else None


# -- text ------------------------------------------------------------------------------------------------


def report(result: Result) -> str:
    """The whole result as Markdown."""
    machine = result.machine
    head = [
        f"# The pair under fire, {result.date} at {machine.commit}",
        "",
        f"{machine.cores} cores of {machine.cpu}, {machine.kernel}, Python {machine.python}"
        + ("; quick run" if result.quick else "")
        + ".",
        "",
        "Two replicas, a and b, in network namespaces; every fault is put on a alone, while all clients ask. Failed:",
        "no answer, or one that says `unavailable`. Latencies are those under fire, beside the p99 before.",
        f"Steady: no more than {STEADY_SHARE:.0%} of the answers fail or are slow ({SLOW_TIMES:g} x the quiet p99,",
        f"{SLOW_SECONDS * 1000:g} ms at least) for {STEADY_SECONDS:g} s; the longest time after a strike. The aim,",
        "none failed and none wrong, is judged where the client asks both servers. At the virtual address the aim is",
        f"an answer again within {MOVED_SECONDS:g} s.",
        "",
    ]
    return "\n".join([*head, *_table(result.lines), *(f"\n{text}" for text in result.more)]).rstrip()


def missed(result: Result) -> list[str]:
    """Aims that must be met and were not."""
    return [
        f"{line.told}: {line.client_told}: {line.failed} failed, {line.wrong} wrong of {line.asked}"
        for line in result.lines
        if line.must and line.met is False
    ]


def _table(lines: Sequence[Line]) -> list[str]:
    rows = [HEADINGS, *(_cells(line) for line in lines)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    text = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    return [text[0], "|".join(["", *("-" * (width + 2) for width in widths), ""]), *text[1:]]


def _cells(line: Line) -> tuple[str, ...]:
    return (
        line.told,
        str(line.times),
        line.client_told,
        str(line.asked),
        str(line.failed),
        str(line.wrong),
        *(_milliseconds(each) for each in (line.p50, line.p99, line.worst, line.quiet_p99)),
        "not" if line.steady is None else f"{line.steady:.2f} s",
        {None: "measured", True: "met", False: "missed"}[line.met],
    )


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{1000 * seconds:.3g}" if seconds < 1 else f"{1000 * seconds:.0f}"
