"""A line of the query log: one number asked, as both engines write it. And what `[query_log]` may say."""

from __future__ import annotations

from pathlib import Path

import msgspec

from lookupd.errors import ConfigError
from lookupd.limits import QUERY_LOG_FILE_BYTES_MIN, QUERY_LOG_FILES_MAX, QUERY_LOG_SAMPLE_MAX
from lookupd.model import Outcome
from lookupd.settings import Config

DROPPED = "dropped"
"""The outcome of what got no answer."""

OUTCOMES = (*(outcome.label for outcome in Outcome), DROPPED)
"""That a record may have; the order is the native engine's too."""


class Record(msgspec.Struct, frozen=True):
    """A line of the log: one number asked. Absent values are null, keys never vanish.

    time: when it was asked, or read. number: null when what was asked is none, or was not read so far. reason: why it
    was dropped, of `model.DROP_REASONS`. network_code, routing_number: of the route found, whatever the dialect tells
    of it. serial: of the store that was asked. source: an address. reply_us: from arrival to departure, where that is
    measured: UDP of the native engine.
    """

    time: str
    client: str
    dialect: str
    transport: str
    number: str | None
    outcome: str
    reason: str | None
    network_code: str | None
    routing_number: str | None
    serial: int
    source: str
    reply_us: int | None


def check_query_log(config: Config) -> None:
    """Raises ConfigError."""
    settings = config.query_log
    if settings.path and not Path(settings.path).is_absolute():
        raise ConfigError(f"query_log.path: {settings.path}: name it from the root on, /var/log/lookupd/queries.ndjson")
    if not 1 <= settings.sample <= QUERY_LOG_SAMPLE_MAX:
        raise ConfigError(f"query_log.sample: 1 to {QUERY_LOG_SAMPLE_MAX}: one of so many queries is written")
    if settings.file_size < QUERY_LOG_FILE_BYTES_MIN:
        raise ConfigError("query_log.file_size: at least 64KiB")
    if not 1 <= settings.files <= QUERY_LOG_FILES_MAX:
        raise ConfigError(f"query_log.files: 1 to {QUERY_LOG_FILES_MAX}, the current one among them")
    known = {client.name for client in config.clients}
    for name in settings.clients:
        if name not in known:
            raise ConfigError(f"query_log.clients: {name!r}: no [[client]] has this name")
    for outcome in settings.outcomes:
        if outcome not in OUTCOMES:
            raise ConfigError(f"query_log.outcomes: {outcome!r} is none of {', '.join(OUTCOMES)}")
