"""`lookupd doctor`: whether this machine is as a replica needs it, and how to mend what is not.

    check      what a check says, and what it looks at
    settings   the configuration, the engine
    rights     users, modes, secrets
    kernel     offloads, sysctls, open files
    machine    clock, disk, memory
    feeds      signatures, keys, sources, ages
    running    sockets held by systemd, the daemon, the exchange
    twin       the other replica
    usage      what was asked is kept

Nothing is changed. The store is opened by py-lmdb alone; each group of checks runs in a thread of its own, so that a
dead peer or a hanging disk costs its own lines and no more.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Generic, TypeVar

from lookupd.doctor import audit, feeds, kernel, machine, rights, running, settings, twin, usage
from lookupd.doctor.check import Check, Subject, read_store
from lookupd.errors import LookupdError
from lookupd.i18n import cells
from lookupd.i18n import translate as _
from lookupd.limits import DOCTOR_SECONDS
from lookupd.settings import Config

Found = TypeVar("Found")
Group = Callable[[Subject], Iterator[Check]]

GROUPS: dict[str, Group] = {
    "configuration": settings.look,
    "rights": rights.look,
    "kernel": kernel.look,
    "clock": machine.look_at_clock,
    "store": machine.look_at_store,
    "feeds": feeds.look,
    "sockets": running.look_at_sockets,
    "daemon": running.look_at_daemon,
    "exchange": running.look_at_exchange,
    "peer": twin.look,
    "usage": usage.look,
    "audit": audit.look,
}
"""In the order in which they are told. Where a group does not end, its name stands for its checks."""


def examine(config: Config, config_path: Path, user: str | None, seconds: float = DOCTOR_SECONDS) -> list[Check]:
    """Everything, within about so many seconds. user: see Subject."""
    until = time.monotonic() + seconds
    store = _Work(lambda: read_store(config))
    store.wait(time.monotonic() + seconds / 2)
    subject = Subject(config, config_path, user, store.found, store.trouble or "its disk does not answer")
    works = {name: _Work(_listed(group, subject)) for name, group in GROUPS.items()}
    found: list[Check] = []
    for name, work in works.items():
        work.wait(until)
        if work.found is not None:
            found += work.found
        else:
            reason = work.trouble or f"no answer within {seconds:g} s"
            found.append(Check(name, "fail", f"could not be looked at: {reason}", "look at it by hand"))
    return found


def _listed(group: Group, subject: Subject) -> Callable[[], list[Check]]:
    return lambda: list(group(subject))


class _Work(Generic[Found]):
    """Something that runs beside us, and is left alone when it does not end."""

    def __init__(self, work: Callable[[], Found]) -> None:
        self.found: Found | None = None
        self.trouble = ""
        self._fault: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._thread.start()

    def _run(self, work: Callable[[], Found]) -> None:
        try:
            self.found = work()
        except (OSError, LookupdError) as error:
            self.trouble = str(error)
        except BaseException as error:  # our own fault: raised again in the caller's thread
            self._fault = error

    def wait(self, until: float) -> None:
        """Until it ends, or this moment of the monotonic clock."""
        self._thread.join(max(until - time.monotonic(), 0.0))
        if self._fault is not None:
            raise self._fault


def format_checks(checks: list[Check]) -> list[str]:
    """For people: a line each, the way out below it, and the sum. What a check says of the machine is English: it is
    looked up in docs/operations/doctor.md."""
    words = {"ok": _("ok"), "warn": _("warn"), "fail": _("fail")}
    lines = []
    for check in checks:
        word = words[check.result]
        lines.append(f"{word}{' ' * (5 - cells(word))}{check.name}: {check.message}")
        lines += [f"     -> {line}" for line in check.way_out.splitlines()]
    count = {result: sum(check.result == result for check in checks) for result in words}
    lines.append(_("{ok} ok, {warn} warn, {fail} fail").format(**count))
    return lines
