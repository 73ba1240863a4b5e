"""Deltas that came as messages: checked at once, kept in a folder until the feed takes their files.

What is not signed by the sender, not whole, or of another feed gets no further than here: it cannot stand in the way
of what is. The feed checks everything again when its turn comes. What order they have is the feed's business too.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import msgspec

from loader.durable import sync_folder
from loader.files import Manifest, identify, verified
from loader.fleet.wire import Envelope
from loader.trust import PublicKey, check_signature
from lookupd.errors import FeedError, SourceError
from lookupd.model import StreamPosition

FOLDER = "incoming"
"""In the feed's spool."""


class Held(msgspec.Struct):
    """One message. left: its files that nobody took yet; none of a reference, whose files are at the source."""

    sequence: int
    manifest: bytes
    place: StreamPosition | None
    folder: Path
    left: set[str]
    reference: bool


class Incoming:
    """The messages of one feed, by the data file's name. `write` and `move` may run in a thread, the rest may not."""

    def __init__(self, spool: Path, feed: str, keys: tuple[PublicKey, ...]) -> None:
        self.messages: dict[str, Held] = {}
        self._folder = spool / FOLDER
        self._feed, self._keys = feed, keys
        self._written = 0

    def clear(self) -> None:
        """Begin with none: what a crash left comes again. Raises SourceError."""
        self.messages.clear()
        shutil.rmtree(self._folder, ignore_errors=True)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._full(error) from None

    def write(self, envelope: Envelope, place: StreamPosition) -> Held:
        """Check a message, its files in a folder of its own. Raises FeedError, SourceError; nothing is left then."""
        self._written += 1  # not the message's sequence: a stream made anew has the same ones
        folder = self._folder / str(self._written)
        files = envelope.files()
        try:
            folder.mkdir(exist_ok=True)
            for name, content in files.items():
                (folder / name).write_bytes(content)
            self._check(folder, envelope)
            if envelope.data is None:
                shutil.rmtree(folder, ignore_errors=True)
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise self._full(error) from None
        except FeedError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        left = set() if envelope.data is None else set(files)
        return Held(envelope.sequence, envelope.manifest, place, folder, left, envelope.data is None)

    def _check(self, folder: Path, envelope: Envelope) -> None:
        path = folder / envelope.name
        if envelope.data is not None:
            with verified(identify(path, "delta", self._feed, None, self._keys)):
                return
        if self._keys:
            check_signature(envelope.manifest, folder / f"{envelope.name}.json.minisig", self._keys)
        manifest = read_manifest(envelope.manifest)
        if manifest is None or (manifest.type, manifest.feed, manifest.sequence) != (
            "delta",
            self._feed,
            envelope.sequence,
        ):
            raise FeedError(f"{envelope.name}: its manifest is for another file")

    def names(self) -> set[str]:
        """Files that can be had here."""
        return {name for held in self.messages.values() for name in held.left}

    def move(self, name: str, to: Path) -> bool:
        """Bring a file to `to`, on disk; False if it is not here. Raises SourceError."""
        held = self.messages.get(data_name(name))
        if held is None or name not in held.left:
            return False
        held.left.discard(name)  # whatever becomes of it: who asks again gets the source's
        try:
            with (held.folder / name).open("rb") as file:
                os.fsync(file.fileno())
            (held.folder / name).rename(to)
            if name.endswith(".json"):
                sync_folder(to.parent)  # once a message: without its manifest, which goes last, it is none
            if not held.left:
                held.folder.rmdir()
        except OSError as error:
            raise self._full(error) from None
        return True

    def forget(self, position: int) -> None:
        """The feed is there: what leads no further may go."""
        for name in [name for name, held in self.messages.items() if held.sequence <= position]:
            self.drop(self.messages.pop(name))

    def drop(self, held: Held) -> None:
        """What nobody took of it."""
        if held.left:
            shutil.rmtree(held.folder, ignore_errors=True)

    def forget_places(self) -> None:
        """The stream is another one: where its messages lie now is told when they come again."""
        for held in self.messages.values():
            held.place = None

    def _full(self, error: OSError) -> SourceError:
        return SourceError(
            f"spool: {self._folder}: {error.strerror}: see that there is room and the loader may write there"
        )


def data_name(name: str) -> str:
    """Of the data file that a manifest or a signature belongs to."""
    return _COMPANION.sub("", name)


_COMPANION = re.compile(r"\.json(?:\.minisig)?\Z")


def read_manifest(text: bytes) -> Manifest | None:
    """None if it is none."""
    try:
        return msgspec.json.decode(text, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
