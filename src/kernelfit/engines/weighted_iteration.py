"""Weighted least squares without the weighted Gram matrix: conjugate gradients, a pass over the pixels each.

The preconditioner is nearly the weighted Gram matrix (`sampled_gram`), so that a few iterations do; where a sample of
patches costs too much, as with many taps, it is the unweighted one times the mean weight. Each iteration measures the
gradient at a trial point, so that rounding does not pile up.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.linalg

from ..compiled.threads import Progress
from ..core.background import Elimination
from ..core.findings import Finding, Verdict
from ..core.normal_equations import NormalEquations
from ..core.validation import Array
from ..data.observation import Items, lots_of, together
from ..solvers.cholesky import scaled_factor, times
from ..solvers.least_squares import EPS
from . import sampled_gram
from .passes import Hold
from .weighted import TargetSums, assembled, recentered
from .weighted import border as exact_border
from .weighted_pass import Residual, residual

#: The default of `tolerance`: the error at which to stop, in units of the standard error that the noise causes; with a
#: preconditioner from a sample, of one source and of more.
TOLERANCE = 0.01
SAMPLED_TOLERANCE = 1e-8
MOST_ITERATIONS = 100
_MOST_RESTARTS = 4
#: Many iterations, if after the first ones so many more would be needed.
_FIRST, _MANY = 5, 20
#: Standard errors may be off by such a factor before it is a finding.
_ROUGH = 1.5


@dataclasses.dataclass(frozen=True, eq=False)
class Metric:
    """An approximation B of the weighted Gram matrix."""

    gram: Array  # B
    inverse: Array  # (taps, rank); a factor F of its (pseudo-)inverse, ``F F'``
    source: str  # what it was made of
    near: bool = False  # whether it is near the weighted one, for a background's unknowns as well

    @classmethod
    def whole(cls, items: Items, grams: Sequence[Array]) -> "Metric":
        """Take the unweighted Gram matrices, each times the mean weight."""
        means = [float(np.mean([np.mean(items[at].weights) for at in lot])) for lot in lots_of(items)]
        gram = together(items, [mean * g for mean, g in zip(means, grams, strict=True)])
        return cls(gram, scaled_factor(gram), "the unweighted Gram matrix, scaled")

    @classmethod
    def sampled(cls, items: Items, base: sampled_gram.Base, workers: int) -> "Metric | None":
        """Take Gram matrices of weights that vary slowly, and a sample of patches; None if that does not do."""
        gram = sampled_gram.sampled(items, base, workers)
        if gram is None:
            return None
        factor = scaled_factor(gram)
        if factor.shape[1] < len(gram):
            return None
        varies = items[0].observation.geometry.convention.field is not None
        source = "patches of tiles" if varies else f"a sample of {sampled_gram.sample_size(items)} patches"
        return cls(gram, factor, source, near=True)

    def solve(self, moment: Array) -> Array:
        """Return ``B^-1`` times a moment."""
        return np.asarray(times(self.inverse, times(self.inverse.T, moment)))


@dataclasses.dataclass(frozen=True, eq=False)
class Iterated:
    """Statistics centred at the solution, backgrounds, how it was found, and how far `unlike` 1 errors may be off."""

    stats: NormalEquations
    eliminations: tuple[Elimination, ...]
    findings: tuple[Finding, ...]
    iterations: int
    passes: int
    converged: bool
    unlike: float


@dataclasses.dataclass(eq=False)
class Walk:
    """Where an iteration got to: unknowns, their gradient and residual, and the directions that were measured."""

    at: Array
    gradient: Array = dataclasses.field(default_factory=lambda: np.zeros(0))
    rss: float = 0.0
    directions: list[Array] = dataclasses.field(default_factory=list)
    images: list[Array] = dataclasses.field(default_factory=list)
    passes: int = 0
    iterations: int = 0
    converged: bool = False


class Engine(NamedTuple):
    """How passes are done."""

    method: str
    workers: int
    progress: Progress | None = None

    def residual(
        self, items: Items, at: Array, keep: Sequence[Array] | None = None, hold: Hold | None = None
    ) -> Residual:
        """Do one."""
        return residual(items, at, self.method, self.workers, self.progress, keep, hold)


def walk(
    items: Items,
    metric: Metric,
    engine: Engine,
    so_far: Walk,
    limit: float,
    energy: float,
    here: Residual | None = None,
    *,
    patient: bool = True,
    hold: Hold | None = None,
) -> None:
    """Go on by preconditioned conjugate gradients, until the error is within a limit, of the noise's."""
    # With `hold` the weights are those of the residual itself, so that the gradient is not quite linear.
    m, n = len(metric.gram), sum(item.n_pixels for item in items)
    own = so_far
    for _ in range(_MOST_RESTARTS):
        if here is None:
            here = engine.residual(items, own.at, hold=hold)
            own.passes += 1
        own.gradient, own.rss, here = here.moment, here.energy, None
        size = first = float(own.gradient @ metric.solve(own.gradient))
        sizes, stuck = [size], False
        while True:
            enough = max(limit**2 * max(own.rss, 0.0) / max(1, n - m) * m, 1e-20 * first, EPS**2 * energy)
            own.converged = size <= enough
            stuck = own.iterations >= MOST_ITERATIONS or (not patient and _slow(sizes, enough))
            if own.converged or stuck:
                break
            step = metric.solve(own.gradient)
            for direction, image in zip(own.directions, own.images, strict=True):
                step -= (image @ step) / (image @ direction) * direction
            trial = engine.residual(items, own.at + step, hold=hold)
            own.passes += 1
            image = own.gradient - trial.moment
            curvature = float(step @ image)
            if not curvature > 0:  # rounding: nothing more to gain
                own.converged = True
                break
            along = float(own.gradient @ step) / curvature
            own.at = own.at + along * step
            own.rss -= along * (2 * float(own.gradient @ step) - along * curvature)
            own.gradient = own.gradient - along * image
            own.directions.append(step)
            own.images.append(image)
            own.iterations += 1
            size = float(own.gradient @ metric.solve(own.gradient))
            sizes.append(size)
        # the residual's energy is a difference of large numbers; where it is small, it is measured anew
        if stuck or own.rss > 1e-8 * energy or size <= EPS**2 * energy or first <= 1e-24 * energy:
            break
    own.rss = max(own.rss, 0.0)


