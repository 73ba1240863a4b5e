"""The load tool as `bench` uses it: ways to ask, and what came of it. The tool itself is `lookupd.bench`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

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


@dataclass(frozen=True)
class Asker:
    """Asks one server. numbers: a file with one on each line, asked from its start, again and again."""

    port: int
    dialect: Literal["npq", "pdb"]
    numbers: Path

    def report(
        self, way: Way, seconds: float, rate: float | None = None, batch: int = 1, transport: str = "udp"
    ) -> Report:
        """One run. rate: questions a second whatever comes back; None = as many as the window lets through."""
        return run(
            Options(
                server=f"{transport}://127.0.0.1:{self.port}",
                dialect=self.dialect,
                numbers=self.numbers,
                sockets=way.sockets,
                window=way.window,
                gso=way.gso,
                rate=None if rate is None else int(rate),
                batch=batch,
                seconds=seconds,
            )
        )

    def ask(self, way: Way, seconds: float) -> Answered:
        """One run as fast as the window lets it, over UDP, a number a message."""
        report = self.report(way, seconds)
        return Answered(report.received, report.lost, report.seconds)

    def ask_batches(self, way: Way, seconds: float, batch: int) -> Answered:
        """One run over TCP, `batch` numbers a frame; numbers are counted."""
        report = self.report(way, seconds, batch=batch, transport="tcp")
        return Answered(report.received * batch, report.lost * batch, report.seconds)
