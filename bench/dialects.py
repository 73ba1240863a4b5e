"""ENUM and SIP beside Debian's servers of the same: server CPU of a query, and memory of a number.

Knot DNS and NSD serve the numbers as one zone, our daemon from its store, and dnsperf asks all three alike; Kamailio
redirects statelessly, and our load tool asks it and us. One core for the servers, another for the client. What the
aims are is in `budget.toml`.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec

from bench import enum_zone, redirector
from bench.asking import MANY_SOCKETS, ONE_SOCKET, SEGMENTED, Asker, Way
from bench.budget import Budget
from bench.dataset import Dataset, open_engine
from bench.enum_zone import Dnsperf
from bench.figures import QUERY_UNIT, Figure, Section
from bench.native import Numbers, Stores, write_numbers
from bench.processes import Server, daemon, find, native_echo, pinned
from bench.rounds import Run, Samples, cpu_figure, run_rounds

TITLES = ("ENUM", "SIP redirect")
ENUM = ("enum",)
SIP = ("sip",)
PROFILES = '[enum]\nunported = "unknown"\n'
"""As the zones have it: a number that was not ported has no name."""

DNS_SERVERS = {"knotd": "Knot DNS", "nsd": "NSD"}
DNS_WAYS = (MANY_SOCKETS, ONE_SOCKET)
TOOL_WAYS = (ONE_SOCKET, SEGMENTED)
SIP_WAYS = (MANY_SOCKETS, ONE_SOCKET, SEGMENTED)
BY_TOOL = " by lookupd bench, "
LARGER = ("main", "large")


@dataclass(frozen=True)
class Effort:
    """seconds: of a run of the load tool; dns_queries: of a run of dnsperf."""

    rounds: int
    seconds: float
    dns_queries: int


FULL = Effort(5, 0.5, 60_000)
QUICK = Effort(2, 0.2, 20_000)


def measure(stores: Stores, effort: Effort, budget: Budget, server_core: int, client_core: int) -> list[Section]:
    """Both. Raises ChildFailed when a server does not come up or answer, WrongAnswer when it lies."""
    return [
        _measure_enum(stores, effort, budget, server_core, client_core),
        _measure_sip(stores, effort, budget, server_core, client_core),
    ]


def missing() -> list[str]:
    """Programs that are not installed, so that nothing stands beside ours."""
    return [name for name in (*DNS_SERVERS, "dnsperf", "kamailio") if find(name) is None]


# -- ENUM ------------------------------------------------------------------------------------------------


def _measure_enum(stores: Stores, effort: Effort, budget: Budget, server_core: int, client_core: int) -> Section:
    dnsperf = find("dnsperf")
    if dnsperf is None:
        return Section(TITLES[0], "dnsperf is not installed, so nothing was measured.", [])
    with contextlib.ExitStack() as stack, tempfile.TemporaryDirectory(prefix="lookupd-enum-") as name:
        folder = Path(name)
        servers = dict(_dns_servers(stack, stores, folder, server_core))
        clients = {
            size: Dnsperf(dnsperf, _queries(getattr(stores, size), folder / size, effort))
            for size in ("small", "main", "large")
        }
        runs = {
            f"{server} {way.name}": _dns_run(each, clients[server if server in LARGER else "small"], way)
            for way in DNS_WAYS
            for server, each in servers.items()
        } | _tool_runs(servers, write_numbers(stores.small), effort)
        with pinned(client_core):
            samples = run_rounds(runs, effort.rounds)
        memory = {server: each.resident_bytes() for server, each in servers.items()}
    figures = [*_enum_figures(samples, stores, budget), *_memory_figures(memory, stores, budget)]
    return Section(TITLES[0], _enum_note(stores, effort, samples), figures)


def _dns_servers(stack: contextlib.ExitStack, stores: Stores, folder: Path, core: int) -> Iterator[tuple[str, Server]]:
    """The echo, the peers that are installed, and ours: few numbers, in Python too; the run's numbers; most."""
    start = stack.enter_context
    yield "echo", start(native_echo(folder, core))
    zone = enum_zone.write_zone(stores.small)
    for name in DNS_SERVERS:
        program = find(name)
        if program is not None:
            home = folder / name
            home.mkdir()
            yield name, start(enum_zone.dns_server(name, program, zone, home, core))
    yield "native", start(_ours(stores.small, folder / "native", core, "native", ENUM))
    yield "python", start(_ours(stores.small, folder / "python", core, "python", ENUM))
    if stores.main != stores.small:
        yield "main", start(_ours(stores.main, folder / "main", core, "native", ENUM))
    if stores.large not in (stores.main, stores.small):
        yield "large", start(_ours(stores.large, folder / "large", core, "native", ENUM))


