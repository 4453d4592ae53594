"""Summed spectra to the best kernel of a shape: Wiener's division among the taps alone; no pixel is seen here.

Division frequency by frequency, ``H = C / (S + balance * m * q)``, is the minimum of ``|Y - H X|^2 + balance * m * |Q H|^2``
over kernels as large as the image. Among those of the shape asked for, the minimum solves
``(T + balance * m * Q) k = c``: T is block-Toeplitz, made of the lag sums of the image, which are the inverse transform of S;
Q of those of the penalty; c is the inverse transform of C at the taps. For periodic data T and c are the normal
equations themselves. Elsewhere the tapers make the sums at lag d too small by
``rho(d) = sum_t w(t) w(t + d) / sum_t w(t)^2`` on the average; dividing T and c by it takes away most of what the edges do.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.linalg

from .band import Band, phases
from .spectra import Array, SpectralStats

_CHUNK = 256  # rows of the spectra read at a time
_LEAST_OVERLAP = 0.1
_PILOTS = 4
_DECADES = 10.0 ** np.arange(-15.0, 5.0)
_BALANCES = np.concatenate([[0.0], 10.0 ** np.arange(-15.0, 4.1, 0.25)])
_EPS = float(np.finfo(np.float64).eps)


class Estimate(NamedTuple):
    """A kernel in the valid problem's tap order, its balance, a factor of its mean square error ``F F'``, its rank."""

    taps: Array
    balance: float
    factor: Array | None
    rank: int


class Lags(NamedTuple):
    """Lag sums over a block's pixels: ``power[d]`` for rows 0.. and columns -(cols - 1)..; ``cross`` at the taps."""

    power: Array
    cross: Array


