"""How much memory there is, and how many rows to read at a time."""

from __future__ import annotations

import os
import re
from pathlib import Path

from gpukm.errors import ConfigError

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
#: Rows exist as file pages, decoded columns, assembled matrix and the batch read ahead.
_COPIES = 6
_LARGEST_BATCH_ROWS = 1 << 18
_LARGEST_BATCH_BYTES = 1 << 28


def available_bytes() -> int:
    """Memory this process may still take: what the system has free, or less where a control group sets a limit."""
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        found = re.search(r"MemAvailable:\s+(\d+) kB", meminfo.read_text())
        if found:
            free = int(found[1]) * 1024
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            room = int(Path(limit).read_text()) - int(Path(used).read_text())
        except (OSError, ValueError):
            continue
        free = min(free, max(room, 0))
    return free


def parse_bytes(size: int | str) -> int:
    """A number of bytes from an integer or text such as ``"2GB"``, ``"512 MiB"`` or ``"1e9"``.

    Raises
    ------
    ConfigError
        The text is something else, or not positive.
    """
    if isinstance(size, int) and not isinstance(size, bool):
        n = size
    else:
        found = re.fullmatch(r"\s*([0-9.]+(?:e[0-9]+)?)\s*([kmgt]i?)?b?\s*", str(size).lower())
        try:
            n = int(float(found[1]) * _UNITS[found[2] or ""]) if found else 0
        except ValueError:
            n = 0
    if n < 1:
        raise ConfigError(f"{size!r} is not an amount of memory, expected something like 2GB or 512MiB")
    return n


def batch_rows(limit_bytes: int, row_bytes: int, fixed_bytes: int) -> int:
    """Rows to read at a time so that a pass stays within the limit.

    Parameters
    ----------
    limit_bytes : int
        For everything.
    row_bytes : int
        Of one row in working dtype.
    fixed_bytes : int
        What is held besides: centroids, sums.

    Returns
    -------
    int
        From 1 to 2**18.
    """
    room = max(limit_bytes - fixed_bytes, limit_bytes // 4)
    room = min(room // _COPIES, _LARGEST_BATCH_BYTES)
    return int(max(1, min(room // max(1, row_bytes), _LARGEST_BATCH_ROWS)))
