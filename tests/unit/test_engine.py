"""The six outcomes, and what each needs of the store."""

from __future__ import annotations

import pytest

from lookupd.engine import Engine
from lookupd.model import Outcome, UnixSeconds
from lookupd.numbering import load_plan
from tests.conftest import PLAN, Workbench


@pytest.mark.parametrize(
    ("asked", "outcome", "network", "routing_number"),
    [
        ("886912345678", Outcome.PORTED, "1402", "D0402"),
        ("+886912345678", Outcome.PORTED, "1402", "D0402"),
        ("0912345678", Outcome.PORTED, "1402", "D0402"),
        ("886923456789", Outcome.PORTED, "1401", "D9999"),  # a routing number of its own
        ("886223450000", Outcome.PORTED, "1403", None),  # the network has none
        ("886911111111", Outcome.NOT_PORTED, "1401", "D0401"),
        ("886912111111", Outcome.NOT_PORTED, "1403", None),  # the longest prefix wins
        ("886931111111", Outcome.NOT_ALLOCATED, None, None),
        ("8869123456", Outcome.NOT_PORTABLE, None, None),  # too short for a mobile number
        ("886990000000", Outcome.NOT_PORTABLE, None, None),  # a kind that is not ported
        ("110", Outcome.NOT_PORTABLE, None, None),
        ("81312345678", Outcome.NOT_PORTABLE, None, None),  # another country, unknown here
        ("", Outcome.NOT_PORTABLE, None, None),
        ("abc", Outcome.NOT_PORTABLE, None, None),
    ],
)
def test_outcome(
    loaded: Workbench, asked: str, outcome: Outcome, network: str | None, routing_number: str | None
) -> None:
    engine = Engine(PLAN)
    with loaded.reader() as reader:
        engine.reader = reader
        engine.begin(UnixSeconds(2_000_000_000))
        answer = engine.resolve(asked)
    assert answer.outcome is outcome
    assert (answer.route and answer.route.network_code) == network
    assert (answer.route and answer.route.routing_number) == routing_number
    assert answer.asked == asked
    assert answer.serial == 3


def test_number_of_another_country_has_its_range_holder_if_there_is_one(workbench: Workbench) -> None:
    workbench.load_tables(ranges="prefix,network_code\n852,1403\n")
    workbench.snapshot()
    engine = Engine(PLAN)
    with workbench.reader() as reader:
        engine.reader = reader
        engine.begin(UnixSeconds(2_000_000_000))
        assert engine.resolve("85261234567").outcome is Outcome.NOT_PORTED


def test_without_store_everything_is_unavailable() -> None:
    engine = Engine(load_plan("886"))
    engine.begin(UnixSeconds(1))
    assert engine.resolve("886912345678").outcome is Outcome.UNAVAILABLE
    assert engine.resolve("110").outcome is Outcome.UNAVAILABLE  # silence until there is data


def test_tables_without_snapshot_are_unavailable(workbench: Workbench) -> None:
    workbench.load_tables()
    engine = Engine(PLAN)
    with workbench.reader() as reader:
        engine.reader = reader
        engine.begin(UnixSeconds(1))
        assert engine.resolve("886911111111").outcome is Outcome.UNAVAILABLE
        assert "no snapshot" in engine.reason


def test_stale_data_is_unavailable_and_fresh_data_is_not(workbench: Workbench) -> None:
    workbench.load_tables()
    workbench.snapshot(now=1_000_000)
    engine = Engine(PLAN, stale_after=60)
    with workbench.reader() as reader:
        engine.reader = reader
        engine.begin(UnixSeconds(1_000_060))
        answer = engine.resolve("886912345678")
        assert (answer.outcome, answer.age_seconds) == (Outcome.PORTED, 60)
        engine.begin(UnixSeconds(1_000_061))
        assert engine.resolve("886912345678").outcome is Outcome.UNAVAILABLE
        assert "stale_after" in engine.reason
        engine.begin(UnixSeconds(999_999))  # the clock was set back
        assert engine.resolve("886912345678").age_seconds == 0


def test_age_is_that_of_the_feed_confirmed_longest_ago(workbench: Workbench) -> None:
    workbench.load_tables()
    workbench.snapshot(now=1_000_000)
    workbench.delta({"kind": "return", "tn": "886912345678"}, sequence=2, now=1_000_500)
    engine = Engine(PLAN)
    with workbench.reader() as reader:
        engine.reader = reader
        engine.begin(UnixSeconds(1_000_600))
        assert engine.resolve("886912345678").age_seconds == 100


def test_batch_is_answered_from_one_state(loaded: Workbench) -> None:
    """A commit between two numbers of a batch is seen by the next batch only."""
    from lookupd.model import JournalKind
    from lookupd.store.change import Counts
    from lookupd.store.writer import Writer

    engine = Engine(PLAN)
    with Writer(loaded.store) as writer, writer.reader() as reader:
        engine.reader = reader
        engine.begin(UnixSeconds(2_000_000_000))
        before = engine.resolve("886912345678")
        with writer.change(UnixSeconds(5)) as change:
            from lookupd.model import TN

            change.set_numbers(TN(886912345678), TN(886912345678), 0, None, None, 9)
            change.record(JournalKind.RETURN, Counts(removed=1))
        assert engine.resolve("886912345678") == before
        engine.begin(UnixSeconds(2_000_000_000))
        after = engine.resolve("886912345678")
        assert (after.outcome, after.serial) == (Outcome.NOT_PORTED, before.serial + 1)
