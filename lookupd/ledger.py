"""Counts by hour and key that outlive the process: added to in memory, saved into one SQLite file, summed when read.

Several processes may save into one file: each adds its own, so what two of them counted is the sum. What the counts
are of is the caller's. The file has a rollback journal, not a write-ahead log: a reader with no right to write then
reads it, and beside it lies nothing that a person who moves it could forget.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
import sqlite3
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

from lookupd.errors import LookupdError
from lookupd.limits import LEDGER_WAIT_SECONDS, LEDGER_WAITING_MAX
from lookupd.units import format_time

HOUR_SECONDS = 3600

Key = tuple[str, ...]
"""What is counted, a text for each column of the ledger."""


class LedgerError(LookupdError):
    """The file cannot be read or written: the message names it, the reason and the way out. Nothing counted is lost."""


class LedgerMissing(LedgerError):
    """There is no file: nothing was saved yet, or it is looked for at the wrong place."""


class LedgerDamaged(LedgerError):
    """The file is no ledger of this kind, or its bytes are not those that were written."""


class Ledger:
    """For one writer in this process. Calls to `save` and `prune` may be made in another thread than `add`."""

    def __init__(self, file: Path, columns: tuple[str, ...]) -> None:
        """columns: names of the key's parts, fixed for the file's life. The file is made when something is saved."""
        self.file = file
        self.columns = columns
        self._waiting: Counter[tuple[int, Key]] = Counter()
        self._saving: Counter[tuple[int, Key]] = Counter()
        self._counting = threading.Lock()
        self._writing = threading.Lock()
        # A commit may fail after it was done: who saves again then asks the file whether it has this one.
        self._writer = secrets.token_hex(8)
        self._number = 0
        self._file_id = 0

    @property
    def unsaved(self) -> int:
        """The sum of what is only in memory."""
        return sum(self.waiting().values())

    def waiting(self) -> Counter[tuple[int, Key]]:
        """What is only in memory, by hour and key."""
        with self._counting:
            return self._waiting + self._saving

    def add(self, hour: int, key: Key, count: int) -> bool:
        """hour: Unix seconds // 3600. count: 1 and more. Returns False if there is no room for one more hour and key
        in memory, after long trouble with the file: then nothing is added."""
        with self._counting:
            if (hour, key) not in self._waiting and len(self._waiting) >= LEDGER_WAITING_MAX:
                return False
            self._waiting[hour, key] += count
        return True

    def save(self) -> bool:
        """All of it, or what could be: the rest with the next call. Returns whether the file was begun by it.

        Raises LedgerError.
        """
        began = False
        with self._writing:
            for _ in range(2):  # what an error left undecided, then what was added since
                if self._take():
                    began |= self._write()
        return began

    def prune(self, first_hour: int, hours_max: int | None = None) -> None:
        """Forget what was counted before. hours_max: no more than so many, from the oldest on. Raises LedgerError."""
        with self._writing, self._change() as connection:
            (oldest,) = connection.execute("SELECT min(hour) FROM counts").fetchone()
            if hours_max is not None and oldest is not None:
                first_hour = min(first_hour, oldest + hours_max)
            for table in ("counts", "saves"):
                connection.execute(f"DELETE FROM {table} WHERE hour < ?", (first_hour,))

    def set_aside(self, now: int) -> Path | None:
        """Keep the damaged file under another name; the next save begins a new one. Returns that name, or None if
        another process has done so already. Raises LedgerError."""
        aside = self.file.with_name(f"{self.file.name}{ASIDE}{(format_time(now) or '').translate(_PLAIN)}")
        with self._writing, _told(self.file), _locked(self.file.parent):
            if not self.file.exists() or self.file.stat().st_ino != self._file_id:
                return None
            journal = _journal_of(self.file)
            if journal.exists():  # first: it must not be taken for that of the new file
                journal.rename(_journal_of(aside))
            self.file.rename(aside)
        return aside

    def _take(self) -> bool:
        """Whether there is something to save, which stays the same until it is saved."""
        with self._counting:
            if not self._saving:
                self._saving, self._waiting = self._waiting, Counter()
                self._number += 1
            return bool(self._saving)

    def _write(self) -> bool:
        with self._change() as connection:
            (began,) = connection.execute("SELECT NOT EXISTS (SELECT 1 FROM saves)").fetchone()
            saved = connection.execute(
                "SELECT 1 FROM saves WHERE writer = ? AND number = ?", (self._writer, self._number)
            ).fetchone()
            if not saved:
                connection.executemany(self._upsert(), [(hour, *key, n) for (hour, key), n in self._saving.items()])
                newest = max(hour for hour, _ in self._saving)
                connection.execute(
                    "INSERT INTO saves VALUES (?, ?, ?) ON CONFLICT DO UPDATE "
                    "SET number = excluded.number, hour = excluded.hour",
                    (self._writer, self._number, newest),
                )
        with self._counting:
            self._saving = Counter()
        return bool(began)

    @contextlib.contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        """One transaction: all of it, or none."""
        with _told(self.file):
            self.file.parent.mkdir(mode=0o750, exist_ok=True)
            with contextlib.suppress(FileExistsError):  # SQLite would let everybody read it
                os.close(os.open(self.file, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o640))
            with closing(sqlite3.connect(self.file, timeout=LEDGER_WAIT_SECONDS, isolation_level=None)) as connection:
                self._file_id = self.file.stat().st_ino
                connection.execute("PRAGMA synchronous = EXTRA")
                with connection:
                    connection.execute("BEGIN IMMEDIATE")
                    self._make_tables(connection)
                    yield connection

    def _make_tables(self, connection: sqlite3.Connection) -> None:
        """Raises LedgerDamaged if they are there and others."""
        names = ", ".join(f"{name} TEXT NOT NULL" for name in self.columns)
        connection.execute(
            f"CREATE TABLE IF NOT EXISTS counts (hour INTEGER NOT NULL, {names}, count INTEGER NOT NULL, "
            f"PRIMARY KEY (hour, {', '.join(self.columns)})) WITHOUT ROWID"
        )
        connection.execute(
            "CREATE TABLE IF NOT EXISTS saves (writer TEXT NOT NULL PRIMARY KEY, number INTEGER NOT NULL, "
            "hour INTEGER NOT NULL) WITHOUT ROWID"
        )
        found = [name for _, name, *_ in connection.execute("PRAGMA table_info(counts)")]
        if found != ["hour", *self.columns, "count"]:
            raise LedgerDamaged(f"{self.file}: has the columns {', '.join(found)}: it is a ledger of something else")

    def _upsert(self) -> str:
        places = ", ".join("?" * (len(self.columns) + 2))
        return f"INSERT INTO counts VALUES ({places}) ON CONFLICT DO UPDATE SET count = count + excluded.count"


ASIDE = ".damaged-"
"""Between a ledger's name and the time at which it was put aside."""

