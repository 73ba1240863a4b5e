"""`lookupd`: parse options, call, print. What is done is in the modules it calls."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import click
import msgspec

from lookupd import __version__
from lookupd.commands.audit import audit
from lookupd.commands.batch import batch
from lookupd.commands.common import PATH, carry_out, json_option
from lookupd.commands.history import history
from lookupd.commands.log import log
from lookupd.commands.probe import probe
from lookupd.commands.usage import usage
from lookupd.config import read_config
from lookupd.errors import ConfigError, LookupdError
from lookupd.help import Commands
from lookupd.i18n import translate as _
from lookupd.limits import HEALTH_BAD, HEALTH_INTERVAL_SECONDS
from lookupd.settings import Config

DEFAULT_SERVER = "udp://127.0.0.1:4700"

config_option = click.option("--config", type=PATH, help="Configuration file that names the store and the plan.")
store_option = click.option("--store", type=PATH, help="Folder of the store, when there is no configuration file.")
country_option = click.option(
    "--country", default="886", show_default=True, help="Country code of the plan, without --config."
)


def _settings(config: Path | None, store: Path | None, country: str) -> Config:
    """From the file, or for a store alone."""
    if (config is None) == (store is None):
        raise click.UsageError("name the store: --config FILE or --store DIR")
    if config is not None:
        return read_config(config)
    from lookupd.settings import PlanSettings, StoreSettings

    return Config(store=StoreSettings(path=str(store)), plan=PlanSettings(country_code=country))


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="lookupd")
def cli() -> None:
    """Answer whether a number was ported and which network serves it.

    Exit codes: 0 done, 1 failed, 2 usage, 3 configuration, 4 bad feed, 5 sequence gap, 6 stale or different.
    """


@cli.command()
@click.option("--config", type=PATH, required=True, help="Configuration file.")
def serve(config: Path) -> None:
    """Serve queries until SIGTERM. SIGHUP reads the configuration again, SIGUSR2 has a new process take over.

    Sockets that systemd holds are used as they are (sd_listen_fds). Neither signal loses a query.

    \b
    Example: lookupd serve --config /etc/lookupd/a.toml
    """

    def work() -> None:
        import uvloop

        from lookupd.daemon import Daemon
        from lookupd.handover import Predecessor, command_of_this_process
        from lookupd.transports.inherited import take_bequest, take_inherited

        bequest = take_bequest()
        inherited = take_inherited(bequest)
        settings = read_config(config)

        async def run() -> None:
            daemon = Daemon(
                settings,
                config,
                inherited=inherited,
                predecessor=None if bequest is None else Predecessor(bequest),
                command=command_of_this_process(),
            )
            await daemon.run()

        uvloop.run(run())

    carry_out(False, work)


@cli.command()
@click.option("--config", type=PATH, required=True, help="Configuration file of the daemon.")
@click.option("--file", type=PATH, required=True, help="Where to write the value; its folder must be there.")
@click.option(
    "--interval",
    type=click.FloatRange(0.02, 10),
    default=HEALTH_INTERVAL_SECONDS,
    show_default=True,
    help="Seconds between two looks.",
)
@click.option(
    "--bad",
    type=click.IntRange(-253, -1),
    default=HEALTH_BAD,
    show_default=True,
    help="The value while the daemon is not healthy.",
)
@json_option
def health(config: Path, file: Path, interval: float, bad: int, as_json: bool) -> None:
    """Ask the daemon of this machine all the time; write 0 to a file while it is healthy, for keepalived.

    \b
    Example: lookupd health --config /etc/lookupd/a.toml --file /run/lookupd/a/health
    """

    def work() -> None:
        from lookupd.health import watch

        watch(read_config(config), file, interval, bad)

    carry_out(as_json, work)


@cli.command("check-config")
@click.argument("file", type=PATH)
@click.option("--deep", is_flag=True, help="Also load the engine, bind every listener and open the store.")
@json_option
def check_config(file: Path, deep: bool, as_json: bool) -> None:
    """Say whether a configuration file can be used, before a start or a reload.

    \b
    Example: lookupd check-config --deep /etc/lookupd/a.toml
    """

    def work() -> None:
        from lookupd.second_look import warnings

        settings = read_config(file)
        found = warnings(settings)
        if deep:
            _try_deep(settings)
        if as_json:
            click.echo(json.dumps({"file": str(file), "result": "usable", "warnings": found}))
            return
        for warning in found:
            click.echo(_("warning: {message}").format(message=warning), err=True)
        click.echo(f"{file}: usable")

    carry_out(as_json, work)


def _try_deep(settings: Config) -> None:
    from contextlib import ExitStack, closing

    from lookupd.errors import StoreError
    from lookupd.fastpath import choose
    from lookupd.store.reader import Reader
    from lookupd.transports.sockets import bind
    from lookupd.web.guard import look_at_files

    choose(settings.engine.udp)
    look_at_files(settings)
    with ExitStack() as bound:  # all at a time: two of them may be in each other's way
        for _, endpoint in settings.endpoints():
            bound.enter_context(closing(bind(endpoint)))
    try:
        Reader(settings.store_path, map_size=settings.store.map_size).close()
    except StoreError as error:
        raise ConfigError(f"store.path: {error}") from None


@cli.command()
@click.argument("numbers", nargs=-1)
@click.option("--imsi", "imsis", multiple=True, help="An IMSI instead of numbers: what is placed on it.")
@click.option(
    "--server",
    "servers",
    multiple=True,
    help="udp:// or tcp:// (npq), enum://HOST/APEX, sip://HOST, http:// or https://; may be repeated.  "
    f"[default: {DEFAULT_SERVER}]",
)
@click.option("--timeout", default=1.0, show_default=True, help="Seconds to wait for an answer.")
@click.option("--token-file", metavar="FILE", help="Holds the token of this client; for https:// servers.")
@click.option("--ca-file", metavar="FILE", help="Authorities of https:// servers, in PEM.  [default: the system's]")
@config_option
@store_option
@country_option
@json_option
def query(
    numbers: tuple[str, ...],
    imsis: tuple[str, ...],
    servers: tuple[str, ...],
    timeout: float,
    token_file: str | None,
    ca_file: str | None,
    config: Path | None,
    store: Path | None,
    country: str,
    as_json: bool,
) -> None:
    """Ask which network serves each NUMBER: a running daemon, or with --store or --config the store itself.

    Numbers may be written as people do: +886 912-345-678, 0912345678. An IMSI is asked over http:// or https://.

    \b
    Examples: lookupd query 0912345678 --server udp://127.0.0.1:4700
              lookupd query 0912345678 --server enum://127.0.0.1:5300/np.example
              lookupd query 0912345678 --server sip+tcp://127.0.0.1:5070
              lookupd query 0912345678 --server https://192.0.2.10:9474 --token-file token --ca-file ca.pem
              lookupd query +886912345678 --store /var/lib/lookupd/a --json
              lookupd query --imsi 466011234567890 --server http://127.0.0.1:9474
    """
    if bool(numbers) == bool(imsis):
        raise click.UsageError("name numbers, or --imsi")

    def work() -> None:
        settings = None if config is None and store is None else _settings(config, store, country)
        if settings is not None and servers:
            raise click.UsageError("--server asks a daemon; --store and --config read the store: choose one")
        views: list[Any]
        if imsis:
            views = _find_imsis(imsis, servers, settings, timeout, (token_file, ca_file))
        elif settings is None:
            views = _ask(servers or (DEFAULT_SERVER,), numbers, timeout, country, (token_file, ca_file))
        else:
            views = _resolve(settings, numbers)
        for view in views:
            fields = msgspec.structs.asdict(view)
            if as_json:
                click.echo(json.dumps(fields, ensure_ascii=False))
            else:
                click.echo(_imsi_line(fields) if imsis else _line(fields))

    carry_out(as_json, work)


def _ask(
    servers: tuple[str, ...],
    numbers: tuple[str, ...],
    timeout: float,
    country: str,
    keys: tuple[str | None, str | None],
) -> list[Any]:
    from lookupd import clients
    from lookupd.numbering import load_plan

    as_switches_do = [clients.is_ours(server) for server in servers]
    if any(keys) and not all(server.startswith("https://") for server in servers):
        raise click.UsageError("--token-file and --ca-file are for https:// servers, where nobody listens in")
    if not any(as_switches_do):
        return asyncio.run(_ask_npq(servers, numbers, timeout))
    if not all(as_switches_do):
        raise click.UsageError("--server: all but udp:// and tcp:// are asked in turn, not beside those")
    return clients.ask(servers, numbers, load_plan(country), timeout, keys)


async def _ask_npq(servers: tuple[str, ...], numbers: tuple[str, ...], timeout: float) -> list[Any]:
    from lookupd.client import LookupClient
    from lookupd.numbering import strip_separators

    async with LookupClient(servers, timeout=timeout) as client:
        return list(await client.query_many([strip_separators(number) for number in numbers]))


def _resolve(settings: Config, numbers: tuple[str, ...]) -> list[Any]:
    from lookupd.engine import Engine
    from lookupd.explain import view
    from lookupd.numbering import strip_separators
    from lookupd.status import unix_now
    from lookupd.store.reader import Reader

    engine = Engine(settings.read_plan(), settings.limits.stale_after)
    with Reader(settings.store_path, map_size=settings.store.map_size) as reader:
        engine.reader = reader
        engine.begin(unix_now())
        return [view(engine.resolve(strip_separators(number))) for number in numbers]


def _find_imsis(
    imsis: tuple[str, ...],
    servers: tuple[str, ...],
    settings: Config | None,
    timeout: float,
    keys: tuple[str | None, str | None],
) -> list[Any]:
    from lookupd.commands.imsis import ask, check_imsis, read

    check_imsis(imsis)
    return list(ask(servers, imsis, timeout, keys) if settings is None else read(settings, imsis))


def _imsi_line(fields: dict[str, Any]) -> str:
    placed = fields["restriction"]
    told = "unrestricted" if placed is None else "restricted={kind} until={until}".format(**placed)
    return f"imsi {fields['imsi']} {told} serial={fields['serial']} age={fields['age_seconds']}s"


def _line(fields: dict[str, Any]) -> str:
    parts = [fields["number"], fields["outcome"]]
    parts += [f"{name}={fields[name]}" for name in ("network_code", "routing_number") if fields[name] is not None]
    if fields["operator"] is not None:
        parts.append(f"operator={json.dumps(fields['operator'], ensure_ascii=False)}")
    if fields["restriction"] is not None:
        parts.append("restricted={kind} until={until}".format(**fields["restriction"]))
    age = "none" if fields["age_seconds"] is None else f"{fields['age_seconds']}s"
    return " ".join([*parts, f"serial={fields['serial']}", f"age={age}"])


@cli.command()
@click.argument("number")
@click.option("--as-of", metavar="TIME", help="The answer as it was at this time (RFC 3339), within the kept history.")
@click.option("--client", help="What this client of the configuration is answered.  [default: all of them]")
@config_option
@store_option
@country_option
@json_option
def explain(
    number: str,
    as_of: str | None,
    client: str | None,
    config: Path | None,
    store: Path | None,
    country: str,
    as_json: bool,
) -> None:
    """Show each step from NUMBER to its answer, the last changes of the number, and what each dialect says of it.

    With --config the dialects are those that are served, for each client's profile; without, all, as by default.

    \b
    Examples: lookupd explain 0912345678 --config /etc/lookupd/a.toml
              lookupd explain 0912345678 --as-of 2026-03-01T09:00:00+08:00 --store /var/lib/lookupd/a
    """
    from lookupd.units import parse_time

    try:
        moment = None if as_of is None else parse_time(as_of)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--as-of") from None

    def work() -> None:
        from lookupd.engine import Engine
        from lookupd.explain import explain as explain_number
        from lookupd.explain import explain_as_of
        from lookupd.explain_dialects import choose_clients, dialect_answers
        from lookupd.numbering import strip_separators
        from lookupd.status import unix_now
        from lookupd.store.reader import Reader

        settings = _settings(config, store, country)
        engine = Engine(settings.read_plan(), settings.limits.stale_after)
        with Reader(settings.store_path, map_size=settings.store.map_size) as reader:
            if moment is not None:
                steps = explain_as_of(engine.plan, reader, number, moment)
            else:
                engine.reader = reader
                engine.begin(unix_now())
                steps = explain_number(engine, number)
                asked = steps["number"] or strip_separators(number)
                steps["dialects"] = dialect_answers(
                    engine, settings, asked, choose_clients(settings, client), _served(settings, config)
                )
        if as_json:
            click.echo(json.dumps(steps, ensure_ascii=False))
            return
        for name, value in steps.items():
            for at, line in enumerate(_shown(value)):
                click.echo(f"{name if at == 0 else '':<13}{line}")

    carry_out(as_json, work)


def _served(settings: Config, config: Path | None) -> tuple[str, ...]:
    """Dialects that are explained: of a configuration what it serves, otherwise all."""
    served = {dialect for dialect, _ in settings.endpoints()}
    return tuple(dialect for dialect in ("pdb", "enum", "sip") if config is None or dialect in served)


def _shown(value: Any) -> list[str]:
    """A step's value as lines for people."""
    if isinstance(value, list):
        return [_inline(item) for item in value] or ["none"]
    return [_inline(value)]


