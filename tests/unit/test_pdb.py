"""The pdb codec and responder against the protocol sheet's own bytes, row by row, and cut at every byte."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lookupd.access import Client
from lookupd.engine import Engine
from lookupd.errors import ProtocolError
from lookupd.fastpath.batch import PdbResponder
from lookupd.limits import PDB_DIGITS_MAX
from lookupd.model import Outcome, UnixSeconds
from lookupd.observe.counters import DROP, RATE, UNAVAILABLE, UNSENT, QueryCounters
from lookupd.protocols import pdb
from lookupd.settings import ClientSettings
from tests.conftest import PLAN, Workbench

REQUEST = bytes.fromhex("01 00 00 13 00 00 38 38 36 39 31 32 33 34 35 30 30 31 00")
"""The sheet's captured request: 886912345001, id 0."""

OK_123 = bytes.fromhex("01 01 01 15 00 00 38 38 36 39 31 32 33 34 35 30 30 31 00 00 7b")
OK_1000 = bytes.fromhex("01 01 01 15 12 34 38 38 36 39 31 32 33 34 35 30 30 31 00 03 e8")
NOT_FOUND_1 = bytes.fromhex("01 01 03 06 00 01")
NOT_NUMBER_2 = bytes.fromhex("01 01 02 06 00 02")
CONFIRMED_AT = 1_790_000_000


def request(payload: bytes, query_id: int = 7, *, kind: int = 0, code: int = 0, length: int | None = None) -> bytes:
    """A version 1 message around a payload, its length byte true unless told otherwise."""
    true_length = 6 + len(payload)
    return pdb.HEADER.pack(1, kind, code, true_length & 0xFF if length is None else length, query_id) + payload


def refusal(datagram: bytes, *, legacy: bool = True) -> str:
    with pytest.raises(ProtocolError) as caught:
        pdb.decode_query(datagram, legacy=legacy)
    return caught.value.reason


# -- the codec: section 3, captured on the wire ----------------------------------------------------------


def test_captured_request_is_read() -> None:
    assert pdb.decode_query(REQUEST) == pdb.PdbQuery(0, "886912345001", False)
    assert pdb.encode_query("886912345001", 0) == REQUEST


@pytest.mark.parametrize(
    ("query", "carrier_id", "reply", "answer"),
    [
        (pdb.PdbQuery(0, "886912345001", False), 123, OK_123, pdb.PdbAnswer(0, 1, "886912345001", 123)),
        (pdb.PdbQuery(0x1234, "886912345001", False), 1000, OK_1000, pdb.PdbAnswer(0x1234, 1, "886912345001", 1000)),
        (pdb.PdbQuery(1, "886912345002", False), None, NOT_FOUND_1, pdb.PdbAnswer(1, 3, "", None)),
        (pdb.PdbQuery(2, None, False), None, NOT_NUMBER_2, pdb.PdbAnswer(2, 2, "", None)),
        (pdb.PdbQuery(2, None, False), 123, NOT_NUMBER_2, pdb.PdbAnswer(2, 2, "", None)),
    ],
)
def test_captured_reply_is_written_and_read(
    query: pdb.PdbQuery, carrier_id: int | None, reply: bytes, answer: pdb.PdbAnswer
) -> None:
    assert pdb.encode_answer(query, carrier_id) == reply
    assert pdb.decode_answer(reply) == answer


# -- the codec: section 4, the older form ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("datagram", "carrier_id", "digits", "reply"),
    [
        (REQUEST[6:], 123, "886912345001", OK_123[6:]),
        (b"4420\0", None, "4420", bytes.fromhex("34 34 32 30 00 00 00")),
        (b"886912x5", 12, "886912", bytes.fromhex("38 38 36 39 31 32 00 00 0c")),
        (b"886912", 12, "886912", bytes.fromhex("38 38 36 39 31 32 00 00 0c")),
        (b"0\0\0\0\0", None, "0", bytes.fromhex("30 00 00 00")),
        (b"9\xff\xff", None, "9", bytes.fromhex("39 00 00 00")),
    ],
)
def test_older_form_is_answered_in_its_own_form(
    datagram: bytes, carrier_id: int | None, digits: str, reply: bytes
) -> None:
    query = pdb.decode_query(datagram)
    assert query == pdb.PdbQuery(None, digits, False)
    assert pdb.encode_answer(query, carrier_id) == reply
    assert refusal(datagram, legacy=False) == "not_a_query"


@pytest.mark.parametrize("rest", [b"", REQUEST[1:], b"886912345001\0"])
def test_other_first_byte_is_not_a_query(rest: bytes) -> None:
    for first in set(range(256)) - {1, *b"0123456789"}:
        assert refusal(bytes([first]) + rest) == "not_a_query"
        assert refusal(bytes([first]) + rest, legacy=False) == "not_a_query"


