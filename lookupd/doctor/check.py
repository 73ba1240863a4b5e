"""What a check says, and what all of them look at: the configuration, the daemon's user, one look into the store."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from functools import cached_property
from pathlib import Path
from typing import Literal

import msgspec

from lookupd.settings import Config
from lookupd.store.reader import Reader
from lookupd.store.schema import State

Verdict = Literal["ok", "warn", "fail"]


class Check(msgspec.Struct, frozen=True):
    """One line. way_out: what to do, perhaps of several lines; empty where nothing is to be done."""

    name: str
    result: Verdict
    message: str
    way_out: str = ""


class StoreSeen(msgspec.Struct, frozen=True):
    """The store as it was: nothing of it is open any more. sizes: bytes by database, and of the file."""

    state: State
    sizes: dict[str, int]


def read_store(config: Config) -> StoreSeen:
    """One look. Raises StoreError."""
    with Reader(config.store_path, map_size=config.store.map_size) as reader:
        return StoreSeen(reader.state, reader.sizes())


class Account(msgspec.Struct, frozen=True):
    """A user of the machine, and the groups that it acts in."""

    name: str
    uid: int
    groups: frozenset[int]

    def may(self, path: Path, wanted: str) -> bool:
        """Whether owner, group and mode let it read (r), write (w), or look in or run (x), all that is named."""
        bits = sum({"r": 4, "w": 2, "x": 1}[letter] for letter in wanted)
        found = path.stat()
        if self.uid == 0:
            return True
        if self.uid == found.st_uid:
            allowed = found.st_mode >> 6
        elif found.st_gid in self.groups:
            allowed = found.st_mode >> 3
        else:
            allowed = found.st_mode
        return allowed & bits == bits

    def reaches(self, path: Path) -> bool:
        """Whether it may look into every folder above."""
        return all(self.may(folder, "x") for folder in path.absolute().parents)


def find_account(user: str) -> Account | None:
    """By name or number; a number that has no name has no groups but that of the same number."""
    try:
        entry = pwd.getpwuid(int(user)) if user.isascii() and user.isdigit() else pwd.getpwnam(user)
    except KeyError:
        return Account(user, int(user), frozenset({int(user)})) if user.isascii() and user.isdigit() else None
    groups = {entry.pw_gid} | {group.gr_gid for group in grp.getgrall() if entry.pw_name in group.gr_mem}
    return Account(entry.pw_name, entry.pw_uid, frozenset(groups))


def owner_name(uid: int) -> str:
    """For commands that a person copies."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def mode_of(path: Path) -> int:
    """Its permission bits."""
    return stat.S_IMODE(os.stat(path).st_mode)


def daemon_process(config_path: Path, processes: Path = Path("/proc")) -> int | None:
    """Of the `lookupd serve` with this file, by its command line; None if none runs, or it hides."""
    wanted = {str(config_path), str(config_path.absolute())}
    for path in processes.glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode("utf-8", "replace").split("\0")
        except OSError:
            continue
        given = {word.removeprefix("--config=") for word in words}
        if "serve" in words and wanted & given:
            return int(path.parent.name)
    return None


class Subject:
    """What is looked at. user: None = whom the running daemon runs as, else lookupd. store: None if it cannot be
    opened, for the reason in trouble."""

    def __init__(
        self, config: Config, config_path: Path, user: str | None, store: StoreSeen | None, trouble: str
    ) -> None:
        self.config = config
        self.config_path = config_path
        self.process = daemon_process(config_path)
        self.user = user or self._running_user() or "lookupd"
        self.store = store
        self.store_trouble = trouble

    def _running_user(self) -> str | None:
        try:
            return None if self.process is None else str(Path(f"/proc/{self.process}").stat().st_uid)
        except OSError:
            return None

    @cached_property
    def account(self) -> Account | None:
        """The daemon's user, None if there is no such user here."""
        return find_account(self.user)
