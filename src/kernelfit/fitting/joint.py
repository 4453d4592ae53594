"""Several problems that share their kernels: statistics added in order, solved, and refined against all the pixels.

Each problem yields the statistics of each of its targets; those of the same target of every problem add. All that reads
pixels for the exact methods goes through `statistics` and `residual_moments`, one problem at a time. A background is
eliminated problem by problem (each has its own), before the statistics add: its terms are further targets of the first
pass, and further sources, of one tap, of those that take the residual.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from ..compiled.threads import Progress, add
from ..core.background import Background, Columns, Elimination, without_rounding
from ..core.estimate import Estimate
from ..core.findings import Finding, Verdict
from ..core.normal_equations import NormalEquations
from ..core.validation import Array
from ..data.observation import Observation, Weights, surface_readers
from ..diagnostics import score_covariance, whiteness
from ..engines import accumulation
from ..engines.cost_model import Choice
from ..solvers import auto, least_squares
from ..solvers.cholesky import Inverse
from ..solvers.errors_in_variables import counts_of, finish, pairs_of, shared, take_off
from ..solvers.sandwich import with_scores

_MOST_REFINEMENTS = 3
_ROOM = 2**20  # target pixels read at once for their products with the background


@dataclasses.dataclass
class GroupEquations:
    """What the pixels say of the problems.

    Attributes
    ----------
    stats : list of NormalStats
        For each target the sum over the problems, the background eliminated.
    eliminations : list of Elimination or None
        For each problem what gives its background.
    trace : float
        Trace of the Gram matrix before the elimination.
    energies : list of float
        ``y'y`` of each target before it.
    """

    stats: list[NormalEquations]
    eliminations: list[Elimination | None]
    trace: float
    energies: list[float]


def statistics(
    observations: Sequence[Observation], method: str, workers: int, progress: Progress | None = None
) -> GroupEquations:
    """Return the statistics of all problems, one for each target."""
    known = GroupEquations([], [], 0.0, [])
    for observation in observations:
        wide = dataclasses.replace(observation, targets=observation.targets + surface_readers(observation))
        every = accumulation.statistics(wide, method, workers, progress)
        stats, terms = every[: len(observation.targets)], every[len(observation.targets) :]
        known.trace += float(np.trace(stats[0].gram))
        energies = [one.target_energy for one in stats]
        known.energies = [a + b for a, b in zip(known.energies, energies, strict=True)] if known.energies else energies
        elimination = None
        if terms:
            gram, products = _surface_products(observation)
            elimination = Elimination.of(np.stack([term.moment for term in terms], axis=1), gram, products)
            stats = elimination.reduced(stats, products)
        known.eliminations.append(elimination)
        known.stats = [a + b for a, b in zip(known.stats, stats, strict=True)] if known.stats else stats
    if known.eliminations[0] is not None:
        known.stats = without_rounding(known.stats, known.trace)
    gram = known.stats[0].gram  # one array for all targets, where it is the same, so that it is factorised once
    known.stats[1:] = [
        dataclasses.replace(s, gram=gram) if np.array_equal(s.gram, gram) else s for s in known.stats[1:]
    ]
    return known


def residual_moments(
    observations: Sequence[Observation],
    kernels: Array,
    eliminations: Sequence[Elimination | None],
    method: str,
    workers: int,
    progress: Progress | None = None,
) -> tuple[Array, Array]:
    """Return ``A'r`` and ``r'r`` of the residual ``r = y - A k`` of all problems, taken from the pixels.

    Shapes as in `accumulation.residual_moments`: kernels (targets, sources, rows, cols), moments (targets, taps) and
    energies (targets,); of a background, which r lacks too, the reduced ones.
    """
    n, taps = len(kernels), kernels.reshape(len(kernels), -1)
    parts = []
    for observation, elimination in zip(observations, eliminations, strict=True):
        if elimination is None:
            parts.append(accumulation.residual_moments(observation, kernels, method, workers, progress))
            continue
        plan = observation.geometry
        wide = dataclasses.replace(observation, sources=observation.sources + surface_readers(observation, plan.stride))
        # the tap over the first pixel of the footprint: a term is not extended beyond the target
        at = (-1, -1) if plan.flipped else (0, 0)
        surface = np.zeros((n, len(elimination.root), *plan.kernel_shape))
        surface[..., *at] = elimination.coefficients_at(taps)
        every = np.concatenate([kernels, surface], axis=1)
        moments, energies = accumulation.residual_moments(wide, every, method, workers, progress)
        moments = moments.reshape(every.shape)
        own = moments[:, : kernels.shape[1]].reshape(n, -1)
        parts.append(elimination.recentered(taps, own, energies, moments[:, kernels.shape[1] :, *at]))
    moments, energies = add(parts)
    return moments, energies


def fit(
    observations: Sequence[Observation],
    choice: Choice,
    solver: "least_squares.Solver | None",
    workers: int,
    progress: Progress | None = None,
    *,
    image_noise: float = 0.0,
    errors: str = "plain",
) -> list[Estimate]:
    """Return the kernels that the problems share, one result for each target.

    Least squares come first; where rounding could matter they are refined against the pixels, and what that leaves in
    the statistics is what any other solver works on.
    """
    known = statistics(observations, choice.method, workers, progress)
    factorisations: dict[int, Inverse] = {}
    found = _solved(known.stats, workers, factorisations)
    refined = 0
    if any(_rounding_matters(known, t, f) for t, f in enumerate(found)):
        shape = (len(observations[0].sources), *observations[0].geometry.kernel_shape)
        while refined < _MOST_REFINEMENTS:
            before = np.stack([f.taps.reshape(shape) for f in found])
            moments, energies = residual_moments(
                observations, before, known.eliminations, choice.method, workers, progress
            )
            around = zip(known.stats, before, moments, energies, strict=True)
            known.stats = [s.centered(k.ravel(), moment, float(energy)) for s, k, moment, energy in around]
            found = _solved(known.stats, workers, factorisations)
            refined += 1
            if all(_settled(f.taps, k.ravel()) for f, k in zip(found, before, strict=True)):
                break
    both = list(zip(known.stats, found, strict=True))
    if len(observations[0].sources) == 1 and observations[0].background is None:
        fits = []
        for t, (one, minimum) in enumerate(both):
            own = [of_target(p, t) for p in observations]
            last = len(both) == 1  # of several that share a Gram matrix, the inverse is shared as well
            asked = solver, workers, image_noise, errors
            fits.append(with_errors(own, one, *asked, found=minimum, last=last))
    else:
        fits = [least_squares.estimate_of(one, f) if solver is None else solver.solve(one) for one, f in both]
    fits = [dataclasses.replace(f, method=choice.method, method_reason=choice.reason, refined=refined) for f in fits]
    if observations[0].background is not None:
        n_pixels = sum(p.geometry.n_pixels for p in observations)
        fits = with_background(fits, observations, known.eliminations, n_pixels)
    if errors == "plain":
        levels = [math.sqrt(one.target_energy / max(1, one.n_pixels)) for one in known.stats]
        looked = enumerate(zip(fits, levels, strict=True))
        fits = [whiteness.look([of_target(p, t) for p in observations], f, level=level) for t, (f, level) in looked]
    return fits


def of_target(observation: Observation, at: int) -> Observation:
    """Return the problem of one of its targets."""
    return dataclasses.replace(observation, targets=(observation.targets[at],))


def with_errors(
    observations: Sequence[Observation],
    stats: NormalEquations,
    solver: "least_squares.Solver | None",
    workers: int,
    image_noise: float,
    errors: str,
    *,
    weights: Sequence[Weights] | None = None,
    found: least_squares.LeastSquaresSolution | None = None,
    last: bool = False,
) -> Estimate:
    """Return the solver's fit, with the image's noise taken off and the errors asked for.

    `found` is the minimum, if it is known, and `last` whether nothing else is asked of it. Beside the image's noise the
    weights are those of a mask.
    """
    observed, share, more, pairs = stats.gram, 1.0, None, None
    if image_noise:
        counted = [None if weights is None else np.asarray(weights[i][:], dtype=bool) for i in range(len(observations))]
        both = [(p.geometry, some) for p, some in zip(observations, counted, strict=True)]
        stats, share = take_off(stats, image_noise, np.sum([counts_of(plan, some) for plan, some in both], axis=0))
        if weights is not None:
            pairs = np.sum([pairs_of(some, plan) for plan, some in both if some is not None], axis=0)
    if found is None or image_noise or solver is not None:
        fit = auto.as_solver(solver).solve(stats)
    else:
        fit = least_squares.estimate_of(stats, found, last=last)
    if image_noise:
        more = shared(fit, math.sqrt(share) * image_noise, pairs)
    if errors == "sandwich":
        shaping = whiteness.shaping_filter(whiteness.examine(observations, fit, weights))
        fit = score_covariance.correct(observations, fit, shaping, workers, stats.gram, more, weights)
    elif more is not None:
        fit = with_scores(fit, stats.gram, fit.noise_std**2 * observed + more)
    return finish(fit, image_noise, share) if image_noise else fit


def _solved(
    stats: list[NormalEquations], workers: int, factorisations: dict[int, Inverse]
) -> list[least_squares.LeastSquaresSolution]:
    """Minimise, with one factorisation for each Gram matrix, kept by its identity."""
    for one in stats:
        if id(one.gram) not in factorisations:
            factorisations[id(one.gram)] = least_squares.factorise(one.gram, workers)
    return [least_squares.least_squares(one, factorisations[id(one.gram)]) for one in stats]


def _rounding_matters(known: GroupEquations, target: int, found: least_squares.LeastSquaresSolution) -> bool:
    """Say whether a pass over the pixels could improve a fit, judged by the sums before any elimination."""
    stats = known.stats[target]
    if known.eliminations[0] is None:
        return least_squares.rounding_matters(stats, found)
    return least_squares.rounding_matters(stats, found, known.trace, known.energies[target])


def _settled(kernel: Array, before: Array) -> bool:
    """Say whether a refinement changed no more than rounding does."""
    return bool(np.linalg.norm(kernel - before) <= 1e-6 * np.linalg.norm(kernel))


def _surface_products(observation: Observation) -> tuple[Array, Array]:
    """Return ``Phi'Phi`` (terms, terms) and ``Phi'y`` (targets, terms) of a problem's background."""
    columns = Columns.of(observation.geometry, observation.background or 0)
    products = np.zeros((len(observation.targets), columns.n))
    (rows, cols), step = observation.size, max(1, _ROOM // observation.size[1])
    for row in range(0, rows, step):
        for own, reader in zip(products, observation.targets, strict=True):
            own += columns.products(reader.block(row, 0, (min(step, rows - row), cols)), row, 0)
    return columns.gram(), products


def with_background(
    fits: list[Estimate], observations: Sequence[Observation], eliminations: Sequence[Elimination | None], n_pixels: int
) -> list[Estimate]:
    """Add the backgrounds to the fits, the problems along the first axis of the coefficients."""
    degree = observations[0].background or 0
    found = [e for e in eliminations if e is not None]
    taps = np.stack([f.kernel.ravel() for f in fits])
    coefficients = np.stack([e.coefficients_at(taps) for e in found], axis=1)
    shapes = tuple(p.geometry.target_shape for p in observations)
    out = []
    for one, table in zip(fits, coefficients, strict=True):
        stderr = np.stack([e.stderr(one.noise_std, one.factor) for e in found])
        findings = []
        for finding in one.findings:
            detail = finding.detail
            if finding.verdict in (Verdict.RANK_DEFICIENT, Verdict.PRIOR_DECIDES):
                detail = f"rank {one.rank} of {one.kernel.size} beside a background of degree {degree}"
            elif finding.verdict is Verdict.NO_SIGNAL:
                detail = f"a background of degree {degree} is all that the target holds"
            findings.append(Finding(finding.verdict, detail))
        out.append(
            dataclasses.replace(
                one,
                n_pixels=n_pixels,
                background=Background(degree, table, stderr, shapes),
                findings=tuple(findings),
            )
        )
    return out