@pytest.mark.parametrize(("digits", "fits"), [(1, True), (251, True), (252, True), (253, False), (60_000, False)])
def test_older_form_has_an_echo_up_to_252_digits(digits: int, fits: bool) -> None:
    for behind in (b"", b"\0", b"\0" + b"7" * 300):
        if not fits:
            assert refusal(b"8" * digits + behind) == "too_long"
            continue
        query = pdb.decode_query(b"8" * digits + behind)
        assert query.number == "8" * digits
        assert len(pdb.encode_answer(query, 5)) == digits + 3 <= 255


# -- the codec: section 7 and every byte -----------------------------------------------------------------


def test_request_cut_at_any_byte_is_malformed() -> None:
    for length in range(len(REQUEST)):
        assert refusal(REQUEST[:length]) == "malformed"
        assert refusal(REQUEST[:length], legacy=False) == "malformed"


@pytest.mark.parametrize("behind", [b"\0", b"5", b"\xff" * 7, REQUEST, b"\0" * 65_000])
def test_bytes_behind_the_zero_byte_are_not_looked_at(behind: bytes) -> None:
    query = pdb.decode_query(REQUEST + behind)
    assert query == pdb.PdbQuery(0, "886912345001", True)
    assert pdb.encode_answer(query, 123) == OK_123


def test_wrong_length_byte_is_told_and_nothing_else() -> None:
    for length in range(256):
        query = pdb.decode_query(REQUEST[:3] + bytes([length]) + REQUEST[4:])
        assert query == pdb.PdbQuery(0, "886912345001", length != len(REQUEST))


def test_type_other_than_request_is_not_a_query() -> None:
    for kind in range(1, 256):
        assert refusal(REQUEST[:1] + bytes([kind]) + REQUEST[2:]) == "not_a_query"
        assert refusal(OK_123[:1] + bytes([kind]) + OK_123[2:]) == "not_a_query"


@pytest.mark.parametrize("code", [1, 2, 3, 255])
def test_code_of_a_request_is_not_looked_at(code: int) -> None:
    assert pdb.decode_query(request(b"110\0", code=code)) == pdb.PdbQuery(7, "110", False)


@pytest.mark.parametrize("query_id", [0, 1, 255, 256, 0x1234, 65_535])
def test_id_comes_back_as_it_was_sent(query_id: int) -> None:
    query = pdb.decode_query(request(b"110\0", query_id))
    assert query.id == query_id
    for found in (1, None):
        assert pdb.encode_answer(query, found)[4:6] == request(b"", query_id)[4:6]


@pytest.mark.parametrize(
    ("payload", "number"),
    [
        (b"\0", ""),
        (b"8\0", "8"),
        (b"8" * 31 + b"\0", "8" * 31),
        (b"8" * PDB_DIGITS_MAX + b"\0", "8" * 32),
        (b"8" * 33 + b"\0", ""),
        (b"8" * 246 + b"\0", ""),
        (b"8" * 60_000 + b"\0", ""),
        (b"+886912345001\0", None),
        (b"88691234500a\0", None),
        (b"8869 12345001\0", None),
        (b"886912345001;rn=5\0", None),
        (b"\xb2\xb3\0", None),
        (b"x" * PDB_DIGITS_MAX + b"\0", None),
        (b"x" * 33 + b"\0", ""),
    ],
)
def test_payload_is_a_number_or_none(payload: bytes, number: str | None) -> None:
    assert pdb.decode_query(request(payload)).number == number


def test_only_ascii_digits_are_a_number() -> None:
    for byte in range(1, 256):
        for payload in (b"%c", b"88%c", b"%c88"):
            number = payload % byte
            found = pdb.decode_query(request(number + b"\0")).number
            assert found == (number.decode() if byte in b"0123456789" else None)


# -- the codec: replies as a client reads them -----------------------------------------------------------


@pytest.mark.parametrize("reply", [OK_123, OK_1000, NOT_FOUND_1, NOT_NUMBER_2], ids=lambda reply: reply.hex(" "))
def test_reply_cut_anywhere_or_with_bytes_behind_it_is_malformed(reply: bytes) -> None:
    wrong = [reply[:length] for length in range(len(reply))] + [reply + b"\0", reply * 2]
    for datagram in wrong:
        with pytest.raises(ProtocolError, match="malformed"):
            pdb.decode_answer(datagram)


@pytest.mark.parametrize(
    "reply",
    [
        REQUEST,
        b"\x02" + OK_123[1:],
        b"\x00" + OK_123[1:],
        OK_123[:1] + b"\x02" + OK_123[2:],
        OK_123[:3] + b"\x14" + OK_123[4:],
        request(b"110\0\0", kind=1, code=1),
        request(b"110\0\0\0\0", kind=1, code=1),
        request(b"\0\0\x7b", kind=1, code=1),
        request(b"11x\0\0\x7b", kind=1, code=1),
        request(b"110", kind=1, code=1),
    ],
    ids=lambda reply: reply.hex(" "),
)
def test_what_is_no_reply_is_malformed(reply: bytes) -> None:
    with pytest.raises(ProtocolError, match="malformed"):
        pdb.decode_answer(reply)


