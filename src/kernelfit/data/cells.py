"""The cells of whole chunks of an array, each decoded once as long as memory can hold what is still to be read.

A cell is kept until all of its pixels were read; then, if there is no room, only strips along its edges are, which the
tiles beyond need once more. What will be read again later is said before, and kept as its cells come by.
"""

import contextlib
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..core.geometry import Shape
from .zarr_local import ChunkFiles

#: Pixels along each side that one read should have at least: a call to a store costs about as much as 10^5 pixels ...
LEAST = 1024
#: ... and a file less.
LEAST_OF_FILES = 256
#: Pixels of an edge that are kept, at least; kernels may need more.
HALO = 16
#: What is still to be read may take so many times the memory of what was read, and that of so many cells; strips that
#: share of it.
_MORE, _CELLS, _STRIPS = 8, 12, 3 / 4
#: Rectangles up to which it is known what of a cell is still unread: patches of single pixels would leave thousands.
_RECTS = 64
Pixels = npt.NDArray[Any]
#: First row, row after the last, first column, column after the last.
Rect = tuple[int, int, int, int]


def merged(ends: list[int], least: int, most: int) -> list[int]:
    """Leave out boundaries so that steps are at least `least` long, if that keeps them below `most`."""
    kept = [ends[0]]
    for end, following in zip(ends[1:], [*ends[2:], math.inf], strict=True):
        if end - kept[-1] >= least or following - kept[-1] > most or following == math.inf:
            kept.append(end)
    return kept


def common(one: Rect, other: Rect) -> Rect | None:
    """Return what two rectangles have in common."""
    found = max(one[0], other[0]), min(one[1], other[1]), max(one[2], other[2]), min(one[3], other[3])
    return found if found[0] < found[1] and found[2] < found[3] else None


def without(rects: list[Rect], taken: Rect) -> list[Rect]:
    """Return what is left of disjoint rectangles when another one is taken away."""
    found = []
    for rect in rects:
        both = common(rect, taken)
        if both is None:
            found.append(rect)
            continue
        (y0, y1, x0, x1), (top, bottom, left, right) = rect, both
        parts = (y0, top, x0, x1), (bottom, y1, x0, x1), (top, bottom, x0, left), (top, bottom, right, x1)
        found += [part for part in parts if part[0] < part[1] and part[2] < part[3]]
    return found


def _within(inner: Rect, outer: Rect) -> bool:
    return outer[0] <= inner[0] and inner[1] <= outer[1] and outer[2] <= inner[2] and inner[3] <= outer[3]


class Cell:
    """Pixels that one thread reads, and others wait for: by a bare lock, since a Ctrl-C may leave others locked."""

    def __init__(self) -> None:
        self.found: Pixels | BaseException | None = None
        self.reading = threading.Lock()
        self.reading.acquire()
        self.unread: list[Rect] | None = None  # in the cell; None: all of it
        self.strips: list[tuple[Rect, Pixels]] = []  # what is left of it

    def result(self) -> Pixels:
        """Wait for the pixels and return them, or raise what came in their stead."""
        with self.reading:
            pass
        if isinstance(self.found, BaseException):
            raise self.found
        assert self.found is not None
        return self.found

    def trim(self, halo: int) -> None:
        """Keep but some rows and columns along its edges."""
        assert isinstance(self.found, np.ndarray)
        rows, cols = self.found.shape[:2]
        (top, down), (left, across) = ((max(0, n - halo), min(n, halo)) for n in (rows, cols))
        places = (top, rows, 0, cols), (0, rows, left, cols), (0, down, 0, cols), (0, rows, 0, across)
        self.strips = [(at, self.found[at[0] : at[1], at[2] : at[3]].copy()) for at in places]
        self.found = self.strips[0][1][:0]

    @property
    def nbytes(self) -> int:
        """Bytes that it keeps."""
        whole = self.found.nbytes if isinstance(self.found, np.ndarray) else 0
        return whole + sum(pixels.nbytes for _, pixels in self.strips)


class Kept:
    """A rectangle of an array that is kept as its cells come by."""

    def __init__(self, place: Rect, array: Any) -> None:
        self.place, self.missing = place, [place]
        self.pixels: Pixels = np.empty((place[1] - place[0], place[3] - place[2], *array.shape[2:]), array.dtype)


