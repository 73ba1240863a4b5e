"""Millions of messages answered by both engines: the same bytes, the same silences, the same counts, or a report.

    python -m tests.parity.differential --seed 1 --count 10000000

Messages come in chunks; a chunk has a scenario (dialect, store, plan, settings, clock, client) that follows from the
seed and the chunk's number alone. So a failure is run again by `--seed S --chunk N`, and `--hex H` with it asks one
message alone under that scenario. Each process has the stores twice, since LMDB must not open one in two libraries.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from lookupd import _native
from lookupd.access import Client
from lookupd.engine import Engine
from lookupd.fastpath.batch import NpqResponder, PdbResponder, Peer
from lookupd.fastpath.enum import EnumResponder
from lookupd.fastpath.native import NativeTap, native_rule
from lookupd.fastpath.sip import SipResponder
from lookupd.limits import NPQ_DATAGRAM_ANSWER_BYTES_MAX, NPQ_FRAME_BYTES_MAX
from lookupd.model import UnixSeconds
from lookupd.numbering import Plan
from lookupd.observe.counters import DIALECTS, QueryCounters
from lookupd.profiles import SipSettings
from lookupd.settings import ClientSettings, QueryLogSettings
from lookupd.store.reader import Reader
from lookupd.tap import Tap
from tests.parity import sip_messages
from tests.parity.enum_messages import PROFILES
from tests.parity.messages import Pool
from tests.parity.stores import CONFIRMED_AT, PLANS, build_stores, copy_stores

CHUNK = 20_000
MAP = 1 << 30
PEER: Peer = ("127.0.0.1", 5000)
NOBODY = ClientSettings("somebody else", ("192.0.2.0/24",))

NS = 1_000_000_000
CLOCK_STEPS_NS = (0, 0, 1, 999_999, NS // 1000, NS // 3, NS // 3 + 1, NS // 2, NS - 1, NS, 5 * NS)


SERVED = ("npq", "pdb", "enum", "sip")
"""Dialects that both engines serve."""

PEERS: dict[str, tuple[Peer, ...]] = {"npq": (PEER,), "pdb": (PEER,), "enum": (PEER,), "sip": sip_messages.PEERS}
"""Who asks."""

Reply = tuple[bytes | None, int]
"""None = silence; and the port that it goes to over UDP, 0 = the one that asked."""


class Scenario(msgspec.Struct, frozen=True):
    """Everything but the messages that answers depend on."""

    dialect: str
    store: str | None
    country: str
    stale_after: float
    now: int
    queries_per_second: int
    clock_ns: int
    legacy: bool
    unmapped_carrier_id: int
    answer_bytes_max: int
    tells_errors: bool
    """By the rules of TCP."""
    queries_per_prefix: int
    enum: str
    """Of `enum_messages.PROFILES`."""
    sip: SipSettings
    tag_seed: int
    sample: int
    """Of the query log; 0 = there is none."""
    only: tuple[str, ...]
    """Outcomes that it has; empty = all."""


def pick(rng: np.random.Generator, dialects: tuple[str, ...] = SERVED) -> Scenario:
    """Any of them; the usual ones are the most likely."""

    def one(*choices: Any) -> Any:
        return choices[int(rng.integers(len(choices)))]

    return Scenario(
        dialect=one(*dialects),
        store=one(*("rich",) * 10, *("wrapped",) * 4, "bare", None),
        country=one("886", "886", "886", *PLANS),
        stale_after=one(*(0.0,) * 8, 100.0, 0.5, 3600.5, 1e18),
        now=CONFIRMED_AT + one(0, 1, 42, 99, 100, 101, 3600, 70_000, 5_000_000_000, -1, -5000),
        queries_per_second=one(*(0,) * 12, 1, 3, 1000, 999_999_937),
        clock_ns=one(0, 1, NS, 86_400 * NS, 1 << 62, (1 << 64) - 30 * NS),
        legacy=one(True, True, False),
        unmapped_carrier_id=one(1000, 1, 32_767),
        answer_bytes_max=one(1, 12, 40, 100, 300, *(NPQ_DATAGRAM_ANSWER_BYTES_MAX,) * 3, *(NPQ_FRAME_BYTES_MAX,) * 2),
        tells_errors=one(False, True),
        queries_per_prefix=one(*(0,) * 8, 1, 5, 1000),
        enum=one(*PROFILES),
        sip=sip_messages.pick_settings(rng),
        tag_seed=one(0, 1, (1 << 64) - 1, 0x0123_4567_89AB_CDEF),
        sample=one(*(0,) * 6, 1, 7),
        only=one((), (), ("refused", "dropped"), ("ported",)),
    )


def native_plan(plan: Plan) -> _native.Plan:
    """As the native engine takes it."""
    return _native.Plan(plan.country_code, plan.trunk_prefix, plan.heads())


class Both:
    """The two engines under one scenario, asked the same things."""

    def __init__(self, scenario: Scenario, readers: dict[str, Reader], stores: dict[str, _native.Environment]) -> None:
        """readers: of py-lmdb. stores: the same data, opened natively."""
        plan = PLANS[scenario.country]
        settings = ClientSettings(
            "client",
            ("127.0.0.1/32",),
            queries_per_second=scenario.queries_per_second,
            queries_per_prefix=scenario.queries_per_prefix,
            enum=PROFILES[scenario.enum],
            sip=scenario.sip,
        )
        self.client = Client(settings, at=1)
        self.engine = Engine(plan, scenario.stale_after)
        self.engine.reader = readers[scenario.store] if scenario.store is not None else None
        if self.engine.reader is not None:
            self.engine.reader.damaged.clear()
        self.counters = QueryCounters(scenario.dialect, "tcp" if scenario.tells_errors else "udp")
        self.python: PdbResponder | EnumResponder | SipResponder | NpqResponder
        if scenario.dialect == "pdb":
            self.python = PdbResponder(
                self.engine, self.counters, legacy=scenario.legacy, unmapped_carrier_id=scenario.unmapped_carrier_id
            )
        elif scenario.dialect == "enum":
            self.python = EnumResponder(self.engine, self.counters, udp=not scenario.tells_errors)
        elif scenario.dialect == "sip":
            self.python = SipResponder(
                self.engine, self.counters, udp=not scenario.tells_errors, tag_seed=scenario.tag_seed
            )
        else:
            self.python = NpqResponder(
                self.engine,
                self.counters,
                answer_bytes_max=scenario.answer_bytes_max,
                tells_errors=scenario.tells_errors,
            )
        self.python.tap = self.tap = Tap()
        self.clients = _native.Clients([native_rule(one) for one in (NOBODY, settings)])
        store = stores[scenario.store] if scenario.store is not None else None
        self.service = _native.Service(store, native_plan(plan), scenario.stale_after, self.clients)
        self.native = _native.Responder(
            self.service,
            scenario.dialect,
            answer_bytes_max=scenario.answer_bytes_max,
            tells_errors=scenario.tells_errors,
            legacy=scenario.legacy,
            unmapped_carrier_id=scenario.unmapped_carrier_id,
            tag_seed=scenario.tag_seed,
        )

        self.native_tap = NativeTap(self.service)
        for tap in (self.tap, self.native_tap):
            tap.use(QueryLogSettings("file", sample=scenario.sample, numbers="full", outcomes=scenario.only))

    def begin(self, now: int) -> None:
        """A batch, at this second."""
        self.engine.begin(UnixSeconds(now))
        self.native.begin(now)

    def ask(self, messages: list[bytes], now_ns: int, peer: Peer = PEER) -> tuple[list[Reply], list[Reply]]:
        """Python's replies and native ones."""
        python, native, client = self.python, self.native, self.client
        ours: list[Reply] = []
        for message in messages:
            reply = python.respond(message, client, now_ns, peer)
            ours.append((reply, python.reply_port if reply is not None else 0))
        python.settle()
        if python.counters.dialect != "sip":
            return ours, [(reply, 0) for reply in native.respond_many(messages, 1, now_ns, peer[0], peer[1])]
        theirs = [(native.respond(message, 1, now_ns, peer[0], peer[1]), native.reply_port()) for message in messages]
        return ours, theirs

    def noted(self) -> tuple[list[bytes], list[bytes]]:
        """What each has for the query log since the last time, without times. The batch is over."""
        self.native.rest()
        ours, theirs = (tap.drain()[0].splitlines() for tap in (self.tap, self.native_tap))
        if self.tap.lost() or self.native_tap.lost():
            return [], []  # a queue was full: which ones are lost is not the same
        return sorted(map(_without_time, ours)), sorted(map(_without_time, theirs))

    def counts(self) -> tuple[dict[str, object], dict[str, object]]:
        """What each has counted."""
        ours, theirs, reader = self.counters, self.native.counts(), self.engine.reader
        dialect = DIALECTS.index(ours.dialect)
        return (
            {
                "received": ours.received,
                "odd": ours.odd,
                "other": ours.other,
                "answered": ours.answered,
                "refused": ours.refused,
                "dropped": ours.dropped,
                "unreadable": self.engine.unreadable_total,
                "damaged": sorted(reader.damaged) if reader is not None else [],
                "usage": self.client.usage[ours.dialect],
                "balance": 0,
            },
            {
                "received": theirs.received,
                "odd": theirs.odd,
                "other": theirs.other,
                "answered": theirs.answered,
                "refused": theirs.refused,
                "dropped": theirs.dropped,
                "unreadable": theirs.unreadable,
                "damaged": sorted(self.service.damaged_blocks(reader.state.serial)) if reader is not None else [],
                "usage": self.clients.usage()[1][dialect],
                "balance": theirs.received
                - theirs.other
                - sum(theirs.answered)
                - sum(theirs.refused)
                - sum(theirs.dropped),
            },
        )


