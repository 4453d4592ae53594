"""What of the residual a local change of the kernel would explain, cell by cell, and Hotelling's test of it."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.special

from ..core.validation import Array
from . import samples
from .tiles import Part, with_residuals

Single = npt.NDArray[np.float32]
#: Side of the cells, in pixels of the target, that count as independent.
_CELL = 16
#: A standard deviation of the prediction, relative to its largest value, that is rounding.
_FLAT = 1e-9
#: Standard deviations from the mean as which all further ones count: their sixth power is a number of single precision.
_MOST_FAR = 1e5
#: A misfit is likely where chance would make as much of it in so few cases.
_LIKELY = 0.01
#: The features of a local change of the kernel, after the constant, and those of a filter that is not linear.
LOCAL, CURVED, _N = range(1, 7), range(7, 13), 13
#: Cells are uneven where the mean square of their energies is so many times the square of the mean.
_UNEVEN = 2.0
#: Tiles at once, so that the cache holds their features.
_AT_ONCE = 4


@dataclass(frozen=True, eq=False)
class Cells:
    """Sums over cells."""

    scores: Array  # (features, 2, 2, cells); ``sum f r`` over the even and odd rows and columns of each cell
    energies: Array  # (features, cells); ``sum f^2``
    gram: Array  # (features, features); ``sum f f'`` over all
    place: Array  # (2, cells); row and column of each, from -1 to 1 over the longer side of the target
    tile: npt.NDArray[np.int64]  # (cells,); the tile it lies in
    left: Array  # (cells,); ``sum r^2``

    @functools.cached_property
    def energy(self) -> float:
        """The sum of all ``r^2``."""
        return float(self.left.sum())

    @functools.cached_property
    def uneven(self) -> bool:
        """Whether the residual of few cells outweighs that of all others."""
        return bool(_UNEVEN * self.energy**2 < len(self.left) * float(self.left @ self.left))

    def weights(self, feature: int) -> Array:
        """Return factors of the scores of a feature under which cells count alike, however loud they are."""
        size = self.energies[feature] * self.left
        found = np.where(size > 0, 1.0 / np.sqrt(np.where(size > 0, size, 1.0)), 0.0)
        return np.asarray(found * (self.energy / max(float(found @ self.left), 1e-300)))

    @functools.cached_property
    def total(self) -> Array:
        """The scores of whole cells, shape (features, cells)."""
        return np.asarray(self.scores.sum(axis=(1, 2)))

    def alone(self, which: Sequence[int], beside: Sequence[int]) -> tuple[Array, Array]:
        """Return the scores of some features less what others share with them, and their Gram matrix."""
        total = self.total
        mixed = self.gram[np.ix_(beside, which)]
        share = solved(self.gram[np.ix_(beside, beside)], mixed)
        return total[which] - share.T @ total[beside], self.gram[np.ix_(which, which)] - share.T @ mixed

    def differing(self, feature: int, *, alike: bool) -> tuple[int, float, float]:
        """Return the number of tiles that tell of a feature, how their gains differ in sigmas, the residual's share."""
        weights: Array | float = self.weights(feature) if alike else 1.0
        score, energy, n = self.total[feature] * weights, self.energies[feature] * weights, int(self.tile.max()) + 1
        z, spread, energies = (np.bincount(self.tile, v, n) for v in (score, score**2, energy))
        heard = spread > 1e-24 * spread.max()  # the residual of the others is but rounding
        # of a tile: the kernel's error, that of the loud ones, is common
        worth = np.where(heard, energies / np.where(heard, spread, 1.0), 0.0)
        own = score - float(z @ worth) / max(float(energies @ worth), 1e-300) * energy
        z, spread, energies = (np.bincount(self.tile, v, n) for v in (own, own**2, energy))
        kept = (spread > 0) & (energies > 0)
        z, spread, energies = z[kept], spread[kept], energies[kept]
        excess = float((z**2 / spread).sum() - len(z)) / math.sqrt(2 * max(1, len(z)))
        return len(z), excess, float((z**2 / energies).sum()) / self.energy

    def displaced(self) -> bool:
        """Return whether it is likely that the field is displaced linearly with the place."""
        return any(
            hotelling(*self.modulated(list(self.place), [2, 3], alike=alike), self.energy)[0] < _LIKELY
            for alike in {False, self.uneven}
        )

    def modulated(self, factors: Sequence[Array], which: Sequence[int], *, alike: bool = False) -> tuple[Array, Array]:
        """Return the scores of features times functions of the place, less the features themselves; their energies."""
        total, own = self.total[which], self.energies[which]
        if alike:
            weights = np.stack([self.weights(f) for f in which])
            total, own = total * weights, own * weights
        scores, energies = [], []
        for factor in factors:
            mean = (own @ factor) / np.maximum(own.sum(axis=1), 1e-300)
            around = factor - mean[:, None]
            scores.append(total * around)
            energies.append((own * around**2).sum(axis=1))
        return np.concatenate(scores), np.diag(np.concatenate(energies))


