"""`lookupd health`: what it makes of looks, and the command beside a daemon that is halted, killed, started again."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lookupd.health import Verdict
from lookupd.limits import HEALTH_SILENCE_SECONDS, HEALTH_STEADY_SECONDS
from tests.conftest import Workbench, free_port, halt, run_cli, run_daemon, wait_until

HEALTHY, BAD = "0\n", "-100\n"


def healthy_verdict() -> Verdict:
    verdict = Verdict()
    verdict.take(None, False, 0, 0)
    assert verdict.take(None, False, HEALTH_STEADY_SECONDS, HEALTH_STEADY_SECONDS)
    return verdict


def test_nobody_is_healthy_before_a_steady_while() -> None:
    verdict = Verdict()
    assert not verdict.take(None, False, 10, 10.01)
    almost = 10 + HEALTH_STEADY_SECONDS - 0.01
    assert not verdict.take(None, False, almost, almost)
    assert verdict.take(None, False, almost, almost + 0.02)


def test_failures_are_forgiven_as_long_as_some_looks_are_good() -> None:
    verdict = healthy_verdict()
    for at in range(100):
        now = 10 + at * HEALTH_SILENCE_SECONDS / 2
        assert verdict.take(None, False, now, now)
        assert verdict.take("no answer", False, now, now + HEALTH_SILENCE_SECONDS / 4)
    assert not verdict.check(now + HEALTH_SILENCE_SECONDS + 0.01)


def test_trouble_begins_the_steady_while_anew() -> None:
    verdict = healthy_verdict()
    assert not verdict.check(30)
    assert not verdict.take(None, False, 40, 40)
    assert not verdict.take("no answer", False, 41, 41)
    assert not verdict.take(None, False, 42, 42)
    almost = 42 + HEALTH_STEADY_SECONDS - 0.01
    assert not verdict.take(None, False, almost, almost)
    assert verdict.take(None, False, 42 + HEALTH_STEADY_SECONDS, 42 + HEALTH_STEADY_SECONDS)


def test_good_look_that_ends_late_counts_from_its_beginning() -> None:
    verdict = healthy_verdict()
    assert not verdict.take(None, False, 10, 10 + HEALTH_SILENCE_SECONDS + 0.01)


def test_what_cannot_be_chance_counts_at_once() -> None:
    verdict = healthy_verdict()
    at = HEALTH_STEADY_SECONDS
    assert verdict.check(at + 0.1)
    assert not verdict.take("nobody listens", True, at + 0.1, at + 0.1)


@contextlib.contextmanager
def run_health(config: Path, file: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "lookupd.cli", "health", "--config", str(config), "--file", str(file), *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=10)


def says(file: Path, text: str) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return file.read_text() == text
    return False


@pytest.fixture
def config(loaded: Workbench) -> Path:
    port, http = free_port(), free_port()
    dialects = "".join(f'{name} = ["udp://0.0.0.0:{port + at}"]\n' for at, name in enumerate(["npq", "pdb", "enum"]))
    sip = f'sip = ["udp://127.0.0.1:{port + 3}"]\n'
    return loaded.config(listen=f'{dialects}{sip}http = "http://127.0.0.1:{http}"')


@pytest.mark.usefixtures("each_engine")
def test_file_follows_a_daemon_that_is_halted_killed_and_started_again(config: Path, tmp_path: Path) -> None:
    file = tmp_path / "health"
    with run_health(config, file) as health:
        with run_daemon(config) as daemon:
            wait_until(lambda: says(file, HEALTHY))
            halt(daemon)
            wait_until(lambda: says(file, BAD))
            daemon.send_signal(signal.SIGCONT)
            wait_until(lambda: says(file, HEALTHY))
            daemon.kill()
            daemon.wait()
            wait_until(lambda: says(file, BAD))
        with run_daemon(config):
            wait_until(lambda: says(file, HEALTHY))
            health.terminate()
            assert health.wait(10) == 0
            assert says(file, BAD)  # whoever does not look knows nothing
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".health")] == []


def test_daemon_without_data_is_not_healthy(workbench: Workbench, tmp_path: Path) -> None:
    config = workbench.config(
        listen=f'npq = ["udp://127.0.0.1:{free_port()}"]\nhttp = "http://127.0.0.1:{free_port()}"'
    )
    file = tmp_path / "health"
    with run_daemon(config), run_health(config, file):
        wait_until(lambda: says(file, BAD))
        time.sleep(HEALTH_STEADY_SECONDS + 0.5)
        assert says(file, BAD)
        workbench.load_tables()
        workbench.snapshot()
        wait_until(lambda: says(file, HEALTHY))


def test_listener_that_lies_or_is_missing_is_not_healthy(loaded: Workbench, tmp_path: Path) -> None:
    """A stranger answers in the daemon's place, with what is no answer."""
    port, http = free_port(), free_port()
    config = loaded.config(listen=f'npq = ["udp://127.0.0.1:{port}"]\nhttp = "http://127.0.0.1:{http}"')
    file = tmp_path / "health"
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        run_daemon(loaded.config(listen=f'http = "http://127.0.0.1:{http}"')),
        run_health(config, file) as health,
    ):
        loaded.config(listen=f'npq = ["udp://127.0.0.1:{port}"]\nhttp = "http://127.0.0.1:{http}"')
        udp.bind(("127.0.0.1", port))
        udp.settimeout(5)
        until = time.monotonic() + HEALTH_STEADY_SECONDS + 0.5
        while time.monotonic() < until:
            _, asker = udp.recvfrom(1000)
            for junk in (b"", b"\xff", b"\x95", bytes(60_000)):
                udp.sendto(junk, asker)
        assert says(file, BAD)
        assert health.poll() is None


def test_file_is_kept_fresh_and_made_again(config: Path, tmp_path: Path) -> None:
    file = tmp_path / "health"
    with run_health(config, file):
        wait_until(lambda: says(file, BAD))
        seen = file.stat().st_mtime_ns
        wait_until(lambda: file.stat().st_mtime_ns > seen)
        file.unlink()
        wait_until(lambda: says(file, BAD))


def test_what_cannot_work_is_told_with_the_way_out(loaded: Workbench, tmp_path: Path) -> None:
    config = loaded.config(listen='npq = ["udp://127.0.0.1:4700"]')
    told = run_cli("lookupd.cli", "health", "--config", config, "--file", tmp_path / "health")
    assert (told.returncode, "listen.http: no http://" in told.stderr) == (3, True)
    told = run_cli("lookupd.cli", "health", "--config", loaded.config(), "--file", tmp_path / "none" / "health")
    assert (told.returncode, "make it" in told.stderr) == (1, True)
