"""The HTTP listener under attack: by pages in a browser, by bytes that are nearly HTTP, by peers that never end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from lookupd.protocols import npq
from lookupd.transports import http_connections
from tests.certificates import TOKEN, Authority, write_secret
from tests.conftest import Served, Workbench, free_port, run_daemon, serve, wait_until

GET = "GET {path} HTTP/1.1\r\nHost: {host}\r\n{more}Connection: close\r\n\r\n"


async def raw(port: int, request: bytes | str) -> bytes:
    """Everything that comes back until the connection ends; the request may be cut off by a refusal."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request.encode("latin-1") if isinstance(request, str) else request)
    answer = b""
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(15):
            answer = await reader.read()
    writer.close()
    return answer


async def get(port: int, path: str = "/metrics", host: str = "127.0.0.1", **more: str) -> tuple[int, bytes]:
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in more.items())
    answer = await raw(port, GET.format(path=path, host=host, more=lines))
    return int(answer[9:12]), answer


def http_port(served: Served) -> int:
    return served.port("http", "http")


def refused(served: Served) -> dict[str, int]:
    return {reason: count for reason, count in served.daemon.metrics.http.refused.items() if count}


# -- pages in a browser --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("127.0.0.1:9474", 200),
        ("localhost:1", 200),
        ("LOCALHOST", 200),
        ("[::1]:9474", 200),
        ("noc.example", 200),
        ("evil.example", 421),
        ("evil.example:9474", 421),
        ("127.0.0.1.evil.example", 421),
        ("127.0.0.2", 421),
        ("localhost@evil.example", 421),
        ("[::1", 421),
        ("127.0.0.1:9474:9474", 421),
        ("127.0.0.1 evil.example", 421),
        ("", 421),
        ("2130706433", 421),
    ],
)
async def test_name_that_was_bent_to_our_address_is_misdirected(loaded: Workbench, host: str, status: int) -> None:
    async with serve(loaded.config('[http]\nhosts = ["Noc.Example"]')) as served:
        found, answer = await get(http_port(served), host=host)
        assert found == status
        assert refused(served) == ({} if status == 200 else {"host": 1})
        assert (b"http.hosts" in answer) is (status == 421)


async def test_host_may_be_missing_only_where_no_browser_leaves_it_out(loaded: Workbench) -> None:
    async with serve(loaded.config()) as served:
        port = http_port(served)
        assert (await raw(port, "GET /readyz HTTP/1.0\r\n\r\n")).startswith(b"HTTP/1.0 200 ")
        assert b" 400 " in (await raw(port, "GET /readyz HTTP/1.1\r\nConnection: close\r\n\r\n"))[:20]
        two = "GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n"
        assert b" 400 " in (await raw(port, two))[:20]


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:3000"},
        {"Origin": "http://localhost"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"},
        {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "no-cors", "Sec_Fetch_Dest": "image"},
        {"Sec_Fetch_Site": "none-of-these"},
    ],
    ids=lambda headers: "-".join(headers.values()),
)
async def test_page_of_another_origin_gets_nothing(loaded: Workbench, headers: dict[str, str]) -> None:
    async with serve(loaded.config()) as served:
        status, answer = await get(http_port(served), **headers)
        assert (status, b"lookupd_ready" in answer, refused(served)) == (403, False, {"origin": 1})


async def test_own_page_and_a_person_get_an_answer(loaded: Workbench) -> None:
    async with serve(loaded.config()) as served:
        port = http_port(served)
        own = {"Origin": f"http://localhost:{port}", "Sec_Fetch_Site": "same-origin", "Sec_Fetch_Mode": "cors"}
        assert (await get(port, host=f"localhost:{port}", **own))[0] == 200
        typed = {"Sec_Fetch_Site": "none", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}
        assert (await get(port, **typed))[0] == 200


async def test_link_leads_to_the_page_and_nowhere_else(loaded: Workbench) -> None:
    visit = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}
    async with serve(loaded.config()) as served:
        port = http_port(served)
        assert (await get(port, "/", **visit))[0] in {200, 404}
        assert (await get(port, "/?x", **visit))[0] == 403
        assert (await get(port, "/", **visit | {"Sec_Fetch_Dest": "iframe"}))[0] == 403
        assert (await get(port, "/", **visit, Origin="http://evil.example"))[0] == 403


