"""The native engine. Built from `native/`; missing where Rust was at install time."""

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Protocol, Self, TypedDict, final

import numpy as np
import numpy.typing as npt

VERSION: str

# -- store: python/store.rs ------------------------------------------------------------------------------

@final
class Environment:
    """One store open for reading, in the shape of py-lmdb's; opened once in a process, shared with the workers.

    Values are copies, whatever `buffers` says. Errors are py-lmdb's own; those of opening and of `warm` StoreError.
    """

    def __init__(self, path: str, map_size: int) -> None: ...
    def path(self) -> str: ...
    def open_db(self, name: bytes, txn: object = None, create: bool = False) -> Database: ...
    def begin(
        self, db: Database | None = None, parent: None = None, write: bool = False, buffers: bool = False
    ) -> Transaction: ...
    def stat(self) -> dict[str, int]: ...
    def info(self) -> dict[str, int]: ...
    def reader_check(self) -> int: ...
    def set_mapsize(self, map_size: int) -> None:
        """Take the writer's larger map; 0 is the only size. Raises lmdb.MapResizedError while others read."""

    def warm(self) -> tuple[int, list[int]]:
        """Read every page of the newest state: blocks read, numbers of damaged ones. Without the interpreter's lock."""

    def reader(self) -> Reader:
        """A reader as the workers have it, for tests and tools. Raises StoreError."""

    def close(self) -> None:
        """End its transactions and close the files; when workers or readers have them open, the last closes them."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

@final
class Database:
    """A named database of an environment."""

@final
class Transaction:
    """One pinned state, until `abort`; each call raises lmdb.Error after it."""

    def get(self, key: bytes, default: object = None, db: Database | None = None) -> bytes | None: ...
    def cursor(self, db: Database | None = None) -> Cursor: ...
    def stat(self, db: Database) -> dict[str, int]: ...
    def id(self) -> int: ...
    def abort(self) -> None: ...
    def commit(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

@final
class Cursor:
    """A key of a state, and its value; ends with its transaction."""

    def first(self) -> bool: ...
    def last(self) -> bool: ...
    def next(self) -> bool: ...
    def prev(self) -> bool: ...
    def set_range(self, key: bytes) -> bool: ...
    def key(self) -> bytes: ...
    def value(self) -> bytes: ...
    def iternext(self, keys: bool = True, values: bool = True) -> Iterator[object]: ...
    def __iter__(self) -> Iterator[tuple[bytes, bytes]]: ...
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

@final
class Reader:
    """A worker's reader: pinned states, one after another."""

    def pin(self) -> None:
        """Move to the newest commit. Raises StoreError; nothing can be read until a later pin succeeds."""

    def release(self) -> None:
        """Let go of the state until the next pin."""

    def state(self) -> tuple[int, int, int, int | None]:
        """Serial, tables, digest, and when the feed that was confirmed longest ago was."""

    def entry(self, tn: int) -> int | None:
        """A number's entry; None when its block is damaged. Raises StoreError."""

    def route(self, route_id: int) -> tuple[str, str | None, str, int | None, bool] | None: ...
    def range_holder(self, digits: str) -> int | None: ...
    def touches_range(self, digits: str) -> bool:
        """See `store.reader.Reader`."""

    def has_ported_under(self, digits: str) -> bool:
        """See `store.reader.Reader`. digits: 1 to 15, no zero first. Raises StoreError."""

# -- codecs: python/codecs.rs ----------------------------------------------------------------------------

class Plan:
    """A country's numbering plan, as `numbering.Plan` reads it; shared with the workers."""

    def __new__(cls, country_code: str, trunk_prefix: str, heads: list[tuple[int, str, bool]]) -> Plan:
        """heads: digits of the whole number, country code and prefix, whether such numbers can be ported."""

    def digits(self, dialled: bytes) -> bytes | None:
        """The number's E.164 digits; see `numbering.Plan.digits`. dialled: UTF-8."""

    def portable(self, digits: bytes) -> bool | None:
        """Whether a number of its kind can be ported; None if it has no kind. digits: as `digits` gave them."""

    def continues(self, digits: bytes) -> bool:
        """Whether a longer number that can be ported may begin with these digits; see `numbering.Plan.continues`."""

    def covers(self, digits: bytes) -> bool:
        """Whether the number starts with the country code. digits: as `digits` gave them."""

    def is_incomplete(self, digits: bytes) -> bool:
        """Whether it is shorter than any number that can be ported; see `numbering.Plan`. digits: as from `digits`."""

