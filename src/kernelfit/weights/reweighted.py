"""Fits with weights, and fits whose weights come from the fit: noise that grows with the signal, and outliers.

Both are iteratively reweighted least squares: weights from the residual of the last kernel, a weighted fit, until the
kernel settles.
"""

import dataclasses
import functools
import math
import numbers
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import geometry
from ..checks import noise as noise_check
from ..checks.sandwich import with_scores
from ..exact import joint
from ..exact.background import Elimination
from ..exact.choice import Choice
from ..exact.engines import Progress
from ..pair import Array
from ..result import KernelFit
from ..solvers import solve
from ..solvers.image_noise import counts_of, finish, pairs_of, shared, take_off
from ..statistics import NormalStats
from ..task import Task
from ..verdict import Finding, Verdict
from . import iterate, patches, weighted
from .masks import Judged, Rules, Unsaturated
from .outliers import ROBUST, TUNING, correction_of, enough, factor, least_absolute, slope
from .weighted_pass import Item, Residual, Weights, residual, together

#: The least variance that photon noise is given, relative to that of the mean prediction.
FLOOR = 0.01
_MOST_ROUNDS = 20
_MOST_REFINEMENTS = 3
#: A reweighted kernel has settled when it moves by no more than this many standard errors.
_SETTLED = 0.02
_MEDIAN_SAMPLE = 2**16
#: Pixels up to which a result keeps the weights where saturated pixels alone were left out.
MOST_KEPT = 2**24
#: Quick steps before the exact rounds.
_MOST_STEPS = 6
#: So many standard errors from the end of Huber's criterion the next one may begin.
_NEAR = 0.3
#: So many standard errors between its kernel and Huber's are more than the noise makes.
_APART = 6.0
#: The last quick step moves by no more than so many.
_QUICK = 0.05


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
    """A weighted fit in the making: statistics, the least-squares fit, and what gives the backgrounds."""

    stats: NormalStats
    fit: KernelFit
    eliminations: tuple[Elimination, ...] = ()
    findings: tuple[Finding, ...] = ()
    iterations: int = 0
    refined: int = 0

    @property
    def unknowns(self) -> Array:
        """The kernel of least squares and the coefficients beside it."""
        taps = self.fit.kernel.ravel()
        return np.concatenate([taps, *(e.coefficients_at(taps[None])[0] for e in self.eliminations)])


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
        One of `weighted.REGIMES`, or "exact" for the cheaper one of the two that are.
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
        """Return the unweighted Gram matrix of each pair, over its unknowns."""
        return self._grams if self._grams is not None else self._plain(items)[0]

    def _plain(self, items: Sequence[Item]) -> tuple[tuple[Array, ...], Array]:
        """Read the pixels as if all counted the same; return the Gram matrix of each pair and the moment of all."""
        plain = [weighted.alike(item, self.method, self.workers, self.progress) for item in items]
        self._grams = tuple(gram for gram, _ in plain)
        return self._grams, together(items, [moment for _, moment in plain])

    def solve(self, items: Sequence[Item], start: Array | None = None, *, even: bool = False) -> _Solved:
        """Fit the pairs with their weights, which are known not to follow the images if they are `even`."""
        weighted.require_determined(items)
        seen = weighted.survey(items)
        regime = self.regime
        if regime in ("auto", "exact"):
            n = sum(item.problem.geometry.n_pixels for item in items)
            costs = seen.subtract.nanoseconds, seen.patches.nanoseconds
            shape = weighted.lines(items[0].problem)
            quick = 0.0 if even else weighted.EXACT_IS_QUICK
            regime = weighted.choose_regime(n, shape, *costs, quick, exact=regime == "exact").method
        if regime == "patches":
            return self._refined(items, *weighted.accumulated(items, self.workers), weighted.described(regime, seen))
        if regime == "iterate":
            origin: Residual | None = None
            if self._grams is None and start is None and all(i.n_pixels == i.problem.geometry.n_pixels for i in items):
                grams, plain = self._plain(items)  # nothing is excluded: what they say is about as good
                start = iterate.solution(together(items, grams), plain)
            if self._grams is None:
                known = weighted.unweighted(items, self.method, self.workers, self.progress)
                self._grams, sums = known.grams, known.sums
                origin = Residual(known.moment, sums.energy) if start is None else None
            else:
                sums = weighted.target_sums(items, self.workers)
            settings = self.pass_method, self.workers, self.tolerance, start, self.progress, origin
            found = iterate.solve(items, self._grams, sums, *settings, even=even)
            solve.factor_ahead(found.stats)
            return _Solved(found.stats, found.stats.solve(), found.eliminations, found.findings, found.iterations)
        moment = here = None
        if self._grams is None:
            known = weighted.unweighted(items, self.method, self.workers, self.progress)
            self._grams, moment, sums = known.grams, known.moment, known.sums
        else:
            sums = weighted.target_sums(items, self.workers)
        gram = weighted.subtracted(items, self._grams, seen.usual, self.workers)
        if moment is None:
            center = np.zeros(len(gram)) if start is None else start
            here = center, residual(items, center, self.pass_method, self.workers, self.progress)
            moment = gram @ center + here[1].moment
        return self._refined(items, gram, moment, sums, weighted.described(regime, seen), here)

    def _refined(
        self,
        items: Sequence[Item],
        gram: Array,
        moment: Array,
        sums: weighted.TargetSums,
        described: str,
        here: tuple[Array, Residual] | None = None,
    ) -> _Solved:
        """Solve exact statistics, and refine the kernel against the pixels where rounding could matter."""
        stats, eliminations = weighted.assembled(items, gram, moment, sums)
        if here is not None:
            stats = weighted.recentered(items, stats, eliminations, *here)
        stats = dataclasses.replace(stats, weighting=described)
        solve.factor_ahead(stats)
        found = _Solved(stats, stats.solve(), eliminations)
        trace = float(np.trace(gram[: items[0].n_taps, : items[0].n_taps])) if eliminations else None
        if solve.rounding_matters(stats, found.fit, trace, sums.energy):
            while found.refined < _MOST_REFINEMENTS:
                before, at = found.fit.kernel, found.unknowns
                left = residual(items, at, self.pass_method, self.workers, self.progress)
                stats = weighted.recentered(items, stats, eliminations, at, left)
                found = _Solved(stats, stats.solve(), eliminations, refined=found.refined + 1)
                if np.linalg.norm(found.fit.kernel - before) <= 1e-6 * np.linalg.norm(found.fit.kernel):
                    break
        return found