def _ours(
    data: Dataset, folder: Path, core: int, engine: str, dialects: tuple[str, ...]
) -> contextlib.AbstractContextManager[Server]:
    folder.mkdir(exist_ok=True)
    return daemon(data.store, folder, core, engine, dialects, PROFILES)


def _queries(data: Dataset, folder: Path, effort: Effort) -> Path:
    folder.mkdir(exist_ok=True)
    return enum_zone.write_queries(write_numbers(data).queries, effort.dns_queries, folder)


def _dns_run(server: Server, client: Dnsperf, way: Way) -> Run:
    port = _port(server)
    return Run(server, lambda: client.ask(port, way.sockets, way.sockets * way.window))


def _tool_runs(servers: dict[str, Server], numbers: Numbers, effort: Effort) -> dict[str, Run]:
    """Ours and the peers by our own load tool, which can send in segments, beside the echo that is asked without."""
    found = {}
    for way in TOOL_WAYS:
        for name in ("echo", *DNS_SERVERS, "native"):
            if name in servers and not (name == "echo" and way.gso):
                asker = Asker(_port(servers[name]), "enum", numbers.path, name == "echo")
                found[f"{name}{BY_TOOL}{way.name}"] = Run(servers[name], partial(asker.ask, way, effort.seconds))
    return found


def _port(server: Server) -> int:
    """Where it is asked over UDP."""
    return next(port for name, port in server.ports.items() if name != "http")


def _enum_note(stores: Stores, effort: Effort, samples: dict[str, Samples]) -> str:
    absent = missing()
    return (
        f"Server CPU of a NAPTR query over UDP by dnsperf, half of the numbers asked are ported and the others are "
        f"answered NXDOMAIN; {stores.small.numbers:,} numbers as one zone for the peers, in the store for ours. The "
        f"echo is the bare native one, asked the same by dnsperf. Median and range of {effort.rounds} rounds of "
        f"{effort.dns_queries:,} queries. Questions that got no answer: "
        f"{sum(each.lost for each in samples.values()):,}. "
        + (f"Not installed, so not measured: {', '.join(absent)}." if absent else "All peers were installed.")
    )


def _enum_figures(samples: dict[str, Samples], stores: Stores, budget: Budget) -> list[Figure]:
    found: list[Figure] = []
    for way in DNS_WAYS:
        by_dnsperf = {name: each for name, each in samples.items() if BY_TOOL not in name and name.endswith(way.name)}
        by_server = {name.removesuffix(f" {way.name}"): each for name, each in by_dnsperf.items()}
        echo, ours = by_server["echo"], by_server["native"]
        found.append(Figure(f"bare echo by dnsperf, {way.name}", echo.us, QUERY_UNIT))
        found += _beside_peers(by_server, echo, way.name, budget)
        found.append(cpu_figure(f"Python path, enum, {way.name}", by_server["python"], echo))
        for size in ("main", "large"):
            if size in by_server:
                grown = by_server[size].to(ours, f"{stores.small.numbers:,} numbers")
                numbers = getattr(stores, size).numbers
                found.append(Figure(f"enum at {numbers:,} numbers, {way.name}", by_server[size].us, QUERY_UNIT, grown))
    for way in TOOL_WAYS:
        name = f"{BY_TOOL}{way.name}"
        echo = samples[f"echo{BY_TOOL}{ONE_SOCKET.name}"]
        by_server = {server.removesuffix(name): each for server, each in samples.items() if server.endswith(name)}
        if not way.gso:
            found.append(Figure(f"bare echo{name}", echo.us, QUERY_UNIT))
        found += _beside_peers(by_server, echo, name.removeprefix(" "), budget)
    return found


def _beside_peers(by_server: dict[str, Samples], echo: Samples, way: str, budget: Budget) -> list[Figure]:
    """The peers that are installed and ours beside the echo, ours beside the better one of them, and what is left of
    both when the echo's part, which nobody can avoid with plain sockets, is taken away."""
    ours = by_server["native"]
    peers = {name: each for name, each in by_server.items() if name in DNS_SERVERS}
    found = [cpu_figure(f"{DNS_SERVERS[name]}, {way}", each, echo) for name, each in peers.items()]
    found.append(cpu_figure(f"enum, {way}", ours, echo))
    if peers:
        better = min(peers, key=lambda name: peers[name].us)
        theirs, aim = peers[better], budget.aims.enum_of_better_peer
        ratio = ours.to(theirs, DNS_SERVERS[better])
        name, met = f"enum beside the better peer, {way}", ratio.median <= aim
        found.append(Figure(name, ours.us, QUERY_UNIT, ratio, aim=f"<= {aim:g} x", met=met))
        name = f"less the echo, where the peer has {theirs.us - echo.us:.2f}, {way}"
        found.append(Figure(name, ours.us - echo.us, "us"))
    return found


