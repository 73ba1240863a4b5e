"""What the kernel can do, and how much it lets queue up: offloads of UDP, sysctls, open files."""

from __future__ import annotations

import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from lookupd.doctor.check import Check, Subject
from lookupd.limits import (
    CONNECTIONS_MAX,
    DOCTOR_ASK_SECONDS,
    FILES_BESIDE_LISTENERS,
    NETDEV_BACKLOG_MIN,
    UDP_RECEIVE_BUFFER_BYTES,
)
from lookupd.settings import Config
from lookupd.transports.sockets import IPPROTO_UDP, SEGMENT_SIZE, UDP_SEGMENT

UDP_GRO: Final = 104
"""linux/udp.h: take datagrams that the kernel joined on receipt."""

SYSCTLS: Final = {
    "net.core.rmem_max": (UDP_RECEIVE_BUFFER_BYTES, 4_194_304, "the receive buffer of a UDP listener is cut to it"),
    "net.core.netdev_max_backlog": (NETDEV_BACKLOG_MIN, 4096, "bursts beyond it are dropped before any socket"),
    "net.core.somaxconn": (CONNECTIONS_MAX, 4096, "more connections at a time are refused"),
}
"""The least that does, what we would set, and what happens below."""

_HALF, _WHOLE = b"x" * 100, b"x" * 200


def look(subject: Subject) -> Iterator[Check]:
    """All of it."""
    yield from look_at_offloads()
    yield from look_at_sysctls()
    yield look_at_files(subject.config, subject.process)


def look_at_offloads() -> Iterator[Check]:
    """One send that is cut in two, one receipt that is not."""
    way_out = "Linux 4.18 (segments) and 5.0 (joined receipt) or newer; without them each datagram costs a full trip"
    for name, works in (("udp segments", _cuts), ("udp joined receipt", _joins)):
        try:
            fine = works()
        except OSError as error:
            yield Check(name, "warn", f"does not work here: {error.strerror or error}", way_out)
        else:
            yield Check(name, "ok", "works") if fine else Check(name, "warn", "does not work here", way_out)


def _cuts() -> bool:
    with _pair() as (sender, receiver):
        _send(sender, receiver)
        return receiver.recv(1000) == _HALF and receiver.recv(1000) == _HALF


def _joins() -> bool:
    with _pair() as (sender, receiver):
        receiver.setsockopt(IPPROTO_UDP, UDP_GRO, 1)
        _send(sender, receiver)
        data, ancillary, _, _ = receiver.recvmsg(1000, socket.CMSG_SPACE(4))
        return data == _WHOLE and any(kind == UDP_GRO for _, kind, _ in ancillary)


@contextmanager
def _pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A UDP socket to send from, and one on loopback to receive with."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
    ):
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(DOCTOR_ASK_SECONDS)
        yield sender, receiver


def _send(sender: socket.socket, receiver: socket.socket) -> None:
    cut = [(IPPROTO_UDP, UDP_SEGMENT, SEGMENT_SIZE.pack(len(_HALF)))]
    sender.sendmsg([_WHOLE], cut, 0, receiver.getsockname())


def look_at_sysctls(root: Path = Path("/proc/sys")) -> Iterator[Check]:
    """Against what the listeners ask for."""
    for name, (least, good, reason) in SYSCTLS.items():
        try:
            value = int((root / name.replace(".", "/")).read_text())
        except (OSError, ValueError):
            message = "cannot be read here, as in a container: what the machine around it has, counts"
            yield Check(name, "warn", message, f"there: sysctl -w {name}={good}, if it is below {least}")
            continue
        if value >= least:
            yield Check(name, "ok", str(value))
        else:
            way_out = (
                f"sysctl -w {name}={good}, and for good: systemd/lookupd.sysctl into /etc/sysctl.d/60-lookupd.conf"
            )
            yield Check(name, "warn", f"{value}, less than {least}: {reason}", way_out)


def files_needed(config: Config) -> int:
    """Sockets of all workers, connections of all listeners, and the rest."""
    datagram = sum(endpoint.transport == "udp" for _, endpoint in config.endpoints())
    stream = len(config.endpoints()) - datagram
    workers = 1 if config.engine.udp == "python" else config.engine.workers
    return datagram * workers + stream * CONNECTIONS_MAX + FILES_BESIDE_LISTENERS


def look_at_files(config: Config, process: int | None) -> Check:
    """process: the daemon's, None if none runs: then the limit here stands for it."""
    needed = files_needed(config)
    limit, whose = resource.getrlimit(resource.RLIMIT_NOFILE)[0], "here (no daemon runs)"
    if process is not None:
        try:
            lines = Path(f"/proc/{process}/limits").read_text().splitlines()
            told = next(line for line in lines if line.startswith("Max open files")).split()[3]
            limit = resource.RLIM_INFINITY if told == "unlimited" else int(told)
            whose = f"of process {process}"
        except (OSError, StopIteration, ValueError):
            whose = "here (the daemon's may not be read)"
    if limit != resource.RLIM_INFINITY and limit < needed:
        message = f"{limit} {whose}, and all listeners with all their connections take {needed}"
        return Check(
            "open files", "warn", message, f"LimitNOFILE={max(8192, needed)} in the unit, or ulimit -n {needed}"
        )
    return Check("open files", "ok", f"{'no limit' if limit == resource.RLIM_INFINITY else limit} {whose}")
