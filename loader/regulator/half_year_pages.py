"""The half-yearly report's pages, in each language, and as PDF where a browser can print them."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from loader.durable import write_whole
from loader.regulator.figures import HalfYear
from loader.regulator.half_year_files import stem
from loader.regulator.page import page
from loader.regulator.words import LANGUAGES
from lookupd.errors import LookupdError
from lookupd.limits import PDF_SECONDS

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find_browser() -> str:
    """What prints. Raises LookupdError if there is none."""
    for name in BROWSERS:
        if (found := shutil.which(name)) is not None:
            return found
    raise LookupdError(
        "--pdf: no Chromium is installed, which prints the pages: apt-get install chromium, or print the .html by hand"
    )


def write_pages(found: HalfYear, out: Path, *, browser: str | None) -> list[Path]:
    """browser: prints each page as PDF, too. Returns what was written. Raises LookupdError."""
    written = []
    for language in LANGUAGES:
        path = out / f"{stem(found.period, found.network)}.{language}.html"
        try:
            write_whole(path, page(found, language).encode())
        except OSError as error:
            raise LookupdError(f"{error.filename or path}: {error.strerror or error}") from None
        written.append(path)
        if browser is not None:
            written.append(_print(browser, path))
    return written


def _print(browser: str, html: Path) -> Path:
    """Beside the page; it appears when it is whole. Raises LookupdError."""
    pdf = html.with_suffix(".pdf")
    with tempfile.TemporaryDirectory(prefix="lookupd-pdf-") as folder:
        made = Path(folder, "made.pdf")
        command = [
            browser, "--headless", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--user-data-dir={folder}/profile", "--no-pdf-header-footer", f"--print-to-pdf={made}",
            *(["--no-sandbox"] if os.geteuid() == 0 else []),
            html.resolve().as_uri(),
        ]  # fmt: skip
        try:
            done = subprocess.run(command, capture_output=True, timeout=PDF_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            raise LookupdError(
                f"{browser}: did not print {html.name} within {PDF_SECONDS:.0f} s: print it by hand"
            ) from None
        except OSError as error:
            raise LookupdError(f"{browser}: {error.strerror}: print {html.name} by hand") from None
        if done.returncode != 0 or not made.is_file():
            told = done.stderr.decode("utf-8", "replace").strip().splitlines()
            raise LookupdError(f"{browser}: printed no {pdf.name}: {told[-1] if told else done.returncode}")
        try:
            write_whole(pdf, made.read_bytes())
        except OSError as error:
            raise LookupdError(f"{pdf}: {error.strerror}") from None
    return pdf
