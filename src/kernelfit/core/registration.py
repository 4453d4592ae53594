"""How an image lies on the target: the motions that are looked for, and what was found of one, with its errors."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg

from .geometry import Shape
from .validation import Array

#: Motions, each with those before it.
KINDS = ("shift", "rigid", "similarity", "affine", "homography")


def _unit(*entries: tuple[int, int, float]) -> Array:
    out = np.zeros((3, 3))
    for row, col, value in entries:
        out[row, col] = value
    return out


_TURN, _SCALE = _unit((0, 1, 1.0), (1, 0, -1.0)), _unit((0, 0, 1.0), (1, 1, 1.0))
_LINEAR = tuple(_unit((i, j, 1.0)) for i in (0, 1) for j in (0, 1))
_PERSPECTIVE = tuple(_unit((2, j, -1.0)) for j in (0, 1))
SHIFTS = tuple(_unit((i, 2, 1.0)) for i in (0, 1))
#: Generators of each kind, a shift apart, acting on (row, column, 1) about the middle of the image.
GENERATORS: dict[str, tuple[Array, ...]] = {
    "shift": (),
    "rigid": (_TURN,),
    "similarity": (_TURN, _SCALE),
    "affine": _LINEAR,
    "homography": (*_LINEAR, *_PERSPECTIVE),
}


def frame_of(shape: Shape) -> tuple[Array, float]:
    """Return the middle of an image, and half of its longer side: the unit of the generators."""
    return 0.5 * (np.array(shape, dtype=np.float64) - 1.0), 0.5 * max(max(shape) - 1, 1)


def motion(generator: Array, shape: Shape) -> Array:
    """Return the matrix, in pixels, of the motion that a sum of generators makes of an image."""
    middle, unit = frame_of(shape)
    inward = np.array([[1 / unit, 0, -middle[0] / unit], [0, 1 / unit, -middle[1] / unit], [0, 0, 1]])
    return scaled(np.linalg.inv(inward) @ scipy.linalg.expm(np.clip(generator, -50, 50)) @ inward)


def generator_of(matrix: Array, shape: Shape) -> Array:
    """Return the generator of a small motion of an image, to first order."""
    middle, unit = frame_of(shape)
    outward = np.array([[unit, 0, middle[0]], [0, unit, middle[1]], [0, 0, 1]])
    return scaled(np.linalg.inv(outward) @ matrix @ outward) - np.eye(3)


def scaled(matrix: Array) -> Array:
    """Return a homography with 1 as its last entry."""
    return np.asarray(matrix / matrix[2, 2])


def moved(matrix: Array, places: Array) -> Array:
    """Return where a homography takes places, shape (n, 2)."""
    out = np.column_stack([places, np.ones(len(places))]) @ matrix.T
    return np.asarray(out[:, :2] / out[:, 2:])


def field_at(generator: Array, places: Array, shape: Shape) -> Array:
    """Return the displacement in pixels for each unit of a generator, at places of shape (n, 2)."""
    middle, unit = frame_of(shape)
    inner = np.column_stack([(places - middle) / unit, np.ones(len(places))])
    change = inner @ generator.T
    return np.asarray(unit * (change[:, :2] - inner[:, :2] * change[:, 2:]))


def corners_of(shape: Shape) -> Array:
    """Return the four corner pixels of an image, row by row."""
    return np.array([(r, c) for r in (0, shape[0] - 1) for c in (0, shape[1] - 1)], dtype=np.float64)


def through(places: Array, images: Array) -> Array:
    """Return the homography that takes four places to four others."""
    rows = []
    for (r, c), (y, x) in zip(places, images, strict=True):
        rows += [[r, c, 1, 0, 0, 0, -y * r, -y * c], [0, 0, 0, r, c, 1, -x * r, -x * c]]
    return np.append(np.linalg.solve(np.array(rows), images.ravel()), 1.0).reshape(3, 3)


@dataclass(frozen=True, eq=False)
class Registration:
    """How the image lies on the target, found together with the kernel.

    The target is what the kernel makes of the *registered* image, whose pixel u is the image at the place ``matrix @
    (u, 1)``, divided by its last entry. Eight numbers are all of any such motion: by how much the four corners are
    displaced. Their covariance is that of the kernel and the motion together, so the errors of
    either hold what the other leaves open.

    Attributes
    ----------
    kind : {"shift", "rigid", "similarity", "affine", "homography"}
        What was asked for.
    matrix : ndarray, shape (3, 3)
        Takes (row, column, 1) of the registered image to the place in the image; `scipy.ndimage.affine_transform(image,
        matrix, order=5)` registers by it, unless it is of the kind "homography".
    shape : (int, int)
        Rows and columns of the image.
    covariance : ndarray, shape (8, 8)
        Of `displacement`, corner by corner, row before column, in square pixels.
    centred : bool
        Whether the shift is the one that puts the centroid of the kernel into the middle of its shape. A kernel without
        a centre, which is not symmetric about its centroid or whose sum is about zero, keeps the shift in itself.
    rounds : int
        Number of times the image was warped at its full size.
    notes : tuple of str
        What there is to doubt.
    pairs : tuple of Registration
        Of several pairs that of each; this is that of the first.

    Notes
    -----
    The image is read between its pixels by a spline of order 5 on a grid twice as fine, to which it is brought
    band-limited (a cosine transform with zeros added). Of the frequency f, relative to that grid's Nyquist's, such a
    spline passes ``1 / (1 + (f / (2 - f))^6)`` on average over all places: 0.9986 of the highest frequency of the image
    itself, 1.0000 of those below 0.6 of that, so that the kernel has nothing to make up for. On the image's own grid it
    would be 0.92 at 0.8 (P. Thevenaz, T. Blu and M. Unser, "Interpolation revisited", IEEE Transactions on Medical
    Imaging 19 (2000) 739).
    """

    kind: str
    matrix: Array
    shape: Shape
    covariance: Array = dataclasses.field(repr=False)
    centred: bool = True
    rounds: int = 1
    notes: tuple[str, ...] = ()
    pairs: "tuple[Registration, ...]" = ()

    def of(self, pair: int | None) -> "Registration":
        """Return that of a pair, which has to be given where there are several.

        Parameters
        ----------
        pair : int or None
            Its number.
        """
        if not self.pairs:
            return self
        if pair is not None and not 0 <= pair < len(self.pairs):
            raise ValueError(f"got pair={pair} of {len(self.pairs)}, need one from 0 to {len(self.pairs) - 1}")
        if pair is None and len(self.pairs) > 1:
            raise ValueError(f"got no pair, need pair=, from 0 to {len(self.pairs) - 1}: each has a motion of its own")
        return self.pairs[pair or 0]

    @property
    def displacement(self) -> Array:
        """By how many rows and columns each corner (top left, top right, bottom ones) is read elsewhere, (4, 2)."""
        corners = corners_of(self.shape)
        return moved(self.matrix, corners) - corners

    @property
    def displacement_stderr(self) -> Array:
        """Standard errors of `displacement`, shape (4, 2)."""
        return np.asarray(np.sqrt(np.diag(self.covariance)).reshape(4, 2))

    def _derived(self, function: Callable[[Array], Any]) -> tuple[Array, Array]:
        """Return what a function makes of the matrix, and its standard errors."""
        corners = corners_of(self.shape)
        there, step = moved(self.matrix, corners), 1e-3
        slopes = []
        for i in range(8):
            ends = []
            for sign in (1.0, -1.0):
                images = there.copy()
                images.flat[i] += sign * step
                ends.append(np.asarray(function(through(corners, images)), dtype=np.float64))
            slopes.append((ends[0] - ends[1]) / (2 * step))
        table = np.array(slopes)
        variance = np.einsum("i...,ij,j...->...", table, self.covariance, table)
        return np.asarray(function(self.matrix), dtype=np.float64), np.sqrt(np.maximum(variance, 0.0))

    @property
    def stderr(self) -> Array:
        """Standard errors of the entries of `matrix`, shape (3, 3)."""
        return self._derived(scaled)[1]

    def at(self, row: float, col: float) -> tuple[Array, Array]:
        """Return where a pixel of the registered image stands in the image, and the standard errors of that.

        Parameters
        ----------
        row, col : float
            A pixel of the registered image, or a place between pixels.

        Returns
        -------
        place, stderr : ndarray, shape (2,)
            Row and column.
        """
        places = np.array([[row, col]], dtype=np.float64)
        return self._derived(lambda matrix: moved(matrix, places)[0])

    @property
    def parameters(self) -> dict[str, tuple[float, float]]:
        """The motion in figures, each with its standard error.

        ``shift_row`` and ``shift_col``: displacement in the middle of the image, in pixels; ``rotation``: degrees by
        which what the image shows is turned counter-clockwise in the target; ``scale``: by which factor it is larger
        there; ``stretch`` and ``shear``: what is left of the linear part, without dimension; ``tilt_row`` and
        ``tilt_col``: relative change of the scale from the middle to a place as far off as half the longer side.
        """
        middle, unit = frame_of(self.shape)

        def figures(matrix: Array) -> list[float]:
            (center,) = moved(matrix, middle[None])
            step = 0.5 * np.eye(2)
            a = np.column_stack(
                [moved(matrix, (middle + s)[None])[0] - moved(matrix, (middle - s)[None])[0] for s in step]
            )
            size = math.sqrt(abs(np.linalg.det(a)))
            turn = math.atan2(a[0, 1] - a[1, 0], a[0, 0] + a[1, 1])
            left = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]]) @ a / size
            over = matrix[2, 0] * middle[0] + matrix[2, 1] * middle[1] + matrix[2, 2]
            tilt = -unit * matrix[2, :2] / over
            shift = center - middle
            return [*shift, math.degrees(turn), 1 / size, left[0, 0] - left[1, 1], left[0, 1] + left[1, 0], *tilt]

        names = ("shift_row", "shift_col", "rotation", "scale", "stretch", "shear", "tilt_row", "tilt_col")
        values, errors = self._derived(figures)
        count = {"shift": 2, "rigid": 3, "similarity": 4, "affine": 6, "homography": 8}[self.kind]
        table = zip(names[:count], values, errors, strict=False)
        return {name: (float(value), float(error)) for name, value, error in table}

    def __str__(self) -> str:
        units = {"rotation": " degrees", "shift_row": " px", "shift_col": " px"}
        told = [
            f"{name.replace('_', ' ')} {value:.6g} +/- {error:.2g}{units.get(name, '')}"
            for name, (value, error) in self.parameters.items()
        ]
        far = int(np.argmax(np.linalg.norm(self.displacement, axis=1)))
        size, error = np.linalg.norm(self.displacement[far]), np.linalg.norm(self.displacement_stderr[far])
        kept = "" if self.centred else "; the kernel has no centre of its own and keeps the shift between pixels"
        notes = "".join(f"; {note}" for note in self.notes)
        several = f" (pair 0 of {len(self.pairs)})" if len(self.pairs) > 1 else ""
        displaced = f"corners displaced by up to {size:.4g} +/- {error:.2g} px"
        return f"{self.kind}{several}, {', '.join(told)}; {displaced}{kept}{notes}"


def registration_from(stored: Any) -> Registration | None:
    """Rebuild a registration from its stored values; refuse what none can be."""
    if stored is None:
        return None
    matrix, covariance = (np.array(stored[name], dtype=np.float64) for name in ("matrix", "covariance"))
    if stored["kind"] not in KINDS or matrix.shape != (3, 3) or covariance.shape != (8, 8):
        raise ValueError("a registration that is none")
    if not (np.isfinite(matrix).all() and np.isfinite(covariance).all()):
        raise ValueError("a registration that is not finite")
    rows, cols = (int(n) for n in stored["shape"])
    centred, rounds, notes = bool(stored["centred"]), int(stored["rounds"]), tuple(map(str, stored["notes"]))
    pairs = tuple(one for one in map(registration_from, stored.get("pairs", ())) if one is not None)
    return Registration(stored["kind"], matrix, (rows, cols), covariance, centred, rounds, notes, pairs)
