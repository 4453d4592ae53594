"""Conjugate gradients with a preconditioner, and what they are asked for."""

import functools
import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import scipy.fft
import scipy.linalg

from ..compiled.threads import Progress
from ..core.estimate import Estimate, Prior
from ..core.normal_equations import NormalEquations
from ..core.validation import Array, as_float, known
from .evidence import correlation, envelope_at
from .least_squares import EPS, require_equations
from .projection import Grid, distance, images_of

#: The default of `tolerance`: the solver's own error, in units of the standard error that the noise causes.
TOLERANCE = 0.01
MOST_ITERATIONS = 1000
PENALTIES = ("identity", "gradient", "laplacian", "biharmonic")
#: The solver's own error never exceeds this share of the residual sum of squares, from which the noise is told.
_MOST_SHARE = 0.01


#: Says of a solution and its residual within which squared error one may stop.
Rule = Callable[[Array, Array], float]


@dataclass(frozen=True)
class ConjugateGradient:
    """Least squares by conjugate gradients, for kernels of thousands of taps: no Gram matrix is ever formed.

    With a penalty or a prior, whose strength is given, it is the posterior mean. The standard errors are those of a
    typical tap, and there is no covariance. The error at which the iterations stop is the `tolerance` of `Execution`.

    Parameters
    ----------
    penalty : {None, "identity", "gradient", "laplacian", "biharmonic"}, optional
        ``k'Qk`` as `Penalized` has it, which calls the first one "ridge"; default none.
    strength : float, optional
        The strength, relative, as `Penalized` defines it. Needed with a penalty.
    prior : Prior or tuple of Prior, optional
        A Gaussian-process prior of known hyperparameters (such as `KernelFit.prior`, found on a part of the image), for
        every term or one for each.
    noise_std : float, optional
        Standard deviation of the noise of a target pixel, beside which the prior is weighed (with weights that of a
        pixel of weight 1). The default is that of the residual of least squares.

    Raises
    ------
    ValueError
        If the penalty is unknown, the strength missing or superfluous, or there are both a penalty and a prior.
    """

    penalty: str | None = None
    strength: float = math.nan
    prior: Prior | tuple[Prior, ...] | None = None
    noise_std: float | None = None

    #: What it is given.
    needs: ClassVar[str] = "operator"

    def __post_init__(self) -> None:
        known(self.penalty, (None, *PENALTIES), "penalty")
        valid = isinstance(self.strength, numbers.Real) and 0 <= as_float(self.strength) < math.inf
        if valid == (self.penalty is None):
            raise ValueError(
                f"got penalty={self.penalty!r} with strength={self.strength!r}, need a finite strength of at least 0 "
                "with a penalty, and none without"
            )
        if self.prior is not None and self.penalty is not None:
            raise ValueError("got a penalty and a prior, need one or the other")
        if self.noise_std is not None and not (self.prior is not None and 0 < self.noise_std < math.inf):
            raise ValueError(f"got noise_std={self.noise_std!r}, need a finite number above 0, and a prior beside it")

    def solve(self, stats: NormalEquations) -> Estimate:
        """Refuse statistics: what has a Gram matrix is solved exactly, with all errors."""
        require_equations(stats)
        raise ValueError(
            f"got solver={self} for statistics of {stats.n_taps} taps, whose Gram matrix it would not use; "
            "need LeastSquares(), Penalized() or GaussianProcess(), or the pixels: find_kernel"
        )

    @property
    def priors(self) -> tuple[Prior, ...]:
        """The priors, as a tuple."""
        return () if self.prior is None else (self.prior,) if isinstance(self.prior, Prior) else tuple(self.prior)

    @property
    def plain(self) -> bool:
        """Whether it is least squares."""
        return self.penalty is None and self.prior is None

    def __str__(self) -> str:
        if self.penalty is not None:
            return f"ConjugateGradient({self.penalty}, {self.strength:.3g})"
        return f"ConjugateGradient({'; '.join(str(one) for one in self.priors)})"


@dataclass(frozen=True, eq=False)
class Iterations:
    """Where conjugate gradients ended."""

    taps: Array  # the solution x
    dual: Array  # the preconditioner's inverse, ``M^-1``, times the solution
    residual: Array  # ``b - B x``
    count: int  # number of iterations
    converged: bool


