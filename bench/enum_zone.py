"""The numbers of a store as one ENUM zone, DNS servers that serve it, and dnsperf that asks them."""

from __future__ import annotations

import contextlib
import re
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.dataset import COUNTRY, Dataset, Queries, open_engine
from bench.processes import ChildFailed, Server, answers, free_port, run, serving
from bench.rounds import Answered
from lookupd.store.reader import Reader
from lookupd.store.schema import ENTRIES_BYTES, NUMBERS_PER_BLOCK, ROUTE_MASK

APEX = "e164.arpa"
TTL = 60
QUERY_SECONDS_MAX = 1
HEAD = """@ SOA ns hostmaster 1 3600 600 86400 60
@ NS ns
ns A 127.0.0.1
"""
KNOT = """server:
  listen: 127.0.0.1@{port}
  rundir: {home}
  udp-workers: 1
  tcp-workers: 1
  background-workers: 1
log:
  - target: stderr
    any: warning
database:
  storage: {home}
zone:
  - domain: {origin}
    file: {zone}
    zonefile-sync: -1
    journal-content: none
"""
NSD = """server:
  server-count: 1
  ip-address: 127.0.0.1
  port: {port}
  username: ""
  chroot: ""
  zonesdir: "{home}"
  database: ""
  pidfile: "{home}/nsd.pid"
  xfrdfile: "{home}/xfrd.state"
  zonelistfile: "{home}/zone.list"
  hide-version: yes
  rrl-ratelimit: 0
remote-control:
  control-enable: no
zone:
  name: {origin}
  zonefile: {zone}
"""
CONFIGURATIONS = {"knotd": KNOT, "nsd": NSD}
COMMANDS = {"knotd": ["-c"], "nsd": ["-d", "-c"]}


def origin(country: str = COUNTRY) -> str:
    """The zone of a country."""
    return f"{_dotted(country)}.{APEX}"


def _dotted(digits: str) -> str:
    return ".".join(reversed(digits))


def ported_numbers(reader: Reader) -> Iterator[tuple[int, str]]:
    """Every ported number, rising, with its routing number ("" if it has none)."""
    routing: dict[int, str] = {}
    for block, value in reader.blocks():
        entries = np.frombuffer(value[:ENTRIES_BYTES], "<u2") & np.uint16(ROUTE_MASK)
        for offset in np.flatnonzero(entries).tolist():
            route = int(entries[offset])
            if route not in routing:
                routing[route] = reader.route(route).routing_number or ""
            yield block * NUMBERS_PER_BLOCK + offset, routing[route]


def write_zone(dataset: Dataset) -> Path:
    """One NAPTR a ported number, beside the store; made once."""
    path = dataset.folder / "enum.zone"
    if not path.exists():
        part = path.with_suffix(".part")
        with open_engine(dataset) as (_, reader), part.open("w") as out:
            out.write(
                f"$ORIGIN {origin()}.\n$TTL {TTL}\n@ SOA ns hostmaster 1 3600 600 86400 60\n@ NS ns\nns A 127.0.0.1\n"
            )
            out.writelines(_naptr(tn, rn) for tn, rn in ported_numbers(reader))
        part.rename(path)
    return path.resolve()


def _naptr(tn: int, rn: str) -> str:
    name = _dotted(str(tn)[len(COUNTRY) :])
    return f'{name} NAPTR 10 100 "u" "E2U+pstn:tel" "!^.*$!tel:+{tn};npdi;rn={rn}!" .\n'


def write_queries(queries: Queries, count: int, folder: Path) -> Path:
    """What dnsperf asks: half of it is in the zone."""
    path = folder / "queries.txt"
    path.write_text("".join(f"{_dotted(str(tn))}.{APEX} NAPTR\n" for tn in queries.tn[:count]))
    return path


@contextlib.contextmanager
def dns_server(name: str, program: str, zone: Path, home: Path, core: int) -> Iterator[Server]:
    """knotd or nsd with the zone loaded, one worker, on a core. Raises ChildFailed."""
    port = free_port()
    config = home / f"{name}.conf"
    config.write_text(CONFIGURATIONS[name].format(port=port, home=home, zone=zone, origin=origin()))
    command = [program, *COMMANDS[name], str(config)]
    with serving(command, home / f"{name}.log", core, {"dns": port}, lambda: answers(port, _SOA, _is_good)) as server:
        yield server


def _question(labels: Iterable[str], kind: int) -> bytes:
    name = b"".join(bytes([len(label)]) + label.encode() for label in labels) + b"\0"
    return struct.pack(">6H", 1, 0, 1, 0, 0, 0) + name + struct.pack(">2H", kind, 1)


_SOA = _question(origin().split("."), 6)


def _is_good(reply: bytes) -> bool:
    """NOERROR with an answer."""
    return len(reply) > len(_SOA) and reply[3] & 0xF == 0 and reply[6:8] != b"\0\0"


@dataclass(frozen=True)
class Dnsperf:
    """A client that asks what stands in a file, once."""

    program: str
    queries: Path

    def ask(self, port: int, sockets: int, in_flight: int) -> Answered:
        """in_flight: of all sockets together. Raises ChildFailed."""
        ran = run(
            [
                *(self.program, "-s", "127.0.0.1", "-p", str(port), "-d", str(self.queries), "-n", "1"),
                *("-c", str(sockets), "-q", str(in_flight), "-T", "1", "-t", str(QUERY_SECONDS_MAX)),
            ]
        )
        return read_dnsperf(ran.output)


def read_dnsperf(output: str) -> Answered:
    """What dnsperf says at its end. Raises ChildFailed when it says something else."""
    found = {
        name: re.search(rf"{name}:\s+([0-9.]+)", output)
        for name in ("Queries completed", "Queries lost", r"Run time \(s\)")
    }
    completed, lost, seconds = (float(match[1]) if match else None for match in found.values())
    if completed is None or lost is None or not seconds:
        raise ChildFailed(f"dnsperf: {output[-1000:]}")
    return Answered(int(completed), int(lost), seconds)
