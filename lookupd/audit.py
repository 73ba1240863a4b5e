"""The audit of risk checks: who asked about which number, and why, on the disk before the answer is given.

Each process writes files of its own, `audit-TIME-PID.ndjson`, a new one each day: two that overlap in a hand-over never
write into one. Each line has the hash of the line before, and the first the name and the last hash of the file before,
so that a line that was changed or taken out is found. Reading them is `audit_reader`'s; docs/risk.md has the format.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from lookupd.errors import LookupdError
from lookupd.limits import AUDIT_WAITING_MAX
from lookupd.observe.log import log
from lookupd.units import format_millis

PATTERN = "audit-*.ndjson"
FIRST = ""
"""`previous` of the very first line of all."""

AuditOutcome = Literal["answered", "before_history", "unavailable"]


class AuditRecord(msgspec.Struct, frozen=True):
    """One question. number: whole, as it was asked. as_of: null = as of now. previous: the hash of the line before in
    this file; of a first line the hash of the last line of the file named by `after`, if there is one."""

    at: str
    client: str
    account: str
    source: str
    number: str
    as_of: str | None
    window_seconds: int
    purpose: str
    outcome: AuditOutcome
    after: str | None = None
    previous: str = FIRST


class AuditFailed(LookupdError):
    """The record is not on the disk: nothing may be answered."""


class _Waiting(NamedTuple):
    record: AuditRecord
    done: asyncio.Future[None]


def line_hash(line: bytes) -> str:
    """Of a line without its end: BLAKE2b, 16 bytes, hex."""
    return hashlib.blake2b(line, digest_size=16).hexdigest()


class Audit:
    """Of one daemon. Questions that come together share one wait for the disk."""

    def __init__(self, folder: Path, keep_seconds: float, clock: Callable[[], float] = time.time) -> None:
        """keep_seconds: files whose last line is older are removed."""
        self._folder = folder
        self._keep_seconds = keep_seconds
        self._clock = clock
        self._waiting: list[_Waiting] = []
        self._writer: asyncio.Task[None] | None = None
        self._file: _File | None = None
        self._is_failing = False
        self.records = self.failures = 0

    async def note(self, record: AuditRecord) -> None:
        """Returns when it is on the disk. Raises AuditFailed."""
        if len(self._waiting) >= AUDIT_WAITING_MAX:
            self.failures += 1
            raise AuditFailed("too many questions wait for the audit: ask again")
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(record, done))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write())
        await asyncio.shield(done)  # who asked may go: the record is written nevertheless

    async def close(self) -> None:
        """Write what waits."""
        if self._writer is not None:
            await asyncio.gather(self._writer, return_exceptions=True)
        if self._file is not None:
            self._file.close()
            self._file = None

    async def _write(self) -> None:
        while self._waiting:
            waiting, self._waiting = self._waiting, []
            try:
                await asyncio.to_thread(self._put, [each.record for each in waiting])
            except OSError as error:
                self._fail(waiting, error)
                continue
            self.records += len(waiting)
            if self._is_failing:
                self._is_failing = False
                log("audit_resumed", path=self._folder)
            for each in waiting:
                if not each.done.done():
                    each.done.set_result(None)

    def _fail(self, waiting: list[_Waiting], error: OSError) -> None:
        self.failures += len(waiting)
        reason = error.strerror or str(error)
        if not self._is_failing:
            self._is_failing = True
            log("audit_failing", path=self._folder, reason=reason)
        for each in waiting:
            if not each.done.done():
                each.done.set_exception(AuditFailed(f"audit.path: {reason}: no risk check is answered"))

    # -- in a thread -------------------------------------------------------------------------------------

    def _put(self, records: list[AuditRecord]) -> None:
        """All of them or, after an error, none that anybody will be answered for. Raises OSError."""
        now = self._clock()
        day = str(format_millis(int(now * 1000)))[:10]
        if self._file is None or self._file.day != day:
            if self._file is not None:
                self._file.close()
                self._file = None
            remove_old(self._folder, now - self._keep_seconds)
            self._file = _File(self._folder, now)
        try:
            self._file.append(records)
        except _Spoilt as error:
            self._file.close()
            self._file = None
            raise error.cause from None


class _Spoilt(Exception):
    """A file has a part of what was to be written, and nothing may follow it."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(cause)
        self.cause = cause


class _File:
    """One that is being written."""

    def __init__(self, folder: Path, now: float) -> None:
        """Raises OSError."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        at = str(format_millis(int(now * 1000)))
        self.day = at[:10]
        self._after, self._previous = _newest(folder)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        stamp = at.replace("-", "").replace(":", "").replace(".", "")
        self._path = folder / f"audit-{stamp}-{os.getpid()}.ndjson"
        self._file = os.open(self._path, flags, 0o600)
        self._size = 0
        try:
            _sync_folder(folder)
        except OSError:
            self.close()
            raise

    def append(self, records: list[AuditRecord]) -> None:
        """On the disk when this returns. Raises OSError with the file as it was before, or _Spoilt."""
        after, previous, lines = self._after, self._previous, []
        for record in records:
            line = msgspec.json.encode(msgspec.structs.replace(record, after=after, previous=previous))
            lines.append(line + b"\n")
            after, previous = None, line_hash(line)
        try:
            rest = memoryview(b"".join(lines))
            while rest:
                rest = rest[os.write(self._file, rest) :]
            os.fsync(self._file)
        except OSError as error:
            try:
                os.ftruncate(self._file, self._size)
            except OSError:
                raise _Spoilt(error) from None
            raise
        self._size += sum(map(len, lines))
        self._after, self._previous = after, previous

    def close(self) -> None:
        """One that nothing came into is removed."""
        os.close(self._file)
        if not self._size:
            self._path.unlink(missing_ok=True)


def _newest(folder: Path) -> tuple[str | None, str]:
    """Name and last hash of the newest file that has a whole line; None if there is none."""
    for path in sorted(folder.glob(PATTERN), reverse=True):
        whole = path.read_bytes().rpartition(b"\n")[0]
        if whole:
            return path.name, line_hash(whole.rpartition(b"\n")[2])
    return None, FIRST


def remove_old(folder: Path, before: float) -> None:
    """Files that nothing was written to since. What cannot be removed stays."""
    for path in folder.glob(PATTERN):
        try:
            if path.stat().st_mtime < before:
                path.unlink()
        except OSError:
            continue


def _sync_folder(folder: Path) -> None:
    """So that the file's name is on the disk too."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
