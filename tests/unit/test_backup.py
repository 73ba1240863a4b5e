"""Backups are whole or not there; a restored store is the backup's, and a daemon answers throughout."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from loader.apply import apply_delta
from loader.backup import Backup, make_backup, read_manifest
from loader.files import identify
from loader.restore import Restored, restore
from lookupd.errors import FeedError, Stale, StoreError
from lookupd.model import TN, JournalKind, UnixSeconds
from lookupd.store.copy import open_copy
from lookupd.store.reader import DEFAULT_MAP_SIZE, Reader
from lookupd.store.schema import format_digest
from lookupd.store.verify import verify
from lookupd.store.writer import Writer
from tests.conftest import PLAN, UNGUARDED, Silent, Workbench, dump, free_port, run_cli, run_daemon, wait_until
from tests.keeping import BLOCKS, Past, asked, flip, make_past, twin

SEED = 20261122
NOW = UnixSeconds(2_000_000_000)  # 2033-05-18T03:33:20Z: after what the tests write by the clock
WORDS = "noc: the disk was replaced"


def backup(workbench: Workbench, out: Path, now: int = NOW, **options: object) -> Backup:
    with workbench.reader() as reader:
        return make_backup(reader, out, UnixSeconds(now), Silent(), **options)  # type: ignore[arg-type]


def put_back(workbench: Workbench, made: Path | str, **options: object) -> Restored:
    return restore(Path(made), workbench.store, NOW, DEFAULT_MAP_SIZE, Silent(), **options)  # type: ignore[arg-type]


def folder(workbench: Workbench) -> Path:
    path = workbench.folder / "backups"
    path.mkdir(exist_ok=True)
    return path


# -- backup ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compress", [False, True])
def test_backup_holds_every_row_of_the_store(workbench: Workbench, compress: bool) -> None:
    make_past(workbench, SEED)
    made = backup(workbench, folder(workbench), replica="a", compress=compress)
    path = Path(made.path)
    assert path.name == f"lookupd-a-20330518T033320Z-serial-{made.serial}"
    file = "data.mdb.zst" if compress else "data.mdb"
    assert sorted(found.name for found in path.iterdir()) == [file, "manifest.json"]
    manifest = read_manifest(path)
    with workbench.reader() as reader:
        assert (manifest.serial, manifest.digest) == (reader.state.serial, format_digest(reader.state.digest))
        assert manifest.feeds["main"].sequence == reader.state.feeds["main"].sequence
        assert (manifest.replica, manifest.created_at) == ("a", "2033-05-18T03:33:20Z")
    if not compress:
        with open_copy(path) as copy:
            assert verify(copy).problems == []
        shutil.copytree(path, workbench.folder / "copy")
        assert dump(workbench.folder / "copy") == dump(workbench.store)


def test_backup_takes_one_state_while_the_writer_goes_on(workbench: Workbench) -> None:
    past = make_past(workbench, SEED)
    stop = threading.Event()
    files = [past.notice() for _ in range(400)]
    applied = []
    with Writer(workbench.store) as writer:

        def write() -> None:
            for at, notice in enumerate(files, past.sequence + 1):
                text = json.dumps(notice) + "\n"
                file = identify(workbench.publish(f"delta-main-{at}.ndjson", text, 1), "delta", "main")
                applied.append(apply_delta(writer, file, PLAN, NOW, Silent(), UNGUARDED).digest)
                if stop.is_set():
                    return

        thread = threading.Thread(target=write)
        thread.start()
        made = []
        with writer.reader() as reader:
            for number in range(4):
                count = len(applied)
                wait_until(lambda count=count: len(applied) > count + 2)  # type: ignore[misc]
                reader.pin()
                made.append(make_backup(reader, workbench.folder / f"b{number}", NOW, Silent()))
                assert len(applied) > count
        stop.set()
        thread.join(30)
    assert {one.digest for one in made} <= set(applied)
    assert len({one.digest for one in made}) > 1
    for one in made:
        with open_copy(Path(one.path)) as copy:
            assert (format_digest(copy.state.digest), verify(copy).problems) == (one.digest, [])


def test_backup_under_a_name_that_exists_is_refused(loaded: Workbench) -> None:
    made = Path(backup(loaded, loaded.folder / "one").path)
    before = (made / "manifest.json").read_bytes()
    with pytest.raises(StoreError, match="there is a backup of this name"):
        backup(loaded, made)
    with pytest.raises(StoreError, match="name a folder that is there"):
        backup(loaded, loaded.folder / "no" / "such")
    assert (made / "manifest.json").read_bytes() == before


def test_damaged_store_is_not_backed_up_unless_asked_for(workbench: Workbench) -> None:
    make_past(workbench, SEED)
    flip(workbench.store, "blocks", BLOCKS[1], 99)
    with pytest.raises(StoreError, match=f"not backed up: block {BLOCKS[1]} is damaged"):
        backup(workbench, folder(workbench))
    assert list(folder(workbench).iterdir()) == []
    made = backup(workbench, folder(workbench), even_damaged=True)
    assert read_manifest(Path(made.path)).damaged_blocks == made.damaged_blocks == (BLOCKS[1],)
    with pytest.raises(FeedError, match=f"was made of a damaged store: blocks {BLOCKS[1]}"):
        put_back(workbench, made.path)
    put_back(workbench, made.path, even_damaged=True)


def test_keep_removes_the_oldest_of_the_same_replica_once_the_new_one_is_whole(loaded: Workbench) -> None:
    out = folder(loaded)
    (out / "notes").mkdir()
    other = backup(loaded, out, NOW - 9999, replica="b")
    made = [Path(backup(loaded, out, NOW + at, replica="a").path).name for at in range(3)]
    flip_state = twin(loaded, "damaged")
    flip(flip_state.store, "blocks", 886912345, 1)
    with pytest.raises(StoreError):
        backup(flip_state, out, NOW + 3, replica="a", keep=1)
    assert {path.name for path in out.iterdir()} == {"notes", Path(other.path).name, *made}
    last = backup(loaded, out, NOW + 4, replica="a", keep=2)
    assert list(last.removed) == made[:2]
    assert {path.name for path in out.iterdir()} == {"notes", Path(other.path).name, made[2], Path(last.path).name}


def test_commands_tell_what_they_did(workbench: Workbench) -> None:
    make_past(workbench, SEED)
    config = workbench.config('[replica]\nname = "west"\n')
    out = folder(workbench)
    done = run_cli("loader.cli", "backup", "--out", out, "--compress", "--config", config, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert Path(told["path"]).parent == out
    assert Path(told["path"]).name.startswith("lookupd-west-")
    done = run_cli("loader.cli", "restore", told["path"], "--reason", WORDS, "--config", config)
    assert (done.returncode, done.stderr) == (0, "")
    assert (
        f"restored from {Path(told['path']).name}: serial={told['serial'] + 1} digest={told['digest']}" in done.stdout
    )
    assert "kept: " in done.stdout
    with workbench.reader() as reader:
        _, entry, _ = list(reader.journal())[-1]
    assert (entry.kind, entry.source, entry.reason) == (JournalKind.RESTORED, Path(told["path"]).name, WORDS)
    done = run_cli("loader.cli", "restore", out, "--config", config)
    assert (done.returncode, done.stderr) == (4, f"error: {out}: no backup: there is no manifest.json in it\n")
    assert run_cli("loader.cli", "restore", out, "--accept-older", "me", "--config", config).returncode == 2


# -- restore -----------------------------------------------------------------------------------------------


def test_restored_store_is_the_backups_and_the_old_file_is_kept(workbench: Workbench) -> None:
    past = make_past(workbench, SEED)
    made = backup(workbench, folder(workbench))
    before = dump(workbench.store)
    inode = (workbench.store / "data.mdb").stat().st_ino
    done = put_back(workbench, made.path, reason=WORDS)
    after = dump(workbench.store)
    assert {name: rows for name, rows in after.items() if name not in {"journal", "meta"}} == {
        name: rows for name, rows in before.items() if name not in {"journal", "meta"}
    }
    assert (workbench.store / done.kept).stat().st_ino == inode
    names = {path.name for path in workbench.store.iterdir()}
    assert names == {"data.mdb", "data.length", "lock.mdb", "writer.lock", done.kept}
    assert int((workbench.store / "data.length").read_text()) == (workbench.store / "data.mdb").stat().st_size
    past.check()
    past.deltas(2)
    past.check()
    with workbench.reader() as reader:
        assert verify(reader).problems == []


def test_store_that_is_gone_is_restored_where_it_was(workbench: Workbench) -> None:
    past = make_past(workbench, SEED)
    made = backup(workbench, folder(workbench), compress=True)
    shutil.rmtree(workbench.store)
    assert put_back(workbench, made.path).kept == ""
    past.check()


def test_older_backup_is_refused_unless_somebody_takes_it_on(workbench: Workbench) -> None:
    past = make_past(workbench, SEED)
    made = backup(workbench, folder(workbench))
    model = dict(past.model)
    past.deltas(1)
    before = dump(workbench.store)
    with pytest.raises(Stale, match="feed 'main' is at 4, the store is at 5"):
        put_back(workbench, made.path)
    assert dump(workbench.store) == before
    done = put_back(workbench, made.path, accept_older=WORDS)
    assert done.feeds == {"main": 4}
    past.model = model
    past.check()
    with workbench.reader() as reader:
        assert list(reader.journal())[-1][1].reason == WORDS


HOLDER = """
import sys, time
from pathlib import Path
from lookupd.store.writer import Writer
with Writer(Path(sys.argv[1])) as writer:
    if sys.argv[2] == "changing":
        change = writer.change(1)
        change.__enter__()
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("doing", ["changing", "waiting"])
def test_restore_is_refused_while_a_writer_runs(loaded: Workbench, doing: str) -> None:
    made = backup(loaded, folder(loaded))
    before = dump(loaded.store)
    command = [sys.executable, "-c", HOLDER, str(loaded.store), doing]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            with pytest.raises(StoreError, match=f"process {process.pid} .*(end it first|wait for it, or end it)"):
                put_back(loaded, made.path, wait=0.1)
        finally:
            process.kill()
    assert dump(loaded.store) == before
    put_back(loaded, made.path, wait=0.1)


