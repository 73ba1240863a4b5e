"""The exchange's figures: notices applied a second, notice to visible, the agreed second, lookups meanwhile.

    python -m bench.exchange --numbers 20000000

measures on a copy of the data set's store, which is gone afterwards, and prints one section as JSON. How
files are compared and stores are scrubbed is measured by `reconcile` and `scrub`; here it is put beside the rest.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import click
import msgspec
import numpy as np

from bench import reconcile, scrub
from bench.clients import READ_BYTES, REPLY_SECONDS_MAX
from bench.dataset import COUNTRY, CREATED_AT, QUERY_SEED, SEED, Dataset, draw_queries, open_engine, prepare
from bench.figures import Figure, Ratio, Section
from bench.load import WrongAnswer
from bench.processes import STOP_SECONDS_MAX, ChildFailed, Server, daemon, loader, pinned
from bench.store import AIMED_NUMBERS
from loader.apply import Terms, apply_delta
from loader.feed_sync import Quiet
from loader.files import identify, write_manifest
from lookupd.model import UnixSeconds
from lookupd.numbering import load_plan
from lookupd.protocols import npq
from lookupd.store.reader import Reader
from lookupd.store.schema import NUMBERS_PER_BLOCK, ROUTE_MASK
from lookupd.store.writer import Writer
from lookupd.units import format_time

APPLIED_PER_SECOND_AIM = 50_000
LATE_MS_AIM = 100.0
LOOKUP_RATIO_AIM = 1.2
RECONCILE_SECONDS_AIM = 10.0
SCRUB_SECONDS_AIM = 1.0

TMPFS = Path("/dev/shm")
STORES_OF_ROOM = 3
"""A million notices rewrite nearly every page of a small store once; with the journal beside it, three fit."""

POLL_SECONDS = 0.1
"""Of the running exchange; the default is 5 s, which would only add to every figure what a setting says."""

PIN_SECONDS = 0.0005
"""Between two pins of the reader that looks for a change."""

DELTA_SECONDS = 0.3
"""Between the small deltas that arrive beside the agreed second."""

LEAD_SECONDS = 4
"""From the announcement of the waiting notices to the first of their seconds: they must be in the store by then."""

SLICE_NS = 500_000_000
CALM_SHARE = 0.02
"""A slice of time is calm if the server waited less than this share of it for its core: nothing of ours runs
there, so it waits for somebody else's work. That much is three waits of a few ms among 700 questions: no p99."""

CALM_SLICES_MIN = 4
ASK_SECONDS = 0.0005
"""Between two questions: the server sleeps before each, idle or not."""

SEEN_SECONDS_MAX = 60.0
AIMED_DELTA = 10_000
ASKED = 20_000
DRAWN_PER_PORT = 8
"""Enough for different numbers that are not ported, as long as a quarter of the blocks is free."""

SPIN = [sys.executable, "-c", "while True: pass"]
ACCEPTED = "bench: a measured delta"
SO_TIMESTAMPNS = 35
"""Linux: each datagram comes with the moment at which it reached the socket. Python has no name for it."""

TIMESPEC = struct.Struct("qq")
PLAN = load_plan(COUNTRY)
TERMS = Terms(accepted=ACCEPTED)


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


class Drawn(NamedTuple):
    """A notice as a feed writes it, its number, and whether the number was ported when it was drawn."""

    row: dict[str, str]
    tn: int
    ported: bool


class Place(NamedTuple):
    """A folder with a store to be written and the files beside it."""

    folder: Path
    is_tmpfs: bool

    @property
    def store(self) -> Path:
        """A copy of the data set's."""
        return self.folder / "store"


def measure(dataset: Dataset, effort: Effort, server_core: int, client_core: int) -> Section:
    """All of it. Raises ChildFailed, and WrongAnswer when a change is seen before its second."""
    numbers = _asked_numbers(dataset)
    with _place(dataset) as place, pinned(client_core):
        _tell(f"exchange: on {'tmpfs' if place.is_tmpfs else 'the data set file system'}")
        sender = Sender(place.folder)
        figures = _rates(place, sender, effort)
        figures += _running(place, sender, effort, server_core)
        figures += _lookups(place, sender, effort, numbers, server_core, client_core)
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


# -- where -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _place(dataset: Dataset) -> Iterator[Place]:
    """On tmpfs, or beside the data when it has no room; gone afterwards."""
    root = TMPFS if _has_room(TMPFS, dataset) else dataset.folder
    with tempfile.TemporaryDirectory(prefix="lookupd-bench-", dir=root) as name:
        place = Place(Path(name), root is TMPFS)
        shutil.copytree(dataset.store, place.store, ignore=shutil.ignore_patterns("*.lock", "lock.mdb"))
        yield place


