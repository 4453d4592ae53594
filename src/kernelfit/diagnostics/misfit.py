"""Whether the model holds: what of the residual the image explains all the same, from a sample of tiles.

Under the right kernel the residual is noise, which nothing made of the image alone can predict. So each misfit is a set
of features f of the image and the kernel, of which the sums ``g_b = sum_t f[t] r[t]`` over small cells b have the mean
zero unless the misfit is there. Whether they have is what Hotelling's test says (Annals of Mathematical Statistics 2
(1931) 360), whatever the noise's variance from place to place and its correlation within a cell. The features are those
of a local change of the kernel: the prediction and its first and second derivatives, for a gain, a shift and a change
of width. They are taken alone beside powers of the prediction and slopes (a filter that is not linear); times the
place (a kernel that varies, of which a rotation or a scale is a part); and times 1 and -1 on alternate rows. A kernel
wider than its support shows in the correlation of the residual with the whitened image at lags outside of it.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.fft
import scipy.linalg
import scipy.special

from ..core.estimate import Estimate
from ..core.findings import Finding, Verdict
from ..core.validation import Array
from ..data.observation import Observation, Weights
from . import whiteness
from .quantization import ALONE, ROUNDING

Single = npt.NDArray[np.float32]
Part = tuple[Observation, whiteness.Sample]
#: Tiles looked at: one for so many pixels, at least and at most so many; pairs at most; the side of a tile in pixels of
#: the image, and the least in those of the target.
_PIXELS_PER_TILE, _FEWEST, _MOST, _PAIRS, _SIDE, _LEAST = 2**17, 9, 64, 16, 64, 16
#: Pixels up to which a pair is small, and its tiles.
_SMALL = 2**18, 16
#: Rows and columns of a tile that it takes to have derivatives.
_NARROW = 8
#: Side of the cells, in pixels of the target, that count as independent.
_CELL = 16
#: A standard deviation of the prediction, relative to its largest value, that is rounding.
_FLAT = 1e-9
#: A misfit is told where chance would make as much of it in so few cases; ...
_CHANCE = 3e-5
#: ... a correlation outside the support from so many standard deviations on, and that near the support in sum.
_LAG, _RING = 6.5, 9.0
#: The rings about the support, in pixels; and from where on what is seen is chance.
_RINGS, _FAR = (1, 2, 4), 16
#: Tiles whose kernels differ, in standard deviations.
_TILES = 7.0
#: Below this share of the target's root mean square the residual is rounding.
_ROUNDING_SHARE = 1e-6
#: A misfit is told beside a greater one if it explains this share of what that does.
_BESIDE = 0.5
#: Pixels more than taps; noise that decides whether a pixel is saturated, in standard deviations; margin of the wider
#: support that is compared; iterations of it; a constant counts from so many standard errors on; share of clipped
#: pixels; the displacements may differ from linear ones by this share of their variance.
_SPARE, _REACH, _MARGIN, _ITERATIONS, _OFFSET, _CLIPPED, _LINEAR = 32, 4.0, 6, 60, 6.0, 0.003, 0.2
_SETTLED, _LIKELY, _TRACE = 1e-7, 0.01, 0.1
#: The features of a local change of the kernel, after the constant, and those of a filter that is not linear.
_LOCAL, _CURVED, _N = range(1, 7), range(7, 13), 13
#: Tiles at once, so that the cache holds their features.
_AT_ONCE = 4


@dataclass(frozen=True)
class _Test:
    """What speaks for a misfit: the chance that noise would show as much, and the share of the residual it explains."""

    chance: float
    share: float
    detail: str
    at: tuple[int, int] = (0, 0)


@dataclass(frozen=True, eq=False)
class _Cells:
    """Sums over cells.

    Attributes
    ----------
    scores : ndarray, shape (features, 2, 2, cells)
        ``sum f r`` over the even and odd rows and columns of each cell.
    energies : ndarray, shape (features, cells)
        ``sum f^2``.
    gram : ndarray, shape (features, features)
        ``sum f f'`` over all.
    place : ndarray, shape (2, cells)
        Row and column of each, from -1 to 1 over the longer side of the target.
    tile : ndarray of int, shape (cells,)
        The tile it lies in.
    energy : float
        ``sum r^2``.
    """

    scores: Array
    energies: Array
    gram: Array
    place: Array
    tile: npt.NDArray[np.int64]
    energy: float

    def alone(self, which: Sequence[int], beside: Sequence[int]) -> tuple[Array, Array]:
        """Return the scores of some features less what others share with them, and their Gram matrix."""
        total = self.scores.sum(axis=(1, 2))
        mixed = self.gram[np.ix_(beside, which)]
        share = _solved(self.gram[np.ix_(beside, beside)], mixed)
        return total[which] - share.T @ total[beside], self.gram[np.ix_(which, which)] - share.T @ mixed

    def displaced(self) -> bool:
        """Return whether it is likely that the field is displaced linearly with the place."""
        return _hotelling(*self.modulated(list(self.place), [2, 3]), self.energy)[0] < _LIKELY

    def modulated(self, factors: Sequence[Array], which: Sequence[int]) -> tuple[Array, Array]:
        """Return the scores of features times functions of the place, less the features themselves; their energies."""
        total, own = self.scores.sum(axis=(1, 2))[which], self.energies[which]
        scores, energies = [], []
        for factor in factors:
            mean = (own @ factor) / np.maximum(own.sum(axis=1), 1e-300)
            around = factor - mean[:, None]
            scores.append(total * around)
            energies.append((own * around**2).sum(axis=1))
        return np.concatenate(scores), np.diag(np.concatenate(energies))


def _solved(gram: Array, right: Array) -> Array:
    """Solve normal equations of features some of which may be zero or alike."""
    scale = np.sqrt(np.maximum(np.diag(gram), 1e-300))
    found = np.linalg.lstsq(gram / np.outer(scale, scale), right / scale[:, None], rcond=1e-5)[0]
    return np.asarray(found / scale[:, None])


def _hotelling(scores: Array, gram: Array, energy: float) -> tuple[float, float, str]:
    """Return the chance that scores (features, cells) have the mean zero, what they explain of r, and both in words."""
    size = np.sqrt(np.einsum("jb,jb->j", scores, scores))
    kept = size > 0
    scores, gram = scores[kept] / size[kept, None], gram[np.ix_(kept, kept)]
    count = int(np.count_nonzero(scores.any(axis=0)))
    values, vectors = np.linalg.eigh(scores @ scores.T)
    good = values > 1e-6 * len(scores)
    n = int(good.sum())
    if n == 0 or count <= n + 1:
        return 1.0, 0.0, ""
    found = float(np.sum((vectors[:, good].T @ scores.sum(axis=1)) ** 2 / values[good]))
    ratio = found / n * (count - n) / max(count - found, 1e-9 * count)
    total = scores.sum(axis=1)[:, None] * size[kept, None]
    share = float((total * _solved(gram, total)).sum()) / energy if energy > 0 else 0.0
    return float(scipy.special.fdtrc(n, count - n, ratio)), share, f"F({n}, {count - n}) = {ratio:.3g}"


def _prepared(part: whiteness.Sample) -> tuple[Single, float, float]:
    """Return the prediction less its mean, over its standard deviation, and quantiles of 5 and 95 %."""
    around = part.model - float(part.model[part.known].mean())
    known = part.known[:, ::3, ::3] if part.known[:, ::3, ::3].any() else part.known
    step = 1 if known is part.known else 3
    seen = around[:, ::step, ::step][known]
    spread = float(seen.std())
    if not spread > _FLAT * float(np.abs(part.model).max(initial=0.0)):
        spread = math.inf  # a prediction that varies by rounding alone tells of nothing
    m: Single = (around / spread).astype(np.float32)
    if part.root is not None:
        m[~part.known] = 0.0
    low, high = np.quantile(m[:, ::step, ::step][known], [0.05, 0.95])
    return m, float(low), float(high)


def _features(part: whiteness.Sample, prepared: tuple[Single, float, float], now: slice) -> Single:
    """Return the features, shape (13, tiles, rows, cols): a constant, those of `_LOCAL` and those of `_CURVED`."""
    m, known = prepared[0][now], part.known[now]
    out = np.zeros((_N, *m.shape), dtype=np.float32)
    inner = out[:, :, 1:-1, 1:-1]

    def at(row: int, col: int) -> Single:
        return m[:, 1 + row : m.shape[1] - 1 + row, 1 + col : m.shape[2] - 1 + col]

    below, above, right, left, here = at(1, 0), at(-1, 0), at(0, 1), at(0, -1), at(0, 0)
    out[0], out[1] = 1.0, m
    inner[2], inner[3] = below - above, right - left
    inner[4], inner[5] = below + above - 2 * here, right + left - 2 * here
    inner[6] = at(1, 1) + at(-1, -1) - at(1, -1) - at(-1, 1)
    dy, dx = inner[2], inner[3]
    slope = dy * dy + dx * dx
    inner[7] = np.sqrt(slope)
    # the curvature of the lines of equal prediction times the slope, which is what a median filter evens out
    bend = dx * dx * inner[4] - 0.5 * dx * dy * inner[6] + dy * dy * inner[5]
    inner[8] = bend / (slope + np.float32(1e-6 * float(slope.mean()) + 1e-30))
    out[9] = m * m
    out[10] = out[9] * m
    out[11], out[12] = np.maximum(m - np.float32(prepared[2]), 0), np.minimum(m - np.float32(prepared[1]), 0)
    if part.root is not None:
        out *= part.root[now].astype(np.float32)
        # a neighbour that does not count is not known
        whole = known.copy()
        whole[:, 1:-1, 1:-1] = (
            known[:, 1:-1, 1:-1] & known[:, 2:, 1:-1] & known[:, :-2, 1:-1] & known[:, 1:-1, 2:] & known[:, 1:-1, :-2]
        )
        out[2:9, ~whole] = 0.0
        out[:, ~known] = 0.0
    return out


def _cells(parts: list[Part]) -> _Cells:
    """Return the sums over cells of some samples."""
    scores, energies, places, tiles = [], [], [], []
    gram, energy, before = np.zeros((_N, _N)), 0.0, 0
    level = math.sqrt(sum(float(np.vdot(s.left, s.left)) for _, s in parts)) or 1.0
    for observation, part in parts:
        n, rows, cols = part.left.shape
        side = [max(2, min(_CELL, k // 4 // 2 * 2)) for k in (rows, cols)]
        down, across = rows // side[0], cols // side[1]
        # sums over the even and the odd rows and columns of each cell
        y, x = (np.arange(count * k) for count, k in zip((down, across), side, strict=True))
        sum_rows = np.zeros((2 * down, rows), dtype=np.float32)
        sum_cols = np.zeros((cols, 2 * across), dtype=np.float32)
        sum_rows[2 * (y // side[0]) + y % 2, y] = sum_cols[x, 2 * (x // side[1]) + x % 2] = 1.0
        left = (part.left / level).astype(np.float32)
        energy += float(np.vdot(left, left))
        sums, squares = np.empty((_N, n, 2 * down, 2 * across)), np.empty((7, n, down, across))
        prepared = _prepared(part)
        for i in range(0, n, _AT_ONCE):
            now = slice(i, i + _AT_ONCE)
            features = _features(part, prepared, now)
            sums[:, now] = sum_rows @ (features * left[now] @ sum_cols)
            few = features[:, :, ::2, ::2]  # enough for what only centres and scales
            squares[:, now] = sum_rows[::2, ::2] @ (np.square(few[:7]) @ sum_cols[::2, ::2])
            flat = few.reshape(_N, -1)
            gram += 4.0 * (flat @ flat.T)
        sums = sums.reshape(_N, n, down, 2, across, 2).transpose(0, 3, 5, 1, 2, 4)
        scores.append(sums.reshape(_N, 2, 2, -1))
        energies.append(4.0 * squares.reshape(7, -1))
        plan = observation.geometry
        half = 0.5 * max(plan.target_shape)
        at = np.array(part.starts, dtype=np.float64) + plan.offset - 0.5 * (np.array(plan.target_shape) - 1)
        rows_at = at[:, 0, None] + side[0] * (np.arange(down) + 0.5) - 0.5
        cols_at = at[:, 1, None] + side[1] * (np.arange(across) + 0.5) - 0.5
        grid = np.stack(np.broadcast_arrays(rows_at[:, :, None], cols_at[:, None, :])) / half
        places.append(grid.reshape(2, -1))
        tiles.append(np.repeat(before + np.arange(n), down * across))
        before += n
    return _Cells(
        np.concatenate(scores, axis=-1),
        np.concatenate(energies, axis=-1),
        gram,
        np.concatenate(places, axis=-1),
        np.concatenate(tiles),
        energy,
    )


@dataclass(frozen=True, eq=False)
class _Lags:
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


def _lags(parts: list[Part], source: int, exact: bool) -> _Lags:
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
        near = scipy.fft.irfft2(power, size, workers=1) * np.multiply.outer(*map(_taper, size)).astype(np.float32)
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
    lags = _Lags(score, 1.0, count, plan.kernel_shape)
    beyond = lags.beyond()
    far = beyond > min(0.5 * beyond.max(), _FAR)
    spread = max(1.0, math.sqrt(float(np.mean(score[far] ** 2)))) if far.any() else 1.0
    return _Lags(score, spread, count, plan.kernel_shape)


def _correlation(left: Single, spectra: npt.NDArray[np.complex64], size: Sequence[int]) -> Array:
    """Return the sum over tiles of ``r[t] f[t + u]`` by lag u."""
    product = (np.conj(scipy.fft.rfft2(left, workers=1)) * spectra).sum(axis=0)
    return np.asarray(scipy.fft.irfft2(product, size, workers=1), dtype=np.float64)


def _halved(values: Single) -> Single:
    """Return the sums over squares of two by two."""
    rows = values[:, ::2] + values[:, 1::2]
    return np.asarray(rows[:, :, ::2] + rows[:, :, 1::2])


def _taper(n: int) -> Array:
    """Return a window over lags that leaves a quarter of them."""
    lag = np.minimum(np.arange(n), n - np.arange(n))
    return np.where(lag < n / 4, 0.5 + 0.5 * np.cos(4 * np.pi * lag / n), 0.0)


@dataclass(frozen=True, eq=False)
class _Design:
    """The images of the tiles as a matrix that turns taps, also some outside of the support, into the target's pixels.

    Attributes
    ----------
    parts : list of (Observation, Sample)
    size : list of int
        Sides of the transforms.
    spectra : list of ndarray
        Of the blocks of each part.
    kept : list of ndarray of bool
        Which residuals lie so far inside that the block holds all that the taps reach.
    taps : ndarray of bool
        Which taps there are, by lag.
    inverse : ndarray
        About the inverse of the images' power by frequency, by which conjugate gradients are preconditioned.
    """

    parts: list[Part]
    size: list[int]
    spectra: list[npt.NDArray[np.complex128]]
    kept: list[npt.NDArray[np.bool_]]
    taps: npt.NDArray[np.bool_]
    inverse: Array

    @classmethod
    def of(cls, parts: list[Part], more: Sequence[tuple[int, int]] = ((0, 0), (0, 0))) -> "_Design":
        """Lay out the support and so many taps more ahead of it and beyond it, along rows and columns."""
        plan = parts[0][0].geometry
        size = [scipy.fft.next_fast_len(max(int(p.blocks.shape[k]) for _, p in parts), real=True) for k in (2, 3)]
        level = max(float(np.abs(p.blocks).max()) for _, p in parts) or 1.0
        kept, spectra, power = [], [], np.zeros((size[0], size[1] // 2 + 1))
        for _, part in parts:
            blocks = part.blocks / level
            spectra.append(scipy.fft.rfft2(blocks, size, workers=1))
            around = blocks - blocks.mean(axis=(2, 3), keepdims=True)
            power += (np.abs(scipy.fft.rfft2(around, size, workers=1)) ** 2).sum(axis=(0, 1))
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
        near = scipy.fft.irfft2(power, size, workers=1) * np.multiply.outer(*map(_taper, size))
        smooth = scipy.fft.rfft2(near, workers=1).real
        return cls(parts, size, spectra, kept, taps, 1.0 / np.maximum(smooth, 1e-8 * max(float(smooth.max()), 1e-300)))

    def forward(self, taps: Array) -> list[Array]:
        """Return what taps of each source, by lag, make of the tiles."""
        own = np.conj(scipy.fft.rfft2(taps, workers=1))[:, None]
        out = []
        for (observation, part), spectra, kept in zip(self.parts, self.spectra, self.kept, strict=True):
            (step, pace), (_, rows, cols) = observation.geometry.stride, kept.shape
            made = scipy.fft.irfft2((spectra * own).sum(axis=0), self.size, workers=1)
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
            product = (np.conj(scipy.fft.rfft2(apart, workers=1)) * spectra).sum(axis=1)
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


def _with(parts: list[Part], left: Sequence[Array], kept: Sequence[npt.NDArray[np.bool_]]) -> list[Part]:
    """Return samples with other residuals and fewer pixels."""
    return [
        (o, dataclasses.replace(p, left=np.where(k, r, 0.0), known=k, root=_root(p, k)))
        for (o, p), r, k in zip(parts, left, kept, strict=True)
    ]


def _root(part: whiteness.Sample, known: npt.NDArray[np.bool_]) -> Array:
    return np.where(known, 1.0 if part.root is None else part.root, 0.0)


def _energy(tiles: Sequence[Array]) -> float:
    return sum(float(np.vdot(t, t)) for t in tiles)


def misfits(
    observations: Sequence[Observation], estimate: Estimate, weights: Sequence[Weights] | None, workers: int
) -> list[Finding]:
    """Return what speaks against the model of a fit of one target, the worst first; nothing if all seems well.

    Parameters
    ----------
    observations : sequence of Observation
        The pairs that share the kernel, of one target each.
    estimate : Estimate
        The fit.
    weights : sequence of arrays, optional
        One for the used part of each target, zero where a pixel does not count; read in blocks.
    workers : int
        Number of threads; one does it all, the sample being small.

    Returns
    -------
    list of Finding
    """
    if (
        not estimate.noise_std > 0
        or estimate.image_noise > 0
        or any(f.verdict is Verdict.NOT_CONVERGED for f in estimate.findings)
    ):
        return []  # what is left tells of the iterations, or of the image's noise
    if estimate.df_resid < max(_SPARE, estimate.rank):
        return []  # the fit may have taken any misfit in
    parts = _read(observations, estimate, weights)
    energy = _energy([p.left for _, p in parts])
    if not energy > _ROUNDING_SHARE**2 * _energy([p.targets for _, p in parts]):
        return []
    biased = estimate.solver != "LeastSquares()" or estimate.method == "wiener"
    count = sum(int(p.known.sum()) for _, p in parts)
    if biased:  # what a prior holds back of the kernel is no misfit
        if 4 * estimate.kernel.size > count:
            return []
        inside = _Design.of(parts)
        parts = _with(parts, inside.without([p.left for _, p in parts]), inside.kept)
        if not _energy([p.left for _, p in parts]) > 0:
            return []
    integer = all(np.dtype(o.targets[0].array.dtype).kind in "iu" for o in observations)
    alike = all(p.root is None or bool((p.root[p.known] == 1).all()) for _, p in parts)  # in units of the pixels
    rounding = integer and alike and estimate.noise_std < ALONE * math.sqrt(ROUNDING)
    if any(min(p.left.shape[1:]) < _NARROW for _, p in parts):  # of signals the lags alone are looked at
        some = {} if rounding else _outside(parts)
        return [Finding(v, t.detail) for v, t in some.items()]
    cells = _cells(parts)
    found = _tests(cells, estimate)
    if not rounding:
        found |= _outside(parts)
    if rounding:  # rounding errors are alike where the image is flat: no kernel could do better
        found = {v: t for v, t in found.items() if v is Verdict.OFFSET}
    return _explained(parts, found, cells, integer, rounding, estimate) if found else []


def _read(observations: Sequence[Observation], estimate: Estimate, weights: Sequence[Weights] | None) -> list[Part]:
    """Read some tiles of the pairs, or of some of them."""
    n = len(observations)
    chosen = range(n) if n <= _PAIRS else [int((i + 0.5) * n / _PAIRS) for i in range(_PAIRS)]
    parts = []
    for at in chosen:
        observation = observations[at]
        own = None if weights is None else weights[at]
        side = [max(_LEAST, _SIDE // s) for s in observation.geometry.stride]
        n_pixels = observation.geometry.n_pixels
        most = _SMALL[1] if n_pixels <= _SMALL[0] else min(_MOST, max(_FEWEST, n_pixels // _PIXELS_PER_TILE))
        sides, starts = whiteness.places(observation, own, max(1, most // len(chosen)), (side[0], side[1]))
        starts = [(row // 2 * 2, col // 2 * 2) for row, col in starts]  # so that even rows are even ones in all
        part = whiteness.sample(observation, estimate, (at, n), own, sides, starts)
        parts.append((observation, _trimmed(observation, part, weights is not None)))
    return [(o, p) for o, p in parts if p.known.any()]


def _trimmed(observation: Observation, part: whiteness.Sample, weighted: bool) -> whiteness.Sample:
    """Leave out what is predicted so near to the ends of the values that count that noise decides whether it counts."""
    dtype = np.dtype(observation.targets[0].array.dtype)
    if not part.known.any() or not (weighted or dtype.kind in "iu"):
        return part
    root = 1.0 if part.root is None else np.where(part.known, part.root, 1.0)
    values, left = part.targets / root, part.left / root
    if weighted:
        low, high = float(values[part.known].min()), float(values[part.known].max())
    else:
        low, high = float(np.iinfo(dtype).min), float(np.iinfo(dtype).max)
    reach = _REACH * math.sqrt(float(np.mean(left[part.known] ** 2)))
    prediction = values - left
    known = part.known & (prediction > low + reach) & (prediction < high - reach)
    if np.array_equal(known, part.known):
        return part
    return _with([(observation, part)], [part.left], [known])[0][1]


def _tests(cells: _Cells, estimate: Estimate) -> dict[Verdict, _Test]:
    """Return the misfits that the sums over cells show."""
    (y, x), local = cells.place, list(_LOCAL)
    found: dict[Verdict, list[_Test]] = {}

    def add(verdict: Verdict, result: tuple[float, float, str], words: str) -> None:
        if result[0] < _CHANCE:
            found.setdefault(verdict, []).append(_Test(result[0], result[1], words.format(result[2])))

    add(Verdict.NONLINEAR, _hotelling(*cells.alone(list(_CURVED), [0, *local]), cells.energy), "{}")
    places = "the kernels of parts of the field differ, {}"
    add(Verdict.VARYING, _hotelling(*cells.modulated([y, x], local), cells.energy), places)
    add(Verdict.VARYING, _hotelling(*cells.modulated([y * y, x * x, x * y], local), cells.energy), places)
    gram = cells.gram[np.ix_(local, local)]
    for sign, what in (
        ([[1, 1], [-1, -1]], "even and odd rows"),
        ([[1, -1], [1, -1]], "even and odd columns"),
        ([[1, -1], [-1, 1]], "pixels of even and odd row plus column"),
    ):
        scores = np.einsum("fyxb,yx->fb", cells.scores[local], sign)
        add(Verdict.VARYING, _hotelling(scores, gram, cells.energy), f"{what} have kernels of their own, {{}}")
    total, n = cells.scores.sum(axis=(1, 2)), int(cells.tile.max()) + 1
    for f in local:
        z, spread, energies = (np.bincount(cells.tile, v, n) for v in (total[f], total[f] ** 2, cells.energies[f]))
        worth = energies / np.maximum(spread, 1e-300)  # of a tile: the kernel's error, that of the loud ones, is common
        own = total[f] - float(z @ worth) / max(float(energies @ worth), 1e-300) * cells.energies[f]
        z, spread, energies = (np.bincount(cells.tile, v, n) for v in (own, own**2, cells.energies[f]))
        z, spread, energies = z[spread > 0], spread[spread > 0], energies[spread > 0]
        excess = float((z**2 / spread).sum() - len(z)) / math.sqrt(2 * max(1, len(z)))
        if excess > _TILES:
            share = float((z**2 / energies).sum()) / cells.energy
            found.setdefault(Verdict.VARYING, []).append(
                _Test(0.0, share, f"the kernels of {len(z)} tiles differ by {excess:.3g} times what chance makes of it")
            )
    if estimate.background is None:
        add(Verdict.OFFSET, _hotelling(*cells.alone([0], local), cells.energy), "{}")
    return {verdict: max(some, key=lambda t: t.share) for verdict, some in found.items()}


def _outside(parts: list[Part]) -> dict[Verdict, _Test]:
    """Return whether the residual is correlated with an image at lags outside the support."""
    found = []
    for source in range(parts[0][1].blocks.shape[0]):
        lags = _lags(parts, source, exact=False)
        if lags.seen():
            lags = _lags(parts, source, exact=True)
        if lags.seen():
            beyond, at = lags.beyond(), lags.peak()
            plan = parts[0][0].geometry
            axes = zip(at, lags.score.shape, plan.kernel_shape, strict=True)
            signed = [int(u) if u < (n + k) / 2 else int(u) - n for u, n, k in axes]
            tap = [k - 1 - u if plan.flipped else u for u, k in zip(signed, plan.kernel_shape, strict=True)]
            near = (beyond > 0) & (beyond <= _MARGIN)
            share = float((lags.score[near] ** 2).sum() - lags.spread**2 * near.sum()) / max(1, lags.count)
            correlation = float(lags.score[at]) / math.sqrt(max(1, lags.count))
            sides = "x".join(map(str, plan.kernel_shape))
            detail = f"correlation {correlation:.2g} with the image at tap {tuple(tap)}, outside the {sides} kernel"
            found.append(_Test(0.0, max(share, correlation**2), detail, (signed[0], signed[1])))
    return {Verdict.SHAPE_TOO_SMALL: max(found, key=lambda t: t.share)} if found else {}


def _explained(
    parts: list[Part],
    found: dict[Verdict, _Test],
    cells: _Cells,
    integer: bool,
    rounding: bool,
    estimate: Estimate,
) -> list[Finding]:
    """Return what explains the most of the residual, and what is left to explain beside it."""
    tiles = [p.left for _, p in parts]
    if estimate.background is None and not found.keys() <= {Verdict.VARYING}:
        constant, rest = _constant(parts, integer)
        found.pop(Verdict.OFFSET, None)
        if constant is not None:
            found[Verdict.OFFSET] = constant
            without = _with(parts, rest, [p.known for _, p in parts])
            still = _tests(_cells(without), estimate) | ({} if rounding else _outside(without))
            still = _remaining(still, _energy(rest) / _energy(tiles), found)
            if not still.keys() - {Verdict.OFFSET}:
                found = {Verdict.OFFSET: constant}
            else:
                # a straight line comes nearer to a curve, or to what another place makes, if it need not meet zero
                for verdict in (Verdict.NONLINEAR, Verdict.SHAPE_TOO_SMALL):
                    if verdict in still:
                        share = still[verdict].share + constant.share
                        found[verdict] = dataclasses.replace(still[verdict], share=share)
                        found.pop(Verdict.OFFSET, None)
            found = {**{v: t for v, t in still.items() if v is not Verdict.OFFSET}, **found}
    if not found.keys() <= {Verdict.NONLINEAR, Verdict.OFFSET} and cells.displaced():
        moved = _moved(parts)
        if moved is not None:
            return [Finding(Verdict.MISALIGNED, moved)]
    if Verdict.SHAPE_TOO_SMALL in found:
        shape = found[Verdict.SHAPE_TOO_SMALL]
        wide = _Design.of(parts, _margins(parts, shape.at))
        before = [np.where(k, t, 0.0) for k, t in zip(wide.kept, tiles, strict=True)]
        after = wide.without(tiles)
        count, n_taps = sum(int(k.sum()) for k in wide.kept), int(wide.taps.sum()) * parts[0][1].blocks.shape[0]
        whole, share = _energy(before), 0.0  # the margins of a far lag may leave no pixel to compare by
        if whole > 0 and count > n_taps:
            share = 1.0 - _energy(after) / whole * count / (count - n_taps)
        found[Verdict.SHAPE_TOO_SMALL] = shape = dataclasses.replace(shape, share=max(share, shape.share))
        if whole > 0 and all(shape.share >= t.share for t in found.values()):
            still = _remaining(_tests(_cells(_with(parts, after, wide.kept)), estimate), 1.0 - share, found)
            # to a wider kernel a curve is as much of a misfit
            found = {Verdict.SHAPE_TOO_SMALL: shape} | {
                v: dataclasses.replace(t, share=t.share + shape.share * (v is Verdict.NONLINEAR))
                for v, t in still.items()
                if v in found
            }
    most = max(t.share for t in found.values()) if found else 0.0
    kept = {v: t for v, t in found.items() if t.share >= _BESIDE * most}
    if Verdict.NONLINEAR in kept:
        kept[Verdict.NONLINEAR] = dataclasses.replace(kept[Verdict.NONLINEAR], detail=_curve(parts, cells))
    return sorted(
        (Finding(v, f"{t.detail}; it explains {_percent(t.share)} of the residual") for v, t in kept.items()),
        key=lambda f: -kept[f.verdict].share,
    )


def _remaining(found: dict[Verdict, _Test], rest: float, before: dict[Verdict, _Test]) -> dict[Verdict, _Test]:
    """Return what is left of misfits once another is taken off, with its shares of the whole residual."""
    shares = {v: dataclasses.replace(t, share=max(0.0, rest) * t.share) for v, t in found.items()}
    return {v: t for v, t in shares.items() if v not in before or t.share > _TRACE * before[v].share}


def _margins(parts: list[Part], peak: tuple[int, int]) -> list[tuple[int, int]]:
    """Return how many taps more a wider support is to have on each side, so that it holds a lag."""
    plan = parts[0][0].geometry
    margins = []
    for axis, (lag, k, step) in enumerate(zip(peak, plan.kernel_shape, plan.stride, strict=True)):
        most = min(step * (p.left.shape[1 + axis] // 3) for _, p in parts)
        ahead, beyond = (max(_MARGIN, m + _MARGIN // 2) if m > 0 else _MARGIN for m in (-lag, lag - k + 1))
        margins.append((min(ahead, most), min(beyond, most)))
    return margins


def _percent(share: float) -> str:
    return f"{100 * min(1.0, max(0.0, share)):.2g} %"


def _constant(parts: list[Part], integer: bool) -> tuple[_Test | None, list[Array]]:
    """Return whether a constant lies in the target beside what the kernel makes, and the residual without it."""
    design = _Design.of(parts)
    ones = design.without([_root(p, p.known) for _, p in parts])
    left = design.without([p.left for _, p in parts])
    size, product = _energy(ones), sum(float(np.vdot(a, b)) for a, b in zip(ones, left, strict=True))
    if not size > 0:
        return None, left
    sums = []
    for one, r in zip(ones, left, strict=True):
        n, rows, cols = one.shape
        down, across = max(1, rows // 4), max(1, cols // 4)
        own = (one * r)[:, : rows // down * down, : cols // across * across]
        sums.append(own.reshape(n, rows // down, down, cols // across, across).sum(axis=(2, 4)).ravel())
    error = math.sqrt(sum(float(np.vdot(s, s)) for s in sums)) / size
    value = product / size
    if not abs(value) > _OFFSET * error:
        return None, left
    detail = f"a constant of {value:.3g} +- {error:.2g}"
    if integer and abs(value + 0.5) < max(0.05, 3.0 * error) < 0.25:
        detail += ", the target's values being rounded down to integers, it seems"
    found = _Test(0.0, product**2 / size / max(_energy(left), 1e-300), detail)
    return found, [r - value * one for one, r in zip(ones, left, strict=True)]


def _curve(parts: list[Part], cells: _Cells) -> str:
    """Say how the residual depends on the prediction."""
    values = np.concatenate([((p.targets - p.left) / _root(p, p.known).clip(1e-300))[p.known] for _, p in parts])
    targets = np.concatenate([(p.targets / _root(p, p.known).clip(1e-300))[p.known] for _, p in parts])
    for end, name in ((targets.max(), "above"), (targets.min(), "below")):
        if np.mean(targets == end) > _CLIPPED and len(np.unique(targets[:: max(1, len(targets) // 4096)])) > 16:
            return f"{_percent(float(np.mean(targets == end)))} of the target stand at {end:.6g} with nothing {name}"
    local = [0, *_LOCAL]
    shares = [_hotelling(*cells.alone(which, local), cells.energy)[1] for which in ([7, 8], [9, 10, 11, 12])]
    if shares[0] > shares[1]:
        return "the residual stands along the edges in the image, as after a median, or a blur of gamma-encoded values"
    order = np.argsort(values)
    bins = [part for part in np.array_split(order, 24)[1:-1] if len(part)]
    at, mean = (np.array([float(v[b].mean()) for b in bins]) for v in (values, targets))
    if min(at.min(), mean.min(), *np.diff(at)) > 0:
        power = np.polyfit(np.log(at), np.log(mean), 1, w=np.sqrt([len(b) for b in bins]))[0]
        if abs(power - 1) > 0.02:
            return f"the target runs about like its prediction to the power of {power:.2f}"
    way = "upwards" if np.polyfit(at, mean, 2)[0] > 0 else "downwards"
    return f"drawn over its prediction the target bends {way}"


def _moved(parts: list[Part]) -> str | None:
    """Return rotation and scale if the target's tiles are displaced linearly with their place, in words."""
    places, moves, sizes = [], [], []
    for observation, part in parts:
        root = np.where(part.known, _root(part, part.known), 1.0)
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
    if not (rest < _LINEAR * whole and scipy.special.fdtrc(n, free, ratio) < _CHANCE):
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
