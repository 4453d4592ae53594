"""The evidence for a Gaussian-process prior on the taps, and its derivatives."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.fft
import scipy.linalg

from ..core.geometry import Shape
from ..core.normal_equations import NormalEquations
from ..core.validation import Array
from .cholesky import product
from .least_squares import LeastSquaresSolution, gram_root

FAMILIES = ("squared-exponential", "matern52", "matern32", "exponential")
ENVELOPES = ("gaussian", "power")
SYMMETRIES = ("point", "both", "square")
#: Exponent of the envelope "power"; that of a star's image through the air (Moffat's profile) lies between 2.5 and 5.
_POWER = 3.0


class Kind(NamedTuple):
    """A correlation, an envelope and a symmetry about the middle of the support."""

    family: str
    envelope: str = "gaussian"
    symmetric: str | None = None

    def __str__(self) -> str:
        """Name the correlation, and the others if they are not the usual ones."""
        envelope = "" if self.envelope == "gaussian" else f", {self.envelope} envelope"
        return f"{self.family}{envelope}{'' if self.symmetric is None else f', symmetric ({self.symmetric})'}"


def images_of(shape: Shape, symmetric: str | None) -> list[npt.NDArray[np.intp]]:
    """Return where each tap goes under every motion that leaves a kernel of that symmetry as it is."""
    index = np.arange(math.prod(shape)).reshape(shape)
    found = [index]
    if symmetric in ("point", "both", "square"):
        found.append(np.flip(index))
    if symmetric in ("rows", "both", "square"):
        found.append(index[..., ::-1, :])
    if symmetric in ("columns", "both", "square"):
        found.append(index[..., ::-1])
    if symmetric == "square":
        found += [image.T for image in found]
    return [image.ravel() for image in found]


class Grid:
    """The taps of one support, those that a symmetry makes equal taken as one, and the distances between them."""

    def __init__(self, shape: Shape, symmetric: str | None = None) -> None:
        """Lay out."""
        rows, cols = shape
        self.shape, self.symmetric = shape, symmetric
        images = np.array(images_of(shape, symmetric))
        #: one of each set of equal taps, which set each tap belongs to, and how many a set has
        first, self.set_of, self.counts = np.unique(images.min(axis=0), return_inverse=True, return_counts=True)
        self._images = images[:, first]
        y, x = np.divmod(self._images, cols)
        self.y, self.x = y[0].astype(np.float64), x[0].astype(np.float64)
        #: of a tap and each image of another, shape (images, sets, sets)
        lag = np.abs(y[0][:, None] - y[:, None, :]) * cols + np.abs(x[0][:, None] - x[:, None, :])
        self.lag = np.ascontiguousarray(lag, dtype=np.intp)
        self.distance = np.hypot(*np.divmod(np.arange(rows * cols), cols))  # of each lag (|dy|, |dx|)

    def fold(self, rows: Array) -> Array:
        """Add up the rows of taps that are equal."""
        if self.symmetric is None:
            return rows
        share = self.counts / len(self._images)
        return np.asarray(rows[self._images].sum(axis=0) * share.reshape(-1, *[1] * (rows.ndim - 1)))

    @functools.cached_property
    def torus(self) -> tuple[Shape, Array, Array]:
        """A grid on which lags do not wrap: its size, the distances on it, and how often a frequency counts."""
        size = (
            scipy.fft.next_fast_len(2 * self.shape[0] - 1),
            scipy.fft.next_fast_len(2 * self.shape[1] - 1, real=True),
        )
        y, x = (np.minimum(np.arange(n), n - np.arange(n)) for n in size)
        twice = np.full((size[0], size[1] // 2 + 1), 2.0)
        twice[:, 0] = 1.0
        if size[1] % 2 == 0:
            twice[:, -1] = 1.0
        return size, np.hypot(y[:, None], x), twice


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
    return np.asarray(np.exp(-0.5 * u) if envelope == "gaussian" else (1.0 + u / (2 * _POWER)) ** -_POWER)


def envelope_of(grid: Grid, envelope: str, theta: Array) -> tuple[Array, Array, tuple[Array, Array]]:
    """Return ``a e(p)`` and the derivatives of ``log e(p)`` by log r and by the row and the column of c."""
    log_a, _, log_r, c_y, c_x = theta
    r2 = math.exp(2 * log_r)
    dy, dx = grid.y - c_y, grid.x - c_x
    u = (dy**2 + dx**2) / r2
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


@dataclass(frozen=True, eq=False)
class Projection:
    """What the evidence needs of the data: ``z = W'k + s g`` with g standard normal, and the residual beside it."""

    grids: tuple[Grid, ...]  # the supports
    weights: Array  # (taps, combinations); W; all the data if ``WW' = G``, part of them if ``WW' <= G``
    data: Array  # (combinations,); z
    rss: float
    n: int  # number of pixels, less those combinations of the data that are left out
    _folded: "dict[str | None, Projection]" = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def whole(cls, stats: NormalEquations, start: LeastSquaresSolution) -> "Projection":
        """Return all the data."""
        weights = gram_root(stats.gram, start)
        grids = tuple(Grid(shape) for shape in stats.supports)
        return cls(grids, weights, weights.T @ start.taps, start.rss, stats.n_pixels)

    @classmethod
    def part(cls, stats: NormalEquations, start: LeastSquaresSolution, most: int) -> "Projection":
        """Return the combinations of the data that hold most of the image's energy, nearly."""
        r = min(most, start.rank)
        basis = np.random.default_rng(0).standard_normal((stats.n_taps, r))
        for _ in range(2):
            basis, _ = scipy.linalg.qr(product(stats.gram, basis), mode="economic", overwrite_a=True)
        image = product(stats.gram, basis)
        lower = scipy.linalg.cholesky(product(basis.T, image), lower=True)
        weights = scipy.linalg.blas.dtrsm(1.0, lower, image, side=1, lower=1, trans_a=1)
        grids = tuple(Grid(shape) for shape in stats.supports)
        return cls(grids, weights, weights.T @ start.taps, start.rss, stats.n_pixels - start.rank + r)

    def under(self, symmetric: str | None) -> "Projection":
        """Return the same data for kernels of a symmetry: one weight for each set of equal taps.

        No more combinations than sets tell anything of them; what the others hold is noise, and goes to the residual.
        """
        if symmetric is None:
            return self
        if symmetric not in self._folded:
            grids = tuple(Grid(grid.shape, symmetric) for grid in self.grids)
            ends = np.cumsum([0] + [len(grid.y) for grid in self.grids])
            weights = np.vstack([g.fold(self.weights[i:j]) for g, i, j in zip(grids, ends, ends[1:], strict=False)])
            data, rss = self.data, self.rss
            if weights.shape[1] > len(weights):
                turn, lower = scipy.linalg.qr(weights.T, mode="economic")
                weights, data = lower.T, turn.T @ self.data
                rss += float(np.sum((self.data - turn @ data) ** 2))
            self._folded[symmetric] = Projection(grids, np.asfortranarray(weights), data, rss, self.n)
        return self._folded[symmetric]

    @property
    def scale(self) -> float:
        """About how large the value of `evidence` is, for tolerances."""
        return max(1.0, self.n * abs(math.log(max(self.rss, np.finfo(np.float64).tiny))))

    def log_evidence(self, value: float) -> float:
        """Return log p(y) from the value of `evidence`."""
        return -0.5 * (value + self.n * (1 + math.log(2 * math.pi) - math.log(self.n)))


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


