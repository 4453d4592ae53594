"""Outliers in the target: how far each criterion holds them down, and a kernel that they hardly move to start from."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..core.validation import Array
from . import cholesky

if TYPE_CHECKING:
    from ..engines.sampling import Sample

#: Residuals, in standard deviations, from which each criterion holds them down: 95 % efficient for Gaussian noise
# (P. Huber and E. Ronchetti, "Robust Statistics", 2nd ed., 2009, sections 4.6 and 4.8), and for "clip" nearly 100 %.
TUNING = {"huber": 1.345, "tukey": 4.685, "clip": 4.0}
#: The same of the moduli of complex residuals, in standard deviations of either part: as efficient, see `slope` (of
# Tukey's that of two dimensions in R. Maronna, R. Martin, V. Yohai and M. Salibian-Barrera, "Robust Statistics", 2nd
# ed., 2019, chapter 6), and for "clip" beyond as few.
COMPLEX_TUNING = {"huber": 1.501, "tukey": 5.123, "clip": 4.397}
#: Median modulus of circular normal numbers whose parts have variance 1: that of Rayleigh's distribution.
_RAYLEIGH = math.sqrt(2.0 * math.log(2.0))
#: Patches per tap from which the first kernel is found, and in all, at least.
_PER_TAP = 12
_LEAST = 2000
#: Steps of conjugate gradients between two sets of weights: at most so many, or until the squared error is such a part.
_MOST_DESCENTS = 30
_ENOUGH = 1e-3


def tuning(robust: str, *, moduli: bool) -> float:
    """Return the tuning constant of a criterion, for the `moduli` of complex residuals or for real ones."""
    return (COMPLEX_TUNING if moduli else TUNING)[robust]


def robust_std(values: npt.NDArray[Any], *, moduli: bool = False) -> float:
    """Return 1.4826 times the median absolute deviation from 0; of complex `moduli` that of either part."""
    scale = 1.0 / _RAYLEIGH if moduli else 1.4826
    return scale * float(np.median(np.abs(values))) if values.size else math.nan


def factor(ratio: Array, robust: str) -> npt.NDArray[Any]:
    """Return by how much the weight of a residual is taken down that is so many times the tuning constant."""
    if robust == "clip":
        return ratio <= 1.0
    if robust == "huber":
        return 1.0 / np.maximum(ratio, 1.0)
    return np.square(np.maximum(0.0, 1.0 - ratio**2))


def slope(ratio: Array, robust: str, *, moduli: bool = False) -> Array:
    """Return the derivative of the held-down residual, at such a ratio of it to the tuning constant."""
    # A complex z is held down to ``w(|z|) z``, whose derivative is ``w + |z| w'`` along z and w across it: here their
    # mean.
    if moduli:
        return 0.5 * (factor(ratio, robust) + slope(ratio, robust))
    if robust == "tukey":
        return np.where(ratio < 1.0, (1 - ratio**2) * (1 - 5 * ratio**2), 0.0)
    return (ratio <= 1.0).astype(np.float64)


def correction_of(standard: Array, robust: str, *, moduli: bool = False) -> float:
    """Return the standard error of the robust fit over what weighted least squares with its weights would say."""
    # The asymptotic variance is ``mean(psi^2) / mean(psi')^2`` (Huber and Ronchetti, section 7.6), that of weighted
    # least squares with weights ``psi(r) / r`` is ``mean(psi r) / mean(psi / r)``, the first over pixels that have a
    # weight. Of moduli the numerators are twice those of either part, which their ratio does not see.
    c = tuning(robust, moduli=moduli)
    ratio = np.abs(standard) / c
    held = factor(ratio, robust)
    psi = held * standard
    some = held > 0
    naive = float(np.mean(psi[some] * standard[some])) / float(np.mean(held))
    own = float(np.mean(psi**2)) / float(np.mean(slope(ratio, robust, moduli=moduli))) ** 2
    return math.sqrt(own / naive) if naive > 0 and own > 0 else 1.0


def enough(n_taps: int) -> int:
    """Return the number of patches from which a first kernel is found."""
    return max(_LEAST, _PER_TAP * n_taps)


def least_absolute(sample: "Sample", inverse: Array | None = None, rounds: int = 15) -> Array:
    """Return the kernel with about the smallest sum of absolute residuals over a sample of patches, by reweighting."""
    # Outliers in the target hardly move it. Of many patches a part is used, enough for a kernel to start from.
    # `inverse` (taps, rank): a factor of the inverse of about the sample's Gram matrix, the metric of the conjugate
    # gradients.
    n, m = sample.patches.shape
    part = slice(None, None, max(1, n // enough(m)))
    patches, values = np.ascontiguousarray(sample.patches[part]), sample.values[part]
    inverse = cholesky.scaled_factor(sample.gram) if inverse is None else inverse
    size = np.sqrt(sample.weights[part]) / sample.roots[part]  # undoes the factors
    factors = np.ones(len(values))
    taps = np.zeros(m)
    middle = math.inf
    for _ in range(rounds):
        _descend(patches, values, factors, inverse, taps)
        before = middle
        left = np.abs(values - cholesky.times(patches, taps)) * size
        middle = float(np.median(left))
        if not 0 < middle < 0.995 * before:  # settled, or exact
            break
        factors = 1.0 / np.maximum(left, 0.01 * middle)
    return taps


def _descend(patches: Array, values: Array, factors: Array, inverse: Array, taps: Array) -> None:
    """Move the taps to about a sample's weighted least squares, by conjugate gradients without spinning BLAS."""
    from ..compiled import patch_sums

    image, direction = np.empty(len(taps)), np.zeros(len(taps))
    gradient = cholesky.times(patches.T, factors * (values - cholesky.times(patches, taps)))
    first, before = 0.0, math.inf
    for _ in range(_MOST_DESCENTS):
        step = cholesky.times(inverse, cholesky.times(inverse.T, gradient))
        size = float((step * gradient).sum())
        first = first or size
        if not size > _ENOUGH * first:
            break
        direction = step + (size / before) * direction
        before = size
        patch_sums.normal_product(patches, factors, direction, image)
        curvature = float((direction * image).sum())
        if not curvature > 0:
            break
        taps += (size / curvature) * direction
        gradient -= (size / curvature) * image
