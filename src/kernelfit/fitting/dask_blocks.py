"""The same calls on Dask arrays: blocks that read their own surroundings, added where they are, on any scheduler.

What travels is statistics, as long as the pixels come from a store or a computation: the part of the graph that makes a
block goes into the task of the block, and is run there. A fit also has a few of the pixels brought, to look at its
residual.
"""

import dataclasses
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..compiled.threads import Progress
from ..core import geometry
from ..core.background import Elimination, eliminated, settled
from ..core.geometry import Shape
from ..core.normal_equations import NormalEquations
from ..core.validation import Array
from ..data import blocks, chunked, masking
from ..data.masked_blocks import MaskedBlocks
from ..data.observation import Observation, of_target
from ..data.plan import FitPlan
from ..data.reader import whole_slice
from . import dask_tasks
from .dask_portions import added, sums
from .dask_tasks import Block, Lazy, Marks, Piece, Recipe, Stored, Sums

#: Data of more bytes than this are not sent along with each block that needs them.
_LIGHT = 2**16
#: What of Dask's tasks, and of what makes them, may hold data.
_HOLD = ("args", "kwargs", "value", "task", "indices", "io_deps", "mapping", "arr")
#: Nor are those of a graph, all together.
_LIGHT_GRAPH = 2**20


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


