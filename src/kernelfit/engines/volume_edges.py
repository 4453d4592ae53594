"""What lies along the edges of the planes of a volume: strips and corners, whose products are taken off the lag sums.

Of the products ``sum_q sum_t E_q[t + p] E_(q + l)[t + p']`` of planes, t in a box of target pixels, a lag sum over
whole planes has too many: those whose first factor lies in rows above or below the box, or in columns beside it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.fft

from ..compiled.threads import in_order
from ..core.geometry import Shape
from ..core.validation import Array

#: Planes whose strips are multiplied at a time, at most, and about the bytes that their strips may take.
_MANY, _ROOM = 128, 2**25
Strips = tuple[Array, Array, Array, Array]


@dataclass
class Edges:
    """Sums over a volume's planes of products of their strips and corners, for each lag along the depth."""

    # The first factors are those of as many planes as there are target planes, from each of the kernel's planes on.

    size: Shape  # rows and columns of a target
    kernel: tuple[int, int, int]

    def __post_init__(self) -> None:
        """Begin with no plane."""
        depth, rows, cols = self.kernel
        self._reach = (cols - 1, cols - 1, rows - 1, rows - 1)  # lags along the strips above, below, left and right
        self._deep = (rows - 1, rows - 1, cols - 1, cols - 1)
        both = [(n, n, 2 * lag + 1) for n, lag in zip(self._deep, self._reach, strict=True)]
        #: of each kind of strip, for each lag along the depth, from the first of the kernel's planes on; and what is
        #: more from each of the others on
        self._tables = [np.zeros((depth, *sides)) for sides in both]
        self._changes = [[np.zeros((depth - 1 - d, *sides)) for d in range(depth)] for sides in both]
        self._ends: list[Array] = [np.zeros(0)] * 4  # spectra of the strips of the first planes, and of the last
        self._strips: list[Strips] = []
        self._corners: list[Array] = []

    def strips(self, block: Callable[[int, int, Shape], Array]) -> Strips:
        """Return the strips of a plane, a row for each row above and below the box, and each column beside it."""
        (n_y, n_x), (_, rows, cols) = self.size, self.kernel
        y, x = rows - 1, cols - 1
        above, below = (block(at, 0, (y, n_x + x)) for at in (0, n_y))
        left, right = (np.ascontiguousarray(block(0, at, (n_y + y, x)).T) for at in (0, n_x))
        return above, below, left, right

    def take(self, planes: Sequence[Strips], workers: int, *, last: bool) -> None:
        """Add the strips of the next planes, and those of the `last` ones."""
        (_, rows, cols), n_x = self.kernel, self.size[1]
        for above, below, left, _ in planes:
            x = left.shape[0]
            corners = [strip[:, at : at + x] for strip in (above, below) for at in (0, n_x)]
            self._corners.append(np.stack(corners).reshape(4, (rows - 1) * (cols - 1)))
        self._strips += planes
        ready = len(self._strips) - (self.kernel[0] - 1)
        held = sum(strip.nbytes for strips in self._strips[:1] for strip in strips)
        if ready < (1 if last else max(1, min(_MANY, _ROOM // max(1, held)))):
            return
        for _ in in_order(range(4), lambda which: self._multiply(which, ready, last=last), workers):
            pass
        del self._strips[:ready]

    def _multiply(self, which: int, ready: int, *, last: bool) -> None:
        """Add the products of one kind of strip, the first factor of which is of one of the first planes."""
        from ..compiled import spectral_products
        from ..compiled.jit import LANES

        n, lag, depth = self._deep[which], self._reach[which], self.kernel[0]
        if not n:
            return
        pixels = np.stack([strips[which] for strips in self._strips], axis=1)  # rows, planes, pixels
        length = scipy.fft.next_fast_len(pixels.shape[2] + lag, real=True)
        n_lags, half = spectral_products.n_lags(max(4, depth)), length // 2 + 1
        width, n_planes = -(-2 * half // LANES) * LANES, ready + n_lags - 1
        spectra = np.zeros((n, n_planes, width))
        spectra.view(np.complex128)[:, : pixels.shape[1], :half] = scipy.fft.rfft(pixels, n=length, workers=1)
        ends = self._ends[which] if self._ends[which].size else np.empty((n, 2 * (depth - 1), width))
        if not self._ends[which].size:
            ends[:, : depth - 1] = spectra[:, : depth - 1]
            self._ends[which] = ends
        first, lags = n_planes * width * np.arange(n), np.arange(-lag, lag + 1)
        products = np.empty((n, n_lags, width))
        for q in range(n):
            sums = np.zeros((n, 2, width // LANES, n_lags, LANES))
            spectral_products.plane_lag_sums(spectra.ravel(), first, first[q], width, ready, sums)
            spectral_products.complex_sums(sums, products)
            whole = products.view(np.complex128)[:, :depth, :half]
            self._tables[which][:, :, q] += scipy.fft.irfft(whole, n=length, workers=1)[..., lags].swapaxes(0, 1)
        if last:
            ends[:, depth - 1 :] = spectra[:, ready : ready + depth - 1]
            inverse = inverse_at(length, width, lags)
            for d, changes in enumerate(self._changes[which]):
                change = np.zeros((n, n, width))
                for at, found in enumerate(changes):
                    spectral_products.exchange(ends, ends, at, d, change)
                    np.matmul(change.reshape(n * n, width), inverse, out=found.reshape(n * n, -1))

    def place(self, depth: int, lags: Array, gram: Array, flipped: bool) -> None:  # noqa: FBT001
        """Write the products for a lag along the depth into the Gram matrix, each plane of the kernel being first."""
        from ..compiled.gram import assemble_planes

        planes, rows, cols = self.kernel
        every = np.stack(self._corners, axis=1)  # corners, planes, pixels
        n, m = every.shape[1] - planes + 1, rows * cols
        corners = every[:, :n].swapaxes(1, 2) @ every[:, depth : n + depth]
        for d, whole in enumerate(lags):
            if d:  # a plane leaves the sum, and one enters it
                for table, own in zip(corners, every, strict=True):
                    table += np.multiply.outer(own[n + d - 1], own[n + d - 1 + depth])
                    table -= np.multiply.outer(own[d - 1], own[d - 1 + depth])
            strips = tuple(
                table[depth] + (change[depth][d - 1] if d else 0.0)
                for table, change in zip(self._tables, self._changes, strict=True)
            )
            sides = (rows - 1, cols - 1) * 2
            tables = corners.reshape(4, *sides).transpose(0, 1, 3, 2, 4)
            tables = np.ascontiguousarray(tables).reshape(4, rows - 1, rows - 1, (cols - 1) ** 2)
            one, other = (planes - 1 - d, planes - 1 - d - depth) if flipped else (d, d + depth)
            assemble_planes(whole, strips, tables, gram, one * m, other * m, flipped)
            gram[other * m : (other + 1) * m, one * m : (one + 1) * m] = gram[
                one * m : (one + 1) * m, other * m : (other + 1) * m
            ].T


def inverse_at(length: int, width: int, lags: npt.NDArray[np.intp]) -> Array:
    """Return the matrix that takes a spectrum, real and imaginary parts in turn, to some lags."""
    f = np.arange(length // 2 + 1)
    weight = np.where((f == 0) | (2 * f == length), 1.0, 2.0)[:, None] / length
    turns = np.exp(2j * np.pi / length * (f[:, None] * lags % length)) * weight
    out = np.zeros((width, len(lags)))
    out[: 2 * len(f) : 2], out[1 : 2 * len(f) : 2] = turns.real, -turns.imag
    return out
