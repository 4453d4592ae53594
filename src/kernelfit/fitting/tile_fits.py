"""The fits of the tiles of a grid.

A tile is a problem of its own: the observations of its box, with the part of the weights that lies there, go through
the pipeline as those of the whole do. Plain least squares over a single plane takes a quick way to the same numbers:
tiles are read, summed and solved by one thread at one go.
"""

import contextlib
import dataclasses
import functools
import math
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..compiled.threads import bands, in_order
from ..core.background import Elimination
from ..core.complex_numbers import raised
from ..core.estimate import Estimate
from ..core.findings import Finding
from ..core.normal_equations import NormalEquations
from ..core.validation import Array
from ..data import blocks
from ..data.blocks import Box, Cuboid
from ..data.masking import Judged
from ..data.observation import Items, Observation, WeightedObservation, n_unknowns, of_target
from ..data.plan import FitPlan
from ..engines import weighted, weighted_pass
from ..engines.accumulation import residual_moments, statistics
from ..engines.cost_model import Choice
from ..engines.small_tiles import Buffers, Solved, TileReader
from ..solvers import cholesky, least_squares
from ..solvers.least_squares import LeastSquaresSolution
from . import pipeline
from .equations import refine
from .pipeline import Fitted, Settings

#: Bytes of Gram matrices that are alive at a time.
_BATCH = 2**26
#: Of a group, for each target, the weights of each observation; None where every pixel counts alike.
Weighed = list[list[Judged | None]]
Tile = Box | Cuboid


class TileKernel(NamedTuple):
    """What is kept of one kernel of a tile; `surface` holds the coefficients of its background."""

    taps: Array
    stderr: Array
    noise_std: float
    rss: float
    rank: int
    findings: tuple[Finding, ...]
    surface: Array | None = None


class Equations(NamedTuple):
    """What the pixels of a tile say of one of its kernels, and what gives the background beside it."""

    stats: NormalEquations
    eliminations: Sequence[Elimination] = ()
    target: int = 0

    def surface(self, taps: Array) -> Array | None:
        """Return the coefficients beside a kernel, a row for each observation."""
        if not self.eliminations:
            return None
        rows = []
        for one in self.eliminations:
            rows.append(one.coefficients_at(np.broadcast_to(taps, (len(one.coefficients), len(taps))))[self.target])
        return np.stack(rows)


class Shared:
    """The sums over all tiles from which it follows what one kernel for all of them would leave."""

    def __init__(self) -> None:
        self.tree = blocks.Tree[NormalEquations](operator.add)
        self.rss, self.rank, self.df_resid = 0.0, 0, 0
        #: Equations beside those in the tree.
        self.read: NormalEquations | None = None

    def push(self, rss: float, rank: int, df_resid: int) -> None:
        """Add a tile's residual sum of squares, rank and degrees of freedom."""
        self.rss, self.rank, self.df_resid = self.rss + rss, self.rank + rank, self.df_resid + df_resid

    @functools.cached_property
    def solution(self) -> LeastSquaresSolution:
        """The kernel that all tiles share."""
        read, total = self.read, self.tree.total()
        total = read + total if read is not None and total is not None else total or read
        assert total is not None
        return least_squares.least_squares(total, cholesky.factorise(total.gram, 1))


