"""Jobs through kills, hand-overs, full disks and lists that mean harm."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import time
import urllib.error
import urllib.request
import zlib
from pathlib import Path
from typing import Any

import pytest

from lookupd.config import read_config
from lookupd.jobs import End, JobFolder, Order, Wishes
from lookupd.jobs_runner import Runner
from lookupd.limits import JOBS_STARTS_MAX
from tests.conftest import Workbench, free_port, run_daemon, wait_until
from tests.small_disk import fill, small_disk

ROWS = 200_000


class Site:
    """A daemon as a process, asked over HTTP."""

    def __init__(self, bench: Workbench, folder: Path, settings: str = "") -> None:
        bench.engine = "python"  # the slower one, so that there is time to do harm
        self.port = free_port()
        self.folder = folder
        self.config = bench.config(
            f'[batches]\npath = "{folder}"\nfree_min = "1MiB"\n{settings}\n', f'http = "http://127.0.0.1:{self.port}"'
        )

    def ask(self, path: str, body: bytes | None = None, kind: str = "text/csv") -> tuple[int, bytes]:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", body, {"Content-Type": kind})
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                return reply.status, reply.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def upload(self, body: bytes, query: str = "") -> str:
        status, told = self.ask(f"/v1/batches{query}", body)
        assert status == 201, told
        return str(json.loads(told)["id"])

    def job(self, id_: str) -> dict[str, Any]:
        status, told = self.ask(f"/v1/batches/{id_}")
        assert status == 200, told
        found: dict[str, Any] = json.loads(told)
        return found

    def wait(self, id_: str, *states: str, seconds: float = 120) -> dict[str, Any]:
        wait_until(lambda: self.job(id_)["state"] in states, seconds)
        return self.job(id_)

    def wait_begun(self, id_: str) -> None:
        """Some rows are answered, and not all."""
        wait_until(lambda: self.job(id_)["rows"] > 0, 60)
        assert self.job(id_)["state"] == "running"

    def result(self, id_: str) -> bytes:
        status, told = self.ask(f"/v1/batches/{id_}/result")
        assert status == 200, told
        return told


def numbers(count: int, seed: int = 8) -> bytes:
    draw = random.Random(seed)
    return b"".join(b"%010d\n" % (900_000_000 + draw.randrange(100_000_000)) for _ in range(count))


def workers(parent: int) -> list[int]:
    """Processes of jobs that a daemon has started."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                command = (folder / "cmdline").read_bytes()
            except OSError:
                continue
            if int(fields[1]) == parent and b"lookupd.jobs_work" in command:
                found.append(int(folder.name))
    return found


def is_gone(pid: int) -> bool:
    try:
        return (Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]) == "Z"
    except OSError:
        return True


@pytest.fixture(scope="module")
def many() -> bytes:
    """A list that takes seconds."""
    return numbers(ROWS)


def test_daemon_killed_while_running_goes_on_and_gives_the_same_result(
    loaded: Workbench, tmp_path: Path, many: bytes
) -> None:
    site = Site(loaded, tmp_path / "batches")
    with run_daemon(site.config) as first:
        whole = site.upload(many)
        site.wait(whole, "done")
        undisturbed = site.result(whole)
        id_ = site.upload(many)
        site.wait_begun(id_)
        (worker,) = workers(first.pid)
        first.kill()
        first.wait()
        wait_until(lambda: is_gone(worker))
    with run_daemon(site.config):
        told = site.wait(id_, "done", "failed")
        assert (told["state"], told["rows"]) == ("done", ROWS)
        assert site.result(id_) == undisturbed
        assert site.result(whole) == undisturbed


def test_stopped_daemon_leaves_no_process_and_the_next_goes_on(loaded: Workbench, tmp_path: Path, many: bytes) -> None:
    site = Site(loaded, tmp_path / "batches")
    with run_daemon(site.config) as first:
        id_ = site.upload(many)
        site.wait_begun(id_)
        (worker,) = workers(first.pid)
    assert is_gone(worker)
    with run_daemon(site.config):
        assert site.wait(id_, "done", "failed")["state"] == "done"


def test_job_goes_on_over_a_hand_over_and_is_run_by_one_process(loaded: Workbench, tmp_path: Path, many: bytes) -> None:
    site = Site(loaded, tmp_path / "batches")
    with run_daemon(site.config) as first:
        log = first.log.read_text  # type: ignore[attr-defined]
        id_ = site.upload(many)
        site.wait_begun(id_)
        first.send_signal(signal.SIGUSR2)
        try:
            wait_until(lambda: first.poll() is not None, 30)
            told = site.wait(id_, "done", "failed")
            assert (told["state"], told["rows"]) == ("done", ROWS)
            assert log().count("batch_done") == 1
        finally:
            successor = int(log().rpartition("handing_over to=")[2].split()[0])
            os.kill(successor, signal.SIGTERM)
            wait_until(lambda: is_gone(successor))


