"""How long to leave a place alone after it failed. Reads no clock and waits for nobody: its caller does."""

from __future__ import annotations

import random as chance
from collections.abc import Callable


class Backoff:
    """Waits that double from `first` to `most` seconds, each shortened by chance by up to a half.

    The jitter keeps replicas that lost the same server from coming back in the same moment; half of the wait
    is certain, so that chance never makes a busy loop.
    """

    def __init__(self, first: float, most: float, random: Callable[[], float] = chance.random) -> None:
        """random: returns 0 <= x < 1."""
        assert 0 < first <= most, (first, most)
        self._first = first
        self._most = most
        self._random = random
        self._next = first

    def failed(self) -> float:
        """Seconds to wait before the next try."""
        full = self._next
        self._next = min(self._most, full * 2)
        return full * (1 + self._random()) / 2

    def succeeded(self) -> None:
        """The next failure is a first one."""
        self._next = self._first
