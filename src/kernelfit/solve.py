"""Statistics to a kernel: no pixel is seen here."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.linalg

from . import result
from .result import Finding, KernelFit, Verdict
from .statistics import NormalStats

Array = npt.NDArray[np.float64]
EPS = float(np.finfo(np.float64).eps)

#: Below this reciprocal condition number of the Gram matrix Cholesky's factorisation is not trusted.
RCOND_CHOLESKY = 1e-12
#: From this condition number on a solution is called ill-conditioned, even if it has full rank.
ILL_CONDITIONED = 1e13


@dataclass(frozen=True)
class LeastSquares:
    """Ordinary least squares: the kernel with the smallest residual, without any bias.

    ``G k = b`` is solved by Cholesky's factorisation where the reciprocal condition number of G is above 1e-12, else by
    the symmetric eigendecomposition, where eigenvalues below ``max(taps, 16) * eps`` times the largest count as zero
    and the solution of smallest norm is returned. The covariance is ``s^2 G^-1`` with ``s^2 = rss / (n - rank)``.
    """

    def solve(self, stats: NormalStats) -> KernelFit:
        """Return the kernel of least squares.

        Parameters
        ----------
        stats : NormalStats
            The statistics.

        Returns
        -------
        KernelFit
            The kernel, with verdicts where the statistics leave something open.
        """
        center, moment, energy = stats.around()
        if "inverse" not in stats._made:
            stats._made["inverse"] = _cholesky(stats.gram) or _eigen(stats.gram)
        inverse, condition = stats._made["inverse"]
        rank = inverse.shape[1]
        if rank < stats.n_taps:  # the solution of smallest norm holds nothing of what is not determined
            basis = scipy.linalg.orth(inverse) if rank else inverse
            shift = basis @ (basis.T @ center) - center
            moment = moment - stats.gram @ shift
            center = center + shift
        step = inverse @ (inverse.T @ moment)
        rss = energy - float(step @ (2 * moment - stats.gram @ step))
        rss = max(rss, EPS**2 * stats.target_energy)  # no fit is known to be better than the target's own rounding
        taps = center + step
        freedom = stats.n_pixels - rank
        noise_std = math.sqrt(rss / freedom) if freedom > 0 else math.nan
        factor = inverse * noise_std
        findings = _judge(stats, taps, factor, rank, condition, rss)
        return result.assemble(
            stats, taps, factor, rank=rank, condition=condition, rss=rss, noise_std=noise_std, findings=findings
        )


def _cholesky(gram: Array) -> tuple[Array, float] | None:
    """Return a factor F of ``G^-1 = F F'`` and the condition number, or None if G is too near to singular."""
    lapack = scipy.linalg.lapack
    lower, info = lapack.dpotrf(gram.T, lower=1, clean=1)  # .T: the same matrix in LAPACK's order, so copied once
    if info != 0:
        return None
    rcond, _ = lapack.dpocon(lower, lapack.dlange("1", gram.T), uplo="L")
    if not rcond > RCOND_CHOLESKY:
        return None
    inverse, _ = lapack.dtrtri(lower, lower=1, overwrite_c=1)
    return inverse.T, 1.0 / float(rcond)


def _eigen(gram: Array) -> tuple[Array, float]:
    """Return a factor F of the pseudo-inverse ``F F'`` and the condition number."""
    values, vectors = scipy.linalg.eigh(gram)
    largest = max(float(values[-1]), 0.0)
    kept = values > max(len(values), 16) * EPS * largest
    if not kept.any():
        return np.zeros((len(values), 0)), math.inf
    condition = largest / float(values[0]) if kept.all() else math.inf
    return vectors[:, kept] / np.sqrt(values[kept]), condition