def _has_room(root: Path, dataset: Dataset) -> bool:
    try:
        free = shutil.disk_usage(root).free
    except OSError:
        return False
    return free > STORES_OF_ROOM * (dataset.store / "data.mdb").stat().st_size + (2 << 30)


# -- notices --------------------------------------------------------------------------------------------


class Sender:
    """Who makes deltas, one after another, and puts them into the source's folder."""

    def __init__(self, folder: Path) -> None:
        self.source = folder / "source"
        self._staging = folder / "staging"
        self.source.mkdir()
        self._staging.mkdir()
        self._sequence = 1

    def make(self, notices: Iterable[Drawn]) -> Path:
        """The next delta with its manifest, not yet in the source."""
        self._sequence += 1
        path = self._staging / f"delta-main-{self._sequence}.ndjson"
        lines = [msgspec.json.encode(notice.row) for notice in notices]
        path.write_bytes(b"\n".join(lines) + b"\n")
        write_manifest(path, len(lines), CREATED_AT)
        return path

    def publish(self, path: Path) -> float:
        """Both files into the source, the manifest last; returns the moment after that, of perf_counter."""
        for name in (path.name, path.name + ".json"):
            (path.parent / name).rename(self.source / name)
        return time.perf_counter()


def draw_notices(store: Path, count: int) -> Generator[Drawn, None, None]:
    """Notices that fit the store's state, in an order that tells nothing: the same for the same store.

    The store is open until the last is drawn, and LMDB opens it once in a process: close it, or draw all.
    """
    draw = np.random.default_rng(QUERY_SEED)
    with Reader(store) as reader:
        blocks = np.array([block for block, _ in reader.blocks()], np.int64)
        numbers = draw.choice(blocks, count) * NUMBERS_PER_BLOCK + draw.integers(0, NUMBERS_PER_BLOCK, count)
        codes = [str(route.network_code) for route in reader.routes if route is not None and route.own]
        chances = draw.integers(0, 100, count).tolist()
        parties = draw.choice(np.array(codes), (count, 2)).tolist()
        for at, (tn, chance, (recipient, donor)) in enumerate(zip(numbers.tolist(), chances, parties, strict=True)):
            ported = bool(reader.entry(tn) & ROUTE_MASK)
            row = {"tn": str(tn), "notified_at": CREATED_AT, "ref": f"N-{at}"}
            yield Drawn(row | _what(ported, chance, recipient, donor), tn, ported)


def _what(ported: bool, chance: int, recipient: str, donor: str) -> dict[str, str]:
    """Of ported numbers 40 % go home, 20 % are corrected, and the rest go to another network."""
    if ported and chance < 40:
        return {"kind": "return"}
    if ported and chance < 60:
        return {"kind": "correct", "recipient": recipient}
    return {"kind": "port", "recipient": recipient, "donor": donor}


def _draw_ports(store: Path, count: int) -> list[Drawn]:
    """First ports of different numbers: each is visible when its number is ported. Raises ChildFailed."""
    drawn = (notice for notice in draw_notices(store, DRAWN_PER_PORT * count) if not notice.ported)
    found = list({notice.tn: notice for notice in drawn}.values())[:count]
    if len(found) < count:
        raise ChildFailed(f"only {len(found)} numbers are left to port: take a larger --numbers")
    return found


# -- applied a second ------------------------------------------------------------------------------------


def _rates(place: Place, sender: Sender, effort: Effort) -> list[Figure]:
    """Deltas of each size, as `lookupd-loader delta` loads them, but by one Writer."""
    made = {size: _make_lots(place, sender, size, count + 1) for size, count in effort.deltas.items()}
    figures: list[Figure] = []
    with Writer(place.store) as writer:
        for size, paths in made.items():
            runs = [_apply(writer, path) for path in paths][1:]  # the first warms up
            wall, cpu = (statistics.median(values) for values in zip(*runs, strict=True))
            figures += _rate_figures(place, size, size / wall, 1e6 * cpu / size)
    return figures


def _make_lots(place: Place, sender: Sender, size: int, count: int) -> list[Path]:
    with contextlib.closing(draw_notices(place.store, size * count)) as notices:
        return [sender.make(itertools.islice(notices, size)) for _ in range(count)]


