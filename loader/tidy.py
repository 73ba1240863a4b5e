"""What may leave the spool: files of steps that a newer snapshot in it contains, once they are old enough.

Everything from the newest applied snapshot on stays, however old: damaged blocks are mended from it, and some
formats read later files by it. Acknowledgements and refusals stay as long as the history does.
"""

from __future__ import annotations

from pathlib import Path

from loader import acknowledge, refusals
from loader.files import parse_file_name
from loader.formats import Format
from lookupd.observe.log import log

CONVERTED = "converted"
PARTS = (".part", ".part.of")


def tidy(spool: Path, format: Format, position: int, before_ns: int, acks_before_ns: int) -> list[str]:
    """Remove what may go; returns the names. before_ns, acks_before_ns: only files last touched before these."""
    names = frozenset(path.name for path in _files(spool))
    steps = format.steps(names)
    newest = max((s.sequence for s in steps if s.type == "snapshot" and s.sequence <= position), default=0)
    old = {file for step in steps if step.sequence < newest for file in step.files}
    old |= {name for name in names if name.endswith(PARTS)}  # begun, and withdrawn by the sender
    gone = [path.name for path in _files(spool) if path.name in old and _remove(path, before_ns)]
    gone += [
        path.name
        for path in _files(spool / CONVERTED)
        if (named := parse_file_name(path.name)) and named.sequence < newest and _remove(path, before_ns)
    ]
    for folder in (acknowledge.FOLDER, refusals.FOLDER):
        gone += [path.name for path in _files(spool / folder) if _remove(path, acks_before_ns)]
    if gone:
        log("spool_tidied", spool=spool, files=len(gone))
    return gone


def _files(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_file())
    except FileNotFoundError:
        return []


def _remove(path: Path, before_ns: int) -> bool:
    try:
        if path.stat().st_mtime_ns >= before_ns:
            return False
        path.unlink()
    except OSError:
        return False  # tried again next time
    return True
