"""A whole store as one compacted file: copied from a pinned state, and opened again where it lies.

A copy has no lock file and no writer; which copies are kept, and how they are told apart, is the loader's.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import lmdb

from lookupd.errors import StoreError
from lookupd.limits import STORE_DATABASES_MAX
from lookupd.store.reader import DEFAULT_MAP_SIZE, Reader

_TELL_SECONDS: Final = 0.2
"""Between two looks at how long the copy is; LMDB itself does not say."""


def copy_store(reader: Reader, file: int, advance: Callable[[int], None] = lambda count: None) -> int:
    """Write the pinned state to a descriptor, without its free pages, and sync it; returns its bytes.

    Readers and the writer go on; the pages of the pinned state are kept for us until the end. advance: told
    how many bytes were written. Raises StoreError; what was written until then is no store.
    """
    failure: list[Exception] = []

    def copy() -> None:
        try:
            reader.copy_to(file)
        except Exception as error:  # raised again below, in the caller's thread
            failure.append(error)

    thread = threading.Thread(target=copy)
    thread.start()
    told = 0
    while thread.is_alive():
        thread.join(_TELL_SECONDS)
        length = os.fstat(file).st_size
        advance(length - told)
        told = length
    if failure:
        raise failure[0]
    try:
        os.fsync(file)
    except OSError as error:
        raise StoreError(f"{reader.path}: cannot copy the store: {error.strerror}") from None
    return os.fstat(file).st_size


@contextmanager
def open_copy(folder: Path) -> Iterator[Reader]:
    """Read the data file in `folder`, which nobody changes. Raises StoreError.

    Without a lock file: it leaves no trace, and works on a full disk and a read-only one.
    """
    try:
        environment = lmdb.open(
            str(folder),
            map_size=DEFAULT_MAP_SIZE,
            max_dbs=STORE_DATABASES_MAX,
            readonly=True,
            create=False,
            lock=False,
            lib_version=0,
        )
    except (lmdb.Error, OSError) as error:
        raise StoreError(f"{folder}: not a store of ours: {error}") from None
    try:
        with Reader(folder, environment=environment) as reader:
            yield reader
    finally:
        environment.close()
