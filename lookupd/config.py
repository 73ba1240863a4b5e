"""One TOML file read into `settings`: units, the nearest known key, and the checks that types cannot make."""

from __future__ import annotations

import difflib
import ipaddress
import re
import tomllib
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import msgspec

from lookupd.errors import ConfigError
from lookupd.fleet import check_follower, check_jetstream
from lookupd.http_settings import check_http
from lookupd.jobs import check_batches
from lookupd.limits import AUDIT_KEEP_SECONDS_MIN, ENGINE_THREADS_MAX, ENGINE_WORKERS_MAX
from lookupd.probe.servers import check_probe
from lookupd.profiles import EnumSettings, SipSettings, check_enum, check_sip
from lookupd.query_record import check_query_log
from lookupd.settings import (
    FEED_NAME,
    FLEET,
    LOCAL_CLIENT,
    ClientSettings,
    Config,
    FeedSettings,
    Limits,
    parse_endpoint,
)
from lookupd.settlement import check_settlement, check_usage
from lookupd.units import Duration, Size, parse_duration, parse_size, parse_time

Settings = TypeVar("Settings", bound=msgspec.Struct)


PUBLIC_KEYS_MAX = 2
_PUBLIC_KEY = re.compile(r"RW[0-9A-Za-z+/]{54}(?: until (?P<until>\S+))?")

TRANSPORTS = {
    "npq": ("udp", "tcp"),
    "pdb": ("udp",),
    "enum": ("udp", "tcp"),
    "sip": ("udp", "tcp"),
    "http": ("http", "https"),
}


def read_config(path: Path) -> Config:
    """The checked configuration. Raises ConfigError naming the file, the key, the reason and the way out."""
    try:
        text = path.read_bytes().decode("utf-8")
        tree = tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at byte {error.start}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: {error}") from None
    try:
        _refuse_unknown_keys(tree, Config, "")
        if isinstance(tree.get("feed"), dict):
            for name, feed in tree["feed"].items():  # msgspec names no key of a table that may have any key
                _to_struct(feed, FeedSettings, f"feed.{name}.")
        for name, profile in (("enum", EnumSettings), ("sip", SipSettings)):
            _to_struct(tree.get(name, {}), profile, f"{name}.")  # else a fault of theirs were told of each client
        config = _to_struct(_with_profiles(tree), Config, "")
        _check(config)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    return config


def _with_profiles(tree: dict[str, Any]) -> dict[str, Any]:
    """Each client with the whole of its profiles: what it does not say itself, `[enum]` and `[sip]` say."""
    sections = {name: tree.get(name, {}) for name in ("enum", "sip")}
    clients = tree.get("client", [msgspec.to_builtins(LOCAL_CLIENT) | sections])
    if not isinstance(clients, list) or not all(isinstance(part, dict) for part in (*sections.values(), *clients)):
        return tree  # not what it should be, which is told with its place
    joined = []
    for client in clients:
        own = {name: client.get(name, {}) for name in sections}
        if not all(isinstance(part, dict) for part in own.values()):
            return tree
        joined.append(client | {name: section | own[name] for name, section in sections.items()})
    return tree | {"client": joined}


def _to_struct(tree: Any, struct: type[Settings], where: str) -> Settings:
    try:
        return msgspec.convert(tree, struct, dec_hook=_convert)
    except msgspec.ValidationError as error:
        reason, _, place = str(error).partition(" - at `$")
        raise ConfigError(f"{(where + place.strip('.`')).strip('.') or 'file'}: {reason}") from None


def _convert(wanted: type, value: Any) -> Any:
    """Settings with units. A ValueError becomes msgspec's, with the key's place."""
    if not isinstance(value, str):
        raise ValueError(f"expected text with a unit, such as {'64GiB' if wanted is Size else '1h'}")
    if wanted is Size:
        return parse_size(value)
    if wanted is Duration:
        return parse_duration(value)
    raise NotImplementedError(wanted)


