"""Files that must not be loaded: each is refused with its exit code and one message, and the store stays as it was."""

from __future__ import annotations

import csv
import gzip
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import zstandard
from click.testing import CliRunner

from loader.cli import cli
from tests.conftest import NETWORKS, RANGES, SNAPSHOT, Dump, Workbench, dump, run_cli

pytestmark = pytest.mark.usefixtures("bulk_path")

HEADER = "tn,network_code,routing_number,donor,ported_at\n"
TIME = "2026-11-22T10:00:00+08:00"
LAST_DELTA: dict[str, object] = {
    "kind": "port",
    "tn": "886934000001",
    "recipient": "1403",
    "notified_at": TIME,
    "ref": "A-4",
}

FEED, GAP, STALE = 4, 5, 6
AT = 4  # the feed position of the store that all cases share: snapshot 3, delta 4


@dataclass(frozen=True)
class Case:
    """One file and what is to be said of it. line None: the fault is the file's, not a row's."""

    content: str | bytes
    line: int | None
    reason: str
    code: int = FEED
    name: str | None = None
    rows: int | None = None
    manifest: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Loaded:
    """What a command said."""

    code: int
    reply: dict[str, Any]
    errors: list[str]


def load(command: str, path: Path, store: Path, *options: str) -> Loaded:
    """The command line in this process; anything but a deliberate exit fails the test with its traceback."""
    if command in {"snapshot", "delta"}:  # the guard has tests of its own
        options = (*options, "--accept-change", "test: most of a small store moves")
    result = CliRunner().invoke(cli, [command, str(path), "--store", str(store), "--json", *options])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert "Traceback" not in result.stderr
    reply = json.loads(result.stdout)  # one object, nothing else
    assert result.stdout.count("\n") == 1
    return Loaded(result.exit_code, reply, result.stderr.splitlines())


def notice(**changed: object) -> str:
    """A line of a delta that would be fine; None takes a key out."""
    row = {"kind": "port", "tn": "886934000002", "recipient": "1402", "notified_at": TIME} | changed
    return json.dumps({key: value for key, value in row.items() if value is not None}) + "\n"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Workbench, Dump]]:
    """A store at position 4 that no case may change, and all that is in it."""
    workbench = Workbench(tmp_path_factory.mktemp("base"))
    workbench.load_tables()
    workbench.snapshot(sequence=3)
    workbench.delta(LAST_DELTA, sequence=AT)
    before = dump(workbench.store)
    assert sum(map(len, before.values())) > 20
    yield workbench, before
    assert dump(workbench.store) == before


@pytest.fixture
def copied(base: tuple[Workbench, Dump], tmp_path: Path) -> Workbench:
    """The same store, for what may change it."""
    shutil.copytree(base[0].store, tmp_path / "store")
    return Workbench(tmp_path)


def refuse(base: tuple[Workbench, Dump], folder: Path, command: str, case: Case, *options: str) -> None:
    """Load the case's file: it is refused as the case says, and the store is byte for byte as before."""
    workbench, before = base
    state = workbench.state()
    ending = "csv" if command == "snapshot" else "ndjson"
    name = case.name or f"{command}-main-{AT + 1}.{ending}"
    data = case.content.encode() if isinstance(case.content, str) else case.content
    lines = data.count(b"\n") - (command == "snapshot")
    manifest = {"rows": max(lines, 0) if case.rows is None else case.rows} | case.manifest
    path = Workbench(folder).publish(name, data, **manifest)
    expect_refusal(load(command, path, workbench.store, *options), name, case.code, case.line, case.reason)
    assert workbench.state() == state
    assert dump(workbench.store) == before


def expect_refusal(loaded: Loaded, name: str, code: int, line: int | None, reason: str) -> None:
    """One `error:` line that names the file, the line where there is one, and the reason; the same as JSON."""
    assert loaded.code == code, loaded
    assert len(loaded.errors) == 1, loaded.errors
    message = loaded.errors[0]
    where = name if line is None else f"{name}:{line}: "
    assert message.startswith("error: ")
    assert where in message
    assert reason in message
    assert loaded.reply["exit_code"] == code
    assert loaded.reply["result"] == "failed"
    assert loaded.reply["error"] == message.removeprefix("error: ")
    if line is not None:
        told = loaded.reply["rejected"][0]
        assert (told["line"], reason in told["reason"]) == (line, True)


def params(cases: dict[str, Case]) -> list[Any]:
    return [pytest.param(case, id=name) for name, case in cases.items()]


# -- what stands in a field ------------------------------------------------------------------------------

BAD_NUMBERS = {
    "letters": ("88691234567A", "5 to 15 digits"),
    "plus sign": ("+886912345678", "5 to 15 digits"),
    "blanks": ("886 912345678", "5 to 15 digits"),
    "too long": ("8869123456789012", "5 to 15 digits"),
    "too short": ("8869", "5 to 15 digits"),
    "leading zero": ("0912345678", "5 to 15 digits"),
    "minus": ("-886912345678", "5 to 15 digits"),
    "digits of another script": ("٨٨٦٩١٢٣٤٥٦٧٨", "5 to 15 digits"),
    "national form": ("912345678", "not in the plan of +886"),
    "another country": ("819012345678", "not in the plan of +886"),
    "premium": ("886201234567", "premium numbers are not ported"),
    "personal": ("886991234567", "personal numbers are not ported"),
    "universal": ("886500123456", "universal numbers are not ported"),
    "internet": ("8867012345678", "internet numbers are not ported"),
    "a mobile number with a digit too few": ("88691234567", "no number of the plan"),
    "a mobile number with a digit too many": ("8869123456789", "no number of the plan"),
}

