"""Another server of the same numbers, where it is installed, beside the echo and beside our batches.

Redis (Debian: redis-server) gets one key a number and is asked with pipelined GET. It runs in a folder of its own, on
loopback, on one core, and ends with the measurement. Servers of ENUM and SIP are beside ours in `dialects`.
"""

from __future__ import annotations

import contextlib
import socket
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

from bench import enum_zone
from bench.asking import ONE_SOCKET, Asker, Way
from bench.budget import Budget
from bench.dataset import Dataset, open_engine
from bench.figures import Figure, Section
from bench.native import Numbers, write_numbers
from bench.processes import Server, daemon, find, free_port, is_open, native_echo, pinned, serving
from bench.rounds import Answered, Run, Samples, cpu_figure, run_rounds

TITLE = "Batches, and other servers"
FRAME_NUMBERS = 1000
ONE_FRAME = Way("one connection, one frame under way", 1, 1)
PIPELINED = 1000
"""GET commands under way on one connection: as many numbers as a frame of ours has."""

STORED_AT_A_TIME = 10_000
READ_BYTES = 1 << 18
REPLY_SECONDS_MAX = 10.0
T = TypeVar("T")


@dataclass(frozen=True)
class Effort:
    """seconds: of a run."""

    rounds: int
    seconds: float


FULL = Effort(5, 0.5)
QUICK = Effort(2, 0.2)


def measure(
    dataset: Dataset, small: Dataset, effort: Effort, budget: Budget, server_core: int, client_core: int
) -> Section:
    """Batches of ours at the data set's size, everything else at the small one's. Raises ChildFailed."""
    numbers, few = write_numbers(dataset), write_numbers(small)
    with contextlib.ExitStack() as stack, tempfile.TemporaryDirectory(prefix="lookupd-peers-") as name:
        folder = Path(name)
        ours = stack.enter_context(daemon(dataset.store, dataset.folder, server_core, "native"))
        echo = stack.enter_context(native_echo(folder, server_core))
        runs = {
            "echo": _echo_run(echo, few, effort),
            "batch": _batch_run(ours, numbers, effort),
            **_redis_runs(stack, small, few, folder, effort, server_core),
        }
        with pinned(client_core):
            samples = run_rounds(runs, effort.rounds)
    return Section(TITLE, _note(small, effort), _figures(samples, budget))


def _note(small: Dataset, effort: Effort) -> str:
    return (
        f"Server CPU on one core, beside the bare echo asked by `pdb` with {ONE_SOCKET.name}; median and range of "
        f"{effort.rounds} rounds. Batches: `npq` over TCP, {FRAME_NUMBERS:,} numbers a frame, one frame under way, at "
        f"the run's numbers. Redis: {small.numbers:,} keys with a routing number each, {PIPELINED:,} GET commands "
        f"under way on one connection. " + ("" if find("redis-server") else "It is not installed, so not measured.")
    ).rstrip()


# -- runs ------------------------------------------------------------------------------------------------


def _echo_run(server: Server, numbers: Numbers, effort: Effort) -> Run:
    asker = Asker(server.ports["echo"], "pdb", numbers.path, is_echo=True)
    return Run(server, lambda: asker.ask(ONE_SOCKET, effort.seconds))


def _batch_run(server: Server, numbers: Numbers, effort: Effort) -> Run:
    asker = Asker(server.ports["npq"], "npq", numbers.path)
    return Run(server, lambda: asker.ask_batches(ONE_FRAME, effort.seconds, FRAME_NUMBERS))


def _redis_runs(
    stack: contextlib.ExitStack, dataset: Dataset, few: Numbers, folder: Path, effort: Effort, core: int
) -> dict[str, Run]:
    """Redis with all numbers in it; nothing if it is not installed."""
    program = find("redis-server")
    if program is None:
        return {}
    server = stack.enter_context(redis(program, folder, core))
    store_numbers(server.ports["redis"], dataset)
    commands = [
        b"".join(b"*2\r\n$3\r\nGET\r\n$%d\r\n%d\r\n" % (len(str(tn)), tn) for tn in lot)
        for lot in _lots(few.queries.tn, PIPELINED)
    ]
    return {"redis": Run(server, lambda: _get(server.ports["redis"], commands, effort.seconds))}


# -- redis -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def redis(program: str, folder: Path, core: int) -> Iterator[Server]:
    """Nothing is written to disk."""
    port = free_port()
    command = [program, "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no"]
    command += ["--dir", str(folder), "--daemonize", "no"]
    with serving(command, folder / "redis.log", core, {"redis": port}, lambda: is_open(port)) as server:
        yield server


def _lots(items: Iterable[T], size: int) -> Iterator[list[T]]:
    each = iter(items)
    while lot := list(islice(each, size)):
        yield lot


def store_numbers(port: int, dataset: Dataset) -> None:
    """A key for each ported number, its routing number as value."""
    with open_engine(dataset) as (_, reader), socket.create_connection(("127.0.0.1", port), REPLY_SECONDS_MAX) as sock:
        for lot in _lots(enum_zone.ported_numbers(reader), STORED_AT_A_TIME):
            words = [b"MSET", *(word for tn, rn in lot for word in (b"%d" % tn, rn.encode()))]
            parts = [b"*%d\r\n" % len(words), *(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)]
            sock.sendall(b"".join(parts))
            if (reply := sock.recv(READ_BYTES)) != b"+OK\r\n":
                raise ConnectionError(f"redis: {reply!r}")


def _get(port: int, lots: list[bytes], seconds: float) -> Answered:
    """One lot of GET commands under way at a time; every reply counts, a number without a key has one too."""
    done = at = 0
    with socket.create_connection(("127.0.0.1", port), REPLY_SECONDS_MAX) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        began = time.perf_counter()
        while time.perf_counter() - began < seconds:
            sock.sendall(lots[at % len(lots)])
            _receive_replies(sock, PIPELINED)
            done += PIPELINED
            at += 1
        return Answered(done, 0, time.perf_counter() - began)


def _receive_replies(sock: socket.socket, count: int) -> None:
    """Until `count` bulk strings or nulls are there: a string has two line ends, a null one. Raises ConnectionError."""
    received = b""
    while received.count(b"\r\n") + received.count(b"$-1\r\n") < 2 * count:
        piece = sock.recv(READ_BYTES)
        if not piece:
            raise ConnectionError("redis closed the connection")
        received += piece


# -- figures ---------------------------------------------------------------------------------------------


def _figures(samples: dict[str, Samples], budget: Budget) -> list[Figure]:
    echo = samples["echo"]
    batch = cpu_figure(f"npq over TCP, {FRAME_NUMBERS:,} numbers a frame, a number", samples["batch"], echo)
    per_core, aim = 1e6 / samples["batch"].us, budget.aims.batch_numbers_per_second
    found = [
        batch,
        Figure("that many numbers a core", per_core / 1e6, "M/s", aim=f">= {aim / 1e6:g} M/s", met=per_core >= aim),
    ]
    if "redis" in samples:
        found.append(cpu_figure("Redis, pipelined GET, a number", samples["redis"], echo))
        found.append(Figure("that many numbers a core, Redis", 1 / samples["redis"].us, "M/s"))
    return found
