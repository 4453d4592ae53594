"""The same calls on Dask arrays: blocks that read their own surroundings, added where they are, on any scheduler.

What travels is statistics, as long as the pixels come from a store or a computation: the part of the graph that makes a
block goes into the task of the block, and is run there. A fit also has a few of the pixels brought, to look at its
residual.
"""

import contextlib
import dataclasses
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..compiled.blas import one_blas_thread
from ..core import geometry, validation
from ..core.geometry import Geometry, Shape
from ..core.model import Model
from ..core.normal_equations import NormalEquations
from ..core.validation import Array
from ..data import blocks, chunked, masking
from ..data import reader as pair
from ..data.masked_blocks import MaskedBlocks
from ..data.masking import PlaneSelection
from ..data.observation import Observation, WeightedObservation, as_observation
from ..data.reader import Reader
from ..engines import weighted
from ..engines.accumulation import residual_moments, statistics
from ..engines.cost_model import resolve
from ..engines.weighted_pass import residual

#: Data of more bytes than this are not sent along with each block that needs them.
_LIGHT = 2**16
_MOST_REFINEMENTS = 3


def _dask() -> Any:
    """Import Dask, or say how to get it."""
    try:
        import dask
        import dask.array
        import dask.delayed
    except ImportError as error:
        msg = f"kernelfit.scale needs Dask, which cannot be imported ({error}): pip install 'kernelfit[dask]'"
        raise ImportError(msg) from error
    return dask


class _Piece(NamedTuple):
    """A part of an extended image: where it stands, its extent, its steps (0 or -1 beyond an edge)."""

    row: int
    col: int
    shape: Shape
    steps: Shape


class _Lazy:
    """Pixels that are computed or read where they are needed, from a graph of their own."""

    def __init__(self, collection: Any) -> None:
        self.graph = dict(collection.__dask_graph__())
        self.keys = collection.__dask_keys__()
        self.finish = collection.__dask_postcompute__()

    def complete(self) -> bool:
        """Whether the graph holds all that it needs; data that lie on a cluster are lost when it is optimised."""
        return all(key in self.graph for node in self.graph.values() for key in getattr(node, "dependencies", ()))

    def __call__(self) -> Any:
        from dask.local import get_sync

        function, args = self.finish
        return function(get_sync(self.graph, self.keys), *args)


class _Stored:
    """A slice of something that can be sliced, read where it is needed."""

    def __init__(self, array: Any, key: tuple[slice, slice]) -> None:
        self.array, self.key = array, key

    def __call__(self) -> Any:
        return self.array[self.key]


class _Marks(NamedTuple):
    """What excludes or weighs pixels of a block, whose further sources are masks of the image.

    Of its further targets the first `n_masks` are masks, and one more, if there is one, holds the weights.
    """

    n_masks: int
    nan: str
    saturated: tuple[float, float] | None


class _Block(NamedTuple):
    """One block of target pixels: all that is known of it without its pixels."""

    plan: Geometry
    pieces: tuple[tuple[_Piece, ...], ...]
    fillvalue: float
    method: str
    at: Shape
    marks: _Marks | None


def _pixels(source: Any) -> npt.NDArray[Any]:
    return np.asarray(source() if isinstance(source, (_Lazy, _Stored)) else source)


def _assembled(pieces: Sequence[_Piece], sources: Sequence[Any], shape: Shape, fillvalue: float) -> npt.NDArray[Any]:
    """Put the pieces of an extended image together; where there is no source the fill value stands."""
    parts = [None if s is None else _pixels(s) for s in sources]
    if len(parts) == 1 and parts[0] is not None and pieces[0].steps == (1, 1):
        return parts[0]
    known = [p.dtype for p in parts if p is not None]
    out = np.full(shape, fillvalue, np.float64 if len(known) < len(parts) else known[0])
    for (row, col, (height, width), (down, across)), part in zip(pieces, parts, strict=True):
        if part is not None:
            out[row : row + height, col : col + width] = part[:: down or 1, :: across or 1]
    return out