def _inline(value: Any) -> str:
    """On one line: `name=value name=(name=value)`; what is absent is left out."""
    if isinstance(value, dict):
        parts = [(name, item) for name, item in value.items() if item not in (None, [])]
        return " ".join(
            f"{name}=({_inline(item)})" if isinstance(item, dict | list) else f"{name}={item}" for name, item in parts
        )
    if isinstance(value, list):
        return "; ".join(_inline(item) for item in value)
    return "none" if value is None else str(value)


@cli.command()
@config_option
@store_option
@json_option
def status(config: Path | None, store: Path | None, as_json: bool) -> None:
    """Show what the store holds, how fresh it is, and whether the daemon answers.

    \b
    Example: lookupd status --config /etc/lookupd/a.toml
    """

    def work() -> None:
        from lookupd.status import format_status, read_status, unix_now
        from lookupd.store.reader import Reader

        settings = _settings(config, store, "886")
        with Reader(settings.store_path, map_size=settings.store.map_size) as reader:
            found = read_status(reader, unix_now(), settings if config is not None else None)
        if as_json:
            click.echo(msgspec.json.encode(found).decode())
        else:
            click.echo("\n".join(format_status(found)))

    carry_out(as_json, work)


@cli.command()
@click.option("--server", default=DEFAULT_SERVER, show_default=True, help="udp:// or tcp://.")
@click.option("--dialect", type=click.Choice(["npq", "pdb", "enum", "sip"]), default="npq", show_default=True)
@click.option("--apex", default="e164.arpa", show_default=True, help="Where the numbers' names lie (enum).")
@click.option("--numbers", type=PATH, help="File of numbers, one a line, asked in its order and again.")
@click.option("--range", "span", metavar="FIRST-LAST", help="Draw numbers evenly from a range instead.")
@click.option("--seed", default=1, show_default=True, help="What is drawn: the same for the same seed.")
@click.option("--sockets", default=1, show_default=True, help="Sockets or connections to ask from.")
@click.option("--threads", default=1, show_default=True, help="Threads that ask; each keeps a core busy.")
@click.option("--window", type=int, help="Closed loop: queries in flight on each socket.  [default: 32]")
@click.option("--rate", type=int, help="Open loop: queries a second over all sockets, whether or not answers come.")
@click.option("--batch", default=1, show_default=True, help="Numbers in each query (npq).")
@click.option("--gso/--no-gso", default=False, help="Join queries that leave together, take answers joined (UDP).")
@click.option("--seconds", type=float, help="How long to ask.  [default: 10]")
@click.option("--count", type=int, help="How many queries to ask instead, or at most.")
@click.option("--timeout", default=1.0, show_default=True, help="Seconds after which a query counts as lost.")
@click.option("--remote", is_flag=True, help="The server is yours, although it is not on this machine.")
@json_option
def bench(span: str | None, window: int | None, rate: int | None, as_json: bool, **others: Any) -> None:
    """Measure what a server answers and how fast; Ctrl-C ends early with what was measured.

    A closed loop (--window) finds how much it can do; an open loop (--rate) finds how long callers wait at a
    given load. docs/bench.md tells how not to fool oneself.

    \b
    Examples: lookupd bench --range 886912000000-886912999999 --window 128 --gso
              lookupd bench --numbers asked.txt --rate 50000 --sockets 64 --seconds 30 --json
              lookupd bench --server udp://127.0.0.1:5574 --dialect pdb --numbers asked.txt
              lookupd bench --server udp://127.0.0.1:53 --dialect enum --apex np.example --numbers asked.txt
              lookupd bench --server tcp://127.0.0.1:5060 --dialect sip --numbers asked.txt
    """
    from lookupd.bench import Options, run, show

    if window is not None and rate is not None:
        raise click.UsageError("--window is a closed loop, --rate an open one: choose one")
    if (span is None) == (others["numbers"] is None):
        raise click.UsageError("name the numbers: --numbers FILE or --range FIRST-LAST")
    first, last = _span(span)
    options = Options(first=first, last=last, window=32 if window is None else window, rate=rate, **others)
    try:
        options.check()
    except ValueError as error:
        raise click.UsageError(str(error)) from None

    def work() -> None:
        try:
            report = run(options, _tell_progress if sys.stderr.isatty() else None)
        except ValueError as error:
            raise LookupdError(str(error)) from None
        if sys.stderr.isatty():
            click.echo("\r\033[K", err=True, nl=False)
        if as_json:
            click.echo(msgspec.json.encode(report))
        else:
            show(report)
        if not report.received:
            click.echo(
                f"error: {options.server}: nothing was answered: does it speak {options.dialect} there, may we ask?",
                err=True,
            )
            sys.exit(LookupdError.exit_code)

    carry_out(as_json, work)


