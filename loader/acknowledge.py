"""Acknowledgements: `FILE.ack.json`, written when a file is confirmed and again when it is visible.

They are kept in the spool first, on disk, and then put to the source by whoever holds it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import msgspec

from lookupd.model import Receipt
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
        path = self._folder / self.name(data_name)
        part = path.with_name(path.name + ".part")
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.rename(path)
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
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
