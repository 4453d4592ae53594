"""Volumes: a plane of the target is an observation whose sources are planes of the image, one for each of the kernel.

With the valid problem of `core.geometry` along the depth as well, ``target[z, t] = sum_du c[d, u] P[z + d, t + u]``:
the planes P[z + d] are the sources of target plane z, and all target planes share the kernels of these sources, which
stacked are the kernel of the volume.
"""

import dataclasses
import re
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import numpy as np

from ..core import geometry
from ..core.background import require_room
from ..core.estimate import Estimate
from ..core.mode import infer_mode
from ..core.model import Model, as_ends
from . import chunked
from .masked_blocks import MARKS, NUMBERED, laid
from .masking import PlaneSelection, as_mask, as_weights, count_at_ends
from .observation import REAL, Observation, Plane, Weights, as_array, lots, source_reader, target_reader
from .reader import Reader, plain

T = TypeVar("T")
#: Planes whose residual is looked at, and those whose edges are.
_MOST_PLANES, _MOST_EDGES = 6, 4
_NOTE = re.compile(r"(\d+) of (\d+) (target pixels .*)")


def as_volumes(value: object, name: str, axis: int | None = None, kinds: str = REAL) -> list[list[Any]]:
    """Return the planes of each channel of something of four dimensions; without an axis of channels of one volume."""
    if axis is None:
        return [as_volume(value, name, kinds)]
    array = as_array(value, name, kinds)
    shape = tuple(array.shape)
    if len(shape) != 4:
        raise ValueError(
            f"got {name} with {len(shape)} dimensions (shape {shape}), a kernel of three and channel_axis={axis}, need "
            "4: planes, rows, columns and channels; leave channel_axis out for a single channel, or add an axis to it"
        )
    if not -4 <= axis < 4:
        raise ValueError(f"got channel_axis={axis}, need one of -4 to 3 for arrays of 4 dimensions")
    if 0 in shape:
        raise ValueError(f"got an empty {name} (shape {shape}), need at least one pixel and one channel")
    if isinstance(array, np.ndarray):
        return [as_volume(one, name, kinds) for one in np.moveaxis(array, axis, 0)]
    return [as_volume(chunked.Plane(array, axis % 4, i), name, kinds) for i in range(shape[axis])]


def as_volume(value: object, name: str, kinds: str = REAL) -> list[Any]:
    """Return the planes of something of three dimensions, as `as_image` does, or say why it is none."""
    array = as_array(value, name, kinds)
    shape = tuple(array.shape)
    if len(shape) != 3:
        remedies = {
            2: "give the kernel the sides of an image",
            4: "say which axis holds the channels (channel_axis), or pass lists of volumes if they are pairs",
        }
        raise ValueError(
            f"got {name} with {len(shape)} dimensions (shape {shape}) and a kernel of three, need 3: planes, rows and "
            f"columns; {remedies.get(len(shape), 'reshape it')}"
        )
    if 0 in shape:
        raise ValueError(f"got an empty {name} (shape {shape}), need at least one pixel")
    if isinstance(array, np.ndarray):
        return [plain(plane) for plane in array]
    return chunked.planes(array, 0)


def lay_volume(
    sources: Sequence[Sequence[Any]], results: Sequence[Sequence[Any]], model: Model, number: int, where: str
) -> list[Observation]:
    """Lay the planes of an image's channels on a target's; return an observation for each target plane that is used."""
    kernel = model.kernel_shape
    image, target = ((len(some[0]), *some[0][0].shape) for some in (sources, results))
    mode = model.mode
    if mode != "crop":
        mode = infer_mode(image, target, kernel, mode, *model.lattice)
    conv = model.convention(mode, target)
    found = list(lay_planes(sources, results, kernel, conv, number, where, model.background))
    if not found or not found[0].geometry.n_pixels:
        sides = ("x".join(map(str, some)) for some in (image, kernel))
        msg = "got {}a volume of {}, inside which no {} footprint lies; declare a boundary, or ask for a smaller shape"
        raise ValueError(msg.format(f"{where} with " if where else "", *sides))
    return found


def _laid(image: Any, kernel: Any, conv: geometry.Convention) -> tuple[geometry.Geometry, geometry.Geometry]:
    """Return the geometry along the depth, as if that were a row, and that of a plane."""
    if conv.mode == "valid" or conv.boundary not in (None, "fill"):
        if any(k > n for k, n in zip(kernel, image, strict=True)):
            sides = ("x".join(map(str, some)) for some in (kernel, image))
            raise ValueError("got a kernel of {}, larger than the volume of {}; ask for a smaller shape".format(*sides))
    depth, flat = (along(conv, axes) for axes in (slice(0, 1), slice(1, 3)))
    return geometry.lay_out((1, image[0]), (1, kernel[0]), depth), geometry.lay_out(image[1:], kernel[1:], flat)


def target_shape(image: Any, kernel: Any, conv: geometry.Convention) -> tuple[int, int, int]:
    """Return the shape of what a kernel makes of a volume."""
    along, plan = _laid(image, kernel, conv)
    return along.target_shape[1], *plan.target_shape


