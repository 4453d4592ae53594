"""A kernel and its errors, as the search for its name takes them: made independent, with what rounding adds."""

import dataclasses
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
from .comparison import laid_out

Array = npt.NDArray[np.float64]
_ROUGH = 1e-7  # of the largest tap: what tools lose in single precision counts as noise
_HELD = 1e-6  # of the largest variance: what a choice holds has less
_MOST_TAPS = 2500  # with more the errors count as independent of each other
# Errors of rounding are not quite independent of the image, so much of the noise of a pixel, more so if a filter rounds
# half way; up to so many times that of rounding it may be no other noise.
_ROUNDED, _ROUNDED_TWICE, _ALONE, _TWICE = 0.04, 0.08, 1.1, 2.5
_EXCESS_ERROR = 0.03  # of the ratio of a noise's variance to that of rounding
_OF_BOXES, _OF_RADIUS = 0.35, 0.15  # of 90 sigmas from 0.8 to 2.2
_HALF_WAY, _LEAST_NOISE = 0.15, 0.8  # of the noise beyond that of the last rounding; of what boxes make of noise
_CUT_OFF = 0.3  # of the noise beyond that of the last rounding; photographs show up to 0.23
_RIM = 5.0  # standard deviations by which chi-square of taps that are zero is larger
_ONE_NUMBER = 3.84  # the 95 % point of chi-square with one degree of freedom


class Rounding(NamedTuple):
    """What rounding of a target to whole numbers may do to a kernel; nothing by default.

    `doubt` is what chi-square may gain beside chance; `excess` is the noise's variance over that of rounding, of
    `n_pixels`; `smoothed` says that it is not white, and `sought` that the kernel's extent was found by looking.
    """

    doubt: float = 0.0
    n_pixels: int = 0
    excess: float = 0.0
    smoothed: bool = False
    sought: bool = False

    @property
    def most(self) -> float:
        """What chi-square may gain if a filter rounds half way."""
        return max(self.doubt, self.n_pixels * _ROUNDED_TWICE**2)

    def half_way(self, noise: float) -> float:
        """Return what chi-square may gain if a filter rounds half way, which makes so many times the noise of one."""
        beyond = 1 - 1 / self.excess if self.excess > _LEAST_NOISE * noise else 0.0
        return beyond * self.n_pixels * _HALF_WAY**2

    @property
    def cut_off(self) -> float:
        """What chi-square may gain of Pillow's unsharp mask, which cuts the decimals of what it adds off."""
        return max(self.most, (1 - 1 / self.excess) * self.n_pixels * _CUT_OFF**2 if self.excess > 1 else 0.0)

    def widened(self, ratio: float, kind: str, amount: float | None) -> float:
        """Return what this increases the variance of a filter's numbers by, chi-square being `ratio` times its mean.

        Rounding of the result is shared among all directions in which a kernel may change, and chi-square tells how
        much of it there is: errors that are as good as random add nothing. Rounding half way changes what the filter
        does, and may do so along its own numbers alone. By Cauchy's and Schwarz's inequality a number is then off by at
        most sqrt(s N) of its errors, s being the share of the errors of rounding half way in the noise of N pixels that
        hangs together with the image; a 95 % interval has to hold that.

        Pillow rounds to 8 bits after each of its "boxes", of whose weights, near those of a small denominator, the rest
        is lost: all noise beyond that of the last rounding, which is 1 - 1 / `excess`, may hang together with the
        image, and of 95 in 100 Gaussians no more than a share of `_OF_BOXES` squared does along sigma, of unsharp masks
        one of `_OF_RADIUS` squared along the "radius"; of their amounts decimals are cut off. A "box" with soft ends is
        rounded once half way. So it may be where noise is smoothed. ``(1 + a) x - a round(g * x)``, of an `amount` a
        and a blur, has 1 + a^2 times the noise of rounding; its blur is rounded once, which hardly hangs together with
        the image. Taps left out because they are lost in the noise, as those at the ends of a Gaussian, may be missed
        along a width.
        """
        along = self.doubt / max(1, self.n_pixels) if self.sought else 0.0
        beyond = max(0.0, 1 - 1 / self.excess) if self.excess > 0 else 0.0
        expected = 1 + (amount or 0.0) ** 2
        if kind == "boxes":
            along = max(along, beyond if amount is not None else beyond * _OF_BOXES**2)
        elif kind == "radius":
            along = max(along, beyond * _OF_RADIUS**2)
        elif kind == "box":
            along = max(along, beyond * _ROUNDED_TWICE**2)
        elif amount is not None and abs(self.excess / expected - 1) < _EXCESS_ERROR:
            along = _ROUNDED_TWICE**2
        elif self.smoothed:
            along = beyond
        return max(ratio, 1 + along * self.n_pixels / _ONE_NUMBER)


