"""A daemon that is followed by another process again and again, and what it says to its supervisor meanwhile."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.callers import Caller, Callers
from tests.conftest import Workbench, free_port, wait_until
from tests.supervisor import NotifySocket

PORTED = "886912345678"


class Site:
    """A daemon, whichever process it is by now, and what it says to its supervisor."""

    def __init__(self, bench: Workbench) -> None:
        self.bench = bench
        self.ports = {name: free_port() for name in ("npq", "pdb", "enum", "sip", "http")}
        self.engine = Workbench.engine
        self.store = bench.store
        self.threads = 0
        self.more = ""
        self.config = bench.folder / "lookupd.toml"
        self.log = bench.folder / "daemon.log"
        self._notify = NotifySocket(bench.folder / "notify")
        self.pid = 0

    def configure(self) -> None:
        """Write the configuration, as a whole or not at all."""
        ports = self.ports
        both = {name: f'["udp://127.0.0.1:{ports[name]}", "tcp://127.0.0.1:{ports[name]}"]' for name in ports}
        part = self.config.with_suffix(".part")
        part.write_text(
            f'[engine]\nudp = "{self.engine}"\nthreads = {self.threads}\n[store]\npath = "{self.store}"\n'
            f"[listen]\nnpq = {both['npq']}\nenum = {both['enum']}\nsip = {both['sip']}\n"
            f'pdb = ["udp://127.0.0.1:{ports["pdb"]}"]\nhttp = "http://127.0.0.1:{ports["http"]}"\n{self.more}'
        )
        part.rename(self.config)

    @contextlib.contextmanager
    def run(self) -> Iterator[None]:
        self.configure()
        environment = os.environ | {"PYTHONUNBUFFERED": "1"} | self._notify.environment()
        with self.log.open("w") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "lookupd.cli", "serve", "--config", str(self.config)],
                stdout=out, stderr=out, env=environment,
            )  # fmt: skip
        self.pid = process.pid
        try:
            wait_until(lambda: "ready" in self.log.read_text() or process.poll() is not None, 20)
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)
                wait_until(lambda: not is_alive(self.pid))
            if process.poll() is None and process.pid == self.pid:
                process.kill()
            process.wait()
            self._notify.close()

    def count(self, event: str) -> int:
        return self.log.read_text().count(event)

    def hand_over(self, number: signal.Signals = signal.SIGUSR2) -> None:
        """Have it done, and know who serves after it."""
        before = self.pid
        os.kill(before, number)
        self.pid = self.told_main_pid()
        wait_until(lambda: not is_alive(before), 20)

    def told_main_pid(self) -> int:
        return int(self._notify.wait_for("MAINPID"))

    def callers(self, source: str = "127.0.0.1") -> Callers:
        udp = [("udp", dialect) for dialect in ("npq", "pdb", "enum", "sip")]
        tcp = [("tcp", dialect) for dialect in ("npq", "enum", "sip")]
        ports = self.ports
        return Callers([Caller(dialect, by, ports[dialect], PORTED, source) for by, dialect in udp + tcp])


def is_alive(pid: int) -> bool:
    """Whether it runs: a zombie that its parent has not asked for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def children(pid: int) -> list[int]:
    """Processes that it started and that still run."""
    try:
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    found = [child for task in tasks for child in task.read_text().split()]
    return [int(child) for child in found if is_alive(int(child))]