def test_reader_of_the_old_file_reads_on_and_notices(workbench: Workbench) -> None:
    past = make_past(workbench, SEED)
    made = backup(workbench, folder(workbench))
    past.deltas(1)
    code = (
        "import sys; from pathlib import Path; from lookupd.store.reader import Reader\n"
        "reader = Reader(Path(sys.argv[1])); print(reader.state.serial, flush=True); sys.stdin.readline()\n"
        "reader.pin(); print(reader.warm(), reader.replaced(), reader.state.serial, flush=True)\n"
    )
    command = [sys.executable, "-c", code, str(workbench.store)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        serial = process.stdout.readline().strip()
        put_back(workbench, made.path, accept_older=WORDS)
        past.sequence -= 1
        for _ in range(20):  # what would be written into the reader's pages, were they the same file's
            past.delta(5)
        process.stdin.write("go\n")
        process.stdin.flush()
        assert process.stdout.readline().strip() == f"0 True {serial}"


# -- the drill -----------------------------------------------------------------------------------------------


def test_store_destroyed_restored_and_caught_up_is_as_if_nothing_had_happened(workbench: Workbench) -> None:
    port = free_port()
    config = workbench.config(listen=f'npq = ["udp://127.0.0.1:{port}"]')
    past = make_past(workbench, SEED)
    chance = random.Random(SEED)
    numbers = tuple(str(chance.choice(BLOCKS) * 1000 + chance.randrange(1000)) for _ in range(30))
    with run_daemon(config) as process, asked(port, numbers) as asker:
        log: Path = process.log  # type: ignore[attr-defined]
        done = run_cli("loader.cli", "backup", "--out", folder(workbench), "--config", config, "--json")
        made = json.loads(done.stdout)
        newer = later_deltas(past, workbench)
        never_destroyed = twin(workbench, "never")
        with never_destroyed.reader() as reader:
            expected = reader.state
        wait_until(lambda: expected.serial in asker.serials)

        (workbench.store / "data.mdb").unlink()
        assert run_cli("loader.cli", "verify", "--store", workbench.store).returncode == 1
        done = run_cli("loader.cli", "restore", made["path"], "--reason", WORDS, "--config", config)
        assert (done.returncode, done.stderr) == (0, "")
        wait_until(lambda: "store_replaced" in log.read_text())
        done = run_cli("loader.cli", "delta", *newer, "--store", workbench.store)
        assert (done.returncode, done.stderr) == (0, "")

        with workbench.reader() as reader:
            assert verify(reader).problems == []
            state = reader.state
        assert (state.digest, state.ported, state.blocks) == (expected.digest, expected.ported, expected.blocks)
        assert position(workbench) == position(never_destroyed)
        assert state.serial == expected.serial + 1  # the restore is an entry of its own
        assert dump(workbench.store)["blocks"] == dump(never_destroyed.store)["blocks"]
        assert dump(workbench.store)["details"] == dump(never_destroyed.store)["details"]
        wait_until(lambda: state.serial in asker.serials)
        assert process.poll() is None
        assert "Traceback" not in log.read_text()
    past.check()


def later_deltas(past: Past, workbench: Workbench) -> list[Path]:
    """Applied by processes, since the daemon is one."""
    made = []
    for _ in range(3):
        past.sequence += 1
        notices = [past.notice() for _ in range(20)]
        text = "".join(json.dumps(notice) + "\n" for notice in notices)
        made.append(workbench.publish(f"delta-main-{past.sequence}.ndjson", text, len(notices)))
    done = run_cli("loader.cli", "delta", *made, "--store", workbench.store)
    assert (done.returncode, done.stderr) == (0, "")
    return made


def position(workbench: Workbench) -> tuple[int, str]:
    with workbench.reader() as reader:
        at = reader.state.feeds["main"]
    return at.sequence, at.sha256


def test_daemon_answers_on_while_the_store_is_restored_again_and_again(workbench: Workbench) -> None:
    port = free_port()
    config = workbench.config(listen=f'npq = ["udp://127.0.0.1:{port}"]')
    make_past(workbench, SEED)
    made = backup(workbench, folder(workbench))
    with run_daemon(config) as process, asked(port, (str(BLOCKS[0] * 1000 + 1), "886912345678")) as asker:
        log: Path = process.log  # type: ignore[attr-defined]
        for turn in range(1, 4):
            put_back(workbench, made.path)
            wait_until(lambda turn=turn: log.read_text().count("store_replaced") == turn)  # type: ignore[misc]
        with workbench.reader() as reader:
            wait_until(lambda: reader.state.serial in asker.serials)
        assert "not_ready" not in log.read_text()


def test_daemon_keeps_the_old_store_when_the_new_one_cannot_be_opened(workbench: Workbench) -> None:
    port = free_port()
    config = workbench.config(listen=f'npq = ["udp://127.0.0.1:{port}"]')
    make_past(workbench, SEED)
    with run_daemon(config) as process, asked(port, (str(BLOCKS[0] * 1000 + 1),)):
        log: Path = process.log  # type: ignore[attr-defined]
        bad = workbench.store / "bad"
        bad.write_bytes(os.urandom(8192))
        bad.rename(workbench.store / "data.mdb")
        wait_until(lambda: "store_unavailable" in log.read_text())
        assert "store_replaced" not in log.read_text()


def test_restored_numbers_are_the_backups_not_the_stores(workbench: Workbench) -> None:
    workbench.load_tables()
    workbench.snapshot()
    made = backup(workbench, folder(workbench))
    workbench.delta({"kind": "return", "tn": "886912345678"}, sequence=2)
    put_back(workbench, made.path, accept_older=WORDS)
    with Reader(workbench.store) as reader:
        found = reader.ported(TN(886912345678))
    assert found is not None
    assert found.network_code == "1402"