class EnumProfile:
    """How a client is answered by ENUM; shared with the workers."""

    def __new__(
        cls,
        *,
        apexes: Sequence[str],
        services: Sequence[str],
        ttl: int,
        negative_ttl: int,
        domain: str,
        nameservers: list[tuple[str, Sequence[str]]],
        unported: str,
        rn_context: str,
        cic_context: str,
        unmapped_routing_number: str,
        tell: str,
    ) -> EnumProfile:
        """See `profiles.EnumSettings`. Raises ValueError for what `profiles.check_enum` refuses."""

class SipProfile:
    """How a client is answered by SIP; shared with the workers."""

    def __new__(
        cls,
        *,
        status: int,
        form: str,
        npdi: str,
        domain: str,
        unported: str,
        rn_context: str,
        cic_context: str,
        unmapped_routing_number: str,
        tell: bool,
    ) -> SipProfile:
        """See `profiles.SipSettings`. Raises ValueError for a form, or an unported, that there is not."""

class ClientRule(Protocol):
    """One entry of the clients list."""

    @property
    def name(self) -> str: ...
    @property
    def queries_per_second(self) -> int:
        """0 = no limit."""

    @property
    def queries_per_prefix(self) -> int:
        """Over UDP, from the addresses of one prefix; 0 = no limit."""

    @property
    def sources(self) -> list[str]:
        """Networks."""

    @property
    def enum_profile(self) -> EnumProfile: ...
    @property
    def sip_profile(self) -> SipProfile: ...

class Clients:
    """The clients list with its buckets; shared with the workers."""

    def __new__(cls, rules: Sequence[ClientRule]) -> Clients:
        """Raises ValueError for what is no network."""

    def __len__(self) -> int:
        """How many clients."""

    def usage(self) -> list[list[list[int]]]:
        """By client, then by dialect in the order of `counters.DIALECTS`: a `counters.Usage`."""

    def set_tapped(self, tapped: list[bool]) -> None:
        """See `access.Access.set_tapped`."""

    def find(self, host: str) -> int | None:
        """Which client asks from this address; None if it is on no list. Raises ValueError for no address."""

    def set_own(self, host: str | None, port: int = 0) -> None:
        """See `access.Access.set_own`. Raises ValueError for no address."""

    def take(self, client: int, queries: int, now_ns: int, host: str | None = None) -> bool:
        """See `access.Client`. Raises IndexError for no such client."""

def slot(client: int, host: str) -> int:
    """Where a client's allowance for the prefix of an address lies; see `access.slot`."""

def decode_npq(
    message: bytes,
) -> tuple[tuple[int, bool, bool, list[bytes]] | None, tuple[int, int | None, int | None] | None]:
    """Read one `npq` query message: the query, or why it is none; the other one is None.

    The query: id, with names, whether an array was asked, the numbers as dialled. Why not: the place of the reason
    in `model.DROP_REASONS`, and the id and code of the error message, the code None if there is to be none.
    """

def encode_npq(
    message: bytes,
    rows: list[tuple[int | None, int, tuple[str, str | None, str] | None, bool, int, int | None]],
    bytes_max: int,
) -> tuple[bytes, int]:
    """The answer to an `npq` query message, and how many of the answers it holds.

    rows: tn, outcome, (network code, routing number, operator), restricted, serial, age.
    Raises ValueError if the message is no query.
    """

def encode_npq_error(id: int | None, code: int) -> bytes:
    """The `npq` error message."""

def decode_pdb(datagram: bytes, legacy: bool) -> tuple[tuple[int | None, bytes | None, bool] | None, int | None]:
    """Read one `pdb` request: id, number and oddity, or the place of the reason in `model.DROP_REASONS`."""

def encode_pdb(datagram: bytes, carrier_id: int | None) -> bytes:
    """The reply to a `pdb` request of either form. Raises ValueError if it is none."""

# -- serving ---------------------------------------------------------------------------------------------

class Service:
    """What is answered, from which data and to whom; shared by listeners and responders."""

    def __init__(self, store: Environment | None, plan: Plan, stale_after: float, clients: Clients) -> None: ...
    def use_terms(
        self, store: Environment | None, plan: Plan, stale_after: float, clients: Clients, *, withdrawn: bool = False
    ) -> None:
        """Other terms, from the next batch on. withdrawn: answer nothing from the data."""

    def use_tap(self, sample: int, outcomes: int, full: bool) -> None:
        """What the query log notes from the next batch on. sample: one of so many queries; 0 = nothing. outcomes: a bit
        for each of `tap.OUTCOMES`. full: write numbers whole."""

    def drain_tap(self) -> tuple[bytes, int]:
        """The lines of what was noted since the last time, and how many. The interpreter runs on meanwhile."""

    def tap_lost(self) -> int:
        """Records that found no room, since the start."""

    def damaged_blocks(self, serial: int) -> list[int]:
        """Blocks that look-ups found damaged in the state of this serial."""

