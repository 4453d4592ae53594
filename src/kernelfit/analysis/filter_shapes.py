"""The taps of filters that have a name and numbers: blurs, lines, derivatives of Gaussians, interpolation.

All are sampled on the taps of a kernel, as offsets from a centre, and add up to one unless they are derivatives. What a
tool really lays down (where it cuts a Gaussian off, in how many boxes it makes one) is part of the formula.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.special

Array = npt.NDArray[np.float64]
Shape = tuple[int, int]
Profile = Callable[[Array], Array]


class Grid(NamedTuple):
    """The taps of a kernel, seen from a centre that may lie between them."""

    shape: Shape
    center: tuple[float, float]

    @functools.lru_cache(maxsize=512)  # noqa: B019
    def axes(self) -> tuple[Array, Array]:
        """Return the rows and the columns of the taps, from the centre."""
        rows, cols = (np.arange(float(n)) - c for n, c in zip(self.shape, self.center, strict=True))
        return np.asarray(rows), np.asarray(cols)

    def reach(self) -> tuple[int, int]:
        """Return how many taps there are from the centre to the farther side, along rows and columns."""
        rows, cols = (max(math.floor(c), math.floor(n - 1 - c)) for n, c in zip(self.shape, self.center, strict=True))
        return rows, cols

    def moved(self, rows: float, cols: float) -> "Grid":
        """Return the grid of a centre farther down and to the right."""
        return Grid(self.shape, (self.center[0] + rows, self.center[1] + cols))


def outer(down: Array, across: Array) -> Array:
    """Return the products of two profiles; `numpy.outer` takes three times as long for so few."""
    return np.asarray(down[:, None] * across)


def unit(values: Array) -> Array:
    """Return values that add up to one."""
    total = float(values.sum())
    return values / total if total else values


def cut(positions: Array, reach: float) -> Array:
    """Return 1 up to a distance, 0 beyond."""
    return (np.abs(positions) <= reach + 1e-9).astype(np.float64)


def product(down: Array, across: Array) -> Array:
    """Return the product of two profiles, each of sum one."""
    return outer(unit(down), unit(across))


def bell(positions: Array, sigma: float, reach: float) -> Array:
    """Return a sampled Gaussian, cut off at a distance, of sum one."""
    values = np.exp(positions * positions * (-0.5 / sigma**2))
    values[np.abs(positions) > reach + 1e-9] = 0.0
    return unit(values)


def gaussian(grid: Grid, sigmas: tuple[float, float], reach: tuple[float, float]) -> Array:
    """Return a Gaussian along the axes, cut off to a rectangle."""
    y, x = grid.axes()
    return outer(bell(y, sigmas[0], reach[0]), bell(x, sigmas[1], reach[1]))


def turned_gaussian(grid: Grid, along: float, across: float, degrees: float) -> Array:
    """Return a sampled Gaussian whose long axis has an angle to the columns, towards the top."""
    t, s = turned(grid, degrees)
    return unit(np.exp(-0.5 * ((t / along) ** 2 + (s / across) ** 2)))


def turned(grid: Grid, degrees: float) -> tuple[Array, Array]:
    """Return the coordinates along a direction and across it; 90 degrees points to the top."""
    y, x = grid.axes()
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return c * x[None, :] - s * y[:, None], s * x[None, :] + c * y[:, None]


@functools.lru_cache(maxsize=4096)
def opencv_bell(size: int, sigma: float) -> tuple[int, ...]:
    """Return OpenCV's Gaussian for 8 bits: parts of 256, each rounding error handed on to the next tap."""
    taps = 256 * bell(np.arange(float(size)) - size // 2, sigma, size)
    half, error = [], 0.0
    for tap in taps[: size // 2]:
        half.append(round(tap + error))
        error += float(tap) - half[-1]
    return (*half, 256 - 2 * sum(half), *half[::-1])


def steps(positions: Array, taps: tuple[int, ...]) -> Array:
    """Lay a profile of odd length on positions that are whole numbers."""
    places = np.rint(positions).astype(np.intp) + len(taps) // 2
    inside = (places >= 0) & (places < len(taps))
    return np.where(inside, np.array(taps, dtype=np.float64)[np.clip(places, 0, len(taps) - 1)], 0.0)


def soft_box(positions: Array, width: float) -> Array:
    """Return a box that ends within a tap, which it then covers in part."""
    return np.clip(width / 2 + 0.5 - np.abs(positions), 0.0, min(1.0, width)) / width


def pillow_width(sigma: float, passes: int = 3) -> float:
    """Return the width of the boxes by which Pillow makes a Gaussian.

    P. Gwosdek, S. Grewenig, A. Bruhn, J. Weickert, "Theoretical foundations of Gaussian convolution by extended box
    filtering", SSVM 2011, equation 8, doi:10.1007/978-3-642-24785-9_38.
    """
    variance = sigma**2 / passes
    whole = math.floor((math.sqrt(12 * variance + 1) - 1) / 2)
    part = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance) / (6 * (variance - (whole + 1) ** 2))
    return 2 * (whole + part) + 1


def pillow_bell(positions: Array, sigma: float, passes: int = 3) -> Array:
    """Return a Gaussian as three boxes."""
    width = pillow_width(sigma, passes)
    reach = math.ceil(width / 2 + 0.5)
    one = soft_box(np.arange(-reach, reach + 1.0), width)
    whole = functools.reduce(np.convolve, [one] * passes)
    return steps(positions, tuple(whole.tolist()))


def pillow_noise(sigma: float) -> float:
    """Return the variance of a Gaussian's noise over that of rounding: Pillow rounds after each of six boxes."""
    width = pillow_width(sigma)
    reach = math.ceil(width / 2 + 0.5)
    one = soft_box(np.arange(-reach, reach + 1.0), width)
    two = np.convolve(one, one)
    alone, after, last = (float(np.sum(f * f)) for f in (one, two, np.convolve(two, one)))
    return (1 + alone + after) * (1 + last)


def binomial(positions: Array, order: int) -> Array:
    """Return the binomial coefficients of an order, over their sum, about their middle."""
    places = np.rint(positions + order / 2)
    inside = (places >= 0) & (places <= order)
    return np.where(inside, scipy.special.comb(order, np.clip(places, 0, order)), 0.0) / 2.0**order


@functools.lru_cache(maxsize=64)
def radius(grid: Grid) -> Array:
    """Return the distance of each tap from the centre."""
    y, x = grid.axes()
    return np.hypot(y[:, None], x[None, :])


def radial(grid: Grid, profile: Profile, reach: float) -> Array:
    """Return a profile of the distance from the centre, in a square window."""
    values = profile(radius(grid))
    return unit(values if reach > max(grid.shape) else values * outer(*(cut(axis, reach) for axis in grid.axes())))


def moffat(r: Array, alpha: float, beta: float) -> Array:
    """Return ``(1 + r^2 / alpha^2)^-beta``: A. Moffat, Astron. Astrophys. 3 (1969), 455."""
    return np.asarray((1 + (r / alpha) ** 2) ** -beta)


def airy(r: Array, first_zero: float) -> Array:
    """Return ``(2 J1(v) / v)^2``, the picture of a point behind a round aperture; J1's first zero is at 3.8317."""
    v = np.maximum(3.8317059702075125 * r / first_zero, 1e-9)
    return np.asarray((2 * scipy.special.j1(v) / v) ** 2)


def disc_area(grid: Grid, r: float) -> Array:
    """Return which share of each tap's square a circle covers, of sum one."""

    def corner(y: Array, x: Array) -> Array:  # the circle's area between its axes and a corner
        signs, y, x = np.sign(y) * np.sign(x), np.minimum(np.abs(y), r), np.minimum(np.abs(x), r)
        start = np.minimum(x, np.sqrt(r * r - y * y))

        def under(t: Array) -> Array:
            return 0.5 * (t * np.sqrt(np.maximum(r * r - t * t, 0.0)) + r * r * np.arcsin(np.minimum(t / r, 1.0)))

        return np.asarray(signs * (y * start + under(x) - under(start)))

    y, x = (np.append(axis, axis[-1] + 1) - 0.5 for axis in grid.axes())
    area = corner(y[:, None], x[None, :])
    return unit(area[1:, 1:] - area[1:, :-1] - area[:-1, 1:] + area[:-1, :-1])


def disc_ramp(grid: Grid, r: float) -> Array:
    """Return a disc whose rim falls linearly within a pixel, of sum one."""
    return unit(np.clip(r + 0.5 - radius(grid), 0.0, 1.0))


def line(grid: Grid, length: float, degrees: float, kind: str) -> Array:
    """Return the path of a point in uniform motion, of sum one.

    "rotated" is a row of ones that was turned with linear interpolation; "distance" falls linearly with the distance
    from the path; "bilinear" is the mean of the image moved along the path with linear interpolation; "pixel" is the
    share of the path in each tap's square.
    """
    t, s = turned(grid, degrees)
    half = length / 2
    if kind == "rotated":
        return unit(np.clip(1 - np.abs(s), 0.0, 1.0) * np.clip(half + 0.5 - np.abs(t), 0.0, 1.0))
    if kind == "distance":
        return unit(np.clip(1 - np.hypot(s, np.maximum(np.abs(t) - half + 0.5, 0.0)), 0.0, 1.0))
    # Both are integrals along the path of what is a polynomial of second degree between two crossings.
    axes, slopes = grid.axes(), (-math.sin(math.radians(degrees)), math.cos(math.radians(degrees)))
    lattice = 0.0 if kind == "bilinear" else 0.5
    ends = [np.array([-half, half])]
    for axis, slope in zip(axes, slopes, strict=True):
        if abs(slope) > 1e-9:
            ends.append((np.arange(axis[0] - 1, axis[-1] + 2) + lattice) / slope)
    at = np.unique(np.clip(np.concatenate(ends), -half, half))
    middle, width = (at[1:] + at[:-1]) / 2, np.diff(at) / 2
    nodes = np.concatenate([middle - width / math.sqrt(3), middle + width / math.sqrt(3)])
    weights = np.concatenate([width, width])
    shape = tent if kind == "bilinear" else functools.partial(cut, reach=0.5)
    down, across = (shape(axis[None, :] - slope * nodes[:, None]) for axis, slope in zip(axes, slopes, strict=True))
    return unit((down * weights[:, None]).T @ across)


def turned_row(grid: Grid, n: int, degrees: float, tool: str) -> Array:
    """Return a row of n ones in the middle of a square, which a tool turned with linear interpolation, of sum one.

    SciPy's "rotate" has nothing beyond the middle of the last pixel, Pillow's nothing beyond its edge. OpenCV's
    "warpAffine" falls linearly, and takes what lies at whole 32nds of a pixel; without these ("smooth") it is a line.
    """
    t, s = turned(grid, degrees)
    if tool == "opencv":
        (y, x), c = (axis + n // 2 for axis in grid.axes()), n // 2
        cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        down, across = np.rint(1024 * (cos * y + c - (cos + sin) * c)), np.rint(1024 * (c - (cos - sin) * c - sin * y))
        t = np.floor((across[:, None] + np.rint(1024 * cos * x) + 16) / 32) / 32 - c
        s = np.floor((down[:, None] + np.rint(1024 * sin * x) + 16) / 32) / 32 - c
    if tool in ("opencv", "smooth"):
        along = np.clip(n / 2 + 0.5 - np.abs(t), 0.0, 1.0)
    else:
        along = cut(t, n / 2 - 0.5 if tool == "scipy" else n / 2)
    return unit(np.clip(1 - np.abs(s), 0.0, 1.0) * along)


def ellipse(positions: tuple[Array, Array], sides: Shape) -> Array:
    """Return what OpenCV calls an ellipse of so many rows and columns, of sum one."""
    (y, x), (rows, cols) = positions, (n // 2 for n in sides)
    share = np.sqrt(np.maximum(rows * rows - y * y, 0.0)) / max(rows, 1)
    inside = (np.abs(y) <= rows)[:, None] & (np.abs(x)[None, :] <= np.rint(cols * share)[:, None])
    return unit(inside.astype(np.float64))


def drawn(grid: Grid, end: Shape) -> Array:
    """Return a line drawn pixel by pixel through the centre, from one end to its opposite, of sum one."""
    y, x = grid.axes()
    rows, cols = end
    if abs(rows) >= abs(cols):
        on = np.abs(x[None, :] - np.rint(y * cols / rows)[:, None]) < 0.5
        on &= (np.abs(y) <= abs(rows))[:, None]
    else:
        on = np.abs(y[:, None] - np.rint(x * rows / cols)[None, :]) < 0.5
        on &= (np.abs(x) <= abs(cols))[None, :]
    return unit(on.astype(np.float64))


def derivative(positions: Array, sigma: float, order: int, reach: float) -> Array:
    """Return a derivative of a Gaussian of sum one, order 0, 1 or 2, for convolution."""
    factor = [np.ones_like(positions), -positions / sigma**2, positions**2 / sigma**4 - 1 / sigma**2][order]
    return np.asarray(factor * bell(positions, sigma, reach))


def gaussian_laplace(grid: Grid, sigma: float, reach: float) -> Array:
    """Return the Laplacian of a Gaussian as the sum of two second derivatives along the axes."""
    y, x = (tuple(derivative(a, sigma, n, reach) for n in (0, 2)) for a in grid.axes())
    return outer(y[1], x[0]) + outer(y[0], x[1])


def sampled_log(grid: Grid, sigma: float, reach: float) -> Array:
    """Return the Laplacian of a Gaussian sampled on a square, less its mean there."""
    y, x = grid.axes()
    window = outer(cut(y, reach), cut(x, reach))
    r2 = radius(grid) ** 2
    bump = unit(np.exp(-0.5 * r2 / sigma**2) * window)
    taps = bump * (r2 - 2 * sigma**2) / sigma**4
    return np.asarray(taps - window * taps.sum() / max(1.0, window.sum()))


def tent(positions: Array) -> Array:
    """Return the weights of linear interpolation."""
    return np.asarray(np.maximum(1 - np.abs(positions), 0.0))


def cubic(positions: Array, a: float) -> Array:
    """Return the weights of cubic convolution: R. Keys, IEEE Trans. ASSP 29 (1981), doi:10.1109/TASSP.1981.1163711."""
    t = np.abs(positions)
    inner = ((a + 2) * t - (a + 3)) * t * t + 1
    outer = ((a * t - 5 * a) * t + 8 * a) * t - 4 * a
    return np.where(t <= 1, inner, np.where(t < 2, outer, 0.0))


def lanczos(positions: Array, lobes: int) -> Array:
    """Return the weights of a windowed sinc of so many lobes."""
    return np.asarray(np.sinc(positions) * np.sinc(positions / lobes) * (np.abs(positions) < lobes))


def _spline_basis(t: Array, order: int) -> Array:
    ends = np.arange(order + 2)
    powers = np.maximum(t[..., None] + (order + 1) / 2 - ends, 0.0) ** order
    return np.asarray(powers @ ((-1.0) ** ends * scipy.special.comb(order + 1, ends)) / math.factorial(order))


@functools.lru_cache(maxsize=8)
def _spline_inverse(order: int) -> Array:
    """Return what makes coefficients of pixels, from 24 pixels to one side to 24 to the other."""
    near, places = np.zeros(128), np.arange(-3, 4)
    near[places] = _spline_basis(places.astype(np.float64), order)
    return np.asarray(np.real(np.fft.ifft(1 / np.fft.fft(near)))[np.arange(-24, 25)])


def spline(positions: Array, order: int) -> Array:
    """Return the weights of interpolation by a spline: M. Unser, IEEE Signal Process. Mag. 16/6 (1999), 22."""
    whole = np.rint(positions[0])
    fine = _spline_basis(positions[0] - whole + np.arange(-3.0, 4.0), order)  # the basis at this fraction of a pixel
    weights = np.convolve(_spline_inverse(order), fine)
    at = np.rint(positions - positions[0] + whole).astype(np.intp) + len(weights) // 2
    return np.asarray(np.where((at >= 0) & (at < len(weights)), weights[np.clip(at, 0, len(weights) - 1)], 0.0))
