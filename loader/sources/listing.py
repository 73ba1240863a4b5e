"""The names in a web folder's own page: JSON, or the links of an HTML index. Fetches nothing.

JSON is an array of names or of objects with a `name` (nginx: `autoindex_format json`). Of HTML, links to
files of the same folder count; where a server lists by `?C=M;O=A` or links upwards, those are passed over.
"""

from __future__ import annotations

import re
from html.parser import HTMLParser
from urllib.parse import unquote, urljoin, urlsplit

import msgspec

from loader.sources.place import Listing
from lookupd.errors import SourceError

LISTING_BYTES_MAX = 16 << 20
"""100,000 names with 160 bytes each of HTML around them."""


class _Entry(msgspec.Struct, frozen=True):
    """One file as nginx tells of it; other keys are ignored."""

    name: str
    type: str = "file"


_LINK = re.compile(r"<a\s[^<>]{1,1500}>", re.ASCII | re.IGNORECASE)
"""html.parser is fed these alone, not the page: 100 kB of `<a <a <a` would keep it busy for a minute. 1,500
characters hold a name of 200 bytes, each as %XX, with room for other attributes."""

_ELSEWHERE = re.compile(r"[/\\:?#\s]")
"""Without one of these, a link is a file's name as it stands: most are, and this way costs a tenth."""

_ENTRIES = msgspec.json.Decoder(list[str | _Entry])


def parse_listing(place: str, url: str, body: bytes) -> frozenset[str]:
    """The plain names in a page fetched from `url`. Raises SourceError if it is neither JSON nor HTML."""
    listing = Listing(place)
    match body.lstrip()[:1]:
        case b"[":
            _add_json(listing, place, body)
        case b"<":
            parser = _Link(listing, url)
            for tag in _LINK.finditer(body.decode("utf-8", "replace")):
                parser.reset()
                parser.feed(tag[0])
        case _:
            raise SourceError(
                f"{place}: its page is neither a JSON array nor HTML: have the sender turn on a directory listing, "
                "or correct the feed's `source`"
            )
    return listing.names()


def _add_json(listing: Listing, place: str, body: bytes) -> None:
    try:
        entries = _ENTRIES.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise SourceError(
            f"{place}: its page is no JSON array of names or of objects with a name: {error}: ask the sender"
        ) from None
    for entry in entries:
        if isinstance(entry, str):
            listing.add(entry)
        else:
            listing.add(entry.name, wanted=entry.type != "directory")


class _Link(HTMLParser):
    """Adds the file that one `<a href>` leads to."""

    def __init__(self, listing: Listing, url: str) -> None:
        super().__init__()
        self._listing = listing
        self._url = url

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Called by the parser."""
        if tag == "a":
            for key, value in attrs:
                if key == "href" and value:
                    self._listing.add(_name_of(self._url, value))


def _name_of(folder: str, link: str) -> str:
    """Empty if it leads anywhere but to a file of the folder. folder ends with a slash."""
    try:
        if not _ELSEWHERE.search(link):
            return unquote(link, errors="strict")
        target = urlsplit(urljoin(folder, link.strip()))
        base = urlsplit(folder)
        if (target.scheme, target.netloc) != (base.scheme, base.netloc) or target.query or target.fragment:
            return ""
        if not target.path.startswith(base.path):
            return ""
        return unquote(target.path[len(base.path) :], errors="strict")
    except ValueError:  # also what is no UTF-8
        return ""
