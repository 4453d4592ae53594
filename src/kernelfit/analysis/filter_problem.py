"""A kernel and its errors, as the search for its name takes them: made independent, with what rounding adds."""

import functools
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.linalg

from ..core.estimate import Estimate
from ..core.findings import Verdict
from ..core.geometry import Convention
from ..solvers.projection import Grid
from .comparison import laid_out

Array = npt.NDArray[np.float64]
_ROUGH = 1e-7  # of the largest tap: what tools lose in single precision counts as noise
_HELD = 1e-6  # of the largest variance: what a choice holds has less
_MOST_TAPS = 2500  # with more the errors count as independent of each other
# Errors of rounding are not quite independent of the image, so much of the noise of a pixel, more so if a filter rounds
# half way; up to so many times that of rounding it may be no other noise.
_ROUNDED, _ROUNDED_TWICE, _ALONE, _TWICE = 0.04, 0.08, 1.1, 2.5
_EXCESS_ERROR = 0.03  # of the ratio of a noise's variance to that of rounding
_ONE_NUMBER = 3.84  # the 95 % point of chi-square with one degree of freedom


class Rounding(NamedTuple):
    """What rounding of a target to whole numbers may do to a kernel; nothing by default.

    `doubt` is what chi-square may gain beside chance; `excess` is the noise's variance over that of rounding, of
    `n_pixels`, and `smoothed` says that it is not white.
    """

    doubt: float = 0.0
    n_pixels: int = 0
    excess: float = 0.0
    smoothed: bool = False

    def widened(self, n: int, boxes: bool, amount: float | None) -> float:
        """Return by how much this increases the variance of the numbers of a filter of n taps.

        Rounding of the result is shared among all directions in which a kernel may change. Rounding half way changes
        what the filter does, and may do so along its own numbers alone. By Cauchy's and Schwarz's inequality a number
        is then off by at most sqrt(s N) of its errors, s being the share of the errors of rounding half way in the
        noise of N pixels that hangs together with the image; a 95 % interval has to hold that.

        Pillow rounds to 8 bits after each of its `boxes`, of whose weights, near those of a small denominator, the rest
        is lost: all noise beyond that of the last rounding, which is 1 - 1 / `excess`, may hang together with the
        image. So it is where noise is smoothed. ``(1 + a) x - a round(g * x)``, of an `amount` a, has 1 + a^2 times
        the noise of rounding; its blur is rounded once, which hardly hangs together with the image.
        """
        along = 0.0
        if self.smoothed or boxes:
            along = max(0.0, 1 - 1 / self.excess) if self.excess > 0 else 0.0
        elif amount is not None and abs(self.excess / (1 + amount**2) - 1) < _EXCESS_ERROR:
            along = _ROUNDED_TWICE**2
        return 1 + max(self.doubt / n, along * self.n_pixels / _ONE_NUMBER)


@dataclass(frozen=True, eq=False)
class Problem:
    """A kernel, as a convolution, and the matrix (or the factors) that makes its errors independent and equal to 1.

    `turned` says that it was given as a correlation. Where a prior holds taps for equal the matrix is that of their
    `sets`, times the roots of how many there are, and `rough` is the error of what sets them apart.
    """

    taps: Array
    origin: tuple[int, int]
    stride: tuple[int, int]
    offset: tuple[int, int]
    turned: bool
    rounding: Rounding
    whitener: Array
    errors: Array
    sets: npt.NDArray[np.intp] | None = None
    rough: Array | float = 1.0

    def white(self, templates: Array) -> Array:
        """Return kernels, flat, in units of the errors; of sets also what sets their taps apart."""
        if self.sets is not None:
            means, apart = in_sets(templates, self.sets)
            return np.hstack([means @ self.whitener.T, apart / self.rough])
        return np.asarray(templates * self.whitener if self.whitener.ndim == 1 else templates @ self.whitener.T)

    def spread(self, rows: Array) -> Array:
        """Return what makes the covariance of sums of taps, times its transpose."""
        if self.whitener.ndim == 1:
            return np.asarray(rows / self.whitener)
        inverse = np.linalg.pinv(self.whitener)
        if self.sets is None:
            return np.asarray(rows @ inverse)
        means, apart = in_sets(rows, self.sets)
        return np.hstack([means @ inverse, apart * self.rough])

    @property
    def n(self) -> int:
        """How many independent errors there are."""
        return self.taps.size if self.sets is not None else len(self.given)

    @functools.cached_property
    def given(self) -> Array:
        """The kernel in units of its errors."""
        return np.asarray(self.white(self.taps.reshape(1, -1))[0])


def in_sets(rows: Array, sets: npt.NDArray[np.intp]) -> tuple[Array, Array]:
    """Return the means of rows over sets of columns, times the roots of how many there are, and what is left."""
    order, counts = np.argsort(sets, kind="stable"), np.bincount(sets)
    sums = np.add.reduceat(rows[:, order], np.cumsum(counts) - counts, axis=1)
    return sums / np.sqrt(counts), rows - (sums / counts)[:, sets]


