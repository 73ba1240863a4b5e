"""The loader as one user, the daemon as another, and a third who gets nothing: on real files, with real rights."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lookupd.client import LookupClient
from lookupd.store.rights import FILE_MODE, FOLDER_MODE, LOCK_MODE
from tests.as_user import command, run_as
from tests.conftest import NETWORKS, RANGES, SNAPSHOT, Workbench, free_port, wait_until
from tests.exchange import Exchange, delta_name, notice

GROUP = 61_000
LOADER, DAEMON, STRANGER = 61_001, 61_002, 61_003
PORTED, MOVED = "886912345678", "886912345679"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be three users")


class Site:
    """A folder as systemd/lookupd.tmpfiles makes it, a source, and commands as either user."""

    def __init__(self, folder: Path, made: Path) -> None:
        """made: where stores lie that were loaded once."""
        self.folder, self.made = folder, made
        self.bench = Workbench(folder / "drafts")
        self.bench.folder.mkdir()
        self.state = folder / "state"
        self.state.mkdir()
        os.chown(self.state, LOADER, GROUP)
        self.state.chmod(FOLDER_MODE)
        self.bench.store = self.state / "a"
        self.source = folder / "source"
        self.exchange = Exchange(self.bench, source=self.source)
        os.chown(self.source, LOADER, GROUP)
        self.source.chmod(0o700)
        for path in (self.bench.folder, self.exchange.config):
            path.chmod(0o755)

    @property
    def store(self) -> Path:
        return self.bench.store

    def load(self, umask: int = 0o077) -> None:
        """Tables and a snapshot, by the loader's user; made once with each umask."""
        kept = self.made / f"{umask:o}"
        if not kept.exists():
            self._load(umask)
            kept.mkdir()
            copy(self.state, kept / "state")
            copy(self.source, kept / "source")
            return
        for name in ("state", "source"):
            shutil.rmtree(self.folder / name)
            copy(kept / name, self.folder / name)

    def _load(self, umask: int) -> None:
        for name, content in (("networks.csv", NETWORKS), ("ranges.csv", RANGES)):
            path = self.bench.write(name, content)
            path.chmod(0o644)
            self.loader(path.stem, path, "--store", self.store, umask=umask)
        self.exchange.snapshot(1, SNAPSHOT)
        self.sync(umask)

    def sync(self, umask: int = 0o077) -> None:
        self.loader("sync", "--once", "--config", self.exchange.config, umask=umask)

    def loader(self, *arguments: str | Path, uid: int = LOADER, umask: int = 0o077) -> None:
        done = run_as(uid, GROUP, umask, "loader.cli", *arguments)
        assert done.returncode == 0, done.stdout + done.stderr

    def modes(self) -> dict[str, int]:
        """Of the store's folder, as `.`, and of what lies in it."""
        found = {".": self.store, **{path.name: path for path in self.store.iterdir() if path.is_file()}}
        return {name: stat.S_IMODE(path.stat().st_mode) for name, path in found.items()}

    @contextlib.contextmanager
    def daemon(self, engine: str, uid: int, gid: int = GROUP, wait_for: str = "serving") -> Iterator[int]:
        """`lookupd serve` by this user; yields its npq port. Its log is `self.log`."""
        port = free_port()
        config = self.bench.write(
            "serve.toml",
            f'[engine]\nudp = "{engine}"\nthreads = 1\n[store]\npath = "{self.store}"\nmap_size = "1GiB"\n'
            f'[listen]\nnpq = ["udp://127.0.0.1:{port}"]\n',
        )
        config.chmod(0o644)
        with self.log.open("w") as log:
            process = subprocess.Popen(
                command(uid, gid, 0o077, "lookupd.cli", "serve", "--config", config),
                cwd=Path(__file__).parents[2],
                stdout=log,
                stderr=log,
            )
        try:
            wait_until(lambda: wait_for in self.log.read_text() or process.poll() is not None, 30)
            assert process.poll() is None, self.log.read_text()
            yield port
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                assert process.wait(15) == 0, self.log.read_text()
            finally:
                process.kill()

    @property
    def log(self) -> Path:
        return self.folder / "serve.log"


