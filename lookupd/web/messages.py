"""`GET /messages/{language}.json`: the page's strings in another language, by the English ones.

    zh-TW.json   {"English text": "..."}
    en.json      {}: English is the text in the page

Which languages there are, and where their catalogues lie, is `lookupd.i18n`'s.
"""

from __future__ import annotations

import hashlib

import msgspec
from aiohttp import ETag, web

from lookupd.i18n import LANGUAGES, page_messages
from lookupd.observe.log import log
from lookupd.web import Route


class Messages:
    """The answers, made once: catalogues change with the program."""

    def __init__(self) -> None:
        self._bodies = {"en": b"{}"}
        for language in LANGUAGES:
            self._bodies[language.replace("_", "-")] = msgspec.json.encode(_read(language))
        self._tags = {name: ETag(hashlib.sha256(body).hexdigest()[:32]) for name, body in self._bodies.items()}

    def routes(self) -> list[Route]:
        """For whoever may ask at all: there is nothing of anybody's in them."""
        return [Route("GET", "/messages/{language}.json", self._get, None)]

    async def _get(self, request: web.Request) -> web.Response:
        language = request.match_info["language"]
        if language not in self._bodies:
            return web.Response(status=404, text=f"no such language: there are {', '.join(self._bodies)}\n")
        tag = self._tags[language]
        known = request.if_none_match or ()
        if any(given.value in ("*", tag.value) for given in known):
            response = web.Response(status=304)
        else:
            response = web.Response(body=self._bodies[language], content_type="application/json", charset="utf-8")
        response.etag = tag
        response.headers["Cache-Control"] = "no-cache"  # asked each time whether it is still this: so after an upgrade
        return response


def _read(language: str) -> dict[str, str]:
    """Without a catalogue that can be read, the page is English."""
    try:
        return page_messages(language)
    except OSError as error:
        log("catalogue_unreadable", language=language, error=error)
        return {}