def lag_sums(stats: SpectralStats) -> Lags:
    """Return the inverse transforms of the spectra at the lags that matter, in one pass over the spectra."""
    (n_rows, n_cols), (height, width) = stats.block, stats.shape
    cols = np.arange(n_cols // 2 + 1)
    turns = np.arange(n_rows) * (2 * np.pi / n_rows)
    angles = np.outer(np.arange(height), turns), np.outer(np.arange(height) - stats.shift[0], turns)
    to_rows = [np.concatenate([np.cos(a), np.sin(a)]) for a in angles]
    power, cross = np.zeros((2 * height, len(cols))), np.zeros((2 * height, 2 * len(cols)))
    for first in range(0, n_rows, _CHUNK):
        part = slice(first, first + _CHUNK)
        power += to_rows[0][:, part] @ stats.image_power[part]
        cross += to_rows[1][:, part] @ stats.cross[part].view(np.float64)
    weights = np.full(len(cols), 2.0)
    weights[0] = 1.0
    if n_cols % 2 == 0:
        weights[-1] = 1.0
    size = n_rows * n_cols
    across = phases(np.arange(1 - width, width), cols / n_cols).T * weights[:, None]
    at_taps = phases(np.arange(width) - stats.shift[1], cols / n_cols).T * weights[:, None]
    both = cross.view(np.complex128)
    return Lags(
        power=((power[:height] - 1j * power[height:]) @ across).real / size,
        cross=((both[:height] - 1j * both[height:]) @ at_taps).real / size,
    )


def matrix(lags: Array, shape: tuple[int, int]) -> Array:
    """Return the block-Toeplitz matrix of lag sums that are the same for d and -d."""
    height, width = shape
    y, x = np.divmod(np.arange(height * width), width)
    down, across = y[:, None] - y, x[:, None] - x
    turned = np.where(down < 0, -across, across)
    return np.asarray(lags[np.abs(down), turned + width - 1])


def penalty_lags(shape: tuple[int, int], penalty: str) -> Array:
    """Return the lag sums of a penalty whose power spectrum has mean one."""
    height, width = shape
    lags = np.zeros((height + 2, 2 * width + 3))  # columns -(width + 1) .. width + 1
    zero = width + 1
    if penalty == "identity":
        lags[0, zero] = 1.0
    else:  # the five-point Laplacian, correlated with itself
        lags[0, zero - 2 : zero + 3] = np.array([1, -8, 20, -8, 1]) / 20
        lags[1, zero - 1 : zero + 2] = np.array([2, -8, 2]) / 20
        lags[2, zero] = 1 / 20
    return lags[:height, 2:-2]


def estimate(stats: SpectralStats, band: Band, given: float | None, scale: float) -> Estimate:
    """Return the kernel, with the balance of the smallest estimated error if none is given.

    With ``T V = m Q V diag(d)`` and ``V' m Q V = 1`` every balance costs one product. The mean square error of the
    kernel is the variance ``A N A'``, where ``A = (T + balance m Q)^-1`` and N, the covariance of c, follows from the
    power of the image times that of the residual in rings of frequencies; plus the square of what the penalty holds
    back, ``balance A m Q k``. Both need a kernel: the first is that of the least generalised cross-validation, the next
    that of the balance just chosen, until the balance stays. White noise would not do for N: what the edges leave
    behind has the spectrum of the image.
    """
    shape, n = stats.shape, math.prod(stats.block)
    lags = lag_sums(stats)
    overlap = np.maximum(stats.overlap / stats.n_blocks, _LEAST_OVERLAP)
    mirrored = np.concatenate([overlap[:, :0:-1], overlap], axis=1)
    reach = [np.abs(np.arange(k) - s) for k, s in zip(shape, stats.shift, strict=True)]
    at_taps = overlap[np.ix_(*(np.minimum(r, k - 1) for r, k in zip(reach, shape, strict=True)))]
    moment = (lags.cross / at_taps).ravel()
    penalty = matrix(penalty_lags(shape, band.name), shape) * scale
    gram = matrix(lags.power / mirrored, shape)
    values, vectors = scipy.linalg.eigh(gram, penalty)
    usable = values > max(16, len(values)) * _EPS * values[-1]  # the others hold rounding, or less than nothing
    values = np.where(usable, values, 0.0)
    inside = vectors.T @ moment
    inside[~usable] = 0.0

    def factors(balance: npt.NDArray[np.float64]) -> Array:
        divisor = values + np.asarray(balance)[..., None]
        return np.divide(1.0, divisor, out=np.zeros_like(divisor), where=divisor > 0)

    def kernel_at(balance: float) -> Array:
        return np.asarray(vectors @ (factors(np.asarray(balance)) * inside))

    def noise_of(taps: Array) -> Array:
        misfit = band.misfit(band.spread(taps.reshape(shape)))
        return np.asarray(band.in_rings(misfit) / stats.n_blocks)

    def moment_covariance(noise: Array) -> Array:
        spread = stats.weight_square / (stats.n_blocks * n) / n**2
        return matrix(band.lags(band.power * noise, shape) * spread, shape) / np.outer(at_taps, at_taps)

    chosen = given if given is not None else _cross_validated(stats, band, values, kernel_at)
    if given is None:
        gram_of_vectors = vectors.T @ vectors
        held = factors(_BALANCES)
        for _ in range(_PILOTS):
            taps = kernel_at(chosen)
            products = (vectors.T @ moment_covariance(noise_of(taps)) @ vectors) * gram_of_vectors
            variance = np.einsum("bi,bi->b", held @ products, held)
            lost = (_BALANCES[:, None] * held) * (factors(np.asarray(chosen)) * inside)
            bias = np.einsum("bi,bi->b", lost @ gram_of_vectors, lost)
            before, chosen = chosen, float(_BALANCES[int(np.argmin(variance + bias))])
            if chosen == before:
                break
    taps = kernel_at(chosen)
    pseudo = (vectors * factors(np.asarray(chosen))) @ vectors.T
    lost = chosen * (vectors @ (factors(np.asarray(chosen)) ** 2 * inside))
    root = _root(moment_covariance(noise_of(taps)))
    factor = np.concatenate([pseudo @ root, lost[:, None]], axis=1)
    rank = len(values) if chosen > 0 else int(usable.sum())
    return Estimate(taps.reshape(shape), chosen, factor, rank)


def _cross_validated(stats: SpectralStats, band: Band, values: Array, kernel_at: Callable[[float], Array]) -> float:
    """Return the balance of the least generalised cross-validation, ``mean |Y - H X|^2 / (1 - df / n)^2``."""
    n_pixels = (stats.n_blocks * math.prod(stats.block)) ** 2 / stats.weight_square
    scores = []
    for balance in _DECADES:
        misfit = band.mean(band.misfit(band.spread(kernel_at(balance).reshape(stats.shape))))
        freedom = float(np.sum(values / (values + balance)))
        scores.append(misfit / max(1 - freedom / n_pixels, 1e-3) ** 2)
    return float(_DECADES[int(np.argmin(scores))])


def _root(covariance: Array) -> Array:
    """Return F with ``F F'`` the covariance."""
    top = float(np.diag(covariance).max())
    if not top > 0:
        return np.zeros((len(covariance), 1))
    covariance[np.diag_indices_from(covariance)] += 1e-12 * top
    try:
        return np.asarray(scipy.linalg.cholesky(covariance, lower=True))
    except np.linalg.LinAlgError:
        values, vectors = scipy.linalg.eigh(covariance)
        return np.asarray(vectors * np.sqrt(np.maximum(values, 0.0)))
