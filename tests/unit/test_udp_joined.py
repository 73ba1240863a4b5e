"""Replies that leave in one system call: the same bytes, each to its own peer."""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import Any

import pytest

from lookupd.model import Outcome
from lookupd.observe.counters import UNSENT
from lookupd.protocols import npq, pdb
from tests.conftest import Workbench, serve


async def burst(port: int, numbers: list[str]) -> list[int]:
    """Ask all at once from one socket; the ids of the answers in the order of arrival."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", port))
        for at, number in enumerate(numbers):
            sock.send(npq.encode_query(at, number))
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        answers = [await asyncio.wait_for(loop.sock_recv(sock, 65_535), 2) for _ in numbers]
    return [npq.decode_answer(answer).id or 0 for answer in answers]


NUMBERS = ["886912345678", "886912345678", "886931111111", "110", "110", "886912345678"] * 15


@pytest.mark.usefixtures("each_engine")
async def test_burst_of_one_peer_is_answered_whole(loaded: Workbench) -> None:
    async with serve(loaded.config()) as served:
        assert sorted(await burst(served.port("npq", "udp"), NUMBERS)) == list(range(len(NUMBERS)))


@pytest.mark.usefixtures("each_engine")
async def test_interleaved_peers_each_get_their_own_answers(loaded: Workbench) -> None:
    async with serve(loaded.config()) as served:
        port = served.port("pdb", "udp")
        socks = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(5)]
        for sock in socks:
            sock.connect(("127.0.0.1", port))
            sock.settimeout(2)
        for at in range(10):
            for peer, sock in enumerate(socks):
                for again in range(peer + 1):  # runs of one to five for each peer
                    sock.send(pdb.encode_query("886912345678", peer * 1000 + at * 10 + again))
        await asyncio.sleep(0.3)
        for peer, sock in enumerate(socks):
            ids = [pdb.decode_answer(sock.recv(300)).id for _ in range(10 * (peer + 1))]
            assert ids == [peer * 1000 + at * 10 + again for at in range(10) for again in range(peer + 1)]
            sock.close()
        assert served.daemon.metrics.queries("pdb", "udp").balance() == 0


class Refusing:
    """A socket whose joined or single sends fail, as those of some kernels, devices and full buffers do."""

    def __init__(self, sock: socket.socket, joined: int | None = None, single: int | None = None) -> None:
        self._sock = sock
        self._joined = joined
        self._single = single
        self.lets_pass = -1
        """Bytes of the replies that are sent all the same."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def fileno(self) -> int:
        return self._sock.fileno()

    def sendmsg(self, *arguments: Any) -> int:
        if self._joined is not None:
            raise OSError(self._joined, "refused")
        return self._sock.sendmsg(*arguments)

    def sendto(self, *arguments: Any) -> int:
        if self._single is not None and len(arguments[0]) != self.lets_pass:
            raise OSError(self._single, "refused")
        return self._sock.sendto(*arguments)


@pytest.mark.parametrize("code", [errno.EIO, errno.EINVAL])
@pytest.mark.usefixtures("python_engine")
async def test_kernel_that_cannot_join_gets_them_one_by_one(loaded: Workbench, code: int) -> None:
    async with serve(loaded.config()) as served:
        for (dialect, _), listener in served.daemon.listeners.items():
            if dialect == "npq" and hasattr(listener, "_run_max"):
                listener._sock = Refusing(listener._sock, joined=code)  # type: ignore[assignment]
        assert await burst(served.port("npq", "udp"), NUMBERS) == list(range(len(NUMBERS)))


@pytest.mark.usefixtures("python_engine")
async def test_answers_that_the_kernel_refuses_are_counted_as_unsent(loaded: Workbench) -> None:
    async with serve(loaded.config()) as served:
        for (dialect, _), listener in served.daemon.listeners.items():
            if dialect == "npq" and hasattr(listener, "_run_max"):
                listener._sock = Refusing(listener._sock, errno.ENOBUFS, errno.ENOBUFS)  # type: ignore[assignment]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(burst(served.port("npq", "udp"), NUMBERS), 0.5)
        counters = served.daemon.metrics.queries("npq", "udp")
        assert counters.received == counters.dropped[UNSENT] == len(NUMBERS)
        assert counters.balance() == sum(counters.answered) == 0


@pytest.mark.usefixtures("python_engine")
async def test_peer_that_cannot_be_reached_does_not_end_joining(loaded: Workbench) -> None:
    """A forged source port 0 is refused by the kernel with the same code as a kernel that cannot join."""
    async with serve(loaded.config()) as served:
        listener = next(one for (dialect, _), one in served.daemon.listeners.items() if dialect == "npq")
        before = listener._run_max  # type: ignore[union-attr]
        listener._run[:] = [b"12345678", b"12345678"]  # type: ignore[union-attr]
        listener._run_peer = ("127.0.0.1", 0)  # type: ignore[union-attr]
        listener._send_run()  # type: ignore[union-attr]
        assert listener._run_max == before > 1  # type: ignore[union-attr]
        assert await burst(served.port("npq", "udp"), NUMBERS) == list(range(len(NUMBERS)))


@pytest.mark.usefixtures("python_engine")
async def test_only_the_replies_that_were_refused_are_counted_as_unsent(loaded: Workbench) -> None:
    """Short and long replies take turns, so that each run is ended by a reply that is counted, but not sent yet."""
    async with serve(loaded.config()) as served:
        listener = next(one for (dialect, _), one in served.daemon.listeners.items() if dialect == "pdb")
        refusing = Refusing(listener._sock, single=errno.ENOBUFS)  # type: ignore[arg-type]
        refusing.lets_pass = 6  # NOT_FOUND
        listener._sock = refusing  # type: ignore[assignment]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect(("127.0.0.1", served.port("pdb", "udp")))
            for at in range(10):
                sock.send(pdb.encode_query("886931111111", at))  # not allocated
                sock.send(pdb.encode_query("886912345678", at))  # ported
            await asyncio.sleep(0.3)
        counters = served.daemon.metrics.queries("pdb", "udp")
        assert counters.answered[Outcome.NOT_ALLOCATED] == 10
        assert counters.answered[Outcome.PORTED] == 0
        assert counters.dropped[UNSENT] == 10
        assert counters.balance() == 0
