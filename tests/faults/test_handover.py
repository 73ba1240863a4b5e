"""A restart, an upgrade, a new configuration: another process takes the sockets over, and not one query is lost."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.callers import Caller, Callers
from tests.conftest import Workbench, free_port, wait_until
from tests.handovers import PORTED, Site, children, is_alive


@pytest.fixture
def site(loaded: Workbench, each_engine: str) -> Site:
    return Site(loaded)


def check(callers: Callers) -> None:
    """Nothing lost, nothing wrong, no connection closed. `pdb`'s answers that would be late are not sent: those, and
    those alone, may be missing."""
    print(callers)
    for caller in callers.all:
        assert caller.asked > 20, callers
        assert (caller.wrong, caller.closed) == (0, 0), callers
        if caller.dialect == "pdb":
            assert caller.lost <= caller.asked // 100, callers
        else:
            assert caller.lost == 0, callers


def test_restarts_under_load_lose_nothing(site: Site) -> None:
    with site.run(), site.callers() as callers:
        for _ in range(50):  # with each engine: 100
            site.hand_over()
            callers.wait(5)
    check(callers)
    assert site.count("handover_failed") == 0
    assert site.count("connections_lost") == 0


def test_upgrades_under_load_lose_nothing(site: Site, tmp_path: Path) -> None:
    """Another store beside the old one, another number of workers, the other engine, and back."""
    second = tmp_path / "store-of-the-next-format"
    shutil.copytree(site.store, second)
    first, engines = site.store, ("python", "native")
    with site.run(), site.callers() as callers:
        for at in range(10):  # with each engine first: 20
            site.store = second if at % 2 == 0 else first
            site.threads = at % 3
            if at % 4 == 3:
                site.engine = engines[engines.index(site.engine) - 1]
            site.configure()
            site.hand_over(signal.SIGHUP)
            callers.wait(5)
    check(callers)
    assert site.count("handover_failed") == 0


def test_reloads_under_load_lose_nothing(site: Site) -> None:
    with site.run(), site.callers() as callers:
        for at in range(20):
            site.more = f'[[client]]\nname = "c{at}"\nsources = ["127.0.0.0/8"]\n'
            site.configure()
            done = site.count("config_applied")
            os.kill(site.pid, signal.SIGHUP)
            wait_until(lambda done=done: site.count("config_applied") > done)  # type: ignore[misc]
            callers.wait(5)
    check(callers)


@pytest.mark.parametrize("trouble", ["no store", "other format", "killed", "ended"])
def test_successor_that_does_not_come_to_answer_changes_nothing(site: Site, tmp_path: Path, trouble: str) -> None:
    with site.run(), site.callers() as callers:
        before = site.pid
        if trouble == "no store":
            site.store = tmp_path / "nowhere"
        elif trouble == "other format":
            site.store = tmp_path / "format-9"
            shutil.copytree(site.bench.store, site.store)
            make_format(site.store, 9)
        site.configure()
        os.kill(before, signal.SIGHUP if trouble in {"no store", "other format"} else signal.SIGUSR2)
        if trouble in {"killed", "ended"}:
            wait_until(lambda: children(before) != [])
            os.kill(children(before)[0], signal.SIGKILL if trouble == "killed" else signal.SIGTERM)
        wait_until(lambda: site.count("handover_failed") == 1)
        wait_until(lambda: children(before) == [])
        callers.wait(20)
        assert is_alive(before)
        site.store = site.bench.store
        site.configure()
        site.hand_over()
        callers.wait(20)
    check(callers)


def test_end_is_not_kept_waiting_by_a_successor_that_hangs(site: Site) -> None:
    with site.run():
        os.kill(site.pid, signal.SIGUSR2)
        wait_until(lambda: children(site.pid) != [])
        (child,) = children(site.pid)
        wait_until(lambda: b"LOOKUPD_PREDECESSOR" in Path(f"/proc/{child}/environ").read_bytes())  # not before its exec
        os.kill(child, signal.SIGSTOP)
        began = time.monotonic()
        os.kill(site.pid, signal.SIGTERM)
        wait_until(lambda: not is_alive(site.pid), 30)
        assert time.monotonic() - began < 25
        assert not is_alive(child)


def test_sockets_that_systemd_holds_are_used_first(loaded: Workbench, each_engine: str) -> None:
    """Started by the first query, as by a socket unit: the query that woke it is answered, too."""
    port, http = free_port(), free_port()
    config = loaded.config(listen=f'npq = ["udp://127.0.0.1:{port}"]\nhttp = "http://127.0.0.1:{http}"')
    log = loaded.folder / "activated.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            ["systemd-socket-activate", "--datagram", "-l", f"127.0.0.1:{port}", "-l", f"127.0.0.1:{free_port()}",
             "-E", "PYTHONPATH", sys.executable, "-m", "lookupd.cli", "serve", "--config", str(config)],
            stdout=out, stderr=out,
        )  # fmt: skip
    try:
        wait_until(lambda: "Listening" in log.read_text())
        caller = Caller("npq", "udp", port, PORTED)
        with Callers([caller]) as callers:
            wait_until(lambda: "serving" in log.read_text(), 20)
            callers.wait(50)
            os.kill(process.pid, signal.SIGUSR2)  # it has become the daemon
            process.wait(20)
            callers.wait(50)
        assert caller.wrong == 0
        assert caller.lost <= 1, caller  # Python may take longer to start than a caller waits
        assert "socket_unused" in log.read_text()
    finally:
        process.terminate()  # while it waits for the first query, and after it has become the daemon
        process.wait(20)
        for line in log.read_text().splitlines():
            if "handing_over" in line:
                pid = int(line.split("to=")[1].split()[0])
                os.kill(pid, signal.SIGTERM)
                wait_until(lambda pid=pid: not is_alive(pid))  # type: ignore[misc]


def make_format(store: Path, version: int) -> None:
    """As a store of another version of the program says it."""
    import lmdb

    from lookupd.store.schema import META_FORMAT, U32

    with lmdb.open(str(store), max_dbs=16, lib_version=0) as environment:
        meta = environment.open_db(b"meta", create=False)
        with environment.begin(write=True) as transaction:
            transaction.put(META_FORMAT, U32.pack(version), db=meta)
