"""How far the engine has a feed: the last message of its subject that a relay has sent. And whether it went back.

The engine's word alone counts; what we remember beside it only tells that it was wiped or set back behind us. What to
publish from there on is `relay_feed`'s.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
from nats.js.api import StreamInfo
from nats.js.errors import NotFoundError

from loader.durable import write_whole
from loader.files import Manifest
from loader.fleet.connect import Engine, telling
from loader.fleet.relay_metrics import RelayFeedMetrics
from loader.fleet.streams import feed_subject
from loader.fleet.wire import Envelope, decode_envelope
from loader.trust import PublicKey, check_signature_text
from lookupd.errors import FeedError, SourceError
from lookupd.limits import FOREIGN_MESSAGES_MAX
from lookupd.model import UnixSeconds
from lookupd.observe.log import log
from lookupd.settings import JetStreamSettings

KNOWN_FILE = "relay.json"
"""In the feed's spool: what was published last."""


class Known(msgspec.Struct, frozen=True):
    """What was published last, by us or another relay, as far as we saw. created: of the stream."""

    created: str
    stream: int
    feed: int


class Last(msgspec.Struct, frozen=True):
    """The end of the feed's subject. stream: its last message, 0 = none; feed: the last delta in it, None = none."""

    stream: int
    feed: int | None


class EnginePosition:
    """Of one feed. known: what was published last, as far as we saw; None = nothing."""

    def __init__(
        self,
        feed: str,
        settings: JetStreamSettings,
        spool: Path,
        keys: tuple[PublicKey, ...],
        metrics: RelayFeedMetrics,
    ) -> None:
        self.known: Known | None = None
        self._feed, self._stream, self._subject = feed, settings.stream, feed_subject(settings, feed)
        self._spool, self._keys, self._metrics = spool, keys, metrics
        self._foreign_told = 0

    def recall(self) -> None:
        """What an earlier run remembered; without it the engine's word is taken as it is."""
        try:
            self.known = msgspec.json.decode((self._spool / KNOWN_FILE).read_bytes(), type=Known)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            self.known = None

    async def read(self, engine: Engine) -> Last:
        """Messages that no relay has sent are passed over, within bounds. Raises SourceError beyond."""
        end = at = 0
        foreign: list[tuple[int, FeedError]] = []
        for _ in range(FOREIGN_MESSAGES_MAX):
            async with telling(engine):
                try:
                    if not at:
                        message = await engine.jetstream.get_last_msg(self._stream, self._subject)
                        end = at = message.seq or 0
                    else:
                        message = await engine.jetstream.get_msg(self._stream, at)
                except NotFoundError:
                    message = None
            if message is None and not end:
                return Last(0, None)
            if message is not None and message.subject == self._subject:
                try:
                    headers = {str(name): str(value) for name, value in (message.headers or {}).items()}
                    envelope = decode_envelope(message.data or b"", headers)
                    self._check_ours(envelope)
                    self._tell_foreign(foreign)
                    return Last(end, envelope.sequence)
                except FeedError as error:
                    foreign.append((at, error))
            at -= 1
            if not at:
                break
        self._tell_foreign(foreign)
        raise SourceError(
            f"subject {self._subject}: its last messages are no relay's: find out who publishes there, then take them "
            f"out, `nats stream purge {self._stream} --subject {self._subject}`; if the feed's key changed, "
            "keep the old one beside the new one for a while"
        )

    def _check_ours(self, envelope: Envelope) -> None:
        """Raises FeedError unless it is one of this feed's files: one we have, or one that its sender signed."""
        if envelope.feed != self._feed:
            raise FeedError(f"message {envelope.name}: of feed {envelope.feed}, not {self._feed}")
        try:
            if (self._spool / f"{envelope.name}.json").read_bytes() == envelope.manifest:
                return
        except OSError:
            pass
        if self._keys:
            name = f"{envelope.name}.json.minisig"
            # by a key that expired since, too: that it was published is all that is asked
            check_signature_text(envelope.manifest, envelope.signature or b"", name, self._keys, UnixSeconds(0))
        try:
            manifest = msgspec.json.decode(envelope.manifest, type=Manifest)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise FeedError(f"message {envelope.name}: not a manifest: {error}") from None
        if (manifest.type, manifest.feed, manifest.sequence) != ("delta", envelope.feed, envelope.sequence):
            raise FeedError(f"message {envelope.name}: its manifest is for another file")

    def _tell_foreign(self, found: list[tuple[int, FeedError]]) -> None:
        """Each once. found: stream sequence and what is wrong, newest first."""
        for at, error in reversed(found):
            if at > self._foreign_told:
                self._foreign_told = at
                self._metrics.foreign += 1
                log("engine_foreign_message", feed=self._feed, subject=self._subject, stream_sequence=at, reason=error)

    def judge(self, last: Last, info: StreamInfo) -> None:
        """Whether it is behind what it had: it was wiped, or set back."""
        known, made = self.known, created(info)
        if known is not None and self.aged_out(last, info):
            return
        now = last.feed or 0
        self._metrics.sequence = now
        if known is not None and now < known.feed:
            change = "wiped" if known.created != made else "rolled_back"
            log("engine_wiped" if change == "wiped" else "engine_rolled_back", feed=self._feed, had=known.feed, has=now)
            self._metrics.engine_changes[change] += 1
        if last.feed is None:
            self.known = None
        elif known is None or (known.feed, known.created) != (now, made):
            self.remember(Known(made, last.stream, now))

    def aged_out(self, last: Last, info: StreamInfo) -> bool:
        """The subject is empty because its messages were older than the stream keeps, or were purged."""
        known = self.known
        if known is None or last.stream:
            return False
        return known.created == created(info) and info.state.last_seq >= known.stream

    def remember(self, known: Known) -> None:
        """On disk before this returns. Raises SourceError."""
        self.known = known
        self._metrics.sequence = known.feed
        try:
            write_whole(self._spool / KNOWN_FILE, msgspec.json.encode(known))
        except OSError as error:
            raise SourceError(f"spool: {self._spool}: {error.strerror}: free space on it") from None


def created(info: StreamInfo) -> str:
    """When the stream was made: another one has another time."""
    return info.created.isoformat() if info.created is not None else ""