def _problem(
    block: _Block, sources: Sequence[Sequence[Any]], targets: Sequence[Any]
) -> tuple[Observation, MaskedBlocks | None]:
    """Read the pixels of a block and return its problem, and what excludes or weighs pixels of it."""
    plan, marks = block.plan, block.marks
    beyond = [block.fillvalue] + [0.0] * (len(sources) - 1)
    images = tuple(
        Reader(_assembled(p, s, plan.extended_shape, fill), plan.extended_shape)
        for p, s, fill in zip(block.pieces, sources, beyond, strict=True)
    )
    results = tuple(Reader(_pixels(t), plan.size) for t in targets)
    observation = Observation(plan, images[:1], results[:1])
    if marks is None:
        return observation, None
    n = 1 + marks.n_masks
    return observation, MaskedBlocks(
        blocks.alone(observation), results[1:n], results[n:], (images[1:],), marks.nan, marks.saturated
    )


def _item(boxed: MaskedBlocks | None) -> WeightedObservation | None:
    """Return a block with its weights, None if all of its pixels count the same."""
    return None if boxed is None else boxed.item(blocks.Box(0, 0, *boxed.observation.size), boxed.observation)


@one_blas_thread
def _block_statistics(block: _Block, sources: Any, targets: Any) -> NormalEquations:
    with _placed(block):
        observation, boxed = _problem(block, sources, targets)
        item = _item(boxed)
        if boxed is None or item is None:
            return statistics(observation, block.method, 1)[0]
        return weighted.block_statistics(item, block.method, 1)


@one_blas_thread
def _block_residual(block: _Block, sources: Any, targets: Any, kernel: Array) -> Array:
    """Return ``A'r`` and ``r'r`` in one array."""
    with _placed(block):
        observation, boxed = _problem(block, sources, targets)
        item = _item(boxed)
        if item is not None:
            left = residual([item], kernel.ravel(), block.method, 1)
            return np.append(left.moment, left.energy)
        moments, energies = residual_moments(observation, kernel[None, None], block.method, 1)
        return np.append(moments[0], energies[0])


def _block_at_ends(block: _Block, sources: Any, targets: Any) -> int:
    """Return how many target pixels stand at the ends of their type's range."""
    assert block.marks is not None and block.marks.saturated is not None
    found = masking.at_ends(_pixels(targets[0]), block.marks.saturated)
    return 0 if found is None else int(np.count_nonzero(found))


@contextlib.contextmanager
def _placed(block: _Block) -> Iterator[None]:
    """Say in which block an error was found."""
    try:
        yield
    except ValueError as error:
        msg = f"in the block of target pixels that starts at {block.at}: {error}"
        raise ValueError(msg) from error


def _determined(stats: NormalEquations) -> NormalEquations:
    """Refuse statistics of fewer pixels than taps."""
    if stats.n_pixels < stats.n_taps:
        msg = (
            f"got a mask or weights that leave {stats.n_pixels} target pixels, need at least {stats.n_taps} for as "
            "many taps; ask for a smaller shape, or exclude less"
        )
        raise ValueError(msg)
    return stats


@one_blas_thread
def _each(work: Callable[..., Any], parts: list[tuple[_Block, Any, Any]], *more: Any) -> Any:
    """Do the work of several blocks, one after the other, and add it up."""
    return blocks.in_tree((work(*part, *more) for part in parts), operator.add)


def _added(parts: list[Any]) -> Any:
    return blocks.in_tree(parts, operator.add)


_ALL = PlaneSelection()


