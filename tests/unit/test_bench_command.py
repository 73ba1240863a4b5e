"""`lookupd bench` against daemons, the echo, and servers that lose, double and invent answers."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import msgspec
import pytest
from click.testing import CliRunner

from lookupd import bench
from lookupd.bench import Options, Report, run
from lookupd.cli import cli
from lookupd.errors import LookupdError
from lookupd.protocols import npq, pdb
from lookupd.protocols.sip_message import read_request
from tests.conftest import Workbench, free_port, halt, run_cli, run_daemon

native = pytest.importorskip("lookupd._native", reason="the native module is not built here")

NUMBERS = ["886912345678", "886911111111", "886931111111", "110"]
"""Ported, not ported, not allocated, not portable; see the workbench's snapshot."""


@pytest.fixture
def numbers(tmp_path: Path) -> Path:
    path = tmp_path / "numbers.txt"
    path.write_text("# asked by tests\n" + "\n".join(NUMBERS) + "\n")
    return path


class Served:
    """A daemon in a process of its own."""

    def __init__(self, workbench: Workbench) -> None:
        self.npq, self.pdb = free_port(), free_port()
        self.config = workbench.config(
            listen=f'npq = ["udp://127.0.0.1:{self.npq}", "tcp://127.0.0.1:{self.npq}", "udp://[::1]:{self.npq}"]\n'
            f'pdb = ["udp://127.0.0.1:{self.pdb}"]'
        )


@pytest.fixture
def served(loaded: Workbench) -> Iterator[Served]:
    found = Served(loaded)
    with run_daemon(found.config):
        yield found


class SwitchServed:
    """A daemon in a process of its own that serves what switches speak."""

    def __init__(self, workbench: Workbench, profiles: str = '[enum]\napex = "np.example"') -> None:
        self.ports = {"enum": free_port(), "sip": free_port()}
        self.config = workbench.config(
            profiles,
            listen="\n".join(
                f'{name} = ["udp://127.0.0.1:{port}", "tcp://127.0.0.1:{port}"]' for name, port in self.ports.items()
            ),
        )


@pytest.fixture
def served_as_switches_ask(loaded: Workbench) -> Iterator[SwitchServed]:
    found = SwitchServed(loaded)
    with run_daemon(found.config):
        yield found


Reply = Callable[[bytes], list[bytes]]


@contextlib.contextmanager
def answering(reply: Reply) -> Iterator[str]:
    """A server that answers each datagram with what `reply` makes of it, in this order."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        sock.bind(("127.0.0.1", 0))

        def serve() -> None:
            while True:
                datagram, peer = sock.recvfrom(65_535)
                if datagram == b"end":
                    return
                for answer in reply(datagram):
                    sock.sendto(answer, peer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"udp://127.0.0.1:{sock.getsockname()[1]}"
        finally:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ending:
                ending.sendto(b"end", sock.getsockname())
            thread.join(10)


@contextlib.contextmanager
def echoing(*, gso: bool = False) -> Iterator[str]:
    """The native echo; it must have sent back something, and end when told to."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        sock.bind(("127.0.0.1", 0))
        control, echoed = native.LoadControl(), []
        thread = threading.Thread(target=lambda: echoed.append(native.echo(sock.fileno(), gso, gso, control)))
        thread.start()
        try:
            yield f"udp://127.0.0.1:{sock.getsockname()[1]}"
        finally:
            control.stop()
            thread.join(10)
    assert echoed[0] > 0


def accounted(report: Report) -> Report:
    """What has to hold of every report."""
    assert report.sent == report.received + report.lost
    assert sum(count for _, count in report.histogram) == report.received
    assert [upper for upper, _ in report.histogram] == sorted({upper for upper, _ in report.histogram})
    if report.latency_ns is not None:
        values = msgspec.structs.asdict(report.latency_ns)
        cuts = [values[name] for name in ("min", "p50", "p90", "p99", "p99_9", "p99_99", "max")]
        assert cuts == sorted(cuts)
        assert values["min"] <= values["mean"] <= values["max"]
    return report


