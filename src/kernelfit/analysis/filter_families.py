"""Families of filters: for each its name, its numbers, its taps, and where the search for its numbers begins."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from . import filter_shapes as shapes
from .filter_shapes import Grid

Array = npt.NDArray[np.float64]
Setting = tuple[Any, ...]
Start = tuple[Setting, tuple[float, ...]]
#: A kernel is f, b f, id + a (id - f), id + a f, or a id + b f, with id what leaves an image as it is.
UNIT, GAIN, BLEND, ADD, PLUS = "unit", "gain", "blend", "add", "plus"
SMOOTH, SLOPE = (UNIT, GAIN, BLEND, PLUS), (UNIT, GAIN, ADD, PLUS)
FAR = 10**6  #: a reach that cuts nothing off


class Hint(NamedTuple):
    """What is known before a family is tried: the Gaussian nearest to the kernel, and how far taps are not zero."""

    sigma: float
    along: float
    across: float
    degrees: float
    extent: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    origin: tuple[float, float] = (0.0, 0.0)
    cut: tuple[int, float] = (1, 1.0)  # where the best Gaussian is cut off, and its sigma
    cuts: tuple[tuple[int, float], ...] = ()  # the same along rows and columns, where they differ

    @property
    def rows(self) -> float:
        """The width along the rows' axis."""
        c, s = math.cos(math.radians(self.degrees)), math.sin(math.radians(self.degrees))
        return math.hypot(self.along * s, self.across * c)

    @property
    def cols(self) -> float:
        """The width along the columns' axis."""
        c, s = math.cos(math.radians(self.degrees)), math.sin(math.radians(self.degrees))
        return math.hypot(self.along * c, self.across * s)


@dataclasses.dataclass(frozen=True, eq=False)
class Family:
    """Filters that differ in numbers: `names` of those that are sought, a `Setting` of those that are tried."""

    name: str
    names: tuple[str, ...]
    taps: Callable[[Grid, Setting, Array], Array]
    starts: Callable[[Grid, Hint], Iterable[Start]]
    around: Callable[[Grid, Setting, Array], Iterable[Setting]] = lambda grid, setting, theta: ()
    known: Callable[[Setting, Array], dict[str, float]] = lambda setting, theta: {}
    modes: tuple[str, ...] = SMOOTH
    identity: Callable[[Grid, Setting, Array], Array] | None = None
    tries: int = 1  # starts, where some may end beside the best numbers
    constant: bool = False  # whether all starts are the same for every kernel
    parity: int = 1  # turned about the centre by 180 degrees it is itself (1), its negative (-1), or something else (0)


_NO_WIDTH = 0.35  # a Gaussian so narrow has a single tap
#: The tables that OpenCV has for sizes without a sigma, and the sigma that it says it would take.
OPENCV_TABLES = {(8, 28, 56, 72, 56, 28, 8): 1.4, (4, 13, 30, 51, 60, 51, 30, 13, 4): 1.7}


def scipy_reach(sigma: float) -> int:
    """Return where SciPy and scikit-image cut a Gaussian off."""
    return int(4 * sigma + 0.5)


def opencv_reach(sigma: float, eight_bits: bool = False) -> int:
    """Return where OpenCV cuts a Gaussian off."""
    return (round(sigma * (6 if eight_bits else 8) + 1) | 1) // 2


def _reaches(grid: Grid, sigma: float, extent: int = 0) -> list[int]:
    """Return where a Gaussian may be cut off: as tools do first."""
    found = [scipy_reach(sigma), opencv_reach(sigma), opencv_reach(sigma, True), FAR, extent, extent + 1]
    most = max(grid.reach())
    return list(dict.fromkeys(r if r <= most else FAR for r in found if r > 0))


def around_gaussian(grid: Grid, setting: Setting, theta: Array) -> list[Setting]:
    """Return where else a Gaussian may be cut off."""
    rows, cols = (_reaches(grid, float(s)) for s in (theta[0], theta[-1]))
    every = range(1, max(grid.reach()) + 1)
    if len(theta) == 1:
        return [(r, r) for r in (*rows, *every)]
    others = [(r, setting[1]) for r in every] + [(setting[0], r) for r in every]
    return [*itertools.product((*rows, setting[0]), (*cols, setting[1])), *others]


