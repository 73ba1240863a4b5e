"""A fleet of real processes while each of its servers is killed, a replica too, and another loses its store.

The short form of `python -m bench.fleet`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.fleet import execute, report
from bench.processes import find

NOTICES, PER_DELTA, REPLICAS, SECONDS = 2000, 50, 3, 20.0


@pytest.mark.timeout(180)
@pytest.mark.skipif(find("nats-server") is None, reason="nats-server is not installed")
def test_fleet_under_fire_ends_with_every_delta_applied_once_everywhere(tmp_path: Path) -> None:
    run = execute(NOTICES, PER_DELTA, REPLICAS, SECONDS, numbers=20_000, root=tmp_path)
    assert run.problems == [], report(run)
    killed = sorted(event.split()[3] for event in run.events if ": server " in event and " killed" in event)
    assert killed == ["a", "b", "c"], run.events
    assert any("the stream's leader" in event for event in run.events), run.events
    assert [event.partition(": ")[2] for event in run.events[-5:]] == [
        "replica r3 killed",
        "replica r3 started",
        "replica r3 caught up",
        "replica r2 lost its store",
        "replica r2 caught up",
    ]
