"""Comparison and repair against plain dicts: what differs, what is counted, and that a repair ends the differences."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loader.corrections import repair
from loader.files import FeedFile
from loader.reconcile import Reconciled, compare, read_file
from lookupd.model import UnixSeconds
from lookupd.store.compare import KINDS, Differences, joined
from lookupd.store.verify import verify
from lookupd.store.writer import Writer
from lookupd.units import format_time
from tests.conftest import PLAN, Silent, Workbench

COLUMNS = ("network_code", "routing_number", "donor", "ported_at")
State = tuple[str, str, str, int]
"""In the order of COLUMNS; empty or 0 = not told."""

# Few numbers in few blocks, so that runs, ends of blocks and coincidences are common.
NUMBERS = st.sampled_from([886912345000, 886912345001, 886912345002, 886912345999, 886912346000, 886912399500])
STATES = st.tuples(
    st.sampled_from(["1401", "1402", "1403"]),
    st.sampled_from(["", "D1", "D0401"]),
    st.sampled_from(["", "1401", "1403"]),
    st.sampled_from([0, 1_772_326_800, 1_772_326_801]),
)
NUMBERS_AND_STATES = st.dictionaries(NUMBERS, STATES, max_size=6)
TOLD = st.sets(st.sampled_from(COLUMNS[1:])).map(lambda names: (COLUMNS[0], *[n for n in COLUMNS[1:] if n in names]))


def text_of(numbers: Mapping[int, State], told: tuple[str, ...]) -> str:
    lines = [",".join(("tn", *told))]
    for tn, state in numbers.items():
        texts = dict(zip(COLUMNS, (*state[:3], format_time(state[3]) or "" if state[3] else ""), strict=True))
        lines.append(",".join((str(tn), *(texts[name] for name in told))))
    return "\n".join(lines) + "\n"


def expected_kinds(store: Mapping[int, State], file: Mapping[int, State], told: tuple[str, ...]) -> dict[int, str]:
    """By plain comparison, number by number."""
    found: dict[int, str] = {}
    for tn in sorted(store.keys() | file.keys()):
        if tn not in store:
            found[tn] = "missing"
        elif tn not in file:
            found[tn] = "extra"
        else:
            differing = {name for name, a, b in zip(COLUMNS, store[tn], file[tn], strict=True) if a != b} & set(told)
            if differing & {"network_code", "routing_number"}:
                found[tn] = "route"
            elif differing:
                found[tn] = "details"
    return found


def compared(workbench: Workbench, path: Path) -> tuple[Reconciled, Differences, object]:
    file = FeedFile(path, "snapshot", "main", 0, None, None, path.stat().st_size, None)
    parts: list[Differences] = []
    with workbench.reader() as reader:
        read = read_file(file, PLAN, reader, Silent())
        result = compare(reader, read, Silent(), parts.append)
    return result, joined(parts), read


@pytest.mark.parametrize("full", [False, True])
def test_comparison_and_repair_agree_with_a_plain_dict(full: bool) -> None:
    told_columns = st.just(COLUMNS) if full else TOLD

    @settings(max_examples=25, deadline=None)
    @given(store=NUMBERS_AND_STATES.filter(bool), file=NUMBERS_AND_STATES, told=told_columns)
    def check(store: dict[int, State], file: dict[int, State], told: tuple[str, ...]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            _check(Workbench(Path(folder)), store, file, told)

    check()


def _check(workbench: Workbench, store: dict[int, State], file: dict[int, State], told: tuple[str, ...]) -> None:
    workbench.load_tables()
    workbench.snapshot(text_of(store, COLUMNS), now=1_780_000_000)
    path = workbench.write("list.csv", text_of(file, told))
    result, differences, read = compared(workbench, path)
    kinds = expected_kinds(store, file, told)
    found = dict(zip(differences.tn.tolist(), [KINDS[kind] for kind in differences.kind.tolist()], strict=True))
    assert found == kinds
    counted = Counter(kinds.values())
    assert {kind: getattr(result, kind) for kind in KINDS} == {kind: counted[kind] for kind in KINDS}
    assert (result.in_store, result.in_file) == (len(store), len(file))
    assert {row.network_code: (row.in_store, row.in_file) for row in result.by_network} == {
        code: (sum(state[0] == code for state in store.values()), sum(state[0] == code for state in file.values()))
        for code in {state[0] for state in (*store.values(), *file.values())}
    }
    with Writer(workbench.store) as writer:
        done = repair(writer, read, differences, "Wu Mei: model test", UnixSeconds(1_780_000_001))  # type: ignore[arg-type]
    assert (done.added, done.removed, done.changed) == (
        counted["missing"], counted["extra"], counted["route"] + counted["details"],
    )  # fmt: skip
    after, _, _ = compared(workbench, path)
    assert after.result == "equal"
    with workbench.reader() as reader:
        assert verify(reader).problems == []
        for tn, state in file.items():
            ported = reader.ported(tn)  # type: ignore[arg-type]
            assert ported is not None
            kept = (ported.network_code, ported.routing_number or "", ported.donor or "", ported.ported_at or 0)
            for name, has, wanted in zip(COLUMNS, kept, state, strict=True):
                if name in told:
                    assert has == wanted, (tn, name)
                elif tn in store and name != "routing_number":
                    assert has == store[tn][COLUMNS.index(name)], (tn, name)