def gaussian_starts(grid: Grid, hint: Hint) -> list[Start]:
    """Begin with all cuts, and with sigmas from the hint upwards: a cut Gaussian looks narrower."""
    every = [*range(1, max(grid.reach())), FAR]
    return [
        ((r, r), (hint.sigma * f,)) for r in every for f in (0.7, 0.85, 1.0, 1.03, 1.06, 1.09, 1.12, 1.2, 1.5, 2.0, 3.0)
    ]


def axes_starts(grid: Grid, hint: Hint) -> list[Start]:
    """Begin with the widths of the hint, and with the cuts that tools make there."""
    rows, cols = hint.rows, hint.cols
    return [
        ((r, c), (rows * f, cols * g))
        for r in _reaches(grid, rows, hint.extent[0])
        for c in _reaches(grid, cols, hint.extent[1])
        for f, g in itertools.product((1.0, 1.5), repeat=2)
    ]


def along_starts(grid: Grid, hint: Hint) -> list[Start]:
    """Begin with the width along one axis, where there is hardly any along the other."""
    widths = [(hint.rows, hint.cols), (hint.cols, hint.rows)]
    return [
        ((r, axis), (f * own,))
        for axis, (own, other) in enumerate(widths)
        if other < _NO_WIDTH or grid.shape[1 - axis] == 1
        for r in _reaches(grid, own, hint.extent[axis])
        for f in (1.0, 1.1, 1.5)
    ]


def along(grid: Grid, setting: Setting, theta: Array) -> Array:
    """Return a Gaussian along one axis."""
    reach, axis = setting
    parts = [shapes.bell(a, theta[0], reach) if i == axis else shapes.cut(a, 0.25) for i, a in enumerate(grid.axes())]
    return shapes.outer(*parts)


def _tables(most: int, reach: int, near: float, wide: float, extent: int) -> dict[tuple[int, ...], tuple[float, float]]:
    """Return the tables of 256 parts near a Gaussian, each with the least and the largest sigma that make it."""
    if near < _NO_WIDTH:
        return {(256,): (0.0, 0.0)}
    found: dict[tuple[int, ...], list[float]] = {}
    for sigma in np.linspace((1 - wide) * near, (1 + wide) * near, 61).tolist():
        for r in {opencv_reach(sigma, True), reach - 1, reach, reach + 1, extent}:
            if 0 < r <= most:
                found.setdefault(shapes.opencv_bell(2 * r + 1, sigma), []).append(sigma)
    return {table: (min(s), max(s)) for table, s in found.items()} | {
        table: (sigma, sigma) for table, sigma in OPENCV_TABLES.items() if table in found
    }


def opencv_starts(grid: Grid, hint: Hint) -> list[Start]:
    """Return all tables of 256 parts near the best Gaussian, each with the simplest of the sigmas that make it."""
    if any(c % 1 for c in grid.center):
        return []
    most = grid.reach()
    if not hint.cuts:
        same = _tables(max(most), *hint.cut, 0.06, hint.extent[0])
        return [((table, table, simplest(*s), simplest(*s)), ()) for table, s in same.items()]
    rows, cols = (_tables(n, *cut, 0.04, extent) for n, cut, extent in zip(most, hint.cuts, hint.extent, strict=True))
    found: list[Start] = []
    for (down, s), (across, t) in itertools.product(rows.items(), cols.items()):
        low, high = max(s[0], t[0]), min(s[1], t[1])
        both = (simplest(low, high),) * 2 if low <= high else (simplest(*s), simplest(*t))
        found.append(((down, across, *both), ()))
    return found


def opencv_known(setting: Setting, theta: Array) -> dict[str, float]:
    """Return the sigma of two tables, or one for each."""
    rows, cols = setting[2:]
    if 0.0 in (rows, cols):
        return {"sigma": rows + cols, "axis": float(rows == 0.0)}
    return {"sigma": rows} if rows == cols else {"sigma_rows": rows, "sigma_cols": cols}


