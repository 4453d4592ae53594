"""Values of a target that were cut off inside the range of its type: many alike at an end, and none beyond."""

import numpy as np

from ..core.estimate import Estimate
from ..core.findings import Finding, Verdict
from ..core.validation import Array
from ..data.observation import Observation
from .samples import Sample
from .tiles import Part, root_of

#: So many pixels stand at an end, and so many times as many as at any of so many values beside it.
_FEWEST, _TIMES, _NEXT = 8, 5, 10
#: Their prediction lies so far beyond on average, or about the end, in standard deviations of noise that is so many
#: times that of half a step between values.
_BEYOND, _ABOUT, _LOUD = 0.5, 0.3, 4.0


def cut_off(parts: list[Part], estimate: Estimate) -> Finding | None:
    """Say if a plateau at an end of the target's values is no part of the picture, as white paper is."""
    values = np.concatenate([_values(*part) for part in parts])
    for sign, beyond in ((1, "above"), (-1, "below")):
        step = _many(values, sign)
        if not step:
            continue
        end = sign * float((sign * values).max())
        at = values == end
        past = np.concatenate([p.left[p.known] for _, p in parts])[at] * (-sign / estimate.noise_std)
        root = float(np.concatenate([root_of(p, p.known)[p.known] for _, p in parts])[at].mean())
        half = 0.5 * step * root / estimate.noise_std
        if past.mean() > half + _BEYOND or (_LOUD * half < 1.0 and np.sqrt(np.mean(past**2)) > _ABOUT):
            remedy = f"saturated=({'None, ' if sign > 0 else ''}{end:.6g}{'' if sign > 0 else ', None'})"
            detail = f"{at.mean():.2g} of the target stand at {end:.6g} with nothing {beyond}, where they seem to be"
            return Finding(Verdict.NONLINEAR, f"{detail} cut off: {remedy} leaves them out")
    return None


def _values(observation: Observation, part: Sample) -> Array:
    """Return the values of the target that count, to the bit, as times and over the root of a weight they are not."""
    if part.root is None:
        return np.asarray(part.targets[part.known])
    shape = part.known.shape[1:]
    tiles = [observation.targets[0].block(*start, (shape[0], shape[1])) for start in part.starts]
    return np.asarray(np.stack(tiles)[part.known])


def _many(values: Array, sign: int) -> float:
    """Return the step between the values at an end if so many stand there that something may have cut them off."""
    some = sign * values
    count = int(np.count_nonzero(some == some.max()))
    if not _FEWEST <= count < values.size // 2:
        return 0.0
    found, counts = np.unique(some, return_counts=True)
    if len(found) <= _NEXT or not counts[-1] >= _TIMES * counts[-1 - _NEXT : -1].max():
        return 0.0
    return float(np.diff(found[-1 - _NEXT :]).min())
