"""The taps of a support, and what the evidence needs of the data: all of them, or the part that tells most."""

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.fft
import scipy.linalg

from ..core.normal_equations import NormalEquations
from ..core.validation import Array
from .cholesky import product
from .least_squares import LeastSquaresSolution, blocks, gram_root

SYMMETRIES = ("point", "both", "square")
#: How many combinations of the data are looked at first.
_FIRST = 100
#: A ratio of signal to noise (of variances) that tells nothing of a prior.
_UNSEEN = 0.03
#: Reciprocal condition number of a factor of the Gram matrix above which the inverse serves.
_TRUSTED = 1e-7


def images_of(shape: tuple[int, ...], symmetric: str | None) -> list[npt.NDArray[np.intp]]:
    """Return where each tap goes under every motion that leaves a kernel of that symmetry as it is."""
    index = np.arange(math.prod(shape)).reshape(shape)
    found = [index]
    if symmetric == "point":
        found.append(np.flip(index))
    elif symmetric in ("both", "square"):  # every set of axes in reverse
        axes = range(len(shape))
        found += [np.flip(index, some) for n in axes for some in itertools.combinations(axes, n + 1)]
    elif symmetric in ("rows", "columns"):
        found.append(np.flip(index, -2 if symmetric == "rows" else -1))
    if symmetric == "square":
        found += [np.swapaxes(image, -1, -2) for image in found]
    return [image.ravel() for image in found]


class Grid:
    """The taps of one support, equal ones by symmetry as one, and their distances, each axis by its scale."""

    def __init__(self, shape: tuple[int, ...], symmetric: str | None = None) -> None:
        """Lay out."""
        self.shape, self.symmetric, self.ndim = shape, symmetric, len(shape)
        #: number of hyperparameters: log a, log l, log r, the centre along each axis, of volumes two logs of scales
        self.width = 5 if self.ndim == 2 else 8
        images = np.array(images_of(shape, symmetric))
        #: one of each set of equal taps, which set each tap belongs to, and how many a set has
        first, self.set_of, self.counts = np.unique(images.min(axis=0), return_inverse=True, return_counts=True)
        self.images = images[:, first]  # where the taps of one of each set go, shape (images, sets)
        self.places = [at.astype(np.float64) for at in np.unravel_index(self.images[0], shape)]
        #: of each lag along each axis, the lags of all axes being one index
        self.lags = [at.astype(np.float64) for at in np.unravel_index(np.arange(math.prod(shape)), shape)]
        self._under: dict[str | None, Grid] = {}

    def __len__(self) -> int:
        return len(self.counts)

    def under(self, symmetric: str | None) -> "Grid":
        """Return the same support for kernels of a symmetry, the same one every time."""
        if symmetric == self.symmetric:
            return self
        if symmetric not in self._under:
            self._under[symmetric] = Grid(self.shape, symmetric)
        return self._under[symmetric]

    def scales(self, theta: Array) -> Array:
        """Return the scale of each axis at some hyperparameters."""
        return np.ones(2) if self.ndim == 2 else np.exp(np.append(theta[6:8], 0.0))

    @functools.cached_property
    def lag(self) -> npt.NDArray[np.intp]:
        """Of a tap and each image of another, shape (images, sets, sets)."""
        places, lag = np.unravel_index(self.images, self.shape), np.zeros((), dtype=np.intp)
        for at, n in zip(places, self.shape, strict=True):
            lag = lag * n + np.abs(at[0][:, None] - at[:, None, :])
        return np.ascontiguousarray(lag, dtype=np.intp)

    def fold(self, rows: Array) -> Array:
        """Add up the rows of taps that are equal."""
        if self.symmetric is None:
            return rows
        share = self.counts / len(self.images)
        return np.asarray(rows[self.images].sum(axis=0) * share.reshape(-1, *[1] * (rows.ndim - 1)))

    @functools.cached_property
    def torus(self) -> tuple[tuple[int, ...], list[Array]]:
        """A grid on which lags do not wrap: its size, and the lags along each axis on it."""
        last = self.ndim - 1
        size = tuple(scipy.fft.next_fast_len(2 * n - 1, real=at == last) for at, n in enumerate(self.shape))
        along = [np.minimum(np.arange(n), n - np.arange(n)).astype(np.float64) for n in size]
        return size, list(np.meshgrid(*along, indexing="ij"))


#: The supports, where they are known: what is made of them serves all that has the same ones.
Grids = tuple[Grid, ...] | None


def distance(lags: Sequence[Array], scales: Array) -> tuple[Array, list[Array]]:
    """Return the length of lags in units of the scales, and the share of each axis but the last in its square."""
    if len(lags) == 2:
        return np.hypot(*lags), []
    squares = [(lag / scale) ** 2 for lag, scale in zip(lags, scales, strict=True)]
    total = np.sum(squares, axis=0)
    return np.sqrt(total), [square / np.maximum(total, 1e-300) for square in squares[:-1]]


class Inverse(NamedTuple):
    """The inverse of a Gram matrix that is well conditioned, and the taps of least squares."""

    matrix: Array
    taps: Array
    log_det: float  # of the Gram matrix