def simplest(low: float, high: float) -> float:
    """Return the number of fewest decimals between two, the one nearest to their middle."""
    every = (round((low + high) / 2, digits) for digits in range(8))
    return next((value for value in every if low <= value <= high), (low + high) / 2)


def box_starts(grid: Grid, hint: Hint) -> list[Start]:
    """Return all boxes about the centre."""
    sides = [
        [n for n in range(1, 2 * r + 3) if (n + 1) % 2 == round(2 * c) % 2 and n <= size]
        for r, c, size in zip(grid.reach(), grid.center, grid.shape, strict=True)
    ]
    return [((m, n), ()) for m, n in itertools.product(*sides) if m * n > 1]


def binomial_starts(grid: Grid, hint: Hint) -> list[Start]:
    """Return all binomial filters about the centre."""
    return [((m - 1, n - 1), ()) for (m, n), _ in box_starts(grid, hint) if max(m, n) > 2]


@functools.lru_cache(maxsize=32)
def _squares(grid: Grid) -> tuple[float, ...]:
    """Return the squared radii at which a binary disc grows."""
    y, x = grid.axes()
    r2 = np.unique((y**2)[:, None] + (x**2)[None, :])
    return tuple(r2[r2 <= min(grid.reach()) ** 2 + 2 * min(grid.reach()) + 1.01].tolist())


def radius_within(low: float, high: float) -> float:
    """Return the simplest radius of a disc: a whole number if one is between two squares, else their middle."""
    whole = math.ceil(math.sqrt(low) - 1e-9)
    return float(whole) if whole * whole < high else math.sqrt(low) / 2 + math.sqrt(high) / 2


def disc_starts(grid: Grid, hint: Hint) -> list[Start]:
    """Return all discs of whole taps, each as the squares between which its radius lies."""
    squares = _squares(grid)
    ends = [last + 1 for last in squares[-1:]]  # a centre far from all taps leaves none
    return [((a, b), ()) for a, b in itertools.pairwise((*squares, *ends)) if a >= 1]


def ring_starts(grid: Grid, hint: Hint) -> list[Start]:
    """Return the rings of whole taps, as the squares of the radii between which they lie."""
    squares = _squares(grid)
    return [((a, b), ()) for a, b in itertools.combinations(squares[: min(len(squares), 40)], 2) if b >= 1]


def ring(grid: Grid, setting: Setting, theta: Array) -> Array:
    """Return a ring of whole taps."""
    r2 = shapes.radius(grid) ** 2
    return shapes.unit(((r2 > setting[0] + 1e-9) & (r2 <= setting[1] + 1e-9)).astype(np.float64))


def soft_ring(grid: Grid, theta: Array) -> Array:
    """Return a ring whose rims cover taps in part."""
    inner, outer = float(min(theta)), float(max(theta))
    areas = [math.pi * r * r * shapes.disc_area(grid, r) for r in (inner, outer)]
    return shapes.unit(areas[1] - areas[0])


def line_starts(kind: str) -> Callable[[Grid, Hint], list[Start]]:
    """Begin with the length and direction of the hint."""

    def starts(grid: Grid, hint: Hint) -> list[Start]:
        length = math.sqrt(12) * hint.along
        if not hint.along > 1.15 * hint.across:
            return []
        turns = (0.0, -6.0, 6.0) if hint.along > 2 * hint.across else (0.0, -15.0, 15.0)
        return [((kind,), (length * f, hint.degrees + turn)) for f in (0.8, 1.0, 1.25) for turn in turns]

    return starts


def drawn_starts(grid: Grid, hint: Hint) -> list[Start]:
    """Return the ends of lines drawn pixel by pixel: one of each two that are opposite."""
    rows, cols = grid.reach()
    if any(c % 1 for c in grid.center):
        return []
    every = itertools.product(range(-rows, rows + 1), range(cols + 1))
    return [((r, c), ()) for r, c in every if (c > 0 or r > 0) and max(abs(r), c) > 0]


