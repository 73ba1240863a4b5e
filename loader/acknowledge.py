"""Acknowledgements: `FILE.ack.json`, written when a file is confirmed and again when it is visible.

They are kept in the spool first, on disk, and then put to the source; what it does not take now, it gets later.
When a file is confirmed, applied or refused is `feed_sync`'s business.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import msgspec

from loader import refusals
from loader.durable import write_whole
from loader.exchange_metrics import FeedMetrics
from loader.formats import Step
from loader.refusals import Refusal
from loader.sources import Source
from lookupd.errors import FeedError, Rejected, SourceError
from lookupd.model import Receipt, UnixMillis
from lookupd.observe.log import log
from lookupd.store.schema import format_digest
from lookupd.units import format_millis

FOLDER = "acks"
AckResult = Literal["confirmed", "applied", "duplicate", "rejected"]


class Rejection(msgspec.Struct, frozen=True):
    """A line that was refused; 0 = the file as a whole."""

    line: int
    reason: str


class Acknowledgement(msgspec.Struct, frozen=True):
    """As the feed's format has it; serial and digest are the store's after the file, null before."""

    feed: str
    type: str
    sequence: int
    replica: str
    received_at: str | None
    confirmed_at: str | None
    visible_at: str | None
    result: AckResult
    serial: int | None = None
    digest: str | None = None
    applied: int = 0
    pending: int = 0
    rejected: list[Rejection] = []


def of_receipt(serial: int, receipt: Receipt, replica: str) -> Acknowledgement:
    """Of a file that is visible, or at least committed."""
    return Acknowledgement(
        receipt.feed,
        receipt.type,
        receipt.sequence,
        replica,
        format_millis(receipt.received_at),
        format_millis(receipt.confirmed_at),
        format_millis(receipt.visible_at),
        "applied",
        serial,
        format_digest(receipt.digest),
        receipt.applied,
        receipt.pending,
    )


class AckFolder:
    """The acknowledgements of one feed on this replica."""

    def __init__(self, spool: Path, replica: str, style: str) -> None:
        """style: the setting `acknowledge`; by-replica puts the replica's name into the file's."""
        self._folder = spool / FOLDER
        self._suffix = f".{replica}.ack.json" if style == "by-replica" else ".ack.json"

    def name(self, data_name: str) -> str:
        """Of a data file's acknowledgement."""
        return data_name + self._suffix

    def write(self, data_name: str, acknowledgement: Acknowledgement) -> bytes:
        """Keep it, on disk before this returns; returns its bytes, for the source. Raises OSError."""
        content = msgspec.json.encode(acknowledgement) + b"\n"
        self._folder.mkdir(parents=True, exist_ok=True)
        write_whole(self._folder / self.name(data_name), content)
        return content

    def read(self, data_name: str) -> Acknowledgement | None:
        """What was written last; None if nothing was, or it cannot be read."""
        try:
            return msgspec.json.decode((self._folder / self.name(data_name)).read_bytes(), type=Acknowledgement)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            return None

    def content(self, data_name: str) -> bytes | None:
        """Its bytes, to put to the source again."""
        try:
            return (self._folder / self.name(data_name)).read_bytes()
        except OSError:
            return None