def solve(
    items: Items,
    metric: Metric,
    sums: TargetSums,
    engine: Engine,
    tolerance: float | None = None,
    start: Array | None = None,
    here: Residual | None = None,
    *,
    patient: bool = True,
) -> Iterated:
    """Solve the weighted problem by preconditioned conjugate gradients."""
    # `items`: the pairs with their weights. `metric`: the preconditioner. `sums`: their weighted sums. `engine`: of the
    # passes. `tolerance`: error at which to stop, in units of the standard error that the noise causes. `start`
    # (unknowns,): where to start, default zero; best a kernel that differs from the solution by noise alone. `here`:
    # the residual of the start, if it is known. `patient`: whether to go on where the iteration is slow, default True.
    # Returns statistics whose center is the solution. Their Gram matrix is approximate: that of the preconditioner,
    # corrected along all directions in which the weighted one has been measured (the block update of quasi-Newton
    # methods: Nocedal and Wright, "Numerical Optimization", 2nd ed., section 6.1).
    limit = (SAMPLED_TOLERANCE if metric.near else TOLERANCE) if tolerance is None else tolerance
    own = Walk(np.zeros(len(metric.gram)) if start is None else np.array(start))
    walk(items, metric, engine, own, limit, sums.energy, here, patient=patient)
    gram, spread = _final(items, own, engine.workers, metric, rescale=not metric.near and start is not None)
    stats, eliminations = assembled(items, gram, gram @ own.at + own.gradient, sums)
    stats = stats.centered(*recentered(items, eliminations, own.at, Residual(own.gradient, own.rss)))
    told = (
        f"; along the directions tried the exact one was {spread[0]:.2f} to {spread[1]:.2f} times it" if spread else ""
    )
    words = (
        f"iterate ({own.iterations} iterations to {limit:g} of the noise's error, {own.passes} passes; standard errors "
        f"approximate, from {metric.source}{told})"
    )
    findings: list[Finding] = []
    if not own.converged:
        findings.append(Finding(Verdict.NOT_CONVERGED, f"stopped after {own.iterations} iterations"))
    apart = math.inf if spread is None and not own.converged else spread[1] / max(spread[0], 1e-300) if spread else 1.0
    # measured on stars: nearly all were off by less; a sample is worst in few directions, which are then corrected
    off = 1.2 * math.sqrt(apart) if not metric.near else apart**0.25
    if off > _ROUGH:
        findings.append(Finding(Verdict.ROUGH_ERRORS, f"standard errors are right within a factor of about {off:.2g}"))
    stats = dataclasses.replace(stats, weighting=words)
    unlike = math.sqrt(apart) if metric.near else apart
    return Iterated(stats, eliminations, tuple(findings), own.iterations, own.passes, own.converged, unlike)


