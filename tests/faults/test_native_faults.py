"""A daemon on the native engine, as a process of its own, among peers, loaders and operators that misbehave.

Nothing may end it, every query is accounted for, and no answer is of anything but one state of the store.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import lmdb
import pytest

from lookupd.errors import ProtocolError
from lookupd.fastpath import native_missing
from lookupd.limits import DATAGRAM_BYTES_MAX
from lookupd.model import Outcome
from lookupd.protocols import npq, pdb
from lookupd.store.schema import BLOCK_KEY
from tests.conftest import SNAPSHOT, Workbench, free_port, halt, run_cli, run_daemon, wait_until
from tests.unit.test_damage import flipped, put, stored
from tests.unit.test_native_store import MAP, MOVED, OtherProcess, in_memory, route_of, write  # noqa: F401

missing = native_missing()
pytestmark = [pytest.mark.skipif(missing is not None, reason=missing or ""), pytest.mark.timeout(120)]

PORTED, OTHER, NOT_ALLOCATED = "886912345678", "886923456789", "886931111111"
WORKERS = 3
UDP_SEGMENT = 103
SEGMENTS_MAX = 64
NETWORK_OF_ROUTE = {1: "1401", 2: "1402", 3: "1403"}
ANYBODY = '[[client]]\nname = "local"\nsources = ["127.0.0.0/8"]\n'


# -- a daemon and what is asked of it --------------------------------------------------------------------


class Site:
    """Where a daemon listens, its configuration, and what it says of itself."""

    def __init__(self, workbench: Workbench) -> None:
        self.workbench = workbench
        self.npq, self.pdb, self.http = free_port(), free_port(), free_port()
        self.map_size = "64GiB"
        self.host = "127.0.0.1"
        self.engine = "native"

    def listen(self, *, pdb: bool = True) -> str:
        lines = [
            f'npq = ["udp://{self.host}:{self.npq}", "tcp://127.0.0.1:{self.npq}"]',
            f'pdb = ["udp://127.0.0.1:{self.pdb}"]' if pdb else "",
            f'http = "http://127.0.0.1:{self.http}"',
        ]
        return "\n".join(lines)

    def configure(self, extra: str = "", *, pdb: bool = True) -> Path:
        """Write the configuration, again if need be."""
        return self.write_listen(f"{self.listen(pdb=pdb)}\n{extra}")

    def write_listen(self, rest: str) -> Path:
        head = f'[engine]\nudp = "{self.engine}"\nthreads = {WORKERS}\n[store]\npath = "{self.workbench.store}"\n'
        body = f'map_size = "{self.map_size}"\n[listen]\n{rest}'
        return self.workbench.write("lookupd.toml", head + body)

    def log(self) -> str:
        return (self.workbench.folder / "lookupd.log").read_text()

    def fetch(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.http}{path}", timeout=5) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def scrape(self) -> Metrics:
        return Metrics(self.fetch("/metrics")[1])

    def received(self, dialect: str, count: int) -> Metrics:
        """The metrics when so many queries of the dialect have come over UDP: no more, and they balance."""
        wait_until(lambda: self.scrape().count(dialect, "received") >= count, 10)
        metrics = self.scrape()
        assert metrics.count(dialect, "received") == count
        metrics.check_balance()
        return metrics

    def reload(self, process: subprocess.Popen[str]) -> None:
        """SIGHUP, and wait until it is taken over."""
        before = self.log().count("config_applied")
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: self.log().count("config_applied") > before)


class Metrics:
    """One scrape."""

    def __init__(self, text: str) -> None:
        rows = [line.rsplit(" ", 1) for line in text.splitlines() if line[:1] not in {"", "#"}]
        self.rows = {name: float(value) for name, value in rows}

    def value(self, name: str, **labels: str) -> float:
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        return sum(
            value
            for key, value in self.rows.items()
            if key.partition("{")[0] == name and all(label in key for label in wanted)
        )

    def count(self, dialect: str, what: str, transport: str = "udp", **labels: str) -> float:
        return self.value(f"lookupd_queries_{what}_total", dialect=dialect, transport=transport, **labels)

    def check_balance(self) -> None:
        for dialect in ("npq", "pdb"):
            for transport in ("udp", "tcp"):
                parts = {what: self.count(dialect, what, transport) for what in ("answered", "refused", "dropped")}
                assert self.count(dialect, "received", transport) == sum(parts.values()), (dialect, transport, parts)


@pytest.fixture
def site(loaded: Workbench) -> Site:
    return Site(loaded)


def udp(port: int, host: str = "127.0.0.1", seconds: float = 2.0) -> socket.socket:
    """Connected; each has a source port of its own, by which the kernel picks a worker."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(seconds)
    if host != "127.0.0.1":
        sock.bind((host, 0))
    sock.connect(("127.0.0.1", port))
    return sock


