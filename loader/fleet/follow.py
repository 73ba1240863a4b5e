"""One feed's messages from the engine's stream, in order, each once: on from where we were, or anew if it changed.

The engine may have lost, wiped or set back what it had: `Follower` tells that by comparing, and begins at its first
message. What a message holds is for `incoming`; that it fits what is applied already, for `sources.jetstream`.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

import msgspec
import nats.errors
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, StreamInfo
from nats.js.errors import APIError

from loader.fleet.connect import Engine, Link, inbox_token, telling
from loader.fleet.stream_metrics import StreamMetrics
from loader.fleet.streams import feed_subject, open_feed_stream
from loader.fleet.wire import MESSAGE_ID
from loader.sources.backoff import Backoff
from lookupd.errors import SourceError
from lookupd.limits import (
    MESSAGE_ID_CHARS_MAX,
    STREAM_BACKOFF_SECONDS,
    STREAM_BYTES_ON_THE_WAY_MAX,
    STREAM_HEARTBEAT_SECONDS,
    STREAM_IDLE_SECONDS,
    STREAM_MESSAGES_PER_REQUEST,
    STREAM_REQUEST_SECONDS,
    STREAM_SILENCE_SECONDS,
)
from lookupd.model import StreamPosition
from lookupd.observe.log import log
from lookupd.settings import JetStreamSettings

HEARTBEAT, NO_MORE_NOW = "100", "408"
"""What the engine says on the way: it is there; the request's time is over."""


class Arrival(msgspec.Struct, frozen=True):
    """One message, as it came."""

    place: StreamPosition
    payload: bytes
    headers: Mapping[str, str]


class _Changed(Exception):
    """The stream is not the one that we followed; the argument is one of stream_metrics.CHANGES."""


