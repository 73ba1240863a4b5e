"""The process of one job: `python -m lookupd.jobs_work`, which `jobs_runner` starts.

It reads what to do as a line of JSON from its input, and ends with it: its daemon is gone then. What it says is one
JSON object at its end. The work itself is `lookupd.batch`.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import msgspec

from lookupd.jobs import CHECKPOINT, INPUT, OUTPUT, SPLIT, Cause, Order, Progress, Wishes, is_full, write_progress
from lookupd.settings import Config

PROGRESS_SECONDS = 0.25
"""Between two words of how far it is."""


class Work(msgspec.Struct, frozen=True):
    """What to do, with all that it needs of the configuration."""

    folder: str
    wishes: Wishes
    store: str
    map_size: int
    country_code: str
    plan: str | None

    @classmethod
    def of(cls, config: Config, folder: Path, order: Order) -> Work:
        """Of one job."""
        store, plan = config.store, config.plan
        return cls(str(folder), order.wishes, store.path, store.map_size, plan.country_code, plan.file)


class Told(msgspec.Struct, frozen=True, omit_defaults=True):
    """How it went. cause: None = it is done."""

    cause: Cause | None = None
    reason: str | None = None
    summary: dict[str, Any] | None = None
