"""A set of frequencies, all or a sample, with the spectra there and their weights; no pixel is seen here."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.linalg.blas

from ..core.cross_spectra import Complex, CrossSpectra
from ..core.validation import Array

PENALTIES = ("laplacian", "identity")
#: Power below this share of the mean power is rounding, and nothing is divided by it.
ROUNDING = 1e-28
#: Frequencies along each axis that are looked at, at least, where a sample of the band will do.
SAMPLES = 192
_RINGS = 40
_MOST_OWN = 2**26  # multiplications of a product without BLAS


def penalty_spectrum(rows: Array, cols: Array, penalty: str) -> Array:
    """Return q(f) at frequencies in cycles per pixel, its mean over the band being one."""
    # "laplacian": the square of ``4 - 2 cos(2 pi f_row) - 2 cos(2 pi f_col)``, of the five-point one, over its mean 20.
    down, across = penalty_root(rows, cols, penalty)
    root = down[:, None] + across
    return np.asarray(np.square(root, out=root))


def penalty_root(rows: Array, cols: Array, penalty: str) -> tuple[Array, Array]:
    """Return a and b with ``q = (a[row] + b[col])^2``."""
    if penalty == "identity":
        return np.ones(len(rows)), np.zeros(len(cols))
    return (2 - 2 * np.cos(2 * np.pi * rows)) / 20**0.5, (2 - 2 * np.cos(2 * np.pi * cols)) / 20**0.5


def penalty_power(frequencies: Sequence[Array], penalty: str) -> Array:
    """Return q on a grid along d axes, of mean one: that of ``sum (2 - 2 cos)`` squared is ``2 d (2 d + 1)``."""
    if penalty == "identity":
        return np.ones([len(own) for own in frequencies])
    d = len(frequencies)
    root = functools.reduce(np.add.outer, [2 - 2 * np.cos(2 * np.pi * own) for own in frequencies])
    return np.asarray(root**2 / (2 * d * (2 * d + 1)))


@dataclass(frozen=True, eq=False)
class Band:
    """A set of frequencies, all or a sample, with the weight of each, and the spectra there."""

    # The weights sum to the number N of points of a transform; ``crop(H)[u] = sum_f weight H exp(-2 pi i f (u - shift))
    # / N`` is the inverse transform at the taps alone, and `spread` its adjoint, the transform of a kernel.

    rows: Array
    cols: Array
    row_weights: Array
    col_weights: Array
    power: Array
    cross: Complex
    target: Array
    penalty: Array
    name: str
    to_rows: Complex
    to_cols: Complex
    #: Of several sources: their spectra with each other, and where each of the user's taps lies; see `CrossSpectra`.
    between: Complex | None = None
    order: npt.NDArray[np.intp] | None = None

    @classmethod
    def of(cls, stats: CrossSpectra, penalty: str, least: int | None) -> "Band":
        """Take all frequencies, or the lowest ones and a sample of the others."""
        (n_rows, n_cols), (height, width) = stats.block, stats.shape
        top = n_cols // 2
        i, half_weight = _sample(n_rows // 2, n_rows % 2 == 0, max(least, 8 * height) if least else n_rows)
        j, col_weights = _sample(top, n_cols % 2 == 0, max(least, 8 * width) if least else n_cols)
        nyquist = i[-1] if n_rows % 2 == 0 else n_rows
        mirror = (i > 0) & (i < nyquist)
        pick = np.concatenate([i, n_rows - i[mirror][::-1]])
        row_weights = np.concatenate([np.where(mirror, half_weight / 2, half_weight), half_weight[mirror][::-1] / 2])
        all_of_them = len(pick) == n_rows and len(j) == top + 1
        at = (slice(None), slice(None)) if all_of_them else np.ix_(pick, j)
        power: Array = stats.image_power
        between: Complex | None = None
        if stats.order is not None:
            between = np.asarray(stats.image_power[(..., *at)], dtype=np.complex128)
            power = np.einsum("aarc->rc", stats.image_power).real / len(stats.image_power)
        rows, cols = np.where(pick > n_rows // 2, pick - n_rows, pick) / n_rows, j / n_cols
        return cls(
            rows=rows,
            cols=cols,
            row_weights=row_weights,
            col_weights=col_weights,
            power=np.array(power[at], order="C"),
            cross=np.array(stats.cross[at if stats.order is None else (..., *at)], order="C"),
            target=np.array(stats.target_power[at], order="C"),
            penalty=penalty_spectrum(rows, cols, penalty),
            name=penalty,
            to_rows=phases(np.arange(height) - stats.shift[0], rows),
            to_cols=phases(np.arange(width) - stats.shift[1], cols).T,
            between=between,
            order=stats.order,
        )

    @property
    def size(self) -> float:
        """Sum of the weights."""
        return float(self.row_weights.sum() * self.col_weights.sum())

    @functools.cached_property
    def rings(self) -> npt.NDArray[np.intp]:
        """Ring of each frequency, rings of equal ratio from the lowest to the highest frequency."""
        radius = np.hypot(self.rows[:, None], self.cols)
        low = min(np.abs(self.rows[self.rows != 0]).min(initial=0.5), self.cols[self.cols > 0].min(initial=0.5))
        index = np.log(np.maximum(radius, low) / low) / math.log(0.71 / (0.999 * low)) * _RINGS
        return np.asarray(np.minimum(index.astype(np.intp), _RINGS - 1))

    @functools.cached_property
    def counts(self) -> Array:
        """Sum of the weights in each ring."""
        return self.per_ring(np.ones_like(self.power))

    def mean(self, values: Array) -> float:
        """Return the mean over the whole band."""
        return float((values * self.row_weights[:, None] * self.col_weights).sum()) / self.size

    def per_ring(self, values: Array) -> Array:
        """Return the sum over each ring."""
        weighted = values * self.row_weights[:, None] * self.col_weights
        return np.asarray(np.bincount(self.rings.ravel(), weighted.ravel(), _RINGS), dtype=np.float64)

    def crop(self, spectrum: Complex) -> Array:
        """Return the inverse transform at the taps of the valid problem."""
        part = (self.to_rows * self.row_weights) @ spectrum
        return real_product(part, self.to_cols * self.col_weights[:, None]) / self.size

    def spread(self, taps: Array) -> Complex:
        """Return the transform of a kernel, of several sources one for each."""
        from ..compiled import spectra

        if self.between is not None and self.order is not None:
            height, width = self.to_rows.shape[0], self.to_cols.shape[1]
            laid = np.zeros(len(self.between) * height * width)
            laid[self.order.ravel()] = taps.ravel()
            laid = laid.reshape(-1, height, width)
            return np.asarray(self.to_rows.conj().T @ laid @ self.to_cols.conj().T)
        half = self.to_rows[:, : len(self.rows) // 2 + 1].T  # the other rows are their mirror images
        lines = np.ascontiguousarray(taps @ self.to_cols.conj().T).view(np.float64)
        out = np.empty((len(self.rows), len(self.cols)), dtype=np.complex128)
        cosines, sines = np.ascontiguousarray(half.real), np.ascontiguousarray(half.imag)
        spectra.transform_columns(lines, cosines, sines, out.view(np.float64))
        return out

    def lags(self, density: Array, shape: tuple[int, int]) -> Array:
        """Return the inverse transform of a density, times N, at lags of rows 0.. and columns -(cols - 1)..."""
        to_rows = phases(np.arange(shape[0]), self.rows) * self.row_weights
        to_cols = phases(np.arange(1 - shape[1], shape[1]), self.cols).T * self.col_weights[:, None]
        part = product(to_rows.real, density) + 1j * product(to_rows.imag, density)
        return real_product(part, to_cols)

    def misfit(self, transfer: Complex) -> Array:
        """Return the power of the residual, ``|Y - H X|^2`` summed over blocks; zero where it is but rounding."""
        if self.between is not None:
            cross = np.sum(self.cross.real * transfer.real + self.cross.imag * transfer.imag, axis=0)
            both = self.target + np.einsum("arc,abrc,brc->rc", transfer.conj(), self.between, transfer).real
            return np.asarray(np.where(both - 2 * cross > 1e-14 * both, both - 2 * cross, 0.0))
        cross = self.cross.real * transfer.real + self.cross.imag * transfer.imag
        both = self.target + (transfer.real**2 + transfer.imag**2) * self.power
        misfit = both - 2 * cross
        return np.asarray(np.where(misfit > 1e-14 * both, misfit, 0.0))

    def ring_misfit(self, transfer: Complex) -> Array:
        """Return the mean over each ring of `misfit`."""
        from ..compiled import spectra

        if self.between is not None:
            return np.asarray(self.per_ring(self.misfit(transfer)) / np.maximum(self.counts, 1e-300))
        out = np.zeros(_RINGS)
        weights = self.row_weights, self.col_weights
        spectra.ring_misfit(self.power, self.cross, self.target, transfer, self.rings, *weights, out)
        return np.asarray(out / np.maximum(self.counts, 1e-300))

    def covariance(self, density: Array) -> Array:
        """Return ``N sum_f S_ab density exp(2 pi i f (q - p))`` over user's taps of sources; by default of spectra."""
        assert self.between is not None and self.order is not None
        m, (height, width) = len(self.between), (self.to_rows.shape[0], self.to_cols.shape[1])
        down = np.conj(phases(np.arange(1 - height, height), self.rows)) * self.row_weights
        across = np.conj(phases(np.arange(1 - width, width), self.cols)).T * self.col_weights[:, None]
        lags = (down @ (self.between * density) @ across).real
        source, tap = np.divmod(self.order.ravel(), height * width)
        y, x = np.divmod(tap, width)
        at = y - y[:, None] + height - 1, x - x[:, None] + width - 1
        return np.asarray(lags[source[:, None] % m, source % m, at[0], at[1]])


