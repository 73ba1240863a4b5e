"""Child processes: commands measured to their end, servers pinned to a core and their CPU time read.

What they are asked, and what the figures mean, is for `store` and `load`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

POLL_SECONDS = 0.005
COMMAND_SECONDS_MAX = 1800.0
START_SECONDS_MAX = 120.0
STOP_SECONDS_MAX = 10.0
REQUEST_SECONDS_MAX = 2.0
ANSWER_SECONDS_MAX = 0.2
SETTLE_SECONDS = 0.02
"""A process that sleeps has all its CPU time in schedstat; one that runs may lack a tick of it."""


PATHS = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
"""Debian keeps servers where a plain user does not look."""


def find(program: str) -> str | None:
    """Where a program is, None if it is not installed."""
    return shutil.which(program, path=PATHS)


class ChildFailed(Exception):
    """A child process ended badly, or did not come up in time. The message has its last output."""


# -- commands --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ran:
    """A command that ended well. rss_bytes_peak: of its own memory, from exec to its end."""

    seconds: float
    rss_bytes_peak: int
    output: str


def loader(*arguments: str | Path) -> Ran:
    """`lookupd-loader` with these arguments, to its end. Raises ChildFailed."""
    return run([sys.executable, "-m", "loader.cli", *map(str, arguments)])


def run(command: list[str], environment: dict[str, str] | None = None) -> Ran:
    """Run a command to its end. Raises ChildFailed if it fails or takes longer than COMMAND_SECONDS_MAX."""
    started = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | (environment or {})
    )
    peak = 0
    output: str | None = None
    try:
        while output is None and time.perf_counter() - started < COMMAND_SECONDS_MAX:
            peak = max(peak, _rss_bytes_peak(process.pid))
            with contextlib.suppress(subprocess.TimeoutExpired):
                output, _ = process.communicate(timeout=POLL_SECONDS)
        seconds = time.perf_counter() - started
    finally:
        _end(process)
    if output is None or process.returncode:
        raise ChildFailed(f"{' '.join(command[1:4])}: exit code {process.returncode}: {(output or '')[-1000:]}")
    return Ran(seconds, peak, output)


def _rss_bytes_peak(pid: int) -> int:
    """Most resident memory so far; 0 when the process has ended. rusage would count ours before exec, too."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/status") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def _end(process: subprocess.Popen[str] | subprocess.Popen[bytes]) -> None:
    """By its own pid: asked first, killed when it does not listen."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


# -- servers ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Server:
    """A running server on loopback. start_seconds: from its start until it was ready."""

    pid: int
    ports: dict[str, int]
    start_seconds: float

    def cpu_ns(self) -> int:
        """CPU time of all threads so far, its own and its children's, those that have ended too, user and system, once
        they sleep."""
        time.sleep(SETTLE_SECONDS)
        return sum(time.clock_gettime_ns(_cpu_clock(pid)) for pid in _processes(self.pid))

    def resident_bytes(self) -> tuple[int, int]:
        """Memory of its own and of the processes that it started, shared pages once; and pages of files that it has
        mapped itself."""
        own = 0
        for pid in _processes(self.pid):
            shares = _kib(Path(f"/proc/{pid}/smaps_rollup"), "Pss_")
            own += shares["Pss_Anon"] + shares["Pss_Shmem"]
        return 1024 * own, 1024 * _kib(Path(f"/proc/{self.pid}/status"), "Rss")["RssFile"]


def _kib(file: Path, prefix: str) -> dict[str, int]:
    """Figures in kB of a file under /proc, by their names."""
    lines = file.read_text().splitlines()
    return {line.partition(":")[0]: int(line.split()[1]) for line in lines if line.startswith(prefix)}


def _cpu_clock(pid: int) -> int:
    """The id of a process's CPU clock, as the kernel makes them: see clock_getcpuclockid(3)."""
    return (~pid << 3) | 2


def _processes(pid: int) -> Iterator[int]:
    """A process and those that it started and that still run."""
    yield pid
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a thread that has ended meanwhile
            for child in (task / "children").read_text().split():
                yield from _processes(int(child))


