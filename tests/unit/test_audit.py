"""The audit of risk checks: its chains, what breaks them, and files of several processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path

import msgspec
import pytest

from lookupd.audit import Audit, AuditFailed, AuditRecord
from lookupd.audit_reader import Proof, prove, read
from lookupd.errors import LookupdError
from tests.conftest import run_cli
from tests.small_disk import fill, small_disk

DAY = 86_400
NOW = 1_795_312_800.0
RECORD = AuditRecord("2026-11-22T02:00:00.000Z", "bank", "acme", "192.0.2.1", "0912345678", None, 60, "why", "answered")


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


def record(purpose: str) -> AuditRecord:
    return msgspec.structs.replace(RECORD, purpose=purpose)


async def note(folder: Path, *purposes: str, clock: Clock | None = None, keep: float = 400 * DAY) -> None:
    """As one process's."""
    audit = Audit(folder, keep, clock or Clock())
    for purpose in purposes:
        await audit.note(record(purpose))
    await audit.close()


def purposes(folder: Path) -> list[str]:
    return [line.record.purpose for line in read(folder)]


def good(found: Proof) -> bool:
    return not found.broken and not found.cut_off


async def test_files_of_processes_and_days_are_one_chain(tmp_path: Path) -> None:
    clock = Clock()
    await note(tmp_path, "a", "b", clock=clock)
    clock.now += 1
    audit = Audit(tmp_path, 400 * DAY, clock)
    await audit.note(record("c"))
    clock.now += DAY
    await audit.note(record("d"))
    await audit.close()
    assert purposes(tmp_path) == ["a", "b", "c", "d"]
    files = sorted(path.name for path in tmp_path.iterdir())
    assert [line.record.after for line in read(tmp_path)] == [None, None, files[0], files[1]]
    found = prove(tmp_path)
    assert (found.files, found.records, good(found), found.newest_file) == (3, 4, True, files[2])


async def test_two_processes_at_a_time_have_files_of_their_own(tmp_path: Path) -> None:
    clock = Clock()
    old, new = Audit(tmp_path, 400 * DAY, clock), Audit(tmp_path, 400 * DAY, clock)
    await old.note(record("a"))
    clock.now += 0.001
    await new.note(record("b"))
    await old.note(record("c"))
    await new.note(record("d"))
    await old.close()
    await new.close()
    assert sorted(purposes(tmp_path)) == ["a", "b", "c", "d"]
    assert good(prove(tmp_path))


async def test_a_clock_that_was_set_back_breaks_no_chain(tmp_path: Path) -> None:
    clock = Clock()
    for purpose in "abc":
        await note(tmp_path, purpose, clock=clock)
        clock.now -= 3600
    found = prove(tmp_path)
    assert (found.records, good(found)) == (3, True)


async def test_whatever_is_changed_or_taken_out_is_found(tmp_path: Path) -> None:
    clock = Clock()
    await note(tmp_path, "a", "b", "c", clock=clock)
    clock.now += 1
    await note(tmp_path, "d", "e", clock=clock)
    first, second = sorted(tmp_path.iterdir())
    content, after = first.read_bytes(), second.read_bytes()
    lines = content.splitlines(keepends=True)
    changes = {
        "a byte": content.replace(b'"purpose":"b"', b'"purpose":"x"'),
        "a line taken out": lines[0] + lines[2],
        "the first taken out": b"".join(lines[1:]),
        "the last taken out": b"".join(lines[:2]),
        "two swapped": lines[0] + lines[2] + lines[1],
        "no record": lines[0] + b"{}\n" + lines[2],
        "one put in": lines[0] + lines[0] + b"".join(lines[1:]),
    }
    for what, changed in changes.items():
        first.write_bytes(changed)
        assert prove(tmp_path).broken, what
    first.write_bytes(content)
    assert good(prove(tmp_path))
    second.write_bytes(after.replace(b'"purpose":"e"', b'"purpose":"f"'))
    assert good(prove(tmp_path)), "the very last line is held by nothing but its hash that is kept elsewhere"
    second.write_bytes(after)
    newest = prove(tmp_path).newest
    second.write_bytes(after.replace(b'"purpose":"e"', b'"purpose":"f"'))
    assert prove(tmp_path).newest != newest


