"""The life of a restriction: placed, extended once, lifted by the authority that placed it, or lapsed by time.

Rules: FCA articles 16 to 18 and 21 (placed and lifted on notice), EPR article 36 (lapses after two years, may be
extended once by a year, lifted only by who placed it). What the rules forbid is recorded and changes nothing: a
notice that came through the feed must not hold up those behind it, and replicas must end alike, whenever they read
it. So no rule here asks what time it is now; a person's command does, before it comes here.
"""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from lookupd.errors import LookupdError
from lookupd.limits import RESTRICTION_EXTENSION_YEARS, RESTRICTION_YEARS, RESTRICTIONS_PER_BLOCK_MAX
from lookupd.model import (
    TN,
    JournalKind,
    Notice,
    NoticeKind,
    Restriction,
    RestrictionTerms,
    Target,
    UnixSeconds,
)
from lookupd.store import restricting
from lookupd.store.change import Change, Counts
from lookupd.units import format_time

_END_OF_TIME = UnixSeconds((1 << 32) - 1)


class Forbidden(LookupdError):
    """The rules do not allow it; the words say why."""


def after(
    known: Restriction | None, kind: NoticeKind, terms: RestrictionTerms, notified_at: UnixSeconds
) -> Restriction | None:
    """What becomes of a restriction; None = it is gone. known: the one of the same target, authority and case.

    Raises Forbidden.
    """
    match kind:
        case NoticeKind.RESTRICT:
            return _placed(known, terms, notified_at)
        case NoticeKind.EXTEND:
            return _extended(known, terms, notified_at)
    if known is None:
        raise Forbidden(f"{terms.authority} has no restriction here in case {terms.case}: only who placed one lifts it")
    return None


def _placed(known: Restriction | None, terms: RestrictionTerms, notified_at: UnixSeconds) -> Restriction:
    """Said again, the later word holds. The time that is allowed counts from where it began, so that cannot move on."""
    assert terms.measure is not None
    begins_at = terms.begins_at
    if begins_at is None:
        begins_at = notified_at if known is None else known.begins_at
    if known is not None and begins_at > known.begins_at:
        raise Forbidden(
            f"it began at {format_time(known.begins_at)}, and cannot begin later: lift it, and place another"
        )
    longest = _years_later(begins_at, RESTRICTION_YEARS)
    if known is not None and known.extended:
        longest = max(longest, known.until)
    until = longest if terms.until is None else terms.until
    if until <= begins_at:
        raise Forbidden("until is not after from: it would never be in force")
    if until > longest:
        raise Forbidden(f"until is more than {RESTRICTION_YEARS} years after from: extend it when that time ends")
    extended = known is not None and known.extended
    return Restriction(
        terms.target, terms.first, terms.last, terms.authority, terms.case, terms.measure, begins_at, until, extended
    )


def check_time(restriction: Restriction) -> None:
    """Of one that another store has: its time is one that the rules could lead to. Raises Forbidden."""
    longest = _years_later(restriction.begins_at, RESTRICTION_YEARS)
    if restriction.extended:
        longest = _years_later(longest, RESTRICTION_EXTENSION_YEARS)
    if restriction.until <= restriction.begins_at:
        raise Forbidden("until is not after from: it would never be in force")
    if restriction.until > longest:
        raise Forbidden(f"until is after {format_time(longest)}, the last moment that is allowed with its from")


def _extended(known: Restriction | None, terms: RestrictionTerms, notified_at: UnixSeconds) -> Restriction:
    if known is None:
        raise Forbidden(f"{terms.authority} has no restriction here in case {terms.case} that could be extended")
    if known.until <= notified_at:
        raise Forbidden(
            f"it lapsed at {format_time(known.until)}: only one that has not can be extended; place another"
        )
    if known.extended:
        raise Forbidden("it was extended before: once is what is allowed")
    longest = _years_later(known.until, RESTRICTION_EXTENSION_YEARS)
    until = longest if terms.until is None else terms.until
    if until <= known.until:
        raise Forbidden("until is not after the moment at which it lapses already")
    if until > longest:
        raise Forbidden(f"until is more than {RESTRICTION_EXTENSION_YEARS} year after the moment at which it lapses")
    return msgspec.structs.replace(known, until=until, extended=True)


def _years_later(moment: UnixSeconds, years: int) -> UnixSeconds:
    """The same day and time, so many years on; of 29 February, the last of that month."""
    day = datetime.fromtimestamp(moment, UTC)
    try:
        later = day.replace(year=day.year + years)
    except ValueError:
        later = day.replace(year=day.year + years, day=28)
    return min(UnixSeconds(int(later.timestamp())), _END_OF_TIME)


# -- in a transaction ------------------------------------------------------------------------------------


def apply_restriction(change: Change, notice: Notice, feed: str, sequence: int, line: int) -> None:
    """Do what a notice OF_RESTRICTIONS of a feed says, and journal it; or journal why it was refused."""
    try:
        kind, kept = change_restriction(change, notice)
        reason = None
    except Forbidden as error:
        kind, kept, reason = JournalKind.REFUSED, None, str(error)
    _record(change, kind, notice, kept, feed=feed, sequence=sequence, line=line, reason=reason)


def restrict_by_hand(change: Change, notice: Notice, words: str) -> Restriction:
    """The same on a person's word, "who: why"; returns what was placed, extended or lifted. Raises Forbidden."""
    kind, kept = change_restriction(change, notice)
    _record(change, kind, notice, kept, reason=words)
    return kept


def change_restriction(change: Change, notice: Notice) -> tuple[JournalKind, Restriction]:
    """Change the store; the entry that is due, and what it is to keep. Raises Forbidden: nothing was changed."""
    terms = notice.restriction
    assert terms is not None
    known = restricting.known(change, terms.target, terms.first, terms.last, terms.authority, terms.case)
    found = after(known, notice.kind, terms, notice.notified_at)
    if found is not None:
        check_room(change, found, notice.notified_at)
    if found is None:
        assert known is not None
        restricting.delete(change, known)
        return JournalKind.LIFT, known
    restricting.put(change, found)
    return JournalKind(notice.kind.value), found


def check_room(change: Change, restriction: Restriction, moment: UnixSeconds) -> None:
    """Of each thousand numbers, no more than an answer can look through. Raises Forbidden."""
    block = restricting.full_block(change, restriction, moment)
    if block is not None:
        raise no_room(block)


def no_room(block: int) -> Forbidden:
    """Why one more is not taken."""
    return Forbidden(
        f"{RESTRICTIONS_PER_BLOCK_MAX} restrictions reach into +{block}000 to +{block}999 that have not lapsed: "
        "that is all there can be; lift some, or wait until some have lapsed"
    )


def _record(change: Change, kind: JournalKind, notice: Notice, kept: Restriction | None, **fields: object) -> None:
    terms = notice.restriction
    assert terms is not None
    numbers = {"tn": TN(terms.first), "tn_to": TN(terms.last)} if terms.target is Target.NUMBER else {}
    change.record(
        kind,
        Counts(),
        notified_at=notice.notified_at,
        ref=notice.ref,
        restriction=kept,
        **numbers,
        **fields,
    )
