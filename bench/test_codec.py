"""Timings of single layers by pytest-benchmark: engine, codecs, pinning. No socket.

Run by `python -m bench`, or alone: pytest bench/test_codec.py --benchmark-enable. Each timing goes over a
lot of different numbers, since one number asked again and again would stay in the processor's cache;
`operations` in the report's extra_info is how many operations one round holds.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.dataset import SEED, Queries, draw_not_allocated, draw_queries, open_engine, prepare
from lookupd.engine import Engine
from lookupd.limits import NPQ_FRAME_BYTES_MAX
from lookupd.model import Outcome
from lookupd.protocols import npq, pdb
from lookupd.store.reader import Reader

NUMBERS = int(os.environ.get("BENCH_NUMBERS", "1000000"))
QUERIES = 20_000
BATCH = 100


@pytest.fixture(scope="session")
def opened() -> Iterator[tuple[Engine, Reader]]:
    with open_engine(prepare(NUMBERS, SEED)) as engine_and_reader:
        yield engine_and_reader


@pytest.fixture(scope="session")
def engine(opened: tuple[Engine, Reader]) -> Engine:
    return opened[0]


@pytest.fixture(scope="session")
def queries(opened: tuple[Engine, Reader]) -> Queries:
    return draw_queries(*opened, QUERIES)


def time_each(benchmark: BenchmarkFixture, work: Callable[[Any], object], items: Iterable[Any]) -> None:
    """Time `work` over all items; one round is one pass."""
    every = list(items)

    def one_pass() -> None:
        for item in every:
            work(item)

    benchmark.extra_info["operations"] = len(every)
    benchmark(one_pass)


# -- engine and store ------------------------------------------------------------------------------------


def resolve_each(benchmark: BenchmarkFixture, engine: Engine, numbers: list[int], outcome: Outcome) -> None:
    """Time `resolve`, having seen that it says what is asked for."""
    asked = [str(tn) for tn in numbers]
    assert {engine.resolve(number).outcome for number in asked} == {outcome}
    time_each(benchmark, engine.resolve, asked)


def test_resolve_ported(benchmark: BenchmarkFixture, engine: Engine, queries: Queries) -> None:
    resolve_each(benchmark, engine, queries.only(ported=True), Outcome.PORTED)


def test_resolve_range_holder(benchmark: BenchmarkFixture, engine: Engine, queries: Queries) -> None:
    resolve_each(benchmark, engine, queries.only(ported=False), Outcome.NOT_PORTED)


def test_resolve_not_allocated(benchmark: BenchmarkFixture, engine: Engine) -> None:
    resolve_each(benchmark, engine, draw_not_allocated(engine, QUERIES // 2), Outcome.NOT_ALLOCATED)


def test_pin(benchmark: BenchmarkFixture, opened: tuple[Engine, Reader]) -> None:
    _, reader = opened
    time_each(benchmark, lambda _: reader.pin(), range(1000))


# -- pdb -------------------------------------------------------------------------------------------------


def test_pdb_decode(benchmark: BenchmarkFixture, queries: Queries) -> None:
    time_each(benchmark, pdb.decode_query, [pdb.encode_query(str(tn), tn & 0xFFFF) for tn in queries.tn])


def test_pdb_encode(benchmark: BenchmarkFixture, queries: Queries) -> None:
    asked = [pdb.decode_query(pdb.encode_query(str(tn), tn & 0xFFFF)) for tn in queries.tn]
    time_each(benchmark, lambda query: pdb.encode_answer(query, 101), asked)


# -- npq -------------------------------------------------------------------------------------------------


def batches(queries: Queries) -> list[list[str]]:
    """Numbers as text, BATCH at a time."""
    numbers = [str(tn) for tn in queries.tn]
    return [numbers[at : at + BATCH] for at in range(0, len(numbers), BATCH)]


def test_npq_decode_single(benchmark: BenchmarkFixture, queries: Queries) -> None:
    time_each(benchmark, npq.decode_query, [npq.encode_query(at, str(tn)) for at, tn in enumerate(queries.tn)])


def test_npq_encode_single(benchmark: BenchmarkFixture, engine: Engine, queries: Queries) -> None:
    pairs = [
        (npq.decode_query(npq.encode_query(at, str(tn))), [engine.resolve(str(tn))]) for at, tn in enumerate(queries.tn)
    ]
    time_each(benchmark, lambda pair: npq.encode_answer(pair[0], pair[1], NPQ_FRAME_BYTES_MAX), pairs)


def test_npq_decode_batch(benchmark: BenchmarkFixture, queries: Queries) -> None:
    time_each(benchmark, npq.decode_query, [npq.encode_query(at, batch) for at, batch in enumerate(batches(queries))])


def test_npq_encode_batch(benchmark: BenchmarkFixture, engine: Engine, queries: Queries) -> None:
    pairs = [
        (npq.decode_query(npq.encode_query(at, batch)), [engine.resolve(number) for number in batch])
        for at, batch in enumerate(batches(queries))
    ]
    time_each(benchmark, lambda pair: npq.encode_answer(pair[0], pair[1], NPQ_FRAME_BYTES_MAX), pairs)
