"""The engine of a fleet is killed, wiped, set back, rewritten; the replica is killed: nothing lost, nothing twice."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from nats.js import JetStreamContext

from tests.conftest import wait_until
from tests.exchange import Exchange, Rig, changes_by_place, notice
from tests.nats_servers import NatsServer, nats_cluster, nats_server
from tests.streams import SIGNER, Fleet, counted, follow, follow_to, place

FIRST_TN = 886912340000


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    with nats_server(tmp_path / "nats") as running:
        yield running


@pytest.fixture
async def fleet(tmp_path: Path, server: NatsServer) -> Fleet:
    made = Fleet(tmp_path, server)
    await made.make_streams()
    made.snapshot(1)
    return made


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replicas in this process come back to an engine without long waits."""
    monkeypatch.setattr("loader.fleet.follow.STREAM_BACKOFF_SECONDS", (0.05, 0.2))


def words(sequence: int) -> list[dict[str, object]]:
    """A delta of its own: numbers move, some of them again and again."""
    operators = ("1401", "1402", "1403")
    return [
        notice(FIRST_TN + sequence % 7, operators[sequence % 3]),
        notice(FIRST_TN + 100 + sequence, operators[(sequence + 1) % 3]),
    ]


def by_hand(fleet: Fleet, last: int) -> int:
    """The digest of a store that took the files one by one."""
    other = Exchange(
        fleet._bench(f"hand-{last}"), source=fleet.files, feed=f'public_key = "{SIGNER.public_key_text()}"'
    )
    other.bench.load_tables()
    ended = other.once()
    assert ended.returncode == 0, ended.stderr
    assert other.position() == last
    with other.bench.reader() as reader:
        return reader.state.digest


async def check_nothing_lost_or_twice(fleet: Fleet, rig: Rig, last: int) -> None:
    assert (await rig.facts()) == (last, by_hand(fleet, last))
    assert changes_by_place(await rig.journal()) == {(n, line): 1 for n in range(2, last + 1) for line in (1, 2)}
    assert await rig.problems() == []


async def test_engine_killed_and_started_again_is_followed_on(fleet: Fleet, server: NatsServer) -> None:
    async with fleet.rig().running_here() as rig:
        await fleet.publish(*(fleet.delta(n, *words(n)) for n in range(2, 20)))
        await follow_to(rig, 19)
        server.kill()
        await follow(rig, lambda: rig.metric("lookupd_stream_connected") == 0)
        fleet.delta(20, *words(20))
        await follow_to(rig, 20)
        server.start()
        await fleet.publish(*(fleet.delta(n, *words(n)) for n in range(20, 31)))
        await follow_to(rig, 30)
        await follow(rig, lambda: rig.metric("lookupd_stream_connected") == 1)
        assert sum(counted(rig, "changes", why) for why in ("replaced", "rolled_back", "rewritten")) == 0
        await check_nothing_lost_or_twice(fleet, rig, 30)


async def test_engine_wiped_and_filled_again_is_read_from_its_first_message(fleet: Fleet, server: NatsServer) -> None:
    deltas = [fleet.delta(n, *words(n)) for n in range(2, 20)]
    rig = fleet.rig()
    async with rig.running_here():
        await fleet.publish(*deltas)
        await follow_to(rig, 19)
        server.kill()
        server.wipe()
        server.start()
        await fleet.make_streams()
        await fleet.publish(*deltas[5:])  # what the relay still has
        await fleet.publish(*(fleet.unlisted(n, *words(n)) for n in range(20, 25)))
        await follow_to(rig, 24)
        for n in range(20, 25):
            fleet.delta(n, *words(n))
        assert counted(rig, "changes", "replaced") == 1
        await check_nothing_lost_or_twice(fleet, rig, 24)
        found = await place(rig)
        assert found is not None
        assert found.sequence == 18  # in the new stream
    async with rig.running_here():  # knows the new one
        await fleet.publish(fleet.delta(25, *words(25)))
        await follow_to(rig, 25)
        assert counted(rig, "changes", "replaced") == 0


