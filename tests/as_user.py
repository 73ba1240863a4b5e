"""A command of ours as another user: `python -m tests.as_user UID GID UMASK MODULE ARGUMENT...`.

All of it is imported before root's rights are given up, since that user may be unable to read where it lies.
"""

from __future__ import annotations

import concurrent.futures.thread
import ctypes
import encodings.idna
import importlib
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import loader
import lookupd
from lookupd.numbering import load_plan

PR_SET_DUMPABLE = 4
"""linux/prctl.h: whoever changes user is not, and its own files in /proc belong to root then."""

IMPORTED_LATE = (concurrent.futures.thread, encodings.idna)
"""By the standard library, in the middle of a run."""


def command(uid: int, gid: int, umask: int, module: str, *arguments: str | Path) -> list[str]:
    """For subprocess, in the tree's folder."""
    return [sys.executable, "-m", "tests.as_user", str(uid), str(gid), f"{umask:o}", module, *map(str, arguments)]


def run_as(uid: int, gid: int, umask: int, module: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """To its end."""
    return subprocess.run(
        command(uid, gid, umask, module, *arguments),
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def main() -> None:
    uid, gid, umask, module, *arguments = sys.argv[1:]
    for package in (lookupd, loader):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(found.name)
    load_plan("886")  # kept from now on
    os.umask(int(umask, 8))
    os.chdir("/")
    os.setgroups([])
    os.setresgid(int(gid), int(gid), int(gid))
    os.setresuid(int(uid), int(uid), int(uid))
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
    sys.argv = [module, *arguments]
    importlib.import_module(module).main()


if __name__ == "__main__":
    main()
