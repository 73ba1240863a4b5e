"""Risk checks can be answered: the daemon may write their audit, and what was written is whole."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from lookupd.audit_reader import prove
from lookupd.doctor.check import Check, Subject
from lookupd.errors import LookupdError

BROKEN_TOLD = 3


def look(subject: Subject) -> Iterator[Check]:
    """Rights, then the chains; nothing where nobody may ask and nobody did."""
    folder, account = subject.config.audit_path, subject.account
    is_asked = any("risk" in client.may for client in subject.config.clients)
    try:
        is_there = folder.is_dir()
        if account is not None and is_asked:
            place = folder if is_there else folder.parent
            if place.exists() and account.reaches(folder) and account.may(place, "wx"):
                yield Check("audit rights", "ok", f"{folder}: {account.name} keeps there who asked for risk checks")
            else:
                message = f"{folder}: {account.name} may not write there: risk checks are not answered"
                way_out = f"install -d -o {account.name} -g lookupd -m 700 {shlex.quote(str(folder))}"
                yield Check("audit rights", "fail", message, way_out)
        if is_there:
            found = prove(folder)
            if found.broken:
                message = "; ".join(found.broken[:BROKEN_TOLD])
                way_out = "lookupd audit --verify tells all; see docs/risk.md"
                yield Check("audit", "fail", f"{folder}: {message}", way_out)
            else:
                yield Check("audit", "ok", f"{folder}: {found.records} records, each follows the one before")
    except PermissionError as error:
        yield Check("audit", "warn", f"{error.filename}: may not be looked at by us", "run doctor as root")
    except LookupdError as error:
        yield Check("audit", "warn", str(error), "run doctor as root")
