"""The shape of the peak in a kernel: centre, moments, widths, encircled energy, response; numbers without errors.

Between its taps a kernel is taken for the cubic spline through them, with zeros beyond its support. The centre and the
shape come from moments under an elliptical Gaussian weight that is matched to the kernel itself, so that the noise of
far-off taps does not count: G. Bernstein and M. Jarvis, "Shapes and shears, stars and smears", Astron. J. 123 (2002),
section 3, doi:10.1086/338085. For a Gaussian they are its own centre and covariance.
"""

import functools
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Complex = npt.NDArray[np.complex128]
ENCIRCLED = (0.5, 0.8, 0.9)  # fractions of the sum
ANGLE, MTF = 3, 4  # places in `PeakShape.numbers`
_PAD = 2  # rows and columns of zeros around the support, so that the spline may end there
_POINTS = 10_000  # on which the spline's surface is sampled, about
_STEP = 0.05  # pixels between the points of a cut
_RING = 0.02  # pixels
_FREQUENCIES = np.linspace(0.0, 0.5, 101)  # a response is smooth: between them a straight line is enough


@dataclass(frozen=True, eq=False)
class PeakShape:
    """Centre and covariance of a kernel, and the axes along which it and its samples are measured."""

    taps: Array
    center: Array
    moments: Array
    axes: Array  # rows: unit vectors (row, column) along and across
    surface: Array
    places: tuple[Array, Array]
    fixed: "PeakShape"

    @functools.cached_property
    def rings(self) -> npt.NDArray[np.intp]:
        """Return which narrow ring about the centre each point of the surface lies in."""
        radius = np.hypot(self.places[0][:, None] - self.center[0], self.places[1] - self.center[1]).ravel()
        return np.asarray(radius / _RING, dtype=np.intp)

    @functools.cached_property
    def waves(self) -> list[Complex]:
        """Return the transform of all taps at the frequencies along each axis."""
        y, x = np.mgrid[: self.taps.shape[0], : self.taps.shape[1]]
        places = [(y * axis[0] + x * axis[1]).ravel() for axis in self.axes]
        return [np.exp(-2j * math.pi * np.outer(_FREQUENCIES, along)) for along in places]

    @classmethod
    def of(cls, taps: Array, fixed: "PeakShape | None") -> "PeakShape | None":
        """Find centre and moments; a sample starts from those of the kernel itself and is measured on its axes."""
        surface, places = _surface(taps)
        y, x = places[0][:, None], places[1][None, :]
        if fixed is None:
            peak = np.unravel_index(int(np.argmax(surface)), surface.shape)
            center = np.array([places[0][peak[0]], places[1][peak[1]]])
            area = np.count_nonzero(surface > surface.max() / 2) * (places[0][1] - places[0][0]) ** 2
            moments = np.eye(2) * max(0.1, area / (2 * math.pi * math.log(2)))
            steps = 60
        else:
            center, moments, steps = fixed.center, fixed.moments, 7  # the error halves in each
        for _ in range(steps):
            inverse = np.linalg.inv(moments)
            dy, dx = y - center[0], x - center[1]
            weight = np.exp(-0.5 * (inverse[0, 0] * dy**2 + 2 * inverse[0, 1] * dy * dx + inverse[1, 1] * dx**2))
            weight *= surface
            total = float(weight.sum())
            if not total > 0:
                return None
            rows, cols = weight.sum(axis=1), weight.sum(axis=0)
            step = np.array([rows @ dy[:, 0], cols @ dx[0]]) / total
            both = float(dy[:, 0] @ weight @ dx[0]) / total
            found = np.array([[rows @ dy[:, 0] ** 2, 0.0], [0.0, cols @ dx[0] ** 2]]) / total
            found[0, 1] = found[1, 0] = both
            found -= np.outer(step, step)
            if not np.linalg.eigvalsh(found)[0] > 1e-3:
                return None
            change = float(np.abs(2 * found - moments).max() + np.abs(step).max())
            center, moments = center + 2 * step, 2 * found
            if not (-1 <= center[0] <= taps.shape[0] and -1 <= center[1] <= taps.shape[1]):
                return None
            if np.linalg.eigvalsh(moments)[1] > 4 * max(taps.shape) ** 2:  # wider than the support: no peak at all
                return None
            if change < 1e-7:
                break
        axes = np.linalg.eigh(moments)[1].T[::-1] if fixed is None else fixed.axes
        shape = cls(taps, center, moments, axes, surface, places, None)  # type: ignore[arg-type]
        object.__setattr__(shape, "fixed", shape if fixed is None else fixed)
        return shape

    def numbers(self) -> list[float]:
        """Return FWHM along and across, ellipticity, angle, MTF50 along and across, and the radii."""
        values, vectors = np.linalg.eigh(self.moments)
        down, right = vectors[:, 1]
        angle = (math.degrees(math.atan2(-down, right)) + 90) % 180 - 90
        return [
            *(_width(self, axis) for axis in self.axes),
            1.0 - math.sqrt(values[0] / values[1]),
            angle,
            *(_mtf50(self.taps, waves) for waves in self.fixed.waves),
            *_radii(self),
        ]


