"""What a kept run says, as Markdown tables by name: the ones of docs/scale.md. Computes shares and limits only."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence

import msgspec

from bench.machine import Machine
from bench.scale.capacity import BATCH, DIALECTS, LOAD_RATE, START, Capacity, per_core
from bench.scale.costs import Costs
from bench.scale.demand import Country, Demand
from bench.scale.fleet import CatchUp, Delay
from lookupd.limits import STORE_READERS_MAX
from lookupd.settings import StoreSettings
from lookupd.store.schema import NUMBERS_PER_BLOCK, ROUTE_MASK

SERVERS = (1, 3)
REPLICAS = (2, 5, 10, 30, 100, 300, 1000)
AWAY = {"10 min": 600.0, "1 h": 3600.0, "1 day": 86_400.0}
MANY = 1000
LARGE_DELTA = 10_000


class Simulated(msgspec.Struct, frozen=True):
    """One country's fleet. catch_ups: with three servers and MANY replicas, as AWAY."""

    country: str
    delays: list[Delay]
    catch_ups: list[CatchUp]


class Result(msgspec.Struct, frozen=True):
    """One run: what was assumed, what was measured, what came out. figures: of other results, by name."""

    made_at: str
    quick: bool
    seed: int
    machine: Machine
    demand: Demand
    costs: Costs
    figures: dict[str, float]
    capacities: list[Capacity]
    simulated: list[Simulated]


def tables(result: Result) -> dict[str, str]:
    """All of them, by name."""
    return {
        "core": _core(result),
        "country": _country(result),
        "replica-costs": _replica_costs(result.costs),
        "engine-costs": _engine_costs(result.costs),
        "feed": _feed(result),
        "delay": _delay(result),
        "catch-up": _catch_up(result),
        "limits": _limits(result),
        "bounds": _bounds(result),
    }


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def count(value: float) -> str:
    """Three digits that count, with separators, and no more exact than that."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = 2 - len(str(int(abs(value)))) + 1
    return f"{value:.3g}" if abs(value) < 100 else f"{round(value, min(0, digits)):,.0f}"


def _bytes(value: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g} B"


def _ms(seconds: float) -> str:
    return f"{count(1e3 * seconds)} ms"


def _seconds(seconds: float) -> str:
    if seconds == float("inf"):
        return "never"
    return f"{seconds / 60:.1f} min" if seconds >= 120 else f"{seconds:.1f} s"


# -- queries ---------------------------------------------------------------------------------------------


def _core(result: Result) -> str:
    """A core and a host by dialect, all that ask in the same way."""
    share, host = result.demand.reserve.used_share, result.demand.host
    rows = []
    for dialect, pair in {**DIALECTS, "npq over TCP, 1,000 numbers a frame": ("", BATCH)}.items():
        row = [dialect]
        for name in pair:
            each = per_core(result.figures, name, share) if name else 0.0
            one_loop = "Python" in dialect or "TCP" in dialect  # of the daemon: one core, whatever the host has
            of_host = "" if one_loop else count(host.query_cores * each)
            row += (f"{result.figures[name]:.3g} us", count(each), of_host) if name else ("",) * 3
        rows.append(row)
    columns = ("CPU", f"a second at {share:.0%} of a core", f"of {host.query_cores} cores")
    kinds = ("nothing joined", "joined")
    return _table(["", *(f"{kind}: {column}" for kind in kinds for column in columns)], rows)


def _country(result: Result) -> str:
    """A country's queries, memory and disk."""
    demand = result.demand
    own = {country.name: country for country in demand.countries}
    found = result.capacities
    rows = [
        ["ported numbers in a store", *(count(each.ported) for each in found)],
        ["calls and messages in the busiest seconds, dips/s", *(count(each.dips_per_second) for each in found)],
        *([f"cores for that, {dialect}", *(f"{each.cores[dialect]:.1f}" for each in found)] for dialect in DIALECTS),
        [
            "a platform's list, numbers",
            *(f"{count(own[each.country].batch_numbers)} in {own[each.country].batch_minutes:g} min" for each in found),
        ],
        ["numbers/s of it", *(count(each.batch_per_second) for each in found)],
        ["cores for it, npq over TCP", *(f"{each.batch_cores:.2f}" for each in found)],
        [
            f"hosts, {demand.host.cores} cores ({demand.host.query_cores} answer): one more than needed, two at least",
            *(str(each.replicas) for each in found),
        ],
        ["busy cores of all that answer, in the busiest seconds", *(f"{each.busy_share:.0%}" for each in found)],
        ["memory of a replica, all pages touched", *(_bytes(each.memory_bytes) for each in found)],
        ["of it, what queries read", *(_bytes(each.hot_bytes) for each in found)],
        ["disk of a replica", *(_bytes(each.disk_bytes) for each in found)],
        [
            "of it, the journal",
            *(f"{_bytes(each.journal_bytes)} in {own[each.country].history_days} days" for each in found),
        ],
    ]
    return _table(["", *(each.country for each in found)], rows)


