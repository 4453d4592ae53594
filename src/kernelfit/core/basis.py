"""Functions of the place that are given as arrays, and products of functions."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .validation import Array, known
from .variation import FLUXES, Index, Shape, Variation, Weight

# Rows that tell into which products of one function of the row and one of the column such a function falls, how many
# of those at most, and how small ones beside the largest.
_ROWS, _TERMS, _SMALL = 256, 8, 1e-4


@dataclass(frozen=True, eq=False)
class _Table:
    """A function of the place as its values on the pixels of an image."""

    values: Array

    @property
    def T(self) -> "_Table":  # noqa: N802
        return _Table(self.values.T)

    def multiply(self, block: Array, rows: Index, cols: Index) -> None:
        block *= self.values[rows[:, None], cols]

    def part(self, rows: slice | Index, cols: slice | Index) -> "_Table":
        return _Table(self.values[rows][:, cols])

    def squared(self) -> "_Table":
        return _Table(self.values**2)

    def products(self) -> Sequence[tuple[Array, Array]]:
        rows = np.unique(np.linspace(0, len(self.values) - 1, min(len(self.values), _ROWS)).astype(int))
        sizes, across = np.linalg.svd(self.values[rows], full_matrices=False)[1:]
        across = across[: max(1, int(np.count_nonzero(sizes[:_TERMS] > _SMALL * sizes[0])))]
        return list(zip((self.values @ across.T).T, across, strict=True))


@dataclass(frozen=True, eq=False, repr=False)
class Basis:
    """A kernel whose taps are sums of functions of the place that are given as arrays.

    ``k(q) = sum_j f_j(q) k_j``: a temperature over a mirror, which of several chips a pixel belongs to, the modes of an
    optical design.

    Parameters
    ----------
    functions : array_like, shape (functions, rows, cols), of signals (functions, samples)
        The functions on the pixels of the image that is spread. A kernel that is the same everywhere is among them only
        where a function is 1. Between pixels they are interpolated linearly. Of about the same size they are best.
    flux : {"free", "constant"}, optional
        Whether the sum of the kernel may vary too (default), or is the same everywhere; the first function is 1 then.

    Raises
    ------
    TypeError
        If the functions are not real numbers.
    ValueError
        If they have not three dimensions, are not finite, one is 0 everywhere, or, for a constant flux, the first is
        not 1.

    Examples
    --------
    >>> import numpy as np, kernelfit
    >>> image = np.random.default_rng(0).random((60, 50))
    >>> left = np.arange(50) < 20  # two chips side by side, of different gain
    >>> chips = np.broadcast_to([left, ~left], (60, 2, 50)).swapaxes(0, 1)
    >>> fit = kernelfit.find_kernel(image, image * np.where(left, 2, 3), 1, variation=kernelfit.Basis(chips))
    >>> fit.at(0, 10).kernel.round(9), fit.at(0, 40).kernel.round(9)
    (array([[2.]]), array([[3.]]))
    """

    functions: Any
    flux: str = "free"

    def __post_init__(self) -> None:
        """Check the settings; keep a copy that nobody changes."""
        given = np.asarray(self.functions)
        given = given[:, None] if given.ndim == 2 else given
        if given.dtype.kind not in "biuf":
            raise TypeError(f"got functions of dtype {given.dtype}, need real numbers")
        if given.ndim != 3 or 0 in given.shape:
            raise ValueError(
                f"got functions of shape {given.shape}, need (functions, rows, cols), of signals (functions, samples), "
                "one at least"
            )
        table = np.array(given, dtype=np.float64)
        if not np.isfinite(table).all():
            raise ValueError("got functions that are NaN or infinite somewhere, need finite ones on all of the image")
        known(self.flux, FLUXES, "flux")
        nothing = np.flatnonzero(~table.any(axis=(1, 2)))
        if len(nothing):
            raise ValueError(
                f"got function {nothing[0]} of {len(table)} (from 0) that is 0 everywhere, need functions that tell "
                "one place from another, or that are 1; leave it out"
            )
        if self.flux == "constant" and not (table[0] == 1).all():
            raise ValueError(
                "got flux='constant' with a first function that is not 1, need np.ones(...) before the others"
            )
        table.setflags(write=False)
        object.__setattr__(self, "functions", table)

    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, Basis) and self.flux == other.flux and np.array_equal(self.functions, other.functions)
        )

    def __hash__(self) -> int:
        return hash((self.functions.shape, self.flux, self.functions[:, :1].tobytes()))

    def __str__(self) -> str:
        n = self.n_functions
        return f"basis of {n} function{'s'[: n > 1]}{'' if self.flux == 'free' else ', constant flux'}"

    def __repr__(self) -> str:
        return f"Basis(functions{'' if self.flux == 'free' else f', flux={self.flux!r}'})"

    @property
    def n_functions(self) -> int:
        """Number of functions."""
        return len(self.functions)

    @property
    def levels(self) -> tuple[int, ...]:
        """0 for functions that are the same everywhere, 1 for others."""
        return tuple(int(np.ptp(one) > 0) for one in self.functions)

    def weights(self, shape: Shape) -> Sequence[Weight | None]:
        """Return the functions on the pixels of an image; None for 1.

        Parameters
        ----------
        shape : (int, int)
            Rows and columns of the image.
        """
        if self.functions.shape[1:] != tuple(shape):
            raise ValueError(
                f"got functions on {self.functions.shape[1]}x{self.functions.shape[2]} pixels for an image of "
                f"{shape[0]}x{shape[1]}, need one value for each of its pixels"
            )
        return [None if (one == 1).all() else _Table(one) for one in self.functions]

    def at(self, rows: Array, cols: Array, shape: Shape) -> Array:
        """Return the functions at some places, shape (functions, places).

        Parameters
        ----------
        rows, cols : ndarray
            The places.
        shape : (int, int)
            Rows and columns of the image.
        """
        import scipy.ndimage

        places = [rows, cols]
        return np.array([scipy.ndimage.map_coordinates(f, places, order=1, mode="nearest") for f in self.functions])


@dataclass(frozen=True, eq=False)
class _Product:
    """The product of two functions of the place."""

    first: Weight
    second: Weight

    @property
    def T(self) -> "_Product":  # noqa: N802
        return _Product(self.first.T, self.second.T)

    def multiply(self, block: Array, rows: Index, cols: Index) -> None:
        self.first.multiply(block, rows, cols)
        self.second.multiply(block, rows, cols)

    def part(self, rows: slice | Index, cols: slice | Index) -> "_Product":
        return _Product(self.first.part(rows, cols), self.second.part(rows, cols))

    def squared(self) -> "_Product":
        return _Product(self.first.squared(), self.second.squared())

    def products(self) -> Sequence[tuple[Array, Array]]:
        return [(a * c, b * d) for a, b in self.first.products() for c, d in self.second.products()]


@dataclass(frozen=True, eq=False)
class Pairs:
    """The products of the functions of a variation, each two of them once: what the square of a kernel varies by."""

    variation: Variation
    flux = "free"

    @property
    def _pairs(self) -> list[Shape]:
        return list(itertools.combinations_with_replacement(range(self.variation.n_functions), 2))

    @property
    def n_functions(self) -> int:
        """Number of functions."""
        return len(self._pairs)

    @property
    def levels(self) -> tuple[int, ...]:
        """How rough each function is."""
        return tuple(self.variation.levels[i] + self.variation.levels[j] for i, j in self._pairs)

    def weights(self, shape: Shape) -> Sequence[Weight | None]:
        """Return the functions on the pixels of an image; None for 1."""
        own = self.variation.weights(shape)
        both = [(own[i], own[j]) for i, j in self._pairs]
        return [
            second if first is None else first if second is None else _Product(first, second) for first, second in both
        ]

    def at(self, rows: Array, cols: Array, shape: Shape) -> Array:
        """Return the functions at some places, shape (functions, places)."""
        values = self.variation.at(rows, cols, shape)
        return np.array([values[i] * values[j] for i, j in self._pairs])
