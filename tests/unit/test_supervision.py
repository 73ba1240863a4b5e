"""What a supervisor is told, and that it is true: ready after an answer over each listener, fed while they go on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from lookupd.access import Access
from lookupd.canary import Canary
from lookupd.config import read_config
from lookupd.engine import Engine
from lookupd.errors import ConfigError
from lookupd.limits import CONNECTIONS_PER_SOURCE_MAX
from lookupd.numbering import load_plan
from lookupd.protocols import npq
from lookupd.settings import Endpoint
from lookupd.supervise import Supervisor
from lookupd.supervision import watchdog_seconds
from tests.certificates import Authority
from tests.conftest import Workbench, free_port, run_daemon, wait_until
from tests.supervisor import NotifySocket

NOBODY_HERE = '[[client]]\nname = "far"\nsources = ["192.0.2.0/24"]\n'


def all_listeners(ports: dict[str, int], host: str = "127.0.0.1") -> str:
    both = {name: f'["udp://{host}:{ports[name]}", "tcp://{host}:{ports[name]}"]' for name in ("npq", "enum", "sip")}
    return (
        f"npq = {both['npq']}\nenum = {both['enum']}\nsip = {both['sip']}\n"
        f'pdb = ["udp://{host}:{ports["pdb"]}"]\nhttp = "http://{host}:{ports["http"]}"'
    )


@pytest.fixture
def ports() -> dict[str, int]:
    return {name: free_port() for name in ("npq", "pdb", "enum", "sip", "http")}


@pytest.fixture
def notify(tmp_path: Path) -> Iterator[NotifySocket]:
    with NotifySocket(tmp_path / "notify") as found:
        yield found


@pytest.mark.usefixtures("each_engine")
def test_ready_is_told_after_an_answer_over_each_listener(
    loaded: Workbench, ports: dict[str, int], notify: NotifySocket
) -> None:
    """Although no client's list has this machine."""
    config = loaded.config(NOBODY_HERE, all_listeners(ports))
    with run_daemon(config, environment=notify.environment(watchdog_seconds=2)):
        assert notify.wait_for("READY") == "1"
        assert any(message.get("EXTEND_TIMEOUT_USEC") == "10000000" for message in notify.told)
        assert any(message.get("STATUS", "").startswith("serving serial=") for message in notify.told)
        assert notify.wait_for("WATCHDOG") == "1"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:  # another one of this machine is nobody
            sock.settimeout(0.3)
            sock.connect(("127.0.0.1", ports["npq"]))
            sock.send(npq.encode_query(1, "886912345678"))
            with pytest.raises(TimeoutError):
                sock.recv(1000)
    assert notify.wait_for("STOPPING") == "1"


@pytest.mark.usefixtures("each_engine")
def test_own_questions_are_nobodys_queries(loaded: Workbench, ports: dict[str, int], notify: NotifySocket) -> None:
    config = loaded.config(listen=all_listeners(ports))
    with run_daemon(config, environment=notify.environment(watchdog_seconds=0.4)):
        notify.wait_for("READY")
        notify.wait_for("WATCHDOG")
        with urllib.request.urlopen(f"http://127.0.0.1:{ports['http']}/metrics", timeout=5) as reply:
            lines = reply.read().decode().splitlines()
    counts = {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if line[:1] not in {"", "#"}}
    for dialect in ("npq", "pdb", "enum", "sip"):
        asked = [
            sum(count for name, count in counts.items() if name.startswith("lookupd_client_queries") and both(name))
            for both in (
                lambda name, d=dialect: 'client="self"' in name and f'dialect="{d}"' in name,
                lambda name, d=dialect: 'client="local"' in name and f'dialect="{d}"' in name,
            )
        ]
        assert asked[0] > 0, dialect
        assert asked[1] == 0, dialect
    failures = [count for name, count in counts.items() if name.startswith("lookupd_canary_failures_total")]
    assert failures == [0.0] * 8


@pytest.mark.usefixtures("each_engine")
def test_start_is_extended_until_there_is_data(
    workbench: Workbench, ports: dict[str, int], notify: NotifySocket
) -> None:
    with run_daemon(workbench.config(listen=all_listeners(ports)), environment=notify.environment()):
        for _ in range(3):
            notify.wait_for("EXTEND_TIMEOUT_USEC")
        assert not any("READY" in message for message in notify.told)
        wait_until(lambda: any("no store" in message.get("STATUS", "") for message in notify.read(0.1) + notify.told))
        workbench.load_tables()
        workbench.snapshot()
        assert notify.wait_for("READY") == "1"


