"""The daemon's side of usage: what each client asked, from its counters into a ledger, for as long as it runs.

What is counted is `metrics`'s and the engines'; how it is kept is `ledger`'s; what it costs is `settlement`'s. No
number is kept. Nothing here is waited for by an answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from lookupd.access import OWN_NAME
from lookupd.ledger import HOUR_SECONDS, Ledger, LedgerDamaged, LedgerError
from lookupd.limits import USAGE_CLOSE_SECONDS, USAGE_PRUNE_HOURS_MAX
from lookupd.observe.counters import ALL_DIALECTS, USAGE_RESULTS, Usage
from lookupd.observe.log import log
from lookupd.settings import Config

FILE = "usage.sqlite"
COLUMNS = ("client", "account", "dialect", "result")

COUNTED_SECONDS = (OWN_NAME, "", "", "seconds")
"""Under which stands for how long of each hour was counted: no client has this name. What is missing is told."""


def ledger_file(config: Config) -> Path:
    """Where a configuration's usage is kept."""
    return config.usage_path / FILE


class Usages:
    """One daemon's. Counters that only grow go in; what they grew by goes into the hour in which that is noticed."""

    def __init__(
        self,
        config: Config,
        counted: Callable[[], dict[str, list[Usage]]],
        *,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """counted: since the start, by client's name and dialect."""
        self.ledger = Ledger(ledger_file(config), COLUMNS)
        self.saves = {"done": 0, "failed": 0}
        self.lost = 0
        self._every, self._keep = config.usage.every, config.usage.keep
        self._counted = counted
        self._wall, self._monotonic = wall, monotonic
        self._before: dict[str, list[Usage]] = {}
        self._accounts: dict[str, str] = {}
        self._seconds_until: float | None = None
        self._trouble: str | None = None
        self._losing = False
        self._pruned_in = 0

    @property
    def unsaved(self) -> int:
        """Queries that are only in memory, and would be lost with the process."""
        return sum(count for (_, key), count in self.ledger.waiting().items() if key != COUNTED_SECONDS)

    def use_accounts(self, accounts: Mapping[str, str]) -> None:
        """Accounts by client's name, of a clients list that comes into force. What was asked before is on the former
        ones; a client that is on the list no more keeps its own for what is still counted."""
        self.take()
        self._accounts |= accounts

    def begin(self) -> None:
        """Queries are answered from now on."""
        self._seconds_until = self._monotonic()

    def take(self) -> None:
        """Note what was counted since the last time."""
        now = self._wall()
        hour = int(now) // HOUR_SECONDS
        counted = self._counted()
        for client, by_dialect in counted.items():
            if client != OWN_NAME:
                self._take_client(hour, client, by_dialect, self._before.get(client))
        self._before = counted
        self._take_seconds(int(now))

    def _take_client(self, hour: int, client: str, now: list[Usage], before: list[Usage] | None) -> None:
        if now == before:
            return
        account = self._accounts.get(client, "")
        for at, dialect in enumerate(ALL_DIALECTS):
            for result_at, result in enumerate(USAGE_RESULTS):
                more = now[at][result_at] - (before[at][result_at] if before else 0)
                if more > 0 and not self.ledger.add(hour, (client, account, dialect, result), more):
                    self._lose(more, "too much waits to be saved")

    def _take_seconds(self, now: int) -> None:
        """Whole seconds, to the hours that they lie in; the rest of one goes to the next time."""
        if self._seconds_until is None:
            return
        seconds = int(self._monotonic() - self._seconds_until)
        self._seconds_until += seconds
        hour, room = divmod(now, HOUR_SECONDS)
        while seconds:
            part = min(seconds, room)
            if part:
                self.ledger.add(hour, COUNTED_SECONDS, part)
            seconds -= part
            hour, room = hour - 1, HOUR_SECONDS

    # -- saving ------------------------------------------------------------------------------------------

    async def keep(self) -> None:
        """Save again and again."""
        while True:
            await asyncio.sleep(self._every)
            await self.save()

    async def save(self) -> None:
        """What was counted by now. What goes wrong is told once, and tried again with the next saving."""
        self.take()
        try:
            began = await _beside(self._write)
        except LedgerError as error:
            self.saves["failed"] += 1
            if str(error) != self._trouble:
                self._trouble = str(error)
                log("usage_unsaved", reason=error, queries=self.unsaved)
            return
        self.saves["done"] += 1
        self._losing = False
        if began:
            log("usage_begun", path=self.ledger.file)
        if self._trouble is not None:
            self._trouble = None
            log("usage_saved_again", path=self.ledger.file)

    async def close(self) -> None:
        """The last saving, when nothing is counted any more. It does not keep a stop waiting for a disk that hangs."""
        try:
            await asyncio.wait_for(self.save(), USAGE_CLOSE_SECONDS)
        except TimeoutError:
            self._trouble = f"{self.ledger.file}: not written within {USAGE_CLOSE_SECONDS:g} s"
        if self._trouble is not None and (unsaved := self.unsaved):
            self._lose(unsaved, self._trouble)

    def _write(self) -> bool:
        """In a thread of its own. Returns whether a new file was begun."""
        try:
            return self._save_and_prune()
        except LedgerDamaged as error:
            aside = self.ledger.set_aside(int(self._wall()))
            log("usage_damaged", reason=error, kept_as=aside or "put aside by another process")
            return self._save_and_prune()

    def _save_and_prune(self) -> bool:
        began = self.ledger.save()
        hour = int(self._wall()) // HOUR_SECONDS
        if hour != self._pruned_in:
            self.ledger.prune(hour - int(self._keep) // HOUR_SECONDS, USAGE_PRUNE_HOURS_MAX)
            self._pruned_in = hour
        return began

    def _lose(self, queries: int, reason: str) -> None:
        self.lost += queries
        if not self._losing:
            self._losing = True
            log("usage_lost", queries=queries, reason=reason)


async def _beside(work: Callable[[], bool]) -> bool:
    """In a thread that nobody waits for at the end of the process, as the event loop's own are: a disk may hang."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[bool] = loop.create_future()

    def tell(result: bool, error: BaseException | None) -> None:
        if done.cancelled():
            return
        if error is None:
            done.set_result(result)
        else:
            done.set_exception(error)

    def run() -> None:
        result, trouble = False, None
        try:
            result = work()
        except BaseException as error:  # raised again where it is waited for
            trouble = error
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(tell, result, trouble)

    threading.Thread(target=run, name="usage", daemon=True).start()
    return await done
