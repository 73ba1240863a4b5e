"""A restriction as people and programs read it: its fields in words, for lists, the journal and explanations.

What an answer tells of one is less, and is `units.restriction_fields`.
"""

from __future__ import annotations

import json
from typing import Any

from lookupd.model import TN, Restriction, Target, UnixSeconds
from lookupd.numbering import format_tn
from lookupd.store.restrictions import imsi_text
from lookupd.units import format_time


def restriction_view(restriction: Restriction, now: UnixSeconds | None = None) -> dict[str, Any]:
    """Its fields; of one number or IMSI both ends are the same. With `now`: whether it waits, is in force or lapsed."""
    it = restriction
    number, imsi = it.target is Target.NUMBER, it.target is Target.IMSI
    fields: dict[str, Any] = {
        "tn": format_tn(TN(it.first)) if number else None,
        "tn_to": format_tn(TN(it.last)) if number else None,
        "imsi": imsi_text(it.first) if imsi else None,
        "imsi_to": imsi_text(it.last) if imsi else None,
        "authority": it.authority,
        "case": it.case,
        "kind": it.measure.label,
        "from": format_time(it.begins_at),
        "until": format_time(it.until),
        "extended": it.extended,
    }
    return fields if now is None else fields | {"state": state_of(restriction, now)}


def state_of(restriction: Restriction, now: UnixSeconds) -> str:
    """`waits` before it begins, `in_force`, then `lapsed`."""
    if now < restriction.begins_at:
        return "waits"
    return "in_force" if now < restriction.until else "lapsed"


def target_words(fields: dict[str, Any]) -> str:
    """What it is placed on: `+886912345678`, `imsi 466011234567890 to 466011234567899`."""
    first, last = (fields["tn"], fields["tn_to"]) if fields["tn"] else (fields["imsi"], fields["imsi_to"])
    name = "" if fields["tn"] else "imsi "
    return f"{name}{first}" + ("" if first == last else f" to {last}")


def mask_imsi(imsi: str) -> str:
    """For terminals and logs: the last four digits hidden."""
    return f"{imsi[:-4]}****"


def restriction_words(fields: dict[str, Any]) -> str:
    """The rest on one line: `stop authority=NPA case=A-1 from=... until=... extended lapsed`."""
    parts = [fields["kind"], f"authority={_quoted(fields['authority'])}", f"case={_quoted(fields['case'])}"]
    parts += [f"from={fields['from']}", f"until={fields['until']}"]
    parts += ["extended"] if fields["extended"] else []
    return " ".join([*parts, *([fields["state"]] if "state" in fields else [])])


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False) if any(each in text for each in ' "\\') else text