class BlockGroup:
    """The observations of a group on Dask arrays, or on anything else, cut into blocks."""

    def __init__(
        self, plan: FitPlan, group: int, method: str, sides: Shape | None, progress: Progress | None = None
    ) -> None:
        self.dask, self.progress = import_dask(), progress
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
        self._recipes: list[Any] = []
        self._planes: dict[int, Any] = {}
        self._cut()

    def _cut(self) -> None:
        """Cut all observations into blocks."""
        self.blocks = [self._blocks(i, one) for i, one in enumerate(self.observations)]

    def _blocks(self, index: int, observation: Observation) -> list[tuple[Block, list[list[Any]], list[Any]]]:
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
            marks = Marks(
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
        self, wide: Observation, observation: Observation, box: blocks.Box, marks: Marks | None
    ) -> tuple[Block, list[list[Any]], list[Any]]:
        part = blocks.sub_observation(wide, box)
        pieces, sources = [], []
        for reader in part.sources:
            (top, left), (height, width) = (-reader.before[0], -reader.before[1]), reader.shape
            rows = geometry.axis_runs(top, top + height, reader.array.shape[0], reader.boundary)
            cols = geometry.axis_runs(left, left + width, reader.array.shape[1], reader.boundary)
            own = [(Piece(r, c, (h, w), (down, across)), y, x) for r, y, h, down in rows for c, x, w, across in cols]
            pieces.append(tuple(piece for piece, _, _ in own))
            sources.append([None if y is None or x is None else self._slice(reader.array, p, y, x) for p, y, x in own])
        targets = [self._slice(r.array, Piece(0, 0, r.shape, (1, 1)), -r.before[0], -r.before[1]) for r in part.targets]
        counts = len(observation.sources), len(observation.targets)
        conv = part.geometry.convention
        found = Block(part.geometry, tuple(pieces), conv.fillvalue, self.method, observation.background, *counts, marks)
        return found, sources, targets

    def _slice(self, array: Any, piece: Piece, row: int, col: int) -> Any:
        """Return the stored pixels of a piece: something to call, or a collection that the scheduler has to make."""
        array = self.source(array)
        key = (whole_slice(row, piece.shape[0], piece.steps[0]), whole_slice(col, piece.shape[1], piece.steps[1]))
        if not self.dask.is_dask_collection(array):
            if not isinstance(array, np.ndarray):
                return Stored(array, key)
            view = np.asarray(array[key])
            return view if view.nbytes <= _LIGHT else self.dask.delayed(view, pure=False)
        if array.name not in self._stores:
            self._stores[array.name] = self._made_of(array)
        made = self._stores[array.name]
        if isinstance(made, int):
            return Lazy(made, key)
        if not isinstance(made, _Brought):
            return Stored(made, key)
        return self.dask.delayed(dask_tasks.joined, pure=False)(*made.of(key))

    def _made_of(self, array: Any) -> Any:
        """Return where the pixels of a Dask array come from: a store, the number of a recipe, or the scheduler."""
        store = _store(array)
        if store is not None:
            return store
        recipe = _recipe(array)
        if recipe is None:
            return _Brought(self.dask, array)
        self._recipes.append(self.dask.delayed(recipe, pure=False, traverse=False))
        return len(self._recipes) - 1

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

    def parts(self, index: int, work: Callable[..., Any], *more: Any) -> list[Any]:
        """Return what `work` makes of the blocks of an observation, some blocks each, to be computed."""
        delayed = self.dask.delayed
        each = delayed(dask_tasks.each, pure=False)
        kept = [delayed(m) if isinstance(m, np.ndarray) else m for m in more]
        level: list[Any] = []
        for group in blocks.groups(self.blocks[index]):
            recipes = self._recipes_of(group)
            if all(self._own(sources, targets) for _, sources, targets in group):
                level.append(each(work, delayed(group, traverse=False), recipes, *kept))
            else:
                parts = [each(work, [part], recipes, *kept) for part in group]
                level.append(delayed(dask_tasks.added, pure=False)(parts))
        return level

    def _recipes_of(self, group: Any) -> dict[int, Any]:
        """Return the recipes that blocks need, by their numbers: those of all pairs would be many for each task."""
        every = (one for _, sources, targets in group for one in (*(s for own in sources for s in own), *targets))
        return {one.recipe: self._recipes[one.recipe] for one in every if isinstance(one, Lazy)}

    def total(self, index: int, work: Callable[..., Any], *more: Any) -> Any:
        """Return the sum over the blocks of an observation of what `work` makes of them, to be computed."""
        return added(self.dask, self.parts(index, work, *more))

    def totals(self, work: Callable[..., Any], *more: Sequence[Any]) -> list[Any]:
        """Compute the sums of all observations; `more` holds arguments for each of them."""
        parts = [self.parts(i, work, *(m[i] for m in more)) for i in range(len(self.observations))]
        return sums(self.dask, parts, self.progress)

    def _own(self, sources: list[list[Any]], targets: list[Any]) -> bool:
        """Whether a block needs nothing that the scheduler has to bring."""
        return not any(self.dask.is_dask_collection(s) for s in [*(s for own in sources for s in own), *targets])

    def equations(self) -> Any:
        """Return the equations of each target, of all observations, to be computed."""
        found = [self.total(i, dask_tasks.equations) for i in range(len(self.observations))]
        return self.dask.delayed(together, pure=False)(found)

    def computed_equations(self) -> list[NormalEquations]:
        """Compute the equations of each target, of all observations."""
        if self.progress is None:
            found: list[NormalEquations] = self.equations().compute()
            return found
        return together(self.totals(dask_tasks.equations))

    def counted_equations(self, *, automatic: bool) -> tuple[list[NormalEquations], list[str]]:
        """Compute the equations of each target; also return in words what was excluded.

        Saturated pixels count if they are told automatically, and nearly all of a target is.
        """
        found, notes = self.computed_equations(), []
        n_taps = found[0].n_taps
        for i, one in enumerate(self.observations):
            n = one.geometry.n_pixels
            least = max(0.05 * n, 10 * n_taps)
            doubtful = any(stats.n_pixels < least for stats in found) or len(self.observations) > 1
            if not (automatic and doubtful and any(m is not None and m.saturated for m in self.masked[i])):
                continue
            counts = self.total(i, dask_tasks.at_ends).compute()
            for t, count in enumerate(counts.tolist()):
                if n - count < least and self.masked[i][t] is not None:
                    notes.append(
                        f"{count} of {n} target pixels{_in(one)} stand at the ends of "
                        f"{one.targets[t].array.dtype}'s range; they are used, being nearly all of it"
                    )
                    self.use_saturated(i, t)
        if notes:
            self._cut()
            found = self.computed_equations()
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
        return [list(sums) for sums in self.totals(dask_tasks.residuals, unknowns)]