def wanted(rules: Rules, noise: object, robust: object) -> str | None:
    """Name what makes a fit a weighted one, None if nothing does; refuse unknown names."""
    model = Noise.of(noise)
    geometry.known(robust, ROBUST, "robust")
    if model.slope and rules.weights is not None:
        msg = f"got weights= and noise={noise!r}, need one or the other: both say how noisy each pixel is"
        raise ValueError(msg)
    return rules.given() or ("noise=" if model.slope else None) or ("robust=" if robust is not None else None)


def uneven(rules: Rules, noise: object, robust: object) -> str | None:
    """Name what lets some pixels count more than others that count as well, None if nothing does."""
    if robust is not None:
        return "robust="
    return "noise=" if Noise.of(noise).slope else "weights=" if rules.weights is not None else None


def judge(task: Task, group: int, rules: Rules, noise: object, robust: object) -> list[list[Judged]] | None:
    """Return the weights of the problems of a group, for each target; None if every pixel counts the same, and will."""
    problems = task.groups[group]
    found: list[list[Judged | None]] = []
    for t in range(len(problems[0].targets)):
        one = []
        for i, problem in enumerate(problems):
            single = dataclasses.replace(problem, targets=(problem.targets[t],))
            one.append(rules.judge(single, task, *task.place(group, t, i)))
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
    image_noise: float = 0.0,
    errors: str = "plain",
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
    noise, robust, tolerance, progress, image_noise, errors
        As in `find_kernel`; with `image_noise` the weights are those of a mask.
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
    # the image's noise changes the kernel through the Gram matrix, which then must be exact
    regime = "exact" if image_noise and regime == "auto" else regime
    engine = Engine(choice.method, pass_method, workers, tolerance, progress, regime)
    notes = [note for j in judged for note in j.notes]
    conv = items[0].problem.geometry.convention
    findings: list[Finding] = []
    correction, most = 1.0, math.inf
    if not model.slope and robust is None:
        found = engine.solve(items)
    else:
        found, seen, more, said = _reweighted(engine, items, model, robust)
        items, correction = seen.items, seen.correction
        most = math.inf if robust is None else TUNING[robust] * seen.scale
        findings += more
        notes += said
    stats = found.stats
    if correction != 1.0:  # the residual that has the variance of the criterion, outliers and all
        taps = found.fit.kernel.ravel()
        moment, energy = solve.residual_at(stats, taps)
        stats = stats.centered(taps, moment, correction**2 * energy)
    result = _with_errors(items, stats, solver, workers, image_noise, errors)
    findings = sorted(
        dict.fromkeys((*result.findings, *found.findings, *findings)), key=lambda f: list(Verdict).index(f.verdict)
    )
    large = sum(item.problem.geometry.n_pixels for item in items) > MOST_KEPT
    told = large and all(isinstance(item.weights, Unsaturated) for item in items)  # from the targets themselves
    weights = None if told else tuple(in_place(item) for item in items)
    if conv.boundary is not None and conv.mode != "valid" and (told or robust is not None):
        why = "their weights not being kept" if told else "their outliers being held down"
        notes.append(f"the declared boundary was not held against the edges, {why}")
    iterated = found.stats.weighting.startswith("iterate")
    if found.eliminations:
        n_pixels = sum(item.n_pixels for item in items)
        (result,) = joint.with_background([result], [i.problem for i in items], found.eliminations, n_pixels)
    result = dataclasses.replace(
        result,
        method=choice.method,
        method_reason=choice.reason,
        refined=found.refined,
        iterations=found.iterations,
        tolerance=(iterate.TOLERANCE if tolerance is None else tolerance) if iterated else 0.0,
        findings=tuple(findings),
        weighting=found.stats.weighting,
        notes=tuple(notes),
        weights=weights[0] if weights is not None and len(weights) == 1 else weights,
    )
    if errors == "sandwich":
        return result
    weighed = [item.weights for item in items]
    return noise_check.look(
        [item.problem for item in items], result, weighed, most=most, declared=bool(model.slope) and robust is None
    )


