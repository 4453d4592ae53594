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
        return np.asarray(self.scores.reshape(_N, 4, -1).sum(axis=1))

    def alone(self, which: Sequence[int], beside: Sequence[int]) -> tuple[Array, Array]:
        """Return the scores of some features less what others share with them, and their Gram matrix."""
        total = self.total
        mixed = self.gram[np.ix_(beside, which)]
        share = solved(self.gram[np.ix_(beside, beside)], mixed)
        return total[which] - share.T @ total[beside], self.gram[np.ix_(which, which)] - share.T @ mixed

    def differing(self, which: Sequence[int], *, alike: bool) -> list[tuple[int, float, float]]:
        """Return for features the number of tiles that tell, how their gains differ in sigmas, the residual's share."""
        weights: Array | float = np.stack([self.weights(f) for f in which]) if alike else 1.0
        first = np.flatnonzero(np.diff(self.tile, prepend=-1))  # cells of a tile follow each other

        def sums(of: Array) -> tuple[Array, Array]:
            return np.add.reduceat(of, first, axis=1), np.add.reduceat(of**2, first, axis=1)

        score, energy = self.total[which] * weights, self.energies[which] * weights
        (z, spread), energies = sums(score), np.add.reduceat(energy, first, axis=1)
        heard = spread > 1e-24 * spread.max(axis=1, keepdims=True)  # the residual of the others is but rounding
        # of a tile: the kernel's error, that of the loud ones, is common
        worth = np.where(heard, energies / np.where(heard, spread, 1.0), 0.0)
        gain = (z * worth).sum(axis=1) / np.maximum((energies * worth).sum(axis=1), 1e-300)
        z, spread = sums(score - gain[:, None] * energy)
        kept = (spread > 0) & (energies > 0)
        ratio = [np.divide(z**2, of, out=np.zeros_like(z), where=kept).sum(axis=1) for of in (spread, energies)]
        counts = kept.sum(axis=1)
        excess = (ratio[0] - counts) / np.sqrt(2 * np.maximum(1, counts))
        return [(int(n), float(e), float(r) / self.energy) for n, e, r in zip(counts, excess, ratio[1], strict=True)]

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
        return modulated(total, own, factors)


def modulated(total: Array, own: Array, factors: Sequence[Array]) -> tuple[Array, Array]:
    """Return scores (features, cells) times functions of the place, less the features themselves; their energies."""
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
    values, vectors = np.linalg.eigh(gram / np.outer(scale, scale))
    inverse = np.where(values > 1e-5 * values[-1], 1.0 / np.maximum(values, 1e-300), 0.0)
    return np.asarray((vectors * inverse) @ (vectors.T @ (right / scale[:, None])) / scale[:, None])


def chances(scores: Array) -> tuple[Array, Array, Array, Array]:
    """Return of scores (..., features, cells) the chance that they have the mean zero, F, and its two degrees."""
    size = np.sqrt(np.einsum("...jb,...jb->...j", scores, scores))
    unit = scores / np.where(size > 0, size, 1.0)[..., None]
    count = np.count_nonzero(unit.any(axis=-2), axis=-1)
    values, vectors = np.linalg.eigh(unit @ unit.swapaxes(-1, -2))
    good = values > 1e-6 * scores.shape[-2]
    n, along = good.sum(axis=-1), (unit.sum(axis=-1)[..., None, :] @ vectors)[..., 0, :]
    found = np.sum(along**2 / np.where(good, values, np.inf), axis=-1)
    told = (n > 0) & (count > n + 1)
    n, rest = np.maximum(n, 1), np.maximum(count - n, 1)
    ratio = found / n * rest / np.maximum(count - found, 1e-9 * np.maximum(count, 1))
    return np.where(told, scipy.special.fdtrc(n, rest, ratio), 1.0), ratio, n, rest


def hotelling(scores: Array, gram: Array, energy: float) -> tuple[float, float, str]:
    """Return the chance that scores (features, cells) have the mean zero, what they explain of r, and both in words."""
    chance, ratio, n, rest = (float(value) for value in chances(scores))
    if not chance < 1.0:
        return 1.0, 0.0, ""
    if not (chance < _LIKELY and energy > 0):
        return chance, 0.0, ""
    kept = scores.any(axis=1)
    total = scores[kept].sum(axis=1)[:, None]
    explained = float((total * solved(gram[np.ix_(kept, kept)], total)).sum()) / energy
    return chance, explained, f"F({n:.0f}, {rest:.0f}) = {ratio:.3g}"


