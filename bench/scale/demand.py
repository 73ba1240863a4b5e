"""What a country asks and changes: `demand.toml`, read and checked. Says nothing of what it costs."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated

import msgspec

DEMAND = Path(__file__).with_name("demand.toml")
HOUR_SECONDS = 3600

Positive = Annotated[float, msgspec.Meta(gt=0)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Count = Annotated[int, msgspec.Meta(gt=0)]


class DemandError(Exception):
    """The assumptions cannot be used. The message names the file and what is wrong in it."""


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table of the file: every key is needed, none is unknown."""


class Results(_Table, frozen=True):
    """Names of files in bench/results, without their endings."""

    queries: str
    store: str


class Feed(_Table, frozen=True):
    """How a day's notices come. hours: each hour's share."""

    delta_seconds: Positive
    hours: Annotated[list[Share], msgspec.Meta(min_length=24, max_length=24)]

    @property
    def busy_hour(self) -> int:
        """The hour with most of them."""
        return max(range(24), key=self.hours.__getitem__)


class Network(_Table, frozen=True):
    """Between relay, engine and replicas."""

    link_gbps: Positive
    one_way_ms: Positive
    copy_ms: Positive

    @property
    def link_bytes(self) -> float:
        """A second."""
        return self.link_gbps * 1e9 / 8


class Reserve(_Table, frozen=True):
    """How much of a core is used at most."""

    used_share: Annotated[float, msgspec.Meta(gt=0, le=1)]


class Host(_Table, frozen=True):
    """A machine with a replica. query_cores: of the cores, those that answer."""

    cores: Count
    query_cores: Count


class Country(_Table, frozen=True):
    """Who lives there, and what they do; see the file."""

    name: str
    subscribers: Count
    ported_share: Share
    notices_on_busy_day: Count
    calls_per_subscriber_in_busy_hour: Positive
    messages_per_subscriber_in_busy_hour: Annotated[float, msgspec.Meta(ge=0)]
    batch_numbers: Count
    batch_minutes: Positive
    burst: Annotated[float, msgspec.Meta(ge=1)]
    history_days: Annotated[int, msgspec.Meta(ge=184)]
    average_share: Share

    @property
    def ported(self) -> int:
        """Numbers in the store."""
        return round(self.subscribers * self.ported_share)

    @property
    def dips_per_second(self) -> float:
        """Of calls and messages, in the busiest seconds."""
        each = self.calls_per_subscriber_in_busy_hour + self.messages_per_subscriber_in_busy_hour
        return self.subscribers * each * self.burst / HOUR_SECONDS

    @property
    def batch_per_second(self) -> float:
        """Numbers of a messaging platform's list."""
        return self.batch_numbers / (60 * self.batch_minutes)

    def notices_per_second(self, feed: Feed) -> float:
        """In the busy hour of the busy day."""
        return self.notices_on_busy_day * feed.hours[feed.busy_hour] / HOUR_SECONDS

    @property
    def journal_entries(self) -> float:
        """As long as they are kept."""
        return self.notices_on_busy_day * self.average_share * self.history_days


class Demand(_Table, frozen=True, rename={"countries": "country"}):
    """The whole file."""

    results: Results
    feed: Feed
    network: Network
    reserve: Reserve
    host: Host
    countries: Annotated[list[Country], msgspec.Meta(min_length=1)]


def read_demand(path: Path = DEMAND) -> Demand:
    """Raises DemandError."""
    try:
        demand = msgspec.convert(tomllib.loads(path.read_text()), Demand)
    except OSError as error:
        raise DemandError(f"{path.name}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise DemandError(f"{path.name}: {error}") from None
    if abs(sum(demand.feed.hours) - 1.0) > 1e-6:
        raise DemandError(f"{path.name}: feed.hours: the shares add up to {sum(demand.feed.hours):g}: expected 1")
    return demand
