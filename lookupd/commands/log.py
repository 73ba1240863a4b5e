"""`lookupd log`: what was asked, from the query log's files. `query_log_reader` reads them."""

from __future__ import annotations

import contextlib
import json
import re
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click
import msgspec

from lookupd.commands.common import PATH, carry_out, json_option
from lookupd.config import read_config
from lookupd.errors import LookupdError
from lookupd.limits import QUERY_LOG_DRAIN_SECONDS
from lookupd.numbering import Plan, load_plan, strip_separators
from lookupd.observe.counters import ALL_DIALECTS
from lookupd.query_log_reader import LogReader, Wanted, is_masked
from lookupd.query_record import OUTCOMES, Record
from lookupd.units import format_millis, parse_duration, parse_time

_PLAIN = re.compile(r"[\w./:+@*\[\]-]+", re.ASCII)
_FOLLOWED = 10
"""Records of the past that --follow begins with."""


@click.command("log")
@click.argument("file", type=PATH, required=False)
@click.option("--config", type=PATH, help="Configuration file that names the log and the plan.")
@click.option("--country", default="886", show_default=True, help="Country code of the plan, without --config.")
@click.option("--number", help="Only this number, written as people do.")
@click.option("--client", help="Only this client, as the configuration calls it.")
@click.option("--dialect", type=click.Choice(ALL_DIALECTS), help="Only what was asked in it.")
@click.option("--outcome", type=click.Choice(OUTCOMES), help="Only what came of it.")
@click.option("--since", metavar="TIME", help="RFC 3339 with an offset, or how long ago: 15m.")
@click.option("--until", metavar="TIME", help="Only before it; written in the same way.")
@click.option(
    "--limit",
    type=click.IntRange(1),
    help="So many of the newest; with --follow to begin with.  [default: all, or 10]",
)
@click.option("--follow", is_flag=True, help="Go on with what is asked from now on, until Ctrl-C.")
@json_option
def log(
    file: Path | None,
    config: Path | None,
    country: str,
    number: str | None,
    since: str | None,
    until: str | None,
    limit: int | None,
    follow: bool,
    as_json: bool,
    **only: str | None,
) -> None:
    """Show what was asked and answered: the query log of FILE, or of a configuration, with the files turned over.

    A log has numbers masked unless `query_log.numbers = "full"`: --number then finds all that begin alike.

    \b
    Examples: lookupd log --config /etc/lookupd/a.toml --number 0912345678 --since 15m
              lookupd log /var/log/lookupd/a-queries.ndjson --outcome unavailable --follow --json
    """
    if (file is None) == (config is None):
        raise click.UsageError("name the log: FILE, or --config FILE")
    window = {"since": _moment(since, "--since"), "until": _moment(until, "--until")}

    def work() -> None:
        path, plan = _place(file, config, country)
        wanted = Wanted(number=None if number is None else _full(number, plan), **window, **only)
        with contextlib.suppress(KeyboardInterrupt), LogReader(path) as reader:
            _show_all(reader, wanted, limit, follow, as_json)

    carry_out(as_json, work)


def _place(file: Path | None, config: Path | None, country: str) -> tuple[Path, Plan]:
    if config is None:
        assert file is not None
        return file, load_plan(country)
    settings = read_config(config)
    if not settings.query_log.path:
        raise LookupdError(f"{config}: query_log.path is not set: no query is logged")
    return Path(settings.query_log.path), settings.read_plan()


def _full(number: str, plan: Plan) -> str:
    digits = plan.digits(strip_separators(number))
    if digits is None:
        raise click.BadParameter(f"{number!r} is no number in this plan", param_hint="--number")
    return f"+{digits}"


def _moment(text: str | None, option: str) -> str | None:
    """As records have it."""
    if text is None:
        return None
    try:
        if text[:1].isdigit() and "T" not in text.upper():
            return format_millis(round((time.time() - parse_duration(text)) * 1000))
        return format_millis(parse_time(text) * 1000)
    except (ValueError, OverflowError, OSError) as error:
        raise click.BadParameter(str(error), param_hint=option) from None


# -- showing ---------------------------------------------------------------------------------------------


def _show_all(reader: LogReader, wanted: Wanted, limit: int | None, follow: bool, as_json: bool) -> None:
    shown = _Shown(wanted, as_json)
    found: Iterable[Record] = _only(reader, wanted)
    if follow or limit is not None:
        found = deque(found, maxlen=limit or _FOLLOWED)
    for record in found:
        shown.show(record)
    shown.tell_notes(reader)
    while follow:
        time.sleep(QUERY_LOG_DRAIN_SECONDS)
        for record in _only(reader, wanted):
            shown.show(record)
        sys.stdout.flush()
        shown.tell_notes(reader)


def _only(reader: LogReader, wanted: Wanted) -> Iterator[Record]:
    return (record for record in reader.read() if wanted.holds(record))


class _Shown:
    """What was shown so far, and which notes were told about it."""

    def __init__(self, wanted: Wanted, as_json: bool) -> None:
        self._wanted, self._as_json = wanted, as_json
        self._masked = False
        self._told: set[str] = set()
        self._damaged = 0

    def show(self, record: Record) -> None:
        masked = self._wanted.number is not None and is_masked(record.number)
        self._masked |= masked
        if not self._as_json:
            click.echo(_line(record))
            return
        fields: dict[str, Any] = msgspec.structs.asdict(record)
        if self._wanted.number is not None:
            fields["match"] = "prefix" if masked else "number"
        click.echo(json.dumps(fields))

    def tell_notes(self, reader: LogReader) -> None:
        """On stderr, each once; of damage each time that there is more."""
        if self._masked:
            assert self._wanted.number is not None
            self._tell(f"masked numbers match by their first digits, {self._wanted.number[:-4]}: they may be others")
        if reader.is_broken:
            self._tell("files were turned over and removed before they were read: records are missing")
        if reader.damaged != self._damaged:
            self._damaged = reader.damaged
            self._tell(f"{reader.damaged} damaged {'line was' if reader.damaged == 1 else 'lines were'} left out")

    def _tell(self, note: str) -> None:
        if note not in self._told:
            self._told.add(note)
            click.echo(f"note: {note}", err=True)


def _line(record: Record) -> str:
    """For people. What came from elsewhere is quoted unless it is plain: no file makes a terminal do things."""
    parts = [record.time, record.client, f"{record.dialect}/{record.transport}", record.number or "-", record.outcome]
    texts = [_text(part) for part in parts]
    for name in ("reason", "network_code", "routing_number", "serial", "source", "reply_us"):
        value = getattr(record, name)
        if value is not None:
            texts.append(f"{name}={_text(str(value))}")
    return " ".join(texts)


def _text(text: str) -> str:
    return text if _PLAIN.fullmatch(text) else json.dumps(text)
