"""Fits with weights, and fits whose weights come from the fit: noise that grows with the signal, and outliers.

Both are iteratively reweighted least squares: weights from the residual of the last kernel, a weighted fit, until the
kernel settles.
"""

import dataclasses
import math
import numbers
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import accumulation, geometry, iterate, patches, solve, weighted
from .accumulation import Choice, Progress
from .masks import Judged, Rules
from .outliers import ROBUST, TUNING, correction_of, factor, least_absolute, slope
from .pair import Array
from .result import Finding, KernelFit, Verdict
from .statistics import NormalStats
from .task import Task
from .weighted_pass import Item, Weights, residual

#: The least variance that photon noise is given, relative to that of the mean prediction.
FLOOR = 0.01
_MOST_ROUNDS = 20
_MOST_REFINEMENTS = 3
#: A reweighted kernel has settled when it moves by no more than this many standard errors.
_SETTLED = 0.02
_MEDIAN_SAMPLE = 2**17
#: Quick steps before the exact rounds; the last moves by no more than so many standard errors.
_MOST_STEPS = 6
_NEAR = 0.05


@dataclass(frozen=True)
class Noise:
    """How the variance of a target pixel depends on its prediction: ``slope * prediction + constant``.

    Without a slope all pixels are equally noisy.
    """

    slope: float = 0.0
    constant: float = 1.0

    @classmethod
    def of(cls, noise: object) -> "Noise":
        """Return the model meant by what a user may write."""
        if isinstance(noise, str):
            geometry.known(noise, ("constant", "poisson"), "noise")
            return cls() if noise == "constant" else cls(1.0, 0.0)
        try:
            gain, read_noise = noise  # type: ignore[misc]
        except (TypeError, ValueError):
            gain = read_noise = None
        if not (isinstance(gain, numbers.Real) and isinstance(read_noise, numbers.Real)):
            msg = f"got noise={noise!r}, need 'constant', 'poisson' or a pair of numbers (gain, read_noise)"
            raise TypeError(msg)
        gain, read_noise = float(gain), float(read_noise)
        if not (0 < gain < math.inf and 0 <= read_noise < math.inf):
            msg = f"got noise={noise!r}, need a gain above 0 (electrons per unit) and a read noise of at least 0"
            raise ValueError(msg)
        return cls(1.0 / gain, (read_noise / gain) ** 2)

    def variance(self, prediction: Array, floor: float) -> Array:
        """Return the variance of pixels; `floor` is the least share of it that photons make."""
        return self.slope * np.maximum(prediction, floor) + self.constant


@dataclass(frozen=True, eq=False)
class _Solved:
    """A weighted fit in the making."""

    stats: NormalStats
    fit: KernelFit
    findings: tuple[Finding, ...] = ()
    iterations: int = 0
    refined: int = 0