_PLAIN = str.maketrans("", "", "-:")


def read(file: Path, first_hour: int, end_hour: int) -> Iterator[tuple[int, Key, int]]:
    """Hour, key and count from the first hour to the one before the end. Changes nothing. Raises LedgerError."""
    found = _ask(file, "SELECT * FROM counts WHERE hour >= ? AND hour < ?", (first_hour, end_hour))
    for hour, *key, count in found:
        yield hour, tuple(key), count


def hours(file: Path) -> tuple[int, int] | None:
    """The first and the last hour that something was counted in, None if nothing was. Raises LedgerError."""
    ((first, last),) = _ask(file, "SELECT min(hour), max(hour) FROM counts", ())
    return None if first is None else (first, last)


def put_aside(file: Path) -> list[Path]:
    """Damaged files that this ledger had before."""
    try:
        found = sorted(file.parent.glob(f"{file.name}{ASIDE}*"))
    except OSError:
        return []
    return [path for path in found if not path.name.endswith("-journal")]


def _ask(file: Path, question: str, arguments: tuple[int, ...]) -> list[tuple[Any, ...]]:
    """All rows at once: while they are read, nobody can save."""
    with _told(file, "whoever reads must be its owner or of its group, or root"):
        if not file.exists() or not file.stat().st_size:  # empty: the first saving has just begun
            raise LedgerMissing(f"{file}: not there, or empty: nothing was saved yet, or it lies elsewhere")
        try:
            return _fetch(file, question, arguments)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_READONLY_ROLLBACK:
                raise
        # Its writer was killed while it saved, and whoever writes next undoes that; we may not, so in a copy.
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder, file.name)
            shutil.copyfile(_journal_of(file), _journal_of(copy))
            shutil.copyfile(file, copy)
            return _fetch(copy, question, arguments, "rw")


def _fetch(file: Path, question: str, arguments: tuple[int, ...], mode: str = "ro") -> list[tuple[Any, ...]]:
    address = f"file:{quote(str(file))}?mode={mode}"
    with closing(sqlite3.connect(address, uri=True, timeout=LEDGER_WAIT_SECONDS)) as connection:
        return connection.execute(question, arguments).fetchall()


def _journal_of(file: Path) -> Path:
    return file.with_name(file.name + "-journal")


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Two processes do not put a file aside at the same time."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _told(file: Path, way_in: str = "its folder must be writable for whoever saves") -> Iterator[None]:
    """Whatever goes wrong as a LedgerError. way_in: what lets one do this."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        if code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
            raise LedgerDamaged(f"{file}: {error}: it is put aside when something is saved") from None
        way_out = way_in if code in _SHUT else _WAYS_OUT.get(code, "is it a ledger?")
        raise LedgerError(f"{file}: {error}: {way_out}") from None
    except OSError as error:
        way_out = "make room" if error.errno in {errno.ENOSPC, errno.EDQUOT} else way_in
        raise LedgerError(f"{file}: {error.strerror}: {way_out}") from None


_SHUT = {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM}
_WAYS_OUT = {
    sqlite3.SQLITE_FULL: "make room",
    sqlite3.SQLITE_BUSY: "another process holds it: `fuser -v` names it",
    sqlite3.SQLITE_IOERR: "look at the disk, and at the kernel's log",
}
