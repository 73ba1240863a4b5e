"""NPAC's bulk data files: which belong together, what they become, what is refused; and the answers they lead to."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loader.apply import Terms, apply_delta, apply_snapshot
from loader.files import FeedFile
from loader.formats import Step, make_format
from loader.formats.npac import NpacBulkData, parse_file_name
from loader.tables import load_networks, read_networks
from loader.trust import PublicKey
from lookupd.engine import Engine
from lookupd.errors import FeedError, Rejected
from lookupd.model import Outcome, UnixSeconds
from lookupd.numbering import load_plan
from lookupd.store.writer import Writer
from tests.conftest import Silent, Workbench

VECTORS = Path(__file__).parents[1] / "vectors" / "npac"
OBJECTS = "00-00-0000000000.99-99-9999999999"
ACTIVE = f"212000-212999.01-03-2025120000.{OBJECTS}"
RANGE = "212000-212999.01-03-2025130500.01-03-2025115500.01-03-2025130000"
CREATED = 1_740_830_400  # 2025-03-01T12:00:00Z
TIME_FROM, TIME_TO = 1_740_830_100, 1_740_834_000  # 11:55:00 and 13:00:00
NOW = UnixSeconds(1_740_840_000)
PLAN = load_plan("1")
FORMAT = NpacBulkData("main", "1")


def record(key: str, lrn: str = "2125550199", spid: str = "9991", *, id_: int = 2000, reason: str = "0") -> bytes:
    """An SV's record for a number, a block's for a thousand."""
    others = "|" * (12 if len(key) == 10 else 8)
    time = "20250301120000" if lrn else ""
    return f"{id_}|{key}|{lrn}|{spid}|{time}|{others}{reason}\r".encode()


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    """A spool with all the vectors."""
    spool = tmp_path / "spool"
    shutil.copytree(VECTORS, spool)
    return spool


def steps_of(spool: Path) -> dict[str, Step]:
    names = frozenset(path.name for path in spool.iterdir() if path.is_file())
    return {step.type: step for step in FORMAT.steps(names)}


def open_type(spool: Path, type_: str) -> FeedFile:
    return FORMAT.open(steps_of(spool)[type_], spool, ())


def notices(file: FeedFile) -> list[tuple[Any, ...]]:
    found = []
    for line in file.path.read_text().splitlines():
        row = json.loads(line)
        found.append((row["kind"], row["tn"], row.get("tn_to"), row.get("recipient"), row.get("routing_number")))
    return found


# -- names -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind", "sequence", "is_active"),
    [
        (ACTIVE, "SV", CREATED, True),
        (f"SV.{ACTIVE}", "SV", CREATED, True),
        (f"NPB.{ACTIVE}", "NPB", CREATED, True),
        (f"SPID.{ACTIVE}", "SPID", CREATED, True),
        (f"2120000-2129999.01-03-2025120000.{OBJECTS}", "NPB", CREATED, True),  # thousands-blocks
        (RANGE, "SV", TIME_TO, False),
        ("303123-303125.17-09-1996153344.11-07-1996091222.17-09-1996153343", "SV", 842_974_423, False),
    ],
)
def test_name_tells_kind_and_position(name: str, kind: str, sequence: int, is_active: bool) -> None:
    file = parse_file_name(name)
    assert file is not None
    assert (file.kind, file.sequence, file.is_active) == (kind, sequence, is_active)


@pytest.mark.parametrize(
    "name",
    [
        f"LRN.{ACTIVE}",
        f"{ACTIVE}.part",
        "212000-212999.01-03-2025120000",
        f"212000-2129999.01-03-2025120000.{OBJECTS}",
        f"212000-212999.31-02-2025120000.{OBJECTS}",
        "212000-212999.01-03-2025120000.00-00-0000000000.01-03-2025130000",  # from is no time
        "212000-212999.01-03-2025120000.01-03-2025130000.99-99-9999999999",
        "212000-212999.01-03-2025120000.01-03-2025130000.01-03-2025130000",  # nothing between them
        f"212000-212999.01-03-1969120000.{OBJECTS}",
    ],
)
def test_other_name_is_passed_over(name: str) -> None:
    assert parse_file_name(name) is None
    assert FORMAT.steps(frozenset({name})) == []


def test_steps_are_the_snapshot_and_the_delta_each_with_its_blocks(spool: Path) -> None:
    names = frozenset(path.name for path in spool.iterdir())
    assert FORMAT.steps(names) == [
        Step("networks", "main", 0, CREATED, (f"SPID.{ACTIVE}",)),
        Step("snapshot", "main", 0, CREATED, (f"SV.{ACTIVE}", f"NPB.{ACTIVE}")),
        Step("delta", "main", TIME_FROM, TIME_TO, (f"SV.{RANGE}", f"NPB.{RANGE}")),
    ]


def test_blocks_without_their_versions_are_no_step() -> None:
    assert FORMAT.steps(frozenset({f"NPB.{ACTIVE}", f"NPB.{RANGE}"})) == []


def test_blocks_of_another_download_do_not_belong() -> None:
    other = f"NPB.{ACTIVE}".replace("2025120000", "2025120001")
    assert FORMAT.steps(frozenset({f"SV.{ACTIVE}", other}))[0].files == (f"SV.{ACTIVE}",)


def test_only_the_range_that_holds_all_others_is_loaded() -> None:
    part = ACTIVE.replace("212000-212999", "212000-212499")
    rest = ACTIVE.replace("212000-212999", "212500-212999")
    assert [step.files for step in FORMAT.steps(frozenset({part, ACTIVE}))] == [(ACTIVE,)]
    assert FORMAT.steps(frozenset({part, rest})) == []  # each would take the other's numbers out


def test_of_deltas_to_one_moment_the_one_from_the_earliest_is_taken() -> None:
    longer = RANGE.replace("2025115500", "2025110000")
    found = FORMAT.steps(frozenset({RANGE, longer}))
    assert [(step.files, step.after) for step in found] == [((longer,), TIME_FROM - 3300)]


# -- snapshots -------------------------------------------------------------------------------------------


def test_active_files_become_a_snapshot_with_blocks_spread_out(spool: Path) -> None:
    file = open_type(spool, "snapshot")
    header, *rows = file.path.read_text().splitlines()
    assert header == "tn,network_code,routing_number,donor,ported_at"
    assert (file.rows, file.sequence, file.source) == (1002, CREATED, f"SV.{ACTIVE}")
    assert (len(rows), file.created_at, file.bytes) == (1002, CREATED, file.path.stat().st_size)
    assert rows[:3] == [
        "12125550123,9991,2125550199,,2025-03-01T11:00:00Z",
        "12125550124,999B,6465550100,,2025-02-15T08:00:00Z",  # version 1003, though 1001 stands behind it
        "12125551000,999B,6465550100,,2023-06-01T12:00:00Z",
    ]
    assert rows[7] == "12125551005,9991,2125550199,,2024-12-31T23:59:59Z"  # its own version beats the block's
    assert rows[-1] == "12125551999,999B,6465550100,,2023-06-01T12:00:00Z"
    assert rows == sorted(rows)


@pytest.mark.parametrize("line_end", [b"\r", b"\n", b"\r\n"])
def test_line_ends_make_no_difference(spool: Path, line_end: bytes) -> None:
    whole = open_type(spool, "snapshot").sha256
    for path in spool.glob("*.*"):
        path.write_bytes(path.read_bytes().replace(b"\r", line_end))
    assert open_type(spool, "snapshot").sha256 == whole


def test_record_that_stands_twice_changes_nothing(spool: Path) -> None:
    whole = open_type(spool, "snapshot").sha256
    path = spool / f"SV.{ACTIVE}"
    path.write_bytes(path.read_bytes() * 2)
    assert open_type(spool, "snapshot").sha256 == whole


def test_snapshot_without_blocks_has_the_versions_alone(spool: Path) -> None:
    (spool / f"NPB.{ACTIVE}").unlink()
    assert open_type(spool, "snapshot").rows == 3


def test_spid_file_becomes_networks(spool: Path) -> None:
    path = FORMAT.open_table(steps_of(spool)["networks"], spool)
    assert path.read_text() == (
        "network_code,operator,routing_number,pdb_carrier_id\n"
        '9991,Alpha Telephone,,\n999B,"Beta Wireless, Inc.",,\n'
    )  # fmt: skip


# -- deltas ----------------------------------------------------------------------------------------------


def test_time_range_becomes_a_delta(spool: Path) -> None:
    file = open_type(spool, "delta")
    assert (file.sequence, file.follows, file.source) == (TIME_TO, TIME_FROM, f"SV.{RANGE}")
    assert notices(file) == [
        # The new block, around the number that has a version of its own.
        ("port", "12125552000", "12125552006", "999B", "6465550100"),
        ("port", "12125552008", "12125552999", "999B", "6465550100"),
        ("return", "12125550123", None, None, None),
        ("port", "12125550124", None, "9991", "2125550199"),  # modified
        ("port", "12125550126", None, "999B", "6465550100"),
        ("port", "12125551005", None, "999B", "6465550100"),  # deleted: back to its block
        ("port", "12125552007", None, "9991", "2125550199"),
    ]
    first, *_, last = map(json.loads, file.path.read_text().splitlines())
    assert (first["ref"], first["effective_at"]) == ("NPB 78", "2025-03-01T13:00:00Z")
    assert (last["ref"], last["effective_at"]) == ("SV 1005", "2025-03-01T12:45:00Z")
    assert first["notified_at"] == last["notified_at"] == "2025-03-01T13:05:00Z"


def test_deleted_block_gives_back_the_numbers_without_a_version(spool: Path) -> None:
    (spool / f"NPB.{RANGE}").write_bytes(record("2125551", "", "", reason="1"))
    (spool / f"SV.{RANGE}").write_bytes(record("2125550126"))
    assert notices(open_type(spool, "delta")) == [
        ("return", "12125551000", "12125551004", None, None),
        ("return", "12125551006", "12125551999", None, None),
        ("port", "12125550126", None, "9991", "2125550199"),
    ]


def test_number_deleted_together_with_its_block_returns(spool: Path) -> None:
    (spool / f"NPB.{RANGE}").write_bytes(record("2125551", "", "", reason="1"))
    (spool / f"SV.{RANGE}").write_bytes(record("2125551005", "", "", reason="1"))
    assert ("return", "12125551005", None, None, None) in notices(open_type(spool, "delta"))


def test_highest_version_of_a_number_wins_and_of_equal_ones_the_last(spool: Path) -> None:
    (spool / f"NPB.{RANGE}").unlink()
    (spool / f"SV.{RANGE}").write_bytes(
        record("2125550126", spid="0003", id_=3)
        + record("2125550126", spid="0002", id_=2)
        + record("2125550127", spid="0001", id_=5)
        + record("2125550127", spid="0002", id_=5)
    )
    assert [notice[3] for notice in notices(open_type(spool, "delta"))] == ["0003", "0002"]


def test_files_between_the_active_one_and_the_delta_count(spool: Path) -> None:
    """A version of the hour before, in the block that this hour's file opens, and a block of that hour."""
    later = "212000-212999.01-03-2025140500.01-03-2025125500.01-03-2025140000"
    (spool / f"SV.{later}").write_bytes(record("2125552007", "", "", reason="1", id_=1005))
    assert notices(FORMAT.open(Step("delta", "main", TIME_TO - 300, TIME_TO + 3600, (f"SV.{later}",)), spool, ())) == [
        ("port", "12125552007", None, "999B", "6465550100")
    ]
    (spool / f"NPB.{later}").write_bytes(record("2125550", "6465550100", "999B"))
    step = Step("delta", "main", TIME_TO - 300, TIME_TO + 3600, (f"SV.{later}", f"NPB.{later}"))
    found = notices(FORMAT.open(step, spool, ()))
    # 0123 was deleted meanwhile, so it is the block's; 0124 and 0126 are their own.
    assert [notice[1:3] for notice in found[:-1]] == [
        ("12125550000", "12125550123"),
        ("12125550125", None),
        ("12125550127", "12125550999"),
    ]


