"""Which screen labels rows: the one by matrix units, or where that leaves too many rows to D, the one in float32."""

from __future__ import annotations

from gpukm_kernels.screening import PLAIN

from gpukm.backends.base import Frame
from gpukm.backends.cascade import Cascade, Packed
from gpukm.backends.device import Device
from gpukm.backends.plain_screen import PlainScreen

#: Share of the rows compared with all centroids by D from which float32 scores of all rows should cost less. *Not
#: measured on a GPU*: D takes three float64 instructions a feature where float32 takes one, of twice the rate.
CROWDED = 1 / 6


class Rungs:
    """The cascade that begins with a fast screen, and the one that begins in float32.

    Both give the same labels. Rows that lie close together far from the centre, in units of float16, are told apart
    only by the second one; whether that is so shows in what the first one leaves.

    Parameters
    ----------
    device : Device
    cascade : Cascade
        The one to begin with.

    Attributes
    ----------
    first : Cascade
        As given.
    now : Cascade
        The one to take.
    """

    def __init__(self, device: Device, cascade: Cascade) -> None:
        self._device, self.first, self.now = device, cascade, cascade
        self._finer = Cascade(device, PlainScreen(device, PLAIN), tally=cascade.tally)
        self._may_change = self._changes = cascade.certify and cascade.by_matrix
        self._frame: Frame | None = None
        self._crowded, self._share = self._count() if self._may_change else 0, 0.0

    def of_data(self, frame: Frame) -> None:
        """Begin anew where the data are other ones, as their frame tells."""
        if not frame.same(self._frame):
            self.now, self._may_change = self.first, self._changes
        self._frame = frame

    def of(self, packed: Packed) -> Cascade:
        """The cascade that centroids were packed for."""
        return self.first if packed.screen is self.first.screen else self._finer

    def look(self, rows: int) -> bool:
        """Whether to go on by the other cascade, from what labelling so many rows since the last look has left.

        Nothing is decided by a look after no rows, or none that a cascade labelled alone.
        """
        if not self._may_change:
            return False
        before, self._crowded = self._crowded, self._count()
        if not rows:
            return False
        share = (self._crowded - before) / rows
        if self.now is self.first:
            self.now, self._share = (self._finer if share > CROWDED else self.first), share
            return share > CROWDED
        if 2 * share <= self._share:
            return False
        # Float32 does not tell the rows apart either: then the faster one is the better one, for good.
        self.now, self._may_change = self.first, False
        return True

    def _count(self) -> int:
        """Rows that were compared with all centroids so far."""
        return int(self._device.fetch(self.first.tally)[1])
