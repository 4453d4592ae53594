"""One pass over the pixels with a weight each: the weighted residual of a kernel and its products with the image.

The work of `engines` with taps, one by one: correlate, subtract from the target, multiply by the weights,
correlate back. It is the whole of an iteration of conjugate gradients on the weighted problem.

The terms of a background are columns of the design matrix like the taps', of each pair its own. So the unknowns of a
weighted problem, and sums over them, hold the taps first and then the coefficients of each pair.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.fft

from ..compiled.threads import Progress, add, bands, counted, in_order
from ..core.background import Columns
from ..core.validation import Array
from ..data.observation import (
    Items,
    WeightedObservation,
    Weights,
    lots_of,
    of_lots,
    own_unknowns,
    refuse_nonfinite,
    together,
)
from ..data.reader import Reader
from .cost_model import segment
from .passes import Frame, complex_spectra, grid, spectral_sums, tap_spectra

Hold = Callable[[Array, Weights], Weights]


@dataclass(frozen=True, eq=False)
class Residual:
    """What a pass adds up, for weights W."""

    moment: Array  # (unknowns,); ``A'W (y - A k)``, A with the columns of a background, k with its coefficients
    energy: float  # ``(y - A k)' W (y - A k)``


def residual(
    items: Items,
    unknowns: Array,
    method: str,
    workers: int,
    progress: Progress | None = None,
    keep: Sequence[Array] | None = None,
    hold: Hold | None = None,
) -> Residual:
    """Return the weighted moment and energy of the residual of a kernel and its background, from the pixels.

    `items`: the pairs, of one target each. `unknowns` (unknowns,): the kernel, and the coefficients of each pair's
    background. `method` {"direct", "fft"}: the engine. `workers`: number of threads; any number gives the same bits.
    `progress`: told of each band of pixels. `keep`: for each pair an array of the shape of the used target, which
    receives the residual itself. `hold`: makes the weights of a block of its residual and its weights.
    """
    parts, energy = [], 0.0
    n_taps = items[0].n_taps
    owners = {at: number for number, lot in enumerate(lots_of(items)) for at in lot}
    for i, item in enumerate(items):
        plan, frame = item.observation.geometry, Frame.of(item.observation)
        own = unknowns[own_unknowns(items, owners[i])]
        kernel = frame.from_user(own[:n_taps].reshape(-1, *plan.kernel_shape))
        weights = item.weights.T if frame.swapped else item.weights
        kept = None if keep is None else keep[i].T if frame.swapped else keep[i]
        columns = item.columns.transposed() if item.columns is not None and frame.swapped else item.columns
        work = _Pass(frame, weights, kernel, kept, hold, columns, own[n_taps:])
        with np.errstate(all="ignore"):
            moment, beside, squares = (
                work.direct(workers, progress) if method == "direct" else work.fft(workers, progress)
            )
        if not (np.isfinite(moment).all() and math.isfinite(squares)):
            refuse_nonfinite(item.observation)
        parts.append(np.concatenate([frame.to_user(moment).ravel(), beside]))
        energy += squares
    return Residual(together(items, of_lots(items, parts)), energy)


class WeightedGram:
    """The weighted Gram matrix of pairs as an operator on the taps, a pass over the pixels each time: ``A'WA``."""

    def __init__(self, items: Items, method: str, workers: int) -> None:
        self.items = [_of_planes(item, item.observation.sources, 0.0) for item in items]
        self.method, self.workers = method, workers

    def __call__(self, taps: Array) -> Array:
        """Return the Gram matrix times the taps, as a vector."""
        return -residual(self.items, taps, self.method, self.workers).moment

    def diagonal(self) -> Array:
        """Return the diagonal: the moment of a target of ones with the squared image."""
        squares = [
            _of_planes(item, [_squared(source) for source in item.observation.sources], 1.0) for item in self.items
        ]
        return residual(squares, np.zeros(squares[0].n_taps), self.method, self.workers).moment


def _of_planes(item: WeightedObservation, sources: Sequence[Reader], value: float) -> WeightedObservation:
    """Return a pair of other sources, with a target of one value and without a background."""
    (target,) = item.observation.targets
    target = dataclasses.replace(target, array=np.broadcast_to(np.float64(value), target.array.shape))
    return dataclasses.replace(
        item,
        observation=dataclasses.replace(item.observation, sources=tuple(sources), targets=(target,), background=None),
    )


class _Mapped:
    """An array of which each pixel is made something else when it is read."""

    def __init__(self, array: Any, function: Callable[[Array], Array]) -> None:
        self.array, self.function, self.shape = array, function, array.shape

    def __getitem__(self, key: Any) -> Array:
        return self.function(np.asarray(self.array[key], dtype=np.float64))


def mapped(reader: Reader, function: Callable[[Any], Any]) -> Reader:
    """Return the reader of a function of each pixel, that of the value beyond the edge included."""
    array = _Mapped(reader.array, function)
    return dataclasses.replace(reader, array=array, fillvalue=float(function(reader.fillvalue)))


def _squared(reader: Reader) -> Reader:
    """Return the reader of the square of what one reads."""
    weight = None if reader.weight is None else reader.weight.squared()
    return dataclasses.replace(mapped(reader, np.square), weight=weight)


