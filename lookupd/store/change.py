"""One write transaction: everything a change must keep true together, and nothing of what a notice means.

Entries, details, digest, counts, tables, journal, pending notices, receipts, feed position. Opening the store
and holding it are `writer`'s; steps over many numbers at once are in `bulk`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

import lmdb
import msgspec

from lookupd.errors import FeedError, StoreError
from lookupd.limits import BLOCKS_CACHED_MAX, JOURNAL_ROWS_MAX, ROUTES_MAX
from lookupd.model import (
    TN,
    FeedPosition,
    JournalEntry,
    JournalKind,
    NetworkCode,
    Notice,
    Ported,
    Receipt,
    RoutingNumber,
    StreamPosition,
    UnixSeconds,
)
from lookupd.store import journal, restrictions
from lookupd.store.block import UnpackedBlock
from lookupd.store.restricted_blocks import RestrictedBlocks
from lookupd.store.schema import (
    BLOCK_KEY,
    JOURNAL_BLOCK_KEY,
    META_STATE,
    META_STREAM,
    NUMBERS_PER_BLOCK,
    PENDING_KEY,
    RESTRICTED,
    ROUTE_KEY,
    ROUTE_MASK,
    SERIAL_KEY,
    U16,
    Handle,
    PendingNotice,
    RouteRecord,
    State,
    decode_route,
    encode,
    network_term,
    number_term,
    pack_details,
    pack_pending,
    pack_state,
    pack_streams,
    range_term,
    route_fingerprint,
    unpack_pending,
    unpack_state,
    unpack_streams,
)

_MASK64 = (1 << 64) - 1


class Network(msgspec.Struct, frozen=True):
    """A row of the networks table."""

    network_code: NetworkCode
    operator: str
    routing_number: RoutingNumber | None
    pdb_carrier_id: int | None


class Counts(msgspec.Struct):
    """Numbers (in a table: rows) that a change touched, and damaged blocks that it mended."""

    added: int = 0
    removed: int = 0
    changed: int = 0
    unchanged: int = 0
    mended: int = 0

    def add(self, other: Counts) -> None:
        """Add another count to this one."""
        self.added += other.added
        self.removed += other.removed
        self.changed += other.changed
        self.unchanged += other.unchanged
        self.mended += other.mended


class Change:
    """What one transaction does to the store. Made by `Writer.change`; do not keep it.

    Readers see nothing of it before the commit.
    """

    def __init__(self, transaction: lmdb.Transaction, handles: dict[str, Handle], now: UnixSeconds) -> None:
        self.transaction = transaction
        self.handles = handles
        self.now = now
        stored = transaction.get(META_STATE, db=handles["meta"])
        state = State() if stored is None else unpack_state(stored)
        self._before = None if stored is None else state
        self.serial = state.serial
        self.digest = state.digest
        self.ported = state.ported
        self.blocks = state.blocks
        self.feeds = dict(state.feeds)
        self._tables = state.tables
        self._tables_changed = False
        self._last_hash, self._last_applied_at = journal.last(transaction, handles["journal"], state)
        self._rows_before: dict[bytes, bytes] = {}
        self.old_states_fold = journal.Fold()
        self.old_routes: set[int] = set()
        self.swept = False
        self._streams: dict[str, StreamPosition] = {}
        self._cache: dict[int, UnpackedBlock] = {}
        self.restricted = RestrictedBlocks(transaction, handles["restricted"], self.rows_from)
        self._entries: list[tuple[bytes, bytes]] = []
        self._entry_blocks: list[tuple[bytes, bytes]] = []
        self.routes: list[RouteRecord | None] = [None]
        self.fingerprints: list[int] = [0]
        self._own: dict[str, int] = {}
        self._explicit: dict[tuple[str, str], int] = {}
        for key, value in transaction.cursor(db=handles["routes"]):
            self._know_route(ROUTE_KEY.unpack(key)[0], decode_route(value))

    # -- routes and tables -------------------------------------------------------------------------------

    def _know_route(self, route_id: int, record: RouteRecord) -> None:
        missing = route_id + 1 - len(self.routes)
        self.routes.extend([None] * missing)
        self.fingerprints.extend([0] * missing)
        self.routes[route_id] = record
        self.fingerprints[route_id] = route_fingerprint(record)
        if record.own:
            self._own[record.network_code] = route_id
        else:
            self._explicit[record.network_code, record.routing_number or ""] = route_id

    def _put_route(self, route_id: int, record: RouteRecord) -> None:
        if route_id > ROUTES_MAX:
            raise FeedError(f"more than {ROUTES_MAX} routes: too many different routing numbers for one store")
        self.transaction.put(ROUTE_KEY.pack(route_id), encode(record), db=self.handles["routes"])
        self._know_route(route_id, record)
        self._tables_changed = True

    def network_id(self, code: str) -> int | None:
        """Route id of a network's own route; None if the networks table has no such code."""
        return self._own.get(code)

    def route_id(self, code: NetworkCode, routing_number: RoutingNumber | None) -> int:
        """Route id of a known network with the number's own routing number, if it has one; made if new."""
        if routing_number is None:
            return self._own[code]
        found = self._explicit.get((code, routing_number))
        if found is None:
            own = self.routes[self._own[code]]
            assert own is not None
            found = len(self.routes)
            self._put_route(found, RouteRecord(code, routing_number, own.operator, own.pdb_carrier_id, False))
        return found

    @property
    def network_codes(self) -> dict[str, int]:
        """Known network codes, each with its own route's id."""
        return self._own

    def put_networks(self, networks: Iterable[Network]) -> Counts:
        """Add or change networks. One that is not among them stays: numbers may be routed to it."""
        counts = Counts()
        for network in networks:
            record = RouteRecord(
                network.network_code, network.routing_number, network.operator, network.pdb_carrier_id, True
            )
            known_id = self._own.get(network.network_code)
            known = None if known_id is None else self.routes[known_id]
            if known == record:
                counts.unchanged += 1
                continue
            self._rows_before.setdefault(journal.NETWORK + network.network_code.encode(), encode(known))
            if known is not None:
                counts.changed += 1
                self.digest -= network_term(known)
            else:
                counts.added += 1
            self._put_route(len(self.routes) if known_id is None else known_id, record)
            self.digest += network_term(record)
            self._dress_explicit_routes(record)
        return counts

    def _dress_explicit_routes(self, own: RouteRecord) -> None:
        """Operator and carrier id belong to the network: routes with a routing number of their own follow."""
        for (code, routing_number), route_id in list(self._explicit.items()):
            if code == own.network_code:
                record = RouteRecord(
                    own.network_code, RoutingNumber(routing_number), own.operator, own.pdb_carrier_id, False
                )
                if record != self.routes[route_id]:
                    self._put_route(route_id, record)

    def replace_ranges(self, ranges: dict[str, int]) -> Counts:
        """Make `ranges` (prefix -> route id of its holder) the whole table."""
        counts = Counts()
        handle = self.handles["ranges"]
        old = {bytes(k).decode(): U16.unpack(v)[0] for k, v in self.transaction.cursor(db=handle)}
        for prefix in old.keys() - ranges.keys():
            self.transaction.delete(prefix.encode(), db=handle)
            self._keep_range(prefix, old[prefix])
            self.digest -= self._range_term(prefix, old[prefix])
            counts.removed += 1
        for prefix, route_id in ranges.items():
            known = old.get(prefix)
            if known == route_id:
                counts.unchanged += 1
                continue
            if known is not None:
                self.digest -= self._range_term(prefix, known)
                counts.changed += 1
            else:
                counts.added += 1
            self.transaction.put(prefix.encode(), U16.pack(route_id), db=handle)
            self._keep_range(prefix, known)
            self.digest += self._range_term(prefix, route_id)
        self._tables_changed |= counts.added + counts.removed + counts.changed > 0
        return counts

    def _keep_range(self, prefix: str, route_id: int | None) -> None:
        """For the history: whose range it was; None = nobody's."""
        holder = self.routes[route_id] if route_id is not None and route_id < len(self.routes) else None
        self._rows_before.setdefault(journal.RANGE + prefix.encode(), encode(holder and holder.network_code))

    def _range_term(self, prefix: str, route_id: int) -> int:
        record = self.routes[route_id] if route_id < len(self.routes) else None
        if record is None:
            raise StoreError(f"range {prefix}: route {route_id} is missing: restore the store")
        return range_term(prefix, record.network_code)

    def tables_digest(self) -> int:
        """The share of the networks and ranges tables, and of the restrictions, in the store's digest."""
        networks = sum(network_term(record) for record in self.routes if record is not None and record.own)
        ranges = sum(self._range_term(k.decode(), U16.unpack(v)[0]) for k, v in self.rows_from("ranges"))
        placed = sum(map(restrictions.restriction_term, restrictions.every(self.rows_from)))
        return networks + ranges + placed

    def rows_from(self, name: str, first: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Keys and values of a database as this transaction has them, from the first key that is not below `first`."""
        with self.transaction.cursor(db=self.handles[name]) as cursor:
            if cursor.set_range(first):
                for key, value in cursor.iternext():
                    yield bytes(key), bytes(value)

    def keep_row(self, name: bytes, before: bytes) -> None:
        """For the history: what a row was before the first change of it that the next entry records."""
        self._rows_before.setdefault(name, before)

    # -- numbers -----------------------------------------------------------------------------------------

    def _block(self, block: int) -> UnpackedBlock:
        found = self._cache.get(block)
        if found is None:
            if len(self._cache) >= BLOCKS_CACHED_MAX:
                self.flush()
            found = self._cache[block] = self._read_block(block)
        return found

    def _read_block(self, block: int) -> UnpackedBlock:
        key = BLOCK_KEY.pack(block)
        value = self.transaction.get(key, db=self.handles["blocks"])
        details = None if value is None else self.transaction.get(key, db=self.handles["details"])
        return UnpackedBlock(block, value, details)

    def old_states(self, tn: TN, tn_to: TN) -> tuple[Ported, ...]:
        """The ported numbers among tn..tn_to, as runs of consecutive numbers that share everything."""
        runs: list[Ported] = []
        last: tuple[int, int, int, int] | None = None
        for number in range(tn, tn_to + 1):
            block, offset = divmod(number, NUMBERS_PER_BLOCK)
            page = self._block(block)
            route_id = U16.unpack_from(page.entries, 2 * offset)[0] & ROUTE_MASK
            if route_id == 0:
                last = None
                continue
            state = (route_id, *page.detail(offset))
            if state == last:
                runs[-1] = msgspec.structs.replace(runs[-1], tn_to=TN(number))
            else:
                runs.append(self.ported_run(TN(number), TN(number), *state))
            last = state
        return tuple(runs)

    def ported_run(self, tn: TN, tn_to: TN, route_id: int, donor_id: int, ported_at: int, sequence: int) -> Ported:
        """Stored ids as the journal writes them: by what they stand for."""
        record = self.routes[route_id]
        assert record is not None
        donor = self.routes[donor_id]
        return Ported(
            tn,
            tn_to,
            record.network_code,
            None if record.own else record.routing_number,
            donor.network_code if donor else None,
            UnixSeconds(ported_at) if ported_at else None,
            sequence,
        )

    def set_numbers(
        self, tn: TN, tn_to: TN, route_id: int, donor_id: int | None, ported_at: int | None, sequence: int
    ) -> Counts:
        """Route the numbers tn..tn_to; route_id 0 takes them back to their range holder.

        donor_id, ported_at: None keeps what is known of each number.
        """
        counts = Counts()
        for number in range(tn, tn_to + 1):
            block, offset = divmod(number, NUMBERS_PER_BLOCK)
            page = self._block(block)
            entry = U16.unpack_from(page.entries, 2 * offset)[0]
            old_id = entry & ROUTE_MASK
            if route_id == 0 and old_id == 0:
                counts.unchanged += 1
                continue
            if old_id != route_id:
                U16.pack_into(page.entries, 2 * offset, (entry & RESTRICTED) | route_id)
                self._move_content(page, number, old_id, route_id)
            if route_id == 0:
                page.delete_detail(offset)
                counts.removed += 1
                continue
            known_donor, known_at, _ = page.detail(offset) if donor_id is None or ported_at is None else (0, 0, 0)
            page.put_detail(
                offset,
                known_donor if donor_id is None else donor_id,
                known_at if ported_at is None else ported_at,
                sequence,
            )
            if old_id:
                counts.changed += 1
            else:
                counts.added += 1
        self.ported += counts.added - counts.removed
        return counts

    def set_number(
        self, tn: TN, route_id: int, donor_id: int | None, ported_at: int | None, sequence: int, counts: Counts
    ) -> tuple[int, int, int, int] | None:
        """`set_numbers` of one number, in one pass: adds to counts and returns what was stored before.

        That is route id, donor's route id, ported_at and sequence, as `ported_run` takes them; None = not ported.
        """
        block, offset = divmod(tn, NUMBERS_PER_BLOCK)
        page = self._cache.get(block) or self._block(block)
        entry = U16.unpack_from(page.entries, 2 * offset)[0]
        old_id = entry & ROUTE_MASK
        if route_id == 0 and old_id == 0:
            counts.unchanged += 1
            return None
        if old_id != route_id:
            U16.pack_into(page.entries, 2 * offset, (entry & RESTRICTED) | route_id)
            self._move_content(page, tn, old_id, route_id)
        if route_id == 0:
            was = (old_id, *page.detail(offset))
            page.delete_detail(offset)
            counts.removed += 1
            self.ported -= 1
            return was
        before = page.exchange_detail(offset, donor_id, ported_at, sequence)
        if old_id:
            counts.changed += 1
            return (old_id, *before)
        counts.added += 1
        self.ported += 1
        return None

    def mark(self, numbers: Iterable[int], *, restricted: bool) -> None:
        """Set or clear the bit of each number that says that a restriction is about it."""
        for number in numbers:
            block, offset = divmod(number, NUMBERS_PER_BLOCK)
            page = self._block(block)
            entry = U16.unpack_from(page.entries, 2 * offset)[0]
            U16.pack_into(page.entries, 2 * offset, entry | RESTRICTED if restricted else entry & ROUTE_MASK)

    def _move_content(self, page: UnpackedBlock, number: int, old_id: int, route_id: int) -> None:
        """Take a number's old share out of its block's content digest and the store's, put the new one in."""
        difference = 0
        if old_id:
            difference -= number_term(number, self.fingerprints[old_id])
        if route_id:
            difference += number_term(number, self.fingerprints[route_id])
        page.content = (page.content + difference) & _MASK64
        self.digest += difference

    def flush(self) -> None:
        """Write out what is unpacked and journalled; needed before anything else reads it in this transaction."""
        self._flush_journal()
        blocks, details = self.handles["blocks"], self.handles["details"]
        block_rows: list[tuple[bytes, bytearray]] = []
        details_rows: list[tuple[bytes, bytes]] = []
        for block in sorted(self._cache):
            page = self._cache[block]
            key = BLOCK_KEY.pack(block)
            if page.details:
                details_rows.append((key, pack_details(block, page.details)))
            elif page.existed:
                self.transaction.delete(key, db=details)
            if not page.is_empty:
                block_rows.append((key, page.pack(block)))
                self.blocks += not page.existed
            elif page.existed:
                self.transaction.delete(key, db=blocks)
                self.blocks -= 1
        for handle, rows in ((details, details_rows), (blocks, block_rows)):
            with self.transaction.cursor(db=handle) as cursor:
                cursor.putmulti(rows)
        self._cache.clear()
        self.restricted.flush()

    def _flush_journal(self) -> None:
        """Notices' entries go out in lots: a call for each would be a quarter of what a delta costs."""
        for name, rows in (("journal", self._entries), ("journal_blocks", self._entry_blocks)):
            if rows:
                rows.sort()
                with self.transaction.cursor(db=self.handles[name]) as cursor:
                    consumed, added = cursor.putmulti(rows, overwrite=False)
                if added < consumed:
                    raise StoreError(
                        f"{name}: entries after {self.serial - consumed} exist already, the state is older: "
                        "restore the store from a backup"
                    )
                rows.clear()

    # -- notices that wait, history, position -------------------------------------------------------------

    def schedule(self, feed: str, sequence: int, line: int, notice: Notice) -> None:
        """Keep a notice until its effective_at; its journal entry was recorded just before."""
        assert notice.effective_at is not None
        key = PENDING_KEY.pack(notice.effective_at, sequence, line)
        waits = PendingNotice(feed, sequence, line, notice, self.serial)
        self.transaction.put(key, pack_pending(waits), db=self.handles["pending"])

    def due(self, now: UnixSeconds) -> list[PendingNotice]:
        """Pending notices whose moment has come, by moment, then sequence, then line.

        One that is damaged is left out, and stays: no wrong route is set, and `Reader.damaged_pending` tells.
        """
        found = []
        for key, value in self.transaction.cursor(db=self.handles["pending"]):
            if PENDING_KEY.unpack(key)[0] > now:
                break
            with suppress(ValueError, msgspec.MsgspecError, struct.error):
                found.append(unpack_pending(value))
        return found

    def unschedule(self, waits: PendingNotice) -> None:
        """Take a pending notice out: it fired, or was contained in a snapshot."""
        assert waits.notice.effective_at is not None
        key = PENDING_KEY.pack(waits.notice.effective_at, waits.sequence, waits.line)
        self.transaction.delete(key, db=self.handles["pending"])

    def put_receipt(self, receipt: Receipt) -> None:
        """Keep the clocks of this commit, under its last serial."""
        self.transaction.put(SERIAL_KEY.pack(self.serial), encode(receipt), db=self.handles["receipts"])

    def record(self, kind: JournalKind, counts: Counts, **fields: Any) -> int:
        """Append a journal entry and take its serial for the store's; returns the serial.

        fields: those of JournalEntry that are not set here. Table rows and old states that were kept since the
        last entry are this one's.
        """
        self._flush_journal()
        self.serial += 1
        if self.now < self._last_applied_at:
            self._rows_before[journal.CLOCK_FELL] = encode(self._last_applied_at)
        if fields.get("from_empty"):
            self._rows_before[journal.FROM_EMPTY] = encode(None)
        if self.old_routes:
            self._rows_before[journal.LEGEND] = journal.legend(self.routes, self.old_routes)
        entry = JournalEntry(
            self._last_hash,
            kind,
            self.now,
            self.digest & _MASK64,
            counts.added,
            counts.removed,
            counts.changed,
            old_states_hash=self.old_states_fold.digest(),
            tables_hash=journal.put_rows(
                self.transaction, self.handles["journal_tables"], self.serial, self._rows_before
            ),
            **fields,
        )
        self._rows_before, self.old_states_fold, self.old_routes = {}, journal.Fold(), set()
        self._last_applied_at = self.now
        self._last_hash = journal.append(self.transaction, self.handles["journal"], self.serial, entry)
        if entry.tn is not None and entry.tn_to is not None:
            for block in range(entry.tn // NUMBERS_PER_BLOCK, entry.tn_to // NUMBERS_PER_BLOCK + 1):
                key = JOURNAL_BLOCK_KEY.pack(block, self.serial)
                self.transaction.put(key, b"", db=self.handles["journal_blocks"])
        return self.serial

    def record_notice(
        self,
        kind: JournalKind,
        counts: Counts,
        notice: Notice,
        old: tuple[Ported, ...],
        new: Ported | None,
        feed: str,
        sequence: int,
        line: int,
    ) -> None:
        """`record` of a notice, which is a large part of what a delta costs: no detours."""
        if self._rows_before or self.now < self._last_applied_at:
            self.record(
                kind,
                counts,
                feed=feed,
                sequence=sequence,
                tn=notice.tn,
                tn_to=notice.tn_to,
                old=old,
                new=new,
                notified_at=notice.notified_at,
                effective_at=notice.effective_at,
                ref=notice.ref,
                line=line,
            )
            return
        self.serial += 1
        self._last_applied_at = self.now
        entry = JournalEntry(
            self._last_hash,
            kind,
            self.now,
            self.digest & _MASK64,
            counts.added,
            counts.removed,
            counts.changed,
            feed,
            sequence,
            notice.tn,
            notice.tn_to,
            old,
            new,
            notice.notified_at,
            notice.effective_at,
            notice.ref,
            line=line,
        )
        stored = encode(entry)
        self._last_hash = journal.entry_hash(stored)
        self._entries.append((SERIAL_KEY.pack(self.serial), stored))
        for block in range(notice.tn // NUMBERS_PER_BLOCK, notice.tn_to // NUMBERS_PER_BLOCK + 1):
            self._entry_blocks.append((JOURNAL_BLOCK_KEY.pack(block, self.serial), b""))
        if len(self._entries) >= JOURNAL_ROWS_MAX or len(self._entry_blocks) >= JOURNAL_ROWS_MAX:
            self._flush_journal()

    def confirm(self, feed: str, position: FeedPosition) -> None:
        """Set how far the feed is applied, in the same transaction as its data."""
        self.feeds[feed] = position

    def follow(self, feed: str, place: StreamPosition) -> None:
        """Set which message of the engine that was; nothing is committed for this alone."""
        self._streams[feed] = place

    def finish(self) -> bool:
        """Write out what is left, and the state; returns whether there is anything to commit."""
        assert not self._rows_before, "a table was changed and not recorded"
        self.flush()
        self.digest &= _MASK64
        state = State(
            self.serial,
            self.digest,
            self.ported,
            self.blocks,
            self._tables + self._tables_changed,
            self.feeds,
            self._last_hash,
        )
        if state == self._before and not self.swept:
            return False
        self.transaction.put(META_STATE, pack_state(state), db=self.handles["meta"])
        if self._streams:
            known = unpack_streams(self.transaction.get(META_STREAM, db=self.handles["meta"]))
            self.transaction.put(META_STREAM, pack_streams(known | self._streams), db=self.handles["meta"])
        return True
