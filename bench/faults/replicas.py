"""Two replicas with the same data, each on its own core, and somebody who starts again what died, as systemd would."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from bench.faults.sites import Site, end, wait_for
from bench.processes import ChildFailed, loader
from loader.files import write_manifest

PORTS = {"npq": 4700, "pdb": 5574, "enum": 5353, "sip": 5060, "http": 9474}
RESTART_SECONDS = 0.1
"""As `RestartSec=100ms`."""

START_SECONDS_MAX = 30.0
PORTED_COUNT = 40_000
FIRST_PORTED, FIRST_HELD = 886_912_000_000, 886_911_000_000
CREATED_AT = "2026-11-22T10:00:00+08:00"
APEX = "np.example"

NETWORKS = """network_code,operator,routing_number,pdb_carrier_id
1401,Alpha Telecom,D0401,101
1402,Beta Mobile,D0402,102
"""
RANGES = "prefix,network_code\n88691,1401\n"

CONFIGURATION = """[replica]
name = "{name}"
{peer}
[engine]
udp = "{engine}"
[store]
path = "{store}"
[listen]
npq = ["udp://0.0.0.0:4700", "tcp://0.0.0.0:4700"]
pdb = ["udp://0.0.0.0:5574"]
enum = ["udp://0.0.0.0:5353", "tcp://0.0.0.0:5353"]
sip = ["udp://0.0.0.0:5060", "tcp://0.0.0.0:5060"]
http = ["http://127.0.0.1:9474", "https://{address}:9474"]
[http]
certificate = "{certificate}"
key = "{key}"
[enum]
apex = "{apex}"
rn_context = "+886"
[sip]
rn_context = "+886"
unported = "npdi"
[[client]]
name = "all"
sources = ["127.0.0.0/8", "192.0.2.0/24"]
peer = true
token_file = "{token}"
"""

TOKEN = "shown-by-each-replica-to-the-other"


class Right:
    """What is the right answer to the number asked at a place of the row: every second one is ported."""

    def __init__(self, at: int) -> None:
        self.ported = at % 2 == 0
        self.number = f"{(FIRST_PORTED if self.ported else FIRST_HELD) + at // 2 % PORTED_COUNT}"
        self.network_code = "1402" if self.ported else "1401"
        self.carrier_id = "102" if self.ported else "101"
        self.routing_number = "D0402" if self.ported else "-"


def make_store(folder: Path) -> Path:
    """A store with PORTED_COUNT numbers of one range that moved to the other network. Raises ChildFailed."""
    feed, store = folder / "feed", folder / "store"
    feed.mkdir(parents=True)
    (feed / "networks.csv").write_text(NETWORKS)
    (feed / "ranges.csv").write_text(RANGES)
    rows = [f"{FIRST_PORTED + at},1402,,1401,2026-03-01T09:00:00+08:00\n" for at in range(PORTED_COUNT)]
    snapshot = feed / "snapshot-main-1.csv"
    snapshot.write_text("tn,network_code,routing_number,donor,ported_at\n" + "".join(rows))
    write_manifest(snapshot, PORTED_COUNT, CREATED_AT)
    loader("networks", feed / "networks.csv", "--store", store)
    loader("ranges", feed / "ranges.csv", "--store", store)
    loader("snapshot", snapshot, "--store", store)
    return store


def _make_certificate(certificate: Path, key: Path, site: Site) -> None:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30",
         "-subj", f"/CN={site.name}", "-addext", f"subjectAltName=IP:{site.address}",
         "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip


class Replica:
    """`lookupd serve` on a site, started again whenever it ends, until `close`."""

    def __init__(
        self, site: Site, folder: Path, store: Path, core: int | None, peer: Site | None = None, engine: str = "auto"
    ) -> None:
        """store: copied. peer: whom to watch."""
        self.site = site
        self.core = core
        self.folder = folder / site.name
        self.store = self.folder / "store"
        self.log = self.folder / "lookupd.log"
        self.config = self.folder / "lookupd.toml"
        self.folder.mkdir(parents=True)
        shutil.copytree(store, self.store)
        certificate, key, token = (self.folder / name for name in ("http.crt", "http.key", "token"))
        _make_certificate(certificate, key, site)
        token.write_text(TOKEN)
        token.chmod(0o600)
        self.peer_url = ""
        peer_lines = ""
        if peer is not None:
            self.peer_url = f"https://{peer.address}:9474"
            authority = folder / peer.name / certificate.name  # each is its own authority
            peer_lines = f'peer = "{self.peer_url}"\npeer_ca = "{authority}"\npeer_token_file = "{token}"'
        self.config.write_text(
            CONFIGURATION.format(
                name=site.name,
                peer=peer_lines,
                engine=engine,
                store=self.store,
                apex=APEX,
                address=site.address,
                certificate=certificate,
                key=key,
                token=token,
            )
        )
        self.starts = 0
        self._wanted = threading.Event()
        self._closing = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._keeper = threading.Thread(target=self._keep, daemon=True)

    def start(self) -> None:
        """From now on it runs. Raises ChildFailed if it does not come up."""
        self._wanted.set()
        if not self._keeper.is_alive():
            self._keeper.start()
        self.wait_ready()

    def wait_ready(self, seconds: float = START_SECONDS_MAX) -> float:
        """Until it answers from data; how long that took. Raises ChildFailed with the end of its log."""
        try:
            return wait_for(f"replica {self.site.name} ready", self.is_ready, seconds)
        except ChildFailed as error:
            raise ChildFailed(f"{error}: {self.log.read_text()[-1000:]}") from None

    def is_ready(self) -> bool:
        """Whether it says so itself."""
        return self.readiness() == "ready"

    def readiness(self) -> str:
        """What /readyz says; empty if it says nothing."""
        code = (
            "import sys, urllib.request, urllib.error\n"
            "try: text = urllib.request.urlopen('http://127.0.0.1:9474/readyz', timeout=1).read()\n"
            "except urllib.error.HTTPError as error: text = error.read()\n"
            "except OSError: text = b''\n"
            "sys.stdout.write(text.decode())"
        )
        try:
            return self.site.run(sys.executable, "-S", "-c", code).strip()
        except ChildFailed:
            return ""

    @property
    def pid(self) -> int:
        """Of the daemon. Raises ChildFailed when none runs."""
        process = self._process
        if process is None or process.poll() is not None:
            raise ChildFailed(f"replica {self.site.name} does not run")
        return process.pid

    def kill(self) -> None:
        """As the kernel does when memory runs out: no last word."""
        with contextlib.suppress(ChildFailed):
            os.kill(self.pid, signal.SIGKILL)

    def halt(self) -> None:
        """As under a debugger: the ports are there, nobody reads them."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Undo `halt`."""
        with contextlib.suppress(ChildFailed):
            os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """End it for good."""
        self._closing.set()
        self._wanted.set()
        if self._process is not None:
            end(self._process)
        if self._keeper.is_alive():
            self._keeper.join()

    def _keep(self) -> None:
        while True:
            self._wanted.wait()
            if self._closing.is_set():
                return
            command = (sys.executable, "-m", "lookupd.cli", "serve", "--config", self.config)
            self._process = self.site.start(self.log, *command, core=self.core)
            self.starts += 1
            if self._closing.is_set():
                end(self._process)
            self._process.wait()
            time.sleep(RESTART_SECONDS)
