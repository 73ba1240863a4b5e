"""Programs of others beside the replicas, set up as the pages of docs/ say: Kamailio twice, Unbound, and keepalived."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from bench.faults.replicas import Replica
from bench.faults.sites import Site, end, wait_for
from bench.processes import ChildFailed

DOCS = Path(__file__).parents[2] / "docs"
START_SECONDS_MAX = 10.0
CARRIER_PORT, REDIRECT_PORT, NEXT_HOP_PORT, RESOLVER_PORT = 15_060, 5060, 15_080, 15_053

_FENCED = re.compile(r"^```[a-z]*\n(?P<head>[^\n]*\n)(?P<rest>.*?)^```$", re.MULTILINE | re.DOTALL)

UNBOUND = """server:
    interface: 127.0.0.1@{port}
    port: {port}
    do-ip6: no
    username: ""
    chroot: ""
    directory: "{home}"
    pidfile: ""
    use-syslog: no
    logfile: ""
    do-daemonize: no
    num-threads: 1
remote-control:
    control-enable: no
stub-zone:
    name: "."
    stub-addr: 127.0.0.1@1
    stub-first: no
"""


def block(page: str, name: str) -> str:
    """The block of a page whose first line, or the one below `#!/bin/sh`, is a comment that ends with this name."""
    for match in _FENCED.finditer((DOCS / page).read_text()):
        text = match["head"] + match["rest"]
        if any(line.split()[-1:] == [name] for line in text.splitlines()[:2] if line.startswith("# ")):
            return text
    raise ChildFailed(f"docs/{page}: no block is named {name}")


@contextlib.contextmanager
def kamailio_pdb(site: Site, folder: Path, servers: tuple[str, ...], patience_ms: int) -> Iterator[None]:
    """The page kamailio-pdb.md: it asks all servers at once. patience_ms: for the first answer of any."""
    places = ",".join(f"{server}:5574" for server in servers)
    defined = {
        "SIP_PORT": CARRIER_PORT,
        "PDB_SERVERS": f'"{places}"',
        "PDB_TIMEOUT_MS": patience_ms,
        "WORKERS": 8,
    }
    with _kamailio(
        site, folder / "pdb", block("integration/kamailio-pdb.md", "kamailio-pdb.cfg"), defined, CARRIER_PORT
    ):
        yield


@contextlib.contextmanager
def kamailio_redirect(site: Site, folder: Path, servers: tuple[str, ...]) -> Iterator[None]:
    """The page kamailio-redirect.md: the first server in service is asked, then the second."""
    folder = folder / "redirect"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "lookupd.list").write_text(
        "".join(f"1 sip:{server}:5060 0 {10 - 5 * rank}\n" for rank, server in enumerate(servers))
    )
    defined = {
        "LISTEN": f"{site.address}:{REDIRECT_PORT}",
        "LOOKUPD_LIST": f'"{folder / "lookupd.list"}"',
        "NEXT_HOP": f'"sip:{site.address}:{NEXT_HOP_PORT}"',
        "PROBE_SECONDS": 1,
    }
    with _kamailio(
        site, folder, block("integration/kamailio-redirect.md", "kamailio-redirect.cfg"), defined, REDIRECT_PORT
    ):
        yield


@contextlib.contextmanager
def _kamailio(site: Site, folder: Path, config: str, defined: Mapping[str, object], port: int) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    path, log = folder / "kamailio.cfg", folder / "kamailio.log"
    path.write_text(config)
    command: list[str | Path] = ["setsid", "kamailio", "-f", path, "-DD", "-E", "-m", "64", "-M", "8"]
    command += ["-Y", folder, "-P", folder / "kamailio.pid"]
    command += [part for name, value in defined.items() for part in ("-A", f"{name}={value}")]
    with _running(site, log, command, port):
        yield


@contextlib.contextmanager
def unbound(site: Site, folder: Path) -> Iterator[None]:
    """The page resolver.md, with its own addresses: they are those of the replicas."""
    home = folder / "unbound"
    home.mkdir(parents=True, exist_ok=True)
    config = home / "unbound.conf"
    forward = block("integration/resolver.md", "/etc/unbound/unbound.conf.d/enum-forward.conf")
    config.write_text(UNBOUND.format(port=RESOLVER_PORT, home=home) + forward)
    with _running(site, home / "unbound.log", ["unbound", "-d", "-c", config], RESOLVER_PORT):
        yield


@contextlib.contextmanager
def keepalived(replica: Replica, twin: Replica) -> Iterator[None]:
    """The page virtual-address.md on one replica's site: `lookupd health`, and keepalived that reads its file."""
    page, folder = "operations/virtual-address.md", replica.folder
    health, watched, config = folder / "health", folder / "lookupd-watched", folder / "keepalived.conf"
    watched.write_text(block(page, "/etc/keepalived/lookupd-watched"))
    watched.chmod(0o755)
    changed = {
        "/etc/keepalived/lookupd-watched": str(watched),
        "/run/lookupd/health": str(health),
        "192.0.2.10": replica.site.address,
        "192.0.2.11": twin.site.address,
    }
    pattern = re.compile("|".join(rf"{re.escape(old)}(?![0-9])" for old in changed))
    text = block(page, "/etc/keepalived/keepalived.conf")
    config.write_text(pattern.sub(lambda found: changed[found[0]], text))
    files = ("-p", folder / "keepalived.pid", "-r", folder / "vrrp.pid")
    looking = (sys.executable, "-m", "lookupd.cli", "health", "--config", replica.config, "--file", health)
    with contextlib.ExitStack() as stack:
        for log, command in (
            ("health.log", looking),
            ("keepalived.log", ("keepalived", "-n", "-l", "-D", "-P", "-f", config, *files)),
        ):
            stack.callback(end, replica.site.start(folder / log, *command))
        yield


@contextlib.contextmanager
def _running(site: Site, log: Path, command: list[str | Path], port: int) -> Iterator[None]:
    """From when its port is bound until the block ends; with the processes that it started. Raises ChildFailed."""
    process = site.start(log, *command)
    try:
        wait_for(f"{command[0]}", lambda: process.poll() is not None or _is_bound(site, port), START_SECONDS_MAX)
        if process.poll() is not None:
            raise ChildFailed(f"{command[0]}: {log.read_text()[-1000:]}")
        yield
    finally:
        _end_group(process)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    own = os.getpgrp()
    group = None
    with contextlib.suppress(ProcessLookupError):
        group = os.getpgid(process.pid)
    end(process)
    if group is not None and group != own:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)  # Kamailio waits for its workers for up to a minute


def _is_bound(site: Site, port: int) -> bool:
    return f":{port:04X} " in site.run("cat", "/proc/net/udp")