@contextlib.contextmanager
def sockets(port: int, count: int = 4 * WORKERS, seconds: float = 2.0) -> Iterator[list[socket.socket]]:
    """So many that every worker is asked."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(udp(port, seconds=seconds)) for _ in range(count)]


def ask(sock: socket.socket, number: str, query_id: int = 1) -> tuple[int, int, str | None]:
    """Serial, outcome and network code of one number, over npq."""
    sock.send(npq.encode_query(query_id, number))
    answer = npq.decode_answer(sock.recv(65_535))
    assert answer.id == query_id
    return answer.serial, answer.results[0], answer.results[1]


def is_silent(sock: socket.socket, message: bytes, seconds: float = 0.2) -> bool:
    sock.settimeout(seconds)
    sock.send(message)
    try:
        sock.recv(65_535)
    except TimeoutError:
        return True
    finally:
        sock.settimeout(2)
    return False


def queries_in(dialect: str, datagram: bytes) -> int:
    """As how many queries a datagram counts."""
    if dialect == "npq":
        with contextlib.suppress(ProtocolError):
            return len(npq.numbers_of(npq.decode_query(datagram)))
    return 1


class Load:
    """Threads that each do one thing over and over until the end; what goes wrong in one fails the test."""

    def __init__(self, *tasks: Callable[[], object]) -> None:
        self._stop = threading.Event()
        self._errors: list[BaseException] = []
        self.rounds = 0
        self._threads = [threading.Thread(target=self._run, args=(task,)) for task in tasks]

    def _run(self, task: Callable[[], object]) -> None:
        try:
            while not self._stop.is_set():
                task()
                self.rounds += 1
        except BaseException as error:
            self._errors.append(error)

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def check(self) -> None:
        if self._errors:
            raise self._errors[0]

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self.check()


def each(task: Callable[[socket.socket], object], socks: list[socket.socket]) -> list[Callable[[], object]]:
    """The task, once for each socket."""
    return [partial(task, sock) for sock in socks]


# -- datagrams of every length, alone and joined ---------------------------------------------------------

LENGTHS = [*range(130), *range(130, 1600, 37), *range(1600, DATAGRAM_BYTES_MAX, 2999), *range(65_500, 65_508)]

VALID = {
    "npq": [
        npq.encode_query(70_000, PORTED, 1),
        npq.encode_query(1, [PORTED, "0912345678", "+886931111111", "x"], 1),
        b"\x95\x01\x00\x07\xcf" + struct.pack(">Q", int(PORTED)) + b"\x01",
    ],
    "pdb": [pdb.encode_query(PORTED, 7), b"886912345678\0", pdb.encode_query("letters", 7)],
}


def sendable(sock: socket.socket, datagram: bytes, segment: int = 0) -> bool:
    """Send it, in datagrams of so many bytes joined if told so; False where the kernel does not take that."""
    control = [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("@H", segment))] if segment else []
    try:
        sock.sendmsg([datagram], control)
    except OSError:
        return False
    return True


@pytest.mark.parametrize("dialect", ["npq", "pdb"])
def test_datagrams_of_every_length_and_cut_at_every_byte_are_counted(site: Site, dialect: str) -> None:
    datagrams = [bytes(length) for length in LENGTHS] + [os.urandom(length) for length in LENGTHS]
    datagrams += [b"\x94\x01\x00\x07".ljust(length, b"\xa0") for length in LENGTHS]
    datagrams += [message[:end] for message in VALID[dialect] for end in range(len(message) + 1)]
    datagrams += [message + bytes(more) for message in VALID[dialect] for more in (1, 300, 2000, 60_000)]
    port = getattr(site, dialect)
    with run_daemon(site.configure()) as process, udp(port) as sock:
        sent = queries = unread = 0
        for datagram in datagrams:
            assert sendable(sock, datagram), len(datagram)
            sent += 1
            queries += queries_in(dialect, datagram)
            unread += len(datagram) + 1000
            if unread > 100_000:  # no more than the receive buffer holds
                unread = 0
                site.received(dialect, queries)
        site.received(dialect, queries)
        assert process.poll() is None
        with udp(port) as another:
            another.send(VALID[dialect][0])
            assert another.recv(2000)
    assert sent == len(datagrams)


@pytest.mark.parametrize("dialect", ["npq", "pdb"])
def test_joined_datagrams_of_any_segment_size_are_each_counted(site: Site, dialect: str) -> None:
    message = VALID[dialect][0]
    port, length = getattr(site, dialect), len(message)
    with run_daemon(site.configure()) as process, udp(port) as sock:
        if not sendable(sock, message + message, length):
            pytest.skip("this kernel does not join datagrams")
        queries, trains = 2, 0
        sizes = [1, 2, 3, 7, length - 1, length, length + 1, 2 * length - 1, 300, 1023, 1025, 1471, 1472, 9000, 30_000]
        for segment in sizes:
            for count in (2, 3, 31, SEGMENTS_MAX):
                for tail in (0, 1, segment - 1):
                    joined = (message * (segment * count // length + 2))[: segment * (count - 1) + (tail or segment)]
                    if len(joined) > DATAGRAM_BYTES_MAX or not sendable(sock, joined, segment):
                        continue
                    trains += 1
                    pieces = [joined[at : at + segment] for at in range(0, len(joined), segment)]
                    queries += sum(queries_in(dialect, piece) for piece in pieces)
                    if trains % 4 == 0 or len(joined) > 20_000:
                        site.received(dialect, queries)
        metrics = site.received(dialect, queries)
        assert trains > 80
        assert metrics.count(dialect, "answered") > 100
        assert process.poll() is None


def test_joined_questions_are_answered_one_by_one(site: Site) -> None:
    with run_daemon(site.configure()), udp(site.npq) as sock:
        questions = [npq.encode_query(128 + at, PORTED if at % 3 else NOT_ALLOCATED) for at in range(60)]
        assert len({len(question) for question in questions}) == 1
        if not sendable(sock, b"".join(questions), len(questions[0])):
            pytest.skip("this kernel does not join datagrams")
        answers = [npq.decode_answer(sock.recv(2000)) for _ in questions]
    assert sorted((answer.id, answer.results[0]) for answer in answers) == [
        (128 + at, Outcome.PORTED if at % 3 else Outcome.NOT_ALLOCATED) for at in range(60)
    ]


# -- replies that the kernel does not take ---------------------------------------------------------------


def in_own_network(scenario: Callable[[Path], None], folder: Path) -> None:
    """Run a function of this module in a network of its own, with a loopback and nothing else."""
    if os.geteuid() != 0:
        pytest.skip("needs root for a network namespace")
    call = f"from pathlib import Path; from {__name__} import {scenario.__name__} as run; run(Path({str(folder)!r}))"
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", f"{call}; print('done')"],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    if "cannot be had here" in done.stderr:
        pytest.skip(done.stderr.splitlines()[-1])
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("done\n"), done.stdout


def need(*command: str) -> None:
    """Raises when this machine has not what the command asks for."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"cannot be had here: {' '.join(command)}: {done.stderr.strip()}")


