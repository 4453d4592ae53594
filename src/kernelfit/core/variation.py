"""How a kernel varies over the field: functions of the place, each with a kernel of its own.

The kernel at a pixel q of the image is ``sum_j phi_j(q) k_j``, and the target ``sum_j k_j * (phi_j P)``: the weight
stands at the pixel that is spread, so that each ``phi_j P`` is one more source image with the lag structure of any
other. Places are scaled to ``[-1, 1]``, since powers of pixel numbers lose their rank to rounding.
"""

import dataclasses
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt

from .validation import Array, as_count, known

Index = npt.NDArray[np.intp]
Shape = tuple[int, int]
FLUXES = ("free", "constant")
#: Lets the data choose a degree.
AUTO = "auto"


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


class Weight(Protocol):
    """A function of the place, on the pixels of an image."""

    @property
    def T(self) -> "Weight":  # noqa: N802  as NumPy calls it
        """That of the transposed image."""

    def multiply(self, block: Array, rows: Index, cols: Index) -> None:
        """Multiply a block of some rows and columns of the image, in place."""

    def part(self, rows: slice | Index, cols: slice | Index) -> "Weight":
        """Return the function on some rows and columns of the image."""

    def squared(self) -> "Weight":
        """Return the square."""

    def products(self) -> Sequence[tuple[Array, Array]]:
        """Return functions of the row and of the column whose products add up to it, or nearly."""


@dataclass(frozen=True, eq=False)
class Separable:
    """A function of the row times one of the column; never held whole."""

    down: Array
    across: Array

    @property
    def T(self) -> "Separable":  # noqa: N802
        """That of the transposed image."""
        return Separable(self.across, self.down)

    def multiply(self, block: Array, rows: Index, cols: Index) -> None:
        """Multiply a block of some rows and columns of the image, in place."""
        block *= self.down[rows, None]
        block *= self.across[cols]

    def part(self, rows: slice | Index, cols: slice | Index) -> "Separable":
        """Return the function on some rows and columns of the image."""
        return Separable(self.down[rows], self.across[cols])

    def squared(self) -> "Separable":
        """Return the square."""
        return Separable(self.down**2, self.across**2)

    def products(self) -> Sequence[tuple[Array, Array]]:
        """Return the two functions."""
        return [(self.down, self.across)]


class Variation(Protocol):
    """Functions of the place."""

    @property
    def n_functions(self) -> int:
        """Number of functions; the first one is 1 unless they are given as arrays."""

    @property
    def levels(self) -> tuple[int, ...]:
        """How rough each function is: 0 for the constant, then the degree."""

    @property
    def flux(self) -> str:
        """Whether the sum of the kernel may vary."""

    def weights(self, shape: Shape) -> Sequence[Weight | None]:
        """Return the functions on the pixels of an image; None for 1."""

    def at(self, rows: Array, cols: Array, shape: Shape) -> Array:
        """Return the functions at some places, shape (functions, places)."""


def _scaled(at: Array, n: int) -> Array:
    """Return places along an axis of n pixels, so that -1 is the centre of the first and 1 that of the last."""
    return np.asarray(2.0 * at / (n - 1) - 1.0 if n > 1 else 0.0 * at, dtype=np.float64)


class Products:
    """Functions that are each one of the row times one of the column; the first is 1."""

    #: Along which axes they vary: not along one of a single pixel, as signals have.
    _axes: tuple[int, ...]

    def on(self, shape: Shape) -> Self:
        """Return the functions for images of a shape, those alone that differ there."""
        if self._finest >= max(shape):
            raise ValueError(
                f"got a variation that is a {self} for images of {shape[0]} x {shape[1]} pixels, which cannot tell as "
                "many functions apart; need a lower degree, or fewer knots"
            )
        axes = tuple(axis for axis in self._axes if shape[axis] > 1)
        return dataclasses.replace(self, _axes=axes) if axes else self  # type: ignore[type-var]

    @property
    def _finest(self) -> int:
        """The degree, or the most knots along an axis."""
        raise NotImplementedError

    @property
    def _pairs(self) -> Sequence[Shape]:
        """Which function along the rows, and which along the columns, each is made of."""
        raise NotImplementedError

    def _along(self, axis: int, at: Array, n: int) -> Array:
        """Return the functions along an axis of n pixels at some places, shape (places, functions)."""
        raise NotImplementedError

    @property
    def n_functions(self) -> int:
        """Number of functions, told without a list of them."""
        raise NotImplementedError

    def weights(self, shape: Shape) -> Sequence[Weight | None]:
        """Return the functions on the pixels of an image; None for 1."""
        down, across = (self._along(axis, np.arange(n, dtype=np.float64), n) for axis, n in enumerate(shape))
        return [None, *(Separable(down[:, i].copy(), across[:, j].copy()) for i, j in self._pairs[1:])]

    def at(self, rows: Array, cols: Array, shape: Shape) -> Array:
        """Return the functions at some places, shape (functions, places)."""
        down, across = (self._along(axis, at, n) for axis, at, n in zip((0, 1), (rows, cols), shape, strict=True))
        found = np.array([down[:, i] * across[:, j] for i, j in self._pairs])
        found[0] = 1.0
        return found


