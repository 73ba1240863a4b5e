"""Commands that hold a file against the store: reconcile, which may mend, and diff."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click
import msgspec

from loader.commands.common import EXISTING, Target, on_store, open_writer, parse_word, unix_now
from loader.commands.regulator import TIME_ZONE, check_network, find_month, find_time_zone
from lookupd.errors import FeedError, Stale

if TYPE_CHECKING:
    from loader.corrections import Repaired
    from loader.differences import Told
    from loader.files import FeedFile
    from loader.preview import Change, Preview
    from loader.progress import CommandProgress
    from loader.reconcile import Read, Reconciled
    from lookupd.periods import Period
    from lookupd.store.reader import Reader

REPORT = click.option("--report", type=EXISTING, metavar="FILE.csv", help="Write every difference to this file.")
SHOW_NUMBERS = click.option("--show-numbers", is_flag=True, help="Whole numbers on the terminal, not masked.")
FEED = click.option("--feed", help="Feed that the file must belong to (default: the one configured, or main).")


@click.command()
@click.argument("file", type=EXISTING)
@click.option("--repair", is_flag=True, help="Correct what differs, as journalled corrections.")
@click.option("--reason", metavar='"WHO: WHY"', help="With --repair: who takes it on, and why.")
@click.option("--month", metavar="YYYY-MM", help="The file has what came in this month; compare only that.")
@click.option("--network", metavar="CODE", help="With --month: what came to this operator.  [default: to any]")
@TIME_ZONE
@REPORT
@SHOW_NUMBERS
@FEED
@on_store
def reconcile(
    target: Target,
    file: Path,
    repair: bool,
    reason: str | None,
    month: str | None,
    network: str | None,
    time_zone: str | None,
    report: Path | None,
    show_numbers: bool,
    feed: str | None,
) -> None:
    """Compare a snapshot, or a monthly list of numbers, with the store. Exit code 6 if they differ.

    A manifest beside the file is checked; without one the file is taken as it is. Only the columns that the
    file has are compared. Runs beside a daemon and a loader. With --repair, numbers whose state is still the
    one compared become the file's; then it compares again, and the exit code tells of that.

    With --month the file is an exchange file of `report month`, ours or another operator's: it is compared with the
    store as it was at the month's end, over the numbers that are in the file or came in that month. A repair then
    takes no number away, and leaves those that changed since.

    \b
    Examples: lookupd-loader reconcile monthly-2026-10.csv --store /var/lib/lookupd/a --report october.csv
              lookupd-loader reconcile monthly-2026-10.csv --config /etc/lookupd/a.toml \\
                  --repair --reason "Wu Mei: clearinghouse confirmed the October list, ticket 4711"
              lookupd-loader reconcile ported-in-2026-10-1402.csv --month 2026-10 --network 1402 \\
                  --config /etc/lookupd/a.toml
    """
    from loader.progress import CommandProgress

    if repair != (reason is not None):
        raise click.UsageError('--repair goes with --reason "who: why"')
    if month is None and not (network is None and time_zone is None):
        raise click.UsageError("--network and --time-zone go with --month YYYY-MM")
    words = None if reason is None else parse_word("--reason", reason)
    found = _identify(target, file, "snapshot", feed, strict=repair)
    scope = None if month is None else _Scope(find_month(month, find_time_zone(target, time_zone)[1]), network)
    with CommandProgress("reconcile") as progress:
        if words is None:
            with open_reader(target) as reader:
                _, result, told, _ = _compare(target, reader, found, progress, report, False, scope)
            _print(target, result, told, show_numbers, report, None)
        else:
            _repair(target, found, words, progress, report, show_numbers, scope)
            return
    if result.result != "equal":
        sys.exit(Stale.exit_code)


class _Scope(NamedTuple):
    """Of `--month`."""

    month: Period
    network: str | None


def _repair(
    target: Target,
    found: FeedFile,
    words: str,
    progress: CommandProgress,
    report: Path | None,
    show_numbers: bool,
    scope: _Scope | None,
) -> None:
    """Compare, mend, compare again; the exit code is that of the second comparison. Of a month, the second one is with
    the store as it is now: its end is past, and stays as it was."""
    from loader import corrections
    from loader.regulator.month_compare import without_extra
    from lookupd.store import compare as store_compare

    with open_writer(target) as writer, writer.reader() as reader:
        read, before, told, parts = _compare(target, reader, found, progress, report, True, scope)
        corrections.refuse_damaged(before.damaged_blocks)
        differences = store_compare.joined(parts)
        if scope is not None:
            differences = without_extra(differences)
        done = corrections.repair(writer, read, differences, words, target.now())
        reader.pin()
        read = read.moved_to(reader.route_records())
        after = _compare_read(reader, read, progress, lambda _: None, scope, is_now=True)
    _print(target, before, told, show_numbers, report, (done, after))
    if after.result != "equal":
        sys.exit(Stale.exit_code)


def _compare(
    target: Target,
    reader: Reader,
    found: FeedFile,
    progress: CommandProgress,
    report: Path | None,
    keep: bool,
    scope: _Scope | None = None,
) -> tuple[Read, Reconciled, Told, list[Any]]:
    """keep: the differences too, for a repair."""
    from loader.differences import Told, report_file
    from loader.memory import keep_freed_memory
    from loader.reconcile import read_file

    keep_freed_memory()
    parts: list[Any] = []
    read = read_file(found, target.plan, reader, progress)
    with report_file(report) as rows:
        told = Told(read.routes.records, rows)

        def take(differences: Any) -> None:
            told.add(differences)
            if keep:
                parts.append(differences)

        result = _compare_read(reader, read, progress, take, scope)
    return read, result, told, parts


def _compare_read(
    reader: Reader,
    read: Read,
    progress: CommandProgress,
    sink: Callable[[Any], None],
    scope: _Scope | None,
    *,
    is_now: bool = False,
) -> Reconciled:
    """is_now: with the newest state, though a month's end is past."""
    from loader.reconcile import compare
    from loader.regulator.month import ported_in
    from loader.regulator.month_compare import compare_month

    if scope is None:
        return compare(reader, read, progress, sink)
    check_network(reader, scope.network)
    advance = progress.stage("journal", reader.state.serial)
    came = ported_in(reader, scope.month, scope.network, unix_now(), advance)
    for lack in came.missing:
        click.echo(f"warning: {scope.month.name}: {lack.what}: {lack.reason}", err=True)
    if is_now:
        came = msgspec.structs.replace(came, end_serial=reader.state.serial)
    result, differences = compare_month(reader, read, came, progress.stage("compare", None))
    if len(differences):
        sink(differences)
    return result


