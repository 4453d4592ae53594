"""The shape of the peak in a kernel: centre, moments, widths, encircled energy, response; their derivatives by taps.

Between its taps a kernel is taken for the cubic spline through them, with zeros beyond its support. The centre and the
shape come from moments under an elliptical Gaussian weight that is matched to the kernel itself, so that the noise of
far-off taps does not count: G. Bernstein and M. Jarvis, "Shapes and shears, stars and smears", Astron. J. 123 (2002),
section 3, doi:10.1086/338085. For a Gaussian they are its own centre and covariance.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..core.validation import Array

Complex = npt.NDArray[np.complex128]
ENCIRCLED = (0.5, 0.8, 0.9)  # fractions of the sum
_PAD = 2  # rows and columns of zeros around the support, so that the spline may end there
_POINTS = 10_000  # on which the spline's surface is sampled, about
_STEP = 0.05  # pixels between the points of a cut
_RING = 0.02  # pixels
_FREQUENCIES = np.linspace(0.0, 0.5, 101)  # a response is smooth: between them a straight line is enough


class Functional(NamedTuple):
    """A number, and what it gains for each tap at a fixed centre and fixed axes; None where it is not asked for."""

    value: float
    gradient: Array | None = None


@dataclass(frozen=True, eq=False)
class PeakShape:
    """A kernel with the centre and the covariance of its peak."""

    taps: Array
    center: Array
    moments: Array
    surface: Array
    places: tuple[Array, Array]

    @classmethod
    def of(cls, taps: Array) -> "PeakShape | None":
        """Find centre and moments."""
        surface, places = _surface(taps)
        peak = np.unravel_index(int(np.argmax(surface)), surface.shape)
        center = np.array([places[0][peak[0]], places[1][peak[1]]])
        area = np.count_nonzero(surface > surface.max() / 2) * (places[0][1] - places[0][0]) ** 2
        moments = np.eye(2) * max(0.1, area / (2 * math.pi * math.log(2)))
        for _ in range(60):
            shape = cls(taps, center, moments, surface, places)
            found = shape._next()
            if found is None or not np.linalg.eigvalsh(found[1])[0] > 2e-3:
                return None
            change = float(np.abs(found[1] - moments).max() + np.abs(found[0] - center).max())
            center, moments = found
            if not (-1 <= center[0] <= taps.shape[0] and -1 <= center[1] <= taps.shape[1]):
                return None
            if np.linalg.eigvalsh(moments)[1] > 4 * max(taps.shape) ** 2:  # wider than the support: no peak at all
                return None
            if change < 1e-7:
                break
        return cls(taps, center, moments, surface, places)

    def _weighted(self) -> tuple[Array, Array, Array]:
        """Return the weight, and the rows and columns of all points about the centre."""
        inverse = np.linalg.inv(self.moments)
        dy, dx = self.places[0][:, None] - self.center[0], self.places[1][None, :] - self.center[1]
        return np.exp(-0.5 * (inverse[0, 0] * dy**2 + 2 * inverse[0, 1] * dy * dx + inverse[1, 1] * dx**2)), dy, dx

    def _next(self) -> tuple[Array, Array] | None:
        """Return centre and covariance as the weight of these makes them: twice what it finds, half being its own."""
        weight, dy, dx = self._weighted()
        weight *= self.surface
        total = float(weight.sum())
        if not total > 0:
            return None
        rows, cols = weight.sum(axis=1), weight.sum(axis=0)
        step = np.array([rows @ dy[:, 0], cols @ dx[0]]) / total
        both = float(dy[:, 0] @ weight @ dx[0]) / total
        found = np.array([[rows @ dy[:, 0] ** 2 / total, both], [both, cols @ dx[0] ** 2 / total]])
        return self.center + 2 * step, 2 * (found - np.outer(step, step))

    @property
    def angle(self) -> float:
        """Direction of the long axis in radians, from the columns towards the top."""
        return 0.5 * math.atan2(-2 * self.moments[0, 1], self.moments[1, 1] - self.moments[0, 0])

    @property
    def distortion(self) -> float:
        """``(a^2 - b^2) / (a^2 + b^2)`` of the long axis a and the short axis b."""
        low, high = np.linalg.eigvalsh(self.moments)
        return float((high - low) / (high + low))

    def place_by_taps(self) -> tuple[Array, Array]:
        """Return the derivatives by taps of the centre (2, taps) and of the distortion along and across, at rest."""
        weight, dy, dx = self._weighted()
        total = float((weight * self.surface).sum())
        m = self.moments / 2
        fields = [dy, dx, dy**2 - m[0, 0], dy * dx - m[0, 1], dx**2 - m[1, 1]]
        own = np.stack([self.by_taps(2 * weight * field / total) for field in fields])

        def stepped(change: Array) -> Array:
            moved = PeakShape(
                self.taps, self.center + change[:2], self.moments + change[[2, 3, 3, 4]].reshape(2, 2),
                self.surface, self.places,
            )  # fmt: skip
            center, moments = moved._next() or (self.center, self.moments)
            return np.concatenate([center, moments[np.triu_indices(2)]])

        every = at_rest(own, stepped, 1e-4 * math.sqrt(float(np.trace(self.moments))))
        trace = float(np.trace(self.moments))
        size_of = (every[2] + every[4]) / trace
        plus = (every[4] - every[2]) / trace - (self.moments[1, 1] - self.moments[0, 0]) / trace * size_of
        cross = -2 * every[3] / trace + 2 * self.moments[0, 1] / trace * size_of
        c, s = math.cos(2 * self.angle), math.sin(2 * self.angle)
        return np.asarray(every[:2]), np.asarray([c * plus + s * cross, c * cross - s * plus])

    def by_taps(self, field: Array) -> Array:
        """Return what a weighted sum over the surface owes to each tap."""
        finer = round(1 / (self.places[0][1] - self.places[0][0]))
        (_, down), (_, across) = (spline_grid(n, finer) for n in self.taps.shape)
        return np.asarray(down.T @ field @ across).ravel()

    def numbers(self, center: Array, angle: float, *, slopes: bool = False) -> list[Functional]:
        """Return FWHM along and across, MTF50 along and across, and the radii, at a centre and an angle of the axes."""
        axes = np.array([[-math.sin(angle), math.cos(angle)], [math.cos(angle), math.sin(angle)]])
        return [
            *(_width(self, center, axis, slopes) for axis in axes),
            *(_mtf50(self.taps, axis, slopes) for axis in axes),
            *_radii(self, center, slopes),
        ]


def at_rest(own: Array, stepped: Callable[[Array], Array], size: float) -> Array:
    """Return the derivatives of what steps leave as it is, by those of one step (`own`) and how it changes."""
    changes = size * np.eye(len(own))
    slope = np.stack([(stepped(change) - stepped(-change)) / (2 * size) for change in changes], axis=1)
    return np.asarray(np.linalg.solve(np.eye(len(own)) - slope, own))


def spline_at(n: int, places: Array) -> Array:
    """Return the cubic spline through one tap of height 1 at some places, for each of n taps: (places, taps)."""
    import scipy.ndimage

    rows = np.pad(np.eye(n), ((0, 0), (_PAD, _PAD)))
    return np.array([scipy.ndimage.map_coordinates(row, [places + _PAD], order=3, mode="constant") for row in rows]).T


@functools.lru_cache(maxsize=8)
def spline_grid(n: int, finer: int) -> tuple[Array, Array]:
    """Return a finer grid over n taps, and the matrix that takes them to their cubic spline on it, zero beyond."""
    positions = np.arange(-finer, (n - 1) * finer + finer + 1) / finer
    return positions, np.ascontiguousarray(spline_at(n, positions))


def _surface(taps: Array) -> tuple[Array, tuple[Array, Array]]:
    """Return the spline on a finer grid, from one pixel before the first tap to one behind the last."""
    finer = int(np.clip(math.sqrt(_POINTS / taps.size), 3, 6))
    (y, down), (x, across) = (spline_grid(n, finer) for n in taps.shape)
    return np.asarray(down @ taps @ across.T), (y, x)


def _width(shape: PeakShape, center: Array, axis: Array, slopes: bool) -> Functional:
    """Return the full width at half maximum on the cut through the centre, or the peak if that lies elsewhere."""
    import scipy.ndimage

    reach = math.hypot(*shape.taps.shape) + 2
    t = np.arange(-math.ceil(reach / _STEP), math.ceil(reach / _STEP) + 1) * _STEP
    padded = np.pad(shape.taps, _PAD)

    def cut(center: Array) -> Array:
        points = [center[i] + t * axis[i] + _PAD for i in (0, 1)]
        return np.asarray(scipy.ndimage.map_coordinates(padded, points, order=3, mode="constant"))

    line = cut(center)
    if line.max() < 0.8 * float(shape.surface.max()):
        peak = np.unravel_index(int(np.argmax(shape.surface)), shape.surface.shape)
        center = np.array([shape.places[0][peak[0]], shape.places[1][peak[1]]])
        line = cut(center)
    top = int(np.argmax(line))
    half = line[top] / 2
    width, gradient = 0.0, np.zeros(shape.taps.size)

    def at(place: float) -> Array:
        """Return what the spline on the cut owes to each tap."""
        point = center + place * axis
        down, across = (spline_at(n, x)[0] for n, x in zip(shape.taps.shape, point[:, None], strict=True))
        return np.outer(down, across).ravel()

    for side, sign in ((line[top:], 1), (line[top::-1], -1)):
        below = np.flatnonzero(side < half)
        if not len(below):
            return Functional(math.nan)
        i = int(below[0])
        fall = float(side[i - 1] - side[i])
        end = i - 1 + float(side[i - 1] - half) / fall
        width += end * _STEP
        if slopes:
            gradient += (at(t[top] + sign * end * _STEP) - 0.5 * at(float(t[top]))) * _STEP / fall
    return Functional(width, gradient if slopes else None)


def half_response(frequencies: Array, places: Array, values: Array, total: float, *, slopes: bool) -> Functional:
    """Return the lowest frequency at which the response falls to half of that at zero; NaN if there is none."""
    waves: Complex = np.exp(-2j * math.pi * np.outer(frequencies, places))
    sums = waves @ values / total
    response = np.abs(sums)
    below = np.flatnonzero(response < 0.5)
    if not len(below):
        return Functional(math.nan)
    i = int(below[0])
    fall = float(response[i - 1] - response[i]) / (frequencies[i] - frequencies[i - 1])
    found = float(frequencies[i - 1] + (response[i - 1] - 0.5) / fall)
    if not slopes:
        return Functional(found)
    return Functional(found, (np.real(np.conj(sums[i]) * waves[i]) / response[i] - response[i]) / (total * fall))


def _mtf50(taps: Array, axis: Array, slopes: bool) -> Functional:
    y, x = np.mgrid[: taps.shape[0], : taps.shape[1]]
    along = (y * axis[0] + x * axis[1]).ravel()
    return half_response(_FREQUENCIES, along, taps.ravel(), float(taps.sum()), slopes=slopes)


def encircled(
    radius: Array, surface: Array, spacing: float, step: float, by_taps: Callable[[Array], Array] | None
) -> list[Functional]:
    """Return the radii that hold fractions of a surface's sum, in rings of `step`, with derivatives by taps."""
    rings = (radius / step).astype(np.intp)
    # A point stands for a soft blot: its share of a circle whose edge cuts it grows evenly, without the steps that
    # points of a grid would make.
    side = max(1, round(spacing / step))
    blot = np.full(side, 1.0 / side)
    blot = np.convolve(np.convolve(blot, blot), blot)
    inside = np.cumsum(np.convolve(np.bincount(rings.ravel(), surface.ravel()), blot))
    total = float(inside[-1])
    inside = inside / total
    found = []
    for share in ENCIRCLED:
        i = int(np.argmax(inside >= share))
        below = inside[i - 1] if i else 0.0
        value = max(0.0, (i + (share - below) / (inside[i] - below) - (len(blot) - 1) / 2) * step)
        gradient = None
        if by_taps is not None:
            held = np.cumsum(blot)[np.clip(i - rings, 0, len(blot) - 1)] * (rings <= i)
            wide = slice(max(0, i - 5), i + 5)  # the slope itself is rough from ring to ring
            slope = total * float(inside[wide][-1] - inside[wide][0]) / ((len(inside[wide]) - 1) * step)
            gradient = by_taps(share - held) / slope
        found.append(Functional(value, gradient))
    return found


def _radii(shape: PeakShape, center: Array, slopes: bool) -> list[Functional]:
    radius = np.hypot(shape.places[0][:, None] - center[0], shape.places[1] - center[1])
    spacing = shape.places[0][1] - shape.places[0][0]
    return encircled(radius, shape.surface, spacing, _RING, shape.by_taps if slopes else None)
