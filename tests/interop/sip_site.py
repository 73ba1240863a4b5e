"""lookupd that answers SIP, as a process of its own, for programs that nobody here wrote."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from tests.conftest import Workbench, free_port, run_daemon, wait_until
from tests.interop.programs import Server

PORTED, HELD, UNALLOCATED = "+886912345678", "+886911000000", "+886933000000"
PORTED_RN = "D0402"
NO_RN, UNKNOWN, NO_ANSWER = "-", "404", "503"
"""Answers as sipp-np-dip.xml has them; see there."""

PROFILE = '[sip]\nrn_context = "+886"\n'


@contextlib.contextmanager
def run_sip(bench: Workbench, settings: str = PROFILE, port: int | None = None) -> Iterator[Server]:
    """At the end every request that it received must be accounted for."""
    port, http_port = port or free_port(), free_port()
    listen = f'sip = ["udp://127.0.0.1:{port}", "tcp://127.0.0.1:{port}"]\nhttp = "http://127.0.0.1:{http_port}"'
    with run_daemon(bench.config(settings, listen)) as process:
        server = Server(process, "sip", port, http_port)
        yield server
        if process.poll() is None:
            wait_until(server.is_conserved)
            assert server.count("received") > 0
