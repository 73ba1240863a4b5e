"""`lookupd usage`: a month's statement, as text, JSON or CSV."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from lookupd.commands.common import PATH, carry_out, json_option
from lookupd.observe.counters import ALL_DIALECTS

if TYPE_CHECKING:
    from lookupd.statement import By, Statement


@click.command()
@click.option(
    "--config", "configs", type=PATH, multiple=True, required=True, help="Configuration of a replica; may be repeated."
)
@click.option("--also", type=PATH, multiple=True, help="One more replica's ledger, a copy of its usage.sqlite.")
@click.option("--month", metavar="YYYY-MM", help="The month.  [default: this one, so far]")
@click.option("--time-zone", metavar="NAME", help="In which the month begins, such as Asia/Taipei.  [default: as set]")
@click.option("--by", type=click.Choice(["client", "account"]), default="client", show_default=True)
@click.option("--dialect", "dialects", type=click.Choice(ALL_DIALECTS), multiple=True, help="Only this one.")
@click.option("--hours", is_flag=True, help="Each hour on its own.")
@click.option("--csv", "as_csv", is_flag=True, help="CSV on stdout, for a spreadsheet.")
@json_option
def usage(
    configs: tuple[Path, ...],
    also: tuple[Path, ...],
    month: str | None,
    time_zone: str | None,
    by: str,
    dialects: tuple[str, ...],
    hours: bool,
    as_csv: bool,
    as_json: bool,
) -> None:
    """Say who asked how much in a month and, with [settlement], what it costs.

    The replicas of a service each count what they are asked: name them all. An account's amount is rounded once.

    \b
    Examples: lookupd usage --config /etc/lookupd/a.toml --month 2026-11 --time-zone Asia/Taipei
              lookupd usage --config a.toml --also /srv/copies/b/usage.sqlite --by account --csv
    """
    if as_csv and as_json:
        raise click.UsageError("--csv and --json: choose one")

    def work() -> None:
        of: By = "account" if by == "account" else "client"
        _print(_read(configs, also, month, time_zone, of, dialects, hours), as_csv, as_json)

    carry_out(as_json, work)


def _read(
    configs: tuple[Path, ...],
    also: tuple[Path, ...],
    month: str | None,
    time_zone: str | None,
    by: By,
    dialects: tuple[str, ...],
    hours: bool,
) -> Statement:
    from lookupd.config import read_config
    from lookupd.ledger import HOUR_SECONDS
    from lookupd.periods import parse_month, this_month
    from lookupd.settlement import find_zone
    from lookupd.statement import Reading, sources_of

    settings = [read_config(path) for path in configs]
    zone_name = time_zone or settings[0].settlement.time_zone
    now = time.time()
    try:
        zone = find_zone(zone_name)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--time-zone") from None
    try:
        wanted = parse_month(this_month(zone, now) if month is None else month, zone)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--month") from None
    if wanted.first * HOUR_SECONDS > now:
        raise click.BadParameter(f"{wanted.name} has not begun", param_hint="--month")
    reading = Reading(settings, sources_of(settings, also), wanted, now)
    return reading.statement(by, zone_name, dialects, hours)


def _print(statement: Statement, as_csv: bool, as_json: bool) -> None:
    from lookupd.statement_text import format_csv, format_statement

    if as_json:
        click.echo(msgspec.json.encode(statement).decode())
    elif as_csv:
        click.echo(format_csv(statement), nl=False)
        if not statement.complete:
            click.echo(f"warning: {statement.month} is not complete: without --csv it is told why", err=True)
    else:
        for line in format_statement(statement):
            click.echo(line)
