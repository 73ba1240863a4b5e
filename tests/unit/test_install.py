"""Installing without Rust: it succeeds, serves on the Python path, and says so."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PARTS = ("pyproject.toml", "README.md", "lookupd", "loader", "native")
NOT_COPIED = shutil.ignore_patterns("target", "__pycache__", "_native*.so")


@pytest.fixture(scope="module")
def without_rust(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package as it installs where no cargo is found."""
    folder = tmp_path_factory.mktemp("without-rust")
    source, tools = folder / "source", folder / "tools"
    source.mkdir()
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, source / part, ignore=NOT_COPIED)
        else:
            shutil.copy(ROOT / part, source / part)
    tools.mkdir()
    built = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--verbose", "-w", folder, source],
        env={"PATH": str(tools), "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    assert "rust" in (built.stdout + built.stderr).lower()
    (wheel,) = folder.glob("lookupd-*.whl")
    with zipfile.ZipFile(wheel) as package:
        assert not [name for name in package.namelist() if "_native" in name and name.endswith(".so")]
        package.extractall(folder / "installed")
    return folder / "installed"


def run(installed: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    # -S: without the finder of an install for development, which would find this tree's native engine all the same.
    path = f"{installed}{os.pathsep}{sysconfig.get_path('platlib')}"
    return subprocess.run(
        [sys.executable, "-S", "-m", "lookupd.cli", *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": path},
        cwd=installed,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_install_without_rust_succeeds_and_says_which_engine_it_has(without_rust: Path) -> None:
    told = json.loads(run(without_rust, "engine", "--json").stdout)
    assert told["engine"] == "python"
    assert "install again where Rust is" in told["reason"]


def test_native_engine_that_is_demanded_and_missing_refuses_to_start(without_rust: Path, tmp_path: Path) -> None:
    config = tmp_path / "lookupd.toml"
    config.write_text(f'[engine]\nudp = "native"\n[store]\npath = "{tmp_path}/store"\n')
    done = run(without_rust, "serve", "--config", config)
    assert done.returncode == 3
    assert "engine.udp" in done.stderr
    assert "install again where Rust is" in done.stderr
    assert "Traceback" not in done.stderr


def test_installed_program_speaks_chinese(without_rust: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "zh_TW.UTF-8")
    assert run(without_rust, "--help").stdout.startswith("用法：")
