"""Weighted sums over the pixels that have a weight, by multiplying their patches.

``S[p, q] = sum_t v[t] P[t + p] P[t + q]`` for weights v of either sign, most of them zero. Pixels stand in runs of
equal weight along the rows. Moving both taps one column changes the sum by what enters a run and what leaves it,

    S[p + e, q + e] - S[p, q] = sum_t (v[t - e] - v[t]) P[t + p] P[t + q],

so of a long run only the two ends need the whole product of a patch with itself, and the pixels between only its
products with the first column of taps: 2 / columns of the work. That is what makes blobs cheap.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..compiled import threads
from ..compiled.threads import in_order
from ..core.geometry import Shape
from ..core.validation import Array
from ..data import polyphase
from ..data.observation import Observation
from ..data.reader import Reader

Index = npt.NDArray[np.int64]
#: Patches multiplied at a time; so many that those of some hundred taps stay in the cache.
CHUNK = 512
#: Pixels of the extended image held at a time, by each thread.
BAND = 2**19
# Nanoseconds on one core, from benchmarks/calibrate.py: a multiply-add of a product of patches, a number gathered.
MULTIPLY_NS = 0.022
GATHER_NS = 0.7
# Nanoseconds to read a patch by itself from an array in memory and from anything else, and a pixel of a whole band.
READ_NS, _READ_ELSEWHERE_NS = 300.0, 20000.0
_BAND_NS = 2.0


class Runs(NamedTuple):
    """Runs of equal weight other than zero along the rows: first pixels, lengths and weights."""

    rows: Index
    cols: Index
    lengths: Index
    values: Array

    @classmethod
    def of(cls, weights: npt.NDArray[np.generic], base: float = 0.0) -> "Runs":
        """Find the runs of a block of weights less `base`."""
        boolean = weights.dtype == np.bool_ and base in (0.0, 1.0)
        wide = np.full((weights.shape[0], weights.shape[1] + 2), base, dtype=bool if boolean else np.float64)
        wide[:, 1:-1] = weights
        rows, cols = np.divmod(np.flatnonzero(wide[:, 1:] != wide[:, :-1]), weights.shape[1] + 1)
        values = wide[rows, cols + 1] - np.float64(base)
        kept = np.flatnonzero(values)  # the last change of a row is to the base, so a run's end stands in its row
        return cls(rows[kept], cols[kept], cols[kept + 1] - cols[kept], values[kept])

    def pixels(self) -> tuple[Index, Index, Array]:
        """Return row, column and weight of each pixel of the runs."""
        within = np.arange(int(self.lengths.sum())) - np.repeat(np.cumsum(self.lengths) - self.lengths, self.lengths)
        return (
            np.repeat(self.rows, self.lengths),
            np.repeat(self.cols, self.lengths) + within,
            np.repeat(self.values, self.lengths),
        )

    def where(self, chosen: npt.NDArray[np.bool_]) -> "Runs":
        """Return some of the runs."""
        return Runs(self.rows[chosen], self.cols[chosen], self.lengths[chosen], self.values[chosen])


class Costs(NamedTuple):
    """What the sums over a set of weights cost on one core."""

    alone: float  # pixels multiplied one by one
    #: ends, within: ends of long runs, and pixels of long runs
    ends: float
    within: float
    nanoseconds: float


def shortest_run(kernel: Shape) -> int:
    """Return the length from which a run is cheaper by its ends."""
    whole, column = _pixel_ns(*kernel), _column_ns(*kernel)
    return int(np.ceil(2 * whole / (whole - column))) + 1 if whole > 1.05 * column and kernel[1] > 1 else 2**62


def costs_of_pixels(n: int, kernel: Shape) -> float:
    """Return the nanoseconds that n patches multiplied one by one take."""
    return n * _pixel_ns(*kernel)


def _pixel_ns(rows: int, cols: int) -> float:
    taps = rows * cols
    return taps * (taps + 1) / 2 * MULTIPLY_NS + taps * GATHER_NS


def _column_ns(rows: int, cols: int) -> float:
    taps = rows * cols
    return rows * taps * MULTIPLY_NS + taps * GATHER_NS


def costs(lengths: Sequence[Index], kernel: Shape, n_sources: int = 1) -> Costs:
    """Say what sums over runs of these lengths cost, for a kernel of this shape."""
    least = shortest_run(kernel)
    alone = ends = within = 0
    for some in lengths:
        long = some >= least
        ends += 2 * int(np.count_nonzero(long))
        within += int(some[long].sum())
        alone += int(some.sum()) - int(some[long].sum())
    rows, cols = n_sources * kernel[0], kernel[1]
    each = (alone + ends) * _pixel_ns(rows, cols) + within * _column_ns(rows, cols)
    return Costs(alone, ends, within, each)


@dataclass
class PatchSums:
    """Sums over weighted pixels, in the order of the user's taps."""

    gram: Array  # (taps, taps); ``sum_t v[t] P_t P_t'``
    moment: Array  # (targets, taps); ``sum_t v[t] Y[t] P_t``


