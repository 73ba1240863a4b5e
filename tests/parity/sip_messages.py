"""SIP requests for the comparison of both engines: dips as switches send them, keepalives, and what is nearly one."""

from __future__ import annotations

import random

import numpy as np

from lookupd.limits import SIP_DATAGRAM_BYTES_MAX, SIP_LINES_MAX, SIP_VIAS_MAX
from lookupd.model import TN
from lookupd.profiles import SipSettings

PEERS: tuple[tuple[str | int, ...], ...] = (
    ("127.0.0.1", 5060),
    ("127.0.0.1", 15999),
    ("192.0.2.7", 40000),
    ("198.51.100.1", 5061),
    ("2001:db8::7", 5060, 0, 0),
    ("2001:db8:0:1::9", 65535, 0, 0),
    ("fe80::1%lo", 1, 0, 1),
    ("::1", 15999, 0, 0),
    ("::ffff:127.0.0.1", 5060, 0, 0),
)
"""Sources of messages; most sent-by hosts below are one of them."""

HOSTS = (
    "127.0.0.1", "127.0.0.1", "192.0.2.7", "198.51.100.1", "[2001:db8::7]", "[2001:0DB8::7]", "[2001:db8:0:1::9]",
    "[fe80::1]", "[::1]", "gw.example", "gw-1.example.", "lookupd", "127.0.0.01", "192.0.2.8", "[::ffff:127.0.0.1]",
    "[::1", "2001:db8::7", "[]", "", "*", "a_b", "-", "[2001:db8::7%25lo]", "256.1.1.1", "GW.EXAMPLE",
)  # fmt: skip
PORTS = ("",) * 5 + (":5060", ":15999", ":15999", ":5061", ":1", ":65535", ":65536", ":0", ":00005060", ":", ":x",
         " : 5070", ":99999999999999999999", ":+5060", ":5060 ")  # fmt: skip
