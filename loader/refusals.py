"""What was refused of a feed's files, and when: kept as long as the history, for the regulator's failure rate.

An acknowledgement is the last word on a file and is written over when the sender mends it; here every refusal stays, a
line each, in files by month. Which files are refused is `feed_sync`'s business.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from lookupd.errors import Rejected
from lookupd.model import UnixMillis, UnixSeconds
from lookupd.units import format_millis, parse_millis

FOLDER = "refusals"
"""In the spool of a feed."""


class Refusal(msgspec.Struct, frozen=True):
    """A file that was refused. rejected: its lines and why, the first `Rejected.TOLD_MAX`; line 0 = the file as a
    whole."""

    at: str
    feed: str
    type: str
    sequence: int
    file: str
    rejected: tuple[tuple[int, str], ...]

    @property
    def lines(self) -> int:
        """Notices that were refused by themselves; those beside them in the file only wait."""
        return sum(line > 0 for line, _ in self.rejected) if self.type == "delta" else 0


LINES_TOLD_MAX = Rejected.TOLD_MAX


class Damaged(msgspec.Struct, frozen=True):
    """A line that is no refusal, such as one that a crash cut off."""

    file: Path
    line: int


def append(spool: Path, refusal: Refusal) -> None:
    """On disk when this returns. Raises OSError."""
    folder = spool / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    file = os.open(folder / f"{refusal.at[:7]}.ndjson", flags, 0o640)
    try:
        size = os.fstat(file).st_size
        torn = size > 0 and os.pread(file, 1, size - 1) != b"\n"  # a crash cut the line before: ours stands by itself
        line = b"\n" * torn + msgspec.json.encode(refusal) + b"\n"
        if os.write(file, line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(file)
    finally:
        os.close(file)


def read(spool: Path, first: UnixSeconds, end: UnixSeconds) -> Iterator[Refusal | Damaged]:
    """Those from `first` until before `end`, by time of file. Raises OSError."""
    folder = spool / FOLDER
    if not folder.is_dir():
        return
    for path in sorted(folder.glob("*.ndjson")):
        if not str(format_millis(first * 1000))[:7] <= path.stem <= str(format_millis(end * 1000))[:7]:
            continue
        for number, line in enumerate(path.read_bytes().splitlines(), 1):
            refusal, at = _decode(line)
            if refusal is None:
                yield Damaged(path, number)
            elif first * 1000 <= at < end * 1000:
                yield refusal


def _decode(line: bytes) -> tuple[Refusal | None, UnixMillis]:
    try:
        refusal = msgspec.json.decode(line, type=Refusal)
        return refusal, parse_millis(refusal.at)
    except (ValueError, UnicodeDecodeError):  # msgspec's errors are ValueErrors
        return None, UnixMillis(0)
