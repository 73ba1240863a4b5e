"""What a replica says to its fleet: acknowledgements, one subject a feed and replica. The last word counts.

Said at once, without waiting for an answer; the last of them is said again, with one, when there is time. That an
engine takes none stops nothing: what is acknowledged lies in the spool as well.
"""

from __future__ import annotations

import msgspec
import nats.errors

from loader.acknowledge import Acknowledgement
from loader.fleet.connect import Engine
from loader.fleet.stream_metrics import StreamMetrics
from loader.fleet.streams import ack_stream, ack_subject
from lookupd.limits import ACK_BYTES_KEPT
from lookupd.observe.log import log
from lookupd.settings import JetStreamSettings


class Words:
    """Of one feed on this replica."""

    def __init__(self, settings: JetStreamSettings, feed: str, replica: str, metrics: StreamMetrics) -> None:
        self._subject = ack_subject(settings, feed, replica)
        self._stream = ack_stream(settings)
        self._feed, self._metrics = feed, metrics
        self._last: bytes | None = None
        self._told = False

    async def say(self, content: bytes, engine: Engine | None) -> None:
        """Put it to the engine, if there is one; it is the last word in any case."""
        content = shortened(content)
        self._last = content
        if engine is not None:
            try:
                await engine.client.publish(self._subject, content)
                self._metrics.acks["sent"] += 1
                return
            except (nats.errors.Error, OSError):
                pass  # the connection has just ended: with the next one
        self._metrics.acks["kept"] += 1

    async def repeat(self, engine: Engine) -> None:
        """The last word, until the stream has it. May take as long as the engine takes for no answer."""
        content = self._last
        if content is None:
            return
        try:
            await engine.jetstream.publish(self._subject, content, stream=self._stream)
        except (nats.errors.Error, OSError, TimeoutError, ValueError) as error:
            if engine.alive:
                self._refused(getattr(error, "description", None) or str(error))
            return
        self._told = False
        if self._last is content:
            self._last = None

    def _refused(self, reason: str) -> None:
        self._metrics.acks["lost"] += 1
        if not self._told:
            self._told = True
            log("acknowledgement_lost", feed=self._feed, stream=self._stream, reason=reason)


def shortened(content: bytes) -> bytes:
    """An acknowledgement that the stream takes: of many rejections, the first ones."""
    if len(content) <= ACK_BYTES_KEPT:
        return content
    told = msgspec.json.decode(content, type=Acknowledgement)
    rejected = told.rejected
    while len(content) > ACK_BYTES_KEPT and rejected:
        rejected = rejected[: len(rejected) // 2]
        content = msgspec.json.encode(msgspec.structs.replace(told, rejected=rejected)) + b"\n"
    return content