@contextlib.contextmanager
def asked_command(numbers: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The command in a process of its own, which has asked something of a server that sends it back."""
    asked = threading.Event()

    def reply(query: bytes) -> list[bytes]:
        asked.set()
        return [query]

    with answering(reply) as server:
        command = [sys.executable, "-m", "lookupd.cli", "bench", "--server", server, "--numbers", str(numbers)]
        with subprocess.Popen(
            [*command, *arguments, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            try:
                assert asked.wait(30)
                yield process
            finally:
                process.kill()


# -- real servers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"gso": True, "window": 100},
        {"sockets": 5, "threads": 2, "window": 1},
        {"batch": 4},
        {"transport": "tcp"},
        {"transport": "tcp", "batch": 4, "sockets": 3, "threads": 3},
        {"rate": 3000},
        {"transport": "tcp", "rate": 3000},
        {"host": "[::1]"},
    ],
    ids=str,
)
def test_daemon_answers_every_query_with_the_outcomes_of_its_store(
    served: Served, numbers: Path, changed: dict[str, Any]
) -> None:
    changed = dict(changed)
    server = f"{changed.pop('transport', 'udp')}://{changed.pop('host', '127.0.0.1')}:{served.npq}"
    report = accounted(run(Options(server=server, numbers=numbers, count=1200, timeout=30, **changed)))
    assert (report.received, report.lost, report.late, report.duplicate, report.unknown) == (1200, 0, 0, 0, 0)
    assert sum(report.outcomes.values()) == 1200 * report.batch
    if report.sockets == 1 or report.batch == 4:  # each socket begins at a place of its own
        each = 300 * report.batch
        expected = {"ported": each, "not_ported": each, "not_allocated": each, "not_portable": each}
        assert {name: count for name, count in report.outcomes.items() if count} == expected
    assert report.cpu_seconds > 0


PDB_TRIES = 5
"""A question that has waited for 30 ms is not answered any more: one stall of a busy machine loses a window."""


def test_pdb_outcomes_are_its_codes(served: Served, tmp_path: Path) -> None:
    path = tmp_path / "numbers.txt"
    path.write_text("\n".join([*NUMBERS, "12ab"]))
    server = f"udp://127.0.0.1:{served.pdb}"
    options = Options(server=server, dialect="pdb", numbers=path, count=500, window=4, timeout=2)
    for _ in range(PDB_TRIES):
        report = accounted(run(options))
        if not report.lost:
            break
    assert report.outcomes == {"ok": 200, "not_found": 200, "not_number": 100, "echoed": 0}


@pytest.mark.parametrize("dialect", ["enum", "sip"])
@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"gso": True, "window": 20},
        {"sockets": 4, "threads": 2, "window": 1},
        {"transport": "tcp"},
        {"transport": "tcp", "sockets": 4, "threads": 2},
        {"rate": 1000},
        {"transport": "tcp", "rate": 1000},
    ],
    ids=str,
)
def test_enum_and_sip_answers_are_read_as_they_are_meant(
    served_as_switches_ask: SwitchServed, numbers: Path, dialect: Any, changed: dict[str, Any]
) -> None:
    changed = dict(changed)
    server = f"{changed.pop('transport', 'udp')}://127.0.0.1:{served_as_switches_ask.ports[dialect]}"
    apex = "NP.example." if dialect == "enum" else bench.APEX_DEFAULT
    options = Options(server=server, dialect=dialect, apex=apex, numbers=numbers, count=800, timeout=30, **changed)
    report = accounted(run(options))
    assert (report.received, report.lost, report.late, report.duplicate, report.unknown) == (800, 0, 0, 0, 0)
    assert report.apex == (apex if dialect == "enum" else None)
    # ENUM has one code for a number that nobody has and for one that is none.
    unknown = {"not_allocated": 400} if dialect == "enum" else {"not_allocated": 200, "not_portable": 200}
    expected = {"ported": 200, "not_ported": 200} | unknown
    assert {name: count for name, count in report.outcomes.items() if count} == expected


@pytest.mark.parametrize("form", ["replace", "prefix"])
def test_routing_number_in_the_place_of_the_number_is_seen(loaded: Workbench, numbers: Path, form: str) -> None:
    served = SwitchServed(loaded, f'[sip]\nform = "{form}"\nnpdi = "npdi=yes"\nstatus = 301')
    with run_daemon(served.config):
        server = f"udp://127.0.0.1:{served.ports['sip']}"
        report = run(Options(server=server, dialect="sip", numbers=numbers, count=40, timeout=30))
    assert (report.outcomes["ported"], report.outcomes["not_ported"]) == (10, 10)


def test_wrong_apex_is_an_outcome(served_as_switches_ask: SwitchServed, numbers: Path) -> None:
    server = f"udp://127.0.0.1:{served_as_switches_ask.ports['enum']}"
    report = run(Options(server=server, dialect="enum", apex="other.example", numbers=numbers, count=40, timeout=30))
    assert report.outcomes["refused"] == 40


def test_range_is_drawn_by_the_seed(served: Served) -> None:
    def outcomes(seed: int) -> dict[str, int]:
        return run(
            Options(
                server=f"udp://127.0.0.1:{served.npq}",
                first=886912345670,
                last=886912345679,
                seed=seed,
                count=1000,
                timeout=30,
            )
        ).outcomes

    first = outcomes(1)
    assert first == outcomes(1)
    assert first != outcomes(2)
    assert 120 < first["ported"] < 280, "2 of 10 numbers are ported"


def test_open_loop_counts_latency_from_the_intended_send(
    loaded: Workbench, numbers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that stands still while 400 questions are due: the first of them have waited for all that time."""
    monkeypatch.setattr(bench, "PROGRESS_SECONDS", 0.01)
    served = Served(loaded)
    with run_daemon(served.config) as daemon:
        halt(daemon)

        def go_on(sent: int, received: int, lost: int) -> None:
            if sent >= 400:
                daemon.send_signal(signal.SIGCONT)

        options = Options(server=f"udp://127.0.0.1:{served.npq}", numbers=numbers, rate=1000, count=1000, timeout=60)
        report = accounted(run(options, go_on))
    assert (report.loop, report.received) == ("open", 1000)
    assert report.latency_ns is not None
    # Of 1,000 questions, the ten slowest were due in the first 10 ms; the 400th was due at 399 ms.
    assert report.latency_ns.p99 >= 380_000_000
    assert report.latency_ns.max >= 395_000_000


def test_client_that_was_held_up_says_so_in_every_latency(numbers: Path) -> None:
    """A client that stood still for 400 ms of its 1,200: what was due meanwhile counts from its own moment.

    It then asks 200 at once, which a socket's buffer holds.
    """
    with asked_command(numbers, "--rate", "500", "--count", "600", "--timeout", "20") as process:
        halt(process)
        time.sleep(0.4)
        process.send_signal(signal.SIGCONT)
        out, _ = process.communicate(timeout=30)
    report = accounted(msgspec.json.decode(out, type=Report))
    assert report.received == 600
    assert report.latency_ns is not None
    assert report.latency_ns.p90 >= 200_000_000
    assert report.behind_ns_max >= 380_000_000
    assert "behind its schedule" in " ".join(bench.remarks(report))


# -- the echo --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gso", [False, True])
@pytest.mark.parametrize("dialect", ["npq", "pdb", "enum"])
def test_ids_begin_again_and_every_answer_finds_its_query(numbers: Path, dialect: Any, gso: bool) -> None:
    with echoing(gso=gso) as server:
        report = accounted(
            run(
                Options(server=server, dialect=dialect, numbers=numbers, window=500, count=150_000, gso=gso, timeout=30)
            )
        )
    assert (report.received, report.duplicate, report.unknown, report.late) == (150_000, 0, 0, 0)
    assert report.outcomes["echoed"] == 150_000
    assert report.offloads == bench.Offloads(gso, gso)


@pytest.mark.parametrize("gso", [False, True])
def test_calls_that_come_back_find_their_question(numbers: Path, gso: bool) -> None:
    with echoing(gso=gso) as server:
        options = Options(server=server, dialect="sip", numbers=numbers, window=16, sockets=2, count=5_000, timeout=30)
        report = accounted(run(msgspec.structs.replace(options, gso=gso)))
    assert (report.received, report.duplicate, report.unknown, report.late) == (5_000, 0, 0, 0)
    assert report.outcomes["echoed"] == 5_000


def test_echo_ends_when_a_signal_says_so() -> None:
    port = free_port()
    code = (
        "import signal, socket; from lookupd import _native\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # who runs in the background may ignore it
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        f"s.bind(('127.0.0.1', {port})); _native.echo(s.fileno())"
    )
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) as process:
        options = Options(server=f"udp://127.0.0.1:{port}", first=886912345678, last=886912345679, window=1, count=1)
        for _ in range(100):
            if run(options).received:
                break
        process.send_signal(signal.SIGINT)
        try:
            _, told = process.communicate(timeout=10)
        finally:
            process.kill()
    assert "KeyboardInterrupt" in told


