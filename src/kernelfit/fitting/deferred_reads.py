"""A look at the residual of a fit whose pixels are elsewhere: what it takes is noted first, and brought all at once."""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..core.validation import Array
from ..data import blocks
from ..data.masked_blocks import MaskedBlocks
from ..data.masking import hull
from ..data.observation import Observation
from ..data.reader import Reader


def with_deferred_reads(
    observations: Sequence[Observation],
    masked: Sequence[MaskedBlocks | None],
    totals: Sequence[float],
    share: float,
    dask: tuple[Callable[..., Sequence[Any]], Callable[[Any], Any]],
    work: Callable[[Sequence[Observation], Sequence[Any] | None, bool], Any],
) -> Any:
    """Return what `work` makes of observations of one target whose pixels are elsewhere."""
    # It is called twice, with the observations, their weights (None if all pixels count alike), and whether the pixels
    # are here: the first time they read as zero, which tells what has to be brought, all of it at once. `totals`: the
    # sum of the weights of each. `share`: how many of the pixels count. `dask`: what returns the pixels of any number
    # of slices, and what returns the Dask array behind an array.
    reads: dict[int, _Deferred] = {}
    compute, source = dask

    def seen(readers: Sequence[Reader]) -> tuple[Reader, ...]:
        for r in readers:
            if id(r.array) not in reads:
                reads[id(r.array)] = _Deferred(r.array, source(r.array), late=observations[0].plane is not None)
        return tuple(dataclasses.replace(r, array=reads[id(r.array)]) for r in readers)

    own: list[Observation] = []
    weights: list[Any] = []
    for observation, boxed, total in zip(observations, masked, totals, strict=True):
        one = dataclasses.replace(observation, sources=seen(observation.sources), targets=seen(observation.targets))
        if boxed is None:
            weights.append(np.broadcast_to(np.True_, one.size))
        else:
            boxed = dataclasses.replace(boxed, observation=one, masks=seen(boxed.masks), weights=seen(boxed.weights))
            boxed = dataclasses.replace(boxed, image_masks=tuple(seen(masks) for masks in boxed.image_masks))
            weights.append(_Weights(boxed, total, share))
            sources = tuple(
                dataclasses.replace(s, array=_Cleaned(s.array, [m.array for m in masks], boxed.nan == "mask"))
                for s, masks in zip(one.sources, boxed.image_masks, strict=True)
            )
            one = dataclasses.replace(one, sources=sources)
        own.append(one)
    given = weights if any(boxed is not None for boxed in masked) else None
    with np.errstate(all="ignore"), contextlib.suppress(ArithmeticError):  # the answer to zeros is of no use
        work(own, given, False)
    asked = [(read, place) for read in reads.values() for place in read.slices]
    brought = compute(*(read.slices[place] for read, place in asked))
    for (read, place), pixels in zip(asked, brought, strict=True):
        read.slices[place] = np.asarray(pixels)
    for read in reads.values():
        read.here = True
    return work(own, given, True)


class _Deferred:
    """An array of which a few slices are read on this side: noted while it reads as zero, and brought all at once."""

    def __init__(self, array: Any, source: Any, *, late: bool) -> None:
        self.array, self.source = array, source
        self.late = array if late else source  # planes keep the chunks that they share
        self.shape, self.dtype = source.shape, source.dtype
        self.slices: dict[tuple[int, int, int, int], Any] = {}
        self.here = False

    def __getitem__(self, key: tuple[slice, slice]) -> npt.NDArray[Any]:
        (top, bottom, _), (left, right, _) = (k.indices(n) for k, n in zip(key, self.shape, strict=True))
        if self.here and (top, bottom, left, right) not in self.slices:
            return np.asarray(self.late[key])
        if not self.here:
            self.slices[top, bottom, left, right] = self.source[top:bottom, left:right]
            return np.zeros((max(0, bottom - top), max(0, right - left)), self.dtype)
        return np.asarray(self.slices[top, bottom, left, right])


class _Cleaned:
    """An image that reads as zero where it is excluded."""

    def __init__(self, image: _Deferred, excluded: Sequence[_Deferred], nan: bool) -> None:
        self.array, self.excluded, self.nan = image, excluded, nan
        self.shape, self.dtype = image.shape, image.dtype

    def __getitem__(self, key: tuple[slice, slice]) -> Array:
        pixels = np.array(self.array[key], dtype=np.float64)
        for mask in self.excluded:
            pixels[mask[key] != 0] = 0.0
        if self.nan:
            pixels[~np.isfinite(pixels)] = 0.0
        return pixels


class _Weights:
    """Weights of the used part of a target, judged where they are looked at."""

    dtype = np.dtype(np.float64)

    def __init__(self, boxed: MaskedBlocks, total: float, share: float) -> None:
        self.boxed, self.total = boxed, total
        self.n_nonzero = round(share * boxed.observation.geometry.n_pixels)
        self.shape = boxed.observation.size

    def __getitem__(self, key: Any) -> npt.NDArray[Any]:
        both = key if isinstance(key, tuple) else (key, slice(None))
        (top, bottom, y), (left, right, x) = (hull(k, n) for k, n in zip(both, self.shape, strict=True))
        item = self.boxed.item(blocks.Box(top, left, bottom - top, right - left))
        whole = np.ones((bottom - top, right - left), dtype=bool) if item is None else item.weights[:]
        return np.asarray(np.asarray(whole)[y, x])

    def __len__(self) -> int:
        return int(self.shape[0])

    def sum(self) -> float:
        return self.total
