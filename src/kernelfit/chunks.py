"""Arrays that are stored in chunks, read a few whole chunks at a time: the engines' tiles are narrower than those."""

import math
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import numpy as np
import numpy.typing as npt

from .geometry import Shape

#: Bytes of pixels that one array may keep.
BUDGET = 2**25
#: Pixels along each side that one read should have at least: a call to a store costs about as much as 10^5 pixels.
LEAST = 1024

Pixels = npt.NDArray[Any]


def boundaries(array: Any) -> tuple[list[int], list[int]] | None:
    """Return where the chunks of an array begin and end along both axes; None if it is not stored in chunks."""
    if isinstance(array, Chunked):
        return boundaries(array.array)
    chunks = getattr(array, "chunks", None)
    if chunks is None or len(chunks) != 2:
        return None
    found = []
    for n, sides in zip(array.shape, chunks, strict=True):
        if isinstance(sides, tuple):  # one length for each chunk: Dask, xarray
            ends = np.cumsum([0, *sides]).tolist()
        else:
            ends = [*range(0, n, sides), n]
        found.append(sorted(set(ends)))
    return found[0], found[1]


def merged(ends: list[int], least: int, most: int) -> list[int]:
    """Leave out boundaries so that steps are at least `least` long, if that keeps them below `most`."""
    kept = [ends[0]]
    for end, following in zip(ends[1:], [*ends[2:], math.inf], strict=True):
        if end - kept[-1] >= least or following - kept[-1] > most or following == math.inf:
            kept.append(end)
    return kept


class Chunked:
    """A 2-D array that is read in cells of whole chunks, the last used of which are kept.

    Parameters
    ----------
    array : array_like
        Anything with a shape, a dtype and slices.
    budget : int, optional
        Bytes to keep, default 32 MiB. A cell of more than a quarter of it is not kept; then slices are read as they are
        asked for.

    Notes
    -----
    Threads share the cells; of several that need the same one, one reads it and the others wait.
    """

    def __init__(self, array: Any, budget: int | None = None) -> None:
        self.array = array
        self.shape: Shape = (int(array.shape[0]), int(array.shape[1]))
        self.dtype = np.dtype(array.dtype)
        self.budget = budget = BUDGET if budget is None else budget
        ends = boundaries(array) or (
            [*range(0, self.shape[0], LEAST), self.shape[0]],
            [*range(0, self.shape[1], LEAST), self.shape[1]],
        )
        most = math.isqrt(max(1, budget // 4 // self.dtype.itemsize))
        self.ends = tuple(np.array(merged(e, min(LEAST, most), 2 * LEAST)) for e in ends)
        largest = math.prod(int(np.diff(e).max()) for e in self.ends) * self.dtype.itemsize
        self.kept = largest <= budget // 4
        self._cells: OrderedDict[Shape, Future[Pixels]] = OrderedDict()
        self._lock = threading.Lock()
        self._bytes = 0

    def __getitem__(self, key: tuple[slice, slice]) -> Pixels:
        """Return the pixels of two slices, not to be written to."""
        return self.read(key, np.empty)

    def read(self, key: tuple[slice, slice], empty: Callable[[Shape, np.dtype[Any]], Pixels]) -> Pixels:
        """Return the pixels of two slices, in an array that `empty` makes where they have to be put together."""
        (top, bottom, _), (left, right, _) = (s.indices(n) for s, n in zip(key, self.shape, strict=True))
        if not self.kept:
            return np.asarray(self.array[top:bottom, left:right])
        shape = (max(0, bottom - top), max(0, right - left))
        if 0 in shape:
            return np.empty(shape, self.dtype)
        rows, cols = (
            range(int(np.searchsorted(e, a, "right")) - 1, int(np.searchsorted(e, b, "left")))
            for e, a, b in zip(self.ends, (top, left), (bottom, right), strict=True)
        )
        if len(rows) == len(cols) == 1:
            y, x = int(self.ends[0][rows[0]]), int(self.ends[1][cols[0]])
            return self._cell(rows[0], cols[0])[top - y : bottom - y, left - x : right - x]
        out = empty(shape, self.dtype)
        for i in rows:
            y0, y1 = max(top, int(self.ends[0][i])), min(bottom, int(self.ends[0][i + 1]))
            for j in cols:
                x0, x1 = max(left, int(self.ends[1][j])), min(right, int(self.ends[1][j + 1]))
                y, x = int(self.ends[0][i]), int(self.ends[1][j])
                out[y0 - top : y1 - top, x0 - left : x1 - left] = self._cell(i, j)[y0 - y : y1 - y, x0 - x : x1 - x]
        return out

    def _cell(self, row: int, col: int) -> Pixels:
        """Return a cell, from memory if it is there."""
        with self._lock:
            known = self._cells.get((row, col))
            if known is None:
                mine: Future[Pixels] = Future()
                self._cells[row, col] = mine
            else:
                self._cells.move_to_end((row, col))
        if known is not None:
            return known.result()
        (y0, y1), (x0, x1) = ((int(e[i]), int(e[i + 1])) for e, i in zip(self.ends, (row, col), strict=True))
        try:
            pixels = np.asarray(self.array[y0:y1, x0:x1])
        except BaseException as error:
            with self._lock:
                del self._cells[row, col]
            mine.set_exception(error)
            raise
        mine.set_result(pixels)
        with self._lock:
            self._bytes += pixels.nbytes
            for key in list(self._cells):
                if self._bytes <= self.budget:
                    break
                if self._cells[key].done() and key != (row, col):
                    self._bytes -= self._cells.pop(key).result().nbytes
        return pixels


def sliceable(array: Any) -> Any:
    """Return an array as the engines should read it: as it is, or by whole chunks if it is stored in chunks."""
    if isinstance(array, (np.ndarray, Chunked)) or not hasattr(array, "chunks"):
        return array
    if any(n != n for n in array.shape):
        msg = f"got an array of unknown shape {array.shape}, need a known one; call its compute_chunk_sizes() first"
        raise ValueError(msg)
    return Chunked(array)


def require_same_axes(image: object, target: object) -> None:
    """Refuse labelled arrays (xarray) whose axes do not mean the same; their coordinates are used for nothing else."""
    mine, theirs = (getattr(a, "dims", None) for a in (image, target))
    if not isinstance(mine, tuple) or not isinstance(theirs, tuple) or len(mine) != 2 or len(theirs) != 2:
        return
    if set(mine) == set(theirs) and mine != theirs:
        msg = f"got an image with axes {mine} and a target with axes {theirs}; transpose one of them"
        raise ValueError(msg)
    for dim in mine:
        indexes = [getattr(a, "indexes", {}).get(dim) for a in (image, target)]
        if any(index is None for index in indexes) or dim not in theirs:
            continue
        a, b = (np.asarray(index) for index in indexes)
        if len(a) == len(b) and not np.array_equal(a, b):
            msg = (
                f"got an image and a target whose coordinates along {dim!r} differ (from {a[0]} to {a[-1]}, and from "
                f"{b[0]} to {b[-1]}); pixels are matched by position alone: align the two, or drop the coordinates "
                "with drop_vars if the positions are right"
            )
            raise ValueError(msg)