@pytest.mark.parametrize("carrier_id", [1, 101, 999, 1000, 1001, 32_767])
def test_carrier_id_survives_the_round_trip(carrier_id: int) -> None:
    reply = pdb.encode_answer(pdb.decode_query(REQUEST), carrier_id)
    assert pdb.decode_answer(reply).carrier_id == carrier_id
    assert reply[3] == len(reply) == 21


# -- the responder on a real store: section 7, row by row ------------------------------------------------


class Bench:
    """A responder on the sample store, and what it counted."""

    def __init__(self, engine: Engine, *, legacy: bool = True) -> None:
        self.engine = engine
        self.counters = QueryCounters("pdb", "udp")
        self.responder = PdbResponder(engine, self.counters, legacy=legacy, unmapped_carrier_id=1000)
        self.client = Client(ClientSettings("test", ()))

    def ask(self, datagram: bytes, client: Client | None = None) -> bytes | None:
        reply = self.responder.respond(datagram, client or self.client, 1_000_000_000, ("127.0.0.1", 5000))
        assert self.counters.balance() == 0
        return reply


@pytest.fixture
def engine(workbench: Workbench) -> Iterator[Engine]:
    """On the sample store, at the last moment before its data is stale."""
    workbench.load_tables()
    workbench.snapshot(now=CONFIRMED_AT)
    engine = Engine(PLAN, stale_after=60)
    with workbench.reader() as reader:
        engine.reader = reader
        engine.begin(UnixSeconds(CONFIRMED_AT + 60))
        yield engine


def ok(number: str, carrier_id: int, query_id: int = 7) -> bytes:
    payload = number.encode() + b"\0" + carrier_id.to_bytes(2, "big")
    return bytes([1, 1, 1, 6 + len(payload)]) + query_id.to_bytes(2, "big") + payload


NOT_FOUND = bytes.fromhex("01 01 03 06 00 07")
NOT_NUMBER = bytes.fromhex("01 01 02 06 00 07")

ANSWERED = [
    # known
    (request(b"886912345678\0"), ok("886912345678", 102), Outcome.PORTED),
    (request(b"886912345679\0"), ok("886912345679", 101), Outcome.PORTED),
    (request(b"886923456789\0"), ok("886923456789", 101), Outcome.PORTED),
    (request(b"0912345678\0"), ok("0912345678", 102), Outcome.PORTED),
    (request(b"886912345678\0", 65_535), ok("886912345678", 102, 65_535), Outcome.PORTED),
    (request(b"886912345678\0", 0), ok("886912345678", 102, 0), Outcome.PORTED),
    # known, of a network without a carrier id
    (request(b"886223450000\0"), ok("886223450000", 1000), Outcome.PORTED),
    (request(b"886912999999\0"), ok("886912999999", 1000), Outcome.NOT_PORTED),
    # the range holder's id
    (request(b"886911000000\0"), ok("886911000000", 101), Outcome.NOT_PORTED),
    (request(b"886920000000\0"), ok("886920000000", 102), Outcome.NOT_PORTED),
    # unknown
    (request(b"886931000000\0"), NOT_FOUND, Outcome.NOT_ALLOCATED),
    (request(b"110\0"), NOT_FOUND, Outcome.NOT_PORTABLE),
    (request(b"81312345678\0"), NOT_FOUND, Outcome.NOT_PORTABLE),
    (request(b"8" * 15 + b"\0"), NOT_FOUND, Outcome.NOT_PORTABLE),
    (request(b"8" * 16 + b"\0"), NOT_FOUND, Outcome.NOT_PORTABLE),
    (request(b"8" * 32 + b"\0"), NOT_FOUND, Outcome.NOT_PORTABLE),
    (request(b"8" * 33 + b"\0"), NOT_FOUND, Outcome.NOT_PORTABLE),
    (request(b"8" * 248 + b"\0"), NOT_FOUND, Outcome.NOT_PORTABLE),
    # empty
    (request(b"\0"), NOT_FOUND, Outcome.NOT_PORTABLE),
    # no number
    (request(b"+886912345678\0"), NOT_NUMBER, Outcome.NOT_PORTABLE),
    (request(b"88691234567x\0"), NOT_NUMBER, Outcome.NOT_PORTABLE),
    (request(b"x" * 32 + b"\0"), NOT_NUMBER, Outcome.NOT_PORTABLE),
    # bytes behind the zero byte
    (request(b"886912345678\0junk"), ok("886912345678", 102), Outcome.PORTED),
    # the older form
    (b"886912345678\0", b"886912345678\0\0\x66", Outcome.PORTED),
    (b"886912345678", b"886912345678\0\0\x66", Outcome.PORTED),
    (b"886223450000\0", b"886223450000\0\x03\xe8", Outcome.PORTED),
    (b"886931000000\0", b"886931000000\0\0\0", Outcome.NOT_ALLOCATED),
    (b"4420\0", b"4420\0\0\0", Outcome.NOT_PORTABLE),
    (b"8" * 252 + b"\0", b"8" * 252 + b"\0\0\0", Outcome.NOT_PORTABLE),
]


