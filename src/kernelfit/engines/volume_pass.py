"""Pixels of a volume to statistics: each plane is read and transformed once.

With extended planes E, ``G[(d, p), (d + l, q)]`` is the sum over z of ``S(z + d, z + d + l)``, with the products of two
planes ``S(a, b)[p, q] = sum_t E_a[t + p] E_b[t + q]``. So it is the sum over all planes of ``S(a, a + l)``, one matrix
for each lag l along the depth, less what the planes at either end have in it. In a plane S depends on the lag ``q - p``
but for what lies along the edges (`volume_edges`); the lag sums come of the spectra of the planes, of which those of a
few planes are held at a time.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import scipy.fft

from ..compiled.threads import Progress, in_order
from ..core.geometry import Shape
from ..core.normal_equations import NormalEquations
from ..core.validation import Array
from ..data.observation import Observation, refuse_nonfinite, refuse_tiny
from ..data.reader import Reader
from .volume_edges import Edges

#: Planes whose products are formed at a time, as many as there is room for.
_BATCHES = (32, 16, 8)
#: Bytes that spectra and their sums may take, and those of a part that the cache holds.
_ROOM, _PART = 180 * 2**20, 2**18


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
        if plane is None or depth == 1 or max(plane.convention.stride) > 1:
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

    def end(self, observation: Observation, start: int) -> Observation:
        """Return an observation whose sources are planes from one on, one fewer than the kernel has."""
        some = self.planes[start : start + self.kernel[0] - 1]
        return dataclasses.replace(observation, sources=some, targets=observation.targets[:1])


def statistics(
    observations: Sequence[Observation],
    stack: Stack,
    ends: tuple[Array, Array],
    workers: int,
    progress: Progress | None = None,
) -> list[NormalEquations]:
    """Return the statistics of a volume, one for each target.

    `ends`: the Gram matrices of `Stack.end` of the first planes and of the last ones.
    """
    first, depth = observations[0], stack.kernel[0]
    with np.errstate(all="ignore"):
        lags, moment, squares, edges = _Spectra(stack).sums(workers, progress)
        n_pixels = len(observations) * first.geometry.n_pixels
        _require_sums(observations, lags, moment, squares, n_pixels * 2.0**-1010)
        turned = slice(None, None, -1 if first.geometry.flipped else 1)
        m = first.geometry.n_taps
        gram = np.empty((depth * m, depth * m))
        blocks = gram.reshape(depth, m, depth, m)[turned, :, turned]
        before, after = (end.reshape(depth - 1, m, depth - 1, m) for end in ends)
        for lag in range(depth):
            behind = [edges.products(lag, lags[lag])[turned, turned]]
            for d in range(depth - 2 - lag, -1, -1):  # less what the d-th plane of no target has
                behind.append(behind[-1] - after[d, :, d + lag])
            ahead: Any = 0.0
            for d, whole in enumerate(reversed(behind)):
                if d:
                    ahead = ahead + before[d - 1, :, d - 1 + lag]
                blocks[d, :, d + lag] = whole - ahead
                blocks[d + lag, :, d] = blocks[d, :, d + lag].T
    return [
        NormalEquations(
            gram=gram,
            moment=np.ascontiguousarray(moment[t].ravel()[turned]),
            target_energy=float(squares[t, 0]),
            target_sum=float(squares[t, 1]),
            n_pixels=n_pixels,
            supports=first.supports,
            convention=first.convention,
        )
        for t in range(len(first.targets))
    ]


def _require_sums(
    observations: Sequence[Observation], lags: Array, moment: Array, squares: Array, least: float
) -> None:
    """Refuse NaN, over- and underflow."""
    if not all(np.isfinite(a).all() for a in (lags, moment, squares)):
        for one in observations:
            arrays = [reader.array for reader in (*one.sources, *one.targets)]
            if not all(np.isfinite(np.asarray(array[:, :], dtype=np.float64)).all() for array in arrays):
                refuse_nonfinite(one)
        refuse_nonfinite(observations[0])
    if np.abs(lags).max(initial=0.0) < least or squares[0, 0] < least:
        for one in observations:
            refuse_tiny(one)


class _Spectra:
    """Spectra of some planes at a time, and the sums of their products, in parts that the cache holds.

    A plane too large is cut into tiles. Then the first factor of a product is a tile without its surroundings, an array
    of its own, beside that with them, which is the last.
    """

    def __init__(self, stack: Stack) -> None:
        """Lay out arrays: of the planes, and of each target."""
        from ..compiled.jit import LANES

        self.stack, n_targets = stack, len(stack.targets[0])
        self.n_lags = -(-stack.kernel[0] // 4) * 4
        batches, cuts = iter(_BATCHES), [1, 1]
        self.batch = next(batches)
        while True:
            n_planes = self.batch + self.n_lags - 1
            self.tile = tuple(-(-n // c) for n, c in zip(stack.extended, cuts, strict=True))
            self.cut = int(cuts != [1, 1])
            sides = (n + (1 + self.cut) * h for n, h in zip(self.tile, stack.halo, strict=True))
            self.shape = tuple(scipy.fft.next_fast_len(n, real=True) for n in sides)
            width, n_arrays = 8 * -(-(self.shape[1] // 2 + 1) // 4), 1 + n_targets + self.cut
            each = 8 * width * (n_arrays * n_planes + 2 * (1 + n_targets) * self.n_lags)
            if each * self.shape[0] <= _ROOM or max(self.tile) <= 2 * max(stack.halo) + 32:
                break
            if self.batch > _BATCHES[-1]:
                self.batch = next(batches)
            else:
                cuts[int(np.argmax(self.tile))] += 1
        self.height = max(1, min(self.shape[0], _PART // (8 * width * n_arrays * n_planes)))
        n_parts = -(-self.shape[0] // self.height)
        self.values = np.zeros((n_parts, n_arrays, n_planes, self.height * width))
        self.products = np.zeros((n_parts, 1 + n_targets, 2, self.height * width // LANES, self.n_lags, LANES))

    def sums(self, workers: int, progress: Progress | None) -> tuple[Array, Array, Array, Edges]:
        """Read all planes; return lag sums, moments, squares and sums of targets, and what lies along the edges."""
        stack, edges = self.stack, Edges(self.stack.size, self.stack.kernel)
        n, n_targets = len(stack.planes), len(stack.targets[0])
        squares = np.zeros((n_targets, 2))
        (height, width), (rows, cols) = self.tile, stack.extended
        starts = [(row, col) for row in range(0, rows, height) for col in range(0, cols, width)]
        for i, start in enumerate(starts):
            known = 0
            for first in range(0, n, self.batch):
                last = min(n, first + self.values.shape[2])
                own = range(first, min(n, first + self.batch))
                jobs: list[Callable[[], Any]] = [self._of_plane(q, q - first, start) for q in range(known, last)]
                jobs += [self._of_tile(q, q - first, start) for q in own if self.cut]
                plain = len(jobs)
                jobs += [
                    self._of_target(t, z, z - first, start)
                    for z in own
                    if z < len(stack.targets)
                    for t in range(n_targets)
                ]
                self.values[:, -1 if self.cut else 0, last - first :] = 0.0  # behind the last plane there is nothing
                self.values[:, 1 : 1 + n_targets, max(0, len(stack.targets) - first) : len(own)] = 0.0
                found = list(in_order(jobs, lambda job: job(), workers))
                for at, pair in enumerate(found[plain:]):
                    squares[at % n_targets] += pair
                multiply = partial(self._multiply, len(own))
                for _ in in_order(range(len(self.values)), multiply, workers):
                    pass
                if i == 0:
                    strips = list(in_order(stack.planes[known:last], edges.read, workers))
                    edges.take(strips, workers, last=last == n and first + self.batch >= n)
                known = last
                if progress is not None:
                    progress("reading pixels", i * n + own.stop, len(starts) * n)
        self.values = np.zeros(0)
        return *self._inverse(workers), squares, edges

    def _of_plane(self, q: int, at: int, start: Shape) -> Callable[[], None]:
        """Return what reads a plane and transforms it; of a tile, its surroundings with it."""
        (y, x), (height, width) = self.stack.halo, self.tile
        reader, array = self.stack.planes[q], -1 if self.cut else 0
        if self.cut:
            corner, shape = (start[0] - y, start[1] - x), (height + 2 * y, width + 2 * x)
        else:
            corner, shape = (0, 0), self.stack.extended
        return lambda: self._transform(reader, corner, shape, array, at, None)

    def _of_tile(self, q: int, at: int, start: Shape) -> Callable[[], None]:
        """Return what reads a tile of a plane and transforms it."""
        sides = zip(self.tile, self.stack.extended, start, strict=True)
        height, width = (min(n, whole - first) for n, whole, first in sides)
        return lambda: self._transform(self.stack.planes[q], start, (height, width), 0, at, None)

    def _of_target(self, t: int, z: int, at: int, start: Shape) -> Callable[[], Array]:
        """Return what reads a target, or a tile of it, and transforms it; it returns sums of squares and pixels."""
        sides = zip(self.tile, self.stack.size, start, strict=True)
        height, width = (max(0, min(n, whole - first)) for n, whole, first in sides)

        def job() -> Array:
            squares = np.zeros(2)
            self._transform(self.stack.targets[z][t], start, (height, width), 1 + t, at, squares)
            return squares

        return job

    def _transform(
        self, reader: Reader, corner: Shape, shape: Shape, array: int, at: int, squares: Array | None
    ) -> None:
        from ..compiled import fft, lag_sums

        transform = fft.borrow_block(*self.shape)
        block, (height, width) = transform.block, shape
        block[height:], block[:height, width:] = 0.0, 0.0
        reader.read(block[:height, :width], *corner)
        if squares is not None:
            lag_sums.moments(block, height, width, squares)
        transform.forward(0)
        values, whole = transform.spectra[0].view(np.float64), self.shape[0] // self.height
        done = whole * self.height
        self.values[:whole, array, at] = values[:done].reshape(whole, -1)
        if done < len(values):
            self.values[whole, array, at, : (len(values) - done) * values.shape[1]] = values[done:].ravel()
        fft.give_back(transform)

    def _multiply(self, n: int, part: int) -> None:
        """Add the products of the first planes with those behind them, and go on to what follows those."""
        from ..compiled import spectral_products

        values, products = self.values[part], self.products[part]
        second = len(values) - 1 if self.cut else 0
        spectral_products.spectral_lag_sums(values, 0, second, n, products)
        values[second, : self.n_lags - 1] = values[second, self.batch :].copy()

    def _inverse(self, workers: int) -> tuple[Array, Array]:
        """Turn the sums of products into lag sums and moments."""
        from ..compiled import spectral_products

        (depth, n_y, n_x), (rows, cols), (y, x) = self.stack.kernel, self.shape, self.stack.halo
        n_parts, n_arrays, _, n_vectors, _, lanes = self.products.shape
        spectra = np.empty((n_arrays, self.n_lags, n_parts, n_vectors * lanes))
        for part in range(n_parts):
            own = np.empty((n_arrays, self.n_lags, n_vectors * lanes))
            spectral_products.complex_sums(self.products[part], own)
            spectra[:, :, part] = own
        self.products = np.zeros(0)
        whole = spectra.view(np.complex128).reshape(n_arrays, self.n_lags, n_parts * self.height, -1)
        down, across = np.arange(-y, y + 1), np.arange(-x, x + 1)
        first = (y, x) if self.cut else (0, 0)  # where a tile begins in that with its surroundings
        turns = np.exp(2j * np.pi / rows * ((down[:, None] + first[0]) * np.arange(rows) % rows)) / rows
        at = (across + first[1]) % cols

        def inverse(which: Shape) -> Array:
            some = turns @ whole[which][:rows, : cols // 2 + 1]
            found: Array = scipy.fft.irfft(some, n=cols, axis=1, workers=1)[:, at]
            return found

        jobs = [(array, lag) for array in range(n_arrays) for lag in range(depth)]
        found = np.stack(list(in_order(jobs, inverse, workers))).reshape(n_arrays, depth, 2 * y + 1, 2 * x + 1)
        return found[0], np.ascontiguousarray(found[1:, :, y:, x:]).reshape(-1, depth, n_y, n_x)
