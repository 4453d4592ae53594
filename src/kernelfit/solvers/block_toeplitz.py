"""Summed spectra to the best kernel of a shape: Wiener's division among the taps alone; no pixel is seen here.

Division frequency by frequency, ``H = C / (S + balance * m * q)``, is the minimum over kernels as large as the image of
``|Y - H X|^2 + balance * m * |Q H|^2``. Among those of the shape asked for, the minimum solves
``(T + balance * m * Q) k = c``: T is block-Toeplitz, made of the lag sums of the image, which are the inverse transform
of S; Q of those of the penalty; c is the inverse transform of C at the taps. For periodic data T and c are the normal
equations themselves. Elsewhere the tapers make the sums at lag d too small, on the average by the factor
``rho(d) = sum_t w(t) w(t + d) / sum_t w(t)^2``; dividing T and c by it takes away most of what the edges do.
"""

import functools
import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.fft
import scipy.linalg

from ..core.cross_spectra import CrossSpectra
from ..core.validation import Array
from . import cholesky
from .spectral_band import Band, mirrored, phases, product, real_product

_STRIP = 32  # rows of the spectra, and their mirror images, at a time
_LEAST_OVERLAP = 0.1
_FINER = 100.0
_PILOT = 1e-6
_WORSE = 0.01  # mean log power of the residual by which a fit is clearly worse than another
_GAIN = 0.98  # of the square error of no balance: less is no evidence for one, and loses as often as it wins
_BALANCES = np.concatenate([[0.0], 10.0 ** np.arange(-15.0, 4.1, 0.25)])
_EPS = float(np.finfo(np.float64).eps)


class Estimate(NamedTuple):
    """A kernel in the valid problem's tap order, the balance, its mean power m, the factor F, and the rank."""

    taps: Array
    balance: float
    level: float
    factor: Array | None
    rank: int


class Lags(NamedTuple):
    """Lag sums over a block's pixels: ``power[d]`` for rows 0.. and columns -(cols - 1)..; ``cross`` at the taps."""

    power: Array
    cross: Array


