"""Fits with weights, and fits whose weights come from the fit: noise that grows with the signal, and outliers.

Both are iteratively reweighted least squares: weights from the residual of the last kernel, a weighted fit, until the
kernel settles. Of complex images the modulus of a residual is judged, and its two parts have the same weight.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..core.findings import Finding, Verdict
from ..core.model import PixelVariance
from ..core.normal_equations import NormalEquations
from ..core.validation import Array
from ..data.observation import Items, WeightedObservation, Weights, halves
from ..engines import sampling, weighted_iteration
from ..engines.weighted_pass import residual
from ..solvers import cholesky, least_squares
from ..solvers.robust import TUNING, correction_of, enough, factor, least_absolute, robust_std, slope, tuning
from . import noise_model
from .implicit import ImplicitFitter, ImplicitlySolved
from .noise_model import BELIEVED, MOST_NOISE, Levels, with_noise
from .weighted_fitter import Solved, WeightedFitter

_MOST_ROUNDS = 20
#: A reweighted kernel has settled when it moves by no more than this many standard errors.
_SETTLED = 0.02
_MEDIAN_SAMPLE = 2**16
#: Times that weights are frozen, for the kernel of their own least squares, before other ways are tried.
_MOST_FROZEN = 3
#: The error of that kernel, in units of its standard error: the weights come from one that is off by more.
_ENOUGH = 1e-3
#: Quick steps before the exact rounds.
_MOST_STEPS = 6
#: So many standard errors from the end of Huber's criterion the next one may begin.
_NEAR = 0.3
#: So many standard errors between its kernel and Huber's are more than the noise makes.
_APART = 6.0
#: Pixels so many standard deviations off are as outliers are; so much larger a share of the brightest ones than of all
#: is not by chance (measured with true outliers: up to 0.03, in clumps 0.09). The brightest are one in a hundred, and
#: at least so many.
_FAR_OFF, _BRIGHT, _FEWEST = 4.0, 0.1, 50
#: The last quick step moves by no more than so many.
_QUICK = 0.05


class Fitter(Protocol):
    """Fits pairs with one set of weights after another, of whose pixels `items` are all or a sample."""

    @property
    def workers(self) -> int:
        """Number of threads."""

    @property
    def image_std(self) -> float:
        """Standard deviation of the noise of the image."""

    def begin(self, items: Items, *, robust: bool) -> tuple[Array, float]:
        """Return unknowns to begin with, and what the noise of the image adds to a pixel's variance there."""

    def residual(self, items: Items, at: Array, left: Sequence[Array]) -> None:
        """Put the residual at some unknowns into the arrays `left`."""

    def fit(
        self,
        seen: "Seen",
        start: Array,
        *,
        last: bool = True,
        even: bool = False,
        slopes: Sequence[Array] | None = None,
    ) -> Solved | ImplicitlySolved:
        """Fit with the weights of what was seen; as `WeightedFitter.solve`."""


@dataclass
class InMemory:
    """A fitter of pairs whose pixels are all in memory, and all of which the loop sees."""

    fitter: WeightedFitter | ImplicitFitter

    @property
    def workers(self) -> int:
        """Number of threads."""
        return self.fitter.workers

    @property
    def image_std(self) -> float:
        """Standard deviation of the noise of the image."""
        return self.fitter.image_std

    def begin(self, items: Items, *, robust: bool) -> tuple[Array, float]:
        """Return unknowns to begin with: of least squares, or of the least absolute residuals of a sample."""
        self.fitter.prepare(items)
        if not robust or isinstance(self.fitter, ImplicitFitter):
            begun = self.fitter.solve(items, last=False)
            return begun.unknowns, begun.image_variance
        sample = sampling.draw(items, 2 * enough(items[0].n_taps))
        return least_absolute(sample, weighted_iteration.Metric.whole(items, self.fitter.grams(items)).inverse), 0.0

    def residual(self, items: Items, at: Array, left: Sequence[Array]) -> None:
        """Put the residual at some unknowns into the arrays `left`."""
        residual(items, at, self.fitter.pass_method, self.workers, self.fitter.progress, keep=left)

    def fit(
        self,
        seen: "Seen",
        start: Array,
        *,
        last: bool = True,
        even: bool = False,
        slopes: Sequence[Array] | None = None,
    ) -> Solved | ImplicitlySolved:
        """Fit with the weights of what was seen."""
        return self.fitter.solve(seen.items, start, last=last, even=even, slopes=slopes)


