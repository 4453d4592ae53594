"""How a kernel varies over the field: functions of the place, each with a kernel of its own.

The kernel at a pixel q of the image is ``sum_j phi_j(q) k_j``, and the target ``sum_j k_j * (phi_j P)``: the weight
stands at the pixel that is spread, so that each ``phi_j P`` is one more source image with the lag structure of any
other. Places are scaled to ``[-1, 1]``, since powers of pixel numbers lose their rank to rounding.
"""

import base64
import dataclasses
import functools
import itertools
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from .polynomials import powers
from .validation import as_number, known

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]
Shape = tuple[int, int]
FLUXES = ("free", "constant")
#: Lets the data choose a degree.
AUTO = "auto"
_SAMPLE = 8  # places along each axis
_PIXELS = 12  # of functions that are given as arrays
# Rows that tell into which products of one function of the row and one of the column such a function falls, how many
# of those at most, and how small ones beside the largest.
_ROWS, _TERMS, _SMALL = 256, 8, 1e-4


class Weight(Protocol):
    """A function of the place, on the pixels of an image."""

    @property
    def T(self) -> "Weight":  # noqa: N802  as NumPy calls it
        """That of the transposed image."""
        ...

    def multiply(self, block: Array, rows: Index, cols: Index) -> None:
        """Multiply a block of some rows and columns of the image, in place."""
        ...

    def part(self, rows: slice | Index, cols: slice | Index) -> "Weight":
        """Return the function on some rows and columns of the image."""
        ...

    def squared(self) -> "Weight":
        """Return the square."""
        ...

    def products(self) -> Sequence[tuple[Array, Array]]:
        """Return functions of the row and of the column whose products add up to it, or nearly."""
        ...


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
        ...

    @property
    def levels(self) -> tuple[int, ...]:
        """How rough each function is: 0 for the constant, then the degree."""
        ...

    @property
    def flux(self) -> str:
        """Whether the sum of the kernel may vary."""
        ...

    def weights(self, shape: Shape) -> Sequence[Weight | None]:
        """Return the functions on the pixels of an image; None for 1."""
        ...

    def at(self, rows: Array, cols: Array, shape: Shape) -> Array:
        """Return the functions at some places, shape (functions, places)."""
        ...


def _scaled(at: Array, n: int) -> Array:
    """Return places along an axis of n pixels, so that -1 is the centre of the first and 1 that of the last."""
    return np.asarray(2.0 * at / (n - 1) - 1.0 if n > 1 else 0.0 * at, dtype=np.float64)


class Products:
    """Functions that are each one of the row times one of the column; the first is 1."""

    @property
    def _pairs(self) -> Sequence[Shape]:
        """Which function along the rows, and which along the columns, each is made of."""
        raise NotImplementedError

    def _along(self, axis: int, at: Array, n: int) -> Array:
        """Return the functions along an axis of n pixels at some places, shape (places, functions)."""
        raise NotImplementedError

    @property
    def n_functions(self) -> int:
        """Number of functions."""
        return len(self._pairs)

    def weights(self, shape: Shape) -> Sequence[Weight | None]:
        """Return the functions on the pixels of an image; None for 1.

        Parameters
        ----------
        shape : (int, int)
            Rows and columns of the image.
        """
        down, across = (self._along(axis, np.arange(n, dtype=np.float64), n) for axis, n in enumerate(shape))
        return [None, *(Separable(down[:, i].copy(), across[:, j].copy()) for i, j in self._pairs[1:])]

    def at(self, rows: Array, cols: Array, shape: Shape) -> Array:
        """Return the functions at some places, shape (functions, places).

        Parameters
        ----------
        rows, cols : ndarray
            The places.
        shape : (int, int)
            Rows and columns of the image.
        """
        down, across = (self._along(axis, at, n) for axis, at, n in zip((0, 1), (rows, cols), shape, strict=True))
        found = np.array([down[:, i] * across[:, j] for i, j in self._pairs])
        found[0] = 1.0
        return found


