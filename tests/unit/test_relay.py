"""The relay against a real engine: every delta once, in order, checked; whatever the engine forgets is put back."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from nats.js.api import StorageType, StreamInfo

from loader.fleet.connect import Engine, connect
from loader.fleet.followers import Followers
from loader.fleet.relay import Relay
from loader.fleet.streams import ack_subject, faults, feed_config, feed_subject, open_feed_stream
from loader.fleet.wire import (
    FILE,
    MANIFEST,
    MESSAGE_ID,
    PAYLOAD,
    PAYLOAD_BYTES_MAX,
    Envelope,
    decode_envelope,
    encode_envelope,
)
from loader.trust import Signer
from lookupd.config import read_config
from lookupd.errors import ConfigError, SourceError
from tests.conftest import Workbench, free_port, run_cli, wait_until
from tests.exchange import Exchange, delta_name, notice
from tests.nats_servers import NatsServer, User, make_certificates, nats_cluster, nats_server, settings_text

SIGNER = Signer(b"r" * 32, b"relaykey")
OTHER = Signer(b"o" * 32, b"otherkey")


class Desk:
    """A source with signed files, a relay's configuration, and a look into the engine."""

    def __init__(self, bench: Workbench, servers: list[NatsServer], feed: str = "", **jetstream: object) -> None:
        key = f'public_key = "{SIGNER.public_key_text()}"\n'
        self.exchange = Exchange(bench, feed=key + feed)
        self.folder = bench.folder
        self._servers, self._jetstream = servers, jetstream
        self._feed_text = self.exchange.config.read_text()
        self.config = self.config_named("relay")

    def config_named(self, name: str, extra: str = "") -> Path:
        """Of one relay; each has its own spool."""
        path = self.folder / f"{name}.toml"
        sync = f'[sync]\nspool = "{self.folder / name}-spool"\n{extra}'
        path.write_text(self._feed_text + sync + settings_text(self._servers, **self._jetstream))
        return path

    def delta(self, sequence: int, recipient: str = "1403", **how: Any) -> None:
        self.exchange.delta(sequence, notice(886912345000 + sequence, recipient), **({"signer": SIGNER} | how))

    def once(self, config: Path | None = None) -> dict[str, Any]:
        done = run_cli("loader.cli", "relay", "--once", "--json", "--config", config or self.config)
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode != 2, done.stderr
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found | {"log": done.stderr}

    async def engine(self) -> Engine:
        return await connect(read_config(self.config).jetstream, "test")

    async def messages(self) -> list[Envelope]:
        """Every message of the feed, in order."""
        engine = await self.engine()
        jetstream = read_config(self.config).jetstream
        found = []
        try:
            state = (await engine.jetstream.stream_info(jetstream.stream)).state
            for at in range(state.first_seq, state.last_seq + 1):
                message = await engine.jetstream.get_msg(jetstream.stream, at)
                found.append(decode_envelope(message.data or b"", message.headers))
        finally:
            await engine.close()
        return found

    async def sequences(self) -> list[int]:
        return [envelope.sequence for envelope in await self.messages()]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    with nats_server(tmp_path / "nats") as running:
        yield running


@pytest.fixture
def desk(workbench: Workbench, server: NatsServer) -> Desk:
    return Desk(workbench, [server])


@asynccontextmanager
async def relaying(config: Path) -> AsyncIterator[Relay]:
    """A relay in this process; a round is a call."""
    relay = Relay(read_config(config))
    for feed in relay.feeds:
        feed.open()
    try:
        yield relay
    finally:
        await relay.close()


async def rounds(relay: Relay) -> None:
    while await relay.feeds[0].round(*await relay._engine()):
        pass


@contextmanager
def running(config: Path) -> Iterator[Path]:
    """`lookupd-loader relay` as a process; its log's path."""
    log = config.with_suffix(".log")
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "loader.cli", "relay", "--config", str(config)], stdout=out, stderr=out
        )
    try:
        wait_until(lambda: "relaying" in log.read_text() or process.poll() is not None, 20)
        yield log
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0, log.read_text()
        assert "Traceback" not in log.read_text()


