"""What the benchmark says of a server's CPU."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from bench.processes import Server

BURN = """if True:
    import subprocess, sys, threading, time

    def burn():
        while time.process_time() < 0.2:
            pass

    thread = threading.Thread(target=burn)
    thread.start()
    thread.join()
    if "and-child" in sys.argv:
        child = subprocess.Popen([sys.executable, "-c", sys.argv[1], "alone"], stdin=subprocess.PIPE)
        sys.stdin.read()
        child.communicate()
    else:
        print(time.process_time_ns(), flush=True)
        sys.stdin.read()
"""


@contextmanager
def burnt(*how: str) -> Iterator[tuple[Server, int]]:
    """A server, and what the last of its processes took when it said so."""
    command = [sys.executable, "-c", BURN, BURN, *how]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield Server(process.pid, {}, 0.0), int(process.stdout.readline())
        assert process.stdin is not None
        process.stdin.close()


def test_cpu_of_a_thread_that_has_ended_counts() -> None:
    with burnt() as (server, took_ns):
        assert 200_000_000 <= took_ns <= server.cpu_ns() < took_ns + 100_000_000


def test_cpu_of_a_process_that_it_started_counts() -> None:
    with burnt("and-child") as (server, took_ns):
        assert server.cpu_ns() >= took_ns + 200_000_000
