"""The evidence for a Gaussian-process prior on the taps, and its derivatives."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.fft
import scipy.linalg

from ..core.validation import Array
from .cholesky import product, times
from .projection import Grid, Inverse, Projection, distance

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

    def ties(self, n_terms: int, width: int = 5) -> Array:
        """Return how the hyperparameters of so many terms move with those that are free, one column for each."""
        held = self.symmetric is not None or self.family in DECAYS  # the centre, in the middle or at the first tap
        one = np.delete(np.eye(width), range(3, 6 if width > 5 else 5) if held else [], axis=1)
        if self.family in _TIED:
            one = np.stack([one[:, 0], one[:, 1] + one[:, 2]], axis=1)
        return np.asarray(np.kron(np.eye(n_terms), one), dtype=np.float64)


class Blocks(NamedTuple):
    """One term's prior covariance in units of s^2, and what its derivatives need."""

    where: slice
    covariance: Array
    slope: Array  # by log l; empty where no slopes are wanted
    envelope: "Envelope"
    by_scale: list[Array]  # of the correlation, by the logs of the scales of volumes


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


class Envelope(NamedTuple):
    """``a e(p)`` of the taps, and the derivatives of ``log e(p)``."""

    values: Array
    by_radius: Array  # by log r
    by_center: list[Array]  # by the place of c along each axis
    by_scale: list[Array]  # of volumes by the logs of the scales


def envelope_of(grid: Grid, envelope: str, theta: Array) -> Envelope:
    """Return the envelope of a support at some hyperparameters."""
    log_a, _, log_r, *center = theta[: 3 + grid.ndim]
    r2, scales = math.exp(2 * log_r), grid.scales(theta)
    apart = [place - c for place, c in zip(grid.places, center, strict=True)]
    squares = [(d / scale) ** 2 / r2 for d, scale in zip(apart, scales, strict=True)]
    u = np.sum(squares, axis=0)
    if envelope == "decay":  # from the first tap, which does not move
        return Envelope(math.exp(log_a) * _tail_cut(np.exp(-np.sqrt(u))), np.sqrt(u), [0 * d for d in apart], [])
    steep = [d / scale**2 / r2 for d, scale in zip(apart, scales, strict=True)]
    own = squares[:-1] if grid.ndim > 2 else []
    if envelope == "gaussian":
        return Envelope(math.exp(log_a) * _tail_cut(np.exp(-0.5 * u)), u, steep, own)
    base = 1.0 + u / (2 * _POWER)
    return Envelope(math.exp(log_a) * base**-_POWER, u / base, [d / base for d in steep], [d / base for d in own])


def blocks_of(grids: Sequence[Grid], kind: Kind, theta: Array, *, slopes: bool = True) -> list[Blocks]:
    """Return each term's prior covariance at the given hyperparameters; under a symmetry summed over images."""
    found, start = [], 0
    for grid, at in zip(grids, theta.reshape(len(grids), -1), strict=True):
        apart, shares = distance(grid.lags, grid.scales(at))
        rho, slope = map(_tail_cut, correlation(kind.family, apart / math.exp(at[1])))
        envelope = envelope_of(grid, kind.envelope, at)
        outer = np.multiply.outer(envelope.values, envelope.values)
        where = slice(start, start + len(grid))
        start = where.stop
        by_scale = [_over_lags(slope * share, grid.lag) * outer for share in shares] if slopes else []
        rho = _over_lags(rho, grid.lag)
        rho *= outer
        slope = np.multiply(_over_lags(slope, grid.lag), outer, out=outer) if slopes else np.zeros(0)
        found.append(Blocks(where, rho, slope, envelope, by_scale))
    return found


def covariance_of(grids: Sequence[Grid], kind: Kind, theta: Array) -> Array:
    """Return P / s^2, of the taps or of the sets of equal taps of grids under a symmetry."""
    return np.asarray(scipy.linalg.block_diag(*(b.covariance for b in blocks_of(grids, kind, theta, slopes=False))))


