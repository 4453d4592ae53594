"""Weighted least squares: statistics with a weight for each target pixel, by the cheapest of three ways.

``G_w = sum_t w[t] P_t P_t'`` has lost the structure that makes the unweighted Gram matrix cheap. So:

"subtract"
    where nearly all weights are the same, c: the unweighted Gram matrix times c, plus the products of the few
    patches whose weight differs, times the difference;
"patches"
    where few pixels count, or the kernel is small: the products of all patches that have a weight;
"iterate"
    otherwise: conjugate gradients on the weighted problem, preconditioned by the unweighted Gram matrix (`iterate`).

The first two are exact. The third gives the kernel to a small part of its standard error, and approximate errors.

The sums are those over all unknowns, the coefficients of backgrounds among them (`weighted_pass`); a background is
eliminated last, so that statistics are those of the kernel alone, for any solver.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ..compiled.threads import Progress, add, in_order
from ..core import geometry
from ..core.background import Elimination, without_rounding
from ..core.geometry import Shape
from ..core.normal_equations import NormalEquations, SurfaceSums
from ..core.validation import Array
from ..data import polyphase
from ..data.masking import times_weights, weighed
from ..data.observation import (
    Items,
    Observation,
    WeightedObservation,
    Weights,
    lots_of,
    n_unknowns,
    of_lots,
    own_unknowns,
    surface_readers,
    together,
)
from . import accumulation, patches
from .cost_model import DIRECT_NS, Choice
from .weighted_pass import Residual

#: The exact ways are taken if they cost at most so many times the iteration, or so many nanoseconds.
EXACT_IS_WORTH = 1.3
EXACT_IS_QUICK = 1.5e8
#: Passes over the pixels that conjugate gradients need.
N_PASSES = 4
# Nanoseconds per pixel on one core, from benchmarks/calibrate.py: of a weighted pass and of the plain statistics by
# "fft", and for each row of taps; and for each tap of a weighted pass by "direct".
PASS_NS = 5.5
PASS_ROW_NS = 0.15
PASS_TAP_NS = 0.127
VOXEL_NS = 35.0  # of a volume, by transforms along all axes
PLAIN_NS = 3.6
PLAIN_ROW_NS = 0.17
#: Patches in the sample from which they start, per tap; at most so many multiply-adds per pixel of the image.
SAMPLE = 40
SAMPLE_WORK = 500.0
#: Rows of the weights looked at to estimate a cost.
_ROWS = 96


def choose_strategy(
    n: int, kernel: object, subtract_ns: float, patches_ns: float, quick: float = EXACT_IS_QUICK, exact: bool = False
) -> Choice:
    """Say which way weighted statistics are found, `exact` or `quick`, and the costs in ns that were compared."""
    # Counted per pixel of `n`, for a kernel of R x C taps with C >= R: the unweighted statistics, and four passes by
    # the cheaper engine. The exact ways give exact errors of the taps too, so they are taken if they cost up to 1.3
    # times as much, or less than 0.15 s.
    rows, cols = sorted(geometry.kernel_shape(kernel))
    whole = min(DIRECT_NS * rows * (3 * cols - 1), PLAIN_NS + PLAIN_ROW_NS * rows) * n
    estimates = {
        "subtract": whole + subtract_ns,
        "patches": patches_ns + 2.0 * n,
        "iterate": whole + N_PASSES * min(pass_ns((rows, cols)).values()) * n,
    }
    name = "patches" if estimates["patches"] <= 1.2 * estimates["subtract"] else "subtract"
    if not exact and estimates[name] > max(quick, EXACT_IS_WORTH * estimates["iterate"]):
        name = "iterate"
    costs = ", ".join(f"{value / 1e9:.2g} s {name}" for name, value in estimates.items())
    return Choice(name, f"estimated on one core: {costs}")


def pass_ns(kernel: Shape) -> dict[str, float]:
    """Return the nanoseconds per pixel of a weighted pass, for each engine."""
    rows, cols = sorted(kernel)
    return {"direct": rows * cols * PASS_TAP_NS, "fft": PASS_NS + PASS_ROW_NS * rows}


def pass_method(observation: Observation) -> str:
    """Return the engine of the quicker weighted pass."""
    if observation.plane is None:
        costs = pass_ns(lines(observation))
    else:
        taps = len(observation.sources) * observation.geometry.n_taps
        costs = {"direct": taps * PASS_TAP_NS + PASS_NS * len(observation.sources), "fft": VOXEL_NS}
    return min(costs, key=costs.__getitem__)


def lines(observation: Observation) -> Shape:
    """Return the rows of taps of all sources, phases by themselves, as if they were one, and the columns."""
    part = polyphase.split(observation)
    rows, cols = part.geometry.kernel_shape
    return len(part.sources) * rows, cols


def sample_size(n_pixels: int, n_taps: int) -> int:
    """Return the number of patches in a sample that tells a first kernel."""
    affordable = SAMPLE_WORK * n_pixels / n_taps**2
    return int(min(n_pixels, max(4 * n_taps, min(SAMPLE * n_taps, affordable))))


class Survey(NamedTuple):
    """What the weights of some pairs look like."""

    usual: tuple[float, ...]  # for each pair, or volume, the weight that most of its pixels have
    #: subtract, patches: costs of the two exact ways
    subtract: patches.Costs
    patches: patches.Costs


def survey(items: Items) -> Survey:
    """Look at a sample of rows of the weights."""
    usual, looked_at = [], []
    total: dict[str, list[patches.Costs]] = {"subtract": [], "patches": []}
    for lot in lots_of(items):
        samples = []
        for at in lot:
            n_rows = items[at].weights.shape[0]
            rows = np.unique(np.linspace(0, n_rows - 1, min(n_rows, max(4, _ROWS // len(lot)))).astype(int))
            samples.append((items[at], rows, items[at].weights[rows]))
        alike = all(some.dtype == np.bool_ for _, _, some in samples)
        common = 1.0 if alike else _most_common(np.concatenate([some for _, _, some in samples]))
        usual.append(common)
        looked_at += [(*sample, common) for sample in samples]
    for item, rows, some, common in looked_at:
        n_rows = item.weights.shape[0]
        part = polyphase.split(item.observation)
        for name, base in (("subtract", common), ("patches", 0.0)):
            values = some.astype(np.float64) - base
            # where nearly every weight differs there are no runs worth finding
            dense = np.count_nonzero(values[:, 1:] != values[:, :-1]) > 0.5 * values.size
            lengths = np.ones(np.count_nonzero(values), dtype=np.int64) if dense else patches.Runs.of(values).lengths
            found = patches.costs([lengths], part.geometry.kernel_shape, len(part.sources))
            total[name].append(patches.Costs(*(f * n_rows / len(rows) for f in found)))
    sums = {name: patches.Costs(*(sum(f) for f in zip(*found, strict=True))) for name, found in total.items()}
    return Survey(tuple(usual), sums["subtract"], sums["patches"])


def _most_common(weights: Array) -> float:
    """Return the weight that most pixels have that have one; the median of them, if it is one at all."""
    positive = weights[weights > 0]
    return float(np.sort(positive)[len(positive) // 2]) if positive.size else 1.0


class TargetSums(NamedTuple):
    """``y'Wy``, the weighted sum of y, the sum of the weights, and the number of pixels that have one."""

    energy: float
    total: float | complex
    weight: float
    n_pixels: int


