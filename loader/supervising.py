"""What the exchange tells its supervisor: ready when the store is open, its watchdog fed while both threads work.

A disk that hangs shows as a thread that does not come back. A large file, such as a snapshot of 100 million numbers,
keeps a thread busy for minutes and is no fault; hours are.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Protocol

from lookupd.errors import StoreError
from lookupd.observe.log import log
from lookupd.store.reader import Reader
from lookupd.supervise import Supervisor
from lookupd.supervision import watchdog_seconds

LOOK_SECONDS = 5.0
"""Between two looks at the threads, and two lines of status, unless the watchdog wants to hear sooner."""

WORK_SECONDS_MAX = 1800.0
"""One check or change: a snapshot of 100 million numbers takes some 20 s natively, ten times as long without Rust."""


class Threads(Protocol):
    """The store's; see `sync.StoreThreads`."""

    writing_since: float | None
    reading_since: float | None
    """Of the monotonic clock; None = the thread does nothing just now."""

    async def read(self, work: Callable[[Reader], Any]) -> Any:
        """In the reading thread."""
        ...


async def supervise(store: Threads, status: Callable[[], str], supervisor: Supervisor) -> None:
    """Tell READY at once, then feed the watchdog until cancelled. The store is open."""
    if not supervisor.address:
        await asyncio.Event().wait()
    supervisor.tell(READY=1, STATUS=status())
    log("supervisor_told", what="READY")
    watchdog = watchdog_seconds()
    every = min(watchdog / 4, LOOK_SECONDS) if watchdog else LOOK_SECONDS
    told, hangs = "", False
    while True:
        alive = await threads_work(store, every)
        if alive and watchdog:
            supervisor.tell(WATCHDOG=1)
        if alive == hangs:
            hangs = not alive
            log("store_hangs" if hangs else "store_answers")
        if (line := status()) != told:
            told = line
            supervisor.tell(STATUS=line)
        await asyncio.sleep(every)


async def threads_work(store: Threads, seconds: float) -> bool:
    """Whether the reading thread comes back in time, and nothing that either does takes longer than anything should."""
    now = time.monotonic()
    if any(
        since is not None and now - since > WORK_SECONDS_MAX for since in (store.writing_since, store.reading_since)
    ):
        return False
    try:
        async with asyncio.timeout(seconds):
            await store.read(lambda reader: reader.state.serial)
    except TimeoutError:
        return store.reading_since is not None  # it checks a large file
    except StoreError:
        pass  # told by whoever needs the store; the thread came back
    return True
