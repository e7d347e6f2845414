"""The emulator of CUDA (tests/native/emulate.h): kernels of which the outcome is known, and errors it must find."""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.emulator import GUARD, Emulated, library, signatures

PROBES = Path(__file__).resolve().parents[2] / "native" / "emulated"
SEEDS = (0, 1, 2, 3, 4, 5)
LANES = np.arange(32)
int32, float32 = np.int32, np.float32

pytestmark = pytest.mark.skipif(not PROBES.exists(), reason="there is no source tree here")


@pytest.fixture
def device() -> Emulated:
    return Emulated(folder=PROBES)


def run(device: Emulated, kernel: str, threads: int, *args: Any, blocks: int = 1, shared: int = 0) -> None:
    """Launch a kernel of the probes."""
    device.launch(f"probes.{kernel}", "float32", blocks, threads, *args, shared=shared)


# ------------------------------------------------------------------------------------------------- order and barriers


def order_of(
    device: Emulated, threads: int, blocks: int = 1, meetings: int = 0, of_block: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Threads and blocks in the order they ran in, threads also after each meeting of their warps, or of the block."""
    kept = [device.empty(n, int32) for n in (threads * blocks * (meetings + 1), blocks)]
    counts = device.zeros(1, int32), device.zeros(1, int32)
    run(device, "order", threads, *kept, *counts, meetings, of_block, blocks=blocks)
    return device.fetch(kept[0]), device.fetch(kept[1])


def test_order_is_chosen_by_the_seed() -> None:
    found = {seed: order_of(Emulated(folder=PROBES, seed=seed), 96, 9) for seed in SEEDS}
    np.testing.assert_array_equal(found[0][0], np.tile(np.arange(96), 9))
    np.testing.assert_array_equal(found[0][1], np.arange(9))
    np.testing.assert_array_equal(found[1][0], np.tile(np.arange(96)[::-1], 9))
    np.testing.assert_array_equal(found[1][1], np.arange(9)[::-1])
    for seed in SEEDS[2:]:
        np.testing.assert_array_equal(np.sort(found[seed][0].reshape(9, 96), axis=1), np.tile(np.arange(96), (9, 1)))
        np.testing.assert_array_equal(np.sort(found[seed][1]), np.arange(9))
    assert len({part.tobytes() for threads, _ in found.values() for part in threads.reshape(9, 96)}) == 2 + 4 * 9
    assert len({blocks.tobytes() for _, blocks in found.values()}) == 6


def test_order_is_chosen_anew_at_a_barrier() -> None:
    found = [order_of(Emulated(folder=PROBES, seed=s), 128, 1, 3, 1)[0].reshape(4, 128) for s in SEEDS]
    np.testing.assert_array_equal(found[0], np.tile(np.arange(128), (4, 1)))
    np.testing.assert_array_equal(found[1], np.tile(np.arange(128)[::-1], (4, 1)))
    for threads in found[2:]:
        np.testing.assert_array_equal(np.sort(threads), found[0])
        first_of_warps = {tuple(dict.fromkeys((turn // 32).tolist())) for turn in threads}
        assert len(first_of_warps) > 1


def test_random_order_differs_between_launches_and_not_between_runs() -> None:
    first, second = (Emulated(folder=PROBES, seed=7) for _ in range(2))
    orders = [order_of(first, 64)[0].tobytes() for _ in range(3)]
    assert len(set(orders)) == 3
    assert orders == [order_of(second, 64)[0].tobytes() for _ in range(3)]


def test_warps_run_far_ahead_or_take_turns() -> None:
    ahead = []
    for seed in range(12):
        threads, _ = order_of(Emulated(folder=PROBES, seed=seed), 128, meetings=3)
        ahead.append(bool((threads.reshape(4, 128) // 32 == threads[::128, None] // 32).all()))
    assert ahead[:2] == [True, True]
    assert set(ahead[2:]) == {True, False}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("threads", [1, 31, 32, 33, 256, 1000, 1024])
def test_barriers(threads: int, seed: int) -> None:
    device = Emulated(folder=PROBES, seed=seed)
    out = device.empty((3, threads), np.float32)
    run(device, "turn", threads, out, 5, 1, 1, blocks=3)
    np.testing.assert_array_equal(device.fetch(out), np.tile((np.arange(threads) + 5) % threads, (3, 1)))


@pytest.mark.parametrize(("before", "after"), [(0, 1), (1, 0), (0, 0)])
def test_a_missing_barrier_shows(before: int, after: int) -> None:
    wrong = []
    for seed in SEEDS:
        device = Emulated(folder=PROBES, seed=seed)
        out = device.empty(64, np.float32)
        run(device, "turn", 64, out, 2, before, after)
        wrong.append(not np.array_equal(device.fetch(out), (np.arange(64) + 2) % 64))
    assert wrong[0] or wrong[1]
    assert all(wrong[2:])


@pytest.mark.parametrize("seed", SEEDS)
def test_barriers_that_vote(seed: int) -> None:
    device = Emulated(folder=PROBES, seed=seed)
    for v in (np.zeros(70), np.ones(70), np.arange(70) % 3 == 1):
        out = device.empty(70, np.int32)
        run(device, "vote_of_block", 70, device.place(v.astype(np.int32)), out)
        np.testing.assert_array_equal(device.fetch(out), v.any() + 2 * v.all() + 4 * int(v.sum()))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("left", [1, 32, 50, 96])
def test_threads_that_ended_do_not_count(left: int, seed: int) -> None:
    device = Emulated(folder=PROBES, seed=seed)
    out = device.zeros(96, np.int32)
    run(device, "early", 96, out, left)
    np.testing.assert_array_equal(device.fetch(out), np.where(np.arange(96) < left, left, 0))


def fails(device: Emulated, message: str, kernel: str, threads: int, *args: Any, shared: int = 0) -> None:
    """A launch fails so in any order, and the one after it does not."""
    for seed in SEEDS:
        device.seed = seed
        with pytest.raises(RuntimeError, match=message):
            run(device, kernel, threads, *args, shared=shared)
        out = device.empty(64, np.float32)
        run(device, "turn", 64, out, 1, 1, 1)
        np.testing.assert_array_equal(device.fetch(out), (np.arange(64) + 1) % 64)


def line_of(text: str, skipped: int = 0) -> int:
    """Where the probes have this text."""
    lines = (PROBES / "probes.cu").read_text().splitlines()
    return [i for i, line in enumerate(lines, 1) if text in line][skipped]


def test_divergent_barriers(device: Emulated) -> None:
    line = line_of("void divergent") + 2
    both = rf"\(probes\.cu:({line}|{line + 2})\).*others wait at __syncthreads \(probes\.cu:({line}|{line + 2})\)"
    fails(
        device, rf"^divergent, block 0, .*: divergent barriers: .*{both}", "divergent", 64, device.zeros(64, int32), 40
    )
    run(device, "divergent", 64, device.zeros(64, int32), 64)


def test_deadlock(device: Emulated) -> None:
    line = line_of("void stuck")
    message = (
        rf"^stuck, block 0: deadlock: lanes 0x0000ffff of warp 0 wait at __syncthreads \(probes\.cu:{line + 1}\); "
        rf"lanes 0xffff0000 of warp 0 wait at __shfl_sync \(probes\.cu:{line + 2}\) with mask 0xffffffff$"
    )
    fails(device, message, "stuck", 64, device.zeros(64, int32), 16)
    each = [f"lanes 0x{lanes} of warp 0 wait at {{}}" for lanes in ("0000ffff", "ffff0000")]
    first, second = (
        part.format("__syncwarp .* with mask 0x" + mask)
        for part, mask in zip(each, ("0001ffff", "ffffffff"), strict=True)
    )
    fails(device, f"deadlock: {first}; {second}$", "mismatched", 32, device.zeros(32, int32), 1)
    first, second = (part.format(name) for part, name in zip(each, ("__any_sync", "__all_sync"), strict=True))
    fails(device, f"deadlock: {first} .*; {second} ", "mismatched", 32, device.zeros(32, int32), 0)


# -------------------------------------------------------------------------------------------------------- collectives


def source(kind: int, lane: int, by: int, width: int) -> int:
    """The lane that a shuffle reads from: it keeps its own value where that lane is beyond its section of a width."""
    first = lane // width * width
    if kind == 0:
        return first + by % width
    if kind == 1:
        return lane - by if lane - by >= first else lane
    if kind == 2:
        return lane + by if lane + by < first + width else lane
    return lane ^ by if lane ^ by < first + width else lane


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", range(4))
def test_shuffles(kind: int, seed: int) -> None:
    device = Emulated(folder=PROBES, seed=seed)
    v = np.random.default_rng(kind).normal(size=64).astype(np.float32)
    given, out = device.place(v), device.empty(64, np.float32)
    for width in (1, 2, 8, 16, 32):
        for by in (0, 1, 3, 7, 8, 15, 16, 31):
            run(device, "shuffle", 64, given, out, kind, by, width, 0xFFFFFFFF)
            expected = [v[i // 32 * 32 + source(kind, i % 32, by, width)] for i in range(64)]
            np.testing.assert_array_equal(device.fetch(out), expected)


def test_shuffles_among_some(device: Emulated) -> None:
    v = np.arange(32, dtype=np.float32)
    given, out = device.place(v), device.zeros(32, np.float32)
    run(device, "shuffle", 32, given, out, 3, 1, 32, 0x0000FF0F)
    named = (0xFF0F >> LANES & 1).astype(bool)
    np.testing.assert_array_equal(device.fetch(out), np.where(named, LANES ^ 1, 0))
    message = r"__shfl_xor_sync \(probes\.cu:\d+\): lane \d+ reads from lane \d+, which the mask does not name"
    fails(device, message, "shuffle", 32, given, out, 3, 4, 32, 0x0000FF0F)
    fails(device, "no width: 24", "shuffle", 32, given, out, 0, 0, 24, 0xFFFFFFFF)
    fails(
        device,
        "__ballot_sync .*0x0000fffe, which does not name the calling lane 0",
        "not_named",
        16,
        device.zeros(16, int32),
    )


def test_lanes_that_ended(device: Emulated) -> None:
    out = device.zeros(40, int32)
    for seed in SEEDS:
        device.seed = seed
        run(device, "left_alone", 40, out, 36, 3)
        np.testing.assert_array_equal(
            device.fetch(out), np.where(np.arange(40) < 32, 3, np.where(np.arange(40) < 36, 35, 0))
        )
    fails(device, "reads from lane 20, which has ended or never was", "left_alone", 32, out, 16, 20)
    fails(device, "reads from lane 9, which has ended or never was", "left_alone", 8, out, 8, 9)


@pytest.mark.parametrize("seed", SEEDS)
def test_types_of_shuffles(seed: int) -> None:
    device = Emulated(folder=PROBES, seed=seed)
    out = device.empty((4, 32), np.int64)
    run(device, "widths", 32, out)
    other = LANES ^ 1
    expected = [other - 7, 0xFFFFFFF0 + other, (other - 7) * 2**32, (other / 3).view(np.int64)]
    # An unsigned sum of 32 bits comes round.
    expected[1] = expected[1] % 2**32
    np.testing.assert_array_equal(device.fetch(out), np.array(expected, np.int64))


@pytest.mark.parametrize("seed", SEEDS)
def test_groups_of_a_warp(seed: int) -> None:
    device = Emulated(folder=PROBES, seed=seed)
    out = device.empty(32, int32)
    run(device, "halves", 32, out)
    np.testing.assert_array_equal(device.fetch(out), np.where(LANES % 2, LANES[1::2].sum(), LANES[::2].sum()))


@pytest.mark.parametrize("seed", SEEDS)
def test_groups_that_meet_in_turns(seed: int) -> None:
    device = Emulated(folder=PROBES, seed=seed)
    out = device.empty(32, int32)
    run(device, "nested", 32, out)
    v = LANES
    v = np.where(LANES < 16, v[LANES ^ 8], v)
    v = np.where(LANES % 2, v[LANES ^ 16], v)
    v = np.where(LANES >= 24, v[LANES ^ 1], v)
    np.testing.assert_array_equal(device.fetch(out), v[LANES ^ 31])


@pytest.mark.parametrize("seed", SEEDS)
def test_votes(seed: int) -> None:
    device = Emulated(folder=PROBES, seed=seed)
    v = np.random.default_rng(3).integers(-5, 6, 32).astype(int32)
    out = device.empty((12, 32), np.int64)
    run(device, "votes", 32, device.place(v), out)
    u = v.view(np.uint32).astype(np.int64)
    alike = (v[:, None] == v[None, :]) @ (1 << LANES.astype(np.int64))
    expected = [
        ((v > 0) << LANES.astype(np.int64)).sum(),
        2,
        1,
        alike,
        alike,
        v.sum(),
        v.min(),
        v.max(),
        u.min(),
        u.max(),
        np.bitwise_and.reduce(u) ^ np.bitwise_or.reduce(u) << 1 & 0xFFFFFFFF,
        np.bitwise_xor.reduce(u),
    ]
    np.testing.assert_array_equal(device.fetch(out), np.stack([np.broadcast_to(row, 32) for row in expected]))


def test_active_lanes(device: Emulated) -> None:
    out = device.empty(32, np.uint32)
    run(device, "active", 32, out)
    np.testing.assert_array_equal(device.fetch(out) >> LANES & 1, 1)


@pytest.mark.parametrize("seed", SEEDS)
def test_atomics(seed: int) -> None:
    device = Emulated(folder=PROBES, seed=seed)
    n = 100
    i, u = np.array([10, 0, 0, 3, 0], int32), np.array([10, 2**32 - 1, 0, 0, 2**32 - 1, 0, 4], np.uint32)
    wide, signed = np.array([0, 2**64 - 1, 0, 5], np.uint64), np.array([0, -1000], np.int64)
    placed = [device.place(a) for a in (i, u, wide, signed, np.ones(1, np.float32), np.ones(1))]
    run(device, "atomics", n, *placed)
    total = n * (n - 1) // 2
    found = [device.fetch(a).tolist() for a in placed]
    mixed = int(np.bitwise_xor.reduce(np.arange(n)))
    assert found[0] == [10 + total, 1 - n, n - 1, 5, -total]
    assert found[1] == [10 + total, 0, 2**32 - 1, mixed, 2**31, 2**31 + n - 1, (4 + n) % 10]
    assert found[2] == [n << 40, 2**64 - n, 2**64 - 1, 5 + total]
    assert found[3:] == [[-n, -1], [1 + n / 2], [1 + n / 4]]


# ------------------------------------------------------------------------------------------------------------- memory


@pytest.mark.parametrize("at", [10, 11, 9 + GUARD // 4, -1, -GUARD // 4])
def test_writes_beyond_an_array(device: Emulated, at: int) -> None:
    out = device.zeros(10, float32)
    side = "before its start" if at < 0 else "behind its end"
    distance = -4 * at - 3 if at < 0 else 4 * (at - 10) + 1
    fails(
        device, rf"^probes\.write_at wrote beyond 'out': \d bytes {side}, .* {distance}$", "write_at", 1, out, None, at
    )
    assert not device.fetch(out).any()
    run(device, "write_at", 1, out, None, 9)
    assert device.fetch(out)[9] == 1


def test_writes_beyond_a_slice_of_an_array_of_odd_length(device: Emulated) -> None:
    out = device.zeros(7, np.uint8)
    rows = device.zeros((6, 3), float32)
    run(device, "write_at", 1, rows[2:4], None, 17 - 6)
    assert device.fetch(rows)[5, 2] == 1
    fails(device, "wrote beyond 'out': 4 bytes behind its end", "write_at", 1, rows[2:4], None, 18 - 6)
    assert device.owns(out)
    assert out.memory is not None
    out.memory.raw.view(np.uint8)[out.memory.offset + 7] = 0
    assert "1 bytes behind its end, the nearest at a distance of 1" in out.memory.overwritten()
    assert not out.memory.overwritten()


def test_far_and_null_addresses(device: Emulated) -> None:
    out = device.zeros(10, float32)
    fails(device, r"^write_at, block 0, thread 0: bad address", "write_at", 1, out, None, 1 << 44)
    fails(device, r"a null pointer is used.*\(probes\.cu:\d+\)", "write_at", 1, None, None, 0)
    fails(device, r"address .* is not aligned to 16 bytes \(probes\.cu:\d+\)", "misaligned", 1, out, 1)
    run(device, "misaligned", 1, out, 4)
    np.testing.assert_array_equal(device.fetch(out), [0, 0, 0, 0, 1, 2, 3, 4, 0, 0])


def test_a_fault_in_a_thread_of_python(device: Emulated) -> None:
    out = device.zeros(10, float32)
    caught: list[BaseException] = []

    def launch() -> None:
        try:
            run(device, "write_at", 1, out, None, 1 << 44)
        except RuntimeError as error:
            caught.append(error)

    threads = [threading.Thread(target=launch) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ["bad address" in str(error) for error in caught] == [True] * 4


def test_writes_beyond_shared_memory(device: Emulated) -> None:
    out = device.zeros(1, float32)
    run(device, "write_dynamic", 1, out, 7, shared=32)
    for at in (8, 9, -1, 8 + 1023, -1024):
        fails(device, "^write_dynamic, block 0: wrote outside of its 32 bytes", "write_dynamic", 1, out, at, shared=32)
    fails(device, "wrote outside of its 0 bytes", "write_dynamic", 1, out, 0)
    fails(device, "wrote outside of its 31 bytes", "write_dynamic", 1, out, 7, shared=31)
    run(device, "write_static", 32, out, 31)
    fails(device, r"an index is beyond the end of its array \(probes\.cu:\d+\)", "write_static", 32, out, 32)


def test_memory_that_nobody_wrote(device: Emulated) -> None:
    for kind in (np.float32, np.float64):
        assert np.isnan(device.fetch(device.empty(7, kind))).all()
    assert (np.abs(device.fetch(device.empty(7, int32)).astype(np.int64)) > 10**5).all()
    assert (np.abs(device.fetch(device.empty(7, np.int64)).astype(float)) > 10**12).all()
    out = device.zeros((5, 8, 3), np.uint32)
    run(device, "unwritten", 8, out, 12, blocks=5, shared=48)
    assert np.isnan(device.fetch(out).view(np.float32)).all()


def test_arithmetic_without_a_meaning(device: Emulated) -> None:
    out, wide = device.zeros(1, int32), device.zeros(1, np.int64)
    fails(device, r"a division by zero \(probes\.cu:\d+\)", "divide", 1, out, 0)
    fails(device, r"a shift by more bits than there are \(probes\.cu:\d+\)", "shift", 1, out, 32)
    fails(device, r"a sum overflows \(probes\.cu:\d+\)", "overflow", 1, wide, 2**63 - 1)
    fails(device, r"beyond the range of the integer type \(probes\.cu:\d+\)", "to_integer", 1, out, 2.0**31)
    for kernel, argument, expected in (("divide", 2, 3), ("shift", 31, -(2**31)), ("to_integer", -7.9, -7)):
        run(device, kernel, 1, out, argument)
        assert device.fetch(out) == expected
    run(device, "overflow", 1, wide, 2**63 - 2)
    assert device.fetch(wide) == 2**63 - 1


def test_stacks_that_overflow(device: Emulated) -> None:
    out = device.zeros(1, int32)
    run(device, "recurse", 1, out, 100, 0)
    fails(device, "its stack of 65536 bytes overflowed", "recurse", 1, out, 300, 0)
    fails(device, "its stack of 65536 bytes overflowed", "recurse", 64, out, 300, 1)


@pytest.mark.parametrize("kernel", ["endless", "endless_meetings"])
def test_a_kernel_that_does_not_end(kernel: str) -> None:
    device = Emulated(folder=PROBES, options=("-DGPUKM_SECONDS=1",))
    with pytest.raises(RuntimeError, match=f"^{kernel}, block 0, .*: the launch took 1 seconds and has not ended"):
        run(device, kernel, 64, device.place(np.ones(1, int32)))
    run(device, kernel, 64, device.zeros(1, int32))


# ------------------------------------------------------------------------------------------------------------- copies


def test_copies_arrive_when_waited_for(device: Emulated) -> None:
    v = np.arange(1, 257, dtype=float32).reshape(32, 8)
    for seed in SEEDS:
        device.seed = seed
        out = device.empty((32, 3, 8), float32)
        run(device, "copies", 32, device.place(v), out, 0, shared=1024)
        found = device.fetch(out)
        assert np.isnan(found[:, 0]).all()
        np.testing.assert_array_equal(found[:, 1, :4], v[:, :4])
        assert np.isnan(found[:, 1, 4:]).all()
        np.testing.assert_array_equal(found[:, 2], v)


def test_copies_of_no_group_do_not_arrive(device: Emulated) -> None:
    v = np.arange(1, 257, dtype=float32).reshape(32, 8)
    out = device.empty((32, 3, 8), float32)
    run(device, "copies", 32, device.place(v), out, -1, shared=1024)
    found = device.fetch(out)
    assert np.isnan(found[:, :2]).all()
    np.testing.assert_array_equal(found[:, 2, :4], v[:, :4])
    assert np.isnan(found[:, 2, 4:]).all()


def test_copies_that_cannot_be(device: Emulated) -> None:
    given = device.zeros(64, float32)
    run(device, "copy_to", 1, given, None, 4, 16, shared=32)
    fails(device, "one is not aligned to 16 bytes", "copy_to", 1, given, None, 0, 8, shared=32)
    fails(device, "one is not aligned to 16 bytes", "copy_to", 1, given, None, 2, 16, shared=32)
    fails(device, "what is not shared memory", "copy_to", 1, given, None, 0, 32, shared=32)
    fails(device, "what is not shared memory", "copy_to", 1, given, given, 0, 0, shared=32)


# ------------------------------------------------------------------------------------------------------- matrix units


def fragments(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Registers of a (16, 16) and b (16, 8), of 16 bits: the formulas of PTX's "Matrix Fragments for mma.m16n8k16"."""
    left, right = np.zeros((32, 4, 2), np.uint16), np.zeros((32, 2, 2), np.uint16)
    for lane in range(32):
        group, within = lane >> 2, lane % 4
        for i in range(8):
            row = group if 0 <= i < 2 or 4 <= i < 6 else group + 8
            col = within * 2 + (i & 1) if i < 4 else within * 2 + (i & 1) + 8
            left[lane, i // 2, i % 2] = a[row, col]
        for i in range(4):
            row = within * 2 + (i & 1) if i < 2 else within * 2 + (i & 1) + 8
            right[lane, i // 2, i % 2] = b[row, group]
    return left.view(np.uint32)[..., 0], right.view(np.uint32)[..., 0]


def wide_fragments(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Registers of a (16, 8) and b (8, 8), of 32 bits: the formulas of "Matrix Fragments for mma.m16n8k8" for tf32."""
    left, right = np.zeros((32, 4), np.uint32), np.zeros((32, 2), np.uint32)
    for lane in range(32):
        group, within = lane >> 2, lane % 4
        for i in range(4):
            left[lane, i] = a[group if i in (0, 2) else group + 8, within if i in (0, 1) else within + 4]
        for i in range(2):
            right[lane, i] = b[within if i == 0 else within + 4, group]
    return left, right


def accumulators(d: np.ndarray) -> np.ndarray:
    """Registers of d (16, 8): row group for c0 and c1, group + 8 for c2 and c3; column 2 within + (i & 1)."""
    held = np.zeros((32, 4), float32)
    for lane in range(32):
        for i in range(4):
            held[lane, i] = d[(lane >> 2) + (8 if i >= 2 else 0), lane % 4 * 2 + (i & 1)]
    return held


def as_bits(v: np.ndarray, kind: int) -> np.ndarray:
    """Numbers that a type holds exactly, as its bits."""
    if kind == 0:
        return v.astype(np.float16).view(np.uint16)
    bits = v.astype(float32).view(np.uint32)
    return bits if kind == 2 else (bits >> 16).astype(np.uint16)


def toward_zero(v: np.ndarray) -> np.ndarray:
    """float64 cut off to float32."""
    near = v.astype(float32)
    return np.where(np.abs(near.astype(float)) > np.abs(v), np.nextafter(near, float32(0)), near).astype(float32)


def units(device: Emulated, a: np.ndarray, b: np.ndarray, d: np.ndarray, kind: int) -> np.ndarray:
    """What the units make of bits."""
    left, right = wide_fragments(a, b) if kind == 2 else fragments(a, b)
    held = device.place(accumulators(d))
    run(device, "multiply", 32, device.place(left), device.place(right), held, kind)
    return device.fetch(held)


@pytest.mark.parametrize("kind", range(3))
@pytest.mark.parametrize("seed", SEEDS)
def test_matrix_units(kind: int, seed: int) -> None:
    device = Emulated(folder=PROBES, seed=seed)
    rng = np.random.default_rng(seed)
    depth = 8 if kind == 2 else 16
    # Numbers of eight bits or fewer are all types' own, and their sums are exact in any order.
    a, b = (rng.integers(-127, 128, shape) / 16 for shape in ((16, depth), (depth, 8)))
    d = rng.normal(size=(16, 8)).astype(float32)
    expected = toward_zero(a @ b + d)
    assert (expected != (a @ b + d).astype(float32)).any()
    found = units(device, as_bits(a, kind), as_bits(b, kind), d, kind)
    np.testing.assert_array_equal(found, accumulators(expected))


def test_every_bit_of_an_operand_counts(device: Emulated) -> None:
    rng = np.random.default_rng(0)
    for kind, kept in ((0, 10), (1, 7), (2, 10)):
        depth = 8 if kind == 2 else 16
        a = 1 + rng.integers(0, 1 << kept, (16, depth)) / (1 << kept)
        b = np.zeros((depth, 8))
        b[np.arange(8), np.arange(8)] = 1  # picks columns
        found = units(device, as_bits(a, kind), as_bits(b, kind), np.zeros((16, 8)), kind)
        np.testing.assert_array_equal(found, accumulators(a[:, :8]))
    # Beyond ten bits tf32 is cut off, not rounded.
    lower = units(device, as_bits(a + 0.99 * 2.0**-10, 2), as_bits(b, 2), np.zeros((16, 8)), 2)
    np.testing.assert_array_equal(lower, found)


def test_sums_are_cut_off(device: Emulated) -> None:
    a, b = np.zeros((16, 16)), np.zeros((16, 8))
    a[:, 0] = 2.0**-14
    b[0] = np.array([1.75, -1.25, 0.5, -0.5, 2, -2, 0, 4]) * 2.0**-10
    found = units(device, as_bits(a, 0), as_bits(b, 0), np.ones((16, 8)), 0)
    # Rounded to the nearest the first four were 1 + 2^-23, 1 - 2^-24, 1 and 1.
    exact = toward_zero(1 + b[0] * 2.0**-14)
    assert exact.tolist() == [1, 1 - 2.0**-23, 1, 1 - 2.0**-24, 1 + 2.0**-23, 1 - 2.0**-23, 1, 1 + 2.0**-22]
    np.testing.assert_array_equal(found, accumulators(np.tile(exact, (16, 1))))


def test_products_are_cut_off_where_asked_for() -> None:
    # Each product is below the last of 22 bits of the sum, and all of them together are not.
    a, b, d = np.ones((16, 16)), np.full((16, 8), 2.0**-14), np.full((16, 8), 2.0**9)
    plain, cut = (Emulated(folder=PROBES, options=options) for options in ((), ("-DGPUKM_ALIGN_BITS=22",)))
    np.testing.assert_array_equal(units(plain, as_bits(a, 0), as_bits(b, 0), d, 0), 2.0**9 + 2.0**-10)
    np.testing.assert_array_equal(units(cut, as_bits(a, 0), as_bits(b, 0), d, 0), 2.0**9)
    np.testing.assert_array_equal(units(cut, as_bits(a, 0), as_bits(b, 0), 0 * d, 0), 2.0**-10)


def test_units_need_the_whole_warp(device: Emulated) -> None:
    message = "gpukm_mma_f16 needs all lanes of the warp, and has 0x0000ffff"
    fails(device, message, "half_warp", 32, device.zeros(4, float32))


@pytest.mark.parametrize("trans", [0, 1])
def test_loads_of_matrices(device: Emulated, trans: int) -> None:
    matrices = np.arange(256, dtype=np.uint16).reshape(4, 8, 8)
    out = device.empty((32, 4), np.uint32)
    for seed in SEEDS:
        device.seed = seed
        run(device, "load", 32, device.place(matrices), out, trans, 0)
        turned = matrices.transpose(0, 2, 1) if trans else matrices
        expected = np.ascontiguousarray(turned).reshape(4, 32, 2).view(np.uint32)[..., 0].T
        np.testing.assert_array_equal(device.fetch(out), expected)
    given = device.place(matrices)
    fails(device, "the address of lane 0 is not aligned", "load", 32, given, out, trans, 4)
    fails(device, "the address of lane 0 is not in shared memory", "load", 32, given, out, trans, -1)


def test_product_of_matrices(device: Emulated) -> None:
    rng = np.random.default_rng(5)
    a, b = rng.integers(-100, 100, (16, 16)), rng.integers(-100, 100, (16, 8))
    out = device.empty((16, 8), float32)
    run(device, "product", 32, *(device.place(as_bits(v, 0)) for v in (a, b)), out)
    np.testing.assert_array_equal(device.fetch(out), a @ b)


# --------------------------------------------------------------------------------------------------------- arithmetic


def test_types_of_16_bits(device: Emulated) -> None:
    every = np.arange(1 << 16, dtype=np.uint16)
    rng = np.random.default_rng(0)
    brain = (every.astype(np.uint32) << 16).view(float32)
    halves = every.view(np.float16).astype(float32)
    halves = halves[np.isfinite(halves)]
    middle = ((halves[:-1].astype(float) + halves[1:].astype(float)) / 2).astype(float32)
    random = rng.integers(0, 1 << 32, 1 << 16, dtype=np.uint32).view(float32)
    v = np.concatenate(
        [halves, brain, middle, random, np.float32([65519.996, 65520, -65520, 1e38, 2**-25, 2**-25 * 1.001])]
    )
    v = v[~np.isnan(v)]
    n = len(v)
    outs = [device.empty(n, np.uint16), device.empty(n, np.uint16), device.empty((n, 2), float32)]
    run(device, "halves_of", 256, device.place(v), *outs, n, blocks=-(-n // 256))
    half, short, back = (device.fetch(out) for out in outs)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(half, v.astype(np.float16).view(np.uint16))
    np.testing.assert_array_equal(back[:, 0], half.view(np.float16).astype(float32))
    assert {*halves.tolist(), np.inf, -np.inf} <= set(back[:, 0].tolist())
    np.testing.assert_array_equal(back[:, 1], (short.astype(np.uint32) << 16).view(float32))
    finite = np.abs(v) < 3.38e38
    error = np.abs(back[finite, 1].astype(float) - v[finite])
    step = np.ldexp(1.0, np.maximum(np.frexp(v[finite].astype(float))[1] - 8, -133))
    assert (error <= step / 2).all()
    assert (short[finite][error == step / 2] % 2 == 0).all()
    assert (error == step / 2).any()
    none = [device.empty(1, np.uint16), device.empty(1, np.uint16), device.empty((1, 2), float32)]
    run(device, "halves_of", 1, device.place(np.full(1, np.nan, float32)), *none, 1)
    assert [int(device.fetch(out)[0]) for out in none[:2]] == [0x7FFF, 0x7FFF]
    assert np.isnan(device.fetch(none[2])).all()


def directed(exact: Fraction, kind: Callable[..., Any]) -> list[float]:
    """A number rounded up, down and to the nearest."""
    near = kind(float(exact)) if kind is np.float64 else float32(np.float64(float(exact)))
    up = near if Fraction(float(near)) >= exact else np.nextafter(near, kind(np.inf))
    down = near if Fraction(float(near)) <= exact else np.nextafter(near, kind(-np.inf))
    if kind is float32 and up != down:  # rounded twice above
        off = (Fraction(float(up)) - exact) - (exact - Fraction(float(down)))
        near = up if off < 0 else down if off > 0 else near
    return [float(up), float(down), float(near)]


def test_directed_rounding(device: Emulated) -> None:
    n = 256
    rng = np.random.default_rng(2)
    a, b = (rng.normal(size=n) * 2.0 ** rng.integers(-30, 30, n) for _ in range(2))
    a, b = a.astype(float32), b.astype(float32)
    a[:8], b[:8] = [1, 1, -1, 3, 0.5, 2, 4, 9], [1, 2**-30, 2**-30, 5, -0.5, -(2**-40), 2**-24, 2**-60]
    c = rng.normal(size=n) * 2.0 ** rng.integers(-30, 30, n)
    c[:4] = [1, 1 + 2**-30, 1 - 2**-30, -1 - 2**-25]
    out, wide = device.empty((15, n), float32), device.empty((6, n), np.float64)
    run(device, "rounded", n, *(device.place(v) for v in (a, b, c)), out, wide, n)
    found, found_wide = device.fetch(out), device.fetch(wide)
    for i in range(n):
        x, y, z = (Fraction(float(v[i])) for v in (a, b, c))
        expected = directed(x + y, float32) + directed(x * y, float32) + directed(z, float32)
        assert found[:12, i].tolist() == expected + directed(x * y + x, float32)
        assert found_wide[:, i].tolist() == directed(z + y, np.float64) + directed(z * z, np.float64)
        up, down, near = (Fraction(float(v)) for v in found[12:, i])
        assert down**2 <= abs(x) <= up**2
        assert near in (up, down)
        assert float32(up) <= np.nextafter(float32(down), float32(np.inf))
        assert (up == down) == (up**2 == abs(x))


def test_conversions(device: Emulated) -> None:
    v = np.array([0.5, 1.5, -2.5, 1e10, -1e10, 1e30, -1e30, np.inf, -np.inf, np.nan, 2.0**63, -(2.0**63), -0.6])
    out = device.empty((7, len(v)), np.int64)
    run(device, "converted", len(v), device.place(v), out, len(v))
    found = device.fetch(out)
    low, high, edge = -(2**63), 2**63 - 1, 2**31
    assert found[0].tolist() == [0, 2, -2, 10**10, -(10**10), high, low, high, low, low, high, low, -1]
    assert found[1].tolist() == [0, 1, -2, 10**10, -(10**10), high, low, high, low, low, high, low, 0]
    assert found[2].tolist() == found[0].tolist()
    clipped = [edge - 1, -edge]
    assert found[3].tolist() == [0, 2, -2, *clipped, *clipped, *clipped, -edge, *clipped, -1]
    assert found[4].tolist() == [0, 1, -2, *clipped, *clipped, *clipped, 0, *clipped, 0]
    full, top = 2**64 - 1, 2**63
    assert found[5].view(np.uint64).tolist() == [0, 2, 0, 10**10, 0, full, 0, full, 0, top, top, 0, 0]
    assert found[6].tolist() == [0, 2, 0, 2**32 - 1, 0, 2**32 - 1, 0, 2**32 - 1, 0, 0, 2**32 - 1, 0, 0]


def test_bits(device: Emulated) -> None:
    v = np.random.default_rng(1).integers(0, 2**64, 64, dtype=np.uint64)
    v[:5] = [0, 1, 2**32, 2**63, 2**64 - 1]
    out = device.empty((13, 64), np.int64)
    run(device, "bits", 64, device.place(v), out, 64)
    found = device.fetch(out)
    for i, value in enumerate(v.tolist()):
        low, signed = value & 0xFFFFFFFF, value - (value >> 63 << 64)
        assert found[:, i].tolist() == [
            low.bit_count(),
            value.bit_count(),
            32 - low.bit_length(),
            64 - value.bit_length(),
            (low & -low).bit_length(),
            (value & -value).bit_length(),
            int(f"{low:032b}"[::-1], 2),
            low * 0x9E3779B9 >> 32,
            (high := value * 0x9E3779B97F4A7C15 >> 64) - (high >> 63 << 64),
            signed * -0x1E3779B97F4A7C15 >> 64,
            min(low, 77) + 3 - 5 + 2,
            low & 0x7F7FFFFF,
            value >> 2,
        ]


# ---------------------------------------------------------------------------------------------------------- the device


def test_arrays(device: Emulated) -> None:
    x = np.arange(12, dtype=float32).reshape(4, 3)
    placed = device.place(x)
    x[0, 0] = 5
    assert device.fetch(placed)[0, 0] == 0
    assert device.owns(placed)
    assert device.owns(placed[1:3])
    assert device.owns(placed[4:])
    assert not device.owns(placed + 1)
    assert not device.owns(x)
    assert not device.owns(Emulated(folder=PROBES).place(x))
    assert device.dtype(placed) == np.float32
    assert placed.ctypes.data % 256 == 0
    out = np.empty((2, 3), float32)
    assert device.fetch(placed[1:3], out) is out
    np.testing.assert_array_equal(out, x[1:3])
    assert type(device.fetch(placed)) is np.ndarray
    assert device.place(x[:2], placed[2:]) is not None
    np.testing.assert_array_equal(device.fetch(placed)[2:], x[:2])
    assert not device.fetch(device.zeros((2, 0, 3), np.int64)).size
    with pytest.raises(ValueError, match="cannot be copied"):
        device.place(x.astype(float), placed)
    with pytest.raises(ValueError, match="cannot be copied"):
        device.fetch(placed, out)
    with pytest.raises(TypeError, match="not an array of this device"):
        device.fetch(x)
    device.free = 12345
    assert device.free_bytes() == 12345
    assert (device.library, device.name, device.capability, device.processors) == ("emulator", "emulated:0", (9, 0), 4)


def test_arguments_are_checked(device: Emulated) -> None:
    f, i = device.zeros(64, float32), device.zeros(64, int32)
    cases: list[tuple[type[Exception], str, tuple[Any, ...]]] = [
        (TypeError, r"takes 4 arguments, not 3: out, n, before, after", ("turn", f, 1, 1)),
        (TypeError, r"^probes.turn: 'out' points to float, float32, not int32", ("turn", i, 1, 1, 1)),
        (
            TypeError,
            r"'out' is a pointer and takes an array of this device, not ndarray",
            ("turn", np.zeros(64, float32), 1, 1, 1),
        ),
        (TypeError, r"'out' is a pointer .* not int", ("turn", 0, 1, 1, 1)),
        (TypeError, r"'out' is not C-contiguous", ("turn", device.zeros(64, float32)[::2], 1, 1, 1)),
        (TypeError, r"'n' is an int, not float", ("turn", f, 1.0, 1, 1)),
        (TypeError, r"'n' is an int, not NoneType", ("turn", f, None, 1, 1)),
        (TypeError, r"'n': 2147483648 does not fit an int", ("turn", f, 2**31, 1, 1)),
        (TypeError, r"'mask': -1 does not fit an unsigned", ("shuffle", f, f, 0, 0, 32, -1)),
        (TypeError, r"'v' is a double, not str", ("to_integer", i, "1")),
        (ValueError, r"probes.cu has no kernel 'none'", ("none", f)),
    ]
    for error, message, (kernel, *args) in cases:
        with pytest.raises(error, match=message):
            run(device, kernel, 32, *args)
    run(device, "turn", 32, f, np.int64(1), True, 1)
    with pytest.raises(TypeError, match="'v' points to row_t, float64, not float32"):
        device.launch("probes.shuffle", "float64", 1, 32, f, f, 0, 0, 32, 1)
    with pytest.raises(TypeError, match="rows of int32"):
        device.launch("probes.turn", "int32", 1, 32, f, 1, 1, 1)
    for blocks, threads in ((0, 32), (1, 0), (1, 1025)):
        with pytest.raises(ValueError, match="no grid has"):
            run(device, "turn", threads, f, 1, 1, 1, blocks=blocks)
    with pytest.raises(ValueError, match="of which a block has 65536"):
        run(Emulated((7, 5), folder=PROBES), "active", 32, None, shared=65537)


def test_rows_of_both_types(device: Emulated) -> None:
    v = np.arange(32.0)
    given, out = device.place(v), device.zeros(32, np.float64)
    device.launch("probes.shuffle", "float64", 1, 32, given, out, 0, 5, 32, 2**32 - 1)
    np.testing.assert_array_equal(device.fetch(out), 5)
    assert device.launched == {"probes.shuffle": 1}


def test_kernels_are_compiled_once_for_a_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.emulator.BUILT", tmp_path / "built")
    folder, found = tmp_path / "kernels", []
    folder.mkdir()
    (folder / "one.cu").write_text('#include "value.cuh"\nextern "C" __global__ void put(int* to) { *to = kValue; }\n')
    device = Emulated(folder=folder)
    out = device.empty(1, int32)
    for value in (1, 2, 1):
        (folder / "value.cuh").write_text(f"constexpr int kValue = {value};\n")
        library.cache_clear()
        for _ in range(2):
            device.launch("one.put", "float32", 1, 1, out)
        found.append(int(device.fetch(out)[0]))
    assert found == [1, 2, 1]
    assert sorted(p.suffix for p in (tmp_path / "built").iterdir()) == [".so", ".so"]


def test_what_does_not_compile(tmp_path: Path) -> None:
    (tmp_path / "wrong.cu").write_text('extern "C" __global__ void put(int* to) { *to = missing; }\n')
    device = Emulated(folder=tmp_path)
    with pytest.raises(RuntimeError, match=r"(?s)wrong\.cu does not compile for the host:.*missing"):
        device.launch("wrong.put", "float32", 1, 1, None)


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(pytest.skip.Exception, match="to compile kernels for the host"):
        Emulated()


def test_every_probe_is_run() -> None:
    text = Path(__file__).read_text()
    assert [name for name in signatures(PROBES, "probes") if not re.search(rf'"{name}"', text)] == []
