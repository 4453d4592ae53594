"""The images of tiles as a matrix, which takes off what any kernel explains, by conjugate gradients."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.fft

from ..core.validation import Array
from .lags import taper
from .tiles import Part

#: Iterations at most, and the share of the energy at which they end.
_ITERATIONS, _SETTLED = 60, 1e-7


@dataclass(frozen=True, eq=False)
class TileDesign:
    """The images of the tiles as a matrix that turns taps, some outside of the support too, into target pixels."""

    parts: list[Part]
    size: list[int]  # sides of the transforms
    spectra: list[npt.NDArray[np.complex128]]  # of the blocks of each part
    kept: list[npt.NDArray[np.bool_]]  # which residuals lie so far inside that the block holds all that the taps reach
    taps: npt.NDArray[np.bool_]  # which taps there are, by lag
    #: About the inverse of the images' power by frequency, by which conjugate gradients are preconditioned
    inverse: Array
    level: float  # what the images were divided by

    @classmethod
    def of(cls, parts: list[Part], more: Sequence[tuple[int, int]] = ((0, 0), (0, 0))) -> "TileDesign":
        """Lay out the support and so many taps more ahead of it and beyond it, along rows and columns."""
        plan = parts[0][0].geometry
        size = [scipy.fft.next_fast_len(max(int(p.blocks.shape[k]) for _, p in parts), real=True) for k in (2, 3)]
        level = max(float(np.abs(p.blocks).max()) for _, p in parts) or 1.0
        kept, spectra, power = [], [], np.zeros((size[0], size[1] // 2 + 1))
        for _, part in parts:
            spectrum = np.empty((*part.blocks.shape[:2], *power.shape), dtype=np.complex128)
            total = np.zeros(power.shape)
            for at in np.ndindex(part.blocks.shape[:2]):  # one by one, since copies of all of them would be large
                block = part.blocks[at] / level
                spectrum[at] = scipy.fft.rfft2(block, size, workers=1)
                total += np.abs(scipy.fft.rfft2(block - block.mean(), size, workers=1)) ** 2
            spectra.append(spectrum)
            power += total
            _, rows, cols = part.left.shape
            inside = np.zeros((rows, cols), dtype=bool)
            (top, bottom), (left, right) = (
                (-(-lo // step), -(-hi // step)) for (lo, hi), step in zip(more, plan.stride, strict=True)
            )
            inside[top : max(0, rows - bottom), left : max(0, cols - right)] = True
            kept.append(part.known & inside)
        taps = np.zeros(size, dtype=bool)
        sides = zip(plan.kernel_shape, size, more, strict=True)
        taps[np.ix_(*[np.arange(-lo, k + hi) % n for k, n, (lo, hi) in sides])] = True
        near = scipy.fft.irfft2(power, size, workers=1) * np.multiply.outer(*map(taper, size))
        smooth = scipy.fft.rfft2(near, workers=1).real
        inverse = 1.0 / np.maximum(smooth, 1e-8 * max(float(smooth.max()), 1e-22))
        return cls(parts, size, spectra, kept, taps, inverse, level)

    def forward(self, taps: Array) -> list[Array]:
        """Return what taps of each source, by lag, make of the tiles."""
        own = np.conj(scipy.fft.rfft2(taps, workers=1))[:, None]
        out = []
        for (observation, part), spectra, kept in zip(self.parts, self.spectra, self.kept, strict=True):
            (step, pace), (_, rows, cols) = observation.geometry.stride, kept.shape
            total = spectra[0] * own[0]
            for one, taken in zip(spectra[1:], own[1:], strict=True):
                total += one * taken
            made = scipy.fft.irfft2(total, self.size, workers=1)
            made = made[:, : step * rows : step, : pace * cols : pace]
            out.append(np.where(kept, made if part.root is None else made * part.root, 0.0))
        return out

    def adjoint(self, tiles: list[Array]) -> Array:
        """Return the product of the transpose."""
        total = np.zeros((self.spectra[0].shape[0], *self.size))
        for (observation, part), spectra, tile in zip(self.parts, self.spectra, tiles, strict=True):
            (step, pace), (n, rows, cols) = observation.geometry.stride, tile.shape
            apart = np.zeros((n, *self.size))
            apart[:, : step * rows : step, : pace * cols : pace] = tile if part.root is None else tile * part.root
            of_tiles = np.conj(scipy.fft.rfft2(apart, workers=1))
            product = np.stack([(of_tiles * one).sum(axis=0) for one in spectra])
            total += scipy.fft.irfft2(product, self.size, workers=1)
        return np.where(self.taps, total, 0.0)

    def without(self, tiles: Sequence[Array]) -> list[Array]:
        """Return tiles less what the taps explain of them, by conjugate gradients."""

        def prepared(taps: Array) -> Array:
            spectrum = scipy.fft.rfft2(taps, workers=1) * self.inverse
            return np.where(self.taps, scipy.fft.irfft2(spectrum, self.size, workers=1), 0.0)

        left = [np.where(kept, tile, 0.0) for tile, kept in zip(tiles, self.kept, strict=True)]
        moment = self.adjoint(left)
        step = z = prepared(moment)
        energy = float(np.vdot(moment, z))
        whole = energy
        for _ in range(_ITERATIONS):
            made = self.forward(step)
            curvature = sum(float(np.vdot(m, m)) for m in made)
            if not curvature > 0 or not energy > 0:
                break
            left = [one - energy / curvature * m for one, m in zip(left, made, strict=True)]
            moment = self.adjoint(left)
            z = prepared(moment)
            before, energy = energy, float(np.vdot(moment, z))
            if energy < _SETTLED * whole:
                break
            step = z + energy / before * step
        return left
