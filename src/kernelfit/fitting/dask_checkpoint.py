"""Sums of Dask arrays in a file, from which a killed run goes on."""

import hashlib
from collections.abc import Sequence

import numpy as np

from ..core.background import settled
from ..core.normal_equations import NormalEquations
from ..data import blocks
from .checkpoint import Checkpoint
from .dask_blocks import BlockGroup
from .dask_portions import kept_sums
from .dask_tasks import equations


def kept_equations(groups: Sequence[BlockGroup], state: Checkpoint) -> list[list[NormalEquations]]:
    """Return the equations of each target of each group; what the checkpoint holds is not computed again."""
    recognise(groups, state)
    units = [unit for group in groups for unit in group.units(equations)]
    sums = kept_sums(groups[0].dask, units, state, "", groups[0].progress)
    totals = [[sums.at(g, t).whole.total() for t in range(group.n_targets)] for g, group in enumerate(groups)]
    return [[settled(one) for one in own if one is not None] for own in totals]


def recognise(groups: Sequence[BlockGroup], state: Checkpoint) -> None:
    """Refuse arrays that are not a checkpoint's: by shapes, types, and pixels of the first and the last pair."""
    known, spots = hashlib.sha256(), []
    for group in groups:
        every = group.observations
        for one in every:
            known.update(repr([(r.array.shape, str(r.array.dtype)) for r in (*one.sources, *one.targets)]).encode())
        ends = (0,) if len(every) == 1 else (0, -1)
        marks = [own for at in ends for own in group.masked[at] if own is not None]
        more = [r for own in marks for r in (*own.masks, *own.weights, *(r for some in own.image_masks for r in some))]
        for reader in (*(reader for at in ends for reader in blocks.once(every[at])), *more):
            array = group.source(reader.array)
            if isinstance(array, np.ndarray) and any(reader is one for one in more):
                known.update(np.ascontiguousarray(array).tobytes())
            for share in (0.0, 0.5, 1.0):
                rows, cols = (slice(at := int(share * max(0, n - 16)), at + 16) for n in array.shape)
                spots.append(array[rows, cols])
    with state.running():
        for spot in groups[0].dask.compute(*spots):
            known.update(np.ascontiguousarray(spot).astype("<f8").tobytes())
        if state.digest not in ("", known.hexdigest()):
            raise state.mismatch("shapes, types or pixels of the arrays differ")
    state.digest = known.hexdigest()
