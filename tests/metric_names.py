"""Every metric of every program, as people's alerts and dashboards know them: collected, written down, compared.

    python -m tests.metric_names --write

writes tests/vectors/metrics.txt and the tables of docs/metrics.md anew.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric

from loader.exchange_metrics import ExchangeMetrics
from loader.fleet.relay import Relay
from loader.fleet.stream_metrics import StreamMetrics
from loader.sync import Sync
from loader.trust import Signer
from lookupd.config import read_config
from lookupd.fastpath import native_missing
from lookupd.probe.servers import parse as parse_server
from lookupd.probe.tally import Tally
from tests.conftest import Workbench, free_port, run_daemon, serve
from tests.exchange import Exchange
from tests.nats_servers import Certificates, make_certificates

ROOT = Path(__file__).parents[1]
FROZEN = ROOT / "tests/vectors/metrics.txt"
DOCUMENT = ROOT / "docs/metrics.md"
MARK = "<!-- The tables below are written by `python -m tests.metric_names --write`. -->\n"

OPEN = frozenset({"account", "client", "feed", "replica", "server", "version", "implementation", "major", "minor"})
OPEN_MORE = frozenset({"patchlevel", "generation"})
"""Labels whose values the operator chooses, or that are no set."""

PROGRAMS = {
    "daemon": "`lookupd serve`: `listen.http`",
    "sync": "`lookupd-loader sync`: `sync.http`",
    "relay": "`lookupd-loader relay`: `sync.http`",
    "probe": "`lookupd probe`: `probe.http`",
}


@dataclass
class Described:
    """One metric. labels: values by name; None = open."""

    name: str
    type: str
    help: str
    labels: dict[str, set[str] | None] = field(default_factory=dict)

    def text(self, program: str) -> str:
        lines = [f"{program} {self.name} {self.type}: {self.help}"]
        for label, values in sorted(self.labels.items()):
            lines.append(f"  {label}: {'*' if values is None else ' '.join(sorted(values)) or '(none)'}")
        return "\n".join(lines)


Listing = dict[tuple[str, str], Described]
"""By program and name."""


# -- what the programs tell ------------------------------------------------------------------------------


def described(families: Iterable[Metric]) -> list[Described]:
    """Under the names that samples have."""
    return [_described(family) for family in families]


def _described(family: Metric) -> Described:
    ending = {"counter": "_total", "info": "_info"}.get(family.type, "")
    type_ = "gauge" if family.type == "info" else family.type
    names = set(getattr(family, "_labelnames", ()))
    names |= {name for sample in family.samples for name in sample.labels} - {"le"}
    found = Described(family.name + ending, type_, family.documentation)
    for name in names:
        values = {sample.labels[name] for sample in family.samples if name in sample.labels}
        found.labels[name] = None if name in OPEN | OPEN_MORE else values
    return found


def families_of(registry: CollectorRegistry) -> list[Metric]:
    return list(registry.collect())


async def collect_daemon(folder: Path, engine: str) -> list[Described]:
    """With everything configured that has metrics of its own, and a peer that answers."""
    here, there = (make_store(folder / f"{engine}-{name}") for name in ("here", "there"))
    port = free_port()
    made = make_certificates(folder / f"{engine}-certificates")
    shown = f'[replica]\nname = "b"\n[http]\ncertificate = "{made.certificate}"\nkey = "{made.key}"\n'
    peer = there.config(shown, listen=f'http = "https://127.0.0.1:{port}"')
    here.engine = engine
    config = here.config(everything(here, made, port), listen=every_listener())
    with run_daemon(peer):
        async with serve(config) as served:
            daemon = served.daemon
            assert daemon.watch is not None
            await daemon.watch.look()
            await daemon.canary.ask_all()
            daemon.canary.failures.update(dict.fromkeys(daemon.canary.seconds, 0))
            daemon.begin_batch()
            return described(families_of(daemon.metrics._registry))


def make_store(folder: Path) -> Workbench:
    folder.mkdir()
    bench = Workbench(folder)
    bench.load_tables()
    bench.snapshot()
    return bench


def every_listener() -> str:
    both = '["udp://127.0.0.1:0", "tcp://127.0.0.1:0"]'
    dialects = "\n".join(f"{dialect} = {both}" for dialect in ("npq", "enum", "sip"))
    return f'{dialects}\npdb = ["udp://127.0.0.1:0"]\nhttp = "http://127.0.0.1:0"'


def everything(bench: Workbench, made: Certificates, port: int) -> str:
    """Sections with all that is told of."""
    return (
        f'[replica]\nname = "a"\npeer = "https://127.0.0.1:{port}"\npeer_ca = "{made.authority}"\n'
        f'peer_certificate = "{made.certificate}"\npeer_key = "{made.key}"\n'
        f'[http]\ncertificate = "{made.certificate}"\nkey = "{made.key}"\nclient_ca = "{made.authority}"\n'
        f'[batches]\npath = "{bench.folder}/batches"\n'
        f'[query_log]\npath = "{bench.folder}/queries.log"\n'
        '[[client]]\nname = "local"\naccount = "noc"\nsources = ["127.0.0.0/8"]\n'
    )


async def collect_sync(folder: Path) -> list[Described]:
    """Of an exchange whose feed has a key that ends, and that has followed an engine."""
    async with _syncing(folder) as metrics:
        metrics.streams.append(StreamMetrics("main"))
        metrics.scrubbed_at = metrics._now()
        metrics.next_due = 1
        return described(families_of(metrics._registry))


@asynccontextmanager
async def _syncing(folder: Path) -> AsyncIterator[ExchangeMetrics]:
    bench = make_store(folder / "sync")
    sync = Sync(read_config(Exchange(bench, feed=_key()).config))
    await sync.start()
    try:
        yield sync.metrics
    finally:
        await sync.close()


def _key() -> str:
    key = Signer(b"r" * 32, b"relaykey").public_key_text()
    return f'public_key = "{key} until 2036-01-01T00:00:00Z"\n'


async def collect_relay(folder: Path) -> list[Described]:
    """Of a relay that has heard of a replica."""
    (folder / "relay").mkdir()
    exchange = Exchange(Workbench(folder / "relay"), feed=_key())
    with exchange.config.open("a") as file:
        file.write(f'[sync]\nspool = "{folder}/relay/spool"\n[jetstream]\nservers = ["nats://127.0.0.1:1"]\n')
    relay = Relay(read_config(exchange.config))
    return described(families_of(relay.metrics._registry))


def collect_probe() -> list[Described]:
    """Of a probe with a server of each dialect."""
    hosts = ("udp://192.0.2.1", "pdb://192.0.2.1", "enum://192.0.2.1/np.example", "sip://192.0.2.1", "http://192.0.2.1")
    tally = Tally(map(parse_server, hosts), None)
    return described(families_of(tally._registry))


async def collect_all(folder: Path) -> Listing:
    """Of all programs; a daemon's is what it tells with either engine."""
    assert native_missing() is None, "both engines are needed: install where Rust is"
    found: Listing = {}
    for engine in ("native", "python"):
        _add(found, "daemon", await collect_daemon(folder, engine))
    _add(found, "sync", await collect_sync(folder))
    _add(found, "relay", await collect_relay(folder))
    _add(found, "probe", collect_probe())
    return found