def test_echo_of_no_socket_is_an_error(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file, pytest.raises(OSError, match="socket"):
        native.echo(file.fileno())
    with pytest.raises(OSError, match="descriptor"):
        native.echo(1 << 20)


# -- answers that are wrong ------------------------------------------------------------------------------


def test_copies_and_inventions_are_counted_apart(numbers: Path) -> None:
    before: list[bytes] = []

    def reply(query: bytes) -> list[bytes]:
        """Before each answer: the one before once more, bytes that are no answer, an answer to nothing."""
        wrong = [*before, b"\xc1", npq.encode_query(7, "1")] if before else []
        before[:] = [query]
        return [*wrong, query]

    with answering(reply) as server:
        report = accounted(run(Options(server=server, numbers=numbers, count=200, window=8, timeout=30)))
    assert (report.received, report.duplicate, report.unknown, report.late) == (200, 199, 398, 0)


def test_answers_behind_the_timeout_are_late_and_their_queries_lost(numbers: Path) -> None:
    held: list[bytes] = []

    def reply(query: bytes) -> list[bytes]:
        """Every second answer waits for the next question."""
        held.append(query)
        answers = held[:] if len(held) == 2 else []
        held[:] = [] if answers else held
        return answers

    with answering(reply) as server:
        report = accounted(run(Options(server=server, numbers=numbers, count=4, window=1, timeout=0.4)))
    assert (report.received, report.lost, report.late) == (2, 2, 2)


@pytest.mark.parametrize("rate", [None, 2000])
def test_lost_queries_are_counted_and_in_no_latency(numbers: Path, rate: int | None) -> None:
    seen = []

    def reply(query: bytes) -> list[bytes]:
        seen.append(query)
        return [] if len(seen) % 3 == 0 else [query]

    with answering(reply) as server:
        report = accounted(run(Options(server=server, numbers=numbers, count=300, window=10, rate=rate, timeout=0.3)))
    assert (report.sent, len(seen)) == (300, 300)
    assert report.lost >= 100
    assert "lost queries" in " ".join(bench.remarks(report))


def test_pdb_answers_whose_length_is_wrong_are_unknown(numbers: Path) -> None:
    def reply(query: bytes) -> list[bytes]:
        asked = pdb.decode_query(query)
        right = pdb.encode_answer(asked, 101)
        return [right[:3] + b"\xff" + right[4:], right[:-1], right]

    with answering(reply) as server:
        report = accounted(run(Options(server=server, dialect="pdb", numbers=numbers, count=50, timeout=30)))
    assert (report.outcomes["ok"], report.unknown) == (50, 100)


def test_errors_of_the_server_are_an_outcome(numbers: Path) -> None:
    def reply(query: bytes) -> list[bytes]:
        asked = npq.decode_query(query)
        return [npq.encode_error(npq.QueryRefused(asked.id, npq.ERROR_VERSION))]

    with answering(reply) as server:
        report = accounted(run(Options(server=server, numbers=numbers, count=5, timeout=30)))
    assert report.outcomes["error"] == 5


# -- what is asked, as others read it --------------------------------------------------------------------


def test_enum_questions_and_outcomes_as_another_library_has_them(numbers: Path) -> None:
    asked: list[dns.message.Message] = []

    def reply(query: bytes) -> list[bytes]:
        question = dns.message.from_wire(query)
        asked.append(question)
        answer = dns.message.make_response(question)
        kind = len(asked) % 8
        if kind == 1:
            answer.flags |= dns.flags.TC
        elif kind in {2, 3, 4}:
            uri = ["tel:+1;npdi;rn=+1402", "tel:+1;npdi", "tel:+1"][kind - 2]
            rdata = f'100 10 "u" "E2U+pstn:tel" "!^.*$!{uri}!" .'
            other = dns.rrset.from_text(question.question[0].name, 60, "IN", "TXT", "before")
            answer.answer += [other, dns.rrset.from_text(question.question[0].name, 60, "IN", "NAPTR", rdata)]
        elif kind != 5:
            answer.set_rcode({6: dns.rcode.SERVFAIL, 7: dns.rcode.REFUSED, 0: dns.rcode.NXDOMAIN}[kind])
        return [answer.to_wire()]

    with answering(reply) as server:
        options = Options(server=server, dialect="enum", apex="np.example", numbers=numbers, count=80, timeout=30)
        report = accounted(run(options))
    expected = {"ported": 10, "not_ported": 10, "error": 10, "truncated": 10, "unavailable": 10, "refused": 10}
    expected |= {"not_allocated": 20, "echoed": 0}
    assert report.outcomes == expected
    assert "truncated" in " ".join(bench.remarks(report))
    first = asked[0]
    assert first.question[0].to_text() == "8.7.6.5.4.3.2.1.9.6.8.8.np.example. IN NAPTR"
    assert (first.edns, first.payload, first.flags) == (0, 1232, dns.flags.RD)
    assert len({question.id for question in asked}) == 80


def test_every_call_is_one_of_its_own_and_nothing_is_wrong_with_it() -> None:
    asked: list[bytes] = []

    def reply(query: bytes) -> list[bytes]:
        asked.append(query)
        return [query]

    with answering(reply) as server:
        for _ in range(2):
            run(Options(server=server, dialect="sip", first=886912345678, last=886912345678, sockets=2, count=10))
    requests = [read_request(each, stream=False) for each in asked]
    assert [request.fault for request in requests] == [0] * 20
    host = server.removeprefix("udp://").encode()
    assert {request.uri for request in requests} == {b"sip:+886912345678@%b;user=phone" % host}
    assert {request.via.reply_port for request in requests} == {0}, "to where it came from"
    for name in ("call_id", "from_tag"):
        assert len({getattr(request, name) for request in requests}) == 20, name
    assert len({request.via.branch for request in requests}) == 20
    assert {600 < len(each) < 1300 for each in asked} == {True}


@pytest.mark.parametrize("frame", [b"", struct.pack(">I", 1 << 30)])
def test_connection_that_breaks_ends_the_run(numbers: Path, frame: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1)
                connection.sendall(frame)

        thread = threading.Thread(target=serve)
        thread.start()
        server = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        report = accounted(run(Options(server=server, numbers=numbers, seconds=60, timeout=30)))
        thread.join(10)
    assert report.received == 0
    assert report.seconds < 60


# -- the command -----------------------------------------------------------------------------------------

REPORT_KEYS = (
    "server dialect transport loop sockets window rate batch gso threads timeout seconds sent received lost unsent "
    "late duplicate unknown sent_per_second received_per_second numbers_per_second latency_ns histogram outcomes "
    "offloads behind_ns_max cpu_seconds stopped apex"
)


def test_json_is_one_object_with_every_key(served: Served, numbers: Path) -> None:
    arguments = ("bench", "--server", f"udp://127.0.0.1:{served.npq}", "--numbers", numbers, "--count", "100", "--json")
    ended = run_cli("lookupd.cli", *arguments)
    assert (ended.returncode, ended.stderr) == (0, "")
    found = json.loads(ended.stdout)
    assert " ".join(found) == REPORT_KEYS
    assert list(found["latency_ns"]) == ["min", "mean", "p50", "p90", "p99", "p99_9", "p99_99", "max"]
    assert found["offloads"] == {"gso": False, "gro": False}
    assert (found["loop"], found["window"], found["rate"], found["sent"]) == ("closed", 32, None, 100)
    accounted(msgspec.convert(found, Report))


def test_table_says_what_was_asked_and_how_to_read_it(served: Served, numbers: Path) -> None:
    server = f"udp://127.0.0.1:{served.npq}"
    closed = run_cli("lookupd.cli", "bench", "--server", server, "--numbers", numbers, "--count", "100")
    assert closed.returncode == 0
    for text in ("closed loop, window 32", "not_allocated", "p99.9", "us since the actual send", "is asked less"):
        assert text in closed.stdout
    opened = run_cli("lookupd.cli", "bench", "--server", server, "--numbers", numbers, "--count", "9", "--rate", "90")
    for text in ("open loop, 90 a second", "us since the intended send"):
        assert text in opened.stdout


def test_ctrl_c_ends_early_with_what_was_measured(numbers: Path) -> None:
    with asked_command(numbers, "--seconds", "600") as process:
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=30)
    assert (process.returncode, error) == (0, "")
    report = accounted(msgspec.json.decode(out, type=Report))
    assert report.stopped
    assert report.received > 0
    assert report.seconds < 600


