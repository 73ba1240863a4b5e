"""Risk checks against a plain model: any story of one number, any moment of it, any window."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from lookupd.engine import Engine
from lookupd.model import UnixSeconds
from lookupd.risk import Window, risk
from tests.conftest import PLAN, SNAPSHOT, Workbench
from tests.exchange import at

T = 1_767_225_600
DAY = 86_400
FIRST, NUMBER = 886911000000, 886911000002
HOLDER = "1401"
NETWORKS = ("1401", "1402", "1403")


class Move(NamedTuple):
    at: int
    kind: str
    before: str | None
    after: str | None


steps = st.lists(
    st.tuples(
        st.sampled_from(("port", "port", "return", "correct")),
        st.integers(0, 3),
        st.integers(0, 3),
        st.sampled_from(NETWORKS),
        st.one_of(st.none(), st.sampled_from(NETWORKS)),
        st.integers(0, 20 * DAY),
    ),
    max_size=10,
)


def model(story: list[tuple[Any, ...]], until: int) -> tuple[str | None, list[Move]]:
    """The number's network at a moment, None = its holder's, and how it came to that."""
    network, moves, now = None, [], T
    for kind, first, more, recipient, donor, wait in story:
        now += wait
        if now > until or not FIRST + first <= NUMBER <= FIRST + first + more:
            continue
        before, network = network, None if kind == "return" else recipient
        left = before or (donor if kind == "port" else None) or HOLDER
        if kind == "return":
            moves += [] if before is None else [Move(now, kind, before, None)]
        elif left != recipient:
            moves.append(Move(now, kind, left, recipient))
    return network, moves


@settings(max_examples=80, deadline=None)
@given(story=steps, moment=st.integers(0, 220 * DAY), seconds=st.integers(1, 300 * DAY))
def test_any_moment_and_window_is_told_as_the_model_has_it(
    story: list[tuple[Any, ...]], moment: int, seconds: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        bench = Workbench(Path(folder))
        bench.load_tables(now=T)
        bench.snapshot(SNAPSHOT, now=T)
        now = T
        for sequence, (kind, first, more, recipient, donor, wait) in enumerate(story, 2):
            now += wait
            notice = {"kind": kind, "tn": str(FIRST + first), "tn_to": str(FIRST + first + more)}
            notice |= {} if kind == "return" else {"recipient": recipient}
            notice |= {"donor": donor} if kind == "port" and donor else {}
            bench.delta(notice | {"notified_at": at(now)}, sequence=sequence, now=now)
        engine = Engine(PLAN, 0)
        with bench.reader() as reader:
            engine.reader = reader
            engine.begin(UnixSeconds(now))
            asked = UnixSeconds(T + moment)
            found = risk(engine, str(NUMBER), Window(asked, seconds), is_past=True)
    network, moves = model(story, asked)
    assert (found.outcome, found.network_code) == (("ported", network) if network else ("not_ported", HOLDER))
    told = [(move.at, move.kind, move.from_network, move.to_network) for move in found.moves]
    assert told == [(at(move.at), *move[1:]) for move in reversed(moves)]
    within = [move for move in moves if asked - seconds <= move.at]
    assert found.ports == sum(move.kind == "port" for move in within)
    assert found.returns == sum(move.kind == "return" for move in within)
    assert found.window_covered == (asked - seconds >= T)
    ports = [move for move in moves if move.kind == "port"]
    assert found.last_ported_at == (at(ports[-1].at) if ports else found.last_ported_at)
    assert ports or found.last_ported_from is None or network is not None or moves