@dataclass
class Engine:
    """Weighted fits of the same pairs with one set of weights after another.

    Parameters
    ----------
    method : str
        The engine of the unweighted statistics.
    pass_method : str
        That of weighted passes.
    workers : int
    tolerance : float or None
        As `iterate.solve` has it.
    progress : callable or None
    regime : str
        One of `weighted.REGIMES`.
    """

    method: str
    pass_method: str
    workers: int
    tolerance: float | None = None
    progress: Progress | None = None
    regime: str = "auto"
    _grams: tuple[Array, ...] | None = None

    def prepare(self, items: Sequence[Item]) -> None:
        """Read the images once, for whatever weights come later."""
        self._plain(items)

    def grams(self, items: Sequence[Item]) -> tuple[Array, ...]:
        """Return the unweighted Gram matrix of each pair."""
        return self._grams if self._grams is not None else self._plain(items)[0]

    def _plain(self, items: Sequence[Item]) -> tuple[tuple[Array, ...], Array]:
        """Read the pixels as if all counted the same; return the Gram matrix of each pair and the moment of all."""
        plain = [accumulation.statistics(i.problem, self.method, self.workers, self.progress)[0] for i in items]
        self._grams = tuple(stats.gram for stats in plain)
        return self._grams, np.asarray(np.sum([stats.moment for stats in plain], axis=0))

    def solve(self, items: Sequence[Item], start: Array | None = None) -> _Solved:
        """Fit the pairs with their weights."""
        weighted.require_determined(items)
        seen = weighted.survey(items)
        regime = self.regime
        if regime == "auto":
            n = sum(item.problem.geometry.n_pixels for item in items)
            shape = weighted.lines(items[0].problem)
            regime = weighted.choose_regime(n, shape, seen.subtract.nanoseconds, seen.patches.nanoseconds).method
        if regime == "patches":
            stats = weighted.accumulated(items, self.workers)
            return self._refined(items, self._described(stats, regime, seen), start)
        if regime == "iterate":
            grams = self._grams
            if grams is None:
                grams, plain = self._plain(items)
                if start is None and all(i.n_pixels == i.problem.geometry.n_pixels for i in items):
                    start = iterate.plain_solution(grams, plain)  # nothing is excluded: about as good
            sums = weighted.target_sums(items, self.workers)
            found = iterate.solve(
                items, grams, sums, self.pass_method, self.workers, self.tolerance, start, self.progress
            )
            return _Solved(found.stats, found.stats.solve(), found.findings, found.iterations)
        moment = None
        if self._grams is None:
            known = weighted.unweighted(items, self.method, self.workers, self.progress)
            self._grams, moment, sums = known.grams, known.moment, known.sums
        else:
            sums = weighted.target_sums(items, self.workers)
        gram = weighted.subtracted(items, self._grams, seen.usual)
        if moment is None:
            center = np.zeros(len(gram)) if start is None else start
            here = residual(items, center, self.pass_method, self.workers, self.progress)
            stats = weighted.assembled(items, gram, gram @ center + here.moment, sums)
            stats = stats.centered(center, here.moment, here.energy)
        else:
            stats = weighted.assembled(items, gram, moment, sums)
        return self._refined(items, self._described(stats, regime, seen), start)

    def _described(self, stats: NormalStats, regime: str, seen: weighted.Survey) -> NormalStats:
        return dataclasses.replace(stats, weighting=weighted.described(regime, seen))

    def _refined(self, items: Sequence[Item], stats: NormalStats, start: Array | None) -> _Solved:
        """Solve exact statistics, and refine the kernel against the pixels where rounding could matter."""
        solve.factor_ahead(stats)
        fit = stats.solve()
        refined = 0
        if solve.rounding_matters(stats, fit):
            while refined < _MOST_REFINEMENTS:
                before = fit.kernel
                here = residual(items, before.ravel(), self.pass_method, self.workers, self.progress)
                stats = stats.centered(before.ravel(), here.moment, here.energy)
                fit = stats.solve()
                refined += 1
                if np.linalg.norm(fit.kernel - before) <= 1e-6 * np.linalg.norm(fit.kernel):
                    break
        return _Solved(stats, fit, refined=refined)


def wanted(rules: Rules, noise: object, robust: object) -> str | None:
    """Name what makes a fit a weighted one, None if nothing does; refuse unknown names."""
    model = Noise.of(noise)
    geometry.known(robust, ROBUST, "robust")
    if model.slope and rules.weights is not None:
        msg = f"got weights= and noise={noise!r}, need one or the other: both say how noisy each pixel is"
        raise ValueError(msg)
    return rules.given() or ("noise=" if model.slope else None) or ("robust=" if robust is not None else None)


