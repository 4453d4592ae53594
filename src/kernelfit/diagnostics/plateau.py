"""Values of a target that were cut off inside the range of its type: many alike at an end, and none beyond."""

import numpy as np
import numpy.typing as npt

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
#: The sum of squares beyond an end, over the noise's variance, that is no chance: so much, and so much for each tap.
_SURE, _TAPS = 40.0, 2.0


def cut_off(parts: list[Part], estimate: Estimate) -> Finding | None:
    """Say if a plateau at an end of the target's values is no part of the picture, as white paper is."""
    values = np.concatenate([_values(*part) for part in parts])
    for sign, beyond in ((1, "above"), (-1, "below")):
        step = _many(values, sign)
        if not step:
            continue
        end = sign * float((sign * values).max()) + 0.0
        at = values == end
        past = np.concatenate([p.left[p.known] for _, p in parts])[at] * (-sign / estimate.noise_std)
        root = float(np.concatenate([root_of(p, p.known)[p.known] for _, p in parts])[at].mean())
        half = 0.5 * step * root / estimate.noise_std
        if past.mean() > half + _BEYOND or (_LOUD * half < 1.0 and np.sqrt(np.mean(past**2)) > _ABOUT):
            remedy = f"saturated=({'None, ' if sign > 0 else ''}{end:.6g}{'' if sign > 0 else ', None'})"
            detail = f"{at.mean():.2g} of the target stand at {end:.6g} with nothing {beyond}, where they seem to be"
            return Finding(Verdict.NONLINEAR, f"{detail} cut off: {remedy} leaves them out")
    return None


def missing(parts: list[Part], estimate: Estimate) -> list[Finding]:
    """Say if more than chance makes of it is predicted beyond an end of the target's values, and stands at the end.

    Where the model holds, a residual there is as large as the prediction is far, in few pixels and by little, but for
    errors of the kernel: of what they make of all pixels the sum of squares is some of its taps in number.
    """
    values = [_values(*part) for part in parts]
    limit = (_SURE + _TAPS * estimate.kernel.size) * estimate.noise_std**2
    for sign, beyond in ((1, "above"), (-1, "below")):
        end = sign * max(sign * float(v.max() if sign > 0 else v.min()) for v in values) + 0.0
        at = [np.flatnonzero(v == end) for v in values]  # which those that a range leaves are not
        roots = np.concatenate([_of(root_of(p, p.known), p, i) for (_, p), i in zip(parts, at, strict=True)])
        model = np.concatenate([_of(p.targets, p, i) - _of(p.left, p, i) for (_, p), i in zip(parts, at, strict=True)])
        past = np.maximum(sign * (model - end * roots), 0.0)
        if not float(past @ past) > limit:
            continue
        step = min(float((sign * (end - v))[v != end].min(initial=np.inf)) for v in values)
        usual = float(np.median(np.concatenate([root_of(p, p.known)[p.known] for _, p in parts])))
        if step * usual > estimate.noise_std:  # what is rounded may be half a step beyond
            past = np.maximum(past - 0.5 * step * roots, 0.0)
        if float(past @ past) > limit:
            share = np.count_nonzero(past) / sum(v.size for v in values)
            detail = f"{share:.2g} of the target are predicted {beyond} {end:.6g}, where none of it is"
            return [Finding(Verdict.NONLINEAR, f"{detail}: it seems to be cut off there")]
    return []


def _of(tiles: Array, part: Sample, at: npt.NDArray[np.intp]) -> Array:
    """Return some of the pixels that count."""
    return np.asarray((tiles.ravel() if part.known.all() else tiles[part.known])[at])


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