def _with_errors(
    items: Sequence[Item],
    stats: NormalStats,
    solver: "solve.Solver | None",
    workers: int,
    image_noise: float,
    errors: str,
) -> KernelFit:
    """Return the solver's fit, with the image's noise taken off and the errors asked for."""
    observed, share, more = stats.gram, 1.0, None
    if image_noise:
        masks = [(i.problem.geometry, np.asarray(i.weights[:], dtype=bool)) for i in items]
        stats, share = take_off(stats, image_noise, np.sum([counts_of(p, m) for p, m in masks], axis=0))
    fit = stats.solve(solver)
    if image_noise:
        more = shared(fit, math.sqrt(share) * image_noise, np.sum([pairs_of(m, p) for p, m in masks], axis=0))
    if errors == "sandwich":
        problems, weights = [i.problem for i in items], [i.weights for i in items]
        check = noise_check.examine(problems, fit, weights)
        fit = noise_check.correct(problems, fit, check, workers, stats.gram, more, weights)
    elif more is not None:
        fit = with_scores(fit, stats.gram, fit.noise_std**2 * observed + more)
    return finish(fit, image_noise, share) if image_noise else fit


def in_place(item: Item) -> Weights:
    """Return the weights in an array of the target's shape, zero where no pixel is used."""
    plan = item.problem.geometry
    out: Weights = np.zeros(plan.target_shape, dtype=bool if item.weights.dtype == np.bool_ else np.float64)
    (row, col), (rows, cols) = plan.offset, plan.size
    out[row : row + rows, col : col + cols] = item.weights
    return out


