"""Commands that fill the store by hand and prove it: networks, ranges, snapshot, delta, verify, generate."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from loader.commands.common import (
    EXISTING,
    SEQUENCES,
    Target,
    fail,
    on_store,
    open_writer,
    parse_word,
    print_result,
)
from lookupd.errors import LookupdError, Stale

if TYPE_CHECKING:
    from loader.apply import Terms


accept_option = click.option(
    "--accept-change", metavar="WHO: WHY", help="Let a change through that moves many numbers; kept in the journal."
)
dry_run_option = click.option("--dry-run", is_flag=True, help="Say what would happen, and change nothing.")


def _terms(target: Target, accepted: str | None, dry_run: bool) -> Terms:
    from loader.apply import Terms

    return Terms(
        moved_share=target.limits.moved_share,
        moved_free=target.limits.moved_free,
        accepted=None if accepted is None else parse_word("--accept-change", accepted),
        dry_run=dry_run,
    )


@click.command()
@click.argument("file", type=EXISTING)
@on_store
def networks(target: Target, file: Path) -> None:
    """Load networks.csv: network_code,operator,routing_number,pdb_carrier_id.

    Networks that are not in the file stay, since numbers may be routed to them.

    \b
    Example: lookupd-loader networks networks.csv --store /var/lib/lookupd/a
    """
    from loader.tables import load_networks, read_networks

    rows = read_networks(file)
    with open_writer(target) as writer:
        print_result(target, load_networks(writer, rows, file.name, target.now()), file.name)


@click.command()
@click.argument("file", type=EXISTING, required=False)
@click.option("--libphonenumber", metavar="CC", help="Take a country's mobile prefixes from libphonenumber.")
@on_store
def ranges(target: Target, file: Path | None, libphonenumber: str | None) -> None:
    """Load ranges.csv (prefix,network_code): who serves the numbers that are not ported.

    The file is the whole table: ranges that are not in it go. With --libphonenumber, operators that the
    networks table does not have yet are added to it.

    \b
    Examples: lookupd-loader ranges ranges.csv --store /var/lib/lookupd/a
              lookupd-loader ranges --libphonenumber 886 --store /var/lib/lookupd/a
    """
    from loader import tables

    if (file is None) == (libphonenumber is None):
        raise click.UsageError("name a file, or --libphonenumber with a country code")
    with open_writer(target) as writer:
        if file is not None:
            result = tables.load_ranges(writer, tables.read_ranges(file), file.name, target.now())
            print_result(target, result, file.name)
        else:
            source = f"libphonenumber +{libphonenumber}"
            for result in tables.load_carriers(writer, libphonenumber or "", source, target.now()):
                print_result(target, result, source)


@click.command()
@click.argument("file", type=EXISTING)
@click.option("--feed", help="Feed that the file must belong to (default: the one configured, or main).")
@click.option("--sequence", type=SEQUENCES, help="Feed position, to load a file without a manifest.")
@accept_option
@dry_run_option
@on_store
def snapshot(
    target: Target, file: Path, feed: str | None, sequence: int | None, accept_change: str | None, dry_run: bool
) -> None:
    """Make a snapshot the store's whole state, as one change under running readers.

    The manifest FILE.json is checked first. Only what differs is written. A snapshot that would move more
    numbers than limits.moved_share is refused until somebody takes it on.

    \b
    Examples: lookupd-loader snapshot snapshot-main-1.csv.zst --store /var/lib/lookupd/a
              lookupd-loader snapshot snapshot-main-9.csv --config a.toml --accept-change "chen: operators merged"
    """
    from loader.apply import apply_snapshot
    from loader.progress import CommandProgress

    found = target.identify(file, "snapshot", feed, sequence)
    terms = _terms(target, accept_change, dry_run)
    with open_writer(target) as writer, CommandProgress("snapshot") as progress:
        result = apply_snapshot(writer, found, target.plan, target.now(), progress, terms)
        if result.result == "applied":
            writer.note_visible(target.now_millis())
    print_result(target, result, found.name)


@click.command()
@click.argument("files", type=EXISTING, nargs=-1, required=True)
@click.option("--feed", help="Feed that the files must belong to (default: the one configured, or main).")
@click.option("--sequence", type=SEQUENCES, help="Feed position, to load one file without a manifest.")
@accept_option
@dry_run_option
@on_store
def delta(
    target: Target,
    files: tuple[Path, ...],
    feed: str | None,
    sequence: int | None,
    accept_change: str | None,
    dry_run: bool,
) -> None:
    """Apply deltas in the order of their sequence numbers, each as one change.

    Stops at the first that cannot be applied; those before it stay applied.

    \b
    Example: lookupd-loader delta delta-main-*.ndjson.zst --store /var/lib/lookupd/a
    """
    from loader.apply import apply_delta
    from loader.files import sequence_in_name
    from loader.progress import CommandProgress

    if len(files) > 1 and (sequence is not None or dry_run):
        raise click.UsageError(f"{'--dry-run' if dry_run else '--sequence'} goes with one file")
    terms = _terms(target, accept_change, dry_run)
    identified = [target.identify(file, "delta", feed, sequence) for file in sorted(files, key=sequence_in_name)]
    with open_writer(target) as writer:
        for found in identified:
            with CommandProgress("delta") as progress:
                result = apply_delta(writer, found, target.plan, target.now(), progress, terms)
                if result.result == "applied":
                    writer.note_visible(target.now_millis())
            print_result(target, result, found.name)


@click.command()
@click.option("--scrub", is_flag=True, help="Only checksums and the digest: a tenth of the time.")
@on_store
def verify(target: Target, scrub: bool) -> None:
    """Read the whole store and prove checksums, digest, details, tables and the journal's chain.

    Runs beside a daemon and a loader. Exit code 6 if anything is wrong.

    \b
    Examples: lookupd-loader verify --store /var/lib/lookupd/a
              lookupd-loader verify --scrub --store /var/lib/lookupd/a
    """
    if scrub:
        _scrub(target)
        return
    from loader.progress import CommandProgress
    from lookupd.store.reader import Reader
    from lookupd.store.schema import format_digest
    from lookupd.store.verify import verify as verify_store

    with Reader(target.path, map_size=target.map_size) as reader, CommandProgress("verify") as progress:
        report = verify_store(reader, progress.stage("verify", reader.state.blocks))
    if target.as_json:
        click.echo(json.dumps(msgspec.structs.asdict(report) | {"digest": format_digest(report.digest)}))
    else:
        for problem in report.problems:
            click.echo(f"problem: {problem}")
        click.echo(
            f"{target.path}: {report.problem_count or 'no'} problems: blocks={report.blocks} "
            f"ported={report.ported} routes={report.routes} ranges={report.ranges} "
            f"journal={report.journal_entries} digest={format_digest(report.digest)}"
        )
    if report.problem_count:
        sys.exit(Stale.exit_code)


def _scrub(target: Target) -> None:
    from loader.progress import CommandProgress
    from lookupd.store.reader import Reader
    from lookupd.store.schema import format_digest
    from lookupd.store.scrub import scrub, values_of

    with Reader(target.path, map_size=target.map_size) as reader, CommandProgress("scrub") as progress:
        report = scrub(reader, progress.stage("scrub", values_of(reader)))
    digest = None if report.digest is None else format_digest(report.digest)
    if target.as_json:
        click.echo(json.dumps(msgspec.structs.asdict(report) | {"digest": digest}))
    else:
        for problem in report.problems:
            click.echo(f"problem: {problem}")
        click.echo(
            f"{target.path}: {len(report.problems) or 'no'} problems: blocks={report.blocks} "
            f"details={report.details} restricted={report.restricted} digest={digest or 'not proven'}"
        )
    if report.problems:
        sys.exit(Stale.exit_code)


@click.command()
@click.option("--country", default="886", show_default=True, help="Country code.")
@click.option("--numbers", default=100_000, show_default=True, help="Ported numbers, up to 100 million.")
@click.option("--seed", default=1, show_default=True, help="The same seed gives the same bytes.")
@click.option("--out", type=EXISTING, required=True, help="Folder for the files.")
@click.option("--deltas", default=10, show_default=True, help="Deltas after the snapshot.")
@click.option("--notices", default=100, show_default=True, help="Notices in each delta.")
@click.option("--feed", default="main", show_default=True)
@click.option("--compress", type=click.Choice(["none", "gz", "zst"]), default="zst", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def generate(
    country: str,
    numbers: int,
    seed: int,
    out: Path,
    deltas: int,
    notices: int,
    feed: str,
    compress: str,
    as_json: bool,
) -> None:
    """Make up a country's snapshot and deltas, with the tables that go with them.

    \b
    Example: lookupd-loader generate --country 886 --numbers 1000000 --seed 7 --out sample/
    """
    from loader.generate import Generator
    from loader.progress import CommandProgress
    from lookupd.settings import FEED_NAME

    if not FEED_NAME.fullmatch(feed):
        raise click.UsageError("--feed: lower-case letters, digits, - and _, at most 32")
    if deltas < 0 or notices < 1:
        raise click.UsageError("--deltas: 0 or more; --notices: 1 or more")
    try:
        with CommandProgress("generate") as progress:
            generator = Generator(country, numbers, seed)
            summary = generator.write(
                out,
                feed=feed,
                compression=compress,
                deltas=deltas,
                notices=notices,
                advance=progress.stage("write", numbers),
            )
    except LookupdError as error:
        fail(error, as_json)
        return
    except OSError as error:
        fail(LookupdError(f"{error.filename}: {error.strerror}"), as_json)
        return
    if as_json:
        click.echo(json.dumps(msgspec.structs.asdict(summary)))
    else:
        click.echo(" ".join(f"{name}={value}" for name, value in msgspec.structs.asdict(summary).items()))
