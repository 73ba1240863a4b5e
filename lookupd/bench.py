"""`lookupd bench`: what a server answers, how fast, and what gets lost. The asking itself is native code.

    report = run(Options(server="udp://127.0.0.1:4700", first=886912000000, last=886912999999, window=32, seconds=5))

What is looked at of an answer is its id and its outcome; whether it is right is a test's business.
"""

from __future__ import annotations

import contextlib
import ipaddress
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Literal

import msgspec
from rich.console import Console
from rich.table import Table

from lookupd.errors import ConfigError, LookupdError
from lookupd.limits import DNS_NAME_BYTES_MAX, NPQ_NUMBERS_MAX, NUMBER_CHARS_MAX
from lookupd.profiles import EnumSettings, check_name
from lookupd.settings import Endpoint, parse_endpoint

if TYPE_CHECKING:
    from lookupd import _native

IN_FLIGHT_MAX = {"npq": 1 << 22, "pdb": 65_535, "enum": 65_535, "sip": 1 << 22}
"""Queries in flight on one socket: `pdb` and DNS have ids of 16 bits; others are bounded by memory, 40 bytes each."""

APEX_DEFAULT = EnumSettings().apexes[0]
APEX_BYTES_MAX = DNS_NAME_BYTES_MAX - 2 * NUMBER_CHARS_MAX
"""On the wire: with it a name has room for the longest number that a file may hold."""

SOCKETS_MAX = 10_000
SECONDS_DEFAULT = 10.0
SECONDS_MAX = 1e6
"""Eleven days: what counts in nanoseconds has room for it many times over."""

COUNT_MAX = 10**15
"""At ten million a second, three years."""
TIMEOUT_SECONDS_MAX = 60.0
"""What the histogram reaches."""

PROGRESS_SECONDS = 0.5

BEHIND_NS_TOLD = 1_000_000
"""A client that shares its core is late by its turns of the scheduler now and then; below this nobody is misled."""

Progress = Callable[[int, int, int], None]
"""Told now and then: queries sent, received, lost."""


class NotBuilt(LookupdError):
    """The native module is missing."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What to ask, and how. rate: queries a second over all sockets, an open loop; None = a closed loop of `window`.

    numbers: a file, one a line, asked in its order and as they stand there; None = drawn evenly from `first` to `last`
    by `seed`, and asked in the global form where a dialect has one.
    apex: of enum. batch: numbers in each query. gso: join queries that leave together, take answers joined.
    seconds, count: whichever ends first; both None = SECONDS_DEFAULT. timeout: seconds until a query is lost.
    """

    server: str
    dialect: Literal["npq", "pdb", "enum", "sip"] = "npq"
    apex: str = APEX_DEFAULT
    numbers: Path | None = None
    first: int = 0
    last: int = 0
    seed: int = 1
    sockets: int = 1
    threads: int = 1
    window: int = 32
    rate: int | None = None
    batch: int = 1
    gso: bool = False
    seconds: float | None = None
    count: int | None = None
    timeout: float = 1.0
    remote: bool = False

    def endpoint(self) -> Endpoint:
        """Where the server is. Raises ValueError with the reason."""
        endpoint = parse_endpoint(self.server)
        if endpoint.transport.startswith("http") or not endpoint.port:
            raise ValueError(f"{self.server}: udp:// or tcp://, with a port")
        return endpoint

    def check(self) -> None:
        """Raises ValueError with the reason when it cannot be asked like that."""
        endpoint = self.endpoint()
        if not (endpoint.is_loopback or self.remote):
            raise ValueError(
                f"{endpoint.host} is beyond this machine: a load test of somebody else's server is an attack; "
                f"if it is yours, say --remote"
            )
        if self.numbers is None and not 0 < self.first <= self.last < 10**19:
            raise ValueError("numbers: a file of them, or a range whose end is not before its begin")
        self._check_dialect(endpoint)
        if not (1 <= self.threads <= self.sockets <= SOCKETS_MAX):
            raise ValueError(f"1 to {SOCKETS_MAX} sockets, and a thread for each at most")
        if not 1 <= self.batch <= NPQ_NUMBERS_MAX:
            raise ValueError(f"1 to {NPQ_NUMBERS_MAX} numbers in a query")
        if not 0 < self.timeout <= TIMEOUT_SECONDS_MAX:
            raise ValueError(f"timeout: above 0, at most {TIMEOUT_SECONDS_MAX:g} seconds")
        if self.seconds is not None and not 0 < self.seconds <= SECONDS_MAX:
            raise ValueError(f"seconds: above 0, at most {SECONDS_MAX:g}")
        if self.count is not None and not 1 <= self.count <= COUNT_MAX:
            raise ValueError(f"count: 1 to {COUNT_MAX}")
        self._check_in_flight()

    def _check_dialect(self, endpoint: Endpoint) -> None:
        if self.dialect == "pdb" and (endpoint.transport == "tcp" or self.batch != 1):
            raise ValueError("pdb: over UDP, one number a query")
        if self.dialect != "npq" and self.batch != 1:
            raise ValueError(f"{self.dialect}: one number a query")
        if self.dialect == "enum":
            try:
                check_name("apex", self.apex.rstrip("."), APEX_BYTES_MAX)
            except ConfigError as error:
                raise ValueError(str(error)) from None
        elif self.apex != APEX_DEFAULT:
            raise ValueError(f"apex: {self.dialect} has none: it is of the dialect enum")

    def _check_in_flight(self) -> None:
        most = IN_FLIGHT_MAX[self.dialect]
        if self.rate is None:
            if not 1 <= self.window <= most:
                raise ValueError(f"window: 1 to {most} with {self.dialect}")
        elif self.rate < 1:
            raise ValueError("rate: at least 1 a second")
        elif self.rate * self.timeout / self.sockets > most - 2:
            raise ValueError(
                f"{self.rate} a second for a timeout of {self.timeout:g} s are more than the {most} ids that "
                f"{self.dialect} has on a socket: more sockets, or a shorter timeout"
            )