def reweighted(
    fitter: Fitter, items: Items, model: PixelVariance, robust: str | None
) -> "tuple[Solved | ImplicitlySolved, Seen, list[Finding], list[str]]":
    """Weigh, fit and weigh again until the kernel settles."""
    # Huber's criterion comes first, whatever is asked for: it is convex, so that its end does not depend on the start.
    # The others have minima at which pixels of much leverage are thrown out wrongly and never seen again; where there
    # may be such pixels, as quick steps do not do, the criterion asked for is drawn in by halves.
    levels, moduli = Levels.of(items, model, fitter.workers), _moduli(items)
    left = [np.empty(item.weights.shape) for item in items]
    if robust is None and not moduli and isinstance(fitter, InMemory) and isinstance(fitter.fitter, WeightedFitter):
        done = _followed(fitter.fitter, items, model, levels, left)
        if done is not None:
            return *done[:2], [], [f"weights from the residual, {done[2]} passes"]
    at, variance = fitter.begin(items, robust=robust is not None)  # the latter of a prediction, for the image's noise
    begin, n_taps, rounds, scale, first, noisy = at, items[0].n_taps, 0, 0.0, None, 1.0
    stages = [(robust, 1.0)] if robust in (None, "huber") else [("huber", 1.0), (robust, 1.0)]
    while stages:
        (criterion, widened), *stages = stages
        near = _NEAR if stages else _SETTLED
        moved, settled, tries, stride, even = math.inf, False, 0, 1.0, False
        quick = criterion is not None and widened == 1.0 and not (model.slope or fitter.image_std or moduli)
        inner = fitter.fitter if isinstance(fitter, InMemory) else None
        if quick and criterion is not None and isinstance(inner, WeightedFitter):
            at, scale, steps, even = _approached(inner, items, criterion, at, left, scale, levels.rounding)
            rounds += steps
            settled = even and bool(stages)
        if stages and not settled and criterion == "huber":
            stages = [(robust, 4.0), (robust, 2.0), (robust, 1.0)]
        while tries < _MOST_ROUNDS and not settled:
            fitter.residual(items, at, left)
            seen = _seen(items, left, model.beside(variance), criterion, widened, levels, noisy)
            noisy = min(max(seen.scale, 1.0), MOST_NOISE)
            slopes = _slopes(seen, _sizes(items, left), criterion) if fitter.image_std and criterion else None
            found = fitter.fit(seen, at, last=False, even=even, slopes=slopes)
            variance = found.image_variance
            kernel, last_move = found.unknowns[:n_taps], moved
            moved = float(np.linalg.norm(kernel - at[:n_taps]))
            if model.slope and not moved < 0.9 * last_move:  # a step too far: less of it goes further
                stride = max(0.5 * stride, 0.125)
            at = at + stride * (found.unknowns - at)
            tries += 1
            ratio = min(max(moved / last_move, 0.5), 0.95) if last_move > 0 else 0.5
            rest = moved * ratio / (1 - ratio)  # were the moves to go on shrinking as the last; the first tells nothing
            for final in (False, True):
                error = seen.correction * float(np.linalg.norm(found.solution.stderr))
                settled = rest <= max(near * error, 1e-9 * float(np.linalg.norm(kernel)))
                at_end = not stages and (settled or tries == _MOST_ROUNDS)
                if final or even or not at_end or not found.strategy == "iterate":
                    break
                # from the solution itself nothing is learned of the errors
                found = fitter.fit(seen, found.unknowns if isinstance(found, Solved) and found.near else begin)
                kernel = found.unknowns[:n_taps]
        rounds += tries
        first = at[:n_taps] if first is None else first
    notes = [f"weights from the residual, {rounds} round{'' if rounds == 1 else 's'}"]
    findings = [] if settled else [Finding(Verdict.NOT_CONVERGED, f"the weights had not settled after {rounds} rounds")]
    if robust is not None:
        constant = tuning(robust, moduli=moduli)
        share = float(np.mean(np.abs(seen.standard) > constant * seen.scale))
        whole = math.sqrt(2.0) if moduli else 1.0  # of a complex number its standard deviation is that of both parts
        what = "held down" if robust == "huber" else "excluded"
        notes.append(
            f"about {100 * share:.2g} % of the pixels {what}: residuals above {constant / whole:.4g} times "
            f"{whole * seen.scale:.4g}"
        )
        details = []
        apart = 0.0 if first is None else float(np.linalg.norm(kernel - first))
        if apart > max(_APART * error, 1e-6 * float(np.linalg.norm(kernel))):
            details.append(
                f"{apart / max(error, 1e-300):.2g} standard errors lie between this kernel and that of robust='huber'"
            )
        bright, every, chance = _far_off(seen, left)
        if bright > every + max(_BRIGHT, 5 * chance):
            details.append(
                f"{100 * bright:.0f} % of the brightest pixels were taken for outliers, {100 * every:.2g} % of all"
            )
        if details:
            findings.append(Finding(Verdict.OUTLIERS_DECIDE, ", and ".join(details)))
    return found, seen, findings, notes


