"""The same calls on Dask arrays: blocks that read their own surroundings, added where they are, on any scheduler.

What travels is statistics, as long as the pixels come from a store or a computation: the part of the graph that makes a
block goes into the task of the block, and is run there. A fit also has a few of the pixels brought, to look at its
residual.
"""

import contextlib
import dataclasses
import functools
import itertools
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..compiled.blas import one_blas_thread
from ..core import geometry
from ..core.background import Elimination, eliminated, settled
from ..core.geometry import Geometry, Shape
from ..core.normal_equations import NormalEquations
from ..core.validation import Array
from ..data import blocks, chunked, masking
from ..data.masked_blocks import MaskedBlocks
from ..data.observation import Observation, WeightedObservation, extended_weights, of_target
from ..data.plan import FitPlan
from ..data.reader import Reader, whole_slice
from ..engines.accumulation import residual_moments
from ..engines.weighted_pass import residual
from ..solvers.errors_in_variables import counts_of
from .equations import block_equations

#: Data of more bytes than this are not sent along with each block that needs them.
_LIGHT = 2**16


def import_dask() -> Any:
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
    """What excludes or weighs pixels of a block: how its further readers are to be understood."""

    image_masks: tuple[int, ...]  # number of masks of each image, which follow the images
    #: masks, weights: number of masks and of weights of each target, which follow the targets
    masks: tuple[int, ...]
    weights: tuple[int, ...]
    nan: str
    saturated: tuple[tuple[float, float] | None, ...]  # for each target the two ends, or None


class _Block(NamedTuple):
    """One block of target pixels: all that is known of it without its pixels."""

    plan: Geometry
    pieces: tuple[tuple[_Piece, ...], ...]
    fillvalue: float
    method: str
    background: int | None
    n_sources: int
    n_targets: int
    marks: _Marks | None


class Sums(tuple[Any, ...]):
    """Several sums that are taken together, each with ``+``."""

    def __add__(self, other: Any) -> "Sums":
        """Return the sums, each for itself."""
        return Sums(a + b for a, b in zip(self, other, strict=True))


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


def _read(block: _Block, sources: Sequence[Sequence[Any]], targets: Sequence[Any]) -> tuple[Observation, list[Any]]:
    """Read the pixels of a block; return it, and for each target its weights, None if all pixels count alike."""
    plan, marks = block.plan, block.marks
    beyond = [block.fillvalue] * block.n_sources + [0.0] * (len(sources) - block.n_sources)
    images = tuple(
        Reader(_assembled(p, s, plan.extended_shape, fill), plan.extended_shape)
        for p, s, fill in zip(block.pieces, sources, beyond, strict=True)
    )
    functions = extended_weights(plan)
    own = tuple(dataclasses.replace(r, weight=w) for r in images[: block.n_sources] for w in functions)
    results = tuple(Reader(_pixels(t), plan.size) for t in targets)
    observation = Observation(plan, own, results[: block.n_targets], background=block.background)
    if marks is None:
        return observation, [None] * block.n_targets
    alone = blocks.alone(observation)
    more = iter(images[block.n_sources :])
    each = tuple(tuple(itertools.islice(more, n)) for n in marks.image_masks)
    image_masks = tuple(one for one in each for _ in functions)
    rest = iter(results[block.n_targets :])
    items = []
    for t, (n_masks, n_weights) in enumerate(zip(marks.masks, marks.weights, strict=True)):
        masks, weights = tuple(itertools.islice(rest, n_masks)), tuple(itertools.islice(rest, n_weights))
        one = of_target(alone, t)
        boxed = MaskedBlocks(one, masks, weights, image_masks, marks.nan, marks.saturated[t])
        items.append(boxed.item(blocks.Box(0, 0, *plan.size), one))
    return observation, items


@one_blas_thread
def _equations(block: _Block, sources: Any, targets: Any) -> Sums:
    """Return the equations of each target, the background not eliminated."""
    with _placed(block):
        observation, items = _read(block, sources, targets)
        return Sums(block_equations(observation, items, block.method, 1))


