"""The exchange of one feed: what a source has -> spool -> checked -> confirmed -> applied -> acknowledged.

One call of `round` does what there is to do. Everything that must survive a crash is on disk before the next
step relies on it: fetched files in the spool, confirmations in its `acks` folder, the position with the data.
When to call it, and the agreed second, are `sync`'s.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from loader.acknowledge import Acknowledger
from loader.apply import CheckedDelta, Progress, Result, Terms, apply_checked, apply_snapshot, check_delta, position_of
from loader.exchange_metrics import FeedMetrics
from loader.files import FeedFile
from loader.formats import Format, Step
from loader.sequence import beyond, chain, newest_snapshot, unapplied
from loader.sources import Following, Source
from loader.spool import Spool
from loader.steady import Clock
from loader.tables import load_networks, load_ranges, read_networks, read_ranges
from loader.trouble import RETRY_SECONDS, Trouble, Troubles
from loader.trust import PublicKey
from loader.validate import KnownNetworks
from lookupd.errors import FeedError, Refused, SequenceGap, SourceError, Stale
from lookupd.model import FeedPosition, Receipt, UnixMillis, UnixSeconds
from lookupd.numbering import Plan
from lookupd.observe.log import log
from lookupd.settings import FeedSettings, Limits
from lookupd.store.reader import Reader
from lookupd.store.writer import Writer
from lookupd.units import format_millis, parse_millis

STEPS_PER_LOT = 64
"""Deltas that are fetched and confirmed before the first of them is applied: all are confirmed early, and the
notices of a lot fit into memory."""

HELD_MAX = 64
"""Deltas beyond a gap that are fetched while it is open, so that they are here when it closes."""

SETTLED_MAX = 256
"""Receipts looked at for a confirmed step that somebody else applied."""

APPLIED_PER_SECOND = 15_000
SNAPSHOT_BYTES_PER_SECOND = 20_000_000
"""Cautious guesses of this machine's speed: a long change is not begun when a pending notice comes due in it."""


Noted = list[tuple[int, Receipt]]
"""Commits whose moment was noted: last serial, receipt."""


class Store(Protocol):
    """Where work on the store is done: a thread each for writing and for reading; see `sync.StoreThreads`."""

    async def write(self, work: Callable[[Writer], Any], expected_seconds: float = 0.0) -> Any:
        """Done when no pending notice comes due within the expected time; returns what `work` returns."""
        ...

    async def read(self, work: Callable[[Reader], Any]) -> Any:
        """With a reader pinned to the newest commit."""
        ...


class Quiet:
    """Progress that is not shown: the log tells of results, not of steps."""

    def stage(self, name: str, total: int | None) -> Callable[[int], None]:
        """Nothing."""
        return lambda count: None


