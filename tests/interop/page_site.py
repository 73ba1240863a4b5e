"""Two replicas that watch each other, and what the status page has to show of them.

python -m tests.interop.page_site          makes the pictures of docs/status-page.md again
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.conftest import NETWORKS, SNAPSHOT, Workbench, free_port, run_daemon, wait_until
from tests.exchange import at
from tests.interop.browser import LAPTOP, PHONE, WALL, Browser, browse

PICTURES = Path(__file__).parents[2] / "docs" / "images"

EVERYTHING = ("query", "status", "history")


class Replica:
    """One of the two: its store, where it answers, its process while it runs."""

    def __init__(self, folder: Path, name: str, http: int, peer: int | None, may: tuple[str, ...]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.name, self.http, self.npq, self.exchange = name, http, free_port(), free_port()
        self.bench = Workbench(folder)
        (folder / "feed").mkdir(exist_ok=True)
        watched = "" if peer is None else f'peer = "http://127.0.0.1:{peer}"\n'
        settings = (
            f'[replica]\nname = "{name}"\n{watched}'
            f'[[client]]\nname = "local"\nsources = ["127.0.0.0/8"]\npeer = true\nmay = {json.dumps(may)}\n'
            f'[feed.main]\nsource = "dir://{folder}/feed"\npoll = "100ms"\n'
            f'[sync]\nhttp = "http://127.0.0.1:{self.exchange}"\n'
        )
        listen = (
            f'npq = ["udp://127.0.0.1:{self.npq}"]\npdb = ["udp://127.0.0.1:{free_port()}"]\n'
            f'enum = ["udp://127.0.0.1:{free_port()}"]\nhttp = "http://127.0.0.1:{http}"'
        )
        self.config = self.bench.config(settings, listen)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http}/"

    def ask(self, path: str) -> Any:
        with urllib.request.urlopen(f"{self.url}{path}", timeout=5) as reply:
            return json.load(reply)

    @contextlib.contextmanager
    def serving(self) -> Iterator[subprocess.Popen[str]]:
        with run_daemon(self.config) as process:
            yield process

    @contextlib.contextmanager
    def syncing(self) -> Iterator[None]:
        """Its exchange, as a process of its own."""
        with (self.bench.folder / "sync.log").open("a") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "loader.cli", "sync", "--config", str(self.config)], stdout=log, stderr=log
            )
        try:
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(20)

    def deliver(self, sequence: int, *notices: dict[str, Any]) -> None:
        """A delta for its exchange; the manifest last, as a sender does."""
        text = "".join(json.dumps({"notified_at": at(time.time() - 20)} | notice) + "\n" for notice in notices)
        path = self.bench.publish(f"delta-main-{sequence}.ndjson", text, len(notices), created_at=at(time.time()))
        for part in (path, path.with_name(path.name + ".json")):
            part.rename(self.bench.folder / "feed" / part.name)


def make_pair(folder: Path, names: tuple[str, str] = ("a", "b"), may: tuple[str, ...] = EVERYTHING) -> list[Replica]:
    """Neither runs, and their stores are empty."""
    ports = free_port(), free_port()
    return [
        Replica(folder / name, name, port, other, may)
        for name, port, other in zip(names, ports, ports[::-1], strict=True)
    ]


def load(replica: Replica, networks: str = NETWORKS, snapshot: str = SNAPSHOT) -> Replica:
    """The tables and a snapshot, of now."""
    replica.bench.load_tables(networks)
    replica.bench.snapshot(snapshot)
    return replica


@contextlib.contextmanager
def both(replicas: list[Replica]) -> Iterator[None]:
    """Until they have found each other and agree."""
    with contextlib.ExitStack() as stack:
        for replica in replicas:
            stack.enter_context(replica.serving())
        wait_until(lambda: all(each.ask("v1/status")["pair"]["state"] == "agrees" for each in replicas), 30)
        yield


# -- the pictures ------------------------------------------------------------------------------------------

OPERATORS = """network_code,operator,routing_number,pdb_carrier_id
1401,Formosa Mobile,D0401,101
1402,Jade Telecom,D0402,102
1403,Pacific Wireless,D0403,103
1404,Harbour Fixed Line,D0404,104
"""


def _numbers(seed: int, count: int) -> list[str]:
    drawn = random.Random(seed).sample(range(886_910_000_000, 886_929_999_999), count)
    return [str(tn) for tn in sorted(drawn)]


def _snapshot(numbers: list[str]) -> str:
    codes = random.Random(2)
    rows = [f"{tn},{codes.choice(['1402', '1403', '1404'])},,1401,2026-03-01T09:00:00+08:00\n" for tn in numbers]
    return "tn,network_code,routing_number,donor,ported_at\n" + "".join(rows)


def _day(replicas: list[Replica], numbers: list[str]) -> None:
    """Deltas as they come, then one that misses the file before it: its notices wait, and their clocks run."""
    codes = random.Random(3)
    for sequence in range(2, 14):
        words: list[dict[str, Any]] = []
        for tn in codes.sample(numbers, 2):
            ref = f"NP-{codes.randrange(10**6):06}"
            words.append(
                {
                    "kind": "port",
                    "tn": tn,
                    "recipient": codes.choice(["1402", "1403", "1404"]),
                    "donor": "1401",
                    "ref": ref,
                }
            )
        if sequence % 5 == 0:
            words.append({"kind": "return", "tn": codes.choice(numbers)})
        if sequence == 9:
            later = at(time.time() + 6 * 3600)
            words.append({"kind": "port", "tn": codes.choice(numbers), "recipient": "1404", "effective_at": later})
        for replica in replicas:
            replica.deliver(sequence, *words)
        wait_until(lambda sequence=sequence: _position(replicas) == {sequence}, 30)  # type: ignore[misc]
    old = [
        {"kind": "port", "tn": tn, "recipient": "1403", "notified_at": at(time.time() - 2_300)} for tn in numbers[:3]
    ]
    for replica in replicas:
        replica.deliver(15, *old, {"kind": "return", "tn": numbers[9], "notified_at": at(time.time() - 9_000)})
    wait_until(lambda: all(_blocked(replica) == "gap" for replica in replicas), 30)


def _position(replicas: list[Replica]) -> set[int]:
    return {replica.ask("v1/feeds")["feeds"][0]["sequence"] for replica in replicas}


def _blocked(replica: Replica) -> object:
    return (replica.ask("v1/feeds")["feeds"][0]["exchange"] or {}).get("blocked")


@contextlib.contextmanager
def _callers(replicas: list[Replica], numbers: list[str], folder: Path) -> Iterator[None]:
    """Calls to each, of which some are to numbers that nobody has."""
    asked = folder / "asked.txt"
    drawn = random.Random(4)
    others = [str(drawn.randrange(886_910_000_000, 886_929_999_999)) for _ in range(5000)]
    nobody = [str(drawn.randrange(886_960_000_000, 886_969_999_999)) for _ in range(200)]
    mixed = numbers * 3 + others + nobody + ["110"] * 40
    drawn.shuffle(mixed)
    asked.write_text("\n".join(mixed) + "\n")
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "lookupd.cli", "bench", "--server", f"udp://127.0.0.1:{replica.npq}",
             "--numbers", str(asked), "--rate", str(rate), "--seconds", "600"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        for replica, rate in zip(replicas, (1480, 1320), strict=True)
    ]  # fmt: skip
    try:
        yield
    finally:
        for process in running:
            process.terminate()
            process.wait()


def picture(folder: Path, out: Path, looks: float = 62.0) -> None:
    """Two replicas at work for a minute, then the page as it is on a wall, a laptop and a phone."""
    replicas = make_pair(folder, ("taipei-1", "taipei-2"))
    numbers = _numbers(1, 1500)
    for replica in replicas:
        replica.bench.load_tables(OPERATORS, "prefix,network_code\n88691,1401\n88692,1402\n", int(time.time()))
        replica.bench.snapshot(_snapshot(numbers))
    with both(replicas), replicas[0].syncing(), replicas[1].syncing(), _callers(replicas, numbers, folder):
        _day(replicas, numbers)
        with browse(folder, WALL) as browser:
            browser.live_in("Asia/Taipei")
            number = "+" + _ported_by_delta(replicas[0])
            _show(browser, f"{replicas[0].url}?lang=en", number)
            wait_until(lambda: replicas[0].ask("v1/status")["replica"]["uptime_seconds"] >= looks, looks + 30)
            browser.shoot(out / "status-page.png")
            browser.choose("language", "zh-TW")
            browser.wait(lambda: browser.run("return document.documentElement.lang") == "zh-Hant-TW")
            _ask(browser, number)
            browser.shoot(out / "status-page.zh-TW.png")
            if os.environ.get("MORE"):
                more(browser, replicas[0].url, number, out)


def more(browser: Browser, url: str, number: str, out: Path) -> None:
    """Beside those of the page: dark, small, on a phone."""
    for name, size, scheme in (
        ("wall-dark", WALL, "dark"),
        ("laptop", LAPTOP, "light"),
        ("laptop-dark", LAPTOP, "dark"),
    ):
        browser.resize(*size)
        browser.prefer(color_scheme=scheme)
        _show(browser, f"{url}?lang=en", number)
        browser.shoot(out / f"{name}.png")
    browser.prefer(color_scheme="light")
    browser.resize(PHONE[0], 844, 2)
    _show(browser, f"{url}?lang=en", number)
    browser.resize(PHONE[0], browser.run("return document.documentElement.scrollHeight"), 2)
    browser.shoot(out / "phone.png")


def _show(browser: Browser, url: str, number: str) -> None:
    browser.open(url)
    browser.wait(lambda: len(browser.find("#notice-list tr")) > 1)
    _ask(browser, number)


def _ask(browser: Browser, number: str) -> None:
    browser["number"].clear()
    browser["number"].send_keys(number)
    browser.run("document.getElementById('answer').replaceChildren()")
    browser["explain"].click()
    browser.wait(lambda: bool(browser.find("#answered")))
    browser.run("document.activeElement.blur()")


def _ported_by_delta(replica: Replica) -> str:
    """One that has been somewhere before."""
    for entry in replica.ask("v1/notices")["notices"]:
        if entry["kind"] == "port" and entry["old"]:
            return str(entry["tn"]).removeprefix("+")
    raise LookupError("no number was ported again")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        PICTURES.mkdir(parents=True, exist_ok=True)
        picture(Path(made), Path(sys.argv[1]) if sys.argv[1:] else PICTURES)