@contextlib.contextmanager
def pinned(core: int) -> Iterator[None]:
    """This process, and those it starts meanwhile, on one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def child(command: list[str], log: Path, core: int) -> Iterator[subprocess.Popen[bytes]]:
    """A process on a core; ended by its own pid: asked first, killed when it does not listen."""
    with log.open("w") as out, pinned(core):
        process = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        yield process
    finally:
        _end(process)


@contextlib.contextmanager
def daemon(
    store: Path,
    folder: Path,
    core: int,
    engine: str = "auto",
    dialects: tuple[str, ...] = ("npq", "pdb"),
    profiles: str = "",
    name: str = "",
) -> Iterator[Server]:
    """`lookupd serve` on a store, ready to answer. folder: for its configuration and its log, by that name or the
    engine's.

    profiles: more of the configuration.
    """
    ports = {name: free_port() for name in (*dialects, "http")}
    urls = {name: [f"udp://127.0.0.1:{ports[name]}"] for name in dialects}
    if "npq" in urls:
        urls["npq"].append(f"tcp://127.0.0.1:{ports['npq']}")
    listen = "".join(f"{name} = {json.dumps(each)}\n" for name, each in urls.items())
    config = folder / f"bench-{name or engine}.toml"
    threads = "threads = 1\n" if engine == "native" else ""
    config.write_text(
        f'[engine]\nudp = "{engine}"\n{threads}'
        f'[store]\npath = "{store.resolve()}"\n[listen]\n{listen}'
        f'http = "http://127.0.0.1:{ports["http"]}"\n{profiles}'
    )
    command = [sys.executable, "-m", "lookupd.cli", "serve", "--config", str(config)]
    with serving(command, config.with_suffix(".log"), core, ports, lambda: _is_ready(ports["http"])) as server:
        yield server


@contextlib.contextmanager
def echo(folder: Path, core: int) -> Iterator[Server]:
    """The bare uvloop echo over UDP and TCP."""
    port = free_port()
    command = [sys.executable, "-m", "bench.echo", str(port)]
    with serving(command, folder / "echo.log", core, {"echo": port}, lambda: is_open(port)) as server:
        yield server


@contextlib.contextmanager
def native_echo(folder: Path, core: int) -> Iterator[Server]:
    """The bare native echo over UDP: recvmmsg, sendmmsg, plain sockets."""
    port = free_port()
    command = [sys.executable, "-m", "bench.native_echo", str(port)]
    with serving(command, folder / "native-echo.log", core, {"echo": port}, lambda: answers(port, b"?")) as server:
        yield server


@contextlib.contextmanager
def serving(
    command: list[str], log: Path, core: int, ports: dict[str, int], is_ready: Callable[[], bool]
) -> Iterator[Server]:
    """A server on a core, from when it is ready until it is ended. Raises ChildFailed with the end of its log."""
    started = time.perf_counter()
    with log.open("w") as out, pinned(core):
        process = subprocess.Popen(command, stdout=out, stderr=out, text=True)
    try:
        while not is_ready():
            seconds = time.perf_counter() - started
            if process.poll() is not None or seconds > START_SECONDS_MAX:
                raise ChildFailed(f"{' '.join(command[1:4])}: not ready: {log.read_text()[-1000:]}")
            time.sleep(POLL_SECONDS)
        yield Server(process.pid, ports, time.perf_counter() - started)
    finally:
        _end(process)


def _is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=REQUEST_SECONDS_MAX) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def is_open(port: int) -> bool:
    """Whether something takes TCP connections there."""
    try:
        socket.create_connection(("127.0.0.1", port), REQUEST_SECONDS_MAX).close()
    except OSError:
        return False
    return True


def answers(port: int, datagram: bytes, is_good: Callable[[bytes], bool] = bool) -> bool:
    """Whether a UDP server sends something good back for this datagram, within a short time."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(ANSWER_SECONDS_MAX)
        try:
            sock.connect(("127.0.0.1", port))
            sock.send(datagram)
            return is_good(sock.recv(1 << 16))
        except OSError:
            return False


def free_port() -> int:
    """A port that nothing listens on, over TCP at least."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
