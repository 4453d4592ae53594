"""The one judge of input: what may be an image and a target, and how their pixels are read, a block at a time."""

import math
import numbers
import operator
import os
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from . import chunks, geometry
from .exact.background import Surface, powers
from .geometry import Geometry, Shape

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Reader:
    """Reads blocks of an (extended) image as float64; the image itself is never copied whole, nor changed.

    Position (0, 0) of the reader is pixel ``(-before[0], -before[1])`` of the array, and positions are `stride` pixels
    apart; `shape` is the extent that counts, in positions, and everything outside it reads as zero.
    """

    array: Any
    shape: Shape
    before: Shape = (0, 0)
    boundary: str | None = None
    fillvalue: float = 0.0
    stride: Shape = (1, 1)

    def read(self, out: Array, row: int, col: int) -> None:
        """Fill `out` with the block whose first pixel stands at (`row`, `col`)."""
        (n_rows, n_cols), (step, pace), (height, width) = self.array.shape, self.stride, out.shape
        y, x = row * step - self.before[0], col * pace - self.before[1]
        inside = y + (height - 1) * step < n_rows and x + (width - 1) * pace < n_cols
        if min(row, col, y, x) >= 0 and inside and row + height <= self.shape[0] and col + width <= self.shape[1]:
            if isinstance(self.array, chunks.Chunked) and step == pace == 1:  # all of it image
                self.array.copy_to(out, y, x)
            else:
                out[...] = self.array[y : y + height * step, x : x + width * pace][::step, ::pace]
            return
        top, left = max(row, 0), max(col, 0)
        bottom = max(top, min(row + out.shape[0], self.shape[0]))
        right = max(left, min(col + out.shape[1], self.shape[1]))
        if bottom - top < out.shape[0] or right - left < out.shape[1]:
            out[...] = 0.0
            out = out[top - row : bottom - row, left - col : right - col]
        if out.size == 0:
            return
        start, end = top * step - self.before[0], (bottom - 1) * step + 1 - self.before[0]
        rows = geometry.axis_runs(start, end, n_rows, self.boundary, step)
        start, end = left * pace - self.before[1], (right - 1) * pace + 1 - self.before[1]
        cols = geometry.axis_runs(start, end, n_cols, self.boundary, pace)
        for to_row, from_row, height, down in rows:
            for to_col, from_col, width, across in cols:
                block = out[to_row : to_row + height, to_col : to_col + width]
                if from_row is None or from_col is None:
                    block[...] = self.fillvalue
                    continue
                part = self.array[_slice(from_row, height, down), _slice(from_col, width, across)]
                block[...] = part[:: down or 1, :: across or 1]

    def block(self, row: int, col: int, shape: Shape) -> Array:
        """Return a new array with the block of `shape` that starts at (`row`, `col`)."""
        out = np.empty(shape)
        self.read(out, row, col)
        return out

    def transposed(self) -> "Reader":
        """Return the reader of the transposed image."""
        turned = self.shape[::-1], self.before[::-1], self.boundary, self.fillvalue, self.stride[::-1]
        return Reader(_Transposed(self.array), *turned)


class _Transposed:
    """A transposed view of anything that can be sliced."""

    def __init__(self, array: Any) -> None:
        self.array = array
        self.shape = array.shape[::-1]

    def __getitem__(self, key: tuple[slice, slice]) -> Any:
        return np.asarray(self.array[key[1], key[0]]).T


def _slice(start: int, length: int, step: int) -> slice:
    """Return the forward slice of every pixel that holds a run; the reader takes its steps, and turns it round."""
    last = start + (length - 1) * step
    return slice(min(start, last), max(start, last) + 1)


@dataclass(frozen=True)
class Problem:
    """Everything accumulation needs: the geometry, and the readers of the source and target planes.

    `where` names the pair and channel in messages; `background` is the degree of the polynomial surface that each
    target holds beside what the kernel makes, None without one.
    """

    geometry: Geometry
    sources: tuple[Reader, ...]
    targets: tuple[Reader, ...]
    where: str = ""
    background: int | None = None

    @property
    def size(self) -> Shape:
        """Rows and columns of target pixels used."""
        return self.geometry.size