RANGE = ["--range", "886912000000-886912999999"]
USAGE = {
    "beyond this machine": ["--server", "udp://192.0.2.1:4700", *RANGE],
    "pdb: over UDP": ["--server", "tcp://127.0.0.1:1", "--dialect", "pdb", *RANGE],
    "one number a query": ["--dialect", "pdb", "--batch", "2", *RANGE],
    "sip: one number a query": ["--dialect", "sip", "--batch", "2", *RANGE],
    "enum: one number a query": ["--dialect", "enum", "--batch", "2", *RANGE],
    "apex: 'a..b' is no domain name": ["--dialect", "enum", "--apex", "a..b", *RANGE],
    "name of at most 175 bytes": ["--dialect", "enum", "--apex", ".".join(["a" * 60] * 3), *RANGE],
    "sip has none": ["--dialect", "sip", "--apex", "np.example", *RANGE],
    "65535 ids that enum": ["--dialect", "enum", "--rate", "100000", *RANGE],
    "1 to 65535 with enum": ["--dialect", "enum", "--window", "65536", *RANGE],
    "window: 1 to 65535": ["--dialect", "pdb", "--window", "65536", *RANGE],
    "window: 1 to": ["--window", "0", *RANGE],
    "more sockets, or a shorter timeout": ["--dialect", "pdb", "--rate", "100000", *RANGE],
    "rate: at least 1": ["--rate", "0", *RANGE],
    "choose one": ["--rate", "5", "--window", "5", *RANGE],
    "name the numbers": [],
    "--numbers FILE or": ["--numbers", "x", *RANGE],
    "write it like 886": ["--range", "886912"],
    "end is not before": ["--range", "886912999999-886912000000"],
    "a thread for each at most": ["--threads", "2", *RANGE],
    "1 to 10000 sockets": ["--sockets", "0", *RANGE],
    "1 to 1000 numbers": ["--batch", "1001", *RANGE],
    "timeout: above 0": ["--timeout", "0", *RANGE],
    "at most 60 seconds": ["--timeout", "61", *RANGE],
    "seconds: above 0": ["--seconds", "0", *RANGE],
    "at most 1e+06": ["--seconds", "nan", *RANGE],
    "count: 1 to": ["--count", "0", *RANGE],
    "to 1000000000000000": ["--count", "99999999999999999999", *RANGE],
    "udp:// or tcp://": ["--server", "http://127.0.0.1:1", *RANGE],
    "is no address": ["--server", "udp://localhost:4700", *RANGE],
    "with a port": ["--server", "udp://127.0.0.1:0", *RANGE],
}


