"""What the daemon and the process of a job say to each other: what to do, and how it went."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec

from lookupd.jobs import Cause, Order, Wishes
from lookupd.settings import Config


class Work(msgspec.Struct, frozen=True):
    """What to do, with all that it needs of the configuration."""

    folder: str
    wishes: Wishes
    store: str
    map_size: int
    country_code: str
    plan: str | None
    stale_after: float
    engine: Literal["auto", "native", "python"]

    @classmethod
    def of(cls, config: Config, folder: Path, order: Order) -> Work:
        """Of one job."""
        store, plan, stale_after = config.store, config.plan, float(config.limits.stale_after)
        of_store = (store.path, int(store.map_size), plan.country_code, plan.file, stale_after, config.engine.udp)
        return cls(str(folder), order.wishes, *of_store)


class Told(msgspec.Struct, frozen=True, omit_defaults=True):
    """How it went. cause: None = it is done."""

    cause: Cause | None = None
    reason: str | None = None
    summary: dict[str, Any] | None = None
