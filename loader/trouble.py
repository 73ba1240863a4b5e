"""Why a feed does not move: a gap, a file that cannot be used, a word that is missing; since when, and what is due.

Told once each, and when it is over. What is done about it is `feed_sync`'s.
"""

from __future__ import annotations

import msgspec

from loader.exchange_metrics import FeedMetrics
from loader.formats import Step
from loader.steady import Clock
from lookupd.errors import LookupdError
from lookupd.model import UnixMillis
from lookupd.observe.log import log

RETRY_SECONDS = (10.0, 300.0)
"""An unusable file is fetched anew after the first, then twice as long each time up to the second: its sender
may have replaced it."""


class Trouble(msgspec.Struct, frozen=True):
    """Why the feed does not move: a step that is missing (gap) or cannot be used; since when, and when to retry.

    over_at: the position at which it is over; None = when the table of that name is loaded.
    """

    kind: str
    step: str
    over_at: int | None
    reason: str
    exit_code: int
    since: UnixMillis
    retry_at: UnixMillis
    wait_seconds: float


class Troubles:
    """One feed's: at most one at a time, the first that stands in its way."""

    def __init__(self, feed: str, patience: float, clock: Clock, metrics: FeedMetrics) -> None:
        """patience: seconds for which a missing or unusable file is waited for."""
        self.now: Trouble | None = None
        self._feed = feed
        self._patience_millis = patience * 1000
        self._clock, self._metrics = clock, metrics
        self._unfinished: tuple[str, UnixMillis] | None = None
        self._asked_at: UnixMillis | None = None

    def may_try(self, step: Step) -> bool:
        """Whether a file that could not be used is due to be looked at again; any other one is."""
        if self.now is None or self.now.step != step.name:
            return True
        now = self._clock.now()
        return now >= self.now.retry_at or now < self.now.since  # a clock that was set back must not make it wait

    def is_waited_out(self) -> bool:
        """Whether there is one, and its file was waited for long enough."""
        return self.now is not None and self._clock.now() - self.now.since >= self._patience_millis

    def note_gap(self, position: int, first_held: Step) -> None:
        """Nothing follows the position, and this step lies behind what is missing."""
        if self.now is not None:
            return  # a gap, or what stands before it: that one has its own times to wait
        missing = position + 1 if first_held.after == position + 1 else f"{position + 1}.."
        reason = f"feed at {position}, {missing} missing, {first_held.name} is there"
        now = self._clock.now()
        self.now = Trouble("gap", first_held.name, first_held.after, reason, 5, now, now, 0.0)
        self._metrics.trouble("gap")
        log("feed_gap", feed=self._feed, position=position, next_file=first_held.name)

    def note_unfinished(self, position: int, reason: str | None) -> None:
        """A file whose manifest, signature or other half does not come is told once it was waited for. None = none."""
        known = self._unfinished
        if self.now is not None and self.now.kind == "unfinished" and self.now.reason != reason:
            self.now = None
            self._metrics.trouble(None)
        if reason is None or known is None or known[0] != reason:
            self._unfinished = None if reason is None else (reason, self._clock.now())
            return
        if self.now is None and self._clock.now() - known[1] >= self._patience_millis:
            self.now = Trouble("unfinished", "", position + 1, reason, 5, known[1], self._clock.now(), 0.0)
            self._metrics.trouble("unfinished")
            log("file_unfinished", feed=self._feed, position=position, reason=reason)

    def note_failure(self, kind: str, step_name: str, over_at: int | None, error: LookupdError) -> None:
        """A file cannot be used. kind: rejected or guard. It is looked at again, each time after twice as long."""
        now = self._clock.now()
        first, most = RETRY_SECONDS
        again = self.now if self.now is not None and self.now.step == step_name else None
        wait = min(again.wait_seconds * 2, most) if again else first
        since = again.since if again else now
        if again is None or again.reason != str(error):
            log("file_guard" if kind == "guard" else "file_rejected", feed=self._feed, file=step_name, reason=error)
        retry_at = UnixMillis(now + int(wait * 1000))
        self.now = Trouble(kind, step_name, over_at, str(error), error.exit_code, since, retry_at, wait)
        self._metrics.trouble(kind)
        self._metrics.error(kind)

    def want_snapshot(self, position: int) -> UnixMillis | None:
        """Only a snapshot can help: when that was found, the first time in a trouble; None = it was told already."""
        if self._asked_at is not None or self.now is None:
            return None
        self._asked_at = self._clock.now()
        self._metrics.snapshot_wanted(True)
        log("snapshot_wanted", feed=self._feed, position=position, reason=self.now.reason)
        return self._asked_at

    def clear(self, position: int, table: str | None = None) -> None:
        """Forget one that is over: the position is past it, or this table was loaded."""
        if self.now is None:
            return
        if self.now.step != table if self.now.over_at is None else position < self.now.over_at:
            return
        log("feed_moves_again", feed=self._feed, position=position)
        self.now = None
        self._asked_at = None
        self._metrics.trouble(None)
        self._metrics.snapshot_wanted(False)
