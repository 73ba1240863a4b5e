"""What `python -m bench.fleet` makes of what the stores say: each thing that can be wrong is found, and told apart."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from bench import fleet
from bench.figures import table
from bench.fleet import Run, main, read_newest, report
from bench.fleet_outcome import delays, judge, section
from bench.fleet_site import Facts, Process, Replica
from bench.machine import Machine
from bench.processes import ChildFailed
from lookupd.model import Receipt, UnixMillis

LAST = 4
DIGEST = "00000000000000aa"


def receipt(sequence: int, visible_at: int | None = 1000) -> Receipt:
    moment = None if visible_at is None else UnixMillis(visible_at)
    name = f"delta-main-{sequence}.ndjson"
    return Receipt("delta", "main", sequence, name, "", 1, UnixMillis(0), UnixMillis(0), moment, 1, 0, 0)


GOOD = Facts(LAST, DIGEST, [receipt(sequence) for sequence in range(2, LAST + 1)], 0)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"position": 3}, "r1: the feed's position is 3, not 4"),
        ({"digest": "bb"}, "r1: its digest is bb, by hand it is 00000000000000aa"),
        ({"receipts": GOOD.receipts[:-1]}, "r1: 2 receipts, 2 different, of 3 deltas"),
        ({"receipts": [*GOOD.receipts, receipt(4)]}, "r1: 4 receipts, 3 different, of 3 deltas"),
        ({"repeated": 2}, "r1: 2 notices are in the journal more than once"),
        ({"receipts": [*GOOD.receipts[:-1], receipt(4, None)]}, "r1: a commit whose moment was never noted"),
    ],
)
def test_store_that_is_wrong_is_named_with_what_is_wrong(changed: dict[str, object], said: str) -> None:
    bad = msgspec.structs.replace(GOOD, **changed)
    assert judge({"r1": bad, "r2": GOOD}, DIGEST, LAST, LAST - 1) == [said]


def test_stream_with_a_delta_twice_is_told() -> None:
    assert judge({"r1": GOOD}, DIGEST, LAST, LAST) == ["the stream holds 4 messages of 3 deltas"]


def test_good_stores_leave_nothing_to_say() -> None:
    assert judge({"r1": GOOD, "r2": GOOD}, DIGEST, LAST, LAST - 1) == []


def replica(tmp_path: Path, *away: tuple[float, float]) -> Replica:
    found = Replica("r1", tmp_path, Process("r1", [], tmp_path / "log"), None)  # type: ignore[arg-type]
    found.away.extend(away)
    return found


def test_delay_of_who_was_away_is_no_delay_of_who_ran(tmp_path: Path) -> None:
    """Away from 10 to 20: published before and seen before, missed, and after."""
    facts = msgspec.structs.replace(GOOD, receipts=[receipt(2, 5_100), receipt(3, 20_500), receipt(4, 25_200)])
    running, missed = delays([replica(tmp_path, (10.0, 20.0))], {"r1": facts}, {2: 5.0, 3: 15.0, 4: 25.0})
    assert [at for at, _ in running] == [5.0, 25.0]
    assert [delay for _, delay in running] == pytest.approx([0.1, 0.2])
    assert missed == pytest.approx([5.5])


def test_delta_applied_anew_after_its_store_was_lost_is_nobodys_delay(tmp_path: Path) -> None:
    facts = msgspec.structs.replace(GOOD, receipts=[receipt(2, 20_000)])
    assert delays([replica(tmp_path, (10.0, 20.0))], {"r1": facts}, {2: 5.0}) == ([], [])


def test_delay_while_a_server_was_away_is_told_apart(tmp_path: Path) -> None:
    """A server is away from 10 to 20; the first delta was on its way when it died."""
    facts = msgspec.structs.replace(GOOD, receipts=[receipt(2, 10_500), receipt(3, 18_000), receipt(4, 25_200)])
    published = {2: 9.9, 3: 15.0, 4: 25.0}
    found = section([replica(tmp_path)], {"r1": facts}, published, [(10.0, 20.0)], 1500, 30.0)
    values = {figure.name: figure.value for figure in found.figures}
    assert values["publish to visible, all servers there, max"] == pytest.approx(200.0)
    assert values["publish to visible, one server away, max"] == pytest.approx(3000.0)
    assert values["last publish to visible on all replicas"] == pytest.approx(0.2)
    assert values["notices published"] == 1500


def run(made_at: str = "2026-11-22T10:00:00+00:00", problems: list[str] | None = None) -> Run:
    machine = Machine("abc1234", "a processor", 2, "a kernel", "3.11", "0.9", "0.2")
    return Run(made_at, machine, 10, 3, ["1.0 s: server a killed"], problems or [], [])


def test_newest_run_is_the_one_that_is_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ChildFailed, match=r"no run is kept"):
        read_newest(tmp_path)
    for name, made_at in (("b", "2026-11-22T10:00:00+00:00"), ("a", "2026-11-23T10:00:00+00:00")):
        (tmp_path / f"{name}-fleet.json").write_bytes(msgspec.json.encode(run(made_at)))
    assert read_newest(tmp_path).made_at == "2026-11-23T10:00:00+00:00"


def test_kept_run_with_a_problem_ends_with_code_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "read_newest", lambda: run(problems=["r1: its digest is bb"]))
    done = CliRunner().invoke(main, ["--table"])
    assert done.exit_code == 1
    assert "- BROKEN: r1: its digest is bb" in done.output


def test_report_says_what_held() -> None:
    assert "- kept: all 3 replicas at the same position" in report(run())


def test_document_has_the_table_of_the_newest_kept_run() -> None:
    kept = read_newest()
    assert kept.problems == []
    assert not kept.machine.commit.endswith("+dirty")
    text = (Path(__file__).parents[2] / "docs" / "scale.md").read_text()
    lines = [line for line in table(kept.sections).splitlines() if line.startswith("|")]
    assert "\n".join(lines) in text, "docs/scale.md: not what `python -m bench.fleet --table` prints"
