"""Fits by conjugate gradients."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from ..compiled.threads import Progress
from ..core.background import Elimination, unknowns_of
from ..core.estimate import Estimate
from ..core.findings import Finding, Verdict, ranked, with_edges
from ..core.validation import Array
from ..data.observation import Items
from ..engines import weighted
from ..engines.implicit_gram import ToeplitzInverse
from ..engines.weighted_pass import WeightedGram, residual
from ..solvers.conjugate_gradient import (
    MOST_ITERATIONS,
    TOLERANCE,
    ConjugateGradient,
    Iterations,
    PenaltyOperator,
    PriorOperator,
    Rule,
    conjugate_gradients,
    stop_rule,
)
from ..solvers.least_squares import EPS, doubts, little_redundancy
from .equations import refine
from .implicit_equations import ImplicitEquations, Lags, read

#: So large an inverse is that of an image of zeros, which probes would only overflow with.
_NOTHING = 1e100
#: The trace of the inverse is probed until its standard error is such a part of it, or so many times at most, ...
_ROUGH, _FEWEST_PROBES, _MOST_PROBES = 0.06, 3, 32
#: ... each to such a part of its own value.
_PROBE = 0.02
#: A band is open that has less than such a share of the largest power, and at least such a share of the frequencies.
#: It is empty below such a share.
_WEAK, _NARROW, _EMPTY = 1e-2, 0.01, 1e-10
_OF_BANDS = (
    "use a signal that has all frequencies, cut the band off what is found, or hold it down with "
    "solver=ConjugateGradient('identity', strength)"
)


@dataclass(frozen=True, eq=False)
class _Problem:
    """``(G + H) k = b``: H is zero, a penalty, or the noise's variance times the inverse of a prior's covariance."""

    # `held` gives H k from k and, of a prior, from the inverse of its covariance times k. `spread` is the mean diagonal
    # of what preconditions if that stands for the inverse of G + H, else zero. `open_`: whether H stands for nothing
    # but what the signal leaves open.

    held: Callable[[Array, Array], Array]
    precondition: Callable[[Array], Array]
    spread: float
    prior: bool = False
    open_: bool = False

    @classmethod
    def least(cls, equations: ImplicitEquations, inverse: ToeplitzInverse) -> Self:
        """Return that of the least kernel of those that fit as well: H is the ridge of an inverse."""
        known = dataclasses.replace(equations, inverse=inverse)
        return cls(lambda k, _: inverse.ridge * k, known.precondition, known.spread, open_=True)

    @classmethod
    def of(cls, equations: ImplicitEquations, solver: ConjugateGradient, diagonal: Array | None, std: float) -> Self:
        """Return what a solver makes of equations, given the diagonal of G or the noise."""
        shape = equations.shape
        if solver.prior is not None:
            n = shape[0]
            priors = solver.priors * n if len(solver.priors) == 1 else solver.priors
            operators = [PriorOperator(one, shape[1:]) for one in priors]

            def covariance(taps: Array) -> Array:
                planes = zip(operators, taps.reshape(shape), strict=True)
                return np.stack([p(plane) for p, plane in planes]).ravel() / std**2

            return cls(lambda _, dual: dual, covariance, 0.0, prior=True)
        if diagonal is None or solver.penalty is None:
            return cls(lambda k, _: np.zeros_like(k), equations.precondition, equations.spread)
        operator = PenaltyOperator(solver.penalty, shape[1:])
        level = np.repeat(np.eye(shape[0]), math.prod(shape[1:]), axis=1)  # what the mean of a source multiplies
        means = np.array([one @ equations.gram(one) for one in level]) / math.prod(shape[1:])
        total = diagonal.reshape(shape[0], -1).sum(axis=1)
        scale = solver.strength * np.maximum(total - means, EPS * total) / operator.trace
        scale = scale.reshape(-1, *[1] * (len(shape) - 1))
        inverse = equations.inverse
        if len(inverse.lags) == shape[0]:  # the phases of a stride share what is penalised
            more = scale * operator.spectrum(inverse.torus)
            equations = dataclasses.replace(equations, inverse=inverse.beside(more))
        return cls(lambda k, _: (scale * operator(k.reshape(shape))).ravel(), equations.precondition, equations.spread)


@dataclass(frozen=True, eq=False)
class ImplicitSolution:
    """Where conjugate gradients ended; `stderr` is every tap's, from preconditioner and number of pixels alone."""

    taps: Array
    rss: float
    noise_std: float
    stderr: Array
    converged: bool


