"""The proof of the clocks: every notice of a month, its times, its limit and its margin, and what they come to.

Read from journal and receipts only, so that each figure can be traced to entries nobody can change unseen.
Rules: NPR article 24 (limits), 22 (agreed moment), 28 (history).
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import TextIO

import msgspec

from loader.sequence import clock_start, limit_seconds
from lookupd.model import JournalEntry, JournalKind, UnixMillis, UnixSeconds
from lookupd.numbering import format_tn, mask_tn
from lookupd.settings import Limits
from lookupd.store.reader import Reader
from lookupd.store.schema import format_digest
from lookupd.units import format_millis, format_time

YEARS = (1971, 2105)
"""Those that the journal's times can be of, wherever the month is."""

CLOCKED = frozenset({JournalKind.PORT, JournalKind.RETURN, JournalKind.CORRECT, JournalKind.SUPERSEDED})


class Month(msgspec.Struct, frozen=True):
    """A calendar month somewhere: its first second, and the first of the next."""

    name: str
    first: UnixSeconds
    end: UnixSeconds


def parse_month(text: str, utc_offset: str = "+00:00") -> Month:
    """`2026-11`, in a place `+08:00` from UTC. Raises ValueError."""
    try:
        offset = datetime.strptime(utc_offset, "%z").utcoffset() or timedelta()
    except ValueError:
        raise ValueError(f"{utc_offset!r} is no offset from UTC, such as +08:00") from None
    try:
        first = datetime.strptime(text, "%Y-%m").replace(tzinfo=timezone(offset))
        if not YEARS[0] <= first.year <= YEARS[1]:
            raise ValueError(text)
        end = (first + timedelta(days=32)).replace(day=1)
    except ValueError:
        raise ValueError(f"{text[:40]!r} is no month of the years {YEARS[0]} to {YEARS[1]}, such as 2026-11") from None
    return Month(text, UnixSeconds(int(first.timestamp())), UnixSeconds(int(end.timestamp())))


class ClockedNotice(msgspec.Struct, frozen=True):
    """One notice that became visible, or whose moment came. Times in ms where this replica took them."""

    serial: int
    entry: JournalEntry
    received_at: UnixMillis | None
    confirmed_at: UnixMillis | None
    visible_at: UnixMillis
    limit: float

    @property
    def start(self) -> UnixSeconds:
        """Of its clock."""
        return clock_start(self.entry.notified_at or UnixSeconds(0), self.entry.effective_at)

    @property
    def seconds(self) -> float:
        """From the start of its clock to being visible; 0 if the sender's clock is ahead of ours."""
        return max(self.visible_at / 1000 - self.start, 0.0)

    @property
    def margin(self) -> float:
        """What was left of its limit; negative = breached."""
        return self.limit - self.seconds


COLUMNS = (
    "serial",
    "feed",
    "sequence",
    "line",
    "kind",
    "tn",
    "tn_to",
    "ref",
    "notified_at",
    "received_at",
    "confirmed_at",
    "effective_at",
    "visible_at",
    "limit_seconds",
    "margin_seconds",
    "within_limit",
)


class CommitTimes:
    """When each entry was seen by readers, and when its file had come. Asked for in the order of serials."""

    def __init__(self, reader: Reader) -> None:
        self._receipts = list(reader.receipts())
        self._of_delta = {(r.feed, r.sequence): r for _, r in self._receipts if r.type == "delta"}
        self._at = 0
        self.is_witnessed = True
        """Whether a receipt told of the entry that was asked for last."""

    def visible_at(self, serial: int, entry: JournalEntry) -> UnixMillis:
        """By its commit's receipt; where none tells, when it was applied, to the second."""
        receipts = self._receipts
        while self._at < len(receipts) and receipts[self._at][0] < serial:
            self._at += 1
        commit = receipts[self._at][1] if self._at < len(receipts) else None
        self.is_witnessed = commit is not None and commit.first_serial <= serial and commit.visible_at is not None
        if not self.is_witnessed or commit is None or commit.visible_at is None:
            return UnixMillis(entry.applied_at * 1000)
        return commit.visible_at

    def clocked(self, serial: int, entry: JournalEntry, visible_at: UnixMillis, limits: Limits) -> ClockedNotice | None:
        """Of a notice, whose clock ran; None for all other entries. Corrections from a reconciliation have none."""
        if entry.kind not in CLOCKED or entry.notified_at is None or entry.feed is None or entry.sequence is None:
            return None
        announced = self._of_delta.get((entry.feed, entry.sequence))
        received_at, confirmed_at = (announced.received_at, announced.confirmed_at) if announced else (None, None)
        limit = limit_seconds(entry.kind, limits)
        return ClockedNotice(serial, entry, received_at, confirmed_at, visible_at, limit)


def clocked_notices(reader: Reader, month: Month, limits: Limits) -> Iterator[ClockedNotice]:
    """Every notice that became visible in the month, by serial."""
    times = CommitTimes(reader)
    for serial, entry, _ in reader.journal():
        if entry.kind not in CLOCKED:
            continue
        visible_at = times.visible_at(serial, entry)
        if month.first * 1000 <= visible_at < month.end * 1000:
            notice = times.clocked(serial, entry, visible_at, limits)
            if notice is not None:
                yield notice


