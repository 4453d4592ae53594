"""Pixels to statistics.

With the valid problem of `geometry`, ``G[p, q] = sum_t P[t + p] P[t + q]``. It depends on the lag ``q - p`` but for
what lies along the edges, so it is built in three steps:

1. the lag sums of the whole extended image, and ``b[p] = sum_t Y[t] P[t + p]``, in one pass over tiles (`engines`);
2. the lag sums of the strips ``side - 1`` pixels wide along each of the four edges (`edges`);
3. for each pair of taps, the lag sum less what lies outside the pair's box of target pixels (`edges`).
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..compiled.threads import Progress, add, counted, in_order
from ..core.normal_equations import NormalEquations, added
from ..core.validation import Array
from ..data.observation import Observation, refuse_nonfinite, refuse_tiny
from ..data.reader import Reader, keeping
from . import edge_correction, field_pass, volume_pass
from .field_pass import Functions
from .passes import PASSES, Frame, Pass, Sums


def pass_over(
    observation: Observation,
    frame: Frame,
    method: str,
    workers: int,
    taps: Array | None,
    progress: Progress | None,
    also: "Sequence[Callable[[], tuple[Array, ...]]]" = (),
    layout: Pass | None = None,
) -> tuple[Sums, list[Array]]:
    """Read all pixels once, for the sums of the pair or, with `taps`, the residual; refuse NaN and overflow."""
    # The threads do the jobs of `also` as well, whose results come back in order. A `layout` replaces the engine's.
    with np.errstate(all="ignore"):
        jobs, finish = PASSES[method](frame, taps) if layout is None else layout
        parts = iter(in_order([*jobs, *also], lambda job: job(), workers))
        sums = finish(*add(counted(itertools.islice(parts, len(jobs)), len(jobs), progress)))
        others = [part for more in parts for part in more]
        if not all(np.isfinite(a).all() for a in (sums.lags, sums.moment, sums.energy)):
            refuse_nonfinite(observation)
        least = observation.geometry.n_pixels * 2.0**-1010
        if taps is None and (np.abs(sums.lags).max(initial=0.0) < least or sums.energy.min(initial=1.0) < least):
            refuse_tiny(observation)
    return sums, others


def statistics(
    observation: Observation, method: str, workers: int, progress: Progress | None = None
) -> list[NormalEquations]:
    """Return the statistics of a problem, one for each target."""
    plan = observation.geometry
    frame = Frame.of(observation)
    functions = Functions.of(observation, frame) if method == "fft" else None
    with keeping(edge_correction.requests(frame)):
        if functions is None:
            also = edge_correction.strip_jobs(frame, method)
            sums, strips = pass_over(observation, frame, method, workers, None, progress, also)
        else:
            layout, also = field_pass.field_pass(frame, functions), field_pass.strip_jobs(frame, functions)
            sums, strips = pass_over(observation, frame, method, workers, None, progress, also, layout)
        with np.errstate(all="ignore"):
            gram = edge_correction.gram_matrix(frame, sums.lags, strips, workers)
    moments = frame.to_user(sums.moment).reshape(len(frame.targets), -1)
    return [
        NormalEquations(
            gram=gram,
            moment=moments[t],
            target_energy=float(sums.energy[t]),
            target_sum=float(sums.total[t]) * observation.unit,
            n_pixels=plan.n_pixels,
            supports=observation.supports,
            convention=observation.convention,
        )
        for t in range(len(frame.targets))
    ]


def of_lot(
    observations: Sequence[Observation], method: str, workers: int, progress: Progress | None = None
) -> list[NormalEquations]:
    """Return the statistics of a pair, or of all planes of a volume, one for each target."""
    total: list[NormalEquations] = []
    stack = volume_pass.Stack.of(observations) if method == "fft" else None
    if stack is not None:
        return volume_pass.statistics(observations, stack, workers, progress)
    for observation in observations:
        own = statistics(observation, method, workers, progress)
        total = added(total, own) if total else own
    return total


def residual_moments(
    observation: Observation, kernels: Array, method: str, workers: int, progress: Progress | None = None
) -> tuple[Array, Array]:
    """Return ``A'r`` (targets, taps) and ``r'r`` of each target's ``r = y - A k``, taken from the pixels."""
    frame = Frame.of(observation)
    sums, _ = pass_over(observation, frame, method, workers, frame.from_user(kernels), progress)
    return frame.to_user(sums.moment).reshape(len(frame.targets), -1), sums.energy


def products(observation: Observation, arrays: Sequence[Any], method: str, workers: int) -> Array:
    """Return the sums of the products of arrays, of the used pixels, with what each tap lies on: (arrays, taps)."""
    targets = tuple(Reader(array, observation.size) for array in arrays)
    wide = dataclasses.replace(observation, targets=targets)
    frame = Frame.of(wide)
    sums, _ = pass_over(wide, frame, method, workers, None, None)
    return frame.to_user(sums.moment).reshape(len(targets), -1)