def as_image(value: object, name: str) -> Any:
    """Return `value` as something 2-D, real and sliceable, or say why it is none."""
    array = _as_array(value, name)
    shape = tuple(array.shape)
    if len(shape) != 2:
        remedy = "say which axis holds the channels (channel_axis), or pass one plane at a time"
        msg = (
            f"got {name} with {len(shape)} dimensions (shape {shape}), need 2; "
            f"{remedy if len(shape) == 3 else 'reshape it to rows and columns'}"
        )
        raise ValueError(msg)
    if 0 in shape:
        msg = f"got an empty {name} (shape {shape}), need at least one pixel"
        raise ValueError(msg)
    if isinstance(array, np.ndarray):
        return array if isinstance(array, np.memmap) else np.asarray(array)
    return chunks.sliceable(array)


def as_planes(value: object, name: str, axis: int | None) -> list[Any]:
    """Return the channels of an image along an axis, each as `as_image` does; None for an image of one plane."""
    if axis is None:
        return [as_image(value, name)]
    array = _as_array(value, name)
    shape = tuple(array.shape)
    if len(shape) != 3:
        msg = (
            f"got {name} with {len(shape)} dimensions (shape {shape}) and channel_axis={axis}, need 3: rows, columns "
            "and channels; leave channel_axis out for a single plane, or add an axis to it"
        )
        raise ValueError(msg)
    try:
        at = range(3)[operator.index(axis)]
    except TypeError:
        msg = f"got channel_axis={axis!r}, need an int, or None for images of one plane"
        raise TypeError(msg) from None
    except IndexError:
        msg = f"got channel_axis={axis}, need one of -3 to 2 for arrays of 3 dimensions"
        raise ValueError(msg) from None
    if 0 in shape:
        msg = f"got an empty {name} (shape {shape}), need at least one pixel and one channel"
        raise ValueError(msg)
    if isinstance(array, np.ndarray):
        planes: list[Any] = list(np.moveaxis(array, at, 0))
        return [plane if isinstance(array, np.memmap) else np.asarray(plane) for plane in planes]
    return chunks.planes(array, at)


def _as_array(value: object, name: str) -> Any:
    """Return `value` as something real and sliceable, or say why it is none."""
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        msg = f"got a masked {name}; need plain numbers here: find_kernel and accumulate take masks"
        raise ValueError(msg)
    if not (hasattr(value, "shape") and hasattr(value, "dtype") and hasattr(value, "__getitem__")):
        try:
            value = np.asarray(value)
        except ValueError as error:
            msg = f"got {name} that is no rectangular array ({error}); need a 2-D array of numbers"
            raise ValueError(msg) from None
    array: Any = value
    dtype = np.dtype(array.dtype)
    if dtype.kind not in "biuf":
        remedy = "pass its real part or its magnitude" if dtype.kind == "c" else "convert it to numbers first"
        msg = f"got {name} of dtype {dtype}, need real numbers (integers or floats); {remedy}"
        raise TypeError(msg)
    return array


def as_number(value: object, name: str) -> float:
    """Return a finite real number as a float, or say that a keyword is none."""
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        msg = f"got {name}={value!r}, need one real number"
        raise TypeError(msg)
    if not math.isfinite(value):
        beyond = "; if the pixels beyond the edge are unknown, leave boundary=None" if name == "fillvalue" else ""
        msg = f"got {name}={value!r}, need a finite number{beyond}"
        raise ValueError(msg)
    return float(value)


def as_workers(workers: object) -> int:
    """Return the number of threads to use; None means every processor this process may run on."""
    if workers is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        count = operator.index(workers)  # type: ignore[arg-type]
    except TypeError:
        msg = f"got workers={workers!r}, need None or an int of at least 1"
        raise TypeError(msg) from None
    if count < 1:
        msg = f"got workers={workers!r}, need None or an int of at least 1"
        raise ValueError(msg)
    return count


def require_progress(progress: object) -> None:
    """Refuse what cannot be called to be told of progress."""
    if progress is not None and not callable(progress):
        msg = f"got progress={progress!r}, need a function of (stage, done, total), or None"
        raise TypeError(msg)


def check(
    image: object,
    target: object,
    shape: object,
    *,
    mode: str | None,
    boundary: str | None,
    fillvalue: object,
    origin: object,
    operation: str,
    stride: object = 1,
    offset: object = 0,
    determined: bool = True,
) -> Problem:
    """Judge one pair and its convention; return the problem to be solved, unless told otherwise a determined one."""
    chunks.require_same_axes(image, target)
    problem = lay_pair(
        as_image(image, "image"),
        as_image(target, "target"),
        shape,
        mode=mode,
        boundary=boundary,
        fillvalue=fillvalue,
        origin=origin,
        operation=operation,
        stride=stride,
        offset=offset,
    )
    if determined or problem.geometry.n_pixels == 0:
        geometry.require_determined([problem.geometry])
    return problem


