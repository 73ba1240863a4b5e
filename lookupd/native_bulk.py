"""The native module's part in bulk loading, and the one place that says whether it is used.

Each call stands before a Python path that defines what is right, and gives the same or declines:

    LineChunks         loader.files.line_chunks: read, decompress, cut into whole lines
    parse_rows         loader.formats.lookupd_columns.parse_rows: a chunk's rows to columns
    pack_numbers       lookupd.store.bulk: the rows of `blocks` and `details` for an empty store
    unchanged_blocks   lookupd.store.bulk: which stored blocks a snapshot leaves as they are

All of them let go of the interpreter while they work. Where the module was not built, `available` is False
and the Python paths serve alone.
"""

from __future__ import annotations

try:
    from lookupd import _native
except ImportError:  # installed without Rust
    _native = None  # type: ignore[assignment]


def available() -> bool:
    """Whether the native module was built. Tests put their own answer here, to run either path."""
    return _native is not None


if _native is not None:
    LineChunks = _native.LineChunks
    parse_rows = _native.parse_rows
    pack_numbers = _native.pack_numbers
    unchanged_blocks = _native.unchanged_blocks
