"""The clients of a run: each a program of its own and an asker in front of it, all at the same time."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.faults import programs
from bench.faults.askers import Row
from bench.faults.injections import Injection
from bench.faults.replicas import Replica, make_store
from bench.faults.sites import ADDRESSES, VIRTUAL, Network, network, wait_for
from bench.processes import ChildFailed

SETTLE_SECONDS = 1.0
"""Of the beginning of a run that is not looked at: sockets, caches, first imports."""

ASKER_SECONDS_MAX = 15.0
"""For an asker to start, and to wait for its last answers."""

MOVABLE_SECONDS_MAX = 30.0

PDB_PATIENCE_MS = 50
"""Kamailio's default, as on the page."""


@dataclass(frozen=True)
class Client:
    """name: on the command line. told: in the table. must: a question without an answer is a missed aim."""

    name: str
    told: str
    rate: float
    must: bool
    arguments: tuple[str, ...]


CLIENTS = (
    Client("pdb", "Kamailio `pdb`, both servers", 50, True,
           ("call", f"127.0.0.1:{programs.CARRIER_PORT}", "--expect", "carrier")),
    Client("library", "lookupd.client over UDP, both servers", 200, True,
           ("library", *(f"udp://{ADDRESSES[name]}:4700" for name in "ab"))),
    Client("library-tcp", "lookupd.client over TCP, both servers", 50, True,
           ("library", *(f"tcp://{ADDRESSES[name]}:4700" for name in "ab"))),
    Client("enum", "Unbound, both servers", 50, False, ("enum", f"127.0.0.1:{programs.RESOLVER_PORT}")),
    Client("sip", "Kamailio dispatcher, `a` first", 50, False,
           ("call", f"{ADDRESSES['client']}:{programs.REDIRECT_PORT}", "--gateway", str(programs.NEXT_HOP_PORT))),
)  # fmt: skip

AT_ADDRESS = Client("address", "one server, at the virtual address", 50, False,
                    ("library", f"udp://{VIRTUAL}:4700", "--timeout", "0.2"))  # fmt: skip


@dataclass(frozen=True)
class Timing:
    """Seconds before, during and after an injection."""

    quiet: float
    fire: float
    after: float

    @property
    def whole(self) -> float:
        """Of a run."""
        return SETTLE_SECONDS + self.quiet + self.fire + self.after


@dataclass(frozen=True)
class Run:
    """What became of one injection. begun, ended: of the fire; struck: when, in it; rows: of each client, by name."""

    injection: str
    begun: float
    ended: float
    settled: float
    struck: list[float]
    rows: dict[str, list[Row]]


