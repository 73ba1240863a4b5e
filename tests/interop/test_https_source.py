"""HTTPS sources with a real TLS server on loopback, its certificates made by an authority of the test's own.

The server speaks HTTP by hand, so that it can do what no decent one does: hang, stop in the middle, lie about
a range. It counts what it sends.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import datetime
import hashlib
import ipaddress
import json
import random
import re
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from loader.sources import Source
from loader.sources.listing import LISTING_BYTES_MAX
from loader.sources.open import open_source
from lookupd.errors import SourceError
from lookupd.settings import FeedSettings
from lookupd.units import Duration

NAME = "snapshot-main-1.csv"
CONTENT = random.Random(1).randbytes(3_000_000)

# -- certificates ----------------------------------------------------------------------------------------


class Authority:
    """Issues certificates into a folder."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.key = ec.generate_private_key(ec.SECP256R1())
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        builder = (
            self._builder(self.name, self.key, days=10)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
        )
        self.file = folder / f"{name}.pem"
        self.file.write_bytes(builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def issue(self, *names: str, days: int = 10) -> ssl.SSLContext:
        """A server's context. days: until it expires, negative if it did."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "server")])
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        builder = (
            self._builder(subject, key, days)
            .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
            .add_extension(authority, critical=False)
        )
        file = self.folder / "server.pem"
        file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, days: int) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=20))
            .not_valid_after(now + datetime.timedelta(days=days))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


# -- the server ------------------------------------------------------------------------------------------

Headers = dict[str, str]


class Site:
    """What lies under /out/, how it is told, and what went over the wire."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.page: bytes | None = None  # None: JSON of the files
        self.status: dict[str, str] = {}  # path -> status line and headers that are answered instead
        self.ranges = True
        self.announced = "length"  # or chunked, or nothing
        self.weak = False
        self.extra: Headers = {}
        self.stop_after: int | None = None  # bytes of a body
        self.then_hang = False
        self.wrong_range: Callable[[Headers], None] | None = None
        self.requests: list[tuple[str, Headers]] = []
        self.statuses: list[int] = []
        self.body_bytes = 0
        self.connections = 0
        self.port = 0
        self.released = asyncio.Event()

    def body(self, path: str) -> bytes | None:
        name = path.removeprefix("/out/")
        if name == "":
            return json.dumps(sorted(self.files)).encode() if self.page is None else self.page
        return self.files.get(name)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.closing(writer), contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                text = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                path = text.split(" ", 2)[1]
                lines = [line.split(": ", 1) for line in text.split("\r\n")[1:] if line]
                if not await self._answer(path, {key.lower(): value for key, value in lines}, writer):
                    break

    async def _answer(self, path: str, asked: Headers, writer: asyncio.StreamWriter) -> bool:
        """False: close the connection."""
        self.requests.append((path, asked))
        if path in self.status:
            writer.write(f"HTTP/1.1 {self.status[path]}\r\nContent-Length: 0\r\n\r\n".encode())
            return True
        body = self.body(path)
        if body is None:
            return self._head(writer, "404 Not Found", {"Content-Length": "0"})
        etag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
        etag = f"W/{etag}" if self.weak else etag
        if asked.get("if-none-match") == etag:
            return self._head(writer, "304 Not Modified", {"ETag": etag})
        told = {"ETag": etag} | self.extra
        status = "200 OK"
        found = re.fullmatch(r"bytes=(\d+)-", asked.get("range", ""))
        if found and self.ranges and asked.get("if-range", etag) == etag:
            first = int(found[1])
            if first >= len(body):
                return self._head(writer, "416 Range Not Satisfiable", {"Content-Length": "0"})
            told["Content-Range"] = f"bytes {first}-{len(body) - 1}/{len(body)}"
            body, status = body[first:], "206 Partial Content"
            if self.wrong_range is not None:
                self.wrong_range(told)
        if self.announced == "length":
            told["Content-Length"] = str(len(body))
        elif self.announced == "chunked":
            told["Transfer-Encoding"] = "chunked"
        self._head(writer, status, told)
        return await self._send(body, writer)

    def _head(self, writer: asyncio.StreamWriter, status: str, headers: Headers) -> bool:
        self.statuses.append(int(status[:3]))
        lines = "".join(f"{key}: {value}\r\n" for key, value in headers.items())
        writer.write(f"HTTP/1.1 {status}\r\n{lines}\r\n".encode("latin-1"))
        return True

    async def _send(self, body: bytes, writer: asyncio.StreamWriter) -> bool:
        sent = body if self.stop_after is None else body[: self.stop_after]
        for at in range(0, len(sent), 65_536):
            piece = sent[at : at + 65_536]
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece) if self.announced == "chunked" else piece)
            self.body_bytes += len(piece)
            await writer.drain()
        if self.then_hang:
            await self.released.wait()
        if len(sent) < len(body):
            await asyncio.sleep(0.1)  # or the client's event loop hears of the end before it has read what came
            return False
        if self.announced == "chunked":
            writer.write(b"0\r\n\r\n")
        return self.announced != "nothing"