def _print(
    target: Target,
    result: Reconciled,
    told: Told,
    show_numbers: bool,
    report: Path | None,
    repaired: tuple[Repaired, Reconciled] | None,
) -> None:
    from loader.differences import shown

    if target.as_json:
        reply = msgspec.to_builtins(result) | {"report": None if report is None else str(report)}
        if repaired is not None:
            reply |= {"repair": msgspec.to_builtins(repaired[0]), "after": msgspec.to_builtins(repaired[1])}
        click.echo(json.dumps(reply))
        return
    click.echo(_line(result))
    for row in result.by_network:
        click.echo(
            f"  {row.network_code:8} in_store={row.in_store} in_file={row.in_file} missing={row.missing} "
            f"extra={row.extra} from_here={row.from_here} to_here={row.to_here}"
        )
    for line in _remarks(result):
        click.echo(f"note: {line}")
    for difference in told.first:
        number = shown(difference.tn, show_numbers)
        click.echo(f"  {number} {difference.kind}: store {difference.old}; file {difference.new}")
    if result.differs > len(told.first):
        more = f"all of them are in {report}" if report else "--report FILE.csv writes all of them"
        click.echo(f"  and {result.differs - len(told.first)} more: {more}")
    if repaired is not None:
        done, after = repaired
        fields = " ".join(f"{name}={value}" for name, value in msgspec.structs.asdict(done).items() if value != 0)
        click.echo(f"repaired: {fields}")
        click.echo(f"compared again: {_line(after)}")


def _line(result: Reconciled) -> str:
    return (
        f"{result.file}: {result.result}: in_store={result.in_store} in_file={result.in_file} "
        f"missing={result.missing} extra={result.extra} route={result.route} details={result.details} "
        f"serial={result.serial} digest={result.digest}"
    )


def _remarks(result: Reconciled) -> Iterator[str]:
    if result.file_sequence is not None and result.file_sequence != result.store_sequence:
        yield (
            f"the file is of position {result.file_sequence}, the store is at {result.store_sequence}: "
            "what changed between the two counts as a difference"
        )
    left_out = [name for name in ("routing_number", "donor", "ported_at") if name not in result.compared]
    if left_out:
        yield f"the file has no {', '.join(left_out)}: not compared"
    if result.unknown_networks:
        codes = ", ".join(result.unknown_networks[:10])
        yield f"networks of the file that the networks table does not have: {codes}: their numbers differ"
    if result.damaged_blocks:
        yield f"{result.damaged_blocks} blocks are damaged, their numbers count as missing: see lookupd-loader verify"


# -- diff ------------------------------------------------------------------------------------------------


