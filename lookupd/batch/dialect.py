"""How a list is written, found out from its head: separator, header, and the column with the numbers.

What was said on the command line is taken as said, or refused with what is there.
"""

from __future__ import annotations

from contextlib import suppress

import msgspec

from lookupd.batch.model import ADDED_COLUMNS, BatchOptions
from lookupd.batch.numbers import NotANumber, read_cell
from lookupd.batch.rows import Row, next_row, quote, unquote
from lookupd.batch.source import MARK
from lookupd.errors import BatchError
from lookupd.limits import BATCH_HEAD_ROWS, BATCH_ROW_BYTES_MAX
from lookupd.numbering import Plan

SEPARATORS = (",", ";", "\t", "|")
COLUMN_NAMES = (
    *("tn", "number", "phone", "msisdn", "mobile", "telephone", "tel", "phone_number", "phone number", "called"),
    *("電話", "電話號碼", "號碼", "門號", "手機", "手機號碼", "行動電話", "行動電話號碼", "收訊號碼", "受話號碼"),
)
"""Of a header, compared without case and blanks."""

_NAMES_TOLD = 20


class Dialect(msgspec.Struct, frozen=True):
    """How the list is read. header: bytes of text before the first row of data, with a mark; column: from 0.

    columns: how many each row has. head: what stands above the rows written, ended by newline.
    """

    separator: str
    encoding: str
    column: int
    columns: int
    header: int
    head: bytes
    newline: bytes
    added: tuple[str, ...]
    with_header: bool


def find_dialect(text: bytes, final: bool, encoding: str, options: BatchOptions, plan: Plan) -> Dialect:
    """text: the list's beginning; final: it is the whole. Raises BatchError that names the option to give."""
    mark = len(MARK) if encoding == "utf-8" and text.startswith(MARK) else 0
    if options.separator is not None and options.separator not in SEPARATORS:
        raise BatchError(f"--separator {options.separator!r}: one of , ; TAB |")
    if encoding == "cp950" and options.separator == "|":
        raise BatchError("--separator |: is half of some characters of Big5: convert the list to UTF-8 first")
    separator = options.separator or _find_separator(text, mark, final, encoding)
    rows = _rows(text, mark, separator, final)
    if not rows and len(text) > mark:
        raise BatchError(f"the first row is longer than {BATCH_ROW_BYTES_MAX} bytes: no list of numbers")
    if not rows:
        return Dialect(separator, encoding, 0, 1, mark, text[:mark], b"\n", ADDED_COLUMNS, False)
    _refuse_other_encoding(text, rows, encoding)
    cells = [[_cell(text, row, at, encoding) for at in range(len(row.fields))] for row in rows]
    first = cells[0]
    header = _is_header(first, plan) if options.header is None else options.header
    column = _find_column(first, cells[1:] if header else cells, header, options.column, plan)
    newline = text[rows[0].end : rows[0].after] or b"\n"
    added = _added(first) if header else ADDED_COLUMNS
    head, start = text[:mark], mark
    if header:
        start = rows[0].after
        names = separator.join(quote(name, separator) for name in added)
        head = text[: rows[0].end] + (separator + names).encode(encoding) + newline
    return Dialect(separator, encoding, column, len(first), start, head, newline, added, header)


def is_number(text: str, plan: Plan) -> bool:
    """Whether a cell holds one, or what a spreadsheet has left of one."""
    try:
        read_cell(text, plan)
    except NotANumber as error:
        return "column" in str(error)
    return True


def _rows(text: bytes, start: int, separator: str, final: bool) -> list[Row]:
    rows: list[Row] = []
    while start < len(text) and len(rows) < BATCH_HEAD_ROWS:
        row = next_row(text, start, separator.encode(), final)
        if row is None or row.too_long:
            break
        rows.append(row)
        start = row.after
    return rows


def _cell(text: bytes, row: Row, at: int, encoding: str) -> str:
    start, end = row.fields[at]
    return unquote(text[start:end]).decode(encoding, "replace").strip()


def _find_separator(text: bytes, start: int, final: bool, encoding: str) -> str:
    """The one that cuts most rows into as many fields as the first; none does: a comma."""
    best, found = 0, ","
    for separator in SEPARATORS:
        if separator == "|" and encoding == "cp950":
            continue
        rows = _rows(text, start, separator, final)
        fields = len(rows[0].fields) if rows else 1
        alike = sum(len(row.fields) == fields for row in rows) if fields > 1 else 0
        if alike > best:
            best, found = alike, separator
    return found


def _refuse_other_encoding(text: bytes, rows: list[Row], encoding: str) -> None:
    """A few wrong rows are reported as such; when most of what could be wrong is, the whole is another encoding's."""
    beyond_ascii = wrong = 0
    for row in rows:
        content = text[row.start : row.end]
        if not content.isascii():
            beyond_ascii += 1
            try:
                content.decode(encoding)
            except UnicodeDecodeError:
                wrong += 1
    if wrong * 2 > beyond_ascii:
        other = "big5" if encoding == "utf-8" else "utf-8"
        raise BatchError(f"the list is not {encoding} text: name its encoding, such as --encoding {other}")


def _is_header(first: list[str], plan: Plan) -> bool:
    return not any(is_number(cell, plan) for cell in first) and any(first)


def _plain(name: str) -> str:
    return name.casefold().replace(" ", "").replace("_", "")


def _find_column(first: list[str], rows: list[list[str]], header: bool, asked: str | int | None, plan: Plan) -> int:
    listed = ", ".join(first[:_NAMES_TOLD]) if header else f"1 to {len(first)}"
    if asked is not None:
        if header and isinstance(asked, str) and asked in first:
            return first.index(asked)
        with suppress(ValueError):
            if 1 <= int(asked) <= len(first):
                return int(asked) - 1
        raise BatchError(f"--column {asked}: no such column; there are: {listed}")
    if header:
        known = {_plain(name) for name in COLUMN_NAMES}
        named = [at for at, name in enumerate(first) if _plain(name) in known]
        if len(named) == 1:
            return named[0]
    if len(first) == 1:
        return 0
    holding = [at for at in range(len(first)) if _holds_numbers(rows, at, plan)]
    if len(holding) == 1:
        return holding[0]
    reason = "no column is seen to hold the numbers" if not holding else "several columns hold numbers"
    raise BatchError(f"{reason}: name it with --column; there are: {listed}")


def _holds_numbers(rows: list[list[str]], at: int, plan: Plan) -> bool:
    cells = [row[at] for row in rows if len(row) > at and row[at]]
    numbers = [cell for cell in cells if is_number(cell, plan) and len(cell) >= len("0912345")]
    return bool(numbers) and len(numbers) * 2 > len(cells)


def _added(first: list[str]) -> tuple[str, ...]:
    """The names of what is added; all are prefixed when one is there already."""
    if not set(ADDED_COLUMNS) & set(first):
        return ADDED_COLUMNS
    return tuple(f"lookupd_{name}" for name in ADDED_COLUMNS)