class Latency(msgspec.Struct, frozen=True):
    """Of the answers in time, in nanoseconds. Lost queries are not in it: look at `lost` first."""

    min: int
    mean: int
    p50: int
    p90: int
    p99: int
    p99_9: int
    p99_99: int
    max: int


class Offloads(msgspec.Struct, frozen=True):
    """gso: queries left joined until the end. gro: answers could arrive joined."""

    gso: bool
    gro: bool


class Report(msgspec.Struct, frozen=True):
    """What came of a run. sent = received + lost. seconds: how long was asked.

    loop: closed = the next query waits for an answer, latencies count from the actual send; open = queries leave at
    their moment, latencies count from it. window is None in an open loop, rate in a closed one. unsent: of the lost,
    those that the kernel did not take. late, duplicate, unknown: answers to queries given up, answered already, never
    asked. histogram: (largest of the bucket in ns, answers). behind_ns_max: how late after its moment a query of an
    open loop left at most. cpu_seconds: of this side. stopped: ended early, by a signal. apex: of enum, otherwise None.
    """

    server: str
    dialect: str
    transport: str
    loop: Literal["closed", "open"]
    sockets: int
    window: int | None
    rate: int | None
    batch: int
    gso: bool
    threads: int
    timeout: float
    seconds: float
    sent: int
    received: int
    lost: int
    unsent: int
    late: int
    duplicate: int
    unknown: int
    sent_per_second: float
    received_per_second: float
    numbers_per_second: float
    latency_ns: Latency | None
    histogram: list[tuple[int, int]]
    outcomes: dict[str, int]
    offloads: Offloads
    behind_ns_max: int
    cpu_seconds: float
    stopped: bool
    apex: str | None = None


def run(options: Options, progress: Progress | None = None) -> Report:
    """Ask, and report. The calling thread waits meanwhile; Ctrl-C there ends the asking, not the report.

    Raises ValueError when it cannot be asked like that, NotBuilt, LookupdError when the server cannot be reached
    or the file cannot be read.
    """
    options.check()
    native = _load_native()
    control = native.LoadControl()
    asked = _asked(options)
    outcome: list[_native.LoadFound | Exception] = []
    done = threading.Event()

    def ask() -> None:
        try:
            outcome.append(native.load(asked, control))
        except Exception as error:  # told by the waiting thread
            outcome.append(error)
        done.set()

    with _stopped_by_ctrl_c(control) as stopped:
        threading.Thread(target=ask, name="bench").start()
        try:
            while not done.wait(PROGRESS_SECONDS):
                if progress is not None:
                    progress(*control.progress())
        finally:
            control.stop()
    found = outcome[0]
    if isinstance(found, OSError):
        raise LookupdError(f"{options.server}: {found}") from None
    if isinstance(found, Exception):
        raise found
    return _report(options, found, stopped.is_set())


@contextlib.contextmanager
def _stopped_by_ctrl_c(control: _native.LoadControl) -> Iterator[threading.Event]:
    """Meanwhile SIGINT ends the asking, and the event tells of it. Only the main thread hears signals."""
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return

    def stop(signum: int, frame: object) -> None:
        control.stop()
        stopped.set()

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGINT, before)


def _load_native() -> ModuleType:
    """The native module. Raises NotBuilt."""
    try:
        from lookupd import _native as native
    except ImportError as error:
        raise NotBuilt(
            f"the load tool is native code that is not built here ({error}): install Rust (as new "
            f"as native/Cargo.toml asks for: rustup has it) and run `pip install` again"
        ) from None
    return native