# -- what is published -----------------------------------------------------------------------------------


async def test_deltas_are_published_in_order_each_once(desk: Desk) -> None:
    for sequence in (3, 1, 2):
        desk.delta(sequence)
    assert desk.once()["feeds"] == [{"feed": "main", "position": 3, "trouble": None, "reason": None}]
    desk.delta(4)
    assert desk.once()["exit_code"] == 0
    assert desk.once()["exit_code"] == 0
    messages = await desk.messages()
    assert [message.sequence for message in messages] == [1, 2, 3, 4]
    for message in messages:
        for name, content in message.files().items():
            assert (desk.exchange.source / name).read_bytes() == content


async def test_stream_is_made_with_settings_that_keep_what_it_took(desk: Desk) -> None:
    desk.once()
    jetstream = read_config(desk.config).jetstream
    async with await desk.engine() as engine:
        info = await engine.jetstream.stream_info("LOOKUPD")
    assert (info.config.storage, info.config.deny_delete, info.config.duplicate_window) == ("file", True, 120)
    assert list(faults(info.config, jetstream)) == []


async def test_large_delta_is_published_by_reference(desk: Desk) -> None:
    notices = [notice(886912000000 + at, "1403", ref=random.Random(at).randbytes(32).hex()) for at in range(3500)]
    path = desk.exchange.delta(1, *notices, signer=SIGNER)
    assert path.stat().st_size > PAYLOAD_BYTES_MAX
    desk.delta(2)
    assert desk.once()["exit_code"] == 0
    first, second = await desk.messages()
    assert (first.data, second.data) == (None, (desk.exchange.source / delta_name(2)).read_bytes())


async def test_message_of_the_largest_payload_can_be_read_back(desk: Desk) -> None:
    """The position is read with the last message."""
    line = len(json.dumps(notice(886912000000, "1403", ref="x" * 64))) + 1
    count = PAYLOAD_BYTES_MAX // line
    desk.exchange.delta(1, *(notice(886912000000 + at, "1403", ref="x" * 64) for at in range(count)), signer=SIGNER)
    assert desk.once()["exit_code"] == 0
    assert desk.once()["feeds"][0]["position"] == 1


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({"signer": OTHER}, "signed by key"),
        ({"sha256": "0" * 64}, "sha256 is"),
        ({"rows": 2}, "1 rows, the manifest says 2"),
        ({"recipient": "!!"}, "recipient"),
    ],
)
async def test_bad_file_is_never_published_and_its_replacement_is(desk: Desk, how: dict[str, Any], reason: str) -> None:
    desk.delta(1)
    if "rows" in how:
        desk.exchange.publish(delta_name(2), json.dumps(notice(886912345678)) + "\n", signer=SIGNER, **how)
    else:
        desk.delta(2, **how)
    desk.delta(3)
    async with relaying(desk.config) as relay:
        await rounds(relay)
        trouble = relay.feeds[0].trouble
        assert trouble is not None
        assert (trouble.kind, trouble.exit_code) == ("rejected", 4)
        assert reason in trouble.reason
        assert await desk.sequences() == [1]
        desk.delta(2)
        relay.feeds[0].trouble = msgspec.structs.replace(trouble, retry_at=0.0)
        await rounds(relay)
        assert relay.feeds[0].trouble is None
    assert await desk.sequences() == [1, 2, 3]


async def test_gap_is_waited_for_and_bridged_where_a_snapshot_leads_over_it(
    workbench: Workbench, server: NatsServer
) -> None:
    desk = Desk(workbench, [server])
    desk.delta(1)
    desk.delta(3)
    done = desk.once()
    assert (done["exit_code"], done["feeds"][0]["trouble"]) == (5, "gap")
    assert await desk.sequences() == [1]
    desk.exchange.snapshot(2, signer=SIGNER)
    async with relaying(desk.config) as relay:
        until = time.monotonic() + 10
        while relay.feeds[0].position != 3:
            await rounds(relay)
            assert time.monotonic() < until
            await asyncio.sleep(0.05)
    assert await desk.sequences() == [1, 3]


