"""Lookups while something else happens: one question at a time, timed by the kernel's stamp on the reply.

A client that waits for its core counts for nothing, so that a writer may share it. What is done meanwhile, and
what the figures are held to, is for `exchange` and `pace`.
"""

from __future__ import annotations

import itertools
import socket
import statistics
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.clients import READ_BYTES, REPLY_SECONDS_MAX
from bench.dataset import Dataset, draw_queries, open_engine
from bench.figures import Ratio
from bench.processes import Server
from lookupd.protocols import npq

SLICE_NS = 500_000_000
CALM_SHARE = 0.02
"""A slice of time is calm if the server waited less than this share of it for its core: nothing of ours runs
there, so it waits for somebody else's work. That much is three waits of a few ms among 700 questions: no p99."""

CALM_SLICES_MIN = 4
ASK_SECONDS = 0.0005
"""Between two questions: the server sleeps before each, idle or not."""

ASKED = 20_000
SO_TIMESTAMPNS = 35
"""Linux: each datagram comes with the moment at which it reached the socket. Python has no name for it."""

TIMESPEC = struct.Struct("qq")


@dataclass
class Waited:
    """Nanoseconds of each answered question: when it was asked, until the kernel and the client had the reply.

    calm: slices of time, and whether the server had its core to itself in it.
    """

    asked_at: list[int] = field(default_factory=list)
    kernel: list[int] = field(default_factory=list)
    client: list[int] = field(default_factory=list)
    calm: dict[int, bool] = field(default_factory=dict)
    lost: int = 0

    def us(self, share: float) -> float:
        """The quantile in each calm slice of time (in each, if there is none), and of these the median."""
        each = itertools.groupby(zip(self.asked_at, self.kernel, strict=True), lambda pair: pair[0] // SLICE_NS)
        found = [(self.calm.get(at, False), quantile([ns for _, ns in pairs], share)) for at, pairs in each]
        return statistics.median([ns for is_calm, ns in found if is_calm] or [ns for _, ns in found]) / 1e3

    def is_calm(self) -> bool:
        """Whether there are calm slices enough to say something."""
        return sum(self.calm.values()) >= CALM_SLICES_MIN

    def beside(self, other: Waited) -> Waited:
        """Both together."""
        return Waited(
            self.asked_at + other.asked_at,
            self.kernel + other.kernel,
            self.client + other.client,
            self.calm | other.calm,
            self.lost + other.lost,
        )


def p99_to_idle(during: Waited, before: Waited, after: Waited) -> tuple[Ratio, bool]:
    """p99 to that of both idle times together, the range against each alone; and whether all of it was calm enough."""
    idle = before.beside(after)
    p99 = during.us(0.99)
    low, high = sorted(p99 / side.us(0.99) for side in (before, after))
    return Ratio(p99 / idle.us(0.99), low, high, "idle"), idle.is_calm() and during.is_calm()


def quantile(values: Sequence[float], share: float) -> float:
    """A value that was seen, not one between two."""
    return sorted(values)[min(int(share * len(values)), len(values) - 1)]


def draw_messages(dataset: Dataset) -> Iterator[bytes]:
    """Questions of one number in `npq`, endless. Opens the store, and closes it."""
    with open_engine(dataset) as (engine, reader):
        numbers = draw_queries(engine, reader, ASKED).tn
    return itertools.cycle([npq.encode_query(at, str(number)) for at, number in enumerate(numbers)])


def ask_for(server: Server, messages: Iterator[bytes], seconds: float) -> Waited:
    """As `ask`, for so long."""
    until = time.monotonic() + seconds
    return ask(server, messages, lambda: time.monotonic() > until)


def ask(server: Server, messages: Iterator[bytes], is_over: Callable[[], bool]) -> Waited:
    """One question at a time, asleep before each and until its reply."""
    waited = Waited()
    at, delay_ns = 0, _delay_ns(server)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        sock.settimeout(REPLY_SECONDS_MAX)
        sock.connect(("127.0.0.1", server.ports["npq"]))
        while not is_over():
            time.sleep(ASK_SECONDS)
            if time.time_ns() // SLICE_NS != at:
                before, delay_ns = delay_ns, _delay_ns(server)
                waited.calm[at] = delay_ns - before < CALM_SHARE * SLICE_NS
                at = time.time_ns() // SLICE_NS
            began = time.time_ns()
            sock.send(next(messages))
            try:
                _, extra, _, _ = sock.recvmsg(READ_BYTES, socket.CMSG_SPACE(TIMESPEC.size))
            except TimeoutError:
                waited.lost += 1
                continue
            waited.client.append(time.time_ns() - began)
            waited.asked_at.append(began)
            seconds, nanoseconds = TIMESPEC.unpack(extra[0][2])
            waited.kernel.append(seconds * 1_000_000_000 + nanoseconds - began)
    waited.calm.pop(0, None)  # before the first question
    return waited


def _delay_ns(server: Server) -> int:
    """How long its threads have waited for a core so far, ready to run."""
    return sum(int(task.read_text().split()[1]) for task in Path(f"/proc/{server.pid}/task").glob("*/schedstat"))
