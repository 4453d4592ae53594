"""The one pipeline: observations, their equations, an estimate, new weights if the noise asks for them, a diagnosis.

Every public verb that finds a kernel comes here with a plan of groups of observations. A group shares its kernels, one
for each target. Which sums are formed follows from what the solver needs and from the weights, and nothing else does.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import scipy.fft

from ..core.background import Background, Elimination, degree_of, eliminations_of, settled
from ..core.complex_numbers import raised
from ..core.estimate import Estimate, with_finding
from ..core.findings import EDGES, Finding, Verdict, ranked
from ..core.geometry import Shape
from ..core.model import Execution, Noise
from ..core.normal_equations import NormalEquations
from ..data.masking import Judged, Unsaturated
from ..data.observation import Observation, WeightedObservation, Weights, lots, of_target
from ..data.plan import FitPlan
from ..data.reader import keeping
from ..data.volumes import merged, sampled, stacked, with_edges
from ..diagnostics import boundary, omission, quantization, score_covariance, tiles, whiteness
from ..diagnostics.depth import shallow
from ..diagnostics.misfit import misfits
from ..diagnostics.samples import Memo
from ..engines import weighted, weighted_iteration
from ..engines.cost_model import Choice, resolve
from ..engines.welch import lot_spectra
from ..solvers import auto, least_squares
from ..solvers.conjugate_gradient import ConjugateGradient
from ..solvers.errors_in_variables import at_the_pixels, finish, shared, slow_variance, take_off
from ..solvers.least_squares import LeastSquares, LeastSquaresSolution, Solver
from ..solvers.sandwich import with_scores
from ..solvers.wiener import Wiener, divide
from . import implicit, requirements
from .channels import join
from .equations import plain_fit
from .exchanged_mask import against_the_excluded
from .image_noise import ImageNoise
from .reweighting import InMemory, corrected, reweighted
from .weighted_fitter import Solved, WeightedFitter

#: Pixels up to which data that are not periodic are transformed whole.
_WHOLE = 2**20
#: Where most pixels stand at the ends of their type, noise of so many times that of rounding is what was cut off.
_CLIPPED = 3.0
#: Pixels up to which a result keeps the weights where saturated pixels alone were left out.
MOST_KEPT = 2**24


@dataclass(frozen=True, eq=False)
class Settings:
    """What a fit is asked for beside its observations."""

    noise: Noise = dataclasses.field(default_factory=Noise)
    solver: Solver = dataclasses.field(default_factory=LeastSquares)
    execution: Execution = dataclasses.field(default_factory=Execution)
    edges: bool = True  # whether a declared boundary is held against the residual at the edges
    diagnosis: bool = True  # whether the residual is looked at


class Fitted(NamedTuple):
    """The estimate of one target, and what it was found from."""

    # `stats` are the equations of its pixels, None where none were formed; `eliminations`, one for each observation,
    # give the background of the target number `target` among theirs.

    estimate: Estimate
    stats: NormalEquations | None = None
    eliminations: Sequence[Elimination] = ()
    target: int = 0


def fit(plan: FitPlan, settings: Settings) -> Estimate:
    """Find the kernels of a plan."""
    requirements.require(requirements.features_of(plan, settings.noise, settings.solver, settings.execution))
    return join([fit_of_group(plan, group, settings) for group in range(len(plan.groups))], plan)


def fit_of_group(plan: FitPlan, group: int, settings: Settings) -> list[Estimate]:
    """Return the estimate of each target of a group of a plan."""
    if settings.solver.needs == "spectra":
        return _fit_of_group(group, settings, plan)
    return plan.presuming(group, functools.partial(_fit_of_group, group, settings))


def _fit_of_group(group: int, settings: Settings, plan: FitPlan) -> list[Estimate]:
    observations = plan.groups[group]
    features = requirements.features_of(plan, settings.noise, settings.solver, settings.execution)
    choice = chosen(observations, features, settings)
    if choice.method == "cg" or requirements.rereads(features):
        plan.hold(group)
    with keeping(tiles.requests(observations, edges=settings.edges) if settings.diagnosis else ()):
        fits = [one.estimate for one in fit_group(observations, judged_of(plan, group, settings), choice, settings)]
    if choice.method != "cg" and settings.diagnosis:
        plain = Settings(edges=False)
        fits = [
            against_the_excluded(plan, group, t, one, lambda judged: fit_weighted(judged, choice, plain).estimate)
            for t, one in enumerate(fits)
        ]
    return [raised(one) for one in fits]


def judged_of(plan: FitPlan, group: int, settings: Settings) -> list[list[Judged | None]] | None:
    """Return the weights of a group, None where they are not asked for."""
    return None if settings.solver.needs == "spectra" else plan.judged(group)


def fit_group(
    observations: Sequence[Observation],
    judged: Sequence[Sequence[Judged | None]] | None,
    choice: Choice,
    settings: Settings,
) -> list[Fitted]:
    """Return the estimate of each target of observations that share their kernels, diagnosed."""
    if settings.solver.needs == "spectra":
        return [Fitted(one) for one in _divided(observations, settings)]
    if judged is None or (not settings.noise.reweighted and all(j is None for one in judged for j in one)):
        return _alike(observations, choice, settings)
    every = [
        [j or _whole(of_target(p, t)) for j, p in zip(one, observations, strict=True)] for t, one in enumerate(judged)
    ]
    return [fit_weighted(one, choice, settings) for one in every]


def chosen(observations: Sequence[Observation], features: dict[str, str], settings: Settings) -> Choice:
    """Return what reads the pixels: as asked, or the cheapest that can do it."""
    if settings.solver.needs == "operator":
        return Choice("cg", "as asked")
    choice = resolve(max(observations, key=lambda p: p.geometry.n_pixels), settings.execution.engine)
    reason = requirements.why_gram(features) if choice.method == "cg" else None
    return choice if reason is None else Choice("fft", f"the Gram matrix is needed for {reason}")


def _whole(observation: Observation) -> Judged:
    return Judged(WeightedObservation(observation, np.broadcast_to(np.True_, observation.size)), ())


# ---- every pixel counts alike ---------------------------------------------------------------------------------------


def _divided(observations: Sequence[Observation], settings: Settings) -> list[Estimate]:
    """Return the kernel of divided spectra of each target."""
    solver, threads = settings.solver, settings.execution.threads
    estimates: list[Estimate] = []
    assert isinstance(solver, Wiener)
    block = _block(observations)
    for t in range(len(observations[0].targets)):
        own = [of_target(p, t) for p in observations]
        together = [[own[i] for i in lot] for lot in lots(own)]
        sums = [lot_spectra(lot, block, solver.detrend, solver.taper, threads) for lot in together]
        if isinstance(block, tuple):  # of which a smaller image fills a part
            sums = [one.scaled(one.n_pixels / (one.n_blocks * math.prod(block))) for one in sums]
        total = functools.reduce(lambda a, b: a + b, sums)
        if own[0].geometry.convention.apart:  # each part has a mean of its own
            means = [math.fsum(one.target_sum for one in sums[part::2]) for part in (0, 1)]
            total = dataclasses.replace(total, target_sum=math.sqrt(2.0) * math.hypot(*means))
        estimate = divide(total, solver.balance, "laplacian", threads)
        if own[0].plane is not None:  # whose planes were sources
            sides = (len(own[0].supports), *own[0].supports[0])
            estimate = dataclasses.replace(estimate, kernel=estimate.kernel.reshape(sides[sides[0] == 1 :]))
        if own[0].background is not None:
            n_pixels = sum(p.geometry.n_pixels for p in own)
            (estimate,) = with_background([estimate], own, [_constant(lot, threads) for lot in together], n_pixels)
        estimates.append(quantization.judged(estimate, own, 0, threads))
    return estimates


def _block(observations: Sequence[Observation]) -> str | Shape | None:
    """Say how data are cut for spectra: whole up to a size if they are not periodic, else in blocks alike for all."""
    largest = max(observations, key=lambda p: p.geometry.n_pixels).geometry
    many = largest.n_pixels > _WHOLE and largest.convention.boundary is None
    if many or len({p.geometry.size for p in observations}) == 1:
        return "auto" if many else None
    sides = zip(*(p.geometry.size for p in observations), largest.kernel_shape, strict=True)
    rows, cols = (scipy.fft.next_fast_len(max(*n, k) + k, real=True) for *n, k in sides)  # no period of any
    return rows, cols


def _constant(lot: Sequence[Observation], threads: int) -> Elimination:
    """Return what gives the constant that is best beside a kernel, of a pair or of all planes of a volume."""
    items = [_whole(one).item for one in lot]
    sums, n_taps, total = weighted.border(items, threads), items[0].n_taps, 0.0
    (rows, cols), step = lot[0].size, max(1, _WHOLE // lot[0].size[1])
    for one, row in itertools.product(lot, range(0, rows, step)):
        total += float(one.targets[0].block(row, 0, (min(step, rows - row), cols)).sum())
    return Elimination.of(sums[:n_taps, n_taps:], sums[n_taps:, n_taps:], np.array([[total]]))


def _alike(observations: Sequence[Observation], choice: Choice, settings: Settings) -> list[Fitted]:
    """Return the estimates of observations without weights."""
    execution, noise = settings.execution, settings.noise
    n_targets = len(observations[0].targets)
    equations: Sequence[NormalEquations | None] = (None,) * n_targets
    eliminations: Sequence[Elimination] = ()
    fields: dict[str, Any] = {"method": choice.method, "method_reason": choice.reason}
    if choice.method == "cg":
        estimates = [_iterated(observations, t, settings) for t in range(n_targets)]
        levels = [0.0] * n_targets
    else:
        found = plain_fit(observations, choice.method, execution.threads, execution.progress)
        estimates = [
            with_errors(
                [of_target(p, t) for p in observations],
                stats,
                settings,
                solution,
                eliminations=[
                    dataclasses.replace(e, taps=e.taps[t : t + 1], coefficients=e.coefficients[t : t + 1])
                    for e in found.eliminations
                ],
            )
            for t, (stats, solution) in enumerate(zip(found.stats, found.solutions, strict=True))
        ]
        equations, eliminations, fields["refined"] = found.stats, found.eliminations, found.refined
        levels = [math.sqrt(one.target_energy / max(1, one.n_pixels)) for one in found.stats]
    estimates = [dataclasses.replace(one, **fields) for one in estimates]
    threads, edges = execution.threads, settings.edges
    out, memo = [], Memo() if n_targets > 1 else None
    if memo is not None:
        memo.observations, memo.fits = observations, estimates
    for t, (one, stats, level) in enumerate(zip(estimates, equations, levels, strict=True)):
        own = [of_target(p, t) for p in observations]
        if memo is not None:
            memo.at = t
        if settings.diagnosis:
            one = diagnosed(own, one, None, threads, noise, level=level, edges=edges, memo=memo)  # noqa: PLW2901
        out.append(Fitted(one, stats, eliminations, t))
    return out


def _iterated(observations: Sequence[Observation], target: int, settings: Settings) -> Estimate:
    """Return the estimate of a target by conjugate gradients."""
    items = [_whole(of_target(p, target)).item for p in observations]
    found = _implicit(items, settings).solve(items)
    estimate = found.estimate()
    if not found.eliminations:
        return estimate
    n_pixels = sum(item.n_pixels for item in items)
    return with_background([estimate], observations, found.surfaces(), n_pixels)[0]


def _implicit(items: Sequence[WeightedObservation], settings: Settings) -> implicit.ImplicitFitter:
    """Return what fits by conjugate gradients."""
    solver, execution = settings.solver, settings.execution
    return implicit.ImplicitFitter(
        solver if isinstance(solver, ConjugateGradient) else ConjugateGradient(),
        weighted.pass_method(items[0].observation),
        execution.threads,
        execution.tolerance,
        execution.progress,
    )


# ---- weights --------------------------------------------------------------------------------------------------------


def fit_weighted(judged: Sequence[Judged], choice: Choice, settings: Settings, strategy: str = "auto") -> Fitted:
    """Return the estimate of observations of one target, each with its weights, taken into account by `strategy`."""
    noise, execution = settings.noise, settings.execution
    model, loss, threads = noise.pixel_variance, noise.loss, execution.threads
    items = [j.item for j in judged]
    pass_method = choice.method if choice.reason == "as asked" else weighted.pass_method(items[0].observation)
    # the image's noise changes the kernel through the Gram matrix, which then must be exact
    strategy = "exact" if noise.image_std and strategy == "auto" else strategy
    fitter: WeightedFitter | implicit.ImplicitFitter
    if choice.method == "cg":
        fitter = _implicit(items, settings)
    else:
        fitter = WeightedFitter(
            choice.method, pass_method, threads, execution.tolerance, execution.progress, strategy,
            ImageNoise.std_of([item.observation for item in items], noise.image_std),
        )  # fmt: skip
    notes = merged_notes(items, [note for j in judged for note in j.notes])
    findings: list[Finding] = []
    correction, most = 1.0, math.inf
    found: Solved | implicit.ImplicitlySolved
    if not noise.reweighted:
        found = fitter.solve(items)
    else:
        found, seen, more, said = reweighted(InMemory(fitter), items, model, loss)
        items, correction = seen.items, seen.correction
        most = seen.outlier
        findings += more
        notes += said
    observations, weights = [item.observation for item in items], [item.weights for item in items]
    stats: NormalEquations | None = None
    if isinstance(found, implicit.ImplicitlySolved):
        if noise.reweighted and isinstance(fitter, implicit.ImplicitFitter) and not fitter.solver.plain:
            found = fitter.solve(items)
        estimate = found.estimate(correction)
        if found.eliminations:
            n_pixels = sum(item.n_pixels for item in items)
            (estimate,) = with_background([estimate], observations, found.surfaces(), n_pixels)
    else:
        stats = corrected(found, correction)
        solution = least_squares.least_squares(stats, found.factorisation)
        estimate = with_errors(observations, stats, settings, solution, weights, found)
    large = sum(item.observation.geometry.n_pixels for item in items) > MOST_KEPT
    told = large and all(isinstance(item.weights, Unsaturated) for item in items)  # from the targets themselves
    kept = None if told else tuple(in_place(item) for item in items)
    volumes = kept if kept is None or items[0].observation.plane is None else stacked(observations, kept)
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
        tolerance=limit if found.strategy in ("iterate", "cg") else 0.0,
        findings=ranked((*estimate.findings, *found.findings, *findings)),
        weighting=found.stats.weighting,
        notes=tuple(notes),
        weights=kept[0] if kept is not None and len(kept) == 1 else kept,
    )
    if not settings.diagnosis:
        return Fitted(estimate, stats, found.eliminations)
    estimate = diagnosed(
        observations,
        estimate,
        weights,
        threads,
        noise,
        most=most,
        declared=bool(model.slope) and loss is None,
        edges=settings.edges and not told and loss is None,
    )
    estimate = with_clipped(estimate, [j.clipped for j in judged if j.clipped], any(j.alone for j in judged))
    if volumes is not None:
        estimate = dataclasses.replace(estimate, weights=volumes[0] if len(volumes) == 1 else volumes)
    return Fitted(estimate, stats, found.eliminations)


def with_clipped(estimate: Estimate, clipped: Sequence[str], alone: bool = False) -> Estimate:
    """Say that values were cut off where nearly all stand at the ends of their type.

    That is so where more than rounding is left, or where the target stands there `alone`, the image elsewhere.
    """
    if not clipped or any(finding.verdict is Verdict.NO_SIGNAL for finding in estimate.findings):
        return estimate
    if not (alone or estimate.noise_std > _CLIPPED * estimate.rounding > 0):
        return estimate
    return with_finding(estimate, Finding(Verdict.NONLINEAR, f"{'; '.join(clipped)}, where they seem to be cut off"))


def merged_notes(items: Sequence[WeightedObservation], notes: list[str]) -> list[str]:
    """Return notes, those of the planes of volumes counted together."""
    if items[0].observation.plane is None:
        return notes
    return merged(notes, [item.observation for item in items])


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
    weighted_fit: Solved | None = None,
    *,
    eliminations: Sequence[Elimination] = (),
) -> Estimate:
    """Return the solver's estimate of a least-squares `solution`, less the image's noise, with the errors asked for."""
    solver, noise, threads = settings.solver, settings.noise, settings.execution.threads
    plain = auto.holds(solver, stats)
    observed, share, more, pairs = stats, 1.0, None, None
    std = ImageNoise.std_of(observations, noise.image_std)
    eliminations = eliminations if weighted_fit is None else weighted_fit.eliminations
    if noise.image_std:
        known = None if weighted_fit is None else weighted_fit.image_noise
        known = known or ImageNoise.of(observations, weights, eliminations)
        shift = None if weighted_fit is None else weighted_fit.shift
        stats, share = take_off(stats, std, known.counts, shift)
        pairs = known.pairs
    if noise.image_std or not plain:
        estimate = auto.solve(solver, stats if noise.image_std else least_squares.about(stats, solution))
    else:
        estimate = least_squares.estimate_of(stats, solution)
    if noise.image_std:
        estimate = at_the_pixels(estimate, observed)
        more = shared(estimate, math.sqrt(share) * std, pairs)
        if noise.covariance == "plain":
            estimate = with_scores(estimate, stats.gram, estimate.noise_std**2 * observed.gram + more)
        estimate = finish(estimate, noise.image_std, share)
    if eliminations:
        n_pixels = stats.n_pixels + sum(one.rank for one in eliminations)
        slow = 0.0
        if noise.image_std:
            even = 1.0 if pairs is None else float(pairs[tuple(n // 2 for n in pairs.shape)]) / observed.total_weight
            slow = share * std**2 * even * slow_variance(estimate)
        (estimate,) = with_background([estimate], observations, eliminations, n_pixels, slow)
    if noise.covariance == "sandwich":
        shaping = whiteness.shaping_filter(whiteness.examine(observations, estimate, weights))
        estimate = score_covariance.correct(observations, estimate, shaping, threads, stats.gram, more, weights)
    return estimate


def with_background(
    estimates: list[Estimate],
    observations: Sequence[Observation],
    eliminations: Sequence[Elimination],
    n_pixels: int,
    slow: float = 0.0,
) -> list[Estimate]:
    """Add the backgrounds (observations first) to estimates; `slow` is the noise's power over its variance there."""
    first = [observations[lot[0]] for lot in lots(observations)]
    shapes: tuple[Any, ...] = tuple(one.plane.shape if one.plane else one.geometry.target_shape for one in first)
    return with_surfaces(estimates, shapes, eliminations, n_pixels, slow)


