"""The judge of masks and weights: what may exclude pixels, how many are left, and readers that never see the rest.

All of it becomes one non-negative weight for each target pixel that is used; a mask is a weight of zero. Pixels that
are excluded read as zero from here on, so that whatever stands there changes no bit of any result.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..core.model import as_ends
from .cells import Rect, common
from .observation import Observation, WeightedObservation, Weights, bands
from .reader import Reader, any_in_window

Mask = npt.NDArray[np.bool_]
#: Pixels looked at a time.
_BLOCK = 2**20
#: Weights beyond this or its reciprocal make sums that are no numbers, whatever the pixels are.
_LARGE = 2.0**500


@dataclass(frozen=True, eq=False)
class Judged:
    """A pair with its weights, what was excluded in words, and how many `clipped` pixels count, being most."""

    item: WeightedObservation
    notes: tuple[str, ...]
    clipped: str = ""
    alone: bool = False


class UnexpectedPixel(Exception):  # noqa: N818  no error, but a way out
    """A pixel was met that is saturated or not finite, where none was presumed to be."""


@dataclass(frozen=True)
class Looker:
    """Looks for saturated pixels, and those that are not finite, in what is read of a part of an array."""

    used: Rect
    ends: tuple[float, float] | None
    finite: bool

    def __call__(self, place: Rect, pixels: npt.NDArray[Any]) -> None:
        """Look at pixels that stand at a place."""
        both = common(self.used, place)
        if both is not None:
            some = pixels[both[0] - place[0] : both[1] - place[0], both[2] - place[2] : both[3] - place[2]]
            low, high = self.ends or (-np.inf, np.inf)
            if some.dtype.kind in "iu":  # a third of the time
                unexpected = some.min() <= low or some.max() >= high
            else:
                unexpected = self.ends is not None and reaches(some, self.ends).any()
            if unexpected or (self.finite and not np.isfinite(some).all()):
                raise UnexpectedPixel


class _Kept:
    """An array that reads as zero where it is excluded."""

    def __init__(self, array: Any, excluded: Mask) -> None:
        self.array, self.excluded = array, excluded
        self.shape, self.dtype = array.shape, array.dtype

    def __getitem__(self, key: Any) -> Any:
        block = np.array(self.array[key], dtype=np.float64)
        block[self.excluded[key]] = 0.0
        return block


class _Below:
    """An array that reads as zero where it stands at one of two ends."""

    def __init__(self, array: Any, ends: tuple[float, float]) -> None:
        self.array, self.ends = array, ends
        self.shape, self.dtype = array.shape, array.dtype

    def __getitem__(self, key: Any) -> Any:
        own = np.asarray(self.array[key])
        block = np.array(own, dtype=np.float64)
        block[reaches(own, self.ends)] = 0.0
        return block


class Unsaturated:
    """Stands for the weights of a target of which saturated pixels alone, told from itself, do not count."""

    dtype = np.dtype(bool)

    def __init__(self, array: Any, place: tuple[slice, slice], ends: tuple[float, float], n_nonzero: int) -> None:
        self._array, self._ends, self._first = array, ends, (place[0].start, place[1].start)
        self.shape = (place[0].stop - place[0].start, place[1].stop - place[1].start)
        self.n_nonzero = n_nonzero
        self._of: Unsaturated | None = None

    @property
    def T(self) -> "Unsaturated":  # noqa: N802  as NumPy calls it
        """The transpose."""
        turned = object.__new__(Unsaturated)
        turned._of, turned.shape, turned.n_nonzero = self, self.shape[::-1], self.n_nonzero
        return turned

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, key: Any) -> Mask:
        """Return a block, some whole rows, or single pixels."""
        rows, cols = key if isinstance(key, tuple) else (key, slice(None))
        if self._of is not None:
            return np.asarray(self._of[cols, rows].T)
        if isinstance(cols, slice) and not isinstance(rows, slice):  # a sample of whole rows
            return np.concatenate([self[r : r + 1, cols] for r in rows])
        (top, bottom, y), (left, right, x) = (hull(k, n) for k, n in zip((rows, cols), self.shape, strict=True))
        row, col = self._first
        return np.asarray(
            ~reaches(np.asarray(self._array[row + top : row + bottom, col + left : col + right]), self._ends)[y, x]
        )

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """Return all of them as an array, where one of the target's size is wanted after all."""
        return np.asarray(self[:, :], dtype)


def hull(index: Any, n: int) -> tuple[int, int, Any]:
    """Return the part of an axis that an index asks for, and the index in it."""
    if isinstance(index, slice):
        start, stop, step = index.indices(n)
        return start, max(start, stop), slice(None, None, step)
    first = int(index.min()) if index.size else 0
    return first, int(index.max()) + 1 if index.size else 0, index - first


