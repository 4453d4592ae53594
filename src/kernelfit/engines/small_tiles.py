"""The statistics of the small tiles of a grid, each of them read, summed and assembled by one thread at one go.

What `accumulation` does for an image it does with pieces, strips and threads that meet; for a tile of some 256 x 256
pixels that would cost several times the sums. Here a tile is one piece: its extended image is copied once, into the
buffer that is transformed, and the strips along its edges are taken from there too.
"""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy.fft

from ..core.normal_equations import NormalEquations
from ..core.validation import Array
from ..data.blocks import Box
from ..data.observation import Observation, refuse_nonfinite
from ..solvers import cholesky
from .passes import Frame

#: Most samples of a tile, padded, that are transformed at one go.
_MOST_SAMPLES = 2**18


@dataclass(frozen=True)
class Layout:
    """Buffers large enough for every tile: rows and columns of target pixels, and what rows are padded to."""

    rows: int
    cols: int
    length: int

    @classmethod
    def of(cls, frame: Frame, boxes: list[Box]) -> "Layout | None":
        """Return the layout, or None if the tiles are too large to be read at one go."""
        sides = [(b.cols, b.rows) if frame.swapped else (b.rows, b.cols) for b in boxes]
        rows, cols = max(s[0] for s in sides), max(s[1] for s in sides)
        # Multiples of 20, of which FFTW makes short work: 300 samples take less time than 288.
        length = 20 * int(scipy.fft.next_fast_len(math.ceil((cols + 2 * frame.col_halo) / 20), real=True))
        return cls(rows, cols, length) if (rows + 2 * frame.row_halo) * length <= _MOST_SAMPLES else None


class Solved(NamedTuple):
    """What is known of the kernel of a tile; none of it is to be trusted if the condition number is large."""

    #: condition, rss: of the Gram matrix, and the residual sum of squares
    condition: float
    rss: float
    size: float  # norm of the taps
    #: least, spread: least and sum of the diagonal of the inverse Gram matrix
    least: float
    spread: float