class Distribution:
    """Seconds, to be told as a count, a mean and quantiles."""

    def __init__(self) -> None:
        self._values: list[float] = []

    def add(self, seconds: float) -> None:
        """One more."""
        self._values.append(seconds)

    def figures(self) -> dict[str, float | int | None]:
        """count, mean, p50, p95, p99, max; rounded to milliseconds, null when there is none."""
        values = sorted(self._values)
        if not values:
            return {"count": 0, "mean": None, "p50": None, "p95": None, "p99": None, "max": None}
        found: dict[str, float | int | None] = {"count": len(values), "mean": round(sum(values) / len(values), 3)}
        for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("max", 1.0)):
            found[name] = round(values[min(int(share * len(values)), len(values) - 1)], 3)
        return found


class _Kind:
    """What the notices of one kind come to."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.within = self.breached = self.late_at_sender = 0
        self.visible, self.confirmed, self.agreed = Distribution(), Distribution(), Distribution()
        self.margin_min: float | None = None

    def add(self, notice: ClockedNotice) -> None:
        self.visible.add(notice.seconds)
        self.margin_min = notice.margin if self.margin_min is None else min(self.margin_min, notice.margin)
        if notice.margin >= 0:
            self.within += 1
        else:
            self.breached += 1
            # It arrived when its limit was over: no exchange could have kept it.
            self.late_at_sender += notice.received_at is not None and (
                notice.received_at / 1000 - notice.start > notice.limit
            )
        if notice.received_at is not None and notice.confirmed_at is not None:
            self.confirmed.add((notice.confirmed_at - notice.received_at) / 1000)
        if notice.entry.effective_at is not None and (notice.received_at or 0) / 1000 <= notice.entry.effective_at:
            self.agreed.add(notice.visible_at / 1000 - notice.entry.effective_at)

    def figures(self) -> dict[str, object]:
        count = self.within + self.breached
        return {
            "notices": count,
            "limit_seconds": self.limit,
            "within_limit": self.within,
            "breached": self.breached,
            "breached_received_after_limit": self.late_at_sender,
            "share_within_limit": round(self.within / count, 6) if count else None,
            "smallest_margin_seconds": None if self.margin_min is None else round(self.margin_min, 3),
            "notified_to_visible_seconds": self.visible.figures(),
            "received_to_confirmed_seconds": self.confirmed.figures(),
            "agreed_moment_to_visible_seconds": self.agreed.figures(),
        }


def write_clocks(
    reader: Reader, month: Month, limits: Limits, replica: str, rows: TextIO | None, now: UnixSeconds, *, masked: bool
) -> dict[str, object]:
    """Write the notices as CSV to `rows`, and return the month's figures, ready for JSON.

    The figures carry the SHA-256 of the CSV and the journal's head, so that both files can be held against
    the store. masked: the last four digits of the numbers are hidden (NPR article 34).
    """
    kinds = {
        kind: _Kind(limit_seconds(kind, limits)) for kind in (JournalKind.PORT, JournalKind.RETURN, JournalKind.CORRECT)
    }
    superseded = 0
    digest = hashlib.sha256()
    line = io.StringIO()
    writer = csv.writer(line, lineterminator="\n")

    def put(fields: tuple[object, ...]) -> None:
        writer.writerow(fields)
        text = line.getvalue()
        line.seek(0)
        line.truncate()
        digest.update(text.encode())
        if rows is not None:
            rows.write(text)

    put(COLUMNS)
    for notice in clocked_notices(reader, month, limits):
        if notice.entry.kind is JournalKind.SUPERSEDED:
            superseded += 1
        else:
            kinds[notice.entry.kind].add(notice)
        put(_row(notice, masked=masked))
    state = reader.state
    first, end = month.first * 1000, month.end * 1000
    files = [r for _, r in reader.receipts() if first <= (r.visible_at or r.confirmed_at) < end]
    return {
        "report": "clocks",
        "month": month.name,
        "from": format_time(month.first),
        "to": format_time(month.end),
        "replica": replica,
        "made_at": format_time(now),
        "kinds": {kind.value: figures.figures() for kind, figures in kinds.items()},
        "superseded": superseded,
        "deltas": sum(r.type == "delta" for r in files),
        "snapshots": sum(r.type == "snapshot" for r in files),
        "waiting_for_their_moment": len(reader.pending()),
        "feeds": {name: position.sequence for name, position in sorted(state.feeds.items())},
        "serial": state.serial,
        "digest": format_digest(state.digest),
        "journal_head": state.journal_head.hex(),
        "csv_sha256": digest.hexdigest(),
    }


def _row(notice: ClockedNotice, *, masked: bool) -> tuple[object, ...]:
    entry = notice.entry
    form = mask_tn if masked else format_tn
    return (
        notice.serial,
        entry.feed,
        entry.sequence,
        entry.line,
        entry.kind.value,
        "" if entry.tn is None else form(entry.tn),
        "" if entry.tn_to is None else form(entry.tn_to),
        entry.ref,
        format_time(entry.notified_at),
        format_millis(notice.received_at),
        format_millis(notice.confirmed_at),
        format_time(entry.effective_at),
        format_millis(notice.visible_at),
        f"{notice.limit:g}",
        f"{notice.margin:.3f}",
        "yes" if notice.margin >= 0 else "no",
    )


def this_month(now: UnixSeconds) -> str:
    """In UTC, as `parse_month` takes it."""
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m")
