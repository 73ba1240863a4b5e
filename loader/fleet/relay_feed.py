"""One feed on its way from its source to the engine: fetched, verified, published in order, each delta once.

The position is the engine's own: the last message of the feed's subject. What we remember beside it only tells
whether the engine went back behind us. When to call `round`, and with which connection, is `relay`'s.
"""

from __future__ import annotations

import asyncio
import re
import time
from contextlib import suppress
from pathlib import Path

import msgspec
from nats.js.api import StreamInfo
from nats.js.errors import APIError

from loader.files import line_chunks, parse_file_name, verified
from loader.fleet.connect import Engine, telling
from loader.fleet.position import EnginePosition, Known, Last, created
from loader.fleet.relay_metrics import RelayFeedMetrics
from loader.fleet.streams import feed_subject
from loader.fleet.wire import EXPECTED_LAST, PAYLOAD_BYTES_MAX, Envelope, encode_envelope
from loader.formats import Step
from loader.formats.lookupd_steps import OwnFormat
from loader.sequence import beyond, chain, newest_snapshot
from loader.sources import Source
from loader.spool import Spool
from loader.trust import PublicKey
from loader.validate import read_delta
from lookupd.errors import FeedError, SourceError
from lookupd.limits import DELTA_LINE_BYTES_MAX, RELAY_LOT, RELAY_RETRY_SECONDS
from lookupd.model import UnixMillis, UnixSeconds
from lookupd.numbering import Plan
from lookupd.observe.log import log
from lookupd.settings import FeedSettings, JetStreamSettings
from lookupd.units import parse_time

TIDY_SECONDS = 3600.0
"""Between two looks for files that may leave the spool."""

_WRONG_LAST = {10071, 10164}
"""The engine's words for: somebody else has published meanwhile."""

_IN_PROCESS = 10158
"""The same message is on its way already, from another relay."""


_ENDING = re.compile(r"(?:\.json)?(?:\.minisig)?(?:\.part)?(?:\.of)?$")


class Trouble(msgspec.Struct, frozen=True):
    """Why the feed does not move: `gap`, `rejected` or `foreign`; since when, and when to try again."""

    kind: str
    step: str
    reason: str
    exit_code: int
    since: float
    retry_at: float = 0.0
    wait_seconds: float = 0.0


class AnyNetwork:
    """The relay has no store: whether a network is known is for the replicas."""

    def network_id(self, code: str) -> int | None:
        """Every code is one."""
        return 1


