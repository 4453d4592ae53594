"""One reading for both parts of complex images, whose sums are the same ones in another order.

With image ``A + iB`` and kernel ``p + iq`` the real part of the target is made of the sources ``(A, -B)`` by the
kernels (p, q), the imaginary part of ``(B, A)``. So the sums of the sources (A, B) with both targets are all there is.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from ..compiled.threads import Progress
from ..core.normal_equations import NormalEquations, added
from ..core.validation import Array
from ..data.complex_parts import Part
from ..data.observation import Observation, surface_readers
from . import accumulation

Both = Sequence[Observation]


def statistics(
    both: Both, method: str, workers: int, progress: Progress | None = None
) -> list[tuple[Observation, list[NormalEquations]]]:
    """Return the observations of the two parts with the statistics of their targets and of their backgrounds' terms.

    Without a background those of the real part are those of both, and of the imaginary part there are none.
    """
    observation, terms = _together(both), surface_readers(both[0])
    wide = dataclasses.replace(observation, targets=observation.targets + terms)
    every = accumulation.statistics(wide, method, workers, progress)
    n, taps = len(both[0].targets), both[0].geometry.n_taps * len(both[0].sources)
    gram, whole, found = every[0].gram, None if terms else _sum_of_both(every[0].gram, taps), []
    for imaginary, part in enumerate(both):
        own = _turned(gram, taps, imaginary) if whole is None else whole
        stats = [
            dataclasses.replace(
                one,
                gram=own,
                moment=_taken(_padded(one.moment, taps), imaginary),
                target_sum=one.target_sum * part.unit,
                supports=part.supports,
            )
            for one in every[imaginary * n : (imaginary + 1) * n] + every[2 * n :]
        ]
        found.append((part, stats))
    if whole is None:
        return found
    (real, those), (other, others) = found
    return [(real, added(those, others, whole)), (other, [])]


def residual_moments(
    both: Both, kernels: Array, surfaces: Sequence[Array], method: str, workers: int, progress: Progress | None = None
) -> list[tuple[Array, Array]]:
    """Return what `accumulation.residual_moments` does for both parts, with `surfaces` beside the kernels of each."""
    observation, n = _together(both), len(kernels)
    terms = surface_readers(both[0], both[0].geometry.stride) if surfaces else ()
    wide = dataclasses.replace(observation, sources=observation.sources + terms)
    known, sides = len(observation.sources), kernels.shape[2:]
    rows = np.moveaxis(kernels, 1, -1)  # each of the two exchanges is its own inverse
    own = [np.moveaxis(_taken(rows, imaginary), -1, 1)[:, :known] for imaginary in (0, 1)]
    if surfaces:
        own = [np.concatenate(pair, axis=1) for pair in zip(own, surfaces, strict=True)]
    moments, energies = accumulation.residual_moments(wide, np.concatenate(own), method, workers, progress)
    table = moments.reshape(2, n, -1, *sides)
    found = []
    for imaginary, (part, energy) in enumerate(zip(table, energies.reshape(2, n), strict=True)):
        sums = _taken(_padded(part[:, :known].reshape(n, -1), kernels[0].size), imaginary)
        found.append((np.concatenate([sums, part[:, known:].reshape(n, -1)], axis=1), energy))
    return found


def _together(both: Both) -> Observation:
    """Return the observation of both: the targets of either, and as sources the real parts, then those not zero."""
    real, other = both
    n = len(real.sources) // 2
    sources = real.sources[:n] + other.sources[:n]
    if all(isinstance(reader.array, Part) and reader.array.blank for reader in other.sources[:n]):
        sources = sources[:n]
    plane = real.plane
    if plane is not None:
        plane = dataclasses.replace(plane, n_channels=plane.n_channels // (2 * n // len(sources)))
    return dataclasses.replace(real, sources=sources, targets=real.targets + other.targets, plane=plane)


def _padded(sums: Array, n: int) -> Array:
    """Return sums with zeros for what is zero, along the last axis."""
    return np.concatenate([sums, np.zeros((*sums.shape[:-1], n - sums.shape[-1]))], axis=-1)


def _sum_of_both(gram: Array, n: int) -> Array:
    """Return the sum of what `_turned` makes of either part."""
    m, whole = n // 2, np.zeros((n, n))
    first, second = whole[:m], whole[m:]
    if len(gram) == m:
        first[:, :m] = second[:, m:] = gram
        return whole
    np.add(gram[:m, :m], gram[m:, m:], out=first[:, :m])
    np.subtract(gram[m:, :m], gram[:m, m:], out=first[:, m:])
    second[:, m:] = first[:, :m]
    np.negative(first[:, m:], out=second[:, :m])
    return whole


def _turned(gram: Array, n: int, imaginary: int) -> Array:
    """Return a Gram matrix of (A, B), or of A where B is zero, as that of one part's sources."""
    m, own = n // 2, np.empty((n, n))
    first, second = slice(0, m), slice(m, n)
    x, y = (second, first) if imaginary else (first, second)
    own[x, x] = gram[:m, :m]
    for at, of in (((y, y), (second, second)), ((x, y), (first, second)), ((y, x), (second, first))):
        block = gram[of]
        if not block.size:
            own[at] = 0.0
        elif at[0] == at[1] or imaginary:
            own[at] = block
        else:
            np.negative(block, out=own[at])
    return own


def _taken(values: Array, imaginary: int) -> Array:
    """Return sums of the real and of the imaginary parts, along the last axis, as those of one part's sources."""
    first, second = np.split(values, 2, axis=-1)
    return np.concatenate([second, first] if imaginary else [first, -second], axis=-1)
