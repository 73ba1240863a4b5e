"""The settings: one tree of frozen structs, with defaults. What one does is said where it is used.

Reading a file into them, and what types cannot say, are `config`'s.
"""

from __future__ import annotations

import ipaddress
import os
import re
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from lookupd.limits import ENGINE_THREADS_MAX
from lookupd.numbering import Plan, load_plan
from lookupd.observe.counters import DIALECTS
from lookupd.profiles import EnumSettings, SipSettings
from lookupd.units import Duration, Size


class Endpoint(msgspec.Struct, frozen=True):
    """Where something listens: transport is udp, tcp, http or https; host is an address, never a name."""

    transport: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.transport}://{host}:{self.port}"

    @property
    def protocol(self) -> str:
        """What carries it: udp or tcp."""
        return "udp" if self.transport == "udp" else "tcp"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches it."""
        return ipaddress.ip_address(self.host).is_loopback


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of all sections: unknown keys are refused."""


class Replica(Section, frozen=True):
    """Who we are among the replicas. peer: the other one's `listen.http`, such as https://192.0.2.7:9474; its
    `[[client]]` list must have this machine, as a peer. For https: peer_ca: the only authority trusted;
    peer_token_file: one line, what we show; or peer_certificate and peer_key: our own certificate."""

    name: str = "a"
    peer: str = ""
    peer_ca: str = ""
    peer_token_file: str = ""
    peer_certificate: str = ""
    peer_key: str = ""


class StoreSettings(Section, frozen=True):
    """Where the store is, and its address space (which costs no disk)."""

    path: str = "/var/lib/lookupd/a"
    map_size: Size = Size(64 << 30)


class PlanSettings(Section, frozen=True):
    """The numbering plan that national numbers are read in; `file` replaces the one that comes with us."""

    country_code: str = "886"
    file: str | None = None


class Listen(Section, frozen=True):
    """What is served where. A dialect that is not named is not served. http: one or several; beyond loopback https
    alone."""

    npq: tuple[str, ...] = ()
    pdb: tuple[str, ...] = ()
    enum: tuple[str, ...] = ()
    sip: tuple[str, ...] = ()
    http: str | tuple[str, ...] | None = None

    @property
    def http_urls(self) -> tuple[str, ...]:
        """As a tuple, empty if there is none."""
        return (self.http,) if isinstance(self.http, str) else self.http or ()


class HttpSettings(Section, frozen=True):
    """The HTTP listeners, of the daemon and of the loader.

    certificate, key: PEM files of https://; the certificate with those between it and its authority. client_ca: PEM
    file; clients may show a certificate of it. hosts: names that a request may have in Host beside the address that it
    came to.
    """

    certificate: str = ""
    key: str = ""
    client_ca: str = ""
    hosts: tuple[str, ...] = ()


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


Permission = Literal["query", "status", "history", "batch", "risk"]
"""What a client may ask for over HTTP: numbers; how the replica is, and metrics; the past of numbers,
which is personal data (NPR article 34); lists of numbers as jobs, whose files lie on our disk; risk checks, each of
which is audited."""


class ClientSettings(Section, frozen=True):
    """Who may ask. peer: another replica, which may read the whole store over HTTP. queries_per_prefix: a second,
    over UDP, from the addresses of one /24 or /56. enum, sip: in a file, the keys that differ from `[enum]`, `[sip]`.

    Over HTTP: may: what is shown. token_file: a line with a token, or two while one replaces the other; certificate:
    the name in the client's certificate; one of the two is needed beyond loopback. rate: of `settlement.per_query`,
    for this client; empty = as for all.
    """

    name: str
    sources: tuple[str, ...]
    account: str = ""
    queries_per_second: int = 0
    queries_per_prefix: int = 0
    peer: bool = False
    may: tuple[Permission, ...] = ("query", "status")
    token_file: str = ""
    certificate: str = ""
    rate: str = ""
    enum: EnumSettings = EnumSettings()
    sip: SipSettings = SipSettings()


class Limits(Section, frozen=True, rename={"return_": "return"}):
    """What law or policy sets. stale_after: 0 = answer however old the data is.

    history: the law wants half a year (NPR article 28), which is reported by the 10th of the next month, and corrected
    in the weeks after. moved_share, moved_free: a file may add, remove and change so large a share of the ported
    numbers, or so many numbers, without a person's word. clock_step: a jump of the wall clock beyond it is not followed
    until somebody takes it over.
    """

    port: Duration = Duration(3600)
    return_: Duration = Duration(12 * 3600)
    history: Duration = Duration(215 * 86_400)
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


class UsageSettings(Section, frozen=True):
    """What was asked, by client and hour. path: a folder; empty = STORE-usage, beside the store. every: between two
    savings. keep: how long."""

    path: str = ""
    every: Duration = Duration(10)
    keep: Duration = Duration(400 * 86_400)


class AuditSettings(Section, frozen=True):
    """Who asked for a risk check, about which number, and why. path: a folder; empty = STORE-audit, beside the store.
    keep: how long."""

    path: str = ""
    keep: Duration = Duration(400 * 86_400)