class WallClock:
    """What the spool notes times by."""

    def now(self) -> UnixMillis:
        """In milliseconds."""
        return UnixMillis(time.time_ns() // 1_000_000)


class RelayFeed:
    """One feed of one relay. Used by one task."""

    def __init__(
        self,
        name: str,
        settings: FeedSettings,
        jetstream: JetStreamSettings,
        *,
        source: Source,
        spool: Path,
        keys: tuple[PublicKey, ...],
        plan: Plan,
        metrics: RelayFeedMetrics,
    ) -> None:
        self.name = name
        self.trouble: Trouble | None = None
        self._settings, self._jetstream = settings, jetstream
        self._subject = feed_subject(jetstream, name)
        self._format = OwnFormat(name, signed=bool(keys))
        self._source, self._keys, self._plan, self._metrics = source, keys, plan, metrics
        self._clock = WallClock()
        self._spool = Spool(spool, self._format, source, self._clock)
        self._at = EnginePosition(name, jetstream, spool, keys, metrics)
        self._bridged = 0
        self._tidied_at = 0.0

    @property
    def position(self) -> int:
        """The last delta in the engine, as far as we saw; 0 = none."""
        return self._at.known.feed if self._at.known else 0

    def open(self) -> None:
        """Make the spool, and remember. Raises SourceError."""
        self._spool.make()
        self._at.recall()

    async def close(self) -> None:
        """Let go of the source."""
        await self._source.close()

    async def round(self, engine: Engine, info: StreamInfo) -> bool:
        """Publish what there is, at most a lot of it; whether there is more at once. info: the stream's, read now.

        Raises SourceError when the source or the engine cannot be used; with the source away, what lies in the spool
        is published first. A bad file is no error here: it is told, and is the feed's `trouble`.
        """
        away: SourceError | None = None
        names: frozenset[str] = frozenset()
        try:
            names = await self._source.names()
            self._metrics.seen_at = self._clock.now()
        except SourceError as error:
            away = error
        steps = self._format.steps(names | self._spool.names())
        deltas = [step for step in steps if step.type == "delta"]
        self._metrics.source_sequence = max((step.sequence for step in deltas), default=0)
        last = await self._at.read(engine)
        self._at.judge(last, info)
        start = await self._start(last, info, steps)
        reach = chain(deltas, start)[:RELAY_LOT]
        for step in reach:
            envelope = await self._prepare(step)
            if envelope is None:
                return False
            published = await self._publish(engine, info, envelope, last)
            if published is None:
                return True
            last = published
        self._judge_gap(deltas, max(start, last.feed or 0))
        self._tidy()
        if away is not None:
            raise away
        return len(reach) == RELAY_LOT

    # -- where to begin ----------------------------------------------------------------------------------

    async def _start(self, last: Last, info: StreamInfo, steps: list[Step]) -> int:
        """The position after which to publish."""
        if last.feed is None:
            if self._at.known is not None and self._at.aged_out(last, info):
                return self._at.known.feed
            return await self._beginning(steps)
        snapshot = newest_snapshot(steps)
        trouble = self.trouble
        if (
            snapshot is not None
            and trouble is not None
            and snapshot.sequence > max(last.feed, self._bridged)
            and time.monotonic() - trouble.since >= self._settings.gap_wait
        ):
            log("gap_bridged_by_snapshot", feed=self.name, position=last.feed, snapshot=snapshot.name)
            self._clear()
            self._bridged = snapshot.sequence
        return max(last.feed, self._bridged)

    async def _beginning(self, steps: list[Step]) -> int:
        """For an engine that has nothing: the deltas behind the newest snapshot, and those before, without a gap, that
        are younger than what the stream keeps: replicas that were away need them."""
        deltas = {step.sequence: step for step in steps if step.type == "delta"}
        if not deltas:
            return 0
        snapshot = newest_snapshot(steps)
        first = snapshot.sequence + 1 if snapshot is not None else min(deltas)
        low = first
        while low - 1 in deltas:
            low -= 1
        oldest = UnixSeconds(int(time.time() - self._jetstream.max_age))
        high = first
        while low < high:  # the files' times grow with their sequences
            middle = (low + high) // 2
            if await self._made_at(deltas[middle]) < oldest:
                low = middle + 1
            else:
                high = middle
        return low - 1

    async def _made_at(self, step: Step) -> UnixSeconds:
        """As its manifest says; unchecked, which is enough to choose where to begin."""
        await self._spool.fetch(step)
        try:
            manifest = msgspec.json.decode((self._spool.folder / f"{step.name}.json").read_bytes(), type=dict)
            return parse_time(str(manifest.get("created_at")))
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError, ValueError):
            return UnixSeconds(int(time.time()))  # judged when its turn comes

    # -- one delta ---------------------------------------------------------------------------------------

    async def _prepare(self, step: Step) -> Envelope | None:
        """Fetch and check it; None if it cannot be published now."""
        trouble = self.trouble
        if trouble is not None and trouble.step == step.name and time.monotonic() < trouble.retry_at:
            return None
        await self._spool.fetch(step)
        try:
            envelope = await asyncio.to_thread(self._read, step)
        except FeedError as error:
            self._spool.discard(step)  # its sender may have replaced it
            self._reject(step, error)
            return None
        return envelope

    def _read(self, step: Step) -> Envelope:
        """Manifest, signature, hash, and every line: nothing is published that a replica would refuse by itself."""
        file = self._format.open(step, self._spool.folder, self._keys)
        with verified(file) as (data, _):
            read_delta(file, line_chunks(file, data, DELTA_LINE_BYTES_MAX), self._plan, AnyNetwork())
            data.seek(0)
            content = data.read() if file.bytes <= PAYLOAD_BYTES_MAX else None
        try:
            manifest = (self._spool.folder / f"{step.name}.json").read_bytes()
            signature = (self._spool.folder / f"{step.name}.json.minisig").read_bytes() if self._keys else None
        except OSError as error:
            raise FeedError(f"{step.name}: {error.strerror}") from None
        return Envelope(self.name, step.sequence, step.name, manifest, signature, content)

    async def _publish(self, engine: Engine, info: StreamInfo, envelope: Envelope, last: Last) -> Last | None:
        """The subject's new end; None if another relay was faster: look again."""
        payload, headers = encode_envelope(envelope)
        headers[EXPECTED_LAST] = str(last.stream)
        async with telling(engine):
            try:
                taken = await engine.jetstream.publish(
                    self._subject, payload, stream=self._jetstream.stream, headers=headers
                )
            except APIError as error:
                if error.err_code in _WRONG_LAST | {_IN_PROCESS}:
                    self._metrics.conflicts += 1
                    return None
                raise SourceError(
                    f"stream {self._jetstream.stream}: does not take {envelope.name}: {error.description or error}"
                ) from None
        if taken.duplicate:
            self._metrics.duplicates += 1
            now = await self._at.read(engine)
            if (now.feed or 0) < envelope.sequence:
                raise SourceError(
                    f"stream {self._jetstream.stream}: knows {envelope.name} and does not have it: somebody took it "
                    "out; published again once the duplicate window is over"
                )
            return None
        self._metrics.published += 1
        self._metrics.note_published(envelope.sequence, self._clock.now())
        self._at.remember(Known(created(info), taken.seq, envelope.sequence))
        log("delta_published", feed=self.name, sequence=envelope.sequence, stream_sequence=taken.seq)
        self._clear()
        return Last(taken.seq, envelope.sequence)

    # -- what stands in the way --------------------------------------------------------------------------

    def _judge_gap(self, deltas: list[Step], position: int) -> None:
        held = beyond(deltas, position)
        if chain(deltas, position):
            return
        if not held:
            self._clear()
            return
        if self.trouble is None:
            reason = f"engine at {position}, {position + 1} missing, {held[0].name} is there"
            self.trouble = Trouble("gap", held[0].name, reason, 5, time.monotonic())
            self._metrics.blocked = "gap"
            log("feed_gap", feed=self.name, position=position, next_file=held[0].name)

    def _reject(self, step: Step, error: FeedError) -> None:
        first, most = RELAY_RETRY_SECONDS
        before = self.trouble if self.trouble is not None and self.trouble.step == step.name else None
        wait = min(before.wait_seconds * 2, most) if before else first
        now = time.monotonic()
        if before is None or before.reason != str(error):
            log("file_rejected", feed=self.name, file=step.name, reason=error)
        since = before.since if before else now
        self.trouble = Trouble("rejected", step.name, str(error), error.exit_code, since, now + wait, wait)
        self._metrics.blocked = "rejected"
        self._metrics.rejected += 1

    def _clear(self) -> None:
        if self.trouble is not None:
            log("feed_moves_again", feed=self.name, position=self.position)
        self.trouble = None
        self._metrics.blocked = None

    def _tidy(self) -> None:
        """Once in a while: what was published and is older than `keep` may go."""
        if time.monotonic() - self._tidied_at < TIDY_SECONDS and self._tidied_at:
            return
        self._tidied_at = time.monotonic()
        oldest = time.time() - self._settings.keep
        with suppress(OSError):  # tried again next time
            for path in self._spool.folder.iterdir():
                found = parse_file_name(_ENDING.sub("", path.name))
                if found is not None and found.sequence <= self.position and path.stat().st_mtime < oldest:
                    path.unlink(missing_ok=True)