def lay_planes(
    sources: Sequence[Sequence[Any]],
    results: Sequence[Sequence[Any]],
    kernel: Any,
    conv: geometry.Convention,
    number: int = 0,
    where: str = "",
    background: int | None = None,
) -> Iterator[Observation]:
    """Yield an observation for each plane of a target that can be used, given the planes of each channel."""
    image, target = ((len(some[0]), *some[0][0].shape) for some in (sources, results))
    along, plan = _laid(image, kernel, conv)
    step, first, before = conv.stride[0], along.offset[1], along.before[1]
    kind = np.complex128 if np.dtype(sources[0][0].dtype).kind == "c" else np.float64
    filled = np.broadcast_to(kind(conv.fillvalue), plan.image_shape)
    seen: dict[tuple[int, int | None], Reader] = {}
    for z in range(along.size[1]):
        at = _places(step * z - before, kernel[0], image[0], conv.boundary)
        extended = any(not 0 <= step * z - before + d < image[0] for d in range(kernel[0]))
        if plan.flipped:
            at = at[::-1]
        both = [(c, i) for c in range(len(sources)) for i in at]
        for c, i in both:
            if (c, i) not in seen:
                seen[c, i] = source_reader(filled if i is None else sources[c][i], plan)
        readers = tuple(seen[one] for one in both)
        plane = Plane(number, first + z, tuple(at), extended, conv, target, len(sources), first)
        own = tuple(target_reader(one[first + z], plan) for one in results)
        yield Observation(plan, readers, own, where, background, plane=plane)


def along(conv: geometry.Convention, axes: slice) -> geometry.Convention:
    """Return a convention along some axes of a volume, those of depth alone as if it were a row."""
    lone = axes.stop == 1
    across = {"origin": 0, "stride": 1, "offset": 0, "size": 1}
    own: dict[str, Any] = {}
    for name, value in across.items():
        given = getattr(conv, name)
        own[name] = None if given is None else ((value,) if lone else ()) + tuple(given[axes])
    return dataclasses.replace(conv, **own, ndim=2)


def _places(start: int, count: int, n: int, boundary: str | None) -> list[int | None]:
    """Return which of n planes stands at each of some extended positions; None for one of fill values."""
    found: list[int | None] = []
    for _, first, length, step in geometry.axis_runs(start, start + count, n, boundary):
        found += [None if first is None else first + step * i for i in range(length)]
    return found


def images_under(conv: geometry.Convention, at: int, n_images: int, kernel: Any) -> list[int | None]:
    """Return which plane of an image each source of a target plane is under a boundary, as `lay_planes` has them."""
    row, start = _under(conv, at, n_images, kernel[0])
    places = _places(start, kernel[0], n_images, conv.boundary)
    return places[::-1] if row.flipped else places


def _under(conv: geometry.Convention, at: int, n_images: int, depth: int) -> tuple[geometry.Geometry, int]:
    """Return the geometry along the depth, and where what is read for a target plane begins among the image's."""
    row = geometry.lay_out((1, n_images), (1, depth), along(conv, slice(0, 1)))
    return row, conv.stride[0] * (at - row.offset[1]) - row.before[1]


def runs_under(plane: Plane, count: int, n_images: int) -> list[geometry.Run]:
    """Return which planes of an image are read for some target planes from one on, as `axis_runs` does."""
    conv, depth = plane.convention, len(plane.images)
    _, start = _under(conv, plane.at, n_images, depth)
    return geometry.axis_runs(start, start + conv.stride[0] * (count - 1) + depth, n_images, conv.boundary)


def require_determined(observations: Sequence[Observation], *, determined: bool = True) -> None:
    """Refuse volumes that together have fewer target pixels than there are unknowns, if they are to be `determined`."""
    first = observations[0]
    n, terms = sum(one.geometry.n_pixels for one in observations), 0
    if first.background is not None:
        for lot in lots(observations):
            one = observations[lot[0]]
            terms += require_room((len(lot), *one.size), one.whole, first.background, one.where)
    m = len(first.sources) * first.geometry.n_taps
    if determined and n < m + terms:
        beside = f" and {terms} coefficients of the background" if terms else ""
        sides, conv = "x".join(map(str, first.supports[0])), first.convention
        edge = ", or declare a boundary, without which only whole footprints inside the image count"
        raise ValueError(
            f"{n} target pixels cannot determine the {m} taps of a {sides} kernel{beside}; ask for a smaller shape"
            f"{edge if conv.boundary is None and conv.mode != 'valid' else ''}"
        )


# ---- what of the volume does not count ------------------------------------------------------------------------------


