"""One piece of a list: its rows read, their numbers asked, and the rows written with what was answered.

The definition of correct; `native` does the same for everyday rows and leaves the rest to this. Files are `run`'s.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple, Protocol

import msgspec

from lookupd.batch.dialect import Dialect
from lookupd.batch.model import BadRow, Resolved, Resolver, Verdict
from lookupd.batch.numbers import NotANumber, read_cell
from lookupd.batch.rows import Row, next_row, quote, skip_line, unquote
from lookupd.limits import BATCH_DUPLICATE_ROWS_MAX, BATCH_ROW_BYTES_MAX
from lookupd.numbering import Plan

NO_NETWORK = "none"
"""Of rows without one, in counts and as a file's name."""


class Scanned(msgspec.Struct, kw_only=True):
    """What a piece holds. count: of its rows. consumed: bytes of it that are done with. skipping: its last row was too
    long and goes on behind it. serial, digest: of the state that its numbers were asked of."""

    count: int
    consumed: int
    skipping: bool
    serial: int
    digest: str | None


class PythonScanned(Scanned):
    """digits: of each row; None for a bad one, whose reason is in `bad`, by its place. verdicts: of the others."""

    piece: bytes
    rows: list[Row]
    digits: list[str | None]
    verdicts: list[Verdict | None]
    bad: dict[int, str]


class Written(NamedTuple):
    """Rows as they go to the output, and what is counted of them. by_network: their rows once more, if asked."""

    out: bytes
    by_network: dict[str, bytes]
    outcomes: Counter[str]
    networks: Counter[str]
    bad: list[BadRow]
    duplicates: int


class Worker(Protocol):
    """Reads and writes pieces. `scan` may run in a thread while `write` runs in another."""

    def scan(self, piece: bytes, final: bool, skipping: bool, *, ask: bool = True) -> Scanned:
        """ask: False for rows that were written before: only their numbers are wanted."""
        ...

    def write(self, scanned: Scanned, first_row: int, *, split: bool, again: bool = False) -> Written | None:
        """first_row: the number of its first row. again: only remember its numbers. Call in the order of the rows."""
        ...


class Seen:
    """Which row had a number first."""

    def __init__(self) -> None:
        self._rows: dict[int, int] = {}

    def first(self, tn: int, row: int) -> int:
        """The row that had it before; 0 = none had, or too many rows came before to remember this one."""
        if row > BATCH_DUPLICATE_ROWS_MAX:
            return 0
        first = self._rows.setdefault(tn, row)
        return first if first != row else 0


class Reading:
    """How a row is read and written, in one dialect and one plan."""

    def __init__(self, dialect: Dialect, plan: Plan) -> None:
        self.dialect = dialect
        self.plan = plan
        self.separator = dialect.separator.encode()

    def number(self, piece: bytes, row: Row) -> str:
        """Its E.164 digits. Raises NotANumber."""
        dialect = self.dialect
        if row.too_long:
            raise NotANumber(f"the row is longer than {BATCH_ROW_BYTES_MAX} bytes")
        if len(row.fields) > dialect.columns:
            raise NotANumber(f"{len(row.fields)} columns instead of {dialect.columns}")
        if len(row.fields) <= dialect.column:
            raise NotANumber(f"the row has no column {dialect.column + 1}")
        start, end = row.fields[dialect.column]
        try:
            if dialect.encoding == "utf-8":
                piece[row.start : row.end].decode()
            text = unquote(piece[start:end]).decode(dialect.encoding)
        except UnicodeDecodeError:
            raise NotANumber(f"not {dialect.encoding} text") from None
        return read_cell(text, self.plan)

    def ending(self, verdict: Verdict | None) -> bytes:
        """What is added to a row, but for the number and the note."""
        separator = self.dialect.separator
        fields = verdict or Verdict("")
        return (separator + separator.join(quote(field, separator) for field in fields)).encode(
            self.dialect.encoding, "replace"
        )

    def tail(self, digits: str | None, note: str) -> bytes:
        """The number and the note."""
        separator = self.dialect.separator
        return f"{separator}{digits or ''}{separator}{quote(note, separator)}".encode()

    def body(self, piece: bytes, row: Row) -> bytes:
        """The row as it was, with as many columns as the others; nothing of one that is too long."""
        fields = max(len(row.fields), 1)
        text = b"" if row.too_long else piece[row.start : row.end]
        return text + self.separator * (self.dialect.columns - fields)

    def line_end(self, piece: bytes, row: Row) -> bytes:
        """As it was."""
        return self.dialect.newline if row.too_long else piece[row.end : row.after]


