"""Commands on restrictions: place, extend and lift one by hand, list them, load a whole list.

What the rules allow is `loader.restrict`'s. Here the moment counts: what would not be in force is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from loader.commands.common import (
    EXISTING,
    Command,
    ShowByDefault,
    Target,
    moment,
    on_store,
    open_writer,
    parse_word,
    print_result,
)
from loader.commands.reconcile import open_reader
from lookupd.limits import TABLES_SECONDS
from lookupd.model import TN, Measure, NoticeKind, Restriction, UnixSeconds
from lookupd.units import format_time

if TYPE_CHECKING:
    from lookupd.model import RestrictionTerms
    from lookupd.store.reader import Reader

_DONE = {NoticeKind.RESTRICT: "restricted", NoticeKind.EXTEND: "extended", NoticeKind.LIFT: "lifted"}
_until = click.option("--until", callback=moment, metavar="TIME", help="Until this RFC 3339 time.  [default: longest]")


def _on_one(command: Command) -> Command:
    """The options that say which restriction is meant, and on whose word."""
    for option in (
        click.option("--why", required=True, metavar='"WHO: WHY"', help="On whose word; the journal keeps it."),
        click.option("--case", required=True, help="The authority's case number."),
        click.option("--authority", required=True, help="Who ordered it."),
        click.option("--to", metavar="NUMBER|IMSI", help="The last of a range, of the same kind and length."),
        click.option("--imsi", help="Instead of NUMBER: 14 or 15 digits."),
        click.argument("number", required=False),
    ):
        command = option(command)
    return command


@click.command()
@_on_one
@click.option(
    "--measure",
    type=click.Choice([each.label for each in Measure]),
    default=Measure.STOP.label,
    show_default=True,
    help="What is ordered.",
)
@click.option("--from", "from_", callback=moment, metavar="TIME", help="From this RFC 3339 time on.  [default: now]")
@_until
@on_store
def restrict(
    target: Target, measure: str, from_: UnixSeconds | None, until: UnixSeconds | None, **meant: str | None
) -> None:
    """Restrict NUMBER, or an IMSI, as an authority orders in a case; at most two years from its begin.

    Said again for the same authority and case, the later word holds. The other replica does not hear of it: carry
    out the same there, with the same --from.

    \b
    Examples: lookupd-loader restrict 0912345678 --authority NPA --case A-17 \\
                  --why "Wu Mei: order by fax, 22 November" --store /var/lib/lookupd/a
              lookupd-loader restrict --imsi 466010000000000 --to 466010000009999 --authority NCC --case 8 \\
                  --measure no_roaming --why "Wu Mei: order NCC 8" --config /etc/lookupd/a.toml
    """
    _carry_out(target, NoticeKind.RESTRICT, meant, (measure, from_, until))


@click.command()
@_on_one
@_until
@on_store
def extend(target: Target, until: UnixSeconds | None, **meant: str | None) -> None:
    """Extend a restriction that is in force, once, by a year at most.

    \b
    Example: lookupd-loader extend 0912345678 --authority NPA --case A-17 \\
                 --why "Wu Mei: court order 12, ticket 88" --store /var/lib/lookupd/a
    """
    _carry_out(target, NoticeKind.EXTEND, meant, (None, None, until))


@click.command()
@_on_one
@on_store
def lift(target: Target, **meant: str | None) -> None:
    """Lift a restriction on the word of the authority that placed it; those of other cases stay.

    \b
    Example: lookupd-loader lift 0912345678 --authority NPA --case A-17 \\
                 --why "Wu Mei: NPA letter of 3 March" --store /var/lib/lookupd/a
    """
    _carry_out(target, NoticeKind.LIFT, meant, (None, None, None))


def _carry_out(
    target: Target,
    kind: NoticeKind,
    meant: dict[str, str | None],
    terms: tuple[str | None, UnixSeconds | None, UnixSeconds | None],
) -> None:
    """In one transaction; the store is as before when anything is refused."""
    from loader.formats.restrictions import parse_measure
    from loader.restrict import Forbidden, restrict_by_hand
    from lookupd.model import Notice
    from lookupd.model import Target as On

    named, notes = _read_terms(target, meant)
    measure, begins_at, until = terms
    words, now = parse_word("--why", str(meant["why"])), target.now()
    if until is not None and until <= now:
        raise click.UsageError(f"--until {format_time(until)}: that is in the past: it would never be in force")
    asked = msgspec.structs.replace(
        named, measure=None if measure is None else parse_measure(measure), begins_at=begins_at, until=until
    )
    ends = (TN(asked.first), TN(asked.last)) if asked.target is On.NUMBER else (TN(0), TN(0))
    notice = Notice(kind, *ends, None, None, None, now, None, None, asked)
    with open_writer(target) as writer, writer.change(now) as change:
        try:
            kept = restrict_by_hand(change, notice, words)
        except Forbidden as error:
            raise Forbidden(f"{error}; the store is unchanged") from None
        if kind is NoticeKind.RESTRICT and kept.until <= now:
            raise click.UsageError(f"--from: it would have lapsed at {format_time(kept.until)}")
    if target.peer.peer:
        begin = f", with --from {format_time(kept.begins_at)}" if kind is NoticeKind.RESTRICT else ""
        notes.append(f"the peer is not told by this: carry out the same there within {TABLES_SECONDS:.0f} s{begin}")
    _tell(target, kind, kept, change.serial, notes)


def _read_terms(target: Target, meant: dict[str, str | None]) -> tuple[RestrictionTerms, list[str]]:
    """Which restriction is meant, and what a person should know of its numbers. Raises UsageError."""
    from loader.formats.restrictions import parse_target, parse_words
    from loader.validate import check_one_kind
    from lookupd.model import RestrictionTerms
    from lookupd.model import Target as On

    number, imsi, to = meant["number"], meant["imsi"], meant["to"]
    if (number is None) == (imsi is None):
        raise click.UsageError("name a NUMBER, or --imsi")
    try:
        if number is not None:
            to = None if to is None else _digits(target, to)
            on, first, last = parse_target(_digits(target, number), to, None, None)
        else:
            on, first, last = parse_target(None, None, imsi, to)
        if on is On.NUMBER:
            check_one_kind(TN(first), TN(last), target.plan)
        authority, case = (parse_words(name, meant[name]) for name in ("authority", "case"))
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    notes = []
    if on is On.NUMBER and target.plan.kind(TN(first)) is None:
        notes.append(f"the plan of +{target.plan.country_code} has no such number: it holds if it is allocated later")
    return RestrictionTerms(on, first, last, authority, case), notes


def _digits(target: Target, text: str) -> str:
    """A number as a person writes it. Raises UsageError."""
    tn = target.plan.read_text(text)
    if tn is None:
        raise click.UsageError(f"{text[:40]!r} is no number of 5 to 15 digits: write + before a country code")
    return str(tn)


def _tell(target: Target, kind: NoticeKind, kept: Restriction, serial: int, notes: list[str]) -> None:
    from lookupd.restriction_view import restriction_view, restriction_words, target_words

    fields = restriction_view(kept)
    if target.as_json:
        click.echo(json.dumps({"result": _DONE[kind], "serial": serial, "notes": notes, "restriction": fields}))
        return
    for note in notes:
        click.echo(f"note: {note}")
    click.echo(f"{target_words(fields)} {_DONE[kind]}: {restriction_words(fields)} serial={serial}")


# -- lists -----------------------------------------------------------------------------------------------


@click.group("restrictions", cls=ShowByDefault)
def restrictions() -> None:
    """List restrictions, or load a list of another replica.

    Without a subcommand, NUMBER or the options of `show` are taken as `restrictions show`.

    \b
    Examples: lookupd-loader restrictions --store /var/lib/lookupd/a
              lookupd-loader restrictions 0912345678 --lapsed --store /var/lib/lookupd/a
              lookupd-loader restrictions load list.csv --why "Wu Mei: new replica b" --store /var/lib/lookupd/b
    """


@restrictions.command()
@click.argument("number", required=False)
@click.option("--imsi", help="Those of an IMSI.")
@click.option("--authority", help="Those that an authority placed.")
@click.option("--lapsed", is_flag=True, help="Those that have lapsed, too.")
@click.option("--csv", type=EXISTING, metavar="FILE", help="Write them to this file, for `restrictions load`.")
@on_store
def show(
    target: Target, number: str | None, imsi: str | None, authority: str | None, lapsed: bool, csv: Path | None
) -> None:
    """Show restrictions that are in force or will be: all, or those of NUMBER, of an IMSI, of an authority.

    With --json one object a line. Runs beside a daemon and a loader.

    \b
    Examples: lookupd-loader restrictions show 0912345678 --store /var/lib/lookupd/a
              lookupd-loader restrictions show --authority NPA --json --store /var/lib/lookupd/a
              lookupd-loader restrictions show --lapsed --csv list.csv --store /var/lib/lookupd/a
    """
    from loader.restriction_list import write_list

    if number is not None and imsi is not None:
        raise click.UsageError("name a NUMBER or --imsi, not both")
    now = target.now()
    with open_reader(target) as reader:
        found = (
            it
            for it in _asked(target, reader, number, imsi)
            if (lapsed or it.until > now) and authority in {None, it.authority}
        )
        if csv is None:
            _print_list(target, found, now)
            return
        rows = write_list(csv, found)
    if target.as_json:
        click.echo(json.dumps({"result": "written", "file": str(csv), "rows": rows}))
    else:
        click.echo(f"{csv}: rows={rows}")


def _asked(target: Target, reader: Reader, number: str | None, imsi: str | None) -> Iterator[Restriction]:
    """Raises UsageError."""
    from loader.formats.restrictions import parse_imsi

    if number is not None:
        return iter(reader.restrictions(TN(int(_digits(target, number)))))
    if imsi is None:
        return reader.every_restriction()
    try:
        return iter(reader.imsi_restrictions(parse_imsi("imsi", imsi)))
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def _print_list(target: Target, found: Iterator[Restriction], now: UnixSeconds) -> None:
    from lookupd.restriction_view import restriction_view, restriction_words, target_words

    shown = 0
    for restriction in found:
        fields = restriction_view(restriction, now)
        if target.as_json:
            click.echo(json.dumps(fields, ensure_ascii=False))
        else:
            click.echo(f"{target_words(fields)} {restriction_words(fields)}")
        shown += 1
    if not shown and not target.as_json:
        click.echo("no restrictions", err=True)


@restrictions.command()
@click.argument("file", type=EXISTING)
@click.option("--why", required=True, metavar='"WHO: WHY"', help="On whose word; the journal keeps it.")
@on_store
def load(target: Target, file: Path, why: str) -> None:
    """Place a whole list at once, as `restrictions show --lapsed --csv FILE` wrote it: all of it, or nothing.

    For a replica that begins from a snapshot, which has no restrictions. What is there already stays; one that
    is there and says something else is an error.

    \b
    Example: lookupd-loader restrictions load list.csv --why "Wu Mei: new replica b" --store /var/lib/lookupd/b
    """
    from loader.restriction_list import place_list, read_list

    words = parse_word("--why", why)
    listed = read_list(file, target.plan)
    with open_writer(target) as writer, writer.change(target.now()) as change:
        done = place_list(change, file, listed, words)
    print_result(target, done, str(file))
