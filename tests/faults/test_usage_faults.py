"""The ledger of usage under trouble: counting and answering go on, and what can be saved later is."""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from lookupd.ledger import HOUR_SECONDS, Ledger, LedgerMissing, put_aside, read
from lookupd.usage import COLUMNS, COUNTED_SECONDS, FILE
from tests.callers import Caller, Callers
from tests.conftest import Workbench, free_port, run_cli, run_daemon, wait_until
from tests.small_disk import fill, small_disk

PORTED = "886912345678"


class Site:
    """A daemon that saves five times a second, and who asks it."""

    def __init__(self, bench: Workbench, folder: Path, every: str = "200ms") -> None:
        self.port, self.http = free_port(), free_port()
        self.folder, self.file = folder, folder / FILE
        self.config = bench.config(
            f'[usage]\npath = "{folder}"\nevery = "{every}"\n',
            f'npq = ["udp://127.0.0.1:{self.port}"]\nhttp = "http://127.0.0.1:{self.http}"\n',
        )
        self.asked = 0

    @contextlib.contextmanager
    def run(self) -> Iterator[subprocess.Popen[str]]:
        with run_daemon(self.config, "ready") as process:
            yield process

    def ask(self, count: int = 20) -> None:
        """So many questions at least, and not one without its answer."""
        caller = Caller("npq", "udp", self.port, PORTED)
        with Callers([caller]) as callers:
            callers.wait(count)
        assert (caller.lost, caller.wrong) == (0, 0), caller
        self.asked += caller.asked

    def kept(self) -> int:
        try:
            return sum(count for _, key, count in read(self.file, 0, 10**9) if key != COUNTED_SECONDS)
        except LedgerMissing:
            return 0

    def log(self) -> str:
        return self.config.with_suffix(".log").read_text()

    def metric(self, name: str) -> float:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}/metrics", timeout=5) as reply:
            text = reply.read().decode()
        (value,) = re.findall(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
        return float(value)

    def go_through(self, reason: str) -> None:
        """Trouble that has begun: it is told once, and nothing but the saving stops."""
        wait_until(lambda: "usage_unsaved" in self.log())
        self.ask()
        failed = 'lookupd_usage_saves_total{result="failed"}'
        before = self.metric(failed)
        wait_until(lambda: self.metric(failed) > before, 20)
        assert self.metric("lookupd_usage_unsaved_queries") > 0
        assert reason in self.log()

    def come_to_an_end(self) -> None:
        """Trouble that is over: nothing was lost."""
        wait_until(lambda: "usage_saved_again" in self.log(), 20)
        wait_until(lambda: self.kept() == self.asked, 20)
        assert self.metric("lookupd_usage_unsaved_queries") == 0
        assert self.metric("lookupd_usage_lost_queries_total") == 0
        assert self.log().count("usage_unsaved") == 1


def is_sound(file: Path) -> bool:
    with closing(sqlite3.connect(file)) as connection:
        return connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_full_disk_is_waited_out(loaded: Workbench, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1) as disk:
        site = Site(loaded, disk / "usage")
        with site.run():
            site.ask()
            wait_until(lambda: site.kept() == site.asked)
            filler = fill(disk, 0)
            site.ask()
            site.go_through("make room")
            filler.unlink()
            site.come_to_an_end()
        assert is_sound(site.file)


def test_full_disk_from_the_start_is_waited_out(loaded: Workbench, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1) as disk:
        filler = fill(disk, 0)
        site = Site(loaded, disk / "usage")
        with site.run():
            site.ask()
            site.go_through("usage.sqlite")
            filler.unlink()
            site.come_to_an_end()


def test_disk_that_is_read_only_is_waited_out(loaded: Workbench, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1) as disk:
        site = Site(loaded, disk / "usage")
        with site.run():
            site.ask()
            wait_until(lambda: site.kept() == site.asked)
            remount(disk, "ro")
            site.ask()
            site.go_through("its folder must be writable")
            remount(disk, "rw")
            site.come_to_an_end()


def remount(disk: Path, how: str) -> None:
    def remounted() -> bool:  # busy while a saving is under way
        return (
            subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], capture_output=True, check=False).returncode
            == 0
        )

    wait_until(remounted)


def test_ledger_that_another_process_holds_is_waited_for(loaded: Workbench, tmp_path: Path) -> None:
    site = Site(loaded, tmp_path / "usage")
    with site.run():
        site.ask()
        wait_until(lambda: site.kept() == site.asked)
        with closing(sqlite3.connect(site.file, isolation_level=None)) as holder:
            holder.execute("BEGIN IMMEDIATE")
            site.ask()
            site.go_through("another process holds it")
            holder.execute("ROLLBACK")
        site.come_to_an_end()


def test_stop_does_not_wait_long_for_a_ledger_that_is_held_and_tells_what_is_lost(
    loaded: Workbench, tmp_path: Path
) -> None:
    site = Site(loaded, tmp_path / "usage", every="1h")
    Ledger(site.file, COLUMNS).prune(0)
    with closing(sqlite3.connect(site.file, isolation_level=None)) as holder:
        with site.run():
            site.ask()
            holder.execute("BEGIN IMMEDIATE")
        assert f"usage_lost queries={site.asked}" in site.log()
        assert " stopped " in site.log().splitlines()[-1]


