"""SFTP sources with the real server: OpenSSH's sshd on loopback, keys and folders of its own, nothing replaced.

Between it and the source stands a wire that counts bytes and can be cut or held. Passwords are checked by
asyncssh's server instead: sshd would ask this machine's own accounts.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncssh
import pytest

from loader.sources import Source
from loader.sources.open import open_source
from loader.sources.place import NAMES_MAX
from lookupd.errors import SourceError
from lookupd.settings import FeedSettings
from lookupd.units import Duration
from tests.conftest import free_port, wait_until
from tests.small_disk import small_disk

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin") or "sshd"
NAME = "snapshot-main-1.csv"
CONTENT = random.Random(1).randbytes(6_000_000)

# sshd wants /run/sshd, which its service makes at a start: here it gets a /run of its own.
OWN_RUN = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs tmpfs /run && mkdir -m 755 /run/sshd && exec "$@"', "sh"]


class Server:
    """sshd, its folder and keys."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.port = free_port()
        self.folder = home / "out"
        self.folder.mkdir()
        self.subsystem = "internal-sftp"
        self.host_key = self.make_key("host_key")
        self.user_key = self.make_key("user_key")
        (home / "authorized_keys").write_bytes(self.user_key.export_public_key())
        self.trust(self.host_key, self.port)
        self._process: subprocess.Popen[bytes] | None = None

    def make_key(self, name: str, kind: str = "ssh-ed25519") -> asyncssh.SSHKey:
        key = asyncssh.generate_private_key(kind)
        path = self.home / name
        path.touch(0o600)
        key.write_private_key(str(path))
        return key

    def trust(self, key: asyncssh.SSHKey, *ports: int, marker: str = "") -> None:
        """Make this the only key that known_hosts has, for these ports of this host."""
        lines = [f"{marker}[127.0.0.1]:{port} {key.export_public_key().decode()}" for port in ports]
        (self.home / "known_hosts").write_text("".join(lines))

    def start(self) -> None:
        config = self.home / "sshd_config"
        config.write_text(
            f"ListenAddress 127.0.0.1\nPort {self.port}\nHostKey {self.home}/host_key\nPidFile none\nUsePAM no\n"
            f"AuthorizedKeysFile {self.home}/authorized_keys\nStrictModes no\nPasswordAuthentication no\n"
            f"PermitRootLogin prohibit-password\nSubsystem sftp {self.subsystem}\n"
        )
        command = [SSHD, "-D", "-e", "-f", str(config)]
        with (self.home / "sshd.log").open("ab") as log:
            own_run = OWN_RUN if os.geteuid() == 0 else []
            self._process = subprocess.Popen([*own_run, *command], stdout=log, stderr=log)
        log_file = self.home / "sshd.log"
        wait_until(lambda: b"Server listening" in log_file.read_bytes() or self._process.poll() is not None)  # type: ignore[union-attr]
        assert self._process.poll() is None, log_file.read_text()

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
            self._process = None
        (self.home / "sshd.log").unlink(missing_ok=True)

    def source(self, port: int | None = None, timeout: float = 10, **settings: str) -> Source:
        url = f"sftp://{USER}@127.0.0.1:{port or self.port}{self.folder}"
        defaults = {"source": url, "known_hosts": f"{self.home}/known_hosts", "ssh_key": f"{self.home}/user_key"}
        return open_source("main", FeedSettings(**(defaults | settings), timeout=Duration(timeout)))  # type: ignore[arg-type]


def current_user() -> str:
    return subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()


USER = current_user()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    folder = tmp_path / "spool"
    folder.mkdir()
    return folder


@asynccontextmanager
async def used(source: Source) -> AsyncIterator[Source]:
    try:
        yield source
    finally:
        await source.close()


class Wire:
    """Loopback to the server: counts what it sends, breaks after so many bytes of it, or holds it back."""

    def __init__(self) -> None:
        self.received = 0
        self.connections = 0
        self.break_after: int | None = None
        self.flows = asyncio.Event()
        self.flows.set()
        self.port = 0
        self._writers: list[asyncio.StreamWriter] = []

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def carry(self, to: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        there, back = await asyncio.open_connection("127.0.0.1", to)
        self._writers += [writer, back]
        await asyncio.gather(self._pass(reader, back, counted=False), self._pass(there, writer, counted=True))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, counted: bool) -> None:
        try:
            while data := await reader.read(65_536):
                if counted:
                    await self.flows.wait()
                    self.received += len(data)
                    if self.break_after is not None and self.received > self.break_after:
                        self.cut()
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()


