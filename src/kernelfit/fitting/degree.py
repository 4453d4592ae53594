"""The degree of a kernel that varies over the field, chosen from the sums of all pixels."""

import dataclasses
import math

import numpy as np

from ..core.estimate import Estimate
from ..core.model import Execution, Noise
from ..core.normal_equations import NormalEquations
from ..core.variation import Polynomial
from ..data.plan import FitPlan
from ..solvers.field_prior import best_degree, search_field
from ..solvers.gaussian_process import beyond_a_prior
from ..solvers.least_squares import at_minimum, blocks, least_squares
from .statistics import gather

#: Degrees that are tried: the next higher one if one of the two highest of those is the best.
_FIRST, _MOST = 2, 4


def chosen(plan: FitPlan, execution: Execution) -> tuple[FitPlan, str]:
    """Return the plan with the degree of the largest evidence, and why; a lower one unless that is clearly better."""
    # Of several kernels the one that varies most decides. Noise and weights that follow from a fit are not yet known.
    plain = Execution(engine=execution.engine, workers=execution.workers, progress=execution.progress)
    for most in range(_FIRST, _MOST + 1):
        if plan.groups[0][0].geometry.n_pixels < 2 * Polynomial(most).n_functions * plan.groups[0][0].geometry.n_taps:
            most = max(0, most - 1)
            break
        every = [_by_degree(stats) for stats, _ in gather(plan.varied(Polynomial(most)), Noise(), plain)]
        best, known = max(((best_degree(one), one) for one in every), key=lambda both: both[0])
        if best < most - 1 or not best:  # odd and even degrees may be there alone
            break
    else:
        most = _MOST
    if most < _FIRST:
        return plan.varied(None), "variation: too few pixels for one"
    told = ", ".join(f"{degree}: {0.5 * (known[0] - value):.1f}" for degree, value in sorted(known.items()))
    note = f"variation: degree {best} of those tried; log evidence beside that of degree 0: {told}"
    return plan.varied(Polynomial(best) if best else None), note


def _by_degree(stats: NormalEquations) -> dict[int, float]:
    """Return twice the negative log evidence, less a constant, of each degree up to that of the equations."""
    start, stats = at_minimum(stats)
    if beyond_a_prior(stats, start):
        return _by_fit(stats)
    return search_field(stats, start, "squared-exponential", "gaussian", None).by_degree


def _by_fit(stats: NormalEquations) -> dict[int, float]:
    """Return the same where there is hardly any noise: Schwarz's criterion of least squares."""
    field = stats.convention.field
    assert field is not None
    levels = np.tile(field.variation.levels, len(stats.supports) // field.n)
    found = {}
    for degree in range(int(levels.max()) + 1):
        kept = levels <= degree
        where = np.concatenate(
            [np.arange(stats.n_taps)[w] for w, k in zip(blocks(stats.supports), kept, strict=True) if k]
        )
        part = dataclasses.replace(
            stats,
            gram=np.ascontiguousarray(stats.gram[np.ix_(where, where)]),
            moment=stats.moment[where],
            supports=tuple(s for s, k in zip(stats.supports, kept, strict=True) if k),
            center=None,
            center_moment=None,
            center_energy=0.0,
        )
        least = stats.target_energy * 1e-20
        rss = max(least_squares(part).rss, least)
        found[degree] = stats.n_pixels * math.log(rss or 1.0) + len(where) * math.log(stats.n_pixels)
    return found


def noted(estimate: Estimate, note: str) -> Estimate:
    """Return an estimate that says how its degree was chosen."""
    return dataclasses.replace(estimate, notes=(*estimate.notes, note)) if note else estimate