@pytest.mark.parametrize("kind", ["text/plain", "application/x-ndjson", "application/x-www-form-urlencoded"])
async def test_forged_post_asks_nothing(loaded: Workbench, kind: str) -> None:
    async with serve(loaded.config()) as served:
        port = http_port(served)
        body = '"+886912345678"\n'
        answer = await raw(
            port,
            f"POST /v1/numbers HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nOrigin: http://evil.example\r\n"
            f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}",
        )
        assert answer.startswith(b"HTTP/1.1 403 ")
        asked = [count for usage in served.daemon.access.usage() for counts in usage for count in counts]
        assert (sum(asked), refused(served)) == (0, {"origin": 1})


async def test_preflight_is_refused_and_no_answer_ever_lets_others_in(loaded: Workbench) -> None:
    async with serve(loaded.config()) as served:
        port = http_port(served)
        preflight = (
            f"OPTIONS /metrics HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nOrigin: http://evil.example\r\n"
            "Access-Control-Request-Method: POST\r\nConnection: close\r\n\r\n"
        )
        answers = [await raw(port, preflight), (await get(port))[1], (await get(port, host="evil.example"))[1]]
        assert [answer[9:12] for answer in answers] == [b"403", b"200", b"421"]
        assert not any(b"access-control-" in answer.lower() for answer in answers)


@pytest.mark.parametrize(
    "request_",
    [
        GET.format(path="/metrics", host="127.0.0.1", more=""),
        GET.format(path="/nothing", host="127.0.0.1", more=""),
        GET.format(path="/metrics", host="evil.example", more=""),
        GET.format(path="//", host="127.0.0.1", more=""),
        "PUT /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
        "\0\r\n\r\n",
    ],
    ids=["answer", "missing", "misdirected", "form", "method", "rubbish"],
)
async def test_every_answer_has_the_headers_and_tells_no_version(loaded: Workbench, request_: str) -> None:
    async with serve(loaded.config()) as served:
        head = (await raw(http_port(served), request_)).partition(b"\r\n\r\n")[0].decode()
        for line in (
            "Server: lookupd",
            "X-Content-Type-Options: nosniff",
            "X-Frame-Options: DENY",
            "Referrer-Policy: no-referrer",
            "Cross-Origin-Resource-Policy: same-origin",
            "Cache-Control: no-store",
        ):
            assert line in head.split("\r\n"), head
        assert "frame-ancestors 'none'" in head
        assert "aiohttp" not in head


# -- bytes that are nearly HTTP ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "//evil.example/metrics",
        "/./metrics",
        "/../metrics",
        "/x/../metrics",
        "/v1%2fstore/state",
        "/v1/store%2Fstate",
        "/%2e%2e/metrics",
        "/metrics%00",
        "/met\\rics",
        "/metrics%5c",
        "/metrics%",
        "/metrics%zz",
        "/<script>",
        "http://evil.example/metrics",
        "http://127.0.0.1/metrics",
        "metrics",
        "*",
        "/m\xe9trics",
    ],
)
async def test_path_that_can_be_read_in_two_ways_is_refused(loaded: Workbench, path: str) -> None:
    async with serve(loaded.config()) as served:
        status, answer = await get(http_port(served), path)
        assert (status, b"lookupd_ready" in answer) == (400, False)
        assert served.daemon.metrics.http.malformed == 1


@pytest.mark.parametrize("method", ["TRACE", "CONNECT", "TRACK", "PROPFIND", "get", "G ET"])
async def test_other_methods_are_refused(loaded: Workbench, method: str) -> None:
    async with serve(loaded.config()) as served:
        target = "127.0.0.1:25" if method == "CONNECT" else "/metrics"
        request = f"{method} {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Secret: s3cret\r\nConnection: close\r\n\r\n"
        answer = await raw(http_port(served), request)
        assert answer[9:12] in {b"400", b"405"}
        assert b"s3cret" not in answer


SMUGGLED = "GET /metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n"


