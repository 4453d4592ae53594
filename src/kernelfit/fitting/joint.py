"""One step of Gauss and Newton for what is bilinear with the kernel: a motion, a curve.

The prediction of a target changes by ``J theta`` with a few parameters theta, beside the change by ``A k`` with the
taps. At the kernel of least squares the residual r is orthogonal to A, so with ``H = (A'WA)^-1``, which is the
factor of the kernel's covariance, and ``M = A'WJ`` the step is ``theta = S^-1 J'W r``, ``S = J'WJ - M'HM``: the
Schur complement (Golub and Pereyra, "The differentiation of pseudo-inverses and nonlinear least squares problems whose
variables separate", SIAM J. Numer. Anal. 10 (1973) 413). ``S^-1`` is the covariance of theta, and ``-H M theta`` is by
how much the taps follow it.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..compiled.threads import add, in_order, one_blas_thread
from ..core.estimate import Estimate
from ..core.geometry import Shape
from ..core.validation import Array
from ..data.observation import Observation
from ..data.plan import FitPlan
from ..data.reader import Reader
from ..engines import accumulation, forward
from ..engines.weighted import pass_method

_ROWS, _DIRECT = 64, 300  # rows looked at at once; taps up to which sums are quicker than transforms
#: Eigenvalues of S that count, relative to the largest, its diagonal being 1.
_RANK = 1e-10
#: Share of S that is taken for true at least.
_LEFT = 0.25


@dataclass(frozen=True, eq=False)
class Seen:
    """One observation of a target under its kernels, on the target pixels that are used."""

    observation: Observation  # with the one target
    kernels: Array  # (sources, rows, cols); Those that make the target
    model: Array  # what they make, without a background
    weights: Any  # zero where a pixel does not count; None where all count once
    workers: int  # number of threads
    place: tuple[int, int] = (0, 0)  # number of the group in the plan, and of the observation in the group

    @classmethod
    def of(cls, observation: Observation, estimate: Estimate, place: tuple[int, int], workers: int) -> "Seen":
        """Lay the kernels of an estimate on the observation at a place of its plan."""
        plan = observation.geometry
        kernels = estimate.kernel.reshape(len(observation.sources), *plan.kernel_shape)
        weights = estimate.weights[place[1]] if isinstance(estimate.weights, tuple) else estimate.weights
        own = None if weights is None else weights[plan.used]
        blank = cls(observation, kernels, np.empty(0), own, workers, place)
        return dataclasses.replace(blank, model=blank.made([reader.array for reader in observation.sources]))

    def made(self, arrays: Sequence[Any]) -> Array:
        """Return what the kernels make of other arrays in the place of the sources."""
        plan = self.observation.geometry
        laid = [dataclasses.replace(r, array=a) for r, a in zip(self.observation.sources, arrays, strict=True)]
        if self.kernels[0].size > _DIRECT or max(plan.stride) > 1:
            both = zip(laid, self.kernels, strict=True)
            return np.asarray(sum(forward.apply_used(one, kernel, plan, self.workers) for one, kernel in both))
        return _correlated(
            laid, self.kernels[:, ::-1, ::-1] if plan.flipped else self.kernels, self.observation.size, self.workers
        )

    @property
    def rest(self) -> "_Rest":
        """What the kernels leave of the target, a background included."""
        return _Rest(self)

    def surface(self) -> Array:
        """Return the background that fits best beside the model; zeros without one."""
        if self.observation.background is None:
            return np.zeros(self.observation.size)
        return self.observation.columns.surface(surfaces_of(self, [self.rest])[0], slice(None), slice(None))

    def weighed(self, rows: slice) -> Array:
        """Return the weights of some rows."""
        shape = self.model[rows].shape
        return np.ones(shape) if self.weights is None else np.asarray(self.weights[rows], dtype=np.float64)


def _correlated(sources: Sequence[Reader], kernels: Array, size: Shape, workers: int) -> Array:
    """Return what small kernels make of sources, by sums over their taps."""
    from ..compiled.lag_sums import correlate_finite  # compiled when first used

    total, (high, wide), kernels = np.empty(size), kernels.shape[1:], np.ascontiguousarray(kernels)

    def band(part: slice) -> None:
        out = total[part]
        made = np.empty(out.shape) if len(sources) > 1 else out
        for i, (source, taps) in enumerate(zip(sources, kernels, strict=True)):
            block = source.block(part.start, 0, (len(out) + high - 1, size[1] + wide - 1))
            correlate_finite(block, taps, len(out), size[1], made if i else out)
            if i:
                out += made

    for _ in in_order(_bands(size[0]), band, workers):
        pass
    return total


#: Returns the columns of J for what is seen of an observation: arrays of the used pixels, or what is sliced as such;
#: None for a parameter that does not concern it.
Slopes = Callable[[Seen], Sequence[Any]]


@dataclass(frozen=True, eq=False)
class Share:
    """What the pixels of one target say of the parameters."""

    square: Array  # J'WJ
    moment: Array  # M, (taps, parameters)
    gradient: Array  # J'W r


@one_blas_thread
def shares_of(plan: FitPlan, groups: Sequence[Sequence[Estimate]], slopes: Slopes, workers: int) -> list[list[Share]]:
    """Return the share of each target of each group of a plan, at the estimates; `slopes` are the columns of J."""
    out = []
    for g, (group, estimates) in enumerate(zip(plan.groups, groups, strict=True)):
        targets = []
        for t, one in enumerate(estimates):
            own = [dataclasses.replace(o, targets=o.targets[t : t + 1]) for o in group]
            parts = [_share(Seen.of(o, one, (g, i), workers), slopes) for i, o in enumerate(own)]
            sums = ([getattr(p, name) for p in parts] for name in ("square", "moment", "gradient"))
            targets.append(Share(*(np.sum(some, axis=0) for some in sums)))
        out.append(targets)
    return out


def nothing(groups: Sequence[Sequence[Estimate]]) -> list[list[Share]]:
    """Return the shares of no parameters."""
    return [[Share(np.zeros((0, 0)), np.zeros((one.kernel.size, 0)), np.zeros(0)) for one in g] for g in groups]


def _share(seen: Seen, slopes: Slopes) -> Share:
    """Return the sums of the pixels of one observation; the products with the taps are those of an engine's pass."""
    every, observation = slopes(seen), seen.observation
    own = [i for i, column in enumerate(every) if column is not None]
    columns, n = [every[i] for i in own], len(every)
    whole = Share(np.zeros((n, n)), np.zeros((seen.kernels.size, n)), np.zeros(n))
    if not columns:
        return whole
    both = [*columns, seen.rest]
    laid = [_Laid(seen, column, values) for column, values in zip(both, surfaces_of(seen, both), strict=True)]

    def band(part: slice) -> tuple[Array, ...]:
        values = np.array([one.values(part, slice(None)) for one in laid]).reshape(len(laid), -1)
        return ((values[:-1] * seen.weighed(part).ravel()) @ values.T,)

    (sums,) = add(in_order(_bands(len(seen.model)), band, seen.workers))
    moment = accumulation.products(observation, laid[:-1], pass_method(observation), seen.workers)
    whole.square[np.ix_(own, own)], whole.moment[:, own], whole.gradient[own] = sums[:, :-1], moment.T, sums[:, -1]
    return whole