@asynccontextmanager
async def wire_to(server: Server) -> AsyncIterator[Wire]:
    wire = Wire()
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.create_task(wire.carry(server.port, reader, writer)))

    listener = await asyncio.start_server(accept, "127.0.0.1", 0)
    wire.port = listener.sockets[0].getsockname()[1]
    server.trust(server.host_key, server.port, wire.port)
    try:
        yield wire
    finally:
        wire.flows.set()
        wire.cut()
        listener.close()
        await asyncio.gather(*tasks)


def content_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# -- what it is for --------------------------------------------------------------------------------------


async def test_plain_files_are_listed(server: Server) -> None:
    for name in ("a.csv", "名.csv", ".hidden", "b.part", "c\nd"):
        (server.folder / name).touch()
    (server.folder / os.fsdecode(b"\xff.csv")).touch()
    (server.folder / "sub").mkdir()
    os.mkfifo(server.folder / "pipe")
    async with used(server.source()) as source:
        assert await source.names() == {"a.csv", "名.csv"}


async def test_thousands_of_files_are_listed(server: Server) -> None:
    names = {f"delta-main-{at}.ndjson" for at in range(2000)}
    for name in names:
        (server.folder / name).touch()
    async with used(server.source()) as source:
        assert await source.names() == names


async def test_listing_over_the_bound_is_refused(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loader.sources.place.NAMES_MAX", 20)
    assert NAMES_MAX > 20
    for at in range(30):
        (server.folder / f".hidden-{at}").touch()
    async with used(server.source()) as source:
        with pytest.raises(SourceError, match=r"more than 20 files in one folder: have the old ones moved away"):
            await source.names()


async def test_files_are_fetched_whole_over_one_connection(server: Server, spool: Path) -> None:
    files = {NAME: CONTENT, "empty": b"", "one": b"1", "piece": CONTENT[:32_768], "chunk": CONTENT[: 1 << 20]}
    for name, content in files.items():
        (server.folder / name).write_bytes(content)
    async with wire_to(server) as wire, used(server.source(wire.port)) as source:
        for name in files:
            await source.fetch(name, spool / name)
        assert wire.connections == 1
    assert content_of(spool) == files


async def test_acknowledgement_replaces_the_one_before(server: Server) -> None:
    async with used(server.source()) as source:
        assert await source.publish("x.ack.json", CONTENT)
        assert await source.publish("x.ack.json", b"2")
    assert content_of(server.folder) == {"x.ack.json": b"2"}


async def test_acknowledgement_replaces_the_one_before_on_a_server_that_cannot_replace(tmp_path: Path) -> None:
    server = Server(tmp_path)
    server.subsystem = "internal-sftp -P posix-rename,fsync"
    server.start()
    try:
        async with used(server.source()) as source:
            assert await source.publish("x.ack.json", b"1")
            assert await source.publish("x.ack.json", b"2")
        assert content_of(server.folder) == {"x.ack.json": b"2"}
    finally:
        server.stop()


async def test_server_that_takes_nothing_is_told(tmp_path: Path) -> None:
    server = Server(tmp_path)
    server.subsystem = "internal-sftp -R"
    server.start()
    try:
        async with used(server.source()) as source:
            with pytest.raises(SourceError, match=r"permission denied: have its operator let us read .* and write"):
                await source.publish("x.ack.json", b"1")
            assert await source.names() == frozenset()
    finally:
        server.stop()


# -- whom we trust ---------------------------------------------------------------------------------------


async def test_wrong_host_key_is_refused(server: Server, spool: Path) -> None:
    server.trust(server.make_key("other"), server.port)
    async with used(server.source()) as source:
        with pytest.raises(SourceError, match=r"is not the one in .*known_hosts: this may be another server") as caught:
            await source.names()
        assert server.host_key.get_fingerprint() in str(caught.value)
        assert "only then replace it there" in str(caught.value)
        server.trust(server.host_key, server.port)
        assert await source.names() == frozenset()  # no restart is needed


async def test_host_key_of_another_kind_is_refused(server: Server) -> None:
    server.trust(server.make_key("other", "ecdsa-sha2-nistp256"), server.port)
    async with used(server.source()) as source:
        with pytest.raises(SourceError, match=r"is not the one in|known_hosts has its host key of the right kind"):
            await source.names()


@pytest.mark.parametrize("known", ["", "[127.0.0.1]:1 ", "other.example ", "# "])
async def test_unknown_host_key_is_refused(server: Server, known: str) -> None:
    line = known + server.host_key.export_public_key().decode() if known else ""
    (server.home / "known_hosts").write_text(line)
    async with used(server.source()) as source:
        for _ in range(2):  # nothing was learnt by the first time
            with pytest.raises(SourceError, match=r"unknown host key SHA256:.*: .*known_hosts has none for this host"):
                await source.names()
    assert (server.home / "known_hosts").read_text() == line


async def test_revoked_host_key_is_refused(server: Server) -> None:
    server.trust(server.host_key, server.port)
    good = (server.home / "known_hosts").read_text()
    (server.home / "known_hosts").write_text(f"{good}\n@revoked {good}")
    async with used(server.source()) as source:
        with pytest.raises(SourceError, match=r"its host key is revoked in .*known_hosts"):
            await source.names()


async def test_known_hosts_that_went_away_is_told(server: Server) -> None:
    async with used(server.source()) as source:
        (server.home / "known_hosts").unlink()
        with pytest.raises(
            SourceError, match="known_hosts: No such file or directory: put the server's host key there"
        ):
            await source.names()


async def test_wrong_user_key_is_refused(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.make_key("stranger")
    agent = server.home / "agent"  # a key in an agent or in ~/.ssh must not help
    with subprocess.Popen(["ssh-agent", "-D", "-a", str(agent)], stdout=subprocess.DEVNULL) as process:
        try:
            wait_until(agent.exists)
            monkeypatch.setenv("SSH_AUTH_SOCK", str(agent))
            subprocess.run(["ssh-add", "-q", str(server.home / "user_key")], check=True)
            monkeypatch.setenv("HOME", str(server.home))
            (server.home / ".ssh").mkdir()
            shutil.copy(server.home / "user_key", server.home / ".ssh" / "id_ed25519")
            (server.home / ".ssh" / "config").write_text(f"IdentityFile {server.home}/user_key\n")
            async with used(server.source(ssh_key=str(server.home / "stranger"))) as source:
                message = f"the server refuses the login of {USER}: see that it knows our public key"
                with pytest.raises(SourceError, match=message):
                    await source.names()
        finally:
            process.terminate()


class Passwords(asyncssh.SSHServer):
    """Knows one user."""

    def password_auth_supported(self) -> bool:
        return True

    def validate_password(self, username: str, password: str) -> bool:
        return (username, password) == ("feed", "s3cret é")


async def test_password_is_taken_from_its_file(tmp_path: Path, spool: Path) -> None:
    server = Server(tmp_path)
    (server.folder / NAME).write_bytes(CONTENT)
    password = tmp_path / "password"
    password.touch(0o600)

    def serve(channel: asyncssh.SSHServerChannel) -> asyncssh.SFTPServer:
        return asyncssh.SFTPServer(channel)  # type: ignore[arg-type]

    async with await asyncssh.listen(
        "127.0.0.1", server.port, server_factory=Passwords, server_host_keys=[server.host_key], sftp_factory=serve
    ):
        url = f"sftp://127.0.0.1:{server.port}{server.folder}"
        for secret, good in (("s3cret é\n", True), ("other\n", False)):
            password.write_text(secret)
            settings = {"source": url, "user": "feed", "ssh_key": "", "password_file": str(password)}
            async with used(server.source(**settings)) as source:
                if good:
                    await source.fetch(NAME, spool / NAME)
                    assert await source.publish("x.ack.json", b"1")
                else:
                    with pytest.raises(SourceError, match="refuses the login of feed") as caught:
                        await source.names()
                    assert "other" not in str(caught.value)
    assert content_of(spool) == {NAME: CONTENT}


# -- what goes wrong -------------------------------------------------------------------------------------


async def test_server_that_never_speaks_is_cut_off(server: Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with used(server.source(silent.getsockname()[1], timeout=0.3)) as source:
            began = asyncio.get_running_loop().time()
            with pytest.raises(SourceError, match=r"no answer within 0.3 s: see that it is up and reached from here"):
                await source.names()
            assert asyncio.get_running_loop().time() - began < 2


@pytest.mark.parametrize(
    "banner", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-x\r\n" + CONTENT[:5000], b"x" * 9000]
)
async def test_server_that_speaks_something_else_is_told(server: Server, banner: bytes) -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(banner)
        writer.close()

    listener = await asyncio.start_server(speak, "127.0.0.1", 0)
    async with listener, used(server.source(listener.sockets[0].getsockname()[1], timeout=1)) as source:
        with pytest.raises(SourceError, match=r"^sftp://.*it is tried again$"):
            await source.names()


VERSION_3 = b"\0\0\0\5\2\0\0\0\3"
HANDLE = b"\0\0\0\x0a\x66\0\0\0\0\0\0\0\1h"


@pytest.mark.parametrize(
    "answers",
    [
        (b"",),
        (b"\0\0\0\0",),
        (b"\xff\xff\xff\xff",),
        (VERSION_3,),
        (VERSION_3, b"\0\0\0\1\x66"),
        (VERSION_3, b"\0\0\0\5\x66\0\0\0\0"),  # a handle without one
        (VERSION_3, b"\0\0\0\5\x69\0\0\0\0"),  # attributes that nobody asked for
        (VERSION_3, HANDLE, b"\0\0\0\x09\x68\0\0\0\1\xff\xff\xff\xff"),  # 4 billion names, and none
        (VERSION_3, HANDLE, b"\0\0\0\x09\x68\0\0\0\1\0\0\0\0"),  # no names, for ever
        (VERSION_3, CONTENT[:2000]),
    ],
)
async def test_server_that_talks_nonsense_is_told(tmp_path: Path, answers: tuple[bytes, ...]) -> None:
    server = Server(tmp_path)
    script = tmp_path / "nonsense.py"
    script.write_text(
        f"import os\nfor answer in {answers!r}:\n    os.read(0, 65536)\n    os.write(1, answer)\n"
        "while os.read(0, 65536):\n    pass\n"
    )
    server.subsystem = f"{sys.executable} -IS {script}"
    server.start()
    try:
        async with used(server.source(timeout=0.3)) as source:
            with pytest.raises(SourceError, match=r"^sftp://.*it is tried again$") as caught:
                await source.names()
            assert "no SFTP there" not in str(caught.value)
    finally:
        server.stop()


@pytest.mark.parametrize("call", ["names", "fetch", "publish", "close"])
async def test_server_that_falls_silent_is_cut_off(server: Server, spool: Path, call: str) -> None:
    (server.folder / NAME).write_bytes(CONTENT)
    async with wire_to(server) as wire, used(server.source(wire.port, timeout=2.0)) as source:
        await source.names()
        wire.flows.clear()
        began = asyncio.get_running_loop().time()
        if call == "close":
            await source.close()
        else:
            calls = {
                "names": source.names,
                "fetch": lambda: source.fetch(NAME, spool / NAME),
                "publish": lambda: source.publish("x.ack.json", b"1"),
            }
            with pytest.raises(SourceError, match=r"no answer within 2 s"):
                await calls[call]()
        assert asyncio.get_running_loop().time() - began < 10
        wire.flows.set()
        assert NAME in await source.names()  # by a new connection
        assert wire.connections == 2
    assert content_of(spool) == {}


async def test_cancelled_fetch_leaves_what_can_be_continued(server: Server, spool: Path) -> None:
    (server.folder / NAME).write_bytes(CONTENT)
    async with wire_to(server) as wire, used(server.source(wire.port)) as source:
        task = asyncio.create_task(source.fetch(NAME, spool / NAME))
        while not (spool / f"{NAME}.part").exists() or (spool / f"{NAME}.part").stat().st_size < 2_000_000:
            await asyncio.sleep(0.001)
        wire.flows.clear()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        wire.flows.set()
        wire.received = 0
        await source.fetch(NAME, spool / NAME)
        assert wire.received < len(CONTENT) - 1_900_000
    assert content_of(spool) == {NAME: CONTENT}


async def test_cut_transfer_is_continued_with_the_rest_only(server: Server, spool: Path) -> None:
    (server.folder / NAME).write_bytes(CONTENT)
    async with wire_to(server) as wire:
        async with used(server.source(wire.port)) as source:
            wire.break_after = 4_500_000
            with pytest.raises(SourceError, match="the connection broke: see that it is up"):
                await source.fetch(NAME, spool / NAME)
        kept = (spool / f"{NAME}.part").stat().st_size
        assert not (spool / NAME).exists()
        assert 3_000_000 < kept < 4_500_000
        wire.received, wire.break_after = 0, None
        async with used(server.source(wire.port)) as source:  # as after a restart
            await source.fetch(NAME, spool / NAME)
        assert len(CONTENT) - kept < wire.received < len(CONTENT) - kept + 100_000
    assert content_of(spool) == {NAME: CONTENT}


async def test_kept_connection_that_broke_is_opened_again_unnoticed(server: Server, spool: Path) -> None:
    (server.folder / NAME).write_bytes(CONTENT)
    async with wire_to(server) as wire, used(server.source(wire.port)) as source:
        await source.names()
        wire.cut()
        assert await source.names() == {NAME}
        wire.break_after = wire.received + 3_000_000
        task = asyncio.create_task(source.fetch(NAME, spool / NAME))
        while wire.received <= wire.break_after:
            await asyncio.sleep(0.001)
        wire.break_after = None
        await task
        assert wire.connections == 3
    assert content_of(spool) == {NAME: CONTENT}


async def test_server_that_is_down_is_told_and_found_again(server: Server) -> None:
    server.stop()
    async with used(server.source()) as source:
        with pytest.raises(SourceError, match=rf"^sftp://{USER}@127.0.0.1:{server.port}/.*: .*see that it is up"):
            await source.names()
        server.start()
        assert await source.names() == frozenset()


@pytest.mark.parametrize("change", ["size", "time"])
async def test_file_that_changed_after_a_cut_is_fetched_anew(server: Server, spool: Path, change: str) -> None:
    path = server.folder / NAME
    path.write_bytes(CONTENT)
    async with wire_to(server) as wire, used(server.source(wire.port)) as source:
        wire.break_after = 4_000_000
        with pytest.raises(SourceError):
            await source.fetch(NAME, spool / NAME)
        wire.break_after = None
        other = CONTENT[::-1] + (b"x" if change == "size" else b"")
        path.write_bytes(other)
        if change == "time":
            os.utime(path, (0, 1_700_000_000))
        await source.fetch(NAME, spool / NAME)
    assert content_of(spool) == {NAME: other}


async def test_file_that_changes_while_it_is_read_is_refused(server: Server, spool: Path) -> None:
    path = server.folder / NAME
    path.write_bytes(CONTENT)
    async with wire_to(server) as wire, used(server.source(wire.port)) as source:
        task = asyncio.create_task(source.fetch(NAME, spool / NAME))
        while wire.received < 1_000_000:
            await asyncio.sleep(0.001)
        os.utime(path, (0, 1_700_000_000))
        with pytest.raises(SourceError, match=f"{NAME} changed while it was read: it is fetched anew"):
            await task
        assert not (spool / NAME).exists()
        await source.fetch(NAME, spool / NAME)
    assert content_of(spool) == {NAME: CONTENT}


async def test_what_is_no_file_is_not_fetched(server: Server, spool: Path) -> None:
    os.mkfifo(server.folder / "pipe")
    (server.folder / "sub").mkdir()
    async with used(server.source()) as source:
        for name in ("pipe", "sub"):
            with pytest.raises(SourceError, match=f"{name} is no regular file"):
                await source.fetch(name, spool / name)
        with pytest.raises(SourceError, match="no such file or folder: see that the folder of the feed's `source`"):
            await source.fetch("gone", spool / "gone")
        with pytest.raises(SourceError, match="is no plain file name"):
            await source.fetch("../sshd_config", spool / "x")
    assert content_of(spool) == {}


async def test_full_disk_here_is_not_blamed_on_the_server(server: Server, tmp_path: Path) -> None:
    (server.folder / NAME).write_bytes(CONTENT)
    with small_disk(tmp_path / "disk", 2) as disk:
        async with used(server.source()) as source:
            with pytest.raises(SourceError, match=r"^spool: .*: No space left on device: .*free space on it"):
                await source.fetch(NAME, disk / NAME)
            assert content_of(disk) == {}
            assert await source.names() == {NAME}
