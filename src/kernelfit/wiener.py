"""Summed spectra to a kernel: division by frequency, cropped to the kernel's shape; no pixel is seen here.

With the power S and the cross-spectrum C of `SpectralStats`, and a penalty q(f), the transfer function is
``H = C / (S + balance * m * q)``, where m is the mean of S over all frequencies, and the kernel is what its inverse
transform holds within the kernel's shape.
"""

import functools
import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.fft
import scipy.linalg

from . import geometry
from .result import Finding, KernelFit, Spectrum, Verdict
from .spectra import SpectralStats

Array = npt.NDArray[np.float64]
Complex = npt.NDArray[np.complex128]

PENALTIES = ("laplacian", "identity")
#: Power below this share of the mean power is rounding, and nothing is divided by it.
ROUNDING = 1e-28
#: Kernels of more taps than this come without errors: the covariance alone would cost more than all the rest.
MOST_ERRORS = 2500
_RINGS = 40
_SAMPLES = 192  # frequencies along each axis that the choice of the balance looks at, at least
_CHUNK = 64
_PILOTS = 6
_WORSE = 0.05  # mean log power of the residual by which a fit is clearly worse than another
_BALANCES = 10.0 ** np.arange(-15.0, 3.5)


def penalty_spectrum(rows: Array, cols: Array, penalty: str) -> Array:
    """Return q(f) at frequencies in cycles per pixel, its mean over the band being one.

    "identity": 1. "laplacian": the square of ``4 - 2 cos(2 pi f_row) - 2 cos(2 pi f_col)``, the transfer function of
    the five-point Laplacian, over its mean 20.
    """
    if penalty == "identity":
        return np.ones((len(rows), len(cols)))
    laplacian = ((2 - 2 * np.cos(2 * np.pi * rows)) / 20**0.5)[:, None] + (2 - 2 * np.cos(2 * np.pi * cols)) / 20**0.5
    return np.asarray(np.square(laplacian, out=laplacian))


def as_balance(balance: object) -> float | None:
    """Return the balance as a float, None for "auto"."""
    if isinstance(balance, str) and balance == "auto":
        return None
    if isinstance(balance, bool) or not isinstance(balance, numbers.Real):
        msg = f"got balance={balance!r}, need 'auto' or a number of at least 0"
        raise (ValueError if isinstance(balance, str) else TypeError)(msg)
    value = float(balance)
    if not (math.isfinite(value) and value >= 0):
        msg = f"got balance={balance!r}, need 'auto' or a finite number of at least 0"
        raise ValueError(msg)
    return value