def _reweighted(
    engine: Engine, items: Sequence[Item], model: Noise, robust: str | None
) -> "tuple[_Solved, _Seen, list[Finding], list[str]]":
    """Weigh, fit and weigh again until the kernel settles.

    Huber's criterion comes first, whatever is asked for: it is convex, so that its end does not depend on the start.
    The others have minima at which pixels of much leverage are thrown out wrongly and never seen again; where there may
    be such pixels, as quick steps do not do, the criterion asked for is drawn in by halves.
    """
    engine.prepare(items)
    left = [np.empty(item.weights.shape) for item in items]
    if robust is None:
        at = engine.solve(items).unknowns
    else:
        sample = iterate.draw(items, 2 * enough(items[0].n_taps))
        at = least_absolute(sample, iterate.Metric.whole(items, engine.grams(items)).inverse)
    n_taps, rounds, scale, first = items[0].n_taps, 0, 0.0, None
    stages = [(robust, 1.0)] if robust in (None, "huber") else [("huber", 1.0), (robust, 1.0)]
    while stages:
        (criterion, widened), *stages = stages
        near = _NEAR if stages else _SETTLED
        moved, settled, tries, even = math.inf, False, 0, False
        if criterion is not None and widened == 1.0 and not model.slope:
            at, scale, steps, even = _approached(engine, items, criterion, at, left, scale)
            rounds += steps
            settled = even and bool(stages)
        if stages and not settled and criterion == "huber":
            stages = [(robust, 4.0), (robust, 2.0), (robust, 1.0)]
        while tries < _MOST_ROUNDS and not settled:
            residual(items, at, engine.pass_method, engine.workers, engine.progress, keep=left)
            seen = _seen(items, left, model, criterion, widened)
            found = engine.solve(seen.items, at, even=even)
            kernel, last_move = found.unknowns[:n_taps], moved
            moved = float(np.linalg.norm(kernel - at[:n_taps]))
            at = found.unknowns
            tries += 1
            ratio = min(max(moved / last_move, 0.5), 0.95) if last_move > 0 else 0.5
            rest = moved * ratio / (1 - ratio)  # were the moves to go on shrinking as the last; the first tells nothing
            error = seen.correction * float(np.linalg.norm(found.fit.stderr))
            settled = rest <= max(near * error, 1e-9 * float(np.linalg.norm(kernel)))
        rounds += tries
        first = at[:n_taps] if first is None else first
    notes = [f"weights from the residual, {rounds} round{'' if rounds == 1 else 's'}"]
    findings = [] if settled else [Finding(Verdict.NOT_CONVERGED, f"the weights had not settled after {rounds} rounds")]
    if robust is not None:
        reach = TUNING[robust] * seen.scale
        share = float(np.mean(np.abs(seen.standard) > reach))
        what = "held down" if robust == "huber" else "excluded"
        notes.append(
            f"about {100 * share:.2g} % of the pixels {what}: residuals above {TUNING[robust]:g} times {seen.scale:.4g}"
        )
        apart = 0.0 if first is None else float(np.linalg.norm(kernel - first))
        if apart > max(_APART * error, 1e-6 * float(np.linalg.norm(kernel))):
            detail = (
                f"{apart / max(error, 1e-300):.2g} standard errors lie between this kernel and that of robust='huber'"
            )
            findings.append(Finding(Verdict.OUTLIERS_DECIDE, detail))
    return found, seen, findings, notes


