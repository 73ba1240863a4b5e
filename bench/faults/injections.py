"""What is done to replica `a`, and undone. Each takes its time and says when it struck; `b` is never touched."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from bench.faults.replicas import Replica
from bench.faults.sites import end

Strike = Callable[[Replica, float], list[float]]
"""Takes the replica and the seconds it is to last; returns when it struck (CLOCK_MONOTONIC)."""

KILL_EVERY_SECONDS = 2.0
HALT_SECONDS, HALT_EVERY_SECONDS = 2.0, 4.0
HOGS = 4


@dataclass(frozen=True)
class Injection:
    """name: on the command line. told: in the table."""

    name: str
    told: str
    strike: Strike


def _kill(replica: Replica, seconds: float) -> list[float]:
    return [_at(replica.kill) for _ in _rounds(seconds, KILL_EVERY_SECONDS)]


def _halt(replica: Replica, seconds: float) -> list[float]:
    struck = []
    for left in _rounds(seconds, HALT_EVERY_SECONDS):
        struck.append(_at(replica.halt))
        try:
            time.sleep(min(HALT_SECONDS, left))
        finally:
            replica.resume()
    return struck


def _hog(replica: Replica, seconds: float) -> list[float]:
    """Processes that never sleep, on the replica's core, at its own priority."""
    pinned = [] if replica.core is None else ["taskset", "-c", str(replica.core)]
    hogs: list[subprocess.Popen[bytes]] = []
    struck = time.monotonic()
    try:
        hogs += [subprocess.Popen([*pinned, sys.executable, "-S", "-c", "while True: pass"]) for _ in range(HOGS)]
        time.sleep(seconds)
    finally:
        for hog in hogs:
            end(hog)
    return [struck]


def _cut(replica: Replica, seconds: float) -> list[float]:
    try:
        struck = _at(replica.site.cut)
        time.sleep(seconds)
    finally:
        replica.site.join()
    return [struck]


def _losing(percent: int) -> Strike:
    def strike(replica: Replica, seconds: float) -> list[float]:
        try:
            struck = _at(lambda: replica.site.lose(percent))
            time.sleep(seconds)
        finally:
            replica.site.lose(0)
        return [struck]

    return strike


INJECTIONS = (
    Injection("kill", f"kill -9, started again after 0.1 s, every {KILL_EVERY_SECONDS:g} s", _kill),
    Injection("stop", f"SIGSTOP for {HALT_SECONDS:g} s, every {HALT_EVERY_SECONDS:g} s", _halt),
    Injection("hog", f"{HOGS} busy processes on its core", _hog),
    Injection("partition", "its link is cut", _cut),
    Injection("loss10", "10 % of the packets lost, each way", _losing(10)),
    Injection("loss50", "50 % of the packets lost, each way", _losing(50)),
)


def by_name(name: str) -> Injection:
    """The injection of this name."""
    return next(injection for injection in INJECTIONS if injection.name == name)


def _rounds(seconds: float, every: float) -> Iterator[float]:
    """The seconds that are left, at the beginning of each round, until none are."""
    started = time.monotonic()
    count = 0
    while (left := seconds - (time.monotonic() - started)) > 0.1:
        yield left
        count += 1
        with contextlib.suppress(ValueError):
            time.sleep(min(started + count * every, started + seconds) - time.monotonic())


def _at(act: Callable[[], None]) -> float:
    act()
    return time.monotonic()
