"""Time that passes while nobody runs, agreed seconds, and clocks that jump: limits, moments and margins hold."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from loader.apply import apply_delta
from loader.files import identify
from loader.steady import SteadyClock, acceptance_file, boot_ticks, read_boot_id
from loader.sync import Sync, clock_file
from lookupd.config import read_config
from lookupd.errors import SourceError
from lookupd.model import TN, JournalKind, UnixSeconds
from lookupd.store.reader import Reader
from lookupd.store.writer import Writer
from tests.conftest import PLAN, Silent, Workbench, run_cli, wait_until
from tests.exchange import (
    T0,
    Exchange,
    Machine,
    Model,
    Rig,
    Word,
    at,
    back,
    correct,
    delta_name,
    lines,
    notice,
    number_return,
    port,
    wait_for_ack,
)
from tests.faults.test_kill import digest_of, snapshot_text

HOUR = 3600
BASE = {886912345678: "1402", 886912345679: "1401", 886923456789: "1401"}
ONE = 886912345678


@asynccontextmanager
async def rig_at_1(bench: Workbench, extra: str = "", feed: str = "", **how: Any) -> AsyncIterator[Rig]:
    """A running rig that has taken the snapshot of BASE as position 1."""
    bench.load_tables()
    rig = Rig(bench, extra, feed, **how)
    rig.snapshot(1, snapshot_text(BASE))
    async with rig.running_here():
        await rig.round()
        assert await rig.facts() == (1, digest_of(BASE))
        yield rig


# -- a source that is down -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outage", "port_breaches", "return_breaches"),
    [(HOUR, 0, 0), (HOUR + 1, 1, 0), (12 * HOUR, 1, 0), (12 * HOUR + 1, 1, 1), (13 * HOUR, 1, 1)],
    ids=["1 h", "1 h and a second", "12 h", "12 h and a second", "13 h"],
)
async def test_outage_breaches_a_port_after_1_h_and_a_return_after_12_h(
    workbench: Workbench, outage: int, port_breaches: int, return_breaches: int
) -> None:
    async with rig_at_1(workbench) as rig:
        away = workbench.folder / "away"
        source = rig.source.rename(away)
        home, rig.source = rig.source, source  # the sender goes on; only we cannot reach it
        rig.delta(3, notice(ONE, notified_at=at(T0)), number_return(886912345679, notified_at=at(T0)))
        for _ in range(outage // 600):
            with pytest.raises(SourceError, match="no such folder"):
                await rig.round()
            rig.machine.advance(600)
        rig.machine.advance(outage % 600)
        assert await rig.facts() == (1, digest_of(BASE))
        assert rig.metric("lookupd_feed_source_seen_timestamp_seconds") == T0

        rig.source = source.rename(home)  # back, but the delta between is still on its way
        await rig.round()
        assert (rig.unapplied("port"), rig.unapplied("return"), rig.unapplied("correct")) == (1, 1, 0)
        assert rig.margin("port") == HOUR - outage
        assert rig.margin("return") == 12 * HOUR - outage
        assert rig.margin("correct") == HOUR
        assert (rig.breaches("port"), rig.breaches("return")) == (0, 0)

        rig.delta(2, notice(886912345000, notified_at=at(T0 + outage)))
        await rig.round()
        after = {ONE: "1403", 886912345000: "1403", 886923456789: "1401"}
        assert await rig.facts() == (3, digest_of(after))
        assert (rig.unapplied("port"), rig.unapplied("return")) == (0, 0)
        assert (rig.margin("port"), rig.margin("return")) == (HOUR, 12 * HOUR)
        assert (rig.breaches("port"), rig.breaches("return")) == (port_breaches, return_breaches)
        assert rig.metric("lookupd_notice_visible_seconds_count", kind="port") == 2
        assert rig.metric("lookupd_notice_visible_seconds_sum", kind="return") == outage


async def test_margin_is_that_of_the_oldest_notice_and_falls_with_the_clock(workbench: Workbench) -> None:
    async with rig_at_1(workbench) as rig:
        rig.delta(4, notice(ONE, notified_at=at(T0 - 100)))
        rig.delta(3, notice(ONE, notified_at=at(T0 - 300)), number_return(ONE, notified_at=at(T0 - 200)))
        await rig.round()
        assert (rig.margin("port"), rig.margin("return")) == (HOUR - 300, 12 * HOUR - 200)
        rig.machine.advance(50)
        assert (rig.margin("port"), rig.margin("return")) == (HOUR - 350, 12 * HOUR - 250)


async def test_clock_of_an_agreed_moment_runs_from_that_moment(workbench: Workbench) -> None:
    async with rig_at_1(workbench) as rig:
        rig.delta(3, notice(ONE, notified_at=at(T0), effective_at=at(T0 + 2 * HOUR)))
        await rig.round()
        rig.machine.advance(2 * HOUR + 60)
        assert rig.margin("port") == HOUR - 60
        rig.delta(2, notice(886912345000))
        await rig.round()
        assert (await rig.facts())[0] == 3
        assert rig.breaches("port") == 1  # delta 2, notified at T0; the agreed one was 60 s late


async def test_agreed_moment_that_fires_after_its_limit_is_a_breach(workbench: Workbench) -> None:
    async with rig_at_1(workbench) as rig:
        agreed = {"notified_at": at(T0), "effective_at": at(T0 + 600)}
        rig.delta(2, notice(ONE, **agreed), number_return(886912345679, **agreed))
        await rig.round()
        await rig.stop()
        rig.machine.advance(600 + HOUR + 1)
        await rig.start()
        await rig.round()
        assert await rig.facts() == (2, digest_of({ONE: "1403", 886923456789: "1401"}))
        assert (rig.breaches("port"), rig.breaches("return")) == (1, 0)
        assert rig.metric("lookupd_notice_visible_seconds_count", kind="port") == 1
        assert rig.metric("lookupd_notice_visible_seconds_sum", kind="return") == HOUR + 1


# -- the agreed second -----------------------------------------------------------------------------------


async def test_agreed_second_fires_in_that_second_and_not_before(workbench: Workbench) -> None:
    async with rig_at_1(workbench) as rig:
        before = digest_of(BASE)
        rig.delta(2, notice(ONE, effective_at=at(T0 + 10)))
        await rig.round()
        ack = rig.ack(delta_name(2))
        assert (ack["result"], ack["applied"], ack["pending"]) == ("applied", 0, 1)
        rig.machine.advance(9.99)
        await rig.fire()
        assert (await rig.facts())[1] == before
        rig.machine.advance(0.01)
        await rig.fire()
        assert (await rig.facts())[1] == digest_of(BASE | {ONE: "1403"})
        assert rig.metric("lookupd_pending_lateness_seconds_sum") == pytest.approx(0, abs=0.002)
        assert rig.metric("lookupd_pending_fired_total", result="applied") == 1
        assert rig.metric("lookupd_pending_notices") == 0
        await rig.fire()
        assert [entry.kind for entry in await rig.journal()][-2:] == [JournalKind.SCHEDULED, JournalKind.PORT]


def real_exchange(workbench: Workbench, seconds: float) -> tuple[Exchange, int]:
    """A confirmed notice that waits for a moment about so many seconds from now; the process is killed by then."""
    workbench.load_tables()
    exchange = Exchange(workbench)
    exchange.snapshot(1, snapshot_text(BASE))
    process = exchange.start()
    wait_for_ack(exchange, "snapshot-main-1.csv", "applied")
    moment = int(time.time() + seconds) + 1
    exchange.delta(2, notice(ONE, effective_at=at(moment)))
    wait_for_ack(exchange, delta_name(2), "applied")
    process.kill()
    assert process.wait(10) == -signal.SIGKILL
    assert time.time() < moment
    return exchange, moment


def flip_seen_at(reader: Reader, until: float) -> float:
    """When the answer changed, by a reader that asks all the time."""
    while time.time() < until:
        reader.pin()
        found = reader.ported(TN(ONE))
        assert found is not None
        if found.network_code == "1403":
            return time.time()
        assert found.network_code == "1402"
        time.sleep(0.002)
    raise AssertionError("the moment passed and nothing changed")


def test_killed_before_the_moment_and_started_before_it_fires_in_time(workbench: Workbench) -> None:
    exchange, moment = real_exchange(workbench, 2.5)
    process = exchange.start()
    try:
        with workbench.reader() as reader:
            assert 0 <= flip_seen_at(reader, moment + 5) - moment < 1, exchange.log.read_text()
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def test_killed_before_the_moment_and_started_after_it_fires_at_once(workbench: Workbench) -> None:
    exchange, moment = real_exchange(workbench, 0.3)
    time.sleep(max(moment + 0.2 - time.time(), 0))
    with workbench.reader() as reader:
        assert reader.ported(TN(ONE)).network_code == "1402"  # type: ignore[union-attr]
        process = exchange.start()
        try:
            began = time.time()
            assert flip_seen_at(reader, began + 10) - began < 5
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        entries = [entry for _, entry, _ in reader.journal()]
        assert sum(entry.kind is JournalKind.PORT for entry in entries) == 1


# -- a replica that was off at the moment ------------------------------------------------------------------

M = T0 + 1000
"""A moment; deltas are published at the times that stand before them."""

Story = list[tuple[int, tuple[Word, ...]]]
STORIES: dict[str, Story] = {
    "one": [(T0 + 10, (port(ONE, "1403", M),))],
    "later notice before the moment": [(T0 + 10, (port(ONE, "1403", M),)), (T0 + 20, (port(ONE, "1401"),))],
    "later notice after the moment": [(T0 + 10, (port(ONE, "1403", M),)), (M + 20, (port(ONE, "1401"),))],
    "later return before the moment": [(T0 + 10, (port(ONE, "1403", M),)), (T0 + 20, (back(ONE),))],
    "later notice in the same delta": [(T0 + 10, (port(ONE, "1403", M), port(ONE, "1401")))],
    "earlier notice in the same delta": [(T0 + 10, (port(ONE, "1401"), port(ONE, "1403", M)))],
    "three moments in order": [
        (T0 + 10, (port(ONE, "1403", M),)),
        (T0 + 20, (port(ONE, "1401", M + 10),)),
        (T0 + 30, (back(ONE, M + 20),)),
    ],
    "three moments against the order": [
        (T0 + 10, (port(ONE, "1403", M + 20),)),
        (T0 + 20, (port(ONE, "1401", M + 10),)),
        (T0 + 30, (back(ONE, M),)),
    ],
    "two in one moment": [(T0 + 10, (port(ONE, "1403", M),)), (T0 + 20, (port(ONE, "1401", M),))],
    "two lines in one moment": [(T0 + 10, (back(ONE, M), port(ONE, "1401", M)))],
    "range partly overtaken": [
        (T0 + 10, (port(886912345670, "1403", M, tn_to=886912346010),)),
        (T0 + 20, (port(886912345675, "1401", tn_to=886912345677), back(886912346000))),
        (T0 + 30, (correct(ONE, "1402"),)),
    ],
    "range wholly overtaken by two": [
        (T0 + 10, (port(886912345670, "1403", M, tn_to=886912345679),)),
        (T0 + 20, (port(886912345670, "1401", tn_to=886912345674),)),
        (T0 + 30, (back(886912345675, tn_to=886912345679),)),
    ],
    "waiting range overtaken by a later waiting range": [
        (T0 + 10, (port(886912345670, "1403", M + 10, tn_to=886912345690),)),
        (T0 + 20, (port(886912345660, "1401", M, tn_to=886912345680),)),
    ],
    "return waits": [(T0 + 10, (back(ONE, M), back(886912340000, M)))],
    "return waits, ported again before": [(T0 + 10, (back(ONE, M),)), (T0 + 20, (port(ONE, "1403"),))],
    "return waits, ported again after": [(T0 + 10, (back(ONE, M),)), (M + 20, (port(ONE, "1403"),))],
    "correction waits": [(T0 + 10, (correct(ONE, "1401", M),)), (T0 + 20, (port(ONE, "1403", M - 10),))],
}
OFF = {"before the delta": T0 + 5, "between": T0 + 15, "after both": M - 1}


async def tell(story: Story, rig: Rig, model: Model, off_at: int | None, by_hand: bool) -> None:
    """Live through a story with a round at each of its times; off_at: asleep from then on until the end."""
    asleep = False
    moments = {word.effective_at for _, words in story for word in words if word.effective_at is not None}
    for now in sorted({when for when, _ in story} | moments | ({off_at} if off_at else set())):
        rig.machine.advance(now - rig.machine.wall)
        for sequence, (when, words) in enumerate(story, 2):
            if when == now and not (rig.source / delta_name(sequence)).exists():
                rig.delta(sequence, *model.say(sequence, *words))
        if now == off_at:
            await rig.stop()
            asleep = True
        if not asleep:
            await rig.round()
    rig.machine.advance(M + 5 * HOUR - rig.machine.wall)
    if asleep:
        if by_hand:  # deltas first, then what is due: the other way round
            load_by_hand(rig, len(story))
        await rig.start()
    await rig.round()


def load_by_hand(rig: Rig, deltas: int) -> None:
    with Writer(rig.bench.store) as writer:
        with writer.reader() as reader:
            position = reader.state.feeds["main"].sequence
        for sequence in range(position + 1, deltas + 2):
            file = identify(rig.source / delta_name(sequence), "delta", "main")
            apply_delta(writer, file, PLAN, UnixSeconds(int(rig.machine.wall)), Silent())


@pytest.mark.parametrize("by_hand", [False, True], ids=["moments first", "deltas first"])
@pytest.mark.parametrize("off", OFF, ids=OFF)
@pytest.mark.parametrize("story", STORIES.values(), ids=STORIES)
async def test_replica_that_was_off_at_the_moment_ends_like_the_one_that_was_on(
    workbench: Workbench, story: Story, off: str, by_hand: bool
) -> None:
    digests = []
    for name, off_at in (("a", None), ("b", OFF[off])):
        folder = workbench.folder / name
        folder.mkdir()
        model = Model(BASE)
        async with rig_at_1(Workbench(folder), machine=Machine()) as rig:
            await tell(story, rig, model, off_at, by_hand)
            end = rig.machine.wall
            assert await rig.numbers() == model.numbers(99, end), name
            digests.append((await rig.facts())[1])
            assert rig.metric("lookupd_pending_notices") == 0
            assert await rig.problems() == []
    assert digests == [digest_of(model.numbers(99, end))] * 2


# -- a wall clock that jumps -----------------------------------------------------------------------------


@pytest.mark.parametrize("restart", [False, True], ids=["running", "over a restart"])
@pytest.mark.parametrize("step", [600.0, -600.0, 86_400.0], ids=["+10 min", "-10 min", "+1 d"])
async def test_jump_is_not_followed_and_moments_fire_neither_early_nor_late(
    workbench: Workbench, step: float, restart: bool
) -> None:
    async with rig_at_1(workbench) as rig:
        rig.delta(2, notice(ONE, effective_at=at(T0 + 300)))
        rig.delta(3, notice(886912345679, effective_at=at(T0 + 5000)))
        await rig.round()
        rig.machine.advance(100)
        await rig.fire()
        if restart:
            await rig.stop()
        rig.machine.step(step)
        rig.machine.advance(100)
        if restart:
            await rig.start()
        await rig.round()
        assert rig.sync.clock.refused_seconds == pytest.approx(step)
        assert rig.sync.clock.now() == (T0 + 200) * 1000
        assert "wall clock jumped" in (rig.sync._readiness() or "")
        assert (await rig.facts())[1] == digest_of(BASE)
        rig.machine.advance(99.9)
        await rig.fire()
        assert (await rig.facts())[1] == digest_of(BASE)
        rig.machine.advance(0.1)
        await rig.fire()
        assert (await rig.facts())[1] == digest_of(BASE | {ONE: "1403"})

        await rig.restart()  # it is still refused: only a person's word ends that
        await rig.round()
        assert rig.sync.clock.refused_seconds == pytest.approx(step)
        rig.machine.step(-step)  # the wall clock came back by itself: nothing to decide any more
        assert rig.sync.clock.now() == (T0 + 300) * 1000
        assert rig.sync.clock.refused_seconds == 0


@pytest.mark.parametrize("step", [600.0, -600.0])
async def test_jump_is_followed_after_a_persons_word(workbench: Workbench, step: float) -> None:
    async with rig_at_1(workbench) as rig:
        rig.delta(2, notice(ONE, effective_at=at(T0 + 500)))
        await rig.round()
        rig.machine.step(step)
        await rig.round()
        assert (await rig.facts())[1] == digest_of(BASE)
        file = clock_file(rig.sync.config)
        acceptance_file(file).write_text("chen: NTP was off\n")
        assert rig.sync.clock.acceptance_waits()
        assert rig.sync.clock.take_acceptance()
        assert (rig.sync.clock.now(), rig.sync.clock.refused_seconds) == ((T0 + step) * 1000, 0)
        await rig.round()
        fired = step > 0
        assert (await rig.facts())[1] == digest_of(BASE | ({ONE: "1403"} if fired else {}))
        await rig.restart()
        assert rig.sync.clock.refused_seconds == 0
        assert not rig.sync.clock.acceptance_waits()
        rig.machine.advance(500 - step if not fired else 0)
        await rig.round()
        assert (await rig.facts())[1] == digest_of(BASE | {ONE: "1403"})


async def test_gap_that_closes_after_the_clock_was_set_back_is_passed_at_once(workbench: Workbench) -> None:
    async with rig_at_1(workbench) as rig:
        rig.machine.step(-600)
        rig.delta(3, notice(ONE, "1401"))
        await rig.round()
        acceptance_file(clock_file(rig.sync.config)).write_text("chen: it is right\n")
        assert rig.sync.clock.take_acceptance()
        rig.delta(2, notice(886912345679, "1402"))
        await rig.round()
        assert (await rig.facts())[0] == 3


@pytest.mark.parametrize("step", [180.0, -180.0, 300.0, -300.0])
async def test_small_correction_is_followed(workbench: Workbench, step: float) -> None:
    async with rig_at_1(workbench) as rig:
        rig.delta(2, notice(ONE, effective_at=at(T0 + 100)))
        await rig.round()
        rig.machine.step(step)
        await rig.round()
        assert (rig.sync.clock.now(), rig.sync.clock.refused_seconds) == ((T0 + step) * 1000, 0)
        assert (await rig.facts())[1] == digest_of(BASE | ({ONE: "1403"} if step > 0 else {}))
        rig.machine.advance(max(100 - step, 0))
        await rig.round()
        assert (await rig.facts())[1] == digest_of(BASE | {ONE: "1403"})


async def test_time_that_passes_while_the_machine_is_off_counts(workbench: Workbench) -> None:
    async with rig_at_1(workbench) as rig:
        rig.delta(2, notice(ONE, effective_at=at(T0 + 3000)))
        await rig.round()
        await rig.stop()
        rig.machine.boot(2999)
        await rig.start()
        await rig.round()
        assert rig.sync.clock.refused_seconds == 0
        assert (await rig.facts())[1] == digest_of(BASE)
        rig.machine.advance(1)
        await rig.round()
        assert (await rig.facts())[1] == digest_of(BASE | {ONE: "1403"})


async def test_clock_that_lies_in_the_past_after_a_boot_is_refused(workbench: Workbench) -> None:
    """A dead battery: the machine wakes up years ago. What fired must not wait again, and time goes on."""
    async with rig_at_1(workbench) as rig:
        rig.delta(2, notice(ONE, effective_at=at(T0 + 50)))
        rig.delta(3, notice(886912345679, effective_at=at(T0 + 200)))
        await rig.round()
        rig.machine.advance(100)
        await rig.round()
        await rig.stop()
        rig.machine.boot(-10 * 365 * 86_400)
        await rig.start()
        await rig.round()
        assert rig.sync.clock.refused_seconds < -9 * 365 * 86_400
        assert rig.sync.clock.now() == (T0 + 100) * 1000
        assert (await rig.facts())[1] == digest_of(BASE | {ONE: "1403"})
        rig.machine.advance(100)
        await rig.round()
        assert (await rig.facts())[1] == digest_of(BASE | {ONE: "1403", 886912345679: "1403"})


def pretend_jump(exchange: Exchange, seconds: float) -> Path:
    """The clock's file as it is when the real wall clock jumped so far while nobody ran."""
    file = clock_file(read_config(exchange.config))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"boot_id": read_boot_id(), "wall": time.time() - seconds, "ticks": boot_ticks()}))
    return file


