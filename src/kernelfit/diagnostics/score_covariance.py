"""The covariance of the moments ``A'v`` under noise v that is correlated from pixel to pixel, from the pixels.

Without weights it is the Gram matrix of the image filtered as the noise is. With weights w the noise of a pixel is
``v[t] = u[t] / sqrt(w[t])``, u stationary with the autocovariance ``h * h``: where all weights are zero or one, noise
of one kind everywhere. So the moments ``sum_t w[t] P[t] v[t]`` are ``sum_z f_z e[z]`` with white e and
``f_z = sum_t h[t - z] sqrt(w[t]) P[t]``. Their covariance is ``sum_z f_z f_z'``.

The noise of the two parts of complex images is ``v_i = sum_j h_ij * e_j`` of two white noises e, so that each of these
has its ``f_zj``, a sum over both parts i.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np
import scipy.fft

from ..compiled.threads import in_order
from ..core.background import Elimination
from ..core.estimate import Estimate
from ..core.model import Model
from ..core.validation import Array
from ..data.extent import Extent, Sides
from ..data.observation import Items, Observation, WeightedObservation, Weights, as_observation, lots
from ..data.volumes import lay_volume
from ..engines import weighted
from ..engines.accumulation import of_lot
from ..engines.cost_model import engine_of
from ..engines.forward import correlated
from ..solvers import sandwich

#: Side of the boxes of pixels that are filtered at a time, and the number of pixels up to which all are.
_SIDE = 32
_PIXELS = 2**18
#: Of more pixels than this share those that do not count are few.
_NEARLY_ALL = 0.9
#: Up to so many pixels an image is filtered whole, beyond that in this number of square blocks of that side.
_WHOLE = 2**22
_BLOCKS, _BLOCK = 16, 512
#: The same of volumes.
_CUBES, _CUBE = 8, 80
#: Taps that are filtered at a time, and pixels of all of them together that may be.
_ROWS, _POINTS = 64, 2**29
Box = tuple[Sides, Sides]  # start, shape


def correct(
    observations: Sequence[Observation],
    fit: Estimate,
    shaping: Array,
    workers: int,
    gram: Array | None = None,
    more: Array | None = None,
    weights: Sequence[Weights] | None = None,
    pixels: int = _PIXELS,
) -> Estimate:
    """Return a fit with the covariance that noise of the autocovariance ``h * h`` gives it, h being `shaping`."""
    # With `pixels` about so many tell it where each takes a row of the design; a constant, and pixels that do not count
    # if they are few, then are as good as nothing to the filtered image, whose mean is taken off. `gram` is what the
    # solver was given, if that is not the pixels' own; `more` adds to the covariance of the moments.
    fit._covariance_factor()
    if not fit.noise_std > 0:
        return fit
    more = np.zeros((fit.kernel.size,) * 2) if more is None else more
    two = shaping.ndim == 4
    plain, background = weights is None and fit.background is None, fit.background
    if pixels < _PIXELS and (background is None or background.degree == 0):
        plain = fit.n_pixels > _NEARLY_ALL * sum(one.geometry.n_pixels for one in observations)
    if plain and len(observations[0].supports) == 1 and not two:
        own, found, n = plain_scores(observations, fit, shaping, workers, centred=background is not None)
        scale = fit.n_pixels / n
        fit = sandwich.with_scores(fit, own * scale if gram is None else gram, found * scale + more)
        if background is not None:
            slow = abs(float(shaping.sum())) / math.sqrt(float(np.sum(shaping**2)))
            background = dataclasses.replace(background, stderr=background.stderr * slow)
        return dataclasses.replace(fit, errors="sandwich", background=background)
    every = [np.broadcast_to(np.True_, p.size) for p in observations] if weights is None else weights
    items = [WeightedObservation(p, w) for p, w in zip(observations, every, strict=True)]
    extents = Extent.each(observations)
    apart = [[items[i] for i in lot] for lot in lots(observations)]
    eliminations = [_elimination(some, workers) for some in apart]
    given = [[item.weights for item in some] for some in apart]
    at_once = [slice(i, i + 1 + two) for i in range(0, len(apart), 1 + two)]  # both parts of complex pairs
    shaping = shaping if two else shaping[None, None]
    joint = [covariance(extents[s], given[s], shaping, workers, eliminations[s], pixels) for s in at_once]
    n_taps = fit.kernel.size
    if gram is None and fit.uncertainty == "posterior":  # with it alone the covariance has the weighted Gram matrix
        gram = weighted.statistics(items, engine_of(items[0].observation), workers).gram
    elif gram is None:
        gram = np.zeros((n_taps, n_taps))
    changed = sandwich.with_scores(fit, gram, np.sum([one[:n_taps, :n_taps] for one in joint], axis=0) + more)
    if fit.background is not None:
        # c - c0 = R (R'Phi'W v - half' (k - k0)), and k - k0 = C m / s^2 of the moments m
        stderr = []
        for one, s in zip(joint, at_once, strict=True):
            both = [e for e in eliminations[s] if e is not None]
            half, root = np.hstack([e.half for e in both]), scipy.linalg.block_diag(*(e.root for e in both))
            through = sandwich.inverse_of(fit) @ one[:n_taps, n_taps:]
            kernel = half.T @ changed.covariance() @ half
            middle = one[n_taps:, n_taps:] - half.T @ through - through.T @ half + kernel
            stderr.append(np.sqrt(np.maximum(np.einsum("ij,jk,ik->i", root, middle, root), 0.0)))
        before = fit.background.stderr
        table = np.where(np.isinf(before), before, np.reshape(stderr, before.shape))
        changed = dataclasses.replace(changed, background=dataclasses.replace(fit.background, stderr=table))
    return dataclasses.replace(changed, errors="sandwich")


def _elimination(items: Items, workers: int) -> Elimination | None:
    """Return what eliminates the background of a pair or a volume, None without one."""
    if items[0].columns is None:
        return None
    sums, n_taps, nothing = weighted.border(items, workers), items[0].n_taps, np.zeros((1, items[0].n_terms))
    return Elimination.of(sums[:n_taps, n_taps:], sums[n_taps:, n_taps:], nothing)


def plain_scores(
    observations: Sequence[Observation], fit: Estimate, shaping: Array, workers: int, *, centred: bool = False
) -> tuple[Array, Array, int]:
    """Return G and M, without weights, over the same blocks, and their number of pixels; of blocks less their mean."""
    gram = filtered = np.zeros((fit.kernel.size,) * 2)
    n = 0
    for extent in Extent.each(observations):
        kernel, stride = extent.kernel, extent.stride
        least = [2 * len(shaping) * s + k for s, k in zip(stride, kernel, strict=True)]
        for start, side in _blocks(extent.extended, least, stride):
            (block,) = extent.block(start, side)
            block = block - block.mean() if centred else block
            plain, count = _gram(block, fit, workers)
            if len(shaping) == 1:
                gram, filtered, n = gram + plain, filtered + plain * float(shaping.ravel()[0]) ** 2, n + count
                continue
            spare = [-(-(n - k + 1) // s) for n, k, s in zip(side, kernel, stride, strict=True)]
            own = _fitting(shaping, spare, fit.kernel.size)
            # the noise lies on the target's pixels, so the filter reaches from phase to same phase
            apart = np.zeros([s * (n - 1) + 1 for s, n in zip(stride, own.shape, strict=True)])
            apart[tuple(slice(None, None, s) for s in stride)] = own
            part, fewer = _gram(correlated(block, np.flip(apart), workers), fit, workers)
            gram, filtered, n = gram + plain, filtered + part * (count / fewer), n + count
    return gram, filtered, n


def _fitting(shaping: Array, spare: Sequence[int], n_taps: int) -> Array:
    """Return h, cut off so that more pixels than taps stay of a block's; the noise's variance stays what it was."""
    cut = shaping
    while len(cut) > 1 and (
        min(n - len(cut) for n in spare) < 0
        or math.prod(n - len(cut) + 1 for n in spare) < min(2 * n_taps, math.prod(spare))
    ):
        cut = cut[(slice(1, -1),) * cut.ndim]
    return np.asarray(cut * math.sqrt(float(np.sum(shaping**2)) / float(np.sum(cut**2))))


def _blocks(shape: Sides, least: Sequence[int], stride: Sides) -> list[tuple[Sides, Sides]]:
    """Cut blocks (start, shape) out of an extended image: the whole, or some spread over it."""
    if math.prod(shape) <= _WHOLE:
        return [((0,) * len(shape), shape)]
    most, edge = (_BLOCKS, _BLOCK) if len(shape) == 2 else (_CUBES, _CUBE)
    side = tuple(min(n, max(edge, k)) for n, k in zip(shape, least, strict=True))
    across = [max(1, min(n // s, round(most ** (1 / len(shape))))) for n, s in zip(shape, side, strict=True)]
    starts = [
        [round((n - s) * (i + 0.5) / count) // step * step for i in range(count)]
        for n, s, count, step in zip(shape, side, across, stride, strict=True)
    ]
    return [(start, side) for start in itertools.product(*starts)]


def _gram(block: Array, fit: Estimate, workers: int) -> tuple[Array, int]:
    """Return the Gram matrix of a block of an extended image, and the number of pixels in it."""
    shape, stride = fit.kernel.shape, fit.convention.stride
    size = [-(-(n - k + 1) // s) for n, k, s in zip(block.shape, shape, stride, strict=True)]
    nothing = np.broadcast_to(np.zeros(1), size)
    model = Model(shape, mode="valid", operation=fit.convention.operation, stride=stride)
    if block.ndim == 2:
        observations = [as_observation(block, nothing, model)]
    else:
        observations = lay_volume([list(block)], [list(nothing)], model, 0, "")
    (stats,) = of_lot(observations, engine_of(observations[0]), workers)
    return stats.gram, stats.n_pixels


def covariance(
    extents: Sequence[Extent],
    weights: Sequence[Sequence[Weights]],
    shaping: Array,
    workers: int,
    eliminations: Sequence[Elimination | None],
    most: int = _PIXELS,
) -> Array:
    """Return ``sum_z f_z f_z'`` of a pair or a volume, h being `shaping`, in the order of the user's taps."""
    # Of complex pairs there are two extents, with the weights of either, and h is of shape (2, 2, ...); else (1, 1,
    # ...). With a background the taps are without their part in it, and the columns ``Phi R`` of its elimination follow
    # them. Of more than `most` pixels it is estimated, without bias, from some boxes of them, those of much structure
    # likelier.
    extent, n = extents[0], len(extents)
    taps, reach, ndim = list(extent.taps()), shaping.shape[-1] // 2, shaping.ndim - 2
    ranks = [0 if e is None else e.rank for e in eliminations]
    size, axes = len(taps) + sum(ranks), tuple(range(1, ndim + 1))

    def rows_of(i: int, at: int, blocks: Array, spans: Sequence[int], beside: Array) -> Array:
        """Return some rows of the design of a part: of its taps, its background, and none of another's."""
        rows = [
            blocks[s][tuple(slice(a, a + n, k) for a, n, k in zip(p, spans, extent.stride, strict=True))]
            for s, *p in taps[at : at + _ROWS]
        ]
        some, e, before = np.reshape(rows, (len(rows), *beside.shape[1:])), eliminations[i], len(taps) + sum(ranks[:i])
        if e is None:
            return some
        some = some - np.tensordot(e.half[at : at + len(rows)], beside, 1)
        more = np.zeros((min(size - at, _ROWS) - len(rows), *beside.shape[1:]))
        first, last = max(at + len(rows), before), min(at + _ROWS, before + ranks[i])
        if first < last:
            more[first - at - len(rows) : last - at - len(rows)] = beside[first - before : last - before]
        return np.concatenate([some, more])

    def part(work: Sequence[tuple[Box, float]]) -> Array:
        total = np.zeros((size, size))
        for (start, side), chance in work:
            first = [max(0, s - reach) for s in start]
            last = [min(n, s + k + reach) for s, k, n in zip(start, side, extent.size, strict=True)]
            inside = [slice(a, b) for a, b in zip(first, last, strict=True)]
            roots = [np.sqrt(one.weights(w, inside)) for one, w in zip(extents, weights, strict=True)]
            if not any(root.any() for root in roots):
                continue
            shape = roots[0].shape
            spans = [s * (n - 1) + 1 for s, n in zip(extent.stride, shape, strict=True)]
            corner = [s * a for s, a in zip(extent.stride, first, strict=True)]
            halo = [n + k - 1 for n, k in zip(spans, extent.kernel, strict=True)]
            whole = [scipy.fft.next_fast_len(n + 2 * reach, real=True) for n in shape]
            # of a moment's own noise: h turned round
            responses = scipy.fft.rfftn(np.flip(shaping, axis=tuple(range(2, ndim + 2))), whole, workers=1)
            kept = tuple(slice(s - a + reach, s - a + reach + k) for s, a, k in zip(start, first, side, strict=True))
            found = np.zeros((n, size, math.prod(side)))
            for i, one in enumerate(extents):
                blocks, e = one.block(corner, halo), eliminations[i]
                beside = np.zeros((0, *shape))
                if e is not None:
                    beside = np.stack([one.surface(column, inside) for column in e.root.T])
                for at in range(0, size, _ROWS):
                    some = rows_of(i, at, blocks, spans, beside)
                    spectra = scipy.fft.rfftn(some * roots[i], whole, axes=axes, workers=1)
                    for j in range(n):
                        filtered = scipy.fft.irfftn(spectra * responses[i, j], whole, axes=axes, workers=1)
                        found[j, at : at + len(some)] += filtered[(slice(None), *kept)].reshape(len(some), -1)
            total += sum(each @ each.T for each in found) / chance
        return total

    boxes = _boxes(extent, weights[0], reach, most)
    step = max(1, math.ceil(len(boxes) / 32))
    return np.asarray(sum(in_order([boxes[i : i + step] for i in range(0, len(boxes), step)], part, workers)))


