"""A feed's order and its clocks: which deltas follow a position, when a notice is due, what margin is left.

Pure arithmetic: no file, no store, no clock of its own. Limits are settings (NPR article 31); 1 h for a port
and 12 h for a return (article 24) are their defaults.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from loader.formats import Step
from lookupd.model import JournalKind, Notice, NoticeKind, UnixMillis, UnixSeconds
from lookupd.settings import Limits


def chain(steps: Iterable[Step], position: int) -> list[Step]:
    """The deltas that can be applied one after another from this position on."""
    found: list[Step] = []
    at = position
    for step in sorted((s for s in steps if s.type == "delta"), key=lambda s: s.sequence):
        if step.after <= at < step.sequence:
            found.append(step)
            at = step.sequence
    return found


def beyond(steps: Iterable[Step], end: int) -> list[Step]:
    """The deltas that lie behind a gap which begins at `end`."""
    return sorted((s for s in steps if s.type == "delta" and s.after > end), key=lambda s: s.sequence)


def newest_snapshot(steps: Iterable[Step]) -> Step | None:
    """The one that leads furthest."""
    return max((s for s in steps if s.type == "snapshot"), key=lambda s: s.sequence, default=None)


def clock_start(notified_at: UnixSeconds, effective_at: UnixSeconds | None) -> UnixSeconds:
    """When a notice's limit begins to run: at the notice, or at the agreed moment if that is later."""
    return UnixSeconds(max(notified_at, effective_at or 0))


def limit_seconds(kind: NoticeKind | JournalKind, limits: Limits) -> float:
    """How long a notice of this kind may take from its start to being visible."""
    return limits.return_ if kind == "return" else limits.port


def margin_seconds(
    kind: NoticeKind | JournalKind,
    notified_at: UnixSeconds,
    effective_at: UnixSeconds | None,
    at: UnixMillis,
    limits: Limits,
) -> float:
    """What is left of the limit at a moment; negative = breached."""
    return clock_start(notified_at, effective_at) + limit_seconds(kind, limits) - at / 1000


class Unapplied(msgspec.Struct, frozen=True):
    """Notices of one file by kind: how many, and the earliest start of a clock among them."""

    counts: dict[str, int]
    oldest: dict[str, UnixSeconds]


def unapplied(notices: Iterable[Notice]) -> Unapplied:
    """Of a file that is known but not applied."""
    counts: dict[str, int] = {}
    oldest: dict[str, UnixSeconds] = {}
    for notice in notices:
        kind = notice.kind.value
        start = clock_start(notice.notified_at, notice.effective_at)
        counts[kind] = counts.get(kind, 0) + 1
        oldest[kind] = min(oldest.get(kind, start), start)
    return Unapplied(counts, oldest)
