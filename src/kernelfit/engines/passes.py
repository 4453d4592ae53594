"""The two engines: one reading of all pixels, tile by tile, for the lag sums and the moments.

Both form ``sum_r A[r] B[r + i]`` for the lags of a kernel. "direct" forms the lag products of pixels. "fft" transforms
segments of rows and forms the lag products, across rows, of their spectra: along a row the transform does all lags at
once, down the columns the lags are few and each costs one multiply-add per frequency, with no zero padding and no halo
to pay for.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.fft

from ..compiled.threads import bands
from ..core.background import Columns
from ..core.geometry import Geometry, Shape
from ..core.model import ENGINES
from ..core.validation import Array
from ..data import chunked, polyphase
from ..data.observation import Observation, Weights
from ..data.reader import Reader
from .cost_model import good_length, segment

#: Rows of a tile, about: two threads' tiles stay in the cache.
_HEIGHT = 128
#: Samples of a segment of a signal that are worth a call of their own; shorter ones are cut from a longer line.
_LONG = 2**11


#: Makes the weights of a block of its residual, its weights and the target there.
Hold = Callable[[Array, Weights, Array], Weights]


@dataclass(frozen=True, eq=False)
class Weighing:
    """A target of a pass, the coefficients of its background, and the weights of its pixels."""

    target: Reader
    size: Shape
    weights: Weights
    columns: Columns | None
    coefficients: Array
    keep: Array | None = None  # receives the residual
    hold: Hold | None = None  # makes the weights of a block of its residual, its weights and the target

    def read(self, out: Array, row: int, col: int) -> None:
        """Read a block of the target, less the background."""
        self.target.read(out, row, col)
        if self.columns is not None:
            rows = slice(row, min(row + out.shape[0], self.size[0]))
            cols = slice(col, min(col + out.shape[1], self.size[1]))
            out[: rows.stop - row, : cols.stop - col] -= self.columns.surface(self.coefficients, rows, cols)

    def beside(self, block: Array, row: int, col: int) -> Array:
        """Return the products of the weighted residual with the background's terms."""
        return np.zeros(0) if self.columns is None else self.columns.products(block, row, col)

    def weigh(self, block: Array, row: int, col: int) -> float:
        """Multiply a block of the residual by its weights; return its weighted energy."""
        place = slice(row, row + block.shape[0]), slice(col, col + block.shape[1])
        if self.keep is not None:
            self.keep[place] = block
        weights = self.weights[place]
        if self.hold is not None:
            weights = self.hold(block, weights, self.target.block(row, col, block.shape))
        if weights.dtype == np.bool_:
            block *= weights
            return float(np.einsum("ij,ij->", block, block))
        weighted = block * weights
        energy = float(np.einsum("ij,ij->", weighted, block))
        block[...] = weighted
        return energy


@dataclass(frozen=True)
class Frame:
    """The problem as an engine sees it: without stride, and the longer side of the kernel lies along the columns."""

    plan: Geometry
    rows: int
    cols: int
    kernel_rows: int
    kernel_cols: int
    sources: tuple[Reader, ...]
    targets: tuple[Reader, ...]
    swapped: bool

    @classmethod
    def of(cls, observation: Observation) -> "Frame":
        """Lay a problem the way that is cheaper."""
        plan, part = observation.geometry, polyphase.split(observation)
        (rows, cols), (kernel_rows, kernel_cols) = part.size, part.geometry.kernel_shape
        if kernel_rows <= kernel_cols:
            return cls(plan, rows, cols, kernel_rows, kernel_cols, part.sources, part.targets, swapped=False)
        sources, targets = (tuple(r.transposed() for r in some) for some in (part.sources, part.targets))
        return cls(plan, cols, rows, kernel_cols, kernel_rows, sources, targets, swapped=True)

    def rows_at_a_time(self, halos: int) -> int | None:
        """How many rows are read at a time, None if all; tiles that lie beside each other share so many halos."""
        arrays = [reader.array for reader in (*self.sources, *self.targets)]
        return chunked.rows_at_a_time(arrays, halos * max(self.row_halo, self.col_halo))

    @property
    def row_halo(self) -> int:
        """Rows by which the extended image exceeds the target."""
        return self.kernel_rows - 1

    @property
    def col_halo(self) -> int:
        """Columns by which the extended image exceeds the target."""
        return self.kernel_cols - 1

    def to_user(self, taps: Array) -> Array:
        """Turn arrays (..., sources, rows, cols) of the frame's taps into arrays of the user's kernels."""
        return polyphase.to_user(np.swapaxes(taps, -1, -2) if self.swapped else taps, self.plan)

    def from_user(self, taps: Array) -> Array:
        """Undo `to_user`."""
        taps = polyphase.from_user(taps, self.plan)
        return np.ascontiguousarray(np.swapaxes(taps, -1, -2)) if self.swapped else taps


