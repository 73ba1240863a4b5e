"""What a connection to the engine needs, from `[jetstream]` and the files it names; read once, connected nowhere."""

from __future__ import annotations

import ssl
from pathlib import Path

import msgspec

from loader.sources.open import read_secret
from lookupd.errors import ConfigError
from lookupd.fleet import check_jetstream, parse_version
from lookupd.settings import JetStreamSettings


class Login(msgspec.Struct, frozen=True):
    """What a connection needs, read from files once; see `read_login`."""

    servers: tuple[str, ...]
    tls: ssl.SSLContext | None
    user: str | None
    password: str | None
    version: tuple[int, int, int]


def read_login(settings: JetStreamSettings) -> Login:
    """From the settings' files. Raises ConfigError, naming the key, the reason and the way out."""
    check_jetstream(settings)
    if not settings.servers:
        raise ConfigError("jetstream.servers: no server is named: write them like tls://nats-1.example:4222")
    secure = any(url.startswith("tls://") for url in settings.servers)
    password = _read_password(settings.password_file) if settings.password_file else None
    version = parse_version(settings.server_version)
    assert version is not None, settings.server_version  # check_jetstream has seen it
    return Login(settings.servers, _tls(settings) if secure else None, settings.user or None, password, version)


def _read_password(file: str) -> str:
    try:
        lines = read_secret("jetstream.password_file", Path(file)).decode().splitlines()
    except UnicodeDecodeError:
        lines = []
    if len(lines) != 1 or not lines[0]:
        raise ConfigError(f"jetstream.password_file: {file}: must hold the password as its only line, in UTF-8")
    return lines[0]


def _tls(settings: JetStreamSettings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.ca_file or None)
    except (ssl.SSLError, OSError) as error:
        way_out = "it must hold the authority's certificate in PEM"
        raise ConfigError(f"jetstream.ca_file: {settings.ca_file}: {_told(error)}: {way_out}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if settings.certificate:
        read_secret("jetstream.key", Path(settings.key))  # others may not read it
        try:
            context.load_cert_chain(settings.certificate, settings.key)
        except (ssl.SSLError, OSError) as error:
            way_out = "both in PEM, and the key belonging to the certificate"
            pair = f"{settings.certificate}, {settings.key}"
            raise ConfigError(f"jetstream.certificate, jetstream.key: {pair}: {_told(error)}: {way_out}") from None
    return context


def _told(error: OSError) -> str:
    """An SSLError is an OSError too."""
    return (error.reason if isinstance(error, ssl.SSLError) else error.strerror) or str(error)