class VolumeSelection:
    """What a user says of the pixels of one volume that do not count, asked for plane by plane."""

    def __init__(self, given: Any, observations: Sequence[Observation], n_images: int, *, stored: bool = False) -> None:
        """Judge it: `given` has masks, image_masks, weights, nan and saturated as in `PlaneSelection`."""
        # Of what is `stored` no value is looked at here: block by block somebody else judges those.
        plane = observations[0].plane
        assert plane is not None
        self.given, self.stored, shape = given, stored, plane.shape
        image = (n_images, *observations[0].geometry.image_shape)
        if stored:
            self.masks: list[Any] = [laid(mask, shape, "mask", *MARKS) for mask in given.masks if mask is not None]
            self.image_masks: list[list[Any]] = [
                [
                    laid(mask, image, "image_mask", *MARKS)
                    for mask in own
                    if mask is not None and getattr(mask, "few", True)
                ]
                for own in given.image_masks
            ]
            self.weights: Any = None if given.weights is None else laid(given.weights, shape, "weights", *NUMBERED)
            self.saturated = given.saturated
            return
        self.masks = [as_mask(mask, shape, "mask") for mask in given.masks]
        #: of each channel
        self.image_masks = [[as_mask(mask, image, "image_mask") for mask in own] for own in given.image_masks]
        excluded = [mask for mask in self.masks if mask is not None]
        self.weights = as_weights(given.weights, shape, np.any(excluded, axis=0) if excluded else None)
        self.saturated = self._ends(given.saturated, observations)

    def _ends(self, saturated: object, observations: Sequence[Observation]) -> object:
        """Return the ends from which pixels are saturated, None where nearly all of the volume stands there."""
        dtype = observations[0].targets[0].array.dtype
        ends = as_ends(saturated, dtype)
        if ends is None or not isinstance(saturated, str):
            return saturated
        n = sum(one.geometry.n_pixels for one in observations)
        hit = sum(count_at_ends(one.targets[0].array, one.geometry.used, ends) for one in observations)
        taps = len(observations[0].sources) * observations[0].geometry.n_taps
        return None if not hit or n - hit < max(0.05 * n, 10 * taps) else ends

    def of(self, plane: Plane) -> PlaneSelection:
        """Return what concerns a plane."""
        return PlaneSelection(
            masks=tuple(_on(mask, plane.at, stored=self.stored) for mask in self.masks),
            image_masks=tuple(
                tuple(None if i is None else _on(mask, i, stored=self.stored) for mask in own)
                for own in self.image_masks
                for i in plane.images
            )
            if any(mask is not None for mask in self.image_masks)
            else (),
            weights=_on(self.weights, plane.at, stored=self.stored),
            nan=self.given.nan,
            saturated=self.saturated,
        )


def _on(value: Any, at: int, *, stored: bool) -> Any:
    """Return a plane of a mask, or of weights."""
    return None if value is None else chunked.Plane(value, 0, at) if stored else value[at]


def merged(notes: Sequence[str], observations: Sequence[Observation]) -> list[str]:
    """Return notes of planes as notes of their volumes: pixels excluded for one reason are counted together."""
    counts: dict[str, int] = {}
    parts = 2 if observations[0].geometry.convention.apart else 1  # of each number

    def whole(what: str) -> int:
        named = (one for one in observations if not one.where or f" in {one.where}: " in what)
        return sum(one.geometry.n_pixels for one in named) // parts

    rest = []
    for note in notes:
        found = _NOTE.fullmatch(note)
        if found:
            counts[found[3]] = counts.get(found[3], 0) + int(found[1])
        else:
            rest.append(note)
    return [f"{n // parts} of {whole(what)} {what}" for what, n in counts.items()] + list(dict.fromkeys(rest))


def sampled(
    observations: Sequence[Observation], weights: Sequence[T] | None, most: int = _MOST_PLANES
) -> tuple[Sequence[Observation], Sequence[T] | None]:
    """Return some planes of volumes of many, evenly spread, and their weights, or what there is of each."""
    n = len(observations)
    if observations[0].plane is None or n <= most:
        return observations, weights
    chosen = [int((i + 0.5) * n / most) for i in range(most)]
    return [observations[i] for i in chosen], None if weights is None else [weights[i] for i in chosen]


def with_edges(observations: Sequence[Observation], estimate: Estimate) -> tuple[Sequence[Observation], Estimate]:
    """Return some planes of volumes of many, the first and the last of each among them, and the estimate of those."""
    every, kept = lots(observations), estimate.weights
    if observations[0].plane is None or len(observations) <= _MOST_EDGES:
        return observations, estimate
    chosen = [i for lot in every for i in sorted({lot[0], lot[len(lot) // 3], lot[2 * len(lot) // 3], lot[-1]})]
    if isinstance(kept, tuple):
        estimate = dataclasses.replace(estimate, weights=tuple(kept[i] for i in chosen))
    return [observations[i] for i in chosen], estimate


def stacked(observations: Sequence[Observation], weights: Sequence[Weights]) -> tuple[Weights, ...]:
    """Return the weights of planes, each of its target plane's shape, as one array for each volume."""
    found: dict[int, Weights] = {}
    for one, own in zip(observations, weights, strict=True):
        plane = one.plane
        assert plane is not None
        blank: Any = np.zeros(plane.shape if plane.volume not in found else 0, dtype=own.dtype)
        whole = found.setdefault(plane.volume, blank)
        if whole.dtype != own.dtype:
            whole = found[plane.volume] = whole.astype(np.float64)
        whole[plane.at] = own
    return tuple(found.values())