def conjugate_gradients(
    operator: Callable[[Array, Array], Array],
    precondition: Callable[[Array], Array],
    moment: Array,
    enough: Rule,
    progress: Progress | None = None,
) -> Iterations:
    """Solve ``B x = moment`` by preconditioned conjugate gradients (Saad, "Iterative Methods", 2nd ed., algorithm 9.1).

    The operator is given x and ``M^-1 x``, where `precondition` is M: one that holds the inverse of M (a prior's) needs
    no solution. `enough` gives, for a solution and its residual, the square of the error in B's norm with which one may
    stop. That error is at most ``r'M r`` over the smallest eigenvalue of M B, for which the smallest Ritz value stands,
    that of the tridiagonal matrix that the iteration makes (G. Golub and G. Meurant, "Matrices, Moments and Quadrature
    with Applications", 2010, chapter 12).
    """
    taps, dual = np.zeros_like(moment), np.zeros_like(moment)
    residual = moment.copy()
    preconditioned = precondition(residual)
    direction, beside = preconditioned.copy(), residual.copy()
    size = float(residual.ravel() @ preconditioned.ravel())
    floor = 1e-26 * size
    diagonal: list[float] = []
    across: list[float] = []
    share, ratio = 0.0, 0.0
    for iteration in range(MOST_ITERATIONS):
        limit = enough(taps, residual)
        if not size > limit and diagonal:  # else there is no need to know
            limit *= min(1.0, float(scipy.linalg.eigvalsh_tridiagonal(diagonal, across[:-1], "i", (0, 0))[0]))
        if not size > max(floor, limit):
            return Iterations(taps, dual, residual, iteration, converged=True)
        image = operator(direction, beside)
        curvature = float(direction.ravel() @ image.ravel())
        if not curvature > 0:  # rounding, or an image without detail: nothing more to gain in this direction
            return Iterations(taps, dual, residual, iteration, converged=False)
        step = size / curvature
        diagonal.append(1 / step + ratio * share)
        taps += step * direction
        dual += step * beside
        residual -= step * image
        preconditioned = precondition(residual)
        previous, size = size, float(residual.ravel() @ preconditioned.ravel())
        ratio, share = size / previous, 1 / step
        across.append(math.sqrt(max(ratio, 0.0)) * share)
        for vector, new in ((direction, preconditioned), (beside, residual)):
            vector *= ratio
            vector += new
        if progress is not None:
            progress("iterating", iteration + 1, MOST_ITERATIONS)
    return Iterations(taps, dual, residual, MOST_ITERATIONS, converged=False)


def stop_rule(energy: float, moment: Array, n_pixels: int, tolerance: float) -> Rule:
    """Return the rule by which to stop: the error that noise causes, times the tolerance."""
    # Noise of variance s^2 moves the solution by an error e with ``E e'Ge = s^2 m``. With x = k and r = b - G k, ``|y -
    # A k|^2 = y'y - k'(b + r)``, which gives s^2. Where few pixels are spare that is little of a large number, so the
    # residual itself has to have settled.
    share = min(tolerance**2 * moment.size / max(1, n_pixels - moment.size), _MOST_SHARE)

    def enough(taps: Array, residual: Array) -> float:
        return share * max(energy - float(taps.ravel() @ (moment + residual).ravel()), EPS * energy)

    return enough


# ---- penalties and priors as operators ------------------------------------------------------------------------------


class PenaltyOperator:
    """Q of a penalty on kernels that are zero beyond their support, for arrays (terms, *sides)."""

    def __init__(self, penalty: str, shape: tuple[int, ...]) -> None:
        self.power = {"identity": 0, "gradient": 1, "laplacian": 2, "biharmonic": 4}[penalty]
        own = [2 - 2 * np.cos(np.pi * np.arange(1, n + 1) / (n + 1)) for n in shape]
        #: of one term
        self.trace = float(np.sum(_outer_sum(own) ** self.power))

    def __call__(self, taps: Array) -> Array:
        """Return Q times the taps."""
        for _ in range(self.power):  # the Laplacian of the nearest neighbours, its sign turned
            image = 2.0 * (taps.ndim - 1) * taps
            for axis in range(1, taps.ndim):
                to, of = np.moveaxis(image, axis, 0), np.moveaxis(taps, axis, 0)
                to[1:] -= of[:-1]
                to[:-1] -= of[1:]
            taps = image
        return taps

    def spectrum(self, torus: tuple[int, ...]) -> Array:
        """Return its spectrum on a torus, of half the frequencies along the columns."""
        counts = (*torus[:-1], torus[-1] // 2 + 1)
        axes = [2 - 2 * np.cos(2 * np.pi * np.arange(n) / side) for n, side in zip(counts, torus, strict=True)]
        return np.asarray(_outer_sum(axes) ** self.power)


def _outer_sum(axes: list[Array]) -> Array:
    """Return the sums of one number of each axis."""
    return functools.reduce(np.add.outer, axes)


class PriorOperator:
    """The covariance of a Gaussian-process prior: envelope, a stationary part by transforms on a torus, envelope."""

    def __init__(self, prior: Prior, shape: tuple[int, ...]) -> None:
        grid = Grid(shape)
        scales = np.array([*(prior.scales or [1.0] * (len(shape) - 1)), 1.0])
        apart = [(at - c) / s for at, c, s in zip(np.indices(shape), prior.center, scales, strict=True)]
        squares = np.sum(np.square(apart), axis=0) / prior.radius**2
        self.envelope = prior.amplitude * envelope_at(prior.envelope, squares)
        self._torus, lags = grid.torus
        self._spectrum = scipy.fft.rfftn(correlation(prior.family, distance(lags, scales)[0] / prior.length)[0]).real
        self._images = images_of(shape, prior.symmetric)

    def __call__(self, taps: Array) -> Array:
        """Return the covariance times the taps (*sides)."""
        pulled = (self.envelope * taps).ravel()
        folded = np.sum([pulled[image] for image in self._images], axis=0).reshape(taps.shape)
        spread = scipy.fft.irfftn(self._spectrum * scipy.fft.rfftn(folded, self._torus), self._torus)
        return np.asarray(self.envelope * spread[*map(slice, taps.shape)])