@one_blas_thread
def _residuals(block: _Block, sources: Any, targets: Any, unknowns: Array) -> Sums:
    """Return ``A'Wr`` and ``r'Wr`` of each target in one array; A holds the columns of the background, too."""
    with _placed(block):
        observation, items = _read(block, sources, targets)
        if block.background is None and all(item is None for item in items):
            kernels = unknowns.reshape(block.n_targets, -1, *block.plan.kernel_shape)
            moments, energies = residual_moments(observation, kernels, block.method, 1)
            return Sums(np.append(moment, energy) for moment, energy in zip(moments, energies, strict=True))
        out = []
        for t, item in enumerate(items):
            one = item or _whole(of_target(observation, t))
            left = residual([one], unknowns[t], block.method, 1)
            out.append(np.append(left.moment, left.energy))
        return Sums(out)


def _whole(observation: Observation) -> WeightedObservation:
    """Return an observation whose pixels all count once."""
    return WeightedObservation(observation, np.ones(observation.size, dtype=bool))


def _at_ends(block: _Block, sources: Any, targets: Any) -> npt.NDArray[np.int64]:
    """Return how many pixels of each target stand at the ends of their type's range."""
    assert block.marks is not None
    counts = []
    for target, ends in zip(targets[: block.n_targets], block.marks.saturated, strict=True):
        found = None if ends is None else masking.at_ends(_pixels(target), ends)
        counts.append(0 if found is None else int(np.count_nonzero(found)))
    return np.array(counts)


@one_blas_thread
def _noise_counts(block: _Block, sources: Any, targets: Any) -> Sums:
    """Return for each target what white noise of the image of variance 1 adds to the Gram matrix of one source."""
    with _placed(block):
        _, items = _read(block, sources, targets)
        some = [None if item is None else np.asarray(item.weights[:], dtype=bool) for item in items]
        return Sums(counts_of(block.plan, one) for one in some)


