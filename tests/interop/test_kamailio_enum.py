"""ENUM with the real client: SIPp calls, Kamailio's module `enum` asks lookupd, and Kamailio's answer counts.

Three programs and nothing replaced: `lookupd serve` and Kamailio with the configurations of
docs/integration/kamailio-enum.md, word for word, and sipp-np-dip.xml. They meet in a private network, as the module
asks port 53 of what /etc/resolv.conf names. An answer is the routing number of Kamailio's 302 ("-" for none), or
"404" where it found no record.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Workbench, halt, run_daemon, wait_until
from tests.interop.enum_site import HELD, OTHER_PORTED, PORTED, UNALLOCATED, UNMAPPED, EnumServer
from tests.interop.pages import block
from tests.interop.private_network import in_private_network
from tests.interop.programs import Calls, needs_kamailio, run_kamailio

PAGE = "kamailio-enum.md"
LOOKUPD, TWIN, PROXY = "192.0.2.10", "192.0.2.11", "192.0.2.20"
"""Their addresses on the page."""

NO_RECORD = "404"

pytestmark = [needs_kamailio, pytest.mark.usefixtures("each_engine")]


def run_inside(scenario: str, bench: Workbench) -> None:
    """One of the scenarios below, with the engine that the test asks for."""
    in_private_network(scenarios, bench.folder, scenario, bench.engine, server=LOOKUPD, client=PROXY)


def scenarios(folder: Path, name: str, engine: str) -> None:
    """What the other side of `run_inside` does."""
    Workbench.engine = engine
    getattr(sys.modules[__name__], name)(Workbench(folder))


@contextlib.contextmanager
def run_lookupd(bench: Workbench, changed: tuple[str, str] = ("", "")) -> Iterator[EnumServer]:
    """With the page's settings. changed: what stands there, and what shall."""
    settings = block(PAGE, "/etc/lookupd/lookupd.toml")
    assert changed[0] in settings
    http_port = "9474" if TWIN not in changed else "9475"
    settings = settings.replace(":9474", f":{http_port}")
    config = bench.write(
        "lookupd.toml",
        f'[engine]\nudp = "{bench.engine}"\n[store]\npath = "{bench.store}"\n' + settings.replace(*changed),
    )
    with run_daemon(config) as process:
        server = EnumServer(process, 53, int(http_port))
        yield server
        if process.poll() is None:
            wait_until(server.is_conserved)


class Kamailio:
    """The page's proxy, and SIPp to call through it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def call(self, expected: dict[str, str]) -> None:
        """Call each number; Kamailio must give the answers expected."""
        answers = Calls(self.folder, 5060, expected).answers()
        assert answers == expected, f"{answers}\n{(self.folder / 'kamailio.log').read_text()}"


@contextlib.contextmanager
def run_proxy(bench: Workbench, changed: tuple[str, str] = ("", "")) -> Iterator[Kamailio]:
    """Until the block ends. changed: as above."""
    dip = block(PAGE, "/etc/kamailio/lookupd.cfg")
    assert changed[0] in dip
    bench.write("lookupd.cfg", dip.replace(*changed))
    # Beside what the page says: SIPp calls from here, and a failing test shows the log.
    own = "listen=udp:127.0.0.1:5060\nlog_stderror=yes\n"
    with run_kamailio(bench.folder, own + block(PAGE, "/etc/kamailio/kamailio.cfg"), 5060, {}):
        yield Kamailio(bench.folder)


def invite(uri: str) -> str:
    """Kamailio's answer to an INVITE for a URI that SIPp's tables cannot hold."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(10)
        sock.connect((PROXY, 5060))
        here = "{}:{}".format(*sock.getsockname())
        lines = [f"INVITE {uri} SIP/2.0", f"Via: SIP/2.0/UDP {here};branch=z9hG4bK{here}", "Max-Forwards: 70"]
        lines += [
            f"From: <sip:{here}>;tag=1",
            f"To: <{uri}>",
            f"Call-ID: {here}",
            "CSeq: 1 INVITE",
            "Content-Length: 0",
        ]
        sock.send("\r\n".join([*lines, "", ""]).encode())
        return sock.recv(4096).decode()


def each_kind_of_number(bench: Workbench) -> None:
    """Outcomes, and what they count."""
    with run_lookupd(bench) as server, run_proxy(bench) as kamailio:
        kamailio.call(
            {
                f"+{PORTED}": "D0402",
                f"+{OTHER_PORTED}": "D0401",
                "+886923456789": "D9999",
                f"+{HELD}": "-",
                f"+{UNALLOCATED}": NO_RECORD,
                "+85291234567": NO_RECORD,
            }
        )
        assert server.received == 6
        assert server.count("received", transport="udp") == 6
        assert server.count("answered", outcome="ported") == 3
        assert server.count("answered", outcome="not_ported") == 1
        # No record and no answer look alike to it: SERVFAIL is asked for twice.
        kamailio.call({f"+{UNMAPPED}": NO_RECORD})
        assert server.received == 8
        assert server.count("answered", outcome="unavailable") == 2


