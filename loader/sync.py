"""`lookupd-loader sync`: the exchange of one replica. Feeds, the agreed second, the scrub, and their clock.

Each feed's steps are `feed_sync`'s; here is who runs when. One thread writes the store and one reads it, so
the event loop always has time for sources, signals and scrapes. A change that would last past the moment of a
pending notice waits until that has fired, within bounds.
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from loader.exchange_metrics import ExchangeMetrics
from loader.feed_sync import FeedSync
from loader.formats import make_format
from loader.pending import Fired, fire_due
from loader.scrubbing import BackgroundScrub
from loader.sequence import clock_start
from loader.sources import Following
from loader.sources.backoff import Backoff
from loader.sources.open import open_source
from loader.steady import SteadyClock, acceptance_file
from loader.supervising import supervise
from loader.trust import parse_public_key
from lookupd.errors import ConfigError, DamagedBlock, LookupdError, SourceError, StoreError, StoreReplaced
from lookupd.model import Receipt, UnixMillis, UnixSeconds
from lookupd.observe.log import log, use_format
from lookupd.second_look import warnings
from lookupd.settings import CLOCK_FILE, Config
from lookupd.store.reader import Reader
from lookupd.store.rights import make_folder
from lookupd.store.waiting import Waiting
from lookupd.store.writer import Writer
from lookupd.supervise import Supervisor

CLOCK_SAVE_SECONDS = 10.0
"""How often the clock's knowledge is kept: a jump while nobody runs is measured from there."""

TICK_SECONDS = 0.5
"""Longest sleep before a pending moment: a clock that was taken over, and a change made by a command, are noticed
by then."""

YIELD_SECONDS_MAX = 300.0
"""How long a change may wait for pending moments that follow each other closely: a port has an hour."""

BACKOFF_SECONDS = (1.0, 60.0)
"""After a source or the store failed: the first wait, and the longest."""

RECOVERED_RECEIPTS = 256
"""Receipts looked at when starting: more than one lot of deltas can be without its last acknowledgement."""


class StoreThreads:
    """The store's two threads: see `feed_sync.Store`. A Writer, and a Reader on its environment."""

    def __init__(self, config: Config, clock: SteadyClock) -> None:
        self._config, self._clock = config, clock
        self._writing = ThreadPoolExecutor(1, thread_name_prefix="store-write")
        self._reading = ThreadPoolExecutor(1, thread_name_prefix="store-read")
        self._write_lock = asyncio.Lock()
        self._fired = asyncio.Event()
        self.writer: Writer | None = None
        self.reader: Reader | None = None
        self.waiting = Waiting(0, None, 0, 0)
        self.changed = asyncio.Event()
        self.writing_since: float | None = None
        self.reading_since: float | None = None

    async def open(self) -> None:
        """Raises StoreError."""
        loop = asyncio.get_running_loop()
        path, map_size = self._config.store_path, self._config.store.map_size
        self.writer = await loop.run_in_executor(self._writing, lambda: Writer(path, map_size=map_size))
        self.reader = await loop.run_in_executor(self._reading, self.writer.reader)

    async def close(self) -> None:
        """After the work under way has ended."""
        loop = asyncio.get_running_loop()
        async with self._write_lock:
            if self.reader is not None:
                await loop.run_in_executor(self._reading, self.reader.close)
            if self.writer is not None:
                await loop.run_in_executor(self._writing, self.writer.close)
            self._writing.shutdown()
            self._reading.shutdown()

    async def write(self, work: Callable[[Writer], Any], expected_seconds: float = 0.0) -> Any:
        """Run `work` in the writing thread, when it will not stand in a pending notice's way."""
        await self._make_way(expected_seconds)
        return await self.write_now(work)

    async def write_now(self, work: Callable[[Writer], Any]) -> Any:
        """The same without making way."""
        assert self.writer is not None
        writer = self.writer

        def and_look() -> tuple[Any, Waiting]:
            return work(writer), writer.waiting()

        async with self._write_lock:
            self.writing_since = time.monotonic()
            try:
                done, waiting = await asyncio.get_running_loop().run_in_executor(self._writing, and_look)
            finally:
                self.writing_since = None
        self.tell_waiting(waiting)
        return done

    async def read(self, work: Callable[[Reader], Any]) -> Any:
        """Run `work` in the reading thread, on the newest commit."""
        assert self.reader is not None
        reader = self.reader

        def pinned() -> Any:
            self.reading_since = time.monotonic()
            try:
                reader.pin()
                return work(reader)
            finally:
                self.reading_since = None

        return await asyncio.get_running_loop().run_in_executor(self._reading, pinned)

    async def _make_way(self, expected_seconds: float) -> None:
        since = self._clock.now()
        while self.due is not None:
            now = self._clock.now()
            left = self.due - now / 1000
            if left > expected_seconds + 0.05 or now - since > YIELD_SECONDS_MAX * 1000:
                return
            self._fired.clear()
            with suppress(TimeoutError):  # not wait_for: up to Python 3.11 it may swallow a cancellation
                async with asyncio.timeout(max(left, 0.0) + 1.0):
                    await self._fired.wait()

    def tell_waiting(self, waiting: Waiting) -> None:
        """What waits now; wakes whoever waits for the moment, or for it to have passed."""
        if waiting.version < self.waiting.version:
            return  # seen before the last commit, told after it
        self.waiting = waiting
        self._fired.set()
        self.changed.set()

    @property
    def due(self) -> UnixSeconds | None:
        """The next moment that something waits for."""
        return self.waiting.moment


