"""Fits of the same pairs with one set of weights after another."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..compiled.threads import Progress
from ..core.background import Elimination, unknowns_of
from ..core.findings import Finding
from ..core.normal_equations import NormalEquations
from ..core.validation import Array
from ..data.observation import Items, together
from ..engines import sampled_gram, weighted, weighted_iteration
from ..engines.weighted_iteration import Engine, Metric
from ..engines.weighted_pass import Residual, residual
from ..solvers import cholesky, least_squares
from ..solvers.cholesky import Inverse
from ..solvers.errors_in_variables import take_off
from ..solvers.least_squares import LeastSquaresSolution
from .equations import refine
from .image_noise import ImageNoise

#: Where the iteration is known to be off, the exact ways may cost so many nanoseconds on one core.
EXACT_IS_BEARABLE = 2e10
#: It is if the exact Gram matrix is so unlike the preconditioner along some direction, in the last fit and in those
#: before, which give no more than new weights.
_UNLIKE = 1.3
_UNLIKE_ON_THE_WAY = 4.0


@dataclass(frozen=True, eq=False)
class Solved:
    """A weighted fit in the making: statistics, the least-squares solution, and what gives the backgrounds."""

    # With noise of the image the solution is without what it adds, of which `image_noise` are the sums, `shift` what
    # the moments lack and `image_variance` what it adds to a pixel's variance; the statistics are the pixels' own.

    stats: NormalEquations
    solution: LeastSquaresSolution
    factorisation: Inverse
    strategy: str
    eliminations: tuple[Elimination, ...] = ()
    findings: tuple[Finding, ...] = ()
    iterations: int = 0
    refined: int = 0
    unlike: float = 1.0
    near: bool = False  # whether an iteration knew the Gram matrix nearly
    image_noise: ImageNoise | None = None
    shift: Array | None = None
    image_variance: float = 0.0

    @property
    def unknowns(self) -> Array:
        """The kernel of least squares and the coefficients beside it."""
        return unknowns_of(self.solution.taps, self.eliminations)


@dataclass
class WeightedFitter:
    """Weighted fits of the same pairs with one set of weights after another."""

    # `method`: the engine of the unweighted statistics. `pass_method`: that of weighted passes. `strategy`: "auto", one
    # of the three ways, or "exact" for the cheaper one of two. `image_std`, the image's noise, needs an exact one.

    method: str
    pass_method: str
    workers: int
    tolerance: float | None = None
    progress: Progress | None = None
    strategy: str = "auto"
    image_std: float = 0.0
    _grams: tuple[Array, ...] | None = None
    _base: sampled_gram.Base | None = None
    _metric: Metric | None = None

    @property
    def engine(self) -> Engine:
        """How passes are done."""
        return Engine(self.pass_method, self.workers, self.progress)

    def prepare(self, items: Items) -> None:
        """Read the images once, for whatever weights come later."""
        self._plain(items)

    def grams(self, items: Items) -> tuple[Array, ...]:
        """Return the unweighted Gram matrix of each pair, or volume, over its unknowns."""
        return self._grams if self._grams is not None else self._plain(items)[0]

    def _plain(self, items: Items) -> tuple[tuple[Array, ...], Array]:
        """Read the pixels as if all counted the same; return the Gram matrix of each pair and the moment of all."""
        plain = weighted.alike(items, self.method, self.workers, self.progress)
        self._grams = tuple(gram for gram, _ in plain)
        return self._grams, together(items, [moment for _, moment in plain])

    def solve(
        self,
        items: Items,
        start: Array | None = None,
        *,
        last: bool = True,
        even: bool = False,
        slopes: Sequence[Array] | None = None,
    ) -> Solved:
        """Fit the pairs with their weights."""
        # `last` says whether the errors will be used, `even` that the weights are known not to follow the images;
        # `slopes` are those of the residual of `start` as weighed, where the weights come from it.
        found = self._solved(items, start, last=last, even=even)
        if not self.image_std:
            return found
        observations, weights = [item.observation for item in items], [item.weights for item in items]
        known = ImageNoise.of(observations, weights, found.eliminations, slopes)
        shift = known.shift(self.image_std, None if start is None else start[: items[0].n_taps])
        stats, share = take_off(found.stats, self.image_std, known.counts, shift)
        solution = least_squares.least_squares(stats)
        variance = share * self.image_std**2 * float(np.sum(solution.taps**2))
        return dataclasses.replace(found, solution=solution, image_noise=known, shift=shift, image_variance=variance)

    def _solved(self, items: Items, start: Array | None, *, last: bool, even: bool) -> Solved:
        """Fit the pairs with their weights, image noise and all."""
        weighted.require_determined(items)
        seen = weighted.survey(items)
        strategy = self.strategy
        if strategy in ("auto", "exact"):
            n = sum(item.observation.geometry.n_pixels for item in items)
            costs = {"subtract": seen.subtract.nanoseconds, "patches": seen.patches.nanoseconds}
            asked = n, weighted.lines(items[0].observation), costs["subtract"], costs["patches"]
            quick = 0.0 if even else weighted.EXACT_IS_QUICK
            exact = weighted.choose_strategy(*asked, exact=True).method
            strategy = exact if strategy == "exact" else weighted.choose_strategy(*asked, quick).method
            if strategy == "iterate":
                bearable = costs[exact] <= EXACT_IS_BEARABLE
                found, good = self._iterated(items, start, patient=not bearable, even=even, last=last)
                if not bearable or (good and found.unlike <= (_UNLIKE if last else _UNLIKE_ON_THE_WAY)):
                    return found
                self.strategy, strategy = "exact", exact  # for other weights of the kind as well
        if strategy == "patches":
            return self._refined(items, *weighted.accumulated(items, self.workers), strategy, seen)
        if strategy == "iterate":
            return self._iterated(items, start, patient=True, even=even, last=last)[0]
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
        return self._refined(items, gram, moment, sums, strategy, seen, here)

    def _iterated(
        self, items: Items, start: Array | None, *, patient: bool, even: bool, last: bool
    ) -> tuple[Solved, bool]:
        """Fit by conjugate gradients; also return whether they converged."""
        if even or not sampled_gram.sample_size(items):
            return self._far(items, start, patient=patient)
        if self._base is None:
            levels = sampled_gram.levels_of(items)
            self._base = sampled_gram.base_of(items, levels, self.method, self.workers, self.progress)
        if self._metric is None or last:
            self._metric = Metric.sampled(items, self._base, self.workers)
        if self._metric is None:
            return self._far(items, start, patient=patient)
        if start is None:
            start = sampled_gram.start_of(items, self._base, self._metric.solve)
        return self.walked(items, self._metric, start, patient=patient)

    def walked(
        self,
        items: Items,
        metric: Metric,
        start: Array,
        here: Residual | None = None,
        *,
        patient: bool = True,
        enough: float | None = None,
    ) -> tuple[Solved, bool]:
        """Fit by conjugate gradients that begin somewhere; also return whether they converged."""
        sums = weighted.target_sums(items, self.workers)
        return self._walked(items, metric, sums, start, here, patient=patient, enough=enough)

    def _far(self, items: Items, start: Array | None, *, patient: bool) -> tuple[Solved, bool]:
        """Fit by conjugate gradients that know the unweighted Gram matrix."""
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
        return self._walked(items, Metric.whole(items, self._grams), sums, start, origin, patient=patient)

    def _walked(
        self,
        items: Items,
        metric: Metric,
        sums: weighted.TargetSums,
        start: Array | None,
        here: Residual | None,
        *,
        patient: bool,
        enough: float | None = None,
    ) -> tuple[Solved, bool]:
        tolerance = enough if self.tolerance is None else self.tolerance
        found = weighted_iteration.solve(items, metric, sums, self.engine, tolerance, start, here, patient=patient)
        factorisation = cholesky.factorise(found.stats.gram, 1)
        solution = least_squares.least_squares(found.stats, factorisation)
        told = found.eliminations, found.findings, found.iterations
        solved = Solved(found.stats, solution, factorisation, "iterate", *told, unlike=found.unlike, near=metric.near)
        return solved, found.converged

    def _refined(
        self,
        items: Items,
        gram: Array,
        moment: Array,
        sums: weighted.TargetSums,
        strategy: str,
        seen: weighted.Survey,
        here: tuple[Array, Residual] | None = None,
    ) -> Solved:
        """Solve exact statistics, and refine the kernel against the pixels where rounding could matter."""
        stats, eliminations = weighted.assembled(items, gram, moment, sums)
        if here is not None:
            stats = stats.centered(*weighted.recentered(items, eliminations, *here))
        stats = dataclasses.replace(stats, weighting=weighted.described(strategy, seen))
        factorisation = cholesky.factorise(stats.gram, 1)
        trace = float(np.trace(gram[: items[0].n_taps, : items[0].n_taps])) if eliminations else None

        def solve(stats: NormalEquations) -> LeastSquaresSolution:
            return least_squares.least_squares(stats, factorisation)

        def recenter(
            stats: Sequence[NormalEquations], found: Sequence[LeastSquaresSolution]
        ) -> Sequence[NormalEquations]:
            at = unknowns_of(found[0].taps, eliminations)
            left = residual(items, at, self.pass_method, self.workers, self.progress)
            return [stats[0].centered(*weighted.recentered(items, eliminations, at, left))]

        def matters(_: int, stats: NormalEquations, found: LeastSquaresSolution) -> bool:
            return least_squares.rounding_matters(stats, found, trace, sums.energy)

        (stats,), (solution,), refined = refine([stats], solve, recenter, matters)
        return Solved(stats, solution, factorisation, strategy, eliminations, refined=refined)