BAD_TIMES = {
    "words": ("yesterday", "no RFC 3339 time"),
    "seconds": ("1772326800", "no RFC 3339 time"),
    "date alone": ("2026-03-01", "no RFC 3339 time"),
    "no offset": ("2026-03-01T09:00:00", "no RFC 3339 time"),
    "no seconds": ("2026-03-01T09:00Z", "no RFC 3339 time"),
    "a blank for the T": ("2026-03-01 09:00:00+08:00", "no RFC 3339 time"),
    "offset without colon": ("2026-03-01T09:00:00+0800", "no RFC 3339 time"),
    "offset and Z": ("2026-03-01T09:00:00Z+08:00", "no RFC 3339 time"),
    "short fields": ("2026-3-1T9:00:00Z", "no RFC 3339 time"),
    "slashes": ("2026/03/01T09:00:00Z", "no RFC 3339 time"),
    "a point without digits": ("2026-03-01T09:00:00.Z", "no RFC 3339 time"),
    "ten decimals": ("2026-03-01T09:00:00.1234567890Z", "no RFC 3339 time"),
    "digits of another script": ("٢٠٢٦-03-01T09:00:00Z", "no RFC 3339 time"),
    "something behind": ("2026-03-01T09:00:00Z ", "no RFC 3339 time"),
    "month 13": ("2026-13-01T09:00:00Z", "there is no such time"),
    "month 0": ("2026-00-01T09:00:00Z", "there is no such time"),
    "day 0": ("2026-03-00T09:00:00Z", "there is no such time"),
    "31 April": ("2026-04-31T09:00:00Z", "there is no such time"),
    "29 February of a common year": ("2026-02-29T09:00:00Z", "there is no such time"),
    "29 February 2100": ("2100-02-29T09:00:00Z", "there is no such time"),
    "minute 60": ("2026-03-01T23:60:00Z", "there is no such time"),
    "leap second": ("2016-12-31T23:59:60Z", "there is no such time"),
    "offset of a day": ("2026-03-01T09:00:00+24:00", "there is no such time"),
    "year 0": ("0000-03-01T09:00:00Z", "there is no such time"),
    "the epoch itself": ("1970-01-01T00:00:00Z", "not within the years"),
    "before the epoch by its offset": ("1970-01-01T07:59:59+08:00", "not within the years"),
    "past 32 bits": ("2106-02-07T06:28:16Z", "not within the years"),
    "year 9999": ("9999-12-31T23:59:59Z", "not within the years"),
}

BAD_CODES = {
    "lower case": ("abc", "1 to 8 of 0-9 A-Z"),
    "nine characters": ("140200000", "1 to 8 of 0-9 A-Z"),
    "a blank": ("14 2", "1 to 8 of 0-9 A-Z"),
    "not known": ("9999", "is not in the networks table"),
}

BAD_ROUTING_NUMBERS = {
    "lower case": ("d0401", "1 to 15 of 0-9 A-F"),
    "beyond F": ("G0401", "1 to 15 of 0-9 A-F"),
    "sixteen digits": ("D" * 16, "1 to 15 of 0-9 A-F"),
    "plus sign": ("+886123", "1 to 15 of 0-9 A-F"),
}

# A good row or notice stands before and behind each bad one, so that the line is not the first by chance.
GOOD_ROW = "886934000001,1402,,,\n"
LAST_ROW = "886934000009,1402,,,\n"


def snapshot_row(text: str, reason: str) -> Case:
    return Case(HEADER + GOOD_ROW + text + "\n" + LAST_ROW, 3, reason)


SNAPSHOT_FIELDS = (
    {f"tn: {name}": snapshot_row(f"{tn},1402,,,", reason) for name, (tn, reason) in BAD_NUMBERS.items()}
    | {"tn: empty": snapshot_row(",1402,,,", "5 to 15 digits")}
    | {
        f"network_code: {name}": snapshot_row(f"886934000002,{code},,,", reason)
        for name, (code, reason) in BAD_CODES.items()
    }
    | {"network_code: empty": snapshot_row("886934000002,,,,", "1 to 8 of 0-9 A-Z")}
    | {
        f"donor: {name}": snapshot_row(f"886934000002,1402,,{code},", reason)
        for name, (code, reason) in BAD_CODES.items()
    }
    | {
        f"routing_number: {name}": snapshot_row(f"886934000002,1402,{number},,", reason)
        for name, (number, reason) in BAD_ROUTING_NUMBERS.items()
    }
    | {
        f"ported_at: {name}": snapshot_row(f"886934000002,1402,,,{time}", f"{reason}")
        for name, (time, reason) in BAD_TIMES.items()
    }
)


SNAPSHOT_LINES = {
    "empty file": Case(b"", 1, "the file is empty", rows=0),
    "missing network_code": Case("tn,donor\n886934000001,1402\n", 1, "column 'network_code' is missing"),
    "missing tn": Case("network_code\n1402\n", 1, "column 'tn' is missing"),
    "no header": Case(GOOD_ROW, 1, "unknown column '886934000001'"),
    "unknown column": Case("tn,network_code,colour\n886934000001,1402,red\n", 1, "unknown column 'colour'"),
    "column in capitals": Case("TN,network_code\n886934000001,1402\n", 1, "unknown column 'TN'"),
    "column with a blank": Case("tn, network_code\n886934000001,1402\n", 1, "unknown column ' network_code'"),
    "column without a name": Case("tn,network_code,\n886934000001,1402,\n", 1, "unknown column ''"),
    "column twice": Case("tn,network_code,tn\n886934000001,1402,886934000001\n", 1, "column 'tn' stands twice"),
    "semicolons": Case("tn;network_code\n886934000001;1402\n", 1, "unknown column 'tn;network_code'"),
    "byte-order mark": Case(b"\xef\xbb\xbf" + (HEADER + GOOD_ROW).encode(), 1, "byte-order mark"),
    "byte-order mark in a row": Case(HEADER.encode() + b"\xef\xbb\xbf" + GOOD_ROW.encode(), 2, "byte-order mark"),
    "UTF-16": Case((HEADER + GOOD_ROW).encode("utf-16"), 1, "unknown column"),
    "number twice": Case(HEADER + GOOD_ROW + "886934000001,1403,,,\n", 3, "tn 886934000001 stands in line 2 too"),
    "number twice, unsorted": Case(
        HEADER + LAST_ROW + "886912000000,1402,,,\n" + GOOD_ROW + LAST_ROW,
        5,
        "tn 886934000009 stands in line 2 too",
    ),
    "field too few": snapshot_row("886934000002,1402,,", "4 fields, the header has 5"),
    "field too many": snapshot_row("886934000002,1402,,,,", "6 fields, the header has 5"),
    "two rows with nine and eleven commas": Case(
        HEADER + "886934000001,1402,,\n886934000002,1402,,,,\n", 2, "4 fields, the header has 5"
    ),
    "empty line": snapshot_row("", "empty line"),
    "empty line at the end": Case(HEADER + GOOD_ROW + "\n", 3, "empty line"),
    "blank line": snapshot_row(" ", "1 fields"),
    "quotes": snapshot_row('"886934000002","1402","","",""', "5 to 15 digits"),
    "NUL bytes": snapshot_row("8869340\x0000002,1402,,,", "5 to 15 digits"),
    "NUL in a code": snapshot_row("886934000002,14\x002,,,", "1 to 8 of 0-9 A-Z"),
    "not UTF-8": Case((HEADER + GOOD_ROW).encode() + b"886934000002,14\xff2,,,\n", 3, "1 to 8 of 0-9 A-Z"),
    "a carriage return alone": snapshot_row("886934000002,1402,,,\r886934000003,1402,,,", "9 fields"),
    "two carriage returns": Case(HEADER + "886934000001,1402,,,\r\r\n", 2, "no RFC 3339 time"),
    "line of 257 bytes": snapshot_row("886934000002,1402,,," + "0" * 237, "longer than 256 bytes"),
    "line of 100,000 bytes": snapshot_row("9" * 100_000, "longer than 256 bytes"),
    "line longer than a chunk": Case((HEADER + GOOD_ROW).encode() + b"9" * 9_000_000, 3, "longer than 256 bytes"),
    "header longer than a chunk": Case(b"tn," * 3_000_000, 1, "column 'tn' stands twice"),
    "the same text as another field": Case(
        # The unported number stands in line 2 too, but as a routing number.
        HEADER + "886934000001,1402,886991234567,,\n886991234567,1402,,,\n",
        3,
        "personal numbers are not ported",
    ),
}