def not_a_question(bench: Workbench) -> None:
    """What is dipped, or no international number, is not asked for."""
    with run_lookupd(bench) as server, run_proxy(bench) as kamailio:
        kamailio.call(dict.fromkeys((PORTED, "operator", "+8869-1234", f"+{PORTED}a"), NO_RECORD))
        for dipped in (f"sip:+{PORTED};npdi;rn=D9999@192.0.2.20", f"sip:+{PORTED};npdi@192.0.2.20"):
            assert invite(dipped).startswith("SIP/2.0 404 ")
        assert server.received == 0
        assert "Contact: <sip:+886912345678;npdi;rn=D0402;rn-context=+886@gw.example;user=phone>" in invite(
            f"sip:+{PORTED}@192.0.2.20"
        )


def strict_service(bench: Workbench) -> None:
    """The module's own service `pstn` finds E2U+pstn:sip alone."""
    tel = 'service = "E2U+pstn:tel"'
    strict = ('"+pstn:tel"', '"pstn"')
    for service, found in ((tel, NO_RECORD), ('service = "E2U+pstn:sip"\ndomain = "gw.example"', "D0402")):
        with run_lookupd(bench, (tel, service)) as server, run_proxy(bench, strict) as kamailio:
            kamailio.call({f"+{PORTED}": found, f"+{UNALLOCATED}": NO_RECORD})
            assert server.count("received", transport="tcp") == 0


def both_services(bench: Workbench) -> None:
    """Two records are too long for its questions over UDP: it comes again over TCP."""
    tel, both = 'service = "E2U+pstn:tel"', 'service = ["E2U+pstn:tel", "E2U+pstn:sip"]\ndomain = "gw.example"'
    with run_lookupd(bench, (tel, both)) as server:
        for service in ("+pstn:tel", "+pstn:tel+pstn:sip", "+pstn:sip", "pstn"):
            with run_proxy(bench, ('"+pstn:tel"', f'"{service}"')) as kamailio:
                received = server.count("received", transport="tcp")
                kamailio.call({f"+{PORTED}": "D0402", f"+{OTHER_PORTED}": "D0401"})
                assert server.count("received", transport="tcp") == received + 2
        assert server.count("received", transport="udp") == server.total("connections_opened") == 8


def data_comes_and_changes(bench: Workbench) -> None:
    """No store, then data, then a delta: each call is answered by the state of its moment."""
    with run_lookupd(bench) as server, run_proxy(bench) as kamailio:
        kamailio.call({f"+{PORTED}": NO_RECORD})
        assert server.count("answered", outcome="unavailable") > 0
        bench.load_tables()
        bench.snapshot()
        wait_until(
            lambda: (
                kamailio.call({f"+{UNALLOCATED}": NO_RECORD}),
                server.count("answered", outcome="not_allocated") > 0,
            )[1]
        )
        kamailio.call({f"+{PORTED}": "D0402", f"+{HELD}": "-"})
        bench.delta({"kind": "port", "tn": HELD, "recipient": "1402"}, sequence=2)
        kamailio.call({f"+{HELD}": "D0402"})


def silent_server(bench: Workbench) -> None:
    """A halted lookupd: the call is answered all the same, as one whose number has no record; then all is well."""
    with run_lookupd(bench) as server, run_proxy(bench) as kamailio:
        halt(server.process)
        kamailio.call({f"+{PORTED}": NO_RECORD})
        server.process.send_signal(signal.SIGCONT)
        kamailio.call({f"+{PORTED}": "D0402"})


def two_servers(bench: Workbench) -> None:
    """As long as one of the two nameservers answers, each call gets its answer."""
    subprocess.run(["ip", "address", "add", f"{TWIN}/32", "dev", "lo"], check=True)
    subprocess.run(["ip", "route", "replace", "local", TWIN, "dev", "lo", "table", "local", "src", PROXY], check=True)
    (bench.folder / "resolv.conf").write_text(f"nameserver {LOOKUPD}\nnameserver {TWIN}\n")
    (folder := bench.folder / "twin").mkdir()
    twin_bench = Workbench(folder)
    twin_bench.load_tables()
    twin_bench.snapshot()
    with (
        run_lookupd(bench) as server,
        run_lookupd(twin_bench, (LOOKUPD, TWIN)) as twin,
        run_proxy(bench) as kamailio,
    ):
        kamailio.call({f"+{PORTED}": "D0402", f"+{UNALLOCATED}": NO_RECORD})
        assert (server.received, twin.received) == (2, 0)
        halt(server.process)
        kamailio.call({f"+{PORTED}": "D0402"})
        assert twin.received == 1
        server.process.send_signal(signal.SIGCONT)
        wait_until(server.is_conserved)
        server.kill()
        kamailio.call({f"+{PORTED}": "D0402", f"+{HELD}": "-"})
        assert twin.received == 3


def many_at_once(bench: Workbench) -> None:
    """Calls at the same time get their own answers."""
    expected = {f"+8869{2 if n % 2 else 1}1{n:06}": "-" for n in range(100)}
    expected |= {f"+{PORTED}": "D0402", f"+{OTHER_PORTED}": "D0401"}
    with run_lookupd(bench), run_proxy(bench) as kamailio:
        kamailio.call(expected)


@pytest.mark.parametrize(
    "scenario",
    [
        "each_kind_of_number",
        "not_a_question",
        "strict_service",
        "both_services",
        "silent_server",
        "two_servers",
        "many_at_once",
    ],
)
def test_calls_through_kamailio(loaded: Workbench, scenario: str) -> None:
    run_inside(scenario, loaded)


def test_calls_while_the_store_comes_and_changes(workbench: Workbench) -> None:
    run_inside("data_comes_and_changes", workbench)