def _bands(rows: int) -> list[slice]:
    return [slice(start, min(start + _ROWS, rows)) for start in range(0, rows, _ROWS)]


@dataclass(frozen=True, eq=False)
class _Rest:
    """What the kernels leave of the target, zero where a pixel does not count."""

    seen: Seen

    def __getitem__(self, key: tuple[slice, slice]) -> Array:
        model, weights = self.seen.model[key], self.seen.weights
        (row, col), shape = (k.indices(n)[0] for k, n in zip(key, self.seen.model.shape, strict=True)), model.shape
        rest = self.seen.observation.targets[0].block(row, col, shape) - model
        return np.asarray(rest if weights is None else np.where(weights[key] > 0, rest, 0.0))


class _Laid:
    """A column less its background, times the weights when an engine reads it."""

    dtype = np.dtype(np.float64)

    def __init__(self, seen: Seen, column: Any, surface: Array) -> None:
        self.seen, self.column, self.surface, self.shape = seen, column, surface, seen.model.shape

    def values(self, rows: slice, cols: slice) -> Array:
        """Return a block, without the weights."""
        column: Array = self.column[rows, cols]
        return column - self.seen.observation.columns.surface(self.surface, rows, cols) if self.surface.size else column

    def __getitem__(self, key: tuple[slice, slice]) -> Array:
        weights, values = self.seen.weights, self.values(*key)
        return values if weights is None else values * weights[key]


def surfaces_of(seen: Seen, columns: Sequence[Any]) -> Array:
    """Return the coefficients of the background in each of some columns; none without one."""
    observation = seen.observation
    if observation.background is None:
        return np.zeros((len(columns), 0))
    terms, told = observation.columns, np.zeros((len(columns), observation.columns.n))
    for part in _bands(len(seen.model)):
        weights = seen.weighed(part)
        for own, column in zip(told, columns, strict=True):
            own += terms.products(column[part, :] * weights, part.start, 0)
    known = np.linalg.pinv(terms.gram(None if seen.weights is None else np.asarray(seen.weights)), hermitian=True)
    return np.asarray(told @ known)


def drawn(groups: Sequence[Sequence[Estimate]], seed: int = 0) -> list[list[Estimate]]:
    """Return estimates whose kernels are draws of the errors of these."""
    rng = np.random.default_rng(seed)  # the same in every round, and in every run

    def error(one: Estimate) -> Estimate:
        if one.factor is None:
            return dataclasses.replace(one, kernel=np.zeros_like(one.kernel))
        values = one.factor @ rng.normal(size=one.factor.shape[1])
        return dataclasses.replace(one, kernel=values.reshape(one.kernel.shape))

    return [[error(one) for one in estimates] for estimates in groups]


