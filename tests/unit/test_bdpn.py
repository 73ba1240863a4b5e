"""BDPN's files: which belong together, what they become, what is refused and why; and the answers they lead to."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from loader.apply import Result, apply_delta, apply_snapshot
from loader.files import FeedFile
from loader.formats import Step, convert, make_format
from loader.formats.bdpn import Bdpn, network_code, parse_file_name, prefixes_of
from loader.tables import load_networks, load_ranges, read_networks, read_ranges
from loader.trust import PublicKey
from lookupd.engine import Engine
from lookupd.errors import FeedError, Rejected, SequenceGap, SourceError
from lookupd.model import Outcome, UnixSeconds
from lookupd.numbering import load_plan
from lookupd.store.writer import Writer
from tests.conftest import Silent, Workbench

VECTORS = Path(__file__).parents[1] / "vectors" / "bdpn"
ALL = "Port_All_202503010000_1299"
FULL = "Port_All_Full_202503010000_1299"
PORTS = "Port_Increment_202503010200_20001"
RETURNS = "Return_Increment_202503010200_20001"
OPERATORS = "Operators_202503010000_31"
PLAN_FILE = "Numbering_Plan_202503010000_77"
AT = 20_000  # the increment whose time is the full files'
NOW = UnixSeconds(1_740_800_000)  # 2025-03-01T03:33:20Z
PORTS_HEADER = (
    "NPId,Number,RecipientId,DonorId,RangeHolderId,OldRoute,NewRoute,OldMNC,NewMNC,RegionCode,PortDate,RowCount\r\n"
)


def vector(name: str) -> bytes:
    return (VECTORS / f"{name}.csv").read_bytes()


def put(spool: Path, name: str, text: bytes, ending: str = "zip") -> str:
    """A file as it comes, in the spool."""
    spool.mkdir(exist_ok=True)
    path = spool / f"{name}.{ending}"
    if ending == "csv":
        path.write_bytes(text)
    else:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(f"{name}.csv", text)
    return path.name


def snapshot_step(name: str) -> Step:
    return Step("snapshot", "main", 0, AT, (name,))


def delta_step(*names: str, sequence: int = AT + 1) -> Step:
    return Step("delta", "main", sequence - 1, sequence, names)


def open_snapshot(spool: Path, text: bytes, name: str = ALL, ending: str = "zip") -> FeedFile:
    return Bdpn("main", "7").open(snapshot_step(put(spool, name, text, ending)), spool, ())


def open_delta(spool: Path, ports: bytes, returns: bytes, ending: str = "zip") -> FeedFile:
    names = put(spool, PORTS, ports, ending), put(spool, RETURNS, returns, ending)
    return Bdpn("main", "7").open(delta_step(*names), spool, ())


# -- names -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind", "made_at", "number"),
    [
        ("Port_All_201710010000_1299.zip", "Port_All", 1_506_805_200, 1299),
        ("Port_All_Full_201710010000_1299.csv", "Port_All_Full", 1_506_805_200, 1299),
        ("Port_Increment_201710010000_16932.zip", "Port_Increment", 1_506_805_200, 16932),
        ("Return_Increment_201807061800_20277.zip", "Return_Increment", 1_530_889_200, 20277),
    ],
)
def test_name_tells_kind_moscow_time_and_number(name: str, kind: str, made_at: int, number: int) -> None:
    file = parse_file_name(name)
    assert file is not None
    assert (file.kind, file.made_at, file.number) == (kind, made_at, number)


@pytest.mark.parametrize(
    "name",
    [
        "Port_All_201710010000_1299",
        "Port_All_201710010000_1299.zip.part",
        "Port_All_201713010000_1299.zip",
        "Port_All_201710012400_1299.zip",
        "Port_All_196910010000_1299.zip",
        "Port_All_201710010000_0.zip",
        "Port_All_201710010000_1234567890123456789.zip",
        "Port_All/Port_All_201710010000_1299.zip",
        "port_all_201710010000_1299.zip",
        "Port_Nothing_201710010000_1299.zip",
        "Port_All_٢٠١٧١٠٠١٠٠٠٠_1299.zip",
    ],
)
def test_other_name_is_passed_over(name: str) -> None:
    assert parse_file_name(name) is None
    assert Bdpn("main", "7").steps(frozenset({name})) == []


def steps(*names: str) -> list[tuple[str, int, int, tuple[str, ...]]]:
    found = Bdpn("main", "7").steps(frozenset(names))
    return [(step.type, step.after, step.sequence, step.files) for step in found]


def test_increment_is_a_step_when_both_its_files_are_there() -> None:
    port, back = "Port_Increment_202503010200_20001.zip", "Return_Increment_202503010200_20001.zip"
    assert steps(port) == steps(back) == []
    assert steps(port, back, "Port_Increment_202503010400_20002.zip") == [("delta", 20000, 20001, (port, back))]


def test_zip_is_taken_rather_than_text_and_a_later_file_rather_than_an_earlier() -> None:
    port, back = "Port_Increment_202503010200_20001", "Return_Increment_202503010200_20001"
    later = "Port_Increment_202503010230_20001.csv"
    assert steps(f"{port}.zip", f"{port}.csv", f"{back}.csv")[0][3] == (f"{port}.zip", f"{back}.csv")
    assert steps(f"{port}.zip", later, f"{back}.csv")[0][3] == (later, f"{back}.csv")


@pytest.mark.parametrize(
    ("increments", "position"),
    [
        (["Port_Increment_202503010000_20000.zip"], 20000),  # of the same moment: contained
        (["Port_Increment_202502282200_19999.zip", "Return_Increment_202503010000_20000.zip"], 20000),
        (["Port_Increment_202502282200_19999.zip", "Port_Increment_202503010200_20001.zip"], 19999),
        (["Port_Increment_202503010200_20001.zip", "Port_Increment_202503010400_20002.zip"], 20000),
        (["Port_Increment_202503010001_20001.zip"], 20000),
        # Four may be missing between the two; taking 20004 for contained would lose them.
        (["Port_Increment_202503011000_20005.zip"], 20000),
        (["Port_Increment_202503011001_20005.zip"], 19999),
        (["Port_Increment_202503010200_1.zip"], None),  # no position before the first
        ([], None),
    ],
)
def test_full_file_is_placed_by_the_increments_listed(increments: list[str], position: int | None) -> None:
    found = [step for step in steps(f"{ALL}.zip", *increments) if step[0] == "snapshot"]
    assert found == ([] if position is None else [("snapshot", 0, position, (f"{ALL}.zip",))])


def test_full_file_with_all_columns_is_used_when_there_is_no_other() -> None:
    increment = "Port_Increment_202503010000_20000.zip"
    assert steps(f"{FULL}.zip", increment) == [("snapshot", 0, 20000, (f"{FULL}.zip",))]
    assert steps(f"{FULL}.zip", f"{ALL}.zip", increment) == [("snapshot", 0, 20000, (f"{ALL}.zip",))]


def test_latest_full_file_of_a_position_is_the_step() -> None:
    later = "Port_All_202503010100_1300.zip"
    assert steps(f"{ALL}.zip", later, "Port_Increment_202503010000_20000.zip")[0][3] == (later,)


def test_tables_are_steps_of_their_own_number() -> None:
    assert steps(f"{OPERATORS}.zip", f"{PLAN_FILE}.zip") == [
        ("networks", 0, 31, (f"{OPERATORS}.zip",)),
        ("ranges", 0, 77, (f"{PLAN_FILE}.zip",)),
    ]


# -- what they become ------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["zip", "csv"])
@pytest.mark.parametrize(("name", "expected"), [(ALL, "expected-snapshot.csv"), (FULL, "expected-snapshot-full.csv")])
def test_full_file_becomes_a_snapshot_of_ours(tmp_path: Path, name: str, expected: str, ending: str) -> None:
    file = open_snapshot(tmp_path, vector(name), name, ending)
    assert file.path == tmp_path / "converted" / "snapshot-main-20000.csv"
    text = file.path.read_bytes()
    assert text.decode() == (VECTORS / expected).read_text()
    assert (file.type, file.feed, file.sequence, file.after) == ("snapshot", "main", AT, 0)
    assert (file.rows, file.bytes, file.source) == (text.count(b"\n") - 1, len(text), f"{name}.{ending}")
    assert file.created_at == 1_740_776_400  # 2025-03-01T00:00:00+03:00
    assert [path.name for path in file.path.parent.iterdir()] == [file.path.name]  # no temporary file is left


def test_increments_become_one_delta_with_returns_first(tmp_path: Path) -> None:
    file = open_delta(tmp_path, vector(PORTS), vector(RETURNS))
    assert file.path == tmp_path / "converted" / "delta-main-20001.ndjson"
    assert file.path.read_text() == (VECTORS / "expected-delta.ndjson").read_text()
    assert (file.type, file.sequence, file.follows, file.rows) == ("delta", AT + 1, AT, 5)
    assert (file.created_at, file.source) == (1_740_783_600, f"{PORTS}.zip")


def test_number_twice_in_an_increment_is_ported_twice_in_the_order_of_the_rows(tmp_path: Path) -> None:
    file = open_delta(tmp_path, edit(b"9001234504", b"9001234502")(vector(PORTS)), vector(RETURNS))
    notices = [json.loads(line) for line in file.path.read_text().splitlines()]
    assert [notice.get("recipient") for notice in notices if notice["tn"] == "79001234502"] == [
        None,  # returned, in the other file
        "ALPHA",
        "DELTMB2W",
    ]


def test_increment_without_rows_is_a_delta_without_notices(tmp_path: Path) -> None:
    names = "Port_Increment_202503010400_20002", "Return_Increment_202503010400_20002"
    step = delta_step(*(put(tmp_path, name, vector(name)) for name in names), sequence=20002)
    file = Bdpn("main", "7").open(step, tmp_path, ())
    assert (file.rows, file.bytes, file.path.read_bytes()) == (0, 0, b"")


@pytest.mark.parametrize(
    ("type_", "name", "expected"),
    [("networks", OPERATORS, "expected-networks.csv"), ("ranges", PLAN_FILE, "expected-ranges.csv")],
)
def test_table_becomes_a_table_of_ours(tmp_path: Path, type_: str, name: str, expected: str) -> None:
    step = Step(type_, "main", 0, 31, (put(tmp_path, name, vector(name)),))  # type: ignore[arg-type]
    path = Bdpn("main", "7").open_table(step, tmp_path)
    assert path.read_text() == (VECTORS / expected).read_text()


@pytest.mark.parametrize("line_end", [b"\r\n", b"\n", b"\r"])
def test_line_ends_make_no_difference(tmp_path: Path, line_end: bytes) -> None:
    file = open_snapshot(tmp_path, vector(ALL).replace(b"\r\n", line_end))
    assert file.path.read_text() == (VECTORS / "expected-snapshot.csv").read_text()


@pytest.mark.parametrize(
    ("operator", "code"),
    [("ALPHA", "ALPHA"), ("mts", "MTS"), ("ABCDEFGH", "ABCDEFGH"), ("ABCDEFGHI", "ABCD3XID"), ("x9", "X9")],
)
def test_operator_has_a_network_code_of_at_most_eight(operator: str, code: str) -> None:
    assert network_code(operator) == code


@pytest.mark.parametrize(
    ("first", "last", "prefixes"),
    [
        (9000000000, 9009999999, ["900"]),
        (9000000000, 9000000000, ["9000000000"]),
        (9000000008, 9000000011, ["9000000008", "9000000009", "9000000010", "9000000011"]),
        (9000000090, 9000000209, ["900000009", "90000001", "900000020"]),
        (0, 9999999999, [""]),
        (100, 199, ["00000001"]),
    ],
)  # fmt: skip
def test_range_has_the_fewest_prefixes(first: int, last: int, prefixes: list[str]) -> None:
    assert list(prefixes_of(first, last)) == prefixes


# -- what is refused -------------------------------------------------------------------------------------


def edit(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    def edited(text: bytes) -> bytes:
        assert text.count(old) == 1, old
        return text.replace(old, new)

    return edited


@pytest.mark.parametrize(
    ("edited", "line", "reason"),
    [
        (lambda text: b"\xef\xbb\xbf" + text, 1, "byte-order mark"),
        (lambda text: b"", 1, "the header must be Number,OwnerId"),
        (edit(b"RowCount", b"RowCount,More"), 1, "the header must be"),
        (edit(b"OwnerId,MNC", b"MNC,OwnerId"), 1, "the header must be"),
        (edit(b"+03:00,3\r", b"+03:00,\r"), 2, "the first row tells the number of rows"),
        (edit(b"+03:00,3\r", b"+03:00,-3\r"), 2, "the first row tells the number of rows"),
        (edit(b"+03:00,3\r", b"+03:00,3,\r"), 2, "8 fields instead of 7"),
        (edit(b"2025-02-01T10:00:18+03:00,\r", b"2025-02-01T10:00:18+03:00,3\r"), 3, "RowCount '3'"),
        (edit(b"9001234502", b"900123450"), 3, "Number '900123450': 10 digits"),
        (edit(b"9001234502", b"4951234502"), 3, "the first a 9"),  # outside the plan: no mobile number
        (edit(b"9001234502", "９001234502".encode()), 3, "Number"),
        (edit(b"mBETA", b"BETA"), 3, "OwnerId 'BETA': an operator is m and"),
        (edit(b"mBETA", b"m"), 3, "OwnerId 'm'"),
        (edit(b"mBETA", b'm"BETA"'), 3, "OwnerId"),
        (edit(b"D2599", b"D2699"), 3, "route D2699: not D, RegionCode 25 and MNC 99"),
        (edit(b"D2599", b"2599"), 3, "Route '2599'"),
        (edit(b",25,", b",26,"), 3, "route D2599: not D, RegionCode 26 and MNC 99"),
        (edit(b"2025-02-01T10:00:18+03:00", b"2025-02-30T10:00:18+03:00"), 3, "'2025-02-30': no day between"),
        (edit(b"2025-02-01T10:00:18+03:00", b"2025-02-01T24:00:18+03:00"), 3, "PortDate"),
        (edit(b"2025-02-01T10:00:18+03:00", b"2025-02-01T10:00:18"), 3, "a time with its offset"),
        (
            edit(b"2025-02-01T10:00:18+03:00", b"1970-01-01T10:00:18+03:00"),
            3,
            "'1970-01-01': no day between 1970-01-02 and 2106-02-06",
        ),
        (edit(b"\r\n9001234502", b"\r\n\r\n9001234502"), 3, "1 fields instead of 7"),
        (edit(b"9001234503", b"9001234501"), 4, "Number 9001234501 stands in line 2 too"),
    ],
)
def test_bad_full_file_is_rejected_with_its_line(
    tmp_path: Path, edited: Callable[[bytes], bytes], line: int, reason: str
) -> None:
    with pytest.raises(Rejected) as refused:
        open_snapshot(tmp_path, edited(vector(ALL)))
    assert refused.value.rejections[0][0] == line
    assert reason in refused.value.rejections[0][1]
    assert str(refused.value).startswith(f"{ALL}.zip:{line}: ")
    assert not list(tmp_path.glob("converted/*"))


def test_every_bad_row_is_told_up_to_twenty(tmp_path: Path) -> None:
    rows = b"".join(b"9001234%03d,BETA,99,D2599,25,2025-02-01T10:00:18+03:00,\r\n" % at for at in range(500, 530))
    with pytest.raises(Rejected) as refused:
        open_snapshot(tmp_path, vector(ALL) + rows)
    assert [line for line, _ in refused.value.rejections] == list(range(5, 25))


@pytest.mark.parametrize("count", [b"2", b"4", b"0", b"999999999"])
def test_wrong_count_asks_for_the_next_full_file(tmp_path: Path, count: bytes) -> None:
    with pytest.raises(FeedError, match=r"3 rows, RowCount says \d+: .*ask for the next full file"):
        open_snapshot(tmp_path, edit(b"+03:00,3\r", b"+03:00,%b\r" % count)(vector(ALL)))
    assert not list(tmp_path.glob("converted/*"))


def test_full_file_without_rows_is_refused(tmp_path: Path) -> None:
    header, _, _ = vector(ALL).partition(b"\n")
    with pytest.raises(FeedError, match="a full file is never empty"):
        open_snapshot(tmp_path, header + b"\n")


def test_refused_file_leaves_the_one_converted_before(tmp_path: Path) -> None:
    before = open_snapshot(tmp_path, vector(ALL))
    with pytest.raises(FeedError):
        open_snapshot(tmp_path, edit(b"+03:00,3\r", b"+03:00,4\r")(vector(ALL)))
    assert before.path.read_text() == (VECTORS / "expected-snapshot.csv").read_text()


@pytest.mark.parametrize(
    ("edited", "reason"),
    [
        (edit(b"1000000099000012", b"10000000990012"), "NPId '10000000990012': 16 digits"),
        (edit(b"mBETA,mALPHA,mBETA,,", b"mBETA,mALPHA,mBETA,X,"), "OldRoute 'X'"),
        (edit(b"mBETA,mALPHA,mBETA,,", b"mBETA,mALPHA,,,"), "RangeHolderId ''"),
        (edit(b",D2599,,99,25,", b",D2598,,99,25,"), "route D2598: not D, RegionCode 25 and MNC 99"),
        (edit(b"2025-03-01T01:30:00", b"2025-13-01T01:30:00"), "'2025-13-01': no day between"),
    ],
)
def test_bad_increment_is_rejected_with_its_line(tmp_path: Path, edited: Callable[[bytes], bytes], reason: str) -> None:
    with pytest.raises(Rejected) as refused:
        open_delta(tmp_path, edited(vector(PORTS)), vector(RETURNS))
    assert refused.value.rejections == [(3, refused.value.rejections[0][1])]
    assert reason in refused.value.rejections[0][1]
    assert str(refused.value).startswith(f"{PORTS}.zip:3: ")


@pytest.mark.parametrize(
    ("edited", "line"),
    [
        (edit(b"9001234503", b"900123450X"), 3),
        (edit(b",,,,,,,,0\r", b",,,,,,,0\r"), 3),
        (edit(b",Number,", b",Other,"), 1),
        (edit(b",RowCount", b",Other"), 1),
        (edit(b"C9,RowCount", b"C9,C10,RowCount"), 1),
    ],
)
def test_bad_return_is_rejected_with_its_line(tmp_path: Path, edited: Callable[[bytes], bytes], line: int) -> None:
    with pytest.raises(Rejected) as refused:
        open_delta(tmp_path, vector(PORTS), edited(vector(RETURNS)))
    assert str(refused.value).startswith(f"{RETURNS}.zip:{line}: ")


@pytest.mark.parametrize(
    ("name", "edited", "line", "reason"),
    [
        (OPERATORS, edit(b"mALPHA", b"mgamma"), 4, "would have network code GAMMA"),
        (OPERATORS, edit(b"mBETA", b"mDELTMB2W"), 6, "would have network code DELTMB2W, as mDELTMB2W"),
        (OPERATORS, edit(b"04,7700000003,Gamma", b"04,7700000003,Other"), 5, "would have network code GAMMA"),
        (OPERATORS, edit("Альфа Телеком".encode(), "Альфа".encode("cp1251")), 2, "not UTF-8"),
        (OPERATORS, edit("Альфа Телеком".encode(), b" "), 2, "must be printable and not empty"),
        (OPERATORS, edit("Альфа Телеком".encode(), b"A\x07"), 2, "must be printable and not empty"),
        (OPERATORS, edit(b"04,7700000003,Gamma", b"04,7700000003,Gamma, Inc."), 5, "6 fields instead of 5"),
        (PLAN_FILE, edit(b"9004999999", b"8999999999"), 2, "runs backwards"),
        (PLAN_FILE, edit(b"9004999999", b"9005000000"), 3, "overlaps the one in line 2"),
        (PLAN_FILE, edit(b"mGAMMA", b"GAMMA"), 5, "OwnerId 'GAMMA'"),
    ],
)
def test_bad_table_is_rejected_with_its_line(
    tmp_path: Path, name: str, edited: Callable[[bytes], bytes], line: int, reason: str
) -> None:
    step = Step(
        "networks" if name == OPERATORS else "ranges", "main", 0, 31, (put(tmp_path, name, edited(vector(name))),)
    )
    with pytest.raises(Rejected) as refused:
        Bdpn("main", "7").open_table(step, tmp_path)
    assert refused.value.rejections[0][0] == line
    assert reason in refused.value.rejections[0][1]


# -- damage ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["csv", "zip"])
@pytest.mark.parametrize("name", [ALL, FULL])
def test_full_file_cut_anywhere_is_refused_or_loses_nothing(tmp_path: Path, name: str, ending: str) -> None:
    whole = open_snapshot(tmp_path, vector(name), name, ending).sha256
    path = tmp_path / f"{name}.{ending}"
    data = path.read_bytes()
    for cut in range(len(data)):
        path.write_bytes(data[:cut])
        try:
            file = Bdpn("main", "7").open(snapshot_step(path.name), tmp_path, ())
        except FeedError:
            continue
        assert (cut, file.sha256) == (len(data) - 1, whole)  # only the LF of the last CRLF is gone
        assert ending == "csv"


@pytest.mark.parametrize("cut_name", [PORTS, RETURNS])
def test_increment_cut_anywhere_is_refused_or_loses_nothing(tmp_path: Path, cut_name: str) -> None:
    whole = open_delta(tmp_path, vector(PORTS), vector(RETURNS), "csv").sha256
    data = vector(cut_name)
    for cut in range(len(data)):
        (tmp_path / f"{cut_name}.csv").write_bytes(data[:cut])
        try:
            file = Bdpn("main", "7").open(delta_step(f"{PORTS}.csv", f"{RETURNS}.csv"), tmp_path, ())
        except FeedError:
            continue
        assert (cut, file.sha256) == (len(data) - 1, whole)


def test_zip_with_any_byte_changed_is_refused_or_loses_nothing(tmp_path: Path) -> None:
    whole = open_snapshot(tmp_path, vector(ALL)).sha256
    path = tmp_path / f"{ALL}.zip"
    data = path.read_bytes()
    for at in range(len(data)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x41]) + data[at + 1 :])
        try:
            file = Bdpn("main", "7").open(snapshot_step(path.name), tmp_path, ())
        except FeedError:
            continue
        assert file.sha256 == whole, at


def test_text_that_is_only_a_header_may_have_been_cut(tmp_path: Path) -> None:
    with pytest.raises(FeedError, match="a header and no row: empty or cut short"):
        open_delta(tmp_path, PORTS_HEADER.encode(), vector(RETURNS), "csv")


def test_last_line_without_its_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FeedError, match="the last line has no end"):
        open_snapshot(tmp_path, vector(ALL).removesuffix(b"\r\n"))


def test_line_without_an_end_in_sight_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FeedError, match="a line has over 4096 bytes"):
        open_snapshot(tmp_path, vector(ALL) + b"9" * 10_000)


@pytest.mark.parametrize(
    "members",
    [{}, {"Other.csv": b"x"}, {f"{ALL}.csv": b"x", "more.csv": b"x"}, {f"../{ALL}.csv": b"x"}, {f"{ALL}.CSV": b"x"}],
)
def test_zip_holds_the_csv_of_its_name_and_nothing_else(tmp_path: Path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(tmp_path / f"{ALL}.zip", "w") as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    with pytest.raises(FeedError, match=f"must hold {ALL}.csv and nothing else"):
        Bdpn("main", "7").open(snapshot_step(f"{ALL}.zip"), tmp_path, ())


def test_encrypted_zip_is_refused(tmp_path: Path) -> None:
    path = tmp_path / put(tmp_path, ALL, vector(ALL))
    data = bytearray(path.read_bytes())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + flags] |= 1
    path.write_bytes(data)
    with pytest.raises(FeedError, match="encrypted"):
        Bdpn("main", "7").open(snapshot_step(path.name), tmp_path, ())


def test_zip_of_another_method_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / f"{ALL}.zip", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr(f"{ALL}.csv", vector(ALL))
    with pytest.raises(FeedError, match="compression method 14"):
        Bdpn("main", "7").open(snapshot_step(f"{ALL}.zip"), tmp_path, ())


@pytest.mark.parametrize("declared", [None, 100])
def test_zip_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, declared: int | None) -> None:
    """declared: a length that lies, so that only reading shows it."""
    monkeypatch.setattr(convert, "TEXT_BYTES_MAX", 1_000_000)
    path = tmp_path / put(tmp_path, ALL, vector(ALL) + b"\n" * 1_000_000)
    assert path.stat().st_size < 10_000
    if declared is not None:
        data = bytearray(path.read_bytes())
        for signature, length in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
            at = data.index(signature) + length
            data[at : at + 4] = declared.to_bytes(4, "little")
        path.write_bytes(data)
    with pytest.raises(FeedError, match=r"grows beyond 1000000 bytes|not a whole zip"):
        Bdpn("main", "7").open(snapshot_step(path.name), tmp_path, ())


def test_missing_file_is_refused(tmp_path: Path) -> None:
    for ending in ("zip", "csv"):
        with pytest.raises(FeedError, match="No such file"):
            Bdpn("main", "7").open(snapshot_step(f"{ALL}.{ending}"), tmp_path, ())


def test_feed_with_keys_is_refused_since_nothing_is_signed(tmp_path: Path) -> None:
    step = snapshot_step(put(tmp_path, ALL, vector(ALL)))
    with pytest.raises(FeedError, match=r"not signed: take public_key out of feed\.main"):
        Bdpn("main", "7").open(step, tmp_path, (PublicKey(b"8 bytes.", b"k" * 32),))


# -- from files to answers -------------------------------------------------------------------------------

PLAN = load_plan("7")


def apply_steps(workbench: Workbench) -> list[tuple[str, Result | None]]:
    """Everything in the spool, as a sync does it: tables, then the snapshot, then what follows."""
    spool = workbench.folder / "spool"
    format_ = make_format("bdpn", "main", "7", signed=False)
    done: list[tuple[str, Result | None]] = []
    found = format_.steps(frozenset(path.name for path in spool.iterdir() if path.is_file()))
    with Writer(workbench.store) as writer:
        for step in sorted(found, key=lambda step: (step.type not in {"networks", "ranges"}, step.sequence)):
            result = None
            if step.type == "networks":
                load_networks(writer, read_networks(format_.open_table(step, spool)), step.name, NOW)
            elif step.type == "ranges":
                load_ranges(writer, read_ranges(format_.open_table(step, spool)), step.name, NOW)
            elif step.type == "snapshot":
                result = apply_snapshot(writer, format_.open(step, spool, ()), PLAN, NOW, Silent())
            elif step.sequence > AT:
                result = apply_delta(writer, format_.open(step, spool, ()), PLAN, NOW, Silent())
            done.append((step.type, result))
    return done


def test_files_of_a_day_lead_to_answers(workbench: Workbench) -> None:
    spool = workbench.folder / "spool"
    for path in VECTORS.glob("*_*.csv"):
        put(spool, path.stem, path.read_bytes())
    done = apply_steps(workbench)
    assert [(type_, result and (result.result, result.applied, result.sequence)) for type_, result in done] == [
        ("networks", None),
        ("ranges", None),
        ("delta", None),
        ("snapshot", ("applied", 3, 20000)),
        ("delta", ("applied", 5, 20001)),
        ("delta", ("applied", 0, 20002)),
    ]
    engine = Engine(PLAN)
    with workbench.reader() as reader:
        engine.reader = reader
        engine.begin(NOW)
        answers = {}
        for number in ("79001234501", "79001234502", "79001234503", "79001234504", "79010002003", "79010002009"):
            answer = engine.resolve(number)
            route = answer.route
            answers[number] = (answer.outcome, route and route.network_code, route and route.routing_number)
        assert reader.state.feeds["main"].sequence == 20002
    assert answers == {
        "79001234501": (Outcome.NOT_PORTED, "ALPHA", None),  # ported home: RecipientId is RangeHolderId
        "79001234502": (Outcome.PORTED, "DELTMB2W", "D7805"),  # returned, then ported again
        "79001234503": (Outcome.NOT_PORTED, "ALPHA", None),  # returned
        "79001234504": (Outcome.PORTED, "ALPHA", "D7702"),
        "79010002003": (Outcome.NOT_PORTED, "GAMMA", None),
        "79010002009": (Outcome.NOT_ALLOCATED, None, None),
    }


def test_delta_after_a_missing_one_is_a_gap(workbench: Workbench) -> None:
    spool = workbench.folder / "spool"
    for name in (OPERATORS, PLAN_FILE, ALL, "Port_Increment_202503010000_20000"):
        put(spool, name, vector(name))
    apply_steps(workbench)
    names = [put(spool, name, vector(name)) for name in ("Port_Increment_202503010400_20002",
                                                         "Return_Increment_202503010400_20002")]  # fmt: skip
    file = Bdpn("main", "7").open(delta_step(*names, sequence=20002), spool, ())
    state = workbench.state()
    with Writer(workbench.store) as writer, pytest.raises(SequenceGap, match="the next delta is 20001"):
        apply_delta(writer, file, PLAN, NOW, Silent())
    assert workbench.state() == state


def test_operator_that_is_not_in_the_networks_table_is_named(workbench: Workbench) -> None:
    spool = workbench.folder / "spool"
    put(spool, OPERATORS, vector(OPERATORS))
    apply_steps(workbench)
    file = open_snapshot(spool, edit(b"mBETA", b"mNOBODY")(vector(ALL)))
    with Writer(workbench.store) as writer, pytest.raises(Rejected) as refused:
        apply_snapshot(writer, file, PLAN, NOW, Silent())
    assert refused.value.rejections[0][0] == 3
    assert "'NOBODY' is not in the networks table" in refused.value.rejections[0][1]
    assert str(refused.value).startswith(f"{ALL}.zip:3: ")


def test_spool_that_cannot_be_written_is_not_the_files_fault(tmp_path: Path) -> None:
    (tmp_path / "converted").write_text("in the way")
    with pytest.raises(SourceError, match=r"^spool: .*snapshot-main-20000\.csv: "):
        open_snapshot(tmp_path, vector(ALL))
