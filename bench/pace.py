"""Lookups while notices are applied at a steady pace.

    python -m bench.pace STORE RATE FILE...

applies the deltas one after another at RATE notices a second by one Writer, and prints how many a second it was.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bench.budget import Budget
from bench.dataset import Dataset
from bench.deltas import Place, Sender, apply, draw_notices, writable_place
from bench.figures import Figure, Ratio, Section
from bench.meanwhile import ASK_SECONDS, Waited, ask, ask_for, draw_messages, p99_to_idle
from bench.processes import ChildFailed, Server, child, daemon, pinned
from lookupd.store.writer import Writer

DELTAS_PER_SECOND = 10
ATTEMPTS_MAX = 3
KEPT_SHARE = 0.98
"""A writer that reached less of the pace has not shown what was asked."""

QUANTILES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}


class Effort(msgspec.Struct, frozen=True):
    """Seconds without notices (before, and again after), and with them."""

    idle_seconds: float
    seconds: int


FULL = Effort(6.0, 12)
QUICK = Effort(2.0, 4)


@dataclass(frozen=True)
class Found:
    """One attempt: lookups before, with and after the notices, and how many of these were applied a second."""

    before: Waited
    during: Waited
    after: Waited
    reached: float

    def to_idle(self, pace: int) -> tuple[Ratio, bool]:
        """p99 to the idle one, and whether that can be judged: the machine was calm and the writer kept its pace."""
        ratio, is_calm = p99_to_idle(self.during, self.before, self.after)
        return ratio, is_calm and self.reached >= KEPT_SHARE * pace


def measure(dataset: Dataset, effort: Effort, budget: Budget, server_core: int, client_core: int) -> Section:
    """On a copy of the store; again if somebody else's work spoiled it, ATTEMPTS_MAX times. Raises ChildFailed."""
    pace = budget.meanwhile.notices_per_second
    messages = draw_messages(dataset)
    with writable_place(dataset) as place, pinned(client_core):
        sender = Sender(place.folder)
        with daemon(place.store, place.folder, server_core, "native") as server:
            ask_for(server, messages, effort.idle_seconds / 4)  # warms up
            for _ in range(ATTEMPTS_MAX):
                paths = _make_deltas(place, sender, pace, effort.seconds)
                found = _attempt(server, messages, place, paths, effort, pace, client_core)
                if found.to_idle(pace)[1]:
                    break
    return Section("Lookups while notices are applied", _note(pace, place), _figures(found, budget))


def _attempt(
    server: Server, messages: Iterator[bytes], place: Place, paths: list[Path], effort: Effort, pace: int, core: int
) -> Found:
    before = ask_for(server, messages, effort.idle_seconds)
    command = [sys.executable, "-m", "bench.pace", str(place.store), str(pace), *map(str, paths)]
    log = place.folder / "pace.log"
    with child(command, log, core) as writer:
        during = ask(server, messages, lambda: writer.poll() is not None)
        reached = _reached(writer.wait(), log)
    return Found(before, during, ask_for(server, messages, effort.idle_seconds), reached)


def _note(pace: int, place: Place) -> str:
    return (
        f"{pace:,} notices a second in {DELTAS_PER_SECOND} deltas, by a writer that shares its core with the client; "
        f"the daemon has the other core alone; the store lies on "
        f"{'tmpfs' if place.is_tmpfs else 'the file system of the data set'}. One `npq` question over UDP every "
        f"{1000 * ASK_SECONDS:g} ms, from the send to the kernel's stamp on the reply; quantiles are those of each "
        f"half second, and of these the median, without those in which somebody else's work kept the daemon from its "
        f"core for 2 % or more; the spread is against the slower and the faster idle."
    )


def _make_deltas(place: Place, sender: Sender, pace: int, seconds: int) -> list[Path]:
    notices = list(draw_notices(place.store, pace * seconds))
    size = pace // DELTAS_PER_SECOND
    return [sender.make(notices[at : at + size]) for at in range(0, len(notices), size)]


def _reached(exit_code: int, log: Path) -> float:
    text = log.read_text()
    if exit_code:
        raise ChildFailed(f"the writer of notices ended with {exit_code}: {text[-1000:]}")
    return float(text.splitlines()[-1])


def _figures(found: Found, budget: Budget) -> list[Figure]:
    ratio, is_sound = found.to_idle(budget.meanwhile.notices_per_second)
    idle, during = found.before.beside(found.after), found.during
    figures = [Figure("notices applied", found.reached, "/s")]
    for name, share in QUANTILES.items():
        figure = Figure(f"lookup {name}, meanwhile", during.us(share), "us")
        if name == "p99":
            figure = budget.hold(msgspec.structs.replace(figure, ratio=ratio), "meanwhile.lookup_p99", is_sound)
        figures += [Figure(f"lookup {name}, idle", idle.us(share), "us"), figure]
    return [
        *figures,
        Figure("calm time, idle", 100 * statistics.mean(idle.calm.values()), "%"),
        Figure("calm time, meanwhile", 100 * statistics.mean(during.calm.values()), "%"),
        Figure("questions without an answer", idle.lost + during.lost, ""),
    ]


def apply_paced(store: Path, pace: int, paths: list[Path]) -> float:
    """Each delta at its time, or as soon as the one before it is done; returns the notices a second."""
    notices = 0
    with Writer(store) as writer:
        began = time.monotonic()
        for at, path in enumerate(paths):
            time.sleep(max(0.0, began + at / DELTAS_PER_SECOND - time.monotonic()))
            apply(writer, path)
            notices += pace // DELTAS_PER_SECOND
        ended = max(time.monotonic(), began + len(paths) / DELTAS_PER_SECOND)
    return notices / (ended - began)


if __name__ == "__main__":
    print(apply_paced(Path(sys.argv[1]), int(sys.argv[2]), [Path(name) for name in sys.argv[3:]]))