class Opened:
    """The stores in both libraries, and the pools, of one process."""

    def __init__(self, folder: Path, seed: int, dialects: tuple[str, ...] = SERVED) -> None:
        """folder: as `prepare` left it. dialects: to pick from."""
        self.seed = seed
        self.dialects = dialects
        self.readers = {path.name: Reader(path, map_size=MAP) for path in sorted((folder / "python").iterdir())}
        self.stores = {path.name: _native.Environment(str(path), MAP) for path in sorted((folder / "native").iterdir())}
        self.pools = {dialect: Pool(dialect, seed) for dialect in dialects}

    def both(self, scenario: Scenario) -> Both:
        """Under a scenario, with nothing asked yet."""
        return Both(scenario, self.readers, self.stores)

    def run_chunk(self, chunk: int, count: int = CHUNK) -> tuple[int, str | None]:
        """Ask a chunk's messages: how many queries they were, and the first difference, if any."""
        rng = np.random.default_rng([self.seed, chunk])
        scenario = pick(rng, self.dialects)
        both = self.both(scenario)
        messages = self.pools[scenario.dialect].take(rng, count)
        for now, now_ns, peer, batch in batches(rng, scenario, messages):
            both.begin(now)
            ours, theirs = both.ask(batch, now_ns, peer)
            if ours != theirs:
                found = next(
                    f"asked {message.hex()} by {peer}\npython {shown(one)}\nnative {shown(other)}\n"
                    f"now {now}, clock {now_ns} ns"
                    for message, one, other in zip(batch, ours, theirs, strict=True)
                    if one != other
                )
                return both.counters.received, self.report(scenario, chunk, found)
            if scenario.sample:
                noted, theirs_noted = both.noted()
                if noted != theirs_noted:
                    found = (
                        f"query log\npython {set(noted) - set(theirs_noted)}\nnative {set(theirs_noted) - set(noted)}"
                    )
                    return both.counters.received, self.report(scenario, chunk, found)
        ours_counted, theirs_counted = both.counts()
        if ours_counted != theirs_counted:
            found = "\n".join(
                f"{name}: python {value}, native {theirs_counted[name]}"
                for name, value in ours_counted.items()
                if value != theirs_counted[name]
            )
            return both.counters.received, self.report(scenario, chunk, found)
        return both.counters.received, None

    def report(self, scenario: Scenario, chunk: int, found: str) -> str:
        """What is needed to see the same again."""
        only = "" if self.dialects == SERVED else f" --dialect {self.dialects[0]}"
        again = f"python -m tests.parity.differential --seed {self.seed}{only} --chunk {chunk}"
        return f"{scenario}\n{found}\nagain: {again} [--hex MESSAGE]"

    def close(self) -> None:
        """Close the stores."""
        for reader in self.readers.values():
            reader.close()
        for store in self.stores.values():
            store.close()


