"""The evidence for a Gaussian-process prior on the taps, and its derivatives."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.fft
import scipy.linalg

from ..core.validation import Array
from .cholesky import product
from .projection import Grid, Projection

FAMILIES = ("squared-exponential", "matern52", "matern32", "exponential")
ENVELOPES = ("gaussian", "power")
#: Responses that decay from the first tap on: those of signals, whose envelope is "decay".
DECAYS = ("tc", "dc", "ss")
#: Those whose length is their radius.
_TIED = ("tc", "ss")
#: Exponent of the envelope "power"; that of a star's image through the air (Moffat's profile) lies between 2.5 and 5.
_POWER = 3.0


class Kind(NamedTuple):
    """A correlation, an envelope and a symmetry about the middle of the support."""

    family: str
    envelope: str = "gaussian"
    symmetric: str | None = None

    def __str__(self) -> str:
        """Name the correlation, and the others if they are not the usual ones."""
        envelope = "" if self.envelope in ("gaussian", "decay") else f", {self.envelope} envelope"
        return f"{self.family}{envelope}{'' if self.symmetric is None else f', symmetric ({self.symmetric})'}"

    def ties(self, n_terms: int) -> Array:
        """Return how the hyperparameters of so many terms move with those that are free, one column for each."""
        one = np.eye(5)[:, : 5 if self.symmetric is None and self.family not in DECAYS else 3]
        if self.family in _TIED:
            one = np.stack([one[:, 0], one[:, 1] + one[:, 2]], axis=1)
        return np.asarray(np.kron(np.eye(n_terms), one), dtype=np.float64)


class Blocks(NamedTuple):
    """One term's prior covariance in units of s^2, and what its derivatives need."""

    where: slice
    covariance: Array
    slope: Array  # by log l
    by_radius: Array  # of log e(p), by log r
    by_center: tuple[Array, Array]  # of log e(p), by the row and the column of c


def correlation(family: str, t: Array) -> tuple[Array, Array]:
    """Return ``rho(t)`` and ``-t rho'(t)``."""
    if family == "squared-exponential":
        rho = np.exp(-0.5 * t**2)
        return rho, t**2 * rho
    if family == "matern52":
        u = math.sqrt(5.0) * t
        decay = np.exp(-u)
        return (1 + u + u**2 / 3) * decay, u**2 * (1 + u) / 3 * decay
    if family == "matern32":
        u = math.sqrt(3.0) * t
        decay = np.exp(-u)
        return (1 + u) * decay, u**2 * decay
    decay = np.exp(-t)
    if family == "ss":
        slow = np.exp(-t / 3)
        return 1.5 * slow - 0.5 * decay, 0.5 * t * (slow - decay)
    return decay, t * decay


def _tail_cut(values: Array) -> Array:
    """Set to zero what no sum could notice: arithmetic on denormal numbers takes a hundred times as long."""
    return np.where(np.abs(values) < 1e-40, 0.0, values)


def _over_lags(values: Array, lag: npt.NDArray[np.intp]) -> Array:
    """Return the sum over images of what belongs to each lag."""
    found: Array = values.take(lag[0])
    for other in lag[1:]:
        found += values.take(other)
    return found


def envelope_at(envelope: str, u: Array) -> Array:
    """Return the envelope at ``u = |p - c|^2 / r^2``."""
    if envelope == "decay":
        return np.asarray(np.exp(-np.sqrt(u)))
    return np.asarray(np.exp(-0.5 * u) if envelope == "gaussian" else (1.0 + u / (2 * _POWER)) ** -_POWER)


def envelope_of(grid: Grid, envelope: str, theta: Array) -> tuple[Array, Array, tuple[Array, Array]]:
    """Return ``a e(p)`` and the derivatives of ``log e(p)`` by log r and by the row and the column of c."""
    log_a, _, log_r, c_y, c_x = theta
    r2 = math.exp(2 * log_r)
    dy, dx = grid.y - c_y, grid.x - c_x
    u = (dy**2 + dx**2) / r2
    if envelope == "decay":  # from the first tap, which does not move
        return math.exp(log_a) * _tail_cut(np.exp(-np.sqrt(u))), np.sqrt(u), (0 * dy, 0 * dx)
    if envelope == "gaussian":
        return math.exp(log_a) * _tail_cut(np.exp(-0.5 * u)), u, (dy / r2, dx / r2)
    base = 1.0 + u / (2 * _POWER)
    return math.exp(log_a) * base**-_POWER, u / base, (dy / base / r2, dx / base / r2)