HEADER_ONLY = Case(HEADER, None, "no rows: it would take all 5 numbers out of the store")


@pytest.mark.parametrize("case", params(SNAPSHOT_FIELDS))
def test_snapshot_with_bad_field_is_refused(base: tuple[Workbench, Dump], tmp_path: Path, case: Case) -> None:
    refuse(base, tmp_path, "snapshot", case)


@pytest.mark.parametrize("case", params(SNAPSHOT_LINES))
def test_snapshot_with_bad_line_is_refused(base: tuple[Workbench, Dump], tmp_path: Path, case: Case) -> None:
    refuse(base, tmp_path, "snapshot", case)


def test_snapshot_without_rows_is_refused_while_store_has_numbers(base: tuple[Workbench, Dump], tmp_path: Path) -> None:
    refuse(base, tmp_path, "snapshot", HEADER_ONLY)


def test_snapshot_without_rows_is_loaded_into_empty_store(workbench: Workbench) -> None:
    workbench.load_tables()
    loaded = load("snapshot", workbench.publish("snapshot-main-1.csv", HEADER, 0), workbench.store)
    assert (loaded.code, loaded.reply["result"], loaded.reply["applied"]) == (0, "applied", 0)


def test_every_bad_row_of_a_snapshot_is_told(base: tuple[Workbench, Dump], tmp_path: Path) -> None:
    text = HEADER + "x,1402,,,\n" + GOOD_ROW + "886934000002,9999,,,\n886934000003,1402,,\n"
    path = Workbench(tmp_path).publish("snapshot-main-5.csv", text, 4)
    loaded = load("snapshot", path, base[0].store)
    expect_refusal(loaded, "snapshot-main-5.csv", FEED, 2, "5 to 15 digits")
    assert [row["line"] for row in loaded.reply["rejected"]] == [2, 4, 5]
    assert "(and 2 more)" in loaded.errors[0]
    assert dump(base[0].store) == base[1]


# -- notices ---------------------------------------------------------------------------------------------


def delta_row(text: str, reason: str) -> Case:
    return Case(notice(tn="886934000008") + text + notice(tn="886934000009"), 2, reason)


DELTA_FIELDS = (
    {f"tn: {name}": delta_row(notice(tn=tn), reason) for name, (tn, reason) in BAD_NUMBERS.items()}
    | {f"recipient: {name}": delta_row(notice(recipient=code), reason) for name, (code, reason) in BAD_CODES.items()}
    | {f"donor: {name}": delta_row(notice(donor=code), reason) for name, (code, reason) in BAD_CODES.items()}
    | {
        f"routing_number: {name}": delta_row(notice(routing_number=number), reason)
        for name, (number, reason) in BAD_ROUTING_NUMBERS.items()
    }
    | {
        f"{key}: {name}": delta_row(notice(**{key: time}), f"{key} ")
        for key in ("notified_at", "effective_at")
        for name, (time, _) in BAD_TIMES.items()
    }
    | {
        "tn: empty": delta_row(notice(tn=""), "5 to 15 digits"),
        "tn: a JSON number": delta_row(notice(tn=886934000002), "Expected `str`, got `int` - at `$.tn`"),
        "tn: none": delta_row(notice(tn=None), "missing required field `tn`"),
        "tn_to: letters": delta_row(notice(tn_to="x"), "tn_to 'x'"),
        "recipient: empty": delta_row(notice(recipient=""), "1 to 8 of 0-9 A-Z"),
        "recipient: none for a port": delta_row(notice(recipient=None), "recipient is missing: a port says"),
        "recipient: none for a correction": delta_row(
            notice(kind="correct", recipient=None), "recipient is missing: a correct says"
        ),
        "recipient: of a return": delta_row(notice(kind="return"), "a return has no recipient"),
        "routing_number: of a return": delta_row(
            notice(kind="return", recipient=None, routing_number="D1"), "a return has no routing_number"
        ),
        "routing_number: empty": delta_row(notice(routing_number=""), "1 to 15 of 0-9 A-F"),
        "notified_at: none": delta_row(notice(notified_at=None), "missing required field `notified_at`"),
        "kind: none": delta_row(notice(kind=None), "missing required field `kind`"),
        "kind: unknown": delta_row(notice(kind="close"), "kind 'close': it is one of port, return, correct"),
        "kind: in capitals": delta_row(notice(kind="PORT"), "kind 'PORT'"),
        "key: unknown": delta_row(notice(colour="red"), "unknown field `colour`"),
        "ref: 65 characters": delta_row(notice(ref="A" * 65), "ref: 1 to 64 printable characters"),
        "ref: empty": delta_row(notice(ref=""), "ref: 1 to 64 printable characters"),
        "ref: line end": delta_row(notice(ref="A\nB"), "ref: 1 to 64 printable characters"),
        "ref: NUL": delta_row(notice(ref="A\0"), "ref: 1 to 64 printable characters"),
        "ref: escape": delta_row(notice(ref="\x1b[2J"), "ref: 1 to 64 printable characters"),
        "ref: direction mark": delta_row(notice(ref="\u202eA"), "ref: 1 to 64 printable characters"),
    }
)

DELTA_LINES = {
    "empty file": Case(b"", 1, "the file is empty", rows=0),
    "line end alone": Case("\n", 1, "empty line", rows=1),
    "empty line": delta_row("\n", "empty line"),
    "empty line at the end": Case(notice() + "\n", 2, "empty line"),
    "blank line": delta_row("  \n", "empty line"),
    "byte-order mark": Case(b"\xef\xbb\xbf" + notice().encode(), 1, "byte-order mark"),
    "UTF-16": Case(notice().encode("utf-16"), 1, "not a notice"),
    "no JSON": delta_row("port 886934000002 to 1402\n", "not a notice"),
    "JSON cut short": delta_row(notice()[:-9] + "\n", "not a notice"),
    "two objects in a line": delta_row(notice().strip() + notice(), "not a notice"),
    "an array": delta_row("[" + notice().strip() + "]\n", "not a notice: Expected `object`, got `array`"),
    "apostrophes": delta_row(notice().replace('"', "'"), "not a notice"),
    "NUL bytes": delta_row(notice().replace("8869340", "886\x009340"), "not a notice"),
    "nothing but NUL bytes": delta_row("\0" * 100 + "\n", "not a notice"),
    "not UTF-8": Case(notice().encode() + notice(ref="X").encode().replace(b"X", b"\xff"), 2, "not a notice"),
    "a half of a surrogate pair": delta_row(notice(ref="X").replace("X", "\\ud800"), "not a notice"),
    "line of 4,097 bytes": delta_row(notice(ref="A" * (4097 - len(notice(ref="")) + 1)), "longer than 4096 bytes"),
    "line longer than a chunk": Case(notice().encode() + b"9" * 9_000_000, 2, "longer than 4096 bytes"),
    "deep nesting": delta_row("[" * 4000 + "\n", "not a notice"),
}

