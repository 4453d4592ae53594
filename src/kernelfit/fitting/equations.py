"""Equations of observations whose pixels all count alike, solved and refined; one set for each target.

Each observation yields the statistics of each of its targets; those of the same target of every observation add. A
background is eliminated observation by observation (each has its own), before the statistics add: its terms are further
targets of the first pass, and further sources, of one tap, of those that take the residual.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from ..compiled.threads import Progress, add
from ..core.background import Elimination, without_rounding
from ..core.normal_equations import NormalEquations, SurfaceSums, added
from ..core.validation import Array
from ..data.observation import Observation, WeightedObservation, halves, lots, surface_readers
from ..engines import accumulation, complex_pass, weighted
from ..solvers.cholesky import Inverse, factorise
from ..solvers.least_squares import LeastSquaresSolution, least_squares, rounding_matters, steps_of

_MANY = 8  # targets from which products of matrices are worth while
_ROOM = 2**20  # target pixels read at once for their products with the background


#: Passes over the pixels after the first, at most.
MOST_REFINEMENTS = 3


class Solution(Protocol):
    """What a solver finds."""

    @property
    def taps(self) -> Array:
        """The kernel."""


Equations = TypeVar("Equations")
Found = TypeVar("Found", bound=Solution)


def refine(
    equations: Sequence[Equations],
    solve: Callable[[Equations], Found],
    recenter: Callable[[Sequence[Equations], Sequence[Found]], Sequence[Equations]],
    matters: Callable[[int, Equations, Found], bool],
) -> tuple[list[Equations], list[Found], int]:
    """Solve the equations of some targets and, where rounding could matter to one of them, correct all."""
    # `recenter` returns the equations with the residual of solutions, by a pass over the pixels; `matters` says, of a
    # target's number, equations and solution, whether rounding could matter. Also returns the number of passes.
    found = [solve(one) for one in equations]
    refined = 0
    if any(matters(t, *both) for t, both in enumerate(zip(equations, found, strict=True))):
        while refined < MOST_REFINEMENTS:
            before = [one.taps for one in found]
            equations = recenter(equations, found)
            found = [solve(one) for one in equations]
            refined += 1
            if all(_settled(one.taps, old) for one, old in zip(found, before, strict=True)):
                break
    return list(equations), found, refined


def _settled(taps: Array, before: Array) -> bool:
    """Say whether a refinement changed no more than rounding does."""
    return bool(np.linalg.norm(taps - before) <= 1e-6 * np.linalg.norm(taps))


@dataclass
class GroupEquations:
    """What the pixels say of a group of observations."""

    stats: list[NormalEquations]  # for each target the sum over the observations, the background eliminated
    eliminations: list[Elimination]  # for each observation what gives its background; empty without one
    trace: float  # trace of the Gram matrix before the elimination
    energies: list[float]  # ``y'y`` of each target before it
    solutions: list[LeastSquaresSolution] = dataclasses.field(default_factory=list)  # of each target
    refined: int = 0  # number of passes over the pixels after the first


def plain_fit(
    observations: Sequence[Observation], method: str, workers: int, progress: Progress | None = None
) -> GroupEquations:
    """Return the equations of a group, solved by least squares and refined where rounding could matter."""
    known = statistics(observations, method, workers, progress)
    shape = (len(observations[0].sources), *observations[0].geometry.kernel_shape)
    hermitian = observations[0].geometry.convention.numbers == "complex"
    factorisations: dict[int, Inverse] = {}  # one for each Gram matrix, by its identity
    steps: dict[int, tuple[Array, Array]] = {}  # of statistics, by their identity

    def factorised(gram: Array) -> Inverse:
        if id(gram) not in factorisations:
            factorisations[id(gram)] = factorise(gram, workers, hermitian=hermitian)
        return factorisations[id(gram)]

    def prepared(stats: Sequence[NormalEquations]) -> Sequence[NormalEquations]:
        gram = stats[0].gram
        steps.clear()
        if len(stats) >= _MANY and all(one.gram is gram for one in stats) and factorised(gram).full:
            steps.update(zip(map(id, stats), steps_of(stats, factorised(gram)), strict=True))
        return stats

    def solve(stats: NormalEquations) -> LeastSquaresSolution:
        return least_squares(stats, factorised(stats.gram), steps.get(id(stats)))

    def recenter(stats: Sequence[NormalEquations], found: Sequence[LeastSquaresSolution]) -> Sequence[NormalEquations]:
        kernels = np.stack([one.taps.reshape(shape) for one in found])
        moments, energies = residual_moments(observations, kernels, known.eliminations, method, workers, progress)
        around = zip(stats, kernels, moments, energies, strict=True)
        return prepared([one.centered(k.ravel(), moment, float(energy)) for one, k, moment, energy in around])

    def matters(target: int, stats: NormalEquations, found: LeastSquaresSolution) -> bool:
        if not known.eliminations:
            return rounding_matters(stats, found)
        return rounding_matters(stats, found, known.trace, known.energies[target])

    stats, solutions, refined = refine(prepared(known.stats), solve, recenter, matters)
    return dataclasses.replace(known, stats=stats, solutions=solutions, refined=refined)


def statistics(
    observations: Sequence[Observation], method: str, workers: int, progress: Progress | None = None
) -> GroupEquations:
    """Return the statistics of all observations, one for each target."""
    known = GroupEquations([], [], 0.0, [])
    for own, every in _read(observations, method, workers, progress):
        stats, terms = every[: len(own[0].targets)], every[len(own[0].targets) :]
        known.trace += float(np.trace(stats[0].gram))
        energies = [one.target_energy for one in stats]
        known.energies = [a + b for a, b in zip(known.energies, energies, strict=True)] if known.energies else energies
        if terms:
            gram, products = add([_surface_products(one) for one in own])
            elimination = Elimination.of(np.stack([term.moment for term in terms], axis=1), gram, products)
            stats = elimination.reduced(stats, products)
            known.eliminations.append(elimination)
        known.stats = added(known.stats, stats) if known.stats else stats
    if known.eliminations:
        known.stats = without_rounding(known.stats, known.trace)
    gram = known.stats[0].gram  # one array for all targets, where it is the same, so that it is factorised once
    known.stats[1:] = [
        dataclasses.replace(s, gram=gram) if s.gram is not gram and np.array_equal(s.gram, gram) else s
        for s in known.stats[1:]
    ]
    return known


def _read(
    observations: Sequence[Observation], method: str, workers: int, progress: Progress | None
) -> Iterator[tuple[list[Observation], list[NormalEquations]]]:
    """Yield observations that share a background, parts of complex ones together, with statistics and terms."""
    if observations[0].geometry.convention.numbers == "complex":
        for both in halves(observations):
            own_of = [[observations[i] for i in half] for half in both]
            total: list[list[NormalEquations]] = []
            for pair in zip(*own_of, strict=True):
                found = [every for _, every in complex_pass.statistics(pair, method, workers, progress)]
                total = list(map(added, total, found)) if total else found
            yield from ((own, stats) for own, stats in zip(own_of, total, strict=True) if stats)
        return
    for lot in lots(observations):
        own = [observations[at] for at in lot]
        wide = [dataclasses.replace(one, targets=one.targets + surface_readers(one)) for one in own]
        yield own, accumulation.of_lot(wide, method, workers, progress)


def lot_equations(
    observations: Sequence[Observation],
    items: Sequence[Sequence[WeightedObservation | None]],
    method: str,
    workers: int,
    progress: Progress | None = None,
) -> list[NormalEquations]:
    """Return what `block_equations` does of a whole pair, or of the planes of a volume together."""
    if all(item is None for one in items for item in one):
        return _plain_equations(observations, method, workers, progress)
    total: list[NormalEquations] = []
    for observation, own in zip(observations, items, strict=True):
        part = block_equations(observation, own, method, workers, progress)
        total = added(total, part) if total else part
    return total


def _plain_equations(
    observations: Sequence[Observation], method: str, workers: int, progress: Progress | None
) -> list[NormalEquations]:
    """Return the equations of pixels that all count alike, the background not eliminated."""
    wide = [dataclasses.replace(one, targets=one.targets + surface_readers(one)) for one in observations]
    every = accumulation.of_lot(wide, method, workers, progress)
    plain, terms = every[: len(observations[0].targets)], every[len(observations[0].targets) :]
    if not terms:
        return plain
    gram, products = add([_surface_products(one) for one in observations])
    cross, whole = np.stack([term.moment for term in terms], axis=1), observations[0].whole
    return [
        dataclasses.replace(one, surface=SurfaceSums(cross, gram, own, whole))
        for one, own in zip(plain, products, strict=True)
    ]


def block_equations(
    observation: Observation,
    items: Sequence[WeightedObservation | None],
    method: str,
    workers: int,
    progress: Progress | None = None,
) -> list[NormalEquations]:
    """Return the equations of a block of one observation for each target, the background not eliminated."""
    # `items`: for each target the block with its weights, None where all of its pixels count alike. Those of all blocks
    # add; `core.background.eliminated` takes the background out of the sum, and results of observations add again.
    plain: list[NormalEquations] = []
    if any(item is None for item in items):
        plain = _plain_equations([observation], method, workers, progress)
    return [
        plain[t] if item is None else weighted.block_statistics(item, method, workers) for t, item in enumerate(items)
    ]


def residual_moments(
    observations: Sequence[Observation],
    kernels: Array,
    eliminations: Sequence[Elimination],
    method: str,
    workers: int,
    progress: Progress | None = None,
) -> tuple[Array, Array]:
    """Return ``A'r`` and ``r'r`` of ``r = y - A k`` of all observations from the pixels, less any background."""
    n, taps = len(kernels), kernels.reshape(len(kernels), -1)
    parts = []
    plan = observations[0].geometry
    at = (-1, -1) if plan.flipped else (0, 0)  # the tap over the first pixel: a term is not extended beyond the target
    every = []
    for elimination in eliminations:
        surface = np.zeros((n, len(elimination.root), *plan.kernel_shape))
        surface[..., *at] = elimination.coefficients_at(taps)
        every.append(surface)
    found: list[Sequence[Array]] = []
    if plan.convention.numbers == "complex":
        for i, both in enumerate(halves(observations)):
            pairs = [[observations[re], observations[im]] for re, im in zip(*both, strict=True)]
            surfaces = every[2 * i : 2 * i + 2]
            each = [complex_pass.residual_moments(pair, kernels, surfaces, method, workers, progress) for pair in pairs]
            found += map(add, zip(*each, strict=True))
    else:
        for i, lot in enumerate(lots(observations)):
            sums = []
            for observation in (observations[of] for of in lot):
                terms = surface_readers(observation, plan.stride)
                wide = dataclasses.replace(observation, sources=observation.sources + terms)
                own = np.concatenate([kernels, every[i]], axis=1) if eliminations else kernels
                sums.append(accumulation.residual_moments(wide, own, method, workers, progress))
            found.append(add(sums))
    for i, (moments, energies) in enumerate(found):
        if not eliminations:
            parts.append((moments, energies))
            continue
        table = moments.reshape(n, -1, *plan.kernel_shape)
        own, beside = table[:, : kernels.shape[1]].reshape(n, -1), table[:, kernels.shape[1] :, *at]
        parts.append(eliminations[i].recentered(taps, own, energies, beside))
    moments, energies = add(parts)
    return moments, energies


def _surface_products(observation: Observation) -> tuple[Array, Array]:
    """Return ``Phi'Phi`` (terms, terms) and ``Phi'y`` (targets, terms) of an observation's background."""
    columns = observation.columns
    products = np.zeros((len(observation.targets), columns.n))
    (rows, cols), step = observation.size, max(1, _ROOM // observation.size[1])
    for row in range(0, rows, step):
        for own, reader in zip(products, observation.targets, strict=True):
            own += columns.products(reader.block(row, 0, (min(step, rows - row), cols)), row, 0)
    return columns.gram(), products
