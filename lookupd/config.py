"""One tree of frozen structs read from one TOML file: defaults, units, checks, and the nearest known key.

What a setting does is said where it is used; here is what it may be.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import tomllib
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin
from urllib.parse import urlsplit

import msgspec

from lookupd.errors import ConfigError
from lookupd.fleet import check_follower, check_jetstream
from lookupd.limits import ENGINE_THREADS_MAX, ENGINE_WORKERS_MAX
from lookupd.numbering import Plan, load_plan
from lookupd.observe.counters import DIALECTS
from lookupd.profiles import EnumSettings, SipSettings, check_enum, check_sip
from lookupd.units import Duration, Size, parse_duration, parse_size, parse_time

Settings = TypeVar("Settings", bound=msgspec.Struct)


class Endpoint(msgspec.Struct, frozen=True):
    """Where something listens: transport is udp, tcp or http; host is an address, never a name."""

    transport: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.transport}://{host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches it."""
        return ipaddress.ip_address(self.host).is_loopback


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of all sections: unknown keys are refused."""


class Replica(Section, frozen=True):
    """Who we are among the replicas. peer: the other one's `listen.http`, such as http://192.0.2.7:9474; its
    `[[client]]` list must have this machine, as a peer."""

    name: str = "a"
    peer: str = ""


class StoreSettings(Section, frozen=True):
    """Where the store is, and its address space (which costs no disk)."""

    path: str = "/var/lib/lookupd/a"
    map_size: Size = Size(64 << 30)


class PlanSettings(Section, frozen=True):
    """The numbering plan that national numbers are read in; `file` replaces the one that comes with us."""

    country_code: str = "886"
    file: str | None = None


class Listen(Section, frozen=True):
    """What is served where. A dialect that is not named is not served."""

    npq: tuple[str, ...] = ()
    pdb: tuple[str, ...] = ()
    enum: tuple[str, ...] = ()
    sip: tuple[str, ...] = ()
    http: str | None = None


class PdbSettings(Section, frozen=True):
    """The pdb dialect. legacy: also answer the older form without a header."""

    legacy: bool = True
    unmapped_carrier_id: int = 1000


class EngineSettings(Section, frozen=True):
    """Which engine serves UDP, and with how many workers a listener; auto = native where it is installed, 0 = one
    a core. The Python path is one thread."""

    udp: Literal["auto", "native", "python"] = "auto"
    threads: int = 0

    @property
    def workers(self) -> int:
        """Of each listener, on this machine."""
        return self.threads or min(len(os.sched_getaffinity(0)), ENGINE_THREADS_MAX)


class ClientSettings(Section, frozen=True):
    """Who may ask. peer: another replica, which may read the whole store over HTTP. queries_per_prefix: a second,
    over UDP, from the addresses of one /24 or /56. enum, sip: in a file, the keys that differ from `[enum]`, `[sip]`.
    """

    name: str
    sources: tuple[str, ...]
    account: str = ""
    queries_per_second: int = 0
    queries_per_prefix: int = 0
    peer: bool = False
    enum: EnumSettings = EnumSettings()
    sip: SipSettings = SipSettings()


class Limits(Section, frozen=True, rename={"return_": "return"}):
    """What law or policy sets. stale_after: 0 = answer however old the data is.

    moved_share, moved_free: a file may add, remove and change so large a share of the ported numbers, or so
    many numbers, without a person's word. clock_step: a jump of the wall clock beyond it is not followed
    until somebody takes it over.
    """

    port: Duration = Duration(3600)
    return_: Duration = Duration(12 * 3600)
    history: Duration = Duration(184 * 86_400)
    stale_after: Duration = Duration(0)
    moved_share: float = 0.02
    moved_free: int = 1000
    clock_step: Duration = Duration(300)


class FeedSettings(Section, frozen=True):
    """A feed: where its files come from, what they look like, whom we believe, and how patient we are.

    source: dir:///folder, sftp://user@host:port/folder, https://host/folder/, or `jetstream:` for a replica of a
    fleet. files: with `jetstream:`, the source of the signed files themselves. public_key: the sender's
    minisign key, or two while one replaces the other, each with ` until TIME` after it if it expires; empty =
    files are taken without a signature, with a warning. known_hosts, ssh_key: of SFTP. ca_file: the only
    authority trusted for HTTPS. password_file: one line, for SFTP or HTTPS. poll: between two looks at the
    source. timeout: of one step of a transfer. gap_wait: how long a missing or unusable file is waited for
    before a snapshot is asked for. acknowledge: `yes` (FILE.ack.json), `by-replica` (FILE.NAME.ack.json,
    where two replicas share a folder) or `no`. keep: how long fetched files stay in the spool.
    """

    source: str = ""
    files: str = ""
    format: Literal["lookupd", "npac-bdd", "bdpn"] = "lookupd"
    public_key: str | tuple[str, ...] = ""
    known_hosts: str = ""
    ssh_key: str = ""
    ca_file: str = ""
    user: str = ""
    password_file: str = ""
    poll: Duration = Duration(5)
    timeout: Duration = Duration(30)
    gap_wait: Duration = Duration(600)
    acknowledge: Literal["yes", "by-replica", "no"] = "yes"
    keep: Duration = Duration(31 * 86_400)

    @property
    def public_keys(self) -> tuple[str, ...]:
        """As a tuple, empty if there is none."""
        keys = (self.public_key,) if isinstance(self.public_key, str) else self.public_key
        return tuple(key for key in keys if key)


class SyncSettings(Section, frozen=True):
    """`lookupd-loader sync`. spool: where fetched files lie; empty = `spool` in the store's folder.

    http: metrics and health of the exchange. scrub: how long one check of the whole store may take in the
    background; 0 = none. peer: whose HTTP listener mends what is damaged here; empty = `replica.peer`.
    """

    spool: str = ""
    http: str | None = None
    scrub: Duration = Duration(3600)
    peer: str = ""


class JetStreamSettings(Section, frozen=True):
    """The engine of a fleet: NATS JetStream, for the relay and for feeds with `source = "jetstream:"`.

    servers: nats://host:port, or tls://host:port beyond loopback. stream, subject: the stream's name, and what stands
    before `.FEED` in its subjects. user, password_file; certificate, key: an account, by either. ca_file: the only
    authority trusted. replicas: copies of the stream that the relay makes and everybody demands. server_version: the
    lowest that is taken. max_age, max_bytes: how much of the past the stream keeps. monitor: the servers' monitoring
    ports, http://host:8222, where alone can be seen whether they sync each write.
    """

    servers: tuple[str, ...] = ()
    stream: str = "LOOKUPD"
    subject: str = "lookupd.feed"
    user: str = ""
    password_file: str = ""
    certificate: str = ""
    key: str = ""
    ca_file: str = ""
    replicas: int = 3
    server_version: str = "2.12.7"
    max_age: Duration = Duration(31 * 86_400)
    max_bytes: Size = Size(8 << 30)
    monitor: tuple[str, ...] = ()


LOCAL_CLIENT = ClientSettings(name="local", sources=("127.0.0.0/8", "::1/128"), peer=True)


class Config(Section, frozen=True, rename={"clients": "client", "feeds": "feed"}):
    """The whole file."""

    replica: Replica = Replica()
    store: StoreSettings = StoreSettings()
    plan: PlanSettings = PlanSettings()
    listen: Listen = Listen()
    pdb: PdbSettings = PdbSettings()
    enum: EnumSettings = EnumSettings()
    sip: SipSettings = SipSettings()
    engine: EngineSettings = EngineSettings()
    clients: tuple[ClientSettings, ...] = (LOCAL_CLIENT,)
    limits: Limits = Limits()
    sync: SyncSettings = SyncSettings()
    jetstream: JetStreamSettings = JetStreamSettings()
    feeds: dict[str, FeedSettings] = {}

    @property
    def store_path(self) -> Path:
        """Of the store."""
        return Path(self.store.path)

    @property
    def spool_path(self) -> Path:
        """Of fetched files, a folder a feed."""
        return Path(self.sync.spool) if self.sync.spool else self.store_path / "spool"

    @property
    def peer(self) -> str:
        """Of the other replica, for whoever mends or compares; empty = there is none."""
        return self.sync.peer or self.replica.peer

    def read_plan(self) -> Plan:
        """The numbering plan. Raises ConfigError."""
        file = self.plan.file
        return load_plan(self.plan.country_code, Path(file) if file else None)

    def endpoints(self) -> dict[tuple[str, Endpoint], None]:
        """Everything that is to be served, as (dialect, endpoint), in the file's order."""
        found: dict[tuple[str, Endpoint], None] = {}
        for dialect in DIALECTS:
            for url in getattr(self.listen, dialect):
                found[dialect, parse_endpoint(url)] = None
        if self.listen.http is not None:
            found["http", parse_endpoint(self.listen.http)] = None
        return found


