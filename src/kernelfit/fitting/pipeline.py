"""The one pipeline: observations, their equations, an estimate, new weights if the noise asks for them, a diagnosis.

Every public verb that finds a kernel comes here with a plan of groups of observations. A group shares its kernels, one
for each target. Which sums are formed follows from what the solver needs and from the weights, and nothing else does.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..core.background import Background, Elimination, degree_of, eliminations_of, settled
from ..core.estimate import Estimate
from ..core.findings import Finding, Verdict, ranked
from ..core.geometry import Shape
from ..core.model import Execution, Noise
from ..core.normal_equations import NormalEquations
from ..data.masking import Judged, Unsaturated
from ..data.observation import Observation, WeightedObservation, Weights, of_target
from ..data.plan import FitPlan
from ..diagnostics import boundary, quantization, score_covariance, whiteness
from ..engines import weighted, weighted_iteration
from ..engines.cost_model import Choice, resolve
from ..engines.welch import spectral_statistics
from ..solvers import least_squares
from ..solvers.errors_in_variables import counts_of, finish, pairs_of, shared, take_off
from ..solvers.least_squares import LeastSquares, LeastSquaresSolution, Solver
from ..solvers.robust import TUNING
from ..solvers.sandwich import with_scores
from ..solvers.wiener import Wiener, divide
from . import implicit, requirements
from .channels import join
from .equations import plain_fit
from .reweighting import reweighted
from .weighted_fitter import WeightedFitter

#: Pixels up to which data that are not periodic are transformed whole.
_WHOLE = 2**20
#: Pixels up to which a result keeps the weights where saturated pixels alone were left out.
MOST_KEPT = 2**24


@dataclass(frozen=True, eq=False)
class Settings:
    """What a fit is asked for beside its observations.

    Attributes
    ----------
    noise : Noise
    solver : Solver
    execution : Execution
    """

    noise: Noise = dataclasses.field(default_factory=Noise)
    solver: Solver = dataclasses.field(default_factory=LeastSquares)
    execution: Execution = dataclasses.field(default_factory=Execution)


def fit(plan: FitPlan, settings: Settings) -> Estimate:
    """Find the kernels of a plan."""
    requirements.require(requirements.features_of(plan, settings.noise, settings.solver, settings.execution))
    return join([fit_group(plan, group, settings) for group in range(len(plan.groups))], plan)


def fit_group(plan: FitPlan, group: int, settings: Settings) -> list[Estimate]:
    """Return the estimate of each target of a group, diagnosed."""
    observations = plan.groups[group]
    if settings.solver.needs == "spectra":
        return _divided(observations, settings)
    choice = _chosen(observations, plan, settings)
    # saturation alone is no reason to form a Gram matrix of thousands of taps
    alike = choice.method == "cg" and plan.selects is None and not settings.noise.reweighted
    judged = None if alike else plan.judged(group)
    if judged is None or (not settings.noise.reweighted and all(j is None for one in judged for j in one)):
        return _alike(observations, choice, settings)
    if choice.method == "cg":
        choice = Choice("fft", "the Gram matrix is needed for the weights")
    every = [
        [j or _whole(of_target(p, t)) for j, p in zip(one, observations, strict=True)] for t, one in enumerate(judged)
    ]
    return [fit_weighted(one, choice, settings) for one in every]


def _chosen(observations: Sequence[Observation], plan: FitPlan, settings: Settings) -> Choice:
    """Return what reads the pixels: as asked, or the cheapest that can do it."""
    if settings.solver.needs == "operator":
        return Choice("cg", "as asked")
    choice = resolve(max(observations, key=lambda p: p.geometry.n_pixels), settings.execution.engine)
    if choice.method == "cg":
        features = requirements.features_of(plan, settings.noise, settings.solver, settings.execution)
        reason = requirements.why_gram(features)
        if reason is not None:
            return Choice("fft", f"the Gram matrix is needed for {reason}")
    return choice


def _whole(observation: Observation) -> Judged:
    """Return an observation whose pixels all count once."""
    return Judged(WeightedObservation(observation, np.ones(observation.size, dtype=bool)), ())


# ---- every pixel counts alike ---------------------------------------------------------------------------------------


def _divided(observations: Sequence[Observation], settings: Settings) -> list[Estimate]:
    """Return the kernel of divided spectra."""
    solver, threads = settings.solver, settings.execution.threads
    assert isinstance(solver, Wiener)
    sums = [spectral_statistics(p, _block(p), solver.detrend, solver.taper, threads) for p in observations]
    estimate = divide(functools.reduce(lambda a, b: a + b, sums), solver.balance, "laplacian", threads)
    return [quantization.judged(estimate, observations, 0, threads)]


def _block(observation: Observation) -> str | None:
    """Say how data that are not periodic are cut for spectra: whole up to a size, then in blocks."""
    many = observation.geometry.n_pixels > _WHOLE and observation.geometry.convention.boundary is None
    return "auto" if many else None


def _alike(observations: Sequence[Observation], choice: Choice, settings: Settings) -> list[Estimate]:
    """Return the estimates of observations without weights."""
    execution, noise = settings.execution, settings.noise
    if choice.method == "cg":
        fitted = implicit.find(observations[0], execution.threads, execution.tolerance, execution.progress)
        estimates, levels = [fitted], [0.0]
    else:
        found = plain_fit(observations, choice.method, execution.threads, execution.progress)
        estimates = [
            with_errors(
                [of_target(p, t) for p in observations],
                stats,
                settings,
                solution,
                last=len(found.stats) == 1,  # of several that share a Gram matrix, the inverse is shared as well
            )
            for t, (stats, solution) in enumerate(zip(found.stats, found.solutions, strict=True))
        ]
        estimates = [dataclasses.replace(one, refined=found.refined) for one in estimates]
        if observations[0].background is not None:
            n_pixels = sum(p.geometry.n_pixels for p in observations)
            estimates = with_background(estimates, observations, found.eliminations, n_pixels)
        levels = [math.sqrt(one.target_energy / max(1, one.n_pixels)) for one in found.stats]
    estimates = [dataclasses.replace(one, method=choice.method, method_reason=choice.reason) for one in estimates]
    return [
        diagnosed([of_target(p, t) for p in observations], one, None, execution.threads, noise, level=level)
        for t, (one, level) in enumerate(zip(estimates, levels, strict=True))
    ]


# ---- weights --------------------------------------------------------------------------------------------------------


def fit_weighted(judged: Sequence[Judged], choice: Choice, settings: Settings, strategy: str = "auto") -> Estimate:
    """Return the estimate of observations of one target, each with its weights.

    `strategy` says how the weights are taken into account, one of `weighted.REGIMES`; the default is the cheapest.
    """
    noise, execution = settings.noise, settings.execution
    model, loss, threads = noise.pixel_variance, noise.loss, execution.threads
    items = [j.item for j in judged]
    costs = weighted.pass_ns(weighted.lines(items[0].observation))
    pass_method = choice.method if choice.reason == "as asked" else min(costs, key=lambda name: costs[name])
    # the image's noise changes the kernel through the Gram matrix, which then must be exact
    strategy = "exact" if noise.image_std and strategy == "auto" else strategy
    fitter = WeightedFitter(choice.method, pass_method, threads, execution.tolerance, execution.progress, strategy)
    notes = [note for j in judged for note in j.notes]
    findings: list[Finding] = []
    correction, most = 1.0, math.inf
    if not noise.reweighted:
        found = fitter.solve(items)
    else:
        found, seen, more, said = reweighted(fitter, items, model, loss)
        items, correction = seen.items, seen.correction
        most = math.inf if loss is None else TUNING[loss] * seen.scale
        findings += more
        notes += said
    stats = found.stats
    if correction != 1.0:  # the residual that has the variance of the criterion, outliers and all
        moment, energy = least_squares.residual_at(stats, found.solution.taps)
        stats = stats.centered(found.solution.taps, moment, correction**2 * energy)
    observations, weights = [item.observation for item in items], [item.weights for item in items]
    solution = least_squares.least_squares(stats, found.factorisation)
    estimate = with_errors(observations, stats, settings, solution, weights)
    if found.eliminations:
        n_pixels = sum(item.n_pixels for item in items)
        (estimate,) = with_background([estimate], observations, found.eliminations, n_pixels)
    large = sum(item.observation.geometry.n_pixels for item in items) > MOST_KEPT
    told = large and all(isinstance(item.weights, Unsaturated) for item in items)  # from the targets themselves
    kept = None if told else tuple(in_place(item) for item in items)
    conv = items[0].observation.geometry.convention
    if conv.boundary is not None and conv.mode != "valid" and (told or loss is not None):
        why = "their weights not being kept" if told else "their outliers being held down"
        notes.append(f"the declared boundary was not held against the edges, {why}")
    limit = weighted_iteration.TOLERANCE if execution.tolerance is None else execution.tolerance
    estimate = dataclasses.replace(
        estimate,
        method=choice.method,
        method_reason=choice.reason,
        refined=found.refined,
        iterations=found.iterations,
        tolerance=limit if found.strategy == "iterate" else 0.0,
        findings=ranked((*estimate.findings, *found.findings, *findings)),
        weighting=found.stats.weighting,
        notes=tuple(notes),
        weights=kept[0] if kept is not None and len(kept) == 1 else kept,
    )
    return diagnosed(
        observations,
        estimate,
        weights,
        threads,
        noise,
        most=most,
        declared=bool(model.slope) and loss is None,
        edges=not told and loss is None,
    )


def in_place(item: WeightedObservation) -> Weights:
    """Return the weights in an array of the target's shape, zero where no pixel is used."""
    plan = item.observation.geometry
    out: Weights = np.zeros(plan.target_shape, dtype=bool if item.weights.dtype == np.bool_ else np.float64)
    out[plan.used] = item.weights
    return out


