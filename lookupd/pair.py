"""Two replicas: what one concludes from what both say of themselves, and whether it stands back.

A machine without clock or socket: `hear` after each look at the peer, `miss` after each one in vain. Both replicas
run it on the same facts and come to the same conclusion, each for itself. Who asks, and what becomes of the
conclusion, is for `pair_watch`.

Whoever is wrong stands back, and only while the other one answers:

- at the same positions with other digests, one has changed outside the feed since the two last agreed, has damaged
  blocks, or has missed the moment of a notice, and the other one has not;
- a replica that starts behind its peer, or wrong by the same signs, stands back from its first answer on.

A replica whose peer is away, not ready or standing back itself serves, whatever is known of it: a partly wrong one is
better than none.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from lookupd.limits import (
    DIFFERS_FORGOTTEN_SECONDS,
    DIFFERS_SECONDS,
    OVERDUE_SECONDS,
    PEER_MISSES_MAX,
    TABLES_SECONDS,
)
from lookupd.store.portable import StoreState
from lookupd.store.trail import FEED, HAND, TABLES, Step

DIFFERS_WORDS = "differs from "
BEHIND_WORDS = "behind the peer: "
"""How the reasons begin for which a replica stands back."""


class PairState(StrEnum):
    """How the two stand to one another.

    agrees: same positions and digest, or a difference that is not older than agreed seconds allow. behind, ahead: we
    lack files that the peer has, or the other way round. differs: until the digests agree again.
    """

    ALONE = "alone"
    AGREES = "agrees"
    BEHIND = "behind"
    AHEAD = "ahead"
    DIFFERS = "differs"


class Verdict(StrEnum):
    """Who is wrong, when the two differ."""

    WE = "we"
    THEY = "they"
    UNDECIDED = "undecided"


class Evidence(msgspec.Struct, frozen=True):
    """What speaks for a verdict, in words. tables: nothing but that tables were loaded on one side."""

    verdict: Verdict
    why: str
    tables: bool = False


class View(msgspec.Struct, frozen=True):
    """The conclusion. verdict: of `differs`. lag_files, lag_seconds: how many files, and by how much older, our feeds
    are; negative when we are ahead. withdraw: why we stand back; None = we serve."""

    state: PairState = PairState.ALONE
    verdict: Verdict | None = None
    why: str = ""
    lag_files: int = 0
    lag_seconds: float = 0.0
    withdraw: str | None = None


class Pair:
    """One replica's side."""

    def __init__(self, *, follows: bool = False, withdrawn: str | None = None) -> None:
        """follows: it goes on for a process of this replica, which served, or stood back for the reason `withdrawn`."""
        self.view = View(withdraw=withdrawn)
        self.divergences = 0
        self._missed = 0
        self._joining = not follows or withdrawn is not None
        self._differs_since: float | None = None
        self._differs_seen = 0.0
        self._evidence: Evidence | None = None

    def miss(self) -> View:
        """The peer did not answer, or nothing that can be used."""
        self._missed += 1
        if self._missed >= PEER_MISSES_MAX:
            self._joining = False
            self._differs_since = None
            self.view = View()
        return self.view

    def hear(self, ours: StoreState, theirs: StoreState, now: float) -> View:
        """Both states, as new as can be had. now: of a clock that only grows."""
        self._missed = 0
        files_behind, files_ahead = _files(ours, theirs)
        if not files_behind and not files_ahead:
            if ours.digest == theirs.digest:
                return self._agree()
            self._see_difference(now)
        state = self._state(files_behind, files_ahead, now)
        if state is PairState.DIFFERS:
            self._joining = False
            self._weigh(ours, theirs)
        evidence = self._evidence if state is PairState.DIFFERS else None
        self.view = View(
            state,
            evidence.verdict if evidence else None,
            evidence.why if evidence else "",
            files_behind - files_ahead,
            _seconds(ours, theirs),
            self._withdraw(state, ours, theirs, now),
        )
        return self.view

    def _agree(self) -> View:
        self._joining = False
        self._differs_since = self._evidence = None
        self.view = View(PairState.AGREES)
        return self.view

    def _see_difference(self, now: float) -> None:
        """At the same positions. While files come, there may be no such look for a while: it begins anew then."""
        is_old = self.view.state is not PairState.DIFFERS and now - self._differs_seen > DIFFERS_FORGOTTEN_SECONDS
        if self._differs_since is None or is_old:
            self._differs_since = now
        self._differs_seen = now

    def _state(self, files_behind: int, files_ahead: int, now: float) -> PairState:
        if self.view.state is PairState.DIFFERS:
            return PairState.DIFFERS  # a file on its way does not make two stores equal
        if files_behind:
            return PairState.BEHIND
        if files_ahead:
            return PairState.AHEAD
        assert self._differs_since is not None
        if now - self._differs_since < DIFFERS_SECONDS:
            return PairState.AGREES
        self.divergences += 1
        return PairState.DIFFERS

    def _weigh(self, ours: StoreState, theirs: StoreState) -> None:
        """What was once known holds until something else is: the trails forget, the stores do not mend themselves."""
        fresh = judge(ours, theirs)
        if fresh is not None:
            self._evidence = fresh
        elif self._evidence is None:
            self._evidence = Evidence(Verdict.UNDECIDED, "where they parted is further back than is told")
        elif self._evidence.verdict is Verdict.WE and _stands_back_for_us(theirs):
            self._evidence = Evidence(Verdict.UNDECIDED, "both were found wrong")

    def _withdraw(self, state: PairState, ours: StoreState, theirs: StoreState, now: float) -> str | None:
        peer_serves = theirs.ready and theirs.withdrawn is None
        if state is PairState.DIFFERS:
            evidence = self._evidence
            if not peer_serves or evidence is None or evidence.verdict is not Verdict.WE:
                return None
            since = now if self._differs_since is None else self._differs_since
            if evidence.tables and now - since < TABLES_SECONDS and self.view.withdraw is None:
                return None
            return f"{DIFFERS_WORDS}{theirs.replica}: {evidence.why}"
        if not self._joining:
            return None
        missing = _missing(ours, theirs)
        # Positions that cross, each behind in another feed, are no reason: both would stand back.
        if peer_serves and missing and state is PairState.BEHIND and not _files(ours, theirs)[1]:
            return BEHIND_WORDS + missing
        if peer_serves and state is PairState.AGREES:
            # Caught up, but the digests do not agree yet: a moment longer.
            reason = self.view.withdraw or self._known_at_start(ours, theirs)
            if reason is not None:
                return reason
        self._joining = False
        return None

    def _known_at_start(self, ours: StoreState, theirs: StoreState) -> str | None:
        """Who was wrong before a restart is wrong after it, and has answered nothing yet: it need not begin to."""
        evidence = judge(ours, theirs)
        if evidence is None or evidence.verdict is not Verdict.WE or evidence.tables:
            return None
        return f"{DIFFERS_WORDS}{theirs.replica}: {evidence.why}"


