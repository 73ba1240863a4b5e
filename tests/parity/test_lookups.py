"""Every number of small stores: what the Python engine finds over py-lmdb is what the native engine answers."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lookupd.fastpath import native_missing

if missing := native_missing():
    pytest.skip(missing, allow_module_level=True)

from lookupd import _native
from lookupd.engine import SERIAL_MASK, Engine
from lookupd.errors import StoreError
from lookupd.fastpath.native import native_rule
from lookupd.model import Outcome, UnixSeconds
from lookupd.protocols import npq
from lookupd.settings import ClientSettings
from tests.parity.differential import PEER, Opened, native_plan, prepare
from tests.parity.stores import CONFIRMED_AT, PLANS, RANGES, some_numbers, stored_blocks

NUMBERS_A_QUERY = 1000
AGE = 77


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    folder = tmp_path_factory.mktemp("lookups")
    prepare(folder, 2)
    both = Opened(folder, 2)
    yield both
    both.close()


def native_responder(store: _native.Environment, country: str) -> _native.Responder:
    service = _native.Service(
        store, native_plan(PLANS[country]), 0, _native.Clients([native_rule(ClientSettings("any", ("127.0.0.1/32",)))])
    )
    responder = _native.Responder(service, "npq", answer_bytes_max=10_000_000, tells_errors=False)
    responder.begin(CONFIRMED_AT + AGE)
    return responder


def every_number() -> list[str]:
    """Of each stored block and its neighbours; each prefix with anything behind it; each length."""
    found = [f"{block * 1000 + at}" for block in stored_blocks() for at in range(1000)]
    for prefix in [*RANGES, "88691", "886912", "8862"]:
        for behind in ("", "0", "000000", "999999", "123456789012345"):
            found += [(prefix + behind)[:length] for length in range(1, 17)]
    return [number for number in found if number]


def compare(opened: Opened, store: str, country: str) -> dict[Outcome, int]:
    """Ask both for every number; how often each outcome was met."""
    reader = opened.readers[store]
    reader.damaged.clear()
    engine = Engine(PLANS[country])
    engine.reader = reader
    engine.begin(UnixSeconds(CONFIRMED_AT + AGE))
    responder = native_responder(opened.stores[store], country)
    numbers, met = every_number(), dict.fromkeys(Outcome, 0)
    for first in range(0, len(numbers), NUMBERS_A_QUERY):
        asked = numbers[first : first + NUMBERS_A_QUERY]
        reply = responder.respond(npq.encode_query(first, asked, npq.DETAIL_NAMES), 0, 0, *PEER)
        assert reply is not None
        answer = npq.decode_answer(reply)
        assert (answer.id, answer.serial, answer.age) == (first, engine.serial, engine.age_seconds)
        assert len(answer.results) == len(asked)
        for number, result in zip(asked, answer.results, strict=True):
            expected = engine.resolve(number)
            route = expected.route
            assert result == [
                expected.outcome,
                None if route is None else route.network_code,
                None if route is None else route.routing_number,
                0 if expected.restriction is None else npq._flags(expected.restriction),
                expected.tn,
                None if route is None else route.operator,
            ], (store, country, number)
            met[expected.outcome] += 1
    assert responder.counts().unreadable == engine.unreadable_total
    return met


@pytest.mark.parametrize("country", list(PLANS))
def test_every_number_has_the_same_answer(opened: Opened, country: str) -> None:
    met = compare(opened, "rich", country)
    assert all(met[outcome] for outcome in Outcome if outcome is not Outcome.REFUSED and country == "886"), met
    assert sum(met.values()) > 60_000


def test_serial_over_32_bits_and_the_older_of_two_feeds_are_told_alike(opened: Opened) -> None:
    compare(opened, "wrapped", "886")
    assert opened.readers["wrapped"].state.serial > SERIAL_MASK


def test_store_without_a_feed_has_no_answers(opened: Opened) -> None:
    met = compare(opened, "bare", "886")
    assert met[Outcome.UNAVAILABLE] == sum(met.values())


@pytest.mark.parametrize("store", ["rich", "wrapped"])
def test_what_lies_under_digits_is_the_same(opened: Opened, store: str) -> None:
    """Through the readers, damaged blocks too; and the engine's own way, which the comparison of messages goes."""
    reader, other = opened.readers[store], opened.stores[store].reader()
    reader.pin()
    rng = random.Random(store)
    starts = {str(number)[:end] for number in some_numbers(rng, 1500) for end in range(1, 16)}
    met = [0, 0, 0]
    for digits in sorted(start for start in starts if not start.startswith("0")):
        assert other.touches_range(digits) == reader.touches_range(digits), digits
        found, expected = ported_under(other.has_ported_under, digits), ported_under(reader.has_ported_under, digits)
        assert found == expected, digits
        met[2 if expected is None else expected] += 1
    assert all(met), met


def ported_under(has_ported_under: Callable[[str], bool], digits: str) -> bool | None:
    """None where it cannot be read."""
    try:
        return has_ported_under(digits)
    except StoreError:
        return None


def test_store_can_be_opened_at_both_places_only_as_two_files(opened: Opened) -> None:
    """The comparison is of two libraries on two files; were they one, one library's locks would be the other's."""
    for name, reader in opened.readers.items():
        native = Path(opened.stores[name].path())
        assert reader.path != native
        assert not (reader.path / "data.mdb").samefile(native / "data.mdb")