DELTA_RANGES = {
    "backwards": delta_row(notice(tn="886934000002", tn_to="886934000001"), "the range runs backwards"),
    "ends of different length": delta_row(
        notice(tn="886934000002", tn_to="8869340000020"), "the range's ends differ in length"
    ),
    "100,001 numbers": delta_row(
        notice(tn="886934000000", tn_to="886934100000"), "100001 numbers, at most 100000 go in one notice"
    ),
    "all numbers": delta_row(notice(tn="100000000000000", tn_to="999999999999999"), "at most 100000"),
    "into numbers that cannot be ported": delta_row(
        notice(tn="886989999000", tn_to="886990000999"), "personal numbers are not ported"
    ),
    "out of the country": delta_row(notice(tn="886999999900", tn_to="887000000099"), "are not ported"),
}


@pytest.mark.parametrize("case", params(DELTA_FIELDS))
def test_delta_with_bad_field_is_refused(base: tuple[Workbench, Dump], tmp_path: Path, case: Case) -> None:
    refuse(base, tmp_path, "delta", case)


@pytest.mark.parametrize("case", params(DELTA_LINES))
def test_delta_with_bad_line_is_refused(base: tuple[Workbench, Dump], tmp_path: Path, case: Case) -> None:
    refuse(base, tmp_path, "delta", case)


@pytest.mark.parametrize("case", params(DELTA_RANGES))
def test_delta_with_bad_range_is_refused(base: tuple[Workbench, Dump], tmp_path: Path, case: Case) -> None:
    refuse(base, tmp_path, "delta", case)


def test_range_of_100_000_numbers_is_applied(copied: Workbench) -> None:
    text = notice(tn="886934000000", tn_to="886934099999")
    loaded = load("delta", copied.publish("delta-main-5.ndjson", text, 1), copied.store)
    assert (loaded.code, loaded.reply["added"], loaded.reply["changed"]) == (0, 99_999, 1)


def test_twenty_bad_notices_are_told_and_no_more(base: tuple[Workbench, Dump], tmp_path: Path) -> None:
    path = Workbench(tmp_path).publish("delta-main-5.ndjson", notice() + "x\n" * 30, 31)
    loaded = load("delta", path, base[0].store)
    expect_refusal(loaded, "delta-main-5.ndjson", FEED, 2, "not a notice")
    assert [row["line"] for row in loaded.reply["rejected"]] == list(range(2, 22))
    assert dump(base[0].store) == base[1]


# -- compressed files ------------------------------------------------------------------------------------

FILES = {
    "snapshot": (SNAPSHOT + "".join(f"88693400{at:04},1402,,,{TIME}\n" for at in range(0, 9000, 7))).encode(),
    "delta": "".join(notice(tn=f"88693400{at:04}", ref=f"A-{at}") for at in range(0, 9000, 9)).encode(),
}
NAMES = {"snapshot": "snapshot-main-5.csv", "delta": "delta-main-5.ndjson"}
COMMANDS = ("snapshot", "delta")


def compressed(command: str, ending: str) -> bytes:
    if ending == "gz":
        return gzip.compress(FILES[command], mtime=0)
    return zstandard.ZstdCompressor(level=3, write_checksum=True).compress(FILES[command])


def row_count(command: str) -> int:
    return FILES[command].count(b"\n") - (command == "snapshot")


@pytest.mark.parametrize("ending", ["gz", "zst"])
@pytest.mark.parametrize("command", COMMANDS)
class TestCompressed:
    """The bytes are those of the manifest, and still no good."""

    def case(self, command: str, ending: str, data: bytes, line: int | None, reason: str) -> Case:
        return Case(data, line, reason, name=f"{NAMES[command]}.{ending}", rows=row_count(command))

    @pytest.mark.parametrize("left", [1, 3, 9, 20, 200, 0.25, 0.5, 0.9, -9, -4, -1])
    def test_truncated_file_is_refused(
        self, base: tuple[Workbench, Dump], tmp_path: Path, command: str, ending: str, left: float
    ) -> None:
        data = compressed(command, ending)
        cut = int(len(data) * left) if isinstance(left, float) else left
        refuse(base, tmp_path, command, self.case(command, ending, data[:cut], None, "truncated or damaged"))

    @pytest.mark.parametrize("at", [0, 1, 0.3, 0.6, 0.9, -1])
    def test_damaged_file_is_refused(
        self, base: tuple[Workbench, Dump], tmp_path: Path, command: str, ending: str, at: float
    ) -> None:
        data = bytearray(compressed(command, ending))
        data[int(len(data) * at) if isinstance(at, float) else at] ^= 0xFF
        workbench, before = base
        path = Workbench(tmp_path).publish(f"{NAMES[command]}.{ending}", bytes(data), row_count(command))
        loaded = load(command, path, workbench.store)
        assert (loaded.code, len(loaded.errors)) == (FEED, 1)  # what is wrong may show in a row first
        assert dump(workbench.store) == before

    def test_file_that_is_not_compressed_is_refused(
        self, base: tuple[Workbench, Dump], tmp_path: Path, command: str, ending: str
    ) -> None:
        refuse(base, tmp_path, command, self.case(command, ending, FILES[command], None, "truncated or damaged"))

    def test_compressed_file_of_no_bytes_is_refused(
        self, base: tuple[Workbench, Dump], tmp_path: Path, command: str, ending: str
    ) -> None:
        refuse(base, tmp_path, command, self.case(command, ending, b"", 1, "the file is empty"))

    def test_garbage_behind_the_end_is_refused(
        self, base: tuple[Workbench, Dump], tmp_path: Path, command: str, ending: str
    ) -> None:
        data = compressed(command, ending) + b"garbage"
        refuse(base, tmp_path, command, self.case(command, ending, data, None, "truncated or damaged"))

    def test_whole_file_is_loaded(self, copied: Workbench, command: str, ending: str) -> None:
        path = copied.publish(f"{NAMES[command]}.{ending}", compressed(command, ending), row_count(command))
        loaded = load(command, path, copied.store)
        assert (loaded.code, loaded.reply["applied"]) == (0, row_count(command))

    def test_file_of_two_parts_is_loaded(self, copied: Workbench, command: str, ending: str) -> None:
        whole = FILES[command]
        cut = len(whole) // 2
        pack = gzip.compress if ending == "gz" else zstandard.compress
        path = copied.publish(f"{NAMES[command]}.{ending}", pack(whole[:cut]) + pack(whole[cut:]), row_count(command))
        loaded = load(command, path, copied.store)
        assert (loaded.code, loaded.reply["applied"]) == (0, row_count(command))


