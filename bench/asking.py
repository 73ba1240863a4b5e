"""The load tool as `bench` uses it: ways to ask, and what came of it. The tool itself is `lookupd.bench`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bench.load import WrongAnswer
from bench.processes import ChildFailed
from bench.rounds import Answered
from lookupd.bench import Options, Report, run


@dataclass(frozen=True)
class Way:
    """How questions are kept under way. window: on each socket. gso: the client's sends are joined."""

    name: str
    sockets: int
    window: int
    gso: bool = False


MANY_SOCKETS = Way("64 sockets, one in flight each", 64, 1)
ONE_SOCKET = Way("one socket, 128 in flight", 1, 128)
SEGMENTED = Way("one socket, 128 in flight, GSO and GRO", 1, 128, gso=True)

TIMEOUT_SECONDS = 0.2
"""Shorter than a run: when a whole window is lost, because the daemon was kept from its core and sends no late
answers, the rest of the run is asked all the same."""

RIGHT = {
    "pdb": {"ok"},
    "npq": {"ported", "not_ported"},
    "sip": {"ported", "not_ported"},
    "enum": {"ported", "not_allocated"},
}
"""Outcomes of numbers that all have a network; the first dialect does not tell which of them are ported, and the zone
of `dialects` has only those that are."""

HALF = 0.1
"""How far the ported ones may be from half of the answers: a run ends somewhere in the file."""

JUDGED_MIN = 1000
"""Answers that are enough for that."""


@dataclass(frozen=True)
class Asker:
    """Asks one server. numbers: a file with one on each line, half of them ported, asked from its start in each run."""

    port: int
    dialect: Literal["npq", "pdb", "enum", "sip"]
    numbers: Path
    is_echo: bool = False

    def report(
        self, way: Way, seconds: float, rate: float | None = None, batch: int = 1, transport: str = "udp"
    ) -> Report:
        """One run. rate: questions a second whatever comes back; None = as many as the window lets through.

        Raises WrongAnswer, and ChildFailed, as `check_report` does.
        """
        options = Options(
            server=f"{transport}://127.0.0.1:{self.port}",
            dialect=self.dialect,
            numbers=self.numbers,
            sockets=way.sockets,
            window=way.window,
            gso=way.gso,
            rate=None if rate is None else int(rate),
            batch=batch,
            seconds=seconds,
            timeout=TIMEOUT_SECONDS,
        )
        report = run(options)
        check_report(report, self.is_echo)
        return report

    def ask(self, way: Way, seconds: float) -> Answered:
        """One run as fast as the window lets it, over UDP, a number a message."""
        report = self.report(way, seconds)
        return Answered(report.received, report.lost, report.seconds)

    def ask_batches(self, way: Way, seconds: float, batch: int) -> Answered:
        """One run over TCP, `batch` numbers a frame; numbers are counted."""
        report = self.report(way, seconds, batch=batch, transport="tcp")
        return Answered(report.received * batch, report.lost * batch, report.seconds)


def check_report(report: Report, is_echo: bool) -> None:
    """Whether the server did the work that is measured.

    Raises WrongAnswer when it answered something else than the numbers asked call for, and ChildFailed when
    queries were to leave or answers to arrive joined and this kernel cannot do that.
    """
    counts = {name: count for name, count in report.outcomes.items() if count}
    right = {"echoed"} if is_echo else RIGHT[report.dialect]
    if report.unknown or not counts.keys() <= right:
        raise WrongAnswer(f"{report.server}: {counts}, {report.unknown} answers to nothing; awaited {sorted(right)}")
    total = sum(counts.values())
    if not is_echo and report.dialect == "npq" and total >= JUDGED_MIN:
        share = counts.get("ported", 0) / total
        if abs(share - 0.5) > HALF:
            raise WrongAnswer(f"{report.server}: {share:.0%} of the answers are ported, half of the numbers are")
    if report.gso and report.transport == "udp" and not (report.offloads.gso and report.offloads.gro):
        raise ChildFailed("the client cannot send or receive in segments: UDP_SEGMENT or UDP_GRO is missing here")
