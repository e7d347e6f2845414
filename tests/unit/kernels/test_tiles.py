"""Tiles of the Triton screen: the table, and what was found on a machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from gpukm_kernels.triton import tiles as module
from gpukm_kernels.triton.tiles import Tiles, candidates, keep, key, table, tiles

HOPPER = (9, 0)


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file that tiles are kept in."""
    monkeypatch.setenv("GPUKM_CACHE_DIR", str(tmp_path))
    module._found.cache_clear()
    yield tmp_path / "tiles.json"
    module._found.cache_clear()


@pytest.mark.parametrize("capability", [(7, 5), (8, 0), (8, 6), (9, 0), (12, 0)])
@pytest.mark.parametrize("stored", ["float16", "float32"])
def test_the_table_holds_sound_tiles(capability: tuple[int, int], stored: str) -> None:
    for d in (1, 2, 16, 17, 64, 100, 128, 300, 5000):
        assert table(capability, stored, d).sound


@pytest.mark.parametrize("shared", [99 << 10, 227 << 10])
def test_candidates_fit(shared: int) -> None:
    for d in (16, 64, 512):
        made = candidates("float16", d, shared)
        assert 5 < len(made) == len(set(made)) and all(t.sound for t in made)
        assert all(2 * t.features * t.centroids * t.stages <= shared for t in made)


def test_what_was_found_goes_before_the_table(kept: Path) -> None:
    ours, theirs = Tiles(64, 32, 16, 4, 2), Tiles(32, 16, 16, 4, 2)
    assert tiles("NVIDIA H200", HOPPER, "float16", 100) == table(HOPPER, "float16", 100)
    assert keep({key("NVIDIA H200", "float16", 100): ours}) == kept
    keep({key("NVIDIA A100", "float16", 100): theirs})
    for d in (65, 100, 128):
        assert tiles("NVIDIA H200", HOPPER, "float16", d) == ours
    for d in (64, 129):
        assert tiles("NVIDIA H200", HOPPER, "float16", d) == table(HOPPER, "float16", d)
    assert tiles("NVIDIA A100", HOPPER, "float16", 100) == theirs
    assert tiles("NVIDIA H200", HOPPER, "float32", 100) == table(HOPPER, "float32", 100)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", "3", json.dumps({"NVIDIA H200 float16 128": [1]}), json.dumps({"NVIDIA H200 float16 128": "x"})],
)
def test_a_file_that_holds_something_else_is_passed_over(kept: Path, text: str) -> None:
    kept.write_text(text)
    assert tiles("NVIDIA H200", HOPPER, "float16", 128) == table(HOPPER, "float16", 128)


@pytest.mark.parametrize("numbers", [(3, 64, 64, 4, 2), (64, 512, 64, 4, 2), (64, 64, 64, 5, 2), ("64", 64, 64, 4, 2)])
def test_tiles_that_no_kernel_takes_are_passed_over(kept: Path, numbers: tuple[int, ...]) -> None:
    kept.write_text(json.dumps({"NVIDIA H200 float16 128": numbers}))
    assert tiles("NVIDIA H200", HOPPER, "float16", 128) == table(HOPPER, "float16", 128)
