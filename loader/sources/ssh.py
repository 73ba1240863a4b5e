"""One SSH connection to a host whose key we were given, and what to tell when there is none.

Nothing of a person's own SSH settings counts: no agent, no ~/.ssh, no trust on first use. What is done over
the connection is for `sftp`.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import asyncssh
import msgspec

from loader.sources.place import answer_within, one_line
from lookupd.errors import SourceError


class Login(msgspec.Struct, frozen=True):
    """Who we are there, and who they must be. known_hosts is read again for each connection."""

    user: str
    known_hosts: Path
    key: asyncssh.SSHKey | None = None
    password: str | None = None


class ConnectionLost(SourceError):
    """The connection went away under a call."""


class Host:
    """A server and our login there."""

    def __init__(self, host: str, port: int, login: Login) -> None:
        self._host = host
        self._port = port
        self._login = login
        self._known = asyncssh.SSHKnownHosts()
        self._refused = ""
        shown = f"[{host}]" if ":" in host else host
        self.url = f"sftp://{login.user}@{shown}:{port}"

    async def connect(self, seconds: float) -> asyncssh.SSHClientConnection:
        """Key exchange and login done. Raises SourceError, OSError or asyncssh.Error: `explain` knows the latter."""
        login = self._login
        self._known = self._read_known_hosts()
        self._refused = ""
        try:
            async with answer_within(self.url, seconds):
                return await asyncssh.connect(
                    self._host,
                    self._port,
                    client_factory=lambda: _Client(self._remember),
                    config=None,
                    known_hosts=self._known,
                    x509_trusted_certs=None,
                    username=login.user,
                    client_keys=None if login.key is None else [login.key],
                    password=login.password,
                    agent_path=None,
                    gss_host=None,
                    login_timeout=0,
                )
        except (asyncssh.ConnectionLost, ConnectionResetError, BrokenPipeError):
            # Also what OpenSSH does when it has no host key of a kind that we know.
            raise SourceError(
                f"{self.url}: the server ended the connection before the login: ask its operator what its log says, "
                f"and whether {login.known_hosts} has its host key of the right kind; it is tried again"
            ) from None

    def explain(self, place: str, error: Exception) -> SourceError:
        """Reason and way out, whatever stage it was in; a ConnectionLost if a new connection may mend it."""
        reason, way_out = self._reason(error)
        lost = isinstance(
            error,
            ConnectionError | asyncssh.ConnectionLost | asyncssh.SFTPConnectionLost | asyncssh.SFTPNoConnection,
        )
        return (ConnectionLost if lost else SourceError)(f"{place}: {reason}: {way_out}; it is tried again")

    def _reason(self, error: Exception) -> tuple[str, str]:
        said = one_line(str(error))
        match error:
            case asyncssh.HostKeyNotVerifiable():
                return self._reason_of_key(said)
            case asyncssh.PermissionDenied():
                reason = f"the server refuses the login of {self._login.user}"
                return reason, "see that it knows our public key, or that the password is right"
            case asyncssh.SFTPNoSuchFile() | asyncssh.SFTPNoSuchPath():
                return "no such file or folder", "see that the folder of the feed's `source` is there"
            case asyncssh.SFTPPermissionDenied():
                return "permission denied", "have its operator let us read the folder, and write acknowledgements"
            case asyncssh.SFTPConnectionLost() | asyncssh.SFTPNoConnection() | asyncssh.ConnectionLost():
                return "the connection broke", "see that it is up and reached from here"
            case asyncssh.ChannelOpenError():
                return f"no SFTP there: {said}", "have its operator allow SFTP for this user"
            case socket.gaierror():
                return f"{self._host}: {error.strerror}", "correct the feed's `source`, or see to the DNS"
            case OSError():
                return error.strerror or said, "see that it is up and reached from here"
            case _:
                return f"the server says: {said}", "ask its operator, or see what its log says"

    def _reason_of_key(self, said: str) -> tuple[str, str]:
        file = self._login.known_hosts
        shown = f" {self._refused}" if self._refused else ""
        if "revoked" in said:
            return f"its host key is revoked in {file}", "nothing is fetched until its operator has made a new key"
        if not any(self._known.match(self._host, "", self._port)):
            return (
                f"unknown host key{shown}: {file} has none for this host and port",
                "have its operator tell you the key by another way, and put it there",
            )
        return (
            f"host key{shown} is not the one in {file}: this may be another server ({said})",
            "ask its operator by another way whether the key was changed, and only then replace it there",
        )

    def _read_known_hosts(self) -> asyncssh.SSHKnownHosts:
        file = self._login.known_hosts
        try:
            return asyncssh.read_known_hosts(str(file))
        except OSError as error:
            raise SourceError(f"{self.url}: {file}: {error.strerror}: put the server's host key there") from None
        except ValueError as error:
            raise SourceError(f"{self.url}: {file}: {one_line(str(error))}: write it as OpenSSH does") from None

    def _remember(self, fingerprint: str) -> None:
        self._refused = fingerprint


class _Client(asyncssh.SSHClient):
    """Tells which host key was not trusted, for the message."""

    def __init__(self, refused: Callable[[str], None]) -> None:
        self._refused = refused

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        """Asked only about keys that are not in known_hosts."""
        self._refused(key.get_fingerprint())
        return False
