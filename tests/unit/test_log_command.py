"""`lookupd log`: all files in order, on over turns, damaged lines, masked numbers, and what a terminal is not sent."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from lookupd.query_log_reader import LogReader
from lookupd.query_record import Record
from lookupd.rotation import RotatingFile, names
from tests.conftest import run_cli

BASE = Record(
    "2026-03-01T01:00:00.250Z", "exchange", "pdb", "udp", "+88691234****", "ported", None, "1402", "D0402", 7,
    "192.0.2.1", 31,
)  # fmt: skip


def line(**changed: object) -> bytes:
    return msgspec.json.encode(msgspec.structs.replace(BASE, **changed)) + b"\n"


def at(second: int) -> str:
    return f"2026-03-01T01:00:{second:02}.000Z"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Three files with two records each; the current one's second is of another client and dialect."""
    path = tmp_path / "queries.ndjson"
    for name, first in ((f"{path}.2", 0), (f"{path}.1", 2), (path, 4)):
        Path(name).write_bytes(line(time=at(first)) + line(time=at(first + 1), client="b", dialect="sip"))
    return path


def ask(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return run_cli("lookupd.cli", "log", *arguments)


def shown(*arguments: str | Path) -> list[dict[str, object]]:
    done = ask(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return [json.loads(text) for text in done.stdout.splitlines()]


def seconds(found: list[dict[str, object]]) -> list[int]:
    return [int(str(record["time"])[17:19]) for record in found]


# -- what is shown ---------------------------------------------------------------------------------------


def test_all_files_are_read_the_oldest_record_first(log: Path) -> None:
    assert seconds(shown(log)) == [0, 1, 2, 3, 4, 5]
    assert list(shown(log)[0]) == list(Record.__struct_fields__)


def test_text_is_a_line_for_each_record(log: Path) -> None:
    assert ask(log).stdout.splitlines()[0] == (
        "2026-03-01T01:00:00.000Z exchange pdb/udp +88691234**** ported network_code=1402 routing_number=D0402 "
        "serial=7 source=192.0.2.1 reply_us=31"
    )


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (("--client", "b"), [1, 3, 5]),
        (("--dialect", "pdb"), [0, 2, 4]),
        (("--outcome", "unavailable"), []),
        (("--since", "2026-03-01T09:00:03+08:00"), [3, 4, 5]),
        (("--until", "2026-03-01T01:00:03Z"), [0, 1, 2]),
        (("--since", "1m"), []),
        (("--limit", "2"), [4, 5]),
        (("--limit", "2", "--client", "exchange"), [2, 4]),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_options_choose_records(log: Path, options: tuple[str, ...], found: list[int]) -> None:
    assert seconds(shown(log, *options)) == found


def test_configuration_names_the_log(log: Path, tmp_path: Path) -> None:
    config = tmp_path / "a.toml"
    config.write_text(f'[query_log]\npath = "{log}"\n')
    assert len(shown("--config", config)) == 6
    config.write_text("")
    done = ask("--config", config)
    assert (done.returncode, done.stderr) == (1, f"error: {config}: query_log.path is not set: no query is logged\n")


@pytest.mark.parametrize("number", ["0912345678", "+886 912-34-9999"])
def test_masked_number_is_found_by_its_first_digits_and_that_is_told(log: Path, number: str) -> None:
    done = ask(log, "--number", number, "--json")
    assert {json.loads(text)["match"] for text in done.stdout.splitlines()} == {"prefix"}
    assert len(done.stdout.splitlines()) == 6
    assert done.stderr == "note: masked numbers match by their first digits, +88691234: they may be others\n"


def test_whole_number_is_found_by_all_its_digits_and_no_other_length(log: Path) -> None:
    log.write_bytes(line(number="+886912345678") + line(number="+886912345679") + line(number=None))
    done = ask(log, "--number", "0912345678", "--since", "2026-03-01T01:00:00.2Z", "--json")
    assert [json.loads(text)["number"] for text in done.stdout.splitlines()] == ["+88691234****"] * 4 + [
        "+886912345678"
    ]
    assert [json.loads(text)["match"] for text in done.stdout.splitlines()][-1] == "number"
    assert ask(log, "--number", "0223450000", "--json").stdout == ""


def test_nothing_from_the_file_reaches_a_terminal_unescaped(log: Path) -> None:
    log.write_bytes(line(client="\x1b]0;owned\x07", source="\u202e1.2\r\n.3", network_code="\x9b2J"))
    done = ask(log, "--limit", "1")
    assert done.stdout.isascii()
    assert all(character.isprintable() or character == "\n" for character in done.stdout)
    assert len(done.stdout.splitlines()) == 1


# -- damage ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage",
    [b"{\n", b"\0" * 100 + b"\n", b'{"time":1}\n', b"\xff\xfe\n", line()[:-20] + b"\n", b"x" * 40_000 + b"\n", b"[]\n"],
    ids=["cut", "zeros", "types", "no utf-8", "torn", "long", "array"],
)
def test_damaged_line_is_left_out_and_counted(log: Path, damage: bytes) -> None:
    log.write_bytes(line() + damage + line())
    done = ask(log, "--json")
    assert len(done.stdout.splitlines()) == 6
    assert done.stderr == "note: 1 damaged line was left out\n"


def test_line_that_is_being_written_is_no_damage_but_the_end_of_an_old_file_is(log: Path) -> None:
    log.write_bytes(line() + line()[:-30])
    done = ask(log)
    assert (len(done.stdout.splitlines()), done.stderr) == (5, "")
    Path(f"{log}.1").write_bytes(line() + line()[:-30])
    assert ask(log).stderr == "note: 1 damaged line was left out\n"


@pytest.mark.parametrize("what", ["nothing", "a folder", "not ours"])
def test_log_that_cannot_be_read_is_told(tmp_path: Path, what: str) -> None:
    path = tmp_path / "queries.ndjson"
    if what == "a folder":
        path.mkdir()
    if what == "not ours":
        path = tmp_path / "no" / "folder"
    done = ask(path, "--json")
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {path}: ")
    assert json.loads(done.stdout)["result"] == "failed"


def test_options_that_cannot_be_are_usage(log: Path) -> None:
    for arguments in ((), (log, "--config", log), (log, "--since", "yesterday"), (log, "--number", "abc")):
        assert ask(*arguments).returncode == 2, arguments


# -- following -------------------------------------------------------------------------------------------


def take(reader: LogReader) -> list[str]:
    return [record.client for record in reader.read()]


@pytest.fixture
def file(tmp_path: Path) -> Iterator[RotatingFile]:
    made = RotatingFile(tmp_path / "queries.ndjson", size_max=400, files=4, free_min=0)
    yield made
    made.close()


def test_reader_goes_on_over_turns_and_loses_nothing(file: RotatingFile) -> None:
    file.append(line(client="0"))
    with LogReader(file.path) as reader:
        assert take(reader) == ["0"]
        for at_once in (1, 2, 3, 4, 6):  # a file holds one record
            asked = [f"{at_once}.{each}" for each in range(at_once)]
            for client in asked:
                file.append(line(client=client))
            found = [client for _ in range(3) for client in take(reader)]
            if at_once < 4:
                assert found == asked
                assert not reader.is_broken
        assert found == asked[-4:]  # the first two are gone
        assert reader.is_broken
        assert reader.damaged == 0


def test_torn_line_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "queries.ndjson"
    path.write_bytes(line(client="0") + line(client="1")[:50])
    with LogReader(path) as reader:
        assert take(reader) == ["0"]
        with path.open("ab") as file:
            file.write(line(client="1")[50:])
        assert take(reader) == ["1"]
        path.write_bytes(line(client="2"))  # somebody has emptied it
        assert take(reader) == ["2"]
        assert reader.damaged == 0


HEEDS_CTRL_C = (
    "import signal\n"
    "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # who runs in the background may ignore it
    "from lookupd.cli import cli\n"
    "cli()\n"
)


def test_follow_shows_what_comes_and_ends_by_ctrl_c(log: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HEEDS_CTRL_C, "log", str(log), "--follow", "--limit", "1", "--client", "b", "--json"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["time"] == at(5)
        for older, name in ((3, f"{log}.2"), (2, f"{log}.1"), (1, log)):
            Path(name).rename(f"{log}.{older}")
        log.write_bytes(line(time=at(6)) + line(time=at(7), client="b"))
        assert json.loads(process.stdout.readline())["time"] == at(7)
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.communicate()


# -- turning files over ----------------------------------------------------------------------------------


def test_two_writers_turn_each_file_over_once(tmp_path: Path) -> None:
    path = tmp_path / "queries.ndjson"
    writers = [RotatingFile(path, size_max=400, files=100, free_min=0) for _ in range(2)]
    for each in range(40):
        writers[each % 2].append(line(client=str(each)))
    with LogReader(path) as reader:
        assert take(reader) == [str(each) for each in range(40)]
    assert len(names(path)) == 40
    for writer in writers:
        writer.close()


def test_file_that_another_holds_locked_is_not_written_beyond_its_size(file: RotatingFile) -> None:
    file.append(line(client="0"))
    with file.path.open() as other:
        fcntl.flock(other, fcntl.LOCK_SH)
        with pytest.raises(OSError, match="is full, and another process keeps it locked"):
            file.append(line(client="1"))
    file.append(line(client="2"))
    with LogReader(file.path) as reader:
        assert take(reader) == ["0", "2"]


def test_file_that_was_taken_away_is_made_anew(file: RotatingFile) -> None:
    file.append(line(client="0"))
    file.path.rename(file.path.with_name("elsewhere"))
    file.append(line(client="1"))
    file.path.unlink()
    file.append(line(client="2"))
    with LogReader(file.path) as reader:
        assert take(reader) == ["2"]


def test_file_that_ends_within_a_line_is_gone_on_with_a_new_one(file: RotatingFile) -> None:
    file.path.write_bytes(line()[:100])
    file.append(line(client="1"))
    with LogReader(file.path) as reader:
        assert (take(reader), reader.damaged) == (["1"], 1)


def test_one_file_alone_is_begun_again(tmp_path: Path) -> None:
    file = RotatingFile(tmp_path / "queries.ndjson", size_max=400, files=1, free_min=0)
    for each in range(3):
        file.append(line(client=str(each)))
    file.close()
    assert os.listdir(tmp_path) == ["queries.ndjson"]
    with LogReader(file.path) as reader:
        assert take(reader) == ["2"]