def judge(task: Task, group: int, rules: Rules, noise: object, robust: object) -> list[list[Judged]] | None:
    """Return the weights of the problems of a group, for each target; None if every pixel counts the same, and will."""
    problems = task.groups[group]
    n_channels = len(problems) // task.n_pairs
    found: list[list[Judged | None]] = []
    for t in range(len(problems[0].targets)):
        one = []
        for i, problem in enumerate(problems):
            channel = {None: None, "shared": i % n_channels, "separate": group, "mixed": t}[task.channels]
            single = dataclasses.replace(problem, targets=(problem.targets[t],))
            one.append(rules.judge(single, task, i // n_channels, channel))
        found.append(one)
    if robust is None and not Noise.of(noise).slope and all(j is None for one in found for j in one):
        return None
    return [
        [
            j or Judged(Item(dataclasses.replace(p, targets=(p.targets[t],)), np.ones(p.size, dtype=bool)), ())
            for j, p in zip(one, problems, strict=True)
        ]
        for t, one in enumerate(found)
    ]


def fits(
    judged: Sequence[Sequence[Judged]],
    choice: Choice,
    solver: "solve.Solver | None",
    workers: int,
    **settings: Any,
) -> list[KernelFit]:
    """Return the kernel of each target, as `fit` does."""
    return [fit(one, choice, solver, workers, **settings) for one in judged]


def fit(
    judged: Sequence[Judged],
    choice: Choice,
    solver: "solve.Solver | None",
    workers: int,
    *,
    noise: object = "constant",
    robust: str | None = None,
    tolerance: float | None = None,
    progress: Progress | None = None,
    regime: str = "auto",
) -> KernelFit:
    """Return the kernel that pairs share, each with its weights.

    Parameters
    ----------
    judged : sequence of Judged
        The pairs.
    choice : Choice
        The engine of the unweighted statistics.
    solver : solver or None
        What makes the kernel of the last statistics; None for least squares.
    workers : int
        Number of threads.
    noise, robust, tolerance, progress
        As in `find_kernel`.
    regime : {"auto", "subtract", "patches", "iterate"}, optional
        How the weights are taken into account; the default is what `weighted.choose_regime` says.

    Returns
    -------
    KernelFit
    """
    model = Noise.of(noise)
    geometry.known(regime, weighted.REGIMES, "regime")
    items = [j.item for j in judged]
    costs = weighted.pass_ns(weighted.lines(items[0].problem))
    pass_method = choice.method if choice.reason == "as asked" else min(costs, key=lambda name: costs[name])
    engine = Engine(choice.method, pass_method, workers, tolerance, progress, regime)
    notes = [note for j in judged for note in j.notes]
    conv = items[0].problem.geometry.convention
    if conv.boundary is not None and conv.mode != "valid":
        notes.append("the declared boundary was not held against the edges, since not all pixels count the same")
    findings: list[Finding] = []
    correction = 1.0
    if not model.slope and robust is None:
        found = engine.solve(items)
    else:
        found, items, correction, more, said = _reweighted(engine, items, model, robust)
        findings += more
        notes += said
    result = found.fit if solver is None else solver.solve(found.stats)
    if correction != 1.0 and result.factor is not None and result.uncertainty == "sampling":
        result = dataclasses.replace(result, factor=result.factor * correction, noise_std=result.noise_std * correction)
    findings = sorted(
        dict.fromkeys((*result.findings, *found.findings, *findings)), key=lambda f: list(Verdict).index(f.verdict)
    )
    weights = tuple(in_place(item) for item in items)
    iterated = found.stats.weighting.startswith("iterate")
    return dataclasses.replace(
        result,
        method=choice.method,
        method_reason=choice.reason,
        refined=found.refined,
        iterations=found.iterations,
        tolerance=(iterate.TOLERANCE if tolerance is None else tolerance) if iterated else 0.0,
        findings=tuple(findings),
        weighting=found.stats.weighting,
        notes=tuple(notes),
        weights=weights if len(weights) > 1 else weights[0],
    )


def in_place(item: Item) -> Weights:
    """Return the weights in an array of the target's shape, zero where no pixel is used."""
    plan = item.problem.geometry
    out: Weights = np.zeros(plan.target_shape, dtype=bool if item.weights.dtype == np.bool_ else np.float64)
    (row, col), (rows, cols) = plan.offset, plan.size
    out[row : row + rows, col : col + cols] = item.weights
    return out


def _reweighted(
    engine: Engine, items: Sequence[Item], model: Noise, robust: str | None
) -> tuple[_Solved, list[Item], float, list[Finding], list[str]]:
    """Weigh, fit and weigh again until the kernel settles."""
    engine.prepare(items)
    left = [np.empty(item.weights.shape) for item in items]
    if robust is None:
        taps = engine.solve(items).fit.kernel.ravel()
    else:
        taps = least_absolute(iterate.draw(items), _scaled(items, engine.grams(items)))
    scale, correction, rounds, settled = math.nan, 1.0, 0, False
    if robust is not None and not model.slope:
        taps, rounds = _approached(engine, items, robust, taps, left)
    while rounds < _MOST_ROUNDS and not settled:
        residual(items, taps, engine.pass_method, engine.workers, engine.progress, keep=left)
        current = list(items)
        if model.slope:
            floor = _floor(items, left)
            current = [_with_noise(item, r, model, floor) for item, r in zip(items, left, strict=True)]
        if robust is not None:
            standard = _standard(current, left)
            scale = _scale(standard)
            current = [_held_down(item, r, robust, scale) for item, r in zip(current, left, strict=True)]
        before = taps
        found = engine.solve(current, before)
        taps = found.fit.kernel.ravel()
        rounds += 1
        moved = float(np.linalg.norm(taps - before))
        settled = moved <= max(_SETTLED * float(np.linalg.norm(found.fit.stderr)), 1e-9 * float(np.linalg.norm(taps)))
    notes = [f"weights from the residual, {rounds} round{'' if rounds == 1 else 's'}"]
    if robust is not None:
        correction = correction_of(standard / scale, robust)
        share = float(np.mean(np.abs(standard) > TUNING[robust] * scale))
        what = "held down" if robust == "huber" else "excluded"
        notes.append(
            f"about {100 * share:.2g} % of the pixels {what}: residuals above {TUNING[robust]:g} times {scale:.4g}"
        )
    findings = [] if settled else [Finding(Verdict.NOT_CONVERGED, f"the weights had not settled after {rounds} rounds")]
    return found, current, correction, findings, notes


def _approached(
    engine: Engine, items: Sequence[Item], robust: str, taps: Array, left: list[Array]
) -> tuple[Array, int]:
    """Go near to where reweighting ends by quick steps; return the kernel and the number of steps.

    A step solves ``s A'A step = A'psi(r)``, where psi(r) is the residual as held down and s the mean of its derivative:
    Newton's method, were the outliers anywhere in the image alike (P. Huber and E. Ronchetti, "Robust Statistics",
    2nd ed., 2009, section 7.8). So all steps share one factor of the unweighted Gram matrix, and their error shrinks by
    about the root of taps over pixels each. Where it does not shrink, the rounds with exact weights go on.
    """
    gram = _scaled(items, engine.grams(items))
    inverse = (solve.own_factor(gram) or solve.cholesky_factor(gram) or solve.eigen_factor(gram))[0]
    size, last, steps = math.inf, taps, 0
    while steps < _MOST_STEPS:
        residual(items, taps, engine.pass_method, engine.workers, engine.progress, keep=left)
        standard = _standard(items, left)
        scale = _scale(standard)
        steep = float(np.mean(slope(np.abs(standard) / (TUNING[robust] * scale), robust)))
        if not steep > 0.1:
            break
        held = [_held_down(item, r, robust, scale) for item, r in zip(items, left, strict=True)]
        moment = residual(held, taps, engine.pass_method, engine.workers, engine.progress).moment
        step = solve.times(inverse, solve.times(inverse.T, moment)) / steep
        before, size = size, float(step @ moment)
        if not size < 0.25 * before:
            return (taps if size < before else last), steps
        last, taps = taps, taps + step
        steps += 1
        if size <= _NEAR**2 * steep * scale**2 * len(taps):
            break
    return taps, steps


def _scaled(items: Sequence[Item], grams: Sequence[Array]) -> Array:
    """Return the Gram matrix of pairs whose pixels all have the mean weight."""
    return np.asarray(np.sum([float(np.mean(i.weights)) * g for i, g in zip(items, grams, strict=True)], axis=0))


def _scale(standard: Array) -> float:
    """Return the standard deviation that most residuals have."""
    size = np.abs(standard)
    return max(1.4826 * float(np.median(size)), 1e-12 * float(size.max())) or 1.0


def _bands(item: Item, left: Array) -> Iterator[tuple[slice, Array]]:
    """Yield the rows of each band of a target, and its prediction there."""
    for row, height in patches.bands(left.shape, item.problem.geometry.kernel_shape):
        rows = slice(row, row + height)
        yield rows, item.problem.targets[0].block(row, 0, (height, left.shape[1])) - left[rows]


def _floor(items: Sequence[Item], left: Sequence[Array]) -> float:
    """Return the least prediction that photon noise is reckoned from."""
    total = n = 0.0
    for item, r in zip(items, left, strict=True):
        for rows, prediction in _bands(item, r):
            used = item.weights[rows] > 0
            total += float(np.sum(prediction, where=used))
            n += float(np.count_nonzero(used))
    mean = total / max(n, 1.0)
    if not mean > 0:
        msg = (
            f"got a target with photon noise whose mean prediction is {mean:.4g}, need counts, with a mean above 0; "
            "add the background that was subtracted, or leave noise='constant'"
        )
        raise ValueError(msg)
    return FLOOR * mean


def _with_noise(item: Item, left: Array, model: Noise, floor: float) -> Item:
    """Return the pair with weights that are the inverse of the variance of the prediction."""
    weights = np.empty(left.shape)
    for rows, prediction in _bands(item, left):
        np.divide(item.weights[rows], model.variance(prediction, floor), out=weights[rows])
    return dataclasses.replace(item, weights=weights)


def _standard(items: Sequence[Item], left: Sequence[Array]) -> Array:
    """Return residuals in units of a pixel of weight 1, of a sample of the pixels that have a weight."""
    parts = []
    for item, r in zip(items, left, strict=True):
        step = max(1, math.isqrt(r.size // _MEDIAN_SAMPLE))
        weights, values = item.weights[::step, ::step], r[::step, ::step]
        used = weights > 0
        parts.append(values[used] * np.sqrt(weights[used]))
    return np.concatenate(parts)


def _held_down(item: Item, left: Array, robust: str, scale: float) -> Item:
    """Return the pair with the weights of outliers taken down."""
    reach = TUNING[robust] * scale
    weights: Weights = np.empty(
        left.shape, dtype=bool if robust == "clip" and item.weights.dtype == np.bool_ else float
    )
    for row, height in patches.bands(left.shape, item.problem.geometry.kernel_shape):
        rows = slice(row, row + height)
        given = item.weights[rows]
        ratio = np.abs(left[rows]) * np.sqrt(given) / reach if given.dtype != np.bool_ else np.abs(left[rows]) / reach
        weights[rows] = given * factor(ratio, robust)
    return dataclasses.replace(item, weights=weights)
