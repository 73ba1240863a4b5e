"""Memory that bulk steps free and take again a moment later: kept, instead of given back to the kernel each time."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
_KEPT_BYTES = 256 * 1024 * 1024


def keep_freed_memory() -> None:
    """For a command that ends soon. Parsing makes and drops arrays of a few hundred kB, which glibc maps and
    unmaps: of 20 million rows that was 4 of 10 seconds in the kernel. Does nothing where there is no glibc."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_MMAP_THRESHOLD, 32 * 1024 * 1024)  # the most that glibc takes
    mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
