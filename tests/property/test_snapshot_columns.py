"""The fast readers of snapshot rows against the one that defines them: the same values, or no answer at all.

There are two: numpy's, and the native module's where it was built. Those two say the same of every chunk.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loader.formats.lookupd import SNAPSHOT_COLUMNS, SNAPSHOT_REQUIRED, SnapshotRow, parse_row
from loader.formats.lookupd_columns import RawColumns, parse_natively, parse_rows, parse_with_numpy
from lookupd import native_bulk

Row = dict[str, str]
TIME_END = 1 << 32

calm = settings(deadline=None)  # a busy machine is no failure

OPTIONAL = tuple(name for name in SNAPSHOT_COLUMNS if name not in SNAPSHOT_REQUIRED)


# -- rows ------------------------------------------------------------------------------------------------


def write_time(seconds: int, offset_minutes: int, zulu: bool) -> str:
    """RFC 3339 as feeds write it."""
    if zulu:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    zone = timezone(timedelta(minutes=offset_minutes))
    return (datetime(1970, 1, 1, tzinfo=zone) + timedelta(seconds=seconds, minutes=offset_minutes)).isoformat()


EDGES = (1, 2, 86_399, 86_400, TIME_END - 1, TIME_END - 2, (1 << 31) - 1, 1 << 31, 951_782_400, 951_868_800)
seconds = st.one_of(st.sampled_from(EDGES), st.integers(1, TIME_END - 1))
offsets = st.one_of(st.sampled_from([0, 480, -480, 330, 1439, -1439, 1, -1]), st.integers(-1439, 1439))
times = st.builds(write_time, seconds, offsets, st.booleans())

# Days as people write them, right or wrong: each end of each month, in leap years and not, at the edges of 32 bits.
odd_times = st.builds(
    "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}{}".format,
    st.sampled_from([0, 1, 1969, 1970, 1972, 1999, 2000, 2023, 2024, 2096, 2100, 2104, 2106, 2107, 9999]),
    st.integers(0, 13),
    st.sampled_from([0, 1, 27, 28, 29, 30, 31, 32]),
    st.sampled_from([0, 6, 7, 23, 24]),
    st.sampled_from([0, 28, 59, 60]),
    st.sampled_from([0, 15, 16, 59, 60]),
    st.sampled_from(
        ["Z", "z", "", "+00:00", "-00:00", "+08:00", "-12:30", "+23:59", "-23:59", "+24:00", "+0800", ".5Z"]
    ),
)
any_time = st.one_of(times, odd_times, st.sampled_from(["", "0", "2026-03-01", "2026-03-01T09:00:00+08:00Z"]))

CODE_CHARS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
codes = st.one_of(st.sampled_from(["1401", "1402", "0", "00", "ZZZZZZZZ"]), st.text(CODE_CHARS, min_size=1, max_size=8))
routing_numbers = st.text("0123456789ABCDEF", min_size=1, max_size=15)
numbers = st.one_of(
    st.sampled_from(["10000", "99999", "100000000000000", "999999999999999"]),
    st.integers(10_000, 999_999_999_999_999).map(str),
)

good_row: st.SearchStrategy[Row] = st.fixed_dictionaries(
    {
        "tn": numbers,
        "network_code": codes,
        "routing_number": st.one_of(st.just(""), routing_numbers),
        "donor": st.one_of(st.just(""), codes),
        "ported_at": st.one_of(st.just(""), times),
    }
)

# What stands in a field that somebody else wrote: near to right, and quite wrong.
some_text = st.text(st.sampled_from("0123456789ABCDEFGXYZabz+-:TZ. \t\r\0\"'é０٣\ufeff"), max_size=20)
any_row: st.SearchStrategy[Row] = st.fixed_dictionaries(
    {
        "tn": st.one_of(numbers, some_text, st.from_regex(r"[0-9]{4,16}", fullmatch=True)),
        "network_code": st.one_of(codes, some_text, st.text(CODE_CHARS, max_size=9)),
        "routing_number": st.one_of(st.just(""), routing_numbers, some_text, st.text("0123456789ABCDEF", max_size=16)),
        "donor": st.one_of(st.just(""), codes, some_text),
        "ported_at": st.one_of(any_time, some_text),
    }
)

# Any order of the required columns and any of the others; more often the everyday header.
column_sets = st.one_of(
    st.just(SNAPSHOT_COLUMNS),
    st.lists(st.sampled_from(OPTIONAL), unique=True).flatmap(
        lambda some: st.permutations([*SNAPSHOT_REQUIRED, *some]).map(tuple)
    ),
)


def chunk_of(rows: list[Row], columns: tuple[str, ...]) -> bytes:
    return "".join(",".join(row[name] for name in columns) + "\n" for row in rows).encode()


# -- the same values -------------------------------------------------------------------------------------


def values(raw: RawColumns) -> list[SnapshotRow]:
    """What the fast reader says of each row, in the slow one's terms."""

    def text(names: list[str], index: int) -> str | None:
        assert -1 <= index < len(names)
        return None if index < 0 else names[index]

    columns = (raw.tn, raw.network, raw.routing_number, raw.donor, raw.ported_at)
    assert len({len(column) for column in columns}) == 1
    return [
        SnapshotRow(
            tn,
            text(raw.codes, network),  # type: ignore[arg-type]
            text(raw.routing_numbers, routing_number),  # type: ignore[arg-type]
            text(raw.codes, donor),  # type: ignore[arg-type]
            ported_at or None,
        )
        for tn, network, routing_number, donor, ported_at in zip(*(c.tolist() for c in columns), strict=True)
    ]