def rounding_matters(stats: NormalStats, fit: KernelFit) -> bool:
    """Say whether a pass over the pixels could improve a fit found from uncentered statistics.

    Rounding moves the taps by about ``eps * condition * |k|`` and the residual sum of squares by about ``eps * y'y``; a
    pass is not worth while only if the first is far below every tap's own error and the second far below the rss.
    """
    if not math.isfinite(fit.condition) or not math.isfinite(fit.noise_std):
        return True
    resolved = fit.rss > 1e4 * EPS * stats.target_energy
    moved = EPS * fit.condition * float(np.linalg.norm(fit.kernel))
    return not (resolved and 10 * moved < 1e-3 * float(fit.stderr.min()))


def _judge(
    stats: NormalStats, taps: Array, factor: Array, rank: int, condition: float, rss: float
) -> tuple[Finding, ...]:
    """List what is doubtful about a least-squares fit."""
    findings = []
    m = stats.n_taps
    mean = stats.target_sum / max(1, stats.n_pixels)
    variance = stats.target_energy - stats.target_sum * mean
    if not variance > 1e-14 * stats.target_energy:
        findings.append(Finding(Verdict.NO_SIGNAL, f"every target pixel is {mean:.6g}"))
    if rank < m:
        findings.append(Finding(Verdict.RANK_DEFICIENT, f"rank {rank} of {m}, because {_cause(stats)}"))
    elif condition > ILL_CONDITIONED:
        findings.append(Finding(Verdict.ILL_CONDITIONED, f"condition {condition:.1e}"))
    if stats.n_pixels <= rank:
        findings.append(Finding(Verdict.NO_REDUNDANCY, f"{stats.n_pixels} pixels, rank {rank}"))
    else:
        findings += doubts(taps, float(np.linalg.norm(factor)), rss, variance, stats.target_energy)
    return tuple(findings)


def doubts(taps: Array, error: float, rss: float, variance: float, energy: float) -> list[Finding]:
    """List what the noise leaves doubtful, given the expected error of all taps and the target's sums of squares."""
    findings: list[Finding] = []
    if not variance > 1e-14 * energy:
        return findings
    size = float(np.linalg.norm(taps))
    if error > 0.5 * size:
        detail = f"the kernel's norm is {size:.3g}, its expected error {error:.3g}"
        findings.append(Finding(Verdict.NOISE_DOMINATES, detail))
    if rss > 0.5 * variance:
        findings.append(Finding(Verdict.POOR_FIT, f"R squared is {1 - rss / variance:.2g}"))
    return findings


def _cause(stats: NormalStats) -> str:
    """Say in words why the rank is deficient, as far as the Gram matrix tells."""
    diagonal = np.diag(stats.gram)
    scale = float(diagonal.max())
    if scale == 0:
        return "the image is zero everywhere"
    if stats.n_pixels < stats.n_taps:
        return f"{stats.n_pixels} pixels cannot determine {stats.n_taps} taps"
    if len(stats.terms) != 1:
        return "the source images depend on each other linearly"
    rows, cols = stats.terms[0]
    gram = stats.gram.reshape(rows, cols, rows, cols)
    own = diagonal.reshape(rows, cols)
    periods = []
    for i in range(rows):
        for j in range(-(cols - 1) if i else 1, cols):
            y, x = np.mgrid[: rows - i, max(0, -j) : cols - max(0, j)]
            # sum of squares of the difference between the image and the image moved by (i, j)
            difference = own[y, x] + own[y + i, x + j] - 2 * gram[y, x, y + i, x + j]
            if difference.max() <= 1e-12 * scale:
                periods.append((i, j))
    if (0, 1) in periods and (1, 0) in periods:
        return "the image is constant"
    if (0, 1) in periods:
        return "the image does not vary along its rows"
    if (1, 0) in periods:
        return "the image does not vary along its columns"
    if periods:
        shortest = min(periods, key=lambda p: (math.hypot(*p), p))
        return f"the image repeats itself every {shortest} (rows, columns), which is less than the kernel's shape"
    return "the image holds no detail at some of the frequencies that a kernel of this shape can have"