# -- manifests, sequences, names -------------------------------------------------------------------------

GOOD = {"snapshot": SNAPSHOT, "delta": notice()}
ROWS = {"snapshot": 4, "delta": 1}

WRONG_MANIFESTS: dict[str, tuple[dict[str, Any], str]] = {
    "another hash": ({"sha256": "0" * 64}, "the manifest says 0000"),
    "a hash in capitals": ({"sha256": "A" * 64}, "sha256 must be 64 lower-case hex digits"),
    "a short hash": ({"sha256": "0" * 63}, "sha256 must be 64 lower-case hex digits"),
    "a byte too many": ({"bytes": 10_000}, "bytes is 10000, expected"),
    "a row too many": ({"rows": 99}, "rows, the manifest says 99"),
    "no rows": ({"rows": 0}, "rows, the manifest says 0"),
    "rows below zero": ({"rows": -1}, "rows 0 or more"),
    "rows as text": ({"rows": "4"}, "not a manifest"),
    "another feed": ({"feed": "other"}, "its manifest is for"),
    "another sequence": ({"sequence": 6}, "its manifest is for"),
    "sequence zero": ({"sequence": 0}, "sequence must be 1 or more"),
    "sequence beyond 64 bits": ({"sequence": 10**30}, "its manifest is for"),
    "unknown type": ({"type": "picture"}, "not a manifest"),
    "unknown key": ({"colour": "red"}, "unknown field `colour`"),
    "bad created_at": ({"created_at": "today"}, "created_at 'today' is no RFC 3339 time"),
    "created_at without offset": ({"created_at": "2026-11-22T10:00:05"}, "no RFC 3339 time"),
}


@pytest.mark.parametrize("wrong", WRONG_MANIFESTS.values(), ids=WRONG_MANIFESTS)
@pytest.mark.parametrize("command", COMMANDS)
def test_file_with_wrong_manifest_is_refused(
    base: tuple[Workbench, Dump], tmp_path: Path, command: str, wrong: tuple[dict[str, Any], str]
) -> None:
    changed, reason = wrong
    refuse(base, tmp_path, command, Case(GOOD[command], None, reason, rows=ROWS[command], manifest=changed))


@pytest.mark.parametrize("command", COMMANDS)
def test_row_too_few_by_the_manifest_is_refused(base: tuple[Workbench, Dump], tmp_path: Path, command: str) -> None:
    reason = f"{ROWS[command]} rows, the manifest says {ROWS[command] - 1}"
    refuse(base, tmp_path, command, Case(GOOD[command], None, reason, rows=ROWS[command] - 1))


@pytest.mark.parametrize("command", COMMANDS)
def test_file_of_the_other_type_is_refused(base: tuple[Workbench, Dump], tmp_path: Path, command: str) -> None:
    other = COMMANDS[1 - COMMANDS.index(command)]
    case = Case(GOOD[other], None, f"type is {other}, expected {command}", name=NAMES[other], rows=ROWS[other])
    refuse(base, tmp_path, command, case)


@pytest.mark.parametrize("command", COMMANDS)
def test_file_of_another_feed_is_refused(base: tuple[Workbench, Dump], tmp_path: Path, command: str) -> None:
    name = NAMES[command].replace("main", "other")
    case = Case(GOOD[command], None, "feed is other, expected main", name=name, rows=ROWS[command])
    refuse(base, tmp_path, command, case)
    case = Case(GOOD[command], None, "feed is main, expected other", rows=ROWS[command])
    refuse(base, tmp_path, command, case, "--feed", "other")


@pytest.mark.parametrize("name", ["data.csv", "snapshot-main.csv", "snapshot-Main-5.csv", "delta-main-5.csv"])
def test_file_whose_name_is_not_of_the_format_is_refused(
    base: tuple[Workbench, Dump], tmp_path: Path, name: str
) -> None:
    workbench = Workbench(tmp_path)
    good = workbench.publish("snapshot-main-5.csv", SNAPSHOT, 4)
    path = good.rename(tmp_path / name)
    good.with_name(good.name + ".json").rename(tmp_path / f"{name}.json")
    loaded = load("snapshot", path, base[0].store)
    expect_refusal(loaded, name, FEED, None, "a data file is called snapshot-FEED-SEQUENCE.csv")
    assert dump(base[0].store) == base[1]


BROKEN_MANIFESTS = {
    "empty": (b"", "not a manifest"),
    "no JSON": (b"sha256: 0000", "not a manifest"),
    "an array": (b"[]", "not a manifest"),
    "a key missing": (b'{"feed":"main"}', "missing required field"),
    "not UTF-8": (b'{"feed":"\xff"}', "not a manifest"),
    "NUL bytes": (b"\0" * 512, "not a manifest"),
    "17,000 bytes": (b" " * 17_000, "longer than 16384 bytes"),
    "nested": (b"[" * 10_000, "not a manifest"),
}


@pytest.mark.parametrize("broken", BROKEN_MANIFESTS.values(), ids=BROKEN_MANIFESTS)
@pytest.mark.parametrize("command", COMMANDS)
def test_file_with_broken_manifest_is_refused(
    base: tuple[Workbench, Dump], tmp_path: Path, command: str, broken: tuple[bytes, str]
) -> None:
    content, reason = broken
    path = Workbench(tmp_path).publish(NAMES[command], GOOD[command], ROWS[command])
    path.with_name(path.name + ".json").write_bytes(content)
    loaded = load(command, path, base[0].store)
    expect_refusal(loaded, f"{path.name}.json", FEED, None, reason)
    assert dump(base[0].store) == base[1]


@pytest.mark.parametrize("command", COMMANDS)
def test_manifest_that_is_a_directory_is_refused(base: tuple[Workbench, Dump], tmp_path: Path, command: str) -> None:
    path = Workbench(tmp_path).write(NAMES[command], GOOD[command])
    path.with_name(path.name + ".json").mkdir()
    expect_refusal(load(command, path, base[0].store), f"{path.name}.json", FEED, None, "Is a directory")
    assert dump(base[0].store) == base[1]