def test_delta_without_deletes_or_blocks_needs_no_other_file(spool: Path) -> None:
    for path in spool.iterdir():
        path.unlink()
    (spool / RANGE).write_bytes(record("2125550126"))
    assert notices(open_type(spool, "delta")) == [("port", "12125550126", None, "9991", "2125550199")]


@pytest.mark.parametrize("companion", [True, False])
def test_delta_that_takes_back_needs_the_active_file(spool: Path, companion: bool) -> None:
    for name in (f"SV.{ACTIVE}", f"NPB.{ACTIVE}"):
        (spool / name).unlink()
    if companion:
        (spool / f"SV.{RANGE}").write_bytes(record("2125550126"))
    else:
        (spool / f"NPB.{RANGE}").unlink()
    with pytest.raises(FeedError, match=r"only an active file in the spool can tell: load a fresh active file"):
        open_type(spool, "delta")


def test_delta_that_takes_back_needs_every_file_since_the_active_one(spool: Path) -> None:
    later = "212000-212999.01-03-2025140500.01-03-2025125500.01-03-2025140000"
    (spool / f"SV.{later}").write_bytes(record("2125552007", "", "", reason="1"))
    (spool / f"SV.{RANGE}").unlink()
    with pytest.raises(FeedError, match=r"files after 2025-03-01T12:00:00Z are missing: load a fresh active file"):
        FORMAT.open(Step("delta", "main", TIME_TO - 300, TIME_TO + 3600, (f"SV.{later}",)), spool, ())