def copy(folder: Path, to: Path) -> None:
    """With owners and modes."""
    subprocess.run(["cp", "-a", str(folder), str(to)], check=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("loaded")


@pytest.fixture
def site(made: Path) -> Iterator[Site]:
    """Beside pytest's folders, into which only root may look."""
    folder = Path(tempfile.mkdtemp(prefix=f"lookupd-users-{os.getpid()}-"))
    folder.chmod(0o755)
    try:
        yield Site(folder, made)
    finally:
        shutil.rmtree(folder)


def network_of(port: int, number: str) -> str | None:
    async def ask() -> str | None:
        async with LookupClient([f"udp://127.0.0.1:{port}"], timeout=5) as client:
            return (await client.query(number)).network_code

    return asyncio.run(ask())


def shell(uid: int, gid: int, script: str, *arguments: Path) -> bool:
    """Whether it succeeds as this user."""
    words = ["sh", "-c", script, "sh", *map(str, arguments)]
    done = subprocess.run(words, user=uid, group=gid, extra_groups=[], cwd="/", capture_output=True, check=False)
    return done.returncode == 0


def test_daemon_of_another_user_serves_and_follows_what_it_cannot_change(each_engine: str, site: Site) -> None:
    site.load()
    data = site.store / "data.mdb"
    with site.daemon(each_engine, DAEMON) as port:
        assert f"engine={each_engine}" in site.log.read_text()
        assert network_of(port, PORTED) == "1402"
        assert network_of(port, MOVED) == "1401"
        site.exchange.delta(2, notice(MOVED, "1403"))
        site.sync()
        assert site.exchange.acked(delta_name(2)) == "applied"
        wait_until(lambda: network_of(port, MOVED) == "1403")
        before = data.read_bytes()
        for script in (': >> "$1"', 'exec 3<> "$1"', 'rm -f "$1"', 'mv "$1" "$1.x"', ': > "$1.new"', 'chmod 666 "$1"'):
            assert not shell(DAEMON, GROUP, script, data), script
        assert data.read_bytes() == before
    assert all(path.stat().st_uid == LOADER for path in site.store.rglob("*"))


@pytest.mark.parametrize("umask", [0o077, 0o022, 0o000])
def test_store_has_its_rights_whatever_the_umask(site: Site, umask: int) -> None:
    site.load(umask)
    expected = {".": FOLDER_MODE, "data.mdb": FILE_MODE, "lock.mdb": LOCK_MODE}
    assert site.modes() == expected | dict.fromkeys(("data.length", "writer.lock"), FILE_MODE)
    assert all(path.stat().st_gid == GROUP for path in [site.store, *site.store.iterdir()])


def test_stranger_gets_nothing_of_the_store(site: Site) -> None:
    site.load(0o000)
    files = [path for path in site.state.rglob("*") if path.is_file()]
    assert len(files) > 5  # the spool's too
    for path in files:
        assert not shell(STRANGER, STRANGER, 'cat "$1"', path), path
    assert not shell(STRANGER, STRANGER, 'ls "$1"', site.store)
    assert not shell(STRANGER, GROUP + 7, 'ls "$1"', site.state)
    assert shell(DAEMON, GROUP, 'cat "$1"', site.store / "data.mdb")


def test_store_of_an_older_version_goes_on_under_its_user_and_is_told_from_another(
    each_engine: str, site: Site
) -> None:
    site.load()
    site.store.chmod(0o755)
    for path in site.store.iterdir():
        if path.is_file():
            path.chmod(0o644)
    before = site.modes()
    with site.daemon(each_engine, LOADER) as port:
        assert network_of(port, PORTED) == "1402"
        site.exchange.delta(2, notice(MOVED, "1403"))
        site.sync()
        wait_until(lambda: network_of(port, MOVED) == "1403")
    assert site.modes() == before | {"data.length": FILE_MODE}  # which each commit makes anew
    with site.daemon(each_engine, DAEMON, wait_for="store_unavailable"):
        assert "Permission denied" in site.log.read_text()
        (site.store / "lock.mdb").chmod(LOCK_MODE)
        wait_until(lambda: "store_opened" in site.log.read_text())


def test_store_that_root_makes_or_restores_is_the_loaders(site: Site) -> None:
    path = site.bench.write("networks.csv", NETWORKS)
    site.loader("networks", path, "--store", site.store, uid=0, umask=0o022)
    site.load()
    backups = site.folder / "backups"
    backups.mkdir()
    site.loader("backup", "--config", site.exchange.config, "--out", backups, uid=0, umask=0o022)
    (made,) = backups.iterdir()
    assert stat.S_IMODE(made.stat().st_mode) == 0o750
    assert {stat.S_IMODE(file.stat().st_mode) for file in made.iterdir()} == {FILE_MODE}
    rights = site.modes()
    with site.daemon("auto", DAEMON) as port:
        site.loader("restore", made, "--config", site.exchange.config, "--reason", "noc: rights", uid=0, umask=0o077)
        wait_until(lambda: "store_replaced" in site.log.read_text())
        assert network_of(port, PORTED) == "1402"
    kept = {name: mode for name, mode in site.modes().items() if "before-restore" not in name}
    assert kept == rights
    assert all(path.stat().st_uid == LOADER for path in [site.store, *site.store.iterdir()])
    shutil.rmtree(site.store)
    site.loader("restore", made, "--store", site.store, uid=0, umask=0o077)
    assert site.modes() == rights
    assert all(path.stat().st_uid == LOADER for path in [site.store, *site.store.iterdir()])
    site.sync()


def test_daemon_refuses_a_store_in_which_it_cannot_note_what_it_reads(each_engine: str, site: Site) -> None:
    site.load()
    subprocess.run(["mount", "--bind", str(site.store), str(site.store)], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(site.store)], check=True)
        with site.daemon(each_engine, DAEMON, wait_for="store_unavailable") as port:
            assert "ReadWritePaths=" in site.log.read_text()
            answer = asyncio.run(_outcome(port))
            assert answer == "unavailable"
            subprocess.run(["mount", "-o", "remount,bind,rw", str(site.store)], check=True)
            wait_until(lambda: "store_opened" in site.log.read_text())
            assert network_of(port, PORTED) == "1402"
    finally:
        subprocess.run(["umount", "--lazy", str(site.store)], check=True)