# ---- from equations to an estimate ----------------------------------------------------------------------------------


def with_errors(
    observations: Sequence[Observation],
    stats: NormalEquations,
    settings: Settings,
    solution: LeastSquaresSolution,
    weights: Sequence[Weights] | None = None,
    *,
    last: bool = False,
) -> Estimate:
    """Return the solver's estimate, with the image's noise taken off and the errors asked for.

    `solution` is that of least squares, and `last` whether nothing else is asked of its factor.
    """
    solver, noise, threads = settings.solver, settings.noise, settings.execution.threads
    plain = isinstance(solver, LeastSquares)
    observed, share, more, pairs = stats.gram, 1.0, None, None
    if noise.image_std:
        counted = [None if weights is None else np.asarray(weights[i][:], dtype=bool) for i in range(len(observations))]
        both = [(p.geometry, some) for p, some in zip(observations, counted, strict=True)]
        stats, share = take_off(stats, noise.image_std, np.sum([counts_of(plan, some) for plan, some in both], axis=0))
        if weights is not None:
            pairs = np.sum([pairs_of(some, plan) for plan, some in both if some is not None], axis=0)
    if noise.image_std or not plain:
        estimate = solver.solve(stats)
    else:
        estimate = least_squares.estimate_of(stats, solution, last=last)
    if noise.image_std:
        more = shared(estimate, math.sqrt(share) * noise.image_std, pairs)
    if noise.covariance == "sandwich":
        shaping = whiteness.shaping_filter(whiteness.examine(observations, estimate, weights))
        estimate = score_covariance.correct(observations, estimate, shaping, threads, stats.gram, more, weights)
    elif more is not None:
        estimate = with_scores(estimate, stats.gram, estimate.noise_std**2 * observed + more)
    return finish(estimate, noise.image_std, share) if noise.image_std else estimate