class PythonWorker:
    """See Worker."""

    def __init__(self, reading: Reading, resolver: Resolver) -> None:
        self._reading = reading
        self._resolver = resolver
        self._seen = make_seen()

    def scan(self, piece: bytes, final: bool, skipping: bool, *, ask: bool = True) -> Scanned:
        """See Worker."""
        rows, consumed, skipping = cut(piece, self._reading.separator, final, skipping)
        digits: list[str | None] = []
        bad: dict[int, str] = {}
        for at, row in enumerate(rows):
            try:
                digits.append(self._reading.number(piece, row))
            except NotANumber as error:
                digits.append(None)
                bad[at] = str(error)
        texts = [number.encode() for number in digits if number is not None]
        resolved = self._resolver.resolve(texts) if ask else Resolved([], 0)
        found = iter(resolved.verdicts)
        return PythonScanned(
            count=len(rows),
            consumed=consumed,
            skipping=skipping,
            serial=resolved.serial,
            digest=resolved.digest,
            piece=piece,
            rows=rows,
            digits=digits,
            verdicts=[None if number is None else next(found) for number in digits] if ask else [],
            bad=bad,
        )

    def write(self, scanned: Scanned, first_row: int, *, split: bool, again: bool = False) -> Written | None:
        """See Worker."""
        assert isinstance(scanned, PythonScanned)
        if again:
            for at, number in enumerate(scanned.digits):
                if number is not None:
                    self._seen.first(int(number), first_row + at)
            return None
        return self._write(scanned, first_row, split)

    def _write(self, scanned: PythonScanned, first_row: int, split: bool) -> Written:
        reading, out = self._reading, []
        by_network: dict[str, list[bytes]] = {}
        outcomes, networks = Counter[str](), Counter[str]()
        bad, duplicates = [], 0
        for at, (row, number) in enumerate(zip(scanned.rows, scanned.digits, strict=True)):
            verdict, note = scanned.verdicts[at], ""
            if number is None or verdict is None:
                note = f"bad number: {scanned.bad[at]}"
                bad.append(BadRow(first_row + at, scanned.bad[at]))
            else:
                outcomes[verdict.outcome] += 1
                first = self._seen.first(int(number), first_row + at)
                if first:
                    duplicates += 1
                    note = f"duplicate of row {first}"
            network = (verdict.network_code if verdict else "") or NO_NETWORK
            networks[network] += 1
            line = reading.body(scanned.piece, row) + reading.ending(verdict) + reading.tail(number, note)
            line += reading.line_end(scanned.piece, row)
            out.append(line)
            if split:
                by_network.setdefault(network, []).append(line)
        parts = {network: b"".join(lines) for network, lines in by_network.items()}
        return Written(b"".join(out), parts, outcomes, networks, bad, duplicates)


def cut(piece: bytes, separator: bytes, final: bool, skipping: bool) -> tuple[list[Row], int, bool]:
    """A piece's rows, how much of it they take, and whether the last one is too long and goes on behind it.

    skipping: the piece begins within such a row.
    """
    rows: list[Row] = []
    at = 0
    while True:
        if skipping:
            behind = skip_line(piece[at:] if at else piece, final)
            if behind is None:
                held = 1 if piece.endswith(b"\r") else 0  # an LF may be still to come
                return rows, len(piece) - held, True
            at, skipping = at + behind, False
        if at >= len(piece):
            return rows, at, False
        row = next_row(piece, at, separator, final)
        if row is None:
            return rows, at, False
        rows.append(row)
        at, skipping = (row.start, True) if row.too_long else (row.after, False)


class _Remembers(Protocol):
    def first(self, tn: int, row: int) -> int:
        """See Seen."""
        ...


def make_seen() -> _Remembers:
    """The native one where it can be had: a tenth of the memory."""
    try:
        from lookupd import _native
    except ImportError:
        return Seen()
    return _native.Seen(BATCH_DUPLICATE_ROWS_MAX)