class Follower:
    """One feed's subject. One task runs `run`; the rest may be asked at any time."""

    def __init__(
        self,
        settings: JetStreamSettings,
        feed: str,
        replica: str,
        metrics: StreamMetrics,
        *,
        take: Callable[[Arrival], Awaitable[None]],
        started: Callable[[Engine], None],
        changed: Callable[[], None],
    ) -> None:
        """take: each message; may wait, and nothing more is asked for meanwhile. started: with each connection, and
        while nothing comes. changed: the messages come again from the first one. Raises ConfigError.
        """
        self.link = Link(settings, replica)
        self.seen: StreamPosition | None = None
        self.waiting = 0
        self.looked = asyncio.Event()
        self._settings, self._feed, self._replica = settings, feed, replica
        self._metrics = metrics
        self._take, self._started, self._anew = take, started, changed
        self._engine: Engine | None = None
        self._created = ""
        self._delivered = 0
        self._told = "not followed yet"

    @property
    def engine(self) -> Engine | None:
        """While messages come."""
        return self._engine if self._engine is not None and self._engine.alive else None

    async def run(self) -> None:
        """For ever; `seen` says where to begin. looked is set once it is known whether there is an engine."""
        backoff = Backoff(*STREAM_BACKOFF_SECONDS)
        while True:
            try:
                await self._follow(await self.link.engine(), backoff)
            except _Changed as change:
                self._start_over(str(change))
            except SourceError as error:
                self._tell(str(error))
            finally:
                self._engine = None
                self._metrics.connected = False
            self.looked.set()
            await asyncio.sleep(backoff.failed())

    # -- where to begin ----------------------------------------------------------------------------------

    async def _follow(self, engine: Engine, backoff: Backoff) -> None:
        """Until something is wrong: raises SourceError or _Changed."""
        info = await open_feed_stream(engine, self._settings, make=False)
        self._created = _created(info)
        self._compare(info)
        inbox = engine.client.new_inbox()
        messages: asyncio.Queue[Msg] = asyncio.Queue(2 * STREAM_MESSAGES_PER_REQUEST)
        async with telling(engine):
            subscription = await engine.client.subscribe(
                inbox, cb=messages.put, pending_bytes_limit=STREAM_BYTES_ON_THE_WAY_MAX
            )
        lost = asyncio.create_task(engine.lost.wait())
        try:
            consumer = await self._make_consumer(engine)
            self._tell("")
            self._engine, self._metrics.connected = engine, True
            self._started(engine)
            self.looked.set()
            while True:
                await self._request(engine, consumer, inbox)
                idle = await self._read(messages, lost, inbox)
                backoff.succeeded()
                if idle:
                    self._compare(await open_feed_stream(engine, self._settings, make=False))
                    self._started(engine)
        finally:
            lost.cancel()
            with suppress(nats.errors.Error):
                await subscription.unsubscribe()

    def _compare(self, info: StreamInfo) -> None:
        """Raises _Changed when this cannot be the stream that we have seen."""
        seen = self.seen
        if seen is None:
            return
        if (seen.stream, seen.created) != (self._settings.stream, _created(info)):
            raise _Changed("replaced")
        if info.state.last_seq < seen.sequence:
            raise _Changed("rolled_back")

    def _start_over(self, reason: str) -> None:
        log("engine_changed", feed=self._feed, reason=reason, seen=self.seen.sequence if self.seen else 0)
        self._metrics.changes[reason] += 1
        self.seen = None
        self._anew()

    async def _make_consumer(self, engine: Engine) -> str:
        """One of our own, which the engine forgets when we are gone. It begins with the message seen last, so that
        this one can be compared.
        """
        seen = self.seen
        config = ConsumerConfig(
            name=f"{inbox_token(self._replica)}_{self._feed}_{secrets.token_hex(6)}",
            deliver_policy=DeliverPolicy.ALL if seen is None else DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=None if seen is None else seen.sequence,
            ack_policy=AckPolicy.NONE,
            filter_subject=feed_subject(self._settings, self._feed),
            inactive_threshold=STREAM_IDLE_SECONDS,
            mem_storage=True,
            num_replicas=1,
        )
        async with telling(engine):
            try:
                made = await engine.jetstream.add_consumer(self._settings.stream, config)
            except APIError as error:
                raise SourceError(
                    f"stream {self._settings.stream}: no consumer: {error.description or error}: see the account's "
                    "rights and limits"
                ) from None
        self._delivered = 0
        self.waiting = self._metrics.waiting = made.num_pending or 0
        return str(made.name)

    # -- messages ----------------------------------------------------------------------------------------

    async def _request(self, engine: Engine, consumer: str, inbox: str) -> None:
        wanted = {
            "batch": STREAM_MESSAGES_PER_REQUEST,
            "expires": int(STREAM_REQUEST_SECONDS * 1e9),
            "idle_heartbeat": int(STREAM_HEARTBEAT_SECONDS * 1e9),
        }
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._settings.stream}.{consumer}"
        async with telling(engine):
            await engine.client.publish(subject, msgspec.json.encode(wanted), reply=inbox)

    async def _read(self, messages: asyncio.Queue[Msg], lost: asyncio.Task[bool], inbox: str) -> bool:
        """What one request brings; whether its time was over before all of it came. Raises SourceError, _Changed."""
        left = STREAM_MESSAGES_PER_REQUEST
        while left:
            message = await self._next(messages, lost)
            if message.subject != inbox:
                await self._deliver(message)
                left -= 1
                continue
            headers = message.headers or {}
            status = headers.get("Status", "")
            if status == NO_MORE_NOW:
                return True
            if status != HEARTBEAT:
                told = headers.get("Description", "nobody answers for the consumer")
                raise SourceError(f"stream {self._settings.stream}: {status[:8]} {told[:80]}")
        return False

    async def _next(self, messages: asyncio.Queue[Msg], lost: asyncio.Task[bool]) -> Msg:
        if not messages.empty():
            return messages.get_nowait()
        coming = asyncio.create_task(messages.get())
        try:
            await asyncio.wait({coming, lost}, timeout=STREAM_SILENCE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if coming.done():
                return coming.result()
        finally:
            coming.cancel()
        raise SourceError("the connection was lost" if lost.done() else "the engine is silent")

    async def _deliver(self, message: Msg) -> None:
        try:
            found = message.metadata
        except (nats.errors.Error, ValueError, IndexError):
            raise SourceError(f"a message of {message.subject[:80]} that no stream has sent") from None
        if found.sequence.consumer != self._delivered + 1:
            raise SourceError("messages are missing on the way")
        self._delivered += 1
        headers = message.headers or {}
        told = headers.get(MESSAGE_ID, "")[:MESSAGE_ID_CHARS_MAX]
        place = StreamPosition(self._settings.stream, self._created, found.sequence.stream, told)
        if self.seen is not None and place.sequence <= self.seen.sequence:
            if place.sequence == self.seen.sequence and place.message != self.seen.message:
                raise _Changed("rewritten")
        else:
            await self._take(Arrival(place, message.data, headers))
            self.seen = place
        self.waiting = self._metrics.waiting = found.num_pending

    def _tell(self, reason: str) -> None:
        """Once for each change; that there is no connection, the link says."""
        if reason == self._told:
            return
        if reason and self.link.connected:
            log("stream_unusable", feed=self._feed, reason=reason)
        elif not reason:
            log("stream_followed", feed=self._feed, stream=self._settings.stream)
        self._told = reason


def _created(info: StreamInfo) -> str:
    return "" if info.created is None else info.created.isoformat()
