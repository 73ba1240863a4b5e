"""`lookupd query --imsi`: over HTTP from daemons, one after another, or from a store. How it is printed is `cli`'s."""

from __future__ import annotations

from collections.abc import Sequence

import click

from lookupd.errors import LookupdError
from lookupd.imsis import Imsis, ImsiView, is_imsi
from lookupd.settings import Config

_KEYS_OF_HTTPS = "--token-file and --ca-file are for https:// servers, where nobody listens in"


def check_imsis(imsis: Sequence[str]) -> None:
    """Raises UsageError."""
    for imsi in imsis:
        if not is_imsi(imsi):
            raise click.UsageError(f"--imsi {imsi[:40]!r}: an IMSI has 14 or 15 digits")


def ask(
    servers: Sequence[str], imsis: Sequence[str], timeout: float, keys: tuple[str | None, str | None]
) -> list[ImsiView]:
    """Raises UsageError, LookupdError, NoAnswer, WrongAnswer. timeout: seconds, for each request."""
    from lookupd import clients
    from lookupd.clients import http

    if not servers or not all(server.startswith(("http://", "https://")) for server in servers):
        raise click.UsageError("--imsi: asked of --server http://... or https://..., or of --store or --config")
    if any(keys) and not all(server.startswith("https://") for server in servers):
        raise click.UsageError(_KEYS_OF_HTTPS)
    return http.query_imsis([clients.parse_server(server) for server in servers], imsis, timeout, http.Keys(*keys))


def read(settings: Config, imsis: Sequence[str]) -> list[ImsiView]:
    """From the store. Raises LookupdError when it has no data to answer from."""
    from lookupd.engine import Engine
    from lookupd.status import unix_now
    from lookupd.store.reader import Reader

    engine, found = Engine(settings.read_plan(), settings.limits.stale_after), Imsis()
    with Reader(settings.store_path, map_size=settings.store.map_size) as reader:
        engine.reader = reader
        engine.begin(unix_now())
        if not engine.usable:
            raise LookupdError(f"{settings.store_path}: {engine.reason}")
        return [found.view(engine, imsi) for imsi in imsis]
