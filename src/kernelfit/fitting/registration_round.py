"""One round of a registration: the image warped by a motion, the kernel fitted to it, the step to the next motion."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core import geometry, registration
from ..core.estimate import Estimate
from ..core.geometry import Shape
from ..core.model import Model, Selection
from ..core.validation import Array, require_finite
from ..data.observation import as_planes
from ..data.plan import FitPlan, make_plan
from ..data.warp import Spline
from ..solvers.least_squares import LeastSquares
from . import joint
from .pipeline import Settings, fit_of_group

#: A kernel with so few rows or columns cannot hold a shift along them.
_FEW = 4
#: A kernel has a centre if its sum is this share of its norm at least, and its half that is odd about its centroid no
#: more than this share of it, noise apart.
_SUM, _ODD = 0.2, 0.15
#: A shift that a kernel without a centre keeps, as a share of its side.
_KEPT = 0.25


@dataclass(frozen=True, eq=False)
class Scene:
    """The planes of an image, to be laid on the target."""

    splines: tuple[Spline, ...]
    shape: Shape
    axis: int | None
    workers: int

    @classmethod
    def of(cls, image: Any, bad: Any, axis: int | None, workers: int, nan: str = "mask") -> "Scene":
        """Take an image, and a mask of its bad pixels that broadcasts to it; by `nan` others have to be finite."""
        planes = as_planes(image, "image", axis)
        shape = tuple(planes[0].shape)
        masks: list[Any] = [None] * len(planes)
        if bad is not None:
            bad = np.asarray(bad, dtype=bool)
            masks = [bad] * len(planes) if axis is None or bad.ndim < 3 else list(np.moveaxis(bad, axis, 0))
            masks = masks if len(masks) == len(planes) else masks * len(planes)
            masks = [np.broadcast_to(mask, shape) for mask in masks]
        if nan == "error":
            for plane, mask in zip(planes, masks, strict=True):
                require_finite(np.asarray(plane[:, :]), "image", "exclude them with nan='mask' or image_mask=", mask)
        return cls(tuple(Spline(p, m, workers) for p, m in zip(planes, masks, strict=True)), shape, axis, workers)

    def at(self, matrix: Array) -> "np.ma.MaskedArray[Any, Any]":
        """Return the registered image, what is not known of it masked."""
        pairs = [spline.at(matrix, self.shape, self.workers) for spline in self.splines]
        if self.axis is None:
            return np.ma.MaskedArray(*pairs[0])
        return np.ma.MaskedArray(
            np.stack([values for values, _ in pairs], self.axis), np.stack([mask for _, mask in pairs], self.axis)
        )


class _Moving:
    """By how much the prediction changes with one generator: a column of J, made while it is read."""

    dtype = np.dtype(np.float64)

    def __init__(self, slopes: tuple[Array, Array], generator: Array, rows: Array, cols: Array, shape: Shape) -> None:
        self.slopes, self.generator, self.rows, self.cols = slopes, generator, rows, cols
        self.frame, self.shape = shape, slopes[0].shape

    def __getitem__(self, key: tuple[slice, slice]) -> Array:
        middle, unit = registration.frame_of(self.frame)
        g = unit * self.generator
        u, v = (self.rows[key[0]] - middle[0])[:, None] / unit, (self.cols[key[1]] - middle[1]) / unit
        total: Any = 0.0
        for i, (slope, at) in enumerate(zip(self.slopes, (u, v), strict=True)):
            field: Any = g[i, 2]  # most entries are zero, and most fields functions of the row or the column alone
            for entry, place in zip((*g[i, :2], -g[2, 0], -g[2, 1]), (u, v, u * at, v * at), strict=True):
                field = field + entry * place if entry else field
            total = total + field * slope[key] if np.any(field) else total
        return np.asarray(total)


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


@dataclass(frozen=True, eq=False)
class Moves:
    """The columns of J of some generators, from the slopes of the prediction.

    What they leave out, the place under each tap but for the middle, is within the span of the taps, were these without
    end. It does for a step; the errors come out too small, by up to a quarter where most of the image is noise.
    """

    generators: Sequence[Array]
    shape: Shape  # of the image

    def __call__(self, seen: joint.Seen) -> list[_Moving]:
        """Return the columns for what is seen of an observation."""
        geo = seen.observation.geometry
        places = places_of(geo.convention, geo.kernel_shape, geo.target_shape)
        rows, cols = (at[used] for at, used in zip(places, geo.used, strict=True))
        both = slopes(seen.model)
        return [_Moving(both, generator, rows, cols, self.shape) for generator in self.generators]


@dataclass(frozen=True, eq=False)
class Differences:
    """The columns of J from what the kernels make of the change of the image itself.

    For the last step and the errors, kernels of so few taps that these do not span what `Moves` leaves out, and targets
    that skip pixels.
    """

    plans: Sequence[FitPlan]  # of the changes, for each generator

    def __call__(self, seen: joint.Seen) -> list[Array]:
        """Return the columns for what is seen of an observation."""
        group, at = seen.place
        changes = (plan.groups[group][at].sources for plan in self.plans)
        return [seen.made([reader.array for reader in sources]) for sources in changes]


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
class Round:
    """One warp and fit, and the step from there."""

    matrix: Array
    plan: FitPlan
    groups: list[list[Estimate]]
    shares: list[list[joint.Share]]
    theta: Array
    covariance: Array

    @property
    def taps(self) -> Array:
        """The sum of all kernels once the step is made, shape (rows, cols)."""
        pairs = [p for some, own in zip(self.shares, self.groups, strict=True) for p in zip(some, own, strict=True)]
        sides = self.plan.shape
        changed = [one.kernel.ravel() + joint.following(share, one) @ self.theta for share, one in pairs]
        return np.asarray(np.sum([taps.reshape(-1, *sides).sum(axis=0) for taps in changed], axis=0))

    @property
    def error(self) -> float:
        """Norm of the standard errors of that sum."""
        ones = [one for estimates in self.groups for one in estimates]
        return math.sqrt(sum(float(np.sum(one.stderr**2)) for one in ones))


class Search:
    """What is asked for, and the rounds."""

    def __init__(
        self,
        scene: Scene,
        target: Any,
        model: Model,
        selection: Selection,
        settings: Settings,
        pixel: tuple[float, float] = (1.0, 1.0),
    ) -> None:
        self.scene, self.target, self.selection, self.settings = scene, target, selection, settings
        self.kind = model.register or "shift"
        self.model = dataclasses.replace(model, register=None)
        few = [axis for axis in (0, 1) if model.kernel_shape[axis] <= _FEW]
        self.shifts = [registration.SHIFTS[axis] for axis in few]
        self.held = [axis for axis in (0, 1) if axis not in few]  # whose shift follows from the kernel
        self.pixel = np.diag([*pixel, 1.0])  # whose sides may differ, so that a rotation there is none in pixels
        own = [np.linalg.inv(self.pixel) @ g @ self.pixel for g in registration.GENERATORS[self.kind]]
        self.generators = [*own, *self.shifts]
        self.exactly = bool(self.shifts) or model.strided  # in every round

    def plan(self, matrix: Array) -> FitPlan:
        """Lay the registered image on the target."""
        return make_plan(self.scene.at(matrix), self.target, self.model, self.selection)

    def round(self, matrix: Array) -> Round:
        """Warp, fit by least squares, and find the step."""
        plan = self.plan(matrix)
        settings = dataclasses.replace(self.settings, solver=LeastSquares(), diagnosis=False)
        groups = [fit_of_group(plan, g, settings) for g in range(len(plan.groups))]
        one = Round(matrix, plan, groups, joint.nothing(groups), np.zeros(0), np.zeros((0, 0)))
        if self.exactly:
            return self.exact(one)
        return self.stepped(one, Moves(self.generators, self.scene.shape))

    def exact(self, one: Round) -> Round:
        """Return a round with its step, and errors, by columns of J that are exact."""
        return self.stepped(one, Differences(self.changes(one.matrix))) if self.generators else one

    def stepped(self, one: Round, moves: joint.Slopes) -> Round:
        """Return a round with the step that columns of J lead to."""
        if not self.generators:
            return one
        shares = joint.shares_of(one.plan, one.groups, moves, self.scene.workers)
        theta, covariance = joint.solved(shares, one.groups)
        return dataclasses.replace(one, shares=shares, theta=theta, covariance=covariance)

    def changes(self, matrix: Array) -> list[FitPlan]:
        """Lay the change of the registered image with each generator on the target: its slopes times their fields."""
        (middle, unit), axis = registration.frame_of(self.scene.shape), self.scene.axis
        steps = [1e-3 / unit * sign * shift for shift in registration.SHIFTS for sign in (1.0, -1.0)]
        ends = [self.scene.at(matrix @ registration.motion(step, self.scene.shape)).data for step in steps]
        slopes = [(ends[i] - ends[i + 1]) * (0.5e3 * unit) for i in (0, 2)]
        u, v = (np.arange(n) - at for n, at in zip(self.scene.shape, middle, strict=True))
        grid = [u[:, None] / unit, v / unit]
        plans = []
        for g in self.generators:
            tilt = g[2, 0] * grid[0] + g[2, 1] * grid[1]
            fields = [g[i, 0] * grid[0] + g[i, 1] * grid[1] + g[i, 2] - grid[i] * tilt for i in (0, 1)]
            if axis is not None:
                fields = [np.expand_dims(field, axis) for field in fields]
            change = fields[0] * slopes[0] + fields[1] * slopes[1]
            plans.append(make_plan(change, self.target, self.model, self.selection))
        return plans

    def step(self, one: Round, centroid: Array) -> Array:
        """Return the matrix of a round's step, with the shift that brings the kernel's centroid to its place."""
        _, unit = registration.frame_of(self.scene.shape)
        total = np.zeros((3, 3))
        for value, generator in zip(one.theta, self.generators, strict=True):
            total += value * generator
        for axis in self.held:
            total -= centroid[axis] / unit * registration.SHIFTS[axis]
        return registration.motion(total, self.scene.shape)

    def without_shift(self, matrix: Array) -> Array:
        """Return a motion without the shift that the kernel can hold, and with whole pixels of it beyond that."""
        (middle, _), out = registration.frame_of(self.scene.shape), np.eye(3)
        shift = registration.moved(matrix, middle[None])[0] - middle
        for axis in self.held:
            kept = abs(shift[axis]) <= _KEPT * self.model.kernel_shape[axis]
            out[axis, 2] = (0.0 if kept else round(shift[axis])) - shift[axis]
        return registration.scaled(out @ matrix)

    def parameters(self, *, gauge: bool) -> list[Array]:
        """Return the generators of the parameters, and those of the shifts that follow from the kernel."""
        return [*self.generators, *(registration.SHIFTS[axis] for axis in self.held if gauge)]

    def effects(self, matrix: Array, generators: Sequence[Array]) -> Array:
        """Return by how much each corner is displaced for each unit of a generator, shape (8, generators)."""
        corners, step = registration.corners_of(self.scene.shape), 1e-6
        found = [
            registration.moved(matrix @ registration.motion(sign * step * g, self.scene.shape), corners).ravel()
            for g in generators
            for sign in (1.0, -1.0)
        ]
        ends = np.array(found).reshape(len(generators), 2, 8)
        return np.asarray((ends[:, 0] - ends[:, 1]).T / (2 * step))

    def length(self, matrix: Array) -> float:
        """Return by how many pixels a motion displaces the corners at most."""
        corners = registration.corners_of(self.scene.shape)
        return float(np.linalg.norm(registration.moved(matrix, corners) - corners, axis=1).max())


def centroid_of(taps: Array, conv: geometry.Convention) -> tuple[Array, Array] | None:
    """Return by how much the centroid of a kernel lags behind its middle, and that for each tap, (2, taps).

    None where its sum is about zero.
    """
    total = float(taps.sum())
    if not abs(total) > _SUM * float(np.linalg.norm(taps)):
        return None
    rows, cols = (lags - lags.mean() for lags in lags_of(conv, (taps.shape[0], taps.shape[1])))
    at = np.array([float(rows @ taps.sum(axis=1)), float(cols @ taps.sum(axis=0))]) / total
    if not all(abs(c) <= 0.5 * n for c, n in zip(at, taps.shape, strict=True)):
        return None
    grid = np.meshgrid(rows - at[0], cols - at[1], indexing="ij")
    return at, np.array([lag.ravel() for lag in grid]) / total


def symmetric(taps: Array, centroid: Array, conv: geometry.Convention, error: float) -> bool:
    """Say whether a kernel is nearly symmetric about its centroid, so that this is its centre."""
    import scipy.ndimage

    flip = 1.0 if conv.operation == "convolution" else -1.0
    center = 0.5 * (np.array(taps.shape) - 1.0) + flip * centroid
    turned = scipy.ndimage.affine_transform(taps, -np.eye(2), offset=2 * center, order=3, mode="constant")
    odd = 0.25 * float(np.sum((taps - turned) ** 2))
    return odd <= _ODD**2 * float(np.sum(taps**2)) + error**2


def slopes_of(kernel: Array, axis: int) -> Array:
    """Return the derivative of the taps along rows or columns, zero standing beyond the edge."""
    at = kernel.ndim - 2 + axis
    reach = len(_LAGS) // 2
    wide = np.pad(kernel, [(reach, reach) if i == at else (0, 0) for i in range(kernel.ndim)])
    found = np.zeros(kernel.shape)
    for i, weight in enumerate(_STENCIL):
        found += weight * np.take(wide, np.arange(i, i + kernel.shape[at]), axis=at)
    return found.ravel()