def _span(text: str | None) -> tuple[int, int]:
    """`FIRST-LAST`, either with or without a plus sign. Raises UsageError."""
    if text is None:
        return 0, 0
    first, _, last = text.replace("+", "").partition("-")
    if not (first.isascii() and first.isdigit() and last.isascii() and last.isdigit()):
        raise click.UsageError(f"--range {text}: write it like 886912000000-886912999999")
    return int(first), int(last)


def _tell_progress(sent: int, received: int, lost: int) -> None:
    click.echo(f"\r\033[Ksent {sent:,}  received {received:,}  lost {lost:,}", err=True, nl=False)


@cli.command()
@click.option("--config", type=PATH, required=True, help="Configuration file.")
@json_option
def sockets(config: Path, as_json: bool) -> None:
    """Print the drop-in of lookupd@NAME.socket that lets systemd hold the sockets of [listen].

    \b
    Example: lookupd sockets --config /etc/lookupd/a.toml > /etc/systemd/system/lookupd@a.socket.d/listen.conf
    """

    def work() -> None:
        from lookupd.socket_units import configured, drop_in

        settings = read_config(config)
        written = drop_in(settings)
        if as_json:
            click.echo(json.dumps({"sockets": sorted(configured(settings)), "drop_in": written}))
        else:
            click.echo(written, nl=False)

    carry_out(as_json, work)


