"""Made-up snapshots and deltas with the shape of the real thing: for trials, tests and measurements.

Prefixes and operators come from libphonenumber; the ported numbers are drawn by a counter-based generator
of our own, so the same seed gives the same bytes with any version of any library.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import IO

import msgspec
import numpy as np
import numpy.typing as npt
import zstandard

from loader.files import Advance, write_manifest
from loader.tables import carriers_of, networks_of, write_networks, write_ranges
from lookupd.errors import FeedError, LookupdError
from lookupd.model import TN, RoutingNumber
from lookupd.numbering import load_plan
from lookupd.store.columns import U64s, mix_all
from lookupd.store.schema import TN_FACTOR, mix

NUMBERS_MAX = 100_000_000
MOBILE_SHARE = 0.95
"""Of the ported numbers; the rest are fixed lines and freephone numbers of businesses."""

FILL_MAX = 0.92
"""At most this share of a prefix is ever ported."""

MOBILE_PER_BLOCK = 250
"""Ported numbers in a thousand-block of mobile numbers, about what a well-ported country has. A few numbers
take a few blocks, so a small sample is a small country, not a thin one."""

FIXED_PER_BLOCK = 400
"""Ported numbers in a thousand-block of fixed lines that has any: businesses move by the hundred."""

SECOND_PORT_SHARE = 0.15
OWN_ROUTING_NUMBER_SHARE = 0.02
FIRST_DAY = datetime(2005, 10, 15, tzinfo=UTC)
LAST_DAY = datetime(2026, 6, 30, tzinfo=UTC)
SLOTS = ("00:30:00", "02:00:00", "03:30:00", "05:00:00")
"""Cut-over windows: numbers move at night."""

_BLOCKS_AT_A_TIME = 512
_EXCHANGE_DIGITS_LEFT = 4


@dataclass(frozen=True)
class Territory:
    """Thousand-blocks with ported numbers: rising, each with its range holder and its count of numbers."""

    block: U64s
    holder: npt.NDArray[np.int64]
    fixed: npt.NDArray[np.bool_]
    count: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Rows:
    """Ported numbers of some blocks, rising; indices into the networks, the routing numbers and the times."""

    tn: U64s
    recipient: npt.NDArray[np.int64]
    routing: npt.NDArray[np.int64]
    donor: npt.NDArray[np.int64]
    time: npt.NDArray[np.int64]


class Draw:
    """Random values by name and index: `draw("recipient", tn)` is the same whenever it is asked."""

    def __init__(self, seed: int) -> None:
        self._seed = mix(seed * TN_FACTOR + 1)

    def __call__(self, stream: str, index: U64s) -> U64s:
        """64 random bits for each index."""
        key = mix(self._seed + int.from_bytes(stream.encode(), "big"))
        return mix_all(index * np.uint64(TN_FACTOR) + np.uint64(key))

    def unit(self, stream: str, index: U64s) -> npt.NDArray[np.float64]:
        """One value in [0, 1) for each index."""
        return (self(stream, index) >> np.uint64(11)).astype(np.float64) / float(1 << 53)

    def one(self, stream: str, index: int, below: int) -> int:
        """One whole number in 0..below-1."""
        return int(self(stream, np.array([index], np.uint64))[0] % np.uint64(below))


class Summary(msgspec.Struct, frozen=True):
    """What was written."""

    folder: str
    snapshot: str
    numbers: int
    blocks: int
    deltas: int
    notices: int
    networks: int
    ranges: int


class Generator:
    """One made-up country. Memory does not grow with the count of numbers."""

    def __init__(self, country_code: str, numbers: int, seed: int) -> None:
        """Raises LookupdError when the country is not known or has not that many numbers."""
        if not 1 <= numbers <= NUMBERS_MAX:
            raise LookupdError(f"--numbers {numbers}: 1 to {NUMBERS_MAX}")
        self.country_code = country_code
        self.numbers = numbers
        self.draw = Draw(seed)
        self._plan = load_plan(country_code)
        carriers = carriers_of(country_code)
        named = networks_of(carriers.values())
        operators = sorted(named)
        self.networks = [
            msgspec.structs.replace(named[operator], routing_number=RoutingNumber(f"14{at:02d}"))
            for at, operator in enumerate(operators, 1)
        ]
        if len(self.networks) < 2:
            raise FeedError(f"libphonenumber names one operator for +{country_code}: nothing could be ported")
        # Market shares as they are: the first operators have most.
        weights = 1 / np.arange(1, len(operators) + 1)
        self._shares = np.cumsum(weights / weights.sum())
        self.holders = {prefix: operators.index(name) for prefix, name in sorted(carriers.items())}
        self._add_fixed_ranges()
        self.territory = self._territory()
        self.offset = timezone(timedelta(hours=8)) if country_code == "886" else UTC
        self._days = (LAST_DAY - FIRST_DAY).days

    # -- where numbers are -------------------------------------------------------------------------------

    def _add_fixed_ranges(self) -> None:
        """Exchanges of fixed and freephone numbers that exist, ten thousand numbers each, to some holder."""
        import phonenumbers

        region = phonenumbers.region_code_for_country_code(int(self.country_code))
        metadata = phonenumbers.PhoneMetadata.metadata_for_region(region)
        assert metadata is not None  # libphonenumber knows every country whose carriers it knows
        self._digits = len(self.country_code) + self._national_digits(metadata)
        self._fixed_exchanges: dict[str, int] = {}
        for kind in (metadata.fixed_line, metadata.toll_free):
            if kind is None or not kind.national_number_pattern:
                continue
            pattern = re.compile(kind.national_number_pattern)
            for exchange in self._exchanges(kind.possible_length, pattern):
                at = mix(int(exchange)) / 2**64
                self._fixed_exchanges[exchange] = int(np.searchsorted(self._shares, at))

    @staticmethod
    def _national_digits(metadata: object) -> int:
        """Of a mobile number, which libphonenumber tells by an example."""
        example = metadata.mobile.example_number if metadata.mobile else None  # type: ignore[attr-defined]
        return len(example) if example else 9

    def _exchanges(self, lengths: tuple[int, ...], pattern: re.Pattern[str]) -> Iterator[str]:
        """Full prefixes, country code included, that leave four digits and whose numbers fit the pattern."""
        for length in lengths:
            head = length - _EXCHANGE_DIGITS_LEFT
            if len(self.country_code) + length != self._digits or not 1 <= head <= 6:
                continue  # blocks of one length only: they cannot overlap
            for value in range(10 ** (head - 1), 10**head):
                if pattern.fullmatch(f"{value}2345") and pattern.fullmatch(f"{value}8765"):
                    yield f"{self.country_code}{value}"

    def _territory(self) -> Territory:
        mobile = self._blocks_of(self.holders)
        fixed = self._blocks_of(self._fixed_exchanges)
        fixed = {block: holder for block, holder in fixed.items() if block not in mobile}
        fixed_wanted = min(round(self.numbers * (1 - MOBILE_SHARE)), int(len(fixed) * 1000 * FILL_MAX))
        mobile_wanted = min(self.numbers - fixed_wanted, int(len(mobile) * 1000 * FILL_MAX))
        fixed_wanted = self.numbers - mobile_wanted
        if fixed_wanted > len(fixed) * 1000 * FILL_MAX:
            most = int((len(mobile) + len(fixed)) * 1000 * FILL_MAX)
            raise LookupdError(f"--numbers {self.numbers}: +{self.country_code} has room for {most}")
        parts = [
            (self._choose_blocks(mobile, mobile_wanted, MOBILE_PER_BLOCK), False, mobile_wanted),
            (self._choose_blocks(fixed, fixed_wanted, FIXED_PER_BLOCK), True, fixed_wanted),
        ]
        block: list[int] = []
        holder: list[int] = []
        is_fixed: list[bool] = []
        count: list[npt.NDArray[np.int64]] = []
        for blocks, kind, wanted in parts:
            order = sorted(blocks)
            block += order
            holder += [blocks[at] for at in order]
            is_fixed += [kind] * len(order)
            count.append(self._counts(np.array(order, np.uint64), wanted))
        rising = np.argsort(np.array(block, np.uint64), kind="stable")
        return Territory(
            np.array(block, np.uint64)[rising],
            np.array(holder, np.int64)[rising],
            np.array(is_fixed, bool)[rising],
            np.concatenate(count)[rising],
        )

    def _blocks_of(self, holders: dict[str, int]) -> dict[int, int]:
        """Every thousand-block of the prefixes with its holder; the longest prefix wins."""
        blocks: dict[int, int] = {}
        for prefix in sorted(holders, key=len):
            left = self._digits - 3 - len(prefix)
            if left >= 0:
                first = int(prefix) * 10**left
                blocks.update(dict.fromkeys(range(first, first + 10**left), holders[prefix]))
        return {block: holder for block, holder in blocks.items() if self._can_be_ported(block)}

    def _can_be_ported(self, block: int) -> bool:
        kind = self._plan.kind(TN(block * 1000))
        return kind is not None and kind.portable

    def _choose_blocks(self, blocks: dict[int, int], numbers: int, per_block: int) -> dict[int, int]:
        """As many blocks as so many numbers want, or all there are; whole ten thousands stand together."""
        wanted = max(-(-numbers // per_block), -(-numbers // int(1000 * FILL_MAX)))
        order = sorted(blocks)
        rank = np.argsort(self.draw("block", np.array(order, np.uint64) // np.uint64(10)), kind="stable")
        return {order[at]: blocks[order[at]] for at in rank[:wanted].tolist()}

    def _counts(self, blocks: U64s, wanted: int) -> npt.NDArray[np.int64]:
        """How many numbers of each block are ported: uneven by ten thousands, `wanted` in all."""
        if not len(blocks):
            return np.zeros(0, np.int64)
        most = int(1000 * FILL_MAX) + 1
        weight = 0.4 + 1.2 * self.draw.unit("density", blocks // np.uint64(10))
        low, high = 0.0, float(most) * 4
        for _ in range(60):  # the scale at which the bounded counts add up to what is wanted
            scale = (low + high) / 2
            if np.minimum(weight * scale, most).sum() < wanted:
                low = scale
            else:
                high = scale
        count = np.minimum(weight * low, most).astype(np.int64)
        short = wanted - int(count.sum())
        at = 0
        while short > 0:
            room = np.flatnonzero(count[at:] < most)[:short] + at
            count[room] += 1
            short -= len(room)
        return count

    # -- what is ported ----------------------------------------------------------------------------------

    def rows(self, first: int, end: int) -> Rows:
        """The ported numbers of the territory's blocks first..end-1."""
        land = self.territory
        block = land.block[first:end]
        offsets = np.arange(1000, dtype=np.uint64)
        every = block[:, None] * np.uint64(1000) + offsets
        order = self.draw("chosen", every)
        # In fixed blocks whole hundreds come first, one hundred after another: business ranges.
        fixed = land.fixed[first:end]
        hundred = self.draw("hundred", every[fixed] // np.uint64(100))
        order[fixed] = (hundred & ~np.uint64(0xFFFFFFFF)) | (order[fixed] >> np.uint64(32))
        order = (order & ~np.uint64(0x3FF)) | offsets  # no two alike, so any sort gives the same order
        count = land.count[first:end]
        last = np.take_along_axis(np.sort(order, axis=1), np.maximum(count - 1, 0)[:, None], axis=1)
        row, offset = np.nonzero((order <= last) & (count > 0)[:, None])
        tn = every[row, offset]
        # A business decides for all its numbers at once.
        decision = np.where(fixed[row], tn // np.uint64(100), tn)
        holder = land.holder[first:end][row]
        recipient = self._other("recipient", decision, holder)
        second = self.draw.unit("second", decision) < SECOND_PORT_SHARE
        donor = np.where(second, self._other("donor", decision, recipient), holder)
        own = self.draw.unit("own", decision) < OWN_ROUTING_NUMBER_SHARE
        routing = np.where(own, 1 + (self.draw("routing", decision) % np.uint64(3)).astype(np.int64), 0)
        day = (np.sqrt(self.draw.unit("day", decision)) * self._days).astype(np.int64)
        slot = (self.draw("slot", decision) % np.uint64(len(SLOTS))).astype(np.int64)
        return Rows(tn, recipient, routing, donor, day * len(SLOTS) + slot)

    def _other(self, stream: str, index: U64s, than: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """A network by market share, but never the given one."""
        drawn = np.searchsorted(self._shares, self.draw.unit(stream, index), side="right")
        drawn = np.minimum(drawn, len(self.networks) - 1)
        return np.where(drawn == than, (drawn + 1) % len(self.networks), drawn)

    def routing_text(self, recipient: int, routing: int) -> str:
        """Routing number of its own, "" for the network's."""
        return f"D{routing}{self.networks[recipient].routing_number}" if routing else ""

    # -- files -------------------------------------------------------------------------------------------

    def write(self, out: Path, *, feed: str, compression: str, deltas: int, notices: int, advance: Advance) -> Summary:
        """All files of a feed into a folder. advance: told how many numbers were written."""
        out.mkdir(parents=True, exist_ok=True)
        write_networks(out / "networks.csv", self.networks)
        ranges = {
            prefix: self.networks[holder].network_code
            for prefix, holder in (self.holders | self._fixed_exchanges).items()
        }
        write_ranges(out / "ranges.csv", ranges)
        created_at = LAST_DAY + timedelta(days=1)
        ending = "" if compression == "none" else f".{compression}"
        snapshot = out / f"snapshot-{feed}-1.csv{ending}"
        self._write_snapshot(snapshot, advance)
        write_manifest(snapshot, self.numbers, self.format_time(created_at))
        story = Story(self)
        for sequence in range(2, deltas + 2):
            at = created_at + timedelta(minutes=5 * (sequence - 1))
            path = out / f"delta-{feed}-{sequence}.ndjson{ending}"
            with _text_file(path) as file:
                for _ in range(notices):
                    file.write(msgspec.json.encode(story.notice(at)) + b"\n")
            write_manifest(path, notices, self.format_time(at))
        return Summary(
            str(out),
            snapshot.name,
            self.numbers,
            len(self.territory.block),
            deltas,
            deltas * notices,
            len(self.networks),
            len(ranges),
        )

    def format_time(self, at: datetime) -> str:
        """RFC 3339, in the country's own offset."""
        return at.astimezone(self.offset).isoformat(timespec="seconds")

    def _write_snapshot(self, path: Path, advance: Advance) -> None:
        codes = [network.network_code for network in self.networks]
        count = len(codes)
        middle = [
            f"{codes[recipient]},{self.routing_text(recipient, routing)},{codes[donor]}"
            for recipient in range(count)
            for routing in range(4)
            for donor in range(count)
        ]
        zone = self.format_time(FIRST_DAY)[19:]
        times = [
            f"{(FIRST_DAY + timedelta(days=day)).date().isoformat()}T{slot}{zone}"
            for day in range(self._days + 1)
            for slot in SLOTS
        ]
        with _text_file(path) as file:
            file.write(b"tn,network_code,routing_number,donor,ported_at\n")
            for first in range(0, len(self.territory.block), _BLOCKS_AT_A_TIME):
                rows = self.rows(first, first + _BLOCKS_AT_A_TIME)
                which = (rows.recipient * 4 + rows.routing) * count + rows.donor
                lines = [
                    f"{tn},{middle[m]},{times[t]}\n"
                    for tn, m, t in zip(rows.tn.tolist(), which.tolist(), rows.time.tolist(), strict=True)
                ]
                file.write("".join(lines).encode())
                advance(len(lines))


class Story:
    """What happens after the snapshot, notice by notice: every notice fits the state before it."""

    def __init__(self, generator: Generator) -> None:
        self._made = generator
        self._changed: dict[int, int | None] = {}  # number -> network index, None = went home
        self._count = 0

    def _pick(self, below: int, stream: str) -> int:
        return self._made.draw.one(stream, self._count, below)

    def _number(self, ported: bool) -> tuple[int, int | None, int]:
        """A number that is (not) ported now: itself, its network, its range holder."""
        land = self._made.territory
        for attempt in range(1000):
            at = self._pick(len(land.block), f"block{attempt}")
            rows = self._made.rows(at, at + 1)
            served = dict(zip(rows.tn.tolist(), rows.recipient.tolist(), strict=True))
            tn = int(land.block[at]) * 1000 + self._pick(1000, f"offset{attempt}")
            if ported and served:
                tn = int(rows.tn[self._pick(len(rows.tn), f"ported{attempt}")])
            network = self._changed.get(tn, served.get(tn))
            if (network is not None) == ported:
                return tn, network, int(land.holder[at])
        raise LookupdError("no number left for the deltas: ask for fewer --deltas or --notices")

    def notice(self, at: datetime) -> dict[str, str]:
        """The next notice. Shares: new ports 70 %, second ports 10, returns 10, corrections 5, ranges 5."""
        self._count += 1
        made, networks = self._made, self._made.networks
        notified_at = at - timedelta(seconds=self._pick(240, "notified"))
        row = {"notified_at": made.format_time(notified_at), "ref": f"N-{self._count}"}
        chance = self._pick(100, "kind")
        if chance >= 95:
            return self._range() | row
        tn, network, holder = self._number(ported=chance >= 70)
        if 80 <= chance < 90:
            self._changed[tn] = None
            return {"kind": "return", "tn": str(tn)} | row
        leaves = holder if network is None else network
        joins = (leaves + 1 + self._pick(len(networks) - 1, "joins")) % len(networks)
        self._changed[tn] = joins
        told = {"tn": str(tn), "recipient": str(networks[joins].network_code)}
        if chance >= 90:
            return {"kind": "correct"} | told | row
        row["donor"] = str(networks[leaves].network_code)
        if self._pick(20, "later") == 0:
            row["effective_at"] = made.format_time(at + timedelta(days=3))
        return {"kind": "port"} | told | row

    def _range(self) -> dict[str, str]:
        """A business range of a hundred."""
        tn, _, _ = self._number(ported=False)
        first = tn - tn % 100
        joins = self._pick(len(self._made.networks), "joins")
        self._changed.update(dict.fromkeys(range(first, first + 100), joins))
        recipient = str(self._made.networks[joins].network_code)
        return {"kind": "port", "tn": str(first), "tn_to": str(first + 99), "recipient": recipient}


@contextmanager
def _text_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write, compressed as its name says; the same bytes for the same content."""
    with path.open("wb") as raw:
        match path.suffix:
            case ".gz":
                with gzip.GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=6, mtime=0) as file:
                    yield file  # type: ignore[misc]
            case ".zst":
                with zstandard.ZstdCompressor(level=3).stream_writer(raw) as file:
                    yield file
            case _:
                yield raw