@pytest.mark.parametrize("command", COMMANDS)
class TestPlace:
    """Where the file is, and what says so."""

    def test_file_without_manifest_is_refused(self, base: tuple[Workbench, Dump], tmp_path: Path, command: str) -> None:
        path = Workbench(tmp_path).write(NAMES[command], GOOD[command])
        loaded = load(command, path, base[0].store)
        expect_refusal(loaded, NAMES[command], FEED, None, "no manifest")
        assert "--sequence" in loaded.errors[0]
        assert dump(base[0].store) == base[1]

    def test_file_that_is_missing_is_refused(self, base: tuple[Workbench, Dump], tmp_path: Path, command: str) -> None:
        loaded = load(command, tmp_path / NAMES[command], base[0].store)
        expect_refusal(loaded, NAMES[command], FEED, None, "no such file")
        assert dump(base[0].store) == base[1]

    def test_directory_is_refused(self, base: tuple[Workbench, Dump], tmp_path: Path, command: str) -> None:
        folder = tmp_path / NAMES[command]
        folder.mkdir()
        expect_refusal(load(command, folder, base[0].store), NAMES[command], FEED, None, "")
        assert dump(base[0].store) == base[1]

    def test_name_too_long_for_a_file_is_refused(
        self, base: tuple[Workbench, Dump], tmp_path: Path, command: str
    ) -> None:
        loaded = load(command, tmp_path / ("a" * 300), base[0].store)
        expect_refusal(loaded, "aaa", FEED, None, "File name too long")

    def test_sequence_that_is_not_the_manifests_is_refused(
        self, base: tuple[Workbench, Dump], tmp_path: Path, command: str
    ) -> None:
        path = Workbench(tmp_path).publish(NAMES[command], GOOD[command], ROWS[command])
        loaded = load(command, path, base[0].store, "--sequence", "6")
        expect_refusal(loaded, f"{NAMES[command]}.json", FEED, None, "sequence is 5, expected 6")
        assert dump(base[0].store) == base[1]

    def test_file_without_manifest_is_loaded_by_its_named_sequence(self, copied: Workbench, command: str) -> None:
        path = copied.write("plain", GOOD[command])
        loaded = load(command, path, copied.store, "--sequence", "5")
        assert (loaded.code, loaded.reply["sequence"], loaded.reply["result"]) == (0, 5, "applied")
        assert copied.state()[2]["main"].sequence == 5  # type: ignore[attr-defined]


# -- the feed's position ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sequence", "missing"), [(6, "load it first"), (7, "5 to 6"), (999_999_999, "5 to 999999998")]
)
def test_delta_with_gap_is_refused(base: tuple[Workbench, Dump], tmp_path: Path, sequence: int, missing: str) -> None:
    case = Case(notice(), None, missing, code=GAP, name=f"delta-main-{sequence}.ndjson")
    refuse(base, tmp_path, "delta", case)


def test_first_delta_of_an_unknown_feed_is_a_gap_unless_it_is_the_first(
    base: tuple[Workbench, Dump], tmp_path: Path
) -> None:
    case = Case(notice(), None, "feed 'other' is at 0", code=GAP, name="delta-other-5.ndjson")
    refuse(base, tmp_path, "delta", case, "--feed", "other")


@pytest.mark.parametrize("sequence", [1, 2, 3])
def test_delta_that_is_older_is_refused(base: tuple[Workbench, Dump], tmp_path: Path, sequence: int) -> None:
    case = Case(notice(), None, "is contained already", code=STALE, name=f"delta-main-{sequence}.ndjson")
    refuse(base, tmp_path, "delta", case)


@pytest.mark.parametrize("sequence", [1, 3])
def test_snapshot_that_is_older_is_refused(base: tuple[Workbench, Dump], tmp_path: Path, sequence: int) -> None:
    case = Case(SNAPSHOT, None, f"this snapshot is at {sequence}", code=STALE, name=f"snapshot-main-{sequence}.csv")
    refuse(base, tmp_path, "snapshot", case)


def test_same_delta_again_is_a_duplicate_and_changes_nothing(base: tuple[Workbench, Dump], tmp_path: Path) -> None:
    workbench, before = base
    again = shutil.copy(workbench.folder / "delta-main-4.ndjson", tmp_path)
    shutil.copy(workbench.folder / "delta-main-4.ndjson.json", tmp_path)
    loaded = load("delta", Path(again), workbench.store)
    assert (loaded.code, loaded.reply["result"], loaded.errors) == (0, "duplicate", [])
    assert loaded.reply["serial"] == workbench.state()[0]
    assert dump(workbench.store) == before


def test_same_delta_with_other_content_is_refused(base: tuple[Workbench, Dump], tmp_path: Path) -> None:
    case = Case(notice(), None, "was applied with other content", name="delta-main-4.ndjson")
    refuse(base, tmp_path, "delta", case)


def test_delta_that_the_snapshot_contains_is_a_duplicate(workbench: Workbench) -> None:
    workbench.load_tables()
    workbench.snapshot(sequence=3)
    before = dump(workbench.store)
    loaded = load("delta", workbench.publish("delta-main-3.ndjson", notice(), 1), workbench.store)
    assert (loaded.code, loaded.reply["result"]) == (0, "duplicate")
    assert dump(workbench.store) == before


def test_same_snapshot_again_changes_no_number(copied: Workbench) -> None:
    path = copied.publish("snapshot-main-5.csv", SNAPSHOT, 4)
    first = load("snapshot", path, copied.store)
    before = dump(copied.store)
    again = load("snapshot", path, copied.store)
    after = dump(copied.store)
    assert (first.code, first.reply["removed"]) == (0, 1)
    counts = [again.reply[name] for name in ("added", "removed", "changed", "mended", "unchanged")]
    assert (again.code, counts) == (0, [0, 0, 0, 0, 4])
    assert again.reply["digest"] == first.reply["digest"]
    for name in ("blocks", "details", "routes", "ranges", "pending", "journal_blocks"):
        assert after[name] == before[name]


def test_deltas_before_a_bad_one_stay_applied(copied: Workbench) -> None:
    good = copied.publish("delta-main-5.ndjson", notice(), 1)
    bad = copied.publish("delta-main-6.ndjson", notice(kind="close"), 1)
    never = copied.publish("delta-main-7.ndjson", notice(), 1)
    arguments = ["delta", str(never), str(bad), str(good), "--store", str(copied.store)]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == FEED
    assert "result=applied" in result.stdout
    assert result.stderr.splitlines() == [line for line in result.stderr.splitlines() if "delta-main-6" in line]
    assert copied.state()[2]["main"].sequence == 5  # type: ignore[attr-defined]


@pytest.mark.parametrize("command", COMMANDS)
def test_crlf_file_gives_the_same_store_as_lf(base: tuple[Workbench, Dump], tmp_path: Path, command: str) -> None:
    digests = []
    for name, text in (("lf", GOOD[command]), ("crlf", GOOD[command].replace("\n", "\r\n"))):
        folder = tmp_path / name
        folder.mkdir()
        workbench = Workbench(folder)
        shutil.copytree(base[0].store, workbench.store)
        path = workbench.publish(NAMES[command], text, ROWS[command])
        loaded = load(command, path, workbench.store)
        assert loaded.code == 0
        digests.append(loaded.reply["digest"])
    assert digests[0] == digests[1]