@click.command()
@click.argument("file", type=EXISTING)
@REPORT
@SHOW_NUMBERS
@FEED
@on_store
def diff(target: Target, file: Path, report: Path | None, show_numbers: bool, feed: str | None) -> None:
    """Show what a snapshot or a delta would change, and change nothing. Exit code 0 whatever that is.

    \b
    Examples: lookupd-loader diff snapshot-main-9.csv.zst --store /var/lib/lookupd/a
              lookupd-loader diff delta-main-10.ndjson --config /etc/lookupd/a.toml --report changes.csv
    """
    from loader.progress import CommandProgress

    with CommandProgress("diff") as progress, open_reader(target) as reader:
        if ".ndjson" in file.suffixes:
            found = _identify(target, file, "delta", feed, strict=False)
            _diff_delta(target, reader, found, progress, report, show_numbers)
            return
        found = _identify(target, file, "snapshot", feed, strict=False)
        _, result, told, _ = _compare(target, reader, found, progress, report, False)
    _print(target, result, told, show_numbers, report, None)


def _diff_delta(
    target: Target,
    reader: Reader,
    found: FeedFile,
    progress: CommandProgress,
    report: Path | None,
    show_numbers: bool,
) -> None:
    from loader import preview
    from loader.differences import report_file
    from lookupd.limits import DIFFERENCES_SHOWN

    notices = preview.read(found, target.plan, reader, progress)
    result = preview.preview(reader, found, notices)
    first: list[Change] = []
    with report_file(report, preview.HEADER) as rows:
        for change in preview.changes(reader, notices, unix_now(), result):
            if len(first) < DIFFERENCES_SHOWN:
                first.append(change)
            if rows is not None:
                sides = (*msgspec.structs.astuple(change.old), *msgspec.structs.astuple(change.new))
                rows.writerow(
                    (
                        change.line,
                        change.kind,
                        change.tn or None,
                        change.tn_to or None,
                        change.effective_at,
                        change.waits,
                        *sides,
                        change.imsi,
                        change.imsi_to,
                        change.restriction,
                    )
                )
    if target.as_json:
        click.echo(json.dumps(msgspec.to_builtins(result) | {"report": None if report is None else str(report)}))
    else:
        _print_delta(result, first, show_numbers, report)


def _print_delta(result: Preview, first: list[Change], show_numbers: bool, report: Path | None) -> None:
    orders = {
        "next": "can be applied now",
        "duplicate": "is applied already",
        "contained": "is older than the store, its changes are contained",
        "gap": "cannot be applied yet, deltas before it are missing",
    }
    click.echo(
        f"{result.file}: {orders[result.order]} (store at {result.store_sequence}): notices={result.notices} "
        f"added={result.added} removed={result.removed} changed={result.changed} unchanged={result.unchanged} "
        f"waiting_notices={result.waiting_notices} waiting_numbers={result.waiting_numbers}"
        + (f" restrictions={result.restrictions}" if result.restrictions else "")
    )
    for change in first:
        moment = f" at {change.effective_at}" if change.waits else ""
        click.echo(
            f"  line {change.line}: {change.kind} {_of_what(change, show_numbers)}{moment}: "
            + (change.restriction or f"{change.old} -> {change.new}")
        )
    if result.notices > len(first):
        click.echo("  and more: " + (f"all are in {report}" if report else "--report FILE.csv writes all of them"))


def _of_what(change: Change, show_numbers: bool) -> str:
    from loader.differences import shown
    from lookupd.restriction_view import mask_imsi

    if change.imsi is not None:
        first, last = (str(imsi) if show_numbers else mask_imsi(str(imsi)) for imsi in (change.imsi, change.imsi_to))
        return f"imsi {first}" + ("" if change.imsi == change.imsi_to else f" to {last}")
    first = shown(change.tn, show_numbers)
    return first + (
        "" if change.tn == change.tn_to else f" to {shown(change.tn_to, show_numbers)} ({change.numbers} numbers)"
    )


# -- what they share -------------------------------------------------------------------------------------


@contextlib.contextmanager
def open_reader(target: Target) -> Iterator[Reader]:
    """The store's reader, for as long as the block runs. Raises StoreError."""
    from lookupd.store.reader import Reader

    with Reader(target.path, map_size=target.map_size) as reader:
        yield reader


def _identify(target: Target, file: Path, kind: Any, feed: str | None, *, strict: bool) -> FeedFile:
    """What the file claims to be. strict: a feed with keys wants its manifest signed, as for a load; a mere
    look does not need one. Raises FeedError."""
    from loader.files import FeedFile, identify, parse_file_name

    name = target.feed(feed)
    keys = target.feeds.get(name, ())
    if file.with_name(file.name + ".json").exists() or not file.is_file():
        return identify(file, kind, name, None, keys)
    if strict and keys:
        raise FeedError(
            f"{file.name}: no manifest {file.name}.json beside it: feed {name!r} is signed, and only a signed file "
            "repairs its store; without --repair it is compared as it is"
        )
    parts = parse_file_name(file.name)
    sequence = parts.sequence if parts is not None and (parts.feed, parts.type) == (name, kind) else 0
    return FeedFile(file, kind, name, sequence, None, None, file.stat().st_size, None)
