"""From a feed's settings to its source: everything that can be wrong before the first connection is told here.

Reads key, password and certificate files once, when the source is opened; nothing is connected.
"""

from __future__ import annotations

import ipaddress
import os
import ssl
import stat
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, quote, unquote, urlsplit

import msgspec

from loader.sources import Source
from lookupd.errors import ConfigError
from lookupd.settings import FLEET, Config, FeedSettings

if TYPE_CHECKING:
    import asyncssh

SSH_PORT = 22

SECRET_BYTES_MAX = 65_536
"""A private key, of which the longest RSA ones have 13 kB; a password on one line."""

_FORMS = "dir:///folder, sftp://user@host/folder or https://host/folder/"


def open_source(name: str, settings: FeedSettings, *, config: Config | None = None) -> Source:
    """The source of feed `name`. config: of a replica, which may follow a fleet's engine.

    Raises ConfigError, naming the key, the reason and the way out.
    """
    if settings.source == FLEET:
        return _open_fleet(name, settings, config)
    return _Opener(name, settings).open()


def _open_fleet(name: str, settings: FeedSettings, config: Config | None) -> Source:
    """The engine for deltas, and the source of the signed files for everything else."""
    from loader.trust import parse_public_key

    if config is None:
        raise ConfigError(f"feed.{name}.source: {FLEET} is for replicas: name the signed files, {_FORMS}")
    try:
        from loader.sources.jetstream import JetStreamSource
    except ModuleNotFoundError as error:
        way_out = "pip install 'lookupd[fleet]'"
        raise ConfigError(f"feed.{name}.source: {FLEET} needs the module {error.name}: {way_out}") from None
    files = msgspec.structs.replace(settings, source=settings.files)
    return JetStreamSource(
        name,
        config.jetstream,
        config.replica.name,
        files=_Opener(name, files, "files").open(),
        spool=config.spool_path / name,
        keys=tuple(parse_public_key(key) for key in settings.public_keys),
        poll=float(settings.poll),
    )


