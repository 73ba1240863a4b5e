"""What the daemon serves over HTTP: the routes, what a client needs for each, and the daemon as handlers see it.

Connections, and who may ask at all, are `transports.http` and `guard`; each other module here has routes of one kind.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec
from aiohttp import web

from lookupd.engine import Engine
from lookupd.settings import Config, Permission

if TYPE_CHECKING:
    from lookupd.access import Client
    from lookupd.audit import Audit
    from lookupd.jobs_runner import Runner
    from lookupd.observe.metrics import Metrics
    from lookupd.pair_watch import PairWatch
    from lookupd.tap import Tap
    from lookupd.web.store import StoreForPeers
    from lookupd.web.vitals import VitalSigns

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

CLIENT: web.RequestKey[Client] = web.RequestKey("client")
"""Under which a request holds who asks."""


class Route(NamedTuple):
    """method: GET (and so HEAD) or POST. needs: of the client's `may`, or to be a peer; None = nothing more.

    streams: a body may come as long as it keeps coming, which the handler sees to.
    """

    method: Literal["GET", "POST"]
    path: str
    handler: Handler
    needs: Permission | Literal["peer"] | None
    streams: bool = False


class Site:
    """The daemon, for whoever answers requests. What may be replaced while it runs is asked for anew each time."""

    def __init__(
        self,
        engine: Engine,
        metrics: Metrics,
        *,
        config: Callable[[], Config],
        config_path: Path,
        readiness: Callable[[], str | None],
        begin_batch: Callable[[], None],
        store: StoreForPeers,
        watch: PairWatch | None,
        vitals: VitalSigns,
        tap: Tap,
        engine_name: str,
        jobs: Runner | None,
        audit: Audit,
    ) -> None:
        """readiness: why queries are not answered from data, or None. begin_batch: pins the newest state; called before
        each batch of `engine.resolve`. store: for states of one's own, pinned longer. watch: on the peer, if there is
        one. tap: for the query log. jobs: lists of numbers, if they are served.
        audit: of risk checks."""
        self.engine = engine
        self.metrics = metrics
        self.config, self.config_path = config, config_path
        self.readiness, self.begin_batch = readiness, begin_batch
        self.store = store
        self.watch = watch
        self.vitals = vitals
        self.tap = tap
        self.engine_name = engine_name
        self.jobs = jobs
        self.audit = audit


def client_of(request: web.Request) -> Client:
    """Who asks."""
    return request[CLIENT]


def json_response(told: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """Kept by nobody, unless the headers say otherwise."""
    return web.Response(
        body=msgspec.json.encode(told) + b"\n",
        status=status,
        headers={"Cache-Control": "no-store"} | dict(headers or {}),
        content_type="application/json",
    )


def routes(site: Site) -> list[Route]:
    """Everything but what each listener has by itself: metrics and health."""
    from lookupd.web import openapi, page
    from lookupd.web.batches import Batches
    from lookupd.web.imsis import ImsiQueries
    from lookupd.web.messages import Messages
    from lookupd.web.numbers import Numbers
    from lookupd.web.risk import RiskChecks
    from lookupd.web.state import State

    of_numbers = (
        *Numbers(site).routes(),
        *ImsiQueries(site).routes(),
        *Batches(site).routes(),
        *RiskChecks(site).routes(),
    )
    of_data = (*site.store.routes(), *of_numbers, *State(site).routes())
    return [*of_data, *openapi.routes(), *page.routes(), *Messages().routes()]
