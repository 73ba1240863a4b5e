"""A part of a test in a network of its own: every port is free, every address can be had, resolv.conf is ours.

For programs that ask a fixed port (53) of the servers in /etc/resolv.conf, and for addresses that a page names. Only
the loopback device is there, so nothing that runs inside reaches anybody. When the part ends, all that it started
ends too: its processes have a namespace of their own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

NEEDED = ("unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child")


def in_private_network(
    scenario: Callable[..., None], folder: Path, *arguments: str, server: str, client: str, seconds: float = 200
) -> None:
    """Run a function of a module as `scenario(folder, *arguments)`; fails as it does. Skips without root.

    server, client: addresses of the loopback device; the server is the nameserver, and whoever asks it comes from
    the client's address.
    """
    if os.geteuid() != 0:
        pytest.skip("needs root for a network namespace")
    resolv_conf = folder / "resolv.conf"
    resolv_conf.write_text(f"nameserver {server}\n")
    ready = ["ip link set lo up"]
    ready += [f"ip address add {address} dev lo" for address in (server, client)]
    ready += [f"ip route replace local {server} dev lo table local src {client}"]
    ready += ['mount --bind "$1" /etc/resolv.conf', "shift", 'exec "$@"']
    call = f"from pathlib import Path; from {scenario.__module__} import {scenario.__name__} as run"
    call += f"; run(Path({str(folder)!r}), *{arguments!r}); print('done')"
    shell = ["sh", "-e", "-c", "\n".join(ready), "sh", str(resolv_conf), sys.executable, "-c", call]
    with subprocess.Popen(
        [*NEEDED, *shell], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=Path(__file__).parents[2]
    ) as process:
        try:
            output, _ = process.communicate(timeout=seconds)
        except BaseException:
            process.kill()  # and by --kill-child all that is inside
            raise
    if process.returncode != 0 and "unshare: unshare failed" in output:
        pytest.skip(output.strip())
    assert process.returncode == 0, output
    assert output.endswith("done\n"), output
