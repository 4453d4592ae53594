"""The covariance of weighted moments under noise that is correlated from pixel to pixel.

With weights w the noise of a pixel is ``v[t] = u[t] / sqrt(w[t])``, u stationary with the autocovariance ``h * h``:
where all weights are zero or one, noise of one kind everywhere. So the moments ``sum_t w[t] P[t] v[t]`` are
``sum_z f_z e[z]`` with white e and ``f_z = sum_t h[t - z] sqrt(w[t]) P[t]``. Their covariance is ``sum_z f_z f_z'``.
"""

import math
from collections.abc import Sequence

import numpy as np
import scipy.fft

from ..exact import polyphase
from ..exact.threads import in_order
from ..pair import Array
from ..weights.weighted_pass import Item

#: Side of the boxes of pixels that are filtered at a time, and the number of pixels up to which all are.
_SIDE = 32
_PIXELS = 2**18

Box = tuple[int, int, int, int]


def covariance(item: Item, shaping: Array, workers: int) -> Array:
    """Return ``sum_z f_z f_z'`` of a pair, h being `shaping`, in the order of the user's taps.

    Of more than 2^18 pixels it is estimated, without bias, from some boxes of them, those of much structure likelier.
    """
    plan, problem = item.problem.geometry, polyphase.split(item.problem)
    (n_y, n_x), (n_rows, n_cols), reach = problem.geometry.kernel_shape, problem.size, len(shaping) // 2
    taps = len(problem.sources) * n_y * n_x

    def part(work: Sequence[tuple[Box, float]]) -> Array:
        total = np.zeros((taps, taps))
        for (row, col, height, width), chance in work:
            top, left = max(0, row - reach), max(0, col - reach)
            bottom, right = min(n_rows, row + height + reach), min(n_cols, col + width + reach)
            roots = np.sqrt(np.asarray(item.weights[top:bottom, left:right], dtype=np.float64))
            if not roots.any():
                continue
            shape = bottom - top + n_y - 1, right - left + n_x - 1
            blocks = np.stack([s.block(top, left, shape) for s in problem.sources])
            rows = np.lib.stride_tricks.sliding_window_view(blocks, roots.shape, (1, 2)).reshape(taps, *roots.shape)
            size = [scipy.fft.next_fast_len(n + 2 * reach, real=True) for n in roots.shape]
            spectra = scipy.fft.rfft2(rows * roots, size, workers=1)
            spectra *= scipy.fft.rfft2(shaping, size, workers=1)
            filtered = scipy.fft.irfft2(spectra, size, workers=1)
            first = row - top + reach, col - left + reach
            found = filtered[:, first[0] : first[0] + height, first[1] : first[1] + width].reshape(taps, -1)
            total += (found @ found.T) / chance
        return total

    boxes = _boxes(item, reach)
    step = max(1, math.ceil(len(boxes) / 32))
    total = np.zeros((taps, taps))
    for one in in_order([boxes[i : i + step] for i in range(0, len(boxes), step)], part, workers):
        total += one
    return polyphase.reordered(total, plan)


def _boxes(item: Item, reach: int) -> list[tuple[Box, float]]:
    """Return boxes that cover all that the filter reaches, with the chance that each had to be among them."""
    (n_rows, n_cols), problem = item.problem.size, item.problem
    starts = [range(-reach, n + reach, _SIDE) for n in (n_rows, n_cols)]
    boxes = [
        (r, c, min(_SIDE, n_rows + reach - r), min(_SIDE, n_cols + reach - c)) for r in starts[0] for c in starts[1]
    ]
    if n_rows * n_cols <= _PIXELS:
        return [(box, 1.0) for box in boxes]
    (down, across), spread = problem.geometry.stride, []
    for row, col, height, width in boxes:
        top, left = max(0, row), max(0, col)
        weights = item.weights[top : max(top, row + height), left : max(left, col + width)]
        block = problem.sources[0].block(top * down, left * across, (_SIDE, _SIDE))
        spread.append(float(np.sum(weights)) * float(block.var()))
    share = _PIXELS / (n_rows * n_cols)
    chance = np.minimum(1.0, share * (0.5 + 0.5 * np.array(spread) / max(float(np.mean(spread)), 1e-300)))
    kept = np.random.default_rng(0).random(len(boxes)) < chance
    return [(box, float(p)) for box, p, keep in zip(boxes, chance, kept, strict=True) if keep]
