"""Products of residuals over lags, and how those of the two parts of complex residuals go together."""

import functools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import scipy.fft

from ..core.validation import Array
from ..data.complex_parts import whole_of
from ..data.observation import Observation

#: Lags looked at.
REACH = 8


def products(tiles: Array, others: Array | None = None) -> Array:
    """Return the sums of ``r[t] q[t + d]`` over each tile, for lags up to `REACH`; q are the tiles or others."""
    if max(tiles.shape[1:-1]) == 1:
        return _along_rows(tiles, tiles if others is None else others)
    axes, lags = tuple(range(1, tiles.ndim)), [min(REACH, n - 1) for n in tiles.shape[1:]]
    size = [scipy.fft.next_fast_len(n + lag, real=True) for n, lag in zip(tiles.shape[1:], lags, strict=True)]
    spectra = scipy.fft.rfftn(tiles, size, axes=axes, workers=1)
    if others is None:
        power = (spectra.real**2 + spectra.imag**2).sum(axis=0)
    else:
        power = (np.conj(spectra) * scipy.fft.rfftn(others, size, axes=axes, workers=1)).sum(axis=0)
    near = np.roll(scipy.fft.irfftn(power, size, workers=1), lags, tuple(range(len(lags))))
    found = np.zeros((2 * REACH + 1,) * len(lags))
    found[tuple(slice(REACH - n, REACH + n + 1) for n in lags)] = near[tuple(slice(2 * n + 1) for n in lags)]
    return found


def _along_rows(tiles: Array, others: Array) -> Array:
    """Return the same of tiles of one row."""
    found, middle = np.zeros((2 * REACH + 1,) * (tiles.ndim - 1)), (REACH,) * (tiles.ndim - 2)
    n = tiles.shape[-1]
    lines = list(tiles.reshape(-1, n))
    for a, b in zip(lines, lines if others is tiles else others.reshape(-1, n), strict=True):
        for lag in range(min(REACH, n - 1) + 1):
            found[*middle, REACH + lag] += (product := np.dot(a[: n - lag], b[lag:]))
            if lag:
                found[*middle, REACH - lag] += product if a is b else np.dot(a[lag:], b[: n - lag])
    return found


def farthest(shape: Sequence[int]) -> npt.NDArray[np.int64]:
    """Return how far each place is from the middle, along the axis where it is the farthest."""
    apart = (np.abs(np.arange(n) - n // 2) for n in shape)
    return np.asarray(functools.reduce(np.maximum.outer, apart))


class Parts:
    """Sums of products of the real and the imaginary parts u and v of complex residuals."""

    # Circular noise has parts alike, of which neither says anything of the other at lag zero. What is kept are the sums
    # for ``u u - v v`` and for ``u v``, and their variances were all products independent.

    def __init__(self, ndim: int) -> None:
        self._sums = np.zeros((2, 2, *(2 * REACH + 1,) * ndim))  # of u u - v v, u v; and of their squares
        self._real: dict[int, Array] = {}  # residuals of real parts whose imaginary parts are to come, by the target
        self._met = False

    def add(self, observation: Observation, tiles: Array) -> None:
        """Add the residual of a part; the imaginary parts come after the real ones of the same pixels."""
        whole = whole_of(observation.targets[0].array)
        if whole is not None and not observation.imaginary:
            self._real[id(whole)] = tiles
        if not observation.imaginary or id(whole) not in self._real:
            return
        u, v, self._met = self._real.pop(id(whole)), tiles, True
        self._sums[0, 0] += products(u) - products(v)
        self._sums[1, 0] += products(u**2) + products(v**2)
        self._sums[0, 1] += products(u, v)
        self._sums[1, 1] += products(u**2, v**2)

    def beside(self, mean: Array, pairs: Array, significant: float) -> tuple[Array | None, int]:
        """Return the autocovariances of both parts and between them, and their reach; None for circular noise."""
        if not self._met:  # no complex numbers
            return None, 0
        half = np.maximum(pairs / 2, 1.0)
        found = self._sums[0] / half
        beyond = np.abs(found) > significant * np.sqrt(np.maximum(self._sums[1], 0.0)) / half
        told = beyond.any(axis=tuple(range(1, beyond.ndim)))
        if not told.any():
            return None, 0
        difference, between = (one if there else np.zeros_like(one) for one, there in zip(found, told, strict=True))
        # r_v[t] r_u[t + d] is what r_u[t] r_v[t + d] is at the other lag
        parts = np.array([[mean + difference / 2, between], [np.flip(between), mean - difference / 2]])
        return parts, int(np.max(farthest(mean.shape)[beyond.any(axis=0)], initial=0))
