"""How far each replica of a fleet is, by its own word: the acknowledgements it puts to the engine.

Words are kept by feed and replica, the last one of each; and who disagrees with most about the content. What a
replica says of itself is believed: it decides nothing.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Iterable

import msgspec
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from loader.acknowledge import Acknowledgement
from loader.fleet.connect import Engine, inbox_token, telling
from loader.fleet.streams import ACK_BYTES_MAX, ack_prefix, ack_stream
from lookupd.limits import ENGINE_ANSWER_SECONDS, FLEET_REPLICAS_MAX, FLEET_SEQUENCES_KEPT
from lookupd.model import UnixMillis
from lookupd.observe.log import log
from lookupd.settings import FEED_NAME, JetStreamSettings
from lookupd.units import parse_millis

VISIBLE = {"applied", "duplicate"}
"""Results that say: callers see it."""

READ_BATCH = 256
"""Words asked for at a time."""

_decode = msgspec.json.Decoder(Acknowledgement).decode


class Word(msgspec.Struct, frozen=True):
    """Of one replica about one feed. sequence: the last delta that its callers see."""

    feed: str
    replica: str
    sequence: int
    result: str
    digest: str | None
    serial: int | None
    visible_at: UnixMillis | None


class Followers:
    """All words heard."""

    def __init__(self) -> None:
        self.malformed = 0
        self._words: dict[str, dict[str, Word]] = {}
        self._digests: dict[str, OrderedDict[int, dict[str, str]]] = {}
        self._told: dict[str, frozenset[str]] = {}

    def of(self, feed: str) -> list[Word]:
        """The replicas' words, by name."""
        return sorted(self._words.get(feed, {}).values(), key=lambda word: word.replica)

    def feeds(self) -> list[str]:
        """Those that anybody said something about."""
        return sorted(self._words)

    def hear(self, subject: str, payload: bytes) -> None:
        """Take a replica's word. Whatever is none is counted."""
        try:
            if len(payload) > ACK_BYTES_MAX:
                raise ValueError("too long")
            said = _decode(payload)
            *_, feed, replica = subject.split(".")
            if said.feed != feed or inbox_token(said.replica) != replica or not FEED_NAME.fullmatch(feed):
                raise ValueError("of somebody else")
            visible_at = parse_millis(said.visible_at) if said.visible_at else None
        except (msgspec.MsgspecError, ValueError):  # also what is no UTF-8
            self.malformed += 1
            return
        words = self._words.setdefault(feed, {})
        before = words.get(replica)
        if before is None and len(words) >= FLEET_REPLICAS_MAX:
            self.malformed += 1
            return
        if said.result in VISIBLE:
            word = Word(feed, replica, said.sequence, said.result, said.digest, said.serial, visible_at)
            self._note_digest(word)
        elif before is not None:
            word = msgspec.structs.replace(before, result=said.result)
        else:  # confirmed or refused, and not visible: so far we know nothing better
            word = Word(feed, replica, max(said.sequence - 1, 0), said.result, None, None, None)
        words[replica] = word

    def differing(self, feed: str) -> list[str]:
        """Replicas whose digest differs from most others' at the newest sequence where some differ.

        Two replicas that took a delta before and after an agreed moment differ until the next delta: what lasts over
        several is an error.
        """
        for digests in reversed(self._digests.get(feed, OrderedDict()).values()):
            if len(digests) < 2:
                continue
            (common, _), *others = Counter(digests.values()).most_common()
            return sorted(replica for replica, digest in digests.items() if digest != common) if others else []
        return []

    def _note_digest(self, word: Word) -> None:
        if word.digest is None:
            return
        kept = self._digests.setdefault(word.feed, OrderedDict())
        if word.sequence not in kept and kept and word.sequence < next(iter(kept)):
            return  # of a replica that is far behind: nobody else's digest of then is known
        kept.setdefault(word.sequence, {})[word.replica] = word.digest
        if len(kept) > FLEET_SEQUENCES_KEPT or next(reversed(kept)) != max(kept):
            self._digests[word.feed] = OrderedDict(sorted(kept.items())[-FLEET_SEQUENCES_KEPT:])
        differing = frozenset(self.differing(word.feed))
        if differing != self._told.get(word.feed, frozenset()):
            self._told[word.feed] = differing
            if differing:
                names = ",".join(sorted(differing))
                log("fleet_digests_differ", feed=word.feed, sequence=word.sequence, replicas=names)
            else:
                log("fleet_digests_agree", feed=word.feed, sequence=word.sequence)


async def listen(engine: Engine, settings: JetStreamSettings, followers: Followers) -> None:
    """Hear each word from now on, for as long as the connection lasts. Raises SourceError."""

    async def hear(message: Msg) -> None:
        followers.hear(message.subject, message.data)

    async with telling(engine):
        await engine.client.subscribe(f"{ack_prefix(settings)}.>", cb=hear)


async def read_words(engine: Engine, settings: JetStreamSettings) -> list[tuple[str, bytes]]:
    """The last word of each replica about each feed, as the stream has it. Raises SourceError."""
    config = ConsumerConfig(
        name=engine.client.new_inbox().rpartition(".")[2],
        deliver_policy=DeliverPolicy.LAST_PER_SUBJECT,
        ack_policy=AckPolicy.NONE,
        filter_subject=f"{ack_prefix(settings)}.>",
        inactive_threshold=30.0,
        mem_storage=True,
        num_replicas=1,
    )
    words: list[tuple[str, bytes]] = []
    async with telling(engine), asyncio.timeout(ENGINE_ANSWER_SECONDS * 2):
        made = await engine.jetstream.add_consumer(ack_stream(settings), config)
        wanted = min(made.num_pending or 0, FLEET_REPLICAS_MAX)
        reading = await engine.jetstream.pull_subscribe_bind(stream=ack_stream(settings), name=made.name)
        try:
            while len(words) < wanted:
                batch = await reading.fetch(min(READ_BATCH, wanted - len(words)), timeout=ENGINE_ANSWER_SECONDS)
                words += [(message.subject, message.data) for message in batch]
        finally:
            await reading.unsubscribe()
            await engine.jetstream.delete_consumer(ack_stream(settings), made.name)
    return words


def hear_all(followers: Followers, words: Iterable[tuple[str, bytes]]) -> None:
    """Take them all."""
    for subject, payload in words:
        followers.hear(subject, payload)
