"""keepalived moves a virtual address by our health check: docs/operations/virtual-address.md, run in namespaces.

The page's files are read from it. Times are measured by `python -m bench.faults --only address`; here an address must
move, and the one who gets it must answer.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench.faults.clients import MOVABLE_SECONDS_MAX, Field, field
from bench.faults.replicas import Replica, Right
from bench.faults.sites import VIRTUAL, missing
from lookupd.config import read_config
from tests.conftest import wait_until
from tests.interop.pages import DOCS, block_of

PAGE = DOCS / "operations" / "virtual-address.md"
ASK = f"udp://{VIRTUAL}:4700"


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    reason = missing("keepalived", "taskset")
    if reason is not None:
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("address")
    for parent in (folder, *folder.parents):  # keepalived's checks run as `nobody`
        if parent.stat().st_uid == os.geteuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o011)
    with field(folder, sorted(os.sched_getaffinity(0))) as made, made.address():
        yield made


def twin_of(ground: Field, replica: Replica) -> Replica:
    return ground.b if replica is ground.a else ground.a


def answers_there(ground: Field) -> bool:
    """Whether a client gets the right answer from the virtual address."""
    right = Right(0)
    command = (
        "timeout",
        "2",
        sys.executable,
        "-m",
        "lookupd.cli",
        "query",
        f"+{right.number}",
        "--server",
        ASK,
        "--json",
    )
    try:
        return f'"network_code": "{right.network_code}"' in ground.net.client.run(*command)
    except Exception:
        return False


def moves(ground: Field, strike: Callable[[Replica], None], over: Callable[[Replica], None]) -> None:
    """The address goes from its holder to the twin, which answers there, and stays there when the holder is back."""
    ground.wait_movable()
    holder = ground.holder()
    twin = twin_of(ground, holder)
    strike(holder)
    try:
        wait_until(lambda: ground.holders() == [twin])
        wait_until(lambda: answers_there(ground))
    finally:
        over(holder)
    wait_until(lambda: ground.is_healthy(holder), MOVABLE_SECONDS_MAX)
    time.sleep(1)  # some ten adverts
    if ground.is_healthy(twin):  # on a very busy machine it may have had a bad moment of its own
        assert ground.holders() == [twin]


def test_address_moves_when_its_holder_is_killed_and_stays_when_it_is_back(ground: Field) -> None:
    moves(ground, Replica.kill, lambda replica: None)


def test_address_moves_when_its_holder_is_halted(ground: Field) -> None:
    moves(ground, Replica.halt, Replica.resume)


def test_address_moves_when_its_holder_is_cut_off(ground: Field) -> None:
    moves(ground, lambda replica: replica.site.cut(), lambda replica: replica.site.join())


def set_stale_after(replica: Replica, stale: bool) -> None:
    """By SIGHUP: with data of long ago, `stale_after` makes it not ready, as standing back does."""
    text = replica.config.read_text().partition("[limits]")[0]
    replica.config.write_text(text + ('[limits]\nstale_after = "1s"\n' if stale else ""))
    os.kill(replica.pid, signal.SIGHUP)


def test_address_leaves_who_is_not_ready_and_comes_back_only_once_it_is(ground: Field) -> None:
    ground.wait_movable()
    holder = ground.holder()
    twin = twin_of(ground, holder)
    set_stale_after(holder, True)
    try:
        wait_until(lambda: ground.holders() == [twin])
        assert holder.readiness().startswith("not ready")
        twin.kill()  # both are ill for a moment: it stays, or goes on; afterwards the one with data has it
        wait_until(lambda: ground.is_healthy(twin) and ground.holders() == [twin], MOVABLE_SECONDS_MAX)
        assert not ground.is_healthy(holder)
    finally:
        set_stale_after(holder, False)
    ground.wait_movable()
    twin.halt()
    try:
        wait_until(lambda: ground.holders() == [holder])
        wait_until(lambda: answers_there(ground))
    finally:
        twin.resume()


def test_page_has_what_lookupd_takes(tmp_path: Path) -> None:
    config = tmp_path / "lookupd.toml"
    config.write_text(block_of(PAGE, "/etc/lookupd/lookupd.toml"))
    assert read_config(config).listen.http_urls == ("http://127.0.0.1:9474", "https://192.0.2.10:9474")
