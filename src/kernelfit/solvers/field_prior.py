"""The Gaussian-process prior of a kernel that varies over the field: one for each function of the place.

The kernels ``k_j`` of the functions have the prior of the constant part, but for an amplitude of each degree, and a
length and a radius that all but the constant share. That length stays near the radius: where the data are weak the
evidence would let it grow until all changes were of one shape, which they are not. The search begins with the constant
part alone; then all hyperparameters maximise the evidence of all the data, of which few numbers are needed: with
``P = U U'`` of rank r those of ``U'G U`` and ``U'G k0``.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.linalg

from ..core.normal_equations import NormalEquations
from ..core.validation import Array
from .cholesky import product, times
from .evidence import Kind, covariance_of
from .hyperparameters import Views, search
from .least_squares import LeastSquaresSolution, at_minimum, blocks
from .projection import Grid

#: What of a prior changes the evidence by less than this is left out.
_SEEN = 1e-5
#: How far the logarithms go from where they start: of the amplitude, length and radius of all, of the amplitude of a
#: degree beside the constant's, and of length and radius of all but the constant.
_REACH = ((-4.0, 4.0), (-1.2, 1.2), (-1.2, 1.2), (-12.0, 2.5), (-1.2, 0.7), (-0.4, 1.2))
_START, _STEP, _STEPS = -1.5, 1e-3, 12
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
    best = joint.descend()
    by_degree = {degree: joint.up_to(degree, best) for degree in (0, *degrees)}
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

    def roots(self, free: Array) -> list[Array]:
        """Return U of each term, for an amplitude of 1."""
        found: dict[bytes, Array] = {}
        out = []
        for theta, grid, largest in zip(self.theta(free), self.grids, self.largest, strict=True):
            shape = np.concatenate([[0.0], theta[1:]])
            key = shape.tobytes()
            if key not in found:
                values, vectors = scipy.linalg.eigh(covariance_of([grid], self.kind, shape), driver="evd")
                most = max(float(np.exp(2 * t[0])) for t in self.theta(free))
                kept = values > max(_SEEN / max(largest * most, 1e-300), 1e-13 * values[-1])
                root = vectors[:, kept] * np.sqrt(values[kept])
                found[key] = root if grid.symmetric is None else root[grid.set_of]
            out.append(found[key])
        return out

    def sums(self, roots: list[Array]) -> tuple[Array, Array, Array]:
        """Return ``U'G U``, ``U'G k0``, and the term of each column."""
        half = np.hstack([product(self.gram[:, w], root) for w, root in zip(self.where, roots, strict=True)])
        inner = np.vstack([product(root.T, half[w]) for w, root in zip(self.where, roots, strict=True)])
        pull = np.concatenate([root.T @ self.pull[w] for w, root in zip(self.where, roots, strict=True)])
        return inner, pull, np.repeat(np.arange(len(roots)), [root.shape[1] for root in roots])

    def value(
        self, roots: list[Array], sums: tuple[Array, Array, Array], amplitude: Array, *, slope: bool = False
    ) -> tuple[float, Array]:
        """Return ``n log(rss + q) + log det`` and its derivatives by the log amplitude of each term."""
        inner, pull, term = sums
        scale = amplitude[term]
        middle = inner * np.multiply.outer(scale, scale)
        middle[np.diag_indices_from(middle)] += 1.0
        lower, info = scipy.linalg.lapack.dpotrf(middle, lower=1, clean=1)
        if info != 0:
            return math.inf, np.zeros(len(amplitude))
        x = scipy.linalg.cho_solve((lower, True), scale * pull, check_finite=False)
        split = np.split(scale * x, np.cumsum(np.bincount(term, minlength=len(roots)))[:-1])
        step = np.concatenate([root @ own for root, own in zip(roots, split, strict=True)]) - self.least
        rest = self.rss + float(step @ times(self.gram, step)) + float(x @ x)
        value = self.n * math.log(rest) + 2 * float(np.log(np.diag(lower)).sum())
        if not slope:
            return value, np.zeros(len(amplitude))
        inverse = scipy.linalg.lapack.dtrtri(lower, lower=1)[0]
        each = 1.0 - np.einsum("ij,ij->j", inverse, inverse) - self.n / rest * x**2
        return value, 2.0 * np.bincount(term, each, minlength=len(amplitude)).astype(np.float64)

    def descend(self) -> Array:
        """Return the free hyperparameters with the largest evidence."""
        import scipy.optimize

        n_free = self.ties.shape[1]
        bounds = [*_REACH[:3], *[_REACH[3]] * (n_free - 5), *_REACH[4:]]
        free = np.zeros(n_free)
        free[3:-2] = _START * np.arange(1, n_free - 4)
        free[-1] = 0.2
        shapes = [1, 2, n_free - 2, n_free - 1] if n_free > 5 else [1, 2]
        by_amplitude = self.ties[::5]  # of each term's log amplitude

        def both(at: Array, only: list[int]) -> tuple[float, Array]:
            roots = self.roots(at)
            value, own = self.value(roots, self.sums(roots), np.exp(self.theta(at)[:, 0]), slope=True)
            gradient = by_amplitude.T @ own
            for one in only:
                there = at.copy()
                there[one] += _STEP
                roots = self.roots(there)
                other = self.value(roots, self.sums(roots), np.exp(self.theta(there)[:, 0]))[0]
                gradient[one] = (other - value) / _STEP
            return value, gradient

        roots = self.roots(free)
        sums = self.sums(roots)

        def amplitudes(at: Array) -> tuple[float, Array]:
            value, own = self.value(roots, sums, np.exp(self.theta(at)[:, 0]), slope=True)
            gradient = by_amplitude.T @ own
            gradient[shapes] = 0.0
            return value, gradient

        settings = {"method": "L-BFGS-B", "jac": True, "bounds": bounds}
        free = scipy.optimize.minimize(amplitudes, free, options={"maxfun": 60}, **settings).x
        scale = max(1.0, abs(both(free, [])[0]))
        options = {"maxfun": _STEPS, "ftol": 0.03 / scale, "gtol": 0.03}
        found = scipy.optimize.minimize(both, free, args=(shapes,), options=options, **settings)
        return np.asarray(found.x)

    def up_to(self, degree: int, free: Array) -> float:
        """Return the value of the terms up to a degree alone, each with the amplitude that is best then."""
        import scipy.optimize

        roots = [
            root if level <= degree else root[:, :0] for root, level in zip(self.roots(free), self.levels, strict=True)
        ]
        sums, by_amplitude = self.sums(roots), self.ties[::5]
        moving = [0, *range(3, 3 + degree)]

        def both(part: Array) -> tuple[float, Array]:
            at = free.copy()
            at[moving] = part
            value, own = self.value(roots, sums, np.exp(self.theta(at)[:, 0]), slope=True)
            return value, (by_amplitude.T @ own)[moving]

        bounds = [_REACH[0], *[_REACH[3]] * degree]
        found = scipy.optimize.minimize(
            both, free[moving], jac=True, method="L-BFGS-B", bounds=bounds, options={"maxfun": 30}
        )
        return float(found.fun)


def best_degree(by_degree: dict[int, float]) -> int:
    """Return the degree with the largest evidence, the lower one where a higher one is not clearly better."""
    best = 0
    for degree in sorted(by_degree):
        if by_degree[best] - by_degree[degree] > 2 * CLEARLY:
            best = degree
    return best
