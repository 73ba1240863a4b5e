"""Counts by hour and key that outlive the process: added to in memory, saved into one SQLite file, summed when read.

Several processes may save into one file: each adds its own, so what two of them counted is the sum. What the counts
are of is the caller's.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from lookupd.errors import LookupdError
from lookupd.limits import LEDGER_WAIT_SECONDS

HOUR_SECONDS = 3600

Key = tuple[str, ...]
"""What is counted, a text for each column of the ledger."""


class LedgerError(LookupdError):
    """The file cannot be read or written: the message names it, the reason and the way out. Nothing counted is lost."""


class Ledger:
    """For one writer in this process. Calls to `save` may be made in another thread than `add`, one at a time."""

    def __init__(self, file: Path, columns: tuple[str, ...]) -> None:
        """columns: names of the key's parts, fixed for the file's life. The file is made when something is saved."""
        self.file = file
        self.columns = columns
        self._waiting: Counter[tuple[int, Key]] = Counter()
        self._saving: Counter[tuple[int, Key]] = Counter()

    @property
    def unsaved(self) -> int:
        """The sum of what is only in memory."""
        return self._waiting.total() + self._saving.total()

    def add(self, hour: int, key: Key, count: int) -> None:
        """hour: Unix seconds // 3600. count: 1 and more."""
        self._waiting[hour, key] += count

    def save(self) -> None:
        """All of it, or none. Raises LedgerError; then it is saved with what comes next."""
        waiting, self._waiting = self._waiting, Counter()
        self._saving.update(waiting)
        if not self._saving:
            return
        try:
            with closing(self._open()) as connection, connection:
                connection.execute("BEGIN IMMEDIATE")
                connection.executemany(self._upsert(), [(hour, *key, n) for (hour, key), n in self._saving.items()])
        except (sqlite3.Error, OSError) as error:
            raise LedgerError(f"{self.file}: {error}") from None
        self._saving = Counter()

    def prune(self, first_hour: int) -> None:
        """Forget what was counted before. Raises LedgerError."""
        try:
            with closing(self._open()) as connection, connection:
                connection.execute("DELETE FROM counts WHERE hour < ?", (first_hour,))
        except (sqlite3.Error, OSError) as error:
            raise LedgerError(f"{self.file}: {error}") from None

    def _open(self) -> sqlite3.Connection:
        self.file.parent.mkdir(mode=0o750, exist_ok=True)
        connection = sqlite3.connect(self.file, timeout=LEDGER_WAIT_SECONDS, isolation_level=None)
        names = ", ".join(f"{name} TEXT NOT NULL" for name in self.columns)
        connection.execute(
            f"CREATE TABLE IF NOT EXISTS counts (hour INTEGER NOT NULL, {names}, count INTEGER NOT NULL, "
            f"PRIMARY KEY (hour, {', '.join(self.columns)})) WITHOUT ROWID"
        )
        return connection

    def _upsert(self) -> str:
        places = ", ".join("?" * (len(self.columns) + 2))
        return f"INSERT INTO counts VALUES ({places}) ON CONFLICT DO UPDATE SET count = count + excluded.count"


def read(file: Path, first_hour: int, end_hour: int) -> Iterator[tuple[int, Key, int]]:
    """Hour, key and count from the first hour to the one before the end. Changes nothing. Raises LedgerError."""
    try:
        with closing(sqlite3.connect(f"file:{quote(str(file))}?mode=ro", uri=True)) as connection:
            found = connection.execute("SELECT * FROM counts WHERE hour >= ? AND hour < ?", (first_hour, end_hour))
            for hour, *key, count in found:
                yield hour, tuple(key), count
    except sqlite3.Error as error:
        raise LedgerError(f"{file}: {error}") from None
