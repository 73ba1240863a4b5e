"""What a message costs the engine: real NATS servers on loopback, one and three, with as many connections as consumers.

The servers are Debian's, run as the tests run them. Consumers are ordered push consumers, each on a connection of its
own, as replicas are; they only count. CPU is the servers'; the acknowledgements' times have the client's in them.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import nats
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import StorageType

from bench.processes import ChildFailed, Server, find
from bench.scale.costs import Delivered, EngineCosts, spread_of
from bench.scale.replica import sync_spread
from tests.nats_servers import VERSION, NatsServer, nats_cluster, nats_server

STREAM, SUBJECT = "SCALE", "scale.main"
ANSWER_SECONDS_MAX = 20.0
DELIVERED_SECONDS_MAX = 120.0
SYNCS = 300


def measure(folder: Path, sizes: Sequence[int], messages: int, consumers: int) -> EngineCosts:
    """sizes: bytes of a message; messages: how many of each. Raises ChildFailed."""
    if find("nats-server") is None:
        raise ChildFailed("nats-server is not installed (Debian: nats-server): the engine cannot be measured")
    os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])
    found: list[Delivered] = []
    for count in (1, 3):
        print(f"scale: the engine, servers: {count}", file=sys.stderr, flush=True)
        place = Path(tempfile.mkdtemp(prefix="engine-", dir=folder)).resolve()
        try:
            found += _measure(place, count, sizes, messages, consumers)
        except (AssertionError, nats.errors.Error, OSError, TimeoutError) as error:
            raise ChildFailed(f"the engine with {count} servers: {error!r}") from error
        finally:
            shutil.rmtree(place, ignore_errors=True)
    return EngineCosts(VERSION, consumers, found, sync_spread(folder, SYNCS), is_synced=False)


def _measure(folder: Path, count: int, sizes: Sequence[int], messages: int, consumers: int) -> list[Delivered]:
    if count == 1:
        with nats_server(folder) as server:
            return asyncio.run(_ask([server], sizes, messages, consumers))
    with nats_cluster(folder, count) as servers:
        return asyncio.run(_ask(servers, sizes, messages, consumers))


async def _ask(servers: Sequence[NatsServer], sizes: Sequence[int], messages: int, consumers: int) -> list[Delivered]:
    client = await nats.connect([servers[0].url])
    try:
        jetstream = client.jetstream(timeout=ANSWER_SECONDS_MAX)
        await _make_stream(jetstream, len(servers))
        found = []
        for size in sizes:
            await jetstream.purge_stream(STREAM)
            cpu, _ = await _publish(jetstream, servers, bytes(size), messages)
            publish_cpu = cpu / messages
            cpu, acks = await _deliver(jetstream, servers, bytes(size), messages, consumers)
            deliver_cpu = max(0.0, cpu - publish_cpu * messages) / (messages * consumers)
            found.append(Delivered(len(servers), size, spread_of(acks), publish_cpu, deliver_cpu))
        return found
    finally:
        await client.close()


async def _make_stream(jetstream: JetStreamContext, replicas: int) -> None:
    """A cluster that has just agreed may not yet place a stream."""
    until = time.monotonic() + ANSWER_SECONDS_MAX
    while True:
        try:
            await jetstream.add_stream(
                name=STREAM, subjects=[SUBJECT], num_replicas=replicas, storage=StorageType.FILE, max_bytes=1 << 30
            )
            return
        except nats.errors.Error:
            if time.monotonic() > until:
                raise
            await asyncio.sleep(0.2)


async def _publish(
    jetstream: JetStreamContext, servers: Sequence[NatsServer], payload: bytes, messages: int
) -> tuple[float, list[float]]:
    """CPU seconds of the servers, and the seconds of each acknowledgement; one after another, as a relay does it."""
    before, acks = _cpu(servers), []
    for _ in range(messages):
        began = time.perf_counter()
        await jetstream.publish(SUBJECT, payload)
        acks.append(time.perf_counter() - began)
    return _cpu(servers) - before, acks


async def _deliver(
    jetstream: JetStreamContext, servers: Sequence[NatsServer], payload: bytes, messages: int, consumers: int
) -> tuple[float, list[float]]:
    """The same with consumers, until all have all."""
    await jetstream.purge_stream(STREAM)
    counter = _Counter(messages * consumers)
    clients = [await nats.connect([servers[at % len(servers)].url]) for at in range(consumers)]
    try:
        for client in clients:
            await client.jetstream(timeout=ANSWER_SECONDS_MAX).subscribe(
                SUBJECT, stream=STREAM, ordered_consumer=True, cb=counter.count
            )
        before = _cpu(servers)
        _, acks = await _publish(jetstream, servers, payload, messages)
        async with asyncio.timeout(DELIVERED_SECONDS_MAX):
            await counter.complete.wait()
        return _cpu(servers) - before, acks
    finally:
        await asyncio.gather(*(_close(client) for client in clients))


async def _close(client: Client) -> None:
    await client.close()


class _Counter:
    """Of deliveries, to all consumers together."""

    def __init__(self, wanted: int) -> None:
        self._left = wanted
        self.complete = asyncio.Event()

    async def count(self, message: Msg) -> None:
        """One more."""
        self._left -= 1
        if not self._left:
            self.complete.set()


def _cpu(servers: Sequence[NatsServer]) -> float:
    running = [server.process for server in servers if server.process is not None]
    return sum(Server(process.pid, {}, 0.0).cpu_ns() for process in running) / 1e9
