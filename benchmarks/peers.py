"""The contenders: one adapter each, with sampling, restarts and early stops of their own switched off.

An adapter gets the problem and the number of threads, prepares what is not part of a fit, and returns a function that
fits: it takes the number of iterations and returns a :class:`Fit`. The stop rule is one for all: strict convergence, or
that many iterations. Who cannot tell convergence makes exactly as many as told (``converges`` is False).
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from data import Problem

UNLIMITED = 1 << 30
MINI_BATCH_ROWS, MINI_BATCH_STEPS = 1024, 25
SUPERKMEANS_SEED = 42


@dataclass(frozen=True)
class Fit:
    """What a contender arrived at.

    Attributes
    ----------
    centroids : ndarray of shape (k, d)
    iterations : int
        Iterations made, by the contender's own count where it keeps one.
    inertia : float or None
        As the contender reports it.
    training_seconds : float or None
        Time to the centroids alone, where labels take a second call.
    """

    centroids: np.ndarray
    iterations: int
    inertia: float | None = None
    training_seconds: float | None = None


FitFunction = Callable[[int], Fit]


def gpukm(problem: Problem, threads: int) -> FitFunction:
    """gpukm: certified exact labels."""
    from gpukm import kmeans

    def fit(iterations: int) -> Fit:
        start = problem.x[problem.rows]
        found = kmeans(problem.x, problem.k, init=start, max_iter=iterations, tol=0)
        return Fit(found.centroids, found.n_iter, found.inertia)

    return fit


def scikit_learn(problem: Problem, threads: int) -> FitFunction:
    """scikit-learn's Lloyd; tol=0 stops at strict convergence. Threads by OMP_NUM_THREADS."""
    from sklearn.cluster import KMeans

    def fit(iterations: int) -> Fit:
        start = problem.x[problem.rows]
        model = KMeans(problem.k, init=start, n_init=1, max_iter=iterations, tol=0, algorithm="lloyd").fit(problem.x)
        return Fit(model.cluster_centers_, model.n_iter_, float(model.inertia_))

    return fit


def intelex(problem: Problem, threads: int) -> FitFunction:
    """scikit-learn-intelex by its own class, so that scikit-learn stays as it is; tol=0 stops at convergence."""
    from sklearnex.cluster import KMeans

    def fit(iterations: int) -> Fit:
        start = problem.x[problem.rows]
        model = KMeans(problem.k, init=start, n_init=1, max_iter=iterations, tol=0, algorithm="lloyd", n_jobs=threads)
        model.fit(problem.x)
        return Fit(np.asarray(model.cluster_centers_), int(model.n_iter_), float(model.inertia_))

    return fit


def faiss(problem: Problem, threads: int) -> FitFunction:
    """faiss.Kmeans on all rows; its stop where a float32 objective repeats is off, and labels come from its index."""
    import faiss as library

    library.omp_set_num_threads(threads)

    def fit(iterations: int) -> Fit:
        start = problem.x[problem.rows]
        began = time.perf_counter()
        model = library.Kmeans(
            problem.x.shape[1],
            problem.k,
            niter=iterations,
            max_points_per_centroid=UNLIMITED,
            min_points_per_centroid=1,
            early_stop_threshold=-1.0,
        )
        model.train(problem.x, init_centroids=start)
        trained = time.perf_counter() - began
        model.index.search(problem.x, 1)
        return Fit(model.centroids, len(model.iteration_stats), training_seconds=trained)

    return fit


def superkmeans(problem: Problem, threads: int) -> FitFunction:
    """superkmeans, flat, on all rows: approximate. It takes no start, so the starting rows are put where it looks.

    Its start is the first rows of ``std::shuffle`` over a Mersenne twister. A copy of the rows is ordered so
    that these are the problem's; one iteration is made beforehand and must lead where Lloyd's leads from there.
    """
    from superkmeans import SuperKMeans

    n = len(problem.x)
    places, here = _shuffled(n, SUPERKMEANS_SEED)[: problem.k], np.empty(n, np.int64)
    here[places] = problem.rows
    here[np.delete(np.arange(n), places)] = np.delete(np.arange(n), problem.rows)
    x = problem.x[here]

    def model_of(iterations: int) -> SuperKMeans:
        return SuperKMeans(
            problem.k,
            x.shape[1],
            hierarchical=False,
            iters=iterations,
            sampling_fraction=1.0,
            max_points_per_cluster=UNLIMITED,
            tol=0.0,
            early_termination=False,
            n_threads=threads,
            seed=SUPERKMEANS_SEED,
        )

    moved = np.abs(model_of(1).train(x) - _one_iteration(problem)).max(axis=1)
    if np.median(moved) > 1e-3 * np.abs(problem.x).max():
        raise RuntimeError("it does not start from the rows it was given; has its drawing of a start changed?")

    def fit(iterations: int) -> Fit:
        began = time.perf_counter()
        model = model_of(iterations)
        centroids = model.train(x)
        trained = time.perf_counter() - began
        _superkmeans_labels(model, x, centroids)
        return Fit(centroids, iterations, training_seconds=trained)

    return fit


