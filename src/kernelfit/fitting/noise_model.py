"""How noisy a target pixel is for its prediction, and weights that follow it, found while the kernel is.

Each pass weighs its own residual. One preconditioner serves for all passes (`engines.sampled_gram`): first of weights
that vary slowly, from medians of the target, of which least squares make a first kernel; then of those of that kernel's
prediction.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..core.model import PixelVariance
from ..core.validation import Array
from ..data.observation import Items, WeightedObservation, Weights
from ..engines import patches, sampled_gram, weighted
from ..engines.passes import Hold
from ..engines.weighted_iteration import Metric, Walk, walk
from ..solvers import least_squares
from .weighted_fitter import WeightedFitter

#: The least prediction that photon noise is reckoned from, relative to the mean of the target, and to the usual error
#: of a prediction, which where counts are few is as large as many of them.
FLOOR, UNSURE = 0.01, 4.0
#: A prediction is believed, as far as noise goes, to so many of its standard deviations from what was observed; those
#: are taken to be larger, up to so many times, if most residuals say so.
BELIEVED, MOST_NOISE = 5.0, 4.0
#: Residuals below so many times the relative error of a float, of the target's size, are rounding.
_ROUNDING = 16.0


@dataclass(frozen=True)
class Levels:
    """The least prediction that photon noise is reckoned from, and what rounding makes of a residual of weight 1."""

    floor: float
    rounding: float

    @classmethod
    def of(cls, items: Items, model: PixelVariance, workers: int) -> "Levels":
        """Learn both from the targets."""
        sums = weighted.target_sums(items, workers)
        rounding = _ROUNDING * least_squares.EPS * math.sqrt(sums.energy / sums.n_pixels)
        if not model.slope:
            return cls(0.0, rounding)
        mean = sums.total.real / sums.weight
        if not mean > 0:
            raise ValueError(
                f"got a target with photon noise whose mean is {mean:.4g}, need counts, with a mean above 0; "
                "add the background that was subtracted, or leave noise='constant'"
            )
        usual = model.slope * mean + model.constant
        unsure = math.sqrt(usual * items[0].n_taps / sums.n_pixels)
        return cls(max(FLOOR * mean, UNSURE * unsure), rounding / math.sqrt(usual))


def with_noise(
    item: WeightedObservation, left: Array, model: PixelVariance, floor: float, apart: float
) -> WeightedObservation:
    """Return the pair with weights that are the inverse of the variance of the prediction."""
    weights = np.empty(left.shape)
    for rows, observed in _bands(item, left):
        variance = model.at(observed - left[rows], observed, floor, apart)
        np.divide(item.weights[rows], variance, out=weights[rows])
    return dataclasses.replace(item, weights=weights)


def _bands(item: WeightedObservation, left: Array) -> Iterator[tuple[slice, Array]]:
    """Yield the rows of each band of a target, and the target there."""
    for row, height in patches.bands(left.shape, item.observation.geometry.kernel_shape):
        yield slice(row, row + height), item.observation.targets[0].block(row, 0, (height, left.shape[1]))


#: The error at which the weights are frozen, in units of the standard error.
_FROZEN = 0.01


class Followed(NamedTuple):
    """Unknowns near to those whose own prediction weighs the pixels, and what knows the Gram matrix nearly there."""

    at: Array
    metric: Metric
    hold: Hold  # makes the weights of a residual
    noise: float  # how much larger than the model's standard deviations residuals are
    passes: int


def holding(model: PixelVariance, floor: float, apart: float) -> Hold:
    """Return what makes the weights of a block of its residual, as `with_noise` does."""

    def hold(left: Array, weights: Weights, observed: Array) -> Weights:
        return np.asarray(weights / model.at(observed - left, observed, floor, apart))

    return hold


def follow(
    fitter: WeightedFitter,
    items: Items,
    model: PixelVariance,
    levels: Levels,
    left: Sequence[Array],
    noise_of: Callable[[Items, Sequence[Array]], float],
) -> Followed | None:
    """Find the kernel whose own prediction weighs the pixels; None where other ways are quicker or this fails."""
    if fitter.strategy not in ("auto", "iterate") or fitter.image_std or not sampled_gram.sample_size(items):
        return None
    n = sum(item.observation.geometry.n_pixels for item in items)
    lines = weighted.lines(items[0].observation)
    dear = patches.costs_of_pixels(sum(item.n_pixels for item in items), lines)
    if fitter.strategy == "auto" and weighted.choose_strategy(n, lines, dear, dear).method != "iterate":
        return None
    slow = sampled_gram.levels_of(items, [_medians(item, model, levels.floor) for item in items])
    first = [
        dataclasses.replace(item, weights=np.where(item.weights > 0, np.multiply.outer(one.down, one.across), 0.0))
        for item, one in zip(items, slow, strict=True)
    ]
    base, metric = sampled_gram.base_of(first, slow, fitter.method, fitter.workers, fitter.progress), None
    if any(item.n_pixels < item.observation.geometry.n_pixels for item in items):
        metric = Metric.sampled(first, base, fitter.workers)
        if metric is None:
            return None
    engine = fitter.engine
    own = Walk(sampled_gram.start_of(items, base, metric.solve if metric is not None else np.asarray))
    here = engine.residual(items, own.at, left, holding(model, levels.floor, BELIEVED))
    current = [with_noise(item, r, model, levels.floor, BELIEVED) for item, r in zip(items, left, strict=True)]
    metric = Metric.sampled(current, base, fitter.workers)
    if metric is None:
        return None
    noise = noise_of(current, left)
    hold = holding(model, levels.floor, BELIEVED * noise)
    energy = weighted.target_sums(current, fitter.workers).energy
    walk(items, metric, engine, own, _FROZEN, energy, here if noise == 1.0 else None, patient=False, hold=hold)
    return Followed(own.at, metric, hold, noise, 1 + own.passes) if own.converged else None


def _medians(item: WeightedObservation, model: PixelVariance, floor: float) -> Array:
    """Return about the median weights of tiles, were the median of the target its prediction."""
    rows, cols = item.weights.shape
    steps = max(1, rows // 128), max(1, cols // 128)
    target = item.observation.targets[0]
    some = np.concatenate([target.block(row, 0, (1, cols))[:, :: steps[1]] for row in range(0, rows, steps[0])])
    weights = np.asarray(item.weights[:: steps[0], :: steps[1]], dtype=np.float64)
    usual, level = (sampled_gram.tile_medians(values, weights > 0, (rows, cols)) for values in (weights, some))
    return np.asarray(usual / (model.slope * np.maximum(level, floor) + model.constant))