@pytest.mark.parametrize(
    "headers",
    [
        "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        "Content-Length: 5, 5\r\n\r\nhello",
        "Content-Length: +5\r\n\r\nhello",
        "Content-Length: 0x5\r\n\r\nhello",
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
        "X: a\r\n folded\r\n\r\n",
        "X: a\0b\r\n\r\n",
        "X y: z\r\n\r\n",
        ": z\r\n\r\n",
    ],
    ids=lambda headers: re.sub(r"\W+", "-", headers)[:60],
)
async def test_request_with_two_ends_is_one_refusal(loaded: Workbench, headers: str) -> None:
    """Whatever follows is never taken for a request of its own."""
    async with serve(loaded.config()) as served:
        request = f"POST /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n{headers}{SMUGGLED}"
        answer = await raw(http_port(served), request)
        assert re.fullmatch(rb"HTTP/1\.[01] 4\d\d ", answer[:13]), answer
        assert answer.count(b"HTTP/1.") == 1
        assert refused(served) == {}


@pytest.mark.parametrize(
    "more",
    [
        "".join(f"X-{at}: y\r\n" for at in range(500)),
        "X: " + "y" * 20_000 + "\r\n",
        "Cookie: " + "a=b; " * 5000 + "\r\n",
        "Host: evil.example\r\n",
        "Content-Length: 5\r\n\r\nhello",
        "Content-Encoding: gzip\r\n",
        "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
    ],
    ids=["many", "long", "cookie", "host", "body", "packed", "chunked"],
)
async def test_get_with_too_much_is_refused(loaded: Workbench, more: str) -> None:
    async with serve(loaded.config()) as served:
        status, answer = await get(http_port(served), more="x")
        assert status == 200
        answer = await raw(http_port(served), GET.format(path="/metrics", host="127.0.0.1", more=more))
        assert answer[9:12] in {b"400", b"415", b"431"}, answer


async def test_upgrade_leads_nowhere(loaded: Workbench) -> None:
    async with serve(loaded.config()) as served:
        for protocol in ("websocket", "h2c"):
            status, _ = await get(
                http_port(served), Upgrade=protocol, Sec_WebSocket_Key="AAAAAAAAAAAAAAAAAAAAAA==",
                Sec_WebSocket_Version="13",
            )  # fmt: skip
            assert status in {200, 400}


async def test_no_attack_writes_a_traceback(loaded: Workbench, capfd: pytest.CaptureFixture[str]) -> None:
    async with serve(loaded.config()) as served:
        capfd.readouterr()
        for at in range(300):
            await raw(http_port(served), bytes((at * each * 7 + at) % 256 for each in range(at)) + b"\r\n\r\n")
        told = capfd.readouterr().err
        assert "Traceback" not in told
        assert "http_failed" not in told
        assert (await get(http_port(served)))[0] == 200