def of_whole_steps(amounts: Array, spread: float) -> tuple[Array, Array]:
    """Return what ``round(a d)`` is of whole numbers d: the factor of d in it, and 12 times the variance of the rest.

    Near a fraction of small denominator many factors a say the same of small d, which is normal with a `spread`.
    """
    d = np.arange(-math.ceil(4 * spread) - 1.0, math.ceil(4 * spread) + 2.0)
    weights = np.exp(-0.5 * (d / spread) ** 2)
    exact = amounts[:, None] * d
    made = np.rint(exact)
    return made @ (weights * d) / float(weights @ d**2), 12 * (made - exact) ** 2 @ weights / weights.sum()


@dataclass(frozen=True, eq=False)
class Problem:
    """A kernel, as a convolution, and the matrix (or the factors) that makes its errors independent and equal to 1.

    `turned` says that it was given as a correlation; `response` is what a constant of the target, which is in doubt,
    adds to the taps, up to a factor; `wide` is how many taps that are not known lie around those that were given, and
    `known` says which those are that the matrix is of, where it is not of all.
    """

    taps: Array
    origin: tuple[int, int]
    stride: tuple[int, int]
    offset: tuple[int, int]
    turned: bool
    rounding: Rounding
    whitener: Array
    errors: Array
    response: Array | None = None
    wide: int = 0
    known: npt.NDArray[np.intp] | None = None

    def white(self, templates: Array) -> Array:
        """Return kernels, flat, in units of the errors."""
        if self.known is not None:
            templates = templates[:, self.known]
        return np.asarray(templates * self.whitener if self.whitener.ndim == 1 else templates @ self.whitener.T)

    def columns(self, taps: npt.NDArray[np.intp]) -> Array:
        """Return what single taps, of 1 each, are in units of the errors, each in a column."""
        known = np.arange(self.taps.size) if self.known is None else self.known
        there = np.flatnonzero(np.isin(taps, known))
        at, out = np.searchsorted(known, taps[there]), np.zeros((self.n, len(taps)), order="F")
        if self.whitener.ndim == 2:
            out[:, there] = self.whitener[:, at]
        else:
            out[at, there] = self.whitener[at]
        return out

    def spread(self, rows: Array) -> Array:
        """Return what makes the covariance of sums of taps, times its transpose."""
        return np.asarray(rows / self.whitener if self.whitener.ndim == 1 else rows @ self._root)

    @functools.cached_property
    def _root(self) -> Array:
        """The covariance's root, of a whitener that is a matrix."""
        rows, cols = self.whitener.shape
        if rows == cols and not np.any(np.triu(self.whitener, 1)) and np.all(np.diag(self.whitener)):
            return np.asarray(scipy.linalg.lapack.dtrtri(self.whitener, lower=1)[0])
        return np.asarray(np.linalg.pinv(self.whitener), dtype=np.float64)

    def spread_of(self, filtered: Array) -> float:
        """Return the standard deviation of what a filter makes of the image, rounded to whole numbers."""
        variance = float(np.sum(self.white(filtered.reshape(1, -1)) ** 2)) * self.rounding.excess
        return math.sqrt((variance / self.rounding.n_pixels + 1) / 12)

    @property
    def cut_off(self) -> bool:
        """Whether the taps of the rim are not zero, so that there may be more beyond."""
        rim = np.ones(self.taps.shape, dtype=bool)
        rim[1:-1, 1:-1] = False
        return bool(np.sum((self.taps[rim] / self.errors[rim]) ** 2) > rim.sum() + _RIM * math.sqrt(2 * rim.sum()))

    def without_constant(self) -> "Problem":
        """Return the kernel without what a constant may have done."""
        if self.response is None or len(self.whitener) <= self.response.shape[1]:
            return self
        response = self.response if self.known is None else self.response[self.known]
        basis = np.linalg.qr(self.whitener @ response, mode="complete")[0][:, response.shape[1] :]
        return dataclasses.replace(self, whitener=basis.T @ self.whitener, response=None)

    def without_rim(self, depth: int) -> "Problem":
        """Return the kernel in a wide field of taps, of which those of the rim and beyond are not known.

        Where a shape is too small the taps of its rim hold what lies beyond, too.
        """
        wide, inside = max(self.taps.shape) // 2, np.zeros(self.taps.shape, dtype=bool)
        inside[depth:-depth, depth:-depth] = True
        if self.whitener.ndim == 1:
            whitener = self.whitener[inside.ravel()]
        else:
            factor = self._root[inside.ravel()]
            whitener = _inverse_root(factor @ factor.T, _ROUGH * float(np.abs(self.taps).max()))
        return dataclasses.replace(
            self,
            taps=np.pad(self.taps, wide),
            origin=(self.origin[0] + wide, self.origin[1] + wide),
            whitener=whitener,
            errors=np.pad(self.errors, wide, constant_values=float(self.errors.max())),
            response=None if self.response is None else _padded(self.response, self.taps.shape, wide),
            wide=wide,
            known=np.flatnonzero(np.pad(inside, wide)),
        )

    @property
    def n(self) -> int:
        """How many independent errors there are."""
        return len(self.given)

    @functools.cached_property
    def given(self) -> Array:
        """The kernel in units of its errors."""
        return np.asarray(self.white(self.taps.reshape(1, -1))[0])


