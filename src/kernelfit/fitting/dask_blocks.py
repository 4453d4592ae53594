"""The same calls on Dask arrays: blocks that read their own surroundings, added where they are, on any scheduler.

What travels is statistics, as long as the pixels come from a store or a computation: the part of the graph that makes a
block goes into the task of the block, and is run there. A fit also has a few of the pixels brought, to look at its
residual.
"""

import dataclasses
import functools
import hashlib
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
from .checkpoint import Checkpoint
from .dask_portions import Unit, added, fewer, kept_sums, sums
from .dask_sources import LIGHT, Brought, import_dask, recipe_of, store_of
from .dask_tasks import Block, Lazy, Marks, Piece, Stored, Sums, Whole


class BlockGroup:
    """The observations of a group on Dask, or anything else, as blocks; `state` keeps each pass's sums in a file."""

    def __init__(
        self,
        plan: FitPlan,
        group: int,
        method: str,
        sides: Shape | None,
        progress: Progress | None = None,
        state: Checkpoint | None = None,
    ) -> None:
        self.dask, self.progress, self.state = import_dask(), progress, state
        self.plan, self.group, self.method = plan, group, method
        self.observations = plan.groups[group]
        self.n_targets = len(self.observations[0].targets)
        self.clipped: list[list[str]] = [[] for _ in plan.groups[group][0].targets]  # of each target, in words
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
        """Cut an observation into blocks, each with its part of the graph unless it only reads a store."""
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
            return view if view.nbytes <= LIGHT else self.dask.delayed(view, pure=False)
        if array.name not in self._stores:
            self._stores[array.name] = self._made_of(array)
        made = self._stores[array.name]
        if isinstance(made, int):
            return Lazy(made, key)
        if not isinstance(made, Brought):
            return Stored(made, key)
        return self.dask.delayed(dask_tasks.joined, pure=False)(*made.of(key))

    def _made_of(self, array: Any) -> Any:
        """Return where the pixels of a Dask array come from: a store, the number of a recipe, or the scheduler."""
        store = store_of(array)
        if store is not None:
            return store
        recipe = recipe_of(array)
        if recipe is None:
            return Brought(self.dask, array)
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
                level.append(each(work, Whole(group), recipes, *kept))
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
        """Compute the sums of each observation; `more` holds arguments for each of them."""
        if self.state is None:
            parts = [self.parts(i, work, *(m[i] for m in more)) for i in range(len(self.observations))]
            return sums(self.dask, parts, self.progress)
        units = [
            unit._replace(places=[(i, t) for t in range(self.n_targets)])
            for i, unit in enumerate(self.units(work, *more))
        ]
        found = kept_sums(self.dask, units, self.state, self._asked(work, *more), self.progress)
        return [[found.at(i, t).whole.total() for t in range(self.n_targets)] for i in range(len(self.observations))]

    def units(self, work: Callable[..., Any], *more: Sequence[Any]) -> list[Unit]:
        """Return the sums of the observations as what can be kept, each value for the group's kernel."""
        places = [(self.group, t) for t in range(self.n_targets)]
        return [
            Unit(-(-len(own) // blocks.FAN), functools.partial(self.parts, i, work, *(m[i] for m in more)), places)
            for i, own in enumerate(self.blocks)
        ]

    def _asked(self, work: Callable[..., Any], *more: Sequence[Any]) -> str:
        """Return what tells a pass from others of the same fit."""
        ends = [[one and one.saturated for one in own] for own in self.masked]
        known = hashlib.sha256(repr((self.group, work.__name__, ends)).encode())
        for array in (a for some in more for a in some):
            known.update(np.asarray(array, dtype="<f8").tobytes())
        return known.hexdigest()

    def _own(self, sources: list[list[Any]], targets: list[Any]) -> bool:
        """Whether a block needs nothing that the scheduler has to bring."""
        return not any(self.dask.is_dask_collection(s) for s in [*(s for own in sources for s in own), *targets])

    def sums(self) -> list[list[Any]]:
        """Return sums of blocks, few of each observation, to be computed: what `together` takes."""
        # one task more is a message there and one back, for which no worker does anything
        most = blocks.FAN if len(self.observations) == 1 else 1
        return [fewer(self.dask, self.parts(i, dask_tasks.equations), most) for i in range(len(self.observations))]

    def computed_equations(self) -> list[NormalEquations]:
        """Compute the equations of each target, of all observations."""
        if self.state is not None:
            units = self.units(dask_tasks.equations)
            kept = kept_sums(self.dask, units, self.state, self._asked(dask_tasks.equations), self.progress)
            totals = [kept.at(self.group, t).whole.total() for t in range(self.n_targets)]
            return [settled(one) for one in totals if one is not None]
        if self.progress is None:
            found: list[NormalEquations] = self.dask.delayed(together, pure=False)(self.sums()).compute()
            return found
        return together([[one] for one in self.totals(dask_tasks.equations)])

    def counted_equations(self, *, automatic: bool) -> tuple[list[NormalEquations], list[str]]:
        """Compute the equations of each target, and what was excluded, no saturated pixels where most are."""
        found, notes = self.computed_equations(), []
        n_pixels = [one.geometry.n_pixels for one in self.observations]
        least = [max(0.05 * n, 10 * found[0].n_taps) for n in n_pixels]
        doubtful = len(n_pixels) > 1 or any(stats.n_pixels < least[0] for stats in found)
        counts: list[Any] = []
        if automatic and doubtful and any(one is not None and one.saturated for own in self.masked for one in own):
            counts = self.totals(dask_tasks.at_ends)
        for i, (one, own) in enumerate(zip(self.observations, counts, strict=False)):
            for t, (count,) in enumerate(own):
                if count and n_pixels[i] - count < least[i]:
                    dtype = one.targets[t].array.dtype
                    words = f"{count} of {n_pixels[i]} target pixels{_in(one)} stand at the ends of {dtype}'s range"
                    notes.append(f"{words}; they are used, being nearly all of it")
                    self.clipped[t].append(words)
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
        """Return the sums of the residual of kernels (targets, taps) and best surfaces, by observation and target."""
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


def together(sums: list[list[Sums]]) -> list[NormalEquations]:
    """Return the equations of each target from sums of each observation, their backgrounds eliminated."""
    totals = [dask_tasks.added(own) for own in sums]
    return [
        settled(blocks.in_tree([eliminated(own[t]) for own in totals], operator.add)) for t in range(len(totals[0]))
    ]


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