def _boxes(extent: Extent, weights: Sequence[Weights], reach: int, most: int) -> list[tuple[Box, float]]:
    """Return boxes that cover all that the filter reaches, with the chance that each had to be among them."""
    size = extent.size
    edge = _SIDE if len(size) == 2 else _SIDE // 2
    starts = itertools.product(*(range(-reach, n + reach, edge) for n in size))
    boxes: list[Box] = [
        (start, tuple(min(edge, n + reach - s) for s, n in zip(start, size, strict=True))) for start in starts
    ]
    if len(size) == 3:  # in which a filter reaches far beyond a box
        growth = math.prod(1 + 4 * reach / min(edge, n) for n in size)
        most = min(most, max(2 * edge**3, int(_POINTS / (growth * math.prod(extent.kernel)))))
    if math.prod(size) <= most:
        return [(box, 1.0) for box in boxes]
    spread = []
    for start, side in boxes:
        corner = [max(0, s) for s in start]
        part = [slice(c, max(c + 1, s + k)) for c, s, k in zip(corner, start, side, strict=True)]
        some = all(p.start < n for p, n in zip(part, size, strict=True))
        inside = float(extent.weights(weights, part).sum()) if some else 0.0
        block = extent.block([c * s for c, s in zip(corner, extent.stride, strict=True)], (edge,) * len(size))
        spread.append(inside * float(block[0].var()))
    share = most / math.prod(size)
    chance = np.minimum(1.0, share * (0.5 + 0.5 * np.array(spread) / max(float(np.mean(spread)), 1e-300)))
    kept = np.random.default_rng(0).random(len(boxes)) < chance
    return [(box, float(p)) for box, p, keep in zip(boxes, chance, kept, strict=True) if keep]
