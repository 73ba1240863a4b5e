"""What the regulator and the other operators get: report half-year, report month."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import tzinfo
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from loader.commands.common import EXISTING, Target, on_store, unix_now
from lookupd.errors import ConfigError, LookupdError

if TYPE_CHECKING:
    from loader.regulator.figures import HalfYear, Times
    from loader.regulator.half_year import Evidence, Wanted
    from lookupd.periods import Period
    from lookupd.store.reader import Reader

TIME_ZONE = click.option(
    "--time-zone", metavar="NAME", help="In which it begins, such as Asia/Taipei.  [default: as set, or UTC]"
)

_KINDS = {"port": "ports", "return": "returns", "correct": "corrections"}


@click.command("half-year")
@click.option("--period", required=True, metavar="YYYYHn", help="A half-year, such as 2026H1.")
@TIME_ZONE
@click.option("--network", metavar="CODE", help="Only what concerns this operator's numbers.  [default: all]")
@click.option(
    "--probe", "ledgers", type=EXISTING, multiple=True, help="A probe's probe.sqlite, or a copy; may be repeated."
)
@click.option("--availability", type=EXISTING, metavar="FILE", help="What Prometheus answered; see docs/reports.md.")
@click.option(
    "--reconciliation",
    "reconciliations",
    type=EXISTING,
    multiple=True,
    metavar="FILE",
    help="What `reconcile --json` printed in the period; may be repeated.",
)
@click.option("--out", type=EXISTING, metavar="FOLDER", help="Folder for the report's files.")
@click.option("--masked", is_flag=True, help="Hide the last four digits of the numbers in the trace.")
@click.option("--pdf", is_flag=True, help="Print the pages as PDF too; needs a Chromium.")
@click.option("--replica", default="a", show_default=True, help="Name in the report, with --store.")
@on_store
def half_year(
    target: Target,
    period: str,
    time_zone: str | None,
    network: str | None,
    ledgers: tuple[Path, ...],
    availability: Path | None,
    reconciliations: tuple[Path, ...],
    out: Path | None,
    masked: bool,
    pdf: bool,
    replica: str,
) -> None:
    """Make the half-yearly report: ported in and out, failures, porting times, extra call set-up time, availability.

    What the regulator asks for by 10 January and 10 July (NPR articles 10, 18). Each figure of the journal is traced
    to its entries in half-year-PERIOD-trace.csv. What is not known is told; nothing is guessed. With --out there are
    also a page to file in English and in Traditional Chinese, tables as CSV, and all of it as JSON.

    \b
    Examples: lookupd-loader report half-year --period 2026H2 --config /etc/lookupd/a.toml --out report
              lookupd-loader report half-year --period 2026H2 --config /etc/lookupd/a.toml --out report \\
                  --time-zone Asia/Taipei --probe north.sqlite --probe south.sqlite \\
                  --availability availability.json --reconciliation october.json
    """
    from loader.regulator.half_year import Evidence
    from loader.regulator.half_year_pages import find_browser, write_pages

    if pdf and out is None:
        raise click.UsageError("--pdf goes with --out FOLDER")
    browser = find_browser() if pdf else None
    wanted = _wanted(target, period, time_zone, network, replica)
    evidence = Evidence(ledgers, availability, reconciliations, target.spools)
    found, written = _make(target, wanted, evidence, out, masked=masked)
    if out is not None:
        written += write_pages(found, out, browser=browser)
    if target.as_json:
        click.echo(msgspec.json.encode(found).decode())
        return
    for line in _lines(found):
        click.echo(line)
    for path in written:
        click.echo(f"written: {path}")


def _wanted(target: Target, period: str, time_zone: str | None, network: str | None, replica: str) -> Wanted:
    from loader.regulator.half_year import Wanted

    name, zone = find_time_zone(target, time_zone)
    asked = find_period("--period", period, zone)
    if "H" not in asked.name:
        reason = f"{asked.name}: is a month: write a half-year, like 2026H1"
        raise click.BadParameter(reason, param_hint="--period")
    return Wanted(asked, zone, name, target.limits, network, target.replica or replica)


def _make(
    target: Target, wanted: Wanted, evidence: Evidence, out: Path | None, *, masked: bool
) -> tuple[HalfYear, list[Path]]:
    from loader.progress import CommandProgress
    from loader.regulator.half_year import half_year
    from loader.regulator.half_year_files import make_folder, stem, trace_file, write_files
    from loader.regulator.trace import TraceWriter
    from lookupd.ledger import LedgerError
    from lookupd.store.reader import Reader

    name = f"{stem(wanted.period.name, wanted.network)}-trace.csv"
    if out is not None:
        make_folder(out)
    with CommandProgress("report") as progress, Reader(target.path, map_size=target.map_size) as reader:
        check_network(reader, wanted.network)
        advance = progress.stage("journal", reader.state.serial)
        with contextlib.nullcontext() if out is None else trace_file(out, name) as file:
            trace = TraceWriter(file, masked=masked)
            try:
                found = half_year(reader, wanted, evidence, trace, None if out is None else name, unix_now(), advance)
            except LedgerError as error:
                raise ConfigError(f"--probe {error}") from None
    if out is None:
        return found, []
    return found, [*write_files(found, out), out / name]


# -- month -----------------------------------------------------------------------------------------------


@click.command("month")
@click.option("--month", required=True, metavar="YYYY-MM", help="Such as 2026-10.")
@TIME_ZONE
@click.option("--network", metavar="CODE", help="What came to this operator.  [default: to any]")
@click.option("--out", type=EXISTING, required=True, metavar="FOLDER", help="Folder for the file and its manifest.")
@click.option("--partial", is_flag=True, help="Write it though something is missing; the manifest tells what.")
@click.option("--replica", default="a", show_default=True, help="Name in the manifest, with --store.")
@on_store
def exchange_month(
    target: Target,
    month: str,
    time_zone: str | None,
    network: str | None,
    out: Path,
    partial: bool,
    replica: str,
) -> None:
    """Write the numbers that came in a month, for the other operators to compare (NPR articles 24, 31).

    A CSV as a snapshot has it, of those that are still there at the month's end; `reconcile --month` compares it with
    another store.

    \b
    Example: lookupd-loader report month --month 2026-10 --network 1402 --out exchange --config /etc/lookupd/a.toml
    """
    from loader.progress import CommandProgress
    from loader.regulator.half_year_files import make_folder
    from loader.regulator.month import as_told, ported_in, still_there
    from loader.regulator.month_file import write_month
    from lookupd.store.reader import Reader

    name, zone = find_time_zone(target, time_zone)
    asked = find_month(month, zone)
    with CommandProgress("report") as progress, Reader(target.path, map_size=target.map_size) as reader:
        check_network(reader, network)
        found = ported_in(reader, asked, network, unix_now(), progress.stage("journal", reader.state.serial))
        if found.missing and not partial:
            told = "; ".join(f"{lack.what}: {lack.reason}" for lack in found.missing)
            raise LookupdError(f"{asked.name}: is not whole: {told}; --partial writes it nevertheless")
        make_folder(out)
        states = (as_told(found, state) for state in still_there(reader, found))
        manifest = write_month(reader, found, states, out, name, target.replica or replica, unix_now())
    if target.as_json:
        click.echo(msgspec.json.encode(manifest).decode())
        return
    whose = "any network" if network is None else f"network {network}"
    click.echo(
        f"{manifest.month} ({name}): {manifest.ported_in} numbers came to {whose}, {manifest.rows} are there at its end"
    )
    for lack in manifest.missing:
        click.echo(f"missing: {lack.what}: {lack.reason}")
    click.echo(f"written: {out / manifest.file} and its manifest")


# -- what they share -------------------------------------------------------------------------------------


def find_time_zone(target: Target, name: str | None) -> tuple[str, tzinfo]:
    """As named, or as set. Raises click's usage error."""
    from lookupd.settlement import find_zone

    name = name or target.time_zone
    try:
        return name, find_zone(name)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--time-zone") from None


