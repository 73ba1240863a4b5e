"""The native engine; built from native/ where Rust is."""

from typing import Protocol

import numpy as np
import numpy.typing as npt

VERSION: str

# -- bulk loading ----------------------------------------------------------------------------------------

class _Source(Protocol):
    def read(self, size: int, /) -> bytes: ...

class LineChunks:
    """A snapshot's text in chunks of whole lines, as `loader.files.line_chunks` yields them."""

    def __init__(
        self, source: _Source, compression: str, piece_bytes: int, line_bytes_max: int, text_bytes_max: int
    ) -> None:
        """compression: "", ".gz" or ".zst". Raises ValueError if it cannot be read here: Python says why."""

    def next_chunk(self) -> bytes | None:
        """The next chunk; None at the end.

        Raises OverflowError when the text grows beyond its bound, ValueError where Python must go on in its stead.
        """

def parse_rows(
    chunk: bytes, columns: tuple[str, ...]
) -> tuple[bytes, bytes, bytes, bytes, bytes, list[str], list[str]] | None:
    """A chunk's rows: tn u64, network i32, donor i32, routing_number i32, ported_at u32, codes, routing numbers.

    Arrays are in native byte order; see `loader.formats.lookupd_columns.RawColumns`. None: not all everyday rows.
    """

def pack_numbers(
    tn: npt.NDArray[np.uint64],
    route: npt.NDArray[np.uint16],
    donor: npt.NDArray[np.uint16],
    ported_at: npt.NDArray[np.uint32],
    sequence: int,
    fingerprints: npt.NDArray[np.uint64],
) -> tuple[list[tuple[bytes, bytes]], list[tuple[bytes, bytes]], int]:
    """Rows of `blocks` and of `details` of whole blocks that were empty, and the sum of their content digests.

    Raises ValueError for columns that do not rise, differ in length, or name a route without a fingerprint.
    """

def unchanged_blocks(
    tn: npt.NDArray[np.uint64],
    route: npt.NDArray[np.uint16],
    donor: npt.NDArray[np.uint16],
    ported_at: npt.NDArray[np.uint32],
    block_rows: list[tuple[bytes, bytes]],
    details_rows: list[tuple[bytes, bytes]],
) -> tuple[bytes, int, int]:
    """Stored blocks that are sound and hold just these numbers, whatever feed position they note.

    Rows: keys and values as stored, in the order of the keys. Returns block numbers (u64), how many numbers they
    hold, and the sum of their content digests. Raises ValueError for columns that do not rise or differ in length.
    """