def blocks_of(grids: Sequence[Grid], kind: Kind, theta: Array) -> list[Blocks]:
    """Return each term's prior covariance at the given hyperparameters; under a symmetry summed over images."""
    found, start = [], 0
    for grid, at in zip(grids, theta.reshape(-1, 5), strict=True):
        rho, slope = map(_tail_cut, correlation(kind.family, grid.distance / math.exp(at[1])))
        envelope, by_radius, by_center = envelope_of(grid, kind.envelope, at)
        outer = np.multiply.outer(envelope, envelope)
        where = slice(start, start + len(grid.y))
        start = where.stop
        rho, slope = (_over_lags(part, grid.lag) for part in (rho, slope))
        rho *= outer
        slope *= outer
        found.append(Blocks(where, rho, slope, by_radius, by_center))
    return found


def covariance_of(grids: Sequence[Grid], kind: Kind, theta: Array) -> Array:
    """Return P / s^2, of the taps or of the sets of equal taps of grids under a symmetry."""
    return np.asarray(scipy.linalg.block_diag(*(b.covariance for b in blocks_of(grids, kind, theta))))


def all_taps(grids: Sequence[Grid], rows: Array) -> Array:
    """Return one row for each tap, given one for each set of equal taps."""
    ends = np.cumsum([0] + [len(grid.y) for grid in grids])
    return np.concatenate([rows[start + grid.set_of] for start, grid in zip(ends, grids, strict=False)])


def root_of(covariance: Array) -> Array:
    """Return U of as few columns as rounding lets see, ``U U' = P``."""
    lower, pivots, rank, _ = scipy.linalg.lapack.dpstrf(covariance, lower=1)
    root = np.zeros((len(covariance), rank))
    root[pivots - 1] = np.tril(lower)[:, :rank]
    return root


def _value(data: Projection, middle: Array) -> tuple[float, Array, Array, float]:
    """Return the value of `evidence`, infinite if S is not positive definite; L of ``S = L L'``, ``L^-1 z``, s^-2."""
    lower, info = scipy.linalg.lapack.dpotrf(middle, lower=1, clean=1)
    if info != 0:
        return math.inf, lower, data.data, math.nan
    half = scipy.linalg.solve_triangular(lower, data.data, lower=True, check_finite=False)
    total = data.rss + float(half @ half)
    return data.n * math.log(total) + 2 * float(np.log(np.diag(lower)).sum()), lower, half, data.n / total


def evidence(data: Projection, kind: Kind, theta: Array, *, slope: bool = False) -> tuple[float, Array]:
    """Return ``n log(rss + q) + log det S`` and, if asked for, its derivatives by the hyperparameters.

    S is ``I + W'PW / s^2`` and ``q = z'S^-1 z``; the noise is profiled out, ``s^2 = (rss + q) / n``. Each term has five
    hyperparameters: log(a / s), log l, log r, and the row and column of c.
    """
    blocks = blocks_of(data.grids, kind, theta)
    w = data.weights
    middle = np.eye(w.shape[1], order="F")
    for b in blocks:
        middle += product(w[b.where].T, product(b.covariance, w[b.where]))
    value, lower, half, scale = _value(data, middle)
    if not slope or value == math.inf:
        return value, np.zeros(len(theta))
    # X, XX' = W S^-1 W'; a triangular solve would wake BLAS's threads for matrices of any size
    inverse = product(w, scipy.linalg.lapack.dtrtri(lower, lower=1)[0].T)
    pull = product(inverse, half)  # W S^-1 z
    gradient = np.empty((len(blocks), 5))
    for at, b in enumerate(blocks):
        x, beta = inverse[b.where], pull[b.where]
        h = product(x, x.T).T
        h -= np.multiply.outer(scale * beta, beta)
        # H: the change of the value is sum(H * change of P)
        along = np.einsum("ij,ij->i", h, b.covariance)
        gradient[at] = (
            2 * along.sum(),
            float(np.einsum("ij,ij->", h, b.slope)),
            2 * float(along @ b.by_radius),
            2 * float(along @ b.by_center[0]),
            2 * float(along @ b.by_center[1]),
        )
    return value, gradient.ravel()


