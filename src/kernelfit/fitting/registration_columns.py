"""By how much a prediction changes with a motion and a curve: the columns of J for the step of `joint`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core import geometry, registration
from ..core.geometry import Shape
from ..core.validation import Array
from ..data.plan import FitPlan
from . import joint
from .curve import Light


class Moving:
    """By how much what has these slopes changes with a generator, at rows and columns of an image; made where read."""

    def __init__(self, slopes: Array | Sequence[Array], generator: Array, places: tuple[Array, Array], frame: Shape):
        middle, unit = registration.frame_of(frame)
        self.slopes, self.field = [np.ascontiguousarray(slope) for slope in slopes], unit * generator
        self.rows, self.cols = ((at - m) / unit for at, m in zip(places, middle, strict=True))

    def __getitem__(self, key: tuple[slice, slice]) -> Array:
        from ..compiled.warp import moving  # compiled when first used

        rows, cols = self.rows[key[0]], self.cols[key[1]]
        out, (row, col) = np.empty((len(rows), len(cols))), (k.start or 0 for k in key)
        moving(*self.slopes, row, col, self.field, rows, cols, out)
        return out


_LAGS = np.arange(-8, 9)
#: The derivative of what is band-limited, cut off by a window of Kaiser's: right to 1 % up to 0.8 of Nyquist.
_STENCIL = np.kaiser(len(_LAGS), 5.0) * (_LAGS != 0) * (-1.0) ** (_LAGS + 1) / np.where(_LAGS == 0, 1, _LAGS)


def slopes(image: Array) -> tuple[Array, Array]:
    """Return the derivatives of an image along its rows and columns, by a stencil."""
    import scipy.ndimage

    first, second = (
        scipy.ndimage.correlate1d(image, _STENCIL, axis=axis, mode="reflect") if image.shape[axis] > 1 else 0.0 * image
        for axis in (0, 1)
    )
    return first, second


def lags_of(conv: geometry.Convention, kernel: Shape) -> tuple[Array, Array]:
    """Return how many rows, and columns, each tap looks back."""
    both = zip(kernel, conv.origin, strict=True)
    rows, cols = (
        np.array([geometry.axis_lag(conv, side, origin, p) for p in range(side)], dtype=np.float64)
        for side, origin in both
    )
    return rows, cols


def places_of(conv: geometry.Convention, kernel: Shape, target: Shape) -> tuple[Array, Array]:
    """Return the row, and the column, of the image that lies under the middle of the kernel at each target pixel."""
    axes = zip(conv.stride, conv.offset, target, lags_of(conv, kernel), strict=True)
    rows, cols = (s * np.arange(n) + o - lags.mean() for s, o, n, lags in axes)
    return rows, cols


@dataclass(frozen=True, eq=False)
class Columns:
    """The columns of J: of the generators of each pair's motion, then of the curve.

    `changes` are what the kernels make of the change of the image itself. Without them, columns follow from what they
    make of its slopes, `steep`, or for coarse steps from the slopes of the prediction. What these leave out, the place
    under each tap but for the middle, is within the span of the taps, were these without end, and of one pair; where
    the kernel is not small beside the image the errors come out too small.
    """

    plan: FitPlan  # what was fitted
    generators: Sequence[Array]  # of all motions; the first of them are those of the first pair
    places: Sequence[range]  # which parameters are those of each pair's motion
    shapes: Sequence[Shape]  # rows and columns of each image
    count: int  # number of all parameters
    changes: Sequence[FitPlan] | None = None  # of the changes of the images, for each generator
    steep: Sequence[FitPlan] = ()  # of the slopes of the images, along rows and columns
    light: Light | None = None  # what has a curve
    theta: Array | None = None  # parameters of the curve
    bent: Sequence[FitPlan] = ()  # of the changes of the images with each of these, if the curve is theirs

    def __call__(self, seen: joint.Seen) -> list[Any]:
        """Return the columns for what is seen of an observation."""
        out: list[Any] = [None] * self.count
        pair = seen.place[1] * len(self.places) // len(self.plan.groups[seen.place[0]])
        own = self.places[pair]
        if self.changes is not None:
            for i, plan in zip(own, self.changes, strict=False):
                out[i] = made_of(plan, seen)
        elif own:
            geo = seen.observation.geometry
            places = places_of(geo.convention, geo.kernel_shape, geo.target_shape)
            rows, cols = (at[used] for at, used in zip(places, geo.used, strict=True))
            both = [made_of(plan, seen) for plan in self.steep] if self.steep else slopes(seen.model)
            for i, generator in zip(own, self.generators, strict=False):
                out[i] = Moving(both, generator, (rows, cols), self.shapes[pair])
        if self.light is not None and self.theta is not None and len(self.theta):
            bent: list[Array] = [made_of(plan, seen) for plan in self.bent]
            own_changes = self.light.target_changes(seen.model + seen.surface(), self.theta)
            bent = [a - b for a, b in zip(bent, own_changes, strict=True)] if bent and own_changes else bent
            out[self.count - len(self.theta) :] = bent or [-change for change in own_changes]
        return out


def made_of(plan: FitPlan, seen: joint.Seen) -> Array:
    """Return what the kernels of what is seen make of the images of another plan."""
    group, at = seen.place
    return seen.made([reader.array for reader in plan.groups[group][at].sources])


def slopes_of(kernel: Array, axis: int) -> Array:
    """Return the derivative of the taps along rows or columns, zero standing beyond the edge."""
    at = kernel.ndim - 2 + axis
    reach = len(_LAGS) // 2
    wide = np.pad(kernel, [(reach, reach) if i == at else (0, 0) for i in range(kernel.ndim)])
    found = np.zeros(kernel.shape)
    for i, weight in enumerate(_STENCIL):
        found += weight * np.take(wide, np.arange(i, i + kernel.shape[at]), axis=at)
    return found.ravel()
