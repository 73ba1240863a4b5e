"""What the metrics keep of listeners and clients lists that are gone."""

from __future__ import annotations

import errno
import os
import socket
import time

import pytest

from lookupd.engine import Engine
from lookupd.errors import ConfigError
from lookupd.numbering import load_plan
from lookupd.observe import metrics as observed
from lookupd.observe.counters import ALL_DIALECTS, USAGE_RESULTS, Usage
from lookupd.observe.metrics import Metrics
from lookupd.settings import Endpoint
from lookupd.transports import sockets


def made() -> Metrics:
    return Metrics(Engine(load_plan("886", None)), "native")


class Counted:
    """What a listener of the native engine counted."""

    def __init__(self, queries: int) -> None:
        self.received = 4 * queries
        self.odd = self.other = queries
        self.unreadable = queries
        self.answered = [queries, 0, 0, 0, 0, 0]
        self.refused = [0, queries]
        self.dropped = [queries, 0, 0, 0, 0, 0, 0]
        self.latency = [[0, queries, *[0] * 21], *[[0] * 23 for _ in range(5)]]
        self.latency_ns = [2000 * queries, 0, 0, 0, 0, 0]

    def counts(self) -> Counted:
        return self


class Clients:
    """One client's usage."""

    def __init__(self, queries: int) -> None:
        self.queries = queries

    def usage(self) -> list[list[Usage]]:
        return [[[self.queries] * len(USAGE_RESULTS) for _ in ALL_DIALECTS]]


def test_closed_listeners_stay_in_the_sums_and_nowhere_else() -> None:
    metrics = made()
    metrics.counters("npq", "udp")
    for queries in range(1, 101):
        source = Counted(queries)
        metrics.add_native("npq", "udp", source)
        before = metrics.text()
        if queries < 100:
            metrics.retire_native("npq", "udp", source)
            assert _queries(metrics.text()) == _queries(before)
    assert len(metrics._native["npq", "udp"]) == 2
    counted = metrics.queries("npq", "udp")
    assert (counted.received, counted.answered[0], counted.balance()) == (4 * 5050, 5050, 0)
    text = metrics.text().decode()
    labels = 'dialect="npq",outcome="ported",transport="udp"'
    assert f"lookupd_reply_seconds_count{{{labels}}} 5050.0" in text
    assert f"lookupd_reply_seconds_sum{{{labels}}} 0.0101" in text
    assert "lookupd_store_unreadable_entries_total 5050.0" in text


def _queries(text: bytes) -> list[bytes]:
    return [line for line in text.splitlines() if line.startswith(b"lookupd_")]


def test_clients_lists_are_kept_only_as_long_as_somebody_may_count_under_them(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    metrics = made()
    lists = [Clients(1) for _ in range(50)]
    for at, counted in enumerate(lists):
        metrics.watch_clients(["one" if at % 2 else "two"], counted)
        if at >= 2:
            lists[at - 1].queries += 10  # a batch that began before the list was replaced
        now += observed.RETIRED_AFTER_SECONDS - 1
    assert len(metrics._usage) <= 3
    for _ in range(2):  # asking changes nothing
        usage = metrics.client_usage()
        assert usage["one"][0][0] + usage["two"][0][0] == 50 + 48 * 10


def test_what_the_kernel_refuses_is_told_with_the_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = Endpoint("udp", "127.0.0.1", 0)
    opened: list[socket.socket] = []
    real = socket.socket

    def few(*arguments: int) -> socket.socket:
        if len(opened) == 2:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        opened.append(real(*arguments))
        return opened[-1]

    monkeypatch.setattr(socket, "socket", few)
    with pytest.raises(ConfigError, match=r"listen: udp://127\.0\.0\.1:\d+: Too many open files"):
        sockets.bind_shared(endpoint, 4)
    assert [sock.fileno() for sock in opened] == [-1, -1]
