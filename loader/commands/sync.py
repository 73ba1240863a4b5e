"""Commands of the exchange: sync, and clock, which takes over a jump of the wall clock."""

from __future__ import annotations

import json
from pathlib import Path

import click

from loader.commands.common import EXISTING, end_round, fail, parse_word
from lookupd.config import read_config
from lookupd.errors import LookupdError
from lookupd.model import JournalKind, UnixSeconds


@click.command()
@click.option("--config", type=EXISTING, required=True, help="Configuration file with the store and its feeds.")
@click.option("--once", is_flag=True, help="Do what is there to do, and end: 0 done, 5 gap, 4 bad file, 1 source.")
@click.option("--json", "as_json", is_flag=True, help="With --once: one JSON object on stdout.")
def sync(config: Path, once: bool, as_json: bool) -> None:
    """Fetch each feed's files, confirm, apply and acknowledge them, and fire agreed changes, until SIGTERM.

    The log on stderr tells of every change of state; [sync] http serves metrics and health.

    \b
    Examples: lookupd-loader sync --config /etc/lookupd/a.toml
              lookupd-loader sync --once --config /etc/lookupd/a.toml
    """
    import uvloop

    from loader.sync import Sync

    try:
        settings = read_config(config)
        exchange = Sync(settings)
        if not once:
            uvloop.run(exchange.run())
            return
        code = uvloop.run(exchange.once())
    except LookupdError as error:
        fail(error, as_json)
        return
    end_round(code, exchange.feeds, as_json)


@click.command()
@click.option("--config", type=EXISTING, required=True, help="Configuration file with the store.")
@click.option("--accept", metavar="WHO: WHY", help="Take the wall clock's word, and journal who said so.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def clock(config: Path, accept: str | None, as_json: bool) -> None:
    """Show whether the exchange follows the wall clock, and take over a jump that it refused.

    A jump beyond limits.clock_step is not followed: pending changes go on firing by the time since boot.

    \b
    Example: lookupd-loader clock --config /etc/lookupd/a.toml --accept "chen: NTP was off since Monday"
    """
    import time

    from loader.steady import SteadyClock, acceptance_file
    from loader.sync import clock_file
    from lookupd.store.change import Counts
    from lookupd.store.writer import Writer

    try:
        settings = read_config(config)
        file = clock_file(settings)
        steady = SteadyClock(file, settings.limits.clock_step)
        refused = steady.refused_seconds
        if accept is not None:
            word = parse_word("--accept", accept)
            with (
                Writer(settings.store_path, map_size=settings.store.map_size) as writer,
                writer.change(UnixSeconds(int(time.time()))) as change,
            ):
                change.record(JournalKind.CLOCK, Counts(), reason=word, source=f"{refused:+.0f} s")
            file.parent.mkdir(parents=True, exist_ok=True)
            acceptance_file(file).write_text(word + "\n")
            steady.accept()
    except LookupdError as error:
        fail(error, as_json)
        return
    if as_json:
        click.echo(json.dumps({"refused_seconds": round(refused, 3), "accepted": accept is not None}))
    elif accept is not None:
        click.echo(f"clock: the wall clock is followed from now on ({refused:+.0f} s)")
    elif refused:
        click.echo(f"clock: the wall clock is {refused:+.0f} s from where it should be, and is not followed")
    else:
        click.echo("clock: the wall clock is followed")
