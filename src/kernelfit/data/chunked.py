"""Arrays that are stored in chunks, read a few whole chunks at a time: the engines' tiles are narrower than those."""

import bisect
import contextlib
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..core.geometry import Shape
from . import buffer_pool
from .cells import Cells, Rect
from .zarr_local import direct

#: Bytes of pixels that one array may keep although they were read.
BUDGET = 2**25
#: Share of the free memory that arrays may keep which are read over and over: one part in so many.
_SHARE = 8
#: Where a container says how much memory it may have, and has: those of either version.
_CONTAINERS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)
#: Rows at a time, where arrays are not read column by column.
_LEAST_ROWS, _MOST_ROWS = 512, 4096
Pixels = npt.NDArray[Any]


def boundaries(array: Any) -> tuple[list[int], list[int]] | None:
    """Return where the chunks of an array begin and end along rows and columns; None if it is not stored in chunks."""
    if isinstance(array, Chunked):
        return boundaries(array.array)
    chunks = getattr(array, "chunks", None)
    if chunks is None:
        return None
    found = []
    for n, sides in zip(array.shape[:2], chunks[:2], strict=True):
        if isinstance(sides, tuple):  # one length for each chunk: Dask, xarray
            ends = np.cumsum([0, *sides]).tolist()
        else:
            ends = [*range(0, n, sides), n]
        found.append(sorted(set(ends)))
    return found[0], found[1]


def behind(array: Any) -> "tuple[Chunked | None, bool]":
    """Return the stored array that others stand before, None if there is none, and whether they transpose it."""
    turned = False
    while not isinstance(array, (Chunked, np.ndarray)) and (hasattr(array, "array") or hasattr(array, "whole")):
        turned ^= getattr(array, "turned", False)
        array = array.array if hasattr(array, "array") else array.whole
    return array if isinstance(array, Chunked) else None, turned


def rows_at_a_time(arrays: Sequence[Any], halo: int) -> int | None:
    """Say how arrays should be read, of which a tile needs `halo` pixels of the next: so many rows at a time.

    None says column by column of tiles, which is the same for all arrays. Rows at a time are better where the columns
    of chunks that two columns of tiles share would be too much to keep.
    """
    columns, rows, height, heavy = 0, 0, 0, False
    for array in arrays:
        stored, turned = behind(array)
        if stored is not None:
            cells = stored.cells
            cells.halo = max(cells.halo, halo)
            sides = [int(np.diff(e).max()) for e in cells.ends]
            both = [n * side * stored.dtype.itemsize for n, side in zip(stored.shape, sides[::-1], strict=True)]
            down, across = both[::-1] if turned else both
            columns, rows, height = columns + down, rows + across, max(height, sides[turned])
            heavy = heavy or down > 2 * cells.budget
    return max(_LEAST_ROWS, min(height, _MOST_ROWS)) if heavy and rows < columns else None


def hold(arrays: Iterable[Any]) -> None:
    """Let arrays that are going to be read over and over keep what of them was decoded, as far as memory is free."""
    room = None
    for stored in (behind(array)[0] for array in arrays):
        if stored is not None and stored.cells.kept:
            room = free_bytes() // _SHARE if room is None else room
            cells, n_bytes = stored.cells, math.prod(stored.cells.array.shape) * stored.dtype.itemsize
            if cells.room < n_bytes <= room:
                room -= n_bytes
                cells.room = cells.limit = 2 * n_bytes  # all of it: strips that were left of some cells count as well


def free_bytes() -> int:
    """Return the memory that is free, of a container that of its own; 0 where the system does not say, or limits it."""
    try:
        import resource

        with open("/proc/meminfo") as file:
            free = 1024 * next(int(line.split()[1]) for line in file if line.startswith("MemAvailable"))
        if resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
            return 0
        for most, used in _CONTAINERS:
            with contextlib.suppress(OSError, ValueError):  # another version, or "max"
                limit, own = (int(Path(name).read_text()) for name in (most, used))
                free = min(free, limit - own)
    except (ImportError, OSError, StopIteration):
        return 0
    return max(0, free)


@contextlib.contextmanager
def watched(looks: "Sequence[tuple[Chunked, Callable[[Rect, Pixels], None], Rect]]") -> Iterator[None]:
    """Let something look at a part of each stored array as it is read; arrays that share cells are looked at alike."""
    with contextlib.ExitStack() as stack:
        for cells, look, used in {id(array.cells): (array.cells, look, used) for array, look, used in looks}.values():
            stack.enter_context(cells.watched(look, used))
        yield


def _steps(ends: list[int], start: int, length: int) -> list[tuple[int, slice, slice]]:
    """Return the cells along one axis that hold pixels of a range: which, their share of it, where they have it."""
    first, last = (bisect.bisect_right(ends, p) - 1 for p in (start, start + length - 1))
    found = []
    for i, (begin, end) in enumerate(itertools.pairwise(ends[first : last + 2]), first):
        a, b = max(start, begin), min(start + length, end)
        found.append((i, slice(a - start, b - start), slice(a - begin, b - begin)))
    return found