def solved(gram: Array, right: Array) -> Array:
    """Solve normal equations of features some of which may be zero or alike."""
    scale = np.sqrt(np.maximum(np.diag(gram), 1e-300))
    found = np.linalg.lstsq(gram / np.outer(scale, scale), right / scale[:, None], rcond=1e-5)[0]
    return np.asarray(found / scale[:, None])


def hotelling(scores: Array, gram: Array, energy: float) -> tuple[float, float, str]:
    """Return the chance that scores (features, cells) have the mean zero, what they explain of r, and both in words."""
    size = np.sqrt(np.einsum("jb,jb->j", scores, scores))
    kept = size > 0
    scores, gram = scores[kept] / size[kept, None], gram[np.ix_(kept, kept)]
    count = int(np.count_nonzero(scores.any(axis=0)))
    values, vectors = np.linalg.eigh(scores @ scores.T)
    good = values > 1e-6 * len(scores)
    n = int(good.sum())
    if n == 0 or count <= n + 1:
        return 1.0, 0.0, ""
    found = float(np.sum((vectors[:, good].T @ scores.sum(axis=1)) ** 2 / values[good]))
    ratio = found / n * (count - n) / max(count - found, 1e-9 * count)
    chance = float(scipy.special.fdtrc(n, count - n, ratio))
    if not (chance < _LIKELY and energy > 0):
        return chance, 0.0, ""
    total = scores.sum(axis=1)[:, None] * size[kept, None]
    return chance, float((total * solved(gram, total)).sum()) / energy, f"F({n}, {count - n}) = {ratio:.3g}"


def _prepared(part: samples.Sample) -> tuple[Single, float, float]:
    """Return the prediction less its mean, over its standard deviation, and quantiles of 5 and 95 %."""
    around = part.model - float(part.model[part.known].mean())
    known = part.known[:, ::3, ::3] if part.known[:, ::3, ::3].any() else part.known
    step = 1 if known is part.known else 3
    seen = around[:, ::step, ::step][known]
    spread = float(seen.std())
    if not spread > _FLAT * float(np.abs(part.model).max(initial=0.0)):
        spread = math.inf  # a prediction that varies by rounding alone tells of nothing
    m: Single = np.clip(around / spread, -_MOST_FAR, _MOST_FAR).astype(np.float32)
    if part.root is not None:
        m[~part.known] = 0.0
    low, high = np.quantile(m[:, ::step, ::step][known], [0.05, 0.95])
    return m, float(low), float(high)


def _features(part: samples.Sample, prepared: tuple[Single, float, float], now: slice) -> Single:
    """Return the features, shape (13, tiles, rows, cols): a constant, those of `LOCAL` and those of `CURVED`."""
    m, known = prepared[0][now], part.known[now]
    out = np.zeros((_N, *m.shape), dtype=np.float32)
    inner = out[:, :, 1:-1, 1:-1]

    def at(row: int, col: int) -> Single:
        return m[:, 1 + row : m.shape[1] - 1 + row, 1 + col : m.shape[2] - 1 + col]

    below, above, right, left, here = at(1, 0), at(-1, 0), at(0, 1), at(0, -1), at(0, 0)
    out[0], out[1] = 1.0, m
    inner[2], inner[3] = below - above, right - left
    inner[4], inner[5] = below + above - 2 * here, right + left - 2 * here
    inner[6] = at(1, 1) + at(-1, -1) - at(1, -1) - at(-1, 1)
    dy, dx = inner[2], inner[3]
    slope = dy * dy + dx * dx
    inner[7] = np.sqrt(slope)
    # the curvature of the lines of equal prediction times the slope, which is what a median filter evens out
    bend = dx * dx * inner[4] - 0.5 * dx * dy * inner[6] + dy * dy * inner[5]
    inner[8] = bend / (slope + np.float32(1e-6 * float(slope.mean()) + 1e-30))
    out[9] = m * m
    out[10] = out[9] * m
    out[11], out[12] = np.maximum(m - np.float32(prepared[2]), 0), np.minimum(m - np.float32(prepared[1]), 0)
    if part.root is not None:
        out *= part.root[now].astype(np.float32)
        # a neighbour that does not count is not known
        whole = known.copy()
        whole[:, 1:-1, 1:-1] = (
            known[:, 1:-1, 1:-1] & known[:, 2:, 1:-1] & known[:, :-2, 1:-1] & known[:, 1:-1, 2:] & known[:, 1:-1, :-2]
        )
        out[2:9, ~whole] = 0.0
        out[:, ~known] = 0.0
    return out