def all_taps(grids: Sequence[Grid], rows: Array) -> Array:
    """Return one row for each tap, given one for each set of equal taps."""
    if all(grid.symmetric is None for grid in grids):
        return rows
    ends = np.cumsum([0] + [len(grid) for grid in grids])
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
    """Return ``n log(rss + q) + log det S`` and, if asked for, its derivatives by the hyperparameters."""
    # S is ``I + W'PW / s^2`` and ``q = z'S^-1 z``; the noise is profiled out, ``s^2 = (rss + q) / n``. Each term has
    # five hyperparameters: log(a / s), log l, log r, and the row and column of c; of volumes `Grid.width`.
    blocks = blocks_of(data.grids, kind, theta, slopes=slope)
    if data.inverse is not None:
        return _full_evidence(data, data.inverse, blocks, len(theta) if slope else 0)
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
    gradient = []
    for b in blocks:
        x, beta = inverse[b.where], pull[b.where]
        h = product(x, x.T).T
        h -= np.multiply.outer(scale * beta, beta)
        # H: the change of the value is sum(H * change of P)
        along = np.einsum("ij,ij->i", h, b.covariance)
        steep = [float(np.einsum("ij,ij->", h, one)) for one in (b.slope, *b.by_scale)]
        gradient.append(gradient_of(along, b.envelope, steep))
    return value, np.concatenate(gradient)


def _full_evidence(data: Projection, inverse: Inverse, blocks: Sequence[Blocks], slopes: int) -> tuple[float, Array]:
    """Do the work of `evidence` with the inverse of G, in a ninth of the operations."""
    # ``det S = det G det M`` and ``q = k0'M^-1 k0`` with ``M = P / s^2 + G^-1``; M^-1 is ``W S^-1 W'``.
    middle = np.array(inverse.matrix.T if inverse.matrix.flags.f_contiguous else inverse.matrix)  # symmetric
    for b in blocks:
        middle[b.where, b.where] += b.covariance
    # symmetric, so that the transposed matrix is the same in LAPACK's order
    lower, info = scipy.linalg.lapack.dpotrf(middle.T, lower=1, clean=1, overwrite_a=1)
    if info != 0:
        return math.inf, np.zeros(slopes)
    pull, _ = scipy.linalg.lapack.dpotrs(lower, inverse.taps, lower=1)
    total = data.rss + float(inverse.taps @ pull)
    logs = 2 * float(np.log(np.diag(lower)).sum()) + inverse.log_det
    value = data.n * math.log(total) + logs
    if not slopes:
        return value, np.zeros(0)
    half = scipy.linalg.lapack.dpotri(lower, lower=1, overwrite_c=1)[0].T  # zero below the diagonal
    gradient = []
    for b in blocks:
        h, beta = half[b.where, b.where], pull[b.where]
        scale = data.n / total
        own, both = h.diagonal(), h * b.covariance
        along = both.sum(axis=0) + both.sum(axis=1)
        along -= both.diagonal() + scale * beta * times(b.covariance, beta)
        steep = [
            2 * float(np.einsum("ij,ij->", h, one))
            - float(own @ one.diagonal())
            - scale * float(beta @ times(one, beta))
            for one in (b.slope, *b.by_scale)
        ]
        gradient.append(gradient_of(along, b.envelope, steep))
    return value, np.concatenate(gradient)


def gradient_of(along: Array, envelope: Envelope, steep: Sequence[float]) -> Array:
    """Return a term's derivatives from sums of H by rows: `along` times P, `steep` times its slopes."""
    by_place = [2 * float(along @ by) for by in (envelope.by_radius, *envelope.by_center)]
    by_scale = [2 * float(along @ by) + own for by, own in zip(envelope.by_scale, steep[1:], strict=True)]
    return np.array([2 * along.sum(), steep[0], *by_place, *by_scale])


