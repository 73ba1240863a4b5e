"""The half-yearly report against a plain model: any story of notices, any moments, counted in another way.

The model holds every number's network in a dictionary and looks at it before and after each delta.
"""

from __future__ import annotations

import csv
import io
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from loader.regulator.trace import TraceWriter
from tests.conftest import Workbench
from tests.exchange import at
from tests.unit.test_half_year import BEFORE, DAY, H1, HOUR, JANUARY, JULY, loaded, report

NETWORKS = ("1401", "1402", "1403")
FIRST = 886911000000
NUMBERS = 12
HOLDER = "1401"

steps = st.lists(
    st.tuples(
        st.sampled_from(("port", "port", "port", "return", "correct")),
        st.integers(0, NUMBERS - 1),
        st.integers(0, 5),
        st.sampled_from(NETWORKS),
        st.one_of(st.none(), st.sampled_from(NETWORKS)),
        st.integers(0, 3 * 3600),
        st.integers(1, 40 * DAY),
    ),
    min_size=1,
    max_size=12,
)


class Model:
    """What the report should say."""

    def __init__(self) -> None:
        self.network: dict[int, str] = {}
        self.came, self.left, self.returned = (Counter[tuple[str, str]]() for _ in range(3))
        self.visible, self.breached, self.numbers = (Counter[tuple[str, str]]() for _ in range(3))

    def say(self, notice: dict[str, Any], month: str | None, late: bool) -> None:
        """month: None = outside the half-year."""
        told = range(int(notice["tn"]), int(notice["tn_to"]) + 1)
        after = notice.get("recipient")
        if month is not None:
            place = month, notice["kind"]
            self.visible[place] += 1
            self.breached[place] += late
            self.numbers[place] += len(told)
        for tn in told:
            before = self.network.get(tn)
            if after is None:
                self.network.pop(tn, None)
            else:
                self.network[tn] = after
            if month is None or before == after:
                continue
            left = before or notice.get("donor") or HOLDER
            if notice["kind"] == "port" and left != after:  # else it comes to where it was
                self.came[month, after] += 1
                self.left[month, left] += 1
            elif notice["kind"] == "return" and before is not None:
                self.returned[month, before] += 1


def month_of(moment: int) -> str | None:
    return at(moment)[:7] if JANUARY <= moment < JULY else None


@settings(max_examples=60, deadline=None)
@given(story=steps)
def test_figures_are_those_of_the_model(story: list[tuple[Any, ...]]) -> None:
    model = Model()
    with tempfile.TemporaryDirectory() as folder:
        bench = loaded(Workbench(Path(folder)))
        now = JANUARY - 20 * DAY
        for sequence, (kind, first, more, recipient, donor, late, wait) in enumerate(story, 2):
            now += wait
            tn, tn_to = FIRST + first, min(FIRST + first + more, FIRST + NUMBERS - 1)
            notice = {"kind": kind, "tn": str(tn), "tn_to": str(tn_to), "notified_at": at(now - late)}
            if kind != "return":
                notice["recipient"] = recipient
            if kind == "port" and donor is not None:
                notice["donor"] = donor
            bench.delta(notice, sequence=sequence, now=now)
            model.say(notice, month_of(now), late > (12 * HOUR if kind == "return" else HOUR))
        rows = io.StringIO()
        found = report(bench, now=max(now, JULY), trace=TraceWriter(rows, masked=False))
    for index, expected in enumerate((model.came, model.left, model.returned)):
        told = {
            (row.month, row.network_code): (row.ported_in, row.ported_out, row.returned)[index]
            for row in found.networks
        }
        assert {place: count for place, count in told.items() if count} == dict(+expected)
    for row in found.notices:
        if row.kind != "untold":
            place = row.month, row.kind
            assert (row.visible, row.breached, row.numbers) == (
                model.visible[place],
                model.breached[place],
                model.numbers[place],
            )
    assert found.summary.ported_in == sum(model.came.values()) == found.summary.ported_out
    traced = Counter[tuple[str, str]]()
    for line in csv.DictReader(io.StringIO(rows.getvalue())):
        if line["counted_as"] == "ported":
            traced[line["month"], line["network_to"]] += int(line["numbers"])
    assert traced == +model.came
    assert {month for month, _ in traced} <= {f"2026-{month:02}" for month in range(1, 7)}
    assert found.first == at(H1.first * HOUR) > at(BEFORE)