async def test_source_that_is_away_does_not_hold_up_what_lies_in_the_spool(desk: Desk) -> None:
    desk.delta(1)
    async with relaying(desk.config) as relay:
        await rounds(relay)
        desk.delta(2)
        step = relay.feeds[0]._format.steps(frozenset(os.listdir(desk.exchange.source)))[-1]
        await relay.feeds[0]._spool.fetch(step)
        desk.exchange.source.rename(desk.folder / "away")
        with pytest.raises(SourceError):
            await rounds(relay)
    assert await desk.sequences() == [1, 2]


# -- two relays ------------------------------------------------------------------------------------------


async def test_two_relays_publish_each_delta_once_in_order(desk: Desk) -> None:
    with running(desk.config_named("one")) as one, running(desk.config_named("two")) as two:
        for sequence in range(1, 61):
            desk.delta(sequence)
        published = "delta_published"
        wait_until(lambda: (one.read_text() + two.read_text()).count(published) == 60, 30)
    assert await desk.sequences() == list(range(1, 61))


async def test_relay_that_lost_the_race_looks_again(desk: Desk) -> None:
    desk.delta(1)
    async with relaying(desk.config_named("one")) as one, relaying(desk.config_named("two")) as two:
        engine, info = await two._engine()
        stale = await two.feeds[0]._at.read(engine)
        await rounds(one)
        step = two.feeds[0]._format.steps(frozenset(os.listdir(desk.exchange.source)))[0]
        envelope = await two.feeds[0]._prepare(step)
        assert envelope is not None
        assert await two.feeds[0]._publish(engine, info, envelope, stale) is None
        assert two.metrics.feeds["main"].duplicates + two.metrics.feeds["main"].conflicts == 1
        await rounds(two)
        assert two.feeds[0].position == 1
    assert await desk.sequences() == [1]


async def test_other_delta_at_the_same_place_is_not_taken(desk: Desk) -> None:
    """Expected-last: it has another id, so the engine would not know it for a duplicate."""
    desk.delta(1)
    async with relaying(desk.config_named("one")) as one, relaying(desk.config_named("two")) as two:
        engine, info = await two._engine()
        stale = await two.feeds[0]._at.read(engine)
        await rounds(one)
        other = Envelope("main", 1, delta_name(1), b"{}", None, b"other")
        assert await two.feeds[0]._publish(engine, info, other, stale) is None
        assert two.metrics.feeds["main"].conflicts == 1
    assert await desk.sequences() == [1]


# -- the engine goes -------------------------------------------------------------------------------------


async def test_wiped_engine_gets_everything_again(desk: Desk, server: NatsServer) -> None:
    for sequence in (1, 2, 3):
        desk.delta(sequence)
    desk.once()
    server.stop()
    server.wipe()
    server.start()
    desk.delta(4)
    done = desk.once()
    assert "engine_wiped feed=main had=3 has=0" in done["log"]
    assert await desk.sequences() == [1, 2, 3, 4]


async def test_engine_that_was_set_back_gets_what_it_lost(desk: Desk, server: NatsServer) -> None:
    desk.delta(1)
    desk.once()
    server.stop()
    server.save(desk.folder / "saved")
    server.start()
    desk.delta(2)
    desk.delta(3)
    desk.once()
    server.stop()
    server.restore(desk.folder / "saved")
    server.start()
    assert await desk.sequences() == [1]
    for name in (2, 3):
        desk.exchange.withdraw(delta_name(name))  # the sender has put them away: our spool has them
    assert "engine_rolled_back feed=main had=3 has=1" in desk.once()["log"]
    assert await desk.sequences() == [1, 2, 3]
    assert "rolled_back" not in desk.once()["log"]