def lay_pair(
    source: Any,
    result: Any,
    shape: object,
    *,
    mode: str | None,
    boundary: str | None,
    fillvalue: object,
    origin: object,
    operation: str,
    stride: object = 1,
    offset: object = 0,
) -> Problem:
    """Lay the plane of an image on that of a target."""
    kernel = geometry.kernel_shape(shape)
    geometry.known(boundary, geometry.BOUNDARIES, "boundary")
    geometry.known(operation, geometry.OPERATIONS, "operation")
    fill = as_number(fillvalue, "fillvalue")
    lattice = geometry.lattice(stride, offset)
    mode = geometry.infer_mode(tuple(source.shape), tuple(result.shape), kernel, mode, *lattice)
    conv = geometry.convention(
        kernel,
        mode=mode,
        boundary=boundary,
        fillvalue=fill,
        origin=origin,
        operation=operation,
        stride=stride,
        offset=offset,
    )
    plan = geometry.lay_out(tuple(source.shape), kernel, conv)
    return Problem(plan, (source_reader(source, plan),), (target_reader(result, plan),))


def source_reader(array: Any, plan: Geometry) -> Reader:
    """Return the reader of the extended image."""
    conv = plan.convention
    return Reader(array, plan.extended_shape, plan.before, conv.boundary, conv.fillvalue)


def target_reader(array: Any, plan: Geometry) -> Reader:
    """Return the reader of the target pixels that are used."""
    return Reader(array, plan.size, (-plan.offset[0], -plan.offset[1]))


def surfaces(problem: Problem, stride: Shape = (1, 1)) -> tuple[Reader, ...]:
    """Return readers of the terms of a problem's background, laid like its targets, or with its stride its sources."""
    degree, plan = problem.background, problem.geometry
    if degree is None:
        return ()
    down, across = stride
    shape = (down * plan.size[0], across * plan.size[1])
    before = (-down * plan.offset[0], -across * plan.offset[1])
    return tuple(Reader(Surface(plan.target_shape, degree, p, stride), shape, before) for p in powers(degree))


def refuse_nonfinite(problem: Problem) -> NoReturn:
    """Say which pixels made the sums overflow or turn into NaN."""
    for name, readers in (("image", problem.sources), ("target", problem.targets)):
        for channel, reader in enumerate(readers):
            array = reader.array
            count, first = 0, (0, 0)
            step = max(1, 2**20 // max(1, array.shape[1]))
            for start in range(0, array.shape[0], step):
                bad = ~np.isfinite(np.asarray(array[start : start + step, :], dtype=np.float64))
                if not count and bad.any():
                    row, col = np.argwhere(bad)[0]
                    first = (start + int(row), int(col))
                count += int(bad.sum())
            if count:
                places = [problem.where, f"channel {channel}" if len(problem.sources) > 1 else ""]
                place = f" of {', '.join(filter(None, places))}" if any(places) else ""
                msg = (
                    f"got {name}{place} with {count} pixel{'s' if count > 1 else ''} that "
                    f"{'are' if count > 1 else 'is'} NaN or infinite, "
                    f"the first at (row, column) {first}; need finite pixels; exclude them "
                    "with nan='mask'; or crop to a part without them"
                )
                raise ValueError(msg)
    msg = "got pixels so large that the sums of their products overflow; divide the image and the target by a constant"
    raise ValueError(msg)


def any_in_window(marks: npt.NDArray[np.bool_], window: Shape) -> npt.NDArray[np.bool_]:
    """Return whether any pixel is marked, for each window that lies whole in the last two axes."""
    counts = marks.astype(np.int32)
    for axis, n in ((-2, window[0]), (-1, window[1])):  # differences of a running sum, of either axis
        total = np.moveaxis(counts.cumsum(axis=axis, dtype=np.int32), axis, 0)
        within = total[n - 1 :].copy()
        within[1:] -= total[:-n]
        counts = np.moveaxis(within, 0, axis)
    return np.asarray(counts > 0)
