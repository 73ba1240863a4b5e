"""A file of lines that is appended to and turned over: `path`, then `path.1`, the newest of the old ones, and so on.

Two processes may write one, as they do during a hand-over: a write is whole lines at the end of the file, and whoever
turns it over holds it locked meanwhile. What a line says is the caller's.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
import time
from pathlib import Path
from typing import Final

from lookupd.limits import QUERY_LOG_TURN_SECONDS
from lookupd.units import format_size

FILE_MODE: Final = 0o640
TRIES_SECONDS: Final = 0.01


class NoSpace(OSError):
    """The file system has less room than is to be left free."""


class RotatingFile:
    """Of one thread. Opened with the first line, and again whenever another file has taken its name."""

    def __init__(self, path: Path, *, size_max: int, files: int, free_min: int) -> None:
        """size_max: bytes of one file. files: how many there are at most, the current one among them. free_min: bytes
        of the file system that are left to others."""
        self.path = path
        self.lines_total = 0
        self.bytes_total = 0
        self._size_max, self._files, self._free_min = size_max, files, free_min
        self._fd = -1
        self._torn = False

    def append(self, lines: bytes) -> None:
        """Write whole lines. lines: at most size_max bytes.

        Raises OSError when they cannot be written, of which NoSpace is one; `lines_total` says how many were.
        """
        self._check_room(len(lines))
        self.open()
        size = os.fstat(self._fd).st_size
        if size and size + len(lines) > self._size_max:
            self._turn_over()
            self.open()
        self._write(lines)

    def open(self) -> None:
        """Have the file of that name open; it is made if there is none. Raises OSError."""
        if self._fd >= 0 and not self._is_current():
            self.close()
        if self._fd < 0:
            self._fd = _open(self.path)
            size = os.fstat(self._fd).st_size
            self._torn = size > 0 and os.pread(self._fd, 1, size - 1) != b"\n"

    def close(self) -> None:
        """Until the next line."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _check_room(self, size: int) -> None:
        if not self._free_min:
            return
        room = os.statvfs(self.path.parent)
        free = room.f_bavail * room.f_frsize
        if free < self._free_min + size:
            raise NoSpace(0, f"{format_size(free)} are free, {format_size(self._free_min)} are to stay so")

    def _is_current(self) -> bool:
        ours = os.fstat(self._fd)
        try:
            theirs = os.stat(self.path, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return (ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino)

    def _write(self, lines: bytes) -> None:
        """At the end of the file. What a full disk has cut becomes a damaged line, and the next one starts anew."""
        if self._torn:
            os.write(self._fd, b"\n")
            self._torn = False
        written = 0
        try:
            while written < len(lines):
                written += os.write(self._fd, lines[written:])
        finally:
            self._torn = 0 < written < len(lines) and lines[written - 1] != 0x0A
            self.lines_total += lines.count(b"\n", 0, written)
            self.bytes_total += written

    def _turn_over(self) -> None:
        """Make room for a new file of that name. Whoever has the current one locked does it alone: until its new name
        is there, nobody can open the next one, and so nobody is at the older ones."""
        _lock(self._fd)
        if self._is_current():
            for at in [*_older(self.path)]:
                if at >= self._files - 1:
                    _rotated(self.path, at).unlink(missing_ok=True)
            for at in range(self._files - 2, 0, -1):
                with contextlib.suppress(FileNotFoundError):
                    _rotated(self.path, at).replace(_rotated(self.path, at + 1))
            if self._files > 1:
                self.path.replace(_rotated(self.path, 1))
            else:
                self.path.unlink()
        self.close()  # and so unlocked


def names(path: Path) -> list[Path]:
    """The file and those before it, the newest first. Raises OSError when the folder cannot be read."""
    return [path, *(_rotated(path, at) for at in sorted(_older(path)))]


def _rotated(path: Path, at: int) -> Path:
    return path.with_name(f"{path.name}.{at}")


def _older(path: Path) -> list[int]:
    pattern = re.compile(re.escape(path.name) + r"\.([1-9][0-9]{0,3})")
    return [int(found[1]) for name in os.listdir(path.parent) if (found := pattern.fullmatch(name))]


def _open(path: Path) -> int:
    """Raises OSError, also for what is no file: a pipe would make us wait for its reader."""
    flags = os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        fd = os.open(path, flags | os.O_CREAT | os.O_EXCL, FILE_MODE)
    except FileExistsError:
        fd = os.open(path, flags)
    else:
        os.fchmod(fd, FILE_MODE)  # whatever the umask: who belongs to the file's group may read it
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(0, "is no file")
    return fd


def _lock(fd: int) -> None:
    """Raises OSError when another process does not let go of the file: any reader of it could lock it."""
    until = time.monotonic() + QUERY_LOG_TURN_SECONDS
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                raise OSError(0, "is full, and another process keeps it locked") from None
            time.sleep(TRIES_SECONDS)
        else:
            return
