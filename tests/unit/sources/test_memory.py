from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gpukm.errors import ConfigError
from gpukm.sources import memory
from gpukm.sources.memory import available_bytes, batch_rows, parse_bytes

GB = 10**9


@pytest.mark.parametrize(
    ("text", "n"),
    [
        (5, 5),
        ("5", 5),
        ("2GB", 2 * GB),
        ("2 gb", 2 * GB),
        ("1.5g", 1.5 * GB),
        ("512MiB", 512 << 20),
        (" 512 Mi ", 512 << 20),
        ("3TB", 3000 * GB),
        ("8k", 8000),
        ("100B", 100),
        ("1e9", GB),
        ("2e3kb", 2_000_000),
    ],
)
def test_sizes(text: int | str, n: float) -> None:
    assert parse_bytes(text) == n


@pytest.mark.parametrize(
    "text", ["", "GB", "much", "-1", "0", 0, -5, "1..5GB", "2PB", "nan", "inf", True, "1e999", "2 G B"]
)
def test_other_texts_are_no_sizes(text: int | str) -> None:
    with pytest.raises(ConfigError, match="expected something like 2GB"):
        parse_bytes(text)


def test_there_is_some_memory() -> None:
    assert 1 << 20 < available_bytes() < 1 << 50


def _tree(tmp_path: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)


def test_control_groups_of_version_2_and_those_around_them(tmp_path: Path) -> None:
    _tree(
        tmp_path,
        {
            "proc/self/cgroup": "0::/pod/box\n",
            "fs/pod/box/memory.max": "max\n",
            "fs/pod/box/memory.current": "77\n",
            "fs/pod/memory.max": "1000\n",
            "fs/pod/memory.current": "900\n",
            # Cached file pages give way.
            "fs/pod/memory.stat": "anon 200\ninactive_file 300\nactive_file 350\nworkingset_refault_file 9\n",
        },
    )
    assert memory._cgroup_rooms(tmp_path / "proc", tmp_path / "fs") == [750]


def test_control_groups_of_version_1(tmp_path: Path) -> None:
    _tree(
        tmp_path,
        {
            "proc/self/cgroup": "5:cpu:/x\n4:memory:/host/path\n0::/\n",
            "fs/memory/memory.limit_in_bytes": "1000\n",
            "fs/memory/memory.usage_in_bytes": "600\n",
            "fs/memory/memory.stat": "inactive_file 1\ntotal_inactive_file 100\ntotal_active_file 50\n",
        },
    )
    assert memory._cgroup_rooms(tmp_path / "proc", tmp_path / "fs") == [550]


def test_no_control_groups(tmp_path: Path) -> None:
    assert memory._cgroup_rooms(tmp_path, tmp_path) == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_limited_address_space_counts() -> None:
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30));"
        "from gpukm.sources.memory import available_bytes; print(available_bytes())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0 < int(done.stdout) < 3 << 30


def test_batches_fit_into_the_limit() -> None:
    assert batch_rows(6 * GB, 800, 0) == 1 << 18
    assert batch_rows(60 << 20, 1 << 10, 0) == 10 << 10
    # What is held besides takes its part, but never all.
    assert batch_rows(60 << 20, 1 << 10, 30 << 20) == 5 << 10
    assert batch_rows(60 << 20, 1 << 10, 1 << 40) == (15 << 20) // 6 >> 10
    assert batch_rows(1, 1 << 30, 0) == 1
    assert batch_rows(GB, 0, 0) == 1 << 18
