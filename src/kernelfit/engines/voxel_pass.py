"""One pass over the voxels of a volume by transforms along all three axes, block by block.

With the extended volume P and taps c, ``m[t] = sum_p c[p] P[t + p]``. A block of P, which overlaps its neighbours by
what a kernel's side exceeds one, gives m exactly on all target pixels whose footprints lie in it; the weighted residual
there, zero elsewhere, gives its products with P from the same spectrum. With a stride m is formed at all pixels.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
import numpy.typing as npt
import scipy.fft

from ..compiled.threads import Progress, add, bands, counted, in_order
from ..core.validation import Array
from ..data.extent import Extent, Sides
from ..data.observation import refuse_nonfinite, refuse_tiny
from .passes import Weighing

#: Voxels that a block may have.
_ROOM = 2**20
_COUNTS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 96, 128, 256, 512)
#: Planes from which the mean of a volume is taken.
_PLANES = 16


@dataclass(frozen=True)
class Turned:
    """The order of the taps in a pass: the user's, or of a convolution that from last to first."""

    flipped: bool

    def to_user(self, taps: Array) -> Array:
        """Turn arrays (..., planes, rows, cols) of a pass into those of the user's kernels, and back."""
        return np.ascontiguousarray(taps[..., ::-1, ::-1, ::-1]) if self.flipped else taps

    from_user = to_user


