"""Legendre polynomials on the pixels of an image, up to a total degree."""

import math

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def powers(degree: int) -> list[tuple[int, int]]:
    """Return the degrees (i, j) of the terms, i + j <= degree, the lowest first."""
    return [(i, total - i) for total in range(degree + 1) for i in range(total + 1)]


def powers_of_volume(degree: int) -> list[tuple[int, int, int]]:
    """Return the degrees (i, j, k) of the terms along three axes, i + j + k <= degree, the lowest first."""
    return [
        (total - i - j, j, i) for total in range(degree + 1) for i in range(total + 1) for j in range(total - i + 1)
    ]


def n_terms(degree: int, ndim: int = 2) -> int:
    """Return the number of terms."""
    return math.comb(degree + ndim, ndim)


def legendre(n: int, degree: int) -> Array:
    """Return the Legendre polynomials up to `degree` at the n pixels of an axis, shape (n, degree + 1)."""
    if n == 1:  # along which nothing but the constant can be told
        return np.eye(1, degree + 1)
    return np.asarray(np.polynomial.legendre.legvander(np.linspace(-1.0, 1.0, n), degree))
