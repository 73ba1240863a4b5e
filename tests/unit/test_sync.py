"""`lookupd-loader sync`: a real process, or its parts on a clock of the test's own, against a folder."""

from __future__ import annotations

import json
import time

from tests.conftest import Workbench, run_cli, wait_until
from tests.exchange import NOTIFIED, Exchange, at, notice


def test_once_takes_snapshot_and_deltas_and_acknowledges(workbench: Workbench) -> None:
    workbench.load_tables()
    exchange = Exchange(workbench)
    exchange.snapshot()
    exchange.delta(2, notice("886912345678"), {"kind": "return", "tn": "886912345679", "notified_at": NOTIFIED})
    done = exchange.once()
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["feeds"] == [{"feed": "main", "position": 2, "trouble": None, "reason": None}]
    for name, applied in (("snapshot-main-1.csv", 4), ("delta-main-2.ndjson", 2)):
        ack = exchange.ack(name)
        assert ack["result"] == "applied"
        assert ack["applied"] == applied
        assert ack["received_at"] <= ack["confirmed_at"] <= ack["visible_at"]
    with workbench.reader() as reader:
        assert reader.ported(886912345678).network_code == "1403"  # type: ignore[union-attr, arg-type]
        assert reader.ported(886912345679) is None  # type: ignore[arg-type]


def test_running_exchange_applies_what_arrives_and_fires_at_the_agreed_second(workbench: Workbench) -> None:
    workbench.load_tables()
    exchange = Exchange(workbench)
    exchange.snapshot()
    with exchange.running():
        wait_until(lambda: (workbench.store / "data.mdb").exists() and exchange.position() == 1)
        moment = int(time.time()) + 3
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))
        exchange.delta(2, notice("886912345678", effective_at=at), notice("886912345000"))
        wait_until(lambda: exchange.acked("delta-main-2.ndjson") == "applied")
        assert exchange.ack("delta-main-2.ndjson")["pending"] == 1
        with workbench.reader() as reader:
            assert reader.ported(886912345678).network_code == "1402"  # type: ignore[union-attr, arg-type]
            while time.time() < moment - 0.02:
                reader.pin()
                assert reader.ported(886912345678).network_code == "1402"  # type: ignore[union-attr, arg-type]
                time.sleep(0.005)
            wait_until(lambda: (reader.pin(), reader.ported(886912345678).network_code == "1403")[1])  # type: ignore
            assert 0 <= time.time() - moment < 30  # how exactly is measured in bench/


def test_moment_of_a_delta_loaded_by_hand_is_kept_by_the_running_exchange(workbench: Workbench) -> None:
    workbench.load_tables()
    exchange = Exchange(workbench)
    exchange.snapshot()
    with exchange.running():
        wait_until(lambda: exchange.acked("snapshot-main-1.csv") == "applied")
        moment = int(time.time()) + 3
        text = json.dumps(notice("886912345678", effective_at=at(moment))) + "\n"
        path = workbench.publish("delta-main-2.ndjson", text, 1)
        assert run_cli("loader.cli", "delta", path, "--config", exchange.config).returncode == 0
        with workbench.reader() as reader:
            assert [waits.notice.tn for waits in reader.pending()] == [886912345678]
            wait_until(lambda: (reader.pin(), reader.ported(886912345678).network_code == "1403")[1])  # type: ignore
            assert moment <= time.time() < moment + 1