@contextlib.contextmanager
def network() -> Iterator[str]:
    """A network namespace of its own, with loopback and 192.0.2.1."""
    name = f"lk-own-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        for command in (
            "link set lo up",
            "link add own0 type veth peer name own1",
            "addr add 192.0.2.1/24 dev own0",
            "link set own0 up",
            "link set own1 up",
        ):
            subprocess.run(["ip", "-n", name, *command.split()], check=True)
        yield name
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


@contextlib.contextmanager
def run_inside(name: str, config: Path, environment: dict[str, str]) -> Iterator[Path]:
    """A daemon in that network; gives its log."""
    log = config.with_suffix(".log")
    with log.open("w") as out:
        process = subprocess.Popen(
            ["ip", "netns", "exec", name, sys.executable, "-m", "lookupd.cli", "serve", "--config", str(config)],
            stdout=out, stderr=out, env=os.environ | {"PYTHONUNBUFFERED": "1"} | environment,
        )  # fmt: skip
    try:
        yield log
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


@pytest.mark.usefixtures("each_engine")
def test_deaf_listener_is_not_covered_up(loaded: Workbench, ports: dict[str, int], notify: NotifySocket) -> None:
    """It listens on another address than loopback, and one port's packets do not come through any more."""
    own = Authority(loaded.folder).issue("server", addresses=("192.0.2.1",))
    http = f'[http]\ncertificate = "{own.certificate}"\nkey = "{own.key}"\n'
    listen = all_listeners(ports, "192.0.2.1").replace("http://", "https://")
    config = loaded.config(http + NOBODY_HERE, listen)
    with network() as name, run_inside(name, config, notify.environment(watchdog_seconds=1)) as log:
        notify.wait_for("READY")
        notify.wait_for("WATCHDOG")
        nft = ["ip", "netns", "exec", name, "nft"]
        chain = f"type filter hook input priority 0; policy accept; udp dport {ports['sip']} drop;"
        rules = f"table inet t {{ chain c {{ {chain} }}; }}"
        subprocess.run([*nft, rules], check=True)
        wait_until(lambda: "canary_failed" in log.read_text(), 20)
        assert f"sip udp://192.0.2.1:{ports['sip']}" in log.read_text()
        notify.read(0.5)
        assert not any("WATCHDOG" in message for message in notify.read(3))
        subprocess.run([*nft, "flush ruleset"], check=True)
        notify.wait_for("WATCHDOG")
        assert "canary_answered" in log.read_text()


def test_abstract_address_is_reached(tmp_path: Path) -> None:
    with NotifySocket(f"@lookupd-test-{os.getpid()}") as notify:
        Supervisor(notify.environment()).tell(READY=1, STATUS="serving")
        assert notify.read(1) == [{"READY": "1", "STATUS": "serving"}]


def test_no_value_becomes_a_line_of_its_own(tmp_path: Path) -> None:
    with NotifySocket(tmp_path / "notify") as notify:
        Supervisor(notify.environment()).tell(STATUS="x\nMAINPID=1")
        assert notify.read(1) == [{"STATUS": "x MAINPID=1"}]


@pytest.mark.usefixtures("each_engine")
def test_listener_whose_places_are_all_taken_answers_ourselves(
    loaded: Workbench, ports: dict[str, int], notify: NotifySocket
) -> None:
    config = loaded.config(listen=all_listeners(ports))
    with run_daemon(config, environment=notify.environment(watchdog_seconds=1)), contextlib.ExitStack() as held:
        notify.wait_for("READY")
        for _ in range(CONNECTIONS_PER_SOURCE_MAX):
            held.enter_context(socket.create_connection(("127.0.0.1", ports["npq"])))
        notify.read(1)
        assert any("WATCHDOG" in message for message in notify.read(2))
        assert "canary_failed" not in config.with_suffix(".log").read_text()


def test_supervisor_that_is_gone_is_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    supervisor = Supervisor({"NOTIFY_SOCKET": str(tmp_path / "nowhere")})
    supervisor.tell(READY=1)
    supervisor.tell(WATCHDOG=1)
    written = capsys.readouterr()
    assert (written.out + written.err).count("supervisor_unreachable") == 1


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({}, 0.0),
        ({"WATCHDOG_USEC": "10000000"}, 10.0),
        ({"WATCHDOG_USEC": "10000000", "WATCHDOG_PID": str(os.getpid())}, 10.0),
        ({"WATCHDOG_USEC": "10000000", "WATCHDOG_PID": "1"}, 0.0),
        ({"WATCHDOG_USEC": "-1"}, 0.0),
        ({"WATCHDOG_USEC": "9" * 20}, 0.0),
        ({"WATCHDOG_USEC": "soon"}, 0.0),
    ],
)
def test_watchdog_is_as_the_supervisor_says(environment: dict[str, str], seconds: float) -> None:
    assert watchdog_seconds(environment) == seconds


