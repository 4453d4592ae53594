"""Sums of Dask arrays in a file, from which a killed run goes on."""

import hashlib
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..core.background import settled
from ..core.normal_equations import NormalEquations
from ..data import blocks
from .checkpoint import Checkpoint
from .dask_blocks import BlockGroup
from .dask_portions import SECONDS, portions
from .dask_tasks import equations


def kept_equations(groups: Sequence[BlockGroup], state: Checkpoint) -> list[list[NormalEquations]]:
    """Return the equations of each target of each group; what the checkpoint holds is not computed again."""
    units = [(g, i) for g, group in enumerate(groups) for i in range(len(group.observations))]
    parts = [groups[g].parts(i, equations) if u >= state.pairs else [] for u, (g, i) in enumerate(units)]
    ends = list(itertools.accumulate((-(-len(groups[g].blocks[i]) // blocks.FAN) for g, i in units), initial=0))

    def push(unit: int, found: Any, level: int, last: bool) -> None:  # noqa: FBT001
        state.begins()
        for t, one in enumerate(found):
            state.sums.at(units[unit][0], t).add(one, last=last, level=level)

    progress, dask = groups[0].progress, groups[0].dask
    seconds = state.every if progress is None else min(state.every, SECONDS)
    with state.running():
        digest = _digest(groups)
        if state.digest not in ("", digest):
            raise state.mismatch("shapes, types or pixels of the arrays differ")
        state.digest = digest
        for at, done in portions(dask, parts, push, seconds, (state.pairs, state.blocks)):
            state.goes_on(at, done)
            if progress is not None:
                progress("reading pixels", ends[at] + done, ends[-1])
    totals = [[state.sums.at(g, t).whole.total() for t in range(group.n_targets)] for g, group in enumerate(groups)]
    return [[settled(one) for one in own if one is not None] for own in totals]


def _digest(groups: Sequence[BlockGroup]) -> str:
    """Return a digest of the shapes, the types and a few pixels of the first and the last pair."""
    known, spots = hashlib.sha256(), []
    for group in groups:
        every = group.observations
        for one in every:
            known.update(repr([(r.array.shape, str(r.array.dtype)) for r in (*one.sources, *one.targets)]).encode())
        ends = every if len(every) == 1 else (every[0], every[-1])
        for reader in [reader for one in ends for reader in blocks.once(one)]:
            array = group.source(reader.array)
            for share in (0.0, 0.5, 1.0):
                rows, cols = (slice(at := int(share * max(0, n - 16)), at + 16) for n in array.shape)
                spots.append(array[rows, cols])
    for spot in groups[0].dask.compute(*spots):
        known.update(np.ascontiguousarray(spot).astype("<f8").tobytes())
    return known.hexdigest()
