"""Folder sources, and what all sources share: names, spool, patience, and settings that are refused early."""

from __future__ import annotations

import asyncio
import ctypes
import os
import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import asyncssh
import pytest

from loader.durable import Part
from loader.sources.backoff import Backoff
from loader.sources.folder import FolderSource
from loader.sources.https import HttpsSource
from loader.sources.listing import parse_listing
from loader.sources.open import open_source
from loader.sources.place import NAME_BYTES_MAX, NAMES_MAX, is_plain_name, one_line
from loader.sources.sftp import SftpSource
from lookupd.errors import ConfigError, SourceError
from lookupd.settings import FeedSettings
from lookupd.units import Duration
from tests.small_disk import small_disk

NAME = "snapshot-main-1.csv"
CONTENT = random.Random(1).randbytes(3_000_000)


@pytest.fixture
def feed(tmp_path: Path) -> Path:
    """A folder that a sender writes to."""
    folder = tmp_path / "feed"
    folder.mkdir()
    return folder


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    folder = tmp_path / "spool"
    folder.mkdir()
    return folder


# -- names -----------------------------------------------------------------------------------------------

PLAIN = ("snapshot-main-1.csv.zst", "a", "part", "x.part.csv", "名.csv", "a b", "a..b", "n" * NAME_BYTES_MAX)
NOT_PLAIN = (
    "",
    ".",
    "..",
    ".hidden",
    "../x",
    "a/b",
    "/etc/passwd",
    "..\\x",
    "x.part",
    "x.part.of",
    "a\nb",
    "a\0b",
    "a\x1b[31mb",
    "\u202ecsv.exe",
    "\udcff.csv",
    "n" * (NAME_BYTES_MAX + 1),
    "名" * (NAME_BYTES_MAX // 3 + 1),
)


@pytest.mark.parametrize("name", PLAIN)
def test_plain_name_is_taken(name: str) -> None:
    assert is_plain_name(name)


@pytest.mark.parametrize("name", NOT_PLAIN)
def test_name_that_may_lead_astray_is_passed_over(name: str) -> None:
    assert not is_plain_name(name)


@pytest.mark.parametrize("name", NOT_PLAIN)
async def test_name_that_may_lead_astray_is_neither_fetched_nor_published(feed: Path, spool: Path, name: str) -> None:
    source = FolderSource(feed, 5)
    for call in (source.fetch(name, spool / "x"), source.publish(name, b"")):
        with pytest.raises(SourceError, match="is no plain file name"):
            await call
    assert list(spool.iterdir()) == list(feed.iterdir()) == []


def test_what_a_server_says_becomes_one_bounded_line() -> None:
    assert one_line("a\r\nb\x1b[2J") == "a??b?[2J"
    assert len(one_line("x" * 10_000)) < 320


URL = "https://host/out/"


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ('["a.csv", "b.csv"]', {"a.csv", "b.csv"}),
        (' [{"name":"a.csv","type":"file","mtime":"x","size":3},{"name":"d","type":"directory"}]', {"a.csv"}),
        ('["../x", "a/b", "/x", ".h", "x.part", "ok", "a\\u0000", "..%2Fx"]', {"ok", "..%2Fx"} - {"..%2Fx"}),
        ("[]", set()),
        ('<html><a href="a.csv">a</a> <A class=x HREF=b.csv>', {"a.csv", "b.csv"}),
        (
            '<a href="./a.csv"></a><a href="/out/b.csv"></a><a href="https://host/out/c.csv">',
            {"a.csv", "b.csv", "c.csv"},
        ),
        ('<a href="../x"><a href="..%2Fx"><a href="/x"><a href="%2e%2e/x"><a href="//other/out/x">', set()),
        (
            '<a href="https://other/out/x"><a href="http://host/out/x"><a href="javascript:x"><a href="http://[x">',
            set(),
        ),
        ('<a href="?C=M;O=A"><a href="a?b"><a href="#top"><a href="d/"><a href=""><a href><a name="x">', set()),
        (
            '<a href="%E5%90%8D.csv"><a href="a&amp;b"><a href="%ff"><a href="a%00b"><a href=".h"><a href="p.part">',
            {"名.csv", "a&b"},
        ),
        ("<" + "a <" * 100_000, set()),
    ],
)
def test_listing_gives_the_names_of_its_own_folder_only(body: str, names: set[str]) -> None:
    assert parse_listing(URL, URL, body.encode()) == names


