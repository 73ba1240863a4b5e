"""One batch from its input to its output, piece by piece, and on from where it was interrupted.

While a piece is written, the next one is read and asked in a thread.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from lookupd.batch.checkpoint import Checkpoint, Tally, Task, read_checkpoint, write_durably
from lookupd.batch.dialect import find_dialect
from lookupd.batch.model import BatchOptions, BatchSummary, Progress, Resolver, SerialSpan
from lookupd.batch.outputs import PART, Outputs
from lookupd.batch.source import Source
from lookupd.batch.worker import PythonWorker, Reading, Scanned, Worker, Written
from lookupd.errors import BatchError
from lookupd.limits import (
    BATCH_BAD_ROWS_TOLD,
    BATCH_CHECKPOINT_SECONDS,
    BATCH_DUPLICATE_ROWS_MAX,
    BATCH_HEAD_BYTES,
    BATCH_SERIALS_TOLD,
)
from lookupd.status import unix_now
from lookupd.units import format_time

SUMMARY = "summary.json"
FOUND_OUT = BatchOptions()


def run_batch(
    source: Path,
    out: Path,
    resolver: Resolver,
    options: BatchOptions = FOUND_OUT,
    progress: Callable[[Progress], None] = lambda _: None,
    checkpoint: Path | None = None,
    *,
    split: Path | None = None,
    checkpoint_seconds: float = BATCH_CHECKPOINT_SECONDS,
) -> BatchSummary:
    """Answer every row of `source` into `out`, which appears when all is done; until then `out`.part grows.

    progress: called after each piece; what it raises ends the batch, which can be resumed. checkpoint: where to note
    how far it is; if it is there and fits, the batch goes on from it. None = never. split: the folder of files by
    network. Raises BatchError for a list that cannot be read or written as asked, other LookupdErrors of the resolver.
    """
    options = msgspec.structs.replace(options, split=split is not None)
    _refuse_same_file(source, out, checkpoint)
    try:
        with (
            Source(source, options.encoding) as opened,
            Outputs(out, split) as outputs,
            ThreadPoolExecutor(1, "batch") as thread,  # its last piece ends before what it reads is closed
        ):
            batch = _Batch(opened, outputs, resolver, options, checkpoint, checkpoint_seconds, thread)
            summary = batch.run(progress)
            if split is not None:
                write_durably(split / SUMMARY, msgspec.json.format(msgspec.json.encode(summary)) + b"\n")
            outputs.finish()
            if checkpoint is not None:
                checkpoint.unlink(missing_ok=True)
            return summary
    except OSError as error:
        kept = "; what is done is kept: make room and run it again" if error.errno == errno.ENOSPC else ""
        raise BatchError(f"{error.filename or out}: {error.strerror}{kept}") from None


def _refuse_same_file(source: Path, out: Path, checkpoint: Path | None) -> None:
    written = [out, out.with_name(out.name + PART), *([] if checkpoint is None else [checkpoint])]
    for path in written:
        if path.exists() and source.exists() and path.samefile(source):
            raise BatchError(f"{path}: is the input: write to another file")


class _Batch:
    """One run. What outlives it is in the checkpoint."""

    def __init__(
        self,
        source: Source,
        outputs: Outputs,
        resolver: Resolver,
        options: BatchOptions,
        checkpoint: Path | None,
        checkpoint_seconds: float,
        thread: ThreadPoolExecutor,
    ) -> None:
        self._thread = thread
        self._source, self._outputs, self._path = source, outputs, checkpoint
        self._every = checkpoint_seconds
        self._task = Task(source.identity, options, resolver.plan.country_code)
        self._split = options.split
        self._text = _read_head(source)
        self._dialect = find_dialect(*self._text, source.encoding, options, resolver.plan)
        self._worker = make_worker(Reading(self._dialect, resolver.plan), resolver)
        self._tally = Tally()
        self._began = time.monotonic()
        self._saved = self._began
        self._started = format_time(unix_now()) or ""
        self._offset = 0

    def run(self, progress: Callable[[Progress], None]) -> BatchSummary:
        self._take_up()
        resumed, known = self._tally.rows, 0
        for scanned, again in self._pieces(self._offset):
            first_row = self._first_row + (known if again else self._tally.rows)
            written = self._worker.write(scanned, first_row, split=self._split, again=again)
            if written is None:
                known += scanned.count
                continue
            self._outputs.write(written.out, written.by_network)
            self._count(scanned, written, first_row)
            self._offset += scanned.consumed
            if not scanned.skipping:
                self._save()
            progress(self._progress())
        return self._summary(resumed)

    @property
    def _first_row(self) -> int:
        """Of the data, as a spreadsheet counts."""
        return 2 if self._dialect.with_header else 1

    def _take_up(self) -> None:
        """Go on from the checkpoint if it fits; otherwise begin anew."""
        found = None if self._path is None else read_checkpoint(self._path, self._task)
        if found is not None and self._outputs.resume(self._dialect.head, found.lengths):
            self._tally, self._started, self._offset = found.tally, found.started, found.offset
        else:
            self._outputs.begin(self._dialect.head)

    def _pieces(self, known: int) -> Iterator[tuple[Scanned, bool]]:
        """Each piece, and whether it was written before. known: bytes of the text that were."""
        reader = _Pieces(self._source, self._text, self._dialect.header, self._worker, known)
        coming = self._thread.submit(reader.next)
        while (found := coming.result()) is not None:
            coming = self._thread.submit(reader.next)
            yield found

    def _count(self, scanned: Scanned, written: Written, first_row: int) -> None:
        tally = self._tally
        tally.rows += scanned.count
        for counts, more in ((tally.outcomes, written.outcomes), (tally.networks, written.networks)):
            for name, count in more.items():
                counts[name] = counts.get(name, 0) + count
        tally.bad += len(written.bad)
        tally.bad_rows += written.bad[: BATCH_BAD_ROWS_TOLD - len(tally.bad_rows)]
        tally.duplicates += written.duplicates
        if written.outcomes and (not tally.serials or tally.serials[-1].serial != scanned.serial):
            if len(tally.serials) < BATCH_SERIALS_TOLD:
                tally.serials.append(SerialSpan(first_row, scanned.serial))
            tally.digest = scanned.digest

    def _save(self) -> None:
        if self._path is None or time.monotonic() - self._saved < self._every:
            return
        found = Checkpoint(self._task, self._offset, self._outputs.sync(), self._tally, self._started)
        write_durably(self._path, msgspec.json.encode(found))
        self._saved = time.monotonic()

    def _progress(self) -> Progress:
        seconds = time.monotonic() - self._began
        return Progress(self._tally.rows, self._source.bytes_read, self._source.identity.size, seconds)

    def _summary(self, resumed: int) -> BatchSummary:
        tally = self._tally
        return BatchSummary(
            tally.rows,
            dict(sorted(tally.outcomes.items())),
            dict(sorted(tally.networks.items())),
            tally.bad,
            tally.bad_rows,
            None if tally.rows > BATCH_DUPLICATE_ROWS_MAX else tally.duplicates,
            tally.serials,
            tally.digest,
            self._started,
            round(time.monotonic() - self._began, 3),
            resumed,
        )


def _read_head(source: Source) -> tuple[bytes, bool]:
    """Enough text to find out how it is written, and whether it is all."""
    text = b""
    while len(text) < BATCH_HEAD_BYTES:
        more = source.read()
        if not more:
            return text, True
        text += more
    return text, False


class _Pieces:
    """The text in pieces of whole rows, each scanned."""

    def __init__(self, source: Source, text: tuple[bytes, bool], start: int, worker: Worker, known: int) -> None:
        self._source, self._worker = source, worker
        self._left, self._final = text[0][start:], text[1]
        self._known = known
        self._offset = 0
        self._skipping = False

    def next(self) -> tuple[Scanned, bool] | None:
        """None at the end."""
        while self._left or not self._final:
            again = self._offset < self._known
            scanned = self._worker.scan(self._left, self._final, self._skipping, ask=not again)
            self._offset += scanned.consumed
            self._skipping = scanned.skipping
            self._left = self._left[scanned.consumed :]
            if not self._final:
                more = self._source.read()
                self._left, self._final = self._left + more, not more
            elif not scanned.count:
                self._left = b""
            if scanned.count or scanned.consumed:
                return scanned, again
        return None


def make_worker(reading: Reading, resolver: Resolver) -> Worker:
    """The native one for a store that is open natively; Python otherwise."""
    from lookupd.batch.resolvers import StoreResolver

    if isinstance(resolver, StoreResolver) and resolver.native:
        from lookupd.batch.native import NativeWorker

        return NativeWorker(reading, resolver)
    return PythonWorker(reading, resolver)
