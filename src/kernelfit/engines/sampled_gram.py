"""The weighted Gram matrix of pairs, nearly: that of weights b that vary slowly, and a sample of what they lack.

``sum_t w P P' = sum_t b P P' + sum_t (w - b) P P'``. The first has the lag structure of unweighted sums, if b is a
function of the row times one of the column whose root multiplies the image and the target. The second is small but near
bright pixels of the image, where noise and weights change: patches are drawn with a chance of their ``|w - b|`` times
the variance around them, and divided by it, so that the sum is unbiased and what matters most is in it for certain
(control variates and importance sampling: A. Owen, "Monte Carlo theory, methods and examples", 2013, chapters 8, 9).

Where the kernel varies the patches of tiles are multiplied instead, as if its functions of the place were even there.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..compiled.threads import Progress, in_order
from ..core.geometry import Geometry
from ..core.validation import Array
from ..core.variation import Separable
from ..data import polyphase
from ..data.masking import times_weights
from ..data.observation import (
    Items,
    WeightedObservation,
    lots_of,
    n_unknowns,
    of_lots,
    own_unknowns,
    surface_readers,
    together,
)
from ..data.reader import Reader
from ..solvers.cholesky import scaled_factor, times
from . import accumulation, patches
from .weighted import bordered

#: Multiply-adds for each pixel that a sample may cost; fewer patches for each unknown are no use, nor are more.
WORK, LEAST, MOST = 600.0, 5, 400
#: Weights that vary less over the target are taken to be even.
_EVEN = 0.05
#: Tiles along each axis whose medians tell how weights vary, the fewest rows or columns of one, and the degree.
_TILES, _SIDE, _DEGREE = 12, 16, 3
#: Pixels of such a share of the slow weight have little left of what is in the base, which is taken off exactly.
_DIM = 0.5
#: Bands of rows, and patches multiplied at a time.
_BANDS, _CHUNK = 16, 2048
#: Multiply-adds for each pixel that all patches may cost where the kernel varies; tiles along each axis there.
_TILED, _PARTS = 1e5, 8
#: Share of the patches of a tile that are multiplied for certain, of the others at least, and of them for each unknown.
_WHOLE, _KEPT, _ENOUGH = 0.25, 0.125, 50


class Base(NamedTuple):
    """Gram matrices of weights that vary slowly, and these."""

    grams: tuple[Array, ...]  # of each pair, or volume, over its unknowns
    levels: tuple[Separable, ...]  # of each item, on its target
    #: the sources of each item times the root of these at the middle of the kernel; None where they are even
    sources: tuple[tuple[Reader, ...] | None, ...]
    moment: Array  # of the targets, over all unknowns


def tile_medians(values: Array, used: npt.NDArray[np.bool_], size: tuple[int, int]) -> Array:
    """Return the medians of tiles of an array, or of some of its rows and columns; NaN where nothing is used."""
    counts = [max(1, min(_TILES, n // _SIDE)) for n in size]
    rows, cols = (np.array_split(np.arange(n), k) for n, k in zip(values.shape, counts, strict=True))
    out = np.full(counts, np.nan)
    for i, j in np.ndindex(*counts):
        part = np.ix_(rows[i], cols[j])
        if used[part].any():
            out[i, j] = np.median(values[part][used[part]])
    return out


def smooth(table: Array, size: tuple[int, int]) -> Separable:
    """Return a positive function of the row times one of the column, from its values in the middle of tiles."""
    used = np.isfinite(table) & (table > 0)
    if not used.any():
        return Separable(np.ones(size[0]), np.ones(size[1]))
    tiles = [(np.arange(k) + 0.5) / k for k in table.shape]
    degrees = [_DEGREE if k > _DEGREE else 0 for k in table.shape]
    i, j = np.nonzero(used)
    value = np.log(table[used])

    def powers(at: Array, degree: int) -> Array:
        return np.asarray(np.polynomial.legendre.legvander(2 * at - 1, degree)[:, 1:], dtype=np.float64)

    design = np.hstack([np.ones((len(i), 1)), powers(tiles[0][i], degrees[0]), powers(tiles[1][j], degrees[1])])
    found = np.linalg.lstsq(design, value, rcond=None)[0]
    if len(i) <= 2 * design.shape[1] or np.ptp(design @ found) < _EVEN:
        found = np.r_[np.median(value), np.zeros(design.shape[1] - 1)]
    first = 1 + degrees[0]
    places = [(np.arange(n) + 0.5) / n for n in size]
    down = found[0] + powers(places[0], degrees[0]) @ found[1:first]
    return Separable(np.exp(down), np.exp(powers(places[1], degrees[1]) @ found[first:]))


def levels_of(items: Items, tables: Sequence[Array] | None = None) -> list[Separable]:
    """Return how the weights of pairs vary, nearly, from the medians of tiles; those of a volume's planes are even."""
    found, levels = list(tables or ()), dict[int, Separable]()
    for item in items if tables is None else ():
        rows, cols = item.weights.shape
        some = np.asarray(item.weights[:: max(1, rows // 128), :: max(1, cols // 128)], dtype=np.float64)
        found.append(tile_medians(some, some > 0, (rows, cols)))
    for lot in lots_of(items):
        if len(lot) == 1 and items[lot[0]].observation.plane is None:
            levels[lot[0]] = smooth(found[lot[0]], items[lot[0]].weights.shape)
            continue
        every = np.concatenate([found[at].ravel() for at in lot])
        middle = float(np.nanmedian(every[every > 0])) if (every > 0).any() else 1.0
        for at in lot:
            levels[at] = smooth(np.full((1, 1), middle), items[at].weights.shape)
    return [levels[at] for at in range(len(items))]


def start_of(items: Items, base: Base, solve: Callable[[Array], Array]) -> Array:
    """Return unknowns that differ from the solution by noise, or if pixels are left out by the error of `solve`."""
    if any(item.n_pixels < item.observation.geometry.n_pixels for item in items):
        return solve(base.moment)
    inverse = scaled_factor(together(items, base.grams))
    return np.asarray(times(inverse, times(inverse.T, base.moment)))


class _Scaled:
    """An array that is multiplied by a function of the row and one of the column when it is read."""

    def __init__(self, array: Any, level: Separable) -> None:
        self.array, self.whole, self.shape, self.level = array, getattr(array, "whole", array), array.shape, level

    def __getitem__(self, key: tuple[slice, slice]) -> Array:
        block = np.array(self.array[key], dtype=np.float64)
        block *= self.level.down[key[0], None]
        block *= self.level.across[key[1]]
        return block


def _scaled(
    readers: Sequence[Reader], level: Separable, power: float, plan: Geometry | None = None
) -> tuple[Reader, ...]:
    """Return readers of arrays times a power of a function of the target's pixels; `plan` if they are of the image."""
    halves, stride = [0.0, 0.0], (1, 1)
    if plan is not None:
        halves, stride = [(k - 1) / 2 for k in plan.kernel_shape], plan.stride
    found: dict[int, _Scaled] = {}
    for reader in readers:
        if id(reader.array) not in found:
            own = []
            for values, n, before, half, step in zip(
                (level.down, level.across), reader.array.shape, reader.before, halves, stride, strict=True
            ):
                at = (np.arange(n) + before - half) / step
                own.append(np.interp(at, np.arange(len(values)), values) ** power)
            found[id(reader.array)] = _Scaled(reader.array, Separable(*own))
    return tuple(dataclasses.replace(reader, array=found[id(reader.array)]) for reader in readers)


def _even(level: Separable) -> bool:
    return bool(np.ptp(level.down) == 0 and np.ptp(level.across) == 0)


def base_of(
    items: Items, levels: Sequence[Separable], method: str, workers: int, progress: Progress | None = None
) -> Base:
    """Read the pixels once, for the sums of weights that vary slowly; those of the planes of a volume are even."""
    # The moment is that of the pairs' own weights if they leave pixels out, else that of the slow ones.
    grams, moments, taps = [], [], items[0].n_taps
    read: dict[int, tuple[Reader, ...] | None] = dict.fromkeys(range(len(items)))
    partial = any(item.n_pixels < item.observation.geometry.n_pixels for item in items)
    for lot in lots_of(items):
        scaled, squares, beside = [], np.zeros((items[0].n_terms,) * 2), np.zeros(items[0].n_terms)
        even = all(_even(levels[at]) for at in lot)
        for at in lot:
            item, level = items[at], levels[at]
            one, surfaces = times_weights(item) if partial else item.observation, surface_readers(item.observation)
            if item.columns is not None:
                values = np.multiply.outer(level.down, level.across)
                squares += item.columns.gram(values)
                beside += _of_terms(item, one.targets[0], None if partial else values)
            if even:
                scaled.append(dataclasses.replace(one, targets=one.targets + surfaces))
                continue
            read[at] = sources = _scaled(one.sources, level, 0.5, one.geometry)
            targets = _scaled(one.targets, level, -0.5 if partial else 0.5) + _scaled(surfaces, level, 0.5)
            scaled.append(dataclasses.replace(one, sources=sources, targets=targets))
        stats, *terms = accumulation.of_lot(scaled, method, workers, progress)
        mean = float(levels[lot[0]].down[0] * levels[lot[0]].across[0]) if even else 1.0
        gram = bordered(items[lot[0]], mean * stats.gram, [mean * one.moment for one in terms])
        gram[taps:, taps:] = squares
        grams.append(gram)
        moments.append(np.concatenate([stats.moment if partial else mean * stats.moment, beside]))
    return Base(tuple(grams), tuple(levels), tuple(read.values()), together(items, moments))


def _of_terms(item: WeightedObservation, target: Reader, values: Array | None) -> Array:
    """Return the products of a target, perhaps times a value for each pixel, with the background's terms."""
    assert item.columns is not None
    (n_rows, n_cols), total = item.weights.shape, np.zeros(item.n_terms)
    height = max(1, 2**16 // n_cols)
    for row in range(0, n_rows, height):
        block = target.block(row, 0, (min(height, n_rows - row), n_cols))
        total += item.columns.products(block if values is None else block * values[row : row + height], row, 0)
    return total


def sample_size(items: Items) -> int:
    """Return the number of patches that a sample may have; 0 if they would be too few, or too dear."""
    n, m = sum(item.observation.geometry.n_pixels for item in items), items[0].n_taps
    if items[0].observation.geometry.convention.field is not None:
        return n if 0.5 * (m // _functions(items[0])) ** 2 <= _TILED else 0
    wanted = min(n, MOST * m, int(WORK * n / (0.5 * m**2)))
    return wanted if wanted >= min(n, LEAST * m) else 0


def _functions(item: WeightedObservation) -> int:
    """Return the number of functions of the place by which the kernel varies."""
    field = item.observation.geometry.convention.field
    return 1 if field is None else field.n


def sampled(items: Items, base: Base, workers: int) -> Array | None:
    """Return the Gram matrix of all unknowns, what the base lacks from a fixed sample; None if that is too small."""
    wanted = sample_size(items)
    if not wanted:
        return None
    if items[0].observation.geometry.convention.field is not None:
        return together(items, of_lots(items, (_of_tiles(item, workers) for item in items)))
    total = together(items, base.grams)
    bands = []
    for at, item in enumerate(items):
        n_rows = item.weights.shape[0]
        height = max(item.observation.geometry.phase_shape[0], -(-n_rows // _BANDS))
        bands += [(at, row, min(height, n_rows - row)) for row in range(0, n_rows, height)]
    typical = max(float(np.mean([_typical(item) for item in items])), 1e-300)
    scores = list(in_order(bands, lambda b: _score(items[b[0]], base.levels[b[0]], b[1], b[2], typical), workers))
    factor = _factor(scores, wanted) if wanted < sum(score.size for score in scores) else None
    work = [(*band, score) for band, score in zip(bands, scores, strict=True)]

    def job(some: tuple[int, int, int, Array]) -> tuple[int, Array | None]:
        at, row, height, score = some
        rng = np.random.default_rng([at, row])
        chance = np.minimum(1.0, factor * score) if factor is not None else (score > 0).astype(np.float64)
        kept = rng.random(chance.shape) < chance
        return at, _products(items[at], base.levels[at], base.sources[at], row, kept, chance)

    owners = {at: number for number, lot in enumerate(lots_of(items)) for at in lot}
    for at, found in in_order(work, job, workers):
        if found is not None:
            own = own_unknowns(items, owners[at])
            if len(own) == n_unknowns(items):
                total += found
            else:
                total[np.ix_(own, own)] += found
    return total


def _factor(scores: Sequence[Array], wanted: int) -> float:
    """Return what scores are to be multiplied by so that the sum, each counting 1 at most, is the number wanted."""
    total = float(sum(score.sum(dtype=np.float64) for score in scores))
    factor = wanted / total if total > 0 else 0.0
    for _ in range(8):
        certain = sum(int(np.count_nonzero(score * factor >= 1)) for score in scores)
        rest = sum(float(score[score * factor < 1].sum(dtype=np.float64)) for score in scores)
        if not (certain and rest > 0 and wanted > certain):
            break
        last, factor = factor, (wanted - certain) / rest
        if factor < 1.02 * last:
            break
    return factor


def _blocks(item: WeightedObservation, row: int, height: int, sources: tuple[Reader, ...] | None = None) -> list[Array]:
    """Return what the patches of some rows are cut from, by default of the item's own sources."""
    part = item.observation if sources is None else dataclasses.replace(item.observation, sources=sources)
    part = polyphase.split(part)
    n_y, n_x = part.geometry.kernel_shape
    return [reader.block(row, 0, (height + n_y - 1, part.size[1] + n_x - 1)) for reader in part.sources]


def _variance(blocks: Sequence[Array], kernel: tuple[int, int], size: tuple[int, int]) -> Array:
    """Return about the variance of each patch: that of the cells, as large as it, in which its corners lie."""
    total: Any = 0.0
    for block in blocks:
        cells = [slice(0, n // k * k) for n, k in zip(block.shape, kernel, strict=True)]
        tiled = block[cells[0], cells[1]].reshape(
            cells[0].stop // kernel[0], kernel[0], cells[1].stop // kernel[1], kernel[1]
        )
        mean = np.einsum("iajb->ij", tiled) / (kernel[0] * kernel[1])
        square = np.einsum("iajb,iajb->ij", tiled, tiled) / (kernel[0] * kernel[1])
        total = total + np.maximum(square - mean**2, 0.0)
    total = total + np.vstack([total[1:], total[-1:]])
    total = total + np.hstack([total[:, 1:], total[:, -1:]])
    y, x = (np.minimum(np.arange(n) // k, m - 1) for n, k, m in zip(size, kernel, total.shape, strict=True))
    return np.asarray(np.ascontiguousarray(total[:, x])[y])


def _typical(item: WeightedObservation) -> float:
    """Return about the mean variance of a patch."""
    kernel, (rows, cols) = item.observation.geometry.phase_shape, item.weights.shape
    height = min(rows, kernel[0] + 1)
    places = np.unique(np.linspace(0, rows - height, 16).astype(int))
    return float(np.mean([_variance(_blocks(item, int(at), height), kernel, (height, cols)).mean() for at in places]))


def _score(item: WeightedObservation, level: Separable, row: int, height: int, typical: float) -> Array:
    """Return what the chance of a patch of some rows is to be in proportion to."""
    weights = item.weights[row : row + height]
    lack = np.abs(weights - np.multiply.outer(level.down[row : row + height], level.across))
    spread = _variance(_blocks(item, row, height), item.observation.geometry.phase_shape, weights.shape)
    return np.asarray(lack * (spread + typical))


def _products(
    item: WeightedObservation,
    level: Separable,
    sources: tuple[Reader, ...] | None,
    row: int,
    kept: npt.NDArray[np.bool_],
    chance: Array,
) -> Array | None:
    """Return what products of some patches of a band of rows lack in the base, over the unknowns of their pair."""
    rows, cols = np.nonzero(kept)
    if not len(rows):
        return None
    plan, terms = item.observation.geometry, item.n_terms
    weights, slow = item.weights[row + rows, cols], level.down[row + rows] * level.across[cols]
    chances, blocks = chance[rows, cols], _blocks(item, row, len(kept))
    taps = len(blocks) * math.prod(plan.phase_shape)
    total = np.zeros((taps + terms, taps + terms))

    def add(blocks: Sequence[Array], values: Array, beside: Array, sign: float) -> None:
        chosen = np.flatnonzero(values > 0)
        for start in range(0, len(chosen), _CHUNK):
            some = chosen[start : start + _CHUNK]
            x = np.empty((taps + terms, len(some)))
            patches.gather_into(blocks, rows[some], cols[some], plan.phase_shape, x)
            if item.columns is not None:
                x[taps:] = item.columns.at(row + rows[some], cols[some]).T * beside[some]
            x *= np.sqrt(values[some])
            np.add(total, sign * (x @ x.T), out=total)

    dim = weights < _DIM * slow if sources is not None else np.zeros(len(rows), dtype=bool)
    lack, ones = np.where(dim, 0.0, weights - slow) / chances, np.ones(len(rows))
    add(blocks, lack, ones, 1.0)
    add(blocks, -lack, ones, -1.0)
    if sources is not None and dim.any():
        add(blocks, np.where(dim, weights, 0.0) / chances, ones, 1.0)
        add(_blocks(item, row, len(kept), sources), dim / chances, np.sqrt(slow), -1.0)
    if not (plan.flipped or plan.convention.strided):
        return total
    order = np.r_[polyphase.order(plan, len(item.observation.sources)), taps : taps + terms]
    return np.asarray(total[np.ix_(order, order)])


def _of_tiles(item: WeightedObservation, workers: int) -> Array:
    """Return the weighted Gram matrix of a kernel that varies, nearly, over all unknowns of a pair."""
    # The functions of the place are taken to be those of the middle of a patch, and they and their products to be their
    # means over a tile, weighted by the energy of the patches. So a patch is multiplied once, not once for each pair of
    # functions, and what comes out is a Gram matrix still: that of the means, and the scatter about them.
    n, (n_rows, n_cols) = _functions(item), item.weights.shape
    plain = tuple(dataclasses.replace(r, weight=None) for r in item.observation.sources[::n])
    taps = item.n_taps // n
    observation = dataclasses.replace(item.observation, sources=plain, targets=surface_readers(item.observation))
    even = dataclasses.replace(item, observation=observation)
    rng, kept = np.random.default_rng(0), min(1.0, max(_KEPT, _ENOUGH * item.n_taps / (n_rows * n_cols)))
    squares, beside = np.zeros((n, n, taps, taps)), np.zeros((n, taps, item.n_terms))
    for rows in np.array_split(np.arange(n_rows), min(n_rows, _PARTS)):
        band = slice(rows[0], rows[-1] + 1)
        weights = np.asarray(item.weights[band], dtype=np.float64)
        energy, functions = weights * _energy(even, rows[0], len(rows)), _at_middles(item, rows[0], weights.shape)
        grams, means, cross = [], [], []
        for cols in np.array_split(np.arange(n_cols), min(n_cols, _PARTS)):
            tile = slice(cols[0], cols[-1] + 1)
            whole = float(energy[:, tile].sum())
            if not whole > 0:
                continue
            alone = np.zeros((n_rows, n_cols))
            alone[band, tile] = weights[:, tile] * _thinned(energy[:, tile], kept, rng)
            found = patches.sums(observation, alone, with_moment=item.n_terms > 0, workers=workers)
            places, share = functions[:, :, tile].reshape(n, -1), (energy[:, tile] / whole).ravel()
            grams.append(found.gram)
            means.append((places * share) @ places.T)
            cross.append(np.multiply.outer(places @ share, found.moment.T))
        if grams:
            squares += np.tensordot(np.array(means), np.array(grams), axes=(0, 0))
            beside += np.sum(cross, axis=0)
    order = np.arange(n * taps).reshape(n, len(plain), -1).swapaxes(0, 1).ravel()
    gram = np.swapaxes(squares, 1, 2).reshape(n * taps, -1)[np.ix_(order, order)]
    return bordered(item, gram, list(beside.reshape(n * taps, -1)[order].T), item.weights)


def _thinned(energy: Array, kept: float, rng: np.random.Generator) -> Array:
    """Return how often the patches of a tile count: the brightest once, of the others some, for those left out."""
    usual = np.quantile(energy, 1 - _WHOLE)
    chance = np.where(energy >= usual, 1.0, kept) if usual > 0 else np.ones(energy.shape)
    return np.asarray((rng.random(energy.shape) < chance) / chance)


def _energy(item: WeightedObservation, row: int, height: int) -> Array:
    """Return the sum of the squares of each patch of some rows."""
    n_y, n_x = item.observation.geometry.phase_shape
    total: Any = 0.0
    for block in _blocks(item, row, height):
        sums = np.pad(np.square(block), ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)
        total = total + (sums[n_y:, n_x:] - sums[:-n_y, n_x:] - sums[n_y:, :-n_x] + sums[:-n_y, :-n_x])
    return np.asarray(np.maximum(total, 0.0))


def _at_middles(item: WeightedObservation, row: int, shape: tuple[int, int]) -> Array:
    """Return the functions of the place at the middles of the patches of some rows, (functions, rows, cols)."""
    (n_y, n_x), (down, across) = item.observation.geometry.kernel_shape, item.observation.geometry.stride
    whole = (down * (shape[0] - 1) + 1, across * (shape[1] - 1) + 1)
    readers = item.observation.sources[: _functions(item)]
    ones = (dataclasses.replace(r, array=np.broadcast_to(1.0, r.array.shape), fillvalue=1.0) for r in readers)
    corner = (down * row + n_y // 2, n_x // 2)
    return np.stack([reader.block(*corner, whole)[::down, ::across] for reader in ones])