@dataclass(frozen=True)
class Polynomial(Products):
    """A kernel whose taps are polynomials of the place.

    ``k(q) = sum_ij P_i(u) P_j(v) k_ij`` over ``i + j <= degree``, P Legendre polynomials, u and v the row and the
    column of the pixel q that is spread, scaled so that -1 is the centre of the first pixel of the image and 1 that of
    the last.

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

    def __post_init__(self) -> None:
        """Check the settings."""
        try:
            if isinstance(self.degree, bool):
                raise TypeError
            degree = operator.index(self.degree)
        except TypeError:
            raise TypeError(f"got degree={self.degree!r}, need an int of at least 0") from None
        if degree < 0:
            raise ValueError(f"got degree={degree}, need at least 0")
        known(self.flux, FLUXES, "flux")
        object.__setattr__(self, "degree", degree)

    def __str__(self) -> str:
        """Say it in one line."""
        return f"polynomial of degree {self.degree}{'' if self.flux == 'free' else ', constant flux'}"

    @property
    def levels(self) -> tuple[int, ...]:
        """The total degree of each."""
        return tuple(i + j for i, j in self._pairs)

    @property
    def _pairs(self) -> Sequence[Shape]:
        return powers(self.degree)

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
        ``(knots + 4)^2`` functions, each with a kernel of its own.
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

    def __post_init__(self) -> None:
        """Check the settings."""
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
        """Say it in one line."""
        return f"spline over {self.knots} knots{'' if self.flux == 'free' else ', constant flux'}"

    @property
    def levels(self) -> tuple[int, ...]:
        """0 for the constant, 1 for all others."""
        return (0, *(1,) * (self.n_functions - 1))

    @property
    def _pairs(self) -> Sequence[Shape]:
        rows, cols = self.knots  # type: ignore[misc]
        return list(np.ndindex(rows + 4, cols + 4))

    def _along(self, axis: int, at: Array, n: int) -> Array:
        """Return the B-splines at places along an axis of n pixels, shape (places, knots + 4)."""
        import scipy.interpolate

        edges = np.concatenate([[-1.0] * 3, np.linspace(-1, 1, self.knots[axis] + 2), [1.0] * 3])  # type: ignore[index]
        inside = np.clip(_scaled(at, n), -1.0, 1.0)
        return np.asarray(scipy.interpolate.BSpline.design_matrix(inside, edges, 3).toarray())


@dataclass(frozen=True, eq=False)
class _Table:
    """A function of the place as its values on the pixels of an image."""

    values: Array

    @property
    def T(self) -> "_Table":  # noqa: N802
        """That of the transposed image."""
        return _Table(self.values.T)

    def multiply(self, block: Array, rows: Index, cols: Index) -> None:
        """Multiply a block of some rows and columns of the image, in place."""
        block *= self.values[rows[:, None], cols]

    def part(self, rows: slice | Index, cols: slice | Index) -> "_Table":
        """Return the function on some rows and columns of the image."""
        return _Table(self.values[rows][:, cols])

    def squared(self) -> "_Table":
        """Return the square."""
        return _Table(self.values**2)

    def products(self) -> Sequence[tuple[Array, Array]]:
        """Return the largest terms of its singular value decomposition, from a sample of the rows if there are many."""
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
    functions : array_like, shape (functions, rows, cols)
        The functions on the pixels of the image that is spread. A kernel that is the same everywhere is among them only
        where a function is 1. Between pixels they are interpolated linearly. Of about the same size they are best.
    flux : {"free", "constant"}, optional
        Whether the sum of the kernel may vary too (default), or is the same everywhere; the first function is 1 then.

    Raises
    ------
    TypeError
        If the functions are not real numbers.
    ValueError
        If they have not three dimensions, are not finite, or, for a constant flux, the first is not 1.

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
        if given.dtype.kind not in "biuf":
            raise TypeError(f"got functions of dtype {given.dtype}, need real numbers")
        if given.ndim != 3 or 0 in given.shape:
            raise ValueError(f"got functions of shape {given.shape}, need (functions, rows, cols), one at least")
        table = np.array(given, dtype=np.float64)
        if not np.isfinite(table).all():
            raise ValueError("got functions that are NaN or infinite somewhere, need finite ones on all of the image")
        known(self.flux, FLUXES, "flux")
        if self.flux == "constant" and not (table[0] == 1).all():
            raise ValueError(
                "got flux='constant' with a first function that is not 1, need np.ones(...) before the others"
            )
        table.setflags(write=False)
        object.__setattr__(self, "functions", table)

    def __eq__(self, other: object) -> bool:
        """Say whether two have the same functions."""
        return self is other or (
            isinstance(other, Basis) and self.flux == other.flux and np.array_equal(self.functions, other.functions)
        )

    def __hash__(self) -> int:
        """Return the same number for the same functions."""
        return hash((self.functions.shape, self.flux, self.functions[:, :1].tobytes()))

    def __str__(self) -> str:
        """Say it in one line."""
        n = self.n_functions
        return f"basis of {n} function{'s'[: n > 1]}{'' if self.flux == 'free' else ', constant flux'}"

    def __repr__(self) -> str:
        """Say it in one line, without the numbers."""
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
        """That of the transposed image."""
        return _Product(self.first.T, self.second.T)

    def multiply(self, block: Array, rows: Index, cols: Index) -> None:
        """Multiply a block of some rows and columns of the image, in place."""
        self.first.multiply(block, rows, cols)
        self.second.multiply(block, rows, cols)

    def part(self, rows: slice | Index, cols: slice | Index) -> "_Product":
        """Return the function on some rows and columns of the image."""
        return _Product(self.first.part(rows, cols), self.second.part(rows, cols))

    def squared(self) -> "_Product":
        """Return the square."""
        return _Product(self.first.squared(), self.second.squared())

    def products(self) -> Sequence[tuple[Array, Array]]:
        """Return the products of the terms of both."""
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
        if isinstance(self.variation, Basis):
            table = np.ascontiguousarray(self.variation.functions, dtype="<f8")
            fields["functions"] = {"shape": list(table.shape), "float64": base64.b64encode(table.tobytes()).decode()}
        return {"variation": fields, "shape": self.shape}

    def sample(self) -> tuple[Array, Array]:
        """Return the functions at places over the image, shape (functions, places), and each place's share of it.

        Means over the image are sums over these places (Gauss and Legendre's quadrature).
        """
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
        return None if found.n_functions == 1 and found.levels == (0,) else found
    try:
        if isinstance(value, bool):
            raise TypeError
        degree = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(
            f"got variation={value!r}, need None, 'auto', a degree (0, 1, 2, ...), a Polynomial, a Spline or a Basis"
        ) from None
    if degree < 0:
        raise ValueError(f"got variation={degree}, need None or a degree of at least 0")
    return Polynomial(degree) if degree else None


def field_from(stored: Any) -> Field | None:
    """Rebuild a field from its stored values."""
    if stored is None:
        return None
    fields, (rows, cols) = dict(stored["variation"]), stored["shape"]
    kind = next(kind for name, kind in _KINDS.items() if name in fields)
    if kind is Basis:
        shape = tuple(map(operator.index, fields["functions"]["shape"]))
        data = np.frombuffer(base64.b64decode(fields["functions"]["float64"], validate=True), dtype="<f8")
        fields["functions"] = data.reshape(shape)
        if shape[1:] != (rows, cols):
            raise ValueError(f"got functions of shape {shape} for images of {rows}x{cols}")
    return Field(kind(**fields), (operator.index(rows), operator.index(cols)))
