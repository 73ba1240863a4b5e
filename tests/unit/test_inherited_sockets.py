"""Sockets that were open before us: which listener gets which, and what is refused."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from lookupd.config import read_config
from lookupd.daemon import Daemon
from lookupd.errors import ConfigError
from lookupd.fastpath import native_missing
from lookupd.protocols import npq
from lookupd.protocols.sip_framing import SipFraming
from lookupd.settings import Endpoint
from lookupd.transports import inherited
from lookupd.transports.inherited import (
    DESCRIPTORS_MAX,
    PREDECESSOR,
    Bequest,
    Inherited,
    Legacy,
    describe,
    take_bequest,
    take_inherited,
)
from lookupd.transports.sockets import IPPROTO_UDP, SEGMENT_SIZE, UDP_GRO, UDP_SEGMENT, bind, close_all, prepare, share
from tests.conftest import Workbench, serve

UDP = Endpoint("udp", "127.0.0.1", 0)


@pytest.fixture
def sockets() -> Iterator[list[socket.socket]]:
    """Two of UDP and one of TCP, bound."""
    made = [bind(UDP), bind(UDP), bind(Endpoint("tcp", "127.0.0.1", 0))]
    yield made
    close_all(made)


def endpoint_of(sock: socket.socket) -> Endpoint:
    transport = "udp" if sock.type == socket.SOCK_DGRAM else "tcp"
    return Endpoint(transport, *sock.getsockname()[:2])


def test_systemds_sockets_are_found_by_type_and_address(sockets: list[socket.socket]) -> None:
    first, second, tcp = sockets
    offered = Inherited({}, [first, second, tcp])
    same_port = Endpoint("tcp", "127.0.0.1", first.getsockname()[1])
    assert offered.claim("npq", same_port) == []
    assert offered.claim("npq", endpoint_of(second)) == [second]
    assert offered.claim("npq", endpoint_of(second)) == []
    assert offered.claim("sip", endpoint_of(tcp)) == [tcp]
    assert offered.take_rest() == [first]
    assert offered.take_rest() == []


def test_predecessors_sockets_are_found_by_what_is_configured(sockets: list[socket.socket]) -> None:
    """Also where the configuration leaves the port to the system."""
    first, second, _ = sockets
    offered = Inherited({("npq", UDP): [first, second]}, [])
    assert offered.claim("pdb", UDP) == []
    assert offered.claim("npq", UDP) == [first, second]
    assert offered.take_rest() == []


def test_descriptors_of_systemd_become_sockets(sockets: list[socket.socket], monkeypatch: pytest.MonkeyPatch) -> None:
    duplicate = os.dup(sockets[0].fileno())
    monkeypatch.setattr(inherited, "FIRST_DESCRIPTOR", duplicate)
    environment = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "x", "OTHER": "y"}
    offered = take_inherited(None, environment)
    assert environment == {"OTHER": "y"}, "no program that we start takes them for its own"
    (found,) = offered.claim("npq", endpoint_of(sockets[0]))
    with found:
        assert found.fileno() == duplicate
        assert not os.get_inheritable(duplicate)


@pytest.mark.parametrize("count", ["x", "-1", "9" * 30, str(DESCRIPTORS_MAX + 1), ""])
def test_wrong_count_is_told(count: str) -> None:
    with pytest.raises(ConfigError, match="no number of sockets"):
        take_inherited(None, {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": count})


def test_sockets_for_another_process_are_not_ours() -> None:
    environment = {"LISTEN_PID": "1", "LISTEN_FDS": "3"}
    assert take_inherited(None, environment).take_rest() == []
    assert environment == {}


def test_what_is_no_socket_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "file").open("w") as file:
        monkeypatch.setattr(inherited, "FIRST_DESCRIPTOR", file.fileno())
        with pytest.raises(ConfigError, match=rf"LISTEN_FDS: descriptor {file.fileno()} is no socket"):
            take_inherited(None, {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"})


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM), "is a connection: Accept=no"),
        (lambda: dual(socket.SOCK_DGRAM), "takes IPv4, too"),
        (lambda: dual(socket.SOCK_STREAM), "takes IPv4, too"),
    ],
)
def test_socket_that_a_unit_makes_otherwise_is_told(
    made: Callable[[], socket.socket], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with made() as sock:
        monkeypatch.setattr(inherited, "FIRST_DESCRIPTOR", os.dup(sock.fileno()))
        with pytest.raises(ConfigError, match=reason):
            take_inherited(None, {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"})


def dual(kind: socket.SocketKind) -> socket.socket:
    """Bound to all addresses of both families."""
    sock = socket.socket(socket.AF_INET6, kind)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.bind(("::", 0))
    if kind == socket.SOCK_STREAM:
        sock.listen()
    return sock


async def test_datagrams_that_were_joined_for_another_engine_are_answered_one_by_one(
    loaded: Workbench, python_engine: None
) -> None:
    """They were queued while the native engine had the socket, and are read by the Python path that followed."""
    endpoint = Endpoint("udp", "127.0.0.1", 0)
    config = loaded.config(listen='npq = ["udp://127.0.0.1:0"]')
    queries = [npq.encode_query(1000 + at, "886912345678") for at in range(5)]
    with bind(endpoint) as sock, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        sock.setsockopt(IPPROTO_UDP, UDP_GRO, 1)
        client.settimeout(2)
        client.connect(sock.getsockname())
        segment = [(IPPROTO_UDP, UDP_SEGMENT, SEGMENT_SIZE.pack(len(queries[0])))]
        client.sendmsg([b"".join(queries)], segment)
        offered = Inherited({("npq", endpoint): [sock.dup()]}, [])
        daemon = Daemon(read_config(config), config, inherited=offered)
        await daemon.start()
        try:
            found = {npq.decode_answer(await asyncio.to_thread(client.recv, 2000)).id for _ in queries}
        finally:
            await daemon.close()
    assert found == {1000, 1001, 1002, 1003, 1004}


def test_first_half_of_a_ping_is_handed_on() -> None:
    framing = SipFraming()
    assert framing.begun() == b""
    framing.cut(bytearray(b"\r\n"), 0)
    assert framing.begun() == b"\r\n"


def test_bequest_is_taken_once_and_from_the_parent_alone() -> None:
    bequest = Bequest(os.getppid(), 7, [("npq", UDP, [8, 9])], Legacy(17, "behind the peer"))
    environment = {PREDECESSOR: msgspec.json.encode(bequest).decode()}
    assert take_bequest(environment) == bequest
    assert take_bequest(environment) is None
    stranger = msgspec.structs.replace(bequest, pid=1 if os.getppid() != 1 else 2)
    with pytest.raises(ConfigError, match="did not start this one"):
        take_bequest({PREDECESSOR: msgspec.json.encode(stranger).decode()})


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"pid": "x"}', "\ud800", "9" * 5000])
def test_any_other_bequest_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=PREDECESSOR):
        take_bequest({PREDECESSOR: text})


def test_one_socket_is_shared_by_as_many_workers_as_there_are(sockets: list[socket.socket]) -> None:
    first, second, _ = sockets
    found = share([first, second], UDP, 5)
    try:
        assert found[:2] == [first, second]
        assert len({sock.fileno() for sock in found}) == 5
        assert [sock.getsockname() for sock in found[2:]] == [
            first.getsockname(), second.getsockname(), first.getsockname(),
        ]  # fmt: skip
        assert share([first, second], UDP, 1) == [first, second], "none is left unread"
    finally:
        close_all(found[2:])


def test_room_that_a_socket_has_is_not_taken_from_it() -> None:
    """systemd may force a larger buffer than we may ask for."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 3 << 20)
        before = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        prepare(sock, UDP)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == before


