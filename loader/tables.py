"""The tables that rarely change: networks and ranges, from CSV or from libphonenumber's carrier data."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from lookupd.errors import FeedError, LookupdError, Rejected
from lookupd.limits import TABLE_BYTES_MAX
from lookupd.model import JournalKind, NetworkCode, RoutingNumber, UnixSeconds
from lookupd.numbering import parse_network_code, parse_routing_number
from lookupd.store.change import Change, Counts, Network
from lookupd.store.schema import format_digest
from lookupd.store.writer import Writer

NETWORK_COLUMNS = ("network_code", "operator", "routing_number", "pdb_carrier_id")
RANGE_COLUMNS = ("prefix", "network_code")
OPERATOR_CHARS_MAX = 64
FIRST_CARRIER_ID = 101
_PREFIX = re.compile(r"[1-9][0-9]{0,14}")


class TableResult(msgspec.Struct, frozen=True):
    """What loading a table changed; rows, not numbers."""

    table: str
    result: str
    serial: int
    digest: str
    added: int
    removed: int
    changed: int
    unchanged: int


def read_networks(path: Path) -> list[Network]:
    """Raises FeedError or Rejected."""
    networks: dict[str, Network] = {}

    def take(row: dict[str, str]) -> None:
        network = _network(row)
        if network.network_code in networks:
            raise ValueError(f"network_code {network.network_code} stands twice")
        networks[network.network_code] = network

    each_row(path, NETWORK_COLUMNS, take)
    return list(networks.values())


def _network(row: dict[str, str]) -> Network:
    code = parse_network_code(row["network_code"])
    if code is None:
        raise ValueError(f"network_code {row['network_code'][:40]!r}: 1 to 8 of 0-9 A-Z")
    operator = row["operator"].strip()
    if not (0 < len(operator) <= OPERATOR_CHARS_MAX and operator.isprintable()):
        raise ValueError(f"operator: 1 to {OPERATOR_CHARS_MAX} printable characters")
    routing_number: RoutingNumber | None = None
    if row["routing_number"]:
        routing_number = parse_routing_number(row["routing_number"])
        if routing_number is None:
            raise ValueError(f"routing_number {row['routing_number'][:40]!r}: 1 to 15 of 0-9 A-F")
    carrier = row["pdb_carrier_id"]
    if carrier and not (re.fullmatch(r"[0-9]{1,3}", carrier) and int(carrier) >= 1):
        raise ValueError(f"pdb_carrier_id {carrier[:40]!r}: 1 to 999, or empty")
    return Network(code, operator, routing_number, int(carrier) if carrier else None)


def read_ranges(path: Path) -> dict[str, NetworkCode]:
    """Prefix -> network code. Raises FeedError or Rejected."""
    ranges: dict[str, NetworkCode] = {}

    def take(row: dict[str, str]) -> None:
        prefix, code = row["prefix"], parse_network_code(row["network_code"])
        if not _PREFIX.fullmatch(prefix):
            raise ValueError(f"prefix {prefix[:40]!r}: 1 to 15 digits, no leading zero")
        if code is None:
            raise ValueError(f"network_code {row['network_code'][:40]!r}: 1 to 8 of 0-9 A-Z")
        if prefix in ranges:
            raise ValueError(f"prefix {prefix} stands twice")
        ranges[prefix] = code

    each_row(path, RANGE_COLUMNS, take)
    return ranges


def each_row(path: Path, columns: tuple[str, ...], take: Callable[[dict[str, str]], None]) -> None:
    """Give every row to `take`, which raises ValueError with a reason. Raises FeedError, Rejected."""
    try:
        if path.stat().st_size > TABLE_BYTES_MAX:
            raise FeedError(f"{path}: longer than {TABLE_BYTES_MAX} bytes; the store is unchanged")
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise FeedError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise FeedError(f"{path.name}: not UTF-8 at byte {error.start}; the store is unchanged") from None
    if text.startswith("\ufeff"):
        raise Rejected(path.name, [(1, "a byte-order mark: save the file as UTF-8 without one")])
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rejections: list[tuple[int, str]] = []
    try:
        header = tuple(next(reader, ()))
        if sorted(header) != sorted(columns):
            raise Rejected(path.name, [(1, f"the header must be {','.join(columns)}")])
        for fields in reader:
            try:
                if len(fields) != len(header):
                    raise ValueError(f"{len(fields)} fields, the header has {len(header)}")
                take(dict(zip(header, fields, strict=True)))
            except ValueError as error:
                rejections.append((reader.line_num, str(error)))
    except csv.Error as error:
        raise Rejected(path.name, [(reader.line_num, str(error))]) from None
    if rejections:
        raise Rejected(path.name, rejections[: Rejected.TOLD_MAX])


def load_networks(writer: Writer, networks: list[Network], source: str, now: UnixSeconds) -> TableResult:
    """Add or change networks; those not named stay, since numbers may be routed to them."""
    with writer.change(now) as change:
        counts = change.put_networks(networks)
        if counts.added or counts.changed:
            change.record(JournalKind.NETWORKS, counts, source=source)
    return _result("networks", change, counts)


def load_ranges(writer: Writer, ranges: dict[str, NetworkCode], source: str, now: UnixSeconds) -> TableResult:
    """Make these the whole ranges table. Raises FeedError if a network is not known."""
    with writer.change(now) as change:
        for prefix, code in ranges.items():
            if change.network_id(code) is None:
                raise FeedError(
                    f"{source}: range {prefix}: network_code {code!r} is not in the networks table: load it with "
                    "`lookupd-loader networks` first; the store is unchanged"
                )
        known = change.transaction.stat(change.handles["ranges"])["entries"]
        if known and not ranges:
            raise FeedError(f"{source}: no rows: it would take all {known} ranges out; the store is unchanged")
        counts = change.replace_ranges({prefix: change.network_codes[code] for prefix, code in ranges.items()})
        if counts.added or counts.changed or counts.removed:
            change.record(JournalKind.RANGES, counts, source=source)
    return _result("ranges", change, counts)


def _result(table: str, change: Change, counts: Counts) -> TableResult:
    result = "applied" if counts.added or counts.changed or counts.removed else "unchanged"
    return TableResult(
        table,
        result,
        change.serial,
        format_digest(change.digest),
        counts.added,
        counts.removed,
        counts.changed,
        counts.unchanged,
    )


# -- libphonenumber ----------------------------------------------------------------------------------------


def carriers_of(country_code: str) -> dict[str, str]:
    """Prefix -> operator's English name, from libphonenumber's carrier data (mobile prefixes).

    Raises LookupdError when the package is not installed or knows no carriers of the country.
    """
    try:
        from phonenumbers.carrierdata import CARRIER_DATA
    except ImportError:
        raise LookupdError("the phonenumbers package is not installed: pip install 'lookupd[countries]'") from None
    found = {
        prefix: names["en"]
        for prefix, names in CARRIER_DATA.items()
        if prefix.startswith(country_code) and names.get("en")
    }
    if not found:
        raise FeedError(f"libphonenumber has no carrier data for +{country_code}: write ranges.csv by hand")
    return found


def load_carriers(writer: Writer, country_code: str, source: str, now: UnixSeconds) -> list[TableResult]:
    """A country's mobile prefixes as the ranges table, and the operators that it needs as networks.

    An operator that the networks table has by name keeps its code. Raises FeedError.
    """
    carriers = carriers_of(country_code)
    with writer.reader() as reader:
        known = [
            Network(record.network_code, record.operator, record.routing_number, record.pdb_carrier_id)
            for record in reader.route_records()
            if record is not None and record.own
        ]
    networks = networks_of(carriers.values(), known)
    ranges = {prefix: networks[operator].network_code for prefix, operator in carriers.items()}
    used = [networks[operator] for operator in sorted(set(carriers.values()))]
    return [load_networks(writer, used, source, now), load_ranges(writer, ranges, source, now)]


def networks_of(operators: Iterable[str], known: Iterable[Network] = ()) -> dict[str, Network]:
    """Operator name -> network: the known one of that name, else one with a code made from the name.

    The same names give the same codes, in whatever order they come.
    """
    networks = {network.operator: network for network in known}
    codes = {network.network_code for network in networks.values()}
    carrier_ids = {network.pdb_carrier_id for network in networks.values()}
    carrier_id = FIRST_CARRIER_ID
    for operator in sorted(set(operators) - networks.keys()):
        base = re.sub(r"[^0-9A-Z]", "", operator.upper())[:8] or "NETWORK"
        code = NetworkCode(base)
        for suffix in range(2, 1000):
            if code not in codes:
                break
            code = NetworkCode(f"{base[: 8 - len(str(suffix))]}{suffix}")
        while carrier_id in carrier_ids:
            carrier_id += 1
        codes.add(code)
        carrier_ids.add(carrier_id)
        networks[operator] = Network(
            code, operator[:OPERATOR_CHARS_MAX], None, carrier_id if carrier_id < 1000 else None
        )
    return networks


def write_networks(path: Path, networks: Iterable[Network]) -> None:
    """As `networks.csv`."""
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(NETWORK_COLUMNS)
        for network in networks:
            rows.writerow(
                (
                    network.network_code,
                    network.operator,
                    network.routing_number or "",
                    network.pdb_carrier_id or "",
                )
            )


def write_ranges(path: Path, ranges: dict[str, NetworkCode]) -> None:
    """As `ranges.csv`."""
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(RANGE_COLUMNS)
        rows.writerows(sorted(ranges.items()))