@dataclass(frozen=True, eq=False)
class Projection:
    """What the evidence needs of the data: ``z = W'k + s g`` with g standard normal, and the residual beside it."""

    grids: tuple[Grid, ...]  # the supports
    weights: Array  # (taps, combinations); W; all the data if ``WW' = G``, part of them if ``WW' <= G``
    data: Array  # (combinations,); z
    rss: float
    n: int  # number of pixels, less those combinations of the data that are left out
    circular: bool = False  # whether the second half of the supports, imaginary parts, has the prior of the first
    _folded: "dict[str | None, Projection]" = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def whole(cls, stats: NormalEquations, start: LeastSquaresSolution, grids: Grids = None) -> "Projection":
        """Return all the data."""
        weights = gram_root(stats.gram, start)
        grids = grids or tuple(Grid(shape) for shape in stats.supports)
        circular = stats.convention.numbers == "complex"
        return cls(grids, weights, weights.T @ start.taps, start.rss, stats.n_pixels, circular)

    @classmethod
    def part(cls, stats: NormalEquations, start: LeastSquaresSolution, most: int, grids: Grids = None) -> "Projection":
        """Return the combinations of the data that hold most of the image's energy, nearly."""
        r = min(most, start.rank)
        basis = np.random.default_rng(0).standard_normal((stats.n_taps, r))
        for _ in range(2):
            basis, _ = scipy.linalg.qr(product(stats.gram, basis), mode="economic", overwrite_a=True)
        return cls._onto(stats, start, basis, grids)

    @classmethod
    def near(
        cls, stats: NormalEquations, start: LeastSquaresSolution, prior: Array, most: int, grids: Grids = None
    ) -> "Projection | None":
        """Return the combinations of the data in which a prior lets a kernel show; None for more than `most`."""
        # They are W' times the largest eigenvectors of ``P G``, nearly, P being in units of s^2.
        own = blocks(stats.supports)
        ones = np.zeros((stats.n_taps, len(own)))
        gram = np.array(stats.gram, order="F")  # less the mean of the image, which would drown the others
        for at, where in enumerate(own):
            ones[where, at] = 1.0
        mean = ones / ones.sum(axis=0)
        across = stats.gram @ mean
        gram -= ones @ across.T + across @ ones.T - ones @ (mean.T @ across) @ ones.T
        rng, r, basis = np.random.default_rng(0), 0, ones
        while r < most:
            r = min(most, max(3 * r, _FIRST))
            basis = np.hstack([basis, rng.standard_normal((stats.n_taps, r + len(own) - basis.shape[1]))])
            for _ in range(2):
                turned = product(prior, product(gram, basis[:, len(own) :]))
                turned, _ = scipy.linalg.qr(turned, mode="economic", overwrite_a=True)
                basis = np.hstack([ones, turned])
            found = cls._onto(stats, start, basis, grids)
            seen = scipy.linalg.eigvalsh(product(found.weights.T, product(prior, found.weights)))
            if float(seen[0]) < _UNSEEN:
                return found
            # ratios fall more and more slowly: no use to look further if at this pace they would not fall enough
            half = max(1, len(seen) // 2)
            if seen[0] * (seen[0] / seen[half]) ** ((most - r) / half) > _UNSEEN:
                return None
        return None

    @classmethod
    def _onto(cls, stats: NormalEquations, start: LeastSquaresSolution, basis: Array, grids: Grids) -> "Projection":
        """Return the combinations ``W'B``, made orthonormal."""
        image = product(stats.gram, basis)
        lower = scipy.linalg.cholesky(product(basis.T, image), lower=True)
        weights = scipy.linalg.blas.dtrsm(1.0, lower, image, side=1, lower=1, trans_a=1)
        n = stats.n_pixels - start.rank + basis.shape[1]
        grids = grids or tuple(Grid(shape) for shape in stats.supports)
        circular = stats.convention.numbers == "complex"
        return cls(grids, weights, weights.T @ start.taps, start.rss, n, circular)

    def under(self, symmetric: str | None) -> "Projection":
        """Return the same data for kernels of a symmetry: one weight for each set of equal taps; the rest is noise."""
        if symmetric is None:
            return self
        if symmetric not in self._folded:
            grids = tuple(grid.under(symmetric) for grid in self.grids)
            ends = np.cumsum([0] + [len(grid) for grid in self.grids])
            weights = np.vstack([g.fold(self.weights[i:j]) for g, i, j in zip(grids, ends, ends[1:], strict=False)])
            data, rss = self.data, self.rss
            if weights.shape[1] > len(weights):
                turn, lower = scipy.linalg.qr(weights.T, mode="economic")
                weights, data = lower.T, turn.T @ self.data
                rss += float(np.sum((self.data - turn @ data) ** 2))
            folded = Projection(grids, np.asfortranarray(weights), data, rss, self.n, self.circular)
            self._folded[symmetric] = folded
        return self._folded[symmetric]

    @functools.cached_property
    def inverse(self) -> Inverse | None:
        """The inverse of ``WW'`` where W is a factor of Cholesky's that rounding does not spoil."""
        n, r = self.weights.shape
        if n != r or np.triu(self.weights, 1).any() or scipy.linalg.lapack.dtrcon(self.weights, uplo="L")[0] < _TRUSTED:
            return None
        root = scipy.linalg.lapack.dtrtri(self.weights, lower=1)[0]
        log_det = 2 * float(np.log(np.abs(self.weights.diagonal())).sum())
        return Inverse(product(root.T, root), product(root.T, self.data), log_det)

    @property
    def scale(self) -> float:
        """About how large the value of `evidence` is, for tolerances."""
        return max(1.0, self.n * abs(math.log(max(self.rss, np.finfo(np.float64).tiny))))

    def log_evidence(self, value: float) -> float:
        """Return log p(y) from the value of `evidence`."""
        return -0.5 * (value + self.n * (1 + math.log(2 * math.pi) - math.log(self.n)))
