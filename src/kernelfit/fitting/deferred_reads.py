"""A look at the residual of a fit whose pixels are elsewhere: what it takes is noted first, and brought all at once."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..core.estimate import Estimate
from ..core.normal_equations import NormalEquations
from ..core.validation import Array
from ..data import blocks, chunked
from ..data.masked_blocks import MaskedBlocks
from ..data.observation import Observation
from ..data.reader import Reader
from ..diagnostics import boundary, quantization, whiteness


def looked_at(
    observation: Observation,
    boxed: MaskedBlocks | None,
    fit: Estimate,
    stats: NormalEquations,
    compute: Callable[..., Sequence[Any]],
) -> Estimate:
    """Return the fit with what a few pixels say of its noise, its boundary, and an integer target.

    `compute` is Dask's: it returns the pixels of any number of slices.
    """
    glimpses: dict[int, _Glimpse] = {}

    def seen(readers: Sequence[Reader]) -> tuple[Reader, ...]:
        return tuple(dataclasses.replace(r, array=glimpses.setdefault(id(r.array), _Glimpse(r.array))) for r in readers)

    observation = dataclasses.replace(observation, sources=seen(observation.sources), targets=seen(observation.targets))
    weights: Any = None
    if boxed is not None and (stats.n_pixels < observation.geometry.n_pixels or boxed.more):
        boxed = dataclasses.replace(
            boxed,
            observation=observation,
            masks=seen(boxed.masks),
            weights=seen(boxed.weights),
            image_masks=tuple(seen(masks) for masks in boxed.image_masks),
        )
        weights = _Weights(boxed, stats.total_weight)
        image = _Cleaned(observation.sources[0].array, [r.array for r in boxed.image_masks[0]], boxed.nan == "mask")
        observation = dataclasses.replace(
            observation, sources=(dataclasses.replace(observation.sources[0], array=image),)
        )
    fit = dataclasses.replace(fit, weights=weights)

    def look() -> Estimate:
        found = whiteness.look([observation], fit, None if weights is None else [weights])
        return boundary.doubt([observation], [found])[0]

    look()  # at nothing: to know what has to be brought
    asked = [(glimpse, place) for glimpse in glimpses.values() for place in glimpse.slices]
    brought = compute(*(glimpse.slices[place] for glimpse, place in asked))
    for (glimpse, place), pixels in zip(asked, brought, strict=True):
        glimpse.slices[place] = np.asarray(pixels)
    for glimpse in glimpses.values():
        glimpse.here = True
    found = quantization.judged(look(), [observation], 0, 1)
    return dataclasses.replace(found, weights=None)


class _Glimpse:
    """An array of which a few slices are read on this side: noted while it reads as zero, and brought all at once."""

    def __init__(self, array: Any) -> None:
        self.array = array.array if isinstance(array, chunked.Chunked) else array
        self.shape, self.dtype = array.shape, array.dtype
        self.slices: dict[tuple[int, int, int, int], Any] = {}
        self.here = False

    def __getitem__(self, key: tuple[slice, slice]) -> npt.NDArray[Any]:
        (top, bottom, _), (left, right, _) = (k.indices(n) for k, n in zip(key, self.shape, strict=True))
        if self.here and (top, bottom, left, right) not in self.slices:
            return np.asarray(self.array[key])
        if not self.here:
            self.slices[top, bottom, left, right] = self.array[top:bottom, left:right]
            return np.zeros((max(0, bottom - top), max(0, right - left)), self.dtype)
        return np.asarray(self.slices[top, bottom, left, right])


class _Cleaned:
    """An image that reads as zero where it is excluded."""

    def __init__(self, image: _Glimpse, excluded: Sequence[_Glimpse], nan: bool) -> None:
        self.image, self.excluded, self.nan = image, excluded, nan
        self.shape, self.dtype = image.shape, image.dtype

    def __getitem__(self, key: tuple[slice, slice]) -> Array:
        pixels = np.array(self.image[key], dtype=np.float64)
        for mask in self.excluded:
            pixels[mask[key] != 0] = 0.0
        if self.nan:
            pixels[~np.isfinite(pixels)] = 0.0
        return pixels


class _Weights:
    """Weights of the used part of a target, judged where they are looked at."""

    def __init__(self, boxed: MaskedBlocks, total: float) -> None:
        self.boxed, self.total = boxed, total
        self.shape = boxed.observation.size

    def __getitem__(self, key: tuple[slice, slice]) -> npt.NDArray[Any]:
        (top, bottom, _), (left, right, _) = (k.indices(n) for k, n in zip(key, self.shape, strict=True))
        item = self.boxed.item(blocks.Box(top, left, bottom - top, right - left))
        return np.ones((bottom - top, right - left), dtype=bool) if item is None else np.asarray(item.weights[:])

    def sum(self) -> float:
        return self.total
