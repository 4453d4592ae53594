"""The one judge of input: what may be an image and a target, and how their pixels are read, a block at a time."""

import dataclasses
import functools
import operator
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from ..core import geometry
from ..core.background import Columns, Surface
from ..core.field import Field
from ..core.findings import PREPARE
from ..core.geometry import Convention, Geometry, Shape
from ..core.mode import infer_mode, require_determined
from ..core.model import Model
from ..core.validation import Array
from ..core.variation import Weight
from . import chunked
from .chunked import require_same_axes
from .reader import Reader, plain

#: The kinds of NumPy's types that are real numbers, and those that are numbers.
REAL, NUMBERS = "biuf", "biufc"
#: Numbers along an axis that are likely to be colours.
_MOST_COLOURS = 4
#: Channels that lie side by side, of each pixel, are copied apart where they are so many, in so many bytes at most.
_MANY, _APART = 8, 2**24


@dataclass(frozen=True)
class Plane:
    """A plane of a volume's target, of that `shape` and `convention`: its sources are planes of the image."""

    volume: int  # number of the volume among those of the fit
    at: int  # which plane of the target
    images: tuple[int | None, ...]  # which plane of the image each source is; None for one of fill values
    extended: bool  # whether one of them stands beyond the image
    convention: Convention
    shape: tuple[int, int, int]
    n_channels: int = 1  # of the image, whose planes stand one channel behind the other
    first: int = 0  # the first plane of the target that is used