def as_problem(kernel: Estimate | npt.ArrayLike, covariance: npt.ArrayLike | None) -> Problem | None:
    """Make the errors of a kernel independent; None where they are not known or the taps are nothing."""
    fit = kernel if isinstance(kernel, Estimate) else None
    taps, (down, across), factor = laid_out(kernel, None)
    origin = (down, across)
    rough = _ROUGH * float(np.abs(taps).max())
    sets = None if fit is None or factor is None else _equal_taps(fit, factor, taps.shape, rough)
    if fit is None:
        matrix = _as_covariance(covariance, taps.shape)
    elif covariance is not None:
        raise ValueError("got a covariance beside a fit, need one or the other: a fit has its own")
    elif factor is None and fit.n_pixels == 0:  # taps out of a file, which tells no errors
        matrix = np.zeros(taps.size)
    elif factor is None or not np.isfinite(factor).all():
        return None
    elif sets is not None:
        matrix = np.einsum("ij,ij->i", factor, factor)
    else:
        matrix = _covariance_of(factor)
    if not 1e-140 < rough < 1e140:  # nothing, or taps whose squares are no numbers
        return None
    shape, conv = (taps.shape[0], taps.shape[1]), Convention() if fit is None else fit.convention
    turned = conv.operation == "correlation"
    make = functools.partial(Problem, taps, origin, conv.stride, conv.offset, turned, rounding_of(fit))
    if sets is not None and factor is not None:
        own, held = in_sets(factor.T, sets)[0].T, matrix < _HELD * matrix.max(initial=0.0)
        variance = np.where(held, matrix.max(initial=0.0), 0.0) + rough**2
        first = np.unique(sets, return_index=True)[1]
        own[held[first]] = 0.0
        whitener = _inverse_root(own @ own.T + np.diag(variance[first]), rough)
        errors = np.sqrt(np.where(held, 0.0, matrix) + variance).reshape(shape)
        return make(whitener, errors, sets, np.sqrt(variance))
    if matrix.ndim == 1:
        errors = np.sqrt(matrix + rough**2)
        return make(1 / errors, errors.reshape(shape))
    errors = np.sqrt(np.diag(matrix) + rough**2).reshape(shape)
    if fit is not None and factor is not None and any(f.verdict is Verdict.RANK_DEFICIENT for f in fit.findings):
        left, values, _ = np.linalg.svd(factor, full_matrices=False)  # what the image leaves open tells nothing
        known = values > 1e-9 * values.max(initial=0.0)
        return make((left[:, known] / np.hypot(values[known], rough)).T, errors)
    matrix[np.diag_indices_from(matrix)] += rough**2
    return make(_inverse_root(matrix, rough), errors)


def _inverse_root(matrix: Array, rough: float) -> Array:
    """Return W with ``W C W'`` the identity, no eigenvalue of C being below that of what is rough."""
    lower, info = scipy.linalg.lapack.dpotrf(matrix, lower=1, clean=1)
    if info == 0:
        return np.asarray(scipy.linalg.lapack.dtrtri(lower, lower=1)[0])
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray((vectors / np.sqrt(np.maximum(values, rough**2))).T)


def _equal_taps(fit: Estimate, factor: Array, shape: tuple[int, ...], rough: float) -> npt.NDArray[np.intp] | None:
    """Return the sets of taps that a prior holds for equal, as far as the errors have it, if those are all small."""
    symmetric = fit.priors[0].symmetric if len(fit.priors) == 1 else None
    if symmetric is None or len(factor) > _MOST_TAPS or not np.isfinite(factor).all():
        return None
    sets = Grid(shape, symmetric).set_of.ravel()
    apart = in_sets(factor.T, sets)[1]
    return sets if float(np.einsum("ij,ij->j", apart, apart).max()) < (0.1 * rough) ** 2 else None


def rounding_of(fit: Estimate | None) -> Rounding:
    """Return by how much the true filter's chi-square may exceed what chance makes it, the target being rounded."""
    if fit is None or not fit.rounding > 0:
        return Rounding()
    ratio = fit.noise_std / fit.rounding
    coloured = fit.errors == "sandwich" or any(f.verdict is Verdict.COLOURED_NOISE for f in fit.findings)
    smoothed = coloured and _ALONE <= ratio < _TWICE
    part = _ROUNDED if ratio < _ALONE else _ROUNDED_TWICE if smoothed else 0.0
    return Rounding(fit.n_pixels * part**2, fit.n_pixels, ratio**2, smoothed)


def _covariance_of(factor: Array) -> Array:
    """Return the covariance of a fit's taps, or their variances where there are many.

    Where a choice holds a tap, its error says nothing of the data: it counts as known as well as the worst.
    """
    variance = np.einsum("ij,ij->i", factor, factor)
    held = variance < _HELD * variance.max(initial=0.0)
    variance[held] = variance.max(initial=0.0)
    if len(factor) > _MOST_TAPS:
        return np.asarray(variance)
    matrix = factor @ factor.T
    matrix[held], matrix[:, held] = 0.0, 0.0
    matrix[np.diag_indices_from(matrix)] = np.where(held, variance, np.diag(matrix))
    return np.asarray(matrix)


def _as_covariance(covariance: npt.ArrayLike | None, shape: tuple[int, ...]) -> Array:
    """Return a covariance that was given, or variances; refuse anything else."""
    n = math.prod(shape)
    matrix = np.asarray(0.0 if covariance is None else covariance, dtype=np.float64)
    given = matrix.shape
    if matrix.ndim == 0 or (matrix.shape == shape and matrix.shape != (n, n)):
        matrix = np.broadcast_to(matrix, shape).ravel()
    if matrix.shape not in ((n,), (n, n)) or not np.isfinite(matrix).all():
        raise ValueError(
            f"got a covariance of shape {given} for {n} taps, need ({n}, {n}), or the variance of each "
            f"tap, of the kernel's shape {shape}; all finite"
        )
    if (np.diag(matrix) if matrix.ndim == 2 else matrix).min(initial=0.0) < 0:
        raise ValueError("got negative variances, need the square of each tap's standard error")
    return matrix
