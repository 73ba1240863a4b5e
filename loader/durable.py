"""Files on their way into the spool: they appear whole and on disk, or not at all.

Knows no source and no network. Every call here blocks on the disk and belongs into a thread. What the disk
refuses becomes a SourceError that begins with `spool:`, so that nobody looks for the fault at the sender.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec

from lookupd.errors import SourceError

FILE_BYTES_MAX = 64 << 30
"""A snapshot of a billion numbers is under 64 GiB: a longer body is an endless one."""

CHUNK_BYTES = 1 << 20
"""Read and written at a time: a hundred system calls for 100 MB, and one step of a time limit on slow lines."""

CHECKPOINT_BYTES = 256 << 20
"""Synced and noted on the way, so that a transfer killed or cut by a power failure repeats no more than that."""

MARK_BYTES_MAX = 16_384
"""A mark holds a version (an ETag is under 1 kB) and a length."""

_FULL = {errno.ENOSPC, errno.EDQUOT}
_FOLDERS_ARE_NOT_SYNCED = {errno.EINVAL, errno.ENOTSUP}


class _Mark(msgspec.Struct, frozen=True):
    """FILE.part.of: of which version of the file FILE.part is the beginning, and how much of it is on disk."""

    version: str
    length: int


class Part:
    """FILE.part, growing beside `to` until it is the whole file.

    version: what the source says it is the beginning of; empty when nothing can be continued. length: of what
    is there. Made by whoever fetches, who calls `begin`, `write` and `finish`, and `close` in any case: what
    is not finished stays for the next try if it has a version, and is removed otherwise. Calls may come from
    different threads, even after `close`: a cancelled fetch cannot take back a write that has begun.
    """

    def __init__(self, to: Path) -> None:
        """Take up what an earlier try left. Raises SourceError."""
        self.version = ""
        self.length = 0
        self._to = to
        self._part = to.with_name(to.name + ".part")
        self._mark = to.with_name(to.name + ".part.of")
        self._synced = 0
        self._disk_full = False
        self._lock = threading.Lock()
        with self._spool_errors():
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._file = io.FileIO(os.open(self._part, flags, 0o640), "r+")
            try:
                self._take_up()
            except OSError:
                self._file.close()
                raise

    def begin(self, version: str, size: int | None = None) -> None:
        """Go on if the part is of this version, else start anew. size: of the whole file, if it is known.

        Raises SourceError when the file is longer than we take, or than the disk has room for: a disk that we
        filled would stop the store too.
        """
        with self._lock, self._spool_errors():
            if not version or version != self.version or (size is not None and self.length > size):
                self._empty()
                self.version = version
            if size is not None:
                self._check_length(size)
                disk = os.statvfs(self._part.parent)
                if size - self.length > disk.f_bavail * disk.f_frsize:
                    self._disk_full = True
                    raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {self._to.name} has {size} bytes")

    def write(self, data: bytes) -> None:
        """Add to the end. Raises SourceError."""
        with self._lock, self._spool_errors():
            self._check_length(self.length + len(data))
            rest = memoryview(data)
            while rest:
                rest = rest[self._file.write(rest) :]
            self.length += len(data)
            if self.version and self.length - self._synced >= CHECKPOINT_BYTES:
                self._checkpoint()

    def finish(self) -> None:
        """Sync, and let `to` appear. The caller knows that it is whole. Raises SourceError."""
        with self._lock, self._spool_errors():
            os.fsync(self._file.fileno())
            self._file.close()
            self._part.rename(self._to)
            self._mark.unlink(missing_ok=True)
            sync_folder(self._to.parent)

    def close(self) -> None:
        """Keep what can be continued, remove what cannot. Harmless after `finish`."""
        with self._lock:
            if self._file.closed:
                return
            # A part is only time saved: if it cannot be kept, the next try starts anew.
            with self._file, contextlib.suppress(OSError):
                if self.version and self.length and not self._disk_full:
                    self._checkpoint()
                else:
                    self._mark.unlink(missing_ok=True)
                    self._part.unlink(missing_ok=True)

    def _take_up(self) -> None:
        mark = self._read_mark()
        if mark is not None and 0 < mark.length <= os.fstat(self._file.fileno()).st_size:
            self._file.truncate(mark.length)  # what came after was perhaps never synced
            self._file.seek(mark.length)
            self.version, self.length, self._synced = mark.version, mark.length, mark.length
        else:
            self._empty()

    def _read_mark(self) -> _Mark | None:
        try:
            with self._mark.open("rb") as file:
                return msgspec.json.decode(file.read(MARK_BYTES_MAX), type=_Mark)
        except (FileNotFoundError, msgspec.MsgspecError, UnicodeDecodeError):
            return None

    def _empty(self) -> None:
        """The mark goes first, for good: it must not speak for other bytes after a power failure."""
        if self._mark.exists():
            self._mark.unlink()
            sync_folder(self._mark.parent)
        self._file.seek(0)
        self._file.truncate()
        self.version, self.length, self._synced = "", 0, 0

    def _checkpoint(self) -> None:
        """The mark is not synced: an older one of this part is true as well, a torn one is no JSON."""
        os.fsync(self._file.fileno())
        self._mark.write_bytes(msgspec.json.encode(_Mark(self.version, self.length)))
        self._synced = self.length

    def _check_length(self, length: int) -> None:
        if length > FILE_BYTES_MAX:
            self.version = ""
            raise SourceError(
                f"{self._to.name}: longer than {FILE_BYTES_MAX} bytes, which is no feed file: ask its sender"
            )

    @contextlib.contextmanager
    def _spool_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            full = error.errno in _FULL
            self._disk_full |= full
            way_out = "free space on it" if full else "see that the disk is sound and the loader may write there"
            raise SourceError(
                f"spool: {self._to.parent}: {error.strerror}: {way_out}; {self._to.name} is then fetched again"
            ) from None


def write_whole(path: Path, content: bytes) -> None:
    """Write beside it, sync, rename: `path` has the old content or the new. Raises OSError, leaving no rest."""
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.rename(path)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in it last. Raises OSError, but not where folders cannot be synced (some network shares)."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _FOLDERS_ARE_NOT_SYNCED:
            raise
    finally:
        os.close(descriptor)
