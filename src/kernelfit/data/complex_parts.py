"""Complex images as pairs of real ones: the real and the imaginary parts of the target, each of both of the image."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .observation import Observation
from .reader import Reader


class Part:
    """The real or the imaginary part of an array that can be sliced, perhaps with the other sign."""

    # `strict`: not a number where the other part is none, or infinite.

    def __init__(self, whole: Any, *, imaginary: bool, negative: bool = False, strict: bool = False) -> None:
        self.whole, self.imaginary, self.negative, self.strict = whole, imaginary, negative, strict
        self.shape, self.blank = whole.shape, imaginary and np.dtype(whole.dtype).kind != "c"
        self.dtype = np.zeros(0, dtype=whole.dtype).real.dtype

    def __getitem__(self, key: Any) -> npt.NDArray[Any]:
        return np.asarray(self._part(np.asarray(self.whole[key])))

    def _part(self, block: Any) -> Any:
        part = block.imag if self.imaginary else block.real
        part = -part.astype(np.float64) if self.negative else part
        return np.where(np.isfinite(block), part, np.nan) if self.strict else part

    def of(self, whole: Any) -> Any:
        """Return the same part of another array: one like it, if it has parts, otherwise what reads it."""
        if hasattr(whole, "real"):
            return self._part(whole)
        return Part(whole, imaginary=self.imaginary, negative=self.negative, strict=self.strict)

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.asarray(self[:, :], dtype=dtype)


def parts_of(images: Sequence[Sequence[Any]], imaginary: bool, *, real: bool) -> list[list[Any]]:  # noqa: FBT001
    """Return the planes of which one part of the target is made, given those of each image; see `apart`."""
    kinds = [(imaginary, False), (not imaginary, not imaginary)][: 1 if real else 2]
    return [[Part(plane, imaginary=i, negative=n) for plane in image] for i, n in kinds for image in images]


def whole_of(array: Any) -> Any:
    """Return the complex array of which another, masked perhaps, is a part; None of others."""
    while not isinstance(array, Part) and hasattr(array, "array"):
        array = array.array
    return array.whole if isinstance(array, Part) else None


def is_imaginary(array: Any) -> bool:
    """Say whether an array, masked perhaps, is an imaginary part."""
    while not isinstance(array, Part) and hasattr(array, "array"):
        array = array.array
    return isinstance(array, Part) and array.imaginary


def apart(observation: Observation, *, real: bool, strict: bool) -> list[Observation]:
    """Return the observations of real and imaginary parts of complex images; a `real` kernel has but one part."""
    # The kernels of the real parts of all sources come first, then those of the imaginary parts. Of a plane each part
    # is one of a volume of its own.
    words: dict[str, Any] = {"numbers": "real of complex" if real else "complex", "apart": True}
    conv = dataclasses.replace(observation.geometry.convention, **words)
    geometry = dataclasses.replace(observation.geometry, convention=conv)

    def part(readers: Sequence[Reader], imaginary: bool, negative: bool = False) -> tuple[Reader, ...]:
        arrays = [Part(reader.array, imaginary=imaginary, negative=negative, strict=strict) for reader in readers]
        beyond = [0.0 if imaginary else reader.fillvalue for reader in readers]
        both = zip(readers, arrays, beyond, strict=True)
        return tuple(dataclasses.replace(reader, array=a, fillvalue=f) for reader, a, f in both)

    found = []
    for imaginary in (False, True):
        sources = part(observation.sources, imaginary)
        if not real:
            sources += part(observation.sources, not imaginary, negative=not imaginary)
        own: dict[str, Any] = {"sources": sources, "targets": part(observation.targets, imaginary)}
        if (plane := observation.plane) is not None:
            own["plane"] = dataclasses.replace(
                plane,
                volume=2 * plane.volume + imaginary,
                convention=dataclasses.replace(plane.convention, **words),
                n_channels=plane.n_channels * (1 if real else 2),
            )
        found.append(dataclasses.replace(observation, geometry=geometry, imaginary=imaginary, **own))
    return found
