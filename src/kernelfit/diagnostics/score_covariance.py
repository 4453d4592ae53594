"""The covariance of the moments ``A'v`` under noise v that is correlated from pixel to pixel, from the pixels.

Without weights it is the Gram matrix of the image filtered as the noise is. With weights w the noise of a pixel is
``v[t] = u[t] / sqrt(w[t])``, u stationary with the autocovariance ``h * h``: where all weights are zero or one, noise
of one kind everywhere. So the moments ``sum_t w[t] P[t] v[t]`` are ``sum_z f_z e[z]`` with white e and
``f_z = sum_t h[t - z] sqrt(w[t]) P[t]``. Their covariance is ``sum_z f_z f_z'``.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import scipy.fft

from ..compiled.threads import in_order
from ..core.background import Elimination
from ..core.estimate import Estimate
from ..core.geometry import Shape
from ..core.model import Model
from ..core.validation import Array
from ..data import polyphase
from ..data.observation import Items, Observation, WeightedObservation, Weights, as_observation
from ..engines import weighted
from ..engines.accumulation import statistics
from ..engines.cost_model import engine_of
from ..solvers import sandwich

#: Side of the boxes of pixels that are filtered at a time, and the number of pixels up to which all are.
_SIDE = 32
_PIXELS = 2**18
#: Up to so many pixels an image is filtered whole, beyond that in this number of square blocks of that side.
_WHOLE = 2**22
_BLOCKS, _BLOCK = 16, 512
Box = tuple[int, int, int, int]


def correct(
    observations: Sequence[Observation],
    fit: Estimate,
    shaping: Array,
    workers: int,
    gram: Array | None = None,
    more: Array | None = None,
    weights: Sequence[Weights] | None = None,
) -> Estimate:
    """Return a fit with the covariance that noise of the autocovariance ``h * h`` gives it, h being `shaping`.

    If the solver was given another matrix than the pixels' own, that is `gram`; `more` is added to the covariance of
    the moments.
    """
    fit._covariance_factor()
    if not fit.noise_std > 0:
        return fit
    more = np.zeros((fit.kernel.size,) * 2) if more is None else more
    if weights is None and fit.background is None and len(observations[0].sources) == 1:
        own, found, n = plain_scores(observations, fit, shaping, workers)
        scale = fit.n_pixels / n
        fit = sandwich.with_scores(fit, own * scale if gram is None else gram, found * scale + more)
        return dataclasses.replace(fit, errors="sandwich")
    every = [np.broadcast_to(np.True_, p.size) for p in observations] if weights is None else weights
    items = [WeightedObservation(p, w) for p, w in zip(observations, every, strict=True)]
    eliminations = [_elimination(item, workers) for item in items]
    joint = [covariance(item, shaping, workers, e) for item, e in zip(items, eliminations, strict=True)]
    n_taps = fit.kernel.size
    gram = _weighted_gram(items, fit, workers) if gram is None else gram
    changed = sandwich.with_scores(fit, gram, np.sum([one[:n_taps, :n_taps] for one in joint], axis=0) + more)
    if fit.background is not None:
        # c - c0 = R (R'Phi'W v - half' (k - k0)), and k - k0 = C m / s^2 of the moments m
        stderr = []
        for one, elimination in zip(joint, eliminations, strict=True):
            assert elimination is not None
            half, root = elimination.half, elimination.root
            through = sandwich.inverse_of(fit) @ one[:n_taps, n_taps:]
            kernel = half.T @ changed.covariance() @ half
            middle = one[n_taps:, n_taps:] - half.T @ through - through.T @ half + kernel
            stderr.append(np.sqrt(np.maximum(np.einsum("ij,jk,ik->i", root, middle, root), 0.0)))
        before = fit.background.stderr
        table = np.where(np.isinf(before), before, np.reshape(stderr, before.shape))
        changed = dataclasses.replace(changed, background=dataclasses.replace(fit.background, stderr=table))
    return dataclasses.replace(changed, errors="sandwich")


def _elimination(item: WeightedObservation, workers: int) -> Elimination | None:
    """Return what eliminates the background of a pair, None without one."""
    if item.columns is None:
        return None
    sums, n_taps = weighted.border([item], workers), item.n_taps
    return Elimination.of(sums[:n_taps, n_taps:], sums[n_taps:, n_taps:], np.zeros((1, item.n_terms)))


def _weighted_gram(items: Items, fit: Estimate, workers: int) -> Array:
    """Return the weighted Gram matrix if it matters to the covariance, which is so under a prior alone."""
    if fit.uncertainty != "posterior":
        return np.zeros((fit.kernel.size,) * 2)
    return weighted.statistics(items, engine_of(items[0].observation), workers).gram


def plain_scores(
    observations: Sequence[Observation], fit: Estimate, shaping: Array, workers: int
) -> tuple[Array, Array, int]:
    """Return G and M, without weights, over the same blocks, and their number of pixels."""
    gram = filtered = np.zeros((fit.kernel.size,) * 2)
    n = 0
    for observation in observations:
        plan = observation.geometry
        least = [2 * len(shaping) * s + k for s, k in zip(plan.stride, plan.kernel_shape, strict=True)]
        blocks = _blocks(plan.extended_shape, (least[0], least[1]), plan.stride)
        for row, col, height, width in blocks:
            block = observation.sources[0].block(row, col, (height, width))
            plain, count = _gram(block, fit, workers)
            if len(shaping) == 1:
                gram, filtered, n = gram + plain, filtered + plain * shaping[0, 0] ** 2, n + count
                continue
            import scipy.signal

            own = _fitting(shaping, [-(-(n - k + 1) // s) for n, k, s in zip(
                (height, width), plan.kernel_shape, plan.stride, strict=True)], fit.kernel.size)  # fmt: skip
            # the noise lies on the target's pixels, so the filter reaches from phase to same phase
            apart = np.zeros([s * (n - 1) + 1 for s, n in zip(plan.stride, own.shape, strict=True)])
            apart[:: plan.stride[0], :: plan.stride[1]] = own
            part, fewer = _gram(scipy.signal.fftconvolve(block, apart, mode="valid"), fit, workers)
            gram, filtered, n = gram + plain, filtered + part * (count / fewer), n + count
    return gram, filtered, n


def _fitting(shaping: Array, spare: Sequence[int], n_taps: int) -> Array:
    """Return h, cut off so that more pixels than taps stay of a block's; the noise's variance stays what it was."""
    cut = shaping
    while len(cut) > 1 and (
        min(n - len(cut) for n in spare) < 0
        or math.prod(n - len(cut) + 1 for n in spare) < min(2 * n_taps, math.prod(spare))
    ):
        cut = cut[1:-1, 1:-1]
    return np.asarray(cut * math.sqrt(float(np.sum(shaping**2)) / float(np.sum(cut**2))))


def _blocks(shape: Shape, least: Shape, stride: Shape) -> list[tuple[int, int, int, int]]:
    """Cut blocks (row, col, height, width) out of an extended image: the whole, or some spread over it."""
    if shape[0] * shape[1] <= _WHOLE:
        return [(0, 0, *shape)]
    side = [min(n, max(_BLOCK, k)) for n, k in zip(shape, least, strict=True)]
    across = [max(1, min(n // s, round(math.sqrt(_BLOCKS)))) for n, s in zip(shape, side, strict=True)]
    starts = [
        [round((n - s) * (i + 0.5) / count) // step * step for i in range(count)]
        for n, s, count, step in zip(shape, side, across, stride, strict=True)
    ]
    return [(r, c, side[0], side[1]) for r in starts[0] for c in starts[1]]


def _gram(block: Array, fit: Estimate, workers: int) -> tuple[Array, int]:
    """Return the Gram matrix of a block of an extended image, and the number of pixels in it."""
    shape, stride = fit.kernel.shape, fit.convention.stride
    size = [-(-(n - k + 1) // s) for n, k, s in zip(block.shape, shape, stride, strict=True)]
    nothing = np.broadcast_to(np.zeros(1), size)
    model = Model(shape, mode="valid", operation=fit.convention.operation, stride=stride)
    observation = as_observation(block, nothing, model)
    stats = statistics(observation, engine_of(observation), workers)[0]
    return stats.gram, stats.n_pixels


def covariance(
    item: WeightedObservation, shaping: Array, workers: int, elimination: Elimination | None = None
) -> Array:
    """Return ``sum_z f_z f_z'`` of a pair, h being `shaping`, in the order of the user's taps.

    With a background the taps are without their part in it, and the columns ``Phi R`` of its `elimination` follow them.
    Of more than 2^18 pixels it is estimated, without bias, from some boxes of them, those of much structure likelier.
    """
    plan, observation = item.observation.geometry, polyphase.split(item.observation)
    (n_y, n_x), (n_rows, n_cols), reach = observation.geometry.kernel_shape, observation.size, len(shaping) // 2
    taps = len(observation.sources) * n_y * n_x
    order = polyphase.order(plan, len(item.observation.sources))
    rank = 0 if elimination is None else elimination.rank
    size = len(order) + rank

    def part(work: Sequence[tuple[Box, float]]) -> Array:
        total = np.zeros((size, size))
        for (row, col, height, width), chance in work:
            top, left = max(0, row - reach), max(0, col - reach)
            bottom, right = min(n_rows, row + height + reach), min(n_cols, col + width + reach)
            roots = np.sqrt(np.asarray(item.weights[top:bottom, left:right], dtype=np.float64))
            if not roots.any():
                continue
            shape = bottom - top + n_y - 1, right - left + n_x - 1
            blocks = np.stack([s.block(top, left, shape) for s in observation.sources])
            rows = np.lib.stride_tricks.sliding_window_view(blocks, roots.shape, (1, 2)).reshape(taps, *roots.shape)
            if elimination is not None and item.columns is not None:
                place = slice(top, bottom), slice(left, right)
                surfaces = np.stack([item.columns.surface(one, *place) for one in elimination.root.T])
                rows = rows[order] - np.tensordot(elimination.half, surfaces, 1)
                rows = np.concatenate([rows, surfaces])
            else:
                rows = rows[order]
            whole = [scipy.fft.next_fast_len(n + 2 * reach, real=True) for n in roots.shape]
            spectra = scipy.fft.rfft2(rows * roots, whole, workers=1)
            spectra *= scipy.fft.rfft2(shaping, whole, workers=1)
            filtered = scipy.fft.irfft2(spectra, whole, workers=1)
            first = row - top + reach, col - left + reach
            found = filtered[:, first[0] : first[0] + height, first[1] : first[1] + width].reshape(size, -1)
            total += (found @ found.T) / chance
        return total

    boxes = _boxes(item, reach)
    step = max(1, math.ceil(len(boxes) / 32))
    return np.asarray(sum(in_order([boxes[i : i + step] for i in range(0, len(boxes), step)], part, workers)))


def _boxes(item: WeightedObservation, reach: int) -> list[tuple[Box, float]]:
    """Return boxes that cover all that the filter reaches, with the chance that each had to be among them."""
    (n_rows, n_cols), observation = item.observation.size, item.observation
    starts = [range(-reach, n + reach, _SIDE) for n in (n_rows, n_cols)]
    boxes = [
        (r, c, min(_SIDE, n_rows + reach - r), min(_SIDE, n_cols + reach - c)) for r in starts[0] for c in starts[1]
    ]
    if n_rows * n_cols <= _PIXELS:
        return [(box, 1.0) for box in boxes]
    (down, across), spread = observation.geometry.stride, []
    for row, col, height, width in boxes:
        top, left = max(0, row), max(0, col)
        weights = item.weights[top : max(top, row + height), left : max(left, col + width)]
        block = observation.sources[0].block(top * down, left * across, (_SIDE, _SIDE))
        spread.append(float(np.sum(weights)) * float(block.var()))
    share = _PIXELS / (n_rows * n_cols)
    chance = np.minimum(1.0, share * (0.5 + 0.5 * np.array(spread) / max(float(np.mean(spread)), 1e-300)))
    kept = np.random.default_rng(0).random(len(boxes)) < chance
    return [(box, float(p)) for box, p, keep in zip(boxes, chance, kept, strict=True) if keep]
