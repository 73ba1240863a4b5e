"""`lookupd batch`: every row comes back with the answer of its number, whatever the list looks like."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import time
from pathlib import Path

import pytest
import zstandard

from lookupd.batch import BatchOptions, BatchSummary, run_batch
from lookupd.batch.numbers import NotANumber, read_cell
from lookupd.batch.resolvers import StoreResolver
from lookupd.errors import BatchError
from lookupd.limits import BATCH_ROW_BYTES_MAX
from lookupd.units import format_time
from tests.conftest import PLAN, Workbench, free_port, run_cli, run_daemon

MIB = 1 << 20
FOUND_OUT = BatchOptions()


@pytest.fixture(params=["native", "python"])
def engine(request: pytest.FixtureRequest) -> str:
    """Both must write the same bytes."""
    return str(request.param)


class Batches:
    """Lists answered from a loaded store."""

    def __init__(self, bench: Workbench, folder: Path, native: bool) -> None:
        self.folder = folder
        self.store = bench.store
        self.native = native

    def run(
        self, text: str | bytes, options: BatchOptions = FOUND_OUT, split: Path | None = None
    ) -> tuple[bytes, BatchSummary]:
        source, out = self.folder / "in.csv", self.folder / "out.csv"
        source.write_bytes(text if isinstance(text, bytes) else text.encode())
        resolver = StoreResolver(self.store, 64 * MIB, PLAN, native=self.native)
        try:
            summary = run_batch(source, out, resolver, options, split=split)
        finally:
            resolver.close()
        return out.read_bytes(), summary

    def notes(self, text: str | bytes, options: BatchOptions = FOUND_OUT) -> list[str]:
        out, _ = self.run(text, options)
        return [row["note"] for row in csv.DictReader(io.StringIO(out.decode()))]


@pytest.fixture
def batches(loaded: Workbench, tmp_path: Path, engine: str) -> Batches:
    return Batches(loaded, tmp_path, engine == "native")


@pytest.mark.parametrize(
    "written",
    [
        "0912345678",
        "+886912345678",
        "886912345678",
        "00886912345678",
        "002886912345678",
        "002 886 912 345 678",
        "+886 912-345-678",
        "+886 (0)912 345 678",
        "(0912) 345.678",
        "'0912345678",
        " 0912345678 ",
        "０９１２３４５６７８",
        "＋８８６－９１２－３４５－６７８",
    ],
)
def test_number_is_read_however_people_write_it(written: str) -> None:
    assert read_cell(written, PLAN) == "886912345678"


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("", "empty"),
        ("  ", "empty"),
        ("9.12346E+11", "a spreadsheet cut its digits: format the column as text"),
        ("8.86912345678e11", "a spreadsheet cut its digits: format the column as text"),
        ("912345678.0", "a decimal number: format the column as text"),
        ("912345678", "its leading 0 is lost: format the column as text"),
        ("0019255550100", "an international prefix to another country: write + in its place"),
        ("0912-345-67a", "not a number"),
        ("0912345678\x00", "not a number"),
        ("0912345678/0923456789", "not a number"),
        ("++886912345678", "not a number"),
        ("110", "not an E.164 number"),
        ("1" * 16, "not an E.164 number"),
        ("1" * 65, "longer than 64 characters"),
        ("٠٩١٢٣٤٥٦٧٨", "not a number"),
    ],
)
def test_what_is_no_number_is_told_why(written: str, reason: str) -> None:
    with pytest.raises(NotANumber) as caught:
        read_cell(written, PLAN)
    assert str(caught.value) == reason


def test_row_comes_back_as_it_was_with_its_answer_behind(batches: Batches) -> None:
    text = '姓名,門號,備註\r\n王小明,0912345678,"a, b"\r\n李四, +886 923-456-789,""""\r\n五,0911111111,"x\ny"\r\n'
    out, summary = batches.run(text)
    assert out.decode() == (
        "姓名,門號,備註,outcome,network_code,routing_number,operator,restriction,tn,note\r\n"
        '王小明,0912345678,"a, b",ported,1402,D0402,Beta Mobile,,886912345678,\r\n'
        '李四, +886 923-456-789,"""",ported,1401,D9999,Alpha Telecom,,886923456789,\r\n'
        '五,0911111111,"x\ny",not_ported,1401,D0401,Alpha Telecom,,886911111111,\r\n'
    )
    assert (summary.rows, summary.outcomes, summary.networks) == (
        3,
        {"not_ported": 1, "ported": 2},
        {"1401": 2, "1402": 1},
    )
    assert (summary.serial, summary.bad, summary.duplicates) == (3, 0, 0)


