"""pdb with the real client: SIPp calls, Kamailio asks lookupd, and what Kamailio answers is what counts.

Three programs on loopback, nothing replaced: `lookupd serve`, Kamailio as docs/integration/kamailio-pdb.md has it, and
SIPp with sipp-np-dip.xml. An answer is the carrier id that Kamailio puts into its 302, "404" for none, or "500" when no
server answered it in time.
"""

from __future__ import annotations

import contextlib
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Workbench, free_port, run_daemon, wait_until
from tests.interop.pages import block
from tests.interop.programs import Calls, Server, needs_kamailio, run_kamailio

DOCUMENT = Path(__file__).parents[2] / "docs" / "protocols" / "pdb.md"
CONFIGURATION = block("kamailio-pdb.md", "kamailio-pdb.cfg")

pytestmark = pytest.mark.usefixtures("each_engine")

PORTED, HELD, UNALLOCATED = "886912345678", "886911000000", "886933000000"
NO_CARRIER, SILENCE = "404", "500"

# Kamailio's default is 50 ms. More keeps a busy machine from failing tests; less than SIPp's 500 ms, so that
# a call is not sent twice.
PATIENCE_MS = 200
TRIES_MORE = 2


@contextlib.contextmanager
def run_server(bench: Workbench, settings: str = "") -> Iterator[Server]:
    """At the end every query that it received must be accounted for."""
    port, http_port = free_port(), free_port()
    listen = f'pdb = ["udp://127.0.0.1:{port}"]\nhttp = "http://127.0.0.1:{http_port}"'
    with run_daemon(bench.config(settings, listen)) as process:
        server = Server(process, "pdb", port, http_port)
        yield server
        if process.poll() is None:
            assert server.is_conserved()
            assert server.count("received") > 0


class Kamailio:
    """A SIP proxy that asks the servers, and SIPp to call through it."""

    def __init__(self, folder: Path, port: int, servers: tuple[Server, ...]) -> None:
        self.folder = folder
        self.port = port
        self.servers = servers

    def call(self, expected: dict[str, str]) -> None:
        """Call each number; Kamailio must give the answers expected.

        A busy machine can keep a question from lookupd until it is late. Such a call is made again, if lookupd
        counted the question.
        """
        late = self.late_total()
        answers = self.dial(expected).answers()
        for _ in range(TRIES_MORE):
            unlucky = {number: answer for number, answer in expected.items() if answers[number] == SILENCE != answer}
            late_now = self.late_total()
            if not unlucky or late_now == late:
                break
            late = late_now
            answers |= self.dial(unlucky).answers()
        assert answers == expected

    def dial(self, expected: dict[str, str]) -> Calls:
        """Begin to call each number once."""
        return Calls(self.folder, self.port, expected)

    def late_total(self) -> int:
        return sum(server.count("dropped", reason="late") for server in self.servers if server.process.poll() is None)


@contextlib.contextmanager
def run_proxy(folder: Path, *servers: Server, workers: int = 2) -> Iterator[Kamailio]:
    """Kamailio that asks these servers, until the block ends."""
    port = free_port()
    addresses = ",".join(f"127.0.0.1:{server.port}" for server in servers)
    defined = {"SIP_PORT": port, "PDB_SERVERS": f'"{addresses}"', "PDB_TIMEOUT_MS": PATIENCE_MS, "WORKERS": workers}
    with run_kamailio(folder, CONFIGURATION, port, defined):
        yield Kamailio(folder, port, servers)


def unread_bytes(port: int) -> int:
    """What waits in the receive buffer of a UDP socket of this machine, as the kernel counts it."""
    rows = [line.split() for line in Path("/proc/net/udp").read_text().splitlines()[1:]]
    return sum(int(row[4].split(":")[1], 16) for row in rows if row[1] == f"0100007F:{port:04X}")


@needs_kamailio
def test_each_kind_of_number_gets_its_answer(loaded: Workbench) -> None:
    with run_server(loaded) as server, run_proxy(loaded.folder, server) as kamailio:
        kamailio.call(
            {
                PORTED: "102",
                "886912345679": "101",
                "886923456789": "101",  # has a routing number of its own: the carrier id is still the network's
                "886223450000": "1000",  # ported to a network without a pdb_carrier_id
                "0912345678": "102",  # as dialled in the country
                HELD: "101",
                "886921000000": "102",
                "886223450001": "101",
                "886912000000": "1000",  # held by the network without a pdb_carrier_id; the longer prefix wins
                UNALLOCATED: NO_CARRIER,
                "886501234567": NO_CARRIER,  # of a kind that is never ported
                "85291234567": NO_CARRIER,  # another country
            }
        )
        assert server.count("answered", outcome="ported") == 5
        assert server.count("answered", outcome="not_ported") == 4
        assert server.count("answered", outcome="not_allocated") == 1
        assert server.count("odd") == 0


@needs_kamailio
def test_what_is_no_number_has_no_carrier(loaded: Workbench) -> None:
    malformed = [f"+{PORTED}", "88691234567a", "operator", "8869-1234-5678"]
    wrong_length = ["8", "88691234567", f"{PORTED}9", f"{PORTED}9999", PORTED[:8] * 4, PORTED[:8] * 4 + "1", "8" * 248]
    numbers = malformed + wrong_length
    with run_server(loaded) as server, run_proxy(loaded.folder, server) as kamailio:
        kamailio.call(dict.fromkeys(numbers, NO_CARRIER))
        assert server.count("answered") == len(numbers)


