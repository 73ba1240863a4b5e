"""`lookupd batch`: a list of numbers in, the same list with networks out. What is done is in `lookupd.batch`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from lookupd.commands.common import PATH, carry_out, json_option
from lookupd.i18n import cells
from lookupd.i18n import translate as _

if TYPE_CHECKING:
    from lookupd.batch import BatchSummary, Progress, Resolver

SHOWN_EVERY_SECONDS = 0.5
CHECKPOINT = ".checkpoint"
NAME_CELLS = 18
BAD_ROWS_SHOWN = 10


@click.command()
@click.argument("source", metavar="IN.csv", type=PATH)
@click.option("-o", "--out", type=PATH, required=True, help="Where to write the list with what was answered.")
@click.option("--config", type=PATH, help="Configuration file that names the store and the plan.")
@click.option("--store", type=PATH, help="Folder of the store, when there is no configuration file.")
@click.option(
    "--server",
    "servers",
    multiple=True,
    help="Ask a daemon: udp:// or tcp:// (npq), http:// or https://; npq may be repeated.",
)
@click.option("--timeout", default=5.0, show_default=True, help="Seconds to wait for a server's answer.")
@click.option("--token-file", metavar="FILE", help="Holds the token of this client; for https:// servers.")
@click.option("--ca-file", metavar="FILE", help="Authorities of https:// servers, in PEM.  [default: the system's]")
@click.option("--country", default="886", show_default=True, help="Country code of the plan, without --config.")
@click.option("--column", help="Which column holds the numbers: its name, or its number from 1.  [default: found out]")
@click.option("--separator", help="Between columns: , ; TAB or |  [default: found out]")
@click.option("--encoding", help="utf-8, utf-16 or big5.  [default: UTF-8, or by the list's mark]")
@click.option("--header/--no-header", default=None, help="Whether the first row is a header.  [default: found out]")
@click.option("--split", type=PATH, metavar="DIR", help="Also write a file for each network, and summary.json.")
@click.option("--at", metavar="TIME", help="Begin at this time (RFC 3339), not at once.")
@click.option("--force", is_flag=True, help="Replace what --out and --split name.")
@click.option("--no-resume", is_flag=True, help="Begin anew where an interrupted batch could be gone on with.")
@json_option
def batch(
    source: Path,
    out: Path,
    config: Path | None,
    store: Path | None,
    servers: tuple[str, ...],
    timeout: float,
    token_file: str | None,
    ca_file: str | None,
    country: str,
    column: str | None,
    separator: str | None,
    encoding: str | None,
    header: bool | None,
    split: Path | None,
    at: str | None,
    force: bool,
    no_resume: bool,
    as_json: bool,
) -> None:
    """Write each row of a list with outcome, network and restriction of its number.

    The list may be compressed (gzip, zstd). A batch that was interrupted goes on when it is begun again.

    \b
    Examples: lookupd batch recipients.csv -o answered.csv --config /etc/lookupd/a.toml
              lookupd batch recipients.csv -o answered.csv --store /var/lib/lookupd/a --split by-network
              lookupd batch 名單.csv -o answered.csv --server tcp://127.0.0.1:4700 --column 手機 --encoding big5
              lookupd batch recipients.csv -o answered.csv --config a.toml --at 2026-11-25T02:00:00+08:00
    """
    if sum((config is not None, store is not None, bool(servers))) != 1:
        raise click.UsageError("name who answers: --config FILE, --store DIR or --server URL")
    begin_at = _moment(at)

    def work() -> None:
        from lookupd.batch import BatchOptions, run_batch
        from lookupd.errors import BatchError

        checkpoint = out.with_name(out.name + CHECKPOINT)
        if not force:
            _refuse_to_replace(out, split)
        if not source.is_file():
            raise BatchError(f"{source}: {'not a file' if source.exists() else 'no such file'}")
        if no_resume:
            checkpoint.unlink(missing_ok=True)
        options = BatchOptions(
            column=column,
            separator="\t" if separator in {"TAB", "tab", "\\t"} else separator,
            encoding=encoding,
            header=header,
        )
        _wait(begin_at)
        with closing(_resolver(config, store, servers, country, timeout, (token_file, ca_file))) as resolver:
            summary = run_batch(source, out, resolver, options, _show_progress(), checkpoint, split=split)
        _tell(summary, as_json)

    carry_out(as_json, work)


def _moment(at: str | None) -> int | None:
    from lookupd.units import parse_time

    try:
        return None if at is None else parse_time(at)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--at") from None


def _wait(moment: int | None) -> None:
    """By the clock of the wall, which may be set meanwhile."""
    while moment is not None and (left := moment - time.time()) > 0:
        time.sleep(min(left, 60))


def _refuse_to_replace(out: Path, split: Path | None) -> None:
    from lookupd.errors import BatchError

    if out.exists():
        raise BatchError(f"{out}: is there already: name another file, or --force")
    if split is not None and any(split.glob("*.csv")):
        raise BatchError(f"{split}: holds files of an earlier batch: name another folder, or --force")


def _resolver(
    config: Path | None,
    store: Path | None,
    servers: tuple[str, ...],
    country: str,
    timeout: float,
    keys: tuple[str | None, str | None],
) -> Resolver:
    from lookupd.batch.resolvers import HttpResolver, ServerResolver, open_store
    from lookupd.config import read_config
    from lookupd.numbering import load_plan
    from lookupd.settings import Config, PlanSettings, StoreSettings

    if config is not None:
        return open_store(read_config(config))
    if store is not None:
        return open_store(Config(store=StoreSettings(path=str(store)), plan=PlanSettings(country_code=country)))
    by_http = [server.startswith(("http://", "https://")) for server in servers]
    if any(keys) and not all(server.startswith("https://") for server in servers):
        raise click.UsageError("--token-file and --ca-file are for https:// servers, where nobody listens in")
    if not any(by_http):
        return ServerResolver(servers, load_plan(country), timeout)
    if not all(by_http):
        raise click.UsageError("--server: http:// is asked in turn, not beside npq: name servers of one kind")
    return HttpResolver(servers, load_plan(country), timeout, keys)


def _show_progress() -> Callable[[Progress], None]:
    """On a terminal, one line that is written over."""
    shown = 0.0

    def show(progress: Progress) -> None:
        nonlocal shown
        if time.monotonic() - shown < SHOWN_EVERY_SECONDS:
            return
        shown = time.monotonic()
        share = 100 * progress.bytes_read // max(progress.bytes_total, 1)
        click.echo(
            "\r"
            + _("{rows} rows, {share} % read, {seconds} s").format(
                rows=f"{progress.rows:,}", share=min(share, 100), seconds=round(progress.seconds)
            ),
            err=True,
            nl=False,
        )

    return show if sys.stderr.isatty() else lambda progress: None


def _tell(summary: BatchSummary, as_json: bool) -> None:
    if as_json:
        click.echo(msgspec.json.encode(summary).decode())
        return
    if sys.stderr.isatty():
        click.echo("\r\033[K", err=True, nl=False)
    click.echo(_("{rows} rows in {seconds} s").format(rows=f"{summary.rows:,}", seconds=summary.seconds))
    if summary.resumed:
        click.echo("  " + _("went on behind row {rows}").format(rows=f"{summary.resumed:,}"))
    counts = [*summary.outcomes.items()]
    counts += [(f"{_('network')} {name}", count) for name, count in summary.networks.items()]
    if summary.duplicates is not None:
        counts.append((_("duplicates"), summary.duplicates))
    for name, count in [*counts, (_("bad rows"), summary.bad)]:
        click.echo(f"  {name}{' ' * (NAME_CELLS - cells(name))}{count:>13,}")
    if summary.duplicates is None:
        click.echo("  " + _("duplicates were not looked for in all rows: there are too many"))
    for row in summary.bad_rows[:BAD_ROWS_SHOWN]:
        click.echo("    " + _("row {row}: {reason}").format(row=row.row, reason=row.reason))
    for span in summary.serials:
        click.echo("  " + _("serial {serial} from row {row} on").format(serial=span.serial, row=span.row))
