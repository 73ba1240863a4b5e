"""Whom the client library asks first, and after how long the next: from outcomes alone, without sockets or clocks."""

from __future__ import annotations

import pytest

from lookupd.hedging import ENDLESS, OUTCOMES_MIN, Plan, Record
from lookupd.limits import (
    CLIENT_HEDGE_SECONDS_MIN,
    CLIENT_OUTCOMES_KEPT,
    CLIENT_PROBE_QUESTIONS,
    CLIENT_UNDER_WAY_MAX,
)

PATIENCE = 0.02
FAST, SLOW = 0.0004, 0.005


def record(*outcomes: float | None) -> Record:
    """Of a server that answered after so many seconds, or (None) not at all."""
    made = Record(PATIENCE)
    for query_id, seconds in enumerate(outcomes):
        made.asked(query_id, 0.0)
        if seconds is not None:
            made.answered(query_id, seconds)
        else:
            made.look(2 * PATIENCE)
    return made


def order(plan: Plan, now: float = 100.0) -> list[int]:
    return [place for _, place in plan.next(now)]


def test_nothing_known_keeps_the_order_given_and_the_longest_wait() -> None:
    assert Plan([record(), record(), record()], PATIENCE).next(0) == [(0, 0), (PATIENCE, 1), (2 * PATIENCE, 2)]


@pytest.mark.parametrize(
    ("outcomes", "wait"),
    [
        ([FAST] * (OUTCOMES_MIN - 1), PATIENCE),
        ([FAST] * OUTCOMES_MIN, CLIENT_HEDGE_SECONDS_MIN),
        ([SLOW] * OUTCOMES_MIN, SLOW),
        ([SLOW] * OUTCOMES_MIN + [0.019], SLOW),  # one that was late does not count
    ],
)
def test_wait_follows_what_answers_took_within_bounds(outcomes: list[float], wait: float) -> None:
    assert Plan([record(*outcomes), record()], PATIENCE).next(100) == [(0, 0), (pytest.approx(wait), 1)]


def test_two_questions_without_an_answer_put_a_server_behind_an_unknown_one() -> None:
    once, twice = record(*[FAST] * 20, None), record(*[FAST] * 20, None, None)
    assert order(Plan([once, record()], PATIENCE)) == [0, 1]
    assert order(Plan([twice, record()], PATIENCE)) == [1, 0]


def test_server_in_trouble_is_first_again_once_its_outcomes_are_good() -> None:
    first = record(*[FAST] * 20, None, None)
    plan = Plan([first, record(*[FAST] * 20)], PATIENCE)
    assert order(plan) == [1, 0]
    for query_id in range(1000, 1000 + CLIENT_OUTCOMES_KEPT):
        first.asked(query_id, 50.0)
        first.answered(query_id, 50.0 + FAST)
    assert order(plan) == [0, 1]


def test_much_slower_server_is_passed_over_and_a_bit_slower_one_is_not() -> None:
    other = record(*[FAST] * 20)
    assert order(Plan([record(*[SLOW] * 20), other], PATIENCE)) == [1, 0]
    assert order(Plan([record(*[2 * FAST] * 20), other], PATIENCE)) == [0, 1]


def test_all_in_trouble_are_asked_in_the_order_given_without_delay() -> None:
    dead = [record(*[None] * OUTCOMES_MIN) for _ in range(2)]
    assert Plan(dead, PATIENCE).next(100) == [(0, 0), (CLIENT_HEDGE_SECONDS_MIN, 1)]


def test_one_question_of_many_goes_to_another_server_at_once_each_in_its_turn() -> None:
    plan = Plan([record(*[FAST] * 20) for _ in range(3)], PATIENCE)
    probed = [[place for seconds, place in plan.next(1) if seconds == 0] for _ in range(2 * CLIENT_PROBE_QUESTIONS)]
    assert [steps for steps in probed if len(steps) > 1] == [[0, 2], [0, 1]]
    assert all(steps[0] == 0 for steps in probed)


def test_answer_that_nobody_waited_for_is_measured_and_a_stranger_is_not() -> None:
    one = record(*[FAST] * OUTCOMES_MIN)
    one.answered(999, 5.0)
    assert one.slow == FAST
    for query_id in (1000, 1001):
        one.asked(query_id, 5.0)
        one.asked(query_id, 5.01)  # again: the first time counts
        one.answered(query_id, 5.015)
    assert one.slow == pytest.approx(0.015)


def test_poor_answer_and_failure_count_as_no_answer() -> None:
    one = record()
    for query_id in (1, 2):
        one.asked(query_id, 0)
    one.answered(1, 0.001, well=False)
    one.failed(2)
    assert one.slow == ENDLESS


def test_questions_that_are_never_answered_take_no_memory() -> None:
    one = record()
    for query_id in range(3 * CLIENT_UNDER_WAY_MAX):
        one.asked(query_id, 0.0)
    assert len(one._under_way) == CLIENT_UNDER_WAY_MAX
    one.look(1.0)
    assert len(one._under_way) == 0