def test_running_exchange_follows_the_jump_at_the_commands_word(workbench: Workbench) -> None:
    workbench.load_tables()
    exchange = Exchange(workbench)
    exchange.snapshot(1, snapshot_text(BASE))
    pretend_jump(exchange, 600)
    exchange.delta(2, notice(ONE, effective_at=at(time.time() - 60)))  # past by the wall clock, future by ours
    process = exchange.start()
    try:
        wait_for_ack(exchange, delta_name(2), "applied")
        assert exchange.ack(delta_name(2))["pending"] == 1
        wait_until(lambda: "clock_step_refused seconds=600" in exchange.log.read_text())
        shown = run_cli("loader.cli", "clock", "--config", exchange.config, "--json")
        assert json.loads(shown.stdout)["refused_seconds"] == pytest.approx(600, abs=2)
        assert json.loads(shown.stdout)["accepted"] is False
        wrong = run_cli("loader.cli", "clock", "--config", exchange.config, "--accept", "because")
        assert wrong.returncode == 2
        with workbench.reader() as reader:
            assert reader.ported(TN(ONE)).network_code == "1402"  # type: ignore[union-attr]
            done = run_cli("loader.cli", "clock", "--config", exchange.config, "--accept", "chen: NTP was off")
            assert done.returncode == 0, done.stderr
            flip_seen_at(reader, time.time() + 10)
            entries = [entry for _, entry, _ in reader.journal()]
        said = [entry for entry in entries if entry.kind is JournalKind.CLOCK]
        assert [(entry.reason, entry.source) for entry in said] == [("chen: NTP was off", "+600 s")]
        assert "clock_accepted" in exchange.log.read_text()
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


