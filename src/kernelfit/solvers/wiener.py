"""Summed spectra to a kernel and to what is to be doubted about it; no pixel is seen here."""

import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..core import validation
from ..core.cross_spectra import CrossSpectra
from ..core.estimate import Estimate, Spectrum
from ..core.findings import Finding, Verdict
from ..core.validation import Array, as_float
from . import block_toeplitz, spectral_crop
from .spectral_band import PENALTIES, ROUNDING, SAMPLES, Band

#: Kernels of more taps than this are cropped from the division frequency by frequency: the matrix would cost more than
#: all the rest. They come without errors.
MOST_TAPS = 1024


def as_balance(balance: object) -> float | None:
    """Return the balance as a float, None for "auto"."""
    if isinstance(balance, str) and balance == "auto":
        return None
    if isinstance(balance, bool) or not isinstance(balance, numbers.Real):
        msg = f"got balance={balance!r}, need 'auto' or a number of at least 0"
        raise (ValueError if isinstance(balance, str) else TypeError)(msg)
    value = as_float(balance)
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"got balance={balance!r}, need 'auto' or a finite number of at least 0")
    return value


@dataclass(frozen=True)
class Wiener:
    """Division by frequency with a balance: quick, and approximate where the data are not periodic.

    The kernel minimises ``sum_f |Y - K X|^2 + balance * m * q |K|^2``, X, Y and K the transforms of image, target and
    kernel, m the mean of ``|X|^2``, q the power of the Laplacian over its mean.
    Among kernels as large as the image that is Wiener's division ``conj(X) Y / (|X|^2 + balance * m * q)`` (A. K.
    Jain, "Fundamentals of Digital Image Processing", 1989, section 8.3). Up to 1024 taps the minimum is taken among
    kernels of the shape asked for, from equations that the same spectra give; larger ones are cropped from the
    division, which is less accurate. For periodic data, which are boundary "wrap" and mode "full" with boundary
    "fill", nothing is approximate, and the balance makes the error smaller than that of least squares. In every
    other case the edges make an error, which tapers and the overlap of the tapers keep small and the verdict
    "approximate" tells. Pairs of more than 2^20 pixels that are not periodic are divided by blocks. The errors of
    the taps are root mean square ones, from noise and misfit, frequency by frequency, plus what the balance holds
    back: within a factor of two of the truth in simulations with 1 % noise and kernels of 5 to 31 taps a side. With
    less noise the edges make most of the error, of which symmetric kernels hide their part: there the errors told
    were up to 14 times too small. Kernels of more than 1024 taps have none (NaN): cropping makes an error of its own
    that the spectra do not tell.

    With a stride each phase of the image is a source of its own, and so is each channel of mixed ones; the taps on all
    of them are found together, from the spectra of each with each, whatever their number. With "wrap" the stride must
    divide the image's sides, or nothing is periodic. What `Spectrum` tells is then of the sources' mean power, and with
    a stride of the frequencies of the target. Pairs of unlike sizes are laid in blocks of one size, as if not periodic.
    A background of degree 0 takes the means off, and is what the kernel leaves of them.
    Of a volume each plane of the kernel is such a source: what is approximate are rows and columns, the depth is not.

    Parameters
    ----------
    balance : float or "auto", optional
        For Wiener's division: how much the penalty counts against the data, without dimension, relative to the
        mean over all frequencies of the image's power spectrum (its mean removed, unless the data are periodic).
        The default "auto" takes the balance with the smallest estimated error of the kernel, none if that gains
        less than 1 %; `Spectrum.balance` tells which.
    detrend : {"auto", "mean", None}, optional
        For Wiener's division: whether the mean is taken off, as in `accumulate_spectra`.
    taper : float or "auto", optional
        For Wiener's division: share of a block that is tapered, as in `accumulate_spectra`.
    """

    balance: float | str = "auto"
    detrend: str | None = "auto"
    taper: float | str = "auto"

    #: What it is given.
    needs: ClassVar[str] = "spectra"

    def __post_init__(self) -> None:
        as_balance(self.balance)

    def solve(self, stats: CrossSpectra) -> Estimate:
        """Return the kernel, with its spectrum."""
        if not isinstance(stats, CrossSpectra):
            raise TypeError(f"got stats={stats!r:.60}, need SpectralStats, what accumulate_spectra returns")
        return divide(stats, self.balance, "laplacian")


