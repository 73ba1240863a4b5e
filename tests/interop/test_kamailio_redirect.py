"""SIP redirect with the real client: Kamailio asks lookupd by an INVITE, reads the 302, and sends the call on.

All of docs/integration/kamailio-redirect.md: its three files are read from the page. SIPp calls, and SIPp is the next
hop too, which redirects each call to the URI that it was called with. So an answer of sipp-np-dip.xml is what Kamailio
made of lookupd's answer.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Workbench, free_port, run_daemon, wait_until
from tests.interop.pages import block
from tests.interop.programs import HERE, Calls, Server, Sipp, needs_kamailio, run_kamailio
from tests.interop.sip_site import HELD, NO_ANSWER, NO_RN, PORTED, PORTED_RN, UNALLOCATED, UNKNOWN

PAGE = "kamailio-redirect.md"
SETTINGS = block(PAGE, "lookupd.toml")
SERVERS = block(PAGE, "lookupd.list")
CONFIGURATION = block(PAGE, "kamailio-redirect.cfg")

pytestmark = [pytest.mark.usefixtures("each_engine"), needs_kamailio]

PATIENCE_MS = 2000
"""For lookupd on a busy machine; the page's own is for tests in which it is silent."""

PAGE_DIP_MS = int(re.findall(r"#!define DIP_MS (\d+)", CONFIGURATION)[0])

ANSWERS = {PORTED: PORTED_RN, HELD: NO_RN, UNALLOCATED: UNKNOWN}


@contextlib.contextmanager
def run_server(bench: Workbench) -> Iterator[Server]:
    """With the page's settings, on loopback."""
    port, http_port = free_port(), free_port()
    settings = SETTINGS.replace("192.0.2.10:5060", f"127.0.0.1:{port}").replace("192.0.2.5/32", "127.0.0.1/32")
    settings = settings.replace("127.0.0.1:9474", f"127.0.0.1:{http_port}")
    head = f'[engine]\nudp = "{bench.engine}"\n[store]\npath = "{bench.store}"\n'
    with run_daemon(bench.write("lookupd.toml", head + settings)) as process:
        server = Server(process, "sip", port, http_port)
        yield server
        if process.poll() is None:
            wait_until(server.is_conserved)
            assert server.count("received") > 0


class Proxy:
    """Kamailio between SIPp and SIPp."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port

    def answers(self, expected: dict[str, str]) -> dict[str, str]:
        """What was answered to each call; expected: what SIPp is to be content with."""
        return Calls(self.folder, self.port, expected, rate=100).answers()

    def call(self, expected: dict[str, str]) -> None:
        assert self.answers(expected) == expected


@contextlib.contextmanager
def run_proxy(
    folder: Path, *servers: Server, dip_ms: int = PATIENCE_MS, probe_seconds: int = 1, transport: str = "udp"
) -> Iterator[Proxy]:
    """The page's Kamailio with these servers, the first preferred."""
    port, hop_port = free_port(), free_port()
    listed = SERVERS.splitlines()
    for number, server in enumerate(servers):
        listed[1 + number] = listed[1 + number].replace(
            f"192.0.2.{10 + number}:5060", f"127.0.0.1:{server.port};transport={transport}"
        )
    servers_path = folder / "lookupd.list"
    servers_path.write_text("\n".join(listed[: 1 + len(servers)]) + "\n")
    defined = {
        "LISTEN": f"127.0.0.1:{port}",
        "LOOKUPD_LIST": f'"{servers_path}"',
        "NEXT_HOP": f'"sip:127.0.0.1:{hop_port}"',
        "DIP_MS": dip_ms,
        "PROBE_SECONDS": probe_seconds,
    }
    hop = Sipp(folder, HERE / "sipp-gateway.xml", None, "-p", str(hop_port), calls=100_000)
    try:
        with run_kamailio(folder, CONFIGURATION, port, defined):
            yield Proxy(folder, port)
    finally:
        hop.kill()


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_call_goes_on_with_what_lookupd_told(loaded: Workbench, transport: str) -> None:
    with run_server(loaded) as server, run_proxy(loaded.folder, server, transport=transport) as proxy:
        proxy.call(
            ANSWERS
            | {
                "0912345678": PORTED_RN,
                "+886912345679": "D0401",
                "+886923456789": "D9999",
                "+85291234567": UNKNOWN,  # another country
                "operator": UNKNOWN,
            }
        )
        assert server.count("answered", outcome="ported") >= 4
        assert server.count("answered", transport=transport) == server.count("answered")


