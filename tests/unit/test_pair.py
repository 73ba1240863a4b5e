"""What a replica concludes of its peer, the trail that it tells, and a peer that is slow, wrong or hostile."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator

import msgspec
import pytest
from aiohttp import web

from loader.pending import fire_due
from lookupd.config import read_config
from lookupd.fastpath import native_missing
from lookupd.limits import DIFFERS_SECONDS, PEER_MISSES_MAX, PEER_STATE_BYTES_MAX, TABLES_SECONDS, TRAIL_STEPS_MAX
from lookupd.model import TN, FeedPosition, JournalKind, Outcome, UnixMillis, UnixSeconds
from lookupd.pair import Pair, PairState, Verdict, View, judge
from lookupd.pair_watch import PairWatch, PeerUnusable, checked
from lookupd.protocols import npq
from lookupd.second_look import warnings
from lookupd.store.change import Counts
from lookupd.store.portable import Pinned, Standing, StoreState
from lookupd.store.reader import Reader
from lookupd.store.trail import FEED, HAND, TABLES, Step
from lookupd.store.writer import Writer
from lookupd.web.store import StoreForPeers
from tests.conftest import NETWORKS, RANGES, Workbench, free_port, serve
from tests.unit.test_daemon import ask_udp, scrape

PORT = {"kind": "port", "tn": "886912345679", "recipient": "1402", "donor": "1401"}


def digest(text: str) -> str:
    return f"{int.from_bytes(text.encode(), 'big'):016x}"


def told(name: str, *steps: str, files: int = 1, other_files: int = 1, **more: object) -> StoreState:
    """steps: `file:D` for a file after which the digest is D, or `hand:D`, `tables:D`."""
    trail = []
    for at, step in enumerate(steps, 1):
        how, _, after = step.partition(":")
        trail.append(Step(FEED if how == "file" else how, "x", at, digest(after), at, at))
    feeds = {feed: FeedPosition(at, "delta", "", None, UnixSeconds(100 * at)) for feed, at in
             (("x", files), ("y", other_files))}  # fmt: skip
    state = StoreState(name, len(steps), trail[-1].digest, 4, 3, feeds, ready=True, trail=tuple(trail))
    return msgspec.structs.replace(state, **more)


def settled(ours: StoreState, theirs: StoreState) -> Pair:
    """A side that has seen the two differ for long enough."""
    pair = Pair()
    for now in (0.0, DIFFERS_SECONDS, DIFFERS_SECONDS + TABLES_SECONDS):
        pair.hear(ours, theirs, now)
    return pair


# -- the machine -----------------------------------------------------------------------------------------


def test_equal_replicas_agree_whatever_their_serials() -> None:
    ours = told("a", "file:D")
    view = Pair().hear(ours, told("b", "hand:C", "file:D"), 0.0)
    assert view == View(PairState.AGREES)


def test_nobody_to_compare_with_is_alone() -> None:
    pair = Pair()
    assert pair.view == pair.miss() == View(PairState.ALONE)


@pytest.mark.parametrize(
    ("ours", "theirs", "expected", "why"),
    [
        (["file:D", "hand:E"], ["file:D"], Verdict.WE, "this replica: changed outside the feed"),
        (["file:D"], ["file:D", "hand:E"], Verdict.THEY, "the peer: changed outside the feed"),
        (["file:D", "hand:E", "file:F"], ["file:D", "file:G"], Verdict.WE, "this replica: changed outside the feed"),
        (["file:D", "tables:E"], ["file:D"], Verdict.WE, "this replica: tables or restrictions of one side only"),
        (["file:D", "tables:E", "hand:F"], ["file:D"], Verdict.WE, "this replica: changed outside the feed"),
        (["file:D", "hand:E"], ["file:D", "hand:F"], Verdict.UNDECIDED, "both were changed outside the feed"),
        (["file:D", "file:E"], ["file:D", "file:F"], Verdict.UNDECIDED, "no change tells why"),
        (["file:D", "hand:E"], ["file:C"], Verdict.UNDECIDED, "where they parted is further back than is told"),
        # Changed by hand and back again: the two were the same after that.
        (["file:D", "hand:E", "hand:D"], ["file:D", "hand:F"], Verdict.THEY, "the peer: changed outside the feed"),
        # Files of two feeds came in another order.
        (["file:D", "file:E", "file:F"], ["file:D", "file:G", "file:F", "hand:H"], Verdict.THEY, "the peer: changed"),
    ],
)
def test_whoever_changed_outside_the_feed_since_they_last_agreed_is_wrong(
    ours: list[str], theirs: list[str], expected: Verdict, why: str
) -> None:
    pair = settled(told("a", *ours), told("b", *theirs))
    assert (pair.view.state, pair.view.verdict, pair.divergences) == (PairState.DIFFERS, expected, 1)
    assert pair.view.why.startswith(why)
    reason = f"differs from b: {why}" if expected is Verdict.WE else None
    assert pair.view.withdraw == reason


def test_damage_and_missed_moments_tell_before_the_history_does() -> None:
    ours, theirs = told("a", "file:D"), told("b", "file:D", "hand:E")
    assert settled(msgspec.structs.replace(ours, damaged=1), theirs).view.verdict is Verdict.WE
    assert settled(msgspec.structs.replace(ours, overdue=60.0), theirs).view.verdict is Verdict.WE
    assert settled(msgspec.structs.replace(ours, overdue=1.0), theirs).view.verdict is Verdict.THEY
    both = settled(msgspec.structs.replace(ours, damaged=1), msgspec.structs.replace(theirs, damaged=1))
    assert both.view.verdict is Verdict.THEY


@pytest.mark.parametrize("more", [{"ready": False}, {"withdrawn": "behind the peer: x at 1 of 2"}])
def test_nobody_stands_back_for_a_peer_that_does_not_serve(more: dict[str, object]) -> None:
    view = settled(told("a", "file:D", "hand:E"), told("b", "file:D", **more)).view
    assert (view.verdict, view.withdraw) == (Verdict.WE, None)


def test_tables_on_one_side_are_waited_for() -> None:
    ours, theirs = told("a", "file:D", "tables:E"), told("b", "file:D")
    pair = Pair()
    found = {now: pair.hear(ours, theirs, float(now)) for now in range(0, int(TABLES_SECONDS) + 1, 2)}
    assert [now for now, view in found.items() if view.withdraw] == [TABLES_SECONDS]
    assert found[DIFFERS_SECONDS].state is PairState.DIFFERS


def test_what_was_once_known_outlives_the_trail_until_the_digests_agree() -> None:
    ours, theirs = told("a", "file:D", "hand:E"), told("b", "file:D")
    pair = settled(ours, theirs)
    view = pair.hear(told("a", "file:F"), told("b", "file:G"), 100.0)
    assert (view.verdict, view.withdraw is None) == (Verdict.WE, False)
    for _ in range(PEER_MISSES_MAX):
        view = pair.miss()
    assert (view.state, view.withdraw) == (PairState.ALONE, None)
    for now in (110.0, 112.0, 114.0):
        view = pair.hear(told("a", "file:F"), told("b", "file:G"), now)
    assert view.withdraw is not None
    assert pair.hear(told("a", "file:H"), told("b", "file:H"), 116.0).state is PairState.AGREES
    for now in (118.0, 120.0, 122.0):
        view = pair.hear(told("a", "file:F"), told("b", "file:G"), now)
    assert (view.verdict, view.withdraw, pair.divergences) == (Verdict.UNDECIDED, None, 3)


def test_both_found_wrong_by_what_they_remember_both_serve() -> None:
    pair = settled(told("a", "file:D", "hand:E"), told("b", "file:D"))
    back = told("b", "file:G", withdrawn="differs from a: this replica: changed outside the feed", ready=False)
    assert pair.hear(told("a", "file:F"), back, 100.0).withdraw is None
    view = pair.hear(told("a", "file:F"), told("b", "file:G"), 102.0)
    assert (view.verdict, view.withdraw) == (Verdict.UNDECIDED, None)


def test_file_on_its_way_ends_no_divergence() -> None:
    pair = settled(told("a", "file:D", "hand:E"), told("b", "file:D"))
    view = pair.hear(told("a", "file:D", "hand:E", "file:F", files=2), told("b", "file:D"), 100.0)
    assert (view.state, view.lag_files, view.withdraw is None) == (PairState.DIFFERS, -1, False)
    assert pair.divergences == 1


def test_differences_that_are_seen_seldom_are_no_divergence() -> None:
    """Two agreed seconds, with files on their way in between."""
    pair = Pair()
    for now in (0.0, 20.0, 40.0):
        assert pair.hear(told("a", "file:D"), told("b", "file:E"), now).state is PairState.AGREES
        for after in (2.0, 4.0, 6.0):
            assert pair.hear(told("a", "file:D"), told("b", "file:F", files=2), now + after).state is PairState.BEHIND


def test_who_starts_behind_stands_back_until_the_digests_agree() -> None:
    pair, ahead = Pair(), told("b", "file:D", "file:E", files=3)
    view = pair.hear(told("a", "file:D"), ahead, 0.0)
    assert (view.state, view.lag_files, view.lag_seconds) == (PairState.BEHIND, 2, 200.0)
    assert view.withdraw == "behind the peer: x at 1 of 3"
    assert pair.miss().withdraw == view.withdraw  # one look in vain says nothing
    caught_up = told("a", "file:D", files=3)
    assert pair.hear(caught_up, ahead, 2.0).withdraw == view.withdraw  # a notice fires a moment later here
    assert pair.hear(told("a", "file:D", "file:E", files=3), ahead, 4.0) == View(PairState.AGREES)


def test_who_serves_does_not_stand_back_when_a_file_comes_to_the_peer_first() -> None:
    for first in (told("b", "file:D"), told("b", "file:C", other_files=0), told("b", "file:E", ready=False, files=2)):
        pair = Pair()
        assert pair.hear(told("a", "file:D"), first, 0.0).withdraw is None
        assert pair.hear(told("a", "file:D"), told("b", "file:D", "file:E", files=2), 2.0).withdraw is None


def test_who_starts_wrong_stands_back_from_its_first_answer_on() -> None:
    for steps in (["file:D", "hand:E"], ["file:D", "tables:E"], ["file:D", "file:E"]):
        pair = Pair()
        is_wrong = "hand:E" in steps
        found = [pair.hear(told("a", *steps), told("b", "file:D"), now).withdraw is not None for now in (0.0, 2.0, 4.0)]
        assert found == [is_wrong] * 3
    assert Pair().hear(told("a", "file:D", "hand:E"), told("b", "file:D", ready=False), 0.0).withdraw is None


def test_who_starts_behind_in_one_feed_and_ahead_in_another_serves() -> None:
    view = Pair().hear(told("a", "file:D", files=2), told("b", "file:E", other_files=3), 0.0)
    assert (view.state, view.withdraw) == (PairState.BEHIND, None)


@pytest.mark.parametrize("how", ["away", "not ready", "stands back"])
def test_who_stands_back_behind_a_peer_that_does_not_serve_any_more_serves(how: str) -> None:
    pair, ahead = Pair(), told("b", "file:D", "file:E", files=2)
    assert pair.hear(told("a", "file:D"), ahead, 0.0).withdraw is not None
    if how == "away":
        for _ in range(PEER_MISSES_MAX):
            pair.miss()
    else:
        more: dict[str, object] = {"ready": False} if how == "not ready" else {"withdrawn": "differs from a: x"}
        pair.hear(told("a", "file:D"), msgspec.structs.replace(ahead, **more), 2.0)
    assert pair.view.withdraw is None
    assert pair.hear(told("a", "file:D"), ahead, 4.0).withdraw is None  # once it serves, it goes on


def test_older_daemon_that_tells_no_trail_is_no_reason_to_stand_back() -> None:
    state = msgspec.json.decode(
        b'{"replica":"b","serial":3,"digest":"%s","ported":4,"blocks":3,"feeds":{"x":[1,"delta","",null,100],'
        b'"y":[1,"delta","",null,100]}}' % digest("D").encode(),
        type=StoreState,
    )
    view = settled(told("a", "file:D", "hand:E"), state).view
    assert (view.state, view.verdict, view.withdraw) == (PairState.DIFFERS, Verdict.WE, None)
    assert settled(told("a", "file:F"), state).view.verdict is Verdict.UNDECIDED


# -- the trail -------------------------------------------------------------------------------------------


def trail(workbench: Workbench) -> list[tuple[str, str, int]]:
    with workbench.reader() as reader, Pinned(reader) as pinned:
        steps = pinned.trail()
        assert steps[-1].digest == f"{pinned.state.digest:016x}"
        return [(step.how, step.feed, step.sequence) for step in steps]


def test_trail_tells_files_tables_and_hands_apart(loaded: Workbench) -> None:
    loaded.delta(PORT, sequence=2)
    assert trail(loaded) == [(FEED, "main", 1), (FEED, "main", 2)]
    loaded.load_tables(NETWORKS.replace("Gamma", "Delta"))
    assert trail(loaded)[2:] == [(TABLES, "", 0)]
    with Writer(loaded.store) as writer, writer.change(UnixSeconds(9)) as change:
        for _ in range(2):  # what changes no number is no step: a clock, a pruning
            change.record(JournalKind.CLOCK, Counts(), reason="noc: jumped")
    assert trail(loaded)[2:] == [(TABLES, "", 0)]
    loaded.delta(PORT, sequence=3)
    change_by_hand(loaded, 886912345678)
    loaded.load_tables(NETWORKS, RANGES.replace("8862,1401", "8862,1402"))
    assert trail(loaded)[2:] == [(TABLES, "", 0), (FEED, "main", 3), (HAND, "", 0)]


def test_fired_notices_are_a_step_of_the_feed(loaded: Workbench) -> None:
    later = {**PORT, "effective_at": "2027-01-01T00:00:00+08:00"}
    loaded.delta(later, sequence=2)
    with Writer(loaded.store) as writer:
        assert fire_due(writer, UnixMillis(1_900_000_000_000)) is not None
    assert trail(loaded) == [(FEED, "main", 1), (FEED, "main", 2), (FEED, "main", 0)]


def test_trail_is_bounded_and_ends_now(loaded: Workbench) -> None:
    for sequence in range(2, TRAIL_STEPS_MAX + 10):
        loaded.delta(PORT, sequence=sequence)
    found = trail(loaded)
    assert len(found) == TRAIL_STEPS_MAX
    assert found[-1] == (FEED, "main", TRAIL_STEPS_MAX + 9)
    with loaded.reader() as reader:
        body = msgspec.json.encode(StoreForPeers("a", lambda: reader).state())
    assert len(body) < PEER_STATE_BYTES_MAX // 4


def test_trail_of_an_empty_store_is_its_state(workbench: Workbench) -> None:
    workbench.load_tables()
    assert trail(workbench) == [(HAND, "", 0)]


def test_state_tells_what_is_overdue_and_what_the_daemon_knows(loaded: Workbench) -> None:
    moment = int(time.time()) + 3600
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))
    loaded.delta({**PORT, "effective_at": at}, sequence=2)
    with loaded.reader() as reader, Pinned(reader) as pinned:
        standing = Standing(True, "differs from b: x", 7.5, 2)
        state = pinned.tell("a", standing, pinned.trail(), moment + 9.0)
        assert pinned.tell("a", standing, (), moment - 9.0).overdue == 0
    assert (state.overdue, state.ready, state.withdrawn, state.started_at, state.damaged) == (
        9.0,
        True,
        "differs from b: x",
        7.5,
        2,
    )
    assert checked(msgspec.json.encode(state)) == state


def change_by_hand(workbench: Workbench, tn: int) -> None:
    """A number's route, outside the feed: every checksum and the digest are right."""
    with Writer(workbench.store) as writer, writer.change(UnixSeconds(int(time.time()))) as change:
        route = change.network_codes["1403"]
        counts = change.set_numbers(TN(tn), TN(tn), route, 0, 0, 1)
        change.record(JournalKind.CORRECT, counts, tn=tn, tn_to=tn, reason="test: by hand")


