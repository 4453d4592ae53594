"""Whether a volume's kernel has too few planes: what the planes of the image just outside of it say of the residual.

Under the right kernel the residual has nothing in common with them. Its products with a plane outside, tap by tap, are
added up over small cells; whether the sums of the cells have the mean zero is what Student's t says, whatever the
noise's variance from cell to cell and its correlation within one.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import scipy.special

from ..core.estimate import Estimate
from ..core.findings import Finding, Verdict
from ..core.validation import Array
from ..data.observation import Observation, Weights
from . import samples

#: Planes looked at; rows and columns of a window in each, and of a cell; taps; the chance of a false alarm.
_PLANES, _WINDOW, _CELL, _TAPS, _CHANCE = 4, 96, 16, 81, 3e-5
#: Cells that tell a variance; below this share of the target's root mean square the residual is rounding.
_LEAST, _ROUNDING = 24, 1e-6


def shallow(
    observations: Sequence[Observation], estimate: Estimate, weights: Sequence[Weights] | None
) -> list[Finding]:
    """Return a finding if planes of the image outside of a volume's kernel explain some of the residual."""
    first = observations[0]
    if first.plane is None or max(first.plane.convention.stride) > 1 or not estimate.noise_std > 0:
        return []
    if estimate.image_noise > 0:  # of which the residual holds some, as `misfit.misfits` says
        return []
    sums: dict[int, list[Array]] = {-1: [], 1: []}
    residual = target = 0.0
    for at in _inner(observations):
        observation = observations[at]
        side = tuple(min(n, _WINDOW) for n in observation.size)
        start = tuple((n - s) // 2 for n, s in zip(observation.size, side, strict=True))
        own = None if weights is None else weights[at]
        place = (at, len(observations))
        seen = samples.sample(observation, estimate, place, own, (side[0], side[1]), [(start[0], start[1])])
        left = seen.left[0] if seen.root is None else seen.left[0] * np.where(seen.known[0], seen.root[0], 0.0)
        left = np.ascontiguousarray(left)
        residual, target = residual + float(np.sum(left**2)), target + float(np.sum(seen.targets[0] ** 2))
        for step in sums:
            beyond = observations[at + step]
            outer = beyond.sources[0 if (step < 0) != beyond.geometry.flipped else first.supports[0][0] - 1]
            halo = [n + k - 1 for n, k in zip(side, observation.geometry.kernel_shape, strict=True)]
            block = outer.block(start[0], start[1], (halo[0], halo[1]))
            sums[step].append(_cells(left, block - block.mean(), observation.geometry.kernel_shape))
    if not residual > _ROUNDING**2 * target:
        return []
    found = {}
    for step, parts in sums.items():
        cells = np.concatenate(parts, axis=1) if parts else np.zeros((1, 0))  # taps, cells
        n = cells.shape[1]
        if n < _LEAST:
            continue
        total, spread = cells.sum(axis=1), np.sqrt(np.sum((cells - cells.mean(axis=1, keepdims=True)) ** 2, axis=1))
        t = np.abs(total) / np.maximum(spread, 1e-300) * math.sqrt((n - 1) / n)
        chance = 2 * float(scipy.special.stdtr(n - 1, -t.max())) * len(t)
        if chance < _CHANCE:
            found[step] = chance
    if not found:
        return []
    step = min(found, key=lambda one: found[one])
    depth, turned = first.supports[0][0], first.geometry.flipped
    plane = -1 if (step < 0) != turned else depth
    sides = "x".join(map(str, first.supports[0]))
    detail = f"the residual goes with the image at plane {plane} of taps, outside the {sides} kernel"
    return [Finding(Verdict.SHAPE_TOO_SMALL, detail)]


def _inner(observations: Sequence[Observation]) -> Iterator[int]:
    """Yield some planes that have neighbours of their volume on both sides, which are not made of fill values."""
    good = [
        at
        for at in range(1, len(observations) - 1)
        if all(
            (other := observations[at + step].plane) is not None
            and (own := observations[at].plane) is not None
            and other.volume == own.volume
            and not other.extended
            for step in (-1, 1)
        )
    ]
    for i in range(min(_PLANES, len(good))):
        yield good[int((i + 0.5) * len(good) / min(_PLANES, len(good)))]


def _cells(left: Array, block: Array, kernel: tuple[int, int]) -> Array:
    """Return the sums over cells of the residual times a plane, for some of the taps: (taps, cells)."""
    from ..compiled import lag_sums

    step = max(1, math.ceil(math.sqrt(kernel[0] * kernel[1] / _TAPS)))
    rows, cols = (max(1, n // _CELL) for n in left.shape)
    height, width = left.shape[0] // rows, left.shape[1] // cols
    out, (n_y, n_x) = np.zeros((rows, cols, *kernel)), kernel
    for i in range(rows):
        first = i * height
        line, beyond = left[first : first + height], block[first : first + height + n_y - 1]
        for j in range(cols):
            lag_sums.lag_sums(line, j * width, beyond, j * width, height, width, out[i, j])
    return np.asarray(out[:, :, :n_y:step, :n_x:step].reshape(rows * cols, -1).T)
