"""The inverse of the Gram matrix of signals, exact, from its displacement.

From one pair of taps to the next, ``G[p + 1, q + 1] = G[p, q] + E[n + p] E[n + q] - E[p] E[q]``, one sample leaves the
sum and one enters it. So ``G - Z G Z'`` has the rank four, and so has that of the inverse, which is found in a number
of steps that grows with the square of the number of taps. Beside it conjugate gradients need one or two steps, whatever
bands of frequency the signal leaves open.
"""

from collections.abc import Sequence
from typing import Self

import numpy as np
import scipy.fft

from ..core.validation import Array
from .implicit_gram import TorusInverse
from .passes import Frame

#: From this ratio of powers on the torus is too far from the matrix; the most taps, and rows of signals.
_APART, _MOST_TAPS, _MOST_ROWS = 1e3, 2**16, 4
#: What is added to the diagonal, relative to the largest eigenvalue, until rounding leaves the matrix positive.
_RIDGES = (0.0, 1e-14, 1e-12, 1e-10)


class ToeplitzInverse:
    """The inverse of a Gram matrix plus a `ridge`: the sum of ``L(x) L(x)'``, taken off but for `n_positive`."""

    # L(x) is the lower triangular Toeplitz matrix whose first column is x, given by its spectrum.

    def __init__(self, torus: TorusInverse, first: Array, ends: tuple[Array, Array], ridge: float = 0.0) -> None:
        """Invert; `first` is the first row of G, `ends` what leaves and what enters, (rows, taps - 1)."""
        from ..compiled.dense import invert_displaced

        self.known, self.given, self.condition = torus, (first, ends), torus.condition
        self.lags, self.torus = torus.lags, torus.torus
        m, n = len(first), len(ends[0])
        for share in _RIDGES:
            self.ridge = ridge + share * torus.largest
            corner = np.sqrt(first[0] + self.ridge)
            lead, positive, negative = np.zeros(m + 1), np.zeros((n, 2 * m + 1)), np.zeros((n + 1, 2 * m + 1))
            lead[0], lead[1:m], lead[m] = corner, first[1:] / corner, 1 / corner
            negative[0, 1 : m + 1] = lead[1:]
            positive[:, 1:m], negative[1:, 1:m] = ends[1], ends[0]
            self.done = bool(invert_displaced(lead, positive, negative))
            if self.done:
                break
        generators = np.concatenate([negative[:, m : 2 * m], lead[None, :m], positive[:, m : 2 * m]])
        self.signs = np.repeat([1.0, -1.0], n + 1)[:, None]
        self._generators, self._length = generators, scipy.fft.next_fast_len(2 * m, real=True)
        self._spectra = scipy.fft.rfft(generators, n=self._length, workers=1)

    @classmethod
    def beside_torus(cls, torus: TorusInverse, frames: Sequence[Frame]) -> Self | TorusInverse:
        """Return the inverse of the matrix of some signals if theirs on a torus is far from it, else the latter."""
        frame = frames[0]
        m, rows = frame.kernel_cols, sum(f.rows for f in frames)
        if frame.kernel_rows > 1 or rows > _MOST_ROWS or not 1 < m <= _MOST_TAPS or torus.condition < _APART:
            return torus
        leave, enter = (
            np.concatenate([f.sources[0].block(0, at * f.cols, (f.rows, m - 1)) for f in frames]) for at in (0, 1)
        )
        length = scipy.fft.next_fast_len(2 * m, real=True)
        tail = np.sum(np.abs(scipy.fft.rfft(enter, n=length, workers=1)) ** 2, axis=0)
        first = torus.lags[0, 0, 0, m - 1 :] - scipy.fft.irfft(tail, n=length, workers=1)[:m]
        found = cls(torus, first, (leave, enter))
        return found if found.done else torus

    def __call__(self, taps: Array) -> Array:
        """Return the inverse times the taps, an array (1, 1, taps)."""
        m = taps.shape[2]
        inner = np.conj(self._spectra) * scipy.fft.rfft(taps[0], n=self._length, workers=1)
        middle = scipy.fft.irfft(inner, n=self._length, workers=1)[:, :m]
        outer = scipy.fft.rfft(self.signs * middle, n=self._length, workers=1) * self._spectra
        found: Array = scipy.fft.irfft(outer.sum(axis=0), n=self._length, workers=1)[None, None, :m]
        return found

    def power(self) -> Array:
        """Return the spectrum of the signal, at frequencies from 0 to 0.5, even if it spans many decades."""
        # Of the means of the diagonals; Kaiser's window leaves 1e-11 of a power farther away than 9 over the number of
        # lags.
        first, (leave, enter) = self.given
        m = len(first)
        falling = np.arange(m - 1, 0, -1)

        def sums(ends: Array) -> Array:
            one, other = scipy.fft.rfft(np.stack([ends, ends * falling]), n=self._length, workers=1)
            products = (np.conj(one) * other).sum(axis=0)
            return np.asarray(scipy.fft.irfft(products, n=self._length, workers=1)[:m])

        lags = (first + (sums(enter) - sums(leave)) / np.arange(m, 0, -1)) * np.kaiser(2 * m - 1, 26.0)[m - 1 :]
        spectrum = scipy.fft.rfft(np.concatenate([lags, lags[:0:-1]]), workers=1).real
        return np.asarray(np.maximum(spectrum, 1e-12 * spectrum.max()))

    def diagonal(self) -> Array:
        """Return the diagonal of the inverse, an array (1, 1, taps)."""
        return np.asarray(np.cumsum(np.sum(self.signs * self._generators**2, axis=0))[None, None])

    def beside(self, more: Array) -> "Self | TorusInverse":
        """Return the inverse of the sum with what has such a spectrum, about that if the spectrum is not constant."""
        found = None if np.ptp(more) else self.raised(float(more.ravel()[0]))
        return found if found is not None and found.done else self.known.beside(more)

    def raised(self, ridge: float) -> Self:
        """Return the inverse with a ridge."""
        return type(self)(self.known, *self.given, ridge=ridge)