class Acknowledger:
    """What one feed's sender is told by this replica: kept first, put to the source after."""

    def __init__(self, feed: str, replica: str, style: str, spool: Path, source: Source, metrics: FeedMetrics) -> None:
        """style: the setting `acknowledge`; with "no" everything is kept and nothing is put to the source."""
        self._feed, self._replica, self._style = feed, replica, style
        self._spool, self._source, self._metrics = spool, source, metrics
        self._folder = AckFolder(spool, replica, style)
        self._waiting: dict[str, bytes] = {}
        self._unsure: set[str] = set()
        self._source_takes_them = style != "no"
        self._paused = False

    def read(self, data_name: str) -> Acknowledgement | None:
        """What was said last of a data file."""
        return self._folder.read(data_name)

    def is_confirmed(self, step: Step) -> bool:
        """Whether the last word is that the step is confirmed, and not yet that it is visible."""
        found = self._folder.read(step.name)
        return found is not None and found.result == "confirmed"

    def tell(self, step: Step, result: AckResult, received_at: UnixMillis, confirmed_at: UnixMillis) -> None:
        """Keep a word about a step that is not visible by us. Raises SourceError when the spool is full."""
        self._keep(step.name, self._word(step, result, received_at, confirmed_at))

    def reject(self, step: Step, error: FeedError, received_at: UnixMillis) -> None:
        """Keep a refusal, with its lines; 0 = the file as a whole."""
        lines = error.rejections if isinstance(error, Rejected) else [(0, str(error))]
        told = [Rejection(line, reason) for line, reason in lines]
        earlier = self._folder.read(step.name)
        if earlier is None or earlier.result != "rejected" or earlier.rejected != told:  # not the same word once more
            self._note_refusal(step, lines, received_at)
        self._keep(step.name, self._word(step, "rejected", received_at, None, told))

    def tell_visible(self, serial: int, receipt: Receipt) -> None:
        """Keep the last word: what became of a file, and when readers saw it."""
        self._keep(receipt.source, of_receipt(serial, receipt, self._replica))

    def recover(self, receipts: Iterable[tuple[int, Receipt]]) -> None:
        """Finish what a crash left between a commit and its acknowledgement. receipts: the feed's newest ones."""
        for serial, receipt in receipts:
            if receipt.type == "fired":
                continue
            found = self._folder.read(receipt.source)
            if found is None or found.result == "confirmed":
                ack = of_receipt(serial, receipt, self._replica)
                if found is not None:  # who loaded it by hand knew nothing of our word to the sender: that stands
                    ack = msgspec.structs.replace(ack, received_at=found.received_at, confirmed_at=found.confirmed_at)
                self._keep(receipt.source, ack)
            self._unsure.add(receipt.source)  # the source may have the word before

    def say_again(self, data_name: str) -> None:
        """Put a word that was kept to the source once more."""
        content = self._folder.content(data_name)
        if content is not None and self._style != "no":
            self._waiting[self._folder.name(data_name)] = content

    def repeat(self, steps: Iterable[Step], names: frozenset[str], position: int, now: UnixMillis) -> None:
        """A step that is done already and lies there without its acknowledgement is acknowledged again."""
        if not self._source_takes_them:
            return
        for step in steps:
            ack = self._folder.name(step.name)
            told = ack in names and step.name not in self._unsure
            if step.type not in {"snapshot", "delta"} or step.sequence > position or told or ack in self._waiting:
                continue
            content = self._folder.content(step.name)
            if content is None and step.sequence == position:
                self.tell(step, "duplicate", now, now)
            elif content is not None and (found := self.read(step.name)) and found.result != "rejected":
                self._waiting[ack] = content
        self._unsure.clear()

    def ask(self, request: dict[str, object]) -> None:
        """Put a request to the source, where it takes anything."""
        if self._style != "no":
            self._waiting[f"request-{self._feed}.{self._replica}.json"] = msgspec.json.encode(request) + b"\n"

    async def publish(self, *, again: bool = False) -> None:
        """Put what waits to the source. After a failure only a call with `again`, once a round, tries it: a source
        that hangs must not hold up what is applied.
        """
        if self._paused and not again:
            return
        self._paused = False
        for name, content in list(self._waiting.items()):
            try:
                self._source_takes_them = await self._source.publish(name, content)
            except SourceError as error:
                log("acknowledgement_delayed", feed=self._feed, file=name, reason=error)
                self._metrics.error("acknowledge")
                self._paused = True
                return
            if self._waiting.get(name) == content:
                del self._waiting[name]

    def _word(
        self,
        step: Step,
        result: AckResult,
        received_at: UnixMillis,
        confirmed_at: UnixMillis | None,
        rejected: list[Rejection] | None = None,
    ) -> Acknowledgement:
        times = format_millis(received_at), format_millis(confirmed_at), None
        return Acknowledgement(
            self._feed, step.type, step.sequence, self._replica, *times, result, rejected=rejected or []
        )

    def _note_refusal(self, step: Step, lines: list[tuple[int, str]], received_at: UnixMillis) -> None:
        at = str(format_millis(received_at))
        try:
            refusals.append(self._spool, Refusal(at, self._feed, step.type, step.sequence, step.name, tuple(lines)))
        except OSError as error:
            raise self._full(error) from None

    def _full(self, error: OSError) -> SourceError:
        return SourceError(f"spool {self._spool}: {error.strerror}: free space on it")

    def _keep(self, data_name: str, acknowledgement: Acknowledgement) -> None:
        try:
            content = self._folder.write(data_name, acknowledgement)
        except OSError as error:
            raise self._full(error) from None
        if self._style != "no":
            self._waiting[self._folder.name(data_name)] = content
