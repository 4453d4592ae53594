"""The correlation of the residual with the whitened image, lag by lag: a kernel wider than its support shows there."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.fft

from ..core.validation import Array
from .tiles import Part

Single = npt.NDArray[np.float32]
#: A correlation outside the support counts from so many standard deviations on, and that near the support in sum.
_LAG, _RING = 6.5, 9.0
#: The rings about the support, in pixels; and from where on what is seen is chance.
_RINGS, _FAR = (1, 2, 4), 16


@dataclass(frozen=True, eq=False)
class Lags:
    """The correlation of the residual with the whitened image in standard deviations, by lag; lag 0 is the first tap's.

    Attributes
    ----------
    score : ndarray
        Lags beyond half of an axis are negative ones.
    spread : float
        Its root mean square far from the support.
    count : int
        Number of residuals.
    """

    score: Array
    spread: float
    count: int
    support: tuple[int, int]

    def beyond(self) -> npt.NDArray[np.int64]:
        """Return how many pixels each lag lies outside the support, 0 inside."""
        apart = []
        for n, k in zip(self.score.shape, self.support, strict=True):
            lag = np.arange(n)
            apart.append(np.where(lag < k, 0, np.minimum(lag - k + 1, n - lag)))
        return np.asarray(np.maximum.outer(*apart))

    def peak(self) -> tuple[int, ...]:
        """Return the lag outside the support whose score is largest."""
        found = np.unravel_index(int(np.argmax(np.where(self.beyond() > 0, np.abs(self.score), 0.0))), self.score.shape)
        return tuple(int(at) for at in found)

    def seen(self) -> bool:
        """Return whether a lag outside the support, or those of a ring about it together, exceed what chance makes."""
        beyond, score = self.beyond(), self.score / self.spread
        if abs(float(score[self.peak()])) > _LAG:
            return True
        rings = [score[(beyond > 0) & (beyond <= width)] for width in _RINGS]
        return any(r.size and (float((r**2).mean()) - 1.0) * math.sqrt(len(r) / 2) > _RING for r in rings)


def lags_of(parts: list[Part], source: int, exact: bool) -> Lags:
    """Correlate the residual with one of the images, whitened, at all lags; the variances are by every second one."""
    plan = parts[0][0].geometry
    size = [2 * scipy.fft.next_fast_len(-(-max(p.blocks.shape[k] for _, p in parts) // 2), real=True) for k in (2, 3)]
    products = squares = np.zeros(size)
    count = 0
    for _, part in parts:
        blocks = part.blocks[source]
        blocks = blocks - blocks.mean(axis=(1, 2), keepdims=True)
        level = float(np.abs(blocks).max())
        if not level > 0:
            continue
        spectra = scipy.fft.rfft2((blocks / level).astype(np.float32), size, workers=1)
        power = (spectra.real**2 + spectra.imag**2).mean(axis=0)
        near = scipy.fft.irfft2(power, size, workers=1) * np.multiply.outer(*map(taper, size)).astype(np.float32)
        smooth = scipy.fft.rfft2(near, workers=1).real
        spectra /= np.sqrt(np.maximum(smooth, 1e-8 * smooth.max()))
        white = scipy.fft.irfft2(spectra, size, workers=1)
        (step, pace), (_, rows, cols) = plan.stride, part.left.shape
        left = np.zeros((len(blocks), *size), dtype=np.float32)
        scale = math.sqrt(float(np.mean(part.left**2))) or 1.0
        values = part.left if part.root is None else part.left * part.root
        left[:, : step * rows : step, : pace * cols : pace] = values / scale
        products = products + _correlation(left, spectra, size)
        # the variance by lag if the noise is independent, of whatever variance: smooth, save where a few pixels make it
        energies = left**2, white**2
        if exact:
            squares = squares + _correlation(energies[0], scipy.fft.rfft2(energies[1], workers=1), size)
        else:
            coarse = [_halved(values) for values in energies]
            apart = _correlation(coarse[0], scipy.fft.rfft2(coarse[1], workers=1), [n // 2 for n in size]) / 4.0
            squares = squares + apart.repeat(2, axis=0).repeat(2, axis=1)
        count += int(part.known.sum())
    score = products / np.sqrt(np.maximum(squares, 1e-6 * max(float(squares.max()), 1e-300)))
    lags = Lags(score, 1.0, count, plan.kernel_shape)
    beyond = lags.beyond()
    far = beyond > min(0.5 * beyond.max(), _FAR)
    spread = max(1.0, math.sqrt(float(np.mean(score[far] ** 2)))) if far.any() else 1.0
    return Lags(score, spread, count, plan.kernel_shape)


def _correlation(left: Single, spectra: npt.NDArray[np.complex64], size: Sequence[int]) -> Array:
    """Return the sum over tiles of ``r[t] f[t + u]`` by lag u."""
    product = (np.conj(scipy.fft.rfft2(left, workers=1)) * spectra).sum(axis=0)
    return np.asarray(scipy.fft.irfft2(product, size, workers=1), dtype=np.float64)


def _halved(values: Single) -> Single:
    """Return the sums over squares of two by two."""
    rows = values[:, ::2] + values[:, 1::2]
    return np.asarray(rows[:, :, ::2] + rows[:, :, 1::2])


def taper(n: int) -> Array:
    """Return a window over lags that leaves a quarter of them."""
    lag = np.minimum(np.arange(n), n - np.arange(n))
    return np.where(lag < n / 4, 0.5 + 0.5 * np.cos(4 * np.pi * lag / n), 0.0)
