"""Real NATS servers for tests: one, or three as a cluster; on loopback, in a test's own folder, ended by their pid.

TLS and users are optional. The version is Debian's; the settings that tests give say so (`settings_text`).
"""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.conftest import free_port, wait_until

VERSION = "2.9.10"
"""What Debian has; below the floor of production, so tests name it as theirs."""


@dataclass(frozen=True)
class User:
    """Of the one account there is. publish, subscribe: what is allowed; empty = everything."""

    name: str
    password: str
    publish: tuple[str, ...] = ()
    subscribe: tuple[str, ...] = ()

    def text(self) -> str:
        allowed = "".join(
            f", {verb}: {{ allow: [{', '.join(map(_quoted, subjects))}] }}"
            for verb, subjects in (("publish", self.publish), ("subscribe", self.subscribe))
            if subjects
        )
        rights = f", permissions: {{ {allowed.lstrip(', ')} }}" if allowed else ""
        return f'{{ user: "{self.name}", password: "{self.password}"{rights} }}'


@dataclass(frozen=True)
class Certificates:
    """Of an authority made for one test: its own, and a server's for 127.0.0.1 and localhost."""

    authority: Path
    certificate: Path
    key: Path


def make_certificates(folder: Path) -> Certificates:
    """With the openssl command."""
    folder.mkdir(parents=True, exist_ok=True)
    made = Certificates(folder / "ca.pem", folder / "server.pem", folder / "server.key")
    authority_key, request, extensions = folder / "ca.key", folder / "server.csr", folder / "server.ext"
    extensions.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\nextendedKeyUsage=serverAuth,clientAuth\n")
    authority = ["-CA", made.authority, "-CAkey", authority_key, "-CAcreateserial"]
    new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    for command in (
        ["req", "-x509", *new_key, "-keyout", authority_key, "-out", made.authority, "-subj", "/CN=test", "-days", "2"],
        ["req", *new_key, "-keyout", made.key, "-out", request, "-subj", "/CN=nats"],
        ["x509", "-req", "-in", request, *authority, "-out", made.certificate, "-days", "2", "-extfile", extensions],
    ):
        subprocess.run(["openssl", *map(str, command)], check=True, capture_output=True)
    return made


@dataclass
class NatsServer:
    """One server with JetStream. peers: the routes of its cluster, its own among them; none = it stands alone."""

    folder: Path
    name: str = "a"
    users: Sequence[User] = ()
    certificates: Certificates | None = None
    route_port: int = 0
    peers: Sequence[int] = ()
    extra: str = ""
    port: int = field(default_factory=free_port)
    monitor_port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """As `jetstream.servers` has it."""
        return f"{'tls' if self.certificates else 'nats'}://127.0.0.1:{self.port}"

    @property
    def monitor_url(self) -> str:
        """Of its monitoring port."""
        return f"http://127.0.0.1:{self.monitor_port}"

    @property
    def data(self) -> Path:
        """Its JetStream folder."""
        return self.folder / "data"

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    def start(self, *, ready: bool = True) -> None:
        """ready: wait until it serves JetStream; of a cluster, only once enough of them run."""
        assert self.process is None
        self.folder.mkdir(parents=True, exist_ok=True)
        config = self.folder / "nats.conf"
        config.write_text(self._config())
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(["nats-server", "-c", str(config)], stdout=log, stderr=log)
        if ready:
            self.wait_ready()

    def wait_ready(self, seconds: float = 30) -> None:
        """Until it says that it is healthy: JetStream runs and has caught up."""
        wait_until(self._is_ready, seconds)

    def stop(self) -> None:
        """SIGTERM."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """kill -9."""
        self._end(signal.SIGKILL)

    def wipe(self) -> None:
        """Its data is gone; it must not run."""
        assert self.process is None
        shutil.rmtree(self.data, ignore_errors=True)

    def save(self, to: Path) -> None:
        """A copy of its data, for `restore`; it must not run."""
        assert self.process is None
        shutil.copytree(self.data, to)

    def restore(self, saved: Path) -> None:
        """Its data as it was at `save`: what came since is gone."""
        self.wipe()
        shutil.copytree(saved, self.data)

    def _end(self, number: signal.Signals) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        with contextlib.suppress(OSError):
            with urllib.request.urlopen(f"{self.monitor_url}/healthz", timeout=2) as answer:
                answer.read()
            return not self.peers or bool(self.meta_leader())
        return False

    def meta_leader(self) -> str:
        """Whom the servers of a cluster agreed on; empty while they did not. Raises OSError."""
        with urllib.request.urlopen(f"{self.monitor_url}/jsz", timeout=2) as answer:
            cluster = json.load(answer).get("meta_cluster", {})
        return str(cluster.get("leader", "")) if cluster.get("cluster_size") == len(self.peers) else ""

    def _config(self) -> str:
        lines = [
            "host: 127.0.0.1",
            f"port: {self.port}",
            f'http: "127.0.0.1:{self.monitor_port}"',
            f"server_name: {self.name}",
            f'jetstream {{ store_dir: "{self.data}", max_mem: 64MB, max_file: 4GB }}',
        ]
        if self.certificates is not None:
            tls = self.certificates
            lines.append(f'tls {{ cert_file: "{tls.certificate}", key_file: "{tls.key}", ca_file: "{tls.authority}" }}')
        if self.users:
            users = ", ".join(user.text() for user in self.users)
            lines.append(f"accounts {{ FLEET: {{ jetstream: enabled, users: [{users}] }} }}")
        if self.peers:
            routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in self.peers)
            lines.append(f'cluster {{ name: fleet, listen: "127.0.0.1:{self.route_port}", routes: [{routes}] }}')
        return "\n".join([*lines, self.extra]) + "\n"


def _quoted(text: str) -> str:
    return f'"{text}"'


@contextlib.contextmanager
def nats_server(
    folder: Path, *, users: Sequence[User] = (), certificates: Certificates | None = None, extra: str = ""
) -> Iterator[NatsServer]:
    """One server, running; a test may stop, wipe and start it."""
    server = NatsServer(folder, users=users, certificates=certificates, extra=extra)
    server.start()
    try:
        yield server
    finally:
        server.kill()


@contextlib.contextmanager
def nats_cluster(
    folder: Path,
    count: int = 3,
    *,
    users: Sequence[User] = (),
    certificates: Certificates | None = None,
    extra: str = "",
) -> Iterator[list[NatsServer]]:
    """Servers that know each other, running and agreed; a test may kill and start any of them."""
    routes = [free_port() for _ in range(count)]
    servers = [
        NatsServer(folder / name, name, users, certificates, route, routes, extra)
        for name, route in zip("abcdefghi", routes, strict=False)
    ]
    try:
        for server in servers:
            server.start(ready=False)
        for server in servers:
            server.wait_ready(60)
        yield servers
    finally:
        for server in servers:
            server.kill()


def settings_text(servers: Sequence[NatsServer], **more: object) -> str:
    """The `[jetstream]` section for these servers; more: other keys of it, which go before ours."""
    values: dict[str, object] = {
        "servers": [server.url for server in servers],
        "server_version": VERSION,
        "replicas": 3 if len(servers) >= 3 else 1,
        "max_bytes": "1GiB",  # reserved at once, of the 4 GB that these servers have
    }
    lines = []
    for key, value in (values | more).items():
        if isinstance(value, list | tuple):
            lines.append(f"{key} = [{', '.join(map(_quoted, map(str, value)))}]")
        else:
            lines.append(f"{key} = {value}" if isinstance(value, int) else f"{key} = {_quoted(str(value))}")
    return "[jetstream]\n" + "\n".join(lines) + "\n"
