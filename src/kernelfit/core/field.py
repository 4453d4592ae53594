"""The functions of the place that a kernel varies by: given as arrays, products of others, and laid on an image."""

import base64
import dataclasses
import functools
import itertools
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .validation import Array, as_count, as_number, known
from .variation import AUTO, FLUXES, Index, Polynomial, Shape, Spline, Variation, Weight

_SAMPLE = 8  # places along each axis
_PIXELS = 12  # of functions that are given as arrays


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


#: Each kind by the setting that it alone has.
_KINDS: dict[str, Any] = {"degree": Polynomial, "knots": Spline, "functions": Basis}


@dataclass(frozen=True)
class Field:
    """A variation laid on images of one shape."""

    variation: Any  # the functions
    shape: Shape  # rows and columns of the image

    @property
    def n(self) -> int:
        """Number of functions."""
        return int(self.variation.n_functions)

    @functools.cached_property
    def weights(self) -> Sequence[Weight | None]:
        """The functions on the pixels of the image; None for 1."""
        found: Sequence[Weight | None] = self.variation.weights(self.shape)
        return found

    def stored(self) -> dict[str, Any]:
        """Return it as plain values, as files hold it."""
        fields = {one.name: getattr(self.variation, one.name) for one in dataclasses.fields(self.variation)}
        if fields.get("_axes") == (0, 1):  # as of all images of more than one row and column
            del fields["_axes"]
        if isinstance(self.variation, Basis):
            table = np.ascontiguousarray(self.variation.functions, dtype="<f8")
            fields["functions"] = {"shape": list(table.shape), "float64": base64.b64encode(table.tobytes()).decode()}
        return {"variation": fields, "shape": self.shape}

    def sample(self) -> tuple[Array, Array]:
        """Return the functions at places over the image, and each one's share of a mean (Gauss and Legendre)."""
        if isinstance(self.variation, Basis):  # of which nothing is known between the pixels
            counts = [min(n, _PIXELS) for n in self.shape]
            axes = [(np.arange(k) + 0.5) * n / k - 0.5 for n, k in zip(self.shape, counts, strict=True)]
            grid = [one.ravel() for one in np.meshgrid(*axes, indexing="ij")]
            return self.variation.at(grid[0], grid[1], self.shape), np.full(grid[0].size, 1 / grid[0].size)
        nodes, share = np.polynomial.legendre.leggauss(_SAMPLE)
        rows, cols = (0.5 * (n * (nodes + 1) - 1) for n in self.shape)
        found: Array = self.variation.at(np.repeat(rows, _SAMPLE), np.tile(cols, _SAMPLE), self.shape)
        return found, np.multiply.outer(share, share).ravel() / 4

    def at(self, row: float, col: float) -> Array:
        """Return the functions at one place, which must lie in the image."""
        places = as_number(row, "row"), as_number(col, "col")
        if not all(-0.5 <= p <= n - 0.5 for p, n in zip(places, self.shape, strict=True)):
            raise ValueError(
                f"got the place ({row!r:.60}, {col!r:.60}), need one row and one column of an image of {self.shape}"
            )
        found: Array = self.variation.at(np.array(places[:1]), np.array(places[1:]), self.shape)
        return found[:, 0]

    def surface(self, coefficients: Array, rows: Array, cols: Array) -> Array:
        """Return sums of the functions at the crossings of some rows and columns, shape (..., rows, cols)."""
        at = np.broadcast_arrays(rows[:, None], cols)
        values: Array = self.variation.at(at[0].ravel(), at[1].ravel(), self.shape)
        return np.asarray((coefficients @ values).reshape(*coefficients.shape[:-1], len(rows), len(cols)))


def as_variation(value: object) -> "Variation | str | None":
    """Return the variation meant by what a user may write; None for a kernel that is the same everywhere."""
    if value is None or (isinstance(value, str) and value == AUTO):
        return value
    if isinstance(value, tuple(_KINDS.values())):
        found: Any = value
        one = found.n_functions == 1 and found.levels == (0,) and np.all(getattr(found, "functions", 1) == 1)
        return None if one else found
    need = "None, 'auto', a degree (0, 1, 2, ...), a Polynomial, a Spline or a Basis"
    degree = as_count(value, "variation", need, 0)
    return Polynomial(degree) if degree else None


def field_from(stored: Any) -> Field | None:
    """Rebuild a field from its stored values."""
    if stored is None:
        return None
    fields, (rows, cols) = dict(stored["variation"]), stored["shape"]
    if "_axes" in fields:
        fields["_axes"] = tuple(map(operator.index, fields["_axes"]))
    kind = next(kind for name, kind in _KINDS.items() if name in fields)
    if kind is Basis:
        shape = tuple(map(operator.index, fields["functions"]["shape"]))
        data = np.frombuffer(base64.b64decode(fields["functions"]["float64"], validate=True), dtype="<f8")
        fields["functions"] = data.reshape(shape)
        if shape[1:] != (rows, cols):
            raise ValueError(f"got functions of shape {shape} for images of {rows}x{cols}")
    return Field(kind(**fields), (operator.index(rows), operator.index(cols)))


@dataclass(frozen=True, eq=False)
class Omitted:
    """What polynomials of higher degrees would add to a kernel, and how those that are fitted make up for it.

    Both are unknown, of mean zero: ``sum_fi phi_f(q) mix[f, i, c] shapes[i] x_c`` at a place q, the x being independent
    numbers of variance 1.
    """

    shapes: Array  # (shapes, rows, cols), orthonormal
    mix: Array  # (functions, shapes, columns); those fitted, then those of the next degrees

    @property
    def degree(self) -> int:
        """The highest degree."""
        return next(d for d in range(len(self.mix)) if Polynomial(d).n_functions >= len(self.mix))

    def factor(self, row: float, col: float, shape: Shape) -> Array:
        """Return F of the covariance ``F F'`` of the taps at a place of an image of a shape."""
        values = Polynomial(self.degree).at(np.array([float(row)]), np.array([float(col)]), shape)[:, 0]
        return np.asarray(self.shapes.reshape(len(self.shapes), -1).T @ np.tensordot(values, self.mix, 1))