def superkmeans_hierarchical(problem: Problem, threads: int) -> FitFunction:
    """superkmeans, hierarchical, on all rows, from a start of its own; iterations are refinements plus one."""
    from superkmeans import SuperKMeans

    def fit(iterations: int) -> Fit:
        began = time.perf_counter()
        model = SuperKMeans(
            problem.k,
            problem.x.shape[1],
            hierarchical=True,
            iters_refinement=iterations - 1,
            sampling_fraction=1.0,
            max_points_per_cluster=UNLIMITED,
            tol=0.0,
            early_termination=False,
            n_threads=threads,
            seed=SUPERKMEANS_SEED,
        )
        centroids = model.train(problem.x)
        trained = time.perf_counter() - began
        _superkmeans_labels(model, problem.x, centroids)
        return Fit(centroids, iterations, training_seconds=trained)

    return fit


def gpukm_seeded(problem: Problem, threads: int) -> FitFunction:
    """A start of its own, the one that ``init="auto"`` takes, and Lloyd's; the start counts."""
    from gpukm import kmeans

    def fit(iterations: int) -> Fit:
        found = kmeans(problem.x, problem.k, init="auto", seed=0, max_iter=iterations, tol=0)
        return Fit(found.centroids, found.n_iter, found.inertia)

    return fit


def gpukm_plain(problem: Problem, threads: int) -> FitFunction:
    """All rows labelled anew in every iteration, as if there were nothing to remember: what overhead.py compares."""
    from gpukm.backends.cpu import CpuBackend

    def no_tracker(*_: object) -> None:
        return None

    CpuBackend.tracker = no_tracker  # type: ignore[method-assign]
    return gpukm(problem, threads)


def gpukm_mini_batch(problem: Problem, threads: int) -> FitFunction:
    """MiniBatchKMeans of gpukm; iterations i ask for an inertia that more would lower by 10% / i. Threads by OMP."""
    return _gpukm_mini_batch(problem, problem.x[problem.rows])


def gpukm_seeded_mini_batch(problem: Problem, threads: int) -> FitFunction:
    """The same from a start of its own, in its time."""
    return _gpukm_mini_batch(problem, "pooled")


def _gpukm_mini_batch(problem: Problem, init: np.ndarray | str) -> FitFunction:
    """Mini-batches from given rows, or by a method."""
    from gpukm import MiniBatchKMeans

    def fit(iterations: int) -> Fit:
        model = MiniBatchKMeans(problem.k, init=init, max_excess=0.1 / iterations, compute_labels=False, random_state=0)
        return Fit(model.fit(problem.x).cluster_centers_, iterations)

    return fit


def mini_batch(problem: Problem, threads: int) -> FitFunction:
    """MiniBatchKMeans of scikit-learn; an iteration is 25 batches of 1,024 random rows, drawn as its fit draws them."""
    from sklearn.cluster import MiniBatchKMeans

    def fit(iterations: int) -> Fit:
        rng = np.random.RandomState(0)
        start = problem.x[problem.rows]
        began = time.perf_counter()
        model = MiniBatchKMeans(problem.k, init=start, n_init=1, batch_size=MINI_BATCH_ROWS, random_state=rng)
        for _ in range(iterations * MINI_BATCH_STEPS):
            model.partial_fit(problem.x[rng.randint(0, len(problem.x), MINI_BATCH_ROWS)])
        trained = time.perf_counter() - began
        model.predict(problem.x)
        return Fit(model.cluster_centers_, iterations, training_seconds=trained)

    return fit


@dataclass(frozen=True)
class Contender:
    """Who takes part.

    Attributes
    ----------
    prepare : function of a Problem and a number of threads, giving the fit
    module, package : str
        What it imports, and what pip installs.
    converges : bool
        It stops by itself when nothing changes.
    lloyd : bool
        It makes Lloyd's iterations on all rows, up to rounding: its time may be set against others'.
    """

    prepare: Callable[[Problem, int], FitFunction]
    module: str
    package: str
    converges: bool
    lloyd: bool


