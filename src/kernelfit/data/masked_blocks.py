"""Masks and weights of a pair that is read box by box: judged a box at a time, never held at the target's size.

A box reads its own extended image, target, masks and weights into arrays of its own, which `masks` judges as it does
a whole pair. Its statistics are the exact weighted ones; those of boxes that do not overlap add up.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.model import as_ends
from . import blocks, chunked, masking
from .blocks import Box
from .masking import PlaneSelection
from .observation import Observation, WeightedObservation
from .reader import Reader

#: The kinds of numbers of masks, and of weights, and what they mean.
MARKS, NUMBERED = ("biu", "bool (True where a pixel is excluded)"), ("biuf", "real numbers: the inverse variance")


@dataclass(frozen=True, eq=False)
class MaskedBlocks:
    """What excludes or weighs pixels of a pair, the whole of which is `problem`."""

    observation: Observation
    #: masks, weights: of the used part of the target; those of the weights, none or one
    masks: tuple[Reader, ...]
    weights: tuple[Reader, ...]
    image_masks: tuple[tuple[Reader, ...], ...]  # of each extended image: where it is mirrored, so are they
    nan: str
    saturated: tuple[float, float] | None  # as in `find_kernel`, but for the ends of the type's range being said

    @classmethod
    def of(cls, observation: Observation, selection: PlaneSelection) -> "MaskedBlocks | None":
        """Judge what a user gives for one target, but for its values; None if that excludes nothing."""
        target = observation.targets[0]

        def readers(like: Reader, name: str, kinds: str, need: str, *values: object) -> tuple[Reader, ...]:
            some = [v for v in values if v is not None and getattr(v, "few", True)]
            arrays = [chunked.sliceable(laid(v, like.array.shape, name, kinds, need)) for v in some]
            return tuple(dataclasses.replace(like, array=a, fillvalue=0.0, weight=None) for a in arrays)

        given = selection.image_masks or ((),) * len(observation.sources)
        found = cls(
            observation,
            readers(target, "mask", *MARKS, *selection.masks),
            readers(target, "weights", *NUMBERED, selection.weights),
            tuple(
                readers(source, "image_mask", *MARKS, *own)
                for source, own in zip(observation.sources, given, strict=True)
            ),
            selection.nan,
            as_ends(selection.saturated, target.array.dtype),
        )
        idle = selection.nan == "error" and found.saturated is None
        return None if idle and not (found.masks or found.weights or any(found.image_masks)) else found

    @property
    def more(self) -> bool:
        """Whether more than saturation may exclude or weigh pixels."""
        return bool(self.nan == "mask" or self.masks or self.weights or any(self.image_masks))

    def counting(self) -> "MaskedBlocks":
        """Return it without saturation where nearly all of the target, by a few spots, is at its range's ends."""
        target, plan = self.observation.targets[0], self.observation.geometry
        if self.saturated is None:
            return self
        seen = np.frombuffer(blocks.spots([target]), "<f8")
        if np.count_nonzero((seen <= self.saturated[0]) | (seen >= self.saturated[1])) < 0.5 * seen.size:
            return self
        found = masking.count_at_ends(target.array, plan.used, self.saturated)
        few = plan.n_pixels - found < max(0.05 * plan.n_pixels, 10 * plan.n_taps)
        return dataclasses.replace(self, saturated=None) if few else self

    def item(self, box: Box, observation: Observation | None = None) -> WeightedObservation | None:
        """Return a box with its weights, None if all of its pixels count the same; `problem` is its own, if known."""
        own = blocks.alone(blocks.sub_observation(self.observation, box)) if observation is None else observation
        row, col = (n * step for n, step in zip(box[:2], own.geometry.stride, strict=True))
        weights, masks = ([r.block(box.row, box.col, own.size) for r in some] for some in (self.weights, self.masks))
        extent = own.geometry.extended_shape
        image_masks = tuple(tuple(r.block(row, col, extent) != 0 for r in some) for some in self.image_masks)
        selection = masking.PlaneSelection(
            tuple(mask != 0 for mask in masks), image_masks, weights[0] if weights else None, self.nan, self.saturated
        )
        judged = selection.judge(own, part=True)
        return None if judged is None else judged.item

    def spots(self) -> bytes:
        """Return a few spots of all that is laid on the pair, to know it by."""
        return blocks.spots((*self.masks, *self.weights, *(reader for masks in self.image_masks for reader in masks)))


def laid(value: object, shape: tuple[int, ...], name: str, kinds: str, need: str) -> Any:
    """Return a mask, or weights, as something that can be sliced, or say why it is none."""
    array: Any = value
    if not (hasattr(value, "shape") and hasattr(value, "dtype") and hasattr(value, "__getitem__")):
        array = np.asarray(value)
    if isinstance(array, np.ma.MaskedArray):
        array = array.filled(0)
    if np.dtype(array.dtype).kind not in kinds:
        raise TypeError(f"got {name} of dtype {array.dtype}, need {need}")
    if isinstance(array, np.ndarray):
        return masking.broadcast(array, shape, name)
    if tuple(array.shape) != tuple(shape):
        raise ValueError(f"got {name} of shape {tuple(array.shape)}, need {tuple(shape)}")
    return array
