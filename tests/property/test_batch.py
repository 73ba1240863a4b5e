"""Any bytes are a list: as many rows come out as went in, and both engines write the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lookupd import _native
from lookupd.batch import BatchOptions, BatchSummary, run, run_batch
from lookupd.batch.resolvers import StoreResolver
from lookupd.batch.rows import next_row
from lookupd.batch.worker import PythonWorker, Reading, Seen, Worker, cut
from lookupd.errors import BatchError
from lookupd.limits import BATCH_ROW_BYTES_MAX
from tests.conftest import PLAN, Workbench

MIB = 1 << 20
calm = settings(deadline=None)  # a busy machine is no failure

WRITTEN = (
    *(b"0912345678", b"+886912345678", b"886923456789", b"0911-111-111", b"00886223450000", b"9.12E+11", b"912345678"),
    *("０９１２３４５６７８".encode(), "電話".encode(), "王".encode("cp950"), b"\xff", b"\x00", b"'0912345678"),
    b"(02) 2345-0000",
)
MARKS = (
    b",",
    b",",
    b",",
    b";",
    b"\t",
    b"|",
    b'"',
    b'""',
    b"\n",
    b"\n",
    b"\r\n",
    b"\r",
    b" ",
    b"number",
    b"x",
    b"0",
    b"+",
)
TOKENS = WRITTEN + MARKS + (b"-",)
texts = st.one_of(st.lists(st.sampled_from(TOKENS), max_size=60).map(b"".join), st.binary(max_size=200))
everyday = st.lists(
    st.one_of(
        st.integers(886_900_000_000, 886_999_999_999).map(lambda tn: b"0%d" % (tn - 886_000_000_000)),
        st.integers(10_000, 10**15 - 1).map(lambda tn: b"%d" % tn),
        st.sampled_from(WRITTEN),
    ),
    max_size=40,
).map(lambda numbers: b"".join(b'n,%s,"x"\n' % number for number in numbers))
options = st.builds(
    BatchOptions,
    column=st.one_of(st.none(), st.just(1)),
    separator=st.sampled_from([None, ",", ";"]),
    encoding=st.sampled_from([None, "big5"]),
    header=st.sampled_from([None, True, False]),
)


class Pair(NamedTuple):
    """The same data twice: a process must not open one store in two ways."""

    folder: Path
    python: StoreResolver
    native: StoreResolver


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("batches")
    resolvers = []
    for name in ("python", "native"):
        (folder / name).mkdir()
        bench = Workbench(folder / name)
        bench.load_tables()
        bench.snapshot(now=1_790_000_000)
        resolvers.append(StoreResolver(bench.store, 64 * MIB, PLAN, native=name == "native"))
    yield Pair(folder, *resolvers)
    for resolver in resolvers:
        resolver.close()


def _told(summary: BatchSummary) -> object:
    return msgspec.structs.replace(summary, started="", seconds=0, digest=None)


def _answered(pair: Pair, resolver: StoreResolver, text: bytes, asked: BatchOptions) -> tuple[object, ...]:
    """Output, parts by network and summary; or the refusal."""
    given_text, out, split = pair.folder / "in.csv", pair.folder / "out.csv", pair.folder / "split"
    given_text.write_bytes(text)
    try:
        summary = run_batch(given_text, out, resolver, asked, split=split)
    except BatchError as error:
        return (str(error),)
    parts = {path.name: path.read_bytes() for path in split.glob("*.csv")}
    return out.read_bytes(), parts, _told(summary)


@calm
@given(text=st.one_of(texts, everyday), asked=options)
def test_native_engine_writes_what_python_does(pair: Pair, text: bytes, asked: BatchOptions) -> None:
    assert _answered(pair, pair.native, text, asked) == _answered(pair, pair.python, text, asked)


@calm
@given(text=st.one_of(texts, everyday), ends=st.lists(st.integers(0, 400), max_size=20))
def test_where_a_read_ends_changes_nothing(pair: Pair, text: bytes, ends: list[int]) -> None:
    written = {_cut_up(worker, text, sorted(set(ends))) for worker in _workers(pair)}
    assert written == {_cut_up(worker, text, []) for worker in _workers(pair)}
    assert len(written) == 1


@calm
@given(text=texts)
def test_as_many_rows_come_out_as_went_in(pair: Pair, text: bytes) -> None:
    found = _answered(pair, pair.native, text, BatchOptions(column=1, separator=",", header=False))
    if len(found) == 1:
        return  # refused: the whole is of another encoding
    out, _, told = found
    assert isinstance(out, bytes)
    assert isinstance(told, BatchSummary)
    rows, consumed, skipping = cut(out, b",", True, False)
    assert (len(rows), consumed, skipping) == (told.rows, len(out), False)
    assert sum(told.networks.values()) == told.rows == sum(told.outcomes.values()) + told.bad


@settings(calm, max_examples=40)
@given(
    pieces=st.lists(
        st.tuples(
            st.sampled_from([b"x", b'"', b'"\n', b",", b"0912345678,", b"\r", b"\n", b"\r\n"]),
            st.sampled_from([1, 2, BATCH_ROW_BYTES_MAX - 1, BATCH_ROW_BYTES_MAX, BATCH_ROW_BYTES_MAX + 1]),
        ),
        max_size=6,
    ),
    ends=st.lists(st.integers(0, 300_000), max_size=3),
)
def test_rows_at_their_bound_are_cut_alike_however_the_text_arrives(
    pair: Pair, pieces: list[tuple[bytes, int]], ends: list[int]
) -> None:
    text = b"".join((unit * count)[:count] if len(unit) == 1 else unit + b"y" * count for unit, count in pieces)
    seen = {_cut_up(worker, text, sorted(ends)) for worker in _workers(pair)} | {
        _cut_up(worker, text, []) for worker in _workers(pair)
    }
    assert len(seen) == 1


def _workers(pair: Pair) -> list[Worker]:
    from lookupd.batch.dialect import find_dialect

    dialect = find_dialect(b"a,b\n", True, "utf-8", BatchOptions(column=1, header=False), PLAN)
    reading = Reading(dialect, PLAN)
    return [PythonWorker(reading, pair.python), run.make_worker(reading, pair.native)]


def _cut_up(worker: Worker, text: bytes, ends: list[int]) -> bytes:
    """What is written of a text that arrives in several reads."""
    out, left, skipping, row, last = b"", b"", False, 1, 0
    for end in [*(end for end in ends if end < len(text)), len(text)]:
        left, last = left + text[last:end], end
        scanned = worker.scan(left, end == len(text), skipping)
        written = worker.write(scanned, row, split=False)
        assert written is not None
        out, left, skipping, row = out + written.out, left[scanned.consumed :], scanned.skipping, row + scanned.count
    assert not left
    return out


@calm
@given(numbers=st.lists(st.one_of(st.integers(10_000, 10**15 - 1), st.integers(10_000, 10_020)), max_size=200))
def test_native_seen_tells_the_same_first_rows(numbers: list[int]) -> None:
    native, python = _native.Seen(1000), Seen()
    assert [native.first(tn, row) for row, tn in enumerate(numbers, 1)] == [
        python.first(tn, row) for row, tn in enumerate(numbers, 1)
    ]


def test_row_is_the_longest_that_is_read_or_too_long_by_one_byte() -> None:
    longest = b"x" * BATCH_ROW_BYTES_MAX
    for ending in (b"\n", b"\r\n", b"\r", b""):
        row = next_row(longest + ending, 0, b",", True)
        assert row is not None
        assert (row.too_long, row.after) == (False, len(longest + ending))
        row = next_row(longest + b"x" + ending, 0, b",", True)
        assert row is not None
        assert row.too_long