@dataclass(frozen=True, eq=False)
class ImplicitlySolved:
    """A fit by conjugate gradients in the making."""

    fitter: "ImplicitFitter"
    stats: ImplicitEquations
    solution: ImplicitSolution
    problem: _Problem
    eliminations: tuple[Elimination, ...]
    iterations: int
    refined: int
    strategy: str = "cg"
    image_variance: float = 0.0
    findings: tuple[Finding, ...] = ()

    @property
    def unknowns(self) -> Array:
        """The kernel and the coefficients beside it."""
        return unknowns_of(self.solution.taps, self.eliminations)

    def estimate(self, correction: float = 1.0) -> Estimate:
        """Return the estimate, its errors probed; `correction` is that of a robust criterion."""
        stats, solution, solver = self.stats, self.solution, self.fitter.solver
        n, m = stats.n_pixels, stats.n_taps
        spread, df_model, singular = self._probed()
        rss = correction**2 * solution.rss
        noise_std = math.sqrt(rss / (n - df_model)) if n > df_model + EPS * n else math.nan
        if self.problem.prior:
            noise_std = correction * self.fitter.noise_of(self.solution)
        error = noise_std * math.sqrt(spread)
        energy, variance = stats.target_energy, stats.variance
        parts, findings = 2 if stats.convention.numbers == "complex" else 1, []
        if detail := little_redundancy(n, m, rss, variance, parts):
            findings.append(Finding(Verdict.NO_REDUNDANCY, detail))
        if n > 1 and not variance > 1e-14 * energy:
            findings.append(Finding(Verdict.NO_SIGNAL, "every target pixel is the same"))
        if not solution.converged:
            findings.append(Finding(Verdict.NOT_CONVERGED, f"stopped after {self.iterations} iterations"))
        rank, open_ = round(df_model) if self.problem.open_ else m, self.problem.open_
        if solver.plain and ((detail := _open_band(stats, solution.taps, noise_std, empty=open_)) or open_):
            verdict = Verdict.RANK_DEFICIENT if open_ else Verdict.ILL_CONDITIONED
            detail = ", because ".join(part for part in (f"rank {rank} of {m}" if open_ else "", detail) if part)
            findings.append(Finding(verdict, detail, "" if open_ else _OF_BANDS))
        elif singular:
            rank, detail = m - 1, f"of {m} taps some combinations change nothing"
            findings.append(Finding(Verdict.RANK_DEFICIENT, detail))
        findings += doubts(float(np.linalg.norm(solution.taps)), error * math.sqrt(m), rss, variance, energy)
        return Estimate(
            kernel=solution.taps.reshape(stats.shape if stats.shape[0] > 1 else stats.shape[1:]),
            root=None,
            typical_stderr=error,
            noise_std=noise_std,
            rank=rank,
            condition=stats.inverse.condition,
            rss=rss,
            r_squared=1.0 - rss / variance if variance > 1e-14 * energy else math.nan,
            n_pixels=n,
            convention=stats.convention,
            findings=ranked(with_edges(findings, stats.convention, n, m)),
            refined=self.refined,
            iterations=self.iterations,
            tolerance=self.fitter.limit,
            df_model=df_model,
            strength=solver.strength,
            weighting=stats.weighting,
            solver="LeastSquares()" if solver.plain else str(solver),
            uncertainty="sampling" if solver.plain and not open_ else "posterior",
            priors=solver.priors,
        )

    def surfaces(self) -> list[Elimination]:
        """Return what gives the backgrounds, with ``(G + H)^-1 A'Phi R`` for their errors, or M for many columns."""
        stats, out, left = self.stats, [], _MOST_PROBES
        inflation = max(1 - stats.n_taps / stats.n_pixels, 1 / stats.n_pixels)
        for one in self.eliminations:
            solved = np.empty_like(one.half)
            for j, column in enumerate(one.half.T):
                if left > 0 and self.solution.converged and column.any():
                    solved[:, j] = _iterate(stats, self.problem, column, _near(column)).taps
                else:
                    solved[:, j] = stats.precondition(column) / inflation
                left -= 1
            out.append(dataclasses.replace(one, solved=solved))
        return out

    def _probed(self) -> tuple[float, float, bool]:
        """Return the mean of the diagonal of ``(G + H)^-1``, the degrees of freedom, and whether G + H is singular."""
        # The degrees of freedom are ``trace(G (G + H)^-1)``. A probe's iterations end before their time in a direction
        # of which the matrix makes nothing, but for rounding: no pixel tells of it. With signs v drawn at random ``E
        # v'B^-1 v = trace(B^-1)`` (M. Hutchinson, "A stochastic estimator of the trace of the influence matrix",
        # Commun. Statist. Simul. Comput. 19 (1990) 433). What the preconditioner M says of the same signs is taken off,
        # and its own trace, which is known, added: little is left to chance where they are near. Where pixels are few
        # they are not: of n normal pixels with m taps the mean of the inverse is ``M / (1 - m / n)`` (but for 1 / n; W.
        # James and C. Stein's lemma on the inverse Wishart matrix: R. Muirhead, "Aspects of Multivariate Statistical
        # Theory", 1982, section 3.2), as all that is known without probes.
        stats, problem = self.stats, self.problem
        m, n = stats.n_taps, stats.n_pixels
        known = problem.spread
        if not self.solution.converged or known > _NOTHING:
            return known / max(1 - m / n, 1 / n), float(m), False
        singular = False
        rng = np.random.default_rng(0)
        fewest = max(_FEWEST_PROBES, math.ceil(2 / (m * _ROUGH**2)))  # their variance, were all eigenvalues alike
        exact = m <= _MOST_PROBES  # tap by tap
        values: list[float] = []
        beside: list[float] = []
        for i in range(m if exact else _MOST_PROBES):
            signs = math.sqrt(m) * np.eye(1, m, i)[0] if exact else rng.choice([-1.0, 1.0], m)
            found = _iterate(stats, problem, signs, _near(signs))
            singular = singular or not found.converged and found.count < MOST_ITERATIONS
            control = float(signs @ problem.precondition(signs)) / m if known else 0.0
            values.append(float(signs @ found.taps) / m - control)
            beside.append(float(signs @ problem.held(found.taps, found.dual)))
            doubt = float(np.std(values)) / math.sqrt(max(1, len(values) - 1))
            if not exact and len(values) >= fewest and doubt <= _ROUGH * abs(known + float(np.mean(values))):
                break
        df_model = min(max(m - float(np.mean(beside)), 0.0), float(m))
        return max(known + float(np.mean(values)), 0.0), df_model, singular


