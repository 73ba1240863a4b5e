"""The time by which jobs begin and results are deleted: a wall clock that jumps deletes nothing."""

from __future__ import annotations

import time
from collections.abc import Callable

from lookupd.limits import JOBS_CLOCK_SECONDS


class JobsClock:
    """The wall clock; and the same, which follows a jump only when it has lasted."""

    def __init__(
        self,
        step: float,
        *,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """step: `limits.clock_step`, up to which a jump is none."""
        self._step = step
        self._wall, self._monotonic = wall, monotonic
        self._offset = wall() - monotonic()
        self._jumped_at: float | None = None

    def now(self) -> float:
        """By the wall."""
        return self._wall()

    def settled(self) -> float:
        """By which is deleted what is old. To be asked often."""
        monotonic = self._monotonic()
        offset = self._wall() - monotonic
        if abs(offset - self._offset) <= self._step:
            self._offset, self._jumped_at = offset, None
        elif self._jumped_at is None:
            self._jumped_at = monotonic
        elif monotonic - self._jumped_at >= JOBS_CLOCK_SECONDS:
            self._offset, self._jumped_at = offset, None
        return monotonic + self._offset
