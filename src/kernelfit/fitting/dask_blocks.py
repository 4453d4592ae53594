"""The same calls on Dask arrays: blocks that read their own surroundings, added where they are, on any scheduler.

What travels is statistics, as long as the pixels come from a store or a computation: the part of the graph that makes a
block goes into the task of the block, and is run there. A fit also has a few of the pixels brought, to look at its
residual.
"""

import dataclasses
import functools
import hashlib
import itertools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..compiled.threads import Progress
from ..core import geometry
from ..core.background import Elimination, eliminated, settled
from ..core.normal_equations import NormalEquations
from ..core.validation import Array
from ..data import blocks, chunked, masking, volumes
from ..data.complex_parts import Part
from ..data.masked_blocks import MaskedBlocks
from ..data.observation import Observation, Plane, lots, of_target
from ..data.plan import FitPlan
from ..data.reader import Reader, whole_slice
from . import dask_tasks
from .checkpoint import Checkpoint
from .dask_portions import Unit, added, fewer, kept_sums, sums
from .dask_sources import LIGHT, Brought, import_dask, recipe_of, store_of
from .dask_tasks import Block, Lazy, Marks, Piece, Stored, Sums, Whole


class BlockGroup:
    """The observations of a group on Dask, or anything else, as blocks; `state` keeps each pass's sums in a file."""

    # A block is of a pair, or of a volume, whose planes are observations that belong together (a lot); so are sums.

    def __init__(
        self,
        plan: FitPlan,
        group: int,
        method: str,
        sides: tuple[int, ...] | None,
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
            [
                MaskedBlocks.of(of_target(one, t), plan.selection_of(group, t, i, stored=True))
                for t in range(self.n_targets)
            ]
            for i, one in enumerate(self.observations)
        ]
        self.sides, self.lots = sides, lots(self.observations)
        self._stores: dict[str, Any] = {}
        self._recipes: list[Any] = []
        self._planes: dict[Any, Any] = {}
        self._cut()

    def _cut(self) -> None:
        """Cut all lots into blocks."""
        self.blocks = [self._blocks(number, lot) for number, lot in enumerate(self.lots)]

    def _blocks(self, number: int, lot: Sequence[int]) -> list[tuple[Block, list[list[Any]], list[Any]]]:
        """Cut a lot into blocks, each with its part of the graph unless it only reads a store."""
        own, marks = [self.observations[i] for i in lot], None
        first, field = own[0], own[0].geometry.convention.field
        # the sources of an image are each there once for each function, those of a volume for each plane of the kernel
        n = (1 if field is None else field.n) if first.plane is None else len(first.plane.images)
        every = ((at, d) for at, one in enumerate(own) for d in range(n))
        there = ((at, d) for at, d in every if (plane := own[at].plane) is None or plane.images[d] is not None)
        at, d = next(there, (0, 0))  # of a volume what holds the image, if any of it is seen at all
        sources, targets, known = [*own[at].sources[d::n]], [*first.targets], self.masked[lot[at]]
        n_sources = len(sources)
        if any(one is not None for one in known):
            some = next(one for one in known if one is not None)
            marks = Marks(
                tuple(len(masks) for masks in some.image_masks[d::n]),
                tuple(0 if one is None else len(one.masks) for one in known),
                tuple(0 if one is None else len(one.weights) for one in known),
                some.nan,
                tuple(None if one is None else one.saturated for one in known),
            )
            sources += [mask for masks in some.image_masks[d::n] for mask in masks]
            targets += [reader for one in known if one is not None for reader in (*one.masks, *one.weights)]
        wide = dataclasses.replace(first, sources=tuple(sources), targets=tuple(targets))
        fills = tuple(reader.fillvalue for reader in sources[:n_sources])
        empty = Block(first.geometry, (), fills, self.method, first.background, self.n_targets, first.imaginary, marks)
        n_images = 0 if first.plane is None else self.plan.n_planes[number * self.plan.n_pairs // len(self.lots)]
        boxes = blocks.cut_lot(own, self.sides, 2 * blocks.FAN)  # at least two tasks
        return [self._block(empty, wide, own, box, n_images) for box in boxes]

    def _block(
        self,
        empty: Block,
        wide: Observation,
        own: Sequence[Observation],
        box: blocks.Box | blocks.Cuboid,
        n_images: int,
    ) -> tuple[Block, list[list[Any]], list[Any]]:
        part, planes = blocks.sub_observation(wide, box), tuple[Plane, ...]()
        under: list[list[geometry.Run]] = []
        if isinstance(box, blocks.Cuboid):
            planes = tuple(one.plane for one in own[box.first : box.first + box.planes] if one.plane is not None)
            under = [volumes.runs_under(planes[0], len(planes), n_images)]
        pieces, sources, targets = [], [], []
        for reader in part.sources:
            axes = zip(reader.before, reader.shape, reader.array.shape, strict=True)
            runs = [*under, *(geometry.axis_runs(-b, k - b, n, reader.boundary) for b, k, n in axes)]
            every: list[Any] = [tuple(zip(*each, strict=True)) for each in itertools.product(*runs)]
            pieces.append(tuple(Piece(at, shape, steps) for at, _, shape, steps in every))
            starts = [start for _, start, *_ in every]
            both = zip(pieces[-1], starts, strict=True)
            sources.append([None if None in start else self._slice(reader, piece, start) for piece, start in both])
        for reader in part.targets:
            shape = (len(planes), *reader.shape)[not planes :]
            piece, start = Piece((0,) * len(shape), shape, (1,) * len(shape)), [-before for before in reader.before]
            targets.append(self._slice(reader, piece, [*(one.at for one in planes[:1]), *start]))
        return empty._replace(plan=part.geometry, pieces=tuple(pieces), planes=planes), sources, targets

    def _slice(self, reader: Reader, piece: Piece, starts: Sequence[int]) -> Any:
        """Return the stored pixels of a piece: something to call, or a collection that the scheduler has to make."""
        array = self.source(reader.array, volume=len(starts) == 3)
        key = tuple(map(whole_slice, starts, piece.shape, piece.steps))
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

    def source(self, array: Any, *, volume: bool = False) -> Any:
        """Return what holds the pixels of a plane, or of its volume: a Dask array, or one in memory."""
        array = array.array if isinstance(array, chunked.Chunked) else array
        if isinstance(array, Part):
            whole = self.source(array.whole, volume=volume)
            key = id(whole), array.imaginary, array.negative
            if key not in self._planes:
                self._planes[key] = array.of(whole), whole  # kept, so that no other array gets its number
            return self._planes[key][0]
        if volume:
            return self.source(array.array)
        if isinstance(array, chunked.Plane):
            whole = self.source(array.array)
            if not (isinstance(whole, np.ndarray) or self.dask.is_dask_collection(whole)):
                return array
            if id(array) not in self._planes:
                at: list[Any] = [slice(None)] * len(whole.shape)
                at[array.axis] = array.index
                self._planes[id(array)] = whole[tuple(at)]
            return self._planes[id(array)]
        return array.data if self.dask.is_dask_collection(array) and hasattr(array, "dims") else array  # xarray

    def parts(self, index: int, work: Callable[..., Any], *more: Any) -> list[Any]:
        """Return what `work` makes of the blocks of a lot, some blocks each, to be computed."""
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
        """Return the sum over the blocks of a lot of what `work` makes of them, to be computed."""
        return added(self.dask, self.parts(index, work, *more))

    def totals(self, work: Callable[..., Any], *more: Sequence[Any]) -> list[Any]:
        """Compute the sums of each lot; `more` holds arguments for each of them."""
        if self.state is None:
            parts = [self.parts(i, work, *(m[i] for m in more)) for i in range(len(self.lots))]
            return sums(self.dask, parts, self.progress)
        units = [
            unit._replace(places=[(i, t) for t in range(self.n_targets)])
            for i, unit in enumerate(self.units(work, *more))
        ]
        found = kept_sums(self.dask, units, self.state, self._asked(work, *more), self.progress)
        return [[found.at(i, t).whole.total() for t in range(self.n_targets)] for i in range(len(self.lots))]

    def units(self, work: Callable[..., Any], *more: Sequence[Any]) -> list[Unit]:
        """Return the sums of the lots as what can be kept, each value for the group's kernel."""
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
        """Return sums of blocks, few of each lot, to be computed: what `together` takes."""
        # one task more is a message there and one back, for which no worker does anything
        most = blocks.FAN if len(self.lots) == 1 else 1
        return [fewer(self.dask, self.parts(i, dask_tasks.equations), most) for i in range(len(self.lots))]

    def computed_equations(self) -> list[NormalEquations]:
        """Compute the equations of each target, of all lots."""
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
        n_pixels = [sum(self.observations[i].geometry.n_pixels for i in lot) for lot in self.lots]
        least = [max(0.05 * n, 10 * found[0].n_taps) for n in n_pixels]
        doubtful = len(n_pixels) > 1 or any(stats.n_pixels < least[0] for stats in found)
        counts: list[Any] = []
        if automatic and doubtful and any(one is not None and one.saturated for own in self.masked for one in own):
            counts = self.totals(dask_tasks.at_ends)
        for i, own in enumerate(counts):
            one = self.observations[self.lots[i][0]]
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

    def use_saturated(self, lot: int, target: int) -> None:
        """Let the saturated pixels of a target count; the blocks are to be cut anew."""
        for index in self.lots[lot]:
            own = self.masked[index][target]
            if own is not None:
                self.masked[index][target] = dataclasses.replace(own, saturated=None)

    def use_all_saturated(self) -> None:
        """Let saturated pixels count everywhere."""
        for i in range(len(self.lots)):
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
        parts = 2 if self.observations[0].geometry.convention.apart else 1  # of each number
        return [f"{(n - n_counted) // parts} of {n // parts} target pixels excluded: {'; or '.join(why)}"]

    def residuals(self, taps: Array, eliminations: Sequence[Sequence[Elimination]]) -> list[list[Array]]:
        """Return the sums of the residual of kernels (targets, taps) and best surfaces, by lot and target."""
        unknowns = []
        for i in range(len(self.lots)):
            beside = [
                own[i].coefficients_at(one[None])[0] if own else np.zeros(0)
                for own, one in zip(eliminations, taps, strict=True)
            ]
            unknowns.append(np.stack([np.concatenate(both) for both in zip(taps, beside, strict=True)]))
        return [list(sums) for sums in self.totals(dask_tasks.residuals, unknowns)]


def _in(observation: Observation) -> str:
    return f" in {observation.where}" if observation.where else ""


def together(sums: list[list[Sums]]) -> list[NormalEquations]:
    """Return the equations of each target from sums of each lot, their backgrounds eliminated."""
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


def unmasked(value: Any, ndim: int = 2) -> tuple[Any, Any]:
    """Return an array, or a list of them, without masks, and the masks; Dask's masked arrays included."""
    if isinstance(value, (list, tuple)) and any(getattr(item, "ndim", 0) > 1 for item in value):
        data, found = zip(*(unmasked(item, ndim) for item in value), strict=True)
        return list(data), None if all(mask is None for mask in found) else list(found)
    if isinstance(getattr(value, "_meta", None), np.ma.MaskedArray):
        masked = import_dask().array.ma
        return masked.getdata(value), masked.getmaskarray(value)
    bare, mask = masking.unmasked(value)
    if ndim == 3 and isinstance(bare, np.ndarray | list | tuple):  # whose planes are to know their volume
        bare = chunked.Plane(np.asarray(bare)[None], 0, 0)
    return bare, mask