def batches(
    rng: np.random.Generator, scenario: Scenario, messages: list[bytes]
) -> Iterator[tuple[int, int, Peer, list[bytes]]]:
    """The messages in batches, each from one peer, the clocks going on between them."""
    peers = PEERS[scenario.dialect]
    now, now_ns, at = scenario.now, scenario.clock_ns, 0
    while at < len(messages):
        size = int(rng.choice((1, 7, 32, 200, 1000)))
        peer = peers[int(rng.integers(len(peers)))]
        yield now, min(now_ns, (1 << 64) - 1), peer, messages[at : at + size]
        at += size
        now_ns += int(rng.choice(CLOCK_STEPS_NS))
        now += int(rng.choice((0, 0, 0, 1, 1000)))


def _without_time(line: bytes) -> bytes:
    return line[line.index(b',"client":') :]


def shown(reply: Reply) -> str:
    """For people."""
    message, port = reply
    text = "silence" if message is None else message.hex()
    return f"{text} to port {port}" if port else text


def prepare(folder: Path, seed: int) -> None:
    """The stores, once for each library."""
    stores = build_stores(folder / "made", seed)
    for library in ("python", "native"):
        copy_stores(stores, folder / library)


def work(
    folder: Path, seed: int, first: int, step: int, count: int, dialects: tuple[str, ...]
) -> tuple[int, int, list[str]]:
    """Every step-th chunk of the messages; messages, queries, and reports of differences: at most three."""
    opened = Opened(folder, seed, dialects)
    asked, queries, reports = 0, 0, []
    for chunk in range(first, -(-count // CHUNK), step):
        received, report = opened.run_chunk(chunk)
        asked += CHUNK
        queries += received
        if report is not None:
            reports.append(report)
            if len(reports) == 3:
                break
    opened.close()
    return asked, queries, reports


def run(seed: int, count: int, processes: int, dialects: tuple[str, ...] = SERVED) -> tuple[int, int, list[str]]:
    """All of it, by so many processes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, seed)
        # Spawned: a forked child would share the parent's LMDB.
        with multiprocessing.get_context("spawn").Pool(processes) as pool:
            parts = pool.starmap(work, [(folder, seed, at, processes, count, dialects) for at in range(processes)])
    return sum(part[0] for part in parts), sum(part[1] for part in parts), [one for part in parts for one in part[2]]


def run_one(seed: int, chunk: int, message: bytes | None, dialects: tuple[str, ...]) -> str | None:
    """A chunk, or one message under its scenario; the difference, if there is one."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, seed)
        opened = Opened(folder, seed, dialects)
        if message is None:
            report = opened.run_chunk(chunk)[1]
        else:
            scenario = pick(np.random.default_rng([seed, chunk]), dialects)
            both = opened.both(scenario)
            both.begin(scenario.now)
            (ours,), (theirs,) = both.ask([message], scenario.clock_ns)
            report = f"{scenario}\npython {shown(ours)}\nnative {shown(theirs)}"
            print(report)
            report = None if ours == theirs and both.counts()[0] == both.counts()[1] else report
        opened.close()
    return report


def main(arguments: list[str] | None = None) -> int:
    """0 when there was no difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=int(time.strftime("%Y%m%d")))
    parser.add_argument("--count", type=int, default=10_000_000)
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--chunk", type=int)
    parser.add_argument("--hex", type=bytes.fromhex)
    parser.add_argument("--dialect", choices=SERVED, help="this one alone")
    options = parser.parse_args(arguments)
    dialects = SERVED if options.dialect is None else (options.dialect,)
    if options.chunk is not None:
        report = run_one(options.seed, options.chunk, options.hex, dialects)
        print(report or "no difference")
        return int(report is not None)
    began = time.monotonic()
    asked, queries, reports = run(options.seed, options.count, options.processes, dialects)
    for report in reports:
        print(report)
    took = time.monotonic() - began
    print(f"seed {options.seed}: {asked} messages, {queries} queries, {len(reports)} differences, {took:.0f} s")
    return int(bool(reports))


if __name__ == "__main__":
    sys.exit(main())
