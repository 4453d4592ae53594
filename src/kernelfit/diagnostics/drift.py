"""Whether the response of a signal drifts with time: the largest taps, fitted to the residual along it."""

import math

import numpy as np
import numpy.typing as npt
import scipy.fft

from ..core.estimate import Estimate
from ..core.validation import Array
from ..data.observation import Observation
from .local_scores import hotelling, modulated
from .samples import Sample
from .tiles import Part, energy_of

#: Taps looked at beside the prediction; stretches of time that count as independent, about, and at least.
_TAPS, _STRETCHES, _FEWEST = 5, 128, 32
#: Samples of a stretch at least, and how many times those over which products are correlated.
_SHORTEST, _ALONE = 8, 8.0


def drifting(parts: list[Part], estimate: Estimate) -> tuple[float, float, str]:
    """Return the chance that noise makes as much of a drift, the residual's share, and both in words."""
    # As for images: what a feature times a function of the time explains, less the feature itself, by stretches whose
    # products have a variance of their own each.
    taps = np.abs(estimate.kernel.reshape(len(parts[0][1].blocks), -1))
    shapes = [(p.left.shape[1:], o.geometry.kernel_shape) for o, p in parts]
    if taps.size != estimate.kernel.size or any(min(tile) > 1 or min(kernel) > 1 for tile, kernel in shapes):
        return 1.0, 0.0, ""  # several responses, or an image of few rows
    strongest = np.argsort(-taps, axis=None)[: min(_TAPS, taps.size)]
    number = sum(len(part.starts) for _, part in parts)
    score, energy, time = zip(*(_sums(*part, strongest, number) for part in parts), strict=True)
    total, own, place = np.concatenate(score, axis=1), np.concatenate(energy, axis=1), np.concatenate(time)
    if total.shape[1] < _FEWEST:
        return 1.0, 0.0, ""
    left = energy_of([p.left for _, p in parts])
    every = [hotelling(*modulated(total, own, [factor]), left) for factor in (place, place**2)]
    return min(every, key=lambda found: found[0])


def _sums(
    observation: Observation, part: Sample, strongest: npt.NDArray[np.intp], number: int
) -> tuple[Array, Array, Array]:
    """Return sums of features times the residual, and of their squares, by stretches, and where these lie in time."""
    plan = observation.geometry
    along = int(part.left.shape[1] == 1)
    n, n_taps, step = part.left.shape[1 + along], plan.kernel_shape[along], plan.stride[along]
    left, known = part.left.reshape(-1, n), part.known.reshape(-1, n)
    root = known if part.root is None else np.where(known, part.root.reshape(-1, n), 0.0)
    blocks = part.blocks.reshape(len(part.blocks), len(left), -1)
    features = [part.model.reshape(-1, n)]
    for at in strongest.tolist():
        source, tap = divmod(at, n_taps)
        first = n_taps - 1 - tap if plan.flipped else tap
        features.append(blocks[source][:, first : first + step * (n - 1) + 1 : step])
    f = np.stack(features) * root
    # products of what is correlated over long times are not independent from one stretch to the next
    apart = _ALONE * _correlation_length(f[1], left)
    size = max(_SHORTEST, math.ceil(apart), n // max(1, math.ceil(_STRETCHES / number)))
    count = n // size
    cut = f[..., : count * size].reshape(len(f), len(left), count, size)
    own = left[:, : count * size].reshape(len(left), count, size)
    starts = np.array([start[along] for start in part.starts])[:, None] + (np.arange(count) + 0.5) * size
    place = 2.0 * starts.ravel() / max(1, plan.size[along]) - 1.0
    scores = np.einsum("ftcs,tcs->ftc", cut, own).reshape(len(f), -1)
    return scores, np.einsum("ftcs,ftcs->ftc", cut, cut).reshape(len(f), -1), place


def _correlation_length(feature: Array, left: Array) -> float:
    """Return over how many samples products of two independent signals, (tiles, samples), are correlated."""
    n = feature.shape[1]
    size, both = scipy.fft.next_fast_len(2 * n, real=True), []
    for of in (feature, left):
        spectrum = scipy.fft.rfft(of - of.mean(axis=1, keepdims=True), size, axis=1, workers=1)
        lags = scipy.fft.irfft((spectrum.real**2 + spectrum.imag**2).sum(axis=0), size)[: n // 2]
        both.append(lags / max(float(lags[0]), 1e-300))
    total = np.cumsum(both[0] * both[1])
    return float(total.max(initial=1.0))
