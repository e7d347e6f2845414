"""What the algorithm asks of hardware.

Every method but the screening inside :meth:`Backend.assign` is defined to the bit (DESIGN contracts 1 and 2), so
backends differ in speed only. The distance D(x, c) is the sum of squared differences of the stored values in
float64: lane l of eight adds the squares of features l, l+8, ... from +0, then ((0+4)+(2+6))+((1+5)+(3+7)), with no
fused multiply-add.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpukm.backends.batch import Fits, Problems
from gpukm.core.stats import ClusterStats, Grid

#: Rows whose shares :meth:`Backend.share_totals` adds up to one number.
SHARE_ROWS = 1 << 14


#: The square of how many times as far as rows are from the centre this may be from the origin; three for rows of evenly
#: distributed numbers from zero on.
_NEAR = 4.0


@dataclass(frozen=True)
class Frame:
    """Where screening puts its origin; private to screening, so it may differ between runs.

    Attributes
    ----------
    center : ndarray of float64 of shape (n_features,)
        A robust centre of the data, representable in the working dtype.
    radius : float
        Upper bound of ``|x - center|`` over all features and rows.
    stored : str or None
        The type that all rows lie in on a device, if they can be told apart about the origin about as well as about the
        centre; None otherwise, and on the host.
    """

    center: np.ndarray
    radius: float
    stored: str | None = None

    @classmethod
    def of(
        cls,
        sample: np.ndarray,
        minimum: np.ndarray,
        maximum: np.ndarray,
        dtype: np.dtype,
        stored: str | None = None,
    ) -> Frame:
        """The median of a sample of rows (m, n_features), and how far data reaches from it.

        ``minimum`` and ``maximum`` (n_features,) are of all rows, ``dtype`` is the working one, and ``stored`` the type
        that rows lie in on a device.
        """
        center = np.median(sample, axis=0).astype(dtype).astype(np.float64)
        # Of most rows, as some may lie anywhere.
        spread = np.median(((sample - center) ** 2).sum(axis=1))
        near = (center**2).sum() <= _NEAR * spread
        return cls(center, float(np.maximum(maximum - center, center - minimum).max()), stored if near else None)

    def same(self, other: Frame | None) -> bool:
        """Whether it is this frame, which a cluster may have sent twice."""
        if other is None or self is other:
            return self is other
        alike = (self.radius, self.stored) == (other.radius, other.stored)
        return alike and np.array_equal(self.center, other.center)


@dataclass(frozen=True)
class Effort:
    """What labelling all rows once took; mergeable.

    Attributes
    ----------
    plans : frozenset of {"plain", "fill", "follow", "boxes", "heads"}
        All rows labelled without bounds; the same, and bounds left for the next time; bounds followed; rows sorted into
        boxes, of which those with one nearest centroid are settled at once; rows and centroids compared in their
        first principal directions, and only where these leave it open in all.
    n_scored, n_pairs : int
        Pairs that were scored of a row and a group of centroids, or with boxes or heads a centroid, of so many.
    n_movers : int
        Centroids that stood apart, because they moved most, and that all rows were scored against.
    """

    plans: frozenset[str]
    n_scored: int
    n_pairs: int
    n_movers: int = 0

    def merge(self, other: Effort) -> Effort:
        """Both parts together."""
        return Effort(
            self.plans | other.plans,
            self.n_scored + other.n_scored,
            self.n_pairs + other.n_pairs,
            max(self.n_movers, other.n_movers),
        )

    def __str__(self) -> str:
        words = {
            "plain": "without bounds",
            "fill": "leaving bounds",
            "follow": "following bounds",
            "boxes": "in boxes",
            "heads": "by first directions",
        }
        share = self.n_scored / self.n_pairs if self.n_pairs else 1.0
        apart = f", {self.n_movers} centroids apart" if self.n_movers else ""
        return f"{' and '.join(words[plan] for plan in sorted(self.plans))}, {share:.1%} scored{apart}"


@dataclass(frozen=True)
class Rechecks:
    """What it took to label rows that a screen did not settle.

    Attributes
    ----------
    n_pairs : int
        Pairs of such a row and a centroid that bounds had left, decided by D.
    n_crowded : int
        Rows that left more pairs than there was room for, and were compared with all centroids by D.
    """

    n_pairs: int
    n_crowded: int

    def __add__(self, other: Rechecks) -> Rechecks:
        return Rechecks(self.n_pairs + other.n_pairs, self.n_crowded + other.n_crowded)

    def __sub__(self, other: Rechecks) -> Rechecks:
        return Rechecks(self.n_pairs - other.n_pairs, self.n_crowded - other.n_crowded)


@dataclass(frozen=True)
class Made:
    """Iterations that a backend made by itself.

    Attributes
    ----------
    centroids : ndarray of shape (k, n_features)
        What the last one arrived at.
    lines : ndarray of float64 of shape (n_iterations, 4)
        Of each: summed shift, summed gain of :meth:`Backend.means`, rows that moved, rows rechecked.
    settled : bool
        The last one changed no centroid.
    pending : tuple of (int, int) or None
        Rows moved and rechecked in an iteration that was begun and has a cluster without weight, so that it has to be
        made again, from ``centroids``, and seen to.
    effort : Effort or None
        What labelling took, in these iterations together; None where no bounds were followed.
    """

    centroids: np.ndarray
    lines: np.ndarray
    settled: bool
    pending: tuple[int, int] | None = None
    effort: Effort | None = None


@dataclass(frozen=True)
class DevicePlan:
    """What a fit will take on a GPU.

    Attributes
    ----------
    device : str
    room_bytes : int
        What may be taken there.
    memory_bytes : int
        What is expected to be taken.
    resident : bool
        All rows are kept there; otherwise every pass copies them, ``batch_rows`` at a time.
    batch_rows : int
    locked_bytes : int
        Of the host's memory, what is page-locked for these copies as long as the fit lasts.
    """

    device: str
    room_bytes: int
    memory_bytes: int
    resident: bool
    batch_rows: int
    locked_bytes: int = 0


class Pool(ABC):
    """Rows that may become centres, chosen one by one by what they gain.

    Parameters
    ----------
    x : ndarray of shape (n, n_features)
    weight : ndarray of float64 of shape (n,) or None
    labels : ndarray of int32 of shape (n,)
        The centre that each row is nearest to.
    nearest : ndarray of float64 of shape (n,)
        D of each row to it; both change in place with every choice.
    """

    def __init__(self, x: np.ndarray, weight: np.ndarray | None, labels: np.ndarray, nearest: np.ndarray) -> None:
        self.x, self.weight, self.labels, self.nearest = x, weight, labels, nearest

    @abstractmethod
    def add(self, rows: np.ndarray) -> None:
        """Take rows (m,) int64 as candidates; of those with the same bits one may stand for all, the first."""

    @abstractmethod
    def choose(self, n: int, first: int, exponent: int, enough: int) -> np.ndarray:
        """Choose n candidates at most, each time the one of the largest gain, the first that was added of equals.

        They become the centres ``first``, ``first + 1`` and so on.

        A gain is what a choice takes from the sum of ``rint(w * nearest * 2**exponent)``. Fewer are chosen where they
        gained ``enough`` together, or no other gains anything.

        Returns
        -------
        ndarray of int64 of shape (at most n,)
            Their rows, in the order of choice.
        """


class Backend(ABC):
    """Arithmetic on blocks of rows; ``x`` is C-contiguous, finite, float32 or float64, of shape (n, n_features).

    What has an entry a row (``x``, weights, labels, distances to the nearest seed) may be where the backend works:
    :meth:`place`, :meth:`zeros` and :meth:`fetch` lead there and back. Everything else is NumPy's.
    """

    name: str

    @property
    def certified(self) -> Backend:
        """The backend whose labels are exact: itself, unless it was made to label rows as its screen does."""
        return self

    def rechecks(self) -> Rechecks | None:
        """What was rechecked so far; None where that is not counted."""
        return None

    def place(self, array: np.ndarray) -> Any:
        """The array where the backend works: itself, where that is the host's memory."""
        return array

    def stage(self, blocks: Iterable[tuple[np.ndarray | None, ...]]) -> Iterator[tuple[Any, ...]]:
        """Place blocks of arrays one after another; each may be used until the next is asked for."""
        yield from blocks

    def holds(self, n_samples: int, n_features: int, n_clusters: int, itemsize: int) -> bool:
        """Whether so many rows, and what a fit keeps of them, find room where the backend works."""
        return True

    def batch_rows(self, n_features: int, n_clusters: int, itemsize: int) -> int | None:
        """Rows to work on at a time where :meth:`holds` does not hold; None sets no limit of its own."""
        return None

    def device_plan(self, n_samples: int, n_features: int, n_clusters: int, itemsize: int) -> DevicePlan | None:
        """What a fit of so many rows will take on a device; None on the host."""
        return None

    def fewer_rows(self, rows: int) -> int | None:
        """Rows to work on at a time after so many asked for too much memory; None where that is the end."""
        return None

    def fetch(self, array: Any) -> np.ndarray:
        """Undo :meth:`place`."""
        found: np.ndarray = array
        return found

    def zeros(self, n: int, dtype: Any) -> Any:
        """Zeros where the backend works, of shape (n,)."""
        return np.zeros(n, dtype)

    def take(self, x: Any, rows: np.ndarray) -> np.ndarray:
        """Rows (m,) int64 of a block, on the host, of shape (m, n_features)."""
        found: np.ndarray = x[rows]
        return found

    def sums(self, k: int, d: int, weighted: bool) -> Any:
        """Sums of no rows, for :meth:`accumulate`."""
        return ClusterStats.zero(k, d, weighted)

    def collect(self, sums: Any) -> ClusterStats:
        """A copy of what :meth:`accumulate` added up."""
        return sums.copy()  # type: ignore[no-any-return]

    @abstractmethod
    def prepare(self, centroids: np.ndarray, frame: Frame) -> Any:
        """Pack centroids (k, n_features), in the dtype of the rows, for :meth:`assign`."""

    @abstractmethod
    def assign(self, x: np.ndarray, prepared: Any, labels: np.ndarray) -> int:
        """Write ``argmin_j D(x, c_j)``, ties to the lowest j, into ``labels`` (n,) int32; return the rows rechecked."""

    def tracker(self, x: np.ndarray, centroids: np.ndarray, resident: bool = True) -> Any | None:
        """State that lets :meth:`track` skip work on these rows from call to call; None where it would not pay.

        Rows that are not ``resident`` are read anew for every call, and the state keeps no copy of them.
        """
        return None

    def tracker_bytes(self, n_samples: int, n_features: int, n_clusters: int, itemsize: int) -> int:
        """Memory of the tracker of rows that are not resident."""
        return 0

    def track(
        self,
        tracker: Any,
        x: np.ndarray,
        centroids: np.ndarray,
        frame: Frame,
        labels: np.ndarray,
        before: np.ndarray | None = None,
    ) -> int:
        """As :meth:`assign`, with a tracker; ``before``, or else ``labels``, holds the result of the call before."""
        raise NotImplementedError(f"backend {self.name} makes no trackers")

    def effort(self, tracker: Any) -> Effort:
        """What the last call of :meth:`track` took."""
        raise NotImplementedError(f"backend {self.name} makes no trackers")

    @abstractmethod
    def assign_two(self, x: np.ndarray, prepared: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Labels (n,) int32, D to the nearest and D to the second nearest (n,) float64; inf where k is one."""

    @abstractmethod
    def cross_distances(self, x: np.ndarray, points: np.ndarray) -> np.ndarray:
        """D(x_i, p_j), float64 of shape (n, m)."""

    @abstractmethod
    def distances(self, x: np.ndarray, centroids: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """D(x_i, c_label_i), float64 of shape (n,)."""

    def placed_distances(self, x: np.ndarray, centroids: np.ndarray, labels: np.ndarray) -> Any:
        """As :meth:`distances`, where the backend works."""
        return self.distances(x, centroids, labels)

    @abstractmethod
    def total(self, x: np.ndarray, weight: np.ndarray | None, centroids: np.ndarray, labels: np.ndarray | None) -> int:
        """Exact sum of ``fl64(w * D(x, c_label))`` in units of 2**-1126; labels None are all zero."""

    @abstractmethod
    def column_range(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Smallest and largest value of each feature, float64 (n_features,), of at least one row.

        The one method whose rows may hold NaN or infinity: an end of such a feature is then not finite either.
        """

    @abstractmethod
    def accumulate(
        self,
        stats: Any,
        x: np.ndarray,
        weight: np.ndarray | None,
        labels: np.ndarray,
        previous: np.ndarray | None,
        grid: Grid,
    ) -> int:
        """Add rows to ``stats``, of :meth:`sums` or a ClusterStats, in place; return how many changed cluster.

        With ``previous`` labels (n,) only rows that moved are touched: they leave one sum and join another. No row may
        exceed what the grid was made for.
        """

    @abstractmethod
    def means(
        self, stats: ClusterStats, grid: Grid, previous: np.ndarray, reference: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What sums become: means, how far they moved, and what they gained.

        Parameters
        ----------
        stats : ClusterStats
        grid : Grid
        previous : ndarray of shape (k, n_features)
            Centroids in the working dtype; a cluster without weight keeps its own.
        reference : ndarray of float64 of shape (n_features,)

        Returns
        -------
        means : ndarray of shape (k, n_features)
            Sums over weights, divided in float64, in the working dtype.
        shifts : ndarray of float64 of shape (k,)
            ``D(mean, previous)``.
        gains : ndarray of float64 of shape (k,)
            ``sum_f c_f (W c_f - 2 (S_f - W r_f))``, c being ``previous - reference``, in the lanes and the tree of D:
            ``sum w D(x, previous) - sum w D(x, reference)`` over the cluster's rows, but for rounding.
        """

    def run(
        self,
        tracker: Any,
        sums: Any,
        x: Any,
        weight: Any,
        labels: Any,
        centroids: np.ndarray,
        frame: Frame,
        grid: Grid,
        reference: np.ndarray,
        tolerance: float,
        most: int,
    ) -> Iterator[Made] | None:
        """Iterate by itself, as :func:`gpukm.core.lloyd.iterate` would; None where that is left to the caller.

        Parameters
        ----------
        tracker, sums, x, weight, labels
            The state of a resident shard after a step; ``sums`` and ``labels`` change in place.
        centroids : ndarray of shape (k, n_features)
        tolerance : float
            Ends at a shift that is not above it; negative: only where nothing changes.
        most : int
            Iterations.
        """
        return None

    @abstractmethod
    def lower(self, nearest: np.ndarray, x: np.ndarray, points: np.ndarray) -> None:
        """Set ``nearest`` (n,) float64 to ``min(nearest, min_j D(x, p_j))`` in place."""

    @abstractmethod
    def potentials(
        self, nearest: np.ndarray, x: np.ndarray, weight: np.ndarray | None, points: np.ndarray, exponent: int
    ) -> np.ndarray:
        """Sum over rows of ``rint(w * min(nearest, D(x, p_j)) * 2**exponent)``, int64 of shape (m,)."""

    def share_totals(self, nearest: np.ndarray, weight: np.ndarray | None, exponent: int) -> np.ndarray:
        """Sums of the shares ``rint(w * nearest * 2**exponent)`` of each :data:`SHARE_ROWS` rows in order, int64."""
        blocks = range(-(-len(nearest) // SHARE_ROWS))
        return np.array([_shares(nearest, weight, exponent, b).sum() for b in blocks], np.int64)

    def share_rows(
        self, nearest: np.ndarray, weight: np.ndarray | None, exponent: int, blocks: np.ndarray, targets: np.ndarray
    ) -> np.ndarray:
        """Find rows by their share.

        Parameters
        ----------
        nearest, weight, exponent
            As of :meth:`share_totals`.
        blocks, targets : ndarray of int64 of shape (m,)
            Numbers of blocks of :data:`SHARE_ROWS` rows, and numbers below their totals.

        Returns
        -------
        ndarray of int64 of shape (m,)
            Of each block the first row whose share exceeds the target, together with those before it in the block.
        """
        found = np.empty(len(blocks), np.int64)
        for b in np.unique(blocks):
            here, ends = blocks == b, np.cumsum(_shares(nearest, weight, exponent, b))
            found[here] = b * SHARE_ROWS + np.searchsorted(ends, targets[here], side="right")
        return found

    def takes(self, n_samples: np.ndarray, n_features: int, n_clusters: int) -> np.ndarray:
        """Which of several problems with ``n_samples`` (b,) rows :meth:`solve` is for, bool of shape (b,)."""
        return np.zeros(len(n_samples), bool)

    def solve(self, problems: Problems, chosen: np.ndarray, fits: Fits) -> list[np.ndarray]:
        """Fit the ``chosen`` (c,) int64 of many small problems into ``fits``, each to the bits of a fit of its own.

        Returns the history of each chosen one, float64 of shape (n_iter, 4), as of
        :class:`gpukm.core.batch.BatchedResult`. A problem that stays unsolved is one for the ordinary engine.
        """
        raise NotImplementedError(f"backend {self.name} has no kernel for many small problems")

    @abstractmethod
    def pool(
        self, x: np.ndarray, weight: np.ndarray | None, labels: np.ndarray, nearest: np.ndarray, frame: Frame
    ) -> Pool:
        """Make a pool of no candidates yet; arrays are not copied."""


def _shares(nearest: np.ndarray, weight: np.ndarray | None, exponent: int, block: int) -> np.ndarray:
    """What rows of one block have of the potential, int64."""
    rows = slice(block * SHARE_ROWS, (block + 1) * SHARE_ROWS)
    v = nearest[rows] if weight is None else weight[rows] * nearest[rows]
    return np.rint(v * np.ldexp(1.0, exponent)).astype(np.int64)
