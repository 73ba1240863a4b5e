"""Two replicas that watch each other, as a simulation: delays, losses, changes and restarts in any order.

Each side is the real machine. The world around it is a list of what each store went through; what a side hears of the
other is as old as the wire made it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product

import msgspec
import xxhash
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lookupd.limits import (
    DIFFERS_SECONDS,
    PEER_MISSES_MAX,
    PEER_POLL_SECONDS,
    PEER_POLL_WITHDRAWN_SECONDS,
    TABLES_SECONDS,
    TRAIL_STEPS_MAX,
)
from lookupd.model import FeedPosition, UnixSeconds
from lookupd.pair import Pair, PairState, Verdict, judge
from lookupd.store.portable import StoreState
from lookupd.store.trail import FEED, HAND, TABLES, Step

TICK = 0.25
"""Seconds: half of the shortest time between two looks."""

Content = frozenset[str]


def digest_of(content: Content) -> str:
    return f"{sum(xxhash.xxh3_64_intdigest(part.encode()) for part in content) & 0xFFFF_FFFF_FFFF_FFFF:016x}"


@dataclass
class Store:
    """What one replica holds: the files it took of two feeds, and what was done to it beside them."""

    name: str
    sequences: dict[str, int] = field(default_factory=lambda: {"x": 1, "y": 1})
    content: Content = frozenset({"x 1", "y 1"})
    steps: list[Step] = field(default_factory=list)
    ready: bool = True
    damaged: int = 0

    def __post_init__(self) -> None:
        self._note(FEED)

    def load(self, feed: str = "x") -> None:
        self.sequences[feed] += 1
        self.content |= {f"{feed} {self.sequences[feed]}"}
        self._note(FEED)

    def change(self, how: str, what: str) -> None:
        self.content ^= {f"{how} {what}"}
        self._note(how)

    def become(self, content: Content) -> None:
        """Mended from the other one."""
        if content != self.content:
            self.content = content
            self._note(HAND)

    def _note(self, how: str) -> None:
        serial = len(self.steps) + 1
        self.steps.append(Step(how, "x", self.sequences["x"], digest_of(self.content), serial, serial))

    def tell(self, withdrawn: str | None) -> StoreState:
        return StoreState(
            self.name,
            self.steps[-1].serial,
            digest_of(self.content),
            1,
            1,
            {f: FeedPosition(at, "delta", "", None, UnixSeconds(at)) for f, at in self.sequences.items()},
            self.ready and withdrawn is None,
            withdrawn,
            1.0,
            self.damaged,
            0.0,
            tuple(self.steps[-TRAIL_STEPS_MAX:]),
        )


class Replica:
    """A daemon: it looks at the other one, and its conclusion is in force from then on."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.start()

    def start(self) -> None:
        self.pair = Pair()
        self.withdrawn: str | None = None
        self.next_look = 0.0
        self.up = True

    def tell(self) -> StoreState:
        return self.store.tell(self.withdrawn)

    def look(self, heard: StoreState | None, now: float) -> None:
        view = self.pair.miss() if heard is None else self.pair.hear(self.tell(), heard, now)
        self.withdrawn = view.withdraw
        self.next_look = now + (PEER_POLL_SECONDS if self.withdrawn is None else PEER_POLL_WITHDRAWN_SECONDS)


class World:
    """Both, a clock, and a wire that delivers what was true some ticks ago."""

    def __init__(self) -> None:
        self.a, self.b = Replica(Store("a")), Replica(Store("b"))
        self.now = 0.0
        self.delay = 0
        self.cut = False
        self.past: list[tuple[StoreState | None, StoreState | None]] = []
        self.both_back_since: float | None = None
        self.both_back_longest = 0.0

    @property
    def sides(self) -> tuple[tuple[Replica, Replica, int], tuple[Replica, Replica, int]]:
        return (self.a, self.b, 1), (self.b, self.a, 0)

    def tick(self) -> None:
        self.now += TICK
        for replica, other, at in self.sides:
            if not replica.up or self.now < replica.next_look:
                continue
            then = self.past[-1 - self.delay][at] if len(self.past) > self.delay else None
            replica.look(then if other.up and not self.cut else None, self.now)
        self.past.append((self.a.tell() if self.a.up else None, self.b.tell() if self.b.up else None))
        self._watch_the_service()

    def _watch_the_service(self) -> None:
        """How long nobody answered although both could."""
        usable = [r.up and r.store.ready for r in (self.a, self.b)]
        if all(usable) and self.a.withdrawn is not None and self.b.withdrawn is not None:
            self.both_back_since = self.now if self.both_back_since is None else self.both_back_since
            self.both_back_longest = max(self.both_back_longest, self.now - self.both_back_since)
        else:
            self.both_back_since = None

    def run(self, seconds: float) -> None:
        for _ in range(int(seconds / TICK)):
            self.tick()


