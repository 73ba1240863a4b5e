"""The clock, and what the store lies on: disk, file system, memory."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from lookupd.doctor.check import Check, Subject
from lookupd.settings import CLOCK_FILE
from lookupd.store.rights import DATA_FILE
from lookupd.store.schema import disk_is_full, format_digest
from lookupd.units import format_size

STA_UNSYNC: Final = 0x40
"""linux/timex.h: nobody keeps the clock right."""

_TIME_ERROR: Final = 5
_NETWORK_FILE_SYSTEMS: Final = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "glusterfs", "afs", "ocfs2", "gfs2", "lustre", "fuse.sshfs"}
)


class _Timex(ctypes.Structure):
    """struct timex, of which status is read; the rest has room."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_byte * 256),
    )


class _KnownClock(msgspec.Struct, frozen=True):
    """What the exchange keeps of its clock, see `loader.steady`."""

    boot_id: str
    wall: float
    ticks: float


# -- clock -------------------------------------------------------------------------------------------------


def look_at_clock(subject: Subject) -> Iterator[Check]:
    """Whether somebody keeps it right, and whether the exchange follows it."""
    yield synchronised(_clock_status())
    yield follows(subject.config.spool_path / CLOCK_FILE, subject.config.limits.clock_step)


def _clock_status() -> int | None:
    """The kernel's status bits, None where they may not be read."""
    timex = _Timex()
    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(timex))
    except (OSError, AttributeError):
        return None
    if state < 0:
        return None
    return int(timex.status) | (STA_UNSYNC if state == _TIME_ERROR else 0)


def synchronised(status: int | None) -> Check:
    """status: of the kernel's clock."""
    if status is None:
        return Check(
            "clock", "warn", "whether it is kept right cannot be read here", "see timedatectl, chronyc tracking"
        )
    if status & STA_UNSYNC:
        message = "nobody keeps it right: proofs carry its times, and agreed seconds come by it"
        return Check("clock", "warn", message, "run chrony or systemd-timesyncd; then see timedatectl")
    return Check("clock", "ok", "kept right")


def follows(file: Path, step_max: float) -> Check:
    """By what the exchange noted last: a jump beyond `limits.clock_step` is not followed until a person agrees."""
    try:
        known = msgspec.json.decode(file.read_bytes(), type=_KnownClock)
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except FileNotFoundError:
        return Check("clock steps", "ok", "no exchange has run here yet")
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return Check("clock steps", "warn", f"{file} cannot be read", "run doctor as root, or as the loader's user")
    if known.boot_id == boot_id:
        ahead = time.time() - (known.wall + time.clock_gettime(time.CLOCK_BOOTTIME) - known.ticks)
    else:
        ahead = min(time.time() - known.wall, 0.0)  # nobody knows how long the machine was off
    if abs(ahead) > step_max:
        message = f"the wall clock is {ahead:+.0f} s away from the exchange's, which does not follow it"
        return Check("clock steps", "fail", message, "docs/operations/clock-step.md: `lookupd-loader clock --accept`")
    return Check("clock steps", "ok", "the exchange follows the wall clock")


# -- store -------------------------------------------------------------------------------------------------


def look_at_store(subject: Subject) -> Iterator[Check]:
    """That it opens, and what it lies on."""
    path = subject.config.store_path
    if subject.store is None:
        yield Check("store", "fail", subject.store_trouble, "load or restore it: docs/operations/backup.md")
    else:
        state = subject.store.state
        said = f"serial={state.serial} digest={format_digest(state.digest)} ported={state.ported}"
        yield (
            Check("store", "ok", said)
            if state.feeds
            else Check(
                "store",
                "warn",
                f"no snapshot was loaded yet: every answer is `unavailable` ({said})",
                "load a snapshot",
            )
        )
        yield memory(subject.store.sizes["blocks"], _memory_bytes())
    there = next((folder for folder in (path, *path.absolute().parents) if folder.is_dir()), Path("/"))
    yield file_system(there, Path("/proc/self/mountinfo").read_text())
    data = path / DATA_FILE
    yield room(there, data.stat().st_size if data.is_file() else 0)


def memory(hot_bytes: int, machine_bytes: int) -> Check:
    """hot_bytes: of the column that each lookup reads."""
    said = f"{format_size(hot_bytes)} are read by lookups, the machine has {format_size(machine_bytes)}"
    if hot_bytes > machine_bytes // 2:
        return Check("memory", "warn", f"{said}: calls may wait for the disk", "more memory, or fewer programs beside")
    return Check("memory", "ok", said)


def _memory_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def file_system(folder: Path, mounts: str) -> Check:
    """mounts: /proc/self/mountinfo. The last mount on the longest path that the folder lies under is the one."""
    place, kind = Path("/"), "unknown"
    real = folder.resolve()
    for line in mounts.splitlines():
        fields, _, rest = line.partition(" - ")
        point = Path(fields.split()[4].replace("\\040", " "))
        if real.is_relative_to(point) and len(point.parts) >= len(place.parts):
            place, kind = point, rest.split()[0]
    if kind in _NETWORK_FILE_SYSTEMS:
        message = f"{folder} lies on {kind}: LMDB's readers and writer would not see each other's notes"
        return Check("file system", "fail", message, "put the store on a disk of this machine; copy backups elsewhere")
    return Check("file system", "ok", f"{kind} at {place}")


def room(folder: Path, data_bytes: int) -> Check:
    """data_bytes: of the store's file. A restore, and a full load into a new store, need as much again."""
    disk = os.statvfs(folder)
    free = disk.f_bavail * disk.f_frsize
    said = f"{format_size(free)} free, the store has {format_size(data_bytes)}"
    if disk_is_full(folder):
        return Check("disk", "fail", f"{said}: no change can be made", "free space on it")
    if free < data_bytes:
        return Check("disk", "warn", f"{said}: a restore needs as much again", "free space on it, or a larger disk")
    return Check("disk", "ok", said)