@needs_kamailio
def test_unmapped_carrier_id_is_a_setting(loaded: Workbench) -> None:
    with (
        run_server(loaded, "[pdb]\nunmapped_carrier_id = 32767") as server,
        run_proxy(loaded.folder, server) as kamailio,
    ):
        kamailio.call({PORTED: "102", "886223450000": "32767"})


@needs_kamailio
def test_calls_at_the_same_time_get_their_own_answers(loaded: Workbench) -> None:
    expected = {f"8869{2 if n % 2 else 1}1{n:06}": "102" if n % 2 else "101" for n in range(200)}
    with run_server(loaded) as server, run_proxy(loaded.folder, server, workers=4) as kamailio:
        kamailio.call(expected)


STEPS_TO_DATA = (
    Workbench.load_tables,
    lambda bench: bench.snapshot(now=1),
    lambda bench: bench.delta({"kind": "port", "tn": HELD, "recipient": "1402"}, sequence=2),
)


@needs_kamailio
@pytest.mark.parametrize("steps_done", [0, 1, 2], ids=["no_store", "no_snapshot", "old_data"])
def test_server_without_usable_data_is_silent_until_it_has_some(workbench: Workbench, steps_done: int) -> None:
    for step in STEPS_TO_DATA[:steps_done]:
        step(workbench)
    with (
        run_server(workbench, '[limits]\nstale_after = "1h"') as server,
        run_proxy(workbench.folder, server) as kamailio,
    ):
        kamailio.call({PORTED: SILENCE, UNALLOCATED: SILENCE, "operator": SILENCE})
        assert server.count("dropped", reason="unavailable") > 0 == server.count("answered")
        for step in STEPS_TO_DATA[steps_done:]:
            step(workbench)
        wait_until(server.ready)
        kamailio.call({PORTED: "102", UNALLOCATED: NO_CARRIER, "operator": NO_CARRIER})


@needs_kamailio
def test_late_answer_is_not_sent_and_so_not_taken_for_the_next_calls(loaded: Workbench) -> None:
    # One worker, so the second call waits at the socket that the first one's late answer would come to.
    with run_server(loaded) as server, run_proxy(loaded.folder, server, workers=1) as kamailio:
        with server.stopped():
            assert kamailio.dial({UNALLOCATED: SILENCE}).answers() == {UNALLOCATED: SILENCE}
            unread = unread_bytes(server.port)
            calls = kamailio.dial({PORTED: SILENCE})
            wait_until(lambda: unread_bytes(server.port) > unread > 0)
            time.sleep(0.05)  # beyond limits.PDB_LATE_NS: both questions are late now
        assert calls.answers() == {PORTED: SILENCE}
        kamailio.call({PORTED: "102"})
        assert server.count("dropped", reason="late") >= 2
        assert server.count("answered") == server.count("answered", outcome="ported") == 1


@needs_kamailio
def test_replica_that_died_or_has_no_data_leaves_the_answer_to_the_other(loaded: Workbench) -> None:
    with contextlib.ExitStack() as stack:
        (empty_folder := loaded.folder / "empty").mkdir()
        (twin_folder := loaded.folder / "twin").mkdir()
        twin_bench = Workbench(twin_folder)
        twin_bench.load_tables()
        twin_bench.snapshot()
        first, twin, empty = (
            stack.enter_context(run_server(bench)) for bench in (loaded, twin_bench, Workbench(empty_folder))
        )
        kamailio = stack.enter_context(run_proxy(loaded.folder, empty, first, twin))
        expected = {PORTED: "102", HELD: "101", UNALLOCATED: NO_CARRIER}
        kamailio.call(expected)
        first.kill()
        kamailio.call(expected)
        twin.kill()
        kamailio.call(dict.fromkeys(expected, SILENCE))
        assert empty.count("dropped", reason="unavailable") > 0 == empty.count("answered")


@needs_kamailio
def test_call_after_a_delta_gets_the_new_carrier(loaded: Workbench) -> None:
    with run_server(loaded) as server, run_proxy(loaded.folder, server) as kamailio:
        kamailio.call({HELD: "101", PORTED: "102"})
        loaded.delta({"kind": "port", "tn": HELD, "recipient": "1402"}, {"kind": "return", "tn": PORTED}, sequence=2)
        kamailio.call({HELD: "102", PORTED: "1000"})


def test_documented_messages_are_those_on_the_wire(loaded: Workbench) -> None:
    text = DOCUMENT.read_text()
    pairs = re.findall(r"^request +([0-9a-f ]+)\nreply +([0-9a-f ]+|nothing)$", text, re.MULTILINE)
    assert len(pairs) == text.count("\nrequest ") >= 9
    with run_server(loaded) as server, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(5)
        sock.connect(("127.0.0.1", server.port))
        for request, reply in pairs:
            sock.send(bytes.fromhex(request))
            if reply != "nothing":  # an answer where there should be none is seen at the next pair
                assert sock.recv(512).hex(" ") == bytes.fromhex(reply).hex(" ")
