"""What takes the pixels of a stream more than once: refinement, and weights from the residual."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..compiled.threads import Progress
from ..core.background import eliminations_of, settled
from ..core.model import Noise
from ..core.normal_equations import NormalEquations
from ..core.validation import Array
from ..data.blocks import Tree
from ..data.observation import Items, Observation, WeightedObservation, lots_of
from ..engines import weighted_pass
from ..solvers import cholesky, least_squares
from .checkpoint import KernelSums
from .context import Context, Tile
from .equations import block_equations, refine
from .reweighting import Seen, reweighted
from .statistics import Gathered, reweighed, surface_of, with_surfaces_of
from .stream import Stream, Task, Work, computed, whole
from .weighted_fitter import Solved


@dataclass
class StreamFitter:
    """Fits of one kernel of a stream that can be read again, each of which reads all of it."""

    # `first`: its statistics, every pixel with its own weight. `tiles`: a sample of its pixels, the items of the loop.

    stream: Stream
    group: int
    target: int
    first: NormalEquations
    tiles: Sequence[Tile]
    workers: int
    progress: Progress | None = None

    image_std: float = 0.0

    def begin(self, items: Items, *, robust: bool) -> tuple[Array, float]:  # noqa: ARG002
        """Return the unknowns of least squares."""
        return solved(settled(self.first)).unknowns, 0.0

    def residual(self, items: Items, at: Array, left: Sequence[Array]) -> None:
        """Put the residual of the sample at some unknowns into the arrays `left`."""
        n_taps = self.first.n_taps
        numbers = [self.tiles[lot[0]].at for lot in lots_of(items)]  # tiles of one volume share a background
        beside = [self._own(at, number)[n_taps:] for number in numbers]
        method = self.stream.execution.engine.replace("auto", "fft")
        weighted_pass.residual(items, np.concatenate([at[:n_taps], *beside]), method, self.workers, keep=left)

    def fit(
        self,
        seen: Seen,
        start: Array,
        *,
        last: bool = True,  # noqa: ARG002
        even: bool = False,  # noqa: ARG002
        slopes: Sequence[Array] | None = None,  # noqa: ARG002
    ) -> Solved:
        """Fit with the weights that the residual at `start` gives."""

        def task(
            work: Work, part: Observation, items: Sequence[WeightedObservation | None], workers: int
        ) -> NormalEquations:
            item = whole(items[self.target], part, self.target)
            left = np.empty(item.weights.shape)
            weighted_pass.residual([item], self._own(start, work.number), work.method, workers, keep=[left])
            weighed = seen.weighting.held(seen.weighting.by_noise(item, left), left)
            # of weights that are bool what does not count would have to read as zero
            weighed = dataclasses.replace(weighed, weights=np.asarray(weighed.weights, dtype=np.float64))
            return block_equations(item.observation, [weighed], work.method, workers)[0]

        sums = KernelSums()
        for work, equations in self._read(task):
            sums.add(equations, last=work.ends)
        total = sums.whole.total()
        assert total is not None
        return solved(settled(total))

    def refined(self) -> tuple[NormalEquations, int]:
        """Return the first statistics with the residual of their solution, and the number of passes that it took."""
        first = settled(self.first)
        factorisation = cholesky.factorise(first.gram, self.workers)
        eliminations, n_taps = eliminations_of(first), first.n_taps

        def recenter(
            stats: Sequence[NormalEquations], found: Sequence[least_squares.LeastSquaresSolution]
        ) -> list[NormalEquations]:
            taps = found[0].taps[None]
            beside = [e.coefficients_at(taps)[0] for e in eliminations]
            at = np.concatenate([taps[0], *beside])
            parts, whole_sums = Tree[Array](np.add), Tree[Array](np.add)
            for work, sums in self._read(self._residual_sums(at)):
                parts.push(sums)
                if not work.ends:
                    continue
                total, parts = parts.total(), Tree[Array](np.add)
                assert total is not None
                if eliminations:
                    one = eliminations[work.number]
                    one.taps, one.coefficients = taps, beside[work.number][None]
                    moments, energies = one.recentered(taps, total[None, :n_taps], total[-1:], total[None, n_taps:-1])
                    total = np.append(moments[0], energies[0])
                whole_sums.push(total)
            sums = whole_sums.total()
            assert sums is not None
            return [stats[0].centered(taps[0], sums[:n_taps], float(sums[-1]))]

        def matters(_: int, stats: NormalEquations, found: least_squares.LeastSquaresSolution) -> bool:
            return least_squares.rounding_matters(stats, found, *(stats.unreduced or ()))

        (stats,), _, refined = refine(
            [first], lambda one: least_squares.least_squares(one, factorisation), recenter, matters
        )
        shapes = [one.shape for one in first.backgrounds]
        surfaces = tuple(surface_of(e, shape) for e, shape in zip(eliminations, shapes, strict=True))
        return dataclasses.replace(stats, backgrounds=surfaces), refined

    def _residual_sums(self, at: Array) -> Task[Array]:
        """Return what takes the moment and the energy of the residual at some unknowns from a block."""

        def task(work: Work, part: Observation, items: Sequence[WeightedObservation | None], workers: int) -> Array:
            item = whole(items[self.target], part, self.target)
            found = weighted_pass.residual([item], self._own(at, work.number), work.method, workers)
            return np.append(found.moment, found.energy)

        return task

    def _own(self, at: Array, number: int) -> Array:
        """Return the unknowns that concern one observation: the taps and its own coefficients."""
        n_taps = self.first.n_taps
        n_terms = (len(at) - n_taps) // max(1, len(self.first.backgrounds))
        first = n_taps + number * n_terms
        return np.concatenate([at[:n_taps], at[first : first + n_terms]])

    def _read(self, task: Task[Any]) -> Iterator[tuple[Work, Any]]:
        n = self.stream.n_blocks // (len(self.stream.group_sizes) // 2)
        for done, (work, found) in enumerate(computed(self.stream.reread(self.group), task, self.workers), 1):
            if self.progress is not None:
                self.progress("reading pixels again", done, n)
            yield work, found


def solved(stats: NormalEquations) -> Solved:
    """Return the least-squares solution of equations."""
    factorisation = cholesky.factorise(stats.gram, 1)
    found = least_squares.least_squares(stats, factorisation)
    return Solved(stats, found, factorisation, "exact", tuple(eliminations_of(stats)))


def reweighted_stream(fitter: StreamFitter, noise: Noise, context: Context) -> Gathered:
    """Return the statistics of a stream with the weights of its last residual."""
    items = [tile.item for tile in fitter.tiles]
    found, seen, findings, notes = reweighted(fitter, items, noise.pixel_variance, noise.loss)
    assert isinstance(found, Solved)
    both = zip(fitter.tiles, seen.items, strict=True)
    tiles = tuple(dataclasses.replace(tile, weights=item.weights) for tile, item in both)
    told: dict[str, Any] = {"notes": (*context.notes, *notes), "findings": (*found.findings, *findings)}
    context = dataclasses.replace(reweighed(context, noise, seen), tiles=tiles, **told)
    return with_surfaces_of(found, seen, [one.shape for one in fitter.first.backgrounds]), context