def replies_to_unreachable(folder: Path) -> None:
    """Clients whose replies meet a route that forbids them, each in the kernel's own words."""
    need("ip", "link", "set", "lo", "up")
    kinds = {"127.0.9.1": "prohibit", "127.0.9.2": "unreachable", "127.0.9.3": "blackhole"}
    for address in kinds:
        need("ip", "address", "add", f"{address}/32", "dev", "lo")
    site = Site(Workbench(folder))
    with run_daemon(site.configure()) as process, contextlib.ExitStack() as stack:
        socks = [stack.enter_context(udp(site.npq, address)) for address in kinds for _ in range(WORKERS)]
        good = stack.enter_context(udp(site.npq))
        ask(good, PORTED)
        for address, kind in kinds.items():
            need("ip", "route", "delete", "local", address, "dev", "lo", "table", "local")
            need("ip", "route", "add", kind, f"{address}/32", "table", "local")
        for at in range(50):
            for sock in socks:
                sock.send(npq.encode_query(at, PORTED))
            ask(good, PORTED, at)
        metrics = site.received("npq", 1 + 50 + 50 * len(socks))
        assert metrics.count("npq", "dropped", reason="unsent") == 50 * len(socks)
        assert metrics.count("npq", "answered") == 51
        assert process.poll() is None
        # The refusals say nothing of joining: replies to others still leave, and in order.
        for at in range(40):
            good.send(npq.encode_query(at, PORTED))
        assert [npq.decode_answer(good.recv(2000)).id for _ in range(40)] == list(range(40))


ASK_FROM_AFAR = """
import socket, sys
host, port, query, count = sys.argv[1], int(sys.argv[2]), bytes.fromhex(sys.argv[3]), int(sys.argv[4])
for _ in range(12):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for _ in range(count):
            sock.sendto(query, (host, port))
"""


def replies_into_a_full_queue(folder: Path) -> None:
    """Replies wait before a slow device until the socket's send buffer is full: EAGAIN; later there is room again."""
    need("ip", "link", "set", "lo", "up")
    far = subprocess.Popen(["unshare", "--net", "sleep", "100"])
    try:
        wait_until(lambda: os.readlink(f"/proc/{far.pid}/ns/net") != os.readlink("/proc/self/ns/net"))
        inside = ("nsenter", f"--net=/proc/{far.pid}/ns/net")
        need("ip", "link", "add", "near", "type", "veth", "peer", "name", "far", "netns", str(far.pid))
        need("ip", "address", "add", "10.9.0.1/24", "dev", "near")
        need("ip", "link", "set", "near", "up")
        need(*inside, "ip", "address", "add", "10.9.0.2/24", "dev", "far")
        need(*inside, "ip", "link", "set", "far", "up")
        slow = ("tbf", "rate", "8kbit", "burst", "3000", "limit", "9000000")
        need("tc", "qdisc", "add", "dev", "near", "root", *slow)
        site = Site(Workbench(folder))
        site.host = "0.0.0.0"
        config = site.configure('[[client]]\nname = "all"\nsources = ["127.0.0.0/8", "10.9.0.0/24"]\n')
        query = npq.encode_query(1, [PORTED] * 60, 1)
        with run_daemon(config, "ready") as process:
            asked = 0
            while asked == 0 or site.scrape().count("npq", "dropped", reason="unsent") < 1000:
                assert asked < 1_000_000
                need(*inside, sys.executable, "-c", ASK_FROM_AFAR, "10.9.0.1", str(site.npq), query.hex(), "10")
                asked += 60 * 10 * 12
                site.received("npq", asked)
            assert site.scrape().count("npq", "answered") > 0
            need("tc", "qdisc", "delete", "dev", "near", "root")  # with all that waits there
            with udp(site.npq) as another:
                assert ask(another, PORTED)[1] == Outcome.PORTED
            need(*inside, sys.executable, "-c", ASK_FROM_AFAR, "10.9.0.1", str(site.npq), query.hex(), "1")
            before = site.scrape().count("npq", "dropped", reason="unsent")
            metrics = site.received("npq", asked + 1 + 60 * 12)
            assert metrics.count("npq", "dropped", reason="unsent") == before
            assert process.poll() is None
    finally:
        far.terminate()
        far.wait()


