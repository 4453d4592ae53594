"""Readers of blocks of an extended image."""

import contextlib
import dataclasses
import mmap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..core import geometry
from ..core.geometry import Shape
from ..core.npz import ImageFileError
from ..core.validation import Array
from ..core.variation import Weight
from . import cells, chunked


class Mapped(np.ndarray):
    """A view of pixels that lie in a file; a slice of it is a plain array, and an error if the file ends before."""

    _file: mmap.mmap
    _end: int

    def __getitem__(self, key: Any) -> Any:
        """Return pixels, if the file still holds them."""
        require_whole(self)
        return super().__getitem__(key).view(np.ndarray)


def plain(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return an array without the extras of its class; if it lies in a file, as one that looks before it reads."""
    out = array.view(np.ndarray)
    base: Any = array
    start = 0
    while base is not None and not isinstance(base, mmap.mmap):
        if isinstance(base, np.memmap) and isinstance(base.base, mmap.mmap):
            start = base.offset - base.offset % mmap.ALLOCATIONGRANULARITY
        base = base.obj if isinstance(base, memoryview) else getattr(base, "base", None)
    if base is None:
        return out
    view = out.view(Mapped)
    view._file, view._end = base, start + len(base)
    require_whole(view)
    return view


def require_whole(array: Mapped) -> None:
    """Refuse an array whose file has become shorter than it was when it was mapped."""
    file, end = getattr(array, "_file", None), getattr(array, "_end", 0)
    if file is None:
        return
    try:
        length = file.size()
    except (OSError, ValueError):  # memory without a file
        return
    if length < end:
        msg = f"got pixels mapped from a file of {end} bytes that has been cut to {length}; write it anew"
        raise ImageFileError(msg)


@dataclass(frozen=True)
class Reader:
    """Reads blocks of an (extended) image as float64; the image itself is never copied whole, nor changed."""

    # Position (0, 0) is pixel ``(-before[0], -before[1])`` of the array, and positions are `stride` pixels apart;
    # outside of `shape`, in positions, all reads as zero. Each pixel is multiplied by the `weight` at its place in the
    # array; beyond the edge that of the pixel from which it comes, or of the nearest one.

    array: Any
    shape: Shape
    before: Shape = (0, 0)
    boundary: str | None = None
    fillvalue: float = 0.0
    stride: Shape = (1, 1)
    weight: Weight | None = None

    def read(self, out: Array, row: int, col: int) -> None:
        """Fill `out` with the block whose first pixel stands at (`row`, `col`)."""
        self._read(out, row, col)
        self._weigh(out, row, col)

    def _weigh(self, out: Array, row: int, col: int) -> None:
        if self.weight is not None:
            places = zip((row, col), self.stride, self.before, out.shape, self.array.shape, strict=True)
            rows, cols = (geometry.positions(p * s - b, k, s, n, self.boundary) for p, s, b, k, n in places)
            self.weight.multiply(out, rows, cols)

    def _read(self, out: Array, row: int, col: int) -> None:
        (n_rows, n_cols), (step, pace), (height, width) = self.array.shape, self.stride, out.shape
        y, x = row * step - self.before[0], col * pace - self.before[1]
        if self._holds(row, col, out.shape):
            if isinstance(self.array, chunked.Chunked) and step == pace == 1:  # all of it image
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
                part = self.array[whole_slice(from_row, height, down), whole_slice(from_col, width, across)]
                block[...] = part[:: down or 1, :: across or 1]

    def _holds(self, row: int, col: int, shape: tuple[int, ...]) -> bool:
        """Say whether a block lies within the image."""
        places = zip((row, col), shape, self.shape, self.before, self.stride, self.array.shape, strict=True)
        return all(p >= 0 <= p * s - b and p + k <= n and (p + k - 1) * s - b < size for p, k, n, b, s, size in places)

    @property
    def plain(self) -> bool:
        """Whether the array has what is read, so that a part of it may stand for a block: numbers side by side."""
        pixels = self.array
        return (
            type(pixels) is np.ndarray
            and pixels.dtype == np.float64
            and pixels.flags.behaved
            and pixels.strides[1] == 8 <= pixels.strides[0]
            and pixels.strides[0] % 8 == 0
            and self.stride == (1, 1)
            and self.weight is None
        )

    def view(self, row: int, col: int, shape: Shape) -> Array | None:
        """Return a block of what is `plain` without copying it; None where it has to be made."""
        if not (self.plain and self._holds(row, col, shape)):
            return None
        y, x = row - self.before[0], col - self.before[1]
        return np.asarray(self.array[y : y + shape[0], x : x + shape[1]])

    def block(self, row: int, col: int, shape: Shape) -> Array:
        """Return a new array with the block of `shape` that starts at (`row`, `col`)."""
        out = np.empty(shape)
        self.read(out, row, col)
        return out

    def transposed(self) -> "Reader":
        """Return the reader of the transposed image."""
        turned = self.shape[::-1], self.before[::-1], self.boundary, self.fillvalue, self.stride[::-1]
        return Reader(_Transposed(self.array), *turned, None if self.weight is None else self.weight.T)


def read_all(readers: Iterable[Reader], out: Array, row: int, col: int) -> None:
    """Fill `out` with the block of each of some readers; what differs in its weight alone is read once."""
    found: dict[Any, Array] = {}
    for reader, block in zip(readers, out, strict=True):
        if reader.weight is None:
            reader._read(block, row, col)
            continue
        key = id(reader.array), reader.shape, reader.before, reader.boundary, reader.fillvalue, reader.stride
        if key not in found:
            reader._read(block, row, col)
            found[key] = block.copy()
        else:
            block[...] = found[key]
        reader._weigh(block, row, col)


class _Transposed:
    """A transposed view of anything that can be sliced."""

    turned = True

    def __init__(self, array: Any) -> None:
        self.array = array
        self.shape = array.shape[::-1]

    def __getitem__(self, key: tuple[slice, slice]) -> Any:
        return np.asarray(self.array[key[1], key[0]]).T


class _Noted:
    """Stands in for an array, and notes which rectangles of it are read."""

    def __init__(self, shape: Shape) -> None:
        self.shape, self.rects = shape, list[cells.Rect]()

    def __getitem__(self, key: tuple[slice, slice]) -> Array:
        (top, bottom, _), (left, right, _) = (k.indices(n) for k, n in zip(key, self.shape, strict=True))
        shape = max(0, bottom - top), max(0, right - left)
        if min(shape):
            self.rects.append((top, bottom, left, right))
        return np.broadcast_to(0.0, shape)


#: A block that is going to be read: by whom, its first row and column, and its shape.
Request = tuple[Reader, int, int, Shape]


@contextlib.contextmanager
def keeping(requests: Iterable[Request]) -> Iterator[None]:
    """Keep what some blocks of stored arrays need, as the chunks that hold it come by."""
    found: dict[int, tuple[cells.Cells, list[cells.Rect]]] = {}
    for reader, row, col, shape in requests:
        stored, turned = chunked.behind(reader.array)
        if stored is None or not min(shape):
            continue
        noted = _Noted(reader.array.shape)
        dataclasses.replace(reader, array=noted, weight=None).block(row, col, shape)
        own = found.setdefault(id(stored.cells), (stored.cells, []))[1]
        own += [(x0, x1, y0, y1) if turned else (y0, y1, x0, x1) for y0, y1, x0, x1 in noted.rects]
    with contextlib.ExitStack() as stack:
        for own_cells, rects in found.values():
            stack.enter_context(own_cells.keeping(rects))
        yield


def whole_slice(start: int, length: int, step: int) -> slice:
    """Return the forward slice of every pixel that holds a run; the reader takes its steps, and turns it round."""
    last = start + (length - 1) * step
    return slice(min(start, last), max(start, last) + 1)


def any_in_window(marks: npt.NDArray[np.bool_], window: Shape) -> npt.NDArray[np.bool_]:
    """Return whether any pixel is marked, for each window that lies whole in the last two axes."""
    for axis, n in ((-2, window[0]), (-1, window[1])):
        marks, done = np.moveaxis(marks, axis, 0), 1
        while done < n:  # what is known of windows that long, of two that overlap or touch
            step = min(done, n - done)
            marks, done = marks[:-step] | marks[step:], done + step
        marks = np.moveaxis(marks, 0, axis)
    return np.asarray(marks)
