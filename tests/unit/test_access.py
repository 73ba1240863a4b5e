"""The clients list: who is found, and what a rate allows."""

from __future__ import annotations

import pytest

from lookupd.access import FULL_AT_NS_MAX, SECOND_NS, Access, Bucket, Client
from lookupd.limits import PREFIX_SLOTS, SOURCES_CACHED_MAX
from lookupd.settings import ClientSettings


def test_first_entry_that_holds_the_address_wins() -> None:
    access = Access(
        (
            ClientSettings(name="one", sources=("192.0.2.7/32", "2001:db8::/32")),
            ClientSettings(name="all", sources=("192.0.2.0/24",)),
        )
    )
    for host, name in (
        ("192.0.2.7", "one"),
        ("192.0.2.8", "all"),
        ("2001:db8::1", "one"),
        ("192.0.3.1", None),
        ("::1", None),
        ("fe80::1%eth0", None),
    ):
        for _ in range(2):  # the second time from memory
            client = access.find(host)
            assert (client and client.name) == name


def test_forged_sources_do_not_fill_the_memory() -> None:
    access = Access((ClientSettings(name="a", sources=("10.0.0.0/8",)),))
    for at in range(SOURCES_CACHED_MAX + 10):
        access.find(f"10.{at >> 16}.{at >> 8 & 255}.{at & 255}")
    assert len(access._found) <= SOURCES_CACHED_MAX


def test_rate_allows_a_second_at_once_and_then_a_steady_stream() -> None:
    client = Client(ClientSettings(name="a", sources=("::1",), queries_per_second=10))
    assert sum(client.take(1, 100_000_000_000) for _ in range(25)) == 10
    assert not client.take(1, 100_050_000_000)
    assert client.take(1, 100_200_000_000)
    assert sum(client.take(1, 200_000_000_000) for _ in range(25)) == 10


def test_batch_over_a_seconds_allowance_needs_a_full_bucket_and_leaves_a_debt() -> None:
    client = Client(ClientSettings(name="a", sources=("::1",), queries_per_second=10))
    assert client.take(30, 100_000_000_000)
    assert not client.take(1, 101_900_000_000)
    assert client.take(1, 102_200_000_000)


def test_no_rate_is_no_limit() -> None:
    client = Client(ClientSettings(name="a", sources=("::1",)))
    assert all(client.take(1000, 1_000_000_000) for _ in range(1000))


def test_allowance_far_in_debt_stays_within_the_word_of_the_native_engine() -> None:
    bucket = Bucket(1)
    assert bucket.take(2**64, 5)
    assert bucket._full_at_ns == FULL_AT_NS_MAX
    assert not bucket.take(1, FULL_AT_NS_MAX - SECOND_NS)
    assert bucket.take(1, FULL_AT_NS_MAX)


def test_parts_of_a_nanosecond_are_left_out() -> None:
    bucket = Bucket(3)  # a query fills again in 333,333,333 ns
    assert [bucket.take(1, 0) for _ in range(4)] == [True, True, True, False]
    assert not bucket.take(1, 333_333_331)
    assert bucket.take(1, 333_333_332)


def test_buckets_from_outside_take_the_place_of_the_own_ones() -> None:
    settings = (
        ClientSettings(name="a", sources=("10.0.0.0/8", "::1"), queries_per_second=5),
        ClientSettings(name="b", sources=("192.0.2.0/24",), queries_per_second=5),
        ClientSettings(name="c", sources=("198.51.100.0/24",)),
    )
    shared = [Bucket(1), Bucket(2), Bucket(1)]
    access = Access(settings, shared)
    for host, allowed in (("10.0.0.1", 1), ("::1", 0), ("192.0.2.1", 2), ("198.51.100.1", 9)):
        client = access.find(host)
        assert client is not None
        assert sum(client.take(1, SECOND_NS) for _ in range(9)) == allowed
    assert not shared[1].take(1, SECOND_NS)
    with pytest.raises(ValueError, match="argument"):
        Access(settings, shared[:1])


def test_prefix_has_an_allowance_of_its_own() -> None:
    settings = ClientSettings("a", ("::/0",), queries_per_prefix=2)
    client = Access((ClientSettings("before", ()), settings)).clients[1]
    assert client.is_limited
    now_ns = SECOND_NS
    for host, neighbour, other in (
        ("192.0.2.1", "192.0.2.254", "192.0.3.1"),
        ("2001:db8:0:100::1", "2001:db8:0:1ff::2%eth0", "2001:db8:0:200::1"),
    ):
        assert [client.take(1, now_ns, asker) for asker in (host, neighbour, host)] == [True, True, False]
        assert client.take(1, now_ns, other)
        assert client.take(1, now_ns + SECOND_NS // 2, neighbour)
    assert client.take(100, now_ns), "over TCP only the client's own rate counts, and it has none"


def test_prefix_is_asked_before_the_clients_rate() -> None:
    client = Client(ClientSettings("a", ("::/0",), queries_per_second=3, queries_per_prefix=1))
    assert client.take(1, 0, "192.0.2.1")
    assert not any(client.take(1, 0, "192.0.2.1") for _ in range(10))
    assert client.take(2, 0), "what a prefix is denied is not taken from its client"
    assert not client.take(1, 0, "198.51.100.1")


def test_forged_sources_do_not_make_the_table_of_prefixes_grow() -> None:
    client = Client(ClientSettings("a", ("::/0",), queries_per_prefix=1))
    for prefix in range(3 * PREFIX_SLOTS):
        client.take_from(f"10.{prefix >> 8 & 255}.{prefix & 255}.1" if prefix < 65_536 else "192.0.2.1", 0)
    assert 0.5 * PREFIX_SLOTS < len(client._prefixes._buckets) <= PREFIX_SLOTS
