"""A kernel for each tile of a grid: how it varies over the field, from the statistics of the tiles."""

import contextlib
import functools
import math
import operator
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.linalg
import scipy.special

from .. import geometry, pair
from ..geometry import Convention, Shape
from ..pair import Problem
from ..solvers import cholesky, solve
from ..statistics import NormalStats
from ..verdict import Finding, Verdict, ranked
from ..weights import masks, weighted_pass
from ..weights.boxes import Boxed
from . import regions
from .accumulation import residual_moments, statistics
from .blas import one_blas_thread
from .choice import engine_of
from .engines import Progress, bands
from .regions import Box
from .threads import in_order
from .tiles import Buffers, Solved, TileReader

Array = npt.NDArray[np.float64]

#: Bytes of Gram matrices that are alive at a time, without and with a penalty across tiles.
_BATCH = 2**26
_MOST = 2**31
_MOST_ITERATIONS = 2000
#: Draws of all kernels, at a time and how often.
_DRAWS, _BATCHES = 64, 4


@dataclass(frozen=True, eq=False)
class KernelMap:
    """Kernels of the tiles of a grid.

    Parameters
    ----------
    kernels : ndarray, shape (rows, cols, kernel_rows, kernel_cols)
        The kernel of each tile.
    stderr : ndarray, of the same shape
        The standard error of each tap.
    noise_std : ndarray, shape (rows, cols)
        Estimated standard deviation of the noise of a target pixel in each tile.
    boxes : ndarray of int, shape (rows, cols, 4)
        First row, first column, rows and columns of each tile's pixels in the target.
    findings : tuple of tuple of tuple of Finding
        For each row and column of the grid all that is doubtful about the tile, the worst first.
    convention : Convention
        How the kernels lie on the image.
    smoothness : float
        Strength of the penalty across neighbouring tiles; 0 without one.
    common : ndarray, shape (kernel_rows, kernel_cols)
        The one kernel for all tiles together.
    variation : float
        How much the residual sum of squares rises if all tiles share that kernel, in units of what noise alone would
        raise it: the F-statistic, about 1 if the kernel is the same everywhere. NaN for overlapping tiles.
    p_value : float
        The probability of a variation at least as large if the kernel is the same everywhere.
    """

    kernels: Array
    stderr: Array
    noise_std: Array
    boxes: npt.NDArray[np.int64]
    findings: tuple[tuple[tuple[Finding, ...], ...], ...]
    convention: Convention
    smoothness: float
    common: Array
    variation: float
    p_value: float

    @property
    def verdicts(self) -> npt.NDArray[np.object_]:
        """The worst verdict of each tile, shape (rows, cols)."""
        out = np.empty(self.noise_std.shape, dtype=object)
        for at, _ in np.ndenumerate(out):
            found = self.findings[at[0]][at[1]]
            out[at] = found[0].verdict if found else Verdict.SOLVED
        return out

    @property
    def centers(self) -> Array:
        """Row and column of the middle of each tile in the target, shape (rows, cols, 2)."""
        return np.asarray(self.boxes[..., :2] + (self.boxes[..., 2:] - 1) / 2)

    def summary(self) -> str:
        """Return the result in words and figures, a screen long at most."""
        rows, cols, kernel_rows, kernel_cols = self.kernels.shape
        sums = self.kernels.sum(axis=(2, 3))
        y, x = np.mgrid[:kernel_rows, :kernel_cols]
        with np.errstate(all="ignore"):
            centroids = [(self.kernels * axis).sum(axis=(2, 3)) / sums for axis in (y, x)]
        low, high = self.boxes[..., 2:].min(axis=(0, 1)), self.boxes[..., 2:].max(axis=(0, 1))
        counts = Counter(self.verdicts.ravel().tolist())
        size = math.sqrt(float(np.mean(self.kernels**2)))
        error = math.sqrt(float(np.mean(self.stderr**2)))
        same = f"F = {self.variation:.4g}, p = {self.p_value:.2g}" if math.isfinite(self.variation) else "not tested"
        lines = [
            f"map         {rows} x {cols} tiles of {_span(low[0], high[0])} x {_span(low[1], high[1])} pixels, kernels "
            f"{kernel_rows} x {kernel_cols}",
            f"convention  {self.convention}",
            f"kernels     sum {sums.min():.6g} to {sums.max():.6g}, centroid row {centroids[0].min():.4g} to "
            f"{centroids[0].max():.4g}, column {centroids[1].min():.4g} to {centroids[1].max():.4g}",
            f"errors      root mean square {error:.3g} per tap, of taps of {size:.3g}",
            f"noise       {self.noise_std.min():.4g} to {self.noise_std.max():.4g} per pixel",
            f"variation   {same} against one kernel for all tiles",
            *([f"smoothness  {self.smoothness:g}"] if self.smoothness else []),
        ]
        for verdict in Verdict:
            if verdict in counts:
                lines.append(f"verdict     {counts[verdict]} of {rows * cols} tiles: {verdict.value}")
        return "\n".join(lines)