class Chunked:
    """A 2-D array that is read in cells of whole chunks.

    `array`: anything 2-D with a shape, a dtype and slices. `cells`: where the pixels are kept; by default cells of its
    own. `channel`: which channel (last axis) of the cells it is; by default they have none.
    """

    def __init__(self, array: Any, cells: Cells | None = None, channel: int | None = None) -> None:
        self.array = array
        self.shape: Shape = (int(array.shape[0]), int(array.shape[1]))
        self.dtype = np.dtype(array.dtype)
        self.cells = Cells(array, BUDGET, boundaries(array)) if cells is None else cells
        self.pick = ... if channel is None else (..., channel)

    def __getitem__(self, key: tuple[slice, slice]) -> Pixels:
        """Return the pixels of two slices, not to be written to."""
        (top, bottom, _), (left, right, _) = (s.indices(n) for s, n in zip(key, self.shape, strict=True))
        shape = (max(0, bottom - top), max(0, right - left))
        parts = self._parts(top, left, shape)
        place, part = next(parts, (None, None))
        if part is None or part.shape == shape:
            return np.empty(shape, self.dtype) if part is None else part
        out = buffer_pool.empty(shape, self.dtype)
        out[place] = part
        for place, part in parts:
            out[place] = part
        return out

    def copy_to(self, out: Pixels, top: int, left: int) -> None:
        """Fill an array of any type with the pixels from (`top`, `left`) on."""
        for place, part in self._parts(top, left, out.shape):
            out[place] = part

    def _parts(self, top: int, left: int, shape: Shape) -> Iterator[tuple[tuple[slice, slice], Pixels]]:
        """Yield what the cells have of a rectangle, each part with its place there."""
        if 0 in shape:
            return
        if not self.cells.kept:
            yield np.s_[:, :], np.asarray(self.array[top : top + shape[0], left : left + shape[1]])
            return
        known = self.cells.known((top, top + shape[0], left, left + shape[1]))
        if known is not None:
            yield np.s_[:, :], known[self.pick]
            return
        rows, cols = (_steps(e, a, n) for e, a, n in zip(self.cells.ends, (top, left), shape, strict=True))
        for i, down, y in rows:
            for j, across, x in cols:
                yield (down, across), self.cells.part(i, j, y, x)[self.pick]

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> Pixels:
        """Return all pixels."""
        return np.asarray(self.array[:, :], dtype=dtype)


class Plane:
    """One channel of anything that can be sliced."""

    def __init__(self, array: Any, axis: int, index: int) -> None:
        self.array, self.axis, self.index = array, axis, index
        self.shape, self.dtype = _but(axis, array.shape), array.dtype
        if getattr(array, "chunks", None) is not None:
            self.chunks = _but(axis, array.chunks)

    def __getitem__(self, key: tuple[slice, ...]) -> Pixels:
        """Return the pixels of a slice along each axis."""
        full = list(key)
        full.insert(self.axis, slice(self.index, self.index + 1))
        return np.asarray(self.array[tuple(full)]).squeeze(self.axis)


class _ChannelsLast:
    """An array of three axes, that of the channels behind the others."""

    def __init__(self, array: Any, axis: int) -> None:
        self.array, self.axis, self.dtype = array, axis, array.dtype
        self.shape = (*_but(axis, array.shape), array.shape[axis])
        self.chunks = None if array.chunks is None else (*_but(axis, array.chunks), array.chunks[axis])

    def __getitem__(self, key: tuple[slice, slice]) -> Pixels:
        full = list(key)
        full.insert(self.axis, slice(None))
        return np.moveaxis(np.asarray(self.array[tuple(full)]), self.axis, -1)


def _but(axis: int, values: Any) -> tuple[Any, ...]:
    """Return what is said of three axes without that of the channels."""
    return tuple(value for i, value in enumerate(values) if i != axis)


def sliceable(array: Any) -> Any:
    """Return an array as the engines should read it: as it is, or by whole chunks if it is stored in chunks."""
    if isinstance(array, (np.ndarray, Chunked)) or not hasattr(array, "chunks"):
        return array
    _require_known(array)
    return Chunked(direct(array))


def planes(array: Any, axis: int) -> list[Any]:
    """Return the channels of an array, each as `sliceable` does; those that share chunks share what is kept of them."""
    array = direct(array)
    found: list[Any] = [Plane(array, axis, i) for i in range(array.shape[axis])]
    if not hasattr(array, "chunks"):
        return found
    _require_known(array)
    whole = _ChannelsLast(array, axis)
    thickness = None if whole.chunks is None else whole.chunks[2]
    if thickness in (1, (1,) * len(found)):
        return [Chunked(plane) for plane in found]
    cells = Cells(whole, BUDGET * min(len(found), 4), boundaries(whole))
    return [Chunked(plane, cells, i) for i, plane in enumerate(found)]


def _require_known(array: Any) -> None:
    if any(n != n for n in array.shape):
        msg = f"got an array of unknown shape {array.shape}, need a known one; call its compute_chunk_sizes() first"
        raise ValueError(msg)


def require_same_axes(image: object, target: object) -> None:
    """Refuse labelled arrays (xarray) whose axes do not mean the same; their coordinates are used for nothing else."""
    mine, theirs = (getattr(a, "dims", None) for a in (image, target))
    if not isinstance(mine, tuple) or not isinstance(theirs, tuple) or len(mine) != 2 or len(theirs) != 2:
        return
    if set(mine) == set(theirs) and mine != theirs:
        raise ValueError(f"got an image with axes {mine} and a target with axes {theirs}; transpose one of them")
    for dim in mine:
        indexes = [getattr(a, "indexes", {}).get(dim) for a in (image, target)]
        if any(index is None for index in indexes) or dim not in theirs:
            continue
        a, b = (np.asarray(index) for index in indexes)
        if len(a) == len(b) and not np.array_equal(a, b):
            raise ValueError(
                f"got an image and a target whose coordinates along {dim!r} differ (from {a[0]} to {a[-1]}, and from "
                f"{b[0]} to {b[-1]}); pixels are matched by position alone: align the two, or drop the coordinates "
                "with drop_vars if the positions are right"
            )
