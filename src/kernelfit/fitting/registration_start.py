"""Where a registration starts: turned and scaled copies of a small image held against the target, then a pyramid.

The phase correlation of small copies (C. D. Kuglin and D. C. Hines, "The phase correlation image alignment method",
Proc. IEEE Int. Conf. on Cybernetics and Society (1975) 163) finds the shift for each of some turns and scales, and the
rounds of the registration go from the coarsest binned pair to the finest.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..core import registration
from ..core.geometry import Shape
from ..core.model import Model, Noise, Selection, as_ends
from ..core.validation import Array
from ..data.masking import unmasked
from ..data.observation import as_planes
from ..data.warp import Spline
from .registration_columns import lags_of
from .registration_round import Place, Scene, Search, centroid_of

#: Shorter side of the smallest copies, about, and of the smallest pair that is looked at at all.
_SIDE, _LEAST = 48, 12
#: Turns in degrees, and scales, that are tried.
_TURNS, _SCALES = np.arange(-12.0, 12.1, 3.0), 1.06 ** np.arange(-2.0, 3.0)
#: Doublings of the pixels in the finest copies, and one less where their shorter side would be less than this, and from
#: one level to the next.
_FINEST, _FINE_SIDE, _DOUBLINGS = 2, 96, 2
#: Rounds of the smallest copies, and of the others, at most; a step of so few of their pixels is the last, and of fewer
#: where starts are compared by what they leave.
_FIRST, _MORE, _ENOUGH, _COMPARED = 8, 3, 0.7, 0.15
#: Standard deviation of what is taken off small copies as their slow part, in pixels.
_SLOW = 4.0
#: Share of the best score from which on a shift alone is tried as well.
_NEAR = 0.8


@dataclass(frozen=True, eq=False)
class Level:
    """A binned pair, and where its pixels stand in the image."""

    search: Search
    image: Array
    target: Array
    known: npt.NDArray[np.bool_]
    frame: Array  # (3, 3); takes pixels of the level to pixels of the image

    def down(self, matrix: Array) -> Array:
        """Return a motion of the image as one of the level."""
        return registration.scaled(np.linalg.inv(self.frame) @ matrix @ self.frame)

    def up(self, matrix: Array) -> Array:
        """Undo `down`."""
        return registration.scaled(self.frame @ matrix @ np.linalg.inv(self.frame))


def start_of(search: Search, images: Sequence[Any], bads: Sequence[Any]) -> tuple[Array, ...]:
    """Return a motion near the best one for each pair, from binned copies of it."""
    plan, out = search.plan(search.start), []
    targets = search.target if search.listed else [search.target]
    settings = dataclasses.replace(search.settings, noise=Noise())
    for pair, (scene, target, image, bad) in enumerate(zip(search.scenes, targets, images, bads, strict=True)):
        own = {name: getattr(search.selection, name) for name in ("mask", "weights")}
        own = {name: plan.of_pair(value, name, pair) for name, value in own.items()}
        selection = dataclasses.replace(search.selection, **own)
        model = dataclasses.replace(search.model, register=search.kind)
        out.append(_start_of(Search([scene], target, model, selection, settings), image, bad))
    return tuple(out)


def _start_of(search: Search, image: Any, bad: Any) -> Array:
    """Return a motion near the best one of a pair."""
    levels = _levels(search, image, bad)
    if not levels:
        return np.eye(3)
    first, *others = levels
    starts = _candidates(first)
    found = [_followed(first, matrix, _FIRST, _ENOUGH if len(starts) == 1 else _COMPARED) for matrix in starts]
    _, matrix = min(found, key=lambda pair: pair[0])
    matrix = first.up(matrix)
    for level in others:
        matrix = level.up(_followed(level, level.down(matrix), _MORE, _ENOUGH)[1])
    return matrix


def _followed(level: Level, matrix: Array, most: int, enough: float) -> tuple[float, Array]:
    """Return the residual of a level before the last step, and the matrix after it."""
    best, search = math.inf, level.search
    for _ in range(most):
        one = search.round(Place((matrix,)))
        fit = one.groups[0][0]
        left = fit.noise_std if math.isfinite(fit.noise_std) else math.inf
        found = centroid_of(one.taps, fit.convention)
        after = search.after(one, np.zeros(2) if found is None else found[0])
        length, best = search.length(one.place, after), min(best, left)
        if not length < 0.25 * min(search.scenes[0].shape):  # lost
            return math.inf, matrix
        matrix = after.matrices[0]
        if length < enough:
            break
    return best, matrix


def _levels(search: Search, image: Any, bad: Any) -> list[Level]:
    """Return binned pairs, the smallest first; of the smallest no more than a similarity is asked."""
    (whole,), model = search.scenes, search.model
    axis = whole.axis
    source, unknown = _mean(image, bad, axis, whole.shape)
    target, masked = unmasked(search.target)
    selection = search.selection
    planes = as_planes(target, "target", axis)
    size: Shape = (planes[0].shape[0], planes[0].shape[1])
    result, left_out = _mean(target, masked, axis, size)
    for mask in (selection.mask, None if selection.weights is None else np.asarray(selection.weights) <= 0):
        if mask is not None:
            np.logical_or(left_out, _flat(mask, axis, size), out=left_out)
    ends = as_ends(selection.saturated, planes[0].dtype)
    for plane in planes if ends is not None else []:
        values, (low, high) = np.asarray(plane), ends or (0.0, 0.0)
        hit = np.asarray((values <= low) | (values >= high))
        if float(hit.mean()) < 0.5:
            np.logical_or(left_out, hit, out=left_out)
    conv = search.plan(search.start).groups[0][0].geometry.convention
    starts, counts, corners = [], [], []
    axes = zip(whole.shape, size, conv.stride, conv.offset, lags_of(conv, model.kernel_shape), strict=True)
    for n, m, s, o, lags in axes:
        under = round(o - float(lags.mean()) - 0.5 * (s - 1))
        first = max(0, -(under // s))
        corners.append(under + s * first)
        starts.append(first)
        counts.append(min(m - first, (n - corners[-1]) // s))
    if min(counts) < _LEAST:
        return []
    deepest = max(0, int(math.log2(max(1, min(counts) / _SIDE))))
    finest = min(deepest, _FINEST - (min(counts) < _FINE_SIDE << _FINEST))
    out, built = [], finest
    for depth in [*range(finest, deepest, _DOUBLINGS), deepest]:
        step, more = 2**depth, 2 ** (depth - built)
        built = depth
        sides = [n // step for n in counts]
        both = [conv.stride[i] * step for i in (0, 1)]
        if depth == finest:
            small, small_bad = _binned(source, unknown, tuple(corners), both, sides)
            made, made_bad = _binned(result, left_out, tuple(starts), [step, step], sides)
        else:  # from the pixels of the level before
            small, small_bad = _binned(small, small_bad, (0, 0), [more, more], sides)
            made, made_bad = _binned(made, made_bad, (0, 0), [more, more], sides)
        frame = np.eye(3)
        for i in (0, 1):
            frame[i, i], frame[i, 2] = both[i], corners[i] + 0.5 * (both[i] - 1)
        taps = [2 * math.ceil(0.5 * k / f) + 3 for k, f in zip(model.kernel_shape, both, strict=True)]
        shape = tuple(max(1, min(k, (n // 4) | 1)) for k, n in zip(taps, sides, strict=True))
        small_kind = registration.KINDS.index("similarity") if depth == deepest else len(registration.KINDS)
        kind = registration.KINDS[min(registration.KINDS.index(search.kind or "shift"), small_kind)]
        plain = Model(shape, background=model.background or 0, register=kind)
        scene = Scene((Spline(small, small_bad, fine=False),), (sides[0], sides[1]), None, whole.workers)
        masked_target, pixel = np.ma.MaskedArray(made, made_bad), (both[0], both[1])
        level = Search(
            [scene], masked_target, plain, Selection(saturated=None), search.settings, pixel=pixel, coarse=True
        )
        out.append(Level(level, small, made, ~made_bad, frame))
    return out[::-1]


def _flat(mask: Any, axis: int | None, shape: Shape) -> npt.NDArray[np.bool_]:
    """Return where any channel is masked."""
    table: npt.NDArray[np.bool_] = np.asarray(mask, dtype=bool)
    if axis is not None and table.ndim == 3:
        table = np.asarray(table.any(axis=axis))
    return np.array(np.broadcast_to(table, shape))


def _mean(image: Any, bad: Any, axis: int | None, shape: Shape) -> tuple[Array, npt.NDArray[np.bool_]]:
    """Return the mean of the channels, zero where one is not known, and where that is."""
    planes = as_planes(image, "image", axis)
    total = np.array(planes[0][:, :], dtype=np.float64)
    for plane in planes[1:]:
        total += plane[:, :]
    unknown: npt.NDArray[np.bool_] = ~np.isfinite(total)
    if bad is not None:
        np.logical_or(unknown, _flat(bad, axis, shape), out=unknown)
    total /= len(planes)
    if unknown.any():
        total[unknown] = 0.0
    return total, unknown


def _binned(
    image: Array, bad: npt.NDArray[np.bool_], first: tuple[int, ...], step: list[int], sides: list[int]
) -> tuple[Array, npt.NDArray[np.bool_]]:
    """Return the means of blocks, and which are not known because most of their pixels are not."""
    (down, across), (rows, cols) = step, sides

    def added(values: Array) -> Array:
        part = values[first[0] : first[0] + down * rows, first[1] : first[1] + across * cols]
        tall, total = np.zeros((rows, part.shape[1])), np.zeros((rows, cols))
        for i in range(down):  # much quicker than sums over axes of a few pixels
            tall += part[i::down]
        for j in range(across):
            total += tall[:, j::across]
        return total / (down * across)

    if not bad.any():
        return added(image), np.zeros((rows, cols), dtype=bool)
    share = added(np.asarray(~bad, dtype=np.float64))
    return added(np.where(bad, 0.0, image)) / np.where(share > 0, share, 1.0), share <= 0.5


def _candidates(level: Level) -> list[Array]:
    """Return motions of a level to start from: a shift alone, and the best turn and scale with its shift."""
    import scipy.ndimage

    kind, shape = level.search.kind or "shift", level.search.scenes[0].shape
    turns = [0.0] if kind == "shift" else list(_TURNS)
    scales = [1.0] if kind in ("shift", "rigid") else list(_SCALES)

    def slow(values: Array) -> Array:
        return np.asarray(values - scipy.ndimage.gaussian_filter(values, _SLOW))

    window = np.multiply.outer(*(np.hanning(n + 2)[1:-1] for n in shape))
    target = np.where(level.known, level.target, level.target[level.known].mean() if level.known.any() else 0.0)
    spectrum = scipy.fft.rfft2(slow(target) * window, workers=1)
    image = slow(level.search.scenes[0].splines[0].at(np.eye(3), shape, 1)[0])
    middle, best = 0.5 * (np.array(shape) - 1.0), []
    for turn in turns:
        for scale in scales:
            c, s = math.cos(math.radians(turn)) / scale, math.sin(math.radians(turn)) / scale
            pixel = level.search.pixel[:2, :2]
            linear = np.linalg.inv(pixel) @ np.array([[c, s], [-s, c]]) @ pixel
            offset = middle - linear @ middle
            made = scipy.ndimage.affine_transform(image, linear, offset, order=1, mode="constant")
            cross = np.conj(scipy.fft.rfft2(made * window, workers=1)) * spectrum
            size = np.sqrt(np.abs(cross)) + 1e-300
            near = np.abs(scipy.fft.irfft2(cross / size, shape, workers=1))
            at = np.unravel_index(int(np.argmax(near)), shape)
            lag = np.array([a if 2 * a < n else a - n for a, n in zip(at, shape, strict=True)], dtype=np.float64)
            matrix = np.eye(3)
            matrix[:2, :2], matrix[:2, 2] = linear, offset - linear @ lag
            best.append((float(near[at] / size.mean()), turn == 0.0 and scale == 1.0, matrix))
    plain = max((one for one in best if one[1]), key=lambda one: one[0])
    top = max(best, key=lambda one: one[0])
    return [top[2]] if top[1] or plain[0] < _NEAR * top[0] else [plain[2], top[2]]
