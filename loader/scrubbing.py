"""The scrub that runs beside the exchange: check every block at a set pace, mend what is damaged, tell of both.

A damaged block is out of service from the moment its bytes changed: readers check each block they read. Here
it is found before anybody asks, and mended from the other replica, or from the last snapshot in the spool and
the journal since; either must give the store's own digest again, or nothing is changed. What look-ups read of a
block's restrictions is made anew from the restrictions themselves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

from loader.exchange_metrics import ExchangeMetrics
from loader.files import identify
from loader.mend import mend_from_snapshot, needed_snapshot
from loader.peer import fetch_block
from loader.steady import Clock
from loader.tidy import CONVERTED
from lookupd.errors import LookupdError, StoreError
from lookupd.limits import BLOCKS_PER_WINDOW
from lookupd.model import UnixSeconds
from lookupd.observe.log import log
from lookupd.peer_keys import read_peer_keys
from lookupd.settings import Config
from lookupd.store.mend import mend_blocks, mend_restricted
from lookupd.store.reader import Reader
from lookupd.store.scrub import Scrubber, ScrubReport, values_of
from lookupd.store.writer import Writer

STEP_SECONDS = 1.0
"""Between two steps: each takes some milliseconds of the reading thread."""

BLOCKS_PER_STEP_MIN = 64
"""A small store is passed sooner than asked: a step for a handful of blocks would cost more than they do."""

MEND_RETRY_SECONDS = 60.0
"""Between two attempts to mend the same blocks: the peer may be away, the snapshot not fetched yet."""

REASON = "lookupd-loader sync: the scrub found damage"


class Store(Protocol):
    """What is needed of `sync.StoreThreads`."""

    async def write_now(self, work: Callable[[Writer], Any]) -> Any:
        """Without making way for a pending notice: that one may be waiting for us."""
        ...

    async def read(self, work: Callable[[Reader], Any]) -> Any:
        """See `feed_sync.Store`."""
        ...


class BackgroundScrub:
    """One task of the exchange."""

    def __init__(self, config: Config, store: Store, metrics: ExchangeMetrics, clock: Clock) -> None:
        self._config, self._store, self._metrics, self._clock = config, store, metrics, clock
        self._scrubber = Scrubber()
        self._told: list[int] = []
        self._tried_at: float | None = None

    async def run(self, sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep) -> None:
        """Pass after pass, until cancelled."""
        while True:
            await self.step()
            await sleep(STEP_SECONDS)

    async def step(self) -> ScrubReport | None:
        """Some blocks of the pass; mends at once what it finds damaged. The report, when the pass ended."""
        report: ScrubReport | None = await self._store.read(self._scrub)
        found = self._scrubber.found if report is None else report
        damaged = found.to_mend
        if damaged and damaged != self._told:
            log("blocks_damaged", blocks=",".join(map(str, damaged[:20])), count=len(damaged))
        if damaged or report is not None:
            self._told = damaged
            self._metrics.damaged_blocks = len(damaged)
        if damaged:
            await self._mend(damaged, only_restricted=not (found.damaged_blocks or found.damaged_details))
        if report is not None:
            self._metrics.scrub_passes += 1
            self._metrics.scrubbed_at = self._clock.now()
            others = [problem for problem in report.problems if not report.to_mend]
            if others:
                log("scrub_found", problems=len(others), first=others[0])
        return report

    def _scrub(self, reader: Reader) -> ScrubReport | None:
        steps = max(self._config.sync.scrub / STEP_SECONDS, 1.0)
        return self._scrubber.step(
            reader, min(max(int(values_of(reader) / steps) + 1, BLOCKS_PER_STEP_MIN), BLOCKS_PER_WINDOW)
        )

    async def mend_now(self, block: int) -> None:
        """A write met a damaged block before the scrub did: mend it, so that the write can be tried again."""
        if block not in self._told:
            log("blocks_damaged", blocks=block, count=1)
            self._told = [*self._told, block]
            self._metrics.damaged_blocks = len(self._told)
        await self._mend(self._told)

    async def _mend(self, damaged: list[int], *, only_restricted: bool = False) -> None:
        loop = asyncio.get_running_loop()
        if self._tried_at is not None and loop.time() - self._tried_at < MEND_RETRY_SECONDS:
            return
        self._tried_at = loop.time()
        reasons = []
        mends = [self._mend_from_rows] if only_restricted else [self._mend_from_peer, self._mend_from_snapshot]
        for mend in mends:
            try:
                source = await mend(damaged)
            except LookupdError as error:
                reasons.append(str(error))
                continue
            if source is not None:
                log("blocks_mended", count=len(damaged), source=source)
                self._metrics.mended_blocks += len(damaged)
                self._metrics.damaged_blocks = 0
                self._told, self._tried_at = [], None
                self._scrubber = Scrubber()  # what it knew of this pass is of the old bytes
                return
        log("blocks_not_mended", count=len(damaged), reason="; ".join(reasons) or "no peer is set, no snapshot kept")

    async def _mend_from_rows(self, damaged: list[int]) -> str:
        now = UnixSeconds(self._clock.now() // 1000)

        def mend(writer: Writer) -> None:
            with writer.change(now) as change:
                mend_restricted(change, damaged, REASON)

        await self._store.write_now(mend)
        return "the restrictions' rows"

    async def _mend_from_peer(self, damaged: list[int]) -> str | None:
        peer = self._config.peer
        if not peer:
            return None
        keys = read_peer_keys(self._config.replica, peer)
        rows = {block: await asyncio.to_thread(fetch_block, peer, block, keys) for block in damaged}
        missing = [block for block, found in rows.items() if found is None]
        if missing:
            raise StoreError(f"{peer}: block {missing[0]} is damaged there too")
        now = UnixSeconds(self._clock.now() // 1000)
        whole = {block: found for block, found in rows.items() if found is not None}

        def mend(writer: Writer) -> None:
            with writer.change(now) as change:
                mend_blocks(change, whole, peer, REASON)

        await self._store.write_now(mend)
        return peer

    async def _mend_from_snapshot(self, damaged: list[int]) -> str | None:
        needed = await self._store.read(needed_snapshot)
        if needed is None:
            return None
        name, feed, sequence = str(needed[0]), str(needed[1]), int(needed[2])
        path = self._kept(feed, name, sequence)
        if path is None:
            raise StoreError(f"{name} is not in the spool any more")
        file = identify(path, "snapshot", feed, sequence)
        now = UnixSeconds(self._clock.now() // 1000)
        plan = self._config.read_plan()
        await self._store.write_now(lambda writer: mend_from_snapshot(writer, file, plan, damaged, now, REASON))
        return name

    def _kept(self, feed: str, name: str, sequence: int) -> Path | None:
        """The snapshot as it came, or as it was converted."""
        spool = self._config.spool_path / feed
        converted = spool / CONVERTED / f"snapshot-{feed}-{sequence}.csv"
        return next((path for path in (converted, spool / name) if path.is_file()), None)
