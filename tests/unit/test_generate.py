"""Made-up feeds: the same bytes for the same seed, exact counts, and nothing that our own loader would refuse."""

from __future__ import annotations

import csv
import gzip
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import zstandard
from click.testing import CliRunner

from loader.cli import cli
from loader.generate import Generator
from lookupd.errors import LookupdError
from lookupd.model import TN
from lookupd.numbering import load_plan
from lookupd.store.reader import Reader
from lookupd.store.verify import verify
from tests.conftest import run_cli

# Taiwan has a plan of its own; the others are of several sizes, shapes and lengths of country code.
COUNTRIES = ("886", "81", "44", "354", "852")


@dataclass(frozen=True)
class Feed:
    """What one run wrote."""

    folder: Path
    summary: dict[str, Any]

    def text(self, name: str) -> str:
        data = (self.folder / name).read_bytes()
        if name.endswith(".zst"):
            return zstandard.ZstdDecompressor().decompressobj().decompress(data).decode()
        return (gzip.decompress(data) if name.endswith(".gz") else data).decode()

    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted(self.folder.iterdir())}

    def rows(self) -> list[list[str]]:
        return list(csv.reader(self.text(self.summary["snapshot"]).splitlines()))[1:]

    def notices(self, sequence: int) -> list[dict[str, str]]:
        name = f"delta-main-{sequence}.ndjson.zst"
        return [json.loads(line) for line in self.text(name).splitlines()]