@dataclass(frozen=True)
class Observation:
    """What accumulation needs: the geometry, and the readers of the source and target planes."""

    # `where` names the pair and channel in messages; `background` is the degree of the polynomial surface that each
    # target holds, None without one. `frame` tells the whole target's shape and the first used pixel's place, on which
    # the surface is laid, where the geometry does not. `imaginary`: whether it is that of the imaginary parts.

    geometry: Geometry
    sources: tuple[Reader, ...]
    targets: tuple[Reader, ...]
    where: str = ""
    background: int | None = None
    frame: tuple[Shape, Shape] | None = None
    imaginary: bool = False
    plane: Plane | None = None

    @property
    def supports(self) -> tuple[Any, ...]:
        """Sides of the kernel of each term: of each source, or of all planes of a channel of a volume together."""
        sides = self.geometry.kernel_shape
        n = len(self.sources) if self.plane is None else self.plane.n_channels
        return (sides if self.plane is None else (len(self.sources) // n, *sides),) * n

    @property
    def convention(self) -> Convention:
        """How the kernel that is to be found lies on the image, or on the volume."""
        return self.geometry.convention if self.plane is None else self.plane.convention

    @property
    def size(self) -> Shape:
        """Rows and columns of target pixels used."""
        return self.geometry.size

    @property
    def unit(self) -> float | complex:
        """What a pixel of 1 stands for."""
        return 1j if self.imaginary else 1.0

    @property
    def surface_frame(self) -> tuple[Shape, Shape]:
        """Shape of the whole target, and the place of the first used pixel in it."""
        return self.frame or (self.geometry.target_shape, self.geometry.offset)

    @property
    def whole(self) -> Any:
        """Shape of the whole target, of a plane that of its volume's."""
        return self.surface_frame[0] if self.plane is None else self.plane.shape

    @property
    def columns(self) -> Columns:
        """The terms of the background on the used pixels."""
        return self.columns_on(*self.surface_frame, self.size)

    def columns_on(self, whole: Shape, corner: Shape, size: Shape) -> Columns:
        """Return the terms on a part of the target, or of the plane."""
        degree, plane = self.background or 0, self.plane
        flat = Columns.of(whole, corner, size, degree)
        return flat if plane is None else flat.on_plane(plane.at, plane.shape[0], degree)


def of_target(observation: Observation, at: int) -> Observation:
    """Return the observation of one of its targets."""
    return dataclasses.replace(observation, targets=(observation.targets[at],))


def as_image(value: object, name: str, kinds: str = REAL, *, alone: bool = False) -> Any:
    """Return `value` as something 2-D, of some kinds of numbers and sliceable, or say why it is none.

    `alone` says that there are neither channels nor volumes nor lists where it is needed.
    """
    array = as_array(value, name, kinds)
    shape = tuple(array.shape)
    if len(shape) != 2:
        remedies = [
            "say which axis holds the channels (channel_axis); pass list(image) and list(target) if they are pairs "
            "that share a kernel",
            "if it is a volume, give the kernel's shape as three numbers (planes, rows, columns)",
        ]
        likely = -1 if min(shape[:1] + shape[-1:], default=0) > _MOST_COLOURS else 1
        remedy = "give one plane of it, of colours such as [..., 1]" if alone else "; ".join(remedies[::likely])
        of_signal = "" if alone or len(shape) != 1 else "give the kernel's shape as one number if it is a signal, or "
        raise ValueError(
            f"got {name} with {len(shape)} dimensions (shape {shape}), need 2; "
            f"{remedy if len(shape) == 3 else of_signal + 'reshape it to rows and columns'}"
        )
    if 0 in shape:
        raise ValueError(f"got an empty {name} (shape {shape}), need at least one pixel")
    if isinstance(array, np.ndarray):
        return plain(array)
    return chunked.sliceable(array)


def as_planes(value: object, name: str, axis: int | None, kinds: str = REAL) -> list[Any]:
    """Return the channels of an image along an axis, each as `as_image` does; None for an image of one plane."""
    if axis is None:
        return [as_image(value, name, kinds)]
    array = as_array(value, name, kinds)
    shape = tuple(array.shape)
    if len(shape) != 3:
        raise ValueError(
            f"got {name} with {len(shape)} dimensions (shape {shape}) and channel_axis={axis}, need 3: rows, columns "
            "and channels; leave channel_axis out for a single plane, or add an axis to it"
        )
    try:
        at = range(3)[operator.index(axis)]
    except TypeError:
        raise TypeError(f"got channel_axis={axis!r}, need an int, or None for images of one plane") from None
    except IndexError:
        raise ValueError(f"got channel_axis={axis}, need one of -3 to 2 for arrays of 3 dimensions") from None
    if 0 in shape:
        raise ValueError(f"got an empty {name} (shape {shape}), need at least one pixel and one channel")
    if isinstance(array, np.ndarray):
        planes: list[Any] = list(np.moveaxis(array, at, 0))
        found = [plain(plane) for plane in planes]
        if at == 2 and len(planes) >= _MANY and array.nbytes <= _APART and type(found[0]) is np.ndarray:
            found = list(np.ascontiguousarray(found))  # else each is read by cache lines that hold the others
        return found
    return chunked.planes(array, at)


def as_array(value: object, name: str, kinds: str = REAL) -> Any:
    """Return `value` as something of some kinds of numbers and sliceable, or say why it is none."""
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise ValueError(f"got a masked {name}; need plain numbers here: find_kernel and accumulate take masks")
    if not (hasattr(value, "shape") and hasattr(value, "dtype") and hasattr(value, "__getitem__")):
        try:
            value = np.asarray(value)
        except ValueError as error:
            msg = f"got {name} that is no rectangular array ({error}); need a 2-D array of numbers"
            raise ValueError(msg) from None
    array: Any = value
    dtype = np.dtype(array.dtype)
    if dtype.kind not in kinds:
        remedy = "pass its real part or its magnitude" if dtype.kind == "c" else "convert it to numbers first"
        if dtype.kind in "SU" or (dtype.kind == "O" and array.ndim == 0):  # names of files, or nothing
            given = array.item() if array.ndim == 0 else ""
            remedy = "give one" if given is None else "read the file first, as with skimage.io.imread(path)"
            remedy = "pass its kernel: fit.kernel" if hasattr(given, "kernel") else remedy
        need = "real numbers (integers or floats)" if kinds == REAL else "numbers"
        raise TypeError(f"got {name} of dtype {dtype}, need {need}; {remedy}")
    return array


def as_observation(image: object, target: object, model: Model, *, determined: bool = True) -> Observation:
    """Judge one pair of planes; return what is to be solved, unless told otherwise a determined one."""
    require_same_axes(image, target)
    observation = lay_pair(as_image(image, "image"), as_image(target, "target"), model)
    if determined or observation.geometry.n_pixels == 0:
        require_determined([observation.geometry])
    return observation


def lay_pair(source: Any, result: Any, model: Model) -> Observation:
    """Lay the plane of an image on that of a target."""
    kernel = model.kernel_shape
    size = tuple(result.shape)
    mode = model.mode
    if mode != "crop":
        mode = infer_mode(tuple(source.shape), size, kernel, mode, *model.lattice)
    conv = model.convention(mode, size)
    plan = geometry.lay_out(tuple(source.shape), kernel, conv)
    readers = (source_reader(source, plan),), (target_reader(result, plan),)
    return Observation(plan, *readers, background=model.background)


def source_reader(array: Any, plan: Geometry) -> Reader:
    """Return the reader of the extended image."""
    conv = plan.convention
    return Reader(array, plan.extended_shape, plan.before, conv.boundary, conv.fillvalue)


def varied(observation: Observation, variation: Any) -> Observation:
    """Return the observation of a kernel that varies: of each source its products with the functions of the place."""
    plan = observation.geometry
    field = Field(variation.on(plan.image_shape) if hasattr(variation, "on") else variation, plan.image_shape)
    sources = tuple(dataclasses.replace(r, weight=weight) for r in observation.sources for weight in field.weights)
    conv = dataclasses.replace(plan.convention, field=field)
    return dataclasses.replace(observation, geometry=dataclasses.replace(plan, convention=conv), sources=sources)


def extended_weights(plan: Geometry) -> tuple[Weight | None, ...]:
    """Return the functions by which a kernel varies on the pixels of the extended image; None for 1."""
    field = plan.convention.field
    if field is None:
        return (None,)
    axes = zip(plan.before, plan.extended_shape, plan.image_shape, strict=True)
    rows, cols = (geometry.positions(-b, k, 1, n, plan.convention.boundary) for b, k, n in axes)
    return tuple(None if weight is None else weight.part(rows, cols) for weight in field.weights)


def target_reader(array: Any, plan: Geometry) -> Reader:
    """Return the reader of the target pixels that are used."""
    if isinstance(array, chunked.Chunked):
        rows, cols = plan.used
        array.cells.used = rows.start, rows.stop, cols.start, cols.stop
    return Reader(array, plan.size, (-plan.offset[0], -plan.offset[1]))


def surface_readers(observation: Observation, stride: Shape = (1, 1)) -> tuple[Reader, ...]:
    """Return readers of the terms of a problem's background, laid like its targets, or with its stride its sources."""
    degree, plan = observation.background, observation.geometry
    if degree is None:
        return ()
    down, across = stride
    shape = (down * plan.size[0], across * plan.size[1])
    whole, (row, col) = observation.surface_frame
    before = (-down * row, -across * col)
    terms, scales = observation.columns.powers, observation.columns.scales
    each = np.ones(len(terms)) if scales is None else scales
    surfaces = (Surface(whole, degree, (i, j), stride, scale) for (i, j), scale in zip(terms, each, strict=True))
    return tuple(Reader(one, shape, before) for one in surfaces)


def bands(array: Any, rows: slice | None = None, cols: slice = slice(None)) -> Iterator[tuple[slice, Any]]:
    """Yield an array, or a part of it, as bands of rows that are read at once: where they stand, and their pixels."""
    first, last = (0, array.shape[0]) if rows is None else (rows.start, rows.stop)
    step = max(1, 2**20 // max(1, array.shape[1]))
    for start in range(first, last, step):
        band = slice(start, min(start + step, last))
        yield band, np.asarray(array[band, cols])


def refuse_nonfinite(observation: Observation) -> NoReturn:
    """Say which pixels made the sums overflow or turn into NaN."""
    many = len(set(map(id, _wholes(observation.sources)))) > 1
    for name, readers in (("image", observation.sources), ("target", observation.targets)):
        arrays = {id(array): array for array in _wholes(readers)}
        for channel, array in enumerate(arrays.values()):
            count, first = 0, (0, 0)
            for band, block in bands(array):
                bad = ~np.isfinite(block if block.dtype.kind == "c" else block.astype(np.float64, copy=False))
                if not count and bad.any():
                    row, col = np.argwhere(bad)[0]
                    first = (band.start + int(row), int(col))
                count += int(bad.sum())
            if count and observation.plane is not None:
                of_image = observation.plane.images[channel] if name == "image" else observation.plane.at
                place = f"{observation.where}, plane {of_image}".removeprefix(", ")
                raise ValueError(
                    f"got {name} of {place} with {count} pixel{'s' * (count > 1)} NaN or infinite, the first at (row, "
                    f"column) {first}; need finite pixels; exclude them with nan='mask'; or crop to a part without "
                    f"them {PREPARE}"
                )
            if count:
                places = [observation.where, f"channel {channel}" if many else ""]
                place = f" of {', '.join(filter(None, places))}" if any(places) else ""
                raise ValueError(
                    f"got {name}{place} with {count} pixel{'s' if count > 1 else ''} that "
                    f"{'are' if count > 1 else 'is'} NaN or infinite, "
                    f"the first at (row, column) {first}; need finite pixels; exclude them "
                    f"with nan='mask'; or crop to a part without them {PREPARE}"
                )
    msg = "got pixels so large that the sums of their products overflow; divide the image and the target by a constant"
    raise ValueError(msg)


def _wholes(readers: Sequence[Reader]) -> list[Any]:
    """Return the arrays that are read, of parts of complex ones these."""
    return [getattr(reader.array, "whole", reader.array) for reader in readers]


def refuse_tiny(observation: Observation) -> None:
    """Refuse an image or a target that is not zero although the sum of its squares nearly is."""
    for name, readers in (("image", observation.sources), ("target", observation.targets)):
        largest = 0.0
        for reader in readers:
            for _, block in bands(reader.array):
                largest = max(largest, float(np.abs(np.asarray(block, float)).max()))
        if 0 < largest < 2.0**-505:
            raise ValueError(
                f"got {name} pixels of {largest:.2g} at most, so small that their squares underflow; "
                "multiply the image and the target by a constant"
            )


Weights = npt.NDArray[np.float64] | npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class WeightedObservation:
    """A pair, what must not be read of which reads as zero, with a weight for each target pixel that is used."""

    observation: Observation
    #: (rows, cols) of the used target; not negative; or what stands in for such an array, and is made block by block
    weights: Weights

    @functools.cached_property
    def n_pixels(self) -> int:
        """Number of pixels with a weight."""
        known = getattr(self.weights, "n_nonzero", None)
        if known is None and self.weights.dtype != np.bool_ and self.weights.min() > 0:  # quicker than to count them
            known = self.weights.size
        return int(np.count_nonzero(self.weights)) if known is None else int(known)

    @property
    def n_taps(self) -> int:
        """Number of taps, of all sources."""
        return len(self.observation.sources) * self.observation.geometry.n_taps

    @functools.cached_property
    def columns(self) -> Columns | None:
        """The terms of the background, None without one."""
        degree = self.observation.background
        return None if degree is None else self.observation.columns

    @property
    def n_terms(self) -> int:
        """Number of terms of the background."""
        return 0 if self.columns is None else self.columns.n


#: The pairs of one kernel, of one target each, with their weights.
Items = Sequence[WeightedObservation]


def lots(observations: Sequence[Observation]) -> list[list[int]]:
    """Return which observations belong together: the planes of a volume, which share a background; else each alone."""
    if observations[0].plane is None:
        return [[i] for i in range(len(observations))]
    found: dict[int, list[int]] = {}
    for i, one in enumerate(observations):
        found.setdefault(one.plane.volume if one.plane else i, []).append(i)
    return list(found.values())


def halves(observations: Sequence[Observation]) -> list[tuple[list[int], list[int]]]:
    """Return which observations are of the real parts of complex numbers that belong together, which of the others."""
    every = lots(observations)
    return list(zip(every[::2], every[1::2], strict=True))


def own_row(observation: Observation, coefficients: Array, at: int, n: int) -> Array:
    """Return the coefficients of the background of an observation, the one at a place among n."""
    if observation.plane is not None:
        return np.asarray(coefficients.reshape(-1, coefficients.shape[-1])[observation.plane.volume])
    return np.asarray(coefficients.reshape(n, -1)[at])


def lots_of(items: Items) -> list[list[int]]:
    """Return which items belong together, as `lots` does."""
    return lots([item.observation for item in items])


def n_unknowns(items: Items) -> int:
    """Return the number of taps and of coefficients of all backgrounds."""
    terms = items[0].n_terms
    return items[0].n_taps + (terms * len(lots_of(items)) if terms else 0)


def own_unknowns(items: Items, lot: int) -> npt.NDArray[np.int64]:
    """Return which of the unknowns concern a pair, or a volume: the taps and its own coefficients."""
    taps, terms = items[0].n_taps, items[0].n_terms
    return np.asarray(np.r_[:taps, taps + lot * terms : taps + (lot + 1) * terms])


def together(items: Items, parts: Iterable[Array]) -> Array:
    """Add up vectors, or matrices, over the unknowns of each pair, or volume, to those over all."""
    total, size = np.zeros(0), n_unknowns(items)
    for i, part in enumerate(parts):
        total = total if total.size else np.zeros((size,) * part.ndim)
        total[np.ix_(*[own_unknowns(items, i)] * part.ndim)] += part
    return total


def of_lots(items: Items, parts: Iterable[Array]) -> list[Array]:
    """Add up vectors, or matrices, over the unknowns of each item to those of each lot."""
    found: list[Array] = []
    each = iter(parts)
    for lot in lots_of(items):
        total = next(each)
        for _ in lot[1:]:
            total = total + next(each)
        found.append(total)
    return found
