"""`lookupd doctor`: each check's good and bad side, on real files, ports and stores."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from loader.steady import SteadyClock, read_boot_id
from lookupd.config import read_config
from lookupd.doctor import examine, feeds, format_checks, kernel, machine, rights, running, twin
from lookupd.doctor.check import Check, Subject, find_account, read_store
from lookupd.limits import DOCTOR_SECONDS, KEY_WARNING_SECONDS
from lookupd.settings import CLOCK_FILE, FeedSettings
from lookupd.socket_units import drop_in
from lookupd.store.portable import StoreState
from lookupd.store.schema import format_digest
from lookupd.units import format_time
from tests.conftest import Workbench, free_port, halt, run_cli, run_daemon
from tests.unit.test_audit import note

KEY = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3"
MINE = str(os.geteuid())


def checks(config: Path, user: str | None = MINE) -> dict[str, Check]:
    """By name; of several the worst."""
    order = ["ok", "warn", "fail"]
    found = sorted(examine(read_config(config), config, user), key=lambda check: order.index(check.result))
    return {check.name: check for check in found}


def subject_of(config: Path, user: str | None = MINE) -> Subject:
    settings = read_config(config)
    return Subject(settings, config, user, read_store(settings), "")


# -- the command -------------------------------------------------------------------------------------------


def test_healthy_replica_has_nothing_that_fails(loaded: Workbench) -> None:
    port, http = free_port(), free_port()
    listen = f'npq = ["udp://127.0.0.1:{port}", "tcp://127.0.0.1:{port}"]\nhttp = "http://127.0.0.1:{http}"'
    (loaded.folder / "source").mkdir()
    config = loaded.config(f'[feed.main]\nsource = "dir://{loaded.folder}/source"\npublic_key = "{KEY}"', listen)
    with run_daemon(config, "ready"):
        done = run_cli("lookupd.cli", "doctor", "--config", config, "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["result"]) == (0, "done"), done.stdout + done.stderr
    found = {check["name"]: check for check in told["checks"]}
    for name in ("configuration", "engine", "store", "store rights", "daemon", "disk", "memory", "file system"):
        assert found[name]["result"] == "ok", found[name]
    for name in ("feed main key", "feed main source", "feed main age", "open files"):
        assert found[name]["result"] == "ok", found[name]
    assert "serial=" in found["store"]["message"]
    assert "of process" in found["open files"]["message"]
    assert all(check["way_out"] for check in told["checks"] if check["result"] != "ok")


def test_exit_code_says_what_is_wrong(loaded: Workbench) -> None:
    config = loaded.config(listen=f'http = "http://127.0.0.1:{free_port()}"')
    done = run_cli("lookupd.cli", "doctor", "--config", config)
    assert done.returncode == 1
    assert "fail daemon: no answer at http://" in done.stdout
    assert "     -> systemctl status lookupd@lookupd" in done.stdout
    bad = loaded.write("bad.toml", "[listen]\nnqp = 1\n")
    done = run_cli("lookupd.cli", "doctor", "--config", bad, "--json")
    assert (done.returncode, json.loads(done.stdout)["exit_code"]) == (3, 3)
    assert "Traceback" not in done.stderr


def test_doctor_changes_nothing(loaded: Workbench) -> None:
    config = loaded.config()
    run_cli("lookupd.cli", "doctor", "--config", config)

    def seen() -> dict[str, tuple[int, int, int]]:
        found = {path: path.stat() for path in loaded.folder.rglob("*") if path.name != "lock.mdb"}
        return {str(path): (at.st_mode, at.st_size, at.st_mtime_ns) for path, at in found.items()}

    before = seen()
    assert run_cli("lookupd.cli", "doctor", "--config", config).returncode == 1  # its port 0 is asked by nobody
    assert seen() == before


def test_store_that_is_missing_truncated_or_empty_is_told(loaded: Workbench, tmp_path: Path) -> None:
    config = loaded.config()
    assert checks(config)["store"].result == "ok"
    with (loaded.store / "data.mdb").open("r+b") as file:
        file.truncate(8192)
    assert "truncated" in checks(config)["store"].message
    assert checks(config)["store"].result == "fail"
    shutil.rmtree(loaded.store)
    assert "no store here" in checks(config)["store"].message
    empty = Workbench(tmp_path / "empty")
    empty.folder.mkdir()
    empty.load_tables()
    assert checks(empty.config())["store"].result == "warn"


def test_everything_ends_in_time_even_when_peer_and_daemon_hang(loaded: Workbench) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        config = loaded.config(f'[replica]\npeer = "{url}"\n[sync]\nhttp = "{url}"', f'http = "{url}"')
        began = time.monotonic()
        found = checks(config)
        assert time.monotonic() - began < DOCTOR_SECONDS + 1
    assert {found[name].result for name in ("peer", "daemon", "exchange")} == {"fail"}
    assert found["store"].result == "ok"


def test_group_that_does_not_end_costs_its_own_lines(loaded: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(_: Subject) -> Iterator[Check]:
        time.sleep(30)
        yield Check("disk", "ok", "")

    def refuse(_: Subject) -> Iterator[Check]:
        yield Check("first", "ok", "")
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("lookupd.doctor.GROUPS", {"disk": hang, "other": refuse})
    config = loaded.config()
    found = examine(read_config(config), config, MINE, 0.4)
    assert [(check.name, check.result) for check in found] == [("disk", "fail"), ("other", "fail")]
    assert "no answer within 0.4 s" in found[0].message
    assert "Input/output error" in found[1].message


def test_fault_of_our_own_is_not_passed_over(loaded: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Subject) -> Iterator[Check]:
        yield Check("x", "ok", str(1 // 0))

    monkeypatch.setattr("lookupd.doctor.GROUPS", {"broken": broken})
    config = loaded.config()
    with pytest.raises(ZeroDivisionError):
        examine(read_config(config), config, MINE)


def test_lines_for_people_have_the_way_out_below() -> None:
    lines = format_checks([Check("a", "ok", "fine"), Check("b", "warn", "not fine", "do this\nthen that")])
    assert lines == ["ok   a: fine", "warn b: not fine", "     -> do this", "     -> then that", "1 ok, 1 warn, 0 fail"]


# -- kernel ------------------------------------------------------------------------------------------------


def test_offloads_work_on_this_kernel() -> None:
    assert [(check.name, check.result) for check in kernel.look_at_offloads()] == [
        ("udp segments", "ok"),
        ("udp joined receipt", "ok"),
    ]


def test_offload_that_is_refused_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "UDP_SEGMENT", 250)  # what no kernel knows, it leaves as one datagram or refuses
    monkeypatch.setattr(kernel, "UDP_GRO", 251)
    assert [check.result for check in kernel.look_at_offloads()] == ["warn", "warn"]


def test_sysctl_below_what_is_needed_is_told_with_the_line_that_mends_it(tmp_path: Path) -> None:
    core = tmp_path / "net/core"
    core.mkdir(parents=True)
    (core / "rmem_max").write_text("212992\n")
    (core / "somaxconn").write_text("4096\n")
    found = {check.name: check for check in kernel.look_at_sysctls(tmp_path)}
    assert {name: check.result for name, check in found.items()} == {
        "net.core.rmem_max": "warn",
        "net.core.netdev_max_backlog": "warn",
        "net.core.somaxconn": "ok",
    }
    assert "sysctl -w net.core.rmem_max=4194304" in found["net.core.rmem_max"].way_out
    assert "cannot be read here" in found["net.core.netdev_max_backlog"].message


def test_limit_of_open_files_is_the_daemons_own(loaded: Workbench) -> None:
    config = loaded.config()
    needed = kernel.files_needed(read_config(config))
    assert kernel.look_at_files(read_config(config), None).result == "ok"
    with run_daemon(config) as process:
        assert subject_of(config).process == process.pid
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (needed - 1, needed + 1))
        told = kernel.look_at_files(read_config(config), process.pid)
        assert (told.result, f"{needed - 1} of process {process.pid}" in told.message) == ("warn", True)
    assert subject_of(config).process is None


# -- clock, disk, memory -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "result"), [(0, "ok"), (0x2001, "ok"), (machine.STA_UNSYNC, "warn"), (None, "warn")]
)
def test_clock_that_nobody_keeps_right_is_told(status: int | None, result: str) -> None:
    assert machine.synchronised(status).result == result


def test_kernel_tells_whether_the_clock_is_kept_right() -> None:
    status = machine._clock_status()
    assert status is not None  # anybody may read it
    if shutil.which("timedatectl") is None:
        return
    told = subprocess.run(["timedatectl", "show", "-p", "NTPSynchronized"], capture_output=True, text=True, check=False)
    if told.returncode == 0:  # it asks a service
        assert (told.stdout.strip() == "NTPSynchronized=yes") == (not status & machine.STA_UNSYNC)


def test_clock_step_that_the_exchange_does_not_follow_is_told(tmp_path: Path) -> None:
    file = tmp_path / CLOCK_FILE
    assert machine.follows(file, 300).result == "ok"
    SteadyClock(file, 300).save()
    assert machine.follows(file, 300).result == "ok"
    known = {"boot_id": read_boot_id(), "wall": time.time() - 3600, "ticks": time.clock_gettime(time.CLOCK_BOOTTIME)}
    file.write_bytes(msgspec.json.encode(known))
    assert (machine.follows(file, 300).result, "+3600 s" in machine.follows(file, 300).message) == ("fail", True)
    assert machine.follows(file, 7200).result == "ok"
    file.write_bytes(msgspec.json.encode(known | {"boot_id": "of yesterday"}))
    assert machine.follows(file, 300).result == "ok"  # it may have been off
    file.write_bytes(msgspec.json.encode(known | {"boot_id": "of yesterday", "wall": time.time() + 3600}))
    assert machine.follows(file, 300).result == "fail"
    file.write_bytes(b"{")
    assert machine.follows(file, 300).result == "warn"


def test_store_on_a_network_file_system_is_refused() -> None:
    mounts = (
        "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
        "40 22 0:40 / /srv/with\\040blank rw shared:9 - nfs4 server:/x rw\n"
        "41 22 0:41 / /srv/with\\040blank/local rw - xfs /dev/sdb rw\n"
    )
    assert machine.file_system(Path("/var"), mounts).result == "ok"
    told = machine.file_system(Path("/srv/with blank/a"), mounts)
    assert (told.result, "nfs4" in told.message) == ("fail", True)
    assert machine.file_system(Path("/srv/with blank/local/a"), mounts).result == "ok"


def test_room_for_a_restore_is_asked_for(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    assert machine.room(tmp_path, 0).result == "ok"
    assert machine.room(tmp_path, 2 * free).result == "warn"


def test_hot_column_that_fills_the_memory_is_told() -> None:
    assert machine.memory(206_000_000, 8 << 30).result == "ok"
    assert machine.memory(206_000_000, 256 << 20).result == "warn"


# -- feeds -------------------------------------------------------------------------------------------------


def until(seconds: float) -> str:
    return f"{KEY} until {format_time(int(time.time() + seconds))}"


@pytest.mark.parametrize(
    ("keys", "result"),
    [
        ((), "warn"),
        ((KEY,), "ok"),
        ((until(KEY_WARNING_SECONDS + 3600),), "ok"),
        ((until(KEY_WARNING_SECONDS - 3600),), "warn"),
        ((until(-60),), "fail"),
        ((until(-60), KEY), "ok"),
        ((until(60), until(KEY_WARNING_SECONDS + 3600)), "ok"),
    ],
)
def test_key_is_told_before_it_expires(keys: tuple[str, ...], result: str) -> None:
    assert feeds.of_keys("main", FeedSettings(public_key=keys), int(time.time())).result == result


@pytest.mark.parametrize(
    ("age", "extra", "result"),
    [
        (None, "", "fail"),
        (60, "", "ok"),
        (90_000, "", "warn"),
        (3601, '[limits]\nstale_after = "1h"', "fail"),
        (3599, '[limits]\nstale_after = "1h"', "ok"),
    ],
)
def test_feed_that_is_silent_is_told(workbench: Workbench, age: int | None, extra: str, result: str) -> None:
    config = read_config(workbench.config(f"{extra}\n[feed.main]\nsource = 'dir:///x'"))
    assert feeds.of_age("main", age, config).result == result


def test_source_that_is_not_there_is_told(loaded: Workbench) -> None:
    config = loaded.config('[feed.main]\nsource = "dir:///nowhere/at/all"')
    assert checks(config)["feed main source"].result == "fail"


# -- rights ------------------------------------------------------------------------------------------------


def test_user_that_does_not_exist_fails_and_root_is_warned_of(loaded: Workbench) -> None:
    config = loaded.config()
    assert checks(config, "no-such-user")["user"].result == "fail"
    assert checks(config, "0")["user"].result == "warn"
    assert checks(config, "61002")["user"].result == "ok"
    with run_daemon(config):
        assert find_account(subject_of(config, None).user) == find_account(MINE)
    assert subject_of(config, None).user == "lookupd"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give files away")
def test_secret_that_others_read_fails(loaded: Workbench) -> None:
    secret = loaded.write("password", "x")
    config = loaded.config(f'[feed.main]\nsource = "https://h/f/"\nuser = "u"\npassword_file = "{secret}"')

    def told(user: str = "61002") -> str:
        return checks(config, user)["secrets"].result

    secret.chmod(0o600)
    assert told() == "ok"
    os.chown(secret, 61002, 61002)
    assert told() == "warn"
    secret.chmod(0o640)
    assert told() == "fail"
    secret.unlink()
    assert told() == "fail"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give files away")
def test_configuration_that_the_daemon_could_change_is_told(loaded: Workbench, tmp_path: Path) -> None:
    config = loaded.config()

    def told() -> tuple[str, str]:
        (check,) = [check for check in rights.look(subject_of(config, "61002")) if check.name == "configuration rights"]
        return check.result, check.message

    assert told()[0] == "fail"  # pytest's folders let only root in
    config = Path("/tmp") / f"lookupd-doctor-{os.getpid()}.toml"
    shutil.copy(loaded.config(), config)
    try:
        config.chmod(0o644)
        assert told()[0] == "ok"
        config.chmod(0o646)
        assert told()[0] == "warn"
        config.chmod(0o600)
        assert told() == ("fail", f"{config}: 61002 may not read it")
        os.chown(config, 61002, 0)
        assert told()[0] == "warn"
    finally:
        config.unlink()


# -- what runs ---------------------------------------------------------------------------------------------


def test_sockets_that_differ_from_the_configuration_are_told(workbench: Workbench) -> None:
    config = workbench.config(listen='npq = ["udp://127.0.0.1:4700", "tcp://127.0.0.1:4700"]')
    units = workbench.folder / "units"
    drop_ins = units / "lookupd@lookupd.socket.d"
    drop_ins.mkdir(parents=True)

    def told() -> Check:
        return running.sockets(read_config(config), config, [units])

    assert (told().result, "no socket unit" in told().message) == ("warn", True)
    (units / "lookupd@.socket").write_text("[Socket]\nFreeBind=yes\n")
    assert (told().result, "has no address" in told().message) == ("warn", True)
    (drop_ins / "listen.conf").write_text(drop_in(read_config(config)))
    assert told().result == "ok"
    (drop_ins / "listen.conf").write_text("[Socket]\nListenDatagram=127.0.0.1:4700\nListenStream=127.0.0.1:4701\n")
    assert told().result == "warn"
    assert "does not hold tcp 127.0.0.1:4700" in told().message
    assert "holds tcp 127.0.0.1:4701" in told().message
    assert "lookupd sockets --config" in told().way_out


def test_daemon_without_data_is_told_as_not_ready(workbench: Workbench) -> None:
    config = workbench.config(listen=f'http = "http://127.0.0.1:{free_port()}"')
    with run_daemon(config):
        told = checks(config)["daemon"]
    assert (told.result, "not ready" in told.message) == ("fail", True)


def test_daemon_that_answers_nonsense_is_told_without_its_control_characters(workbench: Workbench) -> None:
    with Nonsense(b"HTTP/1.1 500 X\r\nContent-Length: 9\r\n\r\n\x1b[2Jgone\n") as url:
        told = running._ready("daemon", url, "")
    assert (told.result, "\x1b" in told.message, "gone" in told.message) == ("fail", False, True)
    with Nonsense(b"what do you want\r\n") as url:
        assert running._ready("daemon", url, "").result == "fail"


class Nonsense:
    """A listener that says one thing to everybody, as a process of its own."""

    CODE = """
