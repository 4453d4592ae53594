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


def factor(ratio: Array, robust: str) -> npt.NDArray[Any]:
    """Return by how much the weight of a residual is taken down that is so many times the tuning constant."""
    if robust == "clip":
        return ratio <= 1.0
    if robust == "huber":
        return 1.0 / np.maximum(ratio, 1.0)
    return np.square(np.maximum(0.0, 1.0 - ratio**2))


def correction_of(standard: Array, robust: str) -> float:
    """Return the standard error of the robust fit over what weighted least squares with its weights would say.

    The asymptotic variance is ``mean(psi^2) / mean(psi')^2`` (Huber and Ronchetti, section 7.6), that of weighted least
    squares with weights ``psi(r) / r`` is ``mean(psi r) / mean(psi / r)``, the first over pixels that have a weight.
    """
    c = TUNING[robust]
    ratio = np.abs(standard) / c
    held = factor(ratio, robust)
    psi = held * standard
    if robust == "clip" or robust == "huber":
        slope = (ratio <= 1.0).astype(np.float64)
    else:
        slope = np.where(ratio < 1.0, (1 - ratio**2) * (1 - 5 * ratio**2), 0.0)
    some = held > 0
    naive = float(np.mean(psi[some] * standard[some])) / float(np.mean(held))
    own = float(np.mean(psi**2)) / float(np.mean(slope)) ** 2
    return math.sqrt(own / naive) if naive > 0 and own > 0 else 1.0


def least_absolute(sample: Sample, rounds: int = 15) -> Array:
    """Return the kernel with the smallest sum of absolute residuals over a sample, by reweighting.

    Outliers in the target hardly move it, however large they are and whatever they hold.
    """
    chosen = 1.0 / sample.roots  # undoes the factors
    size = np.sqrt(sample.weights)
    factors = np.ones(len(chosen))
    taps = np.zeros(sample.patches.shape[1])
    middle = math.inf
    for _ in range(rounds):
        scaled = sample.patches * np.sqrt(factors)[:, None]
        upper = scipy.linalg.blas.dsyrk(1.0, scaled.T)
        gram = np.triu(upper) + np.triu(upper, 1).T
        inverse = (solve.cholesky_factor(gram) or solve.eigen_factor(gram))[0]
        taps = inverse @ (inverse.T @ (scaled.T @ (sample.values * np.sqrt(factors))))
        before = middle
        left = np.abs(sample.values - sample.patches @ taps) * chosen * size
        middle = float(np.median(left))
        if not 0 < middle < 0.995 * before:  # settled, or exact
            break
        factors = 1.0 / np.maximum(left, 0.01 * middle)
    return taps