# -- peers that never end ------------------------------------------------------------------------------------


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that nobody waits for half a minute; the order of the bounds is the real one."""
    monkeypatch.setattr(http_connections, "HTTP_HEAD_SECONDS", 0.5)
    monkeypatch.setattr(http_connections, "HTTP_BODY_SECONDS", 1.0)
    monkeypatch.setattr(http_connections, "HTTP_ANSWER_SECONDS", 1.0)
    monkeypatch.setattr(http_connections, "SWEEP_SECONDS", 0.1)


@pytest.mark.parametrize("begun", ["", "G", "GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nX: "])
async def test_head_that_does_not_end_is_not_waited_for(loaded: Workbench, hurried: None, begun: str) -> None:
    async with serve(loaded.config()) as served:
        assert await raw(http_port(served), begun) == b""
        assert served.daemon.metrics.http.closed["slow_request"] == 1


async def test_second_head_that_does_not_end_is_not_waited_for_either(loaded: Workbench, hurried: None) -> None:
    async with serve(loaded.config()) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", http_port(served))
        writer.write(b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        async with asyncio.timeout(10):
            await reader.readuntil(b"alive\n")
            writer.write(b"GET /livez HTTP/1.1\r\nX: ")
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
        assert served.daemon.metrics.http.closed["slow_request"] == 1
        writer.close()


async def test_reader_that_takes_nothing_is_let_go(loaded: Workbench, hurried: None) -> None:
    async with serve(loaded.config()) as served:
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(sock, ("127.0.0.1", http_port(served)))
            ask = asyncio.create_task(
                loop.sock_sendall(sock, b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 2000)
            )
            async with asyncio.timeout(20):
                while not served.daemon.metrics.http.closed["slow_reader"]:
                    await asyncio.sleep(0.02)
            ask.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConnectionError):
                await ask
        async with asyncio.timeout(10):
            while served.daemon.metrics.http.connections:
                await asyncio.sleep(0.02)


async def test_silent_handshake_is_not_waited_for(loaded: Workbench, hurried: None) -> None:
    authority = Authority(loaded.folder)
    own = authority.issue("server")
    http = f'[http]\ncertificate = "{own.certificate}"\nkey = "{own.key}"\n'
    async with serve(loaded.config(http, 'http = "https://127.0.0.1:0"')) as served:
        port = served.port("http", "https")
        assert await raw(port, "") == b""
        assert await raw(port, "GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n") == b""  # plain, where TLS is spoken
        assert served.daemon.metrics.http.closed["handshake"] == 2
        assert served.daemon.metrics.http.connections == 0


async def test_one_source_has_so_many_places_and_gets_them_back(loaded: Workbench) -> None:
    async with serve(loaded.config()) as served, many(http_port(served), 200) as sockets:
        counts = served.daemon.metrics.http
        async with asyncio.timeout(10):
            while counts.closed["crowded"] < 200 - http_connections.HTTP_CONNECTIONS_PER_SOURCE_MAX:
                await asyncio.sleep(0.01)
        assert counts.connections == http_connections.HTTP_CONNECTIONS_PER_SOURCE_MAX
        assert await served.daemon.canary.ask_all() == {}  # its own address has no place left, and it needs none
        for sock in sockets:
            sock.close()
        async with asyncio.timeout(10):
            while counts.connections:
                await asyncio.sleep(0.01)
        assert (await get(http_port(served)))[0] == 200


async def test_strangers_are_in_nobodys_way(loaded: Workbench) -> None:
    config = loaded.config('[[client]]\nname = "x"\nsources = ["127.0.0.2"]')
    async with serve(config) as served, many(http_port(served), 100):
        counts = served.daemon.metrics.http
        async with asyncio.timeout(10):
            while counts.closed["crowded"] < 100 - http_connections.HTTP_STRANGERS_MAX:
                await asyncio.sleep(0.01)
        reader, writer = await asyncio.open_connection("127.0.0.1", http_port(served), local_addr=("127.0.0.2", 0))
        writer.write(b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert await asyncio.wait_for(reader.readline(), 5) == b"HTTP/1.1 200 OK\r\n"
        writer.close()


@contextlib.asynccontextmanager
async def many(port: int, count: int) -> AsyncIterator[list[socket.socket]]:
    """Connections that are open and say nothing."""
    with contextlib.ExitStack() as opened:
        sockets = []
        for _ in range(count):
            sock = opened.enter_context(socket.socket())
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
            sockets.append(sock)
        yield sockets


# -- the daemon as a process of its own ----------------------------------------------------------------------


class Standing:
    """A daemon that is asked by npq, and attacked over HTTP."""

    def __init__(self, bench: Workbench, engine: str) -> None:
        self.npq, self.http = free_port(), free_port()
        bench.engine = engine
        listen = f'npq = ["udp://127.0.0.1:{self.npq}"]\nhttp = "http://127.0.0.1:{self.http}"'
        self.config = bench.config(listen=listen)

    def answers(self, count: int) -> int:
        """Of so many questions, one after the other."""
        answered = 0
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect(("127.0.0.1", self.npq))
            sock.settimeout(5)
            for at in range(count):
                sock.send(npq.encode_query(at, "886912345678"))
                with contextlib.suppress(TimeoutError):
                    answered += npq.decode_answer(sock.recv(2048)).id == at
        return answered

    def scrape(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}/metrics", timeout=10) as reply:
            text: str = reply.read().decode()
        return text


@pytest.fixture(params=["native", "python"])
def standing(loaded: Workbench, request: pytest.FixtureRequest) -> Iterator[Standing]:
    found = Standing(loaded, request.param)
    with run_daemon(found.config):
        yield found


def test_queries_are_answered_under_slow_requests(standing: Standing) -> None:
    with contextlib.ExitStack() as opened:
        for _ in range(200):
            sock = opened.enter_context(socket.create_connection(("127.0.0.1", standing.http), timeout=5))
            with contextlib.suppress(OSError):
                sock.sendall(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ")
        assert standing.answers(200) == 200


def test_queries_are_answered_under_a_flood_of_scrapes(standing: Standing) -> None:
    request = GET.format(path="/metrics", host="127.0.0.1", more="").encode()
    with contextlib.ExitStack() as opened:
        before = memory(standing)
        for _ in range(40):
            flood = []
            for _ in range(250):
                sock = opened.enter_context(socket.socket())
                sock.setblocking(False)
                sock.connect_ex(("127.0.0.1", standing.http))
                flood.append(sock)
            for sock in flood:
                with contextlib.suppress(OSError):
                    sock.sendall(request)
            assert standing.answers(5) == 5
            opened.close()
        wait_until(lambda: is_answered(standing))
        assert memory(standing) - before < 64 << 20


def is_answered(standing: Standing) -> bool:
    try:
        standing.scrape()
    except OSError:
        return False
    return True


def memory(standing: Standing) -> float:
    """As the daemon tells it."""
    found = re.search(r"^process_resident_memory_bytes (\S+)", standing.scrape(), re.M)
    assert found is not None
    return float(found[1])


def test_token_and_certificate_are_renewed_by_sighup(loaded: Workbench) -> None:
    authority = Authority(loaded.folder)
    own = authority.issue("server")
    token = write_secret(loaded.folder / "token", TOKEN)
    port = free_port()
    config = loaded.config(
        f'[http]\ncertificate = "{own.certificate}"\nkey = "{own.key}"\n'
        f'[[client]]\nname = "noc"\nsources = ["127.0.0.1"]\ntoken_file = "{token}"\n',
        f'http = "https://0.0.0.0:{port}"',
    )
    new = TOKEN[::-1]
    with run_daemon(config) as process:
        assert [scraped(authority.file, port, each) for each in (TOKEN, new)] == [True, False]
        write_secret(token, new)
        authority.issue("server")
        before = ssl.get_server_certificate(("127.0.0.1", port))
        os.kill(process.pid, signal.SIGHUP)
        wait_until(lambda: "config_applied" in config.with_suffix(".log").read_text())
        assert [scraped(authority.file, port, each) for each in (TOKEN, new)] == [False, True]
        assert ssl.get_server_certificate(("127.0.0.1", port)) != before


def scraped(authority: Path, port: int, token: str) -> bool:
    request = urllib.request.Request(f"https://127.0.0.1:{port}/metrics", headers={"Authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(request, context=ssl.create_default_context(cafile=authority), timeout=10) as reply:
            return b"lookupd_ready" in reply.read()
    except urllib.error.HTTPError as error:
        with error:
            if error.code != 401:
                raise
        return False


def test_daemon_with_a_bad_key_does_not_start(loaded: Workbench) -> None:
    own = Authority(loaded.folder).issue("server")
    own.key.chmod(0o644)
    http = f'[http]\ncertificate = "{own.certificate}"\nkey = "{own.key}"\n'
    config = loaded.config(http, 'http = "https://127.0.0.1:0"')
    began = time.monotonic()
    with pytest.raises(AssertionError, match="chmod o="), run_daemon(config):
        pass
    assert time.monotonic() - began < 20


def test_no_scrape_over_https_is_lost_to_a_successor(loaded: Workbench) -> None:
    authority = Authority(loaded.folder)
    own = authority.issue("server")
    token = write_secret(loaded.folder / "token", TOKEN)
    port = free_port()
    config = loaded.config(
        f'[http]\ncertificate = "{own.certificate}"\nkey = "{own.key}"\n'
        f'[[client]]\nname = "noc"\nsources = ["127.0.0.1"]\ntoken_file = "{token}"\n',
        f'http = "https://0.0.0.0:{port}"',
    )
    log = config.with_suffix(".log")
    with run_daemon(config) as process:
        os.kill(process.pid, signal.SIGUSR2)
        scrapes = 0
        try:
            while process.poll() is None:
                assert scraped(authority.file, port, TOKEN)
                scrapes += 1
        finally:
            for follower in re.findall(r"handing_over to=(\d+)", log.read_text()):
                os.kill(int(follower), signal.SIGTERM)
        assert "handing_over" in log.read_text()
        assert scrapes > 1
