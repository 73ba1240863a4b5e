"""The daemon: joins configuration, store, engine, listeners and signals, and keeps them in step.

What a message means, and what a number's answer is, is decided elsewhere.
"""

from __future__ import annotations

import asyncio
import secrets
import signal
import socket
import time
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

import msgspec

from lookupd import fastpath, web
from lookupd.access import OWN_NAME, Access
from lookupd.audit import Audit
from lookupd.canary import Canary
from lookupd.config import read_config
from lookupd.engine import Engine
from lookupd.errors import ConfigError, LookupdError
from lookupd.fastpath.path import Path as FastPath
from lookupd.fastpath.python import PythonPath
from lookupd.handover import Message, Predecessor
from lookupd.jobs_runner import Runner
from lookupd.limits import STORE_POLL_SECONDS
from lookupd.model import UnixSeconds
from lookupd.observe.audit_metrics import AuditMetrics
from lookupd.observe.batch_metrics import BatchMetrics
from lookupd.observe.listener_metrics import ListenerMetrics
from lookupd.observe.log import log, use_format
from lookupd.observe.machine_metrics import MachineMetrics
from lookupd.observe.metrics import Metrics
from lookupd.observe.pair_metrics import PairMetrics
from lookupd.observe.serving import ServingSeconds
from lookupd.observe.usage_metrics import UsageMetrics
from lookupd.pair import Pair
from lookupd.pair_watch import PairWatch
from lookupd.peer_keys import PeerKeys, read_peer_keys
from lookupd.protocols.framings import FRAMINGS
from lookupd.query_log import QueryLog
from lookupd.second_look import warnings
from lookupd.served_store import ServedStore
from lookupd.settings import ClientSettings, Config, Endpoint
from lookupd.status import ENGINE_HEADER, PEER_HEADER
from lookupd.store.portable import Standing
from lookupd.succession import Succession
from lookupd.supervise import Supervisor
from lookupd.supervision import Supervision
from lookupd.transports.http import HttpListener
from lookupd.transports.inherited import Inherited, Key, Legacy, describe
from lookupd.transports.listeners import Listener, end, is_udp
from lookupd.transports.sockets import bind, close_all, share
from lookupd.transports.tcp import TcpListener
from lookupd.usage import Usages
from lookupd.web.guard import Secrets, secrets_of_daemon
from lookupd.web.store import StoreForPeers
from lookupd.web.vitals import VitalSigns


