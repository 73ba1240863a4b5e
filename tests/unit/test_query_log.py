"""The query log of a running daemon: what each engine writes of each number asked, and what a bad disk does."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lookupd.access import Client
from lookupd.config import read_config
from lookupd.errors import ConfigError
from lookupd.limits import QUERY_LOG_QUEUE_MAX
from lookupd.model import TN, Answer, NetworkCode, Outcome, Route, RoutingNumber
from lookupd.protocols import npq
from lookupd.query_log import QueryLog
from lookupd.query_record import OUTCOMES, Record
from lookupd.settings import ClientSettings, QueryLogSettings
from lookupd.tap import Tap
from tests.callers import ASKING
from tests.conftest import Served, Workbench, run_daemon, serve, wait_until
from tests.handovers import Site
from tests.small_disk import fill, small_disk

LISTEN = "\n".join(
    [*(f'{name} = ["udp://127.0.0.1:0", "tcp://127.0.0.1:0"]' for name in ("npq", "enum", "sip")),
     'pdb = ["udp://127.0.0.1:0"]', 'http = "http://127.0.0.1:0"']
)  # fmt: skip
PORTED, HELD, NOBODYS = "886912345678", "886913000000", "886930000000"
ROUTE = Route(NetworkCode("1402"), RoutingNumber("D0402"), "Beta Mobile", None, True)


def setting(path: Path, **more: object) -> str:
    rows = {"path": str(path), "free_min": "0B"} | more
    return "[query_log]\n" + "\n".join(f"{name} = {json.dumps(value)}" for name, value in rows.items())


def records(path: Path) -> list[dict[str, Any]]:
    """Of all files, the oldest first."""
    found = sorted(path.parent.glob(f"{path.name}*"), key=lambda name: -int(name.suffix[1:]) if name != path else 0)
    return [json.loads(line) for name in found for line in name.read_text().splitlines()]


async def until(condition: Callable[[], bool]) -> None:
    await asyncio.to_thread(wait_until, condition)


async def ask(served: Served, dialect: str, message: bytes, transport: str = "udp") -> bytes:
    port = served.port(dialect, transport)

    def exchange() -> bytes:
        if transport == "udp":
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.settimeout(5)
                sock.sendto(message, ("127.0.0.1", port))
                return sock.recv(65_535)
        with socket.create_connection(("127.0.0.1", port), 5) as sock:
            prefix = {"npq": 4, "enum": 2, "sip": 0}[dialect]
            sock.sendall(len(message).to_bytes(prefix, "big") + message if prefix else message)
            return sock.recv(65_535)[prefix:]

    return await asyncio.to_thread(exchange)


def metric(served: Served, name: str, labels: dict[str, str] | None = None) -> float:
    for line in served.daemon.metrics.text().decode().splitlines():
        shown = "{" + ",".join(f'{key}="{value}"' for key, value in labels.items()) + "}" if labels else ""
        if line.startswith(f"{name}{shown} "):
            return float(line.split()[1])
    raise LookupError(name)


def expected(dialect: str, transport: str, number: str, outcome: str, **more: object) -> dict[str, object]:
    nothing = {"reason": None, "network_code": None, "routing_number": None}
    shown = {"client": "local", "dialect": dialect, "transport": transport, "number": number, "outcome": outcome}
    return shown | nothing | {"source": "127.0.0.1"} | more


def comparable(record: dict[str, Any]) -> dict[str, Any]:
    """Without what differs from run to run."""
    return {name: value for name, value in record.items() if name not in {"time", "serial", "reply_us"}}


# -- what is written -------------------------------------------------------------------------------------


async def test_each_dialects_queries_are_written_with_their_answers(loaded: Workbench, each_engine: str) -> None:
    path = loaded.folder / "queries.ndjson"
    ways = [("npq", "udp"), ("npq", "tcp"), ("pdb", "udp"), ("enum", "udp"), ("enum", "tcp"), ("sip", "udp"),
            ("sip", "tcp")]  # fmt: skip
    began = time.time()
    async with serve(loaded.config(setting(path, numbers="full"), LISTEN)) as served:
        serial = served.daemon.engine.serial
        for dialect, transport in ways:
            for at, number in enumerate((PORTED, HELD, NOBODYS)):
                await ask(served, dialect, ASKING[dialect](number, at + 1).message, transport)
        await until(lambda: path.exists() and len(records(path)) == 21)
        assert metric(served, "lookupd_query_log_records_total") == 21
        assert metric(served, "lookupd_query_log_bytes_total") == path.stat().st_size
    found = records(path)
    assert len(found) == 21
    assert sorted(map(comparable, found), key=repr) == sorted(
        (
            record
            for dialect, transport in ways
            for record in (
                expected(dialect, transport, f"+{PORTED}", "ported", network_code="1402", routing_number="D0402"),
                expected(dialect, transport, f"+{HELD}", "not_ported", network_code="1401", routing_number="D0401"),
                expected(dialect, transport, f"+{NOBODYS}", "not_allocated"),
            )
        ),
        key=repr,
    )
    for record in found:
        assert list(record) == list(Record.__struct_fields__)
        assert record["serial"] == serial
        assert abs(time.mktime(time.strptime(record["time"], "%Y-%m-%dT%H:%M:%S.%fZ")) - time.timezone - began) < 60
        timed = each_engine == "native" and record["transport"] == "udp"
        assert (record["reply_us"] is not None and record["reply_us"] >= 0) if timed else record["reply_us"] is None
    assert path.stat().st_mode & 0o777 == 0o640


async def test_numbers_are_masked_unless_they_shall_be_full(loaded: Workbench, each_engine: str) -> None:
    path = loaded.folder / "queries.ndjson"
    async with serve(loaded.config(setting(path))) as served:
        await ask(served, "npq", npq.encode_query(1, PORTED))
        await ask(served, "npq", npq.encode_query(2, "no number"))
        await until(lambda: path.exists() and len(records(path)) == 2)
    assert [record["number"] for record in records(path)] == ["+88691234****", None]
    assert "5678" not in path.read_text()


async def test_batch_query_has_a_record_for_each_number(loaded: Workbench, each_engine: str) -> None:
    path = loaded.folder / "queries.ndjson"
    numbers = [str(886912345000 + at) for at in range(300)]
    async with serve(loaded.config(setting(path, numbers="full"))) as served:
        held = len(npq.decode_answer(await ask(served, "npq", npq.encode_query(1, numbers))).results)
        assert 0 < held < 300  # over UDP not all have room
        await until(lambda: path.exists() and len(records(path)) == 300)
    found = {record["number"]: record for record in records(path)}
    assert found.keys() == {f"+{number}" for number in numbers}
    reasons = [found[f"+{number}"]["reason"] for number in numbers]
    assert reasons == [None] * held + ["no_room"] * (300 - held)


async def test_refused_and_dropped_queries_of_a_client_are_written(loaded: Workbench, each_engine: str) -> None:
    path = loaded.folder / "queries.ndjson"
    client = '[[client]]\nname = "slow"\nsources = ["127.0.0.0/8"]\nqueries_per_second = 1\n'
    async with serve(loaded.config(client + setting(path, outcomes=["refused", "dropped"]))) as served:
        for at in range(3):
            await ask(served, "npq", npq.encode_query(at, PORTED))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"\xc1", ("127.0.0.1", served.port("npq", "udp")))
        await until(lambda: path.exists() and len(records(path)) >= 3)
    found = [(record["client"], record["outcome"], record["reason"]) for record in records(path)]
    assert found == [("slow", "refused", None)] * 2 + [("slow", "dropped", "malformed")]


async def test_one_of_so_many_queries_is_written(loaded: Workbench, each_engine: str) -> None:
    path = loaded.folder / "queries.ndjson"
    async with serve(loaded.config(setting(path, sample=10))) as served:
        with socket.create_connection(("127.0.0.1", served.port("npq", "tcp")), 5) as sock:
            for at in range(100):
                message = npq.encode_query(at, PORTED)
                sock.sendall(len(message).to_bytes(4, "big") + message)
            await asyncio.to_thread(lambda: [sock.recv(1) for _ in range(100)])
            await until(lambda: path.exists() and len(records(path)) == 10)
    assert len(records(path)) == 10


async def test_off_by_default_and_nothing_is_noted(loaded: Workbench, each_engine: str) -> None:
    async with serve(loaded.config()) as served:
        await ask(served, "npq", npq.encode_query(1, PORTED))
        assert served.daemon.path.tap.drain() == (b"", 0)
        assert not any(thread.name == "query-log" for thread in threading.enumerate())


async def test_daemon_asking_itself_is_not_in_the_log(loaded: Workbench, each_engine: str) -> None:
    path = loaded.folder / "queries.ndjson"
    elsewhere = '[[client]]\nname = "elsewhere"\nsources = ["192.0.2.1"]\n'
    async with serve(loaded.config(elsewhere + setting(path), LISTEN)) as served:
        assert await served.daemon.canary.ask_all() == {}
    assert records(path) == []


async def test_reload_turns_it_on_off_and_to_other_clients(loaded: Workbench, each_engine: str) -> None:
    path, second = loaded.folder / "queries.ndjson", loaded.folder / "second.ndjson"
    clients = '[[client]]\nname = "a"\nsources = ["127.0.0.1"]\n[[client]]\nname = "b"\nsources = ["127.0.0.0/8"]\n'
    async with serve(loaded.config(clients)) as served:

        async def reload(text: str) -> None:
            loaded.config(clients + text)
            assert await served.daemon.reload()

        await ask(served, "npq", npq.encode_query(1, PORTED))
        await reload(setting(path))
        await ask(served, "npq", npq.encode_query(2, PORTED))
        await reload(setting(second, clients=["b"]))
        await ask(served, "npq", npq.encode_query(3, PORTED))
        await reload(setting(second, clients=["a"], numbers="full"))
        await ask(served, "npq", npq.encode_query(4, HELD))
        await until(lambda: second.exists() and len(records(second)) >= 1)
        await reload("")
        await ask(served, "npq", npq.encode_query(5, PORTED))
    assert [record["number"] for record in records(path)] == ["+88691234****"]
    assert [record["number"] for record in records(second)] == [f"+{HELD}"]


def test_answers_without_a_responder_are_recorded_in_the_same_form(tmp_path: Path) -> None:
    tap = Tap()
    client = Client(ClientSettings("web", ()))
    answer = Answer("0912345678", TN(int(PORTED)), Outcome.PORTED, ROUTE, False, 7, 1)
    tap.record(client, "http", "2001:db8::1%eth0", answer)
    assert tap.drain() == (b"", 0)
    tap.use(QueryLogSettings("file", numbers="full"))
    tap.record(client, "http", "2001:db8::1%eth0", answer)
    lines, count = tap.drain()
    assert count == 1
    found = json.loads(lines)
    del found["time"]
    assert found == {
        "client": "web", "dialect": "http", "transport": "tcp", "number": f"+{PORTED}", "outcome": "ported",
        "reason": None, "network_code": "1402", "routing_number": "D0402", "serial": 7, "source": "2001:db8::1",
        "reply_us": None,
    }  # fmt: skip


def test_queue_that_is_full_loses_and_counts() -> None:
    tap = Tap()
    tap.use(QueryLogSettings("file"))
    answer = Answer("x", None, Outcome.NOT_PORTABLE, None, False, 7, 1)
    client = Client(ClientSettings("web", ()))
    for _ in range(QUERY_LOG_QUEUE_MAX + 3):
        tap.record(client, "http", "127.0.0.1", answer)
    assert tap.lost() == 3
    assert tap.drain()[1] == QUERY_LOG_QUEUE_MAX


# -- troubles --------------------------------------------------------------------------------------------


class Written:
    """A query log without a daemon."""

    def __init__(self, path: Path, **more: Any) -> None:
        self.tap = Tap()
        self.log = QueryLog(self.tap)
        self.log.use(QueryLogSettings(str(path), **({"free_min": 0} | more)))
        self._client = Client(ClientSettings("web", ()))

    def note(self, count: int) -> None:
        for at in range(count):
            answer = Answer("x", TN(886912000000 + at), Outcome.PORTED, ROUTE, False, 7, 1)
            self.tap.record(self._client, "http", "127.0.0.1", answer)

    def metrics(self) -> dict[str, float]:
        return {
            sample.name.removeprefix("lookupd_query_log_") + "".join(f" {value}" for value in sample.labels.values()):
                sample.value
            for family in self.log.collect()
            for sample in family.samples
        }  # fmt: skip


async def test_folder_that_is_gone_is_told_once_and_writing_goes_on_when_it_is_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "logs" / "queries.ndjson"
    written = Written(path)
    for lost in (5, 10):
        written.note(5)
        await until(lambda lost=lost: written.metrics()["dropped_total disk"] == lost)  # type: ignore[misc]
    path.parent.mkdir()
    written.note(2)
    await until(lambda: written.metrics()["records_total"] == 2)
    await written.log.close()
    told = [line.split(" ", 1)[1] for line in capsys.readouterr().err.splitlines()]
    assert told == [
        f'query_log_lost path={path} reason="No such file or directory" id=LK1601',
        f"query_log_resumed path={path} lost=10 id=LK1602",
    ]


async def test_full_disk_loses_records_and_leaves_whole_lines(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1) as disk:
        path = disk / "queries.ndjson"
        written = Written(path, files=2)
        written.note(10)
        await until(lambda: written.metrics()["records_total"] == 10)
        filler = fill(disk, 8192)
        written.note(100)  # some 24 kB
        await until(lambda: written.metrics()["records_total"] + written.metrics()["dropped_total disk"] == 110)
        assert written.metrics()["dropped_total disk"] > 0
        filler.unlink()
        written.note(10)
        counts = written.metrics
        await until(lambda: counts()["records_total"] + counts()["dropped_total disk"] == 120)
        await written.log.close()
        whole = 0
        for line in path.read_bytes().splitlines():
            try:
                json.loads(line)
            except ValueError:
                continue
            whole += 1
        assert whole == written.metrics()["records_total"]


async def test_nothing_is_written_while_the_disk_has_less_than_it_is_to_keep(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with small_disk(tmp_path / "disk", 4) as disk:
        written = Written(disk / "queries.ndjson", free_min=2 << 20)
        written.note(3)
        await until(lambda: written.metrics()["records_total"] == 3)
        filler = fill(disk, 1 << 20)
        written.note(3)
        await until(lambda: written.metrics()["dropped_total space"] == 3)
        filler.unlink()
        written.note(3)
        await until(lambda: written.metrics()["records_total"] == 6)
        await written.log.close()
    assert "are free, 2.1 MB are to stay so" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["a pipe", "a folder", "a link", "not ours"])
async def test_path_that_is_no_file_of_ours_is_refused_and_holds_nobody_up(
    tmp_path: Path, kind: str, loaded: Workbench, each_engine: str
) -> None:
    path = tmp_path / "queries.ndjson"
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a folder":
        path.mkdir()
    elif kind == "a link":
        path.symlink_to(tmp_path / "elsewhere")
    else:
        path = Path("/proc/queries.ndjson")
    async with serve(loaded.config(setting(path))) as served:
        for at in range(3):
            await ask(served, "npq", npq.encode_query(at, PORTED))
        await until(lambda: metric(served, "lookupd_query_log_dropped_total", {"reason": "disk"}) == 3)
    assert not (tmp_path / "elsewhere").exists()


async def test_disk_holds_no_more_than_the_files_may_have(tmp_path: Path) -> None:
    path = tmp_path / "queries.ndjson"
    written = Written(path, file_size=65_536, files=3)
    (tmp_path / "queries.ndjson.7").write_text("of a time when more files were kept\n")
    for _ in range(8):
        written.note(500)  # some 120 kB
        done = written.metrics()["records_total"]
        await until(lambda done=done: written.metrics()["records_total"] > done)  # type: ignore[misc]
    await until(lambda: written.metrics()["records_total"] == 4000)
    await written.log.close()
    assert sorted(name.name for name in tmp_path.iterdir()) == [f"queries.ndjson{end}" for end in ("", ".1", ".2")]
    assert all(name.stat().st_size <= 65_536 for name in tmp_path.iterdir())
    found = records(path)
    assert [record["number"] for record in found][-1] == "+88691200****"
    assert len(found) > 500


def test_file_is_made_before_the_first_query(loaded: Workbench, each_engine: str) -> None:
    """So a path that cannot be written is told at the start."""
    path = loaded.folder / "queries.ndjson"
    with run_daemon(loaded.config(setting(path), LISTEN)):
        wait_until(path.exists)


def test_hand_overs_lose_no_record_and_turn_each_file_over_once(loaded: Workbench, each_engine: str) -> None:
    site = Site(loaded)
    path = loaded.folder / "queries.ndjson"
    site.more = setting(path, numbers="full", file_size="1MiB", files=200)
    with site.run(), site.callers() as callers:
        for _ in range(4):
            site.hand_over(signal.SIGUSR2)
            callers.wait(20)
    asked = sum(caller.asked for caller in callers.all)
    lost = sum(caller.lost + caller.closed for caller in callers.all)  # of `pdb`, a few: they may not have come
    # Beside the callers' own: a process that asks itself may be answered by the one that follows it.
    found = [record for record in records(path) if record["number"] == f"+{PORTED}" or record["reason"] == "late"]
    assert 2 < len(list(loaded.folder.glob("queries.ndjson*"))) < 200
    assert asked - lost <= len(found) <= asked + len(callers.all)  # a last question each, whose answer nobody waits for
    assert site.count("query_log_lost") == 0


# -- settings --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('path = "queries.ndjson"', "query_log.path: queries.ndjson: name it from the root on"),
        ("sample = 0", "query_log.sample: 1 to 1000000000"),
        ('file_size = "1KiB"', "query_log.file_size: at least 64KiB"),
        ("files = 0", "query_log.files: 1 to 200"),
        ('clients = ["nobody"]', "query_log.clients: 'nobody': no [[client]] has this name"),
        ('outcomes = ["late"]', "query_log.outcomes: 'late' is none of ported"),
        ('numbers = "half"', "query_log.numbers"),
    ],
)
def test_setting_that_cannot_be_is_refused_by_name(workbench: Workbench, line: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match="query_log") as refused:
        read_config(workbench.config(f"[query_log]\n{line}\n"))
    assert complaint in str(refused.value)


def test_outcomes_are_those_of_the_native_engine() -> None:
    assert (*(outcome.label for outcome in Outcome), "dropped") == OUTCOMES