@pytest.mark.parametrize(
    "body", [b"", b"hello", b'{"a": 1}', b"[1]", b'["a"', b'["\xff"]', b"[" * 100_000, b'[{"x":1}]']
)
def test_listing_that_is_none_is_refused(body: bytes) -> None:
    with pytest.raises(SourceError, match="https://host/out/: its page is"):
        parse_listing(URL, URL, body)


@pytest.mark.parametrize("form", ['"n{}"', '".h{}"', '<a href="n{}">', '<a href="../{}">'])
def test_listing_without_end_is_refused(form: str) -> None:
    entries = [form.format(at) for at in range(NAMES_MAX + 1)]
    body = "".join(entries) if form.startswith("<") else f"[{','.join(entries)}]"
    with pytest.raises(SourceError, match=f"more than {NAMES_MAX} files in one folder: have the old ones moved away"):
        parse_listing(URL, URL, body.encode())


# -- the spool -------------------------------------------------------------------------------------------


def test_part_is_continued_only_for_the_same_version(spool: Path) -> None:
    to = spool / NAME
    for version, kept in (("1", 0), ("1", 3), ("2", 0), ("2", 3), ("", 0)):
        part = Part(to)
        part.begin(version, 100)
        assert (part.version, part.length) == (version, kept)
        part.write(b"abc")
        part.close()
    assert list(spool.iterdir()) == []  # without a version nothing is kept


def test_part_is_trusted_as_far_as_it_was_synced(spool: Path) -> None:
    part = Part(spool / NAME)
    part.begin("1")
    part.write(b"abc")
    part.close()
    with (spool / f"{NAME}.part").open("ab") as file:
        file.write(bytes(100))  # as after a power failure: the length is there, the content is not
    part = Part(spool / NAME)
    assert (part.version, part.length) == ("1", 3)
    part.begin("1", 6)
    part.write(b"def")
    part.finish()
    part.close()
    assert {path.name: path.read_bytes() for path in spool.iterdir()} == {NAME: b"abcdef"}


@pytest.mark.parametrize(
    "mark", [b"", b"{", b'{"version":"1"}', b'{"version":"1","length":4}', b'{"version":"1","length":-1}', b"\xff"]
)
def test_part_with_a_damaged_mark_starts_anew(spool: Path, mark: bytes) -> None:
    (spool / f"{NAME}.part").write_bytes(b"abc")
    (spool / f"{NAME}.part.of").write_bytes(mark)
    part = Part(spool / NAME)
    assert (part.version, part.length) == ("", 0)
    part.close()
    assert list(spool.iterdir()) == []


def test_part_longer_than_the_file_starts_anew(spool: Path) -> None:
    for size, kept in ((None, 0), (2, 0)):
        part = Part(spool / NAME)
        part.begin("1", size)
        assert part.length == kept
        part.write(b"abc")
        part.close()


