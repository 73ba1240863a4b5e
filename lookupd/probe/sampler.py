"""The running probe: a question to each server in its time, what came of it counted, kept and shown.

Its event loop has nothing else to do; numbers are drawn, and counts saved, in threads.
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from pathlib import Path
from typing import Any

from lookupd.clients import Server
from lookupd.errors import ConfigError, LookupdError
from lookupd.ledger import HOUR_SECONDS, Ledger, LedgerDamaged, LedgerError
from lookupd.limits import PROBE_MISSES_TOLD, PROBE_PRUNE_HOURS_MAX, PROBE_REDRAW_SECONDS
from lookupd.observe.log import log, use_format
from lookupd.probe.asker import Asker, Sample
from lookupd.probe.numbers import Drawn, FromFile, FromStore, Source
from lookupd.probe.servers import parse_all
from lookupd.probe.tally import COLUMNS, FILE, Place, Tally
from lookupd.settings import Config
from lookupd.supervise import Supervisor


class Sampler:
    """One probe."""

    def __init__(self, config: Config, *, keep: bool = True, chance: random.Random | None = None) -> None:
        """keep: save into the ledger of `probe.path`. Raises ConfigError."""
        self.config = config
        self._chance = chance or random.Random()
        try:
            servers = parse_all(config.probe.servers)
        except LookupdError as error:
            raise ConfigError(f"probe.servers: {error}") from None
        self.ledger = Ledger(config.probe_path / FILE, COLUMNS) if keep else None
        self.tally = Tally(servers, self.ledger)
        self._source = self._open_source()
        self._drawn: Drawn | None = None
        self._stopping = asyncio.Event()
        self._supervisor = Supervisor()
        self._unsaved: str | None = None
        self._pruned_in: int | None = None

    def _open_source(self) -> Source:
        probe = self.config.probe
        if probe.numbers:
            return FromFile(Path(probe.numbers), probe.unported_share)
        return FromStore(
            self.config.store_path,
            self.config.store.map_size,
            self.config.read_plan(),
            probe.unported_share,
            self._chance,
        )

    async def run(self, seconds: float | None = None) -> None:
        """Until SIGTERM or SIGINT, or for so long. Raises LookupdError if there is nothing to ask."""
        use_format(self.config.log.format)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        self._drawn = await asyncio.to_thread(self._source.draw)
        listener = await self._listen()
        log(
            "probing",
            servers=",".join(place.server.url for place in self.tally.places),
            path=self.ledger.file if self.ledger else "none",
            ported=len(self._drawn.ported),
            unported=len(self._drawn.unported),
        )
        self._supervisor.tell(READY=1)
        tasks = [asyncio.create_task(self._keep_asking(place)) for place in self.tally.places]
        tasks += [asyncio.create_task(self._keep_saving()), asyncio.create_task(self._keep_drawing())]
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            done, _ = await asyncio.wait([*tasks, stopping], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            for task in done - {stopping}:
                task.result()  # an error of ours: end with it, the supervisor starts anew
        finally:
            self._supervisor.tell(STOPPING=1)
            for task in (*tasks, stopping):
                task.cancel()
            await asyncio.gather(*tasks, stopping, return_exceptions=True)
            await self._save()
            if listener is not None:
                await listener.close()
        log("stopped")

    # -- asking ------------------------------------------------------------------------------------------

    async def _keep_asking(self, place: Place) -> None:
        """At its own moments, whether or not the questions before are answered: if a question had to wait for them, a
        server that is silent would be asked less often, and weigh less."""
        interval = float(self.config.probe.interval)
        timeout = float(getattr(self.config.probe.timeouts, place.server.dialect))
        told = _Told(place.server)
        free: list[Asker] = []
        due = time.monotonic() + self._chance.uniform(0, interval)
        try:
            async with asyncio.TaskGroup() as asking:
                while True:
                    await asyncio.sleep(max(due - time.monotonic(), 0))
                    asker = free.pop() if free else Asker(place.server, timeout, place.strays)
                    asking.create_task(self._ask(place, asker, free, told))
                    due = max(due + self._chance.uniform(0.5, 1.5) * interval, time.monotonic())
        finally:
            for asker in free:
                asker.close()

    async def _ask(self, place: Place, asker: Asker, free: list[Asker], told: _Told) -> None:
        """One question; its asker is free for the next one then."""
        assert self._drawn is not None
        number = self._drawn.next(self._chance)
        try:
            sample = await asker.ask(number.digits)
        finally:
            free.append(asker)
        self.tally.note(place, number.ported, sample)
        told.note(sample)

    async def _keep_drawing(self) -> None:
        """Other numbers each hour: those of the last one are warm by then."""
        while True:
            await asyncio.sleep(PROBE_REDRAW_SECONDS)
            try:
                self._drawn = await asyncio.to_thread(self._source.draw)
            except LookupdError as error:
                log("probe_numbers_kept", reason=error)

    # -- keeping -----------------------------------------------------------------------------------------

    async def _keep_saving(self) -> None:
        while True:
            await asyncio.sleep(self.config.probe.every)
            await self._save()
            self._supervisor.tell(WATCHDOG=1)

    async def _save(self) -> None:
        """What goes wrong is told once, and tried again with the next saving; counting goes on."""
        ledger = self.ledger
        if ledger is None:
            return
        try:
            await asyncio.to_thread(self._write, ledger)
        except LedgerError as error:
            self.tally.saves["failed"] += 1
            if str(error) != self._unsaved:
                self._unsaved = str(error)
                log("probe_unsaved", reason=error)
            return
        self.tally.saves["done"] += 1
        if self._unsaved is not None:
            self._unsaved = None
            log("probe_saved_again", path=ledger.file)

    def _write(self, ledger: Ledger) -> None:
        """In a thread."""
        try:
            self._save_and_prune(ledger)
        except LedgerDamaged as error:
            aside = ledger.set_aside(int(time.time()))
            log("probe_damaged", reason=error, kept_as=aside or "put aside by another process")
            self._save_and_prune(ledger)

    def _save_and_prune(self, ledger: Ledger) -> None:
        ledger.save()
        hour = int(time.time()) // HOUR_SECONDS
        if hour != self._pruned_in:
            ledger.prune(hour - int(self.config.probe.keep) // HOUR_SECONDS, PROBE_PRUNE_HOURS_MAX)
            self._pruned_in = hour

    # -- the listener ------------------------------------------------------------------------------------

    async def _listen(self) -> Any:
        if self.config.probe.http is None:
            return None
        from lookupd.transports.http import listen

        return await listen(self.config.probe.http, self.config, self.tally)


class _Told:
    """Whether a server answers, as the log has it: one lost datagram is no change of state."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._misses = 0

    def note(self, sample: Sample) -> None:
        """One more sample."""
        if sample.result == "void":
            return
        if sample.result == "answered":
            if self._misses >= PROBE_MISSES_TOLD:
                log("probe_answered_again", server=self._server.url, missed=self._misses)
            self._misses = 0
            return
        self._misses += 1
        if self._misses == PROBE_MISSES_TOLD:
            log("probe_unanswered", server=self._server.url, reason=sample.trouble)
