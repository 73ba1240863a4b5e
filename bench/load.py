"""Server CPU per query over real sockets, as a ratio to a bare uvloop echo asked in the same way beside it.

The daemon and the echo run on one core, the asking side on another. Each round asks the echo and the daemon
in turn with the same bytes; a ratio is made within a round, so that what else the machine does weighs on
both alike. Nothing is tuned to the queries: see `dataset`.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from bench import clients
from bench.clients import IN_FLIGHT, SOCKETS, Address, Ask, Asked
from bench.dataset import Dataset, Queries, draw_queries, open_engine
from bench.figures import Figure, Ratio, Section, ratio_of
from bench.processes import Server, daemon, echo, pinned
from lookupd.model import Outcome
from lookupd.protocols import npq, pdb

RATIO_AIM = 2.0
DATAGRAM_NUMBERS = 40
FRAME_NUMBERS = 1000
CHECKED = 2000
"""Answers that are looked at before anything is measured."""

ONE_SOCKET = f"{IN_FLIGHT} in flight"
MANY_SOCKETS = f"{SOCKETS} sockets"
ALONE = "one in flight"
UDP_WAYS: dict[str, Ask] = {
    ONE_SOCKET: clients.one_socket,
    MANY_SOCKETS: clients.many_sockets,
    ALONE: clients.alone,
}


class WrongAnswer(Exception):
    """The daemon says something else than the data: no figure is worth anything then."""


@dataclass(frozen=True)
class Effort:
    """How much is asked. queries: numbers in one run of a case; alone: of a case with one in flight."""

    rounds: int
    queries: int
    alone: int


FULL = Effort(rounds=15, queries=10_000, alone=4_000)
QUICK = Effort(rounds=3, queries=6_000, alone=2_000)


@dataclass(frozen=True)
class Case:
    """One way to ask one thing. encode: numbers as messages, `numbers` in each. asked: numbers in one run."""

    name: str
    way: str
    ask: Ask
    dialect: str
    encode: Callable[[list[str]], list[bytes]]
    numbers: int
    asked: int


@dataclass
class Runs:
    """What the rounds gave, one value a round. CPU in ns a message, latency in ns."""

    cpu: list[float] = field(default_factory=list)
    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    lost: int = 0

    def add(self, cpu_ns: float, asked: Asked) -> None:
        """One round."""
        self.cpu.append(cpu_ns)
        self.lost += asked.lost
        if asked.latency_ns:
            cuts = statistics.quantiles(asked.latency_ns, n=100)
            self.p50.append(cuts[49])
            self.p99.append(cuts[98])


@dataclass
class Compared:
    """A case, and what the echo and the daemon made of it."""

    case: Case
    theirs: Runs = field(default_factory=Runs)
    ours: Runs = field(default_factory=Runs)

    def cpu_ratio(self) -> Ratio:
        """A message of ours to the same message of the echo."""
        return ratio_of(self.ours.cpu, self.theirs.cpu, "echo")


def measure(dataset: Dataset, effort: Effort, server_core: int, client_core: int) -> list[Section]:
    """All cases in all rounds. Raises WrongAnswer before any figure if the daemon's answers are not right."""
    with open_engine(dataset) as (engine, reader):
        queries = draw_queries(engine, reader, effort.queries * (effort.rounds + 1))
    found = [Compared(case) for case in _cases(effort)]
    with (
        daemon(dataset.store, dataset.folder, server_core) as ours,
        echo(dataset.folder, server_core) as theirs,
        pinned(client_core),
    ):
        check_answers(ours, queries)
        _run_rounds(found, [str(tn) for tn in queries.tn], effort, theirs, ours)
    return _sections(found, effort)


# -- what is asked ---------------------------------------------------------------------------------------


def _cases(effort: Effort) -> list[Case]:
    singles = [
        Case(f"{dialect} over UDP", way, ask, dialect, encode, 1, effort.alone if way == ALONE else effort.queries)
        for dialect, encode in (("pdb", _pdb_messages), ("npq", _npq_messages))
        for way, ask in UDP_WAYS.items()
    ]
    datagrams, frames = f"{DATAGRAM_NUMBERS} numbers each", f"{FRAME_NUMBERS} numbers each"
    return [
        *singles,
        Case("npq over TCP", ONE_SOCKET, clients.pipelined, "npq", _npq_frames, 1, effort.queries),
        Case(
            f"npq over UDP, {datagrams}",
            ONE_SOCKET,
            clients.one_socket,
            "npq",
            _npq_datagrams,
            DATAGRAM_NUMBERS,
            effort.queries,
        ),
        Case(
            f"npq over TCP, {frames}",
            ALONE,
            clients.frame_by_frame,
            "npq",
            _npq_batch_frames,
            FRAME_NUMBERS,
            effort.queries,
        ),
    ]


def _pdb_messages(numbers: list[str]) -> list[bytes]:
    return [pdb.encode_query(number, at & 0xFFFF) for at, number in enumerate(numbers)]


def _npq_messages(numbers: list[str]) -> list[bytes]:
    return [npq.encode_query(at, number) for at, number in enumerate(numbers)]


def _npq_datagrams(numbers: list[str]) -> list[bytes]:
    return _batches(numbers, DATAGRAM_NUMBERS)


def _npq_frames(numbers: list[str]) -> list[bytes]:
    return [_frame(message) for message in _npq_messages(numbers)]


def _npq_batch_frames(numbers: list[str]) -> list[bytes]:
    return [_frame(message) for message in _batches(numbers, FRAME_NUMBERS)]