async def test_a_file_that_is_gone_is_found_but_for_the_oldest(tmp_path: Path) -> None:
    clock = Clock()
    for purpose in "abc":
        await note(tmp_path, purpose, clock=clock)
        clock.now += 1
    first, second, _ = sorted(tmp_path.iterdir())
    first.unlink()
    assert good(prove(tmp_path))  # it was old enough
    second.rename(tmp_path / "aside")
    await note(tmp_path, "d", clock=clock)
    (tmp_path / "aside").rename(first)
    assert any("is gone" in words or "names no file" in words for words in prove(tmp_path).broken)


async def test_a_line_that_a_crash_cut_off_is_told_and_what_follows_is_whole(tmp_path: Path) -> None:
    clock = Clock()
    await note(tmp_path, "a", "b", clock=clock)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes() + b'{"at":"2026')
    clock.now += 1
    await note(tmp_path, "c", clock=clock)
    found = prove(tmp_path)
    assert (found.cut_off, found.broken, found.records) == ((file.name,), (), 3)
    assert purposes(tmp_path) == ["a", "b", "c"]


async def test_old_files_are_removed_and_young_ones_stay(tmp_path: Path) -> None:
    clock = Clock()
    await note(tmp_path, "old", clock=clock)
    (file,) = tmp_path.iterdir()
    os.utime(file, (NOW - 401 * DAY, NOW - 401 * DAY))
    clock.now += 1
    await note(tmp_path, "young", clock=clock)
    assert purposes(tmp_path) == ["young"]
    assert good(prove(tmp_path))


async def test_a_full_disk_refuses_and_leaves_no_half_line(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1) as disk:
        folder = disk / "audit"
        audit = Audit(folder, 400 * DAY, Clock())
        await audit.note(record("a"))
        filler = fill(disk, 0)
        while not audit.failures:  # the file's last page has room for some
            with contextlib.suppress(AuditFailed):
                await audit.note(record("full"))
        assert audit.failures == 1
        assert good(prove(folder))
        filler.unlink()
        await audit.note(record("b"))
        await audit.close()
        assert (purposes(folder)[0], purposes(folder)[-1], good(prove(folder))) == ("a", "b", True)
        assert len(purposes(folder)) == audit.records


async def test_who_goes_away_is_audited_all_the_same(tmp_path: Path) -> None:
    audit = Audit(tmp_path, 400 * DAY, Clock())
    asking = asyncio.create_task(audit.note(record("gone")))
    await asyncio.sleep(0)
    asking.cancel()
    await audit.close()
    assert purposes(tmp_path) == ["gone"]


def test_the_command_tells_what_is_wrong(tmp_path: Path) -> None:
    asyncio.run(note(tmp_path, "a", "b"))
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes().replace(b'"purpose":"a"', b'"purpose":"x"'))
    done = run_cli("lookupd.cli", "audit", "--folder", tmp_path, "--verify")
    assert (done.returncode, "does not follow the line before" in done.stdout) == (6, True)
    file.write_bytes(b"no record\n")
    done = run_cli("lookupd.cli", "audit", "--folder", tmp_path)
    assert (done.returncode, ":1: is no record" in done.stderr) == (1, True)
    done = run_cli("lookupd.cli", "audit", "--folder", tmp_path / "missing")
    assert (done.returncode, "is no folder" in done.stderr) == (1, True)
    assert run_cli("lookupd.cli", "audit").returncode == 2
    assert run_cli("lookupd.cli", "audit", "--folder", tmp_path, "--since", "x").returncode == 2


def test_a_record_that_is_none_is_told_by_its_place(tmp_path: Path) -> None:
    (tmp_path / "audit-20260101T000000000Z-1.ndjson").write_bytes(b"\xff\xfe\n")
    with pytest.raises(LookupdError, match=r"audit-.*:1: is no record"):
        list(read(tmp_path))
    assert len(prove(tmp_path).broken) == 1