@pytest.mark.parametrize("scenario", [replies_to_unreachable, replies_into_a_full_queue])
def test_replies_that_cannot_be_sent_are_counted_as_unsent(loaded: Workbench, scenario: Callable[[Path], None]) -> None:
    in_own_network(scenario, loaded.folder)


# -- the store changes while it is served ----------------------------------------------------------------


def maps_of(process: subprocess.Popen[str], inode: int) -> list[str]:
    lines = Path(f"/proc/{process.pid}/maps").read_text().splitlines()
    return [line for line in lines if line.split()[4] == str(inode)]


def test_replaced_store_is_served_within_seconds_and_the_old_one_is_let_go(site: Site, tmp_path: Path) -> None:
    """Under load on one dialect; the workers of the other one are asked nothing, and must let go too."""
    other = Workbench(tmp_path / "other")
    other.folder.mkdir()
    other.load_tables()
    for sequence in range(1, 4):
        other.snapshot(SNAPSHOT.replace("886912345678,1402", "886912345678,1403"), sequence=sequence)
    states = {
        (workbench.state()[0] & 0xFFFF_FFFF, Outcome.PORTED, code)
        for workbench, code in ((site.workbench, "1402"), (other, "1403"))
    }
    (old,) = {state for state in states if state[2] == "1402"}
    (new,) = states - {old}
    inode = (site.workbench.store / "data.mdb").stat().st_ino
    seen: set[tuple[int, int, str | None]] = set()
    with run_daemon(site.configure(), "ready") as process, sockets(site.npq) as socks, udp(site.pdb) as idle:
        idle.send(pdb.encode_query(PORTED, 1))
        assert pdb.decode_answer(idle.recv(100)).carrier_id == 102
        assert maps_of(process, inode)
        with Load(*each(lambda sock: seen.add(ask(sock, PORTED)), socks[:4])):
            time.sleep(0.3)
            site.workbench.store.rename(tmp_path / "old")
            other.store.rename(site.workbench.store)
            wait_until(lambda: new in seen, 3)
            time.sleep(0.2)
            assert seen == {old, new}
            seen.clear()
            time.sleep(0.2)
            assert seen == {new}
        for sock in socks:
            assert ask(sock, PORTED) == new
        wait_until(lambda: not maps_of(process, inode), 3)
        idle.send(pdb.encode_query(PORTED, 2))
        assert pdb.decode_answer(idle.recv(100)).code == pdb.OK
        assert site.log().count("store_replaced") == 1


def test_map_that_a_writer_grows_is_taken_over_under_load(site: Site) -> None:
    """For a moment some may get `unavailable`; nobody gets a wrong answer, and it passes."""
    site.map_size = "1MiB"
    seen: set[tuple[int, str | None]] = set()
    with run_daemon(site.configure(), "ready") as process, sockets(site.npq) as socks, udp(site.pdb) as idle:
        idle.send(pdb.encode_query(PORTED, 1))
        idle.recv(100)
        writer = OtherProcess(write, site.workbench.store, MAP)

        def look(sock: socket.socket) -> None:
            seen.add(ask(sock, PORTED)[1:])

        with Load(*each(look, socks[:4])):
            for first in range(990_000_000, 990_008_000, 2000):
                writer.ask("commit_filler", 2000, first)
                last = str(1000 * (first + 1999))
                wait_until(lambda last=last: ask(socks[5], last)[1] == Outcome.PORTED, 5)
            assert seen <= {(Outcome.PORTED, "1402"), (Outcome.UNAVAILABLE, None)}
            seen.clear()
            time.sleep(0.3)
            assert seen == {(Outcome.PORTED, "1402")}
        assert writer.ask("file_pages") * 4096 > 4 << 20
        writer.end()
        for sock in socks:
            assert ask(sock, last)[1] == Outcome.PORTED
        idle.send(pdb.encode_query(PORTED, 1))
        assert pdb.decode_answer(idle.recv(100)).carrier_id == 102
        assert process.poll() is None
        assert "not_ready" not in site.log()


