"""lookupd that answers ENUM, as a process of its own, for programs that nobody here wrote."""

from __future__ import annotations

import contextlib
import subprocess
from collections import Counter
from collections.abc import Iterator

from prometheus_client.samples import Sample

from tests.conftest import Workbench, free_port, run_daemon, wait_until
from tests.interop.programs import Server

APEX = "np.example"
PORTED, OTHER_PORTED, UNMAPPED = "886912345678", "886912345679", "886223450000"
HELD, UNALLOCATED = "886911000000", "886933000000"

PROFILE = f"""[enum]
apex = "{APEX}"
rn_context = "+886"
"""
"""The settings of most tests; what ported numbers then give is `uri`."""


def name_of(digits: str, apex: str = APEX) -> str:
    """The domain name of a number or of the beginning of one."""
    return ".".join([*reversed(digits), apex])


def naptr(uri_parameters: str, service: str = "E2U+pstn:tel", preference: int = 10) -> str:
    """A NAPTR's data as zone files write it: what the number is followed by in its tel URI."""
    return f'100 {preference} "u" "{service}" "!^(.*)$!tel:\\\\1{uri_parameters}!" .'


PORTED_DATA = naptr(";npdi;rn=D0402;rn-context=+886")
HELD_DATA = naptr(";npdi")


class EnumServer(Server):
    """`lookupd serve`; port: of ENUM, over UDP and TCP; serial: of the data that it started with, 0 for none."""

    def __init__(self, process: subprocess.Popen[str], port: int, http_port: int, serial: int = 0) -> None:
        super().__init__(process, "enum", port, http_port)
        self.serial = serial
        self._before: Counter[str] = Counter()

    def total(self, family: str, **labels: str) -> int:
        """A counter without `lookupd_` and `_total`, over all labels that are not given."""
        labels["dialect"] = self.dialect
        counters = [sample for sample in self.samples() if sample.name == f"lookupd_{family}_total"]
        found = [sample for sample in counters if labels.items() <= sample.labels.items()]
        assert found, (family, labels)
        return int(sum(sample.value - self._before[_key(sample)] for sample in found))

    def count(self, name: str, **labels: str) -> int:
        """A counter of queries."""
        return self.total(f"queries_{name}", **labels)

    @property
    def received(self) -> int:
        """Queries that reached us, over UDP and TCP."""
        return self.count("received")

    def count_anew(self) -> None:
        """All counters are 0 from here on."""
        self._before = Counter({_key(sample): sample.value for sample in self.samples()})


def _key(sample: Sample) -> str:
    return f"{sample.name} {sorted(sample.labels.items())}"


@contextlib.contextmanager
def run_enum(bench: Workbench, settings: str = PROFILE) -> Iterator[EnumServer]:
    """At the end every query that it received must be accounted for."""
    port, http_port = free_port(), free_port()
    listen = f'enum = ["udp://127.0.0.1:{port}", "tcp://127.0.0.1:{port}"]\nhttp = "http://127.0.0.1:{http_port}"'
    serial = bench.state()[0] if bench.store.exists() else 0
    with run_daemon(bench.config(settings, listen)) as process:
        server = EnumServer(process, port, http_port, serial)
        yield server
        if process.poll() is None:
            wait_until(server.is_conserved)
            assert server.received > 0