GPUKM, SCIKIT_LEARN = "gpukm", "scikit-learn"
CONTENDERS = {
    GPUKM: Contender(gpukm, "gpukm", "gpukm", converges=True, lloyd=True),
    SCIKIT_LEARN: Contender(scikit_learn, "sklearn", "scikit-learn", converges=True, lloyd=True),
    "intelex": Contender(intelex, "sklearnex", "scikit-learn-intelex", converges=True, lloyd=True),
    "faiss": Contender(faiss, "faiss", "faiss-cpu", converges=False, lloyd=True),
    "superkmeans": Contender(superkmeans, "superkmeans", "superkmeans", converges=False, lloyd=False),
    "superkmeans-hierarchical": Contender(
        superkmeans_hierarchical, "superkmeans", "superkmeans", converges=False, lloyd=False
    ),
    "gpukm-seeded": Contender(gpukm_seeded, "gpukm", "gpukm", converges=True, lloyd=False),
    "gpukm-plain": Contender(gpukm_plain, "gpukm", "gpukm", converges=True, lloyd=True),
    "gpukm-mini-batch": Contender(gpukm_mini_batch, "gpukm", "gpukm", converges=False, lloyd=False),
    "gpukm-seeded-mini-batch": Contender(gpukm_seeded_mini_batch, "gpukm", "gpukm", converges=False, lloyd=False),
    "mini-batch": Contender(mini_batch, "sklearn", "scikit-learn", converges=False, lloyd=False),
}
PACKAGES = (*dict.fromkeys(c.package for c in CONTENDERS.values() if c.package != GPUKM), "numpy")


def chosen(names: str) -> tuple[list[str], dict[str, str]]:
    """Contenders of a comma-separated list, gpukm first, and those left out with the reason."""
    wanted = [GPUKM, *(name for name in names.split(",") if name != GPUKM)]
    unknown = [name for name in wanted if name not in CONTENDERS]
    if unknown:
        raise SystemExit(f"no contender is named {', '.join(unknown)}; known are {', '.join(CONTENDERS)}")
    absent = {
        name: f"{CONTENDERS[name].package} is not installed: pip install {CONTENDERS[name].package}"
        for name in wanted
        if importlib.util.find_spec(CONTENDERS[name].module) is None
    }
    return [name for name in wanted if name not in absent], absent


def _superkmeans_labels(model: object, x: np.ndarray, centroids: np.ndarray) -> None:
    """Labels by superkmeans' faster call, which few clusters or features make it refuse."""
    if len(centroids) > 128 and x.shape[1] >= 128:
        model.assign_training_points(x, centroids)
    else:
        model.assign(x, centroids)


def _one_iteration(problem: Problem) -> np.ndarray:
    """Means of the rows nearest to each starting row, in float64; an empty cluster stays where it is."""
    from verify import nearest

    start = problem.x[problem.rows].astype(np.float64)
    labels = nearest(problem.x, start)
    counts = np.bincount(labels, minlength=problem.k)
    sums = np.stack([np.bincount(labels, column, problem.k) for column in problem.x.T], axis=1)
    return np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], start)


def _shuffled(n: int, seed: int) -> np.ndarray:
    """What ``std::shuffle`` of libstdc++ makes of 0 .. n-1 with ``std::mt19937(seed)``.

    Bounded draws are Lemire's ("Fast random integer generation in an interval", 2019); while n**2 fits into 32 bits,
    two positions come from one draw.
    """
    rng, drawn = np.random.RandomState(seed), iter(())

    def below(limit: int) -> int:
        nonlocal drawn
        while True:
            word = next(drawn, None)
            if word is None:
                drawn = iter(rng.randint(0, 1 << 32, 1 << 16, dtype=np.uint32).tolist())
                continue
            product = word * limit
            if product & 0xFFFFFFFF >= ((1 << 32) - limit) % limit:
                return product >> 32

    order, i = list(range(n)), 1

    def swap(other: int) -> None:
        nonlocal i
        order[i], order[other] = order[other], order[i]
        i += 1

    if n * n > 0xFFFFFFFF:
        while i < n:
            swap(below(i + 1))
    elif n > 1:
        if n % 2 == 0:
            swap(below(2))
        while i < n:
            first, second = divmod(below((i + 1) * (i + 2)), i + 2)
            swap(first)
            swap(second)
    return np.array(order)