def _batches(numbers: list[str], size: int) -> list[bytes]:
    return [npq.encode_query(at, numbers[at : at + size]) for at in range(0, len(numbers), size)]


def _frame(message: bytes) -> bytes:
    return npq.FRAME_HEADER.pack(len(message)) + message


def check_answers(server: Server, queries: Queries) -> None:
    """Ask each dialect and look at the answers. Raises WrongAnswer."""
    numbers = [str(tn) for tn in queries.tn][:CHECKED]
    outcomes = [Outcome.PORTED if ported else Outcome.NOT_PORTED for ported in queries.ported][:CHECKED]
    found_pdb = clients.replies(("127.0.0.1", server.ports["pdb"]), [pdb.encode_query(n, 1) for n in numbers])
    codes = {pdb.decode_answer(reply).code for reply in found_pdb}
    if codes != {pdb.OK}:
        raise WrongAnswer(f"pdb: codes {sorted(codes)} for numbers that all have a network")
    messages = _batches(numbers, DATAGRAM_NUMBERS)
    found_npq = clients.replies(("127.0.0.1", server.ports["npq"]), messages)
    results = [result for reply in found_npq for result in npq.decode_answer(reply).results]
    if [result[0] for result in results] != outcomes:
        raise WrongAnswer("npq: outcomes are not those of the store, or an answer does not hold its whole batch")


# -- rounds ----------------------------------------------------------------------------------------------


def _run_rounds(found: list[Compared], numbers: list[str], effort: Effort, theirs: Server, ours: Server) -> None:
    """The echo and ours in turn, the other one first in each next round; the round before the first warms up."""
    for at in range(effort.rounds + 1):
        asked = numbers[at * effort.queries : (at + 1) * effort.queries]
        for each in found:
            messages = each.case.encode(asked[: each.case.asked])
            turns = [(theirs, "echo", each.theirs), (ours, each.case.dialect, each.ours)]
            for server, port, runs in turns if at % 2 else reversed(turns):
                cpu_ns, outcome = _run(server, ("127.0.0.1", server.ports[port]), each.case.ask, messages)
                if at:
                    runs.add(cpu_ns, outcome)


def _run(server: Server, address: Address, ask: Ask, messages: list[bytes]) -> tuple[float, Asked]:
    """CPU of the server in ns a message, and what the client saw."""
    before = server.cpu_ns()
    asked = ask(address, messages)
    return (server.cpu_ns() - before) / len(messages), asked


# -- figures ---------------------------------------------------------------------------------------------


def _sections(found: list[Compared], effort: Effort) -> list[Section]:
    singles = [each for each in found if each.case.numbers == 1]
    batches = [each for each in found if each.case.numbers > 1]
    lost = sum(each.theirs.lost + each.ours.lost for each in found)
    return [
        Section(
            "Server CPU",
            f"Sockets on loopback, one core for the server and one for the client. Ratios are to a bare uvloop echo "
            f"asked the same bytes in the same way: median and range of {effort.rounds} rounds. One socket has "
            f"{IN_FLIGHT} questions in flight, or {SOCKETS} sockets have one each, or there is one alone. The TCP "
            f"echo answers all frames of one read with one write. The client never sleeps, so waking it is no part of "
            f"what the server does; with one in flight, the server's own sleep and waking are most of it, which swings "
            f"with the kernel's idling and is not judged. Each round asks other numbers. "
            f"Questions that got no answer: {lost}.",
            [*map(_cpu_figure, singles), *(f for each in batches for f in _batch_figures(each, found))],
        ),
        Section(
            "Latency",
            "What the client waits with one question in flight, its own system calls included.",
            [figure for each in found if each.ours.p50 for figure in _latency_figures(each)],
        ),
    ]


def _cpu_figure(each: Compared) -> Figure:
    """With one in flight there is no aim: how the kernel idles and wakes decides, and changes between rounds."""
    ratio = each.cpu_ratio()
    figure = Figure(f"{each.case.name}, {each.case.way}", statistics.median(each.ours.cpu) / 1e3, "us/query", ratio)
    if "UDP" not in each.case.name or each.case.way == ALONE:
        return figure
    return msgspec.structs.replace(figure, aim=f"<= {RATIO_AIM:g} x echo", met=ratio.median <= RATIO_AIM)


def _single_beside(batch: Compared, found: list[Compared]) -> Compared:
    """The case that asks one number a message over the same transport."""
    transport = batch.case.name.partition(",")[0]
    return next(each for each in found if each.case.name == transport)


def _batch_figures(each: Compared, found: list[Compared]) -> list[Figure]:
    """A message against the echo of the same bytes, and a number against the echo of a message with one number."""
    case = each.case
    number_ns = [cpu / case.numbers for cpu in each.ours.cpu]
    single = _single_beside(each, found)
    to_single = ratio_of(number_ns, single.theirs.cpu, "echo of one")
    return [
        Figure(f"{case.name}, a message", statistics.median(each.ours.cpu) / 1e3, "us", each.cpu_ratio()),
        Figure(f"{case.name}, a number", statistics.median(number_ns) / 1e3, "us/query", to_single),
    ]


def _latency_figures(each: Compared) -> list[Figure]:
    """What the client waits with one in flight."""
    return [
        Figure(
            f"{each.case.name}, {name}",
            statistics.median(ours) / 1e3,
            "us",
            ratio_of(ours, theirs, "echo"),
        )
        for name, ours, theirs in (
            ("p50", each.ours.p50, each.theirs.p50),
            ("p99", each.ours.p99, each.theirs.p99),
        )
    ]
