"""A printed target found in a capture: by its texture, then tile by tile against what should be seen."""

from collections.abc import Iterator

import numpy as np
import scipy  # whose parts are imported when first used: some take a second

from ..core.validation import Array
from ..engines.forward import correlated
from .target_warp import Warp, rendered

#: Width (standard deviation) of the blur that is supposed before any is known, in pixels of the capture.
_BLUR = 0.6
#: Mean correlation of tiles from which a target is found, and that of a tile from which it counts.
FOUND, _COUNTS = 0.45, 0.3
#: Ratio of sides beyond which a part of the capture is no target.
_UNEVEN = 3.0
#: Pixels of a window in which texture is measured, and shares of the strongest to try.
_WINDOW, _LEVELS = 9, (0.35, 0.5, 0.25, 0.65)


def matched(capture: Array, pattern: Array, warp: Warp, reach: int, fine: int = 2) -> tuple[Warp, float]:
    """Return the warp under which tiles of the capture, within `reach`, look most like the pattern, and how much."""
    window = window_of(warp, capture.shape, reach + 2)
    seen = rendered(pattern, warp, window, fine, 2)
    blurred = scipy.ndimage.gaussian_filter(np.where(np.isnan(seen), np.nanmean(seen), seen), _BLUR * fine)
    model, inside = blurred[::fine, ::fine], ~np.isnan(seen[::fine, ::fine])
    part = capture[window[0] : window[1], window[2] : window[3]]
    size = int(np.clip(np.sqrt(inside.sum()) / 6, 10, 40))
    places, moves, scores = [], [], []
    for row in range(reach, part.shape[0] - size - reach + 1, size):
        for col in range(reach, part.shape[1] - size - reach + 1, size):
            around = slice(row - reach, row + size + reach), slice(col - reach, col + size + reach)
            if inside[row : row + size, col : col + size].mean() < 0.98 or inside[around].mean() < 0.5:
                continue
            score = _correlations(model[around], part[row : row + size, col : col + size])
            peak, best = _peak(score)
            places.append((row + (size - 1) / 2 + window[0], col + (size - 1) / 2 + window[2]))
            moves.append(peak - reach)
            scores.append(best)
    if len(places) < 6:
        return warp, 0.0
    at, by, score = np.array(places), np.array(moves), np.array(scores)
    good = score > min(_COUNTS, float(np.median(score)))
    cells = np.stack(warp(at[:, 0] + by[:, 0], at[:, 1] + by[:, 1]), axis=1)
    per_pixel = np.sqrt(abs(np.linalg.det(warp.matrix[:2, :2])))
    return warp.fitted(at[good, 0], at[good, 1], cells[good], score[good] / per_pixel), float(score.mean())


def _correlations(model: Array, tile: Array) -> Array:
    """Return the correlation coefficient of a tile with each place of a model."""
    flat = tile - tile.mean()
    ones = np.ones(tile.shape)
    total = correlated(model, ones)
    squares = correlated(model**2, ones)
    spread = np.maximum(squares - total**2 / tile.size, 1e-12 * max(float(squares.max()), 1e-300))
    common = correlated(model, flat)
    return np.asarray(common / np.sqrt(spread * max(float(np.sum(flat**2)), 1e-300)))


def _peak(score: Array) -> tuple[Array, float]:
    """Return the place of the largest correlation, between pixels by parabolas, and its value."""
    at = np.unravel_index(int(np.argmax(score)), score.shape)
    place = np.array(at, dtype=np.float64)
    for axis in (0, 1):
        if 0 < at[axis] < score.shape[axis] - 1:
            low, mid, high = (score[tuple(np.add(at, d * np.eye(2, dtype=int)[axis]))] for d in (-1, 0, 1))
            curve = low - 2 * mid + high
            place[axis] += 0.5 * (low - high) / curve if curve < 0 else 0.0
    return place, float(score[at])


