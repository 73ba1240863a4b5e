"""Messages of every dialect: valid ones, nearly valid ones, and what becomes of them when bytes are changed.

Mutating is done for thousands of messages at once, in one array, so that making them costs less than answering.
"""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lookupd.limits import DATAGRAM_BYTES_MAX
from lookupd.model import TN
from lookupd.protocols import npq, pdb
from tests.parity.enum_messages import large_enum, valid_enum
from tests.parity.sip_messages import SIP_INTERESTING, large_sip, odd_sip, valid_sip
from tests.parity.stores import some_numbers

DOCUMENTS = Path(__file__).parents[2] / "docs" / "protocols"

TEXTS = (
    "", "+", "0", "00", "110", "112", "0800123456", "+0912345678", "0912 345 678", "०१२३४५६७८९", "٠١٢٣٤٥", "letters",
    "88691234567x", "8869123456789012", "999999999999999", "1000000000000000", "12345", "1234", "+12345", "0" * 15,
    "中華電信" * 10, "x" * 40, "y" * 41, "é" * 40, "é" * 41, "\U0001f4de" * 40, "\U0001f4de" * 41, "1" * 40, "1" * 41,
    "\0", "886912345678\0", " 886912345678", "+886912345678 ", "++886912345678", "-886912345678", "²³¹²³¹²³¹",
)  # fmt: skip


def dialled(rng: random.Random, tn: TN) -> str:
    """A number as switches write it."""
    text = str(tn)
    draw = rng.random()
    if draw < 0.2:
        return "+" + text
    if draw < 0.4:
        for code in ("886", "81", "1", "36", "44"):
            if text.startswith(code):
                return rng.choice(("0", "06", "1", "")) + text[len(code) :]
    return text


# -- valid ones ------------------------------------------------------------------------------------------


def npq_number(rng: random.Random, tn: TN) -> str | int:
    draw = rng.random()
    if draw < 0.3:
        return int(tn)
    return rng.choice(TEXTS) if draw > 0.95 else dialled(rng, tn)


def valid_npq(rng: random.Random, numbers: list[TN]) -> bytes:
    draw = rng.random()
    count = 0 if draw < 0.8 else rng.randint(1, 20) if draw < 0.99 else rng.randint(21, 90)
    asked: Any = (
        [npq_number(rng, rng.choice(numbers)) for _ in range(count)] if count else npq_number(rng, rng.choice(numbers))
    )
    elements: list[Any] = [1, 0, rng.choice((0, 1, rng.getrandbits(8), rng.getrandbits(32), 0xFFFF_FFFF)), asked]
    if rng.random() < 0.5:
        elements.append(rng.choice((0, 1, 1, 1, 2, 255)))
        if rng.random() < 0.1:
            elements.append(rng.choice((None, "later", [1, {"a": [2.5]}], b"\xff")))
    return pack(rng, elements)


def large_npq(rng: random.Random, numbers: list[TN]) -> bytes:
    """Up to a little more numbers than a query may have, or deep, or long."""
    kind = rng.randrange(5)
    if kind < 2:
        count = rng.choice((100, 500, 999, 1000, 1000, 1001))
        return npq.encode_query(7, [dialled(rng, rng.choice(numbers)) for _ in range(count)], rng.randint(0, 1))
    if kind == 2:
        return nested(rng, rng.choice((100, 500, 1100, 3000)))
    if kind == 3:
        return rng.randbytes(rng.choice((1000, 1400, 9000, DATAGRAM_BYTES_MAX)))
    return b"\x96\x01\x00\x05\xac886912345678\x01\xc5" + struct.pack(">H", 5000) + bytes(5000)


def nested(rng: random.Random, depth: int) -> bytes:
    """A query, or nearly one, with something deep in one of its elements."""
    deep = rng.choice((b"\x91", b"\x81\x01", b"\xdc\x00\x01", b"\x92\xc0")) * depth + b"\x01"
    elements = [b"\x01", b"\x00", b"\x07", b"\xac886912345678", b"\x01", b"\xc0"]
    elements[rng.randrange(6)] = deep
    return bytes([0x96]) + b"".join(elements)


