"""The correlation of the residual with the whitened image, lag by lag: a kernel wider than its support shows there."""

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.fft
import scipy.special

from ..core.geometry import Shape
from ..core.validation import Array
from ..data.observation import Observation
from .samples import Sample
from .tiles import Part

Single = npt.NDArray[np.float32]
#: A correlation outside the support counts from so many standard deviations on, and that near the support in sum.
_LAG, _RING, _RARE = 6.5, 9.0, 1e-8
#: Scores are beyond those of residuals of rounding, some of which are looked at, from so many times the largest on.
_OTHERS = 2.0
#: The rings about the support, in pixels; and from where on what is seen is chance.
_RINGS, _FAR = (1, 2, 4), 16
#: Pixels of images that are looked at together, and targets.
_AT_ONCE, _TOGETHER = 2**18, 4


@dataclass(frozen=True, eq=False)
class Lags:
    """The correlation of residual and whitened image in standard deviations, by lag; lag 0 is the first tap's."""

    score: Array  # lags beyond half of an axis are negative ones
    spread: float  # its root mean square far from the support
    count: int  # number of residuals
    support: tuple[int, int]

    def beyond(self) -> npt.NDArray[np.int64]:
        """Return how many pixels each lag lies outside the support, 0 inside."""
        return _beyond(self.score.shape, self.support)

    def peak(self) -> tuple[int, ...]:
        """Return the lag outside the support whose score is largest."""
        outside = np.where(self.beyond() > 0, np.abs(self.score), 0.0)
        found = np.unravel_index(int(np.argmax(outside)), self.score.shape)
        return tuple(int(at) for at in found)

    def seen(self) -> bool:
        """Return whether a lag outside the support, or those of a ring about it together, exceed what chance makes."""
        beyond = self.beyond()
        if float(np.abs(self.score[beyond > 0]).max(initial=0.0)) > _LAG * self.spread:
            return True
        return any(n and total > _most(n) for total, n in self._rings(self.score / self.spread))

    def _rings(self, score: Array) -> list[tuple[float, int]]:
        """Return the sums of squares over lags near the support, and of how many."""
        near = [score[lags] for lags in _near(score.shape, self.support)]
        return [(float((r**2).sum()), len(r)) for r in near]

    def stands_out(self, others: "Sequence[Lags]") -> bool:
        """Return whether what is seen is far from what residuals have that no wider kernel has made."""
        scores = np.array([one.score for one in others]) / self.spread
        mean, n = scores.mean(axis=0), len(others)
        apart = [self.score / self.spread - mean, *((one - mean) * n / (n - 1) for one in scores)]
        outside = self.beyond() > 0
        peaks = [float(np.abs(one[outside]).max(initial=0.0)) for one in apart]
        if peaks[0] > max(_LAG, _OTHERS * max(peaks[1:])):
            return True
        sums = zip(*map(self._rings, apart), strict=True)
        return any(k and total > max(_most(k), _OTHERS**2 * max(o for o, _ in rest)) for (total, k), *rest in sums)


@functools.lru_cache(64)
def _beyond(shape: tuple[int, ...], support: tuple[int, int]) -> npt.NDArray[np.int64]:
    apart = []
    for n, k in zip(shape, support, strict=True):
        lag = np.arange(n)
        apart.append(np.where(lag < k, 0, np.minimum(lag - k + 1, n - lag)))
    found = np.maximum.outer(*apart)
    found.setflags(write=False)
    return np.asarray(found)


@functools.lru_cache(64)
def _near(shape: tuple[int, ...], support: tuple[int, int]) -> tuple[tuple[npt.NDArray[np.intp], ...], ...]:
    """Return the lags of rings about the support, and of those along its four sides."""
    beyond = _beyond(shape, support)
    found = [np.nonzero((beyond > 0) & (beyond <= width)) for width in _RINGS]
    for axis, (n, k) in enumerate(zip(shape, support, strict=True)):
        inside = [np.arange(side) for side in support]
        for width in _RINGS[:2]:
            for lags in (np.arange(k, min(k + width, n)), np.arange(max(n - width, k), n)):
                inside[axis] = lags
                found.append(tuple(part.ravel() for part in np.meshgrid(*inside, indexing="ij")))
    return tuple(found)


@functools.lru_cache(64)
def _most(count: int) -> float:
    """Return what the sum of so many squares exceeds by more than chance; few have long tails."""
    return max(count + _RING * math.sqrt(2 * count), float(scipy.special.chdtri(count, _RARE)))


@dataclass(frozen=True, eq=False)
class Residuals:
    """The residuals of a sample of tiles, of one target or several, ready to be correlated with images of a size."""

    spectra: npt.NDArray[np.complex64]
    squares: Single  # their variances: their squares, or alike
    coarse: npt.NDArray[np.complex64]  # of these, summed over squares of two by two


class White(NamedTuple):
    """Some images under a sample of tiles, whitened: the first axis is theirs."""

    spectra: npt.NDArray[np.complex64]
    coarse: npt.NDArray[np.complex64]  # of their squares, summed over squares of two by two
    varies: npt.NDArray[np.bool_]


