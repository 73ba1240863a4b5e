"""`lookupd query` over HTTP: what a daemon answers, what it refuses, and what a server does that is none."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lookupd import clients
from lookupd.client import NoAnswer
from lookupd.clients import WrongAnswer
from lookupd.errors import LookupdError
from lookupd.limits import HTTP_ANSWER_BYTES_MAX
from lookupd.model import AnswerView
from tests.certificates import TOKEN, Authority, write_secret
from tests.conftest import PLAN, Workbench, free_port, run_cli, serve

HTTP = 'http = "http://127.0.0.1:0"'
NUMBERS = ["0912345678", "+886 923-456-789", "886911111111", "886930000000", "110", "hello"]
OUTCOMES = ["ported", "ported", "not_ported", "not_allocated", "not_portable", "not_portable"]


async def ask(*servers: str, numbers: list[str] | None = None, timeout: float = 10, **keys: Path) -> list[AnswerView]:
    files = (str(keys["token"]) if "token" in keys else None, str(keys["ca"]) if "ca" in keys else None)
    return await asyncio.to_thread(clients.ask, servers, numbers or ["0912345678"], PLAN, timeout, files)


@contextlib.asynccontextmanager
async def answering(*pieces: bytes) -> AsyncIterator[str]:
    """A server that says these bytes to whatever it is asked, and then nothing more."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
            await reader.read()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def whole(body: bytes, status: str = "200 OK") -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status.encode(), len(body), body)


def answer(**changed: object) -> bytes:
    fields = {
        "number": "+886912345678", "outcome": "ported", "network_code": "1402", "routing_number": None,
        "operator": None, "restriction": None, "serial": 3, "age_seconds": 1,
    }  # fmt: skip
    return json.dumps([fields | changed]).encode()


# -- a daemon --------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("each_engine")
async def test_every_outcome_is_read_as_it_was_meant(loaded: Workbench) -> None:
    async with serve(loaded.config("", HTTP)) as served:
        views = await ask(f"http://localhost:{served.port('http', 'http')}/", numbers=NUMBERS)
    assert [view.outcome for view in views] == OUTCOMES
    first = views[0]
    assert (first.number, first.network_code, first.routing_number, first.operator, first.serial) == (
        "+886912345678", "1402", "D0402", "Beta Mobile", 3,
    )  # fmt: skip


async def test_more_numbers_than_one_request_holds_are_answered_in_order(loaded: Workbench) -> None:
    numbers = [f"8869123{at:05}" for at in range(2500)]
    async with serve(loaded.config("", HTTP)) as served:
        views = await ask(f"http://127.0.0.1:{served.port('http', 'http')}", numbers=numbers)
        assert served.daemon.metrics.queries("http", "tcp").received == 2500
    assert [view.number for view in views] == [f"+{number}" for number in numbers]


async def test_next_server_is_asked_what_the_first_cannot_answer(loaded: Workbench, tmp_path: Path) -> None:
    empty = Workbench(tmp_path / "empty")
    empty.folder.mkdir()
    limited = '[[client]]\nname = "slow"\nsources = ["127.0.0.0/8"]\nqueries_per_second = 1\n'
    async with (
        serve(empty.config("", HTTP)) as without_data,
        serve(loaded.config(limited, HTTP)) as slow,
    ):
        first = f"http://127.0.0.1:{without_data.port('http', 'http')}"
        second = f"http://127.0.0.1:{slow.port('http', 'http')}"
        nobody = f"http://127.0.0.1:{free_port()}"
        views = await ask(nobody, first, second, numbers=["0912345678"] * 5)
        assert (views[0].outcome, views[-1].outcome) == ("ported", "refused")
        assert (await ask(first))[0].outcome == "unavailable"
        with pytest.raises(NoAnswer, match="Connection refused"):
            await ask(nobody)


