"""`lookupd-loader`: parse options, call, print. What is done is in the modules it calls."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click
import msgspec

from lookupd import __version__
from lookupd.config import Config, read_config
from lookupd.errors import ConfigError, LookupdError, Stale
from lookupd.model import UnixSeconds
from lookupd.numbering import Plan, load_plan

if TYPE_CHECKING:
    from loader.files import FeedFile
    from loader.trust import PublicKey

Command = TypeVar("Command", bound=Callable[..., Any])
EXISTING = click.Path(path_type=Path)
SEQUENCES = click.IntRange(1, 10**18 - 1)  # what a file name has room for


class Target(msgspec.Struct, frozen=True):
    """The store a command works on, and the plan and feed that go with it."""

    path: Path
    map_size: int
    plan: Plan
    feeds: dict[str, tuple[PublicKey, ...]]
    as_json: bool

    def feed(self, named: str | None) -> str:
        """The feed to load: as named, or the only one configured, or `main`. Raises ConfigError."""
        if named is not None:
            if self.feeds and named not in self.feeds:
                raise ConfigError(f"--feed {named}: the configuration knows {', '.join(self.feeds)}")
            return named
        if len(self.feeds) > 1:
            raise ConfigError(f"several feeds are configured: name one with --feed: {', '.join(self.feeds)}")
        return next(iter(self.feeds), "main")

    def identify(
        self, file: Path, kind: Literal["snapshot", "delta"], feed: str | None, sequence: int | None
    ) -> FeedFile:
        """What a data file claims to be, its signature checked if the feed has keys. Raises FeedError."""
        from loader.files import identify

        name = self.feed(feed)
        return identify(file, kind, name, sequence, self.feeds.get(name, ()))


def _fail(error: LookupdError, as_json: bool) -> None:
    """One message on stderr, or one object on stdout, and the exit code of the design."""
    if as_json:
        reply: dict[str, Any] = {"result": "failed", "error": str(error), "exit_code": error.exit_code}
        rejections = getattr(error, "rejections", None)
        if rejections:
            reply["rejected"] = [{"line": line, "reason": reason} for line, reason in rejections]
        click.echo(json.dumps(reply))
    click.echo(f"error: {error}", err=True)
    sys.exit(error.exit_code)


def _target(config: Path | None, store: Path | None, country: str, as_json: bool) -> Target:
    """Raises UsageError or ConfigError."""
    if config is not None and store is not None:
        raise click.UsageError("--config and --store exclude each other")
    if config is not None:
        settings: Config = read_config(config)
        return Target(settings.store_path, settings.store.map_size, settings.read_plan(), _feed_keys(settings), as_json)
    if store is None:
        raise click.UsageError("name the store: --config FILE or --store DIR")
    from lookupd.store.reader import DEFAULT_MAP_SIZE

    return Target(store, DEFAULT_MAP_SIZE, load_plan(country), {}, as_json)


def _feed_keys(settings: Config) -> dict[str, tuple[PublicKey, ...]]:
    from loader.trust import parse_public_key

    return {name: tuple(parse_public_key(key) for key in feed.public_keys) for name, feed in settings.feeds.items()}


def _on_store(command: Command) -> Command:
    """The options that every command on a store has; the command gets a Target."""

    @click.option("--config", type=EXISTING, help="Configuration file that names the store and the plan.")
    @click.option("--store", type=EXISTING, help="Folder of the store, when there is no configuration file.")
    @click.option("--country", default="886", show_default=True, help="Country code of the plan, with --store.")
    @click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
    def wrapped(config: Path | None, store: Path | None, country: str, as_json: bool, **options: Any) -> None:
        try:
            command(_target(config, store, country, as_json), **options)
        except LookupdError as error:
            _fail(error, as_json)

    wrapped.__name__ = command.__name__
    wrapped.__doc__ = command.__doc__
    wrapped.__click_params__ = getattr(command, "__click_params__", []) + wrapped.__click_params__  # type: ignore[attr-defined]
    return wrapped  # type: ignore[return-value]


def _now() -> UnixSeconds:
    return UnixSeconds(int(time.time()))


@contextlib.contextmanager
def _writer(target: Target) -> Iterator[Any]:
    from lookupd.store.writer import Writer

    with Writer(target.path, map_size=target.map_size) as writer:
        yield writer


def _print_result(target: Target, result: msgspec.Struct, source: str) -> None:
    fields = msgspec.structs.asdict(result)
    if target.as_json:
        click.echo(json.dumps(fields))
        return
    shown = " ".join(f"{name}={value}" for name, value in fields.items() if value != 0)
    click.echo(f"{source}: {shown}")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="lookupd-loader")
def cli() -> None:
    """Fill and change the store that lookupd answers from.

    Exit codes: 0 done, 1 failed, 2 usage, 3 configuration, 4 bad feed, 5 sequence gap, 6 stale or different.
    """


@cli.command()
@click.argument("file", type=EXISTING)
@_on_store
def networks(target: Target, file: Path) -> None:
    """Load networks.csv: network_code,operator,routing_number,pdb_carrier_id.

    Networks that are not in the file stay, since numbers may be routed to them.

    \b
    Example: lookupd-loader networks networks.csv --store /var/lib/lookupd/a
    """
    from loader.tables import load_networks, read_networks

    rows = read_networks(file)
    with _writer(target) as writer:
        _print_result(target, load_networks(writer, rows, file.name, _now()), file.name)


@cli.command()
@click.argument("file", type=EXISTING, required=False)
@click.option("--libphonenumber", metavar="CC", help="Take a country's mobile prefixes from libphonenumber.")
@_on_store
def ranges(target: Target, file: Path | None, libphonenumber: str | None) -> None:
    """Load ranges.csv (prefix,network_code): who serves the numbers that are not ported.

    The file is the whole table: ranges that are not in it go. With --libphonenumber, operators that the
    networks table does not have yet are added to it.

    \b
    Examples: lookupd-loader ranges ranges.csv --store /var/lib/lookupd/a
              lookupd-loader ranges --libphonenumber 886 --store /var/lib/lookupd/a
    """
    from loader import tables

    if (file is None) == (libphonenumber is None):
        raise click.UsageError("name a file, or --libphonenumber with a country code")
    with _writer(target) as writer:
        if file is not None:
            result = tables.load_ranges(writer, tables.read_ranges(file), file.name, _now())
            _print_result(target, result, file.name)
        else:
            source = f"libphonenumber +{libphonenumber}"
            for result in tables.load_carriers(writer, libphonenumber or "", source, _now()):
                _print_result(target, result, source)


@cli.command()
@click.argument("file", type=EXISTING)
@click.option("--feed", help="Feed that the file must belong to (default: the one configured, or main).")
@click.option("--sequence", type=SEQUENCES, help="Feed position, to load a file without a manifest.")
@_on_store
def snapshot(target: Target, file: Path, feed: str | None, sequence: int | None) -> None:
    """Make a snapshot the store's whole state, as one change under running readers.

    The manifest FILE.json is checked first. Only what differs is written.

    \b
    Example: lookupd-loader snapshot snapshot-main-1.csv.zst --store /var/lib/lookupd/a
    """
    from loader.apply import apply_snapshot
    from loader.progress import CommandProgress

    found = target.identify(file, "snapshot", feed, sequence)
    with _writer(target) as writer, CommandProgress("snapshot") as progress:
        result = apply_snapshot(writer, found, target.plan, _now(), progress)
    _print_result(target, result, found.name)


@cli.command()
@click.argument("files", type=EXISTING, nargs=-1, required=True)
@click.option("--feed", help="Feed that the files must belong to (default: the one configured, or main).")
@click.option("--sequence", type=SEQUENCES, help="Feed position, to load one file without a manifest.")
@_on_store
def delta(target: Target, files: tuple[Path, ...], feed: str | None, sequence: int | None) -> None:
    """Apply deltas in the order of their sequence numbers, each as one change.

    Stops at the first that cannot be applied; those before it stay applied.

    \b
    Example: lookupd-loader delta delta-main-*.ndjson.zst --store /var/lib/lookupd/a
    """
    from loader.apply import apply_delta
    from loader.files import sequence_in_name
    from loader.progress import CommandProgress

    if sequence is not None and len(files) > 1:
        raise click.UsageError("--sequence goes with one file")
    identified = [target.identify(file, "delta", feed, sequence) for file in sorted(files, key=sequence_in_name)]
    with _writer(target) as writer:
        for found in identified:
            with CommandProgress("delta") as progress:
                result = apply_delta(writer, found, target.plan, _now(), progress)
            _print_result(target, result, found.name)


@cli.command()
@_on_store
def verify(target: Target) -> None:
    """Read the whole store and prove checksums, digest, details, tables and the journal's chain.

    Runs beside a daemon and a loader. Exit code 6 if anything is wrong.

    \b
    Example: lookupd-loader verify --store /var/lib/lookupd/a
    """
    from loader.progress import CommandProgress
    from lookupd.store.reader import Reader
    from lookupd.store.schema import format_digest
    from lookupd.store.verify import verify as verify_store

    with Reader(target.path, map_size=target.map_size) as reader, CommandProgress("verify") as progress:
        report = verify_store(reader, progress.stage("verify", reader.state.blocks))
    if target.as_json:
        click.echo(json.dumps(msgspec.structs.asdict(report) | {"digest": format_digest(report.digest)}))
    else:
        for problem in report.problems:
            click.echo(f"problem: {problem}")
        click.echo(
            f"{target.path}: {report.problem_count or 'no'} problems: blocks={report.blocks} "
            f"ported={report.ported} routes={report.routes} ranges={report.ranges} "
            f"journal={report.journal_entries} digest={format_digest(report.digest)}"
        )
    if report.problem_count:
        sys.exit(Stale.exit_code)


@cli.command()
@click.option("--country", default="886", show_default=True, help="Country code.")
@click.option("--numbers", default=100_000, show_default=True, help="Ported numbers, up to 100 million.")
@click.option("--seed", default=1, show_default=True, help="The same seed gives the same bytes.")
@click.option("--out", type=EXISTING, required=True, help="Folder for the files.")
@click.option("--deltas", default=10, show_default=True, help="Deltas after the snapshot.")
@click.option("--notices", default=100, show_default=True, help="Notices in each delta.")
@click.option("--feed", default="main", show_default=True)
@click.option("--compress", type=click.Choice(["none", "gz", "zst"]), default="zst", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def generate(
    country: str,
    numbers: int,
    seed: int,
    out: Path,
    deltas: int,
    notices: int,
    feed: str,
    compress: str,
    as_json: bool,
) -> None:
    """Make up a country's snapshot and deltas, with the tables that go with them.

    \b
    Example: lookupd-loader generate --country 886 --numbers 1000000 --seed 7 --out sample/
    """
    from loader.files import FEED_NAME
    from loader.generate import Generator
    from loader.progress import CommandProgress

    if not FEED_NAME.fullmatch(feed):
        raise click.UsageError("--feed: lower-case letters, digits, - and _, at most 32")
    if deltas < 0 or notices < 1:
        raise click.UsageError("--deltas: 0 or more; --notices: 1 or more")
    try:
        with CommandProgress("generate") as progress:
            generator = Generator(country, numbers, seed)
            summary = generator.write(
                out,
                feed=feed,
                compression=compress,
                deltas=deltas,
                notices=notices,
                advance=progress.stage("write", numbers),
            )
    except LookupdError as error:
        _fail(error, as_json)
        return
    except OSError as error:
        _fail(LookupdError(f"{error.filename}: {error.strerror}"), as_json)
        return
    if as_json:
        click.echo(json.dumps(msgspec.structs.asdict(summary)))
    else:
        click.echo(" ".join(f"{name}={value}" for name, value in msgspec.structs.asdict(summary).items()))


def main() -> None:
    """Entry point of `lookupd-loader`."""
    cli()


if __name__ == "__main__":
    main()
