"""The history against a list of dicts: any moment of any sequence of changes, before and after a pruning."""

from __future__ import annotations

import tempfile
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loader.tables import load_networks, load_ranges, read_networks, read_ranges
from lookupd.errors import StoreError
from lookupd.model import TN, UnixSeconds
from lookupd.store.history import as_of, serial_at
from lookupd.store.prune import prune
from lookupd.store.reader import Reader
from lookupd.store.schema import SERIAL_KEY
from lookupd.store.verify import verify
from lookupd.store.writer import Writer
from lookupd.units import format_time
from tests.conftest import Workbench

START = 1_700_000_000
HALF_A_YEAR = 184 * 86_400
NOTIFIED_AT = 1_795_312_800  # what Workbench.delta writes

CODES = ("1401", "1402", "Z")
PREFIXES = ("88691", "886912345", "8862", "86")
# Both sides of the bound between two blocks, and one far away.
NUMBERS = (886912345678, 886912345679, 886912345999, 886912346000, 886223450000)
RUNS = ((0, 0), (0, 1), (1, 3), (2, 2), (2, 3), (3, 3), (4, 4))

Known = tuple[str, str | None, str | None, int | None]
"""Network, routing number of its own, donor, ported_at."""


@dataclass
class State:
    """All that decides an answer, at one serial; loaded: a feed's file was."""

    networks: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    ranges: dict[str, str] = field(default_factory=dict)
    numbers: dict[int, Known] = field(default_factory=dict)
    serial: int = 0
    applied_at: int = 0
    loaded: bool = False


knowns = st.tuples(
    st.sampled_from(CODES),
    st.sampled_from((None, None, "D1", "D2")),
    st.sampled_from((None, *CODES)),
    st.sampled_from((None, 1, 1_772_326_800)),
)
networks = st.tuples(
    st.just("network"), st.sampled_from(CODES), st.sampled_from(("Alpha", "Beta")), st.sampled_from((None, "D1", "D9"))
)
ranges = st.tuples(
    st.just("ranges"), st.dictionaries(st.sampled_from(PREFIXES), st.sampled_from(CODES), min_size=1, max_size=3)
)
snapshots = st.tuples(st.just("snapshot"), st.dictionaries(st.sampled_from(NUMBERS), knowns, min_size=1))
notices = st.tuples(st.sampled_from(("port", "return", "correct", "later")), st.sampled_from(RUNS), knowns)
deltas = st.tuples(st.just("delta"), st.lists(notices, min_size=1, max_size=3))
steps = st.lists(st.tuples(st.one_of(networks, ranges, snapshots, deltas, deltas), st.integers(1, 5)), max_size=10)