async def test_word_given_while_nobody_ran_holds_for_that_jump_alone(workbench: Workbench) -> None:
    """The next jump is another one, and needs another word."""
    workbench.load_tables()
    exchange = Exchange(workbench)
    exchange.snapshot(1, snapshot_text(BASE))
    file = pretend_jump(exchange, 600)
    done = run_cli("loader.cli", "clock", "--config", exchange.config, "--accept", "chen: NTP was off")
    assert done.returncode == 0, done.stderr
    config = read_config(exchange.config)
    sync = Sync(config, clock=SteadyClock(file, config.limits.clock_step, wall=lambda: time.time() + 1200))
    await sync.start()
    try:
        assert sync.clock.refused_seconds == pytest.approx(1200, abs=2)
        sync.clock.take_acceptance()  # as the running exchange does each second
        assert sync.clock.refused_seconds == pytest.approx(1200, abs=2)
    finally:
        await sync.close()


def test_command_by_hand_takes_the_time_of_the_exchange(workbench: Workbench) -> None:
    workbench.load_tables()
    exchange = Exchange(workbench)
    workbench.snapshot(snapshot_text(BASE))
    pretend_jump(exchange, 3600)  # the wall clock is an hour ahead of where it should be
    path = workbench.publish(delta_name(2), lines(notice(ONE, effective_at=at(time.time() - 1800))), 1)
    done = run_cli("loader.cli", "delta", path, "--config", exchange.config, "--json")
    assert done.returncode == 0, done.stderr
    assert "+3600 s from the exchange's" in done.stderr
    assert json.loads(done.stdout)["pending"] == 1  # by the exchange's clock it is half an hour off


def test_exchange_that_starts_anew_ten_times_keeps_one_clock(tmp_path: Path) -> None:
    machine = Machine()
    file = tmp_path / "clock.json"
    seen = []
    for _ in range(10):
        clock = machine.clock(file, 300.0)
        seen.append(clock.now())
        clock.save()
        machine.advance(7)
    assert seen == [(T0 + 7 * turn) * 1000 for turn in range(10)]
    machine.step(10_000)
    clock = machine.clock(file, 300.0)
    assert (clock.now(), clock.refused_seconds) == ((T0 + 70) * 1000, 10_000)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'{"boot_id":"x"}', b"[]"])
def test_clock_file_that_is_damaged_is_as_none(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "clock.json"
    file.write_bytes(content)
    clock = Machine().clock(file, 300.0)
    assert (clock.now(), clock.refused_seconds) == (T0 * 1000, 0)
    clock.save()
    assert os.path.getsize(file) > 20
