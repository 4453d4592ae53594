"""Boxes of target pixels: each is a problem of its own that reads its own halo, and their statistics add up.

With the extended image P of `geometry`, the target pixels of a box ``[r, r + rows) x [c, c + cols)`` need P in
``[r, r + rows + side - 1) x ...`` and nothing else. So the box is the problem with its readers moved, whatever the
mode and boundary, and the statistics of boxes that do not overlap add up to those of the whole, exactly.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from ..core.geometry import Shape, as_pair
from . import chunked
from .observation import Observation, lots
from .reader import Reader

#: Rows of a block, and bytes of one of its rows, unless the image is small.
ROWS, ROW_BYTES = 1024, 2**13
#: Up to so many sums are added one after the other before their sum is passed on up the tree.
FAN = 4
Part = TypeVar("Part")


class Box(NamedTuple):
    """A rectangle of the target pixels that are used."""

    row: int
    col: int
    rows: int
    cols: int


class Cuboid(NamedTuple):
    """A rectangle of the target pixels that are used, on some planes of a volume."""

    row: int
    col: int
    rows: int
    cols: int
    first: int
    planes: int


def on(observations: Sequence[Observation], box: Box | Cuboid) -> list[int]:
    """Return which observations a box is of: those of its planes, or all."""
    every = range(len(observations))
    if isinstance(box, Box):
        return list(every)
    chosen = slice(box.first, box.first + box.planes)
    return [i for lot in lots(observations) for i in lot[chosen]]


def moved(reader: Reader, row: int, col: int, shape: Shape) -> Reader:
    """Return the reader whose first pixel is (`row`, `col`) of another one."""
    return dataclasses.replace(reader, shape=shape, before=(reader.before[0] - row, reader.before[1] - col))


def sub_observation(observation: Observation, box: Box | Cuboid) -> Observation:
    """Return the problem of one box of the target pixels that are used."""
    plan = observation.geometry
    row, col = box.row * plan.stride[0], box.col * plan.stride[1]
    corner = (0, 0) if observation.frame is None else observation.frame[1]
    part = dataclasses.replace(
        plan,
        before=(plan.before[0] - row, plan.before[1] - col),
        offset=(plan.offset[0] + box.row, plan.offset[1] + box.col),
        size=(box.rows, box.cols),
    )
    return dataclasses.replace(
        observation,
        geometry=part,
        sources=tuple(moved(r, row, col, part.extended_shape) for r in observation.sources),
        targets=tuple(moved(r, box.row, box.col, part.size) for r in observation.targets),
        frame=None if observation.frame is None else (observation.frame[0], (corner[0] + box.row, corner[1] + box.col)),
    )


def alone(observation: Observation) -> Observation:
    """Return the problem of a box on arrays that hold its own pixels and no others, in their own type if they can."""
    plan = observation.geometry
    own = dataclasses.replace(
        plan, image_shape=plan.extended_shape, target_shape=plan.size, before=(0, 0), offset=(0, 0)
    )
    sources, targets = (
        tuple(Reader(_own(r), r.shape) for r in some) for some in (observation.sources, observation.targets)
    )
    frame = observation.surface_frame
    return dataclasses.replace(observation, geometry=own, sources=sources, targets=targets, frame=frame)


def _own(reader: Reader) -> npt.NDArray[Any]:
    (top, left), (height, width) = (-reader.before[0], -reader.before[1]), reader.shape
    if reader.weight is None and _inside(reader):
        return np.asarray(reader.array[top : top + height, left : left + width])
    return reader.block(0, 0, reader.shape)


def _inside(reader: Reader) -> bool:
    """Say whether all that is read of an array lies in it."""
    (top, left), (height, width) = (-reader.before[0], -reader.before[1]), reader.shape
    rows, cols = reader.array.shape
    return min(top, left) >= 0 and top + height <= rows and left + width <= cols


def as_block(block: object, ndim: int = 2) -> Any:
    """Return the sides of a block as a user may give them."""
    if block is None:
        return None
    sides = as_pair(block, "block", ndim)
    if min(sides) < 1:
        raise ValueError(
            f"got block={block!r}, need at least one row and one column of target pixels; leave it out for the default"
        )
    return sides


def cut(observation: Observation, block: Shape | None = None, least: int = 4) -> list[Box]:
    """Cut the target pixels into boxes, in stripes from left to right, each from top to bottom."""
    # Without `block` some 1024 rows by 8 KiB of the image, less so that a stripe has `least` of them unless they would
    # be tiny, and ending where chunks end, as far as possible. So they depend on the problem and how it is stored
    # alone, and the chunks that two boxes of a stripe need are still at hand.
    size = observation.size
    if block is not None:
        ends = [[*range(0, n, side), n] for n, side in zip(size, block, strict=True)]
        return _boxes(ends)
    kernel, stride = observation.geometry.phase_shape, observation.geometry.stride
    largest = max(np.dtype(r.array.dtype).itemsize for r in (*observation.sources, *observation.targets))
    sides = [max(n // s, 16 * k) for n, s, k in zip((ROWS, ROW_BYTES // largest), stride, kernel, strict=True)]
    sides[0] = min(sides[0], max(16 * kernel[0], 128, -(-size[0] // least)))
    ends = []
    reader = next(
        (r for r in (*observation.targets, *observation.sources) if chunked.boundaries(r.array) is not None), None
    )
    found = None if reader is None else chunked.boundaries(reader.array)
    for axis in range(2):
        n, side = size[axis], sides[axis]
        stops: list[int] = []
        if reader is not None and found is not None:
            step = 1 if any(reader is target for target in observation.targets) else stride[axis]
            stops = [p for p in ((e + reader.before[axis]) // step for e in found[axis]) if 0 < p < n]
        ends.append(_walk(n, side, stops))
    return _boxes(ends)


def cut_lot(
    observations: Sequence[Observation], block: tuple[int, ...] | None = None, least: int = 4
) -> Sequence[Box | Cuboid]:
    """Cut a pair into boxes, as `cut` does, or a volume into boxes of its planes, some planes each."""
    first, plane = observations[0], observations[0].plane
    if plane is None:
        return cut(first, block, least)  # type: ignore[arg-type]
    boxes = cut(first, None if block is None else block[1:], least)  # type: ignore[arg-type]
    n, stored = len(observations), first.targets[0].array
    if block is not None:
        ends = [*range(0, n, block[0]), n]
    else:
        volume = stored.array.array if isinstance(stored, chunked.Chunked) else None
        found = None if volume is None else chunked.boundaries(volume)
        stops = [end - plane.first for end in (found[0] if found else ()) if 0 < end - plane.first < n]
        side = max(4 * len(plane.images), ROWS * ROW_BYTES // 8 // (boxes[0].rows * boxes[0].cols))
        ends = _walk(n, side, stops)
    return [Cuboid(*box, a, b - a) for box in boxes for a, b in itertools.pairwise(ends)]


def loaded(observation: Observation) -> Observation:
    """Return the problem with the pixels in memory that it would otherwise ask a store for, many times over."""
    return reading(observation, together([in_memory(reader) for reader in once(observation)], observation))


def once(observation: Observation) -> list[Reader]:
    """Return readers of the pixels of all sources and targets; sources that differ by their weights share one."""
    every = observation.sources + observation.targets
    known = {(id(r.array), r.before, r.shape): dataclasses.replace(r, weight=None) for r in every}
    return list(known.values())


def together(readers: Sequence[Reader], observation: Observation) -> list[Reader]:
    """Return the readers of all sources and targets, given those `once` of their pixels."""
    own = {(id(r.array), r.before, r.shape): new for r, new in zip(once(observation), readers, strict=True)}
    found = []
    for reader in observation.sources + observation.targets:
        new = own[id(reader.array), reader.before, reader.shape]
        if new.array is reader.array:
            new = reader
        elif reader.weight is not None:
            rows, cols = (slice(-b, n - b) for b, n in zip(reader.before, reader.shape, strict=True))
            new = dataclasses.replace(new, weight=reader.weight.part(rows, cols))
        found.append(new)
    return found


def reading(observation: Observation, readers: list[Reader]) -> Observation:
    """Return the problem with other readers of its sources and targets."""
    n = len(observation.sources)
    return dataclasses.replace(observation, sources=tuple(readers[:n]), targets=tuple(readers[n:]))


def in_memory(reader: Reader) -> Reader:
    """Return a reader of the same pixels in memory: itself, unless it reads a store."""
    if not _inside(reader) or not isinstance(reader.array, chunked.Chunked):
        return reader
    (top, left), (height, width) = (-reader.before[0], -reader.before[1]), reader.shape
    return Reader(reader.array[top : top + height, left : left + width], reader.shape)


def _walk(n: int, side: int, stops: list[int]) -> list[int]:
    """Cut n positions into steps of about `side` that end at `stops` where those are not too far away."""
    ends = [0]
    while ends[-1] < n:
        here = ends[-1]
        near = [p for p in stops if side // 2 <= p - here <= side + side // 4]
        end = min(near, key=lambda p: abs(p - here - side)) if near else here + side
        ends.append(n if n - here <= side + side // 4 else end)
    return ends


def _boxes(ends: list[list[int]]) -> list[Box]:
    rows, cols = (list(zip(e[:-1], e[1:], strict=True)) for e in ends)
    return [Box(a, c, b - a, d - c) for c, d in cols for a, b in rows]


class Tree(Generic[Part]):
    """Sums of sums, each of up to `FAN` parts: the order of the additions depends on the number of parts alone."""

    # So blocks give the same bits whether they are added one by one or where they lie, and few sums are alive at a
    # time.

    def __init__(self, add: Callable[[Part, Part], Part]) -> None:
        self.add = add
        #: For each level the sum so far, if any, and of how many it is.
        self.levels: list[tuple[Part | None, int]] = []

    def push(self, part: Part, level: int = 0) -> None:
        """Add one more part, or the sum of ``FAN**level`` of them that were next."""
        self.levels += [(None, 0)] * (level - len(self.levels))
        for i, (total, count) in enumerate(self.levels[level:], level):
            part = part if total is None else self.add(total, part)
            if count + 1 < FAN:
                self.levels[i] = (part, count + 1)
                return
            self.levels[i] = (None, 0)
        self.levels.append((part, 1))

    def total(self) -> Part | None:
        """Return the sum of all parts."""
        result: Part | None = None
        for total, _ in self.levels:
            if total is not None:
                result = total if result is None else self.add(total, result)
        return result


def in_tree(parts: Iterable[Part], add: Callable[[Part, Part], Part]) -> Part:
    """Add up parts in the order of `Tree`."""
    tree = Tree(add)
    for part in parts:
        tree.push(part)
    total = tree.total()
    assert total is not None
    return total


def runs(first: int, last: int) -> Iterator[tuple[int, int, int]]:
    """Cut parts [first, last) of a sum into what its tree adds by themselves: first part, last part, and level."""
    while first < last:
        level = 0
        while first % FAN ** (level + 1) == 0 and first + FAN ** (level + 1) <= last:
            level += 1
        yield first, first + FAN**level, level
        first += FAN**level


def groups(items: list[Any]) -> Iterator[list[Any]]:
    """Yield runs of `FAN` items: what one sum of the lowest level is made of."""
    for first in range(0, len(items), FAN):
        yield items[first : first + FAN]


def spots(readers: Iterable[Reader]) -> bytes:
    """Return a few spots of each, as bytes that depend on the values of their pixels alone."""
    blocks = [reader.block(*spot) for reader in readers for spot in spots_of(reader)]
    return b"".join(np.ascontiguousarray(block).astype("<f8").tobytes() for block in blocks)


def spots_of(reader: Reader) -> list[tuple[int, int, Shape]]:
    """Return the first row, first column and shape of each spot."""
    shape = min(16, reader.shape[0]), min(16, reader.shape[1])
    shares = (0.0, 0.5, 1.0)
    return [(*(int(share * max(0, n - 16)) for n in reader.shape), shape) for share in shares]  # type: ignore[misc]
