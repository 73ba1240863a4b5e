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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from lookupd.jobs import CHECKPOINT, INPUT, OUTPUT, Cause, Order, Progress, Wishes, is_full, write_progress
from lookupd.numbering import load_plan
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
        return cls(str(folder), order.wishes, store.path, int(store.map_size), plan.country_code, plan.file)


class Told(msgspec.Struct, frozen=True, omit_defaults=True):
    """How it went. cause: None = it is done."""

    cause: Cause | None = None
    reason: str | None = None
    summary: dict[str, Any] | None = None


def main() -> None:
    """One job."""
    os.umask(0o077)
    _be_modest()
    work = msgspec.json.decode(sys.stdin.buffer.readline(), type=Work)
    threading.Thread(target=_end_with_input, name="parent", daemon=True).start()
    told = _tell(work)
    sys.stdout.buffer.write(msgspec.json.encode(told))
    sys.stdout.buffer.flush()


def _be_modest() -> None:
    """Calls come first: whoever needs a processor or memory takes it from us."""
    with contextlib.suppress(OSError):
        os.nice(19)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("900")
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a dump would hold numbers


def _end_with_input() -> None:
    """The daemon is gone: another one begins the job anew, and must not meet us."""
    while os.read(0, 64):  # not through sys.stdin, whose lock the end of the interpreter would wait for
        pass
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)


def _tell(work: Work) -> Told:
    folder = Path(work.folder)
    try:
        return Told(summary=_resolve(work, folder))
    except OSError as error:
        return Told("disk" if is_full(error) else "fault", error.strerror or type(error).__name__)
    except Exception as error:
        traceback.print_tb(error.__traceback__)  # without its words: they may quote the list
        return Told("fault", f"a fault of the program: {type(error).__name__}")


def _resolve(work: Work, folder: Path) -> dict[str, Any]:
    """The whole list. Returns its summary."""
    from lookupd import batch  # not before it is known what for

    plan = load_plan(work.country_code, Path(work.plan) if work.plan else None)
    options = batch.BatchOptions(
        column=work.wishes.column,
        separator=work.wishes.separator,
        encoding=work.wishes.encoding,
        split=work.wishes.split,
    )
    with batch.store_resolver(Path(work.store), plan) as resolver:
        summary = batch.run_batch(
            folder / INPUT, folder / OUTPUT, resolver, options, _teller(folder), folder / CHECKPOINT
        )
    return msgspec.to_builtins(summary)


def _teller(folder: Path) -> Callable[[Any], None]:
    """Writes down how far it is, not too often."""
    told_at = 0.0

    def tell(progress: Any) -> None:
        nonlocal told_at
        now = time.monotonic()
        if now - told_at >= PROGRESS_SECONDS:
            told_at = now
            write_progress(folder, Progress(progress.rows, progress.bytes))

    return tell


if __name__ == "__main__":
    main()