METHODS = ("INVITE",) * 30 + (
    "OPTIONS", "OPTIONS", "ACK", "ACK", "CANCEL", "CANCEL", "BYE", "REGISTER", "SUBSCRIBE", "invite", "Invite", "ack",
    "INVITEX", "INVIT", "X", "INVITE*", "M@", "NOTIFY", "A" * 40,
)  # fmt: skip
VERSIONS = ("SIP/2.0",) * 30 + (
    "sip/2.0", "SIP/2.1", "SIP/3.0", "SIP/2", "SIP/02.0", "SIP/2.0 ", "HTTP/1.1", "", "SIP/",
)  # fmt: skip
PROTOCOLS = ("SIP/2.0/UDP",) * 12 + (
    "SIP/2.0/TCP", "sip/2.0/udp", "SIP / 2.0 / UDP", "SIP/2.0/X-Y", "SIP/2.0/", "SIP/2.0", "SIP/3.0/UDP",
    "SIP /2.0/UDP", "SIP/2.0/UDP/X", "HTTP/1.1/TCP", "SIP/2.0 /UDP", "SIP/2.0/U DP",
)  # fmt: skip
USER_PARAMETERS = ("",) * 14 + (
    ";npdi", ";npdi=yes", ";NPDI", ";rn=+88693500", ";RN=D0401;rn-context=+886", ";npdi;rn=1401", ";cic=+1401", ";",
    ";isub=12", ";ext=1", ";npdix", ";xnpdi", ";rn", ";rn=", ";npdi=", ";;npdi", ";phone-context=example.com;npdi",
    ";npd%69", "; npdi", ";postd=1;npdi", ";foo=npdi", ";foo=;rn=1", ";tsp=a.example", ";npdi =yes",
)  # fmt: skip
CONTEXTS = (
    "+886", "+886", "+81", "+1", "+886912", "example.com", "+", "", "886", "+88x", "+0886", "+999999999999999", "+8-86",
    "%2B886", "+886912345678901",
)  # fmt: skip
USERS = (
    "", "+", "0", "110", "1190", "+886", "+8869", "+88691", "88691", "886912", "+88691234567", "88691234567",
    "0912345", "09123456", "091234567", "letters", "+886letters", "sip", "+886 912345678", "%20+886%20912345678",
    "%2B886912345678", "%2b886912345678", "+88691234567%38", "+88691234567%3", "+88691234567%", "+88691234567%zz",
    "%00", "%FF", "%31%31%30", "*21", "%23", "#21", "+1", "1234", "12345", "9" * 15, "9" * 16, "9" * 39, "9" * 40,
    "9" * 41, "+" + "9" * 39, "+" + "9" * 40, "-" * 30 + "886912345678", "-" * 60, "()", "..-", "++886912345678",
    "886+912345678", "+886912345678@x", "a%40b", "_", "é", "+8869123456789", "0" * 12, "+0912345678", "%",
)  # fmt: skip
REPLY_VALUES = (
    "", ";rport", ";rport", ";rport", ";rport", ";RPORT", ";rport=", ";rport=15999", ";rport=1;rport", ";rport=x",
    " ; rport", ";rport ; x", ";rport;received=10.0.0.1", ";received=10.0.0.1", ";received", ";received=",
    ";Received=1;RECEIVED=2",
    ";maddr=192.0.2.99", ";ttl=1", ";x=\"a;rport,b\"", ";x=\"\\\";rport\"", ";x=\"open", ";", ";;", ";=", ";rport =",
    ";rport = ", ";rport=\"\"", ";rportx", ";xrport", ";received=[::1];rport", ";received = 1 ;rport", ";rport;rport",
)  # fmt: skip
BRANCHES = ("",) + (";branch=z9hG4bK-1",) * 4 + (
    ";branch=z9hG4bKnashds8", ";Branch=1", ";branch", ";branch=", ";branch=a;branch=b", "; branch = z9hG4bK-2",
    ";branch=\"q\"", ";branch=z9hG4bK.\x80", ";branch=" + "b" * 200,
)  # fmt: skip
TAGS = ("",) + (";tag=c1",) * 4 + (
    ";TAG=x", ";tag", ";tag=", ";tag=a;tag=b", " ;tag=c 2", " ; tag = c3", ";tag=\"q\"", ";x=1;tag=t", ";tag=t;x=1",
    ";tagx=1", ";tag=\xff", ";x=\";tag=no\"",
)  # fmt: skip
ADDRESSES = (
    "<sip:+886223456789@127.0.0.1:15999;user=phone>", "sip:a@b", "sip:a@b;x=1", '"A, B;tag=x" <sip:a@b>',
    '"q\\"<;tag=y>" <sip:a@b;tag=z>', "<tel:+886223456789;npdi>", "Name <sip:a@b>", "<>", "", "<sip:a@b", "sip:a@b>",
    '"open <sip:a@b>', "<sip:a;tag=u@b>", "tel:+886223456789;npdi", "\u00e9 <sip:a@b>", "*", "<sip:a@b>>",
    '"" <sip:a@b>', '<sip:a@b> "', "<sip:a@b>;x=\"<\"", "(c) <sip:a@b>",
)  # fmt: skip
EXTRA = (
    ("Contact", "<sip:dip@127.0.0.1:15999>"), ("m", "<sip:a@b>;expires=3,<sip:c@d>"), ("Route", "<sip:x;lr>"),
    ("Record-Route", "<sip:y;lr>"), ("Require", "100rel"), ("Supported", "timer, 100rel"), ("k", "timer"),
    ("User-Agent", "switch/1.0 (test)"), ("Allow", "INVITE,ACK"), ("Content-Type", "application/sdp"),
    ("c", "application/sdp"), ("Subject", ""), ("s", "x"), ("P-Asserted-Identity", "<tel:+886223456789>"),
    ("X", ":::"), ("Expires", "180"), ("Session-Expires", "1800;refresher=uac"), ("X-Long", "x" * 700), ("e", "gzip"),
    ("Viaa", "SIP/2.0/UDP a"), ("Vi", "1"), ("T o", "x"), ("", "no name"), ("Froms", "x"), ("Call-IDs", "x"),
)  # fmt: skip
CSEQS = ("1", "1", "1", "0", "2147483647", "2147483648", "4294967295", "99999999999999999999", "", "x", "-1", "+1",
         "1x", "007", "0" * 30 + "7", "1 1")  # fmt: skip
COUNTS = ("", "x", "-1", "+1", "1 2", "0x1", "00", "007", "99999", "99999999999999999999", " ", "255", "256", "1", "0",
          "0 ", "0" * 40, "2" + "0" * 30)  # fmt: skip
NAMES = {"Via": "v", "From": "f", "To": "t", "Call-ID": "i", "Content-Length": "l"}
BODY = (
    b"v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 40000 RTP/AVP 8 0 101\r\n"
    b"a=rtpmap:8 PCMA/8000\r\na=rtpmap:0 PCMU/8000\r\na=rtpmap:101 telephone-event/8000\r\n\r\n"
)
SIP_INTERESTING = np.frombuffer(
    b' \t\r\n\0:;;,,==<>"\\@%()[]/?&+-*.0159aAzZ\x7f\x80\xff\x01\x1f\x0b\x0c', dtype=np.uint8
)