def without_prior(fit: Estimate) -> Estimate:
    """Return the kernel that least squares finds, where a posterior has it: what the data say of a kernel."""
    known = fit.least_squares
    if known is None or fit.registration is not None or fit.curve is not None or fit.root_scale == 0:
        return fit
    if len(known[0]) != fit.kernel.size or fit.kernel.ndim != 2:
        return fit
    kernel, scale = known[0].reshape(fit.kernel.shape), max(fit.noise_std, fit.rounding)
    return dataclasses.replace(fit, kernel=kernel, root=known[1], root_scale=scale, priors=(), unsettled=0)


def as_problem(kernel: Estimate | npt.ArrayLike, covariance: npt.ArrayLike | None) -> Problem | None:
    """Make the errors of a kernel independent; None where they are not known or the taps are nothing."""
    fit = without_prior(kernel) if isinstance(kernel, Estimate) else None
    taps, (down, across), factor = laid_out(kernel if fit is None else fit, None)
    origin = (down, across)
    rough = _ROUGH * float(np.abs(taps).max())
    if fit is None:
        matrix = _as_covariance(covariance, taps.shape)
    elif covariance is not None:
        raise ValueError("got a covariance beside a fit, need one or the other: a fit has its own")
    elif factor is None and fit.n_pixels == 0:  # taps out of a file, which tells no errors
        matrix = np.zeros(taps.size)
    elif factor is None or not np.isfinite(factor).all():
        return None
    else:
        matrix = _covariance_of(factor)
    if not 1e-140 < rough < 1e140:  # nothing, or taps whose squares are no numbers
        return None
    shape, conv = (taps.shape[0], taps.shape[1]), Convention() if fit is None else fit.convention
    turned = conv.operation == "correlation"
    make = functools.partial(Problem, taps, origin, conv.stride, conv.offset, turned, rounding_of(fit))
    if matrix.ndim == 1:
        errors = np.sqrt(matrix + rough**2)
        return make(1 / errors, errors.reshape(shape))
    errors = np.sqrt(np.diag(matrix) + rough**2).reshape(shape)
    if factor is not None and factor.shape[1] < len(factor):
        left, values, _ = np.linalg.svd(factor, full_matrices=False)  # what the image leaves open tells nothing
        known = values > 1e-9 * values.max(initial=0.0)
        return make((left[:, known] / np.hypot(values[known], rough)).T, errors)
    matrix[np.diag_indices_from(matrix)] += rough**2
    response = None if fit is None or factor is None else _response(fit, factor)
    return make(_inverse_root(matrix, rough), errors, response)


def _response(fit: Estimate, factor: Array) -> Array | None:
    """Return what a constant of a rounded target may do to the taps, None where it was sought or is not in doubt.

    It changes them by C A'1 of the covariance C, A'1 being the sum of the image under each tap, nearly the same for
    all; where it is large (tools that cut decimals off take half a level away in each pass) that is a polynomial.
    Beside black, which is left out as saturated, more is rounded up than down.
    """
    if not fit.rounding > 0 or fit.background is not None:
        return None
    y, x = (np.ravel(at - np.mean(at)) for at in np.indices(fit.kernel.shape, dtype=np.float64))
    sums = [np.ones_like(y)]
    if any(finding.verdict is Verdict.OFFSET for finding in fit.findings):
        sums += [y, x, y * y, x * x, y * x]
    plain = factor[:, : factor.shape[1] - fit.unsettled]
    return np.asarray(plain @ (plain.T @ np.array(sums).T))


def _padded(response: Array, shape: tuple[int, ...], wide: int) -> Array:
    """Lay taps, flat, into a field that is wider on all sides."""
    field = np.pad(response.reshape(*shape, -1), ((wide, wide), (wide, wide), (0, 0)))
    return field.reshape(-1, response.shape[1])


def _inverse_root(matrix: Array, rough: float) -> Array:
    """Return W with ``W C W'`` the identity, no eigenvalue of C being below that of what is rough."""
    lower, info = scipy.linalg.lapack.dpotrf(matrix, lower=1, clean=1)
    if info == 0:
        return np.asarray(scipy.linalg.lapack.dtrtri(lower, lower=1)[0])
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray((vectors / np.sqrt(np.maximum(values, rough**2))).T)


def rounding_of(fit: Estimate | None) -> Rounding:
    """Return by how much the true filter's chi-square may exceed what chance makes it, the target being rounded."""
    if fit is None or not fit.rounding > 0:
        return Rounding()
    ratio = fit.noise_std / fit.rounding
    coloured = fit.errors == "sandwich" or any(f.verdict is Verdict.COLOURED_NOISE for f in fit.findings)
    smoothed = coloured and _ALONE <= ratio < _TWICE
    part = _ROUNDED if ratio < _ALONE else _ROUNDED_TWICE if smoothed else 0.0
    return Rounding(fit.n_pixels * part**2, fit.n_pixels, ratio**2, smoothed, bool(fit.found))


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
