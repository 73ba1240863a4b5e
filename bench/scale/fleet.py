"""The simulated fleet: notices come, a relay publishes, the engine fans out, replicas apply. Pure arithmetic.

Each part is a queue that serves one after another. A replica's and the engine's times are drawn from what was
measured (`costs`), arrivals from what is assumed (`demand`), all from one seed: the same inputs give the same figures.

What is in it: the relay that waits for each acknowledgement; the copies to the engine's other servers; a server's
link and core, which serve its consumers one after another, in another order each time; a consumer that is connected
to another server than the one that serves it; a replica that is still busy with the delta before. What is not: the
wait for the clearinghouse's next file and for the relay's next look at its source; lost packets; servers that elect a
leader (`python -m bench.fleet` kills real ones).
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from bench.scale.costs import Costs
from bench.scale.demand import HOUR_SECONDS, Country, Feed, Network

Floats = npt.NDArray[np.float64]
SEED = 11
DAY_SECONDS = 24 * HOUR_SECONDS


class Deltas(msgspec.Struct, frozen=True):
    """Moments in seconds, and how many notices came in each; none is empty."""

    at: Floats
    notices: Floats


class Followed(msgspec.Struct, frozen=True):
    """Of each delta: seconds from its arrival at the relay until it is visible on the slowest replica, and on the
    median one."""

    slowest: Floats
    median: Floats


class Delay(msgspec.Struct, frozen=True):
    """Milliseconds from publish to visible, of a notice: on the median replica, and on the slowest one."""

    replicas: int
    servers: int
    median: float
    slowest_p50: float
    slowest_p99: float
    slowest_max: float


class CatchUp(msgspec.Struct, frozen=True):
    """Seconds from the return until caught up: of one replica that was away, and of all at once."""

    away_seconds: float
    deltas: int
    notices: int
    one: float
    all: float


def day_of(country: Country, feed: Feed, draw: np.random.Generator) -> Deltas:
    """A busy day's deltas."""
    at = np.arange(0.0, DAY_SECONDS, feed.delta_seconds)
    share = np.array(feed.hours)[(at // HOUR_SECONDS).astype(int)]
    notices = draw.poisson(country.notices_on_busy_day * share * feed.delta_seconds / HOUR_SECONDS).astype(float)
    return Deltas(at[notices > 0], notices[notices > 0])


def follow(
    deltas: Deltas,
    replicas: int,
    servers: int,
    costs: Costs,
    network: Network,
    draw: np.random.Generator,
    since: float = 0.0,
) -> Followed:
    """Every delta through relay, engine and replicas. since: the replicas are there from this moment on; what came
    before waits for them in the engine."""
    message, seconds = costs.replica.message, costs.replica.seconds
    spread, deliver = costs.replica.spread, costs.engine.deliver_cpu(servers)
    acks = _ack_seconds(costs, servers, len(deltas.at), draw)
    each = _turns_each(servers)
    place = (np.arange(replicas) // servers + 1.0) * each
    turns = place[-1]
    published = fanned_out = -np.inf
    free = np.zeros(replicas)
    slowest, median = np.empty(len(deltas.at)), np.empty(len(deltas.at))
    for index, (at, notices) in enumerate(zip(deltas.at.tolist(), deltas.notices.tolist(), strict=True)):
        size = message.at(notices)
        on_link = size / network.link_bytes
        published = max(at, published) + float(acks[index])
        if servers > 1:
            published += network.copy_ms / 1e3 + (servers - 1) * on_link
        begin = max(published, fanned_out, since)
        turn = max(on_link, deliver.at(size) / each)  # of one core of the server
        fanned_out = begin + turns * turn
        arrived = begin + np.roll(place, index) * turn + network.one_way_ms / 1e3
        free = np.maximum(arrived, free) + seconds.at(notices) * drawn(spread, replicas, draw)
        slowest[index], median[index] = free.max() - at, np.median(free) - at
    return Followed(slowest, median)


def _turns_each(servers: int) -> float:
    """How often a message leaves a server for one consumer: a consumer is served by any server, and connected to any;
    where these are two, the message passes both."""
    return 1.0 + (servers - 1) / servers


def _ack_seconds(costs: Costs, servers: int, count: int, draw: np.random.Generator) -> Floats:
    """From publish to acknowledgement, for each of so many deltas. The spread is the smallest message's: what a larger
    one adds is the link's."""
    smallest = min(costs.engine.of(servers), key=lambda each: each.bytes)
    acks, syncs = drawn(smallest.ack, count, draw), drawn(costs.engine.sync, count, draw)
    return acks if costs.engine.is_synced else acks + syncs


def drawn(quantiles: Sequence[float], count: int, draw: np.random.Generator) -> Floats:
    """Values spread as these evenly spaced quantiles are."""
    return np.interp(draw.random(count), np.linspace(0.0, 1.0, len(quantiles)), quantiles)


def delays(
    country: Country, feed: Feed, network: Network, costs: Costs, replicas: Sequence[int], servers: int
) -> list[Delay]:
    """A busy day, by the number of replicas."""
    found = []
    for count in replicas:
        draw = np.random.default_rng(SEED)
        deltas = day_of(country, feed, draw)
        followed = follow(deltas, count, servers, costs, network, draw)
        median = weighted(followed.median, deltas.notices, (0.5,))
        slowest = weighted(followed.slowest, deltas.notices, (0.5, 0.99, 1.0))
        found.append(Delay(count, servers, *(1e3 * value for value in (*median, *slowest))))
    return found


def weighted(values: Floats, weights: Floats, shares: Sequence[float]) -> list[float]:
    """Quantiles where each value counts as often as its weight says."""
    order = np.argsort(values)
    ends = np.cumsum(weights[order])
    places = np.searchsorted(ends, np.array(shares) * ends[-1] * (1 - 1e-12))
    return [float(values[order][place]) for place in places]


def catch_up(
    country: Country, feed: Feed, network: Network, costs: Costs, replicas: int, servers: int, away_seconds: float
) -> CatchUp:
    """Away until the end of the busy hour: the most that can have come in that time. What follows comes too."""
    back = (feed.busy_hour + 1.0) * HOUR_SECONDS
    draw = np.random.default_rng(SEED)
    two_days = [day_of(country, feed, draw) for _ in range(2)]
    deltas = Deltas(
        np.concatenate([two_days[0].at - DAY_SECONDS, two_days[1].at]) - back,
        np.concatenate([day.notices for day in two_days]),
    )
    missed = (deltas.at >= -away_seconds) & (deltas.at < 0)
    deltas = Deltas(*(column[deltas.at >= -away_seconds] for column in (deltas.at, deltas.notices)))
    one, every = (
        _caught_up(deltas, follow(deltas, count, servers, costs, network, np.random.default_rng(SEED), since=0.0))
        for count in (1, replicas)
    )
    notices = int(deltas.notices[: int(missed.sum())].sum())
    return CatchUp(away_seconds, int(missed.sum()), notices, one, every)


def _caught_up(deltas: Deltas, followed: Followed) -> float:
    """The first moment at which all that came is visible everywhere; infinite if there is none."""
    done = deltas.at + followed.slowest
    idle = np.flatnonzero((done[:-1] <= deltas.at[1:]) & (deltas.at[1:] >= 0))
    return max(0.0, float(done[int(idle[0])])) if len(idle) else float("inf")