def applied_evidence(data: Projection, kind: Kind, theta: Array, *, slope: bool = False) -> tuple[float, Array]:
    """Do the work of `evidence` without a matrix of taps by taps: of few combinations of many taps."""
    w = data.weights
    middle = np.eye(w.shape[1], order="F")
    found, start = [], 0
    for grid, at_theta in zip(data.grids, theta.reshape(-1, 5), strict=True):
        where = slice(start, start + len(grid.y))
        start = where.stop
        found.append((where, Applied.of(grid, kind, at_theta, w[where])))
        middle += product(w[where].T, found[-1][1].prior)
    value, lower, half, scale = _value(data, middle)
    if not slope or value == math.inf:
        return value, np.zeros(len(theta))
    inverse = scipy.linalg.lapack.dtrtri(lower, lower=1)[0].T
    gradient = np.empty((len(found), 5))
    for at, (where, part) in enumerate(found):
        # H = X X' - scale b b' with X = W L'^-1 and b = X half; the change of the value is sum(H * change of P)
        x, under, steep = (product(rows, inverse) for rows in (w[where], part.prior, part.slope))
        along = np.einsum("ij,ij->i", x, under) - scale * (x @ half) * (under @ half)
        gradient[at] = (
            2 * along.sum(),
            float(np.einsum("ij,ij->", x, steep)) - scale * float((x @ half) @ (steep @ half)),
            2 * float(along @ part.by_radius),
            2 * float(along @ part.by_center[0]),
            2 * float(along @ part.by_center[1]),
        )
    return value, gradient.ravel()


class Applied(NamedTuple):
    """What one term's prior covariance, and its derivative by log l, make of some rows of taps."""

    prior: Array
    slope: Array
    by_radius: Array
    by_center: tuple[Array, Array]

    @classmethod
    def of(cls, grid: Grid, kind: Kind, theta: Array, rows: Array) -> "Applied":
        """Multiply: along each axis in turn where the correlation is a product, else by frequency.

        The squared exponential is the product of one along the rows and one along the columns; every correlation
        depends on the lag alone, and is a weight for each frequency on a grid of twice the support's size.
        """
        envelope, by_radius, by_center = envelope_of(grid, kind.envelope, theta)
        shape, length = grid.shape, math.exp(theta[1])
        field: Array = np.zeros((rows.shape[1], shape[0] * shape[1]))
        for image in grid.images:
            field[:, image] += (rows * envelope[:, None]).T
        field = field.reshape(-1, *shape)
        if kind.family == "squared-exponential":
            lags = [np.abs(np.subtract.outer(np.arange(n), np.arange(n))) / length for n in shape]
            (y, steep_y), (x, steep_x) = (map(_tail_cut, correlation(kind.family, lag)) for lag in lags)
            along = np.matmul(field, x)
            prior, slope = np.matmul(y, along), np.matmul(steep_y, along) + np.matmul(y, np.matmul(field, steep_x))
        else:
            size, distance = grid.torus
            spectra = scipy.fft.rfft2(field, s=size)
            prior, slope = (
                scipy.fft.irfft2(spectra * scipy.fft.rfft2(_tail_cut(part)).real, s=size)[:, : shape[0], : shape[1]]
                for part in correlation(kind.family, distance / length)
            )
        first = grid.images[0]
        prior, slope = (part.reshape(len(part), -1)[:, first].T * envelope[:, None] for part in (prior, slope))
        return cls(prior, slope, by_radius, by_center)