@pytest.mark.usefixtures("each_engine")
def test_whose_data_is_too_old_is_ready_all_the_same(
    loaded: Workbench, ports: dict[str, int], notify: NotifySocket
) -> None:
    """It says `unavailable`, which is its part; without a store it would not be started at all."""
    time.sleep(1.1)  # whole seconds are compared
    with run_daemon(
        loaded.config('[limits]\nstale_after = "100ms"', all_listeners(ports)), environment=notify.environment()
    ):
        assert notify.wait_for("READY") == "1"
        assert any("data is" in message.get("STATUS", "") for message in notify.told)


async def test_own_question_is_sent_again_from_its_socket() -> None:
    """The worker that did not answer is asked again, not another one; and a late answer finds who asked."""
    asked: list[tuple[bytes, tuple[str, int]]] = []

    class Deaf(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
            asked.append((data, addr))

    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(Deaf, ("127.0.0.1", 0))
    port = transport.get_extra_info("sockname")[1]
    endpoint = Endpoint("udp", "127.0.0.1", port)
    engine = Engine(load_plan("886"))
    canary = Canary(engine, list, lambda: Access(()), lambda: "e164.arpa")

    class Listening:
        port = endpoint.port

    try:
        trouble = await canary.ask(("npq", endpoint), Listening(), tries=3, seconds=0.1)
    finally:
        transport.close()
    assert trouble == "no answer within 0.1 s"
    assert len(asked) == 3
    assert len(set(asked)) == 1, "the same question, from the same port"


def test_no_client_may_have_our_name(workbench: Workbench) -> None:
    with pytest.raises(ConfigError, match=r"client\[0\].name: `self`"):
        read_config(workbench.config('[[client]]\nname = "self"\nsources = ["192.0.2.1/32"]\n'))


# -- the exchange ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def run_sync(bench: Workbench, environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    (bench.folder / "feed").mkdir(exist_ok=True)
    config = bench.config(f'[feed.main]\nsource = "dir://{bench.folder}/feed"\npoll = "100ms"\n')
    process = subprocess.Popen(
        [sys.executable, "-m", "loader.cli", "sync", "--config", str(config)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True, env=os.environ | environment,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.send_signal(signal.SIGCONT)
        process.send_signal(signal.SIGTERM)
        process.wait(20)


def test_exchange_feeds_the_watchdog_and_says_where_its_feeds_are(loaded: Workbench, notify: NotifySocket) -> None:
    with run_sync(loaded, notify.environment(watchdog_seconds=1)):
        notify.wait_for("READY")
        assert notify.wait_for("WATCHDOG") == "1"
        wait_until(lambda: any(message.get("STATUS") == "main=1" for message in notify.read(0.1) + notify.told))
    assert notify.wait_for("STOPPING") == "1"


async def test_thread_that_does_not_come_back_is_no_sign_of_life(loaded: Workbench) -> None:
    from loader.steady import SteadyClock
    from loader.supervising import WORK_SECONDS_MAX, threads_work
    from loader.sync import StoreThreads

    store = StoreThreads(read_config(loaded.config()), SteadyClock(loaded.folder / "clock.json", 300))
    await store.open()
    try:
        assert await threads_work(store, 5)
        hangs = threading.Event()
        begun = threading.Event()
        stuck = asyncio.ensure_future(store.read(lambda _: begun.set() or hangs.wait(30)))
        await asyncio.to_thread(begun.wait, 10)
        assert await threads_work(store, 0.2)  # it may check a large file
        store.reading_since = time.monotonic() - WORK_SECONDS_MAX - 1
        assert not await threads_work(store, 0.2)
        hangs.set()
        await stuck
        assert await threads_work(store, 5)
        store.writing_since = time.monotonic() - WORK_SECONDS_MAX / 2
        assert await threads_work(store, 5)
        store.writing_since = time.monotonic() - WORK_SECONDS_MAX - 1
        assert not await threads_work(store, 5)
    finally:
        await store.close()