def row_starts(tool: str) -> Callable[[Grid, Hint], list[Start]]:
    """Begin with rows of ones about as long as the hint, that a tool turned."""

    def starts(grid: Grid, hint: Hint) -> list[Start]:
        if not hint.along > 1.5 * hint.across or any(c % 1 for c in grid.center):
            return []
        near = 2 * round((math.sqrt(12) * hint.along - 1) / 2) + 1
        return [((n, tool), (hint.degrees + turn,)) for n in (near, near - 2, near + 2) if n > 2 for turn in (0, -4, 4)]

    return starts


def row(grid: Grid, setting: Setting, theta: Array) -> Array:
    """Return a row of ones that a tool turned; what rounding of places does at an angle is taken for all near by."""
    n, tool, *at = setting
    taps = shapes.turned_row(grid, n, float(theta[0]), "smooth" if tool == "opencv" else tool)
    for angle in at:
        taps = taps + shapes.turned_row(grid, n, angle, tool) - shapes.turned_row(grid, n, angle, "smooth")
    return taps


def around_row(grid: Grid, setting: Setting, theta: Array) -> list[Setting]:
    """Return the angles near by where places may have been rounded: those of few decimals."""
    n, tool, *_ = setting
    return [(n, tool, round(float(theta[0]), digits)) for digits in (0, 1, 2)] if tool == "opencv" else []


def line_known(setting: Setting, theta: Array) -> dict[str, float]:
    """Return the length and the direction of a line that is drawn from an end to its opposite."""
    rows, cols = setting
    return {"length": 2.0 * math.hypot(rows, cols) + 1.0, "angle": _half_turn(math.degrees(math.atan2(-rows, cols)))}


def _half_turn(degrees: float) -> float:
    return 90.0 - (90.0 - degrees) % 180.0


def radial_starts(*scales: tuple[float, ...]) -> Callable[[Grid, Hint], list[Start]]:
    """Begin with widths near the hint, times a factor, and with further numbers, cut off nowhere."""

    def starts(grid: Grid, hint: Hint) -> list[Start]:
        every = itertools.product((0.7, 1.0, 1.4), scales)
        return [((FAR,), (hint.sigma * f * first, *rest)) for f, (first, *rest) in every]

    return starts


def around_reach(grid: Grid, setting: Setting, theta: Array) -> list[Setting]:
    """Return where else a filter may be cut off."""
    return [(r, *setting[1:]) for r in (FAR, *range(1, max(grid.reach()) + 1))]


def around_sigma(grid: Grid, setting: Setting, theta: Array) -> list[Setting]:
    """Return where else a filter made of a Gaussian may be cut off."""
    return [(r, *setting[1:]) for r in (*_reaches(grid, float(theta[0])), *range(1, max(grid.reach()) + 1))]


def slope(grid: Grid, setting: Setting, theta: Array) -> Array:
    """Return the derivative of a Gaussian, of an order along each axis."""
    reach, orders = setting
    down, across = (shapes.derivative(a, theta[0], n, reach) for a, n in zip(grid.axes(), orders, strict=True))
    return shapes.outer(down, across)


def slope_known(setting: Setting, theta: Array) -> dict[str, float]:
    """Return along which axis a derivative is, and of which order if it is not the first."""
    rows, cols = setting[1]
    if rows and cols:
        return {"order_rows": float(rows), "order_cols": float(cols)}
    order = {"order": float(rows + cols)} if rows + cols > 1 else {}
    return {"axis": float(cols > 0), **order}


def slope_starts(*orders: tuple[int, int]) -> Callable[[Grid, Hint], list[Start]]:
    """Begin with all widths, of all orders."""

    def starts(grid: Grid, hint: Hint) -> list[Start]:
        sigmas = [s for s in (0.5 * 2.0 ** (np.arange(17) / 4)).tolist() if s < max(grid.reach())]
        return [((r, order), (s,)) for s in sigmas for r in _reaches(grid, s) for order in orders]

    return starts


def log_starts(kind: str) -> Callable[[Grid, Hint], list[Start]]:
    """Begin with all widths."""

    def starts(grid: Grid, hint: Hint) -> list[Start]:
        return [((r, kind), s) for (r, _), s in slope_starts((1, 0))(grid, hint)]

    return starts


