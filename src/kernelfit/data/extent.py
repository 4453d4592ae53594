"""The pixels of a pair along all of its axes: rows and columns, or of the observations of a volume planes as well."""

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.validation import Array
from .observation import Observation, Weights, lots
from .reader import Reader

Sides = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Extent:
    """A pair, or all target planes of a volume that are used, as one array of two or three axes."""

    observations: tuple[Observation, ...]

    @classmethod
    def each(cls, observations: Sequence[Observation]) -> list["Extent"]:
        """Return that of each pair or volume."""
        return [cls(tuple(observations[i] for i in lot)) for lot in lots(observations)]

    @property
    def first(self) -> Observation:
        """The pair, or the first plane."""
        return self.observations[0]

    @property
    def size(self) -> Sides:
        """Target pixels used along each axis."""
        return self.first.size if self.first.plane is None else (len(self.observations), *self.first.size)

    @property
    def kernel(self) -> Sides:
        """Sides of a source's kernel."""
        sides: Sides = self.first.supports[0]
        return sides

    @property
    def stride(self) -> Sides:
        """Pixels of the image from one pixel of the target to the next."""
        return self.first.convention.stride

    @property
    def extended(self) -> Sides:
        """Shape of the extended image."""
        return tuple(s * (n - 1) + k for s, n, k in zip(self.stride, self.size, self.kernel, strict=True))

    @property
    def n_sources(self) -> int:
        """Number of images; a volume is one."""
        return len(self.first.supports)

    @functools.cached_property
    def planes(self) -> list[list[Reader | None]]:
        """The extended planes of each source of a volume; None where a stride leaves one out."""
        depth, step, found = self.kernel[0], self.stride[0], []
        for source in range(self.n_sources):
            own: list[Reader | None] = [None] * self.extended[0]
            for at, one in enumerate(self.observations):
                some = one.sources[source * depth : (source + 1) * depth]
                own[at * step : at * step + depth] = some[::-1] if one.geometry.flipped else some
            found.append(own)
        return found

    def block(self, start: Sequence[int], shape: Sequence[int]) -> Array:
        """Return a part of the extended images, shape (sources, ...)."""
        if self.first.plane is None:
            corner, side = (start[0], start[1]), (shape[0], shape[1])
            return np.stack([one.block(*corner, side) for one in self.first.sources])
        out = np.zeros((self.n_sources, *shape))
        for own, planes in zip(out, self.planes, strict=True):
            for at, reader in enumerate(planes[start[0] : start[0] + shape[0]]):
                if reader is not None:
                    reader.read(own[at], start[1], start[2])
        return out

    def weights(self, given: Sequence[Weights], part: Sequence[slice]) -> Array:
        """Return a part of the weights, given those of each observation."""
        if self.first.plane is None:
            return np.asarray(given[0][part[0], part[1]], dtype=np.float64)
        return np.stack([np.asarray(one[part[1], part[2]], dtype=np.float64) for one in given[part[0]]])

    def surface(self, coefficients: Array, part: Sequence[slice]) -> Array:
        """Return a part of a background."""
        if self.first.plane is None:
            return self.first.columns.surface(coefficients, part[0], part[1])
        planes = self.observations[part[0]]
        return np.stack([one.columns.surface(coefficients, part[1], part[2]) for one in planes])

    def taps(self) -> Iterator[tuple[int, ...]]:
        """Yield (source, place of a tap along each axis of the valid problem), in the order of the user's taps."""
        for source, *at in itertools.product(range(self.n_sources), *map(range, self.kernel)):
            turned = [k - 1 - a for k, a in zip(self.kernel, at, strict=True)]
            yield source, *(turned if self.first.geometry.flipped else at)


def runs(observations: Sequence[Observation], most: int, length: int) -> list[list[int]]:
    """Return runs of neighbouring planes of volumes, of some length at most; of pairs and samples each alone."""
    if observations[0].plane is None:
        return [[i] for i in range(len(observations))]
    whole: list[list[int]] = []
    for i, one in enumerate(observations):
        if whole and _follows(observations[whole[-1][-1]], one):
            whole[-1].append(i)
        else:
            whole.append([i])
    found: list[list[int]] = []
    for lot in whole:
        side = min(length, len(lot))
        count = max(1, min(len(lot) // side, most // len(whole)))
        starts: Any = (int((len(lot) - side) * (i + 0.5) / count) for i in range(count))
        found += [lot[start : start + side] for start in starts]
    return found


def neighbours(observations: Sequence[Observation]) -> bool:
    """Say whether planes are those of one part of a volume, none left out."""
    return all(_follows(one, other) for one, other in itertools.pairwise(observations))


def _follows(one: Observation, other: Observation) -> bool:
    """Say whether a plane is the next of a volume, of the same part."""
    if one.plane is None or other.plane is None:
        return False
    near = one.plane.volume == other.plane.volume and one.plane.at + 1 == other.plane.at
    return near and one.size == other.size and one.surface_frame == other.surface_frame
