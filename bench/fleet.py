"""`python -m bench.fleet`: a real fleet under fire. Three servers, a relay, five replicas; one after another is killed.

Signed deltas are published evenly over the run. Meanwhile each server is killed once and started again, the stream's
leader first; a replica is killed; another loses its store. At the end every store must say the same as one that was
loaded from the files by hand, and each delta must have been applied once. Exit code 1 when that does not hold.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec

from bench.dataset import Dataset, load_store, prepare
from bench.deltas import apply, draw_notices
from bench.figures import Section, table
from bench.fleet_outcome import judge, section
from bench.fleet_site import READY_SECONDS_MAX, Replica, Site, site
from bench.machine import Machine, describe
from bench.processes import ChildFailed, find
from lookupd.errors import LookupdError
from lookupd.store.reader import Reader
from lookupd.store.writer import Writer

RESULTS = Path(__file__).parent / "results"
ENDING = "-fleet"
NUMBERS = 100_000
PER_DELTA = 500
CONVERGED_SECONDS_MAX = 300.0
TURNS = 10
"""Parts of a run: three servers go and come in six, a replica and a store in two more, the rest is quiet."""


class Run(msgspec.Struct, frozen=True):
    """One run. events: what was done, with the second; problems: what did not hold, empty if all did."""

    made_at: str
    machine: Machine
    notices: int
    replicas: int
    events: list[str]
    problems: list[str]
    sections: list[Section]


@click.command()
@click.option("--notices", type=click.IntRange(min=1), default=100_000, show_default=True, help="Published in all.")
@click.option("--per-delta", type=click.IntRange(min=1), default=PER_DELTA, show_default=True, help="In one delta.")
@click.option("--replicas", type=click.IntRange(3, 50), default=5, show_default=True, help="That follow.")
@click.option("--seconds", type=click.FloatRange(min=5.0), default=180.0, show_default=True, help="Of publishing.")
@click.option("--table", "only_table", is_flag=True, help="Print the newest kept run; run nothing.")
def main(notices: int, per_delta: int, replicas: int, seconds: float, only_table: bool) -> None:
    """Publish signed deltas to a fleet of real processes while its servers and replicas are killed.

    Needs nats-server (Debian: nats-server). Results go to bench/results/.

    \b
    Example: python -m bench.fleet --notices 100000 --replicas 5
             python -m bench.fleet --table
    """
    try:
        run = read_newest() if only_table else execute(notices, per_delta, replicas, seconds)
    except (ChildFailed, LookupdError) as error:
        raise click.ClickException(str(error)) from None
    click.echo(report(run))
    if not only_table:
        _keep(run)
    if run.problems:
        raise click.ClickException("\n".join(["what must hold does not:", *run.problems]))


def execute(
    notices: int,
    per_delta: int,
    replicas: int,
    seconds: float,
    numbers: int = NUMBERS,
    root: Path | None = None,
) -> Run:
    """One run. root: where the data set is made, and where the site lies. Raises ChildFailed."""
    if find("nats-server") is None:
        raise ChildFailed("nats-server is not installed (Debian: nats-server): there is no engine to kill")
    dataset = prepare(numbers) if root is None else prepare(numbers, root=root)
    with tempfile.TemporaryDirectory(prefix="fleet-", dir=root) as name:
        folder = Path(name)
        _tell("fleet: three servers, a relay, replicas")
        with site(dataset, folder, replicas) as running:
            deltas = _draw(dataset, running, notices, per_delta)
            fire = Fire(running, seconds)
            published = fire.publish(deltas)
            last = len(deltas) + 1
            running.wait_for(last, CONVERGED_SECONDS_MAX)
            messages = running.messages(len(deltas), CONVERGED_SECONDS_MAX)
        _tell("fleet: compare with a store that was loaded by hand")
        facts = {replica.name: replica.facts() for replica in running.replicas}
        expected = _by_hand(dataset, folder, [running.sender.source / path.name for path in deltas])
        problems = judge(facts, expected, last, messages)
        sections = [section(running.replicas, facts, published, fire.outages, notices, seconds)]
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Run(now, describe(), notices, replicas, fire.events, problems, sections)


def _draw(dataset: Dataset, running: Site, notices: int, per_delta: int) -> list[Path]:
    with contextlib.closing(draw_notices(dataset.store, notices)) as drawn:
        starts = range(0, notices, per_delta)
        return [running.sender.make(itertools.islice(drawn, min(per_delta, notices - start))) for start in starts]


# -- the fire --------------------------------------------------------------------------------------------


class Fire:
    """Publishes, and meanwhile does to the fleet what a bad day does."""

    def __init__(self, running: Site, seconds: float) -> None:
        self.events: list[str] = []
        self.outages: list[tuple[float, float]] = []  # of a server, by the wall clock
        self._site, self._seconds = running, seconds
        self._began = time.monotonic()
        self._failure: Exception | None = None

    def publish(self, deltas: Sequence[Path]) -> dict[int, float]:
        """Each at its moment; returns the wall clock's moments by sequence. Raises ChildFailed."""
        self._began = time.monotonic()
        strikes = threading.Thread(target=self._strike, name="strikes")
        strikes.start()
        published: dict[int, float] = {}
        try:
            for at, path in enumerate(deltas):
                self._sleep_until(at / len(deltas))
                published[at + 2] = time.time()  # the snapshot is 1
                self._site.sender.publish(path)
        finally:
            strikes.join()
        if self._failure is not None:
            raise ChildFailed(f"the strikes ended: {self._failure!r}") from self._failure
        return published

    def _strike(self) -> None:
        try:
            self._kill_servers()
            self._kill_replica(self._site.replicas[-1], 7)
            self._wipe_replica(self._site.replicas[-2], 8)
        except Exception as error:  # told where the run is judged: a thread has nobody to raise to
            self._failure = error

    def _kill_servers(self) -> None:
        left = list(self._site.servers)
        for turn in (1, 3, 5):
            self._sleep_until(turn / TURNS)
            leader = self._site.leader()
            server = next((each for each in left if each.name == leader), left[0])
            left.remove(server)
            killed = time.time()
            server.kill()
            self._note(f"server {server.name} killed" + (", the stream's leader" if server.name == leader else ""))
            self._sleep_until((turn + 1) / TURNS)
            server.start(ready=False)
            server.wait_ready(READY_SECONDS_MAX)
            self.outages.append((killed, time.time()))
            self._note(f"server {server.name} back")

    def _kill_replica(self, replica: Replica, turn: int) -> None:
        self._sleep_until(turn / TURNS)
        with self._away(replica):
            replica.process.kill()
            self._note(f"replica {replica.name} killed")
            self._sleep_until((turn + 0.5) / TURNS)
            self._note(f"replica {replica.name} started")

    def _wipe_replica(self, replica: Replica, turn: int) -> None:
        self._sleep_until(turn / TURNS)
        with self._away(replica):
            replica.process.kill()
            replica.wipe()
            self._note(f"replica {replica.name} lost its store")

    @contextlib.contextmanager
    def _away(self, replica: Replica) -> Iterator[None]:
        """Started at the end; away until it is where the others are."""
        since = time.time()
        try:
            yield
        finally:
            replica.process.start()
        goal = self._site.replicas[0].position()
        until = time.monotonic() + CONVERGED_SECONDS_MAX
        while replica.position() < goal and time.monotonic() < until:
            time.sleep(0.02)
        replica.away.append((since, time.time()))
        self._note(f"replica {replica.name} caught up")

    def _sleep_until(self, share: float) -> None:
        time.sleep(max(0.0, self._began + share * self._seconds - time.monotonic()))

    def _note(self, event: str) -> None:
        second = time.monotonic() - self._began
        self.events.append(f"{second:.1f} s: {event}")
        _tell(f"fleet: {self.events[-1]}")