def evened(parts: list[Part]) -> list[Part]:
    """Return samples whose residuals are divided by their root mean square in cells, so that all cells are as loud."""
    every = []
    for _, part in parts:
        starts = [np.arange(0, n, _CELL) for n in part.left.shape[1:]]
        root = np.sqrt(
            [np.add.reduceat(np.add.reduceat(v, starts[0], 1), starts[1], 2) for v in (part.left**2, 1.0 * part.known)]
        )
        level = np.divide(root[0], root[1], out=np.full_like(root[0], np.inf), where=root[0] > 0)
        level = np.maximum(level, 1e-3 * level.max(where=root[0] > 0, initial=0.0))
        rows, cols = part.left.shape[1:]
        every.append(part.left / level.repeat(_CELL, 1)[:, :rows].repeat(_CELL, 2)[:, :, :cols])
    return with_residuals(parts, every, [p.known for _, p in parts])


def cells_of(parts: list[Part]) -> Cells:
    """Return the sums over cells of some samples."""
    scores, energies, places, tiles = [], [], [], []
    gram, before, lefts = np.zeros((_N, _N)), 0, []
    level = math.sqrt(sum(float(np.vdot(s.left, s.left)) for _, s in parts)) or 1.0
    for observation, part in parts:
        n, rows, cols = part.left.shape
        side = [max(2, min(_CELL, k // 4 // 2 * 2)) for k in (rows, cols)]
        down, across = rows // side[0], cols // side[1]
        # sums over the even and the odd rows and columns of each cell
        y, x = (np.arange(count * k) for count, k in zip((down, across), side, strict=True))
        sum_rows = np.zeros((2 * down, rows), dtype=np.float32)
        sum_cols = np.zeros((cols, 2 * across), dtype=np.float32)
        sum_rows[2 * (y // side[0]) + y % 2, y] = sum_cols[x, 2 * (x // side[1]) + x % 2] = 1.0
        left = (part.left / level).astype(np.float32)
        squares = np.square(left)[:, : down * side[0], : across * side[1]]
        lefts.append(squares.reshape(n, down, side[0], across, side[1]).sum(axis=(2, 4)).ravel())
        sums, squares = np.empty((_N, n, 2 * down, 2 * across)), np.empty((7, n, down, across))
        prepared = _prepared(part)
        for i in range(0, n, _AT_ONCE):
            now = slice(i, i + _AT_ONCE)
            features = _features(part, prepared, now)
            sums[:, now] = sum_rows @ (features * left[now] @ sum_cols)
            few = features[:, :, ::2, ::2]  # enough for what only centres and scales
            squares[:, now] = sum_rows[::2, ::2] @ (np.square(few[:7]) @ sum_cols[::2, ::2])
            flat = few.reshape(_N, -1)
            gram += 4.0 * (flat @ flat.T)
        sums = sums.reshape(_N, n, down, 2, across, 2).transpose(0, 3, 5, 1, 2, 4)
        scores.append(sums.reshape(_N, 2, 2, -1))
        energies.append(4.0 * squares.reshape(7, -1))
        plan = observation.geometry
        half = 0.5 * max(plan.target_shape)
        at = np.array(part.starts, dtype=np.float64) + plan.offset - 0.5 * (np.array(plan.target_shape) - 1)
        rows_at = at[:, 0, None] + side[0] * (np.arange(down) + 0.5) - 0.5
        cols_at = at[:, 1, None] + side[1] * (np.arange(across) + 0.5) - 0.5
        grid = np.stack(np.broadcast_arrays(rows_at[:, :, None], cols_at[:, None, :])) / half
        places.append(grid.reshape(2, -1))
        tiles.append(np.repeat(before + np.arange(n), down * across))
        before += n
    return Cells(
        np.concatenate(scores, axis=-1),
        np.concatenate(energies, axis=-1),
        gram,
        np.concatenate(places, axis=-1),
        np.concatenate(tiles),
        np.concatenate(lefts).astype(np.float64),
    )
