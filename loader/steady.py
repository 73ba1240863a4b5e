"""The exchange's clock: wall time that does not follow a jump of the machine's clock until a person agrees.

A pending change fires by this clock, and every proof carries its times. It runs with the wall clock, small
corrections included. When the wall clock jumps by more than the set step, it goes on by the time since boot
instead, and says so; nothing is held up, and nothing fires at a wrong moment. `accept` takes the wall
clock's word. What it knows is kept in a file, so that a jump while nobody ran is found too.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import msgspec

from lookupd.model import UnixMillis

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Clock(Protocol):
    """Whatever tells the exchange what time it is."""

    def now(self) -> UnixMillis:
        """Milliseconds since 1970."""
        ...


class _Base(msgspec.Struct, frozen=True):
    """A moment known on both clocks, in seconds; ticks count since the boot of that id."""

    boot_id: str
    wall: float
    ticks: float


def boot_ticks() -> float:
    """Seconds since boot, sleep included; nobody sets this clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def read_boot_id() -> str:
    """Changes with each boot; empty where the system has none."""
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return ""


class SteadyClock:
    """See the module. `refused_seconds` is how far the wall clock is ahead of us (or behind), 0 = we follow it."""

    def __init__(
        self,
        file: Path | None,
        step_max: float,
        *,
        wall: Callable[[], float] = time.time,
        ticks: Callable[[], float] = boot_ticks,
        boot_id: Callable[[], str] = read_boot_id,
    ) -> None:
        """file: where to keep what is known, None = nowhere; `FILE.accept` is how a command gives its word."""
        self._file = file
        self._step_max = step_max
        self._wall, self._ticks = wall, ticks
        self._boot_id = boot_id()
        self.refused_seconds = 0.0
        self._base = self._first_base(self._read())
        self.now()

    def _first_base(self, kept: _Base | None) -> _Base:
        wall, ticks = self._wall(), self._ticks()
        if kept is None:
            return _Base(self._boot_id, wall, ticks)
        if kept.boot_id == self._boot_id and kept.ticks <= ticks:
            return kept
        # After a boot nobody knows how long the machine was off: only a clock that went back is told.
        return _Base(self._boot_id, max(wall, kept.wall) if wall < kept.wall - self._step_max else wall, ticks)

    def now(self) -> UnixMillis:
        """Milliseconds since 1970."""
        wall, ticks = self._wall(), self._ticks()
        reckoned = self._base.wall + ticks - self._base.ticks
        if abs(wall - reckoned) > self._step_max:
            self.refused_seconds = wall - reckoned
            return UnixMillis(int(reckoned * 1000))
        self.refused_seconds = 0.0
        self._base = _Base(self._boot_id, wall, ticks)
        return UnixMillis(int(wall * 1000))

    def accept(self) -> None:
        """Take the wall clock's word from now on."""
        self._base = _Base(self._boot_id, self._wall(), self._ticks())
        self.now()
        self.save()

    def save(self) -> None:
        """Keep what is known. A disk that is full loses only the knowledge of a jump while nobody ran."""
        if self._file is None:
            return
        with suppress(OSError):
            part = self._file.with_name(self._file.name + ".part")
            part.write_bytes(msgspec.json.encode(self._base))
            part.rename(self._file)

    def acceptance_waits(self) -> bool:
        """Whether a command gave its word and nobody took it yet."""
        return self._file is not None and acceptance_file(self._file).exists()

    def take_acceptance(self) -> bool:
        """Whether a command gave its word since the last call; the wall clock's word is taken then."""
        if self._file is None:
            return False
        try:
            acceptance_file(self._file).unlink()
        except OSError:
            return False
        self.accept()
        return True

    def _read(self) -> _Base | None:
        if self._file is None:
            return None
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=_Base)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            return None


def acceptance_file(file: Path) -> Path:
    """Its being there tells a running clock to take the wall clock's word."""
    return file.with_name(file.name + ".accept")
