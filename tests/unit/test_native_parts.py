"""What the native reader checks when it was asked before: the part that it reads, in each look-up."""

from __future__ import annotations

from pathlib import Path

import pytest

from lookupd.store.schema import BLOCK_BYTES
from tests.conftest import Workbench
from tests.unit.test_damage import stored

native = pytest.importorskip("lookupd._native")

PORTED, NEIGHBOUR, FAR = 886912345678, 886912345679, 886912345001
ENTRY_BYTES = 2


def flip_in_file(store: Path, value: bytes, offset: int) -> None:
    """One bit of a block's value, where it lies in the file: every map of it sees the change at once."""
    data = store / "data.mdb"
    content = data.read_bytes()
    places = [at for at in range(len(content)) if content.startswith(value, at)]
    assert places
    with data.open("r+b") as file:
        for place in places:  # an older copy of the page may lie in the file too
            file.seek(place + offset)
            file.write(bytes([content[place + offset] ^ 1]))


@pytest.fixture
def value(loaded: Workbench) -> bytes:
    found = stored(loaded.store, "blocks", (PORTED // 1000).to_bytes(8, "big"))
    assert found is not None
    assert len(found) == BLOCK_BYTES
    return found


@pytest.mark.parametrize("asked_before", [False, True])
def test_entry_that_changed_since_its_part_was_checked_is_damage_at_once(
    loaded: Workbench, value: bytes, asked_before: bool
) -> None:
    reader = native.Environment(str(loaded.store), 1 << 30).reader()
    sound = reader.entry(PORTED) if asked_before else 2
    assert sound
    flip_in_file(loaded.store, value, ENTRY_BYTES * (PORTED % 1000))
    assert reader.entry(PORTED) is None
    assert reader.entry(NEIGHBOUR) is None  # of the same part


def test_part_that_was_not_asked_for_is_checked_with_its_whole_block(loaded: Workbench, value: bytes) -> None:
    reader = native.Environment(str(loaded.store), 1 << 30).reader()
    assert reader.entry(PORTED)
    flip_in_file(loaded.store, value, ENTRY_BYTES * (FAR % 1000))
    assert reader.entry(FAR) is None
    assert reader.entry(PORTED)  # its own part is what it was


def test_another_reader_checks_for_itself(loaded: Workbench, value: bytes) -> None:
    environment = native.Environment(str(loaded.store), 1 << 30)
    reader = environment.reader()
    assert reader.entry(PORTED)
    flip_in_file(loaded.store, value, ENTRY_BYTES * (FAR % 1000))
    again = environment.reader()
    assert again.entry(PORTED) is None