async def test_token_and_authority_let_in_over_https(loaded: Workbench, tmp_path: Path) -> None:
    authority, stranger = Authority(tmp_path), Authority(tmp_path, "stranger")
    own = authority.issue("server")
    token = write_secret(tmp_path / "token", TOKEN)
    wrong = write_secret(tmp_path / "wrong", "another-token-0123456789abcdef")
    settings = (
        f'[http]\ncertificate = "{own.certificate}"\nkey = "{own.key}"\n'
        f'[[client]]\nname = "shop"\nsources = ["127.0.0.0/8"]\ntoken_file = "{token}"\n'
    )
    async with serve(loaded.config(settings, 'http = "https://0.0.0.0:0"')) as served:
        url = f"https://127.0.0.1:{served.port('http', 'https')}"
        assert (await ask(url, token=token, ca=authority.file))[0].outcome == "ported"
        with pytest.raises(NoAnswer, match="HTTP 401: this listener wants a token"):
            await ask(url, ca=authority.file)
        with pytest.raises(NoAnswer, match="HTTP 401"):
            await ask(url, token=wrong, ca=authority.file)
        for files in ({"ca": stranger.file}, {}):
            with pytest.raises(NoAnswer, match="certificate is not trusted"):
                await ask(url, token=token, **files)
        with pytest.raises(NoAnswer, match="certificate is not trusted"):
            await ask(url.replace("127.0.0.1", "127.0.0.2"), token=token, ca=authority.file)
        with pytest.raises(NoAnswer):
            await ask(url.replace("https", "http"), numbers=["110"])
        done = await asyncio.to_thread(
            run_cli, "lookupd.cli", "query", "0912345678", "--server", url, "--token-file", token,
            "--ca-file", authority.file, "--json",
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["operator"] == "Beta Mobile"


async def test_token_never_goes_over_plain_http(tmp_path: Path) -> None:
    token = write_secret(tmp_path / "token", TOKEN)
    with pytest.raises(LookupdError, match="https:// only"):
        await ask("http://127.0.0.1:9474", token=token)


# -- what is no daemon -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "error", "words"),
    [
        (b"SSH-2.0-OpenSSH_9.6\r\n", NoAnswer, "does HTTP listen there"),
        (whole(b"<html>", "404 Not Found"), NoAnswer, "HTTP 404: <html>"),
        (whole(b'{"error": "\x1b[2J' + b'not you"}', "403 Forbidden"), NoAnswer, "HTTP 403"),
        (whole(b"", "302 Found\r\nLocation: http://127.0.0.1:1/"), NoAnswer, "HTTP 302"),
        (whole(b"<html>"), WrongAnswer, "no answers"),
        (whole(b"[" * 100_000), WrongAnswer, "no answers"),
        (whole(b"[]"), WrongAnswer, "0 answers to 1 numbers"),
        (whole(b"\xff"), WrongAnswer, "no answers"),
        (whole(answer(outcome="maybe")), WrongAnswer, "cannot be one"),
        (whole(answer(routing_number="\x1b[2J")), WrongAnswer, "cannot be one"),
        (whole(b" " * (HTTP_ANSWER_BYTES_MAX + 1)), WrongAnswer, "more than"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n[", NoAnswer, "no answer in time"),
        (b"", NoAnswer, "no answer in time"),
    ],
    ids=["banner", "html", "escapes", "redirect", "no_json", "deep", "none", "bytes", "outcome", "text", "long",
         "half", "silent"],
)  # fmt: skip
async def test_what_cannot_be_an_answer_is_told_in_words(said: bytes, error: type[LookupdError], words: str) -> None:
    async with answering(said) as url:
        with pytest.raises(error) as told:
            await ask(url, timeout=0.5 if "in time" in words else 10)
    assert words in str(told.value)
    assert str(told.value).isprintable()


async def test_answer_in_pieces_is_read_whole() -> None:
    said = whole(answer())
    async with answering(said[:20], said[20:60], said[60:]) as url:
        assert (await ask(url))[0].network_code == "1402"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--server", "http://"], 1, "write it like"),
        (["--server", "http://127.0.0.1/v1/x"], 1, "write it like"),
        (["--server", "http://127.0.0.1/v1"], 1, "no path"),
        (["--server", "http://me:secret@127.0.0.1"], 1, "write it like"),
        (["--server", "http+tcp://127.0.0.1"], 1, "write it like"),
        (["--server", "http://127.0.0.1:99999"], 1, "write it like"),
        (["--server", "http://127.0.0.1", "--server", "udp://127.0.0.1:4700"], 2, "asked in turn"),
        (["--server", "http://127.0.0.1", "--server", "sip://127.0.0.1"], 1, "not beside"),
        (["--server", "http://127.0.0.1", "--token-file", "x"], 2, "for https://"),
        (["--token-file", "x"], 2, "for https://"),
        (["--server", "https://127.0.0.1:1", "--token-file", "nowhere"], 3, "--token-file: nowhere: No such file"),
        (["--server", "https://127.0.0.1:1", "--ca-file", "nowhere"], 3, "--ca-file: nowhere: No such file"),
    ],
)
def test_server_that_cannot_be_asked_is_told_in_words(arguments: list[str], code: int, words: str) -> None:
    told = run_cli("lookupd.cli", "query", "0912345678", *arguments)
    assert (told.returncode, words in told.stderr) == (code, True), told.stderr
    assert "Traceback" not in told.stderr