def _memory_figures(memory: dict[str, tuple[int, int]], stores: Stores, budget: Budget) -> list[Figure]:
    """Memory that grows with the numbers: of a peer all it has of its own; of ours own and mapped, from one size to
    the next, or with one size all of it."""
    numbers = stores.small.numbers
    peers = {name: memory[name][0] / numbers for name in DNS_SERVERS if name in memory}
    found = [Figure(f"memory a number, {DNS_SERVERS[name]}", each, "bytes") for name, each in peers.items()]
    sizes = {"native": stores.small, "main": stores.main, "large": stores.large}
    known = [(sizes[name].numbers, sum(memory[name])) for name in sizes if name in memory]
    (few, least), (many, most) = known[0], known[-1]
    ours = (most - least) / (many - few) if many > few else least / few
    aim = budget.aims.enum_memory_of_peer
    better = min(peers.values(), default=None)
    found.append(
        Figure(
            "memory a number, ours" + (f", from {few:,} to {many:,} numbers" if many > few else ""),
            ours,
            "bytes",
            aim=f"<= {aim:g} x the better peer's" if better else "",
            met=ours <= aim * better if better else None,
        )
    )
    largest = sizes[[name for name in sizes if name in memory][-1]]
    with open_engine(largest) as (_, reader):
        hot = reader.sizes()["blocks"] / largest.numbers
    found.append(Figure(f"of that, what queries read, at {largest.numbers:,} numbers", hot, "bytes"))
    return found


# -- SIP -------------------------------------------------------------------------------------------------


def _measure_sip(stores: Stores, effort: Effort, budget: Budget, server_core: int, client_core: int) -> Section:
    numbers = write_numbers(stores.small)
    with contextlib.ExitStack() as stack, tempfile.TemporaryDirectory(prefix="lookupd-sip-") as name:
        folder = Path(name)
        start = stack.enter_context
        servers = {
            "echo": start(native_echo(folder, server_core)),
            "native": start(_ours(stores.small, folder / "native", server_core, "native", SIP)),
            "python": start(_ours(stores.small, folder / "python", server_core, "python", SIP)),
        }
        kamailio = find("kamailio")
        if kamailio is not None:
            servers["kamailio"] = start(redirector.kamailio(kamailio, folder, server_core))
        runs = {
            f"{server} {way.name}": _sip_run(server, each, way, numbers, effort)
            for way in SIP_WAYS
            for server, each in servers.items()
            if not way.gso or server == "native"
        }
        with pinned(client_core):
            samples = run_rounds(runs, effort.rounds)
    note = (
        f"Server CPU of an INVITE over UDP, {stores.small.numbers:,} numbers, half of those asked are ported; "
        f"Kamailio, one worker, answers each with the same 302 and looks nothing up. Asked by `lookupd bench`, the "
        f"echo too. Median and range of {effort.rounds} rounds of {effort.seconds:g} s. Questions that got no answer: "
        f"{sum(each.lost for each in samples.values()):,}."
    )
    return Section(TITLES[1], note, _sip_figures(samples, budget))


def _sip_run(name: str, server: Server, way: Way, numbers: Numbers, effort: Effort) -> Run:
    asker = Asker(server.ports["echo" if name == "echo" else "sip"], "sip", numbers.path, is_echo=name == "echo")
    return Run(server, lambda: asker.ask(way, effort.seconds))


def _sip_figures(samples: dict[str, Samples], budget: Budget) -> list[Figure]:
    found: list[Figure] = []
    for way in SIP_WAYS:
        yardstick = samples[f"echo {ONE_SOCKET.name if way.gso else way.name}"]
        ours = samples[f"native {way.name}"]
        if not way.gso:
            found.append(Figure(f"bare echo, sip, {way.name}", yardstick.us, QUERY_UNIT))
        found.append(cpu_figure(f"sip, {way.name}", ours, yardstick))
        peer = samples.get(f"kamailio {way.name}")
        if peer is not None:
            found.append(cpu_figure(f"Kamailio, {way.name}", peer, yardstick))
            figure = Figure(f"sip beside Kamailio, {way.name}", ours.us, QUERY_UNIT, ours.to(peer, "Kamailio"))
            aim = budget.aims.sip_of_kamailio
            assert figure.ratio is not None
            found.append(msgspec.structs.replace(figure, aim=f"<= {aim:g} x", met=figure.ratio.median <= aim))
        if not way.gso:
            found.append(cpu_figure(f"Python path, sip, {way.name}", samples[f"python {way.name}"], yardstick))
    return found
