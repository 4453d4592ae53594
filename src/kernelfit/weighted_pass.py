"""One pass over the pixels with a weight each: the weighted residual of a kernel and its products with the image.

The work of `accumulation` with taps, engine by engine: correlate, subtract from the target, multiply by the weights,
correlate back. It is the whole of an iteration of conjugate gradients on the weighted problem.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.fft

from . import pair
from .accumulation import Frame, Progress, add, bands, counted, grid, in_order, segment
from .pair import Array, Problem

Weights = npt.NDArray[np.float64] | npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Item:
    """A pair with a weight for each target pixel that is used.

    Attributes
    ----------
    problem : Problem
        The pair; what must not be read, reads as zero.
    weights : ndarray of float or bool, shape (rows, cols) of the used target
        Not negative.
    """

    problem: Problem
    weights: Weights

    @property
    def n_pixels(self) -> int:
        """Number of pixels with a weight."""
        return int(np.count_nonzero(self.weights))


@dataclass(frozen=True, eq=False)
class Residual:
    """What a pass adds up, for weights W.

    Attributes
    ----------
    moment : ndarray, shape (taps,)
        ``A'W (y - A k)``.
    energy : float
        ``(y - A k)' W (y - A k)``.
    """

    moment: Array
    energy: float


def residual(
    items: Sequence[Item],
    taps: Array,
    method: str,
    workers: int,
    progress: Progress | None = None,
    keep: Sequence[Array] | None = None,
) -> Residual:
    """Return the weighted moment and energy of the residual of a kernel, from the pixels.

    Parameters
    ----------
    items : sequence of Item
        The pairs, of one target each.
    taps : ndarray, shape (taps,)
        The kernel.
    method : {"direct", "fft"}
        The engine.
    workers : int
        Number of threads; any number gives the same bits.
    progress : callable, optional
        Told of each band of pixels.
    keep : sequence of ndarray, optional
        For each pair an array of the shape of the used target, which receives the residual itself.

    Returns
    -------
    Residual
    """
    moment, energy = np.zeros(len(taps)), 0.0
    for i, item in enumerate(items):
        plan, frame = item.problem.geometry, Frame.of(item.problem)
        kernel = frame.from_user(taps.reshape(-1, *plan.kernel_shape))
        weights = item.weights.T if frame.swapped else item.weights
        kept = None if keep is None else keep[i].T if frame.swapped else keep[i]
        work = _Pass(frame, weights, kernel, kept)
        with np.errstate(all="ignore"):
            part, own = work.direct(workers, progress) if method == "direct" else work.fft(workers, progress)
        if not (np.isfinite(part).all() and math.isfinite(own)):
            pair.refuse_nonfinite(item.problem)
        moment += frame.to_user(part).ravel()
        energy += own
    return Residual(moment, energy)


class _Pass:
    """A pass over one pair, with either engine."""

    def __init__(self, frame: Frame, weights: Weights, taps: Array, keep: Array | None) -> None:
        self.frame, self.weights, self.taps, self.keep = frame, weights, taps, keep

    def weigh(self, block: Array, row: int, col: int) -> float:
        """Multiply a block of the residual by its weights; return its weighted energy."""
        place = slice(row, row + block.shape[0]), slice(col, col + block.shape[1])
        if self.keep is not None:
            self.keep[place] = block
        weights = self.weights[place]
        if weights.dtype == np.bool_:
            block *= weights
            return float(np.einsum("ij,ij->", block, block))
        weighted = block * weights
        energy = float(np.einsum("ij,ij->", weighted, block))
        block[...] = weighted
        return energy

    def direct(self, workers: int, progress: Progress | None) -> tuple[Array, float]:
        """Add up the products of pixels."""
        from . import _loops

        frame, (height, width) = self.frame, (64, 1024)
        y_halo, x_halo, n_sources = frame.row_halo, frame.col_halo, len(frame.sources)

        def band(tiles: list[tuple[int, int, int, int]]) -> tuple[Array, ...]:
            moment, energy = np.zeros((n_sources, frame.kernel_rows, frame.kernel_cols)), np.zeros(1)
            images = np.empty((n_sources, height + y_halo, width + x_halo))
            result, model = np.empty((height, width)), np.empty((height, width))
            for row, col, n_rows, n_cols in tiles:
                for image, reader in zip(images, frame.sources, strict=True):
                    reader.read(image[: n_rows + y_halo, : n_cols + x_halo], row, col)
                used = result[:n_rows, :n_cols]
                frame.targets[0].read(used, row, col)
                for s in range(n_sources):
                    _loops.correlate(images[s], 0, self.taps[s], n_rows, n_cols, model)
                    used -= model[:n_rows, :n_cols]
                energy += self.weigh(used, row, col)
                for s in range(n_sources):
                    _loops.lag_sums(result, 0, images[s], 0, n_rows, n_cols, moment[s])
            return moment, energy

        work = bands(grid(frame.rows, frame.cols, (height, width)))
        moment, energy = add(counted(in_order(work, band, workers), len(work), progress))
        return moment, float(energy[0])

    def fft(self, workers: int, progress: Progress | None) -> tuple[Array, float]:
        """Do the same on the spectra of segments of rows."""
        from . import _fft, _loops, _weighted_loops

        frame, n_sources = self.frame, len(self.frame.sources)
        y_halo, x_halo = frame.row_halo, frame.col_halo
        length = segment(frame.cols, x_halo, n_sources).length
        # Nothing that the transform wraps round is used, so unlike lag sums it needs one halo only.
        step = min(frame.cols, length - x_halo)
        height = math.ceil(frame.rows / max(1, round(frame.rows / max(128, 8 * frame.kernel_rows))))
        tiles = [(r, c) for c in range(0, frame.cols, step) for r in range(0, frame.rows, height)]
        n_lags = -(-frame.kernel_rows // 4) * 4  # the loops do four at a time
        more = [(0, 0), (0, n_lags - frame.kernel_rows), (0, 0)]
        kernel = scipy.fft.rfft(np.pad(self.taps, more), n=length, axis=-1, norm="forward").swapaxes(-1, -2)
        kernel_real, kernel_imag = np.ascontiguousarray(kernel.real), np.ascontiguousarray(kernel.imag)

        def band(tiles: list[tuple[int, int]]) -> tuple[Array, ...]:
            transform = _fft.borrow(height + y_halo, length, n_sources + 1, n_sources)
            image, result, model, values = transform.image, transform.result, transform.model, transform.spectra
            turned = np.empty(values.shape[-1])
            sums = np.zeros((2, n_sources, n_sources + 1, length // 2 + 1, n_lags))
            energy = np.zeros(1)
            transform.clear(step + x_halo, step)
            for row, col in tiles:
                n_rows, n_cols = min(height, frame.rows - row), min(step, frame.cols - col)
                for s, reader in enumerate(frame.sources):
                    reader.read(image[: n_rows + y_halo, : step + x_halo], row, col)
                    transform.forward(s)
                frame.targets[0].read(result[:n_rows, :step], row, col)
                _loops.spectral_correlate(values, n_sources, n_sources, kernel_real, kernel_imag, n_rows, turned)
                transform.backward(n_sources)
                place = slice(row, row + n_rows), slice(col, col + n_cols)
                if self.keep is not None:
                    np.subtract(result[:n_rows, :n_cols], model[:n_rows, :n_cols], out=self.keep[place])
                weights = np.ascontiguousarray(self.weights[place], dtype=np.float64)
                energy += _weighted_loops.weigh(result, model, weights)
                result[:n_rows, n_cols:step] = 0.0
                transform.forward(n_sources)
                for s in range(n_sources):
                    _loops.spectral_lag_sums(values, n_sources, s, n_rows, sums[0, s], sums[1, s], turned)
            _fft.give_back(transform)
            return sums[:, :, n_sources, :, : frame.kernel_rows], energy

        work = bands(tiles)
        sums, energy = add(counted(in_order(work, band, workers), len(work), progress))
        moment: Array = scipy.fft.irfft(sums[0] + 1j * sums[1], n=length, axis=-2)
        return np.swapaxes(moment[..., : frame.kernel_cols, : frame.kernel_rows], -1, -2), float(energy[0])