# -- costs -----------------------------------------------------------------------------------------------


def _replica_costs(costs: Costs) -> str:
    """What was measured of a replica."""
    rows = [
        [
            count(each.notices),
            _ms(each.check_cpu),
            _ms(each.apply_cpu),
            _ms(each.apply_seconds),
            _ms(each.sync_cpu),
            _ms(each.sync_seconds),
            count(each.notices / each.sync_seconds),
            _bytes(each.bytes),
            f"{count(each.bytes / each.notices)} B",
            f"{count(each.plain_bytes / each.notices)} B",
        ]
        for each in costs.replica.applied
    ]
    headings = ["notices", "check, CPU", "transaction, CPU", "transaction", "sync, CPU", "sync, all of it"]
    return _table([*headings, "notices/s", "message", "a notice of it", "plain"], rows)


def _engine_costs(costs: Costs) -> str:
    """What was measured of the engine."""
    rows = [
        [
            str(each.servers),
            _bytes(each.bytes),
            _ms(each.ack[50]),
            _ms(each.ack[99]),
            f"{1e6 * each.publish_cpu:.3g} us",
            f"{1e6 * each.deliver_cpu:.3g} us",
        ]
        for each in costs.engine.delivered
    ]
    sync = costs.engine.sync
    rows.append(["fsync of a page", "4.1 kB", _ms(sync[50]), _ms(sync[99]), "", ""])
    headings = ["servers", "message", "acknowledged, p50", "p99", "CPU of a publish, all servers"]
    return _table([*headings, "CPU of a delivery, all servers"], rows)


# -- the feed --------------------------------------------------------------------------------------------


def _feed(result: Result) -> str:
    """How notices come, and what leaves the engine for it."""
    demand, costs = result.demand, result.costs
    names, rows = [country.name for country in demand.countries], []
    notices = [_delta_notices(country, demand) for country in demand.countries]
    rows.append(["notices on the busy day", *(count(country.notices_on_busy_day) for country in demand.countries)])
    a_second = [country.notices_per_second(demand.feed) for country in demand.countries]
    rows.append(["notices/s in its busy hour", *(count(value) for value in a_second)])
    rows.append([f"of a delta, every {demand.feed.delta_seconds:g} s", *(count(value) for value in notices)])
    sizes = [costs.replica.message.at(value) for value in notices]
    rows.append(["its message", *(_bytes(value) for value in sizes)])
    rows.append(
        ["a replica busy with it, of the time", *(f"{_busy(result, value):.2%}" for value in notices)],
    )
    rows.append(
        [
            "CPU of a replica for it, of a core",
            *(f"{costs.replica.cpu.at(value) / demand.feed.delta_seconds:.2%}" for value in notices),
        ]
    )
    for servers in SERVERS:
        out = [_egress(size, demand, servers) * MANY / servers for size in sizes]
        rows.append(
            [f"out of a server, {servers} in all, {MANY:,} replicas", *(f"{8 * value / 1e6:.3g} Mb/s" for value in out)]
        )
    return _table(["", *names], rows)


def _delta_notices(country: Country, demand: Demand) -> float:
    """Of a delta in the busy hour."""
    return country.notices_per_second(demand.feed) * demand.feed.delta_seconds


def _busy(result: Result, notices: float) -> float:
    return result.costs.replica.seconds.at(notices) / result.demand.feed.delta_seconds


def _egress(size: float, demand: Demand, servers: int) -> float:
    """Bytes a second for one replica, on all servers' links together."""
    return size * (1.0 + (servers - 1) / servers) / demand.feed.delta_seconds


def _delay(result: Result) -> str:
    """Publish to visible, by the number of replicas."""
    rows = []
    for simulated in result.simulated:
        for one in REPLICAS:
            row = [simulated.country, f"{one:,}"]
            for servers in SERVERS:
                delay = next(each for each in simulated.delays if (each.replicas, each.servers) == (one, servers))
                row += [count(value) for value in (delay.median, delay.slowest_p50, delay.slowest_p99)]
            rows.append(row)
    kinds = ("median replica, p50", "slowest, p50", "slowest, p99")
    return _table(
        [
            "",
            "replicas",
            *(f"{servers} server{'s' * (servers > 1)}: {kind}, ms" for servers in SERVERS for kind in kinds),
        ],
        rows,
    )