async def test_empty_engine_begins_behind_the_snapshot_and_goes_back_as_far_as_the_stream_keeps(desk: Desk) -> None:
    old = "2020-01-01T00:00:00+08:00"
    for sequence in range(1, 9):
        desk.delta(sequence, **({"created_at": old} if sequence < 4 else {"created_at": _now()}))
    desk.exchange.snapshot(6, signer=SIGNER)
    desk.once()
    assert await desk.sequences() == [4, 5, 6, 7, 8]


async def test_engine_whose_messages_grew_old_is_not_filled_again(desk: Desk) -> None:
    desk.delta(1)
    desk.once()
    async with await desk.engine() as engine:
        await engine.jetstream.purge_stream("LOOKUPD")
    desk.delta(2)
    assert "engine_" not in desk.once()["log"].replace("engine_connected", "").replace("engine_unchecked", "")
    assert await desk.sequences() == [2]


async def test_server_killed_in_the_middle_and_back_has_every_delta_once(desk: Desk, server: NatsServer) -> None:
    with running(desk.config) as log:
        for sequence in range(1, 41):
            desk.delta(sequence)
            if sequence in {10, 25}:
                wait_until(lambda: log.read_text().count("delta_published") >= 5, 20)
                server.kill()
                server.start()
        wait_until(lambda: "sequence=40 " in log.read_text(), 30)
        assert "engine_lost" in log.read_text()
    assert await desk.sequences() == list(range(1, 41))


async def test_cluster_that_loses_a_server_goes_on(workbench: Workbench, tmp_path: Path) -> None:
    with nats_cluster(tmp_path / "nats") as servers:
        desk = Desk(workbench, servers)
        with running(desk.config) as log:
            for sequence in range(1, 31):
                desk.delta(sequence)
                if sequence == 10:
                    wait_until(lambda: "delta_published" in log.read_text(), 30)
                    async with await desk.engine() as engine:
                        info: StreamInfo = await engine.jetstream.stream_info("LOOKUPD")
                    assert info.cluster is not None
                    next(server for server in servers if server.name == info.cluster.leader).kill()
            wait_until(lambda: "sequence=30 " in log.read_text(), 60)
        for server in servers:
            if server.process is None:
                server.start()
        assert await desk.sequences() == list(range(1, 31))


# -- what is refused -------------------------------------------------------------------------------------


async def test_foreign_messages_are_told_and_passed_over(desk: Desk) -> None:
    desk.delta(1)
    desk.once()
    subject = feed_subject(read_config(desk.config).jetstream, "main")
    forged = {FILE: delta_name(999), MANIFEST: "e30=", PAYLOAD: "message"}
    async with await desk.engine() as engine:
        (ours,) = await desk.messages()
        _, signed = encode_envelope(ours)
        renamed = signed | {FILE: delta_name(998), MESSAGE_ID: "x"}
        for headers in (None, {FILE: "é"}, forged, renamed):
            await engine.jetstream.publish(subject, b"x", headers=headers)
    desk.delta(2)
    done = desk.once()
    assert done["log"].count("engine_foreign_message") == 4
    assert done["feeds"][0]["position"] == 2
    assert "foreign" not in desk.once()["log"]


async def test_subject_full_of_foreign_messages_is_refused_with_a_way_out(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loader.fleet.position.FOREIGN_MESSAGES_MAX", 3)
    desk.delta(1)
    async with relaying(desk.config) as relay:
        await rounds(relay)
        engine, _ = await relay._engine()
        for _ in range(3):
            await engine.jetstream.publish("lookupd.feed.main", b"x")
        with pytest.raises(SourceError, match=r"nats stream purge LOOKUPD --subject lookupd.feed.main"):
            await rounds(relay)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"storage": StorageType.MEMORY, "max_bytes": 1 << 20}, "storage memory: expected file"),
        ({"max_age": 60.0, "duplicate_window": 60.0}, "max_age 60 s: expected"),
        ({"deny_delete": False}, "deny_delete is off"),
        ({"max_msgs_per_subject": 1}, "max_msgs_per_subject 1: expected"),
        ({"max_msg_size": 1000}, "max_msg_size 1000: expected"),
        ({"subjects": ["lookupd.feed.main"]}, r"subjects \['lookupd.feed.main'\]: expected lookupd.feed.>"),
    ],
)
async def test_stream_with_other_settings_is_told_and_not_changed(
    desk: Desk, changed: dict[str, Any], reason: str
) -> None:
    jetstream = read_config(desk.config).jetstream
    async with await desk.engine() as engine:
        made = await engine.jetstream.add_stream(feed_config(jetstream).evolve(**changed))
        with pytest.raises(SourceError, match=f"stream LOOKUPD: .*{reason}"):
            await open_feed_stream(engine, jetstream, make=True)
        assert (await engine.jetstream.stream_info("LOOKUPD")).config == made.config


