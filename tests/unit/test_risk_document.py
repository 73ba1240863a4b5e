"""docs/risk.md is true: its commands are run and print what it says; its fields and bounds are ours."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path

from lookupd import limits
from lookupd.audit import Audit, AuditRecord
from lookupd.risk import RiskView
from lookupd.settings import AuditSettings
from tests.conftest import Workbench
from tests.exchange import at, notice

TEXT = (Path(__file__).parents[2] / "docs/risk.md").read_text(encoding="utf-8")
LOADED_AT = 1_795_312_800
CHECKS = (
    AuditRecord(
        "2026-11-22T02:00:00.000Z", "bank", "acme", "192.0.2.1", "0912345678", None, 15_552_000, "payment 4711",
        "answered",
    ),
    AuditRecord(
        "2026-11-22T02:00:01.000Z", "bank", "acme", "192.0.2.1", "0912345679", "2026-11-01T00:00:00Z", 86_400,
        "payment 4712", "before_history",
    ),
)  # fmt: skip


async def write_audit(folder: Path) -> None:
    audit = Audit(folder, 400 * 86_400, lambda: float(LOADED_AT))
    for check in CHECKS:
        await audit.note(check)
    await audit.close()


def test_every_command_prints_what_the_page_says(workbench: Workbench) -> None:
    workbench.load_tables(now=LOADED_AT)
    workbench.snapshot(now=LOADED_AT)
    workbench.delta(notice("886912345678", "1403", notified_at=at(LOADED_AT + 200)), sequence=2, now=LOADED_AT + 200)
    asyncio.run(write_audit(workbench.folder / "kept"))
    runs = 0
    for block in re.findall(r"^```console\n(.*?)^```$", TEXT, re.M | re.S):
        for part in re.split(r"(?m)^\$ lookupd ", block)[1:]:
            command, _, told = part.partition("\n")
            command = command.replace("/var/lib/lookupd/a", str(workbench.store))
            done = subprocess.run(
                [sys.executable, "-m", "lookupd.cli", *command.split()],
                capture_output=True,
                cwd=workbench.folder,
                text=True,
                timeout=60,
                check=False,
            )
            assert (done.stdout, done.stderr) == (told, ""), command
            runs += 1
    assert runs == 3


def test_every_field_and_bound_is_on_the_page() -> None:
    for name in (*RiskView.__struct_fields__, *AuditRecord.__struct_fields__):
        assert f"`{name}`" in TEXT, name
    prose = " ".join(TEXT.split())
    for words in (
        f"at most {limits.RISK_WINDOW_SECONDS_MAX // 86_400:,} days",
        f"at most {limits.RISK_MOVES_TOLD}:",
        f"1 to {limits.AUDIT_PURPOSE_CHARS_MAX} printable characters",
        f"never less than {limits.AUDIT_KEEP_SECONDS_MIN // 86_400}d",
        f'keep = "{AuditSettings().keep / 86_400:g}d"',
        f"[&window={limits.RISK_WINDOW_SECONDS // 86_400}d]",
    ):
        assert words in prose, words
