"""Who answers a batch: a store read here, or a daemon asked over the network."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

from lookupd.batch.model import Resolved, Verdict
from lookupd.client import NUMBERS_PER_DATAGRAM, LookupClient
from lookupd.engine import Engine
from lookupd.errors import BatchError, StoreError
from lookupd.explain import view
from lookupd.limits import BATCH_QUESTIONS_UNDER_WAY
from lookupd.model import AnswerView, Outcome
from lookupd.numbering import Plan
from lookupd.settings import Config
from lookupd.status import unix_now
from lookupd.store.reader import Reader
from lookupd.store.schema import format_digest

RESTRICTED = "restricted"
"""Where it is only known that there is a restriction."""


def verdict_of(answer: AnswerView) -> Verdict:
    """Of an answer as JSON shows it. Raises BatchError when a server refuses: a row is not told that."""
    if answer.outcome == Outcome.REFUSED.label:
        raise BatchError("the server refuses: this client is unknown to it, or over its rate; run it again to go on")
    return Verdict(
        answer.outcome,
        answer.network_code or "",
        answer.routing_number or "",
        answer.operator or "",
        restriction_of(answer.restriction),
    )


def restriction_of(restriction: dict[str, str] | None) -> str:
    """In one field: its kind where it is told."""
    if restriction is None:
        return ""
    return restriction.get("kind") or RESTRICTED


class StoreResolver:
    """A store that is read here: each piece of a list is answered from the newest state."""

    def __init__(self, path: Path, map_size: int, plan: Plan, stale_after: float = 0, *, native: bool = False) -> None:
        """native: whether the native engine reads it. Raises StoreError, also when its data is too old."""
        self.plan = plan
        self.native = native
        self.reader = Reader(path, map_size=map_size, native=native)
        self.engine = Engine(plan, stale_after)
        self.engine.reader = self.reader
        try:
            self._begin()
        except StoreError:
            self.reader.close()
            raise

    def _begin(self) -> None:
        self.engine.begin(unix_now())
        if not self.engine.usable:
            raise StoreError(f"{self.reader.path}: {self.engine.reason}")

    def unusable(self) -> StoreError:
        """Why the native engine has no data to answer from."""
        self.engine.begin(unix_now())
        return StoreError(f"{self.reader.path}: {self.engine.reason or 'cannot be read'}")

    def digest_of(self, serial: int) -> str | None:
        """Of the state of this serial, as long as it is the newest."""
        if self.engine.serial != serial:
            self.engine.begin(unix_now())
        return format_digest(self.reader.state.digest) if self.engine.serial == serial else None

    def resolve(self, texts: list[bytes]) -> Resolved:
        """See Resolver."""
        self._begin()
        verdicts = [verdict_of(view(self.engine.resolve(text.decode()))) for text in texts]
        return Resolved(verdicts, self.engine.serial, format_digest(self.reader.state.digest))

    def close(self) -> None:
        """See Resolver."""
        self.reader.close()


def open_store(settings: Config, *, native: bool | None = None) -> StoreResolver:
    """Of a configuration. native: None = when it is there."""
    from lookupd.fastpath import choose

    if native is None:
        native = choose(settings.engine.udp) == "native"
    return StoreResolver(
        settings.store_path, settings.store.map_size, settings.read_plan(), settings.limits.stale_after, native=native
    )


class ServerResolver:
    """Daemons asked over npq: udp:// or tcp://. Several questions are under way at a time."""

    def __init__(self, servers: Sequence[str], plan: Plan, timeout: float) -> None:
        """Raises LookupdError when a server is not written like that."""
        self.plan = plan
        self._loop = asyncio.new_event_loop()
        self._client = LookupClient(servers, timeout=timeout)

    def resolve(self, texts: list[bytes]) -> Resolved:
        """See Resolver."""
        numbers = [text.decode() for text in texts]
        lots = [numbers[at : at + NUMBERS_PER_DATAGRAM] for at in range(0, len(numbers), NUMBERS_PER_DATAGRAM)]
        answers = self._loop.run_until_complete(self._ask_all(lots))
        serial = answers[-1].serial if answers else 0
        return Resolved([verdict_of(answer) for answer in answers], serial)

    async def _ask_all(self, lots: list[list[str]]) -> list[AnswerView]:
        room = asyncio.Semaphore(BATCH_QUESTIONS_UNDER_WAY)

        async def ask(lot: list[str]) -> list[AnswerView]:
            async with room:
                return await self._client.query_many(lot)

        questions: list[Coroutine[Any, Any, list[AnswerView]]] = [ask(lot) for lot in lots]
        answers: list[AnswerView] = []
        for found in await asyncio.gather(*questions):
            answers += found
        return answers

    def close(self) -> None:
        """See Resolver."""
        self._client.close()
        self._loop.close()


class HttpResolver:
    """Daemons asked over their HTTP API, in turn; one request a lot of numbers."""

    def __init__(self, servers: Sequence[str], plan: Plan, timeout: float, keys: tuple[str | None, str | None]) -> None:
        self.plan = plan
        self._servers, self._timeout, self._keys = servers, timeout, keys

    def resolve(self, texts: list[bytes]) -> Resolved:
        """See Resolver."""
        from lookupd import clients

        answers = clients.ask(
            self._servers, tuple("+" + text.decode() for text in texts), self.plan, self._timeout, self._keys
        )
        return Resolved([verdict_of(answer) for answer in answers], answers[-1].serial if answers else 0)

    def close(self) -> None:
        """Nothing is held."""
