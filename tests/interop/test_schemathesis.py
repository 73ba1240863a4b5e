"""schemathesis makes requests from the API's own document, right and wrong ones, and holds the answers to it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Workbench, free_port, run_daemon

EXAMPLES = 60
LOCAL = '[[client]]\nname = "local"\nsources = ["127.0.0.0/8"]\nmay = ["query", "status", "history", "batch"]\n'


@pytest.mark.timeout(600)
def test_api_is_as_its_document_says(loaded: Workbench, tmp_path: Path) -> None:
    http = free_port()
    batches = f'[batches]\npath = "{tmp_path}/batches"\njobs_max = 1000\nfree_min = "1MiB"\n'
    with run_daemon(loaded.config(LOCAL + batches, f'http = "http://127.0.0.1:{http}"')):
        done = subprocess.run(
            [
                Path(sys.executable).with_name("schemathesis"), "--config-file", _config(tmp_path), "run",
                f"http://127.0.0.1:{http}/v1/openapi.json", "--max-examples", str(EXAMPLES), "--seed", "20261123",
                "--phases", "examples,coverage,fuzzing", "--no-color", "--checks", "all",
            ],
            capture_output=True, text=True, timeout=580, check=False, cwd=tmp_path,
                env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])},
        )  # fmt: skip
    assert done.returncode == 0, done.stdout[-12_000:]
    assert "No issues found" in done.stdout


def _config(folder: Path) -> Path:
    """413 is how too much is refused, 422 a time too far ahead; lines are sent as they are, or packed."""
    (folder / "lines.py").write_text(
        "import gzip\nimport schemathesis\nimport zstandard\n\n\n"
        "@schemathesis.serializer('application/x-ndjson', 'text/csv')\n"
        "def lines(context, value):\n"
        "    return value if isinstance(value, bytes) else str(value).encode('utf-8', 'replace')\n\n\n"
        "@schemathesis.serializer('application/gzip')\n"
        "def packed(context, value):\n    return gzip.compress(lines(context, value))\n\n\n"
        "@schemathesis.serializer('application/zstd')\n"
        "def packed_newer(context, value):\n    return zstandard.compress(lines(context, value))\n"
    )
    file = folder / "schemathesis.toml"
    file.write_text(
        'hooks = "lines"\n[checks.negative_data_rejection]\n'
        "expected-statuses = [400, 401, 403, 404, 405, 406, 413, 415, 422, 429]\n"
        "[checks.positive_data_acceptance]\n"
        'expected-statuses = ["2xx", 304, 401, 403, 404, 409, 422, 429]\n'
    )
    return file
