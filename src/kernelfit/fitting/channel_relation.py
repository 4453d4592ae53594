"""How the channels of a pair go together, found from its pixels."""

import dataclasses
import functools
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.special

from ..core.estimate import Estimate
from ..core.findings import Verdict
from ..core.geometry import as_pair, default_origin
from ..core.model import Execution, Model, Noise, Selection
from ..core.normal_equations import NormalEquations
from ..data.plan import make_plan
from ..solvers.least_squares import LeastSquaresSolution, least_squares
from .statistics import gather

#: Kernels of channels differ at this level; channels are mixed if that leaves less than this share of the residual, of
#: many taps than the other, since all of them take a minute; taps of the middle that tell.
_DIFFER, _MIXED, _CLEARLY_MIXED, _MANY, _MOST_MIXED = 1e-6, 0.8, 0.5, 3000, 700
#: A share of the target's variance that is rounding alone; taps for each pixel.
_EXACT, _SHARE = 1e-12, 0.25
#: What kernels of separate channels leave where the filter mixes them may look like any of these; so many pixels tell.
_LOOKS = {
    Verdict[name] for name in "VARYING NONLINEAR SHAPE_TOO_SMALL MISALIGNED OFFSET COLOURED_NOISE POOR_FIT".split()
}
_ENOUGH = 2**17


def channels_of(
    image: Any,
    target: Any,
    fields: dict[str, Any],
    selection: Selection,
    execution: Execution,
    peak: tuple[int, int] | None = None,
) -> tuple[str, npt.NDArray[np.float64], bool]:
    """Say how channels go together, "shared", "separate" or "mixed", and what the target's mean is made of."""
    # Where kernels from all channels to each leave a clearly smaller residual they are mixed; else an F-test tells
    # whether one kernel does for all. The second is the weight of each channel of the image, the third whether taps
    # were left out that are far from the largest one, the `peak`.
    run = Execution(workers=execution.workers)
    n_sources, n_targets = image.shape[-1], target.shape[-1]
    even = np.full(n_sources, 1.0 / n_sources)

    def sums(fields: dict[str, Any], channels: str) -> list[NormalEquations]:
        plan = make_plan(image, target, Model(**{**fields, "channel_axis": -1, "channels": channels}), selection)
        return [stats for stats, _ in gather(plan, Noise(), run)]

    def left(found: list[LeastSquaresSolution]) -> tuple[float, int]:
        return sum(one.rss for one in found), sum(one.rank for one in found)

    n = n_targets * math.prod(target.shape[:2])
    most = _MIXED if n_sources * math.prod(fields["shape"]) <= _MANY else _CLEARLY_MIXED
    narrow = _narrowed(fields, min(_MOST_MIXED, int(_SHARE * n / n_targets)) // n_sources, peak)
    part = narrow is not fields
    mixed = [least_squares(one) for one in sums(narrow, "mixed")]
    weights = np.mean([one.taps.reshape(n_sources, -1).sum(axis=1) for one in mixed], axis=0)
    if n_sources != n_targets:
        return "mixed", weights, part
    every = sums(narrow, "separate")
    solved = [least_squares(one) for one in every]
    rss, rank = left(solved)
    other, more = left(mixed)
    if rss > _EXACT * sum(one.target_energy for one in every) and other / (n - more) < most * rss / (n - rank):
        return "mixed", weights, part
    differ = _differ(every, solved, n)
    if differ and part:  # what lies beyond the middle may be all that differs
        every = sums(fields, "separate")
        differ = _differ(every, [least_squares(one) for one in every], n)
    return "separate" if differ else "shared", even, part


def _differ(every: list[NormalEquations], solved: list[LeastSquaresSolution], n: int) -> bool:
    """Say whether the channels' kernels differ by more than chance, by an F-test."""
    one = least_squares(functools.reduce(lambda a, b: a + b, every))
    rss, more = sum(each.rss for each in solved), sum(each.rank for each in solved) - one.rank
    if one.rss - rss <= _EXACT * sum(each.target_energy for each in every) or more == 0:
        return False
    df_resid = n - one.rank - more
    return bool(scipy.special.fdtrc(more, df_resid, (one.rss - rss) / more / (rss / df_resid)) < _DIFFER)


def advised(fit: Estimate, image: Any, target: Any, model: Model, execution: Execution) -> Estimate:
    """Return doubtful separate kernels with the advice to mix them, where that leaves clearly less in the middle."""
    conv, axis = fit.convention, model.channel_axis
    kept = [finding for finding in fit.findings if finding.verdict in _LOOKS]
    loaded = isinstance(image, np.ndarray) and isinstance(target, np.ndarray)
    if model.channels != "separate" or axis is None or not kept or not loaded:
        return fit
    if (
        conv.ndim == 3
        or conv.field is not None
        or conv.mode != "same"
        or conv.strided
        or tuple(image.shape) != tuple(target.shape)
    ):
        return fit
    shape = as_pair(model.shape, "shape")
    axis %= len(image.shape)
    sides = [side for at, side in enumerate(image.shape) if at != axis]
    cols = min(sides[1], max(_ENOUGH // sides[0], 512))
    parts = []
    for side, most in zip(sides, (max(_ENOUGH // cols, 512), cols), strict=True):
        first = max(0, side - most) // 2
        parts.append(slice(first, first + most))
    parts.insert(axis, slice(None))
    before, after = (np.moveaxis(np.asarray(one[tuple(parts)]), axis, -1) for one in (image, target))
    if "c" in (before.dtype.kind, after.dtype.kind):
        return fit
    fields = {"shape": shape, "mode": "same", "origin": conv.origin, "operation": conv.operation, "background": 0}
    if channels_of(before, after, fields, Selection(nan="mask"), execution)[0] != "mixed":
        return fit
    remedy = "each channel of the target is made of several of the image's: channels='mixed' (--channels mixed)"
    told = [dataclasses.replace(finding, remedy=remedy) if finding in kept else finding for finding in fit.findings]
    return dataclasses.replace(fit, findings=tuple(told))


def _narrowed(fields: dict[str, Any], most: int, peak: tuple[int, int] | None) -> dict[str, Any]:
    """Return the fields of a model for no more than so many taps, those about the largest one, or in the middle."""
    shape, mode = fields["shape"], fields["mode"]
    middle = peak or tuple((k - 1) // 2 for k in shape)
    low, high = [0, 0], list(shape)
    while math.prod(b - a for a, b in zip(low, high, strict=True)) > most:
        axis = int(np.argmax(np.subtract(high, low)))
        if high[axis] - low[axis] <= 2:
            break
        if middle[axis] - low[axis] > high[axis] - 1 - middle[axis]:
            low[axis] += 1
        else:
            high[axis] -= 1
    if high == list(shape) and low == [0, 0]:
        return fields
    origin = fields.get(
        "origin", {"valid": tuple(k - 1 for k in shape), "full": (0, 0)}.get(mode, default_origin(shape))
    )
    return {
        **fields,
        "shape": tuple(b - a for a, b in zip(low, high, strict=True)),
        "origin": tuple(o - a for o, a in zip(origin, low, strict=True)),
        "mode": "crop",
    }