def unmasked(value: object) -> tuple[object, object]:
    """Return an array, or a list of arrays, without masks, and the masks in the same form; None if there is none."""
    if isinstance(value, (list, tuple)) and any(hasattr(item, "mask") for item in value):
        data, found = zip(*(unmasked(item) for item in value), strict=True)
        return list(data), None if all(mask is None for mask in found) else list(found)
    if isinstance(value, np.ma.MaskedArray):
        mask = np.ma.getmask(value)
        return value.data, None if mask is np.ma.nomask else np.asarray(mask)
    return value, None


@dataclass(frozen=True, eq=False)
class PlaneSelection:
    """What a user says of the pixels of one target plane that do not count, or not as much as others."""

    masks: tuple[object, ...] = ()  # masks of the target, all of which exclude; None for none
    image_masks: tuple[tuple[object, ...], ...] = ()  # the same for each source
    #: weights, nan, saturated: as in `Selection`
    weights: object = None
    nan: str = "error"
    saturated: object = None

    def exchanged(self, name: str) -> "PlaneSelection":
        """Return the selection with what the user's mask, or his weights, exclude and leave exchanged."""
        if name == "weights":
            return dataclasses.replace(
                self, nan="mask", weights=None if self.weights is None else np.asarray(self.weights) == 0
            )
        if name == "mask":
            return dataclasses.replace(self, nan="mask", masks=(_not(self.masks[0]), *self.masks[1:]))
        masks = tuple((_not(own[0]), *own[1:]) for own in self.image_masks)
        return dataclasses.replace(self, nan="mask", image_masks=masks)

    def judge(self, observation: Observation, *, part: bool = False) -> Judged | None:
        """Turn it into the weights of an observation of one target."""
        return judge(observation, self, part=part)


def _not(mask: object) -> object:
    return None if mask is None else np.asarray(mask) == 0


def as_mask(value: object, shape: tuple[int, ...], name: str) -> Mask | None:
    """Return a mask of a shape, or say why it is none."""
    if value is None:
        return None
    mask = _whole(value)
    if mask.dtype.kind not in "biu":
        msg = f"got {name} of dtype {mask.dtype}, need bool (True where a pixel is excluded); write {name} != 0"
        raise TypeError(msg)
    return broadcast(mask if mask.dtype == np.bool_ else mask != 0, shape, name)


def _whole(value: Any) -> npt.NDArray[Any]:
    """Return all of an array, of one that can only be sliced, too."""
    sliced = hasattr(value, "shape") and hasattr(value, "dtype") and not hasattr(value, "__array__")
    return np.asarray(value[(slice(None),) * len(value.shape)] if sliced else value)


def as_weights(value: object, shape: tuple[int, ...], excluded: Mask | None) -> npt.NDArray[np.float64] | None:
    """Return weights of a shape, zero where excluded, or say why they are none."""
    if value is None:
        return None
    if isinstance(value, np.ma.MaskedArray):
        value = value.filled(0)
    given = _whole(value)
    if given.dtype.kind not in "biuf":
        msg = f"got weights of dtype {given.dtype}, need real numbers: the inverse variance of each target pixel"
        raise TypeError(msg)
    weights = np.asarray(broadcast(given, shape, "weights"), dtype=np.float64)
    if excluded is not None:
        weights = np.where(excluded, 0.0, weights)
    if not (weights.size == 0 or (weights.min() >= 0 and weights.max() < np.inf)):  # a NaN compares false
        bad = ~(np.isfinite(weights) & (weights >= 0))
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        raise ValueError(
            f"got weights with {int(bad.sum())} of them negative, NaN or infinite, the first "
            f"{weights[where]} at {where}; "
            "need inverse variances of at least 0, with 0 for a pixel that does not count"
        )
    if weights.size and (weights.max() > _LARGE or 0 < weights.max() < 1 / _LARGE):
        raise ValueError(
            f"got weights of up to {weights.max():.2g}, whose products with pixels over- or underflow; divide all of "
            "them by one number: only their ratios matter to the kernel"
        )
    return weights


def broadcast(array: npt.NDArray[Any], shape: tuple[int, ...], name: str) -> npt.NDArray[Any]:
    """Return an array broadcast to a shape, or say that it cannot be."""
    try:
        return np.broadcast_to(array, shape)
    except ValueError:
        raise ValueError(f"got {name} of shape {array.shape}, need {shape} or what broadcasts to it") from None


def _where(array: Any, test: Callable[[npt.NDArray[Any]], Mask]) -> Mask | None:
    """Return where a test holds of an array, None if nowhere."""
    found: Mask | None = None
    for rows, block in bands(array):
        hit = test(block)
        if hit.any():
            if found is None:
                found = np.zeros(array.shape, dtype=bool)
            found[rows] = hit
    return found