@dataclass(frozen=True)
class Polynomial(Products):
    """A kernel whose taps are polynomials of the place.

    ``k(q) = sum_ij P_i(u) P_j(v) k_ij`` over ``i + j <= degree``, P Legendre polynomials, u and v the row and the
    column of the pixel q that is spread, scaled so that -1 is the centre of the first pixel of the image and 1 that of
    the last. Of signals, as of images of one row, they are ``sum_j P_j(v) k_j``, v the time.

    Parameters
    ----------
    degree : int
        Largest total degree; 0 is the same kernel everywhere.
    flux : {"free", "constant"}, optional
        Whether the sum of the kernel may vary too (default), or is the same everywhere.

    Raises
    ------
    TypeError
        If the degree is no int.
    ValueError
        If the degree is negative, or the flux unknown.

    References
    ----------
    C. Alard, "Image subtraction using a space-varying kernel", A&AS 144 (2000) 363, section 2, doi:10.1051/aas:2000214.

    Examples
    --------
    >>> import numpy as np, kernelfit
    >>> image = np.random.default_rng(0).random((60, 50))
    >>> target = image * np.linspace(1, 2, 60)[:, None]
    >>> fit = kernelfit.find_kernel(image, target, 1, variation=kernelfit.Polynomial(1))
    >>> fit.at(0, 10).kernel.round(9), fit.at(59, 10).kernel.round(9)
    (array([[1.]]), array([[2.]]))
    """

    degree: int
    flux: str = "free"
    _axes: tuple[int, ...] = field(default=(0, 1), repr=False, kw_only=True)

    def __post_init__(self) -> None:
        degree = as_count(self.degree, "degree", "an int of at least 0", 0)
        known(self.flux, FLUXES, "flux")
        object.__setattr__(self, "degree", degree)

    def __str__(self) -> str:
        return f"polynomial of degree {self.degree}{'' if self.flux == 'free' else ', constant flux'}"

    @property
    def levels(self) -> tuple[int, ...]:
        """The total degree of each."""
        return tuple(i + j for i, j in self._pairs)

    @property
    def _finest(self) -> int:
        return self.degree

    @property
    def n_functions(self) -> int:
        """Number of functions."""
        return math.comb(self.degree + len(self._axes), self.degree)

    @property
    def _pairs(self) -> Sequence[Shape]:
        return [both for both in powers(self.degree) if all(axis in self._axes or not both[axis] for axis in (0, 1))]

    def _along(self, axis: int, at: Array, n: int) -> Array:
        found = np.polynomial.legendre.legvander(_scaled(at, n), self.degree)
        if n == 1:  # along which nothing but the constant can be told
            found[:, 1:] = 0.0
        return np.asarray(found)


@dataclass(frozen=True)
class Spline(Products):
    """A kernel whose taps are cubic splines of the place.

    The functions are 1 and the products of a cubic B-spline of the row and one of the column, over evenly spaced knots
    from edge to edge of the image, but for the first, which the others and 1 make up.

    Parameters
    ----------
    knots : int or (int, int)
        Number of knots between the edges along rows and columns; 0 is a cubic polynomial along either axis. There are
        ``(knots + 4)^2`` functions, each with a kernel of its own; ``knots + 4`` of signals.
    flux : {"free", "constant"}, optional
        Whether the sum of the kernel may vary too (default), or is the same everywhere.

    Raises
    ------
    TypeError
        If the knots are no ints.
    ValueError
        If there are fewer than 0, or the flux is unknown.

    References
    ----------
    C. de Boor, "A Practical Guide to Splines" (1978), chapter IX.

    Examples
    --------
    >>> import numpy as np, kernelfit
    >>> image = np.random.default_rng(0).random((60, 50))
    >>> target = image * np.linspace(1, 2, 60)[:, None] ** 3
    >>> fit = kernelfit.find_kernel(image, target, 1, variation=kernelfit.Spline(0))
    >>> fit.at(0, 10).kernel.round(9), fit.at(59, 10).kernel.round(9)
    (array([[1.]]), array([[8.]]))
    """

    knots: int | Shape
    flux: str = "free"
    _axes: tuple[int, ...] = field(default=(0, 1), repr=False, kw_only=True)

    def __post_init__(self) -> None:
        try:
            both = list(self.knots) if isinstance(self.knots, (list, tuple)) else [self.knots] * 2
            if any(isinstance(one, bool) for one in both):
                raise TypeError
            rows, cols = (operator.index(one) for one in both)
        except (TypeError, ValueError):
            raise TypeError(f"got knots={self.knots!r}, need an int or a pair of ints (rows, columns)") from None
        if min(rows, cols) < 0:
            raise ValueError(f"got knots={self.knots!r}, need at least 0 along each axis")
        known(self.flux, FLUXES, "flux")
        object.__setattr__(self, "knots", (rows, cols))

    def __str__(self) -> str:
        return f"spline over {self.knots} knots{'' if self.flux == 'free' else ', constant flux'}"

    @property
    def levels(self) -> tuple[int, ...]:
        """0 for the constant, 1 for all others."""
        return (0, *(1,) * (self.n_functions - 1))

    @property
    def _finest(self) -> int:
        return max(self.knots)  # type: ignore[arg-type]

    @property
    def n_functions(self) -> int:
        """Number of functions."""
        return math.prod(self.knots[axis] + 4 for axis in self._axes)  # type: ignore[index, misc]

    @property
    def _pairs(self) -> Sequence[Shape]:
        sides = (n + 4 if axis in self._axes else 1 for axis, n in enumerate(self.knots))  # type: ignore[arg-type]
        return list(np.ndindex(*sides))

    def _along(self, axis: int, at: Array, n: int) -> Array:
        """Return the B-splines at places along an axis of n pixels, shape (places, knots + 4)."""
        import scipy.interpolate

        if axis not in self._axes:
            return np.ones((len(at), 1))
        edges = np.concatenate([[-1.0] * 3, np.linspace(-1, 1, self.knots[axis] + 2), [1.0] * 3])  # type: ignore[index]
        inside = np.clip(_scaled(at, n), -1.0, 1.0)
        return np.asarray(scipy.interpolate.BSpline.design_matrix(inside, edges, 3).toarray())
