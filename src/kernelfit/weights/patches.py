"""Weighted sums over the pixels that have a weight, by multiplying their patches in blocks.

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
import scipy.linalg

from ..exact import polyphase
from ..geometry import Shape
from ..pair import Array, Problem, Reader

Index = npt.NDArray[np.int64]
#: Patches multiplied at a time.
CHUNK = 4096
#: Pixels of the extended image held at a time.
BAND = 2**20
# Nanoseconds: a multiply-add of a symmetric product of patches, of a general one, and a number gathered.
SYMMETRIC_NS = 0.07
GENERAL_NS = 0.13
GATHER_NS = 1.8
# Nanoseconds to read a patch by itself, and a pixel of a whole band.
_READ_NS = 5000.0
_BAND_NS = 5.0
#: So many multiply-adds are quicker done without BLAS, whose threads would go on spinning into the next pass.
_FEW = 5e7


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
    """What the sums over a set of weights cost on one core.

    Attributes
    ----------
    alone : float
        Pixels multiplied one by one.
    ends, within : float
        Ends of long runs, and pixels of long runs.
    nanoseconds : float
    """

    alone: float
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
    return taps * (taps + 1) / 2 * 2 * SYMMETRIC_NS + taps * GATHER_NS


def _column_ns(rows: int, cols: int) -> float:
    taps = rows * cols
    return rows * taps * 2 * GENERAL_NS + (taps + rows) * GATHER_NS


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
    """Sums over weighted pixels, in the order of the user's taps.

    Attributes
    ----------
    gram : ndarray, shape (taps, taps)
        ``sum_t v[t] P_t P_t'``.
    moment : ndarray, shape (targets, taps)
        ``sum_t v[t] Y[t] P_t``.
    """

    gram: Array
    moment: Array


class _Sum:
    """A symmetric sum of products of patches with weights of either sign."""

    def __init__(self, size: int) -> None:
        self.total = np.zeros((size, size), order="F")
        self.few = np.zeros((size, size))

    def add(self, patches: Array, values: Array) -> None:
        """Add patches that were scaled by the roots of the sizes of their weights."""
        if not patches.size:
            return
        if len(patches) * len(self.few) ** 2 <= _FEW:
            from . import _weighted_loops

            _weighted_loops.add_outer(patches, np.sign(values), self.few)
            return
        for sign in (1.0, -1.0):
            some = patches if np.all(values * sign > 0) else np.ascontiguousarray(patches[values * sign > 0])
            if len(some):
                self.total = scipy.linalg.blas.dsyrk(sign, some.T, beta=1.0, c=self.total, overwrite_c=1)
            if some is patches:
                break

    def full(self) -> Array:
        """Return the whole symmetric matrix."""
        upper = np.triu(self.total) + np.triu(self.few)
        return np.asarray(upper + np.triu(upper, 1).T)


def bands(shape: Shape, kernel: Shape) -> Iterator[tuple[int, int]]:
    """Cut the rows of the target into bands: first row, number of rows."""
    height = max(kernel[0], BAND // (shape[1] + kernel[1]))
    for row in range(0, shape[0], height):
        yield row, min(height, shape[0] - row)


def sums(
    problem: Problem, weights: npt.NDArray[np.generic], base: float = 0.0, *, with_moment: bool = False
) -> PatchSums:
    """Add up the products of the patches of all pixels whose weight differs from `base`, times the difference.

    Parameters
    ----------
    problem : Problem
        The pair; the pixels under a weight of zero are read but not used.
    weights : ndarray, shape (rows, cols) of the used target
        Weights.
    base : float, optional
        What is taken from every weight, default 0.
    with_moment : bool, optional
        Whether the moment is wanted too.

    Returns
    -------
    PatchSums
        The sums; the moment is zero if it is not wanted.
    """
    plan, problem = problem.geometry, polyphase.split(problem)
    (n_y, n_x), n_sources = problem.geometry.kernel_shape, len(problem.sources)
    lines, taps = n_sources * n_y, n_sources * n_y * n_x
    least = shortest_run((lines, n_x))
    whole, ends = _Sum(taps), _Sum(lines * (n_x - 1))
    first_column = np.zeros((lines, taps))
    moment = np.zeros((len(problem.targets), taps))
    n_within = 0
    for row, height in bands(problem.size, (n_y, n_x)):
        runs = Runs.of(weights[row : row + height], base)
        if not len(runs.rows):
            continue
        long = runs.lengths >= least
        if not long.any() and int(runs.lengths.sum()) * _READ_NS < height * problem.size[1] * _BAND_NS:
            for rows, cols, values in _chunks(runs.pixels()):  # too few to read the band for them
                roots = np.sqrt(np.abs(values))
                patches = _read_one_by_one(problem.sources, row + rows, cols, (n_y, n_x), roots)
                whole.add(patches, values)
                if with_moment:
                    targets = _read_one_by_one(problem.targets, row + rows, cols, (1, 1), np.copysign(roots, values))
                    moment += np.einsum("tj,tp->jp", targets, patches)
            continue
        # A patch just behind a run that ends at the edge is a column narrower, so the columns suffice.
        blocks = [s.block(row, 0, (height + n_y - 1, problem.size[1] + n_x - 1)) for s in problem.sources]
        results = [t.block(row, 0, (height, problem.size[1])) for t in problem.targets] if with_moment else []
        for rows, cols, values in _chunks(runs.where(~long).pixels()):
            roots = np.sqrt(np.abs(values))
            patches = gathered(blocks, rows, cols, roots, (n_y, n_x))
            whole.add(patches, values)
            for out, result in zip(moment, results, strict=False):
                out += (result[rows, cols] * np.copysign(roots, values)) @ patches
        some = runs.where(long)
        if not len(some.rows):
            continue
        n_within += int(some.lengths.sum())
        both = (
            np.concatenate([some.rows, some.rows]),
            np.concatenate([some.cols, some.cols + some.lengths]),
            np.concatenate([-some.values, some.values]),
        )
        for rows, cols, values in _chunks(both):
            ends.add(gathered(blocks, rows, cols, np.sqrt(np.abs(values)), (n_y, n_x - 1)), values)
        for rows, cols, values in _chunks(some.pixels()):
            patches = gathered(blocks, rows, cols, np.ones(len(rows)), (n_y, n_x))
            first_column += (patches[:, ::n_x] * values[:, None]).T @ patches
            for out, result in zip(moment, results, strict=False):
                out += (result[rows, cols] * values) @ patches
    gram = whole.full()
    if n_within:
        gram += _unrolled(first_column, ends.full(), lines, n_x)
    if plan.flipped or plan.convention.strided:
        gram = polyphase.reordered(gram, plan)
        moment = np.array([polyphase.reordered(one, plan) for one in moment]).reshape(len(moment), len(gram))
    return PatchSums(gram, moment)


def _chunks(pixels: tuple[Index, Index, Array]) -> Iterator[tuple[Index, Index, Array]]:
    for start in range(0, len(pixels[0]), CHUNK):
        some = slice(start, start + CHUNK)
        yield pixels[0][some], pixels[1][some], pixels[2][some]


def gathered(blocks: Sequence[Array], rows: Index, cols: Index, factors: Array, kernel: Shape) -> Array:
    """Return the patches of the pixels, one row each, times a factor each."""
    from . import _weighted_loops

    size = kernel[0] * kernel[1]
    out = np.empty((len(rows), len(blocks) * size))
    for i, block in enumerate(blocks):
        _weighted_loops.gather(block, rows, cols, factors, kernel[0], kernel[1], i * size, out)
    return out


def _read_one_by_one(readers: Sequence[Reader], rows: Index, cols: Index, shape: Shape, factors: Array) -> Array:
    """Return the patches of a few pixels anywhere, times a factor each."""
    out = np.empty((len(rows), len(readers), *shape))
    for i, (row, col) in enumerate(zip(rows.tolist(), cols.tolist(), strict=True)):
        for place, reader in zip(out[i], readers, strict=True):
            reader.read(place, row, col)
    out *= factors[:, None, None, None]
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