@pytest.mark.parametrize("native", [False, True])
def test_both_environments_tell_the_same_state(loaded: Workbench, native: bool) -> None:
    if native and native_missing():
        pytest.skip(native_missing() or "")
    loaded.delta(PORT, sequence=2)
    change_by_hand(loaded, 886912345678)
    with Reader(loaded.store, native=native) as reader:
        state = StoreForPeers("a", lambda: reader).state()
    assert state is not None
    assert [step.how for step in state.trail] == [FEED, FEED, HAND]


# -- standing back ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("each_engine")
async def test_who_stands_back_says_so_with_serial_and_age_and_serves_again(loaded: Workbench) -> None:
    now = int(time.time())
    loaded.snapshot(sequence=2, now=now)
    async with serve(loaded.config()) as served:
        ask = npq.encode_query(1, "886912345678")
        port = served.port("npq", "udp")
        before = await ask_udp(port, ask)
        served.daemon.withdraw("differs from b: this replica: changed outside the feed")
        assert served.daemon.readiness() == "withdrawn: differs from b: this replica: changed outside the feed"
        for _ in range(100):  # a worker takes it over between two batches
            reply = await ask_udp(port, ask)
            assert reply is not None
            answer = npq.decode_answer(reply)
            if answer.results[0] == Outcome.UNAVAILABLE:
                break
        assert (answer.serial, answer.results[0]) == (served.daemon.engine.serial, Outcome.UNAVAILABLE)
        assert 0 <= answer.age <= int(time.time()) - now + 1
        metrics = await scrape(served)
        assert (metrics["lookupd_withdrawn"], metrics["lookupd_ready"]) == (1, 0)
        served.daemon.withdraw(None)
        for _ in range(100):
            if await ask_udp(port, ask) == before:
                break
        assert npq.decode_answer(await ask_udp(port, ask) or b"").results[0] == Outcome.PORTED