@pytest.mark.parametrize(("datagram", "reply", "outcome"), ANSWERED, ids=lambda value: repr(value)[:50])
def test_request_is_answered_as_the_sheet_says(engine: Engine, datagram: bytes, reply: bytes, outcome: Outcome) -> None:
    bench = Bench(engine)
    assert bench.ask(datagram) == reply
    assert [at for at, count in enumerate(bench.counters.answered) if count] == [outcome]
    assert bench.counters.odd == 0
    bench.responder.take_back(0, 1)
    assert (sum(bench.counters.answered), bench.counters.dropped[UNSENT], bench.counters.balance()) == (0, 1, 0)


@pytest.mark.parametrize(
    ("datagram", "reason"),
    [
        (b"", "malformed"),
        (b"\x01", "malformed"),
        (request(b""), "malformed"),
        (request(b"886912345678"), "malformed"),
        (request(b"8" * 60_000), "malformed"),
        (OK_123, "not_a_query"),
        (OK_1000, "not_a_query"),
        (NOT_FOUND_1, "malformed"),
        (NOT_FOUND_1 + b"\0", "not_a_query"),
        (request(b"886912345678\0", kind=1), "not_a_query"),
        (request(b"886912345678\0", kind=2), "not_a_query"),
        (b"\x00" + REQUEST[1:], "not_a_query"),
        (b"\x02" + REQUEST[1:], "not_a_query"),
        (b"+886912345678\0", "not_a_query"),
        (b"\0" * 19, "not_a_query"),
        (b"8" * 253, "too_long"),
    ],
    ids=lambda value: repr(value)[:50],
)
def test_what_is_no_request_gets_silence_and_is_counted(engine: Engine, datagram: bytes, reason: str) -> None:
    bench = Bench(engine)
    assert bench.ask(datagram) is None
    assert [at for at, count in enumerate(bench.counters.dropped) if count] == [DROP[reason]]


def test_own_replies_sent_back_get_silence(engine: Engine) -> None:
    bench = Bench(engine)
    for datagram, reply, _ in ANSWERED:
        if datagram[0] == 1:
            assert bench.ask(reply) is None
    assert sum(bench.counters.answered) == 0


@pytest.mark.parametrize("length", [0, 5, 18, 20, 255])
def test_wrong_length_byte_is_answered_and_counted(engine: Engine, length: int) -> None:
    bench = Bench(engine)
    assert bench.ask(request(b"886912345678\0", length=length)) == ok("886912345678", 102)
    assert bench.counters.odd == 1


def test_older_form_gets_silence_where_it_is_not_served(engine: Engine) -> None:
    bench = Bench(engine, legacy=False)
    assert bench.ask(b"886912345678\0") is None
    assert bench.ask(request(b"886912345678\0")) == ok("886912345678", 102)
    assert bench.counters.dropped[DROP["not_a_query"]] == 1


def test_stale_data_gets_silence_even_for_what_is_no_number(engine: Engine) -> None:
    bench = Bench(engine)
    engine.begin(UnixSeconds(CONFIRMED_AT + 61))
    for datagram, _, _ in ANSWERED:
        assert bench.ask(datagram) is None
    assert bench.counters.dropped[UNAVAILABLE] == len(ANSWERED)
    engine.begin(UnixSeconds(CONFIRMED_AT + 60))
    assert bench.ask(request(b"110\0")) == NOT_FOUND


def test_no_store_gets_silence() -> None:
    engine = Engine(PLAN)
    engine.begin(UnixSeconds(CONFIRMED_AT))
    bench = Bench(engine)
    for datagram, _, _ in ANSWERED:
        assert bench.ask(datagram) is None
    assert bench.counters.dropped[UNAVAILABLE] == len(ANSWERED)


def test_client_over_its_rate_gets_silence(engine: Engine) -> None:
    bench = Bench(engine)
    client = Client(ClientSettings("slow", (), queries_per_second=2))
    replies = [bench.ask(request(b"110\0"), client) for _ in range(5)]
    assert replies == [NOT_FOUND, NOT_FOUND, None, None, None]
    assert bench.counters.refused[RATE] == 3