class Cells:
    """The cells of an array (rows, cols, ...).

    Threads share them; of several that need the same one, one reads it and the others wait.

    `budget`: bytes of what may stay although it was read. `ends`: where chunks begin and end along rows and columns,
    None where there are no chunks.
    """

    def __init__(self, array: Any, budget: int, ends: tuple[list[int], list[int]] | None) -> None:
        (n_rows, n_cols), bytes_each = array.shape[:2], np.dtype(array.dtype).itemsize * math.prod(array.shape[2:])
        self.array, self.budget, self.halo = array, budget, HALO
        self.room = budget  # bytes of pixels that stay although they were read
        self.used: Rect = (0, n_rows, 0, n_cols)  # nobody waits for what lies outside
        raw = ends or ([*range(0, n_rows, LEAST), n_rows], [*range(0, n_cols, LEAST), n_cols])
        room = max(1, budget // 4 // bytes_each)
        least = LEAST_OF_FILES if isinstance(array, ChunkFiles) else LEAST
        most = min(least, math.isqrt(room))
        longest = [max(most, *np.diff(e).tolist()) for e in raw]
        sides = [min(most, max(1, room // longest[1])), min(most, max(1, room // longest[0]))]
        self.ends = tuple(merged(e, side, 2 * least) for e, side in zip(raw, sides, strict=True))
        largest = math.prod(int(np.diff(e).max()) for e in self.ends) * bytes_each
        self.limit = max(_MORE * budget, _CELLS * largest)
        #: Of chunks of many channels that are larger nothing is kept, and slices are read as they are asked for.
        self.kept = len(array.shape) == 2 or 4 * largest <= _MORE * budget
        self._cells: OrderedDict[Shape, Cell] = OrderedDict()  # what was used last stands last
        self._kept: list[Kept] = []
        self._thin = 0  # of the thickest of these
        self._look: Callable[[Rect, Pixels], None] | None = None
        self._seen: set[Shape] = set()
        self._alarm: Exception | None = None  # what it raised
        self._lock = threading.Lock()
        self._bytes = self._strip_bytes = 0

    def place(self, row: int, col: int) -> Rect:
        """Return where a cell stands."""
        rows, cols = self.ends
        return rows[row], rows[row + 1], cols[col], cols[col + 1]

    def _wanted(self, row: int, col: int) -> list[Rect]:
        """Return what of a cell is used, in the cell."""
        top, _, left, _ = place = self.place(row, col)
        both = common(place, self.used)
        return [] if both is None else [(both[0] - top, both[1] - top, both[2] - left, both[3] - left)]

    def known(self, place: Rect) -> Pixels | None:
        """Return pixels that are kept, None unless all of a rectangle is."""
        if min(place[1] - place[0], place[3] - place[2]) > self._thin:
            return None
        for one in self._kept:
            if _within(place, one.place) and all(common(place, part) is None for part in one.missing):
                top, left = one.place[0], one.place[2]
                return one.pixels[place[0] - top : place[1] - top, place[2] - left : place[3] - left]
        return None

    def part(self, row: int, col: int, y: slice, x: slice) -> Pixels:
        """Return a part of a cell, which then counts as read."""
        place = y.start, y.stop, x.start, x.stop
        with self._lock:
            cell = self._cells.get((row, col))
            for at, pixels in cell.strips if cell is not None else ():
                if _within(place, at):
                    self._cells.move_to_end((row, col))
                    return pixels[y.start - at[0] : y.stop - at[0], x.start - at[2] : x.stop - at[2]]
            if cell is not None and cell.strips:
                self._forget((row, col))
                cell = None
            elif cell is not None:
                self._cells.move_to_end((row, col))
        if cell is None or cell.found is None:
            cell = self._waited_for(row, col)
        pixels = cell.result()
        if self._alarm is not None:
            raise self._alarm
        if not pixels.size:  # it was trimmed meanwhile
            return self.part(row, col, y, x)
        with self._lock:
            left = without(self._wanted(row, col) if cell.unread is None else cell.unread, place)
            cell.unread = left if len(left) <= _RECTS else cell.unread
        return pixels[y, x]

    def _waited_for(self, row: int, col: int) -> Cell:
        """Return a cell that is being read, if not by this thread by another."""
        cell = self._brought(row, col)
        if cell.found is None:  # rather than wait, read what is most likely to be needed next
            row, col = (row + 1, col) if row + 2 < len(self.ends[0]) else (0, col + 1)
            if col + 1 < len(self.ends[1]):
                self._brought(row, col)
        return cell

    def _brought(self, row: int, col: int) -> Cell:
        """Return a cell, read unless another thread does that; who asks for its pixels is told of a failure."""
        cell = mine = Cell()
        try:
            with self._lock:
                cell = self._cells.setdefault((row, col), mine)
                self._cells.move_to_end((row, col))
            if cell is mine:
                self._read(row, col, mine)
        except BaseException as error:  # an interruption may come anywhere here, and others may wait
            if mine.found is None:
                mine.found = error
            with self._lock:
                if self._cells.get((row, col)) is mine:
                    del self._cells[row, col]
            if not isinstance(error, Exception):
                raise
        finally:
            mine.reading.release()
        return cell

    def _read(self, row: int, col: int, cell: Cell) -> None:
        """Read a cell, take from it what is to be kept, and make room."""
        place = top, bottom, left, right = self.place(row, col)
        pixels = np.asarray(self.array[top:bottom, left:right])
        if self._look is not None:
            self._seen.add((row, col))
            try:
                self._look(place, pixels)
            except Exception as alarm:  # the pixels are as good as any
                self._alarm = alarm
        with self._lock:
            for one in self._kept:
                both = common(one.place, place) if one.missing else None
                if both is not None:
                    (y0, y1, x0, x1), (y, x) = both, (one.place[0], one.place[2])
                    one.pixels[y0 - y : y1 - y, x0 - x : x1 - x] = pixels[y0 - top : y1 - top, x0 - left : x1 - left]
                    one.missing = without(one.missing, both)
            self._bytes += pixels.nbytes
            cell.found = pixels
            self._make_room(cell)

    def _make_room(self, newest: Cell) -> None:
        """Trim cells that were read, those not used for longest first; drop others if there are too many of them."""
        for cell in list(self._cells.values()) if self._bytes > self.room else ():
            if cell is not newest and cell.unread == [] and not cell.strips:
                self._bytes -= cell.nbytes
                cell.trim(self.halo)
                self._bytes += cell.nbytes
                self._strip_bytes += cell.nbytes
                if self._bytes <= self.room:
                    break
        for at, cell in list(self._cells.items()) if self._bytes > self.room else ():
            if cell.strips and self._strip_bytes > _STRIPS * self.budget:
                self._forget(at)
            elif self._bytes > self.limit and isinstance(cell.found, np.ndarray) and cell is not newest:
                self._forget(at)

    def _forget(self, at: Shape) -> None:
        """Drop a cell."""
        cell = self._cells.pop(at)
        self._bytes -= cell.nbytes
        self._strip_bytes -= cell.nbytes if cell.strips else 0

    @contextlib.contextmanager
    def keeping(self, places: Sequence[Rect]) -> Iterator[None]:
        """Keep some rectangles as their cells are read, and meanwhile answer from them."""
        more = [Kept(place, self.array) for place in dict.fromkeys(places)]
        with self._lock:
            self._kept = [*self._kept, *more]
            self._thin = max((min(one.pixels.shape[:2]) for one in self._kept), default=0)
        try:
            yield
        finally:
            with self._lock:
                self._kept = [one for one in self._kept if one not in more]
                self._thin = max((min(one.pixels.shape[:2]) for one in self._kept), default=0)

    @contextlib.contextmanager
    def watched(self, look: Callable[[Rect, Pixels], None], used: Rect) -> Iterator[None]:
        """Let `look` see what is read and, in the end, what of a part was not; what it raises is raised."""
        with self._lock:
            here = {at: c.found for at, c in self._cells.items() if isinstance(c.found, np.ndarray) and c.found.size}
        for at, pixels in here.items():
            look(self.place(*at), pixels)
        self._seen = set(here)
        self._look = look
        try:
            yield
            if self._alarm is not None:
                raise self._alarm
            for at in np.ndindex(*(len(e) - 1 for e in self.ends)):
                top, bottom, left, right = place = self.place(*at)
                if at not in self._seen and common(place, used):
                    look(place, np.asarray(self.array[top:bottom, left:right]))
        finally:
            self._look = self._alarm = None
