"""The GPU engine: on a device where there is one, and its CUDA kernels on the host by tests/emulator.py."""

from dataclasses import replace

import numpy as np
import pytest
from gpukm_kernels.screening import mode

from gpukm.backends.base import Frame
from gpukm.backends.gpu import GpuBackend, Tracked
from gpukm.backends.matrix_screen import MatrixScreen
from gpukm.backends.plain_screen import PlainScreen
from tests.conformance.backend import HARD, BackendConformance, fast_distances, frame_of, hard_data
from tests.device import LIBRARIES, on_device
from tests.emulator import Emulated


class TestDevice(BackendConformance):
    """Whatever users get, on a real device."""

    @pytest.fixture(params=LIBRARIES)
    def backend(self, request):
        return on_device(request.param)

    def tracker(self, backend, x, c):
        return Tracked()


class TestPlain(BackendConformance):
    @pytest.fixture
    def backend(self):
        device = Emulated(seed=2)
        return GpuBackend(device, PlainScreen(device, mode("ieee", device.capability)))

    def tracker(self, backend, x, c):
        return Tracked()


#: Matrix units that align addends lose more than those that only cut off sums.
ALIGNED = ("-DGPUKM_ALIGN_BITS=24",)


def by_matrix(capability=(9, 0), options=(), screen=MatrixScreen, seed=2):
    """The backend with a screen by the matrix units."""
    device = Emulated(capability, seed=seed, options=options)
    return GpuBackend(device, screen(device, mode("fp16", capability)))


class InTwoSteps(MatrixScreen):
    """Whatever the number of rows and tiles."""

    least_tiles = least_rows = 1


class TestMatrix(BackendConformance):
    screen: type[MatrixScreen] = MatrixScreen

    # What no screen has a part in.
    test_distance_is_the_definition = test_total_is_exact = test_total_refuses_infinity = test_column_range = None
    test_sums_are_the_integers_of_the_definition = test_moving_rows_equals_summing_again = None
    test_seeding_draws = test_means_and_what_they_gain = None

    @pytest.fixture
    def backend(self):
        return by_matrix(screen=self.screen)

    def tracker(self, backend, x, c):
        return Tracked()

    @pytest.mark.parametrize(("capability", "options"), [((8, 6), ()), ((9, 0), ALIGNED)])
    @pytest.mark.parametrize("d", [16, 47, 128, 144, 512])
    def test_every_edge_of_a_tile(self, d, capability, options):
        """Rows and centroids a tile has, one less and one more; those of 144 features stay only where there is room."""
        rng = np.random.default_rng(d)
        backend = by_matrix(capability, options, self.screen)
        for n, k in ((127, 129), (128, 127), (129, 128), (257, 5), (3, 257)):
            x = rng.normal(size=(n, d)).astype(np.float32)
            c = (x[rng.integers(0, n, k)] + 0.1 * rng.normal(size=(k, d))).astype(np.float32)
            self.check_labels(backend, x, c)

    @pytest.mark.parametrize("name", HARD)
    def test_hard_data_where_addends_are_aligned(self, name):
        x, c = hard_data(name, np.float32, np.random.default_rng(3))
        self.check_labels(by_matrix((8, 0), ALIGNED, self.screen), x, c)

    @pytest.mark.parametrize("seed", [0, 1, 5])
    def test_the_screen_alone_settles_what_is_far_apart(self, seed):
        rng = np.random.default_rng(seed)
        c = 20 * rng.normal(size=(300, 70)).astype(np.float32)
        expected = rng.integers(0, 300, 400)
        x = c[expected] + rng.normal(size=(400, 70)).astype(np.float32)
        labels, backend = np.empty(400, np.int32), by_matrix(screen=self.screen, seed=seed)
        assert backend.assign(x, backend.prepare(c, frame_of(x)), labels) == 0
        np.testing.assert_array_equal(labels, expected)

    @pytest.mark.parametrize("power", [5, 13, 19, 25, 130])
    def test_centroids_far_beyond_the_rows(self, backend, power):
        """Half their squares do not fit float32, nor do they."""
        rng = np.random.default_rng(power)
        x, c = rng.normal(size=(200, 9)), 10.0**power * rng.normal(size=(140, 9))
        self.check_labels(backend, x, c)
        c[70] = x[0]
        self.check_labels(backend, x, c)

    @pytest.mark.parametrize("options", [(), ALIGNED])
    @pytest.mark.parametrize("part", [1.0, 0.5])
    def test_half_the_bound_is_not_enough(self, part, options):
        """Both centroids of a pair are rounded to the row between them, the nearer one from the other side."""
        rng = np.random.default_rng(7)
        signs = rng.choice([-1.0, 1.0], (60, 16))
        c = np.concatenate([(1 - 2.0**-12) * signs, (1 + 0.96875 * 2.0**-12) * signs]).astype(np.float32)
        assert wrong(
            by_matrix(options=options, screen=scaled(self.screen, part, part)), signs.astype(np.float32), c
        ) == (part < 1)

    @pytest.mark.parametrize("options", [(), ALIGNED])
    @pytest.mark.parametrize("part", [1.0, 0.0])
    def test_sums_are_not_exact(self, part, options):
        """Vectors that float16 holds, of which two are about as near."""
        rng = np.random.default_rng(8)
        x, away = rng.integers(-1000, 1000, (100, 40)), rng.integers(1, 1000, (100, 40))
        away[:, 0] = 1
        nearer = np.hstack([np.zeros((100, 1), int), rng.permuted(away[:, 1:], axis=1)])
        c = np.concatenate([x + away, x + nearer])
        assert wrong(by_matrix(options=options, screen=scaled(self.screen, part, 1.0)), x.astype(np.float32), c) == (
            part < 1
        )


class TestMatrixInTwoSteps(TestMatrix):
    screen = InTwoSteps
    # Made by other kernels.
    test_pool = None

    def test_steps(self, backend):
        """Of labels that are wanted with the second nearest there is one."""
        rng = np.random.default_rng(1)
        x, c = rng.normal(size=(200, 9)).astype(np.float32), rng.normal(size=(300, 9)).astype(np.float32)
        backend.assign(x, backend.prepare(c, frame_of(x)), np.empty(200, np.int32))
        launched = backend.device.launched
        assert launched["matrix.find_tiles"] == launched["matrix.label_within"] == 1 and not launched["matrix.label"]
        backend.assign_two(x, backend.prepare(c, frame_of(x)))
        assert launched["matrix.find_tiles"] == launched["matrix.label"] == 1


def wrong(backend, x, c):
    """Whether labels are, about an origin that rounds nothing away."""
    c, labels = c.astype(np.float32), np.empty(len(x), np.int32)
    backend.assign(x, backend.prepare(c, Frame(np.zeros(x.shape[1]), float(np.abs(x).max()))), labels)
    return bool((labels != fast_distances(x, c).argmin(axis=1)).any())


def scaled(screen, sums, rounding):
    """A screen that takes this part of what sums, and what rounded vectors, may err by."""

    class Scaled(screen):
        def _launch(self, kernel, blocks, rows, packed, *args):
            def less(array):
                return self._device.place(np.asarray(self._device.fetch(array)) * np.float32(rounding))

            rows = replace(rows, residuals=less(rows.residuals))
            errors = tuple(sums * e for e in packed.errors)
            super()._launch(kernel, blocks, rows, replace(packed, residual=less(packed.residual), errors=errors), *args)

    return Scaled