class Daemon:
    """One running `lookupd serve`."""

    def __init__(
        self,
        config: Config,
        config_path: Path,
        *,
        inherited: Inherited | None = None,
        predecessor: Predecessor | None = None,
        command: list[str] | None = None,
    ) -> None:
        """inherited: sockets that were open before us. predecessor: the process that we follow. command: by which a
        process that follows us is started; None = none can be."""
        self.config = config
        self.config_path = config_path
        use_format(config.log.format)
        self.inherited = inherited or Inherited({}, [])
        self.predecessor = predecessor
        self.supervisor = Supervisor()
        self.in_charge = asyncio.Event()
        """Set when the supervisor takes us for the main process, and listens to us."""
        if predecessor is None:
            self.in_charge.set()
        self.engine = Engine(config.read_plan(), config.limits.stale_after)
        legacy = None if predecessor is None else predecessor.legacy
        self.tag_seed = secrets.randbits(64) if legacy is None else legacy.tag_seed
        engine_name = fastpath.choose(config.engine.udp)
        self.metrics = Metrics(self.engine, engine_name)
        self.usages = Usages(config, self.metrics.client_usage)
        self.path = self._make_path(engine_name)
        self.query_log = QueryLog(self.path.tap)
        self.access = self._take_clients(config)
        self.vitals = VitalSigns(self.metrics)
        self.for_peers = StoreForPeers(config.replica.name, lambda: self.engine.reader, self._standing)
        self.store = ServedStore(
            self.engine,
            self.path.open_store,
            changed=lambda: self.path.use_terms(self.access),
            let_go=self.for_peers.let_go,
        )
        peer = config.replica.peer
        withdrawn = legacy.withdrawn if legacy is not None and peer else None
        pair = Pair(follows=predecessor is not None, withdrawn=withdrawn)
        self.watch = PairWatch(peer, self.for_peers.state, self.withdraw, pair, self._peer_keys) if peer else None
        self.engine.withdrawn = withdrawn
        self.serving = ServingSeconds(follows=predecessor is not None)
        self.audit = Audit(config.audit_path, config.audit.keep)
        self.jobs = Runner(config, self.readiness, count=self._count_list) if config.batches.path else None
        self.site = self._make_site(engine_name)
        self.secrets = Secrets()
        self.listeners: dict[Key, Listener] = {}
        self.listener_metrics = ListenerMetrics(self.listeners_now)
        self.metrics.add(
            UsageMetrics(self.usages),
            BatchMetrics(self.jobs),
            AuditMetrics(self.audit),
            self.query_log,
            PairMetrics(self.engine, self.watch),
            MachineMetrics(self.engine, lambda: self.config, self.serving),
            self.listener_metrics,
        )
        self._stopping = asyncio.Event()
        self._draining = False
        self._failure: BaseException | None = None
        self._reload_lock = asyncio.Lock()
        self.canary = Canary(self.engine, self.listeners_now, lambda: self.access, lambda: self.config.enum.apexes[0])
        self.metrics.watch_canary(self.canary)
        self._started = asyncio.Event()
        self._succession: Succession | None = None
        if command is not None:
            self._succession = Succession(
                command, self.listeners, supervisor=self.supervisor, readiness=self.readiness, leave=self._leave
            )
        self._asked: set[asyncio.Task[bool]] = set()
        self._adopting: set[asyncio.Task[None]] = set()

    def _make_site(self, engine_name: str) -> web.Site:
        """What whoever answers over HTTP sees of us."""
        return web.Site(
            self.engine,
            self.metrics,
            config=lambda: self.config,
            config_path=self.config_path,
            readiness=self.readiness,
            begin_batch=self.begin_batch,
            store=self.for_peers,
            watch=self.watch,
            vitals=self.vitals,
            tap=self.path.tap,
            engine_name=engine_name,
            jobs=self.jobs,
            audit=self.audit,
        )

    def _make_path(self, engine_name: fastpath.EngineName) -> FastPath:
        if engine_name == "native":
            from lookupd.fastpath.native import NativePath

            return NativePath(self.engine, self.metrics, self.config.engine.workers, self.tag_seed)
        return PythonPath(self.engine, self.metrics, self.begin_batch, self.tag_seed)

    def _take_clients(self, config: Config) -> Access:
        clients = (*config.clients, ClientSettings(OWN_NAME, (), enum=config.enum, sip=config.sip))
        access = self.path.make_access(clients)
        self.query_log.use_clients(access, config.query_log)
        self.usages.use_accounts({client.name: client.account for client in config.clients})
        self.metrics.watch_clients([client.name for client in clients], access)
        self.path.use_terms(access)
        return access

    # -- life --------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT. Raises ConfigError if a listener cannot be had."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._fail)
        loop.add_signal_handler(signal.SIGTERM, self.stop)
        loop.add_signal_handler(signal.SIGINT, self.stop)
        loop.add_signal_handler(signal.SIGHUP, self._soon, self.reload)
        loop.add_signal_handler(signal.SIGUSR2, self._soon, self.hand_over)
        supervision = Supervision(
            self.supervisor,
            self.canary,
            status=self.status_line,
            reason=self.readiness,
            has_data=lambda: self.engine.age_seconds is not None and not self._draining,
            in_charge=self.in_charge,
        )
        supervised = asyncio.create_task(supervision.run(self._started))
        try:
            await self.start()
        except BaseException:
            supervised.cancel()
            raise
        keepers = [supervised, *(asyncio.create_task(keeper()) for keeper in self._keepers())]
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait([*keepers, stopping], return_when=asyncio.FIRST_COMPLETED)
            for keeper in keepers:
                if keeper.done():
                    keeper.result()
            if self._failure is not None:
                raise self._failure
        finally:
            for keeper in keepers:
                keeper.cancel()
            stopping.cancel()
            await self.close()

    def _keepers(self) -> list[Callable[[], Coroutine[Any, Any, None]]]:
        """What goes on beside the answers, until one of them fails."""
        always = [self._keep_store, self.vitals.keep, self.usages.keep]
        return always + [part.keep for part in (self.watch, self.jobs) if part is not None]

    async def start(self) -> None:
        """Open the store if it is there, then every listener. Raises ConfigError."""
        for warning in warnings(self.config):
            log("config_warning", message=warning)
        self.secrets = secrets_of_daemon(self.config)
        self.query_log.use(self.config.query_log)
        await self.store.open(self.config.store_path, self.config.store.map_size)
        if self.watch is not None:
            await self.watch.look()  # before the first answer: a replica that starts behind its peer stands back
        if self.predecessor is not None:
            await self.predecessor.prepared(self.readiness())
        await self._open_listeners(self.config, self.secrets)
        for sock in self.inherited.take_rest():
            log("socket_unused", address=describe(sock), reason="no listener of the configuration is there")
            sock.close()
        self.usages.begin()
        self.begin_batch()
        self._tell_readiness()
        served = " ".join(
            f"{dialect}={msgspec.structs.replace(endpoint, port=listener.port)}"
            for (dialect, endpoint), listener in self.listeners.items()
        )
        log("serving", engine=self.path.name, replica=self.config.replica.name, listen=served or "nothing")
        self._started.set()
        if self.predecessor is not None:
            await self.canary.verify()
            await self.predecessor.ready()
            self.predecessor.take_connections(self._adopt, self.in_charge.set)

    def _count_list(self, client: str, outcomes: Mapping[str, int], bad: int) -> None:
        """By the clients list that is in force when the job is done."""
        self.access.count_list(client, outcomes, bad)

    def listeners_now(self) -> list[tuple[Key, Listener]]:
        """Those that are open."""
        return list(self.listeners.items())

    def status_line(self) -> str:
        """For the supervisor's status."""
        reason = self.readiness()
        if reason is not None:
            return reason if reason.startswith("withdrawn") else f"not ready: {reason}"
        reader = self.engine.reader
        ported = 0 if reader is None else reader.state.ported
        age = self.engine.age_seconds
        return f"serving serial={self.engine.serial} age={age}s ported={ported} engine={self.path.name}"

    def stop(self) -> None:
        """End `run` in good order."""
        self._stopping.set()

    def _fail(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """What escapes a callback is our own fault: end, with the traceback; the supervisor starts anew.

        A peer's trouble arrives here as an OSError, or without an exception, and is no reason to end.
        """
        error = context.get("exception")
        if error is None or isinstance(error, OSError):
            return
        log("failed", message=context.get("message"), error=repr(error))
        self._failure = error
        self.stop()

    async def close(self) -> None:
        """Take no more questions, answer those that have arrived, close everything."""
        if self._succession is not None:
            self._succession.shut()
        if not self._draining:
            log("draining")
            self.supervisor.tell(STOPPING=1, STATUS="draining")
        self._draining = True
        self.metrics.ready = False
        async with self._reload_lock:  # one that has begun opens and closes listeners: it comes to its end first
            for listener in self.listeners.values():
                await end(listener)
            self.listeners.clear()
        await self.query_log.close()
        await self.audit.close()
        if self.watch is not None:
            await self.watch.close()
        if self.jobs is not None:
            await self.jobs.close()
        self.store.close()
        await self.usages.close()
        log("stopped")

    # -- store -------------------------------------------------------------------------------------------

    def begin_batch(self) -> None:
        """Pin the newest state; a transport calls this before each batch of messages."""
        self.engine.begin(UnixSeconds(int(time.time())))

    async def _keep_store(self) -> None:
        """Notice a store that appears, is replaced, or has new data."""
        while True:
            await asyncio.sleep(STORE_POLL_SECONDS)
            await self.store.look(self.config.store_path, self.config.store.map_size)
            self._check_listeners()
            self.begin_batch()
            self._tell_readiness()
            self.store.tend()

    def _check_listeners(self) -> None:
        """A worker that cannot go on is no reason to limp: end, and be started anew. Raises LookupdError."""
        for (dialect, endpoint), listener in self.listeners.items():
            if not is_udp(listener):
                continue
            failure = listener.failure()
            if failure is not None:
                raise LookupdError(f"listen.{dialect}: {endpoint}: a worker cannot read its socket any more: {failure}")

    def readiness(self) -> str | None:
        """Why queries are not answered from data; None if they are."""
        if self._draining:
            return "draining"
        self.begin_batch()
        return None if self.engine.usable else self.store.trouble or self.engine.reason

    def _standing(self) -> Standing:
        """What the peer is told of us beside the store."""
        ready = self.readiness() is None
        damaged = len(self.metrics.damaged_blocks())
        return Standing(ready, self.engine.withdrawn, self.metrics.started_at, damaged, self.vitals.tell())

    def withdraw(self, reason: str | None) -> None:
        """Stand back, since the twin is right and we are not: every answer is `unavailable`; None = serve again."""
        if reason == self.engine.withdrawn:
            return
        self.engine.withdrawn = reason
        self.path.use_terms(self.access)
        self._tell_readiness()

    def _tell_readiness(self) -> None:
        reason = self.readiness()
        stands_back = "unavailable" if self.engine.withdrawn is None else "withdrawn"
        self.serving.tell("serving" if reason is None else stands_back)
        if (reason is None) != self.metrics.ready:
            self.metrics.ready = reason is None
            log("ready") if reason is None else log("not_ready", reason=reason)

    # -- listeners ---------------------------------------------------------------------------------------

    async def _open_listeners(self, config: Config, secrets: Secrets) -> None:
        """Those of the configuration that are not open yet; all of them or none. Raises ConfigError."""
        opened: dict[Key, Listener] = {}
        try:
            for key in config.endpoints():
                if key not in self.listeners:
                    opened[key] = await self._open_listener(*key, config, secrets)
        except BaseException:
            for listener in opened.values():
                await end(listener)
            raise
        self.listeners.update(opened)

    async def _open_listener(self, dialect: str, endpoint: Endpoint, config: Config, secrets: Secrets) -> Listener:
        if dialect != "http":
            self.metrics.counters(dialect, endpoint.transport)  # at zero from the start, not from the first query
        given = self.inherited.claim(dialect, endpoint)
        if endpoint.transport == "udp":
            return self.path.listen(dialect, endpoint, config, self.access, given)
        sock = share(given, endpoint, len(given))[0] if given else bind(endpoint)
        close_all(given[1:])
        listener: TcpListener | HttpListener
        if endpoint.transport == "tcp":
            listener = TcpListener(
                sock,
                lambda: self.path.frame_responder(dialect, config),
                FRAMINGS[dialect],
                self.access,
                self.path.begin_batch,
                self.path.end_batch,
                self.metrics.connections(dialect),
            )
        else:
            listener = HttpListener(
                sock,
                self.access,
                self.metrics,
                self.readiness,
                web.routes(self.site),
                self._told,
                endpoint=endpoint,
                secrets=secrets,
            )
        await listener.start()
        return listener

    def _peer_keys(self) -> PeerKeys:
        """What the peer is asked with. Raises ConfigError."""
        return read_peer_keys(self.config.replica, self.config.replica.peer)

    def _told(self) -> dict[str, str]:
        """For `lookupd status`, in the headers of /readyz."""
        told = {ENGINE_HEADER: self.path.name}
        return told if self.watch is None else told | {PEER_HEADER: self.watch.summary()}

    # -- configuration -----------------------------------------------------------------------------------

    def _soon(self, work: Callable[[], Coroutine[Any, Any, bool]]) -> None:
        """What a signal asks for; a signal that finds the same under way waits its turn."""
        task = asyncio.create_task(work())
        self._asked.add(task)
        task.add_done_callback(self._asked.discard)

    async def reload(self) -> bool:
        """Read the configuration again and take it over; returns whether it was. A bad file changes nothing.

        What this process cannot take over, a new one does: see `hand_over`.
        """
        async with self._reload_lock:
            return not self._draining and await self._reload()

    async def _reload(self) -> bool:
        try:
            config = read_config(self.config_path)
            plan = config.read_plan()
            changed = self._needs_a_new_process(config)
            if changed is not None and self._succession is not None:
                done = await self._hand_over(f"[{changed}] changed")
                self.metrics.reloads["applied" if done else "rejected"] += 1
                if not done:
                    why = f"[{changed}] changed, for which a new process is needed, and that did not come to answer"
                    log("config_rejected", reason=f"{self.config_path}: {why}; nothing was changed")
                return done
            if changed is not None:
                raise ConfigError(f"{self.config_path}: [{changed}] changed: that needs a restart; nothing was changed")
            secrets = secrets_of_daemon(config, self.secrets)
            if self.watch is not None:
                await self.watch.renew()
            await self._open_listeners(config, secrets)
        except ConfigError as error:
            self.metrics.reloads["rejected"] += 1
            log("config_rejected", reason=error)
            return False
        for warning in warnings(config):
            log("config_warning", message=warning)
        for key in self.listeners.keys() - config.endpoints().keys():
            ending = self.listeners.pop(key)
            self.listener_metrics.keep(key, ending)
            await end(ending)
        self.config = config
        use_format(config.log.format)
        self.query_log.use(config.query_log)
        self.engine.plan = plan
        self.engine.stale_after = config.limits.stale_after
        before, self.access = self.access, self._take_clients(config)
        before.retire()
        self.secrets = secrets
        for listener in self.listeners.values():
            listener.use_access(self.access)
            if isinstance(listener, HttpListener):
                listener.use_secrets(self.secrets)
        self.metrics.reloads["applied"] += 1
        log("config_applied", path=self.config_path)
        return True

    def _needs_a_new_process(self, config: Config) -> str | None:
        """The first section that differs and that is read only once."""
        sections = ("replica", "store", "engine", "pdb", "usage", "audit", "batches")
        return next((name for name in sections if getattr(config, name) != getattr(self.config, name)), None)

    # -- handing over ------------------------------------------------------------------------------------

    async def hand_over(self) -> bool:
        """Have a new process of the program, as it is installed now, take the sockets over, and end; returns whether
        it did. If it does not come to answer, nothing has changed."""
        async with self._reload_lock:
            return not self._draining and self._succession is not None and await self._hand_over("asked to")

    async def _hand_over(self, why: str) -> bool:
        assert self._succession is not None
        done = await self._succession.attempt(why, Legacy(self.tag_seed, self.engine.withdrawn))
        self.metrics.handovers["done" if done else "failed"] += 1
        if done:
            self.stop()
        return done

    def _leave(self) -> None:
        """Another process answers."""
        self._draining = True
        self.metrics.ready = False

    def _adopt(self, message: Message, sock: socket.socket) -> None:
        """A connection of the process that we follow."""
        listener = self.listeners.get((message.dialect, message.endpoint)) if message.endpoint else None
        if not isinstance(listener, TcpListener) or self._draining:
            sock.close()  # its listener is not configured any more
            return
        task = asyncio.create_task(listener.adopt(sock, message.received))
        self._adopting.add(task)
        task.add_done_callback(self._adopting.discard)