def pick_settings(rng: np.random.Generator) -> SipSettings:
    """Any of them; the usual ones are the most likely."""

    def one(*choices: object) -> object:
        return choices[int(rng.integers(len(choices)))]

    return SipSettings(
        status=one(302, 302, 301),  # type: ignore[arg-type]
        form=one("rn", "rn", "replace", "prefix"),  # type: ignore[arg-type]
        npdi=one("npdi", "npdi", "npdi=yes"),  # type: ignore[arg-type]
        domain=one("", "", "gw.example", "gw.example:5070", "[2001:db8::1]:5060", "x" * 100),  # type: ignore[arg-type]
        unported=one("npdi", "npdi", "rn", "unknown"),  # type: ignore[arg-type]
        rn_context=one("", "", "+886", "np.example"),  # type: ignore[arg-type]
        cic_context=one("", "", "+886", "carrier.example"),  # type: ignore[arg-type]
        unmapped_routing_number=one("", "D9990"),  # type: ignore[arg-type]
        tell=one(False, True),  # type: ignore[arg-type]
    )


def separated(rng: random.Random, number: str) -> str:
    """With visual separators, or escapes, strewn in."""
    marks = ("-", ".", "(", ")", "%20", "--", "%2D")
    at = sorted(rng.sample(range(len(number) + 1), min(rng.randint(1, 4), len(number) + 1)), reverse=True)
    for place in at:
        number = number[:place] + rng.choice(marks) + number[place:]
    if rng.random() < 0.2 and number:
        place = rng.randrange(len(number))
        number = number[:place] + f"%{ord(number[place]):02{rng.choice('xX')}}" + number[place + 1 :]
    return number


def user_of(rng: random.Random, numbers: list[TN]) -> str:
    """What was dialled."""
    draw = rng.random()
    if draw < 0.12:
        return rng.choice(USERS)
    text = str(rng.choice(numbers))
    if draw < 0.7:
        text = "+" + text
    elif draw < 0.85:
        for code in ("886", "81", "1", "36", "44"):
            if text.startswith(code):
                text = rng.choice(("0", "06", "1", "")) + text[len(code) :]
                break
    if draw < 0.2:
        text = text[: rng.randint(1, len(text))]
    return separated(rng, text) if rng.random() < 0.15 else text


def good_uri(rng: random.Random, numbers: list[TN]) -> str:
    """A Request-URI as switches write it."""
    user = user_of(rng, numbers)
    if rng.random() < 0.15:
        return f"tel:{user}{rng.choice(('', '', ';phone-context=+886', ';isub=1'))}"
    scheme = rng.choice(("sip", "sip", "sip", "sip", "sips", "SIP"))
    host = rng.choice(("127.0.0.1:15160", "127.0.0.1", "gw.example", "[2001:db8::7]:5060"))
    return f"{scheme}:{user}{rng.choice(('',) * 12 + (';npdi',))}@{host}{rng.choice(('', ';user=phone'))}"


def uri_of(rng: random.Random, numbers: list[TN]) -> str:
    """A Request-URI, perhaps one that is none."""
    schemes = ("sip",) * 16 + ("tel",) * 5 + ("sips", "sips", "SIP", "Tel", "http", "sipx", "si", "", "urn", "sip ")
    scheme = rng.choice(schemes)
    user = user_of(rng, numbers) + rng.choice(USER_PARAMETERS)
    if rng.random() < 0.12:
        user += ";" + rng.choice(("phone-context", "Phone-Context", "phone-contex")) + "=" + rng.choice(CONTEXTS)
    if rng.random() < 0.05:
        user += rng.choice(USER_PARAMETERS)
    if rng.random() < 0.03:
        user += rng.choice((":secret", ":", ":a;npdi", ":%41"))
    if scheme.lower() == "tel" and rng.random() < 0.9:
        return f"{scheme}:{user}{rng.choice(('', '', '', '?x=1', '@h'))}"
    host = rng.choice(HOSTS) + rng.choice(PORTS).replace(" ", "")
    after = ("", "", ";user=phone", ";user=phone", ";npdi", ";transport=udp", "?subject=x", ";x?y=@z", ";lr;npdi", "@x")
    return f"{scheme}:{user}{rng.choice(('@',) * 20 + ('', '@@'))}{host}{rng.choice(after)}"


def via_value(rng: random.Random) -> str:
    """One value of a Via."""
    protocol = rng.choice(PROTOCOLS)
    blank = rng.choice((" ",) * 12 + ("", "  ", "\t"))
    return protocol + blank + rng.choice(HOSTS) + rng.choice(PORTS) + via_parameters(rng)


