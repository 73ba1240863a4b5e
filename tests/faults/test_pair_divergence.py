"""Two real daemons that watch each other: one is changed, falls behind, is alone; the other one goes on answering."""

from __future__ import annotations

import contextlib
import datetime
import json
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from loader.pending import fire_due
from lookupd.limits import TABLES_SECONDS
from lookupd.model import TN, JournalKind, Outcome, UnixMillis, UnixSeconds
from lookupd.pair import PairState
from lookupd.protocols import npq, pdb
from lookupd.store.writer import Writer
from tests.conftest import NETWORKS, RANGES, Workbench, free_port, run_cli, run_daemon, wait_until

CHANGED = 886912345678
FOUND_SECONDS = 10.0
"""Within which a divergence must be found."""

PORT = {"kind": "port", "tn": "886912345679", "recipient": "1402", "donor": "1401"}


class Replica:
    """A store, its configuration, and its daemon while it runs."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir()
        self.name = name
        self.bench = Workbench(folder)
        self.http, self.udp, self.pdb = free_port(), free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.http}"
        self.process: subprocess.Popen[str] | None = None
        self.peer = ""
        self._running = contextlib.ExitStack()

    @property
    def config(self) -> Path:
        return self.bench.folder / "lookupd.toml"

    def configure(self) -> None:
        listen = f'npq = ["udp://127.0.0.1:{self.udp}"]\npdb = ["udp://127.0.0.1:{self.pdb}"]\n'
        self.bench.config(f'[replica]\nname = "{self.name}"\npeer = "{self.peer}"', listen + f'http = "{self.url}"')

    def start(self, wait_for: str = " serving ") -> None:
        self.configure()
        self.process = self._running.enter_context(run_daemon(self.config, wait_for))

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.stop()

    def stop(self) -> None:
        self._running.close()

    def log(self) -> str:
        return self.config.with_suffix(".log").read_text()

    def metrics(self) -> dict[str, float]:
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=5) as reply:
            lines = [line for line in reply.read().decode().splitlines() if line[:1] not in {"", "#"}]
        return {key: float(value) for key, _, value in (line.rpartition(" ") for line in lines)}

    def metric(self, name: str) -> float:
        return self.metrics()[name]

    def looks(self) -> float:
        return self.metric('lookupd_peer_polls_total{result="ok"}')

    def state(self) -> str:
        found = self.metrics()
        (state,) = (state for state in PairState if found[f'lookupd_peer_state{{state="{state}"}}'])
        return state

    def readiness(self) -> str:
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=5) as reply:
                return str(reply.read().decode().strip())
        except urllib.error.HTTPError as error:
            with error:
                return str(error.read().decode().strip())

    def ask(self, tn: int = CHANGED) -> Outcome:
        return Outcome(npq.decode_answer(_ask(self.udp, npq.encode_query(1, str(tn))) or b"").results[0])

    def ask_pdb(self, tn: int = CHANGED) -> bytes | None:
        return _ask(self.pdb, pdb.encode_query(str(tn), 7), 0.3)

    def change_by_hand(self, tn: int = CHANGED) -> None:
        """A number's route, outside the feed: every checksum and the digest are right."""
        with Writer(self.bench.store) as writer, writer.change(UnixSeconds(int(time.time()))) as change:
            counts = change.set_numbers(TN(tn), TN(tn), change.network_codes["1403"], 0, 0, 1)
            change.record(JournalKind.CORRECT, counts, tn=tn, tn_to=tn, reason="test: by hand")

    def is_back(self) -> bool:
        return self.metric("lookupd_withdrawn") == 1


def _ask(port: int, message: bytes, seconds: float = 2.0) -> bytes | None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(seconds)
        sock.connect(("127.0.0.1", port))
        sock.send(message)
        try:
            return sock.recv(65_535)
        except TimeoutError:
            return None


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Replica, Replica]]:
    """Two replicas with the same data, each told of the other; not started."""
    a, b = Replica(tmp_path / "a", "a"), Replica(tmp_path / "b", "b")
    a.peer, b.peer = b.url, a.url
    for replica in (a, b):
        replica.bench.load_tables()
        replica.bench.snapshot()
    try:
        yield a, b
    finally:
        a.stop()
        b.stop()


@pytest.fixture
def running(pair: tuple[Replica, Replica]) -> tuple[Replica, Replica]:
    """Started, and of one mind."""
    for replica in pair:
        replica.start()
    wait_until(lambda: [replica.state() for replica in pair] == ["agrees", "agrees"])
    return pair


def test_equal_replicas_agree_and_say_so(running: tuple[Replica, Replica]) -> None:
    a, b = running
    assert a.metric("lookupd_peer_digest") == a.metric("lookupd_store_digest") == b.metric("lookupd_store_digest")
    assert (a.metric("lookupd_peer_serial"), a.metric("lookupd_peer_up")) == (b.metric("lookupd_store_serial"), 1)
    assert (a.metric("lookupd_peer_lag_files"), a.metric("lookupd_peer_lag_seconds")) == (0, 0)
    assert a.looks() >= 1
    assert [r.ask() for r in running] == [Outcome.PORTED, Outcome.PORTED]
    status = run_cli("lookupd.cli", "status", "--config", a.config).stdout
    assert "peer     agrees: b at serial " in status
    told = json.loads(run_cli("lookupd.cli", "status", "--config", a.config, "--json").stdout)
    assert told["peer"].startswith("agrees: b")