class Reading:
    """The fits of the tiles by the pipeline, several at a time."""

    def __init__(
        self, plan: FitPlan, boxes: Sequence[Tile], choice: Choice, settings: Settings, tested: bool, keep: bool
    ) -> None:
        self.plan, self.boxes, self.choice, self.tested, self.keep = plan, boxes, choice, tested, keep
        self.workers, self.whole = settings.execution.threads, settings
        alone = dataclasses.replace(settings.execution, workers=1, progress=None)
        # where the edges are, the tiles do not know
        self.settings = dataclasses.replace(settings, execution=alone, edges=False)
        self.judged = [pipeline.judged_of(plan, g, settings) for g in range(len(plan.groups))]
        self.shared = [Shared() for group in plan.groups for _ in group[0].targets]

    def __iter__(self) -> Iterator[tuple[list[tuple[TileKernel, ...]], list[tuple[Equations, ...]]]]:
        common = self._common
        fixed = self._fixed(common) if self.settings.noise.pixel_variance.slope and self.tested else None
        for fits, equations, tests in in_order(self.boxes, functools.partial(self._fit, fixed), self.workers):
            for sums, test in zip(self.shared, tests, strict=False):
                if test is not None:
                    sums.tree.push(test[0])
                    sums.push(*test[1:])
            yield [fits], [equations] if self.keep else []

    @functools.cached_property
    def _common(self) -> Estimate:
        return pipeline.fit(self.plan, self.whole)

    def common(self) -> Array:
        """Return the kernel of the whole."""
        return self._common.kernel

    def _fixed(self, common: Estimate) -> list[Weighed]:
        """Return the weights of the fit of the whole, which do not differ between the kernels to be compared."""
        parts = iter(common.parts or (common,))
        out: list[Weighed] = []
        for group in self.plan.groups:
            out.append([])
            for t in range(len(group[0].targets)):
                weights = next(parts).weights
                every: Any = weights if isinstance(weights, tuple) else (weights,)
                if group[0].plane is not None:  # a volume's planes share an array
                    every = [every[one.plane.volume][one.plane.at] for one in group if one.plane is not None]
                items = zip(group, every, strict=True)
                own = [
                    WeightedObservation(of_target(one, t), w[one.geometry.used]) for one, w in items if w is not None
                ]
                out[-1].append([Judged(item, ()) for item in own])
        return out

    def _fit(self, fixed: list[Weighed] | None, box: Tile) -> tuple[Any, Any, list[Any]]:
        """Return the kernels of a tile, their equations, and what the test of one kernel for all tiles needs."""
        found: list[Fitted] = []
        for group, judged in zip(self.plan.groups, self.judged, strict=True):
            found += self._group(group, judged, box)
        equations = tuple(Equations(f.stats, f.eliminations, f.target) for f in found if f.stats is not None)
        tests: list[Any] = []
        if fixed is not None:
            both = zip(self.plan.groups, fixed, strict=True)
            tests = [self._fixed_test(_in_box(one, box, group)) for group, weighed in both for one in weighed]
        elif self.tested or self.keep:
            tests = [
                (f.stats, f.estimate.rss, f.estimate.rank, f.stats.n_pixels - f.estimate.rank)
                for f in found
                if f.stats is not None
            ]
        return tuple(_kernel_of(f.estimate) for f in found), equations, tests

    def _group(self, group: Sequence[Observation], judged: Weighed | None, box: Tile) -> list[Fitted]:
        """Fit a group in a tile."""
        parts = [self._part(group[i], box) for i in blocks.on(group, box)]
        some = None if judged is None else [_in_box(one, box, group) for one in judged]
        if some is None or (not self.settings.noise.reweighted and all(j is None for one in some for j in one)):
            return pipeline.fit_group(parts, None, self.choice, self.settings)
        out = []
        for t, weighed in enumerate(some):
            own = [of_target(part, t) for part in parts]
            items = [
                j.item if j else WeightedObservation(p, np.ones(p.size, bool))
                for p, j in zip(own, weighed, strict=True)
            ]
            if sum(item.n_pixels for item in items) < n_unknowns(items):
                out.append(_undetermined(items, self.choice.method))
            else:
                out += pipeline.fit_group(own, [weighed], self.choice, self.settings)
        return out

    def _part(self, observation: Observation, box: Tile) -> Observation:
        part = _part(observation, box)
        if self.settings.solver.needs != "spectra":
            return part
        open_ = dataclasses.replace(part.geometry.convention, boundary=None)  # a tile is not periodic
        return dataclasses.replace(part, geometry=dataclasses.replace(part.geometry, convention=open_))

    def _fixed_test(self, weighed: Sequence[Judged | None]) -> tuple[NormalEquations, float, int, int]:
        """Return what the test needs of a tile with the weights of the whole."""
        stats, _ = _exact([j.item for j in weighed if j is not None], self.choice.method)
        found = least_squares.least_squares(stats)
        return stats, found.rss, found.rank, stats.n_pixels - found.rank


