"""What lies along the edges of the planes of a volume: strips and corners, whose products are taken off the lag sums.

Of the products ``sum_q sum_t E_q[t + p] E_(q + l)[t + p']`` of planes, t in a box of target pixels, a lag sum over
whole planes has too many: those whose first factor lies in rows above or below the box, or in columns beside it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.fft

from ..compiled.threads import in_order
from ..core.geometry import Shape
from ..core.validation import Array
from ..data.reader import Reader

#: Planes whose strips are multiplied at a time, at most, and about the bytes that their strips may take.
_MANY, _ROOM = 64, 2**25
Strips = tuple[Array, Array, Array, Array]


@dataclass
class Edges:
    """Sums over the planes of a volume of products of their strips and corners, for each lag along the depth."""

    size: Shape  # rows and columns of a target
    kernel: tuple[int, int, int]

    def __post_init__(self) -> None:
        """Begin with no plane."""
        depth, rows, cols = self.kernel
        self._reach = (cols - 1, cols - 1, rows - 1, rows - 1)  # lags along the strips above, below, left and right
        deep = (rows - 1, rows - 1, cols - 1, cols - 1)
        both = zip(deep, self._reach, strict=True)
        self._tables = [np.zeros((depth, n, n, 2 * lag + 1)) for n, lag in both]
        self._strips: list[Strips] = []
        self._corners: list[Array] = []

    def read(self, plane: Reader) -> Strips:
        """Return the strips of a plane, a row for each row above and below the box, and each column beside it."""
        (n_y, n_x), (_, rows, cols) = self.size, self.kernel
        y, x = rows - 1, cols - 1
        above, below = (plane.block(at, 0, (y, n_x + x)) for at in (0, n_y))
        left, right = (np.ascontiguousarray(plane.block(0, at, (n_y + y, x)).T) for at in (0, n_x))
        return above, below, left, right

    def take(self, planes: Sequence[Strips], workers: int, *, last: bool) -> None:
        """Add the strips of the next planes; with the `last` ones nothing is left to be multiplied."""
        n_x = self.size[1]
        for above, below, left, _ in planes:
            x = left.shape[0]
            corners = [strip[:, at : at + x] for strip in (above, below) for at in (0, n_x)]
            self._corners.append(np.stack(corners).reshape(4, -1))
        self._strips += planes
        ready = len(self._strips) - (0 if last else self.kernel[0] - 1)
        held = sum(strip.nbytes for strips in self._strips[:1] for strip in strips)
        if ready < (1 if last else max(1, min(_MANY, _ROOM // max(1, held)))):
            return
        for _ in in_order(range(4), lambda which: self._multiply(which, ready), workers):
            pass
        del self._strips[:ready]

    def _multiply(self, which: int, ready: int) -> None:
        """Add the products of one kind of strip, the first factor of which is of one of the first planes."""
        table, lag = self._tables[which], self._reach[which]
        if not table.size:
            return
        pixels = np.stack([strips[which] for strips in self._strips])
        length = scipy.fft.next_fast_len(pixels.shape[2] + lag, real=True)
        spectra = np.ascontiguousarray(scipy.fft.rfft(pixels, n=length, workers=1).transpose(2, 0, 1))
        turned = np.conj(spectra[:, :ready].transpose(0, 2, 1), order="C")  # frequencies, rows, planes
        for lags, out in enumerate(table):
            n = min(ready, spectra.shape[1] - lags)
            if n > 0:
                products = (turned[:, :, :n] @ spectra[:, lags : lags + n]).transpose(1, 2, 0)
                out += scipy.fft.irfft(products, n=length, workers=1)[..., np.arange(-lag, lag + 1)]

    def products(self, depth: int, lags: Array) -> Array:
        """Return the products for a lag along the depth, shape (taps, taps), given the lag sums of whole planes."""
        _, rows, cols = self.kernel
        above, below, left, right = (table[depth] for table in self._tables)
        beside = _diagonal(above, ahead=True) + _diagonal(below, ahead=False)
        across = _diagonal(left, ahead=True) + _diagonal(right, ahead=False)
        every = np.stack(self._corners)
        n = max(0, len(every) - depth)
        both = np.zeros((rows, rows, cols, cols))
        for which in range(4):
            table = every[:n, which].T @ every[depth:, which]
            table = table.reshape(rows - 1, cols - 1, rows - 1, cols - 1).transpose(0, 2, 1, 3)
            half = _diagonal(table, ahead=which < 2).transpose(2, 3, 0, 1)
            both += _diagonal(half, ahead=which % 2 == 0).transpose(2, 3, 0, 1)
        down, along = np.arange(rows), np.arange(cols)
        i = (down - down[:, None] + rows - 1)[:, None, :, None]  # lags of taps (row, column, row', column')
        j = (along - along[:, None] + cols - 1)[None, :, None, :]
        p, q = down[:, None, None, None], down[None, None, :, None]
        u, v = along[None, :, None, None], along[None, None, None, :]
        found = lags[i, j] - beside[p, q, j] - across[u, v, i] + both[p, q, u, v]
        return np.asarray(found.reshape(rows * cols, rows * cols))


def _diagonal(table: Array, *, ahead: bool) -> Array:
    """Add up products of two rows of strips (n, n, ...) to those beyond the box of two taps, (n + 1, n + 1, ...).

    Of strips `ahead` of the box those are the rows before the tap's, of strips behind it those from the tap's on.
    """
    n = len(table)
    out = np.zeros((n + 1, n + 1, *table.shape[2:]))
    for a in range(n):
        if ahead:
            out[a + 1, 1:] = out[a, :-1] + table[a]
        else:
            out[n - 1 - a, :-1] = out[n - a, 1:] + table[n - 1 - a]
    return out