def test_delete_without_any_pool_blocks_is_a_return(spool: Path) -> None:
    for path in spool.glob("NPB.*"):
        path.unlink()
    assert ("return", "12125551005", None, None, None) in notices(open_type(spool, "delta"))


# -- what is refused -------------------------------------------------------------------------------------


def edit(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    def edited(text: bytes) -> bytes:
        assert text.count(old) == 1, old
        return text.replace(old, new)

    return edited


@pytest.mark.parametrize(
    ("name", "edited", "line", "reason"),
    [
        (f"SV.{ACTIVE}", lambda text: b"\xef\xbb\xbf" + text, 1, "byte-order mark"),
        (f"SV.{ACTIVE}", lambda text: b"# 4 records\r" + text, 1, "1 fields instead of 18"),
        (f"SV.{ACTIVE}", edit(b"1003|", b"x|"), 3, "version id 'x'"),
        (f"SV.{ACTIVE}", edit(b"|2125551005|", b"|1125551005|"), 2, "TN '1125551005'"),
        (f"SV.{ACTIVE}", edit(b"|2125551005|", b"|2121551005|"), 2, "10 digits of the North American plan"),
        (f"SV.{ACTIVE}", edit(b"|2125551005|", b"|2135551005|"), 2, "outside the range of the file's name"),
        (f"SV.{ACTIVE}", edit(b"|6465550100|", b"|0000000000|"), 3, "a pseudo-LRN of zeros gives no route"),
        (f"SV.{ACTIVE}", edit(b"|6465550100|", b"||"), 3, "LRN ''"),
        (f"SV.{ACTIVE}", edit(b"|999B|", b"|999b|"), 3, "SPID '999b'"),
        (f"SV.{ACTIVE}", edit(b"20250215080000", b"20250229080000"), 3, "20250229: there is no such day"),
        (f"SV.{ACTIVE}", edit(b"20250215080000", b"20250215240000"), 3, "activation time '20250215240000'"),
        (f"SV.{ACTIVE}", edit(b"0001|0|0|||W|\r", b"0001|0|1|||W|\r"), 2, "download reason '1': 0 in an active file"),
        (f"NPB.{ACTIVE}", edit(b"|2125551|", b"|212555|"), 1, "NPA-NXX-X '212555'"),
        (f"NPB.{ACTIVE}", edit(b"|||||||0\r", b"|||||0\r"), 1, "12 fields instead of 14"),
    ],
)
def test_bad_active_file_is_rejected_with_its_line(
    spool: Path, name: str, edited: Callable[[bytes], bytes], line: int, reason: str
) -> None:
    path = spool / name
    path.write_bytes(edited(path.read_bytes()))
    with pytest.raises(Rejected) as refused:
        open_type(spool, "snapshot")
    assert refused.value.rejections[0][0] == line
    assert reason in refused.value.rejections[0][1]
    assert str(refused.value).startswith(f"{name}:{line}: ")
    assert not list(spool.glob("converted/*"))


@pytest.mark.parametrize(
    ("edited", "line", "reason"),
    [
        (edit(b"0001|0|2\r", b"0001|0|4\r"), 5, "download reason '4': 0 to 3"),
        (edit(b"|2125550199|9991|20250301124500|", b"||9991|20250301124500|"), 4, "activation time is empty"),
        (edit(b"|20250301124500|", b"||"), 4, "which it is at most with reason 1"),
        (edit(b"|20250301124500|", b"|20250230124500|"), 4, "20250230: there is no such day"),
    ],
)  # fmt: skip
def test_bad_delta_is_rejected_with_its_line(
    spool: Path, edited: Callable[[bytes], bytes], line: int, reason: str
) -> None:
    path = spool / f"SV.{RANGE}"
    path.write_bytes(edited(path.read_bytes()))
    with pytest.raises(Rejected) as refused:
        open_type(spool, "delta")
    assert refused.value.rejections[0][0] == line
    assert reason in refused.value.rejections[0][1]


@pytest.mark.parametrize("type_", ["snapshot", "delta"])
def test_file_without_records_may_have_been_cut(spool: Path, type_: str) -> None:
    for name in (f"SV.{ACTIVE}", f"SV.{RANGE}"):
        (spool / name).write_bytes(b"")
    with pytest.raises(FeedError, match="no records: empty or cut short"):
        open_type(spool, type_)


@pytest.mark.parametrize("name", [f"SV.{ACTIVE}", f"NPB.{ACTIVE}"])
def test_active_file_cut_inside_a_record_is_refused(spool: Path, name: str) -> None:
    """At a record's end nothing tells; docs/feeds.md says so."""
    path = spool / name
    data = path.read_bytes()
    for cut in range(len(data)):
        path.write_bytes(data[:cut])
        if cut and data[cut - 1 : cut] == b"\r":
            continue
        if cut == 0 and name.startswith("NPB"):
            continue
        with pytest.raises(FeedError):
            open_type(spool, "snapshot")


def test_name_in_a_spid_file_must_be_printable(spool: Path) -> None:
    (spool / f"SPID.{ACTIVE}").write_bytes(b"9991|Alpha|0\r9992||0\r")
    with pytest.raises(Rejected, match=r":2: name '': must be printable and not empty"):
        FORMAT.open_table(steps_of(spool)["networks"], spool)


def test_feed_with_keys_is_refused_since_nothing_is_signed(spool: Path) -> None:
    with pytest.raises(FeedError, match="not signed"):
        FORMAT.open(steps_of(spool)["snapshot"], spool, (PublicKey(b"8 bytes.", b"k" * 32),))


# -- from files to answers -------------------------------------------------------------------------------


def test_files_lead_to_answers(workbench: Workbench, spool: Path) -> None:
    format_ = make_format("npac-bdd", "main", "1", signed=False)
    found = {step.type: step for step in format_.steps(frozenset(path.name for path in VECTORS.iterdir()))}
    engine = Engine(PLAN)

    def ask(number: str) -> tuple[Any, ...]:
        with workbench.reader() as reader:
            engine.reader = reader
            engine.begin(NOW)
            answer = engine.resolve(number)
        route = answer.route
        return answer.outcome, route and route.network_code, route and route.routing_number

    with Writer(workbench.store) as writer:
        networks = read_networks(format_.open_table(found["networks"], spool))
        load_networks(writer, networks, "SPID", NOW)
        file = format_.open(found["snapshot"], spool, ())
        assert apply_snapshot(writer, file, PLAN, NOW, Silent()).applied == 1002
    assert ask("12125551005") == (Outcome.PORTED, "9991", "2125550199")
    assert ask("12125551006") == (Outcome.PORTED, "999B", "6465550100")
    assert ask("12125550123") == (Outcome.PORTED, "9991", "2125550199")
    assert ask("12125552008")[0] is Outcome.NOT_ALLOCATED
    with Writer(workbench.store) as writer:
        file = format_.open(found["delta"], spool, ())
        result = apply_delta(writer, file, PLAN, NOW, Silent(), Terms(moved_free=2000))  # a block is a thousand
        assert (result.result, result.sequence, result.pending) == ("applied", TIME_TO, 0)
        assert apply_delta(writer, file, PLAN, NOW, Silent()).result == "duplicate"
    assert ask("12125551005") == (Outcome.PORTED, "999B", "6465550100")  # back to its block
    assert ask("12125550123")[0] is Outcome.NOT_ALLOCATED
    assert ask("12125552008") == (Outcome.PORTED, "999B", "6465550100")
    assert ask("12125552007") == (Outcome.PORTED, "9991", "2125550199")
