"""Commands that keep the store and bring it back: backup, restore, repair."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from loader.commands.common import EXISTING, SEQUENCES, Target, on_store, open_writer, print_result, unix_now
from lookupd.errors import StoreError

if TYPE_CHECKING:
    from lookupd.store.reader import Reader


def _words(context: click.Context, parameter: click.Parameter, text: str | None) -> str | None:
    """Who takes something on, and why."""
    from loader.guard import parse_words

    try:
        return None if text is None else parse_words(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _replica() -> str:
    """The replica's name, if there is a configuration file."""
    from lookupd.config import read_config

    config = click.get_current_context().params.get("config")
    return "" if config is None else read_config(config).replica.name


@click.command()
@click.option("--out", type=EXISTING, required=True, help="Folder that keeps backups, or a new name in one.")
@click.option("--compress", is_flag=True, help="Pack the data with zstd.")
@click.option("--keep", type=click.IntRange(1), help="Remove this replica's older backups there beyond so many.")
@click.option("--even-damaged", is_flag=True, help="Also if the store is damaged; the backup then says so.")
@on_store
def backup(target: Target, out: Path, compress: bool, keep: int | None, even_damaged: bool) -> None:
    """Copy the store whole, proven and compacted, while daemon and loader run.

    A backup is a folder with the data and manifest.json. It appears under its name when it is complete, read
    again and synced; older ones are removed only then.

    \b
    Example: lookupd-loader backup --out /var/backups/lookupd --keep 7 --config /etc/lookupd/a.toml
    """
    from loader.backup import make_backup
    from loader.progress import CommandProgress
    from lookupd.store.reader import Reader

    with Reader(target.path, map_size=target.map_size) as reader, CommandProgress("backup") as progress:
        result = make_backup(
            reader,
            out,
            unix_now(),
            progress,
            replica=_replica(),
            compress=compress,
            even_damaged=even_damaged,
            keep=keep or 0,
        )
    if target.as_json:
        click.echo(json.dumps(msgspec.structs.asdict(result)))
        return
    click.echo(
        f"{result.path}: serial={result.serial} digest={result.digest} ported={result.ported} "
        f"bytes={result.bytes} seconds={result.seconds}"
    )
    for name in result.removed:
        click.echo(f"removed: {name}")
    if result.damaged_blocks:
        click.echo(f"damaged: blocks {', '.join(map(str, result.damaged_blocks))}", err=True)


@click.command()
@click.argument("backup", type=EXISTING)
@click.option("--accept-older", metavar="WORDS", callback=_words, help='Put it over a newer store: "who: why".')
@click.option("--reason", metavar="WORDS", callback=_words, help='For the journal: "who: why".')
@click.option("--even-damaged", is_flag=True, help="Also if the backup is of a damaged store.")
@on_store
def restore(target: Target, backup: Path, accept_older: str | None, reason: str | None, even_damaged: bool) -> None:
    """Put a backup in the store's place; a running daemon answers on, and takes it over within a second.

    The backup is proven first. End the loader before. The data file that was there is kept beside it as
    data.mdb.before-restore-TIME, until you remove it.

    \b
    Example: lookupd-loader restore /var/backups/lookupd/NAME --config /etc/lookupd/a.toml
    """
    from loader.progress import CommandProgress
    from loader.restore import restore as restore_store

    with CommandProgress("restore") as progress:
        result = restore_store(
            backup,
            target.path,
            unix_now(),
            target.map_size,
            progress,
            reason=reason,
            accept_older=accept_older,
            even_damaged=even_damaged,
        )
    if target.as_json:
        click.echo(json.dumps(msgspec.structs.asdict(result)))
        return
    feeds = " ".join(f"{name}={sequence}" for name, sequence in result.feeds.items())
    click.echo(
        f"{target.path}: restored from {result.backup}: serial={result.serial} digest={result.digest} "
        f"ported={result.ported} {feeds} seconds={result.seconds}"
    )
    if result.kept:
        click.echo(f"kept: {target.path / result.kept}: remove it when you are sure")


@click.command()
@click.option("--from-snapshot", type=EXISTING, help="The snapshot's file; default: the last one, from the spool.")
@click.option("--feed", help="Feed of the file (default: the one configured, or main).")
@click.option("--sequence", type=SEQUENCES, help="Feed position of a file without a manifest.")
@click.option("--reason", metavar="WORDS", required=True, callback=_words, help='For the journal: "who: why".')
@on_store
def repair(target: Target, from_snapshot: Path | None, feed: str | None, sequence: int | None, reason: str) -> None:
    """Mend damaged blocks and details from the last snapshot's file and the journal since.

    All in one transaction, which is let go unless the store's digest comes out as it was.

    \b
    Example: lookupd-loader repair --from-snapshot snapshot-main-1.csv.zst --reason "noc: disk replaced" \\
                 --store /var/lib/lookupd/a
    """
    from loader.mend import mend_from_snapshot
    from loader.progress import CommandProgress

    with open_writer(target) as writer, CommandProgress("repair") as progress:
        if from_snapshot is None:
            with writer.reader() as reader:
                from_snapshot = _last_snapshot(target, reader)
        file = target.identify(from_snapshot, "snapshot", feed, sequence)
        mended = mend_from_snapshot(
            writer, file, target.plan, (), unix_now(), reason, progress.stage("read", file.bytes)
        )
    if not target.as_json and not (mended.blocks or mended.details or mended.restricted):
        click.echo(f"{target.path}: nothing is damaged: digest={mended.digest}")
        return
    print_result(target, mended, str(target.path))


def _last_snapshot(target: Target, reader: Reader) -> Path:
    """The file of the snapshot that was loaded last, where `sync` keeps what it fetched. Raises StoreError."""
    from loader.mend import needed_snapshot
    from lookupd.config import read_config

    needed = needed_snapshot(reader)
    if needed is None:
        raise StoreError(f"{target.path}: no snapshot was loaded yet: there is nothing to mend from")
    config = click.get_current_context().params.get("config")
    spool = target.path / "spool" if config is None else read_config(config).spool_path
    for folder in (spool, spool / needed[1], spool / "converted"):
        if (folder / needed[0]).is_file():
            return folder / needed[0]
    raise StoreError(f"{spool}: {needed[0]} of feed {needed[1]!r} is not there: name it with --from-snapshot")