class Counts:
    """Counts of a listener. latency: by outcome, answers by bucket; bucket i holds what took at most 2^i us, the
    last one what took longer. latency_ns: by outcome, of all its answers."""

    received: int
    odd: int
    other: int
    unreadable: int
    answered: list[int]
    refused: list[int]
    dropped: list[int]
    latency: list[list[int]]
    latency_ns: list[int]

class UdpServer:
    """The workers of one UDP listener: they serve from the moment it is made."""

    def __init__(
        self,
        service: Service,
        dialect: str,
        sockets: list[int],
        *,
        legacy: bool = True,
        unmapped_carrier_id: int = 1000,
        tag_seed: int = 0,
    ) -> None:
        """sockets: descriptors of bound sockets, one a worker; duplicated, the caller closes its own.

        tag_seed: of SIP's To tags, 64 random bits.
        """

    def stop(self) -> None:
        """Answer what has arrived, then end the workers."""

    def counts(self) -> Counts:
        """Of all workers together."""

    def failure(self) -> str | None:
        """Why a worker cannot serve any more; None as long as all can."""

    def offloads(self) -> tuple[bool, bool]:
        """Whether datagrams are joined on receipt (GRO), and replies on sending (GSO)."""

class Responder:
    """Answers messages that Python hands in. Of one state from `begin` to `begin`."""

    def __init__(
        self,
        service: Service,
        dialect: str,
        *,
        answer_bytes_max: int,
        tells_errors: bool,
        legacy: bool = True,
        unmapped_carrier_id: int = 1000,
        tag_seed: int = 0,
    ) -> None:
        """tells_errors: by the rules of TCP."""

    def begin(self, now: int) -> None:
        """Take over the newest terms and pin the newest state. now: Unix seconds."""

    def rest(self) -> None:
        """Hold no state until the next `begin`."""

    def respond(self, message: bytes, client: int, now_ns: int, host: str, port: int) -> bytes | None:
        """The reply to one message, None for silence. client: its place in the clients list. host, port: whence."""

    def reply_port(self) -> int:
        """Where over UDP the last reply goes instead of where its question came from; 0 = there."""

    def respond_many(self, messages: list[bytes], client: int, now_ns: int, host: str, port: int) -> list[bytes | None]:
        """The replies to many messages of one client."""

    def counts(self) -> Counts:
        """Of all messages so far."""

# -- the load tool ---------------------------------------------------------------------------------------

class LoadControl:
    """Stop and progress of a run in another thread."""

    def __init__(self) -> None: ...
    def stop(self) -> None:
        """Ask no more; what is in flight is still waited for."""

    def progress(self) -> tuple[int, int, int]:
        """Queries sent, received and lost until a moment ago."""

class LoadAsked(TypedDict):
    """What to ask. window and rate: one of them is 0. numbers: a file's path; None = first to last. apex: of enum."""

    host: str
    port: int
    tcp: bool
    dialect: str
    apex: str
    numbers: str | None
    first: int
    last: int
    seed: int
    sockets: int
    threads: int
    window: int
    rate: int
    batch: int
    gso: bool
    seconds: float | None
    count: int | None
    timeout: float

class LoadFound(TypedDict):
    """What came of it; latency_ns is None when nothing was answered."""

    sent: int
    received: int
    lost: int
    unsent: int
    late: int
    duplicate: int
    unknown: int
    numbers: int
    turned_away: int
    behind_ns_max: int
    asking_ns: int
    answering_ns: int
    cpu_ns: int
    gso: bool
    gro: bool
    outcomes: dict[str, int]
    latency_ns: dict[str, int] | None
    histogram: list[tuple[int, int]]

def load(asked: LoadAsked, control: LoadControl) -> LoadFound:
    """Ask until time or count is used up or control says stop; the interpreter runs on meanwhile.

    Raises ValueError with the reason when it cannot be asked like that or the file cannot be read, OSError when
    a socket cannot be made or the server not be reached.
    """

def echo(fd: int, gso: bool = False, gro: bool = False, control: LoadControl | None = None) -> int:
    """Send back what arrives on a bound UDP socket until control says stop, or a signal's handler raises.

    The socket becomes blocking, with a receive timeout. gso: join neighbouring replies; gro: take queries joined.
    Returns datagrams sent back. Raises OSError. The interpreter runs on meanwhile.
    """

# -- bulk loading ----------------------------------------------------------------------------------------

class _Source(Protocol):
    def read(self, size: int, /) -> bytes: ...