def lag_sums(stats: CrossSpectra, workers: int = 1) -> Lags:
    """Return the inverse transforms of the spectra at the lags that matter, in one pass over the spectra."""
    from ..compiled import spectra
    from ..compiled.threads import add, bands, in_order

    (n_rows, n_cols), (height, width) = stats.block, stats.shape
    cols, pairs = np.arange(n_cols // 2 + 1), (n_rows + 1) // 2  # a row and its mirror image: half the products
    turns = np.arange(n_rows // 2 + 1) * (2 * np.pi / n_rows)
    angles = np.outer(turns, np.arange(height)), np.outer(turns, np.arange(height) - stats.shift[0])
    factors = [(np.cos(a), np.sin(a)) for a in angles]
    sources = stats.image_power, stats.cross.view(np.float64)

    def band(strips: list[int]) -> tuple[Array, ...]:
        sums = [np.zeros((height, source.shape[1])) for source in sources for _ in range(2)]
        place = np.empty(_STRIP * 2 * len(cols))
        for first in strips:
            last = min(first + _STRIP, pairs)
            for i, source in enumerate(sources):
                here, there = source[first:last], source[n_rows - first : n_rows - last : -1]
                both = place[: here.size].reshape(here.shape)
                for combine, factor, out in zip((np.add, np.subtract), factors[i], sums[2 * i :], strict=False):
                    combine(here, there, out=both)
                    spectra.add_products(factor[first:last], both, out)
        return tuple(sums)

    strips = list(range(1, pairs, _STRIP))
    found = add(in_order(bands(strips), band, workers)) if strips else []
    lines = []
    for i, (source, (cosines, _)) in enumerate(zip(sources, factors, strict=True)):
        even = source[0] + (np.outer(cosines[-1], source[pairs]) if n_rows % 2 == 0 else np.zeros((height, 1)))
        odd = np.zeros_like(even)
        lines.append((even + found[2 * i], odd + found[2 * i + 1]) if found else (even, odd))
    weights = mirrored(n_cols)
    size = n_rows * n_cols
    across = phases(np.arange(1 - width, width), cols / n_cols).T * weights[:, None]
    at_taps = phases(np.arange(width) - stats.shift[1], cols / n_cols).T * weights[:, None]
    power, (even, odd) = lines[0], (line.view(np.complex128) for line in lines[1])
    return Lags(
        power=real_product(power[0] - 1j * power[1], across) / size, cross=real_product(even - 1j * odd, at_taps) / size
    )


def _several(stats: CrossSpectra) -> tuple[Array, Array]:
    """Return Gram matrix and moment of several sources over the user's taps, as means over a block."""
    assert stats.order is not None
    (height, width), order = stats.shape, stats.order.ravel()
    source, tap = np.divmod(order, height * width)
    y, x = np.divmod(tap, width)
    n = len(order)
    gram, right = np.empty((n, n)), np.empty(n)
    for a in range(len(stats.image_power)):
        here = np.flatnonzero(source == a)
        lags = scipy.fft.irfft2(stats.cross[a], stats.block)
        right[here] = lags[stats.shift[0] - y[here], stats.shift[1] - x[here]]
        for b in range(len(stats.image_power)):
            there = np.flatnonzero(source == b)
            lags = scipy.fft.irfft2(stats.image_power[a, b], stats.block)
            at = y[there] - y[here, None], x[there] - x[here, None]
            gram[np.ix_(here, there)] = lags[at[0], at[1]]
    return gram, right


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


@dataclass(frozen=True, eq=False)
class Equations:
    """``T V = m Q V diag(values)`` with ``V' m Q V = 1``: every balance costs one product."""

    stats: CrossSpectra
    band: Band  # a sample of the frequencies
    #: values, vectors: generalised eigenvalues, zero where they hold rounding or less than nothing, and eigenvectors
    values: Array
    vectors: Array
    moment: Array  # ``V'c``, zero where the values are
    #: gram, penalty, right: T, ``m Q`` and c
    gram: Array
    penalty: Array
    right: Array
    level: float  # m, the mean power of the image
    covariance_scale: Array  # (taps, taps); what makes the lags of ``power * noise`` the covariance of c
    noises: dict[float, Array] = field(default_factory=dict)  # what `noise` has found

    @classmethod
    def of(cls, stats: CrossSpectra, band: Band, workers: int = 1) -> "Equations":
        """Set the equations up."""
        shape, n = stats.shape, math.prod(stats.block)
        overlap = np.maximum(stats.overlap / stats.n_blocks, _LEAST_OVERLAP)
        mirrored = np.concatenate([overlap[:, :0:-1], overlap], axis=1)
        reach = [np.minimum(np.abs(np.arange(k) - s), k - 1) for k, s in zip(shape, stats.shift, strict=True)]
        at_taps = overlap[np.ix_(*reach)].ravel()
        if stats.order is None:
            lags = lag_sums(stats, workers)
            level = float(lags.power[0, shape[1] - 1])
            gram, penalty = matrix(lags.power / mirrored, shape), matrix(penalty_lags(shape, band.name), shape)
            right = lags.cross.ravel() / at_taps
        else:
            gram, right = _several(stats)
            order, own = stats.order.ravel() % math.prod(shape), stats.order.shape[1:]
            penalty = np.asarray(np.kron(np.eye(len(stats.order)), matrix(penalty_lags(own, band.name), own)))
            level = float(np.trace(gram)) / len(gram)
            y, x = np.divmod(order, shape[1])
            gram = gram / overlap[np.abs(y - y[:, None]), np.abs(x - x[:, None])]
            at_taps = at_taps[order]
            right = right / at_taps
        penalty = penalty * level
        values, vectors = scipy.linalg.eigh(gram, penalty)
        usable = values > max(16, len(values)) * _EPS * values[-1]
        return cls(
            stats=stats,
            band=band,
            values=np.where(usable, values, 0.0),
            vectors=vectors,
            moment=np.where(usable, product(right[None], vectors)[0], 0.0),
            gram=gram,
            penalty=penalty,
            right=right,
            level=level,
            covariance_scale=stats.weight_square / (stats.n_blocks * n**3) / np.outer(at_taps, at_taps),
        )

    def inverses(self, balance: npt.ArrayLike) -> Array:
        """Return ``1 / (values + balance)``, zero for nothing; a row for each balance."""
        divisor = self.values + np.asarray(balance, dtype=np.float64)[..., None]
        return np.divide(1.0, divisor, out=np.zeros_like(divisor), where=divisor > 0)

    def kernel(self, balance: float) -> Array:
        """Return the kernel."""
        return self.combine(self.inverses(balance) * self.moment).reshape(self.stats.tap_shape)

    def refined(self, balance: float) -> Array:
        """Return the kernel, corrected once by its own residual: Q's condition costs the eigenvectors digits."""
        taps = self.kernel(balance)
        rest = self.right - product(taps.reshape(1, -1), self.gram + balance * self.penalty)[0]
        moment = np.where(self.values > 0, product(rest[None], self.vectors)[0], 0.0)
        step: Array = self.combine(self.inverses(balance) * moment).reshape(taps.shape)
        return taps + step

    def combine(self, coefficients: Array) -> Array:
        """Return the taps that are these combinations of the eigenvectors."""
        return np.asarray(product(coefficients[None], self.vectors.T)[0])

    def misfit(self, balance: float) -> Array:
        """Return the power of a kernel's residual, of one block on the average, as the mean of each ring."""
        return self.band.ring_misfit(self.band.spread(self.kernel(balance))) / self.stats.n_blocks

    def moment_covariance(self, balance: float) -> Array:
        """Return the covariance N of c, if the noise is what the kernel of a balance leaves."""
        if self.band.between is not None:
            return self.band.covariance(self.misfit(balance)[self.band.rings]) * self.covariance_scale
        density = self.band.power * self.misfit(balance)[self.band.rings]
        return matrix(self.band.lags(density, self.stats.shape), self.stats.shape) * self.covariance_scale

    def squared_errors(self, balances: Array, pilot: float) -> tuple[Array, Array, Array]:
        """Return the estimated square error of the kernel of each balance: variance, loss, and the loss as it looks."""
        # With ``A = (T + balance m Q)^-1`` the variance is the trace of ``A N A'``, the noise being what the kernel of
        # `pilot` leaves. The loss is the square of what the penalty holds back, ``balance A m Q k``. For k stands the
        # kernel of a balance a hundred times smaller, which still holds what this one loses, but also noise: the third
        # result contains its share, the second does not.
        products = self.products
        noise = self.noise(pilot)
        inverses, lost = self.inverses(balances), self.lost(balances)
        variance = (product(inverses, noise) * inverses).sum(axis=1)
        seen = (product(lost * self.moment, products) * (lost * self.moment)).sum(axis=1)
        return variance, np.maximum(seen - (product(lost, noise) * lost).sum(axis=1), 0.0), seen

    @functools.cached_property
    def products(self) -> Array:
        """Return ``V'V``."""
        return product(self.vectors.T, self.vectors)

    def noise(self, pilot: float) -> Array:
        """Return ``V'N V``, element by element times ``V'V``."""
        if pilot not in self.noises:
            half = product(self.vectors.T, self.moment_covariance(pilot))
            self.noises[pilot] = product(half, self.vectors) * self.products
        return self.noises[pilot]

    def lost(self, balances: npt.ArrayLike) -> Array:
        """Return what, times the moment, each balance takes away of the kernel of a hundredth of it."""
        given = np.asarray(balances, dtype=np.float64)
        return np.asarray(given[..., None] * self.inverses(given) * self.inverses(given / _FINER))

    def unlikely(self, balances: Array) -> Array:
        """Return by how much the mean log power of the residual, in rings, exceeds the least (Whittle's likelihood)."""
        some = np.unique(np.append(np.arange(0, len(balances), 4), len(balances) - 1))
        logs = []
        counts, least = self.band.counts, max(1e-28 * float(self.band.target.max()), 1e-300)
        for at in some:
            power = np.log(np.maximum(self.misfit(float(balances[at])), least))
            logs.append(float(np.sum(counts * power)) / self.band.size)
        found = np.interp(np.arange(len(balances)), some, logs)
        return np.asarray(found - found.min())


def estimate(stats: CrossSpectra, band: Band, given: float | None, workers: int = 1) -> Estimate:
    """Return the kernel, with the balance of the smallest estimated error if none is given."""
    # Balances of clearly too large a residual are not considered: their estimate starts from a kernel that has lost too
    # much. White noise would not do: what the edges leave has the image's spectrum (``benchmarks/balance.py``).
    equations = Equations.of(stats, band, workers)
    chosen = _choose(equations) if given is None else given
    variance, loss, seen = (float(v[0]) for v in equations.squared_errors(np.array([chosen]), chosen))
    lost = equations.combine(equations.lost(chosen) * equations.moment)
    lost *= math.sqrt(loss / seen) if seen > 0 else 0.0
    inverse = product(equations.vectors * equations.inverses(chosen), equations.vectors.T)
    factor = np.concatenate([product(inverse, _root(equations.moment_covariance(chosen))), lost[:, None]], axis=1)
    rank = int(np.count_nonzero(equations.values))
    return Estimate(equations.refined(chosen), chosen, equations.level, factor, rank)


def _choose(equations: Equations) -> float:
    stats = equations.stats
    allowed = equations.unlikely(_BALANCES) <= _WORSE + 2 * len(equations.right) / stats.n_pixels
    chosen = _PILOT
    for _ in range(2):
        variance, loss, _ = equations.squared_errors(_BALANCES, chosen)
        errors = np.where(allowed, variance + loss, np.inf)
        chosen = float(_BALANCES[int(np.argmin(errors))])
    plain = equations.values.all() and errors.min() > _GAIN * errors[0]
    return 0.0 if plain else chosen


def _root(covariance: Array) -> Array:
    """Return F with ``F F'`` the covariance."""
    top = float(np.diag(covariance).max())
    if not top > 0:
        return np.zeros((len(covariance), 1))
    covariance[np.diag_indices_from(covariance)] += 1e-12 * top
    found = cholesky.root(covariance)
    if found is not None:
        return found
    values, vectors = scipy.linalg.eigh(covariance)
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0.0)))
