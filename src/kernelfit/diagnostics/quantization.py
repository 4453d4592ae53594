"""Targets that were rounded: the noise that this adds, and values that ran over the end of an integer type."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from ..core.estimate import Estimate, with_finding
from ..core.findings import Finding, Verdict, ranked
from ..core.validation import Array
from ..data.observation import Observation, WeightedObservation, Weights, of_target
from ..data.volumes import sampled
from ..engines.sampling import draw
from ..solvers import least_squares
from ..solvers.robust import least_absolute
from . import score_covariance, tiles, whiteness
from .rounding import alike_where_flat, possible, scatter

#: Variance of the error of rounding to integers, which is uniform between -1/2 and 1/2.
ROUNDING = 1 / 12
#: Noise up to so many times that of rounding is nothing else; that of a filter that rounds half way goes up to so many.
ALONE, HALF_WAY = 1.1, 3.0
#: A residual of so many gray levels is no error of rounding, nor what errors of the kernel make of it; nor of a filter
#: that rounds half way.
_LARGEST = 2.0, 8.0
#: Noise from so many times that of rounding on makes its errors random.
_RANDOM = 2.0
#: Errors that are so many times those of random ones, and such a share of the kernel, leave combinations of taps open.
_OPEN = 10.0, 0.2
#: Pixels up to which all of them are asked whether they are.
_WHOLE = 2**17
#: Pixels that tell what correlated noise does to a kernel, at least, and for each tap; noise so many times as loud at
#: some frequency as in the mean is no rounding.
_SAMPLED, _EACH, _LOUD = 2**13, 32, 7.0
#: The variance of n errors of rounding is off by this part over the root of n at most, five standard deviations.
_BY_CHANCE = 5 * math.sqrt(0.8)
#: Two roundings, of which the second pass averages the first, make noise up to so many times that of one.
_TWO = math.sqrt(2.0)
#: Residuals are alike where the image is flat from such a chi-square of two degrees of freedom on.
_ALIKE = 40.0
#: Types of so many bytes are suspected to wrap round if the noise is more than this share of their range.
_BYTES = 2
_SUSPICIOUS = 1 / 40
#: Bytes of a number of so many digits that nobody counts them; units of the last place that noise must come near to.
_DOUBLE, _NEAR = 8, 4.0
#: Shares of the pixels that do not count, and of the others that are predicted so many standard deviations from an end.
_CUT, _BESIDE, _SO_NEAR = 0.1, 0.1, 1.5
#: Share of the pixels that must lie a whole range away, and of the large residuals that must.
_FEWEST = 0.002
_MOST_OF = 0.7


def judged(
    fit: Estimate,
    observations: Sequence[Observation],
    target: int,
    workers: int,
    weights: Sequence[Weights] | None = None,
    parts: list[tiles.Part] | None = None,
) -> Estimate:
    """Let the rounding of a target into the errors, and say if values of integers seem to have wrapped round.

    `fit`: the fit of one target of the problems. `problems`: the pairs. `target`: which target. `workers`: number of
    threads. `weights`: those of the pixels of each pair. `parts`: tiles of them, if they were read. Returns the same,
    with a noise of at least that of rounding, and a finding more if the values wrapped round.
    """
    types = {np.dtype(p.targets[target].array.dtype) for p in observations}
    if all(dtype.kind == "f" and dtype.itemsize < _DOUBLE for dtype in types):
        return _of_few_digits(fit, observations, target, weights, parts)
    if not all(dtype.kind in "iu" for dtype in types):
        return fit
    fit = dataclasses.replace(fit, rounding=rounding_of(fit))
    fit = with_rounding(_without_alarm(fit, observations, target, weights))
    fit = _with_scatter(fit, observations, target, weights)
    fit = with_finding(fit, _cut_through(fit, observations, target, weights, parts))
    dtype = next(iter(types))
    extent = 2.0 ** (8 * dtype.itemsize)
    if len(types) > 1 or dtype.itemsize > _BYTES or not fit.rss > (_SUSPICIOUS * extent) ** 2 * fit.n_pixels:
        return fit
    share = wrapped_share(observations, target, extent, weights)
    if share < _FEWEST:
        return fit
    detail = f"about {100 * share:.2g} % of the target lies {extent:.0f} from its prediction"
    return with_finding(fit, Finding(Verdict.WRAPPED, detail))


def _cut_through(
    fit: Estimate,
    observations: Sequence[Observation],
    target: int,
    weights: Sequence[Weights] | None,
    parts: list[tiles.Part] | None,
) -> Finding | None:
    """Say if noise decides which of many pixels at an end of the type count: those that do are off to one side."""
    if weights is None or not fit.noise_std > _RANDOM * fit.rounding:
        return None
    some, own = sampled([of_target(p, target) for p in observations], weights)
    near = counted = n_pixels = 0
    for observation, part in tiles.read(some, fit, own) if parts is None else parts:
        ends, root = np.iinfo(observation.targets[0].array.dtype), tiles.root_of(part, part.known)[part.known]
        values, left = part.targets[part.known] / root, part.left[part.known]
        gaps = ((1, values - ends.min), (-1, ends.max - values))  # an end of which some pixels count cuts nothing off
        near += int(sum((g * root - s * left < _SO_NEAR * fit.noise_std).sum() for s, g in gaps if g.min() > 0))
        counted, n_pixels = counted + len(values), n_pixels + part.known.size
    if not (counted < (1 - _CUT) * n_pixels and near > _BESIDE * counted):
        return None
    detail = (
        f"{1 - counted / n_pixels:.0%} of the target do not count, and {near / counted:.0%} of the others are predicted"
        " so near to an end of its type that they count by what noise made of them: mask= what is predicted there"
    )
    return Finding(Verdict.NONLINEAR, detail)


def rounding_of(fit: Estimate) -> float:
    """Return the noise that rounding alone makes, of a pixel of weight 1."""
    mean = 1.0
    if fit.weights is not None:
        every = fit.weights if isinstance(fit.weights, tuple) else (fit.weights,)
        mean = sum(float(w.sum()) for w in every) / max(1, fit.n_pixels)
    return math.sqrt(ROUNDING * mean)


def _without_alarm(
    fit: Estimate, observations: Sequence[Observation], target: int, weights: Sequence[Weights] | None
) -> Estimate:
    """Make a note of noise that is not white where it is no more than that of rounding, in no pixel.

    Rounding errors are alike where the image is flat. No other cause is left to look for: no kernel could do better.
    """
    told = [f for f in fit.findings if f.verdict in (Verdict.COLOURED_NOISE, Verdict.UNEVEN_NOISE)]
    if not told or not fit.noise_std < ALONE * fit.rounding:
        return fit
    if _farthest([of_target(p, target) for p in observations], fit, weights) > _LARGEST[0]:
        return fit
    note = f"the residual is that of rounding to integers, which is not quite white: {told[0].detail}"
    findings = tuple(f for f in fit.findings if f not in told)
    return dataclasses.replace(fit, findings=findings, notes=(*fit.notes, note))


def _read(observations: Sequence[Observation], fit: Estimate, weights: Sequence[Weights] | None) -> list[tiles.Part]:
    """Read all pixels of small pairs, tiles of others."""
    some, own = sampled(observations, weights)
    return tiles.read(some, fit, own, whole=_WHOLE // len(some))


def _farthest(observations: Sequence[Observation], fit: Estimate, weights: Sequence[Weights] | None) -> float:
    """Return the largest residual in gray levels: of small pairs of all pixels, else of tiles."""
    parts = [p for _, p in _read(observations, fit, weights)]
    return max((float(np.max(np.abs(p.left[p.known]) / tiles.root_of(p, p.known)[p.known])) for p in parts), default=0)


def allowed(
    fit: Estimate,
    observations: Sequence[Observation],
    weights: Sequence[Weights] | None,
    workers: int,
    parts: list[tiles.Part],
) -> Estimate:
    """Take into the errors what a filter leaves that rounds half way, where the noise is so little.

    Its errors of rounding pass through what is left of the filter, are small where the image is flat, and follow it
    where it is smooth.
    """
    alike = math.isclose(fit.rounding, math.sqrt(ROUNDING))  # of weights of one
    if not alike or not 0 < fit.noise_std < HALF_WAY * fit.rounding:
        return fit
    return _between_passes(_correlated(fit, observations, weights, workers), observations, weights, parts)


def _between_passes(
    fit: Estimate, observations: Sequence[Observation], weights: Sequence[Weights] | None, parts: list[tiles.Part]
) -> Estimate:
    """Add what rounding between two passes leaves open of the kernel where its errors follow the image."""
    if fit.kernel.ndim > 2 or not possible(fit) or not beside(fit) > ROUNDING * _BY_CHANCE / math.sqrt(fit.n_pixels):
        return fit
    little = fit.noise_std < _TWO * fit.rounding  # which a first pass may have left, and little tells if it did
    if not little and fit.errors == "plain" and alike_where_flat(parts) < _ALIKE:
        return fit  # noise as random as that is no rounding
    every = tiles.trimmed(_read(observations, fit, weights), weighted=weights is not None)
    if not every:
        return fit
    why = "integers between two passes follow the image, which is smooth or flat"
    return _wider(fit, *scatter(every, fit, beside(fit), passes=True), why)


def _correlated(
    fit: Estimate, observations: Sequence[Observation], weights: Sequence[Weights] | None, workers: int
) -> Estimate:
    """Take what is not white into the errors."""
    told = [f for f in fit.findings if f.verdict in (Verdict.COLOURED_NOISE, Verdict.UNEVEN_NOISE)]
    if not told:
        return fit
    if fit.errors != "plain" or fit.root is None:
        return fit
    check = whiteness.examine(observations, fit, weights)
    if check.high > _LOUD or _farthest(observations, fit, weights) > _LARGEST[1]:
        return fit
    shaping = whiteness.shaping_filter(check)
    few = max(_SAMPLED, _EACH * fit.kernel.size)
    wider = score_covariance.correct(observations, fit, shaping, workers, weights=weights, pixels=few)
    note = (
        f"the noise is {fit.noise_std / fit.rounding:.3g} times that of rounding to integers, as a filter leaves that "
        "rounds half way: standard errors hold that it is correlated or uneven (sandwich)"
    )
    return dataclasses.replace(
        wider,
        root_scale=wider.root_scale * check.heteroscedasticity,
        least_squares=fit.least_squares,
        findings=tuple(f for f in fit.findings if f not in told),
        notes=(*fit.notes, note),
    )


def with_rounding(fit: Estimate) -> Estimate:
    """Raise the noise, and the errors with it, to what rounding alone makes."""
    least = fit.rounding
    if not 0 < fit.noise_std < least:  # NaN stays NaN
        return fit
    raised = least / fit.noise_std
    background = fit.background
    if background is not None:
        background = dataclasses.replace(background, stderr=background.stderr * raised)
    return dataclasses.replace(
        fit,
        noise_std=least,
        root_scale=fit.root_scale * raised,
        typical_stderr=fit.typical_stderr * raised,
        background=background,
        notes=(*fit.notes, "noise and standard errors are those of rounding to integers, the residual being smaller"),
    )


def beside(fit: Estimate) -> float:
    """Return the variance of the noise of a pixel of weight 1 beside that of rounding."""
    return max(0.0, fit.noise_std**2 / fit.rounding**2 - 1.0) * ROUNDING


def _with_scatter(
    fit: Estimate, observations: Sequence[Observation], target: int, weights: Sequence[Weights] | None
) -> Estimate:
    """Add what the errors of rounding leave open of the kernel where they follow the image; see `rounding.scatter`."""
    if not fit.noise_std < _RANDOM * fit.rounding or not possible(fit):
        return fit
    every = _read([of_target(p, target) for p in observations], fit, weights)
    parts = tiles.trimmed(every, weighted=weights is not None)
    if 2 * sum(int(p.known.sum()) for _, p in parts) < sum(int(p.known.sum()) for _, p in every):
        parts = every  # a target of few values stands at their ends
    if not parts:
        return fit
    more, free, plain = scatter(parts, fit, beside(fit))
    alone = fit.noise_std < ALONE * fit.rounding
    if alone and fit.errors == "sandwich" and fit.uncertainty == "sampling" and not fit.unsettled:
        fit = _no_less(fit, plain)
    return _wider(fit, more, free, plain, "integers follow the image, which is smooth or flat")


def _no_less(fit: Estimate, plain: Array) -> Estimate:
    """Raise errors to those of random noise: errors of rounding that cancel here would not for another kernel."""
    assert fit.factor is not None
    own = np.linalg.lstsq(plain, fit.factor, rcond=None)[0]
    values, vectors = np.linalg.eigh(own @ own.T)
    return dataclasses.replace(fit, root=plain @ (vectors * np.sqrt(np.maximum(values, 1.0))), root_scale=1.0)


def _of_few_digits(
    fit: Estimate,
    observations: Sequence[Observation],
    target: int,
    weights: Sequence[Weights] | None,
    parts: list[tiles.Part] | None,
) -> Estimate:
    """Add what the errors of floating-point numbers of few digits leave open; see `rounding.scatter`."""
    if not possible(fit):
        return fit
    some, own = sampled([of_target(p, target) for p in observations], weights)
    largest = max(
        (
            float(np.finfo(p.targets[0].array.dtype).eps)
            * float(np.max(np.abs(part.targets[part.known]) / tiles.root_of(part, part.known)[part.known]))
            for p, part in (tiles.read(some, fit, own) if parts is None else parts)
        ),
        default=0.0,
    )
    if not fit.noise_std < _NEAR * largest:
        return fit
    parts = _read([of_target(p, target) for p in observations], fit, weights)
    if not parts:
        return fit
    return _wider(fit, *scatter(parts, fit, None), "floating-point numbers are largest in a few pixels, or repeat")


def _wider(fit: Estimate, more: Array, free: Array, plain: Array, why: str) -> Estimate:
    """Return a fit with so much more covariance, beside that for random errors where it has none, and say why.

    `free` is what its kernel of least squares has more where a prior holds the fit's.
    """
    if not more.size:
        return fit
    own = plain if fit.factor is None else fit.factor
    factor = np.hstack([own, more])
    growth = float(np.median(np.linalg.norm(factor, axis=1) / np.linalg.norm(own, axis=1).clip(1e-300)))
    words = f"the errors of rounding to {why}: standard errors {growth:.3g}"
    words += " times those of random errors hold what that leaves open"
    size, error = float(np.linalg.norm(fit.kernel)), float(np.linalg.norm(factor))
    found = least_squares.doubts(size, error, 0.0, math.inf, 0.0)
    if growth > _OPEN[0] and error > _OPEN[1] * size:
        found.append(Finding(Verdict.ILL_CONDITIONED, words))
    told = {f.verdict for f in fit.findings}
    findings = ranked((*fit.findings, *(f for f in found if f.verdict not in told)))
    known = fit.least_squares
    if known is not None:
        known = known[0], np.hstack([known[1], free / fit.noise_std])
    fit = dataclasses.replace(fit, findings=findings, notes=(*fit.notes, words), least_squares=known)
    return dataclasses.replace(fit, root=factor, root_scale=1.0, unsettled=fit.unsettled + more.shape[1])


def wrapped_share(
    observations: Sequence[Observation], target: int, extent: float, weights: Sequence[Weights] | None = None
) -> float:
    """Return the share of target pixels that seem to have wrapped round, zero if the large residuals tell otherwise.

    The kernel is that of the smallest sum of absolute residuals over a sample of patches, which they hardly move.
    """
    every = [np.broadcast_to(np.True_, p.size) for p in observations] if weights is None else weights
    items = [WeightedObservation(of_target(p, target), w) for p, w in zip(observations, every, strict=True)]
    sample = draw(items)
    if not len(sample.values) > 2 * sample.patches.shape[1]:
        return 0.0
    taps = least_absolute(sample)
    left = (sample.values - sample.patches @ taps) / sample.roots
    whole = np.rint(left / extent)
    large = np.abs(left) > 0.3 * extent
    near = (whole != 0) & (np.abs(left - extent * whole) < 0.1 * extent)
    counts = 1.0 * sample.roots**2  # so many pixels each stands for
    if not large.any() or counts[near].sum() < _MOST_OF * counts[large].sum():
        return 0.0
    return float(counts[near].sum() / counts.sum())