def bands(shape: Shape, kernel: Shape) -> Iterator[tuple[int, int]]:
    """Cut the rows of the target into bands: first row, number of rows."""
    height = max(kernel[0], BAND // (shape[1] + kernel[1]))
    for row in range(0, shape[0], height):
        yield row, min(height, shape[0] - row)


def sums(
    observation: Observation,
    weights: npt.NDArray[np.generic],
    base: float = 0.0,
    *,
    with_moment: bool = False,
    workers: int = 1,
) -> PatchSums:
    """Add up the patches' products of all pixels whose weight differs from `base`, times that; moment if asked."""
    # Pixels under a weight of zero are read but not used. Any number of workers gives the same bits.
    plan, observation = observation.geometry, polyphase.split(observation)
    (n_y, n_x), n_targets = observation.geometry.kernel_shape, len(observation.targets)
    lines = len(observation.sources) * n_y

    def job(some: list[tuple[int, int]]) -> _Part:
        own = _Part(observation, with_moment)
        for row, height in some:
            own.add(row, height, Runs.of(weights[row : row + height], base))
        return own

    taps, last = lines * n_x, lines * (n_x - 1)
    gram, moment = np.zeros((taps, taps)), np.zeros((n_targets, taps))
    total: dict[str, Array] = {}
    for part in in_order(_jobs(observation, weights, base), job, workers):
        for name, table in part.tables.items():
            total[name] = total[name] + table if name in total else table
    if "whole" in total:
        gram += symmetric(total["whole"][:taps, :taps])
    if "column" in total:
        gram += _unrolled(total["column"][:lines, :taps], symmetric(total["ends"][:last, :last]), lines, n_x)
    if with_moment and "whole" in total:
        moment += total["whole"][:taps, taps : taps + n_targets].T
    if with_moment and "column" in total:
        moment += total["column"][lines : lines + n_targets, :taps]
    if plan.flipped or plan.convention.strided:
        gram = polyphase.reordered(gram, plan)
        moment = np.array([polyphase.reordered(one, plan) for one in moment]).reshape(len(moment), len(gram))
    return PatchSums(gram, moment)


def _jobs(observation: Observation, weights: npt.NDArray[np.generic], base: float) -> list[list[tuple[int, int]]]:
    """Sort the bands that have pixels to add into jobs that are worth a matrix of their own."""
    work: list[list[tuple[int, int]]] = []
    count = CHUNK
    for row, height in bands(observation.size, observation.geometry.kernel_shape):
        some = weights[row : row + height]
        if some.dtype == np.bool_ and base in (0.0, 1.0):  # quicker than to compare with a number
            n = abs(int(base) * some.size - int(np.count_nonzero(some)))
        else:
            n = int(np.count_nonzero(some != base))
        if n and count >= CHUNK:
            work.append([])
            count = 0
        if n:
            work[-1].append((row, height))
            count += n
    return [[band for some in group for band in some] for group in threads.bands(work)] if work else []


class _Part:
    """Sums over some bands of pixels."""

    # The products are those of rows that stand for taps, and of one for each target, in the columns of which stand the
    # pixels: in `tables` those of patches multiplied "whole", of the first "column" of taps with all, and of the "ends"
    # of runs with all columns of taps but one. Of the first and the last the part on and above the diagonal. There are
    # zeros beyond, for the loops do four rows at a time.

    def __init__(self, observation: Observation, with_moment: bool) -> None:
        (n_y, n_x), n_sources = observation.geometry.kernel_shape, len(observation.sources)
        self.observation, self.kernel = observation, (n_y, n_x)
        self.targets = observation.targets if with_moment else ()
        taps = n_sources * n_y * n_x
        self.least = shortest_run((n_sources * n_y, n_x))
        self.rows = np.zeros((-(-(taps + len(self.targets)) // 4) * 4, CHUNK + 8))  # their starts crowd no cache line
        self.narrow = np.zeros((-(-(taps - n_sources * n_y) // 4) * 4, CHUNK + 8))
        self.first = np.r_[0:taps:n_x, taps : taps + len(self.targets)]
        self.first = np.pad(self.first, (0, -len(self.first) % 4))
        self.tables: dict[str, Array] = {}

    def add(self, row: int, height: int, runs: Runs) -> None:
        """Add the runs of a band of rows."""
        if not len(runs.rows):
            return
        observation, (n_y, n_x) = self.observation, self.kernel
        first, col = int(runs.rows[0]), int(runs.cols.min())  # no more is read than what the runs span
        row, height, n_cols = row + first, int(runs.rows[-1]) - first + 1, int((runs.cols + runs.lengths).max()) - col
        runs = runs._replace(rows=runs.rows - first, cols=runs.cols - col)
        long = runs.lengths >= self.least
        each = READ_NS if all(isinstance(s.array, np.ndarray) for s in observation.sources) else _READ_ELSEWHERE_NS
        if not long.any() and int(runs.lengths.sum()) * each < height * n_cols * _BAND_NS:
            for rows, cols, values in _chunks(runs.pixels()):  # too few to read the band for them
                n, patches = len(rows), read_one_by_one(observation.sources, row + rows, col + cols, self.kernel)
                self.rows[: patches.shape[1], :n] = patches.T
                if self.targets:
                    targets = read_one_by_one(self.targets, row + rows, col + cols, (1, 1))
                    self.rows[patches.shape[1] :, :n][: len(self.targets)] = targets.T
                self._multiply("whole", values)
            return
        # A patch just behind a run that ends at the edge is a column narrower, so the columns suffice.
        blocks = [s.block(row, col, (height + n_y - 1, n_cols + n_x - 1)) for s in observation.sources]
        results = [t.block(row, col, (height, n_cols)) for t in self.targets]
        some = runs.where(long)
        for name, pixels in (("whole", runs.where(~long).pixels()), ("column", some.pixels())):
            for rows, cols, values in _chunks(pixels):
                gather_into(blocks, rows, cols, self.kernel, self.rows)
                for place, result in zip(self.rows[len(blocks) * n_y * n_x :], results, strict=False):
                    place[: len(rows)] = result[rows, cols]
                self._multiply(name, values)
        both = (
            np.concatenate([some.rows, some.rows]),
            np.concatenate([some.cols, some.cols + some.lengths]),
            np.concatenate([-some.values, some.values]),
        )
        for rows, cols, values in _chunks(both):
            gather_into(blocks, rows, cols, (n_y, n_x - 1), self.narrow)
            self._multiply("ends", values)

    def _multiply(self, name: str, values: Array) -> None:
        """Add the products of the rows as they stand."""
        from ..compiled import patch_sums

        rows = self.narrow if name == "ends" else self.rows
        chosen = self.first if name == "column" else np.arange(len(rows))
        if name not in self.tables:
            self.tables[name] = np.zeros((len(chosen), len(rows)))
        patch_sums.add_weighted_products(values, rows, chosen, self.tables[name], symmetric=name != "column")


def symmetric(upper: Array) -> Array:
    """Return the symmetric matrix of which this is the upper triangle."""
    return np.asarray(np.triu(upper) + np.triu(upper, 1).T)


def _chunks(pixels: tuple[Index, Index, Array]) -> Iterator[tuple[Index, Index, Array]]:
    for start in range(0, len(pixels[0]), CHUNK):
        some = slice(start, start + CHUNK)
        yield pixels[0][some], pixels[1][some], pixels[2][some]


def gather_into(blocks: Sequence[Array], rows: Index, cols: Index, kernel: Shape, out: Array) -> None:
    """Put the patches of the pixels into the columns of `out`, a row for each tap of each source."""
    from ..compiled import patch_sums

    size = kernel[0] * kernel[1]
    for i, block in enumerate(blocks):
        patch_sums.gather(block, rows, cols, kernel[0], kernel[1], out[i * size : (i + 1) * size])


def gathered(blocks: Sequence[Array], rows: Index, cols: Index, kernel: Shape) -> Array:
    """Return the patches of the pixels, one row each."""
    out = np.empty((len(blocks) * kernel[0] * kernel[1], len(rows)))
    gather_into(blocks, rows, cols, kernel, out)
    return np.ascontiguousarray(out.T)


def read_one_by_one(readers: Sequence[Reader], rows: Index, cols: Index, shape: Shape) -> Array:
    """Return the patches of a few pixels anywhere, one row each."""
    out = np.empty((len(rows), len(readers), *shape))
    for s, reader in enumerate(readers):
        y, x = rows - reader.before[0], cols - reader.before[1]
        inside = np.zeros(len(rows), dtype=bool)
        if isinstance(reader.array, np.ndarray) and reader.stride == (1, 1):
            (height, width), (n_y, n_x) = reader.array.shape, shape
            inside = (np.minimum(y, x) >= 0) & (y <= height - n_y) & (x <= width - n_x)
        if inside.any():
            windows = np.lib.stride_tricks.sliding_window_view(reader.array, shape)
            out[inside, s] = windows[y[inside], x[inside]]
        for i in np.flatnonzero(~inside):
            reader.read(out[i, s], int(rows[i]), int(cols[i]))
    return out.reshape(len(rows), -1)


def _unrolled(first_column: Array, ends: Array, lines: int, n_x: int) -> Array:
    """Sum the differences along the columns, from the products with the first column of taps."""
    steps = ends.reshape(lines, n_x - 1, lines, n_x - 1)
    gram = np.zeros((lines, n_x, lines, n_x))
    gram[:, 0] = first_column.reshape(lines, lines, n_x)
    for x in range(n_x - 1):
        gram[:, x + 1, :, x + 1 :] = gram[:, x, :, x : n_x - 1] + steps[:, x, :, x:]
    for x in range(1, n_x):  # the other half, by symmetry
        gram[:, x, :, :x] = np.moveaxis(gram[:, :x, :, x], 2, 0)
    return gram.reshape(lines * n_x, lines * n_x)
