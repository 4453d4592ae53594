"""Outliers in the target: how far each criterion holds them down, and a kernel that they hardly move to start from."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.linalg

from . import solve
from .iterate import Sample
from .pair import Array

ROBUST = (None, "huber", "tukey", "clip")
#: Residuals, in standard deviations, from which each criterion holds them down: 95 % efficient for Gaussian noise
# (P. Huber and E. Ronchetti, "Robust Statistics", 2nd ed., 2009, sections 4.6 and 4.8), and for "clip" nearly 100 %.
TUNING = {"huber": 1.345, "tukey": 4.685, "clip": 4.0}
#: Patches per tap from which the first kernel is found, and in all, at least.
_PER_TAP = 12
_LEAST = 2000


def factor(ratio: Array, robust: str) -> npt.NDArray[Any]:
    """Return by how much the weight of a residual is taken down that is so many times the tuning constant."""
    if robust == "clip":
        return ratio <= 1.0
    if robust == "huber":
        return 1.0 / np.maximum(ratio, 1.0)
    return np.square(np.maximum(0.0, 1.0 - ratio**2))


def slope(ratio: Array, robust: str) -> Array:
    """Return the derivative of the residual as held down, at such a ratio of the residual to the tuning constant."""
    if robust == "tukey":
        return np.where(ratio < 1.0, (1 - ratio**2) * (1 - 5 * ratio**2), 0.0)
    return (ratio <= 1.0).astype(np.float64)


def correction_of(standard: Array, robust: str) -> float:
    """Return the standard error of the robust fit over what weighted least squares with its weights would say.

    The asymptotic variance is ``mean(psi^2) / mean(psi')^2`` (Huber and Ronchetti, section 7.6), that of weighted least
    squares with weights ``psi(r) / r`` is ``mean(psi r) / mean(psi / r)``, the first over pixels that have a weight.
    """
    c = TUNING[robust]
    ratio = np.abs(standard) / c
    held = factor(ratio, robust)
    psi = held * standard
    some = held > 0
    naive = float(np.mean(psi[some] * standard[some])) / float(np.mean(held))
    own = float(np.mean(psi**2)) / float(np.mean(slope(ratio, robust))) ** 2
    return math.sqrt(own / naive) if naive > 0 and own > 0 else 1.0


def least_absolute(sample: Sample, rounds: int = 15) -> Array:
    """Return the kernel with about the smallest sum of absolute residuals over a sample, by reweighting.

    Outliers in the target hardly move it, however large they are and whatever they hold. It only starts the fit to all
    pixels, so of a large sample a part is enough.
    """
    n, m = sample.patches.shape
    part = slice(None, None, max(1, n // max(_LEAST, _PER_TAP * m)))
    patches, values = np.ascontiguousarray(sample.patches[part]), sample.values[part]
    chosen = 1.0 / sample.roots[part]  # undoes the factors
    size = np.sqrt(sample.weights[part])
    factors = np.ones(len(chosen))
    taps = np.zeros(m)
    middle = math.inf
    for _ in range(rounds):
        scaled = patches * np.sqrt(factors)[:, None]
        upper = scipy.linalg.blas.dsyrk(1.0, scaled.T)
        gram = np.triu(upper) + np.triu(upper, 1).T
        inverse = (solve.cholesky_factor(gram) or solve.eigen_factor(gram))[0]
        taps = inverse @ (inverse.T @ (scaled.T @ (values * np.sqrt(factors))))
        before = middle
        left = np.abs(values - patches @ taps) * chosen * size
        middle = float(np.median(left))
        if not 0 < middle < 0.99 * before:  # settled, or exact
            break
        factors = 1.0 / np.maximum(left, 0.01 * middle)
    return taps