@pytest.mark.usefixtures("each_engine")
@pytest.mark.parametrize("wrong_one", [0, 1])
def test_replica_changed_outside_the_feed_stands_back_until_it_is_mended(
    running: tuple[Replica, Replica], wrong_one: int
) -> None:
    wrong, right = running[wrong_one], running[1 - wrong_one]
    wrong.change_by_hand()
    changed_at = time.monotonic()
    wait_until(wrong.is_back, FOUND_SECONDS)
    assert time.monotonic() - changed_at <= FOUND_SECONDS
    assert wrong.readiness() == (
        f"not ready: withdrawn: differs from {right.name}: this replica: changed outside the feed"
    )
    wait_until(lambda: right.state() == "differs", FOUND_SECONDS)
    assert not right.is_back()
    assert right.readiness() == "ready"
    wait_until(lambda: wrong.ask() is Outcome.UNAVAILABLE)
    assert (wrong.ask_pdb(), right.ask()) == (None, Outcome.PORTED)
    assert right.ask_pdb() is not None
    assert "peer_differs verdict=they" in right.log()
    assert "peer_differs verdict=we" in wrong.log()
    assert "peer     differs: " in run_cli("lookupd.cli", "status", "--config", wrong.config).stdout
    compared = run_cli("loader.cli", "compare", right.url, "--config", wrong.config, "--show-numbers")
    assert compared.returncode == 6, compared.stderr
    assert "blocks that differ: 1; numbers: 1" in compared.stdout
    assert f"+{CHANGED}: here 1403; there 1402" in compared.stdout
    mended = run_cli(
        "loader.cli", "compare", right.url, "--config", wrong.config, "--repair", "--reason", "noc: the peer is right"
    )
    assert mended.returncode == 0, mended.stdout + mended.stderr
    wait_until(lambda: wrong.readiness() == "ready")
    wait_until(lambda: wrong.ask() is Outcome.PORTED)
    assert wrong.ask_pdb() == right.ask_pdb()
    assert "serving_again state=agrees" in wrong.log()
    assert wrong.metric("lookupd_pair_divergences_total") == 1
    wait_until(lambda: [replica.state() for replica in running] == ["agrees", "agrees"])
    assert not right.is_back()


def test_replica_is_mended_from_the_snapshot_too(running: tuple[Replica, Replica]) -> None:
    a, _ = running
    a.change_by_hand()
    wait_until(a.is_back, FOUND_SECONDS)
    snapshot = a.bench.folder / "snapshot-main-1.csv"
    mended = run_cli(
        "loader.cli", "reconcile", snapshot, "--config", a.config, "--repair", "--reason", "noc: the list is right"
    )
    assert mended.returncode == 0, mended.stdout + mended.stderr
    wait_until(lambda: a.readiness() == "ready")


def test_replica_that_was_wrong_before_a_restart_answers_nothing_after_it(running: tuple[Replica, Replica]) -> None:
    a, b = running
    a.change_by_hand()
    wait_until(a.is_back, FOUND_SECONDS)
    a.kill()
    a.start()
    assert a.is_back()
    assert (a.ask(), b.ask()) == (Outcome.UNAVAILABLE, Outcome.PORTED)
    assert not b.is_back()


def test_change_is_found_between_files_that_go_on_coming(running: tuple[Replica, Replica]) -> None:
    a, b = running
    for sequence in (2, 3):
        for replica in running:
            replica.bench.delta(PORT, sequence=sequence)
    b.change_by_hand()
    for sequence in (4, 5):
        for replica in running:
            replica.bench.delta(PORT, sequence=sequence)
    wait_until(b.is_back, FOUND_SECONDS)
    assert not a.is_back()


def test_replica_whose_peer_is_killed_serves_again_though_it_differs(running: tuple[Replica, Replica]) -> None:
    a, b = running
    a.change_by_hand()
    wait_until(a.is_back, FOUND_SECONDS)
    b.kill()
    wait_until(lambda: a.readiness() == "ready", 5)
    wait_until(lambda: a.ask() is Outcome.PORTED)
    assert (a.state(), a.metric("lookupd_peer_up")) == ("alone", 0)
    assert "peer_down" in a.log()
    assert "serving_again state=alone" in a.log()
    b.start()
    wait_until(a.is_back, FOUND_SECONDS + 5)
    assert b.readiness() == "ready"


@pytest.mark.usefixtures("each_engine")
def test_replica_that_starts_behind_stands_back_until_it_has_caught_up(pair: tuple[Replica, Replica]) -> None:
    a, b = pair
    b.bench.delta(PORT, sequence=2)
    b.start()
    a.start()
    assert a.readiness() == "not ready: withdrawn: behind the peer: main at 1 of 2"
    assert a.ask() is Outcome.UNAVAILABLE
    assert (a.state(), a.metric("lookupd_peer_lag_files")) == ("behind", 1)
    a.bench.delta(PORT, sequence=2)
    wait_until(lambda: a.readiness() == "ready", 5)
    assert a.ask() is Outcome.PORTED
    b.bench.delta(PORT, sequence=3)
    wait_until(lambda: a.state() == "behind")
    assert a.readiness() == "ready"  # who serves goes on: a file is on its way


