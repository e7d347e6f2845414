"""Which screen labels rows.

The one by matrix units, or where that leaves too many rows to D, the one in float32; where labels are not certified,
rows of 16 bits go to the matrix units as they lie.
"""

from __future__ import annotations

from gpukm_kernels.screening import PLAIN, mode

from gpukm.backends.base import Frame
from gpukm.backends.cascade import Cascade, Packed
from gpukm.backends.device import SHORT, Device
from gpukm.backends.plain_screen import PlainScreen

#: Share of the rows compared with all centroids by D from which float32 scores of all rows should cost less. *Not
#: measured on a GPU*: D takes three float64 instructions a feature where float32 takes one, of twice the rate.
CROWDED = 1 / 6
#: Modes of rows that are multiplied as they lie, and how far these have to reach and may: little is lost by denormals,
#: and products are float32.
_AS_THEY_LIE = {"float16": ("fp16", 2.0**-12, 2.0**16), "bfloat16": ("bf16", 2.0**-40, 2.0**40)}


class Rungs:
    """The cascade that begins with a fast screen, the one that begins in float32, and those of rows as they lie.

    Both give the same labels where these are certified. Rows that lie close together far from the centre, in units of
    float16, are told apart only by the second one; whether that is so shows in what the first one leaves.

    Parameters
    ----------
    device : Device
    cascade : Cascade
        The one to begin with.

    Attributes
    ----------
    first : Cascade
        As given; what data begins with unless its rows are taken as they lie.
    now : Cascade
        The one to take.
    """

    def __init__(self, device: Device, cascade: Cascade) -> None:
        self._device, self.first, self.now = device, cascade, cascade
        self._finer = Cascade(device, PlainScreen(device, PLAIN), tally=cascade.tally)
        self._may_change = self._changes = cascade.certify and cascade.by_matrix
        self._frame: Frame | None = None
        self._crowded, self._share = self._count() if self._may_change else 0, 0.0
        self._as_they_lie: dict[str, Cascade] = {}

    def of_data(self, frame: Frame) -> None:
        """Begin anew where the data are other ones, as their frame tells."""
        if not frame.same(self._frame):
            self.now, self._may_change = self._first_for(frame), self._changes
        self._frame = frame

    def of(self, packed: Packed) -> Cascade:
        """The cascade that centroids were packed for."""
        every = (self.first, self._finer, *self._as_they_lie.values())
        return next(cascade for cascade in every if cascade.screen is packed.screen)

    def _first_for(self, frame: Frame) -> Cascade:
        """The cascade to begin with for data of a frame."""
        first, stored = self.first, frame.stored
        if first.certify or first.screen.mode.stored not in SHORT or stored not in _AS_THEY_LIE:
            return first
        name, least, most = _AS_THEY_LIE[stored]
        if not least <= frame.radius <= most:
            return first
        if stored not in self._as_they_lie:
            screen = first.screen.by(mode(name, self._device.capability))
            cascade = Cascade(self._device, screen, certify=False, tally=first.tally, as_they_lie=True)
            self._as_they_lie[stored] = cascade
        return self._as_they_lie[stored]

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