def size_of(parts: list[Part]) -> tuple[int, int]:
    """Return the rows and columns of the transforms."""
    sides = [max(part.blocks.shape[axis] for _, part in parts) for axis in (2, 3)]
    step = _pace(sides)
    rows, cols = (1 if side == 1 else step * scipy.fft.next_fast_len(-(-side // step), real=True) for side in sides)
    return rows, cols


def residuals_of(parts: list[Part], *, alike: bool = False) -> list[Residuals]:
    """Return the residuals of samples, which serve for all images; `alike` says that they have one variance."""
    return [_residuals(o, p, p.left[None], size_of(parts), alike=alike) for o, p in parts]


def _residuals(observation: Observation, part: Sample, lefts: Array, size: Shape, *, alike: bool) -> Residuals:
    """Return the residuals (targets, tiles, rows, cols) of a sample."""
    (step, pace), (n, tiles, rows, cols) = observation.geometry.stride, lefts.shape
    left, squares = np.zeros((2, n, tiles, *size), dtype=np.float32)
    places = np.s_[..., : step * rows : step, : pace * cols : pace]
    scale = np.sqrt(np.mean(lefts**2, axis=(1, 2, 3), keepdims=True))
    left[places] = (lefts if part.root is None else lefts * part.root) / np.where(scale > 0, scale, 1.0)
    squares[places] = part.known / max(float(part.known.mean()), 1e-300) if alike else left[places] ** 2
    coarse = _forth(_halved(squares), _half(size))
    return Residuals(np.conj(_forth(left, size)), squares, np.conj(coarse))


def _whitened(blocks: Array, size: tuple[int, int]) -> White:
    """Whiten images by their mean spectra, smoothed; those that are the same everywhere are zero."""
    blocks = blocks - blocks.mean(axis=(2, 3), keepdims=True)
    level = np.abs(blocks).max(axis=(1, 2, 3), keepdims=True)
    even = (blocks / np.where(level > 0, level, 1.0)).astype(np.float32)
    spectra = _forth(even, size)
    power = (spectra.real**2 + spectra.imag**2).mean(axis=1)
    near = _back(power, size) * np.multiply.outer(*map(taper, size)).astype(np.float32)
    smooth = _forth(near, size).real
    most = smooth.max(axis=(1, 2), keepdims=True)
    spectra /= np.sqrt(np.maximum(smooth, np.where(most > 0, 1e-8 * most, 1.0)))[:, None]
    coarse = _forth(_halved(_back(spectra, size) ** 2), _half(size))
    return White(spectra, coarse, level.ravel() > 0)


def _groups(parts: list[Part]) -> list[slice]:
    """Return the images in groups that are looked at together."""
    n, size = parts[0][1].blocks.shape[0], size_of(parts)
    if parts[0][0].plane is not None:  # the planes of a volume are much alike
        return [slice(i, i + 1) for i in sorted({0, n // 2, n - 1})]
    step = max(1, _AT_ONCE // max(p.blocks.shape[1] * size[0] * size[1] for _, p in parts))
    return [slice(i, min(n, i + step)) for i in range(0, n, step)]


def _white(part: Part, group: slice, size: tuple[int, int]) -> White:
    """Return a group of the images, which serve for the residuals of all targets."""
    made, blocks = part[1].made, part[1].blocks[group]
    found: White = made.once(("white", group.start, group.stop, size), functools.partial(_whitened, blocks, size))
    return found


def suspects(parts: list[Part], *, alike: bool = False) -> list[int]:
    """Return the images with which the residual correlates outside the support, by groups, with variances."""
    at, (_, first) = parts[0][1].at, parts[0]
    if at is None or any(part.at is None for _, part in parts):
        return _suspects(parts, residuals_of(parts, alike=alike))[0]
    now, size = slice(at - at % _TOGETHER, at - at % _TOGETHER + _TOGETHER), size_of(parts)

    def look() -> tuple[list[int], ...]:  # at other targets as well, which costs little more
        residuals = [_residuals(o, p, p.made["every"][2][now], size, alike=alike) for o, p in parts]
        return tuple(_suspects(parts, residuals))

    found: list[int] = first.made.once(("suspects", now.start, alike), look)[at - now.start]
    return found


def _suspects(parts: list[Part], residuals: Sequence[Residuals]) -> list[list[int]]:
    """Return the same of each target whose residuals these are."""
    size, support = size_of(parts), parts[0][0].geometry.kernel_shape
    found: list[list[int]] = [[] for _ in residuals[0].squares]
    half, near = _half(size), ~_far(size, support)
    n_far = near.size - int(near.sum())
    for group in _groups(parts):
        products: Any = np.float32(0.0)
        squares: Any = np.float32(0.0)
        for part, own in zip(parts, residuals, strict=True):
            white = _white(part, group, size)
            products = products + _correlation(own.spectra, white.spectra, size)
            squares = squares + _correlation(own.coarse, white.coarse, half)
        squares *= math.prod(half) / math.prod(size)
        np.maximum(squares, np.maximum(1e-6 * squares.max(axis=(2, 3), keepdims=True), 1e-30), out=squares)
        np.divide(1.0, np.sqrt(squares, out=squares), out=squares)
        (rows, cols), (y, x) = half, (n // h for n, h in zip(size, half, strict=True))
        score = products.reshape(*products.shape[:2], rows, y, cols, x)
        for row, col in itertools.product(range(y), range(x)):
            score[:, :, :, row, :, col] *= squares  # long lines rather than many of two or four numbers
        score = score.reshape(products.shape)
        energy = np.einsum("qsyx,qsyx->qs", score, score)
        away = energy - np.square(score[..., near]).sum(axis=2)
        spread = np.sqrt(np.maximum(1.0, away / max(1, n_far)))
        seen = np.zeros(spread.shape, dtype=bool)
        for ring in _near(size, support):
            if len(ring[0]):
                seen |= np.square(score[:, :, *ring]).sum(axis=2) > _most(len(ring[0])) * spread**2
        score[..., : support[0], : support[1]] = 0.0
        seen |= np.maximum(score.max(axis=(2, 3)), -score.min(axis=(2, 3))) > _LAG * spread
        for some, which in zip(found, seen, strict=True):
            some += [group.start + int(i) for i in np.flatnonzero(which)]
    return found


def lags_of(parts: list[Part], source: int, residuals: Sequence[Residuals]) -> Lags:
    """Correlate the residual with one of the images, whitened, at all lags."""
    plan, size = parts[0][0].geometry, size_of(parts)
    group = next(g for g in _groups(parts) if g.start <= source < g.stop)
    products, squares, count = np.zeros(size), np.zeros(size), 0
    for part, own in zip(parts, residuals, strict=True):
        white = _white(part, group, size)
        spectra = white.spectra[source - group.start]
        if white.varies[source - group.start]:
            products += _correlation(own.spectra, spectra[None], size)[0, 0]
            # the variance by lag if the noise is independent, of whatever variance: smooth, save where a few make it
            energy = _forth(_back(spectra, size) ** 2, size)
            left = np.conj(_forth(own.squares, size))
            squares += _correlation(left, energy[None], size)[0, 0]
            count += int(part[1].known.sum())
    score = products / np.sqrt(np.maximum(squares, 1e-6 * max(float(squares.max()), 1e-300)))
    far = _far(score.shape, plan.kernel_shape)
    spread = max(1.0, math.sqrt(float(np.mean(score[far] ** 2)))) if far.any() else 1.0
    return Lags(score, spread, count, plan.kernel_shape)


@functools.lru_cache(64)
def _far(shape: tuple[int, ...], support: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Return which lags lie so far from the support that what is seen there is chance."""
    beyond = _beyond(shape, support)
    return np.asarray(beyond > min(0.5 * beyond.max(), _FAR))


def _correlation(left: npt.NDArray[np.complex64], spectra: npt.NDArray[np.complex64], size: Shape) -> Array:
    """Return the sums over tiles of ``r[t] f[t + u]`` by lag u, of spectra of some f and conjugate ones of some r."""
    total = left[:, None, 0] * spectra[:, 0]
    term = np.empty_like(total)
    for tile in range(1, left.shape[1]):
        total += np.multiply(left[:, None, tile], spectra[:, tile], out=term)
    return _back(total, size)


def _forth(values: npt.NDArray[np.floating[Any]], size: Shape) -> Any:
    """Return transforms of real numbers along rows and columns."""
    if size[0] == 1:
        return scipy.fft.rfft(values, size[1], workers=1)
    return scipy.fft.rfft2(values, size, workers=1)


def _back(spectra: Any, size: Shape) -> Array:
    """Return the real numbers of which these are the transforms."""
    if size[0] == 1:
        return np.asarray(scipy.fft.irfft(spectra, size[1], workers=1))
    return np.asarray(scipy.fft.irfft2(spectra, size, workers=1))


def _halved(values: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.floating[Any]]:
    """Return the sums over squares of two by two, along a single line over four in a row."""
    step = _pace(values.shape[-2:])
    if values.shape[-2] > 1:
        values = functools.reduce(np.add, (values[..., i::step, :] for i in range(step)))
    if values.shape[-1] > 1:
        values = functools.reduce(np.add, (values[..., i::step] for i in range(step)))
    return values


def _half(size: Shape) -> Shape:
    """Return the size of what `_halved` leaves."""
    rows, cols = (1 if n == 1 else n // _pace(size) for n in size)
    return rows, cols


def _pace(size: Sequence[int]) -> int:
    """Return how many neighbours along an axis `_halved` takes together."""
    return 4 if min(size) == 1 else 2


def taper(n: int) -> Array:
    """Return a window over lags that leaves a quarter of them."""
    lag = np.minimum(np.arange(n), n - np.arange(n))
    return np.where(lag < n / 4, 0.5 + 0.5 * np.cos(4 * np.pi * lag / n), 0.0)
