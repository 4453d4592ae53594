"""Kernels of thousands of taps: conjugate gradients on the structure of the Gram matrix, which is never formed.

``G[p, q]`` is the lag sum of the whole extended image less what lies above and below, and left and right, of a box that
moves with p, plus the four corners, which were taken away twice (`edges`). The rows above and below are a table
of pairs of rows and column lags, so this part of G is a convolution along the columns: for each frequency one small
matrix over pairs of rows. So are, the other way round, the columns left and right; the corners are small
transforms. To apply G costs a few megabytes of products, whatever the size of the image.
"""

import math
from collections.abc import Sequence
from typing import Self

import numpy as np
import numpy.typing as npt
import scipy.fft

from ..compiled.threads import in_order
from ..core.validation import Array
from ..data.reader import Reader
from .edge_correction import strip_lags
from .passes import Frame

Complex = npt.NDArray[np.complex128]
#: Most complex numbers that the matrices per frequency may have.
MOST_PRODUCTS = 2**23


def _box_spectra(total: Array, before: Array, after: Array) -> Complex:
    """Return, per frequency, the matrix of the sums over a moving box that is left after the strips are taken away."""
    # The sum for rows y and ``y + i`` and lag j is ``total[i, j] - sum_{r < y} before[r, r + i, j] - sum_{r >= y}
    # after[r, r + i, j]``; its transform over the lags is element (f, y, y + i), conjugated.
    n, n_lags = total.shape
    length = scipy.fft.next_fast_len(n_lags, real=True)
    places = np.arange(-(n_lags // 2), n_lags // 2 + 1) % length
    spectra = np.empty((length // 2 + 1, n, n), dtype=np.complex128)
    for i in range(n):
        r = np.arange(n - 1 - i)
        below, above = after[r, r + i], before[r, r + i]
        sums = np.zeros((n - i, length))
        sums[0, places] = total[i] - below.sum(axis=0)
        sums[1:, places] = below - above
        np.cumsum(sums, axis=0, out=sums)
        of_pair = np.conj(scipy.fft.rfft(sums, axis=1).T)
        y = np.arange(n - i)
        spectra[:, y, y + i] = of_pair
        spectra[:, y + i, y] = np.conj(of_pair)
    return spectra


def _products(spectra: Complex, taps: Array, workers: int) -> Array:
    """Apply the matrices of `_box_spectra`, one frequency after another, to taps (rows, columns)."""
    length = scipy.fft.next_fast_len(2 * taps.shape[1] - 1, real=True)
    of_taps = np.ascontiguousarray(scipy.fft.rfft(taps, n=length, axis=1, workers=1).T)
    out = np.empty_like(of_taps)

    def some(f: slice) -> None:  # not BLAS: its threads would come on top of ours
        np.einsum("fyz,fz->fy", spectra[f], of_taps[f], out=out[f])

    step = math.ceil(len(spectra) / (8 if spectra.size > 10**6 else 1))
    for _ in in_order([slice(f, f + step) for f in range(0, len(spectra), step)], some, workers):
        pass
    result: Array = scipy.fft.irfft(out.T, n=length, axis=1, workers=1)[:, : taps.shape[1]]
    return result


class _Strip:
    """The design matrix of the target pixels beyond one edge of the used ones, as transforms of segments."""

    # For long, narrow kernels, whose matrices per frequency would take too much memory. Rows t' = t - row of the strip
    # with -halo <= t' < 0 (`before`) or 0 <= t' < halo, columns start <= x < stop.

    def __init__(self, reader: Reader, row: int, kernel: tuple[int, int], start: int, stop: int, before: bool) -> None:
        halo, side = kernel[0] - 1, kernel[1]
        self.shape = (
            scipy.fft.next_fast_len(2 * halo, real=True),
            scipy.fft.next_fast_len(max(4 * side, min(stop - start, 64) + side - 1), real=True),
        )
        self.before, self.halo = before, halo
        self.step = self.shape[1] - side + 1
        starts = range(start, stop, self.step)
        blocks = np.zeros((len(starts), *self.shape))
        for block, x in zip(blocks, starts, strict=True):
            reader.read(block[:halo, : self.step + side - 1], row, x)
        self.last = stop - starts[-1]
        self.spectra = scipy.fft.rfft2(blocks)

    def gram(self, taps: Array, workers: int) -> Array:
        """Return ``E'E`` times the taps."""
        model = scipy.fft.irfft2(
            np.conj(scipy.fft.rfft2(taps, self.shape)) * self.spectra, self.shape, workers=workers, overwrite_x=True
        )
        model[:, :, self.step :] = 0.0
        model[-1, :, self.last :] = 0.0
        if self.before:
            model[:, : self.shape[0] - self.halo] = 0.0
        else:
            model[:, self.halo :] = 0.0
        products = np.conj(scipy.fft.rfft2(model, workers=workers, overwrite_x=True))
        products *= self.spectra
        out: Array = scipy.fft.irfft2(products.sum(axis=0), self.shape)
        return out[: taps.shape[0], : taps.shape[1]]


class TorusInverse:
    """About the inverse of a Gram matrix, from lag sums: one small matrix over the sources for each frequency."""

    # On a torus twice the kernel (on any other Hann's window would spread the image's mean over the spectrum) lag sums
    # tapered by Hann's window are a smoothed, and so nearly positive, spectrum of the image. `more` (sources,
    # frequencies) is added to it: a penalty's.

    def __init__(self, lags: Array, more: Array | None = None) -> None:
        self.lags = lags
        self.taps = taps = tuple((n + 1) // 2 for n in lags.shape[2:])
        #: sides of the torus
        self.torus = tuple(2 * n for n in taps)
        self._axes = tuple(range(1, 1 + len(taps)))
        tapered = lags
        for axis, n in enumerate(taps):
            taper = 0.5 + 0.5 * np.cos(np.pi * np.arange(-(n - 1), n) / n)
            tapered = tapered * taper.reshape(-1, *[1] * (len(taps) - 1 - axis))
        torus = np.zeros((*lags.shape[:2], *self.torus))
        places = np.ix_(*(np.arange(-(n - 1), n) % (2 * n) for n in taps))
        torus[:, :, *places] = tapered
        spectra = scipy.fft.rfftn(torus, axes=tuple(range(2, 2 + len(taps))))
        matrices = np.conj(np.moveaxis(spectra, (0, 1), (-2, -1)))
        if more is not None:
            i = np.arange(len(more))
            matrices[..., i, i] += np.moveaxis(more, 0, -1)
        values, vectors = np.linalg.eigh(matrices)
        self.largest = float(values.max())
        values = np.maximum(values, max(1e-9 * self.largest, 1e-300))
        self.condition = float(values.max() / values.min())
        self._inverse = np.einsum("...sk,...k,...tk->...st", vectors, 1.0 / values, np.conj(vectors))

    @classmethod
    def of_images(cls, lags: Array) -> "TorusInverse":
        """Return that of lag sums (sources, sources, rows, 2 * columns - 1), whose lags of rows begin at zero."""
        return cls(np.concatenate([lags.swapaxes(0, 1)[:, :, :0:-1, ::-1], lags], axis=2))

    def __call__(self, taps: Array) -> Array:
        """Return about the inverse of the Gram matrix times the taps, an array (sources, *sides)."""
        spectra = scipy.fft.rfftn(taps, self.torus, axes=self._axes, workers=1)
        found = np.einsum("...st,t...->s...", self._inverse, spectra)
        out: Array = scipy.fft.irfftn(found, self.torus, axes=self._axes, workers=1)
        return out[:, *map(slice, self.taps)]

    def beside(self, more: Array) -> "TorusInverse":
        """Return about the inverse of the sum with what has such a spectrum for each source."""
        return TorusInverse(self.lags, more)

    def diagonal(self) -> Array:
        """Return the diagonal of the inverse, an array (sources, *sides)."""
        n = self._inverse.shape[-1]
        every = [scipy.fft.irfftn(self._inverse[..., s, s], self.torus).flat[0] for s in range(n)]
        return np.broadcast_to(np.array(every).reshape(-1, *[1] * len(self.taps)), (n, *self.taps))


class NormalOperator:
    """The exact Gram matrix of one source image as an operator, by the lag sums of the extended image."""

    def __init__(self, frame: Frame, lags: Array, workers: int) -> None:
        rows, cols = frame.kernel_rows, frame.kernel_cols
        y_halo, x_halo = frame.row_halo, frame.col_halo
        self.taps = (rows, cols)
        self.workers = workers
        self._torus = (2 * rows, 2 * cols)
        sources = frame.sources[:1]
        turned = tuple(s.transposed() for s in sources)
        strips = [(sources, row, y_halo, frame.cols + x_halo, x_halo) for row in (0, frame.rows)]
        self._strips = []
        if rows * cols**2 > MOST_PRODUCTS:
            for col in (0, frame.cols):
                self._strips.append(_Strip(turned[0], col, (cols, rows), 0, frame.rows, col == 0))
        else:
            strips += [(turned, col, x_halo, frame.rows + y_halo, y_halo) for col in (0, frame.cols)]
        top, bottom, *beside = in_order(strips, lambda s: strip_lags(*s, "fft"), workers)
        self._rows = _box_spectra(lags, top, bottom)
        if self._strips:
            return
        self._cols = _box_spectra(np.zeros((cols, 2 * rows - 1)), *beside)
        corners = np.zeros((2, 2, *self._torus))
        for i, row in enumerate((0, frame.rows)):
            for j, col in enumerate((0, frame.cols)):
                corners[i, j, :y_halo, :x_halo] = sources[0].block(row, col, (y_halo, x_halo))
        self._corners = scipy.fft.rfft2(corners)

    def __call__(self, taps: Array) -> Array:
        """Return the Gram matrix times the taps, an array (kernel_rows, kernel_cols)."""
        out = _products(self._rows, taps, self.workers)
        if self._strips:  # the corners are in the rows above and below only
            for strip in self._strips:
                out -= strip.gram(np.ascontiguousarray(taps.T), self.workers).T
            return out
        out += _products(self._cols, np.ascontiguousarray(taps.T), self.workers).T
        spectrum = np.conj(scipy.fft.rfft2(taps, self._torus, workers=1))
        model = scipy.fft.irfft2(spectrum * self._corners, self._torus, workers=1)
        # The target pixels beyond two edges: before the first pixel of the block on the one side (at the torus's far
        # end), from the first pixel of it on, on the other.
        (rows, cols), (y_halo, x_halo) = self._torus, (n - 1 for n in self.taps)
        for side, line in enumerate(model):
            for end, block in enumerate(line):
                block[: rows - y_halo if side == 0 else 0] = 0.0
                block[y_halo if side == 1 else rows :] = 0.0
                block[:, : cols - x_halo if end == 0 else 0] = 0.0
                block[:, x_halo if end == 1 else cols :] = 0.0
        spectrum = (np.conj(scipy.fft.rfft2(model, workers=1)) * self._corners).sum(axis=(0, 1))
        out += scipy.fft.irfft2(spectrum, self._torus, workers=1)[: self.taps[0], : self.taps[1]]
        return out


#: From this ratio of powers on the torus is too far from the matrix; the most taps, and rows of signals.
_APART, _MOST_TAPS, _MOST_ROWS = 1e3, 2**16, 4
#: What is added to the diagonal, relative to the largest eigenvalue, until rounding leaves the matrix positive.
_RIDGES = (0.0, 1e-14, 1e-12, 1e-10)


class ToeplitzInverse:
    """The inverse of a Gram matrix plus a `ridge`: the sum of ``L(x) L(x)'``, taken off but for `n_positive`."""

    # L(x) is the lower triangular Toeplitz matrix whose first column is x, given by its spectrum.

    def __init__(self, torus: TorusInverse, first: Array, ends: tuple[Array, Array], ridge: float = 0.0) -> None:
        """Invert; `first` is the first row of G, `ends` what leaves and what enters, (rows, taps - 1)."""
        from ..compiled.dense import invert_displaced

        self.known, self.given, self.condition = torus, (first, ends), torus.condition
        self.lags, self.torus = torus.lags, torus.torus
        m, n = len(first), len(ends[0])
        for share in _RIDGES:
            self.ridge = ridge + share * torus.largest
            corner = np.sqrt(first[0] + self.ridge)
            lead, positive, negative = np.zeros(m + 1), np.zeros((n, 2 * m + 1)), np.zeros((n + 1, 2 * m + 1))
            lead[0], lead[1:m], lead[m] = corner, first[1:] / corner, 1 / corner
            negative[0, 1 : m + 1] = lead[1:]
            positive[:, 1:m], negative[1:, 1:m] = ends[1], ends[0]
            self.done = bool(invert_displaced(lead, positive, negative))
            if self.done:
                break
        generators = np.concatenate([negative[:, m : 2 * m], lead[None, :m], positive[:, m : 2 * m]])
        self.signs = np.repeat([1.0, -1.0], n + 1)[:, None]
        self._generators, self._length = generators, scipy.fft.next_fast_len(2 * m, real=True)
        self._spectra = scipy.fft.rfft(generators, n=self._length, workers=1)

    @classmethod
    def beside_torus(cls, torus: TorusInverse, frames: Sequence[Frame]) -> Self | TorusInverse:
        """Return the inverse of the matrix of some signals if theirs on a torus is far from it, else the latter."""
        frame = frames[0]
        m, rows = frame.kernel_cols, sum(f.rows for f in frames)
        if frame.kernel_rows > 1 or rows > _MOST_ROWS or not 1 < m <= _MOST_TAPS or torus.condition < _APART:
            return torus
        leave, enter = (
            np.concatenate([f.sources[0].block(0, at * f.cols, (f.rows, m - 1)) for f in frames]) for at in (0, 1)
        )
        length = scipy.fft.next_fast_len(2 * m, real=True)
        tail = np.sum(np.abs(scipy.fft.rfft(enter, n=length, workers=1)) ** 2, axis=0)
        first = torus.lags[0, 0, 0, m - 1 :] - scipy.fft.irfft(tail, n=length, workers=1)[:m]
        found = cls(torus, first, (leave, enter))
        return found if found.done else torus

    def __call__(self, taps: Array) -> Array:
        """Return the inverse times the taps, an array (1, 1, taps)."""
        m = taps.shape[2]
        inner = np.conj(self._spectra) * scipy.fft.rfft(taps[0], n=self._length, workers=1)
        middle = scipy.fft.irfft(inner, n=self._length, workers=1)[:, :m]
        outer = scipy.fft.rfft(self.signs * middle, n=self._length, workers=1) * self._spectra
        found: Array = scipy.fft.irfft(outer.sum(axis=0), n=self._length, workers=1)[None, None, :m]
        return found

    def power(self) -> Array:
        """Return the spectrum of the signal, at frequencies from 0 to 0.5, even if it spans many decades."""
        # Of the means of the diagonals; Kaiser's window leaves 1e-11 of a power farther away than 9 over the number of
        # lags.
        first, (leave, enter) = self.given
        m = len(first)
        falling = np.arange(m - 1, 0, -1)

        def sums(ends: Array) -> Array:
            one, other = scipy.fft.rfft(np.stack([ends, ends * falling]), n=self._length, workers=1)
            products = (np.conj(one) * other).sum(axis=0)
            return np.asarray(scipy.fft.irfft(products, n=self._length, workers=1)[:m])

        lags = (first + (sums(enter) - sums(leave)) / np.arange(m, 0, -1)) * np.kaiser(2 * m - 1, 26.0)[m - 1 :]
        spectrum = scipy.fft.rfft(np.concatenate([lags, lags[:0:-1]]), workers=1).real
        return np.asarray(np.maximum(spectrum, 1e-12 * spectrum.max()))

    def diagonal(self) -> Array:
        """Return the diagonal of the inverse, an array (1, 1, taps)."""
        return np.asarray(np.cumsum(np.sum(self.signs * self._generators**2, axis=0))[None, None])

    def beside(self, more: Array) -> "Self | TorusInverse":
        """Return the inverse of the sum with what has such a spectrum, about that if the spectrum is not constant."""
        found = None if np.ptp(more) else self.raised(float(more.ravel()[0]))
        return found if found is not None and found.done else self.known.beside(more)

    def raised(self, ridge: float) -> Self:
        """Return the inverse with a ridge."""
        return type(self)(self.known, *self.given, ridge=ridge)