def test_row_tells_the_kind_of_the_restriction_that_is_in_force(loaded: Workbench, batches: Batches) -> None:
    now = int(time.time())
    placed = {"kind": "restrict", "authority": "NPA", "notified_at": format_time(now - 60)}
    loaded.delta(
        placed | {"tn": "886912345678", "case": "1", "measure": "alert"},
        placed | {"tn": "886912345678", "case": "2", "measure": "limit"},
        placed | {"tn": "886911111100", "tn_to": "886911111111", "case": "3", "measure": "no_roaming"},
        placed | {"tn": "886923456789", "case": "4", "measure": "stop", "from": format_time(now + 1000)},
        sequence=2,
    )
    out, _ = batches.run("n\n0912345678\n0911111111\n0923456789\n0911111112\n")
    told = [(row["outcome"], row["restriction"]) for row in csv.DictReader(io.StringIO(out.decode()))]
    assert told == [("ported", "limit"), ("not_ported", "no_roaming"), ("ported", ""), ("not_ported", "")]


def test_bad_row_stays_in_its_place_and_is_told(batches: Batches) -> None:
    out, summary = batches.run("number,name\n0912345678,a\n9.12346E+11,b\n0931111111,c\n")
    rows = out.decode().splitlines()
    assert rows[2] == "9.12346E+11,b,,,,,,,bad number: a spreadsheet cut its digits: format the column as text"
    assert rows[3] == "0931111111,c,not_allocated,,,,,886931111111,"
    assert [(bad.row, bad.reason) for bad in summary.bad_rows] == [
        (3, "a spreadsheet cut its digits: format the column as text")
    ]
    assert summary.networks == {"1402": 1, "none": 2}


def test_repeated_number_names_the_row_that_had_it_first(batches: Batches) -> None:
    text = "number\n0912345678\n0923456789\n+886 912 345 678\n886912345678\n"
    assert batches.notes(text) == ["", "", "duplicate of row 2", "duplicate of row 2"]
    assert batches.run(text)[1].duplicates == 2


def test_rows_with_other_columns_than_the_first_are_told(batches: Batches) -> None:
    notes = batches.notes("name,number,x\na,0912345678,\nb\nc,0923456789\nd,0911111111,,e\n")
    assert notes[:3] == ["", "bad number: the row has no column 2", ""]
    out, _ = batches.run("name,number,x\na,0912345678,\nc,0923456789\nd,0911111111,,e\n")
    assert out.decode().splitlines()[2].startswith("c,0923456789,,ported")
    assert out.decode().splitlines()[3] == "d,0911111111,,e,,,,,,,bad number: 4 columns instead of 3"


@pytest.mark.parametrize(("ending", "last"), [("\n", True), ("\r\n", True), ("\r", True), ("\n", False)])
def test_line_ends_stay_as_they_were(batches: Batches, ending: str, last: bool) -> None:
    text = ending.join(["number", "0912345678", "0923456789"]) + (ending if last else "")
    out, summary = batches.run(text)
    assert summary.rows == 2
    assert out.count(ending.encode()) == text.count(ending)
    assert out.endswith(ending.encode()) == last


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_separator_is_found_out(batches: Batches, separator: str) -> None:
    out, summary = batches.run(separator.join(["name", "number"]) + "\n" + separator.join(["a", "0912345678"]) + "\n")
    assert summary.outcomes == {"ported": 1}
    assert out.decode().splitlines()[1] == separator.join(
        ["a", "0912345678", "ported", "1402", "D0402", "Beta Mobile", "", "886912345678", ""]
    )