def test_replica_that_starts_behind_serves_when_its_peer_goes_away(pair: tuple[Replica, Replica]) -> None:
    a, b = pair
    b.bench.delta(PORT, sequence=2)
    b.start()
    a.start()
    assert a.is_back()
    b.kill()
    wait_until(lambda: a.readiness() == "ready", 5)
    wait_until(lambda: a.ask() is Outcome.PORTED)


def test_replicas_that_start_together_and_apart_both_come_to_serve(pair: tuple[Replica, Replica]) -> None:
    a, b = pair
    a.bench.delta(PORT, sequence=2)
    with contextlib.ExitStack() as both:
        for replica in pair:
            replica.configure()
        b.process = both.enter_context(run_daemon(b.config, ""))
        a.process = both.enter_context(run_daemon(a.config, " serving "))
        wait_until(lambda: " serving " in b.log(), 20)
        wait_until(lambda: "ready" in (a.readiness(), b.readiness()))
        assert a.readiness() == "ready"
        b.bench.delta(PORT, sequence=2)
        wait_until(lambda: b.readiness() == "ready", 5)


def test_tables_loaded_on_one_side_only_are_told_and_waited_for(running: tuple[Replica, Replica]) -> None:
    a, b = running
    renamed = NETWORKS.replace("Gamma", "Delta")
    a.bench.load_tables(renamed, RANGES)
    wait_until(lambda: a.state() == "differs", FOUND_SECONDS)
    assert not a.is_back()  # the other one may be about to fetch them
    wait_until(a.is_back, TABLES_SECONDS)
    assert a.readiness().endswith("this replica: tables or restrictions of one side only")
    assert not b.is_back()
    b.bench.load_tables(renamed, RANGES)
    wait_until(lambda: a.readiness() == "ready", 5)
    wait_until(lambda: [replica.state() for replica in running] == ["agrees", "agrees"])


def test_agreed_second_that_fires_at_another_instant_on_each_is_no_divergence(
    running: tuple[Replica, Replica],
) -> None:
    moment = int(time.time()) + 2
    at = datetime.datetime.fromtimestamp(moment, datetime.UTC).isoformat()
    for replica in running:
        replica.bench.delta({**PORT, "effective_at": at}, sequence=2)
    for replica, at_once in zip(running, (moment, moment + 2), strict=True):
        wait_until(lambda at_once=at_once: time.time() > at_once)  # type: ignore[misc]
        with Writer(replica.bench.store) as writer:
            assert fire_due(writer, UnixMillis(int(time.time() * 1000))) is not None
    enough = max(replica.looks() for replica in running) + 3
    wait_until(lambda: min(replica.looks() for replica in running) >= enough, 20)
    assert [replica.state() for replica in running] == ["agrees", "agrees"]
    assert [replica.metric("lookupd_pair_divergences_total") for replica in running] == [0, 0]
    assert not any(" withdrawn " in replica.log() for replica in running)


def test_notice_that_one_side_does_not_fire_makes_it_stand_back(running: tuple[Replica, Replica]) -> None:
    a, b = running
    moment = int(time.time()) + 1
    at = datetime.datetime.fromtimestamp(moment, datetime.UTC).isoformat()
    for replica in running:
        replica.bench.delta({**PORT, "effective_at": at}, sequence=2)
    wait_until(lambda: time.time() > moment)
    with Writer(b.bench.store) as writer:
        fire_due(writer, UnixMillis(int(time.time() * 1000)))
    wait_until(a.is_back, FOUND_SECONDS)
    assert a.readiness().endswith("this replica: a notice whose moment was missed")
    assert not b.is_back()
    with Writer(a.bench.store) as writer:
        fire_due(writer, UnixMillis(int(time.time() * 1000)))
    wait_until(lambda: a.readiness() == "ready", 5)


def test_hostile_peer_is_none(pair: tuple[Replica, Replica]) -> None:
    """It takes the connection and sends something without an end, a byte at a time, or all at once."""
    a, b = pair
    with socket.create_server(("127.0.0.1", b.http)) as server:
        server.settimeout(15)
        a.start()
        for piece in (b"HTTP/1.1 200 OK\r\n\r\n" + b"[" * 500_000, b"H", b"\r\n" * 10_000):
            with server.accept()[0] as connection, contextlib.suppress(OSError):
                connection.sendall(piece)
                assert a.ask() is Outcome.PORTED  # nothing waits for the peer
        wait_until(lambda: "peer_down" in a.log())
    assert a.readiness() == "ready"
    assert (a.state(), a.metric("lookupd_peer_up"), a.metric("lookupd_withdrawn")) == ("alone", 0, 0)
    b.start()
    wait_until(lambda: a.state() == "agrees")