@asynccontextmanager
async def serving(tls: ssl.SSLContext | None) -> AsyncIterator[Site]:
    site = Site()
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.create_task(site.serve(reader, writer)))

    listener = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls)
    site.port = listener.sockets[0].getsockname()[1]
    try:
        yield site
    finally:
        site.released.set()
        listener.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "authority")


@pytest.fixture
async def site(authority: Authority) -> AsyncIterator[Site]:
    async with serving(authority.issue("localhost", "127.0.0.1")) as site:
        yield site


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    folder = tmp_path / "spool"
    folder.mkdir()
    return folder


@asynccontextmanager
async def source_of(
    port: int, ca_file: Path | str, host: str = "localhost", scheme: str = "https", timeout: float = 10, **settings: str
) -> AsyncIterator[Source]:
    url = f"{scheme}://{host}:{port}/out/"
    feed = FeedSettings(source=url, ca_file=str(ca_file), timeout=Duration(timeout), **settings)  # type: ignore[arg-type]
    source = open_source("main", feed)
    try:
        yield source
    finally:
        await source.close()


def content_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# -- what it is for --------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_files_are_listed_and_fetched_over_one_connection(
    site: Site, authority: Authority, spool: Path, host: str
) -> None:
    site.files = {NAME: CONTENT, "empty": b"", "one": b"1"}
    async with source_of(site.port, authority.file, host) as source:
        assert await source.names() == set(site.files)
        for name in site.files:
            await source.fetch(name, spool / name)
        assert site.connections == 1
    assert content_of(spool) == site.files


async def test_html_index_is_read_and_leads_nowhere_else(site: Site, authority: Authority) -> None:
    names = [f"delta-main-{at}.ndjson" for at in range(5000)]
    links = [
        *names,
        "../x",
        "/etc/passwd",
        f"https://localhost:{site.port}/out/b",
        "https://other/out/c",
        ".h",
        "d.part",
    ]
    site.page = "".join(f'<a href="{link}">{link}</a>\n' for link in links).encode()
    async with source_of(site.port, authority.file) as source:
        assert await source.names() == {*names, "b"}


async def test_unchanged_listing_is_not_sent_again(site: Site, authority: Authority) -> None:
    site.files = {"a": b""}
    async with source_of(site.port, authority.file) as source:
        for _ in range(3):
            assert await source.names() == {"a"}
        assert site.statuses == [200, 304, 304]
        site.files["b"] = b""
        assert await source.names() == {"a", "b"}
        site.files["b"] = b"x"
        assert await source.names() == {"a", "b"}
    assert site.statuses == [200, 304, 304, 200, 304]


@pytest.mark.parametrize("etag", ["", '"é"', f'"{"x" * 2000}"'])
async def test_listing_without_a_tag_to_keep_is_asked_again(site: Site, authority: Authority, etag: str) -> None:
    site.extra = {"ETag": etag}
    async with source_of(site.port, authority.file) as source:
        for _ in range(2):
            assert await source.names() == frozenset()
    assert site.statuses == [200, 200]


@pytest.mark.parametrize("announced", ["length", "chunked"])
async def test_listing_without_end_is_refused(site: Site, authority: Authority, announced: str) -> None:
    site.announced = announced
    site.page = b" " * (LISTING_BYTES_MAX + 1)
    async with source_of(site.port, authority.file) as source:
        with pytest.raises(SourceError, match=f"its page is longer than {LISTING_BYTES_MAX} bytes"):
            await source.names()


async def test_body_in_chunks_is_fetched_whole(site: Site, authority: Authority, spool: Path) -> None:
    site.announced = "chunked"
    site.files = {NAME: CONTENT}
    async with source_of(site.port, authority.file) as source:
        await source.fetch(NAME, spool / NAME)
    assert content_of(spool) == site.files


