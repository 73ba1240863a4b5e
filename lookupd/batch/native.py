"""The same as `worker`, by the native engine: it reads everyday rows, looks them up and writes all.

What it does not read is read here, as `worker` defines it.
"""

from __future__ import annotations

from collections import Counter

from lookupd import _native
from lookupd.batch.model import BadRow, Verdict
from lookupd.batch.numbers import NotANumber
from lookupd.batch.resolvers import RESTRICTED, StoreResolver
from lookupd.batch.rows import Row, next_row
from lookupd.batch.worker import NO_NETWORK, Reading, Scanned, Written
from lookupd.limits import BATCH_DUPLICATE_ROWS_MAX
from lookupd.model import Outcome
from lookupd.status import unix_now

_OUTCOMES = [outcome.label for outcome in Outcome]


class NativeScanned(Scanned):
    """rows: as the engine holds them. bad: why a row has no number, in the rows' order, with its place."""

    rows: _native.ScannedRows
    bad: list[tuple[int, str]]


class NativeWorker:
    """See Worker."""

    def __init__(self, reading: Reading, resolver: StoreResolver) -> None:
        """resolver: of a store that is open natively."""
        plan, dialect = reading.plan, reading.dialect
        self._reading = reading
        self._resolver = resolver
        native = _native.Plan(plan.country_code, plan.trunk_prefix, plan.heads())
        environment = resolver.reader.native
        assert environment is not None
        service = _native.Service(environment, native, resolver.engine.stale_after, _native.Clients([]))
        self._batch = _native.Batch(
            service,
            native,
            reading.separator[0],
            dialect.column,
            dialect.columns,
            dialect.encoding == "utf-8",
            BATCH_DUPLICATE_ROWS_MAX,
        )
        self._verdicts: list[Verdict] = []
        self._networks = [NO_NETWORK]

    def scan(self, piece: bytes, final: bool, skipping: bool, *, ask: bool = True) -> Scanned:
        """See Worker. Rows that were written before are asked too: it costs less than to tell them apart."""
        try:
            rows = self._batch.scan(piece, final, skipping, unix_now())
        except RuntimeError:
            raise self._resolver.unusable() from None
        try:
            bad = self._read_odd(piece, final, rows)
        finally:
            self._batch.rest()
        return NativeScanned(
            count=rows.count,
            consumed=rows.consumed,
            skipping=rows.skipping,
            serial=rows.serial,
            digest=self._resolver.digest_of(rows.serial),
            rows=rows,
            bad=bad,
        )

    def _read_odd(self, piece: bytes, final: bool, rows: _native.ScannedRows) -> list[tuple[int, str]]:
        """Number what can be; returns the rest."""
        bad: list[tuple[int, str]] = []
        numbers: list[tuple[int, bytes]] = []
        for place, start, too_long in rows.odd():
            row = Row(start, start, start, [], too_long=True) if too_long else None
            row = row or next_row(piece, start, self._reading.separator, final)
            assert row is not None
            try:
                numbers.append((place, self._reading.number(piece, row).encode()))
            except NotANumber as error:
                bad.append((place, str(error)))
        self._batch.resolve(rows, numbers)
        return bad

    def write(self, scanned: Scanned, first_row: int, *, split: bool, again: bool = False) -> Written | None:
        """See Worker."""
        assert isinstance(scanned, NativeScanned)
        if again:
            self._batch.remember(scanned.rows, first_row)
            return None
        self._add_endings()
        reading = self._reading
        nothing = reading.ending(None)
        bad = [BadRow(first_row + place, reason) for place, reason in scanned.bad]
        tails = [nothing + reading.tail(None, f"bad number: {row.reason}") for row in bad]
        out, parts, counts, duplicates = self._batch.write(
            scanned.rows, first_row, tails, reading.dialect.newline, 0, len(self._networks) if split else 0
        )
        outcomes, networks = Counter[str](), Counter[str]()
        for verdict, count in zip(self._verdicts, counts, strict=False):
            if count:
                outcomes[verdict.outcome] += count
                networks[verdict.network_code or NO_NETWORK] += count
        if bad:
            networks[NO_NETWORK] += len(bad)
        by_network = {code: rows for code, rows in zip(self._networks, parts, strict=False) if rows}
        return Written(out, by_network, outcomes, networks, bad, duplicates)

    def _add_endings(self) -> None:
        """Of answers that were not met before."""
        for outcome, route, restricted in self._batch.answers(len(self._verdicts)):
            code, routing_number, operator = route or ("", None, "")
            verdict = Verdict(
                _OUTCOMES[outcome], code, routing_number or "", operator, RESTRICTED if restricted else ""
            )
            if (code or NO_NETWORK) not in self._networks:
                self._networks.append(code or NO_NETWORK)
            self._verdicts.append(verdict)
            self._batch.add_ending(self._reading.ending(verdict), self._networks.index(code or NO_NETWORK))