class Pass(NamedTuple):
    """One reading of all pixels: what threads do, band by band, and what is made of the sum of what they return."""

    jobs: "Sequence[Callable[[], tuple[Array, ...]]]"
    finish: "Callable[..., Sums]"


@dataclass
class Sums:
    """What one pass over the pixels adds up, in the frame's tap order."""

    #: (sources, sources, kernel_rows, 2 * kernel_cols - 1); lag products of the extended images, rows lags from 0,
    #: column lags from ``-(kernel_cols - 1)``
    lags: Array
    moment: Array  # (targets, sources, kernel_rows, kernel_cols); products of target, or residual, and image
    #: energy, total: (targets,); sum of squares and sum of the target, or residual
    energy: Array
    total: Array


def grid(rows: int, cols: int, tile: Shape, group: int | None = None) -> list[tuple[int, int, int, int]]:
    """Cut rows x cols into tiles (row, col, n_rows, n_cols), column by column, or within `group` rows at a time."""
    step = rows if group is None else max(1, group // tile[0]) * tile[0]
    return [
        (r, c, min(tile[0], rows - r), min(tile[1], cols - c))
        for first in range(0, rows, max(1, step))
        for c in range(0, cols, tile[1])
        for r in range(first, min(first + step, rows), tile[0])
    ]


def _direct_pass(frame: Frame, taps: Array | None) -> Pass:
    """Add up the products of pixels; with `taps`, those of the residual of that kernel, without the lags."""
    from ..compiled import lag_sums

    y_halo, x_halo = frame.row_halo, frame.col_halo
    n_sources, n_targets = len(frame.sources), len(frame.targets)
    height, width = 64, 1024 if n_sources == 1 else 512

    def band(tiles: list[tuple[int, int, int, int]]) -> tuple[Array, ...]:
        lags = np.zeros((n_sources, n_sources, frame.kernel_rows, 2 * x_halo + 1))
        moment = np.zeros((n_targets, n_sources, frame.kernel_rows, frame.kernel_cols))
        moments = np.zeros((n_targets, 2))
        images = np.zeros((n_sources, height + y_halo, width + 2 * x_halo + 3))  # the loops do four lags at a time
        result, model = np.empty((height, width)), np.empty((height, width))
        for row, col, n_rows, n_cols in tiles:
            for image, reader in zip(images, frame.sources, strict=True):
                reader.read(image[: n_rows + y_halo, : n_cols + 2 * x_halo], row, col - x_halo)
            if taps is None:
                for s in range(n_sources):
                    for t in range(n_sources):
                        lag_sums.lag_sums(images[s], x_halo, images[t], 0, n_rows, n_cols, lags[s, t])
            used_rows, used_cols = min(n_rows, frame.rows - row), min(n_cols, frame.cols - col)
            if used_rows < 1 or used_cols < 1:
                continue
            for t, reader in enumerate(frame.targets):
                used = result[:used_rows, :used_cols]
                reader.read(used, row, col)
                if taps is not None:
                    for s in range(n_sources):
                        lag_sums.correlate(images[s], x_halo, taps[t, s], used_rows, used_cols, model)
                        used -= model[:used_rows, :used_cols]
                lag_sums.moments(result, used_rows, used_cols, moments[t])
                for s in range(n_sources):
                    lag_sums.lag_sums(result, 0, images[s], x_halo, used_rows, used_cols, moment[t, s])
        return lags, moment, moments

    def finish(lags: Array, moment: Array, moments: Array) -> Sums:
        return Sums(lags, moment, moments[:, 0], moments[:, 1])

    extended = (frame.rows + y_halo, frame.cols + x_halo)
    tiles = grid(*(extended if taps is None else (frame.rows, frame.cols)), (height, width), frame.rows_at_a_time(2))
    return Pass([partial(band, some) for some in bands(tiles)], finish)


def n_vectors(length: int) -> int:
    """Return how many vectors hold the real and imaginary parts of the spectrum of so many samples."""
    from ..compiled.jit import LANES

    return -(-2 * (length // 2 + 1) // LANES)


def spectral_sums(n_sources: int, n_arrays: int, length: int, kernel_rows: int) -> Array:
    """Return zeros to which `add_spectra` adds, for each source as the second factor."""
    # Of kernels of one row the sources stand where the lags do else, so that first factors are read once for several.
    from ..compiled.jit import LANES
    from ..compiled.spectral_products import n_lags

    n, lags = (1, n_sources) if kernel_rows == 1 else (n_sources, n_lags(kernel_rows))
    return np.zeros((n, n_arrays, 2, n_vectors(length), lags, LANES))


def add_spectra(spectra: Array, first: int, n_sources: int, rows: int, kernel_rows: int, sums: Array) -> None:
    """Add the products, across so many rows, of the spectra of each array from `first` on with those of each source."""
    from ..compiled import spectral_products

    if kernel_rows == 1:
        spectral_products.spectral_line_sums(spectra, first, n_sources, rows, sums[0])
        return
    for source, own in enumerate(sums):
        spectral_products.spectral_lag_sums(spectra, first, source, rows, own)


def complex_spectra(sums: Array, *, lines: bool = False) -> Array:
    """Return the same as numbers (sources, arrays, row lags, 2 * frequencies and more); of `lines` there is one lag."""
    from ..compiled import spectral_products

    out = np.empty((*sums.shape[:2], sums.shape[4], sums.shape[3] * sums.shape[5]))
    for some, whole in zip(sums, out, strict=True):
        spectral_products.complex_sums(some, whole)
    return out.swapaxes(0, 2) if lines else out


def tap_spectra(taps: Array, length: int) -> Array:
    """Transform rows of taps (..., columns) for `_loops.spectral_correlate`, divided by the length."""
    from ..compiled.jit import LANES

    out = np.zeros((*taps.shape[:-1], n_vectors(length) * LANES))
    out.view(np.complex128)[..., : length // 2 + 1] = scipy.fft.rfft(taps, n=length, norm="forward", workers=1)
    return out


def _fft_pass(frame: Frame, taps: Array | None) -> Pass:
    """Do the work of `_direct_pass` on the spectra of segments of rows."""
    from ..compiled import fft, lag_sums, spectral_products

    y_halo, x_halo = frame.row_halo, frame.col_halo
    n_sources, n_targets = len(frame.sources), len(frame.targets)
    lines = frame.kernel_rows == 1
    layout = segment(frame.cols, x_halo, n_sources, lines=lines)
    rows = frame.rows + (y_halo if taps is None else 0)
    extended = frame.rows + y_halo  # for either kind of pass, so that both use the same transforms
    # A tile is so low that the cache holds it; the tiles of a band that lie below each other share their halos.
    height = math.ceil(extended / max(1, round(extended / max(_HEIGHT, frame.kernel_rows))))
    per_band = min(max(256 if n_sources == 1 else 64, 8 * frame.kernel_rows) // height, math.ceil(rows / height))
    # Kernels of one row have no row lags, so the rows of several segments may stand in one tile, one below the other.
    both = min(2, n_sources)  # the parts of complex signals share the cache
    stacked = max(1, min(_HEIGHT, max(8, 2**17 // layout.length) // both) // rows) if lines else 1
    starts = [(r, c) for r, c, _, _ in grid(rows, frame.cols, (height, layout.step), frame.rows_at_a_time(1))]
    stacked = min(stacked, len(starts))
    tiles = [starts[i : i + stacked] for i in range(0, len(starts), stacked)]
    # What lies in two neighbouring segments is counted twice.
    short = good_length(2 * x_halo) if taps is None and x_halo and frame.cols > layout.step else 0

    if taps is not None:
        kernel = tap_spectra(taps, layout.length)

    def read(reader: Reader, out: Array, tile: list[Shape], n_rows: int, new: int, width: int, scratch: Array) -> None:
        (row, col), n = tile[0], len(tile)
        if n == 1 or n_rows * width >= _LONG:
            for i, (first, start) in enumerate(tile):
                reader.read(out[i * n_rows : (i + 1) * n_rows, :width], first + new, start)
            return
        total = (n - 1) * layout.step + width
        line = scratch.ravel()[: n_rows * total].reshape(n_rows, total)
        reader.read(line, row, col)
        side_by_side = np.lib.stride_tricks.sliding_window_view(line, width, axis=1)[:, :: layout.step]
        out[: n * n_rows].reshape(n, n_rows, -1)[:, :, :width] = side_by_side.swapaxes(0, 1)

    def band(tiles: list[list[Shape]]) -> tuple[Array, ...]:
        # All calls that follow release the interpreter for a tenth of a millisecond or more, and are few.
        depth = height * stacked
        transform = fft.borrow(depth, layout.length, n_sources + n_targets, n_sources, halo=y_halo)
        image, result, model, values = transform.image, transform.result, transform.model, transform.spectra
        sums = spectral_sums(n_sources, n_sources + n_targets, layout.length, frame.kernel_rows)
        twice = spectral_sums(n_sources, n_sources, short, frame.kernel_rows)
        moments = np.zeros((n_targets, 2))
        transform.clear(layout.step + x_halo, layout.step)
        if short:
            overlap = fft.borrow(depth, short, n_sources, n_sources, halo=y_halo)
            overlap.clear(x_halo, 0)
        column = -1
        for tile in tiles:
            n_rows = min(height, rows - tile[0][0])
            n = n_rows * len(tile)
            again = [(i, col) for i, (_, col) in enumerate(tile) if col > 0] if short else []
            below = y_halo > 0 and tile[0][1] == column
            new = y_halo if below else 0  # the first row that is not known from the tile above
            if below:
                transform.go_below(height)
                if again:
                    overlap.go_below(height)
            for s, reader in enumerate(frame.sources):
                read(reader, image[new:], tile, n_rows + y_halo - new, new, layout.step + x_halo, model)
                transform.forward(s, below=below)
                if again:
                    first = again[0][0]
                    overlap.image[new : n + y_halo, :x_halo] = image[new : n + y_halo, :x_halo]
                    overlap.image[: first * n_rows, :x_halo] = 0.0
                    overlap.forward(s, below=below)
            for t, reader in enumerate(frame.targets):
                read(reader, result, tile, n_rows, 0, layout.step, model)
                if taps is not None:
                    spectral_products.spectral_correlate(values, n_sources, n_sources + t, kernel[t], n)
                    transform.backward(n_sources + t)
                    for i, (_, col) in enumerate(tile):
                        block = np.s_[i * n_rows : (i + 1) * n_rows, : min(layout.step, frame.cols - col)]
                        result[block] -= model[block]
                lag_sums.moments(result, n, layout.step, moments[t])
                transform.forward(n_sources + t)
            add_spectra(values, 0 if taps is None else n_sources, n_sources, n, frame.kernel_rows, sums)
            if again:
                add_spectra(overlap.spectra, 0, n_sources, n, frame.kernel_rows, twice)
            column = tile[0][1]
        fft.give_back(transform)
        if short:
            fft.give_back(overlap)
        return complex_spectra(sums, lines=lines), complex_spectra(twice, lines=lines), moments

    def inverse(sums: Array, length: int, lags: npt.NDArray[np.intp]) -> Array:
        """Turn summed cross-spectra, real and imaginary parts in turn, into lag sums (..., row lags, column lags)."""
        spectra = sums[:, :, : frame.kernel_rows].view(np.complex128)[..., : length // 2 + 1]
        result: Array = scipy.fft.irfft(spectra, n=length, workers=1)
        return result[..., lags % length]

    def finish(sums: Array, twice: Array, moments: Array) -> Sums:
        both_ways = np.arange(-x_halo, x_halo + 1)
        lags = inverse(sums[:, :n_sources], layout.length, both_ways)
        moment = inverse(sums[:, n_sources:], layout.length, np.arange(frame.kernel_cols))
        if short:
            lags -= inverse(twice, short, both_ways)
        return Sums(np.swapaxes(lags, 0, 1), np.swapaxes(moment, 0, 1), moments[:, 0], moments[:, 1])

    return Pass([partial(band, some) for some in bands(tiles, per_band)], finish)


#: An engine lays out one reading of all pixels of a frame: for all sums or, with taps, for those of a residual.
Engine = Callable[[Frame, Array | None], Pass]
PASSES: dict[str, Engine] = {"direct": _direct_pass, "fft": _fft_pass}


def register(name: str) -> Callable[[Engine], Engine]:
    """Make an engine known by a name, which `Execution` then takes."""

    def add_engine(engine: Engine) -> Engine:
        PASSES[name] = engine
        if name not in ENGINES:
            ENGINES.append(name)
        return engine

    return add_engine
