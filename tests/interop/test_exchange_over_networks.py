"""The whole exchange, a process of its own, against a real SSH server and a real web server with TLS."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from loader.trust import Signer
from tests.conftest import Workbench
from tests.exchange import Exchange, delta_name, notice
from tests.interop.test_https_source import Authority
from tests.interop.test_sftp_source import USER, Server

SENDER = Signer(bytes(range(32)), b"clearing")


def configure(exchange: Exchange, source: str, extra: str) -> None:
    """The same exchange, over a network, from a sender who signs."""
    text = exchange.config.read_text().replace(f"dir://{exchange.source}", source)
    exchange.config.write_text(text + f'public_key = "{SENDER.public_key_text()}"\n{extra}\n')


def check_position(exchange: Exchange, position: int) -> None:
    done = exchange.once()
    assert done.returncode == 0, done.stderr
    assert exchange.position() == position


def test_exchange_over_sftp_applies_and_acknowledges_at_the_server(workbench: Workbench, tmp_path: Path) -> None:
    workbench.load_tables()
    home = tmp_path / "server"
    home.mkdir()
    server = Server(home)
    exchange = Exchange(workbench, source=server.folder)
    keys = f'known_hosts = "{home}/known_hosts"\nssh_key = "{home}/user_key"'
    configure(exchange, f"sftp://{USER}@127.0.0.1:{server.port}{server.folder}", keys)
    server.start()
    try:
        exchange.snapshot(signer=SENDER)
        exchange.delta(2, notice("886912345678"), signer=SENDER)
        check_position(exchange, 2)
        assert [exchange.acked(name) for name in ("snapshot-main-1.csv", delta_name(2))] == ["applied", "applied"]
        exchange.delta(4, notice("886912345001"), signer=SENDER)  # 3 is missing
        assert exchange.once().returncode == 5
    finally:
        server.stop()
    down = exchange.once()
    assert (down.returncode, "127.0.0.1" in down.stderr) == (1, True)


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def web_server(folder: Path, authority: Authority) -> Iterator[int]:
    """Python's own, with its listing in HTML; its port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder)))
    server.socket = authority.issue("localhost").wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_exchange_over_https_applies_and_keeps_its_word_in_the_spool(workbench: Workbench, tmp_path: Path) -> None:
    workbench.load_tables()
    exchange = Exchange(workbench)
    authority = Authority(tmp_path, "authority")
    exchange.snapshot(signer=SENDER)
    exchange.delta(2, notice("886912345678"), signer=SENDER)
    with web_server(exchange.source, authority) as port:
        configure(exchange, f"https://localhost:{port}/", f'ca_file = "{authority.file}"')
        check_position(exchange, 2)
        exchange.delta(3, notice("886912345001"), signer=Signer(bytes(32), b"stranger"))
        refused = exchange.once()
    assert (refused.returncode, "signed by key" in refused.stdout) == (4, True)
    assert exchange.position() == 2
    assert exchange.acked(delta_name(2)) is None  # the place takes nothing
    kept = (workbench.store / "spool/main/acks" / f"{delta_name(2)}.ack.json").read_text()
    assert '"result":"applied"' in kept