def assert_same(native: RawColumns | None, raw: RawColumns | None) -> None:
    assert (native is None) == (raw is None)
    if native is not None and raw is not None:
        for name in ("codes", "routing_numbers"):
            assert getattr(native, name) == getattr(raw, name)
        for name in ("tn", "network", "donor", "routing_number", "ported_at"):
            assert getattr(native, name).tolist() == getattr(raw, name).tolist()


def expect_parity(chunk: bytes, columns: tuple[str, ...]) -> bool:
    """Either no answer, or every row's value; parse_row raises if it refuses a row. Returns whether it answered."""
    raw = parse_with_numpy(chunk, columns)
    if native_bulk.available():
        assert_same(parse_natively(chunk, columns), raw)
    if raw is None:
        return False
    assert values(raw) == [parse_row(line, columns) for line in chunk.removesuffix(b"\n").split(b"\n")]
    assert len(set(raw.codes)) == len(raw.codes)
    assert len(set(raw.routing_numbers)) == len(raw.routing_numbers)
    return True


@calm
@given(rows=st.lists(good_row, min_size=1, max_size=12), columns=column_sets)
def test_everyday_rows_are_taken_with_the_same_values(rows: list[Row], columns: tuple[str, ...]) -> None:
    chunk = chunk_of(rows, columns)
    assert expect_parity(chunk, columns)
    taken = parse_rows(chunk, columns)
    assert taken is not None
    for row, value in zip(rows, values(taken), strict=True):
        assert (str(value.tn), value.network_code) == (row["tn"], row["network_code"])
        for name in {"routing_number", "donor"} & set(columns):
            assert (getattr(value, name) or "") == row[name]
        if "ported_at" in columns:
            at = datetime.fromisoformat(row["ported_at"]).timestamp() if row["ported_at"] else None
            assert value.ported_at == at


@calm
@given(rows=st.lists(any_row, min_size=1, max_size=6), columns=column_sets)
def test_odd_rows_are_declined_or_have_the_same_values(rows: list[Row], columns: tuple[str, ...]) -> None:
    expect_parity(chunk_of(rows, columns), columns)


@calm
@given(row=good_row, others=st.lists(good_row, max_size=4), odd=any_row, name=st.sampled_from(SNAPSHOT_COLUMNS))
def test_one_odd_field_among_good_rows_is_declined_or_has_the_same_value(
    row: Row, others: list[Row], odd: Row, name: str
) -> None:
    expect_parity(chunk_of([*others, row | {name: odd[name]}, *others], SNAPSHOT_COLUMNS), SNAPSHOT_COLUMNS)


@calm
@given(
    rows=st.lists(good_row, min_size=1, max_size=4),
    columns=column_sets,
    edits=st.lists(
        st.tuples(
            st.integers(0, 400),
            st.sampled_from(["put", "replace", "delete"]),
            st.one_of(st.sampled_from(b"\n,\r0189:-TZ+ \0A"), st.integers(0, 255)),
        ),
        min_size=1,
        max_size=3,
    ),
)
def test_mutated_bytes_are_declined_or_have_the_same_values(
    rows: list[Row], columns: tuple[str, ...], edits: list[tuple[int, str, int]]
) -> None:
    chunk = bytearray(chunk_of(rows, columns))
    for where, edit, byte in edits:
        at = where % max(len(chunk), 1)
        chunk[at : at + (edit != "put")] = b"" if edit == "delete" else bytes([byte])
    expect_parity(bytes(chunk), columns)


@calm
@given(time=any_time)
def test_any_time_is_declined_or_has_the_same_value(time: str) -> None:
    expect_parity(f"886912345678,1402,,,{time}\n".encode(), SNAPSHOT_COLUMNS)