# -- a peer that is not as it should be ------------------------------------------------------------------


@contextlib.asynccontextmanager
async def peer_that(answer: object) -> AsyncIterator[str]:
    """An HTTP server that answers every request by `answer(request)`; its URL."""
    application = web.Application()
    application.router.add_route("*", "/{any:.*}", answer)  # type: ignore[arg-type]
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


async def redirects(request: web.Request) -> web.StreamResponse:
    raise web.HTTPFound("/v1/store/state")


async def huge(request: web.Request) -> web.StreamResponse:
    reply = web.StreamResponse()
    await reply.prepare(request)
    with contextlib.suppress(ConnectionError):
        for _ in range(1000):
            await reply.write(b" " * 65_536)
    return reply


async def slow(request: web.Request) -> web.StreamResponse:
    reply = web.StreamResponse()
    await reply.prepare(request)
    with contextlib.suppress(ConnectionError):
        for _ in range(100):
            await reply.write(b" ")
            await asyncio.sleep(0.05)
    return reply


async def breaks_off(request: web.Request) -> web.StreamResponse:
    reply = web.StreamResponse(headers={"Content-Length": "1000"})
    await reply.prepare(request)
    await reply.write(b'{"replica"')
    assert request.transport is not None
    request.transport.close()
    return reply


