"""Our own format's files at a source: which names belong together. Rows are in `lookupd`."""

from __future__ import annotations

from pathlib import Path

from loader.files import FeedFile, identify, parse_file_name
from loader.formats import Step
from loader.trust import PublicKey
from lookupd.errors import FeedError


class OwnFormat:
    """`snapshot-FEED-SEQUENCE.csv` and `delta-FEED-SEQUENCE.ndjson`, each with its manifest."""

    def __init__(self, feed: str, *, signed: bool) -> None:
        """signed: a step is complete only with its manifest's signature."""
        self._feed = feed
        self._vouching = (".json", ".json.minisig") if signed else (".json",)

    def steps(self, names: frozenset[str]) -> list[Step]:
        """Data files whose manifest is there; of two forms of one file (.gz, .zst) the first by name."""
        found: dict[tuple[str, int], Step] = {}
        for name in sorted(names, reverse=True):
            parts = parse_file_name(name)
            if parts is None or parts.feed != self._feed:
                continue
            companions = tuple(name + ending for ending in self._vouching)
            if names.issuperset(companions):
                after = 0 if parts.type == "snapshot" else parts.sequence - 1
                files = (name, *reversed(companions))
                found[parts.type, parts.sequence] = Step(parts.type, self._feed, after, parts.sequence, files)
        return sorted(found.values(), key=lambda step: (step.sequence, step.type))

    def unfinished(self, names: frozenset[str], position: int) -> str | None:
        """A data file without its manifest, or without the signature of it."""
        begun = [
            (parts.sequence, name)
            for name in names
            if (parts := parse_file_name(name)) and parts.feed == self._feed and parts.sequence > position
        ]
        for _, name in sorted(begun):
            missing = [name + ending for ending in self._vouching if name + ending not in names]
            if missing:
                return f"{name} is there, {' and '.join(missing)} not"
        return None

    def open(self, step: Step, spool: Path, keys: tuple[PublicKey, ...]) -> FeedFile:
        """As it came, its manifest and signature checked."""
        return identify(spool / step.name, "snapshot" if step.type == "snapshot" else "delta", step.feed, None, keys)

    def open_table(self, step: Step, spool: Path) -> Path:
        """Our tables are loaded by hand: they are rare, and move every call."""
        raise FeedError(f"{step.name}: load it with `lookupd-loader {step.type}`")