def _refuse_unknown_keys(tree: Any, struct: Any, where: str) -> None:
    """msgspec would name the key only; people want the one they meant."""
    if get_origin(struct) is dict and isinstance(tree, dict):
        for name, value in tree.items():
            _refuse_unknown_keys(value, get_args(struct)[1], f"{where}{name}.")
    elif get_origin(struct) is tuple and isinstance(tree, list):
        for at, value in enumerate(tree):
            _refuse_unknown_keys(value, get_args(struct)[0], f"{where.removesuffix('.')}[{at}].")
    elif isinstance(struct, type) and issubclass(struct, msgspec.Struct) and isinstance(tree, dict):
        fields = {field.encode_name: field.type for field in msgspec.structs.fields(struct)}
        for name, value in tree.items():
            if name not in fields:
                near = difflib.get_close_matches(name, fields, n=1, cutoff=0.6)
                hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(sorted(fields))}"
                raise ConfigError(f"{where}{name}: unknown key; {hint}")
            _refuse_unknown_keys(value, fields[name], f"{where}{name}.")


def _check(config: Config) -> None:
    """What types cannot say."""
    config.read_plan()
    _check_listen(config)
    check_enum("enum", config.enum)
    check_sip("sip", config.sip)
    if not config.clients:
        raise ConfigError("client: nobody may ask: leave the section out to answer this machine, or name a source")
    for at, client in enumerate(config.clients):
        _check_client(f"client[{at}]", client, config)
    names = [client.name for client in config.clients]
    if len(set(names)) < len(names):
        raise ConfigError("client: two clients have the same name")
    if config.store.map_size < 1 << 20:
        raise ConfigError("store.map_size: less than 1MiB holds no store; 64GiB of address space cost nothing")
    if config.limits.history < 184 * 86_400:
        raise ConfigError("limits.history: less than 184d: the law wants half a year (NPR article 28)")
    _check_limits(config.limits)
    check_probe(config.probe)
    _check_http(config)
    _check_engine(config)
    check_query_log(config)
    check_batches(config.batches)
    if not 0 < config.pdb.unmapped_carrier_id <= 32_767:
        raise ConfigError("pdb.unmapped_carrier_id: 1 to 32767; 0 would mean `not found`")
    check_jetstream(config.jetstream)
    check_usage(config.usage)
    if config.audit.keep < AUDIT_KEEP_SECONDS_MIN:
        raise ConfigError("audit.keep: less than 184d: who was told of the past is kept as long as the past is")
    check_settlement(config.settlement, config.clients)
    for name, feed in config.feeds.items():
        _check_feed(name, feed)
        if feed.source.startswith(FLEET):
            check_follower(name, feed, config.jetstream)
        elif feed.files:
            raise ConfigError(f"feed.{name}.files: only with source = {FLEET!r}: write the place into source")


def _check_engine(config: Config) -> None:
    engine = config.engine
    if not 0 <= engine.threads <= ENGINE_THREADS_MAX:
        raise ConfigError(f"engine.threads: 0 to {ENGINE_THREADS_MAX}; 0 = one a core")
    listeners = sum(endpoint.transport == "udp" for _, endpoint in config.endpoints())
    workers = listeners * engine.workers
    if engine.udp != "python" and workers > ENGINE_WORKERS_MAX:
        raise ConfigError(
            f"engine.threads: {listeners} UDP listeners of {engine.workers} workers are {workers}, and at most "
            f"{ENGINE_WORKERS_MAX} have a place in the store: fewer threads, or fewer listeners"
        )


