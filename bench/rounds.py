"""Rounds: several servers on one core asked in turn by one client, so that what else the machine does hits all alike.

What is asked, and what is made of the samples, is for `native` and `peers`.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from bench.figures import QUERY_UNIT, YARDSTICK, Figure, Ratio, ratio_of
from bench.processes import ChildFailed, Server

TRIES = 3


@dataclass(frozen=True)
class Answered:
    """What one run of a client brought. count: answers, or numbers answered where a message holds many."""

    count: int
    lost: int
    seconds: float


@dataclass(frozen=True)
class Run:
    """A server, and one way to ask it."""

    server: Server
    ask: Callable[[], Answered]


@dataclass
class Samples:
    """One value a round: CPU of the server in ns an answer, answers a second, share of its core. lost: of all."""

    cpu_ns: list[float] = field(default_factory=list)
    per_second: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)
    lost: int = 0

    def add(self, cpu_ns: int, answered: Answered) -> None:
        """One round. Raises ChildFailed when nothing was answered."""
        if not answered.count:
            raise ChildFailed("a server answered nothing")
        self.cpu_ns.append(cpu_ns / answered.count)
        self.per_second.append(answered.count / answered.seconds)
        self.busy.append(cpu_ns / 1e9 / answered.seconds)
        self.lost += answered.lost

    @property
    def us(self) -> float:
        """Median of the CPU, in microseconds."""
        return statistics.median(self.cpu_ns) / 1e3

    def to(self, other: Samples, name: str) -> Ratio:
        """CPU to that of another run of the same rounds."""
        return ratio_of(self.cpu_ns, other.cpu_ns, name)


def run_rounds(runs: Mapping[str, Run], rounds: int) -> dict[str, Samples]:
    """Each run once a round, in the other order in each next one; the round before the first warms up.

    What is compared should stand side by side in `runs`. Raises ChildFailed when a run got no answer at all.
    """
    found = {name: Samples() for name in runs}
    for at in range(rounds + 1):
        for name in runs if at % 2 else reversed(list(runs)):
            cpu_ns, answered = _ask(runs[name])
            try:
                (found[name] if at else Samples()).add(cpu_ns, answered)
            except ChildFailed as error:
                raise ChildFailed(f"{name}: {error}") from None
    return found


def _ask(run: Run) -> tuple[int, Answered]:
    """CPU of the server in ns, and what came. A run without one answer is made again: a server that was kept from its
    core for 30 ms is silent rather than late, and everything that was in flight then is lost."""
    for _ in range(TRIES):
        before = run.server.cpu_ns()
        answered = run.ask()
        cpu_ns = run.server.cpu_ns() - before
        if answered.count:
            break
    return cpu_ns, answered


def cpu_figure(name: str, ours: Samples, echo: Samples) -> Figure:
    """CPU of a query beside the echo's."""
    return Figure(name, ours.us, QUERY_UNIT, ours.to(echo, YARDSTICK))
