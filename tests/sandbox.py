"""The seccomp side of a unit's sandbox around a command: `python -m tests.sandbox UNIT COMMAND...`.

As systemd.exec(5) describes the settings, and stricter in one point: a system call that SystemCallFilter= does not
allow ends the process, where the unit only fails the call. What is used and not allowed cannot hide.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ALLOW, KILL = 0x7FFF0000, 0x80000000
NOT_EQUAL, GREATER, MASKED_EQUAL = 1, 6, 7
"""seccomp.h of libseccomp: actions and comparisons."""

PR_SET_NO_NEW_PRIVS = 38
PROT_WRITE, PROT_EXEC = 2, 4

REFUSED_IN_VAIN = {"mbind", "fchown"}
"""Calls that the unit fails, as here: whoever makes them goes on. numpy's OpenBLAS asks for memory near its
processor; SQLite, as root alone, gives its journal to the owner of its file."""

SETS_ID = {
    "chmod": 1,
    "fchmod": 1,
    "fchmodat": 2,
    "mkdir": 1,
    "mkdirat": 2,
    "mknod": 1,
    "mknodat": 2,
    "creat": 1,
}
"""Calls that take a mode, and which argument it is."""


class _Compared(ctypes.Structure):
    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


def refuse(error: int) -> int:
    """The action that fails a call."""
    return 0x00050000 | error


@functools.cache
def library() -> ctypes.CDLL:
    """systemd's own."""
    found = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    found.seccomp_init.restype = ctypes.c_void_p
    found.seccomp_rule_add_array.argtypes = [
        ctypes.c_void_p,
        ctypes.c_uint32,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.c_void_p,
    ]
    found.seccomp_load.argtypes = [ctypes.c_void_p]
    return found


class Filter:
    """One filter of several: the kernel takes the strictest word."""

    def __init__(self, otherwise: int) -> None:
        self._context = library().seccomp_init(ctypes.c_uint32(otherwise))

    def add(self, action: int, name: str, *compared: tuple[int, int, int, int]) -> None:
        """compared: argument, comparison and its one or two values. A call that this machine has not is left out."""
        number = library().seccomp_syscall_resolve_name(name.encode())
        if number == -1:
            return
        rows = (_Compared * len(compared))(*compared)
        result = library().seccomp_rule_add_array(self._context, action, number, len(compared), rows)
        assert result in {0, -errno.EDOM}, (name, result)  # EDOM: a call of another machine

    def load(self) -> None:
        assert library().seccomp_load(self._context) == 0


def settings(unit: Path) -> dict[str, list[str]]:
    """Each setting's values, in order."""
    found: dict[str, list[str]] = {}
    for line in unit.read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


@functools.cache
def call_sets() -> dict[str, list[str]]:
    """What systemd means by `@system-service` and the others."""
    told = subprocess.run(
        ["systemd-analyze", "syscall-filter", "--no-pager"], capture_output=True, text=True, check=True
    )
    found: dict[str, list[str]] = {}
    name = ""
    for line in told.stdout.splitlines():
        word = line.strip()
        if line.startswith("@"):
            name = word
            found[name] = []
        elif name and word and not word.startswith("#"):
            found[name].append(word)
    return found


def calls(word: str) -> Iterator[str]:
    """A call, or all of a set."""
    if not word.startswith("@"):
        yield word
        return
    for inner in call_sets()[word]:
        yield from calls(inner)


def allowed_calls(values: list[str]) -> set[str]:
    """Of SystemCallFilter= lines: `~` takes away. What systemd needs to start the program is always allowed."""
    found: set[str] = set(calls("@default")) | {"execve"}
    for value in values:
        named = {call for word in value.removeprefix("~").split() for call in calls(word)}
        found = found - named if value.startswith("~") else found | named
    return found


def enter(unit: Path) -> None:
    """Nothing that follows in this process gets out of it."""
    of = settings(unit)
    assert ctypes.CDLL(None).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    filters = []
    if of["MemoryDenyWriteExecute"] == ["yes"]:
        filters.append(memory := Filter(ALLOW))
        both = PROT_WRITE | PROT_EXEC
        memory.add(refuse(errno.EPERM), "mmap", (2, MASKED_EQUAL, both, both))
        for name in ("mprotect", "pkey_mprotect"):
            memory.add(refuse(errno.EPERM), name, (2, MASKED_EQUAL, PROT_EXEC, PROT_EXEC))
    if of["RestrictSUIDSGID"] == ["yes"]:
        filters.append(modes := Filter(ALLOW))
        for name, argument in SETS_ID.items():
            for bit in (stat.S_ISUID, stat.S_ISGID):
                modes.add(refuse(errno.EPERM), name, (argument, MASKED_EQUAL, bit, bit))
    families = sorted(getattr(socket, name) for name in of["RestrictAddressFamilies"][0].split())
    filters.append(sockets := Filter(ALLOW))
    for family in set(range(families[-1])) - set(families):
        sockets.add(refuse(errno.EAFNOSUPPORT), "socket", (0, 4, family, 0))
    sockets.add(refuse(errno.EAFNOSUPPORT), "socket", (0, GREATER, families[-1], 0))
    filters.append(listed := Filter(KILL))
    allowed = allowed_calls(of["SystemCallFilter"])
    for name in allowed:
        listed.add(ALLOW, name)
    for name in REFUSED_IN_VAIN - allowed:
        listed.add(refuse(errno.EPERM), name)
    for each in filters:
        each.load()


def main() -> None:
    unit, *command = sys.argv[1:]
    enter(Path(unit))
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
