"""Image pixels that are saturated, from a value on that is said."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from ..core.model import Selection, as_ends
from ..core.validation import as_list
from .masking import Mask, in_type

_MOST = 0.1  # of an image's pixels
_BLOCK = 2**20  # pixels looked at a time


class _Saturated:
    """Where an array that is stored is saturated, read when asked for."""

    dtype = np.dtype(bool)

    def __init__(self, array: Any, high: float) -> None:
        self.array, self.high = array, high
        self.shape: tuple[int, ...] = tuple(array.shape)
        self.ndim = len(self.shape)

    def __getitem__(self, key: Any) -> Mask:
        """Return a part."""
        return np.asarray(np.asarray(self.array[key]) >= self.high)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """Return all of it."""
        return np.asarray(self[(slice(None),) * self.ndim], dtype)


def _count(hit: Any) -> int:
    """Return how many pixels are saturated; what is stored is read in bands of whole chunks."""
    if not isinstance(hit, _Saturated):
        return int(np.asarray(hit.sum()))
    chunks = getattr(hit.array, "chunks", None) or (1,)
    step = max(int(chunks[0]), _BLOCK // max(1, math.prod(hit.shape[1:])))
    rest = (slice(None),) * (hit.ndim - 1)
    bands = (slice(at, min(at + step, hit.shape[0])) for at in range(0, hit.shape[0], step))
    return sum(int(np.count_nonzero(hit[(band, *rest)])) for band in bands)


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
        try:
            hit: Any = _Saturated(array, high) if isinstance(array, np.memmap) else array >= high
        except TypeError:  # what can only be sliced
            hit = _Saturated(array, high)
        if not 0 < _count(hit) <= _MOST * math.prod(hit.shape):
            return bad
        return hit if bad is None else bad | hit

    images, given = as_list(image), selection.image_mask
    if images is None:
        return one(image, masked, given)
    own = masked if isinstance(masked, list) else [None] * len(images)
    said = given if isinstance(given, (list, tuple)) and len(given) == len(images) else [given] * len(images)
    return [one(*each) for each in zip(images, own, said, strict=True)]
