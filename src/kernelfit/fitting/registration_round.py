"""One round of a registration: light laid on light by a motion and a curve, the kernel fitted to it, the next step."""

import copy
import dataclasses
import math
from collections.abc import Callable, Sequence
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
from .curve import Light
from .pipeline import Settings, fit_of_group
from .registration_columns import Columns, Moving, lags_of

#: A kernel with so few rows or columns cannot hold a shift along them.
_FEW = 4
#: A kernel has a centre if its sum is this share of its norm at least, and its half that is odd about its centroid no
#: more than this share of it, noise apart.
_SUM, _ODD = 0.2, 0.15
#: A shift that a kernel without a centre keeps, as a share of its side.
_KEPT = 0.25
#: Share of S below which nobody asks how much of it the errors of the kernels make; places along an axis for a guess.
_NONE, _GRID = 0.003, 9
#: A step of so many pixels at most follows the slopes: of the highest frequency that leaves out a three-hundredth.
_SHORT = 0.04
#: Side of a kernel, in units of the image's frame, up to which its taps count as being all at one place.
_NEAR = 0.08


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

    def lit(self, light: Callable[[Array], Array] | None) -> "Scene":
        """Return the scene whose values are made light."""
        if light is None:
            return self
        made = (Spline(light(one.values), one.wrong, self.workers) for one in self.splines)
        return dataclasses.replace(self, splines=tuple(made))

    def at(self, matrix: Array, slopes: list[Array] | None = None) -> Any:
        """Return the registered image, what is not known of it masked; a list receives the slopes of its planes."""
        steep = [None if slopes is None else np.empty((2, *self.shape)) for _ in self.splines]
        pairs = [one.at(matrix, self.shape, self.workers, s) for one, s in zip(self.splines, steep, strict=True)]
        if slopes is not None:
            slopes += [s for s in steep if s is not None]
        values, mask = (self.joined(list(some)) for some in zip(*pairs, strict=True))
        return np.ma.MaskedArray(values, mask) if mask.any() else values

    def joined(self, planes: list[Any]) -> Any:
        """Return planes as an image of as many channels."""
        return planes[0] if self.axis is None else np.stack(planes, self.axis)


@dataclass(frozen=True, eq=False)
class Place:
    """A motion for each pair, and the parameters of a curve."""

    matrices: tuple[Array, ...]
    theta: Array = dataclasses.field(default_factory=lambda: np.zeros(0))


@dataclass(frozen=True, eq=False)
class Round:
    """One fit, and the step from there in motions, then curve, `doubt` being the share by which it may be wrong."""

    place: Place
    plan: FitPlan
    groups: list[list[Estimate]]
    shares: list[list[joint.Share]]
    step: Array
    covariance: Array
    doubt: float = 0.0
    columns: Columns | None = None
    images: Sequence[Any] = ()  # registered
    steep: Sequence[list[Array]] = ()  # the slopes of the planes of each

    @property
    def taps(self) -> Array:
        """The sum of all kernels once the step is made, shape (rows, cols)."""
        pairs = [p for some, own in zip(self.shares, self.groups, strict=True) for p in zip(some, own, strict=True)]
        sides = self.plan.shape
        changed = [one.kernel.ravel() + joint.following(share, one) @ self.step for share, one in pairs]
        return np.asarray(np.sum([taps.reshape(-1, *sides).sum(axis=0) for taps in changed], axis=0))

    @property
    def error(self) -> float:
        """Norm of the standard errors of that sum."""
        ones = [one for estimates in self.groups for one in estimates]
        return math.sqrt(sum(float(np.sum(one.stderr**2)) for one in ones))

    @property
    def bend(self) -> tuple[Array, Array]:
        """The step of the curve, and its covariance."""
        n = len(self.place.theta)
        return self.step[len(self.step) - n :], self.covariance[len(self.step) - n :, len(self.step) - n :]


