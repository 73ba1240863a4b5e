"""Every risk check that was answered is in the audit, whenever the daemon is killed."""

from __future__ import annotations

import json
import random
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from lookupd.audit_reader import prove, read
from tests.conftest import Workbench, free_port, run_daemon

KILLS = 5
ASKERS = 4


def ask(url: str, told: list[str], stop: threading.Event, name: str) -> None:
    """Note each check that was answered, until the daemon is gone."""
    for count in range(10**6):
        purpose = f"{name}-{count}"
        try:
            with urllib.request.urlopen(f"{url}/v1/numbers/0912345678/history?purpose={purpose}", timeout=5) as reply:
                assert json.load(reply)["network_code"] == "1402"
        except (OSError, ValueError):
            return
        told.append(purpose)
        if stop.is_set():
            return


@pytest.mark.timeout(120)
def test_no_answer_is_missing_in_the_audit_after_a_kill(loaded: Workbench) -> None:
    told: list[str] = []
    for kill in range(KILLS):
        url = f"http://127.0.0.1:{free_port()}"
        with run_daemon(loaded.config("", f'http = "{url}"')) as process:
            stop = threading.Event()
            askers = [
                threading.Thread(target=ask, args=(url, told, stop, f"{kill}-{asker}")) for asker in range(ASKERS)
            ]
            for asker in askers:
                asker.start()
            time.sleep(random.uniform(0.2, 0.8))
            process.kill()
            process.wait()
            stop.set()
            for asker in askers:
                asker.join(20)
    folder = Path(f"{loaded.store}-audit")
    kept = {line.record.purpose for line in read(folder)}
    assert len(told) > 10 * KILLS
    assert set(told) <= kept
    assert prove(folder).broken == ()