def solved(stats: NormalEquations, solver: Solver) -> Estimate:
    """Return what a solver makes of statistics alone, their backgrounds included."""
    stats = settled(stats)
    estimate = auto.solve(solver, stats)
    if not stats.backgrounds:
        return estimate
    n_pixels = stats.n_pixels + sum(one.root.shape[1] for one in stats.backgrounds)
    shapes = tuple(one.shape for one in stats.backgrounds)
    return with_surfaces([estimate], shapes, eliminations_of(stats), n_pixels)[0]


def with_surfaces(
    estimates: list[Estimate],
    shapes: tuple[Shape, ...],
    eliminations: Sequence[Elimination],
    n_pixels: int,
    slow: float = 0.0,
) -> list[Estimate]:
    """Add surfaces of some shapes to estimates; see `with_background`."""
    degree = degree_of(len(eliminations[0].root), max(2, len(shapes[0])))
    taps = np.stack([one.kernel.ravel() for one in estimates])
    coefficients = np.stack([e.coefficients_at(taps) for e in eliminations], axis=1)
    out = []
    parts = 2 if estimates[0].convention.numbers == "complex" else 1  # of a complex number, counted as one in words
    for one, table in zip(estimates, coefficients, strict=True):
        stderr = np.stack([e.stderr(math.sqrt(max(0.0, one.noise_std**2 + slow)), one.factor) for e in eliminations])
        findings = []
        for e in eliminations:
            if count := int(e.undetermined.sum()):
                detail = f"rank {e.rank} of {len(e.root)}, which leaves {count} coefficients of degree {degree} open"
                findings.append(Finding(Verdict.BACKGROUND_UNDETERMINED, detail))
        for finding in one.findings:
            detail = finding.detail
            if finding.verdict in (Verdict.RANK_DEFICIENT, Verdict.PRIOR_DECIDES):
                more = EDGES if detail.endswith(EDGES) else ""
                rank = f"rank {one.rank // parts} of {one.kernel.size // parts}"
                detail = f"{rank} beside a background of degree {degree}{more}"
            elif finding.verdict is Verdict.NO_SIGNAL:
                detail = f"a background of degree {degree} is all that the target holds"
            findings.append(dataclasses.replace(finding, detail=detail))
        background = Background(degree, table, stderr, shapes)
        out.append(dataclasses.replace(one, n_pixels=n_pixels, background=background, findings=ranked(findings)))
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
    memo: Memo | None = None,
) -> Estimate:
    """Return the estimate of one target with all that its residual says."""
    # Everything here sees the pixels that count, and no others. Residuals above `most` are outliers; `declared` says
    # that weights are inverse variances, `level` is the target's root mean square. The `memo` keeps what targets share.
    some, own = sampled(observations, weights)
    parts = tiles.read(some, estimate, own, memo)
    wrong = shallow(observations, estimate, weights) + misfits(parts, estimate, weighted=weights is not None)
    # beside a constant that was not fitted, nothing tells of what the functions of the place leave out
    varies = estimate.convention.field is not None and all(f.verdict is not Verdict.OFFSET for f in wrong)
    bright = tiles.telling(observations, estimate, weights) if varies else None
    estimate = whiteness.look(
        observations, estimate, weights,
        most=most, declared=declared, level=level, misfits=wrong, memo=memo, read=parts, bright=bright,
        coloured=noise.covariance == "plain",  # sandwich errors clear correlated noise, and nothing else
    )  # fmt: skip
    if edges:
        outer, seen = with_edges(observations, estimate)
        (doubted,) = boundary.doubt(outer, [seen], memo)
        estimate = estimate if doubted is seen else dataclasses.replace(doubted, weights=estimate.weights)
    if bright is not None:
        estimate = omission.told(estimate, bright[0] or parts)
    if not integers:
        return estimate
    estimate = quantization.judged(estimate, observations, 0, workers, weights, parts)
    return quantization.allowed(estimate, observations, weights, workers, parts)
