"""The pages of docs/integration: their settings are taken, and their messages are those on the wire."""

from __future__ import annotations

import re
import socket

import pytest

from lookupd.config import read_config
from tests.conftest import Workbench, free_port, run_daemon
from tests.interop.pages import INTEGRATION, block

SETTINGS = [
    pytest.param(text, id=f"{page.name}-{number}")
    for page in sorted(INTEGRATION.glob("*.md"))
    for number, text in enumerate(re.findall(r"^```toml\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL))
]


@pytest.mark.parametrize("text", SETTINGS)
def test_settings_are_taken(workbench: Workbench, text: str) -> None:
    config = read_config(workbench.write("lookupd.toml", text))
    assert config.clients
    assert all(client.sources for client in config.clients)


def sample_messages() -> list[tuple[str, str]]:
    """Requests and replies of sbc.md, in the lines of the page."""
    text = (INTEGRATION / "sbc.md").read_text()
    pairs = re.findall(r"^```\nrequest\n(.*?)\n\nreply\n(.*?)\n```$", text, re.MULTILINE | re.DOTALL)
    assert len(pairs) == text.count("\nrequest\n") >= 4
    return pairs


@pytest.mark.usefixtures("each_engine")
def test_sample_messages_are_those_on_the_wire(loaded: Workbench) -> None:
    port, http_port = free_port(), free_port()
    settings = block("sbc.md", "lookupd.toml")
    for page, here in (("192.0.2.10:5060", f"127.0.0.1:{port}"), ("192.0.2.20/32", "127.0.0.1/32")):
        assert page in settings
        settings = settings.replace(page, here)
    settings = settings.replace("127.0.0.1:9474", f"127.0.0.1:{http_port}")
    head = f'[engine]\nudp = "{loaded.engine}"\n[store]\npath = "{loaded.store}"\n'
    with (
        run_daemon(loaded.write("lookupd.toml", head + settings)),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
    ):
        sock.settimeout(5)
        sock.connect(("127.0.0.1", port))
        for request, reply in sample_messages():
            asked, expected = (
                (part.replace("5070", str(sock.getsockname()[1])) + "\n\n").replace("\n", "\r\n")
                for part in (request, reply)
            )
            sock.send(asked.encode())
            heard = sock.recv(4096).decode()
            assert re.sub(r"^(To: .*;tag=)[0-9a-f]{16}\r$", r"\g<1>0123456789abcdef\r", heard, flags=re.M) == expected
            sock.send(asked.encode())
            assert sock.recv(4096).decode() == heard