def via_parameters(rng: random.Random) -> str:
    parts = [rng.choice(REPLY_VALUES), rng.choice(BRANCHES)]
    if rng.random() < 0.2:
        parts.append(rng.choice(REPLY_VALUES))
    rng.shuffle(parts)
    return "".join(parts)


def good_via(rng: random.Random) -> str:
    """As switches write it."""
    host = rng.choice(("127.0.0.1", "127.0.0.1", "192.0.2.7", "[2001:db8::7]", "gw.example"))
    port = rng.choice((":15999", ":5060", "", ":5061"))
    rest = rng.choice(
        (";rport;branch=z9hG4bK-1", ";branch=z9hG4bK-2;rport", ";branch=z9hG4bK-3", ";rport;branch=z9hG4bK-4;alias")
    )
    return f"SIP/2.0/{rng.choice(('UDP', 'UDP', 'TCP'))} {host}{port}{rest}"


def header_lines(rng: random.Random, method: str, body: int, odd: float) -> list[str]:
    """Of a request; each with the share `odd` in another than the everyday form."""

    def is_odd() -> bool:
        return rng.random() < odd

    lines: list[tuple[str, str]] = []
    for _ in range(rng.choice((1, 1, 1, 2, 3)) if not is_odd() else rng.choice((0, 1, 2, 5, 9))):
        values = [
            via_value(rng) if is_odd() else good_via(rng) for _ in range(rng.choice((1, 1, 1, 1, 2)) if odd else 1)
        ]
        lines.append(("Via", rng.choice((", ", ",", " ,\t")).join(values)))
    for name in ("From", "To"):
        address = rng.choice(ADDRESSES) if is_odd() else ADDRESSES[0]
        tag = rng.choice(TAGS) if is_odd() else ";tag=c1" if name == "From" or rng.random() < 0.1 else ""
        lines.append((name, address + tag))
    lines.append(
        (
            "Call-ID",
            rng.choice(("", "1", "a@b c", "\x80", "x" * 300)) if is_odd() else f"{rng.getrandbits(16)}@127.0.0.1",
        )
    )
    number = rng.choice(CSEQS) if is_odd() else str(rng.getrandbits(12))
    said = rng.choice(("INVITE", "invite", "", "ACK", method + "x", method + " x")) if is_odd() else method
    lines.append(("CSeq", number + rng.choice((" ", " ", " ", "  ", "\t", "") if is_odd() else (" ",)) + said))
    if is_odd() or rng.random() < 0.9:
        lines.append(("Max-Forwards", rng.choice(COUNTS) if is_odd() else "70" if rng.random() < 0.95 else "0"))
    if is_odd() or rng.random() < 0.95:
        counted = body + rng.choice((-5, -1, 0, 0, 1, 5))
        length = rng.choice(COUNTS) if is_odd() else str(max(counted, 0) if is_odd() else body)
        lines.append(("Content-Length", length))
    lines += rng.sample(EXTRA, rng.randint(0, 6))
    if is_odd():
        lines.append(rng.choice(lines))
    if is_odd() and lines:
        del lines[rng.randrange(len(lines))]
    if rng.random() < 0.2:
        rng.shuffle(lines)
    return [header_line(rng, name, value, odd) for name, value in lines]


def header_line(rng: random.Random, name: str, value: str, odd: float) -> str:
    """Of one header: long or compact, any case, blanks, perhaps folded."""
    if rng.random() < 0.15:
        name = NAMES.get(name, name)
    if rng.random() < odd:
        name = rng.choice((name.lower(), name.upper(), name.swapcase()))
    colon = rng.choice((": ", ":", " : ", "\t:\t", ":  ", ":\t")) if rng.random() < odd else ": "
    if rng.random() < odd / 2 and colon != ":":
        colon = rng.choice((colon + "\r\n ", ":\r\n\t", " :\n "))
    if rng.random() < odd and value:
        for _ in range(rng.randint(1, 2)):
            at = rng.randrange(len(value) + 1)
            value = (
                value[:at]
                + rng.choice(("\r\n ", "\n\t", " \r\n  ", "\r\n \t ", "\r\n \r\n ", "\r ", "\r\n"))
                + value[at:]
            )
    return name + colon + value + (rng.choice((" ", "\t", " \t ", "\r", "\0")) if rng.random() < odd / 2 else "")