class TileReader:
    """Makes the statistics of one tile after the other, from any number of threads with `Buffers` of their own."""

    def __init__(self, observation: Observation, boxes: list[Box], method: str) -> None:
        self.observation, self.method, self.frame = observation, method, Frame.of(observation)
        layout = Layout.of(self.frame, boxes)
        if layout is None:
            raise ValueError("got tiles too large to be read at one go; use accumulation.statistics for each")
        self.layout = layout
        frequencies = np.arange(layout.length // 2 + 1)
        lags = np.arange(-self.frame.col_halo, self.frame.col_halo + 1)
        turns = np.outer(frequencies, lags) % layout.length * (2 * math.pi / layout.length)  # exact, then rounded
        weights = np.where(2 * frequencies % layout.length == 0, 1.0, 2.0) / layout.length
        self._turns = np.stack([np.cos(turns), np.sin(turns)]) * weights[:, None]
        taps = np.arange(float(observation.geometry.n_taps)).reshape(1, self.frame.kernel_rows, self.frame.kernel_cols)
        self._order = self.frame.to_user(taps).ravel().astype(np.intp)  # of the user's taps in the frame
        self._idle: list[Buffers] = []

    @staticmethod
    def fits(observation: Observation, boxes: list[Box]) -> bool:
        """Say whether the tiles are small enough, of one plane each and without a stride."""
        one = len(observation.sources) == len(observation.targets) == 1 and observation.geometry.stride == (1, 1)
        return one and Layout.of(Frame.of(observation), boxes) is not None

    @contextlib.contextmanager
    def buffers(self) -> Iterator["Buffers"]:
        """Lend buffers to one thread, with nothing added up yet."""
        try:
            own = self._idle.pop()
        except IndexError:
            own = Buffers(self.layout, self.frame, self.method)
        own.clear()
        yield own
        self._idle.append(own)

    def read(self, box: Box, own: "Buffers") -> Solved:
        """Read a tile, add its statistics to those of the tiles before, and solve it, if it has few taps."""
        from ..compiled import dense
        from ..compiled.lag_sums import fours_of_block

        row, col, n_rows, n_cols = (box.col, box.row, box.cols, box.rows) if self.frame.swapped else box
        own.fill(self.frame, row, col, n_rows, n_cols)
        out = (own.back, own.energy, own.gram, own.total, own.panels, own.inverse, own.taps, own.spread)
        pixels = own.flat, (n_rows, n_cols, own.result.shape[1])
        if own.transform is not None:
            found = dense.tile_from_spectra(*pixels, own.transform.spectra, self._turns, own.image, *out)
        else:
            (n_i, n_lags), wide = own.back.shape[1:], own.image.shape[1]
            fours = tuple(fours_of_block(n_rows, n_i, a.shape[1], wide, n_lags) for a in (own.image, own.result))
            found = dense.tile_from_pixels(*pixels, own.start, fours, own.image, *out)
        solved = Solved(*found)
        if not (solved.condition < math.inf and math.isfinite(solved.rss)):  # the quick sign that a pixel may not be
            if not (np.isfinite(own.back).all() and np.isfinite(own.energy).all()):
                refuse_nonfinite(self.observation)
        return solved

    def statistics(self, box: Box, own: "Buffers") -> NormalEquations:
        """Return the statistics of the tile that was read last."""
        moment = own.back[1, :, self.frame.col_halo :]
        return self._statistics(own.gram, moment, own.energy, box.rows * box.cols)

    def total(self, sums: Array, n_pixels: int) -> NormalEquations:
        """Return the statistics of many tiles, given the sum of `Buffers.total`."""
        m = self.observation.geometry.n_taps
        return self._statistics(sums[:m, :m], sums[m, :m], sums[m + 1], n_pixels)

    def to_user(self, taps: Array) -> Array:
        """Bring what there is one of for each tap into the order of the user's kernel."""
        return taps[self._order]

    def _statistics(self, upper: Array, moment: Array, energy: Array, n_pixels: int) -> NormalEquations:
        plan, m = self.observation.geometry, len(upper)
        gram = np.where(np.arange(m)[:, None] <= np.arange(m), upper, upper.T)
        return NormalEquations(
            gram=gram[np.ix_(self._order, self._order)],
            moment=self.to_user(moment.ravel()),
            target_energy=float(energy[0]),
            target_sum=float(energy[1]),
            n_pixels=n_pixels,
            supports=(plan.kernel_shape,),
            convention=plan.convention,
        )

    def close(self) -> None:
        """Put the transforms back into the pool."""
        from ..compiled import fft

        while self._idle:
            transform = self._idle.pop().transform
            if transform is not None:
                fft.give_back(transform)


class Buffers:
    """What one thread needs: a tile's extended image, from column `start`, and target, with zeros beside them."""

    # `gram`: the upper triangle of the Gram matrix of the last tile, in the frame's order of taps, as all that follows.
    # `back`, `energy`: its lag sums and those with the target; the target's sum of squares and sum. `panels`,
    # `inverse`, `taps`, `spread`: scratch for the factor of `gram`, that of its inverse, the kernel of least squares,
    # and the diagonal of the inverse. `total` (taps + 2, taps): the sums of all tiles: `gram`, the moment, and
    # `energy`.

    def __init__(self, layout: Layout, frame: Frame, method: str) -> None:
        from ..compiled import fft
        from ..compiled.jit import flat

        y_halo, x_halo = frame.row_halo, frame.col_halo
        self.start = 0
        self.transform: fft.RowTransforms | None = None
        if method == "fft":
            self.transform = fft.borrow(layout.rows + y_halo, layout.length, 2, 1)
            self.image, self.result = self.transform.image, self.transform.result
        else:
            self.start = x_halo
            self.image = np.zeros((layout.rows + y_halo, layout.cols + 3 * x_halo))
            self.result = np.zeros((layout.rows, layout.cols))
        m = frame.kernel_rows * frame.kernel_cols
        self.back, self.energy = np.empty((2, frame.kernel_rows, 2 * x_halo + 1)), np.empty(2)
        self.flat = tuple(flat(array) for array in (self.image, self.result, self.back))
        self.gram, self.total = np.zeros((m, m)), np.zeros((m + 2, max(2, m)))
        small = m <= cholesky.OWN_FACTOR
        self.panels = np.zeros(cholesky.panels_for(m) if small else (0, 0, 0))
        self.inverse = np.zeros((m, m) if small else (0, 0))
        self.taps, self.spread = np.zeros(m), np.zeros(m)

    def clear(self) -> None:
        """Forget the sums, and pixels that need not be finite."""
        self.total[:] = 0.0
        self.image[:] = 0.0
        self.result[:] = 0.0

    def fill(self, frame: Frame, row: int, col: int, n_rows: int, n_cols: int) -> None:
        """Read a tile; rows that are left from another one take part in nothing."""
        rows, cols = n_rows + frame.row_halo, self.start + n_cols + frame.col_halo
        frame.sources[0].read(self.image[:rows, self.start : cols], row, col)
        self.image[:rows, cols:] = 0.0
        if self.transform is not None:
            self.transform.forward(0)
        frame.targets[0].read(self.result[:n_rows, :n_cols], row, col)
        self.result[:n_rows, n_cols:] = 0.0
        if self.transform is not None:
            self.transform.forward(1)
