"""`python -m bench.faults`: put every fault on one replica of a pair while clients ask; one table, kept as a result."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec

from bench.faults.clients import AT_ADDRESS, CLIENTS, PDB_PATIENCE_MS, Field, Run, Timing, field
from bench.faults.injections import DIVERGENCE, INJECTIONS, Injection, by_name
from bench.faults.report import Line, Result, judge_move, line_of, missed, report
from bench.faults.sites import missing
from bench.machine import describe
from bench.processes import ChildFailed

RESULTS = Path(__file__).parents[1] / "results"
FULL, QUICK = Timing(4, 12, 3), Timing(2, 4, 2)
FULL_RUNS = 3
TRIES = 2
"""A run in which an aim is missed is made once more, and both count in the table and for the exit code: the second one
tells a fault of ours, which comes again, from a machine that did not run a client for 50 ms."""

MOVE = Timing(1, 1.9, 4)
"""Of the virtual address: one strike, and time to come up again."""

DIVERGED = Timing(4, 16, 3)
"""It is found within 10 s; then nothing is wrong any more."""

MOVES = 5
ADDRESS = "address"
MORE_SECONDS_MAX = 1200.0


@click.command()
@click.option(
    "--only",
    multiple=True,
    type=click.Choice([*(each.name for each in INJECTIONS), DIVERGENCE.name, ADDRESS]),
    help="These injections; address: those that move a virtual address.",
)
@click.option("--quick", is_flag=True, help="One short run each: for trying.")
@click.option("--engine", type=click.Choice(["auto", "native", "python"]), default="auto", show_default=True)
@click.option("--with", "more", multiple=True, help="Add the table of `python -m MODULE --table`; may be repeated.")
def main(only: tuple[str, ...], quick: bool, engine: str, more: tuple[str, ...]) -> None:
    """Kill, halt, starve, cut off and garble one replica of two while Kamailio, Unbound and our library ask both.

    Needs root, and the Debian packages iproute2, nftables, kamailio, kamailio-utils-modules, unbound and
    keepalived. The table goes to bench/results/. Exit code 1 when a client that asks both servers went without a
    right answer.

    \b
    Example: python -m bench.faults --only kill --only partition --quick
    """
    reason = missing("kamailio", "unbound", "keepalived", "taskset")
    if reason is not None:
        raise click.ClickException(reason)
    chosen = [injection for injection in INJECTIONS if not only or injection.name in only]
    try:
        lines = _measure(chosen, quick, engine, ADDRESS in only or not only)
        if DIVERGENCE.name in only or not only:
            lines += _measure_divergence(engine)
    except ChildFailed as error:
        raise click.ClickException(str(error)) from None
    tables, failures = _more(more)
    result = Result(datetime.now(UTC).date().isoformat(), quick, describe(), lines, tables)
    text = report(result)
    click.echo(text)
    _keep(result, text, only)
    failures = missed(result) + failures
    if failures:
        raise click.ClickException("missed:\n" + "\n".join(failures))


def _measure(chosen: Sequence[Injection], quick: bool, engine: str, address: bool) -> list[Line]:
    lines: list[Line] = []
    cores = sorted(os.sched_getaffinity(0))
    with (
        tempfile.TemporaryDirectory(prefix="lookupd-faults-") as folder,
        field(Path(folder), cores, engine=engine) as ground,
    ):
        for injection in chosen:
            runs = [run for _ in range(1 if quick else FULL_RUNS) for run in _runs(ground, injection, quick)]
            lines += [line_of(injection, client, runs) for client in CLIENTS]
        if address:
            lines += _measure_address(ground, quick)
    return lines


def _measure_divergence(engine: str) -> list[Line]:
    """How long wrong answers are given, until the replica that has them stands back. Nothing is aimed at but that."""
    _tell(f"{DIVERGENCE.name}: {DIVERGENCE.told}")
    cores = sorted(os.sched_getaffinity(0))
    with (
        tempfile.TemporaryDirectory(prefix="lookupd-faults-") as folder,
        field(Path(folder), cores, paired=True, engine=engine) as ground,
    ):
        run = ground.run(DIVERGENCE, DIVERGED, CLIENTS, PDB_PATIENCE_MS)
    lines = [msgspec.structs.replace(line_of(DIVERGENCE, client, [run]), met=None) for client in CLIENTS]
    for line in lines:
        _tell(f"  {line.client:12} asked {line.asked:5}  failed {line.failed:3}  wrong {line.wrong:3}")
    return lines


def _measure_address(ground: Field, quick: bool) -> list[Line]:
    """How long nobody answers at the virtual address, when its holder fails."""
    lines: list[Line] = []
    with ground.address():
        for injection in (by_name(name) for name in ("kill", "stop", "partition")):
            _tell(f"address: {injection.told}")
            runs = [ground.move(injection, MOVE) for _ in range(1 if quick else MOVES)]
            once = replace(injection, told=f"of its holder: {injection.told.partition(',')[0].partition(' every')[0]}")
            line = judge_move(line_of(once, AT_ADDRESS, runs))
            _tell(f"  asked {line.asked}  failed {line.failed}  wrong {line.wrong}  steady after {line.steady}")
            lines.append(line)
    return lines


def _runs(ground: Field, injection: Injection, quick: bool) -> list[Run]:
    """One run, told while it goes on; one more when an aim was missed. Every one of them is in the table."""
    runs: list[Run] = []
    while len(runs) < TRIES:
        _tell(f"{injection.name}: {injection.told}")
        runs.append(ground.run(injection, QUICK if quick else FULL, CLIENTS, PDB_PATIENCE_MS))
        lines = [line_of(injection, client, runs[-1:]) for client in CLIENTS]
        for line in lines:
            _tell(f"  {line.client:12} asked {line.asked:5}  failed {line.failed:3}  wrong {line.wrong:3}")
        if all(line.met is not False for line in lines):
            break
        _tell("  once more: an aim was missed")
    return runs


def _more(modules: Sequence[str]) -> tuple[list[str], list[str]]:
    """Tables of other programs, and which of them failed."""
    tables: list[str] = []
    failures: list[str] = []
    for module in modules:
        _tell(module)
        command = [sys.executable, "-m", module, "--table"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=MORE_SECONDS_MAX, check=False)
        tables.append(done.stdout)
        if done.returncode:
            failures.append(f"{module}: exit code {done.returncode}")
    return tables, failures


def _keep(result: Result, text: str, only: tuple[str, ...]) -> None:
    """A quick run, or one of some injections, never takes the place of a whole one."""
    RESULTS.mkdir(exist_ok=True)
    name = "-".join([result.date, result.machine.commit, "faults", *(["quick"] if result.quick else []), *only])
    for ending, content in (("md", text.encode()), ("json", msgspec.json.format(msgspec.json.encode(result)))):
        (RESULTS / f"{name}.{ending}").write_bytes(content + b"\n")
    click.echo(f"kept as bench/results/{name}.md and .json", err=True)


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