class SettlementSettings(Section, frozen=True):
    """What queries cost, for `lookupd usage`. per_query: a decimal in text; empty = no money is told. currency: its
    code. charged: results that cost something. minor_units: digits that an account's total is rounded to.
    time_zone: in which a month begins."""

    currency: str = "TWD"
    per_query: str = ""
    dialect: dict[str, str] = {}
    charged: tuple[str, ...] = ("ported", "not_ported", "not_allocated", "not_portable")
    minor_units: int = 2
    rounding: Literal["half_even", "half_up", "down", "up"] = "half_even"
    time_zone: str = "UTC"


class QueryLogSettings(Section, frozen=True):
    """The log of queries, a line each. path: its file; empty = there is none. sample: one of so many queries is
    written. numbers: whether they are whole. clients, outcomes: only these; empty = all. file_size, files: when a file
    is full, and how many are kept. free_min: nothing is written while the disk has less."""

    path: str = ""
    sample: int = 1
    numbers: Literal["masked", "full"] = "masked"
    clients: tuple[str, ...] = ()
    outcomes: tuple[str, ...] = ()
    file_size: Size = Size(64 << 20)
    files: int = 8
    free_min: Size = Size(256 << 20)


class BatchesSettings(Section, frozen=True):
    """Lists of numbers as jobs, over HTTP. path: a folder of its own; empty = not served. keep: how long a result is,
    after its end. jobs_max: of one client, kept at a time. bytes_max: of one upload. running: at a time. free_min: of
    the disk, which uploads and results leave alone."""

    path: str = ""
    keep: Duration = Duration(7 * 86_400)
    jobs_max: int = 100
    bytes_max: Size = Size(1 << 30)
    running: int = 1
    free_min: Size = Size(1 << 30)


class LogSettings(Section, frozen=True):
    """What goes to stderr. format: `event key=value`, or a JSON object a line."""

    format: Literal["text", "json"] = "text"


class ProbeTimeouts(Section, frozen=True):
    """How long a switch waits for an answer, and a call with it, by dialect."""

    npq: Duration = Duration(0.5)
    pdb: Duration = Duration(0.05)
    enum: Duration = Duration(2)
    sip: Duration = Duration(2)
    http: Duration = Duration(1)


class ProbeSettings(Section, frozen=True):
    """`lookupd probe`: what a dip adds to a call's set-up. servers: as for `lookupd query --server`, and pdb:// and
    http://. numbers: a file, one a line; empty = drawn from the store. unported_share: of the questions. interval:
    between two questions to a server. path: a folder for what was measured; empty = STORE-probe. every: between two
    savings. keep: how long. http: metrics."""

    servers: tuple[str, ...] = ()
    numbers: str = ""
    unported_share: float = 0.1
    interval: Duration = Duration(1)
    timeouts: ProbeTimeouts = ProbeTimeouts()
    path: str = ""
    every: Duration = Duration(10)
    keep: Duration = Duration(400 * 86_400)
    http: str | None = None


LOCAL_CLIENT = ClientSettings(
    name="local", sources=("127.0.0.0/8", "::1/128"), peer=True, may=("query", "status", "history", "batch", "risk")
)


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
    http: HttpSettings = HttpSettings()
    usage: UsageSettings = UsageSettings()
    audit: AuditSettings = AuditSettings()
    settlement: SettlementSettings = SettlementSettings()
    query_log: QueryLogSettings = QueryLogSettings()
    batches: BatchesSettings = BatchesSettings()
    log: LogSettings = LogSettings()
    probe: ProbeSettings = ProbeSettings()
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
        for url in self.listen.http_urls:
            found["http", parse_endpoint(url)] = None
        return found

    @property
    def local_http(self) -> str | None:
        """The first HTTP listener of the daemon that this machine reaches without a key; None if there is none."""
        return next((url for url in self.listen.http_urls if parse_endpoint(url).transport == "http"), None)

    @property
    def usage_path(self) -> Path:
        """The folder of the usage ledger."""
        return Path(self.usage.path or f"{self.store.path.rstrip('/')}-usage")

    @property
    def audit_path(self) -> Path:
        """The folder of the audit of risk checks."""
        return Path(self.audit.path or f"{self.store.path.rstrip('/')}-audit")

    @property
    def probe_path(self) -> Path:
        """The folder of the probe's ledger."""
        return Path(self.probe.path or f"{self.store.path.rstrip('/')}-probe")


CLOCK_FILE = "clock.json"
"""In the spool: what the exchange knows of the time."""

FEED_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
FLEET = "jetstream:"
"""The source of a replica that follows a fleet's engine."""


_SCHEMES = ("udp", "tcp", "http", "https")


def parse_endpoint(url: str) -> Endpoint:
    """`udp://127.0.0.1:4700`. Raises ValueError with the reason. Port 0 lets the system choose."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"{url}: {error}") from None
    if parts.scheme not in _SCHEMES or port is None or parts.path or parts.query or parts.username:
        raise ValueError(f"{url}: write it like udp://127.0.0.1:4700")
    try:
        host = str(ipaddress.ip_address(parts.hostname or ""))
    except ValueError:
        raise ValueError(f"{url}: {parts.hostname!r} is no address: listeners take addresses, not names") from None
    return Endpoint(parts.scheme, host, port)
