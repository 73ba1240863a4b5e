"""The native engine, where the package was built with Rust. Otherwise importing it raises ImportError."""

VERSION: str
"""Of the crate."""

# -- codecs.rs: the numbering plan, the clients list, and the codecs for the tests of parity ------------------------

class Plan:
    """A country's numbering plan, as `numbering.Plan` reads it; shared with the workers."""

    def __new__(cls, country_code: str, trunk_prefix: str, heads: list[tuple[int, str, bool]]) -> Plan:
        """heads: digits of the whole number, country code and prefix, whether such numbers can be ported."""

    def digits(self, dialled: bytes) -> bytes | None:
        """The number's E.164 digits; see `numbering.Plan.digits`. dialled: UTF-8."""

    def portable(self, digits: bytes) -> bool | None:
        """Whether a number of its kind can be ported; None if it has no kind. digits: as `digits` gave them."""

    def covers(self, digits: bytes) -> bool:
        """Whether the number starts with the country code. digits: as `digits` gave them."""

class Clients:
    """The clients list with its buckets; shared with the workers."""

    def __new__(cls, rules: list[tuple[int, list[str]]]) -> Clients:
        """rules: queries a second (0 = no limit) and networks. Raises ValueError for what is no network."""

    def __len__(self) -> int:
        """How many clients."""

    def find(self, host: str) -> int | None:
        """Which client asks from this address; None if it is on no list. Raises ValueError for no address."""

    def take(self, client: int, queries: int, now_ns: int) -> bool:
        """See `access.Bucket`. Raises IndexError for no such client."""

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
