"""Network namespaces: two replicas and a client on one Ethernet, made for a run and removed after it. Needs root.

    NAME-net      a bridge
    NAME-a        192.0.2.10
    NAME-b        192.0.2.11
    NAME-client   192.0.2.5

What happens to a link happens at the bridge, as it would at a switch: the machines themselves see no error.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from bench.processes import PATHS, ChildFailed, find

ADDRESSES = {"a": "192.0.2.10", "b": "192.0.2.11", "client": "192.0.2.5"}
VIRTUAL = "192.0.2.100"
NEEDED = ("ip", "nft")
STEP_SECONDS_MAX = 10.0
END_SECONDS_MAX = 10.0


def missing(*programs: str) -> str | None:
    """Why no network can be made here, or these programs not run; None if they can."""
    if os.geteuid() != 0:
        return "needs root for network namespaces"
    absent = [program for program in (*NEEDED, *programs) if find(program) is None]
    return f"needs {', '.join(absent)}" if absent else None


class Site:
    """One namespace with an address."""

    def __init__(self, network: str, name: str) -> None:
        self.name = name
        self.namespace = f"{network}-{name}"
        self.address = ADDRESSES[name]
        self._port = f"{network}-{name}"[-15:]
        self._bridge = f"{network}-net"

    def command(self, *arguments: str | Path) -> list[str]:
        """A command, run inside. `ip netns exec` becomes it: its pid is that of the process started."""
        return ["ip", "netns", "exec", self.namespace, *map(str, arguments)]

    def start(self, log: Path, *arguments: str | Path, core: int | None = None) -> subprocess.Popen[bytes]:
        """A process inside, its output to a file."""
        command = self.command(*arguments)
        if core is not None:
            command = ["taskset", "-c", str(core), *command]
        environment = os.environ | {"PATH": PATHS, "PYTHONUNBUFFERED": "1"}
        with log.open("ab") as out:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment)

    def run(self, *arguments: str | Path) -> str:
        """A command inside, to its end. Raises ChildFailed."""
        return _run(self.command(*arguments))

    def cut(self) -> None:
        """As if the cable was pulled: it has no carrier, and whoever asks it gets nothing."""
        self._set_port("down")

    def join(self) -> None:
        """Undo `cut`."""
        self._set_port("up")

    def lose(self, percent: int) -> None:
        """Of IP packets to it, and of those from it, so many of a hundred are gone; 0 = none any more.

        ARP passes: a link that loses packets has not lost its neighbours.
        """
        table = f"faults_{self.name}"
        nft = ["ip", "netns", "exec", self._bridge, "nft"]
        _run([*nft, f"add table bridge {table}"])  # so that there is one to delete
        _run([*nft, f"delete table bridge {table}"])
        if percent:
            lost = "drop" if percent >= 100 else f"numgen random mod 100 < {percent} drop"
            rules = ["type filter hook forward priority 0", "ether type != ip accept"]
            rules += [f"iifname {self._port} {lost}", f"oifname {self._port} {lost}"]
            _run([*nft, f"table bridge {table} {{\nchain forward {{\n" + "\n".join(rules) + "\n}\n}\n"])

    def _set_port(self, state: str) -> None:
        _run(["ip", "-n", self._bridge, "link", "set", self._port, state])

    def _make(self) -> None:
        inside = ("ip", "-n", self.namespace)
        _run(["ip", "netns", "add", self.namespace])
        ours = ["ip", "link", "add", self._port, "netns", self._bridge, "type", "veth"]
        _run([*ours, "peer", "name", "eth0", "netns", self.namespace])
        _run(["ip", "-n", self._bridge, "link", "set", self._port, "master", "br0", "up"])
        _run([*inside, "address", "add", f"{self.address}/24", "dev", "eth0"])
        _run([*inside, "link", "set", "lo", "up"])
        _run([*inside, "link", "set", "eth0", "up"])


class Network:
    """The bridge and the sites on it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.a, self.b, self.client = (Site(name, each) for each in ADDRESSES)

    @property
    def sites(self) -> tuple[Site, Site, Site]:
        """All of them."""
        return self.a, self.b, self.client

    def heal(self) -> None:
        """Every link as it was."""
        for site in self.sites:
            site.join()
            site.lose(0)


@contextlib.contextmanager
def network(name: str | None = None) -> Iterator[Network]:
    """A network until the block ends, however it ends; what still runs inside is ended, too. Raises ChildFailed."""
    made = Network(name or f"lk{os.getpid()}")
    bridge = f"{made.name}-net"
    try:
        _run(["ip", "netns", "add", bridge])
        _run(["ip", "-n", bridge, "link", "add", "br0", "type", "bridge", "forward_delay", "0"])
        _run(["ip", "-n", bridge, "link", "set", "br0", "up"])
        for site in made.sites:
            site._make()
        yield made
    finally:
        for namespace in (*(site.namespace for site in made.sites), bridge):
            _remove(namespace)


def _remove(namespace: str) -> None:
    """With the processes that are still inside: they are ours, since we made it."""
    with contextlib.suppress(ChildFailed):
        for pid in _run(["ip", "netns", "pids", namespace]).split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
    with contextlib.suppress(ChildFailed):
        _run(["ip", "netns", "delete", namespace])


def end(process: subprocess.Popen[bytes]) -> None:
    """Asked first, killed when it does not listen; a stopped one is let go on before."""
    if process.poll() is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGCONT)
    process.terminate()
    try:
        process.wait(END_SECONDS_MAX)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def wait_for(what: str, condition: Callable[[], bool], seconds: float) -> float:
    """Poll until a function says yes; how long it took. Raises ChildFailed."""
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > seconds:
            raise ChildFailed(f"{what}: not within {seconds:g} s")
        time.sleep(0.01)
    return time.monotonic() - started


def _run(command: Sequence[str]) -> str:
    program = shutil.which(command[0], path=PATHS) or command[0]
    done = subprocess.run(
        [program, *command[1:]], capture_output=True, text=True, timeout=STEP_SECONDS_MAX, check=False,
        env=os.environ | {"PATH": PATHS},
    )  # fmt: skip
    if done.returncode:
        raise ChildFailed(f"{' '.join(command)}: {done.stderr.strip()[-500:]}")
    return done.stdout