class _Opener:
    """One feed's settings, and what to call them in a message."""

    def __init__(self, name: str, settings: FeedSettings, key: str = "source") -> None:
        """key: the setting that holds the place."""
        self._name = name
        self._settings = settings
        self._key = key

    def open(self) -> Source:
        """By the scheme."""
        if not 0 < self._settings.timeout < float("inf"):
            raise self._error("timeout", "must be more than 0s, such as 30s")
        parts = self._split()
        match parts.scheme:
            case "dir":
                return self._folder(parts)
            case "sftp":
                return self._sftp(parts)
            case "https" | "http":
                return self._https(parts)
        raise self._error("source", f"{parts.scheme}: is not known: write {_FORMS}")

    def _folder(self, parts: SplitResult) -> Source:
        from loader.sources.folder import FolderSource

        if parts.netloc:
            raise self._error("source", f"{parts.netloc!r} is no folder: write dir:///folder, with three slashes")
        return FolderSource(Path(self._path(parts)), self._settings.timeout)

    def _sftp(self, parts: SplitResult) -> Source:
        from loader.sources.sftp import SftpSource
        from loader.sources.ssh import Host, Login

        settings = self._settings
        if not settings.ssh_key and not settings.password_file:
            raise self._error("ssh_key", "not set: name our private key's file, or set password_file")
        login = Login(
            user=self._user(parts),
            known_hosts=self._known_hosts(),
            key=self._ssh_key() if settings.ssh_key else None,
            password=self._password() if settings.password_file else None,
        )
        host = Host(self._host(parts), parts.port or SSH_PORT, login)
        return SftpSource(host, self._path(parts), settings.timeout)

    def _https(self, parts: SplitResult) -> Source:
        from loader.sources.https import HttpsSource

        settings = self._settings
        host = self._host(parts)
        if parts.username is not None:
            raise self._error("source", f"names a user: set feed.{self._name}.user and password_file instead")
        if parts.scheme == "http" and not _is_loopback(host):
            raise self._error("source", "http is taken from this machine only: write https://")
        if not parts.path.endswith("/"):
            raise self._error("source", "must name a folder: end it with a slash")
        url = parts._replace(path=quote(self._path(parts))).geturl()
        login = None
        if settings.user or settings.password_file:
            if not settings.user or ":" in settings.user:
                raise self._error("user", "needed with password_file, without a colon")
            if not settings.password_file:
                raise self._error("password_file", "needed with user")
            login = (settings.user, self._password())
        tls = self._tls() if parts.scheme == "https" else None
        return HttpsSource(url, settings.timeout, tls, login)

    def _split(self) -> SplitResult:
        source = self._settings.source
        if not source:
            raise self._error("source", f"empty: write {_FORMS}")
        try:
            parts = urlsplit(source)
            _ = parts.port
        except ValueError as error:
            raise self._error("source", f"{error}: write {_FORMS}") from None
        if parts.password is not None:
            raise self._error("source", "holds a password, which everybody sees: put it into a file, password_file")
        if "?" in source or "#" in source or not source.isprintable():
            raise self._error("source", "has a ? or # or an unprintable character: write such a one as %3F or %23")
        return parts

    def _path(self, parts: SplitResult) -> str:
        try:
            path = unquote(parts.path, errors="strict")
        except UnicodeDecodeError:
            path = ""
        if not path.startswith("/") or not path.isprintable() or ".." in path.split("/"):
            raise self._error("source", f"{path!r} is no absolute folder: write {_FORMS}")
        return path

    def _host(self, parts: SplitResult) -> str:
        if not parts.hostname:
            raise self._error("source", f"names no host: write {_FORMS}")
        if not parts.netloc.isascii() or " " in parts.netloc:
            raise self._error("source", f"{parts.hostname!r}: write the host in ASCII, such as xn--fiq228c.example")
        return parts.hostname

    def _user(self, parts: SplitResult) -> str:
        """From either place; never the user that we happen to run as."""
        named = unquote(parts.username or "")
        user = self._settings.user or named
        if not user:
            raise self._error("user", "not set: write it here, or as sftp://user@host/folder")
        if named and named != user:
            raise self._error("user", f"{user!r}, but source names {named!r}: keep one of the two")
        return user

    def _known_hosts(self) -> Path:
        import asyncssh

        if not self._settings.known_hosts:
            raise self._error(
                "known_hosts",
                "not set: a server is never trusted on first use: put its host key, told by its operator, into a file",
            )
        path = Path(self._settings.known_hosts)
        try:
            asyncssh.read_known_hosts(str(path))
        except OSError as error:
            raise self._error("known_hosts", f"{path}: {error.strerror}: put the server's host key there") from None
        except ValueError as error:
            raise self._error("known_hosts", f"{path}: {error}: write it as OpenSSH does") from None
        return path

    def _ssh_key(self) -> asyncssh.SSHKey:
        import asyncssh

        path = Path(self._settings.ssh_key)
        text = self._secret("ssh_key", path)
        try:
            return asyncssh.import_private_key(text)
        except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError, ValueError) as error:
            way_out = "make one with `ssh-keygen -t ed25519 -N ''`, which nobody need unlock"
            raise self._error("ssh_key", f"{path}: {error}: {way_out}") from None

    def _password(self) -> str:
        path = Path(self._settings.password_file)
        try:
            lines = self._secret("password_file", path).decode().splitlines()
        except UnicodeDecodeError:
            lines = []
        if len(lines) != 1 or not lines[0]:
            raise self._error("password_file", f"{path}: must hold the password as its only line, in UTF-8")
        return lines[0]

    def _secret(self, key: str, path: Path) -> bytes:
        return read_secret(f"feed.{self._name}.{key}", path)

    def _tls(self) -> ssl.SSLContext:
        """Given an authority, only that one is trusted: create_default_context then loads no other."""
        ca_file = self._settings.ca_file
        try:
            context = ssl.create_default_context(cafile=ca_file or None)
        except ssl.SSLError as error:
            raise self._error(
                "ca_file", f"{ca_file}: {error.reason or error}: it must hold certificates in PEM"
            ) from None
        except OSError as error:
            raise self._error(
                "ca_file", f"{ca_file}: {error.strerror}: put the authority's certificate there"
            ) from None
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context

    def _error(self, key: str, text: str) -> ConfigError:
        return ConfigError(f"feed.{self._name}.{self._key if key == 'source' else key}: {text}")


def read_secret(key: str, path: Path) -> bytes:
    """A key's or password's file, which nobody else may read. Raises ConfigError that names the setting `key`."""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            secret = file.read(SECRET_BYTES_MAX)
    except OSError as error:
        raise ConfigError(f"{key}: {path}: {error.strerror}: put it there, readable by the loader's user") from None
    if mode & 0o077:
        raise ConfigError(f"{key}: {path}: others may read it (mode {mode:o}): chmod 600 {path}")
    return secret


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