def target_sums(items: Items, workers: int) -> TargetSums:
    """Add up the target's pixels and their weights."""

    def band(item: WeightedObservation, row: int, height: int) -> tuple[Array, ...]:
        y = item.observation.targets[0].block(row, 0, (height, item.weights.shape[1]))
        weights = item.weights[row : row + height]
        weighted = y * weights
        energy = float(np.einsum("ij,ij->", weighted, y))
        total = [0.0, weighted.sum()] if item.observation.imaginary else [weighted.sum(), 0.0]
        return (np.array([energy, weights.sum(), *total], dtype=np.float64),)

    work = [(item, row, height) for item in items for row, height in _strips(item.weights.shape)]
    energy, weight, real, imaginary = add(in_order(work, lambda w: band(*w), workers))[0].tolist()
    total = complex(real, imaginary) if items[0].observation.geometry.convention.apart else real
    return TargetSums(energy, total, weight, sum(item.n_pixels for item in items))


def _strips(shape: Shape) -> Iterator[tuple[int, int]]:
    """Cut rows into strips that stay in the cache: first row, number of rows."""
    height = max(1, 2**16 // shape[1])
    for row in range(0, shape[0], height):
        yield row, min(height, shape[0] - row)


def require_determined(items: Items) -> int:
    """Refuse weights that leave fewer pixels than taps; return the number of pixels left."""
    n = sum(item.n_pixels for item in items)
    sides = items[0].observation.supports[0]
    taps = items[0].n_taps
    terms = n_unknowns(items) - taps
    if n < taps + terms:
        whole = sum(item.observation.geometry.n_pixels for item in items)
        beside = f" and {terms} coefficients of the background" if terms else ""
        raise ValueError(
            f"got a mask or weights that leave {n} of {whole} target pixels, need at least {taps + terms} for the "
            f"{'x'.join(map(str, sides))} kernel{beside}; ask for a smaller shape, or exclude less"
        )
    return n


class Unweighted(NamedTuple):
    """The statistics of pairs as if every pixel counted the same, but for the moment."""

    #: for each pair, or volume, the Gram matrix over its unknowns, excluded pixels of the images read as zero
    grams: tuple[Array, ...]
    moment: Array  # ``A'Wy`` of all pairs
    sums: TargetSums  # weighted


def unweighted(items: Items, method: str, workers: int, progress: Progress | None = None) -> Unweighted:
    """Read the pixels once, for the unweighted Gram matrices and the weighted moment."""
    grams, moments, found = [], [], []
    for lot in lots_of(items):
        own = [items[at] for at in lot]
        gram, moment, stats = _alike(own, [times_weights(item) for item in own], method, workers, progress)
        grams.append(gram)
        moments.append(moment)
        found.append(stats)
    if all(item.weights.dtype == np.bool_ for item in items):
        n = sum(item.n_pixels for item in items)
        energy, total = sum(s.target_energy for s in found), sum(s.target_sum for s in found)
        sums = TargetSums(energy, total, float(n), n)
    else:
        sums = target_sums(items, workers)
    return Unweighted(tuple(grams), together(items, moments), sums)


def alike(items: Items, method: str, workers: int, progress: Progress | None = None) -> list[tuple[Array, Array]]:
    """Return Gram matrix and moment of each pair, or volume, over its unknowns as if every pixel counted the same."""
    found = []
    for lot in lots_of(items):
        own = [items[at] for at in lot]
        found.append(_alike(own, [item.observation for item in own], method, workers, progress)[:2])
    return found


def _alike(
    items: Items, scaled: Sequence[Observation], method: str, workers: int, progress: Progress | None
) -> tuple[Array, Array, NormalEquations]:
    """Return Gram matrix and moment of a lot, its targets perhaps scaled, and the statistics of its taps."""
    stats, *terms = accumulation.of_lot([with_terms(one) for one in scaled], method, workers, progress)
    cross, m = [one.moment for one in terms], items[0].n_taps
    gram = bordered(items[0], stats.gram, cross)
    for item in items[1:]:
        if item.columns is not None:
            gram[m:, m:] += item.columns.gram()
    beside = sum((_products(item, one) for item, one in zip(items, scaled, strict=True)), np.zeros(items[0].n_terms))
    return gram, np.concatenate([stats.moment, beside]), stats


def subtracted(items: Items, grams: Sequence[Array], usual: Sequence[float], workers: int) -> Array:
    """Return the exact weighted Gram matrix, from the unweighted ones and the patches whose weight differs."""
    parts, taps = [], items[0].n_taps
    for lot, whole, weight in zip(lots_of(items), grams, usual, strict=True):
        total = weight * whole
        total[taps:, taps:] = 0.0  # that of the terms alone is known without a difference
        for item in (items[at] for at in lot):
            terms = dataclasses.replace(item.observation, targets=surface_readers(item.observation))
            found = patches.sums(terms, item.weights, weight, with_moment=item.n_terms > 0, workers=workers)
            total += bordered(item, found.gram, list(found.moment), item.weights)
        parts.append(total)
    return together(items, parts)


def accumulated(items: Items, workers: int) -> tuple[Array, Array, TargetSums]:
    """Return the exact Gram matrix, moment and sums, from the patches of all pixels that have a weight."""
    sums = target_sums(items, workers)
    moments = []

    def each() -> Iterator[Array]:
        for item in items:
            found = patches.sums(with_terms(item.observation), item.weights, with_moment=True, workers=workers)
            moments.append(np.concatenate([found.moment[0], _products(item, times_weights(item))]))
            yield bordered(item, found.gram, list(found.moment[1:]), item.weights)

    gram = together(items, of_lots(items, each()))
    return gram, together(items, of_lots(items, moments)), sums


def border(items: Items, workers: int) -> Array:
    """Return the exact weighted Gram matrix over all unknowns, but zeros for that of the taps alone."""
    parts = []
    for item in items:
        terms = dataclasses.replace(item.observation, targets=weighed(surface_readers(item.observation), item.weights))
        costs = pass_ns(terms.geometry.kernel_shape)
        nothing = np.zeros((item.n_terms, len(terms.sources), *terms.geometry.kernel_shape))
        moments, _ = accumulation.residual_moments(terms, nothing, min(costs, key=costs.__getitem__), workers)
        parts.append(bordered(item, np.zeros((item.n_taps,) * 2), list(moments), item.weights))
    return together(items, of_lots(items, parts))


def with_terms(observation: Observation) -> Observation:
    """Return a problem whose targets are followed by the terms of the background."""
    return dataclasses.replace(observation, targets=observation.targets + surface_readers(observation))


def bordered(item: WeightedObservation, gram: Array, cross: Sequence[Array], weights: Weights | None = None) -> Array:
    """Return the Gram matrix over a pair's unknowns, given that of the taps and the moments of the terms."""
    if item.columns is None:
        return gram
    beside = np.stack(cross, axis=1)
    return np.block([[gram, beside], [beside.T, item.columns.gram(weights)]])


def _products(item: WeightedObservation, scaled: Observation) -> Array:
    """Return the products of the target, times its weights, with the background's terms."""
    if item.columns is None:
        return np.zeros(0)
    cols, total = item.observation.size[1], np.zeros(item.columns.n)
    for row, height in _strips(item.observation.size):
        total += item.columns.products(scaled.targets[0].block(row, 0, (height, cols)), row, 0)
    return total


def _of_taps(item: WeightedObservation, gram: Array, moment: Array, sums: TargetSums) -> NormalEquations:
    """Return the part of the sums over all unknowns that is the kernel's."""
    taps = item.n_taps
    return NormalEquations(
        gram=np.ascontiguousarray(gram[:taps, :taps]),
        moment=np.ascontiguousarray(moment[:taps]),
        target_energy=sums.energy,
        target_sum=sums.total,
        n_pixels=sums.n_pixels,
        supports=item.observation.supports,
        convention=item.observation.convention,
        weight_sum=None if sums.weight == sums.n_pixels else sums.weight,
    )


def assembled(
    items: Items, gram: Array, moment: Array, sums: TargetSums
) -> tuple[NormalEquations, tuple[Elimination, ...]]:
    """Put sums together as statistics of the kernel; return them, and what gives the background of each pair."""
    stats, taps = _of_taps(items[0], gram, moment, sums), items[0].n_taps
    if not items[0].n_terms:
        return stats, ()
    trace, eliminations = float(np.trace(stats.gram)), []
    for i in range(len(lots_of(items))):
        own = own_unknowns(items, i)[taps:]
        eliminations.append(Elimination.of(gram[:taps, own], gram[np.ix_(own, own)], moment[None, own]))
        stats = eliminations[-1].reduced([stats], moment[None, own])[0]
    return without_rounding([stats], trace)[0], tuple(eliminations)


def recentered(
    items: Items, eliminations: Sequence[Elimination], at: Array, here: Residual
) -> tuple[Array, Array, float]:
    """Return what statistics are to be centred at for these unknowns; the eliminations take them over."""
    n_taps = items[0].n_taps
    taps, moment, energy = at[None, :n_taps], here.moment[None, :n_taps], np.array([here.energy])
    for i, elimination in enumerate(eliminations):
        own = own_unknowns(items, i)[n_taps:]
        elimination.taps, elimination.coefficients = taps, at[None, own]
        moment, energy = elimination.recentered(taps, moment, energy, here.moment[None, own])
    return taps[0], moment[0], float(energy[0])


def statistics(
    items: Items,
    method: str,
    workers: int,
    strategy: str = "auto",
    progress: Progress | None = None,
    *,
    part: bool = False,
) -> NormalEquations:
    """Return the exact weighted statistics of pairs of one target each, by the cheaper way or as asked."""
    # As a `part` of larger pairs they need not determine a kernel. The engine `method` is that of unweighted
    # statistics.
    if not part:
        require_determined(items)
    gram, moment, sums, said = exact_sums(items, method, workers, strategy, progress)
    return dataclasses.replace(assembled(items, gram, moment, sums)[0], weighting=said)


def exact_sums(
    items: Items, method: str, workers: int, strategy: str = "auto", progress: Progress | None = None
) -> tuple[Array, Array, TargetSums, str]:
    """Return Gram matrix and moment over all unknowns, the target's sums, and in words which way it was."""
    seen = survey(items)
    if strategy == "auto":
        n = sum(item.observation.geometry.n_pixels for item in items)
        costs = seen.subtract.nanoseconds, seen.patches.nanoseconds
        strategy = choose_strategy(n, lines(items[0].observation), *costs, exact=True).method
    if strategy == "subtract":
        known = unweighted(items, method, workers, progress)
        gram = subtracted(items, known.grams, seen.usual, workers)
        return gram, known.moment, known.sums, described(strategy, seen)
    return *accumulated(items, workers), described(strategy, seen)


def described(strategy: str, seen: Survey) -> str:
    """Say in words which way the weights were taken into account."""
    costs = seen.subtract if strategy == "subtract" else seen.patches
    n, whole = round(costs.alone + costs.within), round(costs.alone + costs.ends)
    return f"{strategy} ({f'about {n} patches, {whole} multiplied whole' if n else 'hardly any patches'})"


def block_statistics(item: WeightedObservation, method: str, workers: int) -> NormalEquations:
    """Return the statistics of a block, one of many, the background not eliminated."""
    gram, moment, sums, said = exact_sums([item], method, workers)
    taps, surface = item.n_taps, None
    if item.n_terms:
        whole = item.observation.whole
        surface = SurfaceSums(gram[:taps, taps:].copy(), gram[taps:, taps:].copy(), moment[taps:].copy(), whole)
    stats = _of_taps(item, gram, moment, sums)
    return dataclasses.replace(stats, weighting=said.partition(" ")[0], surface=surface)