class History:
    """A store, and what it was after each step."""

    def __init__(self, folder: Path) -> None:
        self.workbench = Workbench(folder)
        self.states: list[State] = []
        self.state = State()
        self.now = START
        self.sequence = 0
        for code in CODES:
            self.step(("network", code, f"Operator {code}", None))
        self.step(("ranges", {"88691": "1401", "8862": "1402"}))

    def step(self, action: tuple[object, ...]) -> None:
        kind, *rest = action
        getattr(self, f"_{kind}")(*rest)
        with self.workbench.reader() as reader:
            if reader.state.serial == self.state.serial:
                return
            self.state.serial, self.state.applied_at = reader.state.serial, self.now
        self.states.append(deepcopy(self.state))

    def _network(self, code: str, operator: str, routing_number: str | None) -> None:
        self.state.networks[code] = operator, routing_number
        text = f"network_code,operator,routing_number,pdb_carrier_id\n{code},{operator},{routing_number or ''},\n"
        with Writer(self.workbench.store) as writer:
            rows = read_networks(self.workbench.write("networks.csv", text))
            load_networks(writer, rows, "networks.csv", UnixSeconds(self.now))

    def _ranges(self, rows: dict[str, str]) -> None:
        self.state.ranges = rows
        text = "prefix,network_code\n" + "".join(f"{prefix},{code}\n" for prefix, code in rows.items())
        with Writer(self.workbench.store) as writer:
            load_ranges(writer, read_ranges(self.workbench.write("r.csv", text)), "r.csv", UnixSeconds(self.now))

    def _snapshot(self, numbers: dict[int, Known]) -> None:
        self.state.numbers, self.state.loaded = numbers, True
        self.sequence += 1
        text = "tn,network_code,routing_number,donor,ported_at\n" + "".join(
            f"{tn},{code},{number or ''},{donor or ''},{format_time(at) or ''}\n"
            for tn, (code, number, donor, at) in sorted(numbers.items())
        )
        self.workbench.snapshot(text, self.sequence, self.now)

    def _delta(self, content: list[tuple[str, tuple[int, int], Known]]) -> None:
        self.sequence += 1
        self.state.loaded = True
        self.workbench.delta(*(self._notice(*notice) for notice in content), sequence=self.sequence, now=self.now)

    def _notice(self, kind: str, run: tuple[int, int], known: Known) -> dict[str, object]:
        """Its row; done to the dict. A run between two of our numbers changes those between them too."""
        first, last = NUMBERS[run[0]], NUMBERS[run[1]]
        code, number, donor, _ = known
        row: dict[str, object] = {"kind": kind.replace("later", "port"), "tn": str(first), "tn_to": str(last)}
        if kind != "return":
            row |= {"recipient": code} | ({} if number is None else {"routing_number": number})
        if donor is not None:
            row["donor"] = donor
        if kind == "later":
            return row | {"effective_at": "2090-01-01T00:00:00Z"}
        for tn in range(first, last + 1):
            before = self.state.numbers.get(tn)
            if kind == "return":
                self.state.numbers.pop(tn, None)
            elif kind == "port":
                self.state.numbers[tn] = code, number, donor, NOTIFIED_AT
            else:
                kept = (donor or (before and before[2]), before and before[3])
                self.state.numbers[tn] = code, number, *kept
        return row

    # -- what must hold ----------------------------------------------------------------------------------

    def check(self, oldest: int) -> None:
        """Every moment from serial `oldest` on is answered as it was, every earlier one is refused."""
        with self.workbench.reader() as reader:
            assert verify(reader).problems == []
            for at, state in enumerate(self.states):
                until = self.states[at + 1].applied_at if at + 1 < len(self.states) else state.applied_at + 1000
                for moment in {state.applied_at, until - 1}:
                    if state.serial < oldest or not state.loaded:
                        with pytest.raises(StoreError, match=r"no snapshot was loaded|the oldest moment"):
                            as_of(reader, TN(NUMBERS[0]), moment=UnixSeconds(moment))
                        continue
                    assert serial_at(reader, UnixSeconds(moment)) == state.serial
                    for tn in (*NUMBERS, NUMBERS[0] - 1, 886999999999, 8613800000000):
                        self._check_number(reader, state, tn, moment)

    def _check_number(self, reader: Reader, state: State, tn: int, moment: int) -> None:
        found = as_of(reader, TN(tn), moment=UnixSeconds(moment))
        known = state.numbers.get(tn)
        ported = found.ported
        assert known == (ported and (ported.network_code, ported.routing_number, ported.donor, ported.ported_at))
        if known is not None:
            operator, routing_number = state.networks[known[0]]
            assert found.route is not None
            assert (found.route.operator, found.route.routing_number) == (operator, known[1] or routing_number)
        prefix = max((prefix for prefix in state.ranges if str(tn).startswith(prefix)), key=len, default=None)
        if prefix is None:
            assert found.held is None
        else:
            assert found.held is not None
            code = state.ranges[prefix]
            route = found.held[1]
            assert found.held[0] == prefix
            assert (route.network_code, route.operator, route.routing_number) == (code, *state.networks[code])


@settings(max_examples=40, deadline=None)
@given(content=steps, at=st.integers(0, 20), more=steps)
def test_any_moment_is_answered_as_it_was(content: list, at: int, more: list) -> None:  # type: ignore[type-arg]
    with tempfile.TemporaryDirectory() as folder:
        history = History(Path(folder))
        for action, seconds in content:
            history.now += seconds
            history.step(action)
        first_loaded = next((state.serial for state in history.states if state.loaded), 0)
        history.check(first_loaded)

        before = history.states[at % len(history.states)].applied_at
        now = before + HALF_A_YEAR + 1
        with Writer(history.workbench.store) as writer:
            result = prune(writer, UnixSeconds(before), UnixSeconds(now), HALF_A_YEAR, "a test: it must hold")
        with history.workbench.reader() as reader:
            kept = SERIAL_KEY.unpack(next(reader.stored_from("journal"))[0])[0]
            assert kept == result.entries + 1
            history.state.serial = reader.state.serial
        history.now = now
        if result.entries:
            history.states.append(replace(deepcopy(history.state), applied_at=now))
        history.check(max(first_loaded, result.entries))
        for action, seconds in more:
            history.now += seconds
            history.step(action)
        history.check(max(first_loaded, result.entries))