async def no_json(request: web.Request) -> web.StreamResponse:
    return web.Response(body=b"\xff\xfe{{{{", headers={"Content-Encoding": "gzip"})


async def other_json(request: web.Request) -> web.StreamResponse:
    return web.json_response({"replica": "b"})


async def forbids(request: web.Request) -> web.StreamResponse:
    raise web.HTTPForbidden


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        (redirects, "refused"),
        (huge, "wrong"),
        (slow, "timeout"),
        (breaks_off, "unreachable"),
        (no_json, "wrong"),
        (other_json, "wrong"),
        (forbids, "refused"),
    ],
)
async def test_peer_of_no_use_is_as_good_as_none(
    answer: object, result: str, capsys: pytest.CaptureFixture[str]
) -> None:
    withdrawn: list[str | None] = []
    async with peer_that(answer) as url:
        watch = PairWatch(url, lambda: told("a", "file:D"), withdrawn.append)
        began = time.monotonic()
        for _ in range(PEER_MISSES_MAX):
            await watch.look()
        assert time.monotonic() - began < 2 * PEER_MISSES_MAX
        await watch.close()
    assert watch.polls[result] == PEER_MISSES_MAX
    assert (watch.up, watch.view, withdrawn) == (False, View(PairState.ALONE), [])
    lines = [line for line in capsys.readouterr().err.splitlines() if " peer_down " in line]
    assert len(lines) == 1
    assert f"result={result}" in lines[0]
    assert watch.summary() == f"no answer: {result}"


