"""Two replicas that watch, compare and mend each other over TLS, with tokens: as over plain http, and in words where
TLS fails."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.certificates import TOKEN, Authority, write_secret
from tests.conftest import free_port, run_cli, wait_until
from tests.faults.test_pair_divergence import Replica


class SecureReplica(Replica):
    """Asked by its twin over https, with a token of its own."""

    def __init__(self, folder: Path, name: str, authority: Authority) -> None:
        super().__init__(folder, name)
        self.https = free_port()
        self.secure = f"https://127.0.0.1:{self.https}"
        self.ca = authority.file
        self.own = authority.issue(f"replica-{name}")
        self.shown = write_secret(folder / "shown", f"{TOKEN}-of-{name}")
        self.taken = folder / "taken"

    def configure(self) -> None:
        self.bench.config(
            f'[replica]\nname = "{self.name}"\npeer = "{self.peer}"\npeer_ca = "{self.ca}"\n'
            f'peer_token_file = "{self.shown}"\n'
            f'[http]\ncertificate = "{self.own.certificate}"\nkey = "{self.own.key}"\n'
            '[[client]]\nname = "here"\nsources = ["127.0.0.0/8"]\n'
            f'[[client]]\nname = "twin"\nsources = ["127.0.0.0/8"]\npeer = true\ntoken_file = "{self.taken}"\n',
            f'npq = ["udp://127.0.0.1:{self.udp}"]\npdb = ["udp://127.0.0.1:{self.pdb}"]\n'
            f'http = ["{self.url}", "https://0.0.0.0:{self.https}"]',
        )


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[SecureReplica, SecureReplica]]:
    authority = Authority(tmp_path)
    a, b = (SecureReplica(tmp_path / name, name, authority) for name in "ab")
    for replica, twin in ((a, b), (b, a)):
        replica.peer = twin.secure
        write_secret(twin.taken, replica.shown.read_bytes())
        replica.bench.load_tables()
        replica.bench.snapshot()
    try:
        yield a, b
    finally:
        a.stop()
        b.stop()


def test_replicas_agree_and_the_wrong_one_stands_back(pair: tuple[SecureReplica, SecureReplica]) -> None:
    a, b = pair
    a.start()
    b.start()
    wait_until(lambda: a.state() == b.state() == "agrees")
    a.change_by_hand()
    wait_until(lambda: a.is_back() and not b.is_back(), 20)
    told = run_cli("loader.cli", "compare", b.secure, "--config", a.config)
    assert (told.returncode, "here: " in told.stdout, "1 more" in told.stdout) == (6, True, False), told
    told = run_cli("loader.cli", "compare", b.secure, "--config", a.config, "--repair", "--reason", "test: b is right")
    assert (told.returncode, "repaired" in told.stdout) == (0, True), told
    wait_until(lambda: not a.is_back() and a.state() == "agrees", 20)
    told = run_cli("lookupd.cli", "doctor", "--config", a.config)
    assert f"ok   peer: {b.secure} is ready" in told.stdout, told
    assert "ok   same data" in told.stdout


def test_without_the_token_the_twin_is_refused_and_says_why(pair: tuple[SecureReplica, SecureReplica]) -> None:
    a, b = pair
    write_secret(b.taken, "quite-another-token-0123456789")
    b.start()
    a.start()
    wait_until(lambda: "peer_down" in a.log(), 20)
    assert "HTTP 401: it takes neither our token nor our certificate" in a.log()
    told = run_cli("loader.cli", "compare", b.secure, "--config", a.config)
    assert (told.returncode, "HTTP 401" in told.stderr, "peer_token_file" in told.stderr) == (1, True, True), told
    assert (
        "knows neither our token nor our certificate" in run_cli("lookupd.cli", "doctor", "--config", a.config).stdout
    )


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("foreign", "its certificate is not trusted"),
        ("expired", "its certificate has expired"),
        ("elsewhere", "its certificate is for another name or address"),
    ],
)
def test_certificate_that_is_not_the_twins_is_told_in_words(
    pair: tuple[SecureReplica, SecureReplica], tmp_path: Path, kind: str, words: str
) -> None:
    a, b = pair
    authority = Authority(tmp_path, "other")
    if kind == "foreign":
        b.own = authority.issue("foreign")
    else:
        a.ca = authority.file
        days = (-9.0, -1.0) if kind == "expired" else (-1.0, 9.0)
        b.own = authority.issue(kind, days=days, addresses=("192.0.2.9" if kind == "elsewhere" else "127.0.0.1",))
    b.start()
    a.start()
    wait_until(lambda: "peer_down" in a.log(), 20)
    assert words in a.log()
    told = run_cli("loader.cli", "compare", b.secure, "--config", a.config)
    assert (told.returncode, words in told.stderr) == (1, True), told
    assert words in run_cli("lookupd.cli", "doctor", "--config", a.config).stdout


def test_new_token_of_the_twin_is_taken_by_sighup(pair: tuple[SecureReplica, SecureReplica]) -> None:
    a, b = pair
    a.start()
    b.start()
    wait_until(lambda: a.state() == b.state() == "agrees")
    new = TOKEN[::-1]
    write_secret(b.taken, f"{a.shown.read_text()}\n{new}\n")
    reload(b)
    write_secret(a.shown, new)
    reload(a)
    write_secret(b.taken, new)
    reload(b)
    looks = a.looks()
    wait_until(lambda: a.looks() > looks + 1)
    assert a.state() == "agrees"
    assert "result=refused" not in a.log()


def reload(replica: SecureReplica) -> None:
    before = replica.log().count("config_applied")
    assert replica.process is not None
    os.kill(replica.process.pid, signal.SIGHUP)
    wait_until(lambda: replica.log().count("config_applied") > before)