def not_finite(array: Any) -> Mask | None:
    """Return where an array is NaN or infinite, None if nowhere."""
    array = getattr(array, "whole", array)  # of a complex number either part
    return _where(array, lambda block: ~np.isfinite(block)) if np.dtype(array.dtype).kind in "fc" else None


def ends_in_words(ends: tuple[float, float]) -> str:
    """Say why pixels that reach one of two ends are excluded."""
    told = zip(ends, ("below", "above"), strict=True)
    return "saturated, at " + " or ".join(f"{end:g} or {beyond}" for end, beyond in told if np.isfinite(end))


def at_ends(array: Any, ends: tuple[float, float]) -> Mask | None:
    """Return where an array reaches one of two ends, None if nowhere."""
    return _where(array, lambda block: reaches(block, ends))


def reaches(block: npt.NDArray[Any], ends: tuple[float, float]) -> Mask:
    """Return where a block reaches one of two ends."""
    low, high = in_type(ends[0], block.dtype), in_type(ends[1], block.dtype)
    return np.asarray((block <= low) | (block >= high))


def count_at_ends(array: Any, place: tuple[slice, slice], ends: tuple[float, float]) -> int:
    """Return how many pixels of a part of an array reach one of two ends."""
    return sum(int(np.count_nonzero(reaches(block, ends))) for _, block in bands(array, *place))


