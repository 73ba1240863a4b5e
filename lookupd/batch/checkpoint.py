"""How far a batch is, on the disk: written after the rows it speaks of, read when the same batch is begun again.

What is in the files it speaks of is `run`'s and `outputs`'.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import msgspec

from lookupd.batch.model import BadRow, BatchOptions, SerialSpan
from lookupd.batch.source import Identity
from lookupd.limits import BATCH_CHECKPOINT_BYTES_MAX, BATCH_READ_BYTES

FORM = 1
"""Of the file, and of how pieces are cut: one of another form is not gone on from."""


class Task(msgspec.Struct, frozen=True):
    """What is to be done: a checkpoint of another task is of no use."""

    source: Identity
    options: BatchOptions
    country_code: str
    form: int = FORM
    read_bytes: int = BATCH_READ_BYTES


class Tally(msgspec.Struct):
    """What was counted so far; see BatchSummary."""

    rows: int = 0
    outcomes: dict[str, int] = {}
    networks: dict[str, int] = {}
    bad: int = 0
    bad_rows: list[BadRow] = []
    duplicates: int = 0
    serials: list[SerialSpan] = []
    digest: str | None = None


class Checkpoint(msgspec.Struct, frozen=True):
    """offset: of the text behind the head that is done with. lengths: bytes of each file, "" = the output itself."""

    task: Task
    offset: int
    lengths: dict[str, int]
    tally: Tally
    started: str


def read_checkpoint(path: Path, task: Task) -> Checkpoint | None:
    """None: there is none of this task. What cannot be read is none: the batch begins anew."""
    with suppress(OSError, msgspec.MsgspecError):
        with path.open("rb") as file:
            text = file.read(BATCH_CHECKPOINT_BYTES_MAX + 1)
        found = msgspec.json.decode(text, type=Checkpoint)
        return found if found.task == task else None
    return None


def write_durably(path: Path, data: bytes) -> None:
    """All of it or what was there before, also when the power fails. Raises OSError."""
    part = path.with_name(path.name + ".new")
    with part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """So that names in it last."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