import socket, sys
with socket.create_server(("127.0.0.1", 0)) as listener:
    print(listener.getsockname()[1], flush=True)
    while True:
        with listener.accept()[0] as peer:
            peer.recv(4096)
            peer.sendall(bytes.fromhex(sys.argv[1]))
"""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer

    def __enter__(self) -> str:
        words = ["python3", "-c", self.CODE, self._answer.hex()]
        self._process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        return f"http://127.0.0.1:{self._process.stdout.readline().strip()}"

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


# -- the twin ----------------------------------------------------------------------------------------------


@pytest.fixture
def twins(tmp_path: Path) -> tuple[Workbench, Workbench]:
    """Two replicas that loaded the same."""
    found = Workbench(tmp_path / "a"), Workbench(tmp_path / "b")
    for bench in found:
        bench.folder.mkdir()
        bench.load_tables()
        bench.snapshot(now=1_795_312_800)
    return found


def test_twin_that_agrees_lags_or_differs_is_told(twins: tuple[Workbench, Workbench]) -> None:
    ours, theirs = twins
    http = free_port()
    peer = f"http://127.0.0.1:{http}"
    other = theirs.config('[replica]\nname = "b"', f'http = "{peer}"')
    config = ours.config(f'[replica]\npeer = "{peer}"')
    assert checks(config)["peer"].result == "fail"
    with run_daemon(other, "ready") as process:
        assert {checks(config)[name].result for name in ("peer", "same data")} == {"ok"}
        ours.delta({"kind": "return", "tn": "886912345678"}, sequence=2)
        told = checks(config)["same data"]
        assert (told.result, "at 2 here, at 1 there" in told.message) == ("warn", True)
        theirs.delta({"kind": "return", "tn": "886912345679"}, sequence=2)
        told = checks(config)["same data"]
        assert (told.result, "docs/operations/divergence.md" in told.way_out) == ("fail", True)
        own_name = ours.config(f'[replica]\nname = "b"\npeer = "{peer}"')
        assert "it is called 'b' as we are" in checks(own_name)["peer"].message
        halt(process)
        assert checks(config)["peer"].result == "fail"
        process.send_signal(18)  # SIGCONT: else it could not end


def test_twin_that_does_not_list_us_is_told_as_such(twins: tuple[Workbench, Workbench]) -> None:
    ours, theirs = twins
    peer = f"http://127.0.0.1:{free_port()}"
    config = ours.config(f'[replica]\npeer = "{peer}"')
    for client, said in (
        ('name = "x"\nsources = ["192.0.2.0/24"]', "no client's list"),
        ('name = "x"\nsources = ["127.0.0.1"]', "does not take us for its peer"),
    ):
        other = theirs.config(f'[replica]\nname = "b"\n[[client]]\n{client}', f'http = "{peer}"')
        with run_daemon(other):
            told = checks(config)["peer"]
        assert (told.result, said in told.message, "peer = true" in told.way_out) == ("fail", True, True)


def test_twin_that_is_none_of_ours_is_told(loaded: Workbench) -> None:
    for answer in (b'{"replica": 7}', b"[", b'{"digest": "no hex"}', b"\xff"):
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(answer)}\r\n\r\n".encode()
        with Nonsense(head + answer) as url:
            told = checks(loaded.config(f'[replica]\npeer = "{url}"'))["peer"]
        assert (told.result, "see what listens there") == ("fail", told.way_out)


def test_stores_with_different_files_are_not_compared_by_digest(loaded: Workbench) -> None:
    with loaded.reader() as reader:
        ours = reader.state
    theirs = StoreState("b", ours.serial, format_digest(ours.digest + 1), ours.ported, ours.blocks, {})
    assert twin.compared(ours, theirs).result == "warn"
    assert twin.compared(ours, msgspec.structs.replace(theirs, feeds=ours.feeds)).result == "fail"


# -- usage -------------------------------------------------------------------------------------------------


def test_ledger_of_usage_that_can_be_kept_is_fine(loaded: Workbench) -> None:
    config = loaded.config()
    found = checks(config)
    assert (found["usage rights"].result, found["usage"].result) == ("ok", "ok")
    with run_daemon(config, "ready"):
        pass
    assert checks(config)["usage"].message.endswith("usage.sqlite: can be read")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be somebody else's judge")
def test_folder_of_usage_that_the_daemon_may_not_write_is_told(loaded: Workbench) -> None:
    config = loaded.config('[usage]\npath = "/usr/local/lookupd-usage"\n')
    found = checks(config, "61002")["usage rights"]
    assert (found.result, "may not make it" in found.message) == ("fail", True)
    assert found.way_out == "install -d -o 61002 -g lookupd -m 750 /usr/local/lookupd-usage"
    config = loaded.config('[usage]\npath = "/usr/local"\n')
    assert "may not write there" in checks(config, "61002")["usage rights"].message
    assert checks(config, "0")["usage rights"].result == "ok"


def test_audit_that_cannot_be_written_or_was_changed_is_told(loaded: Workbench) -> None:
    config = loaded.config('[audit]\npath = "/usr/local/lookupd-audit"\n')
    found = checks(config, "61002")["audit rights"]
    assert (found.result, found.way_out) == ("fail", "install -d -o 61002 -g lookupd -m 700 /usr/local/lookupd-audit")
    config = loaded.config()
    assert checks(config, "0")["audit rights"].result == "ok"
    assert "audit" not in checks(config)
    asyncio.run(note(read_config(config).audit_path, "a", "b", "c"))
    assert "3 records" in checks(config)["audit"].message
    (file,) = read_config(config).audit_path.iterdir()
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[::2]))
    assert checks(config)["audit"].result == "fail"


def test_damaged_ledger_of_usage_is_told(loaded: Workbench) -> None:
    config = loaded.config()
    folder = read_config(config).usage_path
    folder.mkdir()
    (folder / "usage.sqlite.damaged-20261122T000000Z").write_bytes(b"garbage")
    found = checks(config)["usage"]
    assert (found.result, "in no statement" in found.message) == ("warn", True)
    (folder / "usage.sqlite").write_bytes(b"garbage " * 1000)
    found = checks(config)["usage"]
    assert (found.result, "file is not a database" in found.message) == ("fail", True)


def test_ledger_of_usage_that_is_left_behind_is_told(loaded: Workbench) -> None:
    from lookupd.ledger import Ledger
    from lookupd.usage import COLUMNS, COUNTED_SECONDS, ledger_file

    config = loaded.config('[usage]\nevery = "1h"\n')
    ledger = Ledger(ledger_file(read_config(config)), COLUMNS)
    ledger.add(int(time.time()) // 3600 - 3, COUNTED_SECONDS, 3600)
    ledger.save()
    assert checks(config)["usage"].result == "ok"
    with run_daemon(config, "ready"):
        found = checks(config)["usage"]
    assert (found.result, "nothing was saved for over 2 h" in found.message) == ("fail", True)
