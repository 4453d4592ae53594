"""The solver that chooses a solver, and what a user may write for one."""

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..core.estimate import Estimate
from ..core.normal_equations import NormalEquations
from .constrained import Constrained, NonNegative
from .gaussian_process import GaussianProcess, most_probable
from .least_squares import LeastSquares, Solver, at_minimum, require_equations
from .sparse import Sparse

#: Difference in the expected error of prediction, in units of s^2, that counts.
_CLEARLY = 4.0
#: Standard deviations by which negative taps may be less likely than chance if a kernel is to have none.
_UNLIKELY = 3.0


@dataclass(frozen=True)
class Auto:
    """What ``solver="auto"`` means: the Gaussian process, few taps, or no negative taps, whichever the data prefer.

    The Gaussian process comes first; if the negative taps of its mean are no more than chance, in the metric of its
    covariance, its most probable kernel without any. A sparse kernel (where its evidence, ``-(n log(2 pi) + n + ebic) /
    2``, is the larger) or `NonNegative` takes its place where Mallows' estimate of the error of prediction, ``rss / s^2
    - n + 2 df``, is clearly lower; for few taps df counts their choice, too. Few taps whose estimate shows no bias,
    being at most df, are not given up for one lower by more than df: that much error they do not have.
    Least squares is returned where there is no noise to weigh against: the Gaussian process with a long radius and no
    correlation comes to the same when the kernel is all detail.
    """

    needs: ClassVar[str] = "normal equations"

    def __str__(self) -> str:
        return "auto"

    def solve(self, stats: NormalEquations) -> Estimate:
        """Return the kernel of the more probable solver; its `solver` says what was picked, and why."""
        require_equations(stats)
        _, stats = at_minimum(stats)
        smooth = GaussianProcess().solve(stats)
        # what few taps, or none below zero, are at every place, or of complex ones, is no question
        if stats.convention.field is not None or stats.convention.numbers == "complex":
            return dataclasses.replace(smooth, solver=f"auto: {smooth.solver}")
        return self.pick(stats, smooth)

    def pick(self, stats: NormalEquations, smooth: Estimate) -> Estimate:
        """Return what `solve` does, given the Gaussian process's kernel."""
        if math.isnan(smooth.log_evidence):
            return dataclasses.replace(
                smooth, solver="auto: LeastSquares(), the noise being too small for a prior to matter"
            )
        evidence = {"GaussianProcess": smooth.log_evidence}
        best, reason = smooth, f"log evidence {smooth.log_evidence:.1f}"
        if stats.n_pixels > 2 * stats.n_taps:
            few, own_error = Sparse().solve(stats), math.inf
            choices: list[tuple[Estimate, float]] = []
            n, score = stats.n_pixels, Sparse()._score(stats, int(few.df_model), few.rss)
            evidence["Sparse"] = -0.5 * (n * (1 + math.log(2 * math.pi)) + score)  # approximately
            reason += f", of few taps {evidence['Sparse']:.1f}"
            if evidence["Sparse"] > smooth.log_evidence:  # then the others have to be clearly better
                df_model = _with_choice(stats, few)
                choices.append((few, _expected_error(stats, few, df_model)))
                own_error = df_model if choices[0][1] <= df_model else math.inf  # of few taps that show no bias
            if own_error > _CLEARLY:  # else no other could be
                others = [best]
                if stats.convention.ndim != 1:  # what rings about zero is a signal's response, no blur
                    none_below, *_ = most_probable(stats, smooth, lambda held: held + _UNLIKELY * math.sqrt(2 * held))
                    others = [none_below, NonNegative().solve(stats)]
                choices += [(fit, _expected_error(stats, fit)) for fit in others]
            least = min(choices, key=lambda choice: choice[1])
            best, own = choices[0]
            if _CLEARLY < own - least[1] <= own_error:  # who claims to save more than there is owes it to chance
                reason = f"expected error of prediction {least[1]:.1f} s^2, of {best.solver} {own:.1f} s^2"
                best = least[0]
        return dataclasses.replace(
            best, solver=f"auto: {best.solver} ({reason})", alternatives={**smooth.alternatives, **evidence}
        )


def _expected_error(stats: NormalEquations, fit: Estimate, df_model: float | None = None) -> float:
    """Return Mallows' estimate of ``|A (k - truth)|^2 / s^2``, with the noise s of least squares."""
    least, _ = at_minimum(stats)
    variance = least.rss / (stats.n_pixels - least.rank)
    return fit.rss / variance - stats.n_pixels + 2 * (fit.df_model if df_model is None else df_model)


def _with_choice(stats: NormalEquations, fit: Estimate) -> float:
    """Return the degrees of freedom of a sparse fit, the choice of its taps included."""
    # Keeping what exceeds a threshold c (in standard errors) has ``t + c sum_j phi(c - |z_j|)`` of them by Stein's
    # lemma: taps near it come and go with the noise. Those kept stand for those just missed, hence the 2.
    t = int(fit.df_model)
    assert fit.factor is not None
    chosen = fit.factor[:, : fit.factor.shape[1] - fit.unsettled]
    stderr = np.sqrt(np.einsum("ij,ij->i", chosen, chosen))
    kept = stderr > 0
    z = np.abs(fit.kernel.ravel()[kept]) / stderr[kept]
    c = math.sqrt(math.log(stats.n_pixels) + 2 * math.log(max(1.0, (stats.n_taps - t) / (t + 1))))
    return t + 2 * c * float(np.sum(np.exp(-0.5 * (c - z) ** 2))) / math.sqrt(2 * math.pi)


def as_solver(solver: "Solver | str | None") -> "Solver":
    """Return the solver meant by what a user may write."""
    if solver is None:
        return LeastSquares()
    if isinstance(solver, str):
        if solver == "auto":
            return Auto()
        msg = f"got solver={solver!r}, need 'auto' or a solver such as LeastSquares(), Penalized() or GaussianProcess()"
        raise ValueError(msg)
    if isinstance(solver, type) or not (callable(getattr(solver, "solve", None)) or hasattr(solver, "needs")):
        raise TypeError(
            f"got solver={solver!r}, need an object with a method solve(stats), such as LeastSquares(); "
            "write the parentheses"
        )
    return solver


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
