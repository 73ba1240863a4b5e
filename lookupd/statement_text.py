"""A statement for people, and as CSV for spreadsheets. What it says is `statement`'s."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from itertools import groupby

from lookupd.observe.counters import USAGE_RESULTS
from lookupd.statement import Row, Statement, Sum

_FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠", "\t", "\r", "\n")
"""What a spreadsheet takes for the begin of a formula, or skips before one; East Asian ones take wide signs, too."""

COLUMNS = ("hour", "client", "account", "dialect", *USAGE_RESULTS, "queries", "charged", "rate", "amount", "currency")


def format_csv(statement: Statement) -> str:
    """A row for each of the statement's, with a head. Names that a spreadsheet would compute have `'` before them."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for row in statement.rows:
        results = [row.results.get(name, 0) for name in USAGE_RESULTS]
        names = [row.hour or "", _cell(row.client or ""), _cell(row.account), row.dialect]
        money = [row.rate or "", row.amount or "", statement.currency or ""]
        writer.writerow([*names, *results, row.queries, row.charged, *money])
    return out.getvalue()


def _cell(text: str) -> str:
    """Text that stays text."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def format_statement(statement: Statement) -> Iterator[str]:
    """Lines."""
    yield f"usage of {statement.month} ({statement.time_zone}): {statement.first} to {statement.end}"
    if statement.until != statement.end:
        yield f"not over: what was asked until {statement.until}"
    for ledger in statement.ledgers:
        yield f"ledger {ledger}"
    for (hour, account, client), rows in groupby(statement.rows, lambda row: (row.hour, row.account, row.client)):
        yield ""
        yield " ".join(
            ([hour] if hour else [])
            + ([] if client is None else [f"client {_name(client)}"])
            + [f"account {_name(account)}"]
        )
        yield from (f"  {line}" for line in _table(map(_row, rows)))
    yield ""
    yield from _table(_sum(each, statement) for each in statement.accounts)
    yield " ".join(_parts("total", statement.queries, statement.charged, statement.amount, statement.currency))
    for gap in statement.not_counted:
        yield f"not counted: {gap.from_} to {gap.until}: {gap.seconds} s of it ({_name(gap.ledger)})"
    for path in statement.put_aside:
        yield f"damaged, and not counted here: {path}"
    if not statement.rows:
        yield "nothing was asked" if not statement.not_counted else "nothing was counted"


def _row(row: Row) -> list[str]:
    money = [] if row.amount is None else [f"amount={row.amount}"]
    money += [] if row.rate is None else [f"rate={row.rate}"]
    results = [f"{name}={count}" for name, count in row.results.items()]
    return [row.dialect, f"queries={row.queries}", f"charged={row.charged}", *money, " ".join(results)]


def _sum(each: Sum, statement: Statement) -> list[str]:
    parts = _parts(f"account {_name(each.account)}", each.queries, each.charged, each.amount, statement.currency)
    return parts if each.exact is None else [*parts, f"exact={each.exact}"]


def _parts(head: str, queries: int, charged: int, amount: str | None, currency: str | None) -> list[str]:
    money = [] if amount is None else [f"amount={amount} {currency}"]
    return [head, f"queries={queries}", f"charged={charged}", *money]


def _name(text: str) -> str:
    """On one line, whatever is in it; `-` for none."""
    if not text:
        return "-"
    return text if text.isprintable() and not any(part.isspace() for part in text) else json.dumps(text)


def _table(rows: Iterable[list[str]]) -> Iterator[str]:
    """In columns."""
    table = list(rows)
    widths = [max(len(row[at]) for row in table if at < len(row)) for at in range(max(map(len, table), default=0))]
    for row in table:
        yield "  ".join(part.ljust(width) for part, width in zip(row, widths, strict=False)).rstrip()
