"""The native engine: see native/src/python/."""

from typing import TypedDict

VERSION: str

# -- the load tool ---------------------------------------------------------------------------------------

class LoadControl:
    """Stop and progress of a run in another thread."""

    def __init__(self) -> None: ...
    def stop(self) -> None:
        """Ask no more; what is in flight is still waited for."""

    def progress(self) -> tuple[int, int, int]:
        """Queries sent, received and lost until a moment ago."""

class LoadAsked(TypedDict):
    """What to ask. window and rate: one of them is 0. numbers: a file's path; None = first to last."""

    host: str
    port: int
    tcp: bool
    dialect: str
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
