"""A printed target under a camera: where each pixel of the capture looks on it, and what is to be seen there."""

import dataclasses
import functools
import operator
from dataclasses import dataclass

import numpy as np
import scipy  # whose parts are imported when first used: some take a second

from ..core.geometry import Shape
from ..core.validation import Array

#: Fine pixels on either side of one that its value is taken from.
_REACH = 4


@dataclass(frozen=True, eq=False)
class Warp:
    """From pixels of the capture to cells of the pattern: a homography after a polynomial displacement."""

    #: (4, 2); where the pattern's outer corners lie in the capture but for the displacement, (row, column), in the
    #: order top left, top right, bottom right, bottom left of the pattern
    corners: Array
    shape: Shape  # rows and columns of cells
    #: centre, radius: what coordinates are scaled by for the displacement
    centre: Array
    radius: float
    #: (terms, 2); the displacement in pixels of the capture: those of the monomials of degree 2, 3 and so on
    coefficients: Array

    @classmethod
    def of(cls, corners: Array, shape: Shape, degree: int = 0) -> "Warp":
        """Return the plain homography of four corners."""
        centre = corners.mean(axis=0)
        radius = float(np.linalg.norm(corners - centre, axis=1).max())
        return cls(np.asarray(corners, dtype=np.float64), shape, centre, radius, np.zeros((len(powers(degree)), 2)))

    @functools.cached_property
    def matrix(self) -> Array:
        """The homography, shape (3, 3), from (row, column, 1) of the capture to cells."""
        rows, cols = (n - 0.5 for n in self.shape)
        return homography(self.corners, np.array([[-0.5, -0.5], [-0.5, cols], [rows, cols], [rows, -0.5]]))

    @property
    def parameters(self) -> Array:
        """Corners and coefficients, one after the other."""
        return np.concatenate([self.corners.ravel(), self.coefficients.ravel()])

    def with_parameters(self, values: Array) -> "Warp":
        """Return the warp of other parameters."""
        corners, rest = values[:8].reshape(4, 2), values[8:].reshape(-1, 2)
        return dataclasses.replace(self, corners=corners, coefficients=rest)

    def moved(self, row: float, col: float) -> "Warp":
        """Return the warp of a pattern that lies further down and to the right in the capture."""
        by = np.array([row, col])
        return dataclasses.replace(self, corners=self.corners + by, centre=self.centre + by)

    def __call__(self, rows: Array, cols: Array) -> tuple[Array, Array]:
        """Return the cells that places of the capture look on, as fractions."""
        return self._projected(*self._displaced(rows, cols))

    def _terms(self, rows: Array, cols: Array) -> list[Array]:
        """Return the monomials of the displacement at places of the capture."""
        r, c = (rows - self.centre[0]) / self.radius, (cols - self.centre[1]) / self.radius
        return [r**i * c**j for i, j in powers(_degree(len(self.coefficients)))]

    def _displaced(self, rows: Array, cols: Array) -> tuple[Array, Array]:
        """Return places moved by the displacement."""
        if not self.coefficients.any():
            return rows, cols
        by = [np.tensordot(own, self._terms(rows, cols), 1) for own in self.coefficients.T]
        return rows + by[0], cols + by[1]

    def _projected(self, rows: Array, cols: Array) -> tuple[Array, Array]:
        """Return the cells of places that are displaced already."""
        m = self.matrix
        depth = m[2, 0] * rows + m[2, 1] * cols + m[2, 2]
        return (m[0, 0] * rows + m[0, 1] * cols + m[0, 2]) / depth, (m[1, 0] * rows + m[1, 1] * cols + m[1, 2]) / depth

    def displacements(self, rows: Array, cols: Array) -> list[tuple[Array, Array]]:
        """Return how each parameter moves what the pixels see, in pixels of the capture."""
        step, here = 1e-4, self(rows, cols)
        by_row, by_col = self(rows + step, cols), self(rows, cols + step)
        a, b, c, d = ((v[axis] - here[axis]) / step for axis in (0, 1) for v in (by_row, by_col))
        det, (y, x) = a * d - b * c, self._displaced(rows, cols)
        found = []
        for index in range(8):
            values = self.parameters
            values[index] += step
            found.append(self.with_parameters(values)._projected(y, x))
        for term in self._terms(rows, cols):
            found += [self._projected(y + step * term, x), self._projected(y, x + step * term)]
        moves = [[(t - h) / step for t, h in zip(there, here, strict=True)] for there in found]
        return [((d * u - b * v) / det, (a * v - c * u) / det) for u, v in moves]

    def fitted(self, rows: Array, cols: Array, cells: Array, weights: Array) -> "Warp":
        """Return the homography that takes places of the capture to cells, outliers left aside."""

        def left(values: Array) -> Array:
            seen = self.with_parameters(np.concatenate([values, self.coefficients.ravel()]))(rows, cols)
            return np.asarray(((np.stack(seen, axis=1) - cells) * weights[:, None]).ravel())

        found = scipy.optimize.least_squares(left, self.corners.ravel(), loss="soft_l1", f_scale=0.5, x_scale="jac")
        return dataclasses.replace(self, corners=found.x.reshape(4, 2))


