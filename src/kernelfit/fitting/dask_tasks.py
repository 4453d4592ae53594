"""What runs where Dask computes: a block reads its own surroundings, and what it makes of them is added up."""

import bisect
import contextlib
import dataclasses
import itertools
import operator
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..compiled.threads import add, one_blas_thread
from ..core.geometry import Geometry
from ..core.validation import Array
from ..data import blocks, chunked, masking
from ..data.cells import Cells
from ..data.masked_blocks import MaskedBlocks
from ..data.observation import Observation, Plane, WeightedObservation, extended_weights, of_target
from ..data.reader import Reader
from ..data.zarr_local import direct
from ..engines.accumulation import residual_moments
from ..engines.weighted_pass import residual
from .equations import lot_equations

#: Bytes of a store's chunks that a task may keep.
_ROOM = 2**26


class Piece(NamedTuple):
    """A part of an extended image, or volume: where it stands, its extent, its steps (0 or -1 beyond an edge)."""

    at: tuple[int, ...]
    shape: tuple[int, ...]
    steps: tuple[int, ...]


class Recipe:
    """How the chunks of a Dask array are made, of which a part is made where it is needed."""

    # `layers` of the graph, last first; either what makes tasks of keys (Blockwise), or tasks by their keys. Nothing is
    # cut out of the graph but where a chunk is made, which takes as long as its own tasks do.

    #: Bytes of chunks that are kept, since neighbouring blocks share them.
    ROOM = 2**26

    def __init__(self, layers: list[Any], name: str, ends: tuple[list[int], ...], dtype: Any) -> None:
        self.layers, self.name, self.ends, self.dtype = layers, name, ends, dtype
        self._begin()

    def _begin(self) -> None:
        self._kept: OrderedDict[tuple[int, ...], npt.NDArray[Any]] = OrderedDict()
        self._lock = threading.Lock()

    def __getstate__(self) -> tuple[Any, ...]:
        """Return what is sent to other processes."""
        return self.layers, self.name, self.ends, self.dtype

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Take what was sent."""
        self.layers, self.name, self.ends, self.dtype = state
        self._begin()

    def graph(self, key: Any) -> dict[Any, Any]:
        """Return the tasks that a chunk takes."""
        found: dict[Any, Any] = {}
        wanted = [key]
        while wanted:
            key = wanted.pop()
            if key in found:
                continue
            for layer in self.layers:
                if not isinstance(layer, dict):
                    if key[0] != layer.output:
                        continue
                    tasks = dict(layer.cull({key}, ())[0])
                elif key in layer:
                    tasks = {key: layer[key]}
                else:
                    continue
                node = tasks[key]
                found[key] = node
                wanted += node.dependencies
                break
        return found

    def chunk(self, at: tuple[int, ...]) -> npt.NDArray[Any]:
        """Return a chunk."""
        from dask.local import get_sync

        with self._lock:
            if at in self._kept:
                self._kept.move_to_end(at)
                return self._kept[at]
        key = (self.name, *at)
        pixels = np.asarray(get_sync(self.graph(key), key))  # type: ignore[arg-type]
        with self._lock:
            self._kept[at] = pixels
            while sum(p.nbytes for p in self._kept.values()) > self.ROOM and len(self._kept) > 1:
                self._kept.popitem(last=False)
        return pixels

    def __getitem__(self, key: tuple[slice, ...]) -> npt.NDArray[Any]:
        places = places_in(self.ends, key)
        return joined([self.chunk(at) for at, _, _ in places], [(to, own) for _, to, own in places], key, self.dtype)


Place = tuple[tuple[slice, ...], tuple[slice, ...]]


def places_in(ends: Sequence[Sequence[int]], key: Sequence[slice]) -> list[tuple[Any, Any, Any]]:
    """Return the chunks that some slices touch: which, where their share of it stands, and where they have it."""
    axes = []
    for stops, part in zip(ends, key, strict=True):
        first, last = bisect.bisect_right(stops, part.start) - 1, bisect.bisect_left(stops, part.stop)
        own = []
        for i in range(first, last):
            a, b = max(part.start, stops[i]), min(part.stop, stops[i + 1])
            own.append((i, slice(a - part.start, b - part.start), slice(a - stops[i], b - stops[i])))
        axes.append(own)
    return [tuple(zip(*each, strict=True)) for each in itertools.product(*axes)]


def joined(chunks: Sequence[Any], places: Sequence[Place], key: Sequence[slice], dtype: Any) -> npt.NDArray[Any]:
    """Put parts of chunks together."""
    if len(chunks) == 1:
        return np.asarray(np.asarray(chunks[0])[places[0][1]])
    out = np.empty([part.stop - part.start for part in key], dtype)
    for chunk, (to, own) in zip(chunks, places, strict=True):
        out[to] = np.asarray(chunk)[own]
    return out


class Lazy(NamedTuple):
    """A part of what a recipe makes, which stands at a place in the list of all."""

    recipe: int
    key: tuple[slice, ...]


def bound(sources: Any, recipes: Mapping[int, Recipe], stores: dict[int, Any]) -> Any:
    """Return sources, lists of them included, with recipes for their numbers, and stores as `_shared` reads them."""
    if isinstance(sources, Lazy):
        return Stored(recipes[sources.recipe], sources.key)
    if isinstance(sources, Stored):
        if id(sources.array) not in stores:
            stores[id(sources.array)] = _shared(sources.array)
        return Stored(stores[id(sources.array)], sources.key)
    return [bound(one, recipes, stores) for one in sources] if isinstance(sources, list) else sources


def _shared(array: Any) -> Any:
    """Return a store as the blocks of a task read it, by this thread: chunks that more need are kept if they may."""
    array = direct(array)
    if len(array.shape) > 2:
        return array
    ends = chunked.boundaries(array)
    cells = Cells(array, _ROOM // 16, ends)
    return chunked.Chunked(array, cells) if cells.ends == ends and cells.limit <= _ROOM else array


class Stored:
    """A slice of something that can be sliced, read where it is needed."""

    def __init__(self, array: Any, key: tuple[slice, ...]) -> None:
        self.array, self.key = array, key

    def __call__(self) -> Any:
        """Return the pixels."""
        return self.array[self.key]


class Marks(NamedTuple):
    """What excludes or weighs pixels of a block: how its further readers are to be understood."""

    image_masks: tuple[int, ...]  # number of masks of each image (channel of a volume), which follow the images
    #: masks, weights: number of masks and of weights of each target, which follow the targets
    masks: tuple[int, ...]
    weights: tuple[int, ...]
    nan: str
    saturated: tuple[tuple[float, float] | None, ...]  # for each target the two ends, or None


class Block(NamedTuple):
    """One block of target pixels: all that is known of it without its pixels."""

    plan: Geometry
    pieces: tuple[tuple[Piece, ...], ...]
    fillvalues: tuple[float, ...]  # beyond the edges of each image
    method: str
    background: int | None
    n_targets: int
    imaginary: bool  # whether it is of imaginary parts
    marks: Marks | None
    planes: tuple[Plane, ...] = ()  # those of a volume's target; `plan` is of each

    @property
    def n_sources(self) -> int:
        """Number of images, whose masks follow."""
        return len(self.fillvalues)

    @property
    def places(self) -> list[Sequence[int]]:
        """For each plane of the target which planes of what is read its sources are, of an image the only one."""
        if not self.planes:
            return [(0,)]
        depth, step = len(self.planes[0].images), self.planes[0].convention.stride[0]
        every = [range(step * at, step * at + depth) for at in range(len(self.planes))]
        return [one[::-1] for one in every] if self.plan.flipped else list(every)

    @property
    def extent(self) -> tuple[int, ...]:
        """Shape of what is read of an image, or volume."""
        shape = self.plan.extended_shape
        return (max(self.places[-1]) + 1, *shape) if self.planes else shape


class Whole:
    """Blocks of a task, in which Dask looks for nothing that it has to compute first."""

    def __init__(self, parts: list[tuple[Block, Any, Any]]) -> None:
        self.parts = parts


class Sums(tuple[Any, ...]):
    """Several sums that are taken together, each with ``+``."""

    def __add__(self, other: Any) -> "Sums":
        return Sums(a + b for a, b in zip(self, other, strict=True))


def _pixels(source: Any) -> npt.NDArray[Any]:
    return np.asarray(source() if isinstance(source, Stored) else source)


def _assembled(
    pieces: Sequence[Piece], sources: Sequence[Any], shape: tuple[int, ...], fillvalue: float
) -> npt.NDArray[Any]:
    """Put the pieces of an extended image together; where there is no source the fill value stands."""
    parts = [None if s is None else _pixels(s) for s in sources]
    if len(parts) == 1 and parts[0] is not None and set(pieces[0].steps) == {1}:
        return parts[0]
    known = [p.dtype for p in parts if p is not None]
    out = np.full(shape, fillvalue, np.float64 if len(known) < len(parts) else known[0])
    for (start, sides, steps), part in zip(pieces, parts, strict=True):
        if part is not None:
            place = tuple(slice(first, first + n) for first, n in zip(start, sides, strict=True))
            out[place] = part[tuple(slice(None, None, step or 1) for step in steps)]
    return out


def _read(
    block: Block, sources: Sequence[Sequence[Any]], targets: Sequence[Any]
) -> tuple[list[Observation], list[list[Any]]]:
    """Read the pixels of a block: its observations, of each target of each its weights, None if all count alike."""
    plan, marks = block.plan, block.marks
    beyond = [*block.fillvalues] + [0.0] * (len(sources) - block.n_sources)
    every = zip(block.pieces, sources, beyond, strict=True)
    images, results = [_assembled(p, s, block.extent, fill) for p, s, fill in every], [_pixels(t) for t in targets]
    if not block.planes:
        images, results = [one[None] for one in images], [one[None] for one in results]
    functions = extended_weights(plan)
    observations, items = list[Observation](), list[list[Any]]()
    for at, places in enumerate(block.places):
        extended = [[Reader(one[i], plan.extended_shape) for i in places] for one in images]
        own = tuple(
            dataclasses.replace(r, weight=w) for one in extended[: block.n_sources] for r in one for w in functions
        )
        seen = [Reader(one[at], plan.size) for one in results]
        plane = block.planes[at] if block.planes else None
        words: dict[str, Any] = {"background": block.background, "imaginary": block.imaginary, "plane": plane}
        one = Observation(plan, own, tuple(seen[: block.n_targets]), **words)
        observations.append(one)
        if marks is None:
            items.append([None] * block.n_targets)
            continue
        alone, more = blocks.alone(one), iter(extended[block.n_sources :])
        masks_of = [list(itertools.islice(more, n)) for n in marks.image_masks]
        image_masks = tuple(
            tuple(mask[i] for mask in masks) for masks in masks_of for i in range(len(places)) for _ in functions
        )
        rest, found = iter(seen[block.n_targets :]), []
        for t, (n_masks, n_weights) in enumerate(zip(marks.masks, marks.weights, strict=True)):
            masks, weights = tuple(itertools.islice(rest, n_masks)), tuple(itertools.islice(rest, n_weights))
            single = of_target(alone, t)
            boxed = MaskedBlocks(single, masks, weights, image_masks, marks.nan, marks.saturated[t])
            found.append(boxed.item(blocks.Box(0, 0, *plan.size), single))
        items.append(found)
    return observations, items


@one_blas_thread
def equations(block: Block, sources: Any, targets: Any) -> Sums:
    """Return the equations of each target, the background not eliminated."""
    with _placed(block):
        observations, items = _read(block, sources, targets)
        return Sums(lot_equations(observations, items, block.method, 1))


@one_blas_thread
def residuals(block: Block, sources: Any, targets: Any, unknowns: Array) -> Sums:
    """Return ``A'Wr`` and ``r'Wr`` of each target in one array; A holds the columns of the background, too."""
    with _placed(block):
        observations, items = _read(block, sources, targets)
        if block.background is None and all(item is None for own in items for item in own):
            kernels = unknowns.reshape(block.n_targets, -1, *block.plan.kernel_shape)
            every = (residual_moments(one, kernels, block.method, 1) for one in observations)
            moments, energies = add(every)
            return Sums(np.append(moment, energy) for moment, energy in zip(moments, energies, strict=True))
        out = []
        for t, taps in enumerate(unknowns):
            own = [item[t] or _whole(of_target(one, t)) for one, item in zip(observations, items, strict=True)]
            left = residual(own, taps, block.method, 1)
            out.append(np.append(left.moment, left.energy))
        return Sums(out)


def _whole(observation: Observation) -> WeightedObservation:
    return WeightedObservation(observation, np.ones(observation.size, dtype=bool))


def at_ends(block: Block, sources: Any, targets: Any) -> Sums:  # noqa: ARG001
    """Return how many pixels of each target stand at the ends of their type's range, each in an array."""
    every = (None,) * block.n_targets if block.marks is None else block.marks.saturated
    counts = []
    for target, ends in zip(targets[: block.n_targets], every, strict=True):
        found = None if ends is None else masking.at_ends(_pixels(target), ends)
        counts.append(np.array([0 if found is None else np.count_nonzero(found)]))
    return Sums(counts)


