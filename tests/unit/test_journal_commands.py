"""`lookupd-loader journal` and `lookupd explain --as-of` as people run them; the export as an auditor takes it."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from click.testing import CliRunner, Result

from loader.cli import cli as loader_cli
from lookupd.cli import cli
from lookupd.model import UnixSeconds
from lookupd.store.writer import Writer
from lookupd.units import format_time
from tests.conftest import SNAPSHOT, Workbench, run_cli
from tests.unit.test_history import BESIDE, DAY, PORTED, SIGN_OFF, T, told, unschedule_all

__all__ = ["told"]

Line = dict[str, Any]


def run(workbench: Workbench, *arguments: str) -> Result:
    result = CliRunner().invoke(loader_cli, ["journal", *arguments, "--store", str(workbench.store)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def shown(workbench: Workbench, *arguments: str) -> list[Line]:
    result = run(workbench, *arguments, "--json")
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def explained(workbench: Workbench, *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["explain", *arguments, "--store", str(workbench.store)])


# -- explain ---------------------------------------------------------------------------------------------


def test_explain_as_of_tells_the_whole_answer_of_its_moment(told: Workbench) -> None:
    result = explained(told, "0912345678", "--as-of", str(format_time(T + DAY)), "--json")
    steps = json.loads(result.stdout)
    assert steps["as_of"] == {
        "time": format_time(T + DAY),
        "serial": 3,
        "applied_at": format_time(T + DAY),
        "until": format_time(T + 2 * DAY),
    }
    assert steps["answer"] == {
        "number": "+886912345678",
        "outcome": "ported",
        "network_code": "1402",
        "routing_number": "D0402",
        "operator": "Beta Mobile",
        "restriction": None,
        "serial": 3,
        "age_seconds": None,
    }
    assert steps["range"]["prefix"] == "886912"
    assert steps["range"]["holder"]["network_code"] == "1403"
    assert steps["network"]["pdb_carrier_id"] == 102
    assert steps["ported"]["donor"] == "1401"


def test_explain_as_of_in_words_and_in_another_time_zone(told: Workbench) -> None:
    result = explained(told, "0912345678", "--as-of", "2023-11-22T06:13:19+08:00")  # a second before the return
    assert result.exit_code == 0, result.output
    assert "serial=8" in result.stdout
    assert "outcome=ported network_code=1403 routing_number=D7" in result.stdout
    assert "+886 912" not in explained(told, "letters", "--as-of", "2023-11-22T06:13:19+08:00").stdout


@pytest.mark.parametrize(
    ("moment", "code", "reason"),
    [
        ("yesterday", 2, "is no RFC 3339 time"),
        ("2023-11-21T06:13:19", 2, "is no RFC 3339 time"),
        ("2023-01-01T00:00:00Z", 1, f"the oldest moment that can be asked is {format_time(T + DAY)} (serial 3)"),
    ],
)
def test_explain_as_of_a_moment_that_cannot_be_asked(told: Workbench, moment: str, code: int, reason: str) -> None:
    result = explained(told, "0912345678", "--as-of", moment)
    assert (result.exit_code, reason in result.output) == (code, True), result.output


# -- show ------------------------------------------------------------------------------------------------


def test_number_alone_shows_its_entries_newest_first(told: Workbench) -> None:
    entries = shown(told, "0912345678")
    assert [(entry["serial"], entry["kind"]) for entry in entries] == [
        (9, "return"),
        (8, "scheduled"),
        (7, "snapshot"),
        (3, "snapshot"),  # which filled the empty store
    ]
    assert entries == shown(told, "show", "+886912345678")
    assert [entry["serial"] for entry in shown(told, "0912345678", "--limit", "2")] == [9, 8]
    assert [entry["serial"] for entry in shown(told, "0912345678", "--kind", "snapshot")] == [7, 3]
    assert [entry["serial"] for entry in shown(told, "0912345000")] == [7, 4]


def test_entry_has_all_its_fields_and_the_clocks_of_its_commit(told: Workbench) -> None:
    [entry] = shown(told, "--since", str(format_time(T + 7 * DAY)))
    assert (entry["serial"], entry["tn"], entry["tn_to"], entry["new"]) == (9, "+886912345678", "+886912345678", None)
    assert (entry["feed"], entry["sequence"], entry["line"], entry["removed"]) == ("main", 5, 1, 1)
    assert entry["received_at"] == entry["confirmed_at"] == f"{str(format_time(T + 7 * DAY))[:-1]}.000Z"
    assert entry["visible_at"] is None
    [state] = entry["old"]
    assert (state["network_code"], state["routing_number"], state["donor"]) == ("1403", "D7", "1401")
    before = shown(told, "--since", str(format_time(T + 6 * DAY)))[0]
    assert (before["hash"], len(before["hash"])) == (entry["previous"], 32)


def test_since_and_all_are_in_their_orders(told: Workbench) -> None:
    assert [entry["serial"] for entry in shown(told, "--since", str(format_time(T + 4 * DAY)))] == [6, 7, 8, 9]
    assert [entry["serial"] for entry in shown(told)] == [9, 8, 7, 6, 5, 4, 3, 2, 1]
    assert [entry["serial"] for entry in shown(told, "--limit", "1")] == [9]
    assert shown(told, "--since", str(format_time(T + 8 * DAY))) == []


def test_reference_finds_its_notices(told: Workbench) -> None:
    row = {"kind": "return", "tn": str(BESIDE), "ref": "A-17"}
    told.delta(row, row | {"ref": "A-171"}, sequence=6, now=T + 8 * DAY)
    assert [entry["serial"] for entry in shown(told, "--ref", "A-17")] == [10]
    assert [entry["serial"] for entry in shown(told, "0912345000", "--ref", "A-171")] == [11]
    assert run(told, "--ref", "nothing").stderr == "no entries\n"


def test_lines_for_people_say_from_what_to_what(told: Workbench) -> None:
    [first, *_] = run(told, "0912345678").stdout.splitlines()
    assert first.startswith(
        f"9 {format_time(T + 7 * DAY)} return +886912345678 network 1403 rn D7 -> not ported removed=1"
    )
    assert "by=main/5:1" in first
    snapshot, port = run(told, "0912345000").stdout.splitlines()
    assert "snapshot +886912345000 network 1401 -> network 1401 removed=1" in snapshot  # its time of porting changed
    assert "port +886912345000 not ported -> network 1401 added=1" in port
    *_, first = run(told, "0912345678").stdout.splitlines()
    assert "snapshot +886912345678 not ported -> network 1402 added=4" in first


@pytest.mark.parametrize(
    "arguments", [["letters"], ["--since", "today"], ["--kind", "nothing"], ["--limit", "0"], ["one", "two"]]
)
def test_question_that_cannot_be_understood_is_a_usage_error(told: Workbench, arguments: list[str]) -> None:
    assert run(told, *arguments).exit_code == 2


@pytest.mark.parametrize("name", ["", "show", "export", "verify", "prune"])
def test_help_has_an_example(name: str) -> None:
    result = CliRunner().invoke(loader_cli, ["journal", *filter(None, [name]), "--help"])
    assert (result.exit_code, "Example" in result.stdout) == (0, True)
    assert f"lookupd-loader journal {name}".strip() in result.stdout


# -- export ----------------------------------------------------------------------------------------------


def exported(workbench: Workbench, name: str = "journal.ndjson.zst", *arguments: str) -> tuple[Path, list[Line]]:
    out = workbench.folder / name
    result = run(workbench, "export", "--out", str(out), *arguments)
    assert result.exit_code == 0, result.output
    assert not out.with_name(out.name + ".part").exists()
    data = out.read_bytes()
    text = zstandard.ZstdDecompressor().decompressobj().decompress(data) if name.endswith(".zst") else data
    return out, [json.loads(line) for line in text.splitlines()]


def rewrite(path: Path, lines: list[Line]) -> None:
    path.write_bytes("".join(json.dumps(line) + "\n" for line in lines).encode())


def verify_export(path: Path) -> tuple[int, str]:
    result = CliRunner().invoke(loader_cli, ["journal", "verify", str(path), "--json"])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout


def test_export_is_proven_by_the_document_alone(told: Workbench) -> None:
    """No code of ours: what docs/history.md tells an auditor to do."""
    _, lines = exported(told)
    previous = "00" * 16
    assert [line["serial"] for line in lines] == list(range(1, 10))
    for line in lines:
        stored = base64.b64decode(line["stored"])
        assert hashlib.blake2b(stored, digest_size=16).hexdigest() == line["hash"]
        assert stored[5:21].hex() == line["previous"] == previous
        previous = line["hash"]
        fold = hashlib.blake2b(digest_size=16)
        for state in line.get("old_states", []):
            value = base64.b64decode(state["stored"])
            key = state["block"].to_bytes(8, "big") + line["serial"].to_bytes(8, "big")
            fold.update(key + len(value).to_bytes(4, "little") + value)
        assert line["old_states_hash"] == (fold.hexdigest() if "old_states" in line else "")
        fold = hashlib.blake2b(digest_size=16)
        for row in line.get("tables", []):
            value = base64.b64decode(row["stored"])
            fold.update(bytes.fromhex(row["key"]) + len(value).to_bytes(4, "little") + value)
        assert line["tables_hash"] == (fold.hexdigest() if "tables" in line else "")
    with told.reader() as reader:
        assert reader.state.journal_head.hex() == previous


def test_program_in_the_document_proves_an_export_and_finds_a_change(told: Workbench) -> None:
    text = (Path(__file__).parents[2] / "docs" / "history.md").read_text(encoding="utf-8")
    program = text.split("```python\n")[1].split("```")[0]
    path, lines = exported(told, "a.ndjson")

    def prove() -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-c", program]
        return subprocess.run(command, input=path.read_bytes(), capture_output=True, timeout=30, check=False)

    assert prove().stdout == f"whole, to serial 9 hash {lines[-1]['hash']}\n".encode()
    lines[6]["old_states"].pop()
    rewrite(path, lines)
    assert (prove().returncode, prove().stderr.splitlines()[-1]) == (1, b"AssertionError: 7")


def test_export_has_the_old_states_of_snapshots_in_words(told: Workbench) -> None:
    _, lines = exported(told)
    states = {number["tn"]: number for block in lines[6]["old_states"] for number in block["numbers"]}
    assert states[f"+{PORTED}"]["network_code"] == "1402"
    assert states["+886223450000"]["network_code"] == "1403"
    assert len(states) == 3
    assert lines[6]["received_at"] is not None


def test_export_verifies_in_both_forms_and_from_a_moment_on(told: Workbench) -> None:
    for name, arguments, first in (
        ("a.ndjson.zst", [], 1),
        ("a.ndjson", [], 1),
        ("b.ndjson.zst", ["--since", str(format_time(T + 5 * DAY))], 7),
    ):
        path, lines = exported(told, name, *arguments)
        code, out = verify_export(path)
        found = json.loads(out)
        assert (code, found["first_serial"], found["last_serial"], found["hash"]) == (0, first, 9, lines[-1]["hash"])


def test_old_states_that_fill_many_lines_verify(told: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loader.export.BLOCKS_PER_LINE", 1)
    path, lines = exported(told, "a.ndjson")
    assert [line["serial"] for line in lines] == [1, 2, 3, 4, 5, 6, 7, 7, 8, 9]
    assert verify_export(path)[0] == 0
    rewrite(path, lines[:7] + lines[8:])
    assert (verify_export(path)[0], "entry 7: its old states" in verify_export(path)[1]) == (6, True)
    rewrite(path, lines[:8] + lines[7:])
    assert verify_export(path)[0] == 6


CHANGES: dict[str, Callable[[list[Line]], object]] = {
    "a line less": lambda lines: lines.pop(4),
    "two lines exchanged": lambda lines: lines.insert(3, lines.pop(4)),
    "a line twice": lambda lines: lines.insert(3, lines[3]),
    "a hash": lambda lines: lines[3].update(hash="00" * 16),
    "a word": lambda lines: lines[3].update(tn="+886912345999"),
    "a time": lambda lines: lines[3].update(applied_at=lines[4]["applied_at"]),
    "a word less": lambda lines: lines[3].pop("ref"),
    "what is stored": lambda lines: lines[3].update(stored=lines[4]["stored"]),
    "an old state": lambda lines: lines[6]["old_states"][0].update(stored=base64.b64encode(bytes(24)).decode()),
    "an old state in words": lambda lines: lines[6]["old_states"][0]["numbers"][0].update(network_code="1401"),
    "an old state less": lambda lines: lines[6]["old_states"].pop(),
    "all old states": lambda lines: lines[6].pop("old_states"),
    "a table row": lambda lines: lines[4]["tables"][0].update(stored="wA=="),
    "all table rows": lambda lines: lines[4].pop("tables"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_changed_export_is_found(told: Workbench, change: Callable[[list[Line]], object]) -> None:
    path, lines = exported(told, "a.ndjson")
    change(lines)
    rewrite(path, lines)
    code, out = verify_export(path)
    assert (code, f"{path}:" in out) == (6, True), out


@pytest.mark.parametrize("content", [b"", b"{}\n", b"[]\n", b"1\n", b"no json\n", b'{"serial":1}\n', b"\xff\n", b"{"])
def test_file_that_is_no_export_is_said(workbench: Workbench, content: bytes) -> None:
    code, out = verify_export(workbench.write("a.ndjson", content))
    assert (code, json.loads(out)["result"]) == (4, "failed")


def test_export_that_was_cut_short_is_said(told: Workbench) -> None:
    path, _ = exported(told)
    whole = path.read_bytes()
    for length in (0, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert verify_export(path)[0] == 4, length
    assert verify_export(told.folder / "nowhere.ndjson")[0] == 4


def test_export_that_cannot_be_written_leaves_nothing(told: Workbench) -> None:
    out = told.folder / "nowhere" / "a.ndjson"
    result = run(told, "export", "--out", str(out))
    assert (result.exit_code, f"{out}: No such file or directory: nothing was exported" in result.output) == (1, True)
    folder = told.folder / "a.ndjson"
    folder.mkdir()
    assert run(told, "export", "--out", str(folder)).exit_code == 1
    assert not (told.folder / "a.ndjson.part").exists()


def test_zstd_tool_reads_the_export(told: Workbench) -> None:
    """Other people's program: one frame, with a checksum."""
    path, lines = exported(told)
    data = path.read_bytes()
    assert data[:4] == b"\x28\xb5\x2f\xfd"
    assert zstandard.get_frame_parameters(data).has_checksum
    assert len(zstandard.ZstdDecompressor().decompressobj().decompress(data).splitlines()) == len(lines)