def _in(observation: Observation) -> str:
    return f" in {observation.where}" if observation.where else ""


def together(sums: list[Sums]) -> list[NormalEquations]:
    """Return the equations of each target from the sums of the observations, their backgrounds eliminated."""
    return [settled(blocks.in_tree([eliminated(own[t]) for own in sums], operator.add)) for t in range(len(sums[0]))]


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


class _Brought:
    """A Dask array whose chunks the scheduler brings, since they lie in memory, here or on a cluster."""

    def __init__(self, dask: Any, array: Any) -> None:
        from dask.highlevelgraph import HighLevelGraph

        (array,) = dask.optimize(array)
        self.name, self.ends, self.dtype = array.name, _ends(array), array.dtype
        self.graph = HighLevelGraph({self.name: dict(array.__dask_graph__())}, {self.name: set()})

    def of(self, key: tuple[slice, slice]) -> tuple[list[Any], list[Any], tuple[slice, slice], Any]:
        """Return the arguments of `dask_tasks.joined` for some slices."""
        from dask.delayed import Delayed

        places = dask_tasks.places_in(self.ends, key)
        delayed: Any = Delayed
        chunks = [delayed((self.name, *at), self.graph, layer=self.name) for at, _, _ in places]
        return chunks, [(to, own) for _, to, own in places], key, self.dtype


def _ends(array: Any) -> tuple[list[int], ...]:
    """Return where the chunks of a Dask array begin and end along each axis."""
    return tuple(np.cumsum([0, *sides]).tolist() for sides in array.chunks)


def _bytes(value: Any) -> float:
    """Return how much data a part of a graph holds, infinite where they lie on a cluster or are much at a time."""
    if isinstance(value, np.ndarray):
        return value.nbytes if value.nbytes <= _LIGHT else math.inf
    if type(value).__module__.split(".")[0] == "distributed":
        return math.inf
    if isinstance(value, dict):
        return sum(map(_bytes, value.values()))
    if isinstance(value, (list, tuple, set, frozenset)):
        return sum(map(_bytes, value))
    if not type(value).__module__.startswith("dask."):
        return 0
    return sum(_bytes(getattr(value, name, None)) for name in _HOLD)


def _recipe(array: Any) -> Recipe | None:
    """Return how a Dask array is made; None if its graph holds much data, or data on a cluster."""
    from dask._task_spec import GraphNode, convert_legacy_graph
    from dask.blockwise import Blockwise
    from dask.highlevelgraph import HighLevelGraph

    graph = array.__dask_graph__()
    if not isinstance(graph, HighLevelGraph):
        graph = HighLevelGraph({array.name: dict(graph)}, {array.name: set()})
    layers: list[Any] = []
    known: Any = None
    for name in reversed(graph._toposort_layers()):
        layer: Any = graph.layers[name]
        if not isinstance(layer, Blockwise):
            layer = dict(layer)
            if not _bytes(layer) <= _LIGHT_GRAPH:
                return None
            if not all(isinstance(node, GraphNode) for node in layer.values()):
                known = graph.get_all_external_keys() if known is None else known
                layer = convert_legacy_graph(layer, known)
        layers.append(layer)
    return Recipe(layers, array.name, _ends(array), array.dtype) if _bytes(layers) <= _LIGHT_GRAPH else None


def _store(array: Any) -> Any:
    """Return what a Dask array of `from_zarr` or `from_array` reads, chunk by chunk and unlocked; None for others.

    Slices of that need no graph, which to make, optimise and send costs milliseconds a block.
    """
    from dask.array import core

    graph, ends = array.__dask_graph__(), _ends(array)
    layers = getattr(graph, "layers", None)
    if layers is not None:  # no more of it than can be the source, and what slices that
        below = [layers[name] for name in graph.dependencies[array.name]]
        if any(len(layer) > 1 for layer in below):
            return None
        graph = {key: node for layer in (layers[array.name], *below) for key, node in layer.items()}
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
    return found if usable and hasattr(found, "__getitem__") and _bytes(found) <= _LIGHT else None