async def test_new_stream_that_brings_nothing_new_is_noted_and_not_read_again(fleet: Fleet, server: NatsServer) -> None:
    deltas = [fleet.delta(n, *words(n)) for n in range(2, 10)]
    rig = fleet.rig()
    async with rig.running_here():
        await fleet.publish(*deltas)
        await follow_to(rig, 9)
        before = await place(rig)
        server.kill()
        server.wipe()
        server.start()
        await fleet.make_streams()
        await fleet.publish(*deltas)
        await follow(rig, lambda: counted(rig, "messages", "old") == len(deltas))
        await rig.round()
        after = await place(rig)
        assert before is not None
        assert after is not None
        assert (after.sequence, after.message) == (8, before.message)
        assert after.created != before.created
    async with rig.running_here():
        await fleet.publish(fleet.delta(10, *words(10)))
        await follow_to(rig, 10)
        assert counted(rig, "changes", "replaced") == counted(rig, "messages", "old") == 0


async def test_engine_wiped_with_a_hole_between_us_and_its_first_message_is_filled_from_the_files(
    fleet: Fleet, server: NatsServer
) -> None:
    async with fleet.rig().running_here() as rig:
        await fleet.publish(*(fleet.delta(n, *words(n)) for n in range(2, 10)))
        await follow_to(rig, 9)
        server.kill()
        server.wipe()
        server.start()
        await fleet.make_streams()
        await fleet.publish(*[fleet.delta(n, *words(n)) for n in range(10, 30)][10:])
        await follow_to(rig, 29)
        await check_nothing_lost_or_twice(fleet, rig, 29)


async def test_engine_rolled_back_is_noticed_whether_it_is_shorter_or_rewritten(
    fleet: Fleet, server: NatsServer, tmp_path: Path
) -> None:
    rig = fleet.rig()
    async with rig.running_here():
        await fleet.publish(*(fleet.delta(n, *words(n)) for n in range(2, 10)))
        await follow_to(rig, 9)
        server.stop()
        server.save(tmp_path / "earlier")
        server.start()
        await fleet.publish(*(fleet.delta(n, *words(n)) for n in range(10, 20)))
        await follow_to(rig, 19)

        server.kill()
        server.restore(tmp_path / "earlier")
        server.start()
        await follow(rig, lambda: counted(rig, "changes", "rolled_back") == 1)
        await fleet.publish(fleet.delta(20, *words(20)))  # at the place that 10 had
        await follow(rig, lambda: rig.main.position == 20 and rig.metric("lookupd_stream_sequence") == 9)

        server.kill()
        server.restore(tmp_path / "earlier")
        server.start()
        await fleet.publish(*[fleet.delta(n, *words(n)) for n in range(21, 31)])  # 21 lies where 20 was
        await follow(rig, lambda: counted(rig, "changes", "rolled_back") + counted(rig, "changes", "rewritten") == 2)
        await follow_to(rig, 30)
        await check_nothing_lost_or_twice(fleet, rig, 30)


async def test_engine_rewritten_while_nobody_followed_is_noticed_after_the_start(
    fleet: Fleet, server: NatsServer, tmp_path: Path
) -> None:
    rig = fleet.rig()
    server.stop()
    server.save(tmp_path / "empty")
    server.start()
    async with rig.running_here():
        await fleet.publish(*(fleet.delta(n, *words(n)) for n in range(2, 10)))
        await follow_to(rig, 9)
    server.kill()
    server.restore(tmp_path / "empty")
    server.start()
    await fleet.publish(*[fleet.delta(n, *words(n)) for n in range(6, 25)])
    async with rig.running_here():
        await follow_to(rig, 24)
        assert counted(rig, "changes", "rewritten") == 1
        await check_nothing_lost_or_twice(fleet, rig, 24)