def with_background(
    estimates: list[Estimate], observations: Sequence[Observation], eliminations: Sequence[Elimination], n_pixels: int
) -> list[Estimate]:
    """Add the backgrounds to estimates, the observations along the first axis of the coefficients."""
    shapes = tuple(p.geometry.target_shape for p in observations)
    return with_surfaces(estimates, shapes, eliminations, n_pixels)


def solved(stats: NormalEquations, solver: Solver) -> Estimate:
    """Return what a solver makes of statistics alone, their backgrounds included."""
    stats = settled(stats)
    estimate = solver.solve(stats)
    if not stats.backgrounds:
        return estimate
    n_pixels = stats.n_pixels + sum(one.root.shape[1] for one in stats.backgrounds)
    shapes = tuple(one.shape for one in stats.backgrounds)
    return with_surfaces([estimate], shapes, eliminations_of(stats), n_pixels)[0]


def with_surfaces(
    estimates: list[Estimate], shapes: tuple[Shape, ...], eliminations: Sequence[Elimination], n_pixels: int
) -> list[Estimate]:
    """Add surfaces of some shapes to estimates."""
    degree = degree_of(len(eliminations[0].root))
    taps = np.stack([one.kernel.ravel() for one in estimates])
    coefficients = np.stack([e.coefficients_at(taps) for e in eliminations], axis=1)
    out = []
    for one, table in zip(estimates, coefficients, strict=True):
        stderr = np.stack([e.stderr(one.noise_std, one.factor) for e in eliminations])
        findings = []
        for finding in one.findings:
            detail = finding.detail
            if finding.verdict in (Verdict.RANK_DEFICIENT, Verdict.PRIOR_DECIDES):
                detail = f"rank {one.rank} of {one.kernel.size} beside a background of degree {degree}"
            elif finding.verdict is Verdict.NO_SIGNAL:
                detail = f"a background of degree {degree} is all that the target holds"
            findings.append(Finding(finding.verdict, detail))
        background = Background(degree, table, stderr, shapes)
        out.append(dataclasses.replace(one, n_pixels=n_pixels, background=background, findings=tuple(findings)))
    return out


# ---- the diagnosis --------------------------------------------------------------------------------------------------


def diagnosed(
    observations: Sequence[Observation],
    estimate: Estimate,
    weights: Sequence[Weights] | None,
    workers: int,
    noise: Noise,
    *,
    most: float = math.inf,
    declared: bool = False,
    level: float = 0.0,
    edges: bool = True,
    integers: bool = True,
) -> Estimate:
    """Return the estimate of one target with all that its residual says.

    Everything here sees the pixels that count, and no others. Residuals above `most` are outliers; `declared` says that
    weights are inverse variances, `level` is the target's root mean square, and `edges` and `integers` whether the
    edges and the target's type are looked at.
    """
    if noise.covariance == "plain":
        estimate = whiteness.look(observations, estimate, weights, most=most, declared=declared, level=level)
    if edges:
        (estimate,) = boundary.doubt(observations, [estimate])
    return quantization.judged(estimate, observations, 0, workers, weights) if integers else estimate