def valid_pdb(rng: random.Random, numbers: list[TN]) -> bytes:
    text = rng.choice(TEXTS) if rng.random() < 0.1 else dialled(rng, rng.choice(numbers))
    number = text.encode()
    draw = rng.random()
    if draw < 0.25:
        return number + rng.choice((b"", b"\0", b"\0\0", b"\r\n"))
    payload = number + rng.choice((b"\0", b"\0", b"\0", b"", b"\0junk"))
    length = 6 + len(payload) if rng.random() < 0.8 else rng.getrandbits(8)
    return (
        pdb.HEADER.pack(1, rng.choice((0, 0, 0, 0, 1, 2)), rng.choice((0, 0, 7)), length & 0xFF, rng.getrandbits(16))
        + payload
    )


def large_pdb(rng: random.Random, numbers: list[TN]) -> bytes:
    digits = "".join(rng.choices("0123456789", k=rng.choice((32, 33, 246, 252, 253, 254, 255, 256, 1018, 1019, 2000))))
    if rng.random() < 0.5:
        return digits.encode() + b"\0"
    header = pdb.HEADER.pack(1, 0, 0, min(len(digits) + 7, 255), 9)
    return header + digits.encode() + (b"\0" if rng.random() < 0.7 else b"")


def worked_examples() -> list[bytes]:
    """Every message in the protocols' pages, whoever sends it."""
    found: list[bytes] = []
    for page in DOCUMENTS.glob("*.md"):
        sides = {"C": b"", "S": b""}
        for line in page.read_text(encoding="utf-8").splitlines():
            message = re.match(r"(?:request|reply) +((?:[0-9a-f]{2} {1,2})*[0-9a-f]{2})$", line)
            piece = re.match(r"([CS]): ((?:[0-9a-f]{2} ?)+)(?: \* ([0-9]+))?", line)
            if message:
                found.append(bytes.fromhex(message[1]))
            elif piece:
                sides[piece[1]] += bytes.fromhex(piece[2].strip()) * int(piece[3] or 1)
            elif line.startswith("```"):
                found += [side for side in sides.values() if side]
                sides = {"C": b"", "S": b""}
    assert len(found) > 40
    return found


# -- MessagePack in every form ---------------------------------------------------------------------------

Packer = Callable[[int], bytes]
_UNSIGNED: tuple[tuple[int, Packer], ...] = (
    (1 << 7, lambda value: bytes([value])),
    (1 << 8, lambda value: b"\xcc" + value.to_bytes(1, "big")),
    (1 << 16, lambda value: b"\xcd" + value.to_bytes(2, "big")),
    (1 << 32, lambda value: b"\xce" + value.to_bytes(4, "big")),
    (1 << 64, lambda value: b"\xcf" + value.to_bytes(8, "big")),
    (1 << 7, lambda value: b"\xd0" + value.to_bytes(1, "big")),
    (1 << 15, lambda value: b"\xd1" + value.to_bytes(2, "big")),
    (1 << 31, lambda value: b"\xd2" + value.to_bytes(4, "big")),
    (1 << 63, lambda value: b"\xd3" + value.to_bytes(8, "big")),
)


def pack_integer(rng: random.Random, value: int) -> bytes:
    """In the shortest form mostly, otherwise in any that holds it."""
    if value < 0:
        return b"\xd3" + struct.pack(">q", value) if value < -32 or rng.random() < 0.5 else struct.pack(">b", value)
    forms = [form for bound, form in _UNSIGNED if value < bound]
    return (forms[0] if rng.random() < 0.8 else rng.choice(forms))(value)


def _head(rng: random.Random, length: int, short: tuple[int, int] | None, longer: tuple[int, ...]) -> bytes:
    """The first bytes of a text, array or map: the shortest form mostly."""
    forms = [bytes([short[0] | length])] if short is not None and length < short[1] else []
    widths = {1: (1 if len(longer) == 3 else 2), 2: 4}
    for at, code in enumerate(longer):
        width = (1 << at) if len(longer) == 3 else widths[at + 1]
        if length < 1 << (8 * width):
            forms.append(bytes([code]) + length.to_bytes(width, "big"))
    return forms[0] if rng.random() < 0.85 else rng.choice(forms)