def _followed(
    fitter: WeightedFitter, items: Items, model: PixelVariance, levels: Levels, left: list[Array]
) -> "tuple[Solved, Seen, int] | None":
    """Weigh by the prediction and fit, by passes that do both; None if that is dearer, or does not settle."""

    def noise_of(current: Items, left: Sequence[Array]) -> float:
        return min(max(_scale(_standard(current, left), levels.rounding), 1.0), MOST_NOISE)

    begun = noise_model.follow(fitter, items, model, levels, left, noise_of)
    if begun is None:
        return None
    at, passes = begun.at, begun.passes
    for _ in range(_MOST_FROZEN):
        here = fitter.engine.residual(items, at, left, begun.hold)
        seen = _seen(items, left, model, None, 1.0, levels, begun.noise)
        found, converged = fitter.walked(seen.items, begun.metric, at, here, patient=False, enough=_ENOUGH)
        passes += 1 + found.iterations
        n_taps, before, at = items[0].n_taps, at, found.unknowns
        moved, error = np.linalg.norm((at - before)[:n_taps]), np.linalg.norm(found.solution.stderr)
        if not converged:
            return None
        if moved <= max(_SETTLED * error, 1e-9 * np.linalg.norm(at[:n_taps])):
            return found, seen, passes
    return None


def corrected(found: Solved, correction: float) -> NormalEquations:
    """Return the equations of a robust fit with a residual that has the variance of its criterion, outliers and all."""
    if correction == 1.0:
        return found.stats
    moment, energy = least_squares.residual_at(found.stats, found.solution.taps)
    return found.stats.centered(found.solution.taps, moment, correction**2 * energy)


@dataclass(frozen=True)
class Weighting:
    """How a residual weighs a pixel: by the noise of its prediction, and by a criterion of some reach."""

    model: PixelVariance
    floor: float
    apart: float
    criterion: str | None = None
    reach: float = math.inf

    def by_noise(self, item: WeightedObservation, left: Array) -> WeightedObservation:
        """Return a pair with the weights of its noise, no outlier held down."""
        return with_noise(item, left, self.model, self.floor, self.apart) if self.model.slope else item

    def held(self, item: WeightedObservation, left: Array) -> WeightedObservation:
        """Return such a pair with its outliers held down."""
        if self.criterion is None:
            return item
        return dataclasses.replace(item, weights=_held_down(left, item.weights, self.criterion, self.reach))


@dataclass(frozen=True, eq=False)
class Seen:
    """What a residual makes of the weights."""

    items: list[WeightedObservation]  # the pairs with their new weights
    all_in: list[WeightedObservation]  # the same with no outlier held down, to which the sample belongs
    standard: Array  # a sample of the residual, in units of a pixel of weight 1
    scale: float  # its standard deviation, outliers left aside
    weighting: Weighting  # how the weights follow from the residual, for other pixels too
    correction: float = 1.0  # as `robust.correction_of`; 1 without a criterion

    @property
    def outlier(self) -> float:
        """The residual from which on outliers begin."""
        criterion = self.weighting.criterion
        return math.inf if criterion is None else tuning(criterion, moduli=_moduli(self.items)) * self.scale


def _moduli(items: Items) -> bool:
    """Say whether items are the real and the imaginary parts of complex ones, in pairs."""
    return items[0].observation.geometry.convention.apart


def _sizes(items: Items, left: Sequence[Array]) -> list[Array]:
    """Return residuals by which pixels are judged; of complex ones their moduli, for either part."""
    if not _moduli(items):
        return list(left)
    sizes = list(left)
    for re, im in _both(items):
        sizes[re] = sizes[im] = np.hypot(left[re], left[im])
    return sizes


def _both(items: Items) -> list[tuple[int, int]]:
    """Return which items are the real and the imaginary parts of the same pixels."""
    every = halves([item.observation for item in items])
    return [both for lots in every for both in zip(*lots, strict=True)]


def _seen(
    items: Items,
    left: Sequence[Array],
    model: PixelVariance,
    criterion: str | None,
    widened: float,
    levels: Levels,
    noisy: float,
) -> Seen:
    """Weigh pairs by their residual: by the noise of their prediction, and by a criterion of so wide a reach."""
    weighting = Weighting(model, levels.floor, noisy * BELIEVED)
    current = [weighting.by_noise(item, r) for item, r in zip(items, left, strict=True)]
    sizes, moduli = _sizes(items, left), _moduli(items)
    standard = _standard(current, sizes)
    scale = _scale(standard, levels.rounding, moduli=moduli)
    if criterion is None:
        return Seen(current, current, standard, scale, weighting)
    weighting = dataclasses.replace(
        weighting, criterion=criterion, reach=widened * tuning(criterion, moduli=moduli) * scale
    )
    held = [weighting.held(item, r) for item, r in zip(current, sizes, strict=True)]
    correction = correction_of(standard / (widened * scale), criterion, moduli=moduli)
    return Seen(held, current, standard, scale, weighting, correction)


