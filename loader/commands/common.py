"""What the commands share: the store they work on, how a result is printed and an error told."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Protocol, TypeVar

import click
import msgspec

from lookupd.config import read_config
from lookupd.errors import ConfigError, LookupdError
from lookupd.i18n import translate as _
from lookupd.model import UnixMillis, UnixSeconds
from lookupd.numbering import Plan, load_plan
from lookupd.settings import CLOCK_FILE, Config, Limits, Replica

if TYPE_CHECKING:
    from loader.files import FeedFile
    from loader.trust import PublicKey

Command = TypeVar("Command", bound=Callable[..., Any])
EXISTING = click.Path(path_type=Path)
SEQUENCES = click.IntRange(1, 10**18 - 1)  # what a file name has room for


class Target(msgspec.Struct, frozen=True):
    """The store a command works on, and the plan and feed that go with it. peer: how the other replica is asked.
    spools: of the feeds; None without a configuration. time_zone: of settlements and periods."""

    path: Path
    map_size: int
    plan: Plan
    feeds: dict[str, tuple[PublicKey, ...]]
    as_json: bool
    limits: Limits = Limits()
    replica: str = ""
    clock: Path | None = None
    peer: Replica = Replica()
    spools: tuple[Path, ...] | None = None
    time_zone: str = "UTC"

    def now_millis(self) -> UnixMillis:
        """By the exchange's clock, if there is one: a jump that it refuses is refused here too, and told."""
        if self.clock is None:
            return unix_millis()
        from loader.steady import SteadyClock

        steady = SteadyClock(self.clock, self.limits.clock_step)
        if steady.refused_seconds:
            _tell_jump(round(steady.refused_seconds))
        return steady.now()

    def now(self) -> UnixSeconds:
        """The same in seconds."""
        return UnixSeconds(self.now_millis() // 1000)

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


@lru_cache(1)  # once a command
def _tell_jump(seconds: int) -> None:
    told = f"the wall clock is {seconds:+} s from the exchange's, which is taken: see `lookupd-loader clock`"
    click.echo(_("warning: {message}").format(message=told), err=True)


def fail(error: LookupdError, as_json: bool) -> None:
    """One message on stderr, or one object on stdout, and the exit code of the design."""
    if as_json:
        reply: dict[str, Any] = {"result": "failed", "error": str(error), "exit_code": error.exit_code}
        rejections = getattr(error, "rejections", None)
        if rejections:
            reply["rejected"] = [{"line": line, "reason": reason} for line, reason in rejections]
        click.echo(json.dumps(reply))
    click.echo(_("error: {message}").format(message=error), err=True)
    sys.exit(error.exit_code)


def _target(config: Path | None, store: Path | None, country: str, as_json: bool) -> Target:
    """Raises UsageError or ConfigError."""
    if config is not None and store is not None:
        raise click.UsageError("--config and --store exclude each other")
    if config is not None:
        settings: Config = read_config(config)
        return Target(
            settings.store_path,
            settings.store.map_size,
            settings.read_plan(),
            _feed_keys(settings),
            as_json,
            settings.limits,
            settings.replica.name,
            settings.spool_path / CLOCK_FILE,
            settings.replica,
            tuple(settings.spool_path / name for name in settings.feeds),
            settings.settlement.time_zone,
        )
    if store is None:
        raise click.UsageError("name the store: --config FILE or --store DIR")
    from lookupd.store.reader import DEFAULT_MAP_SIZE

    return Target(store, DEFAULT_MAP_SIZE, load_plan(country), {}, as_json)


def _feed_keys(settings: Config) -> dict[str, tuple[PublicKey, ...]]:
    from loader.trust import parse_public_key

    return {name: tuple(parse_public_key(key) for key in feed.public_keys) for name, feed in settings.feeds.items()}


def on_store(command: Command) -> Command:
    """The options that every command on a store has; the command gets a Target."""

    @click.option("--config", type=EXISTING, help="Configuration file that names the store and the plan.")
    @click.option("--store", type=EXISTING, help="Folder of the store, when there is no configuration file.")
    @click.option("--country", default="886", show_default=True, help="Country code of the plan, with --store.")
    @click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
    def wrapped(config: Path | None, store: Path | None, country: str, as_json: bool, **options: Any) -> None:
        try:
            command(_target(config, store, country, as_json), **options)
        except LookupdError as error:
            fail(error, as_json)

    wrapped.__name__ = command.__name__
    wrapped.__doc__ = command.__doc__
    wrapped.__click_params__ = getattr(command, "__click_params__", []) + wrapped.__click_params__  # type: ignore[attr-defined]
    return wrapped  # type: ignore[return-value]


def parse_word(option: str, text: str) -> str:
    """A person's word, "who: why". Raises UsageError."""
    from loader.guard import parse_words

    try:
        return parse_words(text)
    except ValueError as error:
        raise click.UsageError(f"{option}: {error}") from None


def moment(context: click.Context, option: click.Parameter, text: str | None) -> UnixSeconds | None:
    """An option's RFC 3339 time. Raises click's usage error with the reason."""
    from lookupd.units import parse_time

    try:
        return None if text is None else parse_time(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


class ShowByDefault(click.Group):
    """What does not begin with the name of a subcommand is meant for `show`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does, behind the default's name."""
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            args = ["show", *args]
        return super().parse_args(ctx, args)


def unix_now() -> UnixSeconds:
    """The wall clock."""
    return UnixSeconds(int(time.time()))


def unix_millis() -> UnixMillis:
    """The wall clock, in milliseconds."""
    return UnixMillis(time.time_ns() // 1_000_000)


@contextlib.contextmanager
def open_writer(target: Target) -> Iterator[Any]:
    """The store's writer, for as long as the block runs. Raises StoreError."""
    from lookupd.store.writer import Writer

    with Writer(target.path, map_size=target.map_size) as writer:
        yield writer


def print_result(target: Target, result: msgspec.Struct, source: str) -> None:
    """A result as one line for people, or as one JSON object."""
    fields = msgspec.structs.asdict(result)
    if target.as_json:
        click.echo(json.dumps(fields))
        return
    shown = " ".join(f"{name}={value}" for name, value in fields.items() if value != 0)
    click.echo(f"{source}: {shown}")


class Reason(Protocol):
    """Why a feed does not move."""

    @property
    def kind(self) -> str:
        """In a word."""
        ...

    @property
    def reason(self) -> str:
        """In a sentence."""
        ...


class FeedState(Protocol):
    """A feed after a round, of the exchange or of the relay."""

    @property
    def name(self) -> str:
        """Of the configuration."""
        ...

    @property
    def position(self) -> int:
        """The sequence it is at."""
        ...

    @property
    def trouble(self) -> Reason | None:
        """None = it moves."""
        ...


def end_round(code: int, feeds: Sequence[FeedState], as_json: bool) -> NoReturn:
    """Say where the feeds are, and end with that code."""
    states = [
        {
            "feed": feed.name,
            "position": feed.position,
            "trouble": feed.trouble.kind if feed.trouble else None,
            "reason": feed.trouble.reason if feed.trouble else None,
        }
        for feed in feeds
    ]
    if as_json:
        click.echo(json.dumps({"result": "done" if code == 0 else "waiting", "exit_code": code, "feeds": states}))
    else:
        for state in states:
            click.echo(f"{state['feed']}: at {state['position']}" + (f", {state['reason']}" if state["reason"] else ""))
    sys.exit(code)
