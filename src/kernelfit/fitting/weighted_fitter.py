"""Fits of the same pairs with one set of weights after another."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..compiled.threads import Progress
from ..core.background import Elimination
from ..core.estimate import Estimate
from ..core.findings import Finding
from ..core.normal_equations import NormalEquations
from ..core.validation import Array
from ..data.observation import WeightedObservation, together
from ..engines import weighted, weighted_iteration
from ..engines.weighted_pass import Residual, residual
from ..solvers import least_squares
from ..solvers.cholesky import Inverse

_MOST_REFINEMENTS = 3
#: Where the iteration is known to be off, the exact ways may cost so many nanoseconds on one core.
EXACT_IS_BEARABLE = 2e10
#: It is if the exact Gram matrix is so unlike the preconditioner along some direction, in the last fit and in those
#: before, which give no more than new weights.
_UNLIKE = 1.3
_UNLIKE_ON_THE_WAY = 4.0


@dataclass(frozen=True, eq=False)
class Solved:
    """A weighted fit in the making: statistics, the least-squares fit, and what gives the backgrounds."""

    stats: NormalEquations
    fit: Estimate
    factorisation: Inverse
    eliminations: tuple[Elimination, ...] = ()
    findings: tuple[Finding, ...] = ()
    iterations: int = 0
    refined: int = 0
    unlike: float = 1.0

    @property
    def unknowns(self) -> Array:
        """The kernel of least squares and the coefficients beside it."""
        taps = self.fit.kernel.ravel()
        return np.concatenate([taps, *(e.coefficients_at(taps[None])[0] for e in self.eliminations)])


@dataclass
class Engine:
    """Weighted fits of the same pairs with one set of weights after another.

    Parameters
    ----------
    method : str
        The engine of the unweighted statistics.
    pass_method : str
        That of weighted passes.
    workers : int
    tolerance : float or None
        As `iterate.solve` has it.
    progress : callable or None
    regime : str
        One of `weighted.REGIMES`, or "exact" for the cheaper one of the two that are.
    """

    method: str
    pass_method: str
    workers: int
    tolerance: float | None = None
    progress: Progress | None = None
    regime: str = "auto"
    _grams: tuple[Array, ...] | None = None

    def prepare(self, items: Sequence[WeightedObservation]) -> None:
        """Read the images once, for whatever weights come later."""
        self._plain(items)

    def grams(self, items: Sequence[WeightedObservation]) -> tuple[Array, ...]:
        """Return the unweighted Gram matrix of each pair, over its unknowns."""
        return self._grams if self._grams is not None else self._plain(items)[0]

    def _plain(self, items: Sequence[WeightedObservation]) -> tuple[tuple[Array, ...], Array]:
        """Read the pixels as if all counted the same; return the Gram matrix of each pair and the moment of all."""
        plain = [weighted.alike(item, self.method, self.workers, self.progress) for item in items]
        self._grams = tuple(gram for gram, _ in plain)
        return self._grams, together(items, [moment for _, moment in plain])

    def solve(
        self, items: Sequence[WeightedObservation], start: Array | None = None, *, last: bool = True, even: bool = False
    ) -> Solved:
        """Fit the pairs with their weights.

        `last` says whether the errors will be used, `even` that the weights are known not to follow the images.
        """
        weighted.require_determined(items)
        seen = weighted.survey(items)
        regime = self.regime
        if regime in ("auto", "exact"):
            n = sum(item.observation.geometry.n_pixels for item in items)
            costs = {"subtract": seen.subtract.nanoseconds, "patches": seen.patches.nanoseconds}
            asked = n, weighted.lines(items[0].observation), costs["subtract"], costs["patches"]
            quick = 0.0 if even else weighted.EXACT_IS_QUICK
            exact = weighted.choose_regime(*asked, exact=True).method
            regime = exact if regime == "exact" else weighted.choose_regime(*asked, quick).method
            if regime == "iterate":
                bearable = costs[exact] <= EXACT_IS_BEARABLE
                found, good = self._iterated(items, start, patient=not bearable, even=even)
                if not bearable or (good and found.unlike <= (_UNLIKE if last else _UNLIKE_ON_THE_WAY)):
                    return found
                self.regime, regime = "exact", exact  # for other weights of the kind as well
        if regime == "patches":
            return self._refined(items, *weighted.accumulated(items, self.workers), weighted.described(regime, seen))
        if regime == "iterate":
            return self._iterated(items, start, patient=True, even=even)[0]
        moment = here = None
        if self._grams is None:
            known = weighted.unweighted(items, self.method, self.workers, self.progress)
            self._grams, moment, sums = known.grams, known.moment, known.sums
        else:
            sums = weighted.target_sums(items, self.workers)
        gram = weighted.subtracted(items, self._grams, seen.usual, self.workers)
        if moment is None:
            center = np.zeros(len(gram)) if start is None else start
            here = center, residual(items, center, self.pass_method, self.workers, self.progress)
            moment = gram @ center + here[1].moment
        return self._refined(items, gram, moment, sums, weighted.described(regime, seen), here)

    def _iterated(
        self, items: Sequence[WeightedObservation], start: Array | None, *, patient: bool, even: bool
    ) -> tuple[Solved, bool]:
        """Fit by conjugate gradients; also return whether they converged."""
        origin: Residual | None = None
        if self._grams is None and start is None and all(i.n_pixels == i.observation.geometry.n_pixels for i in items):
            grams, plain = self._plain(items)  # nothing is excluded: what they say is about as good
            start = weighted_iteration.solution(together(items, grams), plain)
        if self._grams is None:
            known = weighted.unweighted(items, self.method, self.workers, self.progress)
            self._grams, sums = known.grams, known.sums
            origin = Residual(known.moment, sums.energy) if start is None else None
        else:
            sums = weighted.target_sums(items, self.workers)
        settings = self.pass_method, self.workers, self.tolerance, start, self.progress, origin
        found = weighted_iteration.solve(items, self._grams, sums, *settings, patient=patient, even=even)
        factorisation = least_squares.factorise(found.stats.gram, 1)
        fit = _estimate(found.stats, factorisation)
        solved = Solved(
            found.stats, fit, factorisation, found.eliminations, found.findings, found.iterations, unlike=found.unlike
        )
        return solved, found.converged

    def _refined(
        self,
        items: Sequence[WeightedObservation],
        gram: Array,
        moment: Array,
        sums: weighted.TargetSums,
        described: str,
        here: tuple[Array, Residual] | None = None,
    ) -> Solved:
        """Solve exact statistics, and refine the kernel against the pixels where rounding could matter."""
        stats, eliminations = weighted.assembled(items, gram, moment, sums)
        if here is not None:
            stats = weighted.recentered(items, stats, eliminations, *here)
        stats = dataclasses.replace(stats, weighting=described)
        factorisation = least_squares.factorise(stats.gram, 1)
        found = Solved(stats, _estimate(stats, factorisation), factorisation, eliminations)
        trace = float(np.trace(gram[: items[0].n_taps, : items[0].n_taps])) if eliminations else None
        if least_squares.rounding_matters(stats, found.fit, trace, sums.energy):
            while found.refined < _MOST_REFINEMENTS:
                before, at = found.fit.kernel, found.unknowns
                left = residual(items, at, self.pass_method, self.workers, self.progress)
                stats = weighted.recentered(items, stats, eliminations, at, left)
                fit = _estimate(stats, factorisation)
                found = Solved(stats, fit, factorisation, eliminations, refined=found.refined + 1)
                if np.linalg.norm(found.fit.kernel - before) <= 1e-6 * np.linalg.norm(found.fit.kernel):
                    break
        return found


def _estimate(stats: NormalEquations, factorisation: Inverse) -> Estimate:
    """Return the estimate of least squares."""
    return least_squares.estimate_of(stats, least_squares.least_squares(stats, factorisation))
