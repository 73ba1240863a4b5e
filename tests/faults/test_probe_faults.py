"""The probe's ledger on a full disk: it goes on asking, and saves all of it when there is room."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from lookupd.config import read_config
from lookupd.probe.sampler import Sampler
from lookupd.probe.tally import FILE
from tests.conftest import Workbench, run_daemon
from tests.small_disk import fill, small_disk
from tests.unit.test_probe import PATIENT, Site, answered, report, until


async def test_full_disk_is_told_and_nothing_measured_is_lost(
    loaded: Workbench, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    site = Site(loaded)
    with small_disk(tmp_path / "disk", 1) as disk:
        site.folder = disk / "kept"
        config = site.config(PATIENT + 'every = "100ms"\n', [site.servers["npq"], site.servers["sip"]])
        sampler = Sampler(read_config(config))
        saves = sampler.tally.saves
        with run_daemon(config):
            running = asyncio.create_task(sampler.run())
            await until(lambda: saves["done"] >= 2 and min(answered(sampler)) >= 1)
            filler = fill(disk, 0)
            await until(lambda: saves["failed"] >= 3)
            before = answered(sampler)
            await until(lambda: all(now > then for now, then in zip(answered(sampler), before, strict=True)))
            said = capfd.readouterr().err
            assert "probe_unsaved" in said
            assert "probe_saved_again" not in said
            filler.unlink()
            done = saves["done"]
            await until(lambda: saves["done"] > done)
            sampler._stopping.set()
            await running
        found = report([site.folder / FILE])
    assert found.total.asked + found.total_unported.asked == sum(answered(sampler))
    assert "probe_saved_again" in capfd.readouterr().err
