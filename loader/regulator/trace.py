"""The trace: a row for every journal entry that the half-yearly figures count, so that each can be found again.

A CSV with a head. Columns: docs/reports.md.
"""

from __future__ import annotations

import csv
import hashlib
import io
from functools import lru_cache
from typing import TextIO

import msgspec

from loader.regulator.figures import Trace
from loader.report import ClockedNotice
from lookupd.model import TN, JournalEntry, UnixMillis
from lookupd.numbering import format_tn, mask_tn
from lookupd.units import format_millis, format_time

COUNTED_AS = ("ported", "returned", "corrected", "no_move", "superseded")
"""no_move: a notice that took effect and changed no number's network, such as a return of one that is not ported."""


class Spans(msgspec.Struct, frozen=True, gc=False):
    """The three times of a notice, and its limit, in seconds. requested_to_effective: None if it asked for no moment,
    or came after it."""

    notice_to_visible: float
    requested_to_effective: float | None
    whole: float
    limit: float

    @property
    def is_breached(self) -> bool:
        """Whether the limit was over when it became visible."""
        return self.notice_to_visible > self.limit


def spans_of(notice: ClockedNotice) -> Spans:
    """Never below 0: a sender's clock may be ahead of ours."""
    entry, visible = notice.entry, notice.visible_at / 1000
    notified, asked = entry.notified_at or 0, entry.effective_at
    whole = max(visible - notified, 0.0)
    if asked is None:
        return Spans(whole, None, whole, notice.limit)
    in_time = (notice.received_at or 0) / 1000 <= asked
    to_effective = max(visible - asked, 0.0) if in_time else None
    return Spans(max(visible - max(notified, asked), 0.0), to_effective, whole, notice.limit)


class Row(msgspec.Struct, frozen=True, gc=False):
    """Numbers of one entry that went from one network to another; notice: 1 in the first row of a notice, else 0.

    kind: the entry's. network_from, network_to: empty = not known, or none. visible_at: in ms. spans: None where the
    entry's kind has none.
    """

    month: str
    serial: int
    entry: JournalEntry
    counted_as: str
    network_from: str
    network_to: str
    tn: TN
    tn_to: TN
    notice: int
    visible_at: UnixMillis
    spans: Spans | None


COLUMNS = (
    "month", "serial", "kind", "counted_as", "network_from", "network_to", "numbers", "notice", "tn", "tn_to",
    "feed", "sequence", "line", "ref", "notified_at", "effective_at", "visible_at",
    "notice_to_visible_seconds", "requested_to_effective_seconds", "whole_seconds", "limit_seconds", "breached",
)  # fmt: skip


class TraceWriter:
    """Writes rows, if there is a file, and counts and hashes them in any case."""

    def __init__(self, file: TextIO | None, *, masked: bool) -> None:
        """file: with newline="". masked: the last four digits of the numbers are hidden (NPR article 34)."""
        self._file = file
        self._form = mask_tn if masked else format_tn
        self._hash = hashlib.sha256()
        self._line = io.StringIO()
        self._csv = csv.writer(self._line, lineterminator="\n")
        self.rows = 0
        self._csv.writerow(COLUMNS)

    def put(self, row: Row) -> None:
        """One more."""
        entry = row.entry
        self._csv.writerow(
            (
                row.month,
                row.serial,
                entry.kind.value,
                row.counted_as,
                row.network_from,
                row.network_to,
                row.tn_to - row.tn + 1,
                row.notice,
                self._form(row.tn),
                self._form(row.tn_to),
                entry.feed,
                entry.sequence,
                entry.line,
                entry.ref,
                _time(entry.notified_at),
                _time(entry.effective_at),
                _millis(row.visible_at),
                *_seconds(row.spans),
            )
        )
        self.rows += 1
        if self.rows % _ROWS_PER_WRITE == 0:
            self._flush()

    def done(self, name: str) -> Trace:
        """What the report says of the file, which is whole now."""
        self._flush()
        return Trace(name, self.rows, self._hash.hexdigest())

    def _flush(self) -> None:
        text = self._line.getvalue()
        self._line.seek(0)
        self._line.truncate()
        self._hash.update(text.encode())
        if self._file is not None:
            self._file.write(text)


_ROWS_PER_WRITE = 1000

_time, _millis = (lru_cache(4096)(form) for form in (format_time, format_millis))
"""Notices of a delta share their moments."""


def _seconds(found: Spans | None) -> tuple[str, ...]:
    if found is None:
        return ("",) * 5
    asked = "" if found.requested_to_effective is None else f"{found.requested_to_effective:.3f}"
    breached = "yes" if found.is_breached else "no"
    return f"{found.notice_to_visible:.3f}", asked, f"{found.whole:.3f}", f"{found.limit:g}", breached