def test_garbage_in_the_ledger_s_place_is_put_aside(loaded: Workbench, tmp_path: Path) -> None:
    site = Site(loaded, tmp_path / "usage")
    with site.run():
        site.ask()
        wait_until(lambda: site.kept() == site.asked)
        garbage = b"garbage " * 4096
        part = site.folder / "part"
        part.write_bytes(garbage)
        part.rename(site.file)
        wait_until(lambda: "usage_begun" in site.log().partition("usage_damaged")[2])
        before, site.asked = site.asked, 0
        site.ask()
        wait_until(lambda: site.kept() == site.asked)
    (aside,) = put_aside(site.file)
    assert aside.read_bytes() == garbage
    assert before > 0
    assert site.log().count("usage_damaged") == 1


@pytest.mark.parametrize("page", [0, 1])
def test_damaged_page_is_put_aside(loaded: Workbench, tmp_path: Path, page: int) -> None:
    site = Site(loaded, tmp_path / "usage")
    ledger = Ledger(site.file, COLUMNS)
    for hour in range(500):
        ledger.add(hour, ("switches", "", "npq", "ported"), 1)
    ledger.save()
    content = bytearray(site.file.read_bytes())
    content[page * 4096 : (page + 1) * 4096] = bytes(4096) if page else b"\xff" * 4096
    site.file.write_bytes(content)
    with site.run():
        site.ask()
        wait_until(lambda: "usage_damaged" in site.log())
        wait_until(lambda: site.kept() == site.asked)
    assert len(put_aside(site.file)) == 1


def test_folder_that_goes_away_is_made_again(loaded: Workbench, tmp_path: Path) -> None:
    site = Site(loaded, tmp_path / "usage")
    with site.run():
        site.ask()
        wait_until(lambda: site.kept() == site.asked)
        shutil.move(site.folder, tmp_path / "moved")
        site.asked = 0
        site.ask()
        wait_until(lambda: site.kept() == site.asked)


@pytest.mark.usefixtures("each_engine")
def test_killed_daemon_loses_no_more_than_what_was_not_saved(loaded: Workbench, tmp_path: Path) -> None:
    site = Site(loaded, tmp_path / "usage")
    least = most = 0
    for _ in range(5):
        with site.run() as process:
            before = site.kept()
            caller = Caller("npq", "udp", site.port, PORTED)
            with Callers([caller]) as callers:
                callers.wait(50)
                asked = caller.asked - 1
                wait_until(lambda before=before, asked=asked: site.kept() >= before + asked)  # type: ignore[misc]
                process.send_signal(signal.SIGKILL)
                process.wait(10)
        least, most = least + asked, most + caller.asked
        assert is_sound(site.file)
    assert least <= site.kept() <= most


def test_writer_that_was_killed_while_it_saved_is_read_past(tmp_path: Path) -> None:
    """Its journal is there, and a part of what it wrote: a reader sees what was before, and changes nothing."""
    file = tmp_path / "usage" / FILE
    ledger = Ledger(file, COLUMNS)
    for hour in range(200):
        ledger.add(hour, ("switches", "", "npq", "ported"), 1)
    ledger.save()
    code = f"""
import os, sqlite3
connection = sqlite3.connect({str(file)!r}, isolation_level=None)
connection.execute("PRAGMA cache_size = 1")
connection.execute("BEGIN IMMEDIATE")
connection.execute("UPDATE counts SET count = 9")
connection.executemany("INSERT INTO counts VALUES (?, 'a', 'b', 'c', 'd', 1)", [(hour,) for hour in range(20000)])
os.kill(os.getpid(), 9)
"""
    before = file.read_bytes()
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    assert file.read_bytes() != before
    seen = {path: hashlib.sha256(path.read_bytes()).digest() for path in file.parent.iterdir()}
    assert len(seen) == 2
    assert sum(count for *_, count in read(file, 0, 10**9)) == 200
    assert {path: hashlib.sha256(path.read_bytes()).digest() for path in file.parent.iterdir()} == seen
    ledger.add(0, ("switches", "", "npq", "ported"), 1)
    ledger.save()
    assert sum(count for *_, count in read(file, 0, 10**9)) == 201


def test_reading_while_the_daemon_saves_keeps_neither_from_it(loaded: Workbench, tmp_path: Path) -> None:
    site = Site(loaded, tmp_path / "usage", every="100ms")
    with site.run():
        site.ask()
        wait_until(lambda: site.kept() > 0)
        for _ in range(3):
            done = run_cli("lookupd.cli", "usage", "--config", site.config, "--json")
            assert done.returncode == 0, done.stderr
            site.ask()
        wait_until(lambda: site.kept() == site.asked)
    assert "usage_unsaved" not in site.log()


def test_hour_of_a_saving_is_the_clock_s(loaded: Workbench, tmp_path: Path) -> None:
    site = Site(loaded, tmp_path / "usage")
    began = int(time.time()) // HOUR_SECONDS
    with site.run():
        site.ask()
    hours = {hour for hour, *_ in read(site.file, 0, 10**9)}
    assert hours <= {began, int(time.time()) // HOUR_SECONDS}
