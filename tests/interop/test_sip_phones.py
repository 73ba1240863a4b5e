"""SIP redirect with the stacks of others: Sofia-SIP (which FreeSWITCH is built on), sipsak, and baresip, a telephone.

Whoever follows our 302 without being told how, comes to the gateway with the routing number in the request URI.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Workbench, free_port, wait_until
from tests.interop.programs import Sipp, needs_sipp
from tests.interop.sip_site import HELD, PORTED, PROFILE, UNALLOCATED, run_sip

pytestmark = pytest.mark.usefixtures("each_engine")

PROBES = {
    "sip-options": ("sofia-sip-bin", ["--all", "--bind=sip:127.0.0.1:*;transport={transport}"], "{url}"),
    "sipsak": ("sipsak", ["-v", "-E", "{transport}", "-s"], "sip:lookupd@127.0.0.1:{port}"),
}
"""Tool to its Debian package, options, and how it is told whom to ask."""

TELEPHONE = """module_path /usr/lib/baresip/modules
sip_listen 127.0.0.1:0
audio_player aubridge,nil
audio_source aubridge,nil
module g711.so
module aubridge.so
module_app account.so
module_app menu.so
"""


@pytest.mark.parametrize("transport", ["udp", "tcp"])
@pytest.mark.parametrize("tool", PROBES)
def test_probe_is_answered(loaded: Workbench, tool: str, transport: str) -> None:
    package, options, address = PROBES[tool]
    if not shutil.which(tool):
        pytest.skip(f"needs the package {package}")
    with run_sip(loaded) as server:
        url = f"sip:127.0.0.1:{server.port};transport={transport}"
        terms = {"transport": transport, "url": url, "port": server.port}
        command = [tool, *(part.format(**terms) for part in (*options, address))]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done
        assert "SIP/2.0 200 OK" in done.stdout
        assert "Allow: INVITE, ACK, CANCEL, OPTIONS" in done.stdout
        wait_until(lambda: server.count("other", transport=transport) > 0)  # counted after the answer has left


@contextlib.contextmanager
def dial(folder: Path, uri: str) -> Iterator[Path]:
    """baresip with a call; gives what it says."""
    home = folder / "baresip"
    home.mkdir()
    (home / "config").write_text(TELEPHONE)
    (home / "accounts").write_text("<sip:phone@127.0.0.1>;regint=0\n")
    (home / "contacts").touch()
    log = home / "log"
    with log.open("w") as out:
        command = ["baresip", "-f", str(home), "-e", f"/dial {uri}"]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        yield log
        assert process.poll() is None, log.read_text()
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@needs_sipp
@pytest.mark.skipif(not shutil.which("baresip"), reason="needs the package baresip-core")
@pytest.mark.parametrize("transport", ["udp", "tcp"])
@pytest.mark.parametrize(
    ("number", "user"),
    [(PORTED, f"{PORTED};npdi;rn=D0402;rn-context=+886"), (HELD, f"{HELD};npdi")],
    ids=["ported", "not_ported"],
)
def test_telephone_follows_to_the_gateway_and_talks(loaded: Workbench, transport: str, number: str, user: str) -> None:
    gateway_port = free_port()
    gateway = Sipp(loaded.folder, "uas", None, "-p", str(gateway_port))
    try:
        with run_sip(loaded, f'{PROFILE}domain = "127.0.0.1:{gateway_port}"\n') as server:
            with dial(loaded.folder, f"sip:{number}@127.0.0.1:{server.port};transport={transport}") as log:
                wait_until(lambda: "Call established" in log.read_text())
            wait_until(lambda: gateway.process.poll() is not None)  # baresip hung up as it ended
            assert gateway.wait() == 0, gateway.told()
            assert f"INVITE sip:{user}@127.0.0.1:{gateway_port};user=phone SIP/2.0" in gateway.trace.read_text()
            assert server.count("answered", transport=transport) == server.count("answered") > 0
    finally:
        gateway.kill()


@pytest.mark.skipif(not shutil.which("baresip"), reason="needs the package baresip-core")
def test_telephone_hears_that_there_is_no_such_number(loaded: Workbench) -> None:
    with run_sip(loaded) as server, dial(loaded.folder, f"sip:{UNALLOCATED}@127.0.0.1:{server.port}") as log:
        wait_until(lambda: "404 Not Found" in log.read_text())