def ask_over_tcp(sock: socket.socket, number: str) -> Outcome:
    query = npq.encode_query(1, number)
    sock.sendall(npq.FRAME_HEADER.pack(len(query)) + query)
    (length,) = npq.FRAME_HEADER.unpack(sock.recv(4, socket.MSG_WAITALL))
    return Outcome(npq.decode_answer(sock.recv(length, socket.MSG_WAITALL)).results[0])


def test_idle_readers_hold_neither_an_old_state_nor_the_map(site: Site) -> None:
    """Of either transport: one that is held keeps the writer from using pages again, and the map from growing."""
    site.map_size = "1MiB"
    with (
        run_daemon(site.configure(), "ready") as process,
        sockets(site.npq) as socks,
        socket.create_connection(("127.0.0.1", site.npq), 5) as tcp,
    ):
        for sock in socks:
            ask(sock, PORTED)
        assert ask_over_tcp(tcp, PORTED) == Outcome.PORTED
        time.sleep(0.3)  # the workers have gone to sleep
        writer = OtherProcess(write, site.workbench.store, MAP)
        writer.ask("commit_filler", 2000, 990_000_000)
        last = str(1000 * 990_001_999)
        with udp(site.npq) as sock:
            # Python's own reader looks at the store once a second, for a moment.
            outcomes = [ask(sock, last)[1] for _ in range(20)]
        assert outcomes[-1] == Outcome.PORTED
        assert ask_over_tcp(tcp, last) == Outcome.PORTED
        writer.ask("commit_moves", 20)
        with lmdb.open(str(site.workbench.store), readonly=True, max_dbs=16, lib_version=0) as environment:
            newest = str(environment.info()["last_txnid"])

            def held() -> set[str]:
                rows = [line.split() for line in environment.readers().splitlines()]
                return {row[2] for row in rows if row[0] == str(process.pid)}

            assert held()
            wait_until(lambda: held() <= {"-", newest}, 5)
        writer.end()


def test_answers_are_each_of_one_state_while_three_thousand_commits_are_made(in_memory: Path) -> None:  # noqa: F811
    """Each commit moves twelve numbers in twelve blocks, and the serial tells whereto."""
    workbench = Workbench(in_memory)
    workbench.load_tables()
    workbench.snapshot()
    site = Site(workbench)
    writer = OtherProcess(write, workbench.store, MAP)
    first = writer.ask("commit_moves", 1)
    batch = npq.encode_query(7, [str(tn) for tn in MOVED])
    serials: set[int] = set()

    with run_daemon(site.configure(), "ready"), sockets(site.npq) as socks, udp(site.pdb) as one:
        newest = 0

        def check_npq() -> None:
            """In turn over every worker: the state that one has answered from is not older than another's before."""
            nonlocal newest
            for sock in socks:
                sock.send(batch)
                answer = npq.decode_answer(sock.recv(65_535))
                assert answer.serial >= newest >= 0, (answer.serial, newest)
                newest = answer.serial
                serials.add(newest)
                expected = [Outcome.PORTED, NETWORK_OF_ROUTE[route_of(newest)]]
                assert all(result[:2] == expected for result in answer.results), (newest, answer.results)

        def check_pdb() -> None:
            one.send(pdb.encode_query(str(MOVED[3]), 9))
            with contextlib.suppress(TimeoutError):  # late ones are not answered
                assert pdb.decode_answer(one.recv(100)).carrier_id in {101, 102, 1000}

        with Load(check_npq, check_pdb) as load:
            last = writer.ask("commit_moves", 3000)
            load.check()
            wait_until(lambda: newest == last)
        writer.end()
        site.scrape().check_balance()
        assert site.scrape().value("lookupd_store_readers") < 4 * WORKERS + 8
    assert last == first + 3000
    assert len(serials) > 100


