"""Feeds that lie, stammer or fall silent: what the exchange makes of them, and how it goes on afterwards.

Whatever is refused leaves position and digest as they were and is told to the sender; the good file in its place
is applied. One rig each, on clocks that the test moves; real processes where the process is the point.
"""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec
import pytest
import zstandard

from loader.formats.lookupd_steps import OwnFormat
from loader.sources.folder import FolderSource
from loader.trust import Signer
from lookupd.errors import SourceError, StoreError
from lookupd.limits import ROUTES_MAX
from lookupd.model import TN, JournalKind, Receipt, UnixMillis
from tests.conftest import Workbench, run_cli, wait_until
from tests.exchange import (
    T0,
    Exchange,
    Model,
    Rig,
    at,
    back,
    changes_by_place,
    delta_name,
    lines,
    notice,
    number_return,
    port,
    wait_for_ack,
)
from tests.faults.test_kill import digest_of, holder, snapshot_text

SEED = 20261122
SENDER = Signer(bytes(range(32)), b"sender01")
STRANGER = Signer(bytes(range(1, 33)), b"stranger")
BASE = {886912345678: "1402", 886912345679: "1401", 886923456789: "1401"}
SMALL = lines(notice("886912345678"), number_return("886912345679"))
LATER_THAN_ANY_RETRY = 400.0