def log(grid: Grid, setting: Setting, theta: Array) -> Array:
    """Return the Laplacian of a Gaussian, of either kind."""
    function = shapes.gaussian_laplace if setting[1] == "axes" else shapes.sampled_log
    return function(grid, float(theta[0]), setting[0])


def dog(grid: Grid, setting: Setting, theta: Array) -> Array:
    """Return the difference of two Gaussians."""
    (low, high), reach = theta, setting
    return shapes.gaussian(grid, (low, low), (reach[0],) * 2) - shapes.gaussian(grid, (high, high), (reach[1],) * 2)


def dog_starts(grid: Grid, hint: Hint) -> list[Start]:
    """Begin with all widths and ratios."""
    every = itertools.product((0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0), (1.3, 1.6, 2.0, 3.0))
    most = max(grid.reach())
    pairs = [(low, low * f) for low, f in every if low < most]
    return [(tuple(r if r <= most else FAR for r in map(scipy_reach, pair)), pair) for pair in pairs]


def around_dog(grid: Grid, setting: Setting, theta: Array) -> list[Setting]:
    """Return where else the two may be cut off."""
    rules = [(*_reaches(grid, float(s)), r) for s, r in zip(theta, setting, strict=True)]
    return list(itertools.product(*rules))


def interpolated(grid: Grid, setting: Setting, theta: Array) -> Array:
    """Return the weights of an interpolation, for a shift by `theta` where that is sought."""
    kind, scales = setting[:2]
    y, x = grid.axes()
    weights: shapes.Profile
    if kind == "cubic":
        weights = functools.partial(shapes.cubic, a=setting[2] if len(setting) > 2 else theta[-1])
    else:
        table: dict[str, shapes.Profile] = {
            "linear": shapes.tent,
            "area": lambda t: shapes.soft_box(t * scales[0], scales[0]),
            "lanczos": functools.partial(shapes.lanczos, lobes=setting[-1]),
            "spline": functools.partial(shapes.spline, order=setting[-1]),
        }
        weights = table[kind]
    return shapes.product(weights(y / scales[0]), weights(x / scales[1]))


def shift_starts(*kinds: Setting) -> Callable[[Grid, Hint], list[Start]]:
    """Begin at the centre of mass, and beside it."""

    def starts(grid: Grid, hint: Hint) -> list[Start]:
        y, x = hint.origin
        near = [(y, x), (y - 0.2, x - 0.2), (y - 0.2, x + 0.2), (y + 0.2, x - 0.2), (y + 0.2, x + 0.2)]
        return [((kind[0], (1, 1), *kind[1:]), place) for place in near for kind in kinds]

    return starts


def shifted(grid: Grid, setting: Setting, theta: Array) -> Array:
    """Return the weights of an interpolation at a shift."""
    return interpolated(grid.moved(float(theta[0]), float(theta[1])), setting, theta[2:])


def resized_starts(*kinds: Setting) -> Callable[[Grid, Hint], list[Start]]:
    """Return interpolations at the scale of the stride, and at none."""

    def starts(grid: Grid, hint: Hint) -> list[Start]:
        if hint.stride == (1, 1):
            return []
        scales = [hint.stride, (1, 1)]
        free = {"cubic": (-0.6,)}
        return [((k[0], s, *k[1:]), free.get(k[0], ()) if len(k) == 1 else ()) for k in kinds for s in scales]

    return starts


def moving(family: Family) -> Family:
    """Return a family whose centre is sought, too."""

    def taps(grid: Grid, setting: Setting, theta: Array) -> Array:
        return family.taps(grid.moved(float(theta[-2]), float(theta[-1])), setting, theta[:-2])

    def starts(grid: Grid, hint: Hint) -> list[Start]:
        """Begin without a cut, at the centre of mass."""
        found = family.starts(grid, hint)
        return [(s, (*theta, *hint.origin)) for s, theta in found if not s or s[0] == FAR or isinstance(s[0], str)]

    return dataclasses.replace(
        family,
        names=(*family.names, "shift_rows", "shift_cols"),
        taps=taps,
        starts=starts,
        modes=(UNIT, GAIN),
        around=lambda grid, setting, theta: (),
        parity=0,
    )
