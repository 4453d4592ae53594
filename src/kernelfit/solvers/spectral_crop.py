"""Kernels too large for a matrix: division frequency by frequency, cropped to the taps; no pixel is seen here."""

import math

import numpy as np
import numpy.typing as npt
import scipy.fft

from ..core.cross_spectra import Complex, CrossSpectra
from ..core.validation import Array
from .block_toeplitz import Estimate
from .spectral_band import ROUNDING, Band, mirrored, penalty_spectrum, phases

_CHUNK = 64
_PILOTS = 6
_WORSE = 0.05  # mean log power of the residual by which a fit is clearly worse than another
_BALANCES = 10.0 ** np.arange(-15.0, 3.5)


def estimate(stats: CrossSpectra, band: Band, given: float | None, workers: int = 1) -> Estimate:  # noqa: ARG001
    """Return the kernel, with the balance of the smallest estimated error if none is given, and no errors of taps."""
    level = float((stats.image_power @ mirrored(stats.block[1])).sum()) / math.prod(stats.block)
    chosen = _choose(band, level, stats) if given is None else given
    return Estimate(_taps(stats, band.name, chosen * level, level), chosen, level, None, math.prod(stats.shape))


def _choose(band: Band, scale: float, stats: CrossSpectra) -> float:
    """Return the balance for which the estimated error of the cropped kernel is smallest."""
    # The mean square error of a tap is the variance ``sum |H's noise|^2``, from the power of the residual in rings,
    # plus the square of what is lost, ``crop((1 - passed) K)``. Both need a kernel K: a first one, then that of the
    # balance just chosen, until the balance stays. There are two first ones: that of the maximum of the evidence of a
    # Gaussian model, ``Y ~ N(0, s^2 (|X|^2 / (balance m q) + 1))``, and that whose cropped kernel has the least mean
    # log power of the residual in rings (Whittle's likelihood). Where they lead apart and one fits clearly worse, it is
    # dropped; else the one with the smaller estimated error is taken.
    counts = band.counts
    lowest = float(band.penalty[band.penalty > 0].min(initial=math.inf))
    weight = scale * np.maximum(band.penalty, 1e-3 * (lowest if lowest < math.inf else 1.0))
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
        rings = band.ring_misfit(kernel_at(balance))
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
            noise = band.ring_misfit(kernel)[band.rings] / stats.n_blocks
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


def _transfer(power: Array, cross: Complex, penalty: Array, strength: float, scale: float) -> Complex:
    """Return ``C / (S + strength * q)``, zero where there is nothing to divide by."""
    divisor = power + strength * penalty
    return np.divide(cross, divisor, out=np.zeros_like(cross), where=divisor > ROUNDING * scale)


def _taps(stats: CrossSpectra, penalty: str, strength: float, scale: float) -> Array:
    """Divide at all frequencies, a few rows at a time, and return the taps."""
    (n_rows, n_cols), (height, width) = stats.block, stats.shape
    rows, cols = scipy.fft.fftfreq(n_rows), np.arange(n_cols // 2 + 1) / n_cols
    to_rows = phases(np.arange(height) - stats.shift[0], rows)
    part = np.zeros((height, len(cols)), dtype=np.complex128)
    for first in range(0, n_rows, _CHUNK):
        some = slice(first, first + _CHUNK)
        q = penalty_spectrum(rows[some], cols, penalty)
        part += to_rows[:, some] @ _transfer(stats.image_power[some], stats.cross[some], q, strength, scale)
    to_cols = phases(np.arange(width) - stats.shift[1], cols).T * mirrored(n_cols)[:, None]
    taps = (part @ to_cols).real / (n_rows * n_cols)
    # the transfer function at frequency zero, if it was removed with the mean, from the frequencies beside it
    power = _beside(stats.image_power)
    missing = _beside(stats.cross) / power if power > 0 and stats.image_power[0, 0] <= 1e-9 * power else 0.0
    return np.asarray(taps + missing / (n_rows * n_cols))


def _beside(values: npt.NDArray[np.generic]) -> float:
    """Return the mean of a spectrum's real part around frequency zero, itself left out."""
    near = [values[r, c].real for r in (-1, 0, 1) for c in (0, 1) if (r or c) and c < values.shape[1]]
    return float(np.mean(near))
