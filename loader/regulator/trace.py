"""The trace: a row for every journal entry that the half-yearly figures count, so that each can be found again.

A CSV with a head. Columns: docs/reports.md.
"""

from __future__ import annotations

import csv
import hashlib
import io
from typing import TextIO

import msgspec

from loader.regulator.figures import Trace
from loader.report import ClockedNotice
from lookupd.model import TN, JournalEntry, UnixMillis
from lookupd.numbering import format_tn, mask_tn
from lookupd.units import format_millis, format_time

COUNTED_AS = ("ported", "returned", "corrected", "no_move", "superseded")
"""no_move: a notice that took effect and changed no number's network, such as a return of one that is not ported."""


class Row(msgspec.Struct, frozen=True):
    """Numbers of one entry that went from one network to another; notice: 1 in the first row of a notice, else 0.

    kind: the entry's. network_from, network_to: empty = not known, or none. visible_at: in ms. timed: the notice whose
    seconds the row tells; None where its kind has none.
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
    timed: ClockedNotice | None


class Spans(msgspec.Struct, frozen=True):
    """The three times of a notice in seconds; requested_to_effective: None if it asked for no moment, or came after."""

    notice_to_visible: float
    requested_to_effective: float | None
    whole: float


def spans(notice: ClockedNotice) -> Spans:
    """Never below 0: a sender's clock may be ahead of ours."""
    entry, visible = notice.entry, notice.visible_at / 1000
    received = notice.received_at or 0
    asked = entry.effective_at
    in_time = asked is not None and received / 1000 <= asked
    return Spans(
        notice.seconds,
        max(visible - asked, 0.0) if asked is not None and in_time else None,
        max(visible - (entry.notified_at or 0), 0.0),
    )


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
        self.rows = -1
        self._write(COLUMNS)

    def put(self, row: Row) -> None:
        """One more."""
        entry = row.entry
        self._write(
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
                format_time(entry.notified_at),
                format_time(entry.effective_at),
                format_millis(row.visible_at),
                *_seconds(row.timed),
            )
        )

    def done(self, name: str) -> Trace:
        """What the report says of the file."""
        return Trace(name, self.rows, self._hash.hexdigest())

    def _write(self, fields: tuple[object, ...]) -> None:
        self._csv.writerow(fields)
        text = self._line.getvalue()
        self._line.seek(0)
        self._line.truncate()
        self._hash.update(text.encode())
        self.rows += 1
        if self._file is not None:
            self._file.write(text)


def _seconds(notice: ClockedNotice | None) -> tuple[str, ...]:
    if notice is None:
        return ("",) * 5
    found = spans(notice)
    asked = "" if found.requested_to_effective is None else f"{found.requested_to_effective:.3f}"
    breached = "yes" if notice.margin < 0 else "no"
    return f"{found.notice_to_visible:.3f}", asked, f"{found.whole:.3f}", f"{notice.limit:g}", breached