def pack(rng: random.Random, value: Any) -> bytes:
    """MessagePack of a value, in a form that need not be the shortest."""
    match value:
        case None:
            return b"\xc0"
        case bool():
            return b"\xc3" if value else b"\xc2"
        case int():
            return pack_integer(rng, value)
        case float():
            return b"\xcb" + struct.pack(">d", value)
        case str():
            encoded = value.encode()
            return _head(rng, len(encoded), (0xA0, 32), (0xD9, 0xDA, 0xDB)) + encoded
        case bytes():
            return _head(rng, len(value), None, (0xC4, 0xC5, 0xC6)) + value
        case list():
            return _head(rng, len(value), (0x90, 16), (0xDC, 0xDD)) + b"".join(pack(rng, one) for one in value)
        case dict():
            pairs = b"".join(pack(rng, key) + pack(rng, one) for key, one in value.items())
            return _head(rng, len(value), (0x80, 16), (0xDE, 0xDF)) + pairs
    raise TypeError(value)


def odd_value(rng: random.Random, depth: int = 0) -> Any:
    """Any kind of value."""
    integers = (0, 1, 2, 127, 128, 255, 65_535, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1, -1, -32, -33, -(2**63))
    kind = rng.randrange(9 if depth < 3 else 7)
    if kind == 7:
        return [odd_value(rng, depth + 1) for _ in range(rng.choice((0, 1, 2, 16)))]
    if kind == 8:
        return {rng.choice((None, 1, "k", b"k", 2.5)): odd_value(rng, depth + 1) for _ in range(rng.choice((0, 1, 3)))}
    choices: tuple[Any, ...] = (
        None, True, 1.0, rng.choice(integers), rng.choice(TEXTS), b"\xff\x01", rng.choice(integers),
    )  # fmt: skip
    return choices[kind]


def odd_npq(rng: random.Random, numbers: list[TN]) -> bytes:
    """A query of which some elements are something else, or too few, or too many."""
    elements: list[Any] = [1, 0, rng.getrandbits(8), npq_number(rng, rng.choice(numbers)), rng.randint(0, 1), None]
    del elements[rng.randint(0, 6) :]
    for _ in range(rng.randint(0, 2)):
        if elements:
            elements[rng.randrange(len(elements))] = odd_value(rng)
    if rng.random() < 0.2 and len(elements) > 3:
        elements[3] = [
            odd_value(rng) if rng.random() < 0.2 else int(rng.choice(numbers)) for _ in range(rng.randint(0, 8))
        ]
    extension = rng.choice((b"", b"", b"\xd4\x01\x02", b"\xc7\x02\x01ab", b"\xc1", b"\xa2\xff\xfe", b"\xd9\x01\xff"))
    packed = pack(rng, elements)
    if extension and 0x90 <= packed[0] < 0x9F:
        packed = bytes([packed[0] + 1]) + packed[1:] + extension
    return packed


# -- many of them, changed -------------------------------------------------------------------------------

INTERESTING = np.array(
    [0, 1, 2, 0x2B, 0x30, 0x39, 0x7F, 0x80, 0x90, 0x94, 0x95, 0x9F, 0xA0, 0xBF, 0xC0, 0xC1, 0xC4, 0xCA, 0xCB, 0xCC,
     0xCD, 0xCE, 0xCF, 0xD0, 0xD3, 0xD4, 0xD9, 0xDA, 0xDB, 0xDC, 0xDD, 0xDE, 0xDF, 0xE0, 0xFF],
    dtype=np.uint8,
)  # fmt: skip


HEAVY_SHARES = {"npq": 1 / 1500, "pdb": 1 / 30, "enum": 1 / 100, "sip": 1 / 40}


