"""Kamailio as a stateless redirector: each INVITE gets a 302 at once, with nothing looked up. The peer of our SIP."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from bench.processes import Server, answers, free_port, serving

CONFIGURATION = """#!KAMAILIO
debug=0
log_stderror=yes
fork=yes
children=1
disable_tcp=yes
auto_aliases=no
dns=no
rev_dns=no
listen=udp:127.0.0.1:{port}
loadmodule "kex.so"
loadmodule "pv.so"
loadmodule "sl.so"
loadmodule "textops.so"
request_route {{
    if (is_method("ACK")) {{
        exit;
    }}
    if (is_method("INVITE")) {{
        append_to_reply("Contact: <sip:$rU;npdi;rn=+1402@$rd:$rp;user=phone>\\r\\n");
        sl_send_reply("302", "Moved Temporarily");
        exit;
    }}
    sl_send_reply("200", "OK");
}}
"""
OPTIONS = (
    "OPTIONS sip:127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1;rport;branch=z9hG4bK-up\r\nMax-Forwards: 70\r\n"
    "From: <sip:a@127.0.0.1>;tag=1\r\nTo: <sip:127.0.0.1>\r\nCall-ID: up\r\nCSeq: 1 OPTIONS\r\n"
    "Content-Length: 0\r\n\r\n"
)


@contextlib.contextmanager
def kamailio(program: str, folder: Path, core: int) -> Iterator[Server]:
    """One worker, on a core. Raises ChildFailed."""
    port = free_port()
    config = folder / "kamailio.cfg"
    config.write_text(CONFIGURATION.format(port=port))
    command = [program, "-f", str(config), "-DD", "-E", "-m", "64", "-M", "8", "-Y", str(folder)]
    is_up = lambda: answers(port, OPTIONS.encode(), lambda reply: reply.startswith(b"SIP/2.0 200"))  # noqa: E731
    with serving(command, folder / "kamailio.log", core, {"sip": port}, is_up) as server:
        yield server