def test_worker_killed_begins_again(loaded: Workbench, tmp_path: Path, many: bytes) -> None:
    site = Site(loaded, tmp_path / "batches")
    with run_daemon(site.config) as process:
        id_ = site.upload(many)
        site.wait_begun(id_)
        (worker,) = workers(process.pid)
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: is_gone(worker))
        assert site.job(id_)["state"] in {"waiting", "running"}
        assert site.wait(id_, "done", "failed")["state"] == "done"


def test_running_job_is_cancelled_and_another_deleted(loaded: Workbench, tmp_path: Path, many: bytes) -> None:
    site = Site(loaded, tmp_path / "batches")
    with run_daemon(site.config) as process:
        first, second = site.upload(many), site.upload(many)
        for id_, how in ((first, "cancel"), (second, "delete")):
            site.wait_begun(id_)
            (worker,) = workers(process.pid)
            assert site.ask(f"/v1/batches/{id_}/{how}", b"")[0] == 200
            wait_until(lambda pid=worker: is_gone(pid))  # type: ignore[misc]
        assert site.job(first)["state"] == "cancelled"
        assert site.ask(f"/v1/batches/{second}")[0] == 404
        assert [path.name for path in (tmp_path / "batches").iterdir() if path.is_dir()] == [first]
        left = {path.name for path in (tmp_path / "batches" / first).iterdir()}
        assert not left & {"input", "output.csv", "output.csv.part"}


def test_answers_go_on_while_a_job_runs_at_low_priority(loaded: Workbench, tmp_path: Path, many: bytes) -> None:
    site = Site(loaded, tmp_path / "batches")
    with run_daemon(site.config) as process:
        id_ = site.upload(many)
        site.wait_begun(id_)
        (worker,) = workers(process.pid)
        assert os.getpriority(os.PRIO_PROCESS, worker) == 19
        assert Path(f"/proc/{worker}/oom_score_adj").read_text().strip() == "900"
        status, told = site.ask("/v1/numbers/0912345678")
        assert (status, json.loads(told)["network_code"]) == (200, "1402")
        site.ask(f"/v1/batches/{id_}/delete", b"")


def test_full_disk_is_507_then_a_failed_job_and_the_daemon_answers_on(
    loaded: Workbench, tmp_path: Path, many: bytes
) -> None:
    with small_disk(tmp_path / "disk", 8) as disk:
        site = Site(loaded, disk / "batches")
        with run_daemon(site.config) as process:
            id_ = site.upload(many)  # its result is larger than what is left
            told = site.wait(id_, "failed", "done")
            assert (told["state"], "disk" in told["reason"]) == ("failed", True)
            assert not [name for name in os.listdir(disk / "batches" / id_) if name.startswith(("input", "output"))]
            filler = fill(disk, 1 << 20)
            status, answer = site.ask("/v1/batches", many)
            assert (status, "disk" in json.loads(answer)["error"]) == (507, True)
            assert not [path for path in (disk / "batches").iterdir() if path.name.startswith(".")]
            assert site.ask("/v1/numbers/0912345678")[0] == 200
            filler.unlink()
            assert site.wait(site.upload(b"0912345678\n"), "done", "failed")["state"] == "done"
            assert "cause=disk" in process.log.read_text()  # type: ignore[attr-defined]


def test_bomb_takes_no_room_and_the_daemon_answers_on(loaded: Workbench, tmp_path: Path) -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join(packer.compress(bytes(1 << 24)) for _ in range(64)) + packer.flush()  # 1 GiB of NUL
    site = Site(loaded, tmp_path / "batches")
    with run_daemon(site.config):
        status, told = site.ask("/v1/batches", bomb, "application/gzip")
        assert status == 201, told
        id_ = json.loads(told)["id"]
        assert site.ask("/v1/numbers/0912345678")[0] == 200
        site.wait(id_, "failed", "done")
        assert sum(path.stat().st_size for path in (tmp_path / "batches").rglob("*") if path.is_file()) < 1 << 20


def test_what_a_crash_left_is_deleted(loaded: Workbench, tmp_path: Path) -> None:
    folder = tmp_path / "batches"
    for name in (".gone-" + "1" * 32, ".upload-" + "2" * 32, ".upload-" + "3" * 32):
        (folder / name).mkdir(parents=True)
        (folder / name / "input").write_bytes(b"0912345678\n")
    for name in (".upload-" + "2" * 32,):
        os.utime(folder / name, (1, 1))
    (folder / ("4" * 32)).mkdir()
    (folder / ("4" * 32) / "job.json").write_text("{")
    site = Site(loaded, folder)
    with run_daemon(site.config):
        wait_until(lambda: not (folder / (".upload-" + "2" * 32)).exists())
        assert not (folder / (".gone-" + "1" * 32)).exists()
        assert (folder / (".upload-" + "3" * 32)).exists()  # it may be one that begins just now
        assert json.loads(site.ask("/v1/batches")[1]) == {"batches": []}


