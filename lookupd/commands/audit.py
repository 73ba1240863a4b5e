"""`lookupd audit`: who asked for a risk check, about which number, and why; and whether that is whole."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from lookupd.commands.common import PATH, carry_out, json_option
from lookupd.errors import LookupdError, Stale
from lookupd.numbering import strip_separators

if TYPE_CHECKING:
    from lookupd.audit import AuditRecord
    from lookupd.audit_reader import Proof
    from lookupd.model import UnixSeconds


@click.command()
@click.option("--config", type=PATH, help="Configuration of the replica whose audit is read.")
@click.option("--folder", type=PATH, help="The audit's folder, or a copy of it.")
@click.option("--since", metavar="TIME", help="From this RFC 3339 time on.")
@click.option("--until", metavar="TIME", help="Before this RFC 3339 time.")
@click.option("--number", help="Only about this number; digits as they were asked, without separators.")
@click.option("--client", help="Only of this client.")
@click.option("--verify", is_flag=True, help="Prove the chains of hashes instead. Exit code 6 if one is broken.")
@json_option
def audit(
    config: Path | None,
    folder: Path | None,
    since: str | None,
    until: str | None,
    number: str | None,
    client: str | None,
    verify: bool,
    as_json: bool,
) -> None:
    """Show who was told the past of which number, when and why, the oldest first.

    Each line was on the disk before its answer was given. With --verify, the hash of the newest line is printed: keep
    it elsewhere, since who can write the files can write other ones.

    \b
    Examples: lookupd audit --config /etc/lookupd/a.toml --number 0912345678
              lookupd audit --config /etc/lookupd/a.toml --verify
    """
    if (config is None) == (folder is None):
        raise click.UsageError("name one: --config FILE or --folder DIR")
    if verify and (since or until or number or client):
        raise click.UsageError("--verify reads all of it: leave the other options out")
    first, end = _moment("--since", since), _moment("--until", until)

    def work() -> None:
        from lookupd.audit_reader import prove, read

        place = _place(config, folder)
        if verify:
            _tell(prove(place), as_json)
            return
        wanted = None if number is None else strip_separators(number)
        for line in read(place):
            record = line.record
            if wanted is not None and strip_separators(record.number) != wanted:
                continue
            if (client is None or record.client == client) and _is_within(record, first, end):
                told = msgspec.structs.asdict(record) | {"file": line.file, "line": line.number, "hash": line.hash}
                click.echo(msgspec.json.encode(told).decode() if as_json else _line(record))

    carry_out(as_json, work)


def _place(config: Path | None, folder: Path | None) -> Path:
    """Raises LookupdError."""
    from lookupd.config import read_config

    if folder is not None:
        return folder
    assert config is not None
    return read_config(config).audit_path


def _moment(option: str, text: str | None) -> UnixSeconds | None:
    from lookupd.units import parse_time

    try:
        return None if text is None else parse_time(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=option) from None


def _is_within(record: AuditRecord, first: UnixSeconds | None, end: UnixSeconds | None) -> bool:
    """Raises LookupdError for a record whose time is none."""
    from lookupd.units import parse_millis

    try:
        at = parse_millis(record.at)
    except ValueError as error:
        raise LookupdError(f"a record's time: {error}") from None
    return (first is None or at >= first * 1000) and (end is None or at < end * 1000)


def _line(record: AuditRecord) -> str:
    as_of = "" if record.as_of is None else f" as_of={record.as_of}"
    return (
        f"{record.at} client={_shown(record.client)} account={_shown(record.account)} source={_shown(record.source)} "
        f"number={_shown(record.number)}{as_of} window={record.window_seconds}s outcome={record.outcome} "
        f"purpose={_shown(record.purpose)}"
    )


def _shown(text: str) -> str:
    """In quotes where it has blanks or what no terminal should be given."""
    plain = text.isprintable() and text and not any(char in text for char in ' "\\')
    return text if plain else json.dumps(text)


def _tell(found: Proof, as_json: bool) -> None:
    if as_json:
        click.echo(msgspec.json.encode(found).decode())
    else:
        click.echo(f"files={found.files} records={found.records} newest={found.newest or '-'}")
        for name in found.cut_off:
            click.echo(f"{name}: its last line is cut off, as by a crash: it was not answered")
        for words in found.broken:
            click.echo(f"broken: {words}")
    if found.broken:
        sys.exit(Stale.exit_code)
