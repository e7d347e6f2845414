"""The contenders beside gpukm on a GPU: matrix products of torch and CuPy, and libraries for k-means."""

from __future__ import annotations

import site
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from gpu_contenders import Absent, Assigning, Data, Fit, Fitting, Peer, needed, needs_cuda, tensors

#: A shift below which no centroid moved at all, for libraries that stop below their tolerance and not at it.
NOTHING = 1e-30
#: Scores that a chunked matrix product writes at a time.
CHUNK_SCORES = 1 << 26
#: Rows at a time in fastkmeans, as its own predict takes them.
FASTKMEANS_ROWS = 51_200
FASTKMEANS_TILE = 128


class PlainTorch(Peer):
    """A matrix product and an argmin, chunk by chunk; ``tf32`` lets float32 go through the matrix units."""

    package = "torch"
    kinds = ("float32", "bfloat16")

    def __init__(self, tf32: bool) -> None:
        self.torch, self.tf32 = needed("torch"), tf32

    def labels(self, x: Any, c: Any) -> Any:
        """Nearest centroids, chunk by chunk."""
        torch = self.torch
        half, transposed = 0.5 * (c.float() * c.float()).sum(1).to(c.dtype), c.t().contiguous()
        found = torch.empty(len(x), dtype=torch.int64, device=x.device)
        step = max(1, CHUNK_SCORES // len(c))
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high" if self.tf32 else "highest")
        try:
            for i in range(0, len(x), step):
                torch.argmin(torch.addmm(half, x[i : i + step], transposed, alpha=-1), 1, out=found[i : i + step])
        finally:
            torch.set_float32_matmul_precision(before)
        return found

    def assigning(self, data: Data) -> Assigning:
        x, c = tensors(data)
        return lambda: self.labels(x, c)

    def fitting(self, data: Data, iterations: int, converge: bool) -> Fitting:
        torch, (x, start) = self.torch, tensors(data)

        def fit() -> Fit:
            c, made = start.clone(), 0
            while made < iterations:
                made += 1
                labels = self.labels(x, c)
                counts = torch.bincount(labels, minlength=len(c)).to(x.dtype)[:, None]
                sums = torch.zeros_like(c).index_add_(0, labels, x)
                moved = torch.where(counts > 0, sums / counts.clamp(min=1), c)
                if converge and torch.equal(moved, c):
                    break
                c = moved
            return Fit(c, made)

        return fit


class PlainCupy(Peer):
    """The same through CuPy, on the same memory."""

    package = "cupy"

    def __init__(self) -> None:
        self.cupy = needed("cupy")
        needs_cuda()

    def assigning(self, data: Data) -> Assigning:
        cupy = self.cupy
        x, c = (cupy.from_dlpack(tensor) for tensor in tensors(data))
        step = max(1, CHUNK_SCORES // len(c))

        def run() -> Any:
            half, found = 0.5 * (c * c).sum(1), cupy.empty(len(x), np.int64)
            for i in range(0, len(x), step):
                found[i : i + step] = (half - x[i : i + step] @ c.T).argmin(1)
            return found

        return run


class FlashKmeans(Peer):
    """flash-kmeans: its assignment kernel, given |x|^2, which its fits compute once; and its fit."""

    package = "flash-kmeans"
    kinds = ("float32", "bfloat16")

    def __init__(self) -> None:
        needs_cuda()
        self.kernel = needed("flash_kmeans.assign_euclid_triton").euclid_assign_triton
        self.fit = needed("flash_kmeans.kmeans_triton_impl").batch_kmeans_Euclid
        self.stream = needed("flash_kmeans.kmeans_large").kmeans_largeN

    def assigning(self, data: Data) -> Assigning:
        x, c = tensors(data)
        squares = (x * x).sum(1)[None]
        return lambda: self.kernel(x[None], c[None].contiguous(), squares).reshape(-1)

    def fitting(self, data: Data, iterations: int, converge: bool) -> Fitting:
        x, start = tensors(data)

        def fit() -> Fit:
            _, c, made = self.fit(
                x[None], len(start), max_iters=iterations, tol=NOTHING if converge else 0.0,
                init_centroids=start.clone()[None],
            )  # fmt: skip
            return Fit(c[0], int(made))

        return fit

    def passing(self, x: np.ndarray, start: np.ndarray, iterations: int) -> Callable[[], Any]:
        return _large(self.stream, x, start, iterations)


class Flashlib(Peer):
    """flashlib, through its dispatcher; ``path`` names the assignment kernel, as its fits would call it."""

    package = "flashlib"
    kinds = ("float32", "bfloat16")

    def __init__(self, path: str) -> None:
        needs_cuda()
        self.path, kmeans = path, needed("flashlib.primitives.kmeans")
        self.fit, self.stream = kmeans.flash_kmeans, kmeans.kmeans_largeN
        self.kernel = kmeans.euclid_assign_triton
        if path == "cutedsl":
            optional = needed("flashlib._optional")
            if not optional.has_cutedsl():
                raise Absent(f"its CuTe kernels cannot be used: {optional._cutedsl_problem()}")
            self.kernel, self.kinds = kmeans.cutedsl_assign_euclid, ("bfloat16",)

    def assigning(self, data: Data) -> Assigning:
        x, c = tensors(data)
        return lambda: self.kernel(x[None], c[None].contiguous()).reshape(-1)

    def fitting(self, data: Data, iterations: int, converge: bool) -> Fitting:
        x, start = tensors(data)

        def fit() -> Fit:
            # It writes centroids over its start.
            _, c, made = self.fit(
                x, len(start), max_iters=iterations, tol=NOTHING if converge else 0.0,
                init_centroids=start.clone(), backend=self.path,
            )  # fmt: skip
            return Fit(c.reshape(start.shape), int(made))

        return fit

    def passing(self, x: np.ndarray, start: np.ndarray, iterations: int) -> Callable[[], Any]:
        return _large(self.stream, x, start, iterations)


class FastKmeans(Peer):
    """fastkmeans: its Triton kernel chunk by chunk, and its loop on rows that lie on the device.

    It takes no start but the first rows of a random order, so its rows are ordered such that these are the right ones.
    Its kernel does not leave out what lies beyond the last centroid of a tile, so it is only given whole tiles.
    """

    package = "fastkmeans"

    def __init__(self) -> None:
        needs_cuda()
        self.torch = needed("torch")
        self.kernel = needed("fastkmeans.triton_kernels").triton_kmeans
        self.loop = needed("fastkmeans.kmeans")._kmeans_torch_double_chunked

    def whole(self, data: Data) -> tuple[Any, Any]:
        """Rows and starting rows, where these fill tiles."""
        if len(data.rows) % FASTKMEANS_TILE:
            raise Absent(f"its labels are right for multiples of {FASTKMEANS_TILE} clusters only")
        return tensors(data)

    def assigning(self, data: Data) -> Assigning:
        x, c = self.whole(data)
        squares, found = (x * x).sum(1), self.torch.zeros(len(x), dtype=self.torch.int64, device=x.device)

        def run() -> Any:
            norms = (c * c).sum(1)
            for i in range(0, len(x), FASTKMEANS_ROWS):
                rows = slice(i, i + FASTKMEANS_ROWS)
                self.kernel(x[rows], squares[rows], c, norms, found[rows])
            return found

        return run

    def fitting(self, data: Data, iterations: int, converge: bool) -> Fitting:
        torch, (x, start) = self.torch, self.whole(data)
        torch.manual_seed(0)
        order = ordered(torch.randperm(len(x)).numpy(), data.rows)
        x = x[torch.from_numpy(order).to(x.device)]
        squares = (x * x).sum(1)

        def fit() -> Fit:
            torch.manual_seed(0)
            c, _ = self.loop(
                x, squares, len(start), x.device, dtype=torch.float32, max_iters=iterations,
                tol=NOTHING if converge else 0.0, chunk_size_data=FASTKMEANS_ROWS, max_points_per_centroid=None,
                use_triton=True,
            )  # fmt: skip
            return Fit(c, iterations)

        return fit


class Cuml(Peer):
    """cuML's KMeans, from a given start."""

    package = "cuml"

    def __init__(self) -> None:
        needs_cuda()
        self.cupy, self.model = needed("cupy"), needed("cuml.cluster").KMeans

    def fitting(self, data: Data, iterations: int, converge: bool) -> Fitting:
        x, start = (self.cupy.from_dlpack(tensor) for tensor in tensors(data))

        def fit() -> Fit:
            model = self.model(
                n_clusters=len(start), init=start, n_init=1, max_iter=iterations, tol=0.0, output_type="cupy"
            )
            model.fit(x)
            return Fit(model.cluster_centers_, int(model.n_iter_))

        return fit


class Cuvs(Peer):
    """cuVS's k-means, from a given start."""

    package = "cuvs"

    def __init__(self) -> None:
        needs_cuda()
        self.cupy, self.kmeans = needed("cupy"), needed("cuvs.cluster.kmeans")

    def assigning(self, data: Data) -> Assigning:
        cupy = self.cupy
        x, c = (cupy.from_dlpack(tensor) for tensor in tensors(data))
        settings = self.kmeans.KMeansParams(n_clusters=len(c), init_method="Array")
        return lambda: cupy.asarray(self.kmeans.predict(settings, x, c)[0])

    def fitting(self, data: Data, iterations: int, converge: bool) -> Fitting:
        cupy = self.cupy
        x, start = (cupy.from_dlpack(tensor) for tensor in tensors(data))
        settings = self.kmeans.KMeansParams(
            n_clusters=len(start), init_method="Array", n_init=1, max_iter=iterations, tol=0.0
        )

        def fit() -> Fit:
            c, _, made = self.kmeans.fit(settings, x, start.copy())
            return Fit(cupy.asarray(c), int(made))

        return fit


#: Contenders beside gpukm, by name.
PEERS: dict[str, Callable[[], Peer]] = {
    "flashlib triton": lambda: Flashlib("triton"),
    "flashlib cutedsl": lambda: Flashlib("cutedsl"),
    "flash-kmeans": FlashKmeans,
    "fastkmeans": FastKmeans,
    "torch tf32": lambda: PlainTorch(True),
    "torch float32": lambda: PlainTorch(False),
    "cupy": PlainCupy,
    "cuml": Cuml,
    "cuvs": Cuvs,
}


def importable() -> tuple[dict[str, Peer], dict[str, str]]:
    """The peers that can be used here, and the others with the reason."""
    found: dict[str, Peer] = {}
    absent: dict[str, str] = {}
    for name, make in PEERS.items():
        try:
            found[name] = make()
        except Absent as error:
            absent[name] = str(error)
    return found, absent


def unpack(folder: Path, into: Path) -> None:
    """Make what a folder of wheels or an unpacked site folder holds importable."""
    wheels = sorted(folder.glob("*.whl"))
    for wheel in wheels:
        # Triton reads the sources of kernels, which it cannot from within an archive.
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(into)
    # Behind what is installed; a package may name folders of its own in a .pth file.
    site.addsitedir(str(into if wheels else folder))


def ordered(drawn: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """An order of all rows in which ``rows`` stand where ``drawn``, a permutation, looks first."""
    n, k = len(drawn), len(rows)
    order, others = np.empty(n, np.int64), np.ones(n, bool)
    others[rows] = False
    order[drawn[:k]], order[drawn[k:]] = rows, np.flatnonzero(others)
    return order


def _large(stream: Callable[..., Any], x: np.ndarray, start: np.ndarray, iterations: int) -> Callable[[], Any]:
    """flash-kmeans and flashlib on rows that stay in the host's memory."""
    torch = needed("torch")
    rows, c = torch.from_numpy(x), torch.from_numpy(start).cuda()
    # One device: without its name all that there are share the work.
    return lambda: stream(rows, len(c), max_iters=iterations, tol=0.0, init_centroids=c.clone(), device="cuda:0")
