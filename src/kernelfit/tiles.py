"""The statistics of the small tiles of a grid, each of them read, summed and assembled by one thread at one go.

What `accumulation` does for an image it does with pieces, strips and threads that meet; for a tile of some 256 x 256
pixels that would cost several times the sums. Here a tile is one piece: its extended image is copied once, into the
buffer that is transformed, and the strips along its edges are taken from there too.
"""

import math
from dataclasses import dataclass

import numpy as np
import scipy.fft

from . import pair, solve
from .accumulation import Frame
from .pair import Problem
from .regions import Box
from .statistics import NormalStats

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


class TileReader:
    """Makes the statistics of one tile after the other, from any number of threads.

    Parameters
    ----------
    problem : Problem
        One image and one target.
    boxes : list of Box
        The tiles that will be asked for.
    method : {"direct", "fft"}
        The engine.

    Raises
    ------
    ValueError
        If the tiles are too large (`fits`).
    """

    def __init__(self, problem: Problem, boxes: list[Box], method: str) -> None:
        self.problem, self.method, self.frame = problem, method, Frame.of(problem)
        layout = Layout.of(self.frame, boxes)
        if layout is None:
            msg = "got tiles too large to be read at one go; use accumulation.statistics for each"
            raise ValueError(msg)
        self.layout = layout
        frequencies = np.arange(layout.length // 2 + 1)
        lags = np.arange(-self.frame.col_halo, self.frame.col_halo + 1)
        turns = np.outer(frequencies, lags) % layout.length * (2 * math.pi / layout.length)  # exact, then rounded
        weights = np.where(2 * frequencies % layout.length == 0, 1.0, 2.0) / layout.length
        self._cosines, self._sines = np.cos(turns) * weights[:, None], np.sin(turns) * weights[:, None]
        self._idle: list[Buffers] = []

    @staticmethod
    def fits(problem: Problem, boxes: list[Box]) -> bool:
        """Say whether the tiles are small enough."""
        one = len(problem.sources) == len(problem.targets) == 1
        return one and Layout.of(Frame.of(problem), boxes) is not None

    def statistics(self, box: Box) -> NormalStats:
        """Return the statistics of one tile, with the factor that solvers ask for if it is small."""
        from . import _loops

        frame, plan = self.frame, self.problem.geometry
        m = plan.n_taps
        stride_y, stride_x = (1, frame.kernel_rows) if frame.swapped else (frame.kernel_cols, 1)
        first, sign = (m - 1, -1) if plan.flipped else (0, 1)
        row, col, n_rows, n_cols = (box.col, box.row, box.cols, box.rows) if frame.swapped else box
        try:
            buffers = self._idle.pop()
        except IndexError:  # one for each thread at most
            buffers = Buffers(self.layout, frame, self.method)
        buffers.fill(frame, row, col, n_rows, n_cols)
        back, energy = np.empty((2, frame.kernel_rows, 2 * frame.col_halo + 1)), np.zeros(2)
        gram, inverse = np.empty((m, m)), np.zeros((m, m) if m <= solve.OWN_FACTOR else (0, 0))
        out = (back, energy, gram, inverse, first, sign * stride_y, sign * stride_x)
        pixels = buffers.image, buffers.result, n_rows, n_cols
        if buffers.transform is not None:
            buffers.transform.forward(0)
            buffers.transform.forward(1)
            spectra = buffers.transform.spectra
            condition = _loops.tile_from_spectra(spectra, buffers.turned, self._cosines, self._sines, *pixels, *out)
        else:
            condition = _loops.tile_from_pixels(buffers.image, buffers.start, *pixels[1:], *out)
        self._idle.append(buffers)
        if not (np.isfinite(back).all() and np.isfinite(energy).all()):
            pair.refuse_nonfinite(self.problem)
        stats = NormalStats(
            gram=gram,
            moment=frame.to_user(back[1:, :, frame.col_halo :]).ravel(),
            target_energy=float(energy[0]),
            target_sum=float(energy[1]),
            n_pixels=box.rows * box.cols,
            terms=(plan.kernel_shape,),
            convention=plan.convention,
        )
        solve.adopt_factor(stats, inverse, condition)
        return stats

    def close(self) -> None:
        """Put the transforms back on the shelf."""
        from . import _fft

        while self._idle:
            transform = self._idle.pop().transform
            if transform is not None:
                _fft.give_back(transform)


class Buffers:
    """What one thread needs: a tile's extended image, from column `start`, and target, with zeros around them."""

    def __init__(self, layout: Layout, frame: Frame, method: str) -> None:
        from . import _fft

        y_halo, x_halo = frame.row_halo, frame.col_halo
        self.start, self.turned = 0, np.empty(0)
        self.transform: _fft.RowTransforms | None = None
        if method == "fft":
            self.transform = _fft.borrow(layout.rows + 2 * y_halo, layout.length, 2, 1)
            self.image, self.result = self.transform.image, self.transform.result
            self.turned = np.empty(self.transform.spectra.shape[-1])
        else:
            self.start = x_halo
            self.image = np.zeros((layout.rows + 2 * y_halo, layout.cols + 3 * x_halo))
            self.result = np.zeros((layout.rows, layout.cols))

    def fill(self, frame: Frame, row: int, col: int, n_rows: int, n_cols: int) -> None:
        """Read a tile."""
        rows, cols = n_rows + frame.row_halo, self.start + n_cols + frame.col_halo
        frame.sources[0].read(self.image[:rows, self.start : cols], row, col)
        self.image[rows:] = 0.0
        self.image[:rows, cols:] = 0.0
        frame.targets[0].read(self.result[:n_rows, :n_cols], row, col)
        self.result[n_rows:] = 0.0
        self.result[:n_rows, n_cols:] = 0.0