@dataclass(frozen=True)
class _Blocks:
    """How so many places along each axis are cut into blocks."""

    torus: Sides  # sides of the transforms
    step: Sides  # places of a block
    starts: list[Sides]

    @classmethod
    def of(cls, places: Sides, halo: Sides, stride: Sides = (1, 1, 1)) -> "_Blocks":
        """Return the cheapest blocks: few voxels in all, and so few in each that the cache holds them."""
        axes = []
        for n, h, s in zip(places, halo, stride, strict=True):
            steps = {s * -(-n // (count * s)) for count in _COUNTS}
            axes.append([(step, scipy.fft.next_fast_len(step + h, real=True)) for step in sorted(steps)])
        best, least = (math.inf, math.inf), None
        for some in itertools.product(*axes):
            size = math.prod(length for _, length in some)
            blocks = math.prod(-(-n // step) for n, (step, _) in zip(places, some, strict=True))
            cost = (size if size > _ROOM else 0, blocks * size * math.log2(2 * size))
            if cost < best:
                best, least = cost, some
        assert least is not None
        step, torus = (tuple(own) for own in zip(*least, strict=True))
        grid = itertools.product(*(range(0, n, s) for n, s in zip(places, step, strict=True)))
        return cls(torus, step, list(grid))


def _read(extent: Extent, start: Sequence[int], shape: Sequence[int], less: float = 0.0) -> Array:
    """Return a part of the extended volumes, zero where they have no voxels, elsewhere less a number."""
    out = np.zeros((extent.n_sources, *shape))
    inside = [
        slice(max(0, -at), max(0, min(at + k, n) - at)) for at, k, n in zip(start, shape, extent.extended, strict=True)
    ]
    if all(part.stop > part.start for part in inside):
        corner = [at + part.start for at, part in zip(start, inside, strict=True)]
        block = extent.block(corner, [part.stop - part.start for part in inside])
        out[:, *inside] = block - less if less else block
    return out


def refuse(extent: Extent) -> NoReturn:
    """Say which voxels made the sums overflow or turn into NaN."""
    for one in extent.observations:
        readers = (*one.sources, *one.targets)
        if not all(np.isfinite(reader.block(0, 0, reader.shape)).all() for reader in readers):
            refuse_nonfinite(one)
    refuse_nonfinite(extent.first)


def residual(
    extent: Extent, planes: Sequence[Weighing], taps: Array, workers: int, progress: Progress | None = None
) -> tuple[Array, Array, float]:
    """Return the weighted moments of the residual of user's taps, its products with the backgrounds, and its energy."""
    moment, beside, energy = _residual(extent, planes, taps, workers, progress)
    if not (np.isfinite(moment).all() and math.isfinite(energy)):
        refuse(extent)
    return moment, beside, energy


def _residual(
    extent: Extent, planes: Sequence[Weighing], taps: Array, workers: int, progress: Progress | None
) -> tuple[Array, Array, float]:
    turned, kernel, stride = Turned(extent.first.geometry.flipped), extent.kernel, extent.stride
    halo = tuple(k - 1 for k in kernel)
    blocks = _Blocks.of(tuple(s * (n - 1) + 1 for s, n in zip(stride, extent.size, strict=True)), halo, stride)
    torus, axes = blocks.torus, (1, 2, 3)
    spectrum = np.conj(scipy.fft.rfftn(turned.from_user(taps), torus, axes=axes, workers=workers))
    shape = [s + h for s, h in zip(blocks.step, halo, strict=True)]

    @np.errstate(all="ignore")  # of each thread
    def band(starts: list[Sides]) -> tuple[Array, ...]:
        total, beside, energy = np.zeros(spectrum.shape, complex), np.zeros(len(planes[0].coefficients)), np.zeros(1)
        for start in starts:
            values = scipy.fft.rfftn(_read(extent, start, shape), torus, axes=axes, workers=1, overwrite_x=True)
            model = scipy.fft.irfftn(np.einsum("szyx,szyx->zyx", spectrum, values), torus, workers=1)
            first = [at // s for at, s in zip(start, stride, strict=True)]
            count = [
                min(-(-b // s), n - at) for b, s, n, at in zip(blocks.step, stride, extent.size, first, strict=True)
            ]
            used = model[tuple(slice(0, s * (n - 1) + 1, s) for s, n in zip(stride, count, strict=True))]
            left = np.zeros(torus)
            places = left[tuple(slice(0, s * (n - 1) + 1, s) for s, n in zip(stride, count, strict=True))]
            work = np.empty(count[1:])
            for z in range(count[0]):
                plane = planes[first[0] + z]
                plane.read(work, first[1], first[2])
                work -= used[z]
                energy += plane.weigh(work, first[1], first[2])
                beside += plane.beside(work, first[1], first[2])
                places[z] = work
            values *= np.conj(scipy.fft.rfftn(left, workers=1, overwrite_x=True))
            total += values
        return total, beside, energy

    work = bands(blocks.starts)
    total, beside, energy = add(counted(in_order(work, band, workers), len(work), progress))
    moment = scipy.fft.irfftn(total, torus, axes=axes, workers=workers)[:, : kernel[0], : kernel[1], : kernel[2]]
    return turned.to_user(np.ascontiguousarray(moment)), beside, float(energy[0])


def lag_sums(extent: Extent, workers: int, *, about_mean: bool) -> Array:
    """Return ``sum_t P_s[t] P_s'[t + lag]`` of extended volumes, perhaps about a mean; with a stride a part of that."""
    halo = tuple(k - 1 for k in extent.kernel)
    blocks, axes = _Blocks.of(extent.extended, tuple(2 * h for h in halo)), (1, 2, 3)
    less = 0.0
    if about_mean:
        depth, rows, cols = extent.extended
        some = range(0, depth, max(1, depth // _PLANES))
        means = [float(extent.block((at, 0, 0), (1, rows, cols)).mean()) for at in some]
        less = float(np.mean(means))

    @np.errstate(all="ignore")  # of each thread
    def band(starts: list[Sides]) -> tuple[Array, ...]:
        n = extent.n_sources
        total = np.zeros((n, n, *blocks.torus[:2], blocks.torus[2] // 2 + 1), complex)
        for start in starts:
            around = [at - h for at, h in zip(start, halo, strict=True)]
            wide = _read(extent, around, [s + 2 * h for s, h in zip(blocks.step, halo, strict=True)], less)
            own = wide[:, *(slice(h, h + s) for s, h in zip(blocks.step, halo, strict=True))]
            first = np.conj(scipy.fft.rfftn(own, blocks.torus, axes=axes, workers=1))
            second = scipy.fft.rfftn(wide, blocks.torus, axes=axes, workers=1)
            for s, t in np.ndindex(n, n):
                total[s, t] += first[s] * second[t]
        return (total,)

    (total,) = add(in_order(bands(blocks.starts), band, workers))
    lags: npt.NDArray[np.float64] = scipy.fft.irfftn(total, blocks.torus, axes=(2, 3, 4), workers=workers)
    if not np.isfinite(lags).all():
        refuse(extent)
    if np.abs(lags).max() < math.prod(extent.size) * 2.0**-1010:
        for one in extent.observations:
            refuse_tiny(one)
    return lags[:, :, *(slice(0, 2 * h + 1) for h in halo)] / math.prod(extent.stride)
