"""What a batch is asked, what it tells, and who answers it: plain records."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import msgspec

from lookupd.numbering import Plan

ADDED_COLUMNS = ("outcome", "network_code", "routing_number", "operator", "restriction", "tn", "note")
"""Written behind the input's own columns, in this order."""


class BatchOptions(msgspec.Struct, frozen=True):
    """How the input is read. None: found out from its head.

    column: a name of the header, or a number from 1. separator: one of , ; TAB |. encoding: utf-8, utf-16, big5 or
    cp950. header: whether the first row is one. split: also a file for each network.
    """

    column: str | int | None = None
    separator: str | None = None
    encoding: str | None = None
    header: bool | None = None
    split: bool = False


class BadRow(msgspec.Struct, frozen=True):
    """A row without an answer. row: as a spreadsheet counts it, the header too."""

    row: int
    reason: str


class SerialSpan(msgspec.Struct, frozen=True):
    """From which row on answers are of which serial of the store."""

    row: int
    serial: int


class BatchSummary(msgspec.Struct, frozen=True):
    """What came of it. All but started, seconds and resumed are the same when it is done again.

    rows: without the header. networks: by network code, `none` for rows without. bad: how many; bad_rows: the first of
    them. duplicates: rows that repeat an earlier number; None = some were not looked for, since there are too many.
    serials: of the store, one unless it changed while the batch ran. digest: the store's at the last serial, None when
    the answers are a server's. resumed: from how many rows on, after an interruption.
    """

    rows: int
    outcomes: dict[str, int]
    networks: dict[str, int]
    bad: int
    bad_rows: list[BadRow]
    duplicates: int | None
    serials: list[SerialSpan]
    digest: str | None
    started: str
    seconds: float
    resumed: int = 0

    @property
    def serial(self) -> int | None:
        """Of the last answers; None when nothing was asked."""
        return self.serials[-1].serial if self.serials else None


class Progress(NamedTuple):
    """How far it is. bytes_read, bytes_total: of the input as it lies on the disk."""

    rows: int
    bytes_read: int
    bytes_total: int
    seconds: float


class Verdict(NamedTuple):
    """What a row is told of its number. restriction: empty = none."""

    outcome: str
    network_code: str = ""
    routing_number: str = ""
    operator: str = ""
    restriction: str = ""


class Resolved(NamedTuple):
    """Answers in the order of the questions, and serial and digest of the store they are from.

    digest: None = not told.
    """

    verdicts: list[Verdict]
    serial: int
    digest: str | None = None


class Resolver(Protocol):
    """Who answers: a store, or a server."""

    plan: Plan
    """That numbers are read in."""

    def resolve(self, texts: list[bytes]) -> Resolved:
        """texts: E.164 digits without `+`. Raises LookupdError when there is nothing to answer from."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...