def test_list_without_header_gets_none(batches: Batches) -> None:
    out, summary = batches.run("0912345678\n0912345678\n")
    assert out.decode().splitlines()[1].endswith("duplicate of row 1")
    assert summary.rows == 2


def test_names_of_added_columns_give_way_to_the_list_s_own(batches: Batches) -> None:
    out, _ = batches.run("tn,note\n0912345678,x\n")
    assert out.decode().splitlines()[0] == (
        "tn,note,lookupd_outcome,lookupd_network_code,lookupd_routing_number,lookupd_operator,"
        "lookupd_restriction,lookupd_tn,lookupd_note"
    )


def test_mark_and_big5_and_utf_16_are_read(batches: Batches) -> None:
    text = "姓名,電話號碼\n王功蓋,0912345678\n許,０９２３４５６７８９\n"
    marked, _ = batches.run(b"\xef\xbb\xbf" + text.encode())
    assert marked.startswith("\ufeff姓名,電話號碼,outcome".encode())
    big5, summary = batches.run(text.encode("cp950"), BatchOptions(encoding="big5"))
    assert summary.outcomes == {"ported": 2}
    assert big5.decode("cp950") == marked.decode("utf-8-sig")
    wide, summary = batches.run(text.encode("utf-16"))
    assert summary.outcomes == {"ported": 2}
    assert wide == marked


def test_list_of_another_encoding_is_refused_with_the_option_to_give(batches: Batches) -> None:
    with pytest.raises(BatchError, match="--encoding big5"):
        batches.run("姓名,門號\n王小明,0912345678\n".encode("cp950"))


def test_single_row_of_another_encoding_is_reported(batches: Batches) -> None:
    text = "名,number\n".encode() + "王,0912345678\n".encode() + b"\xa4\xff,0923456789\n"
    out, summary = batches.run(text)
    assert summary.bad_rows[0].reason == "not utf-8 text"
    assert b"\n\xa4\xff,0923456789," in out


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.ZstdCompressor().compress], ids=["gzip", "zstd"])
def test_compressed_list_is_unpacked(batches: Batches, pack: object) -> None:
    assert callable(pack)
    _, summary = batches.run(pack(b"number\n0912345678\n"))
    assert summary.outcomes == {"ported": 1}


def test_torn_compressed_list_is_refused(batches: Batches) -> None:
    with pytest.raises(BatchError, match="cannot be unpacked"):
        batches.run(gzip.compress(b"number\n0912345678\n" * 100)[:-12])
    assert not (batches.folder / "out.csv").exists()


@pytest.mark.parametrize("text", ["", "\ufeff"])
def test_empty_list_gives_an_empty_one(batches: Batches, text: str) -> None:
    out, summary = batches.run(text)
    assert (out.decode(), summary.rows, summary.serial) == (text, 0, None)


def test_row_of_five_megabytes_is_one_bad_row_and_the_next_is_answered(batches: Batches) -> None:
    text = b"number,name\n0912345678,a\n" + b"x" * (5 * MIB) + b"\r\n0923456789,b\n"
    out, summary = batches.run(text)
    assert summary.bad_rows[0].reason == f"the row is longer than {BATCH_ROW_BYTES_MAX} bytes"
    assert summary.outcomes == {"ported": 2}
    assert out.decode().splitlines()[2].startswith(",,,,,,,,bad number: the row is longer")
    assert len(out.splitlines()) == 4


def test_quote_that_is_never_closed_costs_one_row(batches: Batches) -> None:
    rows = "".join(f"09123{at:05},n{at}\n" for at in range(20_000))
    out, summary = batches.run('number,name\n0912345678,"open\n' + rows)
    assert summary.rows == 20_001
    assert out.decode().splitlines()[1].startswith('0912345678,"open,ported')