def _add(listing: Listing, program: str, metrics: list[Described]) -> None:
    for metric in metrics:
        known = listing.setdefault((program, metric.name), metric)
        assert (known.type, known.help, known.labels.keys()) == (metric.type, metric.help, metric.labels.keys())
        for label, values in metric.labels.items():
            mine = known.labels[label]
            if mine is not None and values is not None:
                mine |= values


# -- what is written down --------------------------------------------------------------------------------

HEAD = """\
# The names that people's alerts, dashboards and reports depend on: program, name, type, help; then labels with
# their values, * = the operator chooses. Written by `python -m tests.metric_names --write`.
"""


def text_of(listing: Listing) -> str:
    return HEAD + "".join(metric.text(program) + "\n" for (program, _), metric in sorted(listing.items()))


def read_frozen() -> Listing:
    """What is written down."""
    found: Listing = {}
    metric = None
    for line in FROZEN.read_text().splitlines():
        if line.startswith("#"):
            continue
        if line.startswith("  "):
            assert metric is not None, line
            label, _, values = line.strip().partition(": ")
            metric.labels[label] = None if values == "*" else set(values.replace("(none)", "").split())
        else:
            head, _, help_text = line.partition(": ")
            program, name, type_ = head.split()
            metric = found[program, name] = Described(name, type_, help_text)
    return found


def sample_names() -> set[str]:
    """Every name that a query may have."""
    found = set()
    for metric in read_frozen().values():
        endings = ("_bucket", "_sum", "_count") if metric.type == "histogram" else ("",)
        found |= {metric.name + ending for ending in endings}
    return found


def unit_of(name: str) -> str:
    """As the name says."""
    units = {"_timestamp_seconds": "s since 1970", "_seconds": "s", "_bytes": "bytes", "_commits": "commits"}
    bare = name.removesuffix("_total")
    return next((unit for ending, unit in units.items() if bare.endswith(ending)), "")


def tables(listing: Listing) -> str:
    """For the document: one a program."""
    lines = []
    for program, where in PROGRAMS.items():
        lines += [f"## {where}", "", "| metric | type | unit | labels | meaning |", "|---|---|---|---|---|"]
        for (of, name), metric in sorted(listing.items()):
            if of == program and name.startswith("lookupd_"):
                labels = "; ".join(_label(label, values) for label, values in sorted(metric.labels.items()))
                lines.append(f"| `{name}` | {metric.type} | {unit_of(name)} | {labels} | {metric.help} |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _label(name: str, values: set[str] | None) -> str:
    return f"`{name}`" if values is None else f"`{name}`: {', '.join(sorted(values))}"


def write() -> None:
    with tempfile.TemporaryDirectory() as folder:
        listing = asyncio.run(collect_all(Path(folder)))
    FROZEN.write_text(text_of(listing))
    before, _, _ = DOCUMENT.read_text().partition(MARK)
    DOCUMENT.write_text(before + MARK + "\n" + tables(listing))


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit(__doc__)
    write()
