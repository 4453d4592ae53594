"""How noisy a target pixel is for its prediction, and the weights that follow."""

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..core.model import PixelVariance
from ..core.validation import Array
from ..data.observation import Items, WeightedObservation
from ..engines import patches, weighted
from ..solvers import least_squares

#: The least prediction that photon noise is reckoned from, relative to the mean of the target.
FLOOR = 0.01
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
        return cls(FLOOR * mean, rounding / math.sqrt(model.slope * mean + model.constant))


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
