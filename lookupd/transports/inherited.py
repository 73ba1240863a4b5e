"""Sockets that were open before this process began: held by systemd, or handed on by the process we follow.

Who binds what is not there, and what is done with a socket, is for others.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, MutableMapping

import msgspec

from lookupd.errors import ConfigError
from lookupd.settings import Endpoint

FIRST_DESCRIPTOR = 3
"""Where systemd's begin: SD_LISTEN_FDS_START of sd_listen_fds(3)."""

DESCRIPTORS_MAX = 4096
"""Of either; more than any configuration listens on."""

SYSTEMD = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
PREDECESSOR = "LOOKUPD_PREDECESSOR"
"""JSON: see `Bequest`. It is set by the process we follow, for us alone."""

Key = tuple[str, Endpoint]
"""Dialect and endpoint, as the configuration has them."""


class Legacy(msgspec.Struct, frozen=True):
    """What the process that follows is to know of this one. tag_seed: of SIP's To tags. withdrawn: why it stands back;
    None = it serves."""

    tag_seed: int
    withdrawn: str | None = None


class Bequest(msgspec.Struct, frozen=True):
    """What a process leaves to the one that follows it.

    pid: its own. link: descriptor of the socket on which both talk. sockets: descriptors by dialect and endpoint as
    configured.
    """

    pid: int
    link: int
    sockets: list[tuple[str, Endpoint, list[int]]]
    legacy: Legacy


class Inherited:
    """Sockets on offer; what is claimed is the claimer's to close."""

    def __init__(self, named: dict[Key, list[socket.socket]], unnamed: list[socket.socket]) -> None:
        """named: of the process we follow. unnamed: systemd's, found by the address that they are bound to."""
        self._named = named
        self._unnamed = unnamed

    def claim(self, dialect: str, endpoint: Endpoint) -> list[socket.socket]:
        """Those that serve this endpoint; empty if none was handed on."""
        named = self._named.pop((dialect, endpoint), None)
        if named is not None:
            return named
        fitting = [sock for sock in self._unnamed if _serves(sock, endpoint)]
        self._unnamed = [sock for sock in self._unnamed if sock not in fitting]
        return fitting

    def take_rest(self) -> list[socket.socket]:
        """Those that nobody claims; the caller closes them."""
        rest = [sock for sockets in self._named.values() for sock in sockets] + self._unnamed
        self._named, self._unnamed = {}, []
        return rest


def take_bequest(environment: MutableMapping[str, str] = os.environ) -> Bequest | None:
    """What the process we follow left, once; None if we follow nobody. Raises ConfigError."""
    text = environment.pop(PREDECESSOR, None)
    if text is None:
        return None
    try:
        bequest = msgspec.json.decode(text, type=Bequest)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise ConfigError(f"{PREDECESSOR}: {error}: only lookupd itself sets it: unset it") from None
    if bequest.pid != os.getppid():
        raise ConfigError(f"{PREDECESSOR}: of process {bequest.pid}, which did not start this one: unset it")
    return bequest


def take_inherited(bequest: Bequest | None, environment: MutableMapping[str, str] = os.environ) -> Inherited:
    """All sockets that we were given, by either. Raises ConfigError for what is no socket."""
    named = {}
    if bequest is not None:
        for dialect, endpoint, descriptors in bequest.sockets:
            named[dialect, endpoint] = [_socket(descriptor, PREDECESSOR) for descriptor in descriptors]
    first = FIRST_DESCRIPTOR
    count = _count_from_systemd(environment)
    for name in SYSTEMD:
        environment.pop(name, None)
    return Inherited(named, [_from_systemd(descriptor) for descriptor in range(first, first + count)])


def _count_from_systemd(environment: Mapping[str, str]) -> int:
    if environment.get("LISTEN_PID") != str(os.getpid()):
        return 0  # for another process, or for nobody
    text = environment.get("LISTEN_FDS", "")
    if not (text.isascii() and text.isdigit() and int(text[:9]) <= DESCRIPTORS_MAX):
        raise ConfigError(f"LISTEN_FDS: {text[:20]!r} is no number of sockets: start lookupd by systemd, or unset it")
    return int(text)


def _socket(descriptor: int, source: str) -> socket.socket:
    """The socket object that owns a descriptor; not for programs that we start."""
    try:
        sock = socket.socket(fileno=descriptor)
    except OSError as error:
        raise ConfigError(f"{source}: descriptor {descriptor} is no socket: {error.strerror}") from None
    sock.set_inheritable(False)
    return sock


def _from_systemd(descriptor: int) -> socket.socket:
    """A socket as its unit makes it. Raises ConfigError for one that we could not serve as configured."""
    sock = _socket(descriptor, "LISTEN_FDS")
    fault = _fault_of(sock)
    if fault is not None:
        sock.close()
        raise ConfigError(f"LISTEN_FDS: descriptor {descriptor}{fault} in the socket unit")
    return sock


def _fault_of(sock: socket.socket) -> str | None:
    if sock.type == socket.SOCK_STREAM and not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return " is a connection: Accept=no"
    if _takes_both_families(sock):
        who = "takes IPv4, too, and no client's list would know who asks"
        return f", {describe(sock)}, {who}: BindIPv6Only=ipv6-only"
    return None


def _takes_both_families(sock: socket.socket) -> bool:
    on_any = sock.family == socket.AF_INET6 and sock.getsockname()[0] == "::"
    return on_any and not sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)


def _serves(sock: socket.socket, endpoint: Endpoint) -> bool:
    kind = socket.SOCK_DGRAM if endpoint.transport == "udp" else socket.SOCK_STREAM
    if sock.family not in {socket.AF_INET, socket.AF_INET6} or sock.type != kind:
        return False
    host, port = sock.getsockname()[:2]
    return (host.partition("%")[0], port) == (endpoint.host, endpoint.port)


def describe(sock: socket.socket) -> str:
    """For a log line."""
    if sock.family not in {socket.AF_INET, socket.AF_INET6}:
        return f"{sock.family.name}"
    host, port = sock.getsockname()[:2]
    return str(Endpoint("udp" if sock.type == socket.SOCK_DGRAM else "tcp", host, port))
