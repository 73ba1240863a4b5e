"""What is told of sockets, disks, certificates and the store's readers, held against the real things."""

from __future__ import annotations

import asyncio
import datetime
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import lmdb
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from prometheus_client.parser import text_string_to_metric_families

from loader.key_metrics import collect_keys
from loader.trust import PublicKey
from lookupd.model import UnixSeconds
from lookupd.observe.disks import collect_disks
from lookupd.observe.machine_metrics import Certificates, read_expiry
from lookupd.observe.serving import ServingSeconds
from lookupd.store.readers import read_table
from tests.conftest import Served, Workbench, free_port, halt, run_daemon, serve, wait_until


def value(served: Served, name: str, **labels: str) -> float | None:
    text = served.daemon.metrics.text().decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    found = [one.value for one in samples if one.name == name and labels.items() <= one.labels.items()]
    return sum(found) if found else None


def overflow(port: int) -> None:
    """More than a socket's queue holds, while nobody reads."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", port))
        for _ in range(6000):
            sock.send(bytes(200))


@pytest.mark.usefixtures("each_engine")
def test_what_the_kernel_drops_at_a_halted_daemon_is_told(loaded: Workbench) -> None:
    port, http = free_port(), free_port()
    path = loaded.config(listen=f'npq = ["udp://127.0.0.1:{port}"]\nhttp = "http://127.0.0.1:{http}"')
    with run_daemon(path) as process:
        assert scraped(http)["lookupd_listener_kernel_drops_total", "npq"] == 0
        halt(process)
        overflow(port)
        process.send_signal(signal.SIGCONT)
        assert scraped(http)["lookupd_listener_kernel_drops_total", "npq"] > 0
        wait_until(lambda: scraped(http)["lookupd_listener_queue_bytes", "npq"] == 0)


def scraped(port: int) -> dict[tuple[str, str | None], float]:
    """By name and dialect, over HTTP."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as response:
        families = list(text_string_to_metric_families(response.read().decode()))
    return {
        (sample.name, sample.labels.get("dialect")): sample.value for family in families for sample in family.samples
    }


@pytest.mark.usefixtures("python_engine")
async def test_what_the_kernel_dropped_stays_when_a_listener_ends(loaded: Workbench) -> None:
    path = loaded.config(listen=f'npq = ["udp://127.0.0.1:{free_port()}"]')
    async with serve(path) as served:
        listener = next(iter(served.daemon.listeners.values()))
        place = {"dialect": "npq", "transport": "udp"}
        assert (value(served, "lookupd_listener_buffer_bytes", **place) or 0) >= 200_000
        listener.pause()  # type: ignore[union-attr]
        overflow(listener.port)
        dropped = value(served, "lookupd_listener_kernel_drops_total", **place)
        assert dropped is not None
        assert dropped > 0
        assert value(served, "lookupd_listener_kernel_drops_total", **place) == dropped
        waiting = value(served, "lookupd_listener_queue_bytes", **place)
        assert waiting is not None
        assert waiting > 0
        overflow(listener.port)
        loaded.config(listen=f'npq = ["udp://127.0.0.1:{free_port()}"]')
        assert await served.daemon.reload()
        after = value(served, "lookupd_listener_kernel_drops_total", **place)
        assert after is not None
        assert after > dropped  # those since the last scrape are not lost with the socket
        assert value(served, "lookupd_listener_queue_bytes", **place) == 0


async def test_open_connections_and_offloads_are_told(loaded: Workbench, each_engine: str) -> None:
    async with serve(loaded.config()) as served:
        assert value(served, "lookupd_connections_open", dialect="npq") == 0
        with socket.create_connection(("127.0.0.1", served.port("npq", "tcp"))):
            listener = next(found for key, found in served.daemon.listeners_now() if key[1].transport == "tcp")
            for _ in range(200):
                await asyncio.sleep(0.01)
                if value(served, "lookupd_connections_open", dialect="npq") == 1:
                    break
            assert value(served, "lookupd_connections_open", dialect="npq") == 1, listener
        told = value(served, "lookupd_listener_offload", dialect="npq", offload="gro")
        assert (told is not None) == (each_engine == "native")