class FeedSync:
    """One feed of one replica. Used by one task."""

    def __init__(
        self,
        name: str,
        settings: FeedSettings,
        *,
        format: Format,
        source: Source,
        spool: Path,
        keys: tuple[PublicKey, ...],
        plan: Plan,
        limits: Limits,
        replica: str,
        store: Store,
        clock: Clock,
        metrics: FeedMetrics,
        progress: Progress | None = None,
    ) -> None:
        self.name = name
        self.position = 0
        self._settings = settings
        self._format, self._source, self._keys = format, source, keys
        self._plan, self._limits, self._replica = plan, limits, replica
        self._store, self._clock, self._metrics = store, clock, metrics
        self._progress: Progress = progress or Quiet()
        self._spool = Spool(spool, format, source, clock)
        self._acks = Acknowledger(name, replica, settings.acknowledge, spool, source, metrics)
        self._troubles = Troubles(name, settings.gap_wait, clock, metrics)
        self._settled: set[str] = set()
        self._tables: dict[str, int] = {}
        self._steps: list[Step] = []
        self._held_again_at: dict[str, UnixMillis] = {}
        self._following = source if isinstance(source, Following) else None

    @property
    def trouble(self) -> Trouble | None:
        """Why it does not move; None = it does."""
        return self._troubles.now

    # -- life --------------------------------------------------------------------------------------------

    async def recover(self, receipts: Iterable[tuple[int, Receipt]]) -> None:
        """Finish what a crash left between a commit and its acknowledgement. receipts: the feed's newest ones."""
        self._spool.make()
        own = list(receipts)
        self._acks.recover(own)
        if self._following is not None and own:
            self._acks.say_again(own[-1][1].source)  # the engine keeps the last word only, and may have lost it

    async def close(self) -> None:
        """Let go of the source."""
        await self._source.close()

    async def round(self) -> bool:
        """Fetch, confirm and apply what there is; returns whether the position moved.

        Raises SourceError when the source cannot be used; StoreError when the store cannot be written. A bad
        file is no error here: it is acknowledged as rejected, told, and becomes the feed's `trouble`.
        """
        await self._tell_following()
        try:
            names = await self._source.names()
        except SourceError:
            await self._apply_confirmed()
            raise
        self._metrics.source_seen(self._clock.now())
        at_source = self._format.steps(names)
        # What was fetched counts too: after a restore the sender may have put away what must be applied again.
        self._steps = self._format.steps(names | self._spool.names())
        await self._load_tables()
        before = await self._read_position()
        await self._settle()
        self._acks.repeat(at_source, names, self.position, self._clock.now())
        if self.position == 0 and (snapshot := newest_snapshot(self._steps)) is not None:
            await self._take_snapshot(snapshot)
        while lot := chain(self._steps, self.position)[:STEPS_PER_LOT]:
            if not await self._take_deltas(lot):
                break
        await self._judge_gap(names)
        await self._acks.publish(again=True)
        await self._note_passed()
        self._spool.tidy(self.position, self._settings.keep, self._limits.history)
        return self.position != before

    # -- a fleet's engine --------------------------------------------------------------------------------

    @property
    def follows(self) -> bool:
        """Whether the source tells of new files."""
        return self._following is not None

    async def pause(self, seconds: float) -> None:
        """Until the next round: so long, or until the source tells of something."""
        if self._following is None:
            await asyncio.sleep(seconds)
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._following.changed.wait()

    async def _tell_following(self) -> None:
        if self._following is not None:
            position, place = await self._store.read(
                lambda reader: (reader.state.feeds.get(self.name), reader.streams().get(self.name))
            )
            self._following.at(position, place)

    async def _note_passed(self) -> None:
        """So that messages which brought nothing new are not read again after a start."""
        passed = self._following.passed() if self._following is not None else None
        if passed is not None and self.position:
            await self._store.write(lambda writer: writer.note_stream(self.name, passed))

    async def _apply_confirmed(self) -> None:
        """The source is away: what was confirmed and lies in the spool is applied, its clocks run."""
        self._steps = self._format.steps(self._spool.names())
        await self._read_position()
        ready = list(itertools.takewhile(self._acks.is_confirmed, chain(self._steps, self.position)))
        for first in range(0, len(ready), STEPS_PER_LOT):
            if not await self._take_deltas(ready[first : first + STEPS_PER_LOT]):
                return

    async def _read_position(self) -> int:
        self.position = await self._store.read(lambda reader: position_of(reader.state.feeds, self.name))
        self._metrics.position(self.position)
        self._troubles.clear(self.position)  # an operator may have loaded what was missing
        return self.position

    async def _settle(self) -> None:
        """Steps that we confirmed and that are applied by now: by a person, or by us before a disk was full."""
        past = [step for step in self._steps if step.type == "delta" and step.sequence <= self.position][-SETTLED_MAX:]
        for step in past:
            self._metrics.unknown(step.name)
        unsettled = [step for step in past if step.name not in self._settled]
        self._settled = {step.name for step in past}
        if not any(map(self._acks.is_confirmed, unsettled)):
            return
        noted: Noted = await self._store.write(lambda writer: writer.note_visible(self._clock.now()))
        await self._tell_visible(noted)
        newest: list[tuple[int, Receipt]] = await self._store.read(lambda reader: reader.newest_receipts(SETTLED_MAX))
        await self.recover((serial, receipt) for serial, receipt in newest if receipt.feed == self.name)

    # -- deltas ------------------------------------------------------------------------------------------

    async def _take_deltas(self, lot: list[Step]) -> bool:
        """Confirm a lot, then apply it; whether all of it was applied."""
        confirmed: list[tuple[CheckedDelta, Terms]] = []
        assumed = await self._store.read(lambda reader: dict(reader.state.feeds))
        whole = True
        failure: SourceError | None = None
        for step in lot:
            try:
                taken = await self._confirm(step, assumed)
            except SourceError as error:  # what is confirmed is applied nevertheless: its clocks run
                failure = error
                break
            if taken is None:
                whole = False
                break
            confirmed.append(taken)
            file = taken[0].file
            assumed[self.name] = FeedPosition(
                file.sequence, "delta", taken[0].sha256, file.created_at, UnixSeconds(self._clock.now() // 1000)
            )
        for checked, terms in confirmed:
            if not await self._apply(checked, terms):
                whole = False
                break
        if failure is not None:
            raise failure
        return whole

    async def _confirm(self, step: Step, assumed: dict[str, FeedPosition]) -> tuple[CheckedDelta, Terms] | None:
        """Fetch, verify, validate, and put the confirmation on disk before anything is applied."""
        if not self._troubles.may_try(step):
            return None
        try:
            received_at = await self._spool.fetch(step)
            checked = await self._store.read(lambda reader: self._check(reader, step, assumed))
        except FeedError as error:
            self._reject(step, error)
            return None
        self._metrics.known(step.name, unapplied(checked.notices))
        earlier = self._acks.read(step.name)
        confirmed_at = self._clock.now()
        if earlier is not None and earlier.result in {"confirmed", "applied"} and earlier.confirmed_at is not None:
            confirmed_at = parse_millis(earlier.confirmed_at)  # before a crash, or a restore: that word stands
        else:
            self._acks.tell(step, "confirmed", received_at, confirmed_at)
            await self._acks.publish()
        return checked, self._terms(step, received_at, confirmed_at)

    def _check(self, reader: Reader, step: Step, assumed: dict[str, FeedPosition]) -> CheckedDelta:
        file = self._format.open(step, self._spool.folder, self._keys)
        return check_delta(assumed, KnownNetworks(reader.routes), file, self._plan, self._progress)

    async def _apply(self, checked: CheckedDelta, terms: Terms) -> bool:
        file = checked.file
        step_name = file.name
        try:
            result, noted = await self._store.write(
                lambda writer: self._committed(writer, functools.partial(apply_checked, writer, checked), terms),
                expected_seconds=len(checked.notices) / APPLIED_PER_SECOND,
            )
        except Refused as error:
            self._troubles.note_failure("guard", step_name, file.sequence, error)
            return False
        except (SequenceGap, Stale) as error:  # somebody loaded a file by hand meanwhile: look again
            log("position_moved", feed=self.name, file=step_name, reason=error)
            return False
        except FeedError as error:  # what only the transaction finds out: too many routes, other content at this place
            self._reject(next(step for step in self._steps if step.name == step_name), error)
            return False
        self.position = max(self.position, result.sequence)  # a duplicate moves it too: somebody was faster
        self._metrics.unknown(step_name)
        self._metrics.applied(checked.notices, UnixSeconds(self._clock.now() // 1000))
        await self._tell_visible(noted)
        self._tell("delta_applied", result)
        self._troubles.clear(self.position)
        return True

    # -- snapshots ---------------------------------------------------------------------------------------

    async def _take_snapshot(self, step: Step) -> bool:
        if not self._troubles.may_try(step):
            return False
        try:
            received_at = await self._spool.fetch(step)
            file: FeedFile = await self._store.read(lambda _: self._format.open(step, self._spool.folder, self._keys))
            confirmed_at = self._clock.now()
            terms = self._terms(step, received_at, confirmed_at)
            result, noted = await self._store.write(
                lambda writer: self._committed(
                    writer, functools.partial(apply_snapshot, writer, file, self._plan), terms
                ),
                expected_seconds=file.bytes / SNAPSHOT_BYTES_PER_SECOND,
            )
        except Refused as error:
            self._troubles.note_failure("guard", step.name, self.position + 1, error)
            return False
        except FeedError as error:
            self._reject(step, error)
            return False
        except Stale as error:  # somebody loaded a later one by hand meanwhile: look again
            log("position_moved", feed=self.name, file=step.name, reason=error)
            return False
        await self._tell_visible(noted)
        self._metrics.known_up_to(result.sequence, self._steps)
        self._tell("snapshot_applied", result)
        self._troubles.clear(self.position)
        return True

    # -- order -------------------------------------------------------------------------------------------

    async def _judge_gap(self, names: frozenset[str]) -> None:
        """After the deltas in reach: is something behind a gap, or stuck? Wait for it, then turn to a snapshot."""
        self.position = await self._store.read(lambda reader: position_of(reader.state.feeds, self.name))
        self._metrics.position(self.position)
        reach = chain(self._steps, self.position)
        held = beyond(self._steps, reach[-1].sequence if reach else self.position)
        for step in held[:HELD_MAX]:
            await self._hold(step)
        if not reach and held:
            self._troubles.note_gap(self.position, held[0])
        unfinished = None if reach or held else self._format.unfinished(names, self.position)
        self._troubles.note_unfinished(self.position, unfinished)
        trouble = self._troubles.now
        if trouble is None or not self._troubles.is_waited_out():
            return
        snapshot = newest_snapshot(self._steps)
        if snapshot is not None and snapshot.sequence > self.position and self._troubles.may_try(snapshot):
            log("gap_bridged_by_snapshot", feed=self.name, position=self.position, snapshot=snapshot.name)
            await self._take_snapshot(snapshot)
        elif trouble.kind != "guard":
            self._ask_for_snapshot(trouble)

    async def _hold(self, step: Step) -> None:
        """Bring a delta from behind a gap into the spool, and know its notices' clocks."""
        if self._metrics.knows(step.name) or self._clock.now() < self._held_again_at.get(step.name, 0):
            return
        try:
            await self._spool.fetch(step)
            checked = await self._store.read(
                lambda reader: self._check(
                    reader, step, {self.name: FeedPosition(step.after, "held", "", None, UnixSeconds(0))}
                )
            )
            self._metrics.known(step.name, unapplied(checked.notices))
        except FeedError:
            self._held_again_at[step.name] = UnixMillis(self._clock.now() + int(RETRY_SECONDS[1] * 1000))
            self._spool.discard(step)  # when its turn comes it is fetched again, and told if it is still bad

    def _ask_for_snapshot(self, trouble: Trouble) -> None:
        """Once a gap: a file at the source that says what is wanted, and an alarm."""
        asked_at = self._troubles.want_snapshot(self.position)
        if asked_at is None:
            return
        request = {
            "feed": self.name,
            "replica": self._replica,
            "position": self.position,
            "wants": "snapshot",
            "reason": trouble.reason,
            "since": format_millis(trouble.since),
            "asked_at": format_millis(asked_at),
        }
        self._acks.ask(request)

    # -- tables ------------------------------------------------------------------------------------------

    async def _load_tables(self) -> None:
        """Networks and ranges that a foreign feed publishes: the newest of each, once."""
        for kind in ("networks", "ranges"):
            newest = max((s for s in self._steps if s.type == kind), key=lambda s: s.sequence, default=None)
            if newest is None or self._tables.get(kind, -1) >= newest.sequence or not self._troubles.may_try(newest):
                continue
            try:
                await self._spool.fetch(newest)
                await self._store.write(functools.partial(self._load_table, newest))
                self._tables[kind] = newest.sequence
                log("table_loaded", feed=self.name, file=newest.name)
                self._troubles.clear(self.position, newest.name)
            except FeedError as error:
                self._reject(newest, error)

    def _load_table(self, step: Step, writer: Writer) -> None:
        path = self._format.open_table(step, self._spool.folder)
        now = UnixSeconds(self._clock.now() // 1000)
        if step.type == "networks":
            load_networks(writer, read_networks(path), step.name, now)
        else:
            load_ranges(writer, read_ranges(path), step.name, now)

    # -- what became of it -------------------------------------------------------------------------------

    def _terms(self, step: Step, received_at: UnixMillis, confirmed_at: UnixMillis) -> Terms:
        return Terms(
            moved_share=self._limits.moved_share,
            moved_free=self._limits.moved_free,
            received_at=received_at,
            confirmed_at=confirmed_at,
            stream=self._following.place_of(step.name) if self._following is not None else None,
        )

    def _committed(self, writer: Writer, apply: Callable[..., Result], terms: Terms) -> tuple[Result, Noted]:
        """In the writing thread: apply, and note at once, durably, when it became visible."""
        result = apply(UnixSeconds(self._clock.now() // 1000), self._progress, terms)
        return result, writer.note_visible(self._clock.now())

    async def _tell_visible(self, noted: Noted) -> None:
        """Say to the sender what is visible now."""
        for serial, receipt in noted:
            if receipt.feed == self.name and receipt.type != "fired":
                self._acks.tell_visible(serial, receipt)
                self.position = max(self.position, receipt.sequence)
        self._metrics.position(self.position)
        await self._acks.publish()

    def _reject(self, step: Step, error: FeedError) -> None:
        """Tell the sender, drop our copy, and look again later: it may be replaced."""
        if step.type in {"snapshot", "delta"}:
            self._acks.reject(step, error, self._clock.now())
        self._spool.discard(step)
        over_at = {"delta": step.sequence, "snapshot": self.position + 1}.get(step.type)
        self._troubles.note_failure("rejected", step.name, over_at, error)

    def _tell(self, event: str, result: Result) -> None:
        log(
            event,
            feed=self.name,
            sequence=result.sequence,
            applied=result.applied,
            pending=result.pending,
            added=result.added,
            removed=result.removed,
            changed=result.changed,
            serial=result.serial,
        )