async def test_folder_and_names_are_written_as_a_url_wants(site: Site, authority: Authority, spool: Path) -> None:
    site.files = {"a%20b%25%3F%26.csv": b"1"}
    async with source_of(site.port, authority.file) as source:
        await source.fetch("a b%?&.csv", spool / "x")
    feed = FeedSettings(source=f"https://localhost:{site.port}/a b/名/", ca_file=str(authority.file))
    source = open_source("main", feed)
    with pytest.raises(SourceError, match="404 Not Found"):
        await source.names()
    await source.close()
    assert site.requests[-1][0] == "/a%20b/%E5%90%8D/"


async def test_compressed_file_is_taken_as_it_lies_there(site: Site, authority: Authority, spool: Path) -> None:
    site.extra = {"Content-Encoding": "gzip"}  # as Apache tells of every .gz
    site.files = {NAME + ".gz": b"\x1f\x8b not touched"}
    async with source_of(site.port, authority.file) as source:
        await source.fetch(NAME + ".gz", spool / NAME)
    assert content_of(spool) == {NAME: b"\x1f\x8b not touched"}
    assert site.requests[0][1]["accept-encoding"] == "identity"


async def test_acknowledgements_are_not_taken(site: Site, authority: Authority) -> None:
    async with source_of(site.port, authority.file) as source:
        assert await source.publish("x.ack.json", b"1") is False
    assert site.requests == []