async def test_more_replicas_than_there_are_servers_is_told(workbench: Workbench, server: NatsServer) -> None:
    desk = Desk(workbench, [server], replicas=3)
    done = desk.once()
    assert done["exit_code"] == 1
    assert "cannot be made: replicas > 1 not supported" in done["error"]


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('poll = "100ms"', 'poll = "100ms"\nformat = "bdpn"', "carry no signature|our own format"),
        ('source = "dir://', 'source = "jetstream:"\nfiles = "dir://', "a relay reads the signed files"),
    ],
)
def test_feed_that_no_relay_can_carry_is_refused(desk: Desk, old: str, new: str, reason: str) -> None:
    desk.config.write_text(desk.config.read_text().replace(old, new))
    with pytest.raises(ConfigError, match=reason):
        Relay(read_config(desk.config))


# -- TLS, accounts, rights -------------------------------------------------------------------------------


RELAY = User(
    "relay",
    "relay-word",
    publish=("lookupd.feed.>", "$JS.API.>"),
    subscribe=("_INBOX.relay.>", "lookupd.feed-acks.>"),
)
REPLICA = User("replica", "replica-word", publish=("lookupd.feed-acks.>",), subscribe=("_INBOX.replica.>",))


async def test_relay_works_over_tls_with_the_rights_that_the_page_gives_it(
    workbench: Workbench, tmp_path: Path
) -> None:
    certificates = make_certificates(tmp_path / "tls")
    password = tmp_path / "password"
    password.write_text("relay-word\n")
    password.chmod(0o600)
    with nats_server(tmp_path / "nats", users=[RELAY, REPLICA], certificates=certificates) as server:
        login = {"user": "relay", "password_file": password, "ca_file": certificates.authority}
        desk = Desk(workbench, [server], **login)
        desk.delta(1)
        assert desk.once()["exit_code"] == 0
        with running(desk.config) as log:
            desk.delta(2)
            wait_until(lambda: "sequence=2 " in log.read_text())
        shown = run_cli("loader.cli", "fleet", "--config", desk.config)
        assert shown.returncode == 0, shown.stderr
        password.write_text("replica-word\n")
        desk.config.write_text(desk.config.read_text().replace('user = "relay"', 'user = "replica"'))
        desk.delta(3)
        done = desk.once()
        assert (done["exit_code"], "lacks a right: permissions violation for publish" in done["error"]) == (1, True), (
            done
        )


# -- the replicas ----------------------------------------------------------------------------------------


def acknowledgement(replica: str, sequence: int, digest: str = "d1", **changed: object) -> bytes:
    word = {
        "feed": "main",
        "type": "delta",
        "sequence": sequence,
        "replica": replica,
        "received_at": _now(),
        "confirmed_at": _now(),
        "visible_at": _now(),
        "result": "applied",
        "serial": sequence,
        "digest": digest,
    }
    return json.dumps(word | changed).encode()


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


