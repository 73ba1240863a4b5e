"""When the supervisor is told what: ready after an answer over each listener, its watchdog fed while they go on.

Without a supervisor (NOTIFY_SOCKET) nothing of this runs. The protocol is `supervise`'s, the questions `canary`'s.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Mapping

from lookupd.canary import Canary
from lookupd.limits import CANARY_SECONDS, EXTEND_SECONDS, STATUS_SECONDS
from lookupd.observe.log import log
from lookupd.supervise import Supervisor


class Supervision:
    """One daemon's, from its start to its end."""

    def __init__(
        self,
        supervisor: Supervisor,
        canary: Canary,
        *,
        status: Callable[[], str],
        reason: Callable[[], str | None],
        has_data: Callable[[], bool],
        in_charge: asyncio.Event,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        """status: a line for people. reason: why there are no answers from data, or None. has_data: whether there
        is some; a daemon that stands back, or whose data is too old, has done its part. in_charge: set when the
        supervisor listens to us."""
        self._supervisor = supervisor
        self._canary = canary
        self._status, self._reason, self._has_data = status, reason, has_data
        self._in_charge = in_charge
        self._watchdog = watchdog_seconds(environment)
        self._told = ""
        self._told_at = 0.0
        self._troubles: dict[str, str] = {}

    async def run(self, started: asyncio.Event) -> None:
        """Until cancelled. started: set when the listeners are open."""
        if not self._supervisor.address:
            await asyncio.Event().wait()
        await self._until_ready(started)
        log("supervisor_told", what="READY")
        every = min(CANARY_SECONDS, self._watchdog / 4) if self._watchdog else CANARY_SECONDS
        while True:
            if await self._all_answer() and self._watchdog:
                self._supervisor.tell(WATCHDOG=1)
            self._tell_status(self._status())
            await asyncio.sleep(every)

    async def _until_ready(self, started: asyncio.Event) -> None:
        """READY says that every listener answers from data, or that it stands back from its twin, which does."""
        while True:
            told_at = time.monotonic()
            reason = self._reason() if started.is_set() else "starting"
            if started.is_set() and self._in_charge.is_set() and self._has_data() and await self._all_answer():
                break
            if self._in_charge.is_set():  # before that it listens to the process that we follow
                self._supervisor.tell(EXTEND_TIMEOUT_USEC=EXTEND_SECONDS * 1_000_000)
                self._tell_status(f"not ready: {reason}" if reason else "asking each listener")
            await _any_of(started, self._in_charge, seconds=max(told_at + 1.0 - time.monotonic(), 0.05))
        self._supervisor.tell(READY=1, STATUS=self._status())

    async def _all_answer(self) -> bool:
        """Whether they do; what changes in that is logged."""
        troubles = {f"{dialect} {endpoint}": why for (dialect, endpoint), why in (await self._canary.ask_all()).items()}
        for listener in troubles.keys() - self._troubles.keys():
            log("canary_failed", listener=listener, reason=troubles[listener])
        for listener in self._troubles.keys() - troubles.keys():
            log("canary_answered", listener=listener)
        self._troubles = troubles
        return not troubles

    def _tell_status(self, line: str) -> None:
        now = time.monotonic()
        if line != self._told and now - self._told_at >= STATUS_SECONDS:
            self._told, self._told_at = line, now
            self._supervisor.tell(STATUS=line)


def watchdog_seconds(environment: Mapping[str, str] = os.environ) -> float:
    """How often the supervisor wants to hear of us; 0 = not at all. See sd_watchdog_enabled(3)."""
    text = environment.get("WATCHDOG_USEC", "")
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    return int(text) / 1e6 if text.isascii() and text.isdigit() and len(text) < 16 else 0.0


async def _any_of(*events: asyncio.Event, seconds: float) -> None:
    """Returns when one that was not set is, or after so long."""
    waits: list[Awaitable[bool]] = [event.wait() for event in events if not event.is_set()]
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    if not tasks:
        await asyncio.sleep(seconds)
        return
    await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
