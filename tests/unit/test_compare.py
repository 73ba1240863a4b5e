"""Two replicas: what a daemon tells its peer, the comparison, hostile peers, and blocks mended from the other one."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lmdb
import msgspec
import numpy as np
import pytest

from loader.compare import Compared, compare
from loader.peer import Peer, PeerError, PeerMoved, fetch_block
from lookupd.errors import StoreError
from lookupd.limits import GROUP_BLOCKS, PEER_BLOCKS_MAX
from lookupd.model import TN, JournalKind, NetworkCode, UnixSeconds
from lookupd.store.change import Change
from lookupd.store.mend import Sums, mend_blocks, resum
from lookupd.store.portable import Pinned, Row, StoreState
from lookupd.store.schema import BLOCK_KEY, RESTRICTED
from lookupd.store.verify import verify
from lookupd.store.writer import Writer
from tests.conftest import NETWORKS, RANGES, SNAPSHOT, Workbench, free_port, run_cli, run_daemon

BLOCK = 886912345
REASON = "Wu Mei: disk of replica a, ticket 4712"


def delta(workbench: Workbench, sequence: int = 2) -> None:
    workbench.delta({"kind": "port", "tn": "886912345679", "recipient": "1402", "donor": "1401"}, sequence=sequence)


@pytest.fixture
def other(tmp_path: Path) -> Workbench:
    """The other replica: the same numbers by another path, so that its route ids differ."""
    made = Workbench(tmp_path / "other")
    made.folder.mkdir()
    lines = NETWORKS.splitlines()
    made.load_tables("\n".join([lines[0], *reversed(lines[1:])]) + "\n")
    made.snapshot()
    return made


@contextmanager
def daemon(workbench: Workbench, extra: str = "") -> Iterator[str]:
    """The other replica's daemon; its URL."""
    port = free_port()
    config = workbench.config(extra, f'http = "http://127.0.0.1:{port}"')
    with run_daemon(config, "ready"):
        yield f"http://127.0.0.1:{port}"


def compared(workbench: Workbench, url: str) -> Compared:
    with workbench.reader() as reader:
        return compare(reader, Peer(url))


def test_replicas_that_agree_cost_one_request(loaded: Workbench, other: Workbench) -> None:
    with daemon(other) as url:
        found = compared(loaded, url)
        assert (found.result, found.requests, found.blocks) == ("equal", 1, [])
        assert found.here.positions == found.there.positions == {"main": 1}
        ran = run_cli("loader.cli", "compare", url, "--store", loaded.store)
        assert ran.returncode == 0, ran.stderr
        assert "a: equal" in ran.stdout


def test_numbers_that_differ_are_found_and_masked(loaded: Workbench, other: Workbench) -> None:
    delta(other)
    with daemon(other) as url:
        found = compared(loaded, url)
        assert found.result == "different"
        assert found.blocks == [BLOCK]
        (number,) = found.numbers
        assert number.tn == 886912345679
        assert number.here is not None
        assert number.there is not None
        assert (number.here.route, number.there.route) == (("1401", None), ("1402", None))
        assert not found.same_positions
        assert found.requests <= 4
        ran = run_cli("loader.cli", "compare", url, "--store", loaded.store)
        assert ran.returncode == 6
        assert "+88691234****: here 1401; there 1402" in ran.stdout
        assert "the positions differ" in ran.stdout
        assert "886912345679" not in ran.stdout
        whole = run_cli("loader.cli", "compare", url, "--store", loaded.store, "--show-numbers")
        assert "+886912345679: here 1401" in whole.stdout


def test_tables_that_differ_are_named(loaded: Workbench, other: Workbench) -> None:
    loaded.load_tables(NETWORKS.replace("Gamma", "Delta"), RANGES.replace("88692,1402", "88692,1403"))
    with daemon(other) as url:
        found = compared(loaded, url)
    assert (found.networks, found.ranges, found.blocks) == (["1403"], ["88692"], [])


