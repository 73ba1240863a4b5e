"""schemathesis makes requests from the API's own document, right and wrong ones, and holds the answers to it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.conftest import Workbench, free_port, run_daemon, wait_until

EXAMPLES = 60
LOCAL = '[[client]]\nname = "local"\nsources = ["127.0.0.0/8"]\nmay = ["query", "status", "history", "batch", "risk"]\n'


@pytest.mark.timeout(600)
def test_api_is_as_its_document_says(loaded: Workbench, tmp_path: Path) -> None:
    http = free_port()
    batches = f'[batches]\npath = "{tmp_path}/batches"\njobs_max = 1000\nfree_min = "1MiB"\n'
    with run_daemon(loaded.config(LOCAL + batches, f'http = "http://127.0.0.1:{http}"')):
        done = subprocess.run(
            [
                Path(sys.executable).with_name("schemathesis"),
                "--config-file", _config(tmp_path, _one_batch(http)), "run",
                f"http://127.0.0.1:{http}/v1/openapi.json", "--max-examples", str(EXAMPLES), "--seed", "20261123",
                "--phases", "examples,coverage,fuzzing", "--no-color", "--checks", "all",
            ],
            capture_output=True, text=True, timeout=580, check=False, cwd=tmp_path,
                env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])},
        )  # fmt: skip
    assert done.returncode == 0, done.stdout[-12_000:]
    assert "No issues found" in done.stdout, done.stdout[-3000:]


def _one_batch(http: int) -> str:
    """A job that is there and done."""
    headers = {"Content-Type": "text/csv"}
    base = f"http://127.0.0.1:{http}/v1/batches"
    request = urllib.request.Request(f"{base}?split=true", b"0912345678\nhello\n", headers)
    with urllib.request.urlopen(request, timeout=10) as reply:
        found: str = json.load(reply)["id"]

    def is_done() -> bool:
        with urllib.request.urlopen(f"{base}/{found}", timeout=10) as reply:
            return bool(json.load(reply)["state"] == "done")

    wait_until(is_done)
    return found


def _with_batch(*paths: str, batch: str, more: str = "") -> str:
    return "".join(
        f'[[operations]]\ninclude-path = "{path}"\n[operations.parameters]\nid = "{batch}"\n{more}' for path in paths
    )


def _config(folder: Path, batch: str) -> Path:
    """413 is how too much is refused, 422 a time too far ahead; lines are sent as they are, or packed."""
    (folder / "lines.py").write_text(
        "import gzip\nimport schemathesis\nimport zstandard\n\n\n"
        "def plain(value):\n    return value if isinstance(value, bytes) else "
        "str(value).encode('utf-8', 'replace')\n\n\n"
        "@schemathesis.serializer('application/x-ndjson', 'text/csv')\n"
        "def lines(context, value):\n    return plain(value)\n\n\n"
        "@schemathesis.serializer('application/gzip')\n"
        "def packed(context, value):\n    return gzip.compress(plain(value))\n\n\n"
        "@schemathesis.serializer('application/zstd')\n"
        "def packed_otherwise(context, value):\n    return zstandard.compress(plain(value))\n"
    )
    file = folder / "schemathesis.toml"
    file.write_text(
        'hooks = "lines"\n[checks.negative_data_rejection]\n'
        "expected-statuses = [400, 401, 403, 404, 405, 406, 413, 415, 422, 429]\n"
        "[checks.positive_data_acceptance]\n"
        'expected-statuses = ["2xx", 304, 401, 403, 404, 409, 422, 429]\n'
        + _with_batch("/v1/batches/{id}", "/v1/batches/{id}/result", "/v1/batches/{id}/summary", batch=batch)
        + _with_batch("/v1/batches/{id}/result/{network}.csv", batch=batch, more='network = "none"\n')
        + "".join(
            f'[[operations]]\ninclude-path = "/v1/batches/{{id}}/{how}"\nwarnings = false\n'
            for how in ("cancel", "delete")
        )
    )
    return file