def test_damaged_block_is_never_served_and_is_again_once_it_is_written_anew(site: Site) -> None:
    store, key = site.workbench.store, BLOCK_KEY.pack(int(PORTED) // 1000)
    put(store, "blocks", key, flipped(stored(store, "blocks", key), 100, 1))
    with run_daemon(site.configure(), "ready"), sockets(site.npq) as socks, udp(site.pdb) as other:
        for at, sock in enumerate(socks):
            assert ask(sock, PORTED)[1] == Outcome.UNAVAILABLE
            assert ask(sock, OTHER)[1] == Outcome.PORTED
            sock.send(npq.encode_query(at, [PORTED, OTHER, "886912345000"]))
            found = [result[0] for result in npq.decode_answer(sock.recv(2000)).results]
            assert found == [Outcome.UNAVAILABLE, Outcome.PORTED, Outcome.UNAVAILABLE]
        assert is_silent(other, pdb.encode_query(PORTED, 1))
        other.send(pdb.encode_query(OTHER, 2))
        assert pdb.decode_answer(other.recv(100)).id == 2
        metrics = site.received("npq", 5 * len(socks))
        assert metrics.value("lookupd_store_unreadable_entries_total") == 3 * len(socks) + 1
        assert metrics.value("lookupd_store_damaged_blocks") == 1
        assert metrics.count("pdb", "dropped", reason="unavailable") == 1
        assert metrics.count("npq", "answered", outcome="unavailable") == 3 * len(socks)

        site.workbench.snapshot(sequence=2)
        wait_until(lambda: ask(socks[0], PORTED)[1] == Outcome.PORTED)
        for sock in socks:
            assert ask(sock, PORTED)[1:] == (Outcome.PORTED, "1402")
        other.send(pdb.encode_query(PORTED, 3))
        assert pdb.decode_answer(other.recv(100)).carrier_id == 102
        wait_until(lambda: site.scrape().value("lookupd_store_damaged_blocks") == 0)
        assert site.scrape().value("lookupd_store_unreadable_entries_total") == 3 * len(socks) + 1


# -- signals ---------------------------------------------------------------------------------------------


def test_stop_answers_what_has_arrived(site: Site) -> None:
    """Questions that came while the daemon stood still, and before it was told to stop, are all answered."""
    with run_daemon(site.configure(), "ready") as process, sockets(site.npq) as socks:
        for sock in socks:
            ask(sock, PORTED)
        halt(process)
        for at in range(40):
            for sock in socks:
                sock.send(npq.encode_query(at, PORTED))
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGCONT)
        for sock in socks:
            assert [npq.decode_answer(sock.recv(2000)).id for _ in range(40)] == list(range(40))
        assert process.wait(10) == 0
        assert " stopped " in site.log().splitlines()[-1]


def test_stop_under_load_is_in_good_order(site: Site) -> None:
    with run_daemon(site.configure(), "ready") as process:
        answered = 0

        def hammer(sock: socket.socket) -> None:
            nonlocal answered
            sock.settimeout(0.3)
            with contextlib.suppress(OSError):  # nobody is there any more
                sock.send(npq.encode_query(1, PORTED))
                assert npq.decode_answer(sock.recv(2000)).results[1] == "1402"
                answered += 1

        with sockets(site.npq) as socks, Load(*each(hammer, socks[:6])):
            wait_until(lambda: answered > 500)
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0
    assert "failed" not in site.log()


@pytest.mark.parametrize("removed", [False, True])
def test_flood_does_not_keep_a_listener_from_its_end(site: Site, removed: bool) -> None:
    """Peers ask for more than the workers can answer, and go on when the listener is to be closed."""
    query = npq.encode_query(1, [PORTED] * 1000)
    with run_daemon(site.configure(), "ready") as process, sockets(site.npq) as socks:
        for sock in socks:
            sock.setblocking(False)

        def flood(sock: socket.socket) -> None:
            with contextlib.suppress(OSError):
                for _ in range(100):
                    sock.send(query)

        with Load(*each(flood, socks[:4])):
            time.sleep(0.5)
            if removed:
                site.write_listen(f'pdb = ["udp://127.0.0.1:{site.pdb}"]\nhttp = "http://127.0.0.1:{site.http}"')
                before = site.log().count("config_applied")
                process.send_signal(signal.SIGHUP)
                while site.log().count("config_applied") == before:
                    site.scrape().check_balance()  # answers, and is right, while the listener ends
                assert process.poll() is None
            else:
                process.send_signal(signal.SIGTERM)
                assert process.wait(15) == 0


@pytest.mark.parametrize("engine", ["native", "python"])
def test_socket_that_is_destroyed_under_the_daemon_ends_it_with_a_message(site: Site, engine: str) -> None:
    """Nothing would arrive any more: better be started anew than be silent."""
    site.engine = engine
    with run_daemon(site.configure(), "ready") as process, udp(site.npq) as sock:
        assert ask(sock, PORTED)[1] == Outcome.PORTED
        killed = subprocess.run(
            ["ss", "-K", "-u", "-a", "src", "127.0.0.1", "sport", "=", f":{site.npq}"],
            capture_output=True,
            text=True,
            check=False,
        )
        if str(site.npq) not in killed.stdout:
            pytest.skip(f"this machine cannot destroy sockets: {killed.stderr}")
        assert process.wait(10) == 1
    assert f"listen.npq: udp://127.0.0.1:{site.npq}: a worker cannot read its socket any more" in site.log()
    assert "Traceback" not in site.log()


