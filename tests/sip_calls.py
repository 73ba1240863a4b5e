"""SIP requests as tests write them, and answers as they read them."""

from __future__ import annotations

import re
from typing import NamedTuple

NUMBER = "+886912345678"


def request(
    uri: str = f"sip:{NUMBER}@127.0.0.1:5060;user=phone",
    method: str = "INVITE",
    *,
    via: str | None = "SIP/2.0/UDP 127.0.0.1:15999;rport;branch=z9hG4bK-1",
    cseq: str | None = None,
    call_id: str | None = "1@127.0.0.1",
    from_field: str | None = "<sip:+886223456789@127.0.0.1>;tag=c1",
    to_field: str | None = "<sip:+886912345678@127.0.0.1>",
    version: str = "SIP/2.0",
    more: tuple[str, ...] = (),
    body: str = "",
    length: str | None = "",
    line_end: str = "\r\n",
) -> bytes:
    """A request; None leaves a field out, and length "" is the body's own."""
    fields = {
        "Via": via,
        "From": from_field,
        "To": to_field,
        "Call-ID": call_id,
        "CSeq": f"1 {method}" if cseq is None else cseq or None,
    }
    lines = [f"{method} {uri} {version}"]
    lines += [f"{name}: {value}" for name, value in fields.items() if value is not None]
    lines += more
    if length is not None:
        lines.append(f"Content-Length: {length or len(body.encode('latin-1'))}")
    return (line_end.join([*lines, "", ""]) + body).encode("latin-1")


class Reply(NamedTuple):
    """One answer. fields: by name as it was sent, with every value in order."""

    status: int
    reason: str
    fields: dict[str, list[str]]

    def one(self, name: str) -> str:
        """The value of a field that must stand once."""
        (value,) = self.fields[name]
        return value

    @property
    def contact(self) -> str:
        """Its Contact."""
        return self.one("Contact")


_STATUS_LINE = re.compile(r"SIP/2\.0 ([1-6][0-9][0-9]) ([A-Za-z ]+)")
_FIELD_LINE = re.compile(r"([A-Z][A-Za-z-]*): ([^ \t]|[^ \t].*[^ \t])", re.DOTALL)


def read_reply(reply: bytes | None) -> Reply:
    """Read an answer strictly: every line as RFC 3261 wants it, no body, nothing behind."""
    assert reply is not None
    head, end, rest = reply.decode("latin-1").partition("\r\n\r\n")
    assert end, reply
    assert not rest, reply
    status_line, *lines = head.split("\r\n")
    status = _STATUS_LINE.fullmatch(status_line)
    assert status is not None, status_line
    fields: dict[str, list[str]] = {}
    for line in lines:
        found = _FIELD_LINE.fullmatch(line)
        assert found is not None, line
        assert not re.search(r"[\x00-\x08\x0a-\x1f]", line), line
        fields.setdefault(found[1], []).append(found[2])
    assert fields["Content-Length"] == ["0"]
    assert lines[-1] == "Content-Length: 0"
    return Reply(int(status[1]), status[2], fields)