def spectral_evidence(data: Projection, kind: Kind, theta: Array, *, slope: bool = False) -> tuple[float, Array]:
    """Do the work of `evidence` without a matrix of taps by taps.

    The correlation depends on the lag alone, so that ``W'e rho e W`` is a sum over the frequencies of a grid of twice
    the support's size: for r combinations r transforms and ``2 r^2`` multiply-adds a frequency.
    """
    w = data.weights
    r = w.shape[1]
    middle = np.eye(r)
    kept = []
    start = 0
    for grid, at_theta in zip(data.grids, theta.reshape(-1, 5), strict=True):
        where = slice(start, start + len(grid.y))
        start = where.stop
        size, distance, twice = grid.torus
        envelope, by_radius, by_center = envelope_of(grid, kind.envelope, at_theta)
        rho, steep = (
            scipy.fft.rfft2(_tail_cut(part)).real * twice / (size[0] * size[1])
            for part in correlation(kind.family, distance / math.exp(at_theta[1]))
        )
        spectra = scipy.fft.rfft2((w[where] * envelope[:, None]).T.reshape(r, *grid.shape), s=size).reshape(r, -1)
        parts = np.hstack([spectra.real, spectra.imag])
        weight = np.tile(rho.ravel(), 2)
        middle += product(parts * weight, parts.T)
        kept.append((where, envelope, parts, weight, np.tile(steep.ravel(), 2), by_radius, by_center))
    value, lower, half, scale = _value(data, middle)
    if not slope or value == math.inf:
        return value, np.zeros(len(theta))
    inverse = scipy.linalg.lapack.dtrtri(lower, lower=1)[0]
    # H = X'X - scale b b' with X = L^-1 W' and b = X' half: a sum of r + 1 squares, the last one negative
    mix = np.vstack([inverse, math.sqrt(scale) * product(inverse.T, half)])
    sign = np.ones(r + 1)
    sign[-1] = -1.0
    gradient = np.empty((len(kept), 5))
    for at, (where, envelope, parts, weight, steep, by_radius, by_center) in enumerate(kept):
        grid = data.grids[at]
        size, _, twice = grid.torus
        spectra = product(mix, parts)
        power = product(spectra.T**2, sign)
        n_frequencies = spectra.shape[1] // 2
        plain = (weight[:n_frequencies] / twice.ravel()).reshape(twice.shape)
        field = spectra[:, :n_frequencies] + 1j * spectra[:, n_frequencies:]
        field = field.reshape(r + 1, *twice.shape) * plain
        near = scipy.fft.irfft2(field, s=size)[:, : grid.shape[0], : grid.shape[1]].reshape(r + 1, -1)
        near *= size[0] * size[1]
        along = product((near * (product(mix, w[where].T) * envelope)).T, sign)
        gradient[at] = (
            2 * float(power @ weight),
            float(power @ steep),
            2 * float(along @ by_radius),
            2 * float(along @ by_center[0]),
            2 * float(along @ by_center[1]),
        )
    return value, gradient.ravel()
