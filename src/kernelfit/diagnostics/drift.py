"""Whether the response of a signal drifts with time: the largest taps, fitted to the residual along it."""

import math

import numpy as np
import numpy.typing as npt
import scipy.fft

from ..core.estimate import Estimate
from ..core.validation import Array
from ..data.observation import Observation
from .local_scores import chances, hotelling, modulated
from .samples import Sample
from .tiles import Part, energy_of

#: Taps looked at beside the prediction; stretches of time that count as independent, about, and at least.
_TAPS, _STRETCHES, _FEWEST = 5, 128, 32
#: Samples of a stretch at least, and how many times those over which products are correlated.
_SHORTEST, _ALONE = 8, 8.0
#: A drift is looked at further where chance would make as much of it in so few cases; targets looked at together.
_LIKELY, _TOGETHER = 0.01, 4


def drifting(parts: list[Part], estimate: Estimate) -> tuple[float, float, str]:
    """Return the chance that noise makes as much of a drift, the residual's share, and both in words."""
    # As for images: what a feature times a function of the time explains, less the feature itself, by stretches whose
    # products have a variance of their own each.
    taps = np.abs(estimate.kernel.reshape(len(parts[0][1].blocks), -1))
    shapes = [(p.left.shape[1:], o.geometry.kernel_shape) for o, p in parts]
    if taps.size != estimate.kernel.size or any(min(tile) > 1 or min(kernel) > 1 for tile, kernel in shapes):
        return 1.0, 0.0, ""  # several responses, or an image of few rows
    at, made = parts[0][1].at, parts[0][1].made

    def look(now: slice) -> tuple[float, ...]:  # at other targets as well, which costs little more
        every = [p.made["every"] for _, p in parts]
        pairs = [(models[now], lefts[now]) for _, models, lefts, _ in every]
        return tuple(_chances(*_scores(parts, pairs, every[0][3][now])[:3]).min(axis=0).tolist())

    own = [(p.model[None], p.left[None]) for _, p in parts]
    if at is not None and all(p.at is not None for _, p in parts):
        now = slice(at - at % _TOGETHER, at - at % _TOGETHER + _TOGETHER)
        if not made.once(("drifts", now.start), lambda: look(now))[at - now.start] < _LIKELY:
            return 1.0, 0.0, ""
    elif not _chances(*_scores(parts, own, estimate.kernel[None])[:3]).min() < _LIKELY:
        return 1.0, 0.0, ""
    # products of what is correlated over long times are not independent from one stretch to the next
    total, energy, place = _scores(parts, own, estimate.kernel[None], apart=True)
    if total.shape[2] < _FEWEST:
        return 1.0, 0.0, ""
    left = energy_of([p.left for _, p in parts])
    every = [hotelling(*modulated(total[0], energy[0], [factor]), left) for factor in (place, place**2)]
    return min(every, key=lambda found: found[0])


def _chances(total: Array, energy: Array, place: Array) -> Array:
    """Return the chances of either factor that noise makes as much, of each target."""
    if total.shape[2] < _FEWEST:
        return np.ones((2, len(total)))
    around = [
        factor - (energy @ factor / np.maximum(energy.sum(axis=2), 1e-300))[..., None] for factor in (place, place**2)
    ]
    return chances(total * np.stack(around))[0]


def _scores(
    parts: list[Part], pairs: list[tuple[Array, Array]], kernels: Array, *, apart: bool = False
) -> tuple[Array, Array, Array]:
    """Return for targets sums of features times the residual, of their squares, by stretches, and where these lie."""
    sources = len(parts[0][1].blocks)
    taps = np.abs(kernels.reshape(len(kernels), sources, -1))
    strongest = np.argsort(-taps.reshape(len(taps), -1), axis=1)[:, :_TAPS]
    number = sum(len(part.starts) for _, part in parts)
    score, energy, time = zip(
        *(_sums(*part, *pair, strongest, number, apart) for part, pair in zip(parts, pairs, strict=True)), strict=True
    )
    return np.concatenate(score, axis=2), np.concatenate(energy, axis=2), np.concatenate(time)


def _sums(
    observation: Observation,
    part: Sample,
    models: Array,
    lefts: Array,
    strongest: npt.NDArray[np.intp],
    number: int,
    apart: bool,
) -> tuple[Array, Array, Array]:
    """Return the same of one pair, whose models and residuals are (targets, tiles, rows, cols)."""
    plan = observation.geometry
    along = int(part.left.shape[1] == 1)
    n, n_taps, step = part.left.shape[1 + along], plan.kernel_shape[along], plan.stride[along]
    known, lefts = part.known.reshape(-1, n), lefts.reshape(len(lefts), -1, n)
    root = known if part.root is None else np.where(known, part.root.reshape(-1, n), 0.0)
    blocks = part.blocks.reshape(len(part.blocks), len(known), -1)
    f = np.empty((len(lefts), 1 + strongest.shape[1], *lefts.shape[1:]))
    f[:, 0] = models.reshape(lefts.shape)
    for (target, number_of), at in np.ndenumerate(strongest):
        source, tap = divmod(int(at), n_taps)
        first = n_taps - 1 - tap if plan.flipped else tap
        f[target, 1 + number_of] = blocks[source][:, first : first + step * (n - 1) + 1 : step]
    if not (part.root is None and known.all()):
        f *= root
    shortest = _SHORTEST if not apart else max(_SHORTEST, math.ceil(_ALONE * _correlation_length(f[0, 1], lefts[0])))
    size = max(shortest, n // max(1, math.ceil(_STRETCHES / number)))
    count = n // size
    cut = f[..., : count * size].reshape(*f.shape[:3], count, size)
    own = lefts[..., : count * size].reshape(len(lefts), 1, -1, count, size)
    starts = np.array([start[along] for start in part.starts])[:, None] + (np.arange(count) + 0.5) * size
    place = 2.0 * starts.ravel() / max(1, plan.size[along]) - 1.0
    scores = np.einsum("qftcs,qftcs->qftc", cut, np.broadcast_to(own, cut.shape))
    energies = np.einsum("qftcs,qftcs->qftc", cut, cut)
    return scores.reshape(*f.shape[:2], -1), energies.reshape(*f.shape[:2], -1), place


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
