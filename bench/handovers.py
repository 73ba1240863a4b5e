"""`python -m bench.handovers`: one process follows another under load, 100 times and more; what was lost is counted."""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click

from tests.callers import Callers
from tests.conftest import Workbench
from tests.handovers import Site

BETWEEN = 20
"""Questions that each caller asks between two hand-overs."""

HEADINGS = ("what", "times", "s each", "asked by", "asked", "lost", "wrong", "closed", "worst ms")


@click.command()
@click.option("--restarts", default=100, show_default=True, help="By SIGUSR2.")
@click.option("--upgrades", default=20, show_default=True, help="By SIGHUP: another store, engine, number of threads.")
@click.option("--table", is_flag=True, help="The table alone, as `make faults` includes it.")
def main(restarts: int, upgrades: int, table: bool) -> None:
    """Ask over seven listeners without pause, one question in flight each and none asked again.

    A question without an answer within two seconds is lost. `pdb` does not answer what is more than 30 ms old, which a
    busy machine makes it; that counts as lost here, too, and is not judged. Exit code 1 if another one lost any.

    \b
    Example: python -m bench.handovers --restarts 10 --upgrades 4
    """
    rows = _run("restart", restarts, _restart) + _run("upgrade", upgrades, _upgrade)
    if not table:
        click.echo(f"# One process follows another under load, {BETWEEN} questions a caller between two\n")
    for line in _markdown(rows):
        click.echo(line)
    sys.exit(any(int(lost) and not by.startswith("pdb") for _, _, _, by, _, lost, *_ in rows))


def _run(what: str, times: int, step: Callable[[Site, int, Path], None]) -> list[tuple[str, ...]]:
    with tempfile.TemporaryDirectory(prefix="lookupd-handovers-") as folder:
        bench = Workbench(Path(folder))
        bench.load_tables()
        bench.snapshot()
        second = bench.folder / "store-beside"
        shutil.copytree(bench.store, second)
        site = Site(bench)
        with site.run(), site.callers() as callers:
            began = time.monotonic()
            for at in range(times):
                step(site, at, second)
                callers.wait(BETWEEN)
            each = (time.monotonic() - began) / max(times, 1)
        return _rows(what, times, each, callers)


def _restart(site: Site, _at: int, _second: Path) -> None:
    site.hand_over()


def _upgrade(site: Site, at: int, second: Path) -> None:
    site.store = second if at % 2 == 0 else site.bench.store
    site.threads = at % 3
    site.engine = "python" if at % 8 in {3, 4, 5, 6} else "auto"
    site.configure()
    site.hand_over(signal.SIGHUP)


def _rows(what: str, times: int, each: float, callers: Callers) -> list[tuple[str, ...]]:
    return [
        (
            what,
            str(times),
            f"{each:.2f}",
            f"{caller.dialect} over {caller.transport}",
            str(caller.asked),
            str(caller.lost),
            str(caller.wrong),
            str(caller.closed),
            f"{caller.worst * 1000:.0f}",
        )
        for caller in callers.all
    ]


def _markdown(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in (HEADINGS, *rows)) for column in range(len(HEADINGS))]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |" for row in rows]
    head = "| " + " | ".join(cell.ljust(w) for cell, w in zip(HEADINGS, widths, strict=True)) + " |"
    return [head, "|".join(["", *("-" * (w + 2) for w in widths), ""]), *lines]


if __name__ == "__main__":
    main()
