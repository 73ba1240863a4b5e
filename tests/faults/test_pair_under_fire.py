"""One replica of two fails, in network namespaces; Kamailio and our library ask both, and no question goes unanswered.

Short forms of `python -m bench.faults`, which measures the same. Times are not judged here: a busy machine has its own.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.faults.askers import OK
from bench.faults.clients import CLIENTS, Field, Timing, field
from bench.faults.injections import by_name
from bench.faults.report import line_of, steady_after
from bench.faults.sites import missing, network
from bench.processes import ChildFailed

SHORT = Timing(quiet=0.5, fire=3, after=1)
ASKING_BOTH = [client for client in CLIENTS if client.must]

PDB_PATIENCE_MS = 200
"""Kamailio's own 50 ms are for machines that have nothing else to do."""

TRIES = 2


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    reason = missing("kamailio", "taskset", "ping")
    if reason is not None:
        pytest.skip(reason)
    with field(tmp_path_factory.mktemp("pair"), sorted(os.sched_getaffinity(0))) as made:
        yield made


@pytest.mark.parametrize("name", ["kill", "stop", "hog", "partition", "loss10", "loss50"])
def test_no_question_goes_unanswered_while_one_replica_fails(ground: Field, name: str) -> None:
    injection = by_name(name)
    for _ in range(TRIES):  # a machine that gives a client no time for 200 ms fails one run, not two
        run = ground.run(injection, SHORT, ASKING_BOTH, PDB_PATIENCE_MS)
        lines = [line_of(injection, client, [run]) for client in ASKING_BOTH]
        assert run.struck
        assert all(line.asked > 100 for line in lines), lines
        assert [line.wrong for line in lines] == [0] * len(lines), lines
        if not any(line.failed for line in lines):
            return
    pytest.fail(f"{lines}")


def test_replica_that_was_killed_is_asked_again(ground: Field) -> None:
    starts = ground.a.starts
    ground.run(by_name("kill"), SHORT, ASKING_BOTH[:1], PDB_PATIENCE_MS)
    ground.a.wait_ready()
    assert ground.a.starts > starts


def test_faults_are_real(ground: Field) -> None:
    """What is cut off is cut off, what is lost is lost, what is halted is silent; and each is over afterwards."""
    ping = ("ping", "-n", "-q", "-c", "3", "-i", "0.1", "-W", "1", ground.a.site.address)
    ground.net.client.run(*ping)
    for begin, over in (
        (ground.a.site.cut, ground.a.site.join),
        (lambda: ground.a.site.lose(100), lambda: ground.a.site.lose(0)),
    ):
        begin()
        try:
            with pytest.raises(ChildFailed):
                ground.net.client.run(*ping)
        finally:
            over()
        ground.net.client.run(*ping)
    ground.a.halt()
    try:
        assert not ground.a.is_ready()
    finally:
        ground.a.resume()
    ground.a.wait_ready()


def test_network_is_gone_afterwards_however_it_ended() -> None:
    reason = missing()
    if reason is not None:
        pytest.skip(reason)
    with contextlib.suppress(ZeroDivisionError), network(f"lkt{os.getpid()}") as net:
        process = net.a.start(Path(os.devnull), "sleep", "600")
        assert net.a.namespace in os.listdir("/run/netns")
        raise ZeroDivisionError
    assert process.wait(10) != 0
    assert [name for name in os.listdir("/run/netns") if name.startswith(net.name)] == []


def test_steady_is_told_from_what_clients_saw() -> None:
    good = [(at / 100, 0.001, OK) for at in range(1000)]
    assert steady_after(good, 2.0, 0.02) == 0
    silent = [(sent, None, "failed") if 2 <= sent < 3.5 else (sent, seconds, told) for sent, seconds, told in good]
    assert steady_after(silent, 2.0, 0.02) == pytest.approx(1.49, abs=0.02)
    slow = [(sent, 0.5, told) if sent > 2 else (sent, seconds, told) for sent, seconds, told in good]
    assert steady_after(slow, 2.0, 0.02) is None