@contextmanager
def fast_folder() -> Iterator[Path]:
    """In memory, where there is such a place: these tests sync thousands of times, and are not about disks."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


@pytest.fixture
def fast() -> Iterator[Workbench]:
    with fast_folder() as folder:
        yield Workbench(folder)


@asynccontextmanager
async def rig_at_1(bench: Workbench, extra: str = "", feed: str = "", **how: Any) -> AsyncIterator[Rig]:
    """A running rig that has taken the snapshot of BASE as position 1."""
    signer = how.pop("signer", None)
    bench.load_tables()
    rig = Rig(bench, extra, feed, **how)
    rig.snapshot(1, snapshot_text(BASE), signer=signer)
    async with rig.running_here():
        await rig.round()
        assert await rig.facts() == (1, digest_of(BASE))
        yield rig


def with_key(*signers: Signer, until: str = "") -> str:
    keys = [signer.public_key_text() + until for signer in signers]
    return f"public_key = {json.dumps(keys)}"


async def expect_refused(rig: Rig, name: str, before: tuple[int, int], what: str) -> None:
    """One round later: nothing moved, and the sender reads a rejection."""
    rig.machine.advance(LATER_THAN_ANY_RETRY)
    (rig.source / (name + ".ack.json")).unlink(missing_ok=True)
    await rig.round()
    assert await rig.facts() == before, what
    assert rig.acked(name) == "rejected", what
    ack = rig.ack(name)
    assert ack["rejected"], what
    assert (ack["confirmed_at"], ack["visible_at"], ack["digest"]) == (None, None, None), what


async def expect_applied(rig: Rig, sequence: int, numbers: dict[int, str]) -> None:
    rig.machine.advance(LATER_THAN_ANY_RETRY)
    await rig.round()
    assert await rig.facts() == (sequence, digest_of(numbers))
    assert rig.acked(delta_name(sequence)) == "applied"
    assert rig.main.trouble is None
    assert await rig.problems() == []


AFTER_SMALL = {886912345678: "1403", 886923456789: "1401"}
PACKED: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": lambda data: gzip.compress(data, mtime=0),
    ".zst": zstandard.ZstdCompressor(write_checksum=True).compress,
}


# -- bytes that are not those of the sender --------------------------------------------------------------


@pytest.mark.parametrize("signer", [None, SENDER], ids=["unsigned", "signed"])
@pytest.mark.parametrize("ending", PACKED, ids=["plain", "gz", "zst"])
async def test_delta_cut_at_any_byte_is_refused_and_the_whole_one_applied(
    fast: Workbench, ending: str, signer: Signer | None
) -> None:
    async with rig_at_1(fast, feed=with_key(SENDER) if signer else "", gap_wait="99999999s", signer=signer) as rig:
        before = await rig.facts()
        name = delta_name(2) + ending
        whole = PACKED[ending](SMALL.encode())
        path = rig.publish(name, whole, 2, signer=signer)
        for length in range(len(whole)):
            path.write_bytes(whole[:length])
            await expect_refused(rig, name, before, f"cut to {length} of {len(whole)} bytes")
        path.write_bytes(whole)
        rig.machine.advance(LATER_THAN_ANY_RETRY)
        await rig.round()
        assert await rig.facts() == (2, digest_of(AFTER_SMALL))
        assert rig.acked(name) == "applied"


@pytest.mark.parametrize("ending", PACKED, ids=["plain", "gz", "zst"])
async def test_delta_cut_before_its_hash_was_made_is_refused_too(fast: Workbench, ending: str) -> None:
    async with rig_at_1(fast, gap_wait="99999999s") as rig:
        before = await rig.facts()
        name = delta_name(2) + ending
        whole = PACKED[ending](SMALL.encode())
        for length in range(len(whole) - (ending == "")):  # the last line needs no line end
            rig.publish(name, whole[:length], 2)
            await expect_refused(rig, name, before, f"cut to {length} of {len(whole)} bytes, with its own hash")


@pytest.mark.parametrize("signer", [None, SENDER], ids=["unsigned", "signed"])
@pytest.mark.parametrize("ending", PACKED, ids=["plain", "gz", "zst"])
async def test_every_flipped_bit_of_a_delta_is_refused(fast: Workbench, ending: str, signer: Signer | None) -> None:
    async with rig_at_1(fast, feed=with_key(SENDER) if signer else "", gap_wait="99999999s", signer=signer) as rig:
        before = await rig.facts()
        name = delta_name(2) + ending
        whole = PACKED[ending](lines(notice("886912345678")).encode())
        path = rig.publish(name, whole, 1, signer=signer)
        for bit in range(8 * len(whole)):
            path.write_bytes(flipped(whole, bit))
            await expect_refused(rig, name, before, f"bit {bit % 8} of byte {bit // 8} of {len(whole)}")
        path.write_bytes(whole)
        rig.machine.advance(LATER_THAN_ANY_RETRY)
        await rig.round()
        assert await rig.facts() == (2, digest_of(BASE | {886912345678: "1403"}))
        assert rig.acked(name) == "applied"


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


async def test_every_flipped_bit_of_a_signed_manifest_is_refused(fast: Workbench) -> None:
    async with rig_at_1(fast, feed=with_key(SENDER), gap_wait="99999999s", signer=SENDER) as rig:
        before = await rig.facts()
        manifest = rig.delta(2, notice("886912345678"), signer=SENDER).with_name(delta_name(2) + ".json")
        whole = manifest.read_bytes()
        for bit in range(8 * len(whole)):
            manifest.write_bytes(flipped(whole, bit))
            await expect_refused(rig, delta_name(2), before, f"bit {bit % 8} of byte {bit // 8} of {len(whole)}")
        manifest.write_bytes(whole)
        await expect_applied(rig, 2, BASE | {886912345678: "1403"})


async def test_flipped_bit_of_an_unsigned_manifest_is_refused_unless_only_its_date_is_another(fast: Workbench) -> None:
    """Nothing vouches for the date of an unsigned manifest; for everything else the file itself does."""
    async with rig_at_1(fast, gap_wait="99999999s") as rig:
        before = await rig.facts()
        manifest = rig.delta(2, notice("886912345678")).with_name(delta_name(2) + ".json")
        whole = manifest.read_bytes()
        fields = json.loads(whole)
        refused = 0
        for bit in range(8 * len(whole)):
            changed = flipped(whole, bit)
            if only_the_date_differs(changed, fields):
                continue
            manifest.write_bytes(changed)
            await expect_refused(rig, delta_name(2), before, f"bit {bit % 8} of byte {bit // 8} of {len(whole)}")
            refused += 1
        assert refused > 8 * (len(whole) - len("2026-11-22T10:00:05+08:00"))
        manifest.write_bytes(whole)
        await expect_applied(rig, 2, BASE | {886912345678: "1403"})


def only_the_date_differs(changed: bytes, fields: dict[str, Any]) -> bool:
    from lookupd.units import parse_time

    try:
        found = msgspec.json.decode(changed)
        parse_time(found["created_at"])
    except (ValueError, KeyError, TypeError):
        return False
    return bool(found | {"created_at": fields["created_at"]} == fields)


# -- order -----------------------------------------------------------------------------------------------

ORDERS = [(5, 3, 4, 2), (5, 4, 3, 2), (2, 5, 4, 3), (3, 2, 5, 4)]


@pytest.mark.parametrize("order", ORDERS, ids=str)
async def test_deltas_that_arrive_in_any_order_are_applied_in_theirs(
    workbench: Workbench, order: tuple[int, ...]
) -> None:
    model = Model(BASE)
    deltas = {
        2: model.say(2, port(886912345000, "1401"), port(886912345678, "1403")),
        3: model.say(3, back(886912345000), port(886912345678, "1401")),
        4: model.say(4, port(886912345000, "1402"), back(886912345678)),
        5: model.say(5, port(886912345678, "1402", tn_to=886912345690)),
    }
    async with rig_at_1(workbench) as rig:
        there: set[int] = set()
        for sequence in order:
            rig.delta(sequence, *deltas[sequence])
            there.add(sequence)
            rig.machine.advance(1)
            await rig.round()
            reached = next(at - 1 for at in itertools.count(2) if at not in there)
            assert await rig.facts() == (reached, digest_of(model.numbers(reached, T0)))
        assert await rig.numbers() == model.numbers(5, T0)
        assert [rig.acked(delta_name(sequence)) for sequence in deltas] == ["applied"] * 4
        assert set(changes_by_place(await rig.journal()).values()) == {1}
        assert rig.main.trouble is None
        assert await rig.problems() == []


async def test_forty_deltas_shuffled_over_rounds_end_like_in_order(fast: Workbench) -> None:
    chance = random.Random(SEED)
    model = Model(BASE)
    numbers = range(886912345670, 886912345690)
    deltas = {}
    for sequence in range(2, 42):
        tn = chance.choice(numbers)
        word = back(tn) if chance.random() < 0.3 else port(tn, chance.choice(("1401", "1402", "1403")))
        deltas[sequence] = model.say(sequence, word)
    order = sorted(deltas)
    chance.shuffle(order)
    async with rig_at_1(fast) as rig:
        while order:
            for _ in range(min(chance.randint(1, 6), len(order))):
                sequence = order.pop()
                rig.delta(sequence, *deltas[sequence])
            rig.machine.advance(5)
            await rig.round()
            position, digest = await rig.facts()
            assert digest == digest_of(model.numbers(position, T0)), f"seed {SEED}, at {position}"
        assert position == 41, f"seed {SEED}"
        places = changes_by_place(await rig.journal())
        assert places == {(sequence, 1): 1 for sequence in deltas}, f"seed {SEED}"
        assert {rig.acked(delta_name(sequence)) for sequence in deltas} == {"applied"}


@pytest.mark.parametrize("late", ["data", "manifest", "signature"])
async def test_step_is_taken_when_the_last_of_its_files_appears(workbench: Workbench, late: str) -> None:
    signer = SENDER if late == "signature" else None
    async with rig_at_1(workbench, feed=with_key(SENDER) if signer else "", signer=signer) as rig:
        before = await rig.facts()
        rig.delta(2, notice("886912345678"), number_return("886912345679"), signer=signer)
        ending = {"data": "", "manifest": ".json", "signature": ".json.minisig"}[late]
        missing = rig.source / (delta_name(2) + ending)
        aside = workbench.folder / "aside"
        missing.rename(aside)
        for _ in range(3):
            rig.machine.advance(10)
            await rig.round()
            assert await rig.facts() == before
            assert rig.acked(delta_name(2)) is None
            assert rig.main.trouble is None
        aside.rename(missing)
        await expect_applied(rig, 2, AFTER_SMALL)


async def test_repeat_is_acknowledged_and_changes_nothing(workbench: Workbench) -> None:
    async with rig_at_1(workbench) as rig:
        rig.delta(2, *map(json.loads, SMALL.splitlines()))
        rig.delta(3, notice("886912345000"))
        await expect_applied(rig, 3, AFTER_SMALL | {886912345000: "1403"})
        facts, journal = await rig.facts(), await rig.journal()
        first = {name: rig.ack(name) for name in (delta_name(2), delta_name(3))}
        for name in first:  # the sender heard nothing, and sends both again
            (rig.source / (name + ".ack.json")).unlink()
        rig.delta(2, *map(json.loads, SMALL.splitlines()))
        rig.delta(3, notice("886912345000"))
        rig.machine.advance(100)
        await rig.round()
        assert {name: rig.ack(name) for name in first} == first
        assert (await rig.facts(), await rig.journal()) == (facts, journal)


async def test_repeat_of_what_a_snapshot_or_a_person_brought_is_a_duplicate(workbench: Workbench) -> None:
    workbench.load_tables()
    workbench.snapshot(snapshot_text(BASE), sequence=7)
    rig = Rig(workbench)
    async with rig.running_here():
        rig.delta(7, notice("886912345678"))
        before = await rig.facts()
        await rig.round()
        assert await rig.facts() == before
        assert rig.acked(delta_name(7)) == "duplicate"


# -- whom we believe -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("signer", "keys", "reason"),
    [
        (STRANGER, with_key(SENDER), "signed by key"),
        (SENDER, with_key(SENDER, until=" until 2026-01-01T00:00:00Z"), "expired at 2026-01-01T00:00:00Z"),
    ],
    ids=["a stranger's key", "an expired key"],
)
async def test_key_that_is_not_believed_loads_nothing(
    workbench: Workbench, signer: Signer, keys: str, reason: str
) -> None:
    workbench.load_tables()
    workbench.snapshot(snapshot_text(BASE))
    rig = Rig(workbench, feed=keys)
    async with rig.running_here():
        before = await rig.facts()
        rig.delta(2, notice("886912345678"), signer=signer)
        await expect_refused(rig, delta_name(2), before, reason)
        assert reason in rig.ack(delta_name(2))["rejected"][0]["reason"]
        assert rig.main.trouble is not None
        assert rig.main.trouble.exit_code == 4


async def test_snapshot_of_a_stranger_does_not_fill_an_empty_store(workbench: Workbench) -> None:
    workbench.load_tables()
    rig = Rig(workbench, feed=with_key(SENDER))
    rig.snapshot(1, snapshot_text(BASE), signer=STRANGER)
    async with rig.running_here():
        before = await rig.facts()
        await expect_refused(rig, "snapshot-main-1.csv", before, "snapshot")
        assert before[0] == 0
        rig.snapshot(1, snapshot_text(BASE), signer=SENDER)
        rig.machine.advance(LATER_THAN_ANY_RETRY)
        await rig.round()
        assert await rig.facts() == (1, digest_of(BASE))


async def test_two_keys_let_the_sender_change_from_one_to_the_other(workbench: Workbench) -> None:
    keys = with_key(SENDER, STRANGER)
    async with rig_at_1(workbench, feed=keys, signer=SENDER) as rig:
        numbers = dict(BASE)
        for sequence, signer in enumerate((SENDER, STRANGER, SENDER, STRANGER), 2):
            numbers[886912345000 + sequence] = "1403"
            rig.delta(sequence, notice(886912345000 + sequence), signer=signer)
            await expect_applied(rig, sequence, numbers)


async def test_old_key_ends_while_the_new_one_goes_on(workbench: Workbench) -> None:
    keys = [SENDER.public_key_text() + " until 2026-01-01T00:00:00Z", STRANGER.public_key_text()]
    async with rig_at_1(workbench, feed=f"public_key = {json.dumps(keys)}", signer=STRANGER) as rig:
        before = await rig.facts()
        rig.delta(2, notice("886912345678"), signer=SENDER)
        await expect_refused(rig, delta_name(2), before, "old key")
        rig.delta(2, notice("886912345678"), signer=STRANGER)
        await expect_applied(rig, 2, BASE | {886912345678: "1403"})


async def test_signed_older_files_cannot_roll_the_store_back(workbench: Workbench) -> None:
    async with rig_at_1(workbench, feed=with_key(SENDER), signer=SENDER) as rig:
        rig.delta(2, notice("886912345678", "1401"), signer=SENDER)
        rig.delta(3, notice("886912345678", "1403"), signer=SENDER)
        numbers = BASE | {886912345678: "1403"}
        await expect_applied(rig, 3, numbers)
        facts, journal = await rig.facts(), await rig.journal()
        for ending in ("", ".json", ".json.minisig"):  # under its own name, as if it were new
            path = rig.source / (delta_name(2) + ending)
            content = path.read_bytes()
            path.unlink()
            path.write_bytes(content)
        (rig.source / (delta_name(2) + ".ack.json")).unlink()
        rig.snapshot(1, snapshot_text(BASE), signer=SENDER)
        for _ in range(3):
            rig.machine.advance(LATER_THAN_ANY_RETRY)
            await rig.round()
            assert (await rig.facts(), await rig.journal()) == (facts, journal)
        for ending in ("", ".json", ".json.minisig"):  # as the next one: the signed manifest names another
            shutil.copy(rig.source / (delta_name(2) + ending), rig.source / (delta_name(4) + ending))
        await expect_refused(rig, delta_name(4), facts, "renamed")
        assert "its manifest is for delta-main-2" in rig.ack(delta_name(4))["rejected"][0]["reason"]
        assert await rig.journal() == journal
        rig.delta(4, notice("886912345679", "1402"), signer=SENDER)
        await expect_applied(rig, 4, numbers | {886912345679: "1402"})


async def test_signed_older_snapshot_under_a_new_name_does_not_bridge_a_gap(workbench: Workbench) -> None:
    async with rig_at_1(workbench, feed=with_key(SENDER), gap_wait="60s", signer=SENDER) as rig:
        rig.delta(2, notice("886912345678"), signer=SENDER)
        numbers = BASE | {886912345678: "1403"}
        await expect_applied(rig, 2, numbers)
        rig.delta(4, notice("886912345000"), signer=SENDER)
        for ending in ("", ".json", ".json.minisig"):
            shutil.copy(rig.source / f"snapshot-main-1.csv{ending}", rig.source / f"snapshot-main-9.csv{ending}")
        for _ in range(4):
            rig.machine.advance(LATER_THAN_ANY_RETRY)
            await rig.round()
            assert await rig.facts() == (2, digest_of(numbers))
        assert rig.acked("snapshot-main-9.csv") == "rejected"


async def test_unsigned_files_are_not_taken_when_a_key_is_set(workbench: Workbench) -> None:
    workbench.load_tables()
    workbench.snapshot(snapshot_text(BASE))
    rig = Rig(workbench, feed=with_key(SENDER))
    async with rig.running_here():
        before = await rig.facts()
        rig.delta(2, notice("886912345678"))
        for _ in range(3):
            rig.machine.advance(LATER_THAN_ANY_RETRY)
            await rig.round()
            assert await rig.facts() == before
            assert rig.acked(delta_name(2)) is None
        rig.delta(2, notice("886912345678"), signer=SENDER)
        await expect_applied(rig, 2, BASE | {886912345678: "1403"})


# -- gaps ------------------------------------------------------------------------------------------------

REQUEST = "request-main.a.json"


async def test_gap_is_waited_for_and_then_a_snapshot_is_asked_for_once(workbench: Workbench) -> None:
    async with rig_at_1(workbench, gap_wait="600s") as rig:
        before = await rig.facts()
        rig.delta(3, notice("886912345678"))
        rig.delta(4, notice("886912345000"))
        began = rig.machine.wall
        while rig.machine.wall < began + 600:
            await rig.round()
            assert not (rig.source / REQUEST).exists(), rig.machine.wall - began
            assert rig.metric("lookupd_feed_snapshot_wanted") == 0
            assert rig.metric("lookupd_feed_blocked", reason="gap") == 1
            assert rig.unapplied("port") == 2  # they are here, and their clocks run
            rig.machine.advance(60)
        await rig.round()
        request = json.loads((rig.source / REQUEST).read_text())
        assert (request["feed"], request["replica"], request["position"], request["wants"]) == (
            "main",
            "a",
            1,
            "snapshot",
        )
        assert rig.metric("lookupd_feed_snapshot_wanted") == 1
        assert await rig.facts() == before
        (rig.source / REQUEST).unlink()
        for _ in range(3):
            rig.machine.advance(600)
            await rig.round()
        assert not (rig.source / REQUEST).exists()  # once a gap
        rig.snapshot(3, snapshot_text(BASE | {886912345678: "1403"}))
        await rig.round()
        await rig.round()
        assert await rig.facts() == (4, digest_of(BASE | {886912345678: "1403", 886912345000: "1403"}))
        assert rig.acked("snapshot-main-3.csv") == "applied"
        assert rig.main.trouble is None
        assert (rig.unapplied("port"), rig.metric("lookupd_feed_snapshot_wanted")) == (0, 0)


async def test_gap_is_bridged_by_a_newer_snapshot_only_after_the_wait(workbench: Workbench) -> None:
    after = BASE | {886912345000: "1403", 886912345001: "1403"}
    async with rig_at_1(workbench, gap_wait="600s") as rig:
        before = await rig.facts()
        rig.delta(3, notice("886912345000"))
        rig.delta(5, notice("886912345001"))
        rig.snapshot(4, snapshot_text(BASE | {886912345000: "1403"}))
        await rig.round()
        rig.machine.advance(599)
        await rig.round()
        assert await rig.facts() == before
        rig.machine.advance(2)
        await rig.round()
        await rig.round()
        assert await rig.facts() == (5, digest_of(after))
        assert not (rig.source / REQUEST).exists()
        assert rig.acked("snapshot-main-4.csv") == "applied"
        assert rig.acked(delta_name(5)) == "applied"


@pytest.mark.parametrize("waited", [30.0, 10_000.0], ids=["in time", "after the request"])
async def test_missing_file_that_comes_late_closes_the_gap(workbench: Workbench, waited: float) -> None:
    model = Model(BASE)
    two, three, four = (model.say(at, port(886912345678, code)) for at, code in ((2, "1401"), (3, "1403"), (4, "1402")))
    async with rig_at_1(workbench, gap_wait="600s") as rig:
        rig.delta(4, *four)
        rig.delta(3, *three)
        await rig.round()
        rig.machine.advance(waited)
        await rig.round()
        assert (rig.source / REQUEST).exists() == (waited > 600)
        assert rig.main.trouble is not None
        assert rig.main.trouble.kind == "gap"
        rig.delta(2, *two)
        await rig.round()
        assert await rig.facts() == (4, digest_of(model.numbers(4, T0)))
        assert rig.main.trouble is None
        assert rig.metric("lookupd_feed_blocked", reason="gap") == 0
        assert rig.metric("lookupd_feed_snapshot_wanted") == 0
        assert [rig.acked(delta_name(sequence)) for sequence in (2, 3, 4)] == ["applied"] * 3


async def test_gap_at_a_fresh_store_without_a_snapshot_asks_for_one(workbench: Workbench) -> None:
    workbench.load_tables()
    rig = Rig(workbench, gap_wait="600s")
    rig.delta(5, notice("886912345678"))
    async with rig.running_here():
        await rig.round()
        rig.machine.advance(601)
        await rig.round()
        assert json.loads((rig.source / REQUEST).read_text())["position"] == 0
        rig.snapshot(4, snapshot_text(BASE))
        await rig.round()
        assert await rig.facts() == (5, digest_of(BASE | {886912345678: "1403"}))


def test_once_ends_with_code_5_at_a_gap_and_0_when_it_is_closed(workbench: Workbench) -> None:
    workbench.load_tables()
    exchange = Exchange(workbench, gap_wait="0s")
    exchange.snapshot(1, snapshot_text(BASE))
    exchange.delta(3, notice("886912345678"))
    done = exchange.once()
    assert done.returncode == 5, done.stderr
    reply = json.loads(done.stdout)
    assert (reply["result"], reply["exit_code"]) == ("waiting", 5)
    assert reply["feeds"][0] | {"reason": ""} == {"feed": "main", "position": 1, "trouble": "gap", "reason": ""}
    assert "2 missing" in reply["feeds"][0]["reason"]
    assert json.loads((exchange.source / REQUEST).read_text())["position"] == 1
    exchange.delta(2, notice("886912345000"))
    done = exchange.once()
    assert done.returncode == 0, done.stderr
    assert exchange.position() == 3


# -- files that are refused ------------------------------------------------------------------------------


async def test_rejected_delta_blocks_until_its_sender_replaces_it(workbench: Workbench) -> None:
    async with rig_at_1(workbench, gap_wait="99999999s") as rig:
        before = await rig.facts()
        rig.delta(2, notice("886912345678"), notice("110"), notice("886912345000", "9999"))
        rig.delta(3, notice("886912345001"))
        await expect_refused(rig, delta_name(2), before, "bad rows")
        assert [row["line"] for row in rig.ack(delta_name(2))["rejected"]] == [2, 3]
        assert rig.metric("lookupd_feed_blocked", reason="rejected") == 1
        for _ in range(3):
            rig.machine.advance(LATER_THAN_ANY_RETRY)
            await rig.round()
            assert await rig.facts() == before
        rig.delta(2, notice("886912345678"), notice("886912345000"))
        await expect_applied(rig, 3, BASE | dict.fromkeys((886912345678, 886912345000, 886912345001), "1403"))
        assert rig.acked(delta_name(2)) == "applied"
        assert rig.ack(delta_name(2))["rejected"] == []
        assert rig.metric("lookupd_feed_blocked", reason="rejected") == 0


async def test_rejected_delta_that_stays_makes_us_ask_for_a_snapshot(workbench: Workbench) -> None:
    async with rig_at_1(workbench, gap_wait="600s") as rig:
        rig.delta(2, notice("110"))
        await rig.round()
        assert not (rig.source / REQUEST).exists()
        rig.machine.advance(601)
        await rig.round()
        assert json.loads((rig.source / REQUEST).read_text())["position"] == 1
        rig.snapshot(2, snapshot_text(BASE | {886912345000: "1403"}))
        await rig.round()
        assert await rig.facts() == (2, digest_of(BASE | {886912345000: "1403"}))
        assert rig.main.trouble is None


async def test_bad_first_snapshot_is_not_fetched_in_every_round(workbench: Workbench) -> None:
    """A delta behind it opens a gap; that must not make the exchange forget when to try the snapshot again."""
    workbench.load_tables()
    rig = Rig(workbench, gap_wait="600s")
    rig.snapshot(1, snapshot_text(BASE) + "x,1402\n")
    rig.delta(2, notice("886912345678"))
    async with rig.running_here():
        for _ in range(60):
            await rig.round()
            rig.machine.advance(5)
        assert rig.metric("lookupd_feed_errors_total", reason="rejected") <= 8  # at 0, 10, 30, 70, 150 and 310 s
        rig.machine.advance(601)
        await rig.round()
        assert (rig.source / REQUEST).exists()
        rig.snapshot(1, snapshot_text(BASE))
        rig.machine.advance(LATER_THAN_ANY_RETRY)
        await rig.round()
        assert await rig.facts() == (2, digest_of(BASE | {886912345678: "1403"}))


async def test_bad_snapshot_does_not_keep_a_gap_from_being_told(workbench: Workbench) -> None:
    async with rig_at_1(workbench, gap_wait="600s") as rig:
        rig.delta(3, notice("886912345678"))
        rig.snapshot(4, snapshot_text(BASE) + "x,1402\n")
        for _ in range(60):
            await rig.round()
            rig.machine.advance(60)
        assert rig.acked("snapshot-main-4.csv") == "rejected"
        assert (rig.source / REQUEST).exists()


async def test_delta_that_cannot_be_fetched_does_not_hold_back_those_before_it(workbench: Workbench) -> None:
    async with rig_at_1(workbench) as rig:
        rig.delta(2, notice("886912345678"))
        os.truncate(rig.delta(3, notice("886912345000")), 65 << 30)  # longer than any feed file: not fetched
        with pytest.raises(SourceError, match="delta-main-3"):
            await rig.round()
        assert await rig.facts() == (2, digest_of(BASE | {886912345678: "1403"}))
        assert rig.acked(delta_name(2)) == "applied"
        rig.delta(3, notice("886912345000"))
        await expect_applied(rig, 3, BASE | dict.fromkeys((886912345678, 886912345000), "1403"))


async def test_confirmed_deltas_are_applied_though_the_source_is_gone(workbench: Workbench) -> None:
    """Killed between confirmation and application, and the source is down when the exchange is back."""
    async with rig_at_1(workbench) as rig:
        rig.delta(2, notice("886912345678"))
        rig.sync.store.writer._wait = 0.1  # type: ignore[union-attr]
        with holder(workbench.store, 60), pytest.raises(StoreError, match="is writing"):
            await rig.main.round()
        assert rig.acked(delta_name(2)) == "confirmed"
        confirmed_at = rig.ack(delta_name(2))["confirmed_at"]
        rig.source.rename(workbench.folder / "away")
        await rig.restart()
        for _ in range(3):
            rig.machine.advance(60)
            with pytest.raises(SourceError):
                await rig.round()
        assert await rig.facts() == (2, digest_of(BASE | {886912345678: "1403"}))
        (workbench.folder / "away").rename(rig.source)
        rig.machine.advance(LATER_THAN_ANY_RETRY)
        await rig.round()
        assert (rig.acked(delta_name(2)), rig.ack(delta_name(2))["confirmed_at"]) == ("applied", confirmed_at)


async def test_delta_with_too_many_routes_is_refused_and_the_exchange_goes_on(fast: Workbench) -> None:
    async with rig_at_1(fast) as rig:
        before = await rig.facts()
        first = 886912400000
        rig.delta(2, *(notice(first + n, "1402", routing_number=f"A{n:X}") for n in range(ROUTES_MAX)))
        await rig.round()
        assert await rig.facts() == before
        assert rig.acked(delta_name(2)) == "rejected"
        assert rig.main.trouble is not None
        rig.delta(2, notice("886912345678"))
        await expect_applied(rig, 2, BASE | {886912345678: "1403"})


# -- the guard -------------------------------------------------------------------------------------------

GUARD = "[limits]\nmoved_share = 0.5\nmoved_free = 10\n"
MANY = notice("886912346000", tn_to="886912346099")


def moved_many(numbers: dict[int, str]) -> dict[int, str]:
    return numbers | dict.fromkeys(range(886912346000, 886912346100), "1403")


async def test_delta_that_moves_many_numbers_waits_for_a_persons_word(workbench: Workbench) -> None:
    async with rig_at_1(workbench, GUARD) as rig:
        before = await rig.facts()
        path = rig.delta(2, MANY)
        rig.delta(3, notice("886912345678"))
        for _ in range(3):
            rig.machine.advance(LATER_THAN_ANY_RETRY)
            await rig.round()
            assert await rig.facts() == before
            assert rig.acked(delta_name(2)) == "confirmed"  # a notice is confirmed at once
            assert rig.main.trouble is not None
            assert (rig.main.trouble.kind, rig.main.trouble.exit_code) == ("guard", 4)
            assert rig.metric("lookupd_feed_blocked", reason="guard") == 1
        assert not (rig.source / REQUEST).exists()  # a snapshot would not help
        said = rig.ack(delta_name(2))
        accept = ("--accept-change", "chen: confirmed by phone", "--json")
        loaded = run_cli("loader.cli", "delta", path, "--config", rig.config, *accept)
        assert loaded.returncode == 0, loaded.stderr
        await rig.round()
        assert await rig.facts() == (3, digest_of(moved_many(BASE) | {886912345678: "1403"}))
        assert rig.main.trouble is None
        assert rig.metric("lookupd_feed_blocked", reason="guard") == 0
        assert rig.acked(delta_name(3)) == "applied"
        assert set(changes_by_place(await rig.journal()).values()) == {1}
        assert said["confirmed_at"] == rig.ack(delta_name(2))["confirmed_at"]


async def test_word_for_a_change_reaches_the_sender_and_the_clocks(workbench: Workbench) -> None:
    """What a person loads after we confirmed it is applied: the acknowledgement says so, no clock runs on."""
    async with rig_at_1(workbench, GUARD) as rig:
        path = rig.delta(2, MANY)
        await rig.round()
        said = rig.ack(delta_name(2))
        assert (said["result"], rig.unapplied("port")) == ("confirmed", 1)
        loaded = run_cli("loader.cli", "delta", path, "--config", rig.config, "--accept-change", "chen: by phone")
        assert loaded.returncode == 0, loaded.stderr
        rig.machine.advance(LATER_THAN_ANY_RETRY)
        await rig.round()
        assert rig.unapplied("port") == 0
        assert rig.margin("port") == 3600
        assert rig.acked(delta_name(2)) == "applied"
        assert rig.ack(delta_name(2))["confirmed_at"] == said["confirmed_at"]
        await rig.restart()
        await rig.round()
        assert rig.ack(delta_name(2))["confirmed_at"] == said["confirmed_at"]


async def test_delta_loaded_by_hand_between_confirmation_and_application_is_not_applied_twice(
    workbench: Workbench,
) -> None:
    async with rig_at_1(workbench) as rig:
        path = rig.delta(2, notice("886912345678"))
        write, hand = rig.sync.store.write, []

        async def write_after_a_person(work: Callable[[Any], Any], expected_seconds: float = 0.0) -> Any:
            if not hand:
                hand.append(run_cli("loader.cli", "delta", path, "--config", rig.config))
            return await write(work, expected_seconds)

        rig.sync.store.write = write_after_a_person  # type: ignore[method-assign]
        await asyncio.wait_for(rig.round(), 10)
        assert hand[0].returncode == 0, hand[0].stderr
        rig.machine.advance(10)
        await rig.round()
        assert await rig.facts() == (2, digest_of(BASE | {886912345678: "1403"}))
        assert changes_by_place(await rig.journal()) == {(2, 1): 1}
        assert rig.acked(delta_name(2)) == "applied"


async def test_another_delta_loaded_by_hand_meanwhile_does_not_end_the_exchange(workbench: Workbench) -> None:
    async with rig_at_1(workbench) as rig:
        rig.delta(2, notice("886912345678"))
        aside = workbench.folder / "aside"
        aside.mkdir()
        other = Workbench(aside).publish(delta_name(2), lines(notice("886912345000")), 1)
        write, hand = rig.sync.store.write, []

        async def write_after_a_person(work: Callable[[Any], Any], expected_seconds: float = 0.0) -> Any:
            if not hand:
                hand.append(run_cli("loader.cli", "delta", other, "--config", rig.config))
            return await write(work, expected_seconds)

        rig.sync.store.write = write_after_a_person  # type: ignore[method-assign]
        await asyncio.wait_for(rig.round(), 10)
        assert hand[0].returncode == 0, hand[0].stderr
        assert await rig.facts() == (2, digest_of(BASE | {886912345000: "1403"}))
        rig.delta(3, notice("886912345001"))
        await expect_applied(rig, 3, BASE | dict.fromkeys((886912345000, 886912345001), "1403"))


# -- acknowledgements ------------------------------------------------------------------------------------


async def test_acknowledgement_that_was_not_put_to_the_source_before_a_crash_is_put_afterwards(
    workbench: Workbench,
) -> None:
    """Killed after the last word was in the spool and before it was at the source."""
    async with rig_at_1(workbench) as rig:
        rig.delta(2, notice("886912345678"))
        rig.sync.store.writer._wait = 0.1  # type: ignore[union-attr]
        with holder(workbench.store, 60), pytest.raises(StoreError):
            await rig.main.round()
        at_source = rig.source / (delta_name(2) + ".ack.json")
        confirmed = at_source.read_bytes()
        await rig.round()
        applied = rig.ack(delta_name(2))
        assert applied["result"] == "applied"
        await rig.stop()
        at_source.write_bytes(confirmed)
        await rig.start()
        await rig.round()
        assert rig.ack(delta_name(2)) == applied


async def test_commit_whose_moment_could_not_be_noted_is_acknowledged_in_the_next_round(workbench: Workbench) -> None:
    """Another process takes the store between the commit and the note of its moment."""
    async with rig_at_1(workbench) as rig:
        rig.delta(2, notice("886912345678"))
        writer = rig.sync.store.writer
        assert writer is not None
        writer._wait = 0.1
        note_visible, calls = writer.note_visible, itertools.count()

        def note_when_somebody_came(at: UnixMillis) -> list[tuple[int, Receipt]]:
            if next(calls):
                return note_visible(at)
            with holder(workbench.store, 60):
                return note_visible(at)

        writer.note_visible = note_when_somebody_came  # type: ignore[method-assign]
        with pytest.raises(StoreError, match="is writing"):
            await rig.round()
        assert await rig.facts() == (2, digest_of(BASE | {886912345678: "1403"}))
        rig.machine.advance(5)
        await rig.round()
        assert rig.acked(delta_name(2)) == "applied"
        assert rig.unapplied("port") == 0


# -- bombs -----------------------------------------------------------------------------------------------


def bomb(ending: str, filling: bytes, mebibytes: int) -> bytes:
    piece = filling * ((1 << 20) // len(filling))
    if ending == ".gz":
        return gzip.compress(piece * mebibytes, 1)
    compressor = zstandard.ZstdCompressor().compressobj()
    return b"".join(compressor.compress(piece) for _ in range(mebibytes)) + compressor.flush()


@pytest.mark.parametrize("filling", [b"\n", b"x", b'{"kind":"port"}\n'], ids=["lines", "one line", "short notices"])
@pytest.mark.parametrize(("ending", "mebibytes"), [(".zst", 2048), (".gz", 256)])
def test_compressed_bomb_is_refused_in_little_time_and_memory(
    workbench: Workbench, ending: str, mebibytes: int, filling: bytes
) -> None:
    workbench.load_tables()
    exchange = Exchange(workbench)
    exchange.snapshot(1, snapshot_text(BASE))
    name = delta_name(2) + ending
    exchange.publish(name, bomb(ending, filling, mebibytes), 1)
    began = time.monotonic()
    # A process between: what a child had before it became the exchange, a copy of the tests', counts as its peak.
    between = "import resource as r, subprocess as s, sys\ndone = s.run(sys.argv[1:], capture_output=True)\n"
    between += "print(done.returncode, r.getrusage(r.RUSAGE_CHILDREN).ru_maxrss)"
    command = [sys.executable, "-m", "loader.cli", "sync", "--once", "--config", str(exchange.config)]
    ran = subprocess.run(
        [sys.executable, "-c", between, *command], capture_output=True, text=True, timeout=60, check=True
    )
    code, peak_kib = map(int, ran.stdout.split())
    assert code == 4
    assert time.monotonic() - began < 10
    assert peak_kib < 400 * 1024, f"{peak_kib} KiB"
    assert exchange.acked(name) == "rejected"
    assert exchange.position() == 1


# -- the store, and the folder -----------------------------------------------------------------------------


async def test_store_that_another_writer_holds_is_waited_for(workbench: Workbench) -> None:
    async with rig_at_1(workbench) as rig:
        before = await rig.facts()
        rig.delta(2, notice("886912345678"), number_return("886912345679"))
        rig.sync.store.writer._wait = 0.1  # type: ignore[union-attr]
        with holder(workbench.store, 60) as other:
            for _ in range(2):
                with pytest.raises(StoreError, match=f"process {other.pid} is writing"):
                    await rig.main.round()
                assert await rig.facts() == before
                assert rig.acked(delta_name(2)) == "confirmed"
        confirmed_at = rig.ack(delta_name(2))["confirmed_at"]
        await expect_applied(rig, 2, AFTER_SMALL)
        assert rig.ack(delta_name(2))["confirmed_at"] == confirmed_at


def test_folder_that_vanishes_and_comes_back_is_told_and_goes_on(workbench: Workbench) -> None:
    workbench.load_tables()
    exchange = Exchange(workbench)
    exchange.snapshot(1, snapshot_text(BASE))
    exchange.delta(2, notice("886912345000"))
    process = exchange.start()
    try:
        wait_for_ack(exchange, delta_name(2), "applied")
        away = workbench.folder / "away"
        exchange.source.rename(away)
        wait_until(lambda: "source_unusable" in exchange.log.read_text())
        with workbench.reader() as reader:
            assert reader.ported(TN(886912345000)) is not None
        away.rename(exchange.source)
        exchange.delta(3, notice("886912345678"))
        wait_for_ack(exchange, delta_name(3), "applied")
        wait_until(lambda: "feed_reachable" in exchange.log.read_text())
        assert process.poll() is None
        assert exchange.log.read_text().count("source_unusable") == 1
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert workbench.state()[1] == digest_of(BASE | dict.fromkeys((886912345000, 886912345678), "1403"))


async def test_folder_that_answered_is_free_though_its_thread_has_not_ended_yet(fast: Workbench) -> None:
    """A thread hands its answer over before it ends; on a busy machine the next call comes in between."""
    folder = fast.folder / "source"
    folder.mkdir()
    (folder / "a").write_text("a")
    source = FolderSource(folder, 30.0)
    threading.setprofile(linger)
    try:
        for _ in range(3):
            assert await source.names() == {"a"}
    finally:
        threading.setprofile(None)


def linger(frame: FrameType, event: str, _: object) -> None:
    """Keep a thread of the folder's for a moment after its work is done."""
    outermost = frame.f_back is not None and frame.f_back.f_code.co_filename == threading.__file__
    if event == "return" and outermost and frame.f_code.co_filename.endswith("sources/folder.py"):
        time.sleep(0.1)