@contextlib.contextmanager
def _placed(block: _Block) -> Iterator[None]:
    """Say in which block an error was found."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"in the block of target pixels that starts at {block.plan.offset}: {error}") from error


@one_blas_thread
def _each(work: Callable[..., Any], parts: list[tuple[_Block, Any, Any]], *more: Any) -> Any:
    """Do the work of several blocks, one after the other, and add it up."""
    return blocks.in_tree((work(*part, *more) for part in parts), operator.add)


def _added(parts: list[Any]) -> Any:
    return blocks.in_tree(parts, operator.add)


class BlockGroup:
    """The observations of a group on Dask arrays, or on anything else, cut into blocks."""

    def __init__(self, plan: FitPlan, group: int, method: str, sides: Shape | None) -> None:
        self.dask = import_dask()
        self.plan, self.group, self.method = plan, group, method
        self.observations = plan.groups[group]
        self.n_targets = len(self.observations[0].targets)
        #: For each observation and target what excludes or weighs pixels, None if nothing does.
        self.masked: list[list[MaskedBlocks | None]] = [
            [MaskedBlocks.of(of_target(one, t), plan.selection_of(group, t, i)) for t in range(self.n_targets)]
            for i, one in enumerate(self.observations)
        ]
        self.sides = sides
        self._stores: dict[str, Any] = {}
        self._planes: dict[int, Any] = {}
        self._cut()

    def _cut(self) -> None:
        """Cut all observations into blocks."""
        self.blocks = [self._blocks(i, one) for i, one in enumerate(self.observations)]

    def _blocks(self, index: int, observation: Observation) -> list[tuple[_Block, list[list[Any]], list[Any]]]:
        """Cut an observation into blocks.

        A block's graph is cut out of that of the whole array, unless it only reads a store; what cannot be sent along
        is left to the scheduler.
        """
        own, marks = self.masked[index], None
        field = observation.geometry.convention.field
        n_functions = 1 if field is None else field.n
        wide = images = dataclasses.replace(observation, sources=observation.sources[::n_functions])
        boxes = blocks.cut(observation, self.sides, 2 * blocks.FAN)  # at least two tasks
        if any(one is not None for one in own):
            first = next(one for one in own if one is not None)
            marks = _Marks(
                tuple(len(masks) for masks in first.image_masks[::n_functions]),
                tuple(0 if one is None else len(one.masks) for one in own),
                tuple(0 if one is None else len(one.weights) for one in own),
                first.nan,
                tuple(None if one is None else one.saturated for one in own),
            )
            wide = dataclasses.replace(
                observation,
                sources=(*images.sources, *(mask for masks in first.image_masks[::n_functions] for mask in masks)),
                targets=(
                    *observation.targets,
                    *(reader for one in own if one is not None for reader in (*one.masks, *one.weights)),
                ),
            )
        return [self._block(wide, images, box, marks) for box in boxes]

    def _block(
        self, wide: Observation, observation: Observation, box: blocks.Box, marks: _Marks | None
    ) -> tuple[_Block, list[list[Any]], list[Any]]:
        part = blocks.sub_observation(wide, box)
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
        counts = len(observation.sources), len(observation.targets)
        conv = part.geometry.convention
        found = _Block(
            part.geometry, tuple(pieces), conv.fillvalue, self.method, observation.background, *counts, marks
        )
        return found, sources, targets

    def _slice(self, array: Any, piece: _Piece, row: int, col: int) -> Any:
        """Return the stored pixels of a piece: something to call, or a collection that the scheduler has to make."""
        array = self.source(array)
        key = (whole_slice(row, piece.shape[0], piece.steps[0]), whole_slice(col, piece.shape[1], piece.steps[1]))
        if not self.dask.is_dask_collection(array):
            if not isinstance(array, np.ndarray):
                return _Stored(array, key)
            view = np.asarray(array[key])
            return view if view.nbytes <= _LIGHT else self.dask.delayed(view, pure=False)
        if array.name not in self._stores:
            self._stores[array.name] = _store(array)
        if self._stores[array.name] is not None:
            return _Stored(self._stores[array.name], key)
        (part,) = self.dask.optimize(array[key])
        lazy = _Lazy(part)
        return lazy if lazy.complete() and not _heavy(lazy.graph) else array[key]

    def source(self, array: Any) -> Any:
        """Return what holds the pixels of a plane: a Dask array of two axes if it is one."""
        array = array.array if isinstance(array, chunked.Chunked) else array
        plane = array if isinstance(array, chunked.Plane) else None
        whole = array if plane is None else plane.array
        if not self.dask.is_dask_collection(whole):
            return array
        whole = whole.data if hasattr(whole, "dims") else whole  # xarray
        if plane is None:
            return whole
        if id(plane) not in self._planes:
            at: list[Any] = [slice(None)] * 3
            at[plane.axis] = plane.index
            self._planes[id(plane)] = whole[tuple(at)]
        return self._planes[id(plane)]

    def total(self, index: int, work: Callable[..., Any], *more: Any) -> Any:
        """Return the sum over the blocks of an observation of what `work` makes of them, to be computed."""
        delayed = self.dask.delayed
        kept = [delayed(m) if isinstance(m, np.ndarray) else m for m in more]
        level: list[Any] = []
        for group in blocks.groups(self.blocks[index]):
            if all(self._own(sources, targets) for _, sources, targets in group):
                level.append(delayed(_each, pure=False)(work, group, *kept))
            else:
                parts = [delayed(work, pure=False)(*part, *kept) for part in group]
                level.append(delayed(_added, pure=False)(parts))
        while len(level) > 1:
            level = [delayed(_added, pure=False)(group) for group in blocks.groups(level)]
        return level[0]

    def totals(self, work: Callable[..., Any], *more: Sequence[Any]) -> list[Any]:
        """Compute the sums of all observations at once; `more` holds arguments for each of them."""
        every = range(len(self.observations))
        return list(self.dask.compute(*(self.total(i, work, *(m[i] for m in more)) for i in every)))

    def _own(self, sources: list[list[Any]], targets: list[Any]) -> bool:
        """Whether a block needs nothing that the scheduler has to bring."""
        return not any(self.dask.is_dask_collection(s) for s in [*(s for own in sources for s in own), *targets])

    def equations(self) -> Any:
        """Return the equations of each target, of all observations, to be computed."""
        sums = [self.total(i, _equations) for i in range(len(self.observations))]
        return self.dask.delayed(_together, pure=False)(sums)

    def counted_equations(self, *, automatic: bool) -> tuple[list[NormalEquations], list[str]]:
        """Compute the equations of each target; also return in words what was excluded.

        Saturated pixels count if they are told automatically, and nearly all of a target is.
        """
        found, notes = self.equations().compute(), []
        n_taps = found[0].n_taps
        for i, one in enumerate(self.observations):
            n = one.geometry.n_pixels
            least = max(0.05 * n, 10 * n_taps)
            doubtful = any(stats.n_pixels < least for stats in found) or len(self.observations) > 1
            if not (automatic and doubtful and any(m is not None and m.saturated for m in self.masked[i])):
                continue
            counts = self.total(i, _at_ends).compute()
            for t, count in enumerate(counts.tolist()):
                if n - count < least and self.masked[i][t] is not None:
                    notes.append(
                        f"{count} of {n} target pixels{_in(one)} stand at the ends of "
                        f"{one.targets[t].array.dtype}'s range; they are used, being nearly all of it"
                    )
                    self.use_saturated(i, t)
        if notes:
            self._cut()
            found = self.equations().compute()
        return [determined(stats) for stats in found], notes + self._excluded(found[0])

    def use_saturated(self, index: int, target: int) -> None:
        """Let the saturated pixels of a target count; the blocks are to be cut anew."""
        own = self.masked[index][target]
        if own is not None:
            self.masked[index][target] = dataclasses.replace(own, saturated=None)

    def use_all_saturated(self) -> None:
        """Let saturated pixels count everywhere."""
        for i in range(len(self.observations)):
            for t in range(self.n_targets):
                self.use_saturated(i, t)
        self._cut()

    @property
    def selects(self) -> bool:
        """Whether more than saturation may exclude or weigh pixels."""
        return any(one is not None and one.more for own in self.masked for one in own)

    def _excluded(self, stats: NormalEquations) -> list[str]:
        """Say in words how many pixels do not count, and why."""
        n = sum(one.geometry.n_pixels for one in self.observations)
        n_counted = stats.n_pixels + sum(one.root.shape[1] for one in stats.backgrounds)
        known = [one for own in self.masked for one in own if one is not None]
        if not known or n_counted == n:
            return []
        why = ["masked"] if any(one.masks for one in known) else []
        why += ["an excluded image pixel in their footprint"] if any(any(one.image_masks) for one in known) else []
        nan = "NaN or infinite, or such an image pixel in their footprint"
        why += [nan] if known[0].nan == "mask" else []
        why += ["of weight zero"] if any(one.weights for one in known) else []
        why += list(dict.fromkeys(masking.ends_in_words(one.saturated) for one in known if one.saturated is not None))
        return [f"{n - n_counted} of {n} target pixels excluded: {'; or '.join(why)}"]

    def residuals(self, taps: Array, eliminations: Sequence[Sequence[Elimination]]) -> list[list[Array]]:
        """Return for each observation and target the sums of the residual of kernels and the best surfaces beside them.

        `taps` has the shape (targets, taps), `eliminations` holds those of each target.
        """
        unknowns = []
        for i in range(len(self.observations)):
            beside = [
                own[i].coefficients_at(one[None])[0] if own else np.zeros(0)
                for own, one in zip(eliminations, taps, strict=True)
            ]
            unknowns.append(np.stack([np.concatenate(both) for both in zip(taps, beside, strict=True)]))
        return [list(sums) for sums in self.totals(_residuals, unknowns)]

    def noise_counts(self) -> list[Array]:
        """Return for each target what `errors_in_variables.counts_of` does of all observations."""
        found = self.totals(_noise_counts)
        return [np.sum([sums[t] for sums in found], axis=0) for t in range(self.n_targets)]


def _in(observation: Observation) -> str:
    return f" in {observation.where}" if observation.where else ""


def _together(sums: list[Sums]) -> list[NormalEquations]:
    """Return the equations of each target from the sums of the observations, their backgrounds eliminated."""
    return [settled(functools.reduce(operator.add, [eliminated(own[t]) for own in sums])) for t in range(len(sums[0]))]


def determined(stats: NormalEquations) -> NormalEquations:
    """Refuse statistics of fewer pixels than taps."""
    if stats.n_pixels < stats.n_taps:
        raise ValueError(
            f"got a mask or weights that leave {stats.n_pixels} target pixels, need at least {stats.n_taps} for as "
            "many taps; ask for a smaller shape, or exclude less"
        )
    return stats


def unmasked(value: Any) -> tuple[Any, Any]:
    """Return an array, or a list of them, without masks, and the masks; Dask's masked arrays included."""
    if isinstance(value, (list, tuple)) and any(getattr(item, "ndim", 0) > 1 for item in value):
        data, found = zip(*(unmasked(item) for item in value), strict=True)
        return list(data), None if all(mask is None for mask in found) else list(found)
    if isinstance(getattr(value, "_meta", None), np.ma.MaskedArray):
        masked = import_dask().array.ma
        return masked.getdata(value), masked.getmaskarray(value)
    return masking.unmasked(value)


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