@pytest.mark.parametrize(("message", "arguments"), USAGE.items(), ids=USAGE)
def test_what_cannot_be_asked_is_a_usage_error(message: str, arguments: list[str]) -> None:
    ended = CliRunner().invoke(cli, ["bench", *arguments])
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert message in " ".join(ended.stderr.replace("│", " ").split())


def test_remote_server_is_asked_only_when_said_to_be_ones_own() -> None:
    with pytest.raises(ValueError, match="--remote"):
        Options(server="udp://192.0.2.1:4700", first=1, last=2).check()
    Options(server="udp://192.0.2.1:4700", first=1, last=2, remote=True).check()


def test_bounds_of_what_can_be_in_flight() -> None:
    def check(**changed: Any) -> None:
        Options(server="udp://127.0.0.1:4700", first=1, last=2, **changed).check()

    check(dialect="pdb", window=65_535)
    check(dialect="pdb", rate=65_533)
    check(dialect="pdb", rate=200_000, sockets=4)
    check(rate=1_000_000)
    with pytest.raises(ValueError, match="shorter timeout"):
        check(dialect="pdb", rate=65_534)


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_nobody_there_fails_and_says_so(numbers: Path, transport: str) -> None:
    server = f"{transport}://127.0.0.1:{free_port()}"
    ended = run_cli(
        "lookupd.cli", "bench", "--server", server, "--numbers", numbers, "--timeout", "0.05", "--count", "3"
    )
    assert ended.returncode == 1
    assert f"error: {server}: " in ended.stderr


