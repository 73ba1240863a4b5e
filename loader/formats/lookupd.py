"""Our own feed format: snapshot rows and notices, as text to checked values.

Row by row, and so the definition of what is accepted; `lookupd_columns` reads the same rows many at a
time. Whether a network is known or a number can be ported is for `validate`.
"""

from __future__ import annotations

from functools import lru_cache

import msgspec

from loader.formats.restrictions import parse_terms, refuse_keys
from lookupd.limits import (
    DELTA_LINE_BYTES_MAX,
    RANGE_NUMBERS_MAX,
    REFERENCE_CHARS_MAX,
    SNAPSHOT_LINE_BYTES_MAX,
)
from lookupd.model import OF_RESTRICTIONS, TN, NetworkCode, Notice, NoticeKind, RoutingNumber, Target, UnixSeconds
from lookupd.numbering import parse_network_code, parse_routing_number, parse_tn
from lookupd.units import parse_time

SNAPSHOT_COLUMNS = ("tn", "network_code", "routing_number", "donor", "ported_at")
SNAPSHOT_REQUIRED = ("tn", "network_code")
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class SnapshotRow(msgspec.Struct, frozen=True):
    """One ported number of a snapshot."""

    tn: TN
    network_code: NetworkCode
    routing_number: RoutingNumber | None
    donor: NetworkCode | None
    ported_at: UnixSeconds | None


def parse_header(line: bytes) -> tuple[str, ...]:
    """The column names, in the file's order. Raises ValueError with the reason."""
    if line.startswith(BYTE_ORDER_MARK):
        raise ValueError("a byte-order mark stands before the header: save the file as UTF-8 without one")
    names = tuple(line.decode("utf-8", "replace").split(","))
    for name in names:
        if name not in SNAPSHOT_COLUMNS:
            raise ValueError(f"unknown column {name[:40]!r}: the columns are {','.join(SNAPSHOT_COLUMNS)}")
        if names.count(name) > 1:
            raise ValueError(f"column {name!r} stands twice")
    for name in SNAPSHOT_REQUIRED:
        if name not in names:
            raise ValueError(f"column {name!r} is missing: the header is {','.join(SNAPSHOT_COLUMNS)}")
    return names


def parse_row(line: bytes, columns: tuple[str, ...]) -> SnapshotRow:
    """One row, without its line end. Raises ValueError with the reason."""
    if not line:
        raise ValueError("empty line")
    if len(line) > SNAPSHOT_LINE_BYTES_MAX:
        raise ValueError(f"longer than {SNAPSHOT_LINE_BYTES_MAX} bytes")
    if line.startswith(BYTE_ORDER_MARK):
        raise ValueError("a byte-order mark: save the file as UTF-8 without one")
    fields = line.decode("utf-8", "replace").split(",")
    if len(fields) != len(columns):
        raise ValueError(f"{len(fields)} fields, the header has {len(columns)}")
    texts = dict(zip(columns, fields, strict=True))
    return SnapshotRow(
        tn=_tn("tn", texts["tn"]),
        network_code=_network_code("network_code", texts["network_code"]),
        routing_number=_routing_number(texts.get("routing_number") or None),
        donor=_network_code("donor", texts["donor"]) if texts.get("donor") else None,
        ported_at=_time("ported_at", texts.get("ported_at") or None),
    )


class NoticeLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"from_": "from"}):
    """A delta's line as JSON has it."""

    kind: str
    notified_at: str
    tn: str | msgspec.UnsetType = msgspec.UNSET
    tn_to: str | None = None
    recipient: str | None = None
    routing_number: str | None = None
    donor: str | None = None
    effective_at: str | None = None
    ref: str | None = None
    imsi: str | None = None
    imsi_to: str | None = None
    authority: str | None = None
    case: str | None = None
    measure: str | None = None
    from_: str | None = None
    until: str | None = None


_KINDS = {kind.value: kind for kind in NoticeKind}
_decode_line = msgspec.json.Decoder(NoticeLine).decode


