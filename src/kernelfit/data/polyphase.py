"""Stride: the taps of a downsampling kernel dealt out to the phases of the image, so that no engine knows of it.

Tap ``u = v * stride + a`` of the valid problem of `geometry` multiplies ``P[stride * (t + v) + a]``: pixel ``t + v`` of
the image's phase a, which is every stride-th pixel from a on. So the problem is one without stride, of several source
images with a part of the taps each (the polyphase decomposition: P. P. Vaidyanathan, Proc. IEEE 78 (1990) 56,
doi:10.1109/5.52200). Where the stride does not divide the side, some phases have a tap less: all are given as many, and
what the extra ones come to is left out again.
"""

import dataclasses
import math
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from ..core.geometry import Geometry
from ..core.validation import Array
from .observation import Observation

Number = TypeVar("Number", np.float64, np.intp)


def split(observation: Observation) -> Observation:
    """Return the problem whose sources are the phases of this one's, without stride."""
    plan = observation.geometry
    if not plan.convention.strided:
        return observation
    (down, across), (rows, cols) = plan.stride, plan.phases
    sources = [
        dataclasses.replace(
            reader,
            shape=(-(-(reader.shape[0] - a) // down), -(-(reader.shape[1] - b) // across)),
            before=(reader.before[0] - a, reader.before[1] - b),
            stride=plan.stride,
        )
        for reader in observation.sources
        for a in range(rows)
        for b in range(cols)
    ]
    plain = dataclasses.replace(plan.convention, stride=(1, 1), offset=(0, 0), operation="correlation")
    part = dataclasses.replace(plan, kernel_shape=plan.phase_shape, convention=plain)
    return dataclasses.replace(observation, geometry=part, sources=tuple(sources))


def to_user(taps: npt.NDArray[Number], plan: Geometry) -> npt.NDArray[Number]:
    """Turn arrays (..., phases of sources, rows, cols) into arrays (..., sources, rows, cols) of the user's kernel."""
    lead, (rows, cols) = taps.shape[:-3], plan.kernel_shape
    (down, across), (height, width) = plan.phases, plan.phase_shape
    taps = np.moveaxis(taps.reshape(*lead, -1, down, across, height, width), (-4, -3), (-3, -1))
    taps = taps.reshape(*lead, -1, height * down, width * across)[..., :rows, :cols]
    return np.ascontiguousarray(taps[..., ::-1, ::-1] if plan.flipped else taps)


def from_user(taps: Array, plan: Geometry) -> Array:
    """Undo `to_user`, with zero for the taps that do not exist."""
    lead, (rows, cols) = taps.shape[:-3], plan.kernel_shape
    (down, across), (height, width) = plan.phases, plan.phase_shape
    more = [*[(0, 0)] * (taps.ndim - 2), (0, height * down - rows), (0, width * across - cols)]
    taps = np.pad(taps[..., ::-1, ::-1] if plan.flipped else taps, more)
    taps = np.moveaxis(taps.reshape(*lead, -1, height, down, width, across), (-3, -1), (-4, -3))
    return np.ascontiguousarray(taps.reshape(*lead, -1, height, width))


def order(plan: Geometry, n_sources: int) -> npt.NDArray[np.intp]:
    """Return which of the phases' taps, one after the other, each tap of the user's kernels is."""
    every = np.arange(n_sources * math.prod(plan.phases) * math.prod(plan.phase_shape))
    return to_user(every.reshape(-1, *plan.phase_shape), plan).ravel()


def reordered(sums: Array, plan: Geometry) -> Array:
    """Turn a vector or matrix of sums over the phases' taps into one over the user's."""
    chosen = order(plan, len(sums) // (math.prod(plan.phases) * math.prod(plan.phase_shape)))
    return np.asarray(sums[np.ix_(*[chosen] * sums.ndim)])