def _slow(sizes: Sequence[float], enough: float) -> bool:
    """Say whether many more iterations would be needed, the squared error going on to shrink as in the last three."""
    if len(sizes) <= _FIRST:
        return False
    shrinks = (sizes[-1] / sizes[-4]) ** (1 / 3)
    return shrinks >= 1 or math.log(enough / sizes[-1]) / math.log(shrinks) > _MANY


def solution(gram: Array, moment: Array) -> Array | None:
    """Return the solution of normal equations, None if the Gram matrix is too near to singular."""
    inverse = scaled_factor(gram)
    return np.asarray(times(inverse, times(inverse.T, moment))) if inverse.shape[1] == len(gram) else None


def _final(
    items: Items, own: Walk, workers: int, metric: Metric, *, rescale: bool
) -> tuple[Array, tuple[float, float] | None]:
    """Return the approximate Gram matrix over all unknowns; where the metric is far, exact but for that of the taps."""
    directions, images = own.directions, own.images
    if metric.near or not items[0].n_terms:
        return _corrected(metric.gram, rescale, directions, images)
    taps = items[0].n_taps
    border = exact_border(items, workers)
    # both eliminated, so that no error of the one is multiplied by what the two have in common
    reduced_own, beside = metric.gram[:taps], metric.gram[taps:]
    through_own = np.linalg.pinv(beside[:, taps:], hermitian=True)
    reduced = reduced_own[:, :taps] - reduced_own[:, taps:] @ through_own @ beside[:, :taps]
    through = border[:taps, taps:] @ np.linalg.pinv(border[taps:, taps:], hermitian=True)
    gram, spread = _corrected(
        reduced, rescale, [d[:taps] for d in directions], [q[:taps] - through @ q[taps:] for q in images]
    )
    border[:taps, :taps] = gram + through @ border[taps:, :taps]
    return border, spread


def _corrected(
    gram: Array, rescale: bool, directions: Sequence[Array], images: Sequence[Array]
) -> tuple[Array, tuple[float, float] | None]:
    """Make a Gram matrix exact along the directions measured; also return the range of measured to before."""
    used = [i for i, (d, q) in enumerate(zip(directions, images, strict=True)) if d @ q > 0]
    if not used:
        return gram, None
    if rescale:
        # From a start that differs from the solution by noise the first direction is as good as a random one, and so
        # its curvature the mean of all; those that follow are the ones in which the metric is worst.
        first = directions[used[0]]
        gram = gram * float(first @ images[used[0]]) / float(first @ gram @ first)
    d, q = (np.stack([a[i] / np.linalg.norm(directions[i]) for i in used], axis=1) for a in (directions, images))
    approximate = gram @ d
    exact, before = (0.5 * (s + s.T) for s in (d.T @ q, d.T @ approximate))
    try:
        values = scipy.linalg.eigvalsh(exact, before)
        change = q @ np.linalg.solve(exact, q.T) - approximate @ np.linalg.solve(before, approximate.T)
    except (np.linalg.LinAlgError, scipy.linalg.LinAlgError):  # directions that rounding made dependent
        return gram, None
    corrected = gram + 0.5 * (change + change.T)
    if values[0] <= 0 or scaled_factor(corrected).shape[1] < len(corrected):
        return gram, (float(values[0]), float(values[-1]))
    return corrected, (float(values[0]), float(values[-1]))
