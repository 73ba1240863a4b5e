"""Whom the probe asks, and how long it waits: read from the settings, or from what a person wrote."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from urllib.parse import urlsplit

import dns.exception
import dns.name

from lookupd.clients import Server, parse_server
from lookupd.errors import ConfigError, LookupdError
from lookupd.limits import (
    PROBE_EVERY_MAX_SECONDS,
    PROBE_EVERY_MIN_SECONDS,
    PROBE_INTERVAL_MIN_SECONDS,
    PROBE_KEEP_MIN_SECONDS,
    PROBE_SERVERS_MAX,
    PROBE_TIMEOUT_MAX_SECONDS,
    PROBE_UNDER_WAY_MAX,
)
from lookupd.settings import ProbeSettings

_KINDS = {"udp": ("npq", False), "tcp": ("npq", True), "pdb": ("pdb", False), "http": ("http", True)}
"""Scheme -> dialect, and whether it is a stream."""

_OF_CLIENTS = frozenset({"enum", "sip"})
"""Those that `clients` reads."""

PORTS = {"npq": 4700, "pdb": 5574, "http": 9474}
_EXAMPLE = "udp://192.0.2.10:4700, pdb://192.0.2.10:5574, enum://192.0.2.10/np.example, sip://192.0.2.10, or http://"


def parse(text: str) -> Server:
    """One server. Raises LookupdError with the reason."""
    if text.partition("://")[0].partition("+")[0] in _OF_CLIENTS:
        server = parse_server(text)
        _check_apex(server)
        return server
    try:
        parts = urlsplit(text)
        port, host = parts.port, str(ipaddress.ip_address(parts.hostname or ""))
    except ValueError as error:
        raise LookupdError(f"server {text}: {error}: write it like {_EXAMPLE}") from None
    if parts.scheme not in _KINDS or parts.path.strip("/") or parts.query or parts.fragment or parts.username:
        raise LookupdError(f"server {text}: write it like {_EXAMPLE}")
    dialect, is_stream = _KINDS[parts.scheme]
    return Server(dialect, is_stream, host, PORTS[dialect] if port is None else port, "", text)


def _check_apex(server: Server) -> None:
    """Its name has room for fifteen digits and their dots."""
    try:
        if server.apex:
            dns.name.from_text(".".join((*"9" * 15, server.apex)))
    except dns.exception.DNSException as error:
        raise LookupdError(f"server {server.url}: the apex is no domain name: {error}") from None


def parse_all(texts: Sequence[str]) -> list[Server]:
    """Each of them once. Raises LookupdError."""
    if not 1 <= len(texts) <= PROBE_SERVERS_MAX:
        raise LookupdError(f"name 1 to {PROBE_SERVERS_MAX} servers, such as udp://192.0.2.10:4700; {len(texts)} are")
    servers = [parse(text) for text in texts]
    places = [(server.dialect, server.tcp, server.host, server.port, server.apex) for server in servers]
    for server, place in zip(servers, places, strict=True):
        if places.count(place) > 1:
            raise LookupdError(f"server {server.url}: is named twice, and would count twice")
    return servers


def check_probe(probe: ProbeSettings) -> None:
    """What types cannot say. Raises ConfigError."""
    if probe.servers:
        try:
            parse_all(probe.servers)
        except LookupdError as error:
            raise ConfigError(f"probe.servers: {error}") from None
    if not 0 <= probe.unported_share < 1:
        raise ConfigError("probe.unported_share: a share from 0 to below 1; 0.1 is one question in ten")
    if probe.interval < PROBE_INTERVAL_MIN_SECONDS:
        raise ConfigError(f"probe.interval: at least {PROBE_INTERVAL_MIN_SECONDS * 1000:g}ms: a probe is to be no load")
    for name in probe.timeouts.__struct_fields__:
        if not 0 < getattr(probe.timeouts, name) <= PROBE_TIMEOUT_MAX_SECONDS:
            raise ConfigError(f"probe.timeouts.{name}: more than 0s, at most {PROBE_TIMEOUT_MAX_SECONDS:g}s")
    longest = max(getattr(probe.timeouts, name) for name in probe.timeouts.__struct_fields__)
    if probe.interval * PROBE_UNDER_WAY_MAX < 2 * longest:  # half an interval is the shortest
        raise ConfigError(
            f"probe.interval: {probe.interval:g} s, with a time-out of {longest:g} s: more than {PROBE_UNDER_WAY_MAX} "
            "questions to a silent server would be under way: a longer interval, or a shorter probe.timeouts"
        )
    if not PROBE_EVERY_MIN_SECONDS <= probe.every <= PROBE_EVERY_MAX_SECONDS:
        raise ConfigError(
            f"probe.every: {PROBE_EVERY_MIN_SECONDS * 1000:g}ms to {PROBE_EVERY_MAX_SECONDS:g}s: what was "
            "measured since the last saving is lost with a crash"
        )
    if probe.keep < PROBE_KEEP_MIN_SECONDS:
        raise ConfigError(f"probe.keep: at least {PROBE_KEEP_MIN_SECONDS / 86_400:g}d: a half-year's report needs them")