def _sample(top: int, even: bool, least: int) -> tuple[npt.NDArray[np.intp], Array]:
    """Return indices from 0 to `top`, all or the lowest quarter of `least` / 2 and a sample, and their weights."""
    low = max(1, least // 8)
    count = max(2, least // 2 - low)
    if top + 1 <= low + count:
        index = np.arange(top + 1)
        weight = np.ones(top + 1)
    else:
        index = np.concatenate([np.arange(low), np.round(np.linspace(low, top, count)).astype(np.intp)])
        edges = np.concatenate([index[:-1] + np.diff(index) / 2, [top + 0.5]])
        weight = np.diff(np.concatenate([[-0.5], edges]))
    factor = np.full(len(index), 2.0)
    factor[0] = 1.0
    weight = weight * factor
    if even:
        weight[-1] -= 1.0
    return index, weight


def mirrored(n_cols: int) -> Array:
    """Return how many columns of a transform each column of its half stands for."""
    weights = np.full(n_cols // 2 + 1, 2.0)
    weights[0] = 1.0
    if n_cols % 2 == 0:
        weights[-1] = 1.0
    return weights


def product(a: Array, b: Array) -> Array:
    """Return ``a @ b``; of small matrices without BLAS, whose threads spin and keep others from the processors."""
    if len(a) * b.size > _MOST_OWN:
        return np.asarray(scipy.linalg.blas.dgemm(1.0, b.T, a.T).T)
    from ..compiled import spectra

    out = np.zeros((len(a), b.shape[1]))
    spectra.add_products(np.ascontiguousarray(a.T), np.ascontiguousarray(b), out)
    return out


def real_product(a: Complex, b: Complex) -> Array:
    """Return the real part of ``a @ b``."""
    return product(a.real, b.real) - product(a.imag, b.imag)


def phases(lags: npt.NDArray[np.intp], frequencies: Array) -> Complex:
    """Return ``exp(-2 pi i lag f)``, a row for each lag."""
    return np.asarray(np.exp(-2j * np.pi * np.outer(lags, frequencies)))
