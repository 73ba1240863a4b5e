"""`lookupd history`: a number's past for risk checks, from a store or of a daemon, which audits it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from lookupd.commands.common import PATH, carry_out, json_option
from lookupd.errors import LookupdError
from lookupd.limits import AUDIT_PURPOSE_CHARS_MAX, RISK_WINDOW_SECONDS_MAX
from lookupd.model import UnixSeconds

if TYPE_CHECKING:
    from lookupd.risk import RiskView


@click.command()
@click.argument("number")
@click.option("--as-of", metavar="TIME", help="As it was at this RFC 3339 time.  [default: now]")
@click.option("--window", metavar="TIME", default="180d", show_default=True, help="How far back ports are counted.")
@click.option("--store", type=PATH, help="Folder of the store, read here; this is not audited.")
@click.option("--config", type=PATH, help="Configuration that names the store and the plan; likewise.")
@click.option("--country", default="886", show_default=True, help="Country code of the plan, with --store.")
@click.option("--server", metavar="URL", help="A daemon, http:// or https://, which audits the question.")
@click.option("--purpose", metavar="WHY", help="With --server: why it is asked, such as a case; it is kept.")
@click.option("--token-file", type=PATH, help="Holds the token of this client; for https:// servers.")
@click.option("--ca-file", type=PATH, help="Authorities of https:// servers, in PEM.  [default: the system's]")
@click.option("--timeout", default=5.0, show_default=True, type=click.FloatRange(0.001, 600), help="Seconds.")
@json_option
def history(
    number: str,
    as_of: str | None,
    window: str,
    store: Path | None,
    config: Path | None,
    country: str,
    server: str | None,
    purpose: str | None,
    token_file: Path | None,
    ca_file: Path | None,
    timeout: float,
    as_json: bool,
) -> None:
    """Say when a number was last ported, how often, and whether it was restricted, for a risk check.

    It is personal data (NPR article 34): a daemon tells it to clients with the permission `risk` alone, and writes who
    asked, and why, into its audit before it answers. `lookupd audit` shows that.

    \b
    Examples: lookupd history 0912345678 --server http://127.0.0.1:9474 --purpose "payment 4711"
              lookupd history 0912345678 --as-of 2026-11-01T00:00:00+08:00 --window 30d --store /var/lib/lookupd/a
    """
    if (store is not None) + (config is not None) + (server is not None) != 1:
        raise click.UsageError("name one: --server URL, --store DIR or --config FILE")
    if (server is None) != (purpose is None):
        raise click.UsageError("--purpose goes with --server: there it is audited")
    moment, seconds = _terms(as_of, window)

    def work() -> None:
        if server is None:
            found = _read(number, store, config, country, moment, seconds)
        else:
            assert purpose is not None
            terms = {"purpose": purpose, "window": window} | ({} if as_of is None else {"as_of": as_of})
            found = _ask(server, number, terms, timeout, token_file, ca_file)
        if as_json:
            click.echo(msgspec.json.encode(found).decode())
        else:
            click.echo("\n".join(_lines(found)))

    carry_out(as_json, work)


def _terms(as_of: str | None, window: str) -> tuple[UnixSeconds | None, int]:
    """Raises click's usage error."""
    from lookupd.units import parse_duration, parse_time

    try:
        moment = None if as_of is None else parse_time(as_of)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--as-of") from None
    if moment is not None and moment > time.time():
        raise click.BadParameter("is in the future", param_hint="--as-of")
    try:
        seconds = int(parse_duration(window))
        if not 1 <= seconds <= RISK_WINDOW_SECONDS_MAX:
            raise ValueError(f"from 1s to {RISK_WINDOW_SECONDS_MAX // 86_400}d")
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--window") from None
    return moment, seconds


def _read(
    number: str, store: Path | None, config: Path | None, country: str, moment: UnixSeconds | None, seconds: int
) -> RiskView:
    """Raises LookupdError."""
    from lookupd.config import read_config
    from lookupd.engine import Engine
    from lookupd.numbering import load_plan
    from lookupd.risk import Window, risk
    from lookupd.store.reader import DEFAULT_MAP_SIZE, Reader

    settings = None if config is None else read_config(config)
    path = settings.store_path if settings is not None else store
    assert path is not None
    engine = Engine(load_plan(country) if settings is None else settings.read_plan(), 0)
    _check_number(number)
    with Reader(path, map_size=DEFAULT_MAP_SIZE if settings is None else settings.store.map_size) as reader:
        engine.reader = reader
        now = UnixSeconds(int(time.time()))
        engine.begin(now)
        if not engine.usable:
            raise LookupdError(f"{path}: {engine.reason}")
        return risk(engine, number, Window(moment or now, seconds), is_past=moment is not None)


def _check_number(number: str) -> None:
    from lookupd.limits import NUMBER_CHARS_MAX
    from lookupd.numbering import strip_separators

    digits = strip_separators(number).removeprefix("+")
    if len(number) > NUMBER_CHARS_MAX or not (digits.isascii() and digits.isdigit()):
        raise click.UsageError(f"{number[:40]!r}: not a number: write its digits, with + before a country code")


def _ask(
    server: str, number: str, terms: dict[str, str], timeout: float, token_file: Path | None, ca_file: Path | None
) -> RiskView:
    """Raises LookupdError."""
    from lookupd import clients
    from lookupd.client import NoAnswer
    from lookupd.clients import WrongAnswer, http

    if not server.startswith(("http://", "https://")):
        raise click.UsageError("--server: http://... or https://...: no other dialect has a number's past")
    _check_number(number)
    if not 1 <= len(terms["purpose"].strip()) <= AUDIT_PURPOSE_CHARS_MAX or not terms["purpose"].isprintable():
        raise click.UsageError(f"--purpose: 1 to {AUDIT_PURPOSE_CHARS_MAX} printable characters")
    keys = http.Keys(*(None if file is None else str(file) for file in (token_file, ca_file)))
    try:
        return http.query_risk(clients.parse_server(server), number, terms, timeout, keys)
    except (NoAnswer, WrongAnswer) as error:
        raise LookupdError(str(error)) from None


def _lines(found: RiskView) -> Iterator[str]:
    network = f"network {found.network_code} ({found.operator})" if found.network_code else "no network"
    yield f"{found.number} as of {found.as_of}: {found.outcome}, {network}"
    if found.last_ported_at is None:
        yield "last ported: not known to have been"
    else:
        way = f"{found.last_ported_from or 'not told'} -> {found.last_ported_to}"
        yield f"last ported: {found.last_ported_at}, {way}"
    bound = "" if found.window_covered else f" at least; the history begins at {found.known_since}"
    yield f"since {found.window_from}: {found.ports} ports, {found.returns} returns{bound}"
    if found.restriction is not None:
        yield f"restricted: {found.restriction['kind']} until {found.restriction['until']}"
    else:
        yield "restricted: no" + (", but it was in this time" if found.restricted_in_window else "")
    for move in found.moves:
        way = f"{move.from_network or 'not told'} -> {move.to_network or 'home'}"
        yield f"  {move.at} {move.kind} {way} (serial {move.serial})"
    if found.is_cut:
        yield "  and more before"
