"""Statistics of a plan without a solution, and what is kept beside them."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence

import numpy as np

from ..core.background import Elimination, eliminated
from ..core.geometry import Geometry, Shape
from ..core.model import Execution, Noise
from ..core.normal_equations import EliminatedSurface, NormalEquations, added
from ..core.validation import Array
from ..data import blocks
from ..data.masking import Judged
from ..data.observation import Items, Observation, WeightedObservation, Weights, lots, of_target
from ..data.plan import FitPlan
from ..data.reader import Request, keeping
from ..data.volumes import merged, sampled
from ..diagnostics.tiles import requests
from ..engines import weighted
from ..engines.cost_model import engine_of
from ..solvers.errors_in_variables import counts_of, pairs_of
from ..solvers.least_squares import LeastSquares, Solver
from . import image_noise as noise_counts
from . import requirements
from .context import Context, ImageNoise, Tile, kept, key_of, tiles_of
from .equations import lot_equations
from .reweighting import InMemory, Seen, corrected, reweighted
from .weighted_fitter import Solved, WeightedFitter

Gathered = tuple[NormalEquations, Context]


def gather(
    plan: FitPlan, noise: Noise, execution: Execution, solver: Solver | None = None, *, sampled: bool = True
) -> list[Gathered]:
    """Return the statistics of each kernel of a plan: one for each group and target, with a sample of the pixels."""
    solver = LeastSquares() if solver is None else solver
    features = requirements.features_of(plan, noise, solver, execution, "statistics alone")
    requirements.require(features)
    found: list[Gathered] = []
    for group, observations in enumerate(plan.groups):
        if requirements.rereads(features):
            plan.hold(group)
        with keeping(_requests(observations)):
            found += plan.presuming(group, functools.partial(_group, group, noise, execution, sampled))
    return found


def _requests(observations: Sequence[Observation]) -> Iterator[Request]:
    """Yield what of stored arrays is read for the sample of the pixels."""
    yield from requests(observations, edges=False)
    for one in observations:
        yield from ((reader, *spot) for reader in one.targets for spot in blocks.spots_of(reader))


def _group(group: int, noise: Noise, execution: Execution, sampled: bool, plan: FitPlan) -> list[Gathered]:
    observations, threads = plan.groups[group], execution.threads
    method = engine_of(max(observations, key=lambda p: p.geometry.n_pixels), execution.engine)
    context = context_of(plan, group, method)
    judged = plan.judged(group)
    if noise.reweighted:
        return [
            _reweighted([_item(j, of_target(p, t)) for j, p in zip(one, observations, strict=True)], noise, execution,
                        noted(context, one), method)
            for t, one in enumerate(judged)
        ]  # fmt: skip
    for t, one in enumerate(judged):
        if any(one):
            weighted.require_determined([_item(j, of_target(p, t)) for j, p in zip(one, observations, strict=True)])
    sums: list[NormalEquations] = []
    for lot in lots(observations):
        items = [[None if j is None else j.item for j in (one[i] for one in judged)] for i in lot]
        every = lot_equations([observations[i] for i in lot], items, method, threads, execution.progress)
        own = [eliminated(s) for s in every]
        sums = added(sums, own) if sums else own
    found = []
    for t, (stats, one) in enumerate(zip(sums, judged, strict=True)):
        parts = [j.item.observation if j else of_target(p, t) for j, p in zip(one, observations, strict=True)]
        weights = [j.item.weights if j else None for j in one]
        own_context = dataclasses.replace(noted(context, one), tiles=_tiles(parts, weights) if sampled else ())
        if noise.image_std:
            known = _noise_of(parts, weights, noise.image_std)
            stats, known = known.taken_off(stats)
            own_context = dataclasses.replace(own_context, noise=known)
        found.append((stats, own_context))
    return found


def _item(judged: Judged | None, observation: Observation) -> WeightedObservation:
    if judged is not None:
        return judged.item
    return WeightedObservation(observation, np.ones(observation.size, dtype=bool))


def noted(context: Context, judged: Sequence[Judged | None]) -> Context:
    """Return a context that says what was excluded."""
    notes = [note for one in judged if one for note in one.notes]
    planes = [one.item.observation for one in judged if one and one.item.observation.plane is not None]
    if planes:
        notes = merged(notes, planes)
    return dataclasses.replace(context, notes=tuple(notes))


def context_of(plan: FitPlan, group: int, method: str) -> Context:
    """Return what is known before any pixel is read."""
    count = len(lots(plan.groups[group]))
    return Context(plan.channels, plan.channel_axis, plan.n_pairs, plan.listed, count, method)


def _tiles(observations: Sequence[Observation], weights: Sequence[Weights | None]) -> tuple[Tile, ...]:
    """Return a sample of the pixels, whose keys depend on what they hold."""
    found: list[Tile] = []
    some, chosen = sampled(observations, list(range(len(observations))))
    for i, observation in zip(chosen or (), some, strict=True):
        at = i if observation.plane is None else observation.plane.volume
        found += tiles_of(observation, weights[i], at, (at, key_of(blocks.spots(observation.targets))))
    return kept(found)


def _noise_of(parts: Sequence[Observation], weights: Sequence[Weights | None], std: float) -> ImageNoise:
    """Return what the image's noise adds to the sums of observations; weights say which pixels count."""
    even = all(w is None for w in weights)
    if parts[0].plane is not None:
        own = None if even else [np.ones(p.size, bool) if w is None else np.asarray(w[:], bool)
                                 for p, w in zip(parts, weights, strict=True)]  # fmt: skip
        found = noise_counts.ImageNoise.of(parts, own, ())
        return ImageNoise(std, std**2 * found.counts, found.pairs)
    both = [image_noise(p.geometry, w, std) for p, w in zip(parts, weights, strict=True)]
    return ImageNoise(std, np.sum([gram for gram, _ in both], axis=0), None if even else added_pairs(both, parts))


