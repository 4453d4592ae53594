"""Weighted least squares without the weighted Gram matrix: conjugate gradients, a pass over the pixels each.

The unweighted Gram matrix, times the mean weight, is so good a preconditioner that a few iterations do. Only where the
weights follow the image's own structure closely (stars with photon noise) it is not, as the iterations show; then the
Gram matrix of a sample of patches takes its place. Each iteration measures the gradient at a trial point, so that
rounding does not pile up.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence

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
from .sampling import Sample, draw
from .weighted import TargetSums, assembled, recentered
from .weighted import border as exact_border
from .weighted_pass import Residual, residual

#: The default of `tolerance`: the error at which to stop, in units of the standard error that the noise causes.
TOLERANCE = 0.01
MOST_ITERATIONS = 100
_MOST_RESTARTS = 4
#: Another preconditioner is looked for if after the first iterations so many more would be needed.
_FIRST, _MANY = 5, 10
#: Standard errors may be off by such a factor before it is a finding; those of a sample of patches may be.
_ROUGH, _SAMPLED = 1.5, 3.0
#: So many directions tell how far off the unweighted Gram matrix is, which such a ratio of curvatures is; if they are
#: fewer, so many patches per tap do.
_TELL, _FAR, _PROBE = 3, 1.7, 20
_WHOLE = "the unweighted Gram matrix, scaled"


@dataclasses.dataclass(frozen=True, eq=False)
class Metric:
    """An approximation B of the weighted Gram matrix."""

    gram: Array  # B
    inverse: Array  # (taps, rank); a factor F of its (pseudo-)inverse, ``F F'``
    source: str  # what it was made of

    @classmethod
    def whole(cls, items: Items, grams: Sequence[Array]) -> "Metric":
        """Take the unweighted Gram matrices, each times the mean weight."""
        means = [float(np.mean([np.mean(items[at].weights) for at in lot])) for lot in lots_of(items)]
        gram = together(items, [mean * g for mean, g in zip(means, grams, strict=True)])
        return cls(gram, scaled_factor(gram), _WHOLE)

    def solve(self, moment: Array) -> Array:
        """Return ``B^-1`` times a moment."""
        return np.asarray(times(self.inverse, times(self.inverse.T, moment)))


def choose_metric(whole: Metric, sample: Sample) -> Metric:
    """Keep the unweighted Gram matrix, unless the sample shows that it is far off."""
    rng = np.random.default_rng(0)
    gram = sample.gram
    inverse, rank = whole.inverse, whole.inverse.shape[1]
    if not rank:
        return whole
    probes = inverse @ rng.standard_normal((rank, 32))
    scale = float(np.einsum("ij,ij->", probes, gram @ probes)) / (32 * rank)
    n, m = sample.patches.shape
    # Lanczos, for the range of the eigenvalues of the sample's matrix in the metric of the whole
    steps = min(20, rank)
    basis = np.zeros((steps + 1, rank))
    basis[0] = rng.standard_normal(rank)
    basis[0] /= np.linalg.norm(basis[0])
    for i in range(steps):
        basis[i + 1] = inverse.T @ (gram @ (inverse @ basis[i]))
        for _ in range(2):
            basis[i + 1] -= basis[: i + 1].T @ (basis[: i + 1] @ basis[i + 1])
        norm = np.linalg.norm(basis[i + 1])
        if norm <= 1e-10 * scale:
            steps = i + 1
            break
        basis[i + 1] /= norm
    moved = basis[:steps] @ inverse.T
    values = np.linalg.eigvalsh(moved @ gram @ moved.T)
    root = math.sqrt(m / n) if n > 4 * m else 0.5
    expected = 1.0 if sample.share >= 1 else ((1 + root) / (1 - root)) ** 2
    if values[0] > 0 and values[-1] / values[0] < _FAR * expected and sample.share < 1:
        return whole
    own = scaled_factor(gram)
    return whole if own.shape[1] < m else Metric(gram, own, f"the Gram matrix of {n} patches")


@dataclasses.dataclass(frozen=True, eq=False)
class Iterated:
    """Statistics centred at the solution, what gives the backgrounds, and how it was found.

    `unlike` is the largest over the smallest of the exact Gram matrix relative to the unweighted one, along the
    directions tried; infinite where a sample of patches was the better one.
    """

    stats: NormalEquations
    eliminations: tuple[Elimination, ...]
    findings: tuple[Finding, ...]
    iterations: int
    passes: int
    converged: bool
    unlike: float


def solve(
    items: Items,
    grams: Sequence[Array],
    sums: TargetSums,
    method: str,
    workers: int,
    tolerance: float | None = None,
    start: Array | None = None,
    progress: Progress | None = None,
    here: Residual | None = None,
    *,
    patient: bool = True,
    even: bool = False,
    metric: Metric | None = None,
) -> Iterated:
    """Solve the weighted problem by preconditioned conjugate gradients.

    `items`: the pairs with their weights. `grams`: the unweighted Gram matrix of each, over its unknowns. `sums`: their
    weighted sums. `method` {"direct", "fft"}: the engine of the passes. `workers`: number of threads. `tolerance`:
    error at which to stop, in units of the standard error that the noise causes, default 0.01. `start` (unknowns,):
    where to start, default zero; best a kernel that differs from the solution by noise alone. `progress`: told of each
    band of pixels. `here`: that of the start, if it is known. `patient`: whether to go on where the iteration is slow,
    default True. `even`: whether the weights are known not to follow the images. `metric`: the preconditioner, default
    the unweighted Gram matrix, or a sample's where that is seen to be far off. Returns statistics whose center is the
    solution. Their Gram matrix is approximate: that of the preconditioner, corrected along all directions in which the
    weighted one has been measured (the block update of quasi-Newton methods: Nocedal and Wright, "Numerical
    Optimization", 2nd ed., section 6.1).
    """
    limit = TOLERANCE if tolerance is None else tolerance
    whole = Metric.whole(items, grams)
    metric = whole if metric is None else metric
    m, n, energy = len(metric.gram), sums.n_pixels, sums.energy
    taps = np.zeros(m) if start is None else np.array(start)
    directions: list[Array] = []
    images: list[Array] = []
    passes = iterations = 0
    most, converged, doubted = MOST_ITERATIONS, False, metric is not whole

    def measure(at: Array) -> Residual:
        nonlocal passes
        passes += 1
        return residual(items, at, method, workers, progress)

    for _ in range(_MOST_RESTARTS):
        here = measure(taps) if here is None else here
        gradient, rss, here = here.moment, here.energy, None
        size = first = float(gradient @ metric.solve(gradient))
        sizes = [size]
        while iterations < most:
            enough = max(limit**2 * max(rss, 0.0) / max(1, n - m) * m, 1e-20 * first, EPS**2 * energy)
            converged = size <= enough
            if converged:
                break
            if not doubted and _slow(sizes, enough):
                if not patient:
                    most = iterations
                    break
                doubted, metric = True, choose_metric(whole, draw(items))
            step = metric.solve(gradient)
            for direction, image in zip(directions, images, strict=True):
                step -= (image @ step) / (image @ direction) * direction
            trial = measure(taps + step)
            image = gradient - trial.moment
            curvature = float(step @ image)
            if not curvature > 0:  # rounding: nothing more to gain
                converged = True
                break
            along = float(gradient @ step) / curvature
            taps += along * step
            rss -= along * (2 * float(gradient @ step) - along * curvature)
            gradient = gradient - along * image
            directions.append(step)
            images.append(image)
            iterations += 1
            size = float(gradient @ metric.solve(gradient))
            sizes.append(size)
        # the residual's energy is a difference of large numbers; where it is small, it is measured anew
        if iterations >= most or rss > 1e-8 * energy or size <= EPS**2 * energy or first <= 1e-24 * energy:
            break
    rss = max(rss, 0.0)
    final = functools.partial(_final, items, directions, images, workers)
    gram, spread = final(metric, rescale=metric is whole and start is not None)
    known = spread is not None and len(directions) >= _TELL and spread[1] < _FAR * spread[0]
    if metric is whole and not even and not known and (converged or patient):
        metric = choose_metric(whole, draw(items, _PROBE * m))
        if metric is not whole:
            metric = choose_metric(whole, draw(items))
            if patient and not float(gradient @ metric.solve(gradient)) <= enough:  # it only seemed to be near
                settings = method, workers, tolerance, taps, progress, Residual(gradient, rss)
                found = solve(items, grams, sums, *settings, metric=metric)
                return dataclasses.replace(found, iterations=iterations + found.iterations)
            gram, spread = final(metric, rescale=False)
    stats, eliminations = assembled(items, gram, gram @ taps + gradient, sums)
    stats = stats.centered(*recentered(items, eliminations, taps, Residual(gradient, rss)))
    told = (
        f"; along the directions tried the exact one was {spread[0]:.2f} to {spread[1]:.2f} times it" if spread else ""
    )
    words = (
        f"iterate ({iterations} iterations to {limit:g} of the noise's error, {passes} passes; standard errors "
        f"approximate, from {metric.source}{told})"
    )
    findings: list[Finding] = []
    if not converged:
        findings.append(Finding(Verdict.NOT_CONVERGED, f"stopped after {iterations} iterations"))
    apart = math.inf if spread is None and not converged else spread[1] / max(spread[0], 1e-300) if spread else 1.0
    # measured on stars: nearly all were off by less; a sample is worst in few directions, which are then corrected
    off = 1.2 * math.sqrt(apart) if metric is whole else max(_SAMPLED, 1.5 * apart**0.25)
    if off > _ROUGH:
        findings.append(Finding(Verdict.ROUGH_ERRORS, f"standard errors are right within a factor of about {off:.2g}"))
    stats = dataclasses.replace(stats, weighting=words)
    unlike = apart if metric is whole else math.inf
    return Iterated(stats, eliminations, tuple(findings), iterations, passes, converged, unlike)


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
    items: Items, directions: Sequence[Array], images: Sequence[Array], workers: int, metric: Metric, *, rescale: bool
) -> tuple[Array, tuple[float, float] | None]:
    """Return the approximate Gram matrix over all unknowns, exact where it concerns a background."""
    if not items[0].n_terms:
        return _corrected(metric.gram, rescale, directions, images)
    taps = items[0].n_taps
    border = exact_border(items, workers)
    # both eliminated, so that no error of the one is multiplied by what the two have in common
    own, beside = metric.gram[:taps], metric.gram[taps:]
    reduced = own[:, :taps] - own[:, taps:] @ np.linalg.pinv(beside[:, taps:], hermitian=True) @ beside[:, :taps]
    through = border[:taps, taps:] @ np.linalg.pinv(border[taps:, taps:], hermitian=True)
    gram, spread = _corrected(
        reduced, rescale, [d[:taps] for d in directions], [q[:taps] - through @ q[taps:] for q in images]
    )
    border[:taps, :taps] = gram + through @ border[taps:, :taps]
    return border, spread


def _corrected(
    gram: Array, rescale: bool, directions: Sequence[Array], images: Sequence[Array]
) -> tuple[Array, tuple[float, float] | None]:
    """Make an approximate Gram matrix exact along the directions in which it was measured.

    Also returns the range of the measured values relative to the approximate ones.
    """
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
