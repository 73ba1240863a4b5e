"""Rows and their fields in a piece of a list: bytes in, places of bytes out.

The definition that the native engine keeps to. What the fields mean is left to others.

A field that begins with a quote ends at the next quote that stands alone, and may hold separators and line ends. A row
ends with LF, CR LF or CR. Where quotes make a row longer than a row may be, they mean nothing in it.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from lookupd.limits import BATCH_ROW_BYTES_MAX

LOOK_AHEAD = BATCH_ROW_BYTES_MAX + 2
"""Bytes from a row's start on, of which what the row is follows: the longest row with its line end."""

QUOTE = 0x22
_CR, _LF = 0x0D, 0x0A
LINE_END = re.compile(rb"[\r\n]")


class Row(NamedTuple):
    """One row of a piece. fields: where each begins and ends. end: of the last one; after: where the next row begins.

    too_long: its line end is not within the bound; fields are none, and end and after are the piece's.
    """

    start: int
    end: int
    after: int
    fields: list[tuple[int, int]]
    too_long: bool = False


@lru_cache
def field_end(separator: bytes) -> re.Pattern[bytes]:
    """Finds what ends a field."""
    return re.compile(rb"[\r\n" + re.escape(separator) + rb"]")


def next_row(piece: bytes, start: int, separator: bytes, final: bool) -> Row | None:
    """The row that begins at `start`, which is not the piece's end. None: read on first.

    final: whether nothing follows the piece.
    """
    certain = final or len(piece) - start >= LOOK_AHEAD
    for quotes in (True, False):
        row, is_whole = _read(piece, start, separator, quotes)
        if is_whole and row.end - start <= BATCH_ROW_BYTES_MAX and (final or _is_ended(piece, row)):
            return row
        if not certain:
            return None
    return Row(start, len(piece), len(piece), [], too_long=True)


def _is_ended(piece: bytes, row: Row) -> bool:
    """Whether its line end is whole: behind a CR an LF may be still to come."""
    return row.after > row.end and (piece[row.after - 1] == _LF or row.after < len(piece))


def _read(piece: bytes, start: int, separator: bytes, quotes: bool) -> tuple[Row, bool]:
    """The row, its last field ended by the piece's end if need be; and whether no quote was left open.

    Looks no further than a row may reach.
    """
    limit = min(len(piece), start + LOOK_AHEAD)
    fields: list[tuple[int, int]] = []
    ends = field_end(separator)
    at = start
    while True:
        begin = at
        if quotes and at < limit and piece[at] == QUOTE:
            closed = _closing_quote(piece, at + 1, limit)
            if closed is None:
                return Row(start, limit, limit, fields), False
            at = closed + 1
        found = ends.search(piece, at, limit)
        end = limit if found is None else found.start()
        fields.append((begin, end))
        if found is None or piece[end] in (_CR, _LF):
            break
        at = end + 1
    after = end
    if found is not None:
        after = end + (2 if piece[end : end + 2] == b"\r\n" else 1)
    return Row(start, end, after, fields), True


def _closing_quote(piece: bytes, at: int, limit: int) -> int | None:
    while True:
        at = piece.find(b'"', at, limit)
        if at < 0:
            return None
        if piece[at + 1 : at + 2] != b'"' or at + 1 >= limit:
            return at
        at += 2


def skip_line(piece: bytes, final: bool) -> int | None:
    """Behind the end of a line that was too long, in what follows its start; None: read on first, all is skipped but a
    CR at the end."""
    found = LINE_END.search(piece)
    if found is None:
        return len(piece) if final else None
    end = found.start()
    if piece[end] == _CR:
        if end + 1 == len(piece) and not final:
            return None
        return end + (2 if piece[end : end + 2] == b"\r\n" else 1)
    return end + 1


def unquote(field: bytes) -> bytes:
    """What a field says."""
    if field[:1] != b'"':
        return field
    closed = _closing_quote(field, 1, len(field))
    if closed is None:
        return field
    return field[1:closed].replace(b'""', b'"') + field[closed + 1 :]


def quote(text: str, separator: str) -> str:
    """A field that says this."""
    if separator in text or '"' in text or "\n" in text or "\r" in text:
        return '"' + text.replace('"', '""') + '"'
    return text
