"""Weighted least squares without the weighted Gram matrix: conjugate gradients, a pass over the pixels each.

The unweighted Gram matrix, times the mean weight, is so good a preconditioner that a few iterations do. Only where the
weights follow the image's own structure closely (stars with photon noise) it is not, as the iterations show; then the
Gram matrix of a sample of patches takes its place. Each iteration measures the gradient at a trial point, so that
rounding does not pile up.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import scipy.linalg

from ..exact import polyphase
from ..exact.background import Elimination
from ..exact.engines import Progress
from ..pair import Array
from ..solvers.solve import EPS, scaled_factor, times
from ..statistics import NormalStats
from ..verdict import Finding, Verdict
from . import patches
from .weighted import TargetSums, assembled, recentered, sample_size
from .weighted import border as exact_border
from .weighted_pass import Item, Residual, own_unknowns, residual, together

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
class Sample:
    """A sample of weighted patches, drawn so that weighted sums over all pixels are estimated without bias.

    Attributes
    ----------
    patches : ndarray, shape (n, unknowns)
        In the order of the user's kernel, with the terms of the background, times the root of the weight over the
        probability of being drawn.
    values : ndarray, shape (n,)
        The target's pixels, times the same.
    roots : ndarray, shape (n,)
        Those roots.
    weights : ndarray, shape (n,)
        The weights.
    share : float
        How many of the pixels were drawn.
    """

    patches: Array
    values: Array
    roots: Array
    weights: Array
    share: float

    @property
    def gram(self) -> Array:
        """The estimate of the weighted Gram matrix."""
        upper = scipy.linalg.blas.dsyrk(1.0, self.patches.T)
        return patches.symmetric(upper)


def draw(items: Sequence[Item], most: int = 2**62) -> Sample:
    """Draw patches: candidates spread evenly, those of large weight and much structure likelier to be kept.

    About as many as tell a first kernel, but of no pair more than `most`. The same sample for the same problem every
    time. Of a large image only every so many rows are read.
    """
    rng = np.random.default_rng(0)
    scaled, values, roots, weights = [], [], [], []
    n_all = n_drawn = 0
    size = items[0].n_taps + len(items) * items[0].n_terms
    for i, item in enumerate(items):
        n_pixels, n_taps = item.problem.geometry.n_pixels, item.n_taps
        wanted = min(most, sample_size(n_pixels, n_taps))
        parts = list(_candidates(item, rng, 4 * wanted))
        plain = np.concatenate([part.weights for part in parts])
        spread = np.concatenate([part.weights * part.spread for part in parts])
        both = plain / max(float(plain.sum()), 1e-300) + spread / max(float(spread.sum()), 1e-300)
        chance = np.minimum(1.0, 0.5 * wanted * both)
        kept = rng.random(len(chance)) < chance
        first = 0
        for part in parts:
            own = slice(first, first + len(part.weights))
            first = own.stop
            if not kept[own].any():
                continue
            root = np.sqrt(part.weights / chance[own])[kept[own]]
            found, target, own_weights = part.read(item, kept[own])
            roots.append(root)
            weights.append(own_weights)
            wide = np.zeros((len(found), size))
            wide[:, own_unknowns(items, i)] = found * root[:, None]
            scaled.append(wide)
            values.append(target * root)
            n_drawn += len(found)
        n_all += item.n_pixels
    return Sample(
        np.concatenate(scaled),
        np.concatenate(values),
        np.concatenate(roots),
        np.concatenate(weights),
        n_drawn / max(1, n_all),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _Candidates:
    """Pixels of some rows of a pair: places, weights over the chance of being a candidate, and variance around them."""

    first: int
    height: int
    rows: patches.Index
    cols: patches.Index
    weights: Array
    spread: Array
    blocks: list[Array]

    def read(self, item: Item, kept: npt.NDArray[np.bool_]) -> tuple[Array, Array, Array]:
        """Return the patches, in the order of the user's kernel, the target's pixels and their weights."""
        plan = item.problem.geometry
        rows, cols = self.rows[kept], self.cols[kept]
        found = patches.gathered(self.blocks, rows, cols, plan.phase_shape)
        found = np.ascontiguousarray(found[:, polyphase.order(plan, len(item.problem.sources))])
        if item.columns is not None:
            found = np.hstack([found, item.columns.at(self.first + rows, cols)])
        target = item.problem.targets[0].block(self.first, 0, (self.height, plan.size[1]))
        return found, target[rows, cols], item.weights[self.first + rows, cols].astype(np.float64)


def _candidates(item: Item, rng: np.random.Generator, wanted: int) -> Iterator[_Candidates]:
    """Cut out some bands of rows, spread evenly, and choose about so many pixels in them."""
    plan, sources = item.problem.geometry, polyphase.split(item.problem).sources
    (n_y, n_x), (n_rows, n_cols) = plan.phase_shape, plan.size
    height = max(n_y, 32)
    n_bands = -(-n_rows // height)
    least = -(-4 * wanted // (height * n_cols))
    chosen = n_bands if plan.n_pixels <= 2**18 else min(n_bands, max(16, least))
    starts = [min(n_rows, round(b * n_rows / n_bands)) for b in range(n_bands + 1)]
    picked = np.arange(chosen) * n_bands // chosen + (n_bands // chosen) // 2
    n_inside = int(sum(starts[b + 1] - starts[b] for b in picked)) * n_cols
    for b in picked:
        first, height = starts[b], starts[b + 1] - starts[b]
        weights = item.weights[first : first + height]
        n_cells = min(height * n_cols, max(1, round(wanted * height * n_cols / n_inside)))
        edges = np.arange(n_cells + 1) * (height * n_cols) // n_cells
        places = edges[:-1] + (rng.random(n_cells) * np.diff(edges)).astype(np.int64)
        rows, cols = places // n_cols, places % n_cols
        found = weights[rows, cols] * (np.diff(edges) * (plan.n_pixels / n_inside))
        kept = found > 0
        rows, cols = rows[kept], cols[kept]
        blocks = [s.block(first, 0, (height + n_y - 1, n_cols + n_x - 1)) for s in sources]
        spread = sum((_variance_around(block, rows, cols, (n_y, n_x)) for block in blocks), np.zeros(len(rows)))
        yield _Candidates(first, height, rows, cols, found[kept], spread, blocks)


def _variance_around(block: Array, rows: patches.Index, cols: patches.Index, kernel: tuple[int, int]) -> Array:
    """Return about the variance of patches: that of the cells, as large as a patch, in which its corners lie."""
    cells = [slice(0, n // k * k) for n, k in zip(block.shape, kernel, strict=True)]
    shape = (cells[0].stop // kernel[0], kernel[0], cells[1].stop // kernel[1], kernel[1])
    tiled = block[cells[0], cells[1]].reshape(shape)
    n = kernel[0] * kernel[1]
    mean = np.einsum("iajb->ij", tiled) / n
    variance = np.maximum(np.einsum("iajb,iajb->ij", tiled, tiled) / n - mean**2, 0.0)
    y, x = (np.minimum(i // k, n - 1) for i, k, n in zip((rows, cols), kernel, variance.shape, strict=True))
    below, right = np.minimum(y + 1, variance.shape[0] - 1), np.minimum(x + 1, variance.shape[1] - 1)
    return np.asarray(variance[y, x] + variance[below, x] + variance[y, right] + variance[below, right])


@dataclasses.dataclass(frozen=True, eq=False)
class Metric:
    """An approximation B of the weighted Gram matrix.

    Attributes
    ----------
    gram : ndarray
        B.
    inverse : ndarray, shape (taps, rank)
        A factor F of its (pseudo-)inverse, ``F F'``.
    source : str
        What it was made of.
    """

    gram: Array
    inverse: Array
    source: str

    @classmethod
    def whole(cls, items: Sequence[Item], grams: Sequence[Array]) -> "Metric":
        """Take the unweighted Gram matrices, each times the mean weight."""
        gram = together(items, [float(np.mean(i.weights)) * g for i, g in zip(items, grams, strict=True)])
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

    stats: NormalStats
    eliminations: tuple[Elimination, ...]
    findings: tuple[Finding, ...]
    iterations: int
    passes: int
    converged: bool
    unlike: float


def solve(
    items: Sequence[Item],
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

    Parameters
    ----------
    items : sequence of Item
        The pairs with their weights.
    grams : sequence of ndarray
        The unweighted Gram matrix of each, over its unknowns.
    sums : TargetSums
        Their weighted sums.
    method : {"direct", "fft"}
        The engine of the passes.
    workers : int
        Number of threads.
    tolerance : float, optional
        Error at which to stop, in units of the standard error that the noise causes, default 0.01.
    start : ndarray, shape (unknowns,), optional
        Where to start, default zero; best a kernel that differs from the solution by noise alone.
    progress : callable, optional
        Told of each band of pixels.
    here : Residual, optional
        That of the start, if it is known.
    patient : bool, optional
        Whether to go on where the iteration is slow, default True.
    even : bool, optional
        Whether the weights are known not to follow the images.
    metric : Metric, optional
        The preconditioner, default the unweighted Gram matrix, or a sample's where that is seen to be far off.

    Returns
    -------
    Iterated
        Statistics whose center is the solution. Their Gram matrix is approximate: that of the preconditioner, corrected
        along all directions in which the weighted one has been measured (the block update of quasi-Newton methods:
        Nocedal and Wright, "Numerical Optimization", 2nd ed., section 6.1).
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
    stats = recentered(items, stats, eliminations, taps, Residual(gradient, rss))
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
    items: Sequence[Item],
    directions: Sequence[Array],
    images: Sequence[Array],
    workers: int,
    metric: Metric,
    *,
    rescale: bool,
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
