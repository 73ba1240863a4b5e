"""What the property tests of the dialects share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lookupd.engine import Engine
from lookupd.model import UnixSeconds
from tests.conftest import PLAN, Workbench


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Engine]]:
    """One with the sample data, one without any."""
    workbench = Workbench(tmp_path_factory.mktemp("engines"))
    workbench.load_tables()
    workbench.snapshot(now=1_790_000_000)
    full, empty = Engine(PLAN), Engine(PLAN)
    with workbench.reader() as reader:
        full.reader = reader
        for engine in (full, empty):
            engine.begin(UnixSeconds(1_790_000_042))
        yield {"full": full, "empty": empty}
