"""A real Prometheus on `monitoring/`'s own files, a real pair and their exchange: it sees them, and an alert fires."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from loader.regulator.availability import read_hours
from tests.callers import ask_npq
from tests.conftest import Workbench, free_port, run_daemon, wait_until
from tests.exchange import Exchange
from tests.monitoring import FOLDER, dashboard_queries, rules

PROMETHEUS = shutil.which("prometheus")
pytestmark = pytest.mark.skipif(not PROMETHEUS, reason="needs the package prometheus")

ADDRESSES = ("192.0.2.1:9474", "192.0.2.2:9474", "192.0.2.1:9475")
"""Of the example: two daemons and an exchange that are there; the others are not."""


class Prometheus:
    """A running server."""

    def __init__(self, url: str, log: Path) -> None:
        self.url = url
        self.log = log

    def get(self, path: str, **parameters: str) -> Any:
        """What its API says."""
        query = urllib.parse.urlencode(parameters)
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=10) as response:
                return json.load(response)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from None

    def query(self, expr: str) -> list[Any]:
        found: list[Any] = self.get("query", query=expr)["result"]
        return found

    def is_up(self, target: str) -> bool:
        return bool(self.query(f'up{{instance="{target}"}} == 1'))

    def ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=5) as response:
                return bool(response.status == 200)
        except OSError:
            return False

    def firing(self) -> set[tuple[str, str]]:
        """Alert and replica."""
        alerts = [alert for alert in self.get("alerts")["alerts"] if alert["state"] == "firing"]
        return {(alert["labels"]["alertname"], alert["labels"].get("replica", "")) for alert in alerts}


@contextlib.contextmanager
def prometheus(folder: Path, ports: dict[str, int]) -> Iterator[Prometheus]:
    """On the example's files, with loopback, short times and other ports in place of its own."""
    text = (FOLDER / "prometheus.yml").read_text()
    for address in ADDRESSES:
        assert address in text
        text = text.replace(address, f"127.0.0.1:{ports[address]}")
    text = re.sub(r"(?m)^ +(authorization|tls_config): .*\n", "", text).replace("scheme: https", "scheme: http")
    (folder / "prometheus.yml").write_text(text.replace("_interval: 15s", "_interval: 200ms"))
    shorter = re.sub(r"(?m)^        for: .*$", "        for: 0s", (FOLDER / "rules.yml").read_text())
    (folder / "rules.yml").write_text(shorter.replace("    interval: 5m", "    interval: 200ms"))
    port, log = free_port(), folder / "prometheus.log"
    assert PROMETHEUS
    command = [
        PROMETHEUS,
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
    server = Prometheus(f"http://127.0.0.1:{port}", log)
    try:
        wait_until(lambda: process.poll() is not None or server.ready(), 30)
        assert process.poll() is None, log.read_text()
        yield server
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def replica(folder: Path, name: str, http: int, peer: int, npq: int) -> Path:
    """A loaded store and its daemon's configuration."""
    folder.mkdir()
    bench = Workbench(folder)
    bench.load_tables()
    bench.snapshot()
    section = f'[replica]\nname = "{name}"\npeer = "http://127.0.0.1:{peer}"\n'
    client = '[[client]]\nname = "local"\naccount = "noc"\nsources = ["127.0.0.0/8"]\npeer = true\n'
    listen = f'npq = ["udp://127.0.0.1:{npq}"]\nhttp = "http://127.0.0.1:{http}"'
    return bench.config(section + client, listen=listen)


def test_prometheus_sees_the_pair_evaluates_every_rule_and_fires_when_a_replica_stops(tmp_path: Path) -> None:
    ports = {address: free_port() for address in ADDRESSES}
    first, second, exchange_port = ports.values()
    asked = free_port()
    a = replica(tmp_path / "a", "a", first, second, asked)
    b = replica(tmp_path / "b", "b", second, first, free_port())
    exchange = Exchange(Workbench(tmp_path / "a"), extra=f'[sync]\nhttp = "http://127.0.0.1:{exchange_port}"\n')
    with (
        run_daemon(a),
        run_daemon(b) as twin,
        exchange.running(),
        prometheus(tmp_path, ports) as server,
    ):
        targets = [f"127.0.0.1:{port}" for port in ports.values()]
        wait_until(lambda: all(map(server.is_up, targets)), 30)
        wait_until(lambda: ("LookupdPeerDown", "a") not in server.firing() and agree(server), 30)

        def recorded() -> set[str]:
            ask_some(asked)
            return {rule.name for rule in rules() if not rule.is_alert and server.query(rule.name)}

        # Of the probe there is none here, nor of latency where the Python engine serves.
        absent = {"server_ported:lookupd_probe_seconds:mean5m"}
        every = {rule.name for rule in rules() if not rule.is_alert} - absent
        wait_until(lambda: every <= recorded(), 60)
        assert_healthy(server)
        for title, expr in dashboard_queries().items():
            assert isinstance(server.query(expr), list), title
        assert not {alert for alert, _ in server.firing()} & {"LookupdDown", "LookupdPairDown", "LookupdReplicasDiffer"}

        twin.send_signal(signal.SIGTERM)
        twin.wait(20)
        wait_until(lambda: {("LookupdDown", "b"), ("LookupdPeerDown", "a")} <= server.firing(), 60)
        assert "LookupdPairDown" not in {alert for alert, _ in server.firing()}
        summary = next(
            alert["annotations"]["summary"]
            for alert in server.get("alerts")["alerts"]
            if alert["labels"]["alertname"] == "LookupdDown"
        )
        assert summary == f"127.0.0.1:{second}: the daemon does not answer Prometheus"
        with run_daemon(b):
            wait_until(lambda: ("LookupdDown", "b") not in server.firing() and server.is_up(targets[1]), 60)


def agree(server: Prometheus) -> bool:
    return len(server.query('lookupd_peer_state{state="agrees"} == 1')) == 2


def assert_healthy(server: Prometheus) -> None:
    """Every rule was evaluated, without an error."""
    groups = server.get("rules")["groups"]
    found = {rule["name"]: rule for group in groups for rule in group["rules"]}
    assert found.keys() == {rule.name for rule in rules()}
    troubles = {name: rule.get("lastError") for name, rule in found.items() if rule["health"] != "ok"}
    assert not troubles, troubles


def ask_some(port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(2)
        for query_id in range(1, 6):
            sock.sendto(ask_npq("886912345678", query_id).message, ("127.0.0.1", port))
            assert sock.recv(4096)


def test_half_year_takes_its_availability_from_what_prometheus_answers(tmp_path: Path) -> None:
    """Backfilled, since nobody waits half a year: the query of docs/reports.md, and the reader of its answer."""
    end = int(time.time()) // 3600 * 3600
    first = end - 6 * 3600
    samples = "".join(
        f'pair:lookupd_available:bool{{pair="taipei"}} {0 if first + 3600 <= at < first + 5400 else 1} {at}\n'
        for at in range(first, end, 60)
    )
    (tmp_path / "past.txt").write_text(f"# TYPE pair:lookupd_available:bool gauge\n{samples}# EOF\n")
    subprocess.run(
        ["promtool", "tsdb", "create-blocks-from", "openmetrics", tmp_path / "past.txt", tmp_path / "data"],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    with prometheus(tmp_path, {address: free_port() for address in ADDRESSES}) as server:
        found = {
            "status": "success",
            "data": server.get(
                "query_range",
                query='avg_over_time(pair:lookupd_available:bool{pair="taipei"}[59m59s] offset 1s)',
                start=str(first + 3600),
                end=str(end),
                step="3600",
            ),
        }
    (tmp_path / "availability.json").write_text(json.dumps(found))
    hours = read_hours(tmp_path / "availability.json")
    assert sorted(hours) == list(range(first // 3600, end // 3600))
    assert hours[first // 3600] == 1
    assert hours[first // 3600 + 1] == pytest.approx(0.5, abs=0.02)
    assert all(hours[hour] == 1 for hour in range(first // 3600 + 2, end // 3600))
