"""The same zone served by lookupd and by Knot DNS: question by question, the same answer.

Knot reads it from a file. Only numbers that were ported are in it, as a file cannot hold whole ranges.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import dns.flags
import dns.message
import dns.query
import dns.rdatatype
import dns.rrset
import pytest

from tests.conftest import Workbench, free_port, serve, wait_until
from tests.enum_bench import name_of

KNOTD = shutil.which("knotd") or shutil.which("knotd", path="/usr/sbin")
pytestmark = [
    pytest.mark.skipif(KNOTD is None, reason="needs the package knot"),
    pytest.mark.usefixtures("each_engine"),
]

PORTED = {
    "886912345678": "D0402",
    "886912345679": "D0401",
    "886923456789": "D9999",
    "88623456789": "A1",
    "886234567890": "A2",
}
SNAPSHOT = "tn,network_code,routing_number\n" + "".join(
    f"{number},1401,{rn}\n" for number, rn in sorted(PORTED.items(), key=lambda row: int(row[0]))
)
ZONE = r"""$ORIGIN np.example.
@ 3600 SOA ns1 hostmaster 3 3600 600 604800 60
@ 3600 NS ns1
@ 3600 NS ns.dns.np.example.
@ 3600 NS ns.example.net.
ns1 3600 A 192.0.2.1
ns1 3600 AAAA 2001:db8::1
ns.dns 3600 A 192.0.2.2
"""
SETTINGS = """[enum]
apex = "np.example"
unported = "unknown"
[enum.nameservers]
"ns1.np.example" = ["192.0.2.1", "2001:db8::1"]
"ns.dns.np.example" = ["192.0.2.2"]
"ns.example.net" = []
"""
KNOT = """server:
  listen: 127.0.0.1@{port}
  rundir: {folder}
  udp-workers: 1
  tcp-workers: 1
  background-workers: 1
database:
  storage: {folder}
zone:
  - domain: np.example
    file: {folder}/np.zone
    zonefile-sync: -1
    journal-content: none
"""

NUMBERS = sorted(
    {number[:end] for number in PORTED for end in range(1, len(number) + 1)}
    | {number + more for number in PORTED for more in ("0", "9", "00")}
    | {number[:end] + digit for number in PORTED for end in (3, 6, 10) for digit in "0359"}
    | {"8869123456780000", "0", "1" * 15}
)
NAMES = [
    "np.example", "nP.EXAMPLE", "ns1.np.example", "NS1.np.example", "dns.np.example", "ns.dns.np.example",
    "x.ns1.np.example", "x.np.example", "88.np.example", "x." + name_of("886912345678"), "hostmaster.np.example",
    "_sip._udp.np.example", "example", "example.net", "xnp.example", "e164.arpa",
    *(name_of(number) for number in NUMBERS),
]  # fmt: skip
KINDS = ("NAPTR", "A", "AAAA", "TXT", "SOA", "NS", "MX", "HTTPS", "TYPE65280")


@contextmanager
def knot(folder: Path) -> Iterator[int]:
    """Knot with the zone, until the block ends; its port."""
    folder.mkdir()
    port = free_port()
    records = (
        f'{name_of(number)}. 60 NAPTR 100 10 "u" "E2U+pstn:tel" "!^(.*)$!tel:\\\\1;npdi;rn=+{rn}!" .\n'
        for number, rn in PORTED.items()
    )
    (folder / "np.zone").write_text(ZONE + "".join(records))
    (folder / "knot.conf").write_text(KNOT.format(port=port, folder=folder))
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([str(KNOTD), "-c", str(folder / "knot.conf")], stdout=log, stderr=log)
    try:
        wait_until(lambda: "loaded, serial" in (folder / "log").read_text() or process.poll() is not None)
        assert process.poll() is None, (folder / "log").read_text()
        yield port
    finally:
        process.terminate()
        process.wait(10)


Section = list[tuple[str, int, str, list[str]]]


def records(rrsets: list[dns.rrset.RRset]) -> Section:
    """Sorted, and in lower case: a name that points into the question has the case of what it points at."""
    return sorted(
        (
            rrset.name.to_text().lower(),
            rrset.ttl,
            dns.rdatatype.to_text(rrset.rdtype),
            sorted(str(record).lower() for record in rrset),
        )
        for rrset in rrsets
    )


def verdict(message: dns.message.Message) -> tuple[str, str, str, Section, Section, Section]:
    """All that a client may act on; the names of the question as they came back."""
    return (
        dns.flags.to_text(message.flags),
        dns.rcode.to_text(message.rcode()),
        message.question[0].to_text(),
        records(message.answer),
        records(message.authority),
        records(message.additional),
    )


async def test_answers_are_those_of_knot(workbench: Workbench) -> None:
    workbench.load_tables(ranges="prefix,network_code\n88691,1401\n88692,1402\n")
    workbench.snapshot(SNAPSHOT)
    config = workbench.config(SETTINGS, 'enum = ["udp://127.0.0.1:0", "tcp://127.0.0.1:0"]')
    with knot(workbench.folder / "knot") as knot_port:
        async with serve(config) as served:
            ports = (served.port("enum", "tcp"), knot_port)
            differences = await asyncio.to_thread(compare, ports, list(product(NAMES, KINDS)))
    assert not differences, "\n".join(differences)


def compare(ports: tuple[int, int], questions: list[tuple[str, str]]) -> list[str]:
    """Ask both, each over one connection, so that no answer is too long; what they say differently."""
    differences = []
    with (
        socket.create_connection(("127.0.0.1", ports[0]), 10) as ours,
        socket.create_connection(("127.0.0.1", ports[1]), 10) as theirs,
    ):
        for sock in (ours, theirs):
            sock.setblocking(False)  # dnspython waits itself
        for at, (name, kind) in enumerate(questions):
            message = dns.message.make_query(name, kind, id=at + 1, flags=dns.flags.RD if at % 2 else 0)
            if at % 3:
                message.use_edns(0, dns.flags.DO if at % 3 == 2 else 0)
            seen = [verdict(dns.query.tcp(message, "127.0.0.1", timeout=10, sock=sock)) for sock in (ours, theirs)]
            if seen[0] != seen[1]:
                differences.append(f"{name} {kind}: ours {seen[0]}, Knot's {seen[1]}")
    return differences