def between_ends(arrays: Sequence[Any]) -> bool:
    """Return whether most of some images is neither black nor white; stored ones are looked at in some rows."""
    parts = []
    for array in arrays:
        rows = np.linspace(0, array.shape[0] - 1, min(array.shape[0], 1 + _BLOCK // array.shape[1])).astype(int)
        parts += [np.asarray(array[r : r + 1, :]).ravel() for r in rows]
    seen = np.concatenate(parts)
    ends = [0, seen.max(), *((np.iinfo(seen.dtype).max,) if seen.dtype.kind in "iu" else ())]
    return bool(np.mean(np.isin(seen, ends)) < 0.5)


def _alike(array: Any, place: tuple[slice, slice], ends: tuple[float, float]) -> bool:
    """Return whether the pixels between two ends have one value, as in pictures of black and white."""
    value = None
    for _, block in bands(array, *place):
        left = block[~reaches(block, ends)]
        if left.size:
            value = left[0] if value is None else value
            if (left != value).any():
                return False
    return True


def in_type(value: float, dtype: Any) -> Any:
    """Return a number in the array's own type where it fits, so that comparing converts nothing."""
    dtype = np.dtype(dtype)
    if dtype.kind in "iu" and np.isfinite(value) and value == int(value):
        info = np.iinfo(dtype)
        return dtype.type(min(max(int(value), info.min), info.max)) if info.min <= value <= info.max else value
    return value


def touched(image_mask: Mask, observation: Observation) -> Mask:
    """Return which of the used target pixels have an excluded image pixel in their footprint."""
    plan, (rows, cols) = observation.geometry, observation.size
    (n_y, n_x), (down, across) = plan.kernel_shape, plan.stride
    reader = dataclasses.replace(observation.sources[0], array=image_mask, fillvalue=0.0, weight=None)
    out = np.zeros((rows, cols), dtype=bool)
    height = -(-max(n_y, _BLOCK // plan.extended_shape[1]) // down)
    for row in range(0, rows, height):
        n_rows = min(height, rows - row)
        block = reader.block(row * down, 0, ((n_rows - 1) * down + n_y, plan.extended_shape[1]))
        if not block.any():
            continue
        out[row : row + n_rows] = any_in_window(block != 0, (n_y, n_x))[::down, ::across]
    return out


def judge(observation: Observation, selection: PlaneSelection, *, part: bool = False) -> Judged | None:
    """Turn all that excludes or weighs pixels into one weight for each used target pixel; None if all are alike."""
    # Of a `part` of a larger pair no pixel need count. The excluded pixels of what is returned read as zero.
    image_masks, nan, saturated = selection.image_masks, selection.nan, selection.saturated
    plan, target = observation.geometry, observation.targets[0].array
    place = plan.used
    where = f" in {observation.where}" if observation.where else ""
    notes: list[str] = []
    clipped, alone = "", False
    excluded: Mask | None = None

    def exclude(more: Mask | None, what: str) -> None:
        nonlocal excluded
        if more is None or not more[place].any():
            return
        used = more[place]
        fresh = int(np.count_nonzero(used if excluded is None else used & ~excluded[place]))
        excluded = more if excluded is None else excluded | more
        if fresh:
            notes.append(f"{fresh} of {plan.n_pixels} target pixels excluded{where}: {what}")

    for mask in selection.masks:
        exclude(as_mask(mask, target.shape, "mask"), "masked")
    bad_images: list[Mask | None] = []
    for i, reader in enumerate(observation.sources):
        bad: Mask | None = None
        if i and reader.array is observation.sources[i - 1].array:  # the same image, weighted otherwise
            bad_images.append(bad_images[-1])
            continue
        more = [as_mask(mask, reader.array.shape, "image_mask") for mask in (image_masks[i] if image_masks else ())]
        for found in (*more, not_finite(reader.array) if nan == "mask" else None):
            bad = found if bad is None else bad if found is None else bad | found
        bad_images.append(bad)
        if bad is not None and bad.any():
            one = dataclasses.replace(observation, sources=(observation.sources[i],))
            whole = np.zeros(target.shape, dtype=bool)
            whole[place] = touched(bad, one)
            exclude(whole, "an excluded image pixel in their footprint")
    if nan == "mask":
        exclude(not_finite(target), "NaN or infinite")
    ends = as_ends(saturated, target.dtype)
    if ends is not None:
        what = ends_in_words(ends)
        count = count_at_ends(target, place, ends)
        counted = plan.n_pixels - count
        why = None
        if count and isinstance(saturated, str):
            few = counted < max(0.05 * plan.n_pixels, 10 * plan.n_taps)
            why = "being nearly all of it" if few else "all others being alike" if _alike(target, place, ends) else None
        if why is not None:
            alone = few and between_ends([reader.array for reader in observation.sources])
            clipped = f"{count} of {plan.n_pixels} target pixels{where} stand at the ends of {target.dtype}'s range"
            notes.append(
                f"{count} of {plan.n_pixels} target pixels{where} stand at the ends of {target.dtype}'s range; "
                f"they are used, {why}"
            )
        elif (
            count
            and counted
            and selection.weights is None
            and excluded is None
            and all(bad is None for bad in bad_images)
        ):
            notes.append(f"{count} of {plan.n_pixels} target pixels excluded{where}: {what}")
            result = dataclasses.replace(observation.targets[0], array=_Below(target, ends))
            lazy: Any = Unsaturated(target, place, ends, counted)
            return Judged(WeightedObservation(dataclasses.replace(observation, targets=(result,)), lazy), tuple(notes))
        elif count:
            exclude(at_ends(target, ends), what)
    given = as_weights(selection.weights, target.shape, excluded)
    if given is not None:
        inside = given[place]
        if inside.min() == 0:
            exclude(given == 0, "of weight zero")
        if inside[0, 0] == 1 and np.all(inside == 1):
            given = None
    if excluded is not None and not excluded[place].any():
        excluded = None
    if given is None and excluded is None and not any(bad is not None and bad.any() for bad in bad_images):
        return (
            Judged(WeightedObservation(observation, np.broadcast_to(np.True_, plan.size)), tuple(notes), clipped, alone)
            if notes
            else None
        )
    sources = tuple(
        reader if bad is None else dataclasses.replace(reader, array=_Kept(reader.array, bad))
        for reader, bad in zip(observation.sources, bad_images, strict=True)
    )
    result = observation.targets[0] if excluded is None else zeroed(observation.targets[0], excluded)
    if given is not None:
        final: Weights = given[place]
    else:
        final = np.ones(plan.size, dtype=bool) if excluded is None else ~excluded[place]
    if excluded is not None and not part and not final.any():
        msg = f"got a mask or weights{where} that leave none of {plan.n_pixels} target pixels; need some that count"
        raise ValueError(msg)
    item = WeightedObservation(dataclasses.replace(observation, sources=sources, targets=(result,)), final)
    return Judged(item, tuple(notes), clipped, alone)


def zeroed(reader: Reader, excluded: Mask) -> Reader:
    """Return a reader of an array that reads as zero where it is excluded."""
    return dataclasses.replace(reader, array=_Kept(reader.array, excluded))


def times_weights(item: WeightedObservation) -> Observation:
    """Return the problem whose target is multiplied by its weights."""
    if item.weights.dtype == np.bool_:
        return item.observation  # excluded pixels read as zero already
    return dataclasses.replace(item.observation, targets=weighed(item.observation.targets, item.weights))


def weighed(readers: Sequence[Reader], weights: Weights) -> tuple[Reader, ...]:
    """Return readers of the used part of targets times their weights."""
    return tuple(Reader(_Framed(reader, weights), reader.shape) for reader in readers)


class _Framed:
    """The used part of a target times its weights, as an array of its own."""

    def __init__(self, reader: Reader, weights: Weights) -> None:
        self.reader, self.weights = reader, weights
        self.shape, self.dtype = reader.shape, np.dtype(np.float64)

    def __getitem__(self, key: tuple[slice, slice]) -> Any:
        (top, bottom, _), (left, right, _) = (k.indices(n) for k, n in zip(key, self.shape, strict=True))
        block = self.reader.block(top, left, (bottom - top, right - left))
        block *= self.weights[key]
        return block
