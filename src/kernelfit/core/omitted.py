"""What the functions of the place leave out of a kernel that varies over the field, as far as that is known."""

from dataclasses import dataclass

import numpy as np

from .validation import Array
from .variation import Polynomial, Shape


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