async def test_user_and_password_are_sent(site: Site, authority: Authority, tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.touch(0o600)
    password.write_text("s3cret é\n")
    async with source_of(site.port, authority.file, user="feed", password_file=str(password)) as source:
        await source.names()
        site.status = {"/out/": "401 Unauthorized"}
        with pytest.raises(SourceError, match="says 401 Unauthorized: see that the feed's `user` and") as caught:
            await source.names()
    sent = site.requests[0][1]["authorization"].removeprefix("Basic ")
    assert base64.b64decode(sent).decode() == "feed:s3cret é"
    assert "s3cret" not in str(caught.value)
    assert sent not in str(caught.value)


async def test_proxy_of_the_environment_is_not_used(
    site: Site, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/")
    async with source_of(site.port, authority.file) as source:
        assert await source.names() == frozenset()


async def test_plain_http_works_on_this_machine(spool: Path) -> None:
    async with serving(None) as site, source_of(site.port, "", "127.0.0.1", "http") as source:
        site.files = {NAME: CONTENT}
        assert await source.names() == {NAME}
        await source.fetch(NAME, spool / NAME)
    assert content_of(spool) == {NAME: CONTENT}


# -- whom we trust ---------------------------------------------------------------------------------------


async def test_certificate_of_another_authority_is_refused(site: Site, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Authority(tmp_path / "other", "authority")
    for ca_file in (other.file, ""):
        async with source_of(site.port, ca_file) as source:
            with pytest.raises(SourceError, match=r"certificate is refused: .*: see whether it expired .*`ca_file`"):
                await source.names()
    assert site.requests == []


async def test_certificate_for_another_host_is_refused(authority: Authority) -> None:
    async with serving(authority.issue("other.example")) as site:
        for host in ("localhost", "127.0.0.1"):
            async with source_of(site.port, authority.file, host) as source:
                with pytest.raises(SourceError, match=r"certificate is refused: .* mismatch"):
                    await source.names()
        assert site.requests == []


async def test_expired_certificate_is_refused(authority: Authority) -> None:
    async with serving(authority.issue("localhost", days=-1)) as site:
        async with source_of(site.port, authority.file) as source:
            with pytest.raises(SourceError, match="certificate is refused: certificate has expired"):
                await source.names()
        assert site.requests == []


async def test_old_tls_is_refused(authority: Authority) -> None:
    tls = authority.issue("localhost")
    tls.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        tls.minimum_version, tls.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    async with serving(tls) as site:
        async with source_of(site.port, authority.file) as source:
            with pytest.raises(SourceError, match=r"no TLS with it: .*: it must speak TLS 1.2 or newer"):
                await source.names()
        assert site.requests == []


async def test_server_without_tls_is_refused(authority: Authority) -> None:
    async with serving(None) as site:
        async with source_of(site.port, authority.file, timeout=0.3) as source:
            with pytest.raises(SourceError, match=f"^https://localhost:{site.port}/out/: "):
                await source.names()
        assert site.requests == []


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary", "308 Permanent"])
async def test_redirect_is_told_and_not_followed(site: Site, authority: Authority, spool: Path, status: str) -> None:
    target = f"https://feed:secret@localhost:{site.port}/elsewhere/?key=secret"
    site.status = dict.fromkeys(("/out/", f"/out/{NAME}"), f"{status}\r\nLocation: {target}")
    async with source_of(site.port, authority.file) as source:
        for call in (source.names(), source.fetch(NAME, spool / NAME)):
            with pytest.raises(SourceError, match=f"points to https://localhost:{site.port}/elsewhere/: if") as caught:
                await call
            assert "secret" not in str(caught.value)
    assert [path for path, _ in site.requests] == ["/out/", f"/out/{NAME}"]
    assert content_of(spool) == {}


# -- what goes wrong -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "way_out"),
    [
        ("403 Forbidden", "see that the feed's `user` and `password_file` are right"),
        ("404 Not Found", "see that the feed's `source` is right, or that the file still lies there"),
        ("500 Oh\x07 no", "500 .*: ask its operator"),
        ("503 Busy", "it has too much to do"),
        ("204 No Content", "204 No Content: ask its operator"),
        ("304 Not Modified", "304 Not Modified: ask its operator"),
        ("206 Partial Content", "206 Partial Content: ask its operator"),
    ],
)
async def test_other_answers_are_told_with_a_way_out(
    site: Site, authority: Authority, spool: Path, status: str, way_out: str
) -> None:
    site.status = dict.fromkeys(("/out/", f"/out/{NAME}"), status)
    async with source_of(site.port, authority.file) as source:
        for call in (source.names(), source.fetch(NAME, spool / NAME)):
            with pytest.raises(SourceError, match=way_out) as caught:
                await call
            assert str(caught.value).isprintable()
    assert content_of(spool) == {}


async def test_answer_that_is_no_http_is_told(site: Site, authority: Authority) -> None:
    site.status = {"/out/": "what?\r\nX: \x00"}
    async with source_of(site.port, authority.file) as source:
        with pytest.raises(SourceError, match=rf"^https://localhost:{site.port}/out/: its answer is no valid HTTP"):
            await source.names()


async def test_server_that_is_down_is_told(authority: Authority) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    async with source_of(port, authority.file) as source:
        with pytest.raises(SourceError, match=rf"^https://localhost:{port}/out/: .*see that it is up and reached"):
            await source.names()


async def test_server_that_never_speaks_is_cut_off(authority: Authority) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with source_of(silent.getsockname()[1], authority.file, timeout=0.3) as source:
            began = asyncio.get_running_loop().time()
            with pytest.raises(SourceError, match=r"no answer within 0.3 s: see that it is up and reached from here"):
                await source.names()
            assert asyncio.get_running_loop().time() - began < 2


@pytest.mark.parametrize("sent", [0, 100_000])
async def test_server_that_falls_silent_is_cut_off(site: Site, authority: Authority, spool: Path, sent: int) -> None:
    site.files = {NAME: CONTENT}
    site.stop_after, site.then_hang = sent, True
    async with source_of(site.port, authority.file, timeout=0.3) as source:
        with pytest.raises(SourceError, match=r"no answer within 0.3 s"):
            await source.fetch(NAME, spool / NAME)
        site.stop_after, site.then_hang = None, False
        await source.fetch(NAME, spool / NAME)
    assert content_of(spool) == site.files


@pytest.mark.parametrize("announced", ["length", "chunked"])
async def test_truncated_body_leaves_no_file(site: Site, authority: Authority, spool: Path, announced: str) -> None:
    site.files = {NAME: CONTENT}
    site.announced, site.stop_after = announced, 1_000_000
    async with source_of(site.port, authority.file) as source:
        with pytest.raises(SourceError, match="the connection broke in the middle of an answer"):
            await source.fetch(NAME, spool / NAME)
        assert not (spool / NAME).exists()
        site.page = b'["' + b"x" * 2_000_000
        with pytest.raises(SourceError, match="the connection broke in the middle of an answer"):
            await source.names()


async def test_body_whose_end_nobody_announces_is_refused(site: Site, authority: Authority, spool: Path) -> None:
    site.files = {NAME: CONTENT}
    site.announced = "nothing"
    async with source_of(site.port, authority.file) as source:
        for call in (source.names(), source.fetch(NAME, spool / NAME)):
            with pytest.raises(SourceError, match="the server announces no length, so that a broken transfer"):
                await call
    assert content_of(spool) == {}


async def test_cut_transfer_is_continued_with_the_rest_only(site: Site, authority: Authority, spool: Path) -> None:
    site.files = {NAME: CONTENT}
    site.stop_after = 2_000_000
    async with source_of(site.port, authority.file) as source:
        with pytest.raises(SourceError, match="what came is kept and continued"):
            await source.fetch(NAME, spool / NAME)
    kept = (spool / f"{NAME}.part").stat().st_size
    assert 0 < kept <= 2_000_000
    site.stop_after, site.body_bytes = None, 0
    async with source_of(site.port, authority.file) as source:  # as after a restart
        await source.fetch(NAME, spool / NAME)
    assert site.body_bytes == len(CONTENT) - kept
    assert site.statuses == [200, 206]
    assert content_of(spool) == site.files


async def cut_then_fetch(site: Site, authority: Authority, spool: Path, between: Callable[[], None]) -> None:
    site.files = {NAME: CONTENT}
    site.stop_after = 2_000_000
    async with source_of(site.port, authority.file) as source:
        with pytest.raises(SourceError):
            await source.fetch(NAME, spool / NAME)
        site.stop_after, site.statuses = None, []
        between()
        await source.fetch(NAME, spool / NAME)
    assert content_of(spool) == site.files


async def test_file_that_changed_after_a_cut_is_fetched_anew(site: Site, authority: Authority, spool: Path) -> None:
    await cut_then_fetch(site, authority, spool, lambda: site.files.update({NAME: CONTENT[::-1]}))
    assert site.statuses == [200]


async def test_file_that_became_shorter_is_fetched_anew(site: Site, authority: Authority, spool: Path) -> None:
    await cut_then_fetch(site, authority, spool, lambda: site.files.update({NAME: b"short"}))
    assert content_of(spool) == {NAME: b"short"}


async def test_server_without_ranges_sends_the_file_anew(site: Site, authority: Authority, spool: Path) -> None:
    await cut_then_fetch(site, authority, spool, lambda: setattr(site, "ranges", False))
    assert site.statuses == [200]


async def test_part_that_was_whole_is_fetched_anew(site: Site, authority: Authority, spool: Path) -> None:
    def complete() -> None:
        (spool / f"{NAME}.part").write_bytes(CONTENT)
        mark = spool / f"{NAME}.part.of"
        mark.write_text(json.dumps(json.loads(mark.read_text()) | {"length": len(CONTENT)}))

    await cut_then_fetch(site, authority, spool, complete)
    assert site.statuses == [416, 200]


async def test_weak_tag_does_not_continue(site: Site, authority: Authority, spool: Path) -> None:
    site.weak = True
    await cut_then_fetch(site, authority, spool, lambda: None)
    assert "range" not in site.requests[-1][1]


@pytest.mark.parametrize(
    "lie",
    [
        {"Content-Range": "bytes 0-2999999/3000000"},
        {"Content-Range": "bytes 7-8/9"},
        {"Content-Range": "bytes 1-2"},
        {"Content-Range": "items 1-2/3"},
        {"ETag": '"other"'},
        {"ETag": ""},
    ],
)
async def test_rest_of_something_else_is_not_taken(
    site: Site, authority: Authority, spool: Path, lie: dict[str, str]
) -> None:
    await cut_then_fetch(
        site, authority, spool, lambda: setattr(site, "wrong_range", lambda headers: headers.update(lie))
    )
    assert site.statuses == [206, 200]


async def test_kept_connection_that_broke_is_opened_again(site: Site, authority: Authority) -> None:
    async with source_of(site.port, authority.file) as source:
        await source.names()
        site.status = {"/out/": "200 OK\r\nConnection: close\r\nX: y"}
        with pytest.raises(SourceError, match="its page is neither"):
            await source.names()
        site.status = {}
        assert await source.names() == frozenset()
    assert site.connections == 2


@pytest.mark.parametrize("announced", ["length", "chunked"])
async def test_full_disk_here_is_not_blamed_on_the_server(
    site: Site, authority: Authority, tmp_path: Path, announced: str
) -> None:
    site.files = {NAME: CONTENT}
    site.announced = announced
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], check=True)
    try:
        async with source_of(site.port, authority.file) as source:
            with pytest.raises(SourceError, match=r"^spool: .*: No space left on device: .*free space on it"):
                await source.fetch(NAME, disk / NAME)
            assert content_of(disk) == {}
            assert await source.names() == {NAME}
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)
