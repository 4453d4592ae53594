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
from ..core.validation import Array
from ..data.extent import Extent, neighbours
from ..data.observation import Items, WeightedObservation, lots_of, own_unknowns, refuse_nonfinite, together
from ..data.reader import Reader
from . import voxel_pass
from .cost_model import segment
from .passes import Frame, Hold, Weighing, add_spectra, complex_spectra, grid, spectral_sums, tap_spectra


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
    """Return the weighted moment and energy of the residual of a kernel and its pairs' backgrounds, from the pixels."""
    # `keep`: arrays that receive the residual; `hold` makes a block's weights of residual, weights and target.
    parts, energy = [], 0.0
    for number, lot in enumerate(lots_of(items)):
        own = unknowns[own_unknowns(items, number)]
        if method == "fft" and (extent := _voxels(items, lot)) is not None:
            found = [_of_voxels(items, lot, extent, own, workers, progress, keep, hold)]
        else:
            kept = [None if keep is None else keep[at] for at in lot]
            both = zip((items[at] for at in lot), kept, strict=True)
            found = [_of_plane(item, own, method, workers, progress, into, hold) for item, into in both]
        energy += sum(one.energy for one in found)
        parts.append(add((one.moment,) for one in found)[0])
    return Residual(together(items, parts), energy)


def _of_plane(
    item: WeightedObservation,
    unknowns: Array,
    method: str,
    workers: int,
    progress: Progress | None,
    keep: Array | None,
    hold: Hold | None,
) -> Residual:
    """Return that of one pair, or of a plane of a volume, over its own unknowns."""
    plan, frame, n_taps = item.observation.geometry, Frame.of(item.observation), item.n_taps
    kernel = frame.from_user(unknowns[:n_taps].reshape(-1, *plan.kernel_shape))
    weights, columns = item.weights, item.columns
    if frame.swapped:
        weights, keep = weights.T, None if keep is None else keep.T
        columns = None if columns is None else columns.transposed()
    size = frame.rows, frame.cols
    work = _Pass(frame, kernel, Weighing(frame.targets[0], size, weights, columns, unknowns[n_taps:], keep, hold))
    with np.errstate(all="ignore"):
        moment, beside, squares = work.direct(workers, progress) if method == "direct" else work.fft(workers, progress)
    if not (np.isfinite(moment).all() and math.isfinite(squares)):
        refuse_nonfinite(item.observation)
    return Residual(np.concatenate([frame.to_user(moment).ravel(), beside]), squares)


def _voxels(items: Items, lot: Sequence[int]) -> Extent | None:
    """Return the volume that some planes are, None if they are none, or it is quicker to take them one by one."""
    own = tuple(items[at].observation for at in lot)
    return Extent(own) if own[0].plane is not None and own[0].supports[0][0] > 1 and neighbours(own) else None


