"""Foreign files: any bytes give a file of ours or a refusal; the same bytes give the same; what goes in comes out."""

from __future__ import annotations

import csv
import json
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from loader.formats import Format, Step
from loader.formats.bdpn import FORMS, Bdpn, network_code, prefixes_of
from loader.formats.npac import NpacBulkData
from lookupd.errors import FeedError

calm = settings(deadline=None, max_examples=60)  # a busy machine is no failure

VECTORS = Path(__file__).parents[1] / "vectors"
OBJECTS = "00-00-0000000000.99-99-9999999999"
ACTIVE = f"200000-999999.01-03-2025120000.{OBJECTS}"
RANGE = "200000-999999.01-03-2025130500.01-03-2025115500.01-03-2025130000"
FORMATS: dict[str, Format] = {"bdpn": Bdpn("main", "7"), "npac": NpacBulkData("main", "1")}


@contextmanager
def spool_of(**files: bytes) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        for name, data in files.items():
            (Path(folder) / name).write_bytes(data)
        yield Path(folder)


def convert(format_: Format, step: Step, spool: Path) -> bytes | None:
    """What a step becomes; None if it is refused. Any other exception fails the test."""
    try:
        if step.type in {"networks", "ranges"}:
            return format_.open_table(step, spool).read_bytes()
        file = format_.open(step, spool, ())
    except FeedError:
        assert not list(spool.glob("converted/*"))
        return None
    text = file.path.read_bytes()
    assert file.bytes == len(text)
    assert file.rows == text.count(b"\n") - (step.type == "snapshot")
    return text


# -- any bytes -------------------------------------------------------------------------------------------

SAMPLES = {path.name: path.read_bytes() for folder in FORMATS for path in sorted((VECTORS / folder).glob("*[0-9]*"))}


@st.composite
def damaged(draw: st.DrawFn, name: str) -> bytes:
    """A sample with a piece cut out, repeated or replaced; or nothing of it at all."""
    data = SAMPLES[name]
    start, end = sorted(draw(st.tuples(*[st.integers(0, len(data))] * 2)))
    pieces = st.one_of(
        st.binary(max_size=40),
        st.sampled_from([b"", b"\r", b"\n", b"\r\n", b",", b"|", b"0", b"\xef\xbb\xbf", b"\x00", b"\xff"]),
        st.just(data[start:end] * 2),
    )
    return draw(st.one_of(st.just(data[:start] + draw(pieces) + data[end:]), st.binary(max_size=200)))


def steps_of(format_: Format, *names: str) -> list[Step]:
    """With an increment listed, so that a full file has its place."""
    return format_.steps(frozenset({*names, "Port_Increment_202503010000_20000.zip"}))


def step_with(format_: Format, name: str) -> Step:
    return next(step for step in steps_of(format_, *SAMPLES, name) if name in step.files)


CSV_NAMES = [name for name in SAMPLES if name.endswith(".csv")]
NPAC_NAMES = [name for name in SAMPLES if not name.endswith(".csv")]


@calm
@given(st.data())
def test_any_text_of_bdpn_is_converted_or_refused(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from([name for name in CSV_NAMES if "20000" not in name and "Full" not in name]))
    files = SAMPLES | {name: data.draw(damaged(name))}
    with spool_of(**files) as spool:
        convert(FORMATS["bdpn"], step_with(FORMATS["bdpn"], name), spool)


@calm
@given(st.data())
def test_any_zip_of_bdpn_is_converted_or_refused(data: st.DataObject) -> None:
    name = "Port_All_202503010000_1299"
    with spool_of() as spool:
        path = spool / f"{name}.zip"
        with zipfile.ZipFile(
            path, "w", data.draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))
        ) as archive:
            archive.writestr(f"{name}.csv", SAMPLES[f"{name}.csv"])
        whole = path.read_bytes()
        at = data.draw(st.integers(0, len(whole)))
        end = data.draw(st.integers(at, min(len(whole), at + 8)))
        path.write_bytes(whole[:at] + data.draw(st.binary(max_size=8)) + whole[end:])
        text = convert(FORMATS["bdpn"], Step("snapshot", "main", 0, 20000, (path.name,)), spool)
        assert text in {None, (VECTORS / "bdpn" / "expected-snapshot.csv").read_bytes()}


@calm
@given(st.data())
def test_any_bytes_of_npac_are_converted_or_refused(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(NPAC_NAMES))
    with spool_of(**(SAMPLES | {name: data.draw(damaged(name))})) as spool:
        for step in FORMATS["npac"].steps(frozenset(NPAC_NAMES)):
            if step.type == "delta" or name in step.files:
                convert(FORMATS["npac"], step, spool)
                for path in spool.glob("converted/*"):
                    path.unlink()


@calm
@given(st.data())
def test_conversion_is_deterministic(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(CSV_NAMES + NPAC_NAMES))
    format_ = FORMATS["bdpn" if name in CSV_NAMES else "npac"]
    files = SAMPLES if data.draw(st.booleans()) else SAMPLES | {name: data.draw(damaged(name))}
    with spool_of(**files) as one, spool_of(**dict(reversed(files.items()))) as other:
        for step in steps_of(format_, *SAMPLES):
            assert convert(format_, step, one) == convert(format_, step, other)
            for path in [*one.glob("converted/*"), *other.glob("converted/*")]:
                path.unlink()


# -- round trips -----------------------------------------------------------------------------------------

