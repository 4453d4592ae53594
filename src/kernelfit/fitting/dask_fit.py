"""The pipeline on Dask arrays: the same steps, with sums over blocks wherever Dask computes."""

import dataclasses
import functools
import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..core.background import Elimination, eliminations_of, settled
from ..core.complex_numbers import raised
from ..core.estimate import Estimate
from ..core.normal_equations import NormalEquations
from ..core.validation import Array
from ..data import blocks
from ..data.observation import Observation, of_target
from ..data.plan import FitPlan
from ..engines.cost_model import Choice, resolve
from ..solvers.cholesky import factorise
from ..solvers.conjugate_gradient import ConjugateGradient
from ..solvers.least_squares import LeastSquares, LeastSquaresSolution, least_squares, rounding_matters
from . import advice, pipeline, requirements
from .channels import join
from .checkpoint import Checkpoint
from .dask_blocks import BlockGroup
from .dask_portions import kept_sums
from .dask_tasks import equations
from .deferred_reads import with_deferred_reads
from .equations import refine
from .pipeline import Settings

#: Taps up to which the Gram matrix serves where conjugate gradients are asked for.
_MOST_TAPS = 8000


def kept_equations(groups: Sequence[BlockGroup], state: Checkpoint) -> list[list[NormalEquations]]:
    """Return the equations of each target of each group; what the checkpoint holds is not computed again."""
    recognise(groups, state)
    units = [unit for group in groups for unit in group.units(equations)]
    sums = kept_sums(groups[0].dask, units, state, "", groups[0].progress)
    totals = [[sums.at(g, t).whole.total() for t in range(group.n_targets)] for g, group in enumerate(groups)]
    return [[settled(one) for one in own if one is not None] for own in totals]


def recognise(groups: Sequence[BlockGroup], state: Checkpoint) -> None:
    """Refuse arrays that are not a checkpoint's: by shapes, types, and pixels of the first and the last pair."""
    known, spots = hashlib.sha256(), []
    for group in groups:
        every = group.observations
        for one in every:
            known.update(repr([(r.array.shape, str(r.array.dtype)) for r in (*one.sources, *one.targets)]).encode())
        ends = (0,) if len(every) == 1 else (0, -1)
        marks = [own for at in ends for own in group.masked[at] if own is not None]
        more = [r for own in marks for r in (*own.masks, *own.weights, *(r for some in own.image_masks for r in some))]
        for reader in (*(reader for at in ends for reader in blocks.once(every[at])), *more):
            array = group.source(reader.array)
            if isinstance(array, np.ndarray) and any(reader is one for one in more):
                known.update(np.ascontiguousarray(array).tobytes())
            for share in (0.0, 0.5, 1.0):
                rows, cols = (slice(at := int(share * max(0, n - 16)), at + 16) for n in array.shape)
                spots.append(array[rows, cols])
    with state.running():
        for spot in groups[0].dask.compute(*spots):
            known.update(np.ascontiguousarray(spot).astype("<f8").tobytes())
        if state.digest not in ("", known.hexdigest()):
            raise state.mismatch("shapes, types or pixels of the arrays differ")
    state.digest = known.hexdigest()


def fit(
    plan: FitPlan, settings: Settings, sides: tuple[int, ...] | None, checkpoint: Callable[[], Checkpoint] | None = None
) -> Estimate:
    """Find the kernels of a plan; `checkpoint` opens the file that keeps the sums of each pass."""
    # What needs all pixels side by side (spectra, weights from the residual) is read block by block on this machine.
    n_taps = plan.groups[0][0].geometry.n_taps * len(plan.groups[0][0].sources)
    plain = isinstance(settings.solver, ConjugateGradient) and settings.solver.plain
    if plain and n_taps <= _MOST_TAPS:
        settings = dataclasses.replace(settings, solver=LeastSquares())  # the exact statistics are at hand
    more = ("Dask",) if checkpoint is None else ("Dask", "checkpoint")
    features = requirements.features_of(plan, settings.noise, settings.solver, settings.execution, *more)
    requirements.require(features)
    return advice.knowing(_fit(plan, settings, sides, checkpoint), features)


def _fit(
    plan: FitPlan, settings: Settings, sides: tuple[int, ...] | None, checkpoint: Callable[[], Checkpoint] | None
) -> Estimate:
    every = range(len(plan.groups))
    if settings.solver.needs != "normal equations" or settings.noise.reweighted:
        return join([pipeline.fit_of_group(plan, group, settings) for group in every], plan)
    choices = [chosen(observations, settings) for observations in plan.groups]
    state, progress = None if checkpoint is None else checkpoint(), settings.execution.progress
    groups = [BlockGroup(plan, g, choices[g].method, sides, progress, state) for g in every]
    if state is not None:
        recognise(groups, state)
    return join([_fit_group(own, choice, settings) for own, choice in zip(groups, choices, strict=True)], plan)


