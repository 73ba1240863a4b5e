"""IMSIs over HTTP: what is placed on one, for whoever lets its owner roam. What it is, is `lookupd.imsis`'.

GET /v1/imsis/{imsi}    restriction: null, or its kind and until when
"""

from __future__ import annotations

import time

import msgspec
from aiohttp import web

from lookupd.errors import StoreError
from lookupd.imsis import Imsis, is_imsi
from lookupd.web import Route, Site, client_of, json_response
from lookupd.web.errors import Problem

NOT_AN_IMSI = "not an IMSI: 14 or 15 digits"


class ImsiQueries:
    """The handlers."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._imsis = Imsis()

    def routes(self) -> list[Route]:
        """For a listener."""
        return [Route("GET", "/v1/imsis/{imsi}", self._get, "query")]

    async def _get(self, request: web.Request) -> web.Response:
        imsi = request.match_info["imsi"]
        if not is_imsi(imsi):
            raise Problem(400, NOT_AN_IMSI)
        client = client_of(request)
        if client.is_limited and not client.take(1, time.monotonic_ns()):
            self._site.metrics.http.refused["rate"] += 1
            raise Problem(429, "over this client's queries_per_second", retry=1)
        self._site.begin_batch()
        engine = self._site.engine
        if not engine.usable:
            raise Problem(503, engine.reason, retry=1)
        try:
            view = self._imsis.view(engine, imsi)
        except StoreError as error:
            raise Problem(503, str(error), retry=1) from None
        return json_response(msgspec.structs.asdict(view))