REPLICAS = st.sampled_from("ab")
ACTIONS = st.one_of(
    st.tuples(st.just("load"), REPLICAS, st.sampled_from("xy")),
    st.tuples(st.just("load_both"), st.integers(0, 8)),
    st.tuples(st.just("change"), REPLICAS, st.sampled_from([HAND, TABLES]), st.sampled_from("xyz")),
    st.tuples(st.just("mend"), REPLICAS),
    st.tuples(st.just("damage"), REPLICAS),
    st.tuples(st.just("unready"), REPLICAS),
    st.tuples(st.just("restart"), REPLICAS),
    st.tuples(st.just("kill"), REPLICAS),
    st.tuples(st.just("cut")),
    st.tuples(st.just("delay"), st.integers(0, 3)),
)
ACTED = st.lists(st.tuples(ACTIONS, st.sampled_from([0.0, 0.25, 1.0, 2.5, 7.0, 25.0])), min_size=1, max_size=20)
"""What happens, and seconds until the next thing does."""


Acted = list[tuple[tuple[object, ...], float]]


def act(world: World, action: tuple[object, ...]) -> None:
    name, *rest = action
    replica = {"a": world.a, "b": world.b}.get(str(rest[0]) if rest else "")
    if name == "cut":
        world.cut = not world.cut
    elif name == "delay":
        world.delay = int(str(rest[0]))
    elif name == "load_both":
        world.a.store.load()
        world.run(int(str(rest[0])) * TICK)
        world.b.store.load()
    else:
        assert replica is not None
        store, other = replica.store, (world.b if replica is world.a else world.a).store
        if name == "load":
            store.load(str(rest[1]))
        elif name == "change":
            store.change(str(rest[1]), str(rest[2]))
        elif name == "mend" and store.sequences == other.sequences:
            store.become(other.content)
            store.damaged = 0
        elif name == "damage":
            store.damaged += 1
        elif name == "unready":
            store.ready = not store.ready
        elif name == "kill":
            replica.up = False
        elif name == "restart":
            replica.start()
            replica.next_look = world.now


@settings(max_examples=300, deadline=None)
@given(ACTED)
@example([(("change", "a", HAND, "x"), 0.25), (("change", "b", HAND, "y"), 7.0)])
@example([(("change", "b", HAND, "x"), 7.0), (("load", "b", "x"), 2.5), (("restart", "a"), 7.0)])
@example([(("load", "a", "x"), 2.5), (("load", "b", "y"), 2.5), (("restart", "a"), 0.0), (("restart", "b"), 7.0)])
def test_never_do_both_stand_back_for_longer_than_it_takes_to_look_once(acted: Acted) -> None:
    world = World()
    world.run(3)
    for action, seconds in acted:
        act(world, action)
        world.run(seconds)
    world.run(40)
    # One look at the pace of who stands back, and what it hears is up to three ticks old.
    assert world.both_back_longest <= PEER_POLL_WITHDRAWN_SECONDS + 4 * TICK


