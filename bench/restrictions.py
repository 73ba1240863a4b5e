"""What restrictions cost a query: of numbers that have none, and of those that have one, in one run.

Two stores with the same numbers: one without restrictions, one with a million single ones (half of the ported
numbers, if those are fewer) and 10,000 ranges of a hundred. Servers share one core and are asked in turn, over `pdb`:
it tells nothing of a restriction, so that what is left is the look-up.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from bench.asking import MANY_SOCKETS, ONE_SOCKET, SEGMENTED, Asker
from bench.dataset import QUERY_SEED, Dataset, numbers_of_ranges, once, open_engine
from bench.figures import QUERY_UNIT, Figure, Section
from bench.native import Numbers, write_numbers
from bench.processes import Server, daemon, pinned
from bench.rounds import Run, Samples, run_rounds
from lookupd.model import JournalKind, Measure, Restriction, Target, UnixSeconds
from lookupd.status import unix_now
from lookupd.store import restricting
from lookupd.store.change import Counts
from lookupd.store.reader import Reader
from lookupd.store.schema import ENTRIES_BYTES, FORMAT_VERSION, NUMBERS_PER_BLOCK, RESTRICTED, ROUTE_MASK
from lookupd.store.writer import Writer

TITLE = "Restrictions"
WAYS = {"many": MANY_SOCKETS, "one": ONE_SOCKET, "segmented": SEGMENTED}
SINGLES, RANGES, RANGE_NUMBERS = 1_000_000, 10_000, 100
ASKED = 200_000
HIT_AIM = 1.3
FREE_AIM = 1.05
"""Nothing more, as far as runs on a machine that others use can tell."""


@dataclass(frozen=True)
class Effort:
    """How much is asked. seconds: of a run."""

    rounds: int
    seconds: float


FULL = Effort(rounds=11, seconds=0.4)
QUICK = Effort(rounds=3, seconds=0.2)


@dataclass(frozen=True)
class Servers:
    """Both on one core, with the same numbers."""

    plain: Server
    restricted: Server


def measure(dataset: Dataset, effort: Effort, server_core: int, client_core: int) -> list[Section]:
    """All of it. Raises ChildFailed when a server does not come up or does not answer, WrongAnswer when it lies."""
    numbers = write_numbers(dataset)
    store = dataset.folder / f"restricted-{FORMAT_VERSION}"
    once(store, partial(_make_store, dataset))
    files = _write_files(dataset, store, numbers)
    with _servers(dataset, store, server_core) as servers, pinned(client_core):
        samples = run_rounds(_runs(servers, files, effort), effort.rounds)
    return [Section(TITLE, _note(dataset, effort), _figures(samples))]


@contextlib.contextmanager
def _servers(dataset: Dataset, store: Path, core: int) -> Iterator[Servers]:
    with contextlib.ExitStack() as stack:
        start = stack.enter_context
        yield Servers(
            start(daemon(dataset.store, dataset.folder, core, "native", name="plain")),
            start(daemon(store, dataset.folder, core, "native", name="restricted")),
        )


def _runs(servers: Servers, files: dict[str, Path], effort: Effort) -> dict[str, Run]:
    """By name; what is compared stands side by side."""
    found: dict[str, Run] = {}
    for key, way in WAYS.items():
        for what, path in files.items():
            for name, server in vars(servers).items():
                asker = Asker(server.ports["pdb"], "pdb", path)
                found[f"{name} {what} {key}"] = Run(server, partial(asker.ask, way, effort.seconds))
    return found


# -- the store -------------------------------------------------------------------------------------------


def _make_store(dataset: Dataset, folder: Path) -> None:
    """A copy with its restrictions, placed as the loader places them."""
    ranges = _ranges(dataset)
    folder.mkdir()
    shutil.copyfile(dataset.store / "data.mdb", folder / "data.mdb")
    now = unix_now()
    with Writer(folder) as writer, writer.change(now) as change:
        for first, last in itertools.chain(_singles(dataset), ranges):
            restricting.put(change, _stop(first, last, now))
        change.record(JournalKind.RESTRICT, Counts(), reason="bench: a store with restrictions")


def _stop(first: int, last: int, now: UnixSeconds) -> Restriction:
    until = UnixSeconds(now + 700 * 86_400)
    return Restriction(Target.NUMBER, first, last, "NPA", "A-1", Measure.STOP, UnixSeconds(now - 1), until)


def _singles(dataset: Dataset) -> list[tuple[int, int]]:
    with Reader(dataset.store) as reader:
        step = max(2, reader.state.ported // SINGLES)
        numbers = itertools.chain.from_iterable(
            (
                block * NUMBERS_PER_BLOCK + np.flatnonzero(np.frombuffer(value[:ENTRIES_BYTES], "<u2") & ROUTE_MASK)
            ).tolist()
            for block, value in reader.blocks()
        )
        return [(tn, tn) for tn in itertools.islice(numbers, 0, SINGLES * step, step)]


def _ranges(dataset: Dataset) -> list[tuple[int, int]]:
    """Of numbers that a range holds, apart from each other."""
    with open_engine(dataset) as (_, reader):
        digits = len(str(next(iter(reader.blocks()))[0])) + 3
        drawn = numbers_of_ranges(reader, np.random.default_rng(QUERY_SEED + 1), digits)
        firsts = {tn - tn % RANGE_NUMBERS for tn in itertools.islice(drawn, 2 * RANGES)}
    return [(first, first + RANGE_NUMBERS - 1) for first in sorted(firsts)[:RANGES]]


def _write_files(dataset: Dataset, store: Path, numbers: Numbers) -> dict[str, Path]:
    """Numbers to ask: those that no restriction is about, and those that one is, singles and in ranges alike."""
    draw = np.random.default_rng(QUERY_SEED)
    with Reader(store) as reader:
        free = [tn for tn in numbers.queries.tn if not reader.entry(tn) & RESTRICTED]
    singles = draw.choice([tn for tn, _ in _singles(dataset)], ASKED // 2).tolist()
    ranged = [
        first + int(draw.integers(RANGE_NUMBERS))
        for first, _ in itertools.islice(itertools.cycle(_ranges(dataset)), ASKED // 2)
    ]
    files = {}
    for what, asked in (("free", free), ("single", singles), ("ranged", ranged)):
        files[what] = dataset.folder / f"restricted-{what}.txt"
        files[what].write_text("".join(f"{tn}\n" for tn in draw.permutation(asked).tolist()))
    return files


# -- figures ---------------------------------------------------------------------------------------------


def _note(dataset: Dataset, effort: Effort) -> str:
    return (
        f"Server CPU over UDP with `pdb`, {dataset.numbers:,} ported numbers, one worker: a store with "
        f"{min(SINGLES, dataset.numbers // 2):,} single restrictions and {RANGES:,} ranges of {RANGE_NUMBERS}, against "
        f"the same without any, asked for the same numbers. Median and range of {effort.rounds} rounds."
    )


def _figures(samples: dict[str, Samples]) -> list[Figure]:
    found = []
    words = {"free": "without a restriction", "single": "with one of its own", "ranged": "in a restricted range"}
    for key, way in WAYS.items():
        for what, told in words.items():
            ratio = samples[f"restricted {what} {key}"].to(samples[f"plain {what} {key}"], "a store without")
            aim = FREE_AIM if what == "free" else HIT_AIM
            found.append(
                Figure(
                    f"a number {told}, {way.name}",
                    samples[f"restricted {what} {key}"].us,
                    QUERY_UNIT,
                    ratio,
                    aim=f"<= {aim:g} x",
                    met=ratio.median <= aim,
                )
            )
    return found