def _apply(writer: Writer, path: Path) -> tuple[float, float]:
    """Wall and CPU seconds of one delta, its manifest's check included."""
    started, cpu = time.perf_counter(), time.process_time()
    apply_delta(writer, identify(path, "delta", "main"), PLAN, UnixSeconds(int(time.time())), Quiet(), TERMS)
    return time.perf_counter() - started, time.process_time() - cpu


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
    first, last, *others = _draw_ports(place.store, 2 + effort.visible + effort.waiting + beside)
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
    with _child(command, log, core) as process:

        def check() -> None:
            if process.poll() is not None:
                raise ChildFailed(f"sync ended: {log.read_text()[-1000:]}")

        yield check


@contextlib.contextmanager
def _child(command: list[str], log: Path, core: int) -> Iterator[subprocess.Popen[bytes]]:
    """A process on a core; ended by its own pid: asked first, killed when it does not listen."""
    with log.open("w") as out, pinned(core):
        process = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


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
    p50, p99 = (1000 * _quantile(seconds, share) for share in (0.5, 0.99))
    poll = 1000 * POLL_SECONDS
    return [
        Figure(f"notice to visible, poll {poll:g} ms, p50", p50, "ms"),
        Figure(f"notice to visible, poll {poll:g} ms, p99", p99, "ms"),
        Figure("the same without poll, p50", p50 - poll / 2, "ms"),
        Figure("the same without poll, p99", p99 - poll, "ms"),
    ]


def _late_figures(late: list[float]) -> list[Figure]:
    p50, p99, worst = (1000 * _quantile(late, share) for share in (0.5, 0.99, 1.0))
    return [
        Figure("agreed second to visible, p50", p50, "ms"),
        Figure("agreed second to visible, p99", p99, "ms", aim=f"<= {LATE_MS_AIM:g} ms", met=p99 <= LATE_MS_AIM),
        Figure("agreed second to visible, worst", worst, "ms"),
    ]


def _quantile(values: Sequence[float], share: float) -> float:
    """A value that was seen, not one between two."""
    return sorted(values)[min(int(share * len(values)), len(values) - 1)]


# -- lookups while a delta applies -----------------------------------------------------------------------


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
        found = [(self.calm.get(at, False), _quantile([ns for _, ns in pairs], share)) for at, pairs in each]
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


def _lookups(
    place: Place, sender: Sender, effort: Effort, numbers: list[str], server_core: int, client_core: int
) -> list[Figure]:
    """The same questions before, during and after one large delta, and while something else keeps its core busy."""
    path = sender.make(draw_notices(place.store, effort.large))
    messages = itertools.cycle(npq.encode_query(at, number) for at, number in enumerate(numbers))
    with daemon(place.store, place.folder, server_core) as server, ThreadPoolExecutor(1) as thread:
        _ask_for(server, messages, effort.idle_seconds / 4)  # warms up
        before = _ask_for(server, messages, effort.idle_seconds)
        with _child(SPIN, place.folder / "spin.log", client_core):
            spinning = _ask_for(server, messages, effort.idle_seconds)
        loading = thread.submit(loader, "delta", path, "--store", place.store, "--accept-change", ACCEPTED)
        during = _ask(server, messages, loading.done)
        seconds = loading.result().seconds
        after = _ask_for(server, messages, effort.idle_seconds)
    return [
        Figure(f"a delta of {effort.large:,}, lookups meanwhile", seconds, "s"),
        Figure("notices applied in it, whole command", effort.large / seconds, "/s"),
        *_lookup_figures(during, spinning, before, after),
    ]


def _lookup_figures(during: Waited, spinning: Waited, before: Waited, after: Waited) -> list[Figure]:
    idle = before.beside(after)
    p99 = during.us(0.99)
    low, high = sorted(p99 / side.us(0.99) for side in (before, after))
    to_idle = Ratio(p99 / idle.us(0.99), low, high, "idle")
    met = to_idle.median <= LOOKUP_RATIO_AIM if idle.is_calm() and during.is_calm() else None
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
        Figure("p99 as the client has it, idle", _quantile(idle.client, 0.99) / 1e3, "us"),
        Figure("p99 as the client has it, meanwhile", _quantile(during.client, 0.99) / 1e3, "us"),
        Figure("questions without an answer", idle.lost + spinning.lost + during.lost, ""),
    ]


def _asked_numbers(dataset: Dataset) -> list[str]:
    with open_engine(dataset) as (engine, reader):
        return [str(tn) for tn in draw_queries(engine, reader, ASKED).tn]


def _ask_for(server: Server, messages: Iterator[bytes], seconds: float) -> Waited:
    until = time.monotonic() + seconds
    return _ask(server, messages, lambda: time.monotonic() > until)


def _ask(server: Server, messages: Iterator[bytes], is_over: Callable[[], bool]) -> Waited:
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