async def test_stream_deleted_and_made_anew_while_it_is_followed_is_noticed(fleet: Fleet) -> None:
    async with fleet.rig().running_here() as rig:
        await fleet.publish(*(fleet.delta(n, *words(n)) for n in range(2, 6)))
        await follow_to(rig, 5)

        async def remake(jetstream: JetStreamContext) -> None:
            await jetstream.delete_stream("LOOKUPD")
            await jetstream.delete_stream("LOOKUPD_ACKS")

        await fleet.do(remake)
        await fleet.make_streams()
        await fleet.publish(*(fleet.unlisted(n, *words(n)) for n in range(6, 12)))
        await follow_to(rig, 11)
        assert counted(rig, "changes", "replaced") == 1


async def test_messages_lost_by_age_before_a_replica_came_back_are_filled_from_the_files(fleet: Fleet) -> None:
    rig = fleet.rig()
    async with rig.running_here():
        await fleet.publish(*(fleet.delta(n, *words(n)) for n in range(2, 6)))
        await follow_to(rig, 5)
    places = await fleet.publish(*(fleet.delta(n, *words(n)) for n in range(6, 30)))
    await fleet.do(lambda jetstream: jetstream.purge_stream("LOOKUPD", seq=places[10]))
    async with rig.running_here():
        await follow_to(rig, 29)
        assert counted(rig, "changes", "replaced") == counted(rig, "changes", "rolled_back") == 0
        await check_nothing_lost_or_twice(fleet, rig, 29)


def test_replica_killed_again_and_again_goes_on_where_it_was(tmp_path: Path) -> None:
    """kill -9 at random moments while messages come; its store is that of a replica that took the files by hand."""
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    print("seed", seed)
    with nats_server(tmp_path / "nats") as server:
        fleet = Fleet(tmp_path, server)
        asyncio.run(fleet.make_streams())
        fleet.snapshot(1)
        replica = fleet.replica("a")
        last = 1
        for _ in range(6):
            process = replica.start()
            for _ in range(3):
                batch = [fleet.delta(n, *words(n)) for n in range(last + 1, last + 21)]
                last += 20
                asyncio.run(fleet.publish(*batch))
            before = replica.position()
            moved = before + chance.randrange(1, 30)
            wait_until(lambda: replica.position() >= min(moved, last), 60)  # noqa: B023 (asked at once)
            process.send_signal(signal.SIGKILL)
            process.wait()
        with replica.running():
            wait_until(lambda: replica.position() == last, 60)
        with replica.bench.reader() as reader:
            journal = [entry for _, entry, _ in reader.journal()]
            digest, found = reader.state.digest, reader.streams()["main"]
        assert changes_by_place(journal) == {(n, line): 1 for n in range(2, last + 1) for line in (1, 2)}
        assert digest == by_hand(fleet, last)
        assert found.sequence <= last - 1  # what lay in the spool already came without a message


async def test_cluster_that_loses_its_leader_is_followed_on(tmp_path: Path) -> None:
    with nats_cluster(tmp_path / "nats") as servers:
        fleet = Fleet(tmp_path, *servers)
        await fleet.make_streams()
        fleet.snapshot(1)
        async with fleet.rig().running_here() as rig:
            await fleet.publish(*(fleet.delta(n, *words(n)) for n in range(2, 10)))
            await follow_to(rig, 9)

            async def leader(jetstream: JetStreamContext) -> str:
                cluster = (await jetstream.stream_info("LOOKUPD")).cluster
                return "" if cluster is None else cluster.leader or ""

            name = await fleet.do(leader)
            gone = next(server for server in servers if server.name == name)
            gone.kill()
            fleet.server = next(server for server in servers if server is not gone)
            for attempt in range(60):
                try:
                    await fleet.publish(*(fleet.unlisted(n, *words(n)) for n in range(10, 20)))
                    break
                except Exception:  # until the others have agreed on another leader
                    assert attempt < 59
                    await asyncio.sleep(0.25)
            await follow(rig, lambda: rig.main.position == 19, 60)
            assert rig.metric("lookupd_stream_connected") == 1
            assert sum(counted(rig, "changes", why) for why in ("replaced", "rolled_back", "rewritten")) == 0
