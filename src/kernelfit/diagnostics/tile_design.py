"""The images of tiles as a matrix, which takes off what any kernel explains, by conjugate gradients."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.fft
import scipy.special

from ..core.validation import Array
from .lags import taper
from .tiles import Part, root_of

#: Iterations at most, fewer of many sources, whose products are dear, and the share of the energy at which they end.
_ITERATIONS, _PRODUCTS, _FEWEST, _SETTLED = 60, 180, 20, 1e-7


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
        for _ in range(min(_ITERATIONS, max(_FEWEST, _PRODUCTS // len(moment)))):
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


#: A linear displacement is told where chance would make as much of it in so few cases, ...
_UNLIKELY = 3e-5
#: ... and where this share of the variance of the displacements at most is not linear.
_LINEAR = 0.2


def moved(parts: list[Part]) -> str | None:
    """Return rotation and scale if the target's tiles are displaced linearly with their place, in words."""
    places, moves, sizes = [], [], []
    for observation, part in parts:
        root = np.where(part.known, root_of(part, part.known), 1.0)
        targets, model = part.left / root + part.model * part.known, part.model * part.known
        plan = observation.geometry
        middle = 0.5 * (np.array(part.left.shape[1:]) - 1) + plan.offset - 0.5 * (np.array(plan.target_shape) - 1)
        for start, target, made in zip(part.starts, targets, model, strict=True):
            found = _displacement(made, target)
            if found is not None:
                places.append(np.array(start) + middle)
                moves.append(found[0])
                sizes.append(found[1])
    if len(places) < 6:
        return None
    design = np.column_stack([np.ones(len(places)), np.array(places)])
    d = np.array(moves)
    weights = np.minimum(np.sqrt(sizes) / np.median(np.sqrt(sizes)), 1.0)
    for _ in range(3):
        table = np.linalg.lstsq(design * weights[:, None], d * weights[:, None], rcond=None)[0]
        off = np.linalg.norm(d - design @ table, axis=1)
        weights = weights * np.minimum(1.0, 2 * np.median(off) / np.maximum(off, 1e-12))
    mean = np.average(d, axis=0, weights=weights**2)
    whole = float((weights[:, None] ** 2 * (d - mean) ** 2).sum())
    rest = float((weights[:, None] ** 2 * (d - design @ table) ** 2).sum())
    n, free = 4, 2 * len(d) - 6
    ratio = (whole - rest) / n / max(rest / free, 1e-12)
    if not (rest < _LINEAR * whole and scipy.special.fdtrc(n, free, ratio) < _UNLIKELY):
        return None
    turn, scale = 0.5 * (table[1, 1] - table[2, 0]), 1.0 + 0.5 * (table[1, 0] + table[2, 1])
    return (
        f"the target is turned by {math.degrees(turn):.3g} degrees (counter-clockwise) and magnified {scale:.5g} times "
        f"against the image: its parts are displaced by up to {np.abs(design @ table - mean).max():.2g} pixels"
    )


def _displacement(model: Array, target: Array) -> tuple[Array, float] | None:
    """Return by how many rows and columns a tile of the target is displaced against its prediction; and its detail."""
    m, y = model - model.mean(), target - target.mean()
    window = np.multiply.outer(*(np.hanning(n + 2)[1:-1] for n in m.shape))
    cross = np.conj(scipy.fft.rfft2(m * window, workers=1)) * scipy.fft.rfft2(y * window, workers=1)
    size = np.abs(cross)
    if not size.max() > 0:
        return None
    near = scipy.fft.irfft2(cross / np.sqrt(size + 1e-6 * size.max()), m.shape, workers=1)
    reach = [n // 3 for n in m.shape]
    lags = [np.arange(-k, k + 1) for k in reach]
    part = near[np.ix_(lags[0] % m.shape[0], lags[1] % m.shape[1])]
    at = np.unravel_index(int(np.argmax(part)), part.shape)
    whole = np.array([int(lags[k][at[k]]) for k in (0, 1)])
    for _ in range(3):  # the rest by the slope of the prediction
        cut = [slice(max(1, 1 + int(s)), n - 1 + min(0, int(s))) for s, n in zip(np.rint(whole), m.shape, strict=True)]
        back = [slice(c.start - int(s), c.stop - int(s)) for c, s in zip(cut, np.rint(whole), strict=True)]
        if any(b.start < 1 or b.stop > n - 1 or b.stop - b.start < 8 for b, n in zip(back, m.shape, strict=True)):
            return None
        dy = 0.5 * (m[back[0].start + 1 : back[0].stop + 1, back[1]] - m[back[0].start - 1 : back[0].stop - 1, back[1]])
        dx = 0.5 * (m[back[0], back[1].start + 1 : back[1].stop + 1] - m[back[0], back[1].start - 1 : back[1].stop - 1])
        base, seen = m[back[0], back[1]], y[cut[0], cut[1]]
        design = np.stack([-dy.ravel(), -dx.ravel(), base.ravel(), np.ones(base.size)], axis=1)
        found = np.linalg.lstsq(design, seen.ravel(), rcond=1e-6)[0]
        if not abs(found[2]) > 0.1:
            return None
        step = np.clip(found[:2] / found[2], -1.0, 1.0)
        before = np.rint(whole)
        whole = before + step
        if np.array_equal(np.rint(whole), before):
            break
    return whole, float((dy**2).sum() + (dx**2).sum())