@one_blas_thread
def solved(
    shares: Sequence[Sequence[Share]], groups: Sequence[Sequence[Estimate]], spurious: Array | None = None
) -> tuple[Array, Array, float]:
    """Return the step theta, its covariance, and the largest share of S that is not true."""
    # The columns are made by the kernel that was found, whose errors make S too large, by B on average, but tell
    # nothing: the curvature of the profile of the squares is ``S - B``, the variance of its slope S. So the step is
    # ``(S - B)^-1 J'Wr`` and its covariance ``(S - B)^-1 S (S - B)^-1``. One draw of the kernel's errors gives B, the
    # `precision` of `drawn` estimates in units of the noise, to the root of two over the number of taps.
    table, told = precision(shares, groups)
    gain, doubt = gain_of(table, spurious)
    return gain @ told, gain @ table @ gain.T, doubt


def gain_of(table: Array, spurious: Array | None) -> tuple[Array, float]:
    """Return ``(S - B)^-1``, and the largest share of S that is not true."""
    size = np.sqrt(np.where(np.diag(table) > 0, np.diag(table), np.inf))  # rounding may leave nothing
    values, vectors = np.linalg.eigh(table / np.outer(size, size))
    kept = values > _RANK * max(float(values[-1]), 1e-300)
    half = (vectors[:, kept] / np.sqrt(values[kept])) / size[:, None]
    if spurious is None:
        return half @ half.T, 0.0
    values, vectors = np.linalg.eigh(half.T @ spurious @ half)
    left = np.maximum(1.0 - values, _LEFT)
    half = half @ vectors
    return (half / left) @ half.T, float(np.max(1 - left, initial=0.0))


@one_blas_thread
def precision(shares: Sequence[Sequence[Share]], groups: Sequence[Sequence[Estimate]]) -> tuple[Array, Array]:
    """Return S and J'W r, both in units of the noise."""
    total: Array | float = 0.0
    gradient: Array | float = 0.0
    for targets, estimates in zip(shares, groups, strict=True):
        for share, one in zip(targets, estimates, strict=True):
            noise = noise_of(one)
            tied = share.moment.T @ (one.factor if one.factor is not None else np.zeros((len(share.moment), 1)))
            total = total + (share.square - (tied @ tied.T) / noise**2) / noise**2
            gradient = gradient + share.gradient / noise**2
    return np.atleast_2d(np.asarray(total)), np.asarray(gradient)


def noise_of(estimate: Estimate) -> float:
    """Return the standard deviation of a pixel of weight 1, never zero."""
    level = math.sqrt(max(estimate.rss, 0.0) / max(estimate.n_pixels, 1))
    return max(estimate.noise_std if estimate.noise_std > 0 else level, 1e-150)


def following(share: Share, estimate: Estimate) -> Array:
    """Return by how much the taps change with each parameter, ``-H M``, shape (taps, parameters)."""
    if estimate.factor is None:
        return np.zeros_like(share.moment)
    return np.asarray(-(estimate.factor @ (estimate.factor.T @ share.moment)) / noise_of(estimate) ** 2)


def factors_of(
    groups: Sequence[Sequence[Estimate]],
    shares: Sequence[Sequence[Share]],
    before: Sequence[Sequence[Estimate]],
    covariance: Array,
) -> tuple[list[list[Array]], Array]:
    """Return the factors of taps and parameters together: of each target's taps, and of the parameters."""
    # `before`: the estimates of the very same pixels: what a shift does to the sums is decided along the edges. All
    # have the same columns: those of the factor of each target, then those of the parameters.
    values, vectors = np.linalg.eigh(covariance) if len(covariance) else (np.zeros(0), np.zeros((0, 0)))
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    ranks = [[0 if one.factor is None else one.factor.shape[1] for one in estimates] for estimates in groups]
    width = sum(map(sum, ranks)) + root.shape[1]
    own = np.zeros((len(root), width))
    own[:, width - root.shape[1] :] = root
    out: list[list[Array]] = []
    first = 0
    for targets, estimates, others, some in zip(shares, groups, before, ranks, strict=True):
        out.append([])
        for share, one, other, rank in zip(targets, estimates, others, some, strict=True):
            factor = np.zeros((one.kernel.size, width))
            if one.factor is not None:
                factor[:, first : first + rank] = one.factor
                factor[:, width - root.shape[1] :] = following(share, other) @ root
            out[-1].append(factor)
            first += rank
    return out, own


def widened(estimate: Estimate, factor: Array) -> Estimate:
    """Return an estimate with another factor, whose empty columns are left out."""
    if estimate.factor is None:
        return estimate
    return dataclasses.replace(estimate, root=factor[:, np.any(factor != 0.0, axis=0)], root_scale=1.0)
