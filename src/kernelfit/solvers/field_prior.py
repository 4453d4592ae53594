"""The Gaussian-process prior of a kernel that varies over the field: one for each function of the place.

The kernels ``k_j`` of the functions have the prior of the constant part, but for an amplitude of each degree, and a
length and a radius that all but the constant share. That length stays near the radius: where the data are weak the
evidence would let it grow until all changes were of one shape, which they are not. The search begins with the constant
part alone; then all hyperparameters maximise the evidence of all the data, of which few numbers are needed: with
``P = U U'`` of rank r those of ``U'G U`` and ``U'G k0``.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.linalg

from ..core.normal_equations import NormalEquations
from ..core.validation import Array
from .cholesky import product, times
from .descent import Lowest, descend
from .evidence import Kind, blocks_of, covariance_of, gradient_of
from .hyperparameters import Views, search
from .least_squares import LeastSquaresSolution, at_minimum, blocks
from .projection import Grid

#: What of a prior changes the evidence by less than this is left out.
_SEEN = 1e-5
#: How far the logarithms go from where they start: of the amplitude, length and radius of all, of the amplitude of a
#: degree beside the constant's, and of length and radius of all but the constant.
_REACH = ((-4.0, 4.0), (-1.2, 1.2), (-1.2, 1.2), (-12.0, 2.5), (-1.2, 0.7), (-0.4, 1.2))
_START = -1.5
#: Evaluations of the amplitudes alone, and of all; a step that promises less of twice the evidence is not made.
_FEW, _STEPS, _ENOUGH = 30, 12, 0.03
#: Step of differences of derivatives, and the least curvature.
_STEP, _LEAST = 0.01, 0.1
#: A higher degree is taken where its evidence is larger by so much (twenty to one).
CLEARLY = 3.0


@dataclass(frozen=True, eq=False)
class FieldPrior:
    """What was found."""

    kind: Kind
    theta: Array  # (5 * terms,); the hyperparameters of each term, as `evidence` takes them
    ties: Array  # (5 * terms, free ones); how they move with those that are free
    by_degree: dict[int, float]  # twice the negative log evidence, less a constant, of all terms up to a degree


def search_field(
    stats: NormalEquations, start: LeastSquaresSolution, family: str, envelope: str, symmetric: str | None
) -> FieldPrior:
    """Return the prior with the largest evidence; `start` is the solution of least squares."""
    field = stats.convention.field
    assert field is not None
    n_images = len(stats.supports) // field.n
    levels = np.tile(field.variation.levels, n_images)
    image = np.repeat(np.arange(n_images), field.n)
    wanted = None if symmetric == "auto" else symmetric  # a symmetry of the mean kernel need not be one of its changes
    kind, first = _constant(stats, start, np.flatnonzero(levels == 0), family, envelope, wanted)
    theta = first.reshape(-1, 5)[image]
    # at lengths far beyond the radius all changes would be of one shape, that of the envelope, and surely so
    theta[levels > 0, 1] = np.minimum(theta[levels > 0, 1], theta[levels > 0, 2])
    degrees = range(1, int(levels.max()) + 1)
    ties = np.zeros((len(levels), 5, 5 + len(degrees)))
    ties[:, 0, 0] = ties[:, 1, 1] = ties[:, 2, 2] = 1.0
    for at, degree in enumerate(degrees):
        ties[levels == degree, 0, 3 + at] = 1.0
    ties[levels > 0, 1, -2] = ties[levels > 0, 2, -1] = 1.0
    ties[levels > 0, 1, 1] = 0.0
    joint = _Joint(stats, start, kind, theta.ravel(), ties.reshape(theta.size, -1), levels)
    best, by_degree = joint.best()
    return FieldPrior(kind, joint.theta(best).ravel(), joint.ties, by_degree)


def _constant(
    stats: NormalEquations,
    start: LeastSquaresSolution,
    terms: npt.NDArray[np.intp],
    family: str,
    envelope: str,
    symmetric: str | None,
) -> tuple[Kind, Array]:
    """Return the prior of the constant part: of what the Schur complement of the others says in the Gram matrix."""
    where = np.concatenate([np.arange(stats.n_taps)[blocks(stats.supports)[t]] for t in terms])
    rest = np.setdiff1d(np.arange(stats.n_taps), where)
    values, vectors = scipy.linalg.eigh(stats.gram[np.ix_(rest, rest)], driver="evd")
    kept = values > 1e-12 * values[-1]
    half = product(stats.gram[np.ix_(where, rest)], vectors[:, kept] / np.sqrt(values[kept]))
    gram = stats.gram[np.ix_(where, where)] - product(half, half.T)
    taps = start.taps[where]
    moment = times(gram, taps)
    alone = NormalEquations(
        gram=gram,
        moment=moment,
        target_energy=start.rss + float(taps @ moment),
        target_sum=0.0,
        n_pixels=stats.n_pixels - int(kept.sum()),
        supports=tuple(stats.supports[t] for t in terms),
        convention=stats.convention,
        weight_sum=stats.weight_sum,
        center=taps.copy(),
        center_moment=np.zeros(len(taps)),
        center_energy=start.rss,
    )
    least, alone = at_minimum(alone)
    found = search(Views(alone, least), family, envelope, symmetric)
    kind = min(found, key=lambda one: found[one].value)
    return kind, found[kind].at


class _Sums(NamedTuple):
    """Of the roots U of all terms, each for an amplitude of 1."""

    roots: list[Array]
    half: Array  # G U
    inner: Array  # U'G U
    pull: Array  # U'G k0
    term: npt.NDArray[np.intp]  # that of each column

    def up_to(self, levels: Array, degree: int) -> "_Sums":
        """Return those of the terms up to a degree alone."""
        kept = levels[self.term] <= degree
        roots = [root if level <= degree else root[:, :0] for root, level in zip(self.roots, levels, strict=True)]
        return _Sums(roots, self.half[:, kept], self.inner[np.ix_(kept, kept)], self.pull[kept], self.term[kept])


class _Joint:
    """The evidence of all terms together."""

    def __init__(
        self, stats: NormalEquations, start: LeastSquaresSolution, kind: Kind, base: Array, ties: Array, levels: Array
    ) -> None:
        self.gram, self.least, self.rss, self.n = stats.gram, start.taps, start.rss, stats.n_pixels
        self.kind, self.base, self.ties, self.levels = kind, base, ties, levels
        self.grids = [Grid(shape, kind.symmetric) for shape in stats.supports]
        self.where = blocks(stats.supports)
        self.pull = times(stats.gram, start.taps)
        self.largest = [float(stats.gram.diagonal()[w].sum()) for w in self.where]

    def theta(self, free: Array) -> Array:
        """Return the hyperparameters of each term, shape (terms, 5)."""
        return np.asarray((self.base + self.ties @ free).reshape(-1, 5))

    def amplitudes(self, free: Array) -> Array:
        """Return the amplitude of each term."""
        return np.exp(self.theta(free)[:, 0])

    def sums(self, free: Array) -> _Sums:
        """Return what the evidence needs of the data."""
        found: dict[bytes, Array] = {}
        roots, most = [], float(self.amplitudes(free).max()) ** 2
        for theta, grid, largest in zip(self.theta(free), self.grids, self.largest, strict=True):
            shape = np.concatenate([[0.0], theta[1:]])
            key = shape.tobytes()
            if key not in found:
                values, vectors = scipy.linalg.eigh(covariance_of([grid], self.kind, shape), driver="evd")
                kept = values > max(_SEEN / max(largest * most, 1e-300), 1e-13 * values[-1])
                root = vectors[:, kept] * np.sqrt(values[kept])
                found[key] = root if grid.symmetric is None else root[grid.set_of]
            roots.append(found[key])
        half = np.hstack([product(self.gram[:, w], root) for w, root in zip(self.where, roots, strict=True)])
        inner = np.vstack([product(root.T, half[w]) for w, root in zip(self.where, roots, strict=True)])
        pull = np.concatenate([root.T @ self.pull[w] for w, root in zip(self.where, roots, strict=True)])
        return _Sums(roots, half, inner, pull, np.repeat(np.arange(len(roots)), [root.shape[1] for root in roots]))

    def value(self, sums: _Sums, free: Array, *, shapes: bool = True) -> tuple[float, Array]:
        """Return ``n log(rss + q) + log det`` and its derivatives by what is free, or by amplitudes alone."""
        amplitude = self.amplitudes(free)
        scale = amplitude[sums.term]
        middle = sums.inner * np.multiply.outer(scale, scale)
        middle[np.diag_indices_from(middle)] += 1.0
        lower, info = scipy.linalg.lapack.dpotrf(middle, lower=1, clean=1)
        if info != 0:
            return math.inf, np.zeros(len(free))
        x, _ = scipy.linalg.lapack.dpotrs(lower, scale * sums.pull, lower=1)
        counts = np.bincount(sums.term, minlength=len(amplitude))
        split = np.split(scale * x, np.cumsum(counts)[:-1])
        step = np.concatenate([root @ own for root, own in zip(sums.roots, split, strict=True)]) - self.least
        back = times(self.gram, step)
        rest = self.rss + float(step @ back) + float(x @ x)
        value = self.n * math.log(rest) + 2 * float(np.log(np.diag(lower)).sum())
        inverse = scipy.linalg.lapack.dtrtri(lower, lower=1)[0]
        if not shapes:
            each = 1.0 - np.einsum("ij,ij->j", inverse, inverse) - self.n / rest * x**2
            return value, self.ties[::5].T @ (2.0 * np.bincount(sums.term, each, minlength=len(amplitude)))
        # H: the change of the value is sum(H * change of P); ``H = (P + G^-1)^-1 - n / rest w w'`` with ``w = P^-1 k``
        white = product(sums.half * scale, inverse.T)
        gradient = []
        for theta, grid, w in zip(self.theta(free), self.grids, self.where, strict=True):
            (b,) = blocks_of([grid], self.kind, theta)
            h = self.gram[w, w] - product(white[w], white[w].T) - self.n / rest * np.multiply.outer(back[w], back[w])
            if grid.symmetric is not None:
                of = np.eye(len(grid))[grid.set_of]
                h = product(of.T, product(h, of))
            along = np.einsum("ij,ij->i", h, b.covariance)
            gradient.append(gradient_of(along, b.envelope, [float(np.einsum("ij,ij->", h, b.slope))]))
        return value, self.ties.T @ np.concatenate(gradient)

    def curvature(self, free: Array, amplitudes: npt.NDArray[np.intp], high: Array) -> Array:
        """Return the second derivatives of the value, by differences of the first; steps uphill count as downhill."""
        # A radius that is too small by a hundredth may cost thousands, one of a length next to nothing: without them a
        # descent would go at the pace of the steepest.
        sums = self.sums(free)
        here, found = self.value(sums, free)[1], np.zeros((len(free), len(free)))
        for at in range(len(free)):
            there = free.copy()
            there[at] += _STEP if there[at] + _STEP <= high[at] else -_STEP
            alone = at in amplitudes  # whose roots stay
            slope = self.value(sums if alone else self.sums(there), there, shapes=not alone)[1]
            rows = amplitudes if alone else np.arange(len(free))
            found[rows, at] = (slope - here)[rows] / (there[at] - free[at])
        found[:, amplitudes] = np.where(found[:, amplitudes] == 0, found[amplitudes].T, found[:, amplitudes])
        values, vectors = scipy.linalg.eigh(0.5 * (found + found.T))
        return np.asarray((vectors * np.maximum(np.abs(values), _LEAST)) @ vectors.T)

    def best(self) -> tuple[Array, dict[int, float]]:
        """Return the free hyperparameters with the largest evidence, and the value of the terms up to each degree."""
        n_free = self.ties.shape[1]
        low, high = np.array([*_REACH[:3], *[_REACH[3]] * (n_free - 5), *_REACH[4:]]).T
        free = np.zeros(n_free)
        free[3:-2] = _START * np.arange(1, n_free - 4)
        free[-1] = 0.2
        amplitudes = np.array([0, *range(3, n_free - 2)])

        def moved(free: Array, moving: Array, sums: _Sums) -> Lowest:
            def function(part: Array) -> tuple[float, Array]:
                at = free.copy()
                at[moving] = part
                value, slope = self.value(sums, at, shapes=False)
                return value, slope[moving]

            return descend(function, free[moving], low[moving], high[moving], _FEW, _ENOUGH)

        free[amplitudes] = moved(free, amplitudes, self.sums(free)).at
        bent = self.curvature(free, amplitudes, high)
        found = descend(lambda at: self.value(self.sums(at), at), free, low, high, _STEPS, _ENOUGH, bent)
        sums, top = self.sums(found.at), n_free - 5
        lower = {d: moved(found.at, amplitudes[: d + 1], sums.up_to(self.levels, d)).value for d in range(top)}
        return found.at, {**lower, top: found.value}


def best_degree(by_degree: dict[int, float]) -> int:
    """Return the degree with the largest evidence, the lower one where a higher one is not clearly better."""
    best = 0
    for degree in sorted(by_degree):
        if by_degree[best] - by_degree[degree] > 2 * CLEARLY:
            best = degree
    return best
