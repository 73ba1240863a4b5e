"""What is checked of `[jetstream]` before anything is connected; and a server's version, read and compared."""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from lookupd.errors import ConfigError

if TYPE_CHECKING:
    from lookupd.settings import FeedSettings, JetStreamSettings

SERVERS_MAX = 16
"""Servers named: a cluster for one stream has three or five."""

REPLICAS_MAX = 5
"""Copies of a stream that JetStream makes at most."""

_VERSION = re.compile(r"v?([0-9]{1,4})\.([0-9]{1,4})\.([0-9]{1,4})(?:\+[0-9A-Za-z.-]{1,40})?")
_STREAM = re.compile(r"[0-9A-Za-z_-]{1,32}")
_SUBJECT = re.compile(r"[0-9A-Za-z_-]{1,32}(?:\.[0-9A-Za-z_-]{1,32}){0,7}")


def parse_version(text: str) -> tuple[int, int, int] | None:
    """Of a release, such as 2.12.7; None for a preview or a candidate (2.14.0-RC.1), and for anything else."""
    found = _VERSION.fullmatch(text)
    return (int(found[1]), int(found[2]), int(found[3])) if found else None


def check_jetstream(settings: JetStreamSettings) -> None:
    """Raises ConfigError, naming the key, the reason and the way out. No server named: nothing else matters."""
    if not settings.servers:
        return
    if len(settings.servers) > SERVERS_MAX:
        raise ConfigError(f"jetstream.servers: at most {SERVERS_MAX}")
    secure = {_check_server(url) for url in settings.servers}
    if len(secure) > 1:
        raise ConfigError("jetstream.servers: nats:// and tls:// are mixed: the password would be sent in clear")
    _check_account(settings, beyond=not all(map(_is_loopback, settings.servers)))
    if not _STREAM.fullmatch(settings.stream):
        raise ConfigError(f"jetstream.stream: {settings.stream[:40]!r}: 1 to 32 of A-Z a-z 0-9 - _")
    if not _SUBJECT.fullmatch(settings.subject) or settings.subject.startswith(("_", "-")):
        raise ConfigError(f"jetstream.subject: {settings.subject[:80]!r}: words of A-Z a-z 0-9 - _, with dots between")
    if not 1 <= settings.replicas <= REPLICAS_MAX:
        raise ConfigError(f"jetstream.replicas: 1 to {REPLICAS_MAX}; 3 for production")
    if parse_version(settings.server_version) is None:
        raise ConfigError(f"jetstream.server_version: {settings.server_version[:40]!r}: write it like 2.12.7")
    if settings.max_age < 3600:
        raise ConfigError("jetstream.max_age: less than 1h keeps too little for a replica that was away")
    if settings.max_bytes < 16 << 20:
        raise ConfigError("jetstream.max_bytes: less than 16MiB holds too few deltas")
    for url in settings.monitor:
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"jetstream.monitor: {url}: write it like http://127.0.0.1:8222")


def check_follower(name: str, feed: FeedSettings, jetstream: JetStreamSettings) -> None:
    """A feed with `source = "jetstream:"`. Raises ConfigError."""
    where = f"feed.{name}"
    if feed.source != "jetstream:":
        raise ConfigError(f'{where}.source: {feed.source[:80]}: write "jetstream:"; its servers are in [jetstream]')
    if not jetstream.servers:
        raise ConfigError(
            f"{where}.source: jetstream: needs jetstream.servers: write them like tls://nats-1.example:4222"
        )
    if not feed.files or feed.files.startswith("jetstream:"):
        raise ConfigError(
            f"{where}.files: needed with jetstream: where the signed files are, dir:// sftp:// or https://: snapshots "
            "and what the engine lost come from there"
        )
    if feed.format != "lookupd":
        raise ConfigError(f"{where}.format: {feed.format}: a relay sends files of format lookupd only: leave it out")
    if feed.acknowledge == "by-replica":
        raise ConfigError(f"{where}.acknowledge: by-replica: with jetstream: each replica has a subject: yes, or no")


def _check_server(url: str) -> str:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"jetstream.servers: {url}: {error}") from None
    plain = parts.hostname and port and not parts.path and not parts.query and not parts.fragment
    if parts.scheme not in {"nats", "tls"} or not plain:
        raise ConfigError(f"jetstream.servers: {url}: write it like tls://nats-1.example:4222")
    if parts.username is not None:
        raise ConfigError("jetstream.servers: a server names a user: set jetstream.user and password_file instead")
    if parts.scheme == "nats" and not _is_loopback(url):
        raise ConfigError(f"jetstream.servers: {url}: without TLS only this machine is taken: write tls://")
    return parts.scheme


def _check_account(settings: JetStreamSettings, *, beyond: bool) -> None:
    if bool(settings.user) != bool(settings.password_file):
        raise ConfigError("jetstream.user, jetstream.password_file: one needs the other")
    if bool(settings.certificate) != bool(settings.key):
        raise ConfigError("jetstream.certificate, jetstream.key: one needs the other")
    if beyond and not (settings.user or settings.certificate):
        raise ConfigError("jetstream.user: servers beyond this machine need an account: user, or certificate and key")


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