def window_of(warp: Warp, shape: tuple[int, ...], spare: int = 0) -> tuple[int, int, int, int]:
    """Return first and last rows and columns of the capture that the target takes, and some beside it."""
    low = np.maximum(np.floor(warp.corners.min(axis=0)).astype(int) - spare, 0)
    high = np.minimum(np.ceil(warp.corners.max(axis=0)).astype(int) + 1 + spare, shape)
    return int(low[0]), int(high[0]), int(low[1]), int(high[1])


def aligned(capture: Array, pattern: Array, corners: Array, spoiled: float | None = None) -> tuple[Warp, float]:
    """Return the warp from corners `spoiled` by so many pixels (a sixteenth of the side), and how well it fits."""
    warp = Warp.of(corners, (pattern.shape[0], pattern.shape[1]))
    side = float(np.linalg.norm(np.roll(corners, 1, axis=0) - corners, axis=1).mean())
    reach = max(3, round(side / 16 if spoiled is None else spoiled))
    score = 0.0
    for radius in (reach, max(3, reach // 2), 2):
        warp, score = matched(capture, pattern, warp, radius)
    return warp, score


def detected(capture: Array, pattern: Array) -> tuple[Warp, float]:
    """Return the warp of a target that is somewhere in the capture, turned by any quarter, and how well tiles agree."""
    best: tuple[Warp, float] | None = None
    for corners in _quadrilaterals(capture):
        for turn in range(4):
            found = _quick(capture, pattern, np.roll(corners, turn, axis=0))
            if best is None or found[1] > best[1]:
                best = found
            if best[1] > FOUND + 0.1:
                return aligned(capture, pattern, best[0].corners, 4)
    if best is None:
        return Warp.of(np.array([[0, 0], [0, 1.0], [1, 1], [1, 0]]), (1, 1)), 0.0
    return aligned(capture, pattern, best[0].corners, 4)


def _quick(capture: Array, pattern: Array, corners: Array) -> tuple[Warp, float]:
    """Return what one or two looks make of corners."""
    warp = Warp.of(corners, (pattern.shape[0], pattern.shape[1]))
    side = float(np.linalg.norm(np.roll(corners, 1, axis=0) - corners, axis=1).mean())
    reach = max(4, round(side / 16))
    warp, score = matched(capture, pattern, warp, reach)
    return matched(capture, pattern, warp, reach) if score > 0.7 * _COUNTS else (warp, score)


def _quadrilaterals(capture: Array) -> Iterator[Array]:
    """Yield the corners of parts of a capture that are full of fine texture, the likeliest first."""
    # The median of what is left of a blur is small along edges and in plain parts, and large in noise alone.
    detail = np.abs(capture - scipy.ndimage.gaussian_filter(capture, 1.5))
    texture = scipy.ndimage.median_filter(detail, _WINDOW)
    seen: list[Array] = []
    for share in _LEVELS:
        labels, _ = scipy.ndimage.label(texture > share * np.percentile(texture, 99))
        sizes = np.bincount(labels.ravel())[1:]
        for label in np.argsort(sizes)[::-1][:2]:
            whole = scipy.ndimage.binary_fill_holes(labels == 1 + label)
            opened = scipy.ndimage.binary_opening(whole, iterations=max(2, int(np.sqrt(whole.sum()) / 12)))
            for region in (opened, whole):
                corners = _corners(region)
                if corners is not None and all(np.abs(corners - other).max() > 2 for other in seen):
                    seen.append(corners)
                    yield corners


def _corners(region: Array) -> Array | None:
    """Return the corners of a region that is about a quadrilateral, clockwise from top left, None if it is none."""
    rows, cols = np.nonzero(region)
    if len(rows) < 400:
        return None
    picks = [np.argmin(rows + cols), np.argmin(rows - cols), np.argmax(rows + cols), np.argmax(rows - cols)]
    corners = np.array([(rows[i], cols[i]) for i in picks], dtype=np.float64)
    y, x = corners.T
    area = 0.5 * abs(float(y @ np.roll(x, 1) - x @ np.roll(y, 1)))
    sides = np.linalg.norm(np.roll(corners, 1, axis=0) - corners, axis=1)
    plausible = 0.6 < len(rows) / max(area, 1.0) < 1.5 and float(sides.max()) < _UNEVEN * float(sides.min())
    return corners if plausible else None
