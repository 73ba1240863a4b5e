"""What every source says and checks the same way: plain names, bounded listings, answers that stay out.

Where the bytes go is for `spool`; how long to wait before the next try, for `backoff`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from lookupd.errors import SourceError

NAME_BYTES_MAX = 200
"""File systems take 255 bytes: what we add (`.REPLICA.ack.json.part`) must fit too. Feed files need under 80."""

NAMES_MAX = 100_000
"""Entries of one folder: a delta every five minutes with manifest, signature and acknowledgement fills it in
three months. A hostile listing of more is refused before it fills the memory (100,000 names take about 15 MB)."""

UNFINISHED = (".part", ".part.of")
"""Endings of files that somebody still writes: a sender's, or ours where two loaders share a folder."""

TOLD_CHARS_MAX = 300
"""Of what a server says, in a message of ours."""


def is_plain_name(name: str) -> bool:
    """Whether it names a finished file in the folder itself, on every file system, in every log line.

    isprintable() also refuses what turns the direction of writing around, and bytes that are not UTF-8.
    """
    return (
        name.isprintable()
        and 0 < len(name.encode("utf-8", "replace")) <= NAME_BYTES_MAX
        and not name.startswith(".")
        and not name.endswith(UNFINISHED)
        and "/" not in name
        and "\\" not in name
    )


def check_name(place: str, name: str) -> None:
    """Raises SourceError: a name that somebody made up must never lead out of the spool, whoever asks for it."""
    if not is_plain_name(name):
        raise SourceError(f"{place}: {one_line(name)!r} is no plain file name: have the sender rename it")


class Listing:
    """The names of one listing, bounded while they come in."""

    def __init__(self, place: str) -> None:
        self._place = place
        self._seen = 0
        self._names: set[str] = set()

    def add(self, name: str, *, wanted: bool = True) -> None:
        """One entry; what is not wanted (a folder), or not plainly named, is counted and passed over."""
        self._seen += 1
        if self._seen > NAMES_MAX:
            raise SourceError(
                f"{self._place}: more than {NAMES_MAX} files in one folder: have the old ones moved away; "
                "it is tried again"
            )
        if wanted and is_plain_name(name):
            self._names.add(name)

    def names(self) -> frozenset[str]:
        """All that were kept."""
        return frozenset(self._names)


def one_line(text: str) -> str:
    """What a server said, safe to print: one line, bounded."""
    shown = "".join(char if char.isprintable() else "?" for char in text[:TOLD_CHARS_MAX])
    return shown + ("..." if len(text) > TOLD_CHARS_MAX else "")


def no_answer(place: str, seconds: float) -> SourceError:
    """For whoever waited."""
    return SourceError(
        f"{place}: no answer within {seconds:g} s: see that it is up and reached from here; it is tried again"
    )


def changed(place: str, name: str) -> SourceError:
    """For whoever saw a file move while it was read."""
    return SourceError(
        f"{place}: {name} changed while it was read: it is fetched anew; if this stays, have the sender "
        "write under another name and rename"
    )


@asynccontextmanager
async def answer_within(place: str, seconds: float) -> AsyncIterator[None]:
    """Raises SourceError if the block takes longer. What waits inside is cancelled, and must let itself be."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise no_answer(place, seconds) from None