async def test_peer_that_is_not_there_is_away() -> None:
    watch = PairWatch(f"http://127.0.0.1:{free_port()}", lambda: told("a", "file:D"), lambda _: None)
    await watch.look()
    await watch.close()
    assert watch.polls["unreachable"] == 1


async def test_peer_that_is_ourselves_is_none() -> None:
    state = told("a", "file:D", started_at=1.5)

    async def ours(request: web.Request) -> web.StreamResponse:
        return web.Response(body=msgspec.json.encode(state))

    async with peer_that(ours) as url:
        watch = PairWatch(url, lambda: state, lambda _: None)
        await watch.look()
        await watch.close()
    assert watch.polls["wrong"] == 1


@pytest.mark.parametrize(
    "changed",
    [
        {"replica": ""},
        {"replica": "b\nready"},
        {"replica": "b" * 65},
        {"serial": -1},
        {"serial": 1 << 70},
        {"digest": "xyz"},
        {"digest": "00000000000000FF"},
        {"feeds": {"x\r\n": [1, "delta", "", None, 1]}},
        {"feeds": {"x": [-1, "delta", "", None, 1]}},
        {"trail": [["feed", "x", 1, "no digest", 1, 1]]},
        {"trail": [["feed", "x"]]},
        {"damaged": "many"},
    ],
)
def test_state_whose_values_cannot_be_is_refused(changed: dict[str, object]) -> None:
    tree = msgspec.json.decode(msgspec.json.encode(told("b", "file:D")))
    checked(msgspec.json.encode(tree))
    with pytest.raises(PeerUnusable) as raised:
        checked(json.dumps(tree | changed).encode())
    assert raised.value.result == "wrong"