@settings(max_examples=300, deadline=None)
@given(ACTED)
def test_whoever_looks_long_enough_comes_to_rest_and_somebody_serves(acted: Acted) -> None:
    world = World()
    world.run(3)
    for action, seconds in acted:
        act(world, action)
        world.run(seconds)
    world.delay, world.cut = 0, False
    for replica in (world.a, world.b):
        replica.store.ready = True
        if not replica.up:
            replica.start()
            replica.next_look = world.now
    world.run(TABLES_SECONDS + 15)
    before = world.a.withdrawn, world.b.withdrawn
    assert None in before
    world.run(20)
    assert (world.a.withdrawn, world.b.withdrawn) == before
    for replica, other, _ in world.sides:  # equal again: whatever was, both serve
        for feed, sequence in other.store.sequences.items():
            replica.store.sequences[feed] = max(replica.store.sequences[feed], sequence)
        replica.store.become(other.store.content)
    world.run(PEER_POLL_SECONDS + TICK)
    assert (world.a.withdrawn, world.b.withdrawn) == (None, None)
    assert world.a.pair.view.state is world.b.pair.view.state is PairState.AGREES


MIRRORED = {Verdict.WE: Verdict.THEY, Verdict.THEY: Verdict.WE, Verdict.UNDECIDED: Verdict.UNDECIDED}

HISTORY = st.lists(
    st.one_of(
        st.just(("load",)),
        st.tuples(st.just("change"), st.sampled_from([HAND, TABLES]), st.sampled_from("xyz")),
    ),
    max_size=12,
)


def made(name: str, history: list[tuple[str, ...]], damaged: int) -> StoreState:
    store = Store(name, damaged=damaged)
    for step in history:
        store.load() if step == ("load",) else store.change(step[1], step[2])
    return store.tell(None)


@settings(max_examples=500, deadline=None)
@given(HISTORY, HISTORY, st.integers(0, 1), st.integers(0, 1), st.booleans())
def test_both_sides_come_to_the_same_verdict(
    one: list[tuple[str, ...]], other: list[tuple[str, ...]], damaged: int, others_damaged: int, is_old: bool
) -> None:
    a, b = made("a", one, damaged), made("b", other, others_damaged)
    if is_old:  # trails that do not reach back
        a, b = (msgspec.structs.replace(told, trail=told.trail[-2:]) for told in (a, b))
    ours, theirs = judge(a, b), judge(b, a)
    assert (ours is None) == (theirs is None)
    if ours is not None and theirs is not None:
        assert theirs.verdict is MIRRORED[ours.verdict]
        assert ours.tables == theirs.tables


@given(st.integers(0, 10), st.integers(0, 10))
def test_change_on_one_side_is_found_whatever_files_came_before_and_after(before: int, after: int) -> None:
    history = [("load",)] * before
    later = [("load",)] * after
    changed = made("a", [*history, ("change", HAND, "x"), *later], 0)
    whole = made("b", [*history, *later], 0)
    evidence = judge(changed, whole)
    assert evidence is not None
    assert evidence.verdict is Verdict.WE


def test_divergence_is_told_and_the_wrong_one_stands_back_within_ten_seconds() -> None:
    """Whenever the change falls between two looks, and however late the other one's file comes."""
    for offset, delay in product(range(9), range(4)):
        world = World()
        world.delay = delay
        world.run(4 + offset * TICK)
        world.a.store.change(HAND, "x")
        began = world.now
        while world.a.withdrawn is None and world.now - began < 15:
            world.tick()
        assert world.now - began <= 10, (offset, delay)
        world.run(4)
        assert (world.a.pair.view.verdict, world.b.pair.view.verdict) == (Verdict.WE, Verdict.THEY)
        assert world.b.withdrawn is None


def test_peer_that_goes_away_is_missed_soon_by_who_stands_back() -> None:
    world = World()
    world.run(4)
    world.a.store.change(HAND, "x")
    world.run(10)
    assert world.a.withdrawn is not None
    world.b.up = False
    world.run((PEER_MISSES_MAX + 1) * PEER_POLL_WITHDRAWN_SECONDS)
    assert world.a.withdrawn is None
    assert world.a.pair.view.state is PairState.ALONE


def test_notice_that_fires_on_both_within_two_seconds_is_no_divergence() -> None:
    for offset in range(9):
        world = World()
        world.run(4 + offset * TICK)
        for store in (world.a.store, world.b.store):
            store.content |= {"fired"}
            store._note(FEED)
            world.run(2)
        world.run(20)
        assert [r.pair.divergences for r in (world.a, world.b)] == [0, 0]
    assert DIFFERS_SECONDS > 2