def _fit_group(own: BlockGroup, choice: Choice, settings: Settings) -> list[Estimate]:
    """Return the estimate of each target of a group."""
    plan, observations = own.plan, own.observations
    automatic = isinstance(plan.selection.saturated, str)
    if automatic and resolve(observations[0], settings.execution.engine).method == "cg" and not own.selects:
        own.use_all_saturated()  # no reason to form products of thousands of taps
    stats, notes = own.counted_equations(automatic=automatic)
    eliminations = [eliminations_of(one) for one in stats]
    stats, solutions, refined = _refined(own, stats, eliminations)
    estimates = []
    for t, (one, solution) in enumerate(zip(stats, solutions, strict=True)):
        masked = [masks[t] for masks in own.masked]
        each = [of_target(p, t) for p in observations]
        counted = sum(e.rank for e in eliminations[t]) + one.n_pixels
        masked = masked if _matters(masked, counted, each) else [None] * len(each)
        first = None
        if not settings.noise.image_std and settings.noise.covariance == "plain":  # no pixel is needed for it
            first = pipeline.with_errors(each, one, settings, solution, eliminations=eliminations[t])
        after = functools.partial(_finished, choice, refined, notes)

        def work(
            observations: Sequence[Observation],
            weights: Sequence[Any] | None,
            here: bool,
            asked: tuple[Any, ...] = (one, solution, first, after, eliminations[t], own.clipped[t]),
        ) -> Estimate:
            stats, minimum, estimate, finish, beside, clipped = asked
            if estimate is None and not here:  # of zeros a surface would be all residual, whose correlation takes long
                observations, beside = [dataclasses.replace(one, background=None) for one in observations], []
            if estimate is None:
                estimate = pipeline.with_errors(observations, stats, settings, minimum, weights, eliminations=beside)
            estimate = finish(weights, estimate)
            level = 0.0 if weights is not None else math.sqrt(stats.target_energy / max(1, stats.n_pixels))
            estimate = pipeline.diagnosed(
                observations, estimate, weights, 1, settings.noise, level=level, integers=here
            )
            return dataclasses.replace(pipeline.with_clipped(estimate, clipped), weights=None)

        n = max(1, sum(p.geometry.n_pixels for p in each))
        totals = [one.total_weight / n * p.geometry.n_pixels for p in each]
        brought = own.dask.compute, own.source
        estimates.append(raised(with_deferred_reads(each, masked, totals, counted / n, brought, work)))
    return estimates


def chosen(observations: Sequence[Observation], settings: Settings) -> Choice:
    """Return the engine of the statistics."""
    choice = resolve(max(observations, key=lambda p: p.geometry.n_pixels), settings.execution.engine)
    if choice.method == "cg":
        return Choice("fft", "only statistics can be added up")
    return choice


def _matters(masked: Sequence[Any], counted: int, observations: Sequence[Observation]) -> bool:
    """Say whether anything excludes or weighs pixels."""
    return counted < sum(p.geometry.n_pixels for p in observations) or any(m is not None and m.more for m in masked)


def _refined(
    own: BlockGroup, stats: list[NormalEquations], eliminations: Sequence[list[Elimination]]
) -> tuple[list[NormalEquations], list[LeastSquaresSolution], int]:
    """Solve, and refine against the pixels where rounding could matter."""
    factorisations: dict[int, Any] = {}

    def solve(one: NormalEquations) -> LeastSquaresSolution:
        if id(one.gram) not in factorisations:
            factorisations[id(one.gram)] = factorise(one.gram)
        return least_squares(one, factorisations[id(one.gram)])

    def recenter(stats: Sequence[NormalEquations], found: Sequence[LeastSquaresSolution]) -> Sequence[NormalEquations]:
        taps = np.stack([one.taps for one in found])
        sums = own.residuals(taps, eliminations)
        out = []
        for t, one in enumerate(stats):
            parts = [_reduced(sums[i][t], taps[t], eliminations[t][i : i + 1]) for i in range(len(sums))]
            moment, energy = parts[0]
            for more, extra in parts[1:]:
                moment, energy = moment + more, energy + extra
            out.append(one.centered(taps[t], moment, energy))
        return out

    def matters(_: int, one: NormalEquations, found: LeastSquaresSolution) -> bool:
        return rounding_matters(one, found, *(one.unreduced or ()))

    return refine(stats, solve, recenter, matters)


def _reduced(sums: Array, taps: Array, elimination: list[Elimination]) -> tuple[Array, float]:
    """Return moment and energy of a residual without what the surface takes up of it."""
    m = len(taps)
    if not elimination:
        return sums[:m], float(sums[-1])
    moment, energy = elimination[0].recentered(taps[None], sums[None, :m], sums[-1:], sums[None, m:-1])
    return moment[0], float(energy[0])


def _finished(
    choice: Choice, refined: int, notes: list[str], weights: Sequence[Any] | None, estimate: Estimate
) -> Estimate:
    """Return an estimate with how it was found."""
    kept: Any = None if weights is None else tuple(weights) if len(weights) > 1 else weights[0]
    more: dict[str, Any] = {"method": choice.method, "method_reason": choice.reason, "notes": (*estimate.notes, *notes)}
    return dataclasses.replace(estimate, refined=refined, weights=kept, **more)