def test_silent_server_fails_with_the_report_all_the_same(numbers: Path) -> None:
    with answering(lambda query: []) as server:
        ended = run_cli(
            *("lookupd.cli", "bench", "--server", server, "--numbers", numbers),
            *("--timeout", "0.1", "--count", "3", "--json"),
        )
    assert (ended.returncode, "nothing was answered" in ended.stderr) == (1, True)
    report = accounted(msgspec.json.decode(ended.stdout, type=Report))
    assert (report.sent, report.lost, report.latency_ns) == (3, 3, None)


@pytest.mark.parametrize(
    ("text", "reason"), [(None, "No such file"), ("", "no number"), ("1\n2 3\n", "line 2"), ("1" * 41, "line 1")]
)
def test_file_that_cannot_be_asked_is_told_by_name_and_line(tmp_path: Path, text: str | None, reason: str) -> None:
    path = tmp_path / "asked.txt"
    if text is not None:
        path.write_text(text)
    ended = CliRunner().invoke(cli, ["bench", "--numbers", str(path)])
    assert ended.exit_code == 1
    assert f"error: {path}: " in ended.stderr
    assert reason in ended.stderr


def test_without_native_code_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lookupd._native", None)
    monkeypatch.delattr("lookupd._native", raising=False)
    with pytest.raises(LookupdError, match="install Rust"):
        run(Options(server="udp://127.0.0.1:4700", first=1, last=2))
    ended = CliRunner().invoke(cli, ["bench", *RANGE, "--json"])
    assert ended.exit_code == 1
    assert json.loads(ended.stdout)["exit_code"] == 1
