"""DNS messages for the comparison of both engines: dips as switches and resolvers send them, and what is nearly one."""

from __future__ import annotations

import random
import struct

from lookupd.limits import DNS_ADDITIONAL_MAX, DNS_QUERY_BYTES_MAX
from lookupd.model import TN
from lookupd.profiles import EnumSettings, check_enum
from lookupd.protocols import dns

LONG_APEX = ".".join(("a" * 63, "b" * 63, "c" * 63, "d" * 28))
"""As long as an apex may be."""

BOTH = ("E2U+pstn:tel", "E2U+pstn:sip")
PROFILES: dict[str, EnumSettings] = {
    "default": EnumSettings(),
    "usual": EnumSettings(
        apex=("np.example", "e164.arpa"),
        service=BOTH,
        domain="gw.example",
        nameservers={"ns1.np.example": ("192.0.2.1", "2001:db8::1"), "ns2.np.example": ("192.0.2.2",)},
    ),
    "nested": EnumSettings(
        apex=("example.", "NP.Example", "i.np.example", "e164.arpa"),
        service=tuple(reversed(BOTH)),
        ttl=0,
        negative_ttl=604_800,
        domain="[2001:db8::5]:5060",
        nameservers={
            "Ns.NP.example.": ("2001:db8::1", "192.0.2.1", "192.0.2.9", "::ffff:192.0.2.3"),
            "ns.elsewhere.test": ("192.0.2.4",),
            "deep.below.the.example": (),
            "np.example": ("192.0.2.5",),
        },
        unported="rn",
        rn_context="np.example",
        cic_context="+886",
        unmapped_routing_number="FFF",
        tell="edns",
    ),
    "txt": EnumSettings(apex=("e164.arpa", "np.example", LONG_APEX), unported="unknown", tell="txt", rn_context="+886"),
    "cic": EnumSettings(
        apex=("np.example", "E164.ARPA"), service=BOTH, domain="1.2.3.4", cic_context="cic.example", tell="txt"
    ),
    "edns": EnumSettings(
        apex=("e164.arpa", "np.example"), unported="unknown", unmapped_routing_number="0" * 15, tell="edns"
    ),
    "longest": EnumSettings(
        apex=("np.example", "e164.arpa"),
        service=BOTH,
        domain="h" * 58,
        rn_context="r" * 63,
        cic_context="c" * 45,
        negative_ttl=0,
        nameservers={f"ns{at}.servers.np.example": (f"192.0.2.{at}", f"2001:db8::{at}") * 4 for at in range(8)},
        unported="rn",
    ),
    "whole": EnumSettings(
        apex=("a.b", "b", "x1.e164.arpa"), nameservers={f"{'n' * 63}.{LONG_APEX[:160]}": ("192.0.2.1",)}
    ),
}
"""Of clients: everything that can be set is set in one of them."""

for _name, _settings in PROFILES.items():
    check_enum(_name, _settings)

APEXES = ("np.example",) * 15 + ("e164.arpa",) * 15 + (
    "example", "i.np.example", "NP.EXAMPLE", "a.b", "b", "x1.e164.arpa", LONG_APEX, "arpa", "", "test", "xnp.example",
    "np.example.test",
)  # fmt: skip
HEADS = (
    "ns", "ns1", "ns2", "NS1", "ns0.servers", "ns7.servers", "servers", "xservers", "the", "below.the",
    "deep.below.the", "deeper.deep.below.the", "elow.the", "ns.np", "hostmaster", "x.ns1", "*", "_sip._udp", "i", "x",
    "1.x", "x.1", "12", "1.22", "1.2.i", "a.8.8.6", "8.8.6.i.np", "\0", "\0.1", "z" * 63,
)  # fmt: skip
KINDS = (dns.NAPTR,) * 12 + (
    dns.A, dns.NS, dns.NS, dns.SOA, dns.SOA, dns.TXT, dns.TXT, dns.AAAA, dns.ANY, dns.ANY, dns.OPT, dns.AXFR, dns.IXFR,
    0, 250, 253, 65_280, 65_535,
)  # fmt: skip
CLASSES = (dns.IN,) * 60 + (0, 3, 4, 254, 255, 0x0100)
SIZES = (1232,) * 6 + (0, 100, 511, 512, 513, 600, 1231, 1233, 4096, 65_535)


def name_of(text: str) -> bytes:
    """The wire form of any labels; it need not be a name that there can be."""
    labels = [label.encode("latin-1") for label in text.split(".")] if text else []
    return b"".join(bytes([len(label) & 0xFF]) + label for label in labels) + b"\0"


def digits_head(rng: random.Random, tn: TN) -> str:
    """A number's labels, or those of what longer numbers begin with, or of more digits than there can be."""
    digits = str(tn)
    draw = rng.random()
    if draw < 0.25:
        digits = digits[: rng.randint(1, len(digits))]
    elif draw < 0.3:
        digits += "".join(rng.choices("0123456789", k=rng.randint(1, 20)))
    elif draw < 0.32:
        digits = "0" + digits
    return ".".join(reversed(digits))