def judge(ours: StoreState, theirs: StoreState) -> Evidence | None:
    """Which of two stores that differ is wrong; the other side's verdict is the mirror image. None = no evidence."""
    for what, mine, other in (
        ("damaged blocks", ours.damaged > 0, theirs.damaged > 0),
        ("a notice whose moment was missed", ours.overdue > OVERDUE_SECONDS, theirs.overdue > OVERDUE_SECONDS),
    ):
        if mine != other:
            return Evidence(Verdict.WE if mine else Verdict.THEY, f"{_here(mine)} {what}")
    mine_trail, their_trail = _points(ours), _points(theirs)
    common = _parting(mine_trail, their_trail)
    if common is None:
        return None
    our_steps, their_steps = ({step.how for step in trail} - {FEED} for trail in common)
    if bool(our_steps) == bool(their_steps):
        return Evidence(Verdict.UNDECIDED, "both were changed outside the feed" if our_steps else "no change tells why")
    steps = our_steps or their_steps
    what = "tables or restrictions of one side only" if steps == {TABLES} else "changed outside the feed"
    return Evidence(
        Verdict.WE if our_steps else Verdict.THEY, f"{_here(bool(our_steps))} {what}", tables=steps == {TABLES}
    )


def _here(mine: bool) -> str:
    return "this replica:" if mine else "the peer:"


def _points(told: StoreState) -> tuple[Step, ...]:
    """The trail up to what is true now. An older daemon tells none: only now."""
    if told.trail and told.trail[-1].digest == told.digest:
        return told.trail
    return (*told.trail, Step(HAND, "", 0, told.digest, told.serial, told.serial))


def _parting(one: tuple[Step, ...], other: tuple[Step, ...]) -> tuple[tuple[Step, ...], tuple[Step, ...]] | None:
    """The steps of both since they were last the same; None if the trails do not reach back to it.

    By digests, not by files: replicas may take files of two feeds in another order. Of several such states, the
    nearest to both ends, so that both sides choose the same one.
    """
    places = tuple({step.digest: at for at, step in enumerate(trail)} for trail in (one, other))
    shared = places[0].keys() & places[1].keys()
    if not shared:
        return None
    best = max(shared, key=lambda digest: (places[0][digest] - len(one) + places[1][digest] - len(other), digest))
    return one[places[0][best] + 1 :], other[places[1][best] + 1 :]


def _stands_back_for_us(theirs: StoreState) -> bool:
    return theirs.withdrawn is not None and theirs.withdrawn.startswith(DIFFERS_WORDS)


def _gaps(ours: StoreState, theirs: StoreState) -> dict[str, tuple[int, int]]:
    """Our sequence and theirs, of each feed where they are not the same."""
    found = {}
    for feed in ours.feeds.keys() | theirs.feeds.keys():
        mine, other = (told.feeds[feed].sequence if feed in told.feeds else 0 for told in (ours, theirs))
        if mine != other:
            found[feed] = mine, other
    return found


def _files(ours: StoreState, theirs: StoreState) -> tuple[int, int]:
    """Files that we lack, and that they lack."""
    gaps = _gaps(ours, theirs).values()
    return sum(max(other - mine, 0) for mine, other in gaps), sum(max(mine - other, 0) for mine, other in gaps)


def _seconds(ours: StoreState, theirs: StoreState) -> float:
    """By how much our newest file of a feed is older than theirs, where positions differ: the largest difference."""
    older = [
        theirs.feeds[feed].confirmed_at - ours.feeds[feed].confirmed_at
        for feed in _gaps(ours, theirs)
        if feed in ours.feeds and feed in theirs.feeds
    ]
    return float(max(older, key=abs, default=0))


def _missing(ours: StoreState, theirs: StoreState) -> str:
    """The feeds in which we are behind."""
    return ", ".join(
        f"{feed} at {mine} of {other}" for feed, (mine, other) in sorted(_gaps(ours, theirs).items()) if mine < other
    )