def test_endless_body_is_stopped(spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loader.durable.FILE_BYTES_MAX", 10)
    part = Part(spool / NAME)
    part.begin("1")
    part.write(bytes(10))
    with pytest.raises(SourceError, match=r"longer than 10 bytes, which is no feed file: ask its sender"):
        part.write(b"x")
    part.close()
    assert list(spool.iterdir()) == []


def test_late_write_of_a_cancelled_fetch_changes_nothing(spool: Path) -> None:
    part = Part(spool / NAME)
    part.begin("1")
    part.write(b"abc")
    part.close()
    with pytest.raises(ValueError, match="closed"):
        part.write(b"def")
    assert (spool / f"{NAME}.part").read_bytes() == b"abc"


def test_missing_spool_is_told_as_ours(spool: Path) -> None:
    with pytest.raises(SourceError, match=r"^spool: .*/no: No such file or directory: see that the disk"):
        Part(spool / "no" / NAME)


@pytest.fixture(name="small_disk")
def a_small_disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", 2) as disk:
        yield disk


async def test_full_disk_is_told_before_it_is_full(feed: Path, small_disk: Path) -> None:
    (feed / NAME).write_bytes(CONTENT)
    with pytest.raises(SourceError, match=r"^spool: .*No space left on device: .* has 3000000 bytes: free space on it"):
        await FolderSource(feed, 5).fetch(NAME, small_disk / NAME)
    assert list(small_disk.iterdir()) == []


def test_disk_that_fills_up_is_given_back(small_disk: Path) -> None:
    part = Part(small_disk / NAME)
    part.begin("1")
    with pytest.raises(SourceError, match=r"^spool: .*: No space left on device: free space on it; .* fetched again"):
        part.write(CONTENT)
    part.close()
    assert list(small_disk.iterdir()) == []


# -- a folder --------------------------------------------------------------------------------------------


async def test_folder_lists_plain_files(feed: Path) -> None:
    for name in ("a.csv", ".hidden", "b.part", "b.part.of"):
        (feed / name).touch()
    (feed / os.fsdecode(b"\xff.csv")).touch()
    (feed / "sub").mkdir()
    (feed / "sub" / "c.csv").touch()
    (feed / "link.csv").symlink_to("a.csv")
    (feed / "circle").symlink_to("circle")
    (feed / "nowhere").symlink_to("gone")
    os.mkfifo(feed / "pipe")
    source = FolderSource(feed, 5)
    assert await source.names() == {"a.csv", "link.csv"}
    await source.close()


async def test_folder_of_thousands_is_listed(feed: Path) -> None:
    names = {f"delta-main-{at}.ndjson" for at in range(5000)}
    for name in names:
        (feed / name).touch()
    assert await FolderSource(feed, 5).names() == names


async def test_folder_is_asked_again_at_once(feed: Path) -> None:
    source = FolderSource(feed, 5)
    for _ in range(300):  # the thread of the call before may not have quite ended
        assert await source.names() == frozenset()


async def test_file_is_copied_whole(feed: Path, spool: Path) -> None:
    (feed / NAME).write_bytes(CONTENT)
    (feed / "empty").touch()
    (spool / f"{NAME}.part").write_bytes(b"left behind")
    source = FolderSource(feed, 5)
    await source.fetch(NAME, spool / NAME)
    await source.fetch("empty", spool / "empty")
    assert {path.name: path.read_bytes() for path in spool.iterdir()} == {NAME: CONTENT, "empty": b""}


async def test_acknowledgement_replaces_the_one_before(feed: Path) -> None:
    source = FolderSource(feed, 5)
    assert await source.publish("x.ack.json", b"1")
    assert await source.publish("x.ack.json", b"2")
    assert {path.name: path.read_bytes() for path in feed.iterdir()} == {"x.ack.json": b"2"}


async def test_file_that_grows_while_it_is_copied_is_refused(
    feed: Path, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = feed / NAME
    path.write_bytes(CONTENT)
    write = Part.write

    def write_and_change(part: Part, data: bytes) -> None:
        write(part, data)
        with path.open("ab") as file:
            file.write(b"x")

    monkeypatch.setattr(Part, "write", write_and_change)
    source = FolderSource(feed, 5)
    with pytest.raises(SourceError, match=f"{NAME} changed while it was read: it is fetched anew"):
        await source.fetch(NAME, spool / NAME)
    assert list(spool.iterdir()) == []
    monkeypatch.undo()
    await source.fetch(NAME, spool / NAME)
    assert (spool / NAME).read_bytes() == path.read_bytes()


async def test_folder_that_is_not_there_is_told_with_the_way_out(feed: Path, spool: Path) -> None:
    source = FolderSource(feed / "gone", 5)
    for call in (source.names(), source.fetch(NAME, spool / NAME), source.publish("x", b"")):
        with pytest.raises(SourceError, match=rf"^dir://{feed}/gone: .*it is tried again$") as caught:
            await call
    with pytest.raises(SourceError, match="no such folder: create or mount it, or correct the feed's `source`"):
        await source.names()
    assert "Errno" not in str(caught.value)


async def test_what_is_no_file_is_not_fetched(feed: Path, spool: Path) -> None:
    os.mkfifo(feed / "pipe")
    (feed / "sub").mkdir()
    source = FolderSource(feed, 5)
    for name in ("pipe", "sub"):
        with pytest.raises(SourceError, match=f"{name} is no regular file"):
            await source.fetch(name, spool / name)
    with pytest.raises(SourceError, match="gone: No such file or directory: see that the folder is mounted"):
        await source.fetch("gone", spool / "gone")
    assert list(spool.iterdir()) == []


@pytest.fixture
def hanging(feed: Path) -> Iterator[tuple[Path, int]]:
    """A mounted file system that answers nothing until its descriptor is closed: FUSE with nobody behind it."""
    libc = ctypes.CDLL(None, use_errno=True)
    fuse = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={fuse},rootmode=40000,user_id=0,group_id=0".encode()
    assert libc.mount(b"hanging", bytes(feed), b"fuse", 0, options) == 0, os.strerror(ctypes.get_errno())
    try:
        yield feed, fuse
    finally:
        os.close(os.dup2(os.open("/dev/null", os.O_RDONLY), fuse))
        assert libc.umount2(bytes(feed), 2) == 0, os.strerror(ctypes.get_errno())


async def test_hanging_file_system_is_cut_off_and_holds_one_thread_at_most(hanging: tuple[Path, int]) -> None:
    folder, fuse = hanging
    source = FolderSource(folder, 0.2)
    began = time.monotonic()
    with pytest.raises(SourceError, match=r"no answer within 0.2 s: see that it is up"):
        await source.names()
    assert 0.1 < time.monotonic() - began < 1
    for call in (source.names(), source.publish("x", b"")):
        began = time.monotonic()
        with pytest.raises(SourceError, match=r"no answer within 0.2 s"):
            await call
        assert time.monotonic() - began < 0.1  # told at once, no second thread hangs
    os.close(fuse)
    for _ in range(100):
        with pytest.raises(SourceError) as caught:
            await source.names()
        if "no answer" not in str(caught.value):
            break
        await asyncio.sleep(0.02)
    assert "see that the folder is mounted" in str(caught.value)  # asked again once the first thread was let go
    os.dup2(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC), fuse)


# -- patience --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("chance", "share"), [(0.0, 0.5), (0.5, 0.75), (0.999, 0.9995)])
def test_backoff_doubles_up_to_its_bound(chance: float, share: float) -> None:
    backoff = Backoff(1, 60, lambda: chance)
    waits = [backoff.failed() for _ in range(9)]
    assert waits == pytest.approx([share * full for full in (1, 2, 4, 8, 16, 32, 60, 60, 60)])
    for _ in range(10_000):
        assert backoff.failed() <= 60
    backoff.succeeded()
    assert backoff.failed() == pytest.approx(share)


# -- settings --------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Keys and secrets, as they should be."""
    for name, content in (
        ("password", "s3cret\n"),
        ("open", "s3cret\n"),
        ("empty", ""),
        ("two", "a\nb\n"),
        ("bad", "x"),
    ):
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(0o644 if name == "open" else 0o600)
    key = asyncssh.generate_private_key("ssh-ed25519")
    key.write_private_key(str(tmp_path / "key"))
    (tmp_path / "key").chmod(0o600)
    keygen = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "passphrase", "-f", str(tmp_path / "locked")]
    subprocess.run(keygen, check=True)
    (tmp_path / "known_hosts").write_bytes(b"host " + key.export_public_key())
    (tmp_path / "bad_hosts").write_text("nonsense\n")
    return tmp_path