class LineChunks:
    """A snapshot's text in chunks of whole lines, as `loader.files.line_chunks` yields them."""

    def __init__(
        self, source: _Source, compression: str, piece_bytes: int, line_bytes_max: int, text_bytes_max: int
    ) -> None:
        """compression: "", ".gz" or ".zst". Raises ValueError if it cannot be read here: Python says why."""

    def next_chunk(self) -> bytes | None:
        """The next chunk; None at the end.

        Raises OverflowError when the text grows beyond its bound, ValueError where Python must go on in its stead.
        """

def parse_rows(
    chunk: bytes, columns: tuple[str, ...]
) -> tuple[bytes, bytes, bytes, bytes, bytes, list[str], list[str]] | None:
    """A chunk's rows: tn u64, network i32, donor i32, routing_number i32, ported_at u32, codes, routing numbers.

    Arrays are in native byte order; see `loader.formats.lookupd_columns.RawColumns`. None: not all everyday rows.
    """

def pack_numbers(
    tn: npt.NDArray[np.uint64],
    route: npt.NDArray[np.uint16],
    donor: npt.NDArray[np.uint16],
    ported_at: npt.NDArray[np.uint32],
    sequence: int,
    fingerprints: npt.NDArray[np.uint64],
) -> tuple[list[tuple[bytes, bytes]], list[tuple[bytes, bytes]], int]:
    """Rows of `blocks` and of `details` of whole blocks that were empty, and the sum of their content digests.

    Raises ValueError for columns that do not rise, differ in length, or name a route without a fingerprint.
    """

def unchanged_blocks(
    tn: npt.NDArray[np.uint64],
    route: npt.NDArray[np.uint16],
    donor: npt.NDArray[np.uint16],
    ported_at: npt.NDArray[np.uint32],
    block_rows: list[tuple[bytes, bytes]],
    details_rows: list[tuple[bytes, bytes]],
) -> tuple[bytes, int, int]:
    """Stored blocks that are sound and hold just these numbers, whatever feed position they note.

    Rows: keys and values as stored, in the order of the keys. Returns block numbers (u64), how many numbers they
    hold, and the sum of their content digests. Raises ValueError for columns that do not rise or differ in length.
    """

# -- lists of numbers ------------------------------------------------------------------------------------

class Seen:
    """Which row had a number first, exactly, in 11 bytes a number."""

    def __init__(self, rows_max: int) -> None:
        """rows_max: rows behind it are not remembered."""

    def first(self, tn: int, row: int) -> int:
        """The row that had it before; 0 = none had, and this one is noted."""

class ScannedRows:
    """The rows of a piece of a list, as the engine holds them. serial: of the state they were asked of."""

    count: int
    consumed: int
    skipping: bool
    serial: int

    def odd(self) -> list[tuple[int, int, bool]]:
        """Rows without a number, that Python reads: place, where in the piece it begins, whether it is too long."""

class Batch:
    """Reads pieces of a list, looks their numbers up, and writes them; see `lookupd.batch.worker`."""

    def __init__(
        self, service: Service, plan: Plan, separator: int, column: int, columns: int, is_utf8: bool, rows_max: int
    ) -> None:
        """separator: a byte. column: from 0; columns: how many a row has. rows_max: see Seen."""

    def scan(self, piece: bytes, last: bool, skipping: bool, now: int) -> ScannedRows:
        """The rows of a piece, asked of the newest state. Raises RuntimeError when there is no data to answer from."""

    def resolve(self, scanned: ScannedRows, numbers: list[tuple[int, bytes]]) -> None:
        """Give odd rows that have a number their answers, of the same state: place of the row, and digits."""

    def rest(self) -> None:
        """Let go of the state; the next scan pins the newest."""

    def answers(self, known: int) -> list[tuple[int, tuple[str, str | None, str] | None, bool]]:
        """What was told since `known` answers were: outcome, route, whether restricted.

        Route: network code, routing number, operator.
        """

    def add_ending(self, text: bytes, network: int) -> None:
        """What is added to rows of the next answer, but for number and note; and which network's they are."""

    def remember(self, scanned: ScannedRows, first_row: int) -> None:
        """Only note the numbers of rows that were written before."""

    def write(
        self, scanned: ScannedRows, first_row: int, bad: list[bytes], newline: bytes, none: int, networks: int
    ) -> tuple[bytes, list[bytes], list[int], int]:
        """All rows; those of each network, if networks is not 0; rows by answer; rows that repeat a number.

        bad: what is added to rows without a number, in their order; none: which network's they are. newline: of rows
        that have lost theirs. Raises ValueError if an answer has no ending.
        """