def find_period(option: str, text: str, zone: tzinfo) -> Period:
    """One that has begun. Raises click's usage error."""
    from lookupd.ledger import HOUR_SECONDS
    from lookupd.periods import parse_period

    try:
        asked = parse_period(text, zone)
        if asked.first * HOUR_SECONDS > unix_now():
            raise ValueError(f"{asked.name} has not begun")
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=option) from None
    return asked


def find_month(text: str, zone: tzinfo) -> Period:
    """Likewise."""
    asked = find_period("--month", text, zone)
    if "H" in asked.name:
        raise click.BadParameter(f"{asked.name}: is a half-year: write a month, like 2026-10", param_hint="--month")
    return asked


def check_network(reader: Reader, network: str | None) -> None:
    """Raises click's usage error for one that the store does not know."""
    if network is not None and not any(route and route.network_code == network for route in reader.routes):
        reason = f"{network[:20]!r} is not in the networks table"
        raise click.BadParameter(reason, param_hint="--network")


# -- for people ------------------------------------------------------------------------------------------


def _lines(found: HalfYear) -> Iterator[str]:
    whose = "all networks" if found.network is None else f"network {found.network}"
    yield f"half-year {found.period} ({found.time_zone}), {whose}, replica {found.replica}"
    yield f"from {found.first} to {found.until}"
    told = found.summary
    yield f"ported in {told.ported_in}, ported out {told.ported_out} numbers"
    rate = "not known" if told.failure_rate is None else f"{told.failure_rate:.4%}"
    yield f"failure rate {rate}: too late or refused, of all ports"
    yield f"mean porting time {_seconds(told.mean_porting_time)}"
    extra = told.mean_extra_setup_time
    yield "mean extra call set-up time " + ("not known" if extra is None else f"{extra * 1000:.3f} ms")
    for each in found.times:
        kind = _KINDS[each.kind]
        yield f"{kind}: notice to visible {_times(each.notice_to_visible)}; limit {each.limit_seconds:g} s"
        if each.requested_to_effective.count:
            yield f"{kind}: requested to effective {_times(each.requested_to_effective)}"
    for lack in found.missing:
        span = "" if lack.from_ is None else f" {lack.from_} to {lack.until}"
        yield f"missing: {lack.what}{span}: {lack.reason}"


def _times(times: Times) -> str:
    if not times.count:
        return "none"
    return f"mean {times.mean} s, p50 {times.p50} s, p99 {times.p99} s, longest {times.max} s, of {times.count}"


def _seconds(seconds: float | None) -> str:
    return "not known" if seconds is None else f"{seconds:.3f} s"