def _slopes(seen: Seen, sizes: Sequence[Array], criterion: str) -> list[Array]:
    """Return the derivative of the residual as weighed and held down."""
    moduli, reach = _moduli(seen.items), seen.weighting.reach
    return [
        item.weights * slope(np.abs(r) * np.sqrt(item.weights) / reach, criterion, moduli=moduli)
        for item, r in zip(seen.all_in, sizes, strict=True)
    ]


def _approached(
    fitter: WeightedFitter, items: Items, robust: str, at: Array, left: list[Array], scale: float, rounding: float
) -> tuple[Array, float, int, bool]:
    """Go near to where reweighting ends by quick steps; return the unknowns, scale, number of steps, and success."""
    # A step solves ``s A'A step = A'psi(r)``, where psi(r) is the residual as held down and s the mean of its
    # derivative: Newton's method, were the outliers anywhere in the image alike (P. Huber and E. Ronchetti, "Robust
    # Statistics", 2nd ed., 2009, section 7.8). So all steps share one factor of the unweighted Gram matrix, and their
    # error shrinks by about the root of taps over pixels each. Where it does not shrink, the rounds with exact weights
    # go on.
    inverse = weighted_iteration.Metric.whole(items, fitter.grams(items)).inverse
    size, last, steps = math.inf, at, 0
    if not scale:
        residual(items, at, fitter.pass_method, fitter.workers, fitter.progress, keep=left)
        scale = _scale(_standard(items, left), rounding)
    while steps < _MOST_STEPS:
        # with the scale of the last residual, so that one pass does
        hold = functools.partial(_held, criterion=robust, reach=TUNING[robust] * scale)
        moment = residual(items, at, fitter.pass_method, fitter.workers, fitter.progress, left, hold).moment
        standard = _standard(items, left)
        steep = float(np.mean(slope(np.abs(standard) / (TUNING[robust] * scale), robust)))
        scale = _scale(standard, rounding)
        if not steep > 0.1:
            break
        step = cholesky.times(inverse, cholesky.times(inverse.T, moment)) / steep
        before, size = size, float(step @ moment)
        if not size < 0.25 * before:
            return (at if size < before else last), scale, steps, False
        last, at = at, at + step
        steps += 1
        if size <= _QUICK**2 * steep * scale**2 * len(at):
            return at, scale, steps, True
    return at, scale, steps, False


def _held(left: Array, weights: Weights, _: Array, *, criterion: str, reach: float) -> Weights:
    """Return weights as `_held_down` does, within a pass."""
    return _held_down(left, weights, criterion, reach)


def _scale(standard: Array, rounding: float, *, moduli: bool = False) -> float:
    """Return the standard deviation that most residuals have, that of rounding at least."""
    return max(robust_std(standard, moduli=moduli), 1e-12 * float(np.abs(standard).max()), rounding) or 1.0


def _far_off(seen: Seen, left: Sequence[Array]) -> tuple[float, float, float]:
    """Return which share of the brightest pixels, with its deviation, and of all lie as far off as outliers do."""
    # True outliers are as frequent in the one as in the other; photon noise, or a kernel that cannot follow, is not.
    # Brightest are those of the largest predictions.
    parts = []
    for item, r in zip(seen.all_in, left, strict=True):
        step = max(1, math.isqrt(r.size // _MEDIAN_SAMPLE))
        rows = (item.observation.targets[0].block(row, 0, (1, r.shape[1])) for row in range(0, len(r), step))
        target = np.concatenate([row[:, ::step] for row in rows])
        parts.append((target - r[::step, ::step])[item.weights[::step, ::step] > 0])
    if _moduli(seen.items):
        parts = [np.hypot(parts[re], parts[im]) for re, im in _both(seen.items)]
    # in single precision, or where predictions are alike the rounding of large residuals would tell them apart
    prediction = np.concatenate(parts).astype(np.float32)
    n = min(len(prediction), max(_FEWEST, len(prediction) // 100))
    far = np.abs(seen.standard) > _FAR_OFF * seen.scale
    bright, every = far[prediction >= np.partition(prediction, -n)[-n]], float(np.mean(far))
    return float(np.mean(bright)), every, math.sqrt(every / len(bright))


def _standard(items: Items, left: Sequence[Array]) -> Array:
    """Return residuals in units of a pixel of weight 1, of a sample of the pixels that have a weight."""
    parts = []
    every = [re for re, _ in _both(items)] if _moduli(items) else range(len(items))  # moduli stand there twice
    for item, r in ((items[i], left[i]) for i in every):
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
