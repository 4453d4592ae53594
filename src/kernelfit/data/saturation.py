"""Image pixels that are saturated, from a value on that is said."""

import functools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from ..core.model import Selection, as_ends
from ..core.validation import as_list
from .masking import Mask, in_type

_MOST = 0.1  # of an image's pixels
_BLOCK = 2**20  # pixels looked at a time


class Saturated:
    """Where an array that is stored is saturated, read when asked for; nowhere, if that is of too many pixels."""

    dtype = np.dtype(bool)

    def __init__(self, array: Any, high: float) -> None:
        self.array, self.high = array, high
        self.shape: tuple[int, ...] = tuple(array.shape)
        self.ndim = len(self.shape)

    def _bands(self) -> "Iterator[tuple[slice, Mask]]":
        """Yield where it is, whole chunks of rows at a time."""
        chunks = getattr(self.array, "chunks", None) or (1,)
        step = max(int(chunks[0]), _BLOCK // max(1, math.prod(self.shape[1:])))
        for at in range(0, self.shape[0], step):
            band = slice(at, min(at + step, self.shape[0]))
            yield band, np.asarray(np.asarray(self.array[(band, *[slice(None)] * (self.ndim - 1))]) >= self.high)

    @functools.cached_property
    def few(self) -> bool:
        """Whether some pixels are saturated, but few."""
        return _few(sum(int(np.count_nonzero(hit)) for _, hit in self._bands()), self.shape)

    def __getitem__(self, key: Any) -> Mask:
        hit = np.asarray(np.asarray(self.array[key]) >= self.high)
        return hit if self.few else np.zeros_like(hit)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        whole = np.empty(self.shape, bool)
        for band, hit in self._bands():
            whole[band] = hit
        return np.asarray(whole & _few(int(np.count_nonzero(whole)), self.shape), dtype)


def _few(count: int, shape: tuple[int, ...]) -> bool:
    return 0 < count <= _MOST * math.prod(shape)


def with_saturated(image: Any, masked: Any, selection: Selection) -> Any:
    """Return the masks of images with their saturated pixels, if the upper end is said and no image has a mask."""
    # Black counts: of light there may be none. Where more than a tenth of an image lies above the end it is not its
    # own.
    ends = None if isinstance(selection.saturated, str) else as_ends(selection.saturated, np.float64)
    if ends is None or not ends[1] < np.inf:
        return masked

    def one(array: Any, bad: Any, given: Any) -> Any:
        if given is not None:
            return bad
        array = array if hasattr(array, "shape") else np.asarray(array)
        high = in_type(ends[1], array.dtype)
        if not isinstance(array, np.ndarray) and getattr(array, "__dask_graph__", lambda: None)() is None:
            return Saturated(array, high)  # it is looked at as it is read (`FitPlan.presuming`)
        hit: Any = Saturated(array, high) if isinstance(array, np.memmap) else array >= high
        if not (hit.few if isinstance(hit, Saturated) else _few(int(np.asarray(hit.sum())), hit.shape)):
            return bad
        return hit if bad is None else bad | hit

    images, given = as_list(image), selection.image_mask
    if images is None:
        return one(image, masked, given)
    own = masked if isinstance(masked, list) else [None] * len(images)
    said = given if isinstance(given, (list, tuple)) and len(given) == len(images) else [given] * len(images)
    return [one(*each) for each in zip(images, own, said, strict=True)]
