"""The sender's side, for trials and for operators who make files themselves: manifest."""

from __future__ import annotations

import json
from pathlib import Path

import click

from loader.commands.common import EXISTING, fail, unix_now
from lookupd.errors import FeedError, LookupdError
from lookupd.units import format_time


@click.command()
@click.argument("file", type=EXISTING)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def manifest(file: Path, as_json: bool) -> None:
    """Put a manifest beside a snapshot or delta, by rename: with it the file is complete, and `sync` takes it.

    The name says feed and sequence: delta-FEED-SEQUENCE.ndjson. Sign it with `minisign -S -m FILE.json` where
    the feed has keys.

    \b
    Example: lookupd-loader manifest delta-main-12.ndjson
    """
    from loader.files import FeedFile, line_chunks, parse_file_name, write_manifest
    from lookupd.limits import DELTA_LINE_BYTES_MAX

    try:
        name = parse_file_name(file.name)
        if name is None:
            raise FeedError(f"{file.name}: call it snapshot-FEED-SEQUENCE.csv or delta-FEED-SEQUENCE.ndjson")
        try:
            data = file.open("rb")
        except OSError as error:
            raise FeedError(f"{file}: {error.strerror}") from None
        with data:
            found = FeedFile(file, name.type, name.feed, name.sequence, None, None, file.stat().st_size, None)
            lines = sum(
                chunk.count(b"\n") + (not chunk.endswith(b"\n"))
                for chunk in line_chunks(found, data, DELTA_LINE_BYTES_MAX)
            )
        rows = max(lines - (name.type == "snapshot"), 0)
        write_manifest(file, rows, format_time(unix_now()) or "")
    except LookupdError as error:
        fail(error, as_json)
        return
    if as_json:
        click.echo(json.dumps({"file": file.name, "feed": name.feed, "sequence": name.sequence, "rows": rows}))
    else:
        click.echo(f"{file.name}.json: feed={name.feed} type={name.type} sequence={name.sequence} rows={rows}")