class _Plan:
    """A pair of Dask arrays, or of anything else, cut into blocks."""

    def __init__(
        self,
        image: Any,
        target: Any,
        model: Model,
        method: str,
        block: Any,
        selection: PlaneSelection = _ALL,
    ) -> None:
        self.dask = _dask()
        validation.known(method, ("auto", "direct", "fft"), "method")
        sides = blocks.as_block(block)
        image, image_masked = self._unmasked(image, "image")
        target, target_masked = self._unmasked(target, "target")
        observation = as_observation(image, target, model)
        self.choice = resolve(observation, method)
        self.large = self.choice.method == "cg"
        if self.large:
            self.choice = self.choice._replace(method="fft", reason="only statistics can be added up")
        selection = dataclasses.replace(
            selection,
            masks=(*selection.masks, target_masked),
            image_masks=((*(selection.image_masks[0] if selection.image_masks else ()), image_masked),),
        )
        self.observation, self.boxed = observation, MaskedBlocks.of(observation, selection)
        marks, wide = None, observation
        if self.boxed is not None:
            own = self.boxed
            marks = _Marks(len(own.masks), own.nan, own.saturated)
            wide = dataclasses.replace(
                observation,
                sources=(*observation.sources, *own.image_masks[0]),
                targets=(*observation.targets, *own.masks, *own.weights),
            )
        # A block's graph is cut out of that of the whole array, unless it only reads a store; what cannot be sent along
        # is left to the scheduler.
        self.stores: dict[str, Any] = {}
        boxes = blocks.cut(observation, sides, 2 * blocks.FAN)  # at least two tasks
        self.blocks = [self._block(wide, box, marks) for box in boxes]

    def _unmasked(self, value: Any, name: str) -> tuple[Any, Any]:
        """Return an array without its mask, and the mask."""
        if isinstance(value, (list, tuple)) and any(getattr(item, "ndim", 0) > 1 for item in value):
            msg = f"got a list of arrays as {name}, need one; add up what kernelfit.scale.accumulate makes of each pair"
            raise TypeError(msg)
        if isinstance(getattr(value, "_meta", None), np.ma.MaskedArray):
            masked = self.dask.array.ma
            return masked.getdata(value), masked.getmaskarray(value)
        return masking.unmasked(value)

    def _block(
        self, observation: Observation, box: blocks.Box, marks: _Marks | None
    ) -> tuple[_Block, list[list[Any]], list[Any]]:
        part = blocks.sub_observation(observation, box)
        pieces, sources = [], []
        for reader in part.sources:
            (top, left), (height, width) = (-reader.before[0], -reader.before[1]), reader.shape
            rows = geometry.axis_runs(top, top + height, reader.array.shape[0], reader.boundary)
            cols = geometry.axis_runs(left, left + width, reader.array.shape[1], reader.boundary)
            own = [(_Piece(r, c, (h, w), (down, across)), y, x) for r, y, h, down in rows for c, x, w, across in cols]
            pieces.append(tuple(piece for piece, _, _ in own))
            sources.append([None if y is None or x is None else self._slice(reader.array, p, y, x) for p, y, x in own])
        targets = [
            self._slice(r.array, _Piece(0, 0, r.shape, (1, 1)), -r.before[0], -r.before[1]) for r in part.targets
        ]
        plan = part.geometry
        at = (plan.offset[0], plan.offset[1])
        found = _Block(plan, tuple(pieces), plan.convention.fillvalue, self.choice.method, at, marks)
        return found, sources, targets

    def _slice(self, array: Any, piece: _Piece, row: int, col: int) -> Any:
        """Return the stored pixels of a piece: something to call, or a collection that the scheduler has to make."""
        if isinstance(array, chunked.Chunked):
            array = array.array
        key = (pair._slice(row, piece.shape[0], piece.steps[0]), pair._slice(col, piece.shape[1], piece.steps[1]))
        if hasattr(array, "dims") and self.dask.is_dask_collection(array):  # xarray
            array = array.data
        if not self.dask.is_dask_collection(array):
            if not isinstance(array, np.ndarray):
                return _Stored(array, key)
            view = np.asarray(array[key])
            return view if view.nbytes <= _LIGHT else self.dask.delayed(view, pure=False)
        if array.name not in self.stores:
            self.stores[array.name] = _store(array)
        if self.stores[array.name] is not None:
            return _Stored(self.stores[array.name], key)
        (part,) = self.dask.optimize(array[key])
        lazy = _Lazy(part)
        return lazy if lazy.complete() and not _heavy(lazy.graph) else array[key]

    def total(self, work: Callable[..., Any], *more: Any) -> Any:
        """Return the sum over all blocks of what `work` makes of them, to be computed."""
        delayed = self.dask.delayed
        kept = [delayed(m) if isinstance(m, np.ndarray) else m for m in more]
        level: list[Any] = []
        for group in blocks.groups(self.blocks):
            if all(self._own(sources, targets) for _, sources, targets in group):
                level.append(delayed(_each, pure=False)(work, group, *kept))
            else:
                parts = [delayed(work, pure=False)(*part, *kept) for part in group]
                level.append(delayed(_added, pure=False)(parts))
        while len(level) > 1:
            level = [delayed(_added, pure=False)(group) for group in blocks.groups(level)]
        return level[0]

    def statistics(self) -> Any:
        """Return the statistics of all blocks, to be computed."""
        found = self.total(_block_statistics)
        return found if self.boxed is None else self.dask.delayed(_determined, pure=False)(found)

    def judged(self, *, automatic: bool) -> tuple[NormalEquations, list[str]]:
        """Return the statistics, and what was excluded in words.

        Saturated pixels count if they are told automatically, and nearly all of the target is.
        """
        n, taps, notes = self.observation.geometry.n_pixels, self.observation.geometry.n_taps, []
        if automatic and self.large and not (self.boxed is not None and self.boxed.more):
            self._with_saturated()  # no reason to form products of thousands of taps
        stats: NormalEquations = self.total(_block_statistics).compute()
        least = max(0.05 * n, 10 * taps)
        if automatic and stats.n_pixels < least and self.boxed is not None and self.boxed.saturated is not None:
            count = self.total(_block_at_ends).compute()
            if n - count < least:
                self._with_saturated()
                stats = self.total(_block_statistics).compute()
                ends = f"the ends of {self.observation.targets[0].array.dtype}'s range"
                notes = [f"{count} of {n} target pixels stand at {ends}; they are used, being nearly all of it"]
        return _determined(stats), notes + self._excluded(stats.n_pixels)

    def _with_saturated(self) -> None:
        """Let saturated pixels count."""
        if self.boxed is not None:
            self.boxed = dataclasses.replace(self.boxed, saturated=None)
            self.blocks = [
                (block._replace(marks=block.marks and block.marks._replace(saturated=None)), sources, targets)
                for block, sources, targets in self.blocks
            ]

    def _excluded(self, n_pixels: int) -> list[str]:
        """Say in words how many pixels do not count, and why."""
        n = self.observation.geometry.n_pixels
        if self.boxed is None or n_pixels == n:
            return []
        why = ["masked"] if self.boxed.masks else []
        why += ["an excluded image pixel in their footprint"] if any(self.boxed.image_masks) else []
        why += ["NaN or infinite, or such an image pixel in their footprint"] if self.boxed.nan == "mask" else []
        why += ["of weight zero"] if self.boxed.weights else []
        if self.boxed.saturated is not None:
            why.append(masking.ends_in_words(self.boxed.saturated))
        return [f"{n - n_pixels} of {n} target pixels excluded: {'; or '.join(why)}"]

    def _own(self, sources: list[list[Any]], targets: list[Any]) -> bool:
        """Whether a block needs nothing that the scheduler has to bring."""
        return not any(self.dask.is_dask_collection(s) for s in [*(s for own in sources for s in own), *targets])