def _span(low: int, high: int) -> str:
    return f"{low}" if low == high else f"{low} to {high}"


class _Tile(NamedTuple):
    """What is kept of a tile's fit."""

    taps: Array
    stderr: Array
    noise_std: float
    rss: float
    rank: int
    n_pixels: int
    findings: tuple[Finding, ...]


class _Band(NamedTuple):
    """A run of tiles: the sums of their statistics, their fits, and each one's statistics where they are needed.

    Of `n_read` pixels the sum is left as the reader of small tiles has it, `raw`; of other tiles it is `total`.
    """

    raw: Array | None
    n_read: int
    total: NormalStats | None
    fits: list[_Tile]
    every: list[NormalStats]


@one_blas_thread
def kernel_map(
    image: npt.ArrayLike,
    target: npt.ArrayLike,
    shape: int | Shape,
    tiles: int | Shape,
    *,
    overlap: int | Shape = 0,
    smoothness: float = 0.0,
    mode: str | None = None,
    boundary: str | None = None,
    fillvalue: float = 0.0,
    origin: int | Shape | None = None,
    operation: str = "convolution",
    mask: "npt.ArrayLike | None" = None,
    image_mask: "npt.ArrayLike | None" = None,
    weights: "npt.ArrayLike | None" = None,
    nan: str = "error",
    saturated: "str | tuple[float | None, float | None] | None" = None,
    method: str = "auto",
    solver: "solve.Solver | str | None" = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> KernelMap:
    """Find a kernel for each tile of a grid, to see how it varies over the field.

    The target pixels that are used are cut into ``rows x cols`` tiles of nearly the same size, each of which reads the
    image around it as far as the kernel reaches. The kernel k_i of tile i minimises
    ``sum_i |y_i - A_i k_i|^2 + smoothness * g * sum_(i, j) |k_i - k_j|^2``
    with the second sum over tiles that share a side, and g the mean of the diagonals of the Gram matrices ``A_i'A_i``.

    Parameters
    ----------
    image, target : array_like
        As in `find_kernel`.
    shape : int or (int, int)
        Rows and columns of each kernel.
    tiles : int or (int, int)
        Rows and columns of the grid.
    overlap : int or (int, int), optional
        Pixels by which each tile extends beyond its place in the grid, on each side; default 0. Neighbouring
        kernels then share pixels, and their errors are not independent.
    smoothness : float, optional
        Strength of the penalty on the difference of neighbouring kernels, relative to the data, default 0: none. At 1
        a difference costs about as much as the same misfit at every pixel of a tile.
    mode, boundary, fillvalue, origin, operation
        As in `find_kernel`.
    mask, image_mask, weights, nan, saturated : optional
        Which target pixels count, and how much, as in `accumulate_stream`. A tile that they leave too few pixels says
        so by its verdict.
    method : {"auto", "direct", "fft"}, optional
        The engine.
    solver : solver or "auto", optional
        What makes a kernel of each tile's statistics, as in `find_kernel`; not together with a penalty across tiles.
    workers : int, optional
        Number of threads; the default is every processor this process may use. Any number gives the same bits.
    progress : callable, optional
        Called as ``progress("reading tiles", done, total)``.

    Returns
    -------
    KernelMap
        Kernels, errors and findings for each tile; ``print(result.summary())``.

    Raises
    ------
    TypeError, ValueError
        As `find_kernel`, and if a tile would have fewer pixels than the kernel has taps, whether they count or not.

    Notes
    -----
    With a penalty the errors are those of the posterior, sigma the same for all tiles: the part that a tile's own data
    and its neighbours' kernels leave open is exact, what the uncertainty of the neighbours adds is estimated from 256
    draws of all kernels, to 4 % or so (Siden, Lindgren, Bolin and Villani, "Efficient covariance approximations for
    large sparse precision matrices", J. Comput. Graph. Stat. 27 (2018), doi:10.1080/10618600.2018.1473782).

    Examples
    --------
    >>> import numpy as np, kernelfit
    >>> rng = np.random.default_rng(0)
    >>> image = rng.random((120, 160))
    >>> gain = np.linspace(1, 2, 160)  # the kernel grows from left to right
    >>> target = gain * image + rng.normal(0.0, 0.01, image.shape)
    >>> found = kernelfit.kernel_map(image, target, 3, (2, 4), boundary="symm")
    >>> found.kernels.shape
    (2, 4, 3, 3)
    >>> found.kernels[:, :, 1, 1].round(1)
    array([[1.1, 1.4, 1.6, 1.9],
           [1.1, 1.4, 1.6, 1.9]])
    """
    chosen = solve.as_solver(solver)
    geometry.known(method, ("auto", "direct", "fft"), "method")
    (plain_image, image_masked), (plain_target, target_masked) = masks.unmasked(image), masks.unmasked(target)
    rules = masks.Rules(mask, image_mask, weights, nan, saturated, target_masked, image_masked)
    problem = pair.check(
        plain_image,
        plain_target,
        shape,
        mode=mode,
        boundary=boundary,
        fillvalue=fillvalue,
        origin=origin,
        operation=operation,
    )
    threads = pair.as_workers(workers)
    pair.require_progress(progress)
    strength = pair.as_number(smoothness, "smoothness") if not isinstance(smoothness, str) else -1.0
    if not 0 <= strength <= 1e6:
        msg = f"got smoothness={smoothness!r}, need a number from 0 to 1e6, where all kernels are the same"
        raise ValueError(msg)
    if strength > 0 and solver is not None:
        msg = f"got smoothness={smoothness!r} with solver={solver!r}, need one or the other: both are penalties"
        raise ValueError(msg)
    grid, boxes = _tiles(problem, tiles, overlap)
    n_taps = problem.geometry.n_taps
    if strength > 0 and len(boxes) * 8 * n_taps**2 > _MOST:
        msg = (
            f"got smoothness={smoothness!r} for {len(boxes)} kernels of {n_taps} taps, whose Gram matrices take more "
            "than 2 GiB together; ask for fewer tiles, a smaller shape, or no smoothness"
        )
        raise ValueError(msg)
    engine = engine_of(problem, method)  # of the whole: all tiles share what it takes to start
    fits: list[_Tile] = []
    every: list[NormalStats] = []
    reading = _Reading(problem, Boxed.of(problem, rules), boxes, engine, chosen, threads, progress, strength > 0)
    for band in reading:
        fits += band.fits
        every += band.every
    total = reading.total()
    if total.n_pixels < n_taps:
        msg = (
            f"got a mask or weights that leave {total.n_pixels} target pixels in all tiles together, need at least "
            f"{n_taps} for the taps; ask for a smaller shape, or exclude less"
        )
        raise ValueError(msg)
    solve.factor_ahead(total)
    common = solve.least_squares(total)
    variation = p_value = math.nan
    rss, spare = sum(f.rss for f in fits), sum(f.n_pixels - f.rank for f in fits)
    extra = sum(f.rank for f in fits) - common.rank
    if not any(geometry.as_pair(overlap, "overlap")) and solver is None and spare > 0 and extra > 0 and rss > 0:
        variation = max(0.0, common.rss - rss) / extra / (rss / spare)
        p_value = float(scipy.special.fdtrc(extra, spare, variation))
    if strength > 0:
        fits = _smoothed(every, fits, grid, strength, math.sqrt(rss / spare) if spare > 0 else math.nan)
    kernel = problem.geometry.kernel_shape
    top, left = problem.geometry.offset
    places = np.array([(b.row + top, b.col + left, b.rows, b.cols) for b in boxes], dtype=np.int64)
    findings = [f.findings for f in fits]
    return KernelMap(
        kernels=np.stack([f.taps for f in fits]).reshape(*grid, *kernel),
        stderr=np.stack([f.stderr for f in fits]).reshape(*grid, *kernel),
        noise_std=np.array([f.noise_std for f in fits]).reshape(grid),
        boxes=places.reshape(*grid, 4),
        findings=tuple(tuple(findings[r * grid[1] : (r + 1) * grid[1]]) for r in range(grid[0])),
        convention=problem.geometry.convention,
        smoothness=strength,
        common=common.taps.reshape(kernel),
        variation=variation,
        p_value=p_value,
    )


def _tiles(problem: Problem, tiles: object, overlap: object) -> tuple[Shape, list[Box]]:
    """Cut the target pixels into a grid of tiles."""
    grid, more = geometry.as_pair(tiles, "tiles"), geometry.as_pair(overlap, "overlap")
    if min(grid) < 1 or any(n > size for n, size in zip(grid, problem.size, strict=True)):
        msg = (
            f"got tiles={tiles!r}, need at least 1 x 1 and no more than the {problem.size} target pixels that are used"
        )
        raise ValueError(msg)
    if min(more) < 0:
        msg = f"got overlap={overlap!r}, need a number of pixels, at least 0"
        raise ValueError(msg)
    spans = []
    for n, size, extra in zip(grid, problem.size, more, strict=True):
        ends = [i * size // n for i in range(n + 1)]
        spans.append([(max(0, a - extra), min(size, b + extra)) for a, b in zip(ends[:-1], ends[1:], strict=True)])
    boxes = [Box(a, c, b - a, d - c) for a, b in spans[0] for c, d in spans[1]]
    smallest = min(boxes, key=lambda b: b.rows * b.cols)
    n_taps = problem.geometry.n_taps
    if smallest.rows * smallest.cols < n_taps:
        msg = (
            f"got tiles={tiles!r}, the smallest of which has {smallest.rows}x{smallest.cols} pixels, too few for "
            f"{n_taps} taps; ask for fewer tiles, a larger overlap, or a smaller shape"
        )
        raise ValueError(msg)
    return grid, boxes


class _Reading:
    """The pass over the tiles."""

    def __init__(
        self,
        problem: Problem,
        boxed: Boxed | None,
        boxes: list[Box],
        method: str,
        solver: solve.Solver,
        workers: int,
        progress: Progress | None,
        keep: bool,
    ) -> None:
        self.problem, self.boxes, self.method, self.workers, self.progress = problem, boxes, method, workers, progress
        self.boxed, self.solver, self.keep = boxed, solver, keep
        small = TileReader.fits(problem, boxes)
        self.reader = TileReader(problem, boxes, method) if small else None
        # What needs no BLAS, which has threads of its own, is solved by the thread that has read it.
        plain = isinstance(solver, solve.LeastSquares)
        self.at_once = plain and problem.geometry.n_taps <= cholesky.OWN_FACTOR
        self._raw, self._n_read = regions.Tree[Array](operator.add), 0
        self._tree = regions.Tree[NormalStats](operator.add)

    def __iter__(self) -> Iterator["_Band"]:
        """Yield the tiles, in order, a few at a time."""
        work, done = bands(self.boxes), 0
        at_once = len(work)
        if not self.at_once:
            largest = 8 * self.problem.geometry.n_taps**2 * len(work[0])
            at_once = max(self.workers, _BATCH // largest)
        for first in range(0, len(work), at_once):
            some = work[first : first + at_once]
            read = in_order(some, self._read, self.workers)
            for boxes, band in zip(some, read if self.at_once else list(read), strict=True):
                self._add(band)
                done += len(boxes)
                if self.progress is not None:
                    self.progress("reading tiles", done, len(self.boxes))
                if not self.at_once:
                    for box, stats in zip(boxes, band.every, strict=True):
                        band.fits.append(self._solve(box, stats, self.workers))
                    if not self.keep:
                        band.every.clear()
                yield band
        if self.reader is not None:
            self.reader.close()

    def _add(self, band: "_Band") -> None:
        """Add the sums of the next tiles."""
        if band.raw is not None:
            self._raw.push(band.raw)
            self._n_read += band.n_read
        if band.total is not None:
            self._tree.push(band.total)

    def total(self) -> NormalStats:
        """Return the statistics of all tiles that were read."""
        raw, total = self._raw.total(), self._tree.total()
        if self.reader is None or raw is None:
            assert total is not None
            return total
        read = self.reader.total(raw, self._n_read)
        return read if total is None else read + total

    def _read(self, boxes: list[Box]) -> "_Band":
        """Read a run of tiles and solve each, unless that is left for later."""
        fits, every, totals, n_read = [], [], [], 0
        with contextlib.nullcontext() if self.reader is None else self.reader.buffers() as own:
            for box in boxes:
                item = None if self.boxed is None else self.boxed.item(box)
                fit = stats = None
                if self.boxed is not None and item is not None:
                    stats = self.boxed.statistics(item, self.method, 1)
                elif self.reader is None or own is None:
                    part = regions.loaded(regions.sub_problem(self.problem, box))
                    stats = statistics(part, self.method, 1)[0]
                else:
                    solved = self.reader.read(box, own)
                    n_read += box.rows * box.cols
                    fit = self._plain(box, own, solved) if self.at_once else None
                if stats is not None:
                    totals.append(stats)
                elif self.reader is not None and own is not None and (fit is None or self.keep):
                    stats = self.reader.statistics(box, own)
                if self.at_once and fit is None:
                    assert stats is not None
                    solve.factor_ahead(stats)
                    fit = self._solve(box, stats, 1)
                    stats._made.clear()  # as large as the Gram matrix itself, and used up
                if fit is not None:
                    fits.append(fit)
                if stats is not None and (self.keep or not self.at_once):
                    every.append(stats)
            raw = own.total.copy() if own is not None else None
        return _Band(raw, n_read, functools.reduce(operator.add, totals) if totals else None, fits, every)

    def _plain(self, box: Box, own: Buffers, found: Solved) -> "_Tile | None":
        """Return the fit of a tile of which nothing is doubtful, and None for the others: `_solve` is their judge."""
        assert self.reader is not None
        n_pixels, m, rss = box.rows * box.cols, len(own.taps), found.rss
        energy, total = float(own.energy[0]), float(own.energy[1])
        if not (found.condition * cholesky.RCOND_CHOLESKY < 1 and rss > 0 and n_pixels > m):
            return None
        noise_std = math.sqrt(rss / (n_pixels - m))
        variance = energy - total * total / n_pixels
        least, error = noise_std * math.sqrt(found.least), noise_std * math.sqrt(found.spread)
        if solve.rounding_limits(rss, energy, found.condition, found.size, least) or not variance > 1e-14 * energy:
            return None
        if solve.doubts(found.size, error, rss, variance, energy):
            return None
        taps, stderr = self.reader.to_user(own.taps), noise_std * self.reader.to_user(np.sqrt(own.spread))
        return _Tile(taps, stderr, noise_std, rss, m, n_pixels, ())

    def _solve(self, box: Box, stats: NormalStats, workers: int) -> "_Tile":
        """Solve a tile, with its pixels read once more where rounding could matter."""
        fit = solve.LeastSquares().solve(stats)
        if solve.rounding_matters(stats, fit):
            part = regions.loaded(regions.sub_problem(self.problem, box))
            item = None if self.boxed is None else self.boxed.item(box)
            for _ in range(2):
                before = fit.kernel
                if item is None:
                    moments, energies = residual_moments(part, before[None, None], self.method, workers)
                    stats = stats.centered(before.ravel(), moments[0], float(energies[0]))
                else:
                    found = weighted_pass.residual([item], before.ravel(), self.method, workers)
                    stats = stats.centered(before.ravel(), found.moment, found.energy)
                fit = solve.LeastSquares().solve(stats)
                if np.linalg.norm(fit.kernel - before) <= 1e-6 * np.linalg.norm(fit.kernel):
                    break
        if not isinstance(self.solver, solve.LeastSquares):
            fit = self.solver.solve(stats)
        taps, stderr = fit.kernel.ravel(), fit.stderr.ravel()
        return _Tile(taps, stderr, fit.noise_std, fit.rss, fit.rank, stats.n_pixels, fit.findings)


# ---- kernels that depend on their neighbours ------------------------------------------------------------------------


def _neighbours(grid: Shape) -> npt.NDArray[np.intp]:
    """Return the pairs of tiles that share a side, shape (pairs, 2)."""
    at = np.arange(grid[0] * grid[1]).reshape(grid)
    down = np.stack([at[:-1].ravel(), at[1:].ravel()], axis=1)
    across = np.stack([at[:, :-1].ravel(), at[:, 1:].ravel()], axis=1)
    return np.concatenate([down, across])


def _smoothed(every: list[NormalStats], fits: list[_Tile], grid: Shape, strength: float, noise: float) -> list[_Tile]:
    """Solve for all kernels at once, with the penalty on the differences of neighbours."""
    grams = np.stack([stats.gram for stats in every])
    m = grams.shape[1]
    pairs = _neighbours(grid)
    weight = strength * float(np.trace(grams, axis1=1, axis2=2).mean()) / m
    if weight == 0 or len(pairs) == 0:
        return fits
    degree = np.bincount(pairs.ravel(), minlength=len(every)).astype(float)
    own = np.stack([np.linalg.inv(g + weight * d * np.eye(m)) for g, d in zip(grams, degree, strict=True)])

    def around(x: Array) -> Array:
        """Return for each tile the sum over its neighbours."""
        out = np.zeros_like(x)
        np.add.at(out, pairs[:, 0], x[pairs[:, 1]])
        np.add.at(out, pairs[:, 1], x[pairs[:, 0]])
        return out

    def apply(x: Array) -> Array:
        return np.asarray(grams @ x + weight * (degree[:, None, None] * x - around(x)))

    # The unknown is the step from the kernels without a penalty, where the data have nothing left to say.
    plain = np.stack([f.taps for f in fits])[:, :, None]
    residual = np.stack([solve.residual_at(s, f.taps)[0] for s, f in zip(every, fits, strict=True)])[:, :, None]
    right = residual - weight * (degree[:, None, None] * plain - around(plain))
    step, converged = _conjugate_gradients(apply, own, right, 1e-24)
    taps = plain[:, :, 0] + step[:, :, 0]
    rng = np.random.default_rng(0)
    roots = np.stack([_root(g) for g in grams])
    borrowed = np.zeros_like(taps)
    for _ in range(_BATCHES):
        draws = roots @ rng.standard_normal((len(every), m, _DRAWS))
        edges = math.sqrt(weight) * rng.standard_normal((len(pairs), m, _DRAWS))
        np.add.at(draws, pairs[:, 0], edges)
        np.add.at(draws, pairs[:, 1], -edges)
        drawn, enough = _conjugate_gradients(apply, own, draws, 1e-8)
        converged = converged and enough
        borrowed += np.mean((weight * (own @ around(drawn))) ** 2, axis=2) / _BATCHES
    variance = np.diagonal(own, axis1=1, axis2=2) + borrowed
    out = []
    for i, stats in enumerate(every):
        stderr = noise * np.sqrt(variance[i])
        rss = solve.residual_at(stats, taps[i])[1]
        findings = solve.judge(stats, taps[i], stderr[:, None], m, 1.0, rss, prior=True)
        if fits[i].rank < m:
            findings = (*(Finding(Verdict.PRIOR_DECIDES, f.detail) for f in fits[i].findings[:1]), *findings)
        if not converged:
            findings = (*findings, Finding(Verdict.NOT_CONVERGED, f"stopped after {_MOST_ITERATIONS} iterations"))
        findings = ranked(findings)
        freedom = max(1, stats.n_pixels - fits[i].rank)
        std = math.sqrt(rss / freedom)
        out.append(_Tile(taps[i], stderr, std, rss, m, stats.n_pixels, findings))
    return out


def _root(gram: Array) -> Array:
    """Return R with ``R R' = gram``."""
    try:
        return np.asarray(np.linalg.cholesky(gram))
    except np.linalg.LinAlgError:
        values, vectors = scipy.linalg.eigh(gram)
        return np.asarray(vectors * np.sqrt(np.maximum(values, 0.0)))


def _conjugate_gradients(apply: Any, own: Array, right: Array, tolerance: float) -> tuple[Array, bool]:
    """Solve for several right-hand sides (tiles, taps, sides) at once, preconditioned tile by tile."""
    x = np.zeros_like(right)
    residual = right.copy()
    better = own @ residual
    direction = better.copy()
    size = np.einsum("tms,tms->s", residual, better)
    enough = tolerance * size
    for _ in range(_MOST_ITERATIONS):
        if not np.any(size > enough):
            return x, True
        image = apply(direction)
        curvature = np.einsum("tms,tms->s", direction, image)
        step = np.divide(size, curvature, out=np.zeros_like(size), where=curvature > 0)
        x += step * direction
        residual -= step * image
        better = own @ residual
        previous, size = size, np.einsum("tms,tms->s", residual, better)
        direction = better + np.divide(size, previous, out=np.zeros_like(size), where=previous > 0) * direction
    return x, False
