"""A kernel for each tile of a grid: how it varies over the field, whether it does, and neighbours that are alike."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import scipy.special

from ..core import geometry
from ..core.background import require_room
from ..core.findings import Finding, Verdict, ranked
from ..core.validation import Array
from ..data.blocks import Box, Cuboid
from ..data.extent import Extent
from ..data.plan import FitPlan
from ..engines.cost_model import Choice, engine_of
from ..solvers.least_squares import LeastSquares
from ..solvers.neighbours import smoothed
from . import requirements
from .pipeline import Settings
from .tile_fits import Equations, QuickReading, Reading, Shared, Tile, TileKernel

#: Bytes of Gram matrices that are alive at a time with a penalty across tiles.
_MOST = 2**31


@dataclass(frozen=True, eq=False)
class TileFits:
    """Kernels of the tiles of a grid."""

    grid: tuple[int, ...]  # tiles along each axis
    boxes: Sequence[Tile]  # the tiles, row by row, in the target's pixels that are used
    fits: list[tuple[TileKernel, ...]]  # for each tile its kernels, one for each target of each group
    common: Array  # the kernel of all tiles together
    #: variation, p_value: the F-statistic of one kernel for all tiles, and its probability
    variation: float
    p_value: float


def fit_tiles(plan: FitPlan, settings: Settings, tiles: object, overlap: object, strength: float) -> TileFits:
    """Find the kernels of the tiles of a grid, with a penalty on the differences of neighbours of some strength."""

    def work(plan: FitPlan) -> TileFits:
        return _fit_tiles(plan, settings, tiles, overlap, strength)

    return work(plan) if len(plan.groups) > 1 else plan.presuming(0, work)


def _fit_tiles(plan: FitPlan, settings: Settings, tiles: object, overlap: object, strength: float) -> TileFits:
    noise, execution = settings.noise, settings.execution
    features = requirements.features_of(plan, noise, settings.solver, execution, "tiles")
    features |= {"smoothness": f"smoothness={strength:g}"} if strength > 0 else {}
    requirements.require(features)
    grid, boxes = _tiles(plan, tiles, overlap)
    observation = plan.groups[0][0]
    n_taps = len(observation.sources) * observation.geometry.n_taps
    n_kernels = len(boxes) * sum(len(group[0].targets) for group in plan.groups)
    if strength > 0 and n_kernels * 8 * n_taps**2 > _MOST:
        raise ValueError(
            f"got smoothness={strength:g} for {n_kernels} kernels of {n_taps} taps, whose Gram matrices take more "
            "than 2 GiB together; ask for fewer tiles, a smaller shape, or no smoothness"
        )
    plain = isinstance(settings.solver, LeastSquares) and noise.covariance == "plain" and not noise.image_std
    tested = plain and noise.loss is None and not any(geometry.as_pair(overlap, "overlap", len(grid)))
    engine = engine_of(observation, execution.engine)  # of the whole: all tiles share what it takes to start
    single = len(plan.groups) == len(plan.groups[0]) == len(observation.sources) == len(observation.targets) == 1
    reading: QuickReading | Reading
    if plain and single and observation.plane is None and observation.background is None and not noise.reweighted:
        flat = [box for box in boxes if isinstance(box, Box)]
        reading = QuickReading(observation, plan.judged(0)[0][0], flat, engine, execution.threads, strength > 0)
    else:
        method = "cg" if settings.solver.needs == "operator" else engine
        reading = Reading(plan, boxes, Choice(method, "as asked"), settings, tested, strength > 0)
    fits: list[tuple[TileKernel, ...]] = []
    every: list[tuple[Equations, ...]] = []
    for more, equations in reading:
        fits += more
        every += equations
        if execution.progress is not None:
            execution.progress("reading tiles", len(fits), len(boxes))
    variation, p_value = _variation(reading.shared) if tested else (math.nan, math.nan)
    if strength > 0:
        fits = _smoothed(every, fits, grid, strength, reading.shared)
    return TileFits(grid, boxes, fits, reading.common(), variation, p_value)


def _tiles(plan: FitPlan, tiles: object, overlap: object) -> tuple[tuple[int, ...], Sequence[Tile]]:
    """Cut the target pixels into a grid of tiles."""
    group, extents = plan.groups[0], Extent.each(plan.groups[0])
    ndim = len(extents[0].size)
    laid = {(one.first.geometry.offset, one.size, one.first.plane and one.first.plane.first) for one in extents}
    if len(laid) > 1:
        sizes = sorted({one.whole for one in group})
        msg = f"got targets of shapes {sizes}, need pairs of one shape: a tile is the same place in each of them"
        raise ValueError(msg)
    grid, more = geometry.as_pair(tiles, "tiles", ndim), geometry.as_pair(overlap, "overlap", ndim)
    size = extents[0].size
    if min(grid) < 1 or any(n > side for n, side in zip(grid, size, strict=True)):
        one = " x ".join("1" * ndim)
        msg = f"got tiles={tiles!r}, need at least {one} and no more than the {size} target pixels that are used"
        raise ValueError(msg)
    if min(more) < 0:
        raise ValueError(f"got overlap={overlap!r}, need a number of pixels, at least 0")
    spans = []
    for n, side, extra in zip(grid, size, more, strict=True):
        ends = [i * side // n for i in range(n + 1)]
        spans.append([(max(0, a - extra), min(side, b + extra)) for a, b in zip(ends[:-1], ends[1:], strict=True)])
    flat = [Box(a, c, b - a, d - c) for a, b in spans[-2] for c, d in spans[-1]]
    boxes: Sequence[Tile] = flat
    if ndim == 3:
        boxes = [Cuboid(*box, a, b - a) for a, b in spans[0] for box in flat]
    least = tuple(min(b - a for a, b in span) for span in spans)
    degree, n_taps = group[0].background, len(group[0].sources) * group[0].geometry.n_taps
    whole = group[0].whole
    terms = 0 if degree is None else len(extents) * require_room(whole, whole, degree, "")
    if len(extents) * math.prod(least) < n_taps + terms:
        beside = f" and {terms} coefficients of the background" if terms else ""
        raise ValueError(
            f"got tiles={tiles!r}, the smallest of which has {'x'.join(map(str, least))} pixels, too few for "
            f"{n_taps} taps{beside}; ask for fewer tiles, a larger overlap, or a smaller shape"
        )
    if degree is not None:
        require_room(least, whole, degree, "the smallest tile")
    return grid, boxes


def _variation(every: Sequence[Shared]) -> tuple[float, float]:
    """Return the F-statistic of shared kernels, each kernel with a noise of its own, and its probability."""
    rise, extra, df_resid = 0.0, 0, 0
    for one in every:
        if not (one.df_resid > 0 and one.rss > 0):
            return math.nan, math.nan
        rise += max(0.0, one.solution.rss - one.rss) / (one.rss / one.df_resid)
        extra, df_resid = extra + one.rank - one.solution.rank, df_resid + one.df_resid
    return (
        (rise / extra, float(scipy.special.fdtrc(extra, df_resid, rise / extra))) if extra > 0 else (math.nan, math.nan)
    )


def _smoothed(
    every: list[tuple[Equations, ...]],
    fits: list[tuple[TileKernel, ...]],
    grid: tuple[int, ...],
    strength: float,
    shared: Sequence[Shared],
) -> list[tuple[TileKernel, ...]]:
    """Solve for the kernels of all tiles at once, with the penalty on the differences of neighbours."""
    columns = []
    for own, alone, sums in zip(zip(*every, strict=True), zip(*fits, strict=True), shared, strict=True):
        noise = math.sqrt(sums.rss / sums.df_resid) if sums.df_resid > 0 else math.nan
        found = smoothed([e.stats for e in own], [f.taps for f in alone], grid, strength, noise)
        if found is None:
            columns.append(alone)
            continue
        column = []
        for equations, before, after in zip(own, alone, found, strict=True):
            findings, stats = after.findings, equations.stats
            if before.rank < len(before.taps):
                open_ = [Finding(Verdict.PRIOR_DECIDES, f.detail) for f in before.findings[:1]]
                findings = ranked((*open_, *findings))
            std = math.sqrt(after.rss / max(1, stats.n_pixels - before.rank))
            surface = equations.surface(after.taps)
            column.append(TileKernel(after.taps, after.stderr, std, after.rss, len(after.taps), findings, surface))
        columns.append(tuple(column))
    return list(zip(*columns, strict=True))