async def test_replicas_words_become_metrics_and_a_table(desk: Desk) -> None:
    port = free_port()
    config = desk.config_named("relay", f'http = "http://127.0.0.1:{port}"\n')
    jetstream = read_config(config).jetstream

    def metrics() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            return str(answer.read().decode())

    with running(config) as log:
        desk.delta(1)
        desk.delta(2)
        wait_until(lambda: "sequence=2 " in log.read_text())
        wait_until(lambda: "lookupd_relay_connected 1.0" in metrics())
        engine = await desk.engine()
        for replica, sequence, digest in (("a", 2, "d2"), ("b", 2, "d2"), ("c", 2, "other"), ("d", 1, "d1")):
            await engine.jetstream.publish(
                ack_subject(jetstream, "main", replica), acknowledgement(replica, sequence, digest)
            )
        wait_until(lambda: 'lookupd_fleet_replicas{feed="main"} 4.0' in metrics())
        told = metrics()
        assert 'lookupd_fleet_replica_sequence{feed="main",replica="d"} 1.0' in told
        assert 'lookupd_fleet_behind{feed="main"} 1.0' in told
        assert 'lookupd_fleet_digests_differ{feed="main"} 1.0' in told
        assert 'lookupd_fleet_visible_seconds{feed="main",replica="a"}' in told
        assert 'lookupd_relay_published_total{feed="main"} 2.0' in told
        assert "fleet_digests_differ feed=main sequence=2 replicas=c" in log.read_text()
        await engine.jetstream.publish(ack_subject(jetstream, "main", "c"), acknowledgement("c", 2, "d2"))
        wait_until(lambda: 'lookupd_fleet_digests_differ{feed="main"} 0.0' in metrics())
        await engine.close()
    with running(config) as log:  # the words are read from the stream
        wait_until(lambda: 'lookupd_fleet_replicas{feed="main"} 4.0' in metrics())
    shown = run_cli("loader.cli", "fleet", "--json", "--config", config)
    assert shown.returncode == 0, shown.stderr
    (state,) = json.loads(shown.stdout)["feeds"]
    assert (state["sequence"], [row["behind"] for row in state["replicas"]]) == (2, [0, 0, 0, 1])
    assert "engine at 2" in run_cli("loader.cli", "fleet", "--config", config).stdout


def test_word_that_is_none_is_counted() -> None:
    followers = Followers()
    subject = "lookupd.feed-acks.main.a"
    for said in (b"", b"{", b"\xff", acknowledgement("b", 1), acknowledgement("a", 1, feed="other"), b"x" * 99_999):
        followers.hear(subject, said)
    followers.hear(subject, acknowledgement("a", 1, visible_at="yesterday"))
    followers.hear("acks", acknowledgement("a", 1))
    assert (followers.malformed, followers.of("main")) == (8, [])


def test_replica_that_refused_a_file_is_shown_where_it_was() -> None:
    followers = Followers()
    followers.hear("p.main.a", acknowledgement("a", 4))
    followers.hear("p.main.a", acknowledgement("a", 5, result="rejected", digest=None, visible_at=None))
    followers.hear("p.main.b", acknowledgement("b", 5, result="confirmed", digest=None, visible_at=None))
    assert [(word.sequence, word.result) for word in followers.of("main")] == [(4, "rejected"), (4, "confirmed")]


def test_replicas_that_agree_at_each_sequence_do_not_differ() -> None:
    followers = Followers()
    for sequence in range(1, 200):
        for replica in ("a", "b"):
            followers.hear(f"p.main.{replica}", acknowledgement(replica, sequence, f"d{sequence}"))
    assert followers.differing("main") == []
    followers.hear("p.main.c", acknowledgement("c", 199, "other"))
    assert followers.differing("main") == ["c"]


# -- what the monitoring port tells ----------------------------------------------------------------------


async def test_server_that_does_not_sync_each_write_is_refused_if_its_monitor_is_named(
    workbench: Workbench, server: NatsServer
) -> None:
    unasked = Desk(workbench, [server])
    assert "engine_unchecked what=sync_interval" in unasked.once()["log"]
    asked = Desk(workbench, [server], monitor=[server.monitor_url])
    done = asked.once()
    assert done["exit_code"] == 1
    assert "does not sync each write" in done["error"]
    away = Desk(workbench, [server], monitor=[f"http://127.0.0.1:{free_port()}"])
    done = away.once()
    assert (done["exit_code"], done["log"].count("engine_unchecked")) == (0, 1)