class _Pass:
    """A pass over one pair, with either engine."""

    def __init__(
        self,
        frame: Frame,
        weights: Weights,
        taps: Array,
        keep: Array | None,
        hold: Hold | None,
        columns: Columns | None,
        coefficients: Array,
    ) -> None:
        self.frame, self.weights, self.taps, self.keep, self.hold = frame, weights, taps, keep, hold
        self.columns, self.coefficients = columns, coefficients

    def read(self, out: Array, row: int, col: int) -> None:
        """Read a block of the target, less the background."""
        self.frame.targets[0].read(out, row, col)
        if self.columns is not None:
            rows = slice(row, min(row + out.shape[0], self.frame.rows))
            cols = slice(col, min(col + out.shape[1], self.frame.cols))
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
            weights = self.hold(block, weights)
        if weights.dtype == np.bool_:
            block *= weights
            return float(np.einsum("ij,ij->", block, block))
        weighted = block * weights
        energy = float(np.einsum("ij,ij->", weighted, block))
        block[...] = weighted
        return energy

    def direct(self, workers: int, progress: Progress | None) -> tuple[Array, Array, float]:
        """Add up the products of pixels."""
        from ..compiled import lag_sums

        frame, (height, width) = self.frame, (64, 1024)
        y_halo, x_halo, n_sources = frame.row_halo, frame.col_halo, len(frame.sources)

        def band(tiles: list[tuple[int, int, int, int]]) -> tuple[Array, ...]:
            moment, energy = np.zeros((n_sources, frame.kernel_rows, frame.kernel_cols)), np.zeros(1)
            beside = np.zeros(len(self.coefficients))
            images = np.empty((n_sources, height + y_halo, width + x_halo))
            result, model = np.empty((height, width)), np.empty((height, width))
            for row, col, n_rows, n_cols in tiles:
                for image, reader in zip(images, frame.sources, strict=True):
                    reader.read(image[: n_rows + y_halo, : n_cols + x_halo], row, col)
                used = result[:n_rows, :n_cols]
                self.read(used, row, col)
                for s in range(n_sources):
                    lag_sums.correlate(images[s], 0, self.taps[s], n_rows, n_cols, model)
                    used -= model[:n_rows, :n_cols]
                energy += self.weigh(used, row, col)
                beside += self.beside(used, row, col)
                for s in range(n_sources):
                    lag_sums.lag_sums(result, 0, images[s], 0, n_rows, n_cols, moment[s])
            return moment, beside, energy

        work = bands(grid(frame.rows, frame.cols, (height, width)))
        moment, beside, energy = add(counted(in_order(work, band, workers), len(work), progress))
        return moment, beside, float(energy[0])

    def fft(self, workers: int, progress: Progress | None) -> tuple[Array, Array, float]:
        """Do the same on the spectra of segments of rows."""
        from ..compiled import patch_sums, spectral_products
        from ..compiled.fft import borrow, give_back

        frame, n_sources = self.frame, len(self.frame.sources)
        y_halo, x_halo = frame.row_halo, frame.col_halo
        length = segment(frame.cols, x_halo, n_sources).length
        # Nothing that the transform wraps round is used, so unlike lag sums it needs one halo only.
        step = min(frame.cols, length - x_halo)
        height = math.ceil(frame.rows / max(1, round(frame.rows / max(128, 8 * frame.kernel_rows))))
        tiles = [(r, c) for c in range(0, frame.cols, step) for r in range(0, frame.rows, height)]
        kernel = tap_spectra(self.taps, length)

        def band(tiles: list[tuple[int, int]]) -> tuple[Array, ...]:
            transform = borrow(height + y_halo, length, n_sources + 1, n_sources)
            image, result, model, values = transform.image, transform.result, transform.model, transform.spectra
            sums = spectral_sums(n_sources, n_sources + 1, length, frame.kernel_rows)
            energy, beside = np.zeros(1), np.zeros(len(self.coefficients))
            transform.clear(step + x_halo, step)
            for row, col in tiles:
                n_rows, n_cols = min(height, frame.rows - row), min(step, frame.cols - col)
                for s, reader in enumerate(frame.sources):
                    reader.read(image[: n_rows + y_halo, : step + x_halo], row, col)
                    transform.forward(s)
                self.read(result[:n_rows, :step], row, col)
                spectral_products.spectral_correlate(values, n_sources, n_sources, kernel, n_rows)
                transform.backward(n_sources)
                used = result[:n_rows, :n_cols]
                if self.keep is None and self.hold is None:
                    place = slice(row, row + n_rows), slice(col, col + n_cols)
                    weights = np.ascontiguousarray(self.weights[place], dtype=np.float64)
                    energy += patch_sums.weigh(result, model, weights)
                else:
                    used -= model[:n_rows, :n_cols]
                    energy += self.weigh(used, row, col)
                beside += self.beside(used, row, col)
                result[:n_rows, n_cols:step] = 0.0
                transform.forward(n_sources)
                for s in range(n_sources):
                    spectral_products.spectral_lag_sums(values, n_sources, s, n_rows, sums[s])
            give_back(transform)
            return complex_spectra(sums[:, n_sources:])[:, 0, : frame.kernel_rows], beside, energy

        work = bands(tiles)
        sums, beside, energy = add(counted(in_order(work, band, workers), len(work), progress))
        spectra = sums.view(np.complex128)[..., : length // 2 + 1]
        moment: Array = scipy.fft.irfft(spectra, n=length)[..., : frame.kernel_cols]
        return moment, beside, float(energy[0])