# -- compared with ----------------------------------------------------------------------------------------


def _by_hand(dataset: Dataset, folder: Path, deltas: Sequence[Path]) -> str:
    """The digest of a store that took the same files one after another, and nothing else."""
    store = folder / "by-hand"
    load_store(dataset, store)
    with Writer(store) as writer:
        for path in deltas:
            apply(writer, path)
    with Reader(store) as reader:
        return f"{reader.state.digest % (1 << 64):016x}"


# -- kept ------------------------------------------------------------------------------------------------


def read_newest(results: Path = RESULTS) -> Run:
    """The run that was made last. Raises ChildFailed."""
    found = [msgspec.json.decode(path.read_bytes(), type=Run) for path in results.glob(f"*{ENDING}.json")]
    if not found:
        raise ChildFailed("no run is kept: make one with `python -m bench.fleet`")
    return max(found, key=lambda run: run.made_at)


def report(run: Run) -> str:
    """As Markdown."""
    machine = run.machine
    lines = [
        f"# A fleet under fire, {run.made_at[:10]} at {machine.commit}",
        "",
        f"{machine.cores} cores of {machine.cpu}, {machine.kernel}, Python {machine.python}.",
        "",
        table(run.sections),
        "## What was done",
        "",
        *(f"- {event}" for event in run.events),
        "",
        "## What must hold",
        "",
        *(f"- BROKEN: {problem}" for problem in run.problems),
    ]
    if not run.problems:
        lines.append(
            f"- kept: all {run.replicas} replicas at the same position with the digest of a store loaded by hand; one "
            "receipt and one message for each delta; no notice twice in a journal"
        )
    return "\n".join(lines)


def _keep(run: Run) -> None:
    RESULTS.mkdir(exist_ok=True)
    name = f"{run.made_at[:10]}-{run.machine.commit}{ENDING}"
    (RESULTS / f"{name}.md").write_text(report(run) + "\n")
    (RESULTS / f"{name}.json").write_bytes(msgspec.json.format(msgspec.json.encode(run)) + b"\n")
    click.echo(f"kept as bench/results/{name}.md and .json", err=True)


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
