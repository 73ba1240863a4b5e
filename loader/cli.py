"""`lookupd-loader`: its commands, gathered. Each lives in `commands`."""

from __future__ import annotations

import click

from loader.commands import backup, compare, history, load, publish, reconcile, relay, report, restrict, sync
from lookupd import __version__
from lookupd.help import Commands


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="lookupd-loader")
def cli() -> None:
    """Fill and change the store that lookupd answers from.

    Exit codes: 0 done, 1 failed, 2 usage, 3 configuration, 4 bad feed, 5 sequence gap, 6 stale or different.
    """


for command in (
    load.networks,
    load.ranges,
    load.snapshot,
    load.delta,
    load.verify,
    load.generate,
    publish.manifest,
    reconcile.reconcile,
    reconcile.diff,
    compare.compare,
    backup.backup,
    backup.restore,
    backup.repair,
    sync.sync,
    sync.clock,
    relay.relay,
    relay.fleet,
    report.report,
    history.journal,
    restrict.restrict,
    restrict.extend,
    restrict.lift,
    restrict.restrictions,
):
    cli.add_command(command)


def main() -> None:
    """Entry point of `lookupd-loader`."""
    cli()


if __name__ == "__main__":
    main()
