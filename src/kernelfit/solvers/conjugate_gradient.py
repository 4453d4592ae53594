"""Conjugate gradients with a preconditioner."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from ..compiled.threads import Progress
from ..core.validation import Array
from .least_squares import EPS

#: The default of `tolerance`: the solver's own error, in units of the standard error that the noise causes.
TOLERANCE = 0.01
MOST_ITERATIONS = 1000


class Preconditioned(Protocol):
    """A symmetric positive operator on taps, and about its inverse."""

    def __call__(self, taps: Array) -> Array:
        """Return the operator times the taps."""
        ...

    def precondition(self, taps: Array) -> Array:
        """Return about its inverse times the taps."""
        ...


@dataclass(frozen=True)
class ConjugateGradient:
    """Least squares by conjugate gradients, for kernels of thousands of taps: no Gram matrix is ever formed.

    The standard errors are approximate, and there is no covariance. The error at which the iterations stop is the
    `tolerance` of `Execution`.
    """

    #: What it is given.
    needs: ClassVar[str] = "operator"


def _dot(a: Array, b: Array) -> float:
    return float((a * b).sum())


def conjugate_gradients(
    operator: Preconditioned,
    moment: Array,
    enough: Callable[[Array, Array], float],
    progress: Progress | None,
) -> tuple[Array, int, bool]:
    """Solve ``G k = moment`` by preconditioned conjugate gradients (Saad, "Iterative Methods", 2nd ed., algorithm 9.1).

    `enough` gives, for a solution and its residual, the square of the error in G's norm with which one may stop.

    Returns
    -------
    taps : ndarray
    iterations : int
    converged : bool
    """
    taps = np.zeros_like(moment)
    residual = moment.copy()
    preconditioned = operator.precondition(residual)
    direction = preconditioned.copy()
    size = _dot(residual, preconditioned)
    floor = 1e-26 * size
    for iteration in range(MOST_ITERATIONS):
        if not size > max(floor, enough(taps, residual)):
            return taps, iteration, True
        image = operator(direction)
        curvature = _dot(direction, image)
        if not curvature > 0:  # rounding, or an image without detail: nothing more to gain in this direction
            return taps, iteration, False
        taps += (size / curvature) * direction
        residual -= (size / curvature) * image
        preconditioned = operator.precondition(residual)
        previous, size = size, _dot(residual, preconditioned)
        direction *= size / previous
        direction += preconditioned
        if progress is not None:
            progress("iterating", iteration + 1, MOST_ITERATIONS)
    return taps, MOST_ITERATIONS, False


def stop_rule(energy: float, moment: Array, n_pixels: int, tolerance: float) -> Callable[[Array, Array], float]:
    """Return the rule by which to stop: the error that noise causes, times the tolerance.

    Noise of variance s^2 moves the solution by an error e with ``E e'Ge = s^2 m``. With x = k and r = b - G k,
    ``|y - A k|^2 = y'y - k'(b + r)``, which gives s^2.
    """
    m = moment.size

    def enough(taps: Array, residual: Array) -> float:
        rss = max(energy - _dot(taps, moment + residual), EPS * energy)
        return tolerance**2 * rss / max(1, n_pixels - m) * m

    return enough