def test_many_blocks_are_found_over_several_pages(
    loaded: Workbench, other: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [f"8869{at:05d}000,1402,,1401," for at in range(0, 40_000, 7)]
    text = SNAPSHOT.splitlines()[0] + "\n" + "\n".join(rows) + "\n"
    loaded.snapshot(text, sequence=2)
    changed = [100, 3000, 3001, 5000]
    for at in changed:
        rows[at] = rows[at].replace("1402", "1403")
    other.snapshot(text.splitlines()[0] + "\n" + "\n".join(rows[:-1]) + "\n", sequence=2)
    expected = [int(rows[at][:9]) for at in [*changed, len(rows) - 1]]
    monkeypatch.setattr("loader.peer.PEER_BLOCKS_SCANNED_MAX", 10)  # so many pairs a page
    with daemon(other) as url:
        found = compared(loaded, url)
    assert found.blocks == expected
    assert [number.tn for number in found.numbers] == [block * 1000 for block in expected]
    assert found.numbers[-1].there is None


def test_groups_sum_up_their_blocks(other: Workbench) -> None:
    other.snapshot("tn,network_code\n" + "".join(f"8869{at:05d}000,1402\n" for at in range(1000)), sequence=2)
    with daemon(other) as url, other.reader() as reader, Pinned(reader) as pinned:
        contents = dict(pinned.contents())
        starts, sums = Peer(url).groups()
        expected: dict[int, int] = {}
        for block, content in contents.items():
            start = block - block % GROUP_BLOCKS
            expected[start] = (expected.get(start, 0) + content) % (1 << 64)
        assert dict(zip(starts.tolist(), sums.tolist(), strict=True)) == expected
        blocks, values = Peer(url).digests(886900100, 886900110)
        assert dict(zip(blocks.tolist(), values.tolist(), strict=True)) == {
            b: contents[b] for b in range(886900100, 886900110)
        }


def test_block_has_all_that_is_known_of_its_numbers(other: Workbench) -> None:
    with daemon(other) as url:
        assert fetch_block(url, BLOCK) == [
            Row(678, "1402", None, "1401", 1772326800, 1),
            Row(679, "1401", None, "1403", 1772326800, 1),
        ]
        assert fetch_block(url, 886923456) == [Row(789, "1401", "D9999", "1402", None, 1)]
        assert fetch_block(url, BLOCK + 1) == []


@pytest.mark.parametrize(
    "query",
    [
        "digests?from=-1",
        "digests?from=x",
        "digests?count=0",
        "digests?group=100000000",
        "digests?from=%D9%A1",
        "blocks",
        "blocks?block=",
        "blocks?" + "&".join(["block=1"] * (PEER_BLOCKS_MAX + 1)),
    ],
)
def test_bad_question_is_a_bad_request(query: str, bad_questions: Callable[[str], int]) -> None:
    assert bad_questions(query) == 400


@pytest.fixture(scope="module")
def bad_questions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], int]]:
    """Status of a question to one daemon that all cases share."""
    import http.client

    workbench = Workbench(tmp_path_factory.mktemp("asked"))
    workbench.load_tables()
    workbench.snapshot()
    with daemon(workbench) as url:

        def ask(query: str) -> int:
            connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=5)
            connection.request("GET", f"/v1/store/{query}")
            status = connection.getresponse().status
            connection.close()
            return status

        yield ask


def test_peer_that_is_not_on_the_list_is_told_the_way_out(loaded: Workbench, other: Workbench) -> None:
    with daemon(other, '[[client]]\nname = "b"\nsources = ["192.0.2.0/24"]\n') as url:
        ran = run_cli("loader.cli", "compare", url, "--store", loaded.store, "--json")
    assert ran.returncode == 1
    assert "HTTP 403" in json.loads(ran.stdout)["error"]
    assert "[[client]]" in ran.stderr


def test_repair_makes_the_numbers_as_the_peer_has_them_and_says_why(loaded: Workbench, other: Workbench) -> None:
    with (
        Writer(loaded.store) as writer,
        writer.change(UnixSeconds(1_800_000_000)) as change,
    ):  # by a way that left no feed
        counts = change.set_numbers(TN(886912345678), TN(886912345679), 0, 0, 0, 0)
        change.record(JournalKind.REPAIRED, counts)
        counts = change.set_numbers(
            TN(886912345000), TN(886912345000), change.route_id(NetworkCode("1401"), None), 0, 0, 1
        )
        change.record(JournalKind.REPAIRED, counts)
    assert loaded.state()[1] != other.state()[1]
    words = ("--repair", "--reason", "test: the other one is right", "--json")
    with daemon(other) as url:
        ran = run_cli("loader.cli", "compare", url, "--store", loaded.store, *words)
        again = run_cli("loader.cli", "compare", url, "--store", loaded.store)
    assert (ran.returncode, again.returncode) == (0, 0), ran.stderr
    repaired = json.loads(ran.stdout)["repaired"]
    assert (repaired["added"], repaired["removed"], repaired["entries"]) == (2, 1, 3)
    assert loaded.state()[1] == other.state()[1]
    with loaded.reader() as reader:
        assert verify(reader).problem_count == 0
        last = [entry for _, entry, _ in reader.journal()][-1]
        assert (last.reason, last.feed) == ("test: the other one is right", None)
        assert reader.ported(TN(886912345678)) is not None


