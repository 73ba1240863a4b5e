"""The store against a plain dict: snapshots, deltas and tables in any order, with all of it recomputed from nothing."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import lmdb
import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from loader.apply import apply_delta
from loader.files import identify
from loader.tables import load_networks, load_ranges, read_networks, read_ranges
from lookupd.model import TN, JournalEntry, JournalKind, NetworkCode, Ported, Route, RoutingNumber, UnixSeconds
from lookupd.store.reader import Reader
from lookupd.store.schema import (
    JOURNAL_BLOCK_KEY,
    NUMBERS_PER_BLOCK,
    PREVIOUS,
    ROUTE_MASK,
    RouteRecord,
    network_term,
    number_term,
    range_term,
    route_fingerprint,
)
from lookupd.store.verify import verify
from lookupd.store.writer import Writer
from lookupd.units import format_time
from tests.conftest import PLAN, Silent, Workbench

NOW = 1_800_000_000
NOTIFIED_AT = UnixSeconds(1_795_312_800)  # what Workbench.delta writes: 2026-11-22T10:00:00+08:00


@dataclass(frozen=True)
class Known:
    """A ported number, in words instead of ids."""

    network_code: str
    routing_number: str | None = None
    donor: str | None = None
    ported_at: int | None = None
    sequence: int = 0


@dataclass
class Model:
    """What the store should say."""

    networks: dict[str, RouteRecord] = field(default_factory=dict)
    ranges: dict[str, str] = field(default_factory=dict)
    numbers: dict[int, Known] = field(default_factory=dict)
    pending: list[tuple[int, int, int]] = field(default_factory=list)  # effective_at, sequence, line
    sequence: int = 0
    serial: int = 0
    # (serial, kind, old states of the numbers it concerns; None = was not ported)
    journal: list[tuple[int, JournalKind, dict[int, Known | None]]] = field(default_factory=list)

    def record(self, kind: JournalKind, old: dict[int, Known | None]) -> None:
        self.serial += 1
        self.journal.append((self.serial, kind, old))

    def digest(self) -> int:
        """From the definition, number by number."""
        total = sum(network_term(record) for record in self.networks.values())
        total += sum(range_term(prefix, code) for prefix, code in self.ranges.items())
        for tn, known in self.numbers.items():
            total += number_term(tn, route_fingerprint(self.record_of(known)))
        return total % (1 << 64)

    def record_of(self, known: Known) -> RouteRecord:
        own = self.networks[known.network_code]
        if known.routing_number is None:
            return own
        return msgspec.structs.replace(own, routing_number=RoutingNumber(known.routing_number), own=False)

    def route_of(self, known: Known) -> Route:
        record = self.record_of(known)
        return Route(record.network_code, record.routing_number, record.operator, record.pdb_carrier_id, record.own)

    def networks_text(self, codes: list[str]) -> str:
        rows = [self.networks[code] for code in codes]
        return "network_code,operator,routing_number,pdb_carrier_id\n" + "".join(
            f"{row.network_code},{row.operator},{row.routing_number or ''},{row.pdb_carrier_id or ''}\n" for row in rows
        )

    def ranges_text(self) -> str:
        return "prefix,network_code\n" + "".join(f"{prefix},{code}\n" for prefix, code in self.ranges.items())

    def snapshot_text(self, order: list[int] | None = None) -> str:
        lines = ["tn,network_code,routing_number,donor,ported_at\n"]
        for tn in sorted(self.numbers) if order is None else order:
            known = self.numbers[tn]
            ported_at = format_time(known.ported_at) or ""
            lines.append(f"{tn},{known.network_code},{known.routing_number or ''},{known.donor or ''},{ported_at}\n")
        return "".join(lines)


# -- what may happen -------------------------------------------------------------------------------------

CODES = ("1401", "1402", "1403", "Z")
RANGE_PREFIXES = ("8869", "88691", "886912", "8862", "86")
OWN_NUMBERS = (None, None, "D1", "D0402")  # D0402 is also a network's: still another route
TIMES = (None, 1, 1_772_326_800, 1_795_312_800, (1 << 32) - 1)

# Around the bounds of blocks, and of the numbers that can be ported.
ANCHORS = (886910000000, 886912345000, 886912346000, 886989999000, 88622345000, 886223450000)
starts = st.builds(
    lambda anchor, offset: anchor + offset, st.sampled_from(ANCHORS), st.sampled_from([0, 1, 2, 500, 997, 999])
)
lengths = st.sampled_from([1, 1, 1, 2, 3, 7, 500, 999, 1000, 1001, 1600])


def fits(first: int, count: int) -> bool:
    """The whole range is of numbers that can be ported: 88698... is mobile, 88699... is personal."""
    return not first < 886990000000 <= first + count - 1


runs = st.tuples(starts, lengths).filter(lambda run: fits(*run))
knowns = st.builds(
    Known,
    st.sampled_from(CODES[:3]),
    st.sampled_from(OWN_NUMBERS),
    st.sampled_from((None, *CODES[:3])),
    st.sampled_from(TIMES),
)

FIELDS = ("network_code", "routing_number", "donor", "ported_at")


@dataclass(frozen=True)
class Draft:
    """A notice before it is known which numbers there are: aim says whether it hits one of them, or its block."""

    kind: str
    run: tuple[int, int]
    known: Known
    effective_at: int | None
    aim: str
    at: int

    def numbers(self, ported: dict[int, Known]) -> range:
        first, count = self.run
        if self.aim != "anywhere" and ported:
            hit = sorted(ported)[self.at % len(ported)]
            if self.aim == "block":
                first, count = hit - hit % NUMBERS_PER_BLOCK, NUMBERS_PER_BLOCK
            elif fits(hit, count):
                first = hit
            else:
                first, count = hit, 1
        return range(first, first + count)

    def waits(self, now: int) -> bool:
        return self.effective_at is not None and self.effective_at > now

    def row(self, numbers: range) -> dict[str, object]:
        """As its line in the delta."""
        row: dict[str, object] = {"kind": self.kind, "tn": str(numbers[0])}
        if len(numbers) > 1:
            row["tn_to"] = str(numbers[-1])
        if self.kind != "return":
            row["recipient"] = self.known.network_code
            if self.known.routing_number is not None:
                row["routing_number"] = self.known.routing_number
        if self.known.donor is not None:
            row["donor"] = self.known.donor
        if self.effective_at is not None:
            row["effective_at"] = format_time(self.effective_at)
        return row


drafts = st.builds(
    Draft,
    st.sampled_from(["port", "return", "correct"]),
    runs,
    knowns,
    st.sampled_from([None, None, None, 1_772_326_800, NOW, NOW + 500, NOW + 900]),
    st.sampled_from(["anywhere", "number", "number", "block"]),
    st.integers(0, 9999),
)


class Store(RuleBasedStateMachine):
    """A store and a dict, side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.workbench = Workbench(Path(self.folder.name))
        self.model = Model()
        self.now = NOW
        self.last_delta: Path | None = None
        for at, code in enumerate(CODES[:3]):
            self._set_network(code, f"Operator {code}", (None, "D0402", "D0403")[at], 101 + at)
        self._load_networks(list(CODES[:3]))
        self._load_ranges({"88691": "1401", "8862": "1402"})

    def teardown(self) -> None:
        try:
            self.fresh_store_agrees()
        finally:
            self.folder.cleanup()

    # -- tables ------------------------------------------------------------------------------------------

    def _set_network(self, code: str, operator: str, routing_number: str | None, carrier_id: int | None) -> None:
        number = None if routing_number is None else RoutingNumber(routing_number)
        self.model.networks[code] = RouteRecord(NetworkCode(code), number, operator, carrier_id, True)

    def _load_networks(self, codes: list[str]) -> None:
        path = self.workbench.write("networks.csv", self.model.networks_text(codes))
        before = self.model.serial
        with Writer(self.workbench.store) as writer:
            result = load_networks(writer, read_networks(path), path.name, UnixSeconds(self.now))
        if result.result == "applied":
            self.model.record(JournalKind.NETWORKS, {})
        assert result.serial == self.model.serial
        assert (result.result == "unchanged") == (before == result.serial)
        self.check({})

    def _load_ranges(self, ranges: dict[str, str]) -> None:
        changed = ranges != self.model.ranges
        self.model.ranges = ranges
        path = self.workbench.write("ranges.csv", self.model.ranges_text())
        with Writer(self.workbench.store) as writer:
            result = load_ranges(writer, read_ranges(path), path.name, UnixSeconds(self.now))
        if changed:
            self.model.record(JournalKind.RANGES, {})
        assert result.serial == self.model.serial
        self.check({})

    @rule(
        code=st.sampled_from(CODES),
        operator=st.sampled_from(["Alpha", "Beta"]),
        routing_number=st.sampled_from([None, "D0402", "D9"]),
        carrier_id=st.sampled_from([None, 1, 999]),
    )
    def change_network(self, code: str, operator: str, routing_number: str | None, carrier_id: int | None) -> None:
        self._set_network(code, operator, routing_number, carrier_id)
        self._load_networks([code])

    @rule(ranges=st.dictionaries(st.sampled_from(RANGE_PREFIXES), st.sampled_from(CODES[:3]), min_size=1))
    def change_ranges(self, ranges: dict[str, str]) -> None:
        self._load_ranges(ranges)

    # -- numbers -----------------------------------------------------------------------------------------

    @rule(
        content=st.lists(st.tuples(runs, knowns), max_size=4),
        amended=st.lists(st.tuples(st.integers(0, 9999), st.sampled_from(FIELDS), knowns), min_size=1, max_size=4),
        keep=st.booleans(),
        step=st.integers(0, 2),
        shuffle=st.randoms(use_true_random=False),
        unsorted=st.booleans(),
    )
    def snapshot(
        self,
        content: list[tuple[tuple[int, int], Known]],
        amended: list[tuple[int, str, Known]],
        keep: bool,
        step: int,
        shuffle: Any,
        unsorted: bool,
    ) -> None:
        """keep: the numbers that are there stay, as most do in reality; amended: one field of a number differs."""
        old = self.model.numbers
        if not content and not (keep and old):
            content = [((886912345000, 1), Known("1401"))]  # a snapshot without rows is refused
        self.model.sequence = max(self.model.sequence + step, 1)
        new = dict(old) if keep else {}
        for (first, count), known in content:
            new |= dict.fromkeys(range(first, first + count), known)
        for at, name, known in amended:
            tn = sorted(new)[at % len(new)]
            new[tn] = replace(new[tn], **{name: getattr(known, name)})
        for tn, known in new.items():
            before = old.get(tn)
            same = before is not None and replace(before, sequence=0) == replace(known, sequence=0)
            new[tn] = replace(known, sequence=before.sequence if before and same else self.model.sequence)
        touched = {tn: old.get(tn) for tn in old.keys() | new.keys() if old.get(tn) != new.get(tn)}
        self.model.numbers = new
        # A load into an empty store keeps no old states: there are none.
        self.model.record(JournalKind.SNAPSHOT, touched if old else {})
        self.last_delta = None
        order = sorted(new)
        if unsorted:
            shuffle.shuffle(order)
        result = self.workbench.snapshot(self.model.snapshot_text(order), self.model.sequence, self.now)
        counts = (result.applied, result.added, result.removed, result.changed, result.unchanged, result.mended)
        added, removed = len(new.keys() - old.keys()), len(old.keys() - new.keys())
        changed = len(touched) - added - removed
        assert counts == (len(new), added, removed, changed, len(new) - added - changed, 0)
        self.check(touched)

    @rule(content=st.lists(drafts, min_size=1, max_size=4))
    def delta(self, content: list[Draft]) -> None:
        self.model.sequence += 1
        rows = []
        touched: dict[int, Known | None] = {}
        for line, draft in enumerate(content, 1):
            numbers = draft.numbers(self.model.numbers)
            rows.append(draft.row(numbers))
            touched = self._apply(draft, numbers, line) | touched
        result = self.workbench.delta(*rows, sequence=self.model.sequence, now=self.now)
        self.last_delta = self.workbench.folder / f"delta-main-{self.model.sequence}.ndjson"
        waiting = sum(draft.waits(self.now) for draft in content)
        assert (result.result, result.applied, result.pending) == ("applied", len(content) - waiting, waiting)
        self.check(touched)

    def _apply(self, draft: Draft, numbers: range, line: int) -> dict[int, Known | None]:
        """Do to the dict what the store should do; returns the old states."""
        model, known = self.model, draft.known
        old = {tn: model.numbers.get(tn) for tn in numbers}
        if draft.waits(self.now):
            assert draft.effective_at is not None
            model.pending.append((draft.effective_at, model.sequence, line))
            model.record(JournalKind.SCHEDULED, old)
            return old
        model.record(JournalKind(draft.kind), old)
        for tn, before in old.items():
            if draft.kind == "return":
                model.numbers.pop(tn, None)
            elif draft.kind == "port":
                ported_at = draft.effective_at or NOTIFIED_AT
                model.numbers[tn] = replace(known, ported_at=ported_at, sequence=model.sequence)
            else:  # a correction keeps what it does not say
                model.numbers[tn] = Known(
                    known.network_code,
                    known.routing_number,
                    known.donor or (before.donor if before else None),
                    before.ported_at if before else None,
                    model.sequence,
                )
        return old

    @rule()
    @precondition(lambda self: self.last_delta is not None)
    def same_delta_again(self) -> None:
        assert self.last_delta is not None
        with Writer(self.workbench.store) as writer:
            file = identify(self.last_delta, "delta", "main")
            result = apply_delta(writer, file, PLAN, UnixSeconds(self.now + 1), Silent())
        assert (result.result, result.serial) == ("duplicate", self.model.serial)
        self.check({})

    @rule(seconds=st.integers(1, 400))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds

    # -- what must hold ----------------------------------------------------------------------------------

    def check(self, touched: dict[int, Known | None]) -> None:
        """Everything, with the touched numbers and their neighbours one by one."""
        model = self.model
        with self.workbench.reader() as reader:
            state = reader.state
            assert (state.serial, state.ported) == (model.serial, len(model.numbers))
            assert state.blocks == len({tn // NUMBERS_PER_BLOCK for tn in model.numbers})
            assert state.digest == model.digest()
            assert (state.feeds["main"].sequence if state.feeds else 0) == model.sequence
            report = verify(reader)
            assert report.problems == []
            assert (report.digest, report.ported) == (state.digest, state.ported)
            for tn in {tn + beside for tn in touched for beside in (-1, 0, 1)}:
                self._check_number(reader, TN(tn))
            for tn in [*touched][:: max(len(touched) // 8, 1)]:
                self._check_history(reader, TN(tn))
            waiting = [(p.notice.effective_at, p.sequence, p.line) for p in reader.pending()]
            assert waiting == sorted(model.pending)
        self._check_journal()

    def _check_number(self, reader: Reader, tn: TN) -> None:
        known = self.model.numbers.get(tn)
        route_id = reader.entry(tn) & ROUTE_MASK
        if known is None:
            assert (reader.entry(tn), reader.ported(tn)) == (0, None)
            return
        assert reader.route(route_id) == self.model.route_of(known)
        assert reader.ported(tn) == as_ported(tn, tn, known)

    def _check_history(self, reader: Reader, tn: TN) -> None:
        expected = [entry for entry in reversed(self.model.journal) if tn in entry[2]]
        found = reader.history(tn, newest=1000)
        assert [(serial, entry.kind) for serial, entry in found] == [(serial, kind) for serial, kind, _ in expected]
        assert reader.history(tn, newest=2) == found[:2]
        for (_, entry), (_, kind, old) in zip(found, expected, strict=True):
            if kind in {JournalKind.PORT, JournalKind.CORRECT, JournalKind.RETURN}:
                states = [state for state in entry.old if state.tn <= tn <= state.tn_to]
                before = old[tn]
                assert states == ([] if before is None else [as_ported(states[0].tn, states[0].tn_to, before)])

    def _check_journal(self) -> None:
        """The chain of hashes, and what each number of a snapshot was before, from the bytes."""
        journal, blocks, records = raw_journal(self.workbench.store)
        assert [serial for serial, _ in journal] == list(range(1, self.model.serial + 1))
        previous = bytes(16)
        decode = msgspec.msgpack.Decoder(JournalEntry).decode
        for (_, stored), (_, kind, _) in zip(journal, self.model.journal, strict=True):
            entry = decode(stored)
            assert (entry.previous, entry.kind) == (previous, kind)
            previous = hashlib.blake2b(stored, digest_size=16).digest()
        serial, kind, old = self.model.journal[-1]
        if kind is JournalKind.SNAPSHOT:
            kept = {}
            for (block, of_serial), value in blocks.items():
                if of_serial == serial:
                    for offset, route_id, donor_id, ported_at, sequence in PREVIOUS.iter_unpack(value):
                        record, donor = records[route_id], records[donor_id]
                        kept[block * NUMBERS_PER_BLOCK + offset] = record and Known(
                            record.network_code,
                            None if record.own else record.routing_number,
                            donor.network_code if donor else None,
                            ported_at or None,
                            sequence,
                        )
            assert kept == old

    def fresh_store_agrees(self) -> None:
        """The same state by another path: one snapshot, networks in another order, so other route ids."""
        model = self.model
        with tempfile.TemporaryDirectory() as folder:
            other = Workbench(Path(folder))
            other.load_tables(model.networks_text([*reversed(model.networks)]), model.ranges_text())
            if model.numbers:
                order = sorted(model.numbers, key=lambda tn: (model.numbers[tn].network_code, -tn), reverse=True)
                other.snapshot(model.snapshot_text(order))
            with other.reader() as reader:
                assert reader.state.digest == model.digest()
                assert reader.state.ported == len(model.numbers)
                for tn in [*model.numbers][:: max(len(model.numbers) // 20, 1)]:
                    assert reader.route(reader.entry(TN(tn)) & ROUTE_MASK) == model.route_of(model.numbers[tn])


def as_ported(tn: int, tn_to: int, known: Known) -> Ported:
    return Ported(
        TN(tn),
        TN(tn_to),
        NetworkCode(known.network_code),
        None if known.routing_number is None else RoutingNumber(known.routing_number),
        None if known.donor is None else NetworkCode(known.donor),
        None if known.ported_at is None else UnixSeconds(known.ported_at),
        known.sequence,
    )


def raw_journal(
    store: Path,
) -> tuple[list[tuple[int, bytes]], dict[tuple[int, int], bytes], list[RouteRecord | None]]:
    """Journal entries as stored, old states by block and serial, and the routes by id."""
    environment = lmdb.open(str(store), readonly=True, max_dbs=16, lib_version=0)
    try:
        with environment.begin() as transaction:

            def pairs(name: str) -> list[tuple[bytes, bytes]]:
                handle = environment.open_db(name.encode(), txn=transaction, create=False)
                return list(transaction.cursor(db=handle))

            journal = [(int.from_bytes(key, "big"), value) for key, value in pairs("journal")]
            blocks = {JOURNAL_BLOCK_KEY.unpack(key): value for key, value in pairs("journal_blocks")}
            decode = msgspec.msgpack.Decoder(RouteRecord).decode
            routes = {int.from_bytes(key, "big"): decode(value) for key, value in pairs("routes")}
    finally:
        environment.close()
    return journal, blocks, [routes.get(route_id) for route_id in range(max(routes) + 1)]  # type: ignore[return-value]


TestStore = Store.TestCase
TestStore.settings = settings(max_examples=40, stateful_step_count=12, deadline=None)


ROW = ("886912345678", "1402", "D1", "1401", "2026-03-01T09:00:00+08:00")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (1, "1403"),
        (2, ""),
        (2, "D2"),
        (3, ""),
        (3, "1403"),
        (4, ""),
        (4, "2026-03-01T09:00:01+08:00"),
    ],
)
def test_snapshot_that_differs_in_one_field_changes_that_number_alone(
    workbench: Workbench, field: int, value: str
) -> None:
    def text(row: Sequence[str]) -> str:
        beside = "886912345677,1402,,,\n"
        return "tn,network_code,routing_number,donor,ported_at\n" + beside + ",".join(row) + "\n"

    workbench.load_tables()
    workbench.snapshot(text(ROW))
    result = workbench.snapshot(text([*ROW[:field], value, *ROW[field + 1 :]]), sequence=2)
    assert (result.added, result.removed, result.changed, result.unchanged) == (0, 0, 1, 1)
    number, beside = TN(int(ROW[0])), TN(int(ROW[0]) - 1)
    with workbench.reader() as reader:
        found, other = reader.ported(number), reader.ported(beside)
        assert found is not None
        assert other is not None
        fields = (found.network_code, found.routing_number, found.donor, format_time(found.ported_at))
        assert fields[field - 1] == ({4: "2026-03-01T01:00:01Z"}.get(field, value) if value else None)
        assert (found.sequence, other.sequence) == (2, 1)
        assert [entry.kind for _, entry in reader.history(number)] == [JournalKind.SNAPSHOT]
        assert reader.history(beside) == []
