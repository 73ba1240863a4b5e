"""`lookupd-loader relay`: signed files -> NATS JetStream, for any number of replicas. Who runs when.

Each feed's steps are `relay_feed`'s. Two relays may run at once: each delta is published once, by whoever is faster.
The engine may be away: the relay waits, and the replicas follow the files.
"""

from __future__ import annotations

import asyncio
import signal

from nats.js.api import StreamInfo

from loader.fleet.connect import Engine, Link
from loader.fleet.followers import Followers, hear_all, listen, read_words
from loader.fleet.monitor import check_servers
from loader.fleet.relay_feed import RelayFeed
from loader.fleet.relay_metrics import RelayMetrics
from loader.fleet.streams import open_ack_stream, open_feed_stream
from loader.sources.backoff import Backoff
from loader.sources.open import open_source
from loader.trust import parse_public_key
from lookupd.errors import ConfigError, SourceError
from lookupd.limits import FLEET_READ_SECONDS, RELAY_BACKOFF_SECONDS
from lookupd.observe.log import log, use_format
from lookupd.settings import Config, FeedSettings
from lookupd.supervise import Supervisor
from lookupd.transports.http import HttpListener
from lookupd.transports.http import listen as serve

WHO = "relay"
"""Among the engine's connections, and in the subjects of its answers, `_INBOX.relay.>`."""

ROUNDS_ONCE_MAX = 1_000_000
"""Rounds of one `--once`: more deltas than any source has."""


class Relay:
    """One running relay."""

    def __init__(self, config: Config) -> None:
        """Raises ConfigError."""
        self.config = config
        use_format(config.log.format)
        self.link = Link(config.jetstream, WHO)
        self.followers = Followers()
        self.metrics = RelayMetrics(self.link, self.followers)
        self.metrics.places = {"spool": config.spool_path}
        self.feeds: list[RelayFeed] = []
        self._checked: Engine | None = None
        self._checking = asyncio.Lock()
        self._stopping = asyncio.Event()
        self._reason: str | None = "the engine was not reached yet"
        if not config.feeds:
            raise ConfigError("feed: no feed is configured: name one, such as [feed.main]")
        for name, settings in config.feeds.items():
            self.feeds.append(self._make_feed(name, settings))

    def _make_feed(self, name: str, settings: FeedSettings) -> RelayFeed:
        if settings.source.startswith("jetstream:"):
            raise ConfigError(f"feed.{name}.source: a relay reads the signed files: write dir://, sftp:// or https://")
        if settings.format != "lookupd":
            raise ConfigError(
                f"feed.{name}.format: {settings.format}: a relay carries signed files of our own format: let one "
                "replica read this one, or have its sender publish `lookupd` files"
            )
        keys = self.metrics.keys[name] = tuple(parse_public_key(key) for key in settings.public_keys)
        return RelayFeed(
            name,
            settings,
            self.config.jetstream,
            source=open_source(name, settings),
            spool=self.config.spool_path / name,
            keys=keys,
            plan=self.config.read_plan(),
            metrics=self.metrics.feed(name),
        )

    # -- life --------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until SIGTERM or SIGINT. Raises ConfigError, and SourceError if the spool cannot be made."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        supervisor = Supervisor()
        listener = None
        try:
            for feed in self.feeds:
                feed.open()
            listener = await self._listen()
            tasks = [asyncio.create_task(self._keep_feed(feed)) for feed in self.feeds]
            tasks.append(asyncio.create_task(self._keep_followers()))
            stopping = asyncio.create_task(self._stopping.wait())
            log("relaying", feeds=",".join(feed.name for feed in self.feeds), stream=self.config.jetstream.stream)
            supervisor.tell(READY=1)
            done, _ = await asyncio.wait([*tasks, stopping], return_when=asyncio.FIRST_COMPLETED)
            supervisor.tell(STOPPING=1)
            for task in (*tasks, stopping):
                task.cancel()
            await asyncio.gather(*tasks, stopping, return_exceptions=True)
            for task in done - {stopping}:
                task.result()  # an error of ours: end with it, the supervisor starts anew
        finally:
            if listener is not None:
                await listener.close()
            await self.close()
            log("stopped")

    async def once(self) -> int:
        """Publish what is there, and end; returns the exit code: 0, or that of what stands in the way."""
        try:
            for feed in self.feeds:
                feed.open()
            for feed in self.feeds:
                for _ in range(ROUNDS_ONCE_MAX):
                    if not await feed.round(*await self._engine()):
                        break
            return next((feed.trouble.exit_code for feed in self.feeds if feed.trouble is not None), 0)
        finally:
            await self.close()

    async def close(self) -> None:
        """Let go of everything."""
        for feed in self.feeds:
            await feed.close()
        await self.link.close()

    # -- the engine --------------------------------------------------------------------------------------

    async def _engine(self) -> tuple[Engine, StreamInfo]:
        """A connection, and the stream as it is now; checked whenever either is new. Raises SourceError."""
        async with self._checking:
            engine = await self.link.engine()
            if self._checked is not engine:
                await check_servers(self.config.jetstream)
                await open_ack_stream(engine, self.config.jetstream, make=True)
            info = await open_feed_stream(engine, self.config.jetstream, make=True)
            self._checked = engine
            return engine, info

    # -- feeds -------------------------------------------------------------------------------------------

    async def _keep_feed(self, feed: RelayFeed) -> None:
        backoff = Backoff(*RELAY_BACKOFF_SECONDS)
        told = ""
        while True:
            wait = float(self.config.feeds[feed.name].poll)
            try:
                if await feed.round(*await self._engine()):
                    wait = 0.0
                backoff.succeeded()
                self._reason = None
                if told:
                    told = ""
                    log("feed_reachable", feed=feed.name)
            except SourceError as error:  # the world's fault: tried again, whatever it is
                self.metrics.feeds[feed.name].errors += 1
                wait = backoff.failed()
                self._reason = f"feed {feed.name}: {error}"
                if str(error) != told:
                    told = str(error)
                    log("relay_waits", feed=feed.name, reason=error, retry_seconds=round(wait, 1))
            await asyncio.sleep(wait)

    # -- replicas ----------------------------------------------------------------------------------------

    async def _keep_followers(self) -> None:
        backoff = Backoff(*RELAY_BACKOFF_SECONDS)
        heard: Engine | None = None
        while True:
            wait = FLEET_READ_SECONDS
            try:
                engine, _ = await self._engine()
                if engine is not heard:
                    await listen(engine, self.config.jetstream, self.followers)
                    heard = engine
                hear_all(self.followers, await read_words(engine, self.config.jetstream))
                backoff.succeeded()
            except SourceError:  # the feeds tell of it
                wait = backoff.failed()
            await asyncio.sleep(wait)

    # -- the listener ------------------------------------------------------------------------------------

    async def _listen(self) -> HttpListener | None:
        if self.config.sync.http is None:
            return None
        return await serve(self.config.sync.http, self.config, self.metrics, self._readiness)

    def _readiness(self) -> str | None:
        """Why somebody should look; None = all is well."""
        for feed in self.feeds:
            if feed.trouble is not None:
                return f"feed {feed.name}: {feed.trouble.kind}: {feed.trouble.reason}"
        return self._reason