@pytest.mark.parametrize("command", COMMANDS)
def test_last_line_needs_no_line_end(copied: Workbench, command: str) -> None:
    path = copied.publish(NAMES[command], GOOD[command].removesuffix("\n"), ROWS[command])
    loaded = load(command, path, copied.store)
    assert (loaded.code, loaded.reply["applied"]) == (0, ROWS[command])


# -- usage and configuration -----------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    "options",
    [
        ["--sequence", "0"],
        ["--sequence", "-1"],
        ["--sequence", "five"],
        ["--sequence", "1000000000000000000"],  # a file name has room for 18 digits
        ["--sequence", "9" * 30],
        ["--config", "lookupd.toml"],
        ["--colour"],
    ],
    ids=" ".join,
)
def test_wrong_option_is_a_usage_error(
    base: tuple[Workbench, Dump], tmp_path: Path, command: str, options: list[str]
) -> None:
    path = Workbench(tmp_path).write(NAMES[command], GOOD[command])
    result = CliRunner().invoke(cli, [command, str(path), "--store", str(base[0].store), *options])
    assert (result.exit_code, result.stdout) == (2, "")
    assert sum(line.startswith("Error: ") for line in result.stderr.splitlines()) == 1
    assert dump(base[0].store) == base[1]


@pytest.mark.parametrize("arguments", [[], ["file"]], ids=["no file", "no store"])
@pytest.mark.parametrize("command", COMMANDS)
def test_missing_argument_is_a_usage_error(command: str, arguments: list[str]) -> None:
    result = CliRunner().invoke(cli, [command, *arguments])
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Error: " in result.stderr


def test_one_sequence_for_two_deltas_is_a_usage_error(base: tuple[Workbench, Dump], tmp_path: Path) -> None:
    paths = [str(Workbench(tmp_path).write(f"delta-main-{at}.ndjson", notice())) for at in (5, 6)]
    result = CliRunner().invoke(cli, ["delta", *paths, "--sequence", "5", "--store", str(base[0].store)])
    assert result.exit_code == 2
    assert dump(base[0].store) == base[1]


CONFIGURATIONS = {
    "missing": (None, [], "No such file"),
    "no TOML": ("[store", [], "lookupd.toml: "),
    "unknown key": ('[stone]\npath = "x"\n', [], "did you mean 'store'?"),
    "feed not configured": ('[feed.main]\nsource = "x"\n', ["--feed", "other"], "the configuration knows main"),
    "several feeds": ('[feed.a]\nsource = "x"\n[feed.b]\nsource = "x"\n', [], "name one with --feed: a, b"),
}


