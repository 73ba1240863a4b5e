"""What was measured on what: commit, processor, kernel, versions. No names and no paths."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import lmdb
import msgspec

GIT_SECONDS_MAX = 10.0


class Machine(msgspec.Struct, frozen=True):
    """lmdb: of the binding, and of the library it brings."""

    commit: str
    cpu: str
    cores: int
    kernel: str
    python: str
    lmdb: str
    uvloop: str


def describe() -> Machine:
    """This machine and this tree."""
    return Machine(
        commit=_commit(),
        cpu=_cpu(),
        cores=os.cpu_count() or 1,
        kernel=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        lmdb=f"{lmdb.__version__} ({'.'.join(map(str, lmdb.version()))})",
        uvloop=version("uvloop"),
    )


def _commit() -> str:
    """Short, with `+dirty` if anything but results differs from it; `unknown` outside a git tree."""
    try:
        commit = _git("rev-parse", "--short", "HEAD")
        changed = _git("status", "--porcelain", "--", ".", ":!bench/results")
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return commit + ("+dirty" if changed else "")


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=GIT_SECONDS_MAX, check=True)
    return done.stdout.strip()


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
