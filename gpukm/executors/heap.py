"""What a process that works for others does with memory it has freed."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from functools import cache

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_TRIM_BYTES, _MMAP_BYTES = 1 << 28, 1 << 25


@cache
def keep_freed_memory() -> None:
    """Have the C library keep freed memory for the next block of rows; other libraries than glibc are left alone.

    Dask's nannies start workers with ``MALLOC_TRIM_THRESHOLD_=65536``. Then every temporary of a block goes back to the
    system at once, and is fetched again, page by page, for the next one; and glibc, told a threshold, no longer learns
    one by itself.
    """
    # No mallopt, or no C library by itself: what is not glibc.
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _TRIM_BYTES)