def applied_evidence(data: Projection, kind: Kind, theta: Array, *, slope: bool = False) -> tuple[float, Array]:
    """Do the work of `evidence` without a matrix of taps by taps: of few combinations of many taps."""
    w = data.weights
    middle = np.eye(w.shape[1], order="F")
    found, start = [], 0
    for grid, at_theta in zip(data.grids, theta.reshape(len(data.grids), -1), strict=True):
        where = slice(start, start + len(grid))
        start = where.stop
        found.append((where, Applied.of(grid, kind, at_theta, w[where])))
        middle += product(w[where].T, found[-1][1].prior)
    value, lower, half, scale = _value(data, middle)
    if not slope or value == math.inf:
        return value, np.zeros(len(theta))
    inverse = scipy.linalg.lapack.dtrtri(lower, lower=1)[0]
    inverse, half = product(inverse.T, inverse), product(inverse.T, half)  # S^-1 and S^-1 z
    gradient = []
    for where, part in found:
        # H = W S^-1 W' - scale b b' with b = W S^-1 z; the change of the value is sum(H * change of P)
        x, pull = product(w[where], inverse), w[where] @ half
        along = np.einsum("ij,ij->i", x, part.prior) - scale * pull * (part.prior @ half)
        steep = [float(np.einsum("ij,ij->", x, one)) - scale * float(pull @ (one @ half)) for one in part.slopes]
        gradient.append(gradient_of(along, part.envelope, steep))
    return value, np.concatenate(gradient)


class Applied(NamedTuple):
    """What one term's prior covariance, and its derivatives by log l and the logs of scales, make of rows of taps."""

    prior: Array
    slopes: list[Array]
    envelope: Envelope

    @classmethod
    def of(cls, grid: Grid, kind: Kind, theta: Array, rows: Array) -> "Applied":
        """Multiply: along each axis in turn where the correlation is a product, else by frequency."""
        # Every correlation depends on the lag alone, and is a weight for each frequency on a grid of twice the support.
        envelope = envelope_of(grid, kind.envelope, theta)
        shape, length, scales = grid.shape, math.exp(theta[1]), grid.scales(theta)
        field: Array = np.zeros((math.prod(shape), rows.shape[1]))
        for image in grid.images:
            field[image] += rows * envelope.values[:, None]
        field = field.reshape(*shape, -1)
        if kind.family == "squared-exponential":
            prior, slopes = _along_axes(field, [length * float(scale) for scale in scales])
        else:
            size, lags = grid.torus
            axes = tuple(range(1, len(shape) + 1))
            lines = np.moveaxis(field, -1, 0).copy()  # transforms of numbers side by side take half the time
            spectra = scipy.fft.rfftn(lines, s=size, axes=axes)
            apart, shares = distance(lags, scales)
            rho, slope = correlation(kind.family, apart / length)
            inside = (slice(None), *(slice(n) for n in shape))
            prior, *slopes = (
                np.moveaxis(
                    scipy.fft.irfftn(spectra * scipy.fft.rfftn(_tail_cut(part)).real, s=size, axes=axes)[inside], 0, -1
                )
                for part in (rho, slope, *(slope * share for share in shares))
            )
        first = grid.images[0]
        prior, *slopes = (
            part.reshape(-1, rows.shape[1])[first] * envelope.values[:, None] for part in (prior, *slopes)
        )
        return cls(prior, slopes, envelope)


def _along_axes(field: Array, lengths: Sequence[float]) -> tuple[Array, list[Array]]:
    """Return the squared exponential applied, its derivative by all log lengths, of volumes by each but the last."""
    shape = field.shape[:-1]
    every = []
    for n, length in zip(shape, lengths, strict=True):
        lags = np.abs(np.subtract.outer(np.arange(n), np.arange(n))) / length
        every.append(tuple(map(_tail_cut, correlation("squared-exponential", lags))))

    def along(axis: int, matrix: Array, values: Array) -> Array:
        before, n = math.prod(shape[:axis]), shape[axis]
        return np.asarray(np.matmul(matrix, values.reshape(before, n, -1)).reshape(values.shape))

    def through(axis: int | None) -> Array:
        found = field
        for at, (plain, steep) in enumerate(every):
            found = along(at, steep if at == axis else plain, found)
        return found

    if len(shape) == 2:  # the first products serve twice
        (y, steep_y), (x, steep_x) = every
        across = along(1, x, field)
        return along(0, y, across), [along(0, steep_y, across) + along(0, y, along(1, steep_x, field))]
    each = [through(axis) for axis in range(len(shape))]
    return through(None), [np.sum(each, axis=0), *each[:-1]]