def _part(observation: Observation, box: Tile) -> Observation:
    part = blocks.sub_observation(observation, box)
    own: dict[str, Any] = {"geometry": dataclasses.replace(part.geometry, target_shape=part.size, offset=(0, 0))}
    if isinstance(box, Cuboid) and (plane := part.plane) is not None:
        at = plane.at - plane.first - box.first
        own["plane"] = dataclasses.replace(plane, at=at, first=0, shape=(box.planes, box.rows, box.cols))
    return blocks.loaded(dataclasses.replace(part, **own))


def _in_box(every: Sequence[Judged | None], box: Tile, group: Sequence[Observation] = ()) -> list[Judged | None]:
    """Return the part of the weights of some observations that lies in a tile; None where its pixels count alike."""
    out: list[Judged | None] = []
    for one in [every[i] for i in blocks.on(group, box)] if group else every:
        item = None
        if one is not None:
            weights = one.item.weights[box.row : box.row + box.rows, box.col : box.col + box.cols]
            item = None if np.all(weights == 1) else WeightedObservation(_part(one.item.observation, box), weights)
        out.append(None if item is None else Judged(item, ()))
    return out


def _exact(items: Items, method: str) -> tuple[NormalEquations, tuple[Elimination, ...]]:
    """Return equations with given weights, however few pixels count, and what gives the backgrounds."""
    gram, moment, sums, _ = weighted.exact_sums(items, method, 1)
    return weighted.assembled(items, gram, moment, sums)


def _undetermined(items: Items, method: str) -> Fitted:
    """Return the smallest kernel of a tile whose pixels are too few for any other answer."""
    stats, eliminations = _exact(items, "direct" if method == "cg" else method)
    estimate = least_squares.estimate_of(stats, least_squares.least_squares(stats))
    if eliminations:
        observations, n_pixels = [item.observation for item in items], sum(item.n_pixels for item in items)
        (estimate,) = pipeline.with_background([estimate], observations, eliminations, n_pixels)
    return Fitted(estimate, stats, eliminations)


def _kernel_of(fit: Estimate) -> TileKernel:
    """Keep of an estimate what a map holds."""
    fit = raised(fit)
    surface = None if fit.background is None else fit.background.coefficients
    # of no pixel at all, a kernel of zeros is not known to be one
    stderr = np.full(fit.kernel.size, np.nan) if fit.rank == 0 and math.isnan(fit.noise_std) else fit.stderr.ravel()
    return TileKernel(fit.kernel.ravel(), stderr, fit.noise_std, fit.rss, fit.rank, fit.findings, surface)


# ---- plain least squares over one plane -----------------------------------------------------------------------------


@dataclass
class _Band:
    """A run of tiles: fits, numbers of pixels, statistics where needed; their sums, those of small tiles `raw`."""

    fits: list[TileKernel]
    n_pixels: list[int]
    every: list[NormalEquations]
    raw: Array | None = None
    n_read: int = 0
    total: NormalEquations | None = None