class Sync:
    """One running exchange."""

    def __init__(self, config: Config, *, clock: SteadyClock | None = None) -> None:
        self.config = config
        use_format(config.log.format)
        try:
            make_folder(config.store_path)  # first: the spool usually lies in it
            make_folder(config.spool_path)
        except OSError as error:
            raise ConfigError(f"sync.spool: {config.spool_path}: {error.strerror}: name another folder") from None
        acceptance_file(clock_file(config)).unlink(missing_ok=True)  # a word for us is for a jump while we run
        self.clock = clock or SteadyClock(clock_file(config), config.limits.clock_step)
        self.metrics = ExchangeMetrics(self.clock.now)
        self.metrics.places = {"store": config.store_path, "spool": config.spool_path}
        self.store = StoreThreads(config, self.clock)
        self.feeds: list[FeedSync] = []
        self._scrub = BackgroundScrub(config, self.store, self.metrics, self.clock)
        self.supervisor = Supervisor()
        self._stopping = asyncio.Event()
        self._refused = False

    # -- life --------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until SIGTERM or SIGINT. Raises ConfigError, or StoreError if the store cannot be opened."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        try:
            await self.start()
            listener = await self._listen()
            tasks = [asyncio.create_task(self._keep_feed(feed)) for feed in self.feeds]
            keepers = [self._keep_moments, self._keep_looking, self._keep_clock]
            if self.config.sync.scrub:
                keepers.append(self._scrub.run)
            tasks += [asyncio.create_task(keeper()) for keeper in keepers]
            tasks.append(asyncio.create_task(supervise(self.store, self._status, self.supervisor)))
            stopping = asyncio.create_task(self._stopping.wait())
            log("syncing", replica=self.config.replica.name, feeds=",".join(feed.name for feed in self.feeds))
            done, _ = await asyncio.wait([*tasks, stopping], return_when=asyncio.FIRST_COMPLETED)
            for task in (*tasks, stopping):
                task.cancel()
            await asyncio.gather(*tasks, stopping, return_exceptions=True)
            if listener is not None:
                await listener.close()
            for task in done - {stopping}:
                task.result()  # an error of ours: end with it, the supervisor starts anew
        finally:
            self.supervisor.tell(STOPPING=1)
            await self.close()
            log("stopped")

    async def once(self) -> int:
        """Do what is there to do, and end; returns the exit code: 0, or that of what stands in the way."""
        try:
            await self.start()
            await self._fire()
            for feed in self.feeds:
                while await feed.round() and feed.follows:
                    pass  # what the engine still has
            await self._fire()
            return next((feed.trouble.exit_code for feed in self.feeds if feed.trouble is not None), 0)
        finally:
            await self.close()

    async def start(self) -> None:
        """Open everything, finish what a crash left, fire what came due while nobody ran."""
        if not self.config.feeds:
            raise ConfigError("feed: no feed is configured: name one, such as [feed.main]")
        for warning in warnings(self.config):
            if not warning.startswith("feed."):
                continue  # of the daemon's listeners, which are not ours
            log("config_warning", message=warning)
        await self.store.open()
        for name, settings in self.config.feeds.items():
            source = open_source(name, settings, config=self.config)
            if isinstance(source, Following):
                self.metrics.streams.append(source.metrics)
            keys = self.metrics.keys[name] = tuple(parse_public_key(key) for key in settings.public_keys)
            plan = self.config.read_plan()
            self.feeds.append(
                FeedSync(
                    name,
                    settings,
                    format=make_format(settings.format, name, plan.country_code, signed=bool(keys)),
                    source=source,
                    spool=self.config.spool_path / name,
                    keys=keys,
                    plan=plan,
                    limits=self.config.limits,
                    replica=self.config.replica.name,
                    store=self.store,
                    clock=self.clock,
                    metrics=self.metrics.feed(name, self.config.limits),
                )
            )
        await self._recover()
        await self._look()

    async def close(self) -> None:
        """Let go of everything; work that is under way ends first."""
        for feed in self.feeds:
            await feed.close()
        await self.store.close()
        self.clock.save()

    async def _recover(self) -> None:
        """Commits whose moment was not noted: the data file's own time tells when they were made."""
        committed_at = await self.store.read(lambda reader: _written_at(reader.path))
        noted: list[tuple[int, Receipt]] = await self.store.write_now(lambda writer: writer.note_visible(committed_at))
        if noted:
            log("recovered", commits=len(noted))
        newest: list[tuple[int, Receipt]] = await self.store.read(_newest_receipts)
        for feed in self.feeds:
            await feed.recover(
                (serial, receipt) for serial, receipt in newest if receipt.feed == feed.name and receipt.type != "fired"
            )

    # -- feeds -------------------------------------------------------------------------------------------

    async def _keep_feed(self, feed: FeedSync) -> None:
        backoff = Backoff(*BACKOFF_SECONDS, random.random)
        told = ""
        while True:
            wait = float(self.config.feeds[feed.name].poll)
            try:
                await feed.round()
                backoff.succeeded()
                if told:
                    log("feed_reachable", feed=feed.name)
                    told = ""
                await feed.pause(wait)
                continue
            except StoreReplaced:
                raise  # it was restored: the supervisor starts us on the new one
            except DamagedBlock as error:
                log("store_unusable", feed=feed.name, reason=error)
                self.metrics.feeds[feed.name].error("store")
                await self._scrub.mend_now(error.block)
            except LookupdError as error:  # the world's fault: tried again, whatever it is
                kind = "source" if isinstance(error, SourceError) else "store"
                self.metrics.feeds[feed.name].error(kind)
                wait = backoff.failed()
                if str(error) != told:
                    told = str(error)
                    log(
                        "source_unusable" if kind == "source" else "store_unusable",
                        feed=feed.name,
                        reason=error,
                        retry_seconds=round(wait, 1),
                    )
            await asyncio.sleep(wait)

    # -- the agreed second -------------------------------------------------------------------------------

    async def _look(self) -> None:
        """Know what waits, and the feeds' positions; a person's command may have changed both."""
        waiting, positions = await self.store.read(lambda reader: (reader.waiting(), dict(reader.state.feeds)))
        self.metrics.positions = positions
        if waiting.version > self.store.waiting.version:
            self.store.tell_waiting(waiting)
        self._tell_waiting()

    def _tell_waiting(self) -> None:
        waiting, metrics = self.store.waiting, self.metrics
        if waiting.damaged > metrics.damaged_pending:
            log("pending_damaged", notices=waiting.damaged, way_out="restore the store from a backup")
        metrics.pending, metrics.next_due, metrics.damaged_pending, _ = waiting

    async def _keep_looking(self) -> None:
        while True:
            try:
                await self._look()
            except StoreError as error:
                log("look_failed", reason=error)
            await asyncio.sleep(TICK_SECONDS)

    async def _keep_moments(self) -> None:
        """Sleep until the next moment, in short steps, and fire."""
        while True:
            due = self.store.due
            left = TICK_SECONDS if due is None else due - self.clock.now() / 1000
            if due is not None and left <= 0:
                try:
                    await self._fire()
                except StoreReplaced:
                    raise
                except StoreError as error:
                    log("fire_failed", reason=error)
                    if isinstance(error, DamagedBlock):
                        await self._scrub.mend_now(error.block)
                    await asyncio.sleep(TICK_SECONDS)
                continue
            self.store.changed.clear()
            with suppress(TimeoutError):  # not wait_for: up to Python 3.11 it may swallow a cancellation
                async with asyncio.timeout(min(left, TICK_SECONDS)):
                    await self.store.changed.wait()

    async def _fire(self) -> None:
        def fire(writer: Writer) -> tuple[Fired | None, UnixMillis]:
            fired = fire_due(writer, self.clock.now())
            visible_at = self.clock.now()
            if fired is not None:
                writer.note_visible(visible_at)
            return fired, visible_at

        fired, visible_at = await self.store.write_now(fire)
        if fired is not None:
            for moment in fired.effective_at:
                self.metrics.lateness.observe(visible_at / 1000 - moment)
            for waits in fired.visible:
                start = clock_start(waits.notice.notified_at, waits.notice.effective_at)
                if waits.feed in self.metrics.feeds:
                    self.metrics.feeds[waits.feed].note(waits.notice.kind.value, visible_at / 1000 - start)
            self.metrics.fired["applied"] += fired.notices - fired.superseded
            self.metrics.fired["superseded"] += fired.superseded
            late = visible_at / 1000 - min(fired.effective_at)
            log("fired", notices=fired.notices, serial=fired.serial, late_ms=round(late * 1000))
        self._tell_waiting()

    # -- the clock ---------------------------------------------------------------------------------------

    async def _keep_clock(self) -> None:
        while True:
            if self.clock.take_acceptance():
                log("clock_accepted")
            self.clock.now()
            refused = self.clock.refused_seconds
            self.metrics.clock_refused_seconds = refused
            if bool(refused) != self._refused:
                self._refused = bool(refused)
                log("clock_step_refused", seconds=round(refused)) if refused else log("clock_followed")
            self.clock.save()
            await self._pause(CLOCK_SAVE_SECONDS)

    async def _pause(self, seconds: float) -> None:
        """Sleep, but look for a person's word about the clock each second."""
        until = asyncio.get_running_loop().time() + seconds
        while (left := until - asyncio.get_running_loop().time()) > 0:
            await asyncio.sleep(min(left, 1.0))
            self.clock.now()
            if self.clock.acceptance_waits() or bool(self.clock.refused_seconds) != self._refused:
                return

    # -- the listener ------------------------------------------------------------------------------------

    async def _listen(self) -> Any:
        if self.config.sync.http is None:
            return None
        from lookupd.transports.http import listen
        from lookupd.web import Route

        routes = [Route("GET", "/v1/exchange", self._get_exchange, "status")]
        return await listen(self.config.sync.http, self.config, self.metrics, self._readiness, routes)

    async def _get_exchange(self, _: Any) -> Any:
        from lookupd.web import json_response

        return json_response(self.metrics.tell())

    def _status(self) -> str:
        """For the supervisor's status."""
        positions = " ".join(f"{feed.name}={feed.position}" for feed in self.feeds)
        reason = self._readiness()
        return f"{positions}; needs a person: {reason}" if reason else positions

    def _readiness(self) -> str | None:
        """Why the exchange needs a person; None if it does not."""
        for feed in self.feeds:
            if feed.trouble is not None:
                return f"feed {feed.name}: {feed.trouble.kind}: {feed.trouble.reason}"
        if self.clock.refused_seconds:
            return f"the wall clock jumped by {self.clock.refused_seconds:.0f} s: `lookupd-loader clock`"
        return None


def clock_file(config: Config) -> Path:
    """Where the clock's knowledge is kept."""
    return config.spool_path / CLOCK_FILE


def _written_at(path: Path) -> UnixMillis:
    return UnixMillis((path / "data.mdb").stat().st_mtime_ns // 1_000_000)


def _newest_receipts(reader: Reader) -> list[tuple[int, Receipt]]:
    return reader.newest_receipts(RECOVERED_RECEIPTS)