def test_nul_bytes_are_no_number(batches: Batches) -> None:
    assert batches.notes(b"number,x\n09123\x0045678,\n0912345678,\x00\n") == ["bad number: not a number", ""]


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        ("a,b\n0912345678,0923456789\n", BatchOptions(), "several columns hold numbers: name it with --column"),
        ("a,b\nx,y\n", BatchOptions(), "no column is seen to hold the numbers: name it with --column; there are: a, b"),
        ("x" * 70_000 + "\n0912345678\n", BatchOptions(), "the first row is longer than 65536 bytes"),
        ("a,b\nx,y\n", BatchOptions(column="c"), "--column c: no such column; there are: a, b"),
        ("a,b\nx,y\n", BatchOptions(column=3), "--column 3: no such column"),
        ("a\n1\n", BatchOptions(encoding="koi8"), "--encoding koi8: one of"),
        ("a\n1\n", BatchOptions(separator="x"), "--separator 'x': one of"),
    ],
    ids=["several", "none", "too_long", "no_such_name", "no_such_place", "encoding", "separator"],
)
def test_list_that_cannot_be_read_as_asked_is_refused(
    batches: Batches, text: str, options: BatchOptions, said: str
) -> None:
    with pytest.raises(BatchError) as caught:
        batches.run(text, options)
    assert said in str(caught.value)


def test_split_gives_each_network_its_rows_and_a_summary(batches: Batches, tmp_path: Path) -> None:
    split = tmp_path / "split"
    batches.run("number\n0912345678\n0923456789\nx\n0911111111\n", split=split)
    found = {path.name: path.read_text().splitlines() for path in split.glob("*.csv")}
    assert sorted(found) == ["1401.csv", "1402.csv", "none.csv"]
    assert [row.split(",")[0] for row in found["1401.csv"]] == ["number", "0923456789", "0911111111"]
    assert [row.split(",")[0] for row in found["none.csv"]] == ["number", "x"]
    assert json.loads((split / "summary.json").read_text())["rows"] == 4
    assert sum(len(rows) - 1 for rows in found.values()) == 4


def test_output_may_not_be_the_input(loaded: Workbench, tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_text("number\n0912345678\n")
    done = run_cli("lookupd.cli", "batch", source, "-o", source, "--store", loaded.store, "--force")
    assert (done.returncode, "is the input" in done.stderr) == (1, True)
    assert source.read_text() == "number\n0912345678\n"


def test_command_tells_and_refuses_to_replace(loaded: Workbench, tmp_path: Path) -> None:
    source, out = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text("number\n0912345678\nx\n")
    asked = ("batch", source, "-o", out, "--store", loaded.store)
    done = run_cli("lookupd.cli", *asked, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert (told["outcomes"], told["bad"]) == ({"ported": 1}, 1)
    assert told["digest"]
    assert os.listdir(tmp_path / "").count("out.csv.checkpoint") == 0
    again = run_cli("lookupd.cli", *asked)
    assert (again.returncode, "is there already" in again.stderr) == (1, True)
    assert run_cli("lookupd.cli", *asked, "--force").returncode == 0


def test_batch_begins_at_its_time(loaded: Workbench, tmp_path: Path) -> None:
    source, out = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text("number\n0912345678\n")
    begin = int(time.time()) + 2
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(begin))
    done = run_cli("lookupd.cli", "batch", source, "-o", out, "--store", loaded.store, "--at", at)
    assert done.returncode == 0
    assert out.stat().st_mtime >= begin


@pytest.mark.parametrize("scheme", ["udp", "tcp", "http"])
def test_daemon_answers_the_same_bytes_as_its_store(loaded: Workbench, tmp_path: Path, scheme: str) -> None:
    port = free_port()
    source, asked, read = tmp_path / "in.csv", tmp_path / "asked.csv", tmp_path / "read.csv"
    source.write_text("number,x\n0912345678,\n0923456789,\n0931111111,\nbad,\n+81312345678,\n" + "0911111111,\n" * 500)
    listen = f'npq = ["udp://127.0.0.1:{port}", "tcp://127.0.0.1:{port}"]\nhttp = "http://127.0.0.1:{port + 1}"'
    url = f"{scheme}://127.0.0.1:{port + (scheme == 'http')}"
    with run_daemon(loaded.config(listen=listen)):
        done = run_cli("lookupd.cli", "batch", source, "-o", asked, "--server", url)
        assert done.returncode == 0, done.stderr
    assert run_cli("lookupd.cli", "batch", source, "-o", read, "--store", loaded.store).returncode == 0
    assert asked.read_bytes() == read.read_bytes()
