"""What arrays with labels say of their axes and units, as results remember it."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .geometry import Convention, leading

#: How far coordinates may be off an even scale, in steps: those in single precision are.
_UNEVEN = 1e-3


@dataclass(frozen=True, eq=False)
class Axis:
    """An axis of an array with labels."""

    name: str  # its name
    #: (n,); its coordinates: numbers, times or names; None without any
    values: npt.NDArray[Any] | None = dataclasses.field(default=None, repr=False)
    unit: str = ""  # their unit, empty if that is not known

    @property
    def step(self) -> Any:
        """From one coordinate to the next, a number or a time; None where they are not evenly spaced."""
        return None if self.values is None else even_step(self.values)

    def at(self, places: npt.NDArray[np.float64]) -> Any:
        """Return the coordinates at places between pixels; None where they are no numbers and no times."""
        if self.values is None or self.values.dtype.kind not in "iufMm":
            return None
        since, kind = self.values - self.values[0], self.values.dtype.kind
        found = np.interp(places, np.arange(len(since)), since.astype(np.float64))
        return self.values[0] + (found.round().astype(np.int64).astype(since.dtype) if kind in "Mm" else found)


@dataclass(frozen=True, eq=False)
class Labels:
    """What the arrays that a result was found in say of themselves."""

    #: image, target: their axes; empty where they have no labels
    image: tuple[Axis, ...] = ()
    target: tuple[Axis, ...] = ()
    units: tuple[str, str] = ("", "")  # the units of the image's pixels and of the target's, empty where none is known
    channel_axis: int | None = None  # which axis holds the channels

    def channels(self, side: str) -> Axis | None:
        """Return the axis of the channels of a side, None where it is not known."""
        axes: tuple[Axis, ...] = getattr(self, side)
        return None if self.channel_axis is None or len(axes) < 2 else axes[self.channel_axis]

    def places(self, side: str) -> tuple[Axis, ...]:
        """Return the axes of a side but for that of the channels; empty where they are not known."""
        axes: tuple[Axis, ...] = getattr(self, side)
        without = None if self.channel_axis is None or len(axes) < 2 else self.channel_axis % len(axes)
        return tuple(one for i, one in enumerate(axes) if i != without)


def places_of(labels: Labels | None, conv: Convention, sides: Sequence[int]) -> list[tuple[float, int]]:
    """Return along each axis where a target's first pixel stands in the image, and how many pixels on the next."""
    # Where both have coordinates these say it, between pixels perhaps; else it is the pixel under the kernel's origin.
    same = dataclasses.replace(conv, mode="same", size=None)
    found: list[tuple[float, int]] = []
    axes = zip(sides, conv.origin, conv.stride, conv.offset, strict=True)
    for at, (side, origin, stride, offset) in enumerate(axes):
        first: float = offset + leading(same, side, origin) - leading(conv, side, origin)
        both = [()] if labels is None else [labels.places(name)[at : at + 1] for name in ("image", "target")]
        if all(both) and both[0][0].name == both[1][0].name:
            told = _place(both[0][0], both[1][0])
            first = first if told is None else told
        found.append((first, stride))
    return found


def _place(image: Axis, target: Axis) -> float | None:
    """Return where the first coordinate of a target stands among those of the image; None if they do not say."""
    mine, theirs, step = image.values, target.values, image.step
    if mine is None or theirs is None or not len(theirs):
        return None
    if step is not None and (mine.dtype.kind in "Mm") == (theirs.dtype.kind in "Mm") and theirs.dtype.kind in "iufMm":
        place = float((theirs[0] - mine[0]) / step)
        return round(place) if abs(place - round(place)) < 10 * _UNEVEN else place
    same = np.flatnonzero(mine == theirs[0])
    return int(same[0]) if len(same) == 1 else None


def even_step(values: Any) -> Any:
    """Return the step of evenly spaced coordinates, as a number or a time; None where they are not such."""
    found = np.asarray(values)
    if found.ndim != 1 or len(found) < 2 or found.dtype.kind not in "iufMm":
        return None
    since = (found.astype(np.float64) if found.dtype.kind == "u" else found) - found[0]
    step = since[-1] / (len(found) - 1) if found.dtype.kind in "iuf" else since[-1] // (len(found) - 1)
    off = since.astype(np.float64) - np.arange(len(found)) * np.float64(step.astype(np.float64))
    size = abs(float(step.astype(np.float64)))
    return step if size > 0 and float(np.abs(off).max()) <= _UNEVEN * size else None


def packed(labels: Labels | None) -> tuple[Any, dict[str, npt.NDArray[Any]]]:
    """Return what a file holds of labels: plain values, and arrays."""
    if labels is None:
        return None, {}
    plain: dict[str, Any] = {"units": list(labels.units), "channel_axis": labels.channel_axis}
    arrays: dict[str, npt.NDArray[Any]] = {}
    for side in ("image", "target"):
        axes = getattr(labels, side)
        plain[side] = [[axis.name, axis.unit] for axis in axes]
        arrays |= {f"labels_{side}_{i}": axis.values for i, axis in enumerate(axes) if axis.values is not None}
    return plain, arrays


def unpacked(plain: Any, arrays: dict[str, npt.NDArray[Any]]) -> Labels | None:
    """Undo `packed`; refuse what labels cannot be."""
    if plain is None:
        return None
    sides = {}
    for side in ("image", "target"):
        axes = []
        for i, (name, unit) in enumerate(plain[side]):
            values = arrays.get(f"labels_{side}_{i}")
            if values is not None and (values.ndim != 1 or values.dtype.kind not in "biufmMU"):
                raise ValueError("coordinates that are none")
            axes.append(Axis(str(name), values, str(unit)))
        sides[side] = tuple(axes)
    (first, second), axis = plain["units"], plain["channel_axis"]
    if axis is not None and (
        type(axis) is not int or any(not -len(one) <= axis < len(one) for one in sides.values() if len(one) > 1)
    ):
        raise ValueError("an axis of channels that is none")
    return Labels(**sides, units=(str(first), str(second)), channel_axis=axis)


def with_labels(record: Any, labels: Labels) -> Any:
    """Return a result, and its parts, with labels; statistics keep them in their context."""
    if hasattr(record, "labelled"):
        return record.labelled(labels)
    more = {"parts": tuple(with_labels(part, labels) for part in record.parts)} if hasattr(record, "parts") else {}
    return dataclasses.replace(record, labels=labels, **more)