def _open_band(equations: ImplicitEquations, taps: Array, noise_std: float, *, empty: bool) -> str:
    """Say where a signal is so weak that errors exceed half of the kernel, or `empty`; "" if nowhere."""
    # The error of m taps has about the power ``m s^2 / S`` at a frequency where the signal has the power S.
    inverse, m = equations.inverse, len(taps)
    if not isinstance(inverse, ToeplitzInverse) or not noise_std > 0:
        return ""
    power = inverse.power()
    error = m * noise_std**2 / power
    kernel = np.abs(np.fft.rfft(taps, 2 * m - 1)) ** 2
    level = float(np.median(kernel)) / math.log(2)  # the mean, unless in half of the band there is nothing but noise
    weak = (error > 0.25 * level) & (power < _WEAK * power.max())
    if empty:
        weak |= power < _EMPTY * power.max()
    closed = np.flatnonzero(~weak)
    gaps = np.diff(np.concatenate([[-1], closed, [len(power)]]))  # from one frequency that is known to the next
    widest = int(np.argmax(gaps))
    count = int(gaps[widest]) - 1
    if count < max(2, _NARROW * len(power)) or not len(closed):
        return ""
    first = 0 if widest == 0 else int(closed[widest - 1]) + 1
    low, high = (at / (2 * m - 1) for at in (first, first + count - 1))
    return (
        f"the image has next to nothing between {low:.3g} and {high:.3g} cycles per pixel, where the kernel's errors "
        "are as large as half of it, or larger"
    )


def _near(signs: Array) -> Rule:
    """Return the rule by which to stop where ``v'B^-1 v`` is known well enough."""
    return lambda taps, residual: _PROBE * float(taps @ (signs + residual))


def _iterate(
    equations: ImplicitEquations, problem: _Problem, moment: Array, enough: Rule, progress: Progress | None = None
) -> Iterations:
    """Solve ``(G + H) k = moment``."""

    def operator(taps: Array, dual: Array) -> Array:
        return equations.gram(taps) + problem.held(taps, dual)

    return conjugate_gradients(operator, problem.precondition, moment, enough, progress)


