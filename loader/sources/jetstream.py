"""A fleet's engine as a source: deltas come as messages, and everything else from the signed files themselves.

The engine is a fast way to know and to have what the files have too. It is believed in nothing: without it, or where
it lacks, doubles or makes up something, the files are looked at. Reading the stream is `fleet.follow`'s; what is
applied, and in which order, `feed_sync`'s.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from loader.files import parse_file_name
from loader.fleet.acks import Words
from loader.fleet.connect import Engine
from loader.fleet.follow import Arrival, Follower
from loader.fleet.incoming import Incoming, data_name, read_manifest
from loader.fleet.stream_metrics import StreamMetrics
from loader.fleet.wire import PAYLOAD_BYTES_MAX, decode_envelope
from loader.sources import Source
from loader.trust import PublicKey
from lookupd.errors import FeedError, SourceError
from lookupd.limits import (
    FILES_LIST_SECONDS,
    INCOMING_MESSAGES_MAX,
    STREAM_FIRST_LOOK_SECONDS,
    STREAM_PASSED_MAX,
)
from lookupd.model import FeedPosition, StreamPosition
from lookupd.observe.log import log
from lookupd.settings import JetStreamSettings


class JetStreamSource:
    """See Following. Used by one task; another one, of its own, reads the stream."""

    def __init__(
        self,
        feed: str,
        settings: JetStreamSettings,
        replica: str,
        *,
        files: Source,
        spool: Path,
        keys: tuple[PublicKey, ...],
        poll: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """files: the source of the signed files. poll: between two looks at them when they are needed. Raises
        ConfigError for the connection's settings; nothing is connected yet.
        """
        self.changed = asyncio.Event()
        self.metrics = StreamMetrics(feed)
        self._feed, self._files, self._poll = feed, files, poll
        self._incoming = Incoming(spool, feed, keys)
        self._words = Words(settings, feed, replica, self.metrics)
        self._follower = Follower(
            settings,
            feed,
            replica,
            self.metrics,
            take=self._take,
            started=self._repeat_word,
            changed=self._start_over,
        )
        self._following: asyncio.Task[None] | None = None
        self._room = asyncio.Event()
        self._position: FeedPosition | None = None
        self._place: StreamPosition | None = None
        self._passed: StreamPosition | None = None
        self._anew = False
        self._repeating: asyncio.Task[None] | None = None
        self._monotonic = monotonic
        self._waits_since: float | None = None
        self._listed: frozenset[str] = frozenset()
        self._list_at = 0.0
        self._needed_at = 0.0
        self._unlisted = ""
        self._refusing = False

    # -- what the feed tells us --------------------------------------------------------------------------

    def at(self, position: FeedPosition | None, place: StreamPosition | None) -> None:
        """See Following."""
        if self._following is None:
            self._incoming.clear()
            self._follower.seen = place
            self._following = asyncio.create_task(self._follower.run())
        if self._place != place:
            self._place, self._anew = place, False
        if self._position != position:
            self._position = position
            self._waits_since = None
            self._listed = frozenset(filter(self._leads_on, self._listed))
            self._incoming.forget(self._sequence)
        if self._waits_since is None and self._incoming.messages:
            self._waits_since = self._monotonic()
        self._make_room()

    def place_of(self, name: str) -> StreamPosition | None:
        """See Following."""
        held = self._incoming.messages.get(name)
        return held.place if held is not None else None

    def passed(self) -> StreamPosition | None:
        """See Following."""
        passed, known = self._passed, self._place
        if passed is None or self._incoming.messages:
            return None
        if known is None or self._anew or (known.stream, known.created) != (passed.stream, passed.created):
            return passed
        return passed if passed.sequence - known.sequence > STREAM_PASSED_MAX else None

    def _start_over(self) -> None:
        """The stream is another one now: what it was read up to means nothing."""
        self._incoming.forget_places()
        self._passed, self._anew = None, True

    @property
    def _sequence(self) -> int:
        return 0 if self._position is None else self._position.sequence

    # -- messages ----------------------------------------------------------------------------------------

    async def _take(self, arrival: Arrival) -> None:
        """One message: checked, kept, told of; waits while too many wait for their turn."""
        while len(self._incoming.messages) >= INCOMING_MESSAGES_MAX:
            self._room.clear()
            await self._room.wait()
        while True:
            try:
                result = await self._taken(arrival)
                break
            except SourceError as error:  # our disk: nothing is lost, it is tried again
                log("message_delayed", feed=self._feed, reason=error)
                await asyncio.sleep(self._poll)
            except FeedError as error:
                result = "refused"
                if not self._refusing:  # once, however many of them come in a row
                    log("message_refused", feed=self._feed, stream_sequence=arrival.place.sequence, reason=error)
                break
        self._refusing = result == "refused"
        self.metrics.messages[result] += 1
        self.metrics.sequence = arrival.place.sequence
        self.metrics.held = len(self._incoming.messages)
        if result in {"taken", "reference"}:
            self.changed.set()

    async def _taken(self, arrival: Arrival) -> str:
        """One of stream_metrics.MESSAGES. Raises FeedError, SourceError."""
        envelope = decode_envelope(arrival.payload, arrival.headers)
        if len(arrival.payload) > PAYLOAD_BYTES_MAX:
            raise FeedError(f"message {envelope.name}: {len(arrival.payload)} bytes: none has over {PAYLOAD_BYTES_MAX}")
        if envelope.feed != self._feed:
            raise FeedError(f"message {envelope.name}: on the subject of feed {self._feed!r}")
        if envelope.sequence < self._sequence:
            self._passed = arrival.place
            return "old"
        known = self._incoming.messages.get(envelope.name)
        if known is not None and known.manifest == envelope.manifest:
            known.place = arrival.place
            return "again"
        held = await asyncio.to_thread(self._incoming.write, envelope, arrival.place)
        if known is not None or envelope.sequence <= self._sequence:  # it may have been applied meanwhile
            self._incoming.drop(held)
            other = known is not None or self._differs(envelope.manifest)
            if not other:
                self._passed = arrival.place
            elif not self._refusing:
                log("message_disagrees", feed=self._feed, file=envelope.name, way_out="ask the sender")
            return "other" if other else "old"
        self._incoming.messages[envelope.name] = held
        return "reference" if held.reference else "taken"

    def _differs(self, manifest: bytes) -> bool:
        """Whether a delta of the position's sequence is another one than we applied."""
        found, position = read_manifest(manifest), self._position
        if found is None or position is None or position.type != "delta" or found.sequence != position.sequence:
            return False
        return found.sha256 != position.sha256

    def _make_room(self) -> None:
        self.metrics.held = len(self._incoming.messages)
        if self.metrics.held < INCOMING_MESSAGES_MAX:
            self._room.set()

    # -- as a source -------------------------------------------------------------------------------------

    async def names(self) -> frozenset[str]:
        """What came, and what the files have where they were looked at. Raises SourceError when they are needed and
        cannot be.
        """
        self.changed.clear()
        await self._wait_for_messages()
        if self._must_list():
            await self._list()
        return self._listed | self._incoming.names()

    async def fetch(self, name: str, to: Path) -> None:
        """From the message, once; what it brought was of no use if it is asked for again."""
        if await asyncio.to_thread(self._incoming.move, name, to):
            return
        try:
            await self._files.fetch(name, to)
        except SourceError:
            self._list_at = 0.0  # it may have been taken away: look again
            raise

    async def publish(self, name: str, content: bytes) -> bool:
        """An acknowledgement goes to the engine; a request for a snapshot to who has one, if he takes any."""
        if name.endswith(".ack.json"):
            await self._words.say(content, self._follower.engine)
            return True
        try:
            await self._files.publish(name, content)
        except SourceError as error:
            log("request_not_taken", feed=self._feed, file=name, reason=error)
        return True

    async def close(self) -> None:
        """See Source."""
        tasks = {task for task in (self._following, self._repeating) if task is not None}
        while tasks:  # more than once: the library swallows a cancellation that meets it while it connects or closes
            for task in tasks:
                task.cancel()
            _, tasks = await asyncio.wait(tasks, timeout=0.1)
        await self._follower.link.close()
        await self._files.close()

    def _repeat_word(self, engine: Engine) -> None:
        """Beside the reading: a stream that is missing must not hold it up."""
        if self._repeating is None or self._repeating.done():
            self._repeating = asyncio.create_task(self._words.repeat(engine))

    async def _wait_for_messages(self) -> None:
        """The engine's first word, or messages that it is about to send; not for long."""
        follower = self._follower
        with suppress(TimeoutError):
            async with asyncio.timeout(STREAM_FIRST_LOOK_SECONDS):
                await follower.looked.wait()
                while follower.engine is not None and follower.waiting and not self._incoming.messages:
                    await asyncio.sleep(0.005)

    # -- the files ---------------------------------------------------------------------------------------

    def _must_list(self) -> bool:
        now = self._monotonic()
        if self._follower.engine is None or not self._sequence or now >= self._list_at:
            return True
        if now < self._needed_at or not self._is_stuck(now):
            return False
        self._needed_at = now + self._poll
        return True

    def _is_stuck(self, now: float) -> bool:
        """Something is there, and what comes before it is not, or it does not move since a while."""
        found = self._incoming.messages.values()
        if self._waits_since is not None and now - self._waits_since > self._poll:
            return bool(found)
        if any(held.reference for held in found):
            return True
        at = self._sequence
        for sequence in sorted({held.sequence for held in found}):
            if sequence > at + 1:
                return not any(self._lists(missing) for missing in range(at + 1, sequence))
            at = max(at, sequence)
        return False

    def _lists(self, sequence: int) -> bool:
        return any((found := parse_file_name(name)) and found.sequence == sequence for name in self._listed)

    async def _list(self) -> None:
        now = self._monotonic()
        try:
            names = await self._files.names()
        except SourceError as error:
            self.metrics.listings["failed"] += 1
            if self._follower.engine is None or not self._sequence:
                raise
            if self._unlisted != str(error):
                log("files_unreachable", feed=self._feed, reason=error)
            self._unlisted = str(error)
            self._list_at = now + self._poll
            return
        self.metrics.listings["listed"] += 1
        self._unlisted = ""
        self._list_at = now + random.uniform(*FILES_LIST_SECONDS)
        self._listed = frozenset(name for name in names if self._leads_on(name))

    def _leads_on(self, name: str) -> bool:
        """Months of files lie there; only those beyond the position are looked at each time."""
        found = parse_file_name(data_name(name))
        return found is not None and found.feed == self._feed and found.sequence > self._sequence
