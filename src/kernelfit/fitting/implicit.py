"""Least squares by conjugate gradients, refined against the pixels."""

import math

import numpy as np

from ..compiled.threads import Progress
from ..core.estimate import Estimate
from ..core.findings import Finding, Verdict
from ..data.observation import Observation
from ..engines.accumulation import pass_over
from ..engines.implicit_gram import NormalOperator
from ..engines.passes import Frame
from ..solvers.conjugate_gradient import TOLERANCE, _dot, conjugate_gradients, stop_rule
from ..solvers.least_squares import EPS, doubts

MOST_REFINEMENTS = 3


def find(
    observation: Observation, workers: int, tolerance: float | None = None, progress: Progress | None = None
) -> Estimate:
    """Return the least-squares kernel of a problem of one source, found iteratively.

    The pixels are read once for the lag sums, and again, for the residual of the solution, as often as that changes the
    solution by more than the tolerance allows.
    """
    plan = observation.geometry
    frame = Frame.of(observation)
    limit = TOLERANCE if tolerance is None else tolerance
    sums, _ = pass_over(observation, frame, "fft", workers, None, progress)
    operator = NormalOperator(frame, sums.lags[0, 0], workers)
    moment, energy = sums.moment[0, 0], float(sums.energy[0])
    taps = np.zeros_like(moment)
    iterations = refined = 0
    rss = energy
    while True:
        step, count, converged = conjugate_gradients(
            operator, moment, stop_rule(energy, moment, plan.n_pixels, limit), progress
        )
        taps += step
        iterations += count
        rss = energy - _dot(step, 2 * moment - operator(step))
        if refined and np.linalg.norm(step) <= 1e-6 * np.linalg.norm(taps):
            break
        if rss > 1e4 * EPS * float(sums.energy[0]) or refined == MOST_REFINEMENTS:
            break
        residual, _ = pass_over(observation, frame, "fft", workers, taps[None, None], progress)
        moment, energy = residual.moment[0, 0], float(residual.energy[0])
        refined += 1
    m = moment.size
    rss = max(rss, 0.0)
    noise_std = math.sqrt(rss / (plan.n_pixels - m)) if plan.n_pixels > m else math.nan
    error = noise_std * math.sqrt(operator.typical_variance())
    variance = float(sums.energy[0] - sums.total[0] ** 2 / plan.n_pixels)
    findings = []
    if not converged:
        detail = f"stopped after {iterations} iterations"
        findings.append(Finding(Verdict.NOT_CONVERGED, detail))
    findings += doubts(float(np.linalg.norm(taps)), error * math.sqrt(m), rss, variance, float(sums.energy[0]))
    return Estimate(
        kernel=frame.to_user(taps[None])[0],
        factor=None,
        typical_stderr=error,
        noise_std=noise_std,
        rank=m,
        condition=operator.condition(),
        rss=rss,
        r_squared=1.0 - rss / variance if variance > 1e-14 * sums.energy[0] else math.nan,
        n_pixels=plan.n_pixels,
        convention=plan.convention,
        findings=tuple(findings),
        refined=refined,
        iterations=iterations,
        tolerance=limit,
    )
