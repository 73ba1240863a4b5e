"""What a feed's files look like: one module for each clearinghouse's format, chosen by `feed.*.format`.

A format says which names at the source belong together and where they lead the feed (`Step`), and opens a
fetched step as a file of our own form (`FeedFile`). Foreign formats convert: everything behind this seam
(order, clocks, journal, acknowledgements) knows one form only. `docs/feeds.md` says how to add a format.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Protocol

import msgspec

from loader.files import FeedFile
from loader.trust import PublicKey
from lookupd.errors import ConfigError

StepType = Literal["snapshot", "delta", "networks", "ranges"]


class Step(msgspec.Struct, frozen=True):
    """Files that belong together, complete at the source, and what they do to the feed's position.

    A delta leads from any position p with after <= p < sequence to `sequence`; where positions are counted,
    after is sequence - 1. A snapshot leads there from anywhere; its after is 0. Tables do not move the
    position; their sequence only orders them. files: names at the source, in the order to fetch them; the
    file that vouches for the others (a manifest) comes last.
    """

    type: StepType
    feed: str
    after: int
    sequence: int
    files: tuple[str, ...]

    @property
    def name(self) -> str:
        """The data file's, for messages and acknowledgements."""
        return self.files[0]


class Format(Protocol):
    """One clearinghouse's way to publish. Made for one feed; holds no position."""

    def steps(self, names: frozenset[str]) -> list[Step]:
        """The complete steps among these names, by sequence; names of other files are passed over."""
        ...

    def unfinished(self, names: frozenset[str], position: int) -> str | None:
        """What the first step beyond the position lacks that is begun and not complete, in words; None = nothing."""
        ...

    def open(self, step: Step, spool: Path, keys: tuple[PublicKey, ...]) -> FeedFile:
        """A snapshot or delta whose files lie in `spool`, checked as far as can be without reading rows.

        A foreign file is converted into `spool` here, whole and checked row by row; the same files give the
        same bytes. Raises FeedError or Rejected, naming the foreign file and its line.
        """
        ...

    def open_table(self, step: Step, spool: Path) -> Path:
        """A networks or ranges step as a `networks.csv` or `ranges.csv` of ours. Raises FeedError, Rejected."""
        ...


def make_format(name: str, feed: str, country_code: str, *, signed: bool) -> Format:
    """The format of a setting. signed: the feed has keys, so that a step without its signature is not complete."""
    match name:
        case "lookupd":
            from loader.formats.lookupd_steps import OwnFormat

            return OwnFormat(feed, signed=signed)
        case "bdpn":
            from loader.formats.bdpn import Bdpn

            return Bdpn(feed, country_code)
        case "npac-bdd":
            from loader.formats.npac import NpacBulkData

            return NpacBulkData(feed, country_code)
    raise ConfigError(f"feed.{feed}.format: {name!r} is not known")
