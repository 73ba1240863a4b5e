"""Programs for tests, each as a process of its own: `lookupd serve`, Kamailio, and calls by SIPp."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from lookupd.limits import HTTP_SCRAPES_PER_SECOND
from tests.conftest import free_port, halt, wait_until

HERE = Path(__file__).parent
DIP_SCENARIO = HERE / "sipp-np-dip.xml"
KAMAILIO = shutil.which("kamailio", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
SIPP = shutil.which("sipp")

needs_sipp = pytest.mark.skipif(not SIPP, reason="needs the package sip-tester")
needs_kamailio = pytest.mark.skipif(not (KAMAILIO and SIPP), reason="needs the packages kamailio and sip-tester")

ACCOUNTED = ("answered", "other", "refused", "dropped")


class Server:
    """`lookupd serve`, and its counters of one dialect. port: where that dialect is asked."""

    def __init__(self, process: subprocess.Popen[str], dialect: str, port: int, http_port: int) -> None:
        self.process = process
        self.dialect = dialect
        self.port = port
        self.url = f"http://127.0.0.1:{http_port}"
        self._next_scrape = 0.0

    def count(self, name: str, **labels: str) -> int:
        """A counter of queries, over all labels that are not given."""
        labels["dialect"] = self.dialect
        found = [
            s
            for s in self.samples()
            if s.name == f"lookupd_queries_{name}_total" and labels.items() <= s.labels.items()
        ]
        assert found, (name, labels)
        return int(sum(sample.value for sample in found))

    def samples(self) -> list[Sample]:
        """All counters as they are now: asked for more often than the daemon makes them anew, it gives older ones."""
        time.sleep(max(self._next_scrape - time.monotonic(), 0))
        self._next_scrape = time.monotonic() + 1 / HTTP_SCRAPES_PER_SECOND
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=5) as response:
            families = list(text_string_to_metric_families(response.read().decode()))
        return [sample for family in families for sample in family.samples]

    def is_conserved(self) -> bool:
        """Every query that came is accounted for."""
        return self.count("received") == sum(map(self.count, ACCOUNTED))

    def ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=5) as response:
                return bool(response.status == 200)
        except urllib.error.HTTPError as error:
            error.close()
            return False

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Halted as by a debugger: datagrams arrive and wait."""
        halt(self.process)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


class Sipp:
    """One run of SIPp, with its messages in `trace`. scenario: a file, or the name of one that SIPp brings along.
    port: of this machine, which it calls; None = it is called.
    """

    def __init__(
        self, folder: Path, scenario: Path | str, port: int | None, *options: str | Path, calls: int = 1
    ) -> None:
        name, given = (scenario, "-sn") if isinstance(scenario, str) else (scenario.stem, "-sf")
        self.log, self.errors, self.trace = (folder / f"{name}.{end}" for end in ("log", "errors", "trace"))
        for written in (self.log, self.errors, self.trace):
            written.unlink(missing_ok=True)
        assert SIPP
        command: list[str | Path] = [SIPP, *([f"127.0.0.1:{port}"] if port else []), given, scenario]
        command += ["-i", "127.0.0.1", "-ci", "127.0.0.1", "-cp", str(free_port()), "-nostdin", "-m", str(calls)]
        command += ["-trace_logs", "-log_file", self.log, "-trace_err", "-error_file", self.errors]
        command += ["-trace_msg", "-message_file", self.trace, *options]
        self.process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def wait(self) -> int:
        """Its exit status: 0 if all calls went as the scenario says."""
        return self.process.wait(60)

    def told(self) -> str:
        """What it found wrong."""
        return self.errors.read_text() if self.errors.exists() else ""

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


class Calls:
    """A call to each number, and what was answered. expected: see sipp-np-dip.xml."""

    def __init__(self, folder: Path, port: int, expected: Mapping[str, str], *options: str, rate: int = 400) -> None:
        self.expected = dict(expected)
        numbers = folder / "numbers.csv"
        numbers.write_text("SEQUENTIAL\n" + "".join(f"{number};{answer}\n" for number, answer in expected.items()))
        more = ["-inf", numbers, "-r", str(rate), "-p", str(free_port()), "-timeout", "20s", "-timeout_error", *options]
        self.sipp = Sipp(folder, DIP_SCENARIO, port, *more, calls=len(expected))

    def answers(self) -> dict[str, str]:
        """What was answered to each number, once all calls have ended."""
        code = self.sipp.wait()
        lines = self.sipp.log.read_text().splitlines() if self.sipp.log.exists() else []
        answers = dict(line.split(";") for line in lines)
        assert answers.keys() == self.expected.keys(), self.sipp.told()
        assert code == (answers != self.expected), self.sipp.told()
        return answers


@contextlib.contextmanager
def run_kamailio(
    folder: Path, config: str, port: int, defined: Mapping[str, object]
) -> Iterator[subprocess.Popen[bytes]]:
    """Kamailio until the block ends. port: where it answers OPTIONS. defined: replaces names of the configuration."""
    path, log = folder / "kamailio.cfg", folder / "kamailio.log"
    path.write_text(config)
    assert KAMAILIO
    command: list[str | Path] = [KAMAILIO, "-f", path, "-DD", "-E", "-m", "64", "-M", "8"]
    command += ["-Y", folder, "-P", folder / "kamailio.pid"]
    command += [part for name, value in defined.items() for part in ("-A", f"{name}={value}")]
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True)
    try:
        wait_until(lambda: process.poll() is not None or answers_options(port))
        assert process.poll() is None, log.read_text()
        yield process
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # it waits for its workers for up to a minute
        process.wait()


def answers_options(port: int) -> bool:
    """Whether a SIP server of this machine says that it is there."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(0.1)
        sock.connect(("127.0.0.1", port))
        here = f"127.0.0.1:{sock.getsockname()[1]}"
        head = f"OPTIONS sip:127.0.0.1:{port} SIP/2.0\r\nVia: SIP/2.0/UDP {here};branch=z9hG4bK{here}\r\n"
        rest = f"From: <sip:{here}>;tag=1\r\nTo: <sip:127.0.0.1>\r\nCall-ID: {here}\r\nCSeq: 1 OPTIONS\r\n\r\n"
        try:
            sock.send((head + rest).encode())
            return sock.recv(4096).startswith(b"SIP/2.0 200 ")
        except OSError:
            return False
