"""The whole fleet at one moment, as the engine has it: each feed's last delta, each replica's last word."""

from __future__ import annotations

from typing import Any

import msgspec
from nats.js.errors import NotFoundError

from loader.files import parse_file_name
from loader.fleet.connect import Engine, connect, telling
from loader.fleet.followers import Followers, Word, hear_all, read_words
from loader.fleet.streams import feed_subject, open_ack_stream
from loader.fleet.wire import FILE
from lookupd.settings import JetStreamSettings
from lookupd.units import format_millis


class State(msgspec.Struct, frozen=True):
    """Of one feed. sequence: the engine's last delta."""

    feed: str
    sequence: int
    words: list[Word]
    differing: list[str]

    def rows(self) -> list[dict[str, Any]]:
        """One for each replica."""
        return [
            {
                "replica": word.replica,
                "sequence": word.sequence,
                "behind": max(self.sequence - word.sequence, 0),
                "result": word.result,
                "digest": word.digest,
                "visible_at": format_millis(word.visible_at),
            }
            for word in self.words
        ]

    def as_object(self) -> dict[str, Any]:
        """For JSON."""
        return {"feed": self.feed, "sequence": self.sequence, "replicas": self.rows(), "differing": self.differing}


async def read_fleet(settings: JetStreamSettings) -> list[State]:
    """Raises ConfigError, SourceError."""
    engine = await connect(settings, "fleet")
    try:
        await open_ack_stream(engine, settings, make=False)
        followers = Followers()
        hear_all(followers, await read_words(engine, settings))
        return [
            State(feed, await _last(engine, settings, feed), followers.of(feed), followers.differing(feed))
            for feed in followers.feeds()
        ]
    finally:
        await engine.close()


async def _last(engine: Engine, settings: JetStreamSettings, feed: str) -> int:
    """By the file's name alone: this is for people to see."""
    async with telling(engine):
        try:
            message = await engine.jetstream.get_last_msg(settings.stream, feed_subject(settings, feed))
        except NotFoundError:
            return 0
    found = parse_file_name(str((message.headers or {}).get(FILE, "")))
    return found.sequence if found else 0
