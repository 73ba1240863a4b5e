"""Daemon and exchange within the system calls, families, modes and memory rights that their units leave them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from lookupd import clients
from lookupd.client import LookupClient
from lookupd.store.rights import FOLDER_MODE
from tests.conftest import PLAN, Workbench, free_port, wait_until
from tests.exchange import Exchange, delta_name, notice, wait_for_ack
from tests.sandbox import settings

UNITS = Path(__file__).parents[2] / "systemd"
NO_CAPABILITIES = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all")
NUMBER = "886912345678"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to have capabilities to give up")


@contextlib.contextmanager
def confined(unit: str, log: Path, *command: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    """Python's arguments, within a unit's sandbox. A call that is not allowed ends it, which the caller sees."""
    sandbox = [*NO_CAPABILITIES, sys.executable, "-m", "tests.sandbox", str(UNITS / unit)]
    with log.open("a") as out:
        process = subprocess.Popen(
            [*sandbox, sys.executable, *map(str, command)],
            cwd=UNITS.parent,
            stdout=out,
            stderr=out,
            umask=int(settings(UNITS / unit)["UMask"][0], 8),
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(20)
        finally:
            process.kill()
    assert code == 0, f"{signal.Signals(-code).name if code < 0 else code}\n{log.read_text()}"


def run(unit: str, folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    sandbox = [*NO_CAPABILITIES, sys.executable, "-m", "tests.sandbox", str(UNITS / unit)]
    words = [*sandbox, sys.executable, "-c", code, str(folder)]
    return subprocess.run(words, cwd=UNITS.parent, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("code", "end"),
    [
        ("print('fine')", 0),
        ("import socket; socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)", 0),
        ("import os; os.setpriority(0, 0, 19)", 0),
        ("import os; os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))", -signal.SIGSYS),
        ("import os, sys; os.chown(sys.argv[1], 0, 0)", -signal.SIGSYS),
        ("import ctypes; ctypes.CDLL(None).mount(0, 0, 0, 0, 0)", -signal.SIGSYS),
        ("import os, sys; os.chmod(sys.argv[1], 0o2750)", 1),
        ("import socket; socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)", 1),
        ("import socket; socket.socket(socket.AF_PACKET, socket.SOCK_RAW)", 1),
        ("import mmap; mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC)", 1),
        ("import socket; socket.socket().bind(('127.0.0.1', 53))", 1),
    ],
)
def test_sandbox_is_one(tmp_path: Path, code: str, end: int) -> None:
    """Else what follows would prove nothing."""
    done = run("lookupd@.service", tmp_path, code)
    assert done.returncode == end, done.stderr


def test_process_of_a_batch_needs_nothing_that_its_unit_forbids(loaded: Workbench) -> None:
    http = free_port()
    batches = f'[batches]\npath = "{loaded.folder}/batches"\nfree_min = "1MiB"\n'
    config = loaded.config(batches, f'http = "http://127.0.0.1:{http}"')
    log = loaded.folder / "daemon.log"
    with confined("lookupd@.service", log, "-m", "lookupd.cli", "serve", "--config", config) as daemon:
        wait_until(lambda: "serving" in log.read_text() or daemon.poll() is not None, 20)
        body, headers = b"0912345678\n", {"Content-Type": "text/csv"}
        request = urllib.request.Request(f"http://127.0.0.1:{http}/v1/batches", body, headers)
        assert urllib.request.urlopen(request, timeout=10).status == 201
        wait_until(lambda: "batch_done" in log.read_text() or daemon.poll() is not None, 20)


def test_daemon_needs_nothing_that_its_unit_forbids(each_engine: str, loaded: Workbench) -> None:
    npq, pdb, enum, sip, http = (free_port() for _ in range(5))
    listen = f"""npq = ["udp://127.0.0.1:{npq}", "tcp://127.0.0.1:{npq}"]
