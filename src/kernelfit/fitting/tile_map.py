"""A kernel for each tile of a grid: how it varies over the field, from the statistics of the tiles."""

import contextlib
import functools
import math
import operator
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.linalg
import scipy.special

from ..compiled.threads import Progress, bands, in_order
from ..core import geometry
from ..core.findings import Finding, Verdict, ranked
from ..core.geometry import Shape
from ..core.normal_equations import NormalEquations
from ..data import blocks
from ..data.blocks import Box
from ..data.masked_blocks import MaskedBlocks
from ..data.observation import Observation
from ..engines import weighted, weighted_pass
from ..engines.accumulation import residual_moments, statistics
from ..engines.small_tiles import Buffers, Solved, TileReader
from ..solvers import cholesky, least_squares

Array = npt.NDArray[np.float64]
#: Bytes of Gram matrices that are alive at a time, without and with a penalty across tiles.
_BATCH = 2**26
_MOST = 2**31
_MOST_ITERATIONS = 2000
#: Draws of all kernels, at a time and how often.
_DRAWS, _BATCHES = 64, 4


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
    total: NormalEquations | None
    fits: list[_Tile]
    every: list[NormalEquations]


def _tiles(observation: Observation, tiles: object, overlap: object) -> tuple[Shape, list[Box]]:
    """Cut the target pixels into a grid of tiles."""
    grid, more = geometry.as_pair(tiles, "tiles"), geometry.as_pair(overlap, "overlap")
    if min(grid) < 1 or any(n > size for n, size in zip(grid, observation.size, strict=True)):
        msg = (
            f"got tiles={tiles!r}, need at least 1 x 1 and no more than the {observation.size} target pixels that are "
            "used"
        )
        raise ValueError(msg)
    if min(more) < 0:
        msg = f"got overlap={overlap!r}, need a number of pixels, at least 0"
        raise ValueError(msg)
    spans = []
    for n, size, extra in zip(grid, observation.size, more, strict=True):
        ends = [i * size // n for i in range(n + 1)]
        spans.append([(max(0, a - extra), min(size, b + extra)) for a, b in zip(ends[:-1], ends[1:], strict=True)])
    boxes = [Box(a, c, b - a, d - c) for a, b in spans[0] for c, d in spans[1]]
    smallest = min(boxes, key=lambda b: b.rows * b.cols)
    n_taps = observation.geometry.n_taps
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
        observation: Observation,
        boxed: MaskedBlocks | None,
        boxes: list[Box],
        method: str,
        solver: least_squares.Solver,
        workers: int,
        progress: Progress | None,
        keep: bool,
    ) -> None:
        self.observation, self.boxes, self.method, self.workers, self.progress = (
            observation,
            boxes,
            method,
            workers,
            progress,
        )
        self.boxed, self.solver, self.keep = boxed, solver, keep
        small = TileReader.fits(observation, boxes)
        self.reader = TileReader(observation, boxes, method) if small else None
        # What needs no BLAS, which has threads of its own, is solved by the thread that has read it.
        plain = isinstance(solver, least_squares.LeastSquares)
        self.at_once = plain and observation.geometry.n_taps <= cholesky.OWN_FACTOR
        self._raw, self._n_read = blocks.Tree[Array](operator.add), 0
        self._tree = blocks.Tree[NormalEquations](operator.add)

    def __iter__(self) -> Iterator["_Band"]:
        """Yield the tiles, in order, a few at a time."""
        work, done = bands(self.boxes), 0
        at_once = len(work)
        if not self.at_once:
            largest = 8 * self.observation.geometry.n_taps**2 * len(work[0])
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

    def total(self) -> NormalEquations:
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
                    stats = weighted.block_statistics(item, self.method, 1)
                elif self.reader is None or own is None:
                    part = blocks.loaded(blocks.sub_observation(self.observation, box))
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
                    fit = self._solve(box, stats, 1, least_squares.factorise(stats.gram, 1))
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
        if (
            least_squares.rounding_limits(rss, energy, found.condition, found.size, least)
            or not variance > 1e-14 * energy
        ):
            return None
        if least_squares.doubts(found.size, error, rss, variance, energy):
            return None
        taps, stderr = self.reader.to_user(own.taps), noise_std * self.reader.to_user(np.sqrt(own.spread))
        return _Tile(taps, stderr, noise_std, rss, m, n_pixels, ())

    def _solve(
        self, box: Box, stats: NormalEquations, workers: int, factorisation: cholesky.Inverse | None = None
    ) -> "_Tile":
        """Solve a tile, with its pixels read once more where rounding could matter."""
        fit = least_squares.estimate_of(stats, least_squares.least_squares(stats, factorisation))
        if least_squares.rounding_matters(stats, fit):
            part = blocks.loaded(blocks.sub_observation(self.observation, box))
            item = None if self.boxed is None else self.boxed.item(box)
            for _ in range(2):
                before = fit.kernel
                if item is None:
                    moments, energies = residual_moments(part, before[None, None], self.method, workers)
                    stats = stats.centered(before.ravel(), moments[0], float(energies[0]))
                else:
                    found = weighted_pass.residual([item], before.ravel(), self.method, workers)
                    stats = stats.centered(before.ravel(), found.moment, found.energy)
                fit = least_squares.estimate_of(stats, least_squares.least_squares(stats, factorisation))
                if np.linalg.norm(fit.kernel - before) <= 1e-6 * np.linalg.norm(fit.kernel):
                    break
        if not isinstance(self.solver, least_squares.LeastSquares):
            fit = self.solver.solve(stats)
        taps, stderr = fit.kernel.ravel(), fit.stderr.ravel()
        return _Tile(taps, stderr, fit.noise_std, fit.rss, fit.rank, stats.n_pixels, fit.findings)


def _neighbours(grid: Shape) -> npt.NDArray[np.intp]:
    """Return the pairs of tiles that share a side, shape (pairs, 2)."""
    at = np.arange(grid[0] * grid[1]).reshape(grid)
    down = np.stack([at[:-1].ravel(), at[1:].ravel()], axis=1)
    across = np.stack([at[:, :-1].ravel(), at[:, 1:].ravel()], axis=1)
    return np.concatenate([down, across])


def _smoothed(
    every: list[NormalEquations], fits: list[_Tile], grid: Shape, strength: float, noise: float
) -> list[_Tile]:
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
    residual = np.stack([least_squares.residual_at(s, f.taps)[0] for s, f in zip(every, fits, strict=True)])[:, :, None]
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
        rss = least_squares.residual_at(stats, taps[i])[1]
        findings = least_squares.judge(stats, taps[i], stderr[:, None], m, 1.0, rss, prior=True)
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