@pytest.mark.parametrize("case", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
@pytest.mark.parametrize("command", COMMANDS)
def test_wrong_configuration_ends_with_its_own_code(
    base: tuple[Workbench, Dump], tmp_path: Path, command: str, case: tuple[str | None, list[str], str]
) -> None:
    text, options, reason = case
    config = tmp_path / "lookupd.toml"
    if text is not None:
        store = "" if "stor" in text or "ston" in text else f'[store]\npath = "{base[0].store}"\n'
        config.write_text(store + text)
    path = Workbench(tmp_path).publish(NAMES[command], GOOD[command], ROWS[command])
    result = CliRunner().invoke(cli, [command, str(path), "--config", str(config), "--json", *options])
    assert result.exit_code == 3, result.output
    assert json.loads(result.stdout)["exit_code"] == 3
    assert [reason in line for line in result.stderr.splitlines()] == [True]
    assert dump(base[0].store) == base[1]


# -- the tables ------------------------------------------------------------------------------------------

NETWORK_HEADER = "network_code,operator,routing_number,pdb_carrier_id\n"
GOOD_NETWORK = "1401,Alpha,,101\n"


def network_row(text: str, reason: str) -> Case:
    return Case(NETWORK_HEADER + GOOD_NETWORK + text + "\n", 3, reason)


BAD_NETWORKS = {
    "empty file": Case("", 1, "the header must be"),
    "column missing": Case("network_code,operator,routing_number\n1,A,\n", 1, "the header must be"),
    "column unknown": Case(NETWORK_HEADER.replace("operator", "name") + GOOD_NETWORK, 1, "the header must be"),
    "column twice": Case(NETWORK_HEADER.replace("operator", "network_code"), 1, "the header must be"),
    "no header": Case(GOOD_NETWORK, 1, "the header must be"),
    "byte-order mark": Case("\ufeff" + NETWORK_HEADER + GOOD_NETWORK, 1, "a byte-order mark"),
    "not UTF-8": Case(NETWORK_HEADER.encode() + b"1401,\xe9,,\n", None, "not UTF-8 at byte 57"),
    "field too few": network_row("1402,Beta,", "3 fields, the header has 4"),
    "field too many": network_row("1402,Beta,,,", "5 fields, the header has 4"),
    "empty line": network_row("", "0 fields, the header has 4"),
    "a quote left open": network_row('1402,"Beta,,', "unexpected end of data"),
    "a field of 200,000 characters": network_row(f"1402,{'B' * 200_000},,", "field larger than field limit"),
    "code twice": network_row("1401,Beta,,102", "network_code 1401 stands twice"),
    "code empty": network_row(",Beta,,", "1 to 8 of 0-9 A-Z"),
    "code in lower case": network_row("beta,Beta,,", "1 to 8 of 0-9 A-Z"),
    "code of nine characters": network_row("123456789,Beta,,", "1 to 8 of 0-9 A-Z"),
    "operator empty": network_row("1402,,,", "operator: 1 to 64 printable characters"),
    "operator blank": network_row("1402,  ,,", "operator: 1 to 64 printable characters"),
    "operator of 65 characters": network_row(f"1402,{'B' * 65},,", "operator: 1 to 64 printable characters"),
    "operator of two lines": Case(
        NETWORK_HEADER + '1402,"Beta\nMobile",,\n', 3, "operator: 1 to 64 printable characters"
    ),
    "operator with NUL": network_row("1402,Be\0ta,,", "operator: 1 to 64 printable characters"),
    "routing number beyond F": network_row("1402,Beta,X1,", "1 to 15 of 0-9 A-F"),
    "carrier id 0": network_row("1402,Beta,,0", "1 to 999, or empty"),
    "carrier id 1000": network_row("1402,Beta,,1000", "1 to 999, or empty"),
    "carrier id x": network_row("1402,Beta,,x", "1 to 999, or empty"),
    "carrier id -1": network_row("1402,Beta,,-1", "1 to 999, or empty"),
    "carrier id 1.0": network_row("1402,Beta,,1.0", "1 to 999, or empty"),
    "carrier id of another script": network_row("1402,Beta,,١", "1 to 999, or empty"),
}

RANGE_HEADER = "prefix,network_code\n"


def range_row(text: str, reason: str) -> Case:
    return Case(RANGE_HEADER + "88691,1401\n" + text + "\n", 3, reason)


BAD_RANGES = {
    "header only": Case(RANGE_HEADER, None, "no rows: it would take all"),
    "empty file": Case("", 1, "the header must be prefix,network_code"),
    "column missing": Case("prefix\n88691\n", 1, "the header must be"),
    "column unknown": Case("prefix,network\n88691,1401\n", 1, "the header must be"),
    "column twice": Case("prefix,prefix\n88691,88691\n", 1, "the header must be"),
    "the networks table": Case(NETWORKS, 1, "the header must be"),
    "byte-order mark": Case("\ufeff" + RANGES, 1, "a byte-order mark"),
    "not UTF-8": Case(RANGE_HEADER.encode() + b"\xff,1401\n", None, "not UTF-8 at byte 20"),
    "field too few": range_row("88692", "1 fields, the header has 2"),
    "field too many": range_row("88692,1402,", "3 fields, the header has 2"),
    "empty line": range_row("", "0 fields, the header has 2"),
    "prefix twice": range_row("88691,1402", "prefix 88691 stands twice"),
    "prefix empty": range_row(",1402", "1 to 15 digits, no leading zero"),
    "prefix with letters": range_row("8869x,1402", "1 to 15 digits, no leading zero"),
    "prefix with a plus sign": range_row("+88692,1402", "1 to 15 digits, no leading zero"),
    "prefix with a leading zero": range_row("092,1402", "1 to 15 digits, no leading zero"),
    "prefix of 16 digits": range_row("8" * 16 + ",1402", "1 to 15 digits, no leading zero"),
    "prefix of another script": range_row("٨٨٦٩,1402", "1 to 15 digits, no leading zero"),
    "code bad": range_row("88692,beta", "1 to 8 of 0-9 A-Z"),
    "network unknown": Case(RANGE_HEADER + "88691,1401\n88692,9999\n", None, "network_code '9999' is not in the"),
}


def refuse_table(base: tuple[Workbench, Dump], folder: Path, table: str, case: Case) -> None:
    workbench, before = base
    path = Workbench(folder).write(f"{table}.csv", case.content)
    loaded = load(table, path, workbench.store)
    expect_refusal(loaded, f"{table}.csv", case.code, case.line, case.reason)
    assert dump(workbench.store) == before


@pytest.mark.parametrize("case", params(BAD_NETWORKS))
def test_bad_networks_table_is_refused(base: tuple[Workbench, Dump], tmp_path: Path, case: Case) -> None:
    refuse_table(base, tmp_path, "networks", case)


@pytest.mark.parametrize("case", params(BAD_RANGES))
def test_bad_ranges_table_is_refused(base: tuple[Workbench, Dump], tmp_path: Path, case: Case) -> None:
    refuse_table(base, tmp_path, "ranges", case)


@pytest.mark.parametrize("table", ["networks", "ranges"])
def test_table_that_is_missing_or_a_directory_is_refused(
    base: tuple[Workbench, Dump], tmp_path: Path, table: str
) -> None:
    expect_refusal(load(table, tmp_path / "none.csv", base[0].store), "none.csv", FEED, None, "No such file")
    expect_refusal(load(table, tmp_path, base[0].store), tmp_path.name, FEED, None, "Is a directory")
    assert dump(base[0].store) == base[1]


@pytest.mark.parametrize(("table", "text"), [("networks", NETWORKS), ("ranges", RANGES)])
def test_table_with_crlf_or_columns_in_another_order_is_the_same_table(
    base: tuple[Workbench, Dump], tmp_path: Path, table: str, text: str
) -> None:
    workbench, before = base
    rows = [list(reversed(row)) for row in csv.reader(text.splitlines())]
    turned = "".join(",".join(row) + "\n" for row in rows)
    for content in (text, text.replace("\n", "\r\n"), turned):
        loaded = load(table, Workbench(tmp_path).write(f"{table}.csv", content), workbench.store)
        assert (loaded.code, loaded.reply["result"]) == (0, "unchanged")
    assert dump(workbench.store) == before


# -- the same through a real process ---------------------------------------------------------------------

PROCESSES = {
    "bad row": ("snapshot", Case(HEADER + GOOD_ROW + "x,1402,,,\n", 3, "5 to 15 digits")),
    "bad notice": ("delta", delta_row(notice(kind="close"), "kind 'close'")),
    "wrong hash": ("snapshot", Case(SNAPSHOT, None, "sha256 is", manifest={"sha256": "0" * 64})),
    "gap": ("delta", Case(notice(), None, "the next delta is 5", code=GAP, name="delta-main-7.ndjson")),
    "older": ("snapshot", Case(SNAPSHOT, None, "take a newer one", code=STALE, name="snapshot-main-1.csv")),
}


@pytest.mark.parametrize(("command", "case"), PROCESSES.values(), ids=PROCESSES)
def test_process_ends_with_code_and_one_message(
    base: tuple[Workbench, Dump], tmp_path: Path, command: str, case: Case
) -> None:
    workbench, before = base
    text = str(case.content)
    name = case.name or NAMES[command]
    rows = text.count("\n") - (command == "snapshot")
    path = Workbench(tmp_path).publish(name, text, rows, **case.manifest)
    done = run_cli("loader.cli", command, path, "--store", workbench.store)
    assert (done.returncode, done.stdout) == (case.code, "")
    assert done.stderr.count("\n") == 1
    where = name if case.line is None else f"{name}:{case.line}: "
    assert done.stderr.startswith(f"error: {where}")
    assert case.reason in done.stderr
    assert dump(workbench.store) == before


def test_process_replies_with_one_json_object(base: tuple[Workbench, Dump], tmp_path: Path) -> None:
    path = Workbench(tmp_path).publish("delta-main-5.ndjson", notice(colour="red"), 1)
    done = run_cli("loader.cli", "delta", path, "--store", base[0].store, "--json")
    reply = json.loads(done.stdout)
    assert (done.returncode, reply["exit_code"], reply["rejected"][0]["line"]) == (FEED, FEED, 1)
    assert done.stderr == f"error: {reply['error']}\n"


def test_process_that_loads_ends_with_zero(copied: Workbench) -> None:
    path = copied.publish("delta-main-5.ndjson", notice(), 1)
    done = run_cli("loader.cli", "delta", path, "--store", copied.store)
    assert (done.returncode, done.stderr) == (0, "")
    assert "result=applied" in done.stdout
    again = run_cli("loader.cli", "delta", path, "--store", copied.store, "--json")
    assert (again.returncode, json.loads(again.stdout)["result"]) == (0, "duplicate")
