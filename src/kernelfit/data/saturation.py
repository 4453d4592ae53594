"""Image pixels that are saturated, at ends that are said."""

from typing import Any

import numpy as np
import numpy.typing as npt

from ..core.model import Selection, as_ends
from ..core.validation import as_list
from .masking import Mask, in_type, reaches


class _Saturated:
    """Where an array that is stored is saturated, read when asked for."""

    dtype = np.dtype(bool)

    def __init__(self, array: Any, ends: tuple[float, float]) -> None:
        self.array, self.ends = array, ends
        self.shape: tuple[int, ...] = tuple(array.shape)
        self.ndim = len(self.shape)

    def __getitem__(self, key: Any) -> Mask:
        """Return a part."""
        return reaches(np.asarray(self.array[key]), self.ends)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """Return all of it."""
        return np.asarray(self[(slice(None),) * self.ndim], dtype)


def with_saturated(image: Any, masked: Any, selection: Selection) -> Any:
    """Return the masks of images with their saturated pixels, where the ends are said and no mask of an image is.

    An image more than half of which stands beyond the ends has other values than the target, and other ends.
    """
    if selection.saturated is None or isinstance(selection.saturated, str):
        return masked
    ends = as_ends(selection.saturated, np.float64)
    assert ends is not None

    def one(array: Any, bad: Any, given: Any) -> Any:
        if given is not None:
            return bad
        array = array if hasattr(array, "shape") else np.asarray(array)
        try:
            low, high = (in_type(end, array.dtype) for end in ends)
            hit: Any = _Saturated(array, ends) if isinstance(array, np.memmap) else (array <= low) | (array >= high)
        except TypeError:  # what can only be sliced
            hit = _Saturated(array, ends)
        if isinstance(hit, np.ndarray) and not 0 < np.count_nonzero(hit) <= hit.size / 2:
            return bad
        return hit if bad is None else bad | hit

    images, given = as_list(image), selection.image_mask
    if images is None:
        return one(image, masked, given)
    own = masked if isinstance(masked, list) else [None] * len(images)
    said = given if isinstance(given, (list, tuple)) and len(given) == len(images) else [given] * len(images)
    return [one(*each) for each in zip(images, own, said, strict=True)]