@cli.command()
@click.option("--config", type=PATH, required=True, help="Configuration file.")
@click.option("--user", help="The daemon's user, a name or a number.  [default: of the one that runs, or lookupd]")
@json_option
def doctor(config: Path, user: str | None, as_json: bool) -> None:
    """Look at this machine as the replica needs it, and say how to mend what is wrong. It changes nothing.

    Each line is ok, warn or fail; docs/operations/doctor.md explains them. As root it sees most. Exit code: 0 if
    nothing fails, 1 if something does, 3 if the configuration cannot be read.

    \b
    Example: lookupd doctor --config /etc/lookupd/a.toml
    """

    def work() -> None:
        from lookupd.doctor import examine, format_checks

        found = examine(read_config(config), config, user)
        failed = any(check.result == "fail" for check in found)
        if as_json:
            click.echo(msgspec.json.encode({"result": "failed" if failed else "done", "checks": found}).decode())
        else:
            click.echo("\n".join(format_checks(found)))
        if failed:
            sys.exit(LookupdError.exit_code)

    carry_out(as_json, work)


@cli.command()
@json_option
def engine(as_json: bool) -> None:
    """Say which engine would serve UDP here, and why.

    \b
    Example: lookupd engine
    """
    from lookupd.fastpath import native_missing

    missing = native_missing()
    if as_json:
        click.echo(json.dumps({"engine": "python" if missing else "native", "reason": missing}))
    else:
        click.echo(f"engine: python: {missing}" if missing else "engine: native")


cli.add_command(batch)
cli.add_command(log)
cli.add_command(usage)
cli.add_command(probe)
cli.add_command(history)
cli.add_command(audit)


def main() -> None:
    """Entry point of `lookupd`."""
    cli()


if __name__ == "__main__":
    main()