class Search:
    """What is asked for, and the rounds.

    `scenes`: the images, of several pairs as many. `light`: the curve, which holds the target. `pixel`: rows and
    columns of the image in each row and column here. `coarse`: whether a step will do that is nearly right.
    """

    def __init__(
        self,
        scenes: Sequence[Scene],
        target: Any,
        model: Model,
        selection: Selection,
        settings: Settings,
        light: Light | None = None,
        pixel: tuple[float, float] = (1.0, 1.0),
        *,
        coarse: bool = False,
    ) -> None:
        self.scenes, self.target, self.selection, self.settings = tuple(scenes), target, selection, settings
        self.listed, self.light, self.kind = isinstance(target, (list, tuple)), light, model.register
        self.model = dataclasses.replace(model, register=None, curve=None, curve_side="both")
        few = [axis for axis in (0, 1) if model.kernel_shape[axis] <= _FEW]
        self.few = self.kind is not None and bool(few)
        self.held = [axis for axis in (0, 1) if axis not in few and self.kind]  # whose shift follows from the kernel
        self.pixel = np.diag([*pixel, 1.0])  # whose sides may differ, so that a rotation there is none in pixels
        own = registration.GENERATORS[self.kind] if self.kind else ()
        own = tuple(np.linalg.inv(self.pixel) @ g @ self.pixel for g in own)
        first = [*own, *(registration.SHIFTS[axis] for axis in few if self.kind)]
        more = [registration.SHIFTS[axis] for axis in self.held if len(scenes) > 1]  # beside that of the first pair
        self.generators = [*first, *more]
        ends = np.cumsum([0, len(first), *[len(self.generators)] * (len(scenes) - 1)]).tolist()
        self.places = [range(a, b) for a, b in zip(ends[:-1], ends[1:], strict=True)]
        self.n_motion: int = ends[-1]
        self.coarse = coarse
        #: Whether what the place under each tap adds would be within the span of the taps, were these without end.
        self.spanned = not (self.few or model.strided or len(scenes) > 1)
        unit = min(registration.frame_of(scene.shape)[1] for scene in scenes)
        self.near = self.spanned and max(model.kernel_shape) <= _NEAR * unit
        self._spurious: Array | None = None
        self._lit: tuple[Array, tuple[Scene, ...]] | None = None

    def with_light(self, light: Light) -> "Search":
        """Return the search for another curve."""
        new = copy.copy(self)
        new.light, new._lit = light, None
        return new

    def wary(self, one: Round) -> "Search | None":
        """Return the search without target pixels predicted near an end at which the target is cut off."""
        # Those at the end are left out for their own noise, and their like that are not would tell of a lighter target.
        light, axis = self.light, self.model.channel_axis
        if light is None or light.ends == (None, None):
            return None
        targets, n_groups = light.targets(one.place.theta), len(one.plan.groups)
        masks = [np.ma.getmaskarray(t).copy() for t in (targets if self.listed else [targets])]
        counted = sum(mask.size - np.count_nonzero(mask) for mask in masks)
        for g, (group, estimates) in enumerate(zip(one.plan.groups, one.groups, strict=True)):
            for t, estimate in enumerate(estimates):
                for i, observation in enumerate(group):
                    alone = dataclasses.replace(observation, targets=observation.targets[t : t + 1])
                    seen = joint.Seen.of(alone, estimate, (g, i), self.settings.execution.threads)
                    weights = seen.weighed(slice(0, len(seen.model)))
                    noise = joint.noise_of(estimate) / np.sqrt(np.where(weights > 0, weights, np.inf))
                    pair = i * len(masks) // len(group)
                    mask = masks[pair]
                    if axis is not None and mask.ndim > 2:
                        n_own = max(1, len(group) // len(masks))
                        mask = np.moveaxis(mask, axis, 0)[g if n_groups > 1 else t if len(estimates) > 1 else i % n_own]
                    mask[alone.geometry.used] |= light.near_ends(seen.model + seen.surface(), noise, one.place.theta)
        left = sum(mask.size - np.count_nonzero(mask) for mask in masks)
        if not counted / 2 < left < counted:
            return None
        return self.with_light(dataclasses.replace(light, masks=masks if self.listed else masks[0]))

    @property
    def start(self) -> Place:
        """No motion, and the first curve."""
        return Place((np.eye(3),) * len(self.scenes), np.zeros(0) if self.light is None else self.light.start)

    def lit(self, theta: Array) -> tuple[Scene, ...]:
        """Return the scenes as light."""
        if self.light is None:
            return self.scenes
        if self._lit is None or not np.array_equal(self._lit[0], theta):
            self._lit = theta, tuple(scene.lit(self.light.lit(theta, 0)) for scene in self.scenes)
        return self._lit[1]

    def images(self, place: Place, slopes: list[list[Array]] | None = None) -> list[Any]:
        """Return the light of each image, registered; lists receive the slopes of the planes of each."""
        own: Sequence[list[Array] | None] = slopes or [None] * len(self.scenes)
        both = zip(self.lit(place.theta), place.matrices, own, strict=True)
        return [scene.at(matrix, some) for scene, matrix, some in both]

    def plan(self, place: Place) -> FitPlan:
        """Lay the registered images on the targets."""
        return self._laid(place, self.images(place))

    def plan_after(self, one: Round, place: Place) -> FitPlan:
        """Lay them on the targets at a place that is a step from a round's; a short one follows their slopes."""
        if not one.steep or self.light is not None or self.length(one.place, place) > _SHORT:
            return self.plan(place)
        images = []
        places = zip(one.place.matrices, place.matrices, strict=True)
        for scene, image, planes, (a, b) in zip(self.scenes, one.images, one.steep, places, strict=True):
            field = registration.generator_of(np.linalg.inv(a) @ b, scene.shape)
            grid = np.arange(float(scene.shape[0])), np.arange(float(scene.shape[1]))
            images.append(image + scene.joined([Moving(both, field, grid, scene.shape)[:, :] for both in planes]))
        return self._laid(place, images)

    def _laid(self, place: Place, images: list[Any]) -> FitPlan:
        model = self.model if self.light is None else self.light.filled(self.model, place.theta)
        target = self.target if self.light is None else self.light.targets(place.theta)
        return make_plan(images if self.listed else images[0], target, model, self.selection, made=True)

    def changed(self, changes: list[Any]) -> FitPlan:
        """Lay changes of the images on the targets; beyond the edge, where a value is given, there is none."""
        model = dataclasses.replace(self.model, fillvalue=0.0) if self.model.boundary == "fill" else self.model
        return make_plan(changes if self.listed else changes[0], self.target, model, self.selection, made=True)

    def round(self, place: Place) -> Round:
        """Warp, fit by least squares, and find the step."""
        steep = None if self.coarse or not self.n_motion else [list[Array]() for _ in self.scenes]
        images = self.images(place, steep)
        plan = self._laid(place, images)
        settings = dataclasses.replace(self.settings, solver=LeastSquares(), diagnosis=False)
        groups = [fit_of_group(plan, g, settings) for g in range(len(plan.groups))]
        one = Round(place, plan, groups, joint.nothing(groups), np.zeros(0), np.zeros((0, 0)))
        one = dataclasses.replace(one, images=images, steep=steep or ())
        theta, count = place.theta, self.n_motion + len(place.theta)
        if not count:
            return one
        shapes = [scene.shape for scene in self.scenes]
        slopes = Columns(plan, self.generators, self.places, shapes, count)
        columns = slopes
        if steep is not None and self.near:
            plans = [self.changed([self.scenes[0].joined([both[axis] for both in steep[0]])]) for axis in (0, 1)]
            columns = dataclasses.replace(slopes, steep=plans)
        elif steep is not None:
            columns = dataclasses.replace(slopes, changes=self.changes(steep))
        if self.light is not None and len(theta):
            light = self.light
            bent = zip(*(light.image_changes(np.ma.getdata(image), theta) for image in images), strict=True)
            changed = [self.changed(list(some)) for some in bent]
            columns = dataclasses.replace(columns, light=light, theta=theta, bent=changed)
        shares = joint.shares_of(plan, groups, columns, settings.execution.threads)
        if steep is not None and (self._spurious is None or len(self._spurious) != count):
            self._spurious = self._expected(groups, count)
            if self.solved(shares, groups, theta, self._spurious)[2] > _NONE:
                drawn = joint.drawn(groups)  # as good in every round
                other = slopes if self.spanned else dataclasses.replace(slopes, changes=columns.changes)
                errors = joint.shares_of(plan, drawn, other, settings.execution.threads)
                self._spurious, _ = joint.precision(errors, drawn)
        step, covariance, doubt = self.solved(shares, groups, theta, self._spurious)
        return dataclasses.replace(one, shares=shares, step=step, covariance=covariance, doubt=doubt, columns=columns)

    def _expected(self, groups: list[list[Estimate]], count: int) -> Array:
        """Return about how much of S the errors of the kernels make, were the picture the same everywhere."""
        # A frequency w has w^2 times the variance in the slopes of a prediction that it has in the prediction; the mean
        # of w^2 is pi^2 / 3, and all variances together are those of the noise times the number of taps.
        size = np.pi**2 / 3 * sum(one.kernel.size for estimates in groups for one in estimates)
        total = np.zeros((count, count))
        for scene, own in zip(self.scenes, self.places, strict=True):
            grid = np.meshgrid(*(np.linspace(0, n - 1, _GRID) for n in scene.shape))
            places = np.stack(grid, axis=-1).reshape(-1, 2)
            fields = [registration.field_at(g, places, scene.shape).ravel() for g in self.generators[: len(own)]]
            total[np.ix_(own, own)] = size / len(places) * np.array(fields) @ np.array(fields).T
        return total

    def solved(
        self, shares: list[list[joint.Share]], groups: list[list[Estimate]], theta: Array, spurious: Array | None = None
    ) -> tuple[Array, Array, float]:
        """Return the step of all parameters, its covariance, and how doubtful it is."""
        step, covariance, doubt = joint.solved(shares, groups, spurious)
        if self.light is not None:
            step, covariance = self.light.believed(theta, step, covariance)
        return step, covariance, doubt

    def gain(self, one: Round) -> Array:
        """Return by how much the parameters change with J'W r."""
        table, told = joint.precision(one.shares, one.groups)
        gain, _ = joint.gain_of(table, self._spurious)
        if self.light is None or self.light.near is None:
            return gain
        own = gain @ table @ gain.T
        return np.asarray(one.covariance @ np.linalg.pinv(own, hermitian=True) @ gain)

    def changes(self, slopes: Sequence[Sequence[Array]]) -> list[FitPlan]:
        """Lay the change of each registered image with each generator on the target: its slopes times their fields."""
        found = []
        for scene, planes in zip(self.scenes, slopes, strict=True):
            places = np.arange(float(scene.shape[0])), np.arange(float(scene.shape[1]))
            made = [[Moving(both, g, places, scene.shape)[:, :] for both in planes] for g in self.generators]
            found.append([scene.joined(some) for some in made])
        return [self.changed(list(some)) for some in zip(*found, strict=True)]

    def after(self, one: Round, centroid: Array) -> Place:
        """Return the place after a round's step, with the shift that brings the kernel's centroid to its own."""
        matrices = []
        for scene, places, matrix in zip(self.scenes, self.places, one.place.matrices, strict=True):
            total, unit = np.zeros((3, 3)), registration.frame_of(scene.shape)[1]
            for i, generator in zip(places, self.generators, strict=False):
                total += one.step[i] * generator
            for axis in self.held:
                total -= centroid[axis] / unit * registration.SHIFTS[axis]
            moved = matrix @ registration.motion(total, scene.shape) if self.kind else matrix
            matrices.append(registration.scaled(moved))
        theta = one.place.theta
        return Place(tuple(matrices), theta if self.light is None else self.light.stepped(theta, one.bend[0]))

    def without_shift(self, place: Place) -> Place:
        """Return motions without the shift that the kernel can hold, and with whole pixels of it beyond that."""
        first = place.matrices[0]
        (middle, _), out = registration.frame_of(self.scenes[0].shape), np.eye(3)
        shift = registration.moved(first, middle[None])[0] - middle
        for axis in self.held:
            kept = abs(shift[axis]) <= _KEPT * self.model.kernel_shape[axis]
            out[axis, 2] = (0.0 if kept else round(shift[axis])) - shift[axis]
        common = np.linalg.inv(first) @ out @ first  # in the pixels of the targets
        matrices = [out @ first, *(one @ common for one in place.matrices[1:])]
        return dataclasses.replace(place, matrices=tuple(map(registration.scaled, matrices)))

    def effects(self, place: Place, pair: int, *, gauge: bool) -> Array:
        """Return each corner's displacement for a unit of each parameter, (8, parameters); `gauge`: shifts last."""
        shape, matrix = self.scenes[pair].shape, place.matrices[pair]
        more = [registration.SHIFTS[axis] for axis in self.held if gauge]
        corners, step = registration.corners_of(shape), 1e-6
        found = [
            registration.moved(matrix @ registration.motion(sign * step * g, shape), corners).ravel()
            for g in [*self.generators[: len(self.places[pair])], *more]
            for sign in (1.0, -1.0)
        ]
        ends = np.array(found).reshape(-1, 2, 8)
        return np.asarray((ends[:, 0] - ends[:, 1]).T / (2 * step))

    def length(self, before: Place, after: Place) -> float:
        """Return by how many pixels a step displaces the corners at most."""
        found = [0.0]
        for scene, a, b in zip(self.scenes, before.matrices, after.matrices, strict=True):
            corners = registration.corners_of(scene.shape)
            there = registration.moved(registration.scaled(np.linalg.inv(a) @ b), corners)
            found.append(float(np.linalg.norm(there - corners, axis=1).max()))
        return max(found)


def centroid_of(taps: Array, conv: geometry.Convention) -> tuple[Array, Array] | None:
    """Return by how much a kernel's centroid lags behind its middle, and for each tap, (2, taps); None of sum 0."""
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