def generate(folder: Path, **options: object) -> Feed:
    arguments = [f"--{name}={value}" for name, value in options.items()]
    result = CliRunner().invoke(cli, ["generate", "--json", "--out", str(folder), *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return Feed(folder, json.loads(result.stdout))


@pytest.fixture(scope="module")
def taiwan(tmp_path_factory: pytest.TempPathFactory) -> Feed:
    """Three thousand numbers, and five deltas of sixty notices."""
    return generate(tmp_path_factory.mktemp("taiwan"), numbers=3000, seed=7, deltas=5, notices=60)


def test_same_seed_gives_same_bytes_in_two_processes(tmp_path: Path) -> None:
    written = []
    for name, salt in (("one", "1"), ("two", "2")):
        options = ("--numbers", "2000", "--seed", "11", "--deltas", "2", "--notices", "30", "--json")
        done = run_cli(
            "loader.cli", "generate", *options, "--out", tmp_path / name, env=os.environ | {"PYTHONHASHSEED": salt}
        )
        assert (done.returncode, done.stderr) == (0, "")
        written.append(Feed(tmp_path / name, json.loads(done.stdout)).files())
    assert written[0] == written[1]
    assert len(written[0]) == 2 + 2 * 3  # the tables, and snapshot and deltas with a manifest each


def test_other_seed_gives_other_numbers_and_notices_but_the_same_country(taiwan: Feed, tmp_path: Path) -> None:
    other = generate(tmp_path, numbers=3000, seed=8, deltas=5, notices=60).files()
    for name, content in taiwan.files().items():
        assert (other[name] == content) == (name in {"networks.csv", "ranges.csv"}), name


def test_deltas_do_not_change_the_snapshot(taiwan: Feed, tmp_path: Path) -> None:
    few = generate(tmp_path, numbers=3000, seed=7, deltas=1, notices=10)
    assert few.rows() == taiwan.rows()
    assert few.notices(2) == taiwan.notices(2)[:10]


def test_compression_changes_the_files_not_the_text(taiwan: Feed, tmp_path: Path) -> None:
    for compress, ending in (("none", ""), ("gz", ".gz")):
        feed = generate(tmp_path / compress, numbers=3000, seed=7, deltas=1, notices=60, compress=compress)
        assert feed.summary["snapshot"] == f"snapshot-main-1.csv{ending}"
        assert feed.text(f"snapshot-main-1.csv{ending}") == taiwan.text("snapshot-main-1.csv.zst")
        assert feed.text(f"delta-main-2.ndjson{ending}") == taiwan.text("delta-main-2.ndjson.zst")


def test_feed_has_its_name_in_files_and_manifests(tmp_path: Path) -> None:
    feed = generate(tmp_path, numbers=10, deltas=1, notices=1, feed="np-2", compress="none")
    assert set(feed.files()) == {
        "networks.csv",
        "ranges.csv",
        "snapshot-np-2-1.csv",
        "snapshot-np-2-1.csv.json",
        "delta-np-2-2.ndjson",
        "delta-np-2-2.ndjson.json",
    }
    assert json.loads(feed.text("delta-np-2-2.ndjson.json"))["feed"] == "np-2"


# -- counts ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("country", [country for country in COUNTRIES if country != "44"])  # 1.4 s each time
@pytest.mark.parametrize("numbers", [1, 2, 19, 20, 999, 25_000])
def test_count_is_exact_and_numbers_are_sorted_and_unique(country: str, numbers: int) -> None:
    generator = Generator(country, numbers, 3)
    plan = load_plan(country)
    territory = generator.territory
    assert (territory.block[1:] > territory.block[:-1]).all()
    written = generator.rows(0, len(territory.block))
    assert len(written.tn) == numbers
    assert (written.tn[1:] > written.tn[:-1]).all()
    assert (written.recipient != written.donor).all()
    networks = len(generator.networks)
    for index in (written.recipient, written.donor):
        assert index.min() >= 0
        assert index.max() < networks
    for tn in written.tn[:: max(numbers // 200, 1)].tolist():
        kind = plan.kind(TN(tn))
        assert kind is not None
        assert kind.portable


def test_rows_do_not_depend_on_how_many_are_asked_at_once() -> None:
    generator = Generator("886", 20_000, 5)
    blocks = len(generator.territory.block)
    whole = generator.rows(0, blocks)
    piecewise = [tn for first in range(blocks) for tn in generator.rows(first, first + 1).tn.tolist()]
    assert piecewise == whole.tn.tolist()


def test_summary_counts_what_was_written(taiwan: Feed) -> None:
    summary = taiwan.summary
    rows = taiwan.rows()
    numbers = [int(row[0]) for row in rows]
    assert (summary["numbers"], summary["deltas"], summary["notices"]) == (3000, 5, 300)
    assert len(rows) == 3000
    assert numbers == sorted(set(numbers))
    assert summary["blocks"] == len({number // 1000 for number in numbers})
    assert summary["networks"] == taiwan.text("networks.csv").count("\n") - 1
    assert summary["ranges"] == taiwan.text("ranges.csv").count("\n") - 1
    for sequence in range(2, 7):
        assert len(taiwan.notices(sequence)) == 60
        assert json.loads(taiwan.text(f"delta-main-{sequence}.ndjson.zst.json"))["rows"] == 60
    assert json.loads(taiwan.text("snapshot-main-1.csv.zst.json"))["rows"] == 3000


def test_no_deltas_is_no_trouble(tmp_path: Path) -> None:
    feed = generate(tmp_path, numbers=5, deltas=0)
    assert [name for name in feed.files() if name.startswith("delta")] == []
    assert len(feed.rows()) == 5


def test_few_numbers_stand_in_few_blocks() -> None:
    assert len(Generator("886", 10_000, 1).territory.block) < 100


# -- what they say ---------------------------------------------------------------------------------------


def range_holder(ranges: dict[str, str], tn: str) -> str | None:
    return next((ranges[tn[:length]] for length in range(len(tn), 0, -1) if tn[:length] in ranges), None)


@pytest.mark.parametrize("country", COUNTRIES[:2])
def test_every_notice_fits_the_state_before_it(tmp_path: Path, country: str) -> None:
    feed = generate(tmp_path, country=country, numbers=2000, seed=5, deltas=4, notices=150)
    networks = {row[0] for row in csv.reader(feed.text("networks.csv").splitlines()[1:])}
    ranges = dict(csv.reader(feed.text("ranges.csv").splitlines()[1:]))
    served = {row[0]: row[1] for row in feed.rows()}
    kinds: dict[str, int] = {}
    for sequence in range(2, 6):
        for notice in feed.notices(sequence):
            tn, kind = notice["tn"], notice["kind"]
            kinds[kind] = kinds.get(kind, 0) + 1
            assert "recipient" not in notice or notice["recipient"] in networks
            if "tn_to" in notice:
                first, last = int(tn), int(notice["tn_to"])
                assert (first % 100, last) == (0, first + 99)
                served |= {str(number): notice["recipient"] for number in range(first, last + 1)}
                continue
            now = served.get(tn)
            if kind == "return":
                assert now is not None
                del served[tn]
                continue
            if kind == "correct":
                assert now is not None
            else:
                assert notice["donor"] == (now or range_holder(ranges, tn))
            assert notice["recipient"] != now
            served[tn] = notice["recipient"]
    assert set(kinds) == {"port", "return", "correct"}
    assert sum(kinds.values()) == 600


@pytest.mark.parametrize("country", COUNTRIES)
def test_generated_feed_loads_cleanly(tmp_path: Path, country: str) -> None:
    feed = generate(tmp_path / "feed", country=country, numbers=1500, seed=2, deltas=3, notices=80)
    store = tmp_path / "store"
    deltas = sorted(str(path) for path in feed.folder.glob("delta-*.zst"))
    assert len(deltas) == 3
    for arguments in (
        ["networks", str(feed.folder / "networks.csv")],
        ["ranges", str(feed.folder / "ranges.csv")],
        ["snapshot", str(feed.folder / feed.summary["snapshot"])],
        ["delta", *deltas],
        ["delta", deltas[-1]],
        ["verify"],
    ):
        result = CliRunner().invoke(cli, [*arguments, "--store", str(store), "--country", country])
        assert (result.exit_code, result.stderr) == (0, ""), result.output
    with Reader(store) as reader:
        assert verify(reader).problems == []
        assert reader.state.feeds["main"].sequence == 4
        assert len(list(reader.ranges())) == feed.summary["ranges"]
        rows = {row[0]: row for row in feed.rows()}
        touched = {
            number
            for sequence in (2, 3, 4)
            for notice in feed.notices(sequence)
            for number in range(int(notice["tn"]), int(notice.get("tn_to", notice["tn"])) + 1)
        }
        still = [TN(int(tn)) for tn in rows if int(tn) not in touched]
        assert len(still) > 1000
        for tn in still[::50]:
            ported = reader.ported(tn)
            assert ported is not None
            assert [ported.network_code, ported.routing_number or "", ported.donor] == rows[str(tn)][1:4]


# -- what cannot be made ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "code", "reason"),
    [
        (["--country", "999"], 4, "libphonenumber has no carrier data for +999: write ranges.csv by hand"),
        (["--country", "883"], 4, "libphonenumber has no carrier data for +883"),
        (["--country", "xx"], 3, "1 to 3 digits, no leading zero"),
        (["--country", "0886"], 3, "1 to 3 digits, no leading zero"),
        (["--numbers", "0"], 1, "--numbers 0: 1 to 100000000"),
        (["--numbers", "-5"], 1, "--numbers -5: 1 to 100000000"),
        (["--numbers", "100000001"], 1, "--numbers 100000001: 1 to 100000000"),
        (["--country", "354", "--numbers", "5000000"], 1, "--numbers 5000000: +354 has room for "),
        (["--feed", "Main"], 2, "--feed: lower-case letters"),
        (["--feed", "../x"], 2, "--feed: lower-case letters"),
        (["--deltas", "-1"], 2, "--deltas: 0 or more"),
        (["--notices", "0"], 2, "--notices: 1 or more"),
        (["--compress", "rar"], 2, "'rar' is not one of"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_cannot_be_made_is_said(tmp_path: Path, options: list[str], code: int, reason: str) -> None:
    folder = tmp_path / "out"
    result = CliRunner().invoke(cli, ["generate", "--numbers", "10", *options, "--out", str(folder)])
    assert isinstance(result.exception, SystemExit)
    assert (result.exit_code, result.stdout) == (code, "")
    assert reason in result.stderr
    assert not folder.exists()


def test_room_of_a_country_is_exact() -> None:
    with pytest.raises(LookupdError, match=r"has room for [0-9]+") as caught:
        Generator("354", 50_000_000, 1)
    most = int(str(caught.value).rsplit(" ", 1)[1])
    full = Generator("354", most, 1)
    assert int(full.territory.count.sum()) == most
    assert int(full.territory.count.max()) <= 921
    with pytest.raises(LookupdError, match="has room for"):
        Generator("354", most + 1, 1)


def test_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        result = CliRunner().invoke(cli, ["generate", "--numbers", "10", "--out", str(folder), "--json"])
        assert (result.exit_code, json.loads(result.stdout)["exit_code"]) == (1, 1)
        assert result.stderr.startswith(f"error: {folder}")