def _asked(options: Options) -> _native.LoadAsked:
    endpoint = options.endpoint()
    seconds = SECONDS_DEFAULT if options.seconds is None and options.count is None else options.seconds
    return {
        "host": str(ipaddress.ip_address(endpoint.host)),
        "port": endpoint.port,
        "tcp": endpoint.transport == "tcp",
        "dialect": options.dialect,
        "apex": options.apex,
        "numbers": None if options.numbers is None else str(options.numbers),
        "first": options.first,
        "last": options.last,
        "seed": options.seed & 0xFFFF_FFFF_FFFF_FFFF,
        "sockets": options.sockets,
        "threads": options.threads,
        "window": options.window if options.rate is None else 0,
        "rate": options.rate or 0,
        "batch": options.batch,
        "gso": options.gso,
        "seconds": seconds,
        "count": options.count,
        "timeout": options.timeout,
    }


def _report(options: Options, found: _native.LoadFound, stopped: bool) -> Report:
    seconds, answering = found["asking_ns"] / 1e9, found["answering_ns"] / 1e9
    return Report(
        server=options.server,
        dialect=options.dialect,
        transport=options.endpoint().transport,
        loop="closed" if options.rate is None else "open",
        sockets=options.sockets,
        window=options.window if options.rate is None else None,
        rate=options.rate,
        batch=options.batch,
        gso=options.gso,
        threads=options.threads,
        timeout=options.timeout,
        seconds=seconds,
        sent=found["sent"],
        received=found["received"],
        lost=found["lost"],
        unsent=found["unsent"],
        late=found["late"],
        duplicate=found["duplicate"],
        unknown=found["unknown"],
        sent_per_second=_per(found["sent"], seconds),
        received_per_second=_per(found["received"], answering),
        numbers_per_second=_per(found["numbers"], answering),
        latency_ns=None if found["latency_ns"] is None else Latency(**found["latency_ns"]),
        histogram=found["histogram"],
        outcomes=found["outcomes"],
        offloads=Offloads(found["gso"], found["gro"]),
        behind_ns_max=found["behind_ns_max"],
        cpu_seconds=found["cpu_ns"] / 1e9,
        stopped=stopped,
        apex=options.apex if options.dialect == "enum" else None,
    )


def _per(count: int, seconds: float) -> float:
    return round(count / seconds, 1) if seconds else 0.0


# -- for people ------------------------------------------------------------------------------------------


def headline(report: Report) -> str:
    """What was asked, in one line."""
    pace = f"window {report.window}" if report.loop == "closed" else f"{report.rate:,} a second"
    batch = f", {report.batch} numbers a query" if report.batch > 1 else ""
    sockets = "1 socket" if report.sockets == 1 else f"{report.sockets} sockets"
    spoken = report.dialect if report.apex is None else f"{report.dialect} {report.apex}"
    return f"{report.server} {spoken}: {report.loop} loop, {pace}, {sockets}{batch}, {report.seconds:.1f} s"


def tables(report: Report) -> list[Table]:
    """What came of it, and the latencies."""
    counts = Table("", "count", "a second")
    counts.add_row("sent", f"{report.sent:,}", f"{report.sent_per_second:,.0f}")
    counts.add_row("received", f"{report.received:,}", f"{report.received_per_second:,.0f}")
    counts.add_row("lost", f"{report.lost:,}", f"{100 * report.lost / max(report.sent, 1):.3g} %")
    for name in ("unsent", "late", "duplicate", "unknown"):
        if value := getattr(report, name):
            counts.add_row(name, f"{value:,}", "")
    counts.add_section()
    counts.add_row("numbers", f"{sum(report.outcomes.values()):,}", f"{report.numbers_per_second:,.0f}")
    for name, count in report.outcomes.items():
        if count:
            counts.add_row(f"  {name}", f"{count:,}", "")
    found = [counts]
    if report.latency_ns is not None:
        since = "actual" if report.loop == "closed" else "intended"
        latency = Table("latency", f"us since the {since} send")
        for name, value in msgspec.structs.asdict(report.latency_ns).items():
            latency.add_row(name.replace("_", "."), f"{value / 1000:,.1f}")
        found.append(latency)
    for table in found:
        for column in table.columns[1:]:
            column.justify = "right"
    return found


def remarks(report: Report) -> list[str]:
    """What a reader of the figures has to know before he believes them."""
    found = []
    if report.stopped:
        found.append(f"stopped after {report.seconds:.1f} s")
    if report.loop == "closed":
        found.append("closed loop: a slow server is asked less; how users fare at a given rate is told by --rate")
    elif report.behind_ns_max > BEHIND_NS_TOLD:
        found.append(
            f"the client itself was up to {report.behind_ns_max / 1e6:.1f} ms behind its schedule: "
            f"part of the latency is its own"
        )
    if report.outcomes.get("truncated"):
        found.append("truncated answers hold no record: a switch would ask again over TCP, this tool does not")
    if report.lost:
        found.append("lost queries are in no latency figure")
    if report.gso and report.transport == "udp" and not report.offloads.gso:
        found.append("the kernel or the device cannot join datagrams: queries left singly")
    return found


def show(report: Report) -> None:
    """On the terminal."""
    console = Console()
    console.print(headline(report), highlight=False, soft_wrap=True)
    for table in tables(report):
        console.print(table)
    for remark in remarks(report):
        console.print(f"- {remark}", highlight=False, soft_wrap=True)