pdb = ["udp://127.0.0.1:{pdb}"]
enum = ["udp://127.0.0.1:{enum}", "tcp://127.0.0.1:{enum}"]
sip = ["udp://127.0.0.1:{sip}", "tcp://127.0.0.1:{sip}"]
http = "http://127.0.0.1:{http}"
"""
    config = loaded.config(listen=listen)
    log = loaded.folder / "confined.log"

    async def ask(scheme: str) -> str | None:
        async with LookupClient([f"{scheme}://127.0.0.1:{npq}"], timeout=5) as client:
            return (await client.query(NUMBER)).network_code

    with confined("lookupd@.service", log, "-m", "lookupd.cli", "serve", "--config", config) as process:
        wait_until(lambda: "serving" in log.read_text() or process.poll() is not None, 30)
        assert process.poll() is None, log.read_text()
        assert f"engine={each_engine}" in log.read_text()
        for scheme in ("udp", "tcp"):
            assert asyncio.run(ask(scheme)) == "1402"
        for server in (f"enum://127.0.0.1:{enum}/e164.arpa", f"sip://127.0.0.1:{sip}", f"sip+tcp://127.0.0.1:{sip}"):
            (view,) = clients.ask([server], (NUMBER,), PLAN, 5)
            assert view.outcome == "ported"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
            asker.settimeout(5)
            asker.sendto(b"886912345678\0", ("127.0.0.1", pdb))
        for path in ("metrics", "livez", "readyz", "v1/store/state", "v1/store/tables"):
            with urllib.request.urlopen(f"http://127.0.0.1:{http}/{path}", timeout=5) as reply:
                assert reply.status == 200
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: "config_applied" in log.read_text())
        loaded.delta({"kind": "return", "tn": NUMBER}, sequence=2)
        wait_until(lambda: asyncio.run(ask("udp")) != "1402")


def test_exchange_needs_nothing_that_its_unit_forbids(workbench: Workbench) -> None:
    workbench.load_tables()
    port, http = free_port(), free_port()
    (workbench.folder / "password").write_text("secret\n")
    (workbench.folder / "password").chmod(0o600)
    feeds = "\n".join(
        f'[feed.{name}]\nsource = "{url}"\npassword_file = "{workbench.folder}/password"\n{more}'
        for name, url, more in (
            ("web", f"https://127.0.0.1:{port}/feed/", 'user = "x"'),
            ("shell", f"sftp://x@127.0.0.1:{port}/feed", f'known_hosts = "{workbench.folder}/known"'),
        )
    )
    (workbench.folder / "known").write_text("")
    exchange = Exchange(workbench, f'[sync]\nhttp = "http://127.0.0.1:{http}"\nscrub = "10s"\n{feeds}')
    exchange.snapshot(1)
    with confined(
        "lookupd-sync@.service", exchange.log, "-m", "loader.cli", "sync", "--config", exchange.config
    ) as process:
        wait_until(
            lambda: (exchange.log.exists() and "syncing" in exchange.log.read_text()) or process.poll() is not None, 30
        )
        assert process.poll() is None, exchange.log.read_text()
        exchange.delta(2, notice(NUMBER, "1403"))
        wait_for_ack(exchange, delta_name(2), "applied")
        with urllib.request.urlopen(f"http://127.0.0.1:{http}/metrics", timeout=5) as reply:
            assert b"lookupd_" in reply.read()
        away = re.compile("source_unusable feed=([a-z]+)")
        wait_until(lambda: set(away.findall(exchange.log.read_text())) == {"web", "shell"})


@pytest.mark.parametrize("setgid", [True, False])
def test_store_made_within_the_sandbox_has_its_rights(workbench: Workbench, setgid: bool) -> None:
    """Which may not set setgid: the folder above has it, as systemd/lookupd.tmpfiles makes that."""
    state = workbench.folder / "state"
    state.mkdir()
    state.chmod(FOLDER_MODE if setgid else 0o750)
    workbench.store = state / "a"
    exchange = Exchange(workbench)
    with confined(
        "lookupd-sync@.service", exchange.log, "-m", "loader.cli", "sync", "--config", exchange.config
    ) as process:
        wait_until(lambda: "syncing" in exchange.log.read_text() or process.poll() is not None, 30)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (workbench.store, *workbench.store.iterdir())}
    folder = FOLDER_MODE if setgid else 0o750
    assert modes == {"a": folder, "spool": folder, "data.mdb": 0o640, "lock.mdb": 0o660, "writer.lock": 0o640}