class Pool:
    """Messages of a dialect to pick from and to change."""

    def __init__(self, dialect: str, seed: int) -> None:
        rng = random.Random(f"{dialect}{seed}")
        numbers = some_numbers(rng, 4000)
        examples = worked_examples()
        if dialect == "npq":
            light = [valid_npq(rng, numbers) for _ in range(5000)] + [odd_npq(rng, numbers) for _ in range(2500)]
            light += [valid_pdb(rng, numbers) for _ in range(150)] + [
                nested(rng, rng.randint(1, 90)) for _ in range(200)
            ]
            heavy = [large_npq(rng, numbers) for _ in range(60)] + [nested(rng, 30_000)]
        elif dialect == "enum":
            light = [valid_enum(rng, numbers) for _ in range(12_000)] + [valid_npq(rng, numbers) for _ in range(150)]
            heavy = [large_enum(rng, numbers) for _ in range(400)] + [rng.randbytes(DATAGRAM_BYTES_MAX)]
        elif dialect == "sip":
            light = [valid_sip(rng, numbers) for _ in range(9000)] + [odd_sip(rng, numbers) for _ in range(9000)]
            heavy = [large_sip(rng, numbers) for _ in range(600)] + [rng.randbytes(9000)]
        else:
            light = [valid_pdb(rng, numbers) for _ in range(6000)] + [valid_npq(rng, numbers) for _ in range(150)]
            heavy = [large_pdb(rng, numbers) for _ in range(400)] + [rng.randbytes(DATAGRAM_BYTES_MAX)]
        light += [example for example in examples if len(example) < 300] * 2
        heavy += [example for example in examples if len(example) >= 300]
        self.heavy_share = HEAVY_SHARES[dialect]
        self._interesting = SIP_INTERESTING if dialect == "sip" else INTERESTING
        self._light = len(light)
        every = light + heavy
        self._bytes = np.frombuffer(b"".join(every), dtype=np.uint8)
        self._lengths = np.array([len(message) for message in every])
        self._starts = np.cumsum(self._lengths) - self._lengths

    def take(self, rng: np.random.Generator, count: int) -> list[bytes]:
        """So many messages, more than half of them changed."""
        picks = rng.integers(0, self._light, count)
        heavy = rng.random(count) < self.heavy_share
        picks[heavy] = rng.integers(self._light, len(self._lengths), int(heavy.sum()))
        lengths = self._lengths[picks]
        ends = np.cumsum(lengths)
        starts = ends - lengths
        data = self._bytes[np.repeat(self._starts[picks] - starts, lengths) + np.arange(int(ends[-1]))]
        _change_bytes(rng, data, starts, lengths, self._interesting)
        _cut(rng, ends, lengths)
        raw = data.tobytes()
        found = [raw[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
        _rearrange(rng, found)
        return found


def _change_bytes(
    rng: np.random.Generator,
    data: NDArray[np.uint8],
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
    interesting: NDArray[np.uint8],
) -> None:
    """Flip bits, put other bytes; in the first bytes, which say what the others mean, half of the time."""
    touched = rng.integers(0, len(starts), len(starts) // 2)
    touched = touched[lengths[touched] > 0]
    room = lengths[touched]
    room = np.where(rng.random(len(touched)) < 0.5, np.minimum(room, 10), room)
    places = starts[touched] + (rng.random(len(touched)) * room).astype(np.int64)
    flips, puts, counts = np.array_split(places, 3)
    data[flips] ^= np.left_shift(1, rng.integers(0, 8, len(flips))).astype(np.uint8)
    data[puts] = rng.choice(interesting, len(puts))
    data[counts] += rng.choice(np.array([1, 255, 2], dtype=np.uint8), len(counts))


def _cut(rng: np.random.Generator, ends: NDArray[np.int64], lengths: NDArray[np.int64]) -> None:
    """One in ten ends early."""
    cut = np.flatnonzero(rng.random(len(ends)) < 0.1)
    ends[cut] -= (rng.random(len(cut)) * (lengths[cut] + 1)).astype(np.int64)


def _rearrange(rng: np.random.Generator, messages: list[bytes]) -> None:
    """Insert, remove, repeat, splice two, or replace by bytes from nowhere: one in six."""
    count = len(messages)
    some = rng.permutation(count)[: count // 6]
    noise = rng.bytes(70_000)
    for at, kind, first, second in zip(
        some.tolist(),
        rng.integers(0, 6, len(some)).tolist(),
        rng.integers(0, 1 << 16, len(some)).tolist(),
        rng.integers(0, 1 << 16, len(some)).tolist(),
        strict=True,
    ):
        message = messages[at]
        length = len(message)
        one = first % (length + 1)
        if kind == 0:
            messages[at] = message[:one] + noise[second : second + 1 + second % 4] + message[one:]
        elif kind == 1:
            messages[at] = message[:one] + message[one + 1 + second % 3 :]
        elif kind == 2:
            messages[at] = (message[:one] + message[: second % (length + 1)] + message[one:])[:DATAGRAM_BYTES_MAX]
        elif kind == 3:
            other = messages[second % count]
            messages[at] = (message[:one] + other[second % (len(other) + 1) :])[:DATAGRAM_BYTES_MAX]
        elif kind == 4:
            messages[at] = noise[first : first + second % 301]
        elif second % 8 == 0:
            messages[at] = message + bytes(second % 64)
