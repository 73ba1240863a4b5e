"""Log events: each that the program logs is in the catalogue, with its fields; ids are nobody else's."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from lookupd.observe import log as log_module
from lookupd.observe.events import AREAS, EVENTS, document
from lookupd.observe.log import log, use_format

ROOT = Path(__file__).parents[2]
FIELDS_OF_NO_CALL = {"id", "time", "event", "level"}


def calls() -> Iterator[tuple[str, str, set[str]]]:
    """Where, the event's name and the fields of each `log(...)` in the program."""
    for package in ("lookupd", "loader"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "log":
                    fields = {keyword.arg for keyword in node.keywords if keyword.arg}
                    for name in names_of(node.args[0]):
                        yield f"{path.relative_to(ROOT)}:{node.lineno}", name, fields


def names_of(argument: ast.expr) -> list[str]:
    match argument:
        case ast.Constant(value=str() as text):
            return [text]
        case ast.IfExp(body=body, orelse=other):
            return names_of(body) + names_of(other)
    return ["delta_applied", "snapshot_applied"]  # the one name that is handed on: feed_sync's two results


def test_each_event_that_is_logged_is_in_the_catalogue_with_its_fields() -> None:
    found = list(calls())
    assert len(found) > 60
    for where, name, fields in found:
        assert name in EVENTS, f"{where}: {name} is not in lookupd/observe/events.py: give it an id there"
        unknown = fields - set(EVENTS[name].fields)
        assert not unknown, f"{where}: {name} has no field {unknown} in lookupd/observe/events.py"


def test_each_event_of_the_catalogue_is_logged_somewhere() -> None:
    assert EVENTS.keys() - {name for _, name, _ in calls()} == set()


def test_ids_are_each_events_own_and_in_an_area() -> None:
    ids = [event.id for event in EVENTS.values()]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"LK[1-9][0-9]{3}", one) and one[:4] in AREAS for one in ids)
    assert not any(FIELDS_OF_NO_CALL & set(event.fields) for event in EVENTS.values())


def test_pages_of_events_exist_and_the_document_is_the_catalogues() -> None:
    for name, event in EVENTS.items():
        assert not event.page or (ROOT / "docs" / "operations" / event.page).is_file(), name
    assert (ROOT / "docs" / "events.md").read_text() == document(), (
        "run: python -m lookupd.observe.events > docs/events.md"
    )


def test_line_has_the_events_id_and_stays_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    log("not_ready", reason='a "quoted"\nreason')
    line = capsys.readouterr().err
    assert re.fullmatch(r'\S+Z not_ready reason="a \\"quoted\\"\\nreason" id=LK1003\n', line)


def test_json_lines_have_the_same(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "_format", "text")
    use_format("json")
    log("data", serial=7, digest="00ff", path=Path("/a b"))
    found = json.loads(capsys.readouterr().err)
    assert found.pop("time").endswith("Z")
    assert found == {
        "event": "data", "id": "LK1104", "level": "info", "serial": 7, "digest": "00ff", "path": "/a b",
    }  # fmt: skip


def test_journal_is_told_how_bad_it_is(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "8:1234")
    log("ready")
    log("peer_down", url="http://192.0.2.7:9474", result="timeout", reason="no whole answer")
    priorities = [line[:3] for line in capsys.readouterr().err.splitlines()]
    assert priorities == ["<6>", "<3>"]
