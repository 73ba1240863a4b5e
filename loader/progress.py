"""How far a long step is: a bar on a terminal, a JSON line every few seconds otherwise, both on stderr."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from lookupd.limits import PROGRESS_SECONDS


class CommandProgress:
    """Shows the stages of one command; a context manager."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._bar: Progress | None = None
        self._stage = ""
        self._total: int | None = None
        self._done = 0
        self._started = self._told = time.monotonic()

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            self._bar = Progress(
                TextColumn("{task.description:>8}"),
                BarColumn(),
                TaskProgressColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def stage(self, name: str, total: int | None) -> Callable[[int], None]:
        """Begin a stage of `total` units (None = not known); returns what to call with each lot done."""
        self._stage, self._total, self._done = name, total, 0
        if self._bar is None:
            return self._count
        for task in self._bar.task_ids:
            self._bar.update(task, visible=False)
        bar, task = self._bar, self._bar.add_task(name, total=total)
        return lambda count: bar.update(task, advance=count)

    def _count(self, count: int) -> None:
        self._done += count
        now = time.monotonic()
        if now - self._told < PROGRESS_SECONDS:
            return
        self._told = now
        line = {
            "event": "progress",
            "command": self._name,
            "stage": self._stage,
            "done": self._done,
            "total": self._total,
            "seconds": round(now - self._started, 1),
        }
        print(json.dumps(line), file=sys.stderr, flush=True)