def _prepared(part: samples.Sample) -> tuple[Single, float, float]:
    """Return the prediction less its mean, over its standard deviation, and quantiles of 5 and 95 %."""
    known = part.known[:, ::3, ::3] if part.known[:, ::3, ::3].any() else part.known
    step = 1 if known is part.known else 3
    seen = part.model[:, ::step, ::step][known]
    mean, spread = float(seen.mean()), float(seen.std())
    if not spread > _FLAT * float(np.abs(seen).max(initial=0.0)):
        spread = math.inf  # a prediction that varies by rounding alone tells of nothing
    m: Single = np.clip((part.model - mean) / spread, -_MOST_FAR, _MOST_FAR).astype(np.float32)
    if part.root is not None:
        m[~part.known] = 0.0
    ends = int(0.05 * (len(seen) - 1)), int(math.ceil(0.95 * (len(seen) - 1)))
    low, high = (np.partition(seen, ends)[list(ends)] - mean) / spread
    return m, float(low), float(high)


def _features(part: samples.Sample, prepared: tuple[Single, float, float], now: slice, out: Single) -> None:
    """Fill in the features, shape (13, tiles, rows, cols): a constant, those of `LOCAL` and those of `CURVED`."""
    # `out` begins as zeros, which its edges stay.
    m, known = prepared[0][now], part.known[now]
    inner = out[:, :, 1:-1, 1:-1]

    def at(row: int, col: int) -> Single:
        return m[:, 1 + row : m.shape[1] - 1 + row, 1 + col : m.shape[2] - 1 + col]

    below, above, right, left, here = at(1, 0), at(-1, 0), at(0, 1), at(0, -1), 2 * at(0, 0)
    out[0], out[1] = 1.0, m
    np.subtract(below, above, out=inner[2])
    np.subtract(right, left, out=inner[3])
    np.subtract(below + above, here, out=inner[4])
    np.subtract(right + left, here, out=inner[5])
    across = m[:, :, 2:] - m[:, :, :-2]
    np.subtract(across[:, 2:], across[:, :-2], out=inner[6])
    dy, dx = inner[2], inner[3]
    down, along = dy * dy, dx * dx
    slope = down + along
    np.sqrt(slope, out=inner[7])
    # the curvature of the lines of equal prediction times the slope, which is what a median filter evens out
    along *= inner[4]
    down *= inner[5]
    along += down
    along -= np.multiply(dx * dy, inner[6], out=down) * np.float32(0.5)
    slope += np.float32(1e-6 * float(slope.mean()) + 1e-30)
    np.divide(along, slope, out=inner[8])
    np.multiply(m, m, out=out[9])
    np.multiply(out[9], m, out=out[10])
    np.subtract(np.maximum(m, np.float32(prepared[2])), np.float32(prepared[2]), out=out[11])
    np.subtract(np.minimum(m, np.float32(prepared[1])), np.float32(prepared[1]), out=out[12])
    if part.root is not None:
        out *= part.root[now].astype(np.float32)
        # a neighbour that does not count is not known
        whole = known.copy()
        whole[:, 1:-1, 1:-1] = (
            known[:, 1:-1, 1:-1] & known[:, 2:, 1:-1] & known[:, :-2, 1:-1] & known[:, 1:-1, 2:] & known[:, 1:-1, :-2]
        )
        out[2:9, ~whole] = 0.0
        out[:, ~known] = 0.0


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
        height, width = down * side[0], across * side[1]
        # sums over the even and the odd columns of each cell, over those of its even columns
        x = np.arange(width)
        sum_cols = np.zeros((width, 2 * across), dtype=np.float32)
        sum_cols[x, 2 * (x // side[1]) + x % 2] = 1.0
        sum_few = np.ascontiguousarray(sum_cols[::2, ::2])
        left = (part.left / level).astype(np.float32)
        lefts.append(
            np.square(left)[:, :height, :width].reshape(n, down, side[0], across, side[1]).sum(axis=(2, 4)).ravel()
        )
        sums, squares = np.empty((_N, n, down, 2, 2 * across)), np.empty((7, n, down, across))
        prepared, (room, more) = _prepared(part), np.zeros((2, _N, min(n, _AT_ONCE), rows, cols), dtype=np.float32)
        for i in range(0, n, _AT_ONCE):
            now = slice(i, min(i + _AT_ONCE, n))
            features = room[:, : now.stop - i]
            _features(part, prepared, now, features)
            # rows before columns, by additions of whole rows and one product of matrices
            products = np.multiply(features, left[now], out=more[:, : now.stop - i])[:, :, :height, :width]
            by_rows = products.reshape(_N, -1, down, side[0] // 2, 2, width)
            sums[:, now] = (by_rows.sum(axis=3).reshape(-1, width) @ sum_cols).reshape(sums[:, now].shape)
            few = features[:, :, ::2, ::2]  # enough for what only centres and scales
            flat = few.reshape(_N, -1)
            gram += 4.0 * (flat @ flat.T)
            by_rows = np.square(few[:7, :, : height // 2, : width // 2]).reshape(7, -1, down, side[0] // 2, width // 2)
            squares[:, now] = (by_rows.sum(axis=3).reshape(-1, width // 2) @ sum_few).reshape(squares[:, now].shape)
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
