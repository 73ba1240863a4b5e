"""A small disk of a test's own: what a full one does is seen on a real one."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(folder: Path, mebibytes: int) -> Iterator[Path]:
    """A file system of its own in the test's folder, always unmounted. Only root may mount one."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path, leave: int) -> Path:
    """Write until so many bytes are left."""
    filler = disk / "filler"
    room = os.statvfs(disk)
    with filler.open("wb", buffering=0) as file:
        file.write(bytes(room.f_bavail * room.f_frsize - leave))
    return filler