def test_two_packings_of_one_delta_are_one_step() -> None:
    names = {f"{delta_name(2)}{packing}{ending}" for packing in PACKED for ending in ("", ".json")}
    steps = OwnFormat("main", signed=False).steps(frozenset(names))
    assert [(step.sequence, step.name) for step in steps] == [(2, delta_name(2))]


async def test_scheduled_notices_of_a_rejected_delta_do_not_wait(workbench: Workbench) -> None:
    async with rig_at_1(workbench) as rig:
        before = await rig.facts()
        rig.delta(2, notice("886912345678", effective_at=at(T0 + 3600)), notice("110"))
        await expect_refused(rig, delta_name(2), before, "bad second line")
        assert rig.metric("lookupd_pending_notices") == 0
        assert JournalKind.SCHEDULED not in {entry.kind for entry in await rig.journal()}


@pytest.mark.parametrize("steps", range(5))
async def test_end_that_comes_together_with_a_new_moment_is_not_missed(workbench: Workbench, steps: int) -> None:
    """SIGTERM cancels the keeper of moments in the very step in which a round tells it of a new one."""
    async with rig_at_1(workbench) as rig:
        keeper = asyncio.create_task(rig.sync._keep_moments())
        await asyncio.sleep(0.02)
        rig.sync.store.changed.set()
        for _ in range(steps):
            await asyncio.sleep(0)
        keeper.cancel()
        ended, _ = await asyncio.wait({keeper}, timeout=1)
        keeper.cancel()
        assert ended, f"after {steps} steps of the loop"
