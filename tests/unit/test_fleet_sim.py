"""The simulated fleet against sums done by hand, the country's machines, and docs/scale.md against the kept run."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from bench.scale import chart
from bench.scale.__main__ import compute, main, read_newest
from bench.scale.capacity import CapacityError, capacity_of, per_core, read_figures
from bench.scale.costs import Applied, Costs, Delivered, EngineCosts, Line, ReplicaCosts, fit, spread_of
from bench.scale.demand import DEMAND, Country, DemandError, Network, read_demand
from bench.scale.fleet import Deltas, catch_up, day_of, delays, drawn, follow, weighted
from bench.scale.tables import Result, count, tables

DOCUMENT = Path(__file__).parents[2] / "docs" / "scale.md"
NETWORK = Network(link_gbps=1.0, one_way_ms=5.0, copy_ms=1.0)
ACK, APPLY, DELIVER = 0.002, 0.010, 20e-6


def costs(apply: float = APPLY, notice: float = 0.0, deliver: float = DELIVER, ack: float = ACK) -> Costs:
    """Nothing is drawn from a spread: each part takes as long as is said here."""
    applied = [Applied(size, 1, 0.0, 0.0, 0.001, 0.001, apply + notice * size, 125_000, 1) for size in (1, 100, 10_000)]
    delivered = [Delivered(servers, size, [ack, ack], 1e-5, deliver) for servers in (1, 3) for size in (1000, 10_000)]
    replica = ReplicaCosts(1, applied, [1.0, 1.0], 173.0, 8.0)
    return Costs(replica, EngineCosts("0", 1, delivered, [0.0, 0.0], is_synced=True))


def deltas(*at: float) -> Deltas:
    return Deltas(np.array(at), np.full(len(at), 10.0))


def draw() -> np.random.Generator:
    return np.random.default_rng(1)


@pytest.fixture(scope="module")
def kept() -> Result:
    return read_newest()


@pytest.fixture
def country() -> Country:
    return read_demand().countries[0]


# -- the model -------------------------------------------------------------------------------------------


def test_delta_to_one_replica_takes_what_its_parts_take() -> None:
    """125,000 bytes are a millisecond of a link of 1 Gb/s."""
    followed = follow(deltas(0.0, 10.0), 1, 1, costs(), NETWORK, draw())
    assert followed.slowest == pytest.approx([ACK + 0.001 + 0.005 + APPLY] * 2)
    assert followed.median == pytest.approx(followed.slowest)


def test_last_of_many_replicas_waits_for_the_copies_to_all_others() -> None:
    followed = follow(deltas(0.0), 100, 1, costs(), NETWORK, draw())
    assert followed.slowest == pytest.approx([ACK + 100 * 0.001 + 0.005 + APPLY])


def test_three_servers_share_the_replicas_but_pass_messages_on_to_each_other() -> None:
    """Each serves a third of 300; two thirds of them are connected to another server, so 5/3 copies leave for each."""
    followed = follow(deltas(0.0), 300, 3, costs(), NETWORK, draw())
    copies = 0.001 + 2 * 0.001  # there and back, and two copies of a millisecond each
    assert followed.slowest == pytest.approx([ACK + copies + 100 * 5 / 3 * 0.001 + 0.005 + APPLY])


def test_core_of_the_engine_that_is_slower_than_its_link_is_what_replicas_wait_for() -> None:
    followed = follow(deltas(0.0), 100, 1, costs(deliver=0.002), NETWORK, draw())
    assert followed.slowest == pytest.approx([ACK + 100 * 0.002 + 0.005 + APPLY])


def test_delta_waits_until_the_replica_has_applied_the_one_before() -> None:
    slow = follow(deltas(0.0, 0.0), 1, 1, costs(apply=1.0), NETWORK, draw())
    assert slow.slowest[1] - slow.slowest[0] == pytest.approx(1.0)


def test_relay_publishes_one_delta_after_another() -> None:
    slow = follow(deltas(0.0, 0.0, 0.0), 1, 1, costs(ack=1.0), NETWORK, draw())
    assert np.diff(slow.slowest) == pytest.approx([1.0, 1.0])


def test_what_came_while_replicas_were_away_waits_in_the_engine_not_in_the_relay() -> None:
    followed = follow(deltas(-100.0, -50.0), 1, 1, costs(), NETWORK, draw(), since=0.0)
    visible = np.array([-100.0, -50.0]) + followed.slowest
    assert visible == pytest.approx([0.006 + APPLY, 0.006 + 2 * APPLY])


def test_synced_engine_is_not_charged_an_fsync_twice() -> None:
    unsynced = msgspec.structs.replace(costs().engine, sync=[1.0, 1.0], is_synced=False)
    waits = follow(deltas(0.0), 1, 1, msgspec.structs.replace(costs(), engine=unsynced), NETWORK, draw())
    synced = msgspec.structs.replace(unsynced, is_synced=True)
    does_not = follow(deltas(0.0), 1, 1, msgspec.structs.replace(costs(), engine=synced), NETWORK, draw())
    assert waits.slowest - does_not.slowest == pytest.approx([1.0])


def test_day_has_the_notices_that_are_assumed_at_the_hours_that_are_assumed(country: Country) -> None:
    feed = read_demand().feed
    day = day_of(country, feed, draw())
    assert day.notices.sum() == pytest.approx(country.notices_on_busy_day, rel=0.02)
    busy = day.notices[(day.at // 3600).astype(int) == feed.busy_hour].sum()
    assert busy / day.notices.sum() == pytest.approx(max(feed.hours), rel=0.05)
    assert day.notices.min() >= 1


def test_more_replicas_never_look_faster(country: Country) -> None:
    feed = read_demand().feed
    found = delays(country, feed, NETWORK, costs(), (2, 30, 300), 1)
    assert [each.replicas for each in found] == [2, 30, 300]
    for column in ("median", "slowest_p50", "slowest_p99", "slowest_max"):
        values = [getattr(each, column) for each in found]
        assert values == sorted(values), column


def test_replica_catches_up_at_the_rate_that_it_applies_at(country: Country) -> None:
    """An hour is 360 deltas of half a second each; while it works on them 21 more come, and one while on those."""
    feed = read_demand().feed
    found = catch_up(country, feed, NETWORK, costs(apply=0.5), 1, 1, 3600.0)
    assert found.deltas == 360
    assert found.one == pytest.approx(0.5 * (360 + 18), rel=0.02)
    assert found.all == pytest.approx(found.one)


def test_replica_that_cannot_keep_up_never_catches_up(country: Country) -> None:
    feed = read_demand().feed
    assert catch_up(country, feed, NETWORK, costs(apply=11.0), 1, 1, 3600.0).one == float("inf")


def test_same_seed_gives_the_same_figures(country: Country) -> None:
    feed = read_demand().feed
    once, again = (delays(country, feed, NETWORK, costs(), (5,), 3) for _ in range(2))
    assert once == again


def test_quantiles_count_a_value_as_often_as_its_weight() -> None:
    assert weighted(np.array([3.0, 1.0, 2.0]), np.array([1.0, 98.0, 1.0]), (0.5, 0.985, 1.0)) == [1.0, 2.0, 3.0]


def test_line_is_off_by_no_more_for_small_counts_than_for_large() -> None:
    points = [(count, 2.0 + 0.5 * count) for count in (1, 10, 100, 10_000)]
    assert msgspec.structs.astuple(fit(points)) == pytest.approx((2.0, 0.5))
    assert fit([(1, 1.0), (2, 4.0)]) == Line(0.0, pytest.approx(2.0**0.5))  # its fixed part would be below zero
    assert fit([(1, 4.0), (100, 1.0)]) == Line(pytest.approx(2.0), 0.0)


def test_drawn_values_have_the_spread_of_what_was_measured() -> None:
    measured = draw().lognormal(0.0, 0.5, 10_000)
    again = drawn(spread_of(measured.tolist()), 100_000, draw())
    for share in (0.1, 0.5, 0.9, 0.99):
        assert np.quantile(again, share) == pytest.approx(np.quantile(measured, share), rel=0.03)


# -- machines --------------------------------------------------------------------------------------------


def test_country_needs_one_host_more_than_its_queries_fill(kept: Result) -> None:
    demand = kept.demand
    one_core = per_core(kept.figures, "enum, 64 sockets, one in flight each", demand.reserve.used_share)
    for cores, replicas in ((0.1, 2), (5.9, 2), (6.1, 3), (12.1, 4)):
        each = cores * one_core * 3600 / demand.countries[0].subscribers
        country = msgspec.structs.replace(
            demand.countries[0],
            calls_per_subscriber_in_busy_hour=each,
            messages_per_subscriber_in_busy_hour=0.0,
            burst=1.0,
            batch_numbers=1,
        )
        found = capacity_of(country, demand, kept.figures, 173.0)
        assert found.cores["ENUM"] == pytest.approx(cores)
        assert found.replicas == replicas, cores


def test_missing_figure_is_named_with_its_file(tmp_path: Path) -> None:
    demand = read_demand()
    (tmp_path / f"{demand.results.queries}.json").write_text('{"sections": []}')
    with pytest.raises(CapacityError, match=rf"{demand.results.queries}\.json: no figure 'pdb, 64 sockets"):
        read_figures(demand, tmp_path)
    with pytest.raises(CapacityError, match=r"No such file.*\[results\]"):
        read_figures(demand, tmp_path / "none")


@pytest.mark.parametrize(
    ("was", "becomes", "said"),
    [
        ("delta_seconds = 10 ", "delta_seconds = 0 ", "delta_seconds"),
        ("0.03, 0.08, 0.11", "0.03, 0.08, 0.12", "feed.hours: the shares add up to 1.01: expected 1"),
        ("used_share = 0.5", "used_share = 1.5", "used_share"),
        ("history_days = 184", "history_days = 183", "history_days"),
        ("one_way_ms", "two_way_ms", "two_way_ms|one_way_ms"),
        ("[results]", "[results", "line"),
    ],
)
def test_bad_assumption_is_refused_with_its_name(was: str, becomes: str, said: str, tmp_path: Path) -> None:
    text = DEMAND.read_text()
    assert was in text
    path = tmp_path / "mine.toml"
    path.write_text(text.replace(was, becomes))
    with pytest.raises(DemandError, match=rf"mine\.toml: .*({said})"):
        read_demand(path)


# -- the kept run ----------------------------------------------------------------------------------------


def test_document_has_the_tables_of_the_newest_kept_run(kept: Result) -> None:
    text = DOCUMENT.read_text()
    for name, table in tables(kept).items():
        assert table in text, f"docs/scale.md: the table {name!r} is not what `python -m bench.scale --table` prints"


def test_kept_run_was_made_with_the_assumptions_of_this_tree(kept: Result) -> None:
    assert kept.demand == read_demand()
    assert kept.figures == read_figures(kept.demand)
    assert not kept.machine.commit.endswith("+dirty")


def test_kept_run_comes_out_again_of_its_costs(kept: Result) -> None:
    """One country with few replicas, and one absence: all of them take a minute."""
    demand = kept.demand
    few = [each for each in kept.simulated[0].delays if each.replicas <= 5]
    again = [
        delay
        for servers in (1, 3)
        for delay in delays(demand.countries[0], demand.feed, demand.network, kept.costs, (2, 5), servers)
    ]
    for delay, before in zip(again, few, strict=True):
        assert msgspec.structs.astuple(delay) == pytest.approx(msgspec.structs.astuple(before))
    short = catch_up(demand.countries[0], demand.feed, demand.network, kept.costs, 1000, 3, 600.0)
    assert msgspec.structs.astuple(short) == pytest.approx(msgspec.structs.astuple(kept.simulated[0].catch_ups[0]))


def test_command_prints_tables_of_other_assumptions(
    kept: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{compute.__module__}.REPLICAS", (2,))
    monkeypatch.setattr("bench.scale.tables.REPLICAS", (2,))
    monkeypatch.setattr(f"{compute.__module__}.MANY", 2)
    head, _, rest = DEMAND.read_text().partition("[[country]]")
    one = "[[country]]" + rest.partition("[[country]]")[0]
    path = tmp_path / "mine.toml"
    path.write_text(head + one.replace("30 M subscribers", "elsewhere").replace("100_000 ", "200_000 "))
    done = CliRunner().invoke(main, ["--table", "--demand", str(path)])
    assert done.exit_code == 0, done.output
    assert "| notices on the busy day | 200,000 |" in done.output
    assert "elsewhere" in done.output


def test_command_says_what_is_wrong_with_the_assumptions(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["--table", "--demand", str(tmp_path / "none.toml")])
    assert done.exit_code == 1
    assert "none.toml: No such file or directory" in done.output


def test_chart_is_drawn_of_the_kept_run(kept: Result, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    chart.draw(kept.simulated, "a title", tmp_path / "chart.svg")
    drawn_text = (tmp_path / "chart.svg").read_text()
    for simulated in kept.simulated:
        assert f"{simulated.country}, 3 servers, p99" in drawn_text


def test_counts_have_three_digits_that_count() -> None:
    values = [0.0, 0.1234, 5.555, 99.94, 123.4, 1234.0, 123_456.0, 2_345_678.0]
    assert [count(value) for value in values] == ["0", "0.123", "5.55", "99.9", "123", "1,230", "123,000", "2,350,000"]
