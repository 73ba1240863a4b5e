"""Lists of numbers: a file of rows in, the same rows with their networks out.

Options, sockets and jobs are left to who calls `run_batch`.
"""

from lookupd.batch.model import (
    BadRow,
    BatchOptions,
    BatchSummary,
    Progress,
    Resolved,
    Resolver,
    SerialSpan,
    Verdict,
)
from lookupd.batch.run import run_batch

__all__ = [
    "BadRow",
    "BatchOptions",
    "BatchSummary",
    "Progress",
    "Resolved",
    "Resolver",
    "SerialSpan",
    "Verdict",
    "run_batch",
]
