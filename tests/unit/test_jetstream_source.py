"""A replica that follows a fleet's engine: a real server, signed files, and the exchange in this process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import nats.errors
import pytest

from loader.fleet import acks
from loader.fleet.streams import ack_config
from loader.fleet.wire import FILE, MANIFEST, PAYLOAD, PAYLOAD_BYTES_MAX, Envelope, encode_envelope
from loader.sources.jetstream import JetStreamSource
from loader.trust import Signer
from lookupd import limits
from lookupd.client import LookupClient
from lookupd.config import read_config
from lookupd.errors import ConfigError, SourceError
from lookupd.limits import INCOMING_MESSAGES_MAX
from lookupd.model import StreamPosition
from lookupd.store.schema import META_STREAM, pack_streams, unpack_streams
from lookupd.store.writer import Writer
from tests.conftest import Workbench, serve
from tests.exchange import changes_by_place, delta_name, lines, notice
from tests.nats_servers import NatsServer, User, nats_server
from tests.streams import Fleet, counted, follow, follow_to, place

PORTED = 886912345678
OTHER_KEY = Signer(bytes(32), b"somebody")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    with nats_server(tmp_path / "nats") as running:
        yield running


@pytest.fixture
async def fleet(tmp_path: Path, server: NatsServer) -> Fleet:
    """With its streams and a first snapshot."""
    made = Fleet(tmp_path, server)
    await made.make_streams()
    made.snapshot(1)
    return made


def forged(envelope: Envelope) -> Envelope:
    """Signed by somebody else."""
    return msgspec.structs.replace(envelope, signature=OTHER_KEY.sign(envelope.manifest, envelope.name).encode())


# -- following -------------------------------------------------------------------------------------------


async def test_delta_that_only_the_engine_has_is_applied_with_its_place_in_the_stream(fleet: Fleet) -> None:
    async with fleet.rig().running_here() as rig:
        await follow_to(rig, 1)
        assert await place(rig) is None
        [sequence] = await fleet.publish(fleet.unlisted(2, notice(PORTED, "1403")))
        await follow_to(rig, 2)
        found = await place(rig)
        assert found is not None
        assert (found.stream, found.sequence) == ("LOOKUPD", sequence)
        assert found.message.startswith("delta-main-2.ndjson@")
        assert (await rig.numbers())[PORTED] == "1403"
        assert await rig.problems() == []
        assert rig.metric("lookupd_stream_connected", feed="main") == 1


async def test_message_wakes_the_feed_before_its_next_poll(fleet: Fleet) -> None:
    async with fleet.rig().running_here() as rig:
        await follow_to(rig, 1)
        listed = counted(rig, "file_listings", "listed")
        await fleet.publish(fleet.unlisted(2, notice(PORTED, "1403")))
        await rig.main.pause(30)  # ends when it comes, or the test's patience does
        await rig.round()
        assert rig.main.position == 2
        assert counted(rig, "file_listings", "listed") == listed  # nobody needed to look there


async def test_empty_store_takes_the_newest_snapshot_and_what_the_stream_has_beyond_it(fleet: Fleet) -> None:
    await fleet.publish(*(fleet.delta(n, notice(PORTED, "1403")) for n in range(2, 9)))
    fleet.snapshot(5)
    async with fleet.rig().running_here() as rig:
        await follow_to(rig, 8)
        journal = changes_by_place(await rig.journal())
        assert journal == {(6, 1): 1, (7, 1): 1, (8, 1): 1}


async def test_restart_goes_on_behind_the_last_applied_message(fleet: Fleet) -> None:
    rig = fleet.rig()
    async with rig.running_here():
        await fleet.publish(*(fleet.unlisted(n, notice(PORTED, "1403")) for n in range(2, 7)))
        await follow_to(rig, 6)
    await fleet.publish(fleet.unlisted(7, notice(PORTED, "1401")))
    async with rig.running_here():
        await follow_to(rig, 7)
        assert counted(rig, "messages", "taken") == 1
        assert counted(rig, "messages", "old") == 0
        assert changes_by_place(await rig.journal()) == {(n, 1): 1 for n in range(2, 8)}


async def test_once_takes_all_that_the_engine_has(fleet: Fleet) -> None:
    await fleet.publish(*(fleet.unlisted(n, notice(PORTED, "1403")) for n in range(2, 120)))
    replica = fleet.replica("a")
    ended = replica.once()
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["feeds"][0]["position"] == 119


async def test_message_that_comes_twice_is_applied_once(fleet: Fleet) -> None:
    deltas = [fleet.unlisted(n, notice(PORTED, "1403")) for n in range(2, 5)]
    async with fleet.rig().running_here() as rig:
        await fleet.publish(*deltas)
        await fleet.publish(*deltas, again=True)
        await follow_to(rig, 4)
        await fleet.publish(*deltas, again=True)
        await fleet.publish(last := fleet.unlisted(5, notice(PORTED, "1401")))
        await follow_to(rig, 5)
        assert changes_by_place(await rig.journal()) == {(n, 1): 1 for n in range(2, 6)}
        assert counted(rig, "messages", "other") == 0
        assert last.sequence == 5


async def test_delta_without_its_data_is_fetched_from_the_files(fleet: Fleet) -> None:
    async with fleet.rig().running_here() as rig:
        await follow_to(rig, 1)
        await fleet.publish(fleet.delta(2, notice(PORTED, "1403")), by_reference=True)
        await follow_to(rig, 2)
        assert counted(rig, "messages", "reference") == 1


# -- what the engine lacks -------------------------------------------------------------------------------


async def test_gap_in_the_stream_is_filled_from_the_files(fleet: Fleet) -> None:
    await fleet.publish(*(fleet.unlisted(n, notice(PORTED, "1403")) for n in (2, 3)))
    fleet.delta(4, notice(PORTED, "1401"))  # the engine has lost this one
    await fleet.publish(*(fleet.unlisted(n, notice(PORTED, "1403")) for n in (5, 6)))
    async with fleet.rig().running_here() as rig:
        await follow_to(rig, 6)
        assert changes_by_place(await rig.journal()) == {(n, 1): 1 for n in range(2, 7)}


async def test_gap_that_opens_while_the_stream_is_followed_is_filled_at_once(fleet: Fleet) -> None:
    async with fleet.rig().running_here() as rig:
        await follow_to(rig, 1)
        fleet.delta(2, notice(PORTED, "1401"))
        await fleet.publish(fleet.unlisted(3, notice(PORTED, "1403")))
        await rig.main.pause(30)
        await rig.round()
        assert rig.main.position == 3


async def test_gap_that_nobody_fills_is_told_and_holds_only_so_many_messages(
    fleet: Fleet,
) -> None:
    last = 2 + INCOMING_MESSAGES_MAX + 50
    await fleet.publish(*(fleet.unlisted(n, notice(PORTED, "1403")) for n in range(3, last + 1)))
    async with fleet.rig().running_here() as rig:
        await follow(rig, lambda: rig.metric("lookupd_stream_held_messages") == INCOMING_MESSAGES_MAX)
        await rig.round()
        assert rig.main.position == 1
        assert rig.main.trouble is not None
        assert rig.main.trouble.kind == "gap"
        fleet.delta(2, notice(PORTED, "1401"))
        await follow_to(rig, last)
        assert changes_by_place(await rig.journal()) == {(n, 1): 1 for n in range(2, last + 1)}


async def test_what_the_engine_keeps_from_us_is_found_in_the_files(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loader.sources.jetstream.FILES_LIST_SECONDS", (0.1, 0.2))
    async with fleet.rig().running_here() as rig:
        await follow_to(rig, 1)
        fleet.delta(2, notice(PORTED, "1403"))
        await follow_to(rig, 2)
        assert rig.metric("lookupd_stream_connected") == 1


async def test_without_an_engine_the_files_are_followed_and_with_it_the_stream_again(
    fleet: Fleet, server: NatsServer
) -> None:
    server.stop()
    fleet.delta(2, notice(PORTED, "1403"))
    async with fleet.rig().running_here() as rig:
        await follow_to(rig, 2)
        assert rig.metric("lookupd_stream_connected") == 0
        fleet.delta(3, notice(PORTED, "1401"))
        await follow_to(rig, 3)
        server.start()
        await fleet.publish(fleet.unlisted(4, notice(PORTED, "1403")))
        await follow_to(rig, 4)
        assert rig.metric("lookupd_stream_connected") == 1


async def test_files_that_are_away_do_not_stop_the_stream_and_both_away_is_told(
    fleet: Fleet, server: NatsServer
) -> None:
    async with fleet.rig().running_here() as rig:
        await follow_to(rig, 1)
        envelopes = [fleet.unlisted(2, notice(PORTED, "1403")), fleet.unlisted(4, notice(PORTED, "1401"))]
        fleet.files.rename(fleet.folder / "away")
        await fleet.publish(*envelopes)
        await follow_to(rig, 2)
        await follow(rig, lambda: counted(rig, "file_listings", "failed") > 0)
        server.stop()
        await follow(rig, lambda: rig.metric("lookupd_stream_connected") == 0)
        with pytest.raises(SourceError, match="files"):
            await rig.round()


async def test_server_below_the_floor_is_not_followed(tmp_path: Path, server: NatsServer) -> None:
    fleet = Fleet(tmp_path, server, server_version="2.12.7")
    fleet.snapshot(1)
    fleet.delta(2, notice(PORTED, "1403"))
    async with fleet.rig().running_here() as rig:
        await follow_to(rig, 2)  # from the files
        assert rig.metric("lookupd_stream_connected") == 0


async def test_stream_that_is_not_there_is_told_and_followed_once_it_is(tmp_path: Path, server: NatsServer) -> None:
    fleet = Fleet(tmp_path, server)
    fleet.snapshot(1)
    async with fleet.rig().running_here() as rig:
        await follow_to(rig, 1)
        assert rig.metric("lookupd_stream_connected") == 0
        await fleet.make_streams()
        await fleet.publish(fleet.unlisted(2, notice(PORTED, "1403")))
        await follow_to(rig, 2)


# -- whom it believes ------------------------------------------------------------------------------------


async def test_forged_messages_are_counted_and_stand_in_nobodys_way(fleet: Fleet) -> None:
    true = fleet.unlisted(2, notice(PORTED, "1403"))
    payload, headers = encode_envelope(true)
    changed = msgspec.structs.replace(true, data=lines(notice(PORTED, "1401")).encode())
    later = msgspec.structs.replace(forged(true), name=delta_name(900), sequence=900)
    bad: list[tuple[bytes, dict[str, str]]] = [
        (b"anything", {}),
        (b"", {"Status": "408"}),
        (payload, headers | {FILE: "../../etc/passwd"}),
        (payload, headers | {FILE: "delta-other-2.ndjson"}),
        (payload, headers | {MANIFEST: "no base64"}),
        (payload, {name: value for name, value in headers.items() if name != "Lookupd-Signature"}),
        (b"", headers | {PAYLOAD: "files", "Lookupd-Signature": encode_envelope(forged(true))[1]["Lookupd-Signature"]}),
        (b" " * (PAYLOAD_BYTES_MAX + 1), headers),
        encode_envelope(forged(true)),
        encode_envelope(changed),
        encode_envelope(later),
    ]
    async with fleet.rig().running_here() as rig:
        await follow_to(rig, 1)
        for number, (body, head) in enumerate(bad):
            await fleet.publish_raw(body, head | {"Nats-Msg-Id": f"forged-{number}"})
        await fleet.publish(true)
        await follow_to(rig, 2)
        assert counted(rig, "messages", "refused") == len(bad)
        assert rig.main.trouble is None
        assert (await rig.numbers())[PORTED] == "1403"
        assert list((rig.main._spool.folder / "incoming").iterdir()) == []


async def test_unsigned_message_that_cannot_be_used_is_replaced_by_the_file(tmp_path: Path, server: NatsServer) -> None:
    fleet = Fleet(tmp_path, server, signed=False)
    await fleet.make_streams()
    fleet.snapshot(1)
    async with fleet.rig().running_here() as rig:
        await follow_to(rig, 1)
        bad = fleet.unlisted(2, notice(PORTED, "9999"))  # a network that nobody knows
        fleet.delta(2, notice(PORTED, "1403"))
        await fleet.publish(bad)
        await follow(rig, lambda: rig.main.trouble is not None)
        assert rig.main.position == 1
        rig.machine.advance(11)  # its file is tried again
        await follow_to(rig, 2)
        assert (await rig.numbers())[PORTED] == "1403"


async def test_other_content_under_an_applied_sequence_changes_nothing_and_is_counted(fleet: Fleet) -> None:
    async with fleet.rig().running_here() as rig:
        await fleet.publish(fleet.unlisted(2, notice(PORTED, "1403")))
        await follow_to(rig, 2)
        before = await rig.facts()
        await fleet.publish(fleet.unlisted(2, notice(PORTED, "1401")))
        await follow(rig, lambda: counted(rig, "messages", "other") == 1)
        assert await rig.facts() == before


RIGHTS = (
    "$JS.API.INFO",
    "$JS.API.STREAM.INFO.LOOKUPD",
    "$JS.API.CONSUMER.CREATE.LOOKUPD.*.lookupd.feed.*",
    "$JS.API.CONSUMER.MSG.NEXT.LOOKUPD.*",
    "lookupd.feed-acks.*.*",
)
"""All that a replica asks for; docs/operations/fleet-replica.md has the same list."""


async def test_replica_needs_no_more_rights_than_the_manual_says_and_can_publish_no_delta(tmp_path: Path) -> None:
    users = [User("relay", "r"), User("replica", "secret", RIGHTS, ("_INBOX.replica.>",))]
    password = tmp_path / "password"
    password.write_text("secret\n")
    password.chmod(0o600)
    with nats_server(tmp_path / "nats", users=users) as server:
        fleet = Fleet(tmp_path, server, user="replica", password_file=password)
        fleet.login = {"user": "relay", "password": "r"}
        await fleet.make_streams()
        fleet.snapshot(1)
        async with fleet.rig().running_here() as rig:
            await fleet.publish(fleet.unlisted(2, notice(PORTED, "1403")))
            await follow_to(rig, 2)
            said = await fleet.ack("a")
            assert said is not None
            assert said["sequence"] == 2
            source = rig.main._source
            assert isinstance(source, JetStreamSource)
            engine = source._follower.engine
            assert engine is not None
            with pytest.raises(nats.errors.TimeoutError):
                await engine.jetstream.publish(fleet.subject, b"", timeout=0.5)


# -- what it says ----------------------------------------------------------------------------------------


async def test_last_word_of_a_replica_lies_in_the_engine(fleet: Fleet) -> None:
    async with fleet.rig().running_here() as rig:
        await fleet.publish(*(fleet.unlisted(n, notice(PORTED, "1403")) for n in (2, 3)))
        await follow_to(rig, 3)
        said = await fleet.ack("a")
        assert said is not None
        assert (said["replica"], said["sequence"], said["result"]) == ("a", 3, "applied")
        assert said["digest"] == f"{(await rig.facts())[1]:016x}"
        assert said["visible_at"] is not None
        assert not list(fleet.files.glob("*.ack.json"))


async def test_word_that_no_stream_takes_stops_nothing_and_is_said_when_one_does(
    tmp_path: Path, server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loader.fleet.follow.STREAM_REQUEST_SECONDS", 1.0)
    monkeypatch.setattr("loader.fleet.follow.STREAM_HEARTBEAT_SECONDS", 0.4)
    fleet = Fleet(tmp_path, server)
    await fleet.make_streams(acks=False)
    fleet.snapshot(1)
    async with fleet.rig().running_here() as rig:
        await fleet.publish(fleet.unlisted(2, notice(PORTED, "1403")))
        await follow_to(rig, 2)
        await follow(rig, lambda: counted(rig, "acknowledgements", "lost") > 0)
        assert rig.metric("lookupd_stream_connected") == 1
        await fleet.do(lambda jetstream: jetstream.add_stream(ack_config(fleet.settings)))
        while (said := await fleet.ack("a")) is None:
            await follow(rig, lambda: True)
        assert said["sequence"] == 2


async def test_restart_says_the_last_word_again(fleet: Fleet) -> None:
    rig = fleet.rig()
    async with rig.running_here():
        await fleet.publish(fleet.unlisted(2, notice(PORTED, "1403")))
        await follow_to(rig, 2)
    await fleet.do(lambda jetstream: jetstream.purge_stream("LOOKUPD_ACKS"))
    async with rig.running_here():
        while (said := await fleet.ack("a")) is None:
            await follow(rig, lambda: True)
        assert (said["sequence"], said["result"]) == (2, "applied")


def test_word_with_many_rejections_is_cut_to_what_the_stream_takes() -> None:
    rejected = [acks.Acknowledgement("main", "delta", 1, "a", None, None, None, "rejected")]
    told = msgspec.structs.replace(
        rejected[0],
        rejected=[{"line": n, "reason": "x" * 100} for n in range(1000)],  # type: ignore[arg-type]
    )
    content = acks.shortened(msgspec.json.encode(told))
    assert len(content) <= limits.ACK_BYTES_KEPT
    found = msgspec.json.decode(content, type=acks.Acknowledgement)
    assert 10 < len(found.rejected) < 1000
    assert acks.shortened(content) == content


# -- settings and store ----------------------------------------------------------------------------------

SECTION = '[jetstream]\nservers = ["nats://127.0.0.1:4222"]\n'
FEED = '[feed.main]\nsource = "jetstream:"\nfiles = "dir:///x"\n'


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (FEED, "feed.main.source: jetstream: needs jetstream.servers"),
        (SECTION + '[feed.main]\nsource = "jetstream:"\n', "feed.main.files: needed"),
        (SECTION + '[feed.main]\nsource = "jetstream:"\nfiles = "jetstream:"\n', "feed.main.files: needed"),
        (SECTION + FEED.replace("jetstream:", "jetstream://nats-1"), 'write "jetstream:"'),
        (SECTION + FEED + 'format = "npac-bdd"\n', "feed.main.format: npac-bdd"),
        (SECTION + FEED + 'acknowledge = "by-replica"\n', "feed.main.acknowledge: by-replica"),
        ('[feed.main]\nsource = "dir:///x"\nfiles = "dir:///y"\n', "feed.main.files: only with source"),
    ],
)
def test_settings_that_cannot_work_are_refused_with_a_way_out(workbench: Workbench, text: str, told: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read_config(workbench.write("c.toml", text))
    assert told in str(refused.value)


def test_settings_of_the_files_are_checked_before_anything_is_connected(workbench: Workbench) -> None:
    from loader.sources.open import open_source

    config = read_config(workbench.write("c.toml", SECTION + FEED.replace("dir:///x", "https://x/y")))
    with pytest.raises(ConfigError, match=r"feed\.main\.files: must name a folder"):
        open_source("main", config.feeds["main"], config=config)
    with pytest.raises(ConfigError, match=r"feed\.main\.source: jetstream: is for replicas"):
        open_source("main", config.feeds["main"])


async def test_damaged_place_is_none_and_the_stream_is_read_from_its_beginning(fleet: Fleet) -> None:
    rig = fleet.rig()
    async with rig.running_here():
        await fleet.publish(*(fleet.unlisted(n, notice(PORTED, "1403")) for n in range(2, 6)))
        await follow_to(rig, 5)
        found = await place(rig)
        assert found is not None
        damaged = bytearray(pack_streams({"main": found}))
        damaged[3] ^= 1

        def damage(writer: object) -> None:
            with writer._environment.begin(write=True) as transaction:  # type: ignore[attr-defined]
                transaction.put(META_STREAM, bytes(damaged), db=writer._handles["meta"])  # type: ignore[attr-defined]

        await rig.sync.store.write(damage)
        assert await place(rig) is None
    assert unpack_streams(b"") == unpack_streams(None) == unpack_streams(b"short") == {}
    async with rig.running_here():
        await fleet.publish(fleet.unlisted(6, notice(PORTED, "1401")))
        await follow_to(rig, 6)
        assert counted(rig, "messages", "old") + counted(rig, "messages", "taken") == 5
        assert changes_by_place(await rig.journal()) == {(n, 1): 1 for n in range(2, 7)}


async def test_backup_keeps_the_place_in_the_stream(fleet: Fleet, tmp_path: Path) -> None:
    from lookupd.store.copy import copy_store
    from lookupd.store.reader import Reader

    async with fleet.rig().running_here() as rig:
        await fleet.publish(fleet.unlisted(2, notice(PORTED, "1403")))
        await follow_to(rig, 2)
        found = await place(rig)
        copy = tmp_path / "copy"
        copy.mkdir()

        def make(reader: Reader) -> None:
            with (copy / "data.mdb").open("wb") as file:
                copy_store(reader, file.fileno())

        await rig.sync.store.read(make)
    with Reader(copy) as reader:
        assert found is not None
        assert reader.streams() == {"main": found}


async def test_both_engines_answer_from_a_store_that_follows_a_stream(loaded: Workbench, each_engine: str) -> None:
    with Writer(loaded.store) as writer:
        writer.note_stream("main", StreamPosition("LOOKUPD", "2026-11-22T10:00:00+00:00", 7, "delta-main-7.ndjson@0"))
    async with (
        serve(loaded.config()) as served,
        LookupClient([f"udp://127.0.0.1:{served.port('npq', 'udp')}"], timeout=5) as client,
    ):
        assert (await client.query("886912345678")).outcome == "ported"