def parse_notice(line: bytes) -> Notice:
    """One notice, without its line end. Raises ValueError with the reason."""
    if not line.strip():
        raise ValueError("empty line")
    if len(line) > DELTA_LINE_BYTES_MAX:
        raise ValueError(f"longer than {DELTA_LINE_BYTES_MAX} bytes")
    if line.startswith(BYTE_ORDER_MARK):
        raise ValueError("a byte-order mark: save the file as UTF-8 without one")
    try:
        row = _decode_line(line)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ValueError(f"not a notice: {error}") from None
    kind = _KINDS.get(row.kind)
    if kind is None:
        raise ValueError(f"kind {row.kind[:40]!r}: it is one of {', '.join(NoticeKind)}")
    if kind in OF_RESTRICTIONS:
        return _restriction_notice(kind, row)
    if isinstance(row.tn, msgspec.UnsetType):
        raise ValueError("not a notice: Object missing required field `tn`")
    refuse_keys(kind, row)
    tn = tn_to = _tn("tn", row.tn)
    if row.tn_to is not None:
        tn_to = _tn("tn_to", row.tn_to)
        _check_range(tn, tn_to)
    _check_fields(kind, row)
    return Notice(
        kind,
        tn,
        tn_to,
        None if row.recipient is None else _network_code("recipient", row.recipient),
        None if row.routing_number is None else _routing_number(row.routing_number),
        None if row.donor is None else _network_code("donor", row.donor),
        parse_required_time("notified_at", row.notified_at),
        None if row.effective_at is None else parse_required_time("effective_at", row.effective_at),
        None if row.ref is None else _reference(row.ref),
    )


def _restriction_notice(kind: NoticeKind, row: NoticeLine) -> Notice:
    terms = parse_terms(kind, row)
    first, last = (terms.first, terms.last) if terms.target is Target.NUMBER else (0, 0)
    notified_at = parse_required_time("notified_at", row.notified_at)
    ref = None if row.ref is None else _reference(row.ref)
    return Notice(kind, TN(first), TN(last), None, None, None, notified_at, None, ref, terms)


def _check_range(tn: TN, tn_to: TN) -> None:
    if tn_to < tn:
        raise ValueError(f"the range runs backwards: tn {tn}, tn_to {tn_to}")
    if len(str(tn)) != len(str(tn_to)):
        raise ValueError(f"the range's ends differ in length: tn {tn}, tn_to {tn_to}")
    if tn_to - tn >= RANGE_NUMBERS_MAX:
        raise ValueError(f"the range has {tn_to - tn + 1} numbers, at most {RANGE_NUMBERS_MAX} go in one notice")


def _check_fields(kind: NoticeKind, row: NoticeLine) -> None:
    if kind is NoticeKind.RETURN:
        for name in ("recipient", "routing_number"):
            if getattr(row, name) is not None:
                raise ValueError(f"a return has no {name}: the number goes back to its range holder")
    elif row.recipient is None:
        raise ValueError(f"recipient is missing: a {kind} says which network serves the number")


def _tn(name: str, text: str) -> TN:
    tn = parse_tn(text)
    if tn is None:
        raise ValueError(f"{name} {text[:40]!r}: 5 to 15 digits, no plus sign, no leading zero")
    return tn


@lru_cache(4096)  # there are few networks, and each stands in many rows
def _network_code(name: str, text: str) -> NetworkCode:
    code = parse_network_code(text)
    if code is None:
        raise ValueError(f"{name} {text[:40]!r}: 1 to 8 of 0-9 A-Z")
    return code


def _routing_number(text: str | None) -> RoutingNumber | None:
    if text is None:
        return None
    found = parse_routing_number(text)
    if found is None:
        raise ValueError(f"routing_number {text[:40]!r}: 1 to 15 of 0-9 A-F")
    return found


def parse_required_time(name: str, text: str) -> UnixSeconds:
    """A time that must be there. Raises ValueError that names the field."""
    try:
        return parse_time(text[:64])
    except ValueError as error:
        raise ValueError(f"{name} {error}") from None


def _time(name: str, text: str | None) -> UnixSeconds | None:
    return None if text is None else parse_required_time(name, text)


def _reference(text: str | None) -> str | None:
    if text is None:
        return None
    if not (0 < len(text) <= REFERENCE_CHARS_MAX and text.isprintable()):
        raise ValueError(f"ref: 1 to {REFERENCE_CHARS_MAX} printable characters")
    return text
