"""`lookupd probe`: asks servers as a switch does; `lookupd probe report`: a month or a half-year of it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from lookupd.commands.common import PATH, carry_out, json_option
from lookupd.errors import ConfigError

if TYPE_CHECKING:
    from lookupd.probe.report import Report
    from lookupd.settings import Config


@click.group(invoke_without_command=True)
@click.option("--config", type=PATH, help="Configuration file with [probe]; what is measured is kept.")
@click.option(
    "--server",
    "servers",
    multiple=True,
    help="udp:// or tcp:// (npq), pdb://, enum://HOST/APEX, sip://, http://; repeatable.  [default: probe.servers]",
)
@click.option("--numbers", type=PATH, help="File of numbers to ask, one a line.  [default: drawn from the store]")
@click.option("--seconds", type=click.FloatRange(0.1), help="How long to ask.  [default: until SIGTERM]")
@json_option
@click.pass_context
def probe(
    context: click.Context,
    config: Path | None,
    servers: tuple[str, ...],
    numbers: Path | None,
    seconds: float | None,
    as_json: bool,
) -> None:
    """Ask servers about ported numbers as a switch does, and measure what a dip adds to a call's set-up.

    With --config what is measured is kept for `lookupd probe report`; without, it is only shown at the end.

    \b
    Examples: lookupd probe --config /etc/lookupd/probe.toml
              lookupd probe --server udp://192.0.2.1:4700 --server pdb://192.0.2.1 --numbers asked.txt --seconds 60
    """
    if context.invoked_subcommand is not None:
        return
    if config is None and not (servers and numbers):
        raise click.UsageError("name what to ask: --config FILE, or --server URL and --numbers FILE")

    def work() -> None:
        import uvloop

        from lookupd.probe.sampler import Sampler

        settings = _settings(config, servers, numbers)

        async def run() -> Sampler:
            sampler = Sampler(settings, keep=config is not None)
            await sampler.run(seconds)
            return sampler

        _showrun(uvloop.run(run()), as_json)

    carry_out(as_json, work)


def _settings(config: Path | None, servers: tuple[str, ...], numbers: Path | None) -> Config:
    """Of the file, with what was said on the command line in its place."""
    from lookupd.config import read_config
    from lookupd.probe.servers import check_probe
    from lookupd.settings import Config

    found = Config() if config is None else read_config(config)
    changed: dict[str, Any] = {}
    if servers:
        changed["servers"] = servers
    if numbers is not None:
        changed["numbers"] = str(numbers)
    settings = msgspec.structs.replace(found, probe=msgspec.structs.replace(found.probe, **changed))
    check_probe(settings.probe)
    if not settings.probe.servers:
        raise ConfigError("probe.servers: none: name at least one, such as udp://192.0.2.1:4700")
    return settings


def _showrun(sampler: Any, as_json: bool) -> None:
    from lookupd.probe.report import line_of
    from lookupd.probe.report_text import format_lines

    lines = [
        line_of(place.server, ported, counts)
        for place in sampler.tally.places
        for ported, counts in place.counts.items()
        if counts.results
    ]
    if as_json:
        for line in lines:
            click.echo(msgspec.json.encode(line).decode())
    else:
        click.echo("\n".join(format_lines(lines, with_hours=False)))


@probe.command()
@click.option("--config", type=PATH, help="Configuration file whose probe's ledger is read.")
@click.option(
    "--ledger", "ledgers", type=PATH, multiple=True, help="A probe's probe.sqlite, or a copy; may be repeated."
)
@click.option("--period", metavar="YYYYHn", help="A half-year, such as 2026H2.")
@click.option("--month", metavar="YYYY-MM", help="A month.  [default: this one, so far]")
@click.option("--time-zone", metavar="NAME", help="In which it begins, such as Asia/Taipei.  [default: as set, or UTC]")
@click.option("--csv", "as_csv", is_flag=True, help="CSV on stdout, for a spreadsheet.")
@json_option
def report(
    config: Path | None,
    ledgers: tuple[Path, ...],
    period: str | None,
    month: str | None,
    time_zone: str | None,
    as_csv: bool,
    as_json: bool,
) -> None:
    """Say what a dip added to the set-up of calls to ported numbers, in a month or a half-year (NPR articles 10, 18).

    Ledgers of several probes are summed.

    \b
    Examples: lookupd probe report --config /etc/lookupd/probe.toml --period 2026H2 --time-zone Asia/Taipei
              lookupd probe report --ledger north.sqlite --ledger south.sqlite --month 2026-11 --json
    """
    if as_csv and as_json:
        raise click.UsageError("--csv and --json: choose one")
    if period is not None and month is not None:
        raise click.UsageError("--period and --month: choose one")
    if config is None and not ledgers:
        raise click.UsageError("name what to read: --config FILE or --ledger FILE")

    def work() -> None:
        found = _read(config, ledgers, period, month, time_zone)
        _show(found, as_csv, as_json)

    carry_out(as_json, work)


def _read(
    config: Path | None, ledgers: tuple[Path, ...], period: str | None, month: str | None, time_zone: str | None
) -> Report:
    from lookupd.config import read_config
    from lookupd.ledger import HOUR_SECONDS
    from lookupd.periods import parse_period, this_month
    from lookupd.probe.report import read_report
    from lookupd.probe.tally import FILE
    from lookupd.settings import Config
    from lookupd.settlement import find_zone

    settings = Config() if config is None else read_config(config)
    files = ([] if config is None else [settings.probe_path / FILE]) + list(ledgers)
    zone_name = time_zone or settings.settlement.time_zone
    now = time.time()
    try:
        zone = find_zone(zone_name)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--time-zone") from None
    option = "--month" if period is None else "--period"
    try:
        wanted = parse_period(period or month or this_month(zone, now), zone)
        if ("H" in wanted.name) != (period is not None):
            raise ValueError(f"{wanted.name}: a half-year is for --period, a month for --month")
        if wanted.first * HOUR_SECONDS > now:
            raise ValueError(f"{wanted.name} has not begun")
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=option) from None
    return read_report(files, wanted, zone_name, now)


def _show(found: Report, as_csv: bool, as_json: bool) -> None:
    from lookupd.probe.report_text import format_csv, format_report

    if as_json:
        click.echo(msgspec.json.encode(found).decode())
    elif as_csv:
        click.echo(format_csv(found), nl=False)
        if not found.complete:
            click.echo(f"warning: {found.period} is not complete: without --csv it is told why", err=True)
    else:
        for line in format_report(found):
            click.echo(line)