def test_reload_takes_effect_in_every_worker(site: Site) -> None:
    with run_daemon(site.configure(ANYBODY), "ready") as process, sockets(site.npq) as socks:
        for sock in socks:
            assert ask(sock, PORTED)[1] == Outcome.PORTED
            assert ask(sock, "0912345678")[1] == Outcome.PORTED

        site.configure(ANYBODY + '[plan]\ncountry_code = "81"\n')
        site.reload(process)
        for sock in socks:
            assert ask(sock, "0912345678")[1] == Outcome.NOT_PORTABLE
            assert ask(sock, PORTED)[1] == Outcome.PORTED

        site.configure('[[client]]\nname = "far"\nsources = ["192.0.2.0/24"]\n')
        site.reload(process)
        assert all(is_silent(sock, npq.encode_query(1, PORTED), 0.05) for sock in socks)

        site.configure(ANYBODY + "queries_per_second = 5\n")
        site.reload(process)
        outcomes = [ask(sock, PORTED)[1] for sock in socks]
        assert outcomes[:5] == [Outcome.PORTED] * 5
        assert Outcome.REFUSED in outcomes[5:]

        site.configure(ANYBODY)
        site.reload(process)
        for sock in socks:
            assert ask(sock, PORTED)[1] == Outcome.PORTED
        site.scrape().check_balance()


def test_reload_under_load_loses_no_query(site: Site) -> None:
    with run_daemon(site.configure(ANYBODY), "ready") as process, sockets(site.npq) as socks:
        seen: set[tuple[int, str | None]] = set()
        with Load(*each(lambda sock: seen.add(ask(sock, PORTED)[1:]), socks[:6])) as load:
            for at in range(10):
                site.configure(ANYBODY + (f"queries_per_second = {1_000_000 + at}\n" if at % 2 else ""))
                site.reload(process)
        assert load.rounds > 100
        assert seen == {(Outcome.PORTED, "1402")}
        site.received("npq", load.rounds)


def dip(sock: socket.socket, query_id: int) -> bytes:
    """The answer by `pdb`; asked again as switches do, since on a busy machine a question may be late."""
    sock.settimeout(0.5)
    for _ in range(20):
        sock.send(pdb.encode_query(PORTED, query_id))
        with contextlib.suppress(TimeoutError):
            return sock.recv(100)
    raise AssertionError("no answer to 20 questions")


def test_listener_that_is_taken_out_frees_its_port_and_can_come_back(site: Site) -> None:
    with run_daemon(site.configure(), "ready") as process:
        with udp(site.pdb) as sock:
            assert dip(sock, 1)
        site.configure(pdb=False)
        site.reload(process)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
            taken.bind(("127.0.0.1", site.pdb))
            site.configure()
            process.send_signal(signal.SIGHUP)
            wait_until(lambda: "config_rejected" in site.log())
        assert f"127.0.0.1:{site.pdb}" in site.log().split("config_rejected", 1)[1]
        site.reload(process)
        with udp(site.pdb) as sock:
            assert pdb.decode_answer(dip(sock, 2)).id == 2
        assert site.received("pdb", 2).count("pdb", "answered") == 2  # the closed listener's counts stay


# -- counts ----------------------------------------------------------------------------------------------


def test_every_scrape_under_load_balances(site: Site) -> None:
    """With answers, refusals, drops and batches of both dialects in every worker, and frames over TCP."""
    messages = {
        site.npq: [
            npq.encode_query(1, PORTED),
            npq.encode_query(1, [PORTED, OTHER, "x"] * 40, 1),
            b"\xc1",
            b"\x94\x02\x00\x01\x01",
        ],
        site.pdb: [pdb.encode_query(PORTED, 1), b"\x01\x01\x01\x06\x00\x00", b"", pdb.encode_query("x", 1)],
    }
    config = site.configure(ANYBODY + "queries_per_second = 4000\n")

    def shoot(sock: socket.socket, port: int) -> None:
        sock.setblocking(False)
        for message in messages[port]:
            sock.send(message)
        with contextlib.suppress(BlockingIOError):
            while True:
                sock.recv(65_535)

    def frames(sock: socket.socket) -> None:
        query = npq.encode_query(1, [PORTED, "x"])
        sock.sendall(npq.FRAME_HEADER.pack(len(query)) + query)
        (length,) = npq.FRAME_HEADER.unpack(sock.recv(4, socket.MSG_WAITALL))
        assert len(sock.recv(length, socket.MSG_WAITALL)) == length

    with run_daemon(config, "ready"), contextlib.ExitStack() as stack:
        socks = [(stack.enter_context(udp(port)), port) for port in messages for _ in range(4)]
        tcp = stack.enter_context(socket.create_connection(("127.0.0.1", site.npq), 5))
        tasks = [partial(shoot, sock, port) for sock, port in socks]
        last: dict[str, float] = {}
        with Load(*tasks, lambda: frames(tcp)) as load:
            for _ in range(100):
                metrics = site.scrape()
                metrics.check_balance()
                counts = {key: value for key, value in metrics.rows.items() if key.startswith("lookupd_queries")}
                assert all(counts[key] >= value for key, value in last.items())
                last = counts
                load.check()
        for dialect in ("npq", "pdb"):
            for what in ("answered", "refused", "dropped"):
                assert site.scrape().count(dialect, what) > 0, (dialect, what)
        assert site.scrape().count("npq", "answered", "tcp") > 0


