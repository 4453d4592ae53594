"""Normal equations whose Gram matrix is an operator, never an array.

Of one source image and pixels that all count once the operator is a product of spectra. With weights, a background,
several sources or a stride, and of volumes, it is a pass over the pixels.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from ..compiled.threads import Progress, add
from ..core.background import Elimination
from ..core.geometry import Convention
from ..core.validation import Array
from ..data.extent import Extent
from ..data.masking import weighed
from ..data.observation import Items, WeightedObservation, lots_of, n_unknowns, surface_readers
from ..data.reader import Reader
from ..engines import accumulation, voxel_pass, weighted
from ..engines.implicit_gram import NormalOperator, ToeplitzInverse, TorusInverse
from ..engines.passes import Frame
from ..engines.voxel_pass import Turned
from ..engines.weighted_pass import WeightedGram, mapped, residual

#: The lag sums of the sources of each pair.
Lags = tuple[Array, ...]


@dataclass(frozen=True, eq=False)
class ImplicitEquations:
    """The normal equations of one target, the Gram matrix an operator; a background is eliminated."""

    gram: Callable[[Array], Array]  # the Gram matrix G times a vector
    inverse: TorusInverse | ToeplitzInverse  # its inverse, or about that
    frame: Frame | Turned  # of the first observation, in which `inverse` works
    shape: tuple[int, ...]  # sources, and sides of a kernel
    convention: Convention
    #: target_energy, variance: ``y'Wy``, and the same about the mean
    target_energy: float
    variance: float
    n_pixels: int  # number of equations, less what the background takes
    #: center, moment, energy: a kernel c, ``A'W(y - A c)`` and the energy of its residual, as in `NormalEquations`
    center: Array
    moment: Array
    energy: float
    weighting: str = ""

    @property
    def n_taps(self) -> int:
        """Number of unknowns."""
        return len(self.moment)

    @property
    def spread(self) -> float:
        """About the mean of the diagonal of the inverse, were there many more pixels than taps."""
        return float(self.frame.to_user(self.inverse.diagonal()).mean())

    def precondition(self, taps: Array) -> Array:
        """Return about the inverse of the Gram matrix times the taps."""
        return np.asarray(self.frame.to_user(self.inverse(self.frame.from_user(taps.reshape(self.shape)))).ravel())

    def around(self) -> tuple[Array, Array, float]:
        """Return the center c, ``A'W(y - A c)`` and the residual's energy there."""
        return self.center, self.moment, self.energy

    def centered(self, center: Array, moment: Array, energy: float) -> Self:
        """Return the same equations with what the pixels say of the residual of `center`."""
        return dataclasses.replace(self, center=np.array(center), moment=np.array(moment), energy=energy)


def read(
    items: Items, method: str, workers: int, progress: Progress | None, lags: Lags | None
) -> tuple[ImplicitEquations, tuple[Elimination, ...], Lags | None]:
    """Read the pixels; return the equations, centred at zero, what gives the backgrounds, and the lag sums."""
    first = items[0].observation
    frame: Frame | Turned = Frame.of(first) if first.plane is None else Turned(first.geometry.flipped)
    shape = (len(first.supports), *first.supports[0])
    laid = frame, shape, first.convention
    n_pixels = sum(item.n_pixels for item in items)
    even = all(_even(item) for item in items)
    parts = 2 if first.convention.apart else 1
    if (
        even
        and isinstance(frame, Frame)
        and shape[0] == 1
        and not frame.plan.convention.strided
        and not items[0].n_terms
    ):
        sums = [
            accumulation.pass_over(o, Frame.of(o), "fft", workers, None, progress)[0]
            for o in (item.observation for item in items)
        ]
        operators = [
            NormalOperator(Frame.of(item.observation), s.lags[0, 0], workers)
            for item, s in zip(items, sums, strict=True)
        ]

        def products(taps: Array) -> Array:
            (own,) = frame.from_user(taps.reshape(shape))
            return np.asarray(frame.to_user(np.sum([g(own) for g in operators], axis=0)[None]).ravel())

        moment = frame.to_user(np.sum([s.moment[0] for s in sums], axis=0)).ravel()
        energy = float(sum(s.energy[0] for s in sums))
        total = float(abs(sum(s.total[0] * item.observation.unit for s, item in zip(sums, items, strict=True))))
        torus = TorusInverse.of_images(np.sum([s.lags for s in sums], axis=0))
        inverse = ToeplitzInverse.beside_torus(torus, [Frame.of(item.observation) for item in items])
        about_mean, zero = energy - total**2 * parts / n_pixels, np.zeros_like(moment)
        known = ImplicitEquations(products, inverse, *laid, energy, about_mean, n_pixels, zero, moment, energy)
        return known, (), lags
    every = [[items[at] for at in lot] for lot in lots_of(items)]
    eliminations = _eliminations(every, method, workers, progress)
    if lags is None:
        lags = tuple(_lags_of(lot, bool(eliminations), workers, progress) for lot in every)
    mean = np.asarray(sum(_mean(lot) * one for lot, one in zip(every, lags, strict=True)))
    inverse = TorusInverse.of_images(mean) if isinstance(frame, Frame) else TorusInverse(mean)
    whole = WeightedGram(items, method, workers)

    def reduced(taps: Array) -> Array:
        out = whole(taps)
        for e in eliminations:
            out -= e.half @ (e.half.T @ taps)
        return out

    seen = weighted.target_sums(items, workers)
    zero = np.zeros(items[0].n_taps)
    about_mean = seen.energy - abs(seen.total) ** 2 * parts / seen.weight
    n_pixels -= sum(e.rank for e in eliminations)
    said = "" if even else "cg (exact, a pass over the pixels for each iteration)"
    known = ImplicitEquations(reduced, inverse, *laid, seen.energy, about_mean, n_pixels, zero, zero, seen.energy, said)
    left = residual(items, np.zeros(n_unknowns(items)), method, workers, progress)
    known = known.centered(*weighted.recentered(items, eliminations, np.zeros(n_unknowns(items)), left))
    if eliminations:
        blank = not known.energy > 1e-14 * seen.energy  # rounding alone is left
        energy = 0.0 if blank else known.energy
        known = dataclasses.replace(known, target_energy=energy, variance=energy, energy=energy)
    return known, eliminations, lags


def _eliminations(
    lots: Sequence[Items], method: str, workers: int, progress: Progress | None
) -> tuple[Elimination, ...]:
    """Return what takes the background of each pair or volume out, a pass over the pixels."""
    found = []
    for lot in lots if lots[0][0].n_terms else ():
        sums = []
        for item in lot:
            assert item.columns is not None
            terms = dataclasses.replace(
                item.observation, targets=weighed(surface_readers(item.observation), item.weights)
            )
            nothing = np.zeros((item.n_terms, len(terms.sources), *terms.geometry.kernel_shape))
            cross, _ = accumulation.residual_moments(terms, nothing, method, workers, progress)
            sums.append((cross, item.columns.gram(item.weights)))
        cross, gram = add(sums)
        found.append(Elimination.of(cross.T, gram, np.zeros((1, len(gram)))))
    return tuple(found)


def _lags_of(lot: Items, eliminated: bool, workers: int, progress: Progress | None) -> Array:  # noqa: FBT001
    """Return the lag sums of the sources of a pair or volume, about their means if a background takes these up."""
    if lot[0].observation.plane is not None:
        return voxel_pass.lag_sums(Extent(tuple(item.observation for item in lot)), workers, about_mean=eliminated)
    observation = lot[0].observation
    if eliminated:
        observation = dataclasses.replace(observation, sources=tuple(_about_mean(s) for s in observation.sources))
    frame = Frame.of(observation)
    return accumulation.pass_over(observation, frame, "fft", workers, None, progress)[0].lags


def _about_mean(reader: Reader) -> Reader:
    """Return the reader of an image less its mean, that of some rows."""
    n_rows = reader.array.shape[0]
    mean = float(np.mean([np.mean(reader.array[r : r + 1, :]) for r in range(0, n_rows, max(1, n_rows // 256))]))
    return mapped(reader, lambda values: values - mean)


def _even(item: WeightedObservation) -> bool:
    return item.weights.dtype == np.bool_ and item.n_pixels == item.observation.geometry.n_pixels


def _mean(lot: Items) -> float:
    size = sum(item.observation.geometry.n_pixels for item in lot)
    return sum(item.n_pixels if item.weights.dtype == np.bool_ else float(np.sum(item.weights)) for item in lot) / size
