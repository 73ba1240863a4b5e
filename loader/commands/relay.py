"""Commands of a fleet: relay, which carries the signed files to the engine, and fleet, which shows the replicas."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from loader.commands.common import EXISTING, FeedState, end_round, fail
from lookupd.config import read_config
from lookupd.errors import ConfigError, LookupdError
from lookupd.settings import Config

if TYPE_CHECKING:
    from loader.fleet.fleet import State


def _need_client() -> None:
    try:
        import nats  # noqa: F401
    except ImportError:
        raise ConfigError("the client of NATS is not installed: pip install 'lookupd[fleet]'") from None


@click.command()
@click.option("--config", type=EXISTING, required=True, help="Configuration file with [jetstream] and the feeds.")
@click.option(
    "--once", is_flag=True, help="Publish what is there, and end: 0 done, 5 gap, 4 bad file, 1 engine or source."
)
@click.option("--json", "as_json", is_flag=True, help="With --once: one JSON object on stdout.")
def relay(config: Path, once: bool, as_json: bool) -> None:
    """Carry each feed's signed deltas from their source to NATS JetStream, for a fleet of replicas, until SIGTERM.

    Two relays may run at once, on two machines: each delta is published once, in order.

    \b
    Examples: lookupd-loader relay --config /etc/lookupd/relay.toml
              lookupd-loader relay --once --config /etc/lookupd/relay.toml
    """
    import uvloop

    async def work(settings: Config) -> tuple[int, Sequence[FeedState]]:
        from loader.fleet.relay import Relay

        carrier = Relay(settings)
        if not once:
            await carrier.run()
            return 0, []
        return await carrier.once(), carrier.feeds

    try:
        _need_client()
        code, feeds = uvloop.run(work(read_config(config)))
    except LookupdError as error:
        fail(error, as_json)
        return
    end_round(code, feeds, as_json)


@click.command()
@click.option("--config", type=EXISTING, required=True, help="Configuration file with [jetstream].")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def fleet(config: Path, as_json: bool) -> None:
    """Show how far each replica of the fleet is, by its own last word. 6: some differ from the others in content.

    \b
    Example: lookupd-loader fleet --config /etc/lookupd/relay.toml
    """
    import uvloop

    async def work(settings: Config) -> list[State]:
        from loader.fleet.fleet import read_fleet

        return await read_fleet(settings.jetstream)

    try:
        _need_client()
        states = uvloop.run(work(read_config(config)))
    except LookupdError as error:
        fail(error, as_json)
        return
    if as_json:
        click.echo(json.dumps({"feeds": [state.as_object() for state in states]}))
    else:
        for state in states:
            _print(state)
    sys.exit(6 if any(state.differing for state in states) else 0)


def _print(state: State) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"feed {state.feed}, engine at {state.sequence}", title_justify="left")
    for name in ("replica", "sequence", "behind", "result", "digest", "visible_at"):
        table.add_column(name, justify="right" if name in {"sequence", "behind"} else "left")
    for row in state.rows():
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    Console().print(table)
    if state.differing:
        click.echo(f"content differs from the others': {', '.join(state.differing)}")
