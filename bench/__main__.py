"""`python -m bench`: measure everything on this machine, print one table, keep it with commit and machine.

A measurement, not a test: a missed aim is said, and the exit code stays 0.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec

from bench import codec, exchange, load, store
from bench.dataset import QUERY_SEED, SEED, prepare
from bench.figures import Section, table
from bench.machine import Machine, describe
from bench.processes import ChildFailed

QUICK_NUMBERS = 1_000_000
RESULTS = Path(__file__).parent / "results"
PARTS = ("store", "codec", "servers", "exchange")


class Result(msgspec.Struct, frozen=True):
    """One run. seed: of the data; query_seed: of what was asked."""

    date: str
    quick: bool
    numbers: int
    seed: int
    query_seed: int
    machine: Machine
    sections: list[Section]


@click.command()
@click.option("--numbers", type=click.IntRange(1000, 100_000_000), help="Ported numbers.  [default: 20 million]")
@click.option("--seed", default=SEED, show_default=True, help="Of the data.")
@click.option("--quick", is_flag=True, help=f"Fewer rounds, and {QUICK_NUMBERS:,} numbers unless named: for trying.")
@click.option("--only", type=click.Choice(PARTS), multiple=True, help="This part, or these.  [default: all]")
def main(numbers: int | None, seed: int, quick: bool, only: tuple[str, ...]) -> None:
    """Measure store, engine, codecs, servers and exchange on this machine; results go to bench/results/.

    \b
    Example: python -m bench --numbers 20000000
    """
    try:
        result = measure(numbers or (QUICK_NUMBERS if quick else store.AIMED_NUMBERS), seed, quick, only or PARTS)
    except (ChildFailed, load.WrongAnswer) as error:
        raise click.ClickException(str(error)) from None
    text = report(result)
    click.echo(text)
    _keep(result, text, only)


def _keep(result: Result, text: str, only: tuple[str, ...]) -> None:
    """As JSON and as Markdown; a quick run, or one of some parts, never takes the place of a whole one."""
    RESULTS.mkdir(exist_ok=True)
    name = "-".join([result.date, result.machine.commit, *(["quick"] if result.quick else []), *only])
    for ending, content in (("md", text.encode()), ("json", msgspec.json.format(msgspec.json.encode(result)))):
        (RESULTS / f"{name}.{ending}").write_bytes(content + b"\n")
    click.echo(f"kept as bench/results/{name}.md and .json", err=True)


def measure(numbers: int, seed: int, quick: bool, parts: Sequence[str] = PARTS) -> Result:
    """The parts: all take four minutes at a million numbers, ten at 20 million, more when the data is made first."""
    cores = sorted(os.sched_getaffinity(0))
    server_core, client_core = cores[0], cores[-1]
    if len(cores) < 2:
        _tell("one core only: server and client share it, so the CPU figures hold but the latencies do not")
    machine = describe()
    _tell(f"data: {numbers:,} numbers, seed {seed}")
    dataset = prepare(numbers, seed)
    efforts = (load.QUICK, exchange.QUICK) if quick else (load.FULL, exchange.FULL)
    measured: dict[str, Callable[[], list[Section]]] = {
        "store": lambda: [store.measure(dataset, server_core)],
        "codec": lambda: [codec.measure(dataset, client_core)],
        "servers": lambda: load.measure(dataset, efforts[0], server_core, client_core),
        "exchange": lambda: [exchange.measure(dataset, efforts[1], server_core, client_core)],
    }
    sections = []
    for part in (part for part in PARTS if part in parts):
        _tell(part)
        sections += measured[part]()
    date = datetime.now(UTC).date().isoformat()
    return Result(date, quick, numbers, seed, QUERY_SEED, machine, sections)


def report(result: Result) -> str:
    """The whole result as Markdown."""
    machine = result.machine
    lines = [
        f"# Measured {result.date} at {machine.commit}",
        "",
        f"{machine.cores} cores of {machine.cpu}, {machine.kernel}, Python {machine.python}, "
        f"LMDB {machine.lmdb}, uvloop {machine.uvloop}; {result.numbers:,} ported numbers, seed {result.seed}, "
        f"queries drawn with seed {result.query_seed}" + ("; quick run" if result.quick else "") + ".",
        "",
        table(result.sections),
    ]
    return "\n".join(lines).rstrip()


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