@calm
@given(chunk=st.binary(max_size=300), columns=column_sets)
def test_any_bytes_are_declined_or_have_the_same_values(chunk: bytes, columns: tuple[str, ...]) -> None:
    expect_parity(chunk, columns)


# -- both sides of each bound ----------------------------------------------------------------------------

TAKEN = [
    "10000,1,,,",
    "999999999999999,ZZZZZZZZ,FFFFFFFFFFFFFFF,00000000,",
    "886912345678,1402,0,,1970-01-01T00:00:01Z",
    "886912345678,1402,,,1970-01-01T08:00:01+08:00",
    "886912345678,1402,,,1969-12-31T23:59:59-00:01",
    "886912345678,1402,,,2106-02-07T06:28:15Z",
    "886912345678,1402,,,2106-02-08T06:27:15+23:59",
    "886912345678,1402,,,2000-02-29T23:59:59-00:00",
    "886912345678,1402,,,2024-02-29T00:00:00+08:00",
    "886912345678,1402,,,2096-12-31T23:59:59-12:00",
]
DECLINED = [
    "1000,1,,,",
    "1000000000000000,1,,,",
    "012345,1,,,",
    "886912345678,,,,",
    "886912345678,AAAAAAAAA,,,",
    "886912345678,1402,AAAAAAAAAAAAAAAA,,",
    "886912345678,1402,,AAAAAAAAA,",
    "886912345678,1402,,,1970-01-01T00:00:00Z",
    "886912345678,1402,,,1970-01-01T08:00:00+08:00",
    "886912345678,1402,,,2106-02-07T06:28:16Z",
    "886912345678,1402,,,2106-02-07T06:28:15-00:01",
    "886912345678,1402,,,2023-02-29T00:00:00Z",
    "886912345678,1402,,,2100-02-29T00:00:00Z",
    "886912345678,1402,,,2026-00-10T00:00:00Z",
    "886912345678,1402,,,2026-13-10T00:00:00Z",
    "886912345678,1402,,,2026-06-31T00:00:00Z",
    "886912345678,1402,,,2026-06-30T24:00:00Z",
    "886912345678,1402,,,2026-06-30T23:59:60Z",
    "886912345678,1402,,,2026-06-30T23:59:59+24:00",
    "886912345678,1402,,",
    "886912345678,1402,,,,",
    "",
]


@pytest.mark.parametrize("row", TAKEN)
def test_row_inside_each_bound_is_taken(row: str) -> None:
    assert expect_parity(f"{row}\n".encode(), SNAPSHOT_COLUMNS)


@pytest.mark.parametrize("row", DECLINED)
def test_row_beyond_each_bound_is_declined_and_refused(row: str) -> None:
    assert not expect_parity(f"{row}\n".encode(), SNAPSHOT_COLUMNS)
    with pytest.raises(ValueError, match=r"\S"):
        parse_row(row.encode(), SNAPSHOT_COLUMNS)


@pytest.mark.parametrize("chunk", [b"", b"\n", b"\n\n", b",,,,", b"886912345678,1402,,,"])
def test_chunk_without_whole_rows_is_declined(chunk: bytes) -> None:
    assert not expect_parity(chunk, SNAPSHOT_COLUMNS)


def test_commas_that_only_add_up_are_declined() -> None:
    chunk = b"886912345678,1402,,\n886912345679,1402,,,,\n"
    assert not expect_parity(chunk, SNAPSHOT_COLUMNS)


def test_every_day_of_a_leap_cycle_has_the_same_value() -> None:
    first = datetime(2096, 1, 1, 12, 30, 15, tzinfo=UTC)  # over 2100, which is no leap year
    days = [first + timedelta(days=day) for day in range((datetime(2106, 1, 1, tzinfo=UTC) - first).days)]
    chunk = "".join(f"{day:%Y-%m-%dT%H:%M:%S}Z,1402,886912345678\n" for day in days).encode()
    raw = parse_with_numpy(chunk, ("ported_at", "network_code", "tn"))
    assert raw is not None
    if native_bulk.available():
        assert_same(parse_natively(chunk, ("ported_at", "network_code", "tn")), raw)
    assert raw.ported_at.tolist() == [int(day.timestamp()) for day in days]


def test_row_as_long_as_a_row_may_be_is_judged_alike() -> None:
    # 256 bytes cannot be reached by fields that are right, so the bound shows only in what is refused.
    for length in (255, 256, 257, 258):
        row = ("886912345678,1402,,," + "0" * length)[:length].encode()
        assert not expect_parity(row + b"\n", SNAPSHOT_COLUMNS)
        with pytest.raises(ValueError, match="longer than 256" if length > 256 else "ported_at"):
            parse_row(row, SNAPSHOT_COLUMNS)