@pytest.mark.parametrize("body", [b"", b"[" * 60_000, b'{"replica": ' * 5000, b"\xff", b"null", b"1e999"])
def test_bytes_that_are_no_state_are_refused(body: bytes) -> None:
    with pytest.raises(PeerUnusable):
        checked(body)


def test_judge_needs_no_trail_to_know_damage() -> None:
    bare = told("a", "file:D", trail=())
    evidence = judge(msgspec.structs.replace(bare, damaged=3), told("b", "file:E"))
    assert evidence is not None
    assert evidence.verdict is Verdict.WE


@pytest.mark.parametrize(
    ("extra", "listen", "warned"),
    [
        ('[replica]\npeer = "https://192.0.2.7:9474"', 'http = "http://127.0.0.1:0"', None),
        ('[replica]\npeer = "https://192.0.2.7:9474"', "", "listen.http names no listener"),
        (
            '[replica]\npeer = "https://192.0.2.7:9474"\n[[client]]\nname = "x"\nsources = ["127.0.0.1"]',
            'http = "http://127.0.0.1:0"',
            "no [[client]] has peer = true",
        ),
        ("", "", None),
    ],
)
def test_peer_that_cannot_watch_us_is_told(workbench: Workbench, extra: str, listen: str, warned: str | None) -> None:
    found = [line for line in warnings(read_config(workbench.config(extra, listen))) if line.startswith("replica.peer")]
    assert len(found) == (warned is not None)
    assert all(line.endswith(warned or "") for line in found)
