"""A fleet for tests: a publisher in the relay's place, and replicas that follow the engine it publishes to."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import nats
from nats.js import JetStreamContext

from loader.fleet.streams import ack_config, ack_stream, feed_config, feed_subject
from loader.fleet.wire import Envelope, encode_envelope
from loader.trust import Signer
from lookupd.config import read_config
from lookupd.errors import SourceError
from lookupd.model import StreamPosition
from lookupd.settings import JetStreamSettings
from tests.conftest import Workbench
from tests.exchange import Exchange, Rig, delta_name
from tests.nats_servers import NatsServer, settings_text

Result = TypeVar("Result")

SIGNER = Signer(bytes(range(32)), b"streamed")


class Fleet:
    """The signed files of one sender, and the engine: what a relay would put there, the test puts there itself."""

    def __init__(self, folder: Path, *servers: NatsServer, signed: bool = True, **more: object) -> None:
        """more: keys of [jetstream]. server: the one that the test itself talks to."""
        self.folder, self.server = folder, servers[0]
        self.login: dict[str, str] = {}
        self.signer = SIGNER if signed else None
        self.files = folder / "files"
        self.files.mkdir()
        self.section = settings_text(servers, **({"max_bytes": "64MiB"} | more))
        self.sender = Exchange(self._bench("sender"), source=self.files)
        self.settings = self._settings()

    def _bench(self, name: str) -> Workbench:
        (self.folder / name).mkdir()
        return Workbench(self.folder / name)

    def _settings(self) -> JetStreamSettings:
        path = self.folder / "fleet.toml"
        path.write_text(self.section)
        return read_config(path).jetstream

    def replica(self, name: str, kind: type[Exchange] = Exchange, extra: str = "", **how: Any) -> Any:
        """An exchange of `kind` (Exchange: processes, Rig: here), its tables loaded."""
        bench = self._bench(name)
        bench.load_tables()
        exchange = kind(bench, extra, source=self.files, **how)
        key = f'public_key = "{self.signer.public_key_text()}"\n' if self.signer else ""
        text = exchange.config.read_text().replace(
            f'source = "dir://{self.files}"', f'source = "jetstream:"\nfiles = "dir://{self.files}"\n{key}'
        )
        exchange.config.write_text(f'{text}[replica]\nname = "{name}"\n{self.section}')
        return exchange

    def rig(self, name: str = "a", **how: Any) -> Rig:
        found = self.replica(name, Rig, **how)
        assert isinstance(found, Rig)
        return found

    # -- what lies where -----------------------------------------------------------------------------------

    def snapshot(self, sequence: int = 1) -> None:
        """At the files only."""
        self.sender.snapshot(sequence, signer=self.signer)

    def delta(self, sequence: int, *notices: dict[str, Any]) -> Envelope:
        """At the files; returns what a relay would publish."""
        self.sender.delta(sequence, *notices, signer=self.signer)
        return self.envelope(sequence)

    def envelope(self, sequence: int) -> Envelope:
        path = self.files / delta_name(sequence)
        signature = path.with_name(path.name + ".json.minisig")
        return Envelope(
            "main",
            sequence,
            path.name,
            path.with_name(path.name + ".json").read_bytes(),
            signature.read_bytes() if self.signer else None,
            path.read_bytes(),
        )

    def unlisted(self, sequence: int, *notices: dict[str, Any]) -> Envelope:
        """A delta that only the engine has."""
        envelope = self.delta(sequence, *notices)
        self.sender.withdraw(delta_name(sequence))
        return envelope

    # -- the engine ----------------------------------------------------------------------------------------

    async def do(self, work: Callable[[JetStreamContext], Awaitable[Result]]) -> Result:
        """Something with a connection of its own."""
        client = await nats.connect(self.server.url, **self.login)
        try:
            return await work(client.jetstream())
        finally:
            await client.close()

    def now(self, work: Callable[[JetStreamContext], Awaitable[Result]]) -> Result:
        """The same, for tests without a loop."""
        return asyncio.run(self.do(work))

    async def make_streams(self, *, acks: bool = True) -> None:
        async def make(jetstream: JetStreamContext) -> None:
            await jetstream.add_stream(feed_config(self.settings))
            if acks:
                await jetstream.add_stream(ack_config(self.settings))

        await self.do(make)

    async def publish(self, *envelopes: Envelope, by_reference: bool = False, again: bool = False) -> list[int]:
        """In this order; returns the sequences in the stream. again: past the engine's own check for duplicates."""

        async def put(jetstream: JetStreamContext) -> list[int]:
            places = []
            for envelope in envelopes:
                payload, headers = encode_envelope(envelope)
                if by_reference:
                    payload, headers["Lookupd-Payload"] = b"", "files"
                if again:
                    headers["Nats-Msg-Id"] += "-again"
                places.append((await jetstream.publish(self.subject, payload, headers=headers)).seq)
            return places

        return await self.do(put)

    async def publish_raw(self, payload: bytes, headers: dict[str, str]) -> int:
        return (await self.do(lambda jetstream: jetstream.publish(self.subject, payload, headers=headers))).seq

    @property
    def subject(self) -> str:
        return feed_subject(self.settings, "main")

    async def ack(self, replica: str) -> dict[str, Any] | None:
        """The last word of a replica, as the engine keeps it."""

        async def read(jetstream: JetStreamContext) -> dict[str, Any] | None:
            try:
                found = await jetstream.get_last_msg(ack_stream(self.settings), f"lookupd.feed-acks.main.{replica}")
            except nats.js.errors.NotFoundError:
                return None
            told: dict[str, Any] = json.loads(found.data or b"{}")
            return told

        return await self.do(read)


async def follow(rig: Rig, done: Callable[[], bool], seconds: float = 20) -> None:
    """Rounds, as the exchange does them, until something is so; a source that is away is tried again."""
    async with asyncio.timeout(seconds):
        while True:
            with contextlib.suppress(SourceError):
                await rig.round()
            if done():
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.1):
                    await rig.main.pause(0.1)


async def follow_to(rig: Rig, position: int) -> None:
    await follow(rig, lambda: rig.main.position == position)


def counted(rig: Rig, name: str, result: str) -> float:
    """Of one of the stream's counters: messages, changes, acknowledgements, file_listings."""
    return rig.metric(f"lookupd_stream_{name}_total", result=result)


async def place(rig: Rig) -> StreamPosition | None:
    """As the store has it."""
    found: StreamPosition | None = await rig.sync.store.read(lambda reader: reader.streams().get("main"))
    return found
