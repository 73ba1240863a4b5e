"""lookupd that answers ENUM, as a process of its own, for programs that nobody here wrote."""

from __future__ import annotations

import contextlib
import subprocess
import urllib.request
from collections.abc import Iterator

from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import Workbench, free_port, run_daemon, wait_until

APEX = "np.example"
PORTED, OTHER_PORTED, UNMAPPED = "886912345678", "886912345679", "886223450000"
HELD, UNALLOCATED = "886911000000", "886933000000"

PROFILE = f"""[enum]
apex = "{APEX}"
rn_context = "{APEX}"
"""
"""The settings of most tests; what ported numbers then give is `uri`."""

ACCOUNTED = ("answered", "other", "refused", "dropped")


def name_of(digits: str, apex: str = APEX) -> str:
    """The domain name of a number or of the beginning of one."""
    return ".".join([*reversed(digits), apex])


def naptr(uri_parameters: str, service: str = "E2U+pstn:tel", preference: int = 10) -> str:
    """A NAPTR's data as zone files write it: what the number is followed by in its tel URI."""
    return f'100 {preference} "u" "{service}" "!^(.*)$!tel:\\\\1{uri_parameters}!" .'


PORTED_DATA = naptr(f";npdi;rn=D0402;rn-context={APEX}")
HELD_DATA = naptr(";npdi")


class EnumServer:
    """`lookupd serve`; port: of ENUM, over UDP and TCP."""

    def __init__(self, process: subprocess.Popen[str], port: int, http_port: int) -> None:
        self.process = process
        self.port = port
        self.url = f"http://127.0.0.1:{http_port}"

    def total(self, family: str, **labels: str) -> int:
        """A counter without `lookupd_` and `_total`, of the ENUM dialect, over all labels that are not given."""
        labels["dialect"] = "enum"
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=5) as response:
            families = list(text_string_to_metric_families(response.read().decode()))
        samples = [sample for family in families for sample in family.samples]
        found = [s for s in samples if s.name == f"lookupd_{family}_total" and labels.items() <= s.labels.items()]
        assert found, (family, labels)
        return int(sum(sample.value for sample in found))

    def count(self, name: str, **labels: str) -> int:
        """A counter of queries: received, answered, other, refused or dropped."""
        return self.total(f"queries_{name}", **labels)

    @property
    def received(self) -> int:
        """Queries that reached us, over UDP and TCP."""
        return self.count("received")

    def is_conserved(self) -> bool:
        """Every query that came is accounted for."""
        return self.received == sum(map(self.count, ACCOUNTED))


@contextlib.contextmanager
def run_enum(
    bench: Workbench, settings: str = PROFILE, host: str = "127.0.0.1", port: int | None = None
) -> Iterator[EnumServer]:
    """At the end every query that it received must be accounted for."""
    port, http_port = port or free_port(), free_port()
    listen = f'enum = ["udp://{host}:{port}", "tcp://{host}:{port}"]\nhttp = "http://127.0.0.1:{http_port}"'
    with run_daemon(bench.config(settings, listen)) as process:
        server = EnumServer(process, port, http_port)
        yield server
        if process.poll() is None:
            wait_until(server.is_conserved)
            assert server.received > 0
