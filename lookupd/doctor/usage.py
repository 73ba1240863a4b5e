"""What the daemon was asked is kept: its ledger of usage can be written, is whole, and is not left behind."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from pathlib import Path

from lookupd.doctor.check import Account, Check, Subject, owner_name
from lookupd.ledger import HOUR_SECONDS, LedgerDamaged, LedgerError, LedgerMissing, hours, put_aside
from lookupd.usage import ledger_file

BEHIND_HOURS = 2
"""A daemon that runs saves each `usage.every`, an hour at most."""


def look(subject: Subject) -> Iterator[Check]:
    """Rights, then the ledger."""
    file = ledger_file(subject.config)
    try:
        if subject.account is not None:
            fine = Check("usage rights", "ok", f"{file.parent}: {subject.account.name} keeps there what it was asked")
            yield _cannot_write(file, subject.account) or fine
        yield from _of_ledger(file, subject.process is not None)
    except PermissionError as error:
        yield Check("usage rights", "warn", f"{error.filename}: may not be looked at by us", "run doctor as root")


def _cannot_write(file: Path, account: Account) -> Check | None:
    """Why what was asked is lost when the daemon ends."""
    folder = file.parent
    if not folder.exists():
        parent = folder.parent
        if parent.exists() and account.reaches(folder) and account.may(parent, "wx"):
            return None
        message = f"{folder}: missing, and {account.name} may not make it: what was asked is not kept"
    elif not (account.reaches(folder) and account.reaches(file) and account.may(folder, "wx")):
        message = f"{folder}: {account.name} may not write there: what was asked is not kept"
    elif file.exists() and not account.may(file, "rw"):
        message = f"{file}: {account.name} may not write it, but {owner_name(file.stat().st_uid)}"
        return Check("usage rights", "fail", message, f"chown {account.name} {shlex.quote(str(file))}")
    else:
        return None
    way_out = f"install -d -o {account.name} -g lookupd -m 750 {shlex.quote(str(folder))}"
    return Check("usage rights", "fail", message, way_out)


def _of_ledger(file: Path, is_running: bool) -> Iterator[Check]:
    aside = put_aside(file)
    if aside:
        names = ", ".join(str(path) for path in aside[:5])
        yield Check("usage", "warn", f"{names}: damaged, and in no statement", "see docs/usage.md, then move it away")
    try:
        span = hours(file)
    except LedgerMissing:
        if is_running:
            yield Check("usage", "warn", f"{file}: nothing was saved yet", "look for usage_unsaved in the daemon's log")
        else:
            yield Check("usage", "ok", f"{file}: nothing was saved yet")
        return
    except LedgerDamaged as error:
        yield Check("usage", "fail", str(error), "see docs/usage.md; the daemon begins a new one by itself")
        return
    except LedgerError as error:
        yield Check("usage", "fail", str(error), "see the reason; the daemon counts on, and saves later")
        return
    last = span[1] if span is not None else 0
    if is_running and time.time() // HOUR_SECONDS - last > BEHIND_HOURS:
        message = f"{file}: nothing was saved for over {BEHIND_HOURS} h, though the daemon runs"
        yield Check("usage", "fail", message, "look for usage_unsaved in the daemon's log")
    elif not aside:
        yield Check("usage", "ok", f"{file}: can be read")
