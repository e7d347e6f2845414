"""Copies to a device, with a driver that carries them out as late as it may (tests/native/libcuda.cpp)."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from gpukm_kernels.cuda import copies

from tests.unit.kernels.test_cuda_driver import FakeDriver, fake_driver

MAIN = 0x55


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeDriver]:
    with fake_driver(tmp_path) as made:
        yield made
        # What a failed copy leaves behind is given back to the driver that it came from, not to the next test's.
        gc.collect()


class Memory:
    """Memory of the host that stands for the device's; counts what is asked for."""

    made = 0

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        self.made += 1
        return np.full(shape, 77, dtype)


def arrived(
    blocks: Iterator[tuple[np.ndarray | None, ...]], staging: copies.Staging | None = None, memory: Memory | None = None
) -> list[list[np.ndarray | None]]:
    """What the main stream sees of every block."""
    found = []
    staging, memory = staging or copies.Staging(0), memory or Memory()
    for block in staging.staged(blocks, lambda: MAIN, memory.empty, lambda a: a.ctypes.data):
        found.append([None if array is None else array.copy() for array in block])
    return found


def made(rng: np.random.Generator, sizes: list[int]) -> list[tuple[np.ndarray | None, ...]]:
    """Blocks of rows and weights."""
    return [(rng.normal(size=(n, 5)).astype(np.float32), None, rng.random(n)) for n in sizes]


@pytest.mark.parametrize("sizes", [[], [3], [4, 4], [9, 2, 0, 9, 7, 11, 1]])
def test_blocks_arrive_as_they_were(fake: FakeDriver, sizes: list[int]) -> None:
    blocks = made(np.random.default_rng(0), sizes)
    found = arrived(iter(blocks))
    assert len(found) == len(blocks)
    for ours, theirs in zip(found, blocks, strict=True):
        assert theirs[1] is None and ours[1] is None
        np.testing.assert_array_equal(ours[0], theirs[0])
        np.testing.assert_array_equal(ours[2], theirs[2])
    gc.collect()
    assert (fake.depth, fake.streams, fake.events, fake.held) == (0, 0, 0, 0)


def test_a_source_may_use_its_memory_again(fake: FakeDriver) -> None:
    """A block may change once the one after the next is asked for."""
    rng = np.random.default_rng(1)
    memory, expected = [np.empty((40, 3)) for _ in range(3)], []

    def blocks() -> Iterator[tuple[np.ndarray]]:
        for number in range(9):
            to = memory[number % 3]
            to[:] = rng.normal(size=to.shape)
            expected.append(to.copy())
            yield (to,)

    for ours, theirs in zip(arrived(blocks()), expected, strict=True):
        np.testing.assert_array_equal(ours[0], theirs)


def test_a_large_array_is_locked_once_and_let_go(fake: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "LOCKED_BYTES", 1000)
    x = np.random.default_rng(2).normal(size=(300, 4))
    for _ in range(2):
        found = arrived((x[i : i + 70],) for i in range(0, 300, 70))
        np.testing.assert_array_equal(np.concatenate([part[0] for part in found]), x)
    assert (fake.locked, fake.held) == (1, 0)
    del x
    gc.collect()
    assert fake.locked == 0


def test_what_cannot_be_locked_is_copied_twice(fake: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "LOCKED_BYTES", 1000)
    fake.lockable = 0
    x = np.random.default_rng(3).normal(size=(300, 4))
    found = arrived((x[i : i + 70],) for i in range(0, 300, 70))
    np.testing.assert_array_equal(np.concatenate([part[0] for part in found]), x)
    assert fake.locked == 0


def test_memory_that_is_not_the_arrays_own_is_not_locked(
    fake: FakeDriver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(copies, "LOCKED_BYTES", 1000)
    np.save(tmp_path / "x.npy", np.ones((300, 4)))
    arrived((part,) for part in [np.load(tmp_path / "x.npy", mmap_mode="r")[:], np.frombuffer(bytes(4000), np.uint8)])
    assert fake.locked == 0


def test_a_source_that_fails_is_heard(fake: FakeDriver) -> None:
    def blocks() -> Iterator[tuple[np.ndarray]]:
        yield (np.ones(3),)
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        arrived(blocks())


def test_a_copy_that_fails_is_heard(fake: FakeDriver) -> None:
    fake.fail("cuMemcpyHtoDAsync_v2", 700)
    with pytest.raises(RuntimeError, match="ILLEGAL_ADDRESS"):
        arrived(iter(made(np.random.default_rng(4), [5, 5])))


def test_later_passes_ask_for_no_memory(fake: FakeDriver) -> None:
    rng = np.random.default_rng(5)
    staging, memory = copies.Staging(0), Memory()
    for number in range(4):
        # The last block is the smallest, as it is in a pass.
        blocks = made(rng, [9, 9, 9, 9, 4])
        for ours, theirs in zip(arrived(iter(blocks), staging, memory), blocks, strict=True):
            np.testing.assert_array_equal(ours[0], theirs[0])
            np.testing.assert_array_equal(ours[2], theirs[2])
        # Three slots of rows and weights, on either side.
        assert (memory.made, fake.held) == (6, 6), number
        assert staging.idle_bytes == 3 * 9 * (5 * 4 + 8)
    assert staging.release() and not staging.release()
    gc.collect()
    assert (staging.idle_bytes, fake.held) == (0, 0)
    arrived(iter(made(rng, [3])), staging, memory)
    assert (memory.made, fake.held) == (8, 2)
    del staging
    gc.collect()
    assert (fake.streams, fake.events, fake.held) == (0, 0, 0)


def test_memory_that_is_kept_fits_what_comes(fake: FakeDriver) -> None:
    staging, memory = copies.Staging(0), Memory()
    for block in (
        np.ones((6, 4), np.float32),
        np.ones((6, 5), np.float32),
        np.ones((2, 5)),
        np.ones((3, 5)),
        np.ones(2),
    ):
        for _ in range(2):
            [[found]] = arrived(iter([(block,)]), staging, memory)
            np.testing.assert_array_equal(found, block, strict=True)
    assert memory.made == 5


def test_passes_at_a_time_share_nothing(fake: FakeDriver) -> None:
    staging, memory = copies.Staging(0), Memory()
    rng = np.random.default_rng(6)
    outer, inner = made(rng, [5, 5, 5]), made(rng, [7, 7])
    arguments = (lambda: MAIN, memory.empty, lambda a: a.ctypes.data)
    for theirs, block in zip(outer, staging.staged(iter(outer), *arguments), strict=True):
        for theirs_within, within in zip(inner, staging.staged(iter(inner), *arguments), strict=True):
            np.testing.assert_array_equal(within[0], theirs_within[0])
        np.testing.assert_array_equal(block[0], theirs[0])


def test_what_a_broken_off_pass_took_is_given_back(fake: FakeDriver) -> None:
    staging, memory = copies.Staging(0), Memory()
    with pytest.raises(MemoryError):
        for _ in staging.staged(
            iter(made(np.random.default_rng(7), [5, 5])), lambda: MAIN, memory.empty, lambda a: a.ctypes.data
        ):
            raise MemoryError
    gc.collect()
    assert (staging.idle_bytes, fake.held) == (0, 0)