def request(rng: random.Random, numbers: list[TN], odd: float) -> bytes:
    """One request; odd: how much of it is not everyday."""
    method = rng.choice(METHODS) if rng.random() < 0.5 or odd else "INVITE"
    body = BODY if rng.random() < 0.4 else rng.choice((b"", b"", b"x", b"\r\n\r\n"))
    uri = uri_of(rng, numbers) if rng.random() < max(3 * odd, 0.1) else good_uri(rng, numbers)
    blank = (" ",) * 12 + ("  ", "\t", "")
    parts = (
        method,
        rng.choice(blank) if rng.random() < odd else " ",
        uri,
        rng.choice(blank) if rng.random() < odd else " ",
    )
    start = "".join(parts) + (rng.choice(VERSIONS) if rng.random() < odd else "SIP/2.0")
    end = "\r\n" if rng.random() > odd else rng.choice(("\n", "\r\n", "\r", "\n\r"))
    lines = [start, *header_lines(rng, method, len(body), odd)]
    head = end.join(lines) + end + (end if rng.random() > odd / 4 else "")
    before = rng.choice((b"\r\n", b"\r\n\r\n", b"\n", b" ", b"\0", b"\r")) if rng.random() < odd / 2 else b""
    return before + head.encode("latin-1" if rng.random() < 0.5 else "utf-8", "replace") + body


def valid_sip(rng: random.Random, numbers: list[TN]) -> bytes:
    """A request as switches send it; its number may be any."""
    return request(rng, numbers, 0.0)


def odd_sip(rng: random.Random, numbers: list[TN]) -> bytes:
    """A request with something unusual in it, often something wrong."""
    message = request(rng, numbers, rng.choice((0.02, 0.05, 0.05, 0.1, 0.3)))
    if rng.random() < 0.2:
        message = rearranged(rng, message)
    return message


def rearranged(rng: random.Random, message: bytes) -> bytes:
    """Lines dropped, doubled, swapped, folded or joined."""
    lines = message.split(b"\r\n")
    for _ in range(rng.randint(1, 2)):
        at = rng.randrange(len(lines))
        kind = rng.randrange(6)
        if kind == 0 and len(lines) > 1:
            del lines[at]
        elif kind == 1:
            lines.insert(rng.randrange(len(lines) + 1), lines[at])
        elif kind == 2:
            other = rng.randrange(len(lines))
            lines[at], lines[other] = lines[other], lines[at]
        elif kind == 3:
            lines[at] = rng.choice((b" ", b"\t", b"")) + lines[at]
        elif kind == 4:
            lines.insert(at, rng.choice((b"", b" ", b":", b"v", b"x:", b"Via:", b"Via: ,", b"To:", b"CSeq: 1", b"\0")))
        else:
            lines[at] = lines[at][: rng.randint(0, len(lines[at]))]
    return b"\r\n".join(lines)


def large_sip(rng: random.Random, numbers: list[TN]) -> bytes:
    """About as many lines, Vias or bytes as there may be; or very little of a request."""
    kind = rng.randrange(7)
    if kind == 0:
        return rng.choice(
            (b"", b"\r\n", b"\r\n\r\n", b"\0", b"\0" * 4, b"\r\n\0", b"\n", b"\r", b" ", b"\r\n \r\n", b"jaK")
        )
    if kind == 1:
        return b"SIP/2.0 200 OK\r\n" + request(rng, numbers, 0.0)
    if kind == 6:
        # So short that a reply would be more than four times as long.
        start = rng.choice((b"X", b"ACK", b"OPTIONS a SIP/2.0"))
        return start + b"\nv:SIP/2.0/U a" + rng.choice((b"\n\n", b"\n", b";rport\n\n"))
    head, _, body = request(rng, numbers, 0.0).partition(b"\r\n\r\n")
    if kind == 2:
        lines = head.count(b"\r\n")
        more = SIP_LINES_MAX - lines + rng.randint(-2, 3)
        head += b"".join(b"\r\nX-%d: y" % at for at in range(max(more, 0)))
    elif kind == 3:
        values = SIP_VIAS_MAX + rng.randint(-4, 3)
        each = [via.encode() for via in (good_via(rng) for _ in range(max(values, 1)))]
        if rng.random() < 0.5:
            head += b"\r\nVia: " + b", ".join(each)
        else:
            head += b"".join(b"\r\nv: " + via for via in each)
    elif kind == 4:
        total = SIP_DATAGRAM_BYTES_MAX + rng.randint(-3, 3)
        head += b"\r\nX: "
        head += b"y" * (total - len(head) - len(body) - 4)
    else:
        uri = uri_of(rng, numbers)[:60]
        head = f"INVITE {uri} SIP/2.0\nv:SIP/2.0/UDP a\nf:\nt:\ni:\nl:0\nCSeq:1 INVITE".encode("latin-1", "replace")
        return head + rng.choice((b"\n\n", b"\r\n\r\n", b"\n"))
    return head + b"\r\n\r\n" + body
