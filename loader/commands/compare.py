"""The command that holds two replicas against each other: compare."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click
import msgspec

from loader.commands.common import Target, on_store, open_writer, parse_word
from loader.commands.reconcile import SHOW_NUMBERS, open_reader
from lookupd.errors import Stale

if TYPE_CHECKING:
    from loader.compare import Compared
    from loader.corrections import Repaired
    from lookupd.store.portable import Row


@click.command()
@click.argument("url")
@SHOW_NUMBERS
@click.option("--repair", is_flag=True, help="Make the numbers of this store as the other replica has them.")
@click.option("--reason", metavar="WHO: WHY", help="With --repair; kept in the journal.")
@on_store
def compare(target: Target, url: str, show_numbers: bool, repair: bool, reason: str | None) -> None:
    """Compare this store with the other replica's, by digest, then by block. Exit code 6 if they differ.

    URL is the other replica's listen.http; its [[client]] list must have this machine, as a peer. For https,
    --config says whom we believe and what we show: [replica] peer_ca, peer_token_file. Reads only,
    but for --repair: replicas at the same feed position are made equal, by corrections in the journal here.

    \b
    Examples: lookupd-loader compare http://127.0.0.1:9475 --store /var/lib/lookupd/a
              lookupd-loader compare https://192.0.2.7:9474 --config a.toml --repair --reason "noc: b is right"
    """
    from loader.compare import compare as compare_replicas
    from loader.peer import Peer
    from lookupd.peer_keys import read_peer_keys

    if repair and not reason:
        raise click.UsageError('--repair needs --reason "who: why"')
    repaired = None
    keys = read_peer_keys(target.peer, url)
    with open_reader(target) as reader:
        result = compare_replicas(reader, Peer(url, keys=keys))
    if repair and reason and result.result != "equal":
        repaired = _repair(target, result, url, parse_word("--reason", reason))
        with open_reader(target) as reader:
            result = compare_replicas(reader, Peer(url, keys=keys))
    if target.as_json:
        told = {"same_positions": result.same_positions, "repaired": msgspec.to_builtins(repaired)}
        click.echo(json.dumps(msgspec.to_builtins(result) | told))
    else:
        if repaired is not None:
            click.echo("repaired: " + " ".join(f"{k}={v}" for k, v in msgspec.structs.asdict(repaired).items() if v))
        for line in _compared_lines(result, show_numbers):
            click.echo(line)
    if result.result != "equal":
        sys.exit(Stale.exit_code)


def _repair(target: Target, result: Compared, url: str, reason: str) -> Repaired:
    from loader.corrections import repair_from_peer

    with open_writer(target) as writer:
        return repair_from_peer(writer, result, url, reason, target.now())


def _compared_lines(result: Compared, show_numbers: bool) -> Iterator[str]:
    from loader.differences import shown
    from lookupd.limits import DIFFERENCES_SHOWN

    yield f"{result.there.replica}: {result.result}"
    for name, side in (("here", result.here), ("there", result.there)):
        positions = " ".join(f"{feed}={sequence}" for feed, sequence in sorted(side.positions.items())) or "no feed"
        yield f"  {name}: {positions} serial={side.serial} digest={side.digest} ported={side.ported}"
    if result.result == "equal":
        return
    if not result.same_positions:
        yield "note: the positions differ: let both apply the same files, then compare again"
    yield f"  blocks that differ: {len(result.blocks)}; numbers: {len(result.numbers)}; details only: {result.details}"
    for what, items in (
        ("blocks damaged here", result.damaged_here),
        ("blocks damaged there", result.damaged_there),
        ("networks that differ", result.networks),
        ("ranges that differ", result.ranges),
        ("restrictions that differ", result.restrictions),
    ):
        if items:
            more = " ..." if len(items) > DIFFERENCES_SHOWN else ""
            yield f"  {what}: {len(items)}: {' '.join(map(str, items[:DIFFERENCES_SHOWN]))}{more}"
    for difference in result.numbers[:DIFFERENCES_SHOWN]:
        here, there = (_route(row) for row in (difference.here, difference.there))
        yield f"  {shown(difference.tn, show_numbers)}: here {here}; there {there}"
    if len(result.numbers) > DIFFERENCES_SHOWN:
        yield f"  and {len(result.numbers) - DIFFERENCES_SHOWN} more: --json tells all of them"
    if result.blocks_left:
        yield f"  {result.blocks_left} more blocks differ and were not read: load the newest snapshot on both sides"


def _route(row: Row | None) -> str:
    if row is None:
        return "not ported"
    return row.network_code + (f" routing_number={row.routing_number}" if row.routing_number else "")
