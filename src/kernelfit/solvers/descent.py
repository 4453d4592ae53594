"""The descent of a smooth function of few variables between bounds, each evaluation of which is dear."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.linalg

from ..core.validation import Array

Mask = npt.NDArray[np.bool_]
#: Length of the first step where nothing is known of the curvature, and of the longest ones then, in any variable.
_FIRST, _LONGEST = 0.3, 1.0


class Lowest(NamedTuple):
    """The least value that was found, where it is, and the curvature there as far as the descent has seen it."""

    value: float
    at: Array
    curvature: Array | None


def descend(
    function: Callable[[Array], tuple[float, Array]],
    start: Array,
    low: Array,
    high: Array,
    most: int,
    enough: float,
    curvature: Array | None = None,
) -> Lowest:
    """Return the minimum near a start after `most` evaluations at most; it ends where no step promises `enough`.

    Quasi-Newton steps (BFGS, J. Nocedal and S. Wright, "Numerical Optimization", 2nd ed. (2006), section 6.1) within a
    region of trust. A guess of the curvature, such as that of a similar function, saves the first steps.
    """
    at = np.clip(start, low, high)
    value, slope = function(at)
    known = curvature is not None and bool(np.isfinite(curvature).all())
    bent = np.array(curvature) if known else np.eye(len(at))
    reach = _LONGEST if known else _FIRST
    for _ in range(most - 1):
        free = ~((at <= low) & (slope > 0) | (at >= high) & (slope < 0))
        if not math.isfinite(value) or not free.any():
            break
        if not known:  # a step to the edge of the region of trust
            bent = np.eye(len(at)) * float(np.abs(slope[free]).max()) / reach
        step = _downhill(bent, slope, free, at <= low, at >= high)
        room = np.where(step < 0, low, high) - at
        ends = room / np.where(step == 0, math.inf, step)  # the share of the step that reaches an end
        step *= min(1.0, reach / max(float(np.abs(step).max()), 1e-300), *ends[step != 0])
        promised = -float(slope @ step) - 0.5 * float(step @ bent @ step)
        if promised < enough:
            break
        there, other = function(at + step)
        gain = value - there
        if math.isfinite(there):
            bent = _updated(bent, step, other - slope, known=known)
            known = True
        if gain < 0.9 * promised:
            reach = (0.25 if gain < 0.1 * promised else 1.0) * float(np.abs(step).max())
        else:
            reach = max(reach, 2.5 * float(np.abs(step).max()))
        if gain > 0:
            at, value, slope = at + step, there, other
    return Lowest(value, at, bent if known else None)


def _downhill(bent: Array, slope: Array, free: Mask, lowest: Mask, highest: Mask) -> Array:
    """Return the step to where a quadratic function of the free variables is lowest, none of them leaving an end."""
    while True:
        step = np.zeros(len(slope))
        values, vectors = scipy.linalg.eigh(bent[np.ix_(free, free)])
        step[free] = -vectors @ ((vectors.T @ slope[free]) / np.maximum(values, 1e-8 * values[-1]))
        out = lowest & (step < 0) | highest & (step > 0)
        if not out.any() or not (free & ~out).any():
            return step
        free = free & ~out


def _updated(bent: Array, step: Array, change: Array, *, known: bool) -> Array:
    """Return the curvature that a step has shown, positive definite."""
    along = float(step @ change)
    if not known and along > 0:  # of the size that was seen
        bent = np.eye(len(step)) * float(change @ change) / along
    image = bent @ step
    own = float(step @ image)
    if along < 0.2 * own:  # Powell's damping
        share = 0.8 * own / (own - along)
        change = share * change + (1 - share) * image
        along = float(step @ change)
    return np.asarray(bent + np.outer(change, change) / along - np.outer(image, image) / own)
