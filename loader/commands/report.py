"""Commands that tell the regulator: report clocks; half-year and month are in `regulator`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from loader.commands.common import EXISTING, Target, on_store, unix_now
from loader.commands.regulator import exchange_month, half_year
from lookupd.errors import LookupdError


@click.group()
def report() -> None:
    """Write what the regulator asks for, from journal and receipts.

    \b
    Example: lookupd-loader report clocks --month 2026-11 --config /etc/lookupd/a.toml
    """


report.add_command(half_year)
report.add_command(exchange_month)


@report.command()
@click.option("--month", help="Such as 2026-11.  [default: this month]")
@click.option("--utc-offset", default="+00:00", show_default=True, help="Where the month is, such as +08:00.")
@click.option("--out", type=EXISTING, help="Folder for clocks-MONTH.csv (every notice) and clocks-MONTH.json.")
@click.option("--masked", is_flag=True, help="Hide the last four digits of the numbers in the CSV.")
@click.option("--replica", default="a", show_default=True, help="Name in the report, with --store.")
@on_store
def clocks(target: Target, month: str | None, utc_offset: str, out: Path | None, masked: bool, replica: str) -> None:
    """Prove when each notice of a month was received, confirmed and visible, and what was left of its limit.

    \b
    Examples: lookupd-loader report clocks --month 2026-11 --utc-offset +08:00 --out . --config /etc/lookupd/a.toml
              lookupd-loader report clocks --store /var/lib/lookupd/a --json
    """
    from loader.report import parse_month, this_month, write_clocks
    from lookupd.store.reader import Reader

    try:
        wanted = parse_month(month or this_month(unix_now()), utc_offset)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    name = target.replica or replica
    with Reader(target.path, map_size=target.map_size) as reader:
        if out is None:
            figures = write_clocks(reader, wanted, target.limits, name, None, unix_now(), masked=masked)
        else:
            rows, summary = (out / f"clocks-{wanted.name}.{ending}" for ending in ("csv", "json"))
            part = rows.with_name(rows.name + ".part")
            try:
                out.mkdir(parents=True, exist_ok=True)
                with part.open("w", encoding="utf-8", newline="") as file:
                    figures = write_clocks(reader, wanted, target.limits, name, file, unix_now(), masked=masked)
                part.rename(rows)
                summary.write_text(json.dumps(figures, indent=2) + "\n")
            except OSError as error:
                raise LookupdError(f"{error.filename or out}: {error.strerror}") from None
    click.echo(json.dumps(figures) if target.as_json else "\n".join(_lines(figures, out)))


def _lines(figures: dict[str, Any], out: Path | None) -> list[str]:
    lines = [f"clocks of {figures['month']}, replica {figures['replica']}: {figures['deltas']} deltas"]
    for kind, of_kind in figures["kinds"].items():
        took, confirmed = of_kind["notified_to_visible_seconds"], of_kind["received_to_confirmed_seconds"]
        lines.append(
            f"{kind:<8} {of_kind['notices']} notices, {of_kind['within_limit']} within {of_kind['limit_seconds']:g} s, "
            f"{of_kind['breached']} breached"
        )
        if of_kind["notices"]:
            lines.append(
                f"{'':<8} visible after p50 {took['p50']} s, p99 {took['p99']} s, worst {took['max']} s; "
                f"confirmed {confirmed['max'] if confirmed['count'] else 'not told'} s after receipt at worst; "
                f"smallest margin {of_kind['smallest_margin_seconds']} s"
            )
    if figures["superseded"]:
        lines.append(f"{figures['superseded']} notices waited for a moment and were overtaken by later ones")
    lines.append(f"{figures['waiting_for_their_moment']} notices wait for their moment")
    if out is not None:
        lines.append(f"written to {out}: clocks-{figures['month']}.csv and .json")
    return lines