def test_repair_between_replicas_at_other_positions_is_refused(loaded: Workbench, other: Workbench) -> None:
    loaded.delta({"kind": "return", "tn": "886912345678"}, sequence=2)
    before = loaded.state()
    with daemon(other) as url:
        words = ("--repair", "--reason", "test: never mind")
        ran = run_cli("loader.cli", "compare", url, "--store", loaded.store, *words)
    assert (ran.returncode, "let both replicas catch up" in ran.stderr) == (1, True)
    assert loaded.state() == before


def test_client_that_is_no_peer_reads_metrics_and_not_the_store(loaded: Workbench, other: Workbench) -> None:
    import urllib.request

    with daemon(other, '[[client]]\nname = "switch"\nsources = ["127.0.0.1/32"]\n') as url:
        ran = run_cli("loader.cli", "compare", url, "--store", loaded.store)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{url}/metrics", timeout=5) as reply:
            assert reply.status == 200
    assert (ran.returncode, "peer = true" in ran.stderr) == (1, True)


def test_daemon_without_a_store_says_so(loaded: Workbench, tmp_path: Path) -> None:
    empty = Workbench(tmp_path / "empty")
    empty.folder.mkdir()
    port = free_port()
    with run_daemon(empty.config("", f'http = "http://127.0.0.1:{port}"')):
        ran = run_cli("loader.cli", "compare", f"http://127.0.0.1:{port}", "--store", loaded.store)
    assert ran.returncode == 1
    assert "HTTP 503" in ran.stderr


def test_peer_that_is_not_there_is_told(loaded: Workbench) -> None:
    ran = run_cli("loader.cli", "compare", f"http://127.0.0.1:{free_port()}", "--store", loaded.store)
    assert ran.returncode == 1
    assert "no answer" in ran.stderr


@pytest.mark.parametrize(
    "url", ["", "ftp://x", "http://", "http://h:x", "http://h/path", "http://u:p@h", "http://h?q=1"]
)
def test_bad_url_is_refused(url: str) -> None:
    with pytest.raises(PeerError):
        Peer(url)


# -- hostile peers ---------------------------------------------------------------------------------------

STATE = msgspec.json.encode(StoreState("x", 7, "00000000000000ff", 4, 3, {}))


def reply(
    body: bytes, headers: str = "Lookupd-Serial: 7\r\n", status: str = "200 OK", length: int | None = None
) -> bytes:
    size = len(body) if length is None else length
    return f"HTTP/1.1 {status}\r\nContent-Length: {size}\r\n{headers}Connection: close\r\n\r\n".encode() + body