FILES = {"known_hosts", "ssh_key", "password_file", "ca_file"}


def settings_of(files: Path, **settings: str) -> FeedSettings:
    return FeedSettings(  # type: ignore[arg-type]
        **{key: str(files / value) if key in FILES and value else value for key, value in settings.items()}
    )


SFTP = {"source": "sftp://feed@host/out", "known_hosts": "known_hosts", "ssh_key": "key"}


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({"source": "dir:///var/feed"}, FolderSource),
        (SFTP, SftpSource),
        (SFTP | {"source": "sftp://host:2222/out", "user": "feed"}, SftpSource),
        (SFTP | {"source": "sftp://feed@[::1]/", "ssh_key": "", "password_file": "password"}, SftpSource),
        ({"source": "https://host/out/"}, HttpsSource),
        ({"source": "https://host:8443/", "user": "feed", "password_file": "password"}, HttpsSource),
        ({"source": "http://127.0.0.1:8080/out/"}, HttpsSource),
        ({"source": "http://localhost/"}, HttpsSource),
        ({"source": "http://[::1]/"}, HttpsSource),
    ],
)
def test_good_settings_open_a_source(files: Path, settings: dict[str, str], kind: type) -> None:
    assert isinstance(open_source("main", settings_of(files, **settings)), kind)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "source: empty: write dir:///folder, sftp://user@host/folder or https://host/folder/"),
        ({"source": "ftp://host/"}, "source: ftp: is not known: write dir:///folder"),
        ({"source": "/var/feed"}, "source: : is not known"),
        ({"source": "dir://var/feed"}, "source: 'var' is no folder: write dir:///folder, with three slashes"),
        ({"source": "dir:///a/../b"}, "source: '/a/../b' is no absolute folder"),
        ({"source": "dir:///a%00"}, "source: .* is no absolute folder"),
        ({"source": "dir:///%ff"}, "source: .* is no absolute folder"),
        ({"source": "https://host:99999/"}, "source: Port out of range"),
        ({"source": "https://user:secret@host/"}, "source: holds a password, which everybody sees"),
        ({"source": "https://user@host/"}, "source: names a user: set feed.main.user"),
        ({"source": "https://host/out"}, "source: must name a folder: end it with a slash"),
        ({"source": "https://host/out/?key=secret"}, r"source: has a \? or #"),
        ({"source": "https:///out/"}, "source: names no host"),
        ({"source": "https://名.example/"}, "source: '名.example': write the host in ASCII"),
        ({"source": "http://host/out/"}, "source: http is taken from this machine only: write https://"),
        ({"source": "http://127.0.0.1.host/out/"}, "source: http is taken from this machine only"),
        ({"source": "https://host/", "user": "x"}, "password_file: needed with user"),
        ({"source": "https://host/", "password_file": "password"}, "user: needed with password_file"),
        (
            {"source": "https://host/", "ca_file": "gone"},
            "ca_file: .*/gone: No such file or directory: put the authority",
        ),
        ({"source": "https://host/", "ca_file": "bad"}, "ca_file: .*/bad: .*: it must hold certificates in PEM"),
        (SFTP | {"source": "sftp://host/out"}, "user: not set: write it here"),
        (SFTP | {"user": "other"}, "user: 'other', but source names 'feed': keep one of the two"),
        (SFTP | {"known_hosts": ""}, "known_hosts: not set: a server is never trusted on first use"),
        (SFTP | {"known_hosts": "gone"}, "known_hosts: .*/gone: No such file or directory: put the server's host key"),
        (SFTP | {"known_hosts": "bad_hosts"}, "known_hosts: .*/bad_hosts: Invalid known hosts entry"),
        (SFTP | {"ssh_key": ""}, "ssh_key: not set: name our private key's file, or set password_file"),
        (SFTP | {"ssh_key": "gone"}, "ssh_key: .*/gone: No such file or directory"),
        (SFTP | {"ssh_key": "bad"}, "ssh_key: .*/bad: .*: make one with `ssh-keygen"),
        (SFTP | {"ssh_key": "locked"}, "ssh_key: .*/locked: Passphrase must be specified.*: make one"),
        (SFTP | {"ssh_key": "open"}, r"ssh_key: .*/open: others may read it \(mode 644\): chmod 600"),
        (
            SFTP | {"password_file": "open"},
            r"password_file: .*/open: others may read it \(mode 644\): chmod 600 .*/open",
        ),
        (SFTP | {"password_file": "gone"}, "password_file: .*/gone: No such file or directory"),
        (SFTP | {"password_file": "empty"}, "password_file: .*/empty: must hold the password as its only line"),
        (SFTP | {"password_file": "two"}, "password_file: .*/two: must hold the password as its only line"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_key(files: Path, settings: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^feed\.main\.{message}") as caught:
        open_source("main", settings_of(files, **settings))
    assert "s3cret" not in str(caught.value)
    assert "secret@" not in str(caught.value)


def test_no_time_at_all_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^feed\.main\.timeout: must be more than 0s"):
        open_source("main", FeedSettings(source="dir:///x", timeout=Duration(0)))
