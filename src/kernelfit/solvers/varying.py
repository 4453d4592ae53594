"""Solvers of kernels that vary over the field: what holds their sum to be the same everywhere."""

import dataclasses

from ..core.estimate import Estimate
from ..core.normal_equations import NormalEquations
from .constrained import Constrained
from .least_squares import LeastSquares, Solver, at_minimum

_MOST_TAPS = 1000  # of a kernel of which its least squares are kept beside a posterior: 8 MB


def solve(solver: Solver, stats: NormalEquations) -> Estimate:
    """Return what a solver makes of equations, the sum of a kernel of constant flux being the same everywhere."""
    # All functions of the place but the first, which is 1, then have kernels of sum zero.
    field = stats.convention.field
    if field is None or field.variation.flux == "free":
        return _with_least_squares(solver.solve(stats), stats)
    totals = (None, *(0.0,) * (field.n - 1)) * (len(stats.supports) // field.n)
    return dataclasses.replace(Constrained(total=totals).solve(stats), solver=str(solver))


def _with_least_squares(estimate: Estimate, stats: NormalEquations) -> Estimate:
    """Put what the data say without the prior beside a posterior."""
    plain = estimate.kernel.shape == stats.supports[0] and stats.convention.numbers == "real"
    biased = estimate.uncertainty == "posterior" or estimate.solver.startswith("auto")
    if not (plain and biased and len(stats.supports[0]) == 2 and stats.n_taps <= _MOST_TAPS):
        return estimate
    found, _ = at_minimum(stats)
    return dataclasses.replace(estimate, least_squares=(found.taps, found.inverse))


def holds(solver: Solver, stats: NormalEquations) -> bool:
    """Say whether the estimate is that of plain least squares."""
    field = stats.convention.field
    return isinstance(solver, LeastSquares) and (field is None or field.variation.flux == "free")
