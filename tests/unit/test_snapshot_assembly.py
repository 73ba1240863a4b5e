"""A snapshot's rows put together: columns that grow, blocks that begin, kinds checked once for each head of digits."""

from __future__ import annotations

import random

import numpy as np
import pytest

from loader import growing, validate
from loader.files import FeedFile
from loader.growing import GrowingColumns
from loader.validate import check_portable
from lookupd.errors import Rejected
from lookupd.model import TN
from lookupd.numbering import Kind, Plan, load_plan
from lookupd.store.columns import Columns, block_starts
from tests.conftest import Workbench

SEED = 20261122


def columns_of(tn: list[int]) -> Columns:
    numbers = np.array(tn, np.uint64)
    return Columns(
        numbers,
        (numbers % np.uint64(7)).astype(np.uint16),
        (numbers % np.uint64(5)).astype(np.uint16),
        (numbers % np.uint64(11)).astype(np.uint32),
    )


@pytest.mark.parametrize("at_first", [1, 3, 4096])
def test_columns_hold_what_was_added_however_they_grow(monkeypatch: pytest.MonkeyPatch, at_first: int) -> None:
    monkeypatch.setattr(growing, "_ROWS_AT_FIRST", at_first)
    chance = random.Random(SEED)
    table, every = GrowingColumns(), list[int]()
    for _ in range(200):
        part = [chance.randrange(10**15) for _ in range(chance.choice([0, 1, 2, 50, 3000]))]
        table.add(columns_of(part))
        every += part
    found, expected = table.columns(), columns_of(every)
    assert len(table) == len(every) > 1000
    for name in ("tn", "route", "donor", "ported_at"):
        assert (getattr(found, name) == getattr(expected, name)).all()


@pytest.mark.parametrize(
    ("parts", "rising"),
    [
        ([], True),
        ([[1, 2], [], [3]], True),
        ([[1, 2], [2, 3]], False),
        ([[1, 3], [2]], False),
        ([[2, 1]], False),
        ([[1, 1]], False),
        ([[5], [4], [6]], False),
    ],
)
def test_rising_numbers_are_known_across_parts(parts: list[list[int]], rising: bool) -> None:
    table = GrowingColumns()
    for part in parts:
        table.add(columns_of(part))
    assert table.rising is rising


def test_blocks_begin_where_the_thousand_changes_wherever_parts_end(monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(SEED)
    for part_rows in (1, 2, 7, 1 << 16):
        monkeypatch.setattr("lookupd.store.columns._PART_ROWS", part_rows)
        for count in (0, 1, 2, 500):
            tn = np.array(sorted(chance.sample(range(40_000), count)), np.uint64)
            blocks = [int(number) // 1000 for number in tn]
            expected = [at for at, block in enumerate(blocks) if at == 0 or block != blocks[at - 1]]
            assert block_starts(tn).tolist() == expected


PLANS = {
    "886": load_plan("886"),
    "by length alone": Plan("1"),
    "odd": Plan(
        "44",
        "0",
        [
            Kind("short", True, ("1",), (4, 5)),
            Kind("long", True, ("", "20", "777777"), (10,)),
            Kind("not ported", False, ("70", "7777"), (10,)),
        ],
    ),
}


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_first_number_that_cannot_be_ported_is_found_as_by_asking_for_each(workbench: Workbench, plan: Plan) -> None:
    chance = random.Random(SEED)
    told = 0
    for _ in range(300):
        numbers = sorted({number(chance, plan) for _ in range(chance.choice([1, 2, 5, 30]))})
        path = workbench.write("snapshot-main-1.csv", "tn\n" + "".join(f"{tn}\n" for tn in numbers))
        file = FeedFile(path, "snapshot", "main", 1, None, None, 0, None)
        expected = first_refusal(numbers, plan)
        if expected is None:
            validate._check_kinds(file, columns_of(numbers), plan)
            continue
        told += 1
        with pytest.raises(Rejected) as caught:
            validate._check_kinds(file, columns_of(numbers), plan)
        assert caught.value.rejections == [expected]
    assert 0 < told < 300


def number(chance: random.Random, plan: Plan) -> int:
    """Mostly one of the plan's."""
    kind = chance.choice(plan.kinds or (Plan.GENERIC,))
    head = plan.country_code + chance.choice(kind.prefixes)
    digits = len(plan.country_code) + chance.choice(kind.lengths)
    if chance.random() < 0.03:
        head, digits = str(chance.randrange(1, 999)), chance.randrange(5, 16)
    rest = max(min(digits, 15) - len(head), 2)
    return int(head + "".join(chance.choice("0123456789") for _ in range(rest)))


def first_refusal(numbers: list[int], plan: Plan) -> tuple[int, str] | None:
    """Of a block's first number: its kind is the block's."""
    for at, tn in enumerate(numbers):
        if at and tn // 1000 == numbers[at - 1] // 1000:
            continue
        try:
            check_portable(TN(tn), plan)
        except ValueError as error:
            return at + 2, str(error)
    return None