async def _outcome(port: int) -> str:
    async with LookupClient([f"udp://127.0.0.1:{port}"], timeout=5) as client:
        return str((await client.query(PORTED)).outcome)


def test_doctor_names_the_rights_of_an_older_store_and_how_to_mend_them(site: Site) -> None:
    site.load()

    def said() -> list[dict[str, str]]:
        done = run_as(0, 0, 0o022, "lookupd.cli", "doctor", "--json", "--user", str(DAEMON), "--config", config)
        return [check for check in json.loads(done.stdout)["checks"] if check["name"] == "store rights"]

    config = site.bench.write("doctor.toml", f'[store]\npath = "{site.store}"\n')
    (stranger,) = [check for check in said() if "look into" in check["message"]]
    assert (stranger["result"], str(site.state)) == ("fail", stranger["message"].partition(":")[0])
    for path in (site.state, site.store, *site.store.iterdir()):
        os.chown(path, LOADER, DAEMON)  # the group of a user that is a bare number
        path.chmod(stat.S_IMODE(path.stat().st_mode))
    site.state.chmod(FOLDER_MODE)
    site.store.chmod(FOLDER_MODE)
    assert [check["result"] for check in said()] == ["ok"]

    site.store.chmod(0o755)
    for path in site.store.iterdir():
        if path.is_file():
            path.chmod(0o644)
    found = said()
    assert {check["result"] for check in found} == {"warn", "fail"}
    for check in found:
        for line in check["way_out"].splitlines():
            commands = [
                part for part in line.split("; ") if not part.startswith("chgrp")
            ]  # there is no such group here
            subprocess.run("; ".join(commands), shell=True, check=True)
    assert [check["result"] for check in said()] == ["ok"]
    os.chown(site.store / "writer.lock", 0, DAEMON)
    (check,) = said()
    assert (check["result"], "writer.lock" in check["message"]) == ("warn", True)
    subprocess.run(check["way_out"], shell=True, check=True)
    assert [check["result"] for check in said()] == ["ok"]
