"""The guard before a file that moves many numbers, and the words with which a person lets it through.

Counts nothing itself and changes nothing: `apply` counts, asks here before it commits, and keeps the words.
"""

from __future__ import annotations

from lookupd.errors import Refused
from lookupd.limits import WORDS_CHARS_MAX, WORDS_CHARS_MIN
from lookupd.store.change import Counts

WORDS_FORM = '"who: why", at least three characters each'


def parse_words(text: str) -> str:
    """Who takes something on, and why: `noc, Wu: confirmed by the clearinghouse on the phone`.

    Returns the words without outer blanks, as the journal keeps them. Raises ValueError with the reason.
    """
    words = text.strip()
    who, colon, why = words.partition(":")
    if not colon:
        raise ValueError(f"{text[:60]!r} has no colon: write {WORDS_FORM}")
    for part, name in ((who, "who"), (why, "why")):
        if len(part.strip()) < WORDS_CHARS_MIN:
            raise ValueError(f"{text[:60]!r} does not say {name}: write {WORDS_FORM}")
    if len(words) > WORDS_CHARS_MAX or not words.isprintable():
        raise ValueError(f"{text[:60]!r}: at most {WORDS_CHARS_MAX} printable characters in one line")
    return words


def check_moved(
    counts: Counts, ported_before: int, share_max: float, free: int, accepted: str | None, file_name: str
) -> None:
    """Let a file through that moves few numbers, fills an empty store, or was let through by name.

    counts: what it would do. ported_before: numbers ported before it. share_max: `limits.moved_share`, 0 to 1.
    free: `limits.moved_free`, numbers that may move whatever the share, so that a small store can be worked
    with. accepted: the words of `--accept-change`, None = nobody said anything; they are checked even where
    they are not needed. Raises Refused; the caller lets its transaction go.
    """
    if accepted is not None:
        try:
            parse_words(accepted)
        except ValueError as error:
            raise Refused(f"{file_name}: --accept-change {error}; the store is unchanged") from None
        return
    moved = counts.added + counts.removed + counts.changed
    bound = max(int(share_max * ported_before), free)
    if ported_before == 0 or moved <= bound:
        return
    raise Refused(
        f"{file_name}: would move {moved:,} numbers ({counts.added:,} added, {counts.removed:,} removed, "
        f"{counts.changed:,} changed), {_percent(moved / ported_before)} of the {ported_before:,} ported: more than "
        f"limits.moved_share = {_percent(share_max)} and limits.moved_free = {free:,} let through, {bound:,} here; "
        f"the store is unchanged. See what it would do with `lookupd-loader diff {file_name}`; if it is right, load it "
        'with --accept-change "who: why"'
    )


def _percent(share: float) -> str:
    """Two digits that count, never in powers: `0.34 %`, `250 %`."""
    percent = 100 * share
    return f"{percent:.0f} %" if percent >= 10 else f"{percent:.2g} %"
