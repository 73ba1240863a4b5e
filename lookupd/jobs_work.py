"""The process of one job: `python -m lookupd.jobs_work`, which `jobs_runner` starts.

It reads what to do as a line of JSON from its input, and ends with it: its daemon is gone then. What it says is one
JSON object at its end. The work itself is `lookupd.batch`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import msgspec

from lookupd import fastpath
from lookupd.batch import BatchOptions, BatchSummary, run_batch
from lookupd.batch import Progress as BatchProgress
from lookupd.batch.resolvers import StoreResolver
from lookupd.errors import BatchError, LookupdError
from lookupd.jobs import CHECKPOINT, INPUT, OUTPUT, SPLIT, Progress, is_full, write_progress
from lookupd.jobs_words import Told, Work
from lookupd.numbering import load_plan

PROGRESS_SECONDS = 0.25
"""Between two words of how far it is."""

NO_ROOM = "the disk of batches.path has no room for the result"


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
        return Told(summary=msgspec.to_builtins(_resolve(work, folder)))
    except BatchError as error:
        if isinstance(error.__context__, OSError) and is_full(error.__context__):
            return Told("disk", NO_ROOM)
        return Told("input", _without_path(error, folder))
    except LookupdError as error:
        return Told("store", _without_path(error, folder))
    except OSError as error:
        return Told("disk", NO_ROOM) if is_full(error) else Told("fault", f"the folder of batches: {error.strerror}")
    except Exception as error:
        traceback.print_tb(error.__traceback__)  # without its words: they may quote the list
        return Told("fault", f"a fault of the program: {type(error).__name__}")


def _without_path(error: Exception, folder: Path) -> str:
    """Where our files lie is nothing to a client, who has never named one."""
    return str(error).replace(f"{folder / INPUT}: ", "").replace(str(folder), "the job's folder")


def _resolve(work: Work, folder: Path) -> BatchSummary:
    """The whole list."""
    wishes = work.wishes
    options = BatchOptions(wishes.column, wishes.separator, wishes.encoding, split=wishes.split)
    split = folder / SPLIT if wishes.split else None
    with contextlib.closing(_open_store(work)) as resolver:
        return run_batch(
            folder / INPUT, folder / OUTPUT, resolver, options, _teller(folder), folder / CHECKPOINT, split=split
        )


def _open_store(work: Work) -> StoreResolver:
    """With the daemon's engine."""
    plan = load_plan(work.country_code, Path(work.plan) if work.plan else None)
    native = fastpath.choose(work.engine) == "native"
    return StoreResolver(Path(work.store), work.map_size, plan, work.stale_after, native=native)


def _teller(folder: Path) -> Callable[[BatchProgress], None]:
    """Writes down how far it is, not too often."""
    told_at = 0.0

    def tell(progress: BatchProgress) -> None:
        nonlocal told_at
        now = time.monotonic()
        if now - told_at >= PROGRESS_SECONDS:
            told_at = now
            write_progress(folder, Progress(progress.rows, progress.bytes_read))

    return tell


if __name__ == "__main__":
    main()
