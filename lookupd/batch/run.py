"""One batch from its input to its output, block by block, and on from where it was interrupted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lookupd.batch.model import BatchOptions, BatchSummary, Progress, Resolver


def run_batch(
    source: Path,
    out: Path,
    resolver: Resolver,
    options: BatchOptions = BatchOptions(),
    progress: Callable[[Progress], None] = lambda _: None,
    checkpoint: Path | None = None,
    *,
    split: Path | None = None,
) -> BatchSummary:
    """Answer every row of `source` into `out`, which appears when all is done; until then `out`.part grows.

    progress: called after each block; what it raises ends the batch, which can be resumed. checkpoint: where to note
    how far it is; if it is there and fits, the batch goes on from it. None = never. split: the folder of files by
    network. Raises BatchError for an input that cannot be read as asked, other LookupdErrors of the resolver, OSError.
    """
    raise NotImplementedError