@contextlib.contextmanager
def _placed(block: Block) -> Iterator[None]:
    """Say in which block an error was found."""
    start = (*(one.at for one in block.planes[:1]), *block.plan.offset)
    where = f"in the block of target pixels that starts at {start}"
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{where}, with places within what it reads: {error}") from error
    except Exception as error:  # of a store, say, or of what computes a chunk
        error.add_note(where)
        raise


def made(start: tuple[int, ...], work: Callable[..., Any], *args: Any, **words: Any) -> Any:
    """Make a chunk; an error says where it starts."""
    try:
        return work(*args, **words)
    except Exception as error:
        error.add_note(f"in the chunk of pixels that starts at {start}")
        raise


@one_blas_thread
def each(
    work: Callable[..., Any], parts: list[tuple[Block, Any, Any]] | Whole, recipes: Mapping[int, Recipe], *more: Any
) -> Any:
    """Do the work of several blocks, one after the other, and add it up."""
    stores: dict[int, Any] = {}
    every = (
        work(block, bound(sources, recipes, stores), bound(targets, recipes, stores), *more)
        for block, sources, targets in (parts.parts if isinstance(parts, Whole) else parts)
    )
    return blocks.in_tree(every, operator.add)


def added(parts: list[Any]) -> Any:
    """Add up what has been made."""
    return blocks.in_tree(parts, operator.add)