# -- verify and prune ------------------------------------------------------------------------------------


def prune(workbench: Workbench, before: int, *arguments: str, sign_off: str = SIGN_OFF) -> Result:
    return run(workbench, "prune", "--before", str(format_time(before)), "--sign-off", sign_off, *arguments)


def test_verify_tells_the_newest_hash_and_a_broken_chain_is_6(told: Workbench) -> None:
    result = run(told, "verify")
    _, lines = exported(told)
    assert result.exit_code == 0
    assert result.stdout == f"{told.store}: no problems: journal=9, the last of hash {lines[-1]['hash']}\n"
    with Writer(told.store) as writer, writer.change(UnixSeconds(T + 8 * DAY)) as change:
        change.transaction.delete((4).to_bytes(8, "big"), db=change.handles["journal"])
        change.swept = True
    result = run(told, "verify", "--json")
    found = json.loads(result.stdout)
    assert (result.exit_code, found["result"], found["problem_count"] > 0) == (6, "broken", True)
    assert found["problems"][0].startswith("journal entry 5: ")


def test_prune_by_command_and_what_is_left(told: Workbench) -> None:
    unschedule_all(told)
    _, before = exported(told, "before.ndjson")
    result = prune(told, T + 4 * DAY, "--json")
    found = json.loads(result.stdout)
    assert (result.exit_code, found["result"], found["entries"]) == (0, "pruned", 5)
    assert found["anchor"]["hash"] == before[4]["hash"]
    assert found["anchor"]["sign_off"] == SIGN_OFF
    path, after = exported(told, "after.ndjson")
    assert [line["serial"] for line in after] == [6, 7, 8, 9, 10]
    assert after[0]["previous"] == before[4]["hash"]
    assert (after[-1]["kind"], after[-1]["reason"]) == ("pruned", SIGN_OFF)
    assert before[4]["hash"] in after[-1]["source"]
    assert verify_export(path)[0] == 0
    assert f"after serial 5 of {format_time(T + 3 * DAY)}" in run(told, "verify").stdout
    assert json.loads(prune(told, T + 4 * DAY, "--json").stdout)["result"] == "unchanged"
    reason = f"the oldest moment that can be asked is {format_time(T + 3 * DAY)} (serial 5)"
    assert reason in explained(told, "0912345678", "--as-of", str(format_time(T + 2 * DAY))).output
    assert [entry["serial"] for entry in shown(told, "0912345678")] == [9, 8, 7]


