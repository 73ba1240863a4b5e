"""The store opened by the native engine: one environment of the process, shared with its workers.

It has the shape of py-lmdb's, for reading, so that `reader` and what reads beside it work on either. A process
must not open one store through both.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, cast

import lmdb

from lookupd.errors import StoreError
from lookupd.store.rights import DATA_FILE, make_lock_file

if TYPE_CHECKING:
    from lookupd import _native


def open_native(path: Path, *, map_size: int) -> lmdb.Environment:
    """Open the store at `path` for reading, or share it if the process has it open natively.

    map_size: bytes of address space, not of disk. Raises StoreError with the way out.
    """
    try:
        from lookupd._native import Environment
    except ImportError as error:
        raise StoreError(f"{path}: cannot open the store natively: {error}") from None
    with suppress(PermissionError):  # which is told when it is opened
        if (path / DATA_FILE).is_file():
            make_lock_file(path)
    return cast(lmdb.Environment, Environment(str(path), map_size))


def as_native(environment: lmdb.Environment) -> _native.Environment:
    """The same environment under its own type, for the native workers and its `warm`."""
    return cast("_native.Environment", environment)