def _check_feed(name: str, feed: FeedSettings) -> None:
    for key, seconds in (("poll", feed.poll), ("timeout", feed.timeout)):
        if not seconds:
            raise ConfigError(f"feed.{name}.{key}: must be more than 0s")
    if not FEED_NAME.fullmatch(name):
        raise ConfigError(f"feed.{name}: a feed's name is 1 to 32 of a-z 0-9 - _, as in its files' names")
    if feed.public_keys and feed.format != "lookupd":
        raise ConfigError(f"feed.{name}.public_key: files of format {feed.format!r} carry no signature: leave it out")
    if len(feed.public_keys) > PUBLIC_KEYS_MAX:
        raise ConfigError(f"feed.{name}.public_key: at most {PUBLIC_KEYS_MAX} keys: the old and the new one")
    for key in feed.public_keys:
        found = _PUBLIC_KEY.fullmatch(key)
        if not found:
            raise ConfigError(
                f"feed.{name}.public_key: {key[:60]!r} is no minisign key: 56 characters from RW on, "
                "and perhaps ` until 2026-12-31T00:00:00Z`"
            )
        try:
            parse_time(found["until"] or "2026-01-01T00:00:00Z")
        except ValueError as error:
            raise ConfigError(f"feed.{name}.public_key: until {error}") from None


def _check_limits(limits: Limits) -> None:
    for key, seconds in (("port", limits.port), ("return", limits.return_), ("clock_step", limits.clock_step)):
        if not seconds:
            raise ConfigError(f"limits.{key}: must be more than 0s")
    if not 0 < limits.moved_share <= 1:
        raise ConfigError("limits.moved_share: a share above 0, at most 1; 0.02 is 2 %")
    if limits.moved_free < 0:
        raise ConfigError("limits.moved_free: 0 or more numbers")


def _check_url(key: str, url: str, transports: tuple[str, ...]) -> None:
    try:
        endpoint = parse_endpoint(url)
    except ValueError as error:
        raise ConfigError(f"{key}: {error}") from None
    if endpoint.transport not in transports:
        raise ConfigError(f"{key}: {url}: served over {' and '.join(transports)}")


def _check_listen(config: Config) -> None:
    for name, transports in TRANSPORTS.items():
        urls = getattr(config.listen, name)
        for url in (urls,) if isinstance(urls, str) else urls or ():
            _check_url(f"listen.{name}", url, transports)
            if name == "pdb" and ":" in parse_endpoint(url).host:
                raise ConfigError(f"listen.pdb: {url}: pdb clients speak IPv4 only")
    endpoints = [(e.protocol, e.host, e.port) for _, e in config.endpoints()]
    for endpoint_key in endpoints:
        if endpoint_key[2] and endpoints.count(endpoint_key) > 1:
            raise ConfigError(f"listen: {endpoint_key[1]} port {endpoint_key[2]}/{endpoint_key[0]} is named twice")


def _check_http(config: Config) -> None:
    others = {"sync.http": config.sync.http, "probe.http": config.probe.http}
    for key, url in others.items():
        if url is not None:
            _check_url(key, url, TRANSPORTS["http"])
    urls = [*(("listen.http", url) for url in config.listen.http_urls), *others.items()]
    check_http(config, [(key, parse_endpoint(url)) for key, url in urls if url is not None])


def _check_client(where: str, client: ClientSettings, config: Config) -> None:
    if client.name == "self":
        raise ConfigError(f"{where}.name: `self` is the daemon asking itself, in metrics and statements: name another")
    if not client.sources:
        raise ConfigError(f"{where}.sources: empty: name at least one address or range")
    for source in client.sources:
        try:
            ipaddress.ip_network(source)
        except ValueError as error:
            raise ConfigError(f"{where}.sources: {error}: write it like 192.0.2.0/24") from None
    if client.queries_per_second < 0:
        raise ConfigError(f"{where}.queries_per_second: 0 (no limit) or more")
    if client.queries_per_prefix < 0:
        raise ConfigError(f"{where}.queries_per_prefix: 0 (no limit) or more")
    if client.enum != config.enum:
        check_enum(f"{where}.enum", client.enum)
    if client.sip != config.sip:
        check_sip(f"{where}.sip", client.sip)