class Field:
    """Two replicas and the clients' programs, ready for one run after the other."""

    def __init__(self, net: Network, folder: Path, a: Replica, b: Replica) -> None:
        self.net, self.folder, self.a, self.b = net, folder, a, b
        self._asked = 0

    def run(self, injection: Injection, timing: Timing, clients: Sequence[Client], patience_ms: int) -> Run:
        """One injection, with all clients asking. Raises ChildFailed."""
        self.net.heal()
        self.a.wait_ready()
        self.b.wait_ready()
        with contextlib.ExitStack() as stack:
            self._start_programs(stack, [client.name for client in clients], patience_ms)
            askers = {client.name: stack.enter_context(self._asker(client, timing.whole)) for client in clients}
            time.sleep(SETTLE_SECONDS)
            settled = time.monotonic()
            time.sleep(timing.quiet)
            begun = time.monotonic()
            struck = injection.strike(self.a, timing.fire)
            time.sleep(max(begun + timing.fire - time.monotonic(), 0))
            ended = time.monotonic()
            time.sleep(timing.after)
            rows = {name: asker.rows() for name, asker in askers.items()}
        self._asked += int(max(client.rate for client in clients) * timing.whole) + 2
        return Run(injection.name, begun, ended, settled, struck, rows)

    def move(self, injection: Injection, timing: Timing) -> Run:
        """One injection on whoever holds the virtual address, one client asking there. Inside `address`."""
        self.wait_movable()
        holder = self.holder()
        with self._asker(AT_ADDRESS, timing.whole) as asker:
            time.sleep(SETTLE_SECONDS)
            settled = time.monotonic()
            time.sleep(timing.quiet)
            begun = time.monotonic()
            struck = injection.strike(holder, timing.fire)
            ended = time.monotonic()
            self._asked += int(AT_ADDRESS.rate * timing.whole) + 2
            rows = {AT_ADDRESS.name: asker.rows()}
        return Run(injection.name, begun, ended, settled, struck, rows)

    @contextlib.contextmanager
    def address(self) -> Iterator[None]:
        """keepalived on both sites until the block ends; begins when one of them has the address."""
        with programs.keepalived(self.a, self.b), programs.keepalived(self.b, self.a):
            self.wait_movable()
            yield

    def holders(self) -> list[Replica]:
        """On whose sites the virtual address is: for a moment it may be both or none."""
        shown = {each: each.site.run("ip", "-brief", "-4", "address") for each in (self.a, self.b)}
        return [each for each, addresses in shown.items() if f" {VIRTUAL}/" in addresses]

    def holder(self) -> Replica:
        """Whose it is. Raises ChildFailed while it is nobody's, or in dispute."""
        found = self.holders()
        if len(found) != 1:
            raise ChildFailed(f"{VIRTUAL}: on {len(found)} sites")
        return found[0]

    def is_healthy(self, replica: Replica) -> bool:
        """What its health check writes."""
        file = replica.folder / "health"
        return file.exists() and file.read_text() == "0\n"

    def wait_movable(self) -> None:
        """Until both are healthy and one has the address. Raises ChildFailed."""
        both = (self.a, self.b)
        wait_for("both healthy", lambda: all(self.is_healthy(each) for each in both), MOVABLE_SECONDS_MAX)
        wait_for("one holder", lambda: len(self.holders()) == 1, MOVABLE_SECONDS_MAX)

    def _start_programs(self, stack: contextlib.ExitStack, names: Sequence[str], patience_ms: int) -> None:
        site, both = self.net.client, (self.a.site.address, self.b.site.address)
        if "pdb" in names:
            stack.enter_context(programs.kamailio_pdb(site, self.folder, both, patience_ms))
        if "sip" in names:
            stack.enter_context(programs.kamailio_redirect(site, self.folder, both))
        if "enum" in names:
            stack.enter_context(programs.unbound(site, self.folder))

    @contextlib.contextmanager
    def _asker(self, client: Client, seconds: float) -> Iterator[Asker]:
        command: list[str | Path] = [sys.executable, "-m", "bench.faults.askers", *client.arguments]
        command += ["--seconds", str(seconds), "--rate", str(client.rate), "--first", str(self._asked)]
        told, log = self.folder / f"{client.name}.rows", self.folder / f"{client.name}.log"
        process = self.net.client.start(log, *command, "--output", told)
        try:
            yield Asker(client.name, process, told, log)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


@dataclass(frozen=True)
class Asker:
    """One that runs, and the file that it writes at its end."""

    name: str
    process: subprocess.Popen[bytes]
    told: Path
    log: Path

    def rows(self) -> list[Row]:
        """Once it has ended. Raises ChildFailed."""
        try:
            code = self.process.wait(ASKER_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            raise ChildFailed(f"asker {self.name}: does not end") from None
        if code:
            raise ChildFailed(f"asker {self.name}: {self.log.read_text()[-1000:]}")
        return [
            (sent, seconds, verdict) for sent, seconds, verdict in map(json.loads, self.told.read_text().splitlines())
        ]


@contextlib.contextmanager
def field(folder: Path, cores: Sequence[int], *, paired: bool = False, engine: str = "auto") -> Iterator[Field]:
    """A network with both replicas ready. cores: of `a` and of `b`. paired: each watches the other."""
    store = make_store(folder)
    with network() as net, contextlib.ExitStack() as stack:
        replicas = [
            Replica(site, folder, store, core, twin if paired else None, engine)
            for site, twin, core in ((net.a, net.b, cores[0]), (net.b, net.a, cores[-1]))
        ]
        for replica in replicas:
            stack.callback(replica.close)
            replica.start()
        yield Field(net, folder, *replicas)