@dataclass(frozen=True, eq=False)
class _Seen:
    """What a residual makes of the weights.

    Attributes
    ----------
    items : list of Item
        The pairs with their new weights.
    standard : ndarray
        A sample of the residual, in units of a pixel of weight 1.
    scale : float
        Its standard deviation, outliers left aside.
    correction : float
        As `outliers.correction_of`; 1 without a criterion.
    """

    items: list[Item]
    standard: Array
    scale: float = math.nan
    correction: float = 1.0


def _seen(items: Sequence[Item], left: Sequence[Array], model: Noise, criterion: str | None, widened: float) -> _Seen:
    """Weigh pairs by their residual: by the noise of their prediction, and by a criterion of so wide a reach."""
    current = list(items)
    if model.slope:
        floor = _floor(items, left)
        current = [_with_noise(item, r, model, floor) for item, r in zip(items, left, strict=True)]
    standard = _standard(current, left)
    if criterion is None:
        return _Seen(current, standard)
    scale = _scale(standard)
    reach = widened * TUNING[criterion] * scale
    held = [
        dataclasses.replace(item, weights=_held_down(r, item.weights, criterion, reach))
        for item, r in zip(current, left, strict=True)
    ]
    return _Seen(held, standard, scale, correction_of(standard / (widened * scale), criterion))


def _approached(
    engine: Engine, items: Sequence[Item], robust: str, at: Array, left: list[Array], scale: float
) -> tuple[Array, float, int, bool]:
    """Go near to where reweighting ends by quick steps; return the unknowns, scale, number of steps, and success.

    A step solves ``s A'A step = A'psi(r)``, where psi(r) is the residual as held down and s the mean of its derivative:
    Newton's method, were the outliers anywhere in the image alike (P. Huber and E. Ronchetti, "Robust Statistics",
    2nd ed., 2009, section 7.8). So all steps share one factor of the unweighted Gram matrix, and their error shrinks by
    about the root of taps over pixels each. Where it does not shrink, the rounds with exact weights go on.
    """
    inverse = iterate.Metric.whole(items, engine.grams(items)).inverse
    size, last, steps = math.inf, at, 0
    if not scale:
        residual(items, at, engine.pass_method, engine.workers, engine.progress, keep=left)
        scale = _scale(_standard(items, left))
    while steps < _MOST_STEPS:
        # with the scale of the last residual, so that one pass does
        hold = functools.partial(_held_down, criterion=robust, reach=TUNING[robust] * scale)
        moment = residual(items, at, engine.pass_method, engine.workers, engine.progress, left, hold).moment
        standard = _standard(items, left)
        steep = float(np.mean(slope(np.abs(standard) / (TUNING[robust] * scale), robust)))
        scale = _scale(standard)
        if not steep > 0.1:
            break
        step = solve.times(inverse, solve.times(inverse.T, moment)) / steep
        before, size = size, float(step @ moment)
        if not size < 0.25 * before:
            return (at if size < before else last), scale, steps, False
        last, at = at, at + step
        steps += 1
        if size <= _QUICK**2 * steep * scale**2 * len(at):
            return at, scale, steps, True
    return at, scale, steps, False


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


def _held_down(left: Array, weights: Weights, criterion: str, reach: float) -> Weights:
    """Return weights with those of outliers taken down, residuals above a reach."""
    held: Weights = np.empty(left.shape, dtype=bool if criterion == "clip" and weights.dtype == np.bool_ else float)
    step = max(1, 2**16 // left.shape[1])  # rows that stay in the cache
    for row in range(0, len(left), step):
        rows = slice(row, row + step)
        ratio = np.abs(left[rows])
        if weights.dtype != np.bool_:
            ratio *= np.sqrt(weights[rows])
        ratio /= reach
        held[rows] = weights[rows] * factor(ratio, criterion)
    return held
