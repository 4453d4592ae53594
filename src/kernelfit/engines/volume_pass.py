"""Pixels of a volume to statistics: each plane is read and transformed once.

With extended planes E, ``G[(d, p), (d + l, q)]`` is the sum over z of ``S(z + d, z + d + l)``, with the products of two
planes ``S(a, b)[p, q] = sum_t E_a[t + p] E_b[t + q]``. So it is the sum over all planes of ``S(a, a + l)``, one matrix
for each lag l along the depth, less what the planes at either end have in it. In a plane S depends on the lag ``q - p``
but for what lies along the edges (`volume_edges`); the lag sums come of the spectra of the planes, of which those of a
few planes are held at a time.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from ..compiled.threads import Progress, in_order
from ..core.geometry import Shape
from ..core.normal_equations import NormalEquations
from ..core.validation import Array
from ..data.observation import Observation, refuse_nonfinite, refuse_tiny
from ..data.reader import Reader
from .cost_model import good_length
from .volume_edges import Edges, Strips, inverse_at

#: Planes whose products are formed at a time, as many as there is room for.
_BATCHES = (16, 8)
#: Bytes that spectra and their sums may take, and parts of which the products are formed by one thread.
_ROOM, _PARTS = 180 * 2**20, 32
#: Lengths along the columns and rows, but for powers of two, at which unplanned transforms of either kind are quick.
_DOWN, _ACROSS = (1, 5, 7, 25, 35), (1, 3, 5, 7, 9, 15, 25, 35)
Spectrum = npt.NDArray[np.complex128]


@dataclass(frozen=True)
class Stack:
    """The planes of a volume, extended, and the targets at each place along the depth."""

    planes: tuple[Reader, ...]
    targets: tuple[tuple[Reader, ...], ...]
    size: Shape  # rows and columns of a target
    kernel: tuple[int, int, int]

    @classmethod
    def of(cls, observations: Sequence[Observation]) -> "Stack | None":
        """Return that of the target planes of a volume; None if a stride leaves some out."""
        first = observations[0]
        plane, depth = first.plane, len(first.sources)
        if plane is None or depth == 1 or plane.n_channels > 1 or max(plane.convention.stride) > 1:
            return None
        ahead = [one.sources[::-1] if one.geometry.flipped else one.sources for one in observations]
        planes = tuple(some[0] for some in ahead) + tuple(ahead[-1][1:])
        kernel = (depth, *first.geometry.kernel_shape)
        return cls(planes, tuple(one.targets for one in observations), first.size, kernel)

    @property
    def halo(self) -> Shape:
        """Rows and columns by which the extended planes exceed a target."""
        return self.kernel[1] - 1, self.kernel[2] - 1

    @property
    def extended(self) -> Shape:
        """Shape of an extended plane."""
        return self.size[0] + self.halo[0], self.size[1] + self.halo[1]


def statistics(
    observations: Sequence[Observation], stack: Stack, workers: int, progress: Progress | None = None
) -> list[NormalEquations]:
    """Return the statistics of a volume, one for each target."""
    first, depth = observations[0], stack.kernel[0]
    with np.errstate(all="ignore"):
        lags, moment, squares, edges = _Spectra(stack).sums(workers, progress)
        n_pixels = len(observations) * first.geometry.n_pixels
        _require_sums(observations, lags, moment, squares, n_pixels * 2.0**-1010)
        flipped = first.geometry.flipped
        gram = np.empty((depth * first.geometry.n_taps,) * 2)
        for _ in in_order(range(depth), lambda lag: edges.place(lag, lags[lag], gram, flipped), workers):
            pass
    return [
        NormalEquations(
            gram=gram,
            moment=np.ascontiguousarray(moment[t].ravel()[:: -1 if flipped else 1]),
            target_energy=float(squares[t, 0]),
            target_sum=float(squares[t, 1]),
            n_pixels=n_pixels,
            supports=first.supports,
            convention=first.convention,
        )
        for t in range(len(first.targets))
    ]


def _require_sums(
    observations: Sequence[Observation], lags: Sequence[Array], moment: Array, squares: Array, least: float
) -> None:
    """Refuse NaN, over- and underflow."""
    if not all(np.isfinite(a).all() for a in (*lags, moment, squares)):
        for one in observations:
            arrays = [reader.array for reader in (*one.sources, *one.targets)]
            if not all(np.isfinite(np.asarray(array[:, :], dtype=np.float64)).all() for array in arrays):
                refuse_nonfinite(one)
        refuse_nonfinite(observations[0])
    if np.abs(lags[0]).max(initial=0.0) < least or squares[0, 0] < least:
        for one in observations:
            refuse_tiny(one)


class _Spectra:
    """Spectra of some planes at a time, and the sums of their products over as many planes as targets."""

    # A plane too large is cut into tiles. Then the first factor of a product is a tile without its surroundings, an
    # array of its own, beside that with them, which is the last.

    def __init__(self, stack: Stack) -> None:
        """Lay out arrays: of the planes, and of each target."""
        from ..compiled import fft, spectral_products
        from ..compiled.jit import LANES

        self.stack, n_targets, depth = stack, len(stack.targets[0]), stack.kernel[0]
        self.n_lags = spectral_products.n_lags(max(4, depth))
        batches, cuts = iter(_BATCHES), [1, 1]
        self.batch = next(batches)
        while True:
            n_planes = self.batch + self.n_lags - 1
            self.tile = tuple(-(-n // c) for n, c in zip(stack.extended, cuts, strict=True))
            self.cut = int(cuts != [1, 1])
            self.height, width = (n + 2 * self.cut * h for n, h in zip(self.tile, stack.halo, strict=True))
            rows = good_length(self.height + (1 - self.cut) * stack.halo[0], _DOWN)
            self.shape = rows, good_length(max(2, width + (1 - self.cut) * stack.halo[1]), _ACROSS)
            self.room, n_arrays = fft.SliceTransforms.room(*self.shape), 1 + n_targets + self.cut
            plane = 4 * (self.room[0] * self.room[1] // 4 | 1)  # whole cache lines, an odd number of them
            n_spectra = n_arrays * n_planes + 2 * (1 + self.cut) * (depth - 1) + 2 * (1 + n_targets) * self.n_lags
            if 16 * plane * n_spectra <= _ROOM or max(self.tile) <= 2 * max(stack.halo) + 32:
                break
            if self.batch > _BATCHES[-1]:
                self.batch = next(batches)
            else:
                cuts[int(np.argmax(self.tile))] += 1
        self.spectra = fft.aligned((n_arrays, n_planes, plane))
        self.ends = fft.aligned((1 + self.cut, 2 * (depth - 1), plane))
        step = -(-self.room[0] // _PARTS) * self.room[1]
        self.parts = [slice(at, min(at + step, math.prod(self.room))) for at in range(0, math.prod(self.room), step)]
        n_vectors = [2 * (part.stop - part.start) // LANES for part in self.parts]
        self.products = [np.zeros((1 + n_targets, 2, n, self.n_lags, LANES)) for n in n_vectors]

    def sums(self, workers: int, progress: Progress | None) -> tuple[list[Array], Array, Array, Edges]:
        """Read all planes; return lag sums by first plane and lag along the depth, moments, target sums, edges."""
        stack, edges = self.stack, Edges(self.stack.size, self.stack.kernel)
        n, n_targets, (depth, n_y, n_x) = len(stack.planes), len(stack.targets[0]), stack.kernel
        lags = [np.zeros((depth - lag, 2 * n_y - 1, 2 * n_x - 1)) for lag in range(depth)]
        moment, squares = np.zeros((n_targets, depth, n_y, n_x)), np.zeros((n_targets, 2))
        (height, width), (rows, cols) = self.tile, stack.extended
        image = self.spectra[-self.cut]
        starts = [(row, col) for row in range(0, rows, height) for col in range(0, cols, width)]
        for i, start in enumerate(starts):
            known, seen = 0, None if i else edges
            for first in range(0, len(stack.targets), self.batch):
                last = min(n, first + len(image))
                own = range(first, min(len(stack.targets), first + self.batch))
                jobs: list[Callable[[], Any]] = [
                    partial(self._of_plane, stack.planes[q], start, image[q - first], seen) for q in range(known, last)
                ]
                jobs += [
                    partial(self._of_tile, stack.planes[q], start, stack.extended, self.spectra[0, q - first])
                    for q in own
                    if self.cut
                ]
                plain = len(jobs)
                jobs += [
                    partial(self._of_tile, stack.targets[z][t], start, stack.size, self.spectra[1 + t, z - first])
                    for z in own
                    for t in range(n_targets)
                ]
                found = list(in_order(jobs, lambda job: job(), workers))
                for at, pair in enumerate(found[plain:]):
                    squares[at % n_targets] += pair
                if first == 0:
                    self.ends[-1, : depth - 1] = image[: depth - 1]
                done = own.stop == len(stack.targets)
                if done:
                    self.ends[-1, depth - 1 :] = image[len(own) : last - first]
                for _ in in_order(range(len(self.parts)), partial(self._multiply, len(own)), workers):
                    pass
                if i == 0:
                    edges.take(found[: last - known], workers, last=done)
                known = last
                if progress is not None:
                    progress("reading pixels", i * n + (n if done else own.stop), len(starts) * n)
            if self.cut:
                outer = [*range(depth - 1), *range(n - depth + 1, n)]
                jobs = [
                    partial(self._of_tile, stack.planes[q], start, stack.extended, self.ends[0, at])
                    for at, q in enumerate(outer)
                ]
                for _ in in_order(jobs, lambda job: job(), workers):
                    pass
            self._add(lags, moment, workers)
        return lags, moment, squares, edges

    def _of_plane(self, reader: Reader, start: Shape, out: Spectrum, edges: Edges | None) -> Strips | None:
        """Read a plane, or a tile and its surroundings, and transform it; return its strips, if they are asked for."""
        (y, x), (height, width) = self.stack.halo, self.tile
        if self.cut:
            self._transform(reader, (start[0] - y, start[1] - x), (height + 2 * y, width + 2 * x), out)
            return None if edges is None else edges.strips(reader.block)
        return self._transform(reader, (0, 0), self.stack.extended, out, edges)

    def _of_tile(self, reader: Reader, start: Shape, extent: Shape, out: Spectrum) -> Array:
        """Read a plane or target, or a tile of it, and transform it; return the sums of squares and of pixels."""
        squares = np.zeros(2)
        height, width = (max(0, min(n, m - at)) for n, m, at in zip(self.tile, extent, start, strict=True))
        self._transform(reader, start, (height, width), out, squares=squares)
        return squares

    def _transform(
        self,
        reader: Reader,
        corner: Shape,
        shape: Shape,
        out: Spectrum,
        edges: Edges | None = None,
        squares: Array | None = None,
    ) -> Strips | None:
        from ..compiled import fft, lag_sums

        transform = fft.take(fft.SliceTransforms, self.height, *self.shape)
        block, (height, width) = transform.block, shape
        block[height:], block[:height, width:] = 0.0, 0.0
        reader.read(block[:height, :width], *corner)
        if squares is not None:
            lag_sums.moments(block, height, width, squares)
        found: Strips | None = None
        if edges is not None:
            found = edges.strips(lambda row, col, side: block[row : row + side[0], col : col + side[1]].copy())
        transform.forward(out[: math.prod(self.room)].reshape(self.room))
        fft.give_back(transform)
        return found

    def _multiply(self, n: int, at: int) -> None:
        """Add the products of the first planes with those behind them, and go on to what follows those."""
        from ..compiled import spectral_products

        part, (n_arrays, n_planes, plane) = self.parts[at], self.spectra.shape
        first = np.arange(n_arrays) * (2 * n_planes * plane) + 2 * part.start
        flat, products = self.spectra.view(np.float64).ravel(), self.products[at]
        spectral_products.plane_lag_sums(flat, first[: len(products)], first[-self.cut], 2 * plane, n, products)
        behind = self.spectra[-self.cut, :, part]
        behind[: self.n_lags - 1] = behind[self.batch :].copy()

    def _add(self, lags: list[Array], moment: Array, workers: int) -> None:
        """Turn the sums of products into lag sums and moments, which are added to those given, and begin anew."""
        from ..compiled import spectral_products

        whole = np.zeros((len(self.products[0]), self.n_lags, 1, 1, 2 * self.spectra.shape[2]))
        for part, products in zip(self.parts, self.products, strict=True):
            own = np.empty((*whole.shape[:2], 2 * (part.stop - part.start)))
            spectral_products.complex_sums(products, own)
            whole[:, :, 0, 0, 2 * part.start : 2 * part.stop] = own
            products[:] = 0.0
        depth, (rows, cols), (y, x) = self.stack.kernel[0], self.shape, self.stack.halo
        down, across = np.arange(-y, y + 1), np.arange(-x, x + 1)
        first = (y, x) if self.cut else (0, 0)  # where a tile begins in that with its surroundings
        turns = np.exp(2j * np.pi / rows * (np.arange(rows)[:, None] * (down + first[0]) % rows)) / rows
        back = inverse_at(cols, 2 * self.room[0], across + first[1])

        def inverse(spectrum: Array) -> Array:
            lines = spectrum.view(np.complex128).ravel()[: math.prod(self.room)].reshape(self.room)
            found: Array = np.ascontiguousarray((lines[:, :rows] @ turns).T).view(np.float64) @ back
            return found

        def of_lag(lag: int) -> None:
            total, ends = whole[0, lag], self.ends.view(np.float64)
            for d, table in enumerate(lags[lag]):
                if d:  # a plane leaves the sum, and one enters it
                    spectral_products.exchange(ends[:1], ends[-1:], d - 1, lag, total)
                table += inverse(total)
            for one, own in zip(whole[1:], moment, strict=True):
                own[lag] += inverse(one[lag])[y:, x:]

        for _ in in_order(range(depth), of_lag, workers):
            pass
