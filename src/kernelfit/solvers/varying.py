"""Solvers of kernels that vary over the field: what holds their sum to be the same everywhere."""

import dataclasses

from ..core.estimate import Estimate
from ..core.normal_equations import NormalEquations
from .constrained import Constrained
from .least_squares import LeastSquares, Solver


def solve(solver: Solver, stats: NormalEquations) -> Estimate:
    """Return what a solver makes of equations, the sum of a kernel of constant flux being the same everywhere."""
    # All functions of the place but the first, which is 1, then have kernels of sum zero.
    field = stats.convention.field
    if field is None or field.variation.flux == "free":
        return solver.solve(stats)
    totals = (None, *(0.0,) * (field.n - 1)) * (len(stats.supports) // field.n)
    return dataclasses.replace(Constrained(total=totals).solve(stats), solver=str(solver))


def holds(solver: Solver, stats: NormalEquations) -> bool:
    """Say whether the estimate is that of plain least squares."""
    field = stats.convention.field
    return isinstance(solver, LeastSquares) and (field is None or field.variation.flux == "free")