@pytest.mark.usefixtures("each_engine")
async def test_the_oldest_reader_holds_back_the_store(loaded: Workbench) -> None:
    async with serve(loaded.config()) as served:
        assert value(served, "lookupd_store_readers_max") == 1024
        assert (value(served, "lookupd_store_map_bytes") or 0) >= 1 << 30
        served.daemon.begin_batch()
        assert value(served, "lookupd_store_reader_lag_commits") == 0
        reader = served.daemon.engine.reader
        assert reader is not None
        for sequence in range(2, 5):  # three commits that our pinned reader has not followed
            loaded_by_hand(loaded, sequence)
        assert value(served, "lookupd_store_reader_lag_commits") == 3
        served.daemon.begin_batch()
        assert value(served, "lookupd_store_reader_lag_commits") == 0


def loaded_by_hand(bench: Workbench, sequence: int) -> None:
    """In a process of its own: LMDB must not open a store twice in one."""
    code = (
        "import sys; from pathlib import Path; from tests.conftest import Workbench\n"
        f"Workbench(Path(sys.argv[1])).delta({{'kind': 'port', 'tn': '886912345000', 'recipient': '1402'}}, "
        f"sequence={sequence})"
    )
    subprocess.run([sys.executable, "-c", code, str(bench.folder)], check=True)


def test_a_lock_file_of_another_make_is_not_read(tmp_path: Path) -> None:
    with lmdb.open(str(tmp_path), max_dbs=1, lib_version=0) as environment:
        with environment.begin(write=True) as transaction:
            transaction.put(b"a", b"b")
        with environment.begin() as transaction:
            assert transaction.get(b"a") == b"b"
    data = (tmp_path / "lock.mdb").read_bytes()
    found = read_table(data)
    assert found is not None
    assert (found.newest, found.oldest) == (1, None)
    assert read_table(bytes(4096)) is None
    assert read_table(data[:100]) is None


def test_serving_seconds_are_counted_by_state_and_not_before_a_process_that_follows_has_one() -> None:
    now = 0.0
    first, second = (ServingSeconds(follows=follows, clock=lambda: now) for follows in (False, True))
    now = 3.0
    for seconds in (first, second):
        seconds.tell("serving")
    now = 10.0
    first.tell("withdrawn")
    now = 11.0
    assert first.seconds() == {"serving": 7.0, "unavailable": 3.0, "withdrawn": 1.0}
    assert second.seconds() == {"serving": 8.0, "unavailable": 0.0, "withdrawn": 0.0}


async def test_a_daemon_without_a_store_counts_as_unavailable(workbench: Workbench) -> None:
    async with serve(workbench.config()) as served:
        wait_until(lambda: (value(served, "lookupd_serving_seconds_total", state="unavailable") or 0) > 0)
        assert value(served, "lookupd_serving_seconds_total", state="serving") == 0
        assert value(served, "lookupd_store_map_bytes") is None


def make_certificate(path: Path, days: float) -> datetime.datetime:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "replica-a.example")])
    now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    until = now + datetime.timedelta(days=days)
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = made.serial_number(1).not_valid_before(now - datetime.timedelta(days=400)).not_valid_after(until)
    path.write_bytes(path.read_bytes() if path.exists() else b"")
    with path.open("ab") as file:
        file.write(made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    return until


def expiry(certificates: Certificates, path: Path) -> float:
    (family,) = certificates.collect({"certificate": path})
    found: float = family.samples[0].value
    return found


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"none")])
def test_the_first_certificate_to_expire_is_told_and_one_that_cannot_be_read_is_zero(
    tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    path, certificates = tmp_path / "a.pem", Certificates()
    assert expiry(certificates, path) == 0
    make_certificate(path, 90)
    first = make_certificate(path, 5)
    assert expiry(certificates, path) == first.timestamp() == read_expiry(path)
    path.unlink()
    renewed = make_certificate(path, 365)
    assert expiry(certificates, path) == renewed.timestamp()
    damage(path)
    assert expiry(certificates, path) == 0


def test_room_is_told_of_a_place_that_is_not_made_yet(tmp_path: Path) -> None:
    free, size = collect_disks({"store": tmp_path, "usage": tmp_path / "not" / "there", "spool": Path("/proc/1/cwd/x")})
    assert {sample.labels["place"] for sample in free.samples} >= {"store", "usage"}
    values = {sample.labels["place"]: sample.value for sample in size.samples}
    assert values["store"] == values["usage"] > 0


def test_a_feed_ends_with_its_last_key_and_not_at_all_with_one_without_end() -> None:
    ends = [PublicKey(b"12345678", bytes(32), until) for until in (UnixSeconds(100), UnixSeconds(300), None)]
    (family,) = collect_keys({"a": tuple(ends[:2]), "b": tuple(ends), "c": ()})
    assert {sample.labels["feed"]: sample.value for sample in family.samples} == {"a": 300}
