"""The two streams of a fleet: the feeds' deltas, and what the replicas say of them. Names, settings, checks.

Made where they are missing, by whoever may (the relay); never changed: a stream with other settings is told, since
somebody meant something by them. What lies in a message is `wire`'s.
"""

from __future__ import annotations

from collections.abc import Iterator

from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig, StreamInfo
from nats.js.errors import APIError, NotFoundError

from loader.fleet.connect import Engine, inbox_token, telling
from loader.fleet.wire import PAYLOAD_BYTES_MAX
from lookupd.errors import SourceError
from lookupd.observe.log import log
from lookupd.settings import JetStreamSettings

MESSAGE_BYTES_MAX = PAYLOAD_BYTES_MAX + 64 * 1024
"""The data and its headers: a manifest and a signature, in base64, have at most 28 kB."""

ACK_BYTES_MAX = 16 * 1024
"""An acknowledgement has some 400 bytes; the rejections of one file fit."""

ACKS_BYTES_MAX = 64 << 20
"""One message each of some 1,000 replicas and feeds, with room for the longest."""

DUPLICATE_WINDOW_SECONDS = 120
"""How long the engine knows a message by its id: a relay that got no answer publishes again within seconds. Two
minutes are the servers' default."""

FEW = 1000
"""Fewer messages of a subject than this are no history."""


def feed_subject(settings: JetStreamSettings, feed: str) -> str:
    """Where a feed's deltas go."""
    return f"{settings.subject}.{feed}"


def ack_subject(settings: JetStreamSettings, feed: str, replica: str) -> str:
    """Where a replica says how far it is; the last message counts."""
    return f"{ack_prefix(settings)}.{feed}.{inbox_token(replica)}"


def ack_prefix(settings: JetStreamSettings) -> str:
    """Of all those; not among the feeds' subjects."""
    return f"{settings.subject}-acks"


def ack_stream(settings: JetStreamSettings) -> str:
    """The second stream's name."""
    return f"{settings.stream}_ACKS"


def feed_config(settings: JetStreamSettings) -> StreamConfig:
    """As the relay makes the first one."""
    return StreamConfig(
        name=settings.stream,
        description="lookupd: signed deltas, one subject a feed",
        subjects=[f"{settings.subject}.>"],
        retention=RetentionPolicy.LIMITS,
        storage=StorageType.FILE,
        discard=DiscardPolicy.OLD,
        num_replicas=settings.replicas,
        max_age=float(settings.max_age),
        max_bytes=settings.max_bytes,
        max_msg_size=MESSAGE_BYTES_MAX,
        duplicate_window=DUPLICATE_WINDOW_SECONDS,
        deny_delete=True,
        allow_direct=True,
    )


def ack_config(settings: JetStreamSettings) -> StreamConfig:
    """As the relay makes the second one. A replica that is gone for good is forgotten after max_age."""
    return StreamConfig(
        name=ack_stream(settings),
        description="lookupd: how far each replica is",
        subjects=[f"{ack_prefix(settings)}.>"],
        retention=RetentionPolicy.LIMITS,
        storage=StorageType.FILE,
        discard=DiscardPolicy.OLD,
        num_replicas=settings.replicas,
        max_age=float(settings.max_age),
        max_bytes=ACKS_BYTES_MAX,
        max_msg_size=ACK_BYTES_MAX,
        max_msgs_per_subject=1,
        allow_direct=True,
    )


async def open_feed_stream(engine: Engine, settings: JetStreamSettings, *, make: bool) -> StreamInfo:
    """The first stream, checked. make: if it is missing. Raises SourceError, naming what is wrong with it."""
    if engine.payload_bytes_max < MESSAGE_BYTES_MAX:
        raise SourceError(
            f"{engine.server}: takes messages of {engine.payload_bytes_max} bytes: `max_payload` in the server must be "
            f"at least {MESSAGE_BYTES_MAX}; its default is enough"
        )
    info = await _open(engine, settings.stream, feed_config(settings) if make else None)
    wrong = list(faults(info.config, settings))
    if wrong:
        raise SourceError(
            f"stream {settings.stream}: {'; '.join(wrong)}: change it with `nats stream edit`, or set [jetstream] to "
            "what it has"
        )
    return info


async def open_ack_stream(engine: Engine, settings: JetStreamSettings, *, make: bool) -> StreamInfo:
    """The second stream. Raises SourceError."""
    info = await _open(engine, ack_stream(settings), ack_config(settings) if make else None)
    if not _covers(info.config, f"{ack_prefix(settings)}.>"):
        raise SourceError(f"stream {ack_stream(settings)}: does not take {ack_prefix(settings)}.>")
    return info


async def _open(engine: Engine, name: str, config: StreamConfig | None) -> StreamInfo:
    async with telling(engine):
        try:
            return await engine.jetstream.stream_info(name)
        except NotFoundError:
            if config is None:
                raise SourceError(f"stream {name}: is not there: start the relay, which makes it") from None
        try:
            info = await engine.jetstream.add_stream(config)
        except APIError as error:
            raise SourceError(
                f"stream {name}: cannot be made: {error.description or error}: [jetstream] asks for {config.max_bytes} "
                f"bytes on {config.num_replicas} servers, for which `max_file` and the account's limits must have room"
            ) from None
    log("stream_made", stream=name, replicas=info.config.num_replicas)
    return info


def faults(config: StreamConfig, settings: JetStreamSettings) -> Iterator[str]:
    """What a stream has that loses, reorders or doubles deltas, or keeps less of them than was asked for."""
    if not _covers(config, f"{settings.subject}.>"):
        yield f"subjects {config.subjects}: expected {settings.subject}.>"
    for name, value, wanted in (
        ("retention", config.retention, RetentionPolicy.LIMITS.value),
        ("storage", config.storage, StorageType.FILE.value),
        ("discard", config.discard, DiscardPolicy.OLD.value),
    ):
        if value != wanted:
            yield f"{name} {value}: expected {wanted}"
    if (config.num_replicas or 1) < settings.replicas:
        yield f"replicas {config.num_replicas}: expected {settings.replicas}"
    for name, least, unit, has in (
        ("max_age", settings.max_age, " s", config.max_age),
        ("max_bytes", settings.max_bytes, "", config.max_bytes),
        ("max_msg_size", MESSAGE_BYTES_MAX, "", config.max_msg_size),
        ("max_msgs", FEW, "", config.max_msgs),
        ("max_msgs_per_subject", FEW, "", config.max_msgs_per_subject),
    ):
        if has is not None and 0 < has < least:
            yield f"{name} {has:g}{unit}: expected {least:g}{unit} or more"
    if config.duplicate_window < DUPLICATE_WINDOW_SECONDS:
        yield f"duplicate_window {config.duplicate_window:g} s: expected {DUPLICATE_WINDOW_SECONDS} s or more"
    if not config.deny_delete:
        yield "deny_delete is off: single messages can be taken out"
    for name in ("mirror", "sources", "sealed", "no_ack", "subject_transform", "discard_new_per_subject"):
        if getattr(config, name):
            yield f"{name} is set: expected none"
    if config.persist_mode == "async":
        yield "persist_mode async: expected none: it says that a message is kept before it is"


def _covers(config: StreamConfig, wanted: str) -> bool:
    """Whether a subject of the stream takes everything that `wanted` does, which ends in `>`."""
    prefix = wanted.removesuffix(">")
    return any(
        subject == ">" or (subject.endswith(".>") and prefix.startswith(subject.removesuffix(">")))
        for subject in config.subjects or []
    )