@dataclass(frozen=True, eq=False)
class Band:
    """A set of frequencies, all or a sample, with the weight of each, and the spectra there.

    The weights sum to the number N of points of a transform;
    ``crop(H)[u] = sum_f weight H exp(-2 pi i f (u - shift)) / N`` is the
    inverse transform at the taps alone, and `spread` its adjoint, the transform of a kernel.
    """

    rows: Array
    cols: Array
    row_weights: Array
    col_weights: Array
    power: Array
    cross: Complex
    target: Array
    penalty: Array
    to_rows: Complex
    to_cols: Complex

    @classmethod
    def of(cls, stats: SpectralStats, penalty: str, least: int | None) -> "Band":
        """Take all frequencies, or the lowest ones and a sample of the others."""
        (n_rows, n_cols), (height, width) = stats.block, stats.shape
        top = n_cols // 2
        i, half_weight = _sample(n_rows // 2, n_rows % 2 == 0, max(least, 8 * height) if least else n_rows)
        j, col_weights = _sample(top, n_cols % 2 == 0, max(least, 8 * width) if least else n_cols)
        nyquist = i[-1] if n_rows % 2 == 0 else n_rows
        mirror = (i > 0) & (i < nyquist)
        pick = np.concatenate([i, n_rows - i[mirror][::-1]])
        row_weights = np.concatenate([np.where(mirror, half_weight / 2, half_weight), half_weight[mirror][::-1] / 2])
        at = (slice(None), slice(None)) if len(pick) == n_rows and len(j) == top + 1 else np.ix_(pick, j)
        rows, cols = np.where(pick > n_rows // 2, pick - n_rows, pick) / n_rows, j / n_cols
        return cls(
            rows=rows,
            cols=cols,
            row_weights=row_weights,
            col_weights=col_weights,
            power=stats.image_power[at],
            cross=stats.cross[at],
            target=stats.target_power[at],
            penalty=penalty_spectrum(rows, cols, penalty),
            to_rows=_phases(np.arange(height) - stats.shift[0], rows),
            to_cols=_phases(np.arange(width) - stats.shift[1], cols).T,
        )

    @property
    def size(self) -> float:
        """Sum of the weights."""
        return float(self.row_weights.sum() * self.col_weights.sum())

    @functools.cached_property
    def rings(self) -> npt.NDArray[np.intp]:
        """Ring of each frequency, rings of equal ratio from the lowest to the highest frequency."""
        radius = np.hypot(self.rows[:, None], self.cols)
        low = min(np.abs(self.rows[self.rows != 0]).min(initial=0.5), self.cols[self.cols > 0].min(initial=0.5))
        index = np.log(np.maximum(radius, low) / low) / math.log(0.71 / (0.999 * low)) * _RINGS
        return np.asarray(np.minimum(index.astype(np.intp), _RINGS - 1))

    def mean(self, values: Array) -> float:
        """Return the mean over the whole band."""
        return float(self.row_weights @ values @ self.col_weights) / self.size

    def per_ring(self, values: Array) -> Array:
        """Return the sum over each ring."""
        weighted = values * self.row_weights[:, None] * self.col_weights
        return np.asarray(np.bincount(self.rings.ravel(), weighted.ravel(), _RINGS), dtype=np.float64)

    def crop(self, spectrum: Complex) -> Array:
        """Return the inverse transform at the taps of the valid problem."""
        part = (self.to_rows * self.row_weights) @ spectrum
        return np.asarray((part @ (self.to_cols * self.col_weights[:, None])).real / self.size)

    def spread(self, taps: Array) -> Complex:
        """Return the transform of a kernel."""
        return np.asarray(self.to_rows.conj().T @ taps @ self.to_cols.conj().T)

    def misfit(self, transfer: Complex) -> Array:
        """Return the power of the residual, ``|Y - H X|^2`` summed over blocks."""
        cross = self.cross.real * transfer.real + self.cross.imag * transfer.imag
        power = transfer.real**2 + transfer.imag**2
        return np.maximum(self.target - 2 * cross + power * self.power, 0.0)


def _sample(top: int, even: bool, least: int) -> tuple[npt.NDArray[np.intp], Array]:
    """Return indices from 0 to `top`, all or the lowest quarter of `least` / 2 and a sample, and their weights."""
    low = max(1, least // 8)
    count = max(2, least // 2 - low)
    if top + 1 <= low + count:
        index = np.arange(top + 1)
        weight = np.ones(top + 1)
    else:
        index = np.concatenate([np.arange(low), np.round(np.linspace(low, top, count)).astype(np.intp)])
        edges = np.concatenate([index[:-1] + np.diff(index) / 2, [top + 0.5]])
        weight = np.diff(np.concatenate([[-0.5], edges]))
    factor = np.full(len(index), 2.0)
    factor[0] = 1.0
    weight = weight * factor
    if even:
        weight[-1] -= 1.0
    return index, weight


def _phases(lags: npt.NDArray[np.intp], frequencies: Array) -> Complex:
    return np.asarray(np.exp(-2j * np.pi * np.outer(lags, frequencies)))


def _choose(band: Band, scale: float, stats: SpectralStats) -> float:
    """Return the balance for which the estimated error of the cropped kernel is smallest.

    The mean square error of a tap is the variance ``sum |H's noise|^2``, from the power of the residual in rings, plus
    the square of what is lost, ``crop((1 - passed) K)``. Both need a kernel K: a first one, then that of the balance
    just chosen, until the balance stays. There are two first ones: that of the maximum of the evidence of a Gaussian
    model, ``Y ~ N(0, s^2 (|X|^2 / (balance m q) + 1))``, and that whose cropped kernel has the least mean log power of
    the residual in rings (Whittle's likelihood). Where they lead apart and one fits clearly worse, it is dropped; else
    the one with the smaller estimated error is taken.
    """
    counts = np.maximum(band.per_ring(np.ones_like(band.power)), 1e-300)
    weight = scale * np.maximum(band.penalty, 1e-3 * _lowest(band.penalty))
    evidence = []
    for balance in _BALANCES:
        variance = band.power / (balance * weight) + 1
        level = band.mean(band.target / variance)
        evidence.append(math.log(level) + band.mean(np.log(variance)) if level > 0 else -math.inf)
    most_evident = float(_BALANCES[int(np.argmin(evidence))])
    total = max(band.mean(band.target), 1e-300)
    candidates = [0.0, *_BALANCES] if band.power.min() > ROUNDING * scale else list(_BALANCES)
    n_taps, n = math.prod(stats.shape), band.size

    def kernel_at(balance: float) -> Complex:
        return band.spread(band.crop(_transfer(band.power, band.cross, band.penalty, balance * scale, scale)))

    def likelihood(balance: float) -> float:
        rings = band.per_ring(band.misfit(kernel_at(balance))) / counts
        return float(np.sum(counts * np.log(np.maximum(rings, 1e-30 * total)))) / n

    def error(balance: float, noise: Array, kernel: Complex) -> float:
        divisor = band.power + balance * scale * band.penalty
        kept = np.divide(band.power, divisor, out=np.zeros_like(divisor), where=divisor > ROUNDING * scale)
        gain = np.divide(kept, divisor, out=np.zeros_like(divisor), where=divisor > ROUNDING * scale)
        spread = stats.weight_square / (stats.n_blocks * n)
        lost = band.crop((1 - kept) * kernel)
        return spread * n_taps / n * band.mean(gain * noise) + float(np.sum(lost**2))

    def settle(chosen: float) -> tuple[float, float, float]:
        seen: list[float] = []
        while chosen not in seen and len(seen) < _PILOTS:
            seen.append(chosen)
            kernel = kernel_at(chosen)
            noise = (band.per_ring(band.misfit(kernel)) / counts)[band.rings] / stats.n_blocks
            near = [b for b in candidates if chosen * 1e-4 <= b <= max(chosen * 1e4, 1e-12)] or candidates
            errors = [error(b, noise, kernel) for b in near]
            chosen = near[int(np.argmin(errors))]
        if chosen > 0:
            near = list(chosen * 10.0 ** np.arange(-0.75, 1.0, 0.25))
            errors = [error(b, noise, kernel) for b in near]
        best = int(np.argmin(errors))
        return near[best], errors[best], likelihood(near[best])

    fits = [likelihood(b) for b in candidates]
    ends = [settle(start) for start in sorted({most_evident, candidates[int(np.argmin(fits))]})]
    least = min(end[2] for end in ends)
    return min((end for end in ends if end[2] <= least + _WORSE), key=lambda end: end[1])[0]


def _lowest(penalty: Array) -> float:
    return float(penalty[penalty > 0].min()) if (penalty > 0).any() else 1.0


def _transfer(power: Array, cross: Complex, penalty: Array, strength: float, scale: float) -> Complex:
    """Return ``C / (S + strength * q)``, zero where there is nothing to divide by."""
    divisor = power + strength * penalty
    return np.divide(cross, divisor, out=np.zeros_like(cross), where=divisor > ROUNDING * scale)


def _taps(stats: SpectralStats, penalty: str, strength: float, scale: float) -> Array:
    """Divide at all frequencies, a few rows at a time, and return the taps."""
    (n_rows, n_cols), (height, width) = stats.block, stats.shape
    rows, cols = scipy.fft.fftfreq(n_rows), np.arange(n_cols // 2 + 1) / n_cols
    to_rows = _phases(np.arange(height) - stats.shift[0], rows)
    part = np.zeros((height, len(cols)), dtype=np.complex128)
    for first in range(0, n_rows, _CHUNK):
        some = slice(first, first + _CHUNK)
        q = penalty_spectrum(rows[some], cols, penalty)
        part += to_rows[:, some] @ _transfer(stats.image_power[some], stats.cross[some], q, strength, scale)
    weights = np.full(len(cols), 2.0)
    weights[0] = 1.0
    if n_cols % 2 == 0:
        weights[-1] = 1.0
    to_cols = _phases(np.arange(width) - stats.shift[1], cols).T * weights[:, None]
    taps = (part @ to_cols).real / (n_rows * n_cols)
    missing = _mean_transfer(stats) if stats.image_power[0, 0] <= 1e-9 * _beside(stats.image_power) else 0.0
    return np.asarray(taps + missing / (n_rows * n_cols))


def _beside(values: npt.NDArray[np.generic]) -> float:
    """Return the mean of a spectrum's real part around frequency zero, itself left out."""
    near = [values[r, c].real for r in (-1, 0, 1) for c in (0, 1) if (r or c) and c < values.shape[1]]
    return float(np.mean(near))


def _mean_transfer(stats: SpectralStats) -> float:
    """Return the transfer function at frequency zero, removed with the mean, from the frequencies beside it."""
    power = _beside(stats.image_power)
    return _beside(stats.cross) / power if power > 0 else 0.0


def _factor(band: Band, stats: SpectralStats, gain: Array, noise: Array, lost: Array) -> Array:
    """Return a factor F of the taps' mean square error ``F F'``, in the valid problem's tap order."""
    (height, width), n = stats.shape, band.size
    if height * width > MOST_ERRORS:
        return np.full((height * width, 1), np.nan)
    spread = stats.weight_square / (stats.n_blocks * n)
    density = (gain * noise) * band.row_weights[:, None] * band.col_weights
    to_rows = _phases(np.arange(1 - height, height), band.rows)
    to_cols = _phases(np.arange(1 - width, width), band.cols).T
    lags = (to_rows @ density @ to_cols).real * spread / n**2
    y, x = np.divmod(np.arange(height * width), width)
    covariance = lags[y[:, None] - y + height - 1, x[:, None] - x + width - 1]
    jitter = 1e-12 * covariance[0, 0]
    factor = np.zeros_like(covariance)
    if jitter > 0:
        covariance[np.diag_indices_from(covariance)] += jitter
        try:
            factor = scipy.linalg.cholesky(covariance, lower=True)
        except np.linalg.LinAlgError:
            values, vectors = scipy.linalg.eigh(covariance)
            factor = vectors * np.sqrt(np.maximum(values, 0.0))
    return np.concatenate([factor, lost.reshape(-1, 1)], axis=1)


def divide(stats: SpectralStats, balance: object, penalty: str) -> KernelFit:
    """Divide spectra and crop; see `SpectralStats.solve`."""
    geometry.known(penalty, PENALTIES, "penalty")
    given = as_balance(balance)
    weights = np.full(stats.image_power.shape[1], 2.0)
    weights[0] = 1.0
    if stats.block[1] % 2 == 0:
        weights[-1] = 1.0
    n = math.prod(stats.block)
    with np.errstate(all="ignore"):
        scale = float((stats.image_power @ weights).sum()) / n
        variance = stats.target_energy - stats.target_sum**2 / max(1, stats.n_pixels)
        signal = variance > 1e-14 * stats.target_energy
        if not (scale > 0 and _detail(stats, scale) and (stats.target_power > 0).any()):
            return _nothing(stats, given, scale, signal)
        band = Band.of(stats, penalty, _SAMPLES)
        chosen = _choose(band, scale, stats) if given is None else given
        taps = _taps(stats, penalty, chosen * scale, scale)
        kernel = band.spread(taps)
        divisor = band.power + chosen * scale * band.penalty
        kept = np.divide(band.power, divisor, out=np.zeros_like(divisor), where=divisor > ROUNDING * scale)
        gain = np.divide(kept, divisor, out=np.zeros_like(divisor), where=divisor > ROUNDING * scale)
        misfit = band.misfit(kernel)
        counts = band.per_ring(np.ones_like(misfit))
        noise = (band.per_ring(misfit) / np.maximum(counts, 1e-300))[band.rings] / stats.n_blocks
        factor = _factor(band, stats, gain, noise, band.crop((1 - kept) * kernel))
        mean_square = band.mean(misfit) / stats.n_blocks
        rank = math.prod(stats.shape)
        freedom = max(1.0, stats.n_pixels - rank * band.mean(kept))
        spectrum = _spectrum(band, counts, misfit, kept, chosen)
        rss = mean_square * stats.n_pixels
        findings = _judge(stats, taps, factor, rss, variance, signal)
        condition = float(divisor.max() / divisor.min()) if divisor.min() > 0 else math.inf
    order: Callable[[Array], Array] = (lambda a: a[::-1]) if _flipped(stats) else (lambda a: a)
    return KernelFit(
        kernel=np.ascontiguousarray(order(taps.ravel()).reshape(stats.shape)),
        factor=np.ascontiguousarray(order(factor)),
        noise_std=math.sqrt(rss / freedom),
        rank=rank,
        condition=condition,
        rss=rss,
        r_squared=1.0 - rss / variance if signal else math.nan,
        n_pixels=stats.n_pixels,
        convention=stats.convention,
        findings=findings,
        method="wiener",
        method_reason=f"balance {chosen:.3g}{' chosen from the data' if given is None else ''}, {penalty} penalty",
        spectrum=spectrum,
    )


def _detail(stats: SpectralStats, scale: float) -> bool:
    """Say whether the image holds more than a constant."""
    return float(stats.image_power.sum() - stats.image_power[0, 0]) > 1e-20 * scale * math.prod(stats.block)


def _flipped(stats: SpectralStats) -> bool:
    return stats.convention.operation == "convolution"


def _spectrum(band: Band, counts: Array, misfit: Array, kept: Array, balance: float) -> Spectrum:
    """Return what the data know, ring by ring; empty rings are left out."""
    some = counts > 0
    total = band.per_ring(band.target)[some]
    left = band.per_ring(misfit)[some]
    coherence = 1 - np.divide(left, total, out=np.ones_like(total), where=total > 0)
    radius = np.hypot(band.rows[:, None], band.cols)
    return Spectrum(
        frequencies=band.per_ring(radius)[some] / counts[some],
        coherence=np.clip(coherence, 0.0, 1.0),
        passed=band.per_ring(kept)[some] / counts[some],
        determined=band.mean((kept > 0.5).astype(np.float64)),
        balance=balance,
    )


def _judge(
    stats: SpectralStats, taps: Array, factor: Array, rss: float, variance: float, signal: bool
) -> tuple[Finding, ...]:
    """List what is doubtful about a divided kernel, the worst first."""
    findings = []
    if not signal:
        mean = stats.target_sum / max(1, stats.n_pixels)
        findings.append(Finding(Verdict.NO_SIGNAL, f"every target pixel is {mean:.6g}"))
    else:
        size, error = float(np.linalg.norm(taps)), float(np.linalg.norm(factor))
        if error > 0.5 * size:
            detail = f"the kernel's norm is {size:.3g}, its expected error {error:.3g}"
            findings.append(Finding(Verdict.NOISE_DOMINATES, detail))
        if rss > 0.5 * variance:
            findings.append(Finding(Verdict.POOR_FIT, f"R squared is {1 - rss / variance:.2g}"))
    if not stats.periodic:
        edges = "tapered blocks" if stats.n_blocks > 1 else "an image tapered at its edges"
        findings.append(Finding(Verdict.APPROXIMATE, f"divided by frequency over {edges}"))
    return tuple(findings)


def _nothing(stats: SpectralStats, balance: float | None, scale: float, signal: bool) -> KernelFit:
    """Return the result where there is nothing to divide: a kernel of zeros, errors unknown, and the cause."""
    variance = max(0.0, stats.target_energy - stats.target_sum**2 / max(1, stats.n_pixels))
    findings = []
    if not _detail(stats, scale) or not scale > 0:
        findings.append(Finding(Verdict.RANK_DEFICIENT, "rank 0, because the image is the same everywhere"))
    if not signal:
        mean = stats.target_sum / max(1, stats.n_pixels)
        findings.append(Finding(Verdict.NO_SIGNAL, f"every target pixel is {mean:.6g}"))
    empty: Array = np.zeros(0)
    return KernelFit(
        kernel=np.zeros(stats.shape),
        factor=np.zeros((math.prod(stats.shape), 0)),
        noise_std=math.sqrt(variance / max(1, stats.n_pixels)),
        rank=0,
        condition=math.inf,
        rss=variance,
        r_squared=math.nan if not signal else 0.0,
        n_pixels=stats.n_pixels,
        convention=stats.convention,
        findings=tuple(findings),
        method="wiener",
        method_reason="nothing to divide",
        spectrum=Spectrum(empty, empty, empty, 0.0, balance or 0.0),
    )