@dataclass
class ImplicitFitter:
    """Fits of the same pairs by conjugate gradients, with one set of weights after another; counts all iterations."""

    solver: ConjugateGradient
    pass_method: str
    workers: int
    tolerance: float | None = None
    progress: Progress | None = None
    iterations: int = 0
    image_std: float = 0.0
    _lags: Lags | None = None

    @property
    def limit(self) -> float:
        """The error at which to stop, in units of that which noise causes."""
        return TOLERANCE if self.tolerance is None else self.tolerance

    def prepare(self, items: Items) -> None:
        """Do nothing: what is read once is read with the first fit."""

    def noise_of(self, solution: ImplicitSolution) -> float:
        """Return the noise beside which a prior is weighed."""
        return solution.noise_std if self.solver.noise_std is None else self.solver.noise_std

    def solve(
        self,
        items: Items,
        start: Array | None = None,
        *,
        last: bool = True,
        even: bool = False,
        slopes: Sequence[Array] | None = None,
    ) -> ImplicitlySolved:
        """Fit the pairs with their weights: by least squares, and if it is the `last` fit as the solver has it."""
        weighted.require_determined(items)
        known, eliminations, self._lags = read(items, self.pass_method, self.workers, self.progress, self._lags)
        own = last and not self.solver.plain
        plain = ConjugateGradient()
        problem = _Problem.of(known, plain, None, 0.0)
        std = 0.0

        def solve(equations: ImplicitEquations) -> ImplicitSolution:
            center, moment, energy = equations.around()
            pulled = moment if problem.prior else moment - problem.held(center, center)
            rule = stop_rule(energy, pulled, equations.n_pixels, self.limit)
            found = _iterate(equations, problem, pulled, rule, self.progress)
            self.iterations += found.count
            step = found.taps
            change = pulled - found.residual - problem.held(step, found.dual)
            rss = max(energy - float(step @ (2 * moment - change)), EPS**2 * equations.target_energy)
            n, m = equations.n_pixels, equations.n_taps
            noise_std = std if problem.prior else math.sqrt(rss / (n - m)) if n > m else math.nan
            error = noise_std * math.sqrt(equations.spread / max(1 - m / n, 1 / n))
            return ImplicitSolution(center + step, rss, noise_std, np.full(m, error), found.converged)

        def at(unknowns: Array, equations: ImplicitEquations) -> ImplicitEquations:
            """Return equations with the residual of unknowns, from the pixels."""
            left = residual(items, unknowns, self.pass_method, self.workers, self.progress)
            return equations.centered(*weighted.recentered(items, eliminations, unknowns, left))

        def recenter(every: Sequence[ImplicitEquations], found: Sequence[ImplicitSolution]) -> list[ImplicitEquations]:
            return [at(unknowns_of(found[0].taps, eliminations), every[0])]

        def matters(_: int, equations: ImplicitEquations, found: ImplicitSolution) -> bool:
            return not (problem.prior or found.rss > 1e4 * EPS * equations.target_energy)

        inverse = known.inverse
        if last and self.solver.plain and isinstance(inverse, ToeplitzInverse) and inverse.ridge > 0:
            # The prior under which a kernel has the power that the target asks for leaves open what the noise hides.
            problem = _Problem.least(known, inverse)
            rough = solve(known)
            level = max(known.target_energy - rough.rss, EPS * known.target_energy) / inverse.power().mean()
            if level > 0:
                ridge = known.n_taps * rough.noise_std**2 / level
                problem = _Problem.least(known, inverse.raised(max(ridge, inverse.ridge)))
        elif own and self.solver.prior is not None:
            std = solve(known).noise_std if self.solver.noise_std is None else self.solver.noise_std
            problem = _Problem.of(known, self.solver, None, std)
        elif own:
            diagonal = WeightedGram(items, self.pass_method, self.workers).diagonal()
            diagonal -= sum((np.sum(e.half**2, axis=1) for e in eliminations), np.zeros(known.n_taps))
            problem = _Problem.of(known, self.solver, diagonal, 0.0)
        if start is not None and not problem.prior:
            known = at(start, known)
        (stats,), (solution,), refined = refine([known], solve, recenter, matters)
        return ImplicitlySolved(self, stats, solution, problem, eliminations, self.iterations, refined)