def _catch_up(result: Result) -> str:
    """After having been away, and from nothing."""
    rows = []
    for simulated, country in zip(result.simulated, result.demand.countries, strict=True):
        for name, each in zip(AWAY, simulated.catch_ups, strict=True):
            rows.append([simulated.country, name, count(each.notices), _seconds(each.one), _seconds(each.all)])
        one, every = (_from_nothing(result, country, replicas) for replicas in (1, MANY))
        rows.append(
            [simulated.country, "no store: a snapshot", f"{_bytes(_snapshot_bytes(result, country))}", one, every]
        )
    return _table(["", "away for", "missed notices", "one replica", f"all {MANY:,} at once"], rows)


def _snapshot_bytes(result: Result, country: Country) -> float:
    return country.ported * result.costs.replica.snapshot_bytes


def _from_nothing(result: Result, country: Country, replicas: int) -> str:
    """Fetched over the files' server's link, which all share, loaded, and the daemon started on it."""
    fetched = replicas * _snapshot_bytes(result, country) / result.demand.network.link_bytes
    return _seconds(fetched + country.ported / (1e6 * result.figures[LOAD_RATE]) + result.figures[START])


# -- limits ----------------------------------------------------------------------------------------------


def _limits(result: Result) -> str:
    """What gives way first, each alone, at the deltas of the busy hour."""
    demand, costs = result.demand, result.costs
    seconds, cpu = costs.replica.seconds, costs.replica.cpu
    names = [country.name for country in demand.countries]
    notices = [_delta_notices(country, demand) for country in demand.countries]
    sizes = [costs.replica.message.at(value) for value in notices]
    rows = [
        ["a replica's store: notices/s in such deltas", *(count(value / seconds.at(value)) for value in notices)],
        [f"the same in deltas of {LARGE_DELTA:,}", *([count(LARGE_DELTA / seconds.at(LARGE_DELTA))] * len(names))],
        ["a replica's core: notices/s in such deltas", *(count(value / cpu.at(value)) for value in notices)],
        ["deltas/s of a replica, however small", *([count(1 / seconds.at(1))] * len(names))],
    ]
    for servers in SERVERS:
        ack = min(costs.engine.of(servers), key=lambda each: each.bytes).ack
        each = statistics.mean(ack) + statistics.mean(costs.engine.sync)
        if servers > 1:
            each += demand.network.copy_ms / 1e3
        rows.append([f"the relay: deltas/s, {servers} server{'s' * (servers > 1)}", *([count(1 / each)] * len(names))])
    for servers in SERVERS:
        links = [servers * demand.network.link_bytes / _egress(size, demand, servers) for size in sizes]
        rows.append(
            [f"links, {servers} x {demand.network.link_gbps:g} Gb/s: replicas", *(count(value) for value in links)]
        )
        deliver = costs.engine.deliver_cpu(servers)
        cores = [servers * demand.feed.delta_seconds / deliver.at(size) for size in sizes]
        rows.append([f"a core of a server, {servers} in all: replicas", *(count(value) for value in cores)])
    return _table(["each limit alone, in the busy hour", *names], rows)


def _bounds(result: Result) -> str:
    """What the layout bounds."""
    map_size = int(StoreSettings().map_size)
    disk = result.capacities[0]
    each = (disk.disk_bytes - disk.journal_bytes) / disk.ported
    rows = [
        ["routes of a store (network and routing number)", f"{ROUTE_MASK:,}", "15 bits of a u16 a number"],
        [
            "numbers of a store at the default `store.map_size`",
            count(map_size / each),
            f"{_bytes(map_size)} of map, {each:.3g} B a number, without a journal",
        ],
        [
            "entries of the journal in the same",
            count(map_size / result.costs.replica.journal_bytes),
            f"{result.costs.replica.journal_bytes:.3g} B an entry",
        ],
        ["processes and threads that read one store", f"{STORE_READERS_MAX:,}", "LMDB's reader table"],
        ["numbers of a block", f"{NUMBERS_PER_BLOCK:,}", "two blocks share a page: a write copies it"],
    ]
    return _table(["bound", "value", "from"], rows)