def test_prune_of_what_is_too_young_is_refused(told: Workbench) -> None:
    result = run(told, "prune", "--before", "2100-01-01T00:00:00Z", "--sign-off", SIGN_OFF)
    assert (result.exit_code, "entries of the last 215 days are kept" in result.output) == (3, True)
    config = told.config('[limits]\nhistory = "30000d"\n')
    arguments = ["journal", "prune", "--before", str(format_time(T)), "--sign-off", SIGN_OFF, "--config", str(config)]
    result = CliRunner().invoke(loader_cli, arguments)
    assert (result.exit_code, "entries of the last 30000 days are kept" in result.output) == (3, True)
    assert len(shown(told)) == 9


@pytest.mark.parametrize("sign_off", ["", "chen", "chen:", ": why", "chen: y"])
def test_prune_without_a_persons_word_is_a_usage_error(told: Workbench, sign_off: str) -> None:
    assert prune(told, T + 4 * DAY, sign_off=sign_off).exit_code == 2
    assert len(shown(told)) == 9


def test_reloaded_snapshot_is_told_for_each_number_it_changed(told: Workbench) -> None:
    told.snapshot(SNAPSHOT, sequence=6, now=T + 8 * DAY)
    entry = shown(told, "0912345678", "--kind", "snapshot")[0]
    assert (entry["source"], entry["sequence"]) == ("snapshot-main-6.csv", 6)


def test_commands_start_as_a_process(told: Workbench) -> None:
    done = run_cli("loader.cli", "journal", "0912345000", "--store", told.store)
    assert done.stdout.startswith("7 ")


def test_one_change_is_shown_by_its_serial(told: Workbench) -> None:
    (line,) = shown(told, "show", "--serial", "3")
    assert line == next(each for each in shown(told, "--limit", "100") if each["serial"] == 3)
    refused = run(told, "show", "--serial", "99999")
    assert (refused.exit_code, "99999: the journal has those from 1 to" in refused.output) == (1, True)
    assert run(told, "show", "--serial", "3", "--ref", "x").exit_code == 2
