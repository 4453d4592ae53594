"""Several problems that share their kernels: statistics added in order, solved, and refined against all the pixels.

Each problem yields the statistics of each of its targets; those of the same target of every problem add. All that reads
pixels for the exact methods goes through the two functions at the top, one problem at a time.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from . import accumulation, solve
from .accumulation import Choice, Progress
from .pair import Array, Problem
from .result import KernelFit
from .statistics import NormalStats

_MOST_REFINEMENTS = 3


def statistics(
    problems: Sequence[Problem], method: str, workers: int, progress: Progress | None = None
) -> list[NormalStats]:
    """Return the statistics of all problems, one for each target."""
    total: list[NormalStats] = []
    for problem in problems:
        one = accumulation.statistics(problem, method, workers, progress)
        total = [a + b for a, b in zip(total, one, strict=True)] if total else one
    return total


def residual_moments(
    problems: Sequence[Problem], kernels: Array, method: str, workers: int, progress: Progress | None = None
) -> tuple[Array, Array]:
    """Return ``A'r`` and ``r'r`` of the residual ``r = y - A k`` of all problems, taken from the pixels.

    Shapes as in `accumulation.residual_moments`: kernels (targets, sources, rows, cols), moments (targets, taps) and
    energies (targets,).
    """
    parts = (accumulation.residual_moments(problem, kernels, method, workers, progress) for problem in problems)
    moments, energies = accumulation.add(parts)
    return moments, energies


def fit(
    problems: Sequence[Problem],
    choice: Choice,
    solver: "solve.Solver | None",
    workers: int,
    progress: Progress | None = None,
) -> list[KernelFit]:
    """Return the kernels that the problems share, one result for each target.

    Least squares come first; where rounding could matter they are refined against the pixels, and what that leaves in
    the statistics is what any other solver works on.
    """
    stats = statistics(problems, choice.method, workers, progress)
    fits = [one.solve() for one in stats]
    refined = 0
    if any(solve.rounding_matters(s, f) for s, f in zip(stats, fits, strict=True)):
        while refined < _MOST_REFINEMENTS:
            before = [f.kernel for f in fits]
            kernels = np.stack(before).reshape(len(before), -1, *problems[0].geometry.kernel_shape)
            moments, energies = residual_moments(problems, kernels, choice.method, workers, progress)
            around = zip(stats, before, moments, energies, strict=True)
            stats = [s.centered(k.ravel(), moment, float(energy)) for s, k, moment, energy in around]
            fits = [one.solve() for one in stats]
            refined += 1
            if all(_settled(f.kernel, k) for f, k in zip(fits, before, strict=True)):
                break
    if solver is not None:
        fits = [solver.solve(one) for one in stats]
    return [dataclasses.replace(f, method=choice.method, method_reason=choice.reason, refined=refined) for f in fits]


def _settled(kernel: Array, before: Array) -> bool:
    """Say whether a refinement changed no more than rounding does."""
    return bool(np.linalg.norm(kernel - before) <= 1e-6 * np.linalg.norm(kernel))
