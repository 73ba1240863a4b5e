"""The query log's writer: a thread that takes what the tap has noted and appends it to a file that is turned over.

It never stands in an answer's way: what cannot be written is lost, counted, and told once. What a record has is
`query_record`; how it is read is `query_log_reader`.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from lookupd.access import Access
from lookupd.limits import (
    QUERY_LOG_DRAIN_SECONDS,
    QUERY_LOG_PIECE_BYTES,
    QUERY_LOG_STOP_SECONDS,
)
from lookupd.observe.log import log
from lookupd.rotation import NoSpace, RotatingFile
from lookupd.settings import QueryLogSettings
from lookupd.tap import Tap

LOSSES = ("queue", "disk", "space")
"""Why a record was lost; the closed set of a metric's label. queue: the writer did not keep up. disk: the file could
not be written. space: query_log.free_min."""


class Switch(NamedTuple):
    """Other settings, and the lines that were noted before them."""

    lines: bytes
    records: int
    settings: QueryLogSettings


class QueryLog(Collector):
    """From `use` with a path until `close`. Its thread is the only one that drains the tap."""

    def __init__(self, tap: Tap) -> None:
        self._tap = tap
        self._settings = QueryLogSettings()
        self._switching = threading.Lock()
        self._switches: list[Switch] = []
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._file: RotatingFile | None = None
        self._records = self._bytes = 0
        self._lost = dict.fromkeys(LOSSES, 0)
        self._lost_here = 0
        self._trouble: str | None = None

    # -- of the event loop's thread ----------------------------------------------------------------------

    def use_clients(self, access: Access, settings: QueryLogSettings) -> None:
        """Another clients list, before it is in force."""
        self._tap.use_clients(access, settings.clients)

    def use(self, settings: QueryLogSettings) -> None:
        """Write by these from now on. Waits for no disk."""
        with self._switching:
            self._switches.append(Switch(*self._tap.drain(), settings))
            self._tap.use(settings)
        if settings.path and self._thread is None:
            self._thread = threading.Thread(target=self._run, name="query-log", daemon=True)
            self._thread.start()

    async def close(self) -> None:
        """Write what was noted so far, then end; nobody asks any more. A disk that hangs is not waited for."""
        self._stopping.set()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, QUERY_LOG_STOP_SECONDS)

    def describe(self) -> Iterable[Metric]:
        """Nothing: so that registering collects nothing."""
        return []

    def collect(self) -> Iterator[Metric]:
        """One scrape."""
        yield CounterMetricFamily("lookupd_query_log_records", "Records written to the query log.", self._records)
        yield CounterMetricFamily("lookupd_query_log_bytes", "Bytes written to the query log.", self._bytes)
        dropped = CounterMetricFamily(
            "lookupd_query_log_dropped", "Records of the query log that were lost.", labels=["reason"]
        )
        for reason, count in (self._lost | {"queue": self._tap.lost()}).items():
            dropped.add_metric([reason], count)
        yield dropped

    # -- of its own --------------------------------------------------------------------------------------

    def _run(self) -> None:
        stopping = False
        while not stopping:
            stopping = self._stopping.wait(QUERY_LOG_DRAIN_SECONDS)
            with self._switching:
                switches, self._switches = self._switches, []
                lines, count = self._tap.drain()
            for before, records, settings in switches:
                self._write(before, records)
                if settings != self._settings:
                    self._settings = settings
                    self._turn_to(settings)
            self._write(lines, count)
        self._let_go()

    def _turn_to(self, settings: QueryLogSettings) -> None:
        self._let_go()
        if not settings.path:
            return
        self._file = RotatingFile(
            Path(settings.path), size_max=settings.file_size, files=settings.files, free_min=settings.free_min
        )
        try:
            self._file.open()  # so that a path that cannot be written is told before the first query
        except OSError as error:
            self._lose(self._file, error, 0)

    def _let_go(self) -> None:
        file, self._file = self._file, None
        self._trouble, self._lost_here = None, 0
        if file is not None:
            file.close()

    def _write(self, lines: bytes, count: int) -> None:
        file = self._file
        if file is None or not count:
            return
        before, bytes_before = file.lines_total, file.bytes_total
        try:
            for piece in _pieces(lines, min(QUERY_LOG_PIECE_BYTES, self._settings.file_size)):
                file.append(piece)
        except OSError as error:
            self._lose(file, error, count - (file.lines_total - before))
        else:
            if self._trouble is not None:
                log("query_log_resumed", path=file.path, lost=self._lost_here)
                self._trouble, self._lost_here = None, 0
        self._records += file.lines_total - before
        self._bytes += file.bytes_total - bytes_before

    def _lose(self, file: RotatingFile, error: OSError, count: int) -> None:
        """Count them, and tell a trouble once, until it is over or another one. The next records are tried again."""
        reason = "space" if isinstance(error, NoSpace) else "disk"
        self._lost[reason] += count
        self._lost_here += count
        if self._trouble != reason:
            self._trouble = reason
            log("query_log_lost", path=file.path, reason=error.strerror or str(error))
        file.close()  # what was open may be on a disk that is gone


def _pieces(lines: bytes, bytes_max: int) -> Iterator[bytes]:
    """Whole lines, at most so many bytes; a longer line alone."""
    start = 0
    while start < len(lines):
        end = len(lines)
        if end - start > bytes_max:
            end = lines.rfind(b"\n", start, start + bytes_max) + 1 or lines.index(b"\n", start) + 1
        yield lines[start:end]
        start = end
