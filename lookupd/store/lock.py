"""The writers' lock: one writer a store, and a name to whoever has to wait for it.

LMDB's own lock would wait without end and without a word.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lookupd.errors import StoreError
from lookupd.store.rights import make_folder, open_file

WRITER_LOCK = "writer.lock"
_ASK_SECONDS = 0.02


@contextmanager
def writer_lock(store: Path, wait: float) -> Iterator[None]:
    """Hold the lock of the store in this folder; the kernel lets go of it when the holder dies.

    The folder is made if it is not there. wait: seconds. Raises StoreError that names the holder's process
    when it takes longer.
    """
    path = store / WRITER_LOCK
    try:
        make_folder(store)
        file = open_file(path, os.O_RDWR)
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from None
    try:
        _take(store, file, time.monotonic() + wait)
        with suppress(OSError):  # on a full disk only the holder's name is missing
            os.ftruncate(file, 0)
            os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(file)


def _take(store: Path, file: int, until: float) -> None:
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > until:
                holder = os.pread(file, 20, 0).decode("ascii", "replace").strip() or "unknown"
                raise StoreError(f"{store}: process {holder} is writing: wait for it, or end it") from None
            time.sleep(_ASK_SECONDS)