CLOCK_FILE = "clock.json"
"""In the spool: what the exchange knows of the time."""

FEED_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
FLEET = "jetstream:"
"""The source of a replica that follows a fleet's engine."""

PUBLIC_KEYS_MAX = 2
_PUBLIC_KEY = re.compile(r"RW[0-9A-Za-z+/]{54}(?: until (?P<until>\S+))?")

TRANSPORTS = {
    "npq": ("udp", "tcp"),
    "pdb": ("udp",),
    "enum": ("udp", "tcp"),
    "sip": ("udp", "tcp"),
    "http": ("http",),
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
    for key, url in (("sync.peer", config.sync.peer), ("replica.peer", config.replica.peer)):
        if url and not url.startswith(("http://", "https://")):
            raise ConfigError(f"{key}: {url}: write it like http://192.0.2.7:9474")
    if config.sync.http is not None:
        _check_url("sync.http", config.sync.http, ("http",))
    _check_engine(config)
    if not 0 < config.pdb.unmapped_carrier_id <= 32_767:
        raise ConfigError("pdb.unmapped_carrier_id: 1 to 32767; 0 would mean `not found`")
    check_jetstream(config.jetstream)
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
    endpoints = [(e.transport.replace("http", "tcp"), e.host, e.port) for _, e in config.endpoints()]
    for endpoint_key in endpoints:
        if endpoint_key[2] and endpoints.count(endpoint_key) > 1:
            raise ConfigError(f"listen: {endpoint_key[1]} port {endpoint_key[2]}/{endpoint_key[0]} is named twice")


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


def parse_endpoint(url: str) -> Endpoint:
    """`udp://127.0.0.1:4700`. Raises ValueError with the reason. Port 0 lets the system choose."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"{url}: {error}") from None
    if parts.scheme not in {"udp", "tcp", "http"} or port is None or parts.path or parts.query or parts.username:
        raise ValueError(f"{url}: write it like udp://127.0.0.1:4700")
    try:
        host = str(ipaddress.ip_address(parts.hostname or ""))
    except ValueError:
        raise ValueError(f"{url}: {parts.hostname!r} is no address: listeners take addresses, not names") from None
    return Endpoint(parts.scheme, host, port)