@functools.lru_cache(maxsize=8)
def _finer(n: int, finer: int) -> tuple[Array, Array]:
    """Return a finer grid over n taps, and the matrix that takes them to their cubic spline on it, zero beyond."""
    import scipy.ndimage

    positions = np.arange(-finer, (n - 1) * finer + finer + 1) / finer
    padded = np.pad(np.eye(n), ((0, 0), (_PAD, _PAD)))
    rows = [scipy.ndimage.map_coordinates(row, [positions + _PAD], order=3, mode="constant") for row in padded]
    return positions, np.ascontiguousarray(np.array(rows).T)


def _surface(taps: Array) -> tuple[Array, tuple[Array, Array]]:
    """Return the spline on a finer grid, from one pixel before the first tap to one behind the last."""
    finer = int(np.clip(math.sqrt(_POINTS / taps.size), 3, 6))
    (y, down), (x, across) = (_finer(n, finer) for n in taps.shape)
    return np.asarray(down @ taps @ across.T), (y, x)


def _width(shape: PeakShape, axis: Array) -> float:
    """Return the full width at half maximum on the cut through the centre, or the peak if that lies elsewhere."""
    import scipy.ndimage

    reach = math.hypot(*shape.taps.shape) + 2
    t = np.arange(-math.ceil(reach / _STEP), math.ceil(reach / _STEP) + 1) * _STEP
    padded = np.pad(shape.taps, _PAD)

    def cut(center: Array) -> Array:
        points = [center[i] + t * axis[i] + _PAD for i in (0, 1)]
        return np.asarray(scipy.ndimage.map_coordinates(padded, points, order=3, mode="constant"))

    line = cut(shape.center)
    highest = float(shape.surface.max())
    if line.max() < 0.8 * highest:
        peak = np.unravel_index(int(np.argmax(shape.surface)), shape.surface.shape)
        line = cut(np.array([shape.places[0][peak[0]], shape.places[1][peak[1]]]))
    top = int(np.argmax(line))
    half = line[top] / 2
    ends = []
    for side in (line[top:], line[top::-1]):
        below = np.flatnonzero(side < half)
        if not len(below):
            return math.nan
        i = int(below[0])
        ends.append(i - 1 + (side[i - 1] - half) / (side[i - 1] - side[i]))
    return float(sum(ends)) * _STEP


def _mtf50(taps: Array, waves: Complex) -> float:
    """Return the lowest frequency at which the response falls to half of that at zero; NaN if there is none."""
    response = np.abs(waves @ taps.ravel()) / abs(float(taps.sum()))
    below = np.flatnonzero(response < 0.5)
    if not len(below):
        return math.nan
    i = int(below[0])
    part = (response[i - 1] - 0.5) / (response[i - 1] - response[i])
    return float(_FREQUENCIES[i - 1] + part * (_FREQUENCIES[i] - _FREQUENCIES[i - 1]))


def _radii(shape: PeakShape) -> list[float]:
    """Return the radii about the centre that hold the fractions of the sum."""
    # A point stands for a little square: its share of a circle whose edge cuts it grows evenly over one side.
    side = max(1, round((shape.places[0][1] - shape.places[0][0]) / _RING))
    inside = np.bincount(shape.fixed.rings, shape.surface.ravel())
    inside = np.cumsum(np.convolve(inside, np.full(side, 1.0 / side)))
    inside = inside / inside[-1]
    found = []
    for share in ENCIRCLED:
        i = int(np.argmax(inside >= share))
        below = inside[i - 1] if i else 0.0
        found.append(max(0.0, (i + (share - below) / (inside[i] - below) - (side - 1) / 2) * _RING))
    return found
