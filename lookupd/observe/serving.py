"""For how long queries were answered from data, and for how long not, since the program began.

What NPR article 41 counts as time out of service is worked out from it in `monitoring/rules.yml`.
"""

from __future__ import annotations

import time
from collections.abc import Callable

STATES = ("serving", "unavailable", "withdrawn")
"""Answered from data; `unavailable` to all; the same since the twin is right and we are not. The closed set of a
metric's label."""


class ServingSeconds:
    """Told each second, and whenever it changes."""

    def __init__(self, *, follows: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        """follows: another process answers until we are told of our first state, and counts."""
        self._seconds = dict.fromkeys(STATES, 0.0)
        self._clock = clock
        self._state = None if follows else "unavailable"
        self._since = clock()

    def tell(self, state: str) -> None:
        """One of STATES, from now on."""
        self._settle()
        self._state = state

    def seconds(self) -> dict[str, float]:
        """By state, until now."""
        self._settle()
        return dict(self._seconds)

    def _settle(self) -> None:
        now = self._clock()
        if self._state is not None:
            self._seconds[self._state] += now - self._since
        self._since = now