class QuickReading:
    """The pass over the tiles of one plane for least squares, its weights given if any."""

    def __init__(
        self, observation: Observation, judged: Judged | None, boxes: list[Box], method: str, workers: int, keep: bool
    ) -> None:
        self.observation, self.boxes, self.method, self.workers = observation, boxes, method, workers
        self.judged, self.keep = judged, keep
        if judged is not None:
            weighted.require_determined([judged.item])
        self.reader = TileReader(observation, boxes, method) if TileReader.fits(observation, boxes) else None
        # What needs no BLAS is solved by the thread that has read it.
        self.at_once = observation.geometry.n_taps <= cholesky.OWN_FACTOR
        self._raw, self._n_read = blocks.Tree[Array](operator.add), 0
        self.shared = [Shared()]

    def common(self) -> Array:
        """Return the kernel of all tiles together."""
        return self.shared[0].solution.taps.reshape(self.observation.geometry.kernel_shape)

    def __iter__(self) -> Iterator[tuple[list[tuple[TileKernel, ...]], list[tuple[Equations, ...]]]]:
        work, at_once, sums = bands(self.boxes), len(self.boxes), self.shared[0]
        if not self.at_once:
            at_once = max(self.workers, _BATCH // (8 * self.observation.geometry.n_taps**2 * len(work[0])))
        for first in range(0, len(work), at_once):
            some = work[first : first + at_once]
            read = in_order(some, self._read, self.workers)
            for boxes, band in zip(some, read if self.at_once else list(read), strict=True):
                if band.raw is not None:
                    self._raw.push(band.raw)
                    self._n_read += band.n_read
                if band.total is not None:
                    sums.tree.push(band.total)
                if not self.at_once:
                    for box, stats in zip(boxes, band.every, strict=True):
                        band.fits.append(self._solve(box, self._item(box), stats, self.workers))
                for fit, n_pixels in zip(band.fits, band.n_pixels, strict=True):
                    sums.push(fit.rss, fit.rank, n_pixels - fit.rank)
                yield [(fit,) for fit in band.fits], [(Equations(one),) for one in band.every if self.keep]
        raw = self._raw.total()
        if self.reader is not None:
            if raw is not None:
                sums.read = self.reader.total(raw, self._n_read)
            self.reader.close()

    def _item(self, box: Box) -> WeightedObservation | None:
        """Return a tile with its weights, None if its pixels count alike."""
        (judged,) = _in_box([self.judged], box)
        return None if judged is None else judged.item

    def _read(self, boxes: list[Box]) -> _Band:
        """Read a run of tiles and solve each, unless that is left for later."""
        band, totals = _Band([], [], []), []
        with contextlib.nullcontext() if self.reader is None else self.reader.buffers() as own:
            for box in boxes:
                item, fit, stats = self._item(box), None, None
                if item is not None:
                    stats = weighted.block_statistics(item, self.method, 1)
                elif self.reader is None or own is None:
                    stats = statistics(_part(self.observation, box), self.method, 1)[0]
                else:
                    solved = self.reader.read(box, own)
                    band.n_read += box.rows * box.cols
                    fit = self._plain(box, own, solved) if self.at_once else None
                if stats is not None:
                    totals.append(stats)
                elif self.reader is not None and own is not None and (fit is None or self.keep):
                    stats = self.reader.statistics(box, own)
                if self.at_once and fit is None:
                    assert stats is not None
                    fit = self._solve(box, item, stats, 1, cholesky.factorise(stats.gram, 1))
                if fit is not None:
                    band.fits.append(fit)
                if stats is not None and (self.keep or not self.at_once):
                    band.every.append(stats)
                band.n_pixels.append(box.rows * box.cols if item is None else item.n_pixels)
            band.raw = own.total.copy() if own is not None else None
        band.total = functools.reduce(operator.add, totals) if totals else None
        return band

    def _plain(self, box: Box, own: Buffers, found: Solved) -> TileKernel | None:
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
        return TileKernel(taps, stderr, noise_std, rss, m, ())

    def _solve(
        self,
        box: Box,
        item: WeightedObservation | None,
        stats: NormalEquations,
        workers: int,
        factorisation: cholesky.Inverse | None = None,
    ) -> TileKernel:
        """Solve a tile, with its pixels read once more where rounding could matter."""

        def solve(stats: NormalEquations) -> LeastSquaresSolution:
            return least_squares.least_squares(stats, factorisation)

        def recenter(stats: Sequence[NormalEquations], found: Sequence[LeastSquaresSolution]) -> list[NormalEquations]:
            taps = found[0].taps
            if item is not None:
                left = weighted_pass.residual([item], taps, self.method, workers)
                return [stats[0].centered(taps, left.moment, left.energy)]
            kernels = taps.reshape(1, 1, *self.observation.geometry.kernel_shape)
            moments, energies = residual_moments(_part(self.observation, box), kernels, self.method, workers)
            return [stats[0].centered(taps, moments[0], float(energies[0]))]

        def matters(_: int, stats: NormalEquations, found: LeastSquaresSolution) -> bool:
            return least_squares.rounding_matters(stats, found)

        (stats,), (found,), _ = refine([stats], solve, recenter, matters)
        return _kernel_of(least_squares.estimate_of(stats, found))