def powers(degree: int) -> list[tuple[int, int]]:
    """Return the powers of rows and columns of the monomials of degree 2 and more."""
    return [(total - j, j) for total in range(2, degree + 1) for j in range(total + 1)]


def _degree(terms: int) -> int:
    """Return the degree that has so many terms."""
    return next(degree for degree in range(1, 99) if len(powers(degree)) >= terms)


def homography(start: Array, end: Array) -> Array:
    """Return the homography that takes at least four points to points: the direct linear transform, scaled."""
    # R. Hartley, A. Zisserman, "Multiple View Geometry in Computer Vision", 2nd ed. (2004), algorithm 4.2.
    scales = []
    for points in (start, end):
        middle = points.mean(axis=0)
        size = np.sqrt(2) / max(float(np.linalg.norm(points - middle, axis=1).mean()), 1e-300)
        scales.append(np.array([[size, 0, -size * middle[0]], [0, size, -size * middle[1]], [0, 0, 1.0]]))
    (a, b), ones = scales, np.ones((len(start), 1))
    p, q = np.hstack([start, ones]) @ a.T, np.hstack([end, ones]) @ b.T
    zero = np.zeros_like(p)
    equations = np.vstack([np.hstack([p, zero, -q[:, :1] * p]), np.hstack([zero, p, -q[:, 1:2] * p])])
    found = np.linalg.solve(b, np.linalg.svd(equations)[2][-1].reshape(3, 3)) @ a
    return np.asarray(found / found[2, 2])


def rendered(pattern: Array, warp: Warp, window: tuple[int, int, int, int], oversample: int, detail: int = 3) -> Array:
    """Return what a window of the capture looks on, `oversample` times finer, NaN beyond the pattern."""
    # Cells are squares of one value. Their mean is taken about several points of each fine pixel (`detail` to a cell
    # along an axis, or to two fine pixels where these are smaller), which a windowed sine brings down to fine pixels,
    # so that nothing beyond their Nyquist frequency is folded back. `window` holds first and last rows and columns.
    from ..compiled.warp import look_up

    top, bottom, left, right = window
    middle = np.array([(top + bottom) / 2, (left + right) / 2])
    here, there = (np.array(warp(*(middle + d))) for d in (0.0, 1.0))
    per_pixel = float(np.abs(there - here).max())  # cells
    points = 2 * int(np.ceil((detail * max(per_pixel / oversample, 0.5) - 1) / 2)) + 1  # odd: one lies in the middle
    step, spare = oversample * points, _REACH * points
    half = min(0.5 * per_pixel / step, 0.49)  # of a point
    taps = np.sinc(np.arange(-spare, spare + 1) / points) * np.kaiser(2 * spare + 1, 5.0)
    taps /= taps.sum()
    rows, cols = (
        first + (np.arange((last - first - 1) * step + 1 + 2 * spare) - spare) / step
        for first, last in ((top, bottom), (left, right))
    )
    seen = np.empty((len(rows), len(cols)))
    terms = np.array(powers(_degree(len(warp.coefficients))), dtype=np.int64).reshape(-1, 2)
    look_up(np.ascontiguousarray(pattern, dtype=np.float64), warp.matrix, warp.centre, warp.radius, terms,
            np.ascontiguousarray(warp.coefficients), half, rows, cols, seen)  # fmt: skip
    beyond = np.isnan(seen)
    whole = ~beyond[spare : len(rows) - spare : points, spare : len(cols) - spare : points]
    if beyond.any():
        seen[beyond] = 0.5
    for count in whole.shape:  # rows, then columns: either time along the first axis
        parts = (
            tap * seen[i : i + points * (count - 1) + 1 : points] for i, tap in enumerate(taps) if abs(tap) > 1e-15
        )
        seen = np.ascontiguousarray(functools.reduce(operator.iadd, parts).T)
    return np.where(whole, seen, np.nan)