def image_noise(plan: Geometry, weights: Weights | None, std: float) -> tuple[Array, Array | None]:
    """Return what the image's noise adds to the Gram matrix, and pairs of pixels that count, None if all do."""
    counted = None if weights is None else np.asarray(weights[:], dtype=bool)
    counts = std**2 * counts_of(plan, counted)
    return counts, None if counted is None else pairs_of(counted, plan)


def added_pairs(both: Sequence[tuple[Array, Array | None]], observations: Sequence[Observation]) -> Array | None:
    """Return the sum of pairs of pixels of observations, all of a pair's where None says so."""
    known = next((pairs for _, pairs in both if pairs is not None), None)
    if known is None:
        return None
    full = [np.full(known.shape, float(p.geometry.n_pixels)) for p in observations]
    return np.asarray(np.sum([f if pairs is None else pairs for f, (_, pairs) in zip(full, both, strict=True)], axis=0))


def _reweighted(items: Items, noise: Noise, execution: Execution, context: Context, method: str) -> Gathered:
    """Return the statistics with the weights of the last residual."""
    pass_method = weighted.pass_method(items[0].observation) if execution.engine == "auto" else method
    fitter = WeightedFitter(method, pass_method, execution.threads, None, execution.progress, "exact")
    found, seen, findings, notes = reweighted(InMemory(fitter), items, noise.pixel_variance, noise.loss)
    assert isinstance(found, Solved)
    observations = [item.observation for item in seen.items]
    context = dataclasses.replace(
        reweighed(context, noise, seen),
        notes=(*context.notes, *notes),
        findings=(*found.findings, *findings),
        tiles=_tiles(observations, [item.weights for item in seen.items]),
        refined=found.refined,
    )
    return with_surfaces_of(found, seen, [observations[lot[0]].whole for lot in lots(observations)]), context


def reweighed(context: Context, noise: Noise, seen: Seen) -> Context:
    """Return a context that tells the outliers, and whether weights are inverse variances."""
    return dataclasses.replace(context, outlier=seen.outlier, declared=noise.loss is None)


def with_surfaces_of(found: Solved, seen: Seen, shapes: Sequence[Shape]) -> NormalEquations:
    """Return the statistics of a reweighted fit, with what gives the backgrounds of targets of such shapes."""
    stats = corrected(found, seen.correction)
    surfaces = tuple(surface_of(e, shape) for e, shape in zip(found.eliminations, shapes, strict=False))
    return dataclasses.replace(stats, backgrounds=surfaces)


def surface_of(elimination: Elimination, shape: Shape) -> EliminatedSurface:
    """Return what gives the background of a target of some shape beside any kernel."""
    nothing = np.zeros((1, len(elimination.half)))
    return EliminatedSurface(elimination.half, elimination.root, elimination.coefficients_at(nothing)[0], shape)
