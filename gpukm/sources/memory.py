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
    """Memory this process may still take: what the system has free, or less where a limit is set on it.

    Control groups of both versions count, with those around them; cached file pages do not count as taken. So does a
    limit on the process's address space (``ulimit -v``).
    """
    proc = Path("/proc")
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    system = re.search(r"MemAvailable:\s+(\d+) kB", _text(proc / "meminfo"))
    if system:
        free = int(system[1]) * 1024
    rooms = [free, *_cgroup_rooms(proc, Path("/sys/fs/cgroup")), *_address_space_rooms(proc)]
    return max(0, min(rooms))


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
        found = re.fullmatch(r"\s*([0-9.]+(?:e\+?[0-9]{1,2})?)\s*([kmgt]i?)?b?\s*", str(size).lower())
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


def batch_bytes(rows: int, row_bytes: int) -> int:
    """A batch as file pages, as decoded, as prepared in float64 and as rounded, and the next one read ahead."""
    return rows * row_bytes * 8


def _cgroup_rooms(proc: Path, mounts: Path) -> list[int]:
    """What each control group with a limit still allows: the process's own and all around it."""
    rooms = []
    for line in _text(proc / "self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            names, mount = ("memory.max", "memory.current", ""), mounts
        elif "memory" in controllers.split(","):
            names, mount = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"), mounts / "memory"
        else:
            continue
        # Inside a container the path may be that of the host, and only the mount itself is there.
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for depth in range(len(parts) + 1):
            rooms += _room(mount.joinpath(*parts[:depth]), *names)
    return rooms


def _room(group: Path, limit_name: str, used_name: str, prefix: str) -> list[int]:
    """What one control group still allows; nothing where it sets no limit."""
    limit, used = _text(group / limit_name).strip(), _text(group / used_name).strip()
    if not (limit.isdecimal() and used.isdecimal()):
        return []
    statistics = _text(group / "memory.stat")
    cached = sum(int(n) for n in re.findall(rf"^{prefix}(?:in)?active_file (\d+)$", statistics, re.MULTILINE))
    return [int(limit) - max(0, int(used) - cached)]


def _address_space_rooms(proc: Path) -> list[int]:
    """What a limit on the address space still allows."""
    try:
        from resource import RLIM_INFINITY, RLIMIT_AS, getrlimit
    except ImportError:
        return []
    limit = getrlimit(RLIMIT_AS)[0]
    size = re.search(r"VmSize:\s+(\d+) kB", _text(proc / "self/status"))
    return [] if limit == RLIM_INFINITY or size is None else [limit - int(size[1]) * 1024]


def _text(path: Path) -> str:
    """A system file's text, empty where there is none."""
    try:
        return path.read_text()
    except OSError:
        return ""