def test_rate_is_one_for_all_workers_and_for_tcp(site: Site) -> None:
    """Many source ports, so that all workers take from one allowance: rate * time + one second's, and no more."""
    rate, seconds = 2000, 3.0
    query = npq.encode_query(1, PORTED)
    frame = npq.FRAME_HEADER.pack(len(query)) + query

    def shoot(sock: socket.socket) -> None:
        for _ in range(20):
            sock.send(query)
        for _ in range(20):
            sock.recv(2000)

    def frames(sock: socket.socket) -> None:
        sock.sendall(frame * 5)
        for _ in range(5):
            (length,) = npq.FRAME_HEADER.unpack(sock.recv(4, socket.MSG_WAITALL))
            sock.recv(length, socket.MSG_WAITALL)

    with run_daemon(site.configure(ANYBODY + f"queries_per_second = {rate}\n"), "ready"), sockets(site.npq, 9) as socks:
        with socket.create_connection(("127.0.0.1", site.npq), 5) as tcp:
            began = time.monotonic()
            with Load(*each(shoot, socks), lambda: frames(tcp)):
                time.sleep(seconds)
            took = time.monotonic() - began
        metrics = site.scrape()
        metrics.check_balance()
        answered = {transport: metrics.count("npq", "answered", transport) for transport in ("udp", "tcp")}
        refused = metrics.count("npq", "refused") + metrics.count("npq", "refused", "tcp")
        assert min(answered.values()) > 0
        assert sum(answered.values()) == pytest.approx(rate * took + rate, rel=0.02)
        assert refused > sum(answered.values()) / 2  # the allowance was asked for all the time


# -- the processes beside it -----------------------------------------------------------------------------


def test_slots_of_a_killed_daemon_are_given_back_by_the_next_start(site: Site) -> None:
    # LMDB begins its table of readers anew when nobody has the store open: here somebody has.
    environment = lmdb.open(str(site.workbench.store), readonly=True, max_dbs=16, lib_version=0)

    def slots(process: subprocess.Popen[str]) -> int:
        return len(re.findall(rf"^\s*{process.pid} ", environment.readers(), re.MULTILINE))

    with environment:
        with run_daemon(site.configure(), "ready") as killed, sockets(site.npq) as socks:
            for sock in socks:
                ask(sock, PORTED)
            killed.kill()
            killed.wait()
        assert slots(killed) > 1
        with run_daemon(site.configure(), "ready") as process, udp(site.npq) as sock:
            assert ask(sock, PORTED)[1] == Outcome.PORTED
            assert slots(killed) == 0
            assert slots(process) > 0


def test_second_daemon_on_one_port_is_refused_although_workers_share_it(site: Site, tmp_path: Path) -> None:
    with run_daemon(site.configure(), "ready"):
        second = tmp_path / "second.toml"
        for dialect, port in (("npq", site.npq), ("pdb", site.pdb)):
            second.write_text(
                f'[engine]\nudp = "native"\nthreads = {WORKERS}\n[store]\npath = "{site.workbench.store}"\n'
                f'[listen]\n{dialect} = ["udp://127.0.0.1:{port}"]\n'
            )
            done = run_cli("lookupd.cli", "serve", "--config", second)
            assert done.returncode == 3, done.stderr
            assert f"udp://127.0.0.1:{port}" in done.stderr
            assert "Traceback" not in done.stderr
        with sockets(site.npq) as socks:
            for sock in socks:
                assert ask(sock, PORTED)[1] == Outcome.PORTED


@pytest.fixture
def without_native(tmp_path: Path) -> dict[str, str]:
    """An environment in which the module cannot be imported, as on a machine without Rust at install time."""
    folder = tmp_path / "hidden"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text('import sys\nsys.modules["lookupd._native"] = None\n')
    return {"PYTHONPATH": f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}


def test_native_engine_that_is_not_installed_is_refused_with_the_way_out(
    site: Site, without_native: dict[str, str]
) -> None:
    done = run_cli("lookupd.cli", "serve", "--config", site.configure(), env=os.environ | without_native)
    assert done.returncode == 3
    assert 'engine.udp = "native"' in done.stderr
    assert "not installed" in done.stderr
    assert 'engine.udp = "auto"' in done.stderr
    assert "Traceback" not in done.stderr


def test_auto_serves_on_python_where_the_native_engine_is_missing_and_says_so(
    site: Site, without_native: dict[str, str]
) -> None:
    site.engine = "auto"
    config = site.configure()
    with run_daemon(config, "ready", without_native), udp(site.npq) as sock:
        assert ask(sock, PORTED)[1] == Outcome.PORTED
        assert "engine=python" in site.log()
        assert site.scrape().value("lookupd_engine_info", engine="python") == 1
        status = run_cli("lookupd.cli", "status", "--config", config, "--json", env=os.environ | without_native)
        assert '"python"' in status.stdout, status.stdout + status.stderr
    with run_daemon(config, "ready"), udp(site.npq) as sock:
        assert ask(sock, PORTED)[1] == Outcome.PORTED
        assert "engine=native" in site.log()
        assert site.scrape().value("lookupd_engine_info", engine="native") == 1
        assert '"native"' in run_cli("lookupd.cli", "status", "--config", config, "--json").stdout
