"""The functions of the place that a kernel varies by, on the pixels of an image."""

import base64
import dataclasses
import functools
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .basis import Basis
from .validation import Array, as_count, as_number
from .variation import AUTO, Polynomial, Shape, Spline, Variation, Weight

_SAMPLE = 8  # places along each axis
_PIXELS = 12  # of functions that are given as arrays
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