def name(rng: random.Random, numbers: list[TN]) -> bytes:
    apex = rng.choice(APEXES)
    draw = rng.random()
    head = digits_head(rng, rng.choice(numbers)) if draw < 0.75 else rng.choice(HEADS) if draw < 0.93 else ""
    text = f"{head}.{apex}".strip(".")
    if rng.random() < 0.2:
        text = "".join(rng.choice((letter.lower(), letter.upper())) for letter in text)
    return name_of(text)


def options(rng: random.Random) -> bytes:
    """Of an OPT: none mostly, perhaps one that runs over the end."""
    draw = rng.random()
    if draw < 0.7:
        return b""
    if draw < 0.85:
        return struct.pack(">HH8s", 10, 8, rng.randbytes(8))
    if draw < 0.9:
        return struct.pack(">HHHH", 3, 0, 12, 0)
    return struct.pack(">HH", rng.choice((3, 65_001)), rng.choice((1, 4, 65_535))) + rng.randbytes(rng.randrange(5))


def opt(rng: random.Random) -> bytes:
    owner = b"\0" if rng.random() < 0.97 else rng.choice((b"\x01x\0", b"\xc0\x0c", b""))
    data = options(rng)
    size = len(data) if rng.random() < 0.97 else rng.choice((0, len(data) + 1, 65_535))
    version = 0 if rng.random() < 0.95 else rng.choice((1, 2, 255))
    flags = rng.choice((0, 0, 0x8000, 0x7FFF, 0xFFFF))
    return (
        owner + struct.pack(">HHBBHH", dns.OPT, rng.choice(SIZES), rng.choice((0, 0, 1)), version, flags, size) + data
    )


def other_record(rng: random.Random) -> bytes:
    """As TSIG and others stand behind a question."""
    data = rng.randbytes(rng.choice((0, 4, 16)))
    owner = rng.choice(
        (b"\0", name_of("key.example"), name_of("k" * 63), b"\xc0\x0c", name_of("x." * 120 + "xxxxxxxxxxxxxxx"))
    )
    return dns.encode_record(owner, rng.choice((dns.A, 250, 24, 0)), 0, data)


def additional(rng: random.Random) -> tuple[int, bytes]:
    """How many the header says there are, and what there is."""
    draw = rng.random()
    if draw < 0.35:
        return 0, b""
    if draw < 0.9:
        return 1, opt(rng)
    records = [
        rng.choice((opt, other_record, other_record))(rng) for _ in range(rng.randint(0, DNS_ADDITIONAL_MAX + 1))
    ]
    count = len(records) if rng.random() < 0.8 else rng.choice((0, 1, len(records) + 1, 65_535))
    return count, b"".join(records)


def valid_enum(rng: random.Random, numbers: list[TN]) -> bytes:
    """A question, mostly one that gets an answer."""
    kind = rng.choice(KINDS)
    flags = (
        rng.choice((0, dns.RD, dns.RD, 0x0120, 0x0010, 0x02FF, 0x078F)) if rng.random() < 0.97 else rng.getrandbits(16)
    )
    counts = [1, 0, 0]
    if rng.random() < 0.03 or (kind == dns.IXFR and rng.random() < 0.5):
        counts[rng.randrange(3)] = rng.choice((0, 1, 2, 65_535))
    behind, records = additional(rng)
    question = name(rng, numbers) + struct.pack(">HH", kind, rng.choice(CLASSES))
    trailing = b"" if rng.random() < 0.95 else rng.randbytes(rng.randint(1, 40))
    header = dns.HEADER.pack(rng.choice((0, 65_535, rng.getrandbits(16))), flags, *counts, behind)
    return header + question + records + trailing


def large_enum(rng: random.Random, numbers: list[TN]) -> bytes:
    """Around the bounds of a name, and long."""
    draw = rng.random()
    if draw < 0.6:
        size = rng.choice((253, 254, 255, 256, 257, 300))
        labels = name_of(rng.choice(("np.example", "e164.arpa")))
        while len(labels) < size:
            room = min(size - len(labels) - 1, rng.choice((1, 1, 63)))
            labels = bytes([max(room, 0)]) + b"1" * room + labels
        behind, records = additional(rng)
        return dns.HEADER.pack(7, dns.RD, 1, 0, 0, behind) + labels + struct.pack(">HH", dns.NAPTR, 1) + records
    if draw < 0.8:
        return valid_enum(rng, numbers) + rng.randbytes(rng.choice((500, DNS_QUERY_BYTES_MAX, 20_000)))
    padding = struct.pack(">HH", 12, 3000) + bytes(3000)
    record = b"\0" + struct.pack(">HHIH", dns.OPT, rng.choice(SIZES), 0, len(padding)) + padding
    return (
        dns.HEADER.pack(9, dns.RD, 1, 0, 0, 1) + name(rng, numbers) + struct.pack(">HH", rng.choice(KINDS), 1) + record
    )
