"""The status page: a few static files, which ask the API as anybody does. Nothing is put into them here.

Their words in other languages are in `/messages/`; what they may load, a policy says: themselves alone.
"""

from __future__ import annotations

import hashlib
from importlib import resources

from aiohttp import ETag, web

from lookupd.web import Handler, Route

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; font-src 'self'; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


def routes() -> list[Route]:
    """For whoever may ask at all: nothing of anybody's is in the files. The API decides what a client sees in them."""
    files = [each for each in resources.files("lookupd.web").joinpath("static").iterdir() if each.is_file()]
    found = []
    for file in sorted(files, key=lambda each: each.name):
        path = "/" if file.name == "index.html" else f"/static/{file.name}"
        found.append(Route("GET", path, _serve(file.read_bytes(), _TYPES[file.name.rpartition(".")[2]]), None))
    return found


def _serve(body: bytes, kind: str) -> Handler:
    tag = hashlib.sha256(body).hexdigest()[:32]

    async def handler(request: web.Request) -> web.Response:
        known = request.if_none_match or ()
        if any(given.value in ("*", tag) for given in known):
            response = web.Response(status=304)
        else:
            response = web.Response(body=body, content_type=kind, charset="utf-8")
        response.etag = ETag(tag)
        response.headers["Cache-Control"] = "no-cache"  # asked each time whether it is still this: so after an upgrade
        response.headers["Content-Security-Policy"] = POLICY
        return response

    return handler
