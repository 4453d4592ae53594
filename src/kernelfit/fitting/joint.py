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
import scipy.fft

from ..compiled.blas import one_blas_thread
from ..compiled.threads import add, in_order
from ..core.estimate import Estimate
from ..core.validation import Array
from ..data.observation import Observation
from ..data.plan import FitPlan
from ..data.reader import Reader
from ..engines import forward

_ROWS, _DIRECT = 256, 300  # rows looked at at once; taps up to which sums are quicker than transforms
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
        plan, total = self.observation.geometry, np.zeros(self.observation.size)
        for reader, array, kernel in zip(self.observation.sources, arrays, self.kernels, strict=True):
            source = dataclasses.replace(reader, array=array)
            if kernel.size > _DIRECT or max(plan.stride) > 1:
                total += forward.apply_used(source, kernel, plan, self.workers)
            else:
                _add_to(total, source, kernel[::-1, ::-1] if plan.flipped else kernel, self.workers)
        return total

    def surface(self) -> Array:
        """Return the background that fits best beside the model; zeros without one."""
        if self.observation.background is None:
            return np.zeros(self.observation.size)
        rows, cols = self.observation.size
        return self.observation.columns.surface(surfaces_of(self, ())[0], slice(0, rows), slice(0, cols))

    def weighed(self, rows: slice) -> Array:
        """Return the weights of some rows."""
        shape = self.model[rows].shape
        return np.ones(shape) if self.weights is None else np.asarray(self.weights[rows], dtype=np.float64)


def _add_to(total: Array, source: Reader, taps: Array, workers: int) -> None:
    """Add what a small kernel makes of a source, by sums over its taps."""
    from ..compiled.lag_sums import correlate  # compiled when first used

    (rows, cols), (high, wide), taps = total.shape, taps.shape, np.ascontiguousarray(taps)

    def band(start: int) -> None:
        count = min(_ROWS, rows - start)
        made = np.empty((count, cols))
        correlate(source.block(start, 0, (count + high - 1, cols + wide - 1)), 0, taps, count, cols, made)
        total[start : start + count] += made

    for _ in in_order(range(0, rows, _ROWS), band, workers):
        pass


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
    """Return the sums of the pixels of one observation, a band of rows at a time."""
    # The products with the taps add up as spectra, in single precision: they are for errors and for the way of a step.
    every, observation, plan = slopes(seen), seen.observation, seen.observation.geometry
    own = [i for i, column in enumerate(every) if column is not None]
    columns, n = [every[i] for i in own], len(every)
    whole = Share(np.zeros((n, n)), np.zeros((seen.kernels.size, n)), np.zeros(n))
    if not columns:
        return whole
    (rows, cols), (down, across), (high, wide) = plan.size, plan.stride, plan.kernel_shape
    count, surfaces = len(columns), surfaces_of(seen, columns)
    sides = [scipy.fft.next_fast_len(n, real=True) for n in (down * min(_ROWS, rows) + high, across * cols + wide)]

    def band(start: int) -> tuple[Array, ...]:
        part = slice(start, min(start + _ROWS, rows))
        weights, block = seen.weighed(part), np.array([column[part, :] for column in columns])
        target = observation.targets[0].block(start, 0, weights.shape)
        rest = np.where(weights > 0, target - seen.model[part], 0.0)
        for one, values in zip([*block, rest], surfaces, strict=False):
            one -= observation.columns.surface(values, part, slice(0, cols))
        weighed, flat = block * weights, block.reshape(count, -1)
        spread = np.zeros((count, down * weights.shape[0], across * cols), dtype=np.float32)
        spread[:, ::down, ::across] = weighed
        spectra = scipy.fft.rfft2(spread, sides, workers=1)
        np.conj(spectra, out=spectra)
        shape = (down * weights.shape[0] + high - 1, across * cols + wide - 1)
        products = [
            spectra * scipy.fft.rfft2(reader.block(down * start, 0, shape).astype(np.float32), sides, workers=1)
            for reader in observation.sources
        ]
        weighed = weighed.reshape(count, -1)
        return np.stack(products).view(np.float32), weighed @ flat.T, weighed @ rest.ravel()

    spectra, square, gradient = add(in_order(range(0, rows, _ROWS), band, seen.workers))
    taps = scipy.fft.irfft2(spectra.view(np.complex64), sides, workers=1)[..., :high, :wide]
    taps = taps[..., ::-1, ::-1] if plan.flipped else taps
    moment = np.swapaxes(taps, 0, 1).reshape(count, -1).T
    whole.square[np.ix_(own, own)], whole.moment[:, own], whole.gradient[own] = square, moment, gradient
    return whole


def surfaces_of(seen: Seen, columns: Sequence[Any]) -> Array:
    """Return the coefficients of the background in each column of J, and in the residual; none without one."""
    observation, rows = seen.observation, seen.observation.size[0]
    if observation.background is None:
        return np.zeros((0, 0))
    terms, told = observation.columns, np.zeros((len(columns) + 1, observation.columns.n))
    for start in range(0, rows, _ROWS):
        part = slice(start, min(start + _ROWS, rows))
        weights = seen.weighed(part)
        target = observation.targets[0].block(start, 0, weights.shape)
        rest = np.where(weights > 0, target - seen.model[part], 0.0)
        for own, block in zip(told, [*(column[part, :] for column in columns), rest], strict=True):
            own += terms.products(block * weights, start, 0)
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
