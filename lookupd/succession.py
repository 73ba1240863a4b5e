"""This daemon's side of a hand-over: have a process follow it, pause, give everything away; or go on as before.

How the two processes talk is `handover`'s; what a signal means, and when the daemon ends, are the daemon's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from lookupd.fastpath.path import Listener as UdpListening
from lookupd.handover import HandoverFailed, Message, Successor
from lookupd.limits import DRAIN_SECONDS, HANDOVER_READY_SECONDS
from lookupd.observe.log import log
from lookupd.supervise import Supervisor
from lookupd.transports.inherited import Key, Legacy
from lookupd.transports.listeners import Listener, end, is_udp
from lookupd.transports.tcp import TcpListener


class Succession:
    """One daemon's. Used by one task at a time."""

    def __init__(
        self,
        command: list[str],
        listeners: dict[Key, Listener],
        *,
        supervisor: Supervisor,
        readiness: Callable[[], str | None],
        leave: Callable[[], None],
    ) -> None:
        """command: that starts the one that follows. listeners: the daemon's; emptied when it has taken over.
        readiness: why queries are not answered from data, or None. leave: called when nothing holds us any more, before
        the listeners are given away."""
        self._command = command
        self._listeners = listeners
        self._supervisor = supervisor
        self._readiness, self._leave = readiness, leave
        self._successor: Successor | None = None

    async def attempt(self, why: str, legacy: Legacy) -> bool:
        """Whether a process follows us now; if not, nothing has changed. legacy: what it is to know of us."""
        sockets = {key: listener.sockets for key, listener in self._listeners.items()}
        successor = self._successor = Successor(self._command, legacy, sockets)
        log("handover_begun", reason=why)
        try:
            await self._await_answers(successor)
        except HandoverFailed as error:
            await successor.end()
            self._each_udp(lambda listener: listener.resume())
            log("handover_failed", reason=error)
            return False
        finally:
            self._successor = None
        self._supervisor.tell(MAINPID=successor.pid)
        log("handing_over", to=successor.pid)
        self._leave()
        await self._give_all(successor)
        return True

    def shut(self) -> None:
        """The daemon is to end: whoever was to follow is waited for no more."""
        if self._successor is not None:
            self._successor.shut()

    async def _await_answers(self, successor: Successor) -> None:
        """Raises HandoverFailed unless it answers at least as well as we do."""
        await successor.start()
        prepared = await successor.hear("prepared")
        if prepared.reason is not None and self._readiness() is None:
            raise HandoverFailed(f"process {successor.pid} would have no answers: {prepared.reason}")
        self._each_udp(lambda listener: listener.pause())
        await successor.tell(Message("go"))
        await successor.hear("ready", HANDOVER_READY_SECONDS)

    async def _give_all(self, successor: Successor) -> None:
        """Read no socket any more, and give the connections away."""
        listeners = dict(self._listeners)
        self._listeners.clear()
        await asyncio.gather(*(listener.close() for listener in listeners.values() if is_udp(listener)))
        try:
            for (dialect, endpoint), listener in listeners.items():
                if not isinstance(listener, TcpListener):
                    continue
                async for sock, received in listener.hand_over(DRAIN_SECONDS):
                    with sock:
                        message = Message("connection", dialect=dialect, endpoint=endpoint, received=received)
                        await successor.tell(message, sock.fileno())
            await successor.tell(Message("done"))
        except HandoverFailed as error:  # it died just now: the supervisor starts the next one
            log("connections_lost", reason=error)
        for listener in listeners.values():
            if not is_udp(listener):
                await end(listener)
        successor.let_go()

    def _each_udp(self, work: Callable[[UdpListening], None]) -> None:
        for listener in self._listeners.values():
            if is_udp(listener):
                work(listener)
