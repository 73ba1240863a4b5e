"""What only a server's monitoring port tells: whether it syncs each write before it says that it is kept.

Settings name the ports (`jetstream.monitor`); without them this is told as unchecked, once a connection.
"""

from __future__ import annotations

from typing import Any

import aiohttp
import msgspec

from lookupd.errors import SourceError
from lookupd.fleet import parse_version
from lookupd.limits import ENGINE_ANSWER_SECONDS, ENGINE_MONITOR_BYTES_MAX
from lookupd.observe.log import log
from lookupd.settings import JetStreamSettings


async def check_servers(settings: JetStreamSettings) -> None:
    """Raises SourceError for a server that says it does not; one that says nothing is told in the log."""
    if not settings.monitor:
        log("engine_unchecked", what="sync_interval", way_out="set jetstream.monitor")
        return
    floor = parse_version(settings.server_version)
    assert floor is not None
    for url in settings.monitor:
        try:
            told = await _ask(f"{url.rstrip('/')}/varz")
        except (aiohttp.ClientError, TimeoutError, OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            log("engine_unchecked", what="sync_interval", monitor=url, reason=str(error) or type(error).__name__)
            continue
        if not _syncs_always(told):
            raise SourceError(
                f"{url}: its server does not sync each write, so that a message it took is lost with the power: "
                "`sync_interval: always` in its `jetstream { ... }`, or take it out of jetstream.monitor"
            )
        version = parse_version(str(told.get("version")))
        if version is None or version < floor:
            raise SourceError(f"{url}: its server is of version {told.get('version')}: upgrade all of them")


async def _ask(url: str) -> dict[str, Any]:
    body = b""
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ENGINE_ANSWER_SECONDS)) as session,
        session.get(url, allow_redirects=False) as answer,
    ):
        answer.raise_for_status()
        async for piece in answer.content.iter_any():
            body += piece
            if len(body) > ENGINE_MONITOR_BYTES_MAX:
                raise aiohttp.ClientPayloadError(f"more than {ENGINE_MONITOR_BYTES_MAX} bytes")
    return msgspec.json.decode(body, type=dict[str, Any])


def _syncs_always(told: dict[str, Any]) -> bool:
    """`jetstream.config.sync_always` of /varz, which servers from 2.10 on have when it is set."""
    jetstream = told.get("jetstream")
    config = jetstream.get("config") if isinstance(jetstream, dict) else None
    return isinstance(config, dict) and config.get("sync_always") is True