def test_many_calls_get_their_own_answers(loaded: Workbench) -> None:
    expected = {f"{PORTED[:-3]}{at:03}": NO_RN for at in range(300)} | ANSWERS | {"+886912345679": "D0401"}
    with run_server(loaded) as server, run_proxy(loaded.folder, server) as proxy:
        proxy.call(expected)


def test_call_that_was_dipped_is_not_asked_about(loaded: Workbench) -> None:
    with run_server(loaded) as server, run_proxy(loaded.folder, server) as proxy:
        expected = {"+886912345678%3Bnpdi": UNKNOWN}  # no parameter: part of what was dialled
        proxy.call(expected)
        answered = server.count("answered")
        scenario = (HERE / "sipp-np-dip.xml").read_text()
        path = loaded.folder / "dipped.xml"
        path.write_text(scenario.replace("sip:[field0]@", "sip:[field0];npdi;rn=D0777;rn-context=+886@"))
        numbers = loaded.write("dipped.csv", f"SEQUENTIAL\n{PORTED};D0777\n")
        calls = Sipp(loaded.folder, path, proxy.port, "-inf", numbers, "-p", str(free_port()), "-timeout", "20s")
        assert calls.wait() == 0, calls.told()
        assert server.count("answered") == answered


def test_call_after_a_delta_goes_the_new_way(loaded: Workbench) -> None:
    with run_server(loaded) as server, run_proxy(loaded.folder, server) as proxy:
        proxy.call({HELD: NO_RN, PORTED: PORTED_RN})
        loaded.delta(
            {"kind": "port", "tn": HELD[1:], "recipient": "1402"}, {"kind": "return", "tn": PORTED[1:]}, sequence=2
        )
        proxy.call({HELD: PORTED_RN, PORTED: NO_RN})


def test_silence_is_503_and_an_answer_again_once_it_is_over(loaded: Workbench) -> None:
    with run_server(loaded) as server, run_proxy(loaded.folder, server, dip_ms=PAGE_DIP_MS) as proxy:
        with server.stopped():
            proxy.call(dict.fromkeys(ANSWERS, NO_ANSWER))
            proxy.call(dict.fromkeys(ANSWERS, NO_ANSWER))  # out of service by now
        wait_until(lambda: proxy.answers({PORTED: PORTED_RN}) == {PORTED: PORTED_RN}, 20)


@pytest.fixture
def twin(loaded: Workbench) -> Workbench:
    """A second store with the same numbers."""
    folder = loaded.folder / "twin"
    folder.mkdir()
    bench = Workbench(folder)
    bench.load_tables()
    bench.snapshot()
    return bench


def test_second_server_answers_when_the_first_is_silent(loaded: Workbench, twin: Workbench) -> None:
    with (
        run_server(loaded) as first,
        run_server(twin) as second,
        run_proxy(loaded.folder, first, second, dip_ms=PATIENCE_MS // 2) as proxy,
    ):
        assert second.count("answered") == 0
        with first.stopped():
            proxy.call(ANSWERS)
            proxy.call(ANSWERS)
        assert second.count("answered", outcome="ported") >= 2
        first.kill()
        proxy.call(ANSWERS)
        second.kill()
        proxy.call(dict.fromkeys(ANSWERS, NO_ANSWER))


def test_server_without_data_is_out_of_service_until_it_has_some(workbench: Workbench, loaded: Workbench) -> None:
    (workbench.folder / "empty").mkdir()
    empty_bench = Workbench(workbench.folder / "empty")
    with (
        run_server(empty_bench) as empty,
        run_server(loaded) as second,
        run_proxy(loaded.folder, empty, second) as proxy,
    ):
        proxy.call(ANSWERS)
        assert empty.count("answered", outcome="unavailable") > 0
        empty_bench.load_tables()
        empty_bench.snapshot()
        wait_until(empty.ready)

        def first_is_asked() -> bool:
            proxy.call(ANSWERS)
            return empty.count("answered", outcome="ported") > 0

        wait_until(first_is_asked, 20)
