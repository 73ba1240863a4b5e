"""The connection to the engine: what is taken is checked; what is not taken says why, and what to do."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from loader.fleet.connect import Link, connect, telling
from loader.fleet.login import read_login
from lookupd.config import read_config
from lookupd.errors import ConfigError, SourceError
from lookupd.fleet import parse_version
from lookupd.settings import JetStreamSettings
from tests.conftest import free_port
from tests.nats_servers import VERSION, Certificates, NatsServer, User, make_certificates, nats_cluster, nats_server

RELAY = User("relay", "correct horse")


def settings(*servers: NatsServer, **more: object) -> JetStreamSettings:
    given = {"servers": tuple(server.url for server in servers), "server_version": VERSION, "replicas": 1} | more
    return JetStreamSettings(**given)  # type: ignore[arg-type]


def password_file(folder: Path, password: str = RELAY.password, mode: int = 0o600) -> str:
    path = folder / "password"
    path.write_text(password + "\n")
    path.chmod(mode)
    return str(path)


@contextlib.asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[str]:
    """A server that says so much and nothing more; returns its URL."""

    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        with contextlib.suppress(OSError):
            heard = b""
            while piece := await reader.read(4096):
                heard += piece
        said.append(heard)
        writer.close()

    said: list[bytes] = []
    server = await asyncio.start_server(say, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await server.wait_closed()
        assert all(b"horse" not in heard for heard in said), said


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("2.12.7", (2, 12, 7)),
        ("v2.14.0", (2, 14, 0)),
        ("2.9.10+dirty", (2, 9, 10)),
        ("2.13.0-RC.1", None),
        ("2.14.0-preview.2", None),
        ("2.12", None),
        ("", None),
        ("2.12.7\n", None),
    ],
)
def test_version_is_of_a_release_or_nothing(text: str, version: tuple[int, int, int] | None) -> None:
    assert parse_version(text) == version


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('servers = ["nats://192.0.2.7:4222"]', "without TLS only this machine is taken: write tls://"),
        ('servers = ["tls://192.0.2.7:4222"]', "servers beyond this machine need an account"),
        ('servers = ["nats://localhost:4222", "tls://127.0.0.1:4223"]', "are mixed"),
        ('servers = ["http://127.0.0.1:4222"]', "write it like tls://"),
        ('servers = ["nats://127.0.0.1"]', "write it like tls://"),
        ('servers = ["nats://127.0.0.1:x"]', "jetstream.servers"),
        ('servers = ["nats://a:b@127.0.0.1:4222"]', "names a user"),
        ('servers = ["nats://127.0.0.1:4222"]\nuser = "x"', "one needs the other"),
        ('servers = ["nats://127.0.0.1:4222"]\nkey = "x"', "one needs the other"),
        ('servers = ["nats://127.0.0.1:4222"]\nstream = "A.B"', "jetstream.stream"),
        ('servers = ["nats://127.0.0.1:4222"]\nsubject = "a.>"', "jetstream.subject"),
        ('servers = ["nats://127.0.0.1:4222"]\nsubject = "a..b"', "jetstream.subject"),
        ('servers = ["nats://127.0.0.1:4222"]\nreplicas = 0', "jetstream.replicas"),
        ('servers = ["nats://127.0.0.1:4222"]\nserver_version = "new"', "jetstream.server_version"),
        ('servers = ["nats://127.0.0.1:4222"]\nmax_age = "1m"', "jetstream.max_age"),
        ('servers = ["nats://127.0.0.1:4222"]\nmonitor = ["127.0.0.1:8222"]', "jetstream.monitor"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_a_start(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "a.toml").write_text(f"[jetstream]\n{text}\n")
    with pytest.raises(ConfigError, match=reason):
        read_config(tmp_path / "a.toml")


def test_secrets_that_others_may_read_are_refused(tmp_path: Path) -> None:
    server = NatsServer(tmp_path)
    file = password_file(tmp_path, mode=0o644)
    with pytest.raises(ConfigError, match=r"jetstream.password_file: .*others may read it .*chmod 600"):
        read_login(settings(server, user="relay", password_file=file))
    with pytest.raises(ConfigError, match=r"jetstream.password_file: .*as its only line"):
        read_login(settings(server, user="relay", password_file=password_file(tmp_path, "a\nb")))
    with pytest.raises(ConfigError, match=r"jetstream.password_file: .*No such file"):
        read_login(settings(server, user="relay", password_file=str(tmp_path / "none")))


def test_no_server_named_is_told() -> None:
    with pytest.raises(ConfigError, match="no server is named"):
        read_login(JetStreamSettings())


async def test_server_that_is_good_is_taken(tmp_path: Path) -> None:
    with nats_server(tmp_path) as server:
        engine = await connect(settings(server), "relay")
        assert (engine.version, engine.alive) == (VERSION, True)
        assert engine.client.new_inbox().startswith("_INBOX.relay.")
        await engine.close()
        assert not engine.alive


async def test_server_below_the_floor_is_refused(tmp_path: Path) -> None:
    told = r"is of version 2.9.10, and 2.12.7 is the lowest that is taken: upgrade"
    with nats_server(tmp_path) as server, pytest.raises(SourceError, match=told):
        await connect(settings(server, server_version=JetStreamSettings().server_version), "relay")


@pytest.mark.parametrize(
    ("info", "reason"),
    [
        (b'{"version": "2.14.0-RC.1", "headers": true, "jetstream": true}', "which is no release"),
        (b'{"version": "2.14.0", "headers": true}', "serves no JetStream"),
        (b"{}", "which is no release"),
        (b"nonsense", "info message"),
        (b"[]", "is no NATS server that we know"),
    ],
)
async def test_server_that_is_none_of_ours_is_refused(info: bytes, reason: str) -> None:
    async with answering(b"INFO " + info + b"\r\nPONG\r\n") as place:
        with pytest.raises(SourceError, match=reason):
            await connect(JetStreamSettings(servers=(f"nats://{place}",)), "relay")


async def test_password_is_not_told_to_a_server_without_tls(tmp_path: Path) -> None:
    """Somebody in between may strike TLS from what the server offers."""
    certificates = make_certificates(tmp_path)
    info = b'INFO {"version": "2.14.0", "headers": true, "jetstream": true, "auth_required": true}\r\nPONG\r\n'
    async with answering(info) as place:
        given = JetStreamSettings(
            servers=(f"tls://{place}",),
            user=RELAY.name,
            password_file=password_file(tmp_path),
            ca_file=str(certificates.authority),
        )
        with pytest.raises(SourceError, match="offers no TLS"):
            await connect(given, "relay")


async def test_server_that_says_nothing_is_left_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loader.fleet.connect.ENGINE_CONNECT_SECONDS", 0.2)
    async with answering(b"") as place:
        with pytest.raises(SourceError, match="no answer in time"):
            await connect(JetStreamSettings(servers=(f"nats://{place}",)), "relay")


async def test_account_and_tls_are_really_used(tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path / "tls")
    with nats_server(tmp_path / "server", users=[RELAY], certificates=certificates) as server:
        good = {
            "user": RELAY.name,
            "password_file": password_file(tmp_path),
            "ca_file": str(certificates.authority),
        }
        engine = await connect(settings(server, **good), "relay")
        await engine.close()
        with pytest.raises(SourceError, match=r"TLS: unable to get local issuer certificate: see jetstream.ca_file"):
            await connect(settings(server, **(good | {"ca_file": ""})), "relay")
        other = make_certificates(tmp_path / "other")
        with pytest.raises(SourceError, match=r"TLS: .*see jetstream.ca_file"):
            await connect(settings(server, **(good | {"ca_file": str(other.authority)})), "relay")
        bad = tmp_path / "bad"
        bad.mkdir()
        with pytest.raises(SourceError, match=r"does not let us in .*see jetstream.user"):
            await connect(settings(server, **(good | {"password_file": password_file(bad, "wrong")})), "relay")


async def test_client_certificate_is_an_account_too(tmp_path: Path) -> None:
    made: Certificates = make_certificates(tmp_path / "tls")
    os.chmod(made.key, 0o600)
    with nats_server(tmp_path / "server", certificates=made) as server:
        given = settings(server, certificate=str(made.certificate), key=str(made.key), ca_file=str(made.authority))
        engine = await connect(given, "relay")
        await engine.close()
    os.chmod(made.key, 0o640)
    with pytest.raises(ConfigError, match=r"jetstream.key: .*others may read it"):
        read_login(given)


async def test_account_without_jetstream_is_told(tmp_path: Path) -> None:
    plain = 'accounts { PLAIN: { users: [{ user: "plain", password: "correct horse" }] } }'
    with nats_server(tmp_path / "server", extra=plain) as server:
        given = settings(server, user="plain", password_file=password_file(tmp_path))
        with pytest.raises(SourceError, match="JetStream is not enabled for this account"):
            await connect(given, "relay")


async def test_link_goes_to_the_server_that_is_left_and_tells_each_change_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with nats_cluster(tmp_path) as servers:
        link = Link(settings(*servers), "relay")
        engine = await link.engine()
        assert await link.engine() is engine
        next(server for server in servers if server.url == engine.server).kill()
        async with asyncio.timeout(10):
            await engine.lost.wait()
        assert not link.connected
        async with asyncio.timeout(20):
            while not link.connected:
                with contextlib.suppress(SourceError):
                    await link.engine()
                await asyncio.sleep(0.05)
        for server in servers:
            server.kill()
        async with asyncio.timeout(10):
            await (await link.engine()).lost.wait()
        for _ in range(3):
            with pytest.raises(SourceError):
                await link.engine()
        await link.close()
    told = capsys.readouterr().err
    assert (told.count("engine_connected"), told.count("engine_lost")) == (2, 2)
    assert "Traceback" not in told


async def test_nobody_there_is_a_source_error() -> None:
    with pytest.raises(SourceError, match=r"127.0.0.1:[0-9]+: .*[Cc]onnect"):
        await connect(JetStreamSettings(servers=(f"nats://127.0.0.1:{free_port()}",)), "relay")


async def test_request_that_gets_no_answer_ends_the_connection(tmp_path: Path) -> None:
    with nats_server(tmp_path) as server:
        engine = await connect(settings(server), "relay")
        server.kill()
        with pytest.raises(SourceError):
            async with telling(engine):
                await engine.jetstream.account_info()
        assert not engine.alive