def _of_voxels(
    items: Items,
    lot: Sequence[int],
    extent: Extent,
    unknowns: Array,
    workers: int,
    progress: Progress | None,
    keep: Sequence[Array] | None,
    hold: Hold | None,
) -> Residual:
    """Return that of the planes of a volume, over their own unknowns."""
    n_taps = items[0].n_taps
    planes = [
        Weighing(
            items[at].observation.targets[0], items[at].observation.size, items[at].weights, items[at].columns,
            unknowns[n_taps:], None if keep is None else keep[at], hold,
        )
        for at in lot
    ]  # fmt: skip
    taps = unknowns[:n_taps].reshape(-1, *extent.kernel)
    moment, beside, squares = voxel_pass.residual(extent, planes, taps, workers, progress)
    return Residual(np.concatenate([moment.ravel(), beside]), squares)


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

    def __init__(self, frame: Frame, taps: Array, weighing: Weighing) -> None:
        self.frame, self.taps, self.weighing = frame, taps, weighing

    def direct(self, workers: int, progress: Progress | None) -> tuple[Array, Array, float]:
        """Add up the products of pixels."""
        from ..compiled import lag_sums

        frame, weighing, (height, width) = self.frame, self.weighing, (64, 1024)
        y_halo, x_halo, n_sources = frame.row_halo, frame.col_halo, len(frame.sources)

        def band(tiles: list[tuple[int, int, int, int]]) -> tuple[Array, ...]:
            moment, energy = np.zeros((n_sources, frame.kernel_rows, frame.kernel_cols)), np.zeros(1)
            beside = np.zeros(len(weighing.coefficients))
            images = np.empty((n_sources, height + y_halo, width + x_halo))
            result, model = np.empty((height, width)), np.empty((height, width))
            for row, col, n_rows, n_cols in tiles:
                for image, reader in zip(images, frame.sources, strict=True):
                    reader.read(image[: n_rows + y_halo, : n_cols + x_halo], row, col)
                used = result[:n_rows, :n_cols]
                weighing.read(used, row, col)
                for s in range(n_sources):
                    lag_sums.correlate(images[s], 0, self.taps[s], n_rows, n_cols, model)
                    used -= model[:n_rows, :n_cols]
                energy += weighing.weigh(used, row, col)
                beside += weighing.beside(used, row, col)
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

        frame, weighing, n_sources = self.frame, self.weighing, len(self.frame.sources)
        y_halo, x_halo = frame.row_halo, frame.col_halo
        length, lines = segment(frame.cols, x_halo, n_sources).length, frame.kernel_rows == 1
        # Nothing that the transform wraps round is used, so unlike lag sums it needs one halo only.
        step = min(frame.cols, length - x_halo)
        height = math.ceil(frame.rows / max(1, round(frame.rows / max(128, 8 * frame.kernel_rows))))
        tiles = [(r, c) for c in range(0, frame.cols, step) for r in range(0, frame.rows, height)]
        kernel = tap_spectra(self.taps, length)

        def band(tiles: list[tuple[int, int]]) -> tuple[Array, ...]:
            transform = borrow(height + y_halo, length, n_sources + 1, n_sources)
            image, result, model, values = transform.image, transform.result, transform.model, transform.spectra
            sums = spectral_sums(n_sources, n_sources + 1, length, frame.kernel_rows)
            energy, beside = np.zeros(1), np.zeros(len(weighing.coefficients))
            transform.clear(step + x_halo, step)
            for row, col in tiles:
                n_rows, n_cols = min(height, frame.rows - row), min(step, frame.cols - col)
                for s, reader in enumerate(frame.sources):
                    reader.read(image[: n_rows + y_halo, : step + x_halo], row, col)
                    transform.forward(s)
                weighing.read(result[:n_rows, :step], row, col)
                spectral_products.spectral_correlate(values, n_sources, n_sources, kernel, n_rows)
                transform.backward(n_sources)
                used = result[:n_rows, :n_cols]
                if weighing.keep is None and weighing.hold is None:
                    place = slice(row, row + n_rows), slice(col, col + n_cols)
                    weights = np.ascontiguousarray(weighing.weights[place], dtype=np.float64)
                    energy += patch_sums.weigh(result, model, weights)
                else:
                    used -= model[:n_rows, :n_cols]
                    energy += weighing.weigh(used, row, col)
                beside += weighing.beside(used, row, col)
                result[:n_rows, n_cols:step] = 0.0
                transform.forward(n_sources)
                add_spectra(values, n_sources, n_sources, n_rows, frame.kernel_rows, sums)
            give_back(transform)
            return complex_spectra(sums[:, n_sources:], lines=lines)[:, 0, : frame.kernel_rows], beside, energy

        work = bands(tiles)
        sums, beside, energy = add(counted(in_order(work, band, workers), len(work), progress))
        spectra = sums.view(np.complex128)[..., : length // 2 + 1]
        moment: Array = scipy.fft.irfft(spectra, n=length)[..., : frame.kernel_cols]
        return moment, beside, float(energy[0])