@contextmanager
def hostile(*answers: bytes) -> Iterator[str]:
    """Sends these bytes, one to each connection, then closes it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)

        def run() -> None:
            for answer in answers:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65_536)
                    connection.sendall(answer)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}"
        finally:
            server.close()
            thread.join()


def pairs(*values: int) -> bytes:
    return np.array(values, "<u8").tobytes()


def rows_of(*rows: object) -> bytes:
    return msgspec.msgpack.encode([[BLOCK, list(rows)]])


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", "no answer"),
        (b"\0\1\2 nonsense\r\n\r\n", "no answer"),
        (reply(STATE, headers=""), "no Lookupd-Serial"),
        (reply(STATE, headers="Lookupd-Serial: -1\r\n"), "no Lookupd-Serial"),
        (reply(b"{}"), "cannot be read"),
        (reply(STATE.replace(b"00000000000000ff", b"0000000000000xyz")), "no hex number"),
        (reply(b"\xff\xfe"), "cannot be read"),
        (reply(STATE, status="302 Found", headers="Location: http://127.0.0.1:1/\r\n"), "HTTP 302"),
        (reply(STATE, length=len(STATE) + 1), "no answer"),
        (reply(b"secret", status="404 Not Found"), "is it a lookupd"),
    ],
)
def test_hostile_state_gives_a_clear_error(answer: bytes, reason: str) -> None:
    with hostile(answer) as url, pytest.raises(PeerError, match=reason):
        Peer(url, timeout=2).state()


@pytest.mark.parametrize(
    ("body", "headers", "reason"),
    [
        (b"1234567", "", "no pairs"),
        (pairs(5, 1, 5, 1), "", "not in order"),
        (pairs(9, 1, 5, 1), "", "not in order"),
        (pairs(0, 1), "Lookupd-Next: 0\r\n", "in a circle"),
        (b"", "Lookupd-Next: 0\r\n", "in a circle"),
        (b"", "Lookupd-Next: 7\r\n", "in a circle"),
        (pairs(0, 1), "Lookupd-Next: x\r\n", "bad Lookupd-Next"),
    ],
)
def test_hostile_digests_give_a_clear_error(body: bytes, headers: str, reason: str) -> None:
    answer = reply(body, headers="Lookupd-Serial: 7\r\n" + headers)
    with hostile(answer) as url, pytest.raises(PeerError, match=reason):
        Peer(url, timeout=2).digests(0, 1000)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (msgspec.msgpack.encode([]), "other blocks"),
        (msgspec.msgpack.encode([[BLOCK + 1, []]]), "other blocks"),
        (rows_of([1000, "1402", None, None, None, 1]), "not in order"),
        (rows_of([-1, "1402", None, None, None, 1]), "not in order"),
        (rows_of([5, "1402", None, None, None, 1], [5, "1402", None, None, None, 1]), "not in order"),
        (rows_of([5, "no such", None, None, None, 1]), "cannot be"),
        (rows_of([5, "1402", "xyz", None, None, 1]), "cannot be"),
        (rows_of([5, "1402", None, "", None, 1]), "cannot be"),
        (rows_of([5, "1402", None, None, 1 << 32, 1]), "cannot be"),
        (rows_of([5, "1402", None, None, None, -1]), "cannot be"),
        (rows_of([5, 1402, None, None, None, 1]), "cannot be read"),
        (b"\xdd\xff\xff\xff\xff", "cannot be read"),
    ],
)
def test_hostile_block_gives_a_clear_error(body: bytes, reason: str) -> None:
    with hostile(reply(body)) as url, pytest.raises(PeerError, match=reason):
        fetch_block(url, BLOCK, timeout=2)


def test_answer_without_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loader.peer.PEER_ANSWER_BYTES_MAX", 1000)
    with hostile(reply(bytes(2000))) as url, pytest.raises(PeerError, match="more than 1000 bytes"):
        fetch_block(url, BLOCK, timeout=2)


def test_peer_whose_state_moves_on_is_asked_again_and_then_told(loaded: Workbench) -> None:
    moved = reply(b"", headers="Lookupd-Serial: 8\r\n")
    with hostile(*[reply(STATE), moved] * 6) as url, pytest.raises(PeerMoved, match="from serial 7 to 8"):
        compared(loaded, url)


# -- mending ---------------------------------------------------------------------------------------------


def damage(store: Path, change: Callable[[bytearray], None]) -> None:
    """Past our own code, as a bad disk would."""
    environment = lmdb.open(str(store), map_size=1 << 26, max_dbs=16, lib_version=0)
    try:
        handle = environment.open_db(b"blocks")
        with environment.begin(write=True, db=handle) as transaction:
            value = bytearray(transaction.get(BLOCK_KEY.pack(BLOCK)) or b"")
            change(value)
            transaction.put(BLOCK_KEY.pack(BLOCK), bytes(value))
    finally:
        environment.close()


def flip(at: int) -> Callable[[bytearray], None]:
    def change(value: bytearray) -> None:
        value[at] ^= 0x41

    return change


def mend(workbench: Workbench, use: Callable[[Change], Any]) -> Any:
    with Writer(workbench.store) as writer, writer.change(UnixSeconds(9)) as change:
        return use(change)


@pytest.mark.parametrize("at", [0, 2 * 678, 2 * 679, 1999, 2001, 2010])
def test_block_mended_from_the_other_replica_is_proven_by_the_digest(
    loaded: Workbench, other: Workbench, at: int
) -> None:
    with other.reader() as reader, Pinned(reader) as pinned:
        rows = pinned.rows(BLOCK)
    assert rows is not None
    serial, digest, _ = loaded.state()
    damage(loaded.store, flip(at))
    done = mend(loaded, lambda change: mend_blocks(change, {BLOCK: rows}, "http://b", REASON))
    assert (done.proven, done.numbers) == (True, 2)
    assert loaded.state()[:2] == (serial + 1, digest)
    with loaded.reader() as reader, other.reader() as theirs:
        assert verify(reader).problems == []
        for tn in (TN(886912345678), TN(886912345679), TN(886912345680)):
            assert reader.ported(tn) == theirs.ported(tn)
        (_, entry, _) = list(reader.journal())[-1]
        assert (entry.kind, entry.reason, entry.tn) == (JournalKind.REPAIRED, REASON, None)
        assert entry.source == f"http://b, blocks {BLOCK}"


def test_numbers_that_were_not_lost_are_not_written(loaded: Workbench) -> None:
    before = loaded.state()
    damage(loaded.store, flip(4))
    wrong = [Row(678, "1403", None, None, None, 1)]
    with pytest.raises(StoreError, match="does not have the numbers that were lost"):
        mend(loaded, lambda change: mend_blocks(change, {BLOCK: wrong}, "http://b", REASON))
    assert loaded.state() == before


def test_mend_that_is_not_proven_can_be_kept_and_history_says_so(loaded: Workbench) -> None:
    damage(loaded.store, flip(4))
    rows = [Row(678, "1403", None, None, None, 1)]
    done = mend(loaded, lambda change: mend_blocks(change, {BLOCK: rows}, "http://b", REASON, unproven=True))
    assert not done.proven
    with loaded.reader() as reader:
        assert verify(reader).problems == []
        assert reader.state.ported == 3
        (_, entry) = reader.history(TN(886912345000), 1)[0]
        assert entry.kind is JournalKind.REPAIRED


def test_second_damaged_block_must_be_mended_together(loaded: Workbench, other: Workbench) -> None:
    with other.reader() as reader, Pinned(reader) as pinned:
        rows = {block: pinned.rows(block) or [] for block in (BLOCK, 886923456)}
    damage(loaded.store, flip(4))
    environment = lmdb.open(str(loaded.store), map_size=1 << 26, max_dbs=16, lib_version=0)
    with environment.begin(write=True, db=environment.open_db(b"blocks")) as transaction:
        transaction.put(BLOCK_KEY.pack(886923456), b"short")
    environment.close()
    with pytest.raises(StoreError, match="more blocks are damaged: 886923456"):
        mend(loaded, lambda change: mend_blocks(change, {BLOCK: rows[BLOCK]}, "http://b", REASON))
    done = mend(loaded, lambda change: mend_blocks(change, rows, "http://b", REASON))
    assert done.proven
    with loaded.reader() as reader:
        assert verify(reader).problems == []


@pytest.mark.parametrize("harm", [2 * 678, 2 * 5 + 1, 2 * 700 + 1, 2010], ids=["route", "bit", "no bit", "checksum"])
def test_restriction_bits_of_a_mended_block_follow_the_restrictions(
    loaded: Workbench, other: Workbench, harm: int
) -> None:
    stop = {"kind": "restrict", "measure": "stop", "authority": "NPA", "case": "1"}
    for bench in (loaded, other):
        bench.delta(stop | {"tn": "886912345678"}, stop | {"tn": "886912345005", "tn_to": "886912345006"}, sequence=2)
    with other.reader() as reader, Pinned(reader) as pinned:
        rows = pinned.rows(BLOCK) or []
    damage(loaded.store, flip(harm))
    done = mend(loaded, lambda change: mend_blocks(change, {BLOCK: rows}, "http://b", REASON))
    assert done.proven
    with loaded.reader() as reader:
        marked = [tn for tn in range(BLOCK * 1000, BLOCK * 1000 + 1000) if reader.entry(tn) & RESTRICTED]
        assert marked == [886912345005, 886912345006, 886912345678]
        assert verify(reader).problems == []


def test_resum_counts_what_is_there(loaded: Workbench) -> None:
    serial, digest, _ = loaded.state()
    with Writer(loaded.store) as writer, writer.change(UnixSeconds(9)) as change:
        assert resum(change) == Sums(digest, 4, ())
        assert change.serial == serial
    damage(loaded.store, flip(4))
    with Writer(loaded.store) as writer, writer.change(UnixSeconds(9)) as change:
        assert (resum(change).ported, resum(change).damaged) == (2, (BLOCK,))


def test_block_damaged_there_is_told_and_counts_as_different(loaded: Workbench, other: Workbench) -> None:
    delta(loaded)
    damage(other.store, flip(4))
    with daemon(other) as url:
        assert fetch_block(url, BLOCK) is None
        found = compared(loaded, url)
    assert (found.blocks, found.damaged_there, found.numbers) == ([BLOCK], [BLOCK], [])
