"""Two replicas against each other: first their digests, then groups of blocks, then blocks, then numbers.

Replicas that agree cost one request; those that differ in a few numbers, three or four, and only the blocks
that differ are read. Reads both sides only.
"""

from __future__ import annotations

from itertools import islice

import msgspec
import numpy as np

from loader.peer import Peer, PeerMoved
from lookupd.limits import BLOCKS_PER_WINDOW, GROUP_BLOCKS, PEER_BLOCKS_COMPARED_MAX, PEER_BLOCKS_MAX, PEER_RESTARTS_MAX
from lookupd.model import TN
from lookupd.store.columns import U64s
from lookupd.store.portable import Pinned, Row, first_number
from lookupd.store.reader import Reader
from lookupd.store.schema import format_digest

STRETCHES_MAX = 16
"""Runs of differing groups that are asked for one by one; more are asked for as one, in two requests or so."""


class Side(msgspec.Struct, frozen=True):
    """One replica's state. positions: of its feeds."""

    replica: str
    serial: int
    digest: str
    ported: int
    positions: dict[str, int]


class NumberDifference(msgspec.Struct, frozen=True):
    """A number whose route differs; None = not ported on that side."""

    tn: TN
    here: Row | None
    there: Row | None


class Compared(msgspec.Struct):
    """What a comparison found; result is equal or different.

    blocks: those whose digests differ. numbers: in them, those whose route differs; details: those whose donor
    or time does, which no digest tells, so that only differing blocks are looked at for them. damaged_here,
    damaged_there: of these blocks. networks, ranges, restrictions: rows that differ. blocks_left: that differ
    and were not read, since there are too many. requests: made to the peer.
    """

    result: str
    here: Side
    there: Side
    blocks: list[int] = msgspec.field(default_factory=list)
    numbers: list[NumberDifference] = msgspec.field(default_factory=list)
    details: int = 0
    damaged_here: list[int] = msgspec.field(default_factory=list)
    damaged_there: list[int] = msgspec.field(default_factory=list)
    networks: list[str] = msgspec.field(default_factory=list)
    ranges: list[str] = msgspec.field(default_factory=list)
    restrictions: list[str] = msgspec.field(default_factory=list)
    blocks_left: int = 0
    requests: int = 0

    @property
    def same_positions(self) -> bool:
        """Whether both have applied the same files: then nothing may differ."""
        return self.here.positions == self.there.positions


def compare(reader: Reader, peer: Peer) -> Compared:
    """This store with the peer's. Raises PeerError, PeerMoved if the peer's state moves on again and again."""
    moves = 0
    while True:
        try:
            with Pinned(reader) as pinned:
                return _compare(pinned, peer)
        except PeerMoved:
            moves += 1
            if moves > PEER_RESTARTS_MAX:
                raise


def _compare(pinned: Pinned, peer: Peer) -> Compared:
    told = peer.state()
    state = pinned.state
    positions = {name: position.sequence for name, position in state.feeds.items()}
    there = {name: position.sequence for name, position in told.feeds.items()}
    found = Compared(
        "equal",
        Side("here", state.serial, format_digest(state.digest), state.ported, positions),
        Side(told.replica, told.serial, told.digest, told.ported, there),
    )
    if found.here.digest != found.there.digest:
        found.result = "different"
        _find_blocks(pinned, peer, found)
        _compare_numbers(pinned, peer, found)
    found.requests = peer.requests
    return found


def _find_blocks(pinned: Pinned, peer: Peer, found: Compared) -> None:
    blocks, contents = _contents(pinned)
    starts = blocks - blocks % np.uint64(GROUP_BLOCKS)
    their_groups, their_sums = peer.groups()
    differing = _differing(starts, contents, their_groups, their_sums)
    ours, theirs = int(contents.sum()), int(their_sums.sum())
    # What the blocks do not account for are the tables; damaged blocks count as 0 and make them suspect, too.
    if (pinned.state.digest - ours) % (1 << 64) != (int(found.there.digest, 16) - theirs) % (1 << 64):
        _compare_tables(pinned, peer, found)
    for first, behind in _stretches(differing):
        inside = slice(*np.searchsorted(blocks, [first, behind]).tolist())
        their_blocks, their_contents = peer.digests(first, behind)
        found.blocks += _differing(blocks[inside], contents[inside], their_blocks, their_contents).tolist()


def _contents(pinned: Pinned) -> tuple[U64s, U64s]:
    parts = []
    contents = pinned.contents()
    while part := list(islice(contents, BLOCKS_PER_WINDOW)):
        parts.append(np.array(part, np.uint64))
    pairs = np.concatenate(parts) if parts else np.zeros((0, 2), np.uint64)
    return pairs[:, 0], pairs[:, 1]


def _differing(ours: U64s, our_values: U64s, theirs: U64s, their_values: U64s) -> U64s:
    """Keys whose values do not sum up to the same; one that is not there counts as 0."""
    keys, index = np.unique(np.concatenate((ours, theirs)), return_inverse=True)
    sums = np.zeros(len(keys), np.uint64)
    np.add.at(sums, index, np.concatenate((our_values, np.uint64(0) - their_values)))
    found: U64s = keys[sums != 0]
    return found


def _stretches(groups: U64s) -> list[tuple[int, int]]:
    """First block and the one behind the last of runs of groups that follow one another."""
    stretches: list[tuple[int, int]] = []
    for start in groups.tolist():
        if stretches and stretches[-1][1] == start:
            stretches[-1] = stretches[-1][0], start + GROUP_BLOCKS
        else:
            stretches.append((start, start + GROUP_BLOCKS))
    if len(stretches) > STRETCHES_MAX:
        return [(stretches[0][0], stretches[-1][1])]
    return stretches


def _compare_tables(pinned: Pinned, peer: Peer, found: Compared) -> None:
    told = peer.tables()
    here, there = {row[0]: row for row in pinned.networks()}, {row[0]: tuple(row) for row in told.networks}
    found.networks = sorted(code for code in here.keys() | there.keys() if here.get(code) != there.get(code))
    holders, theirs = dict(pinned.ranges()), dict(told.ranges)
    found.ranges = sorted(at for at in holders.keys() | theirs.keys() if holders.get(at) != theirs.get(at))
    placed = {*pinned.restrictions()} ^ {*told.restrictions}
    found.restrictions = sorted({f"{it.target} {it.authority} {it.case}" for it in placed})


def _compare_numbers(pinned: Pinned, peer: Peer, found: Compared) -> None:
    read = found.blocks[:PEER_BLOCKS_COMPARED_MAX]
    found.blocks_left = len(found.blocks) - len(read)
    for at in range(0, len(read), PEER_BLOCKS_MAX):
        for block, theirs in peer.blocks(read[at : at + PEER_BLOCKS_MAX]).items():
            ours = pinned.rows(block)
            if ours is None:
                found.damaged_here.append(block)
            if theirs is None:
                found.damaged_there.append(block)
            if ours is not None and theirs is not None:
                _compare_rows(block, ours, theirs, found)


def _compare_rows(block: int, ours: list[Row], theirs: list[Row], found: Compared) -> None:
    here, there = ({row.offset: row for row in rows} for rows in (ours, theirs))
    for offset in sorted(here.keys() | there.keys()):
        a, b = here.get(offset), there.get(offset)
        if a is None or b is None or a.route != b.route:
            found.numbers.append(NumberDifference(TN(first_number(block) + offset), a, b))
        elif (a.donor, a.ported_at) != (b.donor, b.ported_at):
            found.details += 1
