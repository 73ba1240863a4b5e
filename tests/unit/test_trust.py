"""Signed manifests: checked against Debian's minisign both ways, and refused whenever anything is amiss."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from loader.apply import apply_snapshot
from loader.files import identify
from loader.trust import PublicKey, Signer, check_signature, parse_public_key
from lookupd.errors import ConfigError, FeedError
from lookupd.model import UnixSeconds
from lookupd.store.writer import Writer
from tests.conftest import PLAN, SNAPSHOT, Silent, Workbench, run_cli

needs_minisign = pytest.mark.skipif(shutil.which("minisign") is None, reason="minisign is not installed")
SENDER = Signer(bytes(range(32)), b"sender01")
STRANGER = Signer(bytes(range(1, 33)), b"stranger")


def minisign(*arguments: str | Path) -> str:
    done = subprocess.run(["minisign", *map(str, arguments)], capture_output=True, text=True, check=True, timeout=20)
    return done.stdout


@needs_minisign
@pytest.mark.parametrize("legacy", [False, True])
def test_what_minisign_signs_is_accepted(tmp_path: Path, legacy: bool) -> None:
    manifest = tmp_path / "m.json"
    manifest.write_bytes(b'{"feed":"main"}\n')
    minisign("-G", "-W", "-p", tmp_path / "k.pub", "-s", tmp_path / "k.sec")
    minisign("-S", *(["-l"] if legacy else []), "-s", tmp_path / "k.sec", "-m", manifest)
    key = parse_public_key((tmp_path / "k.pub").read_text())
    assert key.name in (tmp_path / "k.pub").read_text()
    assert check_signature(manifest.read_bytes(), tmp_path / "m.json.minisig", (SENDER.public_key, key)) == key


@needs_minisign
def test_what_we_sign_is_accepted_by_minisign(tmp_path: Path) -> None:
    manifest = tmp_path / "m.json"
    manifest.write_bytes(b'{"feed":"main"}\n')
    (tmp_path / "m.json.minisig").write_text(SENDER.sign(manifest.read_bytes(), "feed main, 攜碼"))
    assert "verified" in minisign("-V", "-P", SENDER.public_key_text(), "-m", manifest)


def signed(folder: Path, data: bytes = b"manifest", signer: Signer = SENDER) -> Path:
    path = folder / "m.minisig"
    path.write_text(signer.sign(data, "feed main"))
    return path


def test_every_flipped_bit_is_refused(tmp_path: Path) -> None:
    keys = (SENDER.public_key,)
    path = signed(tmp_path)
    good = path.read_bytes()
    assert check_signature(b"manifest", path, keys)
    lines = good.splitlines(keepends=True)
    checked_from = len(lines[0])  # the first comment is nobody's
    for at in range(checked_from, len(good)):
        for bit in range(8):
            changed = bytearray(good)
            changed[at] ^= 1 << bit
            path.write_bytes(changed)
            try:
                check_signature(b"manifest", path, keys)
            except FeedError:
                continue
            # A line end may be written in other ways; what is signed may not.
            assert chr(good[at]) in "\r\n", (at, bit)
    for at in range(8 * len(b"manifest")):
        data = bytearray(b"manifest")
        data[at // 8] ^= 1 << at % 8
        path.write_bytes(good)
        with pytest.raises(FeedError, match="does not fit"):
            check_signature(bytes(data), path, keys)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    path = signed(tmp_path)
    good = path.read_bytes()
    for length in range(len(good) - 1):
        path.write_bytes(good[:length])
        with pytest.raises(FeedError):
            check_signature(b"manifest", path, (SENDER.public_key,))


def test_strange_key_is_named_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(FeedError, match=f"{STRANGER.public_key.name}.*{SENDER.public_key.name}.*add it"):
        check_signature(b"manifest", signed(tmp_path, signer=STRANGER), (SENDER.public_key,))
    same_id = PublicKey(SENDER.public_key.id, STRANGER.public_key.key)
    with pytest.raises(FeedError, match="does not fit"):
        check_signature(b"manifest", signed(tmp_path), (same_id,))


@pytest.mark.parametrize("text", ["", "RW", "x" * 56, "RWQ" + "A" * 52, "untrusted comment: x\n"])
def test_bad_key_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="no minisign public key"):
        parse_public_key(text)


def sign(path: Path, signer: Signer) -> None:
    manifest = path.with_name(path.name + ".json")
    manifest.with_name(manifest.name + ".minisig").write_text(signer.sign(manifest.read_bytes(), "feed main"))


def test_snapshot_of_a_feed_with_keys_must_be_signed_by_one_of_them(workbench: Workbench) -> None:
    workbench.load_tables()
    before = workbench.state()
    path = workbench.publish("snapshot-main-1.csv", SNAPSHOT, 4)
    keys = (SENDER.public_key, STRANGER.public_key)
    with pytest.raises(FeedError, match="must be signed"):
        identify(path, "snapshot", "main", None, keys)
    sign(path, STRANGER)
    with pytest.raises(FeedError, match="this feed's keys are"):
        identify(path, "snapshot", "main", None, keys[:1])
    assert workbench.state() == before
    with Writer(workbench.store) as writer:  # while keys rotate, both are good
        apply_snapshot(writer, identify(path, "snapshot", "main", None, keys), PLAN, UnixSeconds(1), Silent())
    assert workbench.state() != before


def test_key_in_the_configuration_is_used_by_the_commands(workbench: Workbench) -> None:
    workbench.load_tables()
    path = workbench.publish("snapshot-main-1.csv", SNAPSHOT, 4)
    config = workbench.config(f'[feed.main]\npublic_key = "{SENDER.public_key_text()}"')
    unsigned = run_cli("loader.cli", "snapshot", path, "--config", config)
    assert (unsigned.returncode, "must be signed" in unsigned.stderr) == (4, True)
    by_hand = run_cli(
        "loader.cli", "snapshot", workbench.write("x.csv", SNAPSHOT), "--sequence", "1", "--config", config
    )
    assert by_hand.returncode == 4
    sign(path, SENDER)
    assert run_cli("loader.cli", "snapshot", path, "--config", config).returncode == 0