def divide(stats: CrossSpectra, balance: object, penalty: str, workers: int = 1) -> Estimate:
    """Divide spectra; see `SpectralStats.solve`."""
    validation.known(penalty, PENALTIES, "penalty")
    given = as_balance(balance)
    n_taps = math.prod(stats.tap_shape)
    with np.errstate(all="ignore"):
        variance = stats.target_energy - stats.target_sum**2 / max(1, stats.n_pixels)
        signal = variance > 1e-14 * stats.target_energy
        band = Band.of(stats, penalty, SAMPLES)
        rest = band.power.copy()
        rest[0, 0] = 0.0
        detail = band.mean(rest) > 1e-20 * band.mean(band.power)  # else the image is a constant
        if not (detail and band.target.any()):
            return _nothing(stats, given, detail, signal)
        crop = n_taps > MOST_TAPS and stats.order is None
        found = (spectral_crop if crop else block_toeplitz).estimate(stats, band, given, workers)
        divisor = band.power + found.balance * found.level * band.penalty
        kept = np.divide(band.power, divisor, out=np.zeros_like(divisor), where=divisor > ROUNDING * found.level)
        misfit = band.misfit(band.spread(found.taps))
        rss = band.mean(misfit) / stats.n_blocks * stats.n_pixels
        df_resid = max(1.0, stats.n_pixels - found.rank * band.mean(kept))
        factor = np.full((n_taps, 1), np.nan) if found.factor is None else found.factor
        findings = _judge(stats, found.taps, factor, found.rank, rss, variance, signal)
        condition = float(divisor.max() / divisor.min()) if divisor.min() > 0 else math.inf
        spectrum = _spectrum(band, misfit, kept, found.balance)
    origin = "" if given is not None else " chosen from the data"
    turned = stats.convention.operation == "convolution" and stats.order is None
    order: Callable[[Array], Array] = (lambda a: a[::-1]) if turned else (lambda a: a)
    return Estimate(
        kernel=np.ascontiguousarray(order(found.taps.ravel()).reshape(_shown(stats.tap_shape))),
        root=np.ascontiguousarray(order(factor)),
        noise_std=math.sqrt(rss / df_resid),
        rank=found.rank,
        condition=condition,
        rss=rss,
        r_squared=1.0 - rss / variance if signal else math.nan,
        n_pixels=stats.n_pixels,
        convention=stats.convention,
        findings=findings,
        method="wiener",
        method_reason=f"balance {found.balance:.3g}{origin}, {penalty} penalty",
        spectrum=spectrum,
    )


def _shown(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of the kernels of sources, of a single one its own."""
    return shape[1:] if len(shape) == 3 and shape[0] == 1 else shape


def _spectrum(band: Band, misfit: Array, kept: Array, balance: float) -> Spectrum:
    """Return what the data know, ring by ring; empty rings are left out."""
    counts = band.per_ring(np.ones_like(misfit))
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
    stats: CrossSpectra, taps: Array, factor: Array, rank: int, rss: float, variance: float, signal: bool
) -> tuple[Finding, ...]:
    """List what is doubtful about a divided kernel, the worst first."""
    findings = []
    if not signal:
        mean = stats.target_sum / max(1, stats.n_pixels)
        findings.append(Finding(Verdict.NO_SIGNAL, f"every target pixel is {mean:.6g}"))
    else:
        size, error = math.sqrt(np.square(taps).sum()), math.sqrt(np.square(factor).sum())
        if error > 0.5 * size:
            detail = f"the kernel's norm is {size:.3g}, its expected error {error:.3g}"
            findings.append(Finding(Verdict.NOISE_DOMINATES, detail))
        if rss > 0.5 * variance:
            findings.append(Finding(Verdict.POOR_FIT, f"R squared is {1 - rss / variance:.2g}"))
    if rank < taps.size:
        findings.insert(
            0, Finding(Verdict.PRIOR_DECIDES, f"the image determines {rank} of {taps.size} combinations of taps")
        )
    if not stats.periodic:
        edges = "tapered blocks" if stats.n_blocks > 1 else "an image tapered at its edges"
        findings.append(Finding(Verdict.APPROXIMATE, f"divided by frequency over {edges}"))
    return tuple(findings)


def _nothing(stats: CrossSpectra, balance: float | None, detail: bool, signal: bool) -> Estimate:
    """Return the result where there is nothing to divide: a kernel of zeros, errors unknown, and the cause."""
    variance = max(0.0, stats.target_energy - stats.target_sum**2 / max(1, stats.n_pixels))
    findings = []
    if not detail:
        findings.append(Finding(Verdict.RANK_DEFICIENT, "rank 0, because the image is the same everywhere"))
    if not signal:
        mean = stats.target_sum / max(1, stats.n_pixels)
        findings.append(Finding(Verdict.NO_SIGNAL, f"every target pixel is {mean:.6g}"))
    empty: Array = np.zeros(0)
    shape = _shown(stats.tap_shape)
    return Estimate(
        kernel=np.zeros(shape),
        root=np.zeros((math.prod(shape), 0)),
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