def _heavy(value: Any) -> bool:
    """Whether a graph holds much data, or data on a cluster, rather than the way to get them."""
    if isinstance(value, np.ndarray):
        return value.nbytes > _LIGHT
    if type(value).__module__.split(".")[0] == "distributed":
        return True
    if isinstance(value, dict):
        return any(_heavy(v) for v in value.values())
    if isinstance(value, (list, tuple, set, frozenset)):
        return any(_heavy(v) for v in value)
    if not type(value).__module__.startswith("dask."):
        return False
    return any(_heavy(getattr(value, name, None)) for name in ("args", "kwargs", "value"))  # of a task


def _store(array: Any) -> Any:
    """Return what a Dask array of `from_zarr` or `from_array` reads, chunk by chunk and unlocked; None for others.

    Slices of that need no graph, which to make, optimise and send costs milliseconds a block.
    """
    from dask.array import core

    graph = dict(array.__dask_graph__())
    ends = [np.cumsum([0, *sides]).tolist() for sides in array.chunks]
    found: Any = None
    for at in np.ndindex(*array.numblocks):
        node = graph.get((array.name, *at))
        if getattr(node, "func", None) not in (core.getter, core.getter_nofancy, core.getter_inline):
            return None
        assert node is not None
        if len(node.args) != 2 or node.kwargs.get("lock"):
            return None
        source, place = node.args
        source = graph.get(getattr(source, "key", None), source)
        source, place = getattr(source, "value", source), getattr(place, "value", place)
        if place != tuple(slice(e[i], e[i + 1], None) for e, i in zip(ends, at, strict=True)):
            return None
        if found is not None and source is not found:
            return None
        found = source
    usable = not isinstance(found, np.ndarray) and getattr(found, "shape", None) == array.shape
    return found if usable and hasattr(found, "__getitem__") and not _heavy(found) else None
