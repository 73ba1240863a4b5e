"""The exchange's figures: notices applied a second, notice to visible, the agreed second, lookups meanwhile.

    python -m bench.exchange --numbers 20000000

measures on a copy of the data set's store, which is gone afterwards, and prints one section as JSON. How
files are compared and stores are scrubbed is measured by `reconcile` and `scrub`; here it is put beside the rest.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
import msgspec
import numpy as np

from bench import reconcile, scrub
from bench.dataset import QUERY_SEED, SEED, Dataset, prepare
from bench.deltas import ACCEPTED, Drawn, Place, Sender, apply, draw_notices, draw_ports, writable_place
from bench.figures import Figure, Section
from bench.load import WrongAnswer
from bench.meanwhile import ASK_SECONDS, Waited, ask, ask_for, draw_messages, p99_to_idle, quantile
from bench.processes import ChildFailed, child, daemon, loader, pinned
from bench.store import AIMED_NUMBERS
from lookupd.store.reader import Reader
from lookupd.store.schema import ROUTE_MASK
from lookupd.store.writer import Writer
from lookupd.units import format_time

APPLIED_PER_SECOND_AIM = 50_000
LATE_MS_AIM = 100.0
LOOKUP_RATIO_AIM = 1.2
RECONCILE_SECONDS_AIM = 10.0
SCRUB_SECONDS_AIM = 1.0

POLL_SECONDS = 0.1
"""Of the running exchange; the default is 5 s, which would only add to every figure what a setting says."""

PIN_SECONDS = 0.0005
"""Between two pins of the reader that looks for a change."""

DELTA_SECONDS = 0.3
"""Between the small deltas that arrive beside the agreed second."""

LEAD_SECONDS = 4
"""From the announcement of the waiting notices to the first of their seconds: they must be in the store by then."""

SEEN_SECONDS_MAX = 60.0
AIMED_DELTA = 10_000
SPIN = [sys.executable, "-c", "while True: pass"]


class Effort(msgspec.Struct, frozen=True):
    """How much is done. deltas: how many, by their size; waiting: notices of the agreed second; large: of one delta."""

    deltas: dict[int, int]
    visible: int
    waiting: int
    waiting_seconds: int
    large: int
    idle_seconds: float


FULL = Effort({1: 300, 100: 100, 10_000: 15}, 200, 200, 20, 1_000_000, 10.0)
QUICK = Effort({1: 50, 100: 20, 10_000: 5}, 30, 60, 6, 200_000, 3.0)


def measure(dataset: Dataset, effort: Effort, server_core: int, client_core: int) -> Section:
    """All of it. Raises ChildFailed, and WrongAnswer when a change is seen before its second."""
    messages = draw_messages(dataset)
    with writable_place(dataset) as place, pinned(client_core):
        _tell(f"exchange: on {'tmpfs' if place.is_tmpfs else 'the data set file system'}")
        sender = Sender(place.folder)
        figures = _rates(place, sender, effort)
        figures += _running(place, sender, effort, server_core)
        figures += _lookups(place, sender, effort, messages, server_core, client_core)
    _tell("exchange: reconcile and scrub")
    figures += _reconciled(dataset)
    figures.append(_scrubbed(dataset))
    return Section("Exchange", _note(dataset, effort, place), figures)


def _note(dataset: Dataset, effort: Effort, place: Place) -> str:
    where = "tmpfs" if place.is_tmpfs else "the data set's file system (no room on tmpfs: fsync is in the figures)"
    return (
        f"{dataset.numbers:,} ported numbers; stores that are written lie on {where}. Deltas: numbers drawn evenly "
        f"from the store's thousand-blocks; those not ported are ported, the others ported again, returned or "
        f"corrected; each file with its manifest, verified and applied by one process; median of the deltas of a "
        f"size. Running exchange: `lookupd-loader sync` on one core and a reader on the other that pins every "
        f"{1000 * PIN_SECONDS:g} ms; from the manifest's rename until the reader finds the number ported. A notice "
        f"waits 0 to {1000 * POLL_SECONDS:g} ms for the next look at the source, at any phase: half of that is taken "
        f"from p50, all of it from p99, in the lines without poll. Agreed second: {effort.waiting} notices in "
        f"{effort.waiting_seconds} seconds while a delta of one arrives every {1000 * DELTA_SECONDS:g} ms. Lookups: "
        f"one `npq` question over UDP every {1000 * ASK_SECONDS:g} ms, from the send to the kernel's stamp on the "
        f"reply, so that a client that waits for its core counts for nothing; the daemon has one core alone, the "
        f"loader shares the other with the client; quantiles are those of each half second, and of these the median, "
        f"without those in which somebody else's work kept the daemon from its core for 2 % or more; idle "
        f"is before and after, and a loop in the loader's place tells what a busy core alone does; the spread is "
        f"against the slower and the faster idle. Seconds of reconcile are of whole commands, those of the scrub are "
        f"CPU."
    )


# -- applied a second ------------------------------------------------------------------------------------


def _rates(place: Place, sender: Sender, effort: Effort) -> list[Figure]:
    """Deltas of each size, as `lookupd-loader delta` loads them, but by one Writer."""
    made = {size: _make_lots(place, sender, size, count + 1) for size, count in effort.deltas.items()}
    figures: list[Figure] = []
    with Writer(place.store) as writer:
        for size, paths in made.items():
            runs = [apply(writer, path) for path in paths][1:]  # the first warms up
            wall, cpu = (statistics.median(values) for values in zip(*runs, strict=True))
            figures += _rate_figures(place, size, size / wall, 1e6 * cpu / size)
    return figures


def _make_lots(place: Place, sender: Sender, size: int, count: int) -> list[Path]:
    with contextlib.closing(draw_notices(place.store, size * count)) as notices:
        return [sender.make(itertools.islice(notices, size)) for _ in range(count)]


def _rate_figures(place: Place, size: int, a_second: float, cpu_us: float) -> list[Figure]:
    name = f"notices applied in deltas of {size:,}"
    figure = Figure(name, a_second, "/s")
    if size == AIMED_DELTA:
        met = a_second >= APPLIED_PER_SECOND_AIM if place.is_tmpfs else None
        figure = msgspec.structs.replace(figure, aim=f">= {APPLIED_PER_SECOND_AIM:,} /s on tmpfs", met=met)
    return [figure, Figure(f"CPU of one notice in deltas of {size:,}", cpu_us, "us")]


# -- the running exchange --------------------------------------------------------------------------------


def _running(place: Place, sender: Sender, effort: Effort, core: int) -> list[Figure]:
    """Notice to visible, then the agreed second, through one `lookupd-loader sync`."""
    beside = int((LEAD_SECONDS + effort.waiting_seconds) / DELTA_SECONDS) + 1
    first, last, *others = draw_ports(place.store, 2 + effort.visible + effort.waiting + beside)
    ports = iter(others)
    with _sync(place, sender, core) as is_running, Reader(place.store) as reader:
        look = Look(reader, is_running)
        look.visible_seconds(sender, first)  # warms up, and waits for the start
        pause = np.random.default_rng(QUERY_SEED)
        seconds = []
        for port in itertools.islice(ports, effort.visible):
            time.sleep(float(pause.uniform(0.0, 2 * POLL_SECONDS)))
            seconds.append(look.visible_seconds(sender, port))
        late = _agreed_second(sender, look, ports, effort)
        look.visible_seconds(sender, last)  # so that all before it is applied
    return [*_visible_figures(seconds), *_late_figures(late)]


@contextlib.contextmanager
def _sync(place: Place, sender: Sender, core: int) -> Iterator[Callable[[], None]]:
    """A running exchange, and what raises ChildFailed when it has ended."""
    config, log = place.folder / "sync.toml", place.folder / "sync.log"
    config.write_text(
        f'[store]\npath = "{place.store}"\n'
        f'[feed.main]\nsource = "dir://{sender.source}"\npoll = "{round(1000 * POLL_SECONDS)}ms"\n'
    )
    command = [sys.executable, "-m", "loader.cli", "sync", "--config", str(config)]
    with child(command, log, core) as process:

        def check() -> None:
            if process.poll() is not None:
                raise ChildFailed(f"sync ended: {log.read_text()[-1000:]}")

        yield check


class Look:
    """A reader that pins all the time and looks for numbers that became ported."""

    def __init__(self, reader: Reader, check: Callable[[], None]) -> None:
        self._reader, self._check = reader, check

    def found(self, wanted: Iterable[int]) -> list[int]:
        """After a pause and a pin: which of the numbers are ported now; nothing is looked up in an old state."""
        time.sleep(PIN_SECONDS)
        serial = self._reader.state.serial
        self._reader.pin()
        if self._reader.state.serial == serial:
            return []
        return [tn for tn in wanted if self._reader.entry(tn) & ROUTE_MASK]

    def visible_seconds(self, sender: Sender, port: Drawn) -> float:
        """Publish one notice; how long until it is seen. Raises ChildFailed."""
        path = sender.make([port])
        self._reader.pin()
        began = sender.publish(path)
        while not self.found([port.tn]):
            self.check_since(began)
        return time.perf_counter() - began

    def check_since(self, began: float) -> None:
        """Raises ChildFailed when the exchange has ended, or nothing was seen for too long."""
        self._check()
        if time.perf_counter() - began > SEEN_SECONDS_MAX:
            raise ChildFailed(f"sync: a change was not visible after {SEEN_SECONDS_MAX:g} s")


def _agreed_second(sender: Sender, look: Look, ports: Iterator[Drawn], effort: Effort) -> list[float]:
    """How many seconds after its moment each waiting notice is seen. Raises WrongAnswer if one is early."""
    first = int(time.time()) + LEAD_SECONDS
    waits = list(itertools.islice(ports, effort.waiting))
    moments = {port.tn: first + at % effort.waiting_seconds for at, port in enumerate(waits)}
    sender.publish(sender.make(_at(port, moments[port.tn]) for port in waits))
    late: list[float] = []
    began = next_at = time.perf_counter()
    while moments:
        found = look.found(moments)
        now = time.time()
        late += [now - moments.pop(tn) for tn in found]
        if time.perf_counter() >= next_at and (port := next(ports, None)):
            next_at = sender.publish(sender.make([port])) + DELTA_SECONDS
        look.check_since(began)
    if min(late) < 0:
        raise WrongAnswer(f"sync: a notice was seen {-min(late):.3f} s before its second")
    return late


def _at(port: Drawn, moment: int) -> Drawn:
    return port._replace(row=port.row | {"effective_at": str(format_time(moment))})


def _visible_figures(seconds: list[float]) -> list[Figure]:
    p50, p99 = (1000 * quantile(seconds, share) for share in (0.5, 0.99))
    poll = 1000 * POLL_SECONDS
    return [
        Figure(f"notice to visible, poll {poll:g} ms, p50", p50, "ms"),
        Figure(f"notice to visible, poll {poll:g} ms, p99", p99, "ms"),
        Figure("the same without poll, p50", p50 - poll / 2, "ms"),
        Figure("the same without poll, p99", p99 - poll, "ms"),
    ]


def _late_figures(late: list[float]) -> list[Figure]:
    p50, p99, worst = (1000 * quantile(late, share) for share in (0.5, 0.99, 1.0))
    return [
        Figure("agreed second to visible, p50", p50, "ms"),
        Figure("agreed second to visible, p99", p99, "ms", aim=f"<= {LATE_MS_AIM:g} ms", met=p99 <= LATE_MS_AIM),
        Figure("agreed second to visible, worst", worst, "ms"),
    ]


# -- lookups while a delta applies -----------------------------------------------------------------------


def _lookups(
    place: Place, sender: Sender, effort: Effort, messages: Iterator[bytes], server_core: int, client_core: int
) -> list[Figure]:
    """The same questions before, during and after one large delta, and while something else keeps its core busy."""
    path = sender.make(draw_notices(place.store, effort.large))
    with daemon(place.store, place.folder, server_core) as server, ThreadPoolExecutor(1) as thread:
        ask_for(server, messages, effort.idle_seconds / 4)  # warms up
        before = ask_for(server, messages, effort.idle_seconds)
        with child(SPIN, place.folder / "spin.log", client_core):
            spinning = ask_for(server, messages, effort.idle_seconds)
        loading = thread.submit(loader, "delta", path, "--store", place.store, "--accept-change", ACCEPTED)
        during = ask(server, messages, loading.done)
        seconds = loading.result().seconds
        after = ask_for(server, messages, effort.idle_seconds)
    return [
        Figure(f"a delta of {effort.large:,}, lookups meanwhile", seconds, "s"),
        Figure("notices applied in it, whole command", effort.large / seconds, "/s"),
        *_lookup_figures(during, spinning, before, after),
    ]


def _lookup_figures(during: Waited, spinning: Waited, before: Waited, after: Waited) -> list[Figure]:
    idle = before.beside(after)
    p99 = during.us(0.99)
    to_idle, is_calm = p99_to_idle(during, before, after)
    met = to_idle.median <= LOOKUP_RATIO_AIM if is_calm else None
    return [
        Figure("lookup p50, idle", idle.us(0.5), "us"),
        Figure("lookup p50, a loop on the other core", spinning.us(0.5), "us"),
        Figure("lookup p50, while the delta applies", during.us(0.5), "us"),
        Figure("lookup p99, idle", idle.us(0.99), "us"),
        Figure("lookup p99, a loop on the other core", spinning.us(0.99), "us"),
        Figure(
            "lookup p99, while the delta applies", p99, "us", to_idle, aim=f"<= {LOOKUP_RATIO_AIM:g} x idle", met=met
        ),
        Figure("calm time of that", 100 * statistics.mean(during.calm.values()), "%"),
        Figure("longest lookup, idle", max(idle.kernel) / 1e6, "ms"),
        Figure("longest lookup, a loop on the other core", max(spinning.kernel) / 1e6, "ms"),
        Figure("longest lookup, while the delta applies", max(during.kernel) / 1e6, "ms"),
        Figure("p99 as the client has it, idle", quantile(idle.client, 0.99) / 1e3, "us"),
        Figure("p99 as the client has it, meanwhile", quantile(during.client, 0.99) / 1e3, "us"),
        Figure("questions without an answer", idle.lost + spinning.lost + during.lost, ""),
    ]


# -- what others measure ---------------------------------------------------------------------------------


def _reconciled(dataset: Dataset) -> list[Figure]:
    found = reconcile.measure(dataset)
    whole = found["reconcile_equal_zst_seconds"]
    met = whole < RECONCILE_SECONDS_AIM if dataset.numbers == AIMED_NUMBERS else None
    return [
        Figure(
            "reconcile with the snapshot, compressed", whole, "s", aim=f"< {RECONCILE_SECONDS_AIM:g} s at 20 M", met=met
        ),
        Figure("reconcile with the snapshot, plain", found["reconcile_equal_plain_seconds"], "s"),
        Figure("peak memory of that", found["reconcile_equal_plain_peak_mb"], "MB"),
        Figure("diff with a snapshot, 0.1 % changed", found["diff_changed_zst_seconds"], "s"),
        Figure("compare two equal replicas", found["compare_equal_seconds"], "s"),
        Figure("compare two replicas, 0.1 % different", found["compare_changed_seconds"], "s"),
    ]


def _scrubbed(dataset: Dataset) -> Figure:
    seconds = scrub.measure(dataset.store, dataset.numbers)["scrub_cpu_seconds"]
    assert isinstance(seconds, float)
    met = seconds < SCRUB_SECONDS_AIM if dataset.numbers == AIMED_NUMBERS else None
    return Figure("scrub the whole store, CPU", seconds, "s", aim=f"< {SCRUB_SECONDS_AIM:g} s at 20 M", met=met)


# -- alone -----------------------------------------------------------------------------------------------


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@click.command()
@click.option("--numbers", default=AIMED_NUMBERS, show_default=True, help="Ported numbers.")
@click.option("--seed", default=SEED, show_default=True, help="Of the data.")
@click.option("--quick", is_flag=True, help="Fewer rounds: for trying.")
def main(numbers: int, seed: int, quick: bool) -> None:
    """Measure the exchange on this machine, and print one JSON object."""
    cores = sorted(os.sched_getaffinity(0))
    section = measure(prepare(numbers, seed), QUICK if quick else FULL, cores[0], cores[-1])
    click.echo(msgspec.json.format(msgspec.json.encode(section)))


if __name__ == "__main__":
    main()