def test_socket_that_fits_nothing_is_named(sockets: list[socket.socket]) -> None:
    assert describe(sockets[0]) == f"udp://127.0.0.1:{sockets[0].getsockname()[1]}"
    with socket.socket(socket.AF_UNIX) as other:
        assert describe(other) == "AF_UNIX"


async def test_native_sockets_are_left_as_they_are(loaded: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a Python path that was to follow: workers that sleep in them would spin, or take a train for a datagram."""
    if (missing := native_missing()) is not None:
        pytest.skip(missing)
    monkeypatch.setattr(Workbench, "engine", "native")
    async with serve(loaded.config()) as served:
        for (dialect, endpoint), listener in served.daemon.listeners.items():
            if endpoint.transport != "udp":
                continue
            for sock in listener.sockets:
                prepare(sock, endpoint)
                assert os.get_blocking(sock.fileno()), dialect
                assert sock.getsockopt(IPPROTO_UDP, UDP_GRO) == 1, dialect


async def test_python_path_that_ends_reads_what_was_joined_for_the_native_one_that_follows(
    loaded: Workbench, python_engine: None
) -> None:
    async with serve(loaded.config(listen='npq = ["udp://127.0.0.1:0"]')) as served:
        ((_, listener),) = served.daemon.listeners.items()
        listener.pause()  # type: ignore[union-attr]
        listener.sockets[0].setsockopt(IPPROTO_UDP, UDP_GRO, 1)  # as the native successor does at its start
        queries = [npq.encode_query(1000 + at, "886912345678") for at in range(5)]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.connect(("127.0.0.1", listener.port))
            client.settimeout(2)
            segment = [(IPPROTO_UDP, UDP_SEGMENT, SEGMENT_SIZE.pack(len(queries[0])))]
            client.sendmsg([b"".join(queries)], segment)
            await listener.close()  # type: ignore[call-arg]
            served.daemon.listeners.clear()
            assert {npq.decode_answer(client.recv(2000)).id for _ in queries} == {1000, 1001, 1002, 1003, 1004}
