"""What is done to replica `a`, and undone. Each takes its time and says when it struck; `b` is never touched."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from bench.faults.replicas import FIRST_PORTED, PORTED_COUNT, Replica
from bench.faults.sites import end, wait_for
from lookupd.model import TN, JournalKind, UnixSeconds
from lookupd.store.writer import Writer

Strike = Callable[[Replica, float], list[float]]
"""Takes the replica and the seconds it is to last; returns when it struck (CLOCK_MONOTONIC)."""

DIVERGED_SECONDS_MAX = 20.0
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


def _diverge(replica: Replica, seconds: float) -> list[float]:
    """Every ported number on it goes elsewhere, outside the feed; mended from its twin once it stands back."""
    change_by_hand(replica)
    struck = time.monotonic()
    wait_for("withdrawn", lambda: "withdrawn" in replica.readiness(), DIVERGED_SECONDS_MAX)
    time.sleep(max(struck + seconds / 2 - time.monotonic(), 0))
    command = ("compare", replica.peer_url, "--config", str(replica.config), "--repair", "--reason", "noc: b is right")
    replica.site.run(sys.executable, "-m", "loader.cli", *command)
    replica.wait_ready()
    return [struck]


def change_by_hand(replica: Replica) -> None:
    """By a Writer: every checksum and the digest are right, no file of the feed says so."""
    first, last = TN(FIRST_PORTED), TN(FIRST_PORTED + PORTED_COUNT - 1)
    now = UnixSeconds(int(time.time()))
    with Writer(replica.store) as writer, writer.change(now) as change:
        counts = change.set_numbers(first, last, change.network_codes["1401"], 0, 0, 1)
        change.record(JournalKind.CORRECT, counts, tn=first, tn_to=last, reason="bench: by hand")


INJECTIONS = (
    Injection("kill", f"kill -9, started again after 0.1 s, every {KILL_EVERY_SECONDS:g} s", _kill),
    Injection("stop", f"SIGSTOP for {HALT_SECONDS:g} s, every {HALT_EVERY_SECONDS:g} s", _halt),
    Injection("hog", f"{HOGS} busy processes on its core", _hog),
    Injection("partition", "its link is cut", _cut),
    Injection("loss10", "10 % of the packets lost, each way", _losing(10)),
    Injection("loss50", "50 % of the packets lost, each way", _losing(50)),
)


DIVERGENCE = Injection("diverge", "its data changed by hand, mended when it stood back", _diverge)
"""Of a pair that watches each other. Until it is found, a client that takes the first answer may take a wrong one."""


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