operators = st.sampled_from(["mALPHA", "mBETA", "mT2", "mLongOperatorName"])
two_digits = st.integers(0, 99).map("{:02}".format)
seconds = st.integers(200_000, (1 << 32) - 200_000)
mobile = st.integers(9_000_000_000, 9_999_999_999)


@calm
@given(
    st.dictionaries(mobile, st.tuples(operators, two_digits, two_digits, seconds), min_size=1, max_size=30),
    st.sampled_from(["\r\n", "\n", "\r"]),
    st.sampled_from(["", "0"]),
)
def test_table_written_as_port_all_is_read_again(
    table: dict[int, tuple[str, str, str, int]], line_end: str, no_count: str
) -> None:
    lines = [",".join(field.name for field in FORMS["Port_All"].fields)]
    for at, (number, (owner, mnc, region, time)) in enumerate(table.items()):
        ported_at = datetime.fromtimestamp(time, UTC).isoformat()
        count = no_count if at else str(len(table))
        lines.append(f"{number},{owner},{mnc},D{region}{mnc},{region},{ported_at},{count}")
    name = "Port_All_202503010000_1299.csv"
    with spool_of(**{name: "".join(line + line_end for line in lines).encode()}) as spool:
        text = convert(FORMATS["bdpn"], Step("snapshot", "main", 0, 1, (name,)), spool)
    assert text is not None
    for row in csv.DictReader(text.decode().splitlines()):
        owner, mnc, region, time = table.pop(int(row["tn"]) - 70_000_000_000)
        assert (row["network_code"], row["routing_number"]) == (network_code(owner[1:]), f"D{region}{mnc}")
        assert datetime.fromisoformat(row["ported_at"]).timestamp() == time
    assert not table


# Few numbers and blocks, so that they meet: all in 212-555-0 and 212-555-1.
near = st.integers(2_125_550_000, 2_125_551_999)
versions = st.tuples(st.integers(1, 5), st.sampled_from(["9991", "999B"]), st.booleans())


def npac_record(key: int, version: tuple[int, str, bool], *, active: bool) -> str:
    id_, spid, deleted = version
    others = "|" * (12 if key > 10**8 else 8)
    return f"{id_}|{key}|2125550199|{spid}|20250301120000|{others}{int(deleted and not active)}\r"


@calm
@given(
    st.lists(st.tuples(near, versions), min_size=1, max_size=20),
    st.dictionaries(st.sampled_from([2125550, 2125551]), versions, max_size=2),
    st.lists(st.tuples(near, versions), min_size=1, max_size=20),
    st.dictionaries(st.sampled_from([2125550, 2125551]), versions, max_size=2),
)
def test_snapshot_and_delta_of_npac_lead_to_what_the_look_up_rule_says(
    numbers: list[tuple[int, tuple[int, str, bool]]],
    blocks: dict[int, tuple[int, str, bool]],
    later_numbers: list[tuple[int, tuple[int, str, bool]]],
    later_blocks: dict[int, tuple[int, str, bool]],
) -> None:
    """A number's own version, else its block's, else not ported: kept apart here, flattened there."""
    first = {number: (id_ + 10, spid, False) for number, (id_, spid, _) in numbers}
    second = {number: (id_ + 20, spid, deleted) for number, (id_, spid, deleted) in later_numbers}
    blocks = {block: (id_, spid, False) for block, (id_, spid, _) in blocks.items()}
    files = {
        f"SV.{ACTIVE}": "".join(npac_record(*item, active=True) for item in first.items()),
        f"NPB.{ACTIVE}": "".join(npac_record(*item, active=True) for item in blocks.items()),
        f"SV.{RANGE}": "".join(npac_record(*item, active=False) for item in second.items()),
        f"NPB.{RANGE}": "".join(npac_record(*item, active=False) for item in later_blocks.items()),
    }
    own, pooled = first | second, blocks.copy()  # ids of the later numbers are higher
    for block, version in later_blocks.items():
        if version[0] >= blocks.get(block, version)[0]:
            pooled[block] = version
    wanted = {
        block * 1000 + at: spid for block, (_, spid, deleted) in pooled.items() if not deleted for at in range(1000)
    } | {number: spid for number, (_, spid, deleted) in own.items() if not deleted}
    with spool_of(**{name: text.encode() for name, text in files.items()}) as spool:
        assert flattened(FORMATS["npac"], spool) == wanted


def flattened(format_: Format, spool: Path) -> dict[int, str]:
    """The store's view: the snapshot, and the delta's notices on it."""
    names = frozenset(path.name for path in spool.iterdir())
    snapshot, delta = (convert(format_, step, spool) for step in format_.steps(names))
    assert snapshot is not None
    assert delta is not None
    state = {int(row["tn"]) - 10**10: row["network_code"] for row in csv.DictReader(snapshot.decode().splitlines())}
    for notice in map(json.loads, delta.splitlines()):
        for tn in range(int(notice["tn"]), int(notice.get("tn_to", notice["tn"])) + 1):
            if notice["kind"] == "return":
                state.pop(tn - 10**10, None)
            else:
                state[tn - 10**10] = notice["recipient"]
    return state


@calm
@given(st.integers(0, 10**10 - 1), st.integers(0, 10**10 - 1))
def test_prefixes_cover_a_range_exactly(one: int, other: int) -> None:
    first, last = sorted((one, other))
    at = first
    for prefix in prefixes_of(first, last):
        width = 10 ** (10 - len(prefix))
        assert int(prefix or "0") * width == at  # no gap, no overlap, in order
        at += width
    assert at == last + 1