def test_folder_that_goes_away_is_told_and_comes_back(loaded: Workbench, tmp_path: Path) -> None:
    above = tmp_path / "above"
    above.mkdir()
    site = Site(loaded, above / "batches")
    with run_daemon(site.config) as process:
        log = process.log.read_text  # type: ignore[attr-defined]
        above.rename(tmp_path / "elsewhere")
        above.write_bytes(b"")
        wait_until(lambda: "batches_unusable" in log())
        assert site.ask("/v1/batches", b"0912345678\n")[0] == 503
        assert site.ask("/v1/numbers/0912345678")[0] == 200
        assert b"lookupd_batch_usable 0.0" in site.ask("/metrics")[1]
        above.unlink()
        (tmp_path / "elsewhere").rename(above)
        wait_until(lambda: "batches_usable" in log())
        assert site.wait(site.upload(b"0912345678\n"), "done")["rows"] == 1


async def test_result_of_a_job_whose_end_was_not_noted_is_made_again(loaded: Workbench, tmp_path: Path) -> None:
    """Killed between the two: the result has its name already."""
    runner = Runner(read_config(Site(loaded, tmp_path / "batches").config), lambda: None)
    order = put(runner.folder)
    left = runner.folder.path / order.id / "output.csv"
    left.write_text("of an earlier run\n")
    await runner.look()
    await asyncio.gather(*runner._running.values())
    job = runner.folder.find(order.id)
    assert job is not None
    assert job.end is not None
    assert job.end.state == "done"
    assert left.read_text().splitlines()[-1].startswith("0912345678,ported,1402")
    await runner.close()


async def test_clients_have_their_turns(loaded: Workbench, tmp_path: Path) -> None:
    """One with many jobs does not keep another waiting for all of them."""
    runner = Runner(read_config(Site(loaded, tmp_path / "batches").config), lambda: None)
    for _ in range(3):
        put(runner.folder, "one")
    late = put(runner.folder, "two")
    begun: list[str] = []
    while len(begun) < 4:
        await runner.look()
        begun += runner._running
        await asyncio.gather(*runner._running.values())
    assert late.id in begun[:2]
    await runner.close()


# -- the folder itself ---------------------------------------------------------------------------------------


def folder_of(tmp_path: Path) -> JobFolder:
    file = tmp_path / "lookupd.toml"
    file.write_text(f'[batches]\npath = "{tmp_path}/batches"\nfree_min = "1MiB"\n')
    return JobFolder(read_config(file).batches)


def put(folder: JobFolder, client: str = "one") -> Order:
    upload = folder.begin_upload()
    upload.write(b"0912345678\n")
    order = Order(upload.id, client, int(time.time()), upload.bytes, upload.sha256, wishes=Wishes())
    upload.accept(order)
    upload.discard()
    return order


def test_the_first_end_is_the_one(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    order = put(folder)
    assert folder.end(order.id, End("cancelled", 5))
    assert not folder.end(order.id, End("done", 6))
    job = folder.find(order.id)
    assert job is not None
    assert job.end == End("cancelled", 5)
    assert sorted(path.name for path in (folder.path / order.id).iterdir()) == ["end.json", "input", "job.json"]


def test_two_daemons_of_one_folder_do_not_both_run_jobs(tmp_path: Path) -> None:
    first, second = folder_of(tmp_path), folder_of(tmp_path)
    assert first.take_lock()
    assert not second.take_lock()
    first.release_lock()
    assert second.take_lock()
    second.release_lock()


async def test_job_whose_process_dies_each_time_fails_in_the_end(
    loaded: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    config = read_config(Site(loaded, tmp_path / "batches").config)
    now = [0.0]
    runner = Runner(config, lambda: None, monotonic=lambda: now[0])
    order = put(runner.folder)
    for _ in range(JOBS_STARTS_MAX):
        await runner.look()
        await asyncio.gather(*runner._running.values())
        now[0] += 1000
    job = runner.folder.find(order.id)
    assert job is not None
    assert job.end is not None
    assert (job.end.state, job.end.cause, runner.ended["killed"]) == ("failed", "killed", 1)
    assert f"{JOBS_STARTS_MAX} times" in capfd.readouterr().err
    await runner.close()
