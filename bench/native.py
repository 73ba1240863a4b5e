"""The budget's cases: server CPU of a query, against the bare native echo asked by the same client in the same round.

Then what one core carries, how long an answer takes at half of that, memory and the start. The table's words are
here; what the ratios may be is in `budget.toml`.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from bench.asking import MANY_SOCKETS, ONE_SOCKET, SEGMENTED, Asker, Way
from bench.budget import Budget
from bench.dataset import Dataset, Queries, draw_queries, open_engine
from bench.figures import QUERY_UNIT, Figure, Section
from bench.load import check_answers
from bench.processes import Server, daemon, native_echo, pinned
from bench.rounds import Run, Samples, cpu_figure, run_rounds

WAYS = {"many_sockets": MANY_SOCKETS, "one_socket": ONE_SOCKET, "segmented": SEGMENTED}
YARDSTICK = {"many_sockets": "many_sockets", "one_socket": "one_socket", "segmented": "one_socket"}
"""How the echo is asked, by how the daemon is: it has plain sockets only, so never in segments."""

DIALECTS: tuple[Literal["pdb"], Literal["npq"]] = ("pdb", "npq")
FULL_LOAD = Way("64 sockets, 8 in flight each", 64, 8)
HALF_LOAD = Way("64 sockets", 64, 1024)
"""With an open loop the window only bounds what is kept in mind; nothing waits for it."""

COST_TITLE = "Cost of a query"
SMALL_NUMBERS = 1_000_000
QUERIES = 400_000
QUANTILES = {"p50": "p50", "p99": "p99", "p99.9": "p99_9"}


@dataclass(frozen=True)
class Effort:
    """How much is asked. seconds: of one run of a case; steady_seconds: of a run that tells latency."""

    rounds: int
    seconds: float
    steady_rounds: int
    steady_seconds: float


FULL = Effort(rounds=11, seconds=0.4, steady_rounds=5, steady_seconds=2.0)
QUICK = Effort(rounds=3, seconds=0.2, steady_rounds=2, steady_seconds=0.5)


@dataclass(frozen=True)
class Stores:
    """What is served: the run's numbers, few numbers, and many numbers (the run's own, or 100 million)."""

    main: Dataset
    small: Dataset
    large: Dataset


@dataclass(frozen=True)
class Servers:
    """All on one core; who is not asked sleeps. main and python serve the same store; large may be main."""

    echo: Server
    main: Server
    small: Server
    large: Server
    python: Server


def measure(stores: Stores, effort: Effort, budget: Budget, server_core: int, client_core: int) -> list[Section]:
    """All of it. Raises ChildFailed when a server does not come up or does not answer, WrongAnswer when it lies."""
    files = {name: write_numbers(data) for name, data in vars(stores).items()}
    with _servers(stores, server_core) as servers, pinned(client_core):
        for server in (servers.main, servers.python):
            check_answers(server, files["main"].queries)
        samples = run_rounds(_runs(servers, files, effort), effort.rounds)
        steady = _steady(Asker(servers.main.ports["pdb"], "pdb", files["main"].path), servers.main, effort)
        memory = _memory(servers.main)
    return [
        Section(COST_TITLE, _note(stores, effort, samples), _cost_figures(samples, budget, stores)),
        Section(
            "One core",
            f"`pdb` on one core of the server, the client on another: the rate with {FULL_LOAD.name}, then the latency "
            f"at half of it, from the moment at which a query was due (open loop, {HALF_LOAD.name}): median of "
            f"{effort.steady_rounds} runs of {effort.steady_seconds:g} s. Memory after that.",
            [*steady, *memory],
        ),
    ]


@contextlib.contextmanager
def _servers(stores: Stores, core: int) -> Iterator[Servers]:
    folder = stores.main.folder
    with contextlib.ExitStack() as stack:
        start = stack.enter_context
        main = start(daemon(stores.main.store, folder, core, "native"))
        small = start(daemon(stores.small.store, stores.small.folder, core, "native")) if _differ(stores) else main
        has_other = stores.large != stores.main
        large = start(daemon(stores.large.store, stores.large.folder, core, "native")) if has_other else main
        python = start(daemon(stores.main.store, folder, core, "python"))
        yield Servers(start(native_echo(folder, core)), main, small, large, python)


def _differ(stores: Stores) -> bool:
    return stores.small != stores.main


# -- what is asked ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Numbers:
    """Numbers of a store to ask, half of them ported, and the file that the load tool reads them from."""

    path: Path
    queries: Queries


@cache
def write_numbers(dataset: Dataset) -> Numbers:
    """The same for the same store; the file lies beside it. Drawn once in a process: it takes seconds."""
    with open_engine(dataset) as (engine, reader):
        queries = draw_queries(engine, reader, QUERIES)
    path = dataset.folder / "numbers.txt"
    path.write_text("".join(f"{tn}\n" for tn in queries.tn))
    return Numbers(path, queries)


def _runs(servers: Servers, files: dict[str, Numbers], effort: Effort) -> dict[str, Run]:
    """By `server dialect way`; what is compared stands side by side."""

    def run(server: Server, port: str, dialect: Literal["pdb", "npq"], way: str, numbers: Numbers) -> Run:
        asker = Asker(server.ports[port], dialect, numbers.path, port == "echo")
        return Run(server, lambda: asker.ask(WAYS[way], effort.seconds))

    found: dict[str, Run] = {}
    numbers = files["main"]
    for dialect in DIALECTS:
        for way, theirs in YARDSTICK.items():
            if way == theirs:
                found[f"echo {dialect} {way}"] = run(servers.echo, "echo", dialect, way, numbers)
                found[f"python {dialect} {way}"] = run(servers.python, dialect, dialect, way, numbers)
            found[f"native {dialect} {way}"] = run(servers.main, dialect, dialect, way, numbers)
    found["large pdb segmented"] = run(servers.large, "pdb", "pdb", "segmented", files["large"])
    found["small pdb segmented"] = run(servers.small, "pdb", "pdb", "segmented", files["small"])
    return found


# -- figures ---------------------------------------------------------------------------------------------


def _note(stores: Stores, effort: Effort, samples: dict[str, Samples]) -> str:
    return (
        f"Server CPU of a query over UDP, {stores.main.numbers:,} ported numbers, half of the numbers asked are "
        f"ported; loopback, one core for all servers, another for the client. Ratios are to a bare echo (recvmmsg and "
        f"sendmmsg on plain sockets) that the same load tool asks the same bytes in the same round, in the same way, "
        f"but never in segments: a client that sends in segments is held against the echo of plain sends. Median and "
        f"range of {effort.rounds} rounds of {effort.seconds:g} s a case. Questions that got no answer: "
        f"{sum(each.lost for each in samples.values()):,}."
    )


def _cost_figures(samples: dict[str, Samples], budget: Budget, stores: Stores) -> list[Figure]:
    found = [
        Figure(f"bare echo, pdb, {WAYS[way].name}", samples[f"echo pdb {way}"].us, QUERY_UNIT)
        for way in ("many_sockets", "one_socket")
    ]
    for dialect in DIALECTS:
        for way, theirs in YARDSTICK.items():
            echo = samples[f"echo {dialect} {theirs}"]
            figure = cpu_figure(f"{dialect}, {WAYS[way].name}", samples[f"native {dialect} {way}"], echo)
            found.append(budget.hold(figure, f"query.{way}") if dialect == "pdb" else figure)
    for way in ("many_sockets", "one_socket"):
        ours, echo = samples[f"python pdb {way}"], samples[f"echo pdb {way}"]
        found.append(cpu_figure(f"Python path, pdb, {WAYS[way].name}", ours, echo))
    large, small = samples["large pdb segmented"], samples["small pdb segmented"]
    name = f"pdb, {SEGMENTED.name}, at {stores.large.numbers:,} numbers"
    grown = Figure(name, large.us, QUERY_UNIT, large.to(small, f"{stores.small.numbers:,} numbers"))
    return [*found, budget.hold(grown, "growth.segmented")]


def _steady(asker: Asker, server: Server, effort: Effort) -> list[Figure]:
    """The most that one core carries, and the latency at half of it."""
    full = run_rounds({"": Run(server, lambda: asker.ask(FULL_LOAD, effort.steady_seconds))}, effort.steady_rounds)[""]
    rate = statistics.median(full.per_second)
    reports = [asker.report(HALF_LOAD, effort.steady_seconds, rate / 2) for _ in range(effort.steady_rounds)]
    waited = [report.latency_ns for report in reports if report.latency_ns is not None]
    return [
        Figure("queries answered, as many as come", rate, "/s"),
        Figure("busy with that, of the server's core", 100 * statistics.median(full.busy), "%"),
        *(
            Figure(f"{name} at half of that", statistics.median(getattr(told, key) for told in waited) / 1e3, "us")
            for name, key in QUANTILES.items()
        ),
        Figure("answered at half of that", statistics.median(r.received_per_second for r in reports), "/s"),
        Figure("lost at half of that", sum(r.lost for r in reports), ""),
        Figure("the client late by itself, at most", max(r.behind_ns_max for r in reports) / 1e3, "us"),
    ]


def _memory(server: Server) -> list[Figure]:
    own, mapped = server.resident_bytes()
    return [
        Figure("memory of the daemon's own", own / 1e6, "MB"),
        Figure("files it has mapped and touched, the store's pages mostly", mapped / 1e6, "MB"),
        Figure("daemon from start to ready", server.start_seconds, "s"),
    ]
