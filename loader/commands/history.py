"""Commands on the journal: read it, export it, prove it, prune it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from loader.commands.common import (
    EXISTING,
    ShowByDefault,
    Target,
    fail,
    moment,
    on_store,
    open_writer,
    parse_word,
    print_result,
    unix_now,
)
from lookupd.errors import LookupdError, Stale, StoreError
from lookupd.model import TN, JournalKind, UnixSeconds

if TYPE_CHECKING:
    from lookupd.journal_view import Found
    from lookupd.store.reader import Reader
    from lookupd.store.schema import Anchor

NEWEST_SHOWN = 20
"""Entries shown when nothing was asked for in particular."""


@click.group("journal", cls=ShowByDefault)
def journal() -> None:
    """Read the journal of changes, export it, prove it, prune it.

    Without a subcommand, NUMBER or the options of `show` are taken as `journal show`.

    \b
    Examples: lookupd-loader journal 0912345678 --store /var/lib/lookupd/a
              lookupd-loader journal --since 2026-03-01T00:00:00+08:00 --config /etc/lookupd/a.toml
              lookupd-loader journal verify --store /var/lib/lookupd/a
    """


@journal.command()
@click.argument("number", required=False)
@click.option("--since", callback=moment, metavar="TIME", help="From the first change at or after this RFC 3339 time.")
@click.option("--serial", type=click.IntRange(min=1), help="The change with this serial, such as a report names it.")
@click.option("--ref", help="Only changes with this reference of the sender.")
@click.option("--kind", type=click.Choice([kind.value for kind in JournalKind]), help="Only changes of this kind.")
@click.option("--limit", type=click.IntRange(min=1), help="At most so many entries.")
@on_store
def show(
    target: Target,
    number: str | None,
    since: UnixSeconds | None,
    serial: int | None,
    ref: str | None,
    kind: str | None,
    limit: int | None,
) -> None:
    """Show changes: of NUMBER, newest first; or since a time or with a reference, oldest first.

    With neither, the newest 20. With --json one object a line, with all fields.

    \b
    Examples: lookupd-loader journal show 0912345678 --store /var/lib/lookupd/a
              lookupd-loader journal show --ref A-20260301-17 --json --store /var/lib/lookupd/a
    """
    from lookupd.journal_view import entry_fields, entry_line, receipt_of, states_around
    from lookupd.store.reader import Reader

    if serial is not None and any(other is not None for other in (number, since, ref, kind, limit)):
        raise click.UsageError("--serial: names one change: leave the others out")
    with Reader(target.path, map_size=target.map_size) as reader:
        tn = None if number is None else _read_number(target, number)
        asked = _asked(reader, tn, since, ref) if serial is None else _one(reader, serial)
        found = (entry for entry in asked if kind is None or entry[2].kind == kind)
        if limit is None and number is None and since is None and ref is None:
            limit = NEWEST_SHOWN
        shown = 0
        for at, stored, entry in islice(found, limit):
            fields = entry_fields(at, stored, entry, receipt_of(reader, at))
            if tn is not None:
                fields |= states_around(reader, at, tn)
            click.echo(json.dumps(fields, ensure_ascii=False) if target.as_json else entry_line(fields))
            shown += 1
        if not shown and not target.as_json:
            click.echo("no entries", err=True)


def _read_number(target: Target, number: str) -> TN:
    tn = target.plan.read_text(number)
    if tn is None:
        raise click.UsageError(f"{number[:40]!r} is no number in the plan of +{target.plan.country_code}")
    return tn


def _one(reader: Reader, serial: int) -> Iterator[Found]:
    """Raises StoreError if it is not there any more, or not yet."""
    from lookupd.journal_view import newest_entries

    anchor = reader.anchor()
    oldest = 1 if anchor is None else anchor.serial + 1
    if not oldest <= serial <= reader.state.serial:
        raise StoreError(f"serial {serial}: the journal has those from {oldest} to {reader.state.serial}")
    return islice(newest_entries(reader, serial), 1)


def _asked(reader: Reader, tn: TN | None, since: UnixSeconds | None, ref: str | None) -> Iterator[Found]:
    from lookupd.journal_view import entries_since, newest_entries, number_entries
    from lookupd.store.history import first_since

    first = 0 if since is None else first_since(reader, since)
    if tn is not None:
        found = number_entries(reader, tn)
        return (entry for entry in found if entry[0] >= first and (ref is None or entry[2].ref == ref))
    return newest_entries(reader) if since is None and ref is None else entries_since(reader, first, ref)


@journal.command()
@click.option("--out", type=EXISTING, required=True, help="File to write; compressed if its name ends in .zst.")
@click.option("--since", callback=moment, metavar="TIME", help="From the first change at or after this RFC 3339 time.")
@on_store
def export(target: Target, out: Path, since: UnixSeconds | None) -> None:
    """Write the journal as NDJSON that proves itself: entries as hashed, old states, table rows, receipts.

    Runs beside a daemon and a loader. The file appears under its name when it is whole.

    \b
    Example: lookupd-loader journal export --out journal.ndjson.zst --store /var/lib/lookupd/a
    """
    from loader.export import export as export_journal
    from loader.progress import CommandProgress
    from lookupd.store.reader import Reader

    with Reader(target.path, map_size=target.map_size) as reader, CommandProgress("journal") as progress:
        exported = export_journal(reader, out, since, progress.stage("export", None))
    print_result(target, exported, str(out))


@journal.command()
@click.argument("file", type=EXISTING, required=False)
@click.option("--config", type=EXISTING, help="Configuration file that names the store.")
@click.option("--store", type=EXISTING, help="Folder of the store, when there is no configuration file.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def verify(file: Path | None, config: Path | None, store: Path | None, as_json: bool) -> None:
    """Prove the store's journal: its chain from the anchor to the newest entry, and all that lies beside it.

    With FILE, prove that export from itself alone. Exit code 6 if anything is wrong.

    \b
    Examples: lookupd-loader journal verify --store /var/lib/lookupd/a
              lookupd-loader journal verify journal.ndjson.zst
    """
    if file is None:
        verify_store: Callable[..., None] = on_store(_verify_store)
        verify_store(config=config, store=store, country="886", as_json=as_json)
        return
    if config is not None or store is not None:
        raise click.UsageError("an export is proven from itself alone: leave --store and --config out")
    from loader.export import verify_export
    from loader.progress import CommandProgress

    try:
        with CommandProgress("journal") as progress:
            proven = verify_export(file, progress.stage("verify", None))
    except LookupdError as error:
        fail(error, as_json)
    if as_json:
        click.echo(json.dumps({"result": "whole"} | msgspec.structs.asdict(proven)))
    else:
        click.echo(
            f"{file}: whole: entries={proven.entries} from {proven.first_serial} to {proven.last_serial}, "
            f"the last of hash {proven.hash}"
        )


def _verify_store(target: Target) -> None:
    from lookupd.store.reader import Reader
    from lookupd.store.verify import verify_history
    from lookupd.units import format_time

    with Reader(target.path, map_size=target.map_size) as reader:
        report = verify_history(reader)
        head = reader.state.journal_head.hex()
        anchor = None if report.problem_count else reader.anchor()
    if target.as_json:
        found = {name: getattr(report, name) for name in ("journal_entries", "problem_count", "problems")}
        result = "broken" if report.problem_count else "whole"
        click.echo(json.dumps({"result": result, "hash": head, "anchor": _anchor_fields(anchor)} | found))
    else:
        for problem in report.problems:
            click.echo(f"problem: {problem}")
        since = "" if anchor is None else f", after serial {anchor.serial} of {format_time(anchor.applied_at)}"
        click.echo(
            f"{target.path}: {report.problem_count or 'no'} problems: journal={report.journal_entries}{since}, "
            f"the last of hash {head}"
        )
    if report.problem_count:
        raise click.exceptions.Exit(Stale.exit_code)


def _anchor_fields(anchor: Anchor | None) -> dict[str, Any] | None:
    from lookupd.units import format_time

    if anchor is None:
        return None
    fields = msgspec.structs.asdict(anchor) | {"hash": anchor.hash.hex()}
    return fields | {name: format_time(fields[name]) for name in ("applied_at", "pruned_at")}


@journal.command()
@click.option(
    "--before", callback=moment, metavar="TIME", required=True, help="Entries from before this RFC 3339 time go."
)
@click.option("--sign-off", required=True, metavar='"WHO: WHY"', help="On whose word; the journal keeps it.")
@on_store
def prune(target: Target, before: UnixSeconds, sign_off: str) -> None:
    """Take out entries that are older than the law wants, and leave an anchor that the chain begins with.

    Never any younger than limits.history, 184 days at least. Export them first: they cannot be brought back.

    \b
    Example: lookupd-loader journal prune --before 2026-01-01T00:00:00Z --sign-off "chen: retention 2026" \\
               --config /etc/lookupd/a.toml
    """
    from loader.progress import CommandProgress
    from lookupd.store.prune import prune as prune_store
    from lookupd.units import format_time

    words = parse_word("--sign-off", sign_off)
    with open_writer(target) as writer, CommandProgress("journal") as progress:
        advance = progress.stage("prune", None)
        pruned = prune_store(writer, before, unix_now(), target.limits.history, words, advance)
    anchor = pruned.anchor
    if target.as_json:
        result = {"entries": pruned.entries, "rows": pruned.rows, "anchor": _anchor_fields(anchor)}
        click.echo(json.dumps({"result": "pruned" if pruned.entries else "unchanged"} | result))
        return
    kept = "nothing was ever pruned"
    if anchor is not None:
        kept = f"the history begins after serial {anchor.serial} of {format_time(anchor.applied_at)}"
    click.echo(f"{target.path}: entries={pruned.entries} rows={pruned.rows}: {kept}")
