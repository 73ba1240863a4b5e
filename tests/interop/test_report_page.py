"""The half-yearly report in Debian's Chromium: on a screen, on a phone, and printed to PDF, read again by poppler."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from loader.regulator.half_year_pages import find_browser, write_pages
from loader.regulator.words import LANGUAGES
from tests.conftest import Workbench, run_cli
from tests.exchange import at, notice
from tests.interop.browser import LAPTOP, PHONE, browse, needs_chromium
from tests.regulator_sample import many, sample
from tests.unit.test_half_year import BEFORE, DAY, JANUARY

needs_poppler = pytest.mark.skipif(shutil.which("pdftotext") is None, reason="needs the package poppler-utils")
pytestmark = [needs_chromium, needs_poppler, pytest.mark.timeout(280)]

A4 = (794, 1123)


def poppler(program: str, pdf: Path) -> str:
    arguments = ["-layout", str(pdf), "-"] if program == "pdftotext" else [str(pdf)]
    return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60, check=True).stdout


@pytest.mark.parametrize("size", [A4, LAPTOP, PHONE], ids=["A4", "laptop", "phone"])
@pytest.mark.parametrize("language", LANGUAGES)
def test_page_fits_its_width_and_the_browser_has_no_complaint(
    tmp_path: Path, language: str, size: tuple[int, int]
) -> None:
    write_pages(many(), tmp_path, browser=None)
    with browse(tmp_path) as browser:
        browser.resize(*size)
        browser.open((tmp_path / f"half-year-2026H1.{language}.html").as_uri())
        width, seen = browser.driver.execute_script(
            "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
        )
        assert width <= seen
        assert [entry["message"] for entry in browser.driver.get_log("browser")] == []
        assert browser.driver.execute_script("return document.querySelectorAll('svg').length") == 5


def test_printed_pages_hold_the_figures_in_both_languages(tmp_path: Path) -> None:
    written = write_pages(sample(), tmp_path, browser=find_browser())
    english, chinese = sorted(path for path in written if path.suffix == ".pdf")
    for pdf in (english, chinese):
        text, facts = poppler("pdftotext", pdf), poppler("pdfinfo", pdf)
        assert "27,081" in text
        assert "96.4" in text
        pages = int(facts.partition("Pages:")[2].split()[0])
        assert 4 <= pages <= 9
        assert f"{pages}/{pages}" in text.replace(" ", "")
        fonts = poppler("pdffonts", pdf).splitlines()[2:]
        assert fonts
        assert all(" yes " in line for line in fonts), fonts  # embedded
    assert "Failure rate of porting" in poppler("pdftotext", english)
    assert "移轉作業失敗率" in poppler("pdftotext", chinese)


def test_command_files_a_report_of_a_real_store(workbench: Workbench, tmp_path: Path) -> None:
    workbench.load_tables(now=BEFORE)
    workbench.snapshot(now=BEFORE)
    workbench.delta(notice("886912345678", "1403", notified_at=at(JANUARY)), sequence=2, now=JANUARY + DAY)
    out = tmp_path / "report"
    arguments = ("report", "half-year", "--period", "2026H1", "--store", workbench.store, "--out", out, "--pdf")
    done = run_cli("loader.cli", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["summary"]["ported_in"] == 1
    assert {path.suffix for path in out.iterdir()} == {".csv", ".json", ".html", ".pdf"}
    assert "Gamma" in poppler("pdftotext", out / "half-year-2026H1.en.pdf")
    refused = run_cli("loader.cli", "report", "half-year", "--period", "2026H1", "--store", workbench.store, "--pdf")
    assert refused.returncode == 2
