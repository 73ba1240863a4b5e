"""Reads the query log: all of its files in order, and on, over turns, as it grows. Damaged lines are counted.

What is asked for is `Wanted`; how records are shown is `commands.log`.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import msgspec

from lookupd.errors import LookupdError
from lookupd.limits import QUERY_LOG_LINE_BYTES_MAX
from lookupd.query_record import Record
from lookupd.rotation import names

MASKED = "****"
"""What stands for the last four digits of a number; see `numbering.mask_tn`."""


class Wanted(msgspec.Struct, frozen=True):
    """Which records; None = all. number: `+` and digits. since, until: RFC 3339 in UTC, as records have it."""

    number: str | None = None
    client: str | None = None
    dialect: str | None = None
    outcome: str | None = None
    since: str | None = None
    until: str | None = None

    def holds(self, record: Record) -> bool:
        """Whether it is wanted."""
        return (
            (self.client is None or record.client == self.client)
            and (self.dialect is None or record.dialect == self.dialect)
            and (self.outcome is None or record.outcome == self.outcome)
            and (self.since is None or record.time >= self.since)
            and (self.until is None or record.time < self.until)
            and (self.number is None or self._is_number(record.number))
        )

    def _is_number(self, number: str | None) -> bool:
        assert self.number is not None
        if number is None or len(number) != len(self.number):
            return False
        if is_masked(number):
            return number[: -len(MASKED)] == self.number[: -len(MASKED)]
        return number == self.number


def is_masked(number: str | None) -> bool:
    """Whether only its first digits are known."""
    return number is not None and number.endswith(MASKED)


class LogReader:
    """The files as they are when it is made, and whatever follows them. Its files are closed with it.

    A line without an end is waited for, as long as its file is the current one.
    """

    def __init__(self, path: Path) -> None:
        """Raises LookupdError when there is nothing that can be read."""
        self.damaged = 0
        self.is_broken = False
        """Whether files were gone before they were read."""
        self._path = path
        self._left = False
        self._begun = b""
        self._too_long = False
        try:
            self._files = _open_all(path)
        except OSError as error:
            raise LookupdError(f"{path}: {error.strerror}: may we read it?") from None
        if not self._files:
            raise LookupdError(f"{path}: there is no such log: nothing was asked yet, or [query_log] path is another")

    def read(self) -> Iterator[Record]:
        """What has come since the last time."""
        while self._files:
            yield from self._read_file(self._files[0])
            if len(self._files) == 1 and not self._look_further():
                return
            self._end_file()

    def _look_further(self) -> bool:
        """Whether the file is done with: another one has had its name for a whole look, so that who still had it open
        has gone on, too."""
        turned = not _is_at(self._files[0], self._path)
        if turned and self._left:
            self._left = False
            self._files += self._newer()
            return len(self._files) > 1
        self._left = turned
        return False

    def _newer(self) -> list[BinaryIO]:
        """The files after the current one, the oldest first."""
        with contextlib.suppress(OSError):
            found = _open_all(self._path)
            places = [_place(file) for file in found]
            ours = _place(self._files[0])
            if ours not in places:
                self.is_broken = True
                return found
            at = places.index(ours)
            for file in found[: at + 1]:
                file.close()
            return found[at + 1 :]
        return []

    def _end_file(self) -> None:
        self._files.pop(0).close()
        self._too_long = False
        if self._begun:
            self.damaged += 1
            self._begun = b""

    def _read_file(self, file: BinaryIO) -> Iterator[Record]:
        if os.fstat(file.fileno()).st_size < file.tell():  # somebody has cut it short
            file.seek(0)
            self._begun = b""
        while line := file.readline(QUERY_LOG_LINE_BYTES_MAX):
            line = self._begun + line
            self._begun = b""
            ends = line.endswith(b"\n")
            if self._too_long:
                self._too_long = not ends
            elif len(line) >= QUERY_LOG_LINE_BYTES_MAX:
                self.damaged += 1
                self._too_long = not ends
            elif not ends:
                self._begun = line  # at the end of the file as it is
            elif line.strip() and (record := self._decode(line)) is not None:
                yield record

    def _decode(self, line: bytes) -> Record | None:
        try:
            return msgspec.json.decode(line, type=Record)
        except (msgspec.DecodeError, UnicodeDecodeError):
            self.damaged += 1
            return None

    def close(self) -> None:
        """Read no more."""
        for file in self._files:
            file.close()
        self._files = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _place(file: BinaryIO) -> tuple[int, int]:
    found = os.fstat(file.fileno())
    return found.st_dev, found.st_ino


def _is_at(file: BinaryIO, path: Path) -> bool:
    try:
        found = os.stat(path)
    except OSError:
        return True  # nothing follows yet
    return _place(file) == (found.st_dev, found.st_ino)


def _open_all(path: Path) -> list[BinaryIO]:
    """The oldest first. Opened from the newest on: of what is turned over meanwhile, nothing is missed."""
    opened: dict[tuple[int, int], BinaryIO] = {}
    for name in names(path):
        try:
            file = open(os.open(name, os.O_RDONLY | os.O_NONBLOCK), "rb")  # noqa: SIM115 - closed by the reader
        except FileNotFoundError:
            continue
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode) or _place(file) in opened:
            file.close()
        else:
            opened[_place(file)] = file
    return list(reversed(opened.values()))
